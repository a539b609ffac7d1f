package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/certmill/certmill/pkg/certstore"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
	"github.com/certmill/certmill/pkg/stage"
)

// errRecipients: keys would be sealed to somebody else than the store's keys are, or
// nobody here can open them.
var errRecipients = errors.New("recipients")

func badRecipients(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errRecipients, fmt.Sprintf(format, args...))
}

// openKeys gives a role no more than it needs: the submitter seals and stores,
// only the collector opens.
func (p *Process) openKeys(r order.Role) (err error) {
	if r == order.Verifier {
		return nil
	}
	if r == order.Submitter && p.keys == nil {
		if p.keys, err = p.cfg.openStore(); err != nil {
			return err
		}
		clouds := certstore.Real
		if p.simulated {
			clouds = certstore.Simulated
		}
		if err := p.keys.Dedicate(clouds); err != nil {
			return err
		}
	}
	if p.recipients, err = p.cfg.recipients(); err != nil {
		return err
	}
	if r == order.Submitter {
		return p.sealsAsTheStore()
	}
	if p.cfg.Keys.Identity == "" {
		return nil
	}
	id, err := certstore.LoadIdentities(p.cfg.Keys.Identity)
	if err != nil {
		return err
	}
	learnFile(p.cfg.Keys.Identity)
	p.identities = &id
	return p.opensTheStore()
}

// recipients are those that the config has keys sealed to: a machine that makes its
// own identity seals to that.
func (c Config) recipients() (certstore.Recipients, error) {
	k := c.Keys
	if len(k.Recipients) > 0 {
		return certstore.ParseRecipients(k.Recipients...)
	}
	if k.Identity == "" {
		return certstore.Recipients{}, errors.New("keys.recipients is empty: write at least one age recipient (age1…), " +
			"or nobody could open the private keys; certmill identity FILE makes one, and an identity to open them with")
	}
	id, err := c.ownIdentity()
	if err != nil {
		return certstore.Recipients{}, err
	}
	return id.Recipients()
}

// ownIdentity makes the machine's identity, unless the key store has keys already:
// then there was one, and another would open none of them.
func (c Config) ownIdentity() (certstore.Identities, error) {
	_, err := os.Stat(c.Keys.Identity)
	if !errors.Is(err, fs.ErrNotExist) {
		return certstore.LoadIdentities(c.Keys.Identity)
	}
	if keys, err := certstore.FindKeyStore(absolute(c.Keys.Store)); err == nil {
		to, err := keys.Recipients()
		if err != nil {
			return certstore.Identities{}, err
		}
		if to.ID() != "" {
			return certstore.Identities{}, badRecipients("there is no identity at %s, and the keys in %s are sealed to %s: restore its file; "+
				"another one would not open them", absolute(c.Keys.Identity), keys.Dir(), oneLine(to))
		}
	}
	return certstore.OpenIdentity(c.Keys.Identity)
}

// sealsAsTheStore makes sure that new keys are sealed to whom all others are.
func (p *Process) sealsAsTheStore() error {
	to, err := p.keys.KeepRecipients(p.recipients)
	if err == nil && to.ID() != p.recipients.ID() {
		err = p.otherRecipients(to)
	}
	return err
}

func (p *Process) otherRecipients(to certstore.Recipients) error {
	return badRecipients("the keys in %s are sealed to %s, and this config has %s. If those of the config are right, stop the submitters and: certmill reseal",
		p.keys.Dir(), oneLine(to), oneLine(p.recipients))
}

func oneLine(to certstore.Recipients) string { return strings.ReplaceAll(to.String(), "\n", " and ") }

