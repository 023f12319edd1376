package meta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// treeModel is a namespace by path, and the records that made it.
type treeModel struct {
	r       *rand.Rand
	names   map[string]Entry // by absolute path, directories with their slash
	ids     map[string]DirID
	next    DirID
	records [][]Op
}

func (m *treeModel) dirs() []string { return slices.Sorted(maps.Keys(m.ids)) }

func (m *treeModel) step() {
	dir := pick(m.r, m.dirs())
	path := dir + randomEdge(m.r, m.r.IntN(2) == 0, true)
	_, edge := split(path)
	old, exists := m.names[path]
	var ops []Op
	switch n := m.r.IntN(10); {
	case isDir(path) && (!exists || old.Class == Whiteout):
		m.next++
		e := Entry{Class: Directory, Dir: m.next, Explicit: true}
		m.names[path], m.ids[path] = e, e.Dir
		ops = []Op{{Kind: Set, Dir: m.ids[dir], Edge: edge, Entry: e}, {Kind: Counter, Name: "dirs", Value: uint64(m.next)}}
	case !isDir(path) && n < 8:
		e := Entry{Class: Persisted, Size: m.r.Int64N(100), Version: fmt.Sprint(m.r.IntN(3))}
		if n < 3 {
			e.Class, e.Hold = Local, &Hold{Workers: []string{"w"}}
		}
		m.names[path] = e
		ops = []Op{{Kind: Set, Dir: m.ids[dir], Edge: edge, Entry: e}}
	case !exists:
	case !isDir(path):
		delete(m.names, path)
		ops = []Op{{Kind: Del, Dir: m.ids[dir], Edge: edge}}
	case n < 5:
		ops = m.rename(path, old)
	case n < 7:
		ops = m.remove(path, old, n == 5)
	}
	if ops != nil {
		m.records = append(m.records, ops)
	}
}

func (m *treeModel) rename(from string, e Entry) []Op {
	parent := pick(m.r, m.dirs())
	to := parent + pick(m.r, segments) + "/"
	if _, taken := m.names[to]; taken || strings.HasPrefix(to, from) {
		return nil
	}
	for _, p := range slices.Sorted(maps.Keys(m.names)) {
		if rest, ok := strings.CutPrefix(p, from); ok {
			m.names[to+rest] = m.names[p]
			delete(m.names, p)
			if id, ok := m.ids[p]; ok {
				m.ids[to+rest] = id
				delete(m.ids, p)
			}
		}
	}
	fromDir, fromEdge := split(from)
	_, toEdge := split(to)
	ops := []Op{{Kind: Set, Dir: m.ids[parent], Edge: toEdge, Entry: e}, {Kind: Del, Dir: m.ids[fromDir], Edge: fromEdge}}
	if m.r.IntN(2) == 0 {
		slices.Reverse(ops)
	}
	return ops
}

// remove makes one record of a recursive removal, by a whiteout or not.
func (m *treeModel) remove(path string, e Entry, white bool) []Op {
	for p := range m.names {
		if strings.HasPrefix(p, path) {
			delete(m.names, p)
			delete(m.ids, p)
		}
	}
	dir, edge := split(path)
	if white {
		w := Entry{Class: Whiteout}
		m.names[path] = w
		return []Op{{Kind: Set, Dir: m.ids[dir], Edge: edge, Entry: w}, {Kind: DropDir, Dir: e.Dir}}
	}
	return []Op{{Kind: DropDir, Dir: e.Dir}}
}

// paths walks a tree from the root.
func paths(v View, dir DirID, name string, to map[string]Entry) map[string]Entry {
	last := ""
	for edge, e := range v.Children(dir, "") {
		if edge <= last {
			panic("not in order")
		}
		last = edge
		to[name+edge] = *e
		if e.Class == Directory {
			paths(v, e.Dir, name+edge, to)
		}
	}
	return to
}

