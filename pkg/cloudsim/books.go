package cloudsim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// books hold everything that the clouds remember. Handlers take the lock for
// short stretches; orders behind the pointers are never changed in place, so
// what find and list return may be read without it.
type books struct {
	mu       sync.Mutex
	journal  *journal
	accounts []Account                 // in the order they were given
	byKey    map[string]*Account       // by access key id
	orders   map[string]*order         // by order.key
	lists    map[owner][]string        // keys, oldest first
	issued   map[owner][]string        // keys of CAS's certificates, the first issued first
	certs    map[int64]string          // CAS CertificateId -> key
	records  map[uint64]record         // by id
	names    map[string][]uint64       // DNS name -> record ids
	below    map[string]int            // DNS name -> records below it
	zones    map[owner]map[string]bool // zones on demand that were seen
	writers  map[writer]*WriterReport  // what each access key wrote; of one run
	foreign  []ForeignChange           // records that somebody else touched
	batches  map[int64]*batch          // tasks of many records
	tasks    map[owner][]int64         // their numbers, oldest first
	hour     []time.Time               // when DNSPod took tasks; of one run
	byZone   map[zoneKey]idSet         // record ids
	named    map[owner]map[string]bool // zones that the config of an account names
	anyNamed map[string]bool           // the same of all accounts
	money    map[account]usage         // running totals of each product
	nonces   map[string]time.Time      // until when a nonce is remembered
	extra    map[string]bool           // access keys that came through the control port
	swept    time.Time                 // when nonces were last forgotten
}

// account is one product's quota of one main account.
type account struct {
	owner   owner
	product string
}

func newBooks() *books {
	b := &books{journal: &journal{}}
	b.clear()
	return b
}

func (b *books) clear() {
	b.orders, b.lists, b.certs = map[string]*order{}, map[owner][]string{}, map[int64]string{}
	b.issued = map[owner][]string{}
	b.records, b.names, b.below = map[uint64]record{}, map[string][]uint64{}, map[string]int{}
	b.zones, b.nonces = map[owner]map[string]bool{}, map[string]time.Time{}
	b.money = map[account]usage{}
	b.writers, b.foreign = map[writer]*WriterReport{}, nil
	b.hour = nil
	b.batches, b.tasks, b.byZone = map[int64]*batch{}, map[owner][]int64{}, map[zoneKey]idSet{}
	b.accounts, b.byKey, b.extra = nil, map[string]*Account{}, map[string]bool{}
	b.indexNamed()
}

// load reads the state folder, compacts it and goes on appending there. It tells
// how many lines were torn.
func (b *books) load(d disk, dir string) (torn int, err error) {
	if dir == "" {
		return 0, nil
	}
	entries, torn, err := readJournal(dir)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	live := entries[:0]
	for _, e := range entries {
		keep, err := b.restore(e, now)
		if err != nil {
			return 0, fmt.Errorf("journal %s %s: %w", e.Type, e.Key, err)
		}
		if keep {
			live = append(live, e)
		}
	}
	for _, keys := range b.issued { // the journal has them as they were placed
		slices.SortStableFunc(keys, func(x, y string) int { return b.orders[x].IssuedAt.Compare(b.orders[y].IssuedAt) })
	}
	journal, err := openJournal(d, dir, live)
	if err != nil {
		return 0, err
	}
	b.journal = journal
	return torn, nil
}

