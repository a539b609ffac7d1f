package alidns

import (
	"slices"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

const service = "alidns" // as RAM policies spell it

// writers place records and take them back. Verifiers take back what came too
// late; collectors put back what another order came to need meanwhile.
var writers = []order.Role{order.Verifier, order.Collector}

// preflight asks whether the account hosts a name.
var preflight = []order.Role{order.Submitter}

// calls have the limits of help.aliyun.com, "api-alidns-2015-01-09-quota"; it
// lists neither DescribeDomains nor the actions of batches.
var calls = issuer.Calls{
	{Service: service, Action: "DescribeDomains", Roles: writers, Page: pageSize},
	{Service: service, Action: "DescribeDomains", Roles: preflight, Page: pageSize, Optional: true},
	{Service: service, Action: "DescribeSubDomainRecords", Roles: writers, Limit: 300, Page: pageSize},
	{Service: service, Action: "AddDomainRecord", Roles: writers, Limit: 60},
	{Service: service, Action: "DeleteDomainRecord", Roles: writers, Limit: 60},
	{Service: service, Action: "OperateBatchDomain", Roles: writers, Optional: true},
	{Service: service, Action: "DescribeBatchResultCount", Roles: writers, Optional: true},
	{Service: service, Action: "DescribeBatchResultDetail", Roles: writers, Page: pageSize, Optional: true},
}

// Calls are the actions that the solver makes.
func Calls() issuer.Calls { return slices.Clone(calls) }
