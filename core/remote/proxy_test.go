package remote_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy stands between clients and a server and breaks what passes.
type proxy struct {
	t      testing.TB
	l      net.Listener
	target atomic.Pointer[string]
	mute   atomic.Bool // what clients send is lost
	deaf   atomic.Bool // what the server sends is lost

	running sync.WaitGroup
	mu      sync.Mutex
	conns   map[net.Conn]bool
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, l: l, conns: map[net.Conn]bool{}}
	p.target.Store(&target)
	p.running.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.running.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) accept() {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", *p.target.Load())
		if err != nil {
			in.Close()
			continue
		}
		p.mu.Lock()
		p.conns[in], p.conns[out] = true, true
		p.mu.Unlock()
		p.running.Go(func() { p.pass(out, in, &p.mute) })
		p.running.Go(func() { p.pass(in, out, &p.deaf) })
	}
}

// pass copies from one side to the other until one breaks. What comes while lost is set does not arrive.
func (p *proxy) pass(to, from net.Conn, lost *atomic.Bool) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 && !lost.Load() {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut breaks every connection there is.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
		delete(p.conns, c)
	}
}

// heal lets everything pass again, on new connections.
func (p *proxy) heal() {
	p.cut()
	p.mute.Store(false)
	p.deaf.Store(false)
}
