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
	Settings string `arg:"" optional:"" type:"existingfile" help:"JSON file with the simulator's settings (fields of cloudsim.Config)."`
	Aliyun   string `default:"127.0.0.1:5001" help:"Listen address of Alibaba Cloud (CAS, alidns)."`
	Tencent  string `default:"127.0.0.1:5002" help:"Listen address of Tencent Cloud (SSL, DNSPod)."`
	DNS      string `name:"dns" default:"127.0.0.1:5053" help:"Listen address of the DNS, UDP and TCP."`
	Control  string `default:"127.0.0.1:5080" help:"Listen address of the control port."`
	Resolver string `help:"DNS server (host:port) that is asked for validation, instead of the simulator's own." placeholder:"HOST:PORT"`
	FilePort int    `default:"5081" help:"Port at which FILE challenges are fetched."`
	Dir      string `type:"path" help:"Folder to keep the books in. Default: it forgets."`
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
	cfg.AliyunAddr, cfg.TencentAddr, cfg.DNSAddr, cfg.ControlAddr, cfg.FilePort = s.Aliyun, s.Tencent, s.DNS, s.Control, s.FilePort
	if s.Resolver != "" {
		cfg.Resolver = s.Resolver
	}
	if s.Dir != "" {
		cfg.Dir = s.Dir
	}
	cfg.Logger = app.NewLogger(os.Stderr, c.Log)
	sim, err := cloudsim.Start(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Printf("aliyun   %s\ntencent  %s\ndns      %s\ncontrol  %s\n", sim.AliyunURL(), sim.TencentURL(), sim.DNSAddr(), sim.ControlURL())
	for _, a := range sim.Accounts() {
		fmt.Printf("account  %-10s main %s  key %s  secret %s\n", a.Label, a.UID, a.AccessKeyID, a.AccessKeySecret)
	}
	<-ctx.Done()
	return sim.Close()
}
