package namespace

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/ufs"
)

// Create implements core.Namespace.
func (n *Namespace) Create(ctx context.Context, p core.Path, o core.CreateOptions) (core.Writer, error) {
	if err := n.grows(); err != nil {
		return nil, err
	}
	if o.Mode == core.Append {
		return n.createAppend(ctx, p, o)
	}
	either := p.Either()
	p = exact(p, false)
	if p.IsDir() {
		return nil, errs.New("namespace.Create", p.String(), errs.Invalid, "a file's name does not end in /")
	}
	if err := n.checkName(p); err != nil {
		return nil, err
	}
	old, dir, exists, err := n.mayCreate(ctx, p, o, either)
	if err != nil {
		return nil, err
	}
	if err := judge(o, &old, exists, n); err != nil {
		return nil, err
	}
	id, err := n.fileID(ctx, &old, exists)
	if err != nil {
		return nil, err
	}
	rev, err := n.draw(ctx, &n.revs)
	if err != nil {
		return nil, err
	}
	w := &writer{n: n, ctx: ctx, path: p, o: o, either: either, id: id, rev: rev}
	w.entry, err = n.newEntry(ctx, p, &old, dir, exists, o, id, rev)
	if err != nil {
		return nil, err
	}
	return w, w.stage(ctx, &old)
}

// mayCreate checks what can be known before the first byte: permission, kinds, the parent. dir is the nearest directory of what does
// not exist, if it had to be looked at, else nil.
func (n *Namespace) mayCreate(ctx context.Context, p core.Path, o core.CreateOptions, either bool) (old node, dir *node, exists bool, err error) {
	if err := n.traverse(ctx, p); err != nil {
		return old, nil, false, err
	}
	old, err = n.lookup(ctx, p)
	exists = err == nil
	if err != nil && errs.KindOf(err) != errs.NotExist {
		return old, nil, false, err
	}
	if exists {
		if err := n.require(ctx, &old, write); err != nil {
			return old, nil, false, err
		}
		if err := old.mount.refuses(p); err != nil {
			return old, nil, false, err
		}
		return old, nil, true, nil
	}
	if dir, err = n.changedAt(ctx, p, old.mount, nil); err != nil {
		return old, nil, false, err
	}
	if err := n.checkKind(ctx, p, either); err != nil {
		return old, nil, false, err
	}
	if !o.MakeParents && (dir == nil || dir.path != p.Parent()) {
		if _, err := n.lookup(ctx, p.Parent()); err != nil {
			return old, nil, false, err
		}
	}
	return old, dir, false, nil
}

// judge decides whether what is there now may be replaced.
func judge(o core.CreateOptions, old *node, exists bool, n *Namespace) error {
	if o.Mode == core.CreateNew && exists {
		return errs.E("namespace.Create", old.path.String(), errs.Exist, nil)
	}
	etag := ""
	if exists {
		etag = n.infoOf(old).ETag
	}
	if err := checkCond(o.Cond, exists, etag); err != nil {
		return errs.E("namespace.Create", old.path.String(), errs.Precondition, err)
	}
	return nil
}

// fileID returns the number of the file at old, which an overwrite keeps, or a fresh one.
func (n *Namespace) fileID(ctx context.Context, old *node, exists bool) (uint64, error) {
	if exists && old.file() {
		return old.entry.ID, nil
	}
	return n.draw(ctx, &n.ids)
}

// newEntry returns the entry of a file about to be written, without what its bytes decide. old, dir and exists are what mayCreate has
// found.
func (n *Namespace) newEntry(ctx context.Context, p core.Path, old, dir *node, exists bool, o core.CreateOptions, id, rev uint64) (meta.Entry, error) {
	e := meta.Entry{
		Class: meta.Persisted, ID: id, Rev: rev, Headers: o.Attr.Headers, User: o.Attr.User,
		BlockSize: o.Attr.BlockSize, Replication: int32(o.Attr.Replication),
	}
	if e.BlockSize == 0 {
		e.BlockSize = defaultBlock
	}
	if e.Replication == 0 {
		e.Replication = 1
	}
	if o.Attr.Mode != 0 {
		e.Mode = o.Attr.Mode | modeSet
	} else {
		e.Mode = 0o644 | modeSet
	}
	if exists {
		was := n.ownedOf(old)
		e.Owner, e.Group = was.owner, was.group
		if o.Attr.Mode == 0 {
			e.Mode = was.mode | modeSet
		}
		return e, nil
	}
	if dir == nil {
		nearest, err := n.nearestDir(ctx, p)
		if err != nil {
			return e, err
		}
		dir = &nearest
	}
	e.Owner, e.Group = n.newOwner(ctx, dir)
	return e, nil
}

