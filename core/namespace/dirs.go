package namespace

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// checkName reports errs.Invalid if the store of p's mount cannot hold the name, and errs.Permission for the reserved
// staging directory at a mount's root.
func (n *Namespace) checkName(p core.Path) error {
	pl := n.walk(p)
	return pl.checkName()
}

func (pl *place) checkName() error {
	p := pl.path
	if pl.mount == nil {
		return errs.New("namespace", p.String(), errs.Unavailable, "the mount is gone")
	}
	if pl.mount.err != nil {
		return pl.mount.unavailable()
	}
	f := pl.mount.features
	if key := pl.key + "/"; strings.HasPrefix(key, ufs.Staging) {
		return errs.New("namespace", p.String(), errs.Permission, "the directory .sluice at a mount's root is reserved for staging")
	}
	if f.Buckets && pl.key != "" && !strings.Contains(pl.key, "/") {
		return errs.New("namespace", p.String(), errs.Invalid, fmt.Sprintf("the mount %s is of an account, with buckets at its root and nothing else; make or name one", pl.mount.Path))
	}
	if f.TooLong(pl.key) {
		return errs.New("namespace", p.String(), errs.Invalid, fmt.Sprintf("the store of the mount %s holds names of at most %d bytes", pl.mount.Path, f.MaxKey))
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(pl.key, "/"), "/") {
		if pl.key == "" {
			break
		}
		if strings.ContainsAny(segment, f.NoChars) {
			return errs.New("namespace", p.String(), errs.Invalid, fmt.Sprintf("the store of the mount %s cannot hold any of the characters %q, as in %.40q", pl.mount.Path, f.NoChars, segment))
		}
		if f.NoDotEnd && ufs.DotEnd(segment) {
			return errs.New("namespace", p.String(), errs.Invalid, fmt.Sprintf("the store of the mount %s cannot hold a segment that ends in a dot, as %.40q", pl.mount.Path, segment))
		}
		if f.MaxName > 0 && len(segment) > f.MaxName {
			return errs.New("namespace", p.String(), errs.Invalid, fmt.Sprintf("the store of the mount %s holds names of at most %d bytes, not %.40q…", pl.mount.Path, f.MaxName, segment))
		}
		if !f.OddNames && (segment == "" || segment == "." || segment == "..") || !utf8.ValidString(segment) {
			return errs.New("namespace", p.String(), errs.Invalid, fmt.Sprintf("the store of the mount %s cannot hold the path segment %q", pl.mount.Path, segment))
		}
	}
	return nil
}

// checkKind reports errs.IsDir or errs.NotDir if a store that cannot hold a file and a directory of one name, or an
// ambiguous path, forbids p because the other kind is there; and errs.NotDir if an ancestor of p is a file there.
func (n *Namespace) checkKind(ctx context.Context, p core.Path, either bool) error {
	pl := n.walk(p)
	if !pl.mount.features.Dirs && !either {
		return nil
	}
	other, kind := p.Dir(), errs.IsDir
	if p.IsDir() {
		other, kind = p.File(), errs.NotDir
	}
	if _, err := n.lookup(ctx, other); err == nil {
		return errs.E("namespace", other.String(), kind, nil)
	} else if k := errs.KindOf(err); k != errs.NotExist && k != errs.NotDir {
		return err
	}
	for dir := p.Parent(); !dir.IsRoot(); dir = dir.Parent() {
		at := n.walk(dir)
		if at.entry != nil || at.key == "" {
			return nil // a directory of the overlay or a mount point
		}
		if _, err := n.lookupSince(ctx, dir, free, func(*mounted, time.Time) time.Time { return time.Time{} }); err == nil {
			return nil
		}
		if _, err := n.lookup(ctx, dir.File()); err == nil {
			return errs.E("namespace", dir.File().String(), errs.NotDir, nil)
		}
	}
	return nil
}

// parents makes sure that every directory above p is in the overlay, so that an entry can be set at p. Missing ones are
// made if make is set (explicit ones with explicit); else a parent that does not exist is errs.NotExist. The
// caller holds no locks; what it made may be gone again by the time it has p's lock, and it must look again.
func (n *Namespace) parents(ctx context.Context, p core.Path, make, explicit bool, mode uint32) error {
	return n.parentsWithin(ctx, p, core.Path{}, make, explicit, mode)
}

