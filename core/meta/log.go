package meta

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

/*
The keys of a journal. Everything is in one KV:

	g/<group>/leader          who writes the journal, as JSON; its ModRev is the term, the fence of every write
	g/<group>/j/<seq>         record seq (codec.go), 16 hexadecimal digits, from 1 on, without gaps
	g/<group>/ck              the checkpoint: which records the pages hold, as JSON (checkpoint.go)
	g/<group>/p/<dir>/<low>   a page of the checkpoint (page.go), the directory in 8 bytes (layout.go)
	sys/…                     configuration (mounts …), one small value each, written under the same fence

A record at seq is put by one transaction: if the leader key still has the term's revision, and the record before it is
there, and nothing is at seq. So a deposed writer can add nothing, a record that is proposed twice because its first answer
was lost lands once, and the journal has no gap. Records that a checkpoint holds are deleted from the front, the last never.
*/

// configPrefix starts every configuration key.
const configPrefix = "sys/"

const (
	replayWindow = 32  // records of one scan: up to 32 MiB in memory, 8 MiB with full records of the default size
	configWindow = 500 // configuration keys of one scan
	claimTries   = 5   // tries to claim the leader key when answers are lost
)

// LogOptions are the options of OpenLog. Zero values mean the defaults named.
type LogOptions struct {
	Group         string // the journal's name; a non-empty name without "/"
	Member        string // who claims it, for people
	Address       string // where the member is reached, for the others
	Logger        *slog.Logger
	Tree          *Tree // what the journal is applied to; a new one
	MaxBatchBytes int   // encoded operations that one record gathers from several batches; 256 KiB, at most 1 MiB - 1 KiB
	MaxBatchOps   int   // operations that one record gathers from several batches; 4096, at most MaxRecordOps
	MaxQueueBytes int64 // memory of the batches that wait; beyond it Append fails; 64 MiB

	// Applied, if not nil, is called for each record after the tree has it, in order, by the goroutine that applies it. What
	// a checkpoint holds it is not called for. It must not keep ops.
	Applied func(seq uint64, ops []Op)

	// ReadLease is how long this member may answer from memory after it has made sure that it is the leader; 0: for ever,
	// because it is the only voter.
	ReadLease time.Duration
	// Clock counts the time that leases are measured by, the time that the machine sleeps included; CLOCK_BOOTTIME.
	Clock func() time.Duration

	CheckpointEvery time.Duration // the least time between checkpoints; 5 s; negative: none is made
	CheckpointRate  int           // bytes per second that a checkpoint writes, if the journal is not long; 8 MiB
	MaxTailBytes    int64         // of records that no checkpoint holds; from half of it on checkpoints do not wait; 512 MiB
	MaxTailOps      int64         // operations in such records; 5 million. Beyond twice one of them Append refuses what is new
}

func (o LogOptions) withDefaults() LogOptions {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Tree == nil {
		o.Tree = NewTree()
	}
	if o.Applied == nil {
		o.Applied = func(uint64, []Op) {}
	}
	if o.Clock == nil {
		o.Clock = bootTime
	}
	defaults(&o.MaxBatchBytes, 256<<10)
	defaults(&o.MaxBatchOps, 4096)
	defaults(&o.MaxQueueBytes, 64<<20)
	defaults(&o.CheckpointRate, 8<<20)
	defaults(&o.MaxTailBytes, 512<<20)
	defaults(&o.MaxTailOps, 5_000_000)
	if o.CheckpointEvery == 0 {
		o.CheckpointEvery = 5 * time.Second
	}
	o.MaxBatchBytes = min(o.MaxBatchBytes, MaxRecord-1<<10)
	o.MaxBatchOps = min(o.MaxBatchOps, MaxRecordOps)
	return o
}

func defaults[T int | int64](to *T, value T) {
	if *to <= 0 {
		*to = value
	}
}

// Batch is one atomic change: after a crash all of it is there or none.
type Batch struct {
	Ops     []Op
	Puts    []KeyValue // configuration keys, below "sys/"
	Deletes []string   // configuration keys, below "sys/"
}

// LogStats are numbers of a Log since it was opened.
type LogStats struct {
	Seq         uint64        // last record applied
	Term        int64         // this Log's reign, 0 if it has claimed none
	Records     uint64        // committed
	Batches     uint64        // committed
	Ops         uint64        // committed
	Bytes       uint64        // of the records committed
	Retries     uint64        // proposals whose outcome was unknown
	CommitTime  time.Duration // spent waiting for commits, in sum
	QueuedBytes int64         // memory of the batches that wait
	TailBytes   int64         // of the records that no checkpoint holds
	TailOps     int64         // in those records
	Checkpoints uint64        // made
	PageBytes   uint64        // written by them
	Lapses      uint64        // times that a reader found the read lease lapsed
}

