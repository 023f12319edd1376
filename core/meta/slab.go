package meta

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"sync/atomic"
	"unsafe"
)

/*
A slab holds up to 32 entries of one directory that follow each other, in one piece of memory that never changes:

	n:byte wide:byte prefix length:2 bytes | prefix | n times: hint, end | n times: rest of edge:length:uvarint bytes, packed entry

All edges start with the prefix. The hints are the first 2 bytes of each edge's rest, as numbers. The ends say where each entry
ends, counted from the first entry's start; they have 2 bytes, or 4 if the slab is wide. Numbers are little-endian. The entries are
in the order of their edges. What a search looks at is together at the beginning: each piece of memory further off is a wait.
Whatever changes an entry makes another slab, so who holds the bytes may read them without a lock.
*/
type slab struct {
	data    []byte
	checked atomic.Pointer[checks]
	indexed bool // it is an indexedSlab's
}

// A slabIndex is what a search needs of the data's beginning, once more: a slab that has it is one piece of memory with it
// (indexedSlab), so that who comes from the directory waits for this and for the entry, and for nothing between the two.
type slabIndex struct {
	body   uint32 // where the entries start in the data
	n      uint8  // entries
	prefix uint8  // length of the prefix
	start  [maxStart]byte
	hints  [slabMax]uint16 // the greatest number behind the last entry's
	ends   [slabMax]uint16 // the last entry's behind it
}

// indexedSlab takes three lines of the processor's cache.
type indexedSlab struct {
	slab
	table slabIndex
}

// checks are when each entry of a slab was last compared with its store: nanoseconds from Tree.born; 0: never.
type checks [slabMax]atomic.Int64

const (
	slabMax    = 32 // entries of a slab
	slabHeader = 4  // bytes before the prefix
	// A slab has an index if it has so many entries, is not wide, and its prefix is no longer.
	indexMin = 8
	maxStart = 16

	// slabWeight is how many bytes of edges and entries a slab has at most; an entry alone may be longer. Some 32 usual entries are
	// lighter. A change copies its slab: intents, which come and go with every write, are five times as long as those.
	slabWeight = 4 << 10
	// slabBytes is what a slab takes beside its data: itself, its place in the directory and among the hints, and what is lost
	// to the sizes in which memory is handed out.
	slabBytes = 48 + 16 + 14
	// indexBytes is what it takes more with an index.
	indexBytes = 192 - 48
)

// item is one entry on its way into a slab.
type item struct {
	edge, packed []byte
	checked      int64
}

// appendSlab appends the data of a slab of the items, which are in order.
func appendSlab(b []byte, items []item) []byte {
	prefix := 0
	first, last := items[0].edge, items[len(items)-1].edge
	for prefix < min(len(first), len(last), 0xffff) && first[prefix] == last[prefix] {
		prefix++
	}
	size := 0
	for i := range items {
		rest := len(items[i].edge) - prefix
		size += uvarintLen(rest) + rest + len(items[i].packed)
	}
	wide := byte(0)
	if size > 0xffff {
		wide = 1
	}
	if b == nil {
		b = make([]byte, 0, slabHeader+2*len(items)+len(items)<<(1+wide)+prefix+size)
	}
	b = append(b, byte(len(items)), wide)
	b = binary.LittleEndian.AppendUint16(b, uint16(prefix))
	b = append(b, first[:prefix]...)
	end := 0
	for i := range items {
		b = binary.LittleEndian.AppendUint16(b, slabHint(items[i].edge[prefix:]))
		rest := len(items[i].edge) - prefix
		end += uvarintLen(rest) + rest + len(items[i].packed)
		if wide == 0 {
			b = binary.LittleEndian.AppendUint16(b, uint16(end))
		} else {
			b = binary.LittleEndian.AppendUint32(b, uint32(end))
		}
	}
	for i := range items {
		b = binary.AppendUvarint(b, uint64(len(items[i].edge)-prefix))
		b = append(b, items[i].edge[prefix:]...)
		b = append(b, items[i].packed...)
	}
	return b
}

// slabHint returns the first 2 bytes of the rest of an edge, followed by zeros if it is shorter.
func slabHint[T string | []byte](rest T) uint16 {
	switch len(rest) {
	case 0:
		return 0
	case 1:
		return uint16(rest[0]) << 8
	}
	return uint16(rest[0])<<8 | uint16(rest[1])
}

