package meta

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Union is the cursor over both layers as one ordered namespace: the overlay, and where it lets them through the facts of
// the stores. It holds no state between pages.
type Union struct {
	Tree  *Tree
	Store func(id string) *Derived // nil for a store that is not mounted: nothing is there
}

// Start is the directory listed, in both layers.
type Start struct {
	Dir    DirID // if InTree
	InTree bool

	Store, Key string // if HasStore: the store's id and the directory's name in it, "" or ending in "/"
	HasStore   bool
}

// Query says what Page lists. All names are relative to the directory listed.
type Query struct {
	Start Start
	// Find, if not nil, sets Start in the state of the overlay that the page is made of, so that a directory that is renamed
	// between two pages is not shown by the one layer at its new name and by the other at its old one.
	Find func(View) Start

	// Children lists the directory's own entries, files and directories; an implied directory is left out if nothing is
	// visible below it, and a file, with HideShadowed, if a directory of its name is visible. Otherwise S3 keys are listed:
	// files at any depth, and directories that have a marker, or that exist of themselves and are empty.
	Children     bool
	HideShadowed bool

	// Path is put before each name to make Item.Path.
	Path string
	// Room, if not nil, is where the items are put, if it is enough.
	Room []Item

	Prefix    string // only names that start with it
	Delimiter string // names are rolled up to the first delimiter after Prefix; not with Children
	After     string // only names greater than it and, if it was a common prefix, than everything it stands for
	Limit     int    // at most so many items; 0: 1,000

	NotBefore func(store, dirKey string) time.Time // facts learnt before do not count as known; nil: any age will do
	// Covered reports whether what is known of the directory is taken for all there is. It does not count where
	// something was forgotten, or a change is under way: names that are there may be unknown then. nil: never.
	Covered func(store, dirKey string) bool
}

// Item is one name of a page.
type Item struct {
	Name         string // relative to the directory listed; a directory's ends in "/", unless it is a common prefix
	CommonPrefix bool   // Name stands for all keys that start with it; nothing else is set

	Path string // Query.Path and Name
	Edge int    // where its last edge starts in Name

	Class Class // of what the overlay has, 0 if it has nothing; Entries reads it
	Row   *Row  // what the store has at the same name and the overlay does not hide, nil if nothing. Must not be changed
	Dir   DirID // the overlay's directory that holds the name, 0 if it is not in the overlay

	Store, Key string    // the name's place in its store, as its path gives it; Store is "" if no store is below
	At         time.Time // when Row was learnt or, of a Persisted entry, when it was last compared with the store

	packed []byte
	known  *shapes
}

// Entries reads the overlay's entries of items, which stay what they were when the page was made. It is for one goroutine.
type Entries struct {
	v    values
	e    Entry
	text Text
}

// Of returns the entry of it, nil if the overlay has none; Version and Extents may be missing. The entry is good until the next
// call; what it refers to is the caller's. It must not be changed.
func (x *Entries) Of(it *Item) *Entry {
	if it.Class == 0 {
		return nil
	}
	it.known.brief(it.packed, &x.v, &x.e, &x.text)
	return &x.e
}

// File puts the overlay's entry of it into f and returns true if that is a plain file, which costs less than Entries.
func (it *Item) File(f *File) bool {
	if it.Class != Persisted {
		return false
	}
	it.known.file(it.packed, f)
	return f.Plain()
}

// Need is a listing that must be asked of a store before a walk can go on: from After (a full name of the store, or "")
// on, of the directory Dir or, if Flat, of all keys that start with Dir. Some of what it answers may be known already.
type Need struct {
	Store, Dir, After string
	Flat              bool
	// Pending, if not "", is a name in the store that has a change pending and of which nothing else is known. No listing
	// will tell: Derived.Settled says when to go on.
	Pending string
}

const defaultPage = 1000

