package dcv

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A machine without IPv6 cannot be had at will, so the errors are made.
func TestReachable(t *testing.T) {
	noWay := &net.OpError{Op: "dial", Net: "udp", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}
	noPort := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}
	got := reachable([]view{
		{server: server{"ns1", "192.0.2.1:53"}},
		{server: server{"ns1", "[2001:db8::1]:53"}, err: noWay}, // ns1 was asked
		{server: server{"ns2", "[2001:db8::2]:53"}, err: noWay}, // nobody asked ns2
		{server: server{"ns3", "192.0.2.3:53"}},
		{server: server{"ns3", "[2001:db8::3]:53"}, err: errors.New("i/o timeout")}, // it may lag
		{server: server{"ns4", "192.0.2.4:53"}, err: errors.New("i/o timeout")},
		{server: server{"ns4", "[2001:db8::4]:53"}, err: noWay},
		{server: server{"ns5", "192.0.2.5:53"}},
		{server: server{"ns5", "192.0.2.6:53"}, err: noPort}, // not asked, and it may lag
		{server: server{"ns5", "[2001:db8::5]:53"}, err: noPort},
		{server: server{"ns6", "10.0.0.6:53"}, err: &refusedAddress{}}, // no CA can ask it either
	})
	if alone := reachable([]view{{server: server{"ns6", "10.0.0.6:53"}, err: &refusedAddress{}}}); len(alone) != 1 {
		t.Error("a zone whose only server is not public looks fine")
	}
	var addrs []string
	for _, v := range got {
		addrs = append(addrs, v.addr)
	}
	want := []string{"192.0.2.1:53", "[2001:db8::2]:53", "192.0.2.3:53", "[2001:db8::3]:53", "192.0.2.4:53", "[2001:db8::4]:53",
		"192.0.2.5:53", "192.0.2.6:53"}
	if diff := cmp.Diff(want, addrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
