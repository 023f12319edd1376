package meta

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var trees = flag.Int("trees", 700, "random trees that TestUnionModel lists")

// simNode is a directory as a client sees it, built without a cursor.
type simNode struct {
	files  []string            // edges
	dirs   map[string]*simNode // visible ones, by edge
	marker bool
	real   bool
}

func (n *simNode) visible() bool { return n.marker || n.real || len(n.files)+len(n.dirs) > 0 }

// keys appends the S3 keys at and below n.
func (n *simNode) keys(name string, to []string) []string {
	if name != "" && (n.marker || n.real && len(n.files)+len(n.dirs) == 0) {
		to = append(to, name)
	}
	for _, f := range n.files {
		to = append(to, name+f)
	}
	for e, d := range n.dirs {
		to = d.keys(name+e, to)
	}
	return to
}

var storeIDs = []string{"one", "two"} // in order, so that a seed repeats

// sim is one namespace: an overlay and stores behind it.
type sim struct {
	tree   *Tree
	stores map[string]*simStore
	known  map[string]*Derived
	next   DirID
}

// node builds the model of one directory; self is its entry, below whether its store shows through.
func (s *sim) node(v View, self *Entry, dir DirID, store, key string) *simNode {
	n := &simNode{dirs: map[string]*simNode{}}
	st := s.stores[store]
	if self != nil {
		n.marker, n.real = self.Marker, self.Explicit || self.Mount
	}
	edges := map[string]bool{}
	if st != nil {
		if row := st.stat(key); row != nil && key != "" {
			n.marker = n.marker || row.Marker
		}
		n.real = n.real || !st.flat && st.stat(key) != nil
		for k := range st.keys {
			if rest, ok := strings.CutPrefix(k, key); ok && rest != "" {
				edges[firstEdge(rest)] = true
			}
		}
	}
	overlay := map[string]*Entry{}
	for e, entry := range v.Children(dir, "") {
		overlay[e] = entry
		edges[e] = true
	}
	if e := overlay[""]; e != nil {
		n.marker = self != nil && self.Marker
		delete(edges, "")
	}
	for e := range edges {
		entry := overlay[e]
		switch {
		case entry != nil && entry.Class == Whiteout:
		case !isDir(e):
			n.files = append(n.files, e)
		default:
			var sub *simNode
			switch {
			case entry == nil:
				sub = s.node(v, nil, 0, store, key+e)
			case entry.Base.Kind == Absolute:
				sub = s.node(v, entry, entry.Dir, entry.Base.Store, entry.Base.Prefix)
			case entry.Base.Kind == Opaque:
				sub = s.node(v, entry, entry.Dir, "", "")
			default:
				sub = s.node(v, entry, entry.Dir, store, key+e)
			}
			if sub.visible() {
				n.dirs[e] = sub
			}
		}
	}
	return n
}

// grow fills the overlay's directory dir at random.
func (s *sim) grow(r *rand.Rand, dir DirID, depth int) {
	for n := r.IntN(5); n > 0; n-- {
		isDir := r.IntN(5) < 3
		edge := randomEdge(r, isDir, true)
		if _, taken := s.entry(dir, edge); taken {
			continue
		}
		e := Entry{Class: pick(r, []Class{Persisted, Persisted, Local}), Version: "v"}
		if r.IntN(4) == 0 {
			e = Entry{Class: Whiteout}
			if r.IntN(5) == 0 && dir != RootDir {
				edge = ""
			}
		} else if isDir {
			s.next++
			e = Entry{Class: Directory, Dir: s.next, Explicit: r.IntN(4) == 0, Marker: r.IntN(5) == 0}
			switch r.IntN(6) {
			case 0:
				e.Base = Base{Kind: Absolute, Store: pick(r, []string{"one", "two", "gone"}), Prefix: pick(r, []string{"", "a/", "b/a/", "zz/"})}
				e.Mount = r.IntN(2) == 0
			case 1:
				e.Base = Base{Kind: Opaque}
			}
		}
		s.tree.Apply(1, []Op{{Kind: Set, Dir: dir, Edge: edge, Entry: e}})
		if e.Class == Directory && depth > 0 {
			s.grow(r, e.Dir, depth-1)
		}
	}
}

func (s *sim) entry(dir DirID, edge string) (e *Entry, ok bool) {
	s.tree.View(func(v View) { e, ok = v.Get(dir, edge) })
	return e, ok
}

