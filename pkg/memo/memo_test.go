package memo

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var keep = Keep{Answer: 10 * time.Second, Failure: Moment}

var errDead = errors.New("no answer in time")

// dead is a cloud that lets every question run into its time-out.
type dead struct{ timeouts atomic.Int32 }

func (d *dead) ask(ctx context.Context) (int, error) {
	select {
	case <-time.After(3 * time.Second):
		d.timeouts.Add(1)
		return 0, errDead
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// TestQuestionsDoNotWaitForEachOther: sixteen callers ask what does not answer,
// again and again; all the others' questions are answered at once.
func TestQuestionsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var m Memo[int]
		var d dead
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, _ = m.Get(ctx, "a", keep, d.ask)
					time.Sleep(time.Millisecond)
				}
			})
		}
		answers := 0
		for d.timeouts.Load() < 8 {
			if v, err := m.Get(ctx, fmt.Sprint("b", answers), keep, func(context.Context) (int,
				error) {
				return answers, nil
			}); v != answers || err != nil {
				t.Errorf("question %d: %d, %v", answers, v, err)
			}
			answers++
			time.Sleep(100 * time.Millisecond)
		}
		stop()
		wg.Wait()
		if answers < 240 {
			t.Errorf("%d answers in the time of 8 time-outs", answers)
		}
	})
}

// TestAHundredAskOnce, also what does not answer, and what answers again is
// noticed.
func TestAHundredAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Memo[int]
		var asked atomic.Int32
		answer := errDead
		all := func() (failed int) {
			var wg sync.WaitGroup
			var n atomic.Int32
			for range 100 {
				wg.Go(func() {
					_, err := m.Get(t.Context(), "k", keep, func(context.Context) (int, error) {
						asked.Add(1)
						time.Sleep(3 * time.Second)
						return 7, answer
					})
					if err != nil {
						n.Add(1)
					}
				})
			}
			wg.Wait()
			return int(n.Load())
		}
		began := time.Now()
		if failed := all(); failed != 100 || asked.Load() != 1 {
			t.Errorf("%d of 100 failed by %d questions", failed, asked.Load())
		}
		if failed := all(); failed != 100 || asked.Load() != 1 {
			t.Errorf("a moment later: %d of 100 failed by %d questions", failed, asked.Load())
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("two hundred waited %v", took)
		}
		time.Sleep(Moment)
		answer = nil
		if failed := all(); failed != 0 || asked.Load() != 2 {
			t.Errorf("when it answers again: %d of 100 failed by %d questions", failed, asked.Load())
		}
		time.Sleep(keep.Answer - time.Nanosecond)
		if all(); asked.Load() != 2 {
			t.Error("the answer did not hold")
		}
		time.Sleep(time.Nanosecond)
		if all(); asked.Load() != 3 {
			t.Error("the answer held too long")
		}
	})
}

// TestAClearRefusalIsNotRemembered, because a person may mend it at once.
func TestAClearRefusalIsNotRemembered(t *testing.T) {
	var m Memo[int]
	choosy := keep
	choosy.Silence = func(err error) bool { return errors.Is(err, errDead) }
	for asked, answer := range []error{errors.New("the key is disabled"), errors.New("the key is disabled"), errDead,
		nil} {
		_, err := m.Get(t.Context(), "k", choosy, func(context.Context) (int, error) { return 0, answer })
		if asked < 3 && !errors.Is(err, answer) {
			t.Errorf("question %d: %v, want %v", asked, err, answer)
		}
		if asked == 3 && !errors.Is(err, errDead) {
			t.Errorf("that nobody answers was not remembered: %v", err)
		}
	}
}

// TestWhoLeaves: the asking goes on for the others, and ends with the last.
func TestWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Memo[int]
		var ended error
		ask := func(ctx context.Context) (int, error) {
			select {
			case <-time.After(3 * time.Second):
				return 7, nil
			case <-ctx.Done():
				ended = ctx.Err()
				return 0, ended
			}
		}
		get := func(patience time.Duration) (int, error) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return m.Get(ctx, "k", keep, ask)
		}
		var wg sync.WaitGroup
		wg.Go(func() { // the first, by which it is asked
			if _, err := get(time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the first: %v", err)
			}
		})
		synctest.Wait()
		if v, err := get(time.Minute); v != 7 || err != nil {
			t.Errorf("the second: %d, %v", v, err)
		}
		wg.Wait()
		m.Forget("k")

		for range 2 {
			wg.Go(func() { _, _ = get(time.Second) })
		}
		wg.Wait()
		synctest.Wait()
		if !errors.Is(ended, context.Canceled) {
			t.Errorf("nobody waits, and the asking goes on: %v", ended)
		}
		if v, err := get(time.Minute); v != 7 || err != nil {
			t.Errorf("who comes after that: %d, %v", v, err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.Get(gone, "other", keep, func(context.Context) (int,
			error) {
			panic("asked")
		}); !errors.Is(err, context.Canceled) {
			t.Errorf("who had gone before it asked: %v", err)
		}
	})
}

type valueKey struct{}

// TestValuesGoAlong: an asking has what its first caller's context carries.
func TestValuesGoAlong(t *testing.T) {
	var m Memo[any]
	ctx := context.WithValue(t.Context(), valueKey{}, "urgent")
	if v, _ := m.Get(ctx, "k", keep, func(ctx context.Context) (any, error) {
		return ctx.Value(valueKey{}),
			nil
	}); v != "urgent" {
		t.Errorf("%v", v)
	}
}

// TestFaults: a panic goes on in all who wait, and is not the end of the memo; so
// is an asking that ends itself.
func TestFaults(t *testing.T) {
	var m Memo[int]
	for range 2 {
		func() {
			defer func() {
				if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "index out of range") ||
					!strings.Contains(fmt.Sprint(p), "memo_test.go") {
					t.Errorf("panic %v", p)
				}
			}()
			_, _ = m.Get(t.Context(), "k", Keep{}, func(context.Context) (int, error) {
				return []int{}[len(keepNone)],
					nil
			})
		}()
	}
	if _, err := m.Get(t.Context(), "exit", Keep{}, func(context.Context) (int, error) {
		runtime.Goexit()
		return 1,
			nil
	}); !errors.Is(err, errNoAnswer) {
		t.Errorf("an asking that ended itself: %v", err)
	}
}

var keepNone []int

// TestMemoIsBounded: whatever names come along.
func TestMemoIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Memo[int]
		get := func(i int) {
			_, _ = m.Get(t.Context(), fmt.Sprint(i), keep, func(context.Context) (int, error) { return i, nil })
		}
		for i := range most + 10 {
			get(i)
		}
		if len(m.was) > most {
			t.Errorf("%d are remembered", len(m.was))
		}
		time.Sleep(keep.Answer)
		for i := range most + 1 {
			get(i)
		}
		if len(m.was) > most {
			t.Errorf("%d are remembered", len(m.was))
		}
	})
}
