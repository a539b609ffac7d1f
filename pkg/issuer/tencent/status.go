package tencent

import (
	"strconv"
	"strings"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// waiting are the statuses from which a certificate may still be issued: in
// review, validation outstanding, being cancelled, confirmation letter
// outstanding, being reissued, revocation letter outstanding, migrating.
var waiting = []int{0, 4, 6, 8, 11, 12, 15}

// phase maps Status of DescribeCertificate (documents of the SSL API; 14 and 15
// from the SDK's comments). StatusMsg only tells whether the CA has taken over:
// a certificate that is issued may still show CA-REVIEWING.
func (c certificate) phase() issuer.Phase {
	if c.Status == nil {
		return issuer.Unlisted
	}
	switch *c.Status {
	case 0, 4, 8: // in review, validation outstanding, letter outstanding
		return c.inProgress()
	case 1, 3: // issued, expired
		return issuer.IssuedPhase
	case 2, 7, 9, 10, 14: // failed, cancelled, being revoked, revoked, refunded
		return issuer.Refused
	case 5, 13: // bought, materials outstanding
		return issuer.Unstarted
	case 6, 11, 12, 15: // may come back from each of these
		return issuer.Reviewing
	}
	return issuer.Unlisted
}

// inProgress tells an open challenge from the time before it, and from the time
// after it where the cloud says so. In doubt it is before: whoever waits for a
// challenge looks again, and sees the certificate if none was needed. Rows of
// the list have no challenge.
func (c certificate) inProgress() issuer.Phase {
	switch {
	case len(c.challenges()) > 0:
		return issuer.Challenged
	case c.StatusMsg == "WAIT-ISSUE":
		return issuer.Reviewing
	}
	return issuer.Pending
}

// words are what the documents of DescribeCertificate call each Status; 14 and 15
// from the SDK's comments.
var words = map[int]string{
	0: "under review", 1: "approved", 2: "unapproved", 3: "expired", 4: "DNS record added", 5: "materials pending",
	6: "canceling", 7: "canceled", 8: "confirmation letter pending", 9: "revoking", 10: "revoked", 11: "reissuing",
	12: "revocation letter pending", 13: "free certificate pending materials", 14: "refunded", 15: "migrating",
}

// raw is the word of the documents: a number alone tells nobody anything.
func (c certificate) raw() string {
	if c.Status == nil {
		return ""
	}
	if word, known := words[*c.Status]; known {
		return word
	}
	return issuer.Word(strconv.Itoa(*c.Status))
}

// challenges reads DvAuths, one for each name; the fields beside them repeat
// the first.
func (c certificate) challenges() []order.Challenge {
	if c.DvAuthDetail == nil {
		return nil
	}
	auths := c.DvAuthDetail.DvAuths
	if len(auths) == 0 {
		auths = []dvAuth{c.DvAuthDetail.dvAuth}
	}
	var all []order.Challenge
	for _, a := range auths {
		if a.DvAuthKey != "" && a.DvAuthValue != "" || a.DvAuthPath != "" && a.DvAuthValue != "" {
			all = append(all, a.challenge(c.Domain))
		}
	}
	return all
}

// challenge makes one. Where no type is given, a path means a file, and a value
// that is a host name of a CA means a CNAME.
func (a dvAuth) challenge(domain string) order.Challenge {
	kind := strings.ToUpper(a.DvAuthVerifyType)
	switch {
	case kind == "FILE" || kind == "" && a.DvAuthPath != "":
		host := strings.TrimPrefix(firstOf(a.DvAuthDomain, domain), "*.")
		file := firstOf(a.DvAuthPath, a.DvAuthKey)
		if strings.HasSuffix(file, "/") { // some answers give the folder, with the file's name as the key
			file += a.DvAuthKey
		}
		return order.Challenge{Name: firstOf(a.DvAuthDomain, domain), Type: "FILE", Host: strings.ToLower(host),
			Path: "/" + strings.TrimLeft(file, "/"), Value: a.DvAuthValue}
	case kind == "":
		kind = "TXT"
	}
	host := strings.ToLower(strings.TrimSuffix(a.DvAuthKey, "."))
	zone := strings.TrimPrefix(strings.ToLower(firstOf(a.DvAuthDomain, domain)), "*.")
	if zone != "" && !strings.HasSuffix(host, "."+zone) && !strings.Contains(host, ".") {
		host += "." + zone
	}
	value := a.DvAuthValue
	if kind == "CNAME" {
		value = strings.TrimSuffix(value, ".")
	}
	return order.Challenge{Name: ordered(host), Type: kind, Host: host, Value: value}
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// ordered is the name that a record validates: without the labels that begin
// with '_'.
func ordered(host string) string {
	for strings.HasPrefix(host, "_") {
		_, host, _ = strings.Cut(host, ".")
	}
	return host
}
