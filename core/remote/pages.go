package remote

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
)

const (
	// pageKept is how long a connection without a request is kept for the next one.
	pageKept = time.Minute
	// maxIdlePages bounds the connections to one worker that are kept without a request.
	maxIdlePages = 64
	// shunned is how long a worker that did not answer is asked after the others only.
	shunned = 5 * time.Second
	// pageBuffer is what is read ahead of what was asked for: a header, and a small file after it.
	pageBuffer = 8 << 10
)

// pageConn is a connection to a worker's page stream.
type pageConn struct {
	net.Conn
	addr string
	in   *bufio.Reader
	idle time.Time // since when, while it is
	used bool      // has answered a request
}

// pageConns are the connections of a client to workers: those with a request, and by address those that wait for the next one, the
// latest last.
type pageConns struct {
	busy map[*pageConn]struct{}
	idle map[string][]*pageConn
	shun map[string]time.Time // until when, workers that did not answer
}

// pageConn returns a connection to a worker's page stream, fresh ones only if so wanted.
func (c *Client) pageConn(ctx context.Context, addr string, fresh bool) (*pageConn, error) {
	for !fresh {
		p := c.idlePageConn(addr)
		if p == nil {
			break
		}
		if time.Since(p.idle) < pageKept {
			return p, nil
		}
		c.dropPageConn(p)
	}
	d := net.Dialer{Timeout: c.o.Silence}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if c.o.TLS != nil {
		config := c.o.TLS.Clone()
		if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
			return nil, both(err, conn.Close())
		}
		conn = tls.Client(conn, config)
	}
	p := &pageConn{Conn: conn, addr: addr, in: bufio.NewReaderSize(conn, pageBuffer)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, both(errs.New("remote.Pages", addr, errs.Unavailable, "the client is closed"), conn.Close())
	}
	c.pages.busy[p] = struct{}{}
	return p, nil
}

func (c *Client) idlePageConn(addr string) *pageConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.pages.idle[addr]
	if len(all) == 0 {
		return nil
	}
	p := all[len(all)-1]
	c.pages.idle[addr] = all[:len(all)-1]
	c.pages.busy[p] = struct{}{}
	return p
}

// keepPageConn keeps p for the next request.
func (c *Client) keepPageConn(p *pageConn) {
	p.idle, p.used = time.Now(), true
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ours := c.pages.busy[p]
	delete(c.pages.busy, p)
	if !ours || c.closed || len(c.pages.idle[p.addr]) >= maxIdlePages || p.in.Buffered() > 0 {
		p.Close()
		return
	}
	c.pages.idle[p.addr] = append(c.pages.idle[p.addr], p)
}

func (c *Client) dropPageConn(p *pageConn) {
	p.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pages.busy, p)
}

// endPageConns closes the connections to workers that are not known. c.mu must be held.
func (c *Client) endPageConns(known map[string]bool) {
	for p := range c.pages.busy {
		if !known[p.addr] {
			p.Close() // who reads from it goes on elsewhere
			delete(c.pages.busy, p)
		}
	}
	for addr, all := range c.pages.idle {
		if !known[addr] {
			for _, p := range all {
				p.Close()
			}
			delete(c.pages.idle, addr)
		}
	}
}

// shun notes that the worker at addr does not answer.
func (c *Client) shun(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for a, until := range c.pages.shun {
		if until.Before(now) {
			delete(c.pages.shun, a)
		}
	}
	c.pages.shun[addr] = now.Add(shunned)
}

// owners returns the workers that are asked for the bytes of key, in this order: its owners, after those that do not answer now.
func (c *Client) owners(ring *cluster.Ring, key string) []cluster.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pages.shun) == 0 {
		return ring.Owners(key, attempts)
	}
	now := time.Now()
	all := ring.Owners(key, attempts+len(c.pages.shun))
	silent := func(n cluster.Node) bool { return c.pages.shun[n.Pages].After(now) }
	slices.SortStableFunc(all, func(a, b cluster.Node) int { return order(silent(a), silent(b)) })
	return all[:min(attempts, len(all))]
}

