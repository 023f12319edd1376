package wrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/wait"
	"github.com/sluicefs/sluice/ufs"
)

/*
Isolate keeps the trouble of a store to itself. It is a circuit breaker around a budget of calls:

	          5 calls in a row unreachable, or one
	          not answered in time
	  ┌──────┐ ──────────────► ┌─────────┐  a probe is not  ┌──────┐
	  │closed│                 │in doubt │ ───answered────► │ open │ ── one probe after Pause, 2·Pause, … MaxPause
	  └──────┘ ◄────────────── └─────────┘                  └──────┘
	      ▲      it is answered                                 │
	      └─────────────────────── a probe is answered ─────────┘

Any answer is one that says something of what was asked, such as that a name is not there or may not be read, or that the store is asked
too much (ufs.SlowDown): only silence, refused connections and what else a server says when it cannot serve (errs.Unavailable) count
against the store. In doubt, calls go on as ever, and the answer of any of them is as good as that of a probe. While it is open, calls
fail at once, reads that were waiting are given up, and nobody but the probe asks the store; streams that were open go on, each of
whose calls has a deadline of its own. Every second probe is a Stat of the name that was last asked for in vain: the store's own probe
may be slow, or fail, where what clients ask for does not.
*/

// IsolateOptions are the options of Isolate. Zero values mean defaults.
type IsolateOptions struct {
	Calls int // that run at most at once; 256
	Queue int // calls that wait for that; what comes on top is errs.Overload; 4096
	// Adapt has fewer run while the store says that it is asked too much (ufs.SlowDown).
	Adapt bool

	Failures int           // in a row, without an answer between them, that put a store in doubt; 5
	Slow     time.Duration // so does a call without an answer, if no other call got one meanwhile; 10 s
	Wait     time.Duration // of a call for others to end; what waits longer is errs.Overload; 30 s
	Probe    time.Duration // that the first probe may take, doubled from one to the next; 5 s
	MaxProbe time.Duration // 30 s, or Probe if that is more
	Pause    time.Duration // before the first probe of an open breaker, doubled from one to the next; 1 s
	MaxPause time.Duration // 5 s

	Name   string       // of the store in the log: no secrets
	Logger *slog.Logger // gets a line when the breaker opens and when it closes; nil: nobody does
}

