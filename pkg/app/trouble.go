package app

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/certmill/certmill/pkg/redact"
)

// Trouble is what keeps orders from moving, or has harmed them, and stands in no
// order's record.
type Trouble struct {
	What  string    `json:"what"` // short, for grouping
	Why   string    `json:"why"`  // a sentence
	Since time.Time `json:"since"`
	Helps []string  `json:"helps,omitempty"`
}

// line is a trouble in one line.
func (t Trouble) line() string {
	s := t.What + ": " + t.Why
	if len(t.Helps) > 0 {
		s += "; what helps: " + strings.Join(t.Helps, "; ")
	}
	return s
}

// troubles are those of one process by what they concern. Each is told in the log
// once when it comes, and once when it is over.
type troubles struct {
	log *slog.Logger

	mu  sync.Mutex // guards what follows
	all map[string]Trouble
}

// set notes a trouble; the time of one that lasts stays. Of one that was there
// already, another reason is not told again.
func (t *troubles) set(ctx context.Context, key string, is Trouble) {
	is.What, is.Why = redact.Text(is.What), redact.Text(is.Why) // the probes show it, and it may be a server's word
	t.mu.Lock()
	was, there := t.all[key]
	if there {
		is.Since = was.Since
	}
	if t.all == nil {
		t.all = map[string]Trouble{}
	}
	t.all[key] = is
	t.mu.Unlock()
	if !there {
		t.log.ErrorContext(ctx, is.What, "why", is.Why, "helps", strings.Join(is.Helps, "; "))
	}
}

// over ends a trouble, if it is there.
func (t *troubles) over(ctx context.Context, key string) {
	t.mu.Lock()
	was, there := t.all[key]
	delete(t.all, key)
	t.mu.Unlock()
	if there {
		t.log.WarnContext(ctx, "over: "+was.What, "after", time.Since(was.Since).Round(time.Second))
	}
}

// overAll ends those whose key begins so.
func (t *troubles) overAll(ctx context.Context, prefix string) {
	for _, key := range t.keys() {
		if strings.HasPrefix(key, prefix) {
			t.over(ctx, key)
		}
	}
}

func (t *troubles) keys() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return sorted(t.all)
}

// list is what is there now, the oldest first.
func (t *troubles) list() []Trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Trouble
	for _, key := range sorted(t.all) {
		all = append(all, t.all[key])
	}
	slices.SortStableFunc(all, func(a, b Trouble) int { return a.Since.Compare(b.Since) })
	return all
}
