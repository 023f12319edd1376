package remote

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
)

// ServerOptions are what a Server answers with.
type ServerOptions struct {
	Tree          LeaderTree
	Authenticator core.Authenticator
	// Members knows the processes of the cluster. nil: there are none to know.
	Members Members
	// Lease returns nil while this master may answer: a *NotLeaderError if another leads, or an error that the calls fail
	// with. It may wait for a lease to be renewed. It is asked once for each frame, and before each reader and each Commit.
	// nil: always.
	Lease func(ctx context.Context) error
	// Admit refuses the calls of a principal whose access key was revoked. nil: none.
	Admit func(ctx context.Context, p core.Principal) error
	// Answers remembers what changes were answered. nil: MemoryAnswers of its own.
	Answers Answers
	// Authorize decides which peers with a verified certificate are gateways. nil: all of them.
	Authorize func(tls.ConnectionState) error
	// Admin answers the HTTP requests that other processes forward to the leader, as the principals of their contexts, whose
	// right to call has not been looked at here. nil: none.
	Admin http.Handler
	// TrustNetwork lets peers without TLS call from other machines, as whom they like: for networks that only gateways and
	// masters are in.
	TrustNetwork bool
}

// Members is what a master knows of the processes of its cluster.
type Members interface {
	// Join lists n until ctx ends, or somebody takes its place.
	Join(ctx context.Context, n cluster.Node)
	// Nodes returns the live nodes, and a number that is another after each change of them, never 0.
	Nodes() (nodes []cluster.Node, state uint64)
}

// Server answers for a Tree. It has no goroutine of its own: those of a stream end with the stream.
type Server struct {
	o       ServerOptions
	buffers mem.BufferPool
	page    int // entries of a page of a listing
	busy    busy
	standby bool
}

// NewServer returns a server. Errors: errs.Invalid if o has no Tree or no Authenticator.
func NewServer(o ServerOptions) (*Server, error) {
	if o.Tree == nil || o.Authenticator == nil {
		return nil, errs.New("remote.NewServer", "", errs.Invalid, "there is nothing to answer with")
	}
	if o.Lease == nil {
		o.Lease = func(context.Context) error { return nil }
	}
	if o.Admit == nil {
		o.Admit = func(context.Context, core.Principal) error { return nil }
	}
	if o.Answers == nil {
		o.Answers = &MemoryAnswers{}
	}
	return &Server{o: o, buffers: newBuffers(), page: pageEntries}, nil
}

// Register makes r, a *grpc.Server made with GRPCOptions, serve s.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	var w Switch
	w.Set(s)
	w.Register(r)
}

// Switch is what a process serves that leads only at times: one Server while it leads, with the tree of that reign, and a
// standby's in between. A stream stays with the Server that it began with.
type Switch struct {
	now   atomic.Pointer[Server]
	local http.Handler
}

// Set makes new streams begin with s.
func (w *Switch) Set(s *Server) { w.now.Store(s) }

// NewStandby returns a server for a time without a tree: lease must not return nil, best a *NotLeaderError. It may wait while
// this process is about to lead: a stream that begins meanwhile begins with the Server that is set then.
func NewStandby(lease func(ctx context.Context) error) *Server {
	return &Server{
		standby: true,
		o: ServerOptions{
			Lease: func(ctx context.Context) error {
				if err := lease(ctx); err != nil {
					return err
				}
				return &NotLeaderError{}
			},
			Admit: func(context.Context, core.Principal) error { return nil }, Answers: &MemoryAnswers{},
		},
		buffers: newBuffers(), page: pageEntries,
	}
}

// Endpoint serves a Switch on listeners.
type Endpoint struct{ server *grpc.Server }

// Endpoint returns what serves w with config, which must ask for and verify client certificates; nil is no TLS, and then
// only peers on this machine are answered (see ServerOptions.TrustNetwork). Set has been called. Errors: errs.Invalid.
func (w *Switch) Endpoint(config *tls.Config) (*Endpoint, error) {
	o, err := GRPCOptions(config)
	if err != nil {
		return nil, err
	}
	e := &Endpoint{grpc.NewServer(o...)}
	w.Register(e.server)
	return e, nil
}

// Serve answers on l, which it closes, until Stop, and returns nil then.
func (e *Endpoint) Serve(l net.Listener) error { return e.server.Serve(l) }

