package meta_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	. "github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
)

var checkpointSeed = flag.Uint64("checkpoint.seed", 0, "seed of the randomized tests of checkpoints, 0: any")

func checkpointRand(t *testing.T) *rand.Rand {
	n := *checkpointSeed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with -checkpoint.seed %d", n)
		}
	})
	return rand.New(rand.NewPCG(n, 0))
}

// overlay is an overlay as plain as a model must be.
type overlay struct {
	dirs     map[DirID]map[string]Entry
	counters map[string]uint64
}

func newOverlay() *overlay {
	return &overlay{dirs: map[DirID]map[string]Entry{RootDir: {}}, counters: map[string]uint64{}}
}

func (o *overlay) apply(ops []Op) {
	for _, op := range ops {
		switch op.Kind {
		case Set:
			if o.dirs[op.Dir] == nil {
				o.dirs[op.Dir] = map[string]Entry{}
			}
			o.dirs[op.Dir][op.Edge] = op.Entry
		case Del:
			delete(o.dirs[op.Dir], op.Edge)
		case DropDir:
			for _, entries := range o.dirs {
				for edge, e := range entries {
					if e.Class == Directory && e.Dir == op.Dir {
						delete(entries, edge)
					}
				}
			}
			delete(o.dirs, op.Dir)
		case Counter:
			o.counters[op.Name] = op.Value
		}
	}
}

// names returns everything below dir by path.
func (o *overlay) names(dir DirID, path string, to map[string]Entry) map[string]Entry {
	for edge, e := range o.dirs[dir] {
		to[path+edge] = e
		if e.Class == Directory {
			o.names(e.Dir, path+edge, to)
		}
	}
	return to
}

// treeNames returns everything below dir in a tree.
func treeNames(v View, dir DirID, path string, to map[string]Entry) map[string]Entry {
	for edge, e := range v.Children(dir, "") {
		to[path+edge] = *e
		if e.Class == Directory {
			treeNames(v, e.Dir, path+edge, to)
		}
	}
	return to
}

// author makes random changes of an overlay.
type author struct {
	r     *rand.Rand
	model *overlay
	next  DirID
	wide  int // how many names a directory may have
}

// record returns one record and applies it to the model.
func (a *author) record() []Op {
	var ops []Op
	for range a.r.IntN(6) + 1 {
		one := a.change()
		a.model.apply(one)
		ops = append(ops, one...)
	}
	return ops
}

// reachable returns the directories that have a path, in order, and what leads to each.
func (a *author) reachable() (ids []DirID, parent map[DirID]DirID, edge map[DirID]string) {
	parent, edge = map[DirID]DirID{}, map[DirID]string{}
	ids = []DirID{RootDir}
	for i := 0; i < len(ids); i++ {
		for e, entry := range a.model.dirs[ids[i]] {
			if entry.Class == Directory {
				ids = append(ids, entry.Dir)
				parent[entry.Dir], edge[entry.Dir] = ids[i], e
			}
		}
	}
	slices.Sort(ids)
	return ids, parent, edge
}

func (a *author) name() string {
	n := fmt.Sprintf("n%05d", a.r.IntN(a.wide))
	if a.r.IntN(10) == 0 {
		n = strings.Repeat("long", 100) + n
	}
	return n
}

func (a *author) change() []Op {
	ids, parent, edge := a.reachable()
	dir := ids[a.r.IntN(len(ids))]
	name := a.name()
	switch n := a.r.IntN(40); {
	case n < 20:
		e := Entry{Class: Persisted, ID: a.r.Uint64N(100), Size: a.r.Int64N(1000), ETag: fmt.Sprintf("%032x", a.r.Uint64()), MTime: a.r.Int64(), Owner: "o"}
		if a.r.IntN(9) == 0 {
			e.User = map[string]string{"k": strings.Repeat("v", a.r.IntN(200))}
		}
		return []Op{{Kind: Set, Dir: dir, Edge: name, Entry: e}}
	case n < 30:
		return []Op{{Kind: Del, Dir: dir, Edge: name}}
	case n < 34:
		if _, taken := a.model.dirs[dir][name+"/"]; taken {
			return nil
		}
		a.next++
		return []Op{{Kind: Set, Dir: dir, Edge: name + "/", Entry: Entry{Class: Directory, Dir: a.next}}, {Kind: Counter, Name: "dir", Value: uint64(a.next)}}
	case n < 36 && dir != RootDir:
		to := ids[a.r.IntN(len(ids))]
		for up := to; up != RootDir; up = parent[up] {
			if up == dir {
				return nil
			}
		}
		if _, taken := a.model.dirs[to][name+"/"]; taken {
			return nil
		}
		return []Op{{Kind: Set, Dir: to, Edge: name + "/", Entry: Entry{Class: Directory, Dir: dir}}, {Kind: Del, Dir: parent[dir], Edge: edge[dir]}}
	case n == 36 && dir != RootDir:
		return []Op{{Kind: DropDir, Dir: dir}}
	case n == 37: // many at once, so that pages split
		var ops []Op
		for range 40 {
			ops = append(ops, Op{Kind: Set, Dir: dir, Edge: a.name(), Entry: Entry{Class: Whiteout}})
		}
		return ops
	case n == 38: // a run of names, so that pages become one
		var ops []Op
		from := a.r.IntN(a.wide)
		for i := from; i < min(from+a.wide/2, a.wide); i++ {
			ops = append(ops, Op{Kind: Del, Dir: dir, Edge: fmt.Sprintf("n%05d", i)})
		}
		return ops
	}
	return nil
}

