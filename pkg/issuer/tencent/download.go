package tencent

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// Limits for the archive of DownloadCertificate. A real one holds about a dozen
// files of a few KB; 100 KB of zip can hold 100 MB.
const (
	maxArchive = 1 << 20 // as base64
	maxEntries = 64
	maxEntry   = 1 << 20 // unpacked
	maxTotal   = 4 << 20 // unpacked, all entries
	maxBlocks  = 200     // PEM blocks
)

// download gets the certificate as an archive.
func (f *certificates) download(ctx context.Context, id string) (issuer.Certificate, error) {
	const action = "DownloadCertificate"
	var out struct{ Content, ContentType, RequestId string }
	if err := f.c.ssl(ctx, action, byID(id), &out); err != nil {
		return issuer.Certificate{}, err
	}
	c, err := unpack(out.Content)
	if err != nil {
		return issuer.Certificate{}, &issuer.Error{Kind: issuer.Unavailable, Action: action, Err: err, RequestID: out.RequestId}
	}
	c.RequestID = out.RequestId
	return c, nil
}

// unpack finds chain and key in the archive, whose layout is not documented and
// has changed: it reads every PEM file and puts the chain together by itself.
func unpack(content string) (issuer.Certificate, error) {
	if len(content) > maxArchive {
		return issuer.Certificate{}, errors.New("archive too large")
	}
	raw, err := base64.StdEncoding.DecodeString(content)
	if err != nil {
		return issuer.Certificate{}, errors.New("archive is no base64")
	}
	archive, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return issuer.Certificate{}, errors.New("archive is no zip")
	}
	blocks, err := pemBlocks(archive)
	if err != nil {
		return issuer.Certificate{}, err
	}
	return assemble(blocks)
}

// pemBlocks reads the PEM files of the archive, within the limits. Other files
// (jks, pfx, nested archives) are not opened.
func pemBlocks(archive *zip.Reader) ([]*pem.Block, error) {
	if len(archive.File) > maxEntries {
		return nil, errors.New("archive with too many entries")
	}
	var blocks []*pem.Block
	total := 0
	for _, file := range archive.File {
		if !filepath.IsLocal(file.Name) {
			return nil, errors.New("archive with an entry outside of it")
		}
		if !file.Mode().IsRegular() || !slices.Contains([]string{".pem", ".crt", ".cer", ".key"}, strings.ToLower(path.Ext(file.Name))) {
			continue
		}
		text, err := readEntry(file)
		if err != nil {
			return nil, err
		}
		if total += len(text); total > maxTotal {
			return nil, errors.New("archive unpacks to too much")
		}
		for b, rest := pem.Decode(text); b != nil && len(blocks) < maxBlocks; b, rest = pem.Decode(rest) {
			blocks = append(blocks, b)
		}
	}
	return blocks, nil
}

func readEntry(file *zip.File) ([]byte, error) {
	r, err := file.Open()
	if err != nil {
		return nil, errors.New("archive with a broken entry")
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxEntry+1))
	switch {
	case err != nil:
		return nil, errors.New("archive with a broken entry")
	case len(text) > maxEntry:
		return nil, errors.New("archive with an entry that is too large")
	}
	return text, nil
}

// assemble orders the certificates from the leaf up and adds the leaf's key, if
// it is there.
func assemble(blocks []*pem.Block) (issuer.Certificate, error) {
	var leaf *x509.Certificate
	var others []*x509.Certificate
	for _, b := range blocks {
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		switch {
		case err != nil:
			return issuer.Certificate{}, errors.New("archive with a broken certificate")
		case c.IsCA:
			others = append(others, c)
		case leaf == nil:
			leaf = c
		case !leaf.Equal(c):
			return issuer.Certificate{}, errors.New("archive with more than one certificate")
		}
	}
	if leaf == nil {
		return issuer.Certificate{}, errors.New("archive without a certificate")
	}
	return issuer.Certificate{Chain: chain(leaf, others), Key: keyOf(leaf, blocks)}, nil
}

// chain is the PEM from the leaf up, without a root.
func chain(leaf *x509.Certificate, others []*x509.Certificate) string {
	var text strings.Builder
	for c, n := leaf, 0; c != nil && n < 10; n++ {
		pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Builder does not fail
		at := slices.IndexFunc(others, func(up *x509.Certificate) bool {
			return bytes.Equal(up.RawSubject, c.RawIssuer) && !bytes.Equal(up.RawSubject, up.RawIssuer) && c.CheckSignatureFrom(up) == nil
		})
		c = nil
		if at >= 0 {
			c = others[at]
		}
	}
	return text.String()
}

// keyOf returns the private key that belongs to the leaf, or nothing.
func keyOf(leaf *x509.Certificate, blocks []*pem.Block) order.Secret {
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	for _, b := range blocks {
		if !strings.HasSuffix(b.Type, "PRIVATE KEY") {
			continue
		}
		key := pem.EncodeToMemory(b)
		if pair, err := tls.X509KeyPair(certificate, key); err == nil && pair.PrivateKey != nil {
			return order.Secret(key)
		}
	}
	return ""
}
