package namespace_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/nstest"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/localufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// flavour is a kind of under-store. make returns what opens one and the same fresh store any number of times.
type flavour struct {
	name string
	make func(t *testing.T) func() (ufs.Store, error)
}

var flavours = []flavour{
	{"dirs", func(*testing.T) func() (ufs.Store, error) { return same(memufs.New(memufs.Options{Dirs: true})) }},
	{"flat", func(*testing.T) func() (ufs.Store, error) { return same(memufs.New(memufs.Options{})) }},
	{"local", func(t *testing.T) func() (ufs.Store, error) {
		dir := t.TempDir()
		return func() (ufs.Store, error) { return localufs.Open(dir, localufs.Options{}) }
	}},
}

func same(s ufs.Store) func() (ufs.Store, error) {
	return func() (ufs.Store, error) { return s, nil }
}

func TestMounted(t *testing.T) {
	for _, fl := range flavours {
		t.Run(fl.name, func(t *testing.T) {
			t.Parallel()
			nstest.Run(t, func(t *testing.T, o nstest.Options) nstest.Fixture { return open(t, fl, true, memkv.New(), o) })
		})
	}
}

func TestRoot(t *testing.T) {
	for _, fl := range flavours[:2] {
		t.Run(fl.name, func(t *testing.T) {
			t.Parallel()
			nstest.Run(t, func(t *testing.T, o nstest.Options) nstest.Fixture { return open(t, fl, false, memkv.New(), o) })
		})
	}
}

// world is what outlives a namespace: the journal and the stores.
type world struct {
	o     nstest.Options
	kv    meta.KV
	root  func() (ufs.Store, error)
	mu    sync.Mutex
	byURI map[string]func() (ufs.Store, error)
}

// open returns a fixture over fresh stores of the flavour, behind a mount or behind the root.
func open(t *testing.T, fl flavour, mounted bool, kv meta.KV, o nstest.Options) nstest.Fixture {
	w := &world{o: o, kv: kv, root: same(memufs.New(memufs.Options{Dirs: true})), byURI: map[string]func() (ufs.Store, error){}}
	base := "/"
	make := fl.make(t)
	if mounted {
		base = "/m/"
		w.byURI["test://base"] = make
	} else {
		w.root = make
	}
	path, err := core.ParsePath(base)
	if err != nil {
		t.Fatal(err)
	}
	behind, err := make()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { behind.Close() })
	ns, stop := w.start(t)
	t.Cleanup(func() { stop() })
	if mounted {
		interval := time.Duration(0)
		if o.Sync != nil {
			interval = *o.Sync
		}
		root := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
		if _, err := ns.Mount(root, core.MountSpec{Path: path, URI: "test://base", SyncInterval: &interval}); err != nil {
			t.Fatal(err)
		}
	}
	return nstest.Fixture{
		Tree: ns, Base: path, Mounted: mounted, Store: behind,
		Restart: func(t *testing.T) nstest.Tree {
			stop()
			ns, stop = w.start(t)
			return ns
		},
		Spare: func(t *testing.T) (string, ufs.Store) {
			w.mu.Lock()
			defer w.mu.Unlock()
			uri := "test://spare" + fmt.Sprint(len(w.byURI))
			w.byURI[uri] = fl.make(t)
			s, err := w.byURI[uri]()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return uri, s
		},
	}
}

// start opens the namespace and runs it until stop, which is idempotent.
func (w *world) start(t *testing.T) (ns *namespace.Namespace, stop func()) {
	t.Helper()
	kv := w.kv
	if w.o.WrapKV != nil {
		kv = w.o.WrapKV(kv)
	}
	root, err := w.decorated(w.root)
	if err != nil {
		t.Fatal(err)
	}
	var pages page.Store = mempage.New(64 << 20)
	if w.o.NoCache {
		pages = noPages{}
	}
	cache := page.NewCache(pages, page.CacheOptions{})
	ns, err = namespace.Open(context.Background(), namespace.Options{
		KV: kv, Cache: cache, Root: root, OpenStore: w.openStore, Member: "test", SyncInterval: 0, Host: "localhost:9870",
		WatchOpen: time.Nanosecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- ns.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	return ns, sync.OnceFunc(func() {
		cancel()
		<-done
		ns.Close()
		cache.Close()
	})
}

func (w *world) openStore(_ context.Context, uri string, _ map[string]string) (ufs.Store, error) {
	w.mu.Lock()
	open := w.byURI[uri]
	w.mu.Unlock()
	if open == nil {
		return nil, errs.New("test.Open", uri, errs.Invalid, "no such store")
	}
	return w.decorated(open)
}

func (w *world) decorated(open func() (ufs.Store, error)) (ufs.Store, error) {
	s, err := open()
	if err == nil && w.o.Wrap != nil {
		s = w.o.Wrap(s)
	}
	return s, err
}

// noPages keeps nothing.
type noPages struct{}

func (noPages) Get(page.Key) (page.Handle, bool) { return nil, false }
func (noPages) Has(page.Key) bool                { return false }
func (noPages) Put(page.Key, []byte) error {
	return errs.New("test.Put", "", errs.NoSpace, "nothing is kept")
}
func (noPages) Drop(page.Key, uint32, uint32) {}
func (noPages) Close() error                  { return nil }
