package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// An intent is a journaled promise to look: before a store is changed visibly, the journal says what is about to happen,
// and the record of the outcome closes it. An intent without an answer (a crash, a store that timed out) stays open; its
// names accept no other change until it is resolved by looking at the store:
//
//	put, copy, append, complete   what is staged is discarded, where the store can; then, if the key carries the attempt's
//	                              origin → the outcome is committed; else it did not happen
//	persist                       likewise; what did not happen is tried again, and the file stays what it is
//	remove                        the key is gone → committed; else it did not happen
//	rename                        the source is gone and the destination there → committed; else it did not happen
//	mkdir, parents                carried on: a directory made twice is made once. What the store refuses did not happen
//	carry                         carried on, beside everything else: see carry.go
//	remove tree, rename by copy   carried on to the end: their first record has already changed what readers see. While the
//	                              intent of what is to be removed names the copies, held files have not their versions yet
//
// On a store that may still carry out a request that got no answer (S3), an intent that "did not happen" is watched until
// no late arrival is possible.

// opKind is what an intent is about to do.
type opKind string

const (
	opPut      opKind = "put"      // also copy, append and complete: the key gets the bytes of entry
	opPersist  opKind = "persist"  // the key gets the bytes of entry, which workers hold
	opMkdir    opKind = "mkdir"    // the key is a directory, which becomes entry
	opParents  opKind = "parents"  // the key is a directory, which the first record has made, with those above it
	opRemove   opKind = "remove"   // the key, at version
	opRename   opKind = "rename"   // key to toKey in one step
	opTrash    opKind = "trash"    // everything below key; already hidden by a whiteout
	opCopyTree opKind = "copytree" // copy everything below key to toKey, then flip
	opCarry    opKind = "carry"    // copy what is left below key to toKey; the new name leads to key until then
	opDropTree opKind = "droptree" // remove what a copied tree left at key; hidden by a whiteout
)

// openIntent is an intent as it is journaled, in the Extra fields of a Note of meta.IntentsDir.
type openIntent struct {
	op         opKind
	path, to   string // names
	store, key string
	toKey      string
	made       string // where the copies of what is at key are: what has none there is not removed; "" in old journals
	version    string
	token      string // staged bytes, or a store's upload id
	upload     string // id of the upload a complete ends
	parts      string // digest of the parts it is completed from
	entry      meta.Entry
	since      time.Time
	call       core.Call // the change, if its outcome is to be its answer

	edge string // in meta.IntentsDir

	pends bool // both names of a rename are pending in meta.Derived until it is resolved

	prepare func(context.Context) error // what nobody sees of the store's step, done while the intent is journaled; may be nil
}

func (in *openIntent) note() meta.Entry {
	x := make(map[string]string, 8) // most have no more, and a larger one is several pieces of memory
	put := func(name, value string) {
		if value != "" {
			x[name] = value
		}
	}
	put("op", string(in.op))
	put("path", in.path)
	put("to", in.to)
	put("store", in.store)
	put("key", in.key)
	put("toKey", in.toKey)
	put("made", in.made)
	put("version", in.version)
	put("token", in.token)
	put("upload", in.upload)
	put("parts", in.parts)
	put("since", strconv.FormatInt(in.since.UnixNano(), 10))
	if in.call.Sequence != 0 {
		put("call", string(appendCall(nil, in.call)))
	}
	switch {
	case in.entry.Class == 0:
	case in.packable():
		put("packed", in.packed())
	default:
		b, _ := json.Marshal(in.entry) // plain data: cannot fail
		put("entry", string(b))
	}
	return meta.Entry{Class: meta.Note, Extra: x}
}

// An older version closes a put whose entry it does not see as one that did not happen, and takes the file on the store's word. Of all
// else, and of a complete, which it must find done, it needs the entry: that is told in the form it knows, JSON, under "entry".

// packable reports whether the entry is journaled as records have theirs, which takes a third of the bytes and of the time: there is one
// put for each file that is written.
func (in *openIntent) packable() bool { return in.op == opPut && in.upload == "" }

// packed returns the entry as it is journaled under "packed".
func (in *openIntent) packed() string {
	var room [512]byte
	return string(in.entry.Append(room[:0]))
}

