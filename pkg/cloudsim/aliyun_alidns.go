package cloudsim

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// alidns 2015-01-09. Error codes and messages are those of the operations' pages
// (help.aliyun.com, AddDomainRecord and UpdateDomainRecord).

const (
	defaultTTL  = 600
	maxTTL      = 86400
	defaultPage = 20
	maxPage     = 100
	maxZonePage = 500 // DescribeDomainRecords
	anyLine     = "default"
)

func dnsRefusal(code, message string) error {
	return refuse(http.StatusBadRequest, code, "%s", message)
}

func errNoZone() error {
	return dnsRefusal("IncorrectDomainUser", "The domain name does not belong to this user.")
}

func errNotMyRecord() error {
	return dnsRefusal("DomainRecordNotBelongToUser", "The domain record does not belong to this user.")
}

func errDuplicate() error {
	return dnsRefusal("DomainRecordDuplicate", "The domain record is duplicated.")
}

func errConflict() error {
	return dnsRefusal("DomainRecordConflict", "The domain record is conflict with other records.")
}

func errBadName() error {
	return dnsRefusal("InvalidDomainName.Format", "The domain name is not well formatted.")
}

// dnsName reads a name without its last dot, in lower case.
func (c *rpcCall) dnsName(param string) (string, error) {
	if err := c.require(param); err != nil {
		return "", err
	}
	name := aLabels(c.params[param])
	if checkName(name) != nil || isWildcard(name) {
		return "", errBadName()
	}
	return name, nil
}

// writtenRecord reads RR, Type, Value, TTL and Line of a record in a zone.
func (c *rpcCall) writtenRecord(zone string) (record, error) {
	if err := c.require("RR", "Type", "Value"); err != nil {
		return record{}, err
	}
	r := record{Owner: c.own, Zone: zone, RR: strings.ToLower(c.params["RR"]), Type: strings.ToUpper(c.params["Type"]),
		Value: c.params["Value"], Line: c.params["Line"]}
	setIfZero(&r.Line, anyLine)
	ttl, err := c.number("TTL", defaultTTL, 1)
	if err != nil || ttl > maxTTL {
		return r, rpcInvalid("TTL", "it is not from 1 to "+strconv.Itoa(maxTTL))
	}
	r.TTL = uint32(ttl)
	return r, checkRecord(r)
}

// checkRecord holds a record against the rules of RR, Type and Value.
func checkRecord(r record) error {
	if !recordHost(r.RR) || len(r.name()) > 253 {
		return dnsRefusal("InvalidRR.Format", "The RR is not well formatted.")
	}
	if !contains([]string{"A", "AAAA", "CNAME", "TXT", "MX", "NS", "SRV", "CAA"}, r.Type) {
		return rpcInvalid("Type", "there is no such type of record")
	}
	if _, err := makeRR(r.name(), r.Type, r.Value, r.TTL); err != nil {
		return dnsRefusal("InvalidValue.Format", "The value does not fit the type of the record.")
	}
	return nil
}

// recordHost says whether RR is "@" or labels; unlike a host's they may begin with
// an underscore, and the first may be a wildcard.
func recordHost(rr string) bool {
	if rr == "@" || rr == "*" {
		return true
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(rr, "*."), ".") {
		if !hostLabel(strings.ReplaceAll(label, "_", "x")) {
			return false
		}
	}
	return true
}

// clashes says why a record may not stand beside the others at its name: the same
// once more, or a CNAME with anything else. Callers hold the lock.
func (b *books) clashes(r record) error {
	for _, other := range b.at(r.Owner, r.name()) {
		switch {
		case other.ID == r.ID || other.Line != r.Line:
		case other.Type == r.Type && other.Value == r.Value:
			return errDuplicate()
		case other.Type == typeCNAME || r.Type == typeCNAME:
			return errConflict()
		}
	}
	return nil
}

