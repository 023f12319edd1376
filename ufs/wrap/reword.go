package wrap

import (
	"context"

	"github.com/sluicefs/sluice/ufs"
)

// Reword returns s with say made of every error of a call.
func Reword(s ufs.Store, say func(error) error) ufs.Store {
	return over(s, func(ctx context.Context, c *call, do func(context.Context) error) error {
		err := do(ctx)
		if err != nil {
			err = say(err)
		}
		return err
	})
}
