package sky

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	tick       = 25 * time.Millisecond
	lookAgain  = 150 * time.Millisecond // between two looks for a proof, growing with the order's age
	validators = 8                      // orders that are looked after at the same time
)

// prove looks after the open orders until ctx ends.
func (s *Sky) prove(ctx context.Context) {
	var busy sync.WaitGroup
	defer busy.Wait()
	free := make(chan struct{}, validators)
	client := s.looker()
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		for _, p := range s.due() {
			free <- struct{}{}
			busy.Go(func() {
				s.lookAfter(ctx, client, p)
				<-free
			})
		}
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
	}
}

// looker fetches files where the files of all names are.
func (s *Sky) looker() *http.Client {
	return &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.cfg.Web)
		}}}
}

// due are the orders to look after now.
func (s *Sky) due() (all []*placed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, p := range s.orders {
		if p.open() && !p.busy && !now.Before(p.next) {
			p.busy = true
			all = append(all, p)
		}
	}
	return all
}

// lookAfter looks for the proofs of an order, or issues it.
func (s *Sky) lookAfter(ctx context.Context, client *http.Client, p *placed) {
	s.mu.Lock()
	proofs, signing := append([]proof(nil), p.proofs...), !p.signs.IsZero()
	s.mu.Unlock()
	var chain string
	var until time.Time
	if signing {
		chain, until = s.ca.issue(p.csr, p.names)
	} else {
		for i := range proofs {
			proofs[i].seen = proofs[i].seen || fetched(ctx, client, proofs[i])
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	p.busy = false
	if signing {
		p.chain, p.until, p.next = chain, until, now.Add(lookAgain) // without a chain, it is tried again
		return
	}
	p.proofs, p.next = proofs, now.Add(max(lookAgain, now.Sub(p.asks)/10))
	switch {
	case missing(proofs) == 0:
		p.signs = now.Add(s.drawn(s.cfg.IssueDelay))
		p.next = p.signs
	case now.Sub(p.asks) > s.cfg.ProofTime:
		p.why = "its files did not show in time"
	}
}

func missing(all []proof) (n int) {
	for _, p := range all {
		if !p.seen {
			n++
		}
	}
	return n
}

func fetched(ctx context.Context, client *http.Client, p proof) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Name+p.Path, nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return err == nil && resp.StatusCode == http.StatusOK && strings.TrimSpace(string(body)) == p.Content
}

// authority is the cloud's CA.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate // of the intermediate
	pem  string
}

func newAuthority() (*authority, error) {
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := func(name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour),
			NotAfter:  time.Now().AddDate(5, 0, 0), IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign}
	}
	above := ca("Cirrus Root that nobody trusts")
	der, err := x509.CreateCertificate(rand.Reader, ca("Cirrus CA that nobody trusts"), above, key.Public(), root)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{key, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}, err
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return big.NewInt(time.Now().UnixNano())
	}
	return n.Add(n, big.NewInt(1))
}

// issue is empty if it cannot sign.
func (a *authority) issue(csr *x509.CertificateRequest, names []string) (chain string, until time.Time) {
	leaf := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Minute),
		NotAfter:  time.Now().AddDate(0, 0, 90), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, csr.PublicKey, a.key)
	if err != nil {
		return "", time.Time{}
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + a.pem, leaf.NotAfter
}