// Page returns up to q.Limit items after q.After in the order of their names' bytes. done says that there are no more.
// If need is not nil the walk has come to names that are not known: the caller asks the store, tells the answer to its
// Derived, and calls Page again with After set to the last item's name. What it costs grows with the items returned and
// with their depth, not with the names rolled up, hidden or skipped below a directory.
func (u *Union) Page(q Query) (items []Item, need *Need, done bool) {
	if q.Limit <= 0 {
		q.Limit = defaultPage
	}
	u.Tree.View(func(v View) {
		if q.Find != nil {
			q.Start = q.Find(v)
		}
		w := &walk{u: u, v: v, q: q, items: q.Room[:0], flat: !q.Children && q.Delimiter != "/", known: &shapes{list: v.t.shapes.list}}
		p := w.start()
		if from, ok := q.from(); !ok || q.beyond(from) {
			w.end = exhausted
		} else if q.Children {
			w.children(p, from)
		} else {
			w.keys(p, from)
		}
		items, need, done = w.items, w.need, w.end == exhausted || w.end == running
	})
	return items, need, done
}

// from returns the least name that may be listed.
func (q *Query) from() (from string, ok bool) {
	if q.After == "" || q.After < q.Prefix {
		return q.Prefix, true
	}
	if cp, rolled := q.commonPrefix(q.After); rolled && !q.Children {
		return successor(cp)
	}
	return q.After + "\x00", true
}

// commonPrefix returns what name is rolled up to. Everything that starts with a name that is rolled up is rolled up with it.
func (q *Query) commonPrefix(name string) (cp string, rolled bool) {
	if q.Delimiter == "" || !strings.HasPrefix(name, q.Prefix) {
		return "", false
	}
	i := strings.Index(name[len(q.Prefix):], q.Delimiter)
	if i < 0 {
		return "", false
	}
	return name[:len(q.Prefix)+i+len(q.Delimiter)], true
}

// beyond reports whether name, and so all that follows it, is greater than all names with the prefix.
func (q *Query) beyond(name string) bool {
	return name > q.Prefix && !strings.HasPrefix(name, q.Prefix)
}

// successor returns the least name that is greater than all names that start with p.
func successor(p string) (string, bool) {
	p = strings.TrimRight(p, "\xff")
	if p == "" {
		return "", false
	}
	return p[:len(p)-1] + string([]byte{p[len(p)-1] + 1}), true
}

// predecessor returns a name less than name, with as few names between as text allows: it may be sent to a store, so it
// stays UTF-8 if name is.
func predecessor(name string) string {
	if s, ok := strings.CutSuffix(name, "\x00"); ok || name == "" {
		return s
	}
	r, n := utf8.DecodeLastRuneInString(name)
	head := name[:len(name)-n]
	switch {
	case r == utf8.RuneError && n == 1, r <= ' ': // what a store takes below is uncertain: ask from further up
		return head
	case r == 0xe000: // surrogates lie below
		r = 0xd800
	}
	return head + string(r-1) + string(utf8.MaxRune)
}

// walk is one call of Page.
type walk struct {
	u    *Union
	v    View
	q    Query
	flat bool // gaps of object stores are filled by flat listings

	items []Item
	it    Item    // on its way to them
	known *shapes // of the items
	text  Text    // of the items
	need  *Need
	end   ending
	from  string // names less than it are not wanted any more, because they are rolled up
	free  []*merge
}

// ending says why a walk has ended.
type ending uint8

const (
	running   ending = iota
	exhausted        // no more names
	full             // the page is full
	stuck            // need is set
)

// place is one directory in both layers.
type place struct {
	name   string // relative to the directory listed
	path   string // Query.Path and name
	dir    DirID  // 0: not in the overlay
	self   *Entry // the directory's own entry, nil if it is not in the overlay or where the walk starts
	packed []byte // self

	store string
	d     *Derived // nil: nothing below comes from a store
	key   string
	flat  string // the directory whose flat listing fills a gap here
}

func (w *walk) start() *place {
	s := w.q.Start
	p := &place{path: w.q.Path, key: s.Key, flat: s.Key}
	if s.InTree {
		p.dir = s.Dir
	}
	if s.HasStore {
		p.store, p.d = s.Store, w.u.Store(s.Store)
	}
	return p
}

// child returns the directory at an edge of p; o is what the overlay has there.
func (w *walk) child(p *place, edge string, o over) *place {
	return w.sub(p, p.path+edge, p.key+edge, o)
}

