// Package tencent speaks to Tencent Cloud: SSL Certificate Service (version
// 2019-12-05), STS and CAM as an issuer.Cloud, and any other service of API 3.0,
// such as DNSPod, through Client.Call.
//
// Signature and transport profile are the vendor's SDK; requests and answers
// are structs of ours, so that numbers stay exact and the product's own, large
// SDK is not needed.
package tencent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common"
	tchttp "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/http"
	"github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud/common/profile"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/permit"
)

// Client makes calls with one access key. It is safe for concurrent use.
type Client struct {
	caller    issuer.Caller
	services  map[string]*common.Client // by service: ssl, dnspod, sts, cam
	scrub     *strings.Replacer
	product   string // of orders that name none
	temporary bool   // the credentials are those of a role or a federated user
}

var _ issuer.Cloud = (*Client)(nil)

// domain is where the vendor's own endpoints are.
const domain = "tencentcloudapi.com"

// New checks how the account is reached and returns a client; nothing is sent.
// A region is not needed by SSL and DNSPod, which get none if none is named.
func New(a issuer.Access) (*Client, error) {
	if err := a.Check(); err != nil {
		return nil, fmt.Errorf("tencent: %w", err)
	}
	if common.DefaultHttpClient != nil {
		return nil, errors.New("tencent: the SDK's DefaultHttpClient is set, which all its clients would share")
	}
	transport := issuer.NewTransport(issuer.TransportOptions{
		Identify: identify(a.Main), Stamp: stamp, Free: calls.Free(), TLS: a.TLS, Proxy: a.Proxy})
	services, err := newServices(a, transport)
	if err != nil {
		return nil, err
	}
	return &Client{
		caller:    issuer.Caller{Main: a.Main, Permits: a.Permits, Gate: a.Gate},
		services:  services,
		scrub:     scrubber(a),
		product:   a.Product,
		temporary: a.Token != "",
	}, nil
}

// newServices makes the SDK's clients of all services.
func newServices(a issuer.Access, transport http.RoundTripper) (map[string]*common.Client, error) {
	all := map[string]*common.Client{}
	for service, at := range map[string]string{
		"ssl":    cmp.Or(a.Endpoint, "https://ssl."+domain),
		"dnspod": cmp.Or(a.DNSEndpoint, "https://dnspod."+domain),
		"sts":    cmp.Or(a.IdentityEndpoint, issuer.ServiceAt(a.Endpoint, domain, "https://sts."+domain)),
		"cam":    issuer.ServiceAt(cmp.Or(a.IdentityEndpoint, a.Endpoint), domain, "https://cam."+domain),
	} {
		region := a.Region
		if service == "sts" { // its documents require one; the answer is the same in all
			region = cmp.Or(region, "ap-guangzhou")
		}
		client, err := newService(a, at, region, transport)
		if err != nil {
			return nil, err
		}
		all[service] = client
	}
	return all, nil
}

// newService makes the SDK's client of one service, because its endpoint holds
// for all of them. All that the SDK does by itself is off: retries, the region
// breaker (after five failures it would go to another endpoint), its printing
// of whole answers, its time-out (it only has to be longer than ours).
func newService(a issuer.Access, at, region string, transport http.RoundTripper) (*common.Client, error) {
	u, err := issuer.ParseEndpoint(at)
	if err != nil {
		return nil, fmt.Errorf("tencent: %w", err)
	}
	p := profile.NewClientProfile()
	p.HttpProfile.Endpoint, p.HttpProfile.Scheme = u.Host, strings.ToUpper(u.Scheme)
	p.HttpProfile.ReqMethod, p.HttpProfile.ReqTimeout = http.MethodPost, int(time.Hour/time.Second)
	p.NetworkFailureMaxRetries, p.RateLimitExceededMaxRetries, p.UnsafeRetryOnConnectionFailure = 0, 0, false
	p.DisableRegionBreaker, p.Debug = true, false
	p.Language = "en-US" // of messages; the default is Chinese
	key := common.NewTokenCredential(a.KeyID, a.Secret.Reveal(), a.Token.Reveal())
	return common.NewCommonClient(key, region, p).WithHttpTransport(transport), nil
}

// scrubber removes what identifies the key from messages of the cloud.
func scrubber(a issuer.Access) *strings.Replacer {
	pairs := []string{a.Secret.Reveal(), "[redacted]", a.KeyID, "[access key]"}
	if a.Token != "" {
		pairs = append(pairs, a.Token.Reveal(), "[redacted]")
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

// Call sends one request of a service (ssl, dnspod, sts, cam) with in as its
// JSON body and decodes what is below "Response" into out; nil is allowed for
// both. It waits for the permit of action unless ctx carries a live one or the
// action is free, ends at the permit's deadline, and never sends twice.
//
// The error is *issuer.Error. A clear answer is HTTP 200 with a RequestId and
// without an Error; anything else that no table lists is issuer.Unavailable, or
// issuer.UnknownOutcome below issuer.Spending.
func (c *Client) Call(ctx context.Context, service, version, action string, in, out any) error {
	client := c.services[service]
	if client == nil {
		return &issuer.Error{Kind: issuer.Rejected, Action: action, Message: fmt.Sprintf("no endpoint for service %q", service)}
	}
	do := c.caller.Do
	if known, _ := calls.Find(action); known.Free {
		do = c.caller.Free
	}
	return do(ctx, action, func(ctx context.Context) error {
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
