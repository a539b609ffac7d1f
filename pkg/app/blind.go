package app

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/pipeline"
)

// inbox is the subject at which this console hands orders in.
func (c *Console) inbox(urgent bool) (string, error) { return c.rights.handIn(c.cfg.NATS.User, urgent) }

// handIn is the subject at which a user hands orders in: that with its own name,
// else the common one, else the one it has, whatever its token.
func (r rights) handIn(user string, urgent bool) (string, error) {
	kind := pipeline.NewSubject
	if urgent {
		kind = pipeline.UrgentSubject
	}
	own := kind
	if tokenForm.MatchString(user) {
		own += "." + user
	}
	for _, s := range append([]string{own, kind}, r.literals(kind+".")...) {
		if r.publish(s) {
			return s, nil
		}
	}
	return "", &NoRight{user, "publish to " + own}
}

// HandInBlind hands orders in for a user who may publish them and may not look:
// nobody says here which of them are known. Those that are, the workers drop. n is
// how many were acknowledged; begun again after an error, it publishes all of them
// again. Nothing is published where one of them needs a look.
func HandInBlind(ctx context.Context, c Config, requests []order.Request, urgent bool,
	log *slog.Logger) (n int, err error) {
	if err := needsNoLook(requests, c.NATS.User); err != nil {
		return 0, err
	}
	var missing barrier
	nc, err := dial(c.NATS, hostName("order"), missing.refused, log, again()...)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	rights, _ := rightsOf(ctx, nc) // or it is tried
	missing.guards(nc)
	subject, err := rights.handIn(c.NATS.User, urgent)
	if err != nil {
		return 0, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, fmt.Errorf("JetStream: %w", err)
	}
	n, err = publishAll(ctx, js, subject, requests)
	return n, missing.because(err)
}

// needsNoLook refuses "again: true": which order is the last of its line only those
// know who may look (DESIGN 12.1).
func needsNoLook(requests []order.Request, user string) error {
	who := "the NATS user " + user
	if user == "" {
		who = "who connects without a user"
	}
	for _, r := range requests {
		if r.Again == order.AgainLast {
			return fmt.Errorf("order %s: again: true means the last order of its line, and %s may not look which that is: "+
				"nothing was handed in; name the order that is bought once more, write its id: again: %s "+
				"(or %[1]s-2 where that followed it), or have an operator hand the file in", r.ID, who, r.ID)
		}
	}
	return nil
}

func publishAll(ctx context.Context, js jetstream.JetStream, subject string, requests []order.Request) (int, error) {
	acknowledged := make(chan struct{}, len(requests))
	g, ctx := limited(ctx, inFlight)
	for _, r := range requests {
		g.Go(func() error {
			body, err := json.Marshal(r)
			if err != nil {
				return fmt.Errorf("encode order %s: %w", r.ID, err)
			}
			if _, err := pipeline.Publish(ctx, js, subject, body); err != nil {
				return fmt.Errorf("hand in order %s: %w", r.ID, err)
			}
			acknowledged <- struct{}{}
			return nil
		})
	}
	err := g.Wait()
	return len(acknowledged), err
}
