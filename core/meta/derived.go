package meta

import (
	"strings"
	"sync"
	"time"

	"github.com/tidwall/btree"
)

// Row is what a store says of one name.
type Row struct {
	Dir    bool
	Marker bool // of a directory: it is a key of its own
	Full   bool // the attributes are complete; a listing of an object store cannot say them
	Racy   bool // the file may change again under this version

	Size    int64 // bytes
	MTime   int64 // nanoseconds since 1970
	Version string
	ETag    string
	Owner   string
	Group   string
	Mode    uint32

	Headers   map[string]string
	User      map[string]string
	Checksums string // JSON of []core.Checksum
}

// NamedRow is one row of a listing. Name is relative to the store's root.
type NamedRow struct {
	Name string
	Row
}

// State says whether a name is there.
type State uint8

// The states.
const (
	Unknown State = iota
	Present
	Absent
)

// Fact is what is known of one name of a store.
type Fact struct {
	State State
	Row   Row       // if Present
	At    time.Time // when the question was sent whose answer this is; the zero time if Unknown
}

// DerivedOptions are the options of NewDerived.
type DerivedOptions struct {
	// Flat is set for an object store: directories are implied by the keys below them, may have a marker, vanish with the
	// last key, and a file may have a directory's name. Otherwise directories are real.
	Flat bool
	// Apart is set if flat listings are to be of a directory at the root each, and never of the root.
	Apart   bool
	MaxRows int // rows kept before the directories not used for longest are forgotten; 0: 1 million
}

// Derived holds what one mounted store has said: a cache of facts with no authority, any of which may be forgotten at any
// time. Names are relative to the store's root: "a/b" is a file, "a/b/" a directory, and what is known of the one says
// nothing of the other. It is safe for concurrent use and never asks the store itself: facts come in by Flight and End.
//
// Facts are kept by directory, as rows by edge and as spans of edges that are known completely. A name is
//
//	Present or Absent   if its directory has a row saying so,
//	Absent              if a span of its directory holds its edge, or if one of its directories is Absent,
//	Unknown             otherwise.
//
// Whoever makes a directory Absent forgets everything below it, and whoever makes a name Present makes its directories
// Present, so rows never contradict each other. The marker of an object store's directory "a/" is the edge "" in "a/".
type Derived struct {
	o    DerivedOptions
	born time.Time

	mu      sync.Mutex
	packer  rowPacker
	dirs    btree.Map[string, *listing] // by the directory's name, "" or ending in "/"
	recent  listing                     // sentinel of the ring of listings, least recently used last
	rows    int
	evicted uint64
	changes changes
	lost    lost
}

// listing is what is known of the edges of one directory.
type listing struct {
	dir     string
	known   facts
	spans   spans
	present int // facts with a row
	size    int // as counted in Derived.rows

	prev, next *listing
}

// NewDerived returns a cache that knows nothing but that the store's root is there.
func NewDerived(o DerivedOptions) *Derived {
	if o.MaxRows == 0 {
		o.MaxRows = 1_000_000
	}
	d := &Derived{o: o, born: time.Now(), packer: rowPacker{shapes: newShapes()}}
	d.recent.prev, d.recent.next = &d.recent, &d.recent
	return d
}

// DerivedStats counts what a Derived holds.
type DerivedStats struct {
	Rows    int    // facts and spans
	Dirs    int    // directories they are about
	Flights int    // requests not done
	Changes int    // names with a change pending, or remembered for the flights sent before it ended
	Evicted uint64 // directories forgotten for MaxRows
}

// Stats returns the current counts.
func (d *Derived) Stats() DerivedStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return DerivedStats{d.rows, d.dirs.Len(), d.changes.open.Len(), d.changes.byName.Len(), d.evicted}
}

// Lookup returns what is known of name. Its age is the caller's to judge.
func (d *Derived) Lookup(name string) Fact {
	d.mu.Lock()
	defer d.mu.Unlock()
	state, packed, at := d.lookup(name)
	if state == Unknown {
		return Fact{}
	}
	f := Fact{State: state, At: d.time(at)}
	switch {
	case state == Absent:
	case name == "":
		f.Row = *bareDir
	default:
		d.row(name, packed, &f.Row, nil)
	}
	return f
}