// readEntry reads the entry that a note has, in either form.
func (in *openIntent) readEntry(note map[string]string) (err error) {
	if text := note["packed"]; text != "" {
		in.entry, err = meta.DecodeEntry([]byte(text))
	} else if text := note["entry"]; text != "" {
		err = json.Unmarshal([]byte(text), &in.entry)
	}
	return err
}

func intentOf(edge string, e *meta.Entry) (in openIntent, err error) {
	x := e.Extra
	in = openIntent{op: opKind(x["op"]), path: x["path"], to: x["to"], store: x["store"], key: x["key"], toKey: x["toKey"], made: x["made"],
		version: x["version"], token: x["token"], upload: x["upload"], parts: x["parts"], call: callOf(x["call"]), edge: edge}
	ns, err := strconv.ParseInt(x["since"], 10, 64)
	if err == nil {
		err = in.readEntry(x)
	}
	in.since = time.Unix(0, ns)
	return in, err
}

func (in *openIntent) set() meta.Op {
	return meta.Op{Kind: meta.Set, Dir: meta.IntentsDir, Edge: in.edge, Entry: in.note()}
}

func (in *openIntent) close() meta.Op {
	return meta.Op{Kind: meta.Del, Dir: meta.IntentsDir, Edge: in.edge}
}

// dropped are the operations that forget the directory that a removal of a tree has hidden.
func (in *openIntent) dropped() []meta.Op {
	if in.op != opTrash || in.entry.Class != meta.Directory {
		return nil
	}
	return []meta.Op{{Kind: meta.DropDir, Dir: in.entry.Dir}}
}

// begin journals the intent together with ops.
func (n *Namespace) begin(ctx context.Context, in *openIntent, ops ...meta.Op) error {
	return n.beginning(ctx, in, ops...)()
}

// beginning queues the intent, with ops, for the journal and returns what begin does after that, which must be called once.
func (n *Namespace) beginning(ctx context.Context, in *openIntent, ops ...meta.Op) (outcome func() error) {
	id, err := n.draw(ctx, &n.revs)
	if err != nil {
		n.answers.wrote(core.CallOf(ctx))
		return func() error { return err }
	}
	in.edge, in.since = fmt.Sprintf("%016x", id), time.Now()
	switch {
	case n.o.Answer == nil, in.op == opParents: // the change is what the parents are made for
	case in.op != opTrash: // a tree is gone from view with its intent, which answers
		in.call = core.CallOf(ctx)
	}
	record := newRecord()
	record.ops = append(append(record.ops, ops...), in.set())
	committed := n.committing(ctx, record.ops)
	return func() error {
		defer record.free()
		_, err := committed()
		return err
	}
}

// beginPrepared journals the intent and prepares the store's step meanwhile: both wait for a disk.
func (n *Namespace) beginPrepared(ctx context.Context, in *openIntent) error {
	if in.prepare == nil {
		return n.begin(ctx, in)
	}
	begun := n.beginning(ctx, in)
	perr := in.prepare(ctx)
	err := begun()
	if err == nil && perr != nil { // nothing of it can be seen, now or later
		return errors.Join(perr, n.closed(ctx, in))
	}
	return err
}

// answer returns the operation that answers the intent's change, whose outcome is ops at pl.
func (n *Namespace) answer(in *openIntent, pl place, ops []meta.Op) []meta.Op {
	if in.call.Sequence == 0 {
		return nil
	}
	if in.op != opPut && in.op != opMkdir {
		return n.answered(in.call, nil)
	}
	e := in.entry
	for i := range ops {
		if op := &ops[i]; op.Kind == meta.Set && pl.inTree && op.Dir == pl.parent && op.Edge == pl.edge {
			e = op.Entry
		}
	}
	return n.answered(in.call, n.infoAt(pl, &e))
}

// infoAt describes the place as it is once it has the entry.
func (n *Namespace) infoAt(pl place, e *meta.Entry) core.Info {
	pl.entry, pl.check = e, time.Now()
	return n.infoOf(&node{place: pl, cache: core.Hit})
}

