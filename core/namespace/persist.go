package namespace

import (
	"container/heap"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/ufs"
)

const (
	persistParallel = 8 // files brought to one mount's store at once
	persistRetryMax = 5 * time.Minute
	holdTick        = 100 * time.Millisecond // how often releases are sent
)

// errMoved is that what was to be persisted is not where it was; whatever it is now is looked at again.
var errMoved = errors.New("the file was changed, renamed or removed meanwhile")

// keepHolds brings held bytes to their stores, releases what nobody needs and copies what lost a holder, until ctx ends.
func (n *Namespace) keepHolds(ctx context.Context) {
	if n.holders == nil {
		return // those that were held when there were workers stay what they are
	}
	select {
	case <-n.released:
	case <-ctx.Done():
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	n.learnHolds(ctx)
	running.Go(func() { n.careForHolds(ctx) })
	lanes := lanes{n: n, of: map[string]*lane{}}
	for ctx.Err() == nil {
		next := time.NewTimer(lanes.dispatch(ctx, running.Go))
		select {
		case <-ctx.Done():
		case <-n.holds.woken:
		case <-next.C:
		}
		next.Stop()
	}
}

// lanes are the mounts' queues of items that are due: a store that does not answer holds up none of the others.
type lanes struct {
	n  *Namespace
	mu sync.Mutex
	of map[string]*lane
}

type lane struct {
	running int
	queue   []*heldItem
}

// dispatch begins what is due, and returns how long nothing will be.
func (l *lanes) dispatch(ctx context.Context, begin func(func())) time.Duration {
	h := l.n.holds
	for {
		h.mu.Lock()
		if len(h.due) == 0 {
			h.mu.Unlock()
			return time.Hour
		}
		if wait := time.Until(h.due[0].due); wait > 0 {
			h.mu.Unlock()
			return wait
		}
		it := heap.Pop(&h.due).(*heldItem)
		it.running = true
		asked, delays := it.asked, h.delays
		h.mu.Unlock()
		pl, ok := l.n.locate(it)
		if !ok {
			l.n.unlocated(it)
			continue
		}
		if due := it.since.Add(*l.n.policies(pl.mount, pl.path).PersistDelay); !asked && time.Until(due) > 0 {
			l.n.postpone(it, due, delays)
			continue
		}
		l.mu.Lock()
		x := l.of[pl.mount.ID]
		if x == nil {
			x = &lane{}
			l.of[pl.mount.ID] = x
		}
		switch {
		case x.running < persistParallel:
			x.running++
			begin(func() { l.work(ctx, x, it) })
		case asked:
			x.queue = slices.Insert(x.queue, 0, it)
		default:
			x.queue = append(x.queue, it)
		}
		l.mu.Unlock()
	}
}

// work persists the item, and then those that wait in its lane.
func (l *lanes) work(ctx context.Context, x *lane, it *heldItem) {
	for it != nil {
		l.n.persistItem(ctx, it)
		it = l.next(ctx, x)
	}
}

// next takes an item from the queue; nil if there is none, and whoever asks has left the lane.
func (l *lanes) next(ctx context.Context, x *lane) *heldItem {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(x.queue) == 0 || ctx.Err() != nil {
		x.running--
		return nil
	}
	it := x.queue[0]
	x.queue[0], x.queue = nil, x.queue[1:]
	return it
}

// again queues an item that is not running any more.
func (n *Namespace) again(it *heldItem, due time.Time) {
	n.holds.mu.Lock()
	defer n.holds.mu.Unlock()
	n.holds.again(it, due)
}

// postpone is again for an item that was not to be tried before due, unless it was asked for since that was found, or the delays
// are others than they were then.
func (n *Namespace) postpone(it *heldItem, due time.Time, delays uint64) {
	n.holds.mu.Lock()
	defer n.holds.mu.Unlock()
	if it.asked || n.holds.delays != delays {
		due = time.Time{}
	}
	n.holds.again(it, due)
}

// again is Namespace.again. h.mu must be held.
func (h *holds) again(it *heldItem, due time.Time) {
	it.running = false
	it.settled()
	if h.items[it.id] == it {
		h.schedule(it, due)
		h.wake()
	}
}

// unlocated deals with an item whose entry is out of sight, or no more.
func (n *Namespace) unlocated(it *heldItem) {
	n.forgetGone(it)
	n.again(it, time.Now().Add(n.o.PersistRetry))
}

// persistItem brings an item to its store, or says why not and when it is tried again.
func (n *Namespace) persistItem(ctx context.Context, it *heldItem) {
	err := n.persist(ctx, it)
	h := n.holds
	switch {
	case err == nil:
		n.again(it, time.Now().Add(n.o.PersistRetry)) // it has left the index, or was refused
		return
	case errors.Is(err, errMoved):
		n.unlocatedOrAgain(it)
		return
	}
	h.failed.Add(1)
	h.mu.Lock()
	it.tries++
	it.why = err.Error()
	pause := retryPause(n.o.PersistRetry, it.tries)
	h.mu.Unlock()
	if ctx.Err() == nil {
		n.o.Logger.Warn("a file could not be brought to its store yet; it is tried again", "in", pause, "kind", errs.KindOf(err).Error(), "err", err)
	}
	n.again(it, time.Now().Add(pause))
}

// retryPause returns how long to wait after so many tries that failed: twice as long from one to the next, and each time
// by chance up to half less, so that what failed together is not tried together.
func retryPause(first time.Duration, tries int) time.Duration {
	pause := max(1, min(first<<min(tries-1, 10), persistRetryMax))
	return pause - rand.N(pause/2+1)
}

func (n *Namespace) unlocatedOrAgain(it *heldItem) {
	if _, ok := n.locate(it); ok {
		n.again(it, time.Time{})
		return
	}
	n.unlocated(it)
}

// persist copies the held bytes into the store's staging and makes them the file there, if the name is still what it was.
func (n *Namespace) persist(ctx context.Context, it *heldItem) error {
	pl, ok := n.locate(it)
	if !ok {
		return errMoved
	}
	m := pl.mount
	switch {
	case m.err != nil:
		return m.unavailable()
	case m.ReadOnly:
		return m.refuses(pl.path)
	}
	if err := n.blocked(&pl); err != nil { // before bytes are sent that the name cannot have yet
		return err
	}
	n.holds.mu.Lock()
	over, turn := it.overwrite, it.tries
	n.holds.mu.Unlock()
	base, err := n.baseNow(ctx, &pl, pl.entry.Hold.Base)
	if err != nil {
		return err
	}
	switch {
	case over:
		info, err := m.store.Stat(ctx, pl.key)
		if err != nil && !isGone(err) {
			return err
		}
		base = info.Version
	case turn > 0, pl.entry.Hold.Refused != "": // nor are they sent to be refused
		if err := n.unreplaced(ctx, &pl, base); refuses(err) {
			return n.refuseOver(ctx, it, &pl, base, over, err)
		} else if err != nil {
			return err
		}
	}
	out, err := n.stageHeld(ctx, &pl, base, turn)
	err = inNoBucket(ctx, &pl, err)
	if refuses(err) {
		return n.refuseOver(ctx, it, &pl, base, over, err)
	}
	if err != nil {
		return err
	}
	ended, err := n.persistStaged(ctx, it, &pl, base, out)
	if !ended {
		if aerr := out.Abort(); aerr != nil {
			n.o.Logger.Debug("staged bytes could not be dropped", "mount", m.Path.String(), "err", aerr)
		}
	}
	if err = inNoBucket(ctx, &pl, err); refuses(err) {
		return n.refuseOver(ctx, it, &pl, base, over, err)
	}
	return err
}

// inNoBucket turns a refusal for want of the bucket into an outage: who makes the bucket again mends it, and nobody else need decide.
func inNoBucket(ctx context.Context, pl *place, err error) error {
	if errs.KindOf(err) != errs.Invalid || !pl.mount.features.Buckets {
		return err
	}
	bucket, _, inside := strings.Cut(pl.key, "/")
	if !inside {
		return err
	}
	if _, serr := pl.mount.store.Stat(ctx, bucket+"/"); serr == nil {
		return err
	}
	return errs.New("namespace.Persist", pl.path.String(), errs.Unavailable,
		fmt.Sprintf("the bucket %q is not there, or cannot be looked at; make it again with mkdir, and what is held goes there (%v)", bucket, err))
}

// refuses reports whether the store will never take the bytes under the name, for what err says.
func refuses(err error) bool {
	switch errs.KindOf(err) {
	case errs.Precondition, errs.Exist, errs.IsDir, errs.NotDir, errs.Invalid, errs.TooLarge, errs.Unsupported:
		return true
	}
	return false
}

// stageHeld copies the bytes of the Local entry at pl into the staging of its store. turn says with which worker to begin.
func (n *Namespace) stageHeld(ctx context.Context, pl *place, base string, turn int) (ufs.Writer, error) {
	e, m := pl.entry, pl.mount
	w := &writer{id: e.ID, rev: e.Rev, entry: *e}
	so := ufs.CreateOptions{Attr: w.attr()}
	if m.features.Conditional {
		so.IfNew, so.IfVersion = base == "", base
	}
	var sum hash.Hash
	if want, err := hex.DecodeString(e.ETag); err == nil && len(want) == md5.Size {
		sum, so.MD5 = md5.New(), want
	}
	out, err := m.store.Create(ctx, pl.key, e.Size, so)
	if err != nil {
		return nil, err
	}
	if err = n.copyHeld(ctx, pl, turn, out, sum); err == nil && sum != nil && string(sum.Sum(nil)) != string(so.MD5) {
		err = errs.New("namespace.Persist", pl.path.String(), errs.Corrupt, "what a worker holds is not what was acknowledged")
	}
	if err != nil {
		return nil, errors.Join(err, out.Abort())
	}
	return out, nil
}

// copyHeld writes the bytes of the Local entry at pl to out and, if it is not nil, to sum.
func (n *Namespace) copyHeld(ctx context.Context, pl *place, turn int, out io.Writer, sum hash.Hash) error {
	if pl.entry.Size == 0 {
		return nil
	}
	src := n.heldSource(pl)
	turn %= len(src.workers)
	src.workers = slices.Concat(src.workers[turn:], src.workers[:turn])
	in, err := src.Open(ctx, 0, pl.entry.Size)
	if err != nil {
		return err
	}
	defer in.Close()
	if sum != nil {
		out = io.MultiWriter(out, sum)
	}
	k, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, min(pl.entry.Size, page.Size/4)))
	if err == nil && k != pl.entry.Size {
		err = errs.E("namespace.Persist", pl.path.String(), errs.Unavailable, io.ErrUnexpectedEOF)
	}
	return err
}

