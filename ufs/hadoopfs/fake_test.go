package hadoopfs

import (
	"bytes"
	"context"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// fake is a Client in memory, of one user who is not the superuser, whose calls a test can stop and count.
type fake struct {
	mu     sync.Mutex
	nodes  map[string]*fakeNode
	inodes uint64
	plain  bool                            // RENAME is HttpFS's: it does not replace
	before func(method, path string) error // an error in place of the call
}

type fakeNode struct {
	Status
	data  []byte
	value []byte
}

func newFake(t *testing.T) (*fake, *Store) {
	t.Helper()
	f := &fake{nodes: map[string]*fakeNode{"/": {Status: Status{Dir: true, ID: 1, Mode: 0o755}}}, inodes: 1}
	s, err := New(f, Options{Kind: "hdfs", Root: "/", Base: "fake://" + t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	return f, s
}

func (f *fake) call(ctx context.Context, method, p string, change bool) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if change {
		if err := ufs.Guard(ctx); err != nil {
			return nil, err
		}
	}
	if f.before != nil {
		if err := f.before(method, p); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	return f.mu.Unlock, nil
}

func (f *fake) get(p string) (*fakeNode, error) {
	if n := f.nodes[path.Clean(p)]; n != nil {
		return n, nil
	}
	for _, n := range f.nodes {
		if byID("", &n.Status) == p {
			return n, nil
		}
	}
	return nil, errs.E("fake", p, errs.NotExist, nil)
}

func (f *fake) add(p string, dir bool, data []byte) *fakeNode {
	f.inodes++
	n := &fakeNode{Status: Status{Dir: dir, ID: f.inodes, Mode: 0o644, Size: int64(len(data)), MTime: int64(f.inodes)}, data: data} //nolint:gosec // small
	f.nodes[path.Clean(p)] = n
	return n
}

func (f *fake) Status(ctx context.Context, p string) (Status, error) {
	unlock, err := f.call(ctx, "Status", p, false)
	if err != nil {
		return Status{}, err
	}
	defer unlock()
	n, err := f.get(p)
	if err != nil {
		return Status{}, err
	}
	return n.Status, nil
}

func (f *fake) List(ctx context.Context, p, after string) (rows []Status, more bool, err error) {
	unlock, err := f.call(ctx, "List", p, false)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	if _, err := f.get(p); err != nil {
		return nil, false, err
	}
	for q, n := range f.nodes {
		if q != "/" && path.Dir(q) == path.Clean(p) && path.Base(q) > after {
			st := n.Status
			st.Name = path.Base(q)
			rows = append(rows, st)
		}
	}
	slices.SortFunc(rows, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return rows, false, nil
}

func (f *fake) Open(ctx context.Context, p string, off, n int64) (io.ReadCloser, error) {
	unlock, err := f.call(ctx, "Open", p, false)
	if err != nil {
		return nil, err
	}
	defer unlock()
	node, err := f.get(p)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(node.data[off:min(off+n, node.Size)])), nil
}

type fakeStream struct {
	bytes.Buffer
	f *fake
	p string
}

func (f *fake) Create(ctx context.Context, p string) (Stream, error) {
	unlock, err := f.call(ctx, "Create", p, true)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := f.get(path.Dir(p)); err != nil {
		return nil, err
	}
	f.add(p, false, nil)
	return &fakeStream{f: f, p: p}, nil
}

func (s *fakeStream) Finish(context.Context) error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.f.add(s.p, false, s.Bytes())
	return nil
}

func (s *fakeStream) Abort() {}

func (f *fake) Mkdirs(ctx context.Context, p string) error {
	unlock, err := f.call(ctx, "Mkdirs", p, true)
	if err != nil {
		return err
	}
	defer unlock()
	for p = path.Clean(p); p != "/"; p = path.Dir(p) {
		if n := f.nodes[p]; n == nil {
			f.add(p, true, nil)
		} else if !n.Dir {
			return errs.E("fake", p, errs.NotDir, nil)
		}
	}
	return nil
}

func (f *fake) Rename(ctx context.Context, from, to string, replace bool) error {
	unlock, err := f.call(ctx, "Rename", from, true)
	if err != nil {
		return err
	}
	defer unlock()
	from, to = path.Clean(from), path.Clean(to)
	if _, err := f.get(from); err != nil {
		return err
	}
	if _, err := f.get(path.Dir(to)); err != nil {
		return err
	}
	if f.nodes[to] != nil && !replace {
		return errs.E("fake", to, errs.Exist, nil)
	} else if f.nodes[to] != nil && f.plain {
		return errs.E("fake", to, errs.Unsupported, nil)
	}
	moved := map[string]*fakeNode{}
	for q, n := range f.nodes {
		if q == from || strings.HasPrefix(q, from+"/") {
			moved[to+q[len(from):]] = n
			delete(f.nodes, q)
		}
	}
	for q, n := range moved {
		f.nodes[q] = n
	}
	return nil
}

func (f *fake) Delete(ctx context.Context, p string, _ bool) error {
	unlock, err := f.call(ctx, "Delete", p, true)
	if err != nil {
		return err
	}
	defer unlock()
	p = path.Clean(p)
	if _, err := f.get(p); err != nil {
		return err
	}
	for q := range f.nodes {
		if q == p || strings.HasPrefix(q, p+"/") {
			delete(f.nodes, q)
		}
	}
	return nil
}

func (f *fake) Concat(ctx context.Context, to string, sources []string) error {
	unlock, err := f.call(ctx, "Concat", to, true)
	if err != nil {
		return err
	}
	defer unlock()
	return f.concat(to, sources)
}

func (f *fake) concat(to string, sources []string) error {
	n, err := f.get(to)
	if err != nil {
		return err
	}
	for _, p := range sources {
		src, err := f.get(p)
		if err != nil {
			return err
		}
		n.data = append(n.data, src.data...)
		delete(f.nodes, path.Clean(p))
	}
	n.Size = int64(len(n.data))
	return nil
}

func (f *fake) XAttr(ctx context.Context, p, _ string) ([]byte, error) {
	unlock, err := f.call(ctx, "XAttr", p, false)
	if err != nil {
		return nil, err
	}
	defer unlock()
	n, err := f.get(p)
	if err != nil {
		return nil, err
	}
	return n.value, nil
}

func (f *fake) SetXAttr(ctx context.Context, p, _ string, value []byte) error {
	unlock, err := f.call(ctx, "SetXAttr", p, true)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := f.get(p)
	if err != nil {
		return err
	}
	if n.Mode&0o200 == 0 {
		return errs.E("fake", p, errs.Permission, nil)
	}
	n.value = value
	return nil
}

func (f *fake) SetMode(ctx context.Context, p string, mode uint32) error {
	unlock, err := f.call(ctx, "SetMode", p, true)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := f.get(p)
	if err != nil {
		return err
	}
	n.Mode = mode
	return nil
}

func (f *fake) SetOwner(_ context.Context, p, _, _ string) error {
	return errs.E("fake", p, errs.Permission, nil)
}

func (f *fake) Close() error { return nil }

// below returns the paths below the directory dir.
func (f *fake) below(dir string) (all []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.nodes {
		if strings.HasPrefix(p, dir) {
			all = append(all, p)
		}
	}
	slices.Sort(all)
	return all
}

func put(t *testing.T, s *Store, name, data string) ufs.Info {
	t.Helper()
	in, err := ufs.WriteFile(t.Context(), s, name, []byte(data), ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func wantFile(t *testing.T, s *Store, name, want string) {
	t.Helper()
	if got, err := ufs.ReadAll(t.Context(), s, name, "", 100); err != nil || string(got) != want {
		t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
	}
}
