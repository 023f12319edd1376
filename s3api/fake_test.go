package s3api_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
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

// fake is a namespace of one map, for tests of the wire.
type fake struct {
	mu      sync.Mutex
	files   map[string]file // by path; directories that are keys end in "/"
	dirs    map[string]core.Info
	uploads map[string]*fakeUpload
	n       int
	mounts  map[string]bool
	fail    func(op string) error // what every method answers instead, if not nil
}

type file struct {
	info core.Info
	data []byte
}

type fakeUpload struct {
	core.Upload
	path  core.Path
	parts map[int]fakePart
	done  core.Info
}

type fakePart struct {
	core.Part
	data []byte
}

func newFake() *fake {
	return &fake{files: map[string]file{}, dirs: map[string]core.Info{}, uploads: map[string]*fakeUpload{}, mounts: map[string]bool{}}
}

func (f *fake) enter(op string) (func(), error) {
	f.mu.Lock()
	if f.fail != nil {
		if err := f.fail(op); err != nil {
			f.mu.Unlock()
			return nil, err
		}
	}
	return f.mu.Unlock, nil
}

func missing(p core.Path) error { return errs.E("fake", p.String(), errs.NotExist, nil) }

func (f *fake) Stat(ctx context.Context, p core.Path) (core.Info, error) {
	unlock, err := f.enter("Stat")
	if err != nil {
		return core.Info{}, err
	}
	defer unlock()
	return f.stat(p)
}

