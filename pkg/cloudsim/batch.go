package cloudsim

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Both clouds take many records in one call, answer at once with the number of a
// task, and carry it out a little later, row by row: one row that is refused
// stops no other.

const (
	batchAdd = "RR_ADD"
	batchDel = "RR_DEL"
)

// batch is one such task. Values are replaced as a whole, never changed in place.
type batch struct {
	ID      int64      `json:"id"`
	Owner   owner      `json:"owner"`
	Kind    string     `json:"kind"` // RR_ADD or RR_DEL
	Key     string     `json:"key"`  // who submitted it
	API     string     `json:"api"`
	Created time.Time  `json:"created"`
	DueAt   time.Time  `json:"due_at"`
	DoneAt  time.Time  `json:"done_at,omitzero"`
	Rows    []batchRow `json:"rows"`
}

// batchRow is one record of a task. What a row to delete leaves empty fits any.
type batchRow struct {
	Zone   string `json:"zone"`
	RR     string `json:"rr"`
	Type   string `json:"type"`
	Value  string `json:"value"`
	Line   string `json:"line,omitempty"`
	TTL    uint32 `json:"ttl,omitempty"`
	Record uint64 `json:"record,omitempty"` // DNSPod: which one to delete; after it is done: which one it was
	OK     bool   `json:"ok,omitempty"`
	Reason string `json:"reason,omitempty"` // why not
}

const batchKey = "batch/" // before the number, in the agenda

func (t *batch) done() bool { return !t.DoneAt.IsZero() }

// count says how many rows went well and how many did not.
func (t *batch) count() (ok, failed int) {
	for _, row := range t.Rows {
		switch {
		case row.OK:
			ok++
		case t.done():
			failed++
		}
	}
	return ok, failed
}

// submitBatch takes a task in. Callers hold the lock.
func (s *Sim) submitBatch(own owner, by hand, kind string, rows []batchRow) (*batch, error) {
	now := time.Now()
	t := &batch{Owner: own, Kind: kind, Key: by.key, API: by.api, Created: now, DueAt: now.Add(s.dice.in(s.cfg().BatchDelay)), Rows: rows}
	for t.ID == 0 || s.books.batches[t.ID] != nil {
		t.ID = s.dice.number(1_000_000, 100_000_000)
	}
	if err := s.books.putBatch(t); err != nil {
		return nil, err
	}
	s.agenda.put(t.key(), t.DueAt)
	return t, nil
}

func (t *batch) key() string { return batchKey + strconv.FormatInt(t.ID, 10) }

func (b *books) putBatch(t *batch) error {
	if err := b.journal.put("batch", t.key(), t); err != nil {
		return err
	}
	b.indexBatch(t)
	return nil
}

func (b *books) indexBatch(t *batch) {
	if b.batches[t.ID] == nil {
		b.tasks[t.Owner] = append(b.tasks[t.Owner], t.ID)
	}
	b.batches[t.ID] = t
}

// waitingBatches is how many tasks of an account are not carried out yet. Callers
// hold the lock.
func (b *books) waitingBatches(own owner) int {
	n := 0
	for _, id := range slices.Backward(b.tasks[own]) {
		if !b.batches[id].done() {
			n++
		}
	}
	return n
}

