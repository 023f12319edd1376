package meta

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/wait"
)

/*
How a batch is committed. Append encodes its batch on the caller's goroutine and queues it; Run takes everything that is
queued, makes one record of it, and has one record in flight: while it is, the next batches gather. So a record holds one
batch when nothing else happens and hundreds under load, and no timer is needed.

	Append ──► queue ──► take ──► record ──► Txn ──► apply ──► Append returns
	                      ▲                               │
	                      └──────── next record ◄─────────┘
*/

const (
	opMemory     = 512             // about what an Op and its strings take in memory, for MaxQueueBytes
	proposeLimit = 5 * time.Second // for one answer of the KV; a proposal may be done after it
	firstBackoff = 10 * time.Millisecond
	lastBackoff  = time.Second
	endLimit     = 500 * time.Millisecond // for the record in flight, once nothing more is to be written
	outageLimit  = 10 * time.Second       // without an answer until what is not yet proposed is refused
	configRoom   = MaxTxnOps - 1          // configuration keys of one record; the record itself is one change
)

// call is a batch on its way through the Log.
type call struct {
	batch Batch
	raw   []byte // the encoded operations
	size  int    // of the transaction it needs alone, in bytes
	cost  int64  // memory while it is queued
	ends  bool   // it takes something away
	seq   uint64
	done  chan error // receives the outcome once
}

// calls keeps the buffers of calls. Channels are not kept: they belong to the testing/synctest bubble they are made in.
var calls = sync.Pool{New: func() any { return &call{} }}

// Append commits b and returns the number of its record once it is durable and applied; it waits for Run. ctx counts until b
// is queued; then the outcome is awaited, for a change that may be done must not look as if it were not. b must not be
// modified meanwhile. Batches queued one after the other are applied in that order. An empty batch makes a record too.
//
// A journal that is much longer than its bound, because checkpoints fail or are late, takes no batch but one that takes
// something away: it ends what another has begun.
//
// Errors: errs.Invalid; errs.TooLarge for a batch that does not fit in one record; errs.NoSpace; errs.Unavailable if too
// much is queued or in no checkpoint, the KV has not answered for 10 seconds, or nothing can be written any more: leadership is lost, or Run has
// ended. Only if Run was stopped while the KV did not answer may a batch that failed be in the journal; then the next Replay
// finds it.
func (l *Log) Append(ctx context.Context, b Batch) (seq uint64, err error) {
	return l.Begin(ctx, b)()
}

// Begin queues b and returns what Append does after that, which must be called once, by anybody.
func (l *Log) Begin(ctx context.Context, b Batch) (outcome func() (seq uint64, err error)) {
	c := calls.Get().(*call)
	err := c.encode(b)
	if err == nil {
		err = l.enqueue(ctx, c)
	}
	return func() (uint64, error) {
		defer c.free()
		if err == nil {
			err = <-c.done
		}
		return c.seq, err
	}
}

func (c *call) free() {
	c.batch, c.seq = Batch{}, 0
	if cap(c.raw) <= 64<<10 { // a rare large batch does not stay
		calls.Put(c)
	}
}

// encode prepares c for the batch b and checks that it can be committed at all.
func (c *call) encode(b Batch) error {
	const op = "meta.Log.Append"
	c.batch, c.raw, c.done = b, c.raw[:0], make(chan error, 1)
	if len(b.Ops) > MaxRecordOps || len(b.Puts)+len(b.Deletes) > configRoom {
		return errs.New(op, "", errs.TooLarge, fmt.Sprintf("a batch has at most %d operations and %d configuration keys", MaxRecordOps, configRoom))
	}
	var err error
	c.ends = false
	for i := range b.Ops {
		c.ends = c.ends || b.Ops[i].Kind == Del || b.Ops[i].Kind == DropDir
		if c.raw, err = appendOp(c.raw, &b.Ops[i]); err != nil {
			return err
		}
	}
	if n := recordSize(len(c.raw)); n < 0 || n > MaxRecord {
		return errs.New(op, "", errs.TooLarge, fmt.Sprintf("a batch's record is at most %d bytes", MaxRecord))
	}
	c.size = len(c.raw)
	if len(b.Puts)+len(b.Deletes) > 0 {
		if err := c.checkConfig(op); err != nil {
			return err
		}
	}
	c.cost = int64(c.size + len(b.Ops)*opMemory)
	return nil
}

