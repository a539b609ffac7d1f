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
	maxRedirects = 2        // tencentcloud.com 1007/43542
	maxFile      = 64 << 10 // bytes of a file and of an answer's headers
)

// lookFile fetches the file over HTTP. Redirects are followed as the CA does:
// few, within one registrable domain, on the ports of the Baseline Requirements
// (3.2.2.4.18), and whatever the certificate there, because the name may have
// no valid one yet.
func (l *Looker) lookFile(ctx context.Context, c order.Challenge) (Sighting, error) {
	at := url.URL{Scheme: "http", Host: c.Host, Path: c.Path}
	ctx, cancel := context.WithTimeout(ctx, 4*l.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return Sighting{}, fmt.Errorf("look for a file: %w", err)
	}
	transport := l.webTransport()
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, CheckRedirect: sameDomain}).Do(req)
	if err != nil {
		return Sighting{Missing: []string{err.Error()}}, nil // names the URL
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Sighting{Missing: []string{fmt.Sprintf("%s: status %d", resp.Request.URL, resp.StatusCode)}}, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxFile))
	if err != nil {
		return Sighting{Missing: []string{fmt.Sprintf("%s: %v", resp.Request.URL, err)}}, nil
	}
	if got := strings.TrimSpace(string(body)); got != strings.TrimSpace(c.Value) {
		return Sighting{Missing: []string{fmt.Sprintf("%s: holds %s, not %s", resp.Request.URL, quote(got), quote(c.Value))}}, nil
	}
	return Sighting{}, nil
}

// sameDomain is the rule for redirects.
func sameDomain(req *http.Request, via []*http.Request) error {
	from, errFrom := publicsuffix.EffectiveTLDPlusOne(canonical(via[0].URL.Hostname()))
	to, errTo := publicsuffix.EffectiveTLDPlusOne(canonical(req.URL.Hostname()))
	switch port := req.URL.Port(); {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case errFrom != nil || errTo != nil || from != to:
		return errors.New("redirects to another domain")
	case port != "" && port != "80" && port != "443":
		return errors.New("redirects to a port that no CA goes to")
	}
	return nil
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

// dialWeb takes the first address of the host that accepts a connection.
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
		return nil, err
	}
	failed := fmt.Errorf("%s has no address", host)
	for _, ip := range addresses {
		dialer := net.Dialer{Timeout: l.timeout}
		conn, err := dialer.DialContext(ctx, network, net.JoinHostPort(ip, port))
		if err == nil {
			return conn, nil
		}
		failed = err
	}
	return nil, failed
}