// Forget forgets what is known of name and, if it is a directory or "", of everything below, and ignores what requests
// sent before will say of it.
func (d *Derived) Forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forget(name)
	d.changes.begin(name)
	d.changes.end(name, 0)
}

// ForgetListed forgets what is known of a file's name, and that listings have told what is right before it: so who lists past it
// asks again, also where the overlay has the name, which hides that the name itself is not known.
func (d *Derived) ForgetListed(name string) {
	d.Forget(name)
	d.Forget(predecessor(name))
}

func (d *Derived) time(at int64) time.Time { return d.born.Add(time.Duration(at)) }
func (d *Derived) since(t time.Time) int64 { return int64(t.Sub(d.born)) }

// split cuts a name other than "" into its directory and its edge.
func split(name string) (dir, edge string) {
	i := strings.LastIndexByte(name[:len(name)-1], '/')
	return name[:i+1], name[i+1:]
}

func isDir(name string) bool { return name == "" || name[len(name)-1] == '/' }

// impliedDir is the row of a directory of which nothing is known but that it is there; bareDir that it has no marker too.
var impliedDir, bareDir = &Row{Dir: true}, &Row{Dir: true, Full: true}

// The methods below must be called with mu held.

// lookup returns what is known of name. If it is there the packed row is its own, of which row makes what Lookup says; the root has
// none.
func (d *Derived) lookup(name string) (State, []byte, int64) {
	if name == "" {
		return Present, nil, d.since(time.Now())
	}
	dir, edge := split(name)
	if l := d.use(dir); l != nil {
		if f, ok := l.known.get(edge); ok {
			if !f.there() {
				return Absent, nil, f.at
			}
			return Present, f.row, f.at
		}
		if s, ok := l.spans.at(edge); ok {
			return Absent, nil, s.at
		}
	}
	if dir != "" {
		if state, _, at := d.lookup(dir); state == Absent {
			return Absent, nil, at
		}
	}
	return Unknown, nil, 0
}

// row puts the packed row of name into row; for a directory of an object store what its marker, which is kept apart, says with it.
// Its text is in t if that is not nil.
func (d *Derived) row(name string, packed []byte, row *Row, t *Text) {
	if d.o.Flat && isDir(name) {
		if l, ok := d.dirs.Get(name); ok {
			f, known := l.known.get("")
			if f.there() {
				packed = f.row
			} else if _, covered := l.spans.at(""); covered || known {
				*row = *bareDir
				return
			}
		}
	}
	d.packer.unpack(packed, row, t)
}

// use returns the listing of dir, nil if there is none, as the most recently used one.
func (d *Derived) use(dir string) *listing {
	l, ok := d.dirs.Get(dir)
	if !ok {
		return nil
	}
	if d.recent.next != l {
		l.prev.next, l.next.prev = l.next, l.prev
		d.link(l)
	}
	return l
}

func (d *Derived) link(l *listing) {
	l.prev, l.next = &d.recent, d.recent.next
	l.prev.next, l.next.prev = l, l
}

// make returns the listing of dir, made if there is none. Who calls it calls settle when he is done with it.
func (d *Derived) make(dir string) *listing {
	l := d.use(dir)
	if l == nil {
		l = &listing{dir: strings.Clone(dir)}
		d.dirs.Set(l.dir, l)
		d.link(l)
	}
	return l
}

// settle counts l and drops it if it is empty.
func (d *Derived) settle(l *listing) {
	size := l.known.len() + len(l.spans)
	d.rows += size - l.size
	if l.size = size; size == 0 {
		d.unlist(l)
	}
}

func (d *Derived) unlist(l *listing) {
	d.rows -= l.size
	l.size = 0
	l.prev.next, l.next.prev = l.next, l.prev
	d.dirs.Delete(l.dir)
}

// evict forgets the listings not used for longest until MaxRows is kept, but never the one used last.
func (d *Derived) evict() {
	for l := d.recent.prev; d.rows > d.o.MaxRows && l != d.recent.next && l != &d.recent; {
		prev := l.prev
		if _, below := d.changes.pendingBelow(l.dir); !below && d.changes.pendingAt(l.dir) == nil {
			d.lost.add(l.dir)
			d.unlist(l)
			d.evicted++
		}
		l = prev
	}
}

