package namespace

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/mount"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

/*
A mount is degraded while its store does not answer (wrap.Isolate has found so, and nobody asks it but probes) or refuses changes. Who
asks for what lies elsewhere does not notice. Below the mount, what would need the store fails at once, with one exception: facts that
are only too old by the mount's or a rule's interval are served all the same, and marked core.Stale with their age. That is not done

  - where the interval is 0, or the request says how old an answer may be: both ask for the store's word;
  - with what was invalidated;
  - with absence: nobody is told that a name is not there, or that a directory is empty, by a fact that is too old.

What is served is of one version as ever: bytes come from the cache, or not at all. And it is served only: nothing is copied from it,
which would make a new file, of no age, of old bytes.
*/

// trouble is what is known of how a mount's store does. It is shared by all states of a mount with the same open store.
type trouble struct {
	isolation *wrap.Isolation        // nil if the store has none
	outage    atomic.Pointer[string] // what its last call failed with if it did not answer, nil if it did
	refused   atomic.Int64           // changes that were refused since the last that was not
	refusal   atomic.Pointer[string] // why the last of them was
	waiting   atomic.Int64           // callers that wait for the store now
	waits     atomic.Int64           // that have ever
	unkept    atomic.Value           // string: why it was not journaled which directory it is in, as was last logged
}

// refusing is after how many refused changes in a row a store is said to refuse them: one file may have rights of its own.
const refusing = 3

// watched notes in t how the store of a mount does, and changes it only while this process leads and changes are not held. Errors
// of a store that does not answer say whose it is.
func (n *Namespace) watched(m *mount.Mount, t *trouble, store ufs.Store) ufs.Store {
	t.isolation = wrap.IsolationOf(store)
	observed := wrap.Observe(wrap.Gate(wrap.Guard(store, n.leads), n.held), t.note)
	said := wrap.Reword(observed, func(err error) error {
		var why error
		switch out := wrap.OutageOf(err); {
		case out != nil:
			why = &outageError{m.Path, out}
		case errs.KindOf(err) == errs.Unavailable && !ufs.Stopped(err):
			why = errors.New("the store of the mount " + m.Path.File().String() + " did not answer; try again later")
		default:
			return err
		}
		return fmt.Errorf("%w: %w", core.StoreAway(m.Path.String(), why), err)
	})
	leave := t.leave
	return wrap.Enter(said, func(op wrap.Op) func() {
		switch op {
		case wrap.Stat, wrap.List, wrap.Read, wrap.Check, wrap.Write, wrap.Abort, wrap.Probe: // of look-ups and listings, who waits for the answer is counted
			return nil
		}
		if !t.enter() {
			return nil
		}
		return leave
	})
}

// reopened has x, a new state of a mount, have another open store, of which nothing bad is known yet. What is known of the store's names
// stays, with the changes that are under way: a listing that left before one of them would bring back what it removed.
func (n *Namespace) reopened(x *mounted, store ufs.Store) {
	if x.store == nil { // nothing is known, and nothing is under way
		*x = *n.mounted(x.Mount, store, nil)
		return
	}
	t := new(trouble)
	t.waits.Store(x.waits.Load()) // counts on; who waits for the old store is forgotten when he is done
	x.trouble = t
	x.store, x.features, x.err, x.renew = n.watched(x.Mount, t, store), store.Features(), nil, nil
}

func (t *trouble) note(e wrap.Event) {
	kind := errs.KindOf(e.Err)
	switch {
	case errors.Is(e.Err, context.Canceled), wrap.IsOutage(e.Err), ufs.Stopped(e.Err), kind == errs.Held, kind == errs.Overload: // says nothing of the store
		return
	case kind == errs.Unavailable || errors.Is(e.Err, context.DeadlineExceeded):
		why := e.Err.Error()
		t.outage.Store(&why)
		return
	case t.outage.Load() != nil:
		t.outage.Store(nil)
	}
	switch {
	case !e.Op.Changes() || e.Op == wrap.Abort:
	case e.Err == nil:
		if t.refused.Load() != 0 {
			t.refused.Store(0)
		}
	case kind == errs.Permission || kind == errs.NoSpace:
		why := e.Err.Error()
		t.refusal.Store(&why)
		t.refused.Add(1)
	}
}

// enter counts the caller as one who waits for the store, until he calls leave. Who will be refused at once does not wait, and is told so.
func (t *trouble) enter() bool {
	if t.isolation.Outage() != nil {
		return false
	}
	t.waits.Add(1)
	t.waiting.Add(1)
	return true
}

func (t *trouble) leave() { t.waiting.Add(-1) }

// state says how the mount does, "ready" if all is well.
func (m *mounted) state() string {
	if m.err != nil {
		return "degraded: the store could not be opened: " + m.err.Error()
	}
	if m.renew != nil {
		return "degraded: the store does not open with its new options, and is used with those of before: " + m.renew.Error()
	}
	if out := m.isolation.Outage(); out != nil {
		return "degraded: the store has not answered since " + out.Since.UTC().Format(time.RFC3339) + " and is asked by probes only: " + oneLine(out.Why)
	}
	if why := m.outage.Load(); why != nil {
		return *why
	}
	if why := m.refusal.Load(); why != nil && m.refused.Load() >= refusing {
		return "degraded: the store refuses changes: " + *why
	}
	return "ready"
}

