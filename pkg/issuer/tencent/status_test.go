package tencent_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

func TestLook(t *testing.T) {
	const dv = `"DvAuthDetail":{"DvAuthKey":"_875b.www.example.com","DvAuthValue":"h1.trust-provider.com.","DvAuthDomain":"example.com","DvAuths":[
		{"DvAuthKey":"_875b.www.example.com.","DvAuthValue":"h1.trust-provider.com.","DvAuthDomain":"example.com","DvAuthVerifyType":"CNAME"},
		{"DvAuthKey":"_dnsauth","DvAuthValue":"2026abc","DvAuthDomain":"api.example.com","DvAuthVerifyType":"TXT"}]}`
	records := []order.Challenge{
		{Name: "www.example.com", Type: "CNAME", Host: "_875b.www.example.com", Value: "h1.trust-provider.com"},
		{Name: "api.example.com", Type: "TXT", Host: "_dnsauth.api.example.com", Value: "2026abc"},
	}
	tests := []struct {
		fields    string
		phase     issuer.Phase
		submitted bool
		records   []order.Challenge
	}{
		{`"Status":5`, issuer.Unstarted, false, nil},
		{`"Status":5,"SubmittedData":{"CertificateDomain":"www.example.com"}`, issuer.Unstarted, true, nil},
		{`"Status":0,"DvAuthDetail":null`, issuer.Pending, true, nil},
		{`"Status":0,"StatusMsg":"CA-REVIEWING","DvAuthDetail":{"DvAuths":null}`, issuer.Pending, true, nil},
		{`"Status":0,"StatusMsg":"WAIT-ISSUE"`, issuer.Reviewing, true, nil},
		{`"Status":4,"StatusMsg":"PENDING-DCV",` + dv, issuer.Challenged, true, records},
		{`"Status":0,"Domain":"www.example.com","DvAuthDetail":{"DvAuthPath":"/.well-known/pki-validation/fileauth.txt","DvAuthValue":"body"}`, issuer.Challenged, true,
			[]order.Challenge{{Name: "www.example.com", Type: "FILE", Host: "www.example.com", Path: "/.well-known/pki-validation/fileauth.txt", Value: "body"}}},
		{`"Status":1,"StatusMsg":"CA-REVIEWING"`, issuer.IssuedPhase, true, nil},
		{`"Status":2`, issuer.Refused, true, nil},
		{`"Status":7`, issuer.Refused, true, nil},
		{`"Status":99`, issuer.Unlisted, true, nil},
		{`"Domain":"x"`, issuer.Unlisted, true, nil},
	}
	for _, tt := range tests {
		f := client(t, serve(t, 200, text(`{"Response":{"RequestId":"R1",`+tt.fields+`}}`)), permits(time.Second)).Certificate()
		st, err := f.Look(t.Context(), "Dsqef134")
		if err != nil {
			t.Fatal(tt.fields, err)
		}
		if st.Phase != tt.phase || st.Submitted != tt.submitted {
			t.Errorf("%s: phase %s, submitted %v", tt.fields, st.Phase, st.Submitted)
		}
		if d := cmp.Diff(tt.records, st.Challenges); d != "" {
			t.Errorf("%s: %s", tt.fields, d)
		}
	}
}

// TestStatesHaveWords: what a person reads is the documents' word for a status, and of one
// that they do not list at least what the number is.
func TestStatesHaveWords(t *testing.T) {
	seen := map[string]int{}
	for n := range 17 {
		f := client(t, serve(t, 200, text(fmt.Sprintf(`{"Response":{"RequestId":"R1","Status":%d}}`, n))), permits(time.Second)).Certificate()
		st, err := f.Look(t.Context(), "Dsqef134")
		if err != nil || strings.Trim(st.Raw, "0123456789 ") == "" || issuer.Word(st.Raw) != st.Raw || seen[st.Raw] > 0 {
			t.Errorf("status %d is %q, %v", n, st.Raw, err)
		}
		if listed := st.Phase != issuer.Unlisted; listed == strings.Contains(st.Raw, "16") {
			t.Errorf("status %d, which is %s, is called %q", n, st.Phase, st.Raw)
		}
		seen[st.Raw]++
	}
}

func TestRows(t *testing.T) {
	f := client(t, serve(t, 200, text(`{"Response":{"RequestId":"R1","TotalCount":1001,"Certificates":[
		{"CertificateId":"abc","Domain":"Example.com","SubjectAltName":["example.com","www.example.com"],"Status":1,"PackageType":"25",
		 "InsertTime":"2026-11-23 08:00:00","CertEndTime":"2027-05-01 07:59:59","DvAuthDetail":null},
		{"CertificateId":"def","Domain":"","SubjectAltName":null,"Status":5,"InsertTime":null,"CertEndTime":null}]}}`)), permits(time.Second)).Certificate()
	p, err := f.Waiting(t.Context(), 0)
	if err != nil || !p.More {
		t.Fatal(p, err)
	}
	want := []issuer.Row{
		{CloudID: "abc", CertID: "abc", Names: []string{"example.com", "www.example.com"}, Product: "25", Phase: issuer.IssuedPhase, Raw: "approved",
			Created: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC), Expires: time.Date(2027, 4, 30, 23, 59, 59, 0, time.UTC)},
		{CloudID: "def", CertID: "def", Phase: issuer.Unstarted, Raw: "materials pending"},
	}
	if d := cmp.Diff(want, p.Rows); d != "" {
		t.Error(d)
	}
	if p, err := f.Waiting(t.Context(), 1); err != nil || p.More {
		t.Error("there is no third page", err)
	}
}
