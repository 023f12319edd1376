package wrap

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

// budget is how many calls of a store run at once. With adapt it is halved when the store says that it is asked too much, once for all
// calls that were under way together, and grows by one whenever so many calls as it has were answered.
type budget struct {
	most, queue int
	longest     time.Duration // that a call waits for others to end
	adapt       bool

	mu      sync.Mutex
	limit   float64
	busy    int
	waiting []chan struct{} // first come, first served; closed when their turn has come
	cut     time.Time       // when the limit was last lowered
	until   time.Time       // the store asked for no call before
	wakes   bool            // somebody will look again at until
	refused int64           // times that the store said it is asked too much
}

const (
	budgetCuts = time.Second      // between two cuts: what was sent before the first one is refused too
	maxAfter   = 30 * time.Second // as much of a store's Retry-After is heeded
)

func newBudget(o IsolateOptions, most int) *budget {
	return &budget{most: most, queue: o.Queue, longest: o.Wait, adapt: o.Adapt, limit: float64(most)}
}

// take waits for a turn. Who gets one gives it back with give. Errors: errs.Overload at once if too many wait, or if it takes too long;
// that of ctx.
func (b *budget) take(ctx context.Context, name string) error {
	b.mu.Lock()
	if len(b.waiting) == 0 && b.room() {
		b.busy++
		b.mu.Unlock()
		return nil
	}
	if len(b.waiting) >= b.queue {
		err := errs.New("wrap.Isolate", name, errs.Overload,
			fmt.Sprintf("%d calls of the store run and %d wait; try again later", b.busy, len(b.waiting)))
		b.mu.Unlock()
		return err
	}
	turn := make(chan struct{})
	b.waiting = append(b.waiting, turn)
	b.wakeLocked()
	b.mu.Unlock()
	late := time.NewTimer(b.longest)
	defer late.Stop()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	case <-late.C:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	err := context.Cause(ctx)
	if err == nil {
		err = errs.New("wrap.Isolate", name, errs.Overload,
			fmt.Sprintf("the call waited %v for others of the store to end, of which %d run; try again later", b.longest, b.busy))
	}
	for i, w := range b.waiting {
		if w == turn {
			b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
			return err
		}
	}
	b.busy-- // its turn came in the same moment
	b.pass()
	return err
}

// quiet returns for how long the store wants to be left alone from now on, 0 or less if it does not.
func (b *budget) quiet() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until.IsZero() {
		return 0
	}
	return time.Until(b.until)
}

// room reports whether one more call may run. mu must be held.
func (b *budget) room() bool {
	return float64(b.busy+1) <= b.limit && (b.until.IsZero() || !time.Now().Before(b.until))
}

// give returns a turn. answered says that the store did as it was asked.
func (b *budget) give(answered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy--
	if answered && b.limit < float64(b.most) {
		b.limit = min(float64(b.most), b.limit+1/b.limit)
	}
	b.pass()
}

// pass gives turns to those that wait. mu must be held.
func (b *budget) pass() {
	for len(b.waiting) > 0 && b.room() {
		close(b.waiting[0])
		b.waiting = b.waiting[1:]
		b.busy++
	}
	b.wakeLocked()
}

// wakeLocked has those who wait looked at when the store may be asked again. mu must be held.
func (b *budget) wakeLocked() {
	if b.wakes || len(b.waiting) == 0 || b.until.IsZero() {
		return
	}
	left := time.Until(b.until)
	if left <= 0 {
		return
	}
	b.wakes = true
	time.AfterFunc(left, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.wakes = false
		b.pass()
	})
}

// slow notes that the store is asked too much and, unless 0, for how long it wants to be left alone.
func (b *budget) slow(after time.Duration) {
	if !b.adapt {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.refused++
	if until := now.Add(min(after, maxAfter)); after > 0 && until.After(b.until) {
		b.until = until
	}
	if now.Sub(b.cut) >= budgetCuts {
		b.cut, b.limit = now, max(1, b.limit/2)
	}
}

// state returns the calls that may run at once, that run, and that wait, and how often the store refused.
func (b *budget) state() (limit, running, waiting int, refused int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int(b.limit), b.busy, len(b.waiting), b.refused
}