// writer implements core.Writer: the bytes go to the store's staging, into the page cache and through the checksums at once.
type writer struct {
	n      *Namespace
	ctx    context.Context
	path   core.Path
	o      core.CreateOptions
	either bool
	id     uint64
	rev    uint64
	entry  meta.Entry

	mount   *mounted
	asked   core.WriteType    // by the request, the path's rule or the mount
	how     core.WriteType    // what it has become
	key     string            // in the store
	so      ufs.CreateOptions // for the store
	base    string            // version that the bytes replace, known under the lock
	hold    *holdOut          // workers that take the bytes; nil if the store does
	out     ufs.Writer        // nil with hold
	cache   *page.Writer      // nil if the write type does not cache
	content page.Content
	md5     md5Sum
	hdfs    *hdfsSum
	size    int64
	also    []core.Path                 // names to hold with path's at Commit
	check   func() error                // judges them, under the locks; may be nil
	then    func(context.Context) error // goes on under the locks, once the file is there; may be nil
	whole   bool                        // the entry is complete: the bytes are copied by the store and never pass here
	err     error
	ended   bool
}

// stage opens the side of the write that keeps the bytes: workers', or the store's.
func (w *writer) stage(ctx context.Context, old *node) error {
	w.mount, w.key = old.mount, old.key
	policies := w.policies()
	w.how = w.asked
	if old.file() && old.entry.StoreKey != "" {
		w.entry.StoreKey = old.entry.StoreKey
	}
	w.so.Attr = w.attr()
	w.hdfs = newHDFSSum(w.entry.BlockSize)
	w.content = w.n.allocatedContent(meta.Extent{ID: w.id, Rev: w.rev, Len: max(w.o.Size, 0)})
	if w.how == core.AsyncThrough || w.how == core.MustCache {
		var err error
		if w.hold, err = w.n.hold(ctx, w.mount, w.how, core.HeldID{ID: w.content.ID, Rev: w.rev}, w.o.Size, policies.Replicas); err != nil {
			return err
		}
		if w.hold == nil {
			w.how = core.CacheThrough
			w.n.holds.fellBack.Add(1)
		}
	}
	if w.hold == nil {
		if err := w.openStore(ctx, old); err != nil {
			return err
		}
	}
	if w.how != core.Through {
		w.cache = w.n.o.Cache.NewWriter(w.content)
	}
	return nil
}

// openStore opens the store's side of a write of what is at old. It outlives the client's request: once Commit has begun, a client
// that hangs up does not stop it.
func (w *writer) openStore(ctx context.Context, old *node) (err error) {
	if err := w.mount.opened(); err != nil {
		return err
	}
	if err := w.awaited(ctx, old); err != nil {
		return err
	}
	w.out, err = w.mount.store.Create(context.WithoutCancel(ctx), w.key, w.o.Size, w.so)
	return err
}

// awaited says in w.so what the store must have at Commit, if the client has a condition. A store may take that ahead of the bytes, and
// a file that workers hold gets another version when it is brought there, without being another file for the client: so it is brought
// there first. Where that fails, the store goes on having what it has. The caller holds no lock.
func (w *writer) awaited(ctx context.Context, old *node) error {
	n := w.n
	if !w.mount.features.Conditional {
		return nil
	}
	w.so.IfNew = w.o.Mode == core.CreateNew || w.o.Cond.IfNoneMatch == "*"
	if w.o.Cond.IfMatch == "" || w.o.Cond.IfMatch == "*" {
		return nil
	}
	for range chase {
		if !old.local() {
			break
		}
		if err := n.toStore(ctx, w.path, true); err != nil {
			if ctx.Err() != nil {
				return err
			}
			n.o.Logger.Debug("a held file that is to be replaced could not be brought to its store", "path", w.path.String(), "err", err)
			break
		}
		now, err := n.lookup(ctx, w.path)
		if err != nil && errs.KindOf(err) != errs.NotExist {
			return err
		}
		now.path = w.path
		if err := judge(w.o, &now, err == nil, n); err != nil {
			return err
		}
		old = &now
	}
	w.so.IfVersion = old.storeVersion()
	if !old.local() {
		return nil
	}
	var err error
	w.so.IfNew = w.so.IfVersion == ""
	w.so.IfVersion, err = n.baseNow(ctx, &old.place, w.so.IfVersion)
	return err
}

