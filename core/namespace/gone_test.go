package namespace

import (
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
)

// TestGone has an item looked for where it was while the record that moves it is in the tree and not in the index yet: its bytes must
// stay, and those of an item that has really gone must not.
func TestGone(t *testing.T) {
	for _, moved := range []bool{true, false} {
		tree, h := meta.NewTree(), newHolds()
		n := &Namespace{tree: tree, holds: h}
		e := meta.Entry{Class: meta.Local, Rev: 7, Hold: &meta.Hold{ID: [16]byte{1}, Workers: []string{"w"}}}
		from, to := spot{meta.RootDir, "from"}, spot{meta.RootDir, "to"}
		h.mu.Lock()
		h.put(from, &e)
		it := h.items[heldID(&e)]
		h.mu.Unlock()
		ops := []meta.Op{{Kind: meta.Del, Dir: from.dir, Edge: from.edge}}
		if moved {
			ops = append(ops, meta.Op{Kind: meta.Set, Dir: to.dir, Edge: to.edge, Entry: e})
		}
		record := h.records.begin()
		if !n.forgetGone(it) {
			t.Fatal("what is not where it was is not forgotten")
		}
		h.free()
		if len(h.freed) != 0 {
			t.Fatalf("moved %v: released before the index had the record: %v", moved, h.freed)
		}
		h.note(ops)
		if !moved { // the item had left the index before the record was noted
			h.drop(it)
		}
		h.records.end(record)
		h.free()
		if freed := len(h.freed["w"]) > 0; freed == moved {
			t.Errorf("moved %v: freed %v", moved, h.freed)
		}
		if now := h.items[heldID(&e)]; moved && (now == nil || now.spot != to) {
			t.Errorf("the moved item is %+v", now)
		}
	}
}

// TestNeeded has a worker that is called otherwise than the entry says: it keeps the bytes as long as those who should have them do not.
func TestNeeded(t *testing.T) {
	h := newHolds()
	n := &Namespace{holds: h, space: make([]byte, 8), revs: newCounter("revs", 100, 1)}
	e := meta.Entry{Class: meta.Local, Rev: 7, Hold: &meta.Hold{ID: [16]byte{allocatedTag}, Workers: []string{"a"}}}
	id := heldID(&e)
	h.mu.Lock()
	h.put(spot{meta.RootDir, "x"}, &e)
	h.mu.Unlock()
	has := func(workers ...string) map[string]map[core.HeldID]bool {
		m := map[string]map[core.HeldID]bool{"b": {id: true}}
		for _, w := range workers {
			m[w] = map[core.HeldID]bool{id: true}
		}
		return m
	}
	if !n.needed(id, "b", has()) {
		t.Error("the only copy is released, since its worker has another name")
	}
	empty := has()
	empty["a"] = map[core.HeldID]bool{}
	if !n.needed(id, "b", empty) {
		t.Error("the only copy is released, since its worker should be one that has lost it")
	}
	if n.needed(id, "b", has("a")) {
		t.Error("a copy too many is kept")
	}
	if before, now := map[claim]bool{}, map[claim]bool{}; true {
		h.miss(empty, before, now)
		if len(h.items[id].lost) != 0 || !now[claim{"a", id}] {
			t.Errorf("one look: lost %v, doubts %v", h.items[id].lost, now)
		}
		h.miss(empty, now, map[claim]bool{})
		if len(h.items[id].lost) != 1 {
			t.Error("what a worker does not hold at two looks is not lost")
		}
	}
}
