package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
//	remove                        the key is gone → committed; else it did not happen
//	rename                        the source is gone and the destination there → committed; else it did not happen
//	mkdir, parents                carried on: a directory made twice is made once. What the store refuses did not happen
//	remove tree, rename by copy   carried on to the end: their first record has already changed what readers see
//
// On a store that may still carry out a request that got no answer (S3), an intent that "did not happen" is watched until
// no late arrival is possible.

// opKind is what an intent is about to do.
type opKind string

const (
	opPut      opKind = "put"      // also copy, append and complete: the key gets the bytes of entry
	opMkdir    opKind = "mkdir"    // the key is a directory, which becomes entry
	opParents  opKind = "parents"  // the key is a directory, which the first record has made, with those above it
	opRemove   opKind = "remove"   // the key, at version
	opRename   opKind = "rename"   // key to toKey in one step
	opTrash    opKind = "trash"    // everything below key; already hidden by a whiteout
	opCopyTree opKind = "copytree" // copy everything below key to toKey, then flip
	opDropTree opKind = "droptree" // remove what a copied tree left at key; hidden by a whiteout
)

// openIntent is an intent as it is journaled, in the Extra fields of a Note of meta.IntentsDir.
type openIntent struct {
	op         opKind
	path, to   string // names
	store, key string
	toKey      string
	version    string
	token      string // staged bytes, or a store's upload id
	upload     string // id of the upload a complete ends
	parts      string // digest of the parts it is completed from
	entry      meta.Entry
	since      time.Time
	call       core.Call // the change, if its outcome is to be its answer

	edge string // in meta.IntentsDir
}

func (in *openIntent) note() meta.Entry {
	x := map[string]string{
		"op": string(in.op), "path": in.path, "to": in.to, "store": in.store, "key": in.key, "toKey": in.toKey,
		"version": in.version, "token": in.token, "upload": in.upload, "parts": in.parts, "since": strconv.FormatInt(in.since.UnixNano(), 10),
	}
	if in.call.Sequence != 0 {
		x["call"] = string(appendCall(nil, in.call))
	}
	if in.entry.Class != 0 {
		b, _ := json.Marshal(in.entry) // plain data: cannot fail
		x["entry"] = string(b)
	}
	for k, v := range x {
		if v == "" {
			delete(x, k)
		}
	}
	return meta.Entry{Class: meta.Note, Extra: x}
}

func intentOf(edge string, e *meta.Entry) (in openIntent, err error) {
	x := e.Extra
	in = openIntent{op: opKind(x["op"]), path: x["path"], to: x["to"], store: x["store"], key: x["key"], toKey: x["toKey"],
		version: x["version"], token: x["token"], upload: x["upload"], parts: x["parts"], call: callOf(x["call"]), edge: edge}
	ns, err := strconv.ParseInt(x["since"], 10, 64)
	if err == nil && x["entry"] != "" {
		err = json.Unmarshal([]byte(x["entry"]), &in.entry)
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
	id, err := n.draw(ctx, &n.revs)
	if err != nil {
		n.answers.wrote(core.CallOf(ctx))
		return err
	}
	in.edge, in.since = fmt.Sprintf("%016x", id), time.Now()
	switch {
	case n.o.Answer == nil, in.op == opParents: // the change is what the parents are made for
	case in.op != opTrash: // a tree is gone from view with its intent, which answers
		in.call = core.CallOf(ctx)
	}
	_, err = n.commit(ctx, append(ops, in.set())...)
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
// outcome returns then. row is what the store has at the key after the step; its Name is empty if nothing.
// The caller holds the name's lock. A client that hangs up does not stop it.
func (n *Namespace) through(ctx context.Context, pl *place, in *openIntent, step func(context.Context) error, outcome func() []meta.Op, row *ufs.Info) error {
	ctx = context.WithoutCancel(ctx)
	if err := n.begin(ctx, in); err != nil {
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
	ops := outcome()
	ops = append(slices.Grow(ops, 2), n.answer(in, *pl, ops)...)
	seq, err := n.commit(ctx, append(ops, in.close())...)
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
	if pl.mount.ReadOnly {
		return errs.New("namespace", pl.path.String(), errs.Permission, "the mount "+pl.mount.Path.String()+" is read-only")
	}
	n.resolving.Lock()
	defer n.resolving.Unlock()
	for _, in := range n.open {
		if in.store == pl.mount.ID && (related(in.key, pl.key) || in.toKey != "" && related(in.toKey, pl.key)) {
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
		if in.toKey != "" && in.store == pl.mount.ID && (related(in.key, pl.key) || related(in.toKey, pl.key)) {
			return true
		}
	}
	return false
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
	if ctx.Err() != nil {
		return
	}
	done, err := n.resolveIntent(ctx, in)
	if err != nil {
		n.o.Logger.Warn("a change without an answer from its store stays open", "op", in.op, "path", in.path, "kind", errs.KindOf(err).Error(), "err", err)
		return
	}
	if done {
		n.resolving.Lock()
		delete(n.open, in.edge)
		close(n.resolved)
		n.resolved = make(chan struct{})
		n.resolving.Unlock()
	}
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
	if in.op == opCopyTree {
		return n.resumeCopyTree(ctx, m, in, paths)
	}
	ops, happened, err := n.outcomeOf(ctx, m, in, paths)
	if err != nil {
		return false, err
	}
	if !happened && m.features.Kind != "local" && time.Since(in.since) < n.o.WatchOpen && (in.op == opPut || in.op == opRemove) {
		return false, nil
	}
	if happened {
		ops = append(ops, n.answer(in, n.walk(path), ops)...)
	}
	m.derived.Begin(in.key)
	seq, err := n.commit(ctx, append(ops, in.close())...)
	m.derived.End(in.key, seq, nil, false)
	if in.toKey != "" {
		m.derived.Begin(in.toKey)
		m.derived.End(in.toKey, seq, nil, false)
	}
	return err == nil, err
}

// outcomeOf returns the operations that commit what the store shows to have happened.
func (n *Namespace) outcomeOf(ctx context.Context, m *mounted, in *openIntent, paths []core.Path) (ops []meta.Op, happened bool, err error) {
	switch in.op {
	case opPut:
		return n.discarded(ctx, m, in, paths[0])
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
		return n.flipOps(&src, &dst, info), true, nil
	case opTrash:
		if _, err := n.trashStore(ctx, m, in.key, in.since); err != nil {
			return nil, false, err
		}
		return append(n.unhideOps(paths[0]), in.dropped()...), true, nil
	case opDropTree:
		if err := n.dropSource(ctx, m, in); err != nil {
			return nil, false, err
		}
		return n.unhideOps(paths[0]), true, nil
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
