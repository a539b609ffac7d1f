package hook_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/hook"
	"github.com/certmill/certmill/pkg/order"
)

// Issue 18, point 12: a web service that repeats its token, in whole or where what
// is kept of its answer ends.
func TestHooksRepeatNoSecret(t *testing.T) {
	const token, query = "canary-of-the-webhook", "canary-of-the-query"
	for fill := 470; fill <= 500; fill++ {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, strings.Repeat("x", fill)+r.Header.Get("Authorization")+" "+r.URL.RawQuery)
		}))
		s, err := hook.NewWebhook(hook.WebhookConfig{URL: server.URL + "/?key=" + query, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Present(t.Context(), order.Challenge{Type: dcv.TXT, Host: "_dnsauth.example.com", Value: "v"})
		server.Close()
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%d: %v", fill, err)
		}
		if err := s.Present(t.Context(), order.Challenge{Type: dcv.TXT, Host: "_dnsauth.example.com", Value: "v"}); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("without a server: %v", err)
		}
	}
}
