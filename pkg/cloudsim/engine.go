package cloudsim

import (
	"context"
	"crypto"
	"errors"
	"strings"
	"sync"
	"time"
)

// provers is how many orders are validated or signed at the same time.
const provers = 8

// runAgenda hands out orders as they become due, until ctx ends.
func (s *Sim) runAgenda(ctx context.Context) {
	var busy sync.WaitGroup
	defer busy.Wait()
	free := make(chan struct{}, provers)
	for {
		key := s.agenda.next(ctx)
		if key == "" {
			return
		}
		free <- struct{}{}
		busy.Go(func() {
			s.advance(ctx, key)
			<-free
		})
	}
}

// advance does what is due for one order.
func (s *Sim) advance(ctx context.Context, key string) {
	if strings.HasPrefix(key, batchKey) {
		s.runBatch(key)
		return
	}
	s.books.mu.Lock()
	o := s.books.orders[key]
	s.books.mu.Unlock()
	if o == nil || ctx.Err() != nil {
		return
	}
	now := time.Now()
	switch {
	case o.State == statePending && now.Before(o.ChallengeAt):
		s.agenda.put(key, o.ChallengeAt)
	case o.State == statePending:
		s.validate(ctx, o, now)
	case o.State == stateReview && now.Before(o.IssueAt):
		s.agenda.put(key, o.IssueAt)
	case o.State == stateReview:
		s.decide(ctx, o)
	}
}

// validate tries the open challenges and moves the order on when all are proved.
func (s *Sim) validate(ctx context.Context, o *order, now time.Time) {
	s.placeOwn(o)
	proved := map[string]bool{}
	for _, c := range o.Challenges {
		if !c.Proved && s.prove(ctx, c) == nil {
			proved[c.Name+c.Type] = true
		}
	}
	s.moveOn(o.key(), func(o *order) error {
		if o.State != statePending {
			return errUnchanged // withdrawn meanwhile
		}
		open, news := s.markProved(o, proved)
		switch {
		case open == 0:
			o.ValidatedAt = time.Now()
			o.IssueAt = o.ValidatedAt.Add(s.dice.in(s.cfg().IssueDelay))
			s.enter(o, stateReview)
			s.agenda.put(o.key(), o.IssueAt)
		case now.After(o.Deadline):
			o.Reason = "域名验证超时，订单自动关闭" // the DCV timed out, the order was closed
			s.enter(o, stateFailed)
		default:
			s.agenda.put(o.key(), now.Add(s.patience(o, now)))
			if !news {
				return errUnchanged
			}
		}
		return nil
	})
}

func (s *Sim) markProved(o *order, proved map[string]bool) (open int, news bool) {
	for i, c := range o.Challenges {
		if proved[c.Name+c.Type] && !c.Proved {
			o.Challenges[i].Proved, news = true, true
		}
		if !o.Challenges[i].Proved {
			open++
		}
	}
	return open, news
}

// patience is the time until the next attempt at validation.
func (s *Sim) patience(o *order, now time.Time) time.Duration {
	return max(time.Duration(s.cfg().CheckInterval), now.Sub(o.ChallengeAt)/10)
}

// errUnchanged ends a change that changes nothing.
var errUnchanged = errors.New("unchanged")

// moveOn changes an order on the cloud's own account.
func (s *Sim) moveOn(key string, edit func(*order) error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	if s.books.orders[key] == nil {
		return // reset meanwhile
	}
	if _, err := s.books.change(key, edit); err != nil && !errors.Is(err, errUnchanged) {
		s.log.Error("cloudsim cannot move an order on", "order", key, "error", err)
		s.agenda.put(key, time.Now().Add(time.Second)) // a disk that was full
	}
}

// enter sets a new state, which lists show a little later.
func (s *Sim) enter(o *order, next state) {
	now := time.Now()
	o.Before = o.listed(now)
	o.State, o.ChangedAt, o.ShownAt = next, now, now.Add(s.dice.in(s.cfg().ListLag))
}

// decide is the CA's review: refuse, or issue.
func (s *Sim) decide(ctx context.Context, o *order) {
	if s.refused(o) {
		s.fail(o, "CA机构安全审核未通过，域名不予签发") // the CA's security review refuses the domain
		return
	}
	now := time.Now()
	switch err := s.mayIssue(ctx, o); {
	case errors.Is(err, errForbidden), err != nil && now.After(o.Deadline):
		s.fail(o, "CAA记录检查未通过："+err.Error()) // the CAA check was not passed
		return
	case err != nil:
		s.agenda.put(o.key(), now.Add(s.patience(o, now)))
		return
	}
	if err := s.issue(o); err != nil {
		s.log.Error("cloudsim cannot issue", "order", o.key(), "error", err)
		s.agenda.put(o.key(), time.Now().Add(time.Second))
	}
}

// fail ends an order in review.
func (s *Sim) fail(o *order, reason string) {
	s.moveOn(o.key(), func(o *order) error {
		if o.State != stateReview {
			return errUnchanged
		}
		o.Reason = reason
		s.enter(o, stateFailed)
		return nil
	})
}

func (s *Sim) refused(o *order) bool {
	for _, name := range o.Names {
		for _, suffix := range s.cfg().RefuseNames {
			if within(base(name), strings.ToLower(suffix)) {
				return true
			}
		}
	}
	return s.dice.hit(s.cfg().FailRate)
}