// parentsWithin is parents, but the directory within and those above it are never made: errs.NotExist.
func (n *Namespace) parentsWithin(ctx context.Context, p, within core.Path, make, explicit bool, mode uint32) error {
	dir := p.Parent()
	if dir.IsRoot() {
		return nil
	}
	var pl place
	if make {
		pl = n.walk(dir)
	} else {
		nd, err := n.lookup(ctx, dir)
		if err != nil {
			return err
		}
		pl, within = nd.place, dir // it may be removed before it is locked
	}
	if pl.entry != nil && pl.entry.Class == meta.Directory && (!explicit || pl.entry.Explicit) {
		return nil
	}
	top := dir
	for up := dir; !up.IsRoot(); up = up.Parent() {
		if at := n.walk(up); at.entry != nil && at.entry.Class == meta.Directory && (!explicit || at.entry.Explicit || at.entry.Mount) {
			break
		}
		top = up
	}
	unlock, err := n.locks.lock(ctx, top)
	if err != nil {
		return err
	}
	defer unlock()
	return n.promote(ctx, dir, within, explicit, mode)
}

// promote puts dir and its ancestors into the overlay where they are not. Directories that exist only in their store
// become entries without facts of their own; missing ones get the principal as owner if explicit. The caller holds the
// lock of the topmost one. A missing directory that is within or above it is errs.NotExist.
func (n *Namespace) promote(ctx context.Context, dir, within core.Path, explicit bool, mode uint32) error {
	var ops []meta.Op
	edges := dir.Edges()
	at := core.Root
	parent, known := meta.RootDir, true
	made := false
	for _, edge := range edges {
		at = at.Child(edge)
		pl := n.walk(at)
		if known && pl.entry != nil && pl.entry.Class == meta.Directory {
			parent = pl.entry.Dir
			if explicit && !pl.entry.Explicit && !pl.entry.Mount {
				e := *pl.entry
				e.Explicit = true
				ops = append(ops, meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: edge, Entry: e})
			}
			continue
		}
		known = false
		if err := n.blocked(&pl); err != nil {
			return err
		}
		id, err := n.draw(ctx, &n.dirs)
		if err != nil {
			return err
		}
		e := meta.Entry{Class: meta.Directory, Dir: meta.DirID(id)}
		if pl.hidden {
			e.Base = meta.Base{Kind: meta.Opaque} // it stands where a whiteout hides an older one
		}
		if _, err := n.lookupHeld(ctx, at, false); errs.KindOf(err) == errs.NotExist {
			if !within.IsZero() && at.Contains(within) {
				return err
			}
			if pl.bucket() {
				return errs.New("namespace", at.String(), errs.Invalid, "the mounted account has no such bucket, and a write makes none; make it first, with mkdir")
			}
			made = true
			up, err := n.dirNode(ctx, at.Parent())
			if err != nil && errs.KindOf(err) != errs.NotExist {
				return err
			}
			e.Owner, e.Group = n.newOwner(ctx, &up)
			e.MTime = time.Now().UnixNano()
			e.Explicit = explicit
			if mode != 0 {
				e.Mode = mode | 0o300 | modeSet // whoever makes a tree can go on making it
			}
		} else if err != nil {
			return err
		} else {
			e.Explicit = explicit || pl.real() // somebody made it, and it stays when it is empty
		}
		ops = append(ops, meta.Op{Kind: meta.Set, Dir: parent, Edge: edge, Entry: e})
		parent = e.Dir
	}
	if len(ops) == 0 {
		return nil
	}
	if pl := n.walk(dir); made && explicit && pl.mount.features.Dirs && pl.key != "" && !pl.hidden {
		return n.parentsThrough(ctx, &pl, ops)
	}
	_, err := n.commit(ctx, ops...)
	return err
}

