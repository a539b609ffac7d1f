package cloudsim

import (
	"slices"
	"time"
)

// state is where an application stands, in the simulator's own words. Each API
// says it in its own.
type state string

const (
	stateBought  state = "bought"  // bought, nothing applied for; Tencent: materials may be filled in
	statePending state = "pending" // applied for; the challenge is shown from ChallengeAt on
	stateReview  state = "review"  // validated, the CA is at it
	stateIssued  state = "issued"
	stateFailed  state = "failed"
	// stateWithdrawn is CAS's "payed" after CancelOrderRequest, Tencent's 7.
	stateWithdrawn state = "withdrawn"
	stateRevoked   state = "revoked"
	stateDeleted   state = "deleted"
)

// kind is the flow that an order belongs to.
type kind string

const (
	kindPackage  kind = "package"  // CAS, quota of a ProductCode
	kindInstance kind = "instance" // CAS, CreateDVOrderAudit
	kindSSL      kind = "ssl"      // Tencent, a bought certificate
	kindFree     kind = "free"     // Tencent, ApplyCertificate
)

// owner is a main account. Books, limits and lists belong to it.
type owner struct {
	Cloud string `json:"cloud"`
	UID   string `json:"uid"`
}

// order is one application for a certificate, or something bought that may become
// one. Values are replaced as a whole, never changed in place: see books.change.
type order struct {
	Kind     kind   `json:"kind"`
	Owner    owner  `json:"owner"`
	ID       string `json:"id"`               // OrderId, InstanceId or CertificateId
	Number   int64  `json:"number,omitempty"` // CAS: OrderId, AliyunOrderId or instance list id
	Instance string `json:"instance,omitempty"`
	By       string `json:"by,omitempty"`      // id of the caller that ordered it; empty: it was bought, and nobody has
	CertID   int64  `json:"cert_id,omitempty"` // CAS CertificateId, once issued
	Product  string `json:"product,omitempty"`

	Names  []string `json:"names,omitempty"`
	Method string   `json:"method,omitempty"` // DNS, DNS_AUTO or FILE
	CSR    string   `json:"csr,omitempty"`
	KeyFP  string   `json:"key_fp,omitempty"`  // hex SHA-256 of the SubjectPublicKeyInfo
	KeyAlg string   `json:"key_alg,omitempty"` // the kind of key that the cloud makes
	Key    string   `json:"key,omitempty"`     // PEM, only when the cloud made it
	Leaf   string   `json:"leaf,omitempty"`    // PEM

	// Of the leaf, so that lists need not parse it.
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	LeafAlg   string    `json:"leaf_alg,omitempty"` // RSA or ECDSA

	State      state       `json:"state"`
	Before     state       `json:"before,omitempty"` // what lists show until ShownAt
	ShownAt    time.Time   `json:"shown_at,omitzero"`
	VisibleAt  time.Time   `json:"visible_at,omitzero"` // lists do not show it earlier
	Challenges []challenge `json:"challenges,omitempty"`
	Reason     string      `json:"reason,omitempty"`

	Created     time.Time `json:"created,omitzero"`
	ChallengeAt time.Time `json:"challenge_at,omitzero"`
	Deadline    time.Time `json:"deadline,omitzero"`
	ValidatedAt time.Time `json:"validated_at,omitzero"`
	IssueAt     time.Time `json:"issue_at,omitzero"`
	IssuedAt    time.Time `json:"issued_at,omitzero"`
	ChangedAt   time.Time `json:"changed_at,omitzero"` // when State was entered

	Counted  bool   `json:"counted,omitempty"`  // it spent quota
	Returned bool   `json:"returned,omitempty"` // the quota came back
	Limit    int    `json:"limit,omitempty"`    // names it may bind, 0 = any
	Type     int    `json:"type,omitempty"`     // Tencent DomainType, 0 = any
	CertType string `json:"cert_type,omitempty"`

	// Tencent only.
	Origin   string            `json:"origin,omitempty"` // the certificate that it follows
	Alias    string            `json:"alias,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	CAOrder  string            `json:"ca_order,omitempty"`
	Filled   bool              `json:"filled,omitempty"` // materials were submitted
	Email    string            `json:"email,omitempty"`
	DropAuto bool              `json:"drop_auto,omitempty"` // DeleteDnsAutoRecord
}

// challenge is one proof of control. Proving it proves every name in For.
type challenge struct {
	For    []string `json:"for"`
	Type   string   `json:"type"` // TXT, CNAME or FILE
	Name   string   `json:"name"` // record name, or host of the file
	Path   string   `json:"path,omitempty"`
	Value  string   `json:"value"`
	Proved bool     `json:"proved,omitempty"`
}

func (o *order) key() string { return string(o.Kind) + "/" + o.ID }

// listed is the state that lists show, which lag behind.
func (o *order) listed(now time.Time) state {
	if o.Before != "" && now.Before(o.ShownAt) {
		return o.Before
	}
	return o.State
}

// visible says whether lists know the order at all.
func (o *order) visible(now time.Time) bool {
	return o.State != stateDeleted && !now.Before(o.VisibleAt)
}

// challenged says whether the challenge is shown by now.
func (o *order) challenged(now time.Time) bool {
	return o.State == statePending && !now.Before(o.ChallengeAt)
}

// open is the first challenge that is not proved. CAS has room for one only.
func (o *order) open() challenge {
	for _, c := range o.Challenges {
		if !c.Proved {
			return c
		}
	}
	if len(o.Challenges) == 0 {
		return challenge{}
	}
	return o.Challenges[0]
}

// waiting says whether time alone, or a proof, can still move the order.
func (o *order) waiting() bool { return o.State == statePending || o.State == stateReview }

// clone is a copy whose challenges may be changed.
func (o *order) clone() *order {
	c := *o
	c.Challenges = slices.Clone(o.Challenges)
	return &c
}
