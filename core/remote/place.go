package remote

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
)

// blockSize is how many bytes of a content one worker owns together: enough that a large file costs few streams, and few
// enough that it is spread. All clients must agree on it.
const blockSize = 64 << 20

// members is what a client knows of its cluster.
type members struct {
	nodes []cluster.Node
	ring  *cluster.Ring // of the workers that are not draining
}

// learn takes over who is in the cluster, and gives up the connections to those who are not.
func (c *Client) learn(nodes []cluster.Node) {
	var workers []cluster.Node
	known := map[string]bool{}
	for _, n := range nodes {
		known[n.Addr], known[n.Pages] = true, n.Pages != ""
		if n.Role == cluster.Worker && n.Pages != "" && !n.Draining {
			workers = append(workers, n)
		}
	}
	for _, addr := range c.o.Addrs {
		known[addr] = true
	}
	c.cluster.Store(&members{nodes, cluster.NewRing(workers)})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endPageConns(known)
	for addr, conn := range c.conns {
		if known[addr] || c.link != nil && c.link.addr == addr {
			continue
		}
		delete(c.conns, addr)
		_, _ = conn.names.Close(), conn.bytes.Close() // only ever ErrClientConnClosing
	}
}

// Nodes returns the live processes of the cluster as the leader last told, nil if none has.
func (c *Client) Nodes() []cluster.Node {
	if m := c.cluster.Load(); m != nil {
		return m.nodes
	}
	return nil
}

// Stores returns the stores that tickets name, their secrets sealed. It is for workers.
func (c *Client) Stores(ctx context.Context) (all []core.StoreSpec, err error) {
	err = c.call(ctx, methodStores, nil, func(in *coder) { in.own = true; storeSpecs(in, &all) })
	return all, err
}

// Open implements core.Namespace. The bytes come from the workers if there are any, else from the leader, on a stream of
// their own, which lives until the reader is closed or ctx ends.
func (c *Client) Open(ctx context.Context, p core.Path, r core.Range) (core.Reader, error) {
	m := c.cluster.Load()
	var placed core.Placed
	var err error
	if m != nil && m.ring.Len() > 0 {
		err = c.call(ctx, methodPlace, func(out *coder) { out.pathRange(&p, &r) }, func(in *coder) { in.own = true; in.placed(&placed) })
	}
	if m == nil || m.ring.Len() == 0 || errors.Is(err, errs.Unsupported) {
		rd, err := c.openAtLeader(ctx, p, r)
		if err != nil {
			return nil, err
		}
		return rd, nil
	}
	if err != nil {
		return nil, err
	}
	rd := &placedReader{c: c, ctx: ctx, path: p, placed: placed, left: placed.Len}
	if rd.left == 0 {
		return rd, nil
	}
	// What comes first shows whether it is cached, and fails before anything was said to anybody.
	for rd.leader == nil && rd.lent == nil && rd.local == nil && (rd.from == nil || rd.from.body == 0) {
		if err := rd.next(); err != nil {
			return nil, errors.Join(err, rd.Close())
		}
	}
	return rd, nil
}

// placedReader implements core.Reader over workers.
type placedReader struct {
	c        *Client
	ctx      context.Context
	path     core.Path
	placed   core.Placed
	left     int64 // bytes that have not come
	followed int64 // what left was when a ticket was last followed; 0: never

	run    int           // the run being read
	at     int64         // how much of it has come
	lent   *loan         // where the next bytes lie, if they do on this machine
	plain  bool          // the rest of the block is not lent
	slow   bool          // nothing more is to be lent
	local  *localReader  // what the bytes of the block come from, if this process keeps copies
	alone  bool          // the rest of the block is not to be had from there
	from   *pageStream   // what it comes from else; nil between blocks
	leader *remoteReader // what the rest comes from, once no worker could serve it
	rest   [][]byte      // what has come and is unread
	err    error         // what Read returns once rest is empty
}

// Info implements core.Reader.
func (r *placedReader) Info() core.Info { return r.placed.Info }

// Span implements core.Reader.
func (r *placedReader) Span() (off, n int64) { return r.placed.Off, r.placed.Len }

// Read implements io.Reader.
func (r *placedReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.rest) == 0 {
		if r.err == nil && r.lent != nil {
			n, err := r.lent.read(p)
			r.took(int64(n), &r.c.ways.lent)
			r.endLoan(err != nil)
			if n > 0 {
				return n, nil
			}
			continue // from elsewhere
		}
		if err := r.more(); err != nil {
			return 0, err
		}
	}
	k := copy(p, r.rest[0])
	if r.rest[0] = r.rest[0][k:]; len(r.rest[0]) == 0 {
		r.rest = r.rest[1:]
	}
	return k, nil
}

