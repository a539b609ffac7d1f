package cloudsim

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Alibaba's RPC signature, version 1.0, written from the vendor's pages "Request
// syntax and signature method V2 for RPC" (help.aliyun.com 30563, 31950). Error
// codes are those of the gateway (error-center.aliyun.com, common errors); each
// missing common parameter has a code of its own, Missing<name>.

// rpcTime is the only form of Timestamp, always UTC.
const rpcTime = "2006-01-02T15:04:05Z"

// maxRPCBody is more than any form here needs; a CSR has some 2 kB.
const maxRPCBody = 1 << 20

// rpcCall is one request whose parameters were read.
type rpcCall struct {
	method string
	host   string // as the caller wrote it
	own    owner
	key    Account
	params map[string]string // of query and form
}

func (c *rpcCall) action() string  { return c.params["Action"] }
func (c *rpcCall) version() string { return c.params["Version"] }
func (c *rpcCall) hand() hand      { return hand{c.key.AccessKeyID, c.action()} }

// readRPC reads the parameters of query and form, which are signed together.
func readRPC(w http.ResponseWriter, r *http.Request) (*rpcCall, error) {
	c := &rpcCall{method: r.Method, host: r.Host, params: map[string]string{}}
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return c, refuse(http.StatusBadRequest, "UnsupportedHTTPMethod", "This http method is not supported.")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRPCBody)
	if err := r.ParseForm(); err != nil {
		return c, refuse(http.StatusBadRequest, "InvalidParameter", "The parameters cannot be read: %v", err)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return c, refuse(http.StatusBadRequest, "InvalidParameter", "The query cannot be read: %v", err)
	}
	for _, values := range []url.Values{query, r.PostForm} {
		for name, all := range values {
			if _, again := c.params[name]; again || len(all) != 1 {
				return c, refuse(http.StatusBadRequest, "InvalidParameter", "The parameter %s is given more than once.", name)
			}
			c.params[name] = all[0]
		}
	}
	return c, nil
}

// authenticate fills in whose call it is, or says why it is nobody's.
func (s *Sim) authenticate(c *rpcCall, now time.Time) error {
	if err := c.checkCommon(); err != nil {
		return err
	}
	if err := s.findKey(c); err != nil {
		return err
	}
	at, err := s.checkTimestamp(c.params["Timestamp"], now)
	if err != nil {
		return err
	}
	text := c.stringToSign()
	if !hmac.Equal([]byte(c.params["Signature"]), []byte(rpcSignature(c.key.AccessKeySecret, text))) {
		return refuse(http.StatusBadRequest, "SignatureDoesNotMatch",
			"Specified signature is not matched with our calculation. server string to sign is:%s", text)
	}
	return s.spendRPCNonce(c, at, now)
}

// checkCommon looks for the common parameters, all of which are required but
// Format; without it the real cloud answers in XML, which is not simulated.
func (c *rpcCall) checkCommon() error {
	for _, name := range []string{"Action", "Version", "AccessKeyId", "Signature", "SignatureMethod", "SignatureVersion", "SignatureNonce", "Timestamp"} {
		if c.params[name] == "" {
			return rpcMissing(name)
		}
	}
	switch {
	case c.params["SignatureMethod"] != "HMAC-SHA1":
		return rpcInvalid("SignatureMethod", "only HMAC-SHA1 is signed with")
	case c.params["SignatureVersion"] != "1.0":
		return rpcInvalid("SignatureVersion", "the only version is 1.0")
	case c.params["SignatureType"] != "":
		return rpcInvalid("SignatureType", "a shared secret has none")
	case c.params["Format"] != "JSON":
		return rpcInvalid("Format", "the simulator speaks JSON only")
	}
	return nil
}

func rpcMissing(name string) error {
	return refuse(http.StatusBadRequest, "Missing"+name, "%s is mandatory for this action.", name)
}

// rpcInvalid refuses a parameter. The documents state the rules of the parameters
// but no code for breaking them; this is the gateway's for a bad value.
func rpcInvalid(name, reason string) error {
	return refuse(http.StatusBadRequest, "InvalidParameter", "The specified parameter %s is not valid: %s.", name, reason)
}

func (s *Sim) findKey(c *rpcCall) error {
	s.books.mu.Lock()
	defer s.books.mu.Unlock()
	key := s.books.byKey[c.params["AccessKeyId"]]
	switch {
	case key == nil || key.Cloud != cloudAliyun:
		return refuse(http.StatusNotFound, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
	case key.Disabled:
		return refuse(http.StatusBadRequest, "InvalidAccessKeyId.Inactive", "Specified access key is disabled.")
	case key.Token != "" && c.params["SecurityToken"] == "":
		return rpcMissing("SecurityToken")
	case c.params["SecurityToken"] != key.Token:
		return refuse(http.StatusBadRequest, "InvalidSecurityToken.MismatchWithAccessKey", "Specified SecurityToken mismatch with the AccessKey.")
	}
	c.key, c.own = *key, owner{cloudAliyun, key.UID}
	return nil
}

func (s *Sim) checkTimestamp(text string, now time.Time) (time.Time, error) {
	at, err := time.Parse(rpcTime, text)
	if err != nil || at.Format(rpcTime) != text { // Parse takes fractions of a second
		return at, refuse(http.StatusBadRequest, "InvalidTimeStamp.Format", "Specified time stamp or date value is not well formatted.")
	}
	life, skew := time.Duration(s.cfg().AliyunSignatureLife), time.Duration(s.cfg().ClockSkew)
	setIfZero(&skew, life)
	if now.Sub(at) > life || at.Sub(now) > skew {
		return at, refuse(http.StatusBadRequest, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
	}
	return at, nil
}

// spendRPCNonce refuses a replay. A nonce is remembered for as long as a request
// signed with it would pass.
func (s *Sim) spendRPCNonce(c *rpcCall, at, now time.Time) error {
	until := at.Add(time.Duration(s.cfg().AliyunSignatureLife) + time.Second)
	key := cloudAliyun + "/" + c.key.AccessKeyID + "/" + c.params["SignatureNonce"]
	fresh, err := s.books.spendNonce(key, now, until, rpcActions[c.version()][c.action()].spends)
	if err != nil {
		return err
	}
	if !fresh {
		return errNonceUsed()
	}
	return nil
}

func errNonceUsed() error {
	return refuse(http.StatusBadRequest, "SignatureNonceUsed", "Specified signature nonce was used already.")
}

// stringToSign is METHOD&%2F& and the encoded, sorted parameters, encoded again.
func (c *rpcCall) stringToSign() string {
	names := make([]string, 0, len(c.params))
	for name := range c.params {
		if name != "Signature" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	pairs := make([]string, len(names))
	for i, name := range names {
		pairs[i] = percentEncode(name) + "=" + percentEncode(c.params[name])
	}
	return c.method + "&" + percentEncode("/") + "&" + percentEncode(strings.Join(pairs, "&"))
}

func rpcSignature(secret, text string) string {
	mac := hmac.New(sha1.New, []byte(secret+"&"))
	mac.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// percentEncode keeps the unreserved characters of RFC 3986 and writes every
// other byte as %XY.
func percentEncode(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.~", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}
