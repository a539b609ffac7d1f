package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/gap"
	"github.com/certmill/certmill/pkg/order"
)

// childEnv tells a process that it is a worker or a server of a battery, and
// which.
const childEnv = "CERTMILL_CHAOS_CHILD"

// child is what such a process is to do.
type child struct {
	// A worker:
	Role   order.Role `json:",omitempty"`
	Config string     `json:",omitempty"`
	Freeze uint64     `json:",omitempty"` // not 0: seed of where it freezes among the gaps of its effects
	Share  share      `json:",omitzero"`  // of these gaps
	// A server, one of a cluster if it has routes:
	Name   string   `json:",omitempty"`
	Host   string   // its address, and that of its routes
	Port   int      `json:",omitempty"`
	Route  int      `json:",omitempty"`
	Routes []string `json:",omitempty"`
	Dir    string   `json:",omitempty"`
}

// Child runs this process as a worker or a server if a battery started it as
// one, until it is stopped, and tells whether it did. A program that calls Run
// MUST call Child first: Run starts the program's own executable again, as
// processes that can be killed.
func Child() bool {
	v := os.Getenv(childEnv)
	if v == "" {
		return false
	}
	var c child
	err := json.Unmarshal([]byte(v), &c)
	if err == nil {
		go func() { // the battery died: nobody would end this process
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		if c.Role != "" {
			err = c.work(ctx)
		} else {
			err = c.serve(ctx)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
	return true
}

// work is what certmill work does.
func (c child) work(ctx context.Context) error {
	cfg, err := app.Load(c.Config)
	if err != nil {
		return err
	}
	if c.Freeze != 0 {
		f := &freezer{dice: rand.New(rand.NewPCG(c.Freeze, 1)), share: c.Share, seen: map[string]int{}}
		ctx = gap.With(ctx, func(_ context.Context, name string) { f.at(name) })
	}
	return app.Work(ctx, cfg, c.Role)
}

// gapMark begins the line by which a worker says where it freezes.
const gapMark = "frozen at "

// freezer stops the whole process at its share of the gaps of a purchase: always
// where it was not stopped yet, and less and less often where it was, so that it
// comes to those that lie behind, too.
type freezer struct {
	mu   sync.Mutex
	dice *rand.Rand
	share
	seen map[string]int // by gap: how often it was stopped there
	last time.Time
}

// share is one part of so many.
type share struct{ Part, Of uint64 }

func (s share) has(name string) bool { return seedOf(0, name, 0)%s.Of == s.Part }

func (f *freezer) at(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.seen[name]
	// "move: " is every transition's gap and no purchase's own.
	if strings.HasPrefix(name, "move: ") || !f.has(name) || time.Since(f.last) < 500*time.Millisecond || f.dice.IntN(1<<min(n, 4)) > 0 {
		return
	}
	f.seen[name]++
	// Whoever reads the line lets the process go on some seconds later.
	_, _ = fmt.Println(gapMark + name)
	freezeSelf()
	f.last = time.Now()
}

// serve runs a nats-server that answers nothing before it is on disk.
func (c child) serve(ctx context.Context) error {
	o := &server.Options{ServerName: c.Name, Host: c.Host, Port: c.Port, NoSigs: true, LogFile: c.Dir + ".log",
		JetStream: true, StoreDir: c.Dir, SyncAlways: true, JetStreamMaxMemory: 256 << 20, JetStreamMaxStore: 16 << 30}
	if len(c.Routes) > 0 {
		o.Cluster = server.ClusterOpts{Name: "chaos", Host: c.Host, Port: c.Route}
		for _, r := range c.Routes {
			u, err := url.Parse(r)
			if err != nil {
				return err
			}
			o.Routes = append(o.Routes, u)
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		return errors.New("the server does not become ready")
	}
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// process is a child that is started again whenever it ends without having
// been told to, as any supervisor would.
type process struct {
	name    string
	what    child
	program string            // executable; empty: this program's own
	log     string            // file that stderr is appended to
	line    func(line string) // hears stdout, if not nil

	mu     sync.Mutex // guards all below
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended
	wanted bool
	exits  int // unexpected ends
	lives  []life
}

// life is one run of a process.
type life struct {
	pid     int
	program string
}

// start starts the process, and again if it ends by itself.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = true
	return p.spawn()
}

// spawn starts it. The caller holds mu.
func (p *process) spawn() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	self = cmp.Or(p.program, self)
	v, err := json.Marshal(p.what)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+string(v))
	cmd.Stderr, cmd.WaitDelay = out, 5*time.Second
	if p.line != nil {
		cmd.Stdout = &lines{to: p.line}
	}
	stdin, err := cmd.StdinPipe() // open as long as this process lives
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.lives = cmd, ended, append(p.lives, life{cmd.Process.Pid, p.program})
	go func() {
		defer stdin.Close()
		_ = cmd.Wait()
		close(ended)
		p.again(cmd)
	}()
	return nil
}

// again starts a process that ended by itself.
func (p *process) again(was *exec.Cmd) {
	p.mu.Lock()
	unexpected := p.wanted && p.cmd == was
	if unexpected {
		p.exits++
	}
	p.mu.Unlock()
	if !unexpected {
		return
	}
	time.Sleep(500 * time.Millisecond)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted && p.cmd == was {
		_ = p.spawn()
	}
}

// ends is how often it ended without having been told to.
func (p *process) ends() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exits
}

// past are all its runs.
func (p *process) past() []life {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lives)
}

// end takes the process down with a signal and waits until it is gone, killing
// it if it takes too long.
func (p *process) end(sig os.Signal, within time.Duration) {
	p.mu.Lock()
	p.wanted = false
	cmd, ended := p.cmd, p.ended
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(sig)
	if sig != os.Kill {
		_ = resume(cmd.Process) // or it would not hear it
	}
	select {
	case <-ended:
		return
	case <-time.After(within):
	}
	_ = cmd.Process.Kill()
	<-ended
}

// kill is kill -9. It returns when the process is gone.
func (p *process) kill() { p.end(os.Kill, time.Second) }

// freeze stops the process where it is, thaw lets it go on.
func (p *process) freeze() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return suspend(p.cmd.Process)
}

func (p *process) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = resume(p.cmd.Process)
}

// lines cuts what is written to it into lines.
type lines struct {
	to   func(string)
	rest []byte
}

func (l *lines) Write(b []byte) (int, error) {
	for _, c := range b {
		if c != '\n' {
			l.rest = append(l.rest, c)
			continue
		}
		l.to(string(l.rest))
		l.rest = l.rest[:0]
	}
	return len(b), nil
}

func logFile(dir, name string) string { return filepath.Join(dir, name+".log") }
