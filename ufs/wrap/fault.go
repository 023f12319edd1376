package wrap

import (
	"context"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core/wait"
	"github.com/sluicefs/sluice/ufs"
)

// Rule says what goes wrong, and with which call.
type Rule struct {
	Op   Op
	Name string // of the file or directory; "": any
	Nth  int    // of the calls that Op and Name fit, counted from 1 when the rule is added; 0: all of them

	After bool            // it goes wrong after the call has had its effect: the answer is lost
	Err   error           // what the caller gets; nil: the call succeeds
	Delay time.Duration   // it takes so much longer, or until the ctx ends
	Wait  <-chan struct{} // it waits for the channel to be closed, or until the ctx ends
	Cut   int             // Read: so many bytes come, and then Err
}

// Faulty is a store that fails as its rules say. It is a tool for tests.
type Faulty struct {
	*base

	mu    sync.Mutex
	rules []*rule
	calls map[Op]int
}

type rule struct {
	Rule
	seen int // calls that fitted
}

// Fault returns s with faults. Without rules it does what s does, and counts.
func Fault(s ufs.Store) *Faulty {
	f := &Faulty{calls: map[Op]int{}}
	f.base = &base{inner: s, around: f.call}
	return f
}

// Add adds a rule. If several fit a call, the one added first decides.
func (f *Faulty) Add(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &rule{Rule: r})
}

// Heal drops all rules.
func (f *Faulty) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Calls returns how often op was called.
func (f *Faulty) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// fitting counts the call and returns the rule that decides it, or nil.
func (f *Faulty) fitting(c *call) *rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[c.op]++
	var found *rule
	for _, r := range f.rules {
		if r.Op != c.op || r.Name != "" && r.Name != c.name {
			continue
		}
		if r.seen++; found == nil && (r.Nth == 0 || r.Nth == r.seen) {
			found = r
		}
	}
	return found
}

func (f *Faulty) call(ctx context.Context, c *call, do func(context.Context) error) error {
	r := f.fitting(c)
	if r == nil {
		return do(ctx)
	}
	if r.Cut > 0 && c.op == Read {
		c.size = min(c.size, r.Cut)
	}
	if r.After || r.Cut > 0 {
		if err := do(ctx); err != nil {
			return err
		}
		if err := r.linger(ctx); err != nil {
			return err
		}
		return r.Err
	}
	if err := r.linger(ctx); err != nil {
		return err
	}
	if r.Err != nil {
		return r.Err
	}
	return do(ctx)
}

// linger takes the time the rule says.
func (r *rule) linger(ctx context.Context) error {
	if err := wait.For(ctx, r.Delay); r.Delay > 0 && err != nil {
		return err
	}
	if r.Wait != nil {
		select {
		case <-r.Wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
