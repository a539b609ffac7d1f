package cloudsim

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// dice is the only source of chance, so that a seed repeats a run. Keys and
// certificates are drawn from crypto/rand instead.
type dice struct {
	mu   sync.Mutex
	rand *rand.Rand
}

func newDice(seed uint64) *dice {
	return &dice{rand: rand.New(rand.NewPCG(seed, 0x636572746d696c6c))}
}

// in draws a delay; None gives zero.
func (d *dice) in(r Range) time.Duration {
	if r.Max <= 0 {
		return 0
	}
	if r.Max <= r.Min {
		return r.Min
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return r.Min + time.Duration(d.rand.Int64N(int64(r.Max-r.Min)+1))
}

// hit is true with probability p.
func (d *dice) hit(p float64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.Float64() < p
}

func (d *dice) hex(n int) string {
	b := make([]byte, (n+1)/2)
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range b {
		b[i] = byte(d.rand.Uint32())
	}
	return hex.EncodeToString(b)[:n]
}

func (d *dice) text(n int, alphabet string) string {
	var b strings.Builder
	d.mu.Lock()
	defer d.mu.Unlock()
	for range n {
		b.WriteByte(alphabet[d.rand.IntN(len(alphabet))])
	}
	return b.String()
}

// number draws from [lo, hi).
func (d *dice) number(lo, hi int64) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return lo + d.rand.Int64N(hi-lo)
}

func (d *dice) shuffle(n int, swap func(i, j int)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rand.Shuffle(n, swap)
}

// orderID is above 2^56 and no multiple of 16, so that it never survives a
// float64: the trap in the vendor's own sample 98987582437920968.
func (d *dice) orderID() int64 {
	for {
		if n := d.number(1<<56, 1<<57); n%16 != 0 {
			return n
		}
	}
}

// uuid is a RequestId: lower case at Tencent, upper case at Alibaba.
func (d *dice) uuid() string {
	h := d.hex(32)
	return fmt.Sprintf("%s-%s-4%s-a%s-%s", h[:8], h[8:12], h[13:16], h[17:20], h[20:32])
}

const (
	lowerAndDigits = "abcdefghijklmnopqrstuvwxyz0123456789"
	mixedAndDigits = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
)
