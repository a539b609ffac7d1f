package cloudsim

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Fault is a rule by which calls go wrong.
type Fault struct {
	Cloud  string `json:"cloud,omitempty"`  // "" = both
	Action string `json:"action,omitempty"` // "" = any
	Kind   string `json:"kind"`             // see FaultKinds
	// Probability that a call is hit; 0 means always.
	Probability float64 `json:"probability,omitempty"`
	// Times is how many calls are hit at most; 0 means any number.
	Times int `json:"times,omitempty"`
	// Seconds of a stall (default 1).
	Seconds float64 `json:"seconds,omitempty"`
	// Commit overrides whether the call takes effect: "before" the fault (it does)
	// or "never". By default each kind does what FaultKinds says.
	Commit string `json:"commit,omitempty"`

	// Hits counts the calls that were hit.
	Hits int `json:"hits,omitempty"`
}

// FaultKinds are the kinds, and whether the call takes effect all the same.
var FaultKinds = map[string]bool{
	"reset_before_commit": false, // TCP reset, nothing happened
	"reset_after_commit":  true,  // TCP reset, the call was carried out
	"http_500":            true,  // the cloud's own error body with status 500 (Tencent: InternalError)
	"http_502_html":       true,  // a proxy's error page
	"throttle":            false, // as if the limit were reached
	"empty_200":           true,
	"truncated":           true,  // half of the answer, then the end
	"wrong_type":          true,  // every value has a type that nobody expects
	"numeric_code":        false, // {"Code": 500}, which panics Alibaba's SDK
	"code_in_200":         false, // an error's body under status 200 (Tencent: no Response)
	"stall":               true,  // carried out, answered Seconds later
	"nonce_used":          true,  // SignatureNonceUsed, as if a replay came first
	"redirect_307":        false, // sends the caller to the same place again
	"stale_close":         true,  // answered, then the kept-alive connection closes
}

// faultList holds the rules. The zero value has none.
type faultList struct {
	mu    sync.Mutex
	rules []*Fault
}

func (l *faultList) add(f Fault) error {
	commits, known := FaultKinds[f.Kind]
	if !known {
		return fmt.Errorf("unknown fault kind %q", f.Kind)
	}
	switch f.Commit {
	case "":
		f.Commit = "never"
		if commits {
			f.Commit = "before"
		}
	case "before", "never":
	default:
		return fmt.Errorf("commit %q is neither before nor never", f.Commit)
	}
	setIfZero(&f.Probability, 1)
	setIfZero(&f.Seconds, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rules = append(l.rules, &f)
	return nil
}

// draw picks the fault of this call, if any: the first rule that fits and hits.
func (l *faultList) draw(cloud, action string, d *dice) *Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.rules {
		fits := (f.Cloud == "" || f.Cloud == cloud) && (f.Action == "" || f.Action == action)
		spent := f.Times > 0 && f.Hits >= f.Times
		if !fits || spent || !d.hit(f.Probability) {
			continue
		}
		f.Hits++
		hit := *f
		return &hit
	}
	return nil
}

func (l *faultList) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rules = nil
}

func (l *faultList) snapshot() []Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Fault, 0, len(l.rules))
	for _, f := range l.rules {
		all = append(all, *f)
	}
	return slices.Clip(all)
}

func (f *Fault) stall() time.Duration { return time.Duration(f.Seconds * float64(time.Second)) }
