package stage_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stream"
)

// Behind a flood of A's orders B's first one is in order.submit before 200 more of
// A's: B is another publisher, or another account of the same subject. Counted in
// the stream, with the intake as it is. CERTMILL_TEST_FLOOD is how large the flood
// is.
func TestFirstOrderBehindAFlood(t *testing.T) {
	many, bound := 3000, uint64(200)
	if n, err := strconv.Atoi(os.Getenv("CERTMILL_TEST_FLOOD")); err == nil {
		many = n
	}
	for _, tt := range []struct{ name, a, b, account string }{
		{"publishers", "orders.new.a", "orders.new.b", "ali"},
		{"accounts of the plain subject", pipeline.NewSubject, pipeline.NewSubject, "ten"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, setup{})
			w.flood(tt.a, many)
			began := time.Now()
			publish := func(id string) {
				_, err := pipeline.Publish(t.Context(), w.js, tt.b, fmt.Appendf(nil, `{"id":%q,"account":%q,"names":["%s.example.com"]}`, id, tt.account, id))
				w.must(err)
			}
			publish("b1") // before there is a worker
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			p := w.worker()
			p.intake.Sealer = w.recipients
			go func() { ended <- w.line.Intake(ctx, false, p.intake) }()
			w.arrives("b1")
			before, took := w.inSubmit(), time.Since(began)
			if before > bound {
				t.Errorf("%d of A's are there before B's", before)
			}
			for w.inSubmit() < uint64(min(many/4, 2000)) {
				time.Sleep(10 * time.Millisecond)
			}
			was, began := w.inSubmit(), time.Now()
			publish("b2") // in the midst of them
			w.arrives("b2")
			more := w.inSubmit() - was
			if more > bound {
				t.Errorf("%d more of A's are there before B's", more)
			}
			stop()
			w.must(<-ended)
			t.Logf("behind %d: the first after %v and %d of A's; in the midst of them after %v and %d more",
				many, took.Round(time.Millisecond), before, time.Since(began).Round(time.Millisecond), more)
		})
	}
}

// flood publishes orders for "ali".
func (w *world) flood(subject string, n int) {
	w.t.Helper()
	for i := range n {
		_, err := w.js.PublishAsync(subject, fmt.Appendf(nil, `{"id":"a%d","account":"ali","names":["a%d.example.com"],"labels":{"team":"flood"}}`, i, i))
		w.must(err)
		if i%1000 == 999 || i == n-1 {
			<-w.js.PublishAsyncComplete()
		}
	}
}

func (w *world) arrives(id string) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := w.line.Last(w.t.Context(), id); err == nil {
			return
		}
	}
	w.t.Fatalf("order %s does not arrive", id)
}

// inSubmit counts the orders of "ali" there.
func (w *world) inSubmit() uint64 {
	w.t.Helper()
	orders, err := w.js.Stream(w.t.Context(), pipeline.OrdersStream)
	w.must(err)
	n, err := stream.Count(w.t.Context(), orders, order.Subject(order.Submit, "*", "ali"))
	w.must(err)
	return n
}
