package certstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
)

// of is an order as the key store knows it. Its hash is of what is ordered.
var of = certstore.Ref{ID: "shop-1", Hash: strings.Repeat("0", 64), Main: "100000000001", Names: []string{"example.com"}}

// A submitter makes a pair, seals it and puts it into the key store before it
// spends anything.
func Example() {
	dir, err := os.MkdirTemp("", "keys")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	identity, _ := certstore.NewIdentity() // the operator's; submitters have only its public half
	recipients, _ := identity.Recipients()

	key, csr, fingerprint, _ := certstore.NewKey("ecdsa-p256", []string{"example.com"}, true)
	sealed, _ := recipients.Seal(key)
	store, _, _ := certstore.MakeKeyStore(dir)
	stored, won, err := store.Put(context.Background(), of, order.Key{Fingerprint: fingerprint, CSR: csr, Sealed: sealed})
	fmt.Println(won, err)

	opened, _ := identity.Open(stored.Sealed) // only a collector can
	fmt.Println(opened == key, opened)
	// Output:
	// true <nil>
	// true [redacted]
}

// An attempt's number is there before its money is spent, and only one caller
// gets it.
func ExampleKeyStore_Raise() {
	dir, err := os.MkdirTemp("", "keys")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	store, _, _ := certstore.MakeKeyStore(dir)

	fmt.Println(store.Raise(of, certstore.Raised{Attempt: 2, Purchase: 1}))
	fmt.Println(errors.Is(store.Raise(of, certstore.Raised{Attempt: 2, Purchase: 1}), certstore.ErrExists))
	fmt.Println(errors.Is(store.Raise(of, certstore.Raised{Attempt: 1, Purchase: 1}), certstore.ErrLower))
	raised, err := store.Number(of)
	fmt.Println(raised.Attempt, raised.Purchase, err)
	// Output:
	// <nil>
	// true
	// true
	// 2 1 <nil>
}
