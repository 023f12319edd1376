package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/mount"
	"github.com/sluicefs/sluice/ufs"
)

// openAgain opens the store of a mount that was made before. The root of a remote store follows from its URI and options alone:
// where it is another than the journal says, options that name a server, such as a connection string, were changed, and what
// the namespace knows is not of that store. Errors: a *replacedError where the mounted directory is not at its place.
func (n *Namespace) openAgain(ctx context.Context, m *mount.Mount) (ufs.Store, error) {
	store, err := n.open1(ctx, m.MountSpec)
	if errs.KindOf(err) == errs.NotExist && remembered(m) {
		return nil, missing(m.MountSpec, err)
	}
	if err != nil {
		return nil, err
	}
	if store.Features().Remote {
		err = sameRoot(m.Root, store, m.MountSpec)
	}
	if err == nil {
		err = n.sameIs(ctx, m, store)
	}
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}

// remembered reports whether the mount is of a directory that is told from others at its place.
func remembered(m *mount.Mount) bool {
	return m.ID != rootID && (m.Is != "" || strings.HasPrefix(m.URI, "file:"))
}

// sameIs reports a *replacedError if the store of a mount has its root at the same place as the mount was made with, and another root:
// where the disk with the directory is not mounted there is an empty one, of which every name would be taken to be gone, and which would
// take writes that are lost when the disk is back. While changes are held the directory may have been restored with the journal: it is
// taken, and is the mount's once the journal is released (adoptRoots).
func (n *Namespace) sameIs(ctx context.Context, m *mount.Mount, store ufs.Store) error {
	f := store.Features()
	switch same := ufs.SameRoot(m.Is, f.Is); {
	case same && m.Is == "" && f.Is != "" && !n.holding(): // nobody has looked before
		return n.notBare(ctx, m, store)
	case same:
		return nil
	case n.holding():
		n.o.Logger.Warn("another directory is mounted than when the journal was kept; a release takes it for the mount's",
			"path", m.Path.String(), "directory", f.Root, "was", m.Is, "is", f.Is)
		return nil
	}
	return replaced(f, m.Is, "Sluice goes on with it, or, if it was moved or restored on purpose, take this one for it with: sluice mount update "+
		m.Path.File().String()+" --adopt")
}

// replaced is the error of a mount that was of another directory than the one of f which is at its place; then is what to do once its disk
// is mounted there, or else.
func replaced(f ufs.Features, was, then string) error {
	return &replacedError{fmt.Sprintf("another directory is at %s than the one that was mounted (that was %s, this is %s); mount its disk there, and %s",
		strings.TrimPrefix(f.Root, "file:"), was, f.Is, then)}
}

// notBare reports a *replacedError if the store, of a mount of which it is not known what tells it from another, has nothing in it, and
// the journal has files of it: that is what the directory looks like whose disk is not mounted.
func (n *Namespace) notBare(ctx context.Context, m *mount.Mount, store ufs.Store) error {
	some := false
	n.tree.View(func(v meta.View) {
		dir, ok := meta.RootDir, true
		for _, edge := range m.Path.Dir().Edges() {
			var e *meta.Entry
			if e, _, ok = v.Find(dir, edge); !ok || e.Class != meta.Directory {
				return
			}
			dir = e.Dir
		}
		some = hasStored(v, dir)
	})
	if !some {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, n.o.ProbeTimeout)
	defer cancel()
	for _, err := range store.List(ctx, "", "", false) {
		if isGone(err) {
			break
		}
		return err
	}
	return &replacedError{fmt.Sprintf(
		"%s is empty, and files are known that it has; mount its disk there, and Sluice goes on with it, or, if they were removed on purpose, "+
			"take it as it is with: sluice mount update %s --adopt", strings.TrimPrefix(store.Features().Root, "file:"), m.Path.File())}
}

