//go:build !race

package stage_test

const slow = 1