// TestTreeModel compares the tree with a map after random changes, and after replaying any tail of their records again.
func TestTreeModel(t *testing.T) {
	r := seed(t)
	for range 60 {
		m := &treeModel{r: r, names: map[string]Entry{}, ids: map[string]DirID{"/": RootDir}, next: FirstDir}
		tree := NewTree()
		for range 200 {
			n := len(m.records)
			m.step()
			if len(m.records) > n {
				tree.Apply(uint64(n+1), m.records[n])
			}
		}
		check := func(what string) {
			t.Helper()
			tree.View(func(v View) {
				if diff := cmp.Diff(m.names, paths(v, RootDir, "/", map[string]Entry{})); diff != "" {
					t.Fatalf("%s (-want +got):\n%s", what, diff)
				}
				for path, id := range m.ids {
					local, below := 0, false
					for name, e := range m.names {
						if rest, in := strings.CutPrefix(name, path); in && e.Class == Local {
							below = true
							if !strings.Contains(rest, "/") {
								local++
							}
						}
					}
					for edge, e := range v.Locals(id) {
						if local--; e.Class != Local || m.names[path+edge].Class != Local {
							t.Fatalf("%s: %s%s is no Local file", what, path, edge)
						}
					}
					from := randomEdge(r, false, true)
					stored := maps.Collect(v.Stored(id, from))
					for edge, e := range v.Children(id, from) {
						if got := stored[edge]; (got != nil) != (e.Class != Local) || got != nil && !cmp.Equal(got, e) {
							t.Fatalf("%s: %s%s: Stored has %+v of %+v", what, path, edge, got, e)
						}
						delete(stored, edge)
					}
					if len(stored) != 0 {
						t.Fatalf("%s: %s: entries that are not there: %v", what, path, stored)
					}
					subdirs := map[string]DirID{}
					for edge, sub := range v.Subdirs(id) {
						subdirs[path+edge] = sub
					}
					for name, sub := range m.ids {
						if rest, in := strings.CutPrefix(name, path); in && strings.Count(rest, "/") == 1 {
							if subdirs[name] != sub {
								t.Fatalf("%s: the directory %s is %d, and not %d", what, name, subdirs[name], sub)
							}
							delete(subdirs, name)
						}
					}
					if len(subdirs) != 0 {
						t.Fatalf("%s: %s: directories that are not there: %v", what, path, subdirs)
					}
					if local != 0 || v.HasLocal(id) != below {
						t.Fatalf("%s: %s: %d Local files were not found; HasLocal says %v, want %v", what, path, local, !below, below)
					}
				}
				for path, id := range m.ids {
					if got, ok := v.Path(id); !ok || got != path {
						t.Fatalf("%s: Path(%d) = %q, %v, want %q", what, id, got, ok, path)
					}
					if parent, edge, e, ok := v.Dir(id); id != RootDir && (!ok || e.Dir != id || m.ids[path[:len(path)-len(edge)]] != parent) {
						t.Fatalf("%s: Dir(%d) = %d, %q", what, id, parent, edge)
					}
				}
				if v.Seq() != uint64(len(m.records)) {
					t.Fatalf("Seq = %d", v.Seq())
				}
			})
		}
		check("applied once")
		from := r.IntN(len(m.records))
		for i, ops := range m.records[from:] {
			tree.Apply(uint64(from+i+1), ops)
		}
		check("replayed")
		for range 5 { // frees what was dropped
			tree.Apply(0, nil)
		}
		if tree.Len() < len(m.names) || len(tree.dropped) > 0 {
			t.Fatalf("Len = %d of %d, %d dropped directories left", tree.Len(), len(m.names), len(tree.dropped))
		}
	}
}

// TestDoor requires that a door that is kept leads where the directory of its number is by then.
func TestDoor(t *testing.T) {
	tree := NewTree()
	r := rand.New(rand.NewPCG(2, 2))
	var doors []Door
	for seq := range uint64(3000) {
		id, below := FirstDir+DirID(r.IntN(6)), FirstDir+DirID(r.IntN(6))
		op := Op{Kind: Set, Dir: id, Edge: fmt.Sprint(r.IntN(4)), Entry: Entry{Class: Persisted, ID: seq, Owner: "o"}}
		switch r.IntN(8) {
		case 0:
			op = Op{Kind: DropDir, Dir: id}
		case 1:
			op = Op{Kind: Set, Dir: id, Edge: "d/", Entry: Entry{Class: Directory, Dir: below}}
		case 2:
			op = Op{Kind: Del, Dir: id, Edge: op.Edge}
		}
		tree.Apply(seq+1, []Op{op})
		if seq%1000 == 999 {
			other := NewTree()
			other.Apply(seq+1, []Op{{Kind: Set, Dir: id, Edge: "1", Entry: Entry{Class: Persisted, ID: seq, Owner: "o"}}})
			tree.become(other)
		}
		tree.View(func(v View) {
			doors = append(doors, v.Door(below))
			for _, d := range doors[max(0, len(doors)-200):] {
				edge := fmt.Sprint(r.IntN(4))
				var f File
				_, class := v.Glance(d, edge, &f)
				if e, ok := v.Get(d.id, edge); ok != (class != 0) || ok && (class != e.Class || f.ID != e.ID || !f.Plain()) {
					t.Fatalf("%d: a door to %d shows %c %d, not %+v", seq, d.id, class, f.ID, e)
				}
			}
		})
	}
}

