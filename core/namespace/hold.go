package namespace

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
)

/*
A write of type ASYNC_THROUGH or MUST_CACHE is acknowledged when workers hold its bytes and the journal has a Local entry
that says who. What becomes of it:

	        written ──► Local ──► staged in the store ──► intent ──► Persisted ──► released by the workers
	                      │              │                   │
	overwritten, renamed, │  the staged  │  nobody changes   │  a crash: the store has just these bytes → Persisted,
	removed: the journal  │  bytes are   │  the name         │  else what is staged is discarded and the entry stays Local
	alone decides         ▼  dropped     ▼                   ▼

Nothing is visible in a store before the intent, and the name's lock is held from there on: an overwrite, a rename or a removal
that came before finds nothing to undo, and one that comes after finds a Persisted file. The step replaces what Hold.Base says
and nothing else, where the store can tell; what somebody else has put there stays, and the entry says that it was refused.
Only the process that leads persists and releases. Who leads next finds the Local entries in the journal.

The index of Local entries (holds) is derived: from the journal when a reign begins, then from each record. It may have
entries that are no more, never lacks one. Bytes that a worker holds and that are neither in it nor being written are nobody's.
*/

// spot is where an entry stands. A directory keeps its number when it is renamed.
type spot struct {
	dir  meta.DirID
	edge string
}

// heldItem is a Local entry in the index. holds.mu guards its fields, but for id.
type heldItem struct {
	id      core.HeldID
	spot    spot
	size    int64
	since   time.Time
	write   core.WriteType
	workers []string
	lost    []string // of them, those that have not the bytes, as two looks at what they hold said
	moves   uint64   // how often it was put somewhere
	refused bool

	asked     bool // to be persisted at once, and whatever its write type
	overwrite bool // also over what others have put there
	running   bool
	due       time.Time
	tries     int
	why       string        // what the last try failed with
	slot      int           // in the heap, -1 if it is not there
	changed   chan struct{} // nil if nobody waits: most items are never waited for
	lacking   time.Time     // since when one of its workers cannot be reached, or has not the bytes
	stuck     string        // what the last try to copy it to another failed with
}

// settled wakes those who wait for the item to get on. holds.mu must be held.
func (it *heldItem) settled() {
	if it.changed != nil {
		close(it.changed)
		it.changed = nil
	}
}

// change returns what settled closes. holds.mu must be held.
func (it *heldItem) change() <-chan struct{} {
	if it.changed == nil {
		it.changed = make(chan struct{})
	}
	return it.changed
}

// dueItems is a heap of items by when they are due.
type dueItems []*heldItem

func (d dueItems) Len() int           { return len(d) }
func (d dueItems) Less(i, j int) bool { return d[i].due.Before(d[j].due) }
func (d dueItems) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].slot, d[j].slot = i, j
}

// Push implements heap.Interface.
func (d *dueItems) Push(x any) {
	it := x.(*heldItem)
	it.slot = len(*d)
	*d = append(*d, it)
}

// Pop implements heap.Interface.
func (d *dueItems) Pop() any {
	last := len(*d) - 1
	it := (*d)[last]
	(*d)[last] = nil
	*d, it.slot = (*d)[:last], -1
	return it
}

// attempt is bytes on their way to workers.
type attempt struct {
	begun   int      // how often, and not ended
	bytes   int64    // all, or those so far if more may come
	workers []string // that have some, or will
}

// holds is the index of the bytes that workers hold, and the queue of those that are to be persisted or released.
type holds struct {
	count atomic.Int64 // of items
	bytes atomic.Int64 // of items and of attempts

	persisted, persistedBytes, failed, fellBack, replicated, orphans atomic.Int64

	woken chan struct{}

	records recordsUnderWay

	mu       sync.Mutex
	items    map[core.HeldID]*heldItem
	at       map[spot]*heldItem
	attempts map[core.HeldID]*attempt // being written: nobody's orphans
	due      dueItems
	freed    map[string][]core.HeldID // by worker: nobody needs them any more
	gone     []goneItem               // forgotten, and to be freed if they stay so
	delays   uint64                   // how often what says how long items wait has changed
	dropped  bool                     // directories were forgotten, and items below them with them
	complete bool                     // the journal was looked through
}

