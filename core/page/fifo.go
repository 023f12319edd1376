package page

// Policy is how a directory chooses which page leaves.
type Policy string

// The policies.
const (
	// S3FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023) resists scans.
	S3FIFO Policy = "s3fifo"
	// LRU lets go what was not read for the longest time. One scan of everything flushes it.
	LRU Policy = "lru"
)

// fifo chooses which page leaves, by S3-FIFO:
//
//	            miss                      read at least once more
//	page ──────────────► small (10 %) ────────────────────────────► main (90 %) ──► out, when not read since its last turn
//	  │                       │ otherwise                              ▲  └──┘ else once more around
//	  │                       ▼                                        │
//	  └─ miss, but in ── ghost (names only) ───────────────────────────┘
//
// Pages that are read once pass through the small queue alone, so one scan of everything does not flush what is read often.
// Under LRU there is only the main queue, and a page goes to its head each time it is read. Pages of pinned contents are in
// a queue of their own, from which none leaves. The queues are measured in bytes of slots. A fifo is not safe for concurrent use.
type fifo struct {
	at          func(no uint32) *slot
	bytesOf     func(no uint32) int64
	lru         bool
	queues      [4]queue // by slot.in; that of nowhere is not used
	ghost       ghost
	smallTarget int64 // bytes; above it the small queue gives first
}

// The queues a slot can be in.
const (
	nowhere uint8 = iota
	small
	main
	kept
)

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

func newFIFO(at func(uint32) *slot, bytesOf func(uint32) int64, policy Policy) fifo {
	f := fifo{at: at, bytesOf: bytesOf, lru: policy == LRU, ghost: newGhost(1 << 10)}
	for i := range f.queues {
		f.queues[i] = queue{head: none, tail: none}
	}
	return f
}

// add enqueues the slot of a page whose key has the given hash.
func (f *fifo) add(no uint32, hash uint64) {
	if f.lru || f.ghost.take(hash) {
		f.push(no, main)
	} else {
		f.push(no, small)
	}
}

// read notes that the page in the slot was read.
func (f *fifo) read(no uint32) {
	s := f.at(no)
	s.freq = min(maxFreq, s.freq+1)
	if f.lru && s.in == main && f.queues[main].head != no {
		f.move(no, main)
	}
}

// push puts the slot, which is nowhere, to the head of a queue.
func (f *fifo) push(no uint32, in uint8) {
	s, q := f.at(no), &f.queues[in]
	s.in = in
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
	s := f.at(no)
	q := &f.queues[s.in]
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
	s.in = nowhere
}

// move puts the slot to the head of a queue.
func (f *fifo) move(no uint32, in uint8) {
	f.remove(no)
	f.push(no, in)
}

// victim returns the slot that leaves next, still enqueued, and why; none if every page that was looked at is pinned.
func (f *fifo) victim() (no uint32, why reason) {
	last := none // seen, and could go
	for turn := range maxTurns {
		from, other := small, main
		if f.lru || f.queues[small].bytes < f.smallTarget {
			from, other = main, small
		}
		if f.queues[from].tail == none {
			from, other = other, from
		}
		if turn >= maxTurns/2 {
			if last != none {
				return last, cold
			}
			if f.queues[other].tail != none {
				from = other // all pinned there
			}
		}
		if no, why = f.queues[from].tail, once; from == main {
			why = cold
		}
		if no == none {
			return none, 0
		}
		s := f.at(no)
		freq := s.freq
		switch {
		case s.pins > 0: // being read, stays
		case f.lru, freq == 0, from == small && freq == 1:
			return no, why
		case from == main:
			last, freq = no, freq-1
		default:
			last, freq = no, 0
		}
		f.move(no, main)
		s.freq = freq
	}
	return last, cold
}

// skip puts the slot to the end of its queue: it could not be taken.
func (f *fifo) skip(no uint32) { f.move(no, f.at(no).in) }

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
	expired
	reasons
)

func (r reason) String() string { return [reasons]string{"once", "cold", "reclaimed", "expired"}[r] }
