package remote

import (
	"errors"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// refuse tells the client why what it asked for does not come.
func refuse(st rawStream, err error) error {
	var c coder
	if other, moved := errors.AsType[*NotLeaderError](err); moved {
		c.notLeader(0, other)
	} else {
		c.b = append(c.b, kindFault)
		c.fault(&err)
	}
	return st.SendMsg(plain(c.b))
}

// both returns err, with what the clean-up after it failed with.
func both(err, cleanup error) error {
	if cleanup == nil {
		return err
	}
	return errors.Join(err, cleanup)
}

// read serves one reader.
func (s *Server) read(st grpc.ServerStream) error {
	kind, c, err := receive(st, true)
	if err != nil {
		return err
	}
	var h header
	var p core.Path
	var r core.Range
	c.header(&h)
	c.pathRange(&p, &r)
	if err := c.finish(); err != nil || kind != kindOpen {
		return status.Error(codes.InvalidArgument, "the stream does not begin with what to open")
	}
	ctx, cancel, err := s.admit(st.Context(), &h)
	if err != nil {
		return refuse(st, err)
	}
	defer cancel()
	s.busy.readers.Add(1)
	defer s.busy.readers.Add(-1)
	rd, err := s.o.Tree.Open(ctx, p, r)
	if err != nil {
		return refuse(st, err)
	}
	out := sender{st: st, pool: s.buffers}
	err = out.sendAll(rd)
	if err = both(err, rd.Close()); err != nil {
		out.drop()
		return refuse(st, err)
	}
	return nil
}

// sender sends what is written to it in chunks. What is buffered never outlives the stream.
type sender struct {
	st   rawStream
	pool mem.BufferPool
	left int64 // how much is still to be written
	buf  *[]byte
	n    int // bytes in buf
}

// sendAll sends what rd was opened for, after what it is.
func (s *sender) sendAll(rd core.Reader) error {
	info := rd.Info()
	off, n := rd.Span()
	head := coder{b: []byte{kindOpen}}
	head.info(&info)
	head.varint(&off)
	head.varint(&n)
	if err := s.st.SendMsg(plain(head.b)); err != nil {
		return err
	}
	s.left = n
	if _, err := rd.WriteTo(s); err != nil {
		return err
	}
	return s.flush()
}

// Write implements io.Writer.
func (s *sender) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if s.buf == nil {
			s.buf = s.pool.Get(int(min(max(s.left, int64(len(p))), chunk)))
		}
		k := copy((*s.buf)[s.n:], p)
		s.n += k
		s.left -= int64(k)
		p = p[k:]
		if s.n < len(*s.buf) {
			continue
		}
		if err := s.flush(); err != nil {
			return written - len(p), err
		}
	}
	return written, nil
}

func (s *sender) flush() error {
	if s.buf == nil {
		return nil
	}
	m := bytesMessage(s.buf, s.n, s.pool)
	s.buf, s.n = nil, 0
	return s.st.SendMsg(m)
}

// drop gives up what is buffered.
func (s *sender) drop() {
	if s.buf != nil {
		s.pool.Put(s.buf)
		s.buf, s.n = nil, 0
	}
}

// write serves one writer. A stream that ends before its Commit is an Abort.
func (s *Server) write(st grpc.ServerStream) error {
	kind, c, err := receive(st, true)
	if err != nil {
		return err
	}
	var h header
	var t target
	var session string
	c.raw(&session)
	c.header(&h)
	c.target(&t)
	if err := c.finish(); err != nil || kind != kindNew || len(session) != len(Session{}) {
		return status.Error(codes.InvalidArgument, "the stream does not begin with what to write")
	}
	ctx, cancel, err := s.admit(st.Context(), &h)
	if err != nil {
		return refuse(st, err)
	}
	defer cancel()
	out, err := s.create(ctx, &t)
	if err != nil {
		return refuse(st, err)
	}
	w := &serverWriter{s: s, st: st, out: out}
	copy(w.session[:], session)
	if err := st.SendMsg(plain([]byte{kindOpen})); err != nil {
		return both(err, out.Abort())
	}
	for !w.ended {
		if err := w.next(); err != nil {
			return both(err, out.Abort())
		}
	}
	return nil
}

// serverWriter is the server's side of a writer.
type serverWriter struct {
	s       *Server
	st      rawStream
	session Session
	out     core.Writer
	ended   bool
}

// next does what the next message says. An error means that the client cannot be told anything any more.
func (w *serverWriter) next() error {
	var m message
	if err := w.st.RecvMsg(&m); err != nil {
		return err
	}
	if m.kind() == kindBytes {
		err := m.body(func(b []byte) error { _, err := w.out.Write(b); return err })
		m.free()
		if err != nil {
			w.ended = true
			return refuse(w.st, both(err, w.out.Abort()))
		}
		return nil
	}
	c := reader(m.take(), true)
	var kind byte
	c.byte(&kind)
	w.ended = true
	w.s.busy.calls.Add(1)
	defer w.s.busy.calls.Add(-1)
	reply := coder{b: []byte{kindAnswer}}
	switch kind {
	case kindCommit:
		if other := w.s.deposed(w.st.Context(), w.commit(&c, &reply)); other != nil {
			return status.Error(codes.Unavailable, other.Error()) // without an answer: the client asks the next leader
		}
	case kindAbort:
		reply.outcome(w.out.Abort(), nil)
	default:
		return status.Error(codes.InvalidArgument, "a message of an unknown kind")
	}
	return w.st.SendMsg(plain(reply.b))
}

// outcome appends the outcome of a call: err, else the values that write writes.
func (c *coder) outcome(err error, write func(c *coder)) {
	if err != nil {
		c.b = append(c.b, outcomeFault)
		c.fault(&err)
		return
	}
	c.b = append(c.b, outcomeValues)
	if write != nil {
		write(c)
	}
}

// commit appends the outcome of the Commit that c describes, which takes place once and never after the client has asked
// for the outcome and been told that there is none. It returns what Commit failed with.
func (w *serverWriter) commit(c, reply *coder) error {
	var h header
	var o core.CommitOptions
	c.header(&h)
	c.commitOptions(&o)
	err := c.finish()
	if err == nil && h.sequence == 0 {
		err = errs.New("remote.Commit", "", errs.Invalid, "a change has a sequence number")
	}
	if err != nil {
		reply.outcome(both(err, w.out.Abort()), nil)
		return nil
	}
	ctx, cancel, err := w.s.admit(w.st.Context(), &h)
	if other, moved := errors.AsType[*NotLeaderError](err); moved {
		err = errs.E("remote.Commit", "", errs.Unavailable, other) // what was staged here is not there
	}
	if err != nil {
		reply.outcome(both(err, w.out.Abort()), nil)
		return nil
	}
	defer cancel()
	id := CallID{w.session, h.sequence}
	ctx, remembered, err := w.s.o.Answers.Begin(ctx, id)
	switch {
	case err != nil:
		reply.outcome(both(err, w.out.Abort()), nil)
		return nil
	case remembered != nil:
		if err := w.out.Abort(); err != nil {
			reply.outcome(err, nil)
			return nil
		}
		reply.b = append(reply.b, remembered...)
		return nil
	}
	// A context that ended is remembered too, as the failure that it is: the bytes are gone, and the Commit cannot be made
	// later.
	mark := len(reply.b)
	info, err := w.out.Commit(ctx, o)
	reply.outcome(err, func(c *coder) { c.info(&info) })
	w.s.o.Answers.End(id, slices.Clone(reply.b[mark:]))
	return err
}
