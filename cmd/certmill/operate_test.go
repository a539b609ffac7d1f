package main

import (
	"strings"
	"testing"
)

// TestLimitIsAWholeNumber: what is no whole number of calls is refused before anything
// is asked, with what to write.
func TestLimitIsAWholeNumber(t *testing.T) {
	for _, text := range []string{"0.0001", "1e9", "many", "99999999999999999999"} {
		var n calls
		if err := n.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "write a whole number of calls a second") {
			t.Errorf("%s: %v", text, err)
		}
	}
	var c cli
	if _, err := newParser(t.Context(), &c).Parse([]string{"limit", "ali", "Buy", "0.5"}); err == nil || !strings.Contains(err.Error(), "write a whole number") {
		t.Errorf("the command: %v", err)
	}
	if _, err := newParser(t.Context(), &c).Parse([]string{"limit", "ali", "Buy", "7"}); err != nil || c.Limit.Calls != 7 {
		t.Errorf("%v, %d", err, c.Limit.Calls)
	}
}
