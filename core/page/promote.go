package page

import (
	"context"
	"slices"
	"sync"
)

// promotions is how many pages may wait for the mover. A page beyond it stays where it is until it is read again.
const promotions = 64

// promoteAt is how often a page was read, since it came to its tier or was last spared by eviction, when it moves up. What
// goes by once, such as a scan of everything, moves nothing.
const promoteAt = 2

// ascent is what waits to move up.
type ascent struct {
	next chan Key // capacity promotions

	mu      sync.Mutex
	waiting map[Key]struct{} // what is in next, or being moved
}

func newAscent() ascent {
	return ascent{next: make(chan Key, promotions), waiting: map[Key]struct{}{}}
}

// add has k be moved, unless too much waits already. It does not block.
func (a *ascent) add(k Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, twice := a.waiting[k]; twice {
		return
	}
	select {
	case a.next <- k:
		a.waiting[k] = struct{}{}
	default:
	}
}

func (a *ascent) done(k Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, k)
}

// Promote tells the store that h, a page of its own that Get has just returned for k, was read by somebody who wants it in
// the first tier. The second time it is on its way there, by Run. Promote does no I/O and does not block.
func (t *Tiered) Promote(k Key, h Handle) {
	m, ok := h.(*mapped)
	if !ok || m.uses < promoteAt {
		return
	}
	for _, s := range t.tiers {
		if s == m.store {
			return // none above takes pages
		}
		if s.off.Load() == nil {
			t.ascent.add(k)
			return
		}
	}
}

// Run runs the tiers, and moves pages to the first one as Promote asks for it, one after the other, until ctx ends.
func (t *Tiered) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range t.tiers {
		wg.Go(func() { s.Run(ctx) })
	}
	for {
		select {
		case k := <-t.ascent.next:
			t.raise(k)
			t.ascent.done(k)
		case <-ctx.Done():
			return
		}
	}
}

// raise copies the page to the first tier that takes it and drops it below. If it is dropped by somebody else meanwhile it
// may stay above; nobody asks for it any more.
func (t *Tiered) raise(k Key) {
	for i, s := range t.tiers {
		if !s.Has(k) {
			continue
		}
		moved := s.lend(k, func(data []byte) (err error) {
			for _, above := range t.tiers[:i] {
				if err = above.Put(k, data); err == nil {
					return nil
				}
			}
			return err
		})
		if moved && slices.ContainsFunc(t.tiers[:i], func(above *Segments) bool { return above.Has(k) }) { // not evicted meanwhile
			s.moved(k)
			s.promoted.Add(1)
		}
		return
	}
}

// lend calls use with the bytes of the page k, if it is here and they are what they were, and reports whether that
// succeeded. It does not count as reading the page.
func (s *Segments) lend(k Key, use func(data []byte) error) bool {
	s.mu.Lock()
	no, ok := s.find(k)
	if !ok {
		s.mu.Unlock()
		return false
	}
	s.pin(no)
	c, length := s.chunks[no>>8], s.slot(no).length
	s.mu.Unlock()

	buf := moving.Get().(*[Size]byte)
	defer moving.Put(buf)
	ok, err := s.load(c, int(no&255), k, buf[:length])
	if s.checked(no, ok, err); !ok {
		return false
	}
	err = use(buf[:length])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unpin(no)
	return err == nil
}
