package app

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/dcvtest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// TestNameServer runs orders of both clouds whose zones a real name server has,
// and that alone: certmill updates it, looks at it, and the clouds validate
// through it. Some names delegate their challenges by CNAME into another zone.
func TestNameServer(t *testing.T) {
	t.Parallel()
	n := dcvtest.BIND(t)
	n.Put(t, "example.co.uk", "_dnsauth.shop.example.co.uk", dcv.CNAME, "shop.dev.example.com")
	n.Put(t, "example.com", "_dnsauth.www0.example.com", dcv.TXT, "another's")
	before := map[string][]string{}
	for _, zone := range []string{"example.com", "dev.example.com", "example.co.uk"} {
		before[zone] = n.Content(t, zone)
	}

	dir := t.TempDir()
	c := inDir(dir)
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	c.Keys.Identity = filepath.Join(c.State, "identity.age")
	log := NewLogger(io.Discard, "error")
	h, err := openHouse(t.Context(), c, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.close() }()
	err = h.world.sim.SetConfig(func(c *cloudsim.Config) { c.Resolver, c.TencentRecordType = n.Addr, "TXT" })
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "tsig")
	if err := os.WriteFile(secret, []byte(dcvtest.Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &h.cfg.DCV
	d.Servers, d.Resolvers, d.Allow = []string{n.Addr}, []string{n.Addr}, []string{netip.MustParseAddrPort(n.Addr).Addr().String() + "/32"}
	d.Solvers = map[string]Solver{"bind": {Kind: kindRFC2136, Zones: []string{dcv.AnyZone}, Server: n.Addr, Key: dcvtest.Key, Secret: Ref("file:" + secret)}}
	if err := h.cfg.check(); err != nil {
		t.Fatal(err)
	}

	requests := []order.Request{{ID: "shop", Names: []string{"shop.example.co.uk"}, Account: sorted(h.cfg.Accounts)[0]}}
	for i := range 6 {
		for _, label := range sorted(h.cfg.Accounts) {
			if !strings.HasSuffix(label, "1") {
				continue
			}
			id := fmt.Sprintf("%s-%d", label, i)
			requests = append(requests, order.Request{ID: id, Names: []string{fmt.Sprintf("www%d.%s.example.com", i, label)}, Account: label})
		}
	}
	requests = append(requests, order.Request{ID: "www0", Names: []string{"www0.example.com"}, Account: sorted(h.cfg.Accounts)[0]})
	all := runOrders(t, h, requests)
	for id, it := range all {
		if it.State != order.Issued {
			t.Errorf("%s: %s %s", id, it.State, Why(it.Order))
		}
	}

	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if cmp.Equal(before["example.com"], n.Content(t, "example.com")) && cmp.Equal(before["dev.example.com"], n.Content(t, "dev.example.com")) {
			break
		}
	}
	for zone, was := range before {
		if diff := cmp.Diff(was, n.Content(t, zone)); diff != "" {
			t.Errorf("%s after all (-before +after):\n%s", zone, diff)
		}
	}
	if n.Serial(t, "dev.example.com") == 1 || n.Serial(t, "example.com") == 1 {
		t.Error("nothing was written at the name server")
	}
	if records := h.world.sim.Report().DNS; len(records.Writers) > 0 {
		t.Errorf("written at the clouds' own DNS: %+v", records.Writers)
	}
}

// runOrders has workers of all roles bring orders to their ends.
func runOrders(t *testing.T, h *house, requests []order.Request) map[string]pipeline.Item {
	t.Helper()
	log := NewLogger(io.Discard, "error")
	p, err := NewProcess(h.workers(), "test", true, log, order.Roles...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 90*time.Second)
	defer stop()
	worked := make(chan error, 1)
	go func() { worked <- p.Run(ctx, order.Roles...) }()
	console, err := OpenConsole(ctx, h.cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	in, err := console.handIn(ctx, requests, false)
	if err != nil {
		t.Fatal(err)
	}
	all, err := console.follow(ctx, in.wanted, func(Progress) {})
	if err != nil {
		t.Errorf("follow: %v", err)
	}
	stop()
	if err := <-worked; err != nil {
		t.Error(err)
	}
	return all
}
