package page

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/sluicefs/sluice/core/errs"
)

// slot is where a page is, or could be. Slot number 256·c+i is slot i of chunk c. States: free (in its chunk's free list),
// held by a Put that writes it (neither), or a page in the index and a queue. A page dropped while pinned is none of these
// until its last Handle is released.
type slot struct {
	id         [16]byte // of the key, as the next two
	rev        uint64
	index      uint32
	length     uint32
	prev, next uint32 // queue; next also links the free list
	pins       uint32
	readAt     uint32 // seconds since Segments.began; only with a TTL
	freq       uint8
	in         uint8 // queue
	verified   bool  // by this process
	dirty      bool  // was written since its chunk was last prepared
}

func (sl *slot) key() Key { return Key{ID: sl.id, Rev: sl.rev, Index: sl.index} }

// become makes the slot that of a page.
func (sl *slot) become(k Key, length uint32) {
	sl.id, sl.rev, sl.index, sl.length, sl.freq = k.ID, k.Rev, k.Index, length, 0
}

type chunk struct {
	seg     *segment
	n       int // within seg
	class   uint8
	stale   bool   // its table may hold headers
	written int64  // bytes of the slots that were written since it was last prepared
	slots   []slot // nil if it is nobody's
	free    uint32 // first free slot, none if there is none
	nfree   int    // free slots
	held    int    // slots pinned or held by a Put, and once more those in the queue kept
	roomAt  int    // place in Segments.room[class], -1 if not there
}

func (c *chunk) slotBytes() int64          { return classBytes(c.class) }
func (c *chunk) dataOff(i int) int64       { return c.seg.dataOff(c.n) + int64(i)*c.slotBytes() }
func (c *chunk) data(i, length int) []byte { return c.seg.mapped[c.dataOff(i):][:length:length] }

// mapped is the Handle of a page of Segments.
type mapped struct {
	store    *Segments
	no       uint32
	uses     uint8 // slot.freq when it was gotten
	data     []byte
	released atomic.Bool
}

func (h *mapped) Bytes() []byte { return h.data }

func (h *mapped) Release() {
	if h.released.Swap(true) {
		return
	}
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	h.store.unpin(h.no)
}

func (s *Segments) hash(k Key) uint64                    { return maphash.Comparable(s.seed, k) }
func (s *Segments) slot(no uint32) *slot                 { return &s.chunks[no>>8].slots[no&255] }
func (s *Segments) slotBytes(no uint32) int64            { return s.chunks[no>>8].slotBytes() }
func (s *Segments) refuse(k errs.Kind, why string) error { return errs.New("page.Put", s.dir, k, why) }

func (s *Segments) fileBytes() int64 { return segmentBytes(len(s.chunks)) }

// addSegment makes the chunks of g known, as nobody's, and returns the number of the first. mu must be held.
func (s *Segments) addSegment(g *segment) (first uint32) {
	first = uint32(len(s.chunks))
	s.segs = append(s.segs, g)
	for i := range g.chunks {
		s.chunks = append(s.chunks, chunk{seg: g, n: i, free: none, roomAt: -1})
	}
	s.fifo.smallTarget = int64(len(s.chunks)) * chunkBytes / 10
	return first
}

// give makes a chunk that is nobody's one of the class, all its slots free. mu must be held.
func (s *Segments) give(no uint32, class uint8) {
	c := &s.chunks[no]
	c.class, c.stale, c.held = class, true, 0
	c.slots = make([]slot, chunkSlots/int(classes()[class]))
	s.relist(no)
}

// relist makes every slot of the chunk that has no page a free one. mu must be held; no slot is held.
func (s *Segments) relist(no uint32) {
	c := &s.chunks[no]
	c.free, c.nfree = none, 0
	for i := len(c.slots) - 1; i >= 0; i-- {
		if c.slots[i].in == nowhere {
			c.slots[i].next, c.free = c.free, no<<8|uint32(i)
			c.nfree++
		}
	}
	s.leaveRoom(no)
	if c.nfree > 0 {
		s.enterRoom(no)
	}
}

