package meta_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	. "github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/etcd"
)

var benchEntries = flag.Int("checkpoint.entries", 1_000_000, "files of the checkpoint benchmarks")

// BenchmarkCheckpoint stores a tree in an embedded etcd and loads it again. It reports the bytes that the database holds per
// entry, in use and as a file, after the first checkpoint and after passes over random changes, and what the steps take.
func BenchmarkCheckpoint(b *testing.B) {
	n := *benchEntries
	for _, perDir := range []int{2, 100, 1000} {
		b.Run(fmt.Sprintf("perDir=%d", perDir), func(b *testing.B) {
			for b.Loop() {
				checkpointOnce(b, n, perDir)
			}
		})
	}
}

func checkpointOnce(b *testing.B, n, perDir int) {
	dir := b.TempDir()
	s, err := etcd.Start(b.Context(), etcd.ServerOptions{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { s.Close() }()
	l, _ := open(b, s.KV(), LogOptions{})
	l.Adopt(RealTree(n, perDir))
	entries := float64(l.Tree().Len())
	c, err := NewCheckpointer(l, 256)
	if err != nil {
		b.Fatal(err)
	}
	step := func(name string, do func() error) {
		start := time.Now()
		if err := do(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(start).Seconds(), name)
	}
	step("first-s", func() error { return c.Pass(b.Context()) })
	page, total, count, from := Page{More: true}, 0, 0, "g/g/p/"
	for page.More {
		if page, err = s.KV().Scan(b.Context(), from, "g/g/p0", 500); err != nil {
			b.Fatal(err)
		}
		for _, kv := range page.KVs {
			total += len(kv.Key) + len(kv.Value)
			count++
			from = kv.Key + "\x00"
		}
	}
	b.ReportMetric(float64(total)/entries, "page-B/entry")
	b.ReportMetric(float64(count), "pages")
	b.ReportMetric(dbSize(b, dir)/entries, "db-B/entry")
	for range 5 {
		l.Touch(n / 100)
		step("touched-s", func() error { return c.Pass(b.Context()) })
	}
	b.ReportMetric(dbSize(b, dir)/entries, "db-touched-B/entry")
	runtime.GC()
	again, err := OpenLog(s.KV(), LogOptions{Group: "g"})
	if err != nil {
		b.Fatal(err)
	}
	step("load-s", func() error { return again.Load(b.Context()) })
	if again.Tree().Len() != l.Tree().Len() {
		b.Fatalf("loaded %d of %d", again.Tree().Len(), l.Tree().Len())
	}
	b.ReportMetric(float64(again.Tree().Bytes())/entries, "loaded-B/entry")
}

// dbSize returns the size of etcd's database file in bytes, those never written left out.
func dbSize(b *testing.B, dir string) float64 {
	info, err := os.Stat(filepath.Join(dir, "member", "snap", "db"))
	if err != nil {
		b.Fatal(err)
	}
	return float64(info.Size())
}
