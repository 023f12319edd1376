package remote

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
)

// holdFrame is how many bytes of an attempt a frame has at most: what a worker takes within Silence, however slow it is.
const holdFrame = chunk

// HoldersOptions say which workers hold.
type HoldersOptions struct {
	// Nodes returns the live processes. nil: those that the leader has told the Client of.
	Nodes func() []cluster.Node
	// Sign makes workers believe a call (seal.Sealer.SignCall).
	Sign func(text []byte) []byte
	// Own is this process's holder, which is not asked over the network; nil if it is no worker.
	Own core.Holder
}

// Holders implements core.Holders over the page streams of workers. It is for masters, and safe for concurrent use.
type Holders struct {
	c *Client
	o HoldersOptions

	mu    sync.Mutex
	avoid map[string]time.Time // until when, workers that have lately taken nothing
}

// NewHolders returns the workers that c can reach. It is good until c is closed.
func NewHolders(c *Client, o HoldersOptions) *Holders {
	if o.Nodes == nil {
		o.Nodes = c.Nodes
	}
	return &Holders{c: c, o: o, avoid: map[string]time.Time{}}
}

// Choose implements core.Holders: at random, those the more often that may hold more, and this process before all others.
func (h *Holders) Choose(n int, durable bool, beside ...string) []core.Holder {
	type one struct {
		node  cluster.Node
		score float64
	}
	var all []one
	domains, zones := map[string]bool{}, map[string]bool{}
	now := time.Now()
	nodes := h.o.Nodes()
	h.mu.Lock()
	for _, w := range nodes {
		if w.Role == cluster.Worker && slices.Contains(beside, w.Name) {
			domains[domainOf(w)], zones[w.Zone] = true, true
		}
		if !holds(w) || w.Draining || durable && w.Volatile || h.avoid[w.Name].After(now) {
			continue
		}
		score := rand.ExpFloat64() / float64(w.Hold)
		if h.o.Own != nil && w.Name == h.o.Own.Name() {
			score = -1
		}
		all = append(all, one{w, score})
	}
	h.mu.Unlock()
	slices.SortFunc(all, func(a, b one) int { return cmp.Compare(a.score, b.score) })
	var chosen []core.Holder
	for _, elsewhere := range []bool{true, false} { // in another zone first
		for _, w := range all {
			domain, zone := domainOf(w.node), w.node.Zone
			if len(chosen) < n && !domains[domain] && !(elsewhere && zones[zone]) {
				domains[domain], zones[zone] = true, true
				chosen = append(chosen, h.of(w.node))
			}
		}
	}
	return chosen
}

// domainOf returns what a node fails together with.
func domainOf(n cluster.Node) string { return cmp.Or(n.Domain, n.Host, n.Name) }

// holds reports whether a node can hold anything.
func holds(n cluster.Node) bool { return n.Role == cluster.Worker && n.Hold > 0 && n.Pages != "" }

// Holder implements core.Holders.
func (h *Holders) Holder(name string) (core.Holder, bool) {
	if h.o.Own != nil && h.o.Own.Name() == name {
		return h.o.Own, true
	}
	for _, n := range h.o.Nodes() {
		if holds(n) && n.Name == name {
			return h.of(n), true
		}
	}
	return nil, false
}

// All implements core.Holders.
func (h *Holders) All() (all []core.Holder) {
	own := h.o.Own != nil
	for _, n := range h.o.Nodes() {
		if holds(n) {
			all = append(all, h.of(n))
			own = own && n.Name != h.o.Own.Name()
		}
	}
	if own { // not listed yet
		all = append(all, h.o.Own)
	}
	return all
}

// Leaving implements core.Holders.
func (h *Holders) Leaving() (names []string) {
	for _, n := range h.o.Nodes() {
		if holds(n) && n.Draining {
			names = append(names, n.Name)
		}
	}
	return names
}

func (h *Holders) of(n cluster.Node) core.Holder {
	if h.o.Own != nil && h.o.Own.Name() == n.Name {
		return &wary{h.o.Own, h}
	}
	return &heldAt{h: h, name: n.Name, addr: n.Pages}
}