// tape is a KV that hands every change that was made to a second KV, and tells the test after each.
type tape struct {
	KV
	shadow KV
	before func(t Txn)        // before a transaction
	after  func(t Txn, n int) // after each change
	lose   func(t Txn) (before, after bool)
	n      int
}

func (k *tape) Txn(ctx context.Context, t Txn) (bool, int64, error) {
	if k.before != nil {
		k.before(t)
	}
	loseBefore, loseAfter := false, false
	if k.lose != nil {
		loseBefore, loseAfter = k.lose(t)
	}
	if loseBefore {
		return false, 0, errLost
	}
	ok, rev, err := k.KV.Txn(ctx, t)
	if ok {
		if _, _, err := k.shadow.Txn(ctx, t); err != nil {
			return false, 0, err
		}
		k.n++
		if k.after != nil {
			k.after(t, k.n)
		}
	}
	if loseAfter {
		return false, 0, errLost
	}
	return ok, rev, err
}

func (k *tape) DeleteRange(ctx context.Context, from, to string) (int64, error) {
	n, err := k.KV.DeleteRange(ctx, from, to)
	if err == nil {
		_, err = k.shadow.DeleteRange(ctx, from, to)
		k.n++
		if k.after != nil {
			k.after(Txn{}, k.n)
		}
	}
	return n, err
}

// checkLoad loads kv and compares the tree with the model.
func checkLoad(t *testing.T, kv KV, want *overlay, what string) *Log {
	t.Helper()
	l, err := OpenLog(kv, LogOptions{Group: "g", CheckpointEvery: -1})
	if err == nil {
		err = l.Load(t.Context())
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	compareTree(t, l.Tree(), want, what)
	return l
}

func compareTree(t *testing.T, tree *Tree, want *overlay, what string) {
	t.Helper()
	for range 5 { // frees what was dropped
		tree.Apply(0, nil)
	}
	tree.View(func(v View) {
		if diff := cmp.Diff(want.names(RootDir, "/", map[string]Entry{}), treeNames(v, RootDir, "/", map[string]Entry{})); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", what, diff)
		}
		for name, value := range want.counters {
			if got := v.Counter(name); got != value {
				t.Fatalf("%s: counter %s is %d, want %d", what, name, got, value)
			}
		}
		for id := range v.Dirs() {
			if _, ok := v.Path(id); !ok && id >= FirstDir {
				t.Fatalf("%s: directory %d has no path", what, id)
			}
		}
	})
}

// TestCheckpointCuts makes checkpoints under random changes and loads what a crash after each of their transactions leaves.
// Answers of transactions are lost at times, and records are written between the transactions of one checkpoint.
func TestCheckpointCuts(t *testing.T) {
	rounds := 6
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		r := checkpointRand(t)
		kv := &tape{KV: memkv.New(), shadow: memkv.New()}
		l, _ := open(t, kv, LogOptions{})
		a := &author{r: r, model: newOverlay(), next: FirstDir, wide: r.IntN(300) + 20}
		run(t, l)
		write := func(n int) {
			for range n {
				if _, err := l.Append(t.Context(), Batch{Ops: a.record()}); err != nil {
					t.Fatal(err)
				}
			}
		}
		write(30)
		c, err := NewCheckpointer(l, pick(r, []int{4, 16, 64}))
		if err != nil {
			t.Fatal(err)
		}
		isPage := func(x Txn) bool { return len(x.Puts) > 0 && !strings.Contains(x.Puts[0].Key, "/j/") }
		cuts := 0
		for range 8 {
			kv.before = func(x Txn) {
				if isPage(x) && r.IntN(3) == 0 {
					write(1)
				}
			}
			kv.lose = func(x Txn) (bool, bool) { return isPage(x) && r.IntN(20) == 0, isPage(x) && r.IntN(20) == 0 }
			kv.after = func(x Txn, n int) {
				if isPage(x) || x.Puts == nil {
					cuts++
					checkLoad(t, kv.shadow, a.model, fmt.Sprintf("cut after change %d", n))
				}
			}
			if err := c.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			kv.before, kv.after, kv.lose = nil, nil, nil
			compareTree(t, l.Tree(), a.model, "the writer's own tree")
			write(r.IntN(30))
		}
		if cuts < 16 {
			t.Errorf("%d cuts only", cuts)
		}
		if s := checkLoad(t, kv, a.model, "at the end").Stats(); s.Seq != l.Seq() || s.TailOps == 0 && l.Seq() > 50 {
			t.Logf("loaded to %d with a tail of %d operations", s.Seq, s.TailOps)
		}
	}
}

