package remote_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// reigns are leaders that follow each other over one journal and one store, behind one address.
type reigns struct {
	t     *testing.T
	kv    meta.KV
	store ufs.Store
	p     *proxy
	term  atomic.Int32
	mu    sync.Mutex
	ns    *namespace.Namespace // of the last one
	addr  string               // of its server
	loses atomic.Pointer[func()]
	steps atomic.Pointer[func(op wrap.Op)] // is told of the store's
}

func newReigns(t *testing.T, store ufs.Store) *reigns {
	r := &reigns{t: t, kv: memkv.New()}
	r.store = wrap.Observe(store, func(e wrap.Event) {
		if told := r.steps.Load(); told != nil && e.Err == nil && e.Op.Changes() {
			(*told)(e.Op)
		}
	})
	addr := r.next()
	r.p = newProxy(t, addr)
	return r
}

// lost is called when a change was made and before it is answered.
func (r *reigns) lost() {
	if f := r.loses.Swap(nil); f != nil {
		(*f)()
	}
}

// succeed has another process lead.
func (r *reigns) succeed() {
	next := r.next()
	r.p.target.Store(&next)
}

func (r *reigns) last() *namespace.Namespace {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ns
}

// next has another process claim the journal, while the one before still believes that it leads, and returns its address.
func (r *reigns) next() (addr string) {
	r.t.Helper()
	cache := page.NewCache(mempage.New(8<<20), page.CacheOptions{})
	log, err := meta.OpenLog(r.kv, meta.LogOptions{Group: namespace.JournalGroup, Member: "test", CheckpointEvery: time.Millisecond})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := log.Claim(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	ns, err := namespace.Open(r.t.Context(), namespace.Options{
		Log: log, Cache: cache, Root: r.store, Member: "test", Host: "localhost:9870", Answer: remote.EncodeAnswer,
		RootMode: 0o777, Settle: 300 * time.Millisecond,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- ns.Run(ctx, func() { close(ready) }) }()
	within(r.t, "the reign", ready)
	term := r.term.Add(1)
	addr, stop := serve(r.t, remote.ServerOptions{
		Tree: losing{ns, r}, Authenticator: users{}, Answers: remote.NewJournaledAnswers(ns),
		Lease: func(context.Context) error {
			if r.term.Load() != term {
				r.mu.Lock()
				defer r.mu.Unlock()
				return &remote.NotLeaderError{Leader: r.addr}
			}
			return nil
		},
	}, 0)
	r.t.Cleanup(sync.OnceFunc(func() {
		cancel()
		<-done
		stop()
		ns.Close()
		cache.Close()
	}))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ns, r.addr = ns, addr
	return addr
}

// losing is a namespace that tells of the changes made.
type losing struct {
	*namespace.Namespace
	r *reigns
}

func (l losing) Create(ctx context.Context, p core.Path, o core.CreateOptions) (core.Writer, error) {
	w, err := l.Namespace.Create(ctx, p, o)
	if err != nil {
		return nil, err
	}
	return losingWriter{w, l.r}, nil
}

func (l losing) PutPart(ctx context.Context, p core.Path, id string, number int, size int64) (core.Writer, error) {
	w, err := l.Namespace.PutPart(ctx, p, id, number, size)
	if err != nil {
		return nil, err
	}
	return losingWriter{w, l.r}, nil
}

type losingWriter struct {
	core.Writer
	r *reigns
}

func (l losingWriter) Commit(ctx context.Context, o core.CommitOptions) (core.Info, error) {
	defer l.r.lost()
	return l.Writer.Commit(ctx, o)
}

func (l losing) Rename(ctx context.Context, src, dst core.Path, o core.RenameOptions) error {
	defer l.r.lost()
	return l.Namespace.Rename(ctx, src, dst, o)
}

func (l losing) Remove(ctx context.Context, p core.Path, o core.RemoveOptions) error {
	defer l.r.lost()
	return l.Namespace.Remove(ctx, p, o)
}

func (l losing) Mkdir(ctx context.Context, p core.Path, o core.MkdirOptions) (core.Info, error) {
	defer l.r.lost()
	return l.Namespace.Mkdir(ctx, p, o)
}

func (l losing) Copy(ctx context.Context, src, dst core.Path, o core.CopyOptions) (core.Info, error) {
	defer l.r.lost()
	return l.Namespace.Copy(ctx, src, dst, o)
}

func (l losing) Compose(ctx context.Context, dst core.Path, parts []core.Path) (core.Info, error) {
	defer l.r.lost()
	return l.Namespace.Compose(ctx, dst, parts)
}

func (l losing) CreateUpload(ctx context.Context, p core.Path, o core.CreateOptions) (string, error) {
	defer l.r.lost()
	return l.Namespace.CreateUpload(ctx, p, o)
}

func (l losing) AbortUpload(ctx context.Context, p core.Path, id string) error {
	defer l.r.lost()
	return l.Namespace.AbortUpload(ctx, p, id)
}

// once are the changes that must not be made twice. make may leave names for change, which is made once; there is what it
// leaves.
var once = []struct {
	name         string
	make, change func(f *asked) (core.Info, error)
	there        string
}{
	{"create new", nil, func(f *asked) (core.Info, error) {
		return f.put("/d/new", "data", core.CreateOptions{Mode: core.CreateNew})
	}, "/d/new"},
	{"create new with a stream", nil, func(f *asked) (core.Info, error) {
		return f.put("/d/large", strings.Repeat("x", remote.SmallWrite+1), core.CreateOptions{Mode: core.CreateNew})
	}, "/d/large"},
	{"put where nothing is", nil, func(f *asked) (core.Info, error) {
		return f.put("/cond", "data", core.CreateOptions{Cond: core.Cond{IfNoneMatch: "*"}})
	}, "/cond"},
	{"append", func(f *asked) (core.Info, error) { return f.put("/tail", "one", core.CreateOptions{}) },
		func(f *asked) (core.Info, error) {
			return f.sized(7)(f.put("/tail", " two", core.CreateOptions{Mode: core.Append}))
		}, "/tail"},
	{"rename a file", func(f *asked) (core.Info, error) { return f.put("/from", "data", core.CreateOptions{}) },
		func(f *asked) (core.Info, error) {
			return core.Info{}, f.c.Rename(f.ctx, mustPath(f.t, "/from"), mustPath(f.t, "/to"), core.RenameOptions{})
		}, "/to"},
	{"rename a directory", func(f *asked) (core.Info, error) { return f.put("/a/b/c", "data", core.CreateOptions{}) },
		func(f *asked) (core.Info, error) {
			return core.Info{}, f.c.Rename(f.ctx, mustPath(f.t, "/a/b/"), mustPath(f.t, "/a/z/"), core.RenameOptions{})
		}, "/a/z/c"},
	{"remove", func(f *asked) (core.Info, error) { return f.put("/gone", "data", core.CreateOptions{}) },
		func(f *asked) (core.Info, error) {
			return core.Info{}, f.c.Remove(f.ctx, mustPath(f.t, "/gone"), core.RemoveOptions{})
		}, ""},
	{"remove a tree", func(f *asked) (core.Info, error) { return f.put("/tree/of/files", "data", core.CreateOptions{}) },
		func(f *asked) (core.Info, error) {
			return core.Info{}, f.c.Remove(f.ctx, mustPath(f.t, "/tree/"), core.RemoveOptions{Recursive: true})
		}, ""},
	{"make a directory", nil, func(f *asked) (core.Info, error) {
		return f.c.Mkdir(f.ctx, mustPath(f.t, "/dir/"), core.MkdirOptions{MakeParents: true})
	}, "/dir/"},
	{"copy", func(f *asked) (core.Info, error) { return f.put("/source", "data", core.CreateOptions{}) },
		func(f *asked) (core.Info, error) {
			return f.c.Copy(f.ctx, mustPath(f.t, "/source"), mustPath(f.t, "/copy"), core.CopyOptions{Dest: core.Cond{IfNoneMatch: "*"}})
		}, "/copy"},
	{"compose", func(f *asked) (core.Info, error) {
		_, err1 := f.put("/whole", "1", core.CreateOptions{})
		_, err2 := f.put("/part", "2", core.CreateOptions{})
		return core.Info{}, errors.Join(err1, err2)
	}, func(f *asked) (core.Info, error) {
		return f.sized(2)(f.c.Compose(f.ctx, mustPath(f.t, "/whole"), []core.Path{mustPath(f.t, "/part")}))
	}, "/whole"},
	{"begin an upload", nil, func(f *asked) (core.Info, error) {
		id, err := f.c.CreateUpload(f.ctx, mustPath(f.t, "/up"), core.CreateOptions{})
		if err == nil {
			err = f.c.AbortUpload(f.ctx, mustPath(f.t, "/up"), id) // which the next leader knows
		}
		return core.Info{}, err
	}, ""},
	{"write a part", func(f *asked) (_ core.Info, err error) {
		f.id, err = f.c.CreateUpload(f.ctx, mustPath(f.t, "/up"), core.CreateOptions{})
		return core.Info{}, err
	}, func(f *asked) (core.Info, error) {
		w, err := f.c.PutPart(f.ctx, mustPath(f.t, "/up"), f.id, 1, 4)
		return f.sized(4)(f.write(w, err, "part"))
	}, ""},
	{"abort an upload", func(f *asked) (_ core.Info, err error) {
		f.id, err = f.c.CreateUpload(f.ctx, mustPath(f.t, "/up"), core.CreateOptions{})
		return core.Info{}, err
	}, func(f *asked) (core.Info, error) {
		return core.Info{}, f.c.AbortUpload(f.ctx, mustPath(f.t, "/up"), f.id)
	}, ""},
}

// asked is a client, with what its calls need.
type asked struct {
	t   *testing.T
	ctx context.Context
	c   *remote.Client
	id  string
}

func (f *asked) put(name, data string, o core.CreateOptions) (core.Info, error) {
	o.Size, o.MakeParents = int64(len(data)), true
	w, err := f.c.Create(f.ctx, mustPath(f.t, name), o)
	return f.write(w, err, data)
}

func (f *asked) write(w core.Writer, err error, data string) (core.Info, error) {
	if err != nil {
		return core.Info{}, err
	}
	if _, err := io.WriteString(w, data); err != nil {
		return core.Info{}, err
	}
	return w.Commit(f.ctx, core.CommitOptions{})
}

// sized returns what requires an answer to be of a file of so many bytes.
func (f *asked) sized(n int64) func(i core.Info, err error) (core.Info, error) {
	return func(i core.Info, err error) (core.Info, error) {
		if err == nil && i.Size != n {
			f.t.Errorf("the answer tells of %d bytes, want %d", i.Size, n)
		}
		return i, err
	}
}

// TestAnotherReign has leaders lost with changes that they have made, and not answered or not even journaled as made: who
// asks the next leader again gets the one answer that there is.
func TestAnotherReign(t *testing.T) {
	for _, how := range []struct {
		name string
		lose func(r *reigns, made chan<- struct{})
	}{
		{"the answer", func(r *reigns, made chan<- struct{}) {
			lose := func() { r.p.deaf.Store(true); made <- struct{}{} }
			r.loses.Store(&lose)
		}},
		{"the outcome", func(r *reigns, made chan<- struct{}) {
			step := func(op wrap.Op) {
				switch op {
				case wrap.Commit, wrap.Rename, wrap.Remove, wrap.RemoveFiles, wrap.Trash, wrap.Mkdir, wrap.Copy, wrap.Begin, wrap.Cancel:
					r.steps.Store(nil)
					made <- struct{}{}
					r.succeed()
				}
			}
			r.steps.Store(&step)
		}},
	} {
		for _, dirs := range []bool{true, false} {
			for _, k := range once {
				t.Run(fmt.Sprintf("%s/dirs=%v/%s", how.name, dirs, k.name), func(t *testing.T) {
					t.Parallel()
					r := newReigns(t, memufs.New(memufs.Options{Dirs: dirs}))
					f := &asked{t: t, ctx: asRoot(t.Context()), c: dial(t, remote.Options{Addrs: []string{r.p.addr()}})}
					if k.make != nil {
						if _, err := k.make(f); err != nil {
							t.Fatal(err)
						}
					}
					made := make(chan struct{}, 1)
					how.lose(r, made)
					type result struct {
						i   core.Info
						err error
					}
					got := make(chan result, 1)
					go func() { i, err := k.change(f); got <- result{i, err} }()
					select {
					case <-made:
						if how.name == "the answer" {
							r.succeed()
							r.p.heal()
						}
					case res := <-got:
						if res.err == nil && how.name == "the outcome" {
							t.Skip("the change takes no step in this store")
						}
						t.Fatalf("nothing was lost: got %v", res.err)
					}
					res := within(t, "the caller", got)
					if res.err != nil {
						t.Fatalf("got %v", res.err)
					}
					if k.there == "" {
						return
					}
					i, err := r.last().Stat(f.ctx, mustPath(t, k.there))
					if err != nil {
						t.Fatal(err)
					}
					if a := res.i; a.Name != "" && (a.ETag != i.ETag || a.Version != i.Version || a.Size != i.Size || a.ID != i.ID) {
						t.Errorf("the answer is of %+v, and there is %+v", a, i)
					}
				})
			}
		}
	}
}
