package meta

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestMany applies the same operations one by one and as the records of a busy journal, and requires the same tree.
func TestMany(t *testing.T) {
	r := seed(t)
	one, many := NewTree(), NewTree()
	dirs := []DirID{RootDir, IntentsDir, FirstDir, FirstDir + 1}
	op := func() Op {
		o := Op{Kind: Set, Dir: pick(r, dirs), Edge: fmt.Sprintf("part-%04d", r.IntN(1500)), Entry: Entry{Class: Persisted, ID: r.Uint64(), Version: "v"}}
		switch n := r.IntN(100); {
		case n < 30:
			o.Kind, o.Entry = Del, Entry{}
		case n < 32:
			o.Entry.HDFSSum = strings.Repeat("x", r.IntN(3<<10))
		case n < 33:
			o.Edge = strings.Repeat("long", 50) + o.Edge
		case n == 33:
			o.Edge, o.Entry = o.Edge+"/", Entry{Class: Directory, Dir: FirstDir + DirID(2+r.IntN(4))}
		case n == 34:
			o = Op{Kind: Counter, Name: "x", Value: r.Uint64()}
		case n == 35:
			o = Op{Kind: DropDir, Dir: FirstDir + DirID(2+r.IntN(4))}
		}
		return o
	}
	seq := uint64(0)
	for range 60 {
		var record []Op
		orderly := r.IntN(4) == 0 // a directory that is filled, or emptied, from its beginning to its end
		for i := range 1 + r.IntN(700) {
			o := op()
			if orderly && o.Kind != Counter && o.Kind != DropDir && !isDir(o.Edge) {
				o.Dir, o.Edge = FirstDir+1, fmt.Sprintf("part-%06d", int(seq)*1000+i)
			}
			record = append(record, o)
		}
		for i := range record {
			one.Apply(seq, record[i:i+1])
		}
		many.Apply(seq, record)
		seq++
		for range 50 {
			o := record[r.IntN(len(record))]
			at := one.born.Add(time.Hour)
			one.MarkChecked(o.Dir, o.Edge, "v", at)
			many.MarkChecked(o.Dir, o.Edge, "v", at.Add(many.born.Sub(one.born)))
		}
		sameTrees(t, one, many)
	}
}

// sameTrees requires that two trees say the same, and that the second one is put together as it should.
func sameTrees(t *testing.T, one, many *Tree) {
	t.Helper()
	type row struct {
		id      uint64
		sum     string
		checked bool
	}
	rows := func(tree *Tree) map[string]row {
		all := map[string]row{}
		tree.View(func(v View) {
			for dir := range v.Dirs() {
				path, _ := v.Path(dir)
				for edge, e := range v.Children(dir, "") {
					all[fmt.Sprintf("%d %s %s", dir, path, edge)] = row{e.ID + uint64(e.Dir), e.HDFSSum, !v.CheckedAt(dir, edge).IsZero()}
					if _, ok := v.Get(dir, edge); !ok {
						t.Fatalf("%q of %d is not found", edge, dir)
					}
				}
			}
		})
		return all
	}
	want, got := rows(one), rows(many)
	for name, w := range want {
		if g, ok := got[name]; !ok || g != w {
			t.Fatalf("%s is %+v, %v, want %+v", name, g, ok, w)
		}
	}
	if len(got) != len(want) || many.Len() != one.Len() || many.counters["x"] != one.counters["x"] {
		t.Fatalf("%d names, want %d; Len %d, want %d", len(got), len(want), many.Len(), one.Len())
	}
	size := int64(0)
	for _, d := range many.dirs {
		size += dirBytes
		for _, g := range d.groups {
			for _, s := range g.slabs {
				size += s.bytes()
				if n := s.len(); n == 0 || n > slabMax || n > 1 && len(s.data) > 2*slabWeight {
					t.Fatalf("a slab of %d entries has %d bytes", n, len(s.data))
				}
			}
		}
	}
	for _, d := range many.dropped {
		size += dirBytes
		for _, g := range d.groups {
			for _, s := range g.slabs {
				size += s.bytes()
			}
		}
	}
	if size != many.bytes.Load() {
		t.Fatalf("the tree has %d bytes, and says %d", size, many.bytes.Load())
	}
}

// TestManyAtOnce requires that the entries of a record that are neighbours are not copied for each other.
func TestManyAtOnce(t *testing.T) {
	r := seed(t)
	tree := NewTree()
	var record []Op
	for _, i := range r.Perm(256) {
		record = append(record, Op{Kind: Set, Dir: RootDir, Edge: fmt.Sprintf("part-%04d", i), Entry: Entry{Class: Persisted, ID: 1, Size: 1}})
	}
	tree.Apply(1, record)
	if n := testing.AllocsPerRun(10, func() { tree.Apply(2, record) }); n > float64(len(record))/2 {
		t.Errorf("%d entries take %v pieces of memory", len(record), n)
	}
	slabs := 0
	for _, g := range tree.dirs[RootDir].groups {
		slabs += len(g.slabs)
	}
	if slabs > 2*256/slabMax {
		t.Errorf("256 names are in %d slabs", slabs)
	}
}
