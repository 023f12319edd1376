package meta

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
	sys/…                     configuration (mounts …), one small value each, written under the same fence

A record at seq is put by one transaction: if the leader key still has the term's revision, and the record before it is
there, and nothing is at seq. So a deposed writer can add nothing, a record that is proposed twice because its first answer
was lost lands once, and the journal has no gap.
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
	Logger        *slog.Logger
	MaxBatchBytes int   // encoded operations that one record gathers from several batches; 256 KiB, at most 1 MiB - 1 KiB
	MaxBatchOps   int   // operations that one record gathers from several batches; 4096, at most MaxRecordOps
	MaxQueueBytes int64 // memory of the batches that wait; beyond it Append fails; 64 MiB
}

func (o LogOptions) withDefaults() LogOptions {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxBatchBytes <= 0 {
		o.MaxBatchBytes = 256 << 10
	}
	if o.MaxBatchOps <= 0 {
		o.MaxBatchOps = 4096
	}
	if o.MaxQueueBytes <= 0 {
		o.MaxQueueBytes = 64 << 20
	}
	o.MaxBatchBytes = min(o.MaxBatchBytes, MaxRecord-1<<10)
	o.MaxBatchOps = min(o.MaxBatchOps, MaxRecordOps)
	return o
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
	Term        int64         // this Log's reign
	Records     uint64        // committed
	Batches     uint64        // committed
	Ops         uint64        // committed
	Bytes       uint64        // of the records committed
	Retries     uint64        // proposals whose outcome was unknown
	CommitTime  time.Duration // spent waiting for commits, in sum
	QueuedBytes int64         // memory of the batches that wait
}

// Log is the journal of one group: the only way to change what is authoritative. Records are numbered from 1 (seq).
//
// The life of a Log: OpenLog claims the journal, Replay reads it, Run writes what Append is given until its context ends or
// another member claims the journal. A Log whose Run has returned is of no more use: open another and replay.
type Log struct {
	kv     KV
	o      LogOptions
	prefix string // of the group's keys
	term   int64

	state atomic.Int32 // what has been done with the Log
	seq   atomic.Uint64
	wake  chan struct{} // holds a token if the queue may not be empty

	mu      sync.Mutex
	queue   []*call
	queued  int64 // memory of the queue
	stopped error // why nothing can be queued any more

	records, batches, ops, bytes, retries atomic.Uint64
	commitTime                            atomic.Int64
}

// The states of a Log.
const (
	logOpened int32 = iota
	logReplaying
	logReplayed
	logRunning
)

// OpenLog claims the journal o.Group: from then on no other member can write to it. A member that held it finds out with its
// next write. It does no more than that; Replay and Run follow.
//
// The claim is unconditional: that only one process wants the journal at a time is for the caller to see to (one embedded
// server, one data directory). Errors: errs.Invalid; errs.Conflict if another member claims it at the same moment.
func OpenLog(ctx context.Context, kv KV, o LogOptions) (*Log, error) {
	if o.Group == "" || strings.Contains(o.Group, "/") {
		return nil, errs.New("meta.OpenLog", o.Group, errs.Invalid, "a group's name is not empty and has no slash")
	}
	l := &Log{kv: kv, o: o.withDefaults(), prefix: "g/" + o.Group + "/", wake: make(chan struct{}, 1)}
	claim, err := json.Marshal(map[string]string{"member": o.Member, "claim": rand.Text(), "time": time.Now().UTC().Format(time.RFC3339)})
	if err != nil {
		return nil, errs.E("meta.OpenLog", o.Member, errs.Invalid, err)
	}
	if l.term, err = l.claim(ctx, claim); err != nil {
		return nil, err
	}
	l.o.Logger.Info("journal claimed", "group", o.Group, "member", o.Member, "term", l.term)
	return l, nil
}

// claim puts the leader key and returns its revision. A claim whose answer was lost is looked up; proposed again under the
// same condition it cannot be put twice.
func (l *Log) claim(ctx context.Context, claim []byte) (int64, error) {
	const op = "meta.OpenLog"
	seen, err := l.leader(ctx)
	if err != nil {
		return 0, err
	}
	for range claimTries {
		ok, rev, err := l.kv.Txn(ctx, Txn{
			If:   []Compare{ModRevIs(l.leaderKey(), seen.ModRev)},
			Puts: []KeyValue{{Key: l.leaderKey(), Value: claim}},
		})
		if ok && err == nil {
			return rev, nil
		}
		if err != nil && !unknown(err) {
			return 0, err
		}
		now, readErr := l.leader(ctx)
		switch {
		case readErr != nil:
			return 0, readErr
		case string(now.Value) == string(claim):
			return now.ModRev, nil
		case now.ModRev != seen.ModRev:
			return 0, errs.New(op, l.o.Group, errs.Conflict, "another member claimed the journal at the same moment")
		}
	}
	return 0, errs.New(op, l.o.Group, errs.Unavailable, "the metadata store does not confirm the claim of the journal")
}

