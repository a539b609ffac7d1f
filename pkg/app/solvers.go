package app

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/hook"
	"github.com/certmill/certmill/pkg/dcv/rfc2136"
)

// Solver is one that places DNS challenges, besides the accounts' own cloud DNS.
type Solver struct {
	Kind      string        `yaml:"kind" doc:"alidns, dnspod, rfc2136, webhook or exec"`
	Zones     []string      `yaml:"zones" doc:"zones that it serves, such as example.com, with all below; the longest wins; \"*\": all that no other solver serves, in place of the account's own cloud DNS"`
	Account   string        `yaml:"account" doc:"alidns, dnspod: label of the account that hosts the zones"`
	Server    string        `yaml:"server" doc:"rfc2136: host:port of the zones' primary name server"`
	Key       string        `yaml:"key" doc:"rfc2136: name of the TSIG key"`
	Algorithm string        `yaml:"algorithm" doc:"rfc2136: of the key (hmac-sha256)"`
	Secret    Ref           `yaml:"secret" doc:"rfc2136: the key's secret in base64, as env:NAME or file:PATH"`
	URL       string        `yaml:"url" doc:"webhook: http(s)://… of the web service, which gets a POST"`
	Token     Ref           `yaml:"token" doc:"webhook: bearer token that it asks for, as env:NAME or file:PATH"`
	Command   []string      `yaml:"command" doc:"exec: absolute path of the program, then its arguments; no shell reads them"`
	Env       []string      `yaml:"env" doc:"exec: names of variables that the program gets besides PATH, HOME and LANG"`
	Timeout   time.Duration `yaml:"timeout" doc:"rfc2136, webhook, exec: of one message (10s), request (30s) or run (60s)"`
}

// Kinds of solvers, besides the DNS of the clouds (Provider.DNS).
const (
	kindRFC2136 = "rfc2136"
	kindWebhook = "webhook"
	kindExec    = "exec"
)

// cloudOf is the cloud whose accounts' own DNS a kind is, "" if it is none.
func cloudOf(kind string) string {
	for word, p := range vendors() {
		if p.DNS != "" && p.DNS == kind {
			return word
		}
	}
	return ""
}

// fitting are the settings that belong to one kind: which must be there, and
// which may.
type fitting struct{ must, may []string }

// kinds are all kinds of solvers.
func kinds() map[string]fitting {
	all := map[string]fitting{
		kindRFC2136: {must: []string{"server", "key", "secret"}, may: []string{"algorithm", "timeout"}},
		kindWebhook: {must: []string{"url"}, may: []string{"token", "timeout"}},
		kindExec:    {must: []string{"command"}, may: []string{"env", "timeout"}},
	}
	for _, p := range vendors() {
		if p.DNS != "" {
			all[p.DNS] = fitting{must: []string{"account"}}
		}
	}
	return all
}

// given are the names of the settings that a solver has, besides kind and zones.
func (s Solver) given() []string {
	var all []string
	for name, given := range map[string]bool{
		"account": s.Account != "", "server": s.Server != "", "key": s.Key != "", "algorithm": s.Algorithm != "", "secret": s.Secret != "",
		"url": s.URL != "", "token": s.Token != "", "command": len(s.Command) > 0, "env": len(s.Env) > 0, "timeout": s.Timeout != 0,
	} {
		if given {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// checkSolvers refuses solvers that cannot work, and zones that two would serve.
func (c Config) checkSolvers() (all []error) {
	served := map[string]string{}
	for _, name := range sorted(c.DCV.Solvers) {
		s, at := c.DCV.Solvers[name], "dcv.solvers."+name
		all = append(all, s.check(at)...)
		if cloud := cloudOf(s.Kind); cloud != "" && s.Account != "" && c.Accounts[s.Account].Cloud != cloud {
			all = append(all, fmt.Errorf("%s.account is %q: write the label of one of the accounts at %s, of which the key may write its DNS", at, s.Account, cloud))
		}
		for _, z := range s.Zones {
			zone, ok := zoneForm(z)
			switch other := served[zone]; {
			case !ok:
				all = append(all, fmt.Errorf("%s.zones has %q: write a zone such as example.com, or \"*\" for all others", at, z))
			case other != "":
				all = append(all, fmt.Errorf("%s.zones has %s, and so has dcv.solvers.%s: write it at one of them", at, z, other))
			}
			served[zone] = name
		}
	}
	return all
}

func (s Solver) check(at string) (wrong []error) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(at+format, args...)) }
	all := kinds()
	fits, ok := all[s.Kind]
	if !ok {
		bad(".kind is %q: write one of %s", s.Kind, strings.Join(sorted(all), ", "))
		return wrong
	}
	if len(s.Zones) == 0 {
		bad(".zones is empty: write the zones that it serves, such as [example.com], or [\"*\"] for all")
	}
	given := s.given()
	for _, name := range fits.must {
		if !slices.Contains(given, name) {
			bad(".%s is missing: a solver of kind %s needs it", name, s.Kind)
		}
	}
	for _, name := range given {
		if !slices.Contains(fits.must, name) && !slices.Contains(fits.may, name) {
			bad(".%s is not for the kind %s: leave it out, or write another kind", name, s.Kind)
		}
	}
	for name, ref := range map[string]Ref{"secret": s.Secret, "token": s.Token} {
		if err := ref.check(); err != nil {
			bad(".%s: %w", name, err)
		}
	}
	if s.Timeout < 0 {
		bad(".timeout is %v: it cannot be negative", s.Timeout)
	}
	if len(wrong) == 0 {
		if err := s.tryOut(); err != nil {
			bad(": %w", err)
		}
	}
	return wrong
}

