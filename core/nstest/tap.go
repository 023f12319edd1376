package nstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/sluicefs/sluice/ufs"
)

// tap is a decorator of stores whose hook sees every call before it is made and can hold it up or make it fail. It is
// installed in every fixture; without a hook it changes nothing.
type tap struct {
	mu   sync.Mutex
	hook func(c call) verdict
}

// call is one call of a store. op is the method's name; "Commit" is a writer's, "Read" a reader's first.
type call struct {
	op, name string
	ctx      context.Context
}

// verdict says what becomes of a call: it fails with before and is not made, or is made and then fails with after, or
// (done) is told of.
type verdict struct {
	before, after error
	done          func()
}

// errShowsNothing after a List makes its answer one without names.
var errShowsNothing = errors.New("the store shows nothing")

// set installs the hook; nil removes it.
func (x *tap) set(hook func(c call) verdict) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hook = hook
}

func (x *tap) wrap(s ufs.Store) ufs.Store {
	t := &tapped{Store: s, x: x}
	return t
}

// do makes one call.
func (x *tap) do(ctx context.Context, op, name string, fn func() error) error {
	x.mu.Lock()
	hook := x.hook
	x.mu.Unlock()
	var v verdict
	if hook != nil {
		v = hook(call{op, name, ctx})
	}
	if v.before != nil {
		return v.before
	}
	err := fn()
	if v.done != nil {
		v.done()
	}
	if v.after != nil {
		return v.after
	}
	return err
}

// tapped is a store under a tap. It has every ability; Features say whether the store behind it has.
type tapped struct {
	ufs.Store
	x *tap
}

var (
	_ ufs.Renamer     = (*tapped)(nil)
	_ ufs.Mkdirer     = (*tapped)(nil)
	_ ufs.Trasher     = (*tapped)(nil)
	_ ufs.Copier      = (*tapped)(nil)
	_ ufs.Appender    = (*tapped)(nil)
	_ ufs.AttrSetter  = (*tapped)(nil)
	_ ufs.Composer    = (*tapped)(nil)
	_ ufs.FileRemover = (*tapped)(nil)
	_ ufs.Discarder   = (*tapped)(nil)
	_ ufs.Prober      = (*tapped)(nil)
)

// bare is a store that keeps nothing with a file.
type bare struct{ *tapped }

func (s *bare) Features() ufs.Features {
	f := s.tapped.Features()
	f.Attrs, f.SetAttr, f.MD5ETag = false, false, false
	return f
}

func (s *bare) Stat(ctx context.Context, name string) (ufs.Info, error) {
	i, err := s.tapped.Stat(ctx, name)
	i.Attr, i.ETag, i.Owner, i.Group, i.Mode = ufs.Attr{}, "", "", "", 0
	return i, err
}

func (s *bare) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	return func(yield func(ufs.Info, error) bool) {
		for i, err := range s.tapped.List(ctx, dir, after, flat) {
			if i.Attr, i.ETag, i.Owner, i.Group, i.Mode = (ufs.Attr{}), "", "", "", 0; !yield(i, err) {
				return
			}
		}
	}
}

func (s *tapped) Stat(ctx context.Context, name string) (i ufs.Info, err error) {
	err = s.x.do(ctx, "Stat", name, func() (err error) { i, err = s.Store.Stat(ctx, name); return })
	return i, err
}

func (s *tapped) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	return func(yield func(ufs.Info, error) bool) {
		// The store answers as of the call; what is held up is the answer.
		var all []ufs.Info
		err := s.x.do(ctx, "List", dir, func() error {
			for i, err := range s.Store.List(ctx, dir, after, flat) {
				if err != nil {
					return err
				}
				all = append(all, i)
			}
			return nil
		})
		if errors.Is(err, errShowsNothing) {
			return
		}
		for _, i := range all {
			if !yield(i, nil) {
				return
			}
		}
		if err != nil {
			yield(ufs.Info{}, err)
		}
	}
}

func (s *tapped) Open(ctx context.Context, name string, off, n int64, version string) (r io.ReadCloser, err error) {
	err = s.x.do(ctx, "Open", name, func() (err error) { r, err = s.Store.Open(ctx, name, off, n, version); return })
	if err != nil && r != nil {
		r.Close()
	}
	if err != nil {
		return nil, err
	}
	t := &tappedReader{ReadCloser: r, s: s, ctx: ctx, name: name}
	if c, ok := r.(ufs.Checker); ok {
		return tappedChecker{t, c}, nil
	}
	return t, nil
}

type tappedReader struct {
	io.ReadCloser
	s    *tapped
	ctx  context.Context
	name string
	read bool
}

type tappedChecker struct {
	*tappedReader
	ufs.Checker
}

func (r *tappedReader) Read(p []byte) (n int, err error) {
	if r.read {
		return r.ReadCloser.Read(p)
	}
	r.read = true
	err = r.s.x.do(r.ctx, "Read", r.name, func() (err error) { n, err = r.ReadCloser.Read(p); return })
	return n, err
}

func (s *tapped) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (w ufs.Writer, err error) {
	err = s.x.do(ctx, "Create", name, func() (err error) { w, err = s.Store.Create(ctx, name, size, o); return })
	return s.writer(w, name, err)
}

func (s *tapped) writer(w ufs.Writer, name string, err error) (ufs.Writer, error) {
	if err != nil {
		if w != nil {
			w.Abort()
		}
		return nil, err
	}
	return &tappedWriter{w, s, name}, nil
}

