package namespace_test

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// gauge counts the calls that are under way at once.
type gauge struct {
	mu        sync.Mutex
	now, most int
}

func (g *gauge) begin() (end func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now++
	g.most = max(g.most, g.now)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.now--
	}
}

// gauged is a store each of whose listings and looks takes a second.
type gauged struct {
	*wrap.Faulty
	lists, stats *gauge
}

func (s gauged) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	return func(yield func(ufs.Info, error) bool) {
		defer s.lists.begin()()
		s.Faulty.List(ctx, dir, after, flat)(yield)
	}
}

func (s gauged) Stat(ctx context.Context, name string) (ufs.Info, error) {
	if strings.HasSuffix(name, "/f") {
		defer s.stats.begin()()
	}
	return s.Faulty.Stat(ctx, name)
}

// nobody is told what a sync finds.
type nobody struct{ t *testing.T }

func (nobody) Compared(int64, int64)              {}
func (nobody) Differs(core.SyncChange, core.Path) {}
func (w nobody) Failed(p core.Path, err error)    { w.t.Errorf("%v: %v", p, err) }
func (nobody) Resumed(time.Time)                  {}

// TestSyncPools syncs mounts whose stores are slow: at most so many of their directories are listed, or compared, at once as the
// option that is meant says, and as many. Each of the other options alone would allow more.
func TestSyncPools(t *testing.T) {
	const dirs = 20
	for name, what := range map[string]struct {
		o             namespace.SyncOptions
		mounts, syncs int
		stats         bool // what is under way are looks at names that differ
		most          int
	}{
		"directories of one sync":              {o: namespace.SyncOptions{Concurrency: 3, Executors: 50, Prefetch: 50}, mounts: 4, syncs: 1, most: 3},
		"directories of one store":             {o: namespace.SyncOptions{Concurrency: 3, Executors: 50, Prefetch: 50}, mounts: 1, syncs: 3, most: 3},
		"listings ahead of what compares them": {o: namespace.SyncOptions{Concurrency: 16, Executors: 50, Prefetch: 5}, mounts: 4, syncs: 1, most: 5},
		"listings ahead, of two syncs":         {o: namespace.SyncOptions{Concurrency: 16, Executors: 50, Prefetch: 5}, mounts: 4, syncs: 2, most: 5},
		"listings that are compared":           {o: namespace.SyncOptions{Concurrency: 16, Executors: 2, Prefetch: 50}, mounts: 4, syncs: 1, stats: true, most: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
				lists, stats := new(gauge), new(gauge)
				stores := map[string]ufs.Store{}
				var slow []*wrap.Faulty
				n, stop := leading(t, 1<<20, namespace.Options{KV: memkv.New(), Root: memufs.New(memufs.Options{Dirs: true}), Sync: what.o,
					OpenStore: func(_ context.Context, m core.MountSpec) (ufs.Store, error) {
						store := memufs.New(memufs.Options{Dirs: true})
						s := gauged{wrap.Fault(store), lists, stats}
						stores[m.URI], slow = store, append(slow, s.Faulty)
						return s, nil
					}})
				defer stop()
				never := time.Duration(-1)
				for i := range what.mounts {
					at := fmt.Sprintf("/m%d", i)
					if _, err := n.Mount(ctx, core.MountSpec{Path: parse(t, at), URI: "test://" + at, SyncInterval: &never}); err != nil {
						t.Fatal(err)
					}
					for j := range dirs {
						w, err := n.Create(ctx, parse(t, fmt.Sprintf("%s/%d/f", at, j)), core.CreateOptions{MakeParents: true})
						if err != nil {
							t.Fatal(err)
						}
						if _, err := w.Commit(ctx, core.CommitOptions{}); err != nil {
							t.Fatal(err)
						}
						if _, err := ufs.WriteFile(ctx, stores["test://"+at], fmt.Sprintf("%d/f", j), []byte("changed"), ufs.CreateOptions{}); err != nil {
							t.Fatal(err)
						}
					}
				}
				for _, s := range slow {
					s.Add(wrap.Rule{Op: wrap.List, Delay: time.Second})
					s.Add(wrap.Rule{Op: wrap.Stat, Delay: time.Second})
				}
				lists.most, stats.most = 0, 0
				var all sync.WaitGroup
				for range what.syncs {
					all.Go(func() {
						if err := n.Sync(ctx, parse(t, "/"), core.SyncOptions{Recursive: true}, nobody{t}); err != nil {
							t.Error(err)
						}
					})
				}
				all.Wait()
				got := lists.most
				if what.stats {
					got = stats.most
				}
				if got != what.most {
					t.Errorf("%d were under way at once, want %d (%d listings, %d looks)", got, what.most, lists.most, stats.most)
				}
				for i := range what.mounts {
					for j := range dirs {
						if x, err := n.Stat(ctx, parse(t, fmt.Sprintf("/m%d/%d/f", i, j))); err != nil || x.Size != int64(len("changed")) {
							t.Errorf("a file that was changed is %+v, %v", x, err)
						}
					}
				}
			})
		})
	}
}

