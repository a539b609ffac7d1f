package cloudsim

import (
	"strconv"
	"strings"
	"time"
)

// The operations of alidns 2015-01-09 for many records (help.aliyun.com,
// OperateBatchDomain, DescribeBatchResultCount, DescribeBatchResultDetail).

// maxBatchRows is how many rows one call may have. The documents warn that the
// rows beyond are ignored, not refused.
const maxBatchRows = 1000

// Status of DescribeBatchResultCount.
const (
	batchNone    = -1 // there is no such task
	batchRunning = 0
	batchDone    = 1
	batchFailed  = 2
)

// operateBatchDomain takes a task in. Whatever is wrong with a single row shows in
// the task's result, not here.
func (s *Sim) operateBatchDomain(c *rpcCall) (rpcFields, error) {
	if err := c.require("Type"); err != nil {
		return nil, err
	}
	kind := c.params["Type"]
	switch kind {
	case batchAdd, batchDel:
	case "DOMAIN_ADD", "DOMAIN_DEL":
		return nil, rpcInvalid("Type", "the simulator's zones come and go with its config")
	default:
		return nil, rpcInvalid("Type", "it is none of RR_ADD, RR_DEL, DOMAIN_ADD and DOMAIN_DEL")
	}
	rows, err := c.batchRows(kind)
	if err != nil {
		return nil, err
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	t, err := s.submitBatch(c.own, c.hand(), kind, rows)
	if err != nil {
		return nil, err
	}
	return rpcFields{"TaskId": t.ID}, nil
}

// batchRows reads DomainRecordInfo.N, N from 1 on without a gap.
func (c *rpcCall) batchRows(kind string) ([]batchRow, error) {
	var rows []batchRow
	for n := 1; n <= maxBatchRows; n++ {
		prefix := "DomainRecordInfo." + strconv.Itoa(n) + "."
		if !c.hasPrefix(prefix, "Domain", "Rr", "Type", "Value", "Line", "Ttl") {
			break
		}
		row, err := c.batchRow(prefix, kind)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return nil, rpcMissing("DomainRecordInfo")
	}
	return rows, nil
}

func (c *rpcCall) hasPrefix(prefix string, names ...string) bool {
	for _, name := range names {
		if c.params[prefix+name] != "" {
			return true
		}
	}
	return false
}

func (c *rpcCall) batchRow(prefix, kind string) (batchRow, error) {
	need := []string{prefix + "Domain"}
	if kind == batchAdd {
		need = append(need, prefix+"Rr", prefix+"Type", prefix+"Value")
	}
	if err := c.require(need...); err != nil {
		return batchRow{}, err
	}
	row := batchRow{Zone: aLabels(c.params[prefix+"Domain"]), RR: strings.ToLower(c.params[prefix+"Rr"]),
		Type: strings.ToUpper(c.params[prefix+"Type"]), Value: c.params[prefix+"Value"], Line: c.params[prefix+"Line"]}
	ttl, err := c.number(prefix+"Ttl", defaultTTL, 1)
	if err != nil || ttl > maxTTL {
		return row, rpcInvalid(prefix+"Ttl", "it is not from 1 to "+strconv.Itoa(maxTTL))
	}
	if kind == batchAdd {
		row.TTL = uint32(ttl)
		setIfZero(&row.Line, anyLine)
	}
	return row, nil
}

// task finds what TaskId names, or the account's last one; nil if there is none.
// Callers hold the lock.
func (s *Sim) task(c *rpcCall) (*batch, error) {
	kind := c.params["BatchType"]
	if c.params["TaskId"] == "" {
		ids := s.books.tasks[c.own]
		for i := len(ids) - 1; i >= 0; i-- {
			if t := s.books.batches[ids[i]]; kind == "" || t.Kind == kind {
				return t, nil
			}
		}
		return nil, nil
	}
	id, err := strconv.ParseInt(c.params["TaskId"], 10, 64)
	if err != nil {
		return nil, rpcInvalid("TaskId", "it is no whole number")
	}
	t := s.books.batches[id]
	if t == nil || t.Owner != c.own || kind != "" && t.Kind != kind {
		return nil, nil
	}
	return t, nil
}

func (s *Sim) describeBatchResultCount(c *rpcCall) (rpcFields, error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	t, err := s.task(c)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return rpcFields{"Status": batchNone, "TotalCount": 0, "SuccessCount": 0, "FailedCount": 0, "TaskId": 0, "BatchType": c.params["BatchType"], "Reason": ""}, nil
	}
	ok, failed := t.count()
	status, reason := batchRunning, ""
	switch {
	case t.done() && ok == 0:
		status, reason = batchFailed, t.Rows[0].Reason
	case t.done():
		status = batchDone
	}
	return rpcFields{"Status": status, "TotalCount": len(t.Rows), "SuccessCount": ok, "FailedCount": failed, "TaskId": t.ID,
		"BatchType": t.Kind, "Reason": reason}, nil
}

// describeBatchResultDetail shows the rows of a task that is carried out; before
// that there are none ("call it after the task is complete").
func (s *Sim) describeBatchResultDetail(c *rpcCall) (rpcFields, error) {
	number, size, err := c.pages(maxPage)
	if err != nil {
		return nil, err
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	t, err := s.task(c)
	if err != nil {
		return nil, err
	}
	var found []batchRow
	if t != nil && t.done() {
		for _, row := range t.Rows {
			if c.params["Status"] == "" || (c.params["Status"] == "SUCCESS") == row.OK {
				found = append(found, row)
			}
		}
	}
	rows := []rpcFields{}
	for _, row := range rpcPage(found, number, size) {
		rows = append(rows, batchRowFields(t, row))
	}
	return rpcFields{"TotalCount": len(found), "PageNumber": number, "PageSize": size,
		"BatchResultDetails": rpcFields{"BatchResultDetail": rows}}, nil
}

func batchRowFields(t *batch, row batchRow) rpcFields {
	out := rpcFields{"Status": row.OK, "Domain": uLabels(row.Zone), "Rr": row.RR, "Type": row.Type, "Value": row.Value, "Line": row.Line,
		"Ttl": strconv.FormatUint(uint64(row.TTL), 10), "BatchType": t.Kind, "Reason": row.Reason,
		"OperateDateStr": t.DoneAt.In(chinaTime).Format(time.DateTime)}
	if row.Record != 0 {
		out["RecordId"] = formatID(row.Record)
	}
	return out
}
