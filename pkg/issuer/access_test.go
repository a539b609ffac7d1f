package issuer_test

import (
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/issuer"
)

func TestParseEndpoint(t *testing.T) {
	for _, good := range []string{"https://api.example.com", "http://127.0.0.1:8080", "http://127.0.0.1:8080/", "https://[::1]:443"} {
		if _, err := issuer.ParseEndpoint(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"api.example.com", "ftp://api.example.com", "https://", "https://:443", "https://api.example.com/path",
		"https://api.example.com?x=1", "https://api.example.com#x", "https://user:canary@api.example.com", "http://[bad"} {
		_, err := issuer.ParseEndpoint(bad)
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestServiceAt(t *testing.T) {
	for endpoint, want := range map[string]string{
		"":                                  "https://sts.vendor.example",
		"https://ssl.vendor.example":        "https://sts.vendor.example",
		"http://SSL.Vendor.Example.:443":    "https://sts.vendor.example",
		"https://ssl.eu.vendor.example":     "https://sts.vendor.example",
		"https://vendor.example":            "https://sts.vendor.example",
		"https://notvendor.example":         "https://notvendor.example",
		"https://vendor.example.net":        "https://vendor.example.net",
		"https://vendor.example@evil.net":   "https://vendor.example@evil.net",
		"http://127.0.0.1:8080":             "http://127.0.0.1:8080",
		"http://gateway/?to=vendor.example": "http://gateway/?to=vendor.example",
		"vendor.example":                    "vendor.example",
		"http://[bad":                       "http://[bad",
	} {
		if got := issuer.ServiceAt(endpoint, "vendor.example", "https://sts.vendor.example"); got != want {
			t.Errorf("%q: %q, want %q", endpoint, got, want)
		}
	}
}
