package meta

import (
	"strings"
	"time"
)

// Known is what is known of the names in a directory of a store.
type Known struct {
	Present, Absent int       // facts about single names
	Complete        bool      // names without a fact of their own are absent
	Oldest          time.Time // of the listings that what is known is of; zero if there was none
}

// Known returns what is known of the directory dir.
func (d *Derived) Known(dir string) (k Known) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, ok := d.dirs.Get(dir)
	if !ok {
		return k
	}
	k.Present, k.Absent, k.Complete = l.present, l.known.len()-l.present, l.spans.whole()
	for i, s := range l.spans {
		if at := d.time(s.at); i == 0 || at.Before(k.Oldest) {
			k.Oldest = at
		}
	}
	return k
}

// Deciding returns whose fact says what Lookup says of name: name itself, the directory it is in (listed without it), or a
// directory above it that is absent; listed tells the second from the others. It is not for a name that is Unknown.
func (d *Derived) Deciding(name string) (of string, listed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for at := name; at != ""; {
		dir, edge := split(at)
		if l, ok := d.dirs.Get(dir); ok {
			if _, ok := l.known.get(edge); ok {
				return at, false
			}
			if _, ok := l.spans.at(edge); ok {
				return dir, true
			}
		}
		at = dir
	}
	return name, false
}

// Changing reports whether a change through Sluice is pending at name or at a directory above it.
func (d *Derived) Changing(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changes.pendingAt(name) != nil
}

// Forgotten reports whether name, if it is unknown, may have been known: a change through Sluice is pending at it, at a directory above
// it or, of a directory, below it, or what was known there was forgotten.
func (d *Derived) Forgotten(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.forgotten(name)
}

func (d *Derived) forgotten(name string) bool {
	if d.changes.pendingAt(name) != nil || d.lost.has(name) {
		return true
	}
	if name != "" && !isDir(name) {
		return false
	}
	below, _ := d.changes.pendingBelow(name)
	return below != "" || d.lost.below(name)
}

// Holds reports whether something other than its own marker is known to be in the directory dir, at any depth.
func (d *Derived) Holds(dir string) (some bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, ok := d.dirs.Get(dir)
	if !ok || l.present == 0 {
		return false
	}
	l.known.ascend("", &Text{}, func(edge string, f fact) bool {
		some = f.there() && edge != ""
		return !some
	})
	return some
}

// Files calls use for the names known to be there that are in dir, or with deep at any depth below it, greater than after and,
// unless to the end, not greater than last, until it returns false. With deep they are files and markers, else also directories.
// Their order is that of their directories. use must not call the Derived.
func (d *Derived) Files(dir, after, last string, toEnd, deep bool, use func(name string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	more := true
	visit := func(l *listing) {
		from, _ := strings.CutPrefix(after, l.dir)
		if !strings.HasPrefix(after, l.dir) {
			from = ""
		}
		l.known.ascend(from, &Text{}, func(edge string, f fact) bool {
			name := l.dir + edge
			if !toEnd && name > last {
				return false
			}
			if f.there() && name > after && edge != "" && !(deep && isDir(edge)) || f.there() && edge == "" && deep && name > after {
				more = use(name)
			}
			return more
		})
	}
	if l, ok := d.dirs.Get(dir); ok {
		visit(l)
	}
	if !deep {
		return
	}
	for at := dir; more; { // the directories that after lies in
		rest, ok := strings.CutPrefix(after, at)
		i := strings.IndexByte(rest, '/')
		if !ok || i < 0 {
			break
		}
		at += rest[:i+1]
		if l, ok := d.dirs.Get(at); ok {
			visit(l)
		}
	}
	d.dirs.Ascend(max(dir, after), func(name string, l *listing) bool {
		if !strings.HasPrefix(name, dir) || !toEnd && name > last {
			return false
		}
		if name > after && name != dir {
			visit(l)
		}
		return more
	})
}
