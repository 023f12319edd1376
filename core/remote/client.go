package remote

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
)

// Options say whom a Client speaks to.
type Options struct {
	// Addrs are the masters' servers, host:port, in any order. At least one.
	Addrs []string
	// TLS holds the client's certificate and the authorities of the servers'. nil: no TLS (see the package comment).
	TLS *tls.Config
	// Nodes is what this process is to the others: they see it while it has a stream of names to the leader.
	Nodes []cluster.Node
	// Sockets is a directory that workers of this machine have their sockets in, see Socket; "": none.
	Sockets string
	// Heartbeat, Silence, Patience, StorePatience, LoanPace and HotHalf replace the constants of these names; 0: those.
	Heartbeat, Silence, Patience, StorePatience, LoanPace, HotHalf time.Duration
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.Heartbeat, Heartbeat)
	set(&o.Silence, Silence)
	set(&o.Patience, Patience)
	set(&o.StorePatience, StorePatience)
	set(&o.LoanPace, LoanPace)
	set(&o.HotHalf, HotHalf)
	return o
}

// Client implements Tree and core.Authenticator by asking the leading master. Its methods' errors are those that the
// leader's Tree returned, and errs.Unavailable where none answers; a change may then have taken place all the same if the
// error says so. It is safe for concurrent use.
type Client struct {
	o       Options
	session Session
	buffers mem.BufferPool
	stop    context.CancelFunc
	over    <-chan struct{} // closed by stop
	running sync.WaitGroup
	ops     sync.Pool // of *op
	recent  atomic.Pointer[codedPrincipal]
	cluster atomic.Pointer[members] // nil until a leader has told
	ways    Ways
	heat    heat
	local   atomic.Pointer[Local]
	copied  asking // for local
	aliases aliases

	watching sync.WaitGroup // begun with mu held, and not once closed

	mu      sync.Mutex
	link    *link         // nil while there is none
	changed chan struct{} // closed when link or why changes
	why     error         // there is no link
	closed  bool
	conns   map[string]*connection
	pages   pageConns
	loans   map[string]*borrower // by their sockets
	last    uint64               // sequence of the last change begun
	below   uint64               // no change below it is in progress
	pending map[uint64]struct{}  // the changes in progress
}

var (
	_ Tree               = (*Client)(nil)
	_ core.Authenticator = (*Client)(nil)
)

// connection is one for names and one for bytes to a master, so that bytes do not stand before names.
type connection struct{ names, bytes *grpc.ClientConn }

// Dial returns a client, which looks for the leader until Close. It does not wait for one. The values of ctx stay; its end
// does not end the client. Errors: errs.Invalid if there is no address, or one that cannot be one.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if len(o.Addrs) == 0 {
		return nil, errs.New("remote.Dial", "", errs.Invalid, "no address of a master")
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &Client{
		o: o.withDefaults(), buffers: newBuffers(), stop: stop, over: ctx.Done(), changed: make(chan struct{}), conns: map[string]*connection{},
		pages: pageConns{busy: map[*pageConn]struct{}{}, idle: map[string][]*pageConn{}, shun: map[string]time.Time{}},
		loans: map[string]*borrower{}, below: 1, pending: map[uint64]struct{}{}, why: errors.New("no master has answered yet"),
	}
	c.heat.half = c.o.HotHalf
	c.ops.New = func() any { return &op{reply: make(chan reply, 1)} }
	rand.Read(c.session[:]) // never fails
	for _, addr := range o.Addrs {
		if _, err := c.connection(addr); err != nil {
			c.Close()
			return nil, errs.E("remote.Dial", addr, errs.Invalid, err)
		}
	}
	c.running.Go(func() { c.run(ctx) })
	return c, nil
}

// Close ends the client: calls in progress fail, readers and writers break. It waits, and returns the first error of
// closing the connections. Closed again it does nothing.
func (c *Client) Close() error {
	c.stop()
	c.running.Wait()
	defer c.watching.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, b := range c.loans {
		b.watch.Close()
	}
	var first error
	for _, conn := range c.conns {
		for _, err := range []error{conn.names.Close(), conn.bytes.Close()} {
			if first == nil {
				first = err
			}
		}
	}
	clear(c.conns)
	c.endPageConns(nil)
	return first
}

// connection returns the connections to a master. They are made when they are first used, and again when they break.
func (c *Client) connection(addr string) (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errs.New("remote.Dial", addr, errs.Unavailable, "the client is closed")
	}
	if conn := c.conns[addr]; conn != nil {
		return conn, nil
	}
	names, err := c.dial(addr)
	if err != nil {
		return nil, err
	}
	bytes, err := c.dial(addr)
	if err != nil {
		return nil, both(err, names.Close())
	}
	c.conns[addr] = &connection{names, bytes}
	return c.conns[addr], nil
}

