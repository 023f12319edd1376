package namespace

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

const (
	releaseTime       = 10 * time.Second // for one worker to give up what nobody needs
	replicateParallel = 4                // files copied from worker to worker at once
	leaveTick         = 2 * time.Second  // how often what a worker holds that is to be stopped is looked at
)

// careForHolds releases what nobody needs any more and copies what has lost a holder, until ctx ends.
func (n *Namespace) careForHolds(ctx context.Context) {
	t := time.NewTicker(min(holdTick, n.o.HoldCare))
	defer t.Stop()
	var last, moved time.Time
	var seen doubts
	var pass chan bool // of copies from worker to worker: gets whether some are left for the next; nil if there is none
	var left bool
	var copying sync.WaitGroup
	defer copying.Wait()
	begin := func() {
		moved, left, pass = time.Now(), false, make(chan bool, 1)
		copying.Go(func() { pass <- n.replicate(ctx) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		select {
		case left = <-pass:
			pass = nil
		default:
		}
		n.forgetDropped()
		n.holds.free()
		n.sendReleases(ctx)
		// A pass begins when what earlier ones freed was sent, and nothing is swept beside one: a worker is not told to release what
		// it is just given.
		switch {
		case pass != nil:
		case time.Since(last) >= n.o.HoldCare:
			last = time.Now()
			seen = n.sweepHolders(ctx, seen)
			begin()
		case left, time.Since(moved) >= leaveTick && len(n.holders.Leaving()) > 0:
			begin()
		}
	}
}

// forgetDropped takes those items out of the index that went with a directory.
func (n *Namespace) forgetDropped() {
	h := n.holds
	h.mu.Lock()
	dropped := h.dropped
	h.dropped = false
	var all []*heldItem
	if dropped {
		for _, it := range h.items {
			all = append(all, it)
		}
	}
	h.mu.Unlock()
	for _, it := range all {
		n.forgetGone(it)
	}
}

// sendReleases has workers give up what no entry refers to any more. What does not reach them is found by sweepHolders.
func (n *Namespace) sendReleases(ctx context.Context) {
	h := n.holds
	h.mu.Lock()
	freed := h.freed
	h.freed = map[string][]core.HeldID{}
	for name, ids := range freed {
		freed[name] = slices.DeleteFunc(ids, func(id core.HeldID) bool { return h.items[id] != nil && slices.Contains(h.items[id].workers, name) })
	}
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, ids := range freed {
		if holder, ok := n.holder(name); ok {
			wg.Go(func() { n.releaseAt(ctx, holder, ids) })
		}
	}
}

func (n *Namespace) releaseAt(ctx context.Context, holder core.Holder, ids []core.HeldID) {
	for some := range slices.Chunk(ids, opsPerRecord) {
		if err := holder.Release(ctx, some...); err != nil {
			n.o.Logger.Debug("a worker did not release what nobody needs; it is asked again later", "worker", holder.Name(), "err", err)
			return
		}
	}
}

// claim is an attempt at a worker.
type claim struct {
	worker string
	id     core.HeldID
}

// doubts are what the last look at the workers found that a second one must find too before anything follows from it.
type doubts struct {
	orphans map[claim]bool // held, and no entry refers to it
	absent  map[claim]bool // not held, and an entry says it is
}

// sweepHolders looks at what every worker holds. From the first look of a reign on, which it begins with, workers take nothing from an
// earlier one. What nobody needs is released, and what a worker should have and has not is lost, if
// that was so at the last sweep too; it returns what it doubts now. An attempt that whoever leads next makes is never
// released: its revision is one that this process cannot have drawn.
func (n *Namespace) sweepHolders(ctx context.Context, last doubts) doubts {
	now := doubts{map[claim]bool{}, map[claim]bool{}}
	has := map[string]map[core.HeldID]bool{} // by worker that told everything
	for _, holder := range n.holders.All() {
		ids := map[core.HeldID]bool{}
		var err error
		var held core.Held
		for held, err = range holder.Holds(ctx) {
			if err != nil {
				n.o.Logger.Debug("what a worker holds cannot be told", "worker", holder.Name(), "err", err)
				break
			}
			ids[held.HeldID] = true
		}
		if err == nil {
			has[holder.Name()] = ids
		}
	}
	for name, held := range has {
		var ids []core.HeldID
		for id := range held {
			if n.needed(id, name, has) {
				continue
			}
			o := claim{name, id}
			if now.orphans[o] = true; last.orphans[o] {
				ids = append(ids, id)
			}
		}
		if holder, ok := n.holder(name); ok && len(ids) > 0 && n.leads() == nil {
			n.releaseAt(ctx, holder, ids)
			n.holds.orphans.Add(int64(len(ids)))
		}
	}
	n.holds.miss(has, last.absent, now.absent)
	return now
}

// miss notes which workers have not what the index says they have, if that was so before, and adds to now what is so now.
func (h *holds) miss(has map[string]map[core.HeldID]bool, before, now map[claim]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, it := range h.items {
		var lost []string
		for _, w := range it.workers {
			if held, told := has[w]; told && !held[id] {
				c := claim{w, id}
				if now[c] = true; before[c] {
					lost = append(lost, w)
				}
			}
		}
		it.lost = lost
	}
}

// needed reports whether the worker must keep the bytes, or it cannot be told: they are of another cluster or life, whose journal may
// come back, or those who are to have them do not say that they do. A worker that is called otherwise now has the only copy.
func (n *Namespace) needed(id core.HeldID, worker string, has map[string]map[core.HeldID]bool) bool {
	if id.ID[0] != allocatedTag || !bytes.Equal(id.ID[1:len(n.space)], n.space[1:]) || id.Rev >= n.revs.end() {
		return true
	}
	h := n.holds
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.attempts[id]; ok {
		return true
	}
	it := h.items[id]
	if it == nil {
		return false
	}
	return slices.Contains(it.workers, worker) || slices.ContainsFunc(it.workers, func(w string) bool { return !has[w][id] })
}

// live reports whether a worker that is to have the item's bytes has them, as far as is known. h.mu must be held.
func (n *Namespace) live(it *heldItem, worker string) bool {
	_, ok := n.holder(worker)
	return ok && !slices.Contains(it.lost, worker)
}

// staying returns what says whether a worker has the item's bytes and is to have them on, as far as is known. holds.mu must be
// held where it is called.
func (n *Namespace) staying() func(it *heldItem, worker string) bool {
	there, leaving := map[string]bool{}, n.holders.Leaving()
	return func(it *heldItem, worker string) bool {
		ok, asked := there[worker]
		if !asked {
			_, ok = n.holder(worker)
			ok = ok && !slices.Contains(leaving, worker)
			there[worker] = ok
		}
		return ok && !slices.Contains(it.lost, worker)
	}
}

// lacks reports whether one of the item's workers has been away for so long that it counts as lost. holds.mu must be held.
func (n *Namespace) lacks(it *heldItem) bool {
	return !it.lacking.IsZero() && time.Since(it.lacking) >= n.o.HoldCare
}

// replicate copies what some of its holders have lost, as it seems, and what is held by those that are to be stopped, to others. It
// begins no more copies after leaveTick; left says that there are some.
func (n *Namespace) replicate(ctx context.Context) (left bool) {
	h := n.holds
	var lacking []*heldItem
	now := time.Now()
	leaving := n.holders.Leaving()
	h.mu.Lock()
	for _, it := range h.items {
		leaves, lives, away := false, false, false
		for _, w := range it.workers {
			there := n.live(it, w)
			lives, away = lives || there, away || !there
			leaves = leaves || slices.Contains(leaving, w)
		}
		switch {
		case !away:
			it.lacking = time.Time{}
		case it.lacking.IsZero():
			it.lacking = now
		}
		switch {
		case !away && !leaves:
			it.stuck = ""
		case lives && (leaves || n.lacks(it)):
			lacking = append(lacking, it)
		}
	}
	h.mu.Unlock()
	var failed []error
	var g errgroup.Group
	g.SetLimit(replicateParallel)
	for _, it := range lacking {
		if left = time.Since(now) >= leaveTick; left {
			break
		}
		g.Go(func() error {
			err := n.copyAway(ctx, it)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			it.stuck = err.Error()
			failed = append(failed, err)
			return nil
		})
	}
	_ = g.Wait() // there are none
	if len(failed) > 0 {
		n.o.Logger.Warn("files that lost a holder, or whose holder leaves, could not be copied to others", "files", len(failed),
			"kind", errs.KindOf(failed[0]).Error(), "err", failed[0])
	}
	return left
}

// Leaving says how many files have a worker among their holders, why those that could not be copied to another could not, and how
// many writes to it are under way, which it may hold as soon as they end: until there are none of either it must not be taken away.
// No more writes begin once it is drained.
func (n *Namespace) Leaving(worker string) (files, writes int64, why string) {
	h := n.holds
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, it := range h.items {
		if slices.Contains(it.workers, worker) {
			files, why = files+1, cmp.Or(why, it.stuck)
		}
	}
	for _, a := range h.attempts {
		if slices.Contains(a.workers, worker) {
			writes++
		}
	}
	return files, writes, why
}

// copyAway copies the bytes of an item to as many other workers as do not stay, and journals who holds them then. Those that
// were lost are told to release theirs when they are back.
func (n *Namespace) copyAway(ctx context.Context, it *heldItem) error {
	pl, ok := n.locate(it)
	if !ok {
		return nil
	}
	hold := pl.entry.Hold
	var workers, leaving, lost []string
	stays := n.staying()
	n.holds.mu.Lock()
	for _, w := range hold.Workers {
		switch {
		case stays(it, w):
			workers = append(workers, w)
		case n.live(it, w):
			leaving = append(leaving, w)
		case n.lacks(it):
			lost = append(lost, w)
		default: // it may be back in a moment
			workers = append(workers, w)
		}
	}
	n.holds.mu.Unlock()
	instead := slices.Concat(leaving, lost)
	if len(instead) == 0 {
		return nil
	}
	durable := core.WriteType(hold.Write) == core.AsyncThrough
	some := n.chooseHolders(it.id, len(instead), durable, workers...)
	if len(some) == 0 {
		return errs.New("namespace.replicate", pl.path.String(), errs.Unavailable, "there is no other worker with room in another failure domain")
	}
	defer n.holds.end(it.id) // what is copied is nobody's orphan till then
	for _, to := range some {
		if err := n.copyTo(ctx, &pl, it.id, to, durable); err != nil {
			return err
		}
		workers = append(workers, to.Name())
	}
	// Those for whom there is nobody stay on the list: one that leaves has the bytes yet, and is replaced when another comes.
	for _, w := range instead {
		if len(workers) < len(hold.Workers) && !slices.Contains(workers, w) {
			workers = append(workers, w)
		}
	}
	now, unlock, err := n.lockHeld(ctx, pl.path, it.id)
	if errors.Is(err, errMoved) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	e, h := *now.entry, *now.entry.Hold
	h.Workers = workers
	e.Hold = &h
	if _, err := n.commit(ctx, meta.Op{Kind: meta.Set, Dir: now.parent, Edge: now.edge, Entry: e}); err != nil {
		return err
	}
	n.holds.replicated.Add(1)
	// Others have it for certain: who leaves need not be looked at twice before it is told.
	n.holds.release(it.id, slices.DeleteFunc(instead, func(w string) bool { return slices.Contains(workers, w) }))
	return nil
}

// copyTo copies the bytes of the Local entry at pl to a worker.
func (n *Namespace) copyTo(ctx context.Context, pl *place, id core.HeldID, to core.Holder, durable bool) error {
	out, err := to.Hold(ctx, id)
	if errs.KindOf(err) == errs.Exist { // of a copy that was never journaled, or that another leader has journaled since
		if whole(ctx, to, id, pl.entry.Size) == nil {
			return nil
		}
		if err = n.leads(); err == nil {
			err = to.Release(ctx, id)
		}
		if err == nil {
			out, err = to.Hold(ctx, id)
		}
	}
	if err != nil {
		return err
	}
	if err := n.copyHeld(ctx, pl, 0, out, nil); err != nil {
		return errors.Join(err, out.Abort())
	}
	return out.Commit(ctx, durable)
}

// whole reads the bytes that a worker holds, and reports what is wrong with them.
func whole(ctx context.Context, at core.Holder, id core.HeldID, size int64) error {
	in, err := at.Held(ctx, id, 0, size)
	if err != nil {
		return err
	}
	defer in.Close()
	k, err := io.Copy(io.Discard, in)
	if err == nil && k != size {
		err = io.ErrUnexpectedEOF
	}
	return err
}
