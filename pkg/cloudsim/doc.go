// Package cloudsim is both clouds as servers: Alibaba Cloud CAS with alidns and
// STS, Tencent Cloud SSL with DNSPod, STS and CAM, and the DNS they look at. It is no mode of the
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
//
// # What it leaves open
//
// Where the documents are silent, the settings say what the cloud does, so that
// a client that relies on it is found out: the order of lists, rows that shift
// while one pages, states that no document knows, lists that lag, a cloud
// without the actions for many records or for whose credentials a key is. The
// defaults are the friendly end. Where two pages of a vendor differ in a word
// (RAMUser, RamUser), the seed says which one is right.
//
// # What it witnesses
//
// The report names every record that is left in the zones with the access key
// and the action that wrote it, every change to a record that the key had not
// written, and for each order when it was validated, issued and first listed.
package cloudsim
