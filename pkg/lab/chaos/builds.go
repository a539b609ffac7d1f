package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// edit is what the next build has more than this one: fields of its own in
// everything that is stored, at every depth, and a line in the log wherever it
// has stored one. The texts are exact.
type edit struct{ file, old, new string }

const nextField = "\tNextBuild string `json:\"next_build,omitempty\"`\n"

var nextBuild = []edit{
	{"pkg/order/order.go", "type Order struct {\n", "type Order struct {\n" + nextField},
	{"pkg/order/order.go", "type Event struct {\n", "type Event struct {\n" + nextField},
	{"pkg/order/order.go", "func (o *Order) Tell(e Event) {\n", "func (o *Order) Tell(e Event) {\n\te.NextBuild, o.NextBuild = \"event\", \"order\"\n"},
	{"pkg/ledger/entry.go", "type Attempt struct {\n", "type Attempt struct {\n" + nextField},
	{"pkg/ledger/entry.go", "type Entry struct {\n", "type Entry struct {\n" + nextField},
	{"pkg/ledger/ledger.go", "\ta.Token = crand.Text()\n", "\ta.Token = crand.Text()\n\ta.NextBuild, e.NextBuild = \"attempt\", \"entry\"\n"},
	{"pkg/ledger/ledger.go", "\treturn stored, last, nil\n", "\tprintln(\"next build opened\", a.Order, a.Attempt)\n\treturn stored, last, nil\n"},
	{"pkg/account/account.go", "type State struct {\n", "type State struct {\n" + nextField},
	{"pkg/account/account.go", "\t\ts.V = version\n", "\t\ts.V, s.NextBuild = version, \"state\"\n"},
	{"pkg/account/account.go", "\ta.set(main, s, v.Seq) // at once", "\tprintln(\"next build changed\", main)\n\ta.set(main, s, v.Seq) // at once"},
}

// twoBuilds works with two builds of one format side by side, and rolls each
// worker forth to the other build and back, while orders are in every state.
// What the one writes the other must keep (judged by kept).
func twoBuilds(ctx context.Context, s *site, _ int) error {
	next, err := s.buildNext(ctx)
	if err != nil {
		return err
	}
	all, err := s.requests(s.size.Orders, "builds")
	if err != nil {
		return err
	}
	return s.while(ctx, all, func(ctx context.Context) error {
		dice := s.dice("builds")
		for {
			for _, i := range dice.Perm(len(s.workers)) {
				if stream.Sleep(ctx, between(dice, 500*time.Millisecond, 2*time.Second)) != nil {
					return nil
				}
				if err := s.roll(s.workers[i], next); err != nil {
					return err
				}
			}
		}
	})
}

// roll stops a worker as a deployment does and starts it as the other build.
func (s *site) roll(p *process, next string) error {
	p.end(syscall.SIGTERM, 40*time.Second)
	if p.program == "" {
		p.program = next
	} else {
		p.program = ""
	}
	s.count(func(r *Report) { r.Rolls++ })
	return p.start()
}

// buildNext builds the next build of this very source tree; the go command is
// told to read edited files in place of the real ones.
func (s *site) buildNext(ctx context.Context) (string, error) {
	s.tell("building the next build")
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("the battery needs the source tree and the go command: %w", err)
	}
	dir := strings.TrimSpace(string(root))
	overlay, err := overlayOf(dir, s.dir)
	if err != nil {
		return "", err
	}
	program := filepath.Join(s.dir, "next-build")
	build := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-o", program, "./cmd/certmill")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the next build: %w\n%s", err, out)
	}
	return program, nil
}