// opensTheStore proves, as far as it can be seen from here, that the collector's
// identity opens what is sealed: what the config seals to, and a pair of the key
// store, where that is at hand.
func (p *Process) opensTheStore() error {
	if err := p.mine(p.recipients, "keys.recipients of the config"); err != nil {
		return err
	}
	keys, err := certstore.FindKeyStore(absolute(p.cfg.Keys.Store))
	if err != nil {
		return nil //nolint:nilerr // most collectors do not see it; the orders' records tell, see opens
	}
	to, err := keys.Recipients()
	if err != nil || to.ID() == "" {
		return err
	}
	if err := p.mine(to, "the key store "+keys.Dir()); err != nil {
		return err
	}
	tried := 0
	err = keys.EachPair(func(r certstore.Ref, k order.Key) error {
		if len(k.Sealed) == 0 {
			return nil
		}
		if _, err := p.identities.Open(k.Sealed); err != nil {
			return p.opensNot("the key of order "+r.ID+" in "+keys.Dir(), k)
		}
		if tried++; tried == mostTried {
			return errEnough
		}
		return nil
	}, func(string, error) error { return nil })
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// mostTried is how many keys are opened to see that the identity is right; one that
// was sealed to others would be the exception.
const mostTried = 20

var errEnough = errors.New("enough was seen")

// mine tells whether one of the identities is that of a recipient.
func (p *Process) mine(to certstore.Recipients, where string) error {
	if !to.OpenedBy(*p.identities) {
		return badRecipients("the identity at %s opens nothing that is sealed to those of %s (%s): give the collector the identity of one of them, "+
			"or put its recipient (certmill identity %[1]s prints it) into the config, and: certmill reseal", p.cfg.Keys.Identity, where, oneLine(to))
	}
	return nil
}

func (p *Process) opensNot(what string, k order.Key) error {
	help := "restore it from a backup"
	if k.SealedTo != p.recipients.ID() {
		help = "it is sealed to other recipients than those of the config: certmill reseal, with the identity that opens it"
	}
	return badRecipients("the identity at %s does not open %s; %s", p.cfg.Keys.Identity, what, help)
}

// opens proves it by the orders' records, which every collector sees.
func (s *session) opens(ctx context.Context) error {
	if s.identities == nil {
		return nil
	}
	tried := 0
	for _, state := range []order.State{order.Collect, order.Issuing, order.Verify, order.Submit, order.Issued} {
		err := s.line.Each(ctx, state, "*", func(it pipeline.Item) error {
			if it.Key == nil || len(it.Key.Sealed) == 0 {
				return nil
			}
			if _, err := s.identities.Open(it.Key.Sealed); err != nil {
				return s.opensNot("the key of order "+it.ID(), *it.Key)
			}
			if tried++; tried == mostTried {
				return errEnough
			}
			return nil
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ResealOptions say with what keys are sealed anew.
type ResealOptions struct {
	Identities []string // files, besides keys.identity of the config
	Unproved   bool     // none of them need be that of a new recipient
	Who        string
}

// Reseal seals every private key to the recipients of the config. See stage.Reseal.
// The submitters must be stopped, or stop by themselves; the files that sinks have
// got stay as they are.
func (c *Console) Reseal(ctx context.Context, with ResealOptions) (stage.Resealed, error) {
	keys, err := c.keyStore(ctx)
	if err != nil {
		return stage.Resealed{}, err
	}
	if keys, err = certstore.OpenKeyStore(keys.Dir()); err != nil {
		return stage.Resealed{}, err
	}
	to, err := c.cfg.recipients()
	if err != nil {
		return stage.Resealed{}, err
	}
	by, err := c.cfg.openers(with.Identities)
	if err != nil {
		return stage.Resealed{}, err
	}
	kept, err := keys.Recipients()
	if err != nil {
		return stage.Resealed{}, err
	}
	if kept.ID() != "" && kept.ID() != to.ID() && !kept.OpenedBy(by) {
		return stage.Resealed{}, badRecipients("none of the identities here opens what is in %s (%s): give one that does, --identity FILE",
			keys.Dir(), oneLine(kept))
	}
	if !with.Unproved && !to.OpenedBy(by) {
		return stage.Resealed{}, badRecipients("none of the identities here is that of a new recipient (%s), so nothing shows that anybody could open "+
			"the keys afterwards: give it too (--identity FILE), or say that you know: --unproved", oneLine(to))
	}
	return stage.Reseal{Line: c.line, Keys: keys, By: by, To: to, Who: with.Who}.Run(ctx)
}

// openers are the identities of all these files, and of the config's, if it is there.
func (c Config) openers(files []string) (certstore.Identities, error) {
	if path := c.Keys.Identity; path != "" {
		if _, err := os.Stat(path); err == nil {
			files = append(files, path)
		}
	}
	var all []certstore.Identities
	for _, path := range files {
		i, err := certstore.LoadIdentities(path)
		if err != nil {
			return certstore.Identities{}, err
		}
		all = append(all, i)
	}
	return certstore.JoinIdentities(all...), nil
}