// hasStored reports whether the store of the directory has a file below it, as far as the overlay tells.
func hasStored(v meta.View, dir meta.DirID) bool {
	for _, e := range v.Children(dir, "") {
		if e.Class == meta.Persisted || e.Class == meta.Local && e.Hold.Base != "" ||
			e.Class == meta.Directory && !e.Mount && hasStored(v, e.Dir) {
			return true
		}
	}
	return false
}

// missing is the error of a mount whose directory is not there, as err says.
func missing(s core.MountSpec, err error) error {
	how := "make it and take it for the mount's with: sluice mount update " + s.Path.File().String() + " --adopt"
	if !s.ReadOnly {
		how = "have an empty one made and taken for it with: sluice mount update " + s.Path.File().String() + " --adopt --option create=true"
	}
	return &replacedError{fmt.Sprintf("the mounted directory is missing (%v); mount its disk there or put it back, and Sluice goes on with it, or, if it is lost, %s", err, how)}
}

// replacedError says that what is at the place of a mounted store is not it.
type replacedError struct{ text string }

func (e *replacedError) Error() string { return e.text }
func (e *replacedError) Unwrap() error { return errs.Unavailable }

func isReplaced(err error) bool {
	_, ok := errors.AsType[*replacedError](err)
	return ok
}

// inPlace reports a *replacedError if the mounted directory is not at its place.
func (n *Namespace) inPlace(ctx context.Context, m *mounted) error {
	if !remembered(m.Mount) && !isReplaced(m.err) {
		return nil
	}
	store, err := n.openAgain(ctx, m.Mount)
	if cerr := closeStore(store); cerr != nil {
		n.o.Logger.Warn("a store could not be closed", "path", m.Path.String(), "err", cerr)
	}
	if !isReplaced(err) {
		return nil
	}
	return err
}

// adoptHeld has the mount was, which is to be s, take what is at its URI now for its store: a directory that was moved there, restored,
// or, with the option create, made. What is known of the store before is forgotten, and what was written through Sluice stays: files that
// workers hold go to the store that is taken, and changes without an answer are looked for in it. n.mountMu must be held.
func (n *Namespace) adoptHeld(ctx context.Context, was *mounted, s core.MountSpec, o *tableChange) (r core.MountReport, err error) {
	const op = "namespace.AdoptMount"
	if was.ID == rootID {
		return r, errs.New(op, s.Path.String(), errs.Invalid, "the root store is part of the configuration")
	}
	if err := n.held(); err != nil {
		return r, err
	}
	same := *o
	same.root, same.is = was.Root, ""
	store, root, err := n.openNew(ctx, s, o.table.Without(was.ID), &same)
	if errs.KindOf(err) == errs.NotExist {
		err = missing(s, err)
	}
	if err != nil {
		return r, err
	}
	undo := func(err error) error { return errors.Join(err, closeStore(store)) }
	m := n.withDefaults(was.ID, s, root)
	m.Taken = was.Taken + 1
	r.Did = []string{"took what is at " + s.URI + " now for the store of the mount " + s.Path.File().String() + "; what was known of it is forgotten"}
	if changed := whatChanged(was.Mount, m); len(changed) > 0 {
		r.Did[0] += ", and " + strings.Join(changed, ", ")
	}
	if o.DryRun { // who only asks waits for no writer, and has none wait
		r.Did = append(r.Did, n.keptIn(was)...)
		r.Mount, o.table = n.describe(m), o.table.With(m)
		return r, undo(nil)
	}
	m.Is = store.Features().Is
	lift, err := n.barRemovals(ctx, was.Mount)
	if err != nil {
		return r, undo(err)
	}
	defer lift()
	unlock, err := n.locks.lock(ctx, s.Path.Dir()) // nobody changes anything below
	if err != nil {
		return r, undo(err)
	}
	defer unlock()
	r.Did = append(r.Did, n.keptIn(was)...)
	set, now := n.mounts.Load(), n.mounted(m, store, nil)
	x, err := n.revisedMount(was.Mount, m)
	kept, kerr := n.keep(m)
	note, nerr := n.invalidating(time.Now(), s.Path).note()
	if err = errors.Join(err, kerr, nerr); err == nil {
		err = n.journalTable(ctx, meta.Batch{Puts: []meta.KeyValue{{Key: mountPrefix + m.ID, Value: kept}, note}}, r.Did[0], x)
	}
	if err != nil {
		return core.MountReport{}, undo(err)
	}
	ctx = context.WithoutCancel(ctx) // it is done: who asked may hang up, and the held files still get their place in it
	n.pendIn(now)
	n.mounts.Store(&mountSet{set.table.With(m), with(set.byID, now)})
	n.invalid.Store(n.invalidating(time.Now(), s.Path).index()) // files of the journal are compared with the store again, cf. checked
	n.retire(was.store)
	held := n.itemsBelow(ctx, s.Path.Dir())
	if err := n.rebase(ctx, now, held); err != nil { // they are refused then, until somebody decides
		n.o.Logger.Warn("files that workers hold may be refused by the store that was taken", "path", s.Path.String(), "err", err)
	}
	n.holds.hurry(held)
	r.Mount = n.describe(m)
	return r, nil
}

