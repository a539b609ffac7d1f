package natstest

import (
	"flag"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
)

// Of tests that wait for servers more than they reckon: how many run at once, for
// each core, and how much garbage may gather.
const (
	atOnce  = 2
	garbage = 400 // percent of what is in use
)

// Main is a TestMain for tests with servers: more of them run at once than there
// are cores, because they wait most of the time. A -parallel or GOGC of the caller's
// stays as it is.
func Main(m *testing.M) {
	Tune()
	m.Run()
}

// Tune is Main for packages that have a TestMain of their own.
func Tune() {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(atOnce*runtime.GOMAXPROCS(0)))
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
}
