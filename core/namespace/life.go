package namespace

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// A journal can come back from the past: restored from a snapshot, begun again from one member of several, or with a disk
// that was set back. What has happened since is then only in the stores, and all that would follow from the journal (carry
// on with a change, sweep an upload, persist, remove) may be wrong. So a journal has lives, each with an incarnation that is
// drawn at random when the life begins, and a life that begins with an old journal is held: reads are answered, what they
// find being what the stores say; no store is changed, no name, no intent is carried out, no upload swept, until an operator
// releases it (release.go).
//
// The incarnation is journaled under a key of its own, and not derived from the id of the etcd cluster: that is a hash of
// the members' URLs and token, which two restores of one snapshot may share. It is part of the names of cached pages, so that
// none cached in another life is ever read. A life begins when the journal is
//
//	new                                     changes are accepted
//	in another etcd cluster than it was     held: every restore of a snapshot makes another cluster
//	behind what this process has seen       held: see Seen
//	of a life this process does not know    held, likewise
//
// Terms are revisions of etcd, which a restored store begins far ahead of the snapshot's, so none comes twice.

const incarnationKey = "sys/incarnation"

// life is an incarnation as it is journaled.
type life struct {
	ID      string    `json:"id"`
	Store   string    `json:"store,omitempty"` // identity of the KV it was seen in
	Since   time.Time `json:"since"`
	Held    string    `json:"held,omitempty"`    // why
	Earlier []string  `json:"earlier,omitempty"` // the lives before it, oldest first

	releasing bool // Release may commit
}

// maxEarlier bounds how many lives are remembered.
const maxEarlier = 100

// Seen is how far a process has seen the journal get.
type Seen struct {
	Incarnation string `json:"incarnation"`
	Seq         uint64 `json:"seq"`
}

// lifeOf returns the life the journal is in; nil if it was written before there were any.
func lifeOf(ctx context.Context, log *meta.Log) (*life, error) {
	kvs, err := log.ListConfig(ctx, incarnationKey)
	if err != nil || len(kvs) == 0 {
		return nil, err
	}
	l := &life{}
	if err := json.Unmarshal(kvs[0].Value, l); err != nil {
		return nil, errs.E("namespace.Open", incarnationKey, errs.Corrupt, err)
	}
	return l, nil
}

// SeenOf returns how far log, which is loaded, has got; the zero value if nobody has led it yet. Errors: errs.Precondition if
// that does not follow on what was seen last; errs.Corrupt; errs.Unavailable.
func SeenOf(ctx context.Context, log *meta.Log, last Seen) (Seen, error) {
	l, err := lifeOf(ctx, log)
	if err != nil {
		return Seen{}, err
	}
	if why := l.gap(last, log.Seq()); why != "" {
		return Seen{}, errs.New("namespace.Seen", "", errs.Precondition, why)
	}
	if l == nil {
		return Seen{}, nil
	}
	return Seen{Incarnation: l.ID, Seq: log.Seq()}, nil
}

// gap says why a journal in the life l that ends at record seq does not follow on what was seen of it; "" if it does.
func (l *life) gap(seen Seen, seq uint64) string {
	switch {
	case seen.Incarnation == "":
	case l == nil:
		return fmt.Sprintf("the journal has no record of the life in which this process has seen record %d of it", seen.Seq)
	case l.ID == seen.Incarnation && seen.Seq > seq:
		return fmt.Sprintf("the journal was set back: it ends at record %d, and this process has seen record %d", seq, seen.Seq)
	case l.ID != seen.Incarnation && !slices.Contains(l.Earlier, seen.Incarnation):
		return "the journal is in a life that does not follow the one this process has seen"
	}
	return ""
}

// next returns the life that the journal enters, and whether it is another than the one it was in.
func (n *Namespace) next(was *life) (*life, bool) {
	why := was.gap(n.o.Seen, n.Seq())
	if was != nil && was.Store != "" && n.o.Store != "" && was.Store != n.o.Store {
		why = "the journal was restored from a snapshot: it was last in another etcd cluster"
	}
	if was != nil && why == "" {
		now := *was
		now.Store = cmp.Or(n.o.Store, was.Store)
		return &now, now.Store != was.Store
	}
	now := &life{ID: rand.Text(), Store: n.o.Store, Since: time.Now().UTC(), Held: why}
	if was != nil {
		now.Earlier = append(slices.Clone(was.Earlier), was.ID)
	}
	if seen := n.o.Seen.Incarnation; seen != "" && !slices.Contains(now.Earlier, seen) {
		now.Earlier = append(now.Earlier, seen)
	}
	now.Earlier = now.Earlier[max(0, len(now.Earlier)-maxEarlier):]
	return now, true
}

// enterLife begins or goes on with a life of the journal.
func (n *Namespace) enterLife(ctx context.Context) error {
	was, err := lifeOf(ctx, n.log)
	if err != nil {
		return err
	}
	now, changed := n.next(was)
	if changed {
		var jump []meta.Op
		if now.Held != "" {
			jump = n.jump()
			if err := n.uncover(ctx); err != nil {
				return err
			}
		}
		if err := n.keepLife(ctx, now, jump...); err != nil {
			return err
		}
	}
	if now.Held != "" {
		n.o.Logger.Error("changes are held until they are released with `sluice release`; reads go on", "why", now.Held, "incarnation", now.ID)
	}
	n.life.Store(now)
	if now.Held == "" {
		close(n.released)
	}
	return nil
}

// jumpBy is the least, and half the most, by which the counters of a new life are ahead of the last one's.
const jumpBy = 1 << 40

