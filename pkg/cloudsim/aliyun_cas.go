package cloudsim

import (
	"net/http"
	"strconv"
	"time"
)

// The operations of CAS 2020-04-07 on single orders.

// createForPackage is CreateCertificateForPackageRequest.
func (s *Sim) createForPackage(c *rpcCall) (rpcFields, error) {
	o, err := s.application(c)
	if err != nil {
		return nil, err
	}
	return s.place(o)
}

// createWithCsr is CreateCertificateWithCsrRequest: DV only, the CSR required,
// and its CN the only name even where Domain is sent.
func (s *Sim) createWithCsr(c *rpcCall) (rpcFields, error) {
	return s.createDV(c, "Csr")
}

// createCertificateRequest is CreateCertificateRequest: DV only, the cloud makes
// the key.
func (s *Sim) createCertificateRequest(c *rpcCall) (rpcFields, error) {
	delete(c.params, "Csr") // it knows none, and unknown parameters are ignored
	return s.createDV(c, "Domain")
}

func (s *Sim) createDV(c *rpcCall, names string) (rpcFields, error) {
	if err := c.require(names, "Username", "Phone", "Email", "ValidateType"); err != nil {
		return nil, err
	}
	o, err := s.application(c)
	if err != nil {
		return nil, err
	}
	if p := productOf(o.Product); p.CertType != "DV" && !p.Free {
		return nil, rpcInvalid("ProductCode", p.Code+" is no DV certificate")
	}
	return s.place(o)
}

// packageOrder finds the order that OrderId names.
func (s *Sim) packageOrder(c *rpcCall) (*order, error) {
	if err := c.require("OrderId"); err != nil {
		return nil, err
	}
	id, err := strconv.ParseInt(c.params["OrderId"], 10, 64)
	if err != nil {
		return nil, rpcInvalid("OrderId", "it is no whole number")
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	o := s.books.find(c.own, kindPackage, strconv.FormatInt(id, 10))
	if o == nil {
		return nil, errNotFoundOrder()
	}
	return o, nil
}

// describeCertificateState says how an order stands. There is no type for a
// revoked one, so it is "unknow", as the documents spell it.
func (s *Sim) describeCertificateState(c *rpcCall) (rpcFields, error) {
	o, err := s.packageOrder(c)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	switch {
	case s.odd(o, now):
		return rpcFields{"Type": "unknow"}, nil
	case o.challenged(now):
		return s.domainVerify(o), nil
	case o.State == statePending, o.State == stateBought, o.State == stateWithdrawn:
		return rpcFields{"Type": "payed"}, nil
	case o.State == stateReview:
		return rpcFields{"Type": "process"}, nil
	case o.State == stateFailed:
		return rpcFields{"Type": "verify_fail"}, nil
	case o.State == stateIssued:
		return rpcFields{"Type": "certificate", "Certificate": s.ca.chain(o.Leaf), "PrivateKey": o.Key,
			"CertId": strconv.FormatInt(o.CertID, 10)}, nil
	}
	return rpcFields{"Type": "unknow"}, nil
}

// domainVerify shows one challenge, for which alone the answer has room; when it
// is proved, the next.
func (s *Sim) domainVerify(o *order) rpcFields {
	ch := o.open()
	if ch.Type == typeFILE {
		return rpcFields{"Type": "domain_verify", "ValidateType": methodFILE, "Domain": ch.Name, "Uri": ch.Path, "Content": ch.Value}
	}
	name := ch.Name
	if s.cfg().RelativeRecordDomain {
		name = recordLabel
	}
	return rpcFields{"Type": "domain_verify", "ValidateType": methodDNS, "RecordDomain": name, "RecordType": ch.Type, "RecordValue": ch.Value}
}

// cancelOrderRequest takes an application back while it is validated or reviewed:
// the order is payed again. Its quota returns only when it is deleted.
func (s *Sim) cancelOrderRequest(c *rpcCall) (rpcFields, error) {
	return s.changePackageOrder(c, func(o *order) error {
		if !o.waiting() {
			return errOrderState()
		}
		s.enter(o, stateWithdrawn)
		return s.dropOwn(o)
	})
}

// deleteCertificateRequest removes an order that failed or was taken back, and
// returns its quota. One that is payed only because its application has just been
// sent may not be deleted, as an implementer found out.
func (s *Sim) deleteCertificateRequest(c *rpcCall) (rpcFields, error) {
	return s.changePackageOrder(c, func(o *order) error {
		if o.State != stateFailed && o.State != stateWithdrawn {
			return errOrderState()
		}
		s.enter(o, stateDeleted)
		o.Returned = true
		return s.dropOwn(o)
	})
}

// refundDays is how long after issue a revocation returns the quota
// (CancelCertificateForPackageRequest).
const refundDays = 30

// cancelForPackage revokes an issued certificate, or takes back an order that is
// not issued and returns its quota.
func (s *Sim) cancelForPackage(c *rpcCall) (rpcFields, error) {
	return s.changePackageOrder(c, func(o *order) error {
		switch {
		case o.State == stateIssued:
			s.enter(o, stateRevoked)
			o.Returned = time.Since(o.IssuedAt) <= refundDays*24*time.Hour
		case o.waiting():
			s.enter(o, stateWithdrawn)
			o.Returned = true
		case o.State == stateWithdrawn && !o.Returned:
			o.Returned = true
		default:
			return errOrderState()
		}
		return s.dropOwn(o)
	})
}

func (s *Sim) changePackageOrder(c *rpcCall, edit func(*order) error) (rpcFields, error) {
	o, err := s.packageOrder(c)
	if err != nil {
		return nil, err
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	if s.books.find(c.own, kindPackage, o.ID) == nil {
		return nil, errNotFoundOrder() // deleted in between
	}
	_, err = s.books.change(o.key(), edit)
	return nil, err
}

// describePackageState counts a product's quota: bought, submitted and not
// returned, issued.
func (s *Sim) describePackageState(c *rpcCall) (rpcFields, error) {
	code := c.params["ProductCode"]
	setIfZero(&code, defaultProduct)
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	if n, known := s.books.quota(c.own, code); !known || n == 0 {
		return nil, refuse(http.StatusNotFound, "NotFoundPackage", "No certificate resource plans were purchased.")
	}
	u := s.books.usage(c.own, code)
	return rpcFields{"ProductCode": code, "TotalCount": u.bought, "UsedCount": u.used(), "IssuedCount": u.issued}, nil
}
