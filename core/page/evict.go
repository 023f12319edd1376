package page

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/sluicefs/sluice/core/errs"
)

// began says how a directory was when a Put began.
type began struct {
	full  bool // its file system was known to be: the Put takes the room of a page that leaves, or room that was given back
	alone bool // no Put is under way that does not, and may take that room first
}

// reserve returns a slot for the page k, held by the caller, and none without an error if the page is here. On success
// active is counted, and hopeful unless at.full.
func (s *Segments) reserve(k Key, class uint8, loose bool) (no uint32, at began, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	no, at.full, err = s.takeSlot(k, class, loose)
	if err == nil && no != none {
		at.alone = s.hopeful == 0
		s.active++
		if !at.full {
			s.hopeful++
		}
	}
	return no, at, err
}

// takeSlot is reserve but for what it counts. full says that the slot was taken as from a full file system. mu must be held; it
// is released meanwhile.
func (s *Segments) takeSlot(k Key, class uint8, loose bool) (no uint32, full bool, err error) {
	for {
		if err := s.ready(); err != nil {
			return none, full, err
		}
		if s.index.find(k, s.hash(k)) != none {
			return none, full, nil
		}
		if err := s.share(k, class); err != nil && !loose {
			return none, full, err
		}
		full = s.full()
		if no, ok := s.takeFree(class); ok {
			if !full || s.backed(no) {
				return no, full, nil
			}
			s.free(no)
		}
		if s.converting[class] { // it gives room to many: no chunk more is to lose its pages for the same
			s.change.Wait()
			continue
		}
		if n := len(s.idle); n > 0 && (!full || s.credit >= classBytes(class) || s.chunks[s.idle[n-1]].written > 0) {
			no := s.idle[n-1]
			s.idle = s.idle[:n-1]
			if err := s.convert(no, class, nil); err != nil {
				return none, full, err
			}
			continue
		}
		if s.growing {
			s.change.Wait()
			continue
		}
		if chunks := s.growth(); chunks > 0 && (!full || len(s.chunks) == 0) {
			if err := s.grow(chunks); err != nil && len(s.chunks) == 0 {
				return none, full, err
			}
			continue
		}
		no, err := s.evict(class)
		if err != nil || no != none {
			return no, full, err
		}
	}
}

// ready reports why no page can be put. mu must be held.
func (s *Segments) ready() error {
	if s.closed {
		return s.refuse(errs.Unavailable, "the store is closed")
	}
	if f := s.off.Load(); f != nil {
		return s.refuse(errs.Unavailable, "the directory is turned off: "+f.err.Error())
	}
	if time.Now().Before(s.refuseTill) {
		return s.refuse(errs.NoSpace, whyFull)
	}
	return nil
}

// full reports whether the file system had no room lately. Then pages take the room of pages that leave. mu must be held.
func (s *Segments) full() bool { return !s.fullTill.IsZero() && time.Now().Before(s.fullTill) }

// backed reports whether there is room in a full file system for the data of a slot that is held by the caller: the slot was
// written before, or others gave theirs back. mu must be held.
func (s *Segments) backed(no uint32) bool {
	if s.slot(no).dirty {
		return true
	}
	if size := s.slotBytes(no); s.credit >= size {
		s.credit -= size
		return true
	}
	return false
}

// evict lets the page go whose turn it is. It returns that page's slot, held, if it has the right class; if not it turns
// that page's whole chunk, whose pages are about as old, into slots of the class and returns none. mu must be held; it is
// released meanwhile.
func (s *Segments) evict(class uint8) (uint32, error) {
	for range maxSkips {
		no, why := s.fifo.victim()
		if no == none {
			break
		}
		c := &s.chunks[no>>8]
		if c.class == class {
			s.evictPage(no, why)
			c.held++
			s.active++
			at, leaving := *c, s.departing(no)
			s.mu.Unlock()
			s.handDown(at, []departed{leaving})
			s.mu.Lock()
			s.active--
			return no, nil
		}
		if c.held > 0 {
			s.fifo.skip(no)
			continue
		}
		leaving := s.clear(no>>8, no, why)
		return none, s.convert(no>>8, class, leaving)
	}
	return none, s.refuse(errs.NoSpace, "all pages are being read")
}

// departed is a page that left the index and whose bytes are still in its slot.
type departed struct {
	slot   int
	key    Key
	length int
}

// departing describes the page in a slot. mu must be held.
func (s *Segments) departing(no uint32) departed {
	sl := s.slot(no)
	return departed{int(no & 255), sl.key(), int(sl.length)}
}

