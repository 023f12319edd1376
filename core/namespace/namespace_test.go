package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/nstest"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/etcd"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/localufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// flavour is a kind of under-store. make returns what opens one and the same fresh store any number of times.
type flavour struct {
	name string
	make func(t *testing.T) backing
}

// backing is what stays when a store is closed. staged lists the unfinished writes in it; nil if there can be none.
type backing struct {
	open   func() (ufs.Store, error)
	staged func(t *testing.T) []string
}

var flavours = []flavour{
	{"dirs", func(*testing.T) backing { return same(memufs.New(memufs.Options{Dirs: true})) }},
	{"flat", func(*testing.T) backing { return same(memufs.New(memufs.Options{})) }},
	{"local", func(t *testing.T) backing {
		dir := tempDir(t)
		return backing{
			open: func() (ufs.Store, error) { return localufs.Open(dir, localufs.Options{}) },
			staged: func(t *testing.T) (left []string) {
				err := filepath.WalkDir(filepath.Join(dir, ufs.Staging), func(path string, d fs.DirEntry, err error) error {
					if err == nil && !d.IsDir() {
						left = append(left, path)
					}
					return err
				})
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				return left
			},
		}
	}},
}

func same(s ufs.Store) backing {
	return backing{open: func() (ufs.Store, error) { return s, nil }}
}

// tempDir returns a directory in memory if there is a file system for it, where a sync costs nothing; what localufs does on
// disks is for its own tests.
func tempDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "sluice-test-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if unix.Setxattr(dir, "user.sluice.test", nil, 0) != nil {
		return t.TempDir()
	}
	return dir
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

// TestEtcd has the journal in etcd and the bytes in a directory, as a server has.
func TestEtcd(t *testing.T) {
	t.Parallel()
	nstest.RunGroups(t, func(t *testing.T, o nstest.Options) nstest.Fixture {
		s, err := etcd.Start(t.Context(), etcd.ServerOptions{Dir: t.TempDir(), UnsafeNoFsync: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return open(t, flavours[2], true, s.KV(), o)
	}, "Rename", "Uploads", "Mounts", "Restart", "Races")
}

// confirmEmpty is long enough to be seen, and short enough for thousands of tests.
const confirmEmpty = 2 * time.Millisecond

// world is what outlives a namespace: the journal and the stores.
type world struct {
	o     nstest.Options
	kv    meta.KV
	root  backing
	mu    sync.Mutex
	byURI map[string]backing
}

// open returns a fixture over fresh stores of the flavour, behind a mount or behind the root.
func open(t *testing.T, fl flavour, mounted bool, kv meta.KV, o nstest.Options) nstest.Fixture {
	w := &world{o: o, kv: kv, root: same(memufs.New(memufs.Options{Dirs: true})), byURI: map[string]backing{}}
	base := "/"
	store := fl.make(t)
	if mounted {
		base = "/m/"
		w.byURI["test://base"] = store
	} else {
		w.root = store
	}
	path, err := core.ParsePath(base)
	if err != nil {
		t.Fatal(err)
	}
	behind, err := store.open()
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
		Tree: ns, Base: path, Mounted: mounted, Store: behind, Staged: store.staged,
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
			s, err := w.byURI[uri].open()
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
	watch := time.Nanosecond
	if w.o.Watch {
		watch = time.Hour
	}
	var holders core.Holders
	if w.o.Workers != nil {
		holders = w.o.Workers
	}
	ns, err = namespace.Open(context.Background(), namespace.Options{
		Holders: holders, PersistDelay: w.o.Delay, PersistRetry: 20 * time.Millisecond, MaxHeld: w.o.MaxHeld, HoldCare: w.o.Care, ConfirmEmpty: confirmEmpty,
		KV: kv, Cache: cache, Root: root, OpenStore: w.openStore, Member: "test", SyncInterval: 0, Host: "localhost:9870",
		WatchOpen: watch, Settle: 300 * time.Millisecond, FeedRescan: time.Millisecond, FeedLook: time.Millisecond,
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

func (w *world) openStore(_ context.Context, m core.MountSpec) (ufs.Store, error) {
	uri := m.URI
	w.mu.Lock()
	b, ok := w.byURI[uri]
	w.mu.Unlock()
	if !ok {
		return nil, errs.New("test.Open", uri, errs.Invalid, "no such store")
	}
	return w.decorated(b)
}

func (w *world) decorated(b backing) (ufs.Store, error) {
	s, err := b.open()
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
