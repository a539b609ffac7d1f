package tencent

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/certmill/certmill/pkg/issuer"
)

const (
	callerIdentity = "GetCallerIdentity" // STS 2018-08-13
	userAppID      = "GetUserAppId"      // CAM 2019-01-16
)

// Identify implements issuer.Cloud by GetCallerIdentity. Where it may not be
// called, or is not known, GetUserAppId tells nearly as much.
func (c *Client) Identify(ctx context.Context) (issuer.Identity, error) {
	id, err := c.byCaller(ctx)
	if !denied(err) && !unknown(err) {
		return id, err
	}
	id, err = c.byAppID(ctx)
	if denied(err) {
		return id, leftOpen(err)
	}
	return id, err
}

// byCaller asks STS. A role's caller is the role and not its session, which
// changes with each set of credentials; a federated user is uin:name.
func (c *Client) byCaller(ctx context.Context) (issuer.Identity, error) {
	var out struct{ Type, AccountId, UserId, RequestId string }
	if err := c.Call(ctx, "sts", "2018-08-13", callerIdentity, nil, &out); err != nil {
		return issuer.Identity{}, err
	}
	if out.AccountId == "" {
		return issuer.Identity{}, c.nobody(callerIdentity, out.RequestId)
	}
	id := issuer.Identity{Main: out.AccountId, Caller: out.UserId, Kind: out.Type}
	if id.Kind == "CAMRole" {
		id.Caller, _, _ = strings.Cut(id.Caller, ":")
	}
	return id, nil
}

// byAppID asks CAM, which does not tell what kind of caller it is. Nothing says
// what Uin is to temporary credentials: where it is the main account's, it does
// not prove that the main account itself calls.
func (c *Client) byAppID(ctx context.Context) (issuer.Identity, error) {
	var out struct{ Uin, OwnerUin, RequestId string }
	if err := c.Call(ctx, "cam", "2019-01-16", userAppID, nil, &out); err != nil {
		return issuer.Identity{}, err
	}
	if out.OwnerUin == "" {
		return issuer.Identity{}, c.nobody(userAppID, out.RequestId)
	}
	id := issuer.Identity{Main: out.OwnerUin, Caller: out.Uin}
	if c.temporary && id.IsMain() {
		id.Caller = ""
	}
	return id, nil
}

func (c *Client) nobody(action, requestID string) error {
	return &issuer.Error{Kind: issuer.Unavailable, Action: action, Message: "the answer names no account",
		RequestID: c.show(requestID, 80)}
}

// denied: the credentials work, and may not make this call.
func denied(err error) bool {
	e, ok := errors.AsType[*issuer.Error](err)
	return ok && (e.Code == "AuthFailure.UnauthorizedOperation" || strings.HasPrefix(e.Code, "UnauthorizedOperation"))
}

// unknown: who was asked does not know the call.
func unknown(err error) bool {
	codes := []string{"InvalidAction", "ActionOffline", "NoSuchProduct", "NoSuchVersion", "UnsupportedOperation"}
	e, ok := errors.AsType[*issuer.Error](err)
	return ok && slices.Contains(codes, e.Code)
}

// leftOpen is a refusal that says nothing against the credentials.
func leftOpen(err error) error {
	e, _ := errors.AsType[*issuer.Error](err)
	refused := *e
	refused.Kind = issuer.Rejected
	return &refused
}
