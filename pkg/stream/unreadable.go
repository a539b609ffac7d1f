package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/certmill/certmill/pkg/record"
)

// Unreadable is a message that this program cannot read: a newer program's
// record, or none at all. Whoever meets one leaves it alone, goes on, and tells.
type Unreadable struct {
	Subject string
	Seq     uint64
	Err     error
}

// Newer tells whether a newer program wrote it, which can read it.
func (u Unreadable) Newer() bool { return errors.Is(u.Err, record.ErrNewer) }

func (u Unreadable) Error() string {
	return fmt.Sprintf("%s (message %d): %v", u.Subject, u.Seq, u.Err)
}

func (u Unreadable) Unwrap() error { return u.Err }

// Tell logs it: each once in a process, and of very many the first ones.
func (u Unreadable) Tell(ctx context.Context, log *slog.Logger) {
	switch told.note(u) {
	case first:
		log.WarnContext(ctx, "a record cannot be read; it is left alone",
			"subject", u.Subject, "seq", u.Seq, "newer", u.Newer(), "err", u.Err)
	case full:
		log.WarnContext(ctx, "more records cannot be read; they are left alone, too, and not logged any more",
			"logged", mostTold)
	}
}

// told is what this process has told of.
var told journal

// mostTold bounds what is logged and remembered.
const mostTold = 1000

type journal struct {
	mu    sync.Mutex
	notes map[note]bool
}

type note struct {
	subject string
	seq     uint64
}

type times int

const (
	before times = iota
	first
	full // the first that is one too many
)

func (j *journal) note(u Unreadable) times {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := note{u.Subject, u.Seq}
	if j.notes[n] || len(j.notes) > mostTold {
		return before
	}
	if j.notes == nil {
		j.notes = map[note]bool{}
	}
	j.notes[n] = true
	if len(j.notes) > mostTold {
		return full
	}
	return first
}
