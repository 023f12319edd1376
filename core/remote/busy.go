package remote

import (
	"context"
	"sync/atomic"
	"time"
)

// busy counts what a server is doing.
type busy struct{ calls, readers atomic.Int64 }

// busyEvery is how often a server that is about to be replaced is looked at.
const busyEvery = time.Millisecond

// Settle waits until no call and no Commit is in progress, for whoever wants to replace s: first Lease holds back what
// comes. Readers go on. Errors: ctx's.
func (s *Server) Settle(ctx context.Context) error { return none(ctx, busyEvery, &s.busy.calls) }

// Drained waits until no reader is left either. Errors: ctx's.
func (s *Server) Drained(ctx context.Context) error {
	return none(ctx, 100*busyEvery, &s.busy.calls, &s.busy.readers)
}

func none(ctx context.Context, every time.Duration, counts ...*atomic.Int64) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		all := int64(0)
		for _, c := range counts {
			all += c.Load()
		}
		if all == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
