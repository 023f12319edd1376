package wrap

import (
	"context"

	"github.com/sluicefs/sluice/ufs"
)

// Guard returns s with every change asking check in the last moment before it becomes visible: see ufs.Guard.
func Guard(s ufs.Store, check func() error) ufs.Store {
	return over(s, func(ctx context.Context, c *call, do func(context.Context) error) error {
		if c.op.Changes() {
			ctx = ufs.WithGuard(ctx, check)
		}
		return do(ctx)
	})
}
