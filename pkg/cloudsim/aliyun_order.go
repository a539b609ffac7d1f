package cloudsim

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What CAS's creating operations share: reading an application, refusing what
// the documents rule out, and the challenges.

const (
	maxPackageNames = 5  // CreateCertificateForPackageRequest, Domain
	maxTags         = 20 // CreateCertificateForPackageRequest, Tags
	filePath        = "/.well-known/pki-validation/fileauth.txt"
	recordLabel     = "_dnsauth"
)

func errNotFoundOrder() error {
	return refuse(http.StatusNotFound, "NotFoundOrder", "The specified certificate order was not found.")
}

func errOrderState() error {
	return refuse(http.StatusForbidden, "OrderStateError", "The status of the certificate order is invalid.")
}

// application reads what the three creating operations of 2020-04-07 have in
// common. It may still name a product that was not bought.
func (s *Sim) application(c *rpcCall) (*order, error) {
	o := &order{Kind: kindPackage, Owner: c.own, By: c.key.caller(), Product: c.params["ProductCode"], Method: c.params["ValidateType"]}
	setIfZero(&o.Product, defaultProduct)
	setIfZero(&o.Method, methodDNS)
	var err error
	if o.Names, o.CSR, err = s.boundNames(c); err != nil {
		return nil, err
	}
	if err := checkCASPackage(o.Names, productOf(o.Product)); err != nil {
		return nil, err
	}
	if err := checkCASMethod("ValidateType", o.Method, o.Names); err != nil {
		return nil, err
	}
	if err := c.checkContact("Phone"); err != nil {
		return nil, err
	}
	o.Email = c.params["Email"]
	o.Tags, err = c.tags()
	return o, err
}

// boundNames are the names that the certificate will have. A CSR wins over
// Domain, and the documents bind its CN and nothing else.
func (s *Sim) boundNames(c *rpcCall) ([]string, string, error) {
	text := c.params["Csr"]
	if text == "" {
		if c.params["Domain"] == "" {
			return nil, "", refuse(http.StatusBadRequest, "MissingDomain", "Domain and Csr must not both be empty.")
		}
		names, err := parseNames(c.params["Domain"])
		if err != nil {
			return nil, "", rpcInvalid("Domain", err.Error())
		}
		return names, "", nil
	}
	csr, err := parseCSR(text)
	if err != nil {
		return nil, "", rpcInvalid("Csr", err.Error())
	}
	list := csr.Subject.CommonName
	if s.cfg().CSRSANs {
		list = strings.Join(append([]string{list}, csr.DNSNames...), ",")
	}
	names, err := parseNames(list)
	if err != nil {
		return nil, "", rpcInvalid("Csr", err.Error())
	}
	return names, text, nil
}

// checkCASPackage holds the names against the rules of Domain and ProductCode.
func checkCASPackage(names []string, p product) error {
	switch wild := countWildcards(names); {
	case len(names) > maxPackageNames:
		return rpcInvalid("Domain", fmt.Sprintf("%d names, and no more than %d may be ordered together", len(names), maxPackageNames))
	case mixed(names):
		return rpcInvalid("Domain", "single names and wildcards may not be ordered together")
	case p.Wildcard && wild == 0:
		return rpcInvalid("ProductCode", p.Code+" certifies wildcards only")
	case !p.Wildcard && wild > 0:
		return rpcInvalid("ProductCode", p.Code+" certifies single names only")
	case p.Free && len(names) > 1:
		return rpcInvalid("ProductCode", p.Code+" certifies one name")
	}
	return nil
}

func checkCASMethod(param, method string, names []string) error {
	switch {
	case method != methodDNS && method != methodFILE:
		return rpcInvalid(param, "it is neither DNS nor FILE")
	case method == methodFILE && countWildcards(names) > 0:
		return rpcInvalid(param, "a wildcard cannot be validated by file")
	}
	return nil
}

// checkContact looks at the contact as far as it is given; what is left out comes
// from the console's contacts.
func (c *rpcCall) checkContact(phone string) error {
	if mail := c.params["Email"]; mail != "" {
		local, domain, ok := strings.Cut(mail, "@")
		if !ok || local == "" || !strings.Contains(domain, ".") || strings.ContainsAny(mail, " \t\r\n,") {
			return rpcInvalid("Email", "it is no address")
		}
	}
	if strings.Trim(c.params[phone], "0123456789+- ") != "" {
		return rpcInvalid(phone, "it is no phone number")
	}
	return nil
}