// persistStaged makes the staged bytes the file in the store, under the lock of its name. ended says
// that out was committed, with whatever outcome.
func (n *Namespace) persistStaged(ctx context.Context, it *heldItem, was *place, base string, out ufs.Writer) (ended bool, err error) {
	compared := func() {}
	defer func() { compared() }() // after the lock is given back
	pl, unlock, err := n.lockHeld(ctx, was.path, it.id)
	if err != nil {
		return false, err
	}
	defer unlock()
	if !pl.mount.is(was.mount) || pl.key != was.key {
		return false, errMoved
	}
	if err := n.blocked(&pl); err != nil {
		return false, err
	}
	m := pl.mount
	e := *pl.entry
	e.Class, e.Hold = meta.Persisted, nil
	if !m.features.Conditional {
		if err := n.unreplaced(ctx, &pl, base); err != nil {
			return false, err
		}
	}
	w := &writer{id: e.ID, rev: e.Rev, entry: e}
	if err := out.SetAttr(w.attr()); err != nil && errs.KindOf(err) != errs.Unsupported {
		return false, err
	}
	in := openIntent{op: opPersist, path: pl.path.String(), store: m.ID, key: pl.key, token: out.Token(), entry: e}
	var stored ufs.Info
	var at time.Time
	err = n.through(core.WithCall(ctx, core.Call{}), &pl, &in, func(ctx context.Context) error {
		var err error
		ended, at = true, time.Now()
		stored, err = out.Commit(ctx)
		if k := errs.KindOf(err); k == errs.Precondition || k == errs.Exist { // an earlier try may have arrived late
			if info, serr := m.store.Stat(ctx, pl.key); serr == nil {
				if same, herr := m.has(ctx, info, &e); herr == nil && same {
					stored, err = info, nil
				}
			}
		}
		return err
	}, func(ops []meta.Op) []meta.Op {
		e.Version = stored.Version // all else stays what was acknowledged
		// Nobody's change is under way here: who compares the entry with the store from now on waits until the lock is free.
		if done, err := n.reconciling.lock(ctx, pl.path); err == nil {
			compared = done
		}
		return append(ops, meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: e})
	}, &stored)
	if err != nil {
		return ended, err
	}
	n.tree.MarkChecked(pl.parent, pl.edge, e.Version, at)
	n.holds.persisted.Add(1)
	n.holds.persistedBytes.Add(e.Size)
	return true, nil
}

