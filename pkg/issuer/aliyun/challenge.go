package aliyun

import (
	"net/url"
	"strings"

	"github.com/certmill/certmill/pkg/order"
)

// recordChallenges are the records that the cloud wants. The documents show one
// per order; lists separated by commas are understood too.
//
// domain are the ordered names, where the answer has them. The record's name is
// absolute as implementers report it, and relative ("_dnsauth") in the
// documents' sample: it is then below the domain, without a wildcard label.
func recordChallenges(domain, record, kind, value string) []order.Challenge {
	if record == "" || value == "" {
		return nil
	}
	if kind == "" {
		kind = "TXT"
	}
	owners, values := names(domain), strings.Split(value, ",")
	hosts := names(record)
	if len(hosts) == 1 && len(owners) > 1 && !under(hosts[0], owners[0]) {
		hosts = repeat(hosts[0], owners) // one relative name, for each of the domains
	}
	if len(values) != len(hosts) {
		values = repeat(value, hosts)
	}
	var all []order.Challenge
	for i, host := range hosts {
		owner := ""
		if len(owners) > 0 {
			owner = owners[min(i, len(owners)-1)]
		}
		host = absolute(host, owner)
		if owner == "" {
			owner = ordered(host)
		}
		all = append(all, order.Challenge{Name: owner, Type: strings.ToUpper(kind), Host: host, Value: strings.TrimSpace(values[i])})
	}
	return all
}

func repeat(s string, as []string) []string {
	all := make([]string, len(as))
	for i := range all {
		all[i] = s
	}
	return all
}

// absolute returns the record's full name, lower case and without a trailing
// dot. A name that does not end with the domain or with a parent of it of at
// least two labels is relative to it.
func absolute(host, domain string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	base := strings.TrimPrefix(domain, "*.")
	if base == "" || under(host, base) {
		return host
	}
	return host + "." + base
}

// under tells whether host lies in a zone that domain lies in.
func under(host, domain string) bool {
	host, domain = strings.TrimSuffix(host, "."), strings.TrimPrefix(domain, "*.")
	for zone := domain; strings.Contains(zone, "."); {
		if strings.HasSuffix(host, "."+zone) {
			return true
		}
		_, zone, _ = strings.Cut(zone, ".")
	}
	return false
}

// ordered guesses which name a record is for, by leaving out the labels that
// begin with '_'.
func ordered(host string) string {
	for strings.HasPrefix(host, "_") {
		_, host, _ = strings.Cut(host, ".")
	}
	return host
}

// fileChallenges are the files that the cloud wants: the same content under
// each of the names. uri may be a whole URL.
func fileChallenges(domain, uri, content string) []order.Challenge {
	hosts := names(domain)
	if u, err := url.Parse(uri); err == nil && u.Host != "" {
		hosts, uri = []string{u.Hostname()}, u.Path
	}
	if uri == "" || content == "" {
		return nil
	}
	var all []order.Challenge
	for _, h := range hosts {
		all = append(all, order.Challenge{Name: h, Type: "FILE", Host: strings.TrimPrefix(h, "*."),
			Path: "/" + strings.TrimLeft(uri, "/"), Value: content})
	}
	return all
}
