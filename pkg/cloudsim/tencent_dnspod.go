package cloudsim

import (
	"hash/fnv"
	"regexp"
	"slices"
	"strings"
	"time"
)

// DNSPod, version 2021-03-23 (cloud.tencent.com 1427). Records are served by the
// simulator's DNS from DNSLag on.

// zoneName are the two ways to name a zone; the id wins, as documented.
type zoneName struct {
	Domain   string
	DomainId uint64
}

func (s *Sim) findZone(own owner, in zoneName) (string, error) {
	if in.DomainId == 0 {
		s.books.mu.Lock()
		defer s.books.mu.Unlock()
		if zone := aLabels(in.Domain); s.hosts(own, zone) {
			return zone, nil
		}
		return "", noZone()
	}
	zones, err := s.zonesByID(own)
	if err != nil {
		return "", err
	}
	if zone, known := zones[in.DomainId]; known {
		return zone, nil
	}
	return "", noZone()
}

// zonesByID are the zones that the account has so far.
func (s *Sim) zonesByID(own owner) (map[uint64]string, error) {
	zones, err := s.listZones(own, "")
	byID := make(map[uint64]string, len(zones))
	for _, zone := range zones {
		byID[zoneID(own, zone)] = zone
	}
	return byID, err
}

func noZone() error {
	return refuse(0, "InvalidParameterValue.DomainNotExists", "The domain name does not exist, or is not in this account.")
}

// zoneID is the same number for a zone at all times.
func zoneID(own owner, zone string) uint64 {
	h := fnv.New32a()
	h.Write([]byte(own.UID + "/" + zone))
	return uint64(h.Sum32()) | 1 // never 0
}

const defaultLine = "默认"

// newRecord are the parameters of CreateRecord.
type newRecord struct {
	Domain     string `tc:"required"`
	RecordType string `tc:"required"`
	RecordLine string `tc:"required"`
	Value      string `tc:"required"`

	DomainId, MX, TTL, Weight, GroupId                          uint64
	SubDomain, RecordLineId, Status, Remark, DnssecConflictMode string
}

var subDomain = regexp.MustCompile(`^(@|[a-z0-9_*]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*)$`)

func (s *Sim) createRecord(by caller, in newRecord) (fields, error) {
	own := by.owner
	zone, err := s.findZone(own, zoneName{in.Domain, in.DomainId})
	if err != nil {
		return nil, err
	}
	in.SubDomain = strings.ToLower(in.SubDomain)
	setIfZero(&in.SubDomain, "@")
	setIfZero(&in.TTL, 600)
	if err := in.check(zone); err != nil {
		return nil, err
	}
	now := time.Now()
	r := record{Owner: own, Zone: zone, RR: in.SubDomain, Type: in.RecordType, Value: plain(in.RecordType, in.Value), TTL: uint32(in.TTL),
		Line: defaultLine, Remark: in.Remark, Created: now, VisibleAt: now.Add(s.dice.in(s.cfg().DNSLag))}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	if err := s.books.may(r, by.hand, false); err != nil {
		return nil, err
	}
	if err := s.books.room(r); err != nil {
		return nil, err
	}
	r.ID, r.ListedAt = s.freshRecordID(cloudTencent), now.Add(s.dice.in(s.cfg().RecordListLag))
	if err := s.demandZone(own, zone); err != nil {
		return nil, err
	}
	if err := s.books.writeRecord(r, by.hand); err != nil {
		return nil, err
	}
	return fields{"RecordId": r.ID}, nil
}

