package dcv

import (
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/order"
)

// FuzzAnswer reads whatever a name server may send. What is told of it must be a
// line for a person, however much it sent.
func FuzzAnswer(f *testing.F) {
	const name = "_dnsauth.www.example.com."
	for _, rr := range []string{name + ` 60 IN TXT "value" "\200\"x"`, name + " 60 IN CNAME other.example.net.", "example.com. 60 IN NS ns1.example.com."} {
		r, err := dns.NewRR(rr)
		if err != nil {
			f.Fatal(err)
		}
		m := new(dns.Msg).SetQuestion(name, dns.TypeTXT)
		m.Response, m.Authoritative, m.Answer = true, true, []dns.RR{r}
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		m := new(dns.Msg)
		if m.Unpack(wire) != nil {
			return // the library refuses it; the Looker sees an error
		}
		if n := len(nsAt(append(m.Answer, m.Ns...), "example.com.")); n > maxServers {
			t.Errorf("%d name servers", n)
		}
		for _, c := range []order.Challenge{{Type: "TXT", Host: name, Value: "value"}, {Type: "CNAME", Host: name, Value: "other.example.net"}} {
			v := view{server: server{host: "ns1.example.com", addr: "192.0.2.1:53"}}
			v.read(m, name, dns.StringToType[c.Type])
			for _, line := range missing([]view{v}, name, c) {
				if len(line) > 2000 || strings.ContainsAny(line, "\n\r\x00\x1b") {
					t.Errorf("it is told in %d bytes: %.100q", len(line), line)
				}
			}
		}
	})
}
