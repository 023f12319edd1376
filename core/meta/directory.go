package meta

import (
	"slices"
	"sort"
)

// directory is one directory of the overlay: its entries in slabs, in order. Its parent is nil for the reserved ones and
// while no edge leads to it.
type directory struct {
	id     DirID
	parent *directory
	edge   string
	groups [][]*slab // none is empty
}

const (
	groupMax = 256 // slabs of one group, so that inserting a slab moves little
	// dirBytes is what a directory takes beside its slabs: itself, its place in the tree's maps, its first group.
	dirBytes = 150
)

// spot is a place in a directory: before the entry i of a slab, or at its end.
type spot struct{ group, slab, i int }

// find returns where edge is or would be.
func (d *directory) find(edge string) (at spot, found bool) {
	if len(d.groups) == 0 {
		return at, false
	}
	if len(d.groups) > 1 {
		at.group = max(sort.Search(len(d.groups), func(i int) bool { return slabAfter(d.groups[i][0].data, edge) })-1, 0)
	}
	g := d.groups[at.group]
	lo, hi := 0, len(g)
	for lo < hi {
		if mid := (lo + hi) / 2; slabAfter(g[mid].data, edge) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	at.slab = max(lo-1, 0)
	at.i, found = slabSearch(g[at.slab].data, edge)
	return at, found
}

// lookup returns a cursor at edge. d may be nil.
func (d *directory) lookup(edge string) (cursor, bool) {
	if d == nil {
		return cursor{}, false
	}
	at, ok := d.find(edge)
	return cursor{d: d, at: at, ok: ok}, ok
}

// cursor walks over the entries of a directory, which must not change meanwhile.
type cursor struct {
	d  *directory
	at spot
	ok bool // it is at an entry
}

// seek returns a cursor at the first entry of d, which may be nil, whose edge is not less than from.
func (d *directory) seek(from string) cursor {
	c := cursor{d: d}
	if d == nil || len(d.groups) == 0 {
		return c
	}
	c.at, _ = d.find(from)
	c.settle()
	return c
}

// settle moves from the end of a slab to the next one.
func (c *cursor) settle() {
	for c.at.group < len(c.d.groups) {
		g := c.d.groups[c.at.group]
		if c.at.slab < len(g) && c.at.i < g[c.at.slab].len() {
			c.ok = true
			return
		}
		if c.at.slab++; c.at.slab >= len(g) {
			c.at.group++
			c.at.slab = 0
		}
		c.at.i = 0
	}
	c.ok = false
}

func (c *cursor) next() {
	c.at.i++
	c.settle()
}

func (c *cursor) slab() *slab { return c.d.groups[c.at.group][c.at.slab] }

func (c *cursor) edge() string { return slabEdge(c.slab().data, c.at.i) }

// packed returns the packed entry.
func (c *cursor) packed() []byte {
	b := c.slab().data
	_, body := slabBody(b)
	_, packed := slabEntry(b, body, c.at.i)
	return packed
}

// editor changes directories. It holds what it needs for one change at a time.
type editor struct {
	items   []item
	scratch []byte
}

// load takes the entries of s.
func (x *editor) load(s *slab) {
	x.items, x.scratch = slabItems(s.data, x.items[:0], x.scratch[:0])
	if s.checked.Load() != nil {
		for i := range x.items {
			x.items[i].checked = s.checkedAt(i)
		}
	}
}

// set makes the entry at edge be packed. at and found are what find says of edge. It returns by how much the directory
// grows in bytes.
func (x *editor) set(d *directory, at spot, found bool, edge string, packed []byte) (grown int64) {
	added := item{edge: []byte(edge), packed: packed}
	if len(d.groups) == 0 {
		s := newSlab([]item{added})
		d.groups = [][]*slab{{s}}
		return s.bytes()
	}
	g := d.groups[at.group]
	old := g[at.slab]
	if !found && at.i == slabMax && at.slab == len(g)-1 && at.group == len(d.groups)-1 {
		s := newSlab([]item{added}) // names that arrive in order fill their slabs
		d.insert(at, s)
		return s.bytes()
	}
	x.load(old)
	if found {
		x.items[at.i] = added
	} else {
		x.items = slices.Insert(x.items, at.i, added)
	}
	return x.put(d, at) - old.bytes()
}

// put makes the slab at at of the items, or two of them if they are too many, and returns the bytes of both.
func (x *editor) put(d *directory, at spot) int64 {
	n := len(x.items)
	if n <= slabMax && (n == 1 || weight(x.items) <= slabWeight) {
		s := newSlab(x.items)
		d.groups[at.group][at.slab] = s
		return s.bytes()
	}
	left, right := newSlab(x.items[:n/2]), newSlab(x.items[n/2:])
	d.groups[at.group][at.slab] = left
	d.insert(at, right)
	return left.bytes() + right.bytes()
}

// insert adds a slab after the one at at.
func (d *directory) insert(at spot, s *slab) {
	g := slices.Insert(d.groups[at.group], at.slab+1, s)
	d.groups[at.group] = g
	if len(g) > groupMax {
		half := len(g) / 2
		if at.group == len(d.groups)-1 && at.slab == len(g)-2 {
			half = len(g) - 1
		}
		d.groups[at.group] = slices.Clone(g[:half])
		d.groups = slices.Insert(d.groups, at.group+1, slices.Clone(g[half:]))
	}
}

// push adds a slab at the end.
func (d *directory) push(s *slab) {
	n := len(d.groups)
	if n == 0 || len(d.groups[n-1]) == groupMax {
		d.groups = append(d.groups, nil)
		n++
	}
	d.groups[n-1] = append(d.groups[n-1], s)
}

// remove takes the entry at at away and returns by how much the directory shrinks in bytes.
func (x *editor) remove(d *directory, at spot) (shrunk int64) {
	g := d.groups[at.group]
	old := g[at.slab]
	shrunk = old.bytes()
	if old.len() == 1 {
		d.cut(at)
		return shrunk
	}
	x.load(old)
	x.items = slices.Delete(x.items, at.i, at.i+1)
	if len(x.items) <= slabMax/4 && at.slab+1 < len(g) && len(x.items)+g[at.slab+1].len() <= slabMax/2 {
		next := g[at.slab+1]
		shrunk += next.bytes()
		n := len(x.items)
		x.items, x.scratch = slabItems(next.data, x.items, x.scratch)
		for i := n; i < len(x.items); i++ {
			x.items[i].checked = next.checkedAt(i - n)
		}
		d.cut(spot{at.group, at.slab + 1, 0})
	}
	return shrunk - x.put(d, at)
}

// cut removes the slab at at.
func (d *directory) cut(at spot) {
	d.groups[at.group] = slices.Delete(d.groups[at.group], at.slab, at.slab+1)
	if len(d.groups[at.group]) == 0 {
		d.groups = slices.Delete(d.groups, at.group, at.group+1)
	}
}

// last returns the last slab of d, nil if it has none.
func (d *directory) last() *slab {
	if len(d.groups) == 0 {
		return nil
	}
	g := d.groups[len(d.groups)-1]
	return g[len(g)-1]
}
