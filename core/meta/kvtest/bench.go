package kvtest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluicefs/sluice/core/meta"
)

// BenchmarkLog measures creates per second of so many callers through l, which must be running.
func BenchmarkLog(b *testing.B, l *meta.Log, callers int) {
	var next atomic.Int64
	total := int64(max(b.N, callers))
	before := l.Stats()
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := next.Add(1); i <= total; i = next.Add(1) {
				_, err := l.Append(b.Context(), meta.Batch{Ops: []meta.Op{{
					Kind: meta.Set, Dir: meta.RootDir, Edge: fmt.Sprintf("image_%08d.jpg", i),
					Entry: meta.Entry{
						Class: meta.Persisted, ID: uint64(i), Rev: uint64(i), Size: 4096, MTime: 1 << 60, Mode: 0o644,
						ETag: "0123456789abcdef0123456789abcdef", Owner: "hadoop", Group: "hadoop",
					},
				}}})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	s := l.Stats()
	b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "creates/s")
	b.ReportMetric(float64(s.Batches-before.Batches)/float64(s.Records-before.Records), "creates/record")
	b.ReportMetric(float64(s.Bytes-before.Bytes)/float64(total), "bytes/create")
}
