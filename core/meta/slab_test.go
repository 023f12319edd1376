package meta

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestSlabLook holds what a slab finds with its index to what a search of its data does.
func TestSlabLook(t *testing.T) {
	r := seed(t)
	indexed, plain := 0, 0
	for range 3000 {
		prefix := strings.Repeat("p", r.IntN(maxStart+3))
		edges := map[string]bool{}
		for range r.IntN(slabMax) + 1 {
			edge := prefix + randomName(r, false, true)
			if r.IntN(2) == 0 { // many with one hint
				edge = fmt.Sprintf("%saa%d", prefix, r.IntN(100))
			}
			edges[pick(r, []string{edge, edge, edge, prefix + "\xff\xff", prefix + "\xff"})] = true
		}
		var items []item
		for edge := range edges {
			items = append(items, item{edge: []byte(edge), packed: []byte(fmt.Sprint("packed ", len(items)))})
		}
		slices.SortFunc(items, func(a, b item) int { return slices.Compare(a.edge, b.edge) })
		if r.IntN(50) == 0 { // a wide one
			items[len(items)-1].packed = make([]byte, 1<<16)
		}
		s := newSlab(items)
		if s.indexed {
			indexed++
		} else {
			plain++
		}
		asked := []string{"", prefix, "o" + prefix, "q", "\xff\xff\xff"}
		for i := range items {
			edge := string(items[i].edge)
			asked = append(asked, edge, edge+"a", edge[:len(edge)-1], edge[min(1, len(edge)):])
			if len(prefix) > 0 {
				asked = append(asked, "q"+edge[1:])
			}
		}
		for _, edge := range asked {
			i, want, found := slabSearch(s.data, edge)
			got, at := s.look(edge)
			if (got != nil) != found || found && (at != i || string(got) != string(want)) {
				t.Fatalf("of %d edges that start with %q %q is number %d: %q, want %d: %q, %v", len(items), prefix, edge, at, got, i, want, found)
			}
		}
	}
	if indexed < 500 || plain < 500 {
		t.Errorf("%d slabs with an index, %d without", indexed, plain)
	}
}

// TestHeavySlabs sets and deletes long entries and looks what a change of one has to copy.
func TestHeavySlabs(t *testing.T) {
	tree := NewTree()
	r := seed(t)
	long := func() Entry {
		b := make([]byte, 300+r.IntN(600))
		for i := range b {
			b[i] = byte('a' + r.IntN(26))
		}
		return Entry{Class: Note, Extra: map[string]string{"entry": string(b)}}
	}
	look := func(names, least int) {
		t.Helper()
		slabs, found := 0, 0
		for _, g := range tree.dirs[UploadsDir].groups {
			for _, s := range g.slabs {
				slabs, found = slabs+1, found+s.len()
				if n := len(s.data); n > 5<<10 {
					t.Errorf("a slab of %d entries has %d bytes", s.len(), n)
				}
			}
		}
		if found != names {
			t.Errorf("%d names, want %d", found, names)
		}
		if slabs > 0 && found < least*slabs {
			t.Errorf("%d names are in %d slabs, want %d in each", found, slabs, least)
		}
	}
	edge := func(i int) string { return fmt.Sprintf("%016x", i) }
	const n = 1000
	for i := range n {
		tree.Apply(uint64(i+1), []Op{{Kind: Set, Dir: UploadsDir, Edge: edge(i), Entry: long()}})
	}
	look(n, 4) // in order, they fill their slabs
	for k, i := range r.Perm(n) {
		tree.Apply(uint64(n+k+1), []Op{{Kind: Del, Dir: UploadsDir, Edge: edge(i)}})
		look(n-k-1, 1)
	}
	for k, i := range r.Perm(n) {
		tree.Apply(uint64(2*n+k+1), []Op{{Kind: Set, Dir: UploadsDir, Edge: edge(i), Entry: long()}})
	}
	look(n, 2)
}

// TestIntentSlabs has intents come and go as many callers make them, nearly in order, and looks what a change of one has to copy: hardly
// more than itself.
func TestIntentSlabs(t *testing.T) {
	tree := NewTree()
	r := seed(t)
	edge := func(i int) string { return fmt.Sprintf("%016x", i) }
	open := map[string]string{}
	var order []string
	seq, crowded := uint64(0), 0
	for from := 0; from < 3000; from += 8 {
		for _, k := range r.Perm(8) {
			e, text := edge(from+k), strings.Repeat("x", 100+r.IntN(400))
			open[e], order = text, append(order, e)
			seq++
			tree.Apply(seq, []Op{{Kind: Set, Dir: IntentsDir, Edge: e, Entry: Entry{Class: Note, Extra: map[string]string{"entry": text}}}})
		}
		for len(order) > 300 || len(order) > 0 && r.IntN(10) > 0 && from > 2500 {
			i := r.IntN(len(order))
			seq++
			tree.Apply(seq, []Op{{Kind: Del, Dir: IntentsDir, Edge: order[i]}})
			delete(open, order[i])
			order = slices.Delete(order, i, i+1)
		}
		tree.View(func(v View) {
			found := 0
			for edge, e := range v.Children(IntentsDir, "") {
				if found++; open[edge] != e.Extra["entry"] {
					t.Fatalf("the intent %s is another one", edge)
				}
			}
			if found != len(open) {
				t.Fatalf("%d intents, want %d", found, len(open))
			}
		})
		slabs := 0
		for _, g := range tree.dirs[IntentsDir].groups {
			slabs += len(g.slabs)
		}
		if len(open) > 100 && len(open) > 2*slabs {
			crowded++
		}
	}
	if crowded > 0 {
		t.Errorf("%d times slabs had more than two intents each", crowded)
	}
}