// lockPoll is how often a lock that is not free is looked at again.
const lockPoll = 2 * time.Millisecond

// lockHeld takes the lock of p while a Local entry of the bytes id is there; else it returns errMoved. It does not queue for the lock:
// who asks the store about a name takes whoever has its lock for one that is changing it, and once the entry has gone nothing
// is changed here.
func (n *Namespace) lockHeld(ctx context.Context, p core.Path, id core.HeldID) (pl place, unlock func(), err error) {
	t := time.NewTicker(lockPoll)
	defer t.Stop()
	for {
		if pl = n.walk(p); !pl.holds(id) {
			return pl, nil, errMoved
		}
		if unlock, ok := n.locks.tryLock(p); ok {
			if pl = n.walk(p); pl.holds(id) {
				return pl, unlock, nil
			}
			unlock()
			return pl, nil, errMoved
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return pl, nil, context.Cause(ctx)
		}
	}
}

// unreplaced looks whether the store still has the version that the bytes at pl are to replace.
func (n *Namespace) unreplaced(ctx context.Context, pl *place, base string) error {
	info, err := pl.mount.store.Stat(ctx, pl.key)
	if err != nil && !isGone(err) {
		return err
	}
	if info.Version == base {
		return nil
	}
	same := false
	if err == nil {
		if same, err = pl.mount.has(ctx, info, pl.entry); err != nil {
			return err
		}
	}
	if !same {
		return errs.New("namespace.Persist", pl.path.String(), errs.Precondition, "the store has another version")
	}
	return nil
}

