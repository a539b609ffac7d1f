package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/order"
)

var _ dcv.Haser = Solver{}

// Has implements dcv.Haser: whether the file is there with exactly the
// challenge's content.
func (s Solver) Has(_ context.Context, c order.Challenge) (bool, error) {
	name, err := Locate(c)
	if err != nil {
		return false, err
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return false, fmt.Errorf("look for file: %w", err)
	}
	defer root.Close()
	same, err := holds(root, name, c.Value)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for file: %w", err)
	}
	return err == nil && same, nil
}