func (in *newRecord) check(zone string) error {
	switch {
	case !contains([]string{"A", "AAAA", typeCNAME, typeTXT, "MX", "NS", "CAA", "SRV"}, in.RecordType):
		return refuse(0, "InvalidParameter.RecordTypeInvalid", "The record type is incorrect.")
	case in.RecordLineId != "" && in.RecordLineId != "0", in.RecordLineId == "" && in.RecordLine != defaultLine:
		return refuse(0, "InvalidParameter.RecordLineInvalid", "The split zone is incorrect: here is only %s.", defaultLine)
	case !subDomain.MatchString(in.SubDomain) || len(joinName(in.SubDomain, zone)) > 253:
		return refuse(0, "InvalidParameter.SubdomainInvalid", "The subdomain is incorrect.")
	case in.TTL > 604800:
		return refuse(0, "LimitExceeded.RecordTtlLimit", "The TTL exceeds the limit.")
	case in.RecordType == "MX" && (in.MX < 1 || in.MX > 20):
		return refuse(0, "InvalidParameter.MxInvalid", "The MX priority is incorrect.")
	case in.Status != "" && in.Status != "ENABLE":
		return refuse(0, "UnsupportedOperation", "The simulator has no disabled records.")
	}
	if _, err := makeRR(joinName(in.SubDomain, zone), in.RecordType, in.Value, uint32(in.TTL)); err != nil {
		return refuse(0, "InvalidParameter.RecordValueInvalid", "The record value is incorrect.")
	}
	return nil
}

// plain is a value without the final dot of a host name.
func plain(typ, value string) string {
	if typ == typeCNAME || typ == "NS" || typ == "MX" {
		return strings.ToLower(strings.TrimSuffix(value, "."))
	}
	return value
}

// room refuses a record that is there already, or a CNAME beside something else.
// Callers hold the lock.
func (b *books) room(r record) error {
	for _, old := range b.at(r.Owner, r.name()) {
		switch {
		case old.Type == r.Type && old.Value == r.Value:
			return refuse(0, "InvalidParameter.DomainRecordExist", "The record already exists.")
		case old.Type == typeCNAME || r.Type == typeCNAME:
			return refuse(0, "InvalidParameter.CustomMessage", "A CNAME record conflicts with other records of the same name.")
		}
	}
	return nil
}

