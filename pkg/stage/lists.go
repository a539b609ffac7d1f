package stage

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
)

// lists is what is known of the cloud's lists for one flow.
type lists struct {
	flow     issuer.Flow
	listed   recent[string]     // instance ids by cloud id, of rows that wait; may be empty
	issued   recent[issuer.Row] // certificates by instance id
	passed   time.Time          // when the last pass through all that waits began
	backward bool               // the newest certificates are on the last page
	last     int                // page of the certificate list, as it was told last

	probed time.Time            // when the lists were last tried
	owed   map[string]time.Time // instances of orders that a probe found issued: when
	others []issuer.Row         // rows that were new, and of no order that is known here
	doubt  int                  // that the newest certificates tell what was issued
}

// newest: the newest pages of the certificate list tell what was issued.
func (l *lists) newest() bool {
	_, ok := l.flow.(issuer.CertLister)
	return ok && l.doubt < mostDoubt/2
}

// shortPass is how many pages are read so quickly that no row slips from one
// that is read later to one that was read before.
const shortPass = 2

// surelyGone is how many passes must miss an order. One, in effect, where the
// pass was short, or where nothing but passes tells what was issued.
const surelyGone = 2

// readWaiting reads the list of what still waits: the newest pages, as long as
// they bring rows that are new and not every order was listed; or, when a pass
// is due, all of it. Only a pass can tell that an order is gone.
func (l *lists) readWaiting(ctx context.Context, orders []*flying, now time.Time, every time.Duration) error {
	pass := now.Sub(l.passed) >= every
	want := unlisted(orders, &l.listed)
	shown, page := map[string]bool{}, 0
	ours := map[string]bool{}
	for _, o := range orders {
		ours[o.cloudID] = true
	}
	l.others = nil
	for more := pass || len(want) > 0; more; page++ {
		if page == maxPages {
			return fmt.Errorf("the list of what waits has more than %d pages", maxPages)
		}
		p, err := l.flow.Waiting(ctx, page)
		if err != nil {
			return fmt.Errorf("list what waits, page %d: %w", page, err)
		}
		brought := false
		for _, row := range p.Rows {
			if _, known := l.listed.get(row.CloudID); !known {
				brought = true
				if !ours[row.CloudID] {
					l.others = append(l.others, row)
				}
			}
			delete(want, row.CloudID)
			l.listed.put(row.CloudID, row.InstanceID)
			shown[row.CloudID] = true
		}
		more = p.More && (pass || brought && len(want) > 0)
		pass = pass || !p.More // nothing was left out
	}
	l.note(orders, shown, pass, page, now)
	return nil
}

func unlisted(orders []*flying, listed *recent[string]) map[string]bool {
	want := map[string]bool{}
	for _, o := range orders {
		if instance, known := listed.get(o.cloudID); known {
			o.instance = instance
		} else if o.instance == "" {
			want[o.cloudID] = true
		}
	}
	return want
}

// note takes over what the pages showed. Rows slip while one pages: an order
// that a long pass does not show is gone only when the next does not either.
func (l *lists) note(orders []*flying, shown map[string]bool, pass bool, pages int, now time.Time) {
	for _, o := range orders {
		if shown[o.cloudID] {
			o.instance, _ = l.listed.get(o.cloudID)
			o.missed, o.gone = 0, time.Time{}
			if !o.partly {
				o.asked, o.distance = time.Time{}, 0 // once it is gone, it is asked about at once
			}
		} else if pass && pages > 0 {
			if o.missed++; o.gone.IsZero() {
				o.gone = now
			}
			if pages <= shortPass || !l.newest() {
				o.missed = max(o.missed, surelyGone)
			}
		}
	}
	if pass && pages > 0 {
		l.passed = now
	}
}

// overlap is how many rows that were seen before make a page of certificates
// the last one that is read.
const overlap = 10

// readCertificates reads the newest pages of the certificate list, as long as
// they bring what is wanted: one call for many orders. While orders are missing
// it also looks at the other end, because the list's order is not documented.
func (l *lists) readCertificates(ctx context.Context, orders []*flying) error {
	lister, ok := l.flow.(issuer.CertLister)
	if !ok {
		return nil
	}
	wanted, gone := map[string]bool{}, 0
	for _, o := range orders {
		if o.instance == "" || l.certificate(o) != "" {
			continue
		}
		wanted[o.instance] = true
		if o.missed >= surelyGone {
			gone++
		}
	}
	for instance := range l.owed {
		wanted[instance] = true
		gone++
	}
	if len(wanted) == 0 {
		return nil
	}
	found, err := l.readEnd(ctx, lister, wanted)
	if err != nil || found > 0 || gone == 0 || l.last == 0 {
		return err
	}
	l.backward = !l.backward
	found, err = l.readEnd(ctx, lister, wanted)
	if found == 0 {
		l.backward = !l.backward
	}
	return err
}

