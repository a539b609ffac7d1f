package cloudsim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Tencent API 3.0 signs with TC3-HMAC-SHA256 (cloud.tencent.com 1278/46696). A
// signature holds for five minutes and has no nonce: within them a replay of the
// same bytes is as good as the first.

const tc3 = "TC3-HMAC-SHA256"

// credential is a parsed Authorization header.
type credential struct {
	secretID, date, service, signature string
	signed                             []string // names of the signed headers
}

var authorization = regexp.MustCompile(`^TC3-HMAC-SHA256 Credential=([^/,\s]+)/(\d{4}-\d\d-\d\d)/([a-z0-9]+)/tc3_request,\s*` +
	`SignedHeaders=([a-z0-9;-]+),\s*Signature=([0-9a-f]{64})$`)

func parseAuthorization(header string) (credential, error) {
	m := authorization.FindStringSubmatch(header)
	if m == nil {
		return credential{}, refuse(0, "AuthFailure.InvalidAuthorization", "The Authorization header does not conform to the Tencent Cloud standard.")
	}
	return credential{secretID: m[1], date: m[2], service: m[3], signed: strings.Split(m[4], ";"), signature: m[5]}, nil
}

// verifyTC3 checks a request's signature and tells who sent it, and to which
// service.
func (s *Sim) verifyTC3(r *http.Request, body []byte, now time.Time) (Account, string, error) {
	for _, name := range []string{"Action", "Version", "Timestamp"} {
		if r.Header.Get("X-TC-"+name) == "" {
			return Account{}, "", lacking(name)
		}
	}
	c, err := parseAuthorization(r.Header.Get("Authorization"))
	if err != nil {
		return Account{}, "", err
	}
	a, err := s.secretOf(c.secretID)
	if err != nil {
		return Account{}, "", err
	}
	if err := s.checkStamp(r.Header.Get("X-TC-Timestamp"), c.date, now); err != nil {
		return Account{}, "", err
	}
	if !slices.Contains(c.signed, "content-type") || !slices.Contains(c.signed, "host") || !slices.IsSorted(c.signed) {
		return Account{}, "", badSignature("SignedHeaders must name content-type and host, in ASCII order.")
	}
	if !hmac.Equal([]byte(c.sign(a.AccessKeySecret, r, body)), []byte(c.signature)) {
		return Account{}, "", badSignature("The provided credentials could not be validated. Please check your signature is correct.")
	}
	if r.Header.Get("X-TC-Token") != a.Token { // only temporary keys have one
		return Account{}, "", refuse(0, "AuthFailure.TokenFailure", "The token is invalid.")
	}
	return a, c.service, nil
}

func badSignature(why string) error { return refuse(0, "AuthFailure.SignatureFailure", "%s", why) }

// secretOf finds an access key. A disabled one is answered like an unknown one.
func (s *Sim) secretOf(id string) (Account, error) {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	a := s.books.byKey[id]
	if a == nil || a.Cloud != cloudTencent || a.Disabled {
		return Account{}, refuse(0, "AuthFailure.SecretIdNotFound", "The SecretId is not found, please ensure that your SecretId is correct.")
	}
	return *a, nil
}

// checkStamp refuses what is too old, or too far in the future, and a credential
// of another day.
func (s *Sim) checkStamp(stamp, date string, now time.Time) error {
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return refuse(0, "InvalidParameter", "X-TC-Timestamp is not a UNIX time in seconds.")
	}
	cfg := s.cfg()
	life, skew := time.Duration(cfg.TencentSignatureLife), time.Duration(cfg.ClockSkew)
	setIfZero(&skew, life)
	signed := time.Unix(seconds, 0)
	if age := now.Sub(signed); age > life || age < -skew {
		return refuse(0, "AuthFailure.SignatureExpire", "The provided credentials have expired: the timestamp differs from the server's time by more than %d seconds.", int(life.Seconds()))
	}
	if signed.UTC().Format(time.DateOnly) != date {
		return badSignature("The date of the Credential is not the UTC date of X-TC-Timestamp.")
	}
	return nil
}

// sign computes the signature that the request should carry. The canonical URI is
// "/" and the query empty, for every POST.
func (c credential) sign(secret string, r *http.Request, body []byte) string {
	var headers strings.Builder
	for _, name := range c.signed {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		headers.WriteString(name + ":" + strings.ToLower(strings.TrimSpace(value)) + "\n")
	}
	canonical := strings.Join([]string{r.Method, "/", "", headers.String(), strings.Join(c.signed, ";"), sha256hex(body)}, "\n")
	scope := c.date + "/" + c.service + "/tc3_request"
	text := strings.Join([]string{tc3, r.Header.Get("X-TC-Timestamp"), scope, sha256hex([]byte(canonical))}, "\n")
	key := []byte("TC3" + secret)
	for _, part := range []string{c.date, c.service, "tc3_request", text} {
		key = hmacSHA256(key, part)
	}
	return hex.EncodeToString(key)
}

func hmacSHA256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func sha256hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
