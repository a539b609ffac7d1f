package dnspod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/issuer"
)

const (
	// batchLeast is where a batch begins to pay: an address may hand in 80 tasks
	// an hour and an account may have 4 under way, so few are kept for many.
	batchLeast = 8
	batchMost  = 500 // of 5,000 that a task may have
	patience   = 10 * time.Second
	busy       = time.Minute      // the account's other tasks are under way
	resting    = 10 * time.Minute // the hour's tasks are used up, or something is wrong
)

var unknownAction = regexp.MustCompile(`^(InvalidAction|ActionOffline|UnsupportedOperation|NoSuchVersion)`)

// AddAll implements dcv.Batcher with CreateRecordBatch, a task that the cloud
// runs when it likes. What the task's result does not show as added, for
// whatever reason, is added singly: that call tells what was wrong, and a
// record that the task has added or will add is refused as a duplicate, so none
// is lost and none is there twice. (A task that ran only after its order had
// ended would leave its record; that takes it longer than the CA needs.)
func (p provider) AddAll(ctx context.Context, zone string, rs []dcv.Record) func() []error {
	return batch{
		fits:   func(r dcv.Record) bool { return !splits(r) },
		submit: func(some []dcv.Record) (json.Number, error) { return p.addTask(ctx, zone, some) },
		done:   func(r dcv.Record) { p.recent.added(zone, r) },
		key:    byValue,
		single: func(r dcv.Record) error { return p.Add(ctx, zone, r) },
	}.write(ctx, p, rs)
}

// DeleteAll implements dcv.Batcher with DeleteRecordBatch, which goes by record
// ids as DeleteRecord does. What the task's result does not show as deleted is
// deleted singly; what is gone then was deleted.
func (p provider) DeleteAll(ctx context.Context, zone string, rs []dcv.Record) func() []error {
	return batch{
		fits:   func(dcv.Record) bool { return true },
		submit: func(some []dcv.Record) (json.Number, error) { return p.deleteTask(ctx, some) },
		done:   func(r dcv.Record) { p.recent.deleted(r.ID) },
		key:    byID,
		single: func(r dcv.Record) error { return p.Delete(ctx, zone, r) },
	}.write(ctx, p, rs)
}

// batch is one way to write many records.
type batch struct {
	fits   func(dcv.Record) bool // whether it may go into a task
	submit func([]dcv.Record) (task json.Number, err error)
	done   func(dcv.Record)            // told of each that a task has done
	key    func(dcv.Record) dcv.Record // what a record is known by in a result
	single func(dcv.Record) error      // for all that a task has not done
}

func (b batch) write(ctx context.Context, p provider, rs []dcv.Record) func() []error {
	var fit []dcv.Record
	for _, r := range rs {
		if b.fits(r) {
			fit = append(fit, r)
		}
	}
	switch {
	case !p.batches.Open():
		return func() []error { return dcv.Each(rs, b.single) } // nobody needs to wait for it
	case len(fit) < batchLeast:
		return dcv.Known(dcv.Each(rs, b.single))
	}
	var tasks []json.Number
	for some := range slices.Chunk(fit, batchMost) {
		task, err := b.submit(some)
		if err != nil {
			p.giveUp(err)
			break
		}
		tasks = append(tasks, task)
	}
	return func() []error { return b.finish(ctx, p, rs, tasks) }
}

// finish waits for the tasks, and writes singly what they have not done.
func (b batch) finish(ctx context.Context, p provider, rs []dcv.Record, tasks []json.Number) []error {
	done := map[dcv.Record]bool{}
	for _, task := range tasks {
		records, err := p.await(ctx, task)
		for _, r := range records {
			b.done(r)
			done[b.key(r)] = true
		}
		if err != nil {
			p.giveUp(err)
		}
	}
	return dcv.Each(rs, func(r dcv.Record) error {
		if done[b.key(r)] {
			return nil
		}
		return b.single(r)
	})
}

