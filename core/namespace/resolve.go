package namespace

import (
	"context"
	"reflect"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
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
}

// walk finds where the exact path leads. It never waits.
func (n *Namespace) walk(path core.Path) (pl place) {
	n.tree.View(func(v meta.View) { pl = n.walkIn(v, path) })
	return pl
}

func (n *Namespace) walkIn(v meta.View, path core.Path) place {
	pl := place{path: path, mount: n.mountOf(rootID), seq: v.Seq(), parent: meta.RootDir}
	if path.IsRoot() {
		pl.inTree = true
		return pl
	}
	_, pl.edge = path.Split()
	prefix, below := "", path.String()[1:] // the key is the prefix and what is below the last mount point
	for rest := below; len(rest) > len(pl.edge); {
		edge := rest[:strings.IndexByte(rest, '/')+1]
		rest = rest[len(edge):]
		h, ok := v.Hop(pl.parent, edge)
		if ok && h.Class == meta.Directory && h.Base.Kind == meta.Absolute && n.enter(&pl, h.Base) {
			prefix, below = h.Base.Prefix, rest
		}
		if ok && (h.Class == meta.Whiteout || h.Base.Kind == meta.Opaque) {
			pl.hidden = true
		}
		if !ok || h.Class != meta.Directory {
			pl.key = prefix + below
			return pl
		}
		pl.parent = h.Dir
	}
	pl.inTree, pl.key = true, prefix+below
	e, checked, ok := v.Find(pl.parent, pl.edge)
	switch {
	case !ok:
	case e.Class == meta.Whiteout:
		pl.hidden = true
	case e.Class == meta.Persisted:
		pl.entry, pl.check = e, checked
		if e.StoreKey != "" {
			pl.key = e.StoreKey
		}
	default:
		pl.entry = e
		pl.hidden = pl.hidden || e.Base.Kind == meta.Opaque
		if e.Class == meta.Directory && e.Base.Kind == meta.Absolute && n.enter(&pl, e.Base) {
			pl.key = e.Base.Prefix
		}
	}
	return pl
}

// enter makes pl a place in the store of a directory whose base is absolute; false if the store is not mounted any more, and
// nothing of it is seen.
func (n *Namespace) enter(pl *place, base meta.Base) bool {
	m := n.mountOf(base.Store)
	if m == nil {
		pl.hidden = true
		return false
	}
	pl.mount = m
	return true
}

// A node is a name that exists, with the facts that decided it.
type node struct {
	place
	row   *meta.Row // the store's facts; nil if only the overlay knows the name
	rowAt time.Time // when they were learnt
	cache core.CacheStatus
}

func (nd *node) dir() bool { return nd.path.IsDir() }

// persisted reports whether a file of the overlay is at the place.
func (p *place) persisted() bool { return p.entry != nil && p.entry.Class == meta.Persisted }

// told reports whether the overlay's entry says all that matters of the place.
func (p *place) told() bool {
	return p.persisted() && p.entry.Owner != "" && p.entry.Group != "" && p.entry.Mode != 0
}

// oldest returns the time before which facts of the mount are too old for the request, the zero time if any age will do.
func (m *mounted) oldest(ctx context.Context, now time.Time) time.Time {
	interval := m.SyncInterval
	if a := core.MaxAgeOf(ctx); a.Set {
		interval = time.Duration(a.Seconds) * time.Second
	}
	switch {
	case interval < 0:
		return time.Time{}
	case interval > now.Sub(time.Time{})/2: // longer than the clock reaches back
		return time.Time{}
	}
	return now.Add(-interval)
}

// lookup returns the node at an exact path, with facts not older than the request and the mount allow.
// Errors: errs.NotExist, errs.Unavailable.
func (n *Namespace) lookup(ctx context.Context, path core.Path) (node, error) {
	return n.lookupSince(ctx, path, free, func(m *mounted, now time.Time) time.Time { return m.oldest(ctx, now) })
}

