package aliyun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/responses"

	"github.com/certmill/certmill/pkg/issuer"
)

// answer is what every answer of the gateway has.
type answer struct {
	RequestID text `json:"RequestId"`
	Code      text
	Message   text
}

// text is a JSON string, or another scalar as it is written: a numeric Code was
// seen, and the SDK panics on it.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		if s = string(b); s == "null" {
			s = ""
		}
	}
	*t = text(s)
	return nil
}

// verdict judges an answer by its bytes, not by what the SDK made of it: the
// SDK takes any HTTP 2xx for success, puts whole bodies into its messages and
// URLs with signature and contact into its errors.
func (c *Client) verdict(ctx context.Context, resp responses.AcsResponse, sdk error) error {
	if e, ok := errors.AsType[*issuer.Error](sdk); ok {
		return e // of the transport: no answer came
	}
	status := issuer.HTTPStatus(ctx)
	if status == 0 {
		return fmt.Errorf("the SDK sent nothing (%T)", sdk)
	}
	var a answer
	if err := json.Unmarshal(resp.GetHttpContentBytes(), &a); err != nil {
		return unclear(ctx, "", "HTTP %d, and the answer is no JSON", status)
	}
	success := status >= http.StatusOK && status < http.StatusMultipleChoices
	switch {
	case a.Code != "":
		return c.refusal(ctx, a, success)
	case !success:
		return unclear(ctx, string(a.RequestID), "HTTP %d without a code", status)
	case a.RequestID == "":
		return unclear(ctx, "", "HTTP %d, and the answer has no RequestId", status)
	case sdk != nil:
		return unclear(ctx, string(a.RequestID), "the answer does not fit (%T)", sdk)
	}
	return nil
}

// refusal is the error of an answer with a code. A spending call that HTTP calls
// a success and the body does not is left unclear.
func (c *Client) refusal(ctx context.Context, a answer, success bool) error {
	e := codes.Refusal(ctx, c.show(a.Code, 80), c.show(a.Message, 200), c.show(a.RequestID, 80))
	if unclear := issuer.Unclear(ctx); success && unclear == issuer.UnknownOutcome {
		e.Kind, e.Help = unclear, issuer.Text{}
	}
	return e
}

// show makes a text of the cloud fit for an error: one short line, without the
// string to sign that SignatureDoesNotMatch repeats (key id, CSR, contact).
func (c *Client) show(t text, limit int) string {
	s, _, _ := strings.Cut(string(t), "server string to sign")
	s = strings.Join(strings.Fields(c.scrub.Replace(s)), " ")
	if r := []rune(s); len(r) > limit {
		s = string(r[:limit]) + "…"
	}
	return s
}

func unclear(ctx context.Context, requestID, format string, args ...any) *issuer.Error {
	return &issuer.Error{Kind: issuer.Unclear(ctx), Message: fmt.Sprintf(format, args...), RequestID: requestID}
}

// rejected is an application that can not be sent as it is.
func rejected(action, reason string) error {
	return &issuer.Error{Kind: issuer.Rejected, Action: action, Message: reason}
}
