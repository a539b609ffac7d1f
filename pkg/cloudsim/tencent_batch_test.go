package cloudsim_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
)

type batchTask struct {
	JobId                               int64
	TotalCount, SuccessCount, FailCount int
	JobType, CreatedAt                  string
	DetailList                          []struct {
		Domain, Status string
		DomainId       uint64
		RecordList     []struct {
			RecordId                             *uint64
			SubDomain, RecordType, Value, Status string
			ErrMsg                               *string
		}
	}
}

// domainID is what DescribeDomainList shows of a zone.
func (c *tencentCloud) domainID(zone string) string {
	c.t.Helper()
	var out struct{ DomainList []struct{ DomainId uint64 } }
	c.call("dnspod", "DescribeDomainList", params{"Keyword": zone}, &out)
	if len(out.DomainList) != 1 {
		c.t.Fatalf("zone %s: %+v", zone, out)
	}
	return fmt.Sprint(out.DomainList[0].DomainId)
}

// finished waits for the end of a task.
func (c *tencentCloud) finished(job int64) batchTask {
	c.t.Helper()
	var out batchTask
	eventually(c.t, "the task ends", func() bool {
		out = batchTask{}
		c.call("dnspod", "DescribeBatchTask", params{"JobId": job}, &out)
		return out.SuccessCount+out.FailCount == out.TotalCount
	})
	return out
}

func TestDNSPodBatch(t *testing.T) {
	cfg := tencentConfig()
	cfg.BatchDelay = cloudsim.Exactly(150 * time.Millisecond)
	c := startTencent(t, cfg)
	one, two := c.domainID("example.com"), c.domainID("xn--fiq228c.com")
	c.call("dnspod", "CreateRecord", params{"Domain": "example.com", "SubDomain": "_b", "RecordType": "TXT", "RecordLine": "默认", "Value": "v"}, nil)
	var job batchTask
	records := []params{{"SubDomain": "_a,_b", "RecordType": "TXT", "Value": "v"}, {"SubDomain": "c", "RecordType": "CNAME", "Value": "target.example.net."}}
	c.call("dnspod", "CreateRecordBatch", params{"DomainIdList": []string{one, two}, "RecordList": records}, &job)
	if len(job.DetailList) != 2 || len(job.DetailList[0].RecordList) != 3 || job.DetailList[0].RecordList[0].Status != "waiting" ||
		job.DetailList[1].Domain != "中文.com" {
		t.Errorf("at once %+v", job)
	}
	if n := len(c.sim.Records()); n != 1 {
		t.Errorf("%d records at once", n)
	}
	out := c.finished(job.JobId)
	if out.TotalCount != 6 || out.SuccessCount != 5 || out.FailCount != 1 || out.DetailList[0].Status != "error" || out.DetailList[1].Status != "ok" {
		t.Errorf("at the end %+v", out)
	}
	var ids []uint64
	for _, d := range out.DetailList {
		for _, r := range d.RecordList {
			if r.RecordId == nil {
				if r.SubDomain != "_b" || r.ErrMsg == nil || r.Status != "error" {
					t.Errorf("row without a record %+v", r)
				}
				continue
			}
			ids = append(ids, *r.RecordId)
		}
	}
	var list struct {
		RecordList []struct {
			RecordId    uint64
			Name, Value string
		}
	}
	c.call("dnspod", "DescribeRecordList", params{"Domain": "中文.com", "SubDomain": "c"}, &list)
	if len(list.RecordList) != 1 || !slices.Contains(ids, list.RecordList[0].RecordId) || list.RecordList[0].Value != "target.example.net." {
		t.Errorf("listed %+v", list)
	}

	var gone struct {
		JobId      int64
		DetailList []struct{ Domain, Status, Operation, RecordList string }
	}
	c.call("dnspod", "DeleteRecordBatch", params{"RecordIdList": append(ids, 77)}, &gone)
	var rows []struct{ RecordId uint64 }
	if len(gone.DetailList) != 2 || gone.DetailList[0].Operation != "remove" || json.Unmarshal([]byte(gone.DetailList[0].RecordList), &rows) != nil || len(rows) != 2 {
		t.Errorf("deleting %+v", gone)
	}
	if out := c.finished(gone.JobId); out.SuccessCount != 5 || out.FailCount != 1 {
		t.Errorf("deleted %+v", out)
	}
	if left := c.sim.Records(); len(left) != 1 || left[0].Name != "_b.example.com" || left[0].API != "CreateRecord" {
		t.Errorf("left %+v", left)
	}
}