// sub is child for who has its path and its key.
func (w *walk) sub(p *place, path, key string, o over) *place {
	e := o.entry
	c := &place{name: path[len(w.q.Path):], path: path, self: e, packed: o.packed, store: p.store, d: p.d, key: key, flat: p.flat}
	if strings.HasPrefix(w.q.Prefix, c.name) {
		c.flat = c.key // a listing from further up would bring what the prefix leaves out
	}
	if p.d != nil && p.d.o.Apart && p.key == "" {
		c.flat = c.key
	}
	if e == nil {
		return c
	}
	c.dir = e.Dir
	switch e.Base.Kind {
	case Absolute:
		c.store, c.key, c.flat = e.Base.Store, e.Base.Prefix, e.Base.Prefix
		c.d = w.u.Store(c.store)
	case Opaque:
		c.store, c.key, c.d = "", "", nil
	}
	return c
}

// real reports whether the directory p exists even if nothing is in it.
func (p *place) real() bool {
	if p.self != nil && (p.self.Explicit || p.self.Mount) {
		return true
	}
	return p.d != nil && !p.d.o.Flat && p.d.listed(p.key)
}

// keys lists the keys of p that are not less than from, a name relative to p, and reports whether there are any.
func (w *walk) keys(p *place, from string) (found bool) {
	if edge := firstEdge(from); edge != from || isDir(from) && from != "" {
		// The one edge that leads to from is entered without asking what else p holds.
		if o := w.at(p, edge); o.class == 0 || o.class == Directory {
			found = w.keys(w.child(p, edge, o), from[len(edge):])
		}
		if w.end == running && strings.HasPrefix(w.q.Prefix, p.name+edge) {
			w.end = exhausted
		}
		if w.end != running {
			return found
		}
		from = edge + "\x00"
	}
	own := from == "" && p.name != ""
	if own && w.markerAbove(p) {
		own, found = false, true
		w.emit(p.name, w.self(p, nil))
	}
	m := w.open(p, from)
	defer w.close(m)
	var c child
	for sought := ""; w.end == running; {
		if w.from != sought {
			sought = w.from
			if rest, inside := strings.CutPrefix(w.from, p.name); inside {
				m.seek(firstEdge(rest))
			} else if w.from > p.name {
				return true
			}
		}
		switch ok := m.next(&c); {
		case !ok:
			if w.end == running && own && !found && p.real() {
				found = true
				w.emit(p.name, w.self(p, nil))
			}
			return found
		case c.edge == "":
			if own {
				own, found = false, true
				w.emit(p.name, w.self(p, &c))
			}
		case isDir(c.edge):
			found = w.subtree(p, &c) || found
		default:
			found = true
			w.emit(c.name, w.item(p, &c))
		}
	}
	return found
}

// at returns what the overlay has at an edge of p.
func (w *walk) at(p *place, edge string) over {
	packed, _, _ := w.v.t.dirs[p.dir].look(edge)
	if packed == nil {
		return over{}
	}
	return w.over(packed)
}

// firstEdge returns the first segment of name, with its slash if it has one.
func firstEdge(name string) string {
	if i := strings.IndexByte(name, '/'); i >= 0 {
		return name[:i+1]
	}
	return name
}

// subtree lists what is at and below one directory of p.
func (w *walk) subtree(p *place, c *child) (found bool) {
	name := c.name
	if w.q.beyond(name) {
		w.end = exhausted
		return false
	}
	sub := w.sub(p, c.path, c.key, c.over)
	if _, rolled := w.q.commonPrefix(name); rolled {
		if !w.visible(sub, c.row) {
			return false
		}
		w.emit(name, &Item{})
		return true
	}
	rest := ""
	if strings.HasPrefix(w.from, name) {
		rest = w.from[len(name):]
	}
	return w.keys(sub, rest)
}

