package gateway

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// progressConn is a connection of progressListener. It renews the deadline of writes as it makes progress; reads are left to
// http.Server, whose own deadlines it must not touch: between requests, and while a handler runs, a silent peer is what is
// expected. One goroutine at a time may write.
type progressConn struct {
	*net.TCPConn
	till time.Time // the deadline of writes

	header http.Header // of one response after the other
	lines  []byte      // of the next response's header section, to be written behind its status line

	// The header section of a response waits here for the body that send is given, to leave with it.
	holding bool
	held    []byte
	body    memory
	raw     syscall.RawConn // nil until it is needed
}

const (
	// piece is how much is written under one deadline: a peer that takes less than 1 MiB in ten minutes is gone.
	piece = 1 << 20

	// least is the length of a body in bytes from which on send is worth its way: a shorter one fits into net/http's buffer
	// together with its header section, and leaves with one write anyway.
	least = 2 << 10

	// copied is the length up to which a body is copied behind its header section. A second system call costs more.
	copied = 32 << 10
)

// emptyHeader returns the header of the next response. That of the one before is gone with it.
func (c *progressConn) emptyHeader() http.Header {
	if len(c.header) > keptFields || c.header == nil {
		c.header = make(http.Header, 16)
	}
	clear(c.header)
	return c.header
}

// keptFields is how many fields a header may have had whose memory a connection keeps.
const keptFields = 32

// keptLines is the memory in bytes that a connection keeps for lines of header sections.
const keptLines = 4 << 10

// putHeader has h sent with the response that is about to begin, but for the fields that net/http gives a meaning or writes
// itself: those it puts into own, net/http's header of the response. net/http copies a header before it is sent, sorts it and
// looks for each name's validity, which costs as much as verifying a signature.
func (c *progressConn) putHeader(h, own http.Header) {
	if cap(c.lines) > keptLines {
		c.lines = nil
	}
	c.lines = c.lines[:0]
	for name, values := range h {
		if !plainField(name) || slices.ContainsFunc(values, unclean) {
			own[name] = values
			continue
		}
		for _, v := range values {
			c.lines = append(append(append(append(c.lines, name...), ": "...), v...), "\r\n"...)
		}
	}
}

// plainField reports whether a header field is only to be written: its name is valid and means nothing to net/http.
func plainField(name string) bool {
	switch name {
	case "Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Connection", "Date", "Trailer", "Upgrade":
		return false
	}
	for i := range len(name) {
		if c := name[i] | 0x20; (c < 'a' || c > 'z') && name[i] != '-' && (name[i] < '0' || name[i] > '9') {
			return false
		}
	}
	return name != "" && !strings.HasPrefix(name, http.TrailerPrefix)
}

// unclean reports whether a value cannot be written as it is. net/http cleans it.
func unclean(v string) bool {
	for i := range len(v) {
		if v[i] < ' ' || v[i] == 0x7f {
			return true
		}
	}
	return v != "" && (v[0] == ' ' || v[len(v)-1] == ' ')
}

// renew moves the deadline of writes on, at each tenth of its time: setting it costs more than a small write should.
func (c *progressConn) renew() error {
	now := time.Now()
	if c.till.Sub(now) > stall-stall/10 {
		return nil
	}
	c.till = now.Add(stall)
	return c.TCPConn.SetWriteDeadline(c.till)
}

// SetWriteDeadline implements net.Conn. http.Server takes the deadline away after each response: the next write sets its
// own.
func (c *progressConn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	c.till = time.Time{}
	return c.TCPConn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *progressConn) SetDeadline(t time.Time) error {
	c.till = time.Time{}
	return c.TCPConn.SetDeadline(t)
}

// Write implements net.Conn.
func (c *progressConn) Write(p []byte) (written int, err error) {
	if len(c.held) > 0 || !c.holding && len(c.lines) == 0 {
		return c.write(p)
	}
	status := 0 // length of the status line
	if len(c.lines) > 0 {
		status = bytes.IndexByte(p, '\n') + 1
	}
	c.held = append(append(append(c.held, p[:status]...), c.lines...), p[status:]...)
	more := len(c.lines)
	c.lines = c.lines[:0]
	if c.holding {
		return len(p), nil
	}
	n, err := c.writeHeld()
	return max(0, n-more), err
}

