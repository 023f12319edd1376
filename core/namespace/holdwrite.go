package namespace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// keptBytes is how many of a write's first bytes are kept in memory while workers take them: a write that is no longer than that
// goes to its store at once if a worker is lost on the way.
const keptBytes = 256 << 10

// holdOut takes the bytes of one attempt to several holders at once.
type holdOut struct {
	n                 *Namespace
	id                core.HeldID
	mount             core.Path
	durable           bool
	workers           []string
	outs              []core.HoldWriter
	kept              []byte
	written, reserved int64
	refused           bool // hold_limit would be passed
	ended             bool // neither Commit nor Abort of the outs may follow
}

// hold begins a write that want workers hold, or as many as is usual if that is 0; nil if there are not enough of them, and the
// write goes to the store. Errors: errs.Overload.
func (n *Namespace) hold(ctx context.Context, m *mounted, how core.WriteType, id core.HeldID, size int64, want int) (*holdOut, error) {
	if n.holders == nil || size > n.o.MaxHeld {
		return nil, nil
	}
	if want == 0 && how == core.MustCache {
		want = 1
	} else if want == 0 {
		want = n.o.Replicas
	}
	h := &holdOut{n: n, id: id, mount: m.Path, durable: how == core.AsyncThrough}
	some := n.chooseHolders(id, want, h.durable)
	if len(some) < want {
		if len(some) > 0 {
			n.holds.end(id)
		}
		return nil, nil
	}
	if err := h.reserve(max(size, 0)); err != nil {
		n.holds.end(id)
		return nil, err
	}
	for _, holder := range some {
		out, err := holder.Hold(context.WithoutCancel(ctx), id)
		if err != nil {
			n.o.Logger.Warn("a worker does not take bytes to hold", "worker", holder.Name(), "err", err)
			h.drop()
			return nil, nil
		}
		h.workers, h.outs = append(h.workers, holder.Name()), append(h.outs, out)
	}
	return h, nil
}

// reserve counts n more bytes. Errors: errs.Overload.
func (h *holdOut) reserve(n int64) error {
	if !h.n.holds.reserve(h.id, n, h.n.o.MaxHeld) {
		return errs.New("namespace.Write", h.mount.String(), errs.Overload, fmt.Sprintf(
			"workers hold %d bytes that no store has yet, %d are allowed (hold_limit), and %d more are to come", h.n.holds.bytes.Load(), h.n.o.MaxHeld, n))
	}
	h.reserved += n
	return nil
}

// Write implements io.Writer. After an error nothing more may be written. Errors: errs.Overload and, of a stream that alone is more than
// may be held, errs.TooLarge, too.
func (h *holdOut) Write(p []byte) (int, error) {
	if more := h.written + int64(len(p)) - h.reserved; more > 0 { // nobody has said how many there will be
		if most := h.n.o.MaxHeld; h.written+int64(len(p)) > most { // trying again would not help
			h.refused = true
			return 0, errs.New("namespace.Write", h.mount.String(), errs.TooLarge, fmt.Sprintf("it has more bytes than the %d that workers may hold (hold_limit), "+
				"and the first of them are no more there for the store: send its length beforehand, or write it with CACHE_THROUGH or THROUGH", most))
		}
		if err := h.reserve(more); err != nil {
			h.refused = true
			return 0, err
		}
	}
	if h.written+int64(len(p)) <= keptBytes {
		h.kept = append(h.kept, p...)
	}
	h.written += int64(len(p))
	err := h.each(func(out core.HoldWriter) error {
		_, err := out.Write(p)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// each calls do for all outs at once.
func (h *holdOut) each(do func(core.HoldWriter) error) error {
	fail := make([]error, len(h.outs))
	var wg sync.WaitGroup
	for i, out := range h.outs[1:] {
		wg.Go(func() { fail[i+1] = do(out) })
	}
	fail[0] = do(h.outs[0])
	wg.Wait()
	return errors.Join(fail...)
}

// whole returns all that was written, if it is not too long to be kept.
func (h *holdOut) whole() ([]byte, bool) { return h.kept, int64(len(h.kept)) == h.written }

// commit has all of them hold the bytes.
func (h *holdOut) commit(ctx context.Context) error {
	h.ended = true
	return h.each(func(out core.HoldWriter) error { return out.Commit(ctx, h.durable) })
}

// drop gives the attempt up.
func (h *holdOut) drop() {
	if !h.ended {
		h.ended = true
		for _, out := range h.outs {
			if err := out.Abort(); err != nil {
				h.n.o.Logger.Debug("a worker did not drop what it held", "err", err)
			}
		}
	} else {
		h.n.holds.release(h.id, h.workers)
	}
	h.n.holds.end(h.id)
}

// toStore has the store take what workers were to hold, if all of it is still there. why is what the workers failed with.
func (w *writer) toStore(why error) error {
	if k := errs.KindOf(why); k == errs.Other || k == errs.NotExist || k == errs.Exist {
		why = errs.E("namespace.Write", w.path.String(), errs.Unavailable, why)
	}
	kept, ok := w.hold.whole()
	w.hold.drop()
	w.hold = nil
	if !ok {
		return why
	}
	w.n.o.Logger.Warn("a write goes to its store at once, since a worker was lost", "path", w.path.String(), "err", why)
	old, err := w.n.lookup(w.ctx, w.path)
	if err != nil && errs.KindOf(err) != errs.NotExist {
		return err
	}
	if err := w.openStore(w.ctx, &old); err != nil {
		return err
	}
	w.how = core.CacheThrough
	w.n.holds.fellBack.Add(1)
	_, err = w.out.Write(kept)
	return err
}

// commitHeld makes the bytes that workers hold the file, by the journal alone. The name's lock is held.
func (w *writer) commitHeld(ctx context.Context, pl *place) (core.Info, error) {
	n := w.n
	e := w.entry
	e.Class, e.Version = meta.Local, ""
	e.Hold = &meta.Hold{ID: w.hold.id.ID, Workers: w.hold.workers, Write: string(w.how), Base: w.base, Since: time.Now().UnixNano()}
	info := n.infoAt(*pl, &e)
	info.Write = w.how
	record := newRecord()
	defer record.free()
	record.ops = append(record.ops, n.answered(core.CallOf(ctx), info)...)
	record.ops = append(record.ops, meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: e})
	_, err := n.commit(ctx, record.ops...)
	// After an error the record may be in the journal all the same: what is held is then for whoever leads to release.
	n.holds.end(w.hold.id)
	w.ended, w.entry = true, e
	if err != nil && w.cache != nil {
		w.cache.Drop()
	}
	return info, err
}

// inStore makes sure that the directory of a file that is to be held is one of its store's, too: else a look at the store
// would take it away, and it could not be renamed there.
func (n *Namespace) inStore(ctx context.Context, dir core.Path) error {
	known := func(pl *place) bool {
		f := &pl.mount.features
		if pl.key == "" || pl.hidden || !f.Dirs || !f.Mkdir || pl.entry == nil || pl.mount.derived == nil {
			return true
		}
		return pl.mount.derived.Lookup(pl.key).State == meta.Present
	}
	if pl := n.walk(dir); known(&pl) {
		return nil
	}
	unlock, err := n.locks.lock(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	pl := n.walk(dir)
	if known(&pl) {
		return nil
	}
	if err := n.blocked(&pl); err != nil {
		return err
	}
	return n.parentsThrough(ctx, &pl, nil)
}
