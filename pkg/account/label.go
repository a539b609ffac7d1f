package account

import (
	"context"
	"strings"
	"time"

	"github.com/certmill/certmill/pkg/stream"
)

// labels is the first token of the keys of what is known of a label by itself.
const labels = "label."

// labelKey is the key of what is known of a label, whatever its main account is, and
// where nobody knows that yet. Main accounts have no dot, so these never meet.
func labelKey(label string) string { return labels + stream.Token(label) }

// What a cloud was asked, of whose answers troubles of a label are kept.
const (
	AskedWhose = "whose its key is"
	AskedList  = "for its list"
)

// AnswerTo is the kind of trouble of what a label's cloud answers a role of workers:
// each may have a key of its own for the label.
func AnswerTo(role, asked string) string { return role + " " + asked }

// OfLabel are the troubles of a label that are told of now, each once.
func (a *Accounts) OfLabel(label string, now time.Time) (all []Trouble) {
	told := map[string]bool{}
	for _, t := range a.State(labelKey(label)).Troubled(now) {
		if t.Label == label && !told[t.What] {
			all = append(all, t)
		}
		told[t.What] = true
	}
	return all
}

// TellLabel keeps a trouble of a label, as Tell does, and in place of another one of
// the kind at once.
func (a *Accounts) TellLabel(ctx context.Context, label string, t Trouble) (news bool, err error) {
	t.Label = label
	if was, told := a.State(labelKey(label)).Troubles[t.Kind]; told && was.What != t.What {
		if err := a.Calm(ctx, labelKey(label), t.Kind); err != nil {
			return false, err
		}
	}
	return a.Tell(ctx, labelKey(label), t)
}

// CalmLabel ends a trouble of a label. Safe to repeat.
func (a *Accounts) CalmLabel(ctx context.Context, label, kind string) error {
	return a.Calm(ctx, labelKey(label), kind)
}

// Labels are those of which a trouble is told now.
func (a *Accounts) Labels(now time.Time) (all []string) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for key, k := range a.states {
		if !strings.HasPrefix(key, labels) {
			continue
		}
		if troubled := k.Troubled(now); len(troubled) > 0 {
			all = append(all, troubled[0].Label)
		}
	}
	return all
}
