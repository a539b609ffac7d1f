package hook

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/redact"
)

// ProgramConfig says which program is run.
type ProgramConfig struct {
	// Command is the program's absolute path and its arguments. No shell reads
	// them.
	Command []string
	// Env names the variables of this process that the program gets besides PATH,
	// HOME and LANG. It gets no others: they hold the secrets of the clouds.
	Env     []string
	Zones   []string      // what the program is told as "zone"
	Timeout time.Duration // of one run; default 60 s
}

// atOnce bounds how many programs run at the same time; for one zone, half as
// many.
const atOnce = 16

// Check refuses what can be no program, on whatever machine.
func (c ProgramConfig) Check() error {
	if len(c.Command) == 0 || !filepath.IsAbs(c.Command[0]) {
		return fmt.Errorf("command is %q: write a list, of which the first is the absolute path of the program and the others are its arguments", c.Command)
	}
	return nil
}

// NewProgram returns the solver. Nothing is run.
func NewProgram(cfg ProgramConfig) (dcv.Solver, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if info, err := os.Stat(cfg.Command[0]); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("command: %s is no program that can be run (%v); write the path of an executable file", cfg.Command[0], err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	for _, name := range cfg.Env { // what the program logs in with
		redact.Learn(os.Getenv(name))
	}
	p := program{cfg: cfg, places: dcv.NewPlaces(atOnce)}
	return newSolver(cfg.Zones, p.ask), nil
}

type program struct {
	cfg    ProgramConfig
	places *dcv.Places // by zone: that the program hangs over one need not hold up others
}

func (p program) ask(ctx context.Context, r request) error {
	leave, err := p.places.Take(ctx, cmp.Or(r.Zone, domain(r.Name)))
	if err != nil {
		return err
	}
	defer leave()
	in, err := json.Marshal(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	said := &head{max: maxHeard}
	err = p.command(ctx, in, said).Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) { // it ended well, and left a child with its standard error
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s did not end %s of %s in time and was stopped: %w", p.cfg.Command[0], r.Action, r.Name, ctx.Err())
	}
	failed := fmt.Errorf("%s, %s of %s: %w; %s", p.cfg.Command[0], r.Action, r.Name, err, told(said.b.Bytes()))
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if kind, ok := exitKinds[exit.ExitCode()]; ok {
			return fmt.Errorf("%w: %w", kind, failed)
		}
	}
	return failed
}

// domain is the registrable one in which a name lies, where no zone was
// configured.
func domain(name string) string {
	if d, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return d
	}
	return name
}

// command is in a process group of its own: what the program has started ends
// with it.
func (p program) command(ctx context.Context, in []byte, said *head) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.cfg.Command[0], p.cfg.Command[1:]...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(append(in, '\n')), said
	cmd.Dir = "/"
	cmd.Env = []string{}
	for _, name := range append([]string{"PATH", "HOME", "LANG"}, p.cfg.Env...) {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // a child that keeps standard error open
	return cmd
}

// exitKinds are the exit statuses for which only a person can help (sysexits.h).
var exitKinds = map[int]dcv.Kind{65: dcv.Denied, 68: dcv.NoZone, 73: dcv.Conflict, 77: dcv.Denied}

// head keeps the beginning of what is written.
type head struct {
	max int
	b   bytes.Buffer
}

func (h *head) Write(p []byte) (int, error) {
	h.b.Write(p[:min(len(p), h.max-h.b.Len())])
	return len(p), nil
}