func newHolds() *holds {
	return &holds{
		woken: make(chan struct{}, 1), items: map[core.HeldID]*heldItem{}, at: map[spot]*heldItem{},
		attempts: map[core.HeldID]*attempt{}, freed: map[string][]core.HeldID{},
	}
}

// recordsUnderWay are the records that are being committed and taken into the index. The tree has a record before the index does.
type recordsUnderWay struct {
	mu    sync.Mutex
	begun uint64
	open  map[uint64]struct{}
}

// begin notes a record that is about to be committed; end that the index has it.
func (r *recordsUnderWay) begin() (number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = map[uint64]struct{}{}
	}
	r.begun++
	r.open[r.begun] = struct{}{}
	return r.begun
}

func (r *recordsUnderWay) end(number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, number)
}

// last returns the number of the record begun last.
func (r *recordsUnderWay) last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.begun
}

// ended reports whether the index has all records up to the number.
func (r *recordsUnderWay) ended(number uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for open := range r.open {
		if open <= number {
			return false
		}
	}
	return true
}

// goneItem is an item whose entry was not in the tree. It may have been on its way to another place: whether it was, the index knows
// when it has the records up to the number.
type goneItem struct {
	*heldItem
	after uint64
}

// free has the bytes released of what was forgotten and has not come back.
func (h *holds) free() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = slices.DeleteFunc(h.gone, func(g goneItem) bool {
		if !h.records.ended(g.after) {
			return false
		}
		if h.items[g.id] == nil {
			for _, w := range g.workers {
				h.freed[w] = append(h.freed[w], g.id)
			}
		}
		return true
	})
}

func heldID(e *meta.Entry) core.HeldID { return core.HeldID{ID: e.Hold.ID, Rev: e.Rev} }

// note takes the operations of a record that was committed into the index. The locks of the names they are about are held.
func (h *holds) note(ops []meta.Op) {
	locals := false
	for i := range ops {
		if ops[i].Kind == meta.Set && ops[i].Entry.Class == meta.Local {
			locals = true
		}
	}
	if !locals && h.count.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	last := func(i int) bool { // whether no later operation is about the same edge
		return !slices.ContainsFunc(ops[i+1:], func(op meta.Op) bool {
			return op.Dir == ops[i].Dir && op.Edge == ops[i].Edge && op.Kind != meta.Counter
		})
	}
	for i := range ops {
		if op := &ops[i]; op.Kind == meta.Set && op.Entry.Class == meta.Local {
			h.put(spot{op.Dir, op.Edge}, &op.Entry)
		}
	}
	for i := range ops {
		op := &ops[i]
		switch {
		case op.Kind == meta.DropDir:
			h.dropped = true
		case op.Kind == meta.Del, op.Kind == meta.Set && op.Entry.Class != meta.Local:
			if it := h.at[spot{op.Dir, op.Edge}]; it != nil && last(i) {
				h.drop(it)
			}
		}
	}
	h.wake()
}

// put notes that the Local entry e is at s. h.mu must be held.
func (h *holds) put(s spot, e *meta.Entry) {
	id := heldID(e)
	it := h.items[id]
	if it == nil {
		it = &heldItem{id: id, size: e.Size, since: time.Unix(0, e.Hold.Since), write: core.WriteType(e.Hold.Write), slot: -1}
		h.items[id] = it
		h.count.Add(1)
		h.bytes.Add(e.Size)
		if a := h.attempts[id]; a != nil { // they are the item's now
			h.bytes.Add(-a.bytes)
			a.bytes = 0
		}
	}
	if h.at[it.spot] == it {
		delete(h.at, it.spot)
	}
	if other := h.at[s]; other != nil && other != it {
		h.drop(other)
	}
	if !slices.Equal(it.workers, e.Hold.Workers) {
		it.workers, it.lost = e.Hold.Workers, nil
	}
	it.spot = s
	it.moves++
	h.at[s] = it
	if refused := e.Hold.Refused != ""; refused != it.refused {
		it.refused = refused
		it.settled()
	}
	if it.slot < 0 && !it.running {
		h.schedule(it, time.Time{})
	}
}