func (s *Sim) deleteRecord(by caller, in struct {
	Domain   string `tc:"required"`
	RecordId uint64 `tc:"required"`
	DomainId uint64
}) (fields, error) {
	zone, err := s.findZone(by.owner, zoneName{in.Domain, in.DomainId})
	if err != nil {
		return nil, err
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	r, known := s.books.records[in.RecordId]
	if !known || r.Owner != by.owner || r.Zone != zone {
		return nil, refuse(0, "InvalidParameter.RecordIdInvalid", "The record id is incorrect.")
	}
	if err := s.books.may(r, by.hand, true); err != nil {
		return nil, err
	}
	return fields{}, s.books.removeRecord(r, by.hand)
}

// recordQuery are the parameters of DescribeRecordList. Subdomain is the older
// spelling of SubDomain. The last group has no effect.
type recordQuery struct {
	Domain   string `tc:"required"`
	DomainId uint64

	SubDomain, Subdomain, RecordType, RecordLine, RecordLineId, Keyword, ErrorOnEmpty string

	Offset int
	Limit  *int

	GroupId             uint64
	SortField, SortType string
}

// describeRecordList lists a zone's records, newest first. Nothing found is an
// error unless ErrorOnEmpty is "no".
func (s *Sim) describeRecordList(own owner, in recordQuery) (fields, error) {
	zone, err := s.findZone(own, zoneName{in.Domain, in.DomainId})
	if err != nil {
		return nil, err
	}
	limit := 100
	if in.Limit != nil {
		limit = min(*in.Limit, 3000)
	}
	if in.Offset < 0 || limit < 0 {
		return nil, wrongValue("Offset", in.Offset)
	}
	s.books.mu.Lock()
	all := s.books.inZone(own, zone)
	s.books.mu.Unlock()
	now := time.Now()
	all = slices.DeleteFunc(all, func(r record) bool { return now.Before(r.ListedAt) || !in.wants(r) })
	if len(all) == 0 && !strings.EqualFold(in.ErrorOnEmpty, "no") {
		return nil, refuse(0, "ResourceNotFound.NoDataOfRecord", "The list of records is empty.")
	}
	rows := []fields{}
	names := map[string]bool{}
	for _, r := range all {
		names[r.RR] = true
	}
	for _, r := range offsetPage(all, in.Offset, limit) {
		rows = append(rows, recordRow(r))
	}
	return fields{"RecordList": rows, "RecordCountInfo": fields{
		"SubdomainCount": len(names), "ListCount": len(rows), "TotalCount": len(all)}}, nil
}

func (in *recordQuery) wants(r record) bool {
	sub := strings.ToLower(in.SubDomain + in.Subdomain)
	if in.SubDomain != "" {
		sub = strings.ToLower(in.SubDomain)
	}
	return (sub == "" || sub == r.RR) &&
		(in.RecordType == "" || in.RecordType == r.Type) &&
		(in.RecordLine == "" || in.RecordLine == defaultLine) &&
		(in.RecordLineId == "" || in.RecordLineId == "0") &&
		(in.Keyword == "" || strings.Contains(r.RR, in.Keyword) || strings.Contains(r.Value, in.Keyword))
}

// shownValue ends host names with a dot, as DNSPod stores them.
func shownValue(typ, value string) string {
	if typ == typeCNAME || typ == "NS" || typ == "MX" {
		return value + "."
	}
	return value
}

// recordRow shows a record.
func recordRow(r record) fields {
	return fields{"RecordId": r.ID, "Name": r.RR, "Type": r.Type, "Value": shownValue(r.Type, r.Value), "Line": defaultLine, "LineId": "0",
		"TTL": r.TTL, "MX": 0, "Weight": nil, "Status": "ENABLE", "Remark": r.Remark, "MonitorStatus": "",
		"DefaultNS": false, "UpdatedOn": gmt8(r.Created)}
}

func (s *Sim) describeDomainList(own owner, in struct {
	Type, Keyword, SortField, SortType, Remark, UpdatedAtBegin, UpdatedAtEnd string

	Offset                                      int
	Limit                                       *int
	GroupId                                     []int64
	Status, Package                             []string
	ProjectId, RecordCountBegin, RecordCountEnd int64
}) (fields, error) {
	limit := 3000
	if in.Limit != nil {
		limit = min(*in.Limit, 3000)
	}
	if in.Offset < 0 || limit < 0 {
		return nil, wrongValue("Offset", in.Offset)
	}
	zones, err := s.listZones(own, aLabels(in.Keyword))
	if err != nil {
		return nil, err
	}
	rows := []fields{}
	for _, zone := range offsetPage(zones, in.Offset, limit) {
		rows = append(rows, s.domainRow(own, zone))
	}
	n := len(zones)
	return fields{"DomainList": rows, "DomainCountInfo": fields{"DomainTotal": n, "AllTotal": n, "MineTotal": n,
		"ShareTotal": 0, "VipTotal": 0, "PauseTotal": 0, "ErrorTotal": 0, "LockTotal": 0, "SpamTotal": 0,
		"VipExpire": 0, "ShareOutTotal": 0, "GroupTotal": 0}}, nil
}

func (s *Sim) domainRow(own owner, zone string) fields {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	return fields{"DomainId": zoneID(own, zone), "Name": uLabels(zone), "Punycode": zone, "Status": "ENABLE", "DNSStatus": "", "TTL": 600,
		"EffectiveDNS": []string{nameServer}, "Grade": "DP_FREE", "GradeTitle": "免费版", "IsVip": "NO", "GroupId": 1,
		"Remark": "", "Owner": own.UID, "RecordCount": len(s.books.byZone[zoneKey{own, zone}]), "TagList": []string{}}
}

func (s *Sim) describeDomain(own owner, in struct {
	Domain   string `tc:"required"`
	DomainId uint64
}) (fields, error) {
	zone, err := s.findZone(own, zoneName{in.Domain, in.DomainId})
	if err != nil {
		return nil, err
	}
	row := s.domainRow(own, zone)
	return fields{"DomainInfo": fields{"Domain": uLabels(zone), "DomainId": row["DomainId"], "Status": "ENABLE", "Grade": "DP_FREE",
		"DnsStatus": "", "TTL": 600, "RecordCount": row["RecordCount"], "DnspodNsList": []string{nameServer},
		"ActualNsList": []string{nameServer}, "Punycode": zone, "Owner": own.UID, "IsMark": "no", "IsVip": "no"}}, nil
}
