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

// codes is the one table of what the cloud's codes mean. A pattern may end with
// '*'; the first that matches wins. What is not listed is unclear:
// issuer.Unavailable for reads, issuer.UnknownOutcome for submissions. That is
// on purpose for FailedOperation, FailedOperation.NetworkError (the CA is busy,
// it may have landed), .SystemError, .TradeError and InternalError*.
//
// Sources: error tables of the SSL operations and of DNSPod; common error
// codes. A request over the limit is "intercepted by the gateway" (document
// 1278/109059) and has no effect.
var codes = []struct {
	pattern string
	kind    issuer.Kind
}{
	{"RequestLimitExceeded*", issuer.Throttled},
	{"LimitExceeded.RateLimitExceeded", issuer.Throttled},
	{"FailedOperation.FrequencyLimit", issuer.Throttled},

	// Refused for its time stamp: no effect, and a new signature may pass.
	{"AuthFailure.SignatureExpire", issuer.NeverSent},

	{"AuthFailure*", issuer.Credentials},
	{"UnauthorizedOperation*", issuer.Credentials},
	{"FailedOperation.AuthError", issuer.Credentials},
	{"FailedOperation.NoProjectPermission", issuer.Credentials},
	{"FailedOperation.NoRealNameAuth", issuer.Credentials},

	{"FailedOperation.ExceedsFreeLimit", issuer.QuotaExhausted},
	{"FailedOperation.MainDomainCertificateCountLimit", issuer.QuotaExhausted},
	{"FailedOperation.PackageCountLimit", issuer.QuotaExhausted},
	{"LimitExceeded", issuer.QuotaExhausted},
	{"LimitExceeded.*", issuer.Rejected}, // DNSPod: records of a zone

	{"FailedOperation.InvalidCertificateStatusCode", issuer.WrongState},
	{"FailedOperation.CertificateOrderSubmitProcessing", issuer.WrongState},
	{"FailedOperation.CertificateInfoSubmitStatusInvalid", issuer.WrongState},
	{"FailedOperation.CertificateNotFoundOrAudited", issuer.WrongState},
	{"FailedOperation.CertificateStatusNotAllow*", issuer.WrongState},
	{"FailedOperation.CertificateNotAllowDownload", issuer.WrongState},
	{"FailedOperation.OrderAlreadyReplaced", issuer.WrongState},

	{"FailedOperation.CertificateNotFound", issuer.NotFound},
	{"ResourceNotFound*", issuer.NotFound},
	{"InvalidParameter.RecordIdInvalid", issuer.NotFound},
	{"InvalidParameterValue.DomainNotExists", issuer.NotFound},
	{"OperationDenied.NoPermissionToOperateDomain", issuer.NotFound}, // a zone of somebody else's

	{"FailedOperation.CertificateInvalid", issuer.Rejected},
	{"FailedOperation.CertificatePreVerifyEmailInvalid", issuer.Rejected},
	{"FailedOperation.InvalidParam", issuer.Rejected},
	{"FailedOperation.DomainIsLocked", issuer.Rejected},
	{"FailedOperation.DomainIsSpam", issuer.Rejected},
	{"InvalidParameter*", issuer.Rejected},
	{"MissingParameter*", issuer.Rejected},
	{"UnknownParameter*", issuer.Rejected},
	{"UnsupportedOperation*", issuer.Rejected},
	{"OperationDenied*", issuer.Rejected},
	{"InvalidAction", issuer.Rejected},
	{"NoSuchVersion", issuer.Rejected},
	{"NoSuchProduct", issuer.Rejected},
	{"UnsupportedProtocol", issuer.Rejected},
}

// kindOf looks a code up.
func kindOf(ctx context.Context, code string) issuer.Kind {
	for _, c := range codes {
		word, prefix := strings.CutSuffix(c.pattern, "*")
		if code == word || prefix && strings.HasPrefix(code, word) {
			return c.kind
		}
	}
	return issuer.Unclear(ctx)
}

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
		return &issuer.Error{Kind: kindOf(ctx, e.Code), Code: c.show(e.Code, 80), Message: c.show(e.Message, 200), RequestID: c.show(e.RequestId, 80)}
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
