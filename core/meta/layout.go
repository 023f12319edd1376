package meta

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
	"strings"

	"github.com/tidwall/btree"
)

/*
How the overlay is cut into checkpoint pages. All entries of all directories are one sequence, by directory and edge, and a
page holds those from its low point on up to, not including, its high point, which is the next page's low one. So small
directories share pages, and a large one has many. The pages of a layout cover the whole sequence, without overlapping.

A page whose entries have changed since it was stored is dirty; a checkpoint stores it again, as several pages if it has
grown, and leaves it out if nothing is left in it.
*/
type layout struct {
	pages btree.BTreeG[*leaf]
	dirty int
	last  *leaf // touched last: the next touch is likely to be there too
}

// point is a place in the sequence of all entries.
type point struct {
	dir  DirID
	edge string
}

// end is the point behind all entries.
var end = point{dir: math.MaxUint64}

func (p point) less(q point) bool { return p.dir < q.dir || p.dir == q.dir && p.edge < q.edge }

func (p point) compare(q point) int {
	return cmp.Or(cmp.Compare(p.dir, q.dir), strings.Compare(p.edge, q.edge))
}

// leaf is one page of a layout.
type leaf struct {
	low, high point
	rev       int64 // at which it was stored, 0 if it is not
	n         int   // entries when it was stored
	bytes     int   // when it was stored
	dirty     bool
	busy      bool // being replaced
	gone      bool // another page covers its places
}

func newLayout() layout {
	l := layout{pages: *btree.NewBTreeGOptions(func(a, b *leaf) bool { return a.low.less(b.low) }, btree.Options{NoLocks: true})}
	l.pages.Set(&leaf{high: end})
	return l
}

// find returns the page that covers p.
func (l *layout) find(p point) (found *leaf) {
	l.pages.Descend(&leaf{low: p}, func(s *leaf) bool { found = s; return false })
	return found
}

// touch makes the page of an entry dirty.
func (l *layout) touch(dir DirID, edge string) {
	p := point{dir, edge}
	s := l.last
	if s == nil || p.less(s.low) || !p.less(s.high) {
		s = l.find(p)
		l.last = s
	}
	l.soil(s)
}

func (l *layout) soil(s *leaf) {
	if !s.dirty {
		s.dirty = true
		l.dirty++
	}
}

// touchRange makes the pages dirty that hold entries of dir with edges from from to to.
func (l *layout) touchRange(dir DirID, from, to string) {
	for s := l.find(point{dir, from}); ; s = l.find(s.high) {
		l.soil(s)
		if (point{dir, to}).less(s.high) {
			return
		}
	}
}

// before returns the page before s, nil if it is the first.
func (l *layout) before(s *leaf) (before *leaf) {
	l.pages.Descend(s, func(x *leaf) bool {
		before = x
		return x == s
	})
	if before == s {
		return nil
	}
	return before
}

// unsaved returns the dirty pages, in order.
func (l *layout) unsaved() []*leaf {
	all := make([]*leaf, 0, l.dirty)
	l.pages.Scan(func(s *leaf) bool {
		if s.dirty {
			all = append(all, s)
		}
		return true
	})
	return all
}

// replace puts the pages by, which cover the same places, in the place of old. What was touched in old meanwhile is dirty.
func (l *layout) replace(old, by []*leaf) {
	dirty := false
	for _, s := range old {
		if s.dirty {
			dirty = true
			l.dirty--
		}
		s.gone, s.busy = true, false
		l.pages.Delete(s)
	}
	for _, s := range by {
		if dirty {
			l.soil(s)
		}
		l.pages.Set(s)
	}
	l.last = nil
}

// rebuild makes the layout that of stored pages, which may be in any order, overlap and leave gaps. What was dirty is dirty
// again, and so is every page that does not cover exactly what its stored state does.
func (l *layout) rebuild(stored []*leaf) {
	was := l.unsaved()
	slices.SortFunc(stored, func(a, b *leaf) int { return a.low.compare(b.low) })
	*l = newLayout()
	l.pages.Clear()
	if len(stored) == 0 || stored[0].low != (point{}) {
		l.pages.Set(&leaf{})
	}
	for _, s := range stored {
		l.pages.Set(s)
	}
	var before *leaf
	fit := func(s *leaf, high point) {
		if s.high != high || s.rev == 0 {
			s.high = high
			l.soil(s)
		}
	}
	l.pages.Scan(func(s *leaf) bool {
		if before != nil {
			fit(before, s.low)
		}
		before = s
		return true
	})
	fit(before, end)
	for _, s := range was {
		l.soilFrom(s.low, s.high)
	}
}

// soilFrom makes the pages dirty that cover places from from on up to, not including, to.
func (l *layout) soilFrom(from, to point) {
	for s := l.find(from); ; s = l.find(s.high) {
		l.soil(s)
		if !s.high.less(to) {
			return
		}
	}
}

// maxLow is how much of a page's low edge its key holds at most. Keys are only names: a page says itself what it covers.
const maxLow = 256

// pageKey returns the key of a page below prefix, which ends in "/": the directory's 8 bytes, a slash and the low edge. Of a
// long edge the key has the start and a digest.
func pageKey(prefix string, low point) string {
	var b strings.Builder
	b.WriteString(prefix)
	var dir [8]byte
	binary.BigEndian.PutUint64(dir[:], uint64(low.dir))
	b.Write(dir[:])
	b.WriteByte('/')
	if len(low.edge) <= maxLow {
		b.WriteString(low.edge)
		return b.String()
	}
	sum := sha256.Sum256([]byte(low.edge))
	b.WriteString(low.edge[:maxLow])
	b.WriteByte(0)
	b.WriteString(hex.EncodeToString(sum[:16]))
	return b.String()
}

// between returns a short point that is greater than a and not greater than b; a is less than b.
func between(a, b point) point {
	if a.dir != b.dir {
		return point{dir: b.dir}
	}
	n := 0
	for n < len(a.edge) && a.edge[n] == b.edge[n] {
		n++
	}
	return point{b.dir, strings.Clone(b.edge[:n+1])}
}
