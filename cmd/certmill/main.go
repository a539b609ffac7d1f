// Command certmill is the operator's command, and all three workers in one
// process (certmill run).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/lab/chaos"
	"github.com/certmill/certmill/pkg/lab/limit"
	"github.com/certmill/certmill/pkg/redact"
)

// groups say what a command may do to an installation. Each has one: those that
// look are held to changing nothing, by a test that runs all of them.
var groups = []kong.Group{
	{Key: look, Title: "Look (nothing is changed):"},
	{Key: "work", Title: "Work:"},
	{Key: change, Title: "Decide and operate:"},
	{Key: "lab", Title: "Try out and measure:"},
}

const (
	look   = "look"
	change = "change"
)

// cli is the whole command line: one field a command.
type cli struct {
	Config string `short:"c" env:"CERTMILL_CONFIG" type:"path" help:"Config file. Default: certmill.yaml, or the one that a run left in state/."`
	NATS   string `name:"nats" env:"CERTMILL_NATS" help:"URL of the server, in place of the config's nats.url."`
	State  string `name:"state" type:"path" help:"State folder, in place of the config's."`
	Log    string `help:"Log level: debug, info, warn, error."`
	Output string `short:"o" enum:"text,json" default:"text" help:"text for people, json for machines."`

	Init  initCmd  `cmd:"" group:"work" help:"Make the streams and buckets that must never be lost, once, before the workers start; --mend puts back what somebody edited there. Safe to repeat."`
	Run   runCmd   `cmd:"" group:"work" help:"Everything in one process: server, workers, and simulated clouds if no account is configured."`
	Work  workCmd  `cmd:"" group:"work" help:"One worker, as the binary of its name."`
	Order orderCmd `cmd:"" group:"work" help:"Hand order files in to a running installation."`
	Plan  planCmd  `cmd:"" group:"look" help:"Show which operation each order would take, and what stands in its way: CAA, DNSSEC, zones, quota, duplicates. Nothing is handed in."`
	Check checkCmd `cmd:"" group:"look" help:"Check order files, also without a server; where one answers, say which orders are known there."`

	Status statusCmd `cmd:"" group:"look" help:"Orders by state, accounts, backlog of each stage."`
	List   listCmd   `cmd:"" group:"look" help:"List orders."`
	Show   showCmd   `cmd:"" group:"look" help:"Show one order: why it is where it is, what was seen, what helps, and its story."`
	Stuck  stuckCmd  `cmd:"" group:"look" help:"Orders that do not move, grouped by what blocks them, and records that cannot be removed."`
	Failed failedCmd `cmd:"" group:"look" help:"Failed and held orders, grouped by cause."`

	Surplus surplusCmd `cmd:"" group:"look" help:"Cloud orders that nobody claims, with what they cost, and ended orders that may have been bought."`
	Codes   codesCmd   `cmd:"" group:"look" help:"Every documented error code of the clouds: what it means and what to do."`

	Retry     retryCmd     `cmd:"" group:"change" help:"Send held or failed orders where their record says. Never buys again."`
	Approve   approveCmd   `cmd:"" group:"change" help:"Let an order go on that is held for a fact which a person may let pass: that fact only."`
	Cancel    cancelCmd    `cmd:"" group:"change" help:"Give an order up. Refused while it is unknown whether it was bought."`
	Adopt     adoptCmd     `cmd:"" group:"change" help:"Say that a cloud order is this order's purchase."`
	NotBought notBoughtCmd `cmd:"" group:"change" help:"Say that an unsure purchase did not happen. Refused while that cannot be known."`
	BuyAgain  buyAgainCmd  `cmd:"" group:"change" help:"Buy once more what an order bought that was paid and is issued, failed or held: as another order, its successor. Asks."`

	Pause    pauseCmd    `cmd:"" group:"change" help:"Rest an account label."`
	Resume   resumeCmd   `cmd:"" group:"change" help:"End the rest of an account label, or of a product without quota."`
	Limit    limitCmd    `cmd:"" group:"change" help:"Change how many calls a second an account may make to an API action, while it works."`
	FirstUse firstUseCmd `cmd:"" group:"change" help:"Say that no earlier installation bought on this account: the first sweep need not wait."`

	AcceptStore acceptStoreCmd `cmd:"" group:"change" help:"Say that the key store at hand is the right one for these streams, which name another one or one that is lost."`
	Reseal      resealCmd      `cmd:"" group:"change" help:"Seal every private key to the config's recipients, in place of those that the key store has. Stop the submitters first."`
	Identity    identityCmd    `cmd:"" group:"work" help:"Make an age identity, which opens private keys, and print its recipient, for keys.recipients."`

	Archive  archiveCmd  `cmd:"" group:"change" help:"Write ended orders to a file and take them off the stream; their ids stay taken."`
	Restored restoredCmd `cmd:"" group:"change" help:"After a restore of the streams, before the workers start: sweep again before anything is bought."`

	Sim     simCmd     `cmd:"" group:"lab" help:"The clouds, simulated, with their DNS and a control port."`
	Bench   benchCmd   `cmd:"" group:"lab" help:"Measure."`
	Chaos   chaosCmd   `cmd:"" group:"lab" help:"Try to break it: kill, freeze, wipe and lie to real processes, and judge by the clouds' own books."`
	Setting settingCmd `cmd:"" group:"look" name:"config" help:"Print a commented example config, or the table of settings."`
	Schema  schemaCmd  `cmd:"" group:"look" help:"Print the JSON Schema of the order message."`

	group   string       // of the command that runs
	console *app.Console // that it opened; nil: none
}