// storeVersion returns the version of what the store has under the name, "" if it has nothing.
func (nd *node) storeVersion() string {
	switch {
	case nd.persisted():
		return nd.entry.Version
	case nd.local():
		return nd.entry.Hold.Base
	case nd.row != nil:
		return nd.row.Version
	}
	return ""
}

// policies returns what applies to the file, and sets what write type was asked for.
func (w *writer) policies() core.Policies {
	p := w.n.policies(w.mount, w.path)
	w.asked = cmp.Or(w.o.WriteType, p.WriteType)
	return p
}

// said is Info.Write of the write's result.
func (w *writer) said() core.WriteType {
	if w.asked == core.CacheThrough {
		return ""
	}
	return w.how
}

// attr is what the store keeps with the file.
func (w *writer) attr() ufs.Attr {
	e := &w.entry
	return ufs.Attr{
		Headers: e.Headers, User: e.User, ETag: e.ETag, Checksums: e.Checksums, Origin: origin(w.id, w.rev),
		Mode: e.Mode & 0o1777, Owner: e.Owner, Group: e.Group,
	}
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.ended {
		return 0, errs.New("namespace.Write", w.path.String(), errs.Invalid, "the writer has ended")
	}
	if w.o.Size >= 0 && w.size+int64(len(p)) > w.o.Size {
		w.err = errs.New("namespace.Write", w.path.String(), errs.Invalid, fmt.Sprintf("more bytes than the %d announced", w.o.Size))
		return 0, w.err
	}
	k, err := w.take(p)
	w.size += int64(k)
	w.md5.write(p[:k])
	w.hdfs.Write(p[:k])
	if w.cache != nil {
		w.cache.Write(p[:k])
	}
	w.err = err
	return k, err
}

