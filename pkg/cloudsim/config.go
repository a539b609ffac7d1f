package cloudsim

import (
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"time"
)

// Config says what the simulated clouds are like. The zero value is usable: free
// ports on 127.0.0.1, memory only, two accounts of each cloud.
type Config struct {
	// Listen addresses; empty means a free port on 127.0.0.1. The DNS address is
	// served over UDP and TCP.
	AliyunAddr  string `json:"aliyun_addr,omitempty"`
	TencentAddr string `json:"tencent_addr,omitempty"`
	DNSAddr     string `json:"dns_addr,omitempty"`
	ControlAddr string `json:"control_addr,omitempty"`

	// Dir keeps the books, the DNS records and the CA, so that a stopped run, a
	// killed one too, goes on exactly. Empty means memory only. Call counts and
	// faults belong to one run and are not kept.
	Dir  string `json:"dir,omitempty"`
	disk disk   // what Dir lies on
	// Seed makes ids, delays and faults repeatable; 0 draws one and logs it.
	Seed uint64 `json:"seed,omitempty"`

	// Accounts that may call; nil means DefaultAccounts.
	Accounts []Account `json:"accounts,omitempty"`

	// Zones that exist in the DNS; nil means every name exists and every
	// registrable domain is a zone. Zones of accounts are added to it.
	Zones []string `json:"zones,omitempty"`
	// Records are served besides those written through the APIs.
	Records []StaticRecord `json:"records,omitempty"`
	// HostAddress answers A queries for every host without a record of its own
	// (a name with no underscore label). Default 127.0.0.1; "none" for no answer.
	HostAddress string `json:"host_address,omitempty"`

	// How old a signature may be: Alibaba 15 minutes, Tencent 5 minutes by default.
	AliyunSignatureLife  Duration `json:"aliyun_signature_life,omitempty"`
	TencentSignatureLife Duration `json:"tencent_signature_life,omitempty"`
	// ClockSkew is how far a timestamp may lie in the future; 0 means as far as
	// the signature's life of that cloud.
	ClockSkew Duration `json:"clock_skew,omitempty"`

	// Limits are calls per second of one main account and API action. The key
	// "default" holds for actions that are not named. What both clouds have under
	// one name is told apart as aliyun/Action and tencent/Action. See DefaultLimits.
	Limits map[string]int `json:"limits,omitempty"`
	// LimitMode is fixed (wall-clock seconds), sliding, or both (default): the
	// stricter of the two. The vendors do not publish which one they use.
	LimitMode string `json:"limit_mode,omitempty"`
	// ThrottledCount lets throttled calls use up the window as well.
	ThrottledCount bool `json:"throttled_count,omitempty"`

	// ChallengeDelay passes from the application until the challenge is shown
	// (100ms..800ms).
	ChallengeDelay Range `json:"challenge_delay,omitzero"`
	// IssueDelay passes from passed validation until issue (500ms..3s).
	IssueDelay Range `json:"issue_delay,omitzero"`
	// CheckInterval lies between two attempts at validation (500ms). It grows to
	// a tenth of the order's age, so that thousands of waiting orders stay cheap.
	CheckInterval Duration `json:"check_interval,omitempty"`
	// ValidationDeadline ends the attempts: the order fails (10m). It starts anew
	// when a simulator is started on an existing Dir.
	ValidationDeadline Duration `json:"validation_deadline,omitempty"`
	// ListLag is how much later lists show a new order or a new state (0s..500ms).
	ListLag Range `json:"list_lag,omitzero"`
	// DNSLag is how much later the DNS serves a written record (0s..100ms).
	DNSLag Range `json:"dns_lag,omitzero"`
	// BatchDelay passes until a task of many records is carried out (100ms..800ms).
	BatchDelay Range `json:"batch_delay,omitzero"`
	// RecordListLag is how much later DescribeRecordList of DNSPod shows a new record
	// (none): its page speaks of a delay of the index, up to 30 seconds.
	RecordListLag Range `json:"record_list_lag,omitzero"`
	// Latency of every call (5ms..40ms).
	Latency Range `json:"latency,omitzero"`

	// FilePort is used in place of port 80 for FILE validation.
	FilePort int `json:"file_port,omitempty"`
	// Resolver (host:port) is asked for validation, CAA and the hosts of FILE; empty
	// means the own DNS. It may be recursive, or know only the zones of a test.
	Resolver string `json:"resolver,omitempty"`

	// CSRSANs makes CAS honour the SANs of a CSR. The documents bind only its CN,
	// hence the default false.
	CSRSANs bool `json:"csr_sans,omitempty"`
	// RelativeRecordDomain shows RecordDomain as the bare label of the documents'
	// sample (_dnsauth) instead of the absolute name that implementers report.
	RelativeRecordDomain bool `json:"relative_record_domain,omitempty"`
	// CASRecordType is TXT (default), CNAME or mixed, for DNS challenges of CAS.
	CASRecordType string `json:"cas_record_type,omitempty"`
	// TencentRecordType is TXT, CNAME or mixed (default).
	TencentRecordType string `json:"tencent_record_type,omitempty"`
	// WholeFilePath shows Tencent's DvAuthPath with the file name. By default it is
	// the directory and DvAuthKey the file, as two public implementers join them.
	WholeFilePath bool `json:"whole_file_path,omitempty"`
	// SelfValidate lets each cloud write its own challenge where the ordered name
	// lies in a zone that the account names in Zones.
	SelfValidate bool `json:"self_validate,omitempty"`
	// IgnoreCAA issues whatever the CAA records of the names say. By default an order
	// fails where they leave its CA out (RFC 8659).
	IgnoreCAA bool `json:"ignore_caa,omitempty"`
	// NoBatch leaves out the actions for many records, as if the clouds had none.
	NoBatch bool `json:"no_batch,omitempty"`
	// Unknown are actions that are left out, as if the clouds had none of them; of one
	// cloud alone as aliyun/Action or tencent/Action.
	Unknown []string `json:"unknown,omitempty"`
	// BatchTasksPerHour is how many such tasks DNSPod takes from one address (80,
	// as RequestLimitExceeded.BatchTaskLimit says; -1 for any number).
	BatchTasksPerHour int `json:"batch_tasks_per_hour,omitempty"`
	// IgnoreUnknownKeys makes Tencent ignore undefined parameters instead of
	// answering UnknownParameter. Alibaba ignores them always.
	IgnoreUnknownKeys bool `json:"ignore_unknown_keys,omitempty"`
	// ListOrder is newest (first, the default), oldest, or shuffled, anew in each
	// call: the order of ListUserCertificateOrder is not documented. Orders go by
	// when they were placed, certificates by when they were issued. Tencent
	// documents the newest first; shuffled holds for it all the same.
	ListOrder string `json:"list_order,omitempty"`
	// ListShift is the share of pages, the first excepted, that begin up to three
	// rows too early or too late, as when rows come or go while one pages.
	ListShift float64 `json:"list_shift,omitempty"`
	// Repeat makes every answer repeat the secrets of whoever asks, in clear, base64,
	// hexadecimal and escaped for URLs: in messages, request ids, names of products and
	// brands, and in the words of OddStates.
	Repeat bool `json:"repeat,omitempty"`
	// OddStates is the share of orders that, at any time, show a state that no
	// document knows: "unknow" in DescribeCertificateState, another word in lists,
	// another number at Tencent. Each does so for a few seconds.
	OddStates float64 `json:"odd_states,omitempty"`
	// MaxShowSize clamps the page of ListUserCertificateOrder (50).
	MaxShowSize int `json:"max_show_size,omitempty"`

	// CloudKey is the kind of key that the clouds make where the API does not say:
	// rsa2048 (default) or p256, which spares much CPU in load tests.
	CloudKey string `json:"cloud_key,omitempty"`
	// ValidityDays of certificates: 180 by default, free ones 90, never over 200
	// (CA/B Forum SC-081v3, in force since 2026-03-15).
	ValidityDays int `json:"validity_days,omitempty"`
	// RefuseNames are domain suffixes that the CA's review refuses, whatever the
	// validation says. Default: refused.example.
	RefuseNames []string `json:"refuse_names,omitempty"`
	// FailRate is the share of orders that the CA's review refuses at random.
	FailRate float64 `json:"fail_rate,omitempty"`

	// What Zones and Records say, by name.
	zones   map[string]bool
	records map[string][]StaticRecord

	// Logger receives the one loud line at the start and odd events; nil means
	// slog.Default.
	Logger *slog.Logger `json:"-"`
}

