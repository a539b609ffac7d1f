package app

import (
	"fmt"
	"os"
	"testing"

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
	code := m.Run()
	_ = os.RemoveAll(sharedState)
	os.Exit(code)
}
