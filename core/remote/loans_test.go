package remote_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/core/worker"
	"github.com/sluicefs/sluice/ufs"
)

// numbered is a store of files named by numbers, whose bytes say every 8 which file they are of and where they belong.
type numbered struct {
	ufs.Store
	read atomic.Int64 // bytes
}

func numberedBytes(file int, off, n int64) []byte {
	b := make([]byte, (n+15)&^7)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint32(b[i:], uint32(file)*2654435761)
		binary.LittleEndian.PutUint32(b[i+4:], uint32(off/8)+uint32(i/8))
	}
	return b[off%8:][:n]
}

func (s *numbered) Open(_ context.Context, name string, off, n int64, _ string) (io.ReadCloser, error) {
	file, err := strconv.Atoi(name)
	s.read.Add(n)
	return io.NopCloser(bytes.NewReader(numberedBytes(file, off, n))), err
}

func (s *numbered) Close() error { return nil }

// numberedTree is a leader of those files, all of one size, which hands out tickets for them.
type numberedTree struct {
	fake
	size   int64
	sealer *seal.Sealer
	opened atomic.Int64 // files whose bytes the leader was asked for
}

func (n *numberedTree) info(p core.Path) core.Info {
	return core.Info{Path: p, Size: n.size, Version: "v", Cache: core.Hit}
}

func (n *numberedTree) Place(_ context.Context, p core.Path, r core.Range) (core.Placed, error) {
	file, err := strconv.Atoi(p.Name())
	if err != nil {
		return core.Placed{}, err
	}
	id := [16]byte{1, byte(file), byte(file >> 8)}
	length := n.size - r.Off
	if r.Len >= 0 {
		length = min(length, r.Len)
	}
	ticket := n.sealer.Sign(&seal.Ticket{Tends: true, ID: id, Rev: 1, Len: n.size, Store: "root", Key: p.Name(), Version: "v", Expires: time.Now().Add(time.Hour)})
	return core.Placed{Info: n.info(p), Off: r.Off, Len: length, Runs: []core.Run{{ID: id, Rev: 1, Off: r.Off, Len: length, Ticket: ticket}}}, nil
}

func (n *numberedTree) Stores(context.Context) ([]core.StoreSpec, error) { return nil, nil }

func (n *numberedTree) Open(_ context.Context, p core.Path, r core.Range) (core.Reader, error) {
	n.opened.Add(1)
	file, err := strconv.Atoi(p.Name())
	return &sliceReader{bytes.NewReader(numberedBytes(file, r.Off, r.Len)), n.info(p), r.Off, r.Len}, err
}

// lenders are workers that lend, their leader and a client that borrows.
type lenders struct {
	*testing.T
	tree    *numberedTree
	store   *numbered
	roll    *roll
	sockets string
	client  *remote.Client
	pages   int64 // of a worker's cache; an eighth of them may be lent

	patience time.Duration // of a worker with those who still read what its predecessor lent
}

const loanPages = 64

func startLenders(t *testing.T, size int64, o remote.Options) *lenders {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lenders{T: t, tree: &numberedTree{size: size, sealer: sealer(t)}, store: &numbered{}, roll: &roll{}, sockets: filepath.Join(dir, "s"), pages: loanPages, patience: 20 * time.Millisecond}
	addr, _ := serve(t, remote.ServerOptions{Tree: l.tree, Authenticator: users{}, Members: l.roll}, 0)
	o.Addrs, o.Heartbeat, o.Sockets = []string{addr}, 50*time.Millisecond, l.sockets
	o.Silence, o.LoanPace = cmp.Or(o.Silence, patient), cmp.Or(o.LoanPace, time.Minute) // how busy the machine is, is no matter
	l.client = dial(t, o)
	return l
}

// lender is a worker process.
type lender struct {
	node     cluster.Node
	segments *page.Segments
	cache    *page.Cache
	stop     func()
}

