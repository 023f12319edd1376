package meta

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"
	"strings"
)

// facts are the facts about edges of one directory, in the order of the edges. A store may tell of millions of names: each takes the
// bytes it needs in a block with its neighbours, and is no piece of memory of its own. It is not for concurrent use.
type facts struct {
	blocks []*factBlock
	n      int
	near   int // the block that an edge was looked for in last: the next one mostly is there, or in the one after it
	at     int // where in that block: the next one mostly is that, or the one after it
}

/*
A factBlock holds facts that follow each other. All edges but those of the first block lie between its base and the next one's. Each
fact is in data as

	shared:uvarint | length:uvarint | rest of the edge | packed row

where the edge is so many bytes of the base and the rest, and an absent edge has no row. As each is told by the base alone, one is put
in, changed and taken out without its neighbours being written again.
*/
type factBlock struct {
	base  string // of an edge that it had; it may have it no more
	data  []byte
	marks []factMark // of each fact
}

type factMark struct {
	at  int64
	end uint32 // in data
}

const (
	factMax    = 64      // facts of a block
	factWeight = 8 << 10 // a block with so many bytes gets no more facts: each that is put in moves those behind it
)

// fact is one row as packed; none: the edge is absent.
type fact struct {
	row []byte // good until something is changed
	at  int64
}

func (f fact) there() bool { return len(f.row) > 0 }

func (f *facts) len() int { return f.n }

// get returns the fact about edge.
func (f *facts) get(edge string) (fact, bool) {
	b, i, ok := f.find(edge)
	if !ok {
		return fact{}, false
	}
	return f.blocks[b].fact(i), true
}

// set notes a fact about edge, of which it keeps nothing, and returns what it replaces: whether there was one, and it had a row.
func (f *facts) set(edge string, k fact) (there, was bool) {
	b, i, ok := f.find(edge)
	if ok {
		return f.blocks[b].replace(i, k), true
	}
	f.n++
	switch {
	case len(f.blocks) == 0:
		f.blocks = append(f.blocks, &factBlock{base: strings.Clone(edge)})
	case !f.blocks[b].full():
	case i == len(f.blocks[b].marks) && (i == 1 || b == len(f.blocks)-1 || len(f.blocks[b+1].marks) > factMax/4):
		// One after the other in their order, each block is filled; before one with room that would make blocks of one.
		next := &factBlock{base: strings.Clone(edge)}
		if old := f.blocks[b]; b == len(f.blocks)-1 { // a listing is told in its order: as many will follow
			next.data = make([]byte, 0, len(old.data)+len(old.data)/32)
			next.marks = make([]factMark, 0, factMax)
		}
		b, i = b+1, 0
		f.blocks = slices.Insert(f.blocks, b, next)
	default:
		f.blocks = slices.Insert(f.blocks, b+1, f.blocks[b].split())
		if n := len(f.blocks[b].marks); i > n {
			b, i = b+1, i-n
		}
	}
	f.near, f.at = b, i
	f.blocks[b].insert(i, edge, k)
	return false, false
}

// delete forgets the fact about edge, and returns what set would.
func (f *facts) delete(edge string) (there, was bool) {
	b, i, ok := f.find(edge)
	if !ok {
		return false, false
	}
	f.n--
	x := f.blocks[b]
	there = x.fact(i).there()
	x.remove(i)
	if len(x.marks) == 0 {
		f.blocks = slices.Delete(f.blocks, b, b+1)
	}
	return there, true
}

// ascend calls use for the facts about the edge from and those that follow it, until it returns false. use may not change anything. The edges
// are in t.
func (f *facts) ascend(from string, t *Text, use func(edge string, k fact) bool) {
	b, i, _ := f.find(from)
	for ; b < len(f.blocks); b, i = b+1, 0 {
		for x := f.blocks[b]; i < len(x.marks); i++ {
			shared, rest, row := x.entry(i)
			t.room(shared + len(rest))
			at := t.b.Len()
			t.b.WriteString(x.base[:shared])
			t.b.Write(rest)
			if !use(t.b.String()[at:], fact{row, x.marks[i].at}) {
				return
			}
		}
	}
}

