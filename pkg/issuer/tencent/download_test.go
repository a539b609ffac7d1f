package tencent

import (
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/permit"
)

// authority makes a root, an intermediate, a leaf and the leaf's key, as PEM.
func authority(t *testing.T) (root, middle, leaf, key string) {
	t.Helper()
	issue := func(cn string, ca bool, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, string) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn},
			NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true, DNSNames: []string{cn}}
		if ca {
			c.KeyUsage = x509.KeyUsageCertSign
		}
		if parent == nil {
			parent, signer = c, k
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, k.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		parsed, _ := x509.ParseCertificate(der)
		return parsed, k, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	rootCert, rootKey, root := issue("root", true, nil, nil)
	midCert, midKey, middle := issue("middle", true, rootCert, rootKey)
	_, leafKey, leaf := issue("www.example.com", false, midCert, midKey)
	der, _ := x509.MarshalPKCS8PrivateKey(leafKey)
	return root, middle, leaf, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func pack(t *testing.T, files ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		f, err := w.Create(files[i])
		if err != nil {
			t.Fatal(err)
		}
		f.Write([]byte(files[i+1]))
	}
	w.Close()
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

func TestUnpack(t *testing.T) {
	root, middle, leaf, key := authority(t)
	_, _, _, otherKey := authority(t)
	layouts := map[string][]string{
		"folders":     {"Nginx/1_www_bundle.crt", leaf + middle, "Nginx/2_www.key", key, "Apache/1_root_bundle.crt", middle, "Apache/2_www.crt", leaf, "Tomcat/www.jks", "\x00\x01", "IIS/www.pfx", "x"},
		"flat":        {"www.key", key, "root.pem", root + middle, "www.pem", leaf},
		"wrong order": {"all.pem", root + middle + leaf + otherKey + key},
	}
	for name, files := range layouts {
		c, err := unpack(pack(t, files...))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.Chain != leaf+middle {
			t.Errorf("%s: chain of %d certificates", name, strings.Count(c.Chain, "BEGIN"))
		}
		if _, err := tls.X509KeyPair([]byte(c.Chain), []byte(c.Key.Reveal())); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c, err := unpack(pack(t, "a.pem", leaf, "b.key", otherKey)); err != nil || c.Key != "" {
		t.Errorf("took a key that is not the leaf's: %v", err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	_, _, leaf, _ := authority(t)
	_, _, otherLeaf, _ := authority(t)
	many := []string{}
	for i := range maxEntries + 1 {
		many = append(many, fmt.Sprintf("%d.pem", i), leaf)
	}
	zeros := strings.Repeat("\n", maxEntry+1)
	below := strings.Repeat("\n", maxEntry)
	bad := map[string]string{
		"no base64":        "***",
		"no zip":           base64.StdEncoding.EncodeToString([]byte("no zip")),
		"too long":         strings.Repeat("A", maxArchive+4),
		"no certificate":   pack(t, "a.pem", "nothing"),
		"only a nested":    pack(t, "inner.zip", pack(t, "a.pem", leaf)),
		"zip slip":         pack(t, "Nginx/../../etc/x.key", leaf),
		"absolute":         pack(t, "/etc/x.pem", leaf),
		"bomb":             pack(t, "a.pem", leaf, "b.pem", zeros),
		"many small bombs": pack(t, "1.pem", below, "2.pem", below, "3.pem", below, "4.pem", below, "5.pem", leaf),
		"too many":         pack(t, many...),
		"two leaves":       pack(t, "a.pem", leaf+otherLeaf),
		"broken":           pack(t, "a.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"symlink":          link(t, leaf),
	}
	for name, content := range bad {
		if _, err := unpack(content); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func link(t *testing.T, text string) string {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	h := &zip.FileHeader{Name: "a.pem"}
	h.SetMode(fs.ModeSymlink | 0o777)
	f, err := w.CreateHeader(h)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte(text))
	w.Close()
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

func FuzzUnpack(f *testing.F) {
	f.Add("UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA==")
	f.Fuzz(func(t *testing.T, content string) { unpack(content) })
}

// TestFetchDownloads: the certificate is fetched as an archive where the detail
// of an issued one has none.
func TestFetchDownloads(t *testing.T) {
	root, middle, leaf, key := authority(t)
	answers := map[string]string{
		"DescribeCertificateDetail": `{"Response":{"RequestId":"R1","Status":1,"CertificatePublicKey":null}}`,
		"DownloadCertificate":       fmt.Sprintf(`{"Response":{"RequestId":"R2","ContentType":"application/zip","Content":%q}}`, pack(t, "a.pem", root+middle+leaf, "a.key", key)),
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, answers[r.Header.Get("X-TC-Action")])
	}))
	defer server.Close()
	c, err := New(issuer.Access{Endpoint: server.URL, KeyID: "AKIDtest", Secret: "s", Main: "100300",
		Permits: permit.NewSet(func(permit.Key) permit.Limit { return permit.Limit{Calls: 10, Period: time.Millisecond} })})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Certificate().Fetch(t.Context(), "Dsqef134", "")
	if err != nil || got.Chain != leaf+middle || got.Key.Reveal() != key || got.RequestID != "R2" {
		t.Errorf("%+v, %v", got, err)
	}
}