// baseNow returns the version base of what the store has or had at pl as the store calls it by now, if only other facts of the file
// were changed since.
func (n *Namespace) baseNow(ctx context.Context, pl *place, base string) (string, error) {
	if base == "" || !pl.mount.features.VersionTail {
		return base, nil
	}
	info, err := pl.mount.store.Stat(ctx, pl.key)
	if isGone(err) {
		return base, nil
	}
	if err != nil {
		return "", err
	}
	if same, err := pl.mount.unchanged(ctx, info, base); err != nil || !same {
		return base, err
	}
	return info.Version, nil
}

// unchanged reports whether what the store has, of which it says info, are certainly the bytes of the version base. Where a version
// changes with other facts, too, the bytes are compared with the ETag that is kept with them: who writes into a file and
// puts its modification time back changes no more of the version than who changes its mode.
func (m *mounted) unchanged(ctx context.Context, info ufs.Info, base string) (bool, error) {
	switch {
	case info.Version == base:
		return true, nil
	case base == "" || info.Dir || !ufs.MayBeSame(m.features, info.Version, base):
		return false, nil
	}
	return m.hashesTo(ctx, info, info.Attr.ETag)
}

// has reports whether what the store has, of which it says info, are the bytes of the entry: by what it keeps with them or,
// where it keeps nothing, by the bytes.
func (m *mounted) has(ctx context.Context, info ufs.Info, e *meta.Entry) (bool, error) {
	if m.features.Attrs || !isMD5(e.ETag) || info.Dir || info.Size != e.Size {
		return ours(info, e), nil
	}
	return m.hashesTo(ctx, info, e.ETag)
}

func isMD5(etag string) bool {
	b, err := hex.DecodeString(etag)
	return err == nil && len(b) == md5.Size
}

