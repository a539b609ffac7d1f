package stage

import (
	"errors"

	"github.com/certmill/certmill/pkg/issuer"
	"github.com/certmill/certmill/pkg/order"
)

func errorAs(err error) (*issuer.Error, bool) { return errors.AsType[*issuer.Error](err) }

// Classes of failures, for grouping.
const (
	ClassInvalid   = "invalid"   // the order itself is wrong
	ClassRejected  = "rejected"  // the cloud refused it
	ClassReview    = "review"    // the CA refused it
	ClassQuota     = "quota"     // nothing left of the product
	ClassCancelled = "cancelled" // by command
	ClassSucceeded = "succeeded" // another order buys it again
	ClassInUse     = "in use"    // the named instance or certificate is another's
)

// failureOf describes a clear no of the cloud. The advice is that of its code,
// in English; its Code finds the Chinese one in the table of the cloud.
func failureOf(e *issuer.Error) order.Failure {
	f := order.Failure{Class: ClassRejected, Code: e.Code, RequestID: e.RequestID, Reason: e.Error(), Advice: e.Advice("en"), Mend: e.OfOrder}
	if e.Kind == issuer.QuotaExhausted {
		f.Class = ClassQuota
	}
	return f
}
