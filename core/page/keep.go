package page

import (
	"fmt"
	"sync"

	"github.com/sluicefs/sluice/core/errs"
)

// keepShare is the part of a tier, and so of them all, that pages of pinned contents may fill: 1/keepShare. The rest keeps
// the cache a cache.
const keepShare = 2

// contentKey names a content.
type contentKey struct {
	id  [16]byte
	rev uint64
}

func (k Key) content() contentKey { return contentKey{k.ID, k.Rev} }

// keeper is a Store that can keep contents.
type keeper interface {
	PinPart(of Content, bytes int64) error
	Unpin(of Content)
	Pinned(of Content) bool
}

// Pin has the pages of the content, those that are here and those that come, stay: they are not evicted and do not expire. It
// brings none in. Pages beyond half of the tiers' quotas, as there may be of a content pinned in part, can be evicted. It lasts until Unpin of the same content, or the end of the process; Drop drops pinned pages too. Pinning a
// content twice is pinning it once. Pages that the fast tiers' share for pinned ones has no room for move to slower tiers
// meanwhile. Errors: errs.NoSpace if the
// pinned contents would take more than half of the tiers' quotas; errs.Unsupported if the store cannot.
func (c *Cache) Pin(of Content) error { return c.PinPart(of, of.Len) }

// PinPart is Pin of a content of which at most so many bytes are to be here, and count. Pinned again with more, it is the more
// that counts.
func (c *Cache) PinPart(of Content, bytes int64) error {
	if k, ok := c.store.(keeper); ok {
		return k.PinPart(of, bytes)
	}
	return errs.New("page.Pin", "", errs.Unsupported, "the cache has no tiers to keep pages in")
}

// Unpin ends what Pin began. The pages stay until it is their turn.
func (c *Cache) Unpin(of Content) {
	if k, ok := c.store.(keeper); ok {
		k.Unpin(of)
	}
}

// Pinned reports whether the content is pinned.
func (c *Cache) Pinned(of Content) bool {
	k, ok := c.store.(keeper)
	return ok && k.Pinned(of)
}

// pins are the contents a Tiered keeps.
type pins struct {
	mu    sync.Mutex
	sizes map[contentKey]int64
	bytes int64
}

// slotBytesOf returns what the pages of the content take.
func (c Content) slotBytesOf() int64 {
	if c.Len <= 0 {
		return 0
	}
	last := c.pages() - 1
	return int64(last)*Size + classBytes(classOf(c.pageLen(last)))
}

func classBytes(class uint8) int64 { return int64(classes()[class]) * blockBytes }

// Pin is what Cache.Pin does.
func (t *Tiered) Pin(of Content) error { return t.PinPart(of, of.Len) }

// PinPart is what Cache.PinPart does.
func (t *Tiered) PinPart(of Content, bytes int64) error {
	k, size := of.key(0), min(of.slotBytesOf(), (bytes+Size-1)/Size*Size)
	if of.Len < 0 || of.Len > maxContent {
		return errs.New("page.Pin", "", errs.Invalid, "a content has at most 2^32-1 pages")
	}
	if err := t.pins.take(k.content(), size, t.keepable()); err != nil {
		return err
	}
	for _, s := range t.tiers { // first, so that none is missed that goes from one tier to another meanwhile
		s.setKeep(k.content(), true)
	}
	for i, s := range t.tiers {
		for _, no := range s.keep(k, of.pages()) {
			t.lower(i, Key{k.ID, k.Rev, no})
		}
	}
	return nil
}

// keepable returns how many bytes pinned contents may have.
func (t *Tiered) keepable() (n int64) {
	for _, s := range t.tiers {
		if s.off.Load() == nil {
			n += s.keepQuota()
		}
	}
	return n
}

func (p *pins) take(k contentKey, size, most int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, twice := p.sizes[k]
	if size -= was; twice && size <= 0 {
		return nil
	}
	if p.bytes+size > most {
		return errs.New("page.Pin", "", errs.NoSpace, fmt.Sprintf(
			"%d bytes are pinned of the %d that may be, half of the cache; %d more do not fit. Unpin something, or give the cache more room", p.bytes, most, size))
	}
	p.sizes[k] = was + size
	p.bytes += size
	return nil
}

// Unpin is what Cache.Unpin does.
func (t *Tiered) Unpin(of Content) {
	k := of.key(0)
	t.pins.mu.Lock()
	t.pins.bytes -= t.pins.sizes[k.content()]
	delete(t.pins.sizes, k.content())
	t.pins.mu.Unlock()
	for _, s := range t.tiers {
		s.setKeep(k.content(), false)
		s.unkeep(k, of.pages())
	}
}

// Pinned is what Cache.Pinned does.
func (t *Tiered) Pinned(of Content) bool { return t.pins.has(of.key(0).content()) }

func (p *pins) has(k contentKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.sizes[k]
	return ok
}

// lower moves the page from a tier to one after it, if one takes it.
func (t *Tiered) lower(from int, k Key) {
	s := t.tiers[from]
	if from+1 < len(t.tiers) && s.lend(k, func(data []byte) error { return t.put(from+1, k, data) }) {
		s.moved(k)
		s.demoted.Add(1)
	}
}

// keepQuota returns how many bytes of slots may be in the queue kept.
func (s *Segments) keepQuota() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keepQuotaLocked()
}

func (s *Segments) keepQuotaLocked() int64 { return s.quota / chunkStride * chunkBytes / keepShare }

// keeps reports whether the page stays. mu must be held.
func (s *Segments) keeps(k Key) bool {
	_, ok := s.pins[k.content()]
	return ok
}

// share reports why the page, which is to stay, may not come here. mu must be held.
func (s *Segments) share(k Key, class uint8) error {
	if len(s.pins) > 0 && s.keeps(k) && s.fifo.queues[kept].bytes+classBytes(class) > s.keepQuotaLocked() {
		return s.refuse(errs.NoSpace, "pinned pages fill their share of the directory")
	}
	return nil
}

func (s *Segments) setKeep(k contentKey, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if keep {
		s.pins[k] = struct{}{}
	} else {
		delete(s.pins, k)
	}
}

// keepStep is how many pages are moved between queues under the lock at once.
const keepStep = 1024

// keep has the pages of the content stay that are here, and returns the indexes of those that the share of the tier has no
// room for.
func (s *Segments) keep(k Key, pages uint32) (over []uint32) {
	s.steps(k, pages, func(no uint32) {
		sl := s.slot(no)
		switch {
		case sl.in == kept || !s.keeps(k): // or unpinned meanwhile
		case s.fifo.queues[kept].bytes+s.slotBytes(no) > s.keepQuotaLocked():
			over = append(over, sl.index)
		default:
			s.fifo.move(no, kept)
			s.chunks[no>>8].held++
		}
	})
	return over
}

// unkeep has the pages of the content leave when it is their turn.
func (s *Segments) unkeep(k Key, pages uint32) {
	s.steps(k, pages, func(no uint32) {
		if s.slot(no).in == kept && !s.keeps(k) {
			s.fifo.move(no, main)
			s.chunks[no>>8].held--
		}
	})
}

// steps calls f under mu with the slots of the content's pages that are here.
func (s *Segments) steps(k Key, pages uint32, f func(no uint32)) {
	for from := uint32(0); from < pages; {
		to := from + min(keepStep, pages-from)
		s.mu.Lock()
		for k.Index = from; k.Index < to; k.Index++ {
			if no, ok := s.find(k); ok {
				f(no)
			}
		}
		s.mu.Unlock()
		from = to
	}
}
