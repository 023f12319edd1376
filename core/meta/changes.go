package meta

import (
	"strings"
	"time"

	"github.com/tidwall/btree"
)

// Begin marks a change through Sluice as pending at name ("a/": the whole subtree), until as many calls of End. What is
// known of the name stays as it is; what the store says of it meanwhile is ignored.
func (d *Derived) Begin(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changes.begin(name)
}

// End closes one Begin. With known, row is what is at name as of the journal sequence seq, nil for nothing, and is a fact;
// a directory's children are forgotten. Without known, all that was known of the name is forgotten. If two changes of a
// name overlapped, the one with the higher seq decides.
func (d *Derived) End(name string, seq uint64, row *Row, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch c, ok := d.changes.byName.Get(name); {
	case !known:
		d.forget(name)
	case ok && c.seq > seq: // a later change has told
	case d.changes.laterBelow(name, seq):
		d.forget(name)
	default:
		d.ended(name, row)
	}
	d.changes.end(name, seq)
	d.evict()
}

// ended makes the outcome of a change a fact. mu must be held.
func (d *Derived) ended(name string, row *Row) {
	at := d.since(time.Now())
	if row == nil {
		state, _, _ := d.lookup(name)
		d.drop(name, at, state != Absent)
		return
	}
	if isDir(name) {
		d.lost.add(name)
		d.purge(name)
	}
	d.learn(name, row, at, false) // no attribute of what was there stays
}

// Settled returns a channel that is closed when no change is pending at name or at a directory above it. It may have to be
// asked again: another change can begin at once.
func (d *Derived) Settled(name string) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.changes.pendingAt(name); c != nil {
		if c.settled == nil {
			c.settled = make(chan struct{})
		}
		return c.settled
	}
	done := make(chan struct{})
	close(done)
	return done
}

// PendingBelow returns the names below the directory at which a change is pending.
func (d *Derived) PendingBelow(dir string) (names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changes.byName.Ascend(dir, func(name string, ch *change) bool {
		below := strings.HasPrefix(name, dir)
		if below && name != dir && ch.pending > 0 {
			names = append(names, name)
		}
		return below
	})
	return names
}

// pending returns the name of the change that keeps listings from telling what is in dir at edge, "" if there is none: one
// of dir or of a directory above it, or one at or below the edge if listings have told what follows the edge, not it.
func (d *Derived) pending(dir, edge string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &d.changes
	if c.pendingAt(dir) != nil {
		for {
			if ch, ok := c.byName.Get(dir); ok && ch.pending > 0 {
				return dir
			}
			dir, _ = split(dir)
		}
	}
	l := d.use(dir)
	if l == nil || edge == "" {
		return ""
	}
	if _, told := l.spans.at(edge + "\x00"); !told {
		return ""
	}
	if ch, ok := c.byName.Get(dir + edge); ok && ch.pending > 0 {
		return dir + edge
	}
	if isDir(edge) {
		name, _ := c.pendingBelow(dir + edge)
		return name
	}
	return ""
}

// changes remembers the changes that facts must not override: those pending, and those that ended after a flight that is
// still open was sent. Time is counted in ticks: one for each flight sent and each change ended.
type changes struct {
	tick   uint64
	byName btree.Map[string, *change]
	past   []ended // in the order of their ticks
	open   btree.Map[uint64, *Flight]
}

// change is the state of one name.
type change struct {
	pending int
	tick    uint64 // when the last change ended, 0: none remembered
	seq     uint64 // the highest sequence a change of it ended with
	settled chan struct{}
}

type ended struct {
	name string
	tick uint64
}

// maxPast bounds the ended changes remembered. Beyond it the flight that has been open for longest counts for nothing, so
// that the changes since it was sent need not be remembered.
const maxPast = 1 << 16

func (c *changes) begin(name string) {
	ch, ok := c.byName.Get(name)
	if !ok {
		ch = &change{}
		c.byName.Set(strings.Clone(name), ch)
	}
	ch.pending++
}