// Account is one access key of a main account.
type Account struct {
	Cloud string `json:"cloud"` // aliyun or tencent
	Label string `json:"label,omitempty"`
	// UID is the main account (ParentUid, Uin). Books and limits belong to it, and
	// several access keys may share it.
	UID             string `json:"uid"`
	AccessKeyID     string `json:"access_key_id"`
	AccessKeySecret string `json:"access_key_secret"`
	// CallerKind is whose the key is: account (the main account's, the default), user
	// (a RAM or CAM user's) or role (a temporary key). CallerID is the id of the user
	// or role.
	CallerKind string `json:"caller_kind,omitempty"`
	CallerID   string `json:"caller_id,omitempty"`
	// Token is the security token of a role's key, without which it is refused.
	Token string `json:"token,omitempty"`
	// Sees is what the key's lists show: all of the main account's (the default), or
	// own, what this very caller has ordered, as with a user or role whose rights end
	// at a resource group. Single orders it may ask about all the same.
	Sees string `json:"sees,omitempty"`
	// Products is the quota bought per ProductCode. At Tencent the key "83" is the
	// number of free certificates (default 50).
	Products map[string]int `json:"products,omitempty"`
	// Instances are bought CAS instances for CreateDVOrderAudit.
	Instances []Instance `json:"instances,omitempty"`
	// Certificates are bought at Tencent, status 5, materials pending.
	Certificates []Certificate `json:"certificates,omitempty"`
	// Zones hosted by the account's DNS; none means any registrable domain.
	Zones []string `json:"zones,omitempty"`
	// Deny lists actions that the key has no permission for. Alibaba's
	// GetCallerIdentity needs none.
	Deny []string `json:"deny,omitempty"`
	// Writes are the records that the key may write, and Removes those that it may
	// remove, as patterns of name and type, such as "_dnsauth.* TXT" or
	// "*.example.com *"; left out: all, empty: none. Whoever may not is answered as by
	// a policy without the right.
	Writes  []string `json:"writes,omitzero"`
	Removes []string `json:"removes,omitzero"`
	// Disabled keys are refused.
	Disabled bool `json:"disabled,omitempty"`
}

