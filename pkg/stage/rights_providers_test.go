package stage_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/hook"
	"github.com/certmill/certmill/pkg/dcv/rfc2136"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
)

// keeper keeps the records of a zone that a solver of dcv.solvers serves, and shows
// them in the simulated DNS.
type keeper struct {
	w *world

	mu    sync.Mutex // guards what follows
	may   bool       // the key writes there
	has   []cloudsim.StaticRecord
	tried int // check records that were ever put
}

func (k *keeper) let(may bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.may = may
}

// change puts or takes a record, and tells whether the key may.
func (k *keeper) change(put bool, r cloudsim.StaticRecord) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.may {
		return false
	}
	r.Name = strings.TrimSuffix(r.Name, ".")
	if put && !slices.Contains(k.has, r) {
		k.has = append(k.has, r)
		if strings.HasPrefix(r.Name, dcv.CheckLabel) {
			k.tried++
		}
	}
	if !put {
		k.has = slices.DeleteFunc(k.has, func(x cloudsim.StaticRecord) bool { return x == r })
	}
	shown := slices.Clone(k.has)
	if err := k.w.sim.SetConfig(func(c *cloudsim.Config) { c.Records = shown }); err != nil {
		k.w.t.Error(err)
	}
	return true
}

func (k *keeper) left() (records []cloudsim.StaticRecord, tried int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.has), k.tried
}

// webhook serves the zone by a web service.
func (k *keeper) webhook() (dcv.Solver, error) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Action, Type, Name, Value string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		if !k.change(in.Action == "present", cloudsim.StaticRecord{Name: in.Name, Type: in.Type, Value: in.Value}) {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	k.w.t.Cleanup(s.Close)
	return hook.NewWebhook(hook.WebhookConfig{URL: s.URL})
}

// program serves it by a program: it asks the web service, which is all that it can.
func (k *keeper) program() (dcv.Solver, error) {
	dir := k.w.t.TempDir()
	path := filepath.Join(dir, "hook")
	// It leaves what it is asked where the keeper finds it, and waits for the answer.
	script := fmt.Sprintf("#!/bin/sh\ncd %q; t=$(mktemp asked.XXXXXX); cat > $t; mv $t $t.in\n"+
		"while [ ! -e $t.out ]; do sleep 0.01; done; exit $(cat $t.out)\n", dir)
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		return nil, err
	}
	ctx := k.w.t.Context()
	go func() { // ends with the test
		for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
			asked, _ := filepath.Glob(filepath.Join(dir, "asked.*.in"))
			for _, a := range asked {
				k.answer(a)
			}
		}
	}()
	return hook.NewProgram(hook.ProgramConfig{Command: []string{path}, Timeout: natstest.Patience})
}

// answer answers one run of the program.
func (k *keeper) answer(path string) {
	var in struct{ Action, Type, Name, Value string }
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &in) != nil {
		return
	}
	status := "77" // EX_NOPERM
	if k.change(in.Action == "present", cloudsim.StaticRecord{Name: in.Name, Type: in.Type, Value: in.Value}) {
		status = "0"
	}
	_ = os.Remove(path)
	out := strings.TrimSuffix(path, ".in") + ".out"
	_ = os.WriteFile(out+".new", []byte(status), 0o600)
	_ = os.Rename(out+".new", out)
}

// nameServer serves it by a primary name server that takes signed updates.
func (k *keeper) nameServer() (dcv.Solver, error) {
	const key, tsig = "certmill.", "c2VjcmV0LW9mLXRoZS10ZXN0"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	started := make(chan struct{})
	s := &dns.Server{Listener: l, TsigSecret: map[string]string{key: tsig}, NotifyStartedFunc: func() { close(started) },
		MsgAcceptFunc: func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }}
	s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Authoritative = true
		if q.Opcode == dns.OpcodeUpdate {
			m.Rcode = k.update(q.Ns)
		} else {
			k.show(q.Question[0], m)
		}
		m.SetTsig(key, dns.HmacSHA256, 300, time.Now().Unix())
		_ = w.WriteMsg(m)
	})
	go func() { _ = s.ActivateAndServe() }() // ends with the test
	<-started
	k.w.t.Cleanup(func() { _ = s.Shutdown() })
	return rfc2136.New(rfc2136.Config{Server: l.Addr().String(), Key: key, Secret: tsig})
}

// update carries out what an update message asks (RFC 2136, 2.5).
func (k *keeper) update(rrs []dns.RR) (rcode int) {
	for _, rr := range rrs {
		t, is := rr.(*dns.TXT)
		if !is {
			continue
		}
		if !k.change(rr.Header().Class == dns.ClassINET, cloudsim.StaticRecord{Name: rr.Header().Name, Type: dcv.TXT, Value: dcv.Text(t)}) {
			return dns.RcodeRefused
		}
	}
	return dns.RcodeSuccess
}

// show answers a question.
func (k *keeper) show(asked dns.Question, m *dns.Msg) {
	header := func(name string, kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 60}
	}
	labels := dns.SplitDomainName(asked.Name)
	zone := dns.Fqdn(strings.Join(labels[len(labels)-2:], "."))
	all, _ := k.left()
	for _, r := range all {
		if strings.EqualFold(dns.Fqdn(r.Name), asked.Name) && asked.Qtype != dns.TypeSOA {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: header(asked.Name, dns.TypeTXT), Txt: []string{r.Value}})
		}
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{&dns.SOA{Hdr: header(zone, dns.TypeSOA), Ns: "ns." + zone, Mbox: "hostmaster." + zone, Minttl: 60}}
	}
}

