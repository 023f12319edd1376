package namespace

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core/wait"
)

/*
turns bound how much of the processors all syncs take but gentle ones: what they compute, they compute in turns, of which there are half
as many as processors. While requests come, a turn that was held rests for some times as long. Short turns are taken together, with one
long rest for all of them: most requests then meet no sync at work, and find in the processors' caches what the last one left there.
That is what they are slowed by, more than by waiting for a processor: with rests of four times as long, of 8 ms and more, half of all
requests took a third longer.

Who has a turn waits for nothing that may take long: no store, no journal, no other turn.
*/
type turns struct {
	free  chan turn // those that nobody has
	asked atomic.Bool
	last  atomic.Pointer[time.Time] // when asked was last found to be true
}

// turn is one of them while nobody has it.
type turn struct {
	rested time.Time // when it has rested enough for all that was computed in it
	rests  bool      // nobody computes in it before
}

const (
	restShare = 12                     // times as long as a turn was held it rests
	minRest   = 80 * time.Millisecond  // a turn that needs less rest goes on
	maxRest   = 100 * time.Millisecond // of a turn that was held for very long
	askedFor  = 100 * time.Millisecond // after a request, more are expected

	// maxTurnWait is how long a driver waits for a turn. It does so in a call of its store, of which few may be made at once, and
	// whose time is taken for the store's: beyond it the driver works without a turn, or in one that has not rested enough, and
	// rests the longer afterwards.
	maxTurnWait = 100 * time.Millisecond
)

func newTurns(n int) *turns {
	t := &turns{free: make(chan turn, n)}
	for range n {
		t.free <- turn{}
	}
	return t
}

// processorTurns returns as many turns as leave half of the processors, and at least one.
func processorTurns(processors int) *turns { return newTurns(max(1, processors/2)) }

// request notes that a request has come.
func (t *turns) request() {
	if !t.asked.Load() { // all requests read this, and seldom one writes
		t.asked.Store(true)
	}
}

// requested reports whether requests come.
func (t *turns) requested(now time.Time) bool {
	if t.asked.Load() && t.asked.Swap(false) {
		t.last.Store(&now)
	}
	last := t.last.Load()
	return last != nil && now.Sub(*last) < askedFor
}

// take waits for a turn, and returns what gives it back. If ctx ends meanwhile there is none to give back: what is left to do for who
// has given up is little.
func (t *turns) take(ctx context.Context) (give func()) {
	var x turn
	select {
	case x = <-t.free:
	case <-ctx.Done():
		return func() {}
	}
	if x.rests {
		_ = wait.For(ctx, time.Until(x.rested))
	}
	began := time.Now()
	return func() { t.free <- t.held(x, began, time.Now()) }
}

// takeInCall is take for a driver.
func (t *turns) takeInCall(ctx context.Context) (give func()) {
	ctx, cancel := context.WithTimeout(ctx, maxTurnWait)
	defer cancel()
	return t.take(ctx)
}

// held returns what becomes of a turn that was held.
func (t *turns) held(x turn, began, ended time.Time) turn {
	if !t.requested(ended) {
		return turn{}
	}
	if x.rested.Before(began) {
		x.rested = began
	}
	rest := min(maxRest, x.rested.Add((1+restShare)*ended.Sub(began)).Sub(ended))
	return turn{ended.Add(rest), rest >= minRest}
}
