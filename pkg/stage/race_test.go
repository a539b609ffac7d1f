//go:build race

package stage_test

// slow is how much fewer cases are drawn under the race detector, which makes
// each several times dearer.
const slow = 6
