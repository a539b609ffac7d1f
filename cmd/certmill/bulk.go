package main

import (
	"cmp"
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

// asking is a verb that is asked about.
type asking struct {
	// spends tells whether the verb would do something that a person is asked about, and
	// the error why it would be refused: it is asked first, so that nobody gives a word
	// for nothing.
	spends func(k *app.Console, id string) (bool, error)
	say    func(k *app.Console, ids []string) error // what it costs
	do     func(k *app.Console, id string) (done string, err error)
}

// each says what a verb costs, asks, and gives it for each order. What would be
// refused is told before, and left out.
func (s several) each(ctx context.Context, c *cli, verb asking) error {
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
	all, refused := len(ids), 0
	tell := func(id string, err error) {
		refused++
		fmt.Fprintf(os.Stderr, "%s: %v\n", id, err)
	}
	if !s.Yes {
		if ids, err = verb.ask(console, ids, len(s.IDs) == 1 && all == 1, tell); err != nil {
			return err
		}
	}
	for _, id := range ids {
		done, err := verb.do(console, id)
		if err != nil {
			tell(id, err)
			continue
		}
		fmt.Println(done)
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d orders were refused", refused, all)
	}
	return nil
}

// ask asks about those that would spend, and returns those that are left.
func (v asking) ask(k *app.Console, ids []string, named bool, refused func(string, error)) (left []string, err error) {
	var spending []string
	for _, id := range ids {
		spends, err := v.spends(k, id)
		if err != nil {
			refused(id, err)
			continue
		}
		left = append(left, id)
		if spends {
			spending = append(spending, id)
		}
	}
	if len(spending) == 0 {
		return left, nil
	}
	if err := v.say(k, spending); err != nil {
		return nil, err
	}
	return left, agreed(spending, named)
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
	spends := func(k *app.Console, id string) (bool, error) {
		q, err := look(k, id)
		seen[id] = q
		return true, cmp.Or(err, q.Why)
	}
	say := func(_ *app.Console, ids []string) error {
		var all []app.Question
		for _, id := range ids {
			all = append(all, seen[id])
		}
		for _, line := range questions(all) {
			fmt.Fprintln(os.Stderr, line)
		}
		return nil
	}
	return a.each(ctx, c, asking{spends, say, func(k *app.Console, id string) (string, error) {
		q, asked := seen[id]
		if !asked {
			var err error
			if q, err = look(k, id); err != nil {
				return "", err
			}
		}
		done := fmt.Sprintf("%s goes on; approved: %s; it may spend one of %v", id, order.FactLine(q.Fact), q.Cost)
		return done, k.Approve(ctx, who(), id, q.Fact)
	}})
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
	spends := func(k *app.Console, id string) (bool, error) { return k.BuysAgain(ctx, id) }
	return a.each(ctx, c, asking{spends, say, func(k *app.Console, id string) (string, error) {
		next, made, err := k.BuyAgain(ctx, who(), id)
		if made {
			return fmt.Sprintf("order %s buys again what %s bought", next.ID(), id), err
		}
		return fmt.Sprintf("order %s does that already (state %s)", next.ID(), next.State), err
	}})
}
