package remote

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

/*
The page stream: bytes of a worker's cache, on plain TCP connections of their own, or TLS where processes show certificates. One
request after the other, so that the bytes of an answer follow its header as they are and a gateway can hand them to its client
with splice(2), without looking at them. Version 1.

	request = 'R' version ticket off n, after its length in 4 bytes
	answer  = frame…, the last of kind 'E' or 'F'
	frame   = kind:byte length:4 bytes body
	kinds     'O' resident, first; 'B' bytes; 'H' none, every Heartbeat while the worker waits for a store; 'E' none: all bytes
	          have come; 'F' fault

Lengths are big-endian. After 'E' and 'F' the connection takes the next request. A connection that either side closes in the midst
of it ends the request.
*/
const (
	pagesVersion = 1

	kindRequest, kindHeartbeat, kindEnd byte = 'R', 'H', 'E'

	pageHeader = 5 // bytes before the body of a frame
	// maxPageFrame bounds a frame: a page of the cache is one.
	maxPageFrame = 4 << 20
	// maxPageRequest bounds a request. A ticket has a key and a version of a store.
	maxPageRequest = 128 << 10
	// pageIdle is how long a connection is kept without a request, and how long a request may take to come whole. It is longer
	// than pageKept, so that it is the client that ends it.
	pageIdle = 2 * time.Minute
	// maxPageConns bounds the connections of a worker.
	maxPageConns = 16 << 10
)

// PagesOptions say how a worker's pages are served.
type PagesOptions struct {
	Pages core.Pages
	// TLS must ask for and verify client certificates; nil is no TLS, and then only peers on this machine are answered.
	TLS *tls.Config
	// TrustNetwork lets peers without TLS read from other machines: for networks that only gateways, masters and workers are in.
	TrustNetwork bool
}

// PageServer serves a worker's pages.
type PageServer struct {
	o       PagesOptions
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]struct{}
}

