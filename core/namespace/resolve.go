package namespace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// A place is where a path leads in both layers at one moment, before any store is asked.
type place struct {
	path  core.Path // exact
	edge  string
	mount *mounted // of the edge itself; of a mount point: its own
	key   string   // the edge's name in mount's store, "" for its root

	parent meta.DirID  // the overlay directory that holds the edge or, if not inTree, the deepest one on the way to it
	inTree bool        // all directories on the way are in the overlay, so that an entry can stand at the edge
	entry  *meta.Entry // at the edge, nil if none
	hidden bool        // the store's facts at the edge do not count: a whiteout or an opaque directory
	seq    uint64      // of the overlay looked at
	check  time.Time   // when the entry's bytes were last compared with the store
	moved  uint64      // position in the list of moves before walk looked
}

// walk finds where the exact path leads. It never waits.
func (n *Namespace) walk(path core.Path) (pl place) {
	moved := n.moves.position()
	n.tree.View(func(v meta.View) { pl = n.walkIn(v, path) })
	pl.moved = moved
	return pl
}

func (n *Namespace) walkIn(v meta.View, path core.Path) place {
	if path.IsRoot() {
		return place{path: path, mount: n.mountOf(rootID), seq: v.Seq(), parent: meta.RootDir, inTree: true}
	}
	dir, edge := path.Split()
	var room way
	w := n.wayTo(v, dir.String(), &room)
	pl := place{path: path, edge: edge, mount: w.mount, key: w.key(path.String()), parent: w.parent, inTree: w.inTree, hidden: w.hidden, seq: v.Seq()}
	if !pl.inTree {
		return pl
	}
	e, checked, ok := v.Find(pl.parent, edge)
	switch {
	case !ok:
	case e.Class == meta.Whiteout:
		pl.hidden = true
	case e.Class == meta.Persisted, e.Class == meta.Local:
		pl.entry, pl.check = e, checked
		if e.StoreKey != "" {
			pl.key = e.StoreKey
		}
	default:
		pl.entry = e
		pl.hidden = pl.hidden || e.Base.Kind == meta.Opaque
		if e.Class != meta.Directory || e.Base.Kind != meta.Absolute {
			break
		}
		if m := n.mountOf(e.Base.Store); m != nil {
			pl.mount, pl.key = m, e.Base.Prefix
		} else { // the store is not mounted any more, and nothing of it is seen
			pl.hidden = true
		}
	}
	return pl
}

// A node is a name that exists, with the facts that decided it.
type node struct {
	place
	row   *meta.Row // the store's facts; nil if only the overlay knows the name
	rowAt time.Time // when they were learnt
	cache core.CacheStatus
}

func (nd *node) dir() bool { return nd.path.IsDir() }

// persisted reports whether a file of the overlay whose bytes are in its store is at the place.
func (p *place) persisted() bool { return p.entry != nil && p.entry.Class == meta.Persisted }

// bucket reports whether the place is that of a bucket of a mounted account.
func (p *place) bucket() bool {
	return p.mount != nil && p.mount.features.Buckets && bucketKey(p.key)
}

// bucketKey reports whether key, of an account's store, is that of a bucket.
func bucketKey(key string) bool { return strings.IndexByte(key, '/') == len(key)-1 && key != "" }

// real reports whether a directory at the place is there for its own sake, and not for what lies in it: its store says whether it is.
func (p *place) real() bool { return p.mount.features.Dirs || p.bucket() }

// told reports whether the overlay's entry says all that matters of the place.
func (p *place) told() bool {
	return p.file() && p.entry.Owner != "" && p.entry.Group != "" && p.entry.Mode != 0
}

// lookup returns the node at an exact path, with facts not older than the request and the mount allow.
// Errors: errs.NotExist, errs.Unavailable; errs.Permission in a mount that lets nobody in.
func (n *Namespace) lookup(ctx context.Context, path core.Path) (node, error) {
	if n.mounts.Load().table.Closed() {
		if pl := n.walk(path); pl.entry == nil || !pl.entry.Mount {
			if err := pl.mount.denies(path); err != nil {
				return node{}, err
			}
		}
	}
	return n.lookupSince(ctx, path, free, func(m *mounted, now time.Time) time.Time { return n.oldest(ctx, m, path.String(), now) })
}

