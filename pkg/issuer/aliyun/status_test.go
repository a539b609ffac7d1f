package aliyun_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

func TestLook(t *testing.T) {
	tests := []struct {
		fields  string
		phase   issuer.Phase
		records []order.Challenge
	}{
		{`"Type":"payed"`, issuer.Pending, nil},
		{`"Type":"domain_verify","ValidateType":"DNS"`, issuer.Pending, nil},
		{`"Type":"domain_verify","ValidateType":"DNS","RecordDomain":"_dnsauth.WWW.example.com.","RecordType":"TXT","RecordValue":"2026abc"`, issuer.Challenged,
			[]order.Challenge{{Name: "www.example.com", Type: "TXT", Host: "_dnsauth.www.example.com", Value: "2026abc"}}},
		{`"Type":"domain_verify","ValidateType":"DNS","Domain":"*.a.example.com","RecordDomain":"_dnsauth","RecordType":"CNAME","RecordValue":"v"`, issuer.Challenged,
			[]order.Challenge{{Name: "*.a.example.com", Type: "CNAME", Host: "_dnsauth.a.example.com", Value: "v"}}},
		{`"Type":"domain_verify","ValidateType":"DNS","Domain":"www.example.com","RecordDomain":"_dnsauth.example.com","RecordType":"TXT","RecordValue":"v"`, issuer.Challenged,
			[]order.Challenge{{Name: "www.example.com", Type: "TXT", Host: "_dnsauth.example.com", Value: "v"}}},
		{`"Type":"domain_verify","ValidateType":"DNS","Domain":"hello.example.com","RecordDomain":"_x.hello","RecordType":"TXT","RecordValue":"v"`, issuer.Challenged,
			[]order.Challenge{{Name: "hello.example.com", Type: "TXT", Host: "_x.hello.hello.example.com", Value: "v"}}},
		{`"Type":"domain_verify","ValidateType":"DNS","Domain":"a.com,b.com","RecordDomain":"_dnsauth","RecordType":"TXT","RecordValue":"v"`, issuer.Challenged,
			[]order.Challenge{{Name: "a.com", Type: "TXT", Host: "_dnsauth.a.com", Value: "v"}, {Name: "b.com", Type: "TXT", Host: "_dnsauth.b.com", Value: "v"}}},
		{`"Type":"domain_verify","ValidateType":"DNS","RecordDomain":"_dnsauth.a.com,_dnsauth.b.com","RecordType":"TXT","RecordValue":"v,w"`, issuer.Challenged,
			[]order.Challenge{{Name: "a.com", Type: "TXT", Host: "_dnsauth.a.com", Value: "v"}, {Name: "b.com", Type: "TXT", Host: "_dnsauth.b.com", Value: "w"}}},
		{`"Type":"domain_verify","ValidateType":"FILE","Domain":"www.example.com","Uri":"/.well-known/pki-validation/fileauth.txt","Content":"body"`, issuer.Challenged,
			[]order.Challenge{{Name: "www.example.com", Type: "FILE", Host: "www.example.com", Path: "/.well-known/pki-validation/fileauth.txt", Value: "body"}}},
		{`"Type":"process"`, issuer.Reviewing, nil},
		{`"Type":"verify_fail"`, issuer.Refused, nil},
		{`"Type":"unknow"`, issuer.Unlisted, nil},
		{`"Type":"something new"`, issuer.Unlisted, nil},
	}
	for _, tt := range tests {
		f := client(t, serve(t, 200, text(`{"RequestId":"R1",`+tt.fields+`}`)), permits(time.Second)).Package()
		st, err := f.Look(t.Context(), "98987582437920968")
		if err != nil {
			t.Fatal(tt.fields, err)
		}
		if st.Phase != tt.phase {
			t.Errorf("%s: phase %s, want %s", tt.fields, st.Phase, tt.phase)
		}
		if d := cmp.Diff(tt.records, st.Challenges); d != "" {
			t.Errorf("%s: %s", tt.fields, d)
		}
	}
}

