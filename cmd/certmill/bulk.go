package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/order"
)

// several are the orders that a verb is given for: by id, by cause, by batch.
type several struct {
	IDs   []string `arg:"" optional:"" name:"ids" help:"Order ids."`
	Cause string   `help:"All orders of this cause, as certmill failed shows it."`
	Batch string   `help:"All failed and held orders of this batch."`
	Yes   bool     `help:"Do not ask."`
}

// each says what a verb costs, asks, and gives it for each order. alone tells that
// it asks for a single order that was named, too.
func (s several) each(ctx context.Context, c *cli, alone bool, say func(*app.Console, []string) error,
	verb func(*app.Console, string) (string, error)) error {
	if len(s.IDs) == 0 && s.Cause == "" && s.Batch == "" {
		return errors.New("name orders, --cause or --batch")
	}
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	ids, err := console.Select(ctx, s.IDs, s.Cause, s.Batch)
	if err != nil {
		return err
	}
	named := len(ids) == 1 && len(s.IDs) == 1
	if !s.Yes && len(ids) > 0 && (alone || !named) {
		if err := say(console, ids); err != nil {
			return err
		}
		if err := agreed(ids, named); err != nil {
			return err
		}
	}
	refused := 0
	for _, id := range ids {
		done, err := verb(console, id)
		if err != nil {
			refused++
			fmt.Fprintf(os.Stderr, "%s: %v\n", id, err)
			continue
		}
		fmt.Println(done)
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d orders were refused", refused, len(ids))
	}
	return nil
}

// agreed asks for a word that nobody writes by chance: the id of the one, or the
// number of the many.
func agreed(ids []string, named bool) error {
	word, name := strconv.Itoa(len(ids)), "the number of orders"
	if named {
		word, name = ids[0], "its id"
	}
	if !confirmed("Write "+name+", "+word+", to go on: ", word) {
		return errors.New("nothing was done")
	}
	return nil
}

type approveCmd struct {
	several
	Fact []string `sep:"none" placeholder:"FACT" help:"The fact that is approved, as certmill show -o json has it (hold.fact): an order that is held for another one is refused, and nobody is asked. Once for each of several."`
}

// Run is certmill approve: it answers the hold that is shown, and no other that is
// there by the time that the answer comes.
func (a *approveCmd) Run(ctx context.Context, c *cli) error {
	a.Yes = a.Yes || len(a.Fact) > 0
	seen := map[string]app.Question{}
	look := func(k *app.Console, id string) (q app.Question, err error) {
		q, err = k.Question(ctx, id)
		if err == nil && a.Cause != "" && q.Cause != a.Cause {
			err = fmt.Errorf("its cause is %q by now: certmill show %s", q.Cause, id)
		}
		if len(a.Fact) > 0 {
			q.Fact = order.Facts(a.Fact...)
		}
		return q, err
	}
	say := func(k *app.Console, ids []string) error {
		var all []app.Question
		for _, id := range ids {
			q, err := look(k, id)
			if err != nil {
				return err
			}
			seen[id], all = q, append(all, q)
		}
		for _, line := range questions(all) {
			fmt.Fprintln(os.Stderr, line)
		}
		return nil
	}
	return a.each(ctx, c, true, say, func(k *app.Console, id string) (string, error) {
		q, asked := seen[id]
		if !asked {
			var err error
			if q, err = look(k, id); err != nil {
				return "", err
			}
		}
		done := fmt.Sprintf("%s goes on; approved: %s; it may spend one of %v", id, order.FactLine(q.Fact), q.Cost)
		return done, k.Approve(ctx, who(), id, q.Fact)
	})
}

// questions are what approvals answer, those of one kind and cost together, with
// the first of each.
func questions(all []app.Question) (lines []string) {
	type kind struct {
		facts string
		cost  app.Cost
	}
	of := map[kind][]app.Question{}
	var kinds []kind
	for _, q := range all {
		k := kind{strings.Join(order.Hold{Fact: q.Fact}.Kinds(), ", "), q.Cost}
		if len(of[k]) == 0 {
			kinds = append(kinds, k)
		}
		of[k] = append(of[k], q)
	}
	for _, k := range kinds {
		first, n := of[k][0], len(of[k])
		if k.facts == "" {
			lines = append(lines, fmt.Sprintf("%s not held for an approval: %s", orders(n), first.ID))
			continue
		}
		example := ""
		if n > 1 {
			example = "for example "
		}
		lines = append(lines, fmt.Sprintf("%s held for %s, each may spend one of %v", orders(n), k.facts, k.cost),
			fmt.Sprintf("    %s%s: %s", example, first.ID, first.Reason), "    approved is: "+order.FactLine(first.Fact))
	}
	return lines
}

type buyAgainCmd struct{ several }

// Run is certmill buy-again.
func (a *buyAgainCmd) Run(ctx context.Context, c *cli) error {
	say := func(k *app.Console, ids []string) error {
		costs, err := k.Costs(ctx, ids)
		for _, cost := range costs {
			fmt.Fprintf(os.Stderr, "is bought once more: %s of %v\n", orders(cost.Orders), cost)
		}
		return err
	}
	return a.each(ctx, c, true, say, func(k *app.Console, id string) (string, error) {
		next, made, err := k.BuyAgain(ctx, who(), id)
		if made {
			return fmt.Sprintf("order %s buys again what %s bought", next.ID(), id), err
		}
		return fmt.Sprintf("order %s does that already (state %s)", next.ID(), next.State), err
	})
}
