package cloudsim_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/alidns"
	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/cloudsim"
)

// lookup asks the simulated DNS for the values at a name.
func (a *aliCloud) lookup(name string, kind uint16) []string {
	a.t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), kind)
	answer, err := dns.Exchange(q, a.DNSAddr())
	if err != nil {
		a.t.Fatal(err)
	}
	var values []string
	for _, rr := range answer.Answer {
		switch rr := rr.(type) {
		case *dns.TXT:
			values = append(values, strings.Join(rr.Txt, ""))
		case *dns.CNAME:
			values = append(values, rr.Target)
		}
	}
	slices.Sort(values)
	return values
}

func (a *aliCloud) at(name, zone string) []alidns.Record {
	a.t.Helper()
	r := alidns.CreateDescribeSubDomainRecordsRequest()
	r.SubDomain, r.DomainName = name, zone
	out, err := a.dns.DescribeSubDomainRecords(r)
	if err != nil {
		a.t.Fatal(err)
	}
	return out.DomainRecords.Record
}

func (a *aliCloud) remove(id string) error {
	r := alidns.CreateDeleteDomainRecordRequest()
	r.RecordId = id
	_, err := a.dns.DeleteDomainRecord(r)
	return err
}

func TestRecords(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	name := "_dnsauth.www.example.com.cn"
	first, second := a.put(name, "TXT", "one"), a.put(name, "TXT", "two")
	if got := a.lookup(name, dns.TypeTXT); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("served %v", got)
	}
	rows := a.at(name, "")
	if len(rows) != 2 || rows[1].RecordId != first || rows[1].RR != "_dnsauth.www" || rows[1].DomainName != "example.com.cn" ||
		rows[1].Value != "one" || rows[1].TTL != 600 || rows[1].Line != "default" || rows[1].Status != "ENABLE" {
		t.Errorf("listed %+v", rows)
	}
	_, err := a.add("example.com.cn", "_dnsauth.www", "TXT", "one")
	wantCode(t, err, "400 DomainRecordDuplicate")
	_, err = a.add("example.com.cn", "_dnsauth.www", "CNAME", "elsewhere.example.net")
	wantCode(t, err, "400 DomainRecordConflict")
	wantCode(t, a.remove(first), "<nil>")
	wantCode(t, a.remove(first), "400 DomainRecordNotBelongToUser")
	b := aliClient(t, a.Sim, "LTAI5tCloudsimAliyun0002", "cloudsim-secret-aliyun-2")
	wantCode(t, b.remove(second), "400 DomainRecordNotBelongToUser")
	if got := a.lookup(name, dns.TypeTXT); !slices.Equal(got, []string{"two"}) {
		t.Errorf("served after removal %v", got)
	}
}

func TestRecordIsUpdated(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	id := a.put("_dnsauth.example.com", "TXT", "one")
	update := func(value string) error {
		r := alidns.CreateUpdateDomainRecordRequest()
		r.RecordId, r.RR, r.Type, r.Value = id, "_dnsauth", "TXT", value
		_, err := a.dns.UpdateDomainRecord(r)
		return err
	}
	wantCode(t, update("two"), "<nil>")
	wantCode(t, update("two"), "400 DomainRecordDuplicate")
	if got := a.lookup("_dnsauth.example.com", dns.TypeTXT); !slices.Equal(got, []string{"two"}) {
		t.Errorf("served %v", got)
	}
	if rows := a.at("_dnsauth.example.com", "example.com"); len(rows) != 1 || rows[0].RecordId != id {
		t.Errorf("listed %+v", rows)
	}
}

func TestRecordsThatAreRefused(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Accounts = cloudsim.DefaultAccounts()
	cfg.Accounts[0].Zones = []string{"example.com", "deep.example.com"}
	a := startAli(t, cfg)
	for _, tt := range []struct{ zone, rr, kind, value, want string }{
		{"example.org", "x", "TXT", "v", "400 IncorrectDomainUser"},
		{"www.example.com", "x", "TXT", "v", "400 IncorrectDomainUser"},
		{"no name", "x", "TXT", "v", "400 InvalidDomainName.Format"},
		{"example.com", "a b", "TXT", "v", "400 InvalidRR.Format"},
		{"example.com", "x", "WHAT", "v", "400 InvalidParameter"},
		{"example.com", "x", "A", "not an address", "400 InvalidValue.Format"},
		{"example.com", "", "TXT", "v", "400 MissingRR"},
		{"example.com", "@", "TXT", "v", "<nil>"},
		{"deep.example.com", "_x", "TXT", "v", "<nil>"},
	} {
		_, err := a.add(tt.zone, tt.rr, tt.kind, tt.value)
		wantCode(t, err, tt.want)
	}
	if rows := a.at("_x.deep.example.com", ""); len(rows) != 1 || rows[0].DomainName != "deep.example.com" {
		t.Errorf("the longest zone counts: %+v", rows)
	}
	domains := alidns.CreateDescribeDomainsRequest()
	out, err := a.dns.DescribeDomains(domains)
	if err != nil || out.TotalCount != 2 || out.Domains.Domain[0].DomainName != "deep.example.com" {
		t.Errorf("zones %+v, %v", out.Domains, err)
	}
}

