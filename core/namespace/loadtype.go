package namespace

import (
	"cmp"
	"context"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
)

// bound says which facts count for a lookup.
type bound struct {
	oldest time.Time // they were learnt then or later
	absent time.Time // those that say that something is not there, then or later: by core.LoadAlways
	known  bool      // the store is not asked for what is not known, which is not there then: by core.LoadNever
}

// since is since when an answer of the store has to be that makes up for what does not count.
func (b *bound) since() time.Time {
	if b.absent.After(b.oldest) {
		return b.absent
	}
	return b.oldest
}

// looking is the key of a context whose request the load types count for: one that looks, and changes nothing. What a change rests on
// is asked for whatever they are.
type looking struct{}

// looks is the value under it.
type looks uint8

const (
	looksUp looks = iota + 1 // at names
	lists                    // at all names of a directory
)

// looking returns a context of a request that looks in that way.
func (n *Namespace) looking(ctx context.Context, how looks) context.Context {
	if !n.mounts.Load().table.Loads() && !n.rules.Load().Loads() { // in most places there are none
		return ctx
	}
	return context.WithValue(ctx, looking{}, how)
}

func looksOf(ctx context.Context) looks {
	how, _ := ctx.Value(looking{}).(looks)
	return how
}

// loadType returns the load type of the path, which lies in m.
func (n *Namespace) loadType(m *mounted, path string) core.LoadType {
	if m.ID == rootID {
		return core.LoadOnce
	}
	return cmp.Or(n.rules.Load().LoadType(path), m.LoadType)
}

// bounds returns what counts for the request of facts about the path, which lies in m, that were learnt at oldest or later. now is
// when the request began.
func (n *Namespace) bounds(ctx context.Context, m *mounted, path string, oldest, now time.Time) bound {
	b := bound{oldest: oldest}
	if !oldest.IsZero() || m.ID == rootID || m.err != nil || looksOf(ctx) == 0 || n.holding() {
		return b
	}
	switch n.loadType(m, path) {
	case core.LoadNever:
		b.known = true
	case core.LoadAlways:
		b.absent = now
	}
	return b
}

// unlearnt reports whether nobody has learnt of the name at pl, which was unknown when pl was looked at. Changes through Sluice make
// names unknown too, and what is known is forgotten where there is no room for it: such names are asked for.
func (n *Namespace) unlearnt(pl *place) bool {
	d := pl.mount.derived
	return !d.Forgotten(pl.key) && d.Lookup(pl.key).State == meta.Unknown && n.walk(pl.path).entry == nil
}
