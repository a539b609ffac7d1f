package cloudsim

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// The actions of DNSPod for many records (CreateRecordBatch, DeleteRecordBatch,
// DescribeBatchTask). The limits stand in the descriptions of the error codes.

const (
	maxDNSPodRows  = 5000 // InvalidParameter.JobGreaterThanLimit
	maxDNSPodTasks = 4    // InvalidParameter.BatchTaskCountLimit
)

// newRecordBatch are the parameters of CreateRecordBatch: every record is added to
// every domain.
type newRecordBatch struct {
	DomainIdList []looseID     `tc:"required"`
	RecordList   []batchRecord `tc:"required"`
}

// batchRecord is AddRecordBatch. SubDomain may name several, with commas.
type batchRecord struct {
	RecordType string `tc:"required"`
	Value      string `tc:"required"`

	SubDomain, RecordLine, RecordLineId string
	MX, TTL                             uint64
}

// looseID is documented as a string, and sent as a number by the sample.
type looseID string

// UnmarshalJSON takes either.
func (id *looseID) UnmarshalJSON(text []byte) error {
	var s string
	if json.Unmarshal(text, &s) == nil {
		*id = looseID(s)
		return nil
	}
	var n uint64
	err := json.Unmarshal(text, &n)
	*id = looseID(strconv.FormatUint(n, 10))
	return err
}

func (s *Sim) createRecordBatch(by caller, in newRecordBatch) (fields, error) {
	switch {
	case len(in.DomainIdList) == 0:
		return nil, refuse(0, "InvalidParameter.DomainsEmpty", "No domain was submitted.")
	case len(in.RecordList) == 0:
		return nil, refuse(0, "InvalidParameter.RecordsEmpty", "No record was submitted.")
	}
	zones, err := s.zonesByID(by.owner)
	if err != nil {
		return nil, err
	}
	var rows []batchRow
	for _, list := range in.DomainIdList {
		for text := range strings.SplitSeq(string(list), ",") {
			id, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
			if err != nil || id == 0 {
				return nil, refuse(0, "InvalidParameter.DomainIdInvalid", "The domain id is incorrect.")
			}
			zone, known := zones[id]
			if !known {
				return nil, noZone()
			}
			of, err := in.rows(zone)
			if err != nil {
				return nil, err
			}
			rows = append(rows, of...)
		}
	}
	return s.takeBatch(by, batchAdd, rows, createdDetail)
}

// rows are the records of one zone.
func (in *newRecordBatch) rows(zone string) ([]batchRow, error) {
	var rows []batchRow
	for _, one := range in.RecordList {
		setIfZero(&one.SubDomain, "@")
		for sub := range strings.SplitSeq(strings.ToLower(one.SubDomain), ",") {
			r := newRecord{RecordType: one.RecordType, RecordLine: one.RecordLine, RecordLineId: one.RecordLineId, Value: one.Value,
				SubDomain: strings.TrimSpace(sub), MX: one.MX, TTL: one.TTL}
			setIfZero(&r.RecordLine, defaultLine)
			setIfZero(&r.TTL, 600)
			if err := r.check(zone); err != nil {
				return nil, err
			}
			rows = append(rows, batchRow{Zone: zone, RR: r.SubDomain, Type: r.RecordType, Value: plain(r.RecordType, r.Value),
				Line: defaultLine, TTL: uint32(r.TTL)})
		}
	}
	return rows, nil
}

func (s *Sim) deleteRecordBatch(by caller, in struct {
	RecordIdList []uint64 `tc:"required"`
}) (fields, error) {
	if len(in.RecordIdList) == 0 {
		return nil, refuse(0, "InvalidParameter.RecordsEmpty", "No record was submitted.")
	}
	rows := make([]batchRow, len(in.RecordIdList))
	s.books.mu.Lock()
	for i, id := range in.RecordIdList {
		rows[i].Record = id
		if r, known := s.books.records[id]; known && r.Owner == by.owner {
			rows[i] = batchRow{Record: id, Zone: r.Zone, RR: r.RR, Type: r.Type, Value: r.Value, Line: r.Line, TTL: r.TTL}
		}
	}
	s.books.mu.Unlock()
	return s.takeBatch(by, batchDel, rows, deletedDetail)
}