// visible reports whether anything is at or below the directory p; row is what its parent's listing has of it.
func (w *walk) visible(p *place, row *Row) bool {
	if p.self == nil && row != nil || p.self != nil && p.self.Marker || p.real() {
		return true
	}
	probe := &walk{u: w.u, v: w.v, flat: w.flat, known: w.known, q: Query{Path: w.q.Path, Limit: 1, NotBefore: w.q.NotBefore, Covered: w.q.Covered}}
	found := probe.keys(p, "")
	if probe.end == stuck {
		w.end, w.need = stuck, probe.need
		return false
	}
	return found
}

// markerAbove reports whether p is a key by what is known of it above: in the overlay, or as a real directory.
func (w *walk) markerAbove(p *place) bool {
	if p.self != nil && p.self.Marker {
		return true
	}
	if p.d == nil || p.d.o.Flat {
		return false
	}
	f := p.d.Lookup(p.key)
	return f.State == Present && f.Row.Marker
}

// children lists the entries of p with edges not less than from.
func (w *walk) children(p *place, from string) {
	m := w.open(p, from)
	var c child
	for w.end == running && m.next(&c) {
		switch {
		case c.edge == "":
			continue
		case isDir(c.edge) && !w.visible(w.sub(p, c.path, c.key, c.over), c.row):
			continue
		case !isDir(c.edge) && w.q.HideShadowed && w.shadowed(p, m, c.edge):
			continue
		}
		if w.end == running {
			w.emit(c.edge, w.item(p, &c))
		}
	}
}

// shadowed reports whether the directory of p that has a file's edge and a slash is visible. m has just yielded the file.
func (w *walk) shadowed(p *place, m *merge, file string) bool {
	if m.passes(file) {
		return false
	}
	name := file + "/"
	o := w.at(p, name)
	if o.class != 0 && o.class != Directory {
		return false
	}
	var row *Row
	if p.d != nil && !o.hides() {
		rows, next, gap := p.d.read(p.key, name, w.limits(p), 1, nil, &w.text)
		if gap && next == name {
			w.stop(p, name)
			return false
		}
		if len(rows) > 0 && rows[0].name == name {
			row = rows[0].row
		}
	}
	return (o.class != 0 || row != nil) && w.visible(w.child(p, name, o), row)
}

// item describes what the merge found at an edge of p. It is good until the next call.
func (w *walk) item(p *place, c *child) *Item {
	it := &w.it
	*it = Item{Path: c.path, Edge: len(p.name), Class: c.class, packed: c.packed, known: w.known, Dir: p.dir, Store: p.store, Key: c.key, Row: c.row, At: c.at}
	if c.entry != nil && c.entry.Base.Kind != Inherit {
		sub := w.sub(p, c.path, c.key, c.over)
		it.Store, it.Key = sub.store, sub.key
	}
	return it
}

// self is item for the directory p itself; c is what the merge found at its empty edge, nil if nothing.
func (w *walk) self(p *place, c *child) *Item {
	it := &w.it
	*it = Item{Path: p.path, Edge: strings.LastIndexByte(p.name[:len(p.name)-1], '/') + 1, packed: p.packed, known: w.known, Store: p.store, Key: p.key}
	if p.self != nil {
		it.Class = p.self.Class
		it.Dir, _, _, _ = w.v.Dir(p.self.Dir)
	}
	if c != nil {
		it.Row, it.At = c.row, c.at
	} else if p.d != nil {
		if f := p.d.Lookup(p.key); f.State == Present {
			it.Row, it.At = &f.Row, f.At
		}
	}
	return it
}

// emit adds a name to the page, or its common prefix if it is rolled up.
func (w *walk) emit(name string, it *Item) {
	if !strings.HasPrefix(name, w.q.Prefix) {
		if name > w.q.Prefix {
			w.end = exhausted
		}
		return
	}
	if len(w.items) == cap(w.items) {
		w.items = slices.Grow(w.items, min(max(firstItems, 15*len(w.items)), w.q.Limit-len(w.items)))
	}
	if cp, rolled := w.q.commonPrefix(name); rolled {
		w.items = append(w.items, Item{Name: cp, CommonPrefix: true})
		next, more := successor(cp)
		if w.from = next; !more {
			w.end = exhausted
		}
	} else {
		w.items = append(w.items, *it)
		w.items[len(w.items)-1].Name = name
	}
	if w.end == running && len(w.items) >= w.q.Limit {
		w.end = full
	}
}

