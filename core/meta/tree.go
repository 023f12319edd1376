package meta

import (
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"

	"github.com/sluicefs/sluice/core"
)

// Tree is the overlay in memory: what the journal's records add up to. It is safe for concurrent use; readers share a
// lock, Apply excludes them for the time of one record.
type Tree struct {
	born time.Time // origin of row.checked

	mu       sync.RWMutex
	dirs     map[DirID]*directory
	counters map[string]uint64
	seq      uint64
	rows     int64
	bytes    int64
	dropped  []*directory // out of dirs, rows not yet freed
}

// directory is one directory of the overlay. Its parent is nil for the reserved ones and while no edge leads to it.
type directory struct {
	id     DirID
	parent *directory
	edge   string
	rows   btree.Map[string, *row]
}

// row is one entry in memory. The entry is never changed: another one replaces the row.
type row struct {
	Entry
	checked atomic.Int64 // nanoseconds from Tree.born to when the bytes were last compared with the store; 0: never
}

// dropStep bounds how many rows of dropped directories are freed beside each applied record, so that dropping a large
// tree delays nobody; twice what a record adds keeps the backlog from growing.
const dropStep = 512

// NewTree returns a tree that holds the reserved directories and nothing else.
func NewTree() *Tree {
	t := &Tree{born: time.Now(), dirs: map[DirID]*directory{}, counters: map[string]uint64{}}
	for _, id := range []DirID{RootDir, UploadsDir, IntentsDir} {
		t.dirs[id] = &directory{id: id}
	}
	return t
}

// Apply makes the changes ops, in order, as one step for every reader. seq is the sequence of their record; applying a
// record again is harmless as long as the records after it are applied again too. The tree keeps the entries' maps and
// slices: the caller must not change them.
//
// Setting a directory makes its DirID a child of that edge, wherever it was before. Deleting or replacing a directory's
// edge leaves its entries in memory, without a path, until DropDir or until another edge is set to its DirID. DropDir
// takes the directory's own edge away too, if it still leads there.
func (t *Tree) Apply(seq uint64, ops []Op) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range ops {
		switch op := &ops[i]; op.Kind {
		case Set:
			t.set(t.directory(op.Dir), op.Edge, op.Entry)
		case Del:
			if d := t.dirs[op.Dir]; d != nil {
				t.del(d, op.Edge)
			}
		case DropDir:
			t.drop(op.Dir)
		case Counter:
			t.counters[op.Name] = op.Value
		}
	}
	t.seq = max(t.seq, seq)
	t.free(dropStep + 2*len(ops))
}

// directory returns the directory id, made if a record names it before its edge is set.
func (t *Tree) directory(id DirID) *directory {
	d := t.dirs[id]
	if d == nil {
		d = &directory{id: id}
		t.dirs[id] = d
	}
	return d
}

func (t *Tree) set(d *directory, edge string, e Entry) {
	edge = strings.Clone(edge) // not a piece of the whole record
	r := &row{Entry: e}
	old, replaced := d.rows.Set(edge, r)
	if replaced {
		t.unlink(d, edge, old)
		t.count(edge, old, -1)
	}
	t.count(edge, r, 1)
	if e.Class == Directory {
		c := t.directory(e.Dir)
		c.parent, c.edge = d, edge
	}
}

func (t *Tree) del(d *directory, edge string) {
	if old, ok := d.rows.Delete(edge); ok {
		t.unlink(d, edge, old)
		t.count(edge, old, -1)
	}
}

// unlink takes the path away from the directory that old was the edge of, unless it has another edge already.
func (t *Tree) unlink(d *directory, edge string, old *row) {
	if old.Class != Directory {
		return
	}
	if c := t.dirs[old.Dir]; c != nil && c.parent == d && c.edge == edge {
		c.parent, c.edge = nil, ""
	}
}

func (t *Tree) drop(id DirID) {
	d := t.dirs[id]
	if d == nil || id < FirstDir {
		return
	}
	if d.parent != nil {
		if r, ok := d.parent.rows.Get(d.edge); ok && r.Class == Directory && r.Dir == id {
			t.del(d.parent, d.edge)
		}
	}
	delete(t.dirs, id)
	t.dropped = append(t.dropped, d)
}

// free forgets up to n rows of dropped directories, and drops the directories below them that were not moved elsewhere.
func (t *Tree) free(n int) {
	for ; n > 0 && len(t.dropped) > 0; n-- {
		d := t.dropped[len(t.dropped)-1]
		edge, r, ok := d.rows.PopMin()
		if !ok {
			t.dropped = t.dropped[:len(t.dropped)-1]
			continue
		}
		t.count(edge, r, -1)
		if c := t.dirs[r.Dir]; r.Class == Directory && c != nil && c.parent == d {
			delete(t.dirs, c.id)
			t.dropped = append(t.dropped, c)
		}
	}
}

