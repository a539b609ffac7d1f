package alidns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
)

const (
	batchLeast = 8   // a batch is three calls at least, and slower than one
	batchMost  = 200 // of 1,000 that the cloud takes; a lost task loses no more
	patience   = 10 * time.Second
	resting    = 10 * time.Minute
)

var unknownAction = regexp.MustCompile(`^(InvalidAction|InvalidApi|Unsupported)`)

// AddAll implements dcv.Batcher with OperateBatchDomain, a task that the cloud
// runs when it likes. What the task's result does not show as added, for
// whatever reason, is added singly: that call tells what was wrong, and a
// record that the task has added or will add is refused as a duplicate, so none
// is lost and none is there twice. (A task that ran only after its order had
// ended would leave its record; that takes it longer than the CA needs.)
func (p provider) AddAll(ctx context.Context, zone string, rs []dcv.Record) func() []error {
	add := func(r dcv.Record) error { return p.Add(ctx, zone, r) }
	switch {
	case !p.batches.Open():
		return func() []error { return dcv.Each(rs, add) } // nobody needs to wait for it
	case len(rs) < batchLeast:
		return dcv.Known(dcv.Each(rs, add))
	}
	tasks := p.submit(ctx, zone, rs)
	return func() []error {
		added := map[dcv.Record]bool{}
		for _, task := range tasks {
			if err := p.outcome(ctx, task, zone, added); err != nil {
				p.giveUp(err)
			}
		}
		return dcv.Each(rs, func(r dcv.Record) error {
			if added[key(r)] {
				return nil
			}
			return add(r)
		})
	}
}

// submit hands records in and returns the ids of the tasks.
func (p provider) submit(ctx context.Context, zone string, rs []dcv.Record) (tasks []string) {
	for some := range slices.Chunk(rs, batchMost) {
		task, err := p.addTask(ctx, zone, some)
		if err != nil {
			p.giveUp(err)
			break
		}
		tasks = append(tasks, task)
	}
	return tasks
}

// DeleteAll implements dcv.Batcher one by one. The cloud's batch deletion
// (RR_DEL) goes by name and value instead of by id, and takes a task without
// them as "all records of the zone": it could take more than what was looked
// at, so it is not used.
func (p provider) DeleteAll(ctx context.Context, zone string, rs []dcv.Record) func() []error {
	return func() []error {
		return dcv.Each(rs, func(r dcv.Record) error { return p.Delete(ctx, zone, r) })
	}
}

// giveUp decides how long batches are not tried: for good where the key may not
// or the API does not know them, else for a while.
func (p provider) giveUp(err error) {
	e, _ := errors.AsType[*issuer.Error](err)
	if e != nil && (e.Kind == issuer.Credentials || unknownAction.MatchString(e.Code)) {
		p.batches.Shut(dcv.Forever)
		return
	}
	p.batches.Shut(resting)
}

// addTask hands in one task.
func (p provider) addTask(ctx context.Context, zone string, rs []dcv.Record) (id string, err error) {
	req := newRequest("OperateBatchDomain")
	req.FormParams["Type"] = "RR_ADD" // the body has room, a URL has not
	for i, r := range rs {
		for name, value := range map[string]string{"Domain": zone, "Rr": r.RR, "Type": r.Type, "Value": r.Value,
			"Ttl": strconv.Itoa(dcv.TTL), "Line": "default"} {
			req.FormParams[fmt.Sprintf("DomainRecordInfo.%d.%s", i+1, name)] = value
		}
	}
	body, err := p.send(ctx, req)
	if err != nil {
		return "", err
	}
	var task struct{ TaskId json.Number }
	if json.Unmarshal(body, &task) != nil || task.TaskId == "" {
		return "", malformed("OperateBatchDomain")
	}
	return task.TaskId.String(), nil
}

// outcome waits for a task and enters in added what its result shows as added.
func (p provider) outcome(ctx context.Context, task, zone string, added map[dcv.Record]bool) error {
	if err := p.await(ctx, task); err != nil {
		return err
	}
	return p.result(ctx, task, zone, added)
}

// await asks at growing distance until the task is done.
func (p provider) await(ctx context.Context, task string) error {
	began := time.Now()
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		body, err := p.call(ctx, "DescribeBatchResultCount", map[string]string{"TaskId": task, "BatchType": "RR_ADD"})
		if err != nil {
			return err
		}
		var state struct{ Status json.Number } // 0 under way, 1 done, 2 failed, -1 none
		if json.Unmarshal(body, &state) != nil || state.Status == "" {
			return malformed("DescribeBatchResultCount")
		}
		switch {
		case state.Status == "1" || state.Status == "2":
			return nil // of a failed task some records may be there
		case time.Since(began) > patience:
			return fmt.Errorf("task %s of OperateBatchDomain is not done after %v", task, patience)
		}
	}
}

// result reads what became of each record.
func (p provider) result(ctx context.Context, task, zone string, added map[dcv.Record]bool) error {
	params := map[string]string{"TaskId": task, "BatchType": "RR_ADD"}
	return p.pages(ctx, "DescribeBatchResultDetail", params, func(body []byte) (page, error) {
		var out struct {
			page
			BatchResultDetails struct {
				BatchResultDetail []struct {
					Status                  bool
					Domain, Rr, Type, Value string
				}
			}
		}
		err := json.Unmarshal(body, &out)
		for _, r := range out.BatchResultDetails.BatchResultDetail {
			if r.Status && strings.EqualFold(r.Domain, zone) {
				added[key(dcv.Record{RR: r.Rr, Type: r.Type, Value: r.Value})] = true
			}
		}
		return out.page, err
	})
}

// key is a record as a key: what makes it the one that was asked for.
func key(r dcv.Record) dcv.Record {
	return dcv.Record{RR: strings.ToLower(r.RR), Type: r.Type, Value: r.Value}
}