func randomSim(r *rand.Rand) *sim {
	s := &sim{tree: NewTree(), stores: map[string]*simStore{}, known: map[string]*Derived{}, next: FirstDir}
	for _, id := range storeIDs {
		st := newSimStore(r.IntN(2) == 0)
		s.stores[id] = st
		s.known[id] = NewDerived(DerivedOptions{Flat: st.flat, MaxRows: pick(r, []int{0, 0, 60})})
		s.change(r, st)
	}
	s.grow(r, RootDir, 3)
	return s
}

func (s *sim) change(r *rand.Rand, st *simStore) {
	for n := r.IntN(25); n > 0; n-- {
		name := randomName(r, r.IntN(4) == 0, st.flat)
		if r.IntN(3) == 0 {
			st.remove(name)
		} else {
			st.put(name, Row{Version: fmt.Sprint(n)})
		}
	}
}

// preload tells some of what the stores hold, as of at.
func (s *sim) preload(r *rand.Rand, at time.Time) {
	for _, id := range storeIDs {
		st, f := s.stores[id], s.known[id].Sent(1, at)
		for n := r.IntN(6); n > 0; n-- {
			name := randomName(r, r.IntN(2) == 0, st.flat)
			switch {
			case !isDir(name):
				f.Stat(name, st.stat(name))
			case r.IntN(3) == 0:
				f.Stat(name, st.stat(name))
			default:
				st.answer(f, &Need{Dir: pick(r, []string{"", name}), After: pick(r, []string{"", name}), Flat: st.flat && r.IntN(2) == 0}, 1+r.IntN(6))
			}
		}
		f.Done()
	}
}

// list walks all pages and returns the names, common prefixes marked.
func (s *sim) list(t *testing.T, r *rand.Rand, q Query, at time.Time) (names []string) {
	t.Helper()
	u := &Union{Tree: s.tree, Store: func(id string) *Derived { return s.known[id] }}
	asked := 0
	for range 10_000 {
		items, need, done := u.Page(q)
		if len(items) > q.Limit {
			t.Fatalf("%d items for a limit of %d", len(items), q.Limit)
		}
		for _, it := range items {
			if it.CommonPrefix {
				names = append(names, "CP "+it.Name)
			} else {
				names = append(names, it.Name)
			}
			q.After = it.Name
		}
		if done {
			return names
		}
		if need == nil {
			if len(items) == 0 {
				t.Fatalf("a page of nothing for %+v", q)
			}
			continue
		}
		if asked++; asked > 300 {
			t.Fatalf("the walk does not go on at %+v for %+v", need, q)
		}
		f := s.known[need.Store].Sent(1, at)
		s.stores[need.Store].answer(f, need, 1+r.IntN(8))
		f.Done()
	}
	t.Fatal("the walk does not end")
	return nil
}

// expect lists the model as S3 defines it.
func expect(keys []string, q Query) (names []string) {
	skip, rolled := q.commonPrefix(q.After)
	for _, k := range keys {
		if !strings.HasPrefix(k, q.Prefix) || k <= q.After || rolled && q.After >= q.Prefix && strings.HasPrefix(k, skip) {
			continue
		}
		name := k
		if cp, ok := q.commonPrefix(k); ok {
			name = "CP " + cp
		}
		if n := len(names); n == 0 || names[n-1] != name {
			names = append(names, name)
		}
	}
	return names
}

func expectChildren(n *simNode, q Query) (names []string) {
	for _, f := range n.files {
		if q.HideShadowed && n.dirs[f+"/"] != nil {
			continue
		}
		names = append(names, f)
	}
	for e := range n.dirs {
		names = append(names, e)
	}
	names = slices.DeleteFunc(names, func(e string) bool { return !strings.HasPrefix(e, q.Prefix) || e <= q.After })
	sort.Strings(names)
	return names
}

func randomQuery(r *rand.Rand, keys []string) Query {
	q := Query{Limit: pick(r, []int{1, 2, 3, 7, 1000}), Delimiter: pick(r, []string{"", "/", "/", "-", "a", "/a", "é", "//", "-y/"})}
	some := func() string {
		if len(keys) == 0 || r.IntN(4) == 0 {
			return randomName(r, r.IntN(2) == 0, true)
		}
		k := pick(r, keys)
		return k[:r.IntN(len(k)+1)]
	}
	if r.IntN(2) == 0 {
		q.Prefix = some()
	}
	if r.IntN(3) == 0 {
		q.After = some()
	}
	return q
}

