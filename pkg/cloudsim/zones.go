package cloudsim

import (
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
	Created   time.Time `json:"created"`
	VisibleAt time.Time `json:"visible_at"` // the DNS does not serve it earlier
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
	b.records[r.ID] = r
}

// dropRecord removes a record. Callers hold the lock.
func (b *books) dropRecord(r record) error {
	if err := b.journal.put("record", formatID(r.ID), nil); err != nil {
		return err
	}
	delete(b.records, r.ID)
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
	for _, r := range b.records {
		if r.Owner == own && r.Zone == zone {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(x, y record) int { return y.Created.Compare(x.Created) })
	return found
}

// namedZones are the zones that the main account's config names. Callers hold the
// lock.
func (b *books) namedZones(own owner) []string {
	var zones []string
	for _, a := range b.accounts {
		if a.Cloud == own.Cloud && a.UID == own.UID {
			zones = append(zones, a.Zones...)
		}
	}
	return zones
}

// hosts says whether the account's DNS service has this very zone, or makes it on
// demand. Callers hold the lock.
func (s *Sim) hosts(own owner, zone string) bool {
	if named := s.books.namedZones(own); len(named) > 0 {
		return contains(named, zone)
	}
	apex, err := registrable(zone)
	if err != nil || apex != zone {
		return false
	}
	return s.cfg().Zones == nil || contains(s.cfg().Zones, zone)
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
	zones := slices.Clone(s.books.namedZones(own))
	if len(zones) == 0 {
		if err := s.demandZone(own, keyword); err != nil {
			return nil, err
		}
		for zone := range s.books.zones[own] {
			zones = append(zones, zone)
		}
	}
	slices.Sort(zones)
	return slices.DeleteFunc(slices.Compact(zones), func(zone string) bool {
		return !strings.Contains(zone, keyword) && !within(keyword, zone)
	}), nil
}

// demandZone notes the zone of a name that somebody took an interest in. Callers
// hold the lock.
func (s *Sim) demandZone(own owner, name string) error {
	if len(s.books.namedZones(own)) > 0 || checkName(name) != nil {
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
	explicit := s.cfg().Zones
	for _, a := range s.books.accounts {
		explicit = append(explicit[:len(explicit):len(explicit)], a.Zones...)
	}
	longest := ""
	for _, zone := range explicit {
		if within(name, zone) && len(zone) > len(longest) {
			longest = zone
		}
	}
	if longest != "" {
		return longest, true
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
