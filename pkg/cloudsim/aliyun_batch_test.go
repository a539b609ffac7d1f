package cloudsim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/alidns"
	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/cloudsim"
)

type batchRow = alidns.OperateBatchDomainDomainRecordInfo

func txtRow(zone, rr, value string) batchRow {
	return batchRow{Domain: zone, Rr: rr, Type: "TXT", Value: value}
}

// batch submits a task by the SDK.
func (a *aliCloud) batch(kind string, rows ...batchRow) (int64, error) {
	r := alidns.CreateOperateBatchDomainRequest()
	r.Type, r.DomainRecordInfo = kind, &rows
	out, err := a.dns.OperateBatchDomain(r)
	if err != nil {
		return 0, err
	}
	return out.TaskId, nil
}

func (a *aliCloud) count(task int64) *alidns.DescribeBatchResultCountResponse {
	a.t.Helper()
	r := alidns.CreateDescribeBatchResultCountRequest()
	if task != 0 {
		r.TaskId = requests.NewInteger64(task)
	}
	out, err := a.dns.DescribeBatchResultCount(r)
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}

func (a *aliCloud) details(task int64, status string) []alidns.BatchResultDetail {
	a.t.Helper()
	var all []alidns.BatchResultDetail
	for page := 1; ; page++ {
		r := alidns.CreateDescribeBatchResultDetailRequest()
		r.TaskId, r.Status, r.PageNumber, r.PageSize = requests.NewInteger64(task), status, requests.NewInteger(page), "100"
		out, err := a.dns.DescribeBatchResultDetail(r)
		if err != nil {
			a.t.Fatal(err)
		}
		all = append(all, out.BatchResultDetails.BatchResultDetail...)
		if len(all) >= int(out.TotalCount) {
			return all
		}
	}
}

// carriedOut submits a task and waits for its end.
func (a *aliCloud) carriedOut(kind string, rows ...batchRow) *alidns.DescribeBatchResultCountResponse {
	a.t.Helper()
	task, err := a.batch(kind, rows...)
	if err != nil {
		a.t.Fatal(err)
	}
	var out *alidns.DescribeBatchResultCountResponse
	eventually(a.t, "the task ends", func() bool { out = a.count(task); return out.Status != 0 })
	if out.TaskId != task || out.BatchType != kind || out.TotalCount != out.SuccessCount+out.FailedCount {
		a.t.Errorf("task %d: %+v", task, out)
	}
	return out
}

func TestAlidnsBatch(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.BatchDelay = cloudsim.Exactly(150 * time.Millisecond)
	a := startAli(t, cfg)
	if out := a.count(0); out.Status != -1 {
		t.Errorf("a task before the first: %+v", out)
	}
	a.put("_dnsauth.b.example.com", "TXT", "there already")
	task, err := a.batch("RR_ADD", txtRow("example.com", "_dnsauth.a", "one"), txtRow("example.com", "_dnsauth.a", "two"),
		txtRow("example.com", "_dnsauth.b", "there already"), txtRow("no such", "x", "v"), txtRow("中文.com", "_dnsauth", "three"))
	if err != nil {
		t.Fatal(err)
	}
	if out := a.count(task); out.Status != 0 || out.TotalCount != 5 || out.SuccessCount != 0 || len(a.details(task, "")) != 0 {
		t.Errorf("at once: %+v, %v", out, a.details(task, ""))
	}
	if got := a.lookup("_dnsauth.a.example.com", dns.TypeTXT); len(got) != 0 {
		t.Errorf("at once: %v", got)
	}
	eventually(t, "the task ends", func() bool { return a.count(0).Status == 1 })
	if out := a.count(task); out.SuccessCount != 3 || out.FailedCount != 2 {
		t.Errorf("at the end: %+v", out)
	}
	if got := a.lookup("_dnsauth.a.example.com", dns.TypeTXT); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("served %v", got)
	}
	if got := a.lookup("_dnsauth.xn--fiq228c.com", dns.TypeTXT); !slices.Equal(got, []string{"three"}) {
		t.Errorf("served of the IDN zone %v", got)
	}
	failed := a.details(task, "FAILED")
	if len(failed) != 2 || failed[0].Reason != "The domain record is duplicated." || failed[1].Reason != "The domain name does not belong to this user." {
		t.Errorf("failed rows %+v", failed)
	}
	good := a.details(task, "SUCCESS")
	if len(good) != 3 || good[0].RecordId != a.at("_dnsauth.a.example.com", "")[1].RecordId || good[2].Domain != "中文.com" || !good[0].Status {
		t.Errorf("good rows %+v", good)
	}
}

