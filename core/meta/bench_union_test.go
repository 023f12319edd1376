package meta

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

func benchEntry(i int) Entry {
	return Entry{Class: Persisted, ID: uint64(i), Rev: uint64(i), Size: 4096, ETag: fmt.Sprintf("%032x", i), Version: fmt.Sprintf("v%015x", i),
		Extents: []Extent{{ID: uint64(i), Rev: uint64(i), Len: 4096}}, MTime: int64(i), Owner: "sluice", Group: "sluice", Mode: 0o644}
}

// benchTree holds n files in one directory "big/" of the root.
func benchTree(n int) *Tree {
	t := NewTree()
	t.Apply(1, []Op{{Kind: Set, Dir: RootDir, Edge: "big/", Entry: Entry{Class: Directory, Dir: FirstDir, Explicit: true}}})
	for i := range n {
		t.Apply(uint64(i), []Op{{Kind: Set, Dir: FirstDir, Edge: fmt.Sprintf("image_%08d.jpg", i), Entry: benchEntry(i)}})
	}
	return t
}

// benchDerived holds n files in the root of an object store.
func benchDerived(n int) *Derived {
	d := NewDerived(DerivedOptions{Flat: true, MaxRows: 2 * n})
	rows := make([]NamedRow, 1000)
	after, f := "", d.Sent(1, time.Now())
	defer f.Done()
	for i := 0; i < n; i += len(rows) {
		for j := range rows {
			rows[j] = NamedRow{fmt.Sprintf("image_%08d.jpg", i+j), Row{Size: 4096, MTime: 1, Version: fmt.Sprintf("%032x", i+j), ETag: fmt.Sprintf("%032x", i+j)}}
		}
		last := rows[len(rows)-1].Name
		f.ListFlat("", after, last, rows, i+len(rows) >= n)
		after = last
	}
	return d
}

func BenchmarkUnionPage(b *testing.B) {
	tree, d := benchTree(benchNames), benchDerived(benchNames)
	u := &Union{Tree: tree, Store: func(string) *Derived { return d }}
	mid := fmt.Sprintf("image_%08d.jpg", benchNames/2)
	overlay := Start{Dir: RootDir, InTree: true}
	store := Start{Store: "s", HasStore: true}
	for _, c := range []struct {
		name string
		q    Query
	}{
		{"overlay keys", Query{Start: overlay, After: "big/" + mid}},
		{"overlay delimiter", Query{Start: overlay, Prefix: "big/", Delimiter: "/", After: "big/" + mid}},
		{"overlay children", Query{Start: Start{Dir: FirstDir, InTree: true}, Children: true, HideShadowed: true, After: mid}},
		{"store keys", Query{Start: store, After: mid}},
		{"store children", Query{Start: store, Children: true, HideShadowed: true, After: mid}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if items, need, _ := u.Page(c.q); len(items) != 1000 || need != nil {
					b.Fatal(len(items), need)
				}
			}
		})
	}
	b.Run("skip a subtree", func(b *testing.B) {
		for b.Loop() {
			if items, _, done := u.Page(Query{Start: overlay, Delimiter: "/"}); len(items) != 1 || !done {
				b.Fatal(items)
			}
		}
	})
}

func BenchmarkDerivedLookup(b *testing.B) {
	d := benchDerived(benchNames)
	i := 0
	for b.Loop() {
		i = (i + 7919) % benchNames
		if f := d.Lookup(fmt.Sprintf("image_%08d.jpg", i)); f.State != Present {
			b.Fatal(i)
		}
	}
}

// BenchmarkDerivedMemory reports the heap a million rows take.
func BenchmarkDerivedMemory(b *testing.B) {
	for b.Loop() {
		before := heap()
		d := benchDerived(benchNames)
		b.ReportMetric(float64(heap()-before)/benchNames, "B/row")
		runtime.KeepAlive(d)
	}
}
