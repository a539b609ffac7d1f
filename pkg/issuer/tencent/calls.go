package tencent

import (
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// About is what Tencent Cloud documents for every account. The clock of a signed
// request may be off by 5 minutes (signature method v3, AuthFailure.SignatureExpire).
func About() issuer.About {
	return issuer.About{Name: codes.Cloud, Codes: codes, Calls: slices.Clone(calls), SignatureLife: 5 * time.Minute}
}

// Services, as CAM policies spell them.
const (
	sslService = "ssl"
	stsService = "sts"
	camService = "cam"
)

// calls are the actions of the SSL service and of those who tell whose
// credentials these are. The limits are those of each action's own page.
var calls = issuer.Calls{
	{Service: sslService, Action: infoSubmit, Roles: buyers, Limit: 10, Starts: true},
	{Service: sslService, Action: orderSubmit, Roles: buyers, Limit: 10, Starts: true},
	// Submitters look before they start a certificate, and verifiers for the
	// challenge; the list tells the ones what is unused, the others what waits.
	{Service: sslService, Action: "DescribeCertificate", Roles: readers, Limit: 10},
	{Service: sslService, Action: "DescribeCertificates", Roles: readers, Limit: 10, Page: pageSize},
	{Service: sslService, Action: "CompleteCertificate", Roles: []order.Role{order.Verifier}, Limit: 10},
	// Both give out private keys.
	{Service: sslService, Action: "DescribeCertificateDetail", Roles: []order.Role{order.Collector}, Limit: 10},
	{Service: sslService, Action: "DownloadCertificate", Roles: []order.Role{order.Collector}, Limit: 10},
	// The second is asked where the first is refused.
	{Service: stsService, Action: callerIdentity, Roles: order.Roles, Limit: 20, Free: true, Optional: true},
	{Service: camService, Action: userAppID, Roles: order.Roles, Limit: 20, Free: true, Optional: true},
}

// Who starts what was bought, and who reads what became of it.
var (
	buyers  = []order.Role{order.Submitter}
	readers = []order.Role{order.Submitter, order.Verifier}
)
