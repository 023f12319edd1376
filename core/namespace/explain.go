package namespace

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// Explain implements core.Explainer.
func (n *Namespace) Explain(ctx context.Context, p core.Path, o core.ExplainOptions) (core.Explanation, error) {
	who := core.PrincipalOf(ctx)
	if o.For != nil && !who.Super {
		return core.Explanation{}, errs.New("namespace.Explain", p.String(), errs.Permission, "only a superuser is told what others may")
	}
	if p.IsZero() {
		return core.Explanation{}, errs.New("namespace.Explain", "", errs.Invalid, "a path is needed")
	}
	if o.Fresh {
		_, err := n.Stat(core.WithMaxAge(ctx, core.MaxAge{Set: true}), p)
		if err != nil && errs.KindOf(err) != errs.NotExist {
			return core.Explanation{}, err
		}
	}
	ctx = core.WithMaxAge(ctx, core.MaxAge{Set: true, Seconds: -1, OnlyIfCached: true}) // from here on no store is asked
	if err := n.traverse(ctx, p); err != nil {
		return core.Explanation{}, err
	}
	for range chase {
		x, err := n.explainEither(ctx, p)
		if err != nil {
			return core.Explanation{}, err
		}
		if err := n.mayKnow(ctx, x); err != nil {
			return core.Explanation{}, err
		}
		if stands, err := n.explainMore(ctx, x); err != nil {
			return core.Explanation{}, err
		} else if !stands {
			continue
		}
		x.For = who
		if o.For != nil {
			x.For = *o.For
		}
		x.Rights = n.rights(core.WithPrincipal(ctx, x.For), x)
		if !who.Super {
			x.conceal()
		}
		return x.Explanation, nil
	}
	return core.Explanation{}, changing("namespace.Explain", p)
}

// explained is an explanation with what it was made of.
type explained struct {
	core.Explanation
	nd   node
	fact meta.Fact
}

// explainEither is explain for any path: an ambiguous one is the directory if that is known to be there, else the file.
func (n *Namespace) explainEither(ctx context.Context, p core.Path) (*explained, error) {
	if !p.Either() {
		return n.explain(ctx, p)
	}
	d, err := n.explain(ctx, p.Dir())
	if err != nil || d.State == core.NamePresent {
		return d, err
	}
	f, err := n.explain(ctx, p.File())
	if err == nil && f.State == core.NameAbsent && d.State == core.NameUnknown {
		return d, nil
	}
	return f, err
}

// explain says whether the exact path is there, and what an access does.
func (n *Namespace) explain(ctx context.Context, p core.Path) (*explained, error) {
	pl := n.walk(p)
	m := pl.mount
	if m == nil {
		return nil, errs.New("namespace.Explain", p.String(), errs.Unavailable, "what was mounted there has just gone; try again")
	}
	x := &explained{Explanation: core.Explanation{
		Path: p, Mount: n.describe(m.Mount), Kind: m.features.Kind, Policies: n.policiesAt(m, p), State: core.NameUnknown,
	}}
	x.Interval, x.Synced = n.interval(core.WithMaxAge(ctx, core.MaxAge{}), m, p.String()), n.syncs.of(p)
	if !pl.hidden && m.derived != nil {
		x.fact = m.derived.Lookup(pl.key)
		x.Changing = m.derived.Changing(pl.key)
	}
	nd, need, err := n.decide(ctx, pl, bound{}) // what is known, of any age
	x.nd = nd
	switch k := errs.KindOf(err); {
	case err == nil && need == noLoad:
		x.State = core.NamePresent
	case k == errs.NotExist:
		x.State = core.NameAbsent
	case err == nil || k == errs.Unavailable: // no fact, or none without the store
	default:
		return nil, err
	}
	x.Carried = n.carried(&pl)
	x.decided(n, &pl)
	if x.State == core.NamePresent || x.journaled() {
		x.nd.cache = core.Hit
		info := n.infoOf(&x.nd)
		x.Info = &info
	}
	x.access(ctx, n, &pl)
	return x, nil
}

// conceal takes away what only a superuser is told: where the mount's store is and what is wrong with it, and names below a directory.
func (x *explained) conceal() {
	x.Mount.URI, x.Mount.Options, x.Mount.State = "", nil, ""
	if m := x.nd.mount; m.err != nil {
		x.Access = strings.TrimSuffix(x.Access, ": "+m.err.Error())
	}
	if x.nd.dir() {
		for i := range x.Exposed {
			x.Exposed[i].First = nil
		}
		x.Gone.First = nil
	}
	if x.Carried != nil {
		x.Carried.Err, x.Carried.Refused = nil, nil // they may name what is below, and the store
	}
}

