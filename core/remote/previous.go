package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
)

/*
When a worker comes, or comes back, some blocks become its own whose pages are where they were: with the worker that owned them
without it. When one is drained, its blocks go to others. So a worker that lacks a page asks who owned it before, before it asks
the store: that one answers at once whether it has all of it, and sends it with a checksum. It asks nobody in turn.
Likewise a worker that lacks a page of which there may be copies (copies.go) asks those that may have one.
*/

const (
	// movedFor is how long after its start a worker asks who owned its blocks before. By then what is read has moved.
	movedFor = time.Hour
	// previousPatience bounds what asking who owned it before costs who waits for a page, beside what the page itself takes. Who has a copy
	// is waited for as long as a reader waits.
	previousPatience = time.Second
	// After seldomAfter answers in a row that there is nothing, only one of seldom pages is asked for.
	seldomAfter, seldom = 32, 16
)

// Previous reads pages from the workers that owned them before. It is safe for concurrent use.
type Previous struct {
	c     *Client
	self  string
	since time.Time

	before asking
	copies asking
}

// asking counts what was asked for.
type asking struct {
	inVain                       atomic.Int64 // in a row
	pages, bytes, absent, failed atomic.Int64
}

func (a *asking) stats() AskedStats {
	return AskedStats{a.pages.Load(), a.bytes.Load(), a.absent.Load(), a.failed.Load()}
}

// PreviousStats are the numbers of a Previous since it was made.
type PreviousStats struct {
	AskedStats            // of those who owned pages before
	Copies     AskedStats // of those who may have copies
}

// AskedStats are the numbers of pages that other workers were asked for.
type AskedStats struct {
	Pages, Bytes int64 // that came
	Absent       int64 // pages asked for that they did not have
	Failed       int64 // pages that did not come, or damaged
}

// Previous returns what reads pages for the worker of the name self, which was started at since, as this client knows the cluster.
// What it knows of self itself may be of an earlier start.
func (c *Client) Previous(self string, since time.Time) *Previous {
	return &Previous{c: c, self: self, since: since}
}

// Stats returns the numbers.
func (v *Previous) Stats() PreviousStats {
	return PreviousStats{v.before.stats(), v.copies.stats()}
}

// Read fills p with the bytes of the run's content that start at r.Off, all of one block, if another worker that has a copy, or owned it
// before, has them; they are what it sent. Otherwise p is not to be used.
func (v *Previous) Read(ctx context.Context, r core.Run, p []byte) bool {
	others, first := v.others(&r)
	for _, from := range others {
		if v.copies.ask(ctx, v.c, from, &r, p, v.c.o.Silence, first) {
			return true
		}
	}
	from, ok := v.owner(&r)
	if !ok || slices.ContainsFunc(others, func(n cluster.Node) bool { return n.Name == from.Name }) {
		return false
	}
	return v.before.ask(ctx, v.c, from, &r, p, previousPatience, true)
}

// others returns the workers that may have copies of what the run is in, and whether this one is the first to have it: then the others
// are not likely to.
func (v *Previous) others(r *core.Run) (all []cluster.Node, first bool) {
	m := v.c.cluster.Load()
	if m == nil || r.Copies.Max == 0 || r.Copies.Max == 1 {
		return nil, false
	}
	all, live, _ := v.c.spread(m.ring, blockKey(r, r.Off))
	if r.Copies.Max > 0 {
		live = min(live, r.Copies.Max)
	}
	first = live > 0 && all[0].Name == v.self
	all = slices.DeleteFunc(all[:live], func(n cluster.Node) bool { return n.Name == v.self })
	return all[:min(attempts, len(all))], first
}