// byAction answers each action with its own body.
func byAction(t *testing.T, bodies map[string]string) string {
	return serve(t, 200, func(r *http.Request) string { return bodies[r.URL.Query().Get("Action")] })
}

// TestRelativeRecord: the documents' sample names the record "_dnsauth" and
// not the domain; the list has it.
func TestRelativeRecord(t *testing.T) {
	const challenge = `{"RequestId":"R","Type":"domain_verify","ValidateType":"DNS","RecordDomain":"_dnsauth","RecordType":"TXT","RecordValue":"v"}`
	f := client(t, byAction(t, map[string]string{
		"DescribeCertificateState": challenge,
		"ListUserCertificateOrder": `{"RequestId":"R","TotalCount":1,"CertificateOrderList":[{"OrderId":98987582437920968,"Domain":"*.example.com"}]}`,
	}), permits(time.Second)).Package()
	st, err := f.Look(t.Context(), "98987582437920968")
	if err != nil || len(st.Challenges) != 1 || st.Challenges[0].Host != "_dnsauth.example.com" {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err = f.Look(t.Context(), "98987582437920969"); issuer.KindOf(err) != issuer.Unavailable {
		t.Errorf("an order that the list does not show: %v", err)
	}
}

func TestInstanceChallenge(t *testing.T) {
	list := `{"RequestId":"R","TotalCount":1,"CertificateOrderList":[{"OrderId":1,"InstanceId":"cas-1","Domain":"www.example.com"}]}`
	for result, want := range map[string]order.Challenge{
		`"CheckType":"DNS","CheckName":"_x.www.example.com","CheckValue":"v"`:                                   {Name: "www.example.com", Type: "TXT", Host: "_x.www.example.com", Value: "v"},
		`"CheckType":"DNS","CheckName":"_dnsauth","CheckValue":"v"`:                                             {Name: "www.example.com", Type: "TXT", Host: "_dnsauth.www.example.com", Value: "v"},
		`"CheckType":"FILE","CheckName":"/.well-known/pki-validation/f.txt","CheckValue":"v"`:                   {Name: "www.example.com", Type: "FILE", Host: "www.example.com", Path: "/.well-known/pki-validation/f.txt", Value: "v"},
		`"CheckType":"FILE","CheckName":"http://api.example.com/.well-known/pki-validation/f","CheckValue":"v"`: {Name: "api.example.com", Type: "FILE", Host: "api.example.com", Path: "/.well-known/pki-validation/f", Value: "v"},
	} {
		f := client(t, byAction(t, map[string]string{
			"DescribeDVOrderResult":    `{"RequestId":"R","OrderStatus":"checking",` + result + `}`,
			"ListUserCertificateOrder": list,
		}), permits(time.Second)).Instance()
		st, err := f.Look(t.Context(), "cas-1")
		if err != nil {
			t.Fatal(result, err)
		}
		if d := cmp.Diff([]order.Challenge{want}, st.Challenges); d != "" {
			t.Errorf("%s: %s", result, d)
		}
	}
}

// TestFindReadsShiftingPages: 60 orders whose names all contain the keyword, on
// two pages; one moves from the second page to the first between two reads.
func TestFindReadsShiftingPages(t *testing.T) {
	reads := 0
	row := func(id int, domain string) string {
		return fmt.Sprintf(`{"OrderId":%d,"Domain":%q,"Status":"ISSUED","BuyDate":%d},`, 98987582437920000+id, domain, 1700000000000+id)
	}
	f := client(t, serve(t, 200, func(r *http.Request) string {
		reads++
		page, rows := r.URL.Query().Get("CurrentPage"), ""
		for i := range 50 {
			rows += row(i, "other.www.example.com")
		}
		if reads == 3 && page == "1" { // the second round sees it on page 1
			rows += row(99, "API.example.com,www.example.com")
		}
		if page == "2" {
			rows = row(98, "www.example.com,api.example.com")
		}
		return `{"RequestId":"R","TotalCount":"60","CertificateOrderList":[` + rows[:len(rows)-1] + `]}`
	}), permits(time.Second)).Package()
	rows, err := f.(issuer.Finder).Find(t.Context(), []string{"www.example.com", "api.example.com"})
	if err != nil || len(rows) != 2 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if rows[0].CloudID != "98987582437920099" || rows[1].CloudID != "98987582437920098" {
		t.Errorf("%+v", rows)
	}
	if !rows[0].Created.Equal(time.UnixMilli(1700000000099)) {
		t.Errorf("created %v", rows[0].Created)
	}
}

func TestCertificateRows(t *testing.T) {
	f := client(t, serve(t, 200, text(`{"RequestId":"R","TotalCount":1,"CertificateOrderList":[{"CertificateId":23190041,"InstanceId":"cas_dv-cn-1",
		"CommonName":"www.example.com","Sans":"www.example.com,api.example.com","StartDate":"2026-11-23","EndDate":"2027-02-21","Status":"ISSUED"}]}`)), permits(time.Second)).Package()
	p, err := f.(issuer.CertLister).Certificates(t.Context(), 0)
	want := []issuer.Row{{CertID: "23190041", InstanceID: "cas_dv-cn-1", Names: []string{"www.example.com", "api.example.com"}, Phase: issuer.IssuedPhase, Raw: "ISSUED",
		Created: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC), Expires: time.Date(2027, 2, 21, 0, 0, 0, 0, time.UTC)}}
	if d := cmp.Diff(want, p.Rows); err != nil || d != "" {
		t.Error(err, d)
	}
}