// elsewhere is a zone in which an account's challenges lie, and whose key can be
// changed.
type elsewhere struct {
	account.ZoneKey
	let  func(may bool)
	left func() (records []cloudsim.StaticRecord, tried int)
}

// served is the zone example.org of the account "ali", served by a solver of dcv.solvers.
func served(open func(*keeper) (dcv.Solver, error)) func(w *world) elsewhere {
	return func(w *world) elsewhere {
		k := &keeper{w: w, may: true}
		s, err := open(k)
		w.must(err)
		own := w.solvers["ali"]
		w.solvers["ali"] = dcv.ByType{DNS: dcv.NewRoute(map[string]dcv.Solver{dcv.AnyZone: own, "example.org": s}, w.looker), FILE: own}
		return elsewhere{account.ZoneKey{Main: aliUID, Label: "ali", Zone: "example.org"}, k.let, k.left}
	}
}

// atDNSPod is a zone of the account "ten" at Tencent's own DNS.
func atDNSPod(w *world) elsewhere {
	let := func(may bool) {
		key := w.sim.Accounts()[1]
		if key.Writes = nil; !may {
			key.Writes = []string{}
		}
		w.must(w.sim.AddAccount(key))
	}
	left := func() (records []cloudsim.StaticRecord, tried int) {
		for _, r := range w.sim.Records() {
			if r.By == tenKey {
				records = append(records, cloudsim.StaticRecord{Name: r.Name, Type: r.Type, Value: r.Value})
			}
		}
		return records, w.written("CreateRecord")
	}
	return elsewhere{account.ZoneKey{Main: tenUID, Label: "ten", Zone: "example.com"}, let, left}
}

// everywhere are the ways to a zone besides Alibaba's own DNS, by which all else
// is tried.
var everywhere = map[string]func(*world) elsewhere{
	"dnspod": atDNSPod, "rfc2136": served((*keeper).nameServer), "webhook": served((*keeper).webhook), "program": served((*keeper).program),
}

func (e elsewhere) request(id string) order.Request {
	r := order.Request{ID: id, Account: e.Label, Names: []string{id + "." + e.Zone}}
	if e.Label == "ten" {
		r.Resource = order.AnyResource
	}
	return r
}

// wantNothingLeft waits until what was placed in the zone is gone.
func (e elsewhere) wantNothingLeft(w *world) {
	w.t.Helper()
	eventually(w.t, "all records removed", func() bool {
		w.must(w.worker().placing.Sweep(w.t.Context()))
		records, _ := e.left()
		return len(records) == 0 && len(w.booked()) == 0
	})
}

// A zone is tried before the first purchase that needs it, whoever serves it: by a
// record that is removed again.
func TestRightsAreTriedAtEveryProvider(t *testing.T) {
	t.Parallel()
	for name, open := range everywhere {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			e := open(w)
			w.checking(nil)
			w.publish(e.request("a"))
			w.careful().drive("a", order.Issued)
			z, err := w.states.Zone(t.Context(), e.ZoneKey)
			if _, tried := e.left(); err != nil || z.Check.Is != account.CheckPassed || len(z.Refused) > 0 || tried == 0 {
				t.Errorf("%+v, %v, %d records tried", z, err, tried)
			}
			e.wantNothingLeft(w)
		})
	}
}

// Where the key may not write, one order is bought, whose challenge shows it; the
// next is held before, and both go on once the key may.
func TestRightsThatAreMissingAtEveryProvider(t *testing.T) {
	t.Parallel()
	for name, open := range everywhere {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, setup{})
			e := open(w)
			e.let(false)
			w.checking(nil)
			p := w.careful()
			w.publish(e.request("a"))
			w.publish(e.request("b"))
			p.driveTo("a", "refused", func(order.Order) bool {
				z, err := w.states.Zone(t.Context(), e.ZoneKey)
				return err == nil && len(z.Refused) > 0
			})
			w.wantNote("a", fmt.Sprintf("pre-flight: account %s may not write _certmill-check in the zone %s", e.Label, e.Zone))
			p.drive("b", order.Held)
			w.wantHeld("b", fmt.Sprintf(" record of a challenge in the zone %s was refused to account %s", e.Zone, e.Label), "certmill approve b")
			if o := w.last("b"); o.CloudID != "" || o.Attempt > 0 {
				t.Errorf("b was bought: %s", w.tell("b"))
			}
			if told := w.states.State(e.Main).Troubled(time.Now()); len(told) != 1 || !strings.Contains(told[0].What, "was refused to account "+e.Label) {
				t.Errorf("told: %+v", told)
			}
			e.let(true)
			for _, id := range []string{"a", "b"} {
				if w.last(id).State == order.Held {
					w.must(p.by.Retry(t.Context(), id))
				}
				p.drive(id, order.Issued)
			}
			e.wantNothingLeft(w)
			if told := w.states.State(e.Main).Troubled(time.Now()); len(told) > 0 {
				t.Errorf("it is over, and told is %+v", told)
			}
		})
	}
}
