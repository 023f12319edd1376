package meta

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
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

// leaf is one page of a layout.
type leaf struct {
	low, high point
	key       string // under which it is stored, "" if it is not
	rev       int64  // at which it was stored
	dirty     bool
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