func (c *Client) dial(addr string) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if c.o.TLS != nil {
		creds = credentials.NewTLS(c.o.TLS)
	}
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(creds), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithSharedWriteBuffer(true),
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minDelay, Multiplier: 2, Jitter: 0.2, MaxDelay: maxDelay},
			MinConnectTimeout: c.o.Silence,
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxFrame), grpc.MaxCallSendMsgSize(maxFrame)))
}

// The time between two attempts to find the leader doubles from minDelay to maxDelay. What a new leader waits for is over at
// once, and this is what a gateway adds to it.
const (
	minDelay = 10 * time.Millisecond
	maxDelay = 50 * time.Millisecond
)

// run keeps a link to the leader until ctx ends.
func (c *Client) run(ctx context.Context) {
	delay := minDelay
	at, hint := 0, ""
	var shunned string // a leader that fell silent, which the others may not have noticed yet
	var until time.Time
	for ctx.Err() == nil {
		addr := hint
		if addr == "" {
			addr = c.o.Addrs[at%len(c.o.Addrs)]
		}
		worked, err := c.hold(ctx, addr)
		c.publish(nil, err)
		hint = ""
		other, moved := errors.AsType[*NotLeaderError](err)
		if errors.Is(err, errSilent) {
			shunned, until = addr, time.Now().Add(c.o.Silence)
		}
		switch {
		case moved && other.Leader != "" && other.Leader != addr && (other.Leader != shunned || time.Now().After(until)):
			hint = other.Leader
		case worked && !moved && !errors.Is(err, errSilent):
			hint = addr // a connection breaks more often than a leader
		default:
			if at++; c.o.Addrs[at%len(c.o.Addrs)] == addr {
				at++
			}
		}
		if worked {
			delay = minDelay
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
		delay = min(2*delay, maxDelay)
	}
	c.publish(nil, nil)
}

// publish makes l the link that calls use; nil takes it away, because of err.
func (c *Client) publish(l *link, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link, c.why = l, err
	close(c.changed)
	c.changed = make(chan struct{})
}

// leader returns a link that works. It waits for one until ctx ends or until, which it sets when it first has to wait.
func (c *Client) leader(ctx context.Context, until *time.Time) (*link, error) {
	var timer *time.Timer
	for {
		c.mu.Lock()
		l, changed, why := c.link, c.changed, c.why
		c.mu.Unlock()
		if l != nil && l.ctx.Err() == nil {
			return l, nil
		}
		if until.IsZero() {
			*until = time.Now().Add(c.o.Patience)
		}
		select {
		case <-c.over:
			return nil, errs.New("remote", "", errs.Unavailable, "the client is closed")
		default:
		}
		if timer == nil {
			timer = time.NewTimer(time.Until(*until))
			defer timer.Stop()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-timer.C:
			if why == nil && l != nil {
				why = context.Cause(l.ctx)
			}
			return nil, core.NoMaster(false, why)
		}
	}
}

// begin returns the sequence number of a new change, and the acknowledged watermark.
func (c *Client) begin() (sequence, below uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	c.pending[c.last] = struct{}{}
	return c.last, c.below
}

// end says that nobody will ask for the change again.
func (c *Client) end(sequence uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, sequence)
	for ; c.below <= c.last; c.below++ {
		if _, pending := c.pending[c.below]; pending {
			return
		}
	}
}

func (c *Client) acknowledged() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.below
}

// inProgress returns the changes below a sequence that may be asked for again; no other one is.
func (c *Client) inProgress() (below uint64, open []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last + 1, slices.Collect(maps.Keys(c.pending))
}

// Leader returns the address of the master that the client speaks to, "" if there is none at the moment.
func (c *Client) Leader() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return ""
	}
	return c.link.addr
}

// op is a call as the client makes it. It is used again for other calls.
type op struct {
	method method
	head   header
	args   coder
	out    coder
	reply  chan reply

	sent  bool   // it may have arrived
	epoch uint64 // of the memory there
}

// reply is what became of a message sent. Exactly one comes for each that was registered with a link.
type reply struct {
	c     coder // at the outcome
	err   error // there was none: errMoved or errBroken
	cause error
}

var (
	errMoved  = errors.New("the call was not made: another master leads")
	errBroken = errors.New("the connection broke before the answer came")
)

