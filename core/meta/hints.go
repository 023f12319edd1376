package meta

import (
	"encoding/binary"
	"math"
	"slices"
)

/*
Hints say where an edge lies among slabs without a look at them, each of which would be a wait for memory. They hold 8 bytes of
each slab's first edge, those after what most of the first edges start with, as a number:

	first edges   _SUCCESS   part-000031.gz   part-000063.gz   part-000095.gz
	prefix        part-0000
	keys          0          "31.gz"          "63.gz"          "95.gz"

Edges that do not start with the prefix have the key 0 or the greatest one. Of two edges the one with the smaller key is the
smaller one; of those with the same key nothing is known. nil are the hints of slabs that are too few for it.
*/
type hints struct {
	prefix  string
	keys    []uint64
	changed int // keys changed since the prefix was chosen
}

// hintMin is the number of slabs from which on there are hints.
const hintMin = 4

// keyOf returns the key of an edge.
func keyOf[T string | []byte](edge T, prefix string) uint64 {
	if len(edge) < len(prefix) || string(edge[:len(prefix)]) != prefix {
		if string(edge) < prefix {
			return 0
		}
		return math.MaxUint64
	}
	rest := edge[len(prefix):]
	if len(rest) >= 8 {
		return uint64(rest[7]) | uint64(rest[6])<<8 | uint64(rest[5])<<16 | uint64(rest[4])<<24 |
			uint64(rest[3])<<32 | uint64(rest[2])<<40 | uint64(rest[1])<<48 | uint64(rest[0])<<56
	}
	var b [8]byte
	copy(b[:], rest)
	return binary.BigEndian.Uint64(b[:])
}

// among returns which of n slabs may have edge as their first edge; those before lo have smaller ones, those from hi on greater
// ones.
func (h *hints) among(edge string, n int) (lo, hi int) {
	if h == nil {
		return 0, n
	}
	key := keyOf(edge, h.prefix)
	lo = h.below(key)
	switch {
	case lo == n || h.keys[lo] != key:
		return lo, lo
	case lo+1 == n || h.keys[lo+1] != key:
		return lo, lo + 1
	case key == math.MaxUint64:
		return lo, n
	}
	return lo, h.below(key + 1)
}

// below returns how many keys are less than key.
func (h *hints) below(key uint64) int {
	lo, hi := 0, len(h.keys)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); h.keys[mid] < key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func (h *hints) key(s *slab) uint64 {
	var array [128]byte
	return keyOf(slabFirst(array[:0], s.data), h.prefix)
}

// set notes the first edge of the slab i, s.
func (h *hints) set(i int, s *slab) {
	if h != nil {
		h.keys[i] = h.key(s)
		h.changed++
	}
}

// insert notes that s is the slab i, and that those from it on have moved.
func (h *hints) insert(i int, s *slab) {
	if h != nil {
		h.keys = slices.Insert(h.keys, i, h.key(s))
		h.changed++
	}
}

// delete notes that the slab i is gone.
func (h *hints) delete(i int) {
	if h != nil {
		h.keys = slices.Delete(h.keys, i, i+1)
		h.changed++
	}
}

// fit returns hints of the n slabs: h, if its prefix may still be the right one, or new ones.
func (h *hints) fit(n int, slab func(i int) *slab) *hints {
	if n < hintMin {
		return nil
	}
	if h != nil && h.changed <= n/4 {
		return h
	}
	low, high := slabFirst(nil, slab(n/8).data), slabFirst(nil, slab(n-1-n/8).data) // a few odd names at the ends do not count
	shared := 0
	for shared < min(len(low), len(high)) && low[shared] == high[shared] {
		shared++
	}
	h = &hints{prefix: string(low[:shared]), keys: make([]uint64, n)}
	for i := range n {
		h.keys[i] = h.key(slab(i))
	}
	return h
}
