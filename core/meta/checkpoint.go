package meta

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/wait"
)

/*
How a checkpoint is made. A pass notes the record S that was applied last and stores every page that is dirty then; when all
are stored it puts the key ck, which says S; then the records up to S are not needed any more, and are deleted but for the
last few. A page may be newer than ck says: a load reads the pages and then applies every record after S again, in order, and
records set states. So a pass may end anywhere. What a page covers is written in it; a load finds the gap if a page is
missing, and pages that overlap, which a crash in the middle of a large split leaves, do not contradict each other.

Every transaction is under the leader's fence and compares the revisions of the pages it replaces, so that one whose answer
was lost, and which is done late, is not done over a newer page.

What stays in the store beside the pages and the journal's tail is in proportion to the entries (spare): the records behind ck,
which are for members that are behind or load, and what pages and records were before they were replaced or deleted, which a
watch that is behind is served from. It is forgotten in steps, also within a pass: when there is a spare of it since the mark,
what is before the mark goes, and the mark moves. So there is as much as two spares of it, the store is not read through for
each small checkpoint (etcd reads all it holds to compact), and when nothing is written any more all of it goes.
*/

const (
	checkpointFormat = 1
	checkpointTxn    = 1_200_000 // bytes of one transaction's keys and pages
	trimRecords      = 1000      // records deleted at a time

	keepRecords   = 256 // records behind ck at most
	keepLeast     = 4   // and at least, however long: the chain needs its end
	spareLeast    = 512 << 10
	sparePerEntry = 2 // bytes of the spare for each entry
)

// pageLimits say how a checkpoint cuts.
type pageLimits struct {
	entries int    // of a page
	merge   int    // entries: pages that together hold no more become one
	small   int    // entries: a page of no more looks for the one before to become one with
	txn     int    // pages of one transaction
	keep    uint64 // records that stay behind ck at most, for those who follow the journal
	spare   int64  // bytes of a spare at least
}

func defaultLimits() pageLimits {
	return pageLimits{entries: pageEntries, merge: pageEntries / 2, small: pageEntries / 4, txn: 120, keep: keepRecords, spare: spareLeast}
}

// checkpoint is the value of the key ck, as JSON.
type checkpoint struct {
	Format   int               `json:"format"`
	Seq      uint64            `json:"seq"`   // every record up to it is in the pages
	First    uint64            `json:"first"` // no record before it needs to be there
	Counters map[string]uint64 `json:"counters"`
	Entries  int64             `json:"entries"`
	Pages    int               `json:"pages"`
	Time     time.Time         `json:"time"`
}

// errLayout says that the stored pages are not what this process takes them for.
var errLayout = errors.New("the pages are not those that were stored last")

// checkpointer stores the tree of a running Log. It is for one goroutine.
type checkpointer struct {
	l     *Log
	w     *pageWriter
	ck    checkpoint
	ckRev int64
	// known says that the layout is that of the stored pages, and ck what is stored.
	known bool

	batch   Txn
	size    int
	jobs    []*job  // whose pages are in the batch
	leaves  []*leaf // of the batch's puts
	written int64   // bytes in this pass
	entries int64   // of the tree when the pass began

	replacing int64 // bytes of the pages that the batch replaces or deletes
	stale     int64 // bytes replaced and deleted since mark
	mark      int64 // revision at which stale was nothing
	rev       int64 // of the last change made
	compacted int64 // revision before which everything replaced is forgotten

	limits pageLimits
	pace   func(ctx context.Context, bytes int) error // waits after a transaction of so many bytes
}

func newCheckpointer(l *Log) (*checkpointer, error) {
	w, err := newPageWriter()
	return &checkpointer{l: l, w: w, limits: defaultLimits(), pace: func(context.Context, int) error { return nil }}, err
}

