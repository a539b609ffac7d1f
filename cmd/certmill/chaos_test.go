package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/certmill/certmill/pkg/lab/chaos"
)

// TestChaosNamesItsBatteries: the help lists all that there are.
func TestChaosNamesItsBatteries(t *testing.T) {
	field, _ := reflect.TypeFor[chaosCmd]().FieldByName("Batteries")
	all, _ := chaos.Batteries()
	if help, want := field.Tag.Get("help"), "Only these: "+strings.Join(all, ", ")+"."; help != want {
		t.Errorf("the help says %q, want %q", help, want)
	}
}
