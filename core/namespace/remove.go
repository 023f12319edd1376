package namespace

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// Remove implements core.Namespace.
func (n *Namespace) Remove(ctx context.Context, p core.Path, o core.RemoveOptions) error {
	if err := n.held(); err != nil {
		return err
	}
	if p.IsRoot() {
		return errs.New("namespace.Remove", "/", errs.Invalid, "the root cannot be removed")
	}
	if err := n.traverse(ctx, p); err != nil {
		return err
	}
	nd, err := n.resolve(ctx, p)
	if err != nil {
		return err
	}
	if err := n.mayChangeIn(ctx, nd.path, &nd); err != nil {
		return err
	}
	if n.mounts.Load().table.At(nd.path) != nil {
		return errs.New("namespace.Remove", nd.path.String(), errs.Busy, "it is a mount; unmount it over the admin API")
	}
	if nd.dir() {
		err = n.removeDir(ctx, nd.path, o)
	} else {
		err = n.removeFile(ctx, nd.path, o)
	}
	if err == nil && o.Prune {
		n.pruneParents(ctx, nd.path)
	}
	return err
}

// removeOps are the operations after which nothing is at the place.
func (n *Namespace) removeOps(pl place) []meta.Op {
	if !pl.inTree {
		return nil
	}
	ops := []meta.Op{{Kind: meta.Del, Dir: pl.parent, Edge: pl.edge}}
	if pl.entry != nil && pl.entry.Class == meta.Directory {
		ops = append(ops, meta.Op{Kind: meta.DropDir, Dir: pl.entry.Dir})
	}
	return ops
}

func (n *Namespace) removeFile(ctx context.Context, p core.Path, o core.RemoveOptions) error {
	unlock, err := n.locks.lock(ctx, p)
	if err != nil {
		return err
	}
	defer unlock()
	return n.removeFileHeld(ctx, p, o)
}

// removeFileHeld removes the file p, whose lock is held.
func (n *Namespace) removeFileHeld(ctx context.Context, p core.Path, o core.RemoveOptions) error {
	nd, err := n.lookupHeld(ctx, p, o.Cond != (core.Cond{}))
	if err != nil {
		return err
	}
	if err := checkCond(o.Cond, true, n.infoOf(&nd).ETag); err != nil {
		return errs.E("namespace.Remove", p.String(), errs.Precondition, err)
	}
	if err := n.blocked(&nd.place); err != nil {
		return err
	}
	if nd.local() && nd.entry.Hold.Base == "" { // the store knows nothing of it
		_, err := n.commit(ctx, append(n.removeOps(nd.place), n.answered(core.CallOf(ctx), nil)...)...)
		return err
	}
	version := ""
	if nd.local() {
		if version, err = n.baseNow(ctx, &nd.place, nd.entry.Hold.Base); err != nil {
			return err
		}
	} else if o.Cond.IfMatch != "" {
		version = nd.storeVersion()
	}
	in := openIntent{op: opRemove, path: p.String(), store: nd.mount.ID, key: nd.key, version: nd.storeVersion()}
	var row ufs.Info
	return n.through(ctx, &nd.place, &in, func(ctx context.Context) error {
		err := nd.mount.store.Remove(ctx, nd.key, version)
		if nd.local() && errors.Is(err, errs.Precondition) { // what others have put there in its place is not what is removed
			stays, serr := nd.mount.store.Stat(ctx, nd.key)
			if row, err = stays, serr; isGone(err) {
				row = ufs.Info{}
			}
		}
		if err != nil && !isGone(err) {
			return err
		}
		return nil
	}, func(ops []meta.Op) []meta.Op { return append(ops, n.removeOps(nd.place)...) }, &row)
}

// removeDir removes a directory: an empty one like a file, a tree by hiding all of it at once first.
func (n *Namespace) removeDir(ctx context.Context, p core.Path, o core.RemoveOptions) error {
	if err := n.parents(ctx, p, false, false, 0); err != nil {
		return err
	}
	unlock, err := n.locks.lock(ctx, p)
	if err != nil {
		return err
	}
	defer unlock()
	nd, err := n.lookupHeld(ctx, p, false)
	if err != nil {
		return err
	}
	if err := n.blocked(&nd.place); err != nil {
		return err
	}
	if err := nd.mount.opened(); err != nil {
		return err
	}
	if n.mounts.Load().table.Below(p) {
		return errs.New("namespace.Remove", p.String(), errs.Busy, "it holds a mount; unmount that over the admin API first")
	}
	some, err := n.hasVisibleHeld(ctx, &nd.place)
	switch {
	case err != nil:
		return err
	case o.Prune:
		return n.removeMarker(ctx, &nd, some)
	case !some:
		return n.removeEmpty(ctx, &nd)
	case !o.Recursive:
		return errs.E("namespace.Remove", p.String(), errs.NotEmpty, nil)
	}
	if nd.bucket() {
		return errs.New("namespace.Remove", p.String(), errs.NotEmpty, "a bucket is not removed with what is in it; remove that first")
	}
	if err := n.mayRemoveTree(ctx, p); err != nil {
		return err
	}
	return n.removeTree(ctx, &nd)
}