// purge forgets everything below the directory dir.
func (d *Derived) purge(dir string) {
	for {
		var l *listing
		d.dirs.Ascend(dir, func(name string, below *listing) bool {
			if strings.HasPrefix(name, dir) {
				l = below
			}
			return false
		})
		if l == nil {
			return
		}
		d.unlist(l)
	}
}

// put notes that name is there.
func (d *Derived) put(name string, row *Row, at int64) { d.learn(name, row, at, true) }

// learn is put; keep says that attributes may stay that row does not know.
func (d *Derived) learn(name string, row *Row, at int64, keep bool) {
	if name == "" {
		return
	}
	dir, edge := split(name)
	if d.o.Flat && isDir(name) {
		if row.Marker || row.Full {
			d.putMarker(name, row, at)
		}
		row = impliedDir
	}
	d.learnEdge(dir, edge, row, at, keep)
	d.putDir(dir, at)
}

// putMarker notes what row says of the marker of an object store's directory.
func (d *Derived) putMarker(dir string, row *Row, at int64) {
	if !row.Marker {
		row = nil
	}
	d.putEdge(dir, "", row, at)
}

// putEdge notes one row; nil: absent.
func (d *Derived) putEdge(dir, edge string, row *Row, at int64) {
	d.learnEdge(dir, edge, row, at, true)
}

func (d *Derived) learnEdge(dir, edge string, row *Row, at int64, keep bool) {
	l := d.make(dir)
	f := fact{at: at}
	if row != nil {
		if keep {
			if old, ok := l.known.get(edge); ok && old.there() && d.keepsAttrs(old.row, row) {
				f.row = old.row
			}
		}
		if f.row == nil {
			f.row = d.packer.pack(row)
		}
	}
	l.set(edge, f)
	d.settle(l)
}

// keepsAttrs reports whether row says nothing that old, which is packed, does not say better.
func (d *Derived) keepsAttrs(packed []byte, row *Row) bool {
	if row == impliedDir {
		return true
	}
	if row.Full || row.Version == "" || !d.packer.full(packed) {
		return false
	}
	var old Row
	d.packer.unpack(packed, &old, nil)
	return old.Dir == row.Dir && old.Marker == row.Marker && old.Version == row.Version
}

func (l *listing) set(edge string, f fact) {
	l.count(l.known.set(edge, f))
	if f.there() {
		l.present++
	}
}

func (l *listing) delete(edge string) { l.count(l.known.delete(edge)) }

// count takes a fact that is no more out of the number of those present.
func (l *listing) count(there, was bool) {
	if was && there {
		l.present--
	}
}

// putDir notes that dir and the directories above it are there, because something below it is.
func (d *Derived) putDir(dir string, at int64) {
	for dir != "" {
		parent, edge := split(dir)
		if l := d.use(parent); l != nil {
			if f, ok := l.known.get(edge); ok && f.there() {
				return
			}
		}
		d.putEdge(parent, edge, impliedDir, at)
		dir = parent
	}
}

// drop notes that name, and everything below it, is not there. gone says that it may have been there until then.
func (d *Derived) drop(name string, at int64, gone bool) {
	if isDir(name) {
		d.purge(name)
	}
	if name == "" {
		l := d.make("")
		l.spans = l.spans.cover(span{at: at})
		d.settle(l)
		return
	}
	dir, edge := split(name)
	d.putEdge(dir, edge, nil, at)
	if gone {
		d.emptied(dir, at)
	}
}

// emptied corrects what is known of dir after something in it went: an object store's directory is there only as long as
// something is in it.
func (d *Derived) emptied(dir string, at int64) {
	l, ok := d.dirs.Get(dir)
	switch {
	case !d.o.Flat || dir == "" || ok && l.present > 0:
	case ok && l.spans.whole():
		d.vanish(l, at)
	default:
		d.doubt(dir)
	}
}

// vanish notes that the directory l of an object store is not there, because nothing in it is. That is known as of what was learnt first
// of all that says so, at the latest at: an answer of in between may know of something new in it. What is known of the directory since
// then leaves it in doubt.
func (d *Derived) vanish(l *listing, at int64) {
	for _, s := range l.spans {
		at = min(at, s.at)
	}
	if state, _, seen := d.lookup(l.dir); state == Present && seen > at {
		d.doubt(l.dir)
		return
	}
	type absence struct {
		edge string
		at   int64
	}
	dir, newer := l.dir, []absence(nil)
	l.known.ascend("", &Text{}, func(edge string, f fact) bool { // of these an answer of in between knows less
		if f.at > at {
			newer = append(newer, absence{edge, f.at})
		}
		return true
	})
	d.drop(dir, at, true)
	for _, x := range newer {
		d.putEdge(dir, x.edge, nil, x.at)
	}
}

