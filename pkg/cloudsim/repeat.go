package cloudsim

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
)

// A cloud, or a gateway before it, that repeats the credentials of whoever asks
// (Config.Repeat): what a client must not keep, and what it must not log.

// repeated are the fields of an answer that then have the secrets in them: those
// for people, of which a client stores or logs some.
var repeated = map[string]bool{
	"Message": true, "RequestId": true, "HostId": true, "Recommend": true, // of every answer
	"ProductName": true, "RootBrand": true, "ProductZhName": true, "StatusName": true, "StatusMsg": true, "Alias": true, "Reason": true,
}

// Spellings are the forms in which a secret is repeated.
func Spellings(secret string) []string {
	b := []byte(secret)
	return []string{secret, base64.StdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b),
		// As part of something longer, where base64 looks different.
		base64.StdEncoding.EncodeToString([]byte("x:" + secret + ":y")), base64.StdEncoding.EncodeToString([]byte("Bearer " + secret)),
		hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)), url.QueryEscape(secret), url.PathEscape(secret)}
}

// repeats are the secrets of a key in one line.
func (a Account) repeats() string {
	all := Spellings(a.AccessKeySecret)
	if a.Token != "" {
		all = append(all, Spellings(a.Token)...)
	}
	return strings.Join(all, " ")
}

// repeat lays the secrets of whoever asked over an answer.
func (s *Sim) repeat(a Account, in reply) reply {
	if !s.cfg().Repeat || a.AccessKeySecret == "" {
		return in
	}
	dec := json.NewDecoder(bytes.NewReader(in.Body))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		in.Body = append(bytes.Clone(in.Body), " "+a.repeats()...)
		return in
	}
	return jsonReply(in.Status, repeatIn(v, a.repeats()))
}

func repeatIn(v any, secrets string) any {
	switch v := v.(type) {
	case map[string]any:
		for k, in := range v {
			text, is := in.(string)
			switch {
			case is && (repeated[k] || strings.Contains(strings.ToUpper(text), oddWord)):
				v[k] = text + " " + secrets
			case !is:
				v[k] = repeatIn(in, secrets)
			}
		}
	case []any:
		for i := range v {
			v[i] = repeatIn(v[i], secrets)
		}
	}
	return v
}