// hashesTo reports whether etag is the MD5 of what the store has, of which it says info; false if it is no MD5, or there is
// something else by now.
func (m *mounted) hashesTo(ctx context.Context, info ufs.Info, etag string) (bool, error) {
	if !isMD5(etag) {
		return false, nil
	}
	in, err := m.store.Open(ctx, info.Name, 0, -1, info.Version)
	sum := md5.New()
	if err == nil {
		defer in.Close()
		_, err = io.Copy(sum, in)
	}
	if c, ok := in.(ufs.Checker); ok && err == nil {
		err = c.Check()
	}
	if isGone(err) || errs.KindOf(err) == errs.Precondition {
		return false, nil
	}
	return err == nil && hex.EncodeToString(sum.Sum(nil)) == etag, err
}

// refuseOver is refuse, unless nothing but other facts of the store's file were changed since base was its version, as a backup may do at
// any moment: then it is tried again.
func (n *Namespace) refuseOver(ctx context.Context, it *heldItem, was *place, base string, over bool, why error) error {
	if errs.KindOf(why) == errs.Precondition {
		now, err := n.baseNow(ctx, was, base)
		if err != nil {
			return err
		}
		if now != base {
			return errs.New("namespace.Persist", was.path.String(), errs.Unavailable, "other facts of the store's file were changed meanwhile; it is tried again")
		}
	}
	return n.refuse(ctx, it, was, over, why)
}

// refuse notes in the entry why the store does not take its bytes. They stay where they are until somebody decides: who has, since the
// try that was over others' file or not began, is heard. Errors: errMoved if the bytes are to go to another store by now, or to replace
// something else there, than when that try began.
func (n *Namespace) refuse(ctx context.Context, it *heldItem, was *place, over bool, why error) error {
	pl, unlock, err := n.lockHeld(ctx, was.path, it.id)
	if err != nil {
		return err
	}
	defer unlock()
	if !pl.mount.is(was.mount) || pl.entry.Hold.Base != was.entry.Hold.Base { // what was taken for the mount's was not asked
		return errMoved
	}
	text := why.Error()
	if k := errs.KindOf(why); k == errs.Precondition || k == errs.Exist {
		text = "the store's file was changed by others since it was last seen; it stays as it is (" + text + ")"
	}
	e, h := *pl.entry, *pl.entry.Hold
	h.Refused = text
	e.Hold = &h
	n.holds.mu.Lock()
	if it.why = text; it.overwrite == over {
		it.asked, it.overwrite = false, false
	}
	n.holds.mu.Unlock()
	if _, err := n.commit(ctx, meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: e}); err != nil {
		return err
	}
	n.o.Logger.Error("a file cannot be brought to its store; its readers go on seeing what was acknowledged", "path", pl.path.String(), "why", text)
	n.holds.mu.Lock()
	defer n.holds.mu.Unlock()
	it.settled()
	return nil
}

// Persist implements core.Persister.
func (n *Namespace) Persist(ctx context.Context, p core.Path, o core.PersistOptions) (done core.Persisted, err error) {
	if err := n.held(); err != nil {
		return done, err
	}
	if err := n.traverse(ctx, p); err != nil {
		return done, err
	}
	nd, err := n.resolve(ctx, p)
	if err != nil {
		return done, err
	}
	if err := n.require(ctx, &nd, write); err != nil {
		return done, err
	}
	var items []*heldItem
	if !nd.dir() {
		if !nd.local() {
			return done, nil
		}
		if it := n.itemOf(&nd.place); it != nil {
			items = append(items, it)
		}
	} else if items = n.itemsBelow(ctx, nd.path); ctx.Err() != nil {
		return done, context.Cause(ctx)
	}
	if len(items) > 0 && n.holders == nil {
		return done, n.noHolders(p)
	}
	for _, it := range items {
		done.Files, done.Bytes = done.Files+1, done.Bytes+it.size
		n.holds.ask(it, o.Overwrite)
	}
	n.holds.wake()
	if !o.Wait {
		return done, nil
	}
	var refused []error
	for _, it := range items {
		if err := n.await(ctx, it, math.MaxInt); errs.KindOf(err) == errs.Conflict {
			refused = append(refused, err)
		} else if err != nil {
			return done, err
		}
	}
	return done, errors.Join(refused...)
}

