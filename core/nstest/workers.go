package nstest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// Workers are workers that hold bytes in memory. They outlive the namespaces that use them.
type Workers struct {
	all         []*Worker
	drainChosen bool // those that are chosen are drained right after
}

// NewWorkers returns n workers, "w1" and so on, each in a failure domain of its own.
func NewWorkers(n int) *Workers {
	w := &Workers{}
	for i := range n {
		w.all = append(w.all, &Worker{name: fmt.Sprintf("w%d", i+1), held: map[core.HeldID][]byte{}})
	}
	return w
}

// Choose implements core.Holders.
func (w *Workers) Choose(n int, _ bool, beside ...string) (some []core.Holder) {
	taken := map[string]bool{}
	for _, x := range w.all {
		if slices.Contains(beside, x.name) {
			taken[x.domainNow()] = true
		}
	}
	for _, x := range w.all {
		if domain := x.domainNow(); len(some) < n && !x.isDown() && !x.isLeaving() && !taken[domain] {
			taken[domain] = true
			some = append(some, x)
			if w.drainChosen {
				x.leave()
			}
		}
	}
	return some
}

// Leaving implements core.Holders.
func (w *Workers) Leaving() (names []string) {
	for _, x := range w.all {
		if x.isLeaving() {
			names = append(names, x.name)
		}
	}
	return names
}

// Holder implements core.Holders.
func (w *Workers) Holder(name string) (core.Holder, bool) {
	for _, x := range w.all {
		if x.name == name {
			return x, !x.isDown()
		}
	}
	return nil, false
}

// All implements core.Holders.
func (w *Workers) All() (all []core.Holder) {
	for _, x := range w.all {
		if !x.isDown() {
			all = append(all, x)
		}
	}
	return all
}

// Worker is one of Workers.
type Worker struct {
	name string

	mu      sync.Mutex
	domain  string // "": its own
	leaving bool
	down    bool
	left    int // bytes that it takes before it goes down; 0: all
	held    map[core.HeldID][]byte
	given   int64         // bytes given to readers
	waiting atomic.Bool   // a write
	stalled chan struct{} // until it is closed, writes wait; nil: they do not
	asked   func()        // called before the worker next says whether it has something
}

func (w *Worker) isDown() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.down
}

func (w *Worker) isLeaving() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leaving
}

// leave has the worker be drained.
func (w *Worker) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaving = true
}

func (w *Worker) domainNow() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return cmp.Or(w.domain, w.name)
}

// moveTo puts the worker into a failure domain.
func (w *Worker) moveTo(domain string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.domain = domain
}

// fail has the worker go down after it has taken so many bytes, or now.
func (w *Worker) fail(after int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left, w.down = after, after == 0
}

// back has the worker answer again.
func (w *Worker) back() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left, w.down = 0, false
}

// wipe has the worker forget everything.
func (w *Worker) wipe() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.held)
}

// damage changes a byte of everything the worker holds.
func (w *Worker) damage() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, b := range w.held {
		if len(b) > 0 {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 1
			w.held[id] = b
		}
	}
}

// stall has writes to the worker wait until goOn is called.
func (w *Worker) stall() (goOn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	stalled := make(chan struct{})
	w.stalled = stalled
	return sync.OnceFunc(func() { close(stalled) })
}

// before has fn called before the worker next says whether it has something.
func (w *Worker) before(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = fn
}

func (w *Worker) beforeNext() {
	w.mu.Lock()
	fn := w.asked
	w.asked = nil
	w.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// isWaiting reports whether a write has waited.
func (w *Worker) isWaiting() bool { return w.waiting.Load() }

func (w *Worker) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.held)
}

func (w *Worker) away() error {
	return errs.New("nstest.Worker", w.name, errs.Unavailable, "the worker is down")
}

// Name implements core.Holder.
func (w *Worker) Name() string { return w.name }

// Hold implements core.Holder.
func (w *Worker) Hold(_ context.Context, id core.HeldID) (core.HoldWriter, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, w.away()
	}
	if _, ok := w.held[id]; ok {
		return nil, errs.E("nstest.Hold", w.name, errs.Exist, nil)
	}
	return &workerWriter{w: w, id: id}, nil
}

// Held implements core.Holder.
func (w *Worker) Held(_ context.Context, id core.HeldID, off, n int64) (io.ReadCloser, error) {
	w.beforeNext()
	w.mu.Lock()
	defer w.mu.Unlock()
	b, ok := w.held[id]
	switch {
	case w.down:
		return nil, w.away()
	case !ok:
		return nil, errs.E("nstest.Held", w.name, errs.NotExist, nil)
	case off+n > int64(len(b)):
		return nil, errs.E("nstest.Held", w.name, errs.Range, nil)
	}
	w.given += n
	return io.NopCloser(bytes.NewReader(b[off : off+n])), nil
}

// Release implements core.Holder.
func (w *Worker) Release(_ context.Context, ids ...core.HeldID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return w.away()
	}
	for _, id := range ids {
		delete(w.held, id)
	}
	return nil
}

// Holds implements core.Holder.
func (w *Worker) Holds(context.Context) iter.Seq2[core.Held, error] {
	w.beforeNext()
	w.mu.Lock()
	held := maps.Clone(w.held)
	w.mu.Unlock()
	return func(yield func(core.Held, error) bool) {
		for id, b := range held {
			if !yield(core.Held{HeldID: id, Size: int64(len(b))}, nil) {
				return
			}
		}
	}
}

// workerWriter implements core.HoldWriter.
type workerWriter struct {
	w    *Worker
	id   core.HeldID
	data []byte
}

// Write implements io.Writer.
func (x *workerWriter) Write(p []byte) (int, error) {
	w := x.w
	w.mu.Lock()
	stalled := w.stalled
	w.mu.Unlock()
	if stalled != nil {
		w.waiting.Store(true)
		<-stalled
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left > 0 {
		if w.left -= len(p); w.left <= 0 {
			w.left, w.down = 0, true
		}
	}
	if w.down {
		return 0, w.away()
	}
	x.data = append(x.data, p...)
	return len(p), nil
}

// Commit implements core.HoldWriter.
func (x *workerWriter) Commit(context.Context, bool) error {
	w := x.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return w.away()
	}
	w.held[x.id] = slices.Clip(x.data)
	return nil
}

// Abort implements core.HoldWriter.
func (x *workerWriter) Abort() error { return nil }