// find returns where edge is, or where it would be put in.
func (f *facts) find(edge string) (b, i int, ok bool) {
	if len(f.blocks) == 0 {
		return 0, 0, false
	}
	for b = f.near; !f.within(b, edge); b++ {
		if b > f.near {
			b = max(sort.Search(len(f.blocks), func(i int) bool { return f.blocks[i].base > edge })-1, 0)
			break
		}
	}
	f.near = b
	i, ok = f.blocks[b].search(edge, f.at)
	f.at = i
	return b, i, ok
}

// within reports whether block b is where edge belongs.
func (f *facts) within(b int, edge string) bool {
	return b < len(f.blocks) && (b == 0 || f.blocks[b].base <= edge) && (b == len(f.blocks)-1 || edge < f.blocks[b+1].base)
}

func (x *factBlock) full() bool { return len(x.marks) >= factMax || len(x.data) >= factWeight }

// start returns where fact i starts in data, or the end of data.
func (x *factBlock) start(i int) int {
	if i == 0 {
		return 0
	}
	return int(x.marks[i-1].end)
}

// entry returns fact i: how many bytes of the base its edge starts with, the others, and the packed row.
func (x *factBlock) entry(i int) (shared int, rest, row []byte) {
	e := x.data[x.start(i):x.marks[i].end]
	var n int
	shared, e = factLen(e)
	n, e = factLen(e)
	return shared, e[:n], e[n:]
}

func factLen(e []byte) (int, []byte) {
	if e[0] < 0x80 {
		return int(e[0]), e[1:]
	}
	n, size := binary.Uvarint(e)
	return int(n), e[size:]
}

func (x *factBlock) fact(i int) fact {
	_, _, row := x.entry(i)
	return fact{row, x.marks[i].at}
}

// search returns the first fact whose edge is not less than edge, and whether it is edge's. It looks first whether that is fact near, or
// the one after it.
func (x *factBlock) search(edge string, near int) (int, bool) {
	c := -1 // of edge with fact near; there is none at the end
	if near < len(x.marks) {
		c = x.compare(edge, near)
	}
	switch {
	case c == 0:
		return near, true
	case near > len(x.marks):
	case c < 0 && (near == 0 || x.compare(edge, near-1) > 0):
		return near, false
	case c > 0 && near+1 == len(x.marks):
		return near + 1, false
	case c > 0:
		if c := x.compare(edge, near+1); c <= 0 {
			return near + 1, c == 0
		}
	}
	return sort.Find(len(x.marks), func(i int) int { return x.compare(edge, i) })
}

// compare compares an edge with that of fact i.
func (x *factBlock) compare(edge string, i int) int {
	shared, rest, _ := x.entry(i)
	n := min(shared, len(edge))
	switch c := strings.Compare(edge[:n], x.base[:n]); {
	case c != 0:
		return c
	case n < shared:
		return -1
	}
	switch tail := edge[n:]; { // conversions within a comparison copy nothing
	case tail < string(rest):
		return -1
	case tail > string(rest):
		return 1
	}
	return 0
}

func (x *factBlock) insert(i int, edge string, k fact) {
	shared := 0
	for shared < min(len(x.base), len(edge)) && x.base[shared] == edge[shared] {
		shared++
	}
	rest, from, had := edge[shared:], x.start(i), len(x.data)
	size := uvarintLen(shared) + uvarintLen(len(rest)) + len(rest) + len(k.row)
	x.data = slices.Grow(x.data, size)[:had+size]
	copy(x.data[from+size:], x.data[from:had])
	b := binary.AppendUvarint(x.data[:from], uint64(shared)) // what is appended has its room
	b = binary.AppendUvarint(b, uint64(len(rest)))
	b = append(b, rest...)
	_ = append(b, k.row...)
	x.marks = slices.Insert(x.marks, i, factMark{k.at, uint32(from)})
	x.shift(i, size)
}