// restore takes one entity into memory and says whether it is still worth a line.
func (b *books) restore(e entry, now time.Time) (bool, error) {
	if string(e.Value) == "null" {
		return false, nil
	}
	switch e.Type {
	case "order":
		o := &order{}
		if err := json.Unmarshal(e.Value, o); err != nil {
			return false, err
		}
		if err := o.readLeaf(); err != nil {
			return false, err
		}
		b.index(o)
	case "record":
		var r record
		if err := json.Unmarshal(e.Value, &r); err != nil {
			return false, err
		}
		b.indexRecord(r)
	case "batch":
		t := &batch{}
		if err := json.Unmarshal(e.Value, t); err != nil {
			return false, err
		}
		b.indexBatch(t)
	case "foreign":
		var f ForeignChange
		if err := json.Unmarshal(e.Value, &f); err != nil {
			return false, err
		}
		b.foreign = append(b.foreign, f)
	case "zone":
		var o owner
		if err := json.Unmarshal(e.Value, &o); err != nil {
			return false, err
		}
		b.indexZone(o, e.Key[len(o.Cloud)+len(o.UID)+2:])
	case "account":
		var a Account
		if err := json.Unmarshal(e.Value, &a); err != nil {
			return false, err
		}
		b.extra[a.AccessKeyID] = true
		b.admit(a)
	case "nonce":
		var until time.Time
		if err := json.Unmarshal(e.Value, &until); err != nil {
			return false, err
		}
		b.nonces[e.Key] = until
		return until.After(now), nil
	}
	return true, nil
}

// admit makes an account known, or replaces what is known under its access key.
func (b *books) admit(a Account) {
	known := b.byKey[a.AccessKeyID]
	if known == nil {
		b.accounts = append(b.accounts, a)
		b.byKey = make(map[string]*Account, len(b.accounts))
		for i := range b.accounts { // append may have moved them
			b.byKey[b.accounts[i].AccessKeyID] = &b.accounts[i]
		}
		b.indexNamed()
		return
	}
	*known = a
	b.indexNamed()
}

// stock enters what an account has bought. What the books know already stays.
func (b *books) stock(a Account, dice *dice) error {
	own := owner{a.Cloud, a.UID}
	for _, i := range a.Instances {
		o := &order{Kind: kindInstance, Owner: own, ID: i.ID, Instance: i.ID, Number: dice.orderID(),
			Limit: i.Domains, CertType: i.CertType, State: stateBought, Created: time.Now()}
		setIfZero(&o.CertType, "DV")
		if err := b.addOnce(o); err != nil {
			return err
		}
	}
	for _, c := range a.Certificates {
		o := &order{Kind: kindSSL, Owner: own, ID: c.ID, Product: c.Product, Type: c.DomainType,
			Limit: c.Domains, Origin: c.Origin, State: stateBought, Created: time.Now()}
		setIfZero(&o.Product, "DV SSL")
		if err := b.addOnce(o); err != nil {
			return err
		}
	}
	return nil
}

func (b *books) addOnce(o *order) error {
	if b.orders[o.key()] != nil {
		return nil
	}
	return b.add(o)
}

// add enters a new order. Callers hold the lock.
func (b *books) add(o *order) error {
	if b.orders[o.key()] != nil {
		return fmt.Errorf("order %s exists", o.key())
	}
	if err := b.journal.put("order", o.key(), o); err != nil {
		return err
	}
	b.index(o)
	return nil
}

func (b *books) index(o *order) {
	money := account{o.Owner, o.Product}
	sum := b.money[money]
	if old := b.orders[o.key()]; old != nil {
		sum.count(old, -1)
	} else {
		b.lists[o.Owner] = append(b.lists[o.Owner], o.key())
	}
	sum.count(o, 1)
	b.money[money] = sum
	b.orders[o.key()] = o
	if _, known := b.certs[o.CertID]; o.CertID != 0 && !known {
		b.certs[o.CertID] = o.key()
		b.issued[o.Owner] = append(b.issued[o.Owner], o.key())
	}
}

// change replaces an order by what edit makes of a copy; nothing changes when
// edit or the journal refuses. Callers hold the lock.
func (b *books) change(key string, edit func(*order) error) (*order, error) {
	old := b.orders[key]
	if old == nil {
		return nil, fmt.Errorf("order %s is gone", key)
	}
	o := old.clone()
	if err := edit(o); err != nil {
		return nil, err
	}
	if err := b.journal.put("order", key, o); err != nil {
		return nil, err
	}
	b.index(o)
	return o, nil
}

// find returns an order of this main account; others' are as good as absent.
func (b *books) find(own owner, k kind, id string) *order {
	o := b.orders[string(k)+"/"+id]
	if o == nil || o.Owner != own || o.State == stateDeleted {
		return nil
	}
	return o
}