// pass stores what is dirty. Errors: errs.Unavailable also if leadership is lost.
func (c *checkpointer) pass(ctx context.Context) error {
	err := c.tryPass(ctx)
	if errors.Is(err, errLayout) { // an earlier transaction was done late, or left half a split
		c.known = false
		err = c.tryPass(ctx)
		if errors.Is(err, errLayout) {
			err = errs.E("meta.Log.checkpoint", c.l.o.Group, errs.Corrupt, err)
		}
	}
	return err
}

func (c *checkpointer) tryPass(ctx context.Context) error {
	if !c.known {
		if err := c.learn(ctx); err != nil {
			return err
		}
	}
	tail, own := c.l.tail.mark(), c.l.tail.written() // before seq: what is counted has been applied
	t := c.l.tree
	t.mu.Lock()
	seq, dirty := t.seq, t.layout.unsaved()
	c.entries = t.rows
	t.mu.Unlock()
	if seq == c.ck.Seq && len(dirty) == 0 { // perhaps since a pass whose last answer was lost
		c.l.tail.forget(tail)
		c.l.tail.saved(own)
		return c.compact(ctx, c.rev)
	}
	c.written = 0
	for _, s := range dirty {
		if !c.l.due(s) {
			continue
		}
		if err := c.store(ctx, s); err != nil {
			c.giveUp()
			return err
		}
	}
	if err := c.flush(ctx); err != nil {
		c.giveUp()
		return err
	}
	if err := c.publish(ctx, seq); err != nil {
		c.known = false
		return err
	}
	c.l.tail.forget(tail)
	c.l.tail.saved(own)
	return c.trim(ctx, tail.bytes)
}

// due reports whether s is to be stored: it is dirty, and was not taken together with another page.
func (l *Log) due(s *leaf) bool {
	l.tree.mu.RLock()
	defer l.tree.mu.RUnlock()
	return s.dirty && !s.busy && !s.gone
}

// giveUp makes dirty again what could not be stored.
func (c *checkpointer) giveUp() {
	t := c.l.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, j := range c.jobs {
		t.layout.soilFrom(j.low(), j.high())
		for _, s := range j.old {
			s.busy = false
		}
	}
	c.clear()
	c.known = false
}

func (c *checkpointer) clear() {
	c.batch.If, c.batch.Puts, c.batch.Deletes = c.batch.If[:0], c.batch.Puts[:0], c.batch.Deletes[:0]
	c.size, c.replacing, c.jobs, c.leaves = 0, 0, c.jobs[:0], c.leaves[:0]
}

