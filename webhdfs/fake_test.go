package webhdfs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// fake is a namespace in memory with the rules that the protocol relies on, and hooks for faults. Its keys are exact
// paths; "/mnt/" is a mount point, "/ro/" is read-only.
type fake struct {
	mu     sync.Mutex
	nodes  map[string]*fakeNode
	nextID uint64
	busy   map[string]bool
	fail   error // what every call of Stat answers, if not nil
	torn   error // what ends every listing and the second half of every read, if not nil
	lost   bool  // torn comes with the first write of a read, of which it is not known what was sent
	seen   core.MaxAge
}

type fakeNode struct {
	data         []byte
	id           uint64
	owner, group string
	mode         uint32
	mtime, atime time.Time
	repl         int
	block        int64
}

func newFake() *fake {
	f := &fake{nodes: map[string]*fakeNode{}, busy: map[string]bool{}}
	f.put("/", "hdfs", 0o777, nil)
	return f
}

// put makes a node and its parents.
func (f *fake) put(key, owner string, mode uint32, data []byte) {
	for i := range key {
		if dir := key[:i+1]; key[i] == '/' && f.nodes[dir] == nil && i < len(key)-1 {
			f.put(dir, owner, 0o755, nil)
		}
	}
	f.nextID++
	f.nodes[key] = &fakeNode{data: data, id: f.nextID, owner: owner, group: "staff", mode: mode, mtime: time.UnixMilli(1700000000123)}
}

// find returns the exact key of p.
func (f *fake) find(p core.Path) (string, error) {
	s := p.String()
	if p.Either() && f.nodes[s+"/"] != nil {
		return s + "/", nil
	}
	if f.nodes[s] != nil {
		return s, nil
	}
	return s, errs.E("fake", s, errs.NotExist, nil)
}

func (f *fake) info(key string) core.Info {
	n := f.nodes[key]
	p, _ := core.ParsePath(key)
	return core.Info{
		Path: p, Dir: p.IsDir(), ID: n.id, Size: int64(len(n.data)), ModTime: n.mtime, AccessTime: n.atime, Owner: n.owner,
		Group: n.group, Mode: n.mode, Children: -1, Replication: n.repl, BlockSize: n.block, ReadOnly: strings.HasPrefix(key, "/ro/"),
	}
}

func (f *fake) allow(ctx context.Context, key string, want uint32) error {
	p, n := core.PrincipalOf(ctx), f.nodes[key]
	mode := n.mode
	if p.User == n.owner {
		mode >>= 6
	}
	if p.Super || mode&want == want {
		return nil
	}
	return errs.New("", "", errs.Permission, fmt.Sprintf("Permission denied: user=%s, access=%s, inode=%q:%s:%s:%o", p.User,
		[]string{"", "EXECUTE", "WRITE", "WRITE_EXECUTE", "READ", "READ_EXECUTE", "READ_WRITE", "ALL"}[want], strings.TrimSuffix(key, "/"), n.owner, n.group, n.mode))
}

func (f *fake) Stat(ctx context.Context, p core.Path) (core.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = core.MaxAgeOf(ctx)
	if f.fail != nil {
		return core.Info{}, f.fail
	}
	key, err := f.find(p)
	if err != nil {
		return core.Info{}, err
	}
	return f.info(key), nil
}

func (f *fake) List(ctx context.Context, dir core.Path, o core.ListOptions) iter.Seq2[core.Info, error] {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := dir.Dir().String()
	if f.nodes[key] == nil {
		return func(yield func(core.Info, error) bool) { yield(core.Info{}, errs.E("fake", key, errs.NotExist, nil)) }
	}
	if err := f.allow(ctx, key, 5); err != nil {
		return func(yield func(core.Info, error) bool) { yield(core.Info{}, err) }
	}
	var found []core.Info
	for _, k := range slices.Sorted(maps.Keys(f.nodes)) {
		name, ok := strings.CutPrefix(k, key)
		if i := strings.IndexByte(name, '/'); !ok || k == key || name <= o.After || i >= 0 && i < len(name)-1 {
			continue
		}
		if o.HideShadowed && f.nodes[k+"/"] != nil {
			continue
		}
		info := f.info(k)
		info.Name = name
		found = append(found, info)
	}
	return func(yield func(core.Info, error) bool) {
		for i, info := range found {
			if o.Limit > 0 && i == o.Limit || !yield(info, nil) {
				return
			}
		}
		if f.torn != nil {
			yield(core.Info{}, f.torn)
		}
	}
}

type fakeReader struct {
	*bytes.Reader
	info   core.Info
	off, n int64
	torn   error
	lost   bool
}

