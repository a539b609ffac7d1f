package rfc2136_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/dcvtest"
	"github.com/certmill/certmill/pkg/dcv/rfc2136"
	"github.com/certmill/certmill/pkg/order"
)

// servers are those of which the package says that it works with them.
var servers = map[string]func(*testing.T) *dcvtest.NameServer{"BIND": dcvtest.BIND, "Knot": dcvtest.Knot}

// each runs a test at every server.
func each(t *testing.T, run func(*testing.T, *dcvtest.NameServer)) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) { run(t, start(t)) })
	}
}

func connect(t *testing.T, at string) *dcv.Records {
	t.Helper()
	s, err := rfc2136.New(rfc2136.Config{Server: at, Key: dcvtest.Key, Secret: dcvtest.Secret})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	each(t, func(t *testing.T, n *dcvtest.NameServer) {
		l, err := dcv.NewLooker(dcv.LookerConfig{Resolvers: []string{n.Addr}, Servers: []string{n.Addr}})
		if err != nil {
			t.Fatal(err)
		}
		s := connect(t, n.Addr)
		dcvtest.Run(t, func(*testing.T) dcvtest.Target {
			return dcvtest.Target{
				Solver: s, Zone: "example.com", Longest: 1200, Many: dcvtest.Many(),
				Odd:     []string{`a "quoted" \backslash\ and \034 and a; comment`, " spaces  ", "é中", strings.Repeat(`\`, 300)},
				Writes:  func(t *testing.T) int { return n.Serial(t, "example.com") },
				Content: func(t *testing.T) []string { return n.Content(t, "example.com") },
				Put:     func(t *testing.T, name, kind, value string) { n.Put(t, "example.com", name, kind, value) },
				Look: func(t *testing.T, c order.Challenge) dcv.Sighting {
					seen, err := l.Look(t.Context(), c)
					if err != nil {
						t.Error(err)
					}
					return seen
				},
			}
		})
	})
}

func TestZones(t *testing.T) {
	each(t, func(t *testing.T, n *dcvtest.NameServer) {
		n.Put(t, "example.com", "alias.example.com", dcv.CNAME, "www.example.co.uk")
		n.Put(t, "example.com", "*.wild.example.com", dcv.CNAME, "www.example.co.uk")
		s := connect(t, n.Addr)
		for host, want := range map[string]string{
			"_dnsauth.www.example.com":           "example.com",
			"example.com":                        "example.com",
			"_dnsauth.dev.example.com":           "dev.example.com",
			"dev.example.com":                    "dev.example.com",
			"_dnsauth.example.com.example.co.uk": "example.co.uk",
			"_dnsauth.中国.example":                "xn--fiqs8s.example",
			"alias.example.com":                  "example.com",
			"_dnsauth.wild.example.com":          "example.com",
			"_dnsauth.away.example.com":          "", // delegated to somebody else
			"away.example.com":                   "",
			"co.uk":                              "",
			"www.example.org":                    "",
		} {
			zone, err := s.Zone(t.Context(), host)
			if zone != want || errors.Is(err, dcv.NoZone) != (want == "") {
				t.Errorf("%s: got zone %q, %v; want %q", host, zone, err, want)
			}
		}
	})
}

func TestTimeToLiveOfOthersStays(t *testing.T) {
	each(t, func(t *testing.T, n *dcvtest.NameServer) {
		n.Update(t, "example.com", `_dnsauth.example.com. 77 IN TXT "another's"`)
		before := n.Content(t, "example.com")
		c := order.Challenge{Type: dcv.TXT, Host: "_dnsauth.example.com", Value: "mine"}
		s := connect(t, n.Addr)
		if err := s.Present(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		after := strings.Join(n.Content(t, "example.com"), "\n")
		for _, line := range append(before, `_dnsauth.example.com. 77 IN TXT "mine"`) {
			if !strings.Contains(after, line) {
				t.Errorf("%s is not there", line)
			}
		}
	})
}

// A key that may not, or does not hold, is for a person; nothing is tried again.
func TestRefused(t *testing.T) {
	each(t, func(t *testing.T, n *dcvtest.NameServer) {
		good := rfc2136.Config{Server: n.Addr, Key: dcvtest.Key, Secret: dcvtest.Secret}
		for what, spoil := range map[string]func(*rfc2136.Config){
			"another secret":    func(c *rfc2136.Config) { c.Secret = "YW5vdGhlciBzZWNyZXQ=" },
			"an unknown key":    func(c *rfc2136.Config) { c.Key = "nobody" },
			"another algorithm": func(c *rfc2136.Config) { c.Algorithm = "hmac-sha512" },
		} {
			cfg := good
			spoil(&cfg)
			s, err := rfc2136.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Present(t.Context(), order.Challenge{Type: dcv.TXT, Host: "_dnsauth.example.com", Value: "value"})
			if !errors.Is(err, dcv.Denied) || strings.Contains(err.Error(), string(cfg.Secret)) {
				t.Errorf("%s: got %v, want denied", what, err)
			}
			t.Logf("%s: %v", what, err)
		}
	})
}

func TestUnreachable(t *testing.T) {
	s := connect(t, "127.0.0.1:1")
	err := s.Present(t.Context(), order.Challenge{Type: dcv.TXT, Host: "_dnsauth.example.com", Value: "value"})
	if err == nil || errors.Is(err, dcv.Denied) || errors.Is(err, dcv.NoZone) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("got %v, want one that says try again, and where", err)
	}
}

func TestConfig(t *testing.T) {
	good := rfc2136.Config{Server: "192.0.2.53", Key: "k.example.", Algorithm: "HMAC-SHA512", Secret: "c2VjcmV0"}
	if _, err := rfc2136.New(good); err != nil {
		t.Error(err)
	}
	for says, spoil := range map[string]func(*rfc2136.Config){
		"primary name server": func(c *rfc2136.Config) { c.Server = "" },
		"name of the TSIG":    func(c *rfc2136.Config) { c.Key = "" },
		"hmac-sha256":         func(c *rfc2136.Config) { c.Algorithm = "hmac-md5" },
		"base64":              func(c *rfc2136.Config) { c.Secret = "not base64!" },
		"tsig-keygen":         func(c *rfc2136.Config) { c.Secret = "" },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := rfc2136.New(cfg); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "not base64!") {
			t.Errorf("got %v, want it to say %q and no secret", err, says)
		}
	}
}
