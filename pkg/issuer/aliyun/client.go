// Package aliyun speaks to Alibaba Cloud: Certificate Management Service (CAS,
// versions 2018-07-13 and 2020-04-07) as flows of package issuer, and any other
// RPC product, such as alidns, through Client.Call.
//
// The wire is the vendor's SDK v1. It has no context, is not safe for
// concurrent use and keeps time-outs between calls, so each call runs on a
// client of its own over one shared issuer.Transport.
package aliyun

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/responses"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

// Config is how one main account is reached. Endpoints are scheme, host and
// port; the RPC protocol knows no path.
type Config struct {
	Endpoint        string       // CAS; default https://cas.aliyuncs.com
	DNSEndpoint     string       // alidns; default https://alidns.aliyuncs.com
	AccessKeyID     string       // required
	AccessKeySecret order.Secret // required
	SecurityToken   order.Secret // with STS credentials
	Region          string       // default cn-hangzhou
	Main            string       // main account: what limits are keyed by; required
	Permits         *permit.Set  // required

	TLS   *tls.Config // nil: the system's roots
	Proxy *url.URL    // nil: none; the environment is not asked
}

// Client makes calls with one access key. It is safe for concurrent use.
type Client struct {
	caller    issuer.Caller
	endpoints map[string]endpoint // by product, lower case
	region    string
	key       func() auth.Credential // a func, so that printing a Client shows no secret
	scrub     *strings.Replacer
	transport *issuer.Transport
}

type endpoint struct{ scheme, host string }

// New checks the config and returns a client; nothing is sent. It refuses to
// work while the environment variable DEBUG contains "sdk": the vendor's SDK
// then prints whole answers, private keys included.
func New(cfg Config) (*Client, error) {
	if strings.Contains(os.Getenv("DEBUG"), "sdk") {
		return nil, errors.New("aliyun: the environment has DEBUG=sdk, which makes the SDK print private keys; unset it")
	}
	if cfg.AccessKeyID == "" || cfg.AccessKeySecret == "" || cfg.Main == "" || cfg.Permits == nil {
		return nil, errors.New("aliyun: AccessKeyID, AccessKeySecret, Main and Permits are required")
	}
	cas, err := parseEndpoint(cfg.Endpoint, "https://cas.aliyuncs.com")
	if err != nil {
		return nil, err
	}
	dns, err := parseEndpoint(cfg.DNSEndpoint, "https://alidns.aliyuncs.com")
	if err != nil {
		return nil, err
	}
	if cfg.Region == "" {
		cfg.Region = "cn-hangzhou"
	}
	return &Client{
		caller:    issuer.Caller{Main: cfg.Main, Permits: cfg.Permits},
		endpoints: map[string]endpoint{"cas": cas, "alidns": dns},
		region:    cfg.Region,
		key:       credential(cfg),
		scrub:     scrubber(cfg),
		transport: issuer.NewTransport(issuer.TransportOptions{
			Identify: identify(cfg.Main), Stamp: stamp, TLS: cfg.TLS, Proxy: cfg.Proxy}),
	}, nil
}

func parseEndpoint(s, standard string) (endpoint, error) {
	if s == "" {
		s = standard
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return endpoint{}, fmt.Errorf("aliyun: endpoint %q is not http(s)://host[:port]", s)
	}
	return endpoint{scheme: strings.ToUpper(u.Scheme), host: u.Host}, nil
}

func credential(cfg Config) func() auth.Credential {
	id, secret, token := cfg.AccessKeyID, cfg.AccessKeySecret, cfg.SecurityToken
	return func() auth.Credential {
		if token != "" {
			return credentials.NewStsTokenCredential(id, secret.Reveal(), token.Reveal())
		}
		return credentials.NewAccessKeyCredential(id, secret.Reveal())
	}
}

// scrubber removes what identifies the key from messages of the cloud, which
// repeats the request in some of them.
func scrubber(cfg Config) *strings.Replacer {
	pairs := []string{cfg.AccessKeySecret.Reveal(), "[redacted]", cfg.AccessKeyID, "[access key]"}
	if cfg.SecurityToken != "" {
		pairs = append(pairs, cfg.SecurityToken.Reveal(), "[redacted]")
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
// request's action unless ctx carries a live one, ends at the permit's
// deadline, and never sends twice; the endpoint follows from the request's
// product (cas, Alidns). Requests must be POST, which is not the default of
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
	return c.caller.Do(ctx, req.GetActionName(), func(ctx context.Context) error {
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

// Package returns the flow of package plans, CreateCertificateForPackageRequest.
func (c *Client) Package() issuer.Flow {
	return &packages{c: c, action: "CreateCertificateForPackageRequest"}
}

// CSR returns the flow of package plans for a CSR of the user's,
// CreateCertificateWithCsrRequest. All but Submit is the same as in Package.
func (c *Client) CSR() issuer.Flow {
	return &packages{c: c, action: "CreateCertificateWithCsrRequest"}
}

// Instance returns the flow of single instances that were bought already,
// CreateDVOrderAudit.
func (c *Client) Instance() issuer.Flow { return &instances{c} }
