package meta

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

/*
Hints say where an edge lies among slabs without a look at them, each of which would be a wait for memory. They hold 8 bytes of
each slab's first edge, those after what most of the first edges start with, as a number:

	first edges   _SUCCESS   part-000031.gz   part-000063.gz   part-000095.gz
	prefix        part-0000
	keys          0          "31.gz"          "63.gz"          "95.gz"

Edges that do not start with the prefix have the key 0 or the greatest one. Of two edges the one with the smaller key is the
smaller one; of those with the same key nothing is known. Slabs that are too few for it have no hints: nil, or no keys.
*/
type hints struct {
	prefix  string
	keys    []uint64
	changed int // keys changed since the prefix was chosen
}

// hintMin is the number of slabs from which on there are hints.
const hintMin = 4

func (h *hints) none() bool { return h == nil || len(h.keys) == 0 }

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
	if h.none() {
		return 0, n
	}
	touch(byte(h.keys[n/4])) // below would wait for one after the other
	touch(byte(h.keys[n/2]))
	touch(byte(h.keys[n*3/4]))
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
	lo := 0
	for left := len(h.keys); left > 0; { // as many steps for every key, and none that the processor has to guess
		half := (left + 1) / 2
		_, less := bits.Sub64(h.keys[lo+half-1], key, 0)
		lo += half & -int(less)
		left -= half
	}
	return lo
}

func (h *hints) key(s *slab) uint64 {
	var array [128]byte
	return keyOf(slabFirst(array[:0], s.data), h.prefix)
}

// set notes the first edge of the slab i, s.
func (h *hints) set(i int, s *slab) {
	if !h.none() {
		h.keys[i] = h.key(s)
		h.changed++
	}
}

// insert notes that s is the slab i, and that those from it on have moved.
func (h *hints) insert(i int, s *slab) {
	if !h.none() {
		h.keys = slices.Insert(h.keys, i, h.key(s))
		h.changed++
	}
}

// delete notes that the slab i is gone.
func (h *hints) delete(i int) {
	if !h.none() {
		h.keys = slices.Delete(h.keys, i, i+1)
		h.changed++
	}
}

// fit makes h the hints of the n slabs. It leaves h as it is if its prefix may still be the right one.
func (h *hints) fit(n int, slab func(i int) *slab) {
	if n < hintMin {
		if h != nil {
			*h = hints{}
		}
		return
	}
	if !h.none() && h.changed <= n/4 {
		return
	}
	low, high := slabFirst(nil, slab(n/8).data), slabFirst(nil, slab(n-1-n/8).data) // a few odd names at the ends do not count
	shared := 0
	for shared < min(len(low), len(high)) && low[shared] == high[shared] {
		shared++
	}
	*h = hints{prefix: string(low[:shared]), keys: make([]uint64, n)}
	for i := range n {
		h.keys[i] = h.key(slab(i))
	}
}
