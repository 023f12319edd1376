package remote

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
)

// nameStream is a client's stream of names. One goroutine receives, one sends, and each call has one while it is made:
//
//	receive → frame → task … → worker → Tree → outbox → frame → send
type nameStream struct {
	s       *Server
	st      grpc.ServerStream
	ctx     context.Context // ends with the stream
	session Session
	nodes   []cluster.Node // what the client's process is
	told    uint64         // state of the cluster's nodes that the client knows
	acked   uint64
	who     principals
	out     *outbox
	work    chan *task
	idle    atomic.Int32
	running sync.WaitGroup
	tasks   sync.Pool

	mu    sync.Mutex
	calls map[uint64]*task
}

// task is a call in progress.
type task struct {
	tag    uint64
	method method
	id     CallID // of a change
	ctx    context.Context
	cancel context.CancelFunc
	in     coder
	out    coder
}

// maxIdle is how many workers of a stream wait for the next call: their stacks have grown to what a call needs.
const maxIdle = 256

// names serves a stream of names until it ends, and then waits for its calls, which it cancels.
func (s *Server) names(st grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(st.Context())
	n := &nameStream{s: s, st: st, ctx: ctx, who: principals{ctx: ctx}, out: newOutbox(), work: make(chan *task), calls: map[uint64]*task{}}
	n.tasks.New = func() any { return &task{} }
	if err := n.greet(); err != nil {
		cancel()
		return status.Error(codes.InvalidArgument, err.Error())
	}
	n.running.Go(n.send)
	if n.s.o.Members != nil {
		for _, node := range n.nodes {
			n.running.Go(func() { n.s.o.Members.Join(ctx, node) })
		}
	}
	err := n.receive()
	cancel()
	n.out.close(context.Canceled)
	n.running.Wait()
	s.o.Answers.Detach(n.session)
	return status.Error(codes.Unavailable, err.Error())
}

// greet answers the client's first frame, which is a hello.
func (n *nameStream) greet() error {
	var m message
	if err := n.st.RecvMsg(&m); err != nil {
		return err
	}
	var session string
	err := messages(m.take(), true, func(kind byte, c coder) error {
		var v uint64
		c.uvarint(&v)
		if kind == kindHello && v != version {
			return errs.New("remote.Names", "", errs.Unsupported, "the client speaks another version of the protocol")
		}
		if kind == kindHello && session == "" {
			text(&c, &session)
			list(&c, &n.nodes, (*coder).node)
			return c.finish()
		}
		return errs.New("remote.Names", "", errs.Invalid, "the stream does not begin with one hello")
	})
	if err != nil {
		return err
	}
	if len(session) != len(n.session) {
		return errs.New("remote.Names", "", errs.Invalid, "the stream does not begin with one hello")
	}
	copy(n.session[:], session)
	n.who.ctx = context.WithValue(n.ctx, nodesKey{}, n.nodes)
	epoch, err := n.s.o.Answers.Attach(n.ctx, n.session)
	if err != nil {
		return err
	}
	v := uint64(version)
	welcome := coder{b: []byte{kindWelcome}}
	welcome.uvarint(&v)
	welcome.uvarint(&epoch)
	return n.out.post(n.ctx, welcome.b, true)
}

// nodesKey is under what the context of a call has the nodes that its client is.
type nodesKey struct{}

// isWorker reports whether a worker has made the call.
func isWorker(ctx context.Context) bool {
	nodes, _ := ctx.Value(nodesKey{}).([]cluster.Node)
	return slices.ContainsFunc(nodes, func(n cluster.Node) bool { return n.Role == cluster.Worker })
}

// send sends what is in the outbox until the stream ends.
func (n *nameStream) send() {
	if err := n.out.run(n.ctx, n.st); err != nil {
		n.out.close(err)
	}
}