// rebase has held files of m that were to replace what its store, which was just taken, does not have, or that the store of before refused,
// be new there. What it has under their names in whatever version may be another's, and is left for somebody to decide about. The lock of
// the mount point is held. The first name that the store does not tell of, within ProbeTimeout, ends it; those before it are done.
func (n *Namespace) rebase(ctx context.Context, m *mounted, held []*heldItem) (failed error) {
	var ops []meta.Op
	for _, it := range held {
		pl, ok := n.locate(it)
		if !ok || !pl.mount.is(m) || pl.entry.Hold.Base == "" && pl.entry.Hold.Refused == "" {
			continue
		}
		err := n.look(ctx, m, pl.key)
		if isGone(err) {
			e, h := *pl.entry, *pl.entry.Hold
			h.Base, h.Refused, e.Hold = "", "", &h
			ops = append(ops, meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: e})
		} else if err != nil {
			failed = err
			break
		}
	}
	for chunk := range slices.Chunk(ops, opsPerRecord) {
		if _, err := n.commit(ctx, chunk...); err != nil {
			return errors.Join(failed, err)
		}
	}
	return failed
}

// look asks the store for the key, for as long as a mount may be probed.
func (n *Namespace) look(ctx context.Context, m *mounted, key string) error {
	ctx, cancel := context.WithTimeout(ctx, n.o.ProbeTimeout)
	defer cancel()
	_, err := m.store.Stat(ctx, key)
	return n.tooLate("namespace.AdoptMount", key, err)
}

// keptIn says what is unfinished in the mount, which an adoption keeps.
func (n *Namespace) keptIn(m *mounted) []string {
	point := n.walk(m.Path.Dir())
	all := n.unfinishedIn(m.ID, &point).each()
	for i := range all {
		all[i] = "kept " + all[i]
	}
	return all
}

// pendIn has the names of renames without an answer pend in m, of which nothing is known yet.
func (n *Namespace) pendIn(m *mounted) {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	for _, in := range n.open {
		if in.store == m.ID && in.pends {
			m.derived.Begin(in.key)
			m.derived.Begin(in.toKey)
		}
	}
}

// openMoved opens the stores of mounted directories again where another is at the place by now than was opened: what a release proves and
// journals is of those that are there then. Changes are held. Errors: errs.Unavailable.
func (n *Namespace) openMoved(ctx context.Context) error {
	for id, m := range n.mounts.Load().byID {
		if m.err != nil || !remembered(m.Mount) {
			continue
		}
		store, err := n.another(ctx, m)
		if err == nil && store != nil {
			err = n.takeHeld(ctx, id, m, store)
		}
		if err != nil {
			return errs.E("namespace.Release", m.Path.String(), errs.Unavailable, err)
		}
	}
	return nil
}

