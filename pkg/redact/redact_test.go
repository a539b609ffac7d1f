package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const canary = `ca/na+ry="x"&secret%77\9`

func words(secrets ...string) *Words {
	w := &Words{}
	w.Learn(secrets...)
	return w
}

// forms are what a test looks for, made in another way than the product's.
func forms(secret string) map[string]string {
	quoted, _ := json.Marshal(secret)
	return map[string]string{
		"clear": secret, "base64": base64.StdEncoding.EncodeToString([]byte(secret)), "base64 for URLs": base64.URLEncoding.EncodeToString([]byte(secret)),
		"hex": hex.EncodeToString([]byte(secret)), "HEX": fmt.Sprintf("%X", secret), "query": url.QueryEscape(secret), "path": url.PathEscape(secret),
		"JSON": strings.Trim(string(quoted), `"`), "Go": strings.Trim(fmt.Sprintf("%q", secret), `"`),
	}
}

func TestEverySpellingIsTakenOut(t *testing.T) {
	w := words("short", canary, "another-secret-0815")
	for name, form := range forms(canary) {
		got := w.Text("before " + form + " after")
		if strings.Contains(got, form) || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, text := range []string{"", "a short text about nothing", "another-secret-081"} {
		if got := w.Text(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// Whatever a program escapes for URLs and whatever it leaves, and where that was
// escaped once more, nothing is left, and what stands around it is.
func TestWhateverIsEscaped(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.StringMatching(`[a-z/+=%!'()*~:@]{8,20}[a-z]`).Draw(t, "secret")
		small := rapid.Bool().Draw(t, "small")
		escape := func(s, what string) string {
			var b strings.Builder
			for i, c := range []byte(s) {
				form := fmt.Sprintf("%%%02X", c)
				if small {
					form = strings.ToLower(form)
				}
				if c != '%' && !rapid.Bool().Draw(t, fmt.Sprint(what, i)) {
					form = string(c)
				}
				b.WriteString(form)
			}
			return b.String()
		}
		for _, form := range []string{escape(secret, "once"), escape(escape(secret, "in"), "out")} {
			got := words(secret).Text("100% before " + form + " %41fter %")
			middle, first := strings.CutPrefix(got, "100% before ")
			middle, last := strings.CutSuffix(middle, " %41fter %")
			if !first || !last || middle != Mark {
				t.Fatalf("%q as %q: %q", secret, form, got)
			}
		}
	})
}

// In base64 of something longer a secret looks different, by where it begins.
func TestInsideBase64(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.SliceOfN(rapid.Byte(), 0, 7).Draw(t, "before")
		after := rapid.SliceOfN(rapid.Byte(), 0, 7).Draw(t, "after")
		secret := rapid.StringMatching(`[!-~]{8,40}`).Draw(t, "secret")
		w := words(secret)
		whole := base64.StdEncoding.EncodeToString([]byte(string(before) + secret + string(after)))
		got := w.Text(whole)
		back, err := base64.StdEncoding.DecodeString(got)
		if err != nil || bytes.Contains(back, []byte(secret)) {
			t.Fatalf("%q is in %q: %v", secret, back, err)
		}
	})
}

// Whatever stands around it, and in whatever order secrets overlap, none is left.
func TestNoneIsLeft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secrets := rapid.SliceOfN(rapid.StringMatching(`[abAB/+%]{8,12}`), 1, 4).Draw(t, "secrets")
		w := words(secrets...)
		var all []string
		for _, s := range secrets {
			for _, form := range forms(s) {
				all = append(all, form)
			}
		}
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(append(all, "x", " ", "ab")), 1, 6).Draw(t, "parts"), "")
		got := w.Text(text)
		for _, s := range secrets {
			if strings.Contains(got, s) {
				t.Fatalf("%q is left in %q of %q", s, got, text)
			}
		}
	})
}

func TestEscapedJSON(t *testing.T) {
	w := words("secret-of-letters")
	var b strings.Builder
	for _, c := range "secret-of-letters" {
		fmt.Fprintf(&b, `\u%04x`, c)
	}
	doc := `{"a":"` + b.String() + `","b":"\\u0073ecret","c":"quoted \u0022 \u005c \u00fc"}`
	var was, got map[string]string
	if err := errors.Join(json.Unmarshal([]byte(doc), &was), json.Unmarshal(w.JSON([]byte(doc)), &got)); err != nil {
		t.Fatal(err)
	}
	was["a"] = Mark
	for k := range was {
		if was[k] != got[k] {
			t.Errorf("%s: %q, want %q", k, got[k], was[k])
		}
	}
}

// A text that breaks off in the middle of a secret tells no part of it.
func TestHead(t *testing.T) {
	w := words("secret-of-letters")
	whole := "it says secret-of-letters and more"
	for n := range len(whole) {
		got := w.Head([]byte(whole[:n]), 500)
		if strings.Contains(got, "secr") {
			t.Errorf("broken off at %d: %q", n, got)
		}
	}
	if got := w.Head([]byte(whole), 12); got != "it says [red" {
		t.Errorf("%q", got)
	}
}

func TestError(t *testing.T) {
	w := words(canary)
	err := fmt.Errorf("answer %s: %w", canary, io.ErrUnexpectedEOF)
	got := w.Error(err)
	if strings.Contains(fmt.Sprintf("%v %+v %s", got, got, got), canary) || !errors.Is(got, io.ErrUnexpectedEOF) {
		t.Errorf("%v", got)
	}
	if plain := errors.New("nothing"); w.Error(plain) != plain || w.Error(nil) != nil {
		t.Error("an error without a secret is another one")
	}
}

type holder struct{ Inner map[string]string }

func TestLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(handler{slog.NewJSONHandler(&out, nil), words(canary)})
	log.With("with", canary).WithGroup("g").Info("message "+canary, "text", canary, "err", fmt.Errorf("x %w", errors.New(canary)),
		"any", holder{map[string]string{"k": canary}}, slog.Group("deep", "er", canary), "bytes", []byte(canary), "number", 7)
	for name, form := range forms(canary) {
		if strings.Contains(out.String(), form) {
			t.Errorf("%s: %s", name, out.String())
		}
	}
	if !strings.Contains(out.String(), `"number":7`) {
		t.Error(out.String())
	}
}

func TestClean(t *testing.T) {
	Learn("secret-of-the-process")
	for id, want := range map[string]bool{"cas-cn-1": true, "x" + Mark: false, "secret-of-the-process": false} {
		if Clean(id) != want {
			t.Errorf("%q: %v", id, !want)
		}
	}
}
