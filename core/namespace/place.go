package namespace

import (
	"context"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/seal"
)

// ticketLife is for how long a ticket is good. Clocks of machines may differ by minutes; a ticket that has expired costs its
// holder another question, and one that is good a little too long shows bytes that its holder was allowed to read.
const ticketLife = 15 * time.Minute

// Place implements core.Placer.
func (n *Namespace) Place(ctx context.Context, p core.Path, r core.Range) (core.Placed, error) {
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
	placed := core.Placed{Info: info, Off: off, Len: length}
	expires := time.Now().Add(ticketLife)
	for _, p := range n.pieces(ctx, nd, off, length) {
		placed.Runs = append(placed.Runs, core.Run{ID: p.content.ID, Rev: p.content.Rev, Off: p.off, Len: p.n, Ticket: n.sealer.Sign(&seal.Ticket{
			ID: p.content.ID, Rev: p.content.Rev, Len: p.content.Len, NoCache: p.content.NoCache,
			Store: p.source.m.ID, Key: p.source.key, Version: p.source.version, Base: p.source.base, Expires: expires,
		})})
	}
	return placed, nil
}

// Stores implements core.Placer.
func (n *Namespace) Stores(context.Context) (all []core.StoreSpec, err error) {
	if n.sealer == nil {
		return nil, errs.New("namespace.Stores", "", errs.Unsupported, "the secrets of stores are not given away without a secret key to seal them")
	}
	for _, m := range n.mounts.Load().table.All() {
		if m.ID == rootID {
			continue // every worker is told where it is, as every master
		}
		spec := m.MountSpec
		spec.Options = n.sealer.Options(m.ID, spec.Options)
		all = append(all, core.StoreSpec{ID: m.ID, MountSpec: spec})
	}
	return all, nil
}