// lookupHeld is lookup for a caller that holds path's lock exclusively, or that of a directory above it; with strict, the
// store is asked in any case.
func (n *Namespace) lookupHeld(ctx context.Context, path core.Path, strict bool) (node, error) {
	return n.lookupSince(ctx, path, held, func(m *mounted, now time.Time) time.Time {
		if strict {
			return now
		}
		return n.oldest(ctx, m, path.String(), now)
	})
}

// holding says what a caller holds of the lock of the name it looks up.
type holding uint8

const (
	free holding = iota // none, or not for sure
	held                // it, or that of a directory above, exclusively
)

// lookupSince returns the node at path with facts learnt at since or later. While a change through Sluice is under way
// there, what the store says does not count; where nothing else is known, the lookup waits for the change.
func (n *Namespace) lookupSince(ctx context.Context, path core.Path, has holding, since func(*mounted, time.Time) time.Time) (node, error) {
	now := time.Now()
	pl, need := n.walk(path), unknown
	if pl.mount != nil { // most names are known, and need nothing of what follows
		var nd node
		var err error
		nd, need, err = n.decide(ctx, pl, n.bounds(ctx, pl.mount, path.String(), since(pl.mount, now), now))
		if err != nil || need == noLoad {
			if nd.cache = core.Hit; pl.mount.err != nil && !pl.local() {
				nd.cache = core.Stale
			}
			return nd, err
		}
		if out := pl.mount.isolation.Outage(); out != nil && has == free {
			return n.lookupStale(ctx, pl, out)
		}
	}
	return n.lookupLoad(ctx, pl, need, has, now, since)
}

// lookupLoad is lookupSince, asked at the time now, where the store may have to be asked: as was just decided of pl, where need says so.
func (n *Namespace) lookupLoad(
	ctx context.Context, pl place, need load, has holding, now time.Time, since func(*mounted, time.Time) time.Time,
) (node, error) {
	path, status := pl.path, core.Hit
	var seen *meta.Entry
	for i := range chase {
		if i > 0 {
			pl = n.walk(path)
		}
		if pl.mount == nil {
			return node{}, errs.New("namespace.Stat", path.String(), errs.Unavailable, "the mount is gone")
		}
		b := n.bounds(ctx, pl.mount, path.String(), since(pl.mount, now), now)
		var err error
		if i > 0 {
			var nd node
			nd, need, err = n.decide(ctx, pl, b)
			if need == revalidate && seen != nil && reflect.DeepEqual(pl.entry, seen) {
				need = noLoad // a change under way holds the name: the overlay's word stands
			}
			if err != nil || need == noLoad {
				nd.cache = status
				return nd, err
			}
		}
		if core.MaxAgeOf(ctx).OnlyIfCached {
			return node{}, errs.New("namespace.Stat", path.String(), errs.Unavailable, "only-if-cached: the answer is not known here")
		}
		if status = core.Miss; need == revalidate {
			status = core.Revalidated
		}
		if i > 0 && pl.entry == nil { // whoever makes the change waits for no lock any more, so that anybody may wait for him
			if has == held && n.renaming(&pl) { // but who resolves an intent does
				return node{}, inDoubt(path)
			}
			if err := n.awaitSettled(ctx, &pl); err != nil {
				return node{}, err
			}
		}
		if has == held && pl.entry != nil {
			err = n.reconcile(ctx, path, true)
		} else {
			err = n.loadName(ctx, &pl, b.since())
		}
		if out := cmp.Or(wrap.OutageOf(err), pl.mount.isolation.Outage()); err != nil && out != nil && has == free { // it was found not to answer meanwhile
			return n.lookupStale(ctx, pl, out)
		}
		if err != nil {
			return node{}, err
		}
		seen = pl.entry
	}
	return node{}, errs.New("namespace.Stat", path.String(), errs.Conflict, "the name changes faster than it can be looked up; try again")
}

// load says whether the store must be asked before a place can be decided.
type load uint8

const (
	noLoad load = iota
	unknown
	revalidate
)

