package app

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/certmill/certmill/pkg/order"
)

// unchecked reads a config as Parse does, but for what it refuses.
func unchecked(t *testing.T, text, state string) Config {
	t.Helper()
	c := Defaults()
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	c.fill()
	if c.NATS.Listen == "" {
		c.NATS.Listen = "127.0.0.1:0"
	}
	c.Rest(state)
	c.Deliver.Directory = filepath.Join(filepath.Dir(state), "certs")
	return c
}

// refusedRun runs, is refused, and returns why.
func refusedRun(t *testing.T, c Config) string {
	t.Helper()
	_, err := Run(t.Context(), RunOptions{Config: c, Files: []string{example}, Log: quiet, View: &seen{}})
	if err == nil {
		t.Fatal("it ran")
	}
	return err.Error()
}

func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestConfigCheckRefusesWhatRunRefuses: what the config alone tells is refused by both in the
// same words, and a run that is refused leaves nothing.
func TestConfigCheckRefusesWhatRunRefuses(t *testing.T) {
	t.Parallel()
	account := func(lines string) string {
		return "accounts:\n  a:\n    cloud: aliyun\n    key_id: env:ID\n    secret: env:SECRET\n" + lines
	}
	solver := func(text string) string { return account("") + "dcv: {solvers: {s: {zones: ['*'], " + text + "}}}\n" }
	for what, text := range map[string]string{
		"an open address without users": "nats: {listen: '0.0.0.0:0'}\n",
		"no address":                    "nats: {listen: here}\n",
		"no port":                       "nats: {listen: '127.0.0.1:99999'}\n",
		"a user's password in clear":    "nats: {listen: '0.0.0.0:0', users: {shop: hunter2-hunter2}}\n",
		"a secret in clear":             strings.Replace(account(""), "env:SECRET", "LTAI5tSecretSecret", 1),
		"an endpoint with a path":       account("    endpoint: https://cas.example/v1\n"),
		"an endpoint with a password":   account("    dns_endpoint: https://eve:hunter2@cas.example\n"),
		"probes nowhere":                "listen: nowhere\n",
		"a resolver without a port":     account("") + "dcv: {resolvers: [192.0.2.53]}\n",
		"a server without a port":       account("") + "dcv: {servers: [ns.example]}\n",
		"an unknown TSIG algorithm":     solver("kind: rfc2136, server: 'ns.example:53', key: k, algorithm: md4, secret: env:SECRET"),
		"a webhook that is no URL":      solver("kind: webhook, url: 'ftp://hook.example'"),
		"a program without a path":      solver("kind: exec, command: [hook.sh]"),
		"a bucket that is no URL":       "dcv: {bucket: name}\n",
		"a bucket of nobody's":          "dcv: {bucket: 'nosuch://name'}\n",
		"a bucket with a password":      "dcv: {bucket: 's3://eve:hunter2@name'}\n",
		"a publisher of no account":     "publishers: {shop: {accounts: [nosuch]}}\n",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(text)) // which every command does
			if err == nil {
				t.Fatal("config --check says ok")
			}
			dir := t.TempDir()
			if why := refusedRun(t, unchecked(t, text, filepath.Join(dir, "state"))); why != err.Error() {
				t.Errorf("the run says %q, and the check %q", why, err)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "SecretSecret") {
				t.Errorf("it repeats a secret: %v", err)
			}
			if made := left(t, dir); len(made) > 0 {
				t.Errorf("it left %v", made)
			}
		})
	}
}

// TestARefusedRunLeavesNothing: what only the machine can tell is refused before
// anything is begun, or is taken back; what lay there stays.
func TestARefusedRunLeavesNothing(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	const accounts = "accounts:\n  a:\n    cloud: aliyun\n    key_id: env:CERTMILL_TEST_NOTHING\n    secret: env:CERTMILL_TEST_NOTHING\n"
	for what, text := range map[string]string{
		"a secret is not there":             accounts,
		"a user's password is not there":    "nats: {listen: '0.0.0.0:0', users: {shop: env:CERTMILL_TEST_NOTHING}}\n",
		"the port is another program's":     "nats: {listen: '" + taken.Addr().String() + "'}\n",
		"the probes' port is taken":         "listen: '" + taken.Addr().String() + "'\n",
		"the identity is none":              "keys: {identity: refused_test.go}\n",
		"the identity opens no recipient's": "keys: {identity: IDENTITY, recipients: [" + identityAt(t, filepath.Join(t.TempDir(), "other")) + "]}\n",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			mine := filepath.Join(t.TempDir(), "identity")
			identityAt(t, mine)
			text := strings.ReplaceAll(text, "IDENTITY", mine)
			dir := t.TempDir()
			refusedRun(t, unchecked(t, text, filepath.Join(dir, "state")))
			if made := left(t, dir); slices.Contains(made, "state") {
				t.Errorf("it left %v, in the state folder %v", made, left(t, filepath.Join(dir, "state")))
			}
			there := filepath.Join(t.TempDir(), "there")
			if err := os.MkdirAll(filepath.Join(there, "mine"), 0o700); err != nil {
				t.Fatal(err)
			}
			refusedRun(t, unchecked(t, text, there))
			if made := left(t, there); !slices.Equal(made, []string{"mine"}) {
				t.Errorf("it left %v", made)
			}
		})
	}
}

// TestARefusedRunKeepsAnEarlierLife: nothing is taken away where a run has worked.
func TestARefusedRunKeepsAnEarlierLife(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := inDir(dir)
	if err := claimState(c); err != nil {
		t.Fatal(err)
	}
	makeStore(t, c)
	before := filesIn(t, c.State)
	c.Keys.Identity = "refused_test.go"
	refusedRun(t, c)
	if now := filesIn(t, c.State); len(now) < len(before) {
		t.Errorf("left are %d of %d files", len(now), len(before))
	}
}

// TestNothingIsDecidedWhereNoRunWorked: a verb for the server of a state folder makes none.
func TestNothingIsDecidedWhereNoRunWorked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	err := OnServer(t.Context(), inDir(dir), func(Config) error { t.Error("it began"); return nil })
	wantWords(t, "accept-store", err, "no certmill run has worked in the state folder", "--state")
	if made := left(t, dir); len(made) > 0 {
		t.Errorf("it left %v", made)
	}
}

// TestWorkerWhoseProbesNobodyReaches: a worker begins nothing where its probes' port is
// another program's.
func TestWorkerWhoseProbesNobodyReaches(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	c := withClouds(t, "nats://127.0.0.1:1", 1)
	c.Listen = taken.Addr().String()
	wantWords(t, "the worker", Work(t.Context(), c, order.Submitter), "listen", c.Listen, "write another host:port")
}
