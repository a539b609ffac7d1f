// Package aliyun speaks to Alibaba Cloud: Certificate Management Service (CAS,
// versions 2018-07-13 and 2020-04-07) and STS as an issuer.Cloud, and any other
// RPC product, such as alidns, through Client.Call.
//
// The wire is the vendor's SDK v1. It has no context, is not safe for
// concurrent use and keeps time-outs between calls, so each call runs on a
// client of its own over one shared issuer.Transport.
package aliyun

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/responses"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/permit"
)

// Client makes calls with one access key. It is safe for concurrent use.
type Client struct {
	caller    issuer.Caller
	endpoints map[string]endpoint // by product, lower case
	region    string
	product   string                 // of orders that name none; empty: the vendor's default
	csrSANs   bool                   // see issuer.Access
	key       func() auth.Credential // a func, so that printing a Client shows no secret
	scrub     *strings.Replacer
	transport *issuer.Transport
}

type endpoint struct{ scheme, host string }

var _ issuer.Cloud = (*Client)(nil)

// domain is where the vendor's own endpoints are.
const domain = "aliyuncs.com"

// New checks how the account is reached and returns a client; nothing is sent.
// Endpoints are without a path, which the RPC protocol does not know; the region
// is cn-hangzhou if none is named. New refuses to work while the environment
// variable DEBUG contains "sdk": the vendor's SDK then prints whole answers,
// private keys included.
func New(a issuer.Access) (*Client, error) {
	if strings.Contains(os.Getenv("DEBUG"), "sdk") {
		return nil, errors.New("aliyun: the environment has DEBUG=sdk, which makes the SDK print private keys; unset it")
	}
	if err := a.Check(); err != nil {
		return nil, fmt.Errorf("aliyun: %w", err)
	}
	endpoints, err := endpointsOf(a)
	if err != nil {
		return nil, err
	}
	return &Client{
		caller:    issuer.Caller{Main: a.Main, Permits: a.Permits, Gate: a.Gate},
		endpoints: endpoints,
		region:    cmp.Or(a.Region, "cn-hangzhou"),
		product:   a.Product,
		csrSANs:   a.CSRSANs,
		key:       credential(a),
		scrub:     scrubber(a),
		transport: issuer.NewTransport(issuer.TransportOptions{
			Identify: identify(a.Main), Stamp: stamp, Free: calls.Free(), TLS: a.TLS, Proxy: a.Proxy}),
	}, nil
}

// endpointsOf are the endpoints by product.
func endpointsOf(a issuer.Access) (map[string]endpoint, error) {
	all := map[string]endpoint{}
	for product, at := range map[string]string{
		"cas":    cmp.Or(a.Endpoint, "https://cas."+domain),
		"alidns": cmp.Or(a.DNSEndpoint, "https://alidns."+domain),
		"sts":    cmp.Or(a.IdentityEndpoint, issuer.ServiceAt(a.Endpoint, domain, "https://sts."+domain)),
	} {
		u, err := issuer.ParseEndpoint(at)
		if err != nil {
			return nil, fmt.Errorf("aliyun: %w", err)
		}
		all[product] = endpoint{scheme: strings.ToUpper(u.Scheme), host: u.Host}
	}
	return all, nil
}

func credential(a issuer.Access) func() auth.Credential {
	id, secret, token := a.KeyID, a.Secret, a.Token
	return func() auth.Credential {
		if token != "" {
			return credentials.NewStsTokenCredential(id, secret.Reveal(), token.Reveal())
		}
		return credentials.NewAccessKeyCredential(id, secret.Reveal())
	}
}

// scrubber removes what identifies the key from messages of the cloud, which
// repeats the request in some of them.
func scrubber(a issuer.Access) *strings.Replacer {
	pairs := []string{a.Secret.Reveal(), "[redacted]", a.KeyID, "[access key]"}
	if a.Token != "" {
		pairs = append(pairs, a.Token.Reveal(), "[redacted]")
	}
	return strings.NewReplacer(pairs...)
}

// identify reads the action where RPC requests carry it: query, or else form.
func identify(main string) func(*http.Request) (permit.Key, error) {
	return func(r *http.Request) (permit.Key, error) {
		action := r.URL.Query().Get("Action")
		if action == "" {
			action = formAction(r)
		}
		if action == "" {
			return permit.Key{}, errors.New("the request names no Action")
		}
		return permit.Key{Account: main, Action: action}, nil
	}
}

func formAction(r *http.Request) string {
	if r.GetBody == nil {
		return ""
	}
	body, err := r.GetBody()
	if err != nil {
		return ""
	}
	defer body.Close()
	copied := http.Request{Method: http.MethodPost, Body: body, Header: r.Header}
	return copied.PostFormValue("Action")
}

// stamp reads the time that the request was signed with.
func stamp(r *http.Request) (time.Time, error) {
	return time.Parse("2006-01-02T15:04:05Z", r.URL.Query().Get("Timestamp"))
}

// Call sends one request and fills resp. It waits for the permit of the
// request's action unless ctx carries a live one or the action is free, ends at
// the permit's deadline, and never sends twice; the endpoint follows from the
// request's product (cas, Alidns, sts). Requests must be POST, which is not the default of
// requests.NewCommonRequest, and are used up by the call.
//
// The error is *issuer.Error. A clear answer is HTTP 2xx with a RequestId and
// without a Code; anything else that no table lists is issuer.Unavailable, or
// issuer.UnknownOutcome below issuer.Spending.
func (c *Client) Call(ctx context.Context, req requests.AcsRequest, resp responses.AcsResponse) error {
	if r, ok := req.(*requests.CommonRequest); ok {
		r.TransToAcsRequest()
	}
	at, ok := c.endpoints[strings.ToLower(req.GetProduct())]
	if !ok {
		return &issuer.Error{Kind: issuer.Rejected, Action: req.GetActionName(), Message: fmt.Sprintf("no endpoint for product %q", req.GetProduct())}
	}
	do := c.caller.Do
	if known, _ := calls.Find(req.GetActionName()); known.Free {
		do = c.caller.Free
	}
	return do(ctx, req.GetActionName(), func(ctx context.Context) error {
		return c.verdict(ctx, resp, c.send(ctx, at, req, resp))
	})
}

// send runs the SDK on a client of its own. All that the SDK does by itself is
// off: retries, tracing, its time-out (it only has to be longer than ours).
func (c *Client) send(ctx context.Context, at endpoint, req requests.AcsRequest, resp responses.AcsResponse) error {
	cfg := sdk.NewConfig().WithScheme(at.scheme).WithAutoRetry(false).WithMaxRetryTime(0)
	cfg.Transport = bound{ctx, c.transport}
	cfg.Timeout = time.Hour
	client, err := sdk.NewClientWithOptions(c.region, cfg, c.key())
	if err != nil {
		return err
	}
	client.Domain = at.host
	client.SetCloseTrace(true)
	return client.DoAction(req, resp)
}

// bound gives the SDK's request the caller's context: deadline, permit, fence.
type bound struct {
	ctx  context.Context
	next http.RoundTripper
}

func (b bound) RoundTrip(r *http.Request) (*http.Response, error) {
	return b.next.RoundTrip(r.WithContext(b.ctx))
}