// list returns an account's orders, newest first, that keep accepts.
func (b *books) list(own owner, keep func(*order) bool) []*order {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pick(b.lists[own], keep)
}

// listIssued is list for CAS's certificates, those issued last first.
func (b *books) listIssued(own owner, keep func(*order) bool) []*order {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pick(b.issued[own], keep)
}

// pick goes through keys from the end. Callers hold the lock.
func (b *books) pick(keys []string, keep func(*order) bool) []*order {
	var found []*order
	for _, key := range slices.Backward(keys) {
		if o := b.orders[key]; keep(o) {
			found = append(found, o)
		}
	}
	return found
}

// freshNumber draws an OrderId that is not taken. Callers hold the lock.
func (b *books) freshNumber(d *dice) int64 {
	for {
		n := d.orderID()
		if b.orders[string(kindPackage)+"/"+strconv.FormatInt(n, 10)] == nil {
			return n
		}
	}
}

// freshCertID draws a CAS CertificateId that is not taken. Callers hold the lock.
func (b *books) freshCertID(d *dice) int64 {
	for {
		n := d.number(10_000_000, 90_000_000)
		if _, taken := b.certs[n]; !taken {
			return n
		}
	}
}

// freshCertificate draws a Tencent CertificateId that is not taken. Callers hold
// the lock.
func (b *books) freshCertificate(d *dice) string {
	for {
		id := d.text(8, mixedAndDigits)
		if b.orders[string(kindSSL)+"/"+id] == nil && b.orders[string(kindFree)+"/"+id] == nil {
			return id
		}
	}
}

// usage is the state of one product's quota.
type usage struct{ bought, spent, returned, issued, pending, failed, cancelled int }

// used is DescribePackageState's UsedCount: what was submitted and not given back.
func (u usage) used() int { return u.spent - u.returned }

// quota is what all access keys of the main account say was bought; the largest
// number counts. Callers hold the lock.
func (b *books) quota(own owner, product string) (int, bool) {
	most, known := 0, false
	for _, a := range b.accounts {
		if n, has := a.Products[product]; has && a.Cloud == own.Cloud && a.UID == own.UID {
			most, known = max(most, n), true
		}
	}
	return most, known
}

// usage is the state of one product's quota. Callers hold the lock.
func (b *books) usage(own owner, product string) usage {
	u := b.money[account{own, product}]
	u.bought, _ = b.quota(own, product)
	return u
}

// count adds an order n times. An order's product never changes.
func (u *usage) count(o *order, n int) {
	if !o.Counted {
		return
	}
	u.spent += n
	if o.Returned {
		u.returned += n
	}
	switch o.State {
	case stateIssued:
		u.issued += n
	case stateFailed:
		u.failed += n
	case stateWithdrawn, stateRevoked, stateDeleted:
		u.cancelled += n
	default:
		u.pending += n
	}
}

// seeZone notes that a zone on demand exists. Callers hold the lock.
func (b *books) seeZone(own owner, zone string) error {
	if b.zones[own][zone] {
		return nil
	}
	if err := b.journal.put("zone", own.Cloud+"/"+own.UID+"/"+zone, own); err != nil {
		return err
	}
	b.indexZone(own, zone)
	return nil
}

func (b *books) indexZone(own owner, zone string) {
	if b.zones[own] == nil {
		b.zones[own] = map[string]bool{}
	}
	b.zones[own][zone] = true
}

// spendNonce remembers a nonce until a time and says whether it was new. Only
// those of spending calls are worth surviving a restart.
func (b *books) spendNonce(key string, now, until time.Time, keep bool) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t, seen := b.nonces[key]; seen && t.After(now) {
		return false, nil
	}
	b.nonces[key] = until
	if now.Sub(b.swept) > time.Minute {
		b.swept = now
		for k, t := range b.nonces {
			if !t.After(now) {
				delete(b.nonces, k)
			}
		}
	}
	if !keep {
		return true, nil
	}
	return true, b.journal.put("nonce", key, until)
}
