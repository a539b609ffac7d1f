package dcv_test

import (
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/dcv"
)

func TestSplit(t *testing.T) {
	zones := map[string]bool{"example.com": true, "dev.example.com": true, "example.co.uk": true, "com.cn": true,
		"com.example.com.cn": true, "a.a": true, "xn--fiqs8s.example.com": true}
	for _, c := range []struct{ host, zone, rr string }{
		{"_dnsauth.www.example.com", "example.com", "_dnsauth.www"},
		{"example.com", "example.com", "@"},
		{"Example.COM.", "example.com", "@"},
		{"_dnsauth.dev.example.com", "dev.example.com", "_dnsauth"},
		{"dev.example.com", "dev.example.com", "@"},
		{"_dnsauth.notdev.example.com", "example.com", "_dnsauth.notdev"},
		{"_dnsauth.xdev.example.com", "example.com", "_dnsauth.xdev"},
		{"_dnsauth.example.co.uk", "example.co.uk", "_dnsauth"},
		{"_dnsauth.example.com.example.com", "example.com", "_dnsauth.example.com"}, // the zone's name twice
		{"_dnsauth.com.example.com.cn", "com.example.com.cn", "_dnsauth"},
		{"_dnsauth.example.com.cn", "com.cn", "_dnsauth.example"},
		{"a.a.a.a", "a.a", "a.a"},
		{"_dnsauth.xn--fiqs8s.example.com", "xn--fiqs8s.example.com", "_dnsauth"},
		{"_dnsauth.badexample.com", "", ""}, // a suffix of the text, not of the labels
		{"co.uk", "", ""},
		{"com", "", ""},
		{"", "", ""},
	} {
		zone, rr, ok := dcv.Split(c.host, zones)
		if zone != c.zone || rr != c.rr || ok != (c.zone != "") {
			t.Errorf("Split(%q) = %q, %q, %v; want %q, %q", c.host, zone, rr, ok, c.zone, c.rr)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("_dnsauth.www.example.com", "example.com")
	f.Add("a.a.a", "a")
	f.Add("..", ".")
	f.Fuzz(func(t *testing.T, host, zone string) {
		got, rr, ok := dcv.Split(host, map[string]bool{zone: true})
		name := strings.ToLower(strings.TrimSuffix(host, "."))
		if ok && (got != zone || rr+"."+got != name && (rr != dcv.Apex || got != name)) {
			t.Errorf("Split(%q) = %q, %q, which is not that name", host, got, rr)
		}
	})
}
