package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/durable"
)

// verb carries out an operator's verb and says that it was done.
func (c *cli) verb(ctx context.Context, done string, f func(*app.Console) error) error {
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	if err := f(console); err != nil {
		return err
	}
	fmt.Println(done)
	return nil
}

// who stands in the record of what is done by hand.
func who() string {
	if u := os.Getenv("USER"); u != "" {
		return u
	}
	return "operator"
}

type cancelCmd struct {
	ID string `arg:"" help:"Order id."`
}

// Run is certmill cancel.
func (a *cancelCmd) Run(ctx context.Context, c *cli) error {
	return c.verb(ctx, a.ID+" is cancelled", func(k *app.Console) error { return k.Cancel(ctx, who(), a.ID) })
}

type adoptCmd struct {
	ID    string `arg:"" help:"Order id."`
	Cloud string `arg:"" help:"Cloud order id."`
}

// Run is certmill adopt.
func (a *adoptCmd) Run(ctx context.Context, c *cli) error {
	return c.verb(ctx, a.ID+" goes on with cloud order "+a.Cloud, func(k *app.Console) error { return k.Adopt(ctx, who(), a.ID, a.Cloud) })
}

type notBoughtCmd struct {
	ID string `arg:"" help:"Order id."`
}

// Run is certmill not-bought.
func (a *notBoughtCmd) Run(ctx context.Context, c *cli) error {
	return c.verb(ctx, a.ID+" may be bought", func(k *app.Console) error { return k.NotBought(ctx, who(), a.ID) })
}

func confirmed(question, word string) bool {
	fmt.Fprint(os.Stderr, question)
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	return strings.TrimSpace(answer) == word
}

type pauseCmd struct {
	Account string `arg:"" help:"Account label."`
	Why     string `arg:"" optional:"" default:"by command" help:"Reason; it is shown to others."`
}

// Run is certmill pause.
func (a *pauseCmd) Run(ctx context.Context, c *cli) error {
	return c.verb(ctx, a.Account+" rests", func(k *app.Console) error { return k.Pause(ctx, a.Account, a.Why+" ("+who()+")") })
}

type resumeCmd struct {
	Account string `arg:"" help:"Account label."`
	Product string `arg:"" optional:"" help:"Product code: only this product, not the label."`
}

// Run is certmill resume.
func (a *resumeCmd) Run(ctx context.Context, c *cli) error {
	return c.verb(ctx, a.Account+" works", func(k *app.Console) error { return k.Resume(ctx, a.Account, a.Product) })
}

type limitCmd struct {
	Account string `arg:"" help:"Account label; the limit holds for its main account."`
	Action  string `arg:"" help:"API action, as the cloud spells it; certmill plan names those that start orders."`
	Calls   calls  `arg:"" help:"Calls a second, up to what the cloud documents or the config says was granted; 0 for what holds without this command."`
}

// calls is a whole number of calls a second.
type calls int

// UnmarshalText reads it. Less than one a second is no limit that a permit ring has.
func (n *calls) UnmarshalText(text []byte) error {
	whole, err := strconv.Atoi(string(text))
	if err != nil {
		return fmt.Errorf("%q: write a whole number of calls a second, such as 5; "+
			"certmill pause rests an account altogether", text)
	}
	*n = calls(whole)
	return nil
}

// Run is certmill limit.
func (a *limitCmd) Run(ctx context.Context, c *cli) error {
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	if err := console.Limit(ctx, a.Account, a.Action, int(a.Calls)); err != nil {
		return err
	}
	fmt.Printf("%s: %s at %s\n", a.Account, a.Action, console.Limited(a.Account, a.Action, int(a.Calls)))
	return nil
}

type firstUseCmd struct {
	Account string `arg:"" help:"Account label."`
}

// Run is certmill first-use.
func (a *firstUseCmd) Run(ctx context.Context, c *cli) error {
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	if err := console.FirstUse(ctx, a.Account); err != nil {
		return err
	}
	fmt.Println(console.FirstUsed(ctx, a.Account))
	return nil
}

type restoredCmd struct{}

// Run is certmill restored.
func (restoredCmd) Run(ctx context.Context, c *cli) error {
	cfg, err := c.decides()
	if err != nil {
		return err
	}
	if err := app.Restored(ctx, cfg, app.NewLogger(os.Stderr, cfg.Log)); err != nil {
		return err
	}
	fmt.Println("a new incarnation began: nothing is bought until each account's list was swept; start the workers, and hand the order files in again")
	return nil
}

type archiveCmd struct {
	To  string        `arg:"" type:"path" help:"File that the orders are appended to, one JSON document a line, mode 0600."`
	Age time.Duration `default:"720h" help:"Only orders that ended longer ago."`
}

// Run is certmill archive.
func (a *archiveCmd) Run(ctx context.Context, c *cli) error {
	console, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer console.Close()
	f, err := durable.OpenLines(a.To, 0o600)
	if err != nil {
		return err
	}
	if f.Torn > 0 {
		fmt.Printf("%d bytes at the end of %s were no whole order and were cut off: that archiving was stopped, "+
			"and the order they began is archived again\n", f.Torn, a.To)
	}
	n, err := console.Archive(ctx, a.Age, f, f.Flush)
	fmt.Printf("%d orders archived\n", n)
	return errors.Join(err, f.Close())
}
