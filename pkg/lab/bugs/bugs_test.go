package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTextsAreThere: whoever moves a rule moves its bug along. To try them all
// takes minutes; that they can be tried is seen here.
func TestTextsAreThere(t *testing.T) {
	for _, b := range bugs {
		text, err := os.ReadFile(filepath.Join("../../..", b.file))
		if n := strings.Count(string(text), b.old); err != nil || n != 1 {
			t.Errorf("%s: %s has its text %d times, not once (%v)", b.what, b.file, n, err)
		}
	}
}
