package dnspod

import (
	"slices"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

const service = "dnspod" // as CAM policies spell it

// writers place records and take them back. Verifiers take back what came too
// late; collectors put back what another order came to need meanwhile.
var writers = []order.Role{order.Verifier, order.Collector}

// preflight asks whether the account hosts a name.
var preflight = []order.Role{order.Submitter}

// calls have the limits of each action's own page.
var calls = issuer.Calls{
	{Service: service, Action: "DescribeDomainList", Roles: writers, Limit: 20, Page: pageSize},
	{Service: service, Action: "DescribeDomainList", Roles: preflight, Limit: 20, Page: pageSize, Optional: true},
	{Service: service, Action: "DescribeRecordList", Roles: writers, Limit: 100, Page: pageSize},
	{Service: service, Action: "CreateRecord", Roles: writers, Limit: 500},
	{Service: service, Action: "DeleteRecord", Roles: writers, Limit: 500},
	{Service: service, Action: "CreateRecordBatch", Roles: writers, Limit: 20, Optional: true},
	{Service: service, Action: "DeleteRecordBatch", Roles: writers, Limit: 20, Optional: true},
	{Service: service, Action: "DescribeBatchTask", Roles: writers, Limit: 20, Optional: true},
}

// Calls are the actions that the solver makes.
func Calls() issuer.Calls { return slices.Clone(calls) }