func (o IsolateOptions) withDefaults() IsolateOptions {
	o.Calls, o.Queue, o.Failures = cmp.Or(o.Calls, 256), cmp.Or(o.Queue, 4096), cmp.Or(o.Failures, 5)
	o.Slow, o.Wait, o.Probe = cmp.Or(o.Slow, 10*time.Second), cmp.Or(o.Wait, 30*time.Second), cmp.Or(o.Probe, 5*time.Second)
	o.MaxProbe = max(o.Probe, cmp.Or(o.MaxProbe, 30*time.Second))
	o.Pause, o.MaxPause = cmp.Or(o.Pause, time.Second), cmp.Or(o.MaxPause, 5*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// steady is how long a breaker has to have been closed for the pauses between probes to begin anew.
const steady = time.Minute

// Isolation is the state of a store that Isolate made. It is safe for concurrent use.
type Isolation struct {
	inner ufs.Store
	o     IsolateOptions
	calls *budget
	parts *budget // of PutPart

	outage   atomic.Pointer[Outage] // nil while the breaker is closed
	wanted   atomic.Pointer[string] // the name of the last read that was refused
	failures atomic.Int64           // since the last answer
	answered atomic.Int64           // when that was, by epoch
	epoch    time.Time

	mu       sync.Mutex
	doubted  bool // a goroutine looks after it
	closed   bool
	stop     context.CancelFunc // of that goroutine; nil if there is none
	done     sync.WaitGroup
	opened   int64
	pause    time.Duration
	shut     time.Time // when the breaker last closed
	waiting  map[uint64]context.CancelCauseFunc
	lastWait uint64
	stuck    chan error // a probe that has not returned yet
}

// Outage is why a store is not asked.
type Outage struct {
	Since time.Time
	Why   error
}

// Health is how a store does.
type Health struct {
	Outage  *Outage // nil while the store is asked
	Opened  int64   // times that the breaker has opened
	Budget  int     // calls that may run at once
	Running int     // calls that do, with PutParts, which the budget does not count
	Waiting int     // calls that wait for others to end, with PutParts
	Refused int64   // times that the store said that it is asked too much
}

// partsPerCall is how many PutParts may run for each call that may: they go at their clients' pace.
const partsPerCall = 4

// Isolate returns s with a circuit breaker and a budget of calls. The Reads, Checks and Writes of streams are not counted in the budget,
// and PutParts have one of their own: they go at the client's pace, and a stream may feed another, or a part, of the same store. Calls
// that the breaker refuses are errs.Unavailable, changes also ufs.ErrUnsent, and are not worth a retry (IsOutage).
func Isolate(s ufs.Store, o IsolateOptions) ufs.Store {
	o = o.withDefaults()
	i := &Isolation{inner: s, o: o, calls: newBudget(o, o.Calls), parts: newBudget(o, partsPerCall*o.Calls), epoch: time.Now(), pause: o.Pause,
		waiting: map[uint64]context.CancelCauseFunc{}}
	b := &base{inner: s, around: i.around, apart: i.apart}
	if o.Adapt {
		b.under = func(ctx context.Context) context.Context { ctx, _ = i.listen(ctx); return ctx }
	}
	return &isolated{b, i}
}

type isolated struct {
	*base
	i *Isolation
}

// Close ends the probes and closes the store.
func (x *isolated) Close() error {
	x.i.mu.Lock()
	x.i.closed = true
	stop := x.i.stop
	x.i.mu.Unlock()
	if stop != nil {
		stop()
	}
	x.i.done.Wait()
	return x.base.Close()
}

func (x *isolated) isolation() *Isolation { return x.i }

func (b *base) isolation() *Isolation { return IsolationOf(b.inner) }

// IsolationOf returns the outermost Isolation of a store that decorators of this package were put around, nil if it has none.
func IsolationOf(s ufs.Store) *Isolation {
	if x, ok := s.(interface{ isolation() *Isolation }); ok {
		return x.isolation()
	}
	return nil
}

// Outage returns why the store is not asked, nil while it is. i may be nil.
func (i *Isolation) Outage() *Outage {
	if i == nil {
		return nil
	}
	return i.outage.Load()
}

// Closed reports whether the store was closed.
func (i *Isolation) Closed() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.closed
}

// Health returns how the store does.
func (i *Isolation) Health() Health {
	h := Health{Outage: i.outage.Load()}
	h.Budget, h.Running, h.Waiting, h.Refused = i.calls.state()
	_, running, waiting, _ := i.parts.state()
	h.Running, h.Waiting = h.Running+running, h.Waiting+waiting
	i.mu.Lock()
	defer i.mu.Unlock()
	h.Opened = i.opened
	return h
}

type toldKey struct{}

// listen returns a context under which told becomes true when the store says that it is asked too much.
func (i *Isolation) listen(ctx context.Context) (_ context.Context, told *atomic.Bool) {
	told = new(atomic.Bool)
	ctx = ufs.WithSlowDown(ctx, func(after time.Duration) {
		told.Store(true)
		i.calls.slow(after)
		i.parts.slow(after)
	})
	return context.WithValue(ctx, toldKey{}, told), told
}

// errOutage is in the chain of what an open breaker refuses.
var errOutage = errors.New("the store is not asked")

// IsOutage reports whether a call failed because the store does not answer and was therefore not asked.
func IsOutage(err error) bool { return errors.Is(err, errOutage) }

// OutageOf returns why the store was not asked, nil if that is not what the call failed with.
func OutageOf(err error) *Outage {
	if r := (*refusal)(nil); errors.As(err, &r) {
		return &r.Outage
	}
	return nil
}

// refusal is what a call gets from an open breaker.
type refusal struct {
	Outage
	unsent bool // a change that the store has not seen
}

func (e *refusal) Error() string {
	return fmt.Sprintf("the store has not answered since %s and is not asked until a probe gets through; %v",
		e.Since.UTC().Format(time.RFC3339), e.Why)
}

func (e *refusal) Unwrap() []error {
	if e.unsent {
		return []error{errOutage, ufs.ErrUnsent}
	}
	return []error{errOutage}
}

func (i *Isolation) refuse(c *call, out *Outage) error {
	if !c.op.Changes() && c.op != Probe {
		i.wanted.Store(&c.name)
	}
	return errs.E("wrap.Isolate", c.name, errs.Unavailable, &refusal{*out, c.op.Changes()})
}

func (i *Isolation) around(ctx context.Context, c *call, do func(context.Context) error) error {
	switch c.op {
	case Abort: // drops what this process holds of it; a driver bounds what it asks the store for
		return do(ctx)
	case Read, Check, Write:
		err := do(ctx)
		i.note(ctx, c.op, err)
		return err
	}
	if out := i.outage.Load(); out != nil {
		return i.refuse(c, out)
	}
	if c.op == PutPart { // what feeds it may need a turn itself: it has turns of its own, and its client's pace
		if err := i.parts.take(ctx, c.name); err != nil {
			return err
		}
		answered := false
		defer func() { i.parts.give(answered) }()
		err := do(ctx)
		answered = i.note(ctx, c.op, err)
		return err
	}
	giving, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	leave := i.enter(cancel)
	defer leave()
	if out := i.outage.Load(); out != nil { // it opened just before
		return i.refuse(c, out)
	}
	if err := i.calls.take(giving, c.name); err != nil {
		if out := OutageOf(err); out != nil {
			return i.refuse(c, out)
		}
		return err
	}
	answered := false
	defer func() { i.calls.give(answered) }()
	began := time.Since(i.epoch)
	watch := time.AfterFunc(i.o.Slow, func() { i.silent(ctx, began) })
	defer watch.Stop()
	if c.op.Changes() { // what became of a change is worth waiting for
		leave()
		giving = ctx
	}
	err := do(giving)
	answered = i.note(ctx, c.op, err)
	if out := OutageOf(context.Cause(giving)); err != nil && out != nil {
		return i.refuse(c, out)
	}
	return err
}

// apart has do done by somebody else, and reports true, if the store is not asked, so that nobody waits for it.
func (i *Isolation) apart(do func()) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.outage.Load() == nil || i.closed {
		return false
	}
	go do() // not one of done: a store that cannot be asked may keep it for ever, and Close waits for those
	return true
}

