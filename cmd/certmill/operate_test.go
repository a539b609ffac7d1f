package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/app"
)

// TestLimitIsAWholeNumber: what is no whole number of calls is refused before anything
// is asked, with what to write.
func TestLimitIsAWholeNumber(t *testing.T) {
	for _, text := range []string{"0.0001", "1e9", "many", "99999999999999999999"} {
		var n calls
		if err := n.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "write a whole number of calls a second") {
			t.Errorf("%s: %v", text, err)
		}
	}
	var c cli
	if _, err := newParser(t.Context(), &c).Parse([]string{"limit", "ali", "Buy", "0.5"}); err == nil || !strings.Contains(err.Error(), "write a whole number") {
		t.Errorf("the command: %v", err)
	}
	if _, err := newParser(t.Context(), &c).Parse([]string{"limit", "ali", "Buy", "7"}); err != nil || c.Limit.Calls != 7 {
		t.Errorf("%v, %d", err, c.Limit.Calls)
	}
}

// TestRestoredWhereARunWas: in the folder where a run keeps its state, with and
// without a certmill.yaml, while none works; where no run was it says so.
func TestRestoredWhereARunWas(t *testing.T) {
	for _, name := range []string{"CERTMILL_CONFIG", "CERTMILL_NATS"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	t.Chdir(t.TempDir())
	if _, err := execute(t, "restored"); err == nil || !strings.Contains(err.Error(), "no certmill run has worked in the state folder") {
		t.Errorf("before any run: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	cfg, err := app.Load("")
	if err != nil {
		t.Fatal(err)
	}
	cfg.NATS.Listen = "127.0.0.1:0"
	ran := make(chan error, 1)
	view := started{make(chan struct{})}
	go func() {
		_, err := app.Run(ctx, app.RunOptions{Config: cfg, Log: app.NewLogger(io.Discard, "error"), View: view})
		ran <- err
	}()
	select {
	case <-view.c:
	case err := <-ran:
		t.Fatal(err)
	}
	stop()
	if err := <-ran; err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for _, yaml := range []string{"", "nats: {listen: \"127.0.0.1:0\"}\n"} {
		if yaml != "" {
			if err := os.WriteFile("certmill.yaml", []byte(yaml), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if said, err := execute(t, "restored"); err != nil || !strings.Contains(said, "a new incarnation began") {
			t.Errorf("with config %q: %q, %v", yaml, said, err)
		}
	}
}

// started tells when a run has begun.
type started struct{ c chan struct{} }

func (s started) Started(app.Where)           { close(s.c) }
func (started) Planned([]app.Step, app.Batch) {}
func (started) HandedIn(int, int)             {}
func (started) Moved(app.Progress)            {}
func (started) Ended(app.Summary)             {}
