package namespace

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// Rename implements core.Namespace.
func (n *Namespace) Rename(ctx context.Context, src, dst core.Path, o core.RenameOptions) error {
	if err := n.grows(); err != nil {
		return err
	}
	if src.IsRoot() || dst.IsRoot() {
		return errs.New("namespace.Rename", "/", errs.Invalid, "the root cannot be renamed or replaced")
	}
	if err := n.traverse(ctx, src); err != nil {
		return err
	}
	from, err := n.resolve(ctx, src)
	if err != nil {
		return err
	}
	to := exact(dst, from.dir())
	if err := n.mayRename(ctx, &from, to, o, dst.Either()); err != nil {
		return err
	}
	if from.path == to {
		return nil
	}
	for range chase {
		if err := errors.Join(n.parents(ctx, from.path, false, false, 0), n.parents(ctx, to, false, false, 0)); err != nil {
			return err
		}
		if again, err := n.rename(ctx, from.path, to, o); !again {
			return err
		}
	}
	return errs.New("namespace.Rename", src.String(), errs.Conflict, "the parent directories keep changing")
}

// mayRename checks what does not need the locks.
func (n *Namespace) mayRename(ctx context.Context, from *node, to core.Path, o core.RenameOptions, either bool) error {
	if err := n.checkName(to); err != nil {
		return err
	}
	table := n.mounts.Load().table
	if from.dir() && (table.At(from.path) != nil || table.Below(from.path)) {
		return errs.New("namespace.Rename", from.path.String(), errs.Unsupported, "it is or holds a mount point")
	}
	if from.dir() && from.path != to && from.path.Contains(to) {
		return errs.New("namespace.Rename", to.String(), errs.Invalid, "a directory cannot move below itself")
	}
	if !from.mount.is(n.walk(to).mount) {
		return errs.New("namespace.Rename", from.path.File().String(), errs.Unsupported,
			"Renaming "+from.path.File().String()+" to "+to.File().String()+" across mount points is not supported")
	}
	if err := n.mayChangeIn(ctx, from.path, from); err != nil {
		return err
	}
	if _, err := n.lookup(ctx, to.Parent()); err != nil {
		if f, ferr := n.lookup(ctx, to.Parent().File()); ferr == nil && !f.dir() && errs.KindOf(err) == errs.NotExist {
			return errs.E("namespace.Rename", to.Parent().File().String(), errs.NotDir, nil)
		}
		return err
	}
	old, err := n.lookup(ctx, to)
	switch {
	case err == nil:
		return n.mayChangeIn(ctx, to, &old)
	case errs.KindOf(err) != errs.NotExist:
		return err
	}
	if err := n.checkKind(ctx, to, either); err != nil {
		if !o.Overwrite {
			return errs.E("namespace.Rename", to.String(), errs.Exist, nil)
		}
		return err
	}
	return n.mayChangeIn(ctx, to, nil)
}

// rename does it under the locks of both names; again says that a parent has gone meanwhile.
func (n *Namespace) rename(ctx context.Context, from, to core.Path, o core.RenameOptions) (again bool, err error) {
	unlock, err := n.locks.lock(ctx, from, to)
	if err != nil {
		return false, err
	}
	defer unlock()
	src, err := n.lookupHeld(ctx, from, true)
	if err != nil {
		return false, err
	}
	dst, err := n.lookupHeld(ctx, to, true)
	exists := err == nil
	if err != nil && errs.KindOf(err) != errs.NotExist {
		return false, err
	}
	if !exists {
		dst.place = n.walk(to)
	}
	if !src.inTree || !dst.inTree {
		return true, nil
	}
	if !src.mount.is(dst.mount) {
		return false, errs.New("namespace.Rename", from.String(), errs.Unsupported, "the names are in different mounts")
	}
	if err := errors.Join(n.blocked(&src.place), n.blocked(&dst.place)); err != nil {
		return false, err
	}
	if exists {
		if !o.Overwrite {
			return false, errs.E("namespace.Rename", to.String(), errs.Exist, nil)
		}
		if dst.dir() {
			if some, err := n.hasVisibleHeld(ctx, &dst.place); err != nil || some {
				return false, errors.Join(err, errs.E("namespace.Rename", to.String(), errs.NotEmpty, nil))
			}
		}
	}
	if err := n.complete(ctx, &src, held); err != nil {
		return false, err
	}
	if src.mount.features.AtomicRename {
		return false, n.renameInOneStep(ctx, &src, &dst.place, exists)
	}
	return false, n.renameByCopy(ctx, &src, &dst.place)
}

