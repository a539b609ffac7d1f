package permit_test

import (
	"testing"

	"github.com/certmill/certmill/pkg/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m) }
