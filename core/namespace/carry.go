package namespace

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/mount"
	"github.com/sluicefs/sluice/ufs"
)

// A rename of a directory on a store that has no rename is acknowledged when everything is copied, or when the mount's
// rename_through_timeout is over. Then one record makes the new name lead to the place in the store that the old name had (relocate),
// and an opCarry intent stays open: the copying goes on, another record makes the new name lead to the copies, and what was copied is
// removed. Readers see the new name alone from the first of these records on, and the same bytes before and after the second.
//
// While it is carried through, nothing below either name is changed: whoever tries is told to try again. A leader that takes over
// goes on, and copies nothing that is there already; so it does with a rename that was not acknowledged before its leader was lost.
//
// A file that cannot be copied does not keep the others from it, and is tried again and again: what was acknowledged is not given up, and
// is read at the old place meanwhile. One that its store has no more is nothing to be copied: the rename goes on without it.

// copying is a copy of a tree that is under way.
type copying struct {
	cancel context.CancelFunc
	count  *headway
	done   chan struct{} // closed at its end, when the rest may be read
	copies copied
	err    error
}

// headway counts what one look at the old name has come to.
type headway struct {
	listed, there atomic.Int64 // names that the store has; those that have their copy
	whole         atomic.Bool  // listed are all

	refused []refusedCopy // the first of those that the store refused to copy, key being below the old name; read when the look has ended
}

// refusedCopy is why a file was not copied.
type refusedCopy struct {
	key string
	err error
}

func (t *headway) begin() {
	t.whole.Store(false)
	t.listed.Store(0)
	t.there.Store(0)
}

// refuse notes what the store has refused of what is below key.
func (t *headway) refuse(key string, all []refusedCopy) {
	slices.SortFunc(all, func(a, b refusedCopy) int { return cmp.Compare(a.key, b.key) })
	t.refused = slices.Clone(all[:min(len(all), core.MaxRefused)])
	for i := range t.refused {
		t.refused[i].key = t.refused[i].key[len(key):]
	}
}

// startCopy begins to copy what m's store has below key to toKey. It ends with the namespace's Run, not with ctx. at is nil the first time;
// then what is there already is not copied, and what the store refuses does not keep the rest from being copied.
func (n *Namespace) startCopy(ctx context.Context, m *mounted, key, toKey string, at *carriage) *copying {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &copying{cancel: cancel, count: new(headway), done: make(chan struct{})}
	if at != nil {
		c.count = at.count
	}
	stop := context.AfterFunc(n.running, cancel)
	n.resolving.Lock()
	defer n.resolving.Unlock()
	if err := n.running.Err(); err != nil {
		c.err = err
		close(c.done)
		cancel()
		return c
	}
	n.carriers.Go(func() {
		defer close(c.done)
		defer cancel()
		defer stop()
		how := howCopied{count: c.count}
		if at != nil {
			how.rest, how.have = true, at.had.twins(key, toKey)
		}
		if at != nil && len(how.have) == 0 { // of another process
			if how.have, c.err = n.copiedAlready(ctx, m, key, toKey); c.err != nil {
				return
			}
		}
		c.copies, c.err = n.copyTree(ctx, m, key, toKey, how)
	})
	return c
}

// stop ends the copying and waits until it has ended.
func (c *copying) stop() {
	if c != nil {
		c.cancel()
		<-c.done
	}
}

// twin is a file and its copy, by their versions.
type twin struct{ of, made string }

