package namespace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
	"weak"

	"golang.org/x/sync/semaphore"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/wait"
	"github.com/sluicefs/sluice/ufs"
)

/*
A sync asks the stores for what a request would ask for, and takes it over as a request does (askList, takeList): what it adds is
that it comes to all names, and tells what it found.

	pending directories ──► list, decode ──► compare, tell ──► record, reconcile ──► those that were in it are pending
	                        │ at most Prefetch of all      │ at most Executors
	                        │ syncs, and as many as        │ of all syncs
	                        ▼ the mount's pace allows      ▼

What of that computes and waits for nobody has a turn meanwhile (see turns), so that requests have processors; what waits for a store
has none, and as many wait at once as the pools and paces say. Gentle syncs, which work on one directory at a time, take no turns.

Directories are worked on breadth first as long as not many are pending, then depth first, so that what is pending stays in
proportion to the depth of the tree. A store that lists flat is asked so: one stream of keys for all below a directory, whose next
part is asked for while the last one is compared. Memory is that of the listings under way.
*/

// SyncOptions say how much of the stores and of this process syncs take.
type SyncOptions struct {
	Concurrency int // directories that one sync works on at once; 0: 8
	Executors   int // listings of all syncs that are compared and recorded at once; 0: 4
	Prefetch    int // listings of all syncs that are asked for at once; 0: 16
	Processors  int // of which syncs compute on half; 0: GOMAXPROCS as it is
}

func (o SyncOptions) withDefaults() SyncOptions {
	return SyncOptions{cmp.Or(o.Concurrency, 8), cmp.Or(o.Executors, 4), cmp.Or(o.Prefetch, 16), cmp.Or(o.Processors, runtime.GOMAXPROCS(0))}
}

// syncs is what all syncs share.
type syncs struct {
	o                   SyncOptions
	executors, prefetch *semaphore.Weighted
	turns               *turns

	mu    sync.Mutex
	paces map[string]*pace // by mount
	last  map[string]core.Synced
	cut   map[cutKey]*cutOff
}

func newSyncs(o SyncOptions) *syncs {
	o = o.withDefaults()
	return &syncs{o: o, executors: semaphore.NewWeighted(int64(o.Executors)), prefetch: semaphore.NewWeighted(int64(o.Prefetch)),
		turns: processorTurns(o.Processors), paces: map[string]*pace{}, last: map[string]core.Synced{}, cut: map[cutKey]*cutOff{}}
}

// pace returns that of the mount.
func (s *syncs) pace(mount string) *pace {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.paces[mount]
	if p == nil {
		p = newPace(float64(s.o.Concurrency))
		s.paces[mount] = p
	}
	return p
}

// maxSynced is how many paths it is remembered for when they were synced.
const maxSynced = 1000

// note remembers that the path was synced.
func (s *syncs) note(path string, is core.Synced) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.last[path]; !known && len(s.last) >= maxSynced {
		oldest := ""
		for p, x := range s.last {
			if oldest == "" || x.Ended.Before(s.last[oldest].Ended) {
				oldest = p
			}
		}
		delete(s.last, oldest)
	}
	s.last[path] = is
}

// cutKey names syncs that may go on where one of them was cut off.
type cutKey struct {
	at               core.Path
	recursive, force bool
}

// cutOff is what a sync had still to do when its ctx ended, what it had failed at included.
type cutOff struct {
	began  time.Time // the first of those that went on from each other
	ended  time.Time
	left   []rest
	mounts weak.Pointer[mountSet] // what tells one from another, without keeping its stores
}

// What is remembered of syncs that were cut off.
const (
	maxCutOff     = 64             // syncs
	maxCutPending = 100_000        // names of one that are left
	maxCutBytes   = 16 << 20       // of all of them together, about
	maxCutAge     = 24 * time.Hour // since it ended
)

// bytes returns about how much memory is remembered.
func (c *cutOff) bytes() (n int) {
	for _, x := range c.left {
		n += int(unsafe.Sizeof(x)) + len(x.dir.String()) + len(x.after)
	}
	return n
}

