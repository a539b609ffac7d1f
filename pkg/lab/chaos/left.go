package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/ledger"
	"github.com/certmill/certmill/pkg/order"
)

// cleanUp is how old the workers let records become that no order needs any
// more: 10 minutes in production.
const cleanUp = 4 * time.Second

// swept waits until the book of what was placed has nothing but what held orders
// need. If that does not come, judge tells what is there.
func (s *site) swept(ctx context.Context) {
	s.tell("waiting until what was placed is taken back")
	_ = s.await(ctx, 25*cleanUp, "the book is as it should be", func(ctx context.Context) error {
		line, err := s.line(ctx)
		if err != nil {
			return err
		}
		entries := 0
		err = s.booked(ctx, func(pl ledger.Placement) error {
			entries++
			for _, id := range pl.Orders {
				it, err := line.Last(ctx, id)
				if err != nil || it.State != order.Held {
					return fmt.Errorf("%s is booked for order %s (%s)", pl.Challenge.Host, id, it.State)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		copies, err := filepath.Glob(filepath.Join(s.cfg.DCV.Copy, "*.json")) // and not what killed writers leave, for a day
		if err == nil && len(copies) > entries {
			err = fmt.Errorf("the book has %d entries, its copy %d", entries, len(copies))
		}
		return err
	})
}

func (s *site) booked(ctx context.Context, f func(ledger.Placement) error) error {
	book, err := ledger.OpenPlaced(ctx, s.js, 0)
	if err != nil {
		return err
	}
	unread, err := book.Each(ctx, f)
	if err == nil && len(unread) > 0 {
		err = unread[0]
	}
	return err
}

// lie is where a challenge lies, and what.
type lie struct{ kind, host, value string }

func lies(c order.Challenge) lie {
	if c.Type == dcv.FILE {
		return lie{kind: c.Type, host: c.Host + c.Path}
	}
	return lie{c.Type, c.Host, c.Value}
}

// left judges what lies in the DNS, by the clouds' own books, and on the web
// server: nothing but what held orders have there by their records, and the book of placements has just
// that. Where JetStream was lost, so was the book: what its orders had placed is
// known by the copy.
func (v *verdict) left() {
	held := map[lie]string{} // by whom
	for id, it := range v.orders {
		for _, pr := range it.Prove() {
			if it.State == order.Held {
				held[lies(pr.Place())] = id
			}
		}
	}
	booked := map[lie]bool{}
	for _, pl := range v.book {
		at := lies(pl.Challenge)
		if booked[at] = true; held[at] == "" {
			v.problem("the book has %s %s for the orders %v, which do not need it any more (%s)", pl.Orders, pl.Challenge.Type, pl.Challenge.Host, pl.Orders, pl.Why)
		}
	}
	lost := v.did.Wipes+v.did.Restores > 0
	for _, r := range v.records {
		switch at := (lie{r.Type, r.Name, r.Value}); {
		case r.By == "" || r.By == console: // the cloud's own, and strangers'
		case held[at] != "" && (booked[at] || lost):
		default:
			v.report.Left++
			v.problem("%s %s was left behind in the DNS, written by %s at %s; booked: %v", nil, r.Type, r.Name, r.By, r.Created.Format(time.TimeOnly), booked[at])
		}
	}
	for _, name := range v.files {
		if at := (lie{kind: dcv.FILE, host: name}); held[at] == "" {
			v.report.Left++
			v.problem("the file %s was left behind; booked: %v", nil, name, booked[at])
		}
	}
}

// readPlaced reads what left judges.
func (v *verdict) readPlaced(ctx context.Context) error {
	books := v.clouds.Books()
	v.records = books.Records
	for _, f := range books.Foreign {
		v.problem("a record of others was changed: %s", nil, f)
	}
	if err := v.readFiles(); err != nil {
		return err
	}
	err := v.booked(ctx, func(pl ledger.Placement) error { v.book = append(v.book, pl); return nil })
	if err != nil {
		return fmt.Errorf("read what was placed: %w", err)
	}
	return nil
}

// readFiles reads which FILE challenges lie on the web server.
func (v *verdict) readFiles() error {
	root := v.cfg.DCV.Files
	return filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Dir(path) == root { // what a killed writer leaves is served to nobody
			return err
		}
		name, err := filepath.Rel(root, path)
		v.files = append(v.files, filepath.ToSlash(name))
		return err
	})
}