// decide says whether something is at pl, from the facts that count, or which load would tell.
func (n *Namespace) decide(ctx context.Context, pl place, b bound) (node, load, error) {
	nd, oldest := node{place: pl}, b.oldest
	if pl.mount.err != nil && pl.entry == nil {
		return nd, noLoad, pl.mount.unavailable()
	}
	fact := meta.Fact{State: meta.Absent}
	if !pl.hidden && pl.mount.derived != nil && (!pl.told() || n.holding()) {
		fact = pl.mount.derived.Lookup(pl.key)
	}
	fresh := !fact.At.Before(oldest)
	if fact.State == meta.Present {
		row := fact.Row // what is looked up is mostly not there, and takes no memory then
		nd.row, nd.rowAt = &row, fact.At
	}
	e := pl.entry
	switch {
	case pl.path.IsRoot() || e != nil && e.Mount:
		return nd, noLoad, nil
	case e != nil && !pl.hidden && pl.mount.err == nil && (e.Class != meta.Directory || pl.mount.features.Dirs) && n.holding():
		return nd.decideHeld(&fact, fresh)
	case pl.local(): // nobody else has a say in it
		return nd, noLoad, nil
	case e != nil && e.Class == meta.Persisted:
		switch {
		case !pl.check.Before(oldest):
		case pl.mount.err == nil:
			return nd, revalidate, nil
		case pl.check.Before(n.oldestStale(ctx, pl.mount, pl.path.String(), time.Now())):
			return nd, noLoad, pl.mount.unavailable()
		}
		return nd, noLoad, nil
	case e != nil: // a directory of the overlay
		if pl.real() && !pl.hidden && (!fresh || fact.State == meta.Unknown && !b.known) && pl.mount.err == nil {
			return nd, revalidate, nil
		}
		if e.Explicit || e.Marker || fact.State == meta.Present && (fresh || pl.mount.err != nil) {
			return nd, noLoad, nil
		}
		some, err := n.hasVisible(ctx, &pl)
		if err == nil && !some && !b.absent.IsZero() {
			some, err = n.hasVisible(n.looking(ctx, lists), &pl)
		}
		if err == nil && !some {
			err = notExist(pl.path)
		}
		return nd, noLoad, err
	case pl.hidden || fact.State == meta.Absent && fresh && !fact.At.Before(b.absent) || fact.State == meta.Unknown && b.known && n.unlearnt(&pl):
		return nd, noLoad, notExist(pl.path)
	case fact.State == meta.Unknown:
		return nd, unknown, nil
	case !fresh || fact.State == meta.Absent:
		return nd, revalidate, nil
	}
	return nd, noLoad, nil
}

func notExist(p core.Path) error { return errs.E("namespace.Stat", p.String(), errs.NotExist, nil) }

// opened reports errs.Unavailable if the mount's store is not open.
func (m *mounted) opened() error {
	if m.err == nil {
		return nil
	}
	return m.unavailable()
}

// unavailable is the error of what needs a store that is not open. Users are told that, and not why: it may name files of the server.
func (m *mounted) unavailable() error {
	why := errors.New("the store of the mount " + m.Path.File().String() + " does not open; an operator sees why with `sluice mount ls`")
	return fmt.Errorf("%w: %w", core.StoreAway(m.Path.String(), why), notOpenError{m.err})
}

// notOpenError is why a store does not open. What kind of error that was is not the kind of what needs the store.
type notOpenError struct{ why error }

func (e notOpenError) Error() string { return e.why.Error() }

// resolve is lookup for any path: an ambiguous one is the directory, else the file.
func (n *Namespace) resolve(ctx context.Context, p core.Path) (node, error) {
	if !p.Either() {
		return n.lookup(ctx, p)
	}
	nd, err := n.lookup(ctx, p.Dir())
	if errs.KindOf(err) == errs.NotExist {
		return n.lookup(ctx, p.File())
	}
	out, closed := errors.As(err, new(*outageError)), errors.As(err, new(notOpenError))
	if out || closed { // nobody can say that it is no directory: a file that is known will do, or that is here
		if file, ferr := n.lookup(ctx, p.File()); ferr == nil && (out || file.local()) {
			return file, nil
		}
	}
	return nd, err
}

// exact returns the exact path an ambiguous one names for a new file or, with dir, directory.
func exact(p core.Path, dir bool) core.Path {
	switch {
	case dir:
		return p.Dir()
	case p.Either():
		return p.File()
	}
	return p
}
