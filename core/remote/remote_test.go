package remote_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/nstest"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/localufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println(err.Error())
			return 1
		}
	}
	return code
}

// backing is what stays when a store is closed. staged lists the unfinished writes in it; nil if there can be none.
type backing struct {
	open   func() (ufs.Store, error)
	staged func(t *testing.T) []string
}

func inMemory(dirs bool) func(t *testing.T) backing {
	return func(*testing.T) backing {
		s := memufs.New(memufs.Options{Dirs: dirs})
		return backing{open: func() (ufs.Store, error) { return s, nil }}
	}
}

func inDirectory(t *testing.T) backing {
	dir := t.TempDir()
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
}

// TestSuite runs the suite of core.Namespace over a connection.
func TestSuite(t *testing.T) {
	for _, c := range []struct {
		name    string
		store   func(t *testing.T) backing
		page    int      // entries of a page of a listing; 0: the default
		groups  []string // none: all
		workers int
	}{
		{"dirs", inMemory(true), 0, nil, 0},
		{"workers", inMemory(true), 0, []string{"Open", "Create", "Append", "Copy", "Rename", "Uploads", "Behind", "Safety", "Restart"}, 2},
		// Beside what is above, these show pages that end anywhere, and bytes that an end of a writer leaves behind.
		{"small pages", inMemory(false), 2, []string{"List", "ListModel", "Uploads", "Mkdir", "Remove", "Rename", "Races"}, 0},
		{"local", inDirectory, 0, []string{"Create", "Append", "Uploads"}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			nstest.RunGroups(t, func(t *testing.T, o nstest.Options) nstest.Fixture { return open(t, c.store, c.page, c.workers, o) }, c.groups...)
		})
	}
}

// world is what outlives a namespace: the journal and the stores.
type world struct {
	o       nstest.Options
	kv      meta.KV
	page    int
	workers int
	root    ufs.Store
	mu      sync.Mutex
	byURI   map[string]backing
}

// open returns a fixture over a fresh store behind a mount, and a client and a server before it.
func open(t *testing.T, store func(t *testing.T) backing, page, workers int, o nstest.Options) nstest.Fixture {
	back := store(t)
	w := &world{
		o: o, kv: memkv.New(), page: page, workers: workers, root: memufs.New(memufs.Options{Dirs: true}),
		byURI: map[string]backing{"test://base": back},
	}
	behind := mustOpen(t, back)
	base := mustPath(t, "/m/")
	tree, stop := w.start(t)
	t.Cleanup(func() { stop() })
	interval := time.Duration(0)
	if o.Sync != nil {
		interval = *o.Sync
	}
	if _, err := tree.Mount(asRoot(t.Context()), core.MountSpec{Path: base, URI: "test://base", SyncInterval: &interval}); err != nil {
		t.Fatal(err)
	}
	return nstest.Fixture{
		Tree: tree, Base: base, Mounted: true, Store: behind, Staged: back.staged,
		Restart: func(t *testing.T) nstest.Tree {
			stop()
			tree, stop = w.start(t)
			return tree
		},
		Spare: func(t *testing.T) (string, ufs.Store) {
			w.mu.Lock()
			defer w.mu.Unlock()
			uri := "test://spare" + string(rune('a'+len(w.byURI)))
			w.byURI[uri] = store(t)
			return uri, mustOpen(t, w.byURI[uri])
		},
	}
}