// write writes what is held, and p behind it.
func (c *progressConn) write(p []byte) (written int, err error) {
	if err := c.release(len(p) > 0); err != nil {
		return 0, err
	}
	for {
		if err := c.renew(); err != nil {
			return written, err
		}
		n, err := c.TCPConn.Write(p[:min(len(p), piece)])
		written += n
		if p = p[n:]; err != nil || len(p) == 0 {
			return written, err
		}
	}
}

// send writes p as part of the response w, which is sent on c: straight from p, and what of the header section w has not sent
// yet leaves together with it.
func (c *progressConn) send(w io.ReaderFrom, p []byte) (int, error) {
	c.holding, c.body.rest = true, p
	defer func() {
		c.holding, c.body.rest = false, nil
		if c.release(false) != nil {
			_ = c.Close() // what comes next would be taken for what is missing
		}
	}()
	n, err := w.ReadFrom(&c.body)
	return int(n), err
}

// sendMemory writes the rest of m behind what is held.
func (c *progressConn) sendMemory(m *memory) (written int64, err error) {
	p := m.rest
	m.rest = nil
	if len(c.held) > 0 && len(p) <= copied {
		head := len(c.held)
		c.held = append(c.held, p...)
		n, err := c.writeHeld()
		return int64(max(0, n-head)), err
	}
	n, err := c.write(p)
	return int64(n), err
}

// writeHeld writes what is held.
func (c *progressConn) writeHeld() (n int, err error) {
	p := c.held
	c.held = nil
	n, err = c.write(p)
	if cap(p) <= copied {
		c.held = p[:0]
	}
	return n, err
}

// release sends what is held. If there is more to come at once, the system keeps it back until then.
func (c *progressConn) release(more bool) error {
	if len(c.held) == 0 {
		return nil
	}
	if !more {
		_, err := c.writeHeld()
		return err
	}
	defer func() { c.held = c.held[:0] }()
	if err := c.renew(); err != nil {
		return err
	}
	if c.raw == nil {
		var err error
		if c.raw, err = c.SyscallConn(); err != nil {
			return err
		}
	}
	var failed error
	for p := c.held; len(p) > 0; {
		err := c.raw.Write(func(fd uintptr) bool {
			var n int
			n, failed = unix.SendmsgN(int(fd), p, nil, nil, unix.MSG_MORE)
			p = p[max(0, n):]
			return failed != unix.EAGAIN
		})
		if err != nil {
			return err
		}
		if failed != nil && failed != unix.EINTR {
			return &net.OpError{Op: "write", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: failed}
		}
	}
	return nil
}

// ReadFrom sends what net/http has been given by send, and keeps sendfile: it hands the connection limited readers of files,
// as net/http made them, in pieces.
func (c *progressConn) ReadFrom(r io.Reader) (written int64, err error) {
	if m, ok := r.(*memory); ok {
		return c.sendMemory(m)
	}
	rest := int64(-1)
	if l, ok := r.(*io.LimitedReader); ok {
		r, rest = l.R, l.N
		defer func() { l.N -= written }()
	}
	for rest != 0 {
		if err := c.renew(); err != nil {
			return written, err
		}
		limit := int64(piece)
		if rest >= 0 {
			limit = min(limit, rest)
		}
		n, err := c.TCPConn.ReadFrom(&io.LimitedReader{R: r, N: limit})
		written += n
		if err != nil || n < limit {
			return written, err
		}
		if rest > 0 {
			rest -= n
		}
	}
	return written, nil
}

// WriteTo is hidden: nothing reads a connection that way, and its deadlines would be nobody's.
func (c *progressConn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c.TCPConn})
}

// memory is bytes that are sent as they lie.
type memory struct{ rest []byte }

// Read implements io.Reader.
func (m *memory) Read(p []byte) (int, error) {
	if len(m.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

// withConn keeps a connection for connOf. Connections over TLS are not what bytes can be sent on as they lie.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(*progressConn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// connOf returns the connection whose request ctx is of, nil if there is none that can send.
func connOf(ctx context.Context) *progressConn {
	c, _ := ctx.Value(connKey{}).(*progressConn)
	return c
}
