package namespace

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/core/wait"
	"github.com/sluicefs/sluice/ufs"
)

/*
A feed tells at which names of a mount others may have changed something. What it tells is gathered for a moment, so that many
events at one name cost one question, and then the names are compared with the store, as an access would that may not believe
what is known:

	events ──► pending names ──► compare ──► not compared in time: invalidate, so that the next access asks
	   │
	   └── lost, or too many ──► invalidate the directory ──► compare all in it, as a job

What Sluice has changed itself is told too: then the store shows the version that is known, and nothing comes of it. It is not even
asked where an event tells of just the bytes that Sluice wrote, at the time when it did, once: a second such event may be of another
who wrote the same bytes, with other headers. While Sluice
changes a name, or a directory above it, what the store says of it does not count: then it is invalidated too, and compared when
that change has ended, which may have made newer facts than the invalidation.
*/

const (
	feedPause   = 50 * time.Millisecond  // from the first event to the questions
	settleTime  = 2 * time.Second        // how long names are asked about until they are invalidated
	settleTries = 20                     // at a name that is being changed through Sluice
	settleWait  = 50 * time.Millisecond  // between them
	busyLook    = 200 * time.Millisecond // from one look whether changes have ended to the next
	settleCalls = 8                      // at once, of each mount
	maxPending  = 10_000                 // names; with more, all of the mount counts as lost
	maxDoubted  = 100                    // names of a batch that are invalidated one by one
	maxLost     = 16                     // directories that are compared again one by one
	maxBlind    = 1000                   // directories that cannot be watched; with more, all of the mount counts as one
	ownApart    = 5 * time.Second        // between when Sluice wrote and when the store says that somebody did
	feedRetry   = time.Minute            // the longest pause until a store is watched again
)

// feeds are those of the mounts.
type feeds struct {
	mu     sync.Mutex
	by     map[string]*feed // by the mount's id; nil while this process does not Feed
	rescan func(context.Context, core.Path) error
	turn   chan struct{} // one rescan at a time

	senders atomic.Pointer[senders]
}

// feed is that of one mount.
type feed struct {
	n  *Namespace
	m  *mounted // as it was when the feed began
	at core.Path

	stop context.CancelFunc
	wake chan struct{} // something is pending, or lost
	redo chan struct{} // something is to be compared again

	mu      sync.Mutex
	pending map[string]hint   // by path
	waiting []chan<- error    // who told of what is pending
	lost    map[string]bool   // directories, to be invalidated; true: and compared
	lived   bool              // it was ready once
	again   map[string]bool   // directories, to be compared
	first   time.Time         // when the first of what is pending happened
	busy    map[string]hint   // names that Sluice was changing when they were doubted, to be compared after that
	own     map[string]string // versions of own writes of which an event told, by path; at most maxPending
	many    bool              // more are busy than are remembered
	blind   map[string]string // directories that cannot be watched, by their names in the store, and why; "": the mount counts as one
	info    core.FeedInfo
}

type hint struct {
	path  core.Path
	whole bool // with all below it

	etag string    // of what was written; "": not told, or several times
	size int64     // of that
	at   time.Time // when
}

// eventsOf returns what tells of changes in the mount's store, "" if nothing does, and the token of who does, if any. An error says
// why the token cannot be known, if there is one.
func (n *Namespace) eventsOf(m *mounted) (kind, token string, err error) {
	if m.ID == rootID {
		return "", "", nil
	}
	spec, err := n.withSecret(m.MountSpec)
	options := spec.Options
	if n.o.EventOptions != nil {
		options = n.o.EventOptions(spec)
	}
	kind, token = options[ufs.EventsOption], options[ufs.EventsTokenOption]
	switch {
	case seal.Sealed(token):
		return kind, "", errs.New("namespace.Told", m.Path.String(), errs.Unavailable, "its token is sealed under another secret key")
	case token != "":
		err = nil // what else is in the secret that it names has no say in it
	}
	return kind, token, err
}

// sender is who may tell of changes in the store of a mount with events=webhook.
type sender struct {
	m     *mounted
	known bool              // the token
	token [sha256.Size]byte // its hash
	err   error             // why the token cannot be known
}

// is reports whether the token with the hash is the sender's.
func (s *sender) is(hash [sha256.Size]byte) bool {
	return subtle.ConstantTimeCompare(s.token[:], hash[:]) == 1 && s.known
}

