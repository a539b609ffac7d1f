package aliyun

import (
	"slices"
	"time"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// About is what Alibaba Cloud documents for every account. The clock of a signed
// request may be off by 15 minutes (RPC signature, InvalidTimeStamp.Expired).
func About() issuer.About {
	return issuer.About{Name: codes.Cloud, Codes: codes, Calls: slices.Clone(calls), SignatureLife: 15 * time.Minute}
}

const (
	casService = "yundun-cert" // RamCode of CAS, help.aliyun.com "RAM authorization" of cas 2020-04-07
	stsService = "sts"
)

// calls are the actions of CAS and of who tells whose credentials these are. The
// limits are those of help.aliyun.com, "api-cas-2020-04-07-quota" and the quota
// page of STS and, for DescribeDVOrderResult, of its own page. None is documented
// for CreateDVOrderAudit, DescribeOrderInstanceList and DescribePackageState, nor
// how many rows the second of these answers with.
var calls = issuer.Calls{
	{Service: casService, Action: forPackage, Roles: buyers, Limit: 10, Starts: true},
	{Service: casService, Action: withCSR, Roles: buyers, Limit: 10, Starts: true},
	{Service: casService, Action: dvAudit, Roles: buyers, Starts: true},
	{Service: casService, Action: "DescribePackageState", Roles: buyers},
	// The list tells submitters what was bought, and verifiers what still waits
	// and what was issued.
	{Service: casService, Action: "ListUserCertificateOrder", Roles: readers, Limit: 10, Page: pageSize},
	{Service: casService, Action: "DescribeOrderInstanceList", Roles: readers},
	// Both tell of the challenge, and have the certificate: submitters compare
	// its key, or look before they start an instance.
	{Service: casService, Action: "DescribeCertificateState", Roles: order.Roles, Limit: 10},
	{Service: casService, Action: "DescribeDVOrderResult", Roles: order.Roles, Limit: 10},
	{Service: casService, Action: "GetUserCertificateDetail", Roles: []order.Role{order.Collector}, Limit: 10},
	// It needs no right, by the documents.
	{Service: stsService, Action: callerIdentity, Roles: order.Roles, Limit: 100, Free: true, Optional: true},
}

// Who buys, and who reads lists.
var (
	buyers  = []order.Role{order.Submitter}
	readers = []order.Role{order.Submitter, order.Verifier}
)
