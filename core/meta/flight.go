package meta

import (
	"slices"
	"strings"
	"time"
)

// A Flight is one request to a store, from just before it is sent until everything it answered is told. What it says is
// as old as its sending, and is ignored for every name that a change through Sluice was ended at since, or is pending at:
// the answer may show the time before the change. It is for one goroutine; Done must be called.
type Flight struct {
	d    *Derived
	seq  uint64
	at   int64
	tick uint64
	void bool // too old for the changes remembered: nothing it says counts
}

// Sent registers a request that is about to be sent at the time now, with everything up to the journal sequence seq
// visible in the store.
func (d *Derived) Sent(seq uint64, now time.Time) *Flight {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &Flight{d: d, seq: seq, at: d.since(now)}
	d.changes.opened(f)
	return f
}

// Done ends the flight.
func (f *Flight) Done() {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.d.changes.closed(f)
}

// Counts reports whether what it says of the names in the directory dir is not ignored as a whole.
func (f *Flight) Counts(dir string) bool {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return !f.void && !f.d.changes.bars(f, dir)
}

// Stat tells what the store said of one name; nil: it is not there.
func (f *Flight) Stat(name string, row *Row) {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.void || d.changes.bars(f, name) || isDir(name) && d.changes.barsBelow(f, name, row != nil) {
		return
	}
	state, _, at := d.lookup(name)
	if name != "" && state != Unknown && at > f.at {
		return
	}
	if row == nil {
		d.drop(name, f.at, state == Present)
	} else {
		d.put(name, row, f.at)
	}
	d.evict()
}