// renameInOneStep renames on a store that can, and flips the names with the record that closes the intent.
func (n *Namespace) renameInOneStep(ctx context.Context, src *node, dst *place, replace bool) error {
	ctx = context.WithoutCancel(ctx)
	in := openIntent{op: opRename, path: src.path.String(), to: dst.path.String(), store: src.mount.ID, key: src.key, toKey: dst.key, version: src.storeVersion()}
	if err := n.begin(ctx, &in); err != nil {
		return err
	}
	d := src.mount.derived
	d.Begin(src.key)
	d.Begin(dst.key)
	closeFacts := func(seq uint64, row *meta.Row, known bool) {
		d.End(src.key, seq, nil, known)
		d.End(dst.key, seq, row, known)
	}
	if err := ufs.Rename(ctx, src.mount.store, src.key, dst.key, replace); unanswered(err) {
		defer closeFacts(n.Seq(), nil, false)
		return n.lookAfter(ctx, src, dst, &in, err)
	} else if err != nil {
		closeFacts(n.Seq(), nil, false)
		return n.failed(ctx, &in, err)
	}
	info := ufs.Info{Name: dst.key, Dir: src.dir()}
	if !src.dir() { // its version may have changed
		var err error
		if info, err = src.mount.store.Stat(ctx, dst.key); err != nil {
			defer closeFacts(n.Seq(), nil, false)
			return n.lookAfter(ctx, src, dst, &in, err)
		}
	}
	mv := move{store: src.mount.ID, from: src.key, to: dst.key}
	if !src.dir() {
		mv.was, mv.version = src.storeVersion(), info.Version
		if src.persisted() && src.mount.features.Attrs && !ours(info, src.entry) { // a stranger's: the next look finds the difference
			info.Version = src.entry.Version
		}
	}
	n.moves.add(mv)
	// From the record on, what the store had at the old name no longer counts: whoever looks there waits for closeFacts.
	d.Forget(src.key)
	ops := append(n.flipOps(&src.place, dst, info), n.answered(in.call, nil)...)
	seq, err := n.commit(ctx, append(ops, in.close())...)
	if err != nil {
		n.keepOpen(&in)
	}
	row := rowOf(info)
	closeFacts(seq, &row, err == nil && !src.dir())
	n.committed(dst.path, time.Now())
	return err
}

// lookAfter finds out, if the store lets it, whether a rename that failed with err has happened, and closes its intent.
func (n *Namespace) lookAfter(ctx context.Context, src *node, dst *place, in *openIntent, err error) error {
	ops, happened, unknown := n.outcomeOf(ctx, src.mount, in, []core.Path{src.path, dst.path})
	if unknown != nil {
		n.keepOpen(in)
		return errs.E("namespace.Rename", src.path.String(), errs.Unavailable, err)
	}
	if happened {
		ops = append(ops, n.answered(in.call, nil)...)
	}
	if _, cerr := n.commit(ctx, append(ops, in.close())...); cerr != nil {
		return errors.Join(err, cerr)
	}
	if happened {
		return nil
	}
	return err
}

// flipOps are the operations that move what is at src to dst, whose store name now has the facts of info.
func (n *Namespace) flipOps(src, dst *place, info ufs.Info) []meta.Op {
	var ops []meta.Op
	if src.inTree {
		ops = append(ops, meta.Op{Kind: meta.Del, Dir: src.parent, Edge: src.edge})
	}
	if !dst.inTree {
		return ops // its directory is known from the store alone, and so will be what moved there
	}
	if dst.entry != nil {
		ops = append(ops, meta.Op{Kind: meta.Del, Dir: dst.parent, Edge: dst.edge})
		if dst.entry.Class == meta.Directory {
			ops = append(ops, meta.Op{Kind: meta.DropDir, Dir: dst.entry.Dir})
		}
	}
	if src.entry == nil {
		return ops
	}
	e := *src.entry
	if e.Class == meta.Persisted {
		e.Version, e.StoreKey = info.Version, ""
	}
	return append(ops, meta.Op{Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: e})
}