// tryOut makes the solver as a worker will, but for its secret and its program, which
// the worker's machine has. Nothing is sent.
func (s Solver) tryOut() error {
	if s.Kind == kindExec {
		return s.program().Check()
	}
	if s.Secret != "" {
		s.Secret = unread
	}
	if s.Token != "" {
		s.Token = unread
	}
	_, err := s.open(nil)
	return err
}

func (s Solver) program() hook.ProgramConfig {
	return hook.ProgramConfig{Command: s.Command, Env: s.Env, Zones: s.Zones, Timeout: s.Timeout}
}

var (
	refForm   = regexp.MustCompile(`^(env|file):.`)
	labelsFit = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
)

// zoneForm is a zone as names are compared, and whether it can be one.
func zoneForm(zone string) (string, bool) {
	if zone == dcv.AnyZone {
		return zone, true
	}
	zone = dcv.ALabels(strings.ToLower(strings.TrimSuffix(zone, ".")))
	return zone, len(zone) < 254 && labelsFit.MatchString(zone)
}

// openSolvers makes what is configured, by zone. own are the accounts' cloud DNS,
// by label. Nothing is sent.
func (c Config) openSolvers(own map[string]dcv.Solver) (map[string]dcv.Solver, error) {
	byZone := map[string]dcv.Solver{}
	for _, name := range sorted(c.DCV.Solvers) {
		cfg := c.DCV.Solvers[name]
		s, err := cfg.open(own)
		if err != nil {
			return nil, fmt.Errorf("dcv.solvers.%s: %w", name, err)
		}
		for _, z := range cfg.Zones {
			byZone[z] = s
		}
	}
	return byZone, nil
}

// open makes one: a new kind of solver is one case here.
func (s Solver) open(own map[string]dcv.Solver) (dcv.Solver, error) {
	secret, err := cmp.Or(s.Secret, s.Token).read()
	if err != nil {
		return nil, err
	}
	switch s.Kind {
	case kindRFC2136:
		return rfc2136.New(rfc2136.Config{Server: s.Server, Key: s.Key, Algorithm: s.Algorithm, Secret: secret, Timeout: s.Timeout})
	case kindWebhook:
		return hook.NewWebhook(hook.WebhookConfig{URL: s.URL, Token: secret, Zones: s.Zones, Timeout: s.Timeout})
	case kindExec:
		return hook.NewProgram(s.program())
	default:
		return own[s.Account], nil
	}
}

// route is the solver of an account's DNS challenges: what is configured, and
// its own cloud's DNS, if there is one, for the zones of nobody else.
func route(byZone map[string]dcv.Solver, own dcv.Solver, aliases dcv.Aliases) dcv.Solver {
	all := map[string]dcv.Solver{}
	if own != nil {
		all[dcv.AnyZone] = own
	}
	for zone, s := range byZone {
		all[zone] = s
	}
	return dcv.NewRoute(all, aliases)
}
