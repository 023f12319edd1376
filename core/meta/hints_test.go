package meta

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestDirectoryFind compares where edges are found in directories of many slabs with a sorted list, while they grow and shrink.
func TestDirectoryFind(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	kinds := map[string]func() string{
		"numbered": func() string { return fmt.Sprintf("part-%06d.parquet", r.IntN(1e6)) },
		"odd": func() string {
			return []string{"", "_SUCCESS", "\xff\xff", "part-"}[r.IntN(4)] + fmt.Sprint(r.IntN(20_000))
		},
		"alike": func() string { return "a-long-start-that-all-have" + fmt.Sprintf("%0*d", r.IntN(20), r.IntN(5000)) },
		"bytes": func() string {
			b := make([]byte, 1+r.IntN(12))
			for i := range b {
				b[i] = "\x00\x01a\xfe\xff"[r.IntN(5)]
			}
			return string(b)
		},
	}
	for name, edge := range kinds {
		t.Run(name, func(t *testing.T) {
			d, x := &directory{}, &editor{}
			var all []string
			for step := range 40_000 {
				e := edge()
				at, found := d.find(e)
				i, want := slices.BinarySearch(all, e)
				if found != want {
					t.Fatalf("step %d: %q is found: %v, want %v", step, e, found, want)
				}
				if c := d.seek(e); c.ok != (i < len(all)) || c.ok && c.edge() != all[i] {
					t.Fatalf("step %d: a seek of %q is at another edge", step, e)
				}
				if grow := step < 25_000; grow {
					x.set(d, at, found, e, []byte{1})
					if !want {
						all = slices.Insert(all, i, e)
					}
				} else if i < len(all) {
					at, _ := d.find(all[i])
					x.remove(d, at)
					all = slices.Delete(all, i, i+1)
				}
				if step%997 == 0 {
					check(t, d, all)
				}
			}
			check(t, d, all)
		})
	}
}

// check compares all that d holds with the edges want, and its hints with its slabs.
func check(t *testing.T, d *directory, want []string) {
	t.Helper()
	var got []string
	var s scan
	for s.start(d.seek("")); s.ok; s.next() {
		got = append(got, string(s.prefix)+string(s.rest))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("the directory holds %d edges, want %d", len(got), len(want))
	}
	for i := range d.groups {
		g := &d.groups[i]
		if !d.hints.none() && d.hints.keys[i] != d.hints.key(g.slabs[0]) {
			t.Fatalf("the hint of group %d is not its first edge's", i)
		}
		if (!g.hints.none()) != (len(g.slabs) >= hintMin) {
			t.Fatalf("%d slabs have hints: %v", len(g.slabs), !g.hints.none())
		}
		for k, s := range g.slabs {
			if !g.hints.none() && g.hints.keys[k] != g.hints.key(s) {
				t.Fatalf("the hint of slab %d is not its first edge's", k)
			}
		}
	}
}