// copiedAlready returns, by name below toKey, what has the bytes of the same name below key.
func (n *Namespace) copiedAlready(ctx context.Context, m *mounted, key, toKey string) (map[string]twin, error) {
	if key == "" || key[len(key)-1] != '/' {
		return nil, nil
	}
	of := map[string]ufs.Info{}
	for info, err := range m.store.List(ctx, key, "", true) {
		if err != nil {
			return nil, err
		}
		if !info.Dir && isMD5(info.ETag) { // others say nothing of the bytes
			of[info.Name[len(key):]] = info
		}
	}
	have := map[string]twin{}
	for info, err := range m.store.List(ctx, toKey, "", true) {
		if isGone(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if f, ok := of[info.Name[len(toKey):]]; ok && f.ETag == info.ETag && f.Size == info.Size {
			have[info.Name] = twin{f.Version, info.Version}
		}
	}
	return have, nil
}

// within waits for the copying to end, for d at most if that is positive, and reports whether it has.
func (c *copying) within(d time.Duration) bool {
	if d <= 0 {
		<-c.done
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c.done:
		return true
	case <-t.C:
		return false
	}
}

// relocatable reports whether the new name of what is at src can lead to where it is in the store now.
func relocatable(src, dst *place) bool {
	return src.path.IsDir() && src.inTree && dst.inTree && !src.hidden && (src.entry == nil || src.entry.Class == meta.Directory && src.entry.Base.Kind == meta.Inherit)
}

// relocate makes dst lead to what src led to, before that is copied. in is the intent of the rename, whose locks are held; c is its
// copying, nil if there is none yet. After an error nothing is copied any more: another rename of the name may follow.
func (n *Namespace) relocate(ctx context.Context, in *openIntent, src, dst *place, c *copying) error {
	e := meta.Entry{Class: meta.Directory}
	if src.entry != nil {
		e = *src.entry
	} else {
		id, err := n.draw(ctx, &n.dirs)
		if err != nil {
			c.stop()
			n.keepOpen(in)
			return err
		}
		e.Dir = meta.DirID(id)
	}
	e.Base = meta.Base{Kind: meta.Absolute, Store: in.store, Prefix: in.key}
	carry := *in
	carry.op, carry.call, carry.since = opCarry, core.Call{}, time.Now()
	ops := append([]meta.Op{carry.set()}, n.answered(in.call, in.edge)...) // that it is in progress
	if dst.entry != nil && dst.entry.Class == meta.Directory {
		ops = append(ops, meta.Op{Kind: meta.DropDir, Dir: dst.entry.Dir})
	}
	ops = append(ops, meta.Op{Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: e},
		meta.Op{Kind: meta.Set, Dir: src.parent, Edge: src.edge, Entry: meta.Entry{Class: meta.Whiteout}})
	if _, err := n.commit(ctx, ops...); err != nil {
		c.stop()
		n.keepOpen(in)
		return err
	}
	n.resolving.Lock()
	n.open[carry.edge] = carry
	if c != nil { // else nobody was answered late: who led before was lost
		n.late++
	}
	n.resolving.Unlock()
	n.carryOn(carry, &carriage{copying: c})
	return nil
}

// carriage is how far the carrying of a rename has come.
type carriage struct {
	copying *copying    // under way; nil if there is none
	had     copied      // all that this process has copied
	copies  copied      // what there is to be removed
	drop    *openIntent // the originals are; nil before the copies are the names
	taken   bool        // another process, or an earlier try, has left drop: what it copied is not known
	judged  *judgement  // what of that is to be removed, as was found first; nil before

	count *headway
	done  chan struct{} // closed when it ends

	// Guarded by Namespace.resolving.
	failed carryTrouble
}

// carryTrouble is why a rename is not carried through.
type carryTrouble struct {
	tries       int64 // that failed, one after the other
	err         error // of the last of them
	next        time.Time
	there, left int64         // names with a copy, and without; as far as that was found
	whole       bool          // it is all of them
	refused     []refusedCopy // cf. headway
}

// carryOn carries a rename through in the background, unless that is being done. at is where it begins.
func (n *Namespace) carryOn(in openIntent, at *carriage) {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	if n.carrying[in.edge] != nil || n.running.Err() != nil {
		return
	}
	if at.count = new(headway); at.copying != nil {
		at.count = at.copying.count
	}
	at.done = make(chan struct{})
	n.carrying[in.edge] = at
	n.carriers.Go(func() {
		defer func() {
			n.resolving.Lock()
			defer n.resolving.Unlock()
			delete(n.carrying, in.edge)
			close(at.done)
		}()
		dropping := at.drop != nil
		for wait := watchInterval; ; wait = min(2*wait, maxCarryWait) {
			err := n.carry(n.running, &in, at)
			if err == nil || n.running.Err() != nil {
				return
			}
			if at.drop == nil && !n.carriesStill(&in) { // its first record is in the journal, and what is left is resolved like any intent
				return
			}
			if at.drop != nil && !dropping {
				dropping, wait = true, watchInterval
			}
			n.o.Logger.Warn("a rename could not be carried through to its store; it is tried again", "from", in.path, "to", in.to, "kind", errs.KindOf(err).Error(), "err", err)
			n.resolving.Lock()
			f := &at.failed
			f.tries, f.err, f.next = f.tries+1, err, time.Now().Add(wait)
			f.there, f.whole = at.count.there.Load(), at.count.whole.Load()
			f.left = max(0, at.count.listed.Load()-f.there)
			f.refused = at.count.refused
			n.resolving.Unlock()
			again := time.NewTimer(wait)
			select {
			case <-again.C:
			case <-n.running.Done():
				again.Stop()
				return
			}
		}
	})
}

// maxCarryWait is the most that a rename which cannot be carried through waits for the next try.
const maxCarryWait = time.Minute

// carriesStill reports whether the intent is one of a rename that is carried through, and not of its originals.
func (n *Namespace) carriesStill(in *openIntent) bool {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	return n.open[in.edge].op == opCarry
}

// carry copies what is left to be copied, makes the copies the names, and removes the originals, from at on.
func (n *Namespace) carry(ctx context.Context, in *openIntent, at *carriage) error {
	if at.copying == nil {
		at.count.refused = nil // was of the try before
	}
	m := n.mountOf(in.store)
	switch {
	case m == nil: // unmounted since: nothing of it is in the tree any more
		_, err := n.commit(ctx, in.close())
		if err == nil {
			n.noLonger(in)
		}
		return err
	case m.err != nil:
		return m.unavailable()
	}
	from, err := core.ParsePath(in.path)
	if err != nil {
		return err
	}
	if at.taken {
		return n.leaveTaken(ctx, m, in, from, at)
	}
	if at.drop != nil {
		return n.leaveCopied(ctx, m, at.drop, from, at.copies)
	}
	to, err := core.ParsePath(in.to)
	if err != nil {
		return err
	}
	c := at.copying
	at.copying = nil
	if c == nil {
		c = n.startCopy(ctx, m, in.key, in.toKey, at)
	}
	<-c.done
	at.had.add(c.copies)
	if c.err != nil {
		return c.err
	}
	copies, err := n.catchUp(ctx, m, in, at)
	if err != nil {
		at.had.add(copies)
		return err
	}
	drop, err := n.arrive(ctx, m, in, from, to, copies)
	if err != nil {
		return err
	}
	at.drop, at.copies = drop, copies
	n.resolving.Lock()
	at.failed = carryTrouble{} // was of the copying
	n.resolving.Unlock()
	return n.leaveCopied(ctx, m, drop, from, copies)
}

// add takes over what another look has copied. What that could not copy counts as copied no more, whatever was there before.
func (c *copied) add(more copied) {
	if c.of == nil {
		*c = newCopied(more.since)
	}
	for key, version := range more.of {
		c.of[key] = version
		delete(c.failed, key)
		delete(c.unsure, key) // it was overwritten
	}
	for key := range more.failed {
		c.failed[key] = true
		delete(c.of, key)
	}
	maps.Copy(c.made, more.made)
	maps.Copy(c.gone, more.gone)
	maps.Copy(c.unsure, more.unsure)
}

// twins returns what is copied from below key to below toKey, by the names of the copies.
func (c *copied) twins(key, toKey string) map[string]twin {
	have := make(map[string]twin, len(c.of))
	for from, version := range c.of {
		to := toKey + from[len(key):]
		have[to] = twin{version, c.made[to]}
	}
	return have
}

// catchUp copies what others have written below the old name since it was copied, and takes away the copies of what they have removed. It
// looks once: what comes later stays under the old name.
func (n *Namespace) catchUp(ctx context.Context, m *mounted, in *openIntent, at *carriage) (copied, error) {
	was := &at.had
	now, err := n.copyTree(ctx, m, in.key, in.toKey, howCopied{have: was.twins(in.key, in.toKey), rest: true, count: at.count})
	if err != nil {
		return now, err
	}
	for key := range was.gone {
		if _, ok := now.of[key]; !ok {
			now.gone[key] = true
		}
	}
	for _, key := range slices.AppendSeq(slices.Collect(maps.Keys(was.of)), maps.Keys(was.failed)) {
		if _, ok := now.of[key]; ok {
			continue
		}
		if gone, err := m.lacks(ctx, key); err != nil {
			return now, err
		} else if !gone {
			return now, errs.New("namespace.Rename", key, errs.Unavailable, "the store has it, and did not list it")
		}
		now.gone[key] = true
		if err := n.dropCopy(ctx, m, was, key, in.toKey+key[len(in.key):]); err != nil {
			return now, err
		}
	}
	return now, nil
}

// dropCopy removes what was copied from key to to, and nothing that others have put there: they may have moved the file there themselves.
func (n *Namespace) dropCopy(ctx context.Context, m *mounted, was *copied, key, to string) error {
	if version := was.made[to]; version != "" {
		if err := n.dropMade(ctx, m, to, version); err != nil {
			return err
		}
	}
	if was.unsure[key] {
		n.o.Logger.Warn("what is under the new name of a file that others removed may be its copy, and stays", "key", to, "of", key)
	}
	return nil
}

// dropMade removes what a copy has made of the key. What is there by now may have the same bytes and be another's, which stays: a store may
// compare nothing but these.
func (n *Namespace) dropMade(ctx context.Context, m *mounted, key, version string) error {
	is, err := m.store.Stat(ctx, key)
	switch {
	case isGone(err):
		return nil
	case err != nil:
		return err
	case version != "" && !sameVersion(is.Version, version):
		n.o.Logger.Warn("what is under the new name of a file whose copy is to be taken back is another's by now, and stays", "key", key)
		return nil
	}
	if err := m.store.Remove(ctx, key, version); err != nil && !isGone(err) && !errors.Is(err, errs.Precondition) {
		return err
	}
	return nil
}

// lacks reports whether the store has nothing at the key.
func (m *mounted) lacks(ctx context.Context, key string) (bool, error) {
	if _, err := m.store.Stat(ctx, key); !isGone(err) {
		return false, err
	}
	return true, nil
}

// maxCarries is how many renames in a mount may be carried through after their answer before others wait for theirs. Some that are late
// at the same moment may be more.
const maxCarries = 4

// full reports whether so many renames in the mount of that id are carried through that another waits.
func (n *Namespace) full(id string) bool {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	open := 0
	for _, in := range n.open {
		if in.op == opCarry && in.store == id {
			open++
		}
	}
	return open >= maxCarries
}

// arrive makes the copies what the new name leads to, and returns the intent that is left: the originals are to be removed.
func (n *Namespace) arrive(ctx context.Context, m *mounted, in *openIntent, from, to core.Path, copies copied) (*openIntent, error) {
	unlock, err := n.locks.lock(ctx, from, to)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !n.mountOf(m.ID).is(m) {
		return nil, switched(m)
	}
	dst := n.walk(to)
	if dst.entry == nil || dst.entry.Base != (meta.Base{Kind: meta.Absolute, Store: in.store, Prefix: in.key}) {
		return nil, errs.New("namespace.Rename", in.to, errs.Corrupt, "what a rename made of the name is not there any more")
	}
	dst.key = in.toKey
	if err := n.dropReplaced(ctx, m, &dst, copies); err != nil {
		return nil, err
	}
	drop := in.drop(copies)
	e := *dst.entry
	e.Base = meta.Base{}
	ops := []meta.Op{drop.set(), {Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: e}}
	n.tree.View(func(v meta.View) { ops = movedEntries(v, e.Dir, in.key, in.toKey, copies, ops) })
	d := m.derived
	for _, key := range []string{in.key, in.toKey} {
		d.Begin(key)
		d.Forget(key)
		defer func() { d.End(key, n.Seq(), nil, false) }()
	}
	if err := n.flip(context.WithoutCancel(ctx), in, &drop, ops); err != nil {
		return nil, err
	}
	n.moves.add(move{store: m.ID, from: in.key, to: in.toKey, copies: copies.moved(in.key, in.toKey)})
	n.keepOpen(&drop)
	n.lostOf(in, copies)
	return &drop, nil
}

// lostOf says what a rename went on without.
func (n *Namespace) lostOf(in *openIntent, copies copied) {
	if len(copies.gone) == 0 {
		return
	}
	some := slices.Sorted(maps.Keys(copies.gone))
	n.o.Logger.Warn("others removed files from the store before a rename was carried through; it is done without them", "from", in.path, "to", in.to,
		"files", len(some), "first", some[:min(len(some), 10)])
	n.resolving.Lock()
	defer n.resolving.Unlock()
	n.gone += int64(len(some))
}

// leaveCopied removes what this process has copied from under the old name, and lets go of that.
func (n *Namespace) leaveCopied(ctx context.Context, m *mounted, drop *openIntent, from core.Path, copies copied) error {
	return n.leave(ctx, m, drop, from, func() error { return n.dropOriginals(ctx, m, copies, time.Time{}) })
}

// leaveTaken is leaveCopied for what another process has copied.
func (n *Namespace) leaveTaken(ctx context.Context, m *mounted, in *openIntent, from core.Path, at *carriage) error {
	if in.made != "" && strings.HasSuffix(in.key, "/") { // a directory's, before held files are brought over the copies, and others may change them
		if at.judged == nil || !at.judged.of.is(m) {
			at.judged = &judgement{of: m}
		}
		if err := at.judged.judge(ctx, in); err != nil {
			return err
		}
	}
	if in.toKey != "" {
		to, err := core.ParsePath(in.to)
		if err != nil {
			return err
		}
		if err := n.findCopies(ctx, m, in, to); err != nil {
			return err
		}
	}
	return n.leave(ctx, m, in, from, func() error { return n.dropSource(ctx, m, in, at.judged) })
}

// judgement is which originals of a rename that another process has copied are to be removed. They are compared with their copies as those
// were found first: later these may be overwritten, or removed, by whoever uses the new name.
type judgement struct {
	of           *mounted
	listed       bool
	left, copies map[string]ufs.Info // by names below theirs: what is not judged yet, and what it is compared with
	drop         map[string]ufs.Info // by store names
}

// judge goes through what is left to be judged. After an error it is called again.
func (j *judgement) judge(ctx context.Context, in *openIntent) (err error) {
	if !j.listed {
		if j.copies, err = j.of.below(ctx, in.made); err != nil {
			return err
		}
		if j.left, err = j.of.below(ctx, in.key); err != nil {
			return err
		}
		j.listed, j.drop = true, map[string]ufs.Info{}
	}
	for name, info := range j.left {
		is, ok := j.copies[name]
		if ok, err = j.of.leftBy(ctx, in, info, is, ok); err != nil {
			return err
		}
		if ok {
			j.drop[info.Name] = info
		}
		delete(j.left, name)
	}
	j.copies = nil
	return nil
}

// leftBy reports whether the original is what the rename of the intent has left: it was there when the copying began, or its copy is the same.
func (m *mounted) leftBy(ctx context.Context, in *openIntent, info, is ufs.Info, copied bool) (bool, error) {
	if !info.ModTime.IsZero() && info.ModTime.Before(in.since) {
		return true, nil
	}
	if !copied || is.Size != info.Size || is.Dir != info.Dir {
		return false, nil
	}
	if info.Dir || isMD5(info.ETag) && info.ETag == is.ETag {
		return true, nil
	}
	sum, err := m.sumOf(ctx, info)
	if isGone(err) || errs.KindOf(err) == errs.Precondition {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return m.hashesTo(ctx, is, sum)
}

// drops reports whether what the store lists by now is to be removed, as it was judged.
func (j *judgement) drops(info ufs.Info) bool {
	was, ok := j.drop[info.Name]
	return ok && was.Version == info.Version && was.Size == info.Size && was.ModTime.Equal(info.ModTime)
}

// removals are the calls under way that remove originals of renames. What has begun cannot be called back, and would take away what
// somebody puts at the name when its mount is gone, through another: who takes a store away from its mount waits for them.
type removals struct {
	mu     sync.Mutex
	begun  map[string]int // by mount
	barred map[string]int // by mount: who lets none begin
	ended  chan struct{}  // closed, and another made, when one ends
}

func newRemovals() removals {
	return removals{begun: map[string]int{}, barred: map[string]int{}, ended: make(chan struct{})}
}

// beginRemoval has a call remove something from the store of m in a context that does not end before it. The caller calls end after it.
// Errors: errs.Unavailable if the mount is another, or may become one at once.
func (n *Namespace) beginRemoval(ctx context.Context, m *mounted) (lasting context.Context, end func(), err error) {
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	r := &n.removals
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.barred[m.ID] > 0 || !n.mountOf(m.ID).is(m) {
		return nil, nil, switched(m)
	}
	r.begun[m.ID]++
	return context.WithoutCancel(ctx), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.begun[m.ID]--; r.begun[m.ID] == 0 {
			delete(r.begun, m.ID)
		}
		close(r.ended)
		r.ended = make(chan struct{})
	}, nil
}

// maxRemovalWait is how long who takes a store away from its mount waits for removals that have begun.
const maxRemovalWait = 10 * time.Second

// barRemovals lets no removal of originals begin in the mount until lift is called, and waits for those that have begun. Nobody waits for
// the locks of what is in the mount meanwhile. Errors: errs.Unavailable if they do not end.
func (n *Namespace) barRemovals(ctx context.Context, m *mount.Mount) (lift func(), err error) {
	r := &n.removals
	r.mu.Lock()
	defer r.mu.Unlock()
	r.barred[m.ID]++
	unbar := func() {
		if r.barred[m.ID]--; r.barred[m.ID] == 0 {
			delete(r.barred, m.ID)
		}
	}
	long := time.NewTimer(maxRemovalWait)
	defer long.Stop()
	for r.begun[m.ID] > 0 && err == nil {
		ended := r.ended
		r.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-long.C:
			err = errs.New("namespace.Mounts", m.Path.String(), errs.Unavailable, "files of a rename are being removed from its store; nothing is changed, try again")
		}
		r.mu.Lock()
	}
	if err != nil {
		unbar()
		return nil, err
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		unbar()
	}, nil
}

