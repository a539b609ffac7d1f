package permit

import "time"

// Tests tend more often; their Q is half a second.
func init() {
	tendEvery, slotsEvery, removePause = 50*time.Millisecond, 700*time.Millisecond, time.Second
}
