package wrap

import (
	"context"
	"time"

	"github.com/sluicefs/sluice/ufs"
)

// Event is one call of a store that has ended.
type Event struct {
	Op       Op
	Bytes    int // Read, Write: moved
	Rows     int // List: fetched
	Duration time.Duration
	Err      error // nil at the end of a file
}

// Observer is told of every call after it has ended. It is called on the caller's goroutine, by many at once, and must not
// wait.
type Observer func(Event)

// Observe returns s with its calls told to o.
func Observe(s ufs.Store, o Observer) ufs.Store {
	return over(s, func(ctx context.Context, c *call, do func(context.Context) error) error {
		start := time.Now()
		err := do(ctx)
		e := Event{Op: c.op, Duration: time.Since(start), Err: err}
		if c.op == List {
			e.Rows = c.n
		} else {
			e.Bytes = c.n
		}
		o(e)
		return err
	})
}
