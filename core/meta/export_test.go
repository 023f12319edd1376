package meta

import "context"

// AppendRecordForTest returns an empty record with this header.
func AppendRecordForTest(seq uint64, term int64) []byte {
	return appendRecord(nil, header{seq: seq, term: term}, nil)
}

// Checkpointer makes checkpoints when a test says so.
type Checkpointer = checkpointer

// NewCheckpointer returns a checkpointer of l with pages of so many entries and transactions of few.
func NewCheckpointer(l *Log, entries int) (*Checkpointer, error) {
	c, err := newCheckpointer(l)
	if err == nil && entries < pageEntries {
		c.limits = pageLimits{entries: entries, merge: entries / 2, small: entries / 4, txn: 6, keep: 3}
	}
	return c, err
}

// Pass makes one checkpoint.
func (c *checkpointer) Pass(ctx context.Context) error { return c.pass(ctx) }
