package meta

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
)

/*
A slab holds up to 32 entries of one directory that follow each other, in one piece of memory that never changes:

	n:byte wide:byte prefix length:2 bytes | n hints | n ends | prefix | n times: rest of edge:length:uvarint bytes, packed entry

All edges start with the prefix. The hints are the first 2 bytes of each edge's rest, as numbers. The ends say where each entry
ends, counted from the first entry's start; they have 2 bytes, or 4 if the slab is wide. Numbers are little-endian. The entries are in the order of their edges. Whatever changes an entry
makes another slab, so who holds the bytes may read them without a lock.
*/
type slab struct {
	data    []byte
	checked atomic.Pointer[checks]
}

// checks are when each entry of a slab was last compared with its store: nanoseconds from Tree.born; 0: never.
type checks [slabMax]atomic.Int64

const (
	slabMax    = 32       // entries of a slab
	slabHeader = 4        // bytes before the hints
	slabWeight = 64 << 10 // bytes of edges and entries beyond which a slab is split; an entry alone may be longer
	// slabBytes is what a slab takes beside its data: itself, its place in the directory and among the hints, and what is lost
	// to the sizes in which memory is handed out.
	slabBytes = 32 + 16 + 14
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
	for i := range items {
		b = binary.LittleEndian.AppendUint16(b, slabHint(items[i].edge[prefix:]))
	}
	end := 0
	for i := range items {
		rest := len(items[i].edge) - prefix
		end += uvarintLen(rest) + rest + len(items[i].packed)
		if wide == 0 {
			b = binary.LittleEndian.AppendUint16(b, uint16(end))
		} else {
			b = binary.LittleEndian.AppendUint32(b, uint32(end))
		}
	}
	b = append(b, first[:prefix]...)
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
	s := &slab{data: appendSlab(nil, items)}
	for i := range items {
		if items[i].checked != 0 {
			s.mark(i, items[i].checked)
		}
	}
	return s
}

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
	if s.checked.Load() != nil {
		n += 8 * slabMax
	}
	return n
}

func (s *slab) len() int { return int(s.data[0]) }

func slabLen(b []byte) int { return int(b[0]) }

// slabBody returns the prefix of the slab b, and its entries.
func slabBody(b []byte) (prefix, body []byte) {
	at := slabHeader + 2*int(b[0]) + int(b[0])<<(1+b[1])
	n := int(binary.LittleEndian.Uint16(b[2:]))
	return b[at : at+n], b[at+n:]
}

func slabEnd(b []byte, i int) int {
	ends := b[slabHeader+2*int(b[0]):]
	if b[1] == 0 {
		return int(binary.LittleEndian.Uint16(ends[2*i:]))
	}
	return int(binary.LittleEndian.Uint32(ends[4*i:]))
}

// slabEntry returns what follows the prefix in the edge of entry i of b, whose body is given, and the packed entry.
func slabEntry(b, body []byte, i int) (rest, packed []byte) {
	from := 0
	if i > 0 {
		from = slabEnd(b, i-1)
	}
	e := body[from:slabEnd(b, i)]
	if n := int(e[0]); n < 0x80 {
		return e[1 : 1+n], e[1+n:]
	}
	n, size := binary.Uvarint(e)
	return e[size : size+int(n)], e[size+int(n):]
}

// slabSearch returns the first entry of b whose edge is not less than edge, and whether it is edge.
func slabSearch(b []byte, edge string) (i int, found bool) {
	prefix, body := slabBody(b)
	if len(edge) < len(prefix) || edge[:len(prefix)] != string(prefix) {
		if edge < string(prefix) {
			return 0, false
		}
		return slabLen(b), false
	}
	edge = edge[len(prefix):]
	hint, n := slabHint(edge), slabLen(b)
	hints := b[slabHeader : slabHeader+2*n]
	lo, hi := 0, n
	for lo < hi {
		if mid := (lo + hi) / 2; binary.LittleEndian.Uint16(hints[2*mid:]) < hint {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for ; hi < n && binary.LittleEndian.Uint16(hints[2*hi:]) == hint; hi++ {
	}
	for lo < hi { // nothing but the edges tells those with one hint apart
		mid := (lo + hi) / 2
		rest, _ := slabEntry(b, body, mid)
		switch { // conversions within a comparison copy nothing
		case string(rest) < edge:
			lo = mid + 1
		case string(rest) == edge:
			return mid, true
		default:
			hi = mid
		}
	}
	return lo, false
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