// TestCheckpointTakeover cuts checkpoints anywhere, and has another member claim what is left, change it, and make its own
// checkpoint over it.
func TestCheckpointTakeover(t *testing.T) {
	r := checkpointRand(t)
	for range 20 {
		kv := memkv.New()
		a := &author{r: r, model: newOverlay(), next: FirstDir, wide: r.IntN(200) + 20}
		for reign := range 6 {
			cutting := &tape{KV: kv, shadow: memkv.New()}
			l, _ := open(t, cutting, LogOptions{Member: fmt.Sprint(reign)})
			compareTree(t, l.Tree(), a.model, "after a claim")
			stop := run(t, l)
			for range 20 {
				if _, err := l.Append(t.Context(), Batch{Ops: a.record()}); err != nil {
					t.Fatal(err)
				}
			}
			c, err := NewCheckpointer(l, 16)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			left := r.IntN(12)
			cutting.after = func(Txn, int) {
				if left--; left == 0 {
					cancel()
				}
			}
			cutting.shadow = memkv.New()
			if err := c.Pass(ctx); err != nil && ctx.Err() == nil {
				t.Fatal(err)
			}
			cancel()
			stop()
		}
		checkLoad(t, kv, a.model, "at the end")
	}
}

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// TestLatePage delays a transaction of pages whose answer was lost until after later checkpoints: it must not be done then.
func TestLatePage(t *testing.T) {
	kv := &tape{KV: memkv.New(), shadow: memkv.New()}
	var late []Txn
	kv.lose = func(x Txn) (bool, bool) {
		if key := x.Puts[0].Key; strings.Contains(key, "/j/") || strings.Contains(key, "leader") || len(late)%2 == 1 {
			return false, false
		}
		late = append(late, Txn{If: slices.Clone(x.If), Puts: slices.Clone(x.Puts), Deletes: slices.Clone(x.Deletes)})
		return true, false
	}
	a := &author{r: checkpointRand(t), model: newOverlay(), next: FirstDir, wide: 200}
	l, _ := open(t, kv, LogOptions{})
	run(t, l)
	c, err := NewCheckpointer(l, 16)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		for range 10 {
			if _, err := l.Append(t.Context(), Batch{Ops: a.record()}); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(late)%2 == 1 {
			late = append(late, Txn{}) // the next one is lost again
		}
	}
	for _, x := range late {
		if len(x.Puts) == 0 {
			continue
		}
		if ok, _, err := kv.KV.Txn(t.Context(), x); ok || err != nil {
			t.Fatalf("a late transaction of %d pages: got %v, %v; want it refused", len(x.Puts), ok, err)
		}
	}
	checkLoad(t, kv, a.model, "at the end")
}

