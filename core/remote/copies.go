package remote

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
)

/*
Copies of a block. The owners of a block (cluster.Ring) are in an order that all who know the same workers agree on; taken apart
by failure domains (cluster.Spread), the first of them are those that have its copies:

	owners, spread   w3   w1   w4   w0   w2
	                 └─ Min ──┘          |     are made to keep it by the leader
	                 └─ asked by readers ┘     Min and one more for every hotReads reads, up to Max

A reader asks the first until it has seen the block in a cache: each of the others would read it from the store too. From then on it asks
one of those, the nearest, any of those that are as near, and another one if that is lost. What a worker among them lacks it has from the
others, and from the store only if they lack it too. Nobody notes who has which copy: a block that is read less is asked
for at fewer workers, and what the others have of it is evicted in its turn. The last copy is never among those.
*/

const (
	// hotReads is how many reads of a block, of late, add a copy. Reads that waited for a store do not count: what is not in the first
	// cache yet would be read from the store for each.
	hotReads = 8
	// HotHalf is the time in which a read comes to count half.
	HotHalf = 10 * time.Second
	// maxHeat bounds the blocks whose reads are counted. Beyond it others are not: they are spread once some have cooled down.
	maxHeat = 4096
	// heatSweep is the time between two searches for those that have.
	heatSweep = time.Second
)

// heat is how much blocks were read of late.
type heat struct {
	half time.Duration // HotHalf

	mu    sync.Mutex
	by    map[string]*warmth
	swept time.Time
}

type warmth struct {
	reads float64
	at    time.Time
}

func (w *warmth) now(t time.Time, half time.Duration) float64 {
	return w.reads * math.Exp2(-float64(t.Sub(w.at))/float64(half))
}

// read counts a read of the block.
func (h *heat) read(key string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.by[key]
	if w == nil {
		if len(h.by) >= maxHeat && now.Sub(h.swept) >= heatSweep {
			h.swept = now
			for k, w := range h.by {
				if w.now(now, h.half) < 1 {
					delete(h.by, k)
				}
			}
		}
		if len(h.by) >= maxHeat {
			return
		}
		if h.by == nil {
			h.by = map[string]*warmth{}
		}
		w = &warmth{at: now}
		h.by[key] = w
	}
	w.reads, w.at = w.now(now, h.half)+1, now
}

// copies returns how many workers the block's reads are worth, at least least of them if it was seen in a cache.
func (h *heat) copies(key string, least int, now time.Time) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.by[key]; w != nil {
		return max(1+int(w.now(now, h.half)/hotReads), least)
	}
	return 1
}

// spread returns all workers in the order in which they have copies of the block, of which so many answer and are in so many failure
// domains; those that do not answer now come last.
func (c *Client) spread(ring *cluster.Ring, key string) (all []cluster.Node, live, domains int) {
	all = ring.Owners(key, ring.Len())
	c.mu.Lock()
	now := time.Now()
	silent := func(n cluster.Node) bool { return c.pages.shun[n.Pages].After(now) }
	slices.SortStableFunc(all, func(a, b cluster.Node) int { return order(silent(a), silent(b)) })
	for live < len(all) && !silent(all[live]) {
		live++
	}
	c.mu.Unlock()
	return all, live, cluster.Spread(all[:live])
}

// order sorts false before true.
func order(a, b bool) int {
	switch {
	case a && !b:
		return 1
	case b && !a:
		return -1
	}
	return 0
}

// keepers returns the workers that are to keep the block whether or not it is read, and at least the one that is asked for it.
func (c *Client) keepers(ring *cluster.Ring, key string, of core.Copies) []cluster.Node {
	all, _, domains := c.spread(ring, key)
	return all[:min(max(of.Min, 1), max(domains, 1), len(all))]
}

// sources returns the workers that a reader of the block asks, in this order.
func (c *Client) sources(key string, of core.Copies) []cluster.Node {
	ring := c.cluster.Load().ring
	if of.Max == 0 || of.Max == 1 {
		return c.owners(ring, key)
	}
	all, live, _ := c.spread(ring, key)
	n := c.heat.copies(key, of.Min, time.Now())
	if of.Max > 0 {
		n = min(n, of.Max)
	}
	if n = min(n, live); n > 1 {
		near := all[:n]
		rand.Shuffle(n, func(i, j int) { near[i], near[j] = near[j], near[i] })
		slices.SortStableFunc(near, func(a, b cluster.Node) int { return c.distance(a) - c.distance(b) })
	}
	return all[:min(attempts, len(all))]
}