func (s *Segments) enterRoom(no uint32) {
	c := &s.chunks[no]
	c.roomAt = len(s.room[c.class])
	s.room[c.class] = append(s.room[c.class], no)
}

func (s *Segments) leaveRoom(no uint32) {
	c := &s.chunks[no]
	if c.roomAt < 0 {
		return
	}
	room := s.room[c.class]
	last := room[len(room)-1]
	room[c.roomAt] = last
	s.chunks[last].roomAt = c.roomAt
	s.room[c.class] = room[:len(room)-1]
	c.roomAt = -1
}

// takeFree returns a free slot of the class, now held. mu must be held.
func (s *Segments) takeFree(class uint8) (uint32, bool) {
	room := s.room[class]
	if len(room) == 0 {
		return none, false
	}
	no := room[len(room)-1]
	c := &s.chunks[no]
	slotNo := c.free
	c.free = s.slot(slotNo).next
	c.held++
	if c.nfree--; c.nfree == 0 {
		s.leaveRoom(no)
	}
	return slotNo, true
}

// free returns a held slot. A chunk whose slots are all free is nobody's again. mu must be held.
func (s *Segments) free(slotNo uint32) {
	no := slotNo >> 8
	c := &s.chunks[no]
	c.held--
	s.slot(slotNo).next, c.free = c.free, slotNo
	if c.nfree++; c.nfree == len(c.slots) {
		s.leaveRoom(no)
		c.slots = nil
		s.idle = append(s.idle, no)
	} else if c.roomAt < 0 {
		s.enterRoom(no)
	}
}

// pin keeps the slot of a page from being reused. mu must be held.
func (s *Segments) pin(no uint32) {
	s.pinned++
	sl := s.slot(no)
	if sl.pins++; sl.pins == 1 {
		s.chunks[no>>8].held++
	}
}

// unpin undoes one pin; the last one frees the slot of a page that was dropped meanwhile. mu must be held; it may be
// released meanwhile.
func (s *Segments) unpin(no uint32) {
	s.pinned--
	sl := s.slot(no)
	if sl.pins--; sl.pins > 0 {
		return
	}
	if sl.in != nowhere {
		s.chunks[no>>8].held--
	} else {
		s.retire([]uint32{no})
	}
	s.change.Broadcast()
}

// forget takes the page in the slot out of the index, if it is still there. mu must be held.
func (s *Segments) forget(no uint32) {
	sl := s.slot(no)
	if sl.in == nowhere {
		return
	}
	if sl.in == kept {
		s.chunks[no>>8].held--
	}
	s.fifo.remove(no)
	k := sl.key()
	s.index.remove(k, s.hash(k))
	s.used -= s.slotBytes(no)
}

// evictPage forgets the page in the slot to make room. mu must be held.
func (s *Segments) evictPage(no uint32, why reason) {
	k := s.slot(no).key()
	hash := s.hash(k)
	s.forget(no)
	s.trail.note(k, why.left())
	s.evicted[why]++
	if why != cold {
		s.fifo.ghost.add(hash)
	}
}

// retire clears the headers of dropped slots, so that a restart does not find them, and frees them. mu must be held; it is
// released meanwhile.
func (s *Segments) retire(slots []uint32) {
	if len(slots) == 0 {
		return
	}
	s.active++
	chunks := make([]chunk, len(slots))
	for i, no := range slots {
		chunks[i] = s.chunks[no>>8]
	}
	s.mu.Unlock()
	var err error
	for i, no := range slots {
		if err == nil {
			err = chunks[i].seg.writeHeader(chunks[i].n, int(no&255), [headerBytes]byte{})
		}
	}
	s.mu.Lock()
	s.active--
	for _, no := range slots {
		s.free(no)
	}
	if err != nil {
		s.failed(err, s.full())
	}
	s.change.Broadcast()
}