// enter has cancel called when the breaker opens, until leave is called.
func (i *Isolation) enter(cancel context.CancelCauseFunc) (leave func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.lastWait++
	id := i.lastWait
	i.waiting[id] = cancel
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.waiting, id)
	}
}

// note takes the outcome of a call into account, and reports whether the store did as it was asked.
func (i *Isolation) note(ctx context.Context, op Op, err error) bool {
	told, _ := ctx.Value(toldKey{}).(*atomic.Bool)
	slowed := told != nil && told.Load() && told.Swap(false) // of this call; a stream has more
	kind := errs.KindOf(err)
	switch {
	case err == nil && (op == Create || op == Append || op == Write || op == Prepare):
		return true // which may not have asked the store yet
	case err == nil:
	case errors.Is(err, context.Canceled), ctx.Err() != nil, ufs.Stopped(err), kind == errs.Overload:
		return false // says nothing of the store
	case kind != errs.Unavailable && !errors.Is(err, context.DeadlineExceeded):
	case slowed:
		i.alive()
		return false
	default:
		if i.failures.Add(1) >= int64(i.o.Failures) || errors.Is(err, errTimeout) {
			i.doubt(ctx, err)
		}
		return false
	}
	i.alive()
	return true
}

// alive notes an answer.
func (i *Isolation) alive() {
	i.answered.Store(int64(time.Since(i.epoch)))
	if i.failures.Load() != 0 {
		i.failures.Store(0)
	}
}