// Log is the journal of one group: the only way to change what is authoritative. Records are numbered from 1 (seq). What
// they add up to is in its Tree.
//
// The life of a Log: Load reads the newest checkpoint and the records after it; Follow, as long as another member leads,
// applies what that one writes; Claim makes this member the leader; Run writes what Append is given until its context ends,
// another member claims the journal, or Release gives it up. Each waits for the one before. A Log whose Run has returned is of no more use: open
// another and load.
type Log struct {
	kv     KV
	o      LogOptions
	prefix string // of the group's keys
	tree   *Tree

	lifeMu sync.Mutex
	life   life

	seq  atomic.Uint64
	term atomic.Int64
	// lastTerm is the term of the last record applied, lastRev a revision at which all records up to it had been read. They
	// belong to who changes the state of life.
	lastTerm int64
	lastRev  int64
	wake     chan struct{} // holds a token if the queue may not be empty
	claimed  Leader        // what this Log claimed the journal with
	releases chan chan error
	ended    chan struct{} // closed when Run has ended

	mu      sync.Mutex
	queue   []*call
	queued  int64 // memory of the queue
	stopped error // why nothing can be queued any more
	refused error // why nothing may be queued: leadership is being handed over

	lease lease
	tail  tail

	records, batches, ops, bytes, retries, passes, pageBytes atomic.Uint64
	commitTime                                               atomic.Int64
}

// life is what has been done with a Log.
type life int

const (
	lifeOpened life = iota
	lifeLoaded
	lifeClaimed
	lifeRunning
	lifeEnded
	lifeChanging // Load, Follow or Claim is at work
)

// begin lets a method of the life of a Log start if the Log is in one of the states from. The method calls done with the
// state it leaves it in.
func (l *Log) begin(op string, from ...life) (was life, done func(life), err error) {
	l.lifeMu.Lock()
	defer l.lifeMu.Unlock()
	if !slices.Contains(from, l.life) {
		return l.life, nil, errs.New("meta.Log."+op, l.o.Group, errs.Invalid, "the journal is not in the state for it; it is to be loaded, then claimed, then run, once")
	}
	was, l.life = l.life, lifeChanging
	return was, func(now life) {
		l.lifeMu.Lock()
		defer l.lifeMu.Unlock()
		l.life = now
	}, nil
}

// OpenLog returns the journal o.Group of kv. It reads and claims nothing. Errors: errs.Invalid.
func OpenLog(kv KV, o LogOptions) (*Log, error) {
	if o.Group == "" || strings.Contains(o.Group, "/") || len(o.Group) > maxGroup {
		return nil, errs.New("meta.OpenLog", o.Group, errs.Invalid, fmt.Sprintf("a group's name has 1 to %d bytes and no slash", maxGroup))
	}
	o = o.withDefaults()
	l := &Log{kv: kv, o: o, prefix: "g/" + o.Group + "/", tree: o.Tree, wake: make(chan struct{}, 1),
		releases: make(chan chan error), ended: make(chan struct{})}
	l.lease.init()
	return l, nil
}

// maxGroup leaves room for the rest of a page's key.
const maxGroup = 200

// Tree returns what the journal's records add up to.
func (l *Log) Tree() *Tree { return l.tree }

func (l *Log) leaderKey() string { return l.prefix + "leader" }

func (l *Log) checkpointKey() string { return l.prefix + "ck" }

func (l *Log) pagePrefix() string { return l.prefix + "p/" }

func (l *Log) recordPrefix() string { return l.prefix + "j/" }

func (l *Log) recordKey(seq uint64) string { return fmt.Sprintf("%sj/%016x", l.prefix, seq) }

// ListConfig returns the configuration keys that start with prefix, in order. prefix starts with "sys/".
func (l *Log) ListConfig(ctx context.Context, prefix string) ([]KeyValue, error) {
	if err := checkConfigKey("meta.Log.ListConfig", prefix); err != nil {
		return nil, err
	}
	var all []KeyValue
	from, to := prefix, PrefixEnd(prefix)
	for {
		page, err := l.kv.Scan(ctx, from, to, configWindow)
		if err != nil {
			return nil, err
		}
		all = append(all, page.KVs...)
		if !page.More {
			return all, nil
		}
		from = page.KVs[len(page.KVs)-1].Key + "\x00"
	}
}