func (n *Namespace) noHolders(p core.Path) error {
	return errs.New("namespace.Persist", p.String(), errs.Unavailable, "no store has its bytes yet, and there are no workers that could give them")
}

// itemOf returns the item of the Local entry at pl, nil if it is no more.
func (n *Namespace) itemOf(pl *place) *heldItem {
	if !pl.local() {
		return nil
	}
	n.holds.mu.Lock()
	it := n.holds.items[heldID(pl.entry)]
	n.holds.mu.Unlock()
	if it == nil { // the journal is still being looked through
		n.holds.learn(spot{pl.parent, pl.edge}, pl.entry)
		n.holds.mu.Lock()
		defer n.holds.mu.Unlock()
		return n.holds.items[heldID(pl.entry)]
	}
	return it
}

// itemsBelow returns the items of the Local entries below the directory dir; those known so far if ctx ends. It does not wait for
// keepHolds, which may not have come to them yet: who asks right after a failover means these files too.
func (n *Namespace) itemsBelow(ctx context.Context, dir core.Path) (items []*heldItem) {
	n.learnHolds(ctx)
	n.holds.mu.Lock()
	all := make([]*heldItem, 0, len(n.holds.items))
	for _, it := range n.holds.items {
		all = append(all, it)
	}
	n.holds.mu.Unlock()
	for _, it := range all {
		if pl, ok := n.locate(it); ok && dir.Contains(pl.path) {
			items = append(items, it)
		}
	}
	return items
}

// ask has the item persisted at once.
func (h *holds) ask(it *heldItem, overwrite bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.items[it.id] != it {
		return
	}
	it.asked, it.overwrite = true, it.overwrite || overwrite
	if !it.running {
		h.schedule(it, time.Time{})
	}
}

// hurry has the items looked at at once, however long the pause after their last try was to be.
func (h *holds) hurry(items []*heldItem) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, it := range items {
		if h.items[it.id] == it && !it.running {
			h.schedule(it, time.Time{})
		}
	}
	h.wake()
}

// await waits until the item was persisted, or has gone. Errors: errs.Conflict if it was refused; errs.Unavailable if more than so
// many tries have failed; ctx's, with what the last try failed with.
func (n *Namespace) await(ctx context.Context, it *heldItem, tries int) error {
	h := n.holds
	for {
		h.mu.Lock()
		changed, there, why := it.change(), h.items[it.id] == it || it.running, it.why
		refused, failed := it.refused && !it.asked, it.tries > tries
		h.mu.Unlock()
		switch {
		case !there:
			return nil
		case refused:
			return errs.New("namespace.Persist", n.nameOf(it), errs.Conflict, why)
		case failed:
			return errs.New("namespace.Persist", n.nameOf(it), errs.Unavailable, why)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			h.mu.Lock()
			why = it.why
			h.mu.Unlock()
			if why != "" {
				return fmt.Errorf("%w; the last try failed: %s", context.Cause(ctx), why)
			}
			return context.Cause(ctx)
		}
	}
}

func (n *Namespace) nameOf(it *heldItem) string {
	pl, _ := n.locate(it)
	return pl.path.String()
}

// toStore has the file p, of which workers hold the bytes, brought to its store, and waits for that; with once, no longer than until
// a try fails. The caller holds no lock.
func (n *Namespace) toStore(ctx context.Context, p core.Path, once bool) error {
	pl := n.walk(p)
	it := n.itemOf(&pl)
	if it == nil {
		return nil
	}
	if n.holders == nil {
		return n.noHolders(p)
	}
	tries := math.MaxInt
	if once {
		n.holds.mu.Lock()
		tries = it.tries
		n.holds.mu.Unlock()
	}
	n.holds.ask(it, false)
	n.holds.wake()
	return n.await(ctx, it, tries)
}

// lookTime is how long a worker may take to say whether it has something.
const lookTime = 2 * time.Second

// said is what the workers of a Local entry say of its bytes, when asked.
type said struct {
	lack   []string // they have them not
	silent []string // they cannot be reached, or do not say
}

