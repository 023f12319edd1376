package wrap

import (
	"context"

	"github.com/sluicefs/sluice/ufs"
)

// Gate returns s with every change asking check before the store sees any of it, unlike Guard, which asks in the last moment
// before the change shows: what check refuses has staged nothing either. Reads pass; a Probe that would write does not.
func Gate(s ufs.Store, check func() error) ufs.Store {
	return over(s, func(ctx context.Context, c *call, do func(context.Context) error) error {
		if c.op.Changes() || c.writes {
			if err := check(); err != nil {
				return err
			}
		}
		return do(ctx)
	})
}