// overlayOf writes the edited files and the list of them that the go command
// reads.
func overlayOf(root, dir string) (string, error) {
	edited := map[string]string{} // by file
	for _, e := range nextBuild {
		text, begun := edited[e.file]
		if !begun {
			data, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return "", err
			}
			text = string(data)
		}
		if strings.Count(text, e.old) != 1 {
			return "", fmt.Errorf("%s does not have exactly once: %q", e.file, e.old)
		}
		edited[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	replace := map[string]string{}
	for file, text := range edited {
		path := filepath.Join(dir, strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, file)] = path
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	path := filepath.Join(dir, "overlay.json")
	return path, errors.Join(err, os.WriteFile(path, data, 0o600))
}

// kept judges whether what the next build wrote is still there, whoever wrote
// the record last. Without a next build there is nothing to judge.
func (v *verdict) kept(ctx context.Context) error {
	if v.did.Rolls == 0 {
		return nil
	}
	said, err := v.nextBuildSaid()
	if err != nil {
		return err
	}
	k := keeping{verdict: v, next: v.workerNames(true), this: v.workerNames(false), said: said}
	err = errors.Join(
		v.eachRaw(ctx, pipeline.OrdersStream, "order.>", k.order),
		v.eachRaw(ctx, ledger.StreamName, "spend.>", k.entry),
		v.eachRaw(ctx, account.StreamName, ">", k.state),
	)
	if k.events == 0 || k.attempts == 0 || k.states == 0 {
		v.problem("of the next build's %d events, %d attempts and %d states were found: the battery has tried nothing", nil, k.events, k.attempts, k.states)
	}
	return err
}

func (v *verdict) eachRaw(ctx context.Context, name, filter string, f func(stream.Message) error) error {
	s, err := v.js.Stream(ctx, name)
	if err != nil {
		return err
	}
	return stream.Read(ctx, s, filter, 0, f)
}

// keeping is the judging of what two builds have kept for each other.
type keeping struct {
	*verdict
	next, this               []string        // names of workers
	said                     map[string]bool // what the next build has stored, by its own log
	events, attempts, states int             // of the next build, that were found
}

func (k *keeping) order(m stream.Message) error {
	var o struct {
		Request   struct{ ID string }
		NextBuild string `json:"next_build"`
		Timeline  []struct {
			Worker    string
			Note      string
			NextBuild string `json:"next_build"`
		}
	}
	if err := json.Unmarshal(m.Data, &o); err != nil {
		return err
	}
	touched := false
	for _, e := range o.Timeline {
		byNext := slices.Contains(k.next, e.Worker)
		if byNext {
			k.events++
			touched = true
		}
		if byNext && e.NextBuild != "event" || slices.Contains(k.this, e.Worker) && e.NextBuild != "" {
			k.problem("order %s: the event %q of %s has next_build %q", []string{o.Request.ID}, o.Request.ID, e.Note, e.Worker, e.NextBuild)
		}
	}
	if touched && o.NextBuild != "order" {
		k.problem("order %s has lost the field of the next build", []string{o.Request.ID}, o.Request.ID)
	}
	return nil
}

func (k *keeping) entry(m stream.Message) error {
	var e struct {
		Names     []string
		NextBuild string `json:"next_build"`
		Attempts  []struct {
			Order     string
			Attempt   int
			NextBuild string `json:"next_build"`
		}
	}
	if err := json.Unmarshal(m.Data, &e); err != nil {
		return err
	}
	for _, a := range e.Attempts {
		if !k.said[fmt.Sprint("next build opened ", a.Order, " ", a.Attempt)] {
			continue
		}
		k.attempts++
		if a.NextBuild != "attempt" || e.NextBuild != "entry" {
			k.problem("the ledger's entry of %v has lost what the next build wrote: entry %q, attempt %d of %s %q", []string{a.Order},
				e.Names, e.NextBuild, a.Attempt, a.Order, a.NextBuild)
		}
	}
	return nil
}

func (k *keeping) state(m stream.Message) error {
	var s struct {
		NextBuild string `json:"next_build"`
	}
	_, key, _ := strings.Cut(m.Subject, "."+account.Bucket+".")
	if !k.said["next build changed "+key] {
		return nil
	}
	k.states++
	if err := json.Unmarshal(m.Data, &s); err != nil || s.NextBuild != "state" {
		k.problem("the state at %s has lost the field of the next build: %q (%v)", nil, m.Subject, s.NextBuild, err)
	}
	return nil
}

// nextBuildSaid are the lines that the next build wrote into the workers' logs.
func (v *verdict) nextBuildSaid() (map[string]bool, error) {
	said := map[string]bool{}
	for _, p := range v.workers {
		data, err := os.ReadFile(p.log)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			if strings.HasPrefix(line, "next build ") {
				said[strings.TrimSpace(line)] = true
			}
		}
	}
	return said, nil
}

// workerNames are the names under which the workers of one of the builds stand
// in the orders' timelines.
func (v *verdict) workerNames(next bool) (all []string) {
	host, _ := os.Hostname() // the workers ask the same
	for _, p := range v.workers {
		for _, l := range p.past() {
			if (l.program != "") == next {
				all = append(all, fmt.Sprintf("%s-%s-%d", host, p.what.Role, l.pid))
			}
		}
	}
	return all
}
