package worker

import (
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
)

// pins are the contents that are pinned in a cache, each until its time is over.
type pins struct {
	cache *page.Cache

	mu     sync.Mutex
	closed bool
	all    map[contentID]*pin
	lapse  *time.Timer // ends those whose time is over; nil while there are none
}

type contentID struct {
	id  [16]byte
	rev uint64
}

func idOf(c page.Content) contentID { return contentID{c.ID, c.Rev} }

// pin is a content that is pinned.
type pin struct {
	content page.Content
	until   time.Time
	ranges  map[[2]int64]struct{} // that are to be here
	bytes   int64                 // in them
}

// keep pins the content, of which bytes [off, off+n) are to be here.
func (p *pins) keep(c page.Content, off, n int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errs.New("worker.Pin", "", errs.Unavailable, "the worker is stopping")
	}
	x := p.all[idOf(c)]
	if x == nil {
		x = &pin{content: c, ranges: map[[2]int64]struct{}{}}
	}
	if _, twice := x.ranges[[2]int64{off, n}]; !twice || !p.cache.Pinned(c) {
		if twice {
			n = 0
		}
		if err := p.cache.PinPart(c, x.bytes+n); err != nil {
			return err
		}
		if !twice {
			x.ranges[[2]int64{off, n}] = struct{}{}
			x.bytes += n
		}
	}
	x.until = time.Now().Add(core.PinTime)
	p.all[idOf(c)] = x
	if p.lapse == nil {
		p.sweep()
	}
	return nil
}

// end ends the content's pin, if there is one.
func (p *pins) end(c page.Content) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, there := p.all[idOf(c)]; there {
		p.cache.Unpin(c)
		delete(p.all, idOf(c))
	}
}

// lapseStep is the least time between two sweeps.
const lapseStep = time.Second

// sweep ends the pins whose time is over, and comes again when that of the next ones is. mu must be held.
func (p *pins) sweep() {
	p.lapse = nil
	now := time.Now()
	var next time.Time
	for id, x := range p.all {
		switch {
		case !x.until.After(now):
			p.cache.Unpin(x.content)
			delete(p.all, id)
		case next.IsZero() || x.until.Before(next):
			next = x.until
		}
	}
	if next.IsZero() || p.closed {
		return
	}
	p.lapse = time.AfterFunc(next.Sub(now)+lapseStep, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.closed {
			p.sweep()
		}
	})
}

// close has no more pins made or ended: the cache is about to close.
func (p *pins) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.lapse != nil {
		p.lapse.Stop()
	}
}
