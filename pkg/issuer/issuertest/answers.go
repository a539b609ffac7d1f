package issuertest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

// A Call is something that reads an answer of a cloud.
type Call func(ctx context.Context) error

// FuzzAnswers lets a server answer whatever calls with bytes that nobody
// expects. No call may panic, go on for ever or show the secret, and a paid call
// has either an id or an error that says what became of it. open returns the
// calls of a client of that server, and the flow whose Submit is tried, if any.
func FuzzAnswers(f *testing.F, secret string, open func(url string, permits *permit.Set) (issuer.Flow, []Call), seeds ...string) {
	var status atomic.Int64
	var body atomic.Pointer[[]byte]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write(*body.Load())
	}))
	f.Cleanup(server.Close)
	flow, calls := open(server.URL, permit.NewSet(func(permit.Key) permit.Limit {
		return permit.Limit{Calls: 1000, Period: time.Millisecond, Deadline: time.Second}
	}))
	for _, s := range append(seeds, "", "{}", "null", "[]", `{"RequestId":7}`, `{"Response":{"Error":7}}`, "<html>") {
		f.Add(uint16(200), []byte(s))
		f.Add(uint16(500), []byte(s))
	}
	f.Fuzz(func(t *testing.T, code uint16, answer []byte) {
		status.Store(int64(200 + code%400)) // no 1xx: net/http goes on waiting
		body.Store(&answer)
		for _, call := range calls {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if err := call(ctx); err != nil && strings.Contains(err.Error(), secret) {
				t.Error("the error shows the secret")
			}
			cancel()
		}
		if flow != nil {
			trySubmit(t, flow)
		}
	})
}

func trySubmit(t *testing.T, flow issuer.Flow) {
	ctx, release, err := flow.Reserve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	r, err := flow.Submit(ctx, issuer.Application{OrderID: "a", Names: []string{"a.example.com"}, Product: "p",
		Validation: order.DNS, Resource: "r", Contact: order.Contact{Name: "a", Email: "a@example.com", Phone: "1", Province: "p", City: "c"}}, Fence())
	if _, ok := errors.AsType[*issuer.Error](err); err == nil && r.CloudID == "" || err != nil && !ok {
		t.Errorf("a paid call ended as %+v, %v", r, err)
	}
}

// Reads are the calls of a flow that only look.
func Reads(f issuer.Flow) []Call {
	const id = "98987582437920968"
	calls := []Call{
		func(ctx context.Context) error { _, err := f.Look(ctx, id); return err },
		func(ctx context.Context) error { _, err := f.Waiting(ctx, 0); return err },
		func(ctx context.Context) error { _, err := f.Fetch(ctx, id, ""); return err },
		func(ctx context.Context) error { _, err := f.Fetch(ctx, id, "7"); return err },
	}
	if x, ok := f.(issuer.Finder); ok {
		calls = append(calls, func(ctx context.Context) error { _, err := x.Find(ctx, []string{"a.example.com"}); return err })
	}
	if x, ok := f.(issuer.Counter); ok {
		calls = append(calls, func(ctx context.Context) error { _, err := x.Usage(ctx, "p"); return err })
	}
	if x, ok := f.(issuer.CertLister); ok {
		calls = append(calls, func(ctx context.Context) error { _, err := x.Certificates(ctx, 0); return err })
	}
	if x, ok := f.(issuer.Pool); ok {
		calls = append(calls, func(ctx context.Context) error { _, err := x.Unused(ctx); return err })
	}
	if x, ok := f.(issuer.AllLister); ok {
		calls = append(calls, func(ctx context.Context) error { _, err := x.All(ctx, 0); return err })
	}
	if x, ok := f.(issuer.Kicker); ok {
		calls = append(calls, func(ctx context.Context) error { return x.Kick(ctx, id) })
	}
	return calls
}