// schedule queues the item if it is to be persisted. h.mu must be held.
func (h *holds) schedule(it *heldItem, due time.Time) {
	if it.asked || it.write != core.MustCache && !it.refused {
		it.due = due
		if it.slot < 0 {
			heap.Push(&h.due, it)
		} else {
			heap.Fix(&h.due, it.slot)
		}
	}
}

// reconsider has those items looked at again that wait for no more than their time to come: it may have.
func (h *holds) reconsider() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.delays++
	for _, it := range h.due {
		if it.tries == 0 {
			it.due = time.Time{}
		}
	}
	heap.Init(&h.due)
	h.wake()
}

// drop takes the item out of the index and has its bytes released: a record that was committed says that no entry refers to it any
// more. h.mu must be held.
func (h *holds) drop(it *heldItem) {
	if h.items[it.id] == it {
		h.forget(it)
		for _, w := range it.workers {
			h.freed[w] = append(h.freed[w], it.id)
		}
	}
}

// forget takes the item out of the index. h.mu must be held.
func (h *holds) forget(it *heldItem) {
	delete(h.items, it.id)
	if h.at[it.spot] == it {
		delete(h.at, it.spot)
	}
	if it.slot >= 0 {
		heap.Remove(&h.due, it.slot)
	}
	h.count.Add(-1)
	h.bytes.Add(-it.size)
	it.settled()
}

// wake has the keeper look at the queue.
func (h *holds) wake() {
	select {
	case h.woken <- struct{}{}:
	default:
	}
}

// begin notes an attempt that workers are about to hold; reserve counts n more bytes of it, unless there would be more than limit
// of all; end notes that it has an entry, or never will.
func (h *holds) begin(id core.HeldID, workers ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.attempts[id]
	if a == nil {
		a = &attempt{}
		h.attempts[id] = a
	}
	a.begun++
	a.workers = append(a.workers, workers...)
}

func (h *holds) reserve(id core.HeldID, n, limit int64) (ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := h.bytes.Load(); now >= limit || n > limit-now {
		return false
	}
	h.attempts[id].bytes += n
	h.bytes.Add(n)
	return true
}

func (h *holds) end(id core.HeldID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.attempts[id]
	if a == nil {
		return
	}
	h.bytes.Add(-a.bytes)
	a.bytes = 0
	if a.begun--; a.begun == 0 {
		delete(h.attempts, id)
	}
}

// chooseHolders begins an attempt at up to want workers of none of the failure domains of those beside. Fewer come back if there are
// no more; none at all, and nothing is begun, if one of them was drained in that moment: whoever waits for it may have looked already.
func (n *Namespace) chooseHolders(id core.HeldID, want int, durable bool, beside ...string) []core.Holder {
	some := n.holders.Choose(want, durable, beside...)
	names := make([]string, len(some))
	for i, h := range some {
		names[i] = h.Name()
	}
	n.holds.begin(id, names...)
	for _, name := range n.holders.Leaving() {
		if slices.Contains(names, name) {
			some = nil
		}
	}
	if len(some) == 0 {
		n.holds.end(id)
	}
	return some
}

// release queues bytes that no entry refers to, and none ever will.
func (h *holds) release(id core.HeldID, workers []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range workers {
		h.freed[w] = append(h.freed[w], id)
	}
}

// local reports whether a file whose bytes no store has yet is at the place.
func (p *place) local() bool { return p.entry != nil && p.entry.Class == meta.Local }

// file reports whether a file of the overlay is at the place, wherever its bytes are.
func (p *place) file() bool { return p.persisted() || p.local() }

// hasLocal reports whether a file whose bytes no store has yet is below the directory.
func (n *Namespace) hasLocal(dir meta.DirID) (has bool) {
	n.tree.View(func(v meta.View) { has = v.HasLocal(dir) })
	return has
}