// senders are all of a mount table. They are not changed.
type senders struct {
	mounts  *mountSet
	secrets *map[string]*credential
	all     []sender
}

// senders returns who may tell. What is known of mounts is looked at once for each state of the mount table and the named secrets:
// anybody may ask, with any token.
func (n *Namespace) senders() []sender {
	now := &senders{mounts: n.mounts.Load(), secrets: n.credentials.Load()}
	if was := n.feeds.senders.Load(); was != nil && was.mounts == now.mounts && was.secrets == now.secrets {
		return was.all
	}
	for _, m := range now.mounts.byID {
		if kind, token, err := n.eventsOf(m); kind == webhook {
			now.all = append(now.all, sender{m, token != "", sha256.Sum256([]byte(token)), err})
		}
	}
	n.feeds.senders.Store(now)
	return now.all
}

// Feed takes what the stores of mounts tell of changes that others make to them, until ctx ends. rescan compares all in a
// directory with its store, and is asked for one at a time. The principal of ctx is a superuser.
func (n *Namespace) Feed(ctx context.Context, rescan func(ctx context.Context, dir core.Path) error) {
	f := &n.feeds
	f.mu.Lock()
	f.by, f.rescan, f.turn = map[string]*feed{}, rescan, make(chan struct{}, 1)
	f.mu.Unlock()
	var all sync.WaitGroup
	defer all.Wait()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, one := range f.by {
			one.stop()
		}
		f.by = nil
	}()
	look := time.NewTicker(n.o.FeedLook)
	defer look.Stop()
	for last := (*mountSet)(nil); ; {
		if now := n.mounts.Load(); now != last {
			last = now
			n.beginFeeds(ctx, &all, now)
			n.senders() // those of before keep the stores of before
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// beginFeeds begins the feeds that are wanted and not there, and ends the others.
func (n *Namespace) beginFeeds(ctx context.Context, all *sync.WaitGroup, set *mountSet) {
	f := &n.feeds
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, one := range f.by {
		m := set.byID[id]
		if m == nil || m.store != one.m.store {
			one.stop()
			delete(f.by, id)
			continue
		}
		if kind, _, _ := n.eventsOf(m); kind != one.info.Kind || m.err != nil {
			one.stop()
			delete(f.by, id)
		}
	}
	for id, m := range set.byID {
		kind, _, _ := n.eventsOf(m)
		if kind == "" || m.err != nil || f.by[id] != nil {
			continue
		}
		own, stop := context.WithCancel(ctx)
		one := &feed{n: n, m: m, at: m.Path.Dir(), stop: stop, wake: make(chan struct{}, 1), redo: make(chan struct{}, 1),
			pending: map[string]hint{}, lost: map[string]bool{}, again: map[string]bool{}, own: map[string]string{}, blind: map[string]string{}, busy: map[string]hint{},
			info: core.FeedInfo{Path: m.Path.Dir(), Kind: kind, State: "starting", Kinds: map[string]int64{}}}
		f.by[id] = one
		if kind == webhook {
			one.info.State = "waiting"
		} else {
			all.Go(func() { one.watch(own) })
		}
		all.Go(func() { one.work(own) })
		all.Go(func() { one.rescans(own) })
	}
}

// webhook is the option events of a mount whose store calls.
const webhook = "webhook"

// watch has the store tell of changes, for as long as it can.
func (f *feed) watch(ctx context.Context) {
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, feedRetry) {
		began := time.Now()
		f.mu.Lock()
		clear(f.blind)
		f.mu.Unlock()
		err := ufs.Watch(ctx, f.m.store, f.changed)
		if ctx.Err() != nil {
			return
		}
		f.n.o.Logger.Warn("the store of a mount tells of changes no more", "path", f.at.String(), "err", err)
		f.mu.Lock()
		f.info.Live, f.info.State = false, "stopped: "+err.Error()
		if f.lived { // nobody tells until it lives again, when all is compared
			f.lost[f.at.String()] = f.lost[f.at.String()]
			nudge(f.wake)
		}
		f.mu.Unlock()
		if time.Since(began) > feedRetry {
			pause = time.Second
		}
		_ = wait.For(ctx, pause) // the loop looks whether it has ended
	}
}

// changed takes what a store tells of itself.
func (f *feed) changed(c ufs.Change) {
	path, err := core.ParsePath(f.at.String() + c.Name)
	if err != nil {
		return // no name that anybody could have asked for
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch c.Kind {
	case ufs.Ready: // what happened before nobody told
		f.ready()
		f.lived = true
		f.gap(f.at)
	case ufs.Lost:
		f.gap(path.Dir())
	case ufs.Blind:
		f.blinded(c.Name, fmt.Sprintf("%s: %s", path.Dir(), c.Why))
	case ufs.Left:
		f.sees(c.Name)
		if c.Name != "" {
			f.event("touched", hint{path: path}, c.At)
		}
	case ufs.Touched:
		f.event("touched", hint{path: path}, c.At)
	case ufs.Arrived:
		f.event("arrived", hint{path: path, whole: true}, c.At)
	}
}

// blinded notes that the directory cannot be watched. mu must be held.
func (f *feed) blinded(dir, why string) {
	if _, all := f.blind[""]; all {
		return
	}
	if f.blind[dir] = why; len(f.blind) > maxBlind {
		clear(f.blind)
		f.blind[""] = fmt.Sprintf("more than %d directories cannot be watched, among them %s", maxBlind, why)
	}
	if f.info.State != "starting" {
		f.ready()
	}
}

// sees notes that nothing is known any more of whether the directory and those below it can be watched. mu must be held.
func (f *feed) sees(dir string) {
	if len(f.blind) == 0 {
		return
	}
	maps.DeleteFunc(f.blind, func(name, _ string) bool { return strings.HasPrefix(name, dir) })
	if f.info.State != "starting" {
		f.ready()
	}
}

// ready says how much is told. mu must be held.
func (f *feed) ready() {
	f.info.Live, f.info.State = len(f.blind) == 0, "live"
	switch why, all := f.blind[""]; {
	case all:
		f.info.State = "partial: some changes are not told, and found after the sync interval; " + why
	case len(f.blind) > 0:
		first := slices.Min(slices.Collect(maps.Keys(f.blind)))
		f.info.State = fmt.Sprintf("partial: of %d directories and what is below them changes are not told, and found after the sync interval; %s",
			len(f.blind), f.blind[first])
	}
}

// event makes a name pending, or the whole mount lost. at is when it happened, by the store's clock; zero: not known. mu must be held.
func (f *feed) event(kind string, h hint, at time.Time) {
	if f.pending == nil {
		return // it has ended
	}
	if now := time.Now(); at.IsZero() || at.After(now) {
		at = now
	}
	f.info.Events++
	f.info.Kinds[kind]++
	f.info.Last = time.Now()
	if len(f.pending) == 0 || at.Before(f.first) {
		f.first = at
	}
	key := h.path.String()
	if len(f.pending) >= maxPending && f.pending[key].path.IsZero() {
		f.gap(f.at)
		return
	}
	f.add(key, h)
	nudge(f.wake)
}

// add makes a name pending. What was written there is known no more if it was pending already. mu must be held.
func (f *feed) add(key string, h hint) {
	if was, ok := f.pending[key]; ok {
		h = hint{path: h.path, whole: h.whole || was.whole}
	}
	f.pending[key] = h
	f.info.Pending = int64(len(f.pending))
}

// gap notes that changes in the directory may not have been told. mu must be held.
func (f *feed) gap(dir core.Path) {
	if !f.lost[f.at.String()] {
		f.info.Gaps++
	}
	if f.lost[dir.String()] = true; len(f.lost) > maxLost || dir == f.at {
		f.lost = map[string]bool{f.at.String(): true}
		clear(f.pending) // it is among what is compared
		f.info.Pending = 0
	}
	nudge(f.wake)
}

func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// work compares what is pending.
func (f *feed) work(ctx context.Context) {
	defer f.end()
	look := time.NewTicker(busyLook)
	defer look.Stop()
	for {
		select {
		case <-f.wake:
		case <-look.C:
			f.settled()
			continue
		case <-ctx.Done():
			return
		}
		gathered := time.NewTimer(feedPause)
		select {
		case <-gathered.C:
		case <-ctx.Done():
			gathered.Stop()
			return
		}
		f.mu.Lock()
		pending, waiting, lost, first := f.pending, f.waiting, f.lost, f.first
		f.pending, f.waiting, f.lost = map[string]hint{}, nil, map[string]bool{}
		f.mu.Unlock()
		err := f.settle(ctx, pending, lost)
		f.mu.Lock()
		f.info.Pending = int64(len(f.pending))
		switch {
		case err != nil && ctx.Err() == nil: // the journal takes nothing: who told tells again, and a store that did cannot
			f.n.o.Logger.Warn("what a store told was not taken", "path", f.at.String(), "err", err)
			for dir := range lost {
				f.lost[dir] = true
			}
			if f.info.Kind != webhook {
				f.lost[f.at.String()] = true
			}
			if len(f.lost) > 0 {
				nudge(f.wake)
			}
		case len(pending) > 0:
			f.info.Lag = time.Since(first)
		}
		f.mu.Unlock()
		for _, w := range waiting {
			w <- err
		}
		if err != nil {
			_ = wait.For(ctx, time.Second) // the loop looks whether it has ended
		}
	}
}

// settled makes names pending that were busy and are not any more.
func (f *feed) settled() {
	f.mu.Lock()
	busy := maps.Clone(f.busy)
	f.mu.Unlock()
	for key, h := range busy {
		if pl := f.n.walk(h.path); pl.mount.is(f.m) && f.n.changing(&pl) {
			continue
		}
		f.mu.Lock()
		if len(f.pending) == 0 {
			f.first = time.Now()
		}
		f.add(key, h)
		delete(f.busy, key)
		nudge(f.wake)
		f.mu.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.many && len(f.busy) == 0 {
		f.many = false
		f.gap(f.at)
	}
}

// end tells those who wait that nobody compares any more.
func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = nil // nobody takes it
	for _, w := range f.waiting {
		w <- errFeedEnds
	}
}

var errFeedEnds = errs.New("namespace.Told", "", errs.Unavailable, "who takes hints of this mount begins anew; tell them again")

// settle has nothing count any more that was known of the names. An error says that it may count still.
func (f *feed) settle(ctx context.Context, pending map[string]hint, lost map[string]bool) error {
	if len(lost) > 0 {
		if err := f.lose(ctx, lost); err != nil {
			return err
		}
	}
	asking, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	var mu sync.Mutex
	var left []string
	var g errgroup.Group
	g.SetLimit(settleCalls)
	for path, h := range pending {
		if covered(path, pending) {
			continue
		}
		if asking.Err() != nil { // or all that is left would be asked about at once
			mu.Lock()
			left = append(left, path)
			mu.Unlock()
			continue
		}
		g.Go(func() error {
			if f.compare(asking, h) != nil {
				mu.Lock()
				defer mu.Unlock()
				left = append(left, path)
			}
			return nil
		})
	}
	_ = g.Wait() // there are none
	if len(left) == 0 {
		return nil
	}
	if len(left) <= maxDoubted {
		return f.doubt(ctx, left...)
	}
	return f.lose(ctx, f.dirsOf(left))
}

// dirsOf returns the directories that the names are in; the mount's if they are many.
func (f *feed) dirsOf(names []string) map[string]bool {
	dirs := map[string]bool{}
	for _, name := range names {
		if dirs[above(strings.TrimSuffix(name, "/")+"/")] = true; len(dirs) > maxLost {
			return map[string]bool{f.at.String(): true}
		}
	}
	return dirs
}

// lose has nothing count that is known of the directories, and all in those that are true be compared.
func (f *feed) lose(ctx context.Context, dirs map[string]bool) error {
	if err := f.doubt(ctx, slices.Sorted(maps.Keys(dirs))...); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for dir, compare := range dirs {
		if compare {
			f.again[dir] = true
			nudge(f.redo)
		}
	}
	return nil
}

// covered reports whether a directory above the path is wholly pending.
func covered(path string, pending map[string]hint) bool {
	for end := strings.LastIndexByte(path[:len(path)-1], '/') + 1; end > 1; end = strings.LastIndexByte(path[:end-1], '/') + 1 {
		if pending[path[:end]].whole {
			return true
		}
	}
	return false
}

// doubt has the next access to the paths ask the store. What Sluice changes there at the moment is compared once that has ended.
func (f *feed) doubt(ctx context.Context, names ...string) error {
	var paths []core.Path
	busy := map[string]hint{}
	for _, name := range names {
		p, err := core.ParsePath(name)
		if err != nil || len(p.Dir().String()) > core.MaxPath {
			p = f.at
		}
		paths = append(paths, p)
		f.changes(p, busy)
	}
	if err := f.n.Invalidate(ctx, paths...); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, h := range busy {
		if len(f.busy) >= maxPending && f.busy[key].path.IsZero() {
			f.many = true
			continue
		}
		h.whole = h.whole || f.busy[key].whole
		f.busy[key] = h
	}
	return nil
}

// changes adds to all what is to be compared once the changes through Sluice have ended that are under way at p, above it or below
// it. One that begins later replaces what was told of, or is refused because of it.
func (f *feed) changes(p core.Path, all map[string]hint) {
	pl := f.n.walk(p)
	if !pl.mount.is(f.m) {
		return
	}
	if f.n.changing(&pl) {
		all[p.String()] = hint{path: p, whole: p.IsDir() && p != f.at}
	}
	if !p.Dir().IsRoot() {
		pl = f.n.walk(p.Dir())
	}
	for _, key := range pl.mount.derived.PendingBelow(pl.key) {
		if at, err := core.ParsePath(f.at.String() + key); err == nil {
			all[at.String()] = hint{path: at, whole: at.IsDir()}
		}
	}
}

// rescans compares again what was lost, one rescan at a time and not more often than o.FeedRescan.
func (f *feed) rescans(ctx context.Context) {
	var last time.Time
	for {
		select {
		case <-f.redo:
		case <-ctx.Done():
			return
		}
		if wait.For(ctx, time.Until(last.Add(f.n.o.FeedRescan))) != nil {
			return
		}
		turn := f.n.feeds.turn
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return
		}
		f.mu.Lock()
		dirs := f.again
		f.again = map[string]bool{}
		f.mu.Unlock()
		if len(dirs) > maxLost || dirs[f.at.String()] {
			dirs = map[string]bool{f.at.String(): true}
		}
		last = time.Now()
		for _, dir := range slices.Sorted(maps.Keys(dirs)) {
			f.rescan(ctx, dir)
		}
		<-turn
	}
}

// rescan compares all in a directory. What cannot be compared stays invalidated.
func (f *feed) rescan(ctx context.Context, dir string) {
	p, err := core.ParsePath(dir)
	if err != nil || ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	f.info.Rescans++
	f.mu.Unlock()
	if err := f.n.feeds.rescan(ctx, p); err != nil && ctx.Err() == nil {
		f.n.o.Logger.Warn("events were lost, and what they may have been about could not all be compared; the rest is asked about when it is used",
			"path", dir, "err", err)
	}
}

// quiet is a SyncWatch that remembers the first failure.
type quiet struct {
	mu  sync.Mutex
	err error
}

func (q *quiet) Compared(int64, int64)              {}
func (q *quiet) Differs(core.SyncChange, core.Path) {}
func (q *quiet) Resumed(time.Time)                  {}
func (q *quiet) Failed(_ core.Path, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = errors.Join(q.err, err)
}

// compare compares the name with the store, unless it was told of an own write. Errors: refresh's.
func (f *feed) compare(ctx context.Context, h hint) error {
	for tries := 1; h.etag != "" && tries < settleTries; tries++ {
		pl := f.n.walk(h.path.File())
		if !pl.mount.is(f.m) {
			break
		}
		if !f.n.changing(&pl) {
			if f.wrote(&pl, h) {
				return nil
			}
			break
		}
		if err := wait.For(ctx, settleWait); err != nil { // the event may be quicker than the answer to the write
			return err
		}
	}
	return f.n.refresh(ctx, f.m.ID, h)
}

// wrote reports whether the hint is of a write through Sluice, which is still what is known of the place and of which nobody told yet.
func (f *feed) wrote(pl *place, h hint) bool {
	e := pl.entry
	if !pl.persisted() || pl.hidden || e.ETag != h.etag || e.Size != h.size || e.Version == "" || h.at.IsZero() ||
		h.at.Sub(time.Unix(0, e.MTime)).Abs() > ownApart {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := h.path.String()
	if f.own[key] == e.Version {
		return false
	}
	if len(f.own) >= maxPending { // older than ownApart by far, most of them
		clear(f.own)
	}
	f.own[key] = e.Version
	f.info.Own++
	return true
}

// refresh compares the name, which is to lie in the mount, with its store. An error says that this was not done: errs.Busy that
// a change through Sluice is under way there, so that what the store says does not count.
func (n *Namespace) refresh(ctx context.Context, mount string, h hint) error {
	for tries := 1; ; tries++ {
		pl := n.walk(h.path)
		if pl.mount == nil || pl.mount.ID != mount {
			return nil // another store's name, or none
		}
		began := time.Now()
		flight := pl.mount.derived.Sent(n.Seq(), began) // it counts if those sent after it do
		done, err := n.compareOnce(ctx, h, began)
		done = done && !n.changing(&pl)
		for _, key := range keysOf(&pl) {
			done = done && flight.Counts(key)
		}
		flight.Done()
		switch {
		case err != nil:
			return err
		case done:
			return nil
		case tries == settleTries: // a change through Sluice is under way there, and goes on
			return errs.New("namespace.Feed", h.path.String(), errs.Busy, "it is being changed")
		}
		if err := wait.For(ctx, settleWait); err != nil {
			return err
		}
	}
}

// compareOnce is one try of refresh. done is false if the overlay's entry was not compared.
func (n *Namespace) compareOnce(ctx context.Context, h hint, began time.Time) (done bool, err error) {
	q := &quiet{}
	s := &syncing{n: n, o: core.SyncOptions{Recursive: h.whole}, w: q, changed: make(chan struct{})}
	at, err := s.enter(ctx, h.path)
	switch {
	case errs.KindOf(err) == errs.NotExist && ctx.Err() == nil:
		return true, nil
	case err != nil:
		return false, err
	}
	pl := n.walk(at)
	if at.IsDir() && pl.mount != nil && (h.whole || pl.mount.features.Flat) {
		s.add(at)
		if err := s.run(ctx); err != nil {
			return false, err
		}
		return true, q.err
	}
	return !pl.persisted() || !pl.check.Before(began), nil
}

// keysOf returns the names in the store that the place may have as a file and as a directory.
func keysOf(pl *place) []string {
	if pl.key == "" {
		return []string{""}
	}
	key := strings.TrimSuffix(pl.key, "/")
	return []string{key, key + "/"}
}

// changing reports whether a change through Sluice is under way at the place or above it, so that its store is not believed.
func (n *Namespace) changing(pl *place) bool {
	for _, key := range keysOf(pl) {
		if pl.mount.derived.Changing(key) {
			return true
		}
	}
	return (pl.hidden || pl.local()) && n.intended(pl)
}

// intended reports whether a change that is journaled and not done yet is of the place, or of a directory above it.
func (n *Namespace) intended(pl *place) bool {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	for _, in := range n.open {
		if in.store != pl.mount.ID {
			continue
		}
		for _, key := range keysOf(pl) {
			if covers(in.key, key) || in.toKey != "" && covers(in.toKey, key) {
				return true
			}
		}
	}
	return false
}

// covers reports whether the name is of, or a directory of, the other one.
func covers(name, other string) bool {
	return name == other || strings.HasSuffix(name, "/") && strings.HasPrefix(other, name)
}

// told returns the mounts with webhooks that the caller may tell of, and those of which nobody can say whether he may.
func (n *Namespace) told(ctx context.Context, token string) (all, doubtful []*mounted, err error) {
	super := core.PrincipalOf(ctx).Super
	given := sha256.Sum256([]byte(token))
	for _, s := range n.senders() {
		same := s.is(given)
		switch {
		case same || super:
			all = append(all, s.m)
		case s.err != nil && token != "":
			doubtful = append(doubtful, s.m)
		}
	}
	switch {
	case len(all) > 0 || super:
		return all, doubtful, nil
	case len(doubtful) > 0: // not refused: who is told that tells no more
		return nil, nil, errs.New("namespace.Told", "", errs.Unavailable, fmt.Sprintf("the token is of no mount whose secrets can be read, and those of %d "+
			"with events=webhook cannot; tell again, and have an admin look at `sluice mount ls`", len(doubtful)))
	}
	return nil, nil, errs.New("namespace.Told", "", errs.Permission, "the token is missing, or that of no mount with events=webhook")
}

// MayTell implements core.Feeds.
func (n *Namespace) MayTell(ctx context.Context, token string) error {
	_, _, err := n.told(ctx, token)
	return err
}

// errNotOpen is answered last, once others have taken what they are told.
var errNotOpen = errs.New("namespace.Told", "", errs.Unavailable,
	"the store or the secrets of a mount of this bucket cannot be opened at the moment; tell again, and have an admin look at `sluice mount ls`")

// Told implements core.Feeds.
func (n *Namespace) Told(ctx context.Context, token string, hints []core.Hint) (core.Told, error) {
	var t core.Told
	mounts, doubtful, err := n.told(ctx, token)
	if err != nil {
		return t, err
	}
	taken := map[*feed][]core.Hint{}
	paths := map[*feed][]core.Path{}
	var refused error
	for _, h := range hints {
		known, within := false, false
		for _, m := range mounts {
			path, of, in := m.shows(h)
			known = known || of
			if !in {
				continue
			}
			if pl := n.walk(path); pl.mount == nil || pl.mount.ID != m.ID {
				continue // another mount covers it
			}
			within = true
			switch f := n.feedOf(m); {
			case m.err != nil:
				refused = errNotOpen
			case f == nil:
				refused = cmp.Or(refused, errFeedEnds)
			default:
				taken[f], paths[f] = append(taken[f], h), append(paths[f], path)
			}
		}
		for _, m := range doubtful {
			if _, _, in := m.shows(h); in {
				refused = errNotOpen
			}
		}
		switch {
		case within:
			t.Taken++
		case known:
			t.Outside++
		case len(t.Unknown) < core.MaxUnknown && !slices.Contains(t.Unknown, h.Store):
			t.Unknown = append(t.Unknown, h.Store)
		}
	}
	done := make(chan error, len(taken))
	for f, all := range taken {
		f.tell(all, paths[f], done)
	}
	for range taken {
		select {
		case err = <-done:
		case <-ctx.Done():
			return t, context.Cause(ctx)
		}
		if err != nil {
			return t, errs.New("namespace.Told", "", errs.Unavailable, "the hints could not be taken; tell them again: "+err.Error())
		}
	}
	return t, refused
}

// feedOf returns the mount's feed; nil if it has none yet.
func (n *Namespace) feedOf(m *mounted) *feed {
	n.feeds.mu.Lock()
	defer n.feeds.mu.Unlock()
	return n.feeds.by[m.ID]
}

// shows returns the path of what the hint is about, and whether its store is the mount's and its key below the mount's root.
func (m *mounted) shows(h core.Hint) (p core.Path, of, in bool) {
	u, err := url.Parse(m.URI)
	if err != nil {
		return p, false, false
	}
	if bucket, ok := strings.CutPrefix(h.Store, u.Scheme+"://"); ok && u.Host == "*" { // all buckets are in it
		h.Key, h.Store = bucket+"/"+h.Key, u.Scheme+"://*"
	}
	if u.Scheme+"://"+u.Host != h.Store {
		return p, false, false
	}
	prefix := strings.TrimPrefix(u.Path, "/")
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	key, ok := strings.CutPrefix(h.Key, prefix)
	if !ok || key == "" || strings.HasPrefix(key, ufs.Staging) {
		return p, true, false
	}
	p, err = core.ParsePath(m.Path.Dir().String() + key)
	return p, true, err == nil
}

// tell makes what the hints are about pending. done gets an error once that was compared or invalidated, or was not.
func (f *feed) tell(hints []core.Hint, paths []core.Path, done chan<- error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending == nil { // it has ended
		done <- errFeedEnds
		return
	}
	for i, h := range hints {
		kind := "created"
		if h.Removed {
			kind = "removed"
		}
		f.event(kind, hint{path: paths[i], etag: h.ETag, size: h.Size, at: h.At}, h.At)
	}
	f.ready()
	f.waiting = append(f.waiting, done)
	nudge(f.wake)
}

// Subscribed implements core.Feeds.
func (n *Namespace) Subscribed(ctx context.Context, token, confirm string) error {
	mounts, _, err := n.told(ctx, token)
	for _, m := range mounts {
		if f := n.feedOf(m); f != nil {
			f.mu.Lock()
			f.info.Confirm = confirm
			f.mu.Unlock()
		}
	}
	return err
}

// Feeds implements core.Feeds.
func (n *Namespace) Feeds(ctx context.Context) ([]core.FeedInfo, error) {
	if err := n.admin(ctx); err != nil {
		return nil, err
	}
	return n.FeedInfos(), nil
}

// FeedInfos returns what Feeds does, for whoever counts.
func (n *Namespace) FeedInfos() (all []core.FeedInfo) {
	n.feeds.mu.Lock()
	defer n.feeds.mu.Unlock()
	for _, f := range n.feeds.by {
		f.mu.Lock()
		i := f.info
		i.Kinds = maps.Clone(i.Kinds)
		f.mu.Unlock()
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b core.FeedInfo) int { return strings.Compare(a.Path.String(), b.Path.String()) })
	return all
}

var _ core.Feeds = (*Namespace)(nil)