type tappedWriter struct {
	ufs.Writer
	s    *tapped
	name string
}

func (w *tappedWriter) Commit(ctx context.Context) (i ufs.Info, err error) {
	done := false
	err = w.s.x.do(ctx, "Commit", w.name, func() (err error) { done = true; i, err = w.Writer.Commit(ctx); return })
	if !done { // a Commit that fails ends the writer
		w.Writer.Abort()
	}
	return i, err
}

func (s *tapped) Remove(ctx context.Context, name, version string) error {
	return s.x.do(ctx, "Remove", name, func() error { return s.Store.Remove(ctx, name, version) })
}

func (s *tapped) RemoveFiles(ctx context.Context, files []ufs.Versioned) error {
	return s.x.do(ctx, "RemoveFiles", fmt.Sprint(files), func() error { return ufs.RemoveFiles(ctx, s.Store, files) })
}

func (s *tapped) CleanStaging(ctx context.Context, live func(string) bool) error {
	return s.x.do(ctx, "CleanStaging", "", func() error { return s.Store.CleanStaging(ctx, live) })
}

func (s *tapped) Discard(ctx context.Context, token, origin string) error {
	return s.x.do(ctx, "Discard", "", func() error { return ufs.Discard(ctx, s.Store, token, origin) })
}

func (s *tapped) Rename(ctx context.Context, from, to string, replace bool) error {
	return s.x.do(ctx, "Rename", from, func() error { return ufs.Rename(ctx, s.Store, from, to, replace) })
}

func (s *tapped) Mkdir(ctx context.Context, name string, attr ufs.Attr) (i ufs.Info, err error) {
	err = s.x.do(ctx, "Mkdir", name, func() (err error) { i, err = ufs.Mkdir(ctx, s.Store, name, attr); return })
	return i, err
}

func (s *tapped) Trash(ctx context.Context, dir string) error {
	return s.x.do(ctx, "Trash", dir, func() error { return ufs.Trash(ctx, s.Store, dir) })
}

func (s *tapped) Copy(ctx context.Context, from, version, to string, attr *ufs.Attr) (i ufs.Info, err error) {
	err = s.x.do(ctx, "Copy", to, func() (err error) { i, err = ufs.Copy(ctx, s.Store, from, version, to, attr); return })
	return i, err
}

func (s *tapped) Append(ctx context.Context, name, version string, attr ufs.Attr) (w ufs.Writer, err error) {
	err = s.x.do(ctx, "Append", name, func() (err error) { w, err = ufs.Append(ctx, s.Store, name, version, attr); return })
	return s.writer(w, name, err)
}

func (s *tapped) SetAttr(ctx context.Context, name, version string, attr ufs.Attr) (i ufs.Info, err error) {
	err = s.x.do(ctx, "SetAttr", name, func() (err error) { i, err = ufs.SetAttr(ctx, s.Store, name, version, attr); return })
	return i, err
}

func (s *tapped) Probe(ctx context.Context, write bool) error {
	return s.x.do(ctx, "Probe", "", func() error { return ufs.Probe(ctx, s.Store, write) })
}

func (s *tapped) Begin(ctx context.Context, name string, attr ufs.Attr) (id string, err error) {
	c, err := ufs.ComposerOf(s.Store)
	if err != nil {
		return "", err
	}
	err = s.x.do(ctx, "Begin", name, func() (err error) { id, err = c.Begin(ctx, name, attr); return })
	return id, err
}

func (s *tapped) PutPart(ctx context.Context, name, id string, number int, size int64, r io.Reader) (etag string, err error) {
	c, err := ufs.ComposerOf(s.Store)
	if err != nil {
		return "", err
	}
	err = s.x.do(ctx, "PutPart", name, func() (err error) { etag, err = c.PutPart(ctx, name, id, number, size, r); return })
	return etag, err
}

func (s *tapped) CopyPart(ctx context.Context, name, id string, number int, from, version string, off, n int64) (etag string, err error) {
	c, err := ufs.ComposerOf(s.Store)
	if err != nil {
		return "", err
	}
	err = s.x.do(ctx, "CopyPart", name, func() (err error) {
		etag, err = c.CopyPart(ctx, name, id, number, from, version, off, n)
		return
	})
	return etag, err
}

func (s *tapped) Complete(ctx context.Context, name, id string, parts []ufs.Part, o ufs.CreateOptions) (i ufs.Info, err error) {
	c, err := ufs.ComposerOf(s.Store)
	if err != nil {
		return ufs.Info{}, err
	}
	err = s.x.do(ctx, "Complete", name, func() (err error) { i, err = c.Complete(ctx, name, id, parts, o); return })
	return i, err
}

func (s *tapped) Cancel(ctx context.Context, name, id string) error {
	c, err := ufs.ComposerOf(s.Store)
	if err != nil {
		return err
	}
	return s.x.do(ctx, "Cancel", name, func() error { return c.Cancel(ctx, name, id) })
}

func (s *tapped) Lost(ctx context.Context, name string, from, to time.Time) (ids []string, err error) {
	c, err := ufs.ComposerOf(s.Store)
	if err != nil {
		return nil, err
	}
	err = s.x.do(ctx, "Lost", name, func() (err error) { ids, err = c.Lost(ctx, name, from, to); return })
	return ids, err
}