// computing is a store that takes its time to answer a listing, and then has it decoded for as long as it says.
type computing struct {
	ufs.Store
	answer, decode time.Duration
	waits, works   *gauge
	turn           *longest
}

// longest is how long something took at most.
type longest struct{ d atomic.Int64 }

func (x *longest) took(d time.Duration) {
	for was := x.d.Load(); int64(d) > was && !x.d.CompareAndSwap(was, int64(d)); was = x.d.Load() {
	}
}

func (s computing) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	return func(yield func(ufs.Info, error) bool) {
		end := s.waits.begin()
		time.Sleep(s.answer)
		end()
		asked := time.Now()
		give := ufs.Turn(ctx)
		s.turn.took(time.Since(asked))
		end = s.works.begin()
		time.Sleep(s.decode)
		end()
		give()
		s.Store.List(ctx, dir, after, flat)(yield)
	}
}

// computed returns a namespace of a leader with four processors, and its mounts /m0, /m1 and so on of computing stores, each with so many
// directories of a file.
func computed(t *testing.T, o namespace.SyncOptions, mounts, dirs int, store computing) (*namespace.Namespace, context.Context) {
	t.Helper()
	procs := runtime.GOMAXPROCS(4)
	t.Cleanup(func() { runtime.GOMAXPROCS(procs) })
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	n, stop := leading(t, 1<<20, namespace.Options{KV: memkv.New(), Root: memufs.New(memufs.Options{Dirs: true}), Sync: o,
		OpenStore: func(context.Context, core.MountSpec) (ufs.Store, error) {
			s := store
			s.Store = memufs.New(memufs.Options{Dirs: true})
			for i := range dirs {
				if _, err := ufs.Mkdir(ctx, s.Store, fmt.Sprintf("%d/", i), ufs.Attr{}); err != nil {
					return nil, err
				}
				if _, err := ufs.WriteFile(ctx, s.Store, fmt.Sprintf("%d/f", i), []byte("x"), ufs.CreateOptions{}); err != nil {
					return nil, err
				}
			}
			return s, nil
		}})
	t.Cleanup(stop)
	for i := range mounts {
		at, never := fmt.Sprintf("/m%d", i), time.Duration(-1)
		if _, err := n.Mount(ctx, core.MountSpec{Path: parse(t, at), URI: "test://" + at, SyncInterval: &never}); err != nil {
			t.Fatal(err)
		}
	}
	return n, ctx
}