// Stop ends all streams and waits for their calls.
func (e *Endpoint) Stop() { e.server.Stop() }

// Register makes r, a *grpc.Server made with GRPCOptions, serve what is set. Set has been called before r serves.
func (w *Switch) Register(r grpc.ServiceRegistrar) {
	handle := func(serve func(*Server, grpc.ServerStream) error) grpc.StreamHandler {
		return func(srv any, st grpc.ServerStream) error {
			s := w.now.Load()
			if err := s.authorize(st.Context()); err != nil {
				return err
			}
			if info, ok := grpc.Method(st.Context()); ok && info == namesMethod && s.standby {
				_ = s.o.Lease(st.Context()) // it waits if this process is about to lead
				s = w.now.Load()
			}
			return serve(s, st)
		}
	}
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			{StreamName: "Names", Handler: handle((*Server).names), ServerStreams: true, ClientStreams: true},
			{StreamName: "Read", Handler: handle((*Server).read), ServerStreams: true},
			{StreamName: "Write", Handler: handle((*Server).write), ServerStreams: true, ClientStreams: true},
			{StreamName: "Forward", ServerStreams: true, ClientStreams: true, Handler: handle(func(s *Server, st grpc.ServerStream) error {
				return s.forward(st, w.local)
			})},
		},
	}, w)
}

// authorize refuses a peer that has not shown who it is.
func (s *Server) authorize(ctx context.Context) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return status.Error(codes.Unauthenticated, "the peer is not known")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		if s.o.TrustNetwork || loopback(p.Addr) {
			return nil
		}
		return status.Error(codes.Unauthenticated, "without TLS only peers on this machine are answered")
	}
	if len(info.State.VerifiedChains) == 0 {
		return status.Error(codes.Unauthenticated, "the peer has shown no certificate")
	}
	if s.o.Authorize == nil {
		return nil
	}
	if err := s.o.Authorize(info.State); err != nil {
		return status.Error(codes.PermissionDenied, "the certificate is not one of a gateway's: "+err.Error())
	}
	return nil
}

// maxKept bounds the principals that a stream remembers.
const maxKept = 1024

// principals remembers contexts for the principals that calls of one stream act for. It is for one goroutine.
type principals struct {
	ctx  context.Context
	kept map[string]who
}

type who struct {
	ctx       context.Context
	principal core.Principal
}

// of returns the context of a coded principal.
func (ps *principals) of(coded string) (who, error) {
	if w, ok := ps.kept[coded]; ok {
		return w, nil
	}
	c := reader(coded, true)
	var w who
	c.principal(&w.principal)
	if err := c.finish(); err != nil {
		return w, err
	}
	w.ctx = core.WithPrincipal(ps.ctx, w.principal)
	if ps.kept == nil || len(ps.kept) >= maxKept {
		ps.kept = map[string]who{}
	}
	ps.kept[string([]byte(coded))] = w
	return w, nil
}

// context returns the context of a call: w's, with what the header says.
func (h *header) context(w who) (context.Context, context.CancelFunc) {
	ctx := w.ctx
	if h.request != "" {
		ctx = core.WithRequestID(ctx, h.request)
	}
	if h.age.Set {
		ctx = core.WithMaxAge(ctx, h.age)
	}
	if h.reads != "" {
		ctx = core.WithReadType(ctx, h.reads)
	}
	if h.left > 0 {
		return context.WithTimeout(ctx, time.Duration(min(h.left, int64(maxLeft/time.Microsecond)))*time.Microsecond)
	}
	return context.WithCancel(ctx)
}

// maxLeft bounds the deadlines that travel, so that they can be counted in nanoseconds.
const maxLeft = 365 * 24 * time.Hour

// admit is what is checked of a call that has a stream of its own.
func (s *Server) admit(ctx context.Context, h *header) (context.Context, context.CancelFunc, error) {
	if err := s.o.Lease(ctx); err != nil {
		return nil, nil, err
	}
	return s.welcome(ctx, h)
}

// welcome is admit for what a process answers that does not lead.
func (s *Server) welcome(ctx context.Context, h *header) (context.Context, context.CancelFunc, error) {
	ps := principals{ctx: ctx}
	w, err := ps.of(h.principal)
	if err == nil {
		err = s.o.Admit(ctx, w.principal)
	}
	if err != nil {
		return nil, nil, err
	}
	call, cancel := h.context(w)
	return call, cancel, nil
}
