package remote

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// Create implements core.Namespace. A small file of a known size that is not appended to goes with its names at Commit;
// another has a stream of its own, which lives until the writer ends or ctx does.
func (c *Client) Create(ctx context.Context, p core.Path, o core.CreateOptions) (core.Writer, error) {
	t := target{path: p, file: o}
	return c.create(ctx, t, methodPut, o.Mode != core.Append)
}

// PutPart implements core.Uploads, as Create.
func (c *Client) PutPart(ctx context.Context, p core.Path, id string, number int, size int64) (core.Writer, error) {
	t := target{path: p, part: true, id: id, number: number, size: size}
	return c.create(ctx, t, methodPutPart, true)
}

func (c *Client) create(ctx context.Context, t target, m method, whole bool) (core.Writer, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if size := t.known(); whole && size >= 0 && size <= SmallWrite {
		return &smallWriter{c: c, ctx: ctx, method: m, target: t, data: make([]byte, 0, size)}, nil
	}
	var w *streamWriter
	err := c.start(ctx, describe[m].name, t.path, func(l *link) (no *refusal, err error) {
		w, no, err = c.openWriter(ctx, l, t)
		return no, err
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// errEnded is what a writer that has ended answers.
func errEnded(p core.Path) error {
	return errs.New("remote.Write", p.String(), errs.Invalid, "the writer has ended")
}

// smallWriter implements core.Writer for what one call can carry.
type smallWriter struct {
	c      *Client
	ctx    context.Context // of Create, kept since its end is as good as Abort
	method method
	target target
	data   []byte
	err    error
	ended  bool
}

// Write implements io.Writer.
func (w *smallWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.ended {
		return 0, errEnded(w.target.path)
	}
	if int64(len(w.data)+len(p)) > w.target.known() {
		w.err = errs.New("remote.Write", w.target.path.String(), errs.Invalid, "more bytes than were announced")
		return 0, w.err
	}
	w.data = append(w.data, p...)
	return len(p), nil
}

// Commit implements core.Writer. It is one call, which is made once.
func (w *smallWriter) Commit(ctx context.Context, o core.CommitOptions) (core.Info, error) {
	if w.ended {
		return core.Info{}, errEnded(w.target.path)
	}
	w.ended = true
	if w.err == nil && w.ctx.Err() != nil {
		w.err = context.Cause(w.ctx)
	}
	if w.err != nil {
		return core.Info{}, w.err
	}
	// The call is made as whoever created the file.
	return w.c.info(core.WithPrincipal(ctx, core.PrincipalOf(w.ctx)), w.method, func(out *coder) {
		data := string(w.data)
		out.putArgs(&w.target, &o, &data)
	})
}

// Abort implements core.Writer.
func (w *smallWriter) Abort() error {
	w.ended, w.data = true, nil
	return nil
}

// streamWriter implements core.Writer with a stream.
type streamWriter struct {
	c      *Client
	ctx    context.Context // of Create
	cancel context.CancelFunc
	st     grpc.ClientStream
	epoch  uint64 // of the answers' memory where it was begun
	path   core.Path
	buf    *[]byte // the chunk that is being filled; nil if there is none
	n      int     // bytes in buf
	err    error   // why no more can be written
	ended  bool
}

func (c *Client) openWriter(ctx context.Context, l *link, t target) (*streamWriter, *refusal, error) {
	sctx, cancel := context.WithCancel(ctx)
	w := &streamWriter{c: c, ctx: ctx, cancel: cancel, epoch: l.epoch, path: t.path}
	no, err := w.begin(sctx, l, t)
	if err != nil || no != nil {
		cancel()
		return nil, no, err
	}
	return w, nil, nil
}

func (w *streamWriter) begin(ctx context.Context, l *link, t target) (_ *refusal, err error) {
	desc := &grpc.StreamDesc{StreamName: "Write", ServerStreams: true, ClientStreams: true}
	if w.st, err = l.conn.bytes.NewStream(ctx, desc, writeMethod); err != nil {
		return nil, err
	}
	h := header{principal: w.c.principalOf(w.ctx)}
	h.set(w.ctx)
	ask := coder{b: []byte{kindNew}}
	session := string(w.c.session[:])
	ask.raw(&session)
	ask.header(&h)
	ask.target(&t)
	if err := w.st.SendMsg(plain(ask.b)); err != nil && err != io.EOF {
		return nil, err
	}
	kind, c, err := receive(w.st, true)
	if err != nil {
		return nil, err
	}
	if kind != kindOpen {
		return &refusal{kind, c}, nil
	}
	return nil, c.finish()
}

// Write implements io.Writer.
func (w *streamWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.ended {
		return 0, errEnded(w.path)
	}
	written := len(p)
	for len(p) > 0 {
		if w.buf == nil {
			w.buf = w.c.buffers.Get(chunk)
		}
		k := copy((*w.buf)[w.n:], p)
		w.n += k
		p = p[k:]
		if w.n < len(*w.buf) {
			continue
		}
		if err := w.flush(); err != nil {
			return written - len(p), err
		}
	}
	return written, nil
}

// flush sends what is buffered.
func (w *streamWriter) flush() error {
	if w.buf == nil {
		return nil
	}
	m := bytesMessage(w.buf, w.n, w.c.buffers)
	w.buf, w.n = nil, 0
	if err := w.st.SendMsg(m); err != nil {
		w.err = w.why(err)
	}
	return w.err
}

// why returns the error of a stream on which SendMsg failed: what the server said, if it said something.
func (w *streamWriter) why(err error) error {
	if err == io.EOF {
		var kind byte
		var c coder
		if kind, c, err = receive(w.st, true); err == nil {
			return w.said(kind, &c, nil)
		}
	}
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return errs.E("remote.Write", w.path.String(), errs.Unavailable, err)
}

// said returns the error that a message tells of, nil if it is an answer, whose values result reads.
func (w *streamWriter) said(kind byte, c *coder, result func(c *coder)) error {
	switch kind {
	case kindFault:
		var err error
		c.fault(&err)
		if c.finish() == nil {
			return err
		}
	case kindAnswer:
		return (&op{}).read(*c, result)
	default:
		c.fail("a message of an unknown kind")
	}
	return broken(c.finish())
}

// Commit implements core.Writer.
func (w *streamWriter) Commit(ctx context.Context, o core.CommitOptions) (i core.Info, err error) {
	if w.ended {
		return i, errEnded(w.path)
	}
	w.ended = true
	defer w.cancel()
	if w.err == nil && w.ctx.Err() != nil {
		w.err = context.Cause(w.ctx)
	}
	if w.err != nil || w.flush() != nil {
		w.drop()
		return i, w.err
	}
	if ctx.Err() != nil {
		return i, context.Cause(ctx)
	}
	h := header{principal: w.c.principalOf(ctx)}
	h.set(ctx)
	h.sequence, h.below = w.c.begin()
	defer w.c.end(h.sequence)
	say := coder{b: []byte{kindCommit}}
	say.header(&h)
	say.commitOptions(&o)
	if err := w.st.SendMsg(plain(say.b)); err != nil && err != io.EOF {
		return i, w.why(err)
	}
	stop := context.AfterFunc(ctx, w.cancel)
	defer stop()
	kind, c, err := receive(w.st, true)
	if err != nil {
		return w.outcome(ctx, h.sequence, err)
	}
	err = w.said(kind, &c, func(in *coder) { in.info(&i) })
	return i, err
}

// outcome asks what became of a Commit whose answer did not come. Only the server knows: it is asked even if ctx has ended,
// for the time of Silence.
func (w *streamWriter) outcome(ctx context.Context, sequence uint64, cause error) (i core.Info, err error) {
	if ctx.Err() != nil {
		cause = context.Cause(ctx)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), w.c.o.Silence)
		defer cancel()
	}
	o := &op{
		method: methodOutcome, sent: true, epoch: w.epoch, reply: make(chan reply, 1),
		head: header{principal: w.c.principalOf(ctx), sequence: sequence, below: w.c.acknowledged()},
	}
	err = w.c.do(ctx, o, func(in *coder) { in.info(&i) })
	if errors.Is(err, context.DeadlineExceeded) {
		err = unknown(o, cause)
	}
	return i, err
}

// Abort implements core.Writer. It waits until the server has dropped the bytes, for the time of Silence at most; a server
// that is not heard drops them when it finds the stream broken.
func (w *streamWriter) Abort() error {
	if w.ended {
		return nil
	}
	w.ended = true
	defer w.cancel()
	w.drop()
	if w.err != nil || w.ctx.Err() != nil {
		return nil
	}
	stop := time.AfterFunc(w.c.o.Silence, w.cancel)
	defer stop.Stop()
	if err := w.st.SendMsg(plain([]byte{kindAbort})); err != nil {
		return nil // the stream is broken, which is an Abort
	}
	kind, c, err := receive(w.st, true)
	if err != nil {
		return nil // likewise
	}
	return w.said(kind, &c, nil)
}

// drop gives up what is buffered.
func (w *streamWriter) drop() {
	if w.buf != nil {
		w.c.buffers.Put(w.buf)
		w.buf, w.n = nil, 0
	}
}
