package issue

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// calls returns how often an action was called.
func (b Bill) calls(action string) int {
	for _, c := range b.Calls {
		if c.Action == action {
			return c.Calls
		}
	}
	return 0
}

// TestBatch issues a small batch with each program and looks at what must hold
// at any speed.
func TestBatch(t *testing.T) {
	t.Parallel()
	rows, err := Batch(t.Context(), BatchOptions{Orders: 12, Alone: 1, Pool: 6, Sequential: 1, Poll: 200 * time.Millisecond,
		Issue: cloudsim.Between(100*time.Millisecond, 200*time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 3 {
		t.Fatalf("%d rows, want 3", len(rows))
	}
	for _, r := range rows {
		if r.Delivered != r.Orders || r.Seconds <= 0 || r.Ended < r.Seconds || r.Ratio <= 0 {
			t.Errorf("%s: %+v", r.Who, r)
		}
		// Each order is bought once, and the calls of the order alone are not among them.
		if n := r.calls("CreateCertificateForPackageRequest"); n < r.Orders || n-r.Throttled > r.Orders {
			t.Errorf("%s: %d orders were bought with %d calls", r.Who, r.Orders, n)
		}
		if r.CAS < 2 || r.DNS < 2 {
			t.Errorf("%s: %.2f CAS calls and %.2f DNS calls per certificate", r.Who, r.CAS, r.DNS)
		}
	}
	if r := rows[0]; r.Wrong() != nil || r.Alone <= 0 || math.Abs(r.Allowed-1.05*12/10-r.Alone) > 1e-9 {
		t.Errorf("%s: %v, %+v", r.Who, r.Wrong(), r)
	}
	var b bytes.Buffer
	if err := WriteBatch(&b, rows); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"|  | certmill | " + poolName + " | " + sequentialName + " |", "| certificates on disk, as ordered | 12 | 6 | 1 |",
		"| – GetUserCertificateDetail | 1.000 |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
}

// TestSweep has certmill and the naive poller wait for a CA at twice the speed.
func TestSweep(t *testing.T) {
	t.Parallel()
	rows, err := Sweep(t.Context(), SweepOptions{Scenes: []Scene{
		{Orders: 15, Scale: 2, Waits: cloudsim.Between(2*time.Second, 3*time.Second), Naive: true, Bound: TenthOfWait}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 {
		t.Fatalf("%d rows, want 2", len(rows))
	}
	for _, r := range rows {
		if r.Issued != 15 || r.InFlight < 1 || r.InFlight > 15 || r.Allowed != 0.2 {
			t.Errorf("%s: %+v", r.Who, r)
		}
		if r.P50 <= 0 || r.P50 > r.P95 || r.P95 > r.Max {
			t.Errorf("%s noticed after %v, %v, %v s", r.Who, r.P50, r.P95, r.Max)
		}
	}
	if err := rows[0].Wrong(); err != nil {
		t.Error(err)
	}
	if n := rows[1].calls("ListUserCertificateOrder"); n != 0 {
		t.Errorf("the naive poller made %d list calls", n)
	}
	var b bytes.Buffer
	if err := WriteSweep(&b, rows); err != nil || !strings.Contains(b.String(), "is not scaled") {
		t.Errorf("table: %v\n%s", err, b.String())
	}
}

// TestInspect: a certificate of other names, a key that is not its own and a
// missing file are noticed.
func TestInspect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rows, err := Batch(t.Context(), BatchOptions{Pool: 3, Dir: dir, Poll: 100 * time.Millisecond, Issue: cloudsim.Exactly(time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	if rows[0].Delivered != 3 {
		t.Fatalf("%+v", rows[0])
	}
	folder, all := filepath.Join(dir, "0"), batchOf("batch", 3)
	chain := func(i int) string { return filepath.Join(folder, all[i].ID, chainFile) }
	key := func(i int) string { return filepath.Join(folder, all[i].ID, keyFile) }
	root := lastCertificate(t, chain(0))
	if got := inspect(folder, root, all); got.right != 3 || got.wrong != nil {
		t.Fatalf("%+v", got)
	}
	copyFile(t, chain(0), chain(1)) // of other names
	copyFile(t, key(0), key(1))
	copyFile(t, key(0), key(2)) // not its own
	if got := inspect(folder, root, all); got.right != 1 || !strings.Contains(got.wrong.Error(), all[1].ID) {
		t.Errorf("%+v", got)
	}
	if err := os.Remove(chain(0)); err != nil {
		t.Fatal(err)
	}
	if got := inspect(folder, root, all); got.right != 0 {
		t.Errorf("%+v", got)
	}
}

// TestUsedFolder: on an earlier run's state every order would be known, and the
// batch done in no time.
func TestUsedFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Batch(t.Context(), BatchOptions{Orders: 1, Dir: dir}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("Batch: %v", err)
	}
	if _, err := Sweep(t.Context(), SweepOptions{Scenes: []Scene{{Orders: 1}}, Dir: dir}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("Sweep: %v", err)
	}
}

// TestWrong: what fails the short form.
func TestWrong(t *testing.T) {
	for _, c := range []struct {
		name  string
		who   string
		there int
		bill  Bill
		want  string
	}{
		{"all well", certmill, 10, Bill{CAS: 3.2}, ""},
		{"one missing", certmill, 9, Bill{CAS: 3.2}, "9 of 10"},
		{"throttled", certmill, 10, Bill{CAS: 3.2, Throttled: 1}, "1 calls were throttled"},
		{"over the limit", certmill, 10, Bill{CAS: 3.2, OverLimit: 2}, "2 over the limit"},
		{"too many calls", certmill, 10, Bill{CAS: 6.5}, "6.5 CAS calls"},
		{"a rival may", poolName, 10, Bill{CAS: 9, Throttled: 5, OverLimit: 5}, ""},
		{"but must arrive", poolName, 9, Bill{}, "9 of 10"},
	} {
		err := c.bill.wrong(c.who, 10, c.there)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// lastCertificate is the last of a chain, the one nearest to the root, which
// stands for it as the anchor.
func lastCertificate(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data[bytes.LastIndex(data, []byte("-----BEGIN")):]
}

func TestMostAtOnce(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	orders := []cloudsim.OrderReport{
		{ValidatedAt: at(1), IssuedAt: at(5)}, {ValidatedAt: at(2), IssuedAt: at(6)}, {ValidatedAt: at(5), IssuedAt: at(9)},
		{}, // never validated
	}
	if n := mostAtOnce(orders); n != 2 {
		t.Errorf("%d, want 2: the third came when the first left", n)
	}
}

func TestQuantile(t *testing.T) {
	var all []time.Duration
	for i := range 100 {
		all = append(all, time.Duration(i+1)*time.Second)
	}
	for q, want := range map[float64]float64{0.5: 50, 0.95: 95, 1: 100, 0: 1} {
		if got := quantile(all, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("of nothing")
	}
}
