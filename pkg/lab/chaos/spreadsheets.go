package chaos

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// How often the list is handed in, and what happens before which of these times.
const (
	handIns   = 20
	wipedAt   = 6
	copiedAt  = 11
	restoreAt = 14
)

// spreadsheets hands one list in, again and again, as people do: under another
// name, sorted, shortened, with a row more, columns elsewhere, saved by another
// program, with batches, labels and contacts edited, ids left out or numbered anew.
// Meanwhile workers are killed, and JetStream is lost and put back. Before it all
// comes a pilot, in a folder of its own. Whatever is done, each set of names is paid
// for once.
func spreadsheets(ctx context.Context, s *site, run int) error {
	l := &lists{site: s, dice: s.dice("spreadsheets"), folder: filepath.Join(s.dir, "lists"), named: map[string]int{}}
	if err := os.Mkdir(l.folder, 0o700); err != nil {
		return err
	}
	s.sets = map[string]bool{}
	for range s.size.Orders {
		if err := l.insert(); err != nil {
			return err
		}
	}
	if err := l.pilot(ctx); err != nil {
		return err
	}
	copied := filepath.Join(s.dir, "copy")
	for n := range handIns {
		if err := l.disturb(ctx, n, run, copied); err != nil {
			return err
		}
		if n%3 == 1 {
			if err := l.insert(); err != nil {
				return err
			}
		}
		if err := l.handIn(ctx, n); err != nil {
			return err
		}
		if err := stream.Sleep(ctx, between(l.dice, 0, 2*s.size.For/handIns)); err != nil {
			return err
		}
	}
	s.tell("the whole list is handed in once more")
	return l.bring(ctx, sheet{name: "list.csv", rows: l.rows})
}

// disturb does what comes before the n-th time.
func (l *lists) disturb(ctx context.Context, n, run int, copied string) error {
	switch n {
	case wipedAt:
		return l.lose(ctx, "", run%2 == 1)
	case copiedAt:
		return l.snapshot(l.servers[0].what.Dir, copied)
	case restoreAt:
		return l.lose(ctx, copied, run%2 == 0)
	}
	if l.dice.IntN(2) == 0 {
		return l.killWorker(pick(l.dice, l.workers))
	}
	return nil
}

// lists is one list and all the ways in which somebody saves it.
type lists struct {
	*site
	dice   *rand.Rand
	folder string
	rows   []order.Request // every one that ever stood in it; some with an id
	named  map[string]int  // how many name an instance, by account
}

// insert puts one more row in somewhere.
func (l *lists) insert() error {
	n := len(l.rows)
	name := fmt.Sprintf("sheet-%d.example.com", n)
	r := order.Request{Names: []string{name}, Account: l.labels[n%len(l.labels)], Batch: "chaos"}
	switch l.dice.IntN(8) {
	case 0:
		r.Account = order.AnyAccount
	case 1:
		r.Names = append(r.Names, "b."+name, "a."+name)
	case 2:
		_, csr, _, err := certstore.NewKey("ecdsa-p256", r.Names, true)
		if err != nil {
			return err
		}
		r.CSR = csr
	case 3:
		r.Validation = order.FILE
	case 4, 5:
		r.ID = fmt.Sprintf("shop-%d", n)
	case 6:
		if n := l.named[r.Account]; strings.HasPrefix(r.Account, "ali") && n < instancesEach { // a claim there, too
			r.Resource = instanceID(r.Account, n)
			l.named[r.Account]++
		}
	}
	l.rows = slices.Insert(l.rows, l.dice.IntN(n+1), r)
	l.sets[names(r.Names)] = true
	return nil
}

// sheet is a list as somebody has saved it.
type sheet struct {
	name     string
	rows     []order.Request
	columns  func([]string) // brings the columns into another order; nil: none
	windows  bool           // as spreadsheet programs save it there: BOM, CRLF, every cell in quotes
	numbered bool           // the ids are the numbers of the rows
}