// WriteTo implements io.WriterTo. What a worker lends goes to w from where it lies; what comes from one goes to w without being
// looked at, where w lets it. An error of writing what was lent ends the reader.
func (r *placedReader) WriteTo(w io.Writer) (n int64, err error) {
	to, _ := w.(io.ReaderFrom)
	for {
		for len(r.rest) > 0 {
			k, err := w.Write(r.rest[0])
			n += int64(k)
			if r.rest[0] = r.rest[0][k:]; err != nil {
				return n, err
			}
			r.rest = r.rest[1:]
		}
		if r.err == nil && r.lent != nil {
			k, lost, err := r.lent.send(w)
			n += int64(k)
			r.took(int64(k), &r.c.ways.lent)
			if err != nil && !lost {
				r.err = err // it may not be known how much was written
				return n, err
			}
			r.endLoan(lost)
			continue
		}
		if r.err == nil && r.local != nil && r.local.left > 0 {
			k, lost, err := r.local.send(w)
			n += k
			r.took(k, &r.c.ways.local)
			if err != nil && !lost {
				r.err = err
				return n, err
			}
			r.endLocal(lost)
			continue
		}
		if r.err == nil && to != nil && r.from != nil && r.from.direct() {
			k, err := r.from.pass(to)
			n += k
			r.took(k, &r.c.ways.streamed)
			if err != nil && r.from.conn != nil { // the frame is done
				return n, err
			}
			if err != nil { // another worker goes on; if it was w that failed, it fails again with the next bytes
				r.err = r.another(err)
			}
			continue
		}
		if r.err == nil {
			r.err = r.next()
		}
		switch {
		case r.err == io.EOF && len(r.rest) == 0:
			return n, nil
		case r.err != nil && len(r.rest) == 0:
			return n, r.err
		}
	}
}

// Close implements io.Closer.
func (r *placedReader) Close() error {
	r.rest = nil
	if r.err == nil {
		r.err = errs.New("remote.Read", r.path.String(), errs.Invalid, "the reader is closed")
	}
	if r.lent != nil {
		r.lent.close()
		r.lent = nil
	}
	if r.local != nil {
		r.local.close()
		r.local = nil
	}
	if r.from != nil {
		r.from.close()
		r.from = nil
	}
	if r.leader != nil {
		return r.leader.Close()
	}
	return nil
}

// took notes that n bytes have come.
func (r *placedReader) took(n int64, way *atomic.Int64) {
	r.at += n
	r.left -= n
	way.Add(n)
}

// endLoan ends the loan unless the next bytes are lent, and can be read.
func (r *placedReader) endLoan(lost bool) {
	if !lost && r.lent.ready() {
		return
	}
	r.plain, r.slow = r.lent.left > 0, r.slow || r.lent.slow
	r.lent.close()
	r.lent = nil
}

// endLocal ends the reading of this process's cache, of the rest of the block if that is not there.
func (r *placedReader) endLocal(lost bool) {
	r.local.close()
	r.local, r.alone = nil, lost
}

// more puts what comes next into r.rest, which is empty, or has it be lent. At the end its error is io.EOF.
func (r *placedReader) more() error {
	for r.err == nil && len(r.rest) == 0 && r.lent == nil {
		r.err = r.next()
	}
	if len(r.rest) > 0 {
		return nil
	}
	return r.err
}

func (r *placedReader) next() error {
	if r.leader != nil {
		err := r.leader.next()
		r.rest = r.leader.rest
		for _, b := range r.rest {
			r.c.ways.leader.Add(int64(len(b)))
		}
		return err
	}
	if r.from != nil && r.from.left == 0 {
		r.from.end()
		r.from, r.plain, r.alone = nil, false, false
	}
	if r.local != nil && r.local.left == 0 {
		r.endLocal(false)
	}
	if r.left == 0 {
		return io.EOF
	}
	if r.local != nil {
		p, err := r.local.read()
		if r.took(int64(len(p)), &r.c.ways.local); len(p) > 0 {
			r.rest = append(r.rest[:0], p)
			return nil
		}
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		r.endLocal(err != nil)
		return nil
	}
	if r.run == len(r.placed.Runs) {
		return broken(errors.New("the runs of a file are shorter than it"))
	}
	run := &r.placed.Runs[r.run]
	switch {
	case r.at == run.Len:
		r.run, r.at = r.run+1, 0
		return nil
	case r.from == nil:
		return r.ask(run)
	case r.from.body == 0:
		if err := r.from.next(); err != nil {
			return r.another(err)
		}
		return nil
	}
	p, err := r.from.take()
	if err != nil {
		return r.another(err)
	}
	r.took(int64(len(p)), &r.c.ways.streamed)
	r.rest = append(r.rest[:0], p)
	return nil
}

