package rfc2136_test

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/dcvtest"
	"github.com/certmill/certmill/pkg/order"
)

// serveDNS starts a server, UDP and TCP, until the test ends.
func serveDNS(t *testing.T, at string, answer dns.HandlerFunc) (ok bool) {
	t.Helper()
	udp, err := net.ListenPacket("udp", at)
	if err != nil {
		return false
	}
	tcp, err := net.Listen("tcp", at)
	if err != nil {
		udp.Close()
		return false
	}
	for _, server := range []*dns.Server{{PacketConn: udp, Handler: answer}, {Listener: tcp, Handler: answer}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go server.ActivateAndServe()
		<-started
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return true
}

// resolver knows that example.com has two name servers.
func resolver(t *testing.T) string {
	const at = "127.0.0.2:0"
	l, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	addr := l.LocalAddr().String()
	l.Close()
	ok := serveDNS(t, addr, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		for _, known := range []string{"example.com. 60 IN NS ns1.example.com.", "example.com. 60 IN NS ns2.example.com.",
			"ns1.example.com. 60 IN A 127.0.0.1", "ns2.example.com. 60 IN A 127.0.0.3"} {
			rr, err := dns.NewRR(known)
			if err != nil {
				t.Error(err)
			} else if strings.EqualFold(rr.Header().Name, q.Question[0].Name) && rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		_ = w.WriteMsg(m)
	})
	if !ok {
		t.Fatal("no port for the resolver")
	}
	return addr
}

// TestSecondaries: a record that one of the zone's servers does not show is not
// seen, and the sighting says where and what is there in its place.
func TestSecondaries(t *testing.T) {
	each(t, func(t *testing.T, n *dcvtest.NameServer) {
		_, port, _ := net.SplitHostPort(n.Addr)
		var mu sync.Mutex
		var distort func(*dns.Msg)
		ok := serveDNS(t, "127.0.0.3:"+port, func(w dns.ResponseWriter, q *dns.Msg) { // it has what the primary has
			m, _, err := (&dns.Client{Net: "tcp", Timeout: 5 * time.Second}).Exchange(q, n.Addr)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if distort != nil {
				distort(m)
			}
			_ = w.WriteMsg(m)
		})
		if !ok {
			t.Skip("the port is taken at another loopback address")
		}
		portNumber, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		l, err := dcv.NewLooker(dcv.LookerConfig{Resolvers: []string{resolver(t)}, ServerPort: portNumber, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
		if err != nil {
			t.Fatal(err)
		}
		c := order.Challenge{Type: dcv.TXT, Host: "_dnsauth.www.example.com", Value: "value"}
		if err := connect(t, n.Addr).Present(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		nothing := func(code int) func(*dns.Msg) {
			return func(m *dns.Msg) { m.Answer, m.Rcode = nil, code }
		}
		for _, is := range []struct {
			state   string
			distort func(*dns.Msg)
			says    string // of ns2; empty: seen
		}{
			{"up to date", nil, ""},
			{"stale", nothing(dns.RcodeNameError), "no such name"},
			{"broken", nothing(dns.RcodeServerFailure), "SERVFAIL"},
			{"split", func(m *dns.Msg) {
				for _, rr := range m.Answer {
					if t, ok := rr.(*dns.TXT); ok {
						t.Txt = []string{"another"}
					}
				}
			}, `"another"`},
			{"up to date again", nil, ""},
		} {
			mu.Lock()
			distort = is.distort
			mu.Unlock()
			got, err := l.Look(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			told := strings.Join(got.Missing, "\n")
			if got.Seen != (is.says == "") || !strings.Contains(told, is.says) || strings.Contains(told, "ns1.") || !got.Seen && !strings.Contains(told, "ns2.example.com") {
				t.Errorf("ns2 is %s: got %+v", is.state, got)
			}
		}
	})
}
