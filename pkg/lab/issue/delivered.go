package issue

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
)

// delivered is what lies in a folder for a batch.
type delivered struct {
	right int       // certificates that are what was ordered, with their key
	last  time.Time // when the last file of them was written
	wrong error     // the first order without
}

// inspect checks the certificate of every order as whoever installs it would:
// the names, the dates, the chain to the simulated root, the key beside it.
func inspect(folder string, root []byte, all []order.Request) delivered {
	var d delivered
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	for _, q := range all {
		at, err := inspectOne(filepath.Join(folder, q.ID), certstore.Expect{Names: q.Names, Roots: roots})
		if err != nil && d.wrong == nil {
			d.wrong = fmt.Errorf("order %s: %w", q.ID, err)
		}
		if err != nil {
			continue
		}
		d.right++
		if at.After(d.last) {
			d.last = at
		}
	}
	return d
}

// inspectOne returns when the newest of the order's files was written.
func inspectOne(folder string, want certstore.Expect) (at time.Time, err error) {
	chain, err := os.ReadFile(filepath.Join(folder, chainFile))
	if err != nil {
		return at, err
	}
	key, err := os.ReadFile(filepath.Join(folder, keyFile))
	if err != nil {
		return at, err
	}
	want.Key = order.Secret(key)
	if _, err := certstore.CheckCertificate(string(chain), want); err != nil {
		return at, err
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		return at, err
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			return at, err
		}
		if info.ModTime().After(at) {
			at = info.ModTime()
		}
	}
	return at, nil
}

// The files of a delivery.
const (
	chainFile = "fullchain.pem"
	keyFile   = "privkey.pem"
)