// start starts a worker on the directory.
func (l *lenders) start(dir, incarnation string) *lender {
	l.Helper()
	w := l.cached(dir)
	x := worker.New(worker.Options{Cache: w.cache, Root: l.store, Sealer: sealer(l)})
	node, endPages := servePages(l, "w", x)
	w.node = node
	w.node.Incarnation = incarnation
	s := remote.NewLoanServer(l.Context(), x)
	if err := s.Listen(remote.Socket(l.sockets, incarnation)); err != nil {
		l.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	w.stop = sync.OnceFunc(func() {
		s.Stop()
		endPages()
		if err := errors.Join(<-served, x.Close(), w.cache.Close(), w.segments.Close()); err != nil {
			l.Error(err)
		}
	})
	l.Cleanup(w.stop)
	return w
}

// cached opens a worker's cache.
func (l *lenders) cached(dir string) *lender {
	l.Helper()
	s, err := page.OpenSegments(page.SegmentOptions{Dir: dir, Quota: l.pages * (page.Size + 16<<10), LetGo: time.Now().Add(l.patience)})
	if err != nil {
		l.Fatal(err)
	}
	return &lender{segments: s, cache: page.NewCache(s, page.CacheOptions{})}
}

// settle waits until everything that was read is in the cache.
func (w *lender) settle(t *testing.T) {
	t.Helper()
	waitFor(t, "the cache to be filled", func() bool { return w.cache.Stats().FillsInFlight == 0 })
}

// list has the client know who there is.
func (l *lenders) list(nodes ...cluster.Node) {
	l.Helper()
	l.roll.set(nodes...)
	waitFor(l.T, "the workers to be known", func() bool {
		now := l.client.Nodes()
		return len(now) == len(nodes) && (len(now) == 0 || now[0].Incarnation == nodes[0].Incarnation)
	})
}

// ways returns how many bytes came in each way.
func (l *lenders) ways() map[string]int64 {
	all := map[string]int64{}
	l.client.Ways().Each(func(way string, n int64) { all[way] = n })
	return all
}

// read reads a range of a file to w, and says how it was cached.
func (l *lenders) read(file int, off, n int64, w io.Writer) (core.CacheStatus, error) {
	p, err := core.ParsePath(fmt.Sprint("/", file))
	if err != nil {
		return "", err
	}
	rd, err := l.client.Open(asRoot(l.Context()), p, core.Range{Off: off, Len: n})
	if err != nil {
		return "", err
	}
	_, err = rd.WriteTo(w)
	return rd.Info().Cache, errors.Join(err, rd.Close())
}

// check reads a range and compares it.
func (l *lenders) check(file int, off, n int64) core.CacheStatus {
	l.Helper()
	var got bytes.Buffer
	cache, err := l.read(file, off, n, &got)
	if err != nil || !bytes.Equal(got.Bytes(), numberedBytes(file, off, n)) {
		l.Fatalf("file %d [%d,+%d): got %d bytes, %v", file, off, n, got.Len(), err)
	}
	return cache
}

func TestLent(t *testing.T) {
	const size = 70*page.Size/4 + 4321
	l := startLenders(t, size, remote.Options{})
	w := l.start(tmpfsOr(t), "I1")
	l.list(w.node)
	if cache := l.check(1, 0, size); cache != core.Miss {
		t.Errorf("what is nowhere is a %v", cache)
	}
	w.settle(t)
	before, was := l.ways(), w.cache.Stats()
	if before["descriptor"] > 0 || before["leader"] > 0 {
		t.Errorf("what no cache had came as %v", before)
	}
	for _, r := range [][2]int64{{0, size}, {1, size - 1}, {page.Size, 64 << 10}, {page.Size - 70000, 140000}, {size - 70000, 70000}} {
		if cache := l.check(1, r[0], r[1]); cache != core.Hit {
			t.Errorf("what is cached is a %v", cache)
		}
		now := l.ways()
		if now["descriptor"]-before["descriptor"] != r[1] || now["stream"] != before["stream"] {
			t.Errorf("[%d,+%d) came as %v", r[0], r[1], now)
		}
		before = now
	}
	if now := w.cache.Stats(); now.Hits-was.Hits != 18+18+1+2+1 || now.Misses != was.Misses {
		t.Errorf("%d hits, %d misses are counted", now.Hits-was.Hits, now.Misses-was.Misses)
	}
	l.check(1, 5, 60_000) // is less than is worth a loan
	if now := l.ways(); now["stream"]-before["stream"] != 60_000 {
		t.Errorf("a small range came as %v", now)
	}

	rd, err := l.client.Open(asRoot(t.Context()), mustPath(t, "/1"), core.All)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(struct{ io.Reader }{rd})
	if err := errors.Join(err, rd.Close()); err != nil || !bytes.Equal(got, numberedBytes(1, 0, size)) {
		t.Errorf("Read: %d bytes, %v", len(got), err)
	}

	// A page that is missing in the midst comes from the store; what is before it is lent.
	before = l.ways()
	if err := w.cache.DropRange(page.Content{ID: [16]byte{1, 1}, Rev: 1, Len: size}, 5*page.Size, page.Size); err != nil {
		t.Fatal(err)
	}
	if cache := l.check(1, 0, size); cache != core.Miss {
		t.Errorf("what is cached in part is a %v", cache)
	}
	if now := l.ways(); now["descriptor"]-before["descriptor"] != 5*page.Size || now["leader"] > 0 {
		t.Errorf("it came as %v, after %v", now, before)
	}
	waitFor(t, "all loans to be given back", func() bool { return w.segments.Stats().Lent == 0 })
}

// TestSlowClientsAreLentLittle has no client be fast enough for loans.
func TestSlowClientsAreLentLittle(t *testing.T) {
	const size = 20 * page.Size
	l := startLenders(t, size, remote.Options{LoanPace: time.Nanosecond})
	w := l.start(t.TempDir(), "I1")
	l.list(w.node)
	l.check(1, 0, size)
	w.settle(t)
	before := l.ways()
	l.check(1, 0, size)
	if now := l.ways(); now["descriptor"]-before["descriptor"] != 2*page.Size || now["stream"]-before["stream"] != size-2*page.Size {
		t.Errorf("it came as %v, after %v", now, before)
	}
	waitFor(t, "all loans to be given back", func() bool { return w.segments.Stats().Lent == 0 })
}

// stalled is a client that holds what is written to it, as a socket does, for as long as it likes, and looks at it then.
type stalled struct {
	file int
	off  int64
	hold func() // before it is looked at; may be nil
	bad  bool
}

func (s *stalled) Write(p []byte) (int, error) {
	if s.hold != nil {
		s.hold()
	}
	if !bytes.Equal(p, numberedBytes(s.file, s.off, int64(len(p)))) {
		s.bad = true
	}
	s.off += int64(len(p))
	return len(p), nil
}

// TestLoanStorm reads files that do not fit into a cache together, by clients that hold what they are given while others have its slots
// be used again. Each gets its own bytes.
func TestLoanStorm(t *testing.T) {
	const size, files = 3*page.Size + 999, 40
	l := startLenders(t, size, remote.Options{})
	w := l.start(tmpfsOr(t), "I1")
	l.list(w.node)
	var wg sync.WaitGroup
	var turns atomic.Int64 // files that were read to their end
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for i := range 6 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			for ctx.Err() == nil {
				file := rnd.IntN(files) // a few are hot, so that they are read twice
				if i%2 == 0 {
					file /= 8
				}
				s := &stalled{file: file}
				if i == 0 || i == 1 {
					s.hold = func() { // while others read some files
						for from := turns.Load(); turns.Load() < from+4 && ctx.Err() == nil; {
							select {
							case <-time.After(time.Millisecond):
							case <-ctx.Done():
							}
						}
					}
				}
				if _, err := l.read(file, 0, size, s); err != nil || s.bad || s.off != size {
					t.Errorf("file %d: %d bytes, other bytes %v, %v", file, s.off, s.bad, err)
					stop()
				}
				turns.Add(1)
			}
		})
	}
	waitFor(t, "enough files to be read", func() bool { return turns.Load() > 150 || ctx.Err() != nil })
	stop()
	wg.Wait()
	waitFor(t, "all loans to be given back", func() bool { return w.segments.Stats().Lent == 0 })
	now, st := l.ways(), w.segments.Stats()
	if now["descriptor"] < size*5 || now["leader"] > 0 {
		t.Errorf("the bytes came as %v", now)
	}
	if st.Evicted["cold"]+st.Evicted["once"] < files || st.Corrupt > 0 {
		t.Errorf("the slots were not used again, or pages are damaged: %+v", st)
	}
}

