package stage

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/certmill/certmill/pkg/dcv/preflight"
	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

// packKey says which orders may become one: everything but id, names and labels
// is the same, and the names are of one domain and one kind.
func packKey(p Planned) (key, domain string, ok bool) {
	r := p.Request
	if p.Account == nil || p.Known || len(r.Names) != 1 || r.CSR != "" || r.Again != "" || !p.packable() {
		return "", "", false
	}
	base, wild := strings.CutPrefix(r.Names[0], "*.")
	domain, err := publicsuffix.EffectiveTLDPlusOne(base)
	if err != nil {
		return "", "", false
	}
	r.ID, r.Names, r.Labels = "", nil, nil
	rest, err := json.Marshal(r) // not its hash: who is written to, say, is no part of that
	return fmt.Sprint(p.Account.Label, p.Product, wild, domain, string(rest)), domain, err == nil
}

// packable tells whether the order's product takes several names at the price
// of one. Of what was already bought, nothing here tells.
func (p Planned) packable() bool {
	f := p.flow()
	return f != nil && f.Spends() && p.product().Several
}

// pack groups the places of orders that may become one, at most
// order.MaxNames each, in the order of the batch.
func pack(all []Planned) [][]int {
	last := map[string]int{}
	var packs [][]int
	taken := map[string]bool{} // a name once only
	for i, p := range all {
		key, _, ok := packKey(p)
		if !ok || taken[key+p.Request.Names[0]] {
			packs = append(packs, []int{i})
			continue
		}
		taken[key+p.Request.Names[0]] = true
		at, begun := last[key]
		if !begun || len(packs[at]) == order.MaxNames {
			last[key] = len(packs)
			packs = append(packs, []int{i})
			continue
		}
		packs[at] = append(packs[at], i)
	}
	return packs
}

// packing is the advice that follows, for the whole batch.
func packing(all []Planned) []preflight.Finding {
	var orders []int
	var domains []string // of those that would be fewer
	packs, note := 0, ""
	for _, one := range pack(all) {
		if len(one) == 1 {
			continue
		}
		_, domain, _ := packKey(all[one[0]])
		orders, packs = append(orders, one...), packs+1
		if all[one[0]].flow().CSR(packed(all, one)) == issuer.NoCSR {
			note = "; for several names the cloud makes the key, unless the account's csr_sans is proved"
		}
		if !slices.Contains(domains, domain) {
			domains = append(domains, domain)
		}
	}
	if packs == 0 {
		return nil
	}
	slices.Sort(orders)
	names := strings.Join(domains[:min(len(domains), 3)], ", ")
	if more := len(domains) - 3; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return []preflight.Finding{{Level: preflight.Advice, Kind: preflight.Packing, Orders: idsAt(all, orders), Example: all[orders[0]].Request.Names[0],
		What: fmt.Sprintf("they could be %d of up to %d names each: names of %s", packs, order.MaxNames, names),
		Do:   "certmill plan --pack writes them so" + note}}
}

// Pack returns the batch with what may become one order packed; the rest is as
// it was. A packed order has its own derived id, or, where the first one brought
// an id, that with "-pack" at its end, so that packing the same file again orders
// nothing twice.
func Pack(all []Planned) []order.Request {
	var out []order.Request
	for _, one := range pack(all) {
		out = append(out, packed(all, one))
	}
	return out
}

// packed is the request of one pack.
func packed(all []Planned, one []int) order.Request {
	r := all[one[0]].Request
	if len(one) == 1 {
		return r
	}
	derived := r.ID == r.DerivedID()
	r.Names = nil
	for _, i := range one {
		r.Names = append(r.Names, all[i].Request.Names...)
	}
	if r.ID = packedID(r.ID); derived {
		r.ID = r.DerivedID()
	}
	return r
}

const packSuffix = "-pack"

// packedID keeps within the length of an id; what is cut off is hashed.
func packedID(id string) string {
	const longest = 63
	if len(id)+len(packSuffix) > longest {
		sum := sha256.Sum256([]byte(id))
		id = id[:longest-len(packSuffix)-9] + "-" + hex.EncodeToString(sum[:4])
	}
	return id + packSuffix
}
