// Package tencent speaks to Tencent Cloud: SSL Certificate Service (version
// 2019-12-05) as a flow of package issuer, and any other service of API 3.0,
// such as DNSPod, through Client.Call.
//
// Signature and transport profile are the vendor's SDK; requests and answers
// are structs of ours, so that numbers stay exact and the product's own, large
// SDK is not needed.
package tencent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common"
	tchttp "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/http"
	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/profile"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/permit"
)

// Config is how one main account is reached. Endpoints are scheme, host and
// port.
type Config struct {
	Endpoint    string       // SSL; default https://ssl.tencentcloudapi.com
	DNSEndpoint string       // DNSPod; default https://dnspod.tencentcloudapi.com
	SecretID    string       // required
	SecretKey   order.Secret // required
	Token       order.Secret // with temporary credentials
	Region      string       // not needed by SSL and DNSPod; default none
	Main        string       // main account: what limits are keyed by; required
	Permits     *permit.Set  // required

	TLS   *tls.Config // nil: the system's roots
	Proxy *url.URL    // nil: none; the environment is not asked
}

// Client makes calls with one access key. It is safe for concurrent use.
type Client struct {
	caller   issuer.Caller
	services map[string]*common.Client // by service: ssl, dnspod
	scrub    *strings.Replacer
}

// New checks the config and returns a client; nothing is sent.
func New(cfg Config) (*Client, error) {
	if cfg.SecretID == "" || cfg.SecretKey == "" || cfg.Main == "" || cfg.Permits == nil {
		return nil, errors.New("tencent: SecretID, SecretKey, Main and Permits are required")
	}
	if common.DefaultHttpClient != nil {
		return nil, errors.New("tencent: the SDK's DefaultHttpClient is set, which all its clients would share")
	}
	transport := issuer.NewTransport(issuer.TransportOptions{
		Identify: identify(cfg.Main), Stamp: stamp, TLS: cfg.TLS, Proxy: cfg.Proxy})
	ssl, err := newService(cfg, cfg.Endpoint, "https://ssl.tencentcloudapi.com", transport)
	if err != nil {
		return nil, err
	}
	dns, err := newService(cfg, cfg.DNSEndpoint, "https://dnspod.tencentcloudapi.com", transport)
	if err != nil {
		return nil, err
	}
	return &Client{
		caller:   issuer.Caller{Main: cfg.Main, Permits: cfg.Permits},
		services: map[string]*common.Client{"ssl": ssl, "dnspod": dns},
		scrub:    scrubber(cfg),
	}, nil
}

// newService makes the SDK's client of one service, because its endpoint holds
// for all of them. All that the SDK does by itself is off: retries, the region
// breaker (after five failures it would go to another endpoint), its printing
// of whole answers, its time-out (it only has to be longer than ours).
func newService(cfg Config, at, standard string, transport http.RoundTripper) (*common.Client, error) {
	if at == "" {
		at = standard
	}
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return nil, fmt.Errorf("tencent: endpoint %q is not http(s)://host[:port]", at)
	}
	p := profile.NewClientProfile()
	p.HttpProfile.Endpoint, p.HttpProfile.Scheme = u.Host, strings.ToUpper(u.Scheme)
	p.HttpProfile.ReqMethod, p.HttpProfile.ReqTimeout = http.MethodPost, int(time.Hour/time.Second)
	p.NetworkFailureMaxRetries, p.RateLimitExceededMaxRetries, p.UnsafeRetryOnConnectionFailure = 0, 0, false
	p.DisableRegionBreaker, p.Debug = true, false
	p.Language = "en-US" // of messages; the default is Chinese
	key := common.NewTokenCredential(cfg.SecretID, cfg.SecretKey.Reveal(), cfg.Token.Reveal())
	return common.NewCommonClient(key, cfg.Region, p).WithHttpTransport(transport), nil
}

// scrubber removes what identifies the key from messages of the cloud.
func scrubber(cfg Config) *strings.Replacer {
	pairs := []string{cfg.SecretKey.Reveal(), "[redacted]", cfg.SecretID, "[access key]"}
	if cfg.Token != "" {
		pairs = append(pairs, cfg.Token.Reveal(), "[redacted]")
	}
	return strings.NewReplacer(pairs...)
}

// identify reads the action from the header that is sent.
func identify(main string) func(*http.Request) (permit.Key, error) {
	return func(r *http.Request) (permit.Key, error) {
		action := r.Header.Get("X-TC-Action")
		if action == "" {
			return permit.Key{}, errors.New("the request names no X-TC-Action")
		}
		return permit.Key{Account: main, Action: action}, nil
	}
}

// stamp reads the time that the request was signed with.
func stamp(r *http.Request) (time.Time, error) {
	s, err := strconv.ParseInt(r.Header.Get("X-TC-Timestamp"), 10, 64)
	if err != nil {
		return time.Time{}, errors.New("no X-TC-Timestamp")
	}
	return time.Unix(s, 0), nil
}

// request is a request of ours in the SDK's clothes.
type request struct {
	*tchttp.BaseRequest
	in any
}

// MarshalJSON gives the body that is signed and sent.
func (r *request) MarshalJSON() ([]byte, error) {
	if r.in == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(r.in)
}

// reply keeps the inner answer as bytes, for a decoder that does not round.
type reply struct {
	*tchttp.BaseResponse
	Response json.RawMessage `json:"Response"`
}

// Call sends one request of a service (ssl, dnspod) with in as its JSON body
// and decodes what is below "Response" into out; nil is allowed for both. It
// waits for the permit of action unless ctx carries a live one, ends at the
// permit's deadline, and never sends twice.
//
// The error is *issuer.Error. A clear answer is HTTP 200 with a RequestId and
// without an Error; anything else that no table lists is issuer.Unavailable, or
// issuer.UnknownOutcome below issuer.Spending.
func (c *Client) Call(ctx context.Context, service, version, action string, in, out any) error {
	client := c.services[service]
	if client == nil {
		return &issuer.Error{Kind: issuer.Rejected, Action: action, Message: fmt.Sprintf("no endpoint for service %q", service)}
	}
	return c.caller.Do(ctx, action, func(ctx context.Context) error {
		req := &request{BaseRequest: new(tchttp.BaseRequest).Init().WithApiInfo(service, version, action), in: in}
		req.SetContext(ctx)
		resp := &reply{BaseResponse: &tchttp.BaseResponse{}}
		return c.verdict(ctx, client.Send(req, resp), resp.Response, out)
	})
}

// ssl calls the certificate service.
func (c *Client) ssl(ctx context.Context, action string, in, out any) error {
	return c.Call(ctx, "ssl", "2019-12-05", action, in, out)
}

// Certificate returns the flow of paid certificates, CertificateOrderSubmit.
func (c *Client) Certificate() issuer.Flow { return &certificates{c} }
