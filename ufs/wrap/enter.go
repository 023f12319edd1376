package wrap

import (
	"context"

	"github.com/sluicefs/sluice/ufs"
)

// Enter returns s with begin told of every call before it is made. What begin returns, if not nil, is called once it has ended.
func Enter(s ufs.Store, begin func(Op) (end func())) ufs.Store {
	return over(s, func(ctx context.Context, c *call, do func(context.Context) error) error {
		if end := begin(c.op); end != nil {
			defer end()
		}
		return do(ctx)
	})
}