func tmpfsOr(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "sluice-remote-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestLenderEnds ends a worker while a client holds what it lent, starts another on its directory, and has that one use all slots. The
// client gets the rest of its file from the new one, and its own bytes throughout.
func TestLenderEnds(t *testing.T) {
	const size = 9*page.Size + 999
	l := startLenders(t, size, remote.Options{})
	dir := tmpfsOr(t)
	first := l.start(dir, "I1")
	l.list(first.node)
	l.check(1, 0, size)
	first.settle(t)
	held, goOn := make(chan struct{}), make(chan struct{})
	s := &stalled{file: 1, hold: sync.OnceFunc(func() { close(held); <-goOn })}
	read := make(chan error, 1)
	go func() { _, err := l.read(1, 0, size, s); read <- err }()
	within(t, "the client to hold bytes", held)
	if n := first.segments.Stats().Lent; n == 0 {
		t.Error("the bytes are not lent")
	}
	first.stop()
	second := l.start(dir, "I2")
	l.list(second.node)
	for file := 2; file < 2+2*loanPages/9; file++ {
		l.check(file, 0, size)
	}
	close(goOn)
	if err := within(t, "the client to have it all", read); err != nil || s.bad || s.off != size {
		t.Errorf("%d bytes, other bytes %v, %v", s.off, s.bad, err)
	}
	second.settle(t)
	before := l.ways()
	l.check(1, 0, size) // the client knows the way to the new one
	second.settle(t)
	l.check(1, 0, size)
	if now := l.ways(); now["descriptor"]-before["descriptor"] < size {
		t.Errorf("the new worker's bytes came as %v, after %v", now, before)
	}
}

// TestLenderLetsGo ends a worker of which an idle client has files mapped: its successor finds the pages again.
func TestLenderLetsGo(t *testing.T) {
	const size = 3 * page.Size
	l := startLenders(t, size, remote.Options{})
	dir := tmpfsOr(t)
	first := l.start(dir, "I1")
	l.list(first.node)
	l.check(1, 0, size)
	first.settle(t)
	l.check(1, 0, size)
	if l.ways()["descriptor"] == 0 {
		t.Fatal("nothing was lent")
	}
	first.stop()
	var again *lender
	waitFor(t, "the client to let go", func() bool {
		again = l.cached(dir)
		has := again.segments.Has(page.Key{ID: [16]byte{1, 1}, Rev: 1})
		if !has { // given up: it has to be filled again
			t.Error("the client still had the file mapped")
			return true
		}
		return has
	})
	if err := again.segments.Close(); err != nil {
		t.Error(err)
	}
}

// TestLenderLetsGoOfWhatIsNotRead ends a worker of which a client has two files mapped and reads slowly from one: its successor finds the
// pages of the other again.
func TestLenderLetsGoOfWhatIsNotRead(t *testing.T) {
	const size = 33 * page.Size
	l := startLenders(t, size, remote.Options{})
	l.pages, l.patience = 130, 300*time.Millisecond // in two segment files
	dir := tmpfsOr(t)
	first := l.start(dir, "I1")
	l.list(first.node)
	for file := 1; file <= 3; file++ {
		l.check(file, 0, size)
		first.settle(t)
		before := l.ways()["descriptor"]
		l.check(file, 0, size)
		if n := l.ways()["descriptor"] - before; n != size {
			t.Fatalf("%d bytes of file %d were lent", n, file)
		}
	}
	held, goOn := make(chan struct{}), make(chan struct{})
	s := &stalled{file: 3, hold: sync.OnceFunc(func() { close(held); <-goOn })}
	read := make(chan error, 1)
	go func() { _, err := l.read(3, 0, size, s); read <- err }()
	within(t, "the client to hold bytes", held)
	first.stop()
	again := l.cached(dir)
	has := func(file byte) bool { return again.segments.Has(page.Key{ID: [16]byte{1, file}, Rev: 1}) }
	if !has(1) || has(3) {
		t.Errorf("the successor has the first page of file 1: %v, and of file 3: %v", has(1), has(3))
	}
	churn := make([]byte, page.Size)
	for i := range uint64(2 * l.pages) {
		if err := again.segments.Put(page.Key{ID: [16]byte{2}, Rev: 1, Index: uint32(i)}, churn); err != nil {
			t.Fatal(err)
		}
	}
	if err := again.segments.Close(); err != nil {
		t.Error(err)
	}
	close(goOn)
	if err := within(t, "the client to have it all", read); err != nil || s.bad || s.off != size {
		t.Errorf("%d bytes, other bytes %v, %v", s.off, s.bad, err)
	}
}

// TestLenderFails reads where the way to lent pages is broken: the bytes come from the page stream, and
// that way is left alone then.
func TestLenderFails(t *testing.T) {
	const size = 2 * page.Size
	for name, breaks := range map[string]func(t *testing.T, l *lenders) (tries func() int){
		"no socket": func(t *testing.T, l *lenders) func() int {
			if err := os.Remove(remote.Socket(l.sockets, "I1")); err != nil {
				t.Fatal(err)
			}
			return func() int { return 0 }
		},
		"silent": func(t *testing.T, l *lenders) func() int {
			return replaceSocket(t, l, func(net.Conn) {})
		},
		"hangs up": func(t *testing.T, l *lenders) func() int {
			return replaceSocket(t, l, func(c net.Conn) { c.Close() })
		},
		"answers nonsense": func(t *testing.T, l *lenders) func() int {
			return replaceSocket(t, l, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") })
		},
		"passes no descriptor": func(t *testing.T, l *lenders) func() int {
			return replaceSocket(t, l, func(c net.Conn) { io.WriteString(c, "O\x00\x00\x00\x05\x01\x01\x07\x00\x02") })
		},
		"lends a file that is none": func(t *testing.T, l *lenders) func() int {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			return replaceSocket(t, l, func(c net.Conn) {
				c.(*net.UnixConn).WriteMsgUnix([]byte("O\x00\x00\x00\x05\x01\x01\x07\x00\x02"), unix.UnixRights(int(f.Fd())), nil)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := startLenders(t, size, remote.Options{Silence: 300 * time.Millisecond})
			w := l.start(tmpfsOr(t), "I1")
			tries := breaks(t, l)
			l.list(w.node)
			began := time.Now()
			for range 3 {
				l.check(1, 0, size)
				w.settle(t)
			}
			if now := l.ways(); now["descriptor"] > 0 || now["stream"] == 0 {
				t.Errorf("the bytes came as %v", now)
			}
			// Each try may take the time of silence: there is one, beside the connection that shows when the worker ends.
			if n := tries(); n > 2 && time.Since(began) < 5*time.Second {
				t.Errorf("the client has connected %d times", n)
			}
		})
	}
}

// replaceSocket has somebody else answer on the worker's socket, and returns how many have connected to it.
func replaceSocket(t *testing.T, l *lenders, answer func(net.Conn)) func() int {
	t.Helper()
	path := remote.Socket(l.sockets, "I1")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
			answer(c)
		}
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
		for _, c := range all {
			c.Close()
		}
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(all)
	}
}

// TestReadAfterAFailedWriteTo goes on with a reader whose bytes were lent when the client's connection failed.
func TestReadAfterAFailedWriteTo(t *testing.T) {
	const size = 3 * page.Size
	l := startLenders(t, size, remote.Options{})
	w := l.start(tmpfsOr(t), "I1")
	l.list(w.node)
	l.check(1, 0, size)
	w.settle(t)
	rd, err := l.client.Open(asRoot(t.Context()), mustPath(t, "/1"), core.All)
	if err != nil {
		t.Fatal(err)
	}
	r, broken := io.Pipe()
	r.CloseWithError(io.ErrNoProgress)
	if n, err := rd.WriteTo(broken); n != 0 || !errors.Is(err, io.ErrNoProgress) || w.segments.Stats().Lent == 0 {
		t.Fatalf("WriteTo = %d, %v, of what is not lent perhaps", n, err)
	}
	read := make(chan error, 1)
	go func() { _, err := rd.Read(make([]byte, 10)); read <- err }()
	if err := within(t, "Read to return", read); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("Read = %v", err)
	}
	if err := rd.Close(); err != nil {
		t.Error(err)
	}
}

