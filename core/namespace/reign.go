package namespace

import (
	"context"
	"io"
	"iter"
	"sync/atomic"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// reigned are the workers that hold, called in the reign of this namespace alone: also what leaves it late, when the process leads
// anew or another one does, says whose it is.
type reigned struct {
	core.Holders
	reign atomic.Pointer[core.Reign] // nil before the life is known
}

func (r *reigned) wrap(all []core.Holder) (some []core.Holder) {
	for _, h := range all {
		some = append(some, &reignedHolder{h, r})
	}
	return some
}

// Choose implements core.Holders.
func (r *reigned) Choose(n int, durable bool, beside ...string) []core.Holder {
	return r.wrap(r.Holders.Choose(n, durable, beside...))
}

// Holder implements core.Holders.
func (r *reigned) Holder(name string) (core.Holder, bool) {
	h, ok := r.Holders.Holder(name)
	if !ok {
		return nil, false
	}
	return &reignedHolder{h, r}, true
}

// All implements core.Holders.
func (r *reigned) All() []core.Holder { return r.wrap(r.Holders.All()) }

// in returns ctx in the reign.
func (r *reigned) in(ctx context.Context) context.Context {
	if reign := r.reign.Load(); reign != nil {
		ctx = core.WithReign(ctx, *reign)
	}
	return ctx
}

// known reports whether the reign is known: what changes what is held must say whose it is.
func (r *reigned) known(worker string) error {
	if r.reign.Load() == nil {
		return errs.New("namespace.Hold", worker, errs.Unavailable, "this process does not lead yet")
	}
	return nil
}

// reignedHolder is one of them.
type reignedHolder struct {
	core.Holder
	of *reigned
}

// Hold implements core.Holder.
func (h *reignedHolder) Hold(ctx context.Context, id core.HeldID) (core.HoldWriter, error) {
	if err := h.of.known(h.Name()); err != nil {
		return nil, err
	}
	return h.Holder.Hold(h.of.in(ctx), id)
}

// Held implements core.Holder.
func (h *reignedHolder) Held(ctx context.Context, id core.HeldID, off, n int64) (io.ReadCloser, error) {
	return h.Holder.Held(h.of.in(ctx), id, off, n)
}

// Release implements core.Holder.
func (h *reignedHolder) Release(ctx context.Context, ids ...core.HeldID) error {
	if err := h.of.known(h.Name()); err != nil {
		return err
	}
	return h.Holder.Release(h.of.in(ctx), ids...)
}

// Holds implements core.Holder.
func (h *reignedHolder) Holds(ctx context.Context) iter.Seq2[core.Held, error] {
	return h.Holder.Holds(h.of.in(ctx))
}
