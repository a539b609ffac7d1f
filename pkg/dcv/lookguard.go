package dcv

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// guard decides where a Looker may connect to. Whoever owns a name chooses the
// addresses of its web servers and name servers, and so could make certmill
// knock at the doors of the network that it runs in, or fetch a machine's
// credentials from the metadata service of its cloud. The decision is made on
// the address itself, when the socket is about to connect, so that no answer of
// the DNS can change in between.
type guard struct {
	allow []netip.Prefix
	own   func() ([]net.Addr, error)             // addresses of this machine
	port  uint16                                 // of them that serves challenges; 0: none
	told  func(to netip.AddrPort, refusal error) // for tests; may be nil
}

// refusedAddress is an error: certmill does not connect there.
type refusedAddress struct {
	ip   netip.Addr
	what string
}

func (e *refusedAddress) Error() string {
	return fmt.Sprintf("%s is %s: certmill looks at public addresses only", e.ip, e.what)
}

// span is a range of addresses and what it is for.
type span struct {
	netip.Prefix
	what string
}

func spans(what string, prefixes ...string) []span {
	var all []span
	for _, p := range prefixes {
		all = append(all, span{netip.MustParsePrefix(p), what})
	}
	return all
}

// forbidden are never connected to, whatever the config allows: nobody serves
// the public there, and the metadata services give out credentials.
var forbidden = slices.Concat(
	spans("the metadata service of a cloud",
		"169.254.169.254/32", "fd00:ec2::254/128", // AWS and most others
		"100.100.100.200/32", "169.254.0.23/32", // clouds that certmill orders at
		"fd20:ce::254/128",                    // Google Cloud
		"168.63.129.16/32", "192.0.0.192/32"), // Azure, Oracle
	spans("a link-local address", "169.254.0.0/16", "fe80::/10"),
	spans("a multicast address", "224.0.0.0/4", "ff00::/8"),
	spans("an unspecified address", "0.0.0.0/8", "::/128"),
	spans("a broadcast address", "255.255.255.255/32"),
)

// special are the ranges that are not for the public (IANA's registries of
// special-purpose addresses, RFC 6890), and transition mechanisms whose
// addresses hold others, which have no servers behind them any more.
var special = slices.Concat(
	spans("a loopback address", "127.0.0.0/8", "::1/128"),
	spans("a private address", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
	spans("an address behind a carrier's NAT", "100.64.0.0/10"),
	spans("reserved for protocols", "192.0.0.0/24", "2001::/23", "5f00::/16", "100::/64"), // 2001::/23 holds Teredo and ORCHID
	spans("reserved for documentation", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
	spans("reserved for benchmarks", "198.18.0.0/15"),
	spans("a 6to4 address", "192.88.99.0/24", "2002::/16"),
	spans("a local NAT64 address", "64:ff9b:1::/48"),
	spans("reserved", "240.0.0.0/4"),
)

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: the last four bytes are an IPv4 address
	global = netip.MustParsePrefix("2000::/3")     // RFC 4291, 2.4: all unicast addresses given out so far
)

// check returns a *refusedAddress for an address that is not to be connected to.
func (g *guard) check(ip netip.Addr, port uint16) error {
	refuse := func(what string) error { return &refusedAddress{ip, what} }
	at := ip.Unmap()
	if nat64.Contains(at) { // what an IPv6-only network with DNS64 shows of the IPv4 Internet
		b := at.As16()
		at = netip.AddrFrom4([4]byte(b[12:]))
	}
	holds := func(s span) bool { return s.Contains(at) }
	switch i := slices.IndexFunc(forbidden, holds); {
	case at.Zone() != "":
		return refuse("an address of one link only")
	case i >= 0:
		return refuse(forbidden[i].what)
	case slices.ContainsFunc(g.allow, func(p netip.Prefix) bool { return p.Contains(at) }):
		return nil
	}
	if i := slices.IndexFunc(special, holds); i >= 0 {
		return refuse(special[i].what + ", not allowed by the config (dcv.allow)")
	}
	if at.Is6() && !global.Contains(at) {
		return refuse("no global address")
	}
	if port != g.port && g.isOwn(at) {
		return refuse("an address of this machine, not allowed by the config (dcv.allow)")
	}
	return nil
}

func (g *guard) isOwn(ip netip.Addr) bool {
	addrs, err := g.own()
	if err != nil {
		return false // what is not public was refused before
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		own, err := netip.ParsePrefix(a.String())
		return err == nil && own.Addr().Unmap() == ip
	})
}

// control is a net.Dialer's: it sees the very address that the socket is about
// to connect to, for UDP, too.
func (g *guard) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err == nil {
		err = g.check(to.Addr(), to.Port())
	}
	if g.told != nil {
		g.told(to, err)
	}
	return err
}
