package meta

import "slices"

// directory is one directory of the overlay: its entries in slabs, in order. Its parent is nil for the reserved ones and
// while no edge leads to it.
type directory struct {
	gone   bool // it is in the tree no more
	groups []slabGroup
	only   [1]slabGroup // in which groups may be, so that a search of few entries looks no further
	hints  *hints       // of the groups' first edges
	id     DirID
	parent *directory
	edge   string
}

// slabGroup is a run of a directory's slabs; none is empty.
type slabGroup struct {
	slabs []*slab
	hints hints // of the slabs' first edges
}

const (
	groupMax = 256 // slabs of one group, so that inserting a slab moves little
	// dirBytes is what a directory takes beside its slabs: itself, its place in the tree's maps, its first group.
	dirBytes = 190
)

// spot is a place in a directory: before the entry i of a slab, or at its end.
type spot struct{ group, slab, i int }

// find returns where edge is or would be.
func (d *directory) find(edge string) (at spot, found bool) {
	if len(d.groups) == 0 {
		return at, false
	}
	at = d.slabOf(edge)
	at.i, _, found = slabSearch(d.slabAt(at).data, edge)
	return at, found
}

// slabOf returns the slab in which edge is or would be. d is not empty.
func (d *directory) slabOf(edge string) (at spot) {
	if len(d.groups) > 1 {
		lo, hi := d.hints.among(edge, len(d.groups))
		for lo < hi {
			if mid := (lo + hi) / 2; slabAfter(d.groups[mid].slabs[0].data, edge) {
				hi = mid
			} else {
				lo = mid + 1
			}
		}
		at.group = max(lo-1, 0)
	}
	g := &d.groups[at.group]
	lo, hi := g.hints.among(edge, len(g.slabs))
	for lo < hi {
		if mid := (lo + hi) / 2; slabAfter(g.slabs[mid].data, edge) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	at.slab = max(lo-1, 0)
	return at
}

// look returns the packed entry at edge, nil if there is none, and which one of its slab it is. d may be nil.
func (d *directory) look(edge string) (packed []byte, s *slab, i int) {
	if d == nil || len(d.groups) == 0 {
		return nil, nil, 0
	}
	s = d.slabAt(d.slabOf(edge))
	packed, i = s.look(edge)
	return packed, s, i
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
		g := c.d.groups[c.at.group].slabs
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

func (d *directory) slabAt(at spot) *slab { return d.groups[at.group].slabs[at.slab] }

func (c *cursor) slab() *slab { return c.d.slabAt(c.at) }

func (c *cursor) edge() string { return slabEdge(c.slab().data, c.at.i) }

// packed returns the packed entry.
func (c *cursor) packed() []byte {
	b := c.slab().data
	_, body := slabBody(b)
	_, packed := slabEntry(b, body, c.at.i)
	return packed
}

// scan is a cursor for who reads every entry.
type scan struct {
	cursor
	data, prefix, body []byte // of the slab
	rest, packed       []byte // of the entry
}

// start makes c the place.
func (x *scan) start(c cursor) {
	x.cursor = c
	x.load()
}

func (x *scan) load() {
	if x.ok {
		x.data = x.slab().data
		x.prefix, x.body = slabBody(x.data)
		x.rest, x.packed = slabEntry(x.data, x.body, x.at.i)
	}
}

func (x *scan) next() {
	if x.at.i+1 < slabLen(x.data) {
		x.at.i++
		x.rest, x.packed = slabEntry(x.data, x.body, x.at.i)
		return
	}
	x.cursor.next()
	x.load()
}

// compare compares the edge with another.
func (x *scan) compare(edge string) int {
	n := min(len(x.prefix), len(edge))
	switch prefix, other := x.prefix[:n], edge[:n]; {
	case string(prefix) < other:
		return -1
	case string(prefix) > other, n < len(x.prefix):
		return 1
	}
	switch edge = edge[n:]; {
	case string(x.rest) < edge:
		return -1
	case string(x.rest) == edge:
		return 0
	}
	return 1
}

// startsWith reports whether the edge starts with text.
func (x *scan) startsWith(text string) bool {
	n := min(len(x.prefix), len(text))
	if string(x.prefix[:n]) != text[:n] {
		return false
	}
	text = text[n:]
	return len(x.rest) >= len(text) && string(x.rest[:len(text)]) == text
}

// byte returns byte i of the edge, which is longer.
func (x *scan) byte(i int) byte {
	if i < len(x.prefix) {
		return x.prefix[i]
	}
	return x.rest[i-len(x.prefix)]
}

// editor changes directories. It holds what it needs for one change at a time.
type editor struct {
	items   []item
	merged  []item // for its use while several changes are made
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
	if len(d.groups) == 0 {
		s := x.alone(edge, packed)
		d.grow(0, slabGroup{slabs: []*slab{s}})
		return s.bytes()
	}
	g := d.groups[at.group].slabs
	old := g[at.slab]
	full := old.len() == slabMax || len(old.data)+len(edge)+len(packed) > slabWeight
	// Names that arrive in order fill their slabs. An intent is gone again soon, and has one of its own: nothing is copied for it.
	if !found && at.i == old.len() && (full && d.next(at) == nil || d.id == IntentsDir) {
		s := x.alone(edge, packed)
		d.insert(at, s)
		return s.bytes()
	}
	x.load(old)
	if added := x.item(edge, packed); found {
		x.items[at.i] = added
	} else {
		x.items = slices.Insert(x.items, at.i, added)
	}
	return x.put(d, at, false) - old.bytes()
}

// item returns an item of an entry that is new.
func (x *editor) item(edge string, packed []byte) item {
	at := len(x.scratch)
	x.scratch = append(x.scratch, edge...)
	return item{edge: x.scratch[at:len(x.scratch):len(x.scratch)], packed: packed}
}

// alone returns a slab of one entry.
func (x *editor) alone(edge string, packed []byte) *slab {
	x.scratch = x.scratch[:0]
	x.items = append(x.items[:0], x.item(edge, packed))
	return newSlab(x.items)
}

// put makes the slab at at of the items, or several if they are too many, and returns the bytes of all. The first of several are full
// if dense is set; else all have room for more.
func (x *editor) put(d *directory, at spot, dense bool) (bytes int64) {
	for rest := x.items; len(rest) > 0; {
		n := share(rest, dense)
		s := newSlab(rest[:n])
		if len(rest) == len(x.items) {
			d.replace(at, s)
		} else {
			d.insert(d.slabOf(string(rest[0].edge)), s)
		}
		bytes, rest = bytes+s.bytes(), rest[n:]
	}
	return bytes
}

// share returns how many of the items make the next slab.
func share(items []item, dense bool) int {
	n, heavy := len(items), weight(items)
	if n <= slabMax && (n == 1 || heavy <= slabWeight) {
		return n
	}
	most := min(n, slabMax)
	if !dense {
		pieces := max((n+slabMax-1)/slabMax, (heavy+slabWeight-1)/slabWeight)
		most = max(n/pieces, 1)
	}
	for heavy = weight(items[:most]); most > 1 && heavy > slabWeight; heavy = weight(items[:most]) {
		most--
	}
	return most
}

// replace puts s in the place of the slab at at.
func (d *directory) replace(at spot, s *slab) {
	g := &d.groups[at.group]
	old := g.slabs[at.slab]
	g.slabs[at.slab] = s
	if g.hints.none() && d.hints.none() || sameFirst(old.data, s.data) {
		return
	}
	g.hints.set(at.slab, s)
	d.firstChanged(at)
	d.hint(at.group)
}

// firstChanged notes that the slab at at is another one, or has another first edge.
func (d *directory) firstChanged(at spot) {
	if at.slab == 0 {
		d.hints.set(at.group, d.groups[at.group].slabs[0])
	}
}

// hint makes the hints of the group i, and those of the groups, if they are missing or have become bad ones.
func (d *directory) hint(i int) {
	g := &d.groups[i]
	g.hints.fit(len(g.slabs), func(i int) *slab { return g.slabs[i] })
	if d.hints == nil && len(d.groups) >= hintMin {
		d.hints = &hints{}
	}
	d.hints.fit(len(d.groups), func(i int) *slab { return d.groups[i].slabs[0] })
}

// insert adds a slab after the one at at.
func (d *directory) insert(at spot, s *slab) {
	g := &d.groups[at.group]
	g.slabs = slices.Insert(g.slabs, at.slab+1, s)
	g.hints.insert(at.slab+1, s)
	if n := len(g.slabs); n > groupMax {
		half := n / 2
		if at.group == len(d.groups)-1 && at.slab == n-2 {
			half = n - 1
		}
		left, right := slices.Clone(g.slabs[:half]), slices.Clone(g.slabs[half:])
		*g = slabGroup{slabs: left}
		d.grow(at.group+1, slabGroup{slabs: right})
		d.hints.insert(at.group+1, right[0])
		d.hint(at.group + 1)
	}
	d.hint(at.group)
}

// grow makes g the group i.
func (d *directory) grow(i int, g slabGroup) {
	if len(d.groups) == 0 {
		d.groups = d.only[:0]
	}
	d.groups = slices.Insert(d.groups, i, g)
	if len(d.groups) > len(d.only) { // they are elsewhere
		d.only = [1]slabGroup{}
	}
}

// push adds a slab at the end. Who has pushed the last one calls hintAll.
func (d *directory) push(s *slab) {
	n := len(d.groups)
	if n == 0 || len(d.groups[n-1].slabs) == groupMax {
		d.grow(n, slabGroup{})
		n++
	}
	g := &d.groups[n-1]
	g.slabs = append(g.slabs, s)
	g.hints, d.hints = hints{}, nil
}

// hintAll makes the hints that are missing.
func (d *directory) hintAll() {
	for i := range d.groups {
		d.hint(i)
	}
}

// remove takes the entry at at away and returns by how much the directory shrinks in bytes.
func (x *editor) remove(d *directory, at spot) (shrunk int64) {
	old := d.slabAt(at)
	x.load(old)
	x.items = slices.Delete(x.items, at.i, at.i+1)
	return old.bytes() - x.rest(d, at)
}

// rest makes the slab at at of the items that are left of it, and of those of the next one if both are small. It returns by how much
// the bytes of all slabs but that at at have grown.
func (x *editor) rest(d *directory, at spot) (bytes int64) {
	if len(x.items) == 0 {
		d.cut(at)
		return 0
	}
	g := d.groups[at.group].slabs
	if len(x.items) <= slabMax/4 && at.slab+1 < len(g) && len(x.items)+g[at.slab+1].len() <= slabMax/2 &&
		weight(x.items)+len(g[at.slab+1].data) <= slabWeight/2 {
		next := g[at.slab+1]
		bytes = -next.bytes()
		n := len(x.items)
		x.items, x.scratch = slabItems(next.data, x.items, x.scratch)
		for i := n; i < len(x.items); i++ {
			x.items[i].checked = next.checkedAt(i - n)
		}
		d.cut(spot{at.group, at.slab + 1, 0})
	}
	return bytes + x.put(d, at, false)
}

// cut removes the slab at at.
func (d *directory) cut(at spot) {
	g := &d.groups[at.group]
	g.slabs = slices.Delete(g.slabs, at.slab, at.slab+1)
	g.hints.delete(at.slab)
	if len(g.slabs) == 0 {
		d.groups = slices.Delete(d.groups, at.group, at.group+1)
		d.hints.delete(at.group)
		return
	}
	d.firstChanged(at)
	d.hint(at.group)
}

// next returns the slab that follows the one at at, nil if that is the last.
func (d *directory) next(at spot) *slab {
	if g := d.groups[at.group].slabs; at.slab+1 < len(g) {
		return g[at.slab+1]
	}
	if at.group+1 < len(d.groups) {
		return d.groups[at.group+1].slabs[0]
	}
	return nil
}

// last returns the last slab of d, nil if it has none.
func (d *directory) last() *slab {
	if len(d.groups) == 0 {
		return nil
	}
	g := d.groups[len(d.groups)-1].slabs
	return g[len(g)-1]
}
