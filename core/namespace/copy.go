package namespace

import (
	"context"
	"io"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Copy implements core.Namespace.
func (n *Namespace) Copy(ctx context.Context, src, dst core.Path, o core.CopyOptions) (core.Info, error) {
	if err := n.grows(); err != nil {
		return core.Info{}, err
	}
	if err := n.traverse(ctx, src); err != nil {
		return core.Info{}, err
	}
	from, err := n.resolve(ctx, src)
	if err != nil {
		return core.Info{}, err
	}
	if from.dir() && !from.isMarker() {
		return core.Info{}, errs.E("namespace.Copy", src.String(), errs.IsDir, nil)
	}
	if err := n.require(ctx, &from, read); err != nil {
		return core.Info{}, err
	}
	if from.cache == core.Stale {
		return core.Info{}, tooOld("namespace.Copy", src)
	}
	if err := n.complete(ctx, &from, free); err != nil {
		return core.Info{}, err
	}
	info := n.infoOf(&from)
	if err := checkCond(o.Source, true, info.ETag); err != nil {
		return core.Info{}, errs.E("namespace.Copy", src.String(), errs.Precondition, err)
	}
	attr := core.FileAttr{Mode: info.Mode, Headers: info.Headers, User: info.User, BlockSize: info.BlockSize, Replication: info.Replication}
	if o.ReplaceAttr != nil {
		attr = *o.ReplaceAttr
	}
	if from.dir() || dst.IsDir() {
		return n.copyMarker(ctx, dst, &from, attr, o)
	}
	co := core.CreateOptions{MakeParents: o.MakeParents, Within: o.Within, Size: info.Size, Cond: o.Dest, Attr: attr}
	if to := n.walk(exact(dst, false)); !from.local() && from.mount.is(to.mount) && to.mount.features.Copy && from.path != to.path {
		return n.copyInStore(ctx, &from, exact(dst, false), dst.Either(), co, info)
	}
	return n.copyThrough(ctx, &from, dst, co, info)
}

// copyMarker copies an empty object from or to a directory's key.
func (n *Namespace) copyMarker(ctx context.Context, dst core.Path, from *node, attr core.FileAttr, o core.CopyOptions) (core.Info, error) {
	if info := n.infoOf(from); info.Size > 0 {
		return core.Info{}, errs.New("namespace.Copy", dst.String(), errs.Invalid, "a key that ends in / holds no bytes here")
	}
	if dst.IsDir() {
		return n.Mkdir(ctx, dst, core.MkdirOptions{MakeParents: o.MakeParents, Within: o.Within, Marker: true, Headers: attr.Headers, User: attr.User, Cond: o.Dest})
	}
	w, err := n.Create(ctx, dst, core.CreateOptions{MakeParents: o.MakeParents, Within: o.Within, Cond: o.Dest, Attr: attr})
	if err != nil {
		return core.Info{}, err
	}
	return w.Commit(ctx, core.CommitOptions{})
}

// copyThrough copies by reading and writing, in the store's terms a new file.
func (n *Namespace) copyThrough(ctx context.Context, from *node, dst core.Path, co core.CreateOptions, info core.Info) (core.Info, error) {
	rd, err := n.openNode(ctx, from, core.All)
	if err != nil {
		return core.Info{}, err
	}
	defer rd.Close()
	w, err := n.Create(ctx, dst, co)
	if err != nil {
		return core.Info{}, err
	}
	defer w.Abort()
	if _, err := io.Copy(w, struct{ io.Reader }{rd}); err != nil {
		return core.Info{}, err
	}
	return w.Commit(ctx, core.CommitOptions{Checksums: info.Checksums})
}

// copyInStore lets the store copy. The copy keeps the source's ETag and, where it has them, its cached pages.
func (n *Namespace) copyInStore(ctx context.Context, from *node, dst core.Path, either bool, co core.CreateOptions, info core.Info) (core.Info, error) {
	if err := n.checkName(dst); err != nil {
		return core.Info{}, err
	}
	old, dir, exists, err := n.mayCreate(ctx, dst, co, either)
	if err != nil {
		return core.Info{}, err
	}
	id, err := n.fileID(ctx, &old, exists)
	if err != nil {
		return core.Info{}, err
	}
	rev, err := n.draw(ctx, &n.revs)
	if err != nil {
		return core.Info{}, err
	}
	w := &writer{n: n, ctx: ctx, path: dst, o: co, either: either, id: id, rev: rev, mount: from.mount, whole: true}
	if w.entry, err = n.newEntry(ctx, dst, &old, dir, exists, co, id, rev); err != nil {
		return core.Info{}, err
	}
	e := &w.entry
	e.Size, e.ETag, e.Checksums, e.Parts = info.Size, info.ETag, encodeChecksums(info.Checksums), packParts(info.Parts)
	e.MTime = time.Now().UnixNano()
	e.ATime = e.MTime
	e.Extents = wholeExtent(id, rev, info.Size)
	if from.persisted() {
		e.Extents, e.HDFSSum = from.entry.Extents, from.entry.HDFSSum
	}
	version := from.storeVersion()
	w.out = &copyStep{ctx: ctx, m: from.mount, from: from.key, version: version, to: old.key, w: w}
	return w.Commit(ctx, core.CommitOptions{})
}

// copyStep is a ufs.Writer whose bytes are another file of the store.
type copyStep struct {
	ctx               context.Context
	m                 *mounted
	from, version, to string
	w                 *writer
}

func (c *copyStep) Write([]byte) (int, error) {
	return 0, errs.E("namespace.Copy", c.to, errs.Unsupported, nil)
}
func (c *copyStep) Token() string          { return "" }
func (c *copyStep) SetAttr(ufs.Attr) error { return nil }
func (c *copyStep) Abort() error           { return nil }
func (c *copyStep) Commit(ctx context.Context) (ufs.Info, error) {
	attr := c.w.attr()
	return ufs.Copy(ctx, c.m.store, c.from, c.version, c.to, &attr)
}

// Compose implements core.Namespace: the bytes are written anew as one file, and the parts go once it is there, under the
// locks of all of them.
func (n *Namespace) Compose(ctx context.Context, dst core.Path, parts []core.Path) (core.Info, error) {
	if err := n.grows(); err != nil {
		return core.Info{}, err
	}
	dst = exact(dst, false)
	target, err := n.resolve(ctx, dst)
	if err != nil && errs.KindOf(err) != errs.NotExist {
		return core.Info{}, err
	}
	co := core.CreateOptions{Size: -1, MakeParents: true}
	sources := parts
	if err == nil {
		info := n.infoOf(&target)
		co.Cond.IfMatch = info.ETag
		co.Attr = core.FileAttr{Mode: info.Mode, Headers: info.Headers, User: info.User, BlockSize: info.BlockSize, Replication: info.Replication}
		sources = append([]core.Path{dst}, parts...)
	}
	for _, p := range parts {
		nd, err := n.resolve(ctx, p)
		if err != nil {
			return core.Info{}, err
		}
		if err := n.mayChangeIn(ctx, nd.path, &nd); err != nil {
			return core.Info{}, err
		}
	}
	out, err := n.Create(ctx, dst, co)
	if err != nil {
		return core.Info{}, err
	}
	defer out.Abort()
	versions := map[core.Path]string{}
	for _, p := range sources {
		if versions[exact(p, false)], err = n.copyBytes(ctx, out, p); err != nil {
			return core.Info{}, err
		}
	}
	w := out.(*writer)
	for _, p := range parts {
		w.also = append(w.also, exact(p, false))
	}
	w.check = func() error { return n.unchanged(ctx, w.also, versions) }
	w.then = func(ctx context.Context) error {
		ctx = core.WithCall(ctx, core.Call{}) // what is answered is that the file is there
		for _, p := range w.also {
			if err := n.removeFileHeld(ctx, p, core.RemoveOptions{}); err != nil {
				return err
			}
		}
		return nil
	}
	return w.Commit(ctx, core.CommitOptions{})
}

// unchanged reports errs.Conflict unless the files still have the versions whose bytes were taken. Their locks are held.
func (n *Namespace) unchanged(ctx context.Context, files []core.Path, versions map[core.Path]string) error {
	for _, p := range files {
		nd, err := n.lookupHeld(ctx, p, true)
		if err != nil {
			return err
		}
		if err := n.blocked(&nd.place); err != nil {
			return err
		}
		if n.infoOf(&nd).Version != versions[p] {
			return errs.New("namespace.Compose", p.String(), errs.Conflict, "the file changed while it was being taken")
		}
	}
	return nil
}

// copyBytes writes the bytes of p and returns the version they are.
func (n *Namespace) copyBytes(ctx context.Context, w io.Writer, p core.Path) (version string, err error) {
	rd, err := n.Open(ctx, p, core.All)
	if err != nil {
		return "", err
	}
	defer rd.Close()
	if rd.Info().Cache == core.Stale {
		return "", tooOld("namespace.Compose", p)
	}
	_, err = io.Copy(w, struct{ io.Reader }{rd})
	return rd.Info().Version, err
}
