package aliyun

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/responses"

	"github.com/certmill/certmill/pkg/issuer"
)

// ask calls and decodes the raw body into out, because the SDK's structs lack
// fields that the cloud sends (CertId, tags) and its decoder rounds large
// numbers in exponent form.
func (c *Client) ask(ctx context.Context, req requests.AcsRequest, out any) error {
	resp := responses.NewCommonResponse()
	if err := c.Call(ctx, req, resp); err != nil {
		return err
	}
	if err := json.Unmarshal(resp.GetHttpContentBytes(), out); err != nil {
		return &issuer.Error{Kind: issuer.Unclear(ctx), Action: req.GetActionName(), Message: "the answer does not have the documented form"}
	}
	return nil
}

// id is an int64 of the cloud, exactly as its digits were sent: order ids are
// above 2^53. Empty when it is zero, absent or no whole number.
type id string

func (n *id) UnmarshalJSON(b []byte) error {
	s := string(bytes.Trim(b, `"`))
	if strings.Trim(s, "0123456789") != "" || strings.Trim(s, "0") == "" || len(s) > 19 {
		s = ""
	}
	*n = id(s)
	return nil
}

// number is a small count or a time in ms, sent as a number or a string.
type number int64

func (n *number) UnmarshalJSON(b []byte) error {
	v, err := json.Number(bytes.Trim(b, `"`)).Int64()
	if err != nil {
		v = 0
	}
	*n = number(v)
	return nil
}

// time reads milliseconds since 1970.
func (n number) time() time.Time {
	if n <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(n)).UTC()
}

// day reads a date of the certificate list.
func day(s string) time.Time {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// names splits a list of names, lower case and without duplicates.
func names(lists ...string) []string {
	var all []string
	seen := map[string]bool{}
	for _, list := range lists {
		for n := range strings.FieldsFuncSeq(strings.ToLower(list), func(r rune) bool { return r == ',' || r == ' ' || r == ';' }) {
			if !seen[n] {
				seen[n] = true
				all = append(all, n)
			}
		}
	}
	return all
}