// TestUnionModel lists random namespaces, of which the cursor knows little at first, and compares every listing with a
// sorted list of names.
func TestUnionModel(t *testing.T) {
	r := seed(t)
	listings := 0
	for range *trees {
		s := randomSim(r)
		old := time.Now()
		s.preload(r, old)
		q := Query{Start: Start{Dir: RootDir, InTree: true, Store: "one", HasStore: r.IntN(5) > 0}}
		if r.IntN(6) == 0 {
			q.Start.InTree = false
		}
		at := old
		if r.IntN(2) == 0 { // the stores change behind the cache
			at = old.Add(time.Second)
			for _, id := range storeIDs {
				s.change(r, s.stores[id])
			}
		} else {
			at = old
		}
		q.NotBefore = func(string, string) time.Time { return at }
		var model *simNode
		s.tree.View(func(v View) {
			dir, store := RootDir, ""
			if !q.Start.InTree {
				dir = 0
			}
			if q.Start.HasStore {
				store = "one"
			}
			model = s.node(v, nil, dir, store, q.Start.Key)
		})
		keys := model.keys("", nil)
		sort.Strings(keys)
		for range 90 {
			rq := randomQuery(r, keys)
			rq.Start, rq.NotBefore = q.Start, q.NotBefore
			var want []string
			if rq.Children = r.IntN(4) == 0; rq.Children {
				rq.Delimiter, rq.HideShadowed = "", r.IntN(2) == 0
				want = expectChildren(model, rq)
			} else {
				want = expect(keys, rq)
			}
			listings++
			if got := s.list(t, r, rq, at); !cmp.Equal(got, want) && len(got)+len(want) > 0 {
				t.Fatalf("query %+v\nkeys %q\ngot  %q\nwant %q\nstore one flat=%v %q\nstore two flat=%v %q", rq, keys, got, want,
					s.stores["one"].flat, s.stores["one"].sorted(), s.stores["two"].flat, s.stores["two"].sorted())
			}
			if r.IntN(20) == 0 {
				s.known["one"].Forget(randomName(r, r.IntN(2) == 0, true))
			}
		}
	}
	t.Logf("%d listings", listings)
}

// TestUnionPending lists a directory of which one name has a change pending: the walk says what it waits for.
func TestUnionPending(t *testing.T) {
	for _, flat := range []bool{false, true} {
		st := newSimStore(flat)
		for _, k := range []string{"a", "b", "c/x", "d"} {
			st.put(k, Row{Version: "1"})
		}
		d := NewDerived(DerivedOptions{Flat: flat})
		u := &Union{Tree: NewTree(), Store: func(string) *Derived { return d }}
		d.Begin("b")
		q := Query{Start: Start{Store: "s", HasStore: true}, Children: true}
		var got []string
		for done, step := false, 0; !done; step++ {
			if step > 10 {
				t.Fatal("the walk does not end")
			}
			var items []Item
			var need *Need
			items, need, done = u.Page(q)
			for _, it := range items {
				got, q.After = append(got, it.Name), it.Name
			}
			switch {
			case need != nil && need.Pending != "":
				if need.Pending != "b" || q.After != "a" {
					t.Fatalf("waits for %+v after %q", need, q.After)
				}
				settled := d.Settled(need.Pending)
				d.End("b", 2, st.stat("b"), true)
				<-settled
			case need != nil:
				f := d.Sent(1, time.Now())
				st.answer(f, need, 100)
				f.Done()
			}
		}
		if want := []string{"a", "b", "c/", "d"}; !slices.Equal(got, want) {
			t.Errorf("flat %v: got %q, want %q", flat, got, want)
		}
	}
}

// TestUnionKnownWhilePending: what was known when the change began is listed until it ends.
func TestUnionKnownWhilePending(t *testing.T) {
	d := NewDerived(DerivedOptions{Flat: true})
	f := d.Sent(1, time.Now())
	f.List("", "", "", []NamedRow{{"a", Row{Version: "1"}}}, true)
	d.Begin("a")
	d.Begin("n")
	f.List("", "", "", []NamedRow{{"n", Row{Version: "2"}}}, true)
	f.Done()
	u := &Union{Tree: NewTree(), Store: func(string) *Derived { return d }}
	items, need, done := u.Page(Query{Start: Start{Store: "s", HasStore: true}})
	if len(items) != 1 || items[0].Name != "a" || items[0].Row.Version != "1" || need != nil || !done {
		t.Errorf("%+v, %+v, %v", items, need, done)
	}
}

