package cloudsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"
)

// The control port is no part of any cloud. Everything on it is a method of Sim
// as well. Bodies and answers are JSON; a refusal has status 400 and {"error":
// "a sentence"}.
//
//	GET    /health    who listens where
//	GET    /root      the root certificate, PEM
//	GET    /report    Report; ?orders=false leaves out the single orders,
//	                  ?records=false the single DNS records
//	GET    /records   the DNS records that the APIs left behind: []RecordReport
//	POST   /records   writes a ConsoleRecord, which no API key wrote
//	DELETE /records   ?id= removes one behind the back of whoever wrote it
//	GET    /faults    the rules and how often each hit
//	POST   /faults    adds a Fault
//	DELETE /faults    removes all
//	GET    /settings  Config, without accounts
//	POST   /settings  changes the settings that are named in the body
//	GET    /accounts  the accounts, without secrets
//	POST   /accounts  adds an Account, or replaces what its access key has
//	POST   /stock     Stock: buys more for a main account
//	POST   /reset     forgets everything but CA, settings and configured accounts

// controlMux is the control port.
func (s *Sim) controlMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", shows(func(*http.Request) any {
		return map[string]string{"status": "ok", "aliyun": s.AliyunURL(), "tencent": s.TencentURL(), "dns": s.DNSAddr()}
	}))
	mux.HandleFunc("GET /root", func(w http.ResponseWriter, _ *http.Request) {
		reply{http.StatusOK, "application/x-pem-file", s.RootPEM()}.send(w)
	})
	mux.HandleFunc("GET /report", shows(func(r *http.Request) any {
		report := s.Report()
		if r.URL.Query().Get("orders") == "false" {
			report.Orders = nil
		}
		if r.URL.Query().Get("records") == "false" {
			report.DNS.Records = nil
		}
		return report
	}))
	mux.HandleFunc("GET /records", shows(func(*http.Request) any { return s.Records() }))
	mux.HandleFunc("POST /records", takes(func(in ConsoleRecord) error { _, err := s.AddRecord(in); return err }))
	mux.HandleFunc("DELETE /records", func(w http.ResponseWriter, r *http.Request) {
		answerControl(w, s.DropRecord(r.URL.Query().Get("id")))
	})
	mux.HandleFunc("GET /faults", shows(func(*http.Request) any { return s.Faults() }))
	mux.HandleFunc("POST /faults", takes(s.AddFault))
	mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) {
		s.ClearFaults()
		answerControl(w, nil)
	})
	mux.HandleFunc("GET /settings", shows(func(*http.Request) any { return s.Settings() }))
	mux.HandleFunc("POST /settings", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControl))
		if err == nil {
			err = s.changeSettings(body)
		}
		answerControl(w, err)
	})
	mux.HandleFunc("GET /accounts", shows(func(*http.Request) any { return s.publicAccounts() }))
	mux.HandleFunc("POST /accounts", takes(s.AddAccount))
	mux.HandleFunc("POST /stock", takes(s.AddStock))
	mux.HandleFunc("POST /reset", func(w http.ResponseWriter, _ *http.Request) { answerControl(w, s.Reset()) })
	return mux
}

// maxControl bounds a body. Thousands of certificates may be stocked at once.
const maxControl = 16 << 20

func shows(read func(*http.Request) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { jsonReply(http.StatusOK, read(r)).send(w) }
}

func takes[T any](apply func(T) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in T
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControl))
		dec.DisallowUnknownFields()
		err := dec.Decode(&in)
		if err == nil && dec.More() {
			err = errors.New("there is more than one JSON value")
		}
		if err != nil {
			answerControl(w, fmt.Errorf("the body cannot be read: %w", err))
			return
		}
		answerControl(w, apply(in))
	}
}

func answerControl(w http.ResponseWriter, err error) {
	if err != nil {
		jsonReply(http.StatusBadRequest, map[string]string{"error": err.Error()}).send(w)
		return
	}
	jsonReply(http.StatusOK, map[string]string{"status": "ok"}).send(w)
}

