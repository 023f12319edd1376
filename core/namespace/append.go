package namespace

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/ufs"
)

// createAppend opens an append to a file: on a store that can append, the bytes are staged and added to the file at
// Commit; on one that cannot, the file is written anew with the bytes behind its own. One append to a file at a time.
func (n *Namespace) createAppend(ctx context.Context, p core.Path, o core.CreateOptions) (core.Writer, error) {
	if err := n.traverse(ctx, p); err != nil {
		return nil, err
	}
	w, err := n.tryAppend(ctx, p, o)
	if k := errs.KindOf(err); k == errs.Precondition || k == errs.Conflict { // what was known of the file is out of date
		w, err = n.tryAppend(core.WithMaxAge(ctx, core.MaxAge{Set: true}), p, o)
	}
	if errs.KindOf(err) == errs.Precondition {
		return nil, errs.E("namespace.Append", p.String(), errs.Conflict, err)
	}
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (n *Namespace) tryAppend(ctx context.Context, p core.Path, o core.CreateOptions) (*appender, error) {
	old, err := n.resolve(ctx, p)
	if err != nil {
		return nil, err
	}
	if old.dir() {
		return nil, errs.E("namespace.Append", p.String(), errs.IsDir, nil)
	}
	if err := n.require(ctx, &old, write); err != nil {
		return nil, err
	}
	for range chase {
		if !old.local() {
			break
		}
		if err := old.mount.answers("namespace.Append", p); err != nil { // it would be waited for
			return nil, err
		}
		if err := n.toStore(ctx, old.path, false); err != nil {
			return nil, err
		}
		if old, err = n.lookup(ctx, old.path); err != nil {
			return nil, err
		}
	}
	if err := old.mount.refuses(p); err != nil {
		return nil, err
	}
	release, err := n.startAppend(&old)
	if err != nil {
		return nil, err
	}
	w, err := n.openAppend(ctx, &old, o)
	if err != nil {
		release()
		return nil, err
	}
	w.release = release
	return w, nil
}

// startAppend claims the file for one append.
func (n *Namespace) startAppend(nd *node) (release func(), err error) {
	id := n.infoOf(nd).ID
	n.appendMu.Lock()
	defer n.appendMu.Unlock()
	if n.appending[id] {
		return nil, errs.New("namespace.Append", nd.path.String(), errs.Busy, "another append to the file is open")
	}
	n.appending[id] = true
	return func() {
		n.appendMu.Lock()
		defer n.appendMu.Unlock()
		delete(n.appending, id)
	}, nil
}

// appender implements core.Writer for appends.
type appender struct {
	*writer
	base    *meta.Entry // the file the bytes are added to
	version string
	release func()
}

func (n *Namespace) openAppend(ctx context.Context, old *node, o core.CreateOptions) (*appender, error) {
	if err := old.mount.opened(); err != nil {
		return nil, err
	}
	if err := n.complete(ctx, old, free); err != nil {
		return nil, err
	}
	rev, err := n.draw(ctx, &n.revs)
	if err != nil {
		return nil, err
	}
	base, err := n.entryOf(ctx, old)
	if err != nil {
		return nil, err
	}
	o.Size = -1
	w := &writer{n: n, ctx: ctx, path: old.path, o: o, id: base.ID, rev: rev, mount: old.mount, entry: *base}
	w.entry.Rev = rev
	w.policies()
	if w.how = w.asked; w.how != core.Through {
		w.how = core.CacheThrough // what is added to a file that its store has goes there at once
	}
	a := &appender{writer: w, base: base, version: old.storeVersion()}
	if old.mount.features.Append {
		w.out, err = ufs.Append(ctx, old.mount.store, old.key, a.version, w.attr())
	} else {
		w.out, err = n.rewrite(ctx, old, w)
	}
	if err != nil {
		return nil, err
	}
	w.hdfs = newHDFSSum(w.entry.BlockSize)
	w.content = n.allocatedContent(meta.Extent{ID: w.id, Rev: rev})
	if w.how != core.Through && len(base.Extents) < maxExtents { // what is folded has no pages
		w.cache = n.o.Cache.NewWriter(w.content)
	}
	return a, nil
}

// entryOf returns the overlay's entry of a file, made from the store's facts if it has none.
func (n *Namespace) entryOf(ctx context.Context, nd *node) (*meta.Entry, error) {
	if nd.file() {
		return nd.entry, nil
	}
	id, err := n.draw(ctx, &n.ids)
	if err != nil {
		return nil, err
	}
	rev, err := n.draw(ctx, &n.revs)
	if err != nil {
		return nil, err
	}
	o, r := n.ownedOf(nd), nd.row
	return &meta.Entry{
		Class: meta.Persisted, ID: id, Rev: rev, Extents: wholeExtent(id, rev, r.Size), Size: r.Size, ETag: r.ETag, Version: r.Version,
		MTime: r.MTime, ATime: r.MTime, Owner: o.owner, Group: o.group, Mode: o.mode | modeSet, BlockSize: defaultBlock, Replication: 1,
		Headers: r.Headers, User: r.User, Checksums: r.Checksums,
	}, nil
}

// rewrite returns a store writer that already holds the file's bytes.
func (n *Namespace) rewrite(ctx context.Context, old *node, w *writer) (ufs.Writer, error) {
	so := ufs.CreateOptions{Attr: w.attr()}
	if old.mount.features.Conditional {
		so.IfVersion = old.storeVersion()
	}
	out, err := old.mount.store.Create(ctx, old.key, -1, so)
	if err != nil {
		return nil, err
	}
	rd, err := n.openNode(ctx, old, core.All)
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{rd}, make([]byte, page.Size/4))
		rd.Close()
	}
	if err != nil {
		out.Abort()
		return nil, err
	}
	return out, nil
}