// silent doubts the store if it has answered nobody since began.
func (i *Isolation) silent(ctx context.Context, began time.Duration) {
	if i.answered.Load() <= int64(began) {
		i.doubt(ctx, fmt.Errorf("no answer within %v", i.o.Slow))
	}
}

// doubt has the store probed, and looked after if it does not answer. ctx lends its values only, and no turns: a probe that waits for
// them says nothing of the store.
func (i *Isolation) doubt(ctx context.Context, why error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.doubted || i.closed {
		return
	}
	i.doubted = true
	ctx, i.stop = context.WithCancel(ufs.WithTurns(context.WithoutCancel(ctx), nil))
	i.done.Go(func() { i.watch(ctx, why) })
}

// watch probes a store that is in doubt until it answers, or ctx ends.
func (i *Isolation) watch(ctx context.Context, why error) {
	defer func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.stop()
		i.doubted, i.stop = false, nil
	}()
	began := int64(time.Since(i.epoch))
	if wait.For(ctx, i.calls.quiet()) != nil {
		return
	}
	limit := i.o.Probe
	err := i.probe(ctx, limit, "")
	if err == nil || ctx.Err() != nil || i.answered.Load() > began {
		i.failures.Store(0)
		return
	}
	i.open(errors.Join(why, err))
	for n := 0; wait.For(ctx, max(i.pause, i.calls.quiet())) == nil; n++ {
		name := ""
		if wanted := i.wanted.Load(); wanted != nil && n%2 == 1 {
			name = *wanted
		}
		if n%2 == 0 {
			limit = min(2*limit, i.o.MaxProbe)
		}
		if err := i.probe(ctx, limit, name); err == nil {
			i.shutBreaker()
			return
		}
		i.pause = min(2*i.pause, i.o.MaxPause)
	}
}

// open opens the breaker, and gives up the reads that wait.
func (i *Isolation) open(why error) {
	i.mu.Lock()
	if time.Since(i.shut) > steady {
		i.pause = i.o.Pause
	}
	i.opened++
	out := Outage{Since: time.Now(), Why: why}
	i.wanted.Store(nil)
	i.outage.Store(&out)
	waiting := i.waiting
	i.waiting = map[uint64]context.CancelCauseFunc{}
	i.mu.Unlock()
	for _, cancel := range waiting {
		cancel(&refusal{Outage: out})
	}
	i.o.Logger.Warn("a mounted store does not answer and is not asked any more until a probe gets through", "store", i.o.Name, "err", why)
}

func (i *Isolation) shutBreaker() {
	i.mu.Lock()
	out := i.outage.Swap(nil)
	i.shut = time.Now()
	i.failures.Store(0)
	i.mu.Unlock()
	i.o.Logger.Info("a mounted store answers again", "store", i.o.Name, "after", time.Since(out.Since).Round(time.Millisecond))
}

// probe asks the store whether it is there, or for the name if it is not ""; nil if it answers, whatever it says. No second one is sent
// while one is under way, which may be for ever in a system call.
func (i *Isolation) probe(ctx context.Context, limit time.Duration, name string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTimeout)
	defer cancel()
	ctx, told := i.listen(ctx)
	for {
		old := i.stuck != nil
		if !old {
			result := make(chan error, 1)
			i.stuck = result
			go func() {
				if name == "" {
					result <- ufs.Probe(ctx, i.inner, false)
					return
				}
				_, err := i.inner.Stat(ctx, name)
				result <- err
			}()
		}
		select {
		case err := <-i.stuck:
			i.stuck = nil
			switch {
			case err == nil:
				return nil
			case old:
				continue // it was given up; this is no word of the store
			case told.Load():
				return nil
			case ctx.Err() != nil:
			case errs.KindOf(err) == errs.Unavailable || errors.Is(err, context.DeadlineExceeded):
				return err
			default:
				return nil
			}
		case <-ctx.Done():
		}
		return fmt.Errorf("a probe was not answered within %v", limit)
	}
}
