package page

import (
	"hash/maphash"
	"sync"
	"time"
)

// Why says why a page was not in a cache when a read came to it.
type Why string

// The reasons. What is not in the store when it is asked for has just one; of pages and files that were heard of long ago it may be
// forgotten.
const (
	WhyNotKept   Why = "NOT_KEPT"          // the read was one that keeps nothing (Content.NoCache)
	WhyOnce      Why = "EVICTED_ONCE"      // evicted for want of room, as the TierStats.Evicted of that name
	WhyCold      Why = "EVICTED_COLD"      // likewise
	WhyReclaimed Why = "EVICTED_RECLAIMED" // likewise
	WhyExpired   Why = "EXPIRED"           // not read for the TTL
	WhyDamaged   Why = "DAMAGED"           // its bytes were not what had been written, and were dropped
	WhyUnread    Why = "UNREADABLE"        // its disk could not read it
	WhyFreed     Why = "FREED"             // dropped on demand
	WhyRefused   Why = "REFUSED"           // read before, but the store did not take it
	WhyOff       Why = "OFF"               // a directory is turned off whose pages may have been among them
	WhyVersion   Why = "OTHER_VERSION"     // the last read that missed was of another version of the file
	WhyNew       Why = "NEW"               // it was neither read nor written since the process began
	WhyForgotten Why = "NOT_KNOWN"         // it may have been here, so long ago that this is forgotten
)

// Origin is what a Source reads: bytes from Base on of a version of a file. A Source that has a method Origin() Origin has the
// last miss of its file be remembered.
type Origin struct {
	Store, Key, Version string
	Base                int64
}

type originated interface{ Origin() Origin }

// Miss is a read that came to a page which was not in the store, nor on its way there.
type Miss struct {
	At       time.Time
	Off, Len int64 // in the file: what the source was asked for
	Why      Why
	Since    time.Time // when the page left or was refused; of WhyVersion, when the other version was read
	Other    bool      // it was of another version of the file than the one asked about
}

// Misses is what is remembered of a file.
type Misses struct {
	Last      *Miss     // nil: none is remembered
	Forgotten bool      // there may be one, later than Last, that gave way to one of another file
	Since     time.Time // when remembering began
}

// What is remembered takes a fixed amount of memory, once something is.
const (
	missFiles  = 4096    // 256 KiB
	trailPages = 1 << 14 // 512 KiB
)

// misses are the last misses of files: of those whose names have the same place, the latest. Hits do not come here.
type misses struct {
	seed  maphash.Seed
	began time.Time

	mu    sync.Mutex
	files []missed
}

type missed struct {
	name, version uint64 // hashes
	at, since     int64  // Unix nanoseconds; since: 0 for none
	off, n        int64
	why           Why
}

func newMisses() misses { return misses{seed: maphash.MakeSeed(), began: time.Now()} }

// hashes returns the hashes of the file and of its version, neither of them 0.
func (m *misses) hashes(of Origin) (name, version uint64) {
	return maphash.Comparable(m.seed, [2]string{of.Store, of.Key}) | 1, maphash.String(m.seed, of.Version) | 1
}

func (m *misses) add(of Origin, x missed) {
	x.name, x.version = m.hashes(of)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = make([]missed, missFiles)
	}
	place := &m.files[x.name>>1%missFiles]
	if place.name == x.name && place.version != x.version && (x.why == WhyNew || x.why == WhyForgotten) {
		x.why, x.since = WhyVersion, place.at
	}
	*place = x
}

// LastMiss returns what is remembered of the file, whose version and base only matter for Miss.Other. Reads of Load are none.
func (c *Cache) LastMiss(of Origin) Misses {
	m := &c.last
	name, version := m.hashes(of)
	m.mu.Lock()
	defer m.mu.Unlock()
	all := Misses{Since: m.began}
	if m.files == nil {
		return all
	}
	switch x := m.files[name>>1%missFiles]; x.name {
	case 0:
	case name:
		all.Last = &Miss{At: time.Unix(0, x.at), Off: x.off, Len: x.n, Why: x.why, Other: x.version != version}
		if x.since != 0 {
			all.Last.Since = time.Unix(0, x.since)
		}
	default:
		all.Forgotten = true
	}
	return all
}

// missed remembers that the reader asks his source for the bytes [pos, end). It is called before the source is asked.
func (r *Reader) missed(end int64) {
	from, ok := r.source.(originated)
	if !ok || r.loads {
		return
	}
	of := from.Origin()
	x := missed{at: time.Now().UnixNano(), off: of.Base + r.pos, n: min(r.end, end) - r.pos}
	if x.why = WhyNotKept; !r.content.NoCache {
		x.why, x.since = r.c.whyNot(r.content.key(r.index()))
	}
	r.c.last.add(of, x)
}

// whyNot says why the page is not in the store, and since when if that is known.
func (c *Cache) whyNot(k Key) (Why, int64) {
	if c.trail == nil {
		return WhyForgotten, 0
	}
	why, at := c.trail.of(k)
	if (why == "" || why == WhyNew) && c.store.(trailed).unread() {
		return WhyOff, 0
	}
	if why == "" {
		return WhyForgotten, 0
	}
	return why, at
}

// note remembers what became of the page.
func (c *Cache) note(k Key, why Why) {
	if c.trail != nil {
		c.trail.note(k, why)
	}
}

// trailed is a Store that remembers what became of its pages.
type trailed interface {
	tracks() *trail
	// unread reports whether there are pages that cannot be read, because their directory is turned off.
	unread() bool
}

// trail remembers what became of pages: of those whose keys have the same place, of the one of which something was heard last.
// Its lock is taken last.
type trail struct {
	seed maphash.Seed

	mu    sync.Mutex
	pages []track
}

type track struct {
	key uint64 // hash, never 0
	at  int64  // Unix nanoseconds
	why Why    // "" if it came
}

func newTrail() *trail { return &trail{seed: maphash.MakeSeed()} }

func (t *trail) hash(k Key) uint64 { return maphash.Comparable(t.seed, k) | 1 }

// note remembers why the page is not in the store from now on; "": it is.
func (t *trail) note(k Key, why Why) {
	x := track{t.hash(k), time.Now().UnixNano(), why}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pages == nil {
		t.pages = make([]track, trailPages)
	}
	t.pages[x.key>>1%trailPages] = x
}

// of returns what was heard of the page last: WhyNew if nothing was, "" if it came, or it is forgotten.
func (t *trail) of(k Key) (Why, int64) {
	hash := t.hash(k)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pages == nil {
		return WhyNew, 0
	}
	switch x := t.pages[hash>>1%trailPages]; {
	case x.key == 0:
		return WhyNew, 0
	case x.key != hash || x.why == "":
		return "", 0
	default:
		return x.why, x.at
	}
}

// left is the Why of a page that was evicted for the reason.
func (r reason) left() Why { return [reasons]Why{WhyOnce, WhyCold, WhyReclaimed, WhyExpired}[r] }

func (s *Segments) tracks() *trail { return s.trail }

func (s *Segments) unread() bool {
	f := s.off.Load()
	return f != nil && f.reads
}

func (t *Tiered) tracks() *trail { return t.trail }

func (t *Tiered) unread() bool {
	for _, s := range t.tiers {
		if s.unread() {
			return true
		}
	}
	return false
}
