package certstore

import (
	"os"
	"testing"

	"github.com/certmill/certmill/pkg/order"
)

// FuzzPair reads a damaged pair of the key store: an error, or a pair whose
// request carries the key that it names.
func FuzzPair(f *testing.F) {
	s, _, err := MakeKeyStore(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	identities, err := NewIdentity()
	if err != nil {
		f.Fatal(err)
	}
	recipients, err := identities.Recipients()
	if err != nil {
		f.Fatal(err)
	}
	key, csr, fp, err := NewKey("ecdsa-p256", []string{"a.example.com"}, false)
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := recipients.Seal(key)
	if err != nil {
		f.Fatal(err)
	}
	of := Ref{ID: "a", Hash: "aaaaaaaa", Main: "100", Names: []string{"a.example.com"}}
	if _, _, err := s.Put(f.Context(), of, order.Key{Algorithm: "ecdsa-p256", Fingerprint: fp, CSR: csr, Sealed: sealed}); err != nil {
		f.Fatal(err)
	}
	path := s.pairPath(of, 1)
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := s.Get(of)
		if err != nil || k.CSR == "" {
			return
		}
		if got, err := FingerprintOfCSR(k.CSR); err != nil || got != k.Fingerprint {
			t.Errorf("a pair with key %s and a request for %s (%v)", k.Fingerprint, got, err)
		}
	})
}
