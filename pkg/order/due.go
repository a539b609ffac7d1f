package order

import "time"

// RenewalDue is how long before its end a certificate is due at the latest.
const RenewalDue = 30 * 24 * time.Hour

// Due tells whether a certificate may be replaced by a new one: in the last third
// of its life, and in the last 30 days at the earliest, so that one of 47 days is
// not due all its life. It is the only answer to that question: for the ledger,
// for the lists of the clouds, for renewal. notBefore is zero where only the end
// is known. One without an end is never due.
func Due(notBefore, notAfter, now time.Time) bool {
	if notAfter.IsZero() {
		return false
	}
	left := RenewalDue
	if !notBefore.IsZero() {
		left = min(left, notAfter.Sub(notBefore)/3)
	}
	return notAfter.Sub(now) < left
}