func (c *changes) end(name string, seq uint64) {
	ch, ok := c.byName.Get(name)
	if !ok {
		ch = &change{}
		c.byName.Set(strings.Clone(name), ch)
	}
	c.tick++
	ch.tick, ch.seq = c.tick, max(ch.seq, seq)
	if ch.pending = max(ch.pending-1, 0); ch.pending == 0 && ch.settled != nil {
		close(ch.settled)
		ch.settled = nil
	}
	c.past = append(c.past, ended{name, c.tick})
	for len(c.past) > maxPast && c.open.Len() > 0 {
		_, f, _ := c.open.PopMin()
		f.void = true
		c.prune()
	}
	c.prune()
}

func (c *changes) opened(f *Flight) {
	c.tick++
	f.tick = c.tick
	c.open.Set(f.tick, f)
}

func (c *changes) closed(f *Flight) {
	c.open.Delete(f.tick)
	c.prune()
}

// prune forgets the ended changes that no open flight was sent before.
func (c *changes) prune() {
	oldest, _, ok := c.open.Min()
	for len(c.past) > 0 && (!ok || c.past[0].tick < oldest) {
		e := c.past[0]
		c.past = c.past[1:]
		if ch, found := c.byName.Get(e.name); found && ch.tick == e.tick && ch.pending == 0 {
			c.byName.Delete(e.name)
		}
	}
	if len(c.past) == 0 {
		c.past = nil
	}
}

// endedSince reports whether a change of it ended after f was sent.
func (ch *change) endedSince(f *Flight) bool { return ch.tick > f.tick || ch.seq > f.seq }

// bars reports whether f must not say anything of name: for a change of the name itself or of a directory above it.
func (c *changes) bars(f *Flight, name string) bool {
	if c.byName.Len() == 0 {
		return false
	}
	for {
		if ch, ok := c.byName.Get(name); ok && (ch.pending > 0 || ch.endedSince(f)) {
			return true
		}
		if name == "" {
			return false
		}
		name, _ = split(name)
	}
}

// barsBelow reports whether f must not say that the directory dir is there, or is not, for a change of something below it:
// one that ended may have made or removed it, and saying that it is not there says something of what is below.
func (c *changes) barsBelow(f *Flight, dir string, there bool) (bars bool) {
	c.byName.Ascend(dir, func(name string, ch *change) bool {
		bars = strings.HasPrefix(name, dir) && (!there && ch.pending > 0 || ch.endedSince(f))
		return !bars && strings.HasPrefix(name, dir)
	})
	return bars
}

// barred returns the edges in [lo, hi) of dir of which f must not say anything. A pending change below an edge only bars
// saying that the edge is absent, which would say something of what is below; seen tells the edges that f says are there.
func (c *changes) barred(f *Flight, dir, lo, hi string, seen func(edge string) bool) map[string]bool {
	if c.byName.Len() == 0 {
		return nil
	}
	s, barred := span{lo: lo, hi: hi}, map[string]bool{}
	c.byName.Ascend(dir+lo, func(name string, ch *change) bool {
		rest, ok := strings.CutPrefix(name, dir)
		if !ok || rest == "" {
			return ok
		}
		edge := firstEdge(rest)
		if !s.holds(edge) {
			return edge < lo
		}
		if ch.endedSince(f) || ch.pending > 0 && (edge == rest || !seen(edge)) {
			barred[edge] = true
		}
		return true
	})
	return barred
}

// pendingAt returns a pending change of name or of a directory above it, nil if there is none.
func (c *changes) pendingAt(name string) *change {
	if c.byName.Len() == 0 {
		return nil
	}
	for {
		if ch, ok := c.byName.Get(name); ok && ch.pending > 0 {
			return ch
		}
		if name == "" {
			return nil
		}
		name, _ = split(name)
	}
}

// pendingBelow returns a name at or below the directory dir that has a change pending, "" if there is none.
func (c *changes) pendingBelow(dir string) (name string, ok bool) {
	c.byName.Ascend(dir, func(below string, ch *change) bool {
		if !strings.HasPrefix(below, dir) {
			return false
		}
		if ok = ch.pending > 0; ok {
			name = below
		}
		return !ok
	})
	return name, ok
}

// laterBelow reports whether a change of something below name ended with a sequence higher than seq.
func (c *changes) laterBelow(name string, seq uint64) (later bool) {
	if isDir(name) {
		c.byName.Ascend(name+"\x00", func(below string, ch *change) bool {
			later = strings.HasPrefix(below, name) && ch.seq > seq
			return !later && strings.HasPrefix(below, name)
		})
	}
	return later
}
