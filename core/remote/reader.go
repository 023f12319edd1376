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

// remoteReader implements core.Reader. It hands out the bytes as they came from the connection.
type remoteReader struct {
	ctx    context.Context // of the caller
	cancel context.CancelFunc
	st     grpc.ClientStream
	path   core.Path
	info   core.Info
	off, n int64
	left   int64 // bytes that have not come
	m      message
	rest   [][]byte // what is unread of m
	err    error    // what Read returns once rest is empty
}

// openAtLeader opens p for reading from the leader.
func (c *Client) openAtLeader(ctx context.Context, p core.Path, r core.Range) (*remoteReader, error) {
	var rd *remoteReader
	err := c.start(ctx, "Open", p, func(l *link) (no *refusal, err error) {
		rd, no, err = c.open(ctx, l, p, r)
		return no, err
	})
	if err != nil {
		return nil, err
	}
	return rd, nil
}

// refusal is a server's first message on a stream of bytes if it does not accept what was asked for.
type refusal struct {
	kind byte
	c    coder
}

// start begins a stream of bytes with try until a leader has accepted or refused it. try's error is the connection's.
func (c *Client) start(ctx context.Context, op string, p core.Path, try func(l *link) (*refusal, error)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var until time.Time
	for delay := minDelay; ; delay = min(2*delay, maxDelay) {
		l, err := c.leader(ctx, &until)
		if err != nil {
			return err
		}
		no, err := try(l)
		if err == nil && no == nil {
			return nil
		}
		if err == nil {
			if err = l.refused(no.kind, &no.c); !errors.Is(err, errMoved) {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if until.IsZero() {
			until = time.Now().Add(c.o.Patience)
		}
		if time.Until(until) < delay {
			return unanswered("remote."+op, p.String(), false, err)
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// refused returns the error of a stream that was refused: the server's, or errMoved.
func (l *link) refused(kind byte, c *coder) error {
	switch kind {
	case kindFault:
		var err error
		c.fault(&err)
		if c.finish() == nil {
			return err
		}
	case kindLeader:
		var tag uint64
		moved := &NotLeaderError{}
		c.uvarint(&tag)
		text(c, &moved.Leader)
		if c.finish() == nil {
			l.fail(moved)
			return errMoved
		}
	default:
		c.fail("a message of an unknown kind")
	}
	return broken(c.finish())
}

func (c *Client) open(ctx context.Context, l *link, p core.Path, r core.Range) (*remoteReader, *refusal, error) {
	sctx, cancel := context.WithCancel(ctx)
	rd := &remoteReader{ctx: ctx, cancel: cancel, path: p}
	no, err := rd.begin(sctx, l, r)
	if err != nil || no != nil {
		cancel()
		return nil, no, err
	}
	return rd, nil, nil
}

func (r *remoteReader) begin(ctx context.Context, l *link, rg core.Range) (_ *refusal, err error) {
	desc := &grpc.StreamDesc{StreamName: "Read", ServerStreams: true}
	if r.st, err = l.conn.bytes.NewStream(ctx, desc, readMethod); err != nil {
		return nil, err
	}
	h := header{principal: l.c.principalOf(r.ctx)}
	h.set(r.ctx)
	ask := coder{b: []byte{kindOpen}}
	ask.header(&h)
	ask.pathRange(&r.path, &rg)
	// SendMsg's io.EOF says that the stream has ended; RecvMsg says why.
	if err := errors.Join(r.st.SendMsg(plain(ask.b)), r.st.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	kind, c, err := receive(r.st, true)
	if err != nil {
		return nil, err
	}
	if kind != kindOpen {
		return &refusal{kind, c}, nil
	}
	c.info(&r.info)
	c.varint(&r.off)
	c.varint(&r.n)
	r.left = r.n
	if err := c.finish(); err != nil {
		return nil, err
	}
	return nil, nil
}

// Info implements core.Reader.
func (r *remoteReader) Info() core.Info { return r.info }

// Span implements core.Reader.
func (r *remoteReader) Span() (off, n int64) { return r.off, r.n }

// Read implements io.Reader.
func (r *remoteReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.rest) == 0 {
		if r.err == nil {
			r.err = r.next()
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	k := copy(p, r.rest[0])
	if r.rest[0] = r.rest[0][k:]; len(r.rest[0]) == 0 {
		r.rest = r.rest[1:]
	}
	return k, nil
}

// WriteTo implements io.WriterTo.
func (r *remoteReader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		for len(r.rest) > 0 {
			k, err := w.Write(r.rest[0])
			n += int64(k)
			if r.rest[0] = r.rest[0][k:]; err != nil {
				return n, err
			}
			r.rest = r.rest[1:]
		}
		if r.err == nil {
			r.err = r.next()
		}
		if r.err == io.EOF {
			return n, nil
		}
		if r.err != nil {
			return n, r.err
		}
	}
}

// next receives what comes next: bytes, or the error with which the reader ends, io.EOF at the end.
func (r *remoteReader) next() error {
	r.m.free()
	r.rest = r.rest[:0]
	err := r.st.RecvMsg(&r.m)
	switch {
	case err == io.EOF && r.left == 0:
		return io.EOF
	case err == io.EOF:
		return errs.E("remote.Read", r.path.String(), errs.Unavailable, io.ErrUnexpectedEOF)
	case err != nil && r.ctx.Err() != nil:
		return context.Cause(r.ctx)
	case err != nil:
		return errs.E("remote.Read", r.path.String(), errs.Unavailable, err)
	}
	if r.m.kind() != kindBytes {
		c := reader(r.m.take(), true)
		var kind byte
		c.byte(&kind)
		return faultOf(kind, &c)
	}
	r.left -= int64(r.m.parts.Len() - 1)
	if r.left < 0 {
		return broken(errors.New("more bytes than the file has"))
	}
	return r.m.body(func(b []byte) error { r.rest = append(r.rest, b); return nil })
}

// Close implements io.Closer. The server stops reading.
func (r *remoteReader) Close() error {
	r.cancel()
	r.m.free()
	r.rest = nil
	if r.err == nil {
		r.err = errs.New("remote.Read", r.path.String(), errs.Invalid, "the reader is closed")
	}
	return nil
}

// faultOf returns the error that c has.
func faultOf(kind byte, c *coder) error {
	var err error
	if kind != kindFault {
		c.fail("a message of an unknown kind")
	} else {
		c.fault(&err)
	}
	if bad := c.finish(); bad != nil {
		return broken(bad)
	}
	return err
}