// replace puts k in the place of fact i, and reports whether that had a row.
func (x *factBlock) replace(i int, k fact) (there bool) {
	_, _, old := x.entry(i)
	there = len(old) > 0
	x.marks[i].at = k.at
	if !bytes.Equal(old, k.row) {
		end, size := int(x.marks[i].end), len(k.row)-len(old)
		x.data = slices.Replace(x.data, end-len(old), end, k.row...)
		x.shift(i, size)
	}
	return there
}

func (x *factBlock) remove(i int) {
	from, to := x.start(i), int(x.marks[i].end)
	x.data = slices.Delete(x.data, from, to)
	x.marks = slices.Delete(x.marks, i, i+1)
	x.shift(i, from-to)
}

// shift moves the ends of fact i and those behind it.
func (x *factBlock) shift(i, by int) {
	for ; i < len(x.marks); i++ {
		x.marks[i].end = uint32(int(x.marks[i].end) + by)
	}
}

// split takes the second half of the facts out and returns them as a block of their own.
func (x *factBlock) split() *factBlock {
	half := len(x.marks) / 2
	shared, rest, _ := x.entry(half)
	y := &factBlock{base: x.base[:shared] + string(rest)}
	for i := half; i < len(x.marks); i++ {
		shared, rest, row := x.entry(i)
		y.insert(len(y.marks), x.base[:shared]+string(rest), fact{row, x.marks[i].at})
	}
	x.data = slices.Clone(x.data[:x.start(half)])
	x.marks = slices.Clone(x.marks[:half])
	return y
}

// rowPacker packs rows as entries are packed (shape.go): what many have in common is there once. It is not for concurrent use.
type rowPacker struct {
	shapes shapes
	v      values
	e      Entry
	b      []byte
}

// pack returns what row says. It is good until the next call.
func (x *rowPacker) pack(row *Row) []byte {
	x.e = Entry{
		Class: Persisted, Marker: row.Marker, Explicit: row.Full, Mount: row.Racy, Size: row.Size, MTime: row.MTime, Version: row.Version, ETag: row.ETag,
		Owner: row.Owner, Group: row.Group, Mode: row.Mode, Headers: row.Headers, User: row.User, Checksums: row.Checksums,
	}
	if row.Dir {
		x.e.Class = Directory
	}
	x.b = x.shapes.pack(x.b[:0], &x.v, &x.e)
	x.e = Entry{} // keeps nothing of the answer that the row was cut from
	return x.b
}

// unpack puts what pack returned into row. Its text is in t if that is not nil.
func (x *rowPacker) unpack(packed []byte, row *Row, t *Text) {
	e := &x.e
	if s, b := x.shapes.of(packed); s == nil {
		e = x.shapes.entry(packed)
	} else {
		*e = Entry{}
		x.v.unpack(b, s)
		x.v.fill(s, e)
		x.v.joinText(s, s.version, e, t)
	}
	*row = Row{
		Dir: e.Class == Directory, Marker: e.Marker, Full: e.Explicit, Racy: e.Mount, Size: e.Size, MTime: e.MTime, Version: e.Version, ETag: e.ETag,
		Owner: e.Owner, Group: e.Group, Mode: e.Mode, Headers: e.Headers, User: e.User, Checksums: e.Checksums,
	}
	x.v.rest = nil // it would be written over: it is the packed row's
}

// full returns Row.Full of a packed row.
func (x *rowPacker) full(packed []byte) bool {
	s, _ := x.shapes.of(packed)
	if s == nil {
		return x.shapes.entry(packed).Explicit
	}
	return s.flags&flagExplicit != 0
}