// parentsThrough journals ops, which make the directory at pl and some above it, and makes them in their store. The first
// record already shows them, and its intent is carried on by whoever leads next: a look at the store would else take them
// away again.
func (n *Namespace) parentsThrough(ctx context.Context, pl *place, ops []meta.Op) error {
	if err := pl.mount.opened(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	in := openIntent{op: opParents, path: pl.path.String(), store: pl.mount.ID, key: pl.key}
	d := pl.mount.derived
	d.Begin(pl.key)
	if err := n.begin(ctx, &in, ops...); err != nil {
		d.End(pl.key, n.Seq(), nil, false)
		return err
	}
	info, err := mkdirStore(ctx, pl.mount, &in)
	if err != nil {
		d.End(pl.key, n.Seq(), nil, false)
		if errors.Is(err, ufs.ErrUnsent) {
			return errors.Join(err, n.closed(ctx, &in))
		}
		return n.failed(ctx, &in, err)
	}
	if err := n.closed(ctx, &in); err != nil {
		d.End(pl.key, n.Seq(), nil, false)
		return err
	}
	row := rowOf(info)
	d.End(pl.key, n.Seq(), &row, true)
	return nil
}

// mkdirStore makes the directory of an intent in its store: a real one, or the marker object of an object store. Made twice,
// it is made once.
func mkdirStore(ctx context.Context, m *mounted, in *openIntent) (ufs.Info, error) {
	f, e := &m.features, &in.entry
	attr := ufs.Attr{Marker: e.Marker || !f.Dirs, Headers: e.Headers, User: e.User}
	if f.Dirs && e.Mode&modeSet != 0 {
		attr.Mode = e.Mode & 0o1777
	}
	return ufs.Mkdir(ctx, m.store, in.key, attr)
}

// Mkdir implements core.Namespace.
func (n *Namespace) Mkdir(ctx context.Context, p core.Path, o core.MkdirOptions) (core.Info, error) {
	if err := n.grows(); err != nil {
		return core.Info{}, err
	}
	either := p.Either()
	p = p.Dir()
	if err := n.checkName(p); err != nil {
		return core.Info{}, err
	}
	if p.IsRoot() {
		return core.Info{}, errs.E("namespace.Mkdir", "/", errs.Exist, nil)
	}
	if err := n.mayChangeIn(ctx, p, nil); err != nil {
		return core.Info{}, err
	}
	if err := n.checkKind(ctx, p, either); err != nil {
		if errs.KindOf(err) == errs.NotDir && n.fileAt(ctx, p.File()) {
			return core.Info{}, errs.New("namespace.Mkdir", p.File().String(), errs.Exist, "a file of this name exists")
		}
		return core.Info{}, err
	}
	if _, err := n.lookup(ctx, p); err == nil && !o.Marker { // its parents stay what they are
		return core.Info{}, errs.E("namespace.Mkdir", p.String(), errs.Exist, nil)
	}
	if err := n.makeBucketOf(ctx, p, o); err != nil {
		return core.Info{}, err
	}
	for range chase {
		if err := n.parentsWithin(ctx, p, o.Within, o.MakeParents, o.MakeParents && !o.Marker, o.Mode); err != nil {
			return core.Info{}, err
		}
		info, again, err := n.mkdir(ctx, p, o)
		if !again {
			return info, err
		}
	}
	return core.Info{}, errs.New("namespace.Mkdir", p.String(), errs.Conflict, "the parent directory keeps changing")
}

// makeBucketOf makes the bucket that p is in where an account is mounted, if it is not there and a directory's missing parents are to be made.
func (n *Namespace) makeBucketOf(ctx context.Context, p core.Path, o core.MkdirOptions) error {
	pl := n.walk(p)
	if !o.MakeParents || o.Marker || pl.mount == nil || !pl.mount.features.Buckets || bucketKey(pl.key) || pl.key == "" {
		return nil
	}
	at := p
	for up := pl; !bucketKey(up.key); up = n.walk(at) {
		if at = at.Parent(); at.IsRoot() {
			return nil
		}
	}
	if _, err := n.lookup(ctx, at); errs.KindOf(err) != errs.NotExist {
		return err
	}
	_, err := n.Mkdir(core.WithCall(ctx, core.Call{}), at, core.MkdirOptions{MakeParents: true, Within: o.Within, Mode: o.Mode})
	if errs.KindOf(err) == errs.Exist { // just now
		return nil
	}
	return err
}

func (n *Namespace) fileAt(ctx context.Context, p core.Path) bool {
	_, err := n.lookup(ctx, p)
	return err == nil
}

// mkdir makes p under its lock; again says that its parent has gone meanwhile.
func (n *Namespace) mkdir(ctx context.Context, p core.Path, o core.MkdirOptions) (info core.Info, again bool, err error) {
	unlock, err := n.locks.lock(ctx, p)
	if err != nil {
		return core.Info{}, false, err
	}
	defer unlock()
	pl := n.walk(p)
	if !pl.inTree {
		return core.Info{}, true, nil
	}
	if err := n.blocked(&pl); err != nil {
		return core.Info{}, false, err
	}
	old, err := n.lookupHeld(ctx, p, true)
	exists := err == nil
	if err != nil && errs.KindOf(err) != errs.NotExist {
		return core.Info{}, false, err
	}
	if exists && (!o.Marker || old.place.entry != nil && old.place.entry.Mount) {
		return core.Info{}, false, errs.E("namespace.Mkdir", p.String(), errs.Exist, nil)
	}
	if err := checkCond(o.Cond, exists && old.isMarker(), emptyMD5); err != nil {
		return core.Info{}, false, errs.E("namespace.Mkdir", p.String(), errs.Precondition, err)
	}
	e, err := n.dirEntry(ctx, &pl, &old, exists, o)
	if err != nil {
		return core.Info{}, false, err
	}
	set := meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: e}
	if pl.key == "" || !pl.mount.features.Mkdir {
		_, err = n.commit(ctx, append(n.answered(core.CallOf(ctx), n.infoAt(pl, &e)), set)...)
	} else {
		in := openIntent{op: opMkdir, path: p.String(), store: pl.mount.ID, key: pl.key, entry: e}
		var made ufs.Info
		err = n.through(ctx, &pl, &in, func(ctx context.Context) (err error) {
			made, err = mkdirStore(ctx, pl.mount, &in)
			return err
		}, func(ops []meta.Op) []meta.Op { return append(ops, set) }, &made)
	}
	if err != nil {
		return core.Info{}, false, err
	}
	nd := node{place: n.walk(p), cache: core.Hit}
	return n.infoOf(&nd), false, nil
}