// NewPageServer returns a server. Values of ctx stay; its end does not end the server. Errors: errs.Invalid if o.TLS lets peers in
// without a certificate.
func NewPageServer(ctx context.Context, o PagesOptions) (*PageServer, error) {
	if o.TLS != nil && (o.TLS.ClientAuth != tls.RequireAndVerifyClientCert || o.TLS.ClientCAs == nil) {
		return nil, errs.New("remote.NewPageServer", "", errs.Invalid, "the TLS configuration does not require and verify client certificates")
	}
	s := &PageServer{o: o, conns: map[net.Conn]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s, nil
}

// Serve answers on l, which it closes, until Stop, and returns nil then.
func (s *PageServer) Serve(l net.Listener) error {
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	defer l.Close()
	for s.ctx.Err() == nil {
		conn, err := l.Accept()
		switch {
		case s.ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // no descriptors: others will be free
			select {
			case <-time.After(minDelay):
			case <-s.ctx.Done():
			}
		case !s.o.TrustNetwork && s.o.TLS == nil && !loopback(conn.RemoteAddr()) || !s.add(conn):
			conn.Close()
		default:
			s.running.Go(func() {
				defer s.drop(conn)
				s.serve(conn)
			})
		}
	}
	return nil
}

// Stop closes all connections and waits for what reads for them.
func (s *PageServer) Stop() {
	s.cancel()
	s.mu.Lock()
	if s.listener != nil {
		s.listener.Close()
	}
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *PageServer) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= maxPageConns || s.ctx.Err() != nil {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *PageServer) drop(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// serve answers the requests of one connection.
func (s *PageServer) serve(c net.Conn) {
	if s.o.TLS != nil {
		c = tls.Server(c, s.o.TLS)
	}
	in := bufio.NewReaderSize(c, 4<<10)
	for {
		if c.SetReadDeadline(time.Now().Add(pageIdle)) != nil {
			return
		}
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxPageRequest {
			return
		}
		ask := make([]byte, n)
		if _, err := io.ReadFull(in, ask); err != nil {
			return
		}
		// From now on nothing comes before the answer has gone, unless the client gives up: that ends the reading.
		if c.SetReadDeadline(time.Time{}) != nil {
			return
		}
		ctx, cancel := context.WithCancel(s.ctx)
		watched := make(chan bool, 1)
		go func() {
			_, err := in.Peek(1)
			if err != nil {
				cancel()
			}
			watched <- err == nil
		}()
		err := s.answer(ctx, &pageSink{conn: c}, string(ask))
		cancel()
		if err != nil {
			c.Close()
			<-watched
			return
		}
		if c.SetReadDeadline(time.Now().Add(pageIdle)) != nil || !<-watched {
			return
		}
	}
}

// answer answers one request. An error means that the client can be told nothing any more.
func (s *PageServer) answer(ctx context.Context, out *pageSink, ask string) error {
	c := reader(ask, true)
	var kind byte
	var v uint64
	var ticket []byte
	var off, n int64
	c.byte(&kind)
	c.uvarint(&v)
	if kind != kindRequest || v != pagesVersion {
		c.fail("not a request of this version")
	}
	c.bytes(&ticket)
	c.varint(&off)
	c.varint(&n)
	if err := c.finish(); err != nil {
		return out.fault(err)
	}
	rd, err := s.o.Pages.Pages(ctx, ticket, off, n)
	if err != nil {
		return out.fault(err)
	}
	out.left = n
	resident := rd.Resident()
	head := coder{}
	head.flags(&resident)
	out.held = append(frameHeader(kindOpen, len(head.b)), head.b...)
	if !resident { // who waits for a store is told at once that somebody is there
		if err := out.send(nil); err != nil {
			return both(err, rd.Close())
		}
		out.timer = time.AfterFunc(Heartbeat, out.beat)
	}
	_, err = rd.WriteTo(out)
	out.quiet()
	if err = both(err, rd.Close()); err != nil {
		if out.err != nil {
			return out.err
		}
		return out.fault(err)
	}
	if n == 0 {
		out.held = append(out.held, frameHeader(kindEnd, 0)...)
		return out.send(nil)
	}
	return nil // the end went with the last bytes
}

func frameHeader(kind byte, n int) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind}, uint32(n))
}

// pageSink sends frames.
type pageSink struct {
	conn  net.Conn
	timer *time.Timer

	mu    sync.Mutex
	held  []byte // frames that go with the next bytes
	left  int64  // bytes that are still to be sent
	err   error  // of the connection
	ended bool   // no more heartbeats
}

// Write implements io.Writer: p is a frame, or several.
func (o *pageSink) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		k := min(len(p), maxPageFrame)
		if err := o.send(p[:k]); err != nil {
			return n, err
		}
		n, p = n+k, p[k:]
	}
	return n, nil
}

// send sends what is held, and p as a frame unless it is nil, in one system call where the connection lets it.
func (o *pageSink) send(p []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	if o.timer != nil {
		o.timer.Reset(Heartbeat)
	}
	all := net.Buffers{o.held}
	if p != nil {
		all[0] = append(all[0], frameHeader(kindBytes, len(p))...)
		all = append(all, p)
		if o.left -= int64(len(p)); o.left == 0 {
			all = append(all, frameHeader(kindEnd, 0))
		}
	}
	_, o.err = all.WriteTo(o.conn)
	o.held = o.held[:0]
	return o.err
}

func (o *pageSink) fault(err error) error {
	o.quiet()
	var c coder
	c.fault(&err)
	o.held = append(append(o.held, frameHeader(kindFault, len(c.b))...), c.b...)
	return o.send(nil)
}

// beat says that the worker is alive. What is being sent says that by itself.
func (o *pageSink) beat() {
	if !o.mu.TryLock() {
		return
	}
	defer o.mu.Unlock()
	if o.ended || o.err != nil {
		return
	}
	if _, o.err = o.conn.Write(frameHeader(kindHeartbeat, 0)); o.err == nil {
		o.timer.Reset(Heartbeat)
	}
}

// quiet ends the heartbeats.
func (o *pageSink) quiet() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
}