// Product is a code of which the account bought some, for orders that name none: a
// DV product for a single name that is not free. Empty at Tencent, where orders
// name no product.
func (a Account) Product() string {
	for _, p := range catalogue {
		if p.CertType == "DV" && !p.Wildcard && !p.Free && a.Products[p.Code] > 0 {
			return p.Code
		}
	}
	return ""
}

// Instance is a bought CAS instance.
type Instance struct {
	ID       string `json:"id"`
	CertType string `json:"cert_type,omitempty"` // DV by default
	Domains  int    `json:"domains,omitempty"`   // how many names it may bind, 0 = any
}

// Certificate is a bought certificate at Tencent.
type Certificate struct {
	ID      string `json:"id"`
	Product string `json:"product,omitempty"` // shown as ProductZhName
	// DomainType is DomainType of DescribeCertificateDetail: 1 single name, 2
	// several, 3 one wildcard, 4 several wildcards; 0 = not restricted.
	DomainType int `json:"domain_type,omitempty"`
	Domains    int `json:"domains,omitempty"` // how many names it may bind, 0 = any
	// Origin is the certificate that this one follows within a paid service.
	Origin string `json:"origin,omitempty"`
}

// StaticRecord is served by the DNS from the start: A, AAAA, CAA, CNAME, NS, TXT
// and whatever else has a text form. The value of CAA is that of a zone file,
// 0 issue "digicert.com". NS at a zone's apex takes the place of the simulator's.
type StaticRecord struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Value string `json:"value"`
	TTL   uint32 `json:"ttl,omitempty"`
}

