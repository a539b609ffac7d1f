package order

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// An order is what it buys (DESIGN 12.1): two requests that buy the same thing
// have one hash and one derived id, whatever row of whatever file they stand in.

// hashVersion begins every hash. It changes with what the hash covers, so that
// hashes of two builds are never taken for those of two orders.
const hashVersion = "2-"

// bought is what the hash covers, in its form. Whoever adds a field to Request
// decides here whether it is part of what is bought. The way of ordering is: it
// follows from resource and CSR. What may be mended on the way without buying
// anything else is not: how control is proved, who is written to, until when.
type bought struct {
	Names    []string `json:"names"`
	Account  string   `json:"account"`
	Product  string   `json:"product"`
	Resource string   `json:"resource"`
	Key      string   `json:"key"`
	CSR      string   `json:"csr"`
}

// Hash tells what a request buys: names, product, resource, key or CSR, and the
// account that it asks for. Spaces, the order of the names, spelled-out defaults,
// the id, batch, labels, contact and deadline make no other order. It is stored.
func (r Request) Hash() string {
	r = r.Normal()
	body, _ := json.Marshal(bought{Names: canonicalNames(r.Names), Account: r.Account, Product: r.Product,
		Resource: r.Resource, Key: r.Key, CSR: canonicalCSR(r.CSR)}) // texts can always be marshalled
	sum := sha256.Sum256(body)
	return hashVersion + hex.EncodeToString(sum[:])
}

// canonicalCSR is the request's bytes without the freedoms of PEM: the length of
// its lines, their ends, the word NEW.
func canonicalCSR(text string) string {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return text
	}
	return hex.EncodeToString(block.Bytes)
}

// canonicalNames are the names as a set: A-labels, sorted, each once.
func canonicalNames(names []string) []string {
	all := make([]string, 0, len(names))
	for _, n := range names {
		n = normalName(n)
		if a, err := toALabels(n); err == nil {
			n = a
		}
		all = append(all, n)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// NamesHash is the same for the same set of names, however they are ordered and
// spelled (upper case, trailing dot, U-labels, as the clouds' lists may have
// them). It is a token of the ledger's subjects: 40 hexadecimal digits, 160
// bits of SHA-256.
func NamesHash(names []string) string {
	sum := sha256.Sum256([]byte(strings.Join(canonicalNames(names), "\n")))
	return hex.EncodeToString(sum[:20])
}

// Lengths of an id's parts.
const (
	maxDerived = 40 // of the name in a derived id
	hashDigits = 12 // of the hash in a derived id
	maxBase    = 55 // of what a successor's number is put behind: it may have seven digits
)

// DerivedID is the id of an order that brings none: the first of its names in
// alphabetical order, with a hyphen for every character but letters and digits,
// and twelve digits of the hash. It is a valid id, whatever the request.
func (r Request) DerivedID() string {
	first := ""
	if names := canonicalNames(r.Names); len(names) > 0 {
		first = strings.TrimLeft(strings.Map(idLetter, names[0]), "-")
	}
	if first == "" { // no order: but its refusal may name it
		first = "o"
	}
	first = first[:min(len(first), maxDerived)]
	if strings.HasPrefix(first+"-", BadPrefix) {
		first = "o-" + first
	}
	return first + "-" + r.Hash()[len(hashVersion):][:hashDigits]
}

func idLetter(c rune) rune {
	if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
		return c
	}
	return '-'
}

var (
	derivedForm   = regexp.MustCompile(`^(?:o-)?([a-z0-9][a-z0-9-]*)-[0-9a-f]{12}(-[0-9]+)?$`)
	successorForm = regexp.MustCompile(`^(.+)-[0-9]+$`)
)

// derived tells whether an id could be the derived one of some request, or that
// of a successor of one. A domain name has a dot, so before the hash there is a
// hyphen, or a label that was cut off: "release-202701311200" is nobody's.
func derived(id string) bool {
	m := derivedForm.FindStringSubmatch(id)
	return m != nil && (strings.Contains(m[1], "-") || len(m[1]) == maxDerived)
}

// wrongDerived explains an id that looks like a derived one and is not the
// request's own: under it another order, which brings no id, would be taken for
// this one.
func wrongDerived(r Request) string {
	own := r.DerivedID()
	if r.ID == own || !derived(r.ID) {
		return ""
	}
	if strings.HasPrefix(r.ID, own+"-") {
		return fmt.Sprintf("%q is kept for a successor of %q: leave the id out, "+
			"and to buy it once more name the order that ended, again: %s", r.ID, own, own)
	}
	return fmt.Sprintf("%q has the form of an id that certmill derives from what is ordered, and this order's is %q: "+
		"leave the id out, or write one without the digits at its end", r.ID, own)
}

// AgainLast is the value of again in files that means the last order of the
// line. The command puts that order's id in its place; no message has it.
const AgainLast = "true"

// Base is what the ids of a line of orders begin with: the first one's id, which
// is shortened where no number would fit behind it. generation is that of the
// order with this id.
func Base(id string, generation int) string {
	if m := successorForm.FindStringSubmatch(id); m != nil && generation > 1 {
		return m[1]
	}
	if len(id) <= maxBase {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return id[:maxBase-9] + "-" + hex.EncodeToString(sum[:4])
}

// Numbered is the id of the n-th order of a line, n from 2.
func Numbered(base string, n int) string { return base + "-" + strconv.Itoa(n) }

// Nth is the number of an order in its line, 1 for the first.
func (o Order) Nth() int {
	if o.Generation < 2 {
		return 1
	}
	n, err := strconv.Atoi(o.ID()[strings.LastIndexByte(o.ID(), '-')+1:])
	if err != nil || n < 2 {
		return 1
	}
	return n
}

// Base is what the ids of the order's line begin with.
func (o Order) Base() string { return Base(o.ID(), o.Generation) }

// Ended tells whether the order's end is decided: for whoever orders again, one
// that only cleans up has ended.
func (o Order) Ended() bool {
	return o.State.Final() || o.Failure != nil && (o.State == Collect || o.State == Waiting && o.Wait.Then == Collect)
}