// TestSyncTurns syncs mounts whose listings take long to come and some time to decode: no more are decoded at once than there are processors
// for syncs, while many more are waited for. What a request asks for is decoded at once.
func TestSyncTurns(t *testing.T) {
	const turns = 2 // of four processors
	synctest.Test(t, func(t *testing.T) {
		store := computing{answer: time.Second, decode: 10 * time.Millisecond, waits: new(gauge), works: new(gauge), turn: new(longest)}
		n, ctx := computed(t, namespace.SyncOptions{}, 4, 20, store)
		store.waits.most, store.works.most = 0, 0
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				if err := n.Sync(ctx, parse(t, fmt.Sprintf("/m%d/", i)), core.SyncOptions{Recursive: true}, nobody{t}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if store.works.most != turns || store.waits.most <= 2*turns {
			t.Errorf("%d listings were decoded at once, want %d; %d were waited for at once", store.works.most, turns, store.waits.most)
		}
		all.Go(func() {
			if err := n.Sync(ctx, parse(t, "/m0/"), core.SyncOptions{Recursive: true}, nobody{t}); err != nil {
				t.Error(err)
			}
		})
		for i := range 5 {
			began, names := time.Now(), 0
			for _, err := range n.List(ctx, parse(t, fmt.Sprintf("/m3/%d/", i)), core.ListOptions{Children: true}) {
				if err != nil {
					t.Error(err)
				}
				names++
			}
			if took := time.Since(began); took != store.answer+store.decode || names != 1 {
				t.Errorf("a listing of %d names, for a request, took %v, want %v", names, took, store.answer+store.decode)
			}
		}
		all.Wait()
	})
}

// TestSyncTurnWaits syncs a mount whose listings take very long to decode: a driver, which others that want its store may wait for, waits
// for a turn for a moment only. A gentle sync waits for none.
func TestSyncTurnWaits(t *testing.T) {
	const most = 100 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		store := computing{decode: time.Second, waits: new(gauge), works: new(gauge), turn: new(longest)}
		n, ctx := computed(t, namespace.SyncOptions{Executors: 50}, 2, 20, store)
		gentle := func() time.Duration {
			began := time.Now()
			if err := n.Sync(ctx, parse(t, "/m1/"), core.SyncOptions{Recursive: true, Gentle: true}, nobody{t}); err != nil {
				t.Error(err)
			}
			return time.Since(began)
		}
		gentle()
		alone := gentle()
		var all sync.WaitGroup
		all.Go(func() {
			if err := n.Sync(ctx, parse(t, "/m0/"), core.SyncOptions{Recursive: true}, nobody{t}); err != nil {
				t.Error(err)
			}
		})
		if took := gentle(); took != alone {
			t.Errorf("a gentle sync took %v beside another, and %v alone", took, alone)
		}
		all.Wait()
		if waited := time.Duration(store.turn.d.Load()); waited != most {
			t.Errorf("a driver waited for a turn for %v, want %v", waited, most)
		}
	})
}

// TestSyncRests syncs a mount whose listings take long to decode, while requests come and while none do: they have the processors for
// most of the time.
func TestSyncRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ctx := computed(t, namespace.SyncOptions{}, 1, 100, computing{decode: 10 * time.Millisecond, waits: new(gauge), works: new(gauge), turn: new(longest)})
		file, own := parse(t, "/m0/7/f"), parse(t, "/own")
		w, err := n.Create(ctx, own, core.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(ctx, core.CommitOptions{}); err != nil {
			t.Fatal(err)
		}
		sync := func() time.Duration {
			began := time.Now()
			if err := n.Sync(ctx, parse(t, "/m0/"), core.SyncOptions{Recursive: true}, nobody{t}); err != nil {
				t.Error(err)
			}
			return time.Since(began)
		}
		sync()
		alone := sync()
		for name, request := range map[string]func() error{
			"Stat": func() error { _, err := n.Stat(ctx, own); return err },
			"List": func() (err error) {
				for _, err = range n.List(ctx, file.Parent(), core.ListOptions{Children: true}) {
				}
				return err
			},
			"Open": func() error {
				r, err := n.Open(ctx, file, core.Range{})
				if err == nil {
					err = r.Close()
				}
				return err
			},
		} {
			time.Sleep(time.Second)
			sync() // it may rest for the last request, if that came after it
			if took := sync(); took > alone+alone/10 {
				t.Errorf("before %s the sync took %v, and %v the last time", name, took, alone)
			}
			done := make(chan time.Duration)
			go func() { done <- sync() }()
			var took time.Duration
			for took == 0 {
				if err := request(); err != nil {
					t.Fatal(err)
				}
				select {
				case took = <-done:
				case <-time.After(5 * time.Millisecond):
				}
			}
			if took < 6*alone || took > 10*alone {
				t.Errorf("beside %s the sync took %v, and alone %v, want about eight times", name, took, alone)
			}
		}
	})
}