func oneLine(err error) string {
	all := []error{err}
	if j, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // of this error alone
		all = j.Unwrap()
	}
	text := ""
	for _, e := range all {
		if text != "" {
			text += "; "
		}
		text += e.Error()
	}
	return text
}

// degraded reports whether the mount is.
func (m *mounted) degraded() bool {
	return m.err != nil || m.isolation.Outage() != nil || m.refused.Load() >= refusing
}

// StoreWaits is how many callers have had to wait for the store of a mount: requests for a look-up, a listing, a read or a change, also
// those that share a call, and background writes. Listings of syncs are not counted.
type StoreWaits struct {
	Mount    string
	Now      int64 // that wait
	Ever     int64 // since the process leads
	Degraded bool
}

// StoreWaits returns those of all mounts.
func (n *Namespace) StoreWaits() (all []StoreWaits) {
	for _, m := range n.mounts.Load().byID {
		all = append(all, StoreWaits{m.Path.File().String(), m.waiting.Load(), m.waits.Load(), m.degraded()})
	}
	return all
}

// oldestStale is oldest for a mount whose store is not asked.
func (n *Namespace) oldestStale(ctx context.Context, m *mounted, path string, now time.Time) time.Time {
	if core.MaxAgeOf(ctx).Set || n.interval(ctx, m, path) == 0 {
		return n.oldest(ctx, m, path, now)
	}
	if x := n.invalid.Load(); x != nil {
		return x.at(path)
	}
	return time.Time{}
}

// oldestStaleList is oldestStale for a listing of the directory.
func (n *Namespace) oldestStaleList(ctx context.Context, m *mounted, dir string, now time.Time) time.Time {
	at := n.oldestStale(ctx, m, dir, now)
	if x := n.invalid.Load(); x != nil {
		if taken := x.inside(dir); taken.After(at) {
			return taken
		}
	}
	return at
}

// lookupStale is a lookup of what would need a store that is not asked because of out.
func (n *Namespace) lookupStale(ctx context.Context, pl place, out *wrap.Outage) (node, error) {
	nd, need, err := n.decide(ctx, pl, bound{oldest: n.oldestStale(ctx, pl.mount, pl.path.String(), time.Now())})
	switch {
	case err == nil && need == noLoad:
		nd.cache = core.Stale
		return nd, nil
	case err != nil && errs.KindOf(err) != errs.NotExist:
		return node{}, err
	}
	return node{}, pl.mount.notAsked("namespace.Stat", pl.path, out)
}

// notAsked is the error of what needs a store that is not asked.
func (m *mounted) notAsked(op string, p core.Path, out *wrap.Outage) error {
	return errs.E(op, p.String(), errs.Unavailable, core.StoreAway(m.Path.String(), &outageError{m.Path, out}))
}

// answers reports errs.Unavailable while the mount's store is not open, or not asked.
func (m *mounted) answers(op string, p core.Path) error {
	if out := m.isolation.Outage(); out != nil {
		return m.notAsked(op, p, out)
	}
	return m.opened()
}

// tooOld is the error of a copy of what is served as core.Stale.
func tooOld(op string, src core.Path) error {
	return errs.New(op, src.String(), errs.Unavailable,
		"what is known of the source is too old to be copied, and its store does not answer; try again later")
}

type outageError struct {
	mount core.Path
	out   *wrap.Outage
}

func (e *outageError) Error() string {
	return "the store of the mount " + e.mount.File().String() + " has not answered since " + e.out.Since.UTC().Format(time.RFC3339) +
		", and what is known here does not answer this; try again later"
}

// goesStale notes in stale that the store that need is for is not asked, and reports whether that is news.
func (n *Namespace) goesStale(need *meta.Need, stale *map[string]bool) bool {
	m := n.mountOf(need.Store)
	if need.Pending != "" || m == nil || (*stale)[need.Store] || m.isolation.Outage() == nil {
		return false
	}
	if *stale == nil {
		*stale = map[string]bool{}
	}
	(*stale)[need.Store] = true
	return true
}

// notListed is the error of a listing in which nothing is known to be, by what stores said that are not asked.
func (n *Namespace) notListed(dir core.Path, stale map[string]bool) error {
	for id := range stale {
		if m := n.mountOf(id); m != nil {
			if out := m.isolation.Outage(); out != nil {
				return m.notAsked("namespace.List", dir, out)
			}
		}
	}
	return errs.New("namespace.List", dir.String(), errs.Unavailable, "what is known of the directory is too old; try again")
}

// forSyncs is how many calls of the store syncs may have under way at once: half of those that it takes now.
func (m *mounted) forSyncs() int {
	if m.isolation == nil {
		return math.MaxInt
	}
	return max(1, m.isolation.Health().Budget/2)
}