// askHolders asks the workers of a Local entry whether they have its bytes.
func (n *Namespace) askHolders(ctx context.Context, e *meta.Entry) (s said) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	answers := make([]error, len(e.Hold.Workers))
	var wg sync.WaitGroup
	for i, w := range e.Hold.Workers {
		wg.Go(func() {
			h, ok := n.holder(w)
			if !ok {
				answers[i] = errs.E("namespace.Durability", w, errs.Unavailable, nil)
				return
			}
			in, err := h.Held(ctx, heldID(e), 0, 0)
			if err == nil {
				defer in.Close()
				_, err = io.Copy(io.Discard, in)
			}
			answers[i] = err
		})
	}
	wg.Wait()
	for i, w := range e.Hold.Workers {
		switch errs.KindOf(answers[i]) {
		case errs.NotExist, errs.Range, errs.Corrupt:
			s.lack = append(s.lack, w)
		default:
			if answers[i] != nil {
				s.silent = append(s.silent, w)
			}
		}
	}
	return s
}

// lost returns those of the workers that are not known to have the bytes.
func (s *said) lost(workers []string) (names []string) {
	for _, w := range workers {
		if slices.Contains(s.lack, w) || slices.Contains(s.silent, w) {
			names = append(names, w)
		}
	}
	return names
}

// Durability implements core.Persister.
func (n *Namespace) Durability(ctx context.Context, p core.Path) (core.Durability, error) {
	if err := n.traverse(ctx, p); err != nil {
		return core.Durability{}, err
	}
	for range chase {
		nd, err := n.resolve(ctx, p)
		if err != nil {
			return core.Durability{}, err
		}
		if nd.dir() && !nd.isMarker() {
			return core.Durability{}, errs.E("namespace.Durability", p.String(), errs.IsDir, nil)
		}
		if err := n.complete(ctx, &nd, free); err != nil {
			return core.Durability{}, err
		}
		if d, _, stands := n.durabilityOf(ctx, &nd); stands {
			d.Info = n.infoOf(&nd)
			return d, context.Cause(ctx) // if it has ended, workers were not heard to the end
		}
	}
	return core.Durability{}, changing("namespace.Durability", p)
}

// changing is that a file was stored, copied or replaced whenever its workers were asked for it.
func changing(op string, p core.Path) error {
	return errs.New(op, p.String(), errs.Conflict, "where the file's bytes are changes faster than its workers can be asked; try again")
}

// durabilityOf is Durability of a node, without its Info, and what its workers say. All holders seem lost if ctx ends. stands is false if
// they may lack the bytes because these have come to the store, or to other workers, meanwhile: then the node is to be looked up again.
func (n *Namespace) durabilityOf(ctx context.Context, nd *node) (d core.Durability, s said, stands bool) {
	d = core.Durability{State: core.InStore}
	if !nd.local() {
		if r := n.carried(&nd.place); r != nil && !r.Removing {
			d.Why = r.String()
		}
		return d, s, true
	}
	h := nd.entry.Hold
	d.Write, d.Holders, d.Since = core.WriteType(h.Write), slices.Clone(h.Workers), time.Unix(0, h.Since)
	s = n.askHolders(ctx, nd.entry)
	if d.Lost = s.lost(h.Workers); len(d.Lost) > 0 {
		if now := n.walk(nd.path); !now.holds(heldID(nd.entry)) || !slices.Equal(now.entry.Hold.Workers, h.Workers) {
			return d, s, false
		}
	}
	n.holds.mu.Lock() // the item is not learnt from a place that may be out of date by now: it would keep its bytes from being released
	if it := n.holds.items[heldID(nd.entry)]; it != nil {
		d.Why = it.why
	}
	n.holds.mu.Unlock()
	switch {
	case h.Refused != "":
		d.State, d.Why = core.Refused, h.Refused
	case d.Write == core.MustCache:
		d.State, d.Why = core.OnlyHeld, ""
	default:
		d.State = core.Pending
	}
	if d.Why != "" && n.require(ctx, nd, read) != nil { // it has names and words of the store in it
		d.Why = "only who may read the file is told why"
	}
	return d, s, true
}