// handIn saves the list in another way and hands it in.
func (l *lists) handIn(ctx context.Context, n int) error {
	d := l.dice
	titles := []string{"list.csv", "list (1).csv", "Kopie von list.csv", "LIST-final.CSV", "list.jsonl", "list.yaml"}
	sh := sheet{name: pick(d, titles), rows: slices.Clone(l.rows), windows: d.IntN(2) == 0, numbered: n%7 == 5}
	if d.IntN(2) == 0 {
		sh.columns = func(all []string) { d.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) }
	}
	switch d.IntN(4) {
	case 0:
		slices.SortFunc(sh.rows, func(a, b order.Request) int { return strings.Compare(a.Names[0], b.Names[0]) })
	case 1:
		slices.Reverse(sh.rows)
	case 2:
		d.Shuffle(len(sh.rows), func(i, j int) { sh.rows[i], sh.rows[j] = sh.rows[j], sh.rows[i] })
	}
	if d.IntN(4) == 0 {
		sh.rows = sh.rows[:len(sh.rows)/2]
	}
	withoutIDs := d.IntN(5) == 0
	for i := range sh.rows {
		sh.rows[i] = l.edited(sh.rows[i], n)
		switch {
		case sh.numbered:
			sh.rows[i].ID = fmt.Sprintf("row-%d", i+1)
		case withoutIDs:
			sh.rows[i].ID = ""
		}
	}
	if twin := sh.rows[0]; d.IntN(3) == 0 { // one of the two is refused
		twin.ID, twin.Batch = "", "another"
		sh.rows = append(sh.rows, twin)
	}
	if d.IntN(4) == 0 {
		return l.blind(ctx, sh)
	}
	return l.bring(ctx, sh)
}

// edited is a row in which somebody has changed what buys nothing else.
func (l *lists) edited(r order.Request, n int) order.Request {
	r.Names = slices.Clone(r.Names)
	l.dice.Shuffle(len(r.Names), func(i, j int) { r.Names[i], r.Names[j] = r.Names[j], r.Names[i] })
	switch l.dice.IntN(6) {
	case 0:
		r.Batch = fmt.Sprintf("batch-%d", n)
	case 1:
		r.Labels = map[string]string{"team": fmt.Sprint(n)}
	case 2:
		r.Contact = order.Contact{Name: "Li Wei", Email: fmt.Sprintf("pki-%d@example.com", n)}
	case 3:
		r.Names[0] = strings.ToUpper(r.Names[0]) + "."
	}
	return r
}

// bring hands a list in with certmill's own command.
func (l *lists) bring(ctx context.Context, sh sheet) error {
	path, err := l.save(sh)
	if err != nil {
		return err
	}
	batch, err := app.ReadFiles("", path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var sum app.Summary
	err = l.await(ctx, time.Minute, "the list is handed in", func(ctx context.Context) error {
		console, err := app.OpenConsole(ctx, l.cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer console.Close()
		sum, err = console.Order(ctx, batch, unseen{}, false, false)
		return err
	})
	if err != nil {
		return err
	}
	refused := map[string]bool{} // those whose id another order has
	for _, b := range sum.Bad[len(batch.Bad):] {
		if refused[b.ID] = true; b.Why == "" || !sh.numbered {
			l.complain("line %d of %s is refused: %q", b.Line, path, b.Why)
		}
	}
	for _, b := range batch.Bad {
		if !strings.Contains(b.Why, "the same names are in line") {
			l.complain("line %d of %s is no order: %s", b.Line, path, b.Why)
		}
	}
	for _, r := range batch.Requests {
		if !refused[r.ID] {
			l.books.ack(r)
		}
	}
	l.count(func(r *Report) { r.Lists++ })
	return nil
}

// blind publishes a list as any NATS client can, who knows of no other order.
func (l *lists) blind(ctx context.Context, sh sheet) error {
	if sh.numbered { // some would be refused, and which depends on the moment
		return l.bring(ctx, sh)
	}
	for _, r := range sh.rows {
		if err := l.site.handIn(ctx, r); err != nil {
			return err
		}
		if r = r.Normal(); r.ID == "" {
			r.ID = r.DerivedID()
		}
		l.books.ack(r)
	}
	l.count(func(r *Report) { r.Lists++ })
	return nil
}

// save writes a list in the format that its name tells.
func (l *lists) save(sh sheet) (path string, err error) {
	path = filepath.Join(l.folder, sh.name)
	var data []byte
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv":
		data, err = sh.csv()
	case ".yaml":
		data, err = yaml.Marshal(sh.rows)
	default:
		var b bytes.Buffer
		lines := json.NewEncoder(&b)
		for _, r := range sh.rows {
			if err = lines.Encode(r); err != nil {
				return "", err
			}
		}
		data = b.Bytes()
	}
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, data, 0o600)
}

