package page

import (
	"cmp"
	"context"
	"sync"
	"time"
)

const (
	scrubRate  = 32 << 20    // bytes per second
	scrubDelay = time.Minute // from the start to the first pass, so that it does not hold up what a start is for
	scrubPause = 100 * time.Millisecond
)

// Run keeps room free in the directory, lets pages expire and verifies them, as its options say, until ctx ends.
func (s *Segments) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { s.runEvict(ctx) })
	if ttl := s.o.TTL; ttl > 0 {
		wg.Go(func() { every(ctx, min(max(ttl/8, time.Second), 10*time.Minute), func() { s.expire(ctx) }) })
	}
	if interval := s.o.ScrubInterval; interval > 0 {
		wg.Go(func() {
			if wait(ctx, min(scrubDelay, interval)) {
				s.scrub(ctx)
				every(ctx, interval, func() { s.scrub(ctx) })
			}
		})
	}
	wg.Wait()
}

// every calls f each time the interval has passed, but not while it runs, until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f()
		case <-ctx.Done():
			return
		}
	}
}

// wait waits, and reports whether ctx still lives.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// now is the time as slot.readAt has it; 0 without a TTL.
func (s *Segments) now() uint32 {
	if s.o.TTL <= 0 {
		return 0
	}
	return uint32(time.Since(s.began) / time.Second)
}

// runEvict lets pages leave down to the low watermark whenever the high one is passed.
func (s *Segments) runEvict(ctx context.Context) {
	for {
		select {
		case <-s.crowded:
			for ctx.Err() == nil && s.makeRoom() {
			}
		case <-ctx.Done():
			return
		}
	}
}

// makeRoom lets one page leave if more than the low watermark is used, and reports whether it did.
func (s *Segments) makeRoom() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.off.Load() != nil || s.used <= s.low {
		return false
	}
	no, why := s.fifo.victim()
	if no == none {
		return false
	}
	s.evictPage(no, why)
	s.chunks[no>>8].held++
	at, leaving := s.chunks[no>>8], s.departing(no)
	s.active++
	s.mu.Unlock()
	s.handDown(at, []departed{leaving})
	s.mu.Lock()
	s.active--
	s.retire([]uint32{no})
	return true
}

// expire drops the pages that were not read for the TTL. They go to no other tier.
func (s *Segments) expire(ctx context.Context) {
	ttl := uint32((s.o.TTL + time.Second - 1) / time.Second)
	for i := 0; ctx.Err() == nil && s.expireChunk(i, ttl); i++ {
	}
}

// expireChunk is expire for one chunk; it returns false if there is none of that number.
func (s *Segments) expireChunk(i int, ttl uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.off.Load() != nil || i >= len(s.chunks) {
		return false
	}
	c, now := &s.chunks[i], s.now()
	var slots []uint32
	for j := range c.slots {
		if sl := &c.slots[j]; (sl.in == small || sl.in == main) && sl.pins == 0 && now-sl.readAt >= ttl {
			no := uint32(i)<<8 | uint32(j)
			s.evictPage(no, expired)
			c.held++
			slots = append(slots, no)
		}
	}
	s.retire(slots)
	return true
}

// scrub verifies every page that is here, one after the other, and drops those that are damaged.
func (s *Segments) scrub(ctx context.Context) {
	rate := cmp.Or(s.o.ScrubRate, scrubRate)
	found := s.corrupt.Load()
	var owed time.Duration // of waiting
	for no := uint32(0); ; {
		next, read := s.scrubNext(no)
		if next == none {
			break
		}
		no = next + 1
		owed += time.Duration(float64(max(read, blockBytes)) / float64(rate) * float64(time.Second))
		if owed >= scrubPause {
			if !wait(ctx, owed) {
				return
			}
			owed = 0
		} else if ctx.Err() != nil {
			return
		}
	}
	s.scrubs.Add(1)
	if found = s.corrupt.Load() - found; found > 0 {
		s.log.Warn("cached pages were found damaged while all were verified; they are dropped", "dir", s.dir, "pages", found)
	}
}

// scrubNext verifies the first page in a slot of at least the given number, and returns its slot and length; none if there
// is no more.
func (s *Segments) scrubNext(no uint32) (uint32, int64) {
	s.mu.Lock()
	if no = s.nextPage(no); no == none {
		s.mu.Unlock()
		return none, 0
	}
	sl := s.slot(no)
	s.pin(no)
	c, k, length := s.chunks[no>>8], sl.key(), sl.length
	s.mu.Unlock()

	ok, err := s.check(c, int(no&255), k, length, false)
	s.scrubbed.Add(1)
	if s.checked(no, ok, err); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unpin(no)
	}
	return no, int64(length)
}

// nextPage returns the first slot from the given one on that has a page, none if there is none. mu must be held.
func (s *Segments) nextPage(no uint32) uint32 {
	if f := s.off.Load(); s.closed || f != nil && f.reads {
		return none
	}
	for i := int(no >> 8); i < len(s.chunks); i++ {
		from := 0
		if i == int(no>>8) {
			from = int(no & 255)
		}
		for j := from; j < len(s.chunks[i].slots); j++ {
			if s.chunks[i].slots[j].in != nowhere {
				return uint32(i)<<8 | uint32(j)
			}
		}
	}
	return none
}
