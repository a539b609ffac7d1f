package natstest

import (
	"flag"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"
)

// garbage is how much of it may gather, in percent of what is in use. How many tests
// run at once for each core is atOnce: they wait for servers more than they reckon,
// but under the race detector.
const garbage = 400

// Patience is how long tests wait for what must come. With a seeded bug much never
// comes: pkg/lab/bugs gives them less of it, after it saw them pass with as little.
var Patience time.Duration

func init() {
	flag.DurationVar(&Patience, "patience", 2*time.Minute, "how long a test waits for what must come")
}

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