// journaled reports whether the journal has what is explained, and it takes the store's word as well to say whether it is there.
func (x *explained) journaled() bool { return x.State == core.NameUnknown && x.nd.entry != nil }

// decided says what the state of the name rests on.
func (x *explained) decided(n *Namespace, pl *place) {
	m, e := pl.mount, pl.entry
	switch {
	case x.journaled():
		x.By = core.ByJournal
	case x.State == core.NameUnknown:
	case pl.path.IsRoot() || e != nil && e.Mount || pl.local() || pl.hidden:
		x.By = core.ByJournal
	case e != nil && e.Class == meta.Persisted:
		x.By, x.At = core.ByStore, pl.check
		if pl.check.IsZero() { // as it was written, or as the journal had it at the start: not compared since
			x.By = core.ByJournal
		}
	case x.fact.State == meta.Unknown, e != nil && x.fact.State == meta.Absent && x.State == core.NamePresent:
		x.By = core.ByJournal // a directory that Sluice made, or that has something of Sluice's in it
	default:
		x.By, x.At = core.ByStore, x.fact.At
		of, listed := m.derived.Deciding(pl.key)
		if of == pl.key {
			break
		}
		if x.By = core.ByDirectory; listed {
			x.By = core.ByListing
		}
		if len(of) <= len(pl.key) { // the names in the store end as the path does
			x.About = x.Path
			for range strings.Count(strings.TrimSuffix(pl.key[len(of):], "/"), "/") + 1 {
				x.About = x.About.Parent()
			}
		}
	}
	if !x.At.IsZero() {
		x.Age = time.Since(x.At)
	}
}

// access says what a request without wishes of its own does now.
func (x *explained) access(ctx context.Context, n *Namespace, pl *place) {
	m := pl.mount
	ctx = core.WithMaxAge(ctx, core.MaxAge{OnlyIfCached: true}) // as old as is configured
	now := time.Now()
	looks := n.looking(ctx, looksUp)
	b := n.bounds(looks, m, x.Path.String(), n.oldest(core.WithMaxAge(ctx, core.MaxAge{}), m, x.Path.String(), now), now)
	_, need, err := n.decide(looks, *pl, b)
	outage := m.outage.Load()
	switch {
	case m.err != nil && pl.entry == nil:
		x.Access = "fails: the mount's store could not be opened: " + m.err.Error()
	case m.err != nil:
		x.Access = "is answered from the journal: the mount's store could not be opened: " + m.err.Error()
	case n.holding() && need != noLoad:
		x.Asks, x.Access = true, "asks the store: the journal is held until it is released, and the store's word is shown beside it"
	case x.journaled() && !n.holding() && !b.known:
		x.Asks, x.Access = true, "asks the store: it is in the journal, and was not compared with the store since this leader began"
	case x.Changing && x.State == core.NameUnknown:
		x.Access = "waits for the change under way"
	case need == noLoad && errs.KindOf(err) == errs.Unavailable:
		x.Asks, x.Access = true, "asks the store: whether there is anything in the directory is not known"
	case need == noLoad && x.State == core.NamePresent && !x.nd.dir() && x.nd.entry == nil && x.nd.row != nil && !x.nd.row.Full:
		x.Asks, x.Access = true, "asks the store for the attributes that a listing does not tell"
	case need == noLoad && b.known && x.State == core.NameUnknown:
		x.Access = "is answered as absent: nobody has asked the store, and it is not asked (load_type NEVER); a sync tells"
	case need == noLoad && x.At.IsZero():
		x.Access = "is answered from the journal, which is the authority"
	case need == noLoad && x.Interval < 0:
		x.Access = "is answered from memory; the store is not asked again (sync_interval -1)"
	case need == noLoad:
		x.Access = fmt.Sprintf("is answered from memory; the store is asked again from %v on", (x.Interval - x.Age).Round(time.Millisecond))
	case need == unknown:
		x.Asks, x.Access = true, "asks the store: nobody has yet, or what it said is forgotten"
	case n.invalid.Load() != nil && n.invalid.Load().at(x.Path.String()).After(x.At):
		x.Asks, x.Access = true, "asks the store: what is known was invalidated"
	case !b.absent.IsZero() && x.State == core.NameAbsent:
		x.Asks, x.Access = true, "asks the store: what is absent is asked for each time (load_type ALWAYS)"
	case x.At.IsZero():
		x.Asks, x.Access = true, "asks the store: what is known was not compared with it since this leader began"
	default:
		x.Asks, x.Access = true, fmt.Sprintf("asks the store: what is known is %v old, and may be %v (sync_interval)", x.Age.Round(time.Millisecond), x.Interval)
	}
	if n.holding() && need == noLoad {
		x.Access += "; the journal is held until it is released"
	}
	out := m.isolation.Outage()
	switch {
	case x.Asks && out != nil:
		since := out.Since.UTC().Format(time.RFC3339)
		_, need, err := n.decide(ctx, *pl, bound{oldest: n.oldestStale(core.WithMaxAge(ctx, core.MaxAge{}), m, x.Path.String(), time.Now())})
		if x.Asks = false; err == nil && need == noLoad {
			x.Access = "is answered from memory and marked STALE: the store has not answered since " + since
		} else {
			x.Access = "fails at once: it needs the store, which has not answered since " + since
		}
	case x.Asks && outage != nil:
		x.Access += "; its last call got no answer"
	}
}