func mustOpen(t *testing.T, b backing) ufs.Store {
	t.Helper()
	s, err := b.open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (w *world) openStore(_ context.Context, m core.MountSpec) (ufs.Store, error) {
	w.mu.Lock()
	b, ok := w.byURI[m.URI]
	w.mu.Unlock()
	if !ok {
		return nil, errs.New("test.Open", m.URI, errs.Invalid, "no such store")
	}
	s, err := b.open()
	if err != nil {
		return nil, err
	}
	return w.decorated(s), nil
}

func (w *world) decorated(s ufs.Store) ufs.Store {
	if w.o.Wrap != nil {
		return w.o.Wrap(s)
	}
	return s
}

// start opens the namespace, a server before it and a client of that, and runs them until stop, which is idempotent.
func (w *world) start(t *testing.T) (tree nstest.Tree, stop func()) {
	t.Helper()
	kv := w.kv
	if w.o.WrapKV != nil {
		kv = w.o.WrapKV(kv)
	}
	var pages page.Store = mempage.New(64 << 20)
	if w.o.NoCache {
		pages = mempage.New(0)
	}
	cache := page.NewCache(pages, page.CacheOptions{})
	watch := time.Nanosecond
	if w.o.Watch {
		watch = time.Hour
	}
	ns, err := namespace.Open(context.Background(), namespace.Options{
		KV: kv, Cache: cache, Root: w.decorated(w.root), OpenStore: w.openStore, Member: "test", SyncInterval: 0,
		Host: "localhost:9870", WatchOpen: watch, Settle: 300 * time.Millisecond, SecretKey: secretKey,
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
	r := &roll{}
	addr, stopServer := serve(t, remote.ServerOptions{Tree: ns, Authenticator: users{}, Members: r}, w.page)
	client := dial(t, remote.Options{Addrs: []string{addr}, Heartbeat: 50 * time.Millisecond, Nodes: []cluster.Node{{Role: cluster.Worker}}})
	stopWorkers := w.startWorkers(t, w.workers, r, client.Stores)
	waitFor(t, "the workers to be known", func() bool { return client.Nodes() != nil || w.workers == 0 })
	return client, sync.OnceFunc(func() {
		client.Close()
		stopWorkers()
		cancel() // fails the calls that wait for the journal, which the server then waits for
		<-done
		stopServer()
		ns.Close()
		cache.Close()
	})
}

// users is an Authenticator that knows one key.
type users struct{}

func (users) Secret(_ context.Context, key string) (string, core.Principal, error) {
	if key != "known" {
		return "", core.Principal{}, errs.E("test.Secret", key, errs.NotExist, nil)
	}
	return "secret", core.Principal{User: "ann", Groups: []string{"staff", "other"}, AccessKey: key}, nil
}

func (users) User(_ context.Context, name string) (core.Principal, error) {
	return core.Principal{User: name, Groups: []string{"of " + name}}, nil
}

// serve runs a server on a port of its own until stop, which is idempotent, or the test ends. page is the number of
// entries of a page of a listing, 0 for the default.
func serve(t testing.TB, o remote.ServerOptions, page int) (addr string, stop func()) {
	t.Helper()
	s, err := remote.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	if page > 0 {
		s.SetPage(page)
	}
	options, err := remote.GRPCOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	return listen(t, s, options)
}

func listen(t testing.TB, s *remote.Server, options []grpc.ServerOption) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(options...)
	s.Register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	stop = sync.OnceFunc(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func dial(t testing.TB, o remote.Options) *remote.Client {
	t.Helper()
	c, err := remote.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func asRoot(ctx context.Context) context.Context {
	return core.WithPrincipal(ctx, core.Principal{User: "root", Groups: []string{"supergroup"}, Super: true})
}

func mustPath(t testing.TB, s string) core.Path {
	t.Helper()
	p, err := core.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestSlowChangeHoldsNoOther makes more changes behind one that takes long than a server remembers answers of a session.
func TestSlowChangeHoldsNoOther(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	tree := &fake{
		rename: func(context.Context, core.Path, core.Path) error { close(began); <-goOn; return nil },
		mkdir:  func(_ context.Context, p core.Path) (core.Info, error) { return core.Info{Path: p}, nil },
	}
	addr, _ := serve(t, remote.ServerOptions{Tree: tree, Authenticator: users{}}, 0)
	c := dial(t, remote.Options{Addrs: []string{addr}, Heartbeat: 20 * time.Millisecond})
	slow := make(chan error, 1)
	go func() {
		slow <- c.Rename(asRoot(t.Context()), mustPath(t, "/a"), mustPath(t, "/b"), core.RenameOptions{})
	}()
	within(t, "the slow change", began)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range remote.MaxSessionAnswers / 6 {
				if _, err := c.Mkdir(asRoot(t.Context()), mustPath(t, "/d/"), core.MkdirOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
	close(goOn)
	if err := within(t, "the slow change", slow); err != nil {
		t.Error(err)
	}
}