// leave has remove take away the originals, and lets go of the old name. That takes as long as the store does, and no lock is held
// meanwhile, for which all would wait that change what is above the name: the intent refuses whoever would change the name, or what holds
// it or is below it.
func (n *Namespace) leave(ctx context.Context, m *mounted, drop *openIntent, from core.Path, remove func() error) error {
	lock := func() (unlock func(), err error) {
		if unlock, err = n.locks.lock(ctx, from); err == nil && !n.mountOf(m.ID).is(m) {
			unlock()
			err = switched(m)
		}
		return unlock, err
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	unlock()
	if err := remove(); err != nil {
		return err
	}
	if unlock, err = lock(); err != nil {
		return err
	}
	defer unlock()
	d := m.derived
	d.Begin(drop.key)
	d.Forget(drop.key) // from the record on, what is known of the store no longer counts
	defer func() { d.End(drop.key, n.Seq(), nil, false) }()
	if _, err := n.commit(ctx, append(n.unhideOps(from), drop.close())...); err != nil {
		return err
	}
	n.noLonger(drop)
	return nil
}

// noLonger takes an intent that the journal has no more from those that are open.
func (n *Namespace) noLonger(in *openIntent) {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	delete(n.open, in.edge)
	close(n.resolved)
	n.resolved = make(chan struct{})
}

// carried says of a place what rename of it is not carried through yet, nil if none.
func (n *Namespace) carried(pl *place) *core.CarriedRename {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	for _, in := range n.open {
		if (in.op == opCarry || in.op == opDropTree) && in.store == pl.mount.ID && related(in.key, pl.key) {
			r := n.describeCarried(&in)
			return &r
		}
	}
	return nil
}

// troubleOf returns why the last try at a rename that is carried through failed, nil if none has. resolving must be held.
func (n *Namespace) troubleOf(in *openIntent) *carryTrouble {
	if at := n.carrying[in.edge]; at != nil && at.failed.err != nil {
		return &at.failed
	}
	return nil
}

// describeCarried describes a rename that is carried through. resolving must be held.
func (n *Namespace) describeCarried(in *openIntent) core.CarriedRename {
	r := core.CarriedRename{ID: in.edge, From: in.path, To: in.to, Since: in.since, Removing: in.op == opDropTree}
	if f := n.troubleOf(in); f != nil {
		r.Tries, r.Err, r.Next = f.tries, f.err, f.next
		r.Copied, r.Left, r.Counted = f.there, f.left, f.whole
		for _, x := range f.refused {
			if p, err := core.ParsePath(in.to + x.key); err == nil {
				r.Refused = append(r.Refused, core.Failure{Path: p, Err: x.err})
			}
		}
		return r
	}
	at := n.carrying[in.edge]
	if at == nil {
		return r
	}
	r.Copied, r.Counted = at.count.there.Load(), at.count.whole.Load()
	r.Left = max(0, at.count.listed.Load()-r.Copied)
	return r
}

// CarriedRenames implements core.Explainer.
func (n *Namespace) CarriedRenames(ctx context.Context) ([]core.CarriedRename, error) {
	if !core.PrincipalOf(ctx).Super {
		return nil, errs.New("namespace.CarriedRenames", "", errs.Permission, "only a superuser is told of all renames")
	}
	n.resolving.Lock()
	defer n.resolving.Unlock()
	var all []core.CarriedRename
	for _, in := range n.open {
		if in.op == opCarry || in.op == opDropTree {
			all = append(all, n.describeCarried(&in))
		}
	}
	slices.SortFunc(all, func(a, b core.CarriedRename) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	return all, nil
}

// Carries counts the renames that are carried through to their stores after they were acknowledged.
type Carries struct {
	Open    int64 // under way, by now
	Failing int64 // of them, and of those whose originals are to be removed, by now: the last try failed
	Late    int64 // all that went on after their time, since this process leads
	Gone    int64 // files that their stores had no more when it was their turn, since this process leads
}

// Carries returns what is to be counted of renames.
func (n *Namespace) Carries() Carries {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	c := Carries{Late: n.late, Gone: n.gone}
	for _, in := range n.open {
		if in.op == opCarry {
			c.Open++
		}
		if n.troubleOf(&in) != nil {
			c.Failing++
		}
	}
	return c
}

// renameThrough returns how long a rename of what has the path in m waits for its store; 0: until it is done.
func (n *Namespace) renameThrough(m *mounted, p core.Path) time.Duration {
	if n.rules.Load() != nil {
		if d := n.policies(m, p).RenameThrough; d != nil {
			return *d
		}
	}
	return n.o.RenameThrough
}
