package wrap

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Limit returns s with at most inFlight calls running and queue more waiting; what comes on top is errs.Unavailable at
// once, so that a slow store cannot collect the requests of a fast client. The Reads and Writes of streams are not
// counted: they go at the client's pace, and one stream may feed another of the same store.
func Limit(s ufs.Store, inFlight, queue int) ufs.Store {
	slots := make(chan struct{}, inFlight)
	var waiting atomic.Int64
	return &base{inner: s, around: func(ctx context.Context, c *call, do func(context.Context) error) error {
		if c.op == Read || c.op == Write || c.op == Abort {
			return do(ctx)
		}
		select {
		case slots <- struct{}{}:
		default:
			defer waiting.Add(-1)
			if waiting.Add(1) > int64(queue) {
				return errs.New("wrap.Limit", c.name, errs.Unavailable,
					fmt.Sprintf("%d calls of the store run and %d wait; try again later", inFlight, queue))
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		defer func() { <-slots }()
		return do(ctx)
	}}
}
