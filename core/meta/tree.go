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
//
// Entries are packed (shape.go) in slabs (slab.go): a million of them are some ten thousand pieces of memory for the garbage
// collector to look at. An entry that is asked for is made for the caller.
type Tree struct {
	born time.Time // origin of the times in checks

	mu       sync.RWMutex
	dirs     map[DirID]*directory
	order    btree.Set[DirID] // of dirs
	counters map[string]uint64
	seq      uint64
	ways     uint64 // counts what may change where a path leads
	rows     int64
	dropped  []*directory // out of dirs, entries not yet freed
	shapes   shapes
	layout   layout // how the entries are cut into checkpoint pages
	edit     editor
	vals     values
	packed   []byte
	turns    []int32 // of operations

	bytes atomic.Int64
}

// dropStep bounds how many entries of dropped directories are freed beside each applied record, so that dropping a large
// tree delays nobody; twice what a record adds keeps the backlog from growing.
const dropStep = 512

// NewTree returns a tree that holds the reserved directories and nothing else.
func NewTree() *Tree {
	t := &Tree{born: time.Now(), dirs: map[DirID]*directory{}, counters: map[string]uint64{}, shapes: newShapes(), layout: newLayout()}
	for _, id := range []DirID{RootDir, UploadsDir, IntentsDir, AnswersDir} {
		t.directory(id)
	}
	return t
}

// Apply makes the changes ops, in order, as one step for every reader. seq is the sequence of their record; applying a
// record again is harmless as long as the records after it are applied again too. The tree keeps nothing of ops.
//
// Setting a directory makes its DirID a child of that edge, wherever it was before. Deleting or replacing a directory's
// edge leaves its entries in memory, without a path, until DropDir or until another edge is set to its DirID; a directory
// that has no edge after the last record of a journal is forgotten when the journal is loaded, so a record that moves a
// directory has both edges. DropDir takes the directory's own edge away too, if it still leads there.
func (t *Tree) Apply(seq uint64, ops []Op) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := ops; len(rest) > 0; {
		n := plain(rest)
		if n >= manyMin {
			t.many(rest[:n])
		} else {
			n = 1
			t.one(&rest[0])
		}
		rest = rest[n:]
	}
	t.seq = max(t.seq, seq)
	t.free(dropStep + 2*len(ops))
}

// one does one operation.
func (t *Tree) one(op *Op) {
	switch op.Kind {
	case Set:
		t.set(t.directory(op.Dir), op.Edge, &op.Entry)
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

// become makes t hold what other holds, which must not be used any more. Checks of entries are lost.
func (t *Tree) become(other *Tree) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range t.dirs { // there may be doors to it
		d.gone, d.groups, d.only = true, nil, [1]slabGroup{}
	}
	t.born, t.dirs, t.order, t.counters, t.seq, t.rows = other.born, other.dirs, other.order, other.counters, other.seq, other.rows
	t.dropped, t.shapes, t.layout = other.dropped, other.shapes, other.layout
	t.ways++
	t.bytes.Store(other.bytes.Load())
}

// sweep forgets the directories that no edge leads to. A checkpoint may hold what is below a directory whose removal it
// holds too, because pages are stored one after the other.
func (t *Tree) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ways++
	for id, d := range t.dirs {
		if d.parent == nil && id >= FirstDir {
			t.forget(d)
		}
	}
}

// directory returns the directory id, made if a record names it before its edge is set.
func (t *Tree) directory(id DirID) *directory {
	d := t.dirs[id]
	if d == nil {
		d = &directory{id: id}
		t.dirs[id] = d
		t.order.Insert(id)
		t.bytes.Add(dirBytes)
	}
	return d
}

func (t *Tree) set(d *directory, edge string, e *Entry) {
	t.turn(edge)
	at, replaced := d.find(edge)
	if replaced {
		t.unlink(d, edge, d.slabAt(at).data, at.i)
	} else {
		t.rows++
	}
	t.packed = t.shapes.pack(t.packed[:0], &t.vals, e)
	t.bytes.Add(t.edit.set(d, at, replaced, edge, t.packed))
	t.layout.touch(d.id, edge)
	if e.Class == Directory {
		t.link(e.Dir, d, edge)
	}
}

// turn notes that what is at the edge changes.
func (t *Tree) turn(edge string) {
	if isDir(edge) {
		t.ways++
	}
}

// link makes the directory id a child of parent at edge.
func (t *Tree) link(id DirID, parent *directory, edge string) {
	c := t.directory(id)
	if c.parent != parent || c.edge != edge {
		c.parent, c.edge = parent, strings.Clone(edge) // not a piece of the whole record
	}
}