// lookupHeld is lookup for a caller that holds path's lock exclusively, or that of a directory above it; with strict, the
// store is asked in any case.
func (n *Namespace) lookupHeld(ctx context.Context, path core.Path, strict bool) (node, error) {
	return n.lookupSince(ctx, path, held, func(m *mounted, now time.Time) time.Time {
		if strict {
			return now
		}
		return m.oldest(ctx, now)
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
	if pl := n.walk(path); pl.mount != nil { // most names are known, and need nothing of what follows
		nd, need, err := n.decide(ctx, pl, since(pl.mount, now))
		if err != nil || need == noLoad {
			nd.cache = core.Hit
			return nd, err
		}
	}
	return n.lookupLoad(ctx, path, has, now, since)
}

// lookupLoad is lookupSince, asked at the time now, where the store may have to be asked.
func (n *Namespace) lookupLoad(ctx context.Context, path core.Path, has holding, now time.Time, since func(*mounted, time.Time) time.Time) (node, error) {
	status := core.Hit
	var seen *meta.Entry
	for i := range chase {
		pl := n.walk(path)
		if pl.mount == nil {
			return node{}, errs.New("namespace.Stat", path.String(), errs.Unavailable, "the mount is gone")
		}
		oldest := since(pl.mount, now)
		nd, need, err := n.decide(ctx, pl, oldest)
		if need == revalidate && i > 0 && seen != nil && reflect.DeepEqual(pl.entry, seen) {
			need = noLoad // a change under way holds the name: the overlay's word stands
		}
		if err != nil || need == noLoad {
			nd.cache = status
			return nd, err
		}
		if core.MaxAgeOf(ctx).OnlyIfCached {
			return node{}, errs.New("namespace.Stat", path.String(), errs.Unavailable, "only-if-cached: the answer is not known here")
		}
		if status = core.Miss; need == revalidate {
			status = core.Revalidated
		}
		if i > 0 && pl.entry == nil { // whoever makes the change waits for no lock any more, so that anybody may wait for him
			select {
			case <-pl.mount.derived.Settled(pl.key):
			case <-ctx.Done():
				return node{}, context.Cause(ctx)
			}
		}
		if has == held && pl.entry != nil {
			err = n.reconcile(ctx, path, true)
		} else {
			err = n.loadName(ctx, &pl, oldest)
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

// decide says whether something is at pl, from facts learnt at oldest or later, or which load would tell.
func (n *Namespace) decide(ctx context.Context, pl place, oldest time.Time) (node, load, error) {
	nd := node{place: pl}
	if pl.mount.err != nil && pl.entry == nil {
		return nd, noLoad, pl.mount.unavailable()
	}
	fact := meta.Fact{State: meta.Absent}
	if !pl.hidden && pl.mount.derived != nil && (!pl.told() || n.holding()) {
		fact = pl.mount.derived.Lookup(pl.key)
	}
	fresh := !fact.At.Before(oldest)
	if fact.State == meta.Present {
		nd.row, nd.rowAt = &fact.Row, fact.At
	}
	e := pl.entry
	switch {
	case pl.path.IsRoot() || e != nil && e.Mount:
		return nd, noLoad, nil
	case e != nil && !pl.hidden && pl.mount.err == nil && (e.Class == meta.Persisted || pl.mount.features.Dirs) && n.holding():
		return nd.decideHeld(&fact, fresh)
	case e != nil && e.Class == meta.Persisted:
		if pl.check.Before(oldest) && pl.mount.err == nil {
			return nd, revalidate, nil
		}
		return nd, noLoad, nil
	case e != nil: // a directory of the overlay
		if pl.mount.features.Dirs && !pl.hidden && (!fresh || fact.State == meta.Unknown) && pl.mount.err == nil {
			return nd, revalidate, nil
		}
		if e.Explicit || e.Marker || fact.State == meta.Present && (fresh || pl.mount.err != nil) {
			return nd, noLoad, nil
		}
		some, err := n.hasVisible(ctx, &pl)
		if err == nil && !some {
			err = notExist(pl.path)
		}
		return nd, noLoad, err
	case pl.hidden || fact.State == meta.Absent && fresh:
		return nd, noLoad, notExist(pl.path)
	case fact.State == meta.Unknown:
		return nd, unknown, nil
	case !fresh:
		return nd, revalidate, nil
	}
	return nd, noLoad, nil
}

func notExist(p core.Path) error { return errs.E("namespace.Stat", p.String(), errs.NotExist, nil) }

func (m *mounted) unavailable() error {
	return errs.E("mount "+m.Path.String(), m.ID, errs.Unavailable, m.err)
}

// resolve is lookup for any path: an ambiguous one is the directory, else the file.
func (n *Namespace) resolve(ctx context.Context, p core.Path) (node, error) {
	if !p.Either() {
		return n.lookup(ctx, p)
	}
	nd, err := n.lookup(ctx, p.Dir())
	if errs.KindOf(err) == errs.NotExist {
		return n.lookup(ctx, p.File())
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