// runBatch carries out a task that is due.
func (s *Sim) runBatch(key string) {
	id, err := strconv.ParseInt(strings.TrimPrefix(key, batchKey), 10, 64)
	if err != nil {
		return
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	t := s.books.batches[id]
	if t == nil || t.done() {
		return // reset meanwhile
	}
	if time.Now().Before(t.DueAt) {
		s.agenda.put(key, t.DueAt)
		return
	}
	next := *t
	next.Rows = slices.Clone(t.Rows)
	if err := s.runRows(&next); err != nil {
		// What was done stays done; the rest is, once the books can be written.
		s.log.Error("cloudsim cannot carry out a batch; it goes on in a second", "batch", key, "error", err)
		s.books.indexBatch(&next)
		s.agenda.put(key, time.Now().Add(time.Second))
	}
}

// runRows does the rows that are not done, and ends the task. Callers hold the
// lock.
func (s *Sim) runRows(t *batch) error {
	for i := range t.Rows {
		if row := &t.Rows[i]; !row.OK && row.Reason == "" {
			if err := s.runRow(t, row); err != nil {
				return err
			}
		}
	}
	done := *t
	done.DoneAt = time.Now()
	return s.books.putBatch(&done)
}

// runRow does one row and notes how it went. A refusal is the row's, any other
// error the simulator's. Callers hold the lock.
func (s *Sim) runRow(t *batch, row *batchRow) error {
	err := s.addRow(t, row)
	if t.Kind == batchDel {
		err = s.deleteRow(t, row)
	}
	var no *refusal
	switch {
	case err == nil:
		row.OK = true
	case errors.As(err, &no):
		row.Reason = no.Message
	default:
		return err
	}
	return nil
}

func (s *Sim) addRow(t *batch, row *batchRow) error {
	if t.Kind != batchAdd {
		return nil
	}
	now := time.Now()
	r := record{Owner: t.Owner, Zone: row.Zone, RR: row.RR, Type: row.Type, Value: row.Value, TTL: row.TTL, Line: row.Line,
		Created: now, VisibleAt: now.Add(s.dice.in(s.cfg().DNSLag))}
	if err := s.books.may(r, hand{t.Key, t.API}, false); err != nil {
		return err
	}
	if err := s.fits(r); err != nil {
		return err
	}
	if err := s.demandZone(t.Owner, row.Zone); err != nil {
		return err
	}
	r.ID, r.ListedAt = s.freshRecordID(t.Owner.Cloud), now.Add(s.dice.in(s.cfg().RecordListLag))
	row.Record = r.ID
	return s.books.writeRecord(r, hand{t.Key, t.API})
}

// fits is what each cloud asks of a new record. Callers hold the lock.
func (s *Sim) fits(r record) error {
	if r.Owner.Cloud == cloudTencent {
		return s.books.room(r)
	}
	switch err := checkRecord(r); {
	case err != nil:
		return err
	case !s.hosts(r.Owner, r.Zone):
		return errNoZone()
	}
	return s.books.clashes(r)
}

// deleteRow removes what the row names: at DNSPod one record by its id, at alidns
// all that have the host record and the value, or either where only one is given,
// or all of the zone where neither is (OperateBatchDomain, Type). Callers hold the
// lock.
func (s *Sim) deleteRow(t *batch, row *batchRow) error {
	if t.Owner.Cloud == cloudTencent {
		r, known := s.books.records[row.Record]
		if !known || r.Owner != t.Owner {
			return refuse(0, "InvalidParameter.RecordIdInvalid", "The record id is incorrect.")
		}
		if err := s.books.may(r, hand{t.Key, t.API}, true); err != nil {
			return err
		}
		return s.books.removeRecord(r, hand{t.Key, t.API})
	}
	if !s.hosts(t.Owner, row.Zone) {
		return errNoZone()
	}
	found := s.books.inZone(t.Owner, row.Zone)
	if row.RR != "" {
		found = s.books.at(t.Owner, joinName(row.RR, row.Zone))
	}
	found = slices.DeleteFunc(found, func(r record) bool {
		return r.Zone != row.Zone || row.Value != "" && row.Value != r.Value ||
			row.Type != "" && row.Type != r.Type || row.Line != "" && row.Line != r.Line
	})
	if len(found) == 0 {
		return dnsRefusal("InvalidRR.NoExist", "The DNS record does not exist.")
	}
	row.Record = found[0].ID
	for _, r := range found {
		if err := s.books.may(r, hand{t.Key, t.API}, true); err != nil {
			return err
		}
		if err := s.books.removeRecord(r, hand{t.Key, t.API}); err != nil {
			return err
		}
	}
	return nil
}