func (w *walk) limits(p *place) (l limits) {
	if w.q.NotBefore != nil {
		l.notBefore = w.q.NotBefore(p.store, p.key)
	}
	l.all = w.q.Covered != nil && w.q.Covered(p.store, p.key)
	return l
}

// stop ends the walk because what p's store has from the edge at on is not known.
func (w *walk) stop(p *place, at string) {
	if w.q.beyond(p.name + at) {
		w.end = exhausted
		return
	}
	n := &Need{Store: p.store, Dir: p.key, Pending: p.d.pending(p.key, at)}
	if w.flat && p.d.o.Flat && !(p.d.o.Apart && p.key == "") {
		n.Dir, n.Flat = p.flat, true
	}
	if after := n.before(p.key, at); p.key+at != n.Dir && strings.HasPrefix(after, n.Dir) {
		n.After = after
	}
	// That may be further up than need be; what is known from there on is not asked again, so that asking page by page
	// arrives.
	from, ok := "", n.After == "" && n.Dir == p.key
	if !ok {
		from, ok = strings.CutPrefix(n.After+"\x00", p.key)
	}
	if ok && from < at {
		if to := p.d.reach(p.key, from, w.limits(p)); to != "" {
			n.After = n.before(p.key, to)
		}
	}
	w.end, w.need = stuck, n
}

// before returns the name to list after so as to come to an edge of dir. In a flat listing everything below a directory
// follows its name, and only then the next edge.
func (n *Need) before(dir, edge string) string {
	if sub, ok := strings.CutSuffix(edge, "/\x00"); ok && n.Flat {
		edge = sub + "0" // "0" follows "/"
	}
	return predecessor(dir + edge)
}

// firstItems is how many items a page has room for before it is known to be a long one.
const firstItems = 64

// over is what the overlay has at an edge.
type over struct {
	class  Class // 0: nothing
	packed []byte
	entry  *Entry // of a directory
}

func (w *walk) over(packed []byte) over {
	o := over{packed: packed}
	if o.class, _ = w.known.peek(packed); o.class == Directory {
		o.entry = w.known.entry(packed)
	}
	return o
}

// hides reports whether it leaves nothing to be seen of what its parent's store has at its edge.
func (o *over) hides() bool {
	return o.class != 0 && (o.class != Directory || o.entry.Base.Kind != Inherit)
}

// merge yields the visible edges of one directory, from both layers, in order.
type merge struct {
	w *walk
	p *place
	// tail says that the place's key is the end of its path, so that paths and keys share their memory.
	tail bool

	tree scan

	lim  limits
	rows []edge // read ahead from the store's facts
	upTo string // where rows end; "": at the end of the directory, unless gap
	gap  bool   // nothing is known at upTo
	buf  [readAhead]edge
}

// readAhead is how many edges are taken from a store's facts at a time.
const readAhead = 64

// child is one visible edge: a directory may have both an entry and a row, a file's entry replaces the row.
type child struct {
	edge, name, path, key string // but for edge, they are the place's, and the edge
	over
	row *Row
	at  time.Time
}

func (w *walk) open(p *place, from string) *merge {
	var m *merge
	if n := len(w.free); n > 0 {
		m, w.free = w.free[n-1], w.free[:n-1]
	} else {
		m = &merge{w: w}
	}
	m.p, m.tail = p, strings.HasSuffix(p.path, p.key)
	m.rows, m.upTo, m.gap = nil, "", false
	m.tree.start(w.v.t.dirs[p.dir].seek(from))
	if p.d != nil {
		m.lim = w.limits(p)
		m.read(from)
	}
	return m
}

func (w *walk) close(m *merge) { w.free = append(w.free, m) }

// seek goes on to the first edge that is not less than from, if it is not there or further.
func (m *merge) seek(from string) {
	if m.tree.ok && m.tree.compare(from) < 0 {
		m.tree.start(m.tree.d.seek(from))
	}
	for len(m.rows) > 0 && m.rows[0].name < from {
		m.rows = m.rows[1:]
	}
	if len(m.rows) == 0 && m.upTo != "" && m.upTo < from || m.gap && m.upTo < from {
		m.read(from)
	}
}

