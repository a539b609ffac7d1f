package permit

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// Transport is the http.RoundTripper under a provider's SDK. It refuses, before
// anything is sent, every request that carries no live permit for its account
// and action, and ends what it sends at the permit's deadline. One permit lets
// one request through: a retry inside the SDK is refused. Next MUST send a
// request at most once and MUST reset the connection when its context ends.
type Transport struct {
	Next     http.RoundTripper
	Identify func(*http.Request) (Key, error) // finds account and action of a request
}

func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	p, err := t.admit(r)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	ctx, cancel := context.WithDeadline(r.Context(), p.expires)
	resp, err := t.Next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = body{resp.Body, cancel}
	return resp, nil
}

func (t Transport) admit(r *http.Request) (*Permit, error) {
	k, err := t.Identify(r)
	if err != nil {
		return nil, err
	}
	p := FromContext(r.Context())
	if p == nil {
		return nil, fmt.Errorf("request %v: %w", k, ErrNoPermit)
	}
	return p, p.use(k)
}

// body ends the deadline's context with the answer.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b body) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
