package dcv

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// CheckLabel is the name, in a zone, of the TXT record by which it is tried
// whether a solver may write there.
const CheckLabel = "_certmill-check"

// CheckValue is what that record has for the solver of an account, by its label.
// Replicas and repetitions never make two; and accounts that share a zone have
// each their own, or what one placed would be another's to remove.
func CheckValue(label string) string {
	whose := sha256.Sum256([]byte(label))
	return "certmill tries whether it may write here, and removes this again (" + hex.EncodeToString(whose[:4]) + ")"
}

// Divider is a Solver that may serve a part of a zone apart from the rest.
type Divider interface {
	// Area is the part of a zone, by the name of its top, that whoever serves the
	// host serves: the zone itself as a rule.
	Area(host, zone string) string
}

// Area is a solver's for a host in a zone.
func Area(s Solver, host, zone string) string {
	if d, ok := s.(Divider); ok {
		return d.Area(host, zone)
	}
	return zone
}

// Area implements Divider: the config may name a solver for names within a zone.
func (r *Route) Area(host, zone string) string {
	if part, _, ok := Split(ALabels(host), r.solvers); ok && strings.HasSuffix(part, "."+zone) {
		return part
	}
	return zone
}

// Area implements Divider, for records.
func (b ByType) Area(host, zone string) string { return Area(b.DNS, host, zone) }