func (t *Tree) del(d *directory, edge string) {
	at, ok := d.find(edge)
	if !ok {
		return
	}
	t.turn(edge)
	t.unlink(d, edge, d.slabAt(at).data, at.i)
	t.bytes.Add(-t.edit.remove(d, at))
	t.rows--
	t.layout.touch(d.id, edge)
}

// unlink takes the path away from the directory that entry i of the slab b was the edge of, unless it has another edge
// already.
func (t *Tree) unlink(d *directory, edge string, b []byte, i int) {
	_, body := slabBody(b)
	_, packed := slabEntry(b, body, i)
	t.unpath(d, edge, packed)
}

// unpath is unlink for a packed entry.
func (t *Tree) unpath(d *directory, edge string, packed []byte) {
	if class, id := t.shapes.peek(packed); class == Directory {
		if c := t.dirs[id]; c != nil && c.parent == d && c.edge == edge {
			c.parent, c.edge = nil, ""
		}
	}
}

func (t *Tree) drop(id DirID) {
	d := t.dirs[id]
	if d == nil || id < FirstDir {
		return
	}
	t.ways++
	if p := d.parent; p != nil {
		if at, ok := p.find(d.edge); ok {
			b := p.slabAt(at).data
			_, body := slabBody(b)
			_, packed := slabEntry(b, body, at.i)
			if class, dir := t.shapes.peek(packed); class == Directory && dir == id {
				t.del(p, d.edge)
			}
		}
	}
	t.forget(d)
}

// forget takes d out of the tree; free does the rest.
func (t *Tree) forget(d *directory) {
	d.gone = true
	delete(t.dirs, d.id)
	t.order.Delete(d.id)
	t.dropped = append(t.dropped, d)
}

// free forgets some n entries of dropped directories, and drops the directories below them that were not moved elsewhere.
func (t *Tree) free(n int) {
	for n > 0 && len(t.dropped) > 0 {
		last := len(t.dropped) - 1
		d := t.dropped[last]
		s := d.last()
		if s == nil {
			t.dropped[last] = nil
			t.dropped = t.dropped[:last]
			t.bytes.Add(-dirBytes)
			n--
			continue
		}
		g := len(d.groups) - 1
		d.cut(spot{g, len(d.groups[g].slabs) - 1, 0})
		t.bytes.Add(-s.bytes())
		t.rows -= int64(s.len())
		n -= s.len()
		_, body := slabBody(s.data)
		for i := range s.len() {
			_, packed := slabEntry(s.data, body, i)
			if class, id := t.shapes.peek(packed); class == Directory {
				if c := t.dirs[id]; c != nil && c.parent == d {
					t.forget(c)
				}
			}
		}
		t.layout.touchRange(d.id, slabEdge(s.data, 0), slabEdge(s.data, s.len()-1))
	}
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
	return t.bytes.Load() + t.shapes.bytes()
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
	packed, s, i := d.look(edge)
	if packed == nil || !t.shapes.hasVersion(packed, version) {
		return
	}
	if s.mark(i, max(int64(at.Sub(t.born)), 1)) {
		t.bytes.Add(8 * slabMax)
	}
}

// View calls fn with a view of the tree that does not change until fn returns. fn must not wait for anything, and must
// not call the Tree's own methods.
func (t *Tree) View(fn func(v View)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	fn(View{t})
}

// View reads a Tree. It is valid only inside Tree.View. The entries it returns are the caller's.
type View struct{ t *Tree }

// Get returns the entry at (dir, edge).
func (v View) Get(dir DirID, edge string) (*Entry, bool) {
	if packed, _, _ := v.t.dirs[dir].look(edge); packed != nil {
		return v.t.shapes.entry(packed), true
	}
	return nil, false
}

// Lookup returns the class of the entry at (dir, edge), and the directory it leads to if it is one. It costs less than Get.
func (v View) Lookup(dir DirID, edge string) (class Class, id DirID, ok bool) {
	if packed, _, _ := v.t.dirs[dir].look(edge); packed != nil {
		class, id = v.t.shapes.peek(packed)
		return class, id, true
	}
	return 0, 0, false
}

// Hop is what matters of a directory, or of what is in its place, to who only passes it.
type Hop struct {
	Class        Class
	Dir          DirID
	Base         Base
	Mount        bool
	Owner, Group string
	Mode         uint32
}

// Hop returns what Get does, as far as it is of use on a path. It costs less.
func (v View) Hop(dir DirID, edge string) (h Hop, ok bool) {
	packed, _, _ := v.t.dirs[dir].look(edge)
	if packed == nil {
		return h, false
	}
	return v.t.shapes.hop(packed), true
}

