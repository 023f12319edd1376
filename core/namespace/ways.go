package namespace

import (
	"hash/maphash"
	"strings"
	"sync/atomic"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
)

// A way is how a path leads to a directory in both layers, and from there to the names in it.
type way struct {
	dir   string // its path
	count uint64 // meta.View.Ways when it was gone

	mount  *mounted
	prefix string // of the names in the store, followed by what follows the first from bytes of their paths
	from   int
	parent meta.DirID // the overlay's directory or, if not inTree, the deepest one
	inTree bool       // it is in the overlay, with all above it
	door   meta.Door  // of parent, if inTree
	hidden bool       // the store's facts do not count

	// guards are the directories from the root to this one that do not let everybody pass, if told; else nobody has asked, or
	// the overlay does not tell.
	guards []owned
	told   bool
}

// key returns the name in the store of what has the path, which is in the directory.
func (w *way) key(path string) string { return w.prefix + path[w.from:] }

// lets reports whether it is known that who may pass all directories of the way.
func (w *way) lets(who core.Principal) bool {
	for i := range w.guards {
		if !w.guards[i].allows(who, execute) {
			return false
		}
	}
	return w.told
}

// enter makes w lead into the store of a directory whose base is absolute; false if the store is not mounted any more, and
// nothing of it is seen.
func (w *way) enter(set *mountSet, base meta.Base) bool {
	m := set.byID[base.Store]
	if m == nil {
		w.hidden = true
		return false
	}
	w.mount = m
	return true
}

// goTo makes w the way to the directory dir.
func (w *way) goTo(v meta.View, set *mountSet, dir string) {
	*w = way{dir: dir, count: v.Ways(), mount: set.byID[rootID], from: 1, parent: meta.RootDir}
	for at := 1; at < len(dir); {
		next := at + strings.IndexByte(dir[at:], '/') + 1
		h, ok := v.Hop(w.parent, dir[at:next])
		at = next
		if ok && h.Class == meta.Directory && h.Base.Kind == meta.Absolute && w.enter(set, h.Base) {
			w.prefix, w.from = h.Base.Prefix, at
		}
		if ok && (h.Class == meta.Whiteout || h.Base.Kind == meta.Opaque) {
			w.hidden = true
		}
		if !ok || h.Class != meta.Directory {
			return
		}
		w.parent = h.Dir
	}
	w.inTree, w.door = true, v.Door(w.parent)
}

// waySlots is how many ways are remembered at most, each of no more than wayLongest bytes: some 16 MiB if they are all of
// that length, 6 MiB if they have 40.
const (
	waySlots   = 1 << 15
	wayLongest = 320
)

// ways remembers the ways to directories of the overlay, under one state of the mount table. A way is good as long as
// meta.View.Ways is what it was: whatever changes a directory's edge, a whiteout in its place, or its owner and mode, counts
// there, and what a mount has makes another mountSet. Which way is forgotten for another is left to chance.
type ways struct {
	set   *mountSet
	slots [waySlots]atomic.Pointer[way]
}

var waySeed = maphash.MakeSeed()

func (x *ways) slot(dir string) *atomic.Pointer[way] {
	return &x.slots[maphash.String(waySeed, dir)%waySlots]
}

// waysNow returns the ways under the present mount table.
func (n *Namespace) waysNow() *ways {
	set, x := n.mounts.Load(), n.ways.Load()
	if x == nil || x.set != set { // those before are forgotten, and with them the stores that are not mounted any more
		x = &ways{set: set}
		n.ways.Store(x)
	}
	return x
}

// remembered returns the way to dir if it is known, else nil.
func (x *ways) remembered(v meta.View, dir string) *way {
	if w := x.slot(dir).Load(); w != nil && w.count == v.Ways() && w.dir == dir {
		return w
	}
	return nil
}

// wayTo returns the way to dir, which may be room's, and must not be changed.
func (n *Namespace) wayTo(v meta.View, dir string, room *way) *way {
	x := n.waysNow()
	if w := x.remembered(v, dir); w != nil {
		return w
	}
	room.goTo(v, x.set, dir)
	if !room.inTree || len(dir) > wayLongest {
		return room
	}
	kept := *room
	kept.dir = strings.Clone(dir)
	_, kept.told = passing(v, x.set, dir, func(o owned) bool {
		if everybody := execute<<6 | execute<<3 | execute; o.mode&everybody != everybody {
			kept.guards = append(kept.guards, o)
		}
		return true
	})
	x.slot(dir).Store(&kept)
	return &kept
}

// passing shows who owns each directory from the root to dir, as far as the overlay tells, until next returns false. It returns
// the directory it has come to; if not told, it is one whose owner the overlay does not know.
func passing(v meta.View, set *mountSet, dir string, next func(owned) bool) (at string, told bool) {
	m, id := set.byID[rootID], meta.RootDir
	at = dir[:1]
	for o := m.owned(); next(o) && len(at) < len(dir); {
		from := len(at)
		at = dir[:from+strings.IndexByte(dir[from:], '/')+1]
		h, ok := v.Hop(id, dir[from:len(at)])
		if ok && h.Class == meta.Directory && h.Base.Kind == meta.Absolute {
			m = set.byID[h.Base.Store]
		}
		if !ok && m != nil && !m.features.Dirs { // neither this one nor those below it have owners of their own
			next(m.owned())
			return at, true
		}
		if !ok || h.Class != meta.Directory || m == nil {
			return at, false
		}
		id, o = h.Dir, m.owned()
		if !h.Mount {
			o = o.with(h.Owner, h.Group, h.Mode)
		}
	}
	return at, true
}

// owned returns who owns the directories of the mount of which nothing else is known.
func (m *mounted) owned() owned { return owned{m.Owner, m.Group, m.Mode, true} }

// ownedFile is owned for files.
func (m *mounted) ownedFile() owned { return owned{m.Owner, m.Group, m.Mode & 0o666, false} }