func (t *Tree) count(edge string, r *row, sign int64) {
	t.rows += sign
	t.bytes += sign * r.bytes(edge)
}

// rowBytes is what one row takes beside its strings: the row, its place in the directory's B-tree, and in the map of
// directories on average; measured by BenchmarkTreeMemory.
const rowBytes = 370

func (r *row) bytes(edge string) int64 {
	n := rowBytes + len(edge) + len(r.ETag) + len(r.StoreKey) + len(r.Version) + len(r.Checksums) + len(r.HDFSSum) +
		32*len(r.Extents) + 8*len(r.Parts) + len(r.Base.Store) + len(r.Base.Prefix) + len(r.Owner) + len(r.Group)
	for _, m := range []map[string]string{r.Headers, r.User, r.Extra} {
		for k, v := range m {
			n += len(k) + len(v) + 48
		}
	}
	return int64(n)
}

// Len returns the number of entries in memory, those of dropped directories included until they are freed.
func (t *Tree) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return int(t.rows)
}

// Bytes returns an estimate of the memory the entries take.
func (t *Tree) Bytes() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.bytes
}

// MarkChecked notes that the file's bytes were compared with the store at the time at, if the entry's Version still is
// the given one. It is kept in memory only, until the entry is replaced.
func (t *Tree) MarkChecked(dir DirID, edge, version string, at time.Time) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	d := t.dirs[dir]
	if d == nil {
		return
	}
	if r, ok := d.rows.Get(edge); ok && r.Version == version {
		since := max(int64(at.Sub(t.born)), 1)
		for {
			old := r.checked.Load()
			if old >= since || r.checked.CompareAndSwap(old, since) {
				return
			}
		}
	}
}

// View calls fn with a view of the tree that does not change until fn returns. fn must not wait for anything, and must
// not call the Tree's own methods.
func (t *Tree) View(fn func(v View)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	fn(View{t})
}

// View reads a Tree. It is valid only inside Tree.View. The entries it returns may be kept and must not be changed.
type View struct{ t *Tree }

// Get returns the entry at (dir, edge).
func (v View) Get(dir DirID, edge string) (*Entry, bool) {
	if d := v.t.dirs[dir]; d != nil {
		if r, ok := d.rows.Get(edge); ok {
			return &r.Entry, true
		}
	}
	return nil, false
}

// Children yields the entries of dir with edges not less than from, in byte order.
func (v View) Children(dir DirID, from string) iter.Seq2[string, *Entry] {
	return func(yield func(string, *Entry) bool) {
		d := v.t.dirs[dir]
		if d == nil {
			return
		}
		d.rows.Ascend(from, func(edge string, r *row) bool { return yield(edge, &r.Entry) })
	}
}

// Dirs yields every directory of the tree, in no particular order, those without a path included.
func (v View) Dirs() iter.Seq[DirID] {
	return func(yield func(DirID) bool) {
		for id := range v.t.dirs {
			if !yield(id) {
				return
			}
		}
	}
}

// Dir returns the edge that leads to the directory id. ok is false if none does: the id is unknown, has lost its edge, or
// is a reserved directory.
func (v View) Dir(id DirID) (parent DirID, edge string, e *Entry, ok bool) {
	d := v.t.dirs[id]
	if d == nil || d.parent == nil {
		return 0, "", nil, false
	}
	r, found := d.parent.rows.Get(d.edge)
	if !found {
		return 0, "", nil, false
	}
	return d.parent.id, d.edge, &r.Entry, true
}

// Path returns the absolute path of the directory id, ending in "/". ok is false if it is not reachable from the root.
func (v View) Path(id DirID) (path string, ok bool) {
	var edges []string
	d := v.t.dirs[id]
	for d != nil && d.id != RootDir && len(edges) <= core.MaxPath { // no longer path, and no circle, leads to the root
		edges = append(edges, d.edge)
		d = d.parent
	}
	if d == nil || d.id != RootDir {
		return "", false
	}
	var b strings.Builder
	b.WriteByte('/')
	for i := len(edges) - 1; i >= 0; i-- {
		b.WriteString(edges[i])
	}
	return b.String(), true
}

// CheckedAt returns when the bytes of the file at (dir, edge) were last compared with the store, the zero time if not
// since the entry was set.
func (v View) CheckedAt(dir DirID, edge string) time.Time {
	if d := v.t.dirs[dir]; d != nil {
		if r, ok := d.rows.Get(edge); ok {
			return v.checked(r)
		}
	}
	return time.Time{}
}

func (v View) checked(r *row) time.Time {
	if ns := r.checked.Load(); ns != 0 {
		return v.t.born.Add(time.Duration(ns))
	}
	return time.Time{}
}

// Counter returns the value of a journaled counter, 0 if it was never set.
func (v View) Counter(name string) uint64 { return v.t.counters[name] }

// Seq returns the sequence of the last record applied.
func (v View) Seq() uint64 { return v.t.seq }
