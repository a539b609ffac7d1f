package app

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// rightsConf are the accounts and users of a nats-server: who may do what. The
// embedded server has them, and deploy/nats gives the same text to a server of its
// own. What a role begins to publish, or to ask JetStream for, is added there; the
// test of the matrix and every run on the embedded server show what is missing.
//
//go:embed rights.conf
var rightsConf string

// The users of rights.conf that are ours, one a role, and whoever comes to the
// embedded server without credentials.
const (
	Admin    = "admin"    // makes, changes and removes streams
	Operator = "operator" // decides, hands in, looks
	Worker   = "worker"
	Monitor  = "monitor" // looks

	examplePublisher = "publisher"
	anonymous        = "anonymous"
)

// roles are those of whom the embedded server has exactly one user.
var roles = []string{Admin, Operator, Worker, Monitor}

// askRights is where a server tells a user what it may do.
const askRights = "$SYS.REQ.USER.INFO"

// rights are what the server lets a connection do. The zero value is that of a
// server that does not say: then everything is tried.
type rights struct {
	User        string       `json:"user"`
	Permissions *permissions `json:"permissions"` // nil: all
}

type permissions struct {
	Publish   subjects `json:"publish"`
	Subscribe subjects `json:"subscribe"`
}

type subjects struct {
	Allow []string `json:"allow"`
	Deny  []string `json:"deny"`
}

// rightsTime is what the answer may take. Where there is none, because of a
// server's age or a user's rights, nothing is known.
const rightsTime = 2 * time.Second

// rightsOf asks the server.
func rightsOf(ctx context.Context, nc *nats.Conn) (rights, error) {
	ctx, cancel := context.WithTimeout(ctx, rightsTime)
	defer cancel()
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return rights{}, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := errors.Join(nc.PublishRequest(askRights, inbox, nil), nc.FlushWithContext(ctx)); err != nil {
		return rights{}, err
	}
	// What the server refuses it says before it answers the flush.
	if err := nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) {
		return rights{}, err
	}
	m, err := sub.NextMsgWithContext(ctx)
	if err != nil {
		return rights{}, err
	}
	var answer struct {
		Data rights `json:"data"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return rights{}, fmt.Errorf("rights of the NATS user: %w", err)
	}
	return answer.Data, nil
}

// publish tells whether the user may publish to a subject without wildcards.
func (r rights) publish(subject string) bool {
	if r.Permissions == nil {
		return true
	}
	p, matches := r.Permissions.Publish, func(pattern string) bool { return server.SubjectMatchesFilter(subject, pattern) }
	return (len(p.Allow) == 0 || slices.ContainsFunc(p.Allow, matches)) && !slices.ContainsFunc(p.Deny, matches)
}

// look tells whether the user may look at the orders.
func (r rights) look() bool { return r.publish("$JS.API.STREAM.INFO." + pipeline.OrdersStream) }

// consume tells whether the user may make a consumer to read the orders by.
func (r rights) consume() bool {
	return r.publish("$JS.API.CONSUMER.CREATE." + pipeline.OrdersStream + ".any." + order.Subject(order.Held, "any", "any"))
}

// decide tells whether the user may move orders.
func (r rights) decide() bool { return r.publish(order.Subject(order.Held, "any", "any")) }

// rename tells whether the user may change what the streams say of themselves.
func (r rights) rename() bool { return r.publish("$JS.API.STREAM.UPDATE." + pipeline.OrdersStream) }

// call tells whether the user may take permits to call a cloud.
func (r rights) call() bool { return r.publish("$JS.API.CONSUMER.MSG.NEXT.PERMITS.any") }

// literals are the subjects without wildcards that the user was given by name and
// that begin so.
func (r rights) literals(prefix string) (all []string) {
	if r.Permissions == nil {
		return nil
	}
	for _, s := range r.Permissions.Publish.Allow {
		if strings.HasPrefix(s, prefix) && !strings.ContainsAny(s, "*>") {
			all = append(all, s)
		}
	}
	return all
}