// renameByCopy renames on a store without rename: copy everything, flip the names with one record that also hides what is
// left at the source, then remove that. Until the flip readers see the old names, after it the new ones.
func (n *Namespace) renameByCopy(ctx context.Context, src *node, dst *place) error {
	ctx = context.WithoutCancel(ctx)
	in := openIntent{op: opCopyTree, path: src.path.String(), to: dst.path.String(), store: src.mount.ID, key: src.key, toKey: dst.key}
	// The copies must not show, and whoever looks for the name must not wait for them.
	var hide []meta.Op
	if dst.entry == nil {
		hide = append(hide, meta.Op{Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: meta.Entry{Class: meta.Whiteout}})
	} else if dst.entry.Class == meta.Directory {
		closed := *dst.entry
		closed.Base = meta.Base{Kind: meta.Opaque}
		hide = append(hide, meta.Op{Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: closed})
	}
	if err := n.begin(ctx, &in, hide...); err != nil {
		return err
	}
	copies, err := n.copyTree(ctx, src.mount, src.key, dst.key)
	if err != nil {
		return n.giveUpCopy(ctx, src.mount, &in, dst, copies, err)
	}
	return n.flipCopied(ctx, src.mount, &in, &src.place, dst, copies)
}

// giveUpCopy takes back a rename whose copying failed for why. What the store may yet do, or does not let be taken back,
// stays an intent that is carried on.
func (n *Namespace) giveUpCopy(ctx context.Context, m *mounted, in *openIntent, dst *place, copies copied, why error) error {
	if unanswered(why) {
		n.keepOpen(in)
		return why
	}
	for key, version := range copies.made {
		if key == dst.key && dst.entry != nil { // the marker of the directory that was to be replaced
			continue
		}
		if err := m.store.Remove(ctx, key, version); err != nil && !isGone(err) && !errors.Is(err, errs.Precondition) {
			n.keepOpen(in)
			return why
		}
	}
	ops := []meta.Op{in.close()}
	switch {
	case dst.entry == nil:
		ops = append(ops, meta.Op{Kind: meta.Del, Dir: dst.parent, Edge: dst.edge})
	case dst.entry.Class == meta.Directory:
		ops = append(ops, meta.Op{Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: *dst.entry})
	}
	_, err := n.commit(ctx, ops...)
	return errors.Join(why, err)
}

// flipCopied makes the copies the names and removes the originals.
func (n *Namespace) flipCopied(ctx context.Context, m *mounted, in *openIntent, src, dst *place, copies copied) error {
	info := ufs.Info{Name: dst.key, Version: copies.made[dst.key]}
	if src.persisted() && copies.of[src.key] != src.entry.Version { // a stranger's: the next look finds the difference
		info.Version = src.entry.Version
	}
	if err := n.dropReplaced(ctx, m, dst, copies); err != nil {
		return n.giveUpCopy(ctx, m, in, dst, copies, err)
	}
	drop := openIntent{op: opDropTree, path: in.path, store: in.store, key: in.key, version: copies.of[in.key], edge: in.edge, since: time.Now()}
	ops := append([]meta.Op{drop.set()}, n.answered(in.call, nil)...) // in the first record, which flips
	if dst.inTree && dst.entry == nil {
		ops = append(ops, meta.Op{Kind: meta.Del, Dir: dst.parent, Edge: dst.edge}) // what hid the copies
	}
	ops = append(ops, n.flipOps(src, dst, info)...)
	if src.inTree {
		ops = append(ops, meta.Op{Kind: meta.Set, Dir: src.parent, Edge: src.edge, Entry: meta.Entry{Class: meta.Whiteout}})
	}
	if id, ok := src.dirID(); ok {
		n.tree.View(func(v meta.View) { ops = movedEntries(v, id, src.key, dst.key, copies, ops) })
	}
	mv := move{store: m.ID, from: src.key, to: dst.key}
	if !src.path.IsDir() {
		mv.was, mv.version = copies.of[src.key], info.Version
	}
	n.moves.add(mv)
	m.derived.Begin(src.key)
	m.derived.Begin(dst.key)
	defer func() {
		m.derived.End(src.key, n.Seq(), nil, false)
		m.derived.End(dst.key, n.Seq(), nil, false)
	}()
	// The first record flips; those after it, of a large tree, bring the copies' versions.
	for chunk := range slices.Chunk(ops, opsPerRecord) {
		if _, err := n.commit(ctx, chunk...); err != nil {
			n.keepOpen(in)
			return err
		}
		in = &drop
	}
	if err := n.dropOriginals(ctx, m, copies); err != nil {
		n.keepOpen(&drop) // the rename is done; what is left of the source stays hidden until it is removed
		return nil
	}
	if _, err := n.commit(ctx, append(n.removeOps(n.walk(src.path)), drop.close())...); err != nil {
		n.keepOpen(&drop)
	}
	return nil
}

// dropReplaced removes the marker of an empty directory that is being replaced by one that has none.
func (n *Namespace) dropReplaced(ctx context.Context, m *mounted, dst *place, copies copied) error {
	if _, marked := copies.made[dst.key]; marked || !dst.path.IsDir() || !m.features.Mkdir {
		return nil
	}
	if err := m.store.Remove(ctx, dst.key, ""); err != nil && !isGone(err) {
		return err
	}
	return nil
}

