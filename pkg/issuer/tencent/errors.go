package tencent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	tcerr "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/errors"

	"github.com/certmill/certmill/pkg/issuer"
)

// verdict judges what the SDK returned. The SDK takes {} for success, and the
// messages of its own errors (ClientError.*) carry whole bodies.
func (c *Client) verdict(ctx context.Context, sdk error, inner json.RawMessage, out any) error {
	if e, ok := errors.AsType[*issuer.Error](sdk); ok {
		return e // of the transport: no answer came
	}
	status := issuer.HTTPStatus(ctx)
	if status == 0 {
		return fmt.Errorf("the SDK sent nothing (%T)", sdk)
	}
	if e, ok := errors.AsType[*tcerr.TencentCloudSDKError](sdk); ok && e.Code != "" && !strings.HasPrefix(e.Code, "ClientError") {
		return codes.Refusal(ctx, c.show(e.Code, 80), c.show(e.Message, 200), c.show(e.RequestId, 80))
	}
	var answer struct{ RequestId string }
	if sdk != nil || status != http.StatusOK || json.Unmarshal(inner, &answer) != nil || answer.RequestId == "" {
		return unclear(ctx, "", "HTTP %d, and the answer is not one of this API", status)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(inner, out); err != nil {
		return unclear(ctx, c.show(answer.RequestId, 80), "the answer does not have the documented form")
	}
	return nil
}

// show makes a text of the cloud fit for an error: one short line.
func (c *Client) show(s string, limit int) string {
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