// unanswered reports whether err leaves it open whether the store did what it was asked.
func unanswered(err error) bool {
	return errs.KindOf(err) == errs.Unavailable || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// through carries a change of one name to its store: it journals the intent, takes the store's step, and journals what
// outcome appends then. row is what the store has at the key after the step; its Name is empty if nothing.
// The caller holds the name's lock. A client that hangs up does not stop it.
func (n *Namespace) through(ctx context.Context, pl *place, in *openIntent, step func(context.Context) error, outcome func([]meta.Op) []meta.Op, row *ufs.Info) error {
	ctx = context.WithoutCancel(ctx)
	if err := pl.mount.opened(); err != nil {
		return err
	}
	if err := n.beginPrepared(ctx, in); err != nil {
		return err
	}
	d := pl.mount.derived
	d.Begin(pl.key)
	if err := step(ctx); err != nil {
		d.End(pl.key, n.Seq(), nil, false)
		if errors.Is(err, ufs.ErrUnsent) {
			return errors.Join(err, n.closed(ctx, in))
		}
		return n.failed(ctx, in, err)
	}
	record := newRecord()
	defer record.free()
	ops := outcome(record.ops)
	ops = append(ops, n.answer(in, *pl, ops)...)
	record.ops = append(ops, in.close())
	if in.op == opRemove { // from the record on, what was known of the store no longer counts
		d.Forget(pl.key)
	}
	seq, err := n.commit(ctx, record.ops...)
	if err != nil { // the store has it: until the journal can say so, nothing else happens to the name
		d.End(pl.key, n.Seq(), nil, false)
		n.keepOpen(in)
		return err
	}
	if row == nil || row.Name == "" {
		d.End(pl.key, seq, nil, true)
		return nil
	}
	r := rowOf(*row)
	d.End(pl.key, seq, &r, true)
	return nil
}

// failed closes an intent whose step failed for certain, or keeps it open for watchIntents.
func (n *Namespace) failed(ctx context.Context, in *openIntent, err error) error {
	if unanswered(err) {
		in.since = time.Now() // what may come late left just now at the latest
		n.keepOpen(in)
		return err
	}
	return errors.Join(err, n.closed(ctx, in))
}

// closed closes an intent that did not happen.
func (n *Namespace) closed(ctx context.Context, in *openIntent) error {
	_, err := n.commit(ctx, in.close())
	if err != nil {
		n.keepOpen(in)
	}
	return err
}

// blocked reports errs.Unavailable if an earlier change of the place got no answer yet, and errs.Permission if the mount
// refuses changes by now.
func (n *Namespace) blocked(pl *place) error {
	if err := pl.mount.refuses(pl.path); err != nil {
		return err
	}
	return n.pending(pl)
}

// pending reports errs.Unavailable if an earlier change of the place got no answer yet.
func (n *Namespace) pending(pl *place) error {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	for _, in := range n.open {
		if in.store == pl.mount.ID && (related(in.key, pl.key) || in.toKey != "" && related(in.toKey, pl.key)) {
			if in.op == opCarry {
				return core.BeingCarried(pl.path.String())
			}
			return errs.New("namespace", pl.path.String(), errs.Unavailable,
				"an earlier change of this name got no answer from its store; it is being looked into, try again")
		}
	}
	return nil
}

// renaming reports whether a rename of the place, or of what holds it, got no answer yet: until it is known which of the
// names is there, neither is compared with the store.
func (n *Namespace) renaming(pl *place) bool {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	for _, in := range n.open {
		if in.toKey != "" && in.op != opCarry && in.store == pl.mount.ID && (related(in.key, pl.key) || related(in.toKey, pl.key)) {
			return true
		}
	}
	return false
}

// awaitSettled waits for the change under way at what has the key, or above it. Errors: errs.Unavailable if that is a rename
// that gets no answer from its store.
func (n *Namespace) awaitSettled(ctx context.Context, pl *place) error {
	for settled := pl.mount.derived.Settled(pl.key); ; {
		again := time.NewTimer(maxChasing)
		defer again.Stop()
		select {
		case <-settled:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-again.C:
			if n.renaming(pl) {
				return inDoubt(pl.path)
			}
		}
	}
}

func inDoubt(p core.Path) error {
	return errs.New("namespace", p.String(), errs.Unavailable, "a rename of it got no answer from its store; it is being looked into, try again")
}

// related reports whether two store names are the same or one holds the other.
func related(a, b string) bool {
	under := func(dir, name string) bool {
		return dir != "" && dir[len(dir)-1] == '/' && len(name) >= len(dir) && name[:len(dir)] == dir
	}
	return a == b || under(a, b) || under(b, a)
}

// resolveAll resolves the intents the journal left open. Those whose store does not answer are left to watchIntents.
func (n *Namespace) resolveAll(ctx context.Context) {
	n.tree.View(func(v meta.View) {
		for edge, e := range v.Children(meta.IntentsDir, "") {
			in, err := intentOf(edge, e)
			if err != nil {
				n.o.Logger.Error("an intent in the journal cannot be read; its name stays as it is", "intent", edge, "err", err)
				continue
			}
			if m := n.mountOf(in.store); m != nil && in.op == opRename {
				in.pends = true
				m.derived.Begin(in.key)
				m.derived.Begin(in.toKey)
			}
			n.open[edge] = in
		}
	})
	n.resolveOpen(ctx, near)
}

// near picks the mounts whose stores answer at once or not at all: these the start waits for.
func near(m *mounted) bool { return m != nil && !m.features.Remote }

func everywhere(*mounted) bool { return true }

// cleanInterval is how often the staging of stores that are not near is cleaned: what a store did not let go of, or whose
// intent was open, comes up again.
const cleanInterval = 15 * time.Minute

// watchInterval is how often open intents are looked at again.
const watchInterval = 2 * time.Second

// watchIntents resolves open intents, opens stores that did not open before, and cleans up what crashes left behind, until
// ctx ends.
func (n *Namespace) watchIntents(ctx context.Context) {
	if n.holding() {
		if !n.awaitRelease(ctx) {
			return
		}
		n.cleanStaging(ctx, near)
	}
	n.adoptRoots(ctx)
	n.learn(ctx)
	n.resolveOpen(ctx, everywhere)
	far := func(m *mounted) bool { return !near(m) }
	n.cleanStaging(ctx, far)
	t := time.NewTicker(watchInterval)
	defer t.Stop()
	clean := time.NewTimer(4 * n.o.Settle)
	defer clean.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-clean.C:
			n.cleanStaging(ctx, far)
			clean.Reset(cleanInterval)
		case <-t.C:
			n.reopen(ctx)
			n.adoptRoots(ctx)
			n.resolveOpen(ctx, everywhere)
			n.endIdleSessions(ctx, sessionIdle)
			n.noteSessions(ctx)
			n.findLost(ctx)
		}
	}
}

