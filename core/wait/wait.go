// Package wait lets time pass.
package wait

import (
	"context"
	"time"
)

// For waits for d, or until ctx ends, whose cause it returns then. A ctx that has ended is an error whatever d is.
func For(ctx context.Context, d time.Duration) error {
	if d > 0 && ctx.Err() == nil {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}