// AddFault adds a rule by which calls go wrong; it ends with the run.
func (s *Sim) AddFault(f Fault) error {
	switch {
	case f.Cloud != "" && f.Cloud != cloudAliyun && f.Cloud != cloudTencent:
		return fmt.Errorf("cloud %q is neither %s nor %s; leave it out for both", f.Cloud, cloudAliyun, cloudTencent)
	case f.Probability < 0 || f.Probability > 1:
		return fmt.Errorf("probability %v is not between 0 and 1", f.Probability)
	case f.Times < 0 || f.Seconds < 0:
		return errors.New("times and seconds cannot be negative")
	case f.Hits != 0:
		return errors.New("hits are counted, not set")
	}
	if _, known := FaultKinds[f.Kind]; !known {
		return fmt.Errorf("kind %q is none of %v", f.Kind, sortedKeys(FaultKinds))
	}
	return s.faults.add(f)
}

// Faults are the rules, with what they hit so far.
func (s *Sim) Faults() []Fault { return s.faults.snapshot() }

// ClearFaults removes all rules.
func (s *Sim) ClearFaults() { s.faults.clear() }

// Settings are the settings in force. Accounts are left out: see Accounts.
func (s *Sim) Settings() Config {
	c := s.cfg().clone()
	c.Accounts = nil
	return c
}

// clone is a copy that shares no slice or map.
func (c *Config) clone() Config {
	d := *c
	d.Limits, d.Zones, d.Records = maps.Clone(c.Limits), slices.Clone(c.Zones), slices.Clone(c.Records)
	d.RefuseNames, d.Accounts = slices.Clone(c.RefuseNames), slices.Clone(c.Accounts)
	d.Unknown = slices.Clone(c.Unknown)
	return d
}

// SetConfig changes settings while the simulator runs. Addresses, Dir, Seed,
// Accounts and Logger cannot change; edit gets a copy of what is in force.
func (s *Sim) SetConfig(edit func(*Config)) error {
	return s.editConfig(func(c *Config) error { edit(c); return nil })
}

func (s *Sim) editConfig(edit func(*Config) error) error {
	s.setting.Lock()
	defer s.setting.Unlock()
	old := s.cfg()
	next := old.clone()
	next.Accounts = nil
	if err := edit(&next); err != nil {
		return err
	}
	if next.Accounts != nil {
		return errors.New("accounts are not changed by settings: POST them to /accounts, and what they buy to /stock")
	}
	for _, f := range []struct {
		name string
		same bool
	}{
		{"aliyun_addr", next.AliyunAddr == old.AliyunAddr},
		{"tencent_addr", next.TencentAddr == old.TencentAddr},
		{"dns_addr", next.DNSAddr == old.DNSAddr},
		{"control_addr", next.ControlAddr == old.ControlAddr},
		{"dir", next.Dir == old.Dir},
		{"seed", next.Seed == old.Seed},
	} {
		if !f.same {
			return fmt.Errorf("%s cannot change while the simulator runs: start it anew", f.name)
		}
	}
	next.Accounts, next.Logger = old.Accounts, old.Logger
	next, err := next.withDefaults()
	if err != nil {
		return err
	}
	s.settings.Store(&next)
	return nil
}

// changeSettings lays the members of a JSON object over the settings in force.
func (s *Sim) changeSettings(body []byte) error {
	return s.editConfig(func(c *Config) error {
		var alone Config
		for _, into := range []*Config{&alone, c} {
			dec := json.NewDecoder(bytes.NewReader(body))
			dec.DisallowUnknownFields()
			if err := dec.Decode(into); err != nil {
				return fmt.Errorf("the body cannot be read: %w", err)
			}
		}
		if alone.Records != nil { // a list is decoded over the members of the old one
			c.Records = alone.Records
		}
		return nil
	})
}