func (r *fakeReader) WriteTo(w io.Writer) (int64, error) {
	if r.torn == nil {
		return r.Reader.WriteTo(w)
	}
	n, _ := io.CopyN(w, r.Reader, r.n/2)
	if r.lost {
		n = 0
	}
	return n, r.torn
}

func (r *fakeReader) Close() error         { return nil }
func (r *fakeReader) Info() core.Info      { return r.info }
func (r *fakeReader) Span() (int64, int64) { return r.off, r.n }

func (f *fake) Open(ctx context.Context, p core.Path, r core.Range) (core.Reader, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, err := f.find(p)
	if err != nil {
		return nil, err
	}
	info := f.info(key)
	if info.Dir {
		return nil, errs.E("fake", key, errs.IsDir, nil)
	}
	if err := f.allow(ctx, key, 4); err != nil {
		return nil, err
	}
	if r.Off > info.Size {
		return nil, errs.E("fake", key, errs.Range, nil)
	}
	n := info.Size - r.Off
	if r.Len >= 0 {
		n = min(n, r.Len)
	}
	return &fakeReader{bytes.NewReader(f.nodes[key].data[r.Off : r.Off+n]), info, r.Off, n, f.torn, f.lost}, nil
}

type fakeWriter struct {
	f   *fake
	ctx context.Context
	key string
	o   core.CreateOptions
	buf bytes.Buffer
}

func (w *fakeWriter) Write(p []byte) (int, error) { return w.buf.Write(p) }
func (w *fakeWriter) Abort() error                { return nil }

func (w *fakeWriter) Commit(ctx context.Context, _ core.CommitOptions) (core.Info, error) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if err := w.f.creatable(w.ctx, w.key, w.o); err != nil {
		return core.Info{}, err
	}
	old := w.f.nodes[w.key]
	data := bytes.Clone(w.buf.Bytes())
	if w.o.Mode == core.Append {
		old.data = append(old.data, data...)
		return w.f.info(w.key), nil
	}
	w.f.put(w.key, core.PrincipalOf(w.ctx).User, w.o.Attr.Mode&^core.NoAccess, data)
	w.f.nodes[w.key].block, w.f.nodes[w.key].repl = w.o.Attr.BlockSize, w.o.Attr.Replication
	return w.f.info(w.key), nil
}

// creatable reports what stands in the way of a write. mu must be held.
func (f *fake) creatable(ctx context.Context, key string, o core.CreateOptions) error {
	old := f.nodes[key]
	for i := 1; i < len(key); i++ {
		if key[i] == '/' && f.nodes[key[:i]] != nil && f.nodes[key[:i+1]] == nil {
			return errs.E("fake", key[:i], errs.NotDir, nil)
		}
	}
	switch {
	case f.nodes[key+"/"] != nil:
		return errs.E("fake", key, errs.IsDir, nil)
	case o.Mode == core.CreateNew && old != nil:
		return errs.E("fake", key, errs.Exist, nil)
	case o.Mode == core.Append && old == nil:
		return errs.E("fake", key, errs.NotExist, nil)
	case o.Cond.IfMatch == "*" && old == nil:
		return errs.E("fake", key, errs.Precondition, nil)
	case f.busy[key]:
		return errs.E("fake", key, errs.Busy, nil)
	case old != nil:
		return f.allow(ctx, key, 2)
	case !o.MakeParents && f.nodes[key[:strings.LastIndexByte(key, '/')+1]] == nil:
		return errs.E("fake", key, errs.NotExist, nil)
	}
	return nil
}

func (f *fake) Create(ctx context.Context, p core.Path, o core.CreateOptions) (core.Writer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := p.File().String()
	if err := f.creatable(ctx, key, o); err != nil {
		return nil, err
	}
	return &fakeWriter{f: f, ctx: ctx, key: key, o: o}, nil
}

func (f *fake) Compose(ctx context.Context, dst core.Path, parts []core.Path) (core.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[dst.String()]
	for _, p := range parts {
		n.data = append(n.data, f.nodes[p.String()].data...)
		delete(f.nodes, p.String())
	}
	return f.info(dst.String()), nil
}

func (f *fake) Copy(context.Context, core.Path, core.Path, core.CopyOptions) (core.Info, error) {
	return core.Info{}, errs.Unsupported
}

func (f *fake) Mkdir(ctx context.Context, p core.Path, o core.MkdirOptions) (core.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := p.Dir().String()
	if f.nodes[key] != nil || f.nodes[p.File().String()] != nil {
		return core.Info{}, errs.E("fake", key, errs.Exist, nil)
	}
	for i := 1; i < len(key)-1; i++ {
		if key[i] == '/' && f.nodes[key[:i]] != nil && f.nodes[key[:i+1]] == nil {
			return core.Info{}, errs.E("fake", key[:i], errs.NotDir, nil)
		}
	}
	f.put(key, core.PrincipalOf(ctx).User, o.Mode&^core.NoAccess, nil)
	return f.info(key), nil
}