// List tells everything that is directly in the directory dir ("" or ending in "/") with names greater than after, up to
// last or, if complete, to the end; rows are ascending. On an object store dir's own marker is a row with Name == dir. It
// replaces what was known of these names; what is not among them is absent, together with everything below it.
func (f *Flight) List(dir, after, last string, rows []NamedRow, complete bool) {
	lo, hi, ok := within(dir, after, last, rows, complete)
	if !ok {
		return
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	in := make([]named, 0, len(rows))
	for i := range rows {
		edge := strings.TrimPrefix(rows[i].Name, dir)
		if edge == "" && !f.d.o.Flat {
			f.own(dir, &rows[i].Row)
			continue
		}
		in = append(in, named{edge, &rows[i].Row})
	}
	f.replace(dir, lo, hi, in)
	f.d.evict()
}

// ListFlat tells every key, at any depth, that starts with the directory name prefix ("" or ending in "/") and is greater
// than after, up to last or, if complete, to the end; rows are ascending. It is List for all directories they imply.
func (f *Flight) ListFlat(prefix, after, last string, rows []NamedRow, complete bool) {
	lo, hi, ok := within(prefix, after, last, rows, complete)
	if !ok {
		return
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	dirs := group(prefix, rows)
	// The directories that the range begins in are known from there on, even if no key is left in them.
	for i := strings.IndexByte(lo, '/'); i >= 0; {
		if dir := prefix + lo[:i+1]; dirs[dir] == nil {
			dirs[dir] = []named{}
		}
		next := strings.IndexByte(lo[i+1:], '/')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	names := make([]string, 0, len(dirs))
	for dir := range dirs {
		names = append(names, dir)
	}
	slices.Sort(names) // a directory's absence must not follow what is known below it
	for _, dir := range names {
		if from, to, some := edges(dir[len(prefix):], lo, hi, dirs[dir]); some {
			f.replace(dir, from, to, dirs[dir])
		} else {
			f.rows(dir, dirs[dir])
		}
	}
	f.d.evict()
}

// own notes the row of a real directory that its own listing told: it belongs to the directory's parent.
func (f *Flight) own(dir string, row *Row) {
	if dir != "" && !f.void && !f.d.changes.bars(f, dir) {
		parent, edge := split(dir)
		f.rows(parent, []named{{edge, row}})
	}
}

// named is one row of a directory.
type named struct {
	edge string
	row  *Row
}

// within returns the range of names, relative to dir, that a listing tells.
func within(dir, after, last string, rows []NamedRow, complete bool) (lo, hi string, ok bool) {
	if strings.HasPrefix(after, dir) && after != "" {
		lo = after[len(dir):] + "\x00"
	} else if after > dir {
		return "", "", false
	}
	if complete {
		return lo, "", true
	}
	if len(rows) > 0 {
		last = max(last, rows[len(rows)-1].Name)
	}
	if last <= after || !strings.HasPrefix(last, dir) {
		return "", "", false
	}
	return lo, last[len(dir):] + "\x00", true
}

// group sorts keys into their directories, from prefix down; each directory has its files, its marker and its
// directories as rows.
func group(prefix string, rows []NamedRow) map[string][]named {
	dirs := map[string][]named{prefix: {}}
	for i := range rows {
		dir, edge := prefix, rows[i].Name[len(prefix):]
		if i := strings.LastIndexByte(edge, '/'); i >= 0 {
			dir, edge = prefix+edge[:i+1], edge[i+1:]
		}
		dirs[dir] = append(dirs[dir], named{edge, &rows[i].Row})
		for len(dir) > len(prefix) {
			var e string
			dir, e = split(dir)
			in := dirs[dir]
			if n := len(in); n > 0 && in[n-1].edge == e {
				break
			}
			dirs[dir] = append(in, named{e, impliedDir})
		}
	}
	return dirs
}

// edges returns the range of edges of the directory dir that the range [lo, hi) of keys, relative to the same prefix as
// dir, tells completely. The directory that the range ends in is among them only if a key was seen in it.
func edges(dir, lo, hi string, in []named) (from, to string, some bool) {
	if rest, inside := strings.CutPrefix(lo, dir); inside {
		from = rest
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			from = rest[:i+1] + "\x00"
		}
	} else if lo > dir {
		return "", "", false
	}
	if hi == "" {
		return from, "", true
	}
	if rest, inside := strings.CutPrefix(hi, dir); inside {
		to = rest
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			if to = rest[:i+1]; len(in) > 0 && in[len(in)-1].edge == to {
				to += "\x00"
			}
		}
		return from, to, from < to
	}
	return from, "", hi > dir
}

// The methods below must be called with the Derived's mu held.

// replace makes rows, ascending, all that is in dir with edges in [lo, hi).
func (f *Flight) replace(dir, lo, hi string, rows []named) {
	d := f.d
	if f.void || d.changes.bars(f, dir) {
		return
	}
	if state, _, at := d.lookup(dir); dir != "" && state == Absent && at > f.at {
		return
	}
	seen := func(edge string) bool {
		_, ok := slices.BinarySearchFunc(rows, edge, func(n named, edge string) int { return strings.Compare(n.edge, edge) })
		return ok
	}
	barred := d.changes.barred(f, dir, lo, hi, seen)
	l := d.make(dir)
	for _, s := range l.spans.notNewer(lo, hi, f.at) {
		f.span(l, s, seen, barred)
	}
	d.settle(l)
	f.rows(dir, rows)
	l = d.make(dir)
	switch {
	case dir == "":
	case !d.o.Flat || l.present > 0:
		d.putDir(dir, f.at)
	case l.spans.whole():
		d.vanish(l, f.at)
		if l, _ = d.dirs.Get(dir); l == nil {
			return
		}
	}
	if l.known.len() > d.o.MaxRows {
		l.keep(lo, hi)
	}
	d.use(dir) // after its parents: what was just asked for is the last to be evicted
	d.settle(l)
}

// span makes s known, and forgets what it held before; the rows themselves come after.
func (f *Flight) span(l *listing, s span, seen func(edge string) bool, barred map[string]bool) {
	d := f.d
	var gone []string
	l.known.ascend(s.lo, &Text{}, func(edge string, k fact) bool {
		if !s.holds(edge) {
			return false
		}
		if k.at <= f.at && !barred[edge] && !seen(edge) {
			gone = append(gone, edge)
		}
		return true
	})
	for _, edge := range gone {
		l.delete(edge)
	}
	for _, edge := range d.below(l.dir, s) {
		if k, ok := l.known.get(edge); !barred[edge] && !seen(edge) && (!ok || !k.there()) {
			d.purge(l.dir + edge)
		}
	}
	var holes []string
	for edge := range barred {
		if _, ok := l.known.get(edge); !ok && s.holds(edge) {
			if _, ok := l.spans.at(edge); !ok {
				holes = append(holes, edge)
			}
		}
	}
	l.spans = l.spans.cover(s)
	for _, edge := range holes {
		l.spans = l.spans.cut(edge, edge+"\x00")
	}
}

// below returns the edges in s of dir's directories below which something is known.
func (d *Derived) below(dir string, s span) (found []string) {
	for from := dir + s.lo; ; {
		edge := ""
		d.dirs.Ascend(from, func(name string, _ *listing) bool {
			rest, ok := strings.CutPrefix(name, dir)
			if ok {
				edge = rest[:strings.IndexByte(rest, '/')+1]
			}
			return ok && rest == ""
		})
		switch {
		case s.holds(edge) && edge != "":
			found = append(found, edge)
		case edge == "" || edge >= s.lo:
			return found
		}
		from = dir + edge[:len(edge)-1] + "0" // "0" follows "/": beyond everything below the edge
	}
}

// rows notes rows of dir that are not barred and not known better.
func (f *Flight) rows(dir string, rows []named) {
	if f.void || len(rows) == 0 || f.d.changes.bars(f, dir) {
		return
	}
	all := func(string) bool { return true }
	barred := f.d.changes.barred(f, dir, rows[0].edge, rows[len(rows)-1].edge+"\x00", all)
	for _, n := range rows {
		if barred[n.edge] {
			continue
		}
		if l, ok := f.d.dirs.Get(dir); ok {
			if k, ok := l.known.get(n.edge); ok && k.at > f.at {
				continue
			} else if s, ok := l.spans.at(n.edge); ok && s.at > f.at {
				continue
			}
		}
		if n.edge == "" {
			marker := *n.row
			marker.Dir, marker.Marker = true, true
			f.d.putEdge(dir, "", &marker, f.at)
		} else if f.d.o.Flat && isDir(n.edge) {
			f.d.put(dir+n.edge, n.row, f.at)
		} else {
			f.d.putEdge(dir, n.edge, n.row, f.at)
		}
	}
}

// keep forgets all but the edges [lo, hi): a directory that is larger than all that may be kept is kept in pieces.
func (l *listing) keep(lo, hi string) {
	all := l.known
	l.known, l.present = facts{}, 0
	all.ascend(lo, &Text{}, func(edge string, f fact) bool {
		if hi != "" && edge >= hi {
			return false
		}
		l.set(edge, f)
		return true
	})
	l.spans = l.spans.cut("", lo)
	if hi != "" {
		l.spans = l.spans.cut(hi, "")
	}
}
