package stage

import (
	"fmt"
	"strings"

	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
)

// What a refusal says of other verbs is what the order's state allows: a verb that it
// names MUST NOT be refused for the state in its turn.

// HandInMended is what helps an order that failed for what stands in it (Order.OnlyMended).
const HandInMended = "certmill order <file>   (with the order mended: what was wrong with contact, validation or company is tried again under its id; " +
	"where names, account, product, resource, key or CSR change it is another order, without an id or with another one)"

// helps are the commands of an order's hold, in a sentence; empty if it is not held.
func helps(o order.Order) string {
	if o.State != order.Held || o.Hold == nil || len(o.Hold.Commands) == 0 {
		return ""
	}
	return ": " + strings.Join(o.Hold.Commands, ", or ")
}

// retries is how an order comes to be reconciled: by a verb, or by itself.
func retries(o order.Order) string {
	if resting(o.State) {
		return ": certmill retry " + o.ID()
	}
	return ", which comes by itself (certmill show " + o.ID() + ")"
}

// endsOpen is what ends an attempt of an order of which nobody knows whether it
// bought something.
func endsOpen(o order.Order, last ledger.Attempt) string {
	adopt := "certmill adopt " + o.ID() + " "
	switch found := last.Provisional; {
	case found != "" && (resting(o.State) || o.State == order.Unsure):
		return fmt.Sprintf("cloud order %s was found in the list and is taken for it, without proof: "+
			"if it is this order's, %s%s", found, adopt, found)
	case found != "":
		return fmt.Sprintf("cloud order %s was found in the list and is taken for it; its key proves that, or the contrary, "+
			"once it is issued. Until then it goes on (certmill show %s)", found, o.ID())
	case o.State == order.Held:
		return adopt + "<cloud id>, or certmill not-bought " + o.ID()
	case o.State == order.Unsure:
		return "wait for the reconciliation, or, if you know its cloud order, " + adopt + "<cloud id>"
	}
	return "it is to be reconciled" + retries(o)
}

// settles is what a person does about a cloud order that may be an order's.
func settles(o order.Order, cloudID string) string {
	adopt := "if it is, certmill adopt " + o.ID() + " " + cloudID
	switch {
	case o.State == order.Held && o.Hold != nil && o.Hold.Fact != "":
		return adopt + "; once you know that it is not, certmill approve " + o.ID()
	case resting(o.State):
		return adopt + "; once you know that it is not, certmill retry " + o.ID() + ", which is held for it, and then approve"
	case o.State == order.Unsure:
		return adopt + "; else wait for the reconciliation"
	}
	return "wait: once it is issued its key tells whose it is (certmill show " + o.ID() + ")"
}