// learn reads ck and what the stored pages cover.
func (c *checkpointer) learn(ctx context.Context) error {
	l := c.l
	ck, rev, err := l.checkpoint(ctx)
	if err != nil {
		return err
	}
	var stored []*leaf
	err = l.scanPages(ctx, func(kvs []KeyValue, _ int64) error {
		for _, kv := range kvs {
			s, err := l.leafOf(kv)
			if err != nil {
				return err
			}
			stored = append(stored, s)
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.tree.mu.Lock()
	defer l.tree.mu.Unlock()
	l.tree.layout.rebuild(stored)
	c.ck, c.ckRev, c.known = ck, rev, true
	c.rev = max(c.rev, rev)
	return nil
}

// leafOf returns what the stored page kv covers.
func (l *Log) leafOf(kv KeyValue) (*leaf, error) {
	h, _, _, err := pageBody(kv.Value)
	if err == nil && kv.Key != pageKey(l.pagePrefix(), h.low) {
		err = errors.New("the page has another page's key")
	}
	if err != nil {
		return nil, errs.E("meta.Log.pages", kv.Key, errs.Corrupt, err)
	}
	return &leaf{low: h.low, high: h.high, rev: kv.ModRev, n: h.n, bytes: len(kv.Value)}, nil
}

// job is the replacement of pages that follow each other by others that cover the same places.
type job struct {
	old    []*leaf
	by     []*leaf
	pieces []piece
	shapes []*shape
	cuts   []cut // where the pages of by start
	seq    uint64
}

func (j *job) low() point  { return j.old[0].low }
func (j *job) high() point { return j.old[len(j.old)-1].high }

// piece is a run of a slab's entries.
type piece struct {
	dir      DirID
	data     []byte
	from, to int
}

// cut is the place of an entry in a job.
type cut struct{ piece, i int }

// collect returns the entries from low up to, not including, high. The tree's mutex must be held.
func (t *Tree) collect(low, high point) (pieces []piece, n int) {
	t.order.Ascend(low.dir, func(id DirID) bool {
		if id > high.dir || id == high.dir && high.edge == "" {
			return false
		}
		from := ""
		if id == low.dir {
			from = low.edge
		}
		c := t.dirs[id].seek(from)
		for c.ok {
			s := c.slab()
			p := piece{id, s.data, c.at.i, s.len()}
			if id == high.dir && !slabBefore(s.data, high.edge) {
				p.to, _, _ = slabSearch(s.data, high.edge)
			}
			if p.from >= p.to {
				break
			}
			pieces = append(pieces, p)
			n += p.to - p.from
			if p.to < s.len() {
				break
			}
			c.at.i = s.len()
			c.settle()
		}
		return true
	})
	return pieces, n
}

// slabBefore reports whether the last edge of b is less than edge.
func slabBefore(b []byte, edge string) bool {
	i, _, _ := slabSearch(b, edge)
	return i == slabLen(b)
}

// take makes a job of the dirty page s and of those beside it that have become small enough to be one with it.
func (c *checkpointer) take(s *leaf) *job {
	t := c.l.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	j := &job{shapes: t.shapes.list, seq: t.seq}
	pieces, n := t.collect(s.low, s.high)
	before := t.layout.before(s)
	if n <= c.limits.small && before != nil && !before.busy && before.n <= c.limits.merge {
		if more, m := t.collect(before.low, before.high); n+m <= c.limits.merge {
			j.old = append(j.old, before)
			pieces, n = append(more, pieces...), n+m
		}
	}
	j.old = append(j.old, s)
	for last := s; last.high != end && len(j.old) < c.limits.txn/2; {
		next := t.layout.find(last.high)
		if next.busy || !next.dirty && next.n > c.limits.merge || n > c.limits.merge {
			break
		}
		more, m := t.collect(next.low, next.high)
		if n+m > c.limits.merge {
			break
		}
		j.old = append(j.old, next)
		pieces, n, last = append(pieces, more...), n+m, next
	}
	for _, s := range j.old {
		s.busy = true
		if s.dirty {
			s.dirty = false
			t.layout.dirty--
		}
	}
	j.pieces = pieces
	j.plan(n, c.limits.entries)
	return j
}

// plan cuts n entries into pages of so many.
func (j *job) plan(n, entries int) {
	j.by = append(j.by, &leaf{low: j.low()})
	j.cuts = append(j.cuts, cut{})
	if n == 0 {
		j.by[0].high = j.high()
		return
	}
	pages := (n + entries - 1) / entries
	each := (n + pages - 1) / pages
	count, weight := 0, 0
	var last cut
	for k, p := range j.pieces {
		_, body := slabBody(p.data)
		for i := p.from; i < p.to; i++ {
			rest, packed := slabEntry(p.data, body, i)
			size := len(rest) + len(packed)
			if count == each || count > 0 && weight+size > pageWeight {
				low := between(j.at(last), j.at(cut{k, i}))
				page := j.by[len(j.by)-1]
				page.n, page.high = count, low
				j.by = append(j.by, &leaf{low: low})
				j.cuts = append(j.cuts, cut{k, i})
				count, weight = 0, 0
			}
			count++
			weight += size
			last = cut{k, i}
		}
	}
	j.by[len(j.by)-1].n, j.by[len(j.by)-1].high = count, j.high()
}

// at returns the point of the entry at x.
func (j *job) at(x cut) point {
	p := &j.pieces[x.piece]
	return point{p.dir, slabEdge(p.data, x.i)}
}

// encode returns page i of the job.
func (c *checkpointer) encode(j *job, i int) []byte {
	last := cut{piece: len(j.pieces)}
	if i+1 < len(j.cuts) {
		last = j.cuts[i+1]
	}
	var scratch []byte
	for k := j.cuts[i].piece; k < len(j.pieces) && k <= last.piece; k++ {
		p := &j.pieces[k]
		from, to := p.from, p.to
		if k == j.cuts[i].piece && len(j.pieces) > 0 && i > 0 {
			from = j.cuts[i].i
		}
		if k == last.piece {
			to = last.i
		}
		prefix, body := slabBody(p.data)
		for n := from; n < to; n++ {
			rest, packed := slabEntry(p.data, body, n)
			scratch = append(append(scratch[:0], prefix...), rest...)
			number, size := binary.Uvarint(packed)
			if number == 0 {
				c.w.add(p.dir, scratch, nil, packed[size:])
			} else {
				c.w.add(p.dir, scratch, j.shapes[number], packed[size:])
			}
		}
	}
	return c.w.finish(j.seq, j.by[i].low, j.by[i].high)
}

// store adds s, as it is, to the batch, which it writes when it is full.
func (c *checkpointer) store(ctx context.Context, s *leaf) error {
	j := c.take(s)
	if len(j.by)+len(j.old) > c.limits.txn {
		return c.storeLarge(ctx, j)
	}
	pages, size := make([][]byte, len(j.by)), 0
	for i := range j.by {
		pages[i] = c.encode(j, i)
		size += len(pages[i]) + MaxKey
	}
	if size > checkpointTxn {
		return c.storeLarge(ctx, j)
	}
	if c.size+size > checkpointTxn || len(c.batch.If)+len(j.by)+len(j.old) > c.limits.txn {
		if err := c.flush(ctx); err != nil {
			c.jobs = append(c.jobs, j)
			return err
		}
	}
	c.jobs = append(c.jobs, j)
	for i, page := range pages {
		c.put(j, i, page)
	}
	c.drop(j)
	return nil
}

// storeLarge writes a job of more pages than one transaction holds: those at its end first. They lie over the old page, which
// the last transaction makes smaller.
func (c *checkpointer) storeLarge(ctx context.Context, j *job) error {
	if err := c.flush(ctx); err != nil {
		c.jobs = append(c.jobs, j)
		return err
	}
	for i := len(j.by) - 1; i >= 0; i-- {
		page := c.encode(j, i)
		if c.size+len(page)+MaxKey > checkpointTxn || len(c.batch.If)+1+len(j.old) > c.limits.txn {
			if err := c.flush(ctx); err != nil {
				c.jobs = append(c.jobs, j)
				return err
			}
		}
		if first := j.old[0]; i > 0 && len(c.batch.If) == 0 { // new keys alone would let it be done late, when others cover their places
			c.batch.If = append(c.batch.If, ModRevIs(pageKey(c.l.pagePrefix(), first.low), first.rev))
		}
		c.put(j, i, page)
	}
	c.jobs = append(c.jobs, j)
	c.drop(j)
	return c.flush(ctx)
}

// put adds page i of j to the batch.
func (c *checkpointer) put(j *job, i int, page []byte) {
	s := j.by[i]
	key := pageKey(c.l.pagePrefix(), s.low)
	for _, o := range j.old {
		if o.low == s.low {
			s.rev = o.rev
		}
	}
	c.batch.If = append(c.batch.If, ModRevIs(key, s.rev))
	c.batch.Puts = append(c.batch.Puts, KeyValue{Key: key, Value: page})
	c.leaves = append(c.leaves, s)
	s.bytes = len(page)
	c.size += len(key) + len(page)
}

// drop adds the deletion of the old pages that no page of j replaces.
func (c *checkpointer) drop(j *job) {
	for _, o := range j.old {
		c.replacing += int64(o.bytes)
		if o.rev == 0 || slices.ContainsFunc(j.by, func(s *leaf) bool { return s.low == o.low }) {
			continue
		}
		key := pageKey(c.l.pagePrefix(), o.low)
		c.batch.If = append(c.batch.If, ModRevIs(key, o.rev))
		c.batch.Deletes = append(c.batch.Deletes, key)
		c.size += len(key)
	}
}

// flush writes the batch and notes what is stored.
func (c *checkpointer) flush(ctx context.Context) error {
	if len(c.batch.Puts) == 0 {
		return nil
	}
	c.batch.If = append(c.batch.If, ModRevIs(c.l.leaderKey(), c.l.Term()))
	rev, err := c.l.fenced(ctx, c.batch)
	if err != nil {
		return err
	}
	t := c.l.tree
	t.mu.Lock()
	for _, s := range c.leaves {
		s.rev = rev
	}
	for _, j := range c.jobs {
		t.layout.replace(j.old, j.by)
	}
	t.mu.Unlock()
	size, replaced := c.size, c.replacing
	c.written += int64(size)
	c.clear()
	if err := c.replaced(ctx, replaced, rev); err != nil {
		return err
	}
	return c.pace(ctx, size)
}

// publish puts ck.
func (c *checkpointer) publish(ctx context.Context, seq uint64) error {
	l, t := c.l, c.l.tree
	t.mu.RLock()
	ck := checkpoint{Format: checkpointFormat, Seq: seq, First: max(c.ck.First, 1), Counters: maps.Clone(t.counters), Entries: t.rows,
		Pages: t.layout.pages.Len(), Time: time.Now().UTC()}
	t.mu.RUnlock()
	value, err := json.Marshal(ck)
	if err != nil {
		return errs.E("meta.Log.checkpoint", l.o.Group, errs.Invalid, err)
	}
	rev, err := l.fenced(ctx, Txn{
		If:   []Compare{ModRevIs(l.checkpointKey(), c.ckRev), ModRevIs(l.leaderKey(), l.Term())},
		Puts: []KeyValue{{Key: l.checkpointKey(), Value: value}},
	})
	if err != nil {
		return err
	}
	c.ckRev, c.ck = rev, ck
	l.passes.Add(1)
	l.pageBytes.Add(uint64(c.written))
	l.o.Logger.Debug("checkpoint", "group", l.o.Group, "seq", seq, "bytes", c.written, "pages", ck.Pages)
	return nil
}

// trim deletes the records that no load needs any more, bytes of them. Some of the last stay: the chain needs its end, and who
// follows the journal is not far behind.
//
// It is not fenced: who was leader once has put a checkpoint over what it deletes.
func (c *checkpointer) trim(ctx context.Context, bytes int64) error {
	l, rev := c.l, c.ckRev
	keep := l.tail.lately(c.ck.Seq, c.limits.keep, c.spare())
	for from := c.ck.First; from+keep <= c.ck.Seq; {
		to := min(from+trimRecords, c.ck.Seq+1-keep)
		if _, err := l.kv.DeleteRange(ctx, l.recordKey(from), l.recordKey(to)); err != nil {
			return err
		}
		from, rev = to, 0
		c.ck.First = to // the next ck says so
	}
	if rev == 0 { // DeleteRange does not say it
		page, err := l.kv.Scan(ctx, l.checkpointKey(), PrefixEnd(l.checkpointKey()), 1)
		if err != nil {
			return err
		}
		rev = page.Revision
	}
	return c.replaced(ctx, bytes, rev)
}

// spare is how many bytes of records may stay behind ck, and how many replaced ones before and after the mark each.
func (c *checkpointer) spare() int64 { return max(c.limits.spare, sparePerEntry*c.entries) }

// replaced notes that so many bytes have been replaced or deleted up to the revision rev, and forgets what was before the mark
// if there is a spare of them after it.
func (c *checkpointer) replaced(ctx context.Context, bytes, rev int64) error {
	c.stale, c.rev = c.stale+bytes, rev
	if c.stale < c.spare() {
		return nil
	}
	return c.compact(ctx, c.mark)
}

// compact forgets what was replaced before the revision rev, and sets the mark.
func (c *checkpointer) compact(ctx context.Context, rev int64) error {
	c.stale, c.mark = 0, c.rev
	if rev <= c.compacted {
		return nil
	}
	if err := c.l.kv.Compact(ctx, rev); err != nil {
		return err
	}
	c.compacted = rev
	return nil
}

// checkpoints makes checkpoints until ctx ends. Errors: errs.Unavailable if leadership is lost; other failures are logged, and
// tried again later.
func (l *Log) checkpoints(ctx context.Context) error {
	if l.o.CheckpointEvery < 0 {
		return nil
	}
	c, err := newCheckpointer(l)
	if err != nil {
		return err
	}
	l.tail.begin()
	c.pace = func(ctx context.Context, bytes int) error { return l.rest(ctx, bytes) }
	tick := time.NewTicker(min(l.o.CheckpointEvery, time.Second))
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if time.Since(last) < l.o.CheckpointEvery && !l.pressed() {
			continue
		}
		err := c.pass(ctx)
		last = time.Now()
		switch {
		case ctx.Err() != nil:
			return nil
		case l.lease.lost() != nil:
			return l.lease.lost()
		case err != nil:
			l.o.Logger.Error("checkpoint failed; the journal grows until one is made", "group", l.o.Group, "seq", l.Seq(), "err", err)
		}
	}
}

// pressed reports whether so much of the journal is in no checkpoint that one should not wait.
func (l *Log) pressed() bool {
	t := l.tail.mark()
	return t.bytes > l.o.MaxTailBytes/2 || t.ops > l.o.MaxTailOps/2
}

// rest waits so that a checkpoint writes no more bytes per second than it should, unless the journal is long.
func (l *Log) rest(ctx context.Context, bytes int) error {
	if l.pressed() {
		return ctx.Err()
	}
	return wait.For(ctx, time.Duration(int64(bytes)*int64(time.Second)/int64(l.o.CheckpointRate)))
}

// fenced does t, which puts something and compares the leader key, once, and returns the revision of what it put.
// Errors: errLayout if another of its compares does not hold; errs.Unavailable.
func (l *Log) fenced(ctx context.Context, t Txn) (int64, error) {
	backoff, start := firstBackoff, time.Now()
	for try := 0; ; try++ {
		sent := l.o.Clock()
		ok, rev, err := l.kv.Txn(ctx, t)
		if ok && err == nil {
			l.extend(sent)
			return rev, nil
		}
		if err != nil && try == 0 && !unknown(err) || ctx.Err() != nil {
			return 0, cmp.Or(ctx.Err(), err)
		}
		if rev, known, lookErr := l.look(ctx, t); known {
			return rev, lookErr
		}
		if err == nil {
			return 0, errLayout
		}
		if time.Since(start) > outageLimit {
			return 0, err
		}
		select {
		case <-time.After(backoff):
			backoff = min(2*backoff, lastBackoff)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// look finds out whether t was done; known also if it never can be, because leadership is lost.
func (l *Log) look(ctx context.Context, t Txn) (rev int64, known bool, err error) {
	kv, err := l.kv.Get(ctx, t.Puts[0].Key)
	if err == nil && kv.ModRev != t.If[0].Revision && bytes.Equal(kv.Value, t.Puts[0].Value) {
		return kv.ModRev, true, nil
	}
	leader, err := l.leader(ctx)
	if err == nil && leader.ModRev != l.Term() {
		return 0, true, l.depose()
	}
	return 0, false, nil
}

// checkpoint reads ck and its revision, 0 if there is none.
func (l *Log) checkpoint(ctx context.Context) (ck checkpoint, rev int64, err error) {
	kv, err := l.kv.Get(ctx, l.checkpointKey())
	if errors.Is(err, errs.NotExist) {
		return ck, 0, nil
	}
	if err != nil {
		return ck, 0, err
	}
	if err := json.Unmarshal(kv.Value, &ck); err != nil || ck.Format != checkpointFormat {
		return ck, 0, errs.New("meta.Log.Load", kv.Key, errs.Corrupt, fmt.Sprintf("the checkpoint has format %d, this Sluice reads %d: %v",
			ck.Format, checkpointFormat, err))
	}
	return ck, kv.ModRev, nil
}
