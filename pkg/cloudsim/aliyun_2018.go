package cloudsim

import (
	"fmt"
	"strings"
	"time"
)

// createDVOrderAudit applies for a certificate on an instance that was bought. The
// instance is the handle: a second application on it is refused.
func (s *Sim) createDVOrderAudit(c *rpcCall) (rpcFields, error) {
	err := c.require("InstanceId", "Domain", "DomainVerifyType", "Username", "Email", "Mobile", "Province", "City")
	if err != nil {
		return nil, err
	}
	names, err := parseNames(c.params["Domain"])
	if err != nil {
		return nil, rpcInvalid("Domain", err.Error())
	}
	method := c.params["DomainVerifyType"]
	if err := checkCASMethod("DomainVerifyType", method, names); err != nil {
		return nil, err
	}
	if err := c.checkContact("Mobile"); err != nil {
		return nil, err
	}
	challenges := s.casChallenges(names, method, typeTXT)
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	o := s.books.find(c.own, kindInstance, c.params["InstanceId"])
	if o == nil {
		return nil, errNotFoundOrder()
	}
	_, err = s.books.change(o.key(), func(o *order) error {
		if err := fitsInstance(o, names); err != nil {
			return err
		}
		o.By = c.key.caller()
		o.Names, o.Method, o.Challenges, o.Email = names, method, challenges, c.params["Email"]
		s.apply(o)
		return s.seeZones(o)
	})
	return nil, err
}

func fitsInstance(o *order, names []string) error {
	switch {
	case o.State != stateBought:
		return errOrderState()
	case o.CertType != "DV" && o.CertType != "FREE":
		return rpcInvalid("InstanceId", "the instance is not for a DV certificate")
	case o.Limit > 0 && len(names) > o.Limit:
		return rpcInvalid("Domain", fmt.Sprintf("%d names, and the instance binds %d", len(names), o.Limit))
	}
	return nil
}

// describeDVOrderResult says how an application stands. What an instance without
// one answers is not documented; here it has no OrderStatus.
func (s *Sim) describeDVOrderResult(c *rpcCall) (rpcFields, error) {
	if err := c.require("InstanceId"); err != nil {
		return nil, err
	}
	s.books.mu.Lock()
	o := s.books.find(c.own, kindInstance, c.params["InstanceId"])
	s.books.mu.Unlock()
	if o == nil {
		return nil, errNotFoundOrder()
	}
	now := time.Now()
	if s.odd(o, now) {
		return rpcFields{"OrderStatus": strings.ToLower(oddWord)}, nil
	}
	switch o.State {
	case statePending, stateReview:
		return checking(o, now), nil
	case stateIssued:
		return rpcFields{"OrderStatus": "issued", "Certificate": s.ca.chain(o.Leaf), "PrivateKey": o.Key}, nil
	case stateFailed:
		return rpcFields{"OrderStatus": "checked_fail"}, nil
	}
	return nil, nil
}

// checking shows the challenge once it is there. CheckName is the record's whole
// name, as in the documents' sample, or the file's path.
func checking(o *order, now time.Time) rpcFields {
	out := rpcFields{"OrderStatus": "checking"}
	if o.State == statePending && !o.challenged(now) {
		return out
	}
	ch := o.open()
	out["CheckType"], out["CheckName"], out["CheckValue"] = methodDNS, ch.Name, ch.Value
	if ch.Type == typeFILE {
		out["CheckType"], out["CheckName"] = methodFILE, ch.Path
	}
	return out
}

// describeOrderInstanceList lists bought instances from the row StartIndex on,
// counted from 0. How many rows an answer holds at most is not documented; here
// as many as a page of ListUserCertificateOrder.
func (s *Sim) describeOrderInstanceList(c *rpcCall) (rpcFields, error) {
	if err := c.require("StartIndex"); err != nil {
		return nil, err
	}
	start, err := c.number("StartIndex", 0, 0)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	all := s.books.list(c.own, func(o *order) bool { return o.Kind == kindInstance && o.visible(now) && c.key.lists(o) })
	rows := []rpcFields{}
	for _, o := range offsetPage(s.arrange(all), s.start(start), s.cfg().MaxShowSize) {
		rows = append(rows, rpcFields{
			"Id": o.Number % 1_000_000_007, "InstanceId": o.Instance, "CertType": o.CertType,
			"Source": "BUY", "Status": s.listedStatus(o, now),
		})
	}
	return rpcFields{"OrderList": rows, "TotalCount": len(all)}, nil
}
