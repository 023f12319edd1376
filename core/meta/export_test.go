package meta

import (
	"context"
	"math/rand/v2"
)

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
		c.limits = pageLimits{entries: entries, merge: entries / 2, small: entries / 4, txn: 6, keep: 3, spare: 1}
	}
	return c, err
}

// Pass makes one checkpoint.
func (c *checkpointer) Pass(ctx context.Context) error { return c.pass(ctx) }

// RealTree returns a tree of n files of a local store in directories of perDir.
func RealTree(n, perDir int) *Tree { return realTree(rand.New(rand.NewPCG(1, 1)), n, perDir) }

// Adopt makes l hold what tree holds, as if its records had been applied. tree must not be used any more.
func (l *Log) Adopt(tree *Tree) {
	l.tree.become(tree)
	l.tree.layout.soilFrom(point{}, end)
}

// Touch sets n random files again.
func (l *Log) Touch(n int) {
	r := rand.New(rand.NewPCG(2, 2))
	var dirs []DirID
	for id, d := range l.tree.dirs {
		if last := d.last(); last != nil && id >= FirstDir && slabEdge(last.data, 0)[0] == 'p' {
			dirs = append(dirs, id)
		}
	}
	var ops []Op
	for i := range n {
		dir := dirs[r.IntN(len(dirs))]
		g := l.tree.dirs[dir].groups[0].slabs
		edge := slabEdge(g[r.IntN(len(g))].data, 0)
		ops = append(ops, Op{Kind: Set, Dir: dir, Edge: edge, Entry: realEntry(r, i)})
	}
	l.tree.Apply(l.tree.seq+1, ops)
}
