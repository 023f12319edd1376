package remote_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/remote"
)

// callers runs op from n goroutines, b.N times in all.
func callers(b *testing.B, n int, op func(i int) error) {
	b.Helper()
	b.ReportAllocs()
	var wg sync.WaitGroup
	b.ResetTimer()
	before := cpuTime(b)
	for w := range n {
		wg.Go(func() {
			for i := w; i < b.N; i += n {
				if err := op(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpuTime returns what the process, client and server, has computed so far: what a busy machine does not change.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benched is a file as a namespace describes one.
func benched(p core.Path) core.Info {
	return core.Info{
		Path: p, Name: p.Name(), ID: 12345678, Version: "0123456789abcdef", Size: 1 << 20, ModTime: time.Unix(1_700_000_000, 0),
		AccessTime: time.Unix(1_700_000_000, 0), ETag: "d41d8cd98f00b204e9800998ecf8427e", Owner: "ann", Group: "staff", Mode: 0o644,
		Replication: 1, BlockSize: 128 << 20, Children: -1, Mount: "/warehouse/",
	}
}

// BenchmarkNames compares calls with an echo of as many bytes on the same stream.
func BenchmarkNames(b *testing.B) {
	f := &fake{
		stat: func(_ context.Context, p core.Path) (core.Info, error) { return benched(p), nil },
		create: func(_ context.Context, p core.Path, _ core.CreateOptions) (core.Writer, error) {
			return instant{p}, nil
		},
	}
	addr, _ := serve(b, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	c := dial(b, remote.Options{Addrs: []string{addr}})
	ctx := core.WithPrincipal(b.Context(), core.Principal{User: "ann", Groups: []string{"staff"}, AccessKey: "AKIAIOSFODNN7EXAMPLE"})
	paths := make([]core.Path, 1024)
	for i := range paths {
		paths[i] = mustPath(b, fmt.Sprintf("/warehouse/db/table/part-%05d.parquet", i))
	}
	body := strings.Repeat("x", 200)
	for _, n := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("echo/%d", n), func(b *testing.B) {
			callers(b, n, func(int) error { _, err := c.Echo(ctx, body); return err })
		})
		b.Run(fmt.Sprintf("stat/%d", n), func(b *testing.B) {
			callers(b, n, func(i int) error { _, err := c.Stat(ctx, paths[i%len(paths)]); return err })
		})
		b.Run(fmt.Sprintf("create/%d", n), func(b *testing.B) {
			callers(b, n, func(i int) error {
				w, err := c.Create(ctx, paths[i%len(paths)], core.CreateOptions{Size: 0, MakeParents: true})
				if err != nil {
					return err
				}
				_, err = w.Commit(ctx, core.CommitOptions{})
				return err
			})
		})
	}
}

// instant is a writer that keeps nothing.
type instant struct{ p core.Path }

func (w instant) Write(p []byte) (int, error) { return len(p), nil }
func (w instant) Commit(context.Context, core.CommitOptions) (core.Info, error) {
	return benched(w.p), nil
}
func (w instant) Abort() error { return nil }

// BenchmarkBytes moves bodies of 64 MiB through one stream.
func BenchmarkBytes(b *testing.B) {
	const size = 64 << 20
	data := make([]byte, 1<<20)
	f := &fake{
		open: func(context.Context, core.Path, core.Range) (core.Reader, error) {
			return &fakeReader{Reader: io.LimitReader(endlessReader{}, size), n: size, closed: make(chan struct{})}, nil
		},
		create: func(_ context.Context, p core.Path, _ core.CreateOptions) (core.Writer, error) {
			return instant{p}, nil
		},
	}
	addr, _ := serve(b, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	c := dial(b, remote.Options{Addrs: []string{addr}})
	b.Run("read", func(b *testing.B) {
		b.SetBytes(size)
		b.ReportAllocs()
		for b.Loop() {
			r, err := c.Open(b.Context(), core.Root, core.All)
			if err != nil {
				b.Fatal(err)
			}
			if n, err := r.WriteTo(io.Discard); err != nil || n != size {
				b.Fatal(n, err)
			}
			r.Close()
		}
	})
	b.Run("write", func(b *testing.B) {
		b.SetBytes(size)
		b.ReportAllocs()
		for b.Loop() {
			w, err := c.Create(b.Context(), core.Root, core.CreateOptions{Size: size})
			if err != nil {
				b.Fatal(err)
			}
			for range size / len(data) {
				if _, err := w.Write(data); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := w.Commit(b.Context(), core.CommitOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