// publicAccounts leaves out the secrets: whoever configured them knows them.
func (s *Sim) publicAccounts() []Account {
	all := s.Accounts()
	for i := range all {
		all[i].AccessKeySecret, all[i].Token = "", ""
	}
	return all
}

// AddAccount makes an access key known, or replaces what is known under it; what
// was ordered stays.
func (s *Sim) AddAccount(a Account) error {
	if err := a.check(); err != nil {
		return err
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	if old := s.books.byKey[a.AccessKeyID]; old != nil && (old.Cloud != a.Cloud || old.UID != a.UID) {
		return fmt.Errorf("access key %s belongs to %s account %s already", a.AccessKeyID, old.Cloud, old.UID)
	}
	return s.books.keep(a, s.dice)
}

// keep admits an account for good, with what it bought. Callers hold the lock.
func (b *books) keep(a Account, dice *dice) error {
	if err := b.journal.put("account", a.AccessKeyID, a); err != nil {
		return err
	}
	b.extra[a.AccessKeyID] = true
	b.admit(a)
	return b.stock(a, dice)
}

// Stock is what a main account buys.
type Stock struct {
	Cloud string `json:"cloud"`
	UID   string `json:"uid"`
	// Products are added to what was bought of each product.
	Products     map[string]int `json:"products,omitempty"`
	Instances    []Instance     `json:"instances,omitempty"`
	Certificates []Certificate  `json:"certificates,omitempty"`
}

// AddStock buys. From then on the state folder, not the config, says what the
// account's first access key has.
func (s *Sim) AddStock(in Stock) error {
	if in.Cloud == cloudAliyun && len(in.Certificates) > 0 || in.Cloud == cloudTencent && len(in.Instances) > 0 {
		return errors.New("instances are sold by aliyun, certificates by tencent")
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	i := slices.IndexFunc(s.books.accounts, func(a Account) bool { return a.Cloud == in.Cloud && a.UID == in.UID })
	if i < 0 {
		return fmt.Errorf("there is no %q account with uid %q: POST it to /accounts first", in.Cloud, in.UID)
	}
	own := owner{in.Cloud, in.UID}
	if err := s.books.unknown(in); err != nil {
		return err
	}
	a := s.books.accounts[i]
	a.Products = maps.Clone(a.Products)
	if a.Products == nil {
		a.Products = map[string]int{}
	}
	for product, n := range in.Products {
		most, _ := s.books.quota(own, product)
		if most+n < 0 {
			return fmt.Errorf("product %s has %d: %d less is not possible", product, most, -n)
		}
		a.Products[product] = most + n
	}
	a.Instances = slices.Concat(a.Instances, in.Instances)
	a.Certificates = slices.Concat(a.Certificates, in.Certificates)
	return s.books.keep(a, s.dice)
}

// unknown refuses ids that are empty or taken. Callers hold the lock.
func (b *books) unknown(in Stock) error {
	keys := map[string]string{}
	for _, i := range in.Instances {
		keys[i.ID] = string(kindInstance) + "/" + i.ID
	}
	for _, c := range in.Certificates {
		keys[c.ID] = string(kindSSL) + "/" + c.ID
	}
	for id, key := range keys {
		if id == "" || b.orders[key] != nil {
			return fmt.Errorf("id %q is empty or taken", id)
		}
	}
	if len(keys) != len(in.Instances)+len(in.Certificates) {
		return errors.New("an id is there twice")
	}
	return nil
}

// Reset forgets orders, records, calls and faults, and accounts that came later.
// CA and settings stay, and what the configured accounts bought is there anew.
func (s *Sim) Reset() error {
	s.agenda.clear()
	s.faults.clear()
	s.meter.reset()
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	if err := s.books.journal.wipe(); err != nil {
		return err
	}
	s.books.clear()
	s.books.swept = time.Time{}
	for _, a := range s.cfg().Accounts {
		s.books.admit(a)
	}
	for _, a := range s.cfg().Accounts {
		if err := s.books.stock(a, s.dice); err != nil {
			return err
		}
	}
	return nil
}
