package remote

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"net"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"

	"github.com/sluicefs/sluice/core/errs"
)

const (
	serviceName = "sluice.remote.v1.Remote"
	namesMethod = "/" + serviceName + "/Names"
	readMethod  = "/" + serviceName + "/Read"
	writeMethod = "/" + serviceName + "/Write"

	forwardMethod = "/" + serviceName + "/Forward"
)

// message is a gRPC message as the codec passes it through: its buffers, of which whoever has the message holds a
// reference. Sending it hands the reference over.
type message struct{ parts mem.BufferSlice }

// codec passes messages through untouched.
type codec struct{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "sluice" }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*message)
	if !ok {
		return nil, errs.New("remote.Marshal", "", errs.Invalid, "the stream is not one of this package's")
	}
	return m.parts, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*message)
	if !ok {
		return errs.New("remote.Unmarshal", "", errs.Invalid, "the stream is not one of this package's")
	}
	data.Ref()
	m.parts = data
	return nil
}

// plain returns a message of bytes that nothing changes any more.
func plain(b []byte) *message { return &message{mem.BufferSlice{mem.SliceBuffer(b)}} }

// take returns the message's bytes as one string and lets go of its buffers.
func (m *message) take() string {
	var b strings.Builder
	b.Grow(m.parts.Len())
	for _, p := range m.parts {
		b.Write(p.ReadOnlyData())
	}
	m.free()
	return b.String()
}

func (m *message) free() {
	m.parts.Free()
	m.parts = nil
}

// kind returns the first byte, 0 of an empty message.
func (m *message) kind() byte {
	for _, p := range m.parts {
		if b := p.ReadOnlyData(); len(b) > 0 {
			return b[0]
		}
	}
	return 0
}

// body calls f with the pieces of what follows the first byte, in order, until f fails.
func (m *message) body(f func(b []byte) error) error {
	skip := 1
	for _, p := range m.parts {
		b := p.ReadOnlyData()
		k := min(skip, len(b))
		skip -= k
		if len(b) == k {
			continue
		}
		if err := f(b[k:]); err != nil {
			return err
		}
	}
	return nil
}

// newBuffers returns what chunks of bytes are made in.
func newBuffers() mem.BufferPool { return mem.NewTieredBufferPool(4<<10, 32<<10, chunk) }

// bytesMessage returns a message of the first n bytes of b, which it gives back to pool once they are sent.
func bytesMessage(b *[]byte, n int, pool mem.BufferPool) *message {
	*b = (*b)[:n]
	return &message{mem.BufferSlice{mem.SliceBuffer{kindBytes}, mem.NewBuffer(b, pool)}}
}

// rawStream is what both sides of a gRPC stream have.
type rawStream interface {
	Context() context.Context
	SendMsg(m any) error
	RecvMsg(m any) error
}

// receive returns the next message of a stream that carries values: its kind and what follows.
func receive(st rawStream, own bool) (kind byte, c coder, err error) {
	var m message
	if err := st.RecvMsg(&m); err != nil {
		return 0, c, err
	}
	c = reader(m.take(), own)
	c.byte(&kind)
	return kind, c, nil
}

// messages calls f for each message of a frame. Errors: f's; errs.Invalid if the frame is not well formed.
func messages(frame string, own bool, f func(kind byte, c coder) error) error {
	all := reader(frame, own)
	for len(all.s) > 0 {
		var body string
		all.raw(&body)
		if all.err == nil && (len(body) == 0 || len(body) > maxMessage) {
			all.fail("a message that is empty or too long")
		}
		if all.err != nil {
			return all.finish()
		}
		if err := f(body[0], reader(body[1:], own)); err != nil {
			return err
		}
	}
	return nil
}

// outbox collects messages for a stream. What is added while a frame is being sent goes into the next one.
type outbox struct {
	wake   chan struct{}
	frames frames

	mu     sync.Mutex
	buf    *[]byte       // the next frame
	room   chan struct{} // closed when the box is emptied; nil if nobody waits
	closed error
}

func newOutbox() *outbox {
	o := &outbox{wake: make(chan struct{}, 1)}
	o.buf = o.frames.Get(0)
	return o
}

