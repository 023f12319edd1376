package main

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/etcd"
)

// BenchmarkMaster does what the rows stat_… and list_… of TestMasters measure, in a form that can be profiled. Processor time is counted too, which
// the work of others slows less. It has the first of -masters names, or 200,000.
func BenchmarkMaster(b *testing.B) {
	n := 200_000
	if *masterSizes != "" {
		n = sizesOf(b)[0]
	}
	m := filled(b, n)
	defer m.stop()
	const asked = 1 << 16
	keys, paths := make([][3]string, asked), make([]core.Path, asked)
	for i := range paths {
		k := rand.IntN(n)
		keys[i] = [3]string{dayOf(k), hourOf(k), nameOf(k)}
		paths[i] = parsed(b, "/w/"+keyOf(k))
	}
	tree, ctx := m.log.Tree(), asAlice(b.Context())
	run := func(name string, do func(*testing.B)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			at := computed(b)
			do(b)
			b.ReportMetric(float64(computed(b)-at)/float64(b.N), "cpu-ns/op")
		})
	}
	run("stat_tree", func(b *testing.B) {
		i := 0
		for b.Loop() {
			k, ok := &keys[i%asked], false
			tree.View(func(v meta.View) {
				_, dir, _ := v.Lookup(meta.RootDir, "w/")
				_, dir, _ = v.Lookup(dir, k[0])
				_, dir, _ = v.Lookup(dir, k[1])
				_, ok = v.Get(dir, k[2])
			})
			if i++; !ok {
				b.Fatal("a name is not found")
			}
		}
	})
	run("stat_namespace", func(b *testing.B) {
		i := 0
		for b.Loop() {
			if _, err := m.ns.Stat(ctx, paths[i%asked]); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
	dir := parsed(b, "/w/")
	run("list_after", func(b *testing.B) {
		for b.Loop() {
			got := 0
			for _, err := range m.ns.List(ctx, dir, core.ListOptions{After: keyOf(rand.IntN(n - 2000)), Limit: 1001}) {
				if err != nil { // must costs more than an entry
					b.Fatal(err)
				}
				got++
			}
			if got != 1001 {
				b.Fatalf("%d names", got)
			}
		}
	})
}

// BenchmarkCreates does what the rows create_… of TestMasters measure, in a form that can be profiled.
func BenchmarkCreates(b *testing.B) {
	server, err := etcd.Start(b.Context(), etcd.ServerOptions{Dir: b.TempDir()})
	must(b, err)
	defer server.Close()
	m := startMaster(b, server.KV(), meta.LogOptions{})
	defer m.stop()
	ctx := asAlice(b.Context())
	_, err = m.ns.Mkdir(ctx, parsed(b, "/c/"), core.MkdirOptions{})
	must(b, err)
	var next atomic.Int64
	for _, how := range []core.WriteType{core.MustCache, core.CacheThrough} {
		b.Run(string(how), func(b *testing.B) {
			b.ReportAllocs()
			at := computed(b)
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range 256 {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						w, err := m.ns.Create(ctx, parsed(b, "/c/"+nameOf(int(next.Add(1)))), core.CreateOptions{WriteType: how})
						if err != nil {
							b.Error(err)
							return
						}
						if _, err := w.Commit(ctx, core.CommitOptions{}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(computed(b)-at)/float64(b.N), "cpu-ns/op")
		})
	}
}