func (f *fake) stat(p core.Path) (core.Info, error) {
	if o, ok := f.files[p.String()]; ok {
		return o.info, nil
	}
	if !p.IsDir() {
		return core.Info{}, missing(p)
	}
	if d, ok := f.dirs[p.String()]; ok || p.IsRoot() {
		d.Dir, d.Path = true, p
		return d, nil
	}
	for k := range f.files {
		if strings.HasPrefix(k, p.String()) {
			return core.Info{Path: p, Dir: true, ModTime: epoch}, nil
		}
	}
	return core.Info{}, missing(p)
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (f *fake) List(ctx context.Context, dir core.Path, o core.ListOptions) iter.Seq2[core.Info, error] {
	return func(yield func(core.Info, error) bool) {
		entries, err := f.list(dir, o)
		if err != nil {
			yield(core.Info{}, err)
			return
		}
		for i, e := range entries {
			if o.Limit > 0 && i == o.Limit || !yield(e, nil) {
				return
			}
		}
	}
}

func (f *fake) list(dir core.Path, o core.ListOptions) ([]core.Info, error) {
	unlock, err := f.enter("List")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := f.stat(dir); err != nil {
		return nil, err
	}
	var out []core.Info
	if o.Children {
		for p, info := range f.dirs {
			if name, ok := strings.CutPrefix(p, dir.String()); ok && strings.Count(name, "/") == 1 && strings.HasPrefix(name, o.Prefix) {
				info.Name, info.Dir = name, true
				out = append(out, info)
			}
		}
		slices.SortFunc(out, func(a, b core.Info) int { return cmp.Compare(a.Name, b.Name) })
		return out, nil
	}
	last := ""
	for _, p := range slices.Sorted(maps.Keys(f.files)) {
		name, ok := strings.CutPrefix(p, dir.String())
		if !ok || !strings.HasPrefix(name, o.Prefix) {
			continue
		}
		info := f.files[p].info
		info.Name = name
		if i := strings.Index(name[len(o.Prefix):], o.Delimiter); o.Delimiter != "" && i >= 0 {
			info = core.Info{CommonPrefix: true, Name: name[:len(o.Prefix)+i+len(o.Delimiter)]}
			if info.Name == last {
				continue
			}
			last = info.Name
		}
		if info.Name > o.After && !(info.CommonPrefix && strings.HasPrefix(o.After, info.Name)) {
			out = append(out, info)
		}
	}
	return out, nil
}

type fakeReader struct {
	*bytes.Reader
	info   core.Info
	off, n int64
}

func (r fakeReader) Close() error         { return nil }
func (r fakeReader) Info() core.Info      { return r.info }
func (r fakeReader) Span() (int64, int64) { return r.off, r.n }

func (f *fake) Open(ctx context.Context, p core.Path, rng core.Range) (core.Reader, error) {
	unlock, err := f.enter("Open")
	if err != nil {
		return nil, err
	}
	defer unlock()
	o, ok := f.files[p.String()]
	if !ok {
		return nil, missing(p)
	}
	size := int64(len(o.data))
	off := rng.Off
	if off < 0 {
		off = max(0, size+off)
	}
	if off > size {
		return nil, errs.E("fake", "", errs.Range, nil)
	}
	n := size - off
	if rng.Len >= 0 {
		n = min(n, rng.Len)
	}
	return fakeReader{bytes.NewReader(o.data[off : off+n]), o.info, off, n}, nil
}

type fakeWriter struct {
	bytes.Buffer
	commit func(data []byte, o core.CommitOptions) (core.Info, error)
	size   int64
}

func (w *fakeWriter) Abort() error { return nil }
func (w *fakeWriter) Commit(ctx context.Context, o core.CommitOptions) (core.Info, error) {
	sum := md5.Sum(w.Bytes())
	if o.MD5 != nil && !bytes.Equal(sum[:], o.MD5) {
		return core.Info{}, errs.E("fake.Commit", "", errs.BadDigest, nil)
	}
	if w.size >= 0 && w.size != int64(w.Len()) {
		return core.Info{}, errs.New("fake.Commit", "", errs.Invalid, "the size is not met")
	}
	return w.commit(bytes.Clone(w.Bytes()), o)
}

func (f *fake) Create(ctx context.Context, p core.Path, o core.CreateOptions) (core.Writer, error) {
	unlock, err := f.enter("Create")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if p.IsDir() {
		return nil, errs.E("fake", "", errs.IsDir, nil)
	}
	return &fakeWriter{size: o.Size, commit: func(data []byte, c core.CommitOptions) (core.Info, error) {
		unlock, err := f.enter("Commit")
		if err != nil {
			return core.Info{}, err
		}
		defer unlock()
		if err := f.check(p, o.Cond); err != nil {
			return core.Info{}, err
		}
		return f.put(ctx, p, data, o.Attr, c.Checksums, nil, ""), nil
	}}, nil
}

func (f *fake) check(p core.Path, c core.Cond) error {
	o, ok := f.files[p.String()]
	if c.IfNoneMatch == "*" && ok || c.IfMatch != "" && (!ok || c.IfMatch != "*" && c.IfMatch != o.info.ETag) {
		return errs.E("fake", "", errs.Precondition, nil)
	}
	return nil
}

func (f *fake) put(ctx context.Context, p core.Path, data []byte, a core.FileAttr, sums []core.Checksum, parts []int64, etag string) core.Info {
	f.n++
	sum := md5.Sum(data)
	if etag == "" {
		etag = hex.EncodeToString(sum[:])
	}
	info := core.Info{Path: p, Dir: p.IsDir(), Marker: p.IsDir(), Version: fmt.Sprint(f.n), Size: int64(len(data)), ModTime: epoch,
		ETag: etag, Owner: core.PrincipalOf(ctx).User, Headers: a.Headers, User: a.User, Checksums: sums, Parts: parts}
	f.files[p.String()] = file{info, data}
	return info
}

func (f *fake) Copy(ctx context.Context, src, dst core.Path, o core.CopyOptions) (core.Info, error) {
	unlock, err := f.enter("Copy")
	if err != nil {
		return core.Info{}, err
	}
	defer unlock()
	from, ok := f.files[src.String()]
	if !ok {
		return core.Info{}, missing(src)
	}
	if err := errors.Join(f.check(src, o.Source), f.check(dst, o.Dest)); err != nil {
		return core.Info{}, err
	}
	a := core.FileAttr{Headers: from.info.Headers, User: from.info.User}
	if o.ReplaceAttr != nil {
		a = *o.ReplaceAttr
	}
	return f.put(ctx, dst, from.data, a, from.info.Checksums, nil, ""), nil
}

func (f *fake) Mkdir(ctx context.Context, p core.Path, o core.MkdirOptions) (core.Info, error) {
	unlock, err := f.enter("Mkdir")
	if err != nil {
		return core.Info{}, err
	}
	defer unlock()
	if o.Marker {
		return f.put(ctx, p, nil, core.FileAttr{Headers: o.Headers, User: o.User}, nil, nil, ""), nil
	}
	if _, err := f.stat(p); err == nil {
		return core.Info{}, errs.E("fake", "", errs.Exist, nil)
	}
	f.dirs[p.String()] = core.Info{ModTime: epoch, Owner: core.PrincipalOf(ctx).User}
	return f.dirs[p.String()], nil
}

func (f *fake) Remove(ctx context.Context, p core.Path, o core.RemoveOptions) error {
	unlock, err := f.enter("Remove")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := f.stat(p); err != nil {
		return err
	}
	if err := f.check(p, o.Cond); err != nil {
		return err
	}
	if !o.Prune {
		for k := range f.files {
			if strings.HasPrefix(k, p.String()) {
				return errs.E("fake", "", errs.NotEmpty, nil)
			}
		}
		delete(f.dirs, p.String())
	}
	delete(f.files, p.String())
	return nil
}

func (f *fake) Compose(context.Context, core.Path, []core.Path) (core.Info, error) {
	return core.Info{}, errs.Unsupported
}

func (f *fake) Rename(context.Context, core.Path, core.Path, core.RenameOptions) error {
	return errs.Unsupported
}

func (f *fake) CreateUpload(ctx context.Context, p core.Path, o core.CreateOptions) (string, error) {
	unlock, err := f.enter("CreateUpload")
	if err != nil {
		return "", err
	}
	defer unlock()
	f.n++
	id := fmt.Sprintf("upload-%04d", f.n)
	f.uploads[id] = &fakeUpload{Upload: core.Upload{ID: id, Path: p, Initiated: epoch, Owner: core.PrincipalOf(ctx).User, Attr: o.Attr, Checksum: o.Checksum},
		path: p, parts: map[int]fakePart{}}
	return id, nil
}

func (f *fake) upload(p core.Path, id string) (*fakeUpload, error) {
	u, ok := f.uploads[id]
	if !ok || u.path != p || u.done.ETag != "" {
		return nil, missing(p)
	}
	return u, nil
}

func (f *fake) PutPart(ctx context.Context, p core.Path, id string, number int, size int64) (core.Writer, error) {
	unlock, err := f.enter("PutPart")
	if err != nil {
		return nil, err
	}
	defer unlock()
	u, err := f.upload(p, id)
	if err != nil {
		return nil, err
	}
	return &fakeWriter{size: size, commit: func(data []byte, c core.CommitOptions) (core.Info, error) {
		sum := md5.Sum(data)
		etag := hex.EncodeToString(sum[:])
		f.mu.Lock()
		defer f.mu.Unlock()
		u.parts[number] = fakePart{core.Part{Number: number, Size: int64(len(data)), ETag: etag, ModTime: epoch, Checksums: c.Checksums}, data}
		return core.Info{ETag: etag, Size: int64(len(data)), ModTime: epoch}, nil
	}}, nil
}

func (f *fake) CopyPart(ctx context.Context, p core.Path, id string, number int, src core.Path, r core.Range) (core.Part, error) {
	rd, err := f.Open(ctx, src, r)
	if err != nil {
		return core.Part{}, err
	}
	w, err := f.PutPart(ctx, p, id, number, -1)
	if err != nil {
		return core.Part{}, err
	}
	if _, err := io.Copy(w, rd); err != nil {
		return core.Part{}, err
	}
	info, err := w.Commit(ctx, core.CommitOptions{})
	return core.Part{Number: number, ETag: info.ETag, ModTime: info.ModTime}, err
}

func (f *fake) CompleteUpload(ctx context.Context, p core.Path, id string, parts []core.Part, o core.CompleteOptions) (core.Info, error) {
	unlock, err := f.enter("CompleteUpload")
	if err != nil {
		return core.Info{}, err
	}
	defer unlock()
	u, ok := f.uploads[id]
	if !ok {
		return core.Info{}, missing(p)
	}
	if u.done.ETag != "" {
		return u.done, nil
	}
	var data, sums []byte
	var sizes []int64
	for i, part := range parts {
		have, ok := u.parts[part.Number]
		if !ok || have.ETag != part.ETag {
			return core.Info{}, &core.PartError{Number: part.Number, ETag: part.ETag}
		}
		if i < len(parts)-1 && have.Size < 5<<20 {
			return core.Info{}, &core.PartError{Number: part.Number, ETag: part.ETag, TooSmall: true, Size: have.Size}
		}
		sum := md5.Sum(have.data)
		data, sums, sizes = append(data, have.data...), append(sums, sum[:]...), append(sizes, have.Size)
	}
	if err := f.check(p, o.Cond); err != nil {
		return core.Info{}, err
	}
	whole := md5.Sum(sums)
	u.done = f.put(ctx, p, data, u.Attr, o.Checksums, sizes, fmt.Sprintf("%x-%d", whole, len(parts)))
	return u.done, nil
}

func (f *fake) AbortUpload(ctx context.Context, p core.Path, id string) error {
	unlock, err := f.enter("AbortUpload")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := f.upload(p, id); err != nil {
		return err
	}
	delete(f.uploads, id)
	return nil
}

func (f *fake) ListUploads(ctx context.Context, dir core.Path, prefix, afterKey, afterID string) iter.Seq2[core.Upload, error] {
	return func(yield func(core.Upload, error) bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		var all []core.Upload
		for _, u := range f.uploads {
			name, ok := dir.Rel(u.path)
			if !ok || !strings.HasPrefix(name, prefix) || u.done.ETag != "" || name < afterKey ||
				name == afterKey && (afterID == "" || u.ID <= afterID) {
				continue
			}
			up := u.Upload
			up.Name = name
			all = append(all, up)
		}
		slices.SortFunc(all, func(a, b core.Upload) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
		for _, u := range all {
			if !yield(u, nil) {
				return
			}
		}
	}
}

func (f *fake) ListParts(ctx context.Context, p core.Path, id string, after int) (core.Upload, iter.Seq2[core.Part, error], error) {
	unlock, err := f.enter("ListParts")
	if err != nil {
		return core.Upload{}, nil, err
	}
	defer unlock()
	u, err := f.upload(p, id)
	if err != nil {
		return core.Upload{}, nil, err
	}
	return u.Upload, func(yield func(core.Part, error) bool) {
		for _, n := range slices.Sorted(maps.Keys(u.parts)) {
			if n > after && !yield(u.parts[n].Part, nil) {
				return
			}
		}
	}, nil
}
