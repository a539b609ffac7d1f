package issuer_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/permit"
)

// ask makes one call without a permit.
func (r *rig) ask(ctx context.Context, method, action string) error {
	return r.caller.Free(ctx, action, func(ctx context.Context) error {
		resp, err := (&http.Client{Transport: r.transport}).Do(r.request(ctx, method, action, "x"))
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
}

// WhoAmI is free at every rig, and passes without a permit, by Caller.Free and
// in any other way. Nothing else does: not by that method either, not what only
// looks alike, not what has no action.
func TestOnlyFreeActionsPassWithoutAPermit(t *testing.T) {
	var arrived atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	defer server.Close()
	r := newRig(server.URL, time.Second, nil)
	if err := r.ask(t.Context(), "POST", "WhoAmI"); err != nil {
		t.Error(err)
	}
	if _, err := (&http.Client{Transport: r.transport}).Do(r.request(t.Context(), "POST", "WhoAmI", "x")); err != nil {
		t.Error(err)
	}
	if n := arrived.Load(); n != 2 {
		t.Fatalf("%d free calls arrived, want 2", n)
	}
	for _, action := range []string{"Act", "whoami", "WhoAmI ", "WhoAmI2", ""} {
		err := r.ask(t.Context(), "POST", action)
		if wantKind(t, err, issuer.NeverSent); !errors.Is(err, permit.ErrNoPermit) {
			t.Errorf("%q: %v", action, err)
		}
	}
	if n := arrived.Load(); n != 2 {
		t.Errorf("%d calls arrived without a permit", n-2)
	}
	if stats := r.caller.Permits.Stats(); len(stats) != 0 {
		t.Errorf("free calls joined rings: %+v", stats)
	}
}

// A free action is no way round the rules for the others.
func TestFreeActionsKeepTheOtherRules(t *testing.T) {
	var arrived atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	r := newRig(server.URL, time.Second, nil)
	wantKind(t, r.ask(t.Context(), "GET", "WhoAmI"), issuer.NeverSent)
	now := time.Now()
	fence := issuer.Fence{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute)}
	wantKind(t, r.ask(issuer.Spending(t.Context(), fence), "POST", "WhoAmI"), issuer.NeverSent)
	ctx, release, err := r.caller.Reserve(t.Context(), "Act") // another call's permit helps nothing
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	wantKind(t, r.ask(issuer.Spending(ctx, fence), "POST", "WhoAmI"), issuer.NeverSent)
	if n := arrived.Load(); n != 0 {
		t.Errorf("%d arrived that must not leave", n)
	}
	err = r.ask(t.Context(), "POST", "WhoAmI")
	if wantKind(t, err, issuer.Unavailable); arrived.Load() != 1 {
		t.Errorf("%d arrived after a redirect, error %v", arrived.Load(), err)
	}
}

// No permit tells how long a free call may take, and whoever makes it need not
// either.
func TestFreeCallsEnd(t *testing.T) {
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stop }))
	defer server.Close()
	defer close(stop)
	r := newRig(server.URL, time.Second, nil)
	r.transport.SetPatience(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // else a bug would hang the test
	defer cancel()
	err := r.ask(ctx, "POST", "WhoAmI")
	if wantKind(t, err, issuer.Unavailable); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		t.Errorf("%v", err)
	}
}

// What a free call ends as is told like that of any other.
func TestFreeCallsTellTheirEnding(t *testing.T) {
	r := newRig("http://127.0.0.1:1", time.Second, nil)
	err := r.ask(t.Context(), "POST", "WhoAmI")
	if e, ok := errors.AsType[*issuer.Error](err); !ok || e.Kind != issuer.NeverSent || e.Action != "WhoAmI" {
		t.Errorf("nobody listens: %v", err)
	}
	err = r.caller.Free(t.Context(), "WhoAmI", func(context.Context) error { panic("of an SDK") })
	if e, ok := errors.AsType[*issuer.Error](err); !ok || e.Kind != issuer.NeverSent || e.Action != "WhoAmI" {
		t.Errorf("a panic: %v", err)
	}
}