// readEnd reads from the end where the newest are, and counts what was wanted.
func (l *lists) readEnd(ctx context.Context, lister issuer.CertLister, wanted map[string]bool) (found int, err error) {
	at, step := 0, 1
	if l.backward {
		at, step = l.last, -1
	}
	for n := range maxPages {
		p, err := lister.Certificates(ctx, at)
		if err != nil {
			return found, fmt.Errorf("list certificates: %w", err)
		}
		if l.last = p.Last; l.backward && n == 0 && at != l.last { // it grew meanwhile
			at = l.last
			continue
		}
		brought, known := l.learn(p.Rows, wanted)
		found += brought
		at += step
		if brought == 0 || known >= overlap || at < 0 || !l.backward && !p.More {
			return found, nil
		}
	}
	return found, fmt.Errorf("the list of certificates has more than %d pages", maxPages)
}

// learn remembers the certificates on a page, and counts those that were wanted
// and those that were known.
func (l *lists) learn(rows []issuer.Row, wanted map[string]bool) (brought, known int) {
	for _, row := range rows {
		if _, is := l.issued.get(row.InstanceID); is {
			known++
		} else if wanted[row.InstanceID] {
			brought++
		}
		if row.InstanceID != "" && row.CertID != "" {
			l.issued.put(row.InstanceID, row)
		}
	}
	return brought, known
}

// An order that no list explained outweighs so many that one did: lists that
// leave more than a sixth out are not relied on.
const (
	outweighs = 5
	mostDoubt = 20 * outweighs // so that it can be dispelled
)

// probe is the order to ask about although the lists say that it waits: no
// document tells how they are sorted, so "the newest pages" may be none. Every
// time it is another one, the oldest of those that were not asked about yet.
func (l *lists) probe(orders []*flying, now time.Time, every time.Duration) *flying {
	if !l.newest() || now.Sub(l.probed) < every {
		return nil
	}
	var oldest *flying
	for _, o := range orders {
		waits := o.missed < surelyGone && !o.partly && l.certificate(o) == ""
		if waits && now.Sub(o.stored) >= every && (oldest == nil || o.probed.Before(oldest.probed)) {
			oldest = o
		}
	}
	if oldest != nil {
		l.probed, oldest.probed = now, now
	}
	return oldest
}

// foundByAsking learns from an order that was issued and that no list showed.
func (l *lists) foundByAsking(o *flying, now time.Time) {
	switch {
	case o.missed >= surelyGone:
		l.doubt = min(l.doubt+outweighs, mostDoubt)
	case !o.partly: // a probe; the lists may only lag
		if l.owed == nil {
			l.owed = map[string]time.Time{}
		}
		l.owed[o.instance] = now
	}
}

// probeGrace is how much the lists may lag behind what a probe found. Doubting
// them too early is cheap: what they show next dispels it.
const probeGrace = 10 * time.Second

// settle makes up its mind about what probes found: a list that does not show
// it after the grace is not sorted as it must be.
func (l *lists) settle(now time.Time) {
	for instance, since := range l.owed {
		if _, shown := l.issued.get(instance); shown {
			delete(l.owed, instance)
		} else if now.Sub(since) >= probeGrace {
			delete(l.owed, instance)
			l.doubt, l.passed = mostDoubt, time.Time{} // a pass is due
		}
	}
}

// dayLong is how much older than its order a certificate's day may seem: lists
// tell days, in a time zone that no document names.
const dayLong = 48 * time.Hour

// certificate is the id of an order's certificate, if the list showed it. What
// an instance got before, or for other names, is not this order's.
func (l *lists) certificate(o *flying) string {
	if o.instance == "" {
		return ""
	}
	row, known := l.issued.get(o.instance)
	if !known || !row.Created.IsZero() && row.Created.Before(o.stored.Add(-dayLong)) {
		return ""
	}
	for _, name := range o.names {
		if len(row.Names) > 0 && !slices.Contains(row.Names, name) {
			return ""
		}
	}
	return row.CertID
}

// judge says which orders were issued, by the lists, and which must be asked
// about: those that are gone without having been issued, those that no list
// ever showed, and those of whose challenges some may have come meanwhile; each
// further time at twice the distance.
func (l *lists) judge(orders []*flying, now time.Time, grace time.Duration) (issued, unexplained []*flying) {
	for _, o := range orders {
		switch {
		case l.certificate(o) != "":
			issued = append(issued, o)
		case now.Sub(o.asked) < o.distance:
		case o.partly, o.missed >= surelyGone && now.Sub(o.gone) >= grace:
			unexplained = append(unexplained, o)
		}
	}
	return issued, unexplained
}

// recent remembers the newest entries: at least generation of them, at most
// twice as many. The zero value is ready.
type recent[V any] struct{ young, old map[string]V }

const generation = 50_000

func (r *recent[V]) get(key string) (V, bool) {
	if v, ok := r.young[key]; ok {
		return v, true
	}
	v, ok := r.old[key]
	return v, ok
}

func (r *recent[V]) put(key string, v V) {
	if r.young == nil || len(r.young) >= generation {
		r.young, r.old = make(map[string]V), r.young
	}
	r.young[key] = v
}