func (c *call) checkConfig(op string) error {
	for _, kv := range c.batch.Puts {
		c.size += len(kv.Key) + len(kv.Value)
		if err := checkConfigKey(op, kv.Key); err != nil {
			return err
		}
	}
	for _, key := range c.batch.Deletes {
		c.size += len(key)
		if err := checkConfigKey(op, key); err != nil {
			return err
		}
	}
	if recordSize(c.size) > MaxRecord {
		return errs.New(op, "", errs.TooLarge, fmt.Sprintf("a batch with its configuration is at most %d bytes", MaxRecord))
	}
	return Txn{Puts: c.batch.Puts, Deletes: c.batch.Deletes}.Check()
}

// enqueue puts c at the end of the queue.
func (l *Log) enqueue(ctx context.Context, c *call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped != nil {
		return l.stopped
	}
	if l.refused != nil {
		return l.refused
	}
	if l.tail.full.Load() && !c.ends {
		return errs.New("meta.Log.Append", l.o.Group, errs.Unavailable, "checkpoints of the journal are not made as fast as it grows; try again later")
	}
	if l.queued+c.cost > l.o.MaxQueueBytes && len(l.queue) > 0 {
		return errs.New("meta.Log.Append", l.o.Group, errs.Unavailable, "too many changes wait for the journal; try again later")
	}
	l.queue = append(l.queue, c)
	l.queued += c.cost
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// Run commits what Append is given, one record after the other, and applies each to the tree once it is durable, in order,
// before Append returns. Beside that it keeps the read lease and makes checkpoints. It begins when ServeAfter has passed.
// Run comes once, after Claim, and returns when ctx ends, with its error, or when nothing can be committed any more:
// errs.Unavailable if another member has claimed the journal. What waits then fails.
//
// A record in flight when ctx ends is awaited for half a second: who waits for it has a next leader to ask.
func (l *Log) Run(ctx context.Context) error {
	_, done, err := l.begin("Run", lifeClaimed)
	if err != nil {
		return err
	}
	done(lifeRunning)
	defer done(lifeEnded)
	defer close(l.ended)
	beside, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	lost := make(chan error, 2)
	for _, run := range []func(context.Context) error{l.renew, l.checkpoints, l.hugePages} {
		wg.Go(func() {
			if err := run(beside); err != nil {
				lost <- err
			}
		})
	}
	err = l.writeAll(ctx, lost)
	why := err
	if ctx.Err() != nil {
		why = errs.New("meta.Log.Append", l.o.Group, errs.Unavailable, "the journal is closed")
	}
	l.lease.end(why) // first: who is told that his change failed can see why
	l.stop(why)
	return err
}

// writeAll writes what is queued until ctx ends or leadership is lost.
func (l *Log) writeAll(ctx context.Context, lost <-chan error) error {
	for wait := l.ServeAfter(); wait > 0; wait = l.ServeAfter() {
		select {
		case <-time.After(wait):
		case err := <-lost:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var p proposal
	for {
		var release chan error
		select {
		case <-l.wake:
		case release = <-l.releases:
		case err := <-lost:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		for ctx.Err() == nil && l.take(&p) {
			if err := l.write(ctx, &p); err != nil {
				if release != nil {
					release <- err
				}
				return err
			}
		}
		if release != nil {
			release <- l.release(ctx)
			return l.errReleased()
		}
	}
}

// stop fails what waits, and what will come until accept.
func (l *Log) stop(why error) {
	l.mu.Lock()
	waiting := l.queue
	l.queue, l.queued, l.stopped = nil, 0, why
	l.mu.Unlock()
	for _, c := range waiting {
		c.done <- why
	}
}

// accept lets batches be queued again.
func (l *Log) accept() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = nil
}

// proposal is the record being written. It is reused: its buffers grow to the size of the largest record.
type proposal struct {
	calls   []*call
	h       header
	raw     []byte // the encoded operations of all calls
	record  []byte
	txn     Txn
	ops     []Op                // of all calls, when there are several
	changes map[string]struct{} // configuration keys changed
}

// take fills p with what is at the front of the queue: as much as goes into one record, at least one call. It returns false
// if the queue is empty.
func (l *Log) take(p *proposal) bool {
	p.calls = p.calls[:0]
	clear(p.changes)
	size, ops := 0, 0
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.queue {
		size += c.size
		ops += len(c.batch.Ops)
		if len(p.calls) > 0 && (size > l.o.MaxBatchBytes || ops > l.o.MaxBatchOps || !p.joins(c)) {
			break
		}
		p.change(c)
		p.calls = append(p.calls, c)
		l.queued -= c.cost
	}
	left := copy(l.queue, l.queue[len(p.calls):])
	clear(l.queue[left:])
	l.queue = l.queue[:left]
	return len(p.calls) > 0
}

// joins reports whether c's configuration keys fit in the transaction, none of them twice.
func (p *proposal) joins(c *call) bool {
	if len(p.changes)+len(c.batch.Puts)+len(c.batch.Deletes) > configRoom {
		return false
	}
	for _, kv := range c.batch.Puts {
		if _, twice := p.changes[kv.Key]; twice {
			return false
		}
	}
	for _, key := range c.batch.Deletes {
		if _, twice := p.changes[key]; twice {
			return false
		}
	}
	return true
}

// change notes c's configuration keys.
func (p *proposal) change(c *call) {
	if len(c.batch.Puts)+len(c.batch.Deletes) > 0 && p.changes == nil {
		p.changes = make(map[string]struct{})
	}
	for _, kv := range c.batch.Puts {
		p.changes[kv.Key] = struct{}{}
	}
	for _, key := range c.batch.Deletes {
		p.changes[key] = struct{}{}
	}
}

// write commits and applies p. An error ends Run; a proposal that was merely refused has failed its calls instead.
func (l *Log) write(ctx context.Context, p *proposal) error {
	l.prepare(p)
	start := time.Now()
	refused, err := l.commit(ctx, p)
	l.commitTime.Add(int64(time.Since(start)))
	if err == nil && refused == nil {
		p.apply(func(seq uint64, ops []Op) {
			l.tree.Apply(seq, ops)
			l.o.Applied(seq, ops)
		})
		l.seq.Store(p.h.seq)
		l.count(p)
	}
	outcome := err
	if outcome == nil {
		outcome = refused
	}
	for i, c := range p.calls {
		if outcome == nil {
			c.seq = p.h.seq
		}
		p.calls[i] = nil // it may be another's once it is done
		c.done <- outcome
	}
	return err
}

// prepare makes p's record and transaction out of its calls.
func (l *Log) prepare(p *proposal) {
	seq := l.seq.Load() + 1
	p.raw, p.h = p.raw[:0], header{seq: seq, term: l.Term(), time: time.Now().UnixNano()}
	t := &p.txn
	t.If = append(t.If[:0], ModRevIs(l.leaderKey(), l.Term()), KeyAbsent(l.recordKey(seq)))
	if seq > 1 {
		t.If = append(t.If, KeyExists(l.recordKey(seq-1)))
	}
	t.Puts, t.Deletes = append(t.Puts[:0], KeyValue{Key: l.recordKey(seq)}), t.Deletes[:0]
	for _, c := range p.calls {
		p.h.ops += len(c.batch.Ops)
		p.raw = append(p.raw, c.raw...)
		t.Puts = append(t.Puts, c.batch.Puts...)
		t.Deletes = append(t.Deletes, c.batch.Deletes...)
	}
	p.record = appendRecord(p.record[:0], p.h, p.raw)
	t.Puts[0].Value = p.record
}

// apply hands p's operations to fn, as one.
func (p *proposal) apply(fn func(uint64, []Op)) {
	if len(p.calls) == 1 {
		fn(p.h.seq, p.calls[0].batch.Ops)
		return
	}
	p.ops = p.ops[:0]
	for _, c := range p.calls {
		p.ops = append(p.ops, c.batch.Ops...)
	}
	fn(p.h.seq, p.ops)
	clear(p.ops)
}

func (l *Log) count(p *proposal) {
	l.records.Add(1)
	l.batches.Add(uint64(len(p.calls)))
	l.ops.Add(uint64(p.h.ops))
	l.bytes.Add(uint64(len(p.record)))
	l.tail.wrote(p.h.seq, mark{int64(len(p.record)), int64(p.h.ops)}, mark{l.o.MaxTailBytes, l.o.MaxTailOps})
}

// commit has p's transaction done once. It returns refused if the KV will never do it, and err if this Log can write no
// more. While the outcome is unknown it looks for the record, and proposes the same bytes at the same place again.
func (l *Log) commit(ctx context.Context, p *proposal) (refused, err error) {
	backoff, start := firstBackoff, time.Now()
	defer l.accept()
	outlasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if wait.For(outlasting, endLimit) == nil {
			cancel()
		}
	})()
	for try := 0; ; try++ {
		ok, err := l.propose(outlasting, p.txn)
		switch {
		case err == nil && ok:
			return nil, nil
		case err != nil && try == 0 && !unknown(err): // after an unknown try the refusal of this one says nothing
			return err, nil
		case err != nil:
			l.retries.Add(1)
			l.o.Logger.Warn("journal: outcome of a record unknown, asking again", "group", l.o.Group, "seq", p.h.seq, "err", err)
		}
		known, lost := l.settle(outlasting, p, err == nil)
		if known {
			return nil, lost
		}
		if time.Since(start) > outageLimit {
			l.stop(errs.New("meta.Log.Append", l.o.Group, errs.Unavailable, "the metadata store does not answer; try again later"))
		}
		select {
		case <-time.After(backoff):
			backoff = min(2*backoff, lastBackoff)
		case <-ctx.Done():
			return nil, errs.New("meta.Log.Append", l.o.Group, errs.Unavailable,
				"stopped before the metadata store answered; the change may or may not be made")
		}
	}
}

func (l *Log) propose(ctx context.Context, t Txn) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, proposeLimit)
	defer cancel()
	sent := l.o.Clock()
	ok, _, err := l.kv.Txn(ctx, t)
	if ok && err == nil {
		l.extend(sent)
	}
	return ok, err
}