// TestUnionToldMeanwhile: what a listing tells after a walk has read a directory, and before it comes to the end of what was known of it
// then, is not asked for again.
func TestUnionToldMeanwhile(t *testing.T) {
	for _, c := range []struct {
		name string
		told func(f *Flight)
		want []string
		need *Need
	}{
		{"all", func(f *Flight) { f.ListFlat("", "a/x", "", []NamedRow{{"a/y", Row{}}, {"b", Row{}}}, true) }, []string{"a/x", "a/y", "b"}, nil},
		{"a part", func(f *Flight) { f.ListFlat("", "a/x", "b", []NamedRow{{"a/y", Row{}}, {"b", Row{}}}, false) }, []string{"a/x", "a/y", "b"},
			&Need{Store: "s", After: "b", Flat: true}},
		{"that nothing follows", func(f *Flight) { f.ListFlat("", "a/x", "", nil, true) }, []string{"a/x"}, nil},
		{"nothing", func(*Flight) {}, []string{"a/x"}, &Need{Store: "s", After: "a/x", Flat: true}},
	} {
		d := NewDerived(DerivedOptions{Flat: true})
		f := d.Sent(1, time.Now())
		f.ListFlat("", "", "a/x", []NamedRow{{"a/x", Row{}}}, false)
		below := func(_, dir string) time.Time { // asked when the walk has read the root and goes below it
			if told := c.told; dir == "a/" && told != nil {
				c.told = nil
				told(f)
			}
			return time.Time{}
		}
		u := &Union{Tree: NewTree(), Store: func(string) *Derived { return d }}
		items, need, done := u.Page(Query{Start: Start{Store: "s", HasStore: true}, NotBefore: below})
		f.Done()
		var got []string
		for _, it := range items {
			got = append(got, it.Name)
		}
		if diff := cmp.Diff(c.need, need); c.told != nil || !slices.Equal(got, c.want) || diff != "" || done != (c.need == nil) {
			t.Errorf("%s is told: got %q, done %v, want %q; what it needs (-want +got):\n%s", c.name, got, done, c.want, diff)
		}
	}
}