// receive starts the calls of each frame. It returns why the stream ended, never nil.
func (n *nameStream) receive() error {
	for {
		var m message
		if err := n.st.RecvMsg(&m); err != nil {
			return err
		}
		var lease error
		asked := false
		err := messages(m.take(), true, func(kind byte, c coder) error {
			if !asked && kind != kindCancel {
				lease, asked = n.s.o.Lease(n.ctx), true
			}
			switch kind {
			case kindCall:
				return n.call(c, lease)
			case kindCancel:
				return n.cancel(c)
			case kindPing:
				return n.echo(c, lease)
			}
			return errs.New("remote.Names", "", errs.Invalid, "a message of an unknown kind")
		})
		if err != nil {
			return err
		}
	}
}

// echo answers a heartbeat, if this master may answer.
func (n *nameStream) echo(c coder, lease error) error {
	var clock, below uint64
	var open []uint64
	c.uvarint(&clock)
	c.uvarint(&below)
	list(&c, &open, (*coder).uvarint)
	if err := c.finish(); err != nil {
		return err
	}
	slices.Sort(open)
	n.s.o.Answers.Acknowledge(n.session, below, open)
	out := coder{}
	switch other, moved := errors.AsType[*NotLeaderError](lease); {
	case moved:
		out.notLeader(0, other)
	case lease != nil:
		return nil // silence: the client finds out what else there is
	default:
		if err := n.tell(); err != nil {
			return err
		}
		out.b = append(out.b, kindEcho)
		out.uvarint(&clock)
	}
	return n.out.post(n.ctx, out.b, true)
}

// tell says who is in the cluster if that has changed.
func (n *nameStream) tell() error {
	if n.s.o.Members == nil {
		return nil
	}
	nodes, state := n.s.o.Members.Nodes()
	if state == n.told {
		return nil
	}
	n.told = state
	out := coder{b: []byte{kindNodes}}
	list(&out, &nodes, (*coder).node)
	return n.out.post(n.ctx, out.b, true)
}

func (c *coder) notLeader(tag uint64, e *NotLeaderError) {
	c.b = append(c.b, kindLeader)
	c.uvarint(&tag)
	text(c, &e.Leader)
}

func (n *nameStream) acknowledge(below uint64) {
	if below > n.acked {
		n.acked = below
		n.s.o.Answers.Acknowledge(n.session, below, nil)
	}
}

func (n *nameStream) cancel(c coder) error {
	var tag uint64
	c.uvarint(&tag)
	if err := c.finish(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.calls[tag]; t != nil {
		t.cancel()
	}
	return nil
}

// call starts a call. Its error ends the stream.
func (n *nameStream) call(c coder, lease error) error {
	t := n.tasks.Get().(*task)
	var m byte
	var h header
	c.uvarint(&t.tag)
	c.byte(&m)
	c.header(&h)
	if c.err != nil {
		return c.finish()
	}
	t.out.b = append(t.out.b[:0], kindAnswer)
	t.out.uvarint(&t.tag)
	err := lease
	if other, moved := errors.AsType[*NotLeaderError](lease); moved {
		t.out.b = t.out.b[:0]
		t.out.notLeader(t.tag, other)
		return n.out.post(n.ctx, t.out.b, true)
	}
	w, werr := n.who.of(h.principal)
	if werr != nil {
		return werr
	}
	t.method, t.in, t.id = method(m), c, CallID{n.session, h.sequence}
	switch {
	case err != nil:
	case t.method >= methods:
		err = errs.New("remote.Names", "", errs.Unsupported, "this master does not know the call; it is of an earlier release")
	case (describe[t.method].repeat == read) != (h.sequence == 0):
		err = errs.New("remote."+describe[t.method].name, "", errs.Invalid, "a change has a sequence number, and nothing else has")
	default:
		err = n.s.o.Admit(n.ctx, w.principal)
	}
	n.acknowledge(h.below)
	if err == nil {
		t.ctx, t.cancel = h.context(w)
		if err = n.register(t); err == nil {
			n.start(t)
			return nil
		}
		t.cancel()
	}
	t.out.b = append(t.out.b, outcomeFault)
	t.out.fault(&err)
	return n.out.post(n.ctx, t.out.b, true)
}

func (n *nameStream) register(t *task) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.calls) >= maxCalls {
		return errs.New("remote."+describe[t.method].name, "", errs.Unavailable, "too many calls in progress")
	}
	if n.calls[t.tag] != nil {
		return errs.New("remote."+describe[t.method].name, "", errs.Invalid, "a tag that is in use")
	}
	n.calls[t.tag] = t
	return nil
}