// unmoved reports errs.Unavailable if openMoved would open a store again.
func (n *Namespace) unmoved(ctx context.Context) error {
	for _, m := range n.mounts.Load().byID {
		if m.err != nil || !remembered(m.Mount) {
			continue
		}
		store, err := n.another(ctx, m)
		if err = errors.Join(err, closeStore(store)); err == nil && store != nil {
			err = errors.New("another directory came to the place of this mount meanwhile; try again")
		}
		if err != nil {
			return errs.E("namespace.Release", m.Path.String(), errs.Unavailable, err)
		}
	}
	return nil
}

// another opens what is at the place of the mount, whose store is open, if that is another directory than the store is in by now, and
// returns nil if it is not.
func (n *Namespace) another(ctx context.Context, m *mounted) (ufs.Store, error) {
	store, err := n.open1(ctx, m.MountSpec)
	if err != nil {
		return nil, fmt.Errorf("the store of this mount does not open (%w); bring it back, give the mount other options, or unmount it", err)
	}
	look := m.MountSpec
	look.ReadOnly = true // a disk that takes no writes, as a full one, is no other
	if ufs.SameRoot(m.features.Is, store.Features().Is) && n.probe(ctx, m.store, look) == nil {
		return nil, store.Close()
	}
	return store, nil
}

// takeHeld has the mount m go on with the store while changes are held. Which directory that is in is journaled after the release.
func (n *Namespace) takeHeld(ctx context.Context, id string, m *mounted, store ufs.Store) error {
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	old := n.mounts.Load()
	if old.byID[id] != m {
		return errors.Join(errors.New("the mount is being changed; try again"), store.Close())
	}
	now := *m.Mount
	now.Root, now.Taken = rootOf(store, m.MountSpec), m.Taken+1
	kept, err := n.keep(&now)
	if err == nil {
		_, err = n.log.Append(ctx, meta.Batch{Puts: []meta.KeyValue{{Key: mountPrefix + id, Value: kept}}})
	}
	if err != nil {
		return errors.Join(err, store.Close())
	}
	n.o.Logger.Warn("another directory is mounted than when the journal was kept or this process began; the release takes it for the mount's",
		"path", m.Path.String(), "was", m.features.Is, "is", store.Features().Is)
	n.mounts.Store(&mountSet{old.table.With(&now), with(old.byID, n.mounted(&now, store, nil))})
	n.retire(m.store)
	return nil
}

// adoptRoots journals which directories the mounts are in where that is not: those of versions that did not look, and those that a
// release has taken for the ones of before. Changes are accepted.
func (n *Namespace) adoptRoots(ctx context.Context) {
	for id, m := range n.mounts.Load().byID {
		if id != rootID && m.adopts() {
			n.adopt(ctx, id)
		}
	}
}

func (m *mounted) adopts() bool {
	return m.err == nil && m.features.Is != "" && (m.Is == "" || !ufs.SameRoot(m.Is, m.features.Is))
}

func (n *Namespace) adopt(ctx context.Context, id string) {
	was := n.mountOf(id)
	if was == nil || !was.adopts() {
		return
	}
	store, err := n.another(ctx, was)
	if err = errors.Join(err, closeStore(store)); err != nil || store != nil { // it was moved since, and its mount says so
		n.o.Logger.Debug("it is not remembered which directory a mount is in", "path", was.Path.String(), "err", err)
		return
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	old := n.mounts.Load()
	if old.byID[id] != was {
		return // it is looked at again
	}
	m, now := *was.Mount, *was
	m.Is, now.Mount = was.features.Is, &m
	kept, err := n.keep(&m)
	if err == nil {
		_, err = n.log.Append(ctx, meta.Batch{Puts: []meta.KeyValue{{Key: mountPrefix + id, Value: kept}}})
	}
	if err != nil {
		if why := err.Error(); ctx.Err() == nil && was.unkept.Swap(why) != why { // it is tried again and again; who leads next says it too
			n.o.Logger.Warn("it is not remembered which directory a mount is in", "path", m.Path.String(), "err", err)
		}
		return
	}
	n.mounts.Store(&mountSet{old.table.With(&m), with(old.byID, &now)})
}
