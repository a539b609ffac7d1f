package main

import (
	"context"
	"encoding/json"
	"os"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/order"
)

type runCmd struct {
	Files []string `arg:"" optional:"" type:"existingfile" help:"Order files (.csv, .jsonl, .json, .yaml). Without any it works until it is stopped."`
	Certs string   `default:"" type:"path" help:"Folder for the certificates, in place of the config's deliver.directory."`
	Batch string   `help:"Batch of orders that name none. Default: the file's name."`
}

// Run is certmill run.
func (r *runCmd) Run(ctx context.Context, c *cli) error {
	cfg, err := r.load(c)
	if err != nil {
		return err
	}
	if r.Certs != "" {
		cfg.Deliver.Directory = r.Certs
	}
	if c.Log == "" && len(r.Files) > 0 {
		cfg.Log = "error" // the display tells the rest
	}
	view := newView(c.Output)
	defer view.close()
	sum, err := app.Run(ctx, app.RunOptions{Config: cfg, Files: r.Files, Batch: r.Batch, Log: app.NewLogger(view.logs(), cfg.Log), View: view})
	if err != nil || len(r.Files) == 0 {
		return err
	}
	if !sum.OK() {
		return errNotAll
	}
	return nil
}

type workCmd struct {
	Role string `arg:"" enum:"submitter,verifier,collector" help:"submitter, verifier or collector."`
}

// Run is certmill work: what the worker's own binary does.
func (w *workCmd) Run(ctx context.Context, c *cli) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	return app.Work(ctx, cfg, order.Role(w.Role))
}

// load reads the config that a run goes by.
func (r *runCmd) load(c *cli) (app.Config, error) {
	cfg, err := c.override(app.Load(r.config(c)))
	if err == nil && c.State != "" {
		cfg.Rest(c.State)
	}
	return cfg, err
}

// config: a run takes no config that an earlier run left, because that names
// the earlier one's server.
func (r *runCmd) config(c *cli) string {
	if c.Config != "" {
		return c.Config
	}
	if _, err := os.Stat("certmill.yaml"); err == nil {
		return "certmill.yaml"
	}
	return ""
}

func printJSON(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