// issue signs outside the lock, since RSA keys take their time, and enters the
// result if the order still waits for it.
func (s *Sim) issue(o *order) error {
	pub, keyPEM, err := s.keyFor(o)
	if err != nil {
		return err
	}
	cert, err := s.ca.issue(o.Names, pub, s.validity(o))
	if err != nil {
		return err
	}
	s.moveOn(o.key(), func(o *order) error {
		if o.State != stateReview {
			return errUnchanged
		}
		o.Leaf, o.Key, o.KeyFP = string(encodeCert(cert.Raw)), keyPEM, fingerprint(pub)
		o.NotBefore, o.NotAfter, o.LeafAlg = cert.NotBefore, cert.NotAfter, cert.PublicKeyAlgorithm.String()
		o.IssuedAt = time.Now()
		if o.Owner.Cloud == cloudAliyun {
			o.CertID = s.books.freshCertID(s.dice)
		}
		s.enter(o, stateIssued)
		if o.DropAuto {
			return s.dropOwn(o)
		}
		return nil
	})
	return nil
}

// keyFor is the CSR's key, or a new one that the cloud keeps.
func (s *Sim) keyFor(o *order) (crypto.PublicKey, string, error) {
	if o.CSR != "" {
		csr, err := parseCSR(o.CSR)
		if err != nil {
			return nil, "", err
		}
		return csr.PublicKey, "", nil
	}
	alg := o.KeyAlg
	setIfZero(&alg, s.cfg().CloudKey)
	key, err := makeKey(alg)
	if err != nil {
		return nil, "", err
	}
	text, err := encodeKey(key)
	return key.Public(), text, err
}

func (s *Sim) validity(o *order) int {
	if o.Kind == kindFree || productOf(o.Product).Free {
		return min(90, s.cfg().ValidityDays)
	}
	return s.cfg().ValidityDays
}

// apply turns a fresh or bought order into an application: it gets its challenges
// and goes on the agenda. Callers hold the lock and store the order.
func (s *Sim) apply(o *order) {
	now, cfg := time.Now(), s.cfg()
	o.ChallengeAt = now.Add(s.dice.in(cfg.ChallengeDelay))
	o.Deadline = o.ChallengeAt.Add(time.Duration(cfg.ValidationDeadline))
	s.enter(o, statePending)
	s.agenda.put(o.key(), o.ChallengeAt)
}

// token is a validation value in the form of the vendors' samples: a date, then
// lower-case letters and digits.
func (s *Sim) token() string {
	return time.Now().UTC().Format("20060102") + "000000" + s.dice.text(50, lowerAndDigits)
}

// cnameTarget has the form of Tencent's sample, <h1>.<h2>.<id>.trust-provider.com.
func (s *Sim) cnameTarget() string {
	return s.dice.hex(32) + "." + s.dice.hex(32) + "." + s.dice.text(14, lowerAndDigits) + ".trust-provider.com"
}

// pickType resolves "mixed".
func (s *Sim) pickType(setting string) string {
	if setting != "mixed" {
		return setting
	}
	if s.dice.hit(0.5) {
		return typeCNAME
	}
	return typeTXT
}

// placeOwn writes the challenges of names in the cloud's own DNS, where the order
// or the setting asks for it.
func (s *Sim) placeOwn(o *order) {
	if o.Method == methodFILE || (o.Method != methodAuto && !s.cfg().SelfValidate) {
		return
	}
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	for _, c := range o.Challenges {
		if err := s.placeChallenge(o, c); err != nil {
			s.log.Error("cloudsim cannot write its own challenge", "order", o.key(), "error", err)
		}
	}
}

func (s *Sim) placeChallenge(o *order, c challenge) error {
	zone, ok := s.zoneOf(o.Owner, c.Name)
	if !ok || (o.Method != methodAuto && len(s.books.named[o.Owner]) == 0) {
		return nil
	}
	for _, r := range s.books.at(o.Owner, c.Name) {
		if r.Type == c.Type && r.Value == c.Value {
			return nil
		}
	}
	now := time.Now()
	return s.books.addRecord(record{
		ID: s.freshRecordID(o.Owner.Cloud), Owner: o.Owner, Zone: zone, RR: relative(c.Name, zone), Type: c.Type,
		Value: c.Value, TTL: 600, Auto: o.key(), Created: now, VisibleAt: now.Add(s.dice.in(s.cfg().DNSLag)),
	})
}

// dropOwn removes the records that the cloud wrote for an order. Callers hold the
// lock.
func (s *Sim) dropOwn(o *order) error {
	for _, c := range o.Challenges {
		for _, r := range s.books.at(o.Owner, c.Name) {
			if r.Auto != o.key() {
				continue
			}
			if err := s.books.dropRecord(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// freshRecordID draws an id that is not taken: alidns shows 18 digits as text,
// DNSPod a small number. Callers hold the lock.
func (s *Sim) freshRecordID(cloud string) uint64 {
	for {
		id := uint64(s.dice.number(1_000_000_000, 1<<40))
		if cloud == cloudAliyun {
			id = uint64(s.dice.number(890_000_000_000_000_000, 899_999_999_999_999_999))
		}
		if _, taken := s.books.records[id]; !taken {
			return id
		}
	}
}
