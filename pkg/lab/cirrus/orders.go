package cirrus

import (
	"context"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// orders is the only flow: an order from a plan, with a CSR.
type orders struct{ c *Client }

var (
	_ issuer.Finder    = orders{}
	_ issuer.Counter   = orders{}
	_ issuer.AllLister = orders{}
)

// Action implements issuer.Flow.
func (o orders) Action() string { return placeOrder }

// Spends implements issuer.Flow.
func (o orders) Spends() bool { return true }

// CSR implements issuer.Flow: the names of the CSR are those of the order.
func (o orders) CSR(r order.Request) issuer.CSR {
	if r.CSR != "" {
		return issuer.GivenCSR
	}
	return issuer.AllNamesCSR
}

// Reserve implements issuer.Flow.
func (o orders) Reserve(ctx context.Context) (context.Context, func(), error) {
	return o.c.caller.Reserve(ctx, placeOrder)
}

// Submit implements issuer.Flow.
func (o orders) Submit(ctx context.Context, a issuer.Application, f issuer.Fence) (issuer.Receipt, error) {
	if len(a.Names) == 0 || a.CSR == "" {
		return issuer.Receipt{}, &issuer.Error{Kind: issuer.Rejected, Action: placeOrder,
			Message: "no names, or no CSR"}
	}
	in := struct {
		Product    string
		Names      []string
		CSR, Email string
	}{a.Product, a.Names, a.CSR, a.Contact.Email}
	var out struct{ Order string }
	request, err := o.c.ask(issuer.Spending(ctx, f), placeOrder, in, &out)
	if err != nil {
		return issuer.Receipt{}, err
	}
	if out.Order == "" {
		return issuer.Receipt{}, &issuer.Error{Kind: issuer.UnknownOutcome, Action: placeOrder,
			Message: "the answer names no order", RequestID: request}
	}
	return issuer.Receipt{CloudID: out.Order, RequestID: request}, nil
}

// phases are what the documented states mean.
var phases = map[string]issuer.Phase{
	"accepted": issuer.Pending,    // no proof is asked for yet
	"proving":  issuer.Challenged, // the files are looked for
	"signing":  issuer.Reviewing,
	"issued":   issuer.IssuedPhase,
	"refused":  issuer.Refused,
}

func phase(state string) issuer.Phase {
	if p, known := phases[state]; known {
		return p
	}
	return issuer.Unlisted
}

// state is GetOrder's answer.
type state struct {
	State, Why string
	Proofs     []struct{ Name, Path, Content string }
	Chain      string
}

func (o orders) get(ctx context.Context, id string) (s state, request string, err error) {
	request, err = o.c.ask(ctx, getOrder, struct{ Order string }{id}, &s)
	return s, request, err
}

// Look implements issuer.Flow.
func (o orders) Look(ctx context.Context, cloudID string) (issuer.Status, error) {
	s, request, err := o.get(ctx, cloudID)
	if err != nil {
		return issuer.Status{}, err
	}
	st := issuer.Status{Phase: phase(s.State), Raw: o.c.show(s.State, 40), Detail: o.c.show(s.Why, 200),
		RequestID: request}
	for _, p := range s.Proofs {
		st.Challenges = append(st.Challenges, order.Challenge{Name: p.Name, Type: "FILE", Host: p.Name, Path: p.Path,
			Value: p.Content})
	}
	return st, nil
}

// Fetch implements issuer.Flow. Certificates have no ids of their own.
func (o orders) Fetch(ctx context.Context, cloudID, _ string) (issuer.Certificate, error) {
	s, request, err := o.get(ctx, cloudID)
	if err != nil {
		return issuer.Certificate{}, err
	}
	if s.Chain == "" {
		return issuer.Certificate{}, &issuer.Error{Kind: issuer.WrongState, Action: getOrder,
			Message: "no certificate in state " + o.c.show(s.State, 40), RequestID: request}
	}
	return issuer.Certificate{Chain: s.Chain, RequestID: request}, nil
}

// listing is what ListOrders is asked for.
type listing struct {
	Name       string `json:",omitempty"`
	Open       bool   `json:",omitempty"`
	Page, Size int
}

func (o orders) list(ctx context.Context, in listing) (issuer.Page, error) {
	in.Size = pageSize
	var out struct {
		Orders []struct {
			Order, Product, State string
			Names                 []string
			Placed, Until         time.Time
		}
		More bool
	}
	if err := o.c.call(ctx, listOrders, in, &out); err != nil {
		return issuer.Page{}, err
	}
	page := issuer.Page{More: out.More}
	for _, x := range out.Orders {
		page.Rows = append(page.Rows, issuer.Row{CloudID: x.Order, Names: x.Names, Product: x.Product,
			Phase: phase(x.State),
			Raw:   o.c.show(x.State, 40), Created: x.Placed, Expires: x.Until})
	}
	return page, nil
}

// Waiting implements issuer.Flow.
func (o orders) Waiting(ctx context.Context, page int) (issuer.Page, error) {
	return o.list(ctx, listing{Open: true, Page: page})
}

// List implements issuer.AllLister.
func (o orders) List() string { return "orders" }

// All implements issuer.AllLister.
func (o orders) All(ctx context.Context, page int) (issuer.Page, error) {
	return o.list(ctx, listing{Page: page})
}

// mostPages bounds a list that never ends.
const mostPages = 1000

// Find implements issuer.Finder: the cloud looks for one name, the rest is ours.
func (o orders) Find(ctx context.Context, names []string) ([]issuer.Row, error) {
	if len(names) == 0 {
		return nil, nil
	}
	var found []issuer.Row
	for page := range mostPages {
		p, err := o.list(ctx, listing{Name: names[0], Page: page})
		if err != nil {
			return nil, err
		}
		for _, row := range p.Rows {
			if order.Shows(row.Names, names) {
				found = append(found, row)
			}
		}
		if !p.More {
			return found, nil
		}
	}
	return nil, &issuer.Error{Kind: issuer.Unavailable, Action: listOrders, Message: "the list of orders for " +
		strings.Join(names[:1], "") + " does not end"}
}

// Usage implements issuer.Counter. A plan that was never bought is QuotaExhausted.
func (o orders) Usage(ctx context.Context, product string) (issuer.Usage, error) {
	var out struct{ Bought, Used *int64 }
	if err := o.c.call(ctx, getPlan, struct{ Product string }{product}, &out); err != nil {
		return issuer.Usage{}, err
	}
	if out.Bought == nil || out.Used == nil {
		return issuer.Usage{}, &issuer.Error{Kind: issuer.Unavailable, Action: getPlan,
			Message: "the answer has no counts"}
	}
	return issuer.Usage{Bought: *out.Bought, Used: *out.Used, Read: time.Now()}, nil
}