// pageStream reads a part of one content from a worker.
type pageStream struct {
	c      *Client
	ticket []byte
	off    int64 // of the next byte in the content
	left   int64 // bytes that have not come
	owners []cluster.Node

	ifHere   bool            // ask for the bytes only if the worker has them, and their sum
	op       core.PageOp     // what to do with the pages; 0: read their bytes
	report   core.PageReport // what the worker says of it then
	patience time.Duration   // for a worker that only says that it is alive; 0: StorePatience
	conn     *pageConn
	ctx      context.Context
	stop     func() bool // takes back that the end of ctx interrupts conn
	answered bool        // something has come from the worker
	body     int64       // bytes of the frame that have not been taken
	buf      *[]byte     // what take reads into
}

// open asks the next owner for what is left.
func (s *pageStream) open(ctx context.Context) (resident bool, err error) {
	s.close()
	if len(s.owners) == 0 {
		return false, errs.New("remote.Pages", "", errs.Unavailable, "there is no worker")
	}
	addr := s.owners[0].Pages
	s.owners = s.owners[1:]
	s.ctx = ctx
	defer func() {
		if err != nil && s.conn == nil && !s.answered && ctx.Err() == nil {
			s.c.shun(addr)
		}
	}()
	s.answered = false
	for fresh := false; ; fresh = true {
		if s.conn, err = s.c.pageConn(ctx, addr, fresh); err != nil {
			return false, s.failed(err)
		}
		conn := s.conn
		s.stop = context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
		stale := conn.used
		if resident, err = s.ask(); err == nil || !stale || ctx.Err() != nil || errs.KindOf(err) != errs.Unavailable {
			return resident, err
		}
		s.close() // the worker may have closed a connection that nothing was asked on
	}
}

// ask sends the request and reads how the answer begins.
func (s *pageStream) ask() (resident bool, err error) {
	kind, v := kindRequest, uint64(pagesVersion)
	switch {
	case s.op != 0:
		kind = kindTend
	case s.ifHere:
		kind = kindIfHere
	}
	ask := coder{b: make([]byte, 4, 64+len(s.ticket))}
	ask.byte(&kind)
	ask.uvarint(&v)
	ask.bytes(&s.ticket)
	ask.varint(&s.off)
	ask.varint(&s.left)
	if op := byte(s.op); op != 0 {
		ask.byte(&op)
	}
	binary.BigEndian.PutUint32(ask.b, uint32(len(ask.b)-4))
	if err := s.wait(); err != nil {
		return false, err
	}
	if _, err := s.conn.Write(ask.b); err != nil {
		return false, s.failed(err)
	}
	kind, n, err := s.header()
	if err != nil {
		return false, err
	}
	c, err := s.values(kind, n)
	if err != nil {
		return false, err
	}
	if kind != kindOpen {
		return false, broken(fmt.Errorf("a frame of kind %q first", kind))
	}
	if s.op != 0 {
		c.pageReport(s.op, &s.report)
	} else {
		c.flags(&resident)
	}
	return resident, c.finish()
}

// wait bounds what is read next by the time of Silence, and what is written by the same: a request is small.
func (s *pageStream) wait() error {
	if err := s.conn.SetDeadline(time.Now().Add(s.c.o.Silence)); err != nil {
		return s.failed(err)
	}
	if s.ctx.Err() != nil { // its interruption may have come before
		return s.failed(context.Cause(s.ctx))
	}
	return nil
}

// header reads the header of a frame that is no heartbeat.
func (s *pageStream) header() (kind byte, n int64, err error) {
	for began := time.Now(); ; {
		if err := s.wait(); err != nil {
			return 0, 0, err
		}
		var head [pageHeader]byte
		if _, err := io.ReadFull(s.conn.in, head[:]); err != nil {
			return 0, 0, s.failed(err)
		}
		s.answered = true
		n := int64(binary.BigEndian.Uint32(head[1:]))
		if n > maxPageFrame {
			return 0, 0, s.failed(errors.New("a frame that is too long"))
		}
		if head[0] != kindHeartbeat {
			return head[0], n, nil
		}
		if time.Since(began) > cmp.Or(s.patience, s.c.o.StorePatience) {
			return 0, 0, s.failed(errors.New("the worker still waits for its store"))
		}
	}
}