func (s *Sim) addDomainRecord(c *rpcCall) (rpcFields, error) {
	zone, err := c.dnsName("DomainName")
	if err != nil {
		return nil, err
	}
	r, err := c.writtenRecord(zone)
	if err != nil {
		return nil, err
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	if !s.hosts(c.own, zone) {
		return nil, errNoZone()
	}
	if err := s.books.may(r, c.hand(), false); err != nil {
		return nil, err
	}
	if err := s.books.clashes(r); err != nil {
		return nil, err
	}
	if err := s.demandZone(c.own, zone); err != nil {
		return nil, err
	}
	now := time.Now()
	r.ID, r.Created, r.VisibleAt = s.freshRecordID(cloudAliyun), now, now.Add(s.dice.in(s.cfg().DNSLag))
	return rpcFields{"RecordId": formatID(r.ID)}, s.books.writeRecord(r, c.hand())
}

// updateDomainRecord writes all of a record anew; changing nothing is refused as a
// duplicate, as the real one does.
func (s *Sim) updateDomainRecord(c *rpcCall) (rpcFields, error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	old, err := s.ownRecord(c)
	if err != nil {
		return nil, err
	}
	r, err := c.writtenRecord(old.Zone)
	if err != nil {
		return nil, err
	}
	if r.RR == old.RR && r.Type == old.Type && r.Value == old.Value && r.TTL == old.TTL && r.Line == old.Line {
		return nil, errDuplicate()
	}
	r.ID, r.Created = old.ID, old.Created
	if err := s.books.may(r, c.hand(), false); err != nil {
		return nil, err
	}
	if err := s.books.clashes(r); err != nil {
		return nil, err
	}
	r.VisibleAt = time.Now().Add(s.dice.in(s.cfg().DNSLag))
	return rpcFields{"RecordId": formatID(r.ID)}, s.books.rewriteRecord(old, r, c.hand())
}

func (s *Sim) deleteDomainRecord(c *rpcCall) (rpcFields, error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	r, err := s.ownRecord(c)
	if err != nil {
		return nil, err
	}
	if err := s.books.may(r, c.hand(), true); err != nil {
		return nil, err
	}
	return rpcFields{"RecordId": formatID(r.ID)}, s.books.removeRecord(r, c.hand())
}

// ownRecord finds the record that RecordId names. One that is gone, and one of
// another account, do not belong to this user. Callers hold the lock.
func (s *Sim) ownRecord(c *rpcCall) (record, error) {
	if err := c.require("RecordId"); err != nil {
		return record{}, err
	}
	id, err := strconv.ParseUint(c.params["RecordId"], 10, 64)
	if err != nil {
		return record{}, rpcInvalid("RecordId", "it is no whole number")
	}
	r, known := s.books.records[id]
	if !known || r.Owner != c.own {
		return record{}, errNotMyRecord()
	}
	return r, nil
}

// describeSubDomainRecords lists the records at one name. Without DomainName the
// zone is the account's longest that fits.
func (s *Sim) describeSubDomainRecords(c *rpcCall) (rpcFields, error) {
	if err := c.require("SubDomain"); err != nil {
		return nil, err
	}
	name := strings.TrimPrefix(aLabels(c.params["SubDomain"]), "@.")
	zone := aLabels(c.params["DomainName"])
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	hosted := zone != "" && s.hosts(c.own, zone)
	if zone == "" {
		zone, hosted = s.zoneOf(c.own, name)
	}
	if !hosted {
		return nil, errNoZone()
	}
	if !within(name, zone) {
		return nil, dnsRefusal("SubDomainInvalid.Value", "The DNS record is invalid or in the wrong format.")
	}
	var found []record
	for _, r := range slices.Backward(s.books.at(c.own, name)) {
		if r.Zone == zone && c.wants("Type", r.Type) && c.wants("Line", r.Line) {
			found = append(found, r)
		}
	}
	return c.recordPage(found, maxPage)
}

// wants compares with a parameter that, left out, accepts everything.
func (c *rpcCall) wants(param, value string) bool {
	return c.params[param] == "" || strings.EqualFold(c.params[param], value)
}

// describeDomainRecords lists a zone. KeyWord is fuzzy over RR and value, or the
// very RR with SearchMode EXACT.
func (s *Sim) describeDomainRecords(c *rpcCall) (rpcFields, error) {
	zone, err := c.dnsName("DomainName")
	if err != nil {
		return nil, err
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	if !s.hosts(c.own, zone) {
		return nil, errNoZone()
	}
	found := slices.DeleteFunc(s.books.inZone(c.own, zone), func(r record) bool { return !c.searchesFor(r) })
	return c.recordPage(found, maxZonePage)
}

func (c *rpcCall) searchesFor(r record) bool {
	like := func(param, value string) bool {
		return strings.Contains(strings.ToLower(value), strings.ToLower(c.params[param]))
	}
	if c.params["SearchMode"] == "EXACT" && !c.wants("KeyWord", r.RR) {
		return false
	}
	return (like("KeyWord", r.RR) || like("KeyWord", r.Value)) && like("RRKeyWord", r.RR) && like("ValueKeyWord", r.Value) &&
		c.wants("TypeKeyWord", r.Type) && c.wants("Type", r.Type) && c.wants("Line", r.Line) && c.wants("Status", "Enable")
}

// pages reads PageNumber and PageSize.
func (c *rpcCall) pages(largest int) (number, size int, err error) {
	if number, err = c.number("PageNumber", 1, 1); err != nil {
		return 0, 0, err
	}
	if size, err = c.number("PageSize", defaultPage, 1); err != nil {
		return 0, 0, err
	}
	if size > largest {
		return 0, 0, rpcInvalid("PageSize", "it is larger than "+strconv.Itoa(largest))
	}
	return number, size, nil
}

func (c *rpcCall) recordPage(found []record, largest int) (rpcFields, error) {
	number, size, err := c.pages(largest)
	if err != nil {
		return nil, err
	}
	rows := []rpcFields{}
	for _, r := range rpcPage(found, number, size) {
		rows = append(rows, rpcFields{
			"RecordId": formatID(r.ID), "DomainName": uLabels(r.Zone), "RR": r.RR, "Type": r.Type, "Value": r.Value, "TTL": r.TTL,
			"Line": r.Line, "Status": "ENABLE", "Locked": false, "Weight": 1,
		})
	}
	return rpcFields{"TotalCount": len(found), "PageNumber": number, "PageSize": size, "DomainRecords": rpcFields{"Record": rows}}, nil
}

// describeDomains lists the account's zones; see the package comment for those
// that are made on demand.
func (s *Sim) describeDomains(c *rpcCall) (rpcFields, error) {
	number, size, err := c.pages(maxPage)
	if err != nil {
		return nil, err
	}
	keyword := aLabels(c.params["KeyWord"])
	zones, err := s.listZones(c.own, keyword)
	if err != nil {
		return nil, err
	}
	if c.params["SearchMode"] == "EXACT" {
		zones = slices.DeleteFunc(zones, func(zone string) bool { return keyword != "" && zone != keyword })
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	rows := []rpcFields{}
	for _, zone := range rpcPage(zones, number, size) {
		rows = append(rows, rpcFields{
			"DomainName": uLabels(zone), "PunyCode": punyCode(zone), "DomainId": zone, "AliDomain": true, "VersionCode": "mianfei",
			"RecordCount": len(s.books.byZone[zoneKey{c.own, zone}]), "DnsServers": rpcFields{"DnsServer": []string{nameServer}},
		})
	}
	return rpcFields{"TotalCount": len(zones), "PageNumber": number, "PageSize": size, "Domains": rpcFields{"Domain": rows}}, nil
}

// getMainDomainName splits a name by the public suffix list, whoever owns it.
func (s *Sim) getMainDomainName(c *rpcCall) (rpcFields, error) {
	if err := c.require("InputString"); err != nil {
		return nil, err
	}
	name := aLabels(c.params["InputString"])
	zone, err := registrable(name)
	if err != nil || !recordHost(relative(name, zone)) {
		return nil, errBadName()
	}
	rr := relative(name, zone)
	level := 0
	if rr != "@" {
		level = strings.Count(rr, ".") + 1
	}
	return rpcFields{"DomainName": uLabels(zone), "RR": uLabels(rr), "DomainLevel": level}, nil
}