// TestFetchFallsBack: the detail call is refused to this key, the state call
// has the certificate, too.
func TestFetchFallsBack(t *testing.T) {
	for detail, wantFallback := range map[string]bool{code("Forbidden.RAM"): true, code("NotFoundOrder"): true,
		`{"RequestId":"R","Cert":""}`: true, code("Throttling.User"): false} {
		f := client(t, byAction(t, map[string]string{
			"GetUserCertificateDetail": detail,
			"DescribeCertificateState": `{"RequestId":"R2","Type":"certificate","Certificate":"PEM","PrivateKey":"KEY"}`,
		}), permits(time.Second)).Package()
		c, err := f.Fetch(t.Context(), "98987582437920968", "23190041")
		if fellBack := err == nil && c.Chain == "PEM" && c.Key.Reveal() == "KEY"; fellBack != wantFallback {
			t.Errorf("%s: %v, %v", detail, c, err)
		}
	}
}

// TestInstanceWithoutApplication: what DescribeDVOrderResult then answers is
// not documented; the list of instances knows.
func TestInstanceWithoutApplication(t *testing.T) {
	list := `{"RequestId":"R","TotalCount":2,"OrderList":[{"InstanceId":"cas-0","Status":"CHECKING"},{"InstanceId":"cas-1","Status":"PAYED","CertType":"DV"}]}`
	for _, result := range []string{`{"RequestId":"R"}`, code("NotFoundOrder"), `{"RequestId":"R","OrderStatus":"PAYED"}`} {
		f := client(t, byAction(t, map[string]string{"DescribeDVOrderResult": result, "DescribeOrderInstanceList": list}), permits(time.Second)).Instance()
		if st, err := f.Look(t.Context(), "cas-1"); err != nil || st.Phase != issuer.Unstarted || st.Submitted {
			t.Errorf("%s: %+v, %v", result, st, err)
		}
		if rows, err := f.(issuer.Pool).Unused(t.Context()); err != nil || len(rows) != 1 || rows[0].CloudID != "cas-1" {
			t.Errorf("unused: %+v, %v", rows, err)
		}
	}
	f := client(t, byAction(t, map[string]string{"DescribeDVOrderResult": code("NotFoundOrder"), "DescribeOrderInstanceList": list}), permits(time.Second)).Instance()
	if _, err := f.Look(t.Context(), "cas-9"); issuer.KindOf(err) != issuer.NotFound {
		t.Errorf("unknown instance: %v", err)
	}
}