// TestWhoIsLentNothing asks for loans without a right to them.
func TestWhoIsLentNothing(t *testing.T) {
	const size = 2 * page.Size
	l := startLenders(t, size, remote.Options{})
	w := l.start(tmpfsOr(t), "I1")
	l.list(w.node)
	l.check(1, 0, size)
	w.settle(t)
	placed, err := l.tree.Place(t.Context(), mustPath(t, "/1"), core.Range{Len: -1})
	if err != nil {
		t.Fatal(err)
	}
	good := string(placed.Runs[0].Ticket)
	other, err := seal.New(bytes.Repeat([]byte{6}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	until := func(s *seal.Sealer, when time.Time) string {
		return string(s.Sign(&seal.Ticket{ID: [16]byte{1, 1}, Rev: 1, Len: size, Store: "root", Key: "1", Version: "v", Expires: when}))
	}
	ask := func(ticket, rest string) string {
		body := "L\x01" + string(binary.AppendUvarint(nil, uint64(len(ticket)))) + ticket + rest
		return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
	}
	const fine = "\x00\x80\x80\x80\x01\x02" // from 0 on, 1 MiB, in 2 pieces
	for _, k := range []struct {
		name, sent string
		answer     byte // 0: the connection is closed
	}{
		{"a good ticket", ask(good, fine), 'O'},
		{"no ticket", ask("", fine), 'F'},
		{"a ticket that was changed", ask(good[:5]+"x"+good[6:], fine), 'F'},
		{"a ticket of another cluster", ask(until(other, time.Now().Add(time.Hour)), fine), 'F'},
		{"a ticket that has expired", ask(until(l.tree.sealer, time.Now().Add(-time.Minute)), fine), 'F'},
		{"more than it is for", ask(good, "\x00\x80\x80\x80\x04\x02"), 'F'},
		{"cut", ask(good, "\x00"), 'F'},
		{"another version", strings.Replace(ask(good, fine), "L\x01", "L\x02", 1), 'F'},
		{"another kind", strings.Replace(ask(good, fine), "L\x01", "R\x01", 1), 'F'},
		{"nothing", "\x00\x00\x00\x00", 0},
		{"too long", "\xff\xff\xff\xff", 0},
	} {
		conn, err := net.Dial("unix", remote.Socket(l.sockets, "I1"))
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
		if k.answer == 'O' {
			if n := w.segments.Stats().Lent; n != 1 {
				t.Errorf("%d pages are lent", n)
			}
		}
		conn.Close()
		waitFor(t, "what was lent to be given back", func() bool { return w.segments.Stats().Lent == 0 })
	}
}

// TestOtherUsersAreLentNothing has a process of another user ask, and lend: neither is spoken with.
func TestOtherUsersAreLentNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	const size = 2 * page.Size
	l := startLenders(t, size, remote.Options{})
	w := l.start(tmpfsOr(t), "I1")
	for path, mode := range map[string]os.FileMode{filepath.Dir(l.sockets): 0o777, l.sockets: 0o777, remote.Socket(l.sockets, "I1"): 0o777} {
		if err := os.Chmod(path, mode); err != nil { // as an operator may, by mistake
			t.Fatal(err)
		}
	}
	asOther(t, func() {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: remote.Socket(l.sockets, "I1")}); err != nil {
			t.Error(err)
			return
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
			t.Error(err)
		}
		if n, err := unix.Read(fd, make([]byte, 1)); n != 0 || err != nil {
			t.Errorf("the connection is not closed: %d, %v", n, err)
		}
	})
	asked := make(chan struct{}, 1)
	var fd int
	asOther(t, func() {
		var err error
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: remote.Socket(l.sockets, "I2")}), unix.Listen(fd, 9))
		}
		if err != nil {
			t.Error(err)
		}
	})
	f := os.NewFile(uintptr(fd), "")
	other, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			if n, _ := c.Read(make([]byte, 1)); n > 0 {
				asked <- struct{}{}
			}
			c.Close()
		}
	}()
	w.node.Incarnation = "I2"
	l.list(w.node)
	for range 2 {
		l.check(1, 0, size)
		w.settle(t)
	}
	other.Close()
	<-done
	if len(asked) > 0 || l.ways()["descriptor"] > 0 {
		t.Error("somebody else's socket was believed")
	}
}

