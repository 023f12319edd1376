package remote_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/etcd"
	"github.com/sluicefs/sluice/ufs/memufs"
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

// BenchmarkNames compares calls that a namespace answers, whose journal is in an etcd that syncs, with echoes of 200 bytes on the same stream,
// in turns. of-echo is their rate for each echo; the target says what it should be.
func BenchmarkNames(b *testing.B) {
	c := dial(b, remote.Options{Addrs: []string{leading(b)}})
	ctx := core.WithPrincipal(b.Context(), core.Principal{User: "ann", Groups: []string{"staff"}, AccessKey: "AKIAIOSFODNN7EXAMPLE"})
	path := func(i int64) core.Path { return mustPath(b, fmt.Sprintf("/warehouse/db/table/part-%08d.parquet", i)) }
	var made atomic.Int64
	create := func(how core.WriteType) func(int) error {
		return func(int) error {
			w, err := c.Create(ctx, path(made.Add(1)-1), core.CreateOptions{MakeParents: true, WriteType: how})
			if err != nil {
				return err
			}
			_, err = w.Commit(ctx, core.CommitOptions{})
			return err
		}
	}
	paths := make([]core.Path, 1024)
	for i := range paths {
		paths[i] = path(int64(i))
		if err := create(core.CacheThrough)(i); err != nil {
			b.Fatal(err)
		}
	}
	body := strings.Repeat("x", 200)
	echo := func(int) error { _, err := c.Echo(ctx, body); return err }
	for _, n := range []int{1, 64, 256} {
		for _, call := range []struct {
			name   string
			target float64
			do     func(i int) error
		}{
			{"stat", 0.70, func(i int) error { _, err := c.Stat(ctx, paths[i%len(paths)]); return err }},
			{"create_held", 0.40, create(core.MustCache)},
			{"create", 0.40, create(core.CacheThrough)},
		} {
			b.Run(fmt.Sprintf("%s/%d", call.name, n), func(b *testing.B) {
				againstEcho(b, n, echo, call.do)
				b.ReportMetric(call.target, "target")
			})
		}
	}
}

// againstEcho has n callers echo and call b.N times each, in turns.
func againstEcho(b *testing.B, n int, echo, call func(i int) error) {
	const turns = 5
	var took, used [2]time.Duration
	for turn := range turns {
		from, to := b.N*turn/turns, b.N*(turn+1)/turns
		for k, do := range []func(i int) error{echo, call} {
			at, cpu := time.Now(), cpuTime(b)
			var wg sync.WaitGroup
			for w := range n {
				wg.Go(func() {
					for i := from + w; i < to; i += n {
						if err := do(i); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			took[k], used[k] = took[k]+time.Since(at), used[k]+cpuTime(b)-cpu
		}
	}
	b.ReportMetric(float64(b.N)/took[1].Seconds(), "calls/s")
	b.ReportMetric(float64(b.N)/took[0].Seconds(), "echoes/s")
	b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "of-echo")
	b.ReportMetric(float64(used[1])/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(used[0])/float64(used[1]), "cpu-of-echo")
}

// leading returns the address of a server of a namespace, as a master has one, with its journal in an etcd of its own.
func leading(b *testing.B) (addr string) {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	store, err := etcd.Start(b.Context(), etcd.ServerOptions{Dir: b.TempDir()})
	must(err)
	b.Cleanup(func() { store.Close() })
	log, err := meta.OpenLog(store.KV(), meta.LogOptions{Group: namespace.JournalGroup, ReadLease: 500 * time.Millisecond})
	must(err)
	must(log.Load(b.Context()))
	must(log.Claim(b.Context()))
	cache := page.NewCache(mempage.New(1<<20), page.CacheOptions{})
	b.Cleanup(func() { cache.Close() })
	ns, err := namespace.Open(b.Context(), namespace.Options{Log: log, Cache: cache, Root: memufs.New(memufs.Options{}), RootMode: 0o777,
		Answer: remote.EncodeAnswer, Holders: holding{}})
	must(err)
	b.Cleanup(func() { ns.Close() })
	ctx, cancel := context.WithCancel(b.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- ns.Run(ctx, func() { close(ready) }) }()
	b.Cleanup(func() { cancel(); <-done })
	select {
	case <-ready:
	case err := <-done:
		b.Fatal(err)
	}
	addr, _ = serve(b, remote.ServerOptions{Tree: ns, Authenticator: users{}, Answers: remote.NewJournaledAnswers(ns), Lease: log.Lease}, 0)
	return addr
}

// holding is a worker that takes all bytes and keeps none.
type holding struct{ bytesHolder }

type bytesHolder interface{ core.Holder }

func (h holding) Choose(int, bool, ...string) []core.Holder     { return []core.Holder{h} }
func (h holding) Holder(name string) (core.Holder, bool)        { return h, name == h.Name() }
func (h holding) All() []core.Holder                            { return nil } // nobody asks it what it has
func (h holding) Leaving() []string                             { return nil }
func (h holding) Name() string                                  { return "w1" }
func (h holding) Release(context.Context, ...core.HeldID) error { return nil }
func (h holding) Hold(context.Context, core.HeldID) (core.HoldWriter, error) {
	return heldNowhere{}, nil
}

type heldNowhere struct{}

func (heldNowhere) Write(p []byte) (int, error)        { return len(p), nil }
func (heldNowhere) Commit(context.Context, bool) error { return nil }
func (heldNowhere) Abort() error                       { return nil }

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