// TestLateSplit delays the first transactions of a split into more pages than one holds, which make new pages only, until the
// directory is small again: done then, they would lie over what has changed.
func TestLateSplit(t *testing.T) {
	kv := &tape{KV: memkv.New(), shadow: memkv.New()}
	var late []Txn
	l, _ := open(t, kv, LogOptions{})
	run(t, l)
	c, err := NewCheckpointer(l, 16)
	if err != nil {
		t.Fatal(err)
	}
	model := newOverlay()
	write := func(kind OpKind, n int) {
		t.Helper()
		b := Batch{}
		for i := range n {
			b.Ops = append(b.Ops, Op{Kind: kind, Dir: RootDir, Edge: fmt.Sprintf("e%04d", i), Entry: Entry{Class: Persisted, ID: uint64(i + 1)}})
		}
		if _, err := l.Append(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		model.apply(b.Ops)
	}
	write(Set, 1)
	if err := c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(Set, 4000)
	ctx, cancel := context.WithCancel(t.Context())
	kv.lose = func(x Txn) (bool, bool) {
		cancel()
		late = append(late, Txn{If: slices.Clone(x.If), Puts: slices.Clone(x.Puts), Deletes: slices.Clone(x.Deletes)})
		return true, false
	}
	if err := c.Pass(ctx); err == nil {
		t.Fatal("a pass went well whose transaction was lost")
	}
	kv.lose = nil
	write(Del, 3990)
	if err := c.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(late) == 0 || len(late[0].Puts) == 0 {
		t.Fatalf("%d transactions were lost", len(late))
	}
	for _, x := range late {
		if ok, _, err := kv.KV.Txn(t.Context(), x); ok || err != nil {
			t.Errorf("a late transaction of %d pages: got %v, %v; want it refused", len(x.Puts), ok, err)
		}
	}
	checkLoad(t, kv, model, "at the end")
}

// compacts is a KV that notes what is compacted.
type compacts struct {
	KV
	revs []int64
}

func (k *compacts) Compact(ctx context.Context, rev int64) error {
	k.revs = append(k.revs, rev)
	return k.KV.Compact(ctx, rev)
}

// TestCheckpointKeepsLittle has records that are long, and then pages that are stored again and again: of neither more stays
// than the spare, and when nothing is written any more the store is compacted once, to the end.
func TestCheckpointKeepsLittle(t *testing.T) {
	const spare = 512 << 10
	kv := &compacts{KV: memkv.New()}
	l, _ := open(t, kv, LogOptions{})
	run(t, l)
	c, err := NewCheckpointer(l, 256)
	if err != nil {
		t.Fatal(err)
	}
	r := checkpointRand(t)
	write := func(edge string, size int) {
		text := make([]byte, size)
		for i := range text {
			text[i] = byte(' ' + r.IntN(95))
		}
		e := Entry{Class: Persisted, ID: 1, User: map[string]string{"k": string(text)}}
		if _, err := l.Append(t.Context(), Batch{Ops: []Op{{Kind: Set, Dir: RootDir, Edge: edge, Entry: e}}}); err != nil {
			t.Fatal(err)
		}
	}
	pass := func() {
		t.Helper()
		if err := c.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	records := func() (n int, bytes int) {
		page, err := kv.Scan(t.Context(), "g/g/j/", "g/g/j0", MaxScan)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range page.KVs {
			bytes += len(kv.Value)
		}
		return len(page.KVs), bytes
	}
	for _, x := range []struct{ n, size, least, most int }{
		{300, 10, 256, 256},    // as many as there may be
		{60, 50_000, 8, 15},    // no more than a spare
		{10, 600_000, 4, 4},    // longer than a spare each: the least
		{3, 10, 4, 4},          // those before are still too long
		{300, 10_000, 40, 64},  // again by bytes
		{256, 100, 256, 256},   // and all of them again
		{1, 900_000, 4, 4},     // a single one is too long
		{500, 2_000, 200, 256}, // many, of which the checkpointer has seen the sizes of the last only
	} {
		for i := range x.n {
			write(fmt.Sprint(i%3), x.size)
		}
		pass()
		if n, bytes := records(); n < x.least || n > x.most || n > 4 && bytes > spare {
			t.Errorf("%d records of %d bytes: %d stay, of %d bytes together; want %d to %d", x.n, x.size, n, bytes, x.least, x.most)
		}
	}
	pass()
	if len(kv.revs) == 0 {
		t.Fatal("nothing was compacted")
	}
	now := func() int64 {
		page, err := kv.Scan(t.Context(), "g/g/ck", "g/g/cl", 1)
		if err != nil {
			t.Fatal(err)
		}
		return page.Revision
	}
	if last := kv.revs[len(kv.revs)-1]; last != now() {
		t.Errorf("compacted to %d when nothing was written any more; the store is at %d", last, now())
	}
	before := len(kv.revs)
	for range 5 { // nothing to do, and then too little
		pass()
	}
	for range 20 {
		write("x", 10)
		pass()
	}
	if len(kv.revs) != before {
		t.Errorf("compacted for a few small pages: %d", kv.revs[before:])
	}
	mark := now()
	for range 10 {
		write("x", 200_000)
		pass()
	}
	for i, rev := range kv.revs {
		if i > 0 && rev <= kv.revs[i-1] {
			t.Errorf("compacted to %d after %d", rev, kv.revs[i-1])
		}
	}
	if last := kv.revs[len(kv.revs)-1]; last <= mark || last >= now() {
		t.Errorf("compacted to %d while pages are stored again from %d to %d; want what is last kept", last, mark, now())
	}
	again, err := OpenLog(kv, LogOptions{Group: "g"})
	if err == nil {
		err = again.Load(t.Context())
	}
	if err != nil || again.Seq() != l.Seq() || again.Tree().Len() != l.Tree().Len() {
		t.Errorf("loaded to %d of %d, %d entries of %d, %v", again.Seq(), l.Seq(), again.Tree().Len(), l.Tree().Len(), err)
	}
}
