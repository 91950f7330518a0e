package worker

import (
	"errors"
	"fmt"
	"slices"
)

// cleanup is undo beside do: each piece is registered when the thing exists, and they run backwards.
type cleanup struct{ steps []func() error }

func (c *cleanup) add(name string, fn func() error) {
	c.steps = append(c.steps, func() error {
		if err := fn(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

func (c *cleanup) run() error {
	var errs []error
	for _, step := range slices.Backward(c.steps) {
		errs = append(errs, step())
	}
	return errors.Join(errs...)
}