// jump puts the counters out of reach of what the life that is lost has drawn from them: its objects in the stores carry
// numbers that prove whose bytes they are. The distance is random, for a snapshot may be restored twice.
func (n *Namespace) jump() (ops []meta.Op) {
	for _, c := range []*counter{&n.ids, &n.revs, &n.dirs} {
		*c = newCounter(c.name, c.limit+jumpBy+mathrand.Uint64N(jumpBy), 0)
		ops = append(ops, meta.Op{Kind: meta.Counter, Name: c.name, Value: c.limit})
	}
	return ops
}

// uncover removes what hides names of the stores: it hid what a change was about to remove, and what is there by now may be
// another's, put there in the life that is lost. It forgets all sessions, so that no client takes a change that was made in
// that life for one that was not: their next streams find other epochs.
func (n *Namespace) uncover(ctx context.Context) error {
	var ops []meta.Op
	n.tree.View(func(v meta.View) {
		carried := n.carriedFrom(v)
		for edge, e := range v.Children(meta.AnswersDir, "") {
			ops = append(ops, meta.Op{Kind: meta.Del, Dir: meta.AnswersDir, Edge: edge}, meta.Op{Kind: meta.DropDir, Dir: e.Dir})
		}
		for dir := range v.Dirs() {
			for edge, e := range v.Children(dir, "") {
				switch {
				case e.Class == meta.Whiteout && carried[spot{dir, edge}]: // what is there has its new name
				case e.Class == meta.Whiteout:
					ops = append(ops, meta.Op{Kind: meta.Del, Dir: dir, Edge: edge})
				case e.Class == meta.Directory && e.Base.Kind == meta.Opaque:
					open := *e
					open.Base = meta.Base{}
					ops = append(ops, meta.Op{Kind: meta.Set, Dir: dir, Edge: edge, Entry: open})
				}
			}
		}
	})
	for chunk := range slices.Chunk(ops, opsPerRecord) {
		if _, err := n.record(ctx, chunk...); err != nil {
			return err
		}
	}
	n.tree.View(n.answers.restore)
	return nil
}

// carriedFrom returns the old names of the renames that are carried through.
func (n *Namespace) carriedFrom(v meta.View) map[spot]bool {
	all := map[spot]bool{}
	for edge, e := range v.Children(meta.IntentsDir, "") {
		in, err := intentOf(edge, e)
		if err != nil || in.op != opCarry {
			continue
		}
		if from, err := core.ParsePath(in.path); err == nil {
			pl := n.walkIn(v, from)
			all[spot{pl.parent, pl.edge}] = pl.inTree
		}
	}
	return all
}

// keepLife journals the life, with ops.
func (n *Namespace) keepLife(ctx context.Context, l *life, ops ...meta.Op) error {
	b, err := json.Marshal(l)
	if err == nil {
		_, err = n.log.Append(context.WithoutCancel(ctx), meta.Batch{Ops: ops, Puts: []meta.KeyValue{{Key: incarnationKey, Value: b}}})
	}
	return err
}

// held returns errs.Held while changes are held.
func (n *Namespace) held() error {
	l := n.life.Load()
	if l == nil || l.Held == "" {
		return nil
	}
	return errs.New("namespace", "", errs.Held, l.Held+"; nothing is changed until an operator releases it with `sluice release`")
}

// grows returns why nothing but a removal is accepted, nil if it is.
func (n *Namespace) grows() error {
	if err := n.held(); err != nil || n.o.Full == nil {
		return err
	}
	return n.o.Full()
}

// holding is held as a fact.
func (n *Namespace) holding() bool {
	l := n.life.Load()
	return l != nil && l.Held != ""
}

// Released is closed once changes are accepted.
func (n *Namespace) Released() <-chan struct{} { return n.released }

// Seen returns how far this namespace has got.
func (n *Namespace) Seen() Seen {
	l := n.life.Load()
	if l == nil {
		return Seen{}
	}
	return Seen{Incarnation: l.ID, Seq: n.Seq()}
}

// Life implements core.Care.
func (n *Namespace) Life(ctx context.Context) (core.Life, error) {
	if err := n.operator(ctx); err != nil {
		return core.Life{}, err
	}
	l := n.life.Load()
	if l == nil {
		return core.Life{}, errs.New("namespace.Life", "", errs.Unavailable, "the namespace is starting; try again")
	}
	return core.Life{Incarnation: l.ID, Since: l.Since, Held: l.Held, Seq: n.Seq(), Term: n.log.Term()}, nil
}

func (n *Namespace) operator(ctx context.Context) error {
	if !core.PrincipalOf(ctx).Super {
		return errs.New("namespace.Care", "", errs.Permission, "only the superuser takes care of the journal")
	}
	return nil
}

// decideHeld says what is at an entry's place while changes are held: the entry if its store has it as the journal says, else
// what the store has there.
func (nd *node) decideHeld(fact *meta.Fact, fresh bool) (node, load, error) {
	switch {
	case fact.State == meta.Unknown:
		return *nd, unknown, nil
	case !fresh:
		return *nd, revalidate, nil
	case nd.local() && nd.entry.Hold.Base == fact.Row.Version: // the zero Row, of a name that is absent, has none
		return *nd, noLoad, nil
	case fact.State == meta.Absent:
		return *nd, noLoad, notExist(nd.path)
	case nd.local(), nd.persisted() && !sameVersion(nd.entry.Version, fact.Row.Version):
		nd.entry = nil
	}
	return *nd, noLoad, nil
}