// awaitRelease opens stores that did not open before, and nothing else, until changes are accepted; false: ctx has ended.
func (n *Namespace) awaitRelease(ctx context.Context) bool {
	t := time.NewTicker(watchInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-n.released:
			return true
		case <-t.C:
			n.reopen(ctx)
		}
	}
}

// resolveTime is how long one round of looking at a mount's open intents, or one clean-up of its staging, may take: a store
// that does not answer keeps neither the start nor the other mounts waiting.
const resolveTime = 10 * time.Second

// resolveOpen looks at the open intents of the mounts picked, those of each mount one after the other.
func (n *Namespace) resolveOpen(ctx context.Context, pick func(*mounted) bool) {
	n.resolving.Lock()
	byStore := map[string][]openIntent{}
	for _, in := range n.open {
		if pick(n.mountOf(in.store)) {
			byStore[in.store] = append(byStore[in.store], in)
		}
	}
	n.resolving.Unlock()
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, all := range byStore {
		wg.Go(func() {
			for i := range all {
				n.tryResolve(ctx, &all[i])
			}
		})
	}
}

func (n *Namespace) tryResolve(ctx context.Context, in *openIntent) {
	if ctx.Err() != nil || !n.due(in) {
		return
	}
	var done bool
	var err error
	if in.op == opDropTree { // nobody knows how long it takes, and no lock is held for it
		n.carryOn(*in, &carriage{drop: in, taken: true})
	} else {
		done, err = n.resolveIntent(ctx, in)
	}
	n.resolving.Lock()
	carried := n.carrying[in.edge]
	n.resolving.Unlock()
	if carried != nil { // a small one is through at once
		select {
		case <-carried.done:
		case <-ctx.Done():
		}
		return
	}
	if err != nil {
		n.o.Logger.Warn("a change without an answer from its store stays open", "op", in.op, "path", in.path, "kind", errs.KindOf(err).Error(), "err", err)
		return
	}
	if done {
		n.noLonger(in)
	}
}

