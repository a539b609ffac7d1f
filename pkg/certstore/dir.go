package certstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/certmill/certmill/pkg/order"
)

// Delivery is what a sink gets: everything of one issued order.
type Delivery struct {
	ID     string
	Chain  string       // PEM, leaf first
	Key    order.Secret // private key in PEM; empty if it is not ours, or sealed
	Sealed []byte       // the private key as age ciphertext, where nobody here may open it
	Record []byte       // the order as JSON
}

// Dir is the sink that writes into a folder:
//
//	<path>/<id>/privkey.pem       mode 0600; or privkey.pem.age, if it is sealed
//	<path>/<id>/fullchain.pem
//	<path>/<id>/order.json        mode 0600, because it holds the contact's data
//	<path>/ca.pem                 the simulated root, see PutRoot
type Dir struct{ Path string }

// Deliver writes the files, durably, each one whole. The key comes first and
// order.json last, so that whoever waits for order.json finds the others.
// Delivering again writes the same again. The error is an *OtherNames if a
// certificate is there that serves names which this one does not; then nothing was
// changed.
func (d Dir) Deliver(ctx context.Context, v Delivery) (where string, err error) {
	if !order.ValidID(v.ID) {
		return "", fmt.Errorf("%q is no order id", v.ID)
	}
	chain, err := v.check()
	if err := errors.Join(ctx.Err(), err); err != nil {
		return "", fmt.Errorf("deliver %s: %w", v.ID, err)
	}
	folder := filepath.Join(d.Path, v.ID)
	if err := forOthers(folder, chain); err != nil {
		return "", fmt.Errorf("deliver %s: %w", v.ID, err)
	}
	// The folder above is synced even if this one is there: a visit that made it
	// may have died before it synced that.
	if err := errors.Join(makeFolder(folder, 0o755), syncFolder(d.Path)); err != nil {
		return "", fmt.Errorf("deliver %s: %w", v.ID, err)
	}
	removeTorn(folder)
	for _, f := range []struct {
		name string
		data []byte
		mode fs.FileMode
	}{
		{"privkey.pem", []byte(v.Key.Reveal()), 0o600},
		{"privkey.pem.age", v.Sealed, 0o600},
		{"fullchain.pem", []byte(chain), 0o644},
		{"order.json", v.Record, 0o600},
	} {
		if len(f.data) == 0 {
			continue
		}
		// A crash here leaves the files so far, each complete; the order is
		// still in collect and is delivered again.
		if err := replaceFile(filepath.Join(folder, f.name), f.data, f.mode); err != nil {
			return "", fmt.Errorf("deliver %s: %w", v.ID, err)
		}
	}
	return folder, nil
}

// OtherNames is returned where a folder has a certificate for other names: one that
// had the same id in another life, or that somebody put there. Programs may read it.
type OtherNames struct {
	Path  string
	Names []string // that the new one does not have
}

func (e *OtherNames) Error() string {
	return fmt.Sprintf("%s is a certificate for %s, and this one is not for that: nothing was replaced. "+
		"Move the folder away, after whatever reads it", e.Path, strings.Join(e.Names, " "))
}

// forOthers refuses a folder whose certificate has names that the new one lacks. What
// is there and is no certificate is replaced.
func forOthers(folder, chain string) error {
	path := filepath.Join(folder, "fullchain.pem")
	there, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	was, err := parseChain(string(there))
	if err != nil {
		return nil
	}
	is, err := parseChain(chain)
	if err != nil {
		return err
	}
	lacks := slices.DeleteFunc(slices.Clone(was[0].DNSNames), func(name string) bool { return slices.Contains(is[0].DNSNames, name) })
	if len(lacks) > 0 {
		return &OtherNames{path, lacks}
	}
	return nil
}

// check refuses to put a key beside a certificate that it does not belong to:
// servers would not start with them. It returns the chain encoded anew, because
// everybody may read that file.
func (v Delivery) check() (chain string, err error) {
	certs, err := parseChain(v.Chain)
	if err != nil {
		return "", err
	}
	if len(v.Sealed) > 0 && !isSealed(v.Sealed) {
		return "", errors.New("the private key is not sealed with age")
	}
	if v.Key == "" {
		return encodeChain(certs), nil
	}
	pub, err := publicOf(v.Key)
	if err != nil {
		return "", err
	}
	if Fingerprint(pub) != Fingerprint(certs[0].PublicKey) {
		return "", &Wrong{Reason: "the private key does not belong to the certificate", Kind: ErrWrongKey}
	}
	return encodeChain(certs), nil
}

// PutRoot writes the root certificate that the simulated clouds issue under.
func (d Dir) PutRoot(pem string) error {
	if err := makeFolder(d.Path, 0o755); err != nil {
		return fmt.Errorf("put root certificate: %w", err)
	}
	path := filepath.Join(d.Path, "ca.pem")
	if was, err := os.ReadFile(path); err == nil && string(was) == pem {
		return nil
	}
	if err := replaceFile(path, []byte(pem), 0o644); err != nil {
		return fmt.Errorf("put root certificate: %w", err)
	}
	return nil
}
