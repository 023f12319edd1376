package page

import (
	"errors"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
)

// demotions is how many evicting Puts may move a page to a lower tier at a time. Beyond it evicted pages are simply lost: a slow
// disk must not become the pace of the memory before it.
const demotions = 4

// Tiered is a Store over an ordered list of directories, the fastest first. A page is put into the first that takes it;
// what that one evicts goes to the next, in the goroutine of the Put that needed the room. A page is looked for in order.
// It stays in the tier it is found in, or moves to the first one while Run runs, if that is asked for with Promote.
type Tiered struct {
	tiers  []*Segments
	ascent ascent
	pins   pins
	trail  *trail // of all tiers: what leaves one may come to the next
}

// NewTiered returns the Store over tiers, which belong to it and are not in use yet. With none it keeps nothing.
func NewTiered(tiers ...*Segments) *Tiered {
	t := &Tiered{tiers: tiers, ascent: newAscent(), pins: pins{sizes: map[contentKey]int64{}}, trail: newTrail()}
	for _, s := range tiers {
		s.trail = t.trail
	}
	slots := semaphore.NewWeighted(demotions)
	for i := range len(tiers) - 1 {
		tiers[i].demote, tiers[i].demotions = func(k Key, data []byte) error { return t.admit(i+1, k, data) }, slots
	}
	return t
}

// admit is put, but a page that is beyond what pinned ones may fill of each tier is put where it can be evicted: more of a content
// may be read than was pinned of it.
func (t *Tiered) admit(from int, k Key, data []byte) error {
	err := t.put(from, k, data)
	if err == nil || !t.pins.has(k.content()) {
		return err
	}
	for _, s := range t.tiers[from:] {
		if err = s.put(k, data, true); err == nil {
			return nil
		}
	}
	return err
}

// put puts the page into the first tier from the given one on that takes it.
func (t *Tiered) put(from int, k Key, data []byte) error {
	err := errs.New("page.Put", "", errs.NoSpace, "there is no tier")
	for _, s := range t.tiers[from:] {
		err = s.Put(k, data)
		if err == nil || errors.Is(err, errs.Invalid) || errors.Is(err, errs.TooLarge) || errors.Is(err, unix.EFAULT) { // data's fault
			return err
		}
	}
	return err
}

// Get implements Store.
func (t *Tiered) Get(k Key) (Handle, bool) {
	for _, s := range t.tiers {
		if h, ok := s.Get(k); ok {
			return h, true
		}
	}
	return nil, false
}

// Has implements Store.
func (t *Tiered) Has(k Key) bool {
	for _, s := range t.tiers {
		if s.Has(k) {
			return true
		}
	}
	return false
}

// Put implements Store.
func (t *Tiered) Put(k Key, data []byte) error {
	if t.Has(k) {
		return nil
	}
	return t.admit(0, k, data)
}

// Drop implements Store. A page that is on its way from one tier to the next may stay; nobody asks for it any more.
func (t *Tiered) Drop(k Key, from, to uint32) {
	for _, s := range t.tiers {
		s.Drop(k, from, to)
	}
}

// Close implements Store.
func (t *Tiered) Close() (err error) {
	for _, s := range t.tiers {
		err = errors.Join(err, s.Close())
	}
	return err
}

// Stats returns the numbers of each tier, in order.
func (t *Tiered) Stats() []TierStats {
	all := make([]TierStats, len(t.tiers))
	for i, s := range t.tiers {
		all[i] = s.Stats()
	}
	return all
}