// leader returns the leader key, the zero value if there is none.
func (l *Log) leader(ctx context.Context) (KeyValue, error) {
	kv, err := l.kv.Get(ctx, l.leaderKey())
	if errors.Is(err, errs.NotExist) {
		return KeyValue{}, nil
	}
	return kv, err
}

func (l *Log) leaderKey() string { return l.prefix + "leader" }

func (l *Log) recordKey(seq uint64) string { return fmt.Sprintf("%sj/%016x", l.prefix, seq) }

// Replay reads the whole journal and calls apply for every record in order; apply may keep ops. It comes once, before Run.
//
// Errors: apply's; errs.Corrupt for a record that is damaged, missing or out of order: nothing after it is applied.
func (l *Log) Replay(ctx context.Context, apply func(seq uint64, ops []Op) error) error {
	if !l.state.CompareAndSwap(logOpened, logReplaying) {
		return errs.New("meta.Log.Replay", l.o.Group, errs.Invalid, "the journal was replayed before")
	}
	term := int64(0)
	for {
		first := l.seq.Load() + 1
		page, err := l.kv.Scan(ctx, l.recordKey(first), l.recordKey(first+replayWindow), replayWindow)
		if err != nil {
			return err
		}
		if len(page.KVs) == 0 {
			break
		}
		for _, kv := range page.KVs {
			h, ops, err := l.read(kv, l.seq.Load()+1, term)
			if err != nil {
				return err
			}
			if err := apply(h.seq, ops); err != nil {
				return err
			}
			term = h.term
			l.seq.Store(h.seq)
		}
	}
	if err := l.checkEnd(ctx); err != nil {
		return err
	}
	l.state.Store(logReplayed)
	return nil
}

// read decodes the record kv, which must be record seq, of the given or a later term.
func (l *Log) read(kv KeyValue, seq uint64, term int64) (header, []Op, error) {
	corrupt := func(why string, args ...any) error {
		return errs.New("meta.Log.Replay", kv.Key, errs.Corrupt, fmt.Sprintf(why, args...)+"; restore the metadata from a backup")
	}
	if kv.Key != l.recordKey(seq) {
		return header{}, nil, corrupt("record %d is missing from the journal", seq)
	}
	h, ops, err := decodeRecord(kv.Value)
	switch {
	case err != nil:
		return header{}, nil, corrupt("%v", err)
	case h.seq != seq:
		return header{}, nil, corrupt("the record is number %d by its own account", h.seq)
	case h.term < term:
		return header{}, nil, corrupt("the record's term is %d, after one of term %d", h.term, term)
	case h.term >= l.term:
		return header{}, nil, corrupt("the record's term is %d, but the journal was claimed at %d", h.term, l.term)
	}
	return h, ops, nil
}

// checkEnd reports errs.Corrupt if there are records beyond the last one read.
func (l *Log) checkEnd(ctx context.Context) error {
	next := l.recordKey(l.seq.Load() + 1)
	page, err := l.kv.Scan(ctx, next, PrefixEnd(l.prefix+"j/"), 1)
	if err != nil {
		return err
	}
	if len(page.KVs) > 0 {
		_, _, err = l.read(page.KVs[0], l.seq.Load()+1, 0)
	}
	return err
}

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

// Term returns the revision of this Log's claim. Terms grow with every claim.
func (l *Log) Term() int64 { return l.term }

// Stats returns the Log's numbers.
func (l *Log) Stats() LogStats {
	l.mu.Lock()
	queued := l.queued
	l.mu.Unlock()
	return LogStats{
		Seq: l.Seq(), Term: l.term,
		Records: l.records.Load(), Batches: l.batches.Load(), Ops: l.ops.Load(), Bytes: l.bytes.Load(),
		Retries: l.retries.Load(), CommitTime: time.Duration(l.commitTime.Load()), QueuedBytes: queued,
	}
}

// unknown reports whether a Txn that failed with err may have been done, or be done later.
func unknown(err error) bool {
	switch errs.KindOf(err) {
	case errs.Invalid, errs.TooLarge, errs.NoSpace:
		return false
	}
	return true
}
