package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/core/worker"
	"github.com/sluicefs/sluice/ufs"
)

// roll implements remote.Members with a list that tests set.
type roll struct {
	mu    sync.Mutex
	nodes []cluster.Node
	state uint64
}

func (r *roll) Join(context.Context, cluster.Node) {}

func (r *roll) Nodes() ([]cluster.Node, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes, r.state
}

func (r *roll) set(nodes ...cluster.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes = nodes
	r.state++
}

func sealer(t testing.TB) *seal.Sealer {
	t.Helper()
	s, err := seal.New(secretKey)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var secretKey = bytes.Repeat([]byte{5}, seal.KeySize)

// serveWorker runs the endpoint of a worker until stop.
func serveWorker(t testing.TB, o remote.PagesOptions) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := remote.NewPageServer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	stop = sync.OnceFunc(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// servePages runs the endpoint of a worker that caches, until stop.
func servePages(t testing.TB, name string, p core.Pages) (n cluster.Node, stop func()) {
	t.Helper()
	tender, _ := p.(core.Tender)
	addr, stop := serveWorker(t, remote.PagesOptions{Pages: p, Tender: tender})
	return cluster.Node{Name: name, Role: cluster.Worker, Addr: "127.0.0.1:1", Pages: addr, Capacity: 1 << 20}, stop
}

// startWorkers runs workers over the stores of the world, and enters them in r.
func (w *world) startWorkers(t *testing.T, n int, r *roll, stores func(context.Context) ([]core.StoreSpec, error)) (stop func()) {
	var nodes []cluster.Node
	var stops []func()
	for i := range n {
		size := 64 << 20
		if w.o.NoCache {
			size = 0
		}
		cache := page.NewCache(mempage.New(size), page.CacheOptions{})
		x := worker.New(worker.Options{Cache: cache, Root: kept{w.decorated(w.root)}, Stores: stores, OpenStore: w.openStore, Sealer: sealer(t)})
		node, end := servePages(t, fmt.Sprint("w", i), x)
		nodes = append(nodes, node)
		stops = append(stops, func() {
			end()
			if err := errors.Join(x.Close(), cache.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	r.set(nodes...)
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// kept is a store that others go on using.
type kept struct{ ufs.Store }

func (kept) Close() error { return nil }

// placing is a Tree of one file, which is data in three runs, under tickets that name their run.
type placing struct {
	fake
	data    []byte
	version atomic.Pointer[string]
	places  atomic.Int64
	moved   bool // to where another ticket leads
	lost    bool // which leads back
	follows atomic.Int64
}

func (p *placing) Follow(ctx context.Context, ticket []byte) ([]byte, error) {
	if !p.moved {
		return p.fake.Follow(ctx, ticket)
	}
	p.follows.Add(1)
	if p.lost && string(ticket) == movedTicket {
		return []byte("v1"), nil
	}
	return []byte(movedTicket), nil
}

// movedTicket is the one for what a rename has moved.
const movedTicket = "v1 moved"

func (p *placing) info(name core.Path) core.Info {
	return core.Info{Path: name, Size: int64(len(p.data)), Version: *p.version.Load(), Cache: core.Hit}
}

func (p *placing) Place(_ context.Context, name core.Path, r core.Range) (core.Placed, error) {
	p.places.Add(1)
	placed := core.Placed{Info: p.info(name), Off: r.Off, Len: int64(len(p.data)) - r.Off}
	for off := r.Off; off < int64(len(p.data)); {
		n := min(int64(len(p.data))-off, int64(len(p.data))/3+1)
		// The content is the file itself, so that offsets in both are the same.
		placed.Runs = append(placed.Runs, core.Run{ID: [16]byte{byte(len(placed.Runs))}, Off: off, Len: n, Ticket: []byte(*p.version.Load())})
		off += n
	}
	return placed, nil
}

func (p *placing) Stores(context.Context) ([]core.StoreSpec, error) { return nil, nil }

// memoryPages is a worker of one file's bytes, which does as its hook says with each request.
type memoryPages struct {
	data  []byte
	asked atomic.Int64
	lost  bool // what was moved is gone, too
	hook  func(ctx context.Context, off int64, w io.Writer) error
}

func (m *memoryPages) Pages(ctx context.Context, ticket []byte, off, n int64) (core.PageReader, error) {
	m.asked.Add(1)
	if string(ticket) == movedTicket && !m.lost {
		return &memoryPage{&memoryPages{data: m.data}, ctx, off, n}, nil
	}
	if string(ticket) != "v1" && string(ticket) != movedTicket {
		return nil, errs.New("test.Pages", "", errs.Permission, "no such ticket")
	}
	return &memoryPage{m, ctx, off, n}, nil
}

type memoryPage struct {
	m      *memoryPages
	ctx    context.Context
	off, n int64
}

func (p *memoryPage) Close() error   { return nil }
func (p *memoryPage) Resident() bool { return p.m.hook == nil }
func (p *memoryPage) WriteTo(w io.Writer) (int64, error) {
	half := p.n / 2
	k, err := w.Write(p.m.data[p.off : p.off+half])
	if err == nil && p.m.hook != nil {
		err = p.m.hook(p.ctx, p.off, w)
	}
	if err != nil {
		return int64(k), err
	}
	l, err := w.Write(p.m.data[p.off+half : p.off+p.n])
	return int64(k + l), err
}

// sliceReader is the leader's reader.
type sliceReader struct {
	*bytes.Reader
	info   core.Info
	off, n int64
}

func (r *sliceReader) Close() error         { return nil }
func (r *sliceReader) Info() core.Info      { return r.info }
func (r *sliceReader) Span() (int64, int64) { return r.off, r.n }

// TestWorkersFail reads a file from workers that fail in every way. The bytes are always those of the version that was
// opened, from other workers or the leader; if nobody has them, the read fails.
func TestWorkersFail(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	for i := range data {
		data[i] ^= byte(i >> 12)
	}
	gone := errs.New("test.Pages", "", errs.Conflict, "the version has gone")
	slow := func(ctx context.Context, _ int64, _ io.Writer) error {
		select {
		case <-time.After(1200 * time.Millisecond): // longer than Silence below: heartbeats tell that it is alive
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	fails := func(err error) func(context.Context, int64, io.Writer) error {
		return func(context.Context, int64, io.Writer) error { return err }
	}
	for _, k := range []struct {
		name   string
		hooks  [3]func(context.Context, int64, io.Writer) error
		dead   int  // how many workers are down
		leader bool // the leader is asked for bytes
		change bool // the file has changed when it is
		moved  bool // it was renamed, and its old name is gone
		lost   bool // and its new one, too
		silent bool // nothing comes from the workers any more, in the midst of a run
	}{
		{name: "all well"},
		{name: "slow", hooks: [3]func(context.Context, int64, io.Writer) error{slow, slow, slow}},
		{name: "one fails", hooks: [3]func(context.Context, int64, io.Writer) error{fails(io.ErrUnexpectedEOF)}},
		{name: "all fail", hooks: [3]func(context.Context, int64, io.Writer) error{fails(io.ErrUnexpectedEOF), fails(io.ErrUnexpectedEOF), fails(io.ErrUnexpectedEOF)}, leader: true},
		{name: "gone", hooks: [3]func(context.Context, int64, io.Writer) error{fails(gone), fails(gone), fails(gone)}, leader: true},
		{name: "gone and changed", hooks: [3]func(context.Context, int64, io.Writer) error{fails(gone), fails(gone), fails(gone)}, leader: true, change: true},
		{name: "renamed", hooks: [3]func(context.Context, int64, io.Writer) error{fails(gone), fails(gone), fails(gone)}, moved: true},
		{name: "renamed and lost", hooks: [3]func(context.Context, int64, io.Writer) error{fails(gone), fails(gone), fails(gone)}, moved: true, lost: true, leader: true},
		{name: "one down", dead: 1},
		{name: "all down", dead: 3, leader: true},
		{name: "all cut off", hooks: [3]func(context.Context, int64, io.Writer) error{cut, cut, cut}, leader: true},
		{name: "silent", silent: true, leader: true},
		{name: "all wait for a store that hangs", hooks: [3]func(context.Context, int64, io.Writer) error{hang, hang, hang}, leader: true},
		{name: "one waits for a store that hangs", hooks: [3]func(context.Context, int64, io.Writer) error{hang}},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			tree := &placing{data: data, moved: k.moved, lost: k.lost}
			first, second := "v1", "v2"
			tree.version.Store(&first)
			var opened atomic.Int64
			tree.open = func(_ context.Context, p core.Path, r core.Range) (core.Reader, error) {
				opened.Add(1)
				if k.moved {
					return nil, errs.E("test.Open", p.String(), errs.NotExist, nil)
				}
				if k.change {
					tree.version.Store(&second)
				}
				n := min(r.Len, int64(len(data))-r.Off)
				return &sliceReader{bytes.NewReader(data[r.Off : r.Off+n]), tree.info(p), r.Off, n}, nil
			}
			r := &roll{}
			var nodes []cluster.Node
			for i, hook := range k.hooks {
				pages := &memoryPages{data: data, lost: k.lost, hook: hook}
				n, stop := servePages(t, fmt.Sprint("w", i), pages)
				if k.silent {
					p := newProxy(t, n.Pages)
					n.Pages = p.addr()
					pages.hook = func(ctx context.Context, _ int64, _ io.Writer) error {
						p.deaf.Store(true)
						<-ctx.Done()
						return ctx.Err()
					}
				}
				if i < k.dead {
					stop()
				}
				nodes = append(nodes, n)
			}
			r.set(nodes...)
			addr, _ := serve(t, remote.ServerOptions{Tree: tree, Authenticator: users{}, Members: r}, 0)
			c := dial(t, remote.Options{Addrs: []string{addr}, Heartbeat: 50 * time.Millisecond, Silence: time.Second, StorePatience: 2 * time.Second})
			waitFor(t, "the workers to be known", func() bool { return len(c.Nodes()) == 3 })
			rd, err := c.Open(asRoot(t.Context()), mustPath(t, "/f"), core.Range{Off: 5, Len: -1})
			var got []byte
			if err == nil {
				if off, n := rd.Span(); off != 5 || n != int64(len(data))-5 {
					t.Errorf("the span is %d, %d", off, n)
				}
				got, err = io.ReadAll(rd)
				if err := rd.Close(); err != nil {
					t.Error(err)
				}
			}
			switch {
			case k.change && errs.KindOf(err) != errs.Conflict:
				t.Errorf("got %v", err)
			case k.lost && errs.KindOf(err) != errs.NotExist:
				t.Errorf("got %v", err)
			case !k.change && !k.lost && (err != nil || !bytes.Equal(got, data[5:])):
				t.Errorf("got %d bytes of %d, equal %v: %v", len(got), len(data)-5, bytes.Equal(got, data[5:]), err)
			}
			if asked := opened.Load() > 0; asked != k.leader {
				t.Errorf("the leader was asked for bytes: %v", asked)
			}
			if got := tree.follows.Load(); k.moved && !k.lost && got != 3 {
				t.Errorf("%d tickets were followed, want that of each run", got)
			}
			if !bytes.HasPrefix(data[5:], got) {
				t.Error("bytes that are not the file's")
			}
		})
	}
}

// hang waits for a store that does not answer.
func hang(ctx context.Context, _ int64, _ io.Writer) error { <-ctx.Done(); return ctx.Err() }

// cut ends the bytes early, without an error.
func cut(context.Context, int64, io.Writer) error { return errCut }

var errCut = errs.New("test.Pages", "", errs.Unavailable, "cut off")

func (*placing) TicketSecret(context.Context) ([]byte, error) { return []byte("\x00\xff secret"), nil }

// TestRolesAreToldTheirs asks for the stores, which only workers open, and for the secret of tickets, which only gateways sign, as either.
func TestRolesAreToldTheirs(t *testing.T) {
	tree := &placing{}
	addr, _ := serve(t, remote.ServerOptions{Tree: tree, Authenticator: users{}, Members: &roll{}}, 0)
	for _, k := range []struct {
		role    cluster.Role
		stores  error
		tickets error
	}{{cluster.Gateway, errs.Permission, nil}, {cluster.Worker, nil, errs.Permission}} {
		c := dial(t, remote.Options{Addrs: []string{addr}, Nodes: []cluster.Node{{Name: "n", Role: k.role}}})
		if _, err := c.Stores(t.Context()); !errors.Is(err, k.stores) {
			t.Errorf("the stores for a %s: got %v", k.role, err)
		}
		if secret, err := c.TicketSecret(t.Context()); !errors.Is(err, k.tickets) || err == nil && string(secret) != "\x00\xff secret" {
			t.Errorf("the secret of tickets for a %s: got %q, %v", k.role, secret, err)
		}
	}
}

// TestRequestsThatAreNot sends a page server what no client sends: it answers with a fault or hangs up, and serves the next one.
func TestRequestsThatAreNot(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 1000)
	node, _ := servePages(t, "w", &memoryPages{data: data})
	whole := "R\x01\x02v1\x00\xd0\x0f" // version 1, the ticket v1, bytes 0 to 1000
	for _, k := range []struct {
		name, sent string
		answer     byte // kind of the first frame; 0: the connection is closed
	}{
		{"whole", "\x00\x00\x00\x08" + whole, 'O'},
		{"too long", "\xff\xff\xff\xff" + whole, 0},
		{"nothing", "\x00\x00\x00\x00", 'F'},
		{"cut", "\x00\x00\x00\x04" + whole[:4], 'F'},
		{"more", "\x00\x00\x00\x09" + whole + "x", 'F'},
		{"another version", "\x00\x00\x00\x08" + "R\x02" + whole[2:], 'F'},
		{"another kind", "\x00\x00\x00\x08" + "X" + whole[1:], 'F'},
		{"no tender", "\x00\x00\x00\x09" + "T" + whole[1:] + "l", 'F'},
		{"another ticket", "\x00\x00\x00\x08" + "R\x01\x02v9\x00\xd0\x0f", 'F'},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", 0},
	} {
		conn, err := net.Dial("tcp", node.Pages)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, k.sent); err != nil {
			t.Fatal(err)
		}
		var head [5]byte
		n, err := io.ReadFull(conn, head[:])
		if k.answer == 0 && (n > 0 || err == nil) || k.answer != 0 && (err != nil || head[0] != k.answer) {
			t.Errorf("%s: got %q, %v", k.name, head[:n], err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}
