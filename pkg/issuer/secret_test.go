package issuer_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/permit"
)

// What a client was made with is taken out of every answer, before anybody reads
// it, and an id that repeats it is none.
func TestAnswersRepeatNoSecret(t *testing.T) {
	const secret = "canary-of-the-transport"
	to := issuer.Access{KeyID: "key", Secret: secret, Main: "main", Permits: permit.NewSet(func(permit.Key) permit.Limit { return permit.Limit{} })}
	if err := to.Check(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"Message":"quota of `+secret+`","Escaped":"\u0063anary-of-the-transport"}`)
	}))
	defer server.Close()
	answer, err := newRig(server.URL, 2*time.Second, nil).call(t.Context(), "POST", "x")
	if err != nil || answer != `{"Message":"quota of [redacted]","Escaped":"[redacted]"}` {
		t.Errorf("%s, %v", answer, err)
	}
	for id, want := range map[string]string{"cas-cn-1": "cas-cn-1", "98987582437920968": "98987582437920968", "x-" + secret: "", "[redacted]": "",
		"two words": "", "a.b": "", "*": "", ">": "", "": ""} {
		if got := issuer.ID(id); got != want {
			t.Errorf("%q is the id %q", id, got)
		}
	}
}

// DESIGN 12.7: a difference stops that account only: nothing is called with an account
// that is not who the config says, and nothing of such a call has left.
func TestGate(t *testing.T) {
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls++ }))
	defer server.Close()
	r := newRig(server.URL, 2*time.Second, nil)
	r.caller.Gate = shut
	_, err := r.call(t.Context(), "POST", "x")
	wantKind(t, err, issuer.NeverSent)
	if !strings.Contains(err.Error(), "write main") {
		t.Errorf("%v", err)
	}
	_, _, err = r.caller.Reserve(t.Context(), "Act")
	wantKind(t, err, issuer.NeverSent)
	if calls > 0 {
		t.Errorf("%d calls passed", calls)
	}
	if stats := r.caller.Permits.Stats(); len(stats) > 0 {
		t.Errorf("permits were asked for: %+v", stats)
	}
}

func shut(context.Context) error { return errors.New("write main") }
