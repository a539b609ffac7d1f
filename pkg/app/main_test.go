package app

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/natstest"
)

// sharedState is where configs that know a server and nothing else have their key
// store: new streams over it take its id.
var sharedState string

func TestMain(m *testing.M) {
	var err error
	if sharedState, err = os.MkdirTemp("", "certmill-app-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	natstest.Tune()
	simPace = cloudsim.Config{
		ChallengeDelay: cloudsim.Between(20*time.Millisecond, 200*time.Millisecond), BatchDelay: cloudsim.Between(20*time.Millisecond, 200*time.Millisecond),
		IssueDelay: cloudsim.Between(100*time.Millisecond, 1500*time.Millisecond), CheckInterval: cloudsim.Duration(100 * time.Millisecond),
		ListLag: cloudsim.Between(0, 100*time.Millisecond), Latency: cloudsim.Between(time.Millisecond, 10*time.Millisecond),
	}
	_ = os.Setenv("CANARY_PROGRAM_TOKEN", canaryProg) // of one test, which is parallel
	code := m.Run()
	_ = os.RemoveAll(sharedState)
	os.Exit(code)
}
