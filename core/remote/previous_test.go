package remote_test

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/remote"
)

// TestPrevious reads a page from the worker that owned it before, as long as there is reason to think that it did.
func TestPrevious(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	now := time.Now()
	self := cluster.Node{Name: "self", Role: cluster.Worker, Addr: "127.0.0.1:1", Pages: "127.0.0.1:1", Capacity: 1 << 20, Since: now}
	run := core.Run{ID: [16]byte{1}, Rev: 2, Off: 10, Len: 500_000, Ticket: []byte("v1")}
	r := &roll{}
	addr, _ := serve(t, remote.ServerOptions{Tree: &placing{}, Authenticator: users{}, Members: r}, 0)
	for _, k := range []struct {
		name        string
		old, self   time.Duration // before now that they were started
		draining    bool          // old is
		selfDrained bool
		asked, here bool
		hook        func(ctx context.Context, off int64, w io.Writer) error // what makes pages not resident
	}{
		{name: "who came before", old: time.Minute, asked: true, here: true},
		{name: "who came after", self: time.Minute},
		{name: "long ago", old: 3 * time.Hour, self: 2 * time.Hour},
		{name: "who is drained", self: 2 * time.Hour, draining: true, asked: true, here: true},
		{name: "whoever is drained asks nobody", old: time.Minute, selfDrained: true},
		{name: "who has not all of it", old: time.Minute, asked: true, hook: func(context.Context, int64, io.Writer) error {
			t.Error("the store was asked by who was only to say what it has")
			return nil
		}},
		{name: "again", old: time.Minute, asked: true, here: true},
	} {
		pages := &memoryPages{data: data, hook: k.hook}
		old, _ := servePages(t, "old", pages)
		old.Since, old.Draining, self.Since, self.Draining = now.Add(-k.old), k.draining, now.Add(-k.self), k.selfDrained
		r.set(old, self)
		c := dial(t, remote.Options{Addrs: []string{addr}, Heartbeat: 50 * time.Millisecond, Silence: time.Second})
		waitFor(t, "the workers to be known", func() bool { return len(c.Nodes()) == 2 })
		v := c.Previous("self", self.Since)
		asked := pages.asked.Load()
		for range 2 {
			got := make([]byte, run.Len)
			here := v.Read(t.Context(), run, got)
			if here != k.here || here && !bytes.Equal(got, data[run.Off:run.Off+run.Len]) {
				t.Errorf("%s: here is %v, want %v, right is %v", k.name, here, k.here, bytes.Equal(got, data[run.Off:run.Off+run.Len]))
			}
		}
		if n := pages.asked.Load() - asked; (n > 0) != k.asked {
			t.Errorf("%s: it was asked %d times", k.name, n)
		}
		s := v.Stats()
		if k.here && (s.Pages != 2 || s.Bytes != 2*run.Len || s.Absent+s.Failed != 0) || !k.here && k.asked && (s.Absent != 2 || s.Pages != 0) {
			t.Errorf("%s: %+v", k.name, s)
		}
	}
}

// slowPages sends half of what it is asked for, and no more.
type slowPages struct{ asked atomic.Int64 }

type slowPage struct {
	ctx context.Context
	n   int64
}

func (s *slowPages) Pages(ctx context.Context, _ []byte, _, n int64) (core.PageReader, error) {
	s.asked.Add(1)
	return &slowPage{ctx, n}, nil
}

func (p *slowPage) Close() error   { return nil }
func (p *slowPage) Resident() bool { return true }
func (p *slowPage) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(make([]byte, p.n/2))
	<-p.ctx.Done()
	return int64(n), cmp.Or(err, p.ctx.Err())
}

// TestPreviousSlow has a worker send a page too slowly: it is alive, and asked again.
func TestPreviousSlow(t *testing.T) {
	pages := &slowPages{}
	old, _ := servePages(t, "old", pages)
	r := &roll{}
	addr, _ := serve(t, remote.ServerOptions{Tree: &placing{}, Authenticator: users{}, Members: r}, 0)
	self := cluster.Node{Name: "self", Role: cluster.Worker, Addr: "127.0.0.1:1", Pages: "127.0.0.1:1", Capacity: 1 << 20, Since: time.Now()}
	old.Since = time.Now().Add(-time.Minute)
	r.set(old, self)
	c := dial(t, remote.Options{Addrs: []string{addr}, Heartbeat: 50 * time.Millisecond, Silence: 5 * time.Second})
	waitFor(t, "the workers to be known", func() bool { return len(c.Nodes()) == 2 })
	v := c.Previous("self", self.Since)
	for n := range int64(2) {
		if v.Read(t.Context(), core.Run{Len: 1 << 20, Ticket: []byte("v1")}, make([]byte, 1<<20)) {
			t.Error("half a page is here")
		}
		if got := pages.asked.Load(); got != n+1 {
			t.Errorf("it was asked %d times, want %d", got, n+1)
		}
	}
}

// TestPreviousDamaged has a byte change on the way, and a worker that does not answer.
func TestPreviousDamaged(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 100_000)
	pages := &memoryPages{data: data}
	old, _ := servePages(t, "old", pages)
	direct := old.Pages
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // flips a bit in the midst of what comes back
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", direct)
			if err != nil {
				in.Close()
				return
			}
			go func() { defer out.Close(); io.Copy(out, in) }()
			go func() {
				defer in.Close()
				buf, at := make([]byte, 1000), 0
				for {
					n, err := out.Read(buf)
					if at < 50_000 && at+n >= 50_000 {
						buf[50_000-at-1] ^= 1
					}
					if at += n; err != nil {
						return
					}
					if _, err := in.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	r := &roll{}
	addr, _ := serve(t, remote.ServerOptions{Tree: &placing{}, Authenticator: users{}, Members: r}, 0)
	self := cluster.Node{Name: "self", Role: cluster.Worker, Addr: "127.0.0.1:1", Pages: "127.0.0.1:1", Capacity: 1 << 20, Since: time.Now()}
	old.Pages, old.Since = l.Addr().String(), time.Now().Add(-time.Minute)
	r.set(old, self)
	c := dial(t, remote.Options{Addrs: []string{addr}, Heartbeat: 50 * time.Millisecond, Silence: time.Second})
	waitFor(t, "the workers to be known", func() bool { return len(c.Nodes()) == 2 })
	v := c.Previous("self", self.Since)
	p := make([]byte, len(data))
	if v.Read(t.Context(), core.Run{Len: int64(len(p)), Ticket: []byte("v1")}, p) || v.Stats().Failed != 1 {
		t.Errorf("a damaged page was taken for good: %+v", v.Stats())
	}
	if v.Read(t.Context(), core.Run{Len: 10, Ticket: []byte("forged")}, p[:10]) || v.Stats().Failed != 2 {
		t.Errorf("without a ticket: %+v", v.Stats())
	}
	if !v.Read(t.Context(), core.Run{Len: 10, Ticket: []byte("v1")}, p[:10]) {
		t.Errorf("after that: %+v", v.Stats())
	}
}
