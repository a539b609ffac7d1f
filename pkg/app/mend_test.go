package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// edit changes a stream as nats stream edit does.
func edit(t *testing.T, js jetstream.JetStream, name string, change func(*jetstream.StreamConfig)) {
	t.Helper()
	s, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	c := s.CachedInfo().Config
	change(&c)
	if _, err := js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// atRest is the server of a state folder while no run works there.
func atRest(t *testing.T, dir string, f func(js jetstream.JetStream, m *Mender)) {
	t.Helper()
	err := OnServer(t.Context(), inDir(dir), func(c Config) error {
		m, err := OpenMender(c, quiet)
		if err != nil {
			return err
		}
		defer m.Close()
		f(m.js, m)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// begun is a state folder where a run was stopped while it issued an order, and the
// order's file.
func begun(t *testing.T) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	file = filepath.Join(dir, "first.csv")
	if err := os.WriteFile(file, []byte("id,names,account\nfirst,www.first.example,aliyun-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	sum, err := runIn(ctx, dir, &seen{moved: func(Progress) { stop() }}, file)
	if !errors.Is(err, context.Canceled) || sum.Issued > 0 {
		t.Fatalf("%+v, %v", sum, err)
	}
	return dir, file
}

// Finding 3 of the second attack: a stream that was edited on a run's own server, which
// runs nowhere but in the run, is put back by a verb that the refusal names.
func TestEditedStreamOfARunIsMended(t *testing.T) {
	t.Parallel()
	dir, file := begun(t)
	var messages uint64
	atRest(t, dir, func(js jetstream.JetStream, _ *Mender) {
		edit(t, js, pipeline.OrdersStream, func(c *jetstream.StreamConfig) {
			c.AllowDirect, c.MaxMsgSize, c.Metadata["theirs"] = !c.AllowDirect, 1<<19, "kept"
		})
		edit(t, js, ledger.StreamName, func(c *jetstream.StreamConfig) {
			c.Description, c.AllowDirect = "mine", !c.AllowDirect
		})
		messages = stored(t, js)
	})
	_, err := runIn(t.Context(), dir, &seen{}, file)
	wantWords(t, "run", err, "is not as it must be", "nothing was changed", "certmill init --mend")

	atRest(t, dir, func(js jetstream.JetStream, m *Mender) {
		all, err := m.Look(t.Context())
		const words = "maximum size of a message is 524288 and must be unlimited"
		if err != nil || len(all) != 2 || !strings.Contains(all[0].String(), words) {
			t.Errorf("it says %v, %v", all, err)
		}
		done, err := m.Mend(t.Context())
		if err != nil || len(done) != 2 {
			t.Errorf("%v, %v", done, err)
		}
		if now := stored(t, js); now != messages {
			t.Errorf("%d messages of %d", now, messages)
		}
		s, err := js.Stream(t.Context(), pipeline.OrdersStream)
		if err != nil || s.CachedInfo().Config.Metadata["theirs"] != "kept" || s.CachedInfo().Config.Metadata[storeIn] == "" {
			t.Errorf("its metadata is %v, %v", s.CachedInfo().Config.Metadata, err)
		}
		if again, err := m.Mend(t.Context()); err != nil || len(again) > 0 {
			t.Errorf("once more: %v, %v", again, err)
		}
	})
	if sum, err := runIn(t.Context(), dir, &seen{}, file); err != nil || sum.Known != 1 || sum.Issued != 1 {
		t.Errorf("afterwards: %+v, %v", sum, err)
	}
}

// stored counts the messages of the streams that a run stands on.
func stored(t *testing.T, js jetstream.JetStream) (n uint64) {
	t.Helper()
	for _, want := range lasting(0) {
		s, err := js.Stream(t.Context(), want.Name)
		if err != nil {
			t.Fatal(err)
		}
		n += s.CachedInfo().State.Msgs
	}
	return n
}

// A run that stops because of limits by which its streams forget takes them off at once:
// they would go on. What the ledger may have forgotten is asked of the clouds again.
func TestARunTakesLimitsOff(t *testing.T) {
	t.Parallel()
	dir, file := begun(t)
	ended, admin := make(chan error, 1), make(chan NATS, 1)
	go func() {
		view := &startedAt{began: admin, dir: filepath.Join(dir, "state")}
		_, err := Run(t.Context(), RunOptions{Config: inDir(dir), Log: quiet, View: view})
		ended <- err
	}()
	js := connectAs(t, <-admin)
	var was string
	if s, err := js.Stream(t.Context(), pipeline.OrdersStream); err == nil {
		was = life(s.CachedInfo())
	}
	edit(t, js, ledger.StreamName, func(c *jetstream.StreamConfig) { c.MaxMsgs, c.MaxAge = 100_000, time.Hour })
	select {
	case err := <-ended:
		wantWords(t, "run", err, "maximum age is 1h0m0s", "maximum of messages is 100000", "taken off at once",
			"a new incarnation began", "Start it again")
	case <-time.After(natstest.Patience):
		t.Fatal("it goes on")
	}
	atRest(t, dir, func(js jetstream.JetStream, m *Mender) {
		if all, err := m.Look(t.Context()); err != nil || len(all) > 0 {
			t.Errorf("left: %v, %v", all, err)
		}
		if s, err := js.Stream(t.Context(), pipeline.OrdersStream); err != nil || life(s.CachedInfo()) == was || was == "" {
			t.Errorf("no new incarnation: %v", err)
		}
	})
	if sum, err := runIn(t.Context(), dir, &seen{}, file); err != nil || sum.Known != 1 || sum.Issued != 1 {
		t.Errorf("afterwards: %+v, %v", sum, err)
	}
}

// startedAt tells how an administrator reaches what a run started.
type startedAt struct {
	seen
	began chan NATS
	dir   string
}

func (s *startedAt) Started(w Where) {
	c, err := Load(filepath.Join(s.dir, ConfigName))
	if err == nil {
		s.began <- c.NATS.by(Admin)
	}
}

// On a server that the config names it is the administrator's to mend, and what the
// server does not change is said.
func TestMendOnAServer(t *testing.T) {
	t.Parallel()
	js := natstest.Connect(t, natstest.Server(t))
	c := withClouds(t, js.Conn().ConnectedUrl(), 1)
	makeStore(t, c)
	if _, err := Init(t.Context(), c, quiet); err != nil {
		t.Fatal(err)
	}
	m, err := OpenMender(c, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	edit(t, js, ledger.StreamName, func(c *jetstream.StreamConfig) {
		c.Retention, c.Subjects = jetstream.InterestPolicy, append(c.Subjects, "more.>")
	})
	s, err := js.Stream(t.Context(), pipeline.IntakeStream)
	if err != nil {
		t.Fatal(err)
	}
	made := s.CachedInfo().Config
	if err := js.DeleteStream(t.Context(), pipeline.IntakeStream); err != nil {
		t.Fatal(err)
	}
	made.PersistMode, made.MaxAge = jetstream.AsyncPersistMode, time.Hour
	if _, err := js.CreateStream(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	_, err = Init(t.Context(), c, quiet)
	wantWords(t, "init", err, "is not as it must be", "certmill init --mend")
	done, err := m.Mend(t.Context())
	if len(done) != 1 || done[0].Stream != ledger.StreamName || !strings.Contains(Mended(done), "a new incarnation began") {
		t.Errorf("put back: %v", done)
	}
	if _, is := errors.AsType[*stream.Unmendable](err); !is {
		t.Errorf("it says %v", err)
	}
	wantWords(t, "mend", err, "the server does not change",
		"writing before it is on disk is on and must be off", "certmill restored")
	if err != nil && strings.Contains(err.Error(), "maximum age") {
		t.Errorf("what the server changes is left: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), natstest.Patience)
	defer cancel()
	if _, err := stream.Open(ctx, js, ledger.Config(1)); err != nil {
		t.Error(err)
	}
}
