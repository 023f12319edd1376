package meta

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

// realTree holds n files of a local store in directories of perDir files, three levels below the root, made in random order
// within a directory.
func realTree(r *rand.Rand, n, perDir int) *Tree {
	t := NewTree()
	seq := uint64(0)
	apply := func(op Op) { seq++; t.Apply(seq, []Op{op}) }
	next := FirstDir
	mkdir := func(parent DirID, edge string) DirID {
		next++
		apply(Op{Kind: Set, Dir: parent, Edge: edge, Entry: Entry{Class: Directory, Dir: next, Owner: "alice", Group: "analysts", Mode: 0o755 | 1<<31, MTime: epoch + 5}})
		return next
	}
	top := mkdir(RootDir, "warehouse/")
	var mid DirID
	for i := 0; i < n; i += perDir {
		k := i / perDir
		if k%100 == 0 {
			mid = mkdir(top, fmt.Sprintf("day=%05d/", k/100))
		}
		dir := mkdir(mid, fmt.Sprintf("hour=%05d/", k%100))
		for _, j := range r.Perm(min(perDir, n-i)) {
			apply(Op{Kind: Set, Dir: dir, Edge: realName(i + j), Entry: realEntry(r, i+j)})
		}
	}
	return t
}

func realName(i int) string { return fmt.Sprintf("part-%06d-%08x.parquet", i, uint32(i)*2654435761) }

const benchNames = 1_000_000

// BenchmarkTreeMemory reports the heap that a million entries take, and Tree.Bytes's estimate of it.
func BenchmarkTreeMemory(b *testing.B) {
	for _, perDir := range []int{1, 100, 1000, benchNames} {
		b.Run(fmt.Sprintf("perDir=%d", perDir), func(b *testing.B) {
			for b.Loop() {
				before := heap()
				t := realTree(rand.New(rand.NewPCG(1, 1)), benchNames, perDir)
				b.ReportMetric(float64(heap()-before)/benchNames, "B/entry")
				b.ReportMetric(float64(t.Bytes())/benchNames, "estimated-B/entry")
				b.ReportMetric(float64(t.Len()), "entries")
				runtime.KeepAlive(t)
			}
		})
	}
}

// BenchmarkTreeGet walks three levels and gets a file, of a million.
func BenchmarkTreeGet(b *testing.B) {
	for _, perDir := range []int{100, 1000, benchNames} {
		t := realTree(rand.New(rand.NewPCG(1, 1)), benchNames, perDir)
		days, hours, names := make([]string, benchNames/perDir/100+1), make([]string, 100), make([]string, 4096)
		for i := range days {
			days[i] = fmt.Sprintf("day=%05d/", i)
		}
		for i := range hours {
			hours[i] = fmt.Sprintf("hour=%05d/", i)
		}
		at := make([]int, len(names))
		for i := range names {
			at[i] = rand.IntN(benchNames)
			names[i] = realName(at[i])
		}
		b.Run(fmt.Sprintf("perDir=%d", perDir), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				n := i % len(names)
				k := at[n] / perDir
				t.View(func(v View) {
					_, dir, _ := v.Lookup(RootDir, "warehouse/")
					_, dir, _ = v.Lookup(dir, days[k/100])
					_, dir, _ = v.Lookup(dir, hours[k%100])
					if _, ok := v.Get(dir, names[n]); !ok {
						b.Fatal(names[n])
					}
				})
			}
		})
	}
}

// BenchmarkTreeSet sets entries at random places of a directory of a million.
func BenchmarkTreeSet(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	t := realTree(r, benchNames, benchNames)
	dir := t.dirs[FirstDir+3].id
	e := realEntry(r, 1)
	for b.Loop() {
		t.Apply(1, []Op{{Kind: Set, Dir: dir, Edge: realName(r.IntN(8 * benchNames)), Entry: e}})
	}
}

// BenchmarkTreeList lists 1,000 names from random places of a million.
func BenchmarkTreeList(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	t := realTree(r, benchNames, benchNames)
	dir := t.dirs[FirstDir+3].id
	u := &Union{Tree: t}
	for b.Loop() {
		items, _, _ := u.Page(Query{Start: Start{Dir: dir, InTree: true}, After: realName(r.IntN(benchNames - 1000)), Limit: 1000})
		if len(items) != 1000 {
			b.Fatal(len(items))
		}
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
