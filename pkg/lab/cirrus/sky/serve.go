package sky

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// refusal is an error that the cloud answers with.
type refusal struct {
	status        int
	code, message string
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

func refuse(status int, code, format string, args ...any) error {
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

// actions are what the cloud can be asked.
var actions = map[string]func(*Sky, Account, []byte) (any, error){
	"PlaceOrder": (*Sky).placeOrder,
	"GetOrder":   (*Sky).getOrder,
	"ListOrders": (*Sky).listOrders,
	"GetPlan":    (*Sky).getPlan,
	"WhoAmI":     (*Sky).whoAmI,
}

// unlimited is the action that may be called as often as one likes.
const unlimited = "WhoAmI"

// ServeHTTP answers one call: signature, limit, fault, action.
func (s *Sky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	time.Sleep(s.draw(s.cfg.Latency) / 2)
	action := strings.TrimPrefix(r.URL.Path, "/v1/")
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		return // it broke off: nobody is there to be told
	}
	by, err := s.admit(r, action, body)
	if err != nil {
		s.answer(nil, err).send(w)
		return
	}
	f := s.strike(action)
	if f.spoilsBefore() {
		f.spoil(w, r, s.answer(nil, refuse(http.StatusInternalServerError, "Trouble", "something went wrong")))
		return
	}
	a := s.answer(actions[action](s, by, body))
	time.Sleep(s.draw(s.cfg.Latency) / 2)
	f.spoil(w, r, a)
}

// admit tells who calls, and counts the call.
func (s *Sky) admit(r *http.Request, action string, body []byte) (Account, error) {
	a, known := s.keys[r.Header.Get("Cirrus-Key")]
	at, bad := time.Parse(time.RFC3339, r.Header.Get("Cirrus-Time"))
	age := time.Since(at)
	switch {
	case !known:
		return a, refuse(http.StatusUnauthorized, "UnknownKey", "there is no such key")
	case bad != nil || age > s.cfg.SignatureLife || age < -s.cfg.ClockSkew:
		return a, refuse(http.StatusUnauthorized, "StaleTime", "the time is not now")
	case !hmac.Equal([]byte(sign(a.Secret, r, body)), []byte(r.Header.Get("Cirrus-Signature"))):
		return a, refuse(http.StatusUnauthorized, "BadSignature", "the signature is not the key's")
	case actions[action] == nil || r.Method != http.MethodPost:
		return a, refuse(http.StatusNotFound, "NoSuchAction", "there is no action %.40q", action)
	}
	if !s.count(a.Main, action) {
		return a, refuse(http.StatusTooManyRequests, "TooFast", "at most %d calls a second", s.cfg.Limit)
	}
	return a, nil
}

func sign(secret string, r *http.Request, body []byte) string {
	digest := sha256.Sum256(body)
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = io.WriteString(mac, r.URL.Path+"\n"+r.Header.Get("Cirrus-Time")+"\n"+hex.EncodeToString(digest[:]))
	return hex.EncodeToString(mac.Sum(nil))
}

// answer is a whole one, so that a fault may spoil it.
type answer struct {
	status int
	body   []byte
}

func (s *Sky) answer(result any, err error) answer {
	out := map[string]any{"request": s.name("req")}
	status := http.StatusOK
	if err == nil {
		out["result"] = result
	} else {
		no := &refusal{http.StatusInternalServerError, "Trouble", "something went wrong"}
		errors.As(err, &no)
		status, out["error"] = no.status, map[string]string{"code": no.code, "message": no.message}
	}
	body, err := json.Marshal(out)
	if err != nil {
		status, body = http.StatusInternalServerError, nil
	}
	return answer{status, body}
}

func (a answer) send(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the caller may have gone
}

// read reads a request.
func read[T any](body []byte) (in T, err error) {
	if json.Unmarshal(body, &in) != nil {
		return in, refuse(http.StatusBadRequest, "BadRequest", "the body is no object of this action")
	}
	return in, nil
}

// Fault is a rule by which calls go wrong.
type Fault struct {
	Action string        // empty: any
	Kind   string        // see Kinds
	Share  float64       // of the calls that come to it; 0: all
	Times  int           // 0: any number
	Stall  time.Duration // of a stall

	hits int
}

// Kinds are what may go wrong, and whether the call takes effect all the same.
var Kinds = map[string]bool{
	"reset before commit": false, // the connection breaks, nothing happened
	"reset after commit":  true,  // the connection breaks, the call was carried out
	"empty":               true,  // status 200 and nothing else
	"502":                 true,  // a gateway's page
	"500":                 false, // Trouble
	"throttle":            false, // TooFast
	"stall":               true,  // the answer comes late
}

// Fail adds a rule.
func (s *Sky) Fail(f Fault) error {
	if _, known := Kinds[f.Kind]; !known {
		return fmt.Errorf("no fault is called %q", f.Kind)
	}
	if f.Share == 0 {
		f.Share = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
	return nil
}

// Mend removes all rules and tells how many calls they hit.
func (s *Sky) Mend() (hits int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		hits += f.hits
	}
	s.faults = nil
	return hits
}

// strike is the fault that hits a call; nil for none.
func (s *Sky) strike(action string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		if f.Action != "" && f.Action != action || f.Times > 0 && f.hits >= f.Times || s.dice.Float64() >= f.Share {
			continue
		}
		f.hits++
		hit := *f
		return &hit
	}
	return nil
}

func (f *Fault) spoilsBefore() bool { return f != nil && !Kinds[f.Kind] }

// spoil sends an answer as the fault says. A nil Fault sends it as it is.
func (f *Fault) spoil(w http.ResponseWriter, r *http.Request, a answer) {
	if f == nil {
		a.send(w)
		return
	}
	switch f.Kind {
	case "reset before commit", "reset after commit":
		reset(w)
	case "empty":
		w.WriteHeader(http.StatusOK)
	case "502":
		w.WriteHeader(http.StatusBadGateway)
		_, _ = io.WriteString(w, "<html><body>Bad Gateway</body></html>")
	case "throttle":
		answer{http.StatusTooManyRequests,
			[]byte(`{"request":"req-throttled","error":{"code":"TooFast","message":"too many calls"}}`)}.send(w)
	case "stall":
		select {
		case <-r.Context().Done():
		case <-time.After(f.Stall):
			a.send(w)
		}
	default:
		a.send(w)
	}
}

// reset breaks the connection off.
func reset(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