func TestDNSPodBatchLimits(t *testing.T) {
	cfg := tencentConfig()
	cfg.BatchDelay, cfg.BatchTasksPerHour = cloudsim.Exactly(time.Hour), 6
	cfg.Accounts = append(cfg.Accounts, cloudsim.Account{Cloud: "tencent", UID: "200", AccessKeyID: "AKIDtwo", AccessKeySecret: "s2"})
	c := startTencent(t, cfg)
	two := &tencentCloud{t, c.sim, cfg.Accounts[1]}
	id := c.domainID("example.com")
	records := func(n int) []params {
		return []params{{"RecordType": "TXT", "Value": "v", "SubDomain": strings.TrimSuffix(strings.Repeat("x,", n), ",")}}
	}
	create := func(c *tencentCloud, id string, n int) string {
		return c.code("dnspod", "CreateRecordBatch", params{"DomainIdList": []string{id}, "RecordList": records(n)})
	}
	for _, tt := range []struct{ got, want string }{
		{create(c, "12345", 1), "InvalidParameterValue.DomainNotExists"},
		{create(c, "example.com", 1), "InvalidParameter.DomainIdInvalid"},
		{create(c, id, 5001), "InvalidParameter.JobGreaterThanLimit"},
		{c.code("dnspod", "CreateRecordBatch", params{"DomainIdList": []string{id}, "RecordList": []params{}}), "InvalidParameter.RecordsEmpty"},
		{c.code("dnspod", "CreateRecordBatch", params{"DomainIdList": []string{}, "RecordList": records(1)}), "InvalidParameter.DomainsEmpty"},
		{c.code("dnspod", "DeleteRecordBatch", params{"RecordIdList": []int{}}), "InvalidParameter.RecordsEmpty"},
		{c.code("dnspod", "DescribeBatchTask", params{"JobId": 5}), "InvalidParameter.BatchTaskNotExist"},
		{create(c, id, 1), "success"},
		{create(c, id, 1), "success"},
		{create(c, id, 1), "success"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
	var job batchTask
	c.call("dnspod", "CreateRecordBatch", params{"DomainIdList": []json.Number{json.Number(id)}, "RecordList": records(1)}, &job) // as the sample sends it
	if got := create(c, id, 1); got != "InvalidParameter.BatchTaskCountLimit" {
		t.Errorf("a fifth task at the same time: %s", got)
	}
	if got := two.code("dnspod", "DescribeBatchTask", params{"JobId": job.JobId}); got != "FailedOperation.NotBatchTaskOwner" {
		t.Errorf("another account's task: %s", got)
	}
	own := two.domainID("example.com")
	if one, last, more := create(two, own, 1), create(two, own, 1), create(two, own, 1); one != "success" || last != "success" || more != "RequestLimitExceeded.BatchTaskLimit" {
		t.Errorf("tasks of the hour: %s, %s, then %s", one, last, more)
	}
	if err := c.sim.SetConfig(func(c *cloudsim.Config) { c.NoBatch = true }); err != nil {
		t.Fatal(err)
	}
	if got := create(c, id, 1); got != "InvalidAction" {
		t.Errorf("without the actions: %s", got)
	}
}

// TestDNSPodListLags shows a record that is there and not listed yet.
func TestDNSPodListLags(t *testing.T) {
	cfg := tencentConfig()
	cfg.RecordListLag = cloudsim.Exactly(time.Hour)
	c := startTencent(t, cfg)
	in := params{"Domain": "example.com", "SubDomain": "_a", "RecordType": "TXT", "RecordLine": "默认", "Value": "v"}
	c.call("dnspod", "CreateRecord", in, nil)
	if got := c.code("dnspod", "DescribeRecordList", params{"Domain": "example.com"}); got != "ResourceNotFound.NoDataOfRecord" {
		t.Errorf("listed at once: %s", got)
	}
	if got := c.code("dnspod", "CreateRecord", in); got != "InvalidParameter.DomainRecordExist" {
		t.Errorf("written again: %s", got)
	}
}

func TestDNSPodIDN(t *testing.T) {
	cfg := tencentConfig()
	cfg.Accounts[0].Zones = []string{"xn--fiq228c.com", "example.com"}
	c := startTencent(t, cfg)
	var out struct {
		DomainList []struct{ Name, Punycode string }
	}
	c.call("dnspod", "DescribeDomainList", params{}, &out)
	if len(out.DomainList) != 2 || out.DomainList[1].Name != "中文.com" || out.DomainList[1].Punycode != "xn--fiq228c.com" ||
		out.DomainList[0].Name != "example.com" || out.DomainList[0].Punycode != "example.com" {
		t.Errorf("zones %+v", out)
	}
	for _, zone := range []string{"中文.com", "xn--fiq228c.com"} {
		c.call("dnspod", "CreateRecord", params{"Domain": zone, "SubDomain": "_a", "RecordType": "TXT", "RecordLine": "默认", "Value": zone}, nil)
	}
	if left := c.sim.Records(); len(left) != 2 || left[0].Zone != "xn--fiq228c.com" || left[1].Zone != left[0].Zone {
		t.Errorf("records %+v", left)
	}
}