// tags reads Tags.N.Key and Tags.N.Value, N from 1 to 20.
func (c *rpcCall) tags() (map[string]string, error) {
	var tags map[string]string
	for name := range c.params {
		rest, is := strings.CutPrefix(name, "Tags.")
		if !is {
			continue
		}
		index, part, _ := strings.Cut(rest, ".")
		n, err := strconv.Atoi(index)
		if err != nil || n < 1 || n > maxTags || (part != "Key" && part != "Value") {
			return nil, rpcInvalid(name, fmt.Sprintf("tags are Tags.N.Key and Tags.N.Value, N from 1 to %d", maxTags))
		}
		key := c.params["Tags."+index+".Key"]
		if key == "" {
			return nil, rpcInvalid(name, "the tag has no key")
		}
		if tags == nil {
			tags = map[string]string{}
		}
		tags[key] = c.params["Tags."+index+".Value"]
	}
	return tags, nil
}

// place puts a package order into the books, if there is quota for it. The quota
// counts from here on, issued or not.
func (s *Sim) place(o *order) (rpcFields, error) {
	challenges := s.casChallenges(o.Names, o.Method, s.pickType(s.cfg().CASRecordType))
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	bought, known := s.books.quota(o.Owner, o.Product)
	if !known || bought == 0 {
		return nil, refuse(http.StatusNotFound, "NotFoundPackage", "No certificate resource plans were purchased.")
	}
	if s.books.usage(o.Owner, o.Product).used() >= bought {
		return nil, refuse(http.StatusNotFound, "NotRemainCount", "The certificate quota is insufficient.")
	}
	now := time.Now()
	o.Number = s.books.freshNumber(s.dice)
	o.ID = strconv.FormatInt(o.Number, 10)
	o.Instance = "cas-cn-" + s.dice.text(12, lowerAndDigits)
	o.CertType, o.Challenges, o.Counted = productOf(o.Product).CertType, challenges, true
	o.State, o.Created, o.VisibleAt = stateBought, now, now.Add(s.dice.in(s.cfg().ListLag))
	s.apply(o)
	if err := s.seeZones(o); err != nil {
		return nil, err
	}
	if err := s.books.add(o); err != nil {
		return nil, err
	}
	return rpcFields{"OrderId": o.Number}, nil
}

// seeZones makes the zones of the ordered names. Callers hold the lock.
func (s *Sim) seeZones(o *order) error {
	for _, name := range o.Names {
		if err := s.demandZone(o.Owner, base(name)); err != nil {
			return err
		}
	}
	return nil
}

// casChallenges are the proofs for names: a record, or a file, for each name or
// wildcard's parent. Names below one with a record of its own are proved by it,
// as the CA/B Forum allows for DNS and not for files (BR 3.2.2.4.7, .18). All of
// an order have the same value.
func (s *Sim) casChallenges(names []string, method, recordType string) []challenge {
	value := s.token()
	if recordType == typeCNAME && method == methodDNS {
		value = s.cnameTarget()
	}
	var all []challenge
	at := map[string]int{}
	for _, name := range names {
		host := base(name)
		if method == methodDNS {
			host = provedAt(host, names)
		}
		i, known := at[host]
		if !known {
			i = len(all)
			at[host] = i
			all = append(all, casChallenge(host, method, recordType, value))
		}
		all[i].For = append(all[i].For, name)
	}
	return all
}

func casChallenge(host, method, recordType, value string) challenge {
	if method == methodFILE {
		return challenge{Type: typeFILE, Name: host, Path: filePath, Value: value}
	}
	return challenge{Type: recordType, Name: recordLabel + "." + host, Value: value}
}

// provedAt is the highest of the ordered names that host lies below.
func provedAt(host string, names []string) string {
	for _, name := range names {
		if other := base(name); len(other) < len(host) && within(host, other) {
			host = other
		}
	}
	return host
}

// casLeaf is the issued certificate.
func casLeaf(o *order) (*x509.Certificate, error) {
	leaf, err := parseCert(o.Leaf)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", o.key(), err)
	}
	return leaf, nil
}