// failed notes that a worker takes nothing, if that is what err says, so that others are chosen for a while.
func (h *Holders) failed(name string, err error) error {
	if k := errs.KindOf(err); err == nil || k != errs.NoSpace && k != errs.Unavailable {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for n, until := range h.avoid {
		if until.Before(now) {
			delete(h.avoid, n)
		}
	}
	h.avoid[name] = now.Add(shunned)
	return err
}

// wary is this process's own holder.
type wary struct {
	core.Holder
	h *Holders
}

// Hold implements core.Holder.
func (w *wary) Hold(ctx context.Context, id core.HeldID) (core.HoldWriter, error) {
	out, err := w.Holder.Hold(ctx, id)
	return out, w.h.failed(w.Name(), err)
}

// heldAt implements core.Holder over the page stream of a worker.
type heldAt struct {
	h          *Holders
	name, addr string
}

// Name implements core.Holder.
func (w *heldAt) Name() string { return w.name }

// heldConn is a connection that a call was made on, and whose answer has begun.
type heldConn struct {
	*pageConn
	w    *heldAt
	ctx  context.Context
	stop func() bool // takes back that the end of ctx interrupts it
}

// call asks the worker for something.
func (w *heldAt) call(ctx context.Context, call heldCall) (*heldConn, error) {
	call.worker, call.reign = w.name, core.ReignOf(ctx)
	var words coder
	words.heldCall(&call)
	kind, v, signed := kindHeldCall, uint64(heldVersion), w.h.o.Sign(words.b)
	ask := coder{b: make([]byte, 4, 64+len(signed))}
	ask.byte(&kind)
	ask.uvarint(&v)
	ask.bytes(&signed)
	binary.BigEndian.PutUint32(ask.b, uint32(len(ask.b)-4))
	for fresh := false; ; fresh = true {
		conn, err := w.h.c.pageConn(ctx, w.addr, fresh)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, errs.E("remote.Hold", w.name, errs.Unavailable, err)
		}
		c := &heldConn{pageConn: conn, w: w, ctx: ctx}
		c.stop = context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
		stale := conn.used
		err = c.begin(ask.b)
		if err == nil {
			return c, nil
		}
		// The worker may have closed a connection that nothing was asked on.
		if _, answered := errors.AsType[*heldFault](err); answered || !stale || ctx.Err() != nil {
			return nil, c.failed(err)
		}
		c.drop()
	}
}

// heldFault is what a worker answered instead of doing what it was asked.
type heldFault struct{ error }

// Unwrap returns it.
func (f *heldFault) Unwrap() error { return f.error }

func (c *heldConn) begin(ask []byte) error {
	if err := c.patient(); err != nil {
		return err
	}
	if _, err := c.Write(ask); err != nil {
		return err
	}
	kind, _, err := c.frame()
	if err == nil && kind != kindOpen {
		err = fmt.Errorf("a frame of kind %q first", kind)
	}
	return err
}

// patient bounds what is read and written next by the time of Silence.
func (c *heldConn) patient() error {
	err := c.SetDeadline(time.Now().Add(c.w.h.c.o.Silence))
	if c.ctx.Err() != nil { // its interruption may have come before
		err = context.Cause(c.ctx)
	}
	return err
}

// frame reads the header of the next frame that is no heartbeat, and the fault if it is one. Heartbeats are waited for no longer than
// StorePatience.
func (c *heldConn) frame() (kind byte, n int, err error) {
	for began := time.Now(); ; {
		var head [pageHeader]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return 0, 0, err
		}
		n := int(binary.BigEndian.Uint32(head[1:]))
		switch {
		case n > maxPageFrame:
			return 0, 0, errors.New("a frame that is too long")
		case head[0] == kindFault:
			return 0, 0, c.fault(n)
		case head[0] != kindHeartbeat:
			return head[0], n, nil
		case time.Since(began) > c.w.h.c.o.StorePatience:
			return 0, 0, errors.New("the worker still waits for its disk")
		}
		if err := c.patient(); err != nil {
			return 0, 0, err
		}
	}
}

// fault reads the body of a fault of n bytes.
func (c *heldConn) fault(n int) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(c.in, b); err != nil {
		return err
	}
	in := reader(string(b), true)
	var err error
	in.fault(&err)
	if bad := in.finish(); bad != nil || err == nil {
		return errors.Join(errors.New("a fault that cannot be read"), bad)
	}
	return &heldFault{err}
}

// end reads the end of the answer, and keeps the connection for the next call.
func (c *heldConn) end() error {
	kind, n, err := c.frame()
	if err == nil && (kind != kindEnd || n != 0) {
		err = fmt.Errorf("a frame of kind %q at the end", kind)
	}
	if err != nil {
		return c.failed(err)
	}
	c.keep()
	return nil
}

func (c *heldConn) keep() {
	if c.stop() && c.SetDeadline(time.Time{}) == nil {
		c.w.h.c.keepPageConn(c.pageConn)
		return
	}
	c.w.h.c.dropPageConn(c.pageConn)
}

func (c *heldConn) drop() {
	c.stop()
	c.w.h.c.dropPageConn(c.pageConn)
}

// failed gives up the connection and returns the error of the call.
func (c *heldConn) failed(err error) error {
	c.drop()
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if f, ok := errors.AsType[*heldFault](err); ok && !errors.Is(f, context.Canceled) && !errors.Is(f, context.DeadlineExceeded) {
		return f.error // the end of a context over there is no caller's
	}
	return errs.E("remote.Hold", c.w.name, errs.Unavailable, err)
}

