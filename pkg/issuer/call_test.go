package issuer_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/permit"
)

// TestPermitRests tells when the only permit is back after each ending.
func TestPermitRests(t *testing.T) {
	const period, deadline = 100 * time.Millisecond, 300 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch string(body) {
		case "stall":
			time.Sleep(deadline + 50*time.Millisecond)
		case "later":
			w.Header().Set("Retry-After", "1")
		}
	}))
	t.Cleanup(server.Close)
	tests := []struct {
		name      string
		body      string
		err       error // what the SDK makes of the answer
		back, not time.Duration
	}{
		{"answered", "x", nil, time.Second, period / 2},
		{"refused", "x", &issuer.Error{Kind: issuer.Rejected}, time.Second, period / 2},
		{"stalled", "stall", nil, 2 * time.Second, period + deadline/2},
		{"throttled", "x", &issuer.Error{Kind: issuer.Throttled}, 0, time.Second},
		{"throttled, told when", "later", &issuer.Error{Kind: issuer.Throttled}, 3 * time.Second, 800 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(server.URL, deadline, nil)
			r.caller.Permits = permit.NewSet(func(permit.Key) permit.Limit {
				return permit.Limit{Calls: 1, Period: period, Deadline: deadline}
			})
			err := r.caller.Do(t.Context(), "Act", func(ctx context.Context) error {
				if _, err := (&http.Client{Transport: r.transport}).Do(r.request(ctx, "POST", "Act", tt.body)); err != nil {
					return err
				}
				return tt.err
			})
			if tt.err != nil && issuer.KindOf(err) != tt.err.(*issuer.Error).Kind {
				t.Errorf("error %v", err)
			}
			if r.free(t, tt.not) {
				t.Error("the permit was back too early")
			}
			if tt.back > 0 && !r.free(t, tt.back) {
				t.Error("the permit did not come back")
			}
		})
	}
}

// free tells whether a permit can be had within d, and puts it back.
func (r *rig) free(t *testing.T, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	_, release, err := r.caller.Reserve(ctx, "Act")
	if err == nil {
		release()
	}
	return err == nil
}

func TestErrorText(t *testing.T) {
	e := &issuer.Error{Kind: issuer.Rejected, Action: "Create", Code: "InvalidCsr", Message: "no", RequestID: "R1"}
	if got, want := e.Error(), "Create: rejected: InvalidCsr: no (request R1)"; got != want {
		t.Errorf("%q", got)
	}
	e.Err = context.DeadlineExceeded
	if got := e.LogValue().String(); !strings.Contains(got, "InvalidCsr") || !strings.Contains(got, "deadline exceeded") {
		t.Errorf("the log says %s", got)
	}
}
