package cloudsim

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// console is who wrote a record that came through the control port: a person at
// the vendor's web page, as far as API keys are concerned.
const console = "console"

// hand is an access key at work: who writes, and through which action.
type hand struct {
	key string
	api string
}

// DNSReport is what happened to the zones of the accounts through the APIs.
type DNSReport struct {
	// Records are those that are there now, oldest first. What the config serves
	// besides (Config.Records) is not among them.
	Records []RecordReport `json:"records"`
	// Writers count what each access key did through each action, batches too.
	Writers []WriterReport `json:"writers"`
	// Foreign are changes to records that the changing key had not written.
	Foreign []ForeignChange `json:"foreign"`
}

// RecordReport is one record.
type RecordReport struct {
	Cloud string `json:"cloud"`
	UID   string `json:"uid"`
	ID    string `json:"id"`
	Zone  string `json:"zone"`
	Name  string `json:"name"` // absolute, without the last dot
	Type  string `json:"type"`
	Value string `json:"value"`
	// By is the access key that wrote it, "console" for POST /records, empty where
	// the cloud itself did for one of its orders.
	By      string    `json:"by"`
	API     string    `json:"api,omitempty"`
	Order   string    `json:"order,omitempty"` // kind/id of the order that the cloud wrote it for
	Created time.Time `json:"created"`
}

// WriterReport counts the records that one access key wrote, changed and removed.
type WriterReport struct {
	Cloud   string `json:"cloud"`
	UID     string `json:"uid"`
	Key     string `json:"key"`
	API     string `json:"api"`
	Written int    `json:"written"`
	Changed int    `json:"changed"`
	Removed int    `json:"removed"`
}

// ForeignChange is a change to a record that the key had not written.
type ForeignChange struct {
	Record RecordReport `json:"record"` // as it was
	Change string       `json:"change"` // changed or removed
	Key    string       `json:"key"`
	API    string       `json:"api"`
	At     time.Time    `json:"at"`
}

// writer is what WriterReport is counted by.
type writer struct {
	owner owner
	hand  hand
}

func recordReport(r record) RecordReport {
	return RecordReport{Cloud: r.Owner.Cloud, UID: r.Owner.UID, ID: formatID(r.ID), Zone: r.Zone, Name: r.name(), Type: r.Type,
		Value: r.Value, By: r.By, API: r.API, Order: r.Auto, Created: r.Created}
}

// writeRecord enters a record that a key wrote. Callers hold the lock.
func (b *books) writeRecord(r record, by hand) error {
	r.By, r.API = by.key, by.api
	if err := b.addRecord(r); err != nil {
		return err
	}
	b.tally(r, by).Written++
	return nil
}

// rewriteRecord puts one record in place of another. Who wrote it stays: a change
// makes it nobody else's. Callers hold the lock.
func (b *books) rewriteRecord(old, next record, by hand) error {
	if err := b.noteForeign(old, by, "changed"); err != nil {
		return err
	}
	if err := b.dropRecord(old); err != nil {
		return err
	}
	next.By, next.API = old.By, old.API
	b.tally(old, by).Changed++
	return b.addRecord(next)
}

// removeRecord removes a record by a key. Callers hold the lock.
func (b *books) removeRecord(r record, by hand) error {
	if err := b.noteForeign(r, by, "removed"); err != nil {
		return err
	}
	b.tally(r, by).Removed++
	return b.dropRecord(r)
}

func (b *books) tally(r record, by hand) *WriterReport {
	w := writer{r.Owner, by}
	if b.writers[w] == nil {
		b.writers[w] = &WriterReport{Cloud: r.Owner.Cloud, UID: r.Owner.UID, Key: by.key, API: by.api}
	}
	return b.writers[w]
}

// noteForeign remembers who touched what was not theirs, for good.
func (b *books) noteForeign(r record, by hand, change string) error {
	if r.By == by.key || by.key == console {
		return nil
	}
	f := ForeignChange{Record: recordReport(r), Change: change, Key: by.key, API: by.api, At: time.Now()}
	if err := b.journal.put("foreign", formatID(uint64(len(b.foreign))), f); err != nil {
		return err
	}
	b.foreign = append(b.foreign, f)
	return nil
}

// dnsReport takes stock of the zones. Callers hold the lock.
func (b *books) dnsReport() DNSReport {
	d := DNSReport{Records: []RecordReport{}, Writers: []WriterReport{}, Foreign: append([]ForeignChange{}, b.foreign...)}
	for _, r := range b.records {
		d.Records = append(d.Records, recordReport(r))
	}
	slices.SortFunc(d.Records, func(x, y RecordReport) int {
		return cmp.Or(x.Created.Compare(y.Created), strings.Compare(x.ID, y.ID))
	})
	for _, w := range b.writers {
		d.Writers = append(d.Writers, *w)
	}
	slices.SortFunc(d.Writers, func(x, y WriterReport) int {
		return cmp.Or(strings.Compare(x.Cloud, y.Cloud), strings.Compare(x.UID, y.UID), strings.Compare(x.Key, y.Key),
			strings.Compare(x.API, y.API))
	})
	return d
}

// Records are those that are in the accounts' zones now, oldest first.
func (s *Sim) Records() []RecordReport {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	return s.books.dnsReport().Records
}

// ConsoleRecord is a record that somebody writes at the vendor's web page.
type ConsoleRecord struct {
	Cloud string `json:"cloud"`
	UID   string `json:"uid"`
	Zone  string `json:"zone"`
	RR    string `json:"rr"` // relative to the zone, "@" for its apex
	Type  string `json:"type"`
	Value string `json:"value"`
	TTL   uint32 `json:"ttl,omitempty"` // 600
}

// AddRecord writes a record that no API key wrote, and returns its id.
func (s *Sim) AddRecord(in ConsoleRecord) (string, error) {
	own := owner{in.Cloud, in.UID}
	line := anyLine
	if in.Cloud == cloudTencent {
		line = defaultLine
	}
	setIfZero(&in.TTL, defaultTTL)
	now := time.Now()
	r := record{Owner: own, Zone: strings.ToLower(in.Zone), RR: strings.ToLower(in.RR), Type: strings.ToUpper(in.Type),
		Value: in.Value, TTL: in.TTL, Line: line, Created: now, VisibleAt: now}
	if !recordHost(r.RR) {
		return "", fmt.Errorf("rr %q is neither @ nor labels relative to the zone", in.RR)
	}
	if _, err := makeRR(r.name(), r.Type, r.Value, r.TTL); err != nil {
		return "", err
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	if !s.hosts(own, r.Zone) {
		return "", fmt.Errorf("%s account %q has no zone %q", in.Cloud, in.UID, in.Zone)
	}
	if err := s.books.clashes(r); err != nil {
		return "", err
	}
	if err := s.demandZone(own, r.Zone); err != nil {
		return "", err
	}
	r.ID = s.freshRecordID(in.Cloud)
	return formatID(r.ID), s.books.writeRecord(r, hand{console, ""})
}

// DropRecord removes a record behind the back of whoever wrote it.
func (s *Sim) DropRecord(id string) error {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	for _, r := range s.books.records {
		if formatID(r.ID) == id {
			return s.books.removeRecord(r, hand{console, ""})
		}
	}
	return errors.New("there is no record " + id)
}