// Hold implements core.Holder.
func (w *heldAt) Hold(ctx context.Context, id core.HeldID) (core.HoldWriter, error) {
	c, err := w.call(ctx, heldCall{op: heldHold, ids: []core.HeldID{id}})
	if err != nil {
		return nil, w.h.failed(w.name, err)
	}
	// Until it is committed the worker has nothing to say but that it cannot go on: that may come at any time.
	if err := c.SetReadDeadline(time.Time{}); err != nil || ctx.Err() != nil {
		return nil, c.failed(err)
	}
	out := &holdOut{heldConn: c, answer: make(chan error, 1)}
	go out.listen()
	return out, nil
}

// Held implements core.Holder.
func (w *heldAt) Held(ctx context.Context, id core.HeldID, off, n int64) (io.ReadCloser, error) {
	c, err := w.call(ctx, heldCall{op: heldGet, ids: []core.HeldID{id}, off: off, n: n})
	if err != nil {
		return nil, err
	}
	return &heldReader{heldConn: c, left: n}, nil
}

// Release implements core.Holder.
func (w *heldAt) Release(ctx context.Context, ids ...core.HeldID) error {
	for some := range slices.Chunk(ids, maxHeldIDs) {
		c, err := w.call(ctx, heldCall{op: heldDrop, ids: some})
		if err == nil {
			err = c.end()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Holds implements core.Holder.
func (w *heldAt) Holds(ctx context.Context) iter.Seq2[core.Held, error] {
	return func(yield func(core.Held, error) bool) {
		c, err := w.call(ctx, heldCall{op: heldList})
		for err == nil {
			var all []core.Held
			if all, err = c.entries(); err != nil {
				break
			}
			if all == nil {
				c.keep()
				return
			}
			for _, h := range all {
				if !yield(h, nil) {
					c.drop()
					return
				}
			}
		}
		yield(core.Held{}, err)
	}
}

// entries returns the next part of a list, nil after the last.
func (c *heldConn) entries() (all []core.Held, err error) {
	if err := c.patient(); err != nil {
		return nil, c.failed(err)
	}
	kind, n, err := c.frame()
	switch {
	case err != nil:
	case kind == kindEnd && n == 0:
		return nil, nil
	case kind != kindBytes:
		err = fmt.Errorf("a frame of kind %q in a list", kind)
	default:
		b := make([]byte, n)
		if _, err = io.ReadFull(c.in, b); err != nil {
			break
		}
		in := reader(string(b), true)
		list(&in, &all, (*coder).held)
		if err = in.finish(); err == nil && all == nil {
			err = errors.New("a part of a list that has nothing")
		}
	}
	if err != nil {
		return nil, c.failed(err)
	}
	return all, nil
}

// holdOut implements core.HoldWriter.
type holdOut struct {
	*heldConn
	sum    uint32
	ended  bool
	ending atomic.Bool // the worker is to answer
	answer chan error  // takes one: nil at the end
	err    error       // the first
}

// listen waits for the answer.
func (o *holdOut) listen() {
	var began time.Time
	for {
		var head [pageHeader]byte
		if _, err := io.ReadFull(o.in, head[:]); err != nil {
			o.answer <- err
			return
		}
		n := int(binary.BigEndian.Uint32(head[1:]))
		if began.IsZero() {
			began = time.Now()
		}
		switch {
		case head[0] == kindHeartbeat && n == 0 && time.Since(began) < o.w.h.c.o.StorePatience:
			if err := o.SetReadDeadline(time.Now().Add(o.w.h.c.o.Silence)); err != nil {
				o.answer <- err
				return
			}
		case head[0] == kindEnd && n == 0 && o.ending.Load():
			o.answer <- nil
			return
		case head[0] == kindFault && n <= maxPageFrame:
			o.answer <- o.fault(n)
			return
		default:
			o.answer <- fmt.Errorf("a frame of kind %q", head[0])
			return
		}
	}
}

// Write implements io.Writer.
func (o *holdOut) Write(p []byte) (n int, err error) {
	if o.ended && o.err == nil {
		return 0, errs.New("remote.Hold", o.w.name, errs.Invalid, "the writer has ended")
	}
	for len(p) > 0 {
		b := p[:min(len(p), holdFrame)]
		if err := o.send(kindBytes, b); err != nil {
			return n, err
		}
		o.sum = crc32.Update(o.sum, castagnoli(), b)
		n, p = n+len(b), p[len(b):]
	}
	return n, nil
}

// send sends a frame, unless something has failed.
func (o *holdOut) send(kind byte, body []byte) error {
	if o.err != nil {
		return o.err
	}
	select {
	case err := <-o.answer:
		return o.give(cmp.Or(err, errors.New("an answer before the end")))
	default:
	}
	err := o.SetWriteDeadline(time.Now().Add(o.w.h.c.o.Silence))
	if err == nil {
		all := net.Buffers{frameHeader(kind, len(body)), body}
		_, err = all.WriteTo(o.Conn)
	}
	if err == nil {
		return nil
	}
	// The worker may have said why before it closed the connection.
	if o.SetReadDeadline(time.Now().Add(o.w.h.c.o.Heartbeat)) == nil {
		if said := <-o.answer; said != nil {
			if _, ok := errors.AsType[*heldFault](said); ok {
				err = said
			}
		}
	}
	return o.give(err)
}

// give gives the connection up, because of err.
func (o *holdOut) give(err error) error {
	o.err = o.w.h.failed(o.w.name, o.failed(err))
	return o.err
}

// Commit implements core.HoldWriter. The bytes may be held although it fails, if the answer did not come.
func (o *holdOut) Commit(ctx context.Context, durable bool) error {
	if o.ended {
		return errs.New("remote.Hold", o.w.name, errs.Invalid, "the writer has ended")
	}
	if ctx.Err() != nil {
		return both(context.Cause(ctx), o.Abort())
	}
	o.ended = true
	var c coder
	c.flags(&durable)
	o.ending.Store(true)
	if err := o.send(kindCommit, binary.BigEndian.AppendUint32(c.b, o.sum)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { o.Close() })
	err := o.wait()
	if !stop() && err == nil {
		o.drop()
		return nil
	}
	if err != nil {
		if ctx.Err() != nil {
			o.drop()
			return context.Cause(ctx)
		}
		return o.give(err)
	}
	o.keep()
	return nil
}

// wait waits for the answer, which comes within Silence or is announced by heartbeats.
func (o *holdOut) wait() error {
	if err := o.SetReadDeadline(time.Now().Add(o.w.h.c.o.Silence)); err != nil {
		return err
	}
	if o.ctx.Err() != nil { // its interruption may have come before
		return context.Cause(o.ctx)
	}
	return <-o.answer
}

// Abort implements core.HoldWriter. A worker that does not answer drops the bytes when it notices that the connection is gone.
func (o *holdOut) Abort() error {
	if o.ended {
		return nil
	}
	o.ended = true
	o.ending.Store(true)
	if o.err != nil || o.send(kindAbort, nil) != nil {
		return nil // the connection is gone
	}
	if err := o.wait(); err != nil {
		return o.failed(err)
	}
	o.keep()
	return nil
}

// heldReader reads what a worker holds.
type heldReader struct {
	*heldConn
	left int64 // bytes that have not been read
	body int   // of them, in the frame
	sum  uint32
	err  error
}

// Read implements io.Reader.
func (r *heldReader) Read(p []byte) (n int, err error) {
	if r.err != nil || len(p) == 0 {
		return 0, r.err
	}
	if r.body == 0 {
		if r.err = r.next(); r.err != nil {
			return 0, r.err
		}
	}
	if err = r.patient(); err == nil {
		n, err = r.in.Read(p[:min(len(p), r.body)])
	}
	r.sum = crc32.Update(r.sum, castagnoli(), p[:n])
	r.body -= n
	r.left -= int64(n)
	switch {
	case err != nil:
		r.err = r.failed(err)
	case r.left == 0: // who reads no further is to know whether it was right
		if r.err = r.next(); r.err == io.EOF {
			return n, nil
		}
	}
	return n, r.err
}

// next reads the header of the next frame of bytes, or the end: io.EOF.
func (r *heldReader) next() error {
	err := r.patient()
	var kind byte
	var n int
	if err == nil {
		kind, n, err = r.frame()
	}
	switch {
	case err != nil:
	case kind == kindBytes && n > 0 && int64(n) <= r.left:
		r.body = n
		return nil
	case kind == kindSum && n == 4 && r.left == 0:
		var b [4]byte
		if _, err = io.ReadFull(r.in, b[:]); err != nil {
			break
		}
		if binary.BigEndian.Uint32(b[:]) != r.sum {
			err = errors.New("the bytes were damaged on their way; read them again")
			break
		}
		if err := r.end(); err != nil {
			return err
		}
		return io.EOF
	default:
		err = fmt.Errorf("a frame of kind %q, of %d bytes", kind, n)
	}
	return r.failed(err)
}

// Close implements io.Closer.
func (r *heldReader) Close() error {
	if r.err == nil {
		r.err = errs.New("remote.Held", r.w.name, errs.Invalid, "the reader is closed")
		r.drop()
	}
	return nil
}
