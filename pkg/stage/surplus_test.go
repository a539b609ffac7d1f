package stage_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// What nobody claims is found by the sweep and listed with its product; adopted
// by hand it is an order's, and listed no more.
func TestSurplus(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.order("ours", "ours.example.com")
	p.drive("ours", order.Issued)
	id := w.buyWith("", "a.example.com", "b.example.com") // the cloud makes the key: it can be used here
	w.must(p.waiter.Surplus(t.Context(), w.accounts["ali"]))
	lefts, err := p.by.Lefts(t.Context(), w.accounts["ali"])
	w.must(err)
	if len(lefts) != 1 || lefts[0].CloudID != id || lefts[0].Product != plenty || lefts[0].Names[0] != "a.example.com" || !strings.Contains(lefts[0].Command, id) {
		t.Fatalf("listed: %+v", lefts)
	}
	w.publish(request("a", "a.example.com", "b.example.com"))
	p.drive("a", order.Held)
	w.must(p.by.Adopt(t.Context(), "a", id))
	if lefts, err = p.by.Lefts(t.Context(), w.accounts["ali"]); err != nil || len(lefts) != 0 {
		t.Errorf("after the adoption: %+v, %v", lefts, err)
	}
}

// DESIGN 12.6: the first sweep reads every list that shows what is in service,
// whatever ways of ordering are used: until one of them was read there is no mark.
func TestFirstSweepReadsEveryList(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	w.startElsewhere("ali", dvAudit, "cas-cn-stage0", "instance.example.com")
	w.startElsewhere("ten", orderSubmit, "stage0", "certificate.example.com")
	w.stranger("package.example.com")
	p := w.worker()
	for label, calls := range map[string][]string{"ali": {"DescribeOrderInstanceList", "ListUserCertificateOrder"}, "ten": {"DescribeCertificates"}} {
		for _, call := range calls {
			w.fault(cloudsim.Fault{Action: call, Kind: "http_502_html"})
			_, err := p.waiter.FirstSweep(t.Context(), w.accounts[label])
			if main := w.accounts[label].Main; err == nil || w.states.State(main).Marked(w.line.Incarnation()) {
				t.Errorf("without %s: %v", call, err)
			}
			w.sim.ClearFaults()
		}
	}
	w.sweepFirst()
	for _, r := range []order.Request{
		request("p", "instance.example.com"), request("c", "certificate.example.com"),
		{ID: "i", Account: "ali", Resource: "any", Names: []string{"package.example.com"}},
	} {
		w.publish(r)
		p.drive(r.ID, order.Held)
		w.wantHeld(r.ID, "no ledger entry claims it", "certmill approve "+r.ID)
	}
}

// DESIGN 12.5: a foreign row stops the purchase also where the cloud shows with its
// names those that a CA adds: of several sets that may have been ordered, each has it.
func TestForeignRowWithAddedNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{unmarked: true})
	w.replaceFlow("ten", adding{w.accounts["ten"].Flow(orderSubmit).(certificateFlow)})
	w.startElsewhere("ten", orderSubmit, "stage0", "a.example.com")
	w.sweepFirst()
	p := w.worker()
	for id, names := range map[string][]string{"one": {"a.example.com"}, "other": {"www.a.example.com"}, "both": {"a.example.com", "www.a.example.com"}} {
		w.publish(order.Request{ID: id, Account: "ten", Names: names})
		p.drive(id, order.Held)
		w.wantHeld(id, "cloud order stage0", "certmill approve "+id)
	}
	if lefts, err := p.by.Lefts(t.Context(), w.accounts["ten"]); err != nil || len(lefts) != 1 || len(lefts[0].Names) != 2 {
		t.Errorf("listed: %+v, %v", lefts, err)
	}
	w.publish(order.Request{ID: "free", Account: "ten", Names: []string{"b.a.example.com"}})
	p.drive("free", order.Issued)
}

// adding is a flow at a cloud that lists with each name the www that its CA adds.
type adding struct{ certificateFlow }

func added(rows []issuer.Row) []issuer.Row {
	for i, row := range rows {
		for _, n := range row.Names {
			rows[i].Names = append(slices.Clip(rows[i].Names), "www."+n)
		}
	}
	return rows
}

func (f adding) All(ctx context.Context, page int) (issuer.Page, error) {
	p, err := f.certificateFlow.All(ctx, page)
	p.Rows = added(p.Rows)
	return p, err
}

func (f adding) Find(ctx context.Context, names []string) (found []issuer.Row, err error) {
	p, err := f.All(ctx, 0)
	for _, row := range p.Rows {
		if order.NamesHash(row.Names) == order.NamesHash(names) {
			found = append(found, row)
		}
	}
	return found, err
}

// An order that ended while the key store knows an attempt that the ledger does
// not may have been bought: it is listed.
func TestEndedOrderWithAnUnknownAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.order("a", "*.example.com") // refused by the cloud
	p.drive("a", order.Failed)
	if lefts, err := p.by.Lefts(t.Context(), w.accounts["ali"]); err != nil || len(lefts) != 0 {
		t.Fatalf("%+v, %v", lefts, err)
	}
	w.raise("a", 7)
	lefts, err := p.by.Lefts(t.Context(), w.accounts["ali"])
	w.must(err)
	if len(lefts) != 1 || lefts[0].Order != "a" || !strings.Contains(lefts[0].Why, "attempt 7") {
		t.Errorf("listed: %+v", lefts)
	}
}
