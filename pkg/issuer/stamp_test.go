package issuer_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
)

// The fence is for the stamp that was signed, which the cloud compares with its
// clock: one that was signed long ago and held up does not leave, whatever the
// time is now, and one that was signed in time does.
func TestTheStampIsComparedAndNotAClock(t *testing.T) {
	var arrived atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	defer server.Close()
	r := newRig(server.URL, time.Second, nil)
	now := time.Now()
	send := func(signed, fenced time.Time) error {
		ctx, release, err := r.caller.Reserve(t.Context(), "Act")
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		ctx = issuer.Spending(ctx, issuer.Fence{NotBefore: fenced.Add(-time.Minute), NotAfter: fenced.Add(time.Minute)})
		return r.caller.Do(ctx, "Act", func(ctx context.Context) error {
			req := r.request(ctx, "POST", "Act", "x")
			req.Header.Set("Stamp", strconv.FormatInt(signed.Unix(), 10))
			resp, err := (&http.Client{Transport: r.transport}).Do(req)
			if err == nil {
				resp.Body.Close()
			}
			return err
		})
	}
	wantKind(t, send(now.Add(-time.Hour), now), issuer.NeverSent)
	if n := arrived.Load(); n != 0 {
		t.Errorf("%d requests arrived with a stamp outside the fence", n)
	}
	if err := send(now.Add(-time.Hour), now.Add(-time.Hour)); err != nil || arrived.Load() != 1 {
		t.Errorf("signed inside the fence: %v, %d arrived", err, arrived.Load())
	}
}

// What does not spend has a fence, too, where it must not come late; it is sent
// as all other reads are.
func TestWithinAFence(t *testing.T) {
	var arrived atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
	defer server.Close()
	r := newRig(server.URL, time.Second, nil)
	now := time.Now()
	send := func(signed time.Time) error {
		ctx := issuer.Within(t.Context(), issuer.Fence{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute)})
		return r.caller.Do(ctx, "Act", func(ctx context.Context) error {
			req := r.request(ctx, "POST", "Act", "x")
			req.Header.Set("Stamp", strconv.FormatInt(signed.Unix(), 10))
			resp, err := (&http.Client{Transport: r.transport}).Do(req)
			if err == nil {
				resp.Body.Close()
			}
			return err
		})
	}
	wantKind(t, send(now.Add(2*time.Minute)), issuer.NeverSent)
	if err := send(now); err != nil || arrived.Load() != 1 {
		t.Errorf("within the fence: %v, %d arrived", err, arrived.Load())
	}
}
