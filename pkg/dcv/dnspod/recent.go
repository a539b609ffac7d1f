package dnspod

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
)

// lag is how late DescribeRecordList may show a new record: "there is a short
// delay of the index; if a new record is not found, try again after 30 seconds".
const lag = 30 * time.Second

// recent remembers what this process has added lately, so that it finds it
// before the list shows it. The id was the answer to our own call, and all that
// is done by it is to delete it.
type recent struct {
	mu  sync.Mutex
	all []addition // oldest first
}

type addition struct {
	zone   string
	record dcv.Record
	at     time.Time
}

// added remembers a record, and forgets what every list shows by now.
func (m *recent) added(zone string, r dcv.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := slices.IndexFunc(m.all, func(a addition) bool { return time.Since(a.at) < 2*lag })
	if old < 0 {
		old = len(m.all)
	}
	m.all = append(m.all[old:], addition{zone, r, time.Now()})
}

// deleted forgets a record.
func (m *recent) deleted(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = slices.DeleteFunc(m.all, func(a addition) bool { return a.record.ID == id })
}

// missing are the remembered records at a name that a list does not show.
func (m *recent) missing(zone, rr string, listed []dcv.Record) []dcv.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []dcv.Record
	for _, a := range m.all {
		known := slices.ContainsFunc(listed, func(r dcv.Record) bool { return r.ID == a.record.ID })
		if !known && time.Since(a.at) < 2*lag && strings.EqualFold(a.zone, zone) && strings.EqualFold(a.record.RR, rr) {
			all = append(all, a.record)
		}
	}
	return all
}