// mayKnow reports errs.Permission unless the principal may read what is explained or, where nothing is known to be there, the
// nearest directory above it that is. Of what is in a mount without access nobody is told, as nobody may look at it.
func (n *Namespace) mayKnow(ctx context.Context, x *explained) error {
	if x.nd.entry == nil || !x.nd.entry.Mount {
		if err := x.nd.mount.denies(x.Path); err != nil {
			return err
		}
	}
	if core.PrincipalOf(ctx).Super {
		return nil
	}
	if x.State == core.NamePresent {
		return n.require(ctx, &x.nd, read)
	}
	for dir := x.Path.Parent(); ; dir = dir.Parent() {
		nd, err := n.dirNode(ctx, dir)
		if errs.KindOf(err) == errs.NotExist && !dir.IsRoot() {
			continue
		}
		if err != nil {
			return err
		}
		return n.require(ctx, &nd, read|execute)
	}
}

// rights returns what the principal may do with what is explained.
func (n *Namespace) rights(ctx context.Context, x *explained) (sum uint32) {
	if n.traverse(ctx, x.Path) != nil || x.nd.mount.denies(x.Path) != nil && !(x.nd.entry != nil && x.nd.entry.Mount) || x.State != core.NamePresent && !x.journaled() {
		return 0
	}
	for _, right := range []uint32{read, write, execute} {
		if !(right == write && x.nd.mount.ReadOnly) && n.require(ctx, &x.nd, right) == nil {
			sum |= right
		}
	}
	return sum
}

// explainMore adds what a file or a directory that is there has beside its state. stands is durabilityOf's.
func (n *Namespace) explainMore(ctx context.Context, x *explained) (stands bool, err error) {
	f := x.nd.mount.features
	switch x.Conditional = f.Conditional; {
	case x.nd.local():
		x.Conditions = "If-Match and If-None-Match are decided in the journal, among Sluice's writers; no store has the file yet"
	case f.Conditional:
		x.Conditions = "If-Match and If-None-Match hold against all who write to the store: it decides them with the write itself"
	default:
		x.Conditions = "If-Match and If-None-Match hold among Sluice's writers only: a " + cmp.Or(f.Kind, "store") + " store of this kind does not decide them with the write, or did not show that it does"
	}
	switch {
	case x.State != core.NamePresent && !x.journaled():
		return true, nil
	case x.nd.dir():
		x.Children = n.knownChildren(&x.nd.place)
		return true, n.exposedBelow(ctx, x)
	case x.State != core.NamePresent && !x.nd.local(): // what its store has is not known
		return true, nil
	}
	d, s, stands := n.durabilityOf(ctx, &x.nd)
	d.Info = *x.Info
	x.Durability = &d
	if x.nd.local() {
		has := heldFile{path: x.Path, size: d.Info.Size, workers: without(d.Holders, s.lack)}
		away := map[string]bool{}
		for _, w := range s.silent {
			away[w] = true
		}
		x.Exposed, x.Gone = exposed([]heldFile{has}, away)
	}
	return stands, context.Cause(ctx) // if it has ended, workers were not heard to the end
}

func (n *Namespace) knownChildren(pl *place) *core.KnownChildren {
	c := &core.KnownChildren{}
	if id, ok := pl.dirID(); ok {
		n.tree.View(func(v meta.View) {
			for range v.Children(id, "") {
				if c.Journaled++; c.Journaled == core.MaxJournaled {
					return
				}
			}
		})
	}
	if pl.hidden || pl.mount.derived == nil {
		c.Complete = true
		return c
	}
	k := pl.mount.derived.Known(pl.key)
	c.Present, c.Absent, c.Complete, c.Oldest = k.Present, k.Absent, k.Complete, k.Oldest
	return c
}

var _ core.Explainer = (*Namespace)(nil)