// cutShort remembers what a sync had still to do.
func (s *syncs) cutShort(key cutKey, c *cutOff) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetCut(c.mounts, c.ended)
	n := c.bytes()
	if len(c.left) > maxCutPending || n > maxCutBytes {
		return
	}
	for _, x := range s.cut {
		n += x.bytes()
	}
	for len(s.cut) >= maxCutOff || n > maxCutBytes {
		oldest := key
		for k, x := range s.cut {
			if is := s.cut[oldest]; is == nil || x.ended.Before(is.ended) {
				oldest = k
			}
		}
		n -= s.cut[oldest].bytes()
		delete(s.cut, oldest)
	}
	s.cut[key] = c
}

// goOn returns what the last such sync had still to do, nil if it was not cut off, or longer ago than is remembered, or the mounts
// have changed. It is forgotten.
func (s *syncs) goOn(key cutKey, mounts weak.Pointer[mountSet]) *cutOff {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetCut(mounts, time.Now())
	c := s.cut[key]
	delete(s.cut, key)
	return c
}

// forgetCut forgets what no sync may go on from any more. mu must be held.
func (s *syncs) forgetCut(mounts weak.Pointer[mountSet], now time.Time) {
	maps.DeleteFunc(s.cut, func(_ cutKey, c *cutOff) bool { return c.mounts != mounts || now.Sub(c.ended) > maxCutAge })
}

// of returns the last sync that covered the path; of what is below a directory only a recursive one did, but for the names in it.
func (s *syncs) of(p core.Path) (last *core.Synced) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at := p; ; at = at.Parent() {
		for _, name := range []string{at.Dir().String(), at.File().String()} {
			x, ok := s.last[name]
			if ok && (x.Recursive || at == p || at == p.Parent()) && (last == nil || x.Ended.After(last.Ended)) {
				last = &x
			}
		}
		if at.IsRoot() {
			return last
		}
	}
}

// pace is how many listings a store is asked for at once: one more whenever so many were answered in the time that it takes at
// its best or not much longer, half as many when it refuses, fewer when it takes much longer.
type pace struct {
	max float64

	mu    sync.Mutex
	limit float64
	busy  int
	best  time.Duration // that an answer took; it is forgotten slowly, so that a store may become slower for good
	cut   time.Time     // when the limit was last lowered
	freed chan struct{} // closed and replaced when there may be room
}

func newPace(most float64) *pace {
	return &pace{max: most, limit: min(most, 2), freed: make(chan struct{})}
}