func main() {
	if chaos.Child() { // started by certmill chaos as one of its workers or servers
		return
	}
	if limit.Child() { // a replica or a server of a bench
		return
	}
	ctx, stop := app.Signals()
	defer stop()
	var c cli
	parser := newParser(ctx, &c)
	k, err := parser.Parse(os.Args[1:])
	parser.FatalIfErrorf(err)
	switch err := c.run(k); {
	case err == nil:
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "certmill: stopped; started again, it goes on where it was")
		os.Exit(1)
	case errors.Is(err, errNotAll): // everything was said
		os.Exit(1)
	default:
		fmt.Fprintf(os.Stderr, "certmill: %v\n", redact.Error(err))
		os.Exit(1)
	}
}

// run runs the command that was parsed.
func (c *cli) run(k *kong.Context) error {
	if g := k.Selected().ClosestGroup(); g != nil {
		c.group = g.Key
	}
	err := k.Run()
	if c.console != nil {
		err = c.console.Because(err)
	}
	return err
}

func newParser(ctx context.Context, c *cli) *kong.Kong {
	return kong.Must(c, kong.Name("certmill"), kong.UsageOnError(), kong.ExplicitGroups(groups),
		kong.Description("Issues TLS certificates in bulk through "+app.CloudNames()+"."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(c))
}

// errNotAll ends the command with status 1 after everything was said.
var errNotAll = errors.New("not all orders were issued")

// load reads the config that holds for this command. A run in the same folder
// leaves one, so that the other commands need no flags.
func (c *cli) load() (app.Config, error) {
	path := c.Config
	if path == "" {
		for _, p := range []string{"certmill.yaml", filepath.Join(c.state(), app.ConfigName)} {
			if _, err := os.Stat(p); err == nil {
				path = p
				break
			}
		}
	}
	return c.override(app.Load(path))
}

func (c *cli) state() string {
	if c.State != "" {
		return c.State
	}
	return app.Defaults().State
}

func (c *cli) override(cfg app.Config, err error) (app.Config, error) {
	if err != nil {
		return cfg, err
	}
	if c.NATS != "" {
		cfg.NATS = cfg.NATS.Elsewhere(c.NATS)
	}
	if c.Log != "" {
		cfg.Log = c.Log
	}
	return cfg, nil
}

// open connects to the installation. Whoever may only look is told so before a
// command that changes something begins.
func (c *cli) open(ctx context.Context) (_ *app.Console, err error) {
	cfg, err := c.loadQuiet()
	if err != nil {
		return nil, err
	}
	if c.console, err = app.OpenConsole(ctx, cfg, app.NewLogger(os.Stderr, cfg.Log)); err != nil {
		return nil, err
	}
	if c.group == change {
		err = c.console.MayDecide()
	}
	return c.console, err
}

// loadQuiet is load for commands that look at an installation, which may be a run
// with the same config: they log what is odd.
func (c *cli) loadQuiet() (app.Config, error) {
	cfg, err := c.load()
	cfg = cfg.Beside()
	if c.Log == "" {
		cfg.Log = "warn"
	}
	return cfg, err
}