// locate returns where an item is now. ok is false if no name leads to it at the moment.
func (n *Namespace) locate(it *heldItem) (pl place, ok bool) {
	n.holds.mu.Lock()
	s := it.spot
	n.holds.mu.Unlock()
	n.tree.View(func(v meta.View) {
		dir, rooted := v.Path(s.dir)
		if !rooted {
			return
		}
		path, err := core.ParsePath(dir + s.edge)
		if err != nil {
			return
		}
		pl = n.walkIn(v, path)
	})
	return pl, pl.mount != nil && pl.holds(it.id)
}

// holds reports whether the place is a Local entry of those bytes.
func (p *place) holds(id core.HeldID) bool { return p.local() && heldID(p.entry) == id }

// forgetGone takes the item out of the index if the journal has its entry no more, not even out of sight, and reports whether
// it did. A record changes the tree before note changes the index: an item whose entry is moved in that moment seems gone, and is
// put again by note. So what seems gone is released only when it is not put again: see free.
func (n *Namespace) forgetGone(it *heldItem) bool {
	h := n.holds
	h.mu.Lock()
	s, moves := it.spot, it.moves
	h.mu.Unlock()
	stands := false
	n.tree.View(func(v meta.View) {
		e, ok := v.Get(s.dir, s.edge)
		stands = ok && e.Class == meta.Local && heldID(e) == it.id
	})
	if stands {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.items[it.id] != it {
		return true
	}
	if it.moves != moves {
		return false
	}
	h.forget(it)
	h.gone = append(h.gone, goneItem{it, h.records.last()})
	return true
}

// learnHolds looks the journal through for Local entries, beside changes, unless that was done.
func (n *Namespace) learnHolds(ctx context.Context) {
	h := n.holds
	h.mu.Lock()
	complete := h.complete
	h.mu.Unlock()
	if complete {
		return
	}
	var dirs []meta.DirID
	n.tree.View(func(v meta.View) { dirs = slices.Collect(v.Dirs()) })
	for some := range slices.Chunk(dirs, 256) {
		if ctx.Err() != nil {
			return
		}
		n.tree.View(func(v meta.View) {
			for _, dir := range some {
				for edge, e := range v.Locals(dir) {
					n.holds.learn(spot{dir, edge}, e)
				}
			}
		})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.complete, h.dropped = true, true // what was forgotten meanwhile may have been learnt
	h.wake()
}

// learn is put for an entry that a record may have changed since it was read.
func (h *holds) learn(s spot, e *meta.Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.items[heldID(e)] == nil && h.at[s] == nil {
		h.put(s, e)
	}
}

// Held are the numbers of the bytes that workers hold.
type Held struct {
	Files          int64         // whose bytes no store has yet
	Bytes          int64         // of these, and of those being written
	Oldest         time.Duration // since the oldest was acknowledged, of those that are to be persisted; 0 if there are none
	Refused        int64         // files that their store has another version of
	Persisted      int64         // files brought to their stores since this process leads
	PersistedBytes int64
	Failed         int64 // tries that are repeated
	FellBack       int64 // writes that went to their stores at once for lack of workers
	Replicated     int64 // copies made for holders that were lost
	Orphans        int64 // attempts released that no entry referred to
}

// Held returns the numbers of the bytes that workers hold.
func (n *Namespace) Held() Held {
	h := n.holds
	x := Held{Files: h.count.Load(), Bytes: h.bytes.Load(), Persisted: h.persisted.Load(), PersistedBytes: h.persistedBytes.Load(),
		Failed: h.failed.Load(), FellBack: h.fellBack.Load(), Replicated: h.replicated.Load(), Orphans: h.orphans.Load()}
	h.mu.Lock()
	defer h.mu.Unlock()
	oldest := time.Time{}
	for _, it := range h.items {
		switch {
		case it.refused:
			x.Refused++
		case it.write == core.MustCache:
		case oldest.IsZero() || it.since.Before(oldest):
			oldest = it.since
		}
	}
	if !oldest.IsZero() {
		x.Oldest = time.Since(oldest)
	}
	return x
}