// removeMarker is what an S3 DELETE of "d/" does: the key goes, and the directory with it only if it is empty.
func (n *Namespace) removeMarker(ctx context.Context, nd *node, some bool) error {
	if !some {
		return n.removeEmpty(ctx, nd)
	}
	if !nd.isMarker() || nd.bucket() { // the store knows nothing of what is held, and would remove the bucket from under it
		return nil
	}
	f := nd.mount.features
	in := openIntent{op: opRemove, path: nd.path.String(), store: nd.mount.ID, key: nd.key}
	step := func(ctx context.Context) error {
		if f.Dirs {
			if f.SetAttr {
				_, err := ufs.SetAttr(ctx, nd.mount.store, nd.key, "", ufs.Attr{})
				return err
			}
			return nil
		}
		if err := nd.mount.store.Remove(ctx, nd.key, ""); err != nil && !isGone(err) {
			return err
		}
		return nil
	}
	return n.through(ctx, &nd.place, &in, step, func(ops []meta.Op) []meta.Op {
		if nd.entry == nil {
			return ops
		}
		e := *nd.entry
		e.Marker, e.Explicit, e.Headers, e.User = false, false, nil, nil
		return append(ops, meta.Op{Kind: meta.Set, Dir: nd.parent, Edge: nd.edge, Entry: e})
	}, &ufs.Info{Name: nd.key, Dir: true})
}

func (n *Namespace) removeEmpty(ctx context.Context, nd *node) error {
	in := openIntent{op: opRemove, path: nd.path.String(), store: nd.mount.ID, key: nd.key}
	return n.through(ctx, &nd.place, &in, func(ctx context.Context) error {
		if nd.hidden {
			return nil
		}
		if err := nd.mount.store.Remove(ctx, nd.key, ""); err != nil && !isGone(err) {
			return err
		}
		return nil
	}, func(ops []meta.Op) []meta.Op { return append(ops, n.removeOps(nd.place)...) }, nil)
}

// mayRemoveTree reports errs.Permission unless the principal may remove everything below p.
func (n *Namespace) mayRemoveTree(ctx context.Context, p core.Path) error {
	who := core.PrincipalOf(ctx)
	if who.Super {
		return nil
	}
	dirs := []core.Path{p}
	for len(dirs) > 0 {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		nd, err := n.lookupHeld(ctx, dir, false)
		if err != nil {
			return err
		}
		own := n.ownedOf(&nd)
		filled := false
		err = n.list(ctx, dir, core.ListOptions{Children: true}, func(x *lister) bool {
			child := x.node()
			filled = true
			if child.dir() {
				dirs = append(dirs, child.path)
			}
			return true
		})
		if err != nil {
			return err
		}
		if filled && !own.allows(who, read|write|execute) {
			return denied(who, read|write|execute, dir, own)
		}
	}
	return nil
}

// removeTree hides the tree with one record, removes it from the store, and forgets it with another.
func (n *Namespace) removeTree(ctx context.Context, nd *node) error {
	if f := &nd.mount.features; f.Trash && f.Dirs && !nd.hidden {
		return n.trashTree(ctx, nd)
	}
	ctx = context.WithoutCancel(ctx)
	in := openIntent{op: opTrash, path: nd.path.String(), store: nd.mount.ID, key: nd.key}
	if nd.entry != nil {
		in.entry = *nd.entry
	}
	hide := meta.Op{Kind: meta.Set, Dir: nd.parent, Edge: nd.edge, Entry: meta.Entry{Class: meta.Whiteout}}
	d := nd.mount.derived
	d.Begin(nd.key)
	call := core.CallOf(ctx)
	if err := n.begin(ctx, &in, append(n.answered(call, nil), hide)...); err != nil {
		d.End(nd.key, n.Seq(), nil, false)
		return err
	}
	forget := append(n.removeOps(n.walk(nd.path)), in.dropped()...)
	if nd.hidden {
		_, err := n.commit(ctx, append(forget, in.close())...)
		d.End(nd.key, n.Seq(), nil, false)
		return err
	}
	if removed, err := n.trashStore(ctx, nd.mount, nd.key, in.since); err != nil {
		d.End(nd.key, n.Seq(), nil, false)
		if removed || unanswered(err) {
			n.keepOpen(&in) // the tree is gone from view; what is left of it stays hidden until it is removed
			return nil
		}
		unhide := meta.Op{Kind: meta.Del, Dir: nd.parent, Edge: nd.edge}
		if nd.entry != nil {
			unhide.Kind, unhide.Entry = meta.Set, *nd.entry
		}
		_, cerr := n.commit(ctx, append(n.unanswer(call), unhide, in.close())...)
		return errors.Join(err, cerr)
	}
	d.Forget(nd.key) // it is not hidden any more
	seq, err := n.commit(ctx, append(forget, in.close())...)
	d.End(nd.key, seq, nil, err == nil)
	return err
}