func TestDomainRecordsPageAndSearch(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	for n := range 25 {
		a.put(fmt.Sprintf("_dnsauth.n%d.example.com", n), "TXT", fmt.Sprint("value-", n))
	}
	seen := map[string]bool{}
	for page := 1; page <= 3; page++ {
		r := alidns.CreateDescribeDomainRecordsRequest()
		r.DomainName, r.PageNumber, r.PageSize = "example.com", requests.NewInteger(page), "10"
		out, err := a.dns.DescribeDomainRecords(r)
		if err != nil || out.TotalCount != 25 {
			t.Fatalf("page %d: %+v, %v", page, out, err)
		}
		for _, row := range out.DomainRecords.Record {
			seen[row.RecordId] = true
		}
	}
	if len(seen) != 25 {
		t.Errorf("%d records", len(seen))
	}
	r := alidns.CreateDescribeDomainRecordsRequest()
	r.DomainName, r.RRKeyWord, r.ValueKeyWord = "example.com", "N7", "value"
	if out, err := a.dns.DescribeDomainRecords(r); err != nil || out.TotalCount != 1 || out.DomainRecords.Record[0].RR != "_dnsauth.n7" {
		t.Errorf("search: %+v, %v", out, err)
	}
	r = alidns.CreateDescribeDomainRecordsRequest()
	r.DomainName, r.PageSize = "example.com", "501"
	_, err := a.dns.DescribeDomainRecords(r)
	wantCode(t, err, "400 InvalidParameter")
}

func TestChineseZones(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Accounts = cloudsim.DefaultAccounts()
	cfg.Accounts[0].Zones = []string{"xn--fiq228c.com", "example.com"}
	a := startAli(t, cfg)
	out, err := a.dns.DescribeDomains(alidns.CreateDescribeDomainsRequest())
	if err != nil || len(out.Domains.Domain) != 2 {
		t.Fatalf("zones %+v, %v", out, err)
	}
	if d := out.Domains.Domain; d[0].DomainName != "example.com" || d[0].PunyCode != "" || d[1].DomainName != "中文.com" || d[1].PunyCode != "xn--fiq228c.com" {
		t.Errorf("zones %+v", d)
	}
	for _, zone := range []string{"中文.com", "xn--fiq228c.com"} {
		if _, err := a.add(zone, "_dnsauth", "TXT", zone); err != nil {
			t.Fatal(err)
		}
		if rows := a.at("_dnsauth."+zone, zone); rows[0].DomainName != "中文.com" || rows[0].Value != zone {
			t.Errorf("listed %+v", rows)
		}
	}
	if got := a.lookup("_dnsauth.xn--fiq228c.com", dns.TypeTXT); len(got) != 2 {
		t.Errorf("served %v", got)
	}
	search := alidns.CreateDescribeDomainsRequest()
	search.KeyWord, search.SearchMode = "中文.com", "EXACT"
	if out, err := a.dns.DescribeDomains(search); err != nil || out.TotalCount != 1 {
		t.Errorf("search %+v, %v", out, err)
	}
}

func TestMainDomainName(t *testing.T) {
	t.Parallel()
	a := startAli(t, quick())
	for name, want := range map[string]string{
		"www.example.com": "example.com www 1", "a.b.example.co.uk": "example.co.uk a.b 2", "example.com.cn": "example.com.cn @ 0",
		"_dnsauth.example.com": "example.com _dnsauth 1",
	} {
		r := alidns.CreateGetMainDomainNameRequest()
		r.InputString = name
		out, err := a.dns.GetMainDomainName(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(out.DomainName, " ", out.RR, " ", out.DomainLevel); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	r := alidns.CreateGetMainDomainNameRequest()
	r.InputString = "co.uk"
	_, err := a.dns.GetMainDomainName(r)
	wantCode(t, err, "400 InvalidDomainName.Format")
}