func uvarintLen(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

// newSlab returns a slab of the items.
func newSlab(items []item) *slab {
	s := slabOf(appendSlab(nil, items))
	for i := range items {
		if items[i].checked != 0 {
			s.mark(i, items[i].checked)
		}
	}
	return s
}

// slabOf returns a slab of the data, which it keeps.
func slabOf(data []byte) *slab {
	n := slabLen(data)
	prefix, table := slabTable(data)
	if n < indexMin || n > slabMax || data[1] != 0 || len(prefix) > maxStart {
		return &slab{data: data}
	}
	s := &indexedSlab{slab: slab{data: data}}
	x := &s.table
	s.indexed = true
	x.body, x.n, x.prefix = uint32(slabHeader+len(prefix)+4*n), uint8(n), uint8(len(prefix))
	copy(x.start[:], prefix)
	for i := range slabMax {
		if i < n {
			x.hints[i], x.ends[i] = binary.LittleEndian.Uint16(table[4*i:]), binary.LittleEndian.Uint16(table[4*i+2:])
		} else {
			x.hints[i], x.ends[i] = math.MaxUint16, x.ends[i-1]
		}
	}
	return &s.slab
}

// look returns the packed entry at edge, nil if there is none, and which one it is.
func (s *slab) look(edge string) (packed []byte, i int) {
	if !s.indexed {
		i, packed, _ = slabSearch(s.data, edge)
		return packed, i
	}
	// Where the table is follows from where s is: with a pointer to it the processor would wait for s first.
	x := &(*indexedSlab)(unsafe.Pointer(s)).table
	touch(byte(x.ends[slabMax-1]))
	prefix := int(x.prefix)
	if len(edge) < prefix || edge[:prefix] != string(x.start[:prefix]) {
		return nil, 0
	}
	edge = edge[prefix:]
	hint := slabHint(edge)
	lo := 0
	for half := slabMax / 2; half > 0; half /= 2 { // as slabSearch does
		less := int(x.hints[(lo+half-1)&(slabMax-1)]) - int(hint)
		lo += half & (less >> 63)
	}
	lo += (int(x.hints[lo&(slabMax-1)]) - int(hint)) >> 63 & 1
	hi := lo
	for ; hi < int(x.n) && x.hints[hi&(slabMax-1)] == hint; hi++ {
	}
	body := s.data[x.body:]
	for lo < hi {
		mid := (lo + hi) / 2
		from := 0
		if mid > 0 {
			from = int(x.ends[(mid-1)&(slabMax-1)])
		}
		e := body[from:x.ends[mid&(slabMax-1)]]
		touch(e[len(e)-1]) // the entry may lie in two lines of the cache
		rest, packed := slabSplit(e)
		switch {
		case string(rest) == edge:
			return packed, mid
		case string(rest) < edge:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return nil, 0
}

// touch makes the processor load a byte, so that what lies beside it is there when it is needed. It waits for nothing.
func touch(b byte) { runtime.KeepAlive(b) }

// mark notes that entry i was checked at the time at, if it was not later.
func (s *slab) mark(i int, at int64) (grown bool) {
	c := s.checked.Load()
	if c == nil {
		c = new(checks)
		grown = s.checked.CompareAndSwap(nil, c)
		c = s.checked.Load()
	}
	for {
		old := c[i].Load()
		if old >= at || c[i].CompareAndSwap(old, at) {
			return grown
		}
	}
}

func (s *slab) checkedAt(i int) int64 {
	if c := s.checked.Load(); c != nil {
		return c[i].Load()
	}
	return 0
}

// bytes returns what the slab takes in memory.
func (s *slab) bytes() int64 {
	n := int64(slabBytes + len(s.data) + len(s.data)/16)
	if s.indexed {
		n += indexBytes
	}
	if s.checked.Load() != nil {
		n += 8 * slabMax
	}
	return n
}

func (s *slab) len() int { return int(s.data[0]) }

func slabLen(b []byte) int { return int(b[0]) }

// slabBody returns the prefix of the slab b, and its entries.
func slabBody(b []byte) (prefix, body []byte) {
	prefix, table := slabTable(b)
	return prefix, table[slabLen(b)*slabStride(b):]
}

// slabTable returns the prefix of the slab b, and what follows it.
func slabTable(b []byte) (prefix, table []byte) {
	at := slabHeader + int(binary.LittleEndian.Uint16(b[2:]))
	return b[slabHeader:at], b[at:]
}

// slabStride returns the bytes of a hint and an end of the slab b.
func slabStride(b []byte) int { return 4 + 2*int(b[1]) }

// slabSpan returns where entry i of the slab b, whose table is given, starts and ends in the body.
func slabSpan(b, table []byte, i int) (from, to int) {
	if b[1] == 0 {
		if to = int(binary.LittleEndian.Uint16(table[4*i+2:])); i > 0 {
			from = int(binary.LittleEndian.Uint16(table[4*i-2:]))
		}
		return from, to
	}
	if to = int(binary.LittleEndian.Uint32(table[6*i+2:])); i > 0 {
		from = int(binary.LittleEndian.Uint32(table[6*i-4:]))
	}
	return from, to
}

// slabEntry returns what follows the prefix in the edge of entry i of b, whose body is given, and the packed entry.
func slabEntry(b, body []byte, i int) (rest, packed []byte) {
	_, table := slabTable(b)
	from, to := slabSpan(b, table, i)
	return slabSplit(body[from:to])
}

// slabSplit cuts an entry of a body.
func slabSplit(e []byte) (rest, packed []byte) {
	if n := int(e[0]); n < 0x80 {
		return e[1 : 1+n], e[1+n:]
	}
	n, size := binary.Uvarint(e)
	return e[size : size+int(n)], e[size+int(n):]
}

// slabSearch returns the first entry of b whose edge is not less than edge and, if it is edge, the packed entry.
func slabSearch(b []byte, edge string) (i int, packed []byte, found bool) {
	prefix, table := slabTable(b)
	if len(edge) < len(prefix) || edge[:len(prefix)] != string(prefix) {
		if edge < string(prefix) {
			return 0, nil, false
		}
		return slabLen(b), nil, false
	}
	edge = edge[len(prefix):]
	hint, n, stride := slabHint(edge), slabLen(b), slabStride(b)
	lo := 0
	for left := n; left > 0; { // as many steps for every edge, and none that the processor has to guess
		half := (left + 1) / 2
		less := int(binary.LittleEndian.Uint16(table[(lo+half-1)*stride:])) - int(hint)
		lo += half & (less >> 63)
		left -= half
	}
	hi := lo
	for ; hi < n && binary.LittleEndian.Uint16(table[hi*stride:]) == hint; hi++ {
	}
	body := table[n*stride:]
	for lo < hi { // nothing but the edges tells those with one hint apart
		mid := (lo + hi) / 2
		from, to := slabSpan(b, table, mid)
		rest, packed := slabSplit(body[from:to])
		switch { // conversions within a comparison copy nothing
		case string(rest) == edge:
			return mid, packed, true
		case string(rest) < edge:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, nil, false
}

// slabAfter reports whether the first edge of b is greater than edge.
func slabAfter(b []byte, edge string) bool {
	prefix, body := slabBody(b)
	if len(edge) < len(prefix) || edge[:len(prefix)] != string(prefix) {
		return string(prefix) > edge
	}
	rest, _ := slabEntry(b, body, 0)
	return string(rest) > edge[len(prefix):]
}

// slabFirst appends the first edge of b to dst.
func slabFirst(dst, b []byte) []byte {
	prefix, body := slabBody(b)
	rest, _ := slabEntry(b, body, 0)
	return append(append(dst, prefix...), rest...)
}

// sameFirst reports whether a and b have the same first edge.
func sameFirst(a, b []byte) bool {
	var arrayA, arrayB [128]byte
	return bytes.Equal(slabFirst(arrayA[:0], a), slabFirst(arrayB[:0], b))
}

// slabEdge returns the edge of entry i of b.
func slabEdge(b []byte, i int) string {
	prefix, body := slabBody(b)
	rest, _ := slabEntry(b, body, i)
	var array [64]byte
	return string(append(append(array[:0], prefix...), rest...))
}

// slabItems appends the entries of b to items. Their edges are written to scratch, which may grow.
func slabItems(b []byte, items []item, scratch []byte) ([]item, []byte) {
	prefix, body := slabBody(b)
	for i := range slabLen(b) {
		rest, packed := slabEntry(b, body, i)
		at := len(scratch)
		scratch = append(append(scratch, prefix...), rest...)
		items = append(items, item{edge: scratch[at:len(scratch):len(scratch)], packed: packed})
	}
	return items, scratch
}

// weight returns the bytes of the items.
func weight(items []item) int {
	n := 0
	for i := range items {
		n += len(items[i].edge) + len(items[i].packed)
	}
	return n
}
