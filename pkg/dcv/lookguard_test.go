package dcv

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

// Told lets a test see every address that a connection was about to be made to,
// and whether it was refused.
func (l *Looker) Told(f func(to netip.AddrPort, refusal error)) { l.guard.told = f }

func own(addrs ...string) func() ([]net.Addr, error) {
	return func() (all []net.Addr, err error) {
		for _, a := range addrs {
			ip, network, err := net.ParseCIDR(a)
			if err != nil {
				return nil, err
			}
			all = append(all, &net.IPNet{IP: ip, Mask: network.Mask})
		}
		return all, nil
	}
}

func TestGuard(t *testing.T) {
	g := &guard{own: own("8.8.4.4/24", "2400:cb00::53/64")}
	for ip, want := range map[string]string{
		"8.8.8.8": "", "223.5.5.5": "", "100.128.0.1": "", "172.32.0.1": "", "192.0.1.1": "", "198.20.0.1": "", "2400:3200::1": "", "2606:4700::1111": "",
		"64:ff9b::8.8.8.8": "", "::ffff:8.8.8.8": "",
		"127.0.0.1": "loopback", "127.255.255.254": "loopback", "::1": "loopback", "::ffff:127.0.0.1": "loopback", "64:ff9b::127.0.0.1": "loopback",
		"10.0.0.1": "private", "172.16.0.1": "private", "172.31.255.255": "private", "192.168.1.1": "private", "fc00::1": "private", "fd12::1": "private", "fec0::1": "private",
		"::ffff:10.0.0.1": "private", "64:ff9b::192.168.1.1": "private", "64:ff9b:1::8.8.8.8": "NAT64",
		"100.64.0.1": "carrier", "100.127.255.255": "carrier",
		"169.254.1.1": "link-local", "fe80::1": "link-local", "fe80::1%eth0": "one link", "2400:3200::1%eth0": "one link",
		"169.254.169.254": "metadata", "169.254.0.23": "metadata", "100.100.100.200": "metadata", "fd00:ec2::254": "metadata", "168.63.129.16": "metadata",
		"64:ff9b::169.254.169.254": "metadata", "::ffff:100.100.100.200": "metadata",
		"224.0.0.1": "multicast", "239.255.255.250": "multicast", "ff02::1": "multicast",
		"0.0.0.0": "unspecified", "0.1.2.3": "unspecified", "::": "unspecified", "255.255.255.255": "broadcast",
		"192.0.2.1": "documentation", "198.51.100.1": "documentation", "203.0.113.1": "documentation", "2001:db8::1": "documentation", "3fff::1": "documentation",
		"198.18.0.1": "benchmark", "198.19.255.255": "benchmark", "240.0.0.1": "reserved", "192.0.0.1": "reserved", "2001::1": "reserved", "100::1": "reserved",
		"2002:7f00:1::": "6to4", "2002:a00:1::1": "6to4", "192.88.99.1": "6to4", "::127.0.0.1": "no global", "4000::1": "no global",
		"8.8.4.4": "this machine", "::ffff:8.8.4.4": "this machine", "2400:cb00::53": "this machine", "8.8.4.5": "",
	} {
		err := g.check(netip.MustParseAddr(ip), 80)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ip, err, want)
		}
	}
}

// What the config allows is a hole of exactly that size, and none for what gives
// out credentials.
func TestGuardAllows(t *testing.T) {
	g := &guard{own: own("10.1.0.1/16"), allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd00::/8")}}
	for ip, want := range map[string]bool{"10.1.0.1": true, "10.1.255.1": true, "::ffff:10.1.2.3": true, "64:ff9b::10.1.2.3": true, "100.64.0.9": true, "fd00::1": true,
		"10.2.0.1": false, "192.168.0.1": false, "100.100.100.200": false, "fd00:ec2::254": false, "169.254.169.254": false} {
		if err := g.check(netip.MustParseAddr(ip), 80); (err == nil) != want {
			t.Errorf("%s: %v", ip, err)
		}
	}
	all := &guard{own: own(), allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	if err := all.check(netip.MustParseAddr("169.254.169.254"), 80); err == nil {
		t.Error("everything is allowed, and so is the metadata service")
	}
}

// Where this machine serves challenges, it may be looked at.
func TestGuardOwnPort(t *testing.T) {
	g := &guard{own: own("8.8.4.4/24", "10.0.0.1/8", "127.0.0.1/8"), port: 8081}
	for to, want := range map[string]bool{"8.8.4.4:8081": true, "8.8.4.4:80": false, "10.0.0.1:8081": false, "127.0.0.1:8081": false} {
		if err := g.control("tcp", to, nil); (err == nil) != want {
			t.Errorf("%s: %v", to, err)
		}
	}
}

// An address is judged the same in every dress.
func TestGuardSeesThroughDresses(t *testing.T) {
	g := &guard{own: own()}
	for range 20_000 {
		v := rand.Uint32()
		four := [4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
		ip := netip.AddrFrom4(four)
		translated := netip.MustParseAddr("64:ff9b::").As16()
		copy(translated[12:], four[:])
		bare := g.check(ip, 80)
		for _, dressed := range []netip.Addr{netip.AddrFrom16(ip.As16()), netip.AddrFrom16(translated)} {
			if err := g.check(dressed, 80); (err == nil) != (bare == nil) {
				t.Fatalf("%v: %v, but %v: %v", ip, bare, dressed, err)
			}
		}
	}
}

func TestGuardRefusesWhatItCannotRead(t *testing.T) {
	g := &guard{own: own()}
	for _, address := range []string{"", "8.8.8.8", "/run/docker.sock", "localhost:80"} {
		if err := g.control("tcp", address, nil); err == nil {
			t.Errorf("%q was let through", address)
		}
	}
	var refused *refusedAddress
	if err := g.control("tcp4", "127.0.0.1:80", nil); !errors.As(err, &refused) {
		t.Errorf("127.0.0.1:80: %v", err)
	}
}

// FuzzWebHost: what is taken for the name of a web server is nothing that any
// library could take for an address, a port, a user or a path.
func FuzzWebHost(f *testing.F) {
	for _, s := range []string{"www.example.com", "127.1", "0x7f.1", "[::1]", "a@b.com", "a.b.com:80", "xn--fiqs8s.cn", "a..com", "www.example.0x7f", "www.example.0b1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if err := webHost(host); err != nil {
			if len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\r\x00\x1b") {
				t.Errorf("it is told as %.200q", err.Error())
			}
			return
		}
		u, err := url.Parse("http://" + host + "/x")
		if err != nil || u.Hostname() != host || u.Port() != "" || u.User != nil || u.Path != "/x" || !strings.Contains(host, ".") {
			t.Errorf("%q is taken, and means %v", host, u)
		}
		last := host[strings.LastIndex(host, ".")+1:]
		if _, err := strconv.ParseUint(last, 0, 64); err == nil || net.ParseIP(host) != nil {
			t.Errorf("%q is taken, and is an address", host)
		}
	})
}
