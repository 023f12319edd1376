package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/core/worker"
)

// copiedTree is a numberedTree of which workers keep copies.
type copiedTree struct {
	*numberedTree
	copies atomic.Pointer[core.Copies]
	rev    atomic.Int64 // of all files; file f is stored as f + 1000 times that
	not    atomic.Bool  // nothing is to be kept
}

func (n *copiedTree) Place(ctx context.Context, p core.Path, r core.Range) (core.Placed, error) {
	placed, err := n.numberedTree.Place(ctx, p, r)
	c := *n.copies.Load()
	for i := range placed.Runs {
		run := &placed.Runs[i]
		t, terr := n.sealer.Verify(run.Ticket, time.Now())
		if terr != nil {
			return placed, terr
		}
		t.Copies, run.Copies, t.NoCache = c.Max, c, n.not.Load()
		if rev := n.rev.Load(); rev > 0 {
			file, _ := strconv.Atoi(t.Key)
			t.Key, t.Rev = strconv.Itoa(file+1000*int(rev)), 1+uint64(rev)
			run.Rev = t.Rev
		}
		run.Ticket = n.sealer.Sign(t)
	}
	return placed, err
}

// copied are workers with caches of their own, which know each other, their leader and a gateway.
type copied struct {
	*testing.T
	tree    *copiedTree
	store   *numbered
	client  *remote.Client
	workers map[string]*copying
	reads   int
}

// copying is a worker that counts what it is asked for.
type copying struct {
	*worker.Worker
	asked atomic.Int64
	stop  func()
}

func (w *copying) Pages(ctx context.Context, ticket []byte, off, n int64) (core.PageReader, error) {
	w.asked.Add(1)
	return w.Worker.Pages(ctx, ticket, off, n)
}