func (f *fake) Rename(ctx context.Context, src, dst core.Path, o core.RenameOptions) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	from, err := f.find(src)
	if err != nil {
		return err
	}
	to := dst.File().String()
	old, oldErr := f.find(dst)
	dir := strings.HasSuffix(from, "/")
	if dir {
		to += "/"
	}
	parent := to[:strings.LastIndexByte(strings.TrimSuffix(to, "/"), '/')+1]
	switch {
	case strings.HasPrefix(from, "/mnt/") != strings.HasPrefix(to, "/mnt/"):
		return errs.E("fake", to, errs.Unsupported, nil)
	case f.nodes[parent] == nil && f.nodes[strings.TrimSuffix(parent, "/")] != nil:
		return errs.E("fake", parent, errs.NotDir, nil)
	case f.nodes[parent] == nil:
		return errs.E("fake", parent, errs.NotExist, nil)
	case oldErr == nil && !o.Overwrite:
		return errs.E("fake", to, errs.Exist, nil)
	case oldErr == nil && strings.HasSuffix(old, "/") != dir:
		return errs.E("fake", to, errs.IsDir, nil)
	case oldErr == nil && dir && f.below(old):
		return errs.E("fake", to, errs.NotEmpty, nil)
	}
	for _, k := range slices.Collect(maps.Keys(f.nodes)) {
		if rest, ok := strings.CutPrefix(k, from); ok && (dir || rest == "") {
			f.nodes[to+rest] = f.nodes[k]
			delete(f.nodes, k)
		}
	}
	return nil
}

// below reports whether there is anything in a directory. mu must be held.
func (f *fake) below(dir string) bool {
	for k := range f.nodes {
		if strings.HasPrefix(k, dir) && k != dir {
			return true
		}
	}
	return false
}

func (f *fake) Remove(ctx context.Context, p core.Path, o core.RemoveOptions) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, err := f.find(p)
	switch {
	case err != nil:
		return err
	case key == "/mnt/":
		return errs.E("fake", key, errs.Busy, nil)
	case strings.HasSuffix(key, "/") && f.below(key) && !o.Recursive:
		return errs.E("fake", key, errs.NotEmpty, nil)
	}
	for k := range f.nodes {
		if k == key || strings.HasSuffix(key, "/") && strings.HasPrefix(k, key) {
			delete(f.nodes, k)
		}
	}
	return nil
}

func (f *fake) SetAttr(ctx context.Context, p core.Path, a core.AttrChange) (core.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, err := f.find(p)
	if err != nil {
		return core.Info{}, err
	}
	n := f.nodes[key]
	set(&n.mode, a.Mode)
	set(&n.owner, a.Owner)
	set(&n.group, a.Group)
	set(&n.mtime, a.ModTime)
	set(&n.atime, a.AccessTime)
	set(&n.repl, a.Replication)
	return f.info(key), nil
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func (f *fake) CheckName(_ context.Context, p core.Path) error {
	for _, e := range p.Edges() {
		if len(e) > 256 {
			return errs.New("fake", p.String(), errs.Invalid, "a name has at most 255 bytes")
		}
	}
	return nil
}

func (f *fake) CheckAccess(ctx context.Context, p core.Path, want uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, err := f.find(p)
	if err != nil {
		return err
	}
	return f.allow(ctx, key, want)
}

func (f *fake) Locate(ctx context.Context, p core.Path, r core.Range) ([]core.Block, error) {
	return []core.Block{{Off: 0, Len: 9, Hosts: []string{"w1"}, Names: []string{"10.0.0.1:9870"}}}, nil
}

func (f *fake) FileChecksum(ctx context.Context, p core.Path) (core.FileChecksum, error) {
	if p.Name() == "nosum" {
		return core.FileChecksum{}, errs.Unsupported
	}
	return core.FileChecksum{Algorithm: "MD5-of-0MD5-of-512CRC32C", Bytes: make([]byte, 28)}, nil
}

func (f *fake) Summarize(ctx context.Context, p core.Path) (core.Summary, error) {
	if _, err := f.Stat(ctx, p); err != nil {
		return core.Summary{}, err
	}
	return core.Summary{Dirs: 2, Files: 3, Bytes: 12}, nil
}

func (f *fake) Secret(ctx context.Context, key string) (string, core.Principal, error) {
	if key == "AKALICE" {
		return "s3cret", core.Principal{User: "alice", AccessKey: key}, nil
	}
	return "", core.Principal{}, errs.E("fake", key, errs.NotExist, nil)
}

func (f *fake) User(ctx context.Context, name string) (core.Principal, error) {
	return core.Principal{User: name}, nil
}
