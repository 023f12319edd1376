package meta

import (
	"cmp"
	"slices"
	"strings"
)

/*
A record of a busy journal has hundreds of operations, many of them of neighbours: the files that one job writes are in one directory.
Changing an entry makes another slab, with all that the slab has beside it. So such operations are taken in the order of their edges,
and what changes in a slab is changed at once. Nobody can tell, for readers see all of a record or nothing of it.
*/

// manyMin is how many operations have to follow each other for their order to be worth finding.
const manyMin = 4

// manyMax bounds the entries that are put into one slab at once, and so what an editor holds.
const manyMax = 256

// plain returns how many of the first operations may be done in any order, but for those of one edge. What makes, moves or takes a
// directory may not.
func plain(ops []Op) int {
	for i := range ops {
		op := &ops[i]
		if op.Kind != Set && op.Kind != Del || isDir(op.Edge) || op.Kind == Set && op.Entry.Class == Directory {
			return i
		}
	}
	return len(ops)
}

// many does plain operations. t.mu must be held.
func (t *Tree) many(ops []Op) {
	order := t.sorted(ops)
	for len(order) > 0 {
		op := &ops[order[0]]
		d := t.dirs[op.Dir]
		n := 1
		if d != nil && len(d.groups) > 0 && d.id != IntentsDir { // an intent has a slab of its own
			n = t.together(d, ops, order)
		}
		if n == 1 {
			t.one(op)
		}
		order = order[n:]
	}
}

// sorted returns which operations to do, in the order of their edges: of those of one edge, the last.
func (t *Tree) sorted(ops []Op) []int32 {
	order := t.turns[:0]
	for i := range ops {
		order = append(order, int32(i))
	}
	slices.SortFunc(order, func(a, b int32) int {
		x, y := &ops[a], &ops[b]
		return cmp.Or(cmp.Compare(x.Dir, y.Dir), strings.Compare(x.Edge, y.Edge), cmp.Compare(a, b))
	})
	n := 0
	for i, at := range order {
		if i+1 < len(order) {
			if op, next := &ops[at], &ops[order[i+1]]; op.Dir == next.Dir && op.Edge == next.Edge {
				continue
			}
		}
		order[n] = at
		n++
	}
	t.turns = order
	return order[:n]
}

// together does the first operations of order as far as they are in one slab of d, and returns how many they are. If it is one, it is
// still to be done.
func (t *Tree) together(d *directory, ops []Op, order []int32) (n int) {
	at := d.slabOf(ops[order[0]].Edge)
	next := d.next(at)
	for n < min(len(order), manyMax) {
		op := &ops[order[n]]
		if op.Dir != d.id || next != nil && !slabAfter(next.data, op.Edge) {
			break
		}
		n++
	}
	if n == 1 {
		return n
	}
	x, old := &t.edit, d.slabAt(at)
	x.load(old)
	t.packed = t.packed[:0]
	had, merged := x.items, x.merged[:0]
	dense, shrunk := true, false // all are new, and behind what is there
	for _, i := range order[:n] {
		op := &ops[i]
		for len(had) > 0 && string(had[0].edge) < op.Edge {
			merged, had = append(merged, had[0]), had[1:]
		}
		dense = dense && len(had) == 0 && op.Kind == Set
		replaced := len(had) > 0 && string(had[0].edge) == op.Edge
		if replaced {
			t.unpath(d, op.Edge, had[0].packed)
			had = had[1:]
		}
		switch {
		case op.Kind == Set:
			from := len(t.packed)
			t.packed = t.shapes.pack(t.packed, &t.vals, &op.Entry)
			merged = append(merged, x.item(op.Edge, t.packed[from:]))
			if !replaced {
				t.rows++
			}
		case replaced:
			shrunk = true
			t.rows--
		default: // there was nothing
			continue
		}
		t.layout.touch(d.id, op.Edge)
	}
	merged = append(merged, had...)
	x.items, x.merged = merged, x.items
	grown := -old.bytes()
	if shrunk {
		grown += x.rest(d, at)
	} else {
		grown += x.put(d, at, dense)
	}
	t.bytes.Add(grown)
	return n
}
