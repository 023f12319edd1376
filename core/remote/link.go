package remote

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
)

// link is a stream of names to the leader. One goroutine receives, one sends, one keeps it alive.
type link struct {
	c       *Client
	addr    string
	conn    *connection
	st      grpc.ClientStream
	ctx     context.Context // ends with the link; its cause says why
	fail    context.CancelCauseFunc
	out     *outbox
	epoch   uint64
	heard   atomic.Int64 // when the last heartbeat that was echoed was sent, by boottime
	welcome bool         // has come
	live    bool         // a heartbeat was echoed: this is the leader

	mu     sync.Mutex
	calls  map[uint64]*op
	tag    uint64
	broken bool
}

var errSilent = errors.New("the master has been silent for too long")

// hold makes a link to a master and serves it until it breaks; worked says whether calls could use it. The error says why
// it ended.
func (c *Client) hold(ctx context.Context, addr string) (worked bool, err error) {
	conn, err := c.connection(addr)
	if err != nil {
		return false, err
	}
	l := &link{c: c, addr: addr, conn: conn, out: newOutbox(), calls: map[uint64]*op{}}
	l.ctx, l.fail = context.WithCancelCause(ctx)
	defer l.fail(nil)
	l.heard.Store(boottime())
	var running sync.WaitGroup
	running.Go(l.keepAlive)
	err = l.open()
	if err == nil {
		running.Go(func() {
			if err := l.out.run(l.ctx, l.st); err != nil {
				l.out.close(errBroken)
			}
		})
		err = l.receive()
	}
	if l.ctx.Err() != nil {
		err = context.Cause(l.ctx)
	}
	l.fail(err)
	l.close(err)
	running.Wait()
	return l.live, errs.E("remote", addr, errs.Unavailable, err)
}

// open begins the stream.
func (l *link) open() (err error) {
	if l.st, err = l.conn.names.NewStream(l.ctx, namesStream, namesMethod); err != nil {
		return err
	}
	return l.st.SendMsg(plain(framed(l.c.hello(l.c.o.Nodes))))
}

// keepAlive sends heartbeats and fails the link when no echo comes.
func (l *link) keepAlive() {
	var seeking atomic.Bool
	var running sync.WaitGroup
	defer running.Wait()
	tick := time.NewTicker(l.c.o.Heartbeat)
	defer tick.Stop()
	for {
		now := boottime()
		if now-l.heard.Load() > int64(l.c.o.Silence) {
			l.fail(errSilent)
			return
		}
		if l.doubtful() && len(l.c.o.Addrs) > 1 && !seeking.Load() {
			seeking.Store(true)
			running.Go(func() { l.seek(); seeking.Store(false) })
		}
		if l.out.post(l.ctx, l.c.ping(now), true) != nil {
			return
		}
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			return
		}
	}
}

// receive hands answers to those who wait for them until the link breaks. Its error is never nil.
func (l *link) receive() error {
	for {
		var m message
		if err := l.st.RecvMsg(&m); err != nil {
			return err
		}
		if err := messages(m.take(), false, l.message); err != nil {
			return err
		}
	}
}

func (l *link) message(kind byte, c coder) error {
	if kind == kindNodes && l.welcome {
		var nodes []cluster.Node
		c.own = true
		list(&c, &nodes, (*coder).node)
		if err := c.finish(); err != nil {
			return err
		}
		l.c.learn(nodes)
		return nil
	}
	var tag, epoch uint64
	c.uvarint(&tag)
	switch {
	case !l.welcome:
		c.uvarint(&epoch)
		if err := c.finish(); err != nil || kind != kindWelcome || tag != version {
			return errs.New("remote", l.addr, errs.Unsupported, "the master speaks another version of the protocol")
		}
		l.welcome, l.epoch = true, epoch
	case kind == kindAnswer:
		l.deliver(tag, reply{c: c})
		return c.err
	case kind == kindLeader:
		moved := &NotLeaderError{}
		c.own = true
		text(&c, &moved.Leader)
		if err := c.finish(); err != nil {
			return err
		}
		if tag != 0 {
			l.deliver(tag, reply{err: errMoved, cause: moved})
		}
		l.fail(moved)
	case kind == kindEcho:
		if err := c.finish(); err != nil {
			return err
		}
		l.heard.Store(int64(tag)) // the clock
		if !l.live {
			l.live = true
			l.c.publish(l, nil)
		}
	default:
		return errs.New("remote", l.addr, errs.Unsupported, "the master sent a message of an unknown kind")
	}
	return nil
}

// deliver hands a reply to the call with the tag, if it still waits.
func (l *link) deliver(tag uint64, r reply) {
	l.mu.Lock()
	o := l.calls[tag]
	delete(l.calls, tag)
	l.mu.Unlock()
	if o != nil {
		o.reply <- r // has room for the one reply that comes
	}
}

// close fails what waits and what comes.
func (l *link) close(cause error) {
	l.out.close(errBroken)
	l.mu.Lock()
	l.broken = true
	waiting := l.calls
	l.calls = nil
	l.mu.Unlock()
	for _, o := range waiting {
		o.reply <- reply{err: errBroken, cause: cause}
	}
}

// register gives o a tag under which its reply will come; false if the link is broken.
func (l *link) register(o *op) (tag uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return 0, false
	}
	l.tag++
	l.calls[l.tag] = o
	return l.tag, true
}

// forget takes o's registration back. It returns false if a reply is on its way.
func (l *link) forget(tag uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, waits := l.calls[tag]
	delete(l.calls, tag)
	return waits
}

// ask sends o and returns its reply. Its error is ctx's: of a read at once, of a change if no answer comes for the time of
// Silence after the server was told, for it alone knows whether the change took place.
func (l *link) ask(ctx context.Context, o *op) (reply, error) {
	tag, ok := l.register(o)
	if !ok {
		return reply{err: errMoved, cause: context.Cause(l.ctx)}, nil // not sent
	}
	m := byte(o.method)
	o.out.b = append(o.out.b[:0], kindCall)
	o.out.reading = false
	o.out.uvarint(&tag)
	o.out.byte(&m)
	o.out.header(&o.head)
	o.out.b = append(o.out.b, o.args.b...)
	if err := l.out.post(ctx, o.out.b, false); err != nil {
		if l.forget(tag) {
			if ctx.Err() != nil {
				return reply{}, context.Cause(ctx)
			}
			return reply{err: errMoved, cause: context.Cause(l.ctx)}, nil // not sent
		}
		return <-o.reply, nil
	}
	select {
	case r := <-o.reply:
		return r, nil
	case <-ctx.Done():
	}
	cancel := coder{b: []byte{kindCancel}}
	cancel.uvarint(&tag)
	if l.out.post(l.ctx, cancel.b, true) == nil && describe[o.method].repeat != read {
		wait := time.NewTimer(l.c.o.Silence)
		defer wait.Stop()
		select {
		case r := <-o.reply:
			return r, nil
		case <-wait.C:
		}
	}
	if !l.forget(tag) {
		<-o.reply
	}
	return reply{}, context.Cause(ctx)
}