// DefaultLimits are the documented calls per second (CAS quota page, alidns quota
// page, the quota page of Alibaba's STS, Tencent's API pages). What is not
// documented gets the small value.
func DefaultLimits() map[string]int {
	return map[string]int{
		"default":         10,
		"AddDomainRecord": 60, "UpdateDomainRecord": 60, "DeleteDomainRecord": 60,
		"DescribeSubDomainRecords": 300, "DescribeDomainRecords": 100,
		"DescribeDomains": 20, "GetMainDomainName": 20,
		"CreateRecord": 500, "DeleteRecord": 500, "DescribeRecordList": 100,
		"DescribeDomainList": 20, "DescribeDomain": 20,
		"CreateRecordBatch": 20, "DeleteRecordBatch": 20, "DescribeBatchTask": 20,
		actionAt(cloudAliyun, "GetCallerIdentity"): 100, actionAt(cloudTencent, "GetCallerIdentity"): 20, "GetUserAppId": 20,
	}
}

// DefaultAccounts are two accounts of each cloud with stable credentials.
func DefaultAccounts() []Account {
	var all []Account
	for n := 1; n <= 2; n++ {
		all = append(all, defaultAliyun(n), defaultTencent(n))
	}
	return all
}

func defaultAliyun(n int) Account {
	a := Account{
		Cloud: cloudAliyun, Label: fmt.Sprintf("aliyun-%d", n),
		UID:             fmt.Sprintf("100000000000000%d", n),
		AccessKeyID:     fmt.Sprintf("LTAI5tCloudsimAliyun000%d", n),
		AccessKeySecret: fmt.Sprintf("cloudsim-secret-aliyun-%d", n),
		Products:        map[string]int{},
	}
	for _, p := range catalogue {
		a.Products[p.Code] = 100_000
		if p.Free {
			a.Products[p.Code] = 20 // per calendar year, help.aliyun.com 212989
		}
	}
	for i := 1; i <= 200; i++ {
		a.Instances = append(a.Instances, Instance{ID: fmt.Sprintf("cas-cn-sim%d%04d", n, i)})
	}
	return a
}

func defaultTencent(n int) Account {
	a := Account{
		Cloud: cloudTencent, Label: fmt.Sprintf("tencent-%d", n),
		UID:             fmt.Sprintf("10000000000%d", n),
		AccessKeyID:     fmt.Sprintf("AKIDCloudsimTencent000%d", n),
		AccessKeySecret: fmt.Sprintf("cloudsim-secret-tencent-%d", n),
		Products:        map[string]int{freePackage: 50},
	}
	for i := 1; i <= 200; i++ {
		a.Certificates = append(a.Certificates, Certificate{ID: fmt.Sprintf("sim%d%04d", n, i)})
	}
	return a
}