// Abort implements core.Writer.
func (a *appender) Abort() error {
	defer a.free()
	return a.writer.Abort()
}

func (a *appender) free() {
	if a.release != nil {
		a.release()
		a.release = nil
	}
}

// Commit implements core.Writer: the file must be what it was when the append began.
func (a *appender) Commit(ctx context.Context, o core.CommitOptions) (core.Info, error) {
	defer a.free()
	if err := a.finishAppend(o); err != nil {
		a.writer.Abort()
		return core.Info{}, err
	}
	n := a.n
	for range chase {
		if err := n.parents(ctx, a.path, false, false, 0); err != nil {
			a.writer.Abort()
			return core.Info{}, err
		}
		info, again, err := a.commitAppend(ctx)
		if !again {
			if err != nil {
				a.writer.Abort()
			}
			return info, err
		}
	}
	a.writer.Abort()
	return core.Info{}, errs.New("namespace.Append", a.path.String(), errs.Conflict, "the parent directory keeps changing")
}

// finishAppend completes the entry: the old extents and the new one, and an ETag of both, with a "-" in it because it is no
// MD5 of the whole.
func (a *appender) finishAppend(o core.CommitOptions) error {
	checksums := o.Checksums
	o.Checksums = nil
	if err := a.finish(o); err != nil {
		return err
	}
	e, tail := &a.entry, a.size
	if a.base.Size == 0 {
		e.Checksums = encodeChecksums(checksums)
		return nil
	}
	sum := md5.Sum([]byte(a.base.ETag + e.ETag))
	e.Size = a.base.Size + tail
	e.Extents = append(append([]meta.Extent(nil), a.base.Extents...), wholeExtent(a.id, a.rev, tail)...)
	e.ETag = fmt.Sprintf("%s-%d", hex.EncodeToString(sum[:]), min(len(e.Extents), maxExtents))
	e.Extents = fold(e.Extents, a.id, a.rev, e.Size)
	e.HDFSSum, e.Parts, e.Checksums = "", nil, ""
	if tail == 0 {
		e.ETag = a.base.ETag
	}
	return nil
}

func (a *appender) commitAppend(ctx context.Context) (info core.Info, again bool, err error) {
	n := a.n
	unlock, err := n.locks.lock(ctx, a.path)
	if err != nil {
		return core.Info{}, false, err
	}
	defer unlock()
	pl := n.walk(a.path)
	if !pl.inTree {
		return core.Info{}, true, nil
	}
	if err := n.blocked(&pl); err != nil {
		return core.Info{}, false, err
	}
	now, err := n.lookupHeld(ctx, a.path, !a.mount.features.Append) // a store that appends judges the version itself
	if err != nil {
		return core.Info{}, false, err
	}
	if now.persisted() { // what was set meanwhile stays
		e := now.entry
		a.entry.Owner, a.entry.Group, a.entry.Mode, a.entry.ATime = e.Owner, e.Group, e.Mode, e.ATime
		a.entry.Replication, a.entry.Headers, a.entry.User = e.Replication, e.Headers, e.User
	}
	if now.local() || now.storeVersion() != a.version || !now.mount.is(a.mount) {
		return core.Info{}, false, errs.New("namespace.Append", a.path.String(), errs.Conflict, "the file changed while it was appended to")
	}
	if err := a.out.SetAttr(a.attr()); err != nil && errs.KindOf(err) != errs.Unsupported {
		return core.Info{}, false, err
	}
	in := openIntent{op: opPut, path: a.path.String(), store: a.mount.ID, key: pl.key, token: a.out.Token(), entry: a.entry}
	var stored ufs.Info
	err = n.through(ctx, &pl, &in, func(ctx context.Context) error {
		stored, err = a.out.Commit(ctx)
		a.ended = true
		return err
	}, func(ops []meta.Op) []meta.Op {
		settle(&a.entry, &a.mount.features, stored)
		return append(ops, meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: a.entry})
	}, &stored)
	if err != nil {
		if a.cache != nil {
			a.cache.Drop()
		}
		return core.Info{}, false, err
	}
	info = n.committed(a.path, time.Now())
	info.Write = a.said()
	return info, false, nil
}
