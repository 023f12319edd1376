package namespace

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/seal"
)

// ticketLife is for how long a ticket is good. Clocks of machines may differ by minutes; a ticket that has expired costs its
// holder another question, and one that is good a little too long shows bytes that its holder was allowed to read.
const ticketLife = 15 * time.Minute

// Place implements core.Placer.
func (n *Namespace) Place(ctx context.Context, p core.Path, r core.Range) (core.Placed, error) {
	return n.place(ctx, p, r, false)
}

// Tending is a Namespace as a core.Placer whose tickets let their holder load, pin and drop pages. It is for the jobs of the leader.
type Tending struct{ *Namespace }

// Place implements core.Placer.
func (t Tending) Place(ctx context.Context, p core.Path, r core.Range) (core.Placed, error) {
	return t.place(ctx, p, r, true)
}

func (n *Namespace) place(ctx context.Context, p core.Path, r core.Range, tends bool) (core.Placed, error) {
	if n.sealer == nil {
		return core.Placed{}, errs.New("namespace.Place", p.String(), errs.Unsupported, "tickets for workers need a secret key")
	}
	nd, err := n.readable(ctx, p)
	if err != nil {
		return core.Placed{}, err
	}
	info, off, length, err := n.span(ctx, nd, r)
	if err != nil || length == 0 {
		return core.Placed{Info: info, Off: off}, err
	}
	if nd.local() {
		return core.Placed{}, errs.New("namespace.Place", p.String(), errs.Unsupported, "no store has its bytes yet")
	}
	placed := core.Placed{Info: info, Off: off, Len: length}
	expires := time.Now().Add(ticketLife)
	copies := n.copies(nd.mount, nd.path)
	for _, p := range n.pieces(ctx, nd, off, length) {
		from := p.source.(extentSource) // what a store has comes from nowhere else
		placed.Runs = append(placed.Runs, core.Run{ID: p.content.ID, Rev: p.content.Rev, Off: p.off, Len: p.n, Copies: copies, Ticket: n.sealer.Sign(&seal.Ticket{
			ID: p.content.ID, Rev: p.content.Rev, Len: p.content.Len, NoCache: p.content.NoCache, Promote: p.content.Promote, Tends: tends,
			Copies: copies.Max, Store: from.m.StoreID(), Key: from.key, Version: from.version, Base: from.base, Expires: expires,
		})})
	}
	return placed, nil
}

// Origin has misses be remembered, under the names that a ticket has for a worker.
func (s extentSource) Origin() page.Origin {
	return page.Origin{Store: s.m.StoreID(), Key: s.key, Version: s.version, Base: s.base}
}

// Follow implements core.Follower.
func (n *Namespace) Follow(ctx context.Context, ticket []byte) ([]byte, error) {
	t, err := n.sealer.Verify(ticket, time.Now())
	if err != nil {
		return nil, err
	}
	gone := errs.New("namespace.Read", t.Key, errs.Conflict, "this version has left the store")
	id, _, _ := strings.Cut(t.Store, ".")
	m := n.mountOf(id)
	if m == nil || m.StoreID() != t.Store || m.derived == nil {
		return nil, gone
	}
	key, version := n.moves.followLast(id, t.Key, t.Version)
	if key == t.Key {
		n.awaitMove(ctx, m, key, time.Now().Add(maxChasing))
		key, version = n.moves.followLast(id, t.Key, t.Version)
	}
	if key == t.Key {
		return nil, gone
	}
	t.Key, t.Version = key, version
	return n.sealer.Sign(t), nil
}

// Source returns where the content of a ticket that this namespace signed is stored, for the cache of this process.
func (n *Namespace) Source(t *seal.Ticket) page.Source { return ticketSource{n, t} }

// ticketSource implements page.Source.
type ticketSource struct {
	n *Namespace
	t *seal.Ticket
}

// Open implements page.Source.
func (s ticketSource) Open(ctx context.Context, off, length int64) (io.ReadCloser, error) {
	id, _, _ := strings.Cut(s.t.Store, ".")
	m := s.n.mounts.Load().byID[id]
	if m == nil || m.StoreID() != s.t.Store {
		return nil, errs.New("namespace.Read", s.t.Key, errs.Conflict, "its mount is no longer there, or of another store")
	}
	if m.err != nil {
		return nil, m.unavailable()
	}
	rc, err := m.store.Open(ctx, s.t.Key, s.t.Base+off, length, s.t.Version)
	if k := errs.KindOf(err); isGone(err) || k == errs.Precondition || k == errs.Range {
		return nil, errs.New("namespace.Read", s.t.Key, errs.Conflict, "this version has left the store")
	}
	return rc, err
}

// Sealer returns what signs this namespace's tickets, nil without a secret key.
func (n *Namespace) Sealer() *seal.Sealer { return n.sealer }

// Stores implements core.Placer.
func (n *Namespace) Stores(context.Context) (all []core.StoreSpec, err error) {
	if n.sealer == nil {
		return nil, errs.New("namespace.Stores", "", errs.Unsupported, "the secrets of stores are not given away without a secret key to seal them")
	}
	for _, m := range n.mounts.Load().table.All() {
		if m.ID == rootID {
			continue // every worker is told where it is, as every master
		}
		spec, serr := n.withSecret(m.MountSpec)
		if serr != nil {
			n.o.Logger.Error("workers are not told of a mount", "path", m.Path.String(), "err", serr)
			continue
		}
		spec.Options = n.sealer.Options(m.StoreID(), spec.Options)
		is := m.Is
		if x := n.mountOf(m.ID); x != nil && x.err == nil { // while changes are held it may be another's
			is = x.features.Is
		}
		all = append(all, core.StoreSpec{ID: m.StoreID(), MountSpec: spec, Is: is})
	}
	return all, nil
}
