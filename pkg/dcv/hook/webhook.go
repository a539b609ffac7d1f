package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
)

// WebhookConfig says which web service is asked.
type WebhookConfig struct {
	URL     string        // http or https
	Token   order.Secret  // sent as "Authorization: Bearer …"; empty: none
	Zones   []string      // what the service is told as "zone"
	Timeout time.Duration // of one request; default 30 s
}

// NewWebhook returns the solver. Nothing is sent.
func NewWebhook(cfg WebhookConfig) (dcv.Solver, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, errors.New("url: write http(s)://host[:port]/path of the web service; a password belongs into token")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	redact.Learn(cfg.Token.Reveal())
	for _, values := range u.Query() { // some services take their token there
		redact.Learn(values...)
	}
	w := webhook{cfg: cfg, at: redact.Text(u.String()), client: &http.Client{
		Timeout: cfg.Timeout,
		// The token and the record are for this address, not for another.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	return newSolver(cfg.Zones, w.ask), nil
}

type webhook struct {
	cfg    WebhookConfig
	at     string
	client *http.Client
}

func (w webhook) ask(ctx context.Context, r request) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if w.cfg.Token != "" {
		req.Header.Set("Authorization", "Bearer "+w.cfg.Token.Reveal())
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return redact.Error(fmt.Errorf("webhook: %w", err)) // it has the whole URL
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return nil
	}
	said, _ := io.ReadAll(io.LimitReader(resp.Body, maxHeard)) // what came is told
	err = fmt.Errorf("webhook %s answers %d to %s of %s; %s", w.at, resp.StatusCode, r.Action, r.Name, told(said))
	if kind, ok := kinds[resp.StatusCode]; ok {
		return fmt.Errorf("%w: %w", kind, err)
	}
	return err
}

// kinds are the answers for which only a person can help.
var kinds = map[int]dcv.Kind{
	http.StatusNotFound: dcv.NoZone, http.StatusConflict: dcv.Conflict,
	http.StatusBadRequest: dcv.Denied, http.StatusUnauthorized: dcv.Denied, http.StatusForbidden: dcv.Denied, http.StatusUnprocessableEntity: dcv.Denied,
}