// due takes up the latest of an intent, and reports whether it is to be resolved. One that is carried through in the background is not.
func (n *Namespace) due(in *openIntent) bool {
	n.resolving.Lock()
	now, ok := n.open[in.edge]
	ok = ok && n.carrying[in.edge] == nil
	n.resolving.Unlock()
	if ok && now.op == opCarry {
		n.carryOn(now, &carriage{})
		return false
	}
	if ok {
		*in = now
	}
	return ok
}

// resolveIntent looks at the store and commits the outcome; done is false if a late arrival is still possible.
func (n *Namespace) resolveIntent(ctx context.Context, in *openIntent) (done bool, err error) {
	ctx = core.WithCall(ctx, in.call)
	m := n.mountOf(in.store)
	if m == nil { // unmounted since: nothing of it is in the tree any more
		_, err := n.commit(ctx, in.close())
		return err == nil, err
	}
	if m.err != nil {
		return false, m.unavailable()
	}
	path, err := core.ParsePath(in.path)
	if err != nil {
		return false, err
	}
	paths := []core.Path{path}
	if in.to != "" {
		to, err := core.ParsePath(in.to)
		if err != nil {
			return false, err
		}
		paths = append(paths, to)
	}
	unlock, err := n.locks.lock(ctx, paths...)
	if err != nil {
		return false, err
	}
	defer unlock()
	if !n.mountOf(in.store).is(m) {
		return false, switched(m)
	}
	if in.op == opCopyTree {
		return n.resumeCopyTree(ctx, m, in, paths)
	}
	ops, happened, err := n.outcomeOf(ctx, m, in, paths)
	if err != nil {
		return false, err
	}
	if !happened && m.features.Kind != "local" && time.Since(in.since) < n.o.WatchOpen && (in.op == opPut || in.op == opPersist || in.op == opRemove) {
		return false, nil
	}
	if happened {
		ops = append(ops, n.answer(in, n.walk(path), ops)...)
	}
	keys := []string{in.key}
	if in.toKey != "" {
		keys = append(keys, in.toKey)
	}
	for _, key := range keys { // from the record on, what is known of the store no longer counts
		if !in.pends {
			m.derived.Begin(key)
		}
		m.derived.Forget(key)
	}
	seq, err := n.commit(ctx, append(ops, in.close())...)
	for _, key := range keys {
		if err == nil || !in.pends {
			m.derived.End(key, seq, nil, false)
		}
	}
	return err == nil, err
}

// switched is the error of what was begun on the store of the mount m, which has another by now, or is gone.
func switched(m *mounted) error {
	return errs.New("namespace", m.Path.String(), errs.Unavailable, "another store is mounted there by now, or none; it is tried again")
}

// outcomeOf returns the operations that commit what the store shows to have happened.
func (n *Namespace) outcomeOf(ctx context.Context, m *mounted, in *openIntent, paths []core.Path) (ops []meta.Op, happened bool, err error) {
	switch in.op {
	case opPut:
		return n.discarded(ctx, m, in, paths[0])
	case opPersist:
		return n.persistOutcome(ctx, m, in, paths[0])
	case opMkdir, opParents:
		return n.mkdirOutcome(ctx, m, in, paths[0])
	case opRemove:
		if _, err := m.store.Stat(ctx, in.key); !isGone(err) {
			return nil, false, err
		}
		return n.removeOps(n.walk(paths[0])), true, nil
	case opRename:
		if _, err := m.store.Stat(ctx, in.key); !isGone(err) {
			return nil, false, err
		}
		info, err := m.store.Stat(ctx, in.toKey)
		if err != nil {
			if isGone(err) {
				err = nil
			}
			return nil, false, err
		}
		src := n.walk(paths[0])
		dst := n.walk(paths[1])
		if src.persisted() && !m.brought(info, in.version, src.entry) { // a stranger's: the next look finds the difference
			info.Version = src.entry.Version
		}
		return n.flipOps(&src, &dst, info), true, nil
	case opTrash:
		if _, err := n.trashStore(ctx, m, in.key, in.since); err != nil {
			return nil, false, err
		}
		return append(n.unhideOps(paths[0]), in.dropped()...), true, nil
	}
	return nil, false, errs.New("namespace.resolve", in.path, errs.Unsupported, fmt.Sprintf("the journal holds an intent %q that this version does not know", in.op))
}