// ask has p be filled by the worker. Of those that are not likely to have it, fewer are asked the longer they have not.
func (a *asking) ask(ctx context.Context, c *Client, from cluster.Node, r *core.Run, p []byte, patience time.Duration, unlikely bool) bool {
	if c.shunned(from.Pages) {
		return false
	}
	if n := a.inVain.Load(); unlikely && n >= seldomAfter && a.inVain.Add(1)%seldom != 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	here, alive, err := c.readIfHere(ctx, from, r, p)
	switch {
	case err != nil:
		a.failed.Add(1)
		if !alive && errors.Is(ctx.Err(), context.DeadlineExceeded) { // else it is slow
			c.shun(from.Pages)
		}
		a.inVain.Add(1)
	case !here:
		a.absent.Add(1)
		a.inVain.Add(1)
	default:
		a.pages.Add(1)
		a.bytes.Add(int64(len(p)))
		a.inVain.Store(0)
	}
	return here && err == nil
}

// owner returns who had the block before this worker, as far as that can be told from who is there.
func (v *Previous) owner(r *core.Run) (cluster.Node, bool) {
	m := v.c.cluster.Load()
	if m == nil {
		return cluster.Node{}, false
	}
	fresh := time.Since(v.since) < movedFor
	var before []cluster.Node
	for _, n := range m.nodes {
		switch {
		case n.Role != cluster.Worker || n.Pages == "":
		case n.Name == v.self && n.Draining:
			return cluster.Node{}, false
		case n.Name == v.self:
		case n.Draining || fresh && (n.Since.Before(v.since) || n.Since.Equal(v.since) && n.Name < v.self):
			before = append(before, n)
		}
	}
	if len(before) == 0 {
		return cluster.Node{}, false
	}
	return cluster.NewRing(before).Owner(blockKey(r, r.Off))
}

// shunned reports whether the worker at addr did not answer a while ago.
func (c *Client) shunned(addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pages.shun[addr].After(time.Now())
}

// readIfHere fills p from the worker, if that has all of it in its cache. alive: something came from it.
func (c *Client) readIfHere(ctx context.Context, from cluster.Node, r *core.Run, p []byte) (here, alive bool, err error) {
	s := &pageStream{c: c, ticket: r.Ticket, off: r.Off, left: int64(len(p)), owners: []cluster.Node{from}, ifHere: true}
	defer s.close()
	if here, err = s.open(ctx); err != nil {
		return false, s.answered, err
	}
	if !here {
		s.end()
		return false, true, nil
	}
	for at := 0; at < len(p); {
		if s.body == 0 {
			if err := s.next(); err != nil {
				return false, s.answered, err
			}
		}
		if err := s.wait(); err != nil {
			return false, s.answered, err
		}
		n, err := io.ReadFull(s.conn.in, p[at:at+int(s.body)])
		if at += n; err != nil {
			return false, s.answered, s.failed(err)
		}
		s.took(int64(n))
	}
	kind, n, err := s.header()
	if err != nil {
		return false, s.answered, err
	}
	var sum [4]byte
	if kind != kindSum || n != int64(len(sum)) {
		return false, s.answered, s.failed(errors.New("no checksum after the bytes"))
	}
	if _, err := io.ReadFull(s.conn.in, sum[:]); err != nil {
		return false, s.answered, s.failed(err)
	}
	if binary.BigEndian.Uint32(sum[:]) != crc32.Checksum(p, castagnoli()) {
		return false, s.answered, s.failed(errs.New("remote.Pages", from.Name, errs.Corrupt, "the bytes were damaged on their way"))
	}
	s.end()
	return true, true, nil
}

// answerIfHere sends what rd reads if the cache has all of it.
func (s *PageServer) answerIfHere(out *pageSink, rd core.PageReader) error {
	here := rd.Resident()
	head := coder{}
	head.flags(&here)
	out.held, out.left = append(frameHeader(kindOpen, len(head.b)), head.b...), -1 // the end comes after the sum
	w := &summed{w: out}
	var err error
	if here {
		_, err = rd.WriteTo(w)
	}
	if err = both(err, rd.Close()); err != nil {
		if out.err != nil {
			return out.err
		}
		return out.fault(err)
	}
	if here {
		out.held = binary.BigEndian.AppendUint32(append(out.held, frameHeader(kindSum, 4)...), w.sum)
	}
	return out.conclude(nil)
}
