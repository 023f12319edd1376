package remote

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// acceptor accepts the connections of a server, and closes them when it stops.
type acceptor struct {
	ctx     context.Context // of what is done for connections
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]struct{}
}

// newAcceptor returns one that values of ctx stay in, but not its end.
func newAcceptor(ctx context.Context) *acceptor {
	a := &acceptor{conns: map[net.Conn]struct{}{}}
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return a
}

// listen has l closed by stop.
func (a *acceptor) listen(l net.Listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listener = l
}

// accept has serve answer on each connection that may be, until stop, and returns nil then. It closes the listener.
func (a *acceptor) accept(may func(net.Conn) bool, serve func(net.Conn)) error {
	a.mu.Lock()
	l := a.listener
	a.mu.Unlock()
	defer l.Close()
	for a.ctx.Err() == nil {
		conn, err := l.Accept()
		switch {
		case a.ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // no descriptors: others will be free
			select {
			case <-time.After(minDelay):
			case <-a.ctx.Done():
			}
		case !may(conn) || !a.add(conn):
			conn.Close()
		default:
			a.running.Go(func() {
				defer a.drop(conn)
				serve(conn)
			})
		}
	}
	return nil
}

// stop closes all connections and waits for what is done for them.
func (a *acceptor) stop() {
	a.cancel()
	a.mu.Lock()
	if a.listener != nil {
		a.listener.Close()
	}
	for c := range a.conns {
		c.Close()
	}
	a.mu.Unlock()
	a.running.Wait()
}

func (a *acceptor) add(c net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.conns) >= maxPageConns || a.ctx.Err() != nil {
		return false
	}
	a.conns[c] = struct{}{}
	return true
}

func (a *acceptor) drop(c net.Conn) {
	c.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.conns, c)
}
