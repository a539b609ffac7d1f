package order

import "fmt"

// State is where an order is. Each state that is not final is the inbox of one
// worker, or of the sweep.
type State string

const (
	Submit   State = "submit"   // submitter: key, CSR, the paid call
	Unsure   State = "unsure"   // sweep: the outcome of a paid call is unknown
	Waiting  State = "waiting"  // sweep: may not go on yet
	Verify   State = "verify"   // verifier: challenge asked for, placed, seen
	Issuing  State = "issuing"  // sweep: the CA is at work
	Collect  State = "collect"  // collector: download, check, deliver, clean up
	Issued   State = "issued"   // final: delivered
	Failed   State = "failed"   // final: the dead letters
	Held     State = "held"     // a person must decide
	Archived State = "archived" // empty; its id stays taken
)

// States are all of them, in the order of the line.
var States = []State{Submit, Unsure, Waiting, Verify, Issuing, Collect, Issued, Failed, Held, Archived}

// transitions is the state machine: where an order may go from each state. The
// empty state is "not there yet". Every move in certmill passes through Check.
var transitions = map[State][]State{
	"":       {Submit, Held, Failed},
	Submit:   {Submit, Unsure, Waiting, Verify, Collect, Failed, Held},
	Unsure:   {Unsure, Submit, Waiting, Verify, Collect, Failed, Held},
	Waiting:  {Waiting, Submit, Unsure, Verify, Collect, Failed, Held},
	Verify:   {Verify, Unsure, Waiting, Issuing, Collect, Failed, Held},
	Issuing:  {Issuing, Waiting, Verify, Collect, Failed, Held},
	Collect:  {Collect, Unsure, Waiting, Verify, Issuing, Issued, Failed, Held},
	Held:     {Submit, Unsure, Verify, Collect, Held},
	Failed:   {Submit, Unsure, Verify, Collect, Archived},
	Issued:   {Archived},
	Archived: nil,
}

// Final tells whether no worker and no sweep handles the state. A held order
// is not final, but it moves only by a person's command.
func (s State) Final() bool { return s == Issued || s == Failed || s == Archived }

// Check returns an error if no order may go from one state to the other.
func Check(from, to State) error {
	for _, t := range transitions[from] {
		if t == to {
			return nil
		}
	}
	return fmt.Errorf("an order in state %q cannot go to %q", from, to)
}

// Subject is where an order in this state lies: order.<state>.<id>.<lane>.
func Subject(s State, id, lane string) string {
	return "order." + string(s) + "." + id + "." + lane
}

// AllOf is the subject filter of all messages of one order, whatever its state
// and lane. It is the condition of every transition, and the only place that
// builds it: a replicated stream compares such filters as text.
func AllOf(id string) string { return "order.*." + id + ".*" }
