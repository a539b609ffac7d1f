package dcv

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/miekg/dns"

	"github.com/certmill/certmill/pkg/order"
)

// Looker sees challenges as the CA will: records at every authoritative server
// of their zone, asked directly, so that no cache answers and none learns that
// there is nothing yet; files over HTTP. It connects to public addresses only,
// besides the resolvers and servers of its config. It is safe for concurrent
// use.
type Looker struct {
	resolvers []string
	servers   []string
	port      string
	httpPort  string
	timeout   time.Duration
	guard     *guard
	places    *Places // one for each question that is on the way, by whom it goes to
}

// LookerConfig says which way a Looker looks. The zero value looks at the
// Internet.
type LookerConfig struct {
	// Resolvers are recursive resolvers, host:port. They find the zones' servers
	// and the hosts of files. Default: those of /etc/resolv.conf.
	Resolvers []string
	// Servers, host:port, are asked for records in place of the authoritative
	// servers, and need not be authoritative: a simulated world, or a network
	// that lets no query out.
	Servers []string
	// ServerPort is where the authoritative servers listen. Default 53.
	ServerPort int
	// HTTPPort is where files are fetched in place of port 80.
	HTTPPort int
	// Timeout of one query or connection. Default 3 s.
	Timeout time.Duration
	// Allow are addresses that are not public and that names may lie at all the
	// same: split-horizon DNS, a simulated world. Link-local addresses and the
	// metadata services of clouds are not allowed by it.
	Allow []netip.Prefix
	// OwnPort is where this machine serves challenges itself, if it does: there
	// it may be looked at, if its address is a public one.
	OwnPort uint16
}

// Bounds of what a Looker does at a time and of what it tells.
const (
	maxQuestions = 128 // on the way at once, to one server half as many; each is a socket
	maxSentences = 12  // of a Sighting
	lookTimeouts = 10  // timeouts that one look at a record may take together
)

// Check refuses what is no address of a resolver or name server.
func (c LookerConfig) Check() error {
	for _, addr := range append(c.Resolvers[:len(c.Resolvers):len(c.Resolvers)], c.Servers...) {
		if !isHostPort(addr) {
			return fmt.Errorf("%q is not host:port, such as 192.0.2.53:53", addr)
		}
	}
	return nil
}

// NewLooker checks the config. Nothing is sent.
func NewLooker(cfg LookerConfig) (*Looker, error) {
	if len(cfg.Resolvers) == 0 {
		system, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil || len(system.Servers) == 0 {
			return nil, fmt.Errorf("look for challenges: /etc/resolv.conf names no resolver (%v); name one in the config", err)
		}
		for _, s := range system.Servers {
			cfg.Resolvers = append(cfg.Resolvers, net.JoinHostPort(s, system.Port))
		}
	}
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("look for challenges: %w", err)
	}
	return &Looker{resolvers: cfg.Resolvers, servers: cfg.Servers, port: portOr(cfg.ServerPort, 53), httpPort: portOr(cfg.HTTPPort, 80),
		timeout: durationOr(cfg.Timeout, 3*time.Second), guard: &guard{allow: cfg.Allow, own: net.InterfaceAddrs, port: cfg.OwnPort},
		places: NewPlaces(maxQuestions)}, nil
}

// Look tells whether the challenge shows everywhere. An error means that
// nothing can be said: ctx ended, or no resolver tells whom to ask. A server
// that does not answer is not an error: the challenge does not show there. What
// is missing is told in sentences that stay the same while nothing changes.
func (l *Looker) Look(ctx context.Context, c order.Challenge) (Sighting, error) {
	var s Sighting
	var err error
	switch c.Type {
	case TXT, CNAME:
		s, err = l.lookDNS(ctx, c)
	case FILE:
		s, err = l.lookFile(ctx, c)
	default:
		return Sighting{}, fmt.Errorf("nobody can look for a challenge of type %s", quote(c.Type))
	}
	if err == nil && ctx.Err() != nil { // servers did not answer because of that
		err = ctx.Err()
	}
	if err != nil {
		return Sighting{}, err
	}
	s.Seen = len(s.Missing) == 0
	s.Missing = evidence(s.Missing)
	return s, nil
}

// evidence puts sentences in order, each once, and no more than a person reads.
func evidence(sentences []string) []string {
	slices.Sort(sentences)
	sentences = slices.Compact(sentences)
	if n := len(sentences) - maxSentences; n > 0 {
		sentences = append(sentences[:maxSentences], fmt.Sprintf("and %d more servers", n))
	}
	return sentences
}

func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, bad := strconv.ParseUint(port, 10, 16)
	return err == nil && bad == nil && host != "" && n > 0
}

func portOr(port, standard int) string {
	if port == 0 {
		port = standard
	}
	return strconv.Itoa(port)
}

func durationOr(d, standard time.Duration) time.Duration {
	if d == 0 {
		return standard
	}
	return d
}
