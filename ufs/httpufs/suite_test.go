package httpufs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/needtest"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/localufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// published is a store that is read over HTTP, and changed in the directory that the server hands out: so the suite for
// stores that can be written runs on one that cannot.
type published struct {
	*Store
	dir  *localufs.Store
	path string
	fine bool   // the server tells times finer than seconds
	then func() // after each change
	mu   sync.Mutex
}

func (p *published) Features() ufs.Features {
	f := p.Store.Features()
	f.Probe = false // it says that it cannot be written
	return f
}

type publishedWriter struct {
	ufs.Writer
	p    *published
	name string
	o    ufs.CreateOptions
}

func (p *published) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (ufs.Writer, error) {
	if err := p.begin(ctx, "test", name, ufs.CheckFile); err != nil {
		return nil, err
	}
	local := o
	local.IfVersion = ""
	w, err := p.dir.Create(ctx, name, size, local)
	if err != nil {
		return nil, err
	}
	return &publishedWriter{w, p, name, o}, nil
}

func (w *publishedWriter) Commit(ctx context.Context) (ufs.Info, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	if w.o.IfVersion != "" {
		if err := w.p.is(ctx, w.name, w.o.IfVersion); err != nil {
			return ufs.Info{}, errors.Join(err, w.Abort())
		}
	}
	at := filepath.Join(w.p.path, w.name)
	was, _ := os.Stat(at)
	if _, err := w.Writer.Commit(ctx); err != nil {
		return ufs.Info{}, err
	}
	mtime := time.Now().Add(-50 * time.Second) // what has just been written has no version that lasts
	if !w.p.fine {                             // the same second and the same size would be the same version
		if mtime = mtime.Truncate(time.Second); was != nil && !mtime.After(was.ModTime()) {
			mtime = was.ModTime().Add(time.Second)
		}
	}
	if err := os.Chtimes(at, mtime, mtime); err != nil {
		return ufs.Info{}, err
	}
	w.p.then()
	return w.p.Stat(ctx, w.name)
}

func (p *published) is(ctx context.Context, name, version string) error {
	in, err := p.Stat(ctx, name)
	if err == nil && in.Version != version {
		err = errs.E("test", name, errs.Precondition, nil)
	}
	return err
}

func (p *published) Remove(ctx context.Context, name, version string) error {
	if err := p.begin(ctx, "test", name, ufs.CheckName); err != nil {
		return err
	}
	if version != "" && !ufs.IsDir(name) {
		if err := p.is(ctx, name, version); err != nil {
			return err
		}
	}
	defer p.then()
	return p.dir.Remove(ctx, name, "")
}

func (p *published) CleanStaging(ctx context.Context, live func(string) bool) error {
	return p.dir.CleanStaging(ctx, live)
}

// publish returns an opener of stores each of which is a directory below root, which a server hands out at url.
func publish(t *testing.T, root, url string, fine, manifest bool) func(t *testing.T) ufs.Store {
	n := 0
	return func(t *testing.T) ufs.Store {
		n++
		name := fmt.Sprintf("t %d%%", n)
		path := filepath.Join(root, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		dir, err := localufs.Open(path, localufs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		o := Options{Root: url + "/" + strings.NewReplacer(" ", "%20", "%", "%25").Replace(name)}
		then := func() {}
		if manifest {
			o.Manifest = fmt.Sprintf("../manifest-%d.json", n)
			then = func() { writeManifest(t, path, filepath.Join(root, fmt.Sprintf("manifest-%d.json", n))) }
			then()
		}
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = errors.Join(s.Close(), dir.Close()) })
		return &published{Store: s, dir: dir, path: path, fine: fine, then: then}
	}
}

// writeManifest lists the files of dir: every other one with its facts.
func writeManifest(t *testing.T, dir, to string) {
	t.Helper()
	all := []any{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && path == filepath.Join(dir, ".sluice") {
			return fs.SkipDir
		}
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if len(all)%2 == 0 {
			all = append(all, name)
			return nil
		}
		in, err := d.Info()
		if err != nil {
			return err
		}
		all = append(all, map[string]any{"path": name, "size": in.Size(), "mtime": in.ModTime().Unix()})
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	b, _ := json.Marshal(all)
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Error(err)
	}
}

// tagged adds ETags to a file server.
func tagged(root string) http.Handler {
	files := http.FileServer(http.Dir(root))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if in, err := os.Stat(filepath.Join(root, filepath.FromSlash(r.URL.Path))); err == nil && !in.IsDir() {
			w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, in.ModTime().UnixNano(), in.Size()))
		}
		files.ServeHTTP(w, r)
	})
}

func TestFileServer(t *testing.T) {
	for name, c := range map[string]struct{ tags, manifest bool }{"with tags": {tags: true}, "without tags": {}, "by a manifest": {manifest: true}} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			h := http.FileServer(http.Dir(root))
			if c.tags {
				h = tagged(root)
			}
			server := httptest.NewServer(h)
			t.Cleanup(server.Close)
			ufstest.Run(t, publish(t, root, server.URL, c.tags, c.manifest), deviations(c.manifest)...)
		})
	}
}

// TestDecorated runs the suite through the decorators of a mounted store.
func TestDecorated(t *testing.T) {
	root := t.TempDir()
	server := httptest.NewServer(tagged(root))
	t.Cleanup(server.Close)
	open := publish(t, root, server.URL, true, false)
	ufstest.Run(t, func(t *testing.T) ufs.Store {
		s := wrap.Timeout(open(t), time.Minute, time.Minute)
		return wrap.Retry(wrap.Isolate(s, wrap.IsolateOptions{Calls: 8, Queue: 64, Adapt: true}), 3, time.Millisecond)
	}, deviations(false)...)
}

// TestPython runs the suite against python3 -m http.server, which knows no ranges and no ETags.
func TestPython(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves out what starts servers")
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		needtest.Skip(t, "python3 is not in PATH")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(addr)
	root := t.TempDir()
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, python, "-m", "http.server", "--bind", "127.0.0.1", "--directory", root, port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait()
	})
	needtest.Listens(t, addr)
	ufstest.Run(t, publish(t, root, "http://"+addr, false, false), deviations(false)...)
}

// deviations are of the directory behind the server, which its writer changes by names of its own.
func deviations(manifest bool) []ufstest.Deviation {
	all := []ufstest.Deviation{}
	if manifest {
		all = append(all,
			ufstest.Deviation{Test: "Names/a file and a directory of one name stand side by side", Reason: "the directory behind the server cannot hold both"},
			ufstest.Deviation{Test: "List/byte order with what is not ASCII, and directories whose slash sorts late", Reason: "the directory behind the server cannot hold a file and a directory of one name"},
			ufstest.Deviation{Test: "List/flat: every key at any depth", Reason: "the directory behind the server cannot hold a file and a directory of one name"},
		)
	}
	return all
}
