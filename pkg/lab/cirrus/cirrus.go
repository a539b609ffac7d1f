// Package cirrus is a third cloud, which does not exist: what certmill needs to
// order there, written as a vendor's package is. With it tests show that another
// cloud is one folder, the contract suite and one line in package app. Package
// sky is the cloud itself. Nothing of either is in certmill's programs.
//
// # The invented documents
//
// A call is a POST of a JSON object to /v1/<Action>, with the headers
//
//	Cirrus-Key        id of the access key
//	Cirrus-Time       RFC 3339, UTC, whole seconds; it holds for a minute
//	Cirrus-Signature  hex of HMAC-SHA256, by the key's secret, of
//	                  <path> LF <Cirrus-Time> LF <hex of SHA-256 of the body>
//
// The answer is {"request":"…","result":{…}} with status 200, or
// {"request":"…","error":{"code":"…","message":"…"}} with another. Each action may
// be called 7 times a second by one account.
//
//	PlaceOrder  Product, Names, CSR, Email → Order. It uses up one of the plan.
//	GetOrder    Order → State, Proofs, Chain
//	ListOrders  Name, Open, Page from 0, Size up to 20 → Orders, newest first, More
//	GetPlan     Product → Bought, Used
//	WhoAmI      → Account, Caller, Kind; it is not limited
//
// Control of each name is proved by a file over HTTP. Wildcards are not sold.
package cirrus

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

// The actions.
const (
	placeOrder = "PlaceOrder"
	getOrder   = "GetOrder"
	listOrders = "ListOrders"
	getPlan    = "GetPlan"
	whoAmI     = "WhoAmI"
)

// pageSize is how many orders a page of the list may have.
const pageSize = 20

const service = "orders"

var calls = issuer.Calls{
	{Service: service, Action: placeOrder, Roles: []order.Role{order.Submitter}, Limit: 7, Starts: true},
	{Service: service, Action: getOrder, Roles: order.Roles, Limit: 7},
	{Service: service, Action: listOrders, Roles: []order.Role{order.Submitter, order.Verifier}, Limit: 7,
		Page: pageSize},
	{Service: service, Action: getPlan, Roles: []order.Role{order.Submitter}, Limit: 7},
	{Service: "accounts", Action: whoAmI, Roles: order.Roles, Free: true},
}

// About is what the invented vendor documents for every account.
func About() issuer.About {
	return issuer.About{Name: codes.Cloud, Codes: codes, Calls: slices.Clone(calls), SignatureLife: time.Minute, FilesOnly: true}
}

// Client is one account. It is safe for concurrent use.
type Client struct {
	caller    issuer.Caller
	transport http.RoundTripper
	endpoint  string
	key       string
	secret    order.Secret
	product   string
	scrub     *strings.Replacer
}

var _ issuer.Cloud = (*Client)(nil)

// New checks how the account is reached and returns a client; nothing is sent.
// The cloud has one endpoint for all its services and no DNS.
func New(a issuer.Access) (*Client, error) {
	if err := a.Check(); err != nil {
		return nil, fmt.Errorf("cirrus: %w", err)
	}
	if a.Endpoint == "" {
		return nil, errors.New("cirrus: it has no endpoint of its own, because it does not exist: write one")
	}
	at, err := issuer.ParseEndpoint(a.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("cirrus: %w", err)
	}
	return &Client{
		caller: issuer.Caller{Main: a.Main, Permits: a.Permits, Gate: a.Gate},
		transport: issuer.NewTransport(issuer.TransportOptions{
			Identify: identify(a.Main), Stamp: stamp, Free: calls.Free(), TLS: a.TLS, Proxy: a.Proxy}),
		endpoint: at.Scheme + "://" + at.Host, key: a.KeyID, secret: a.Secret, product: a.Product,
		scrub: strings.NewReplacer(a.Secret.Reveal(), "[redacted]", a.KeyID, "[access key]"),
	}, nil
}

// identify reads the action from the path.
func identify(main string) func(*http.Request) (permit.Key, error) {
	return func(r *http.Request) (permit.Key, error) {
		action, ok := strings.CutPrefix(r.URL.Path, "/v1/")
		if !ok || action == "" {
			return permit.Key{}, errors.New("the request names no action")
		}
		return permit.Key{Account: main, Action: action}, nil
	}
}

// stamp reads the time that the request was signed with.
func stamp(r *http.Request) (time.Time, error) {
	return time.Parse(time.RFC3339, r.Header.Get("Cirrus-Time"))
}

// About implements issuer.Cloud.
func (c *Client) About() issuer.About { return About() }

// Flows implements issuer.Cloud.
func (c *Client) Flows() []issuer.Flow { return []issuer.Flow{orders{c}} }

// The products: solo is for one name, flock for several.
const (
	solo  = "solo"
	flock = "flock"
)

// Route implements issuer.Cloud.
func (c *Client) Route(r order.Request) (issuer.Route, error) {
	product := flock
	for _, named := range []string{c.product, r.Product} {
		if named != "" {
			product = named
		}
	}
	switch {
	case r.Resource != "":
		return issuer.Route{},
			errors.New("it sells plans only, so there is nothing bought before that an order could use: leave resource out")
	case slices.ContainsFunc(r.Names, func(n string) bool { return strings.HasPrefix(n, "*.") }):
		return issuer.Route{},
			errors.New("it proves control by files, which no wildcard can be proved by: order the names one by one, or from another account")
	case product == solo && len(r.Names) > 1:
		return issuer.Route{}, errors.New("product solo is for one name: write product flock, or one order per name")
	}
	return issuer.Route{Flow: orders{c}, Product: product, Needs: []string{"email"}}, nil
}

// authority is who issues all products.
var authority = issuer.CA{Name: "Cirrus CA", Identities: []string{"ca.cirrus.example"}}

// Product implements issuer.Cloud.
func (c *Client) Product(code string) issuer.Product {
	switch code {
	case solo:
		return issuer.Product{Code: code, CA: authority}
	case flock:
		return issuer.Product{Code: code, CA: authority, Several: true}
	}
	return issuer.Product{Code: code}
}

// Identify implements issuer.Cloud.
func (c *Client) Identify(ctx context.Context) (issuer.Identity, error) {
	var out struct{ Account, Caller, Kind string }
	if err := c.call(ctx, whoAmI, struct{}{}, &out); err != nil {
		return issuer.Identity{}, err
	}
	if out.Account == "" {
		return issuer.Identity{}, &issuer.Error{Kind: issuer.Unavailable, Action: whoAmI,
			Message: "the answer names no account"}
	}
	return issuer.Identity{Main: out.Account, Caller: out.Caller, Kind: out.Kind}, nil
}
