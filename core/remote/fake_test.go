package remote_test

import (
	"bytes"
	"context"
	"io"
	"sync"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/remote"
)

// fake is a Tree of functions. A method without one is not called by the test.
type fake struct {
	remote.LeaderTree
	stat    func(ctx context.Context, p core.Path) (core.Info, error)
	rename  func(ctx context.Context, src, dst core.Path) error
	setAttr func(ctx context.Context, p core.Path) (core.Info, error)
	mkdir   func(ctx context.Context, p core.Path) (core.Info, error)
	open    func(ctx context.Context, p core.Path, r core.Range) (core.Reader, error)
	create  func(ctx context.Context, p core.Path, o core.CreateOptions) (core.Writer, error)
}

func (f *fake) Follow(context.Context, []byte) ([]byte, error) {
	return nil, errs.New("test.Follow", "", errs.Conflict, "nothing was renamed")
}

func (f *fake) Stat(ctx context.Context, p core.Path) (core.Info, error) { return f.stat(ctx, p) }

func (f *fake) Rename(ctx context.Context, src, dst core.Path, _ core.RenameOptions) error {
	return f.rename(ctx, src, dst)
}

func (f *fake) SetAttr(ctx context.Context, p core.Path, _ core.AttrChange) (core.Info, error) {
	return f.setAttr(ctx, p)
}

func (f *fake) Mkdir(ctx context.Context, p core.Path, _ core.MkdirOptions) (core.Info, error) {
	return f.mkdir(ctx, p)
}

func (f *fake) Open(ctx context.Context, p core.Path, r core.Range) (core.Reader, error) {
	return f.open(ctx, p, r)
}

func (f *fake) Create(ctx context.Context, p core.Path, o core.CreateOptions) (core.Writer, error) {
	return f.create(ctx, p, o)
}

func named(_ context.Context, p core.Path) (core.Info, error) {
	return core.Info{Path: p, Name: p.Name()}, nil
}

// fakeWriter keeps what is written, and how it ended.
type fakeWriter struct {
	ctx    context.Context
	commit func(ctx context.Context, w *fakeWriter) (core.Info, error)
	ended  chan string // told "commit" or "abort", once

	mu   sync.Mutex
	data bytes.Buffer
	once sync.Once
}

func newFakeWriter(ctx context.Context) *fakeWriter {
	return &fakeWriter{ctx: ctx, ended: make(chan string, 1)}
}

func (w *fakeWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.data.Write(p)
}

func (w *fakeWriter) Commit(ctx context.Context, _ core.CommitOptions) (i core.Info, err error) {
	i = core.Info{Size: int64(w.data.Len())}
	if w.commit != nil {
		i, err = w.commit(ctx, w)
	}
	w.once.Do(func() { w.ended <- "commit" })
	return i, err
}

func (w *fakeWriter) Abort() error {
	w.once.Do(func() { w.ended <- "abort" })
	return nil
}

// fakeReader reads src, and tells when it is closed.
type fakeReader struct {
	io.Reader
	info   core.Info
	off, n int64
	closed chan struct{}
}

func (r *fakeReader) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, r.Reader) }
func (r *fakeReader) Info() core.Info                    { return r.info }
func (r *fakeReader) Span() (off, n int64)               { return r.off, r.n }
func (r *fakeReader) Close() error                       { close(r.closed); return nil }
