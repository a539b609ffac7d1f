package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/certmill/certmill/pkg/app"
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
func (s several) each(ctx context.Context, c *cli, alone bool, what string,
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
		if err := agreed(ctx, console, ids, named, what); err != nil {
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

// agreed shows what the orders would spend, and asks for a word that nobody writes
// by chance: the id of the one, or the number of the many.
func agreed(ctx context.Context, console *app.Console, ids []string, named bool, what string) error {
	costs, err := console.Costs(ctx, ids)
	if err != nil {
		return err
	}
	for _, k := range costs {
		product := k.Product
		if product == "" {
			product = "something already bought"
		}
		fmt.Fprintf(os.Stderr, "%s: %s of %s (%s)\n", what, orders(k.Orders), product, k.Account+" "+k.Operation)
	}
	word, name := strconv.Itoa(len(ids)), "the number of orders"
	if named {
		word, name = ids[0], "its id"
	}
	if !confirmed("Write "+name+", "+word+", to go on: ", word) {
		return errors.New("nothing was done")
	}
	return nil
}

type approveCmd struct{ several }

// Run is certmill approve.
func (a *approveCmd) Run(ctx context.Context, c *cli) error {
	return a.each(ctx, c, false, "may be bought", func(k *app.Console, id string) (string, error) {
		return id + " goes on", k.Approve(ctx, who(), id)
	})
}

type buyAgainCmd struct{ several }

// Run is certmill buy-again.
func (a *buyAgainCmd) Run(ctx context.Context, c *cli) error {
	return a.each(ctx, c, true, "is bought once more", func(k *app.Console, id string) (string, error) {
		next, made, err := k.BuyAgain(ctx, who(), id)
		if made {
			return fmt.Sprintf("order %s buys again what %s bought", next.ID(), id), err
		}
		return fmt.Sprintf("order %s does that already (state %s)", next.ID(), next.State), err
	})
}