// ours reports whether what the store has is the bytes of the entry. The origin alone does not prove it: it is metadata, and
// tools that copy an object over another carry metadata along.
func ours(info ufs.Info, e *meta.Entry) bool {
	if info.Attr.Origin != origin(e.ID, e.Rev) || info.Size != e.Size {
		return false
	}
	md5s := info.ETag != "" && !strings.Contains(info.ETag, "-") && !strings.Contains(e.ETag, "-")
	return !md5s || info.ETag == e.ETag
}

// unhideOps are the operations that remove the whiteout at p, and nothing that has taken its place.
func (n *Namespace) unhideOps(p core.Path) []meta.Op {
	pl := n.walk(p)
	if pl.entry != nil || !pl.inTree {
		return nil
	}
	return n.removeOps(pl)
}

// discarded is putOutcome after what is staged for the put was taken away: who began it may be paused in the last moment before
// the store's step, and must not find it.
func (n *Namespace) discarded(ctx context.Context, m *mounted, in *openIntent, path core.Path) ([]meta.Op, bool, error) {
	if err := ufs.Discard(ctx, m.store, in.token, origin(in.entry.ID, in.entry.Rev)); err != nil {
		return nil, false, err
	}
	return n.putOutcome(ctx, m, in, path)
}

// putOutcome returns what makes a put that has taken place in the store visible; false if it has not.
func (n *Namespace) putOutcome(ctx context.Context, m *mounted, in *openIntent, path core.Path) ([]meta.Op, bool, error) {
	info, err := m.store.Stat(ctx, in.key)
	if err != nil && !isGone(err) {
		return nil, false, err
	}
	if err != nil || !ours(info, &in.entry) {
		return nil, false, nil
	}
	e := in.entry
	settle(&e, &m.features, info)
	var ops []meta.Op
	if in.upload != "" { // a client that got no answer asks again
		ops = append(n.endUpload(in.upload), n.done.add(in.upload, path, in.parts, e.ETag)...)
	}
	if pl := n.walk(path); pl.inTree { // else its directory was pruned, and the store's own word makes the file visible
		ops = append(ops, meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: e})
	}
	return ops, true, nil
}

// persistOutcome is discarded for bytes that workers hold: all that is known of them stays what was acknowledged.
func (n *Namespace) persistOutcome(ctx context.Context, m *mounted, in *openIntent, path core.Path) ([]meta.Op, bool, error) {
	e := &in.entry
	if err := ufs.Discard(ctx, m.store, in.token, origin(e.ID, e.Rev)); err != nil {
		return nil, false, err
	}
	info, err := m.store.Stat(ctx, in.key)
	if err != nil && !isGone(err) {
		return nil, false, err
	}
	if err != nil || !ours(info, e) {
		return nil, false, nil
	}
	pl := n.walk(path)
	if !pl.local() || pl.entry.ID != e.ID || pl.entry.Rev != e.Rev {
		return nil, true, nil
	}
	stored := *pl.entry
	stored.Class, stored.Hold, stored.Version = meta.Persisted, nil, info.Version
	return []meta.Op{{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: stored}}, true, nil
}

// mkdirOutcome makes the directory of the intent, if it is not there.
func (n *Namespace) mkdirOutcome(ctx context.Context, m *mounted, in *openIntent, path core.Path) ([]meta.Op, bool, error) {
	switch _, err := mkdirStore(ctx, m, in); {
	case err == nil:
	case unanswered(err), errors.Is(err, ufs.ErrUnsent):
		return nil, false, err
	default:
		return nil, false, nil
	}
	pl := n.walk(path)
	if in.op == opParents || !pl.inTree {
		return nil, true, nil
	}
	return []meta.Op{{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: in.entry}}, true, nil
}

// cleanStaging removes what crashed writers staged and no open intent or upload still needs, on the mounts picked.
func (n *Namespace) cleanStaging(ctx context.Context, pick func(*mounted) bool) {
	live := n.stagedNames()
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, m := range n.mounts.Load().byID {
		if m.err != nil || m.ReadOnly || !pick(m) {
			continue
		}
		wg.Go(func() {
			if err := m.store.CleanStaging(ctx, func(token string) bool { return live[token] }); err != nil {
				n.o.Logger.Warn("staged bytes of an earlier run could not be cleaned up", "mount", m.Path.String(), "err", err)
			}
		})
	}
}