// ask has the block that begins or goes on where the reader is be lent, or opens a stream of it.
func (r *placedReader) ask(run *core.Run) error {
	off := run.Off + r.at
	end := min(run.Off+run.Len, (off/blockSize+1)*blockSize)
	key := blockKey(run, off)
	owners := r.c.sources(key, run.Copies)
	if !r.plain && !r.slow && len(owners) > 0 {
		if r.lent = r.c.borrow(owners[0], run.Ticket, off, end-off); r.lent != nil {
			r.began(run, key, r.lent.resident)
			return nil
		}
		owners = r.c.unlessShunned(owners, key, run.Copies)
	}
	if !r.alone {
		var first []byte
		if r.local, first = r.c.readLocal(r.ctx, owners, run, off, end-off); r.local != nil {
			r.took(int64(len(first)), &r.c.ways.local)
			r.rest = append(r.rest[:0], first)
			return nil
		}
		owners = r.c.unlessShunned(owners, key, run.Copies)
	}
	r.from = &pageStream{c: r.c, ticket: run.Ticket, off: off, left: end - off, owners: owners}
	resident, err := r.from.open(r.ctx)
	if err != nil {
		return r.another(err)
	}
	r.began(run, key, resident)
	return nil
}

// began notes how the answer to what the reader asked for begins.
func (r *placedReader) began(run *core.Run, key string, resident bool) {
	switch {
	case !resident && r.placed.Info.Cache == core.Hit:
		r.placed.Info.Cache = core.Miss
	case resident && run.Copies.Max != 0 && run.Copies.Max != 1:
		r.c.heat.read(key, time.Now())
	}
}

// blockKey names the block of a content that the byte at off is in.
func blockKey(run *core.Run, off int64) string {
	key := binary.BigEndian.AppendUint64(append(make([]byte, 0, 32), run.ID[:]...), run.Rev)
	return string(binary.BigEndian.AppendUint64(key, uint64(off/blockSize)))
}

// Ways are the bytes of files that a client's readers got where there are workers, by the way they came.
type Ways struct{ lent, streamed, local, leader atomic.Int64 }

// Each calls f with each way: "descriptor", of pages that a worker of this machine lent; "stream", of a worker's page stream;
// "local", of copies in this process's cache, those that it has just been given among them; "leader", where no worker had them.
func (w *Ways) Each(f func(way string, bytes int64)) {
	f("descriptor", w.lent.Load())
	f("stream", w.streamed.Load())
	f("local", w.local.Load())
	f("leader", w.leader.Load())
}

// Ways returns the client's, which go on counting.
func (c *Client) Ways() *Ways { return &c.ways }

// attempts is how many workers are asked for a block before the leader is.
const attempts = 2

// moved has the run that is being read be asked for where it is now, and reports whether that is known, and is elsewhere. It is tried
// once for the same bytes: what was changed as well is nowhere.
func (r *placedReader) moved() bool {
	if r.followed == r.left {
		return false
	}
	r.followed = r.left
	run := &r.placed.Runs[r.run]
	var ticket []byte
	err := r.c.call(r.ctx, methodFollow, func(out *coder) { out.bytes(&run.Ticket) }, func(in *coder) { in.own = true; in.bytes(&ticket) })
	if err != nil || bytes.Equal(ticket, run.Ticket) {
		return false // who leads knows best what that means
	}
	run.Ticket = ticket
	return true
}

// another has the next worker go on where this one failed with err, or the leader.
func (r *placedReader) another(err error) error {
	for {
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		// A worker that knows better is not contradicted by another: the leader knows best.
		if k := errs.KindOf(err); k != errs.Unavailable && k != errs.Other || len(r.from.owners) == 0 {
			break
		}
		if _, err = r.from.open(r.ctx); err == nil {
			return nil
		}
	}
	r.from.close()
	r.from = nil
	if errs.KindOf(err) == errs.Conflict && r.moved() {
		return nil
	}
	done := r.placed.Len - r.left
	rd, lerr := r.c.openAtLeader(r.ctx, r.path, core.Range{Off: r.placed.Off + done, Len: r.left})
	if lerr != nil {
		return lerr
	}
	if info := rd.Info(); info.Version != r.placed.Info.Version || info.ID != r.placed.Info.ID || info.Size != r.placed.Info.Size {
		return errors.Join(errs.New("remote.Read", r.path.String(), errs.Conflict,
			"this version was replaced while it was read, and no worker has the rest of it; open the file again"), rd.Close())
	}
	r.leader = rd
	return nil
}
