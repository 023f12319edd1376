package remote

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
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

	request = 'R' version ticket off n, after its length in 4 bytes: the bytes of that range
	        | 'T' version ticket off n op:byte, likewise: what core.Tender does to the pages of that range
	        | 'P' version ticket off n, likewise: the bytes of that range, followed by 'S', if all of them are in the cache
	        | 'K' version call, likewise: what core.Holder does, see serve_holds.go
	answer  = frame…, the last of kind 'E' or 'F'
	frame   = kind:byte length:4 bytes body
	kinds     'O' first: resident of 'R' and 'P', a report of 'T'; 'B' bytes; 'H' none, every Heartbeat while the worker waits for a
	          store; 'E' none: all has come; 'F' fault; 'S' the CRC-32C of the bytes before it, in 4 bytes
	report  = list of medium:string, the pages:string, of MissedPages also forgotten since:time [miss]
	miss    = at:time off n why:string since:time other

Lengths are big-endian. After 'E' and 'F' the connection takes the next request. A connection that either side closes in the midst
of it ends the request.
*/
const (
	pagesVersion = 1

	kindRequest, kindHeartbeat, kindEnd byte = 'R', 'H', 'E'
	kindTend, kindHeldCall, kindSum     byte = 'T', 'K', 'S'
	kindIfHere                          byte = 'P'

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
	Pages  core.Pages
	Tender core.Tender // nil: nobody looks after the pages
	// Holder keeps bytes that no store has yet, for those whose calls Verify believes, which returns what they ask for
	// (seal.Sealer.VerifyCall). nil: nobody does.
	Holder core.Holder
	Verify func(call []byte) (text []byte, err error)
	// TLS must ask for and verify client certificates; nil is no TLS, and then only peers on this machine are answered.
	TLS *tls.Config
	// TrustNetwork lets peers without TLS read from other machines: for networks that only gateways, masters and workers are in.
	TrustNetwork bool
}

// PageServer serves a worker's pages.
type PageServer struct {
	*acceptor
	o PagesOptions
}

// NewPageServer returns a server. Values of ctx stay; its end does not end the server. Errors: errs.Invalid if o.TLS lets peers in
// without a certificate.
func NewPageServer(ctx context.Context, o PagesOptions) (*PageServer, error) {
	if o.TLS != nil && (o.TLS.ClientAuth != tls.RequireAndVerifyClientCert || o.TLS.ClientCAs == nil) {
		return nil, errs.New("remote.NewPageServer", "", errs.Invalid, "the TLS configuration does not require and verify client certificates")
	}
	return &PageServer{newAcceptor(ctx), o}, nil
}

// Serve answers on l, which it closes, until Stop, and returns nil then.
func (s *PageServer) Serve(l net.Listener) error {
	s.listen(l)
	return s.accept(func(c net.Conn) bool { return s.o.TrustNetwork || s.o.TLS != nil || loopback(c.RemoteAddr()) }, s.serve)
}

// Stop closes all connections and waits for what reads for them.
func (s *PageServer) Stop() { s.stop() }

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
		if c.SetReadDeadline(time.Time{}) != nil {
			return
		}
		ctx, cancel := context.WithCancel(s.ctx)
		answer, err := s.take(ctx, in, &pageSink{conn: c}, string(ask))
		if err != nil {
			cancel()
			return
		}
		// From now on nothing comes before the answer has gone, unless the client gives up: that ends the reading.
		watched := make(chan bool, 1)
		go func() {
			_, err := in.Peek(1)
			if err != nil {
				cancel()
			}
			watched <- err == nil
		}()
		err = answer()
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

// take takes what comes after a request, and returns what answers it. An error of either means that the client can be told nothing any
// more.
func (s *PageServer) take(ctx context.Context, in *bufio.Reader, out *pageSink, ask string) (answer func() error, err error) {
	if ask == "" || ask[0] != kindHeldCall {
		return func() error { return s.answer(ctx, out, ask) }, nil
	}
	call, refused := s.heldCall(ask)
	if refused == nil && call.op == heldHold {
		return s.takeHeld(ctx, in, out, call)
	}
	return func() error {
		if refused != nil {
			return out.fault(refused)
		}
		return s.answerHeld(ctx, out, call)
	}, nil
}

// answer answers one request for pages.
func (s *PageServer) answer(ctx context.Context, out *pageSink, ask string) error {
	c := reader(ask, true)
	var kind byte
	var v uint64
	var ticket []byte
	var off, n int64
	c.byte(&kind)
	c.uvarint(&v)
	if kind != kindRequest && kind != kindTend && kind != kindIfHere || v != pagesVersion {
		c.fail("not a request of this version")
	}
	c.bytes(&ticket)
	c.varint(&off)
	c.varint(&n)
	var op byte
	if kind == kindTend {
		c.byte(&op)
	}
	if err := c.finish(); err != nil {
		return out.fault(err)
	}
	if kind == kindTend {
		return s.tend(ctx, out, ticket, core.PageOp(op), off, n)
	}
	rd, err := s.o.Pages.Pages(ctx, ticket, off, n)
	if err != nil {
		return out.fault(err)
	}
	if kind == kindIfHere {
		return s.answerIfHere(out, rd)
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
		out.start()
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

// tend does something to pages, and reports on them.
func (s *PageServer) tend(ctx context.Context, out *pageSink, ticket []byte, op core.PageOp, off, n int64) error {
	if s.o.Tender == nil {
		return out.fault(errs.New("remote.Tend", "", errs.Unsupported, "this process does not look after pages"))
	}
	out.start()
	report, err := s.o.Tender.Tend(ctx, ticket, op, off, n)
	out.quiet()
	if err == nil && len(report.Pages) > maxPageFrame/2 {
		err = errs.New("remote.Tend", "", errs.TooLarge, "the report on so many pages is too long; ask for fewer")
	}
	if err != nil {
		return out.fault(err)
	}
	var c coder
	c.pageReport(op, &report)
	out.held = append(append(frameHeader(kindOpen, len(c.b)), c.b...), frameHeader(kindEnd, 0)...)
	return out.send(nil)
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

// start begins the heartbeats.
func (o *pageSink) start() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.timer = time.AfterFunc(Heartbeat, o.beat)
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
