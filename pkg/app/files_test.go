package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/file/shared"
	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func fetch(t *testing.T, addr, host, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host, req.Close = host, true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// Two verifiers serve, each on a connection and a listener of its own: what one
// placed, the other answers for, and the third, which the collector has, takes
// back.
func TestAnyReplicaServes(t *testing.T) {
	server := natstest.Server(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	if _, err := stream.Ensure(ctx, natstest.Connect(t, server), shared.Config(1)); err != nil {
		t.Fatal(err)
	}
	var replicas []files
	var addrs []string
	for range 2 {
		f, err := openFiles(ctx, DCV{Serve: freeAddr(t)}, natstest.Connect(t, server), 1)
		if err != nil {
			t.Fatal(err)
		}
		replicas, addrs = append(replicas, f), append(addrs, freeAddr(t))
		addr := addrs[len(addrs)-1]
		go func() { ended <- serveFiles(ctx, addr, f.handler, NewLogger(io.Discard, "error")) }()
		awaitListener(t, addr)
	}
	c := order.Challenge{Type: dcv.FILE, Host: "www.example.com", Path: "/.well-known/pki-validation/fileauth.txt", Value: "value"}
	if err := replicas[0].Present(ctx, c); err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if status, body := fetch(t, addr, c.Host, c.Path); status != http.StatusOK || body != "value" {
			t.Errorf("%d %q", status, body)
		}
		if status, body := fetch(t, addr, "example.com", c.Path); status != http.StatusNotFound {
			t.Errorf("another host: %d %q", status, body)
		}
	}
	if err := replicas[1].CleanUp(ctx, c); err != nil {
		t.Fatal(err)
	}
	if status, _ := fetch(t, addrs[0], c.Host, c.Path); status != http.StatusNotFound {
		t.Errorf("after the clean-up: %d", status)
	}
	if err := serveFiles(ctx, addrs[0], replicas[0].handler, NewLogger(io.Discard, "error")); !errors.Is(err, errServe) {
		t.Errorf("a port that is taken: %v", err)
	}
	stop()
	for range addrs {
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	}
}

func awaitListener(t *testing.T, addr string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestRunServesFiles: orders that are proved by files, which the verifier itself
// serves, and of which none is left.
func TestRunServesFiles(t *testing.T) {
	t.Parallel()
	dir, v := t.TempDir(), &seen{}
	c := inDir(dir)
	c.DCV.Files, c.DCV.Serve = "", freeAddr(t)
	var lines strings.Builder
	for i, label := range []string{"aliyun-1", "tencent-1"} {
		fmt.Fprintf(&lines, `{"id":"served-%d","names":["www%d.example.com"],"account":"%s","validation":"FILE"}`+"\n", i, i, label)
	}
	orders := filepath.Join(dir, "orders.jsonl")
	if err := os.WriteFile(orders, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	sum, err := Run(t.Context(), RunOptions{Config: c, Files: []string{orders}, Log: NewLogger(io.Discard, "error"), View: v})
	if err != nil || sum.Issued != 2 {
		t.Fatalf("%+v, %v", sum, err)
	}
	embedded, err := StartEmbedded(c.State, c.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer embedded.Stop()
	js := connectAs(t, embedded.As(Admin))
	bucket, err := js.Stream(t.Context(), "KV_"+shared.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	info := bucket.CachedInfo()
	if all := info.State.LastSeq - (info.Config.FirstSeq - 1); info.State.Msgs != 0 || all != 2 {
		t.Errorf("%d of %d files are left, want 0 of 2", info.State.Msgs, all)
	}
}

func TestPlaceOfFiles(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "",
		"dcv: {files: /var/www}":               "",
		"dcv: {bucket: 's3://b?region=x'}":     "",
		"dcv: {serve: '0.0.0.0:8081'}":         "",
		"dcv: {serve: ':80', allow: ['::/0']}": "",
		"dcv: {files: /f, serve: ':80'}":       "dcv.files and dcv.serve exclude each other",
		"dcv: {bucket: 's3://b', serve: ':1'}": "dcv.bucket and dcv.serve exclude each other",
		"dcv: {files: /f, bucket: 's3://b'}":   "dcv.files and dcv.bucket exclude each other",
		"dcv: {serve: '8081'}":                 `dcv.serve is "8081": write host:port`,
		"dcv: {allow: [10.0.0.1]}":             `dcv.allow has "10.0.0.1": write networks`,
	} {
		c, err := Parse([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		if err == nil && (c.DCV.Files == "") != (c.DCV.Bucket+c.DCV.Serve != "") {
			t.Errorf("%s: files go to %q, %q and %q", text, c.DCV.Files, c.DCV.Bucket, c.DCV.Serve)
		}
	}
	if err := (DCV{Bucket: "file:///var/www"}).prepareFiles(); err == nil || !strings.Contains(err.Error(), "dcv.bucket") {
		t.Errorf("a URL that no driver takes: %v", err)
	}
}
