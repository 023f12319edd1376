package meta

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/wait"
)

/*
The read lease. A leader answers from memory, so it must know that nobody else can have changed what it holds. A transaction
under its fence that is done, or a read of the leader key that shows its own claim, proves that it led when the call was
sent. For the time of a lease after that moment it may answer: a new leader answers nothing, and acknowledges nothing, until
one lease has passed since its claim was answered. Each measures with its own clock only, one that goes on while the machine
sleeps; how differently two clocks may run is the drift, which the new leader adds.
*/
type lease struct {
	until  atomic.Int64 // of the clock, in nanoseconds: answers may be given before it
	after  atomic.Int64 // of the clock: no answer may be given before it
	lapses atomic.Uint64

	mu      sync.Mutex
	ended   error         // why it is never renewed again
	renewed chan struct{} // closed when until or ended changes
	kick    chan struct{} // holds a token if somebody waits for a renewal
}

const (
	leaseDrift     = 20 // a lease is at most 1/20 longer by another's clock
	leaseRenewals  = 3  // renewals within a lease
	leadsWait      = 2  // leases that Leads waits for a renewal: by then another may lead, which the renewal finds out
	leaseForEver   = int64(1<<63 - 1)
	leastRenewWait = time.Millisecond // between two renewals that fail
)

// bootTime returns the time since the machine was started, that during which it slept included.
func bootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux since 2.6.39 has the clock
	}
	return time.Duration(t.Nano())
}

func (x *lease) init() {
	x.renewed, x.kick = make(chan struct{}), make(chan struct{}, 1)
}

// begin starts the lease of a claim that was sent and answered at these times. others says that somebody led before.
func (x *lease) begin(sent, answered, length time.Duration, others bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = nil
	x.after.Store(0)
	if length == 0 {
		x.until.Store(leaseForEver)
		return
	}
	x.until.Store(int64(sent + length))
	if others {
		x.after.Store(int64(answered + length + length/leaseDrift))
	}
}

// end ends the lease for good.
func (x *lease) end(why error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.until.Store(0)
	if x.ended == nil {
		x.ended = why
	}
	x.tell()
}

// lost returns why the lease has ended for good, nil if it has not.
func (x *lease) lost() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ended
}

// tell wakes those who wait. mu must be held.
func (x *lease) tell() {
	close(x.renewed)
	x.renewed = make(chan struct{})
}

// extend notes that this member led at the time sent.
func (l *Log) extend(sent time.Duration) {
	if l.o.ReadLease == 0 {
		return
	}
	x := &l.lease
	until := int64(sent + l.o.ReadLease)
	if x.until.Load() >= until {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended == nil && x.until.Load() < until {
		x.until.Store(until)
		x.tell()
	}
}

// ServeAfter returns how long it is until a claimed Log may answer and acknowledge anything: until the leases of those who
// led before have passed.
func (l *Log) ServeAfter() time.Duration {
	return max(time.Duration(l.lease.after.Load())-l.o.Clock(), 0)
}

// Lease returns nil if what the tree holds may be given as an answer: at the time of the call, no other member could have
// acknowledged anything that is not in it. A valid lease costs a look at the clock. If it has lapsed, or a former leader's
// may not have, Lease waits until ctx ends.
//
// Errors: errs.Unavailable if leadership is lost, Run does not run, or ctx ends first.
func (l *Log) Lease(ctx context.Context) error {
	if l.leased() {
		return nil
	}
	return l.awaitLease(ctx.Done())
}

// Leads is Lease for who is about to do what only a leader may and has no time to wait for whatever keeps the renewals: it
// waits for leadsWait leases at most.
func (l *Log) Leads() error {
	if l.leased() {
		return nil
	}
	late := make(chan struct{})
	defer time.AfterFunc(leadsWait*l.o.ReadLease, func() { close(late) }).Stop()
	return l.awaitLease(late)
}

// leased reports whether the lease is valid now.
func (l *Log) leased() bool {
	until := l.lease.until.Load()
	if until == leaseForEver {
		return true
	}
	now := int64(l.o.Clock())
	return now < until && now >= l.lease.after.Load()
}

// awaitLease waits for the lease to be valid until late is closed.
func (l *Log) awaitLease(late <-chan struct{}) error {
	x := &l.lease
	x.lapses.Add(1)
	for {
		x.mu.Lock()
		renewed, ended := x.renewed, x.ended
		x.mu.Unlock()
		pending := l.ServeAfter()
		switch valid := int64(l.o.Clock()) < x.until.Load(); {
		case ended != nil:
			return ended
		case l.Term() == 0:
			return errs.New("meta.Log.Lease", l.o.Group, errs.Unavailable, "this member does not lead; ask the leader")
		case valid && pending == 0:
			return nil
		case !valid:
			select {
			case x.kick <- struct{}{}:
			default:
			}
		}
		var served <-chan time.Time
		if pending > 0 {
			served = time.After(pending)
		}
		select {
		case <-served:
		case <-renewed:
		case <-late:
			return errs.New("meta.Log.Lease", l.o.Group, errs.Unavailable, "it is not known in time whether this member still leads; try again")
		}
	}
}

// renew keeps the lease valid until ctx ends. Errors: errs.Unavailable if leadership is lost.
func (l *Log) renew(ctx context.Context) error {
	if l.o.ReadLease == 0 {
		return nil
	}
	every := l.o.ReadLease / leaseRenewals
	for {
		pause := every
		if err := l.renewOnce(ctx, every); err != nil {
			if errors.Is(err, errDeposed) {
				return l.depose()
			}
			pause = max(every/10, leastRenewWait)
		}
		select {
		case <-time.After(pause):
		case <-l.lease.kick:
			if err := wait.For(ctx, leastRenewWait); err != nil {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

var errDeposed = errors.New("another member leads")

// renewOnce asks who leads, for so long at most.
func (l *Log) renewOnce(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, max(limit, 10*leastRenewWait))
	defer cancel()
	sent := l.o.Clock()
	kv, err := l.leader(ctx)
	switch {
	case err != nil:
		return err
	case kv.ModRev != l.Term():
		return errDeposed
	}
	l.extend(sent)
	return nil
}