func TestTreeDropIsFreedInSteps(t *testing.T) {
	tree := NewTree()
	set := func(dir DirID, edge string, e Entry) {
		tree.Apply(1, []Op{{Kind: Set, Dir: dir, Edge: edge, Entry: e}})
	}
	set(RootDir, "a/", Entry{Class: Directory, Dir: 20})
	set(20, "b/", Entry{Class: Directory, Dir: 21})
	set(20, "moved/", Entry{Class: Directory, Dir: 22})
	for i := range 3 * dropStep {
		set(21, fmt.Sprint(i), Entry{Class: Persisted, ETag: "e"})
	}
	set(RootDir, "moved/", Entry{Class: Directory, Dir: 22})
	tree.Apply(2, []Op{{Kind: Del, Dir: 20, Edge: "moved/"}, {Kind: DropDir, Dir: 20}})
	tree.View(func(v View) {
		if _, ok := v.Get(RootDir, "a/"); ok {
			t.Error("the dropped directory still has its edge")
		}
		if p, ok := v.Path(22); !ok || p != "/moved/" {
			t.Errorf("Path of the directory moved out = %q, %v", p, ok)
		}
		if _, ok := v.Path(21); ok {
			t.Error("a directory below the dropped one still has a path")
		}
	})
	for steps := 0; tree.Len() > 1; steps++ {
		if steps > 10 {
			t.Fatalf("%d entries are never freed", tree.Len())
		}
		tree.Apply(3, nil)
	}
	alone := NewTree()
	alone.Apply(1, []Op{{Kind: Set, Dir: RootDir, Edge: "moved/", Entry: Entry{Class: Directory, Dir: 22}}})
	if got, want := tree.bytes.Load(), alone.bytes.Load(); got != want {
		t.Errorf("%d bytes after all was freed, want %d", got, want)
	}
}

func TestTreeChecked(t *testing.T) {
	tree := NewTree()
	set := Op{Kind: Set, Dir: RootDir, Edge: "f", Entry: Entry{Class: Persisted, Version: "v1"}}
	tree.Apply(1, []Op{set})
	checked := func() (at time.Time) {
		tree.View(func(v View) { at = v.CheckedAt(RootDir, "f") })
		return at
	}
	if at := checked(); !at.IsZero() {
		t.Errorf("checked at %v before any check", at)
	}
	now := time.Now()
	tree.MarkChecked(RootDir, "f", "v0", now)
	tree.MarkChecked(RootDir, "missing", "v1", now)
	tree.MarkChecked(99, "f", "v1", now)
	if at := checked(); !at.IsZero() {
		t.Errorf("a check of another version counted: %v", at)
	}
	tree.MarkChecked(RootDir, "f", "v1", now)
	tree.MarkChecked(RootDir, "f", "v1", now.Add(-time.Hour))
	if at := checked(); !at.Equal(now) {
		t.Errorf("checked at %v, want %v", at, now)
	}
	tree.Apply(2, []Op{set})
	if at := checked(); !at.IsZero() {
		t.Errorf("the check outlived its entry: %v", at)
	}
}

func TestTreeSeeksAndCounts(t *testing.T) {
	tree := NewTree()
	for _, e := range []string{"a", "a-", "a/", "a0", "b"} {
		entry := Entry{Class: Persisted}
		if isDir(e) {
			entry = Entry{Class: Directory, Dir: 20}
		}
		tree.Apply(7, []Op{{Kind: Set, Dir: RootDir, Edge: e, Entry: entry}, {Kind: Counter, Name: "n", Value: 5}})
	}
	tree.View(func(v View) {
		var got []string
		for e := range v.Children(RootDir, "a.") {
			got = append(got, e)
		}
		if want := []string{"a/", "a0", "b"}; !slices.Equal(got, want) {
			t.Errorf("from a.: %q, want %q", got, want)
		}
		for range v.Children(RootDir, "") {
			break
		}
		for range v.Children(99, "") {
			t.Error("a child of nothing")
		}
		if v.Counter("n") != 5 || v.Counter("m") != 0 || v.Seq() != 7 {
			t.Errorf("counters %d, %d, seq %d", v.Counter("n"), v.Counter("m"), v.Seq())
		}
		if dirs := slices.Sorted(v.Dirs()); !slices.Equal(dirs, []DirID{RootDir, UploadsDir, IntentsDir, AnswersDir, 20}) {
			t.Errorf("Dirs = %v", dirs)
		}
		if _, _, _, ok := v.Dir(RootDir); ok {
			t.Error("the root has an edge")
		}
	})
}
