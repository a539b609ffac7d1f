package cirrus_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/file"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/issuertest"
	"github.com/certmill/certmill/pkg/lab/chaos"
	"github.com/certmill/certmill/pkg/lab/cirrus"
	"github.com/certmill/certmill/pkg/lab/cirrus/sky"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
)

// TestMain is the one line by which certmill learns of the cloud. The batteries
// start this very program as their workers and servers.
func TestMain(m *testing.M) {
	app.Register("cirrus", app.Provider{About: cirrus.About(), Open: func(a issuer.Access) (issuer.Cloud, dcv.Solver,
		error) {
		c, err := cirrus.New(a)
		return c, nil, err
	}})
	if chaos.Child() {
		return
	}
	natstest.Main(m)
}

// watched is a run's View that keeps what it is shown last.
type watched struct {
	mu    sync.Mutex
	steps []app.Step
}

func (w *watched) Started(app.Where)  {}
func (w *watched) HandedIn(_, _ int)  {}
func (w *watched) Moved(app.Progress) {}
func (w *watched) Ended(app.Summary)  {}
func (w *watched) Planned(s []app.Step, _ app.Batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps = s
}

// write writes a file below the test's folder and returns its path.
func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLine takes orders through the whole line, on an embedded server: the
// config names the cloud as it would any other.
func TestLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	web := httptest.NewServer(file.Handler(filepath.Join(dir, "files")))
	t.Cleanup(web.Close)
	cloud, err := sky.Start(sky.Config{Seed: 3, SignatureLife: 3 * time.Second, Web: strings.TrimPrefix(web.URL,
		"http://"), Latency: 20 * time.Millisecond,
		ProofDelay: 300 * time.Millisecond, IssueDelay: time.Second, ListLag: 300 * time.Millisecond,
		Accounts: []sky.Account{{Key: key, Secret: secret, Main: mainAccount, Plans: map[string]int{flock: 100,
			solo: 100}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cloud.Close)
	port := web.URL[strings.LastIndex(web.URL, ":")+1:]
	config, err := app.Parse([]byte(fmt.Sprintf(`
nats: {listen: "127.0.0.1:0"}
state: %[1]s/state
deliver: {directory: %[1]s/certs}
keys: {identity: %[1]s/identity.age}
dcv: {files: %[1]s/files, file_port: %[2]s, resolvers: ["%[3]s"], servers: ["%[3]s"], allow: [127.0.0.0/8]}
ack_wait: 2s
accounts:
  cirrus-1:
    cloud: cirrus
    main: %[4]s
    endpoint: %[5]s
    key_id: file:%[6]s
    secret: file:%[7]s
    contact: {email: pki@example.com}
    signature_life: 3s
    entry_life: 1s
    clocks: 1s
    list_lag: 1s
`, dir, port, cloud.DNS(), mainAccount, cloud.URL(), write(t, filepath.Join(dir, "key"), key), write(t, filepath.Join(dir, "secret"), secret))))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "files"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := certstore.OpenIdentity(config.Keys.Identity); err != nil {
		t.Fatal(err)
	}
	const n = 12
	var orders strings.Builder
	for i := range n {
		r := order.Request{ID: fmt.Sprint("o", i), Names: []string{fmt.Sprintf("o%d.shop.com", i)}}
		switch i % 4 {
		case 1:
			r.Names = append(r.Names, "www."+r.Names[0], "api."+r.Names[0])
		case 2:
			r.Product = solo
		case 3:
			r.CSR = issuertest.CSR(t, r.Names...)
		}
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		orders.Write(append(line, '\n'))
	}
	view := &watched{}
	sum, err := app.Run(t.Context(), app.RunOptions{Config: config, Log: app.NewLogger(os.Stderr, "error"), View: view,
		Files: []string{write(t, filepath.Join(dir, "orders.jsonl"), orders.String())}})
	if err != nil || !sum.OK() || sum.Issued != n {
		t.Fatalf("%+v, %v", sum, err)
	}
	for _, s := range view.steps {
		if s.Operation != "PlaceOrder" || !s.Spends || s.Account != "cirrus-1" {
			t.Errorf("planned %+v", s)
		}
	}
	for i := range n {
		if _, err := os.Stat(filepath.Join(dir, "certs", fmt.Sprint("o", i), "fullchain.pem")); err != nil {
			t.Error(err)
		}
	}
	books := cloud.Report()
	if len(books.Orders) != n || len(books.Twice) > 0 {
		t.Errorf("%d orders were paid, twice: %v", len(books.Orders), books.Twice)
	}
	for _, c := range books.Calls {
		if c.OverLimit > 0 || c.Throttled > 0 || c.Action != "WhoAmI" && c.Peak > 7 {
			t.Errorf("over the limit: %+v", c)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "files", "*", "*", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files were left behind: %v, %v", left, err)
	}
}