// enter waits for room among at most so many, which may be less than the limit.
func (p *pace) enter(ctx context.Context, most int) error {
	for {
		p.mu.Lock()
		if p.busy == 0 || float64(p.busy+1) <= min(p.limit, float64(most)) {
			p.busy++
			p.mu.Unlock()
			return nil
		}
		freed := p.freed
		p.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// leave notes that an answer took so long, or that the store refused.
func (p *pace) leave(took time.Duration, refused bool, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	if !refused && (p.best == 0 || took < p.best) {
		p.best = took
	}
	switch {
	case refused:
		p.lower(0.5, now)
	case took > 4*p.best+20*time.Millisecond:
		p.lower(0.8, now)
	case took <= 2*p.best+5*time.Millisecond:
		p.limit = min(p.max, p.limit+1/p.limit)
	}
	p.best += p.best / 64
	close(p.freed)
	p.freed = make(chan struct{})
}

// quit is leave without an answer.
func (p *pace) quit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	close(p.freed)
	p.freed = make(chan struct{})
}

// lower takes the limit down, once for all answers that were under way together. mu must be held.
func (p *pace) lower(by float64, now time.Time) {
	if now.Sub(p.cut) < 2*p.best {
		return
	}
	p.cut, p.limit = now, max(1, p.limit*by)
}

// storesAt returns the ids of the stores that have a say in what is at and below a path.
func (s *mountSet) storesAt(at core.Path) map[string]bool {
	ids := map[string]bool{}
	for _, m := range s.table.All() {
		if dir := m.Path.Dir().String(); strings.HasPrefix(dir, at.String()) || strings.HasPrefix(at.String(), dir) {
			ids[m.ID] = true
		}
	}
	return ids
}

// syncing is one sync.
type syncing struct {
	n *Namespace
	o core.SyncOptions
	w core.SyncWatch

	mu      sync.Mutex
	pending []rest
	running int
	changed chan struct{} // closed and replaced when something is pending, or nothing runs any more
	failed  bool
	missed  []rest           // what it has failed at; no more than maxCutPending and one
	down    map[string]error // by mount: why its store is asked no more
}

// rest is a directory to be worked on, from the name after on; or a file that a sync which was cut off had failed at.
type rest struct {
	dir   core.Path
	after string // a full name in its store
}

// Sync implements core.Syncer.
func (n *Namespace) Sync(ctx context.Context, p core.Path, o core.SyncOptions, w core.SyncWatch) error {
	const op = "namespace.Sync"
	if err := maySync(ctx, op); err != nil {
		return err
	}
	if p.IsZero() {
		return errs.New(op, "", errs.Invalid, "a path is needed")
	}
	if err := n.held(); err != nil {
		return err
	}
	if o.Resume && o.DryRun {
		return errs.New(op, p.String(), errs.Invalid, "a dry run takes nothing over, and leaves nothing to go on from; leave out one of the two")
	}
	began := time.Now()
	s := &syncing{n: n, o: o, w: w, changed: make(chan struct{})}
	at, err := s.enter(ctx, p)
	if err != nil {
		return err
	}
	mounts, key := n.mounts.Load(), cutKey{at, o.Recursive, o.Force}
	mayGoOn := !o.DryRun && !o.Gentle // Sluice's own are short, and would have an operator's forgotten
	var from *cutOff
	if mayGoOn {
		from = n.syncs.goOn(key, weak.Make(mounts))
	}
	switch {
	case o.Resume && from != nil:
		began, s.pending = from.began, from.left
		w.Resumed(began)
	case at.IsDir():
		s.add(at)
		if o.Recursive {
			for _, m := range mounts.table.All() {
				if below := m.Path.Dir(); below != at && strings.HasPrefix(below.String(), at.String()) {
					s.add(below)
				}
			}
		}
	}
	if err := s.run(ctx); err != nil {
		if left := append(s.pending, s.missed...); mayGoOn && len(left) > 0 {
			n.syncs.cutShort(key, &cutOff{began, time.Now(), left, weak.Make(mounts)})
		}
		return err
	}
	if now := n.mounts.Load(); now != mounts && !maps.Equal(now.storesAt(at), mounts.storesAt(at)) {
		s.fail(rest{dir: at}, at, errs.New(op, at.String(), errs.Unavailable, "a mount here was changed or removed meanwhile; sync again"))
	}
	if o.DryRun {
		return nil
	}
	n.syncs.note(at.String(), core.Synced{Path: at, Began: began, Ended: time.Now(), Recursive: o.Recursive, Partly: s.failed})
	if o.Recursive && !s.failed || !at.IsDir() {
		return n.revalidated(ctx, at, began)
	}
	return nil
}

// enter compares the name itself and returns it as an exact path: the directory where there is one, else the file.
func (s *syncing) enter(ctx context.Context, p core.Path) (core.Path, error) {
	if p.IsRoot() {
		return p, nil
	}
	if !s.o.DryRun {
		for dir := p.Parent(); !dir.IsRoot(); dir = dir.Parent() { // what was a file may be a directory by now
			if pl := s.n.walk(dir.File()); pl.persisted() && pl.mount != nil && pl.mount.features.Dirs {
				if err := s.n.reconcile(ctx, dir.File(), false); err != nil {
					return p, err
				}
			}
		}
	}
	var known bool
	for _, at := range exactly(p) {
		there, was, err := s.name(ctx, at)
		if err != nil || there {
			return at, err
		}
		known = known || was
	}
	if known {
		return exact(p, false), nil
	}
	return p, errs.E("namespace.Sync", p.String(), errs.NotExist, nil)
}

// exactly returns the exact paths that p may stand for.
func exactly(p core.Path) []core.Path {
	if p.Either() {
		return []core.Path{p.Dir(), p.File()}
	}
	return []core.Path{p}
}

// name compares one name with its store, and says whether it is there now and whether it was known to be before.
func (s *syncing) name(ctx context.Context, p core.Path) (there, was bool, err error) {
	n := s.n
	pl := n.walk(p)
	switch {
	case pl.mount == nil:
		return false, false, errs.New("namespace.Sync", p.String(), errs.Unavailable, "what was mounted there has just gone; try again")
	case pl.mount.err != nil:
		return false, false, pl.mount.unavailable()
	case pl.local() || pl.entry != nil && pl.entry.Mount:
		return true, true, nil // no store has a say in it
	case pl.hidden:
		return false, false, nil
	}
	version := func() (string, bool) {
		pl := n.walk(p)
		if pl.persisted() {
			return pl.entry.Version, true
		}
		if pl.hidden || pl.mount == nil {
			return "", false
		}
		fact := pl.mount.derived.Lookup(pl.key)
		return fact.Row.Version, fact.State == meta.Present || pl.entry != nil
	}
	before, was := version()
	if p.IsDir() && pl.mount.features.Flat { // there as long as something is in it, which the listing of it says
		for _, err := range pl.mount.store.List(ctx, pl.key, "", true) {
			if err != nil {
				return false, was, err
			}
			there = true
			break
		}
		return there || was, was, nil
	}
	var below []core.Path
	if p.IsDir() {
		pl.mount.derived.Files(pl.key, "", "", true, true, func(name string) bool {
			below = append(below, p.Child(name[len(pl.key):]))
			return true
		})
	}
	var after string
	if s.o.DryRun {
		info, err := pl.mount.store.Stat(ctx, pl.key)
		if err != nil && !isGone(err) {
			return false, was, err
		}
		after, there = info.Version, err == nil
	} else {
		if err := n.loadName(ctx, &pl, time.Now()); err != nil {
			return false, was, err
		}
		after, there = version()
	}
	s.w.Compared(1, 1)
	switch {
	case there && !was:
		s.w.Differs(core.SyncAdded, p)
	case was && !there:
		for _, at := range append(below, p) {
			s.w.Differs(core.SyncRemoved, at)
		}
	case there && !p.IsDir() && !sameVersion(before, after):
		s.w.Differs(core.SyncChanged, p)
	}
	return there, was, nil
}

// manyPending is from how many pending directories on the newest is next, and not the oldest.
const manyPending = 4096

// add makes a directory pending.
func (s *syncing) add(dirs ...core.Path) {
	if len(dirs) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dir := range dirs {
		s.pending = append(s.pending, rest{dir: dir})
	}
	s.tell()
}

// tell wakes who waits. mu must be held.
func (s *syncing) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// take returns a pending directory; false once there is none and there will be none. Who takes one calls done.
func (s *syncing) take(ctx context.Context) (rest, bool) {
	for ctx.Err() == nil {
		s.mu.Lock()
		if k := len(s.pending); k > 0 {
			var p rest
			if k > manyPending {
				p, s.pending = s.pending[k-1], s.pending[:k-1]
			} else {
				p, s.pending = s.pending[0], s.pending[1:]
			}
			s.running++
			s.mu.Unlock()
			return p, true
		}
		if s.running == 0 {
			s.mu.Unlock()
			return rest{}, false
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return rest{}, false
}

// done says that what was taken is done, but for what is left of it.
func (s *syncing) done(left ...rest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	s.pending = append(s.pending, left...)
	s.tell()
}

// run works on all that is pending.
func (s *syncing) run(ctx context.Context) error {
	var all sync.WaitGroup
	at := s.n.o.Sync.Concurrency
	if s.o.Gentle {
		at = 1
	}
	for range at {
		all.Go(func() {
			for {
				at, ok := s.take(ctx)
				if !ok {
					return
				}
				err := s.directory(ctx, &at)
				if err != nil && ctx.Err() != nil {
					s.done(at)
					return
				}
				if err != nil {
					s.fail(at, at.dir, err)
				}
				s.done()
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// fail tells that p could not be compared. Who goes on from this sync begins with what is to be done again for that.
func (s *syncing) fail(again rest, p core.Path, err error) {
	s.mu.Lock()
	s.failed = true
	if len(s.missed) <= maxCutPending { // with one more it is not remembered at all
		s.missed = append(s.missed, again)
	}
	s.mu.Unlock()
	s.w.Failed(p, err)
}

// file compares a file that could not be compared before.
func (s *syncing) file(ctx context.Context, p core.Path) error {
	if _, _, err := s.name(ctx, p); err != nil {
		return err
	}
	left, err := s.n.tryReconcile(ctx, p, false)
	if err == nil && left {
		err = busy(p)
	}
	return err
}

// directory compares the names in a directory and, where a store lists flat and all is asked for, below it. What it has done is at's
// no more.
func (s *syncing) directory(ctx context.Context, at *rest) error {
	dir := at.dir
	pl := s.n.walk(dir)
	m := pl.mount
	switch {
	case m == nil:
		return nil // unmounted meanwhile
	case m.err != nil:
		return m.unavailable()
	case pl.hidden || m.derived == nil:
		return nil // the store has no say in what is there
	}
	if err := s.isDown(m); err != nil {
		return err
	}
	if !dir.IsDir() {
		return s.file(ctx, dir)
	}
	need := meta.Need{Store: m.ID, Dir: pl.key, Flat: s.o.Recursive && m.flatAt(pl.key)}
	if strings.HasPrefix(at.after, pl.key) { // it leads to the same names as before it was cut off
		need.After = at.after
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next := s.ask(ctx, m, need, dir)
	for {
		answer := <-next
		if answer.err != nil {
			s.mayBeDown(ctx, m, answer.err)
			return answer.err
		}
		l, this := answer.listed, need
		need.After = l.last
		if !l.complete && l.last != "" {
			next = s.ask(ctx, m, need, dir)
		}
		err := s.take1(ctx, m, this, dir, l)
		if err == nil {
			at.after = l.last
		}
		if err != nil || l.complete || l.last == "" {
			if !l.complete && l.last != "" { // the part that was asked for ahead
				cancel()
				if ahead := <-next; ahead.err == nil {
					ahead.flight.Done()
				}
			}
			return err
		}
	}
}

// mayBeDown notes that a store which refused a listing to the last try does not list its root either: it is asked for no other, each
// of which would take as long.
func (s *syncing) mayBeDown(ctx context.Context, m *mounted, err error) {
	if !passes(err) || ctx.Err() != nil || s.isDown(m) != nil {
		return
	}
	if err := m.lists(ctx); err != nil && passes(err) && ctx.Err() == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.down == nil {
			s.down = map[string]error{}
		}
		s.down[m.ID] = errs.E("namespace.Sync", m.URI, errs.Unavailable,
			fmt.Errorf("the store does not answer any more, and was not asked; sync it again when it does: %w", err))
	}
}

// isDown returns why the mount's store is asked no more, nil if it is.
func (s *syncing) isDown(m *mounted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down[m.ID]
}

// asked is an answer of a store.
type asked struct {
	*listed
	err error
}

// Tries of a listing that a store refuses or does not answer, and the pause after the first, doubled from one to the next.
const (
	syncTries = 4
	syncPause = 250 * time.Millisecond
)

// ask asks for a listing in the background. Its answer must be taken.
func (s *syncing) ask(ctx context.Context, m *mounted, need meta.Need, dir core.Path) <-chan asked {
	to := make(chan asked, 1)
	go func() {
		var a asked
		for try, pause := 1, syncPause; ; try, pause = try+1, 2*pause {
			a.listed, a.err = s.askPaced(ctx, m, need, dir)
			if a.err == nil || try == syncTries || ctx.Err() != nil || !passes(a.err) {
				break
			}
			_ = wait.For(ctx, pause) // the next try tells
		}
		to <- a
	}()
	return to
}

// passes reports whether another try may succeed.
func passes(err error) bool {
	k := errs.KindOf(err)
	return k == errs.Unavailable || k == errs.Overload || errors.Is(err, context.DeadlineExceeded)
}

// askPaced is askList with as many at once as all syncs may have, and as the store likes. While it waits to ask again it is none.
func (s *syncing) askPaced(ctx context.Context, m *mounted, need meta.Need, dir core.Path) (*listed, error) {
	l, err := s.askOnce(ctx, m, need)
	if err != nil || !s.n.suspicious(m, need, dir, l) {
		return l, err
	}
	l.flight.Done()
	if err := s.n.confirm(ctx, m, dir); err != nil {
		return nil, err
	}
	return s.askOnce(ctx, m, need)
}

// askOnce is askPaced without a doubt.
func (s *syncing) askOnce(ctx context.Context, m *mounted, need meta.Need) (*listed, error) {
	p := s.n.syncs.pace(m.ID)
	if err := p.enter(ctx, m.forSyncs()); err != nil {
		return nil, err
	}
	if err := s.n.syncs.prefetch.Acquire(ctx, 1); err != nil { // last: who waits for one store keeps nobody from another
		p.quit()
		return nil, err
	}
	defer s.n.syncs.prefetch.Release(1)
	began := time.Now()
	var waited atomic.Int64 // for turns, which says nothing of the store
	turns := s.n.syncs.turns
	if s.o.Gentle { // it computes for one directory at a time, and would wait behind all that others compute
		turns = nil
	} else {
		ctx = ufs.WithTurns(ctx, func(ctx context.Context) func() {
			began := time.Now()
			defer func() { waited.Add(int64(time.Since(began))) }()
			return turns.takeInCall(ctx)
		})
	}
	l, err := s.n.askOnce(ctx, m, need)
	if err != nil && !passes(err) {
		p.quit() // how long that took says nothing of listings
	} else {
		p.leave(max(0, time.Since(began)-time.Duration(waited.Load())), err != nil, time.Now())
	}
	if l != nil {
		l.turns = turns
	}
	return l, err
}

// take1 compares a listing, tells of it and takes it over.
func (s *syncing) take1(ctx context.Context, m *mounted, need meta.Need, dir core.Path, l *listed) error {
	defer l.flight.Done()
	if err := s.n.syncs.executors.Acquire(ctx, 1); err != nil {
		return err
	}
	release := sync.OnceFunc(func() { s.n.syncs.executors.Release(1) })
	defer release()
	give := l.turn(ctx)
	l.mine = map[string]bool{}
	s.n.compare(need, dir, l)
	found := s.differences(m, need, l)
	gone := map[core.Path]bool{} // directories that are told of with what is in them
	for i := range found {
		found[i].path = dir.Child(found[i].name[len(need.Dir):])
		if found[i].path.IsDir() && found[i].change == core.SyncRemoved {
			gone[found[i].path] = true
		}
	}
	again := s.doubted(m, l)
	var dirs []core.Path
	if s.o.Recursive && !l.deep {
		for i := range l.names {
			if name := l.names[i].Name; strings.HasSuffix(name, "/") && name != need.Dir {
				dirs = append(dirs, dir.Child(name[len(need.Dir):]))
			}
		}
	}
	var was map[core.Path]string
	if !s.o.DryRun {
		was = s.versions(l.differ)
		s.n.checkSame(m, l)
	}
	give()
	if !s.o.DryRun {
		missed, err := s.n.takeNames(ctx, m, need, dir, l)
		release() // what follows waits for stores, one name at a time, or for changes
		if err == nil {
			err = s.tryAgain(ctx, need, dir, l, missed)
		}
		if err == nil {
			err = s.askEach(ctx, again)
		}
		if err != nil {
			return err
		}
		s.tellTaken(l.differ, was, gone)
	} else {
		for _, p := range l.differ {
			if gone[p] {
				continue
			}
			c := core.SyncChanged
			if name := need.Dir + strings.TrimPrefix(p.String(), dir.String()); l.rows[name] == nil {
				c = core.SyncRemoved
			}
			s.w.Differs(c, p)
		}
	}
	s.w.Compared(int64(len(l.names)), 1)
	for _, f := range found {
		s.w.Differs(f.change, f.path)
	}
	s.add(dirs...)
	return nil
}

// tryAgain compares the names that taking a listing over missed. What cannot be compared has failed.
func (s *syncing) tryAgain(ctx context.Context, need meta.Need, dir core.Path, l *listed, missed []missed) (err error) {
	try, pause := 1, syncPause // of all of them together: they are likely to wait for the same change
	for _, x := range missed {
		for left := x.err == nil; left; {
			if left, x.err = s.n.tryReconcile(ctx, x.path, false); !left {
				break
			}
			if try == syncTries {
				x.err = busy(x.path)
				break
			}
			if err := wait.For(ctx, pause); err != nil {
				return err
			}
			try, pause = try+1, 2*pause
		}
		if ctx.Err() != nil { // it was not refused but given up: who goes on begins with this listing
			return context.Cause(ctx)
		}
		if x.err != nil {
			s.fail(rest{dir: x.path}, x.path, x.err)
		}
	}
	if !l.gone && !l.flight.Counts(need.Dir) {
		s.fail(rest{dir: dir, after: need.After}, dir, busy(dir))
	}
	return nil
}

// askEach asks the store about files one by one, and no more of them once it has refused a few.
func (s *syncing) askEach(ctx context.Context, files []core.Path) error {
	var refused error
	tries := 0
	for _, p := range files {
		err := refused
		if tries < maxRefused {
			pl := s.n.walk(p)
			if err = s.n.loadName(ctx, &pl, time.Now()); ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if passes(err) {
				tries, refused = tries+1, err
			}
		}
		if err != nil {
			s.fail(rest{dir: p}, p, err)
		}
	}
	return nil
}

func busy(p core.Path) error {
	return errs.New("namespace.Sync", p.String(), errs.Conflict, "it is being changed through Sluice, and was not compared; sync it again")
}

// difference is a name of a store that is not what was known.
type difference struct {
	name   string
	change core.SyncChange
	path   core.Path
}

// differences compares a listing with what was known of the store, leaving out the names that the overlay says more of.
func (s *syncing) differences(m *mounted, need meta.Need, l *listed) (all []difference) {
	if l.gone {
		m.derived.Files(need.Dir, "", "", true, true, func(name string) bool {
			all = append(all, difference{name: name, change: core.SyncRemoved})
			return true
		})
		return all
	}
	for i := range l.names {
		r := &l.names[i]
		if r.Name == need.Dir || l.covered(need.Dir, r.Name) {
			continue
		}
		switch fact := m.derived.Lookup(r.Name); {
		case fact.State != meta.Present:
			all = append(all, difference{name: r.Name, change: core.SyncAdded})
		case !r.Dir && !sameVersion(fact.Row.Version, r.Version):
			all = append(all, difference{name: r.Name, change: core.SyncChanged})
		}
	}
	var below []string
	m.derived.Files(need.Dir, l.after, l.last, l.complete, l.deep, func(name string) bool {
		if l.rows[name] == nil && name != need.Dir && !l.covered(need.Dir, name) {
			all = append(all, difference{name: name, change: core.SyncRemoved})
			if !l.deep && strings.HasSuffix(name, "/") {
				below = append(below, name)
			}
		}
		return true
	})
	for _, dir := range below {
		m.derived.Files(dir, "", "", true, true, func(name string) bool {
			all = append(all, difference{name: name, change: core.SyncRemoved})
			return true
		})
	}
	return all
}

// covered reports whether the overlay says more of a name below dir than the store.
func (l *listed) covered(dir, name string) bool {
	if l.mine[name] {
		return true
	}
	for i := len(dir); i < len(name); i++ {
		if name[i] == '/' && i+1 < len(name) && l.mine[name[:i+1]] {
			return true
		}
	}
	return false
}

// doubted returns the files to be asked about one by one, though the listing shows what is known of them.
func (s *syncing) doubted(m *mounted, l *listed) (all []core.Path) {
	if !s.o.Force || s.o.DryRun {
		return nil
	}
	at := m.Path.Dir()
	for i := range l.names {
		r := &l.names[i]
		if r.Dir || r.Full {
			continue
		}
		if fact := m.derived.Lookup(r.Name); fact.State == meta.Present && fact.Row.Full || l.mine[r.Name] {
			all = append(all, at.Child(r.Name))
		}
	}
	return all
}

// versions returns those of the files, "" of what is none.
func (s *syncing) versions(files []core.Path) map[core.Path]string {
	all := make(map[core.Path]string, len(files))
	for _, p := range files {
		if pl := s.n.walk(p); pl.persisted() {
			all[p] = pl.entry.Version
		}
	}
	return all
}

// tellTaken tells what has become of entries that differed from what a listing said: a change through Sluice may have been why.
func (s *syncing) tellTaken(differ []core.Path, was map[core.Path]string, told map[core.Path]bool) {
	for _, p := range differ {
		switch pl := s.n.walk(p); {
		case told[p]:
		case pl.entry == nil && !pl.hidden:
			s.w.Differs(core.SyncRemoved, p)
		case pl.persisted() && pl.entry.Version != was[p]:
			s.w.Differs(core.SyncChanged, p)
		}
	}
}

var _ core.Syncer = (*Namespace)(nil)
