package meta

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/sluicefs/sluice/core/errs"
)

// The limits every KV keeps. They are below etcd's defaults, so that the journal fits a cluster that somebody else runs.
const (
	MaxTxnOps   = 128       // compares of one transaction, and puts and deletes together. Source: etcd --max-txn-ops
	MaxTxnBytes = 5 << 18   // keys and values of one transaction: 1.25 MiB. Source: etcd --max-request-bytes is 1.5 MiB
	MaxValue    = 1 << 20   // bytes of one value
	MaxKey      = 1 << 10   // bytes of one key
	MaxScan     = 10 * 1000 // keys of one Scan
)

// KV is an ordered, linearizable store of small values under a global revision that grows by one with every change; etcd,
// or memory (memkv). Everything durable about names goes through it. The suite that defines its behaviour is kvtest.
//
// It is safe for concurrent use. A KV copies the values it is given; values it returns must not be modified. Every method
// may fail with errs.Unavailable or the context's error. A Txn or DeleteRange that fails so has an unknown outcome: it may
// have been done, or be done later. After any other error nothing was changed.
type KV interface {
	// Get returns the value of key. Errors: errs.NotExist.
	Get(ctx context.Context, key string) (KeyValue, error)

	// Scan returns the first limit keys k with from <= k < to, in order. Errors: errs.Invalid unless "" < from < to and
	// 1 <= limit <= MaxScan. The cost may grow with the number of keys between from and to, whatever the limit: a caller
	// that pages through many keys bounds to.
	Scan(ctx context.Context, from, to string, limit int) (Page, error)

	// Txn makes t's changes as one step if all its compares hold, else none; ok says which. rev is the store's revision
	// after it: the ModRev of what it put. Errors: those of Txn.Check; errs.NoSpace.
	Txn(ctx context.Context, t Txn) (ok bool, rev int64, err error)

	// DeleteRange deletes the keys k with from <= k < to in chunks, each of which is one step, and returns how many it
	// deleted. Errors: errs.Invalid as for Scan.
	DeleteRange(ctx context.Context, from, to string) (int64, error)

	// Watch yields the changes of the keys k with from <= k < to from the revision rev on (0: from the first call of the
	// iterator on), in order, until ctx ends, whose error comes last. Errors: errs.Precondition if rev was compacted: scan
	// again and watch from the page's Revision+1; errs.Invalid as for Scan.
	Watch(ctx context.Context, from, to string, rev int64) iter.Seq2[Event, error]

	// Compact forgets the changes before the revision rev that a later one of the same key has replaced. Errors:
	// errs.Precondition if rev lies in the future. Compacting what is compacted does nothing.
	Compact(ctx context.Context, rev int64) error

	// Close ends the KV: later calls are errs.Unavailable. It is idempotent.
	Close() error
}

// KeyValue is a key with its value. The revisions are set by the KV and ignored in puts.
type KeyValue struct {
	Key       string
	Value     []byte
	CreateRev int64 // revision of the put that made the key
	ModRev    int64 // revision of the last put
}

// Page is the answer of a Scan.
type Page struct {
	KVs      []KeyValue
	More     bool  // there are keys beyond the limit
	Revision int64 // the store's revision at which the page was read
}

// Event is one change of a key. Of a deletion only Key and ModRev are set.
type Event struct {
	KeyValue
	Deleted bool
}

// Txn is a conditional change.
type Txn struct {
	If      []Compare
	Puts    []KeyValue
	Deletes []string // deleting what is not there is no error
}

// Compare is a condition on a key's revisions; a key that does not exist has the revisions 0.
type Compare struct {
	Key      string
	Created  bool // compare CreateRev, else ModRev
	Greater  bool // the revision is greater than Rev, else equal
	Revision int64
}

// ModRevIs holds if key was last put at the revision rev; 0: if it does not exist.
func ModRevIs(key string, rev int64) Compare { return Compare{Key: key, Revision: rev} }

// KeyExists holds if key exists.
func KeyExists(key string) Compare { return Compare{Key: key, Created: true, Greater: true} }

// KeyAbsent holds if key does not exist.
func KeyAbsent(key string) Compare { return Compare{Key: key, Created: true} }

// Holds reports whether the condition is met by a key with these revisions.
func (c Compare) Holds(createRev, modRev int64) bool {
	rev := modRev
	if c.Created {
		rev = createRev
	}
	if c.Greater {
		return rev > c.Revision
	}
	return rev == c.Revision
}

// Check reports what every KV refuses: errs.TooLarge beyond the limits; errs.Invalid for an empty or too long key, and for
// a key that is changed twice.
func (t Txn) Check() error {
	const op = "kv.Txn"
	if len(t.If) > MaxTxnOps || len(t.Puts)+len(t.Deletes) > MaxTxnOps {
		return errs.New(op, "", errs.TooLarge, fmt.Sprintf("more than %d compares or changes in one transaction", MaxTxnOps))
	}
	size := 0
	var array [MaxTxnOps]string
	changed := array[:0]
	change := func(key string) error {
		size += len(key)
		changed = append(changed, key)
		return CheckKey(op, key)
	}
	for _, c := range t.If {
		size += len(c.Key)
		if err := CheckKey(op, c.Key); err != nil {
			return err
		}
	}
	for _, kv := range t.Puts {
		size += len(kv.Value)
		if err := change(kv.Key); err != nil {
			return err
		}
		if len(kv.Value) > MaxValue {
			return errs.New(op, kv.Key, errs.TooLarge, fmt.Sprintf("the value is longer than %d bytes", MaxValue))
		}
	}
	for _, key := range t.Deletes {
		if err := change(key); err != nil {
			return err
		}
	}
	slices.Sort(changed)
	for i := 1; i < len(changed); i++ {
		if changed[i] == changed[i-1] {
			return errs.New(op, changed[i], errs.Invalid, "the key is changed twice in one transaction")
		}
	}
	if size > MaxTxnBytes {
		return errs.New(op, "", errs.TooLarge, fmt.Sprintf("the transaction is longer than %d bytes", MaxTxnBytes))
	}
	return nil
}

// CheckKey reports errs.Invalid for a key that no KV takes: empty, or longer than MaxKey. op names the caller.
func CheckKey(op, key string) error {
	switch {
	case key == "":
		return errs.New(op, "", errs.Invalid, "the key is empty")
	case len(key) > MaxKey:
		return errs.New(op, key[:32]+"…", errs.Invalid, fmt.Sprintf("the key is longer than %d bytes", MaxKey))
	}
	return nil
}

// CheckRange reports errs.Invalid for a range that no KV takes. op names the caller.
func CheckRange(op, from, to string) error {
	if from == "" || from >= to {
		return errs.New(op, from, errs.Invalid, "a range needs a start and a greater end")
	}
	return nil
}

// CheckScan is CheckRange with a limit.
func CheckScan(op, from, to string, limit int) error {
	if limit < 1 || limit > MaxScan {
		return errs.New(op, from, errs.Invalid, fmt.Sprintf("the limit is not between 1 and %d", MaxScan))
	}
	return CheckRange(op, from, to)
}

// PrefixEnd returns the end of the range that holds exactly the keys that start with prefix, which must have a byte below
// 0xff.
func PrefixEnd(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return ""
}