func (n *Namespace) dirEntry(ctx context.Context, pl *place, old *node, exists bool, o core.MkdirOptions) (meta.Entry, error) {
	e := meta.Entry{Class: meta.Directory}
	if pl.entry != nil && pl.entry.Class == meta.Directory {
		e = *pl.entry
	} else {
		id, err := n.draw(ctx, &n.dirs)
		if err != nil {
			return e, err
		}
		e.Dir = meta.DirID(id)
		if pl.hidden {
			e.Base = meta.Base{Kind: meta.Opaque}
		}
	}
	if !exists {
		up, err := n.nearestDir(ctx, pl.path)
		if err != nil {
			return e, err
		}
		e.Owner, e.Group = n.newOwner(ctx, &up)
		e.Mode = 0
		if o.Mode != 0 {
			e.Mode = o.Mode | modeSet
		}
		e.MTime = time.Now().UnixNano()
	}
	if o.Marker {
		e.Marker, e.Headers, e.User, e.MTime = true, o.Headers, o.User, time.Now().UnixNano()
	} else {
		e.Explicit = true
	}
	return e, nil
}

// checkCond judges a condition on the current version.
func checkCond(c core.Cond, exists bool, etag string) error {
	switch {
	case c.IfNoneMatch == "*" && exists:
		return errs.E("", "", errs.Precondition, fmt.Errorf("If-None-Match: the name exists"))
	case c.IfNoneMatch != "" && c.IfNoneMatch != "*" && exists && c.IfNoneMatch == etag:
		return errs.E("", "", errs.Precondition, fmt.Errorf("If-None-Match: the ETag is %q", etag))
	case c.IfMatch != "" && !exists:
		return errs.E("", "", errs.Precondition, fmt.Errorf("If-Match: the name does not exist"))
	case c.IfMatch != "" && c.IfMatch != "*" && c.IfMatch != etag:
		return errs.E("", "", errs.Precondition, fmt.Errorf("If-Match: the ETag is %q", etag))
	}
	return nil
}

// pruneParents removes the directories above p that nobody asked for and that became empty.
func (n *Namespace) pruneParents(ctx context.Context, p core.Path) {
	for dir := p.Parent(); !dir.IsRoot(); dir = dir.Parent() {
		if !n.prune(ctx, dir) {
			return
		}
	}
}

// prune removes dir if it is an implied directory of the overlay that shows nothing.
func (n *Namespace) prune(ctx context.Context, dir core.Path) bool {
	// Most directories that lose a name keep others: those lock nobody out. Where nothing is left, it is waited for whoever
	// holds a name in it or above: he may be another that prunes, and has looked before this one's name was gone.
	pl := n.walk(dir)
	if pl.entry == nil || pl.entry.Class != meta.Directory {
		return false
	}
	if some, err := n.hasVisible(ctx, &pl); err != nil || some {
		return false
	}
	unlock, err := n.locks.lock(ctx, dir)
	if err != nil {
		return false
	}
	defer unlock()
	pl = n.walk(dir)
	e := pl.entry
	if e == nil || e.Class != meta.Directory || e.Explicit || e.Marker || e.Mount || pl.mount.err != nil {
		return false
	}
	if n.blocked(&pl) != nil || n.hides(e.Dir) {
		return false
	}
	if some, err := n.hasVisible(ctx, &pl); err != nil || some {
		return false
	}
	if pl.mount.features.Dirs && !pl.hidden {
		pl.mount.derived.Begin(pl.key)
		err := pl.mount.store.Remove(ctx, pl.key, "")
		gone := err == nil || isGone(err)
		pl.mount.derived.End(pl.key, n.Seq(), nil, gone)
		if !gone {
			return false
		}
	}
	_, err = n.commit(ctx, meta.Op{Kind: meta.Del, Dir: pl.parent, Edge: pl.edge}, meta.Op{Kind: meta.DropDir, Dir: e.Dir})
	return err == nil
}

// hides reports whether a whiteout stands in the directory: a change that is under way relies on it.
func (n *Namespace) hides(dir meta.DirID) (hides bool) {
	n.tree.View(func(v meta.View) {
		for _, e := range v.Children(dir, "") {
			if hides = e.Class == meta.Whiteout; hides {
				return
			}
		}
	})
	return hides
}