// clear evicts all pages of a chunk that has none held, and takes its class from it. mu must be held.
func (s *Segments) clear(no, first uint32, why reason) []departed {
	c := &s.chunks[no]
	var all []departed
	for i := range c.slots {
		if c.slots[i].in == nowhere {
			continue
		}
		n := no<<8 | uint32(i)
		all = append(all, s.departing(n))
		if n != first {
			s.evictPage(n, reclaimed)
		} else {
			s.evictPage(n, why)
		}
	}
	s.leaveRoom(no)
	c.slots = nil
	return all
}

// convert makes the chunk, which belongs to the caller alone, one of the class: the pages that are leaving go to the next
// tier, its table is cleared, its data detached. mu must be held; it is released meanwhile.
func (s *Segments) convert(no uint32, class uint8, leaving []departed) error {
	c := s.chunks[no]
	s.active++
	s.converting[class] = true
	s.mu.Unlock()
	s.handDown(c, leaving)
	var err error
	if c.stale {
		if err = c.seg.clearTable(c.n); err == nil {
			err = c.seg.detach(c.seg.dataOff(c.n), chunkBytes)
		}
	}
	s.mu.Lock()
	s.active--
	s.converting[class] = false
	s.change.Broadcast()
	if err == nil {
		if s.credit += c.written; c.written > 0 {
			s.credit = max(0, s.credit+tableBytes(c.class)-tableBytes(class))
		}
		s.chunks[no].written = 0
	}
	if err != nil {
		s.idle = append(s.idle, no)
		return errs.E("page.Put", s.dir, s.failed(err, s.full()), err)
	}
	s.give(no, class)
	return nil
}

// handDown offers the pages, if their bytes are still what they were, to the next tier, and those that come while enough are on their
// way to nobody. It is called without mu.
func (s *Segments) handDown(c chunk, pages []departed) {
	if s.demote == nil {
		return
	}
	for _, p := range pages {
		if f := s.off.Load(); f != nil && f.reads {
			return
		}
		s.moveDown(c, p)
	}
}

func (s *Segments) moveDown(c chunk, p departed) {
	if !s.demotions.TryAcquire(1) {
		return
	}
	defer s.demotions.Release(1)
	buf := moving.Get().(*[Size]byte)
	defer moving.Put(buf)
	data := buf[:p.length]
	switch ok, err := s.load(c, p.slot, p.key, data); {
	case err != nil:
		s.turnOff(err, true)
	case !ok:
		s.corrupt.Add(1)
	case s.demote(p.key, data) == nil:
		s.demoted.Add(1)
	}
}

// load reads the page k, of len(data) bytes, out of its slot, and reports whether it is what was put there. Pages are moved by way of
// memory, not out of the mapping: write(2) of what is not mapped yet copies as far as the next fault, and the kernel clears the rest
// of the file's block each time.
func (s *Segments) load(c chunk, i int, k Key, data []byte) (bool, error) {
	h, ok, err := c.seg.readHeader(c.n, i)
	if err != nil || !ok || h.key != k || int(h.length) != len(data) {
		return false, err
	}
	_, err = c.seg.dev.pread(c.seg.file, data, c.dataOff(i))
	return err == nil && xxh3.Hash(data) == h.sum, err
}

// moving are buffers for pages on their way from one tier to another, of which there are few at a time.
var moving = sync.Pool{New: func() any { return new([Size]byte) }}

// faulted turns the directory off if err says that a mapped page could not be read.
func (s *Segments) faulted(err error) {
	if errors.Is(err, errFault) {
		s.turnOff(err, true)
	}
}

// growth returns how many chunks the next segment file may have. mu must be held.
func (s *Segments) growth() int {
	all := int(s.quota / chunkStride)
	size := minSegment
	for size*segmentsAtQuota < all {
		size *= 2
	}
	return min(size, int((s.quota-s.fileBytes())/chunkStride))
}

// grow adds a segment file. If there is no room for it, the quota shrinks to what there is. mu must be held; it is released
// meanwhile.
func (s *Segments) grow(chunks int) error {
	s.growing = true
	name := filepath.Join(s.dir, fmt.Sprintf(segmentName, s.nextFile))
	s.nextFile++
	s.mu.Unlock()
	g, err := createSegment(s.dev, name, chunks, s.tmpfs)
	s.mu.Lock()
	s.growing = false
	s.change.Broadcast()
	if err == nil {
		first := s.addSegment(g)
		for i := g.chunks - 1; i >= 0; i-- {
			s.idle = append(s.idle, first+uint32(i))
		}
		return nil
	}
	kind := s.failed(err, false)
	if kind == errs.NoSpace && len(s.chunks) > 0 {
		s.quota, s.fullTill, s.refuseTill = s.fileBytes(), time.Time{}, time.Time{}
		s.log.Warn("page cache cannot grow to its quota", "dir", s.dir, "bytes", s.quota, "err", err)
	}
	return errs.E("page.Put", s.dir, kind, err)
}
