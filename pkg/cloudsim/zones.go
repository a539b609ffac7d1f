package cloudsim

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// record is one DNS record written through an API.
type record struct {
	ID        uint64    `json:"id"`
	Owner     owner     `json:"owner"`
	Zone      string    `json:"zone"`
	RR        string    `json:"rr"` // relative to the zone, "@" for its apex
	Type      string    `json:"type"`
	Value     string    `json:"value"`
	TTL       uint32    `json:"ttl"`
	Line      string    `json:"line,omitempty"`
	Remark    string    `json:"remark,omitempty"`
	Auto      string    `json:"auto,omitempty"` // key of the order for which the cloud wrote it
	By        string    `json:"by,omitempty"`   // the access key that wrote it
	API       string    `json:"api,omitempty"`  // and the action
	Created   time.Time `json:"created"`
	VisibleAt time.Time `json:"visible_at"`         // the DNS does not serve it earlier
	ListedAt  time.Time `json:"listed_at,omitzero"` // DescribeRecordList does not show it earlier
}

func (r *record) name() string { return joinName(r.RR, r.Zone) }

func joinName(rr, zone string) string {
	if rr == "@" || rr == "" {
		return zone
	}
	return strings.ToLower(rr) + "." + zone
}

// relative is the part of a name below its zone, "@" for the zone itself.
func relative(name, zone string) string {
	if name == zone {
		return "@"
	}
	return strings.TrimSuffix(name, "."+zone)
}

// addRecord enters a record. Callers hold the lock.
func (b *books) addRecord(r record) error {
	if err := b.journal.put("record", formatID(r.ID), r); err != nil {
		return err
	}
	b.indexRecord(r)
	return nil
}

func (b *books) indexRecord(r record) {
	if _, known := b.records[r.ID]; !known {
		b.names[r.name()] = append(b.names[r.name()], r.ID)
		b.countAbove(r.name(), 1)
	}
	key := zoneKey{r.Owner, r.Zone}
	if b.byZone[key] == nil {
		b.byZone[key] = idSet{}
	}
	b.byZone[key][r.ID] = struct{}{}
	b.records[r.ID] = r
}

// zoneKey is one zone of one account.
type zoneKey struct {
	owner owner
	zone  string
}

type idSet map[uint64]struct{}

// dropRecord removes a record. Callers hold the lock.
func (b *books) dropRecord(r record) error {
	if err := b.journal.put("record", formatID(r.ID), nil); err != nil {
		return err
	}
	delete(b.records, r.ID)
	delete(b.byZone[zoneKey{r.Owner, r.Zone}], r.ID)
	b.names[r.name()] = slices.DeleteFunc(b.names[r.name()], func(id uint64) bool { return id == r.ID })
	if len(b.names[r.name()]) == 0 {
		delete(b.names, r.name())
	}
	b.countAbove(r.name(), -1)
	return nil
}

// countAbove keeps the number of records below each name, so that an empty name
// between others exists (RFC 8020).
func (b *books) countAbove(name string, n int) {
	for _, parent, ok := strings.Cut(name, "."); ok; _, parent, ok = strings.Cut(parent, ".") {
		b.below[parent] += n
		if b.below[parent] == 0 {
			delete(b.below, parent)
		}
	}
}

// at lists an account's records at one name, oldest first. Callers hold the lock.
func (b *books) at(own owner, name string) []record {
	var found []record
	for _, id := range b.names[name] {
		if r := b.records[id]; r.Owner == own {
			found = append(found, r)
		}
	}
	return found
}

// inZone lists an account's records in a zone, newest first. Callers hold the lock.
func (b *books) inZone(own owner, zone string) []record {
	var found []record
	for id := range b.byZone[zoneKey{own, zone}] {
		found = append(found, b.records[id])
	}
	slices.SortFunc(found, func(x, y record) int {
		return cmp.Or(y.Created.Compare(x.Created), cmp.Compare(y.ID, x.ID))
	})
	return found
}

// indexNamed notes the zones that the accounts' config names. Callers hold the
// lock.
func (b *books) indexNamed() {
	b.named, b.anyNamed = map[owner]map[string]bool{}, map[string]bool{}
	for _, a := range b.accounts {
		own := owner{a.Cloud, a.UID}
		if b.named[own] == nil {
			b.named[own] = map[string]bool{}
		}
		for _, zone := range a.Zones {
			b.named[own][zone], b.anyNamed[zone] = true, true
		}
	}
}

// hosts says whether the account's DNS service has this very zone, or makes it on
// demand. Callers hold the lock.
func (s *Sim) hosts(own owner, zone string) bool {
	if named := s.books.named[own]; len(named) > 0 {
		return named[zone]
	}
	apex, err := registrable(zone)
	if err != nil || apex != zone {
		return false
	}
	return s.cfg().Zones == nil || s.cfg().zones[zone]
}

// zoneOf finds the account's zone of a name: the longest that fits. Callers hold
// the lock.
func (s *Sim) zoneOf(own owner, name string) (string, bool) {
	for zone := base(name); strings.Contains(zone, "."); _, zone, _ = strings.Cut(zone, ".") {
		if s.hosts(own, zone) {
			return zone, true
		}
	}
	return "", false
}

// listZones are the zones of an account, sorted: all that its config names, or
// those that were made on demand. A keyword that is a name makes its zone; any
// other keyword filters.
func (s *Sim) listZones(own owner, keyword string) ([]string, error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	keyword = strings.ToLower(keyword)
	zones := sortedKeys(s.books.named[own])
	if len(zones) == 0 {
		if err := s.demandZone(own, keyword); err != nil {
			return nil, err
		}
		for zone := range s.books.zones[own] {
			zones = append(zones, zone)
		}
	}
	slices.Sort(zones)
	return slices.DeleteFunc(zones, func(zone string) bool {
		return !strings.Contains(zone, keyword) && !within(keyword, zone)
	}), nil
}

// demandZone notes the zone of a name that somebody took an interest in. Callers
// hold the lock.
func (s *Sim) demandZone(own owner, name string) error {
	if len(s.books.named[own]) > 0 || checkName(name) != nil {
		return nil
	}
	zone, ok := s.zoneOf(own, name)
	if !ok {
		return nil
	}
	return s.books.seeZone(own, zone)
}

// cut is the zone of a name as the DNS serves it. Callers hold the lock.
func (s *Sim) cut(name string) (string, bool) {
	for zone := name; zone != ""; _, zone, _ = strings.Cut(zone, ".") {
		if s.cfg().zones[zone] || s.books.anyNamed[zone] {
			return zone, true
		}
	}
	if within(name, simDomain) {
		return simDomain, true
	}
	if s.cfg().Zones != nil {
		return "", false
	}
	if zone, err := registrable(name); err == nil {
		return zone, true
	}
	return name, true // a public suffix, or the root, is a zone of its own
}
