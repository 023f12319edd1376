package namespace

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
)

// stretches are the parts of flat listings that were asked for last. Who lists on from one, and comes to its end, is likely to ask for
// the next: that is asked for while he is still being told of this one, so that neither waits for the other.
type stretches struct {
	mu   sync.Mutex
	last map[stretchOf]stretch
}

type stretchOf struct{ store, dir string }

// stretch is the names after the one up to the other: none, if nothing follows them. ahead is when it was sent for, if that was before
// anybody came to it and nobody has since.
type stretch struct {
	after, last string
	ahead       time.Time
}

// maxStretches bounds of how many directories they are remembered.
const maxStretches = 256

// note remembers a part that was asked for, before others can see it. The first of a directory is none: most directories have no second.
func (p *stretches) note(store string, need meta.Need, l *listed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := stretchOf{store, need.Dir}
	if !l.deep || l.last == "" || need.After == "" {
		delete(p.last, of)
		return
	}
	if p.last == nil || len(p.last) >= maxStretches {
		p.last = map[stretchOf]stretch{}
	}
	x := stretch{after: need.After, last: l.last}
	if l.complete {
		x.last = need.After
	}
	p.last[of] = x
}

// arrived remembers that a part which was sent for ahead can be seen by others now.
func (p *stretches) arrived(store string, need meta.Need, sent time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := stretchOf{store, need.Dir}
	if x, ok := p.last[of]; ok && x.after == need.After {
		x.ahead = sent
		p.last[of] = x
	}
}

// came reports whether the part was sent for ahead at the time or later, and arrived since the caller missed it. It says so once: who
// still misses it asks for it.
func (p *stretches) came(store string, need meta.Need, since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := stretchOf{store, need.Dir}
	x, ok := p.last[of]
	if !ok || x.after != need.After || x.ahead.IsZero() {
		return false
	}
	sent := x.ahead
	x.ahead = time.Time{}
	p.last[of] = x
	return !sent.Before(since)
}

// next returns after which name the part of the directory's listing begins that follows the one with the name.
func (p *stretches) next(of stretchOf, name string) (after string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x, ok := p.last[of]
	return x.last, ok && name > x.after && name <= x.last
}

// aheadInterval is how old facts may be at least that are asked for ahead: others are asked for again by who comes to them.
const aheadInterval = time.Second

// loadAhead asks for the part of the listing that follows the one which the last item shown is in, if that one had to be asked for too.
func (n *Namespace) loadAhead(ctx context.Context, q *meta.Query, it *meta.Item) {
	if !q.Start.HasStore || q.Children || q.Delimiter != "" || it.CommonPrefix || it.Store != q.Start.Store || core.MaxAgeOf(ctx).OnlyIfCached {
		return
	}
	after, ok := n.stretches.next(stretchOf{it.Store, q.Start.Key}, it.Key)
	m := n.mountOf(it.Store)
	if !ok || m == nil || m.err != nil || !strings.HasPrefix(after, q.Start.Key+q.Prefix) { // what follows is not listed
		return
	}
	if d := n.interval(ctx, m, it.Path); d >= 0 && d < aheadInterval || n.loadType(m, it.Path) == core.LoadAlways {
		return
	}
	need := meta.Need{Store: m.ID, Dir: q.Start.Key, After: after, Flat: true}
	n.loadListOnce(ctx, m, need, m.Path.Dir().Child(need.Dir))
}