// asOther runs f as another user, in a thread that ends with it.
func asOther(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		const nobody = 65533
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); e != 0 {
			t.Error(e)
			return
		}
		f()
	}()
	<-done
}

// TestSocketsAreSwept starts a worker where dead ones have left sockets.
func TestSocketsAreSwept(t *testing.T) {
	l := startLenders(t, page.Size, remote.Options{})
	if err := os.MkdirAll(l.sockets, 0o700); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	for _, k := range []struct {
		name string
		live bool
		at   time.Time
	}{{"dead", false, old}, {"live", true, old}, {"young", false, time.Now()}} {
		path := remote.Socket(l.sockets, k.name)
		s, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		s.SetUnlinkOnClose(false)
		if k.live {
			defer s.Close()
		} else {
			s.Close()
		}
		if err := os.Chtimes(path, k.at, k.at); err != nil {
			t.Fatal(err)
		}
	}
	w := l.start(tmpfsOr(t), "I1")
	for name, want := range map[string]bool{"dead": false, "live": true, "young": true, "I1": true} {
		if _, err := os.Lstat(remote.Socket(l.sockets, name)); (err == nil) != want {
			t.Errorf("the socket %s: %v", name, err)
		}
	}
	st, err := os.Stat(remote.Socket(l.sockets, "I1"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, %v", st, err)
	}
	w.stop()
	if _, err := os.Lstat(remote.Socket(l.sockets, "I1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after its worker's end: %v", err)
	}
}
