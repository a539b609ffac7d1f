package stage_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stage"
)

// forbidding is a DNS in which forbidden.com lets another CA issue.
func forbidding(c *cloudsim.Config) {
	c.Records = append(c.Records, cloudsim.StaticRecord{Name: "forbidden.com", Type: "CAA", Value: `0 issue "letsencrypt.org"`})
}

// flying is a worker that looks before it buys.
func (w *world) flying(hold bool) *worker {
	p := w.worker()
	p.submit.Flight = &stage.Flight{Checker: preflight.New(w.looker), Solvers: w.solvers, Hold: hold}
	return p
}

// TestFlightHolds: what would fail is held before anything is bought or claimed;
// approved, it goes on.
func TestFlightHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: forbidding})
	p := w.flying(true)
	w.publish(request("a", "www.forbidden.com"))
	p.drive("a", order.Held)
	o := w.wantHeld("a", `CAA of forbidden.com forbids digicert.com; add 0 issue "digicert.com" to it`, "certmill approve a")
	w.wantHeld("a", "pre-flight: ", "certmill retry a")
	w.wantPaid(0, "www.forbidden.com")
	if n, err := w.keys.Number(w.ref("a")); err != nil || n.Attempt != 0 || o.Attempt != 0 {
		t.Errorf("number %+v, %v; attempt %d", n, err, o.Attempt)
	}
	w.must(p.by.Retry(t.Context(), "a"))
	p.drive("a", order.Held) // nothing has changed
	w.must(p.by.Approve(t.Context(), "a"))
	p.drive("a", order.Failed) // the simulated CA obeys CAA, too
	w.wantPaid(1, "www.forbidden.com")

	w.publish(request("b", "shop.allowed.com"))
	p.drive("b", order.Issued)
	w.publish(request("c", "mail.forbidden.com"))
	p.drive("c", order.Held)
	w.must(p.by.Cancel(t.Context(), "c"))
	p.drive("c", order.Failed)
	w.wantFailed("c", stage.ClassCancelled)
}

// TestFlightHoldsBeforeTheClaim: an order for something already bought claims
// nothing.
func TestFlightHoldsBeforeTheClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: forbidding})
	p := w.flying(true)
	r := request("a", "forbidden.com")
	r.Resource, r.Product = "cas-cn-stage0", plenty
	w.publish(r)
	p.drive("a", order.Held)
	if h, err := w.ledger.Owner(t.Context(), aliUID, "cas-cn-stage0"); err != nil || h.Order != "" {
		t.Errorf("claimed: %+v, %v", h, err)
	}
	w.must(p.by.Approve(t.Context(), "a"))
	p.drive("a", order.Failed) // the simulated CA obeys CAA, too
	if h, err := w.ledger.Owner(t.Context(), aliUID, "cas-cn-stage0"); err != nil || h.Order != "a" {
		t.Errorf("approved, and not claimed: %+v, %v", h, err)
	}
}

// TestFlightTells: with warn, the order goes on, although it will fail, and says
// once what was found.
func TestFlightTells(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{cloud: forbidding})
	p := w.flying(false)
	w.publish(request("a", "pay.forbidden.com"))
	p.drive("a", order.Failed)
	w.wantPaid(1, "pay.forbidden.com")
	for _, want := range []string{"pre-flight: CAA of forbidden.com forbids digicert.com", `pre-flight: the word "pay"`} {
		n := 0
		for _, e := range w.last("a").Timeline {
			if strings.HasPrefix(e.Note, want) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d notes %q", n, want)
		}
	}
}

// planned places requests as the intake would.
func (w *world) planned(requests ...order.Request) []stage.Planned {
	w.t.Helper()
	in := stage.Intake{Accounts: w.accounts, Ledger: w.ledger, Line: w.line}
	var all []stage.Planned
	for _, r := range requests {
		r = r.Normal()
		a, way, err := in.Place(w.t.Context(), r)
		w.must(err)
		all = append(all, stage.Planned{Request: r, Account: a, Operation: way.Flow.Action(), Product: way.Product})
	}
	return all
}

