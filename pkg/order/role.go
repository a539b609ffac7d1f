package order

// Role is which worker does a piece of work.
type Role string

const (
	Submitter Role = "submitter" // takes orders, makes keys, buys; looks after what is unsure or waits
	Verifier  Role = "verifier"  // proves control of the names; sweeps for what was issued
	Collector Role = "collector" // fetches, checks, delivers, cleans up
)

// Roles are all of them, in the order of the line.
var Roles = []Role{Submitter, Verifier, Collector}