// startCopied starts workers, which are nodes with a name and whatever is to be said of them, and a gateway.
func startCopied(t *testing.T, size int64, copies core.Copies, gateway cluster.Node, workers ...cluster.Node) *copied {
	t.Helper()
	c := &copied{T: t, tree: &copiedTree{numberedTree: &numberedTree{size: size, sealer: sealer(t)}}, store: &numbered{}, workers: map[string]*copying{}}
	c.tree.copies.Store(&copies)
	r := &roll{}
	addr, _ := serve(t, remote.ServerOptions{Tree: c.tree, Authenticator: users{}, Members: r}, 0)
	o := remote.Options{Addrs: []string{addr}, Heartbeat: 50 * time.Millisecond, Silence: patient, HotHalf: 24 * time.Hour, Nodes: []cluster.Node{gateway}}
	c.client = dial(t, o)
	for i := range workers {
		n := &workers[i]
		cache := page.NewCache(mempage.New(64<<20), page.CacheOptions{})
		w := &copying{}
		others := c.client.Previous(n.Name, time.Now().Add(-24*time.Hour))
		w.Worker = worker.New(worker.Options{Cache: cache, Root: kept{c.store}, Sealer: sealer(t), Previous: others.Read})
		node, end := servePages(t, n.Name, w)
		w.stop = sync.OnceFunc(func() {
			end()
			if err := errors.Join(w.Close(), cache.Close()); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(w.stop)
		c.workers[n.Name] = w
		n.Role, n.Addr, n.Pages, n.Capacity = node.Role, node.Addr, node.Pages, node.Capacity
	}
	r.set(workers...)
	waitFor(t, "the workers to be known", func() bool { return len(c.client.Nodes()) == len(workers) })
	return c
}

// apart returns n workers in failure domains of their own.
func apart(n int) (all []cluster.Node) {
	for i := range n {
		all = append(all, cluster.Node{Name: fmt.Sprint("w", i), Domain: fmt.Sprint("d", i), Host: fmt.Sprint("h", i), Zone: fmt.Sprint("z", i%2)})
	}
	return all
}

// read reads the file and has it be right.
func (c *copied) read(file int) {
	c.Helper()
	rd, err := c.client.Open(asRoot(c.Context()), mustPath(c, "/"+strconv.Itoa(file)), core.All)
	if err != nil {
		c.Fatal(err)
	}
	var got bytes.Buffer
	if c.reads++; c.reads%2 == 0 {
		_, err = io.Copy(&got, struct{ io.Reader }{rd})
	} else {
		_, err = rd.WriteTo(&got)
	}
	if err := errors.Join(err, rd.Close()); err != nil {
		c.Fatal(err)
	}
	if want := numberedBytes(file+1000*int(c.tree.rev.Load()), 0, c.tree.size); !bytes.Equal(got.Bytes(), want) {
		c.Errorf("file %d: got %d bytes that are not its", file, got.Len())
	}
}

// ways returns how many bytes came in the way.
func (c *copied) ways(way string) (bytes int64) {
	c.client.Ways().Each(func(w string, n int64) {
		if w == way {
			bytes = n
		}
	})
	return bytes
}

func (c *copied) run(file int) core.Run {
	c.Helper()
	placed, err := c.tree.Place(c.Context(), mustPath(c, "/"+strconv.Itoa(file)), core.All)
	if err != nil {
		c.Fatal(err)
	}
	return placed.Runs[0]
}

// tend has the worker do something to all pages of the file, and returns how many it has then.
func (c *copied) tend(worker string, file int, op core.PageOp) (pages int) {
	c.Helper()
	r, err := c.client.Tend(c.Context(), worker, c.run(file).Ticket, op, 0, c.tree.size)
	if err != nil {
		c.Fatal(err)
	}
	for _, p := range r.Pages {
		if p > 0 {
			pages++
		}
	}
	return pages
}

// having returns the workers that have all of the file.
func (c *copied) having(file int) (names []string) {
	for _, name := range c.client.Workers() {
		if c.tend(name, file, core.LookPages) == int((c.tree.size+page.Size-1)/page.Size) {
			names = append(names, name)
		}
	}
	return names
}

// TestHotBlocksSpread reads a file again and again: as many workers come to have it as may, and the store is read once. A file that is
// read seldom stays where it belongs.
func TestHotBlocksSpread(t *testing.T) {
	for _, most := range []int{1, 3, core.AllWorkers} {
		t.Run(fmt.Sprint("at most ", most), func(t *testing.T) {
			c := startCopied(t, 100_099, core.Copies{Max: most}, cluster.Node{}, apart(4)...)
			want := most
			if most == core.AllWorkers {
				want = 4
			}
			for range 80 {
				c.read(1)
			}
			if got := c.having(1); len(got) != want {
				t.Errorf("%v have it, want %d", got, want)
			}
			if got := c.store.read.Load(); got != c.tree.size {
				t.Errorf("%d bytes were read from the store, want %d", got, c.tree.size)
			}
			busy := 0
			for _, w := range c.workers {
				if w.asked.Load() > 0 {
					busy++
				}
			}
			if busy != want {
				t.Errorf("%d workers were asked, want %d", busy, want)
			}
			c.read(2)
			c.read(2)
			got, tick := c.having(2), time.NewTicker(5*time.Millisecond)
			defer tick.Stop()
			for end := time.Now().Add(10 * time.Second); len(got) == 0 && time.Now().Before(end); <-tick.C { // readers go on before the last page is kept
				got = c.having(2)
			}
			if len(got) != 1 {
				t.Errorf("%v have what was read twice", got)
			}
			if n := c.tree.opened.Load(); n != 0 {
				t.Errorf("the leader was asked for bytes %d times", n)
			}
			// When fewer may have it, the others are not asked any more.
			c.tree.copies.Store(&core.Copies{Max: 1})
			var before int64
			keepers, _ := c.client.Keepers(c.run(1), 0)
			for name, w := range c.workers {
				if name != keepers[0] {
					before += w.asked.Load()
				}
			}
			for range 20 {
				c.read(1)
			}
			for name, w := range c.workers {
				if name != keepers[0] {
					before -= w.asked.Load()
				}
			}
			if before != 0 {
				t.Errorf("others than %v were asked %d times", keepers, -before)
			}
		})
	}
}

// TestColdBlocksDoNotSpread has many readers of a file that nobody has: the store is read once.
func TestColdBlocksDoNotSpread(t *testing.T) {
	for low := range 3 {
		c := startCopied(t, page.Size+99, core.Copies{Min: low, Max: 3}, cluster.Node{}, apart(3)...)
		var all sync.WaitGroup
		for range 20 {
			one := &copied{T: t, tree: c.tree, client: c.client}
			all.Go(func() { one.read(1) })
		}
		all.Wait()
		if got := c.store.read.Load(); got != c.tree.size {
			t.Errorf("at least %d copies: %d bytes were read from the store, want %d", low, got, c.tree.size)
		}
	}
}

// TestCopiesSurvive has workers keep two copies, and loses one of them while it is read: the other one goes on, without the store or the
// leader. What one of them has no more it has from the other.
func TestCopiesSurvive(t *testing.T) {
	for lost := range 2 {
		t.Run(fmt.Sprint("keeper ", lost), func(t *testing.T) {
			c := startCopied(t, 24*page.Size, core.Copies{Min: 2, Max: 2}, cluster.Node{}, apart(3)...)
			keepers, end := c.client.Keepers(c.run(1), 0)
			if len(keepers) != 2 || end != c.tree.size {
				t.Fatalf("%v keep it until %d", keepers, end)
			}
			for _, name := range keepers {
				if n := c.tend(name, 1, core.LoadPages); n != 24 {
					t.Errorf("%s has %d pages", name, n)
				}
			}
			for _, name := range keepers {
				c.tend(name, 1, core.DropPages)
				c.tend(name, 1, core.LoadPages)
			}
			if got := c.store.read.Load(); got != c.tree.size {
				t.Errorf("%d bytes were read from the store, want %d", got, c.tree.size)
			}
			if got := c.having(1); len(got) != 2 {
				t.Errorf("%v have it", got)
			}
			var readers []core.Reader
			var first [1 << 20]byte
			for range 8 { // from either
				rd, err := c.client.Open(asRoot(t.Context()), mustPath(t, "/1"), core.All)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(rd, first[:]); err != nil {
					t.Fatal(err)
				}
				readers = append(readers, rd)
			}
			c.workers[keepers[lost]].stop()
			for _, rd := range readers {
				rest, err := io.ReadAll(rd)
				if err := errors.Join(err, rd.Close()); err != nil {
					t.Error(err)
				}
				if !bytes.Equal(rest, numberedBytes(1, 1<<20, c.tree.size-1<<20)) {
					t.Errorf("got %d bytes that are not the file's", len(rest))
				}
			}
			c.read(1)
			if got := c.store.read.Load(); got != c.tree.size {
				t.Errorf("%d bytes were read from the store, want %d", got, c.tree.size)
			}
			if n := c.tree.opened.Load(); n != 0 {
				t.Errorf("the leader was asked for bytes %d times", n)
			}
		})
	}
}

// TestKeepersAreApart asks who is to keep a block where workers share failure domains.
func TestKeepersAreApart(t *testing.T) {
	workers := apart(5)
	for i, domain := range []string{"a", "a", "b", "b", "b"} {
		workers[i].Domain = domain
	}
	c := startCopied(t, page.Size, core.Copies{Max: 1}, cluster.Node{}, workers...)
	for file := range 50 {
		run := c.run(file)
		one, _ := c.client.Keepers(run, 0)
		for low, want := range map[int]int{0: 1, 1: 1, 2: 2, 3: 2} {
			run.Copies = core.Copies{Min: low, Max: 5}
			got, _ := c.client.Keepers(run, 0)
			if len(got) != want || got[0] != one[0] || want == 2 && (got[0] < "w2") == (got[1] < "w2") {
				t.Errorf("file %d, at least %d: %v, the first is %v", file, low, got, one)
			}
		}
	}
}

// TestNearestCopy has all workers keep a file: the one of the reader's machine is asked, else one of its zone.
func TestNearestCopy(t *testing.T) {
	for _, k := range []struct {
		name    string
		gateway cluster.Node
		want    []string
	}{
		{"its machine", cluster.Node{Host: "h3", Zone: "z0"}, []string{"w3"}},
		{"its zone", cluster.Node{Host: "other", Zone: "z0"}, []string{"w0", "w2"}},
		{"neither", cluster.Node{Host: "other", Zone: "other"}, []string{"w0", "w1", "w2", "w3"}},
		{"nothing is said", cluster.Node{}, []string{"w0", "w1", "w2", "w3"}},
	} {
		t.Run(k.name, func(t *testing.T) {
			c := startCopied(t, 100_099, core.Copies{Min: 4, Max: 4}, k.gateway, apart(4)...)
			for name := range c.workers {
				c.tend(name, 1, core.LoadPages)
			}
			c.read(1) // shows that it is cached
			for _, w := range c.workers {
				w.asked.Store(0) // they asked each other
			}
			for range 80 {
				c.read(1)
			}
			var asked []string
			for name, w := range c.workers {
				if w.asked.Load() > 0 {
					asked = append(asked, name)
				}
			}
			slices.Sort(asked)
			if !slices.Equal(asked, k.want) {
				t.Errorf("%v were asked, want %v", asked, k.want)
			}
		})
	}
}

// TestCopiesInTickets has a ticket say how many copies there may be, and nothing of it where there is one: an earlier release reads that.
func TestCopiesInTickets(t *testing.T) {
	s := sealer(t)
	plain := s.Sign(&seal.Ticket{Store: "root", Expires: time.Now().Add(time.Minute)})
	for copies, longer := range map[int]int{0: 0, 1: 0, 2: 1, 16: 1, core.AllWorkers: 1} {
		b := s.Sign(&seal.Ticket{Store: "root", Copies: copies, Expires: time.Now().Add(time.Minute)})
		x, err := s.Verify(b, time.Now())
		if err != nil || len(b) != len(plain)+longer || longer > 0 && x.Copies != copies {
			t.Errorf("%d copies: %d bytes, plain %d: %+v, %v", copies, len(b), len(plain), x, err)
		}
	}
}

// startLocal starts workers and a gateway that is w0, too, and keeps copies there.
func startLocal(t *testing.T, size int64) (c *copied, file int) {
	t.Helper()
	workers := apart(3)
	workers[0].Incarnation = "i0"
	c = startCopied(t, size, core.Copies{Max: 1}, cluster.Node{Name: "w0", Incarnation: "i0", Host: "h0"}, workers...)
	c.client.KeepCopies(c.workers["w0"].Worker)
	for file = 1; ; file++ { // that another has
		if keepers, _ := c.client.Keepers(c.run(file), 0); keepers[0] != "w0" {
			return c, file
		}
	}
}

// TestLocalCopies has a gateway keep copies of what others have: once they have it, never of an earlier version, and none of what is not
// to be kept.
func TestLocalCopies(t *testing.T) {
	c, file := startLocal(t, 3*page.Size+99)
	owner, _ := c.client.Keepers(c.run(file), 0)
	asked := &c.workers[owner[0]].asked
	c.read(file)
	if got := c.having(file); !slices.Equal(got, owner) {
		t.Errorf("%v have what nobody had", got)
	}
	c.read(file)
	if got, want := c.having(file), []string{"w0", owner[0]}; !slices.Equal(got, want) {
		t.Errorf("%v have it, want %v", got, want)
	}
	if s := c.client.LocalStats(); s.Pages != 4 || s.Bytes != c.tree.size || s.Failed != 0 {
		t.Errorf("%+v", s)
	}
	before := asked.Load()
	for range 6 {
		c.read(file)
	}
	if n := asked.Load() - before; n != 0 {
		t.Errorf("%s was asked %d times for what is here", owner[0], n)
	}
	if got, want := c.ways("local"), 7*c.tree.size; got != want {
		t.Errorf("%d bytes came from here, want %d", got, want)
	}
	if got := c.store.read.Load(); got != c.tree.size {
		t.Errorf("%d bytes were read from the store, want %d", got, c.tree.size)
	}
	for rev := range int64(3) {
		c.tree.rev.Store(rev + 1)
		for range 3 {
			c.read(file)
		}
	}
	c.tree.not.Store(true)
	c.tree.rev.Store(9)
	for range 3 {
		c.read(file)
	}
	if got := c.having(file); len(got) != 0 {
		t.Errorf("%v have what is not to be kept", got)
	}
	if n := c.tree.opened.Load(); n != 0 {
		t.Errorf("the leader was asked for bytes %d times", n)
	}
}

// TestLocalCopiesInPart reads what its owner has in part, and what is left of it here once the owner has gone.
func TestLocalCopiesInPart(t *testing.T) {
	c, file := startLocal(t, 6*page.Size)
	owner, _ := c.client.Keepers(c.run(file), 0)
	tend := func(worker string, op core.PageOp, page0 int64) {
		t.Helper()
		if _, err := c.client.Tend(t.Context(), worker, c.run(file).Ticket, op, page0*page.Size, page.Size); err != nil {
			t.Fatal(err)
		}
	}
	c.tend(owner[0], file, core.LoadPages)
	for range 2 { // with each way of reading
		c.tend(owner[0], file, core.LoadPages)
		c.tend("w0", file, core.DropPages)
		tend(owner[0], core.DropPages, 3)
		c.read(file)
		if n := c.tend("w0", file, core.LookPages); n != 3 {
			t.Errorf("%d pages are here, want the 3 before the one that was missing", n)
		}
	}
	c.read(file)
	if n := c.tend("w0", file, core.LookPages); n != 6 {
		t.Errorf("%d pages are here, want all", n)
	}
	tend("w0", core.DropPages, 4)
	read := c.store.read.Load()
	c.workers[owner[0]].stop()
	c.read(file)
	c.read(file)
	if got := c.store.read.Load() - read + c.tree.opened.Load()*page.Size; got == 0 || got > 4*page.Size {
		t.Errorf("%d bytes were read from the store, or by the leader", got)
	}
}

// TestLocalCopiesAreNotMadeOfThisMachine reads from a worker of the same machine.
func TestLocalCopiesAreNotMadeOfThisMachine(t *testing.T) {
	workers := apart(2)
	workers[1].Host, workers[0].Incarnation = "h0", "i0"
	c := startCopied(t, page.Size, core.Copies{Max: 1}, cluster.Node{Incarnation: "i0", Host: "h0"}, workers...)
	c.client.KeepCopies(c.workers["w0"].Worker)
	for file := range 8 {
		for range 3 {
			c.read(file)
		}
		if got := c.having(file); len(got) != 1 {
			t.Errorf("file %d: %v have it", file, got)
		}
	}
}
