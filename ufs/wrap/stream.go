package wrap

import (
	"context"
	"io"

	"github.com/sluicefs/sluice/ufs"
)

// stream is the life of a reader, a writer or a listing: its ctx lasts beyond the call that began it, and ends early if
// the decorator gives up a call on it.
type stream struct {
	b      *base
	name   string
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (b *base) stream(ctx context.Context, name string) *stream {
	s := &stream{b: b, name: name}
	if b.under != nil {
		ctx = b.under(ctx)
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s
}

func (s *stream) call(c *call, do func(*call) error) error {
	return s.b.run(s.ctx, c, func(ctx context.Context) error {
		if ctx.Done() != s.ctx.Done() { // else it ends when the stream does
			stop := context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })
			defer stop()
		}
		return do(c)
	})
}

type reader struct {
	*stream
	inner io.ReadCloser
}

func (r reader) Read(p []byte) (int, error) {
	c := &call{op: Read, name: r.name, size: len(p)}
	eof := false
	err := r.call(c, func(c *call) (err error) {
		c.n, err = r.inner.Read(p[:c.size])
		if eof = err == io.EOF; eof { //nolint:errorlint // io.Reader returns it bare
			err = nil // the end is no failure
		}
		return err
	})
	if err == nil && eof {
		err = io.EOF
	}
	return c.n, err
}

func (r reader) Close() error {
	defer r.cancel(nil)
	return r.inner.Close()
}

// checkedReader is a reader whose inner one is a ufs.Checker.
type checkedReader struct {
	reader
	check ufs.Checker
}

// Check implements ufs.Checker. It may ask a store over a network, and counts as a call like any other.
func (r checkedReader) Check() error {
	return r.call(&call{op: Check, name: r.name}, func(*call) error { return r.check.Check() })
}

type writer struct {
	*stream
	ufs.Writer
	dropped *bool // somebody else aborts it
}

// writer begins a writer by open.
func (b *base) writer(
	ctx context.Context, op Op, name string, open func(context.Context) (ufs.Writer, error),
) (ufs.Writer, error) {
	w := writer{stream: b.stream(ctx, name), dropped: new(bool)}
	err := w.call(&call{op: op, name: name}, func(*call) (err error) {
		w.Writer, err = open(w.ctx)
		return err
	})
	if err != nil {
		if w.Writer != nil {
			_ = w.Writer.Abort() // begun, and then refused by the decorator
		}
		w.cancel(nil)
		return nil, err
	}
	return w, nil
}

func (w writer) Write(p []byte) (int, error) {
	c := &call{op: Write, name: w.name, size: len(p)}
	err := w.call(c, func(c *call) (err error) {
		c.n, err = w.Writer.Write(p)
		return err
	})
	return c.n, err
}

func (w writer) Prepare(ctx context.Context) error {
	return w.b.do(ctx, Prepare, w.name, func(ctx context.Context) error { return ufs.Prepare(ctx, w.Writer) })
}

func (w writer) Commit(ctx context.Context) (ufs.Info, error) {
	in, err := get(ctx, w.b, Commit, w.name, w.Writer.Commit)
	if err != nil {
		if !w.dropsApart() {
			_ = w.Writer.Abort() // nothing to do if the store has seen the Commit
		}
	}
	w.cancel(nil)
	return in, err
}

// dropsApart reports whether the writer is aborted by somebody else, so that nobody else may.
func (w writer) dropsApart() bool {
	if !*w.dropped && w.b.apart != nil {
		*w.dropped = w.b.apart(func() { _ = w.Writer.Abort() })
	}
	return *w.dropped
}

func (w writer) Abort() error {
	defer w.cancel(nil)
	if w.dropsApart() {
		return nil
	}
	// What is dropped must be, also if the write was cancelled: the decorator sees a live ctx.
	return w.b.do(context.WithoutCancel(w.ctx), Abort, w.name, func(context.Context) error { return w.Writer.Abort() })
}
