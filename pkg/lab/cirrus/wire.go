package cirrus

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
)

// call makes one call, with the permit of its action unless that is free, and
// decodes the result into out. The receipt of the cloud is the request's id. The
// error is *issuer.Error.
func (c *Client) call(ctx context.Context, action string, in, out any) error {
	_, err := c.ask(ctx, action, in, out)
	return err
}

func (c *Client) ask(ctx context.Context, action string, in, out any) (request string, err error) {
	do := c.caller.Do
	if known, _ := calls.Find(action); known.Free {
		do = c.caller.Free
	}
	err = do(ctx, action, func(ctx context.Context) error {
		r, err := c.signed(ctx, action, in)
		if err != nil {
			return err
		}
		resp, err := c.transport.RoundTrip(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		request, err = c.verdict(ctx, resp, out)
		return err
	})
	return request, err
}

// signed makes the request.
func (c *Client) signed(ctx context.Context, action string, in any) (*http.Request, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	path, now := "/v1/"+action, time.Now().UTC().Format(time.RFC3339)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(body)
	mac := hmac.New(sha256.New, []byte(c.secret.Reveal()))
	fmt.Fprintf(mac, "%s\n%s\n%x", path, now, digest)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Cirrus-Key", c.key)
	r.Header.Set("Cirrus-Time", now)
	r.Header.Set("Cirrus-Signature", hex.EncodeToString(mac.Sum(nil)))
	return r, nil
}

// verdict judges an answer: only one of the documented form is clear.
func (c *Client) verdict(ctx context.Context, resp *http.Response, out any) (request string, err error) {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", c.unclear(ctx, "", "the answer breaks off")
	}
	var answer struct {
		Request string
		Result  json.RawMessage
		Error   *struct{ Code, Message string }
	}
	if json.Unmarshal(body, &answer) != nil || answer.Request == "" {
		return "", c.unclear(ctx, "", fmt.Sprintf("HTTP %d, and the answer is not one of this API", resp.StatusCode))
	}
	request = c.show(answer.Request, 80)
	switch {
	case answer.Error != nil && answer.Error.Code != "":
		return request, codes.Refusal(ctx, c.show(answer.Error.Code, 80), c.show(answer.Error.Message, 200), request)
	case resp.StatusCode != http.StatusOK || len(answer.Result) == 0:
		return request, c.unclear(ctx, request, fmt.Sprintf("HTTP %d without a result", resp.StatusCode))
	}
	if err := json.Unmarshal(answer.Result, out); err != nil {
		return request, c.unclear(ctx, request, "the answer does not have the documented form")
	}
	return request, nil
}

func (c *Client) unclear(ctx context.Context, request, message string) error {
	return &issuer.Error{Kind: issuer.Unclear(ctx), Message: message, RequestID: request}
}

// show makes a text of the cloud fit for an error: one short line.
func (c *Client) show(s string, limit int) string {
	s = strings.Join(strings.Fields(c.scrub.Replace(s)), " ")
	if r := []rune(s); len(r) > limit {
		s = string(r[:limit]) + "…"
	}
	return s
}