// forget makes name, and everything below it, unknown.
func (d *Derived) forget(name string) {
	d.lost.add(name)
	if isDir(name) {
		d.purge(name)
	}
	if name != "" {
		d.unlearn(name)
		dir, _ := split(name)
		d.doubt(dir)
	}
}

// doubt makes dir and the directories above it unknown as far as they are said to be absent, or nothing known proves that
// they are there.
func (d *Derived) doubt(dir string) {
	for dir != "" {
		if state, _, _ := d.lookup(dir); state == Present {
			if l, ok := d.dirs.Get(dir); !d.o.Flat || ok && l.present > 0 {
				return
			}
		}
		d.unlearn(dir)
		dir, _ = split(dir)
	}
}

// unlearn makes the one name unknown.
func (d *Derived) unlearn(name string) {
	dir, edge := split(name)
	if l := d.use(dir); l != nil {
		l.delete(edge)
		l.spans = l.spans.cut(edge, edge+"\x00")
		d.settle(l)
	}
}

// listed reports whether the directory dir of a store with real directories is known to be there: by a row, or by a
// listing of itself, which may be remembered for longer.
func (d *Derived) listed(dir string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	state, _, _ := d.lookup(dir)
	l, ok := d.dirs.Get(dir)
	return state == Present || state == Unknown && ok && len(l.spans) > 0
}

// edge is what read yields: a name that is there.
type edge struct {
	name string
	row  *Row
	at   int64
}

// limits say which facts read counts as known.
type limits struct {
	notBefore time.Time // learnt at that time or later
	all       bool      // whatever is known is all there is
}

// read appends to buf the edges of dir that are there, from the edge from on, up to max. They are all that is there below
// the edge next, which is where to read on, or a gap; an empty next means to the end. Their text is in t.
func (d *Derived) read(dir, from string, lim limits, max int, buf []edge, t *Text) (in []edge, next string, gap bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	oldest := d.since(lim.notBefore)
	l := d.use(dir)
	if l == nil {
		l = &listing{}
	}
	hi, i := from, l.spans.after(from)
	known := func(edge string) bool { // extends hi beyond edge if nothing between is unknown
		for ; hi != "" && i < len(l.spans) && l.spans[i].lo <= hi && l.spans[i].at >= oldest; i++ {
			if hi = l.spans[i].hi; edge != "" && edge < hi {
				i++
				return true
			}
		}
		return hi == "" || edge != "" && edge < hi
	}
	if lim.all && !d.forgotten(dir) {
		hi, i = "", len(l.spans)
	} else if state, _, at := d.lookup(dir); dir != "" && state == Absent && at >= oldest {
		return buf, "", false
	} else if i == len(l.spans) || l.spans[i].lo > from || l.spans[i].at < oldest {
		return buf, from, true
	} else {
		hi = l.spans[i].hi
		i++
	}
	n, rows := 0, []Row(nil)
	l.known.ascend(from, t, func(name string, f fact) bool {
		if hi != "" && name >= hi && !known(name) {
			return false
		}
		if n == max {
			next = name
			return false
		}
		if f.there() {
			if len(rows) == 0 { // what is read together is forgotten together
				rows = make([]Row, min(1+3*n, max-n))
			}
			d.row(dir+name, f.row, &rows[0], t)
			buf, rows = append(buf, edge{name, &rows[0], f.at}), rows[1:]
			n++
		}
		return true
	})
	if next != "" || known("") {
		return buf, next, false
	}
	return buf, hi, true
}

// reach returns the end of what is known of dir from the edge from on without a gap, "" if nothing is.
func (d *Derived) reach(dir, from string, lim limits) (to string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.use(dir)
	if l == nil {
		return ""
	}
	oldest := d.since(lim.notBefore)
	for i := l.spans.after(from); i < len(l.spans) && l.spans[i].lo <= from && l.spans[i].at >= oldest; i++ {
		from = l.spans[i].hi
		to = from
	}
	return to
}