func (w *world) look(all []stage.Planned) []string {
	w.t.Helper()
	look := stage.Preflight{Ledger: w.ledger, Line: w.line, Now: time.Now}
	var requests []order.Request
	for _, p := range all {
		requests = append(requests, p.Request)
	}
	ins, err := look.HandIns(w.t.Context(), requests)
	w.must(err)
	var out []string
	for i, in := range ins {
		if all[i].Known, all[i].Taken = !in.New(), in.Taken; in.Refused != nil {
			out = append(out, in.Request.ID+": "+in.Refused.Error())
		}
	}
	return append(out, lines(append(stage.Findings(ins), look.Look(w.t.Context(), all)...))...)
}

// lines are findings, grouped, one line each.
func lines(found []preflight.Finding) []string {
	var out []string
	for _, f := range preflight.Group(found) {
		out = append(out, fmt.Sprintf("%s %s %v: %s", f.Level, f.Kind, f.Orders, f.What))
	}
	return out
}

func TestPreflightDuplicates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	p := w.worker()
	w.publish(request("old", "done.example.com", "www.done.example.com"))
	p.drive("old", order.Issued)
	w.order("now", "now.example.com")
	w.loses("reset_after_commit")
	w.worker().drive("now", order.Unsure)
	w.stranger("stranger.example.com")
	w.stranger("issued.example.com")
	w.proved(w.paid("issued.example.com")[0].ID)

	got := w.look(w.planned(request("a", "www.done.example.com", "DONE.example.com"), request("b", "now.example.com"),
		request("c", "stranger.example.com"), request("d", "issued.example.com"), request("e", "new.example.com"),
		request("old", "done.example.com", "www.done.example.com"), request("now", "other.example.com")))
	want := []string{
		`now: id: the id "now" is taken by another order (state unsure): leave the id out, or give this one an id of its own`,
		"warning duplicate [a d]: a valid certificate for exactly these names exists, and is not due for renewal",
		"warning duplicate [b c]: an order for exactly these names is under way",
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

func TestPreflightQuota(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	var all []order.Request
	for i := range 3 {
		r := request(fmt.Sprint("s", i), fmt.Sprintf("s%d.example.com", i))
		r.Product = scarce
		all = append(all, r, request(fmt.Sprint("p", i), fmt.Sprintf("p%d.example.com", i)))
	}
	for i := range 4 {
		r := request(fmt.Sprint("i", i), fmt.Sprintf("i%d.example.com", i))
		r.Resource = order.AnyResource
		all = append(all, r)
	}
	none := request("n", "n.example.com")
	none.Product = "geotrust-dv-1-starter"
	w.claimed("somebody", "cas-cn-stage1", "somebody.example.com")
	got := w.look(w.planned(append(all, none)...))
	want := []string{
		"error quota [i2 i3]: account ali has 2 unused for CreateDVOrderAudit, and 4 are ordered",
		"error quota [s1 s2]: product globalsign-dv-1-personal has 1 left on account ali, and 3 are ordered",
		"error quota [n]: product geotrust-dv-1-starter has 0 left on account ali, and 1 are ordered",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

// TestPreflightOfACloudThatFails: what cannot be read is said, and hides nothing
// else.
func TestPreflightOfACloudThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	w.fault(cloudsim.Fault{Action: "ListUserCertificateOrder", Kind: "http_500", Times: 10})
	r := request("a", "a.example.com")
	r.Product = "geotrust-dv-1-starter"
	got := w.look(w.planned(r))
	if len(got) != 2 || !strings.HasPrefix(got[0], "error quota [a]") || !strings.HasPrefix(got[1], "warning unseen [a]: the list of account "+aliUID+" could not be read: ") {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

func TestWords(t *testing.T) {
	w := newWorld(t, setup{})
	for name, want := range map[string]string{
		"paynow.example.com": "example pay", "my-bank.shop.cn": "bank", "spay.shop.cn": "pay", "lompayne.cn": "", "deliver.cn": "",
		"shop.pw": "pw", "pw.shop.cn": "pw", "x.gov.cn": "gov", "shop.asia": "asia", "hp.shop.cn": "hp", "php.shop.cn": "",
		"latest.cn": "", "test.cn": "test", "urban.cn": "ban.c", "cuban.net": "", "shop.live": "", "live.shop.cn": "live",
		"*.wallet.cn": "wallet", "root-ca.cn": "root", "beetroot.cn": "",
	} {
		var got []string
		r := request("a", name)
		if strings.HasPrefix(name, "*.") {
			r.Product = "geotrust-dv-w-starter" // of the same CA
		}
		for _, f := range stage.Words(w.planned(r)) {
			word := strings.Split(f.What, `"`)[1]
			got = append(got, word)
			if f.Level != preflight.Warning || f.Kind != preflight.Words || f.Example != name {
				t.Errorf("%+v", f)
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %q, want %q", name, s, want)
		}
	}
	r := request("a", "bank.shop.cn")
	r.Product = "symantec-ov-1-personal"
	if found := stage.Words(w.planned(r)); len(found) > 0 {
		t.Errorf("an OV product: %+v", found)
	}
}

func TestPacking(t *testing.T) {
	w := newWorld(t, setup{})
	var all []order.Request
	for i := range 7 {
		all = append(all, request(fmt.Sprint("a", i), fmt.Sprintf("a%d.shop.co.uk", i)))
	}
	other := request("other", "other.shop.co.uk")
	other.Product = scarce
	free := request("free", "free.shop.co.uk")
	free.Product = "digicert-free-1-free"
	file := request("file", "file.shop.co.uk")
	file.Validation = order.FILE
	all = append(all, other, free, file, request("two", "x.shop.co.uk", "y.shop.co.uk"), request("again", "a0.shop.co.uk"),
		request("alone", "www.alone.cn"), request("wild", "*.shop.co.uk"), request("wild2", "*.eu.shop.co.uk"), request("abroad", "z.shop2.co.uk"))
	known := request("known", "known.shop.co.uk")
	plan := w.planned(append(all, known)...)
	plan[len(plan)-1].Known = true

	got := lines(stage.Words(plan))
	want := []string{
		`warning words [free]: the word "free" is in the names, at which CAs are known to refuse DV certificates or to review them by hand`,
		"advice packing [a0 a1 a2 a3 a4 a5 a6 wild wild2]: they could be 3 of up to 5 names each: names of shop.co.uk",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if many := lines(stage.Words(w.planned(request("b", "b.s1.cn"), request("c", "c.s1.cn"), request("d", "d.s2.cn"), request("e", "e.s2.cn"), request("f", "f.s3.cn"),
		request("g", "g.s3.cn"), request("h", "h.s4.cn"), request("i", "i.s4.cn")))); len(many) != 1 || !strings.HasSuffix(many[0], "names of s1.cn, s2.cn, s3.cn and 1 more") {
		t.Errorf("%q", many)
	}

	var shown []string
	packed := stage.Pack(plan)
	names := 0
	for _, r := range packed {
		if err := r.Normal().Validate(); err != nil {
			t.Errorf("%s: %v", r.ID, err)
		}
		names += len(r.Names)
		if len(r.Names) > 1 {
			shown = append(shown, r.ID+" "+strings.Join(r.Names, " "))
		}
	}
	wantPacks := []string{"a0-pack a0.shop.co.uk a1.shop.co.uk a2.shop.co.uk a3.shop.co.uk a4.shop.co.uk", "a5-pack a5.shop.co.uk a6.shop.co.uk",
		"two x.shop.co.uk y.shop.co.uk", "wild-pack *.shop.co.uk *.eu.shop.co.uk"}
	if !slices.Equal(shown, wantPacks) || names != len(plan)+1 {
		t.Errorf("%d names in %d orders:\n%s", names, len(packed), strings.Join(shown, "\n"))
	}
	long := strings.Repeat("x", 63)
	twoLong := stage.Pack(w.planned(request(long, "l1.shop.cn"), request(strings.Repeat("x", 62)+"y", "l2.shop.de"), request("s", "l3.shop.cn"), request("t", "l4.shop.de")))
	if len(twoLong) != 2 || twoLong[0].ID == twoLong[1].ID || !order.ValidID(twoLong[0].ID) || !order.ValidID(twoLong[1].ID) {
		t.Errorf("ids of long ids: %+v", twoLong)
	}
}