// TestAlidnsBatchDeletes goes through what the documents say of rows with a host
// record, a value, both, or neither.
func TestAlidnsBatchDeletes(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.BatchDelay = cloudsim.None
	a := startAli(t, cfg)
	var rows []batchRow
	for n := range 130 {
		rows = append(rows, txtRow("example.com", fmt.Sprintf("_n%d", n), fmt.Sprint("value", n%2)))
	}
	if out := a.carriedOut("RR_ADD", append(rows, txtRow("example.com", "_n0", "more"))...); out.SuccessCount != 131 {
		t.Fatalf("added %+v", out)
	}
	left := func() int { return len(a.Records()) }
	a.carriedOut("RR_DEL", txtRow("example.com", "_n0", "value0"))
	if got := a.lookup("_n0.example.com", dns.TypeTXT); !slices.Equal(got, []string{"more"}) || left() != 130 {
		t.Errorf("by both: %v, %d left", got, left())
	}
	a.carriedOut("RR_DEL", batchRow{Domain: "example.com", Rr: "_n0"})
	if left() != 129 {
		t.Errorf("by the host record: %d left", left())
	}
	a.carriedOut("RR_DEL", batchRow{Domain: "example.com", Value: "value1"})
	if left() != 64 {
		t.Errorf("by the value: %d left", left())
	}
	if out := a.carriedOut("RR_DEL", txtRow("example.com", "_n0", "more"), txtRow("example.com", "_n2", "value0")); out.SuccessCount != 1 || out.FailedCount != 1 || out.Status != 1 {
		t.Errorf("one that is gone: %+v", out)
	}
	if out := a.carriedOut("RR_DEL", txtRow("example.com", "_n0", "more")); out.Status != 2 || out.Reason == "" {
		t.Errorf("nothing that is there: %+v", out)
	}
	a.carriedOut("RR_DEL", batchRow{Domain: "example.com"})
	if left() != 0 {
		t.Errorf("of the whole zone %d are left", left())
	}
	for _, tt := range []struct {
		kind string
		row  batchRow
		want string
	}{
		{"RR_MOVE", txtRow("example.com", "x", "v"), "400 InvalidParameter"},
		{"", txtRow("example.com", "x", "v"), "400 MissingType"},
		{"RR_ADD", batchRow{Domain: "example.com", Rr: "x", Type: "TXT"}, "400 MissingDomainRecordInfo.1.Value"},
		{"RR_DEL", batchRow{Rr: "x"}, "400 MissingDomainRecordInfo.1.Domain"},
		{"RR_ADD", batchRow{}, "400 MissingDomainRecordInfo"},
	} {
		_, err := a.batch(tt.kind, tt.row)
		wantCode(t, err, tt.want)
	}
}

// TestAlidnsBatchIgnoresTheRest sends a row more than the documents allow.
func TestAlidnsBatchIgnoresTheRest(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.BatchDelay = cloudsim.None
	a := startAli(t, cfg)
	rows := make([]batchRow, 1001)
	for n := range rows {
		rows[n] = txtRow("example.com", fmt.Sprintf("_n%d", n), "v")
	}
	if out := a.carriedOut("RR_ADD", rows...); out.TotalCount != 1000 || out.SuccessCount != 1000 {
		t.Errorf("%+v", out)
	}
}

func TestNoBatch(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.NoBatch = true
	a := startAli(t, cfg)
	_, err := a.batch("RR_ADD", txtRow("example.com", "x", "v"))
	wantCode(t, err, "404 InvalidAction.NotFound")
}

// TestBatchSurvives stops the simulator between a task's acceptance and its end.
func TestBatchSurvives(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.Dir, cfg.BatchDelay = t.TempDir(), cloudsim.Exactly(300*time.Millisecond)
	sim, err := cloudsim.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	first := aliClient(t, sim, aliKey, aliSecret)
	task, err := first.batch("RR_ADD", txtRow("example.com", "x", "v"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Close(); err != nil {
		t.Fatal(err)
	}
	a := startAli(t, cfg)
	eventually(t, "the task ends", func() bool { return a.count(task).Status == 1 })
	if got := a.Records(); len(got) != 1 || got[0].Name != "x.example.com" || got[0].By != aliKey || got[0].API != "OperateBatchDomain" {
		t.Errorf("records %+v", got)
	}
}

// TestWhoWrites follows records through the report: who wrote them, and who
// touched what was not theirs.
func TestWhoWrites(t *testing.T) {
	t.Parallel()
	cfg := quick()
	cfg.BatchDelay = cloudsim.None
	cfg.Accounts = append(cloudsim.DefaultAccounts(), cloudsim.Account{Cloud: "aliyun", UID: aliUID, AccessKeyID: "LTAIother", AccessKeySecret: "s"})
	a := startAli(t, cfg)
	other := aliClient(t, a.Sim, "LTAIother", "s")
	foreign, err := a.AddRecord(cloudsim.ConsoleRecord{Cloud: "aliyun", UID: aliUID, Zone: "example.com", RR: "_dnsauth", Type: "TXT", Value: "a person's"})
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := a.put("_dnsauth.example.com", "TXT", "mine"), other.put("_dnsauth.example.com", "TXT", "theirs")
	wantCode(t, a.remove(mine), "<nil>")
	var d cloudsim.DNSReport
	report := func() {
		text, err := json.Marshal(a.Report().DNS)
		if err == nil {
			err = json.Unmarshal(text, &d)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	report()
	if len(d.Foreign) != 0 || len(d.Records) != 2 || d.Records[0].By != "console" || d.Records[1].By != "LTAIother" || d.Records[1].ID != theirs {
		t.Errorf("before: %+v", d)
	}
	want := cloudsim.WriterReport{Cloud: "aliyun", UID: aliUID, Key: aliKey, API: "DeleteDomainRecord", Removed: 1}
	if !slices.Contains(d.Writers, want) {
		t.Errorf("writers %+v", d.Writers)
	}
	wantCode(t, a.remove(foreign), "<nil>")
	a.carriedOut("RR_DEL", batchRow{Domain: "example.com", Rr: "_dnsauth", Type: "TXT"}) // careless
	report()
	if len(d.Records) != 0 || len(d.Foreign) != 2 || d.Foreign[0].Record.Value != "a person's" || d.Foreign[0].Change != "removed" ||
		d.Foreign[1].Record.By != "LTAIother" || d.Foreign[1].Key != aliKey || d.Foreign[1].API != "OperateBatchDomain" {
		t.Errorf("after: %+v", d)
	}
	if err := a.DropRecord("1"); err == nil {
		t.Error("a record that is not there was dropped")
	}
}