// take hands p to whoever keeps the bytes.
func (w *writer) take(p []byte) (int, error) {
	if w.hold == nil {
		return w.out.Write(p)
	}
	_, err := w.hold.Write(p)
	if err != nil && !w.hold.refused {
		err = w.toStore(err)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Abort implements core.Writer.
func (w *writer) Abort() error {
	if w.ended {
		return nil
	}
	w.ended = true
	w.md5.stop()
	if w.cache != nil {
		w.cache.Drop()
	}
	if w.hold != nil {
		w.hold.drop()
	}
	if w.out == nil {
		return nil
	}
	return w.out.Abort()
}

// Commit implements core.Writer.
func (w *writer) Commit(ctx context.Context, o core.CommitOptions) (core.Info, error) {
	if w.ended {
		return core.Info{}, errs.New("namespace.Commit", w.path.String(), errs.Invalid, "the writer has ended")
	}
	err := w.finish(o)
	if err == nil && w.hold != nil {
		if err = w.hold.commit(ctx); err != nil {
			err = w.toStore(err)
		}
	}
	if err != nil {
		w.Abort()
		return core.Info{}, err
	}
	for range chase {
		if err = w.n.parentsWithin(ctx, w.path, w.o.Within, w.o.MakeParents, w.o.Explicit, 0); err != nil {
			break
		}
		if w.hold != nil {
			if err = w.n.inStore(ctx, w.path.Parent()); err != nil {
				break
			}
		}
		info, again, cerr := w.commit(ctx, o)
		if !again {
			if cerr != nil {
				w.Abort()
			}
			return info, cerr
		}
		err = errs.New("namespace.Commit", w.path.String(), errs.Conflict, "the parent directory keeps changing")
	}
	w.Abort()
	return core.Info{}, err
}

// finish completes the entry with what the bytes decide.
func (w *writer) finish(o core.CommitOptions) error {
	if w.err == nil {
		w.err = context.Cause(w.ctx)
	}
	if w.err != nil {
		return w.err
	}
	if w.whole {
		return nil
	}
	if w.o.Size >= 0 && w.size != w.o.Size {
		return errs.New("namespace.Commit", w.path.String(), errs.Invalid, fmt.Sprintf("%d bytes were announced and %d came", w.o.Size, w.size))
	}
	sum := w.md5.sum()
	if o.MD5 != nil && !bytes.Equal(sum, o.MD5) {
		return errs.E("namespace.Commit", w.path.String(), errs.BadDigest, nil)
	}
	e := &w.entry
	e.Size, e.ETag, e.Checksums = w.size, hex.EncodeToString(sum), encodeChecksums(o.Checksums)
	e.Extents = wholeExtent(w.id, w.rev, w.size)
	e.HDFSSum = packHDFSSum(w.hdfs.sum())
	e.MTime = time.Now().UnixNano()
	e.ATime = e.MTime
	if w.cache != nil {
		w.cache.Finish()
	}
	return nil
}

// commit makes the staged bytes the file. again says that the parent has gone since parents looked.
func (w *writer) commit(ctx context.Context, o core.CommitOptions) (info core.Info, again bool, err error) {
	n := w.n
	unlock, err := n.locks.lock(ctx, append(w.also, w.path)...)
	if err != nil {
		return core.Info{}, false, err
	}
	defer unlock()
	pl := n.walk(w.path)
	if !pl.inTree {
		return core.Info{}, true, nil
	}
	if !pl.mount.is(w.mount) {
		return core.Info{}, false, errs.New("namespace.Commit", w.path.String(), errs.Conflict, "the mount changed while the file was written")
	}
	if err := n.blocked(&pl); err != nil {
		return core.Info{}, false, err
	}
	if err := w.recheck(ctx, o); err != nil {
		return core.Info{}, false, err
	}
	if w.check != nil {
		if err := w.check(); err != nil {
			return core.Info{}, false, err
		}
	}
	if w.hold != nil {
		if info, err = w.commitHeld(ctx, &pl); err == nil && w.then != nil {
			err = w.then(context.WithoutCancel(ctx))
		}
		return info, false, err
	}
	if err := w.out.SetAttr(w.attr()); err != nil && errs.KindOf(err) != errs.Unsupported {
		return core.Info{}, false, err
	}
	in := openIntent{op: opPut, path: w.path.String(), store: w.mount.ID, key: pl.key, token: w.out.Token(), entry: w.entry,
		prepare: func(ctx context.Context) error { return ufs.Prepare(ctx, w.out) }}
	var stored ufs.Info
	err = n.through(ctx, &pl, &in, func(ctx context.Context) error {
		stored, err = w.out.Commit(ctx)
		w.ended = true
		return err
	}, func(ops []meta.Op) []meta.Op {
		settle(&w.entry, &w.mount.features, stored)
		return append(ops, meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: w.entry})
	}, &stored)
	if err != nil {
		if w.cache != nil {
			w.cache.Drop()
		}
		return core.Info{}, false, err
	}
	n.tree.MarkChecked(pl.parent, pl.edge, w.entry.Version, time.Now())
	info = n.infoAt(pl, &w.entry)
	info.Write = w.said()
	if w.then != nil {
		err = w.then(context.WithoutCancel(ctx))
	}
	return info, false, err
}

// recheck judges again, under the lock, what may have changed since the first byte.
func (w *writer) recheck(ctx context.Context, o core.CommitOptions) error {
	n := w.n
	strict := w.o.Mode == core.CreateNew || w.o.Cond != (core.Cond{}) || o.Cond != (core.Cond{})
	old, err := n.lookupHeld(ctx, w.path, strict)
	exists := err == nil
	if err != nil && errs.KindOf(err) != errs.NotExist {
		return err
	}
	old.path = w.path
	if w.base = ""; exists {
		w.base = old.storeVersion()
	}
	if err := judge(w.o, &old, exists, n); err != nil {
		return err
	}
	if err := judge(core.CreateOptions{Cond: o.Cond}, &old, exists, n); err != nil {
		return err
	}
	if !exists {
		return n.checkKind(ctx, w.path, w.either)
	}
	was := n.ownedOf(&old) // what was set meanwhile stays
	w.entry.Owner, w.entry.Group = was.owner, was.group
	if !saysMode(w.o.Attr) {
		w.entry.Mode = was.mode | modeSet
	}
	return nil
}

func saysMode(a core.FileAttr) bool { return a.Mode != 0 }

// settle takes over what the store says of the bytes it has just made durable.
func settle(e *meta.Entry, f *ufs.Features, stored ufs.Info) {
	e.Version = stored.Version
	if f.MD5ETag && stored.ETag != "" {
		e.ETag = stored.ETag
	}
	if !stored.ModTime.IsZero() {
		e.MTime = stored.ModTime.UnixNano()
	}
}

// committed describes the name p right after a change of it.
func (n *Namespace) committed(p core.Path, at time.Time) core.Info {
	pl := n.walk(p)
	if pl.persisted() {
		n.tree.MarkChecked(pl.parent, pl.edge, pl.entry.Version, at)
		pl.check = at
	}
	nd := node{place: pl, cache: core.Hit}
	return n.infoOf(&nd)
}
