package order

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

// normalName is a name in lower case, without white space around it and
// without the root's dot. Only ASCII letters are lowered: the Kelvin sign would
// otherwise become a k, and a name pass that nobody wrote.
func normalName(name string) string {
	name = asciiLower(strings.TrimSpace(name))
	// What is wrong stays as it is: doing it twice must change nothing.
	bare, dot := strings.CutSuffix(name, ".")
	if !dot || bare == "" || strings.HasSuffix(bare, ".") || strings.TrimSpace(bare) != bare {
		return name
	}
	return bare
}

func asciiLower(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}, s)
}

// toALabels is the name in the form that goes on the wire (RFC 5890, 2.3.2.1).
func toALabels(name string) (string, error) {
	base, wild := strings.CutPrefix(name, "*.")
	a, err := idna.Lookup.ToASCII(base)
	if err != nil {
		return "", err
	}
	if wild {
		a = "*." + a
	}
	return a, nil
}

// wrongName says what is wrong with a name in its normal form, or nothing.
func wrongName(name string) string {
	base, wild := strings.CutPrefix(name, "*.")
	switch {
	case name == "":
		return `an empty name: write a domain name such as "example.com", or leave it out`
	case isIP(name):
		return fmt.Sprintf("%s is an IP address, for which these clouds issue nothing: write the domain name that points to it", Quote(name))
	case !isASCII(name):
		return wrongUnicode(name)
	case strings.Contains(base, "*"):
		return fmt.Sprintf(`%s: a wildcard is the whole leftmost label and stands once (RFC 6125, 6.4.3): write "*.example.com"`, Quote(name))
	}
	if reason := wrongSyntax(name, base); reason != "" {
		return reason
	}
	return publicSuffix(name, base, wild)
}

func isIP(name string) bool {
	_, err := netip.ParseAddr(strings.Trim(strings.TrimPrefix(name, "*."), "[]"))
	return err == nil
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c >= utf8.RuneSelf }) < 0
}

func wrongUnicode(name string) string {
	a, err := toALabels(name)
	if err != nil {
		return fmt.Sprintf("%s has characters that no domain name may have (RFC 5892): write the name as it is registered", Quote(name))
	}
	if reason := wrongName(a); reason != "" {
		return fmt.Sprintf("%s means %s, and %s", Quote(name), Quote(a), reason)
	}
	return fmt.Sprintf("%s is not ASCII: write the A-label form (RFC 5890), %q", Quote(name), a)
}

// wrongSyntax applies RFC 1035, 2.3.4 (lengths), RFC 952 and 1123 (letters,
// digits, hyphens) and RFC 5890 (labels with "--").
func wrongSyntax(name, base string) string {
	if len(name) > 253 {
		return fmt.Sprintf("%s has %d characters, a domain name at most 253 (RFC 1035)", Quote(name), len(name))
	}
	if i := strings.IndexFunc(base, func(c rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-.", c) }); i >= 0 {
		return wrongCharacter(name, base[i:i+1])
	}
	labels := strings.Split(base, ".")
	for _, l := range labels {
		if reason := wrongLabel(l); reason != "" {
			return fmt.Sprintf("%s: %s", Quote(name), reason)
		}
	}
	last := labels[len(labels)-1]
	switch {
	case len(labels) == 1:
		return wrongSingleLabel(name, base)
	case strings.Trim(last, "0123456789") == "":
		return fmt.Sprintf("%s ends in a number, as no domain name does (RFC 3696, 2): write the full domain name", Quote(name))
	}
	return ""
}

// wrongSingleLabel tells a top-level domain from a host's name without its
// domain: the former is a public suffix of the list, the latter only falls under
// the list's default rule.
func wrongSingleLabel(name, base string) string {
	wildcard := strings.TrimSuffix(name, base) // "*." or nothing
	if _, listed := publicsuffix.PublicSuffix(base); listed {
		return fmt.Sprintf("%s: %q is a single label and a public suffix, under which names belong to different owners: write a name of your own under it, such as %q",
			Quote(name), base, wildcard+"yourname."+base)
	}
	return fmt.Sprintf("%s is a single label: write the full domain name, such as %q", Quote(name), wildcard+base+".example.com")
}

func wrongCharacter(name, c string) string {
	host := name
	if _, after, found := strings.Cut(host, "://"); found {
		host = after
	}
	if i := strings.IndexAny(host, "/:?#"); i >= 0 {
		host = host[:i]
	}
	switch {
	case c == "_":
		return fmt.Sprintf("%s has an underscore, which certificates do not allow (CA/Browser Forum BR, 7.1.4.2.1): write a name of letters, digits and hyphens", Quote(name))
	case host != name && host != "" && wrongName(normalName(host)) == "":
		return fmt.Sprintf("%s is no bare domain name: write %q", Quote(name), normalName(host))
	case strings.Contains(" ,;\t", c):
		return fmt.Sprintf("%s: write each name as an element of its own, %s", Quote(name), `["a.example.com", "b.example.com"]`)
	}
	return fmt.Sprintf("%s has the character %q: a domain name has letters, digits, hyphens and dots only", Quote(name), c)
}

func wrongLabel(l string) string {
	switch {
	case l == "":
		return "it has an empty label: write exactly one dot between two labels, and none in front"
	case len(l) > 63:
		return fmt.Sprintf("a label has %d characters, at most 63 are allowed (RFC 1035)", len(l))
	case l[0] == '-' || l[len(l)-1] == '-':
		return fmt.Sprintf("the label %q begins or ends with a hyphen (RFC 1123): write it without", l)
	case len(l) >= 4 && l[2:4] == "--":
		return wrongReserved(l)
	}
	return ""
}

// wrongReserved checks a label with hyphens in third and fourth place. Of these
// only A-labels are in use, and an A-label is one only if it is the encoding of
// a U-label and back (RFC 5890, 2.3.1 and 2.3.2.1).
func wrongReserved(l string) string {
	if !strings.HasPrefix(l, "xn--") {
		return fmt.Sprintf(`the label %q has "--" in third and fourth place, which RFC 5890 reserves: write the name as it is registered`, l)
	}
	u, err := idna.Lookup.ToUnicode(l)
	if err == nil {
		var a string
		if a, err = idna.Lookup.ToASCII(u); err == nil && a == l && u != l {
			return ""
		}
	}
	return fmt.Sprintf("the label %q is no valid A-label (RFC 5890): write the label that your registrar shows", l)
}

// publicSuffix refuses names that nobody can own. The private part of the list
// (github.io) counts too: its names belong to many.
func publicSuffix(name, base string, wild bool) string {
	suffix, _ := publicsuffix.PublicSuffix(base)
	if suffix == base {
		own := "yourname." + base
		if wild {
			own = "*." + own
		}
		return fmt.Sprintf("%s: %q is a public suffix, under which names belong to different owners: write a name of your own under it, such as %q", Quote(name), base, own)
	}
	// A rule such as *.kawasaki.jp makes every label under the base a suffix.
	const probe = "certmill-no-such-label."
	if under, _ := publicsuffix.PublicSuffix(probe + base); wild && under == probe+base {
		return fmt.Sprintf("%s covers public suffixes, under which names belong to different owners: write a name of your own, such as %q", Quote(name), "*.yourname.city."+base)
	}
	return ""
}
