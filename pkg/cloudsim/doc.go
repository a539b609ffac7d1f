// Package cloudsim is both clouds as servers: Alibaba Cloud CAS with alidns,
// Tencent Cloud SSL with DNSPod, and the DNS they look at. It is no mode of the
// product: the product knows a base URL and nothing else.
//
// It is written from the vendors' documents only and imports nothing of
// certmill, so that it does not share the client's mistakes. It checks
// signatures, timestamps and nonces, keeps quotas, counts every call, throttles
// like the clouds, really looks up the DNS record or fetches the file before it
// issues, and issues real X.509 certificates from a CA of its own that says
// loudly that it is none. By default it is a little hostile: challenges appear
// late, lists lag, issuing takes its time.
//
// A second control listener (never one of the clouds' own) injects faults,
// changes settings, and reports calls and money.
//
// # Zones on demand
//
// An account with no Zones hosts every registrable domain (public suffix plus
// one label). Such a zone comes into being when a record is added to it, when an
// order names it, or when DescribeDomains or DescribeDomainList asks for it by
// keyword; without a keyword these two list the zones that exist so far.
package cloudsim
