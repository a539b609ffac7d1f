package order

import (
	"fmt"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What a request may hold at most.
const (
	MaxNames  = 5  // names of one certificate, in the products of all clouds here
	maxLabels = 32 // labels of one order
	maxText   = 200
)

// BadPrefix begins the ids that certmill gives to messages that cannot be read.
const BadPrefix = "bad-"

// KeyAlgorithms are those that certmill makes keys for; the first is the
// default.
var KeyAlgorithms = []string{"ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096"}

var (
	idForm       = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	accountForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)
	batchForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	productForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	resourceForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
	labelForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$`)
	phoneForm    = regexp.MustCompile(`^\+?[0-9](?:[0-9 ()./-]*[0-9])$`)
)

// ValidID tells whether id has the form of an order id, and thus may be a token
// of a subject or the name of a folder.
func ValidID(id string) bool { return idForm.MatchString(id) }

// Validate checks a request in its normal form (see Normal). The error is an
// *Invalid; if several fields are wrong, it tells of all of them.
func (r Request) Validate() error {
	if bad := checkSecrets(r); bad != nil {
		return bad
	}
	var found []*Invalid
	for _, rule := range []func(Request) *Invalid{
		checkID, checkAgain, checkNames, checkValidation, checkKey, checkResource, checkPlainFields, checkContact, checkLabels, checkDeadline,
	} {
		if bad := rule(r); bad != nil {
			found = append(found, bad)
		}
	}
	if len(found) == 0 {
		return nil
	}
	first := *found[0]
	for _, other := range found[1:] {
		first.Reason += "; " + other.Error()
	}
	return &first
}

// checkSecrets refuses a private key in whatever field, alone, before anything
// else is said: fields are kept in the record and shown.
func checkSecrets(r Request) *Invalid {
	fields := [][2]string{{"id", r.ID}, {"again", r.Again}, {"names", strings.Join(r.Names, "\n")}, {"account", r.Account}, {"product", r.Product},
		{"validation", string(r.Validation)}, {"contact.name", r.Contact.Name}, {"contact.email", r.Contact.Email},
		{"contact.phone", r.Contact.Phone}, {"contact.province", r.Contact.Province}, {"contact.city", r.Contact.City},
		{"company", r.Company}, {"key", r.Key}, {"csr", r.CSR}, {"resource", r.Resource}, {"batch", r.Batch}}
	for name, value := range r.Labels {
		fields = append(fields, [2]string{"labels", name + "\n" + value})
	}
	for _, f := range fields {
		if HoldsSecret(f[1]) {
			return &Invalid{f[0], secretSent}
		}
	}
	return nil
}

func checkID(r Request) *Invalid {
	switch {
	case r.ID == "":
		return nil // it is derived
	case !ValidID(r.ID):
		return &Invalid{"id", fmt.Sprintf("%s is no order id: write 1 to 63 lower-case letters, digits, '-' and '_', beginning with a letter or digit, or leave it out", Quote(r.ID))}
	case strings.HasPrefix(r.ID, BadPrefix):
		return &Invalid{"id", fmt.Sprintf("%q begins with %q, which is kept for messages that cannot be read: write another beginning", r.ID, BadPrefix)}
	case r.Again != "" && r.Again != AgainLast: // the predecessor's line: see checkAgain
		return nil
	}
	if reason := wrongDerived(r); reason != "" {
		return &Invalid{"id", reason}
	}
	return nil
}

// checkAgain: the id of a successor follows from its predecessor's, so beside
// again it may only say which line is meant.
func checkAgain(r Request) *Invalid {
	switch {
	case r.Again == "", r.Again == AgainLast:
		return nil
	case !ValidID(r.Again) || strings.HasPrefix(r.Again, BadPrefix):
		return &Invalid{"again", fmt.Sprintf("%s is no order id: write that of the order for the same names that has ended", Quote(r.Again))}
	case r.ID == "" || r.ID == r.Again || Base(r.ID, 1) == Base(r.Again, 2) || Base(r.ID, 2) == Base(r.Again, 1):
		return nil
	}
	return &Invalid{"again", fmt.Sprintf("the id of what is bought once more follows from that of %q: leave id out", r.Again)}
}

func checkNames(r Request) *Invalid {
	if len(r.Names) == 0 {
		return &Invalid{"names", `is missing: write the domain names of the certificate, "names": ["example.com", "www.example.com"]`}
	}
	if n := len(r.Names); n > MaxNames {
		return &Invalid{"names", fmt.Sprintf("%d names are too many for one certificate: split them into %d orders of at most %d names, which need no ids",
			n, (n+MaxNames-1)/MaxNames, MaxNames)}
	}
	wildcards := 0
	for i, n := range r.Names {
		if reason := wrongName(n); reason != "" {
			return &Invalid{"names", reason}
		}
		if slices.Contains(r.Names[:i], n) {
			return &Invalid{"names", fmt.Sprintf("%q is there twice: write each name once", n)}
		}
		if strings.HasPrefix(n, "*.") {
			wildcards++
		}
	}
	return checkWildcards(r, wildcards)
}

func checkWildcards(r Request, wildcards int) *Invalid {
	switch {
	case wildcards > 0 && wildcards < len(r.Names):
		// One cloud documents it; it holds for every cloud here, so that "choose
		// for me" never depends on it.
		return &Invalid{"names", "wildcard and single names cannot be mixed in one certificate (clouds refuse it): make one order for the wildcards and one for the single names"}
	case wildcards > 0 && r.Validation == FILE:
		// CA/Browser Forum ballot SC-45: a file proves one host, never the names under it.
		return &Invalid{"validation", `FILE cannot prove a wildcard name: write "validation": "DNS", or order the single names`}
	}
	return nil
}

func checkValidation(r Request) *Invalid {
	if r.Validation == DNS || r.Validation == FILE {
		return nil
	}
	return &Invalid{"validation", fmt.Sprintf("%s is unknown: write DNS or FILE", Quote(string(r.Validation)))}
}

func checkKey(r Request) *Invalid {
	if r.CSR == "" {
		if slices.Contains(KeyAlgorithms, r.Key) {
			return nil
		}
		return &Invalid{"key", fmt.Sprintf("%s is unknown: write one of %s, or leave it out", Quote(r.Key), strings.Join(KeyAlgorithms, ", "))}
	}
	if r.Key != "" {
		return &Invalid{"key", "key and csr exclude each other, because the csr has its key already: leave one of them out"}
	}
	csr, err := ParseCSR(r.CSR)
	if err != nil {
		return &Invalid{"csr", err.Error()}
	}
	if reason := csr.differs(r.Names); reason != "" {
		return &Invalid{"csr", reason}
	}
	return nil
}

func checkResource(r Request) *Invalid {
	if r.Resource == "" || resourceForm.MatchString(r.Resource) {
		return nil
	}
	return &Invalid{"resource", fmt.Sprintf("%s is no id of something bought: write it as the cloud's console shows it, letters, digits, '-' and '_', or 'any'", Quote(r.Resource))}
}

func checkPlainFields(r Request) *Invalid {
	switch {
	case !accountForm.MatchString(r.Account):
		return &Invalid{"account", fmt.Sprintf("%s is no account label: write a label of the config, or 'any'", Quote(r.Account))}
	case r.Product != "" && !productForm.MatchString(r.Product):
		return &Invalid{"product", fmt.Sprintf("%s is no product code: write it as the cloud spells it, letters, digits, '.', '-' and '_'", Quote(r.Product))}
	case r.Batch != "" && !batchForm.MatchString(r.Batch):
		return &Invalid{"batch", fmt.Sprintf("%s is no batch name: write at most 63 letters, digits, '.', '-' and '_'", Quote(r.Batch))}
	case !plainText(r.Company):
		return &Invalid{"company", fmt.Sprintf("%s is no company name: write one line of at most %d characters", Quote(r.Company), maxText)}
	}
	return nil
}

// plainText is one bounded line without control characters: it goes into the
// clouds' forms and into logs. Unicode's line separators end a line too, and
// its direction marks make a terminal show another text than is stored.
func plainText(s string) bool {
	return utf8.RuneCountInString(s) <= maxText && utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool {
		return unicode.In(c, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
	})
}

func checkContact(r Request) *Invalid {
	c := r.Contact
	for _, f := range []struct{ name, value string }{{"name", c.Name}, {"province", c.Province}, {"city", c.City}} {
		if !plainText(f.value) {
			return &Invalid{"contact." + f.name, fmt.Sprintf("%s cannot stand in an application: write one line of at most %d characters", Quote(f.value), maxText)}
		}
	}
	if c.Email != "" && !plausibleEmail(c.Email) {
		return &Invalid{"contact.email", fmt.Sprintf("%s is no e-mail address: write one address such as hostmaster@example.com", Quote(c.Email))}
	}
	if c.Phone != "" && !plausiblePhone(c.Phone) {
		return &Invalid{"contact.phone", fmt.Sprintf("%s is no phone number: write 5 to 15 digits, such as 13800000000 or +86 10 0000 0000", Quote(c.Phone))}
	}
	return nil
}

func plausibleEmail(s string) bool {
	a, err := mail.ParseAddress(s)
	if err != nil || a.Address != s || len(s) > 254 {
		return false
	}
	_, domain, _ := strings.Cut(s, "@")
	return strings.Contains(strings.Trim(domain, "."), ".") && plainText(s)
}

// plausiblePhone counts the digits: E.164 allows 15.
func plausiblePhone(s string) bool {
	digits := 0
	for _, c := range s {
		if c >= '0' && c <= '9' {
			digits++
		}
	}
	return phoneForm.MatchString(s) && digits >= 5 && digits <= 15 && len(s) <= 32
}

func checkLabels(r Request) *Invalid {
	if len(r.Labels) > maxLabels {
		return &Invalid{"labels", fmt.Sprintf("%d labels are too many: write at most %d", len(r.Labels), maxLabels)}
	}
	names := make([]string, 0, len(r.Labels))
	for name := range r.Labels {
		names = append(names, name)
	}
	slices.Sort(names) // the same sentence each time
	for _, name := range names {
		if !labelForm.MatchString(name) {
			return &Invalid{"labels", fmt.Sprintf("%s is no label name: write at most 63 letters, digits, '.', '/', '-' and '_'", Quote(name))}
		}
		if !plainText(r.Labels[name]) {
			return &Invalid{"labels", fmt.Sprintf("the value of %q is too long or has control characters: write one line of at most %d characters", name, maxText)}
		}
	}
	return nil
}

func checkDeadline(r Request) *Invalid {
	// RFC 3339 has years of four digits; in UTC a time zone may carry one out.
	if d := r.Deadline; d != nil && (d.UTC().Year() < 1970 || d.UTC().Year() > 9999) {
		return &Invalid{"deadline", fmt.Sprintf("%s is no time that an order can have: write one between 1970 and 9999", d.Format(time.RFC3339))}
	}
	return nil
}
