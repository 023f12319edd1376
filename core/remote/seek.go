package remote

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/sluicefs/sluice/core/cluster"
)

// doubt is how many heartbeats a stream may miss before the client asks the other masters whether one of them leads by now:
// a master that was stopped, or whose machine is gone, breaks no connection, and its successor is there before the time of
// Silence has passed.
const doubt = 2

// doubtful reports whether heartbeats were missed.
func (l *link) doubtful() bool {
	return time.Duration(boottime()-l.heard.Load()) > doubt*l.c.o.Heartbeat
}

// seek asks the other masters, as long as the link's is silent, and moves the link to the one that leads.
func (l *link) seek() {
	var all sync.WaitGroup
	for _, addr := range l.c.o.Addrs {
		if addr == l.addr {
			continue
		}
		all.Go(func() {
			for l.doubtful() && l.ctx.Err() == nil {
				if l.c.leads(l.ctx, addr) {
					l.fail(&NotLeaderError{Leader: addr})
					return
				}
				select {
				case <-time.After(maxDelay):
				case <-l.ctx.Done():
				}
			}
		})
	}
	all.Wait()
}

// errLeads ends a stream that was begun to find out who leads.
var errLeads = errors.New("this master leads")

// leads reports whether the master at addr leads: it echoes a heartbeat. One that does not answer for the time of Silence
// does not.
func (c *Client) leads(ctx context.Context, addr string) bool {
	conn, err := c.connection(addr)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Silence)
	defer cancel()
	st, err := conn.names.NewStream(ctx, namesStream, namesMethod)
	if err != nil || st.SendMsg(plain(framed(c.hello(nil)))) != nil || st.SendMsg(plain(framed(c.ping(boottime())))) != nil {
		return false
	}
	for err == nil {
		var m message
		if err = st.RecvMsg(&m); err == nil {
			err = messages(m.take(), false, func(kind byte, _ coder) error {
				switch kind {
				case kindEcho:
					return errLeads
				case kindLeader:
					return errMoved
				}
				return nil // the welcome
			})
		}
	}
	return errors.Is(err, errLeads)
}

// namesStream describes the stream of names.
var namesStream = &grpc.StreamDesc{StreamName: "Names", ServerStreams: true, ClientStreams: true}

// hello returns the message with which a stream of names begins, of a client that is to be listed as nodes.
func (c *Client) hello(nodes []cluster.Node) []byte {
	hello := coder{b: []byte{kindHello}}
	v, session := uint64(version), string(c.session[:])
	hello.uvarint(&v)
	hello.raw(&session)
	list(&hello, &nodes, (*coder).node)
	return hello.b
}

// ping returns a heartbeat of the time now.
func (c *Client) ping(now int64) []byte {
	ping := coder{b: []byte{kindPing}}
	clock := uint64(now)
	below, open := c.inProgress()
	ping.uvarint(&clock)
	ping.uvarint(&below)
	list(&ping, &open, (*coder).uvarint)
	return ping.b
}
