package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/cloudsim"
)

type simCmd struct {
	Settings       string `arg:"" optional:"" type:"existingfile" help:"JSON file with the simulator's settings (fields of cloudsim.Config)."`
	cloudsim.Flags `embed:""`
}

// Run is certmill sim.
func (s *simCmd) Run(ctx context.Context, c *cli) error {
	cfg := cloudsim.Config{}
	if s.Settings != "" {
		data, err := os.ReadFile(s.Settings)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &cfg); err != nil {
			return fmt.Errorf("%s: %w", s.Settings, err)
		}
	}
	s.Apply(&cfg)
	cfg.Logger = app.NewLogger(os.Stderr, c.Log)
	sim, err := cloudsim.Start(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Print(sim.Where())
	for _, a := range sim.Accounts() {
		fmt.Printf("account  %-10s main %s  key %s  secret %s\n", a.Label, a.UID, a.AccessKeyID, a.AccessKeySecret)
	}
	<-ctx.Done()
	return sim.Close()
}