// start hands t to a worker that waits, or to one more.
func (n *nameStream) start(t *task) {
	n.s.busy.calls.Add(1)
	select {
	case n.work <- t:
	default:
		n.running.Go(func() { n.worker(t) })
	}
}

// worker makes calls, t first, until enough others wait or the stream ends.
func (n *nameStream) worker(t *task) {
	for {
		n.serve(t)
		if n.idle.Add(1) > maxIdle {
			n.idle.Add(-1)
			return
		}
		select {
		case t = <-n.work:
			n.idle.Add(-1)
		case <-n.ctx.Done():
			return
		}
	}
}

// serve makes the call and posts its answer.
func (n *nameStream) serve(t *task) {
	defer n.s.busy.calls.Add(-1)
	mark := len(t.out.b)
	err := n.answer(t)
	if other := n.s.deposed(n.ctx, err); other != nil {
		t.out.b = t.out.b[:0]
		t.out.notLeader(0, other)
	}
	if len(t.out.b) > maxMessage {
		err := errs.New("remote."+describe[t.method].name, "", errs.TooLarge, "the answer is too long to be sent")
		t.out.b = append(t.out.b[:mark], outcomeFault)
		t.out.fault(&err)
	}
	n.mu.Lock()
	delete(n.calls, t.tag)
	n.mu.Unlock()
	t.cancel()
	err = n.out.post(n.ctx, t.out.b, false)
	if err == nil && cap(t.out.b) <= 64<<10 {
		t.ctx, t.cancel, t.in = nil, nil, coder{}
		n.tasks.Put(t)
	}
}

// answer appends the outcome of the call to t.out. A change is made once, and answered as it was then. The error is the one
// that the outcome tells of, if it has been found out here.
func (n *nameStream) answer(t *task) error {
	if t.id.Sequence == 0 {
		return n.outcome(t, t.ctx)
	}
	ctx, remembered, err := n.s.o.Answers.Begin(t.ctx, t.id)
	switch {
	case err != nil:
		t.out.b = append(t.out.b, outcomeFault)
		t.out.fault(&err)
		return err
	case remembered != nil:
		t.out.b = append(t.out.b, remembered...)
		return nil
	}
	if describe[t.method].repeat != once { // is asked again wherever, and has no answer to be found there
		ctx = core.WithCall(ctx, core.Call{})
	}
	mark := len(t.out.b)
	err = n.outcome(t, ctx)
	if undone(ctx, err) {
		n.s.o.Answers.End(t.id, nil)
		return err
	}
	n.s.o.Answers.End(t.id, slices.Clone(t.out.b[mark:]))
	return err
}

// deposed returns who may know better of a call that failed with err, nil if this master does. One that has lost its lead
// cannot tell what becomes of what it had under way: who asks the next one under the same name is told.
func (s *Server) deposed(ctx context.Context, err error) (other *NotLeaderError) {
	if errors.Is(err, errs.Unavailable) {
		other, _ = errors.AsType[*NotLeaderError](s.o.Lease(ctx))
	}
	return other
}

// undone reports whether a change failed because its context ended. It has changed nothing then, as every method of the
// Tree that fails, and nobody may be there to hear it: it may be made under the same id by a client that comes back.
func undone(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}

// outcome makes the call and appends its outcome to t.out.
func (n *nameStream) outcome(t *task, ctx context.Context) error {
	mark := len(t.out.b)
	t.out.b = append(t.out.b, outcomeValues)
	err := calls[t.method](n.s, ctx, &t.in, &t.out)
	if err != nil {
		t.out.b = append(t.out.b[:mark], outcomeFault)
		t.out.fault(&err)
	}
	return err
}