// withDefaults fills what was left out, and refuses what makes no sense.
func (c Config) withDefaults() (Config, error) {
	for _, addr := range []*string{&c.AliyunAddr, &c.TencentAddr, &c.DNSAddr, &c.ControlAddr} {
		setIfZero(addr, "127.0.0.1:0")
	}
	setIfZero(&c.HostAddress, "127.0.0.1")
	setIfZero(&c.AliyunSignatureLife, Duration(15*time.Minute))
	setIfZero(&c.TencentSignatureLife, Duration(5*time.Minute))
	setIfZero(&c.LimitMode, "both")
	setIfZero(&c.ChallengeDelay, Between(100*time.Millisecond, 800*time.Millisecond))
	setIfZero(&c.IssueDelay, Between(500*time.Millisecond, 3*time.Second))
	setIfZero(&c.CheckInterval, Duration(500*time.Millisecond))
	setIfZero(&c.ValidationDeadline, Duration(10*time.Minute))
	setIfZero(&c.ListLag, Between(0, 500*time.Millisecond))
	setIfZero(&c.DNSLag, Between(0, 100*time.Millisecond))
	setIfZero(&c.BatchDelay, Between(100*time.Millisecond, 800*time.Millisecond))
	setIfZero(&c.BatchTasksPerHour, 80)
	setIfZero(&c.Latency, Between(5*time.Millisecond, 40*time.Millisecond))
	setIfZero(&c.FilePort, 80)
	setIfZero(&c.CASRecordType, typeTXT)
	setIfZero(&c.TencentRecordType, "mixed")
	setIfZero(&c.MaxShowSize, 50)
	setIfZero(&c.ListOrder, newestFirst)
	setIfZero(&c.CloudKey, keyRSA)
	setIfZero(&c.ValidityDays, 180)
	c.Limits = completeLimits(c.Limits)
	c.zones = make(map[string]bool, len(c.Zones))
	for _, zone := range c.Zones {
		c.zones[zone] = true
	}
	c.records = map[string][]StaticRecord{}
	for _, r := range c.Records {
		name := strings.ToLower(strings.TrimSuffix(r.Name, "."))
		c.records[name] = append(c.records[name], r)
	}
	if c.RefuseNames == nil {
		c.RefuseNames = []string{"refused.example"}
	}
	if c.Accounts == nil {
		c.Accounts = DefaultAccounts()
	}
	return c, c.check()
}

// completeLimits adds what is not set. A default of the caller's own holds for
// everything that the caller does not name.
func completeLimits(set map[string]int) map[string]int {
	all := DefaultLimits()
	if _, own := set["default"]; own {
		clear(all)
	}
	for action, n := range set {
		all[action] = n
	}
	return all
}

func setIfZero[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// check refuses settings that would silently mean something else.
func (c Config) check() error {
	for _, f := range []struct{ name, value, allowed string }{
		{"limit_mode", c.LimitMode, "fixed sliding both"},
		{"cas_record_type", c.CASRecordType, "TXT CNAME mixed"},
		{"tencent_record_type", c.TencentRecordType, "TXT CNAME mixed"},
		{"list_order", c.ListOrder, newestFirst + " " + oldestFirst + " " + noOrder},
		{"cloud_key", c.CloudKey, "rsa2048 p256"},
	} {
		if !contains(strings.Fields(f.allowed), f.value) {
			return fmt.Errorf("%s %q is none of: %s", f.name, f.value, f.allowed)
		}
	}
	if c.ValidityDays < 1 || c.ValidityDays > 200 {
		return fmt.Errorf("validity_days %d is not in 1..200", c.ValidityDays)
	}
	for _, share := range []struct {
		name  string
		value float64
	}{{"fail_rate", c.FailRate}, {"list_shift", c.ListShift}, {"odd_states", c.OddStates}} {
		if share.value < 0 || share.value > 1 {
			return fmt.Errorf("%s %v is not between 0 and 1", share.name, share.value)
		}
	}
	if err := c.checkUnknown(); err != nil {
		return err
	}
	for i, a := range c.Accounts {
		if err := a.check(); err != nil {
			return fmt.Errorf("account %d (%s): %w", i, a.Label, err)
		}
	}
	return nil
}

func (a Account) check() error {
	if a.Cloud != cloudAliyun && a.Cloud != cloudTencent {
		return fmt.Errorf("cloud %q is neither %s nor %s", a.Cloud, cloudAliyun, cloudTencent)
	}
	if a.UID == "" || a.AccessKeyID == "" || a.AccessKeySecret == "" {
		return fmt.Errorf("uid, access_key_id and access_key_secret are required")
	}
	for _, p := range slices.Concat(a.Writes, a.Removes) {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("writes or removes has %q: %w", p, err)
		}
	}
	return a.checkCaller()
}