// settle finds out what became of p. It is known if the record is in the journal (err is nil), or never can be (err says
// why). judged says that the KV has judged p's conditions and found one that does not hold: a lasting state, for each is of
// a kind that once broken stays so.
func (l *Log) settle(ctx context.Context, p *proposal, judged bool) (known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, proposeLimit)
	defer cancel()
	page, err := l.kv.Scan(ctx, l.recordKey(p.h.seq), l.recordKey(p.h.seq+1), 1)
	if err != nil {
		return false, nil
	}
	if len(page.KVs) > 0 && bytes.Equal(page.KVs[0].Value, p.record) {
		return true, nil
	}
	leader, err := l.leader(ctx)
	switch {
	case err != nil:
		return false, nil
	case leader.ModRev != l.Term():
		return l.deposed(ctx, p)
	case judged:
		return true, errs.New("meta.Log.Append", l.recordKey(p.h.seq), errs.Corrupt,
			"the journal was changed by somebody who does not hold its leader key; restart to read it again")
	}
	return false, nil
}

// deposed settles p under a foreign leader: p was done before the leader's claim, or never will be.
func (l *Log) deposed(ctx context.Context, p *proposal) (known bool, err error) {
	page, err := l.kv.Scan(ctx, l.recordKey(p.h.seq), l.recordKey(p.h.seq+1), 1)
	if err != nil {
		return false, nil
	}
	if len(page.KVs) > 0 && bytes.Equal(page.KVs[0].Value, p.record) {
		return true, nil
	}
	return true, l.depose()
}