// codedPrincipal is a principal and how it is coded.
type codedPrincipal struct {
	principal core.Principal
	coded     string
}

// principalOf returns the principal that ctx acts for, coded. The last one is kept: many calls act for the same.
func (c *Client) principalOf(ctx context.Context) string {
	p := core.PrincipalOf(ctx)
	if last := c.recent.Load(); last != nil && last.principal.User == p.User && last.principal.AccessKey == p.AccessKey &&
		last.principal.Super == p.Super && slices.Equal(last.principal.Groups, p.Groups) {
		return last.coded
	}
	kept := p
	kept.Groups = slices.Clone(p.Groups) // the caller's may change
	last := &codedPrincipal{kept, encodePrincipal(p)}
	c.recent.Store(last)
	return last.coded
}

// call makes a call whose arguments args writes and whose values result reads.
func (c *Client) call(ctx context.Context, m method, args, result func(c *coder)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	o := c.ops.Get().(*op)
	o.method, o.sent, o.head = m, false, header{principal: c.principalOf(ctx)}
	o.args.b = o.args.b[:0]
	if args != nil {
		args(&o.args)
	}
	if describe[m].repeat != read {
		o.head.sequence, o.head.below = c.begin()
		defer c.end(o.head.sequence)
	}
	err := c.do(ctx, o, result)
	if cap(o.args.b)+cap(o.out.b) <= 256<<10 {
		o.out.s, o.out.own, o.out.err, o.head = "", false, nil, header{}
		c.ops.Put(o)
	}
	return err
}

// do asks until there is an answer, or none is to be had.
func (c *Client) do(ctx context.Context, o *op, result func(c *coder)) error {
	if len(o.args.b) > maxMessage-4096 {
		return errs.New("remote."+describe[o.method].name, "", errs.TooLarge, "the call's arguments are too long")
	}
	o.head.set(ctx)
	var until time.Time
	for {
		l, err := c.leader(ctx, &until)
		if err != nil {
			if o.sent && describe[o.method].repeat != read {
				if core.WhyNoMaster(err) != "" {
					return core.NoMaster(true, err)
				}
				return unknown(o, err)
			}
			return err
		}
		if o.sent && o.epoch != l.epoch && describe[o.method].repeat == once {
			return unknown(o, errors.New("another master leads"))
		}
		asked := time.Now()
		r, err := l.ask(ctx, o)
		switch {
		case err != nil:
			return err
		case r.err == nil:
			err := o.read(r.c, result)
			if err != nil && ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
				return context.Cause(ctx) // which of the two it was is the caller's to say
			}
			return err
		case r.err == errBroken:
			// The first epoch counts: if it is gone, so is what it may have remembered.
			if !o.sent {
				o.sent, o.epoch = true, l.epoch
			}
		}
		if until.IsZero() || time.Since(asked) > c.o.Patience {
			until = time.Now().Add(c.o.Patience)
		}
		if !time.Now().Before(until) {
			return unknown(o, r.cause)
		}
		o.head.setDeadline(ctx)
	}
}

// unknown is the error of a call whose outcome nobody can tell.
func unknown(o *op, cause error) error {
	return unanswered("remote."+describe[o.method].name, "", o.sent && describe[o.method].repeat != read, cause)
}

// unanswered is the error of what no answer came to. made says that it may be a change that has taken place.
func unanswered(op, path string, made bool, cause error) error {
	if made {
		cause = &unknownError{cause}
	}
	return errs.E(op, path, errs.Unavailable, core.NoAnswer(made, cause))
}

// unknownError is why it is not known whether a change has taken place: nobody is to take it for what became of the change, such as that it
// was canceled.
type unknownError struct{ cause error }

// Error says what is known.
func (e *unknownError) Error() string { return e.cause.Error() }

// read reads the outcome at which in stands: the call's error, or its values with result.
func (o *op) read(in coder, result func(c *coder)) error {
	c := &o.out
	c.reading, c.own, c.s, c.err = true, in.own, in.s, in.err
	var how byte
	c.byte(&how)
	switch how {
	case outcomeFault:
		if err := c.readFault(0); c.finish() == nil {
			return err
		}
	case outcomeValues:
		if result != nil {
			result(c)
		}
		if c.finish() == nil {
			return nil
		}
	default:
		c.fail("an outcome of an unknown form")
	}
	return broken(c.finish())
}

// broken is the error of an answer that cannot be read.
func broken(why error) error {
	return errs.New("remote", "", errs.Unavailable, "the master's answer cannot be read: "+why.Error())
}
