package cloudsim

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

const (
	cloudAliyun  = "aliyun"
	cloudTencent = "tencent"

	typeTXT   = "TXT"
	typeCNAME = "CNAME"
	typeFILE  = "FILE"

	methodDNS  = "DNS"
	methodFILE = "FILE"
	methodAuto = "DNS_AUTO"
)

func contains(list []string, s string) bool { return slices.Contains(list, s) }

// registrable is the public suffix plus one label, the usual zone.
func registrable(name string) (string, error) {
	zone, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(strings.TrimSuffix(name, ".")))
	if err != nil {
		return "", fmt.Errorf("no registrable domain: %w", err)
	}
	return zone, nil
}

// aLabels is a name in A-labels, lower case, without its last dot. What is no IDN
// stays, for others to refuse.
func aLabels(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if ascii, err := idna.Punycode.ToASCII(name); err == nil {
		return ascii
	}
	return name
}

// uLabels is a name as its owner writes it.
func uLabels(name string) string {
	if u, err := idna.Punycode.ToUnicode(name); err == nil {
		return u
	}
	return name
}

// punyCode is PunyCode of alidns, returned for Chinese domain names only.
func punyCode(zone string) string {
	if uLabels(zone) == zone {
		return ""
	}
	return zone
}

// within says whether name is zone or lies below it.
func within(name, zone string) bool {
	return name == zone || strings.HasSuffix(name, "."+zone)
}

// base is the name at which a domain is validated: a wildcard at its parent.
func base(domain string) string { return strings.TrimPrefix(domain, "*.") }

func isWildcard(domain string) bool { return strings.HasPrefix(domain, "*.") }

// parseNames splits a comma-separated list, folds case and drops repetitions.
func parseNames(list string) ([]string, error) {
	var names []string
	for part := range strings.SplitSeq(list, ",") {
		name := strings.ToLower(strings.TrimSpace(part))
		if err := checkName(name); err != nil {
			return nil, err
		}
		if !contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// checkName accepts what a public CA would: a host name in A-labels, perhaps with
// one leading wildcard label, below a public suffix.
func checkName(name string) error {
	host := base(name)
	if len(host) > 253 || !strings.Contains(host, ".") {
		return fmt.Errorf("%q is no domain name", name)
	}
	for label := range strings.SplitSeq(host, ".") {
		if !hostLabel(label) {
			return fmt.Errorf("%q is no domain name: label %q", name, label)
		}
	}
	if _, err := registrable(host); err != nil {
		return fmt.Errorf("%q cannot be certified: %w", name, err)
	}
	return nil
}

func hostLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	return strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// mixed says whether single names and wildcards are ordered together, which one
// package order may not (CreateCertificateForPackageRequest, Domain).
func mixed(names []string) bool {
	wild := countWildcards(names)
	return wild > 0 && wild < len(names)
}

func countWildcards(names []string) int {
	n := 0
	for _, name := range names {
		if isWildcard(name) {
			n++
		}
	}
	return n
}
