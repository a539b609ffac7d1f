package issuertest

import (
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/certmill/certmill/pkg/issuer"
)

// provable are the kinds that may prove that a spending call had no effect.
var provable = map[issuer.Kind]bool{
	issuer.Throttled: true, issuer.NeverSent: true, issuer.QuotaExhausted: true, issuer.Rejected: true, issuer.Credentials: true,
}

// Codes checks a cloud's table row by row, and that answers with each of its
// codes come out of the client as it says: read and spend make one call each to
// a cloud that answers with the code.
func Codes(t *testing.T, table *issuer.Table, read, spend func(t *testing.T, code string) error) {
	seen := map[string]bool{}
	for _, c := range table.Codes() {
		if seen[c.Code] {
			t.Errorf("%s is listed twice", c.Code)
		}
		seen[c.Code] = true
		row(t, c)
		code := strings.ReplaceAll(c.Code, "*", "Xyz") // of a family, one that has no row
		if found, ok := table.Lookup(code); !ok || found.Code != c.Code {
			t.Errorf("%s is found as %q", code, found.Code)
		}
		answer(t, read(t, code), code, c.Kind, c.Advice)
		kind, advice := c.On(true), c.Advice
		if kind != c.Kind {
			advice = issuer.Text{}
		}
		answer(t, spend(t, code), code, kind, advice)
	}
}

func row(t *testing.T, c issuer.Code) {
	t.Helper()
	if c.Source == "" || c.Kind.Does("en") == "" || c.Kind == issuer.UnknownOutcome {
		t.Errorf("%s: source %q, kind %q", c.Code, c.Source, c.Kind)
	}
	if c.Advice.EN == "" || strings.ContainsFunc(c.Advice.EN, func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
		t.Errorf("%s: advice in English %q", c.Code, c.Advice.EN)
	}
	if !strings.ContainsFunc(c.Advice.ZH, func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
		t.Errorf("%s: advice in Chinese %q", c.Code, c.Advice.ZH)
	}
	if c.NoEffect && !provable[c.Kind] {
		t.Errorf("%s: %q proves nothing about a spending call", c.Code, c.Kind)
	}
}

// answer checks the error of a call. No advice: that of the kind.
func answer(t *testing.T, err error, code string, kind issuer.Kind, advice issuer.Text) {
	t.Helper()
	e, ok := errors.AsType[*issuer.Error](err)
	if !ok || e.Kind != kind || e.Code != code || e.Message == "" || e.RequestID == "" {
		t.Errorf("%s: %v, want %q", code, err, kind)
		return
	}
	if advice == (issuer.Text{}) {
		advice = issuer.Text{EN: (&issuer.Error{Kind: kind}).Advice("en"), ZH: (&issuer.Error{Kind: kind}).Advice("zh")}
	}
	if e.Advice("en") != advice.EN || e.Advice("zh") != advice.ZH {
		t.Errorf("%s: advice %q, %q", code, e.Advice("en"), e.Advice("zh"))
	}
}