// values reads the body of a frame that carries values. That of a fault is returned as the error.
func (s *pageStream) values(kind byte, n int64) (coder, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(s.conn.in, b); err != nil {
		return coder{}, s.failed(err)
	}
	c := reader(string(b), true)
	if kind != kindFault {
		return c, nil
	}
	var err error
	c.fault(&err)
	if bad := c.finish(); bad != nil {
		return c, broken(bad)
	}
	if err == nil {
		err = broken(errors.New("a fault without one"))
	}
	s.stop()
	s.c.keepPageConn(s.conn)
	s.conn = nil
	return c, err
}

// next reads the header of the next frame of bytes.
func (s *pageStream) next() error {
	kind, n, err := s.header()
	switch {
	case err != nil:
		return err
	case kind == kindFault:
		if _, err = s.values(kind, n); err != nil {
			return err
		}
	case kind != kindBytes || n > s.left:
		return s.failed(errors.New("something else than the bytes that were asked for"))
	}
	s.body = n
	return nil
}

// direct reports whether the rest of the frame can be passed on.
func (s *pageStream) direct() bool { return s.body > 0 && s.conn.in.Buffered() == 0 }

// pass has w take the rest of the frame from the connection as it is, by splice(2) where both are TCP connections. An error that comes
// with all of it is w's; of any other it cannot be told whose it is.
func (s *pageStream) pass(w io.ReaderFrom) (n int64, err error) {
	for s.body > 0 {
		if err := s.wait(); err != nil {
			return n, err
		}
		src := &io.LimitedReader{R: s.conn.Conn, N: s.body}
		k, err := w.ReadFrom(src)
		s.took(k)
		n += k
		// Time that a client took to receive some bytes is not time in which the worker sent none.
		if s.body > 0 && (k == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return n, s.failed(cmp.Or(err, io.ErrUnexpectedEOF))
		}
		if s.body == 0 && err != nil {
			return n, err
		}
	}
	return n, nil
}

// took notes that n bytes of the frame were read.
func (s *pageStream) took(n int64) {
	s.body -= n
	s.off += n
	s.left -= n
}

// take returns some bytes of the frame, at least one if there is no error. They are good until the next call.
func (s *pageStream) take() ([]byte, error) {
	if s.buf == nil {
		s.buf = s.c.buffers.Get(int(min(max(s.left, pageBuffer), chunk)))
	}
	if err := s.wait(); err != nil {
		return nil, err
	}
	n, err := s.conn.in.Read((*s.buf)[:min(int64(len(*s.buf)), s.body)])
	s.took(int64(n))
	if n > 0 {
		return (*s.buf)[:n], nil
	}
	return nil, s.failed(err)
}

// end reads the end of the answer, and keeps the connection for the next one.
func (s *pageStream) end() {
	if kind, n, err := s.header(); err == nil && kind == kindEnd && n == 0 && s.stop() && s.conn.SetDeadline(time.Time{}) == nil {
		s.c.keepPageConn(s.conn)
		s.conn = nil
	}
	s.close()
}

// failed gives up the connection, and returns its error.
func (s *pageStream) failed(err error) error {
	if s.ctx.Err() != nil {
		err = context.Cause(s.ctx)
	}
	s.close()
	return errs.E("remote.Pages", "", errs.Unavailable, err)
}

// close ends the stream. What take returned is gone.
func (s *pageStream) close() {
	if s.conn != nil {
		s.stop()
		s.c.dropPageConn(s.conn)
		s.conn = nil
	}
	if s.buf != nil {
		s.c.buffers.Put(s.buf)
		s.buf = nil
	}
	s.body = 0
}