func (m *merge) read(from string) {
	n := min(readAhead, m.w.q.Limit-len(m.w.items)+1)
	m.rows, m.upTo, m.gap = m.p.d.read(m.p.key, from, m.lim, n, m.buf[:0], &m.w.text)
}

// again reports whether something has become known at the gap at since it was read: a listing that was under way may have told it.
func (m *merge) again(at string) bool {
	m.read(at)
	return !m.gap || m.upTo != at || len(m.rows) > 0
}

// passes reports whether what follows a file in both layers shows that the directory of its name is in neither.
func (m *merge) passes(file string) bool {
	if m.tree.ok && m.tree.startsWith(file) && m.tree.byte(len(file)) <= '/' {
		return false
	}
	switch {
	case m.p.d == nil:
		return true
	case len(m.rows) == 0:
		return m.upTo == "" && !m.gap
	}
	next, starts := strings.CutPrefix(m.rows[0].name, file)
	return !starts || next[0] > '/'
}

// next finds the next visible edge. It returns false at the end, and where the walk has to stop.
func (m *merge) next(c *child) bool {
	for {
		if len(m.rows) == 0 && m.upTo != "" && !m.gap {
			m.read(m.upTo)
		}
		order := -1 // of the tree's edge and the next row
		switch {
		case !m.tree.ok:
			order = 1
		case len(m.rows) > 0:
			order = m.tree.compare(m.rows[0].name)
		}
		c.over, c.row, c.at = over{}, nil, time.Time{}
		switch {
		case len(m.rows) > 0 && order >= 0:
			r := &m.rows[0]
			m.rows = m.rows[1:]
			m.write(c, nil, nil, r.name)
			c.row, c.at = r.row, m.p.d.time(r.at)
			if order == 0 {
				m.overlay(c)
			}
		case m.tree.ok && (len(m.rows) > 0 || !m.gap || m.tree.compare(m.upTo) < 0):
			m.write(c, m.tree.prefix, m.tree.rest, "")
			m.overlay(c)
		case m.tree.ok && m.tree.compare(m.upTo) == 0 && m.hides():
			m.write(c, nil, nil, m.upTo)
			m.overlay(c)
			m.read(c.edge + "\x00")
		case m.gap:
			if at := m.upTo; !m.again(at) {
				m.w.stop(m.p, at)
				return false
			}
			continue
		default:
			return false
		}
		if c.class == 0 || c.class == Directory || c.class == Persisted || c.class == Local {
			return true
		}
	}
}

// hides reports whether the overlay's next entry hides what the store has.
func (m *merge) hides() bool {
	o := m.w.over(m.tree.packed)
	return o.hides()
}

// write writes the names of c, whose edge is the three pieces.
func (m *merge) write(c *child, prefix, rest []byte, text string) {
	p, t := m.p, &m.w.text
	n := len(prefix) + len(rest) + len(text)
	if m.tail {
		t.room(len(p.path) + n)
	} else {
		t.room(len(p.path) + len(p.key) + 2*n)
	}
	write := func(before string) string {
		from := t.b.Len()
		t.b.WriteString(before)
		t.b.Write(prefix)
		t.b.Write(rest)
		t.b.WriteString(text)
		return t.b.String()[from:]
	}
	c.path = write(p.path)
	c.name, c.edge = c.path[len(m.w.q.Path):], c.path[len(p.path):]
	if m.tail {
		c.key = c.path[len(p.path)-len(p.key):]
	} else {
		c.key = write(p.key)
	}
}

// overlay adds the overlay's entry to c and moves on.
func (m *merge) overlay(c *child) {
	c.over = m.w.over(m.tree.packed)
	if c.hides() {
		c.row, c.at = nil, time.Time{}
	}
	if c.class == Persisted {
		c.at = m.w.v.checked(m.tree.slab(), m.tree.at.i)
	}
	m.tree.next()
}
