package namespace

import (
	"context"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// SetAttr implements core.Attrs. What is set is kept in the overlay.
func (n *Namespace) SetAttr(ctx context.Context, p core.Path, a core.AttrChange) (core.Info, error) {
	if err := n.grows(); err != nil {
		return core.Info{}, err
	}
	if err := n.traverse(ctx, p); err != nil {
		return core.Info{}, err
	}
	nd, err := n.resolve(ctx, p)
	if err != nil {
		return core.Info{}, err
	}
	if err := n.maySetAttr(ctx, &nd, a); err != nil {
		return core.Info{}, err
	}
	if nd.path.IsRoot() || nd.entry != nil && nd.entry.Mount {
		return n.setMountAttr(ctx, &nd, a)
	}
	for range chase {
		if err := n.parents(ctx, nd.path, false, false, 0); err != nil {
			return core.Info{}, err
		}
		again, err := n.setAttr(ctx, nd.path, a)
		if err != nil {
			return core.Info{}, err
		}
		if !again {
			return n.committed(nd.path, time.Now()), nil
		}
	}
	return core.Info{}, errs.New("namespace.SetAttr", p.String(), errs.Conflict, "the parent directory keeps changing")
}

// maySetAttr follows HDFS: only the superuser gives a file away; the owner may change its mode, and its group to one of
// his own; times and replication need write permission.
func (n *Namespace) maySetAttr(ctx context.Context, nd *node, a core.AttrChange) error {
	if err := nd.mount.refuses(nd.path); err != nil {
		return err
	}
	who, own := core.PrincipalOf(ctx), n.ownedOf(nd)
	if who.Super {
		return nil
	}
	isOwner := who.User == own.owner && who.User != core.Anonymous.User
	switch {
	case a.Owner != nil && *a.Owner != own.owner:
		return errs.New("", "", errs.Permission, "Permission denied. user="+who.User+" is not the superuser, which changing the owner needs")
	case (a.Mode != nil || a.Group != nil) && !isOwner:
		return errs.New("", "", errs.Permission, "Permission denied. user="+who.User+" is not the owner of inode="+nd.path.File().String())
	case a.Group != nil && *a.Group != own.group && !who.In(*a.Group):
		return errs.New("", "", errs.Permission, "Permission denied. user="+who.User+" does not belong to "+*a.Group)
	case a.ModTime != nil || a.AccessTime != nil || a.Replication != nil:
		if !own.allows(who, write) {
			return denied(who, write, nd.path, own)
		}
	}
	return nil
}

// setAttr does it under the name's lock; again says that the parent has gone meanwhile.
func (n *Namespace) setAttr(ctx context.Context, p core.Path, a core.AttrChange) (again bool, err error) {
	unlock, err := n.locks.lock(ctx, p)
	if err != nil {
		return false, err
	}
	defer unlock()
	nd, err := n.lookupHeld(ctx, p, false)
	if err != nil {
		return false, err
	}
	if !nd.inTree {
		return true, nil
	}
	if err := n.blocked(&nd.place); err != nil {
		return false, err
	}
	e, err := n.attrEntry(ctx, &nd)
	if err != nil {
		return false, err
	}
	change(&e, a)
	_, err = n.commit(ctx, meta.Op{Kind: meta.Set, Dir: nd.parent, Edge: nd.edge, Entry: e})
	return false, err
}

// attrEntry returns a copy of the node's entry to change, made from the store's facts if it has none.
func (n *Namespace) attrEntry(ctx context.Context, nd *node) (meta.Entry, error) {
	if nd.entry != nil {
		return *nd.entry, nil
	}
	if nd.dir() {
		id, err := n.draw(ctx, &n.dirs)
		return meta.Entry{Class: meta.Directory, Dir: meta.DirID(id), Explicit: nd.real(), Marker: nd.row.Marker}, err
	}
	if err := n.complete(ctx, nd, held); err != nil {
		return meta.Entry{}, err
	}
	e, err := n.entryOf(ctx, nd)
	if err != nil {
		return meta.Entry{}, err
	}
	return *e, nil
}

func change(e *meta.Entry, a core.AttrChange) {
	if a.Owner != nil {
		e.Owner = *a.Owner
	}
	if a.Group != nil {
		e.Group = *a.Group
	}
	if a.Mode != nil {
		e.Mode = *a.Mode&0o1777 | modeSet
	}
	if a.ModTime != nil {
		e.MTime = a.ModTime.UnixNano()
	}
	if a.AccessTime != nil {
		e.ATime = a.AccessTime.UnixNano()
	}
	if a.Replication != nil && e.Class != meta.Directory {
		e.Replication = int32(*a.Replication)
	}
}

// setMountAttr changes owner, group and mode of a mount, which its point shows.
func (n *Namespace) setMountAttr(ctx context.Context, nd *node, a core.AttrChange) (core.Info, error) {
	if err := n.updateMount(ctx, nd.mount.ID, core.MountChange{Owner: a.Owner, Group: a.Group, Mode: a.Mode}); err != nil {
		return core.Info{}, err
	}
	again, err := n.lookup(ctx, nd.path)
	if err != nil {
		return core.Info{}, err
	}
	return n.infoOf(&again), nil
}