// dropOriginals removes just what was copied: what others have put there since stays.
func (n *Namespace) dropOriginals(ctx context.Context, m *mounted, copies copied) error {
	for key, version := range copies.of {
		if err := m.store.Remove(ctx, key, version); err != nil && !isGone(err) && !errors.Is(err, errs.Precondition) {
			return err
		}
	}
	return nil
}

// dropSource removes what a process that has ended left of a copied source.
func (n *Namespace) dropSource(ctx context.Context, m *mounted, in *openIntent) error {
	if key := in.key; len(key) > 0 && key[len(key)-1] == '/' {
		_, err := n.dropCopied(ctx, m, key, in.since)
		return err
	}
	if err := m.store.Remove(ctx, in.key, in.version); err != nil && !isGone(err) && !errors.Is(err, errs.Precondition) {
		return err
	}
	return nil
}

// copyParallel is how many server-side copies of one rename run at once.
const copyParallel = 16

// copied says what a rename by copy has copied: versions by names, of the originals and of the copies.
type copied struct{ of, made map[string]string }

// copyTree copies the file key, or everything below the directory key, to toKey in the store.
func (n *Namespace) copyTree(ctx context.Context, m *mounted, key, toKey string) (copied, error) {
	c := copied{of: map[string]string{}, made: map[string]string{}}
	if len(key) == 0 || key[len(key)-1] != '/' {
		from, err := m.store.Stat(ctx, key)
		if err != nil {
			return c, err
		}
		info, err := ufs.CopyFile(ctx, m.store, key, from.Version, toKey, nil)
		if err == nil {
			c.of[key], c.made[toKey] = from.Version, info.Version
		}
		return c, err
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(copyParallel)
	for info, err := range m.store.List(ctx, key, "", true) {
		if err != nil {
			return c, errors.Join(err, g.Wait())
		}
		g.Go(func() error {
			to := toKey + info.Name[len(key):]
			var made ufs.Info
			var err error
			if info.Dir && m.features.Mkdir {
				made, err = ufs.Mkdir(gctx, m.store, to, ufs.Attr{Marker: true})
			} else {
				made, err = ufs.CopyFile(gctx, m.store, info.Name, info.Version, to, nil)
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				c.of[info.Name], c.made[to] = info.Version, made.Version
			}
			return err
		})
	}
	return c, g.Wait()
}

// opsPerRecord bounds the records of a change that touches many entries.
const opsPerRecord = 500

// movedEntries appends operations that give the entries below the directory id, whose store name was from and is to, the
// versions of their copies. An entry whose file was another version in the store when it was copied keeps its own: the next
// look at it finds the difference.
func movedEntries(v meta.View, id meta.DirID, from, to string, copies copied, ops []meta.Op) []meta.Op {
	for edge, e := range v.Children(id, "") {
		switch version, ok := copies.made[to+edge]; {
		case e.Class == meta.Directory && e.Base.Kind == meta.Inherit:
			ops = movedEntries(v, e.Dir, from+edge, to+edge, copies, ops)
		case ok && copies.of[from+edge] != e.Version: // a stranger's
		case ok && e.Class == meta.Persisted && e.StoreKey == "" && e.Version != version:
			moved := *e
			moved.Version = version
			ops = append(ops, meta.Op{Kind: meta.Set, Dir: id, Edge: edge, Entry: moved})
		}
	}
	return ops
}

// resumeCopyTree carries a rename by copy on after a crash: what is copied already is copied again, which changes nothing.
// done is false if originals are left to be removed.
func (n *Namespace) resumeCopyTree(ctx context.Context, m *mounted, in *openIntent, paths []core.Path) (done bool, err error) {
	src, dst := n.walk(paths[0]), n.walk(paths[1])
	copies, err := n.copyTree(ctx, m, in.key, in.toKey)
	if isGone(err) { // the source went away before anything was flipped
		ops := []meta.Op{in.close()}
		if dst.inTree && dst.entry == nil {
			ops = append(ops, meta.Op{Kind: meta.Del, Dir: dst.parent, Edge: dst.edge})
		}
		_, err := n.commit(ctx, ops...)
		return err == nil, err
	}
	if err != nil {
		return false, err
	}
	if err := n.flipCopied(ctx, m, in, &src, &dst, copies); err != nil {
		return false, err
	}
	n.resolving.Lock()
	defer n.resolving.Unlock()
	return n.open[in.edge].op != opDropTree, nil
}