// splits tells what the batch call would take for several names: it cuts at
// commas.
func splits(r dcv.Record) bool { return strings.ContainsAny(r.RR+r.Value, ",，;|\r\n") }

// giveUp decides how long batches are not tried: for good where the key may not
// or the API does not know them, else for a while.
func (p provider) giveUp(err error) {
	switch {
	case issuer.KindOf(err) == issuer.Credentials || unknownAction.MatchString(code(err)):
		p.batches.Shut(dcv.Forever)
	case code(err) == "InvalidParameter.BatchTaskCountLimit" || code(err) == "InvalidParameter.BatchLimitUndo":
		p.batches.Shut(busy)
	default:
		p.batches.Shut(resting)
	}
}

// addTask hands in one task.
func (p provider) addTask(ctx context.Context, zone string, rs []dcv.Record) (json.Number, error) {
	id, ok := p.ids.Load(strings.ToLower(zone))
	if !ok || id == "" {
		return "", errors.New("the list of zones gave no DomainId")
	}
	type record struct {
		SubDomain, RecordType, RecordLine, Value string
		TTL                                      int
	}
	list := make([]record, len(rs))
	for i, r := range rs {
		list[i] = record{r.RR, r.Type, defaultLine, r.Value, dcv.TTL}
	}
	return p.task(ctx, "CreateRecordBatch", struct {
		DomainIdList []string
		RecordList   []record
	}{[]string{id.(string)}, list})
}

// deleteTask hands in one task.
func (p provider) deleteTask(ctx context.Context, rs []dcv.Record) (json.Number, error) {
	ids := make([]json.Number, len(rs))
	for i, r := range rs {
		ids[i] = json.Number(r.ID)
	}
	return p.task(ctx, "DeleteRecordBatch", struct{ RecordIdList []json.Number }{ids})
}

func (p provider) task(ctx context.Context, action string, in any) (json.Number, error) {
	var out struct{ JobId json.Number }
	if err := p.call(ctx, action, in, &out); err != nil {
		return "", err
	}
	if out.JobId == "" {
		return "", fmt.Errorf("%s: the answer names no JobId", action)
	}
	return out.JobId, nil
}

// await asks at growing distance until the task is over, and returns what it
// shows as done, also with an error.
func (p provider) await(ctx context.Context, task json.Number) (done []dcv.Record, err error) {
	began := time.Now()
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return done, ctx.Err()
		}
		s, err := p.state(ctx, task)
		if err != nil {
			return done, err
		}
		done = s.done
		switch {
		case s.over:
			return done, nil
		case time.Since(began) > patience:
			return done, fmt.Errorf("task %s is not over after %v", task, patience)
		}
	}
}

// state is how far a task is.
type state struct {
	over bool
	done []dcv.Record
}

func (p provider) state(ctx context.Context, task json.Number) (s state, err error) {
	var out struct {
		TotalCount, SuccessCount, FailCount int
		DetailList                          []struct {
			RecordList []struct {
				RecordId                             json.Number
				SubDomain, RecordType, Value, Status string
			}
		}
	}
	if err := p.call(ctx, "DescribeBatchTask", struct{ JobId json.Number }{task}, &out); err != nil {
		return state{}, err
	}
	s.over = out.TotalCount > 0 && out.SuccessCount+out.FailCount >= out.TotalCount
	for _, d := range out.DetailList {
		for _, r := range d.RecordList {
			if r.Status == "ok" {
				s.done = append(s.done, dcv.Record{ID: r.RecordId.String(), RR: r.SubDomain, Type: r.RecordType, Value: r.Value})
			}
		}
	}
	return s, nil
}

// byValue and byID are what a record is known by before and after it is there.
func byValue(r dcv.Record) dcv.Record {
	return dcv.Record{RR: strings.ToLower(r.RR), Type: r.Type, Value: r.Value}
}

func byID(r dcv.Record) dcv.Record { return dcv.Record{ID: r.ID} }