// TestDeletesAreSeen removes files behind the namespace, one of several and then all that a directory had. One is gone at the next look
// that the interval has at the store. A directory that is empty all at once is listed twice, a second apart, and is so within two seconds
// of when it was to be looked at. A flat store has no other directory than its root that can be empty.
func TestDeletesAreSeen(t *testing.T) {
	const confirm, within, poll = time.Second, 2 * time.Second, 100 * time.Millisecond
	for _, interval := range []time.Duration{0, 10 * time.Second} {
		for _, dirs := range []bool{false, true} {
			at, at1, listings := "d/", "/m/d/", 2
			if !dirs {
				at, at1, listings = "", "/m/", 3 // with a look at the root
			}
			t.Run(fmt.Sprint("interval ", interval, " dirs ", dirs), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
					store := memufs.New(memufs.Options{Dirs: dirs})
					seen := &timed{Faulty: wrap.Fault(store), when: map[string][]time.Time{}}
					n, stop := leading(t, 1<<20, namespace.Options{KV: memkv.New(), Root: memufs.New(memufs.Options{Dirs: true}),
						OpenStore: func(context.Context, core.MountSpec) (ufs.Store, error) { return seen, nil }})
					defer stop()
					if _, err := n.Mount(ctx, core.MountSpec{Path: parse(t, "/m"), URI: "test://m", SyncInterval: &interval}); err != nil {
						t.Fatal(err)
					}
					put := func(name string) {
						if _, err := ufs.WriteFile(ctx, store, name, []byte("x"), ufs.CreateOptions{}); err != nil {
							t.Fatal(err)
						}
					}
					remove := func(name string) {
						if err := store.Remove(ctx, name, ""); err != nil {
							t.Fatal(err)
						}
					}
					list := func() (all []string) {
						for i, err := range n.List(ctx, parse(t, at1), core.ListOptions{}) {
							if errs.KindOf(err) == errs.NotExist {
								return nil
							}
							if err != nil {
								t.Fatal(err)
							}
							all = append(all, i.Path.String())
						}
						return all
					}
					// until asks again and again, and returns how long it took until the answer was right.
					until := func(what string, most time.Duration, ok func() bool) {
						t.Helper()
						began := time.Now()
						for time.Sleep(poll); !ok(); time.Sleep(poll) {
						}
						if took := time.Since(began); took > most+poll {
							t.Errorf("%s: that took %v, want no more than %v", what, took, most)
						}
					}
					there := func(name string) bool {
						_, err := n.Stat(ctx, parse(t, name))
						if err != nil && errs.KindOf(err) != errs.NotExist {
							t.Fatal(err)
						}
						return err == nil
					}
					for _, name := range []string{"a", "b", "c", "e"} {
						put(at + name)
					}
					if got := len(list()); got != 4 || !there(at1+"a") {
						t.Fatalf("%d names are listed", got)
					}
					remove(at + "a")
					until("a file that was removed, by its name", interval, func() bool { return !there(at1 + "a") })
					list()
					remove(at + "b")
					until("a file that was removed, in the listing", interval, func() bool { return len(list()) == 2 })
					remove(at + "c")
					remove(at + "e")
					seen.reset()
					until("a directory that is empty all at once", interval+within, func() bool { return len(list()) == 0 })
					looks := seen.at(at)
					if len(looks) != listings || looks[len(looks)-1].Sub(looks[0]) < confirm {
						t.Errorf("it was listed at %v, want %d times and %v apart", looks, listings, confirm)
					}
					for _, name := range []string{"c", "e"} {
						if there(at1 + name) {
							t.Errorf("%s is there", name)
						}
					}
				})
			})
		}
	}
}

// timed notes when a directory is listed.
type timed struct {
	*wrap.Faulty
	mu   sync.Mutex
	when map[string][]time.Time
}

func (s *timed) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	s.mu.Lock()
	s.when[dir] = append(s.when[dir], time.Now())
	s.mu.Unlock()
	return s.Faulty.List(ctx, dir, after, flat)
}

func (s *timed) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.when = map[string][]time.Time{}
}

func (s *timed) at(dir string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.when[dir]
}