// Find returns the entry at (dir, edge) and, of a file, when its bytes were last compared with the store, as CheckedAt does.
func (v View) Find(dir DirID, edge string) (e *Entry, checked time.Time, ok bool) {
	packed, s, i := v.t.dirs[dir].look(edge)
	if packed == nil {
		return nil, time.Time{}, false
	}
	return v.t.shapes.entry(packed), v.checked(s, i), true
}

// A Door leads straight into a directory. It may be kept, and used in any View of the same Tree.
type Door struct {
	id DirID
	d  *directory // nil if there was none
}

// Door returns the door of the directory dir, which need not be there.
func (v View) Door(dir DirID) Door { return Door{dir, v.t.dirs[dir]} }

// Glance is Find for who asks for a file that is Persisted; with anything else at the edge, Class says what, and f nothing. It
// costs less.
func (v View) Glance(at Door, edge string, f *File) (checked time.Time, class Class) {
	d := at.d
	if d == nil || d.gone {
		d = v.t.dirs[at.id]
	} else {
		touch(byte(len(d.only[0].hints.keys))) // it is further off in d than what is asked next
	}
	if d == nil || len(d.groups) == 0 {
		return time.Time{}, 0
	}
	s := d.slabAt(d.slabOf(edge))
	marks := s.checked.Load() // before the search, so that the processor waits for both at once
	packed, i := s.look(edge)
	if packed == nil {
		return time.Time{}, 0
	}
	if marks != nil {
		checked = v.t.when(marks[i].Load())
	}
	return checked, v.t.shapes.file(packed, f)
}

// Children yields the entries of dir with edges not less than from, in byte order.
func (v View) Children(dir DirID, from string) iter.Seq2[string, *Entry] {
	return func(yield func(string, *Entry) bool) {
		for c := v.t.dirs[dir].seek(from); c.ok; c.next() {
			if !yield(c.edge(), v.t.shapes.entry(c.packed())) {
				return
			}
		}
	}
}

// Locals yields the Local entries of dir, in byte order. It costs less than Children.
func (v View) Locals(dir DirID) iter.Seq2[string, *Entry] {
	return func(yield func(string, *Entry) bool) {
		for c := v.t.dirs[dir].seek(""); c.ok; c.next() {
			if class, _ := v.t.shapes.peek(c.packed()); class == Local && !yield(c.edge(), v.t.shapes.entry(c.packed())) {
				return
			}
		}
	}
}

// Stored yields the entries of dir with edges not less than from but for the Local ones, in byte order: those that a store may have something to
// say about. A Local one costs it less than it costs Children.
func (v View) Stored(dir DirID, from string) iter.Seq2[string, *Entry] {
	return func(yield func(string, *Entry) bool) {
		for c := v.t.dirs[dir].seek(from); c.ok; c.next() {
			if class, _ := v.t.shapes.peek(c.packed()); class != Local && !yield(c.edge(), v.t.shapes.entry(c.packed())) {
				return
			}
		}
	}
}

// Subdirs yields the directories in dir with their edges, in byte order. It costs less than Children.
func (v View) Subdirs(dir DirID) iter.Seq2[string, DirID] {
	return func(yield func(string, DirID) bool) {
		for c := v.t.dirs[dir].seek(""); c.ok; c.next() {
			if class, id := v.t.shapes.peek(c.packed()); class == Directory && !yield(c.edge(), id) {
				return
			}
		}
	}
}

// HasLocal reports whether a Local file is below the directory dir, at any depth.
func (v View) HasLocal(dir DirID) bool {
	for c := v.t.dirs[dir].seek(""); c.ok; c.next() {
		class, below := v.t.shapes.peek(c.packed())
		if class == Local || class == Directory && v.HasLocal(below) {
			return true
		}
	}
	return false
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
	packed, _, _ := d.parent.look(d.edge)
	if packed == nil {
		return 0, "", nil, false
	}
	return d.parent.id, d.edge, v.t.shapes.entry(packed), true
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
	if packed, s, i := v.t.dirs[dir].look(edge); packed != nil {
		return v.checked(s, i)
	}
	return time.Time{}
}

// checked returns when the entry i of a slab was last compared with its store, the zero time if it was not.
func (v View) checked(s *slab, i int) time.Time {
	return v.t.when(s.checkedAt(i))
}

// when returns the time of a check.
func (t *Tree) when(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return t.born.Add(time.Duration(ns))
}

// Counter returns the value of a journaled counter, 0 if it was never set.
func (v View) Counter(name string) uint64 { return v.t.counters[name] }

// Ways counts the changes of directories' edges: as long as it is the same, a path leads through the same entries of
// directories, or whiteouts in their places, as before. Edges of directories end in "/".
func (v View) Ways() uint64 { return v.t.ways }

// Seq returns the sequence of the last record applied.
func (v View) Seq() uint64 { return v.t.seq }