// unlessShunned returns the sources of the block again if the first of them has been found not to answer: it is the last now.
func (c *Client) unlessShunned(sources []cluster.Node, key string, of core.Copies) []cluster.Node {
	if len(sources) > 0 && sources[0].Pages != "" && c.shunned(sources[0].Pages) {
		return c.sources(key, of)
	}
	return sources
}

// Local is a cache of this process's own, in which a client keeps copies of what it reads from other workers.
type Local interface {
	// Copies returns a reader of bytes [off, off+n) of the ticket's content out of the cache. Pages that it lacks it asks get for, and keeps; where that returns
	// false the reader fails with errs.NotExist. Other errors have it be read without a copy.
	Copies(ctx context.Context, ticket []byte, off, n int64, get func(ctx context.Context, r core.Run, p []byte) bool) (interface {
		core.PageReader
		io.Reader
	}, error)
}

// KeepCopies has what is read from now on from workers on other machines be kept in l too, if they have it in their caches, and be
// read from there the next time.
func (c *Client) KeepCopies(l Local) { c.local.Store(&l) }

// LocalStats returns the numbers of pages that were asked for to be kept in the Local.
func (c *Client) LocalStats() AskedStats { return c.copied.stats() }

// localBytes is how much of a block must have come to or be in this process's cache before its reader is told that it has begun.
const localBytes = 64 << 10

// localReader reads a part of a block from this process's cache.
type localReader struct {
	core.PageReader
	in   io.Reader
	left int64
	buf  []byte
}

// readLocal returns a reader of bytes [off, off+n) of the run's content that are, or are going to be, in this process's cache, and the first
// of them; nil if they are to be read from the workers. These are those that would be asked.
func (c *Client) readLocal(ctx context.Context, from []cluster.Node, run *core.Run, off, n int64) (l *localReader, first []byte) {
	local := c.local.Load()
	if local == nil || len(from) == 0 || c.distance(from[0]) <= 1 { // what is on this machine is here already
		return nil, nil
	}
	rd, err := (*local).Copies(ctx, run.Ticket, off, n, func(ctx context.Context, page core.Run, p []byte) bool {
		return c.copied.ask(ctx, c, from[0], &page, p, c.o.Silence, false)
	})
	if err != nil {
		return nil, nil
	}
	l = &localReader{PageReader: rd, in: rd, left: n, buf: make([]byte, min(n, localBytes))}
	k, err := l.in.Read(l.buf)
	if err != nil || k == 0 {
		l.close()
		return nil, nil
	}
	l.left -= int64(k)
	return l, l.buf[:k]
}

// read returns some bytes, which are good until the next call, or an error if the rest is to be had elsewhere.
func (l *localReader) read() ([]byte, error) {
	k, err := l.in.Read(l.buf[:min(l.left, int64(len(l.buf)))])
	if l.left -= int64(k); k > 0 {
		return l.buf[:k], nil
	}
	return nil, err
}

// send writes the bytes to w. Its errors are w's, or leave open how much was written, but if lost says that the rest, of which nothing
// was, is to be had elsewhere.
func (l *localReader) send(w io.Writer) (n int64, lost bool, err error) {
	to := &heldError{w: w}
	n, err = l.WriteTo(to)
	l.left -= n
	return n, to.err == nil && errs.KindOf(err) == errs.NotExist, err
}

// heldError is a Writer that remembers how the last write ended, as far as that is w's doing.
type heldError struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (w *heldError) Write(p []byte) (n int, err error) {
	n, err = w.w.Write(p)
	if w.err = err; errors.Is(err, syscall.EFAULT) {
		w.err = nil // p is of the cache, whose disk cannot read it
	}
	return n, err
}

func (l *localReader) close() { _ = l.Close() } // a reader's is never an error

// distance says how far away a process is: 0 this one, 1 on this machine, 2 in this zone, 3 elsewhere.
func (c *Client) distance(n cluster.Node) int {
	if len(c.o.Nodes) == 0 {
		return 3
	}
	switch self := c.o.Nodes[0]; {
	case n.Incarnation != "" && n.Incarnation == self.Incarnation:
		return 0
	case n.Host != "" && n.Host == self.Host:
		return 1
	case n.Zone != "" && n.Zone == self.Zone:
		return 2
	}
	return 3
}
