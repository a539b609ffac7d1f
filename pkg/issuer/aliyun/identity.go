package aliyun

import (
	"context"
	"errors"
	"strings"

	"github.com/certmill/certmill/pkg/issuer"
)

const callerIdentity = "GetCallerIdentity" // STS 2015-04-01

// Identify implements issuer.Cloud by GetCallerIdentity, for which no right is
// needed. The caller is the account, the RAM user or the role; not its session,
// which changes with each set of credentials.
func (c *Client) Identify(ctx context.Context) (issuer.Identity, error) {
	var out struct {
		IdentityType string // Account, RAMUser (older pages: RamUser) or AssumedRoleUser
		AccountID    text   `json:"AccountId"`
		UserID       text   `json:"UserId"` // account or RAM user
		RoleID       text   `json:"RoleId"` // role
		RequestID    text   `json:"RequestId"`
	}
	if err := c.ask(ctx, rpc("sts", "2015-04-01", callerIdentity, nil), &out); err != nil {
		return issuer.Identity{}, leftOpen(err)
	}
	if out.AccountID == "" {
		return issuer.Identity{}, &issuer.Error{Kind: issuer.Unavailable, Action: callerIdentity,
			Message: "the answer names no account", RequestID: c.show(out.RequestID, 80)}
	}
	caller := out.UserID
	if caller == "" || out.IdentityType == "AssumedRoleUser" {
		caller = out.RoleID
	}
	return issuer.Identity{Main: string(out.AccountID), Caller: string(caller), Kind: out.IdentityType}, nil
}

// leftOpen changes the kind of a refusal that says nothing against the
// credentials: they may not ask (a policy forbids it by name), and work.
func leftOpen(err error) error {
	e, ok := errors.AsType[*issuer.Error](err)
	if !ok || e.Kind != issuer.Credentials {
		return err
	}
	if e.Code == "Forbidden" || e.Code == "Forbidden.RAM" || strings.HasPrefix(e.Code, "NoPermission") {
		refused := *e
		refused.Kind = issuer.Rejected
		return &refused
	}
	return err
}