// frames is a pool of frames. gRPC reads a frame after SendMsg has returned, and gives it back when it is sent.
type frames struct{ pool sync.Pool }

// The capacity of a frame, in bytes: what it begins with, and beyond what it is not kept.
const minFrame, maxKeptFrame = 16 << 10, 256 << 10

// Get implements mem.BufferPool.
func (f *frames) Get(length int) *[]byte {
	if b, ok := f.pool.Get().(*[]byte); ok && cap(*b) >= length {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, max(length, minFrame))
	return &b
}

// Put implements mem.BufferPool.
func (f *frames) Put(b *[]byte) {
	if cap(*b) <= maxKeptFrame {
		f.pool.Put(b)
	}
}

// post adds a message made of body. While the box is full it waits, unless urgent: that is for those who receive, since two
// sides that both wait to send would wait for ever. It fails if the box is closed, with the reason, ctx ends first, or even
// the room for what is urgent is used up.
func (o *outbox) post(ctx context.Context, body []byte, urgent bool) error {
	o.mu.Lock()
	for o.closed == nil && !urgent && len(*o.buf) >= outboxLimit {
		if o.room == nil {
			o.room = make(chan struct{})
		}
		room := o.room
		o.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		o.mu.Lock()
	}
	if o.closed != nil {
		o.mu.Unlock()
		return o.closed
	}
	if len(*o.buf) >= 2*outboxLimit {
		o.mu.Unlock()
		return errs.New("remote", "", errs.Unavailable, "the other side does not receive what is sent to it")
	}
	first := len(*o.buf) == 0
	*o.buf = binary.AppendUvarint(*o.buf, uint64(len(body)))
	*o.buf = append(*o.buf, body...)
	o.mu.Unlock()
	if first {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// take empties the box and returns what was in it, nil if that was nothing.
func (o *outbox) take() *[]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(*o.buf) == 0 {
		return nil
	}
	b := o.buf
	o.buf = o.frames.Get(0)
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
	return b
}

// close makes post fail with err.
func (o *outbox) close(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed == nil {
		o.closed = err
	}
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
}

// run sends what is posted until ctx ends or the stream breaks.
func (o *outbox) run(ctx context.Context, st rawStream) error {
	for {
		select {
		case <-o.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		runtime.Gosched() // those that are about to add to the frame get their turn: a fuller frame costs no more
		if b := o.take(); b != nil {
			if err := st.SendMsg(&message{mem.BufferSlice{mem.NewBuffer(b, &o.frames)}}); err != nil {
				return err
			}
		}
	}
}

// framed returns a frame of one message.
func framed(body []byte) []byte {
	return append(binary.AppendUvarint(nil, uint64(len(body))), body...)
}

// boottime returns the machine's clock since it started, which counts while it is suspended, in nanoseconds.
func boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Now().UnixNano() // no kernel that Sluice runs on lacks the clock
	}
	return ts.Nano()
}

// GRPCOptions returns the options that a *grpc.Server for a Server must be made with. config must ask for and verify
// client certificates; nil is no TLS, which serves loopback peers only (see ServerOptions.TrustNetwork). The server's Stop
// cancels the calls in progress and waits for them: what they wait for, as the Tree's journal, is stopped before.
// Errors: errs.Invalid if config lets peers in without a certificate.
func GRPCOptions(config *tls.Config) ([]grpc.ServerOption, error) {
	o := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}), grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(maxFrame), grpc.MaxSendMsgSize(maxFrame),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow), grpc.SharedWriteBuffer(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
	}
	if config == nil {
		return o, nil
	}
	if config.ClientAuth != tls.RequireAndVerifyClientCert || config.ClientCAs == nil {
		return nil, errs.New("remote.GRPCOptions", "", errs.Invalid, "the TLS configuration does not require and verify client certificates")
	}
	return append(o, grpc.Creds(credentials.NewTLS(config))), nil
}

// loopback reports whether an address is one of this machine's own.
func loopback(a net.Addr) bool {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return a != nil && a.Network() == "bufconn"
}