// cells are the columns of a list, and what stands in them.
var cells = map[string]func(order.Request) string{
	"id":         func(r order.Request) string { return r.ID },
	"names":      func(r order.Request) string { return strings.Join(r.Names, "; ") },
	"account":    func(r order.Request) string { return r.Account },
	"validation": func(r order.Request) string { return string(r.Validation) },
	"csr":        func(r order.Request) string { return r.CSR },
	"resource":   func(r order.Request) string { return r.Resource },
	"batch":      func(r order.Request) string { return r.Batch },
	"labels": func(r order.Request) string {
		if r.Labels == nil {
			return ""
		}
		return "team=" + r.Labels["team"]
	},
	"contact_name":  func(r order.Request) string { return r.Contact.Name },
	"contact_email": func(r order.Request) string { return r.Contact.Email },
}

func (sh sheet) csv() ([]byte, error) {
	header := []string{"names", "account", "id", "validation", "csr", "resource", "batch", "labels",
		"contact_name", "contact_email"}
	if sh.columns != nil {
		sh.columns(header)
	}
	table := [][]string{header}
	for _, r := range sh.rows {
		var row []string
		for _, column := range header {
			row = append(row, cells[column](r))
		}
		table = append(table, row)
	}
	if sh.windows {
		return quoted(table), nil
	}
	var b bytes.Buffer
	err := csv.NewWriter(&b).WriteAll(table)
	return b.Bytes(), err
}

// quoted is a table with a BOM, CRLF and every cell in quotes, and an empty row at
// the end.
func quoted(table [][]string) []byte {
	var b bytes.Buffer
	b.WriteString("\ufeff")
	for _, row := range table {
		for i, cell := range row {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`"` + strings.ReplaceAll(cell, `"`, `""`) + `"`)
		}
		b.WriteString("\r\n")
	}
	b.WriteString(strings.Repeat(",", len(table[0])-1) + "\r\n")
	return b.Bytes()
}

// pilot has some of the names ordered on simulated clouds first, in a folder of its
// own, as one does who tries certmill out. Real accounts in that folder, or with its
// key store, are refused.
func (l *lists) pilot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var tried sheet
	for _, r := range l.rows[:min(4, len(l.rows))] {
		tried.rows = append(tried.rows, order.Request{Names: r.Names})
	}
	tried.name = "pilot.csv"
	path, err := l.save(tried)
	if err != nil {
		return err
	}
	c := app.Defaults()
	c.State = filepath.Join(l.dir, "pilot")
	c.Keys.Store, c.Deliver.Directory = filepath.Join(c.State, "keys"), filepath.Join(c.State, "certs")
	c.DCV.Files, c.DCV.Copy = filepath.Join(c.State, "files"), filepath.Join(c.State, "placed")
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	l.tell("a pilot on simulated clouds")
	sum, err := app.Run(ctx, app.RunOptions{Config: c, Files: []string{path}, Log: log, View: unseen{}})
	if err != nil || sum.Issued != len(tried.rows) {
		return fmt.Errorf("the pilot issued %d of %d: %w", sum.Issued, len(tried.rows), err)
	}
	c.Accounts = l.cfg.Accounts
	if _, err := app.Run(ctx, app.RunOptions{Config: c, Files: []string{path}, Log: log, View: unseen{}}); err == nil {
		l.complain("real accounts worked in the pilot's folder")
	}
	real := l.cfg
	real.Keys.Store = c.Keys.Store
	if _, err := app.NewProcess(real, "pilot", false, log, order.Submitter); err == nil {
		l.complain("a submitter took the pilot's key store")
	}
	return nil
}

// unseen is a run that nobody looks at.
type unseen struct{}

func (unseen) Started(app.Where)             {}
func (unseen) Planned([]app.Step, app.Batch) {}
func (unseen) HandedIn(int, int)             {}
func (unseen) Moved(app.Progress)            {}
func (unseen) Ended(app.Summary)             {}
