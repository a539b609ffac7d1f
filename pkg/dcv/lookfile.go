package dcv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/certmill/certmill/pkg/order"
)

const (
	maxRedirects = 2        // as one cloud documents of its CAs; no other says more
	maxFile      = 64 << 10 // bytes of a file and of an answer's headers
	maxHosts     = 8        // addresses of a web server that are tried
	fileTimeouts = 4        // timeouts that fetching one file may take together
)

// lookFile fetches the file over HTTP. Redirects are followed as the CA does:
// few, within one registrable domain, on the ports of the Baseline Requirements
// (3.2.2.4.18), and whatever the certificate there, because the name may have
// no valid one yet. No cookie, password or proxy comes into it.
func (l *Looker) lookFile(ctx context.Context, c order.Challenge) (Sighting, error) {
	if err := webHost(c.Host); err != nil {
		return Sighting{Missing: []string{err.Error()}}, nil
	}
	at := url.URL{Scheme: "http", Host: c.Host, Path: c.Path}
	ctx, cancel := context.WithTimeout(ctx, fileTimeouts*l.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return Sighting{}, fmt.Errorf("look for a file: %w", err)
	}
	transport := l.webTransport()
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, CheckRedirect: asCAsDo}).Do(req)
	var failed *url.Error
	switch {
	case errors.As(err, &failed):
		return Sighting{Silent: true, Missing: []string{plain(failed.URL) + ": " + reason(failed.Err)}}, nil
	case err != nil:
		return Sighting{Silent: true, Missing: []string{plain(at.String()) + ": " + reason(err)}}, nil
	}
	defer resp.Body.Close()
	if missing := judge(resp, c.Value); missing != "" {
		return Sighting{Missing: []string{plain(resp.Request.URL.String()) + ": " + missing}}, nil
	}
	return Sighting{}, nil
}

// judge says what is wrong with an answer.
func judge(resp *http.Response, want string) string {
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprintf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxFile))
	if err != nil {
		return reason(err)
	}
	if got := strings.TrimSpace(string(body)); got != strings.TrimSpace(want) {
		return "holds " + quote(got) + ", not " + quote(want)
	}
	return ""
}

// webHost refuses what is no name of a public web server: addresses in any
// spelling that some library reads as one (127.1, 0x7f000001, 2130706433),
// names of one's own network, and what carries a port, a user or a path.
func webHost(host string) error {
	refuse := func(what string) error {
		return fmt.Errorf("%s is no name of a public web server: %s", quote(host), what)
	}
	name := strings.ToLower(host)
	labels := strings.Split(name, ".")
	last := labels[len(labels)-1]
	_, notPublic := publicsuffix.EffectiveTLDPlusOne(name)
	switch {
	case !HostName(name):
		return refuse("a name has labels of letters, digits and '-', and no port")
	case last[0] >= '0' && last[0] <= '9': // no top-level domain begins so, and some library may read a number
		return refuse("it is an address")
	case last == "localhost" || len(labels) < 2 || notPublic != nil:
		return refuse("nobody can register it")
	}
	return nil
}

// HostName accepts host names of lower-case A-labels, underscores too; so never
// "..", an IPv6 address, or anything with a port.
func HostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// asCAsDo is the rule for redirects.
func asCAsDo(req *http.Request, via []*http.Request) error {
	from, errFrom := publicsuffix.EffectiveTLDPlusOne(canonical(via[0].URL.Hostname()))
	to, errTo := publicsuffix.EffectiveTLDPlusOne(canonical(req.URL.Hostname()))
	switch port := req.URL.Port(); {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case req.Response.StatusCode == http.StatusSeeOther: // Baseline Requirements 3.2.2.4.18: 301, 302, 307 and 308
		return errors.New("redirects by status 303, which CAs do not follow")
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return errors.New("redirects to a scheme other than http and https")
	case req.URL.User != nil:
		return errors.New("redirects with a user or password")
	case port != "" && port != "80" && port != "443":
		return errors.New("redirects to a port that no CA goes to")
	case errFrom != nil || errTo != nil || from != to:
		return errors.New("redirects to another domain")
	}
	return webHost(req.URL.Hostname())
}

// webTransport asks the looker's resolvers and goes to its port. The
// environment's proxy is not used: the CA does not go that way either.
func (l *Looker) webTransport() *http.Transport {
	return &http.Transport{
		DialContext:            l.dialWeb,
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, // see lookFile: nothing secret is sent or learned
		TLSHandshakeTimeout:    l.timeout,
		ResponseHeaderTimeout:  l.timeout,
		MaxResponseHeaderBytes: maxFile,
		DisableKeepAlives:      true,
		DisableCompression:     true,
	}
}

// dialWeb takes the first address of the host that accepts a connection. What
// is resolved here is what is connected to.
func (l *Looker) dialWeb(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if port == "80" {
		port = l.httpPort
	}
	addresses, err := l.lookup(ctx, host)
	if err != nil {
		return nil, errors.New("the name cannot be resolved: " + reason(err))
	}
	dialer := net.Dialer{Timeout: l.timeout, Control: l.guard.control}
	failed := fmt.Errorf("%s has no address", plain(host))
	for _, ip := range addresses[:min(len(addresses), maxHosts)] {
		conn, err := dialer.DialContext(ctx, network, net.JoinHostPort(ip, port))
		if err == nil {
			return conn, nil
		}
		failed = err
	}
	return nil, failed
}
