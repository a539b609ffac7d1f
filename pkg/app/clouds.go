package app

import (
	"context"
	"fmt"
	"time"

	"github.com/certmill/certmill/pkg/account"
	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/alidns"
	"github.com/certmill/certmill/pkg/dcv/dnspod"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/issuer/aliyun"
	"github.com/certmill/certmill/pkg/issuer/tencent"
	"github.com/certmill/certmill/pkg/permit"
	"github.com/certmill/certmill/pkg/stage"
)

// clouds are the accounts of a config, ready to be called.
type clouds struct {
	accounts stage.Accounts
	solvers  map[string]dcv.Solver // of DNS challenges, by label
}

// openClouds makes the clients. Nothing is sent. aliases follow delegated
// challenges; nil: names are what they seem.
func openClouds(c Config, permits *permit.Set, simulated bool, aliases dcv.Aliases) (clouds, error) {
	out := clouds{accounts: stage.Accounts{}, solvers: map[string]dcv.Solver{}}
	own := map[string]dcv.Solver{} // the accounts' own DNS, by label
	for _, label := range sorted(c.Accounts) {
		a := c.Accounts[label]
		flows, records, err := a.open(permits)
		if err != nil {
			return clouds{}, fmt.Errorf("account %s: %w", label, err)
		}
		own[label] = records
		out.accounts[label] = &stage.Account{
			Label: label, Main: a.Main, Cloud: a.Cloud, Flows: flows, Contact: a.Contact, Company: a.Company,
			Product: a.Product, CSRSANs: a.CSRSANs, Daily: a.Daily, Simulated: simulated,
			Waits: stage.Waits{Entry: a.EntryLife, Signature: a.SignatureLife, Clocks: a.Clocks, ListLag: a.ListLag},
		}
	}
	byZone, err := c.openSolvers(own)
	if err != nil {
		return clouds{}, err
	}
	for label, records := range own {
		out.solvers[label] = route(byZone, records, aliases)
	}
	return out, nil
}

// open makes the client of one label and the solver of its own DNS: a new cloud
// is one case here.
func (a Account) open(permits *permit.Set) (map[string]issuer.Flow, dcv.Solver, error) {
	id, err := a.KeyID.read()
	if err != nil {
		return nil, nil, fmt.Errorf("key_id: %w", err)
	}
	secret, err := a.Secret.read()
	if err != nil {
		return nil, nil, fmt.Errorf("secret: %w", err)
	}
	token, err := a.Token.read()
	if err != nil {
		return nil, nil, fmt.Errorf("token: %w", err)
	}
	var flows []issuer.Flow
	var records dcv.Solver
	switch a.Cloud {
	case stage.Aliyun:
		client, err := aliyun.New(issuer.Access{Endpoint: a.Endpoint, DNSEndpoint: a.DNSEndpoint, KeyID: id.Reveal(),
			Secret: secret, Token: token, Region: a.Region, Main: a.Main, Permits: permits})
		if err != nil {
			return nil, nil, err
		}
		flows, records = []issuer.Flow{client.Package(), client.CSR(), client.Instance()}, alidns.New(client)
	case stage.Tencent:
		client, err := tencent.New(issuer.Access{Endpoint: a.Endpoint, DNSEndpoint: a.DNSEndpoint, KeyID: id.Reveal(),
			Secret: secret, Token: token, Region: a.Region, Main: a.Main, Permits: permits})
		if err != nil {
			return nil, nil, err
		}
		flows, records = []issuer.Flow{client.Certificate()}, dnspod.New(client)
	}
	byAction := map[string]issuer.Flow{}
	for _, f := range flows {
		byAction[f.Action()] = f
	}
	return byAction, records, nil
}

// documented are the limits of the clouds' own pages, in calls a second; what
// is not documented gets the smallest.
var documented = map[string]int{
	"AddDomainRecord": 60, "DeleteDomainRecord": 60, "UpdateDomainRecord": 60,
	"DescribeSubDomainRecords": 300, "DescribeDomainRecords": 100,
	"CreateRecord": 500, "DeleteRecord": 500, "DescribeRecordList": 100, "DescribeDomainList": 20,
	"CreateRecordBatch": 20, "DeleteRecordBatch": 20, "DescribeBatchTask": 20,
}

const (
	usualLimit = 10 // CAS and Tencent SSL: each API action of a main account
	period     = time.Second
)

// spending are the actions whose unknown outcome is dear.
var spending = map[string]bool{stage.ForPackage: true, stage.WithCSR: true, stage.DVAudit: true, stage.OrderSubmit: true, "CertificateInfoSubmit": true}

// limits tells the size of each ring: what was set by command, else the
// account's own setting, else the documented one.
func (c Config) limits(states *account.Accounts) func(permit.Key) permit.Limit {
	own := map[string]Account{}
	for _, a := range c.Accounts {
		own[a.Main] = a
	}
	return func(k permit.Key) permit.Limit {
		a := own[k.Account]
		l := permit.Limit{Calls: usualLimit, Period: period, Deadline: a.Deadline}
		for _, n := range []int{documented[k.Action], a.Limits[k.Action], states.State(k.Account).Limits[k.Action]} {
			if n > 0 {
				l.Calls = n
			}
		}
		if spending[k.Action] {
			l.Deadline = a.SpendDeadline
		}
		return l
	}
}

// openRings joins the rings that matter most at once, so that a process whose
// settings differ from the others' refuses to start instead of failing later.
func (c Config) openRings(ctx context.Context, set *permit.Set, accounts stage.Accounts) error {
	var keys []permit.Key
	for _, a := range accounts.Mains() {
		for action := range a.Flows {
			keys = append(keys, permit.Key{Account: a.Main, Action: action})
		}
		for action := range c.Accounts[a.Label].Limits {
			keys = append(keys, permit.Key{Account: a.Main, Action: action})
		}
	}
	return set.Open(ctx, keys...)
}

// newLooker looks as the CA will.
func newLooker(c DCV) (*dcv.Looker, error) {
	allow, err := c.allowed()
	if err != nil {
		return nil, err
	}
	return dcv.NewLooker(dcv.LookerConfig{Resolvers: c.Resolvers, Servers: c.Servers, HTTPPort: c.FilePort, Allow: allow, OwnPort: c.servePort()})
}
