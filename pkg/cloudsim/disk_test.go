package cloudsim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/services/alidns"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// failing is a disk whose n-th step fails, and with it those that follow.
type failing struct {
	mu           sync.Mutex
	n, following int
	steps        int
}

func (f *failing) fail(step string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.steps++; f.steps < f.n || f.steps > f.n+f.following {
		return nil
	}
	return fmt.Errorf("%s: %w", step, syscall.EIO)
}

// TestBooksOnAFailingDisk: whichever write fails, alone or with those behind it,
// its call is refused and is not done, the simulator goes on by itself, and
// another one on the folder knows exactly what this one has told.
func TestBooksOnAFailingDisk(t *testing.T) {
	t.Parallel()
	whole := &failing{n: 1_000_000}
	lifeOn(t, whole)
	if whole.steps < 8 {
		t.Errorf("only %d steps are taken", whole.steps)
	}
	for n := range whole.steps {
		for _, following := range []int{0, 2} {
			t.Run(fmt.Sprintf("%d+%d", n+1, following), func(t *testing.T) {
				t.Parallel()
				lifeOn(t, &failing{n: n + 1, following: following})
			})
		}
	}
}

// lifeOn orders a certificate, has it issued, and looks at the books.
func lifeOn(t *testing.T, broken *failing) {
	t.Helper()
	cfg := quick()
	cfg.Dir = t.TempDir()
	cfg.Accounts = []cloudsim.Account{{Cloud: "aliyun", Label: "a", UID: aliUID, AccessKeyID: aliKey,
		AccessKeySecret: aliSecret, Products: map[string]int{paid: 5}}}
	cfg.FailDisk(broken.fail)
	sim, err := cloudsim.Start(context.WithoutCancel(t.Context()), cfg)
	for tries := 0; errors.Is(err, syscall.EIO) && tries < 6; tries++ {
		sim, err = cloudsim.Start(context.WithoutCancel(t.Context()), cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sim.Close() }()
	a := aliClient(t, sim, aliKey, aliSecret)
	id := patiently(t, func() (int64, error) { return a.order(nil) })
	if all := sim.Report().Orders; len(all) != 1 {
		t.Errorf("%d orders were made", len(all))
	}
	s := a.until(id, "domain_verify")
	name, zone, _ := strings.Cut(s.RecordDomain, ".example.com")
	record := patiently(t, func() (string, error) { return a.add("example.com"+zone, name, s.RecordType, s.RecordValue) })
	a.until(id, "certificate")
	patiently(t, func() (struct{}, error) {
		r := alidns.CreateDeleteDomainRecordRequest()
		r.RecordId = record
		_, err := a.dns.DeleteDomainRecord(r)
		return struct{}{}, err
	})
	told := sim.Report()
	if err := sim.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(cfg.Dir, "books.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if !json.Valid(line) {
			t.Errorf("there is a torn line: %.100q", line)
		}
	}
	cfg.FailDisk(nil)
	after, err := cloudsim.Start(context.WithoutCancel(t.Context()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = after.Close() }()
	knows := after.Report()
	if !bytes.Equal(asJSON(t, knows.Orders), asJSON(t, told.Orders)) || len(told.Orders) != 1 {
		t.Errorf("it knows %+v and told %+v", knows.Orders, told.Orders)
	}
	if len(knows.DNS.Records) != len(told.DNS.Records) {
		t.Errorf("it knows %+v and told %+v", knows.DNS.Records, told.DNS.Records)
	}
	if !bytes.Equal(after.RootPEM(), sim.RootPEM()) {
		t.Error("it has another CA")
	}
}

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// patiently makes a call until it is not refused by the simulator's own error.
func patiently[T any](t *testing.T, call func() (T, error)) T {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		v, err := call()
		if err == nil {
			return v
		}
		if !strings.HasPrefix(code(err), "500") || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestBooksOnAFullDisk: while the disk is full a call waits, and is done when there
// is room; it is not made twice.
func TestBooksOnAFullDisk(t *testing.T) {
	t.Parallel()
	var fullUntil atomic.Int64
	cfg := quick()
	cfg.Dir = t.TempDir()
	cfg.FailDisk(func(step string) error {
		if time.Now().UnixNano() < fullUntil.Load() {
			return fmt.Errorf("%s: %w", step, syscall.ENOSPC)
		}
		return nil
	})
	a := startAli(t, cfg)
	fullUntil.Store(time.Now().Add(400 * time.Millisecond).UnixNano())
	began := time.Now()
	if _, err := a.order(nil); err != nil {
		t.Fatal(err)
	}
	if time.Since(began) < 300*time.Millisecond {
		t.Errorf("it was taken after %v", time.Since(began))
	}
	if all := a.Report().Orders; len(ordersOf(all, "package")) != 1 {
		t.Errorf("%d orders were made", len(all))
	}
}

func ordersOf(all []cloudsim.OrderReport, kind string) (of []cloudsim.OrderReport) {
	for _, o := range all {
		if o.Kind == kind {
			of = append(of, o)
		}
	}
	return of
}

// TestTornBooks: a torn tail is cut, also one that an earlier simulator wrote
// over; what is no line at all is refused.
func TestTornBooks(t *testing.T) {
	dir := t.TempDir()
	cfg := quick()
	cfg.Dir = dir
	a := startAli(t, cfg)
	id := a.mustOrder(nil)
	a.until(id, "domain_verify")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "books.jsonl")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	last := lines[len(lines)-2]
	for _, tt := range []struct {
		name string
		text []byte
		ok   bool
	}{
		{"a torn tail", append(bytes.Clone(whole), last[:len(last)/2]...), true},
		{"all but its newline", append(bytes.Clone(whole), last[:len(last)-1]...), true},
		{"a torn line that was written over", append(append(bytes.Clone(whole), last[:len(last)/2]...), last...), true},
		{"torn at once", append(append(bytes.Clone(whole), '{'), last...), true},
		{"something else", append(bytes.Clone(whole), "what?\n"...), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := quick()
			cfg.Dir = t.TempDir()
			if err := os.WriteFile(filepath.Join(cfg.Dir, "books.jsonl"), tt.text, 0o600); err != nil {
				t.Fatal(err)
			}
			sim, err := cloudsim.Start(context.WithoutCancel(t.Context()), cfg)
			if (err == nil) != tt.ok {
				t.Fatalf("%v", err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), "hand the order files in again") {
					t.Errorf("it does not say what helps: %v", err)
				}
				return
			}
			defer func() { _ = sim.Close() }()
			if all := sim.Report().Orders; len(all) != 1 {
				t.Errorf("it knows %d orders", len(all))
			}
		})
	}
}
