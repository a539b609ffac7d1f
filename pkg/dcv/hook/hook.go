// Package hook hands DNS challenges to whatever else the user has: a web service
// (Webhook) or a program (Program).
//
// Both get the same JSON object, the web service as the body of a POST, the
// program on its standard input:
//
//	{"action":"present","type":"TXT","name":"_dnsauth.example.com","value":"…","zone":"example.com"}
//
// action is present or cleanup; type is TXT or CNAME; name is absolute, in
// A-labels, without the root's dot; zone is the longest of the solver's
// configured zones in which the name lies, and left out where that is "*".
//
// What the hook does must be idempotent, because it is asked again whenever
// an answer was lost: present succeeds if this very record is there, and leaves
// other values at the name alone; cleanup removes the record with this type,
// name and value only, and succeeds if there is none. It may return before the
// record is served: certmill looks itself.
//
// Answers:
//
//	HTTP status      exit status  meaning
//	2xx              0            done
//	404              68           it has no zone for the name; a person must help
//	409              73           something at the name excludes the record; a person must help
//	400 401 403 422  65 77        it refuses; a person must help
//	any other        any other    try again later
//
// The exit statuses are those of sysexits.h: EX_DATAERR, EX_NOHOST, EX_CANTCREAT,
// EX_NOPERM. Redirects are not followed. The first 500 bytes of the answer's
// body, or of what the program writes to its standard error, are told with the
// error, without what certmill knows as secret; other secrets do not belong there.
package hook

import (
	"context"
	"fmt"
	"strings"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/redact"
)

// maxTold is how many bytes of a hook's own words are kept, and maxHeard how many
// are heard: what is kept has no secrets, of which one may go on where it is cut.
const (
	maxTold  = 500
	maxHeard = 16 << 10
)

// request is what a hook is asked.
type request struct {
	Action string `json:"action"`
	Type   string `json:"type"`
	Name   string `json:"name"`
	Value  string `json:"value"`
	Zone   string `json:"zone,omitempty"`
}

// solver is the dcv.Solver of both kinds.
type solver struct {
	zones map[string]bool
	ask   func(ctx context.Context, r request) error
}

func newSolver(zones []string, ask func(context.Context, request) error) dcv.Solver {
	s := solver{zones: map[string]bool{}, ask: ask}
	for _, z := range zones {
		s.zones[dcv.ALabels(strings.ToLower(strings.TrimSuffix(z, ".")))] = true
	}
	return s
}

// Present implements dcv.Solver.
func (s solver) Present(ctx context.Context, c order.Challenge) error {
	return s.do(ctx, "present", c)
}

// CleanUp implements dcv.Solver.
func (s solver) CleanUp(ctx context.Context, c order.Challenge) error {
	return s.do(ctx, "cleanup", c)
}

func (s solver) do(ctx context.Context, action string, c order.Challenge) error {
	if c.Type != dcv.TXT && c.Type != dcv.CNAME || c.Value == "" {
		return fmt.Errorf("%w: a %s challenge is not for a hook of DNS records, or has no value", dcv.Denied, c.Type)
	}
	name := dcv.ALabels(strings.ToLower(strings.TrimSuffix(c.Host, ".")))
	zone, _, _ := dcv.Split(name, s.zones)
	return s.ask(ctx, request{action, c.Type, name, c.Value, zone})
}

// told is what a hook said, for people: one line, bounded, without what a
// terminal would obey.
func told(said []byte) string {
	text := strings.TrimSpace(redact.Head(said, maxTold))
	if text == "" {
		return "it says nothing more"
	}
	return fmt.Sprintf("it says %q", text)
}