// trashTree removes a tree from a store that does so in one step.
func (n *Namespace) trashTree(ctx context.Context, nd *node) error {
	in := openIntent{op: opRemove, path: nd.path.String(), store: nd.mount.ID, key: nd.key}
	return n.through(ctx, &nd.place, &in, func(ctx context.Context) error {
		if err := ufs.Trash(ctx, nd.mount.store, nd.key); err != nil && !isGone(err) {
			return err
		}
		return nil
	}, func(ops []meta.Op) []meta.Op { return append(ops, n.removeOps(nd.place)...) }, nil)
}

// keepOpen leaves an intent whose first record already shows to watchIntents, which carries it on.
func (n *Namespace) keepOpen(in *openIntent) {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	n.open[in.edge] = *in
}

// trashStore removes what a store has below key and was there at since; removed says, after an error, whether something
// may have been.
func (n *Namespace) trashStore(ctx context.Context, m *mounted, key string, since time.Time) (removed bool, err error) {
	if m.features.Trash && m.features.Dirs {
		if err = ufs.Trash(ctx, m.store, key); isGone(err) {
			err = nil
		}
		return false, err
	}
	return n.dropCopied(ctx, m, key, notAfter(since), func() (context.Context, func(), error) { return ctx, func() {}, nil })
}

// notAfter picks what is not newer than since.
func notAfter(since time.Time) func(ufs.Info) (bool, error) {
	return func(info ufs.Info) (bool, error) { return !info.ModTime.After(since.Add(clockSkew)), nil }
}

// clockSkew is how much later than ours a store's clock may stamp what it was given before.
const clockSkew = time.Minute

// dropBatch is how many files go with one call to a store that can remove many. Source: S3's DeleteObjects takes 1,000.
const dropBatch = 1000

// dropCopied removes the versions that a store lists below key and that pick picks; removed says, after an error, whether something
// may have been. begin is called before each call that removes, and says in which context that is made; end after it.
func (n *Namespace) dropCopied(ctx context.Context, m *mounted, key string, pick func(ufs.Info) (bool, error),
	begin func() (ctx context.Context, end func(), err error)) (removed bool, err error) {
	var dirs []string
	var files []ufs.Versioned
	drop := func() error {
		if len(files) == 0 {
			return nil
		}
		at := 1
		if m.features.RemoveFiles {
			at = len(files)
		}
		for some := range slices.Chunk(files, at) {
			ctx, end, err := begin()
			if err != nil {
				return err
			}
			removed = true
			err = ufs.RemoveFiles(ctx, m.store, some)
			if end(); err != nil {
				return err
			}
		}
		files = files[:0]
		return nil
	}
	for info, err := range m.store.List(ctx, key, "", m.features.Flat) {
		if isGone(err) {
			return removed, nil
		}
		if err != nil {
			return removed, err
		}
		if info.Dir && !m.features.Flat {
			dirs = append(dirs, info.Name)
			continue
		}
		if ok, err := pick(info); err != nil {
			return removed, err
		} else if !ok {
			continue
		}
		if files = append(files, ufs.Versioned{Name: info.Name, Version: info.Version}); len(files) == dropBatch {
			if err := drop(); err != nil {
				return removed, err
			}
		}
	}
	if err := drop(); err != nil {
		return removed, err
	}
	for _, d := range dirs {
		below, err := n.dropCopied(ctx, m, d, pick, begin)
		if removed = removed || below; err != nil {
			return removed, err
		}
	}
	if m.features.Dirs {
		ctx, end, err := begin()
		if err != nil {
			return removed, err
		}
		defer end()
		if err := m.store.Remove(ctx, key, ""); err != nil && !isGone(err) {
			return removed, err
		}
	}
	return true, nil
}