// takeBatch submits a task within the limits. What it answers is the request once
// more, filled in: nothing has happened yet.
func (s *Sim) takeBatch(by caller, kind string, rows []batchRow, detail func(*batch) []fields) (fields, error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	switch {
	case len(rows) > maxDNSPodRows:
		return nil, refuse(0, "InvalidParameter.JobGreaterThanLimit", "The number of records in one task exceeds the limit of %d.", maxDNSPodRows)
	case s.books.waitingBatches(by.owner) >= maxDNSPodTasks:
		return nil, refuse(0, "InvalidParameter.BatchTaskCountLimit", "The number of batch tasks exceeds the limit of %d per account.", maxDNSPodTasks)
	case !s.books.spendTask(s.cfg().BatchTasksPerHour, time.Now()):
		return nil, refuse(0, "RequestLimitExceeded.BatchTaskLimit", "Your IP has submitted too many tasks: up to %d per hour.", s.cfg().BatchTasksPerHour)
	}
	t, err := s.submitBatch(by.owner, by.hand, kind, rows)
	if err != nil {
		return nil, err
	}
	return fields{"JobId": t.ID, "DetailList": detail(t)}, nil
}

// spendTask counts the tasks of the last hour, of all accounts: they come from one
// address here. Callers hold the lock.
func (b *books) spendTask(limit int, now time.Time) bool {
	for len(b.hour) > 0 && now.Sub(b.hour[0]) >= time.Hour {
		b.hour = b.hour[1:]
	}
	if limit >= 0 && len(b.hour) >= limit {
		return false
	}
	b.hour = append(b.hour, now)
	return true
}

// zonesOf are the rows of a task by zone, in the order in which zones come up.
func (t *batch) zonesOf() (zones []string, rows map[string][]batchRow) {
	rows = map[string][]batchRow{}
	for _, row := range t.Rows {
		if rows[row.Zone] == nil {
			zones = append(zones, row.Zone)
		}
		rows[row.Zone] = append(rows[row.Zone], row)
	}
	return zones, rows
}

func createdDetail(t *batch) []fields { return t.detail("plus") }

// deletedDetail carries the records as text, which is how it is documented.
func deletedDetail(t *batch) []fields {
	all := []fields{}
	zones, rows := t.zonesOf()
	for _, zone := range zones {
		if zone == "" {
			continue // ids that nobody knows belong to no domain
		}
		var list []fields
		for i, row := range rows[zone] {
			list = append(list, fields{"id": i, "sub_domain": row.RR, "area": row.Line, "record_type": row.Type, "value": row.Value,
				"ttl": strconv.FormatUint(uint64(row.TTL), 10), "record_id": row.Record})
		}
		text, _ := json.Marshal(list) // maps of texts and numbers always can be
		all = append(all, fields{"DomainId": zoneID(t.Owner, zone), "Domain": uLabels(zone), "Error": nil, "Status": "waiting",
			"Operation": "remove", "RecordList": string(text)})
	}
	return all
}

// detail shows the task by domain: waiting, then ok or error for each record.
func (t *batch) detail(operation string) []fields {
	all := []fields{}
	zones, rows := t.zonesOf()
	for i, zone := range zones {
		status, list := "waiting", []fields{}
		if t.done() {
			status = "ok"
		}
		for n, row := range rows[zone] {
			one := t.recordFields(n, row, operation)
			if one["Status"] == "error" {
				status = "error"
			}
			list = append(list, one)
		}
		all = append(all, fields{"RecordList": list, "Id": i, "Domain": uLabels(zone), "DomainId": zoneID(t.Owner, zone),
			"DomainGrade": "DP_FREE", "ErrMsg": nil, "Status": status, "Operation": nil})
	}
	return all
}

func (t *batch) recordFields(n int, row batchRow, operation string) fields {
	out := fields{"Id": n, "SubDomain": row.RR, "RecordType": row.Type, "RecordLine": row.Line, "Value": shownValue(row.Type, row.Value),
		"TTL": row.TTL, "MX": nil, "Weight": nil, "Operation": operation, "ErrMsg": nil, "Status": "waiting"}
	if row.Record != 0 {
		out["RecordId"] = row.Record
	}
	switch {
	case !t.done():
	case row.OK:
		out["Status"], out["Enabled"] = "ok", 1
	default:
		out["Status"], out["ErrMsg"] = "error", row.Reason
	}
	return out
}

// jobTypes are JobType of DescribeBatchTask; documented is only record_modify.
var jobTypes = map[string][2]string{batchAdd: {"record_add", "plus"}, batchDel: {"record_remove", "remove"}}

func (s *Sim) describeBatchTask(own owner, in struct {
	JobId int64 `tc:"required"`
}) (fields, error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	t := s.books.batches[in.JobId]
	switch {
	case t == nil || t.Owner.Cloud != cloudTencent:
		return nil, refuse(0, "InvalidParameter.BatchTaskNotExist", "The task does not exist.")
	case t.Owner != own:
		return nil, refuse(0, "FailedOperation.NotBatchTaskOwner", "You are not the owner of this task.")
	}
	ok, failed := t.count()
	return fields{"DetailList": t.detail(jobTypes[t.Kind][1]), "TotalCount": len(t.Rows), "SuccessCount": ok, "FailCount": failed,
		"JobType": jobTypes[t.Kind][0], "CreatedAt": gmt8(t.Created)}, nil
}
