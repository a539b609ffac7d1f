package cloudsim

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"fmt"
	"time"
)

// downloadCertificate packs the certificate as an archive. Its layout is not
// documented and has changed; this one has a folder for each server, as people
// remember it. The key is in it only if the cloud made it. The keystores of
// Tomcat (jks) and IIS (pfx) are left out.
func (s *Sim) downloadCertificate(own owner, in certificateID) (fields, error) {
	o, err := s.readCertificate(own, in.CertificateId)
	if err != nil {
		return nil, err
	}
	if o.State != stateIssued {
		return nil, failed("CertificateStatusNotAllowDownload", "The certificate's status does not allow downloading.")
	}
	archive, err := s.pack(o)
	if err != nil {
		return nil, err
	}
	return fields{"Content": base64.StdEncoding.EncodeToString(archive), "ContentType": "application/zip"}, nil
}

func (s *Sim) pack(o *order) ([]byte, error) {
	name, bundle := base(o.Names[0]), s.ca.chain(o.Leaf)
	files := []struct{ path, text string }{
		{"Nginx/1_" + name + "_bundle.crt", bundle},
		{"Nginx/2_" + name + ".key", o.Key},
		{"Apache/1_root_bundle.crt", string(encodeCert(s.ca.issuer.Raw))},
		{"Apache/2_" + name + ".crt", o.Leaf},
		{"Apache/3_" + name + ".key", o.Key},
		{name + ".csr", o.CSR},
		{name + ".pem", bundle},
	}
	var out bytes.Buffer
	archive := zip.NewWriter(&out)
	for _, f := range files {
		if f.text == "" {
			continue
		}
		w, err := archive.CreateHeader(&zip.FileHeader{Name: f.path, Method: zip.Deflate, Modified: time.Now()})
		if err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.path, err)
		}
		if _, err := w.Write([]byte(f.text)); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.path, err)
		}
	}
	if err := archive.Close(); err != nil {
		return nil, fmt.Errorf("pack certificate: %w", err)
	}
	return out.Bytes(), nil
}