// TestUnionItems checks what an item says beside its name.
func TestUnionItems(t *testing.T) {
	tree := NewTree()
	tree.Apply(1, []Op{
		{Kind: Set, Dir: RootDir, Edge: "d/", Entry: Entry{Class: Directory, Dir: 20}},
		{Kind: Set, Dir: 20, Edge: "p", Entry: Entry{Class: Persisted, Version: "v"}},
		{Kind: Set, Dir: 20, Edge: "gone", Entry: Entry{Class: Whiteout}},
		{Kind: Set, Dir: 20, Edge: "m/", Entry: Entry{Class: Directory, Dir: 21, Mount: true, Base: Base{Absolute, "two", "in/"}}},
		{Kind: Set, Dir: 20, Edge: "o/", Entry: Entry{Class: Directory, Dir: 22, Marker: true, Base: Base{Kind: Opaque}}},
	})
	now := time.Now()
	tree.MarkChecked(20, "p", "v", now.Add(time.Hour))
	d := NewDerived(DerivedOptions{Flat: true})
	f := d.Sent(1, now)
	f.ListFlat("", "", "", []NamedRow{{"k/d/gone", Row{}}, {"k/d/m/hidden", Row{}}, {"k/d/p", Row{}}, {"k/d/q", Row{Version: "q"}}}, true)
	f.ListFlat("in/", "", "", []NamedRow{{"in/", Row{Marker: true}}, {"in/z", Row{Version: "z"}}}, true)
	f.Done()
	u := &Union{Tree: tree, Store: func(string) *Derived { return d }}
	items, need, done := u.Page(Query{Start: Start{Dir: RootDir, InTree: true, Store: "one", Key: "k/", HasStore: true}})
	if need != nil || !done {
		t.Fatalf("need %+v, done %v", need, done)
	}
	type facts struct {
		Name, Store, Key string
		Dir              DirID
		Entry, Row       bool
		At               time.Time
	}
	var got []facts
	for _, it := range items {
		got = append(got, facts{it.Name, it.Store, it.Key, it.Dir, it.Class != 0, it.Row != nil, it.At})
	}
	want := []facts{
		{"d/m/", "two", "in/", 20, false, true, now},
		{"d/m/z", "two", "in/z", 21, false, true, now},
		{"d/o/", "", "", 20, true, false, time.Time{}},
		{"d/p", "one", "k/d/p", 20, true, false, now.Add(time.Hour)},
		{"d/q", "one", "k/d/q", 20, false, true, now},
	}
	want[0].Entry = true
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestUnionAsksNoMoreThanItNeeds: a deep prefix asks its own directory and none above, and a prefix ends where it ends.
func TestUnionAsksNoMoreThanItNeeds(t *testing.T) {
	for _, c := range []struct {
		q    Query
		want Need
	}{
		{Query{Prefix: "a/b/", Delimiter: "/"}, Need{Dir: "a/b/"}},
		{Query{Prefix: "a/b/"}, Need{Dir: "a/b/", Flat: true}},
		{Query{Prefix: "a/b/c"}, Need{Dir: "a/b/", After: "a/b/b\U0010ffff", Flat: true}},
		{Query{Prefix: "a/b/", Delimiter: "/", After: "a/b/k"}, Need{Dir: "a/b/", After: "a/b/k"}},
		{Query{Delimiter: "/", After: "a/"}, Need{After: "a/\U0010ffff"}},
		{Query{Children: true, Prefix: "é"}, Need{After: "è\U0010ffff"}},
		{Query{After: "k"}, Need{After: "k", Flat: true}},
	} {
		d := NewDerived(DerivedOptions{Flat: true})
		u := &Union{Tree: NewTree(), Store: func(string) *Derived { return d }}
		c.q.Start, c.want.Store = Start{Dir: RootDir, InTree: true, Store: "s", HasStore: true}, "s"
		_, need, _ := u.Page(c.q)
		if need == nil || *need != c.want {
			t.Errorf("%+v: need %+v, want %+v", c.q, need, c.want)
		}
	}
	d := NewDerived(DerivedOptions{Flat: true})
	f := d.Sent(1, time.Now())
	f.List("", "", "b", []NamedRow{{"a", Row{}}, {"b", Row{}}}, false)
	f.Done()
	u := &Union{Tree: NewTree(), Store: func(string) *Derived { return d }}
	if items, need, done := u.Page(Query{Start: Start{Store: "s", HasStore: true}, Prefix: "a"}); len(items) != 1 || need != nil || !done {
		t.Errorf("all with the prefix is known, got %v, %+v, %v", items, need, done)
	}
	covered := func(string, string) bool { return true }
	if items, need, done := u.Page(Query{Start: Start{Store: "s", HasStore: true}, Covered: covered}); len(items) != 2 || need != nil || !done {
		t.Errorf("%v, %+v, %v", items, need, done)
	}
}

func TestPredecessorAndSuccessor(t *testing.T) {
	for name, want := range map[string]string{
		"": "", "a\x00": "a", "b": "a\U0010ffff", "a/": "a.\U0010ffff", "a\x80": "a", "a ": "a", "\ue000": "\ud7ff\U0010ffff", "é": "è\U0010ffff",
	} {
		if got := predecessor(name); got != want || got > name {
			t.Errorf("predecessor(%q) = %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"a": "b", "a/": "a0", "a\xff": "b", "\xff": "", "": ""} {
		if got, ok := successor(name); got != want || ok != (want != "") {
			t.Errorf("successor(%q) = %q, %v", name, got, ok)
		}
	}
}

// TestUnionConcurrent lists while the tree, the facts and the changes move; for the race detector.
func TestUnionConcurrent(t *testing.T) {
	tree, d := NewTree(), NewDerived(DerivedOptions{Flat: true, MaxRows: 500})
	st := newSimStore(true)
	for i := range 300 {
		st.put(fmt.Sprintf("d%d/f%03d", i%7, i), Row{Version: "1"})
	}
	tree.Apply(1, []Op{{Kind: Set, Dir: RootDir, Edge: "d3/", Entry: Entry{Class: Directory, Dir: 20}}})
	u := &Union{Tree: tree, Store: func(string) *Derived { return d }}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 30 {
				q := Query{Start: Start{Dir: RootDir, InTree: true, Store: "s", HasStore: true}, Delimiter: pick(rand.New(rand.NewPCG(uint64(i), 0)), []string{"", "/"}), Limit: 50}
				last := ""
				for done := false; !done; {
					var items []Item
					var need *Need
					items, need, done = u.Page(q)
					for _, it := range items {
						if it.Name <= last {
							t.Errorf("%q after %q", it.Name, last)
						}
						last, q.After = it.Name, it.Name
					}
					if need != nil {
						f := d.Sent(1, time.Now())
						st.answer(f, need, 40)
						f.Done()
					}
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 500 {
			name := fmt.Sprintf("d3/f%03d", i%300)
			d.Begin(name)
			tree.Apply(uint64(i), []Op{{Kind: Set, Dir: 20, Edge: fmt.Sprintf("f%03d", i%300), Entry: Entry{Class: Persisted, Version: "1"}}})
			d.End(name, uint64(i), st.stat(name), i%5 > 0)
			tree.MarkChecked(20, fmt.Sprintf("f%03d", i%300), "1", time.Now())
		}
	})
	wg.Wait()
}