func checkConfigKey(op, key string) error {
	if !strings.HasPrefix(key, configPrefix) {
		return errs.New(op, key, errs.Invalid, "a configuration key starts with "+configPrefix)
	}
	return nil
}

// Seq returns the number of the last record that was applied, 0 if there is none.
func (l *Log) Seq() uint64 { return l.seq.Load() }

// Term returns the revision of this Log's claim, 0 before it. Terms grow with every claim of any member.
func (l *Log) Term() int64 { return l.term.Load() }

// Stats returns the Log's numbers.
func (l *Log) Stats() LogStats {
	l.mu.Lock()
	queued := l.queued
	l.mu.Unlock()
	t := l.tail.mark()
	return LogStats{
		Seq: l.Seq(), Term: l.Term(),
		Records: l.records.Load(), Batches: l.batches.Load(), Ops: l.ops.Load(), Bytes: l.bytes.Load(),
		Retries: l.retries.Load(), CommitTime: time.Duration(l.commitTime.Load()), QueuedBytes: queued,
		TailBytes: t.bytes, TailOps: t.ops, Checkpoints: l.passes.Load(), PageBytes: l.pageBytes.Load(), Lapses: l.lease.lapses.Load(),
	}
}

// tail counts what no checkpoint holds.
type tail struct {
	mu   sync.Mutex
	all  mark      // as far as is known: a follower does not see what the leader's checkpoints hold
	own  mark      // of it, what this Log has written
	made time.Time // when the last checkpoint was made, or the first could have been

	last  uint64             // record counted last
	sizes [keepRecords]int32 // bytes of the last records, by their number modulo keepRecords; 0: not known

	full atomic.Bool // nothing that is new should be written
}

// mark is an amount of a tail.
type mark struct{ bytes, ops int64 }

func (m *mark) add(o mark) { m.bytes, m.ops = m.bytes+o.bytes, m.ops+o.ops }

func (m *mark) sub(o mark) { m.bytes, m.ops = max(m.bytes-o.bytes, 0), max(m.ops-o.ops, 0) }

// beyond reports whether there is more of m than n times o.
func (m mark) beyond(n int64, o mark) bool { return m.bytes > n*o.bytes || m.ops > n*o.ops }

func (t *tail) add(seq uint64, bytes, ops int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all.add(mark{int64(bytes), int64(ops)})
	t.size(seq, int64(bytes))
}

// size notes how long record seq is.
func (t *tail) size(seq uint64, bytes int64) {
	if seq != t.last+1 { // a checkpoint was loaded
		t.sizes = [keepRecords]int32{}
	}
	t.last, t.sizes[seq%keepRecords] = seq, int32(bytes)
}

// lately returns how many of the records up to seq are among the last ones that together, with those after seq, are no more
// than so many records and bytes, those of unknown size not counted; keepLeast of them always are, if records allow it.
func (t *tail) lately(seq, records uint64, bytes int64) (n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := max(t.last, seq)
	for s := last; s > 0 && last-s < records; s-- {
		if last == t.last {
			bytes -= int64(t.sizes[s%keepRecords])
		}
		if bytes < 0 {
			break
		}
		if s <= seq {
			n++
		}
	}
	return max(n, min(keepLeast, records))
}

func (t *tail) mark() mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

func (t *tail) forget(m mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all.sub(m)
}

// begin notes that checkpoints are made from now on.
func (t *tail) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.made = time.Now()
}

// tailAge is how long checkpoints may fail until a tail that is beyond its bound is full.
const tailAge = 10 * time.Minute

// wrote counts a record that this Log has written; most is the bound of a tail.
func (t *tail) wrote(seq uint64, m, most mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.size(seq, m.bytes)
	t.all.add(m)
	t.own.add(m)
	t.full.Store(!t.made.IsZero() && (t.own.beyond(2, most) || t.own.beyond(1, most) && time.Since(t.made) > tailAge))
}

// written returns what this Log has written of the tail.
func (t *tail) written() mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.own
}

// saved notes that a checkpoint holds what this Log had written when there was so much of it.
func (t *tail) saved(own mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.own.sub(own)
	t.made = time.Now()
	t.full.Store(false) // the next record will tell
}

// unknown reports whether a Txn that failed with err may have been done, or be done later.
func unknown(err error) bool {
	switch errs.KindOf(err) {
	case errs.Invalid, errs.TooLarge, errs.NoSpace:
		return false
	}
	return true
}
