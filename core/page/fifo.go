package page

// fifo chooses which page leaves, by S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023):
//
//	            miss                      read at least once more
//	page ──────────────► small (10 %) ────────────────────────────► main (90 %) ──► out, when not read since its last turn
//	  │                       │ otherwise                              ▲  └──┘ else once more around
//	  │                       ▼                                        │
//	  └─ miss, but in ── ghost (names only) ───────────────────────────┘
//
// Pages that are read once pass through the small queue alone, so one scan of everything does not flush what is read often.
// The queues are measured in bytes of slots. A fifo is not safe for concurrent use.
type fifo struct {
	at          func(no uint32) *slot
	bytesOf     func(no uint32) int64
	small, main queue
	ghost       ghost
	smallTarget int64 // bytes; above it the small queue gives first
}

const (
	none    = ^uint32(0) // no slot
	maxFreq = 3
	// maxTurns bounds how long one choice of a victim may hold the store's lock: a few tens of microseconds.
	maxTurns = 1024
)

// queue is a list of slots, linked through slot.prev (towards the head) and slot.next (towards the tail).
type queue struct {
	head, tail uint32
	bytes      int64
}

func newFIFO(at func(uint32) *slot, bytesOf func(uint32) int64) fifo {
	return fifo{at: at, bytesOf: bytesOf, small: queue{head: none, tail: none}, main: queue{head: none, tail: none}, ghost: newGhost(1 << 10)}
}

// add enqueues the slot of a page whose key has the given hash.
func (f *fifo) add(no uint32, hash uint64) {
	f.push(no, f.ghost.take(hash))
}

func (f *fifo) push(no uint32, toMain bool) {
	s, q := f.at(no), &f.small
	s.inMain, s.queued, s.freq = toMain, true, 0
	if toMain {
		q = &f.main
	}
	s.prev, s.next = none, q.head
	if q.head != none {
		f.at(q.head).prev = no
	} else {
		q.tail = no
	}
	q.head = no
	q.bytes += f.bytesOf(no)
}

// remove takes the slot out of its queue.
func (f *fifo) remove(no uint32) {
	s, q := f.at(no), &f.small
	if s.inMain {
		q = &f.main
	}
	if s.prev != none {
		f.at(s.prev).next = s.next
	} else {
		q.head = s.next
	}
	if s.next != none {
		f.at(s.next).prev = s.prev
	} else {
		q.tail = s.prev
	}
	q.bytes -= f.bytesOf(no)
	s.queued = false
}

// victim returns the slot that leaves next, still enqueued, and why; none if every page that was looked at is pinned.
func (f *fifo) victim() (no uint32, why reason) {
	last := none // seen, and could go
	for turn := range maxTurns {
		inMain := f.main.tail != none && (f.small.bytes < f.smallTarget || f.small.tail == none)
		if turn >= maxTurns/2 {
			if last != none {
				return last, cold
			}
			inMain = f.main.tail != none && (!inMain || f.small.tail == none) // all pinned there: try the other queue
		}
		if no, why = f.small.tail, once; inMain {
			no, why = f.main.tail, cold
		}
		if no == none {
			return none, 0
		}
		s := f.at(no)
		freq := s.freq
		switch {
		case s.pins > 0: // being read, stays
		case freq == 0 || !inMain && freq == 1:
			return no, why
		case inMain:
			last, freq = no, freq-1
		default:
			last, freq = no, 0
		}
		f.remove(no)
		f.push(no, true)
		s.freq = freq
	}
	return last, cold
}

// skip puts the slot to the end of its queue: it could not be taken.
func (f *fifo) skip(no uint32) {
	s := f.at(no)
	freq, inMain := s.freq, s.inMain
	f.remove(no)
	f.push(no, inMain)
	s.freq = freq
}

// ghost remembers the hashes of pages that left the small queue: four to a bucket, the oldest of a bucket forgotten first,
// 32 bits of each. A false memory costs nothing but a page that begins in the main queue.
type ghost struct{ buckets [][4]uint32 }

func newGhost(entries int) ghost { return ghost{make([][4]uint32, max(1, entries/4))} }

func (g *ghost) bucket(hash uint64) (*[4]uint32, uint32) {
	return &g.buckets[hash%uint64(len(g.buckets))], uint32(hash>>32) | 1 // 0 is an empty place
}

func (g *ghost) add(hash uint64) {
	b, mark := g.bucket(hash)
	copy(b[1:], b[:3])
	b[0] = mark
}

// take reports whether hash is remembered, and forgets it.
func (g *ghost) take(hash uint64) bool {
	b, mark := g.bucket(hash)
	for i := range b {
		if b[i] == mark {
			b[i] = 0
			return true
		}
	}
	return false
}

// grow makes room for the given number of pages; what is remembered is lost when the room doubles.
func (g *ghost) grow(pages int) {
	if pages > 4*len(g.buckets) {
		*g = newGhost(2 * pages)
	}
}

// reason says why a page was evicted.
type reason uint8

const (
	once reason = iota
	cold
	reclaimed
	reasons
)

func (r reason) String() string { return [reasons]string{"once", "cold", "reclaimed"}[r] }
