package namespace

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// Rights, as in a mode's digits.
const (
	execute uint32 = 1
	write   uint32 = 2
	read    uint32 = 4
)

const sticky uint32 = 0o1000

// modeSet marks a mode in an entry as said, so that 0 can be said too.
const modeSet = core.NoAccess

// owned is what a permission check looks at.
type owned struct {
	owner, group string
	mode         uint32
	dir          bool
}

// ownedOf returns who owns the node: what the overlay says, else the store, else the mount.
func (n *Namespace) ownedOf(nd *node) owned {
	if nd.path.IsRoot() {
		return owned{nd.mount.Owner, nd.mount.Group, nd.mount.Mode, true}
	}
	m := nd.mount
	o := m.owned()
	if !nd.dir() {
		o = m.ownedFile()
	}
	if r := nd.row; r != nil && !(nd.entry != nil && nd.entry.Mount) {
		o = o.with(r.Owner, r.Group, r.Mode)
	}
	if e := nd.entry; e != nil && !e.Mount {
		o = o.with(e.Owner, e.Group, e.Mode)
	}
	return o
}

func (o owned) with(owner, group string, mode uint32) owned {
	if owner != "" {
		o.owner = owner
	}
	if group != "" {
		o.group = group
	}
	if mode != 0 {
		o.mode = mode & 0o1777
	}
	return o
}

// allows reports whether p has all the wanted rights. The first class that fits decides: owner, group, other.
// Source: HDFS permissions guide.
func (o owned) allows(p core.Principal, want uint32) bool {
	switch {
	case p.Super:
		return true
	case p.User == o.owner && p.User != core.Anonymous.User:
		return o.mode>>6&want == want
	case p.In(o.group):
		return o.mode>>3&want == want
	}
	return o.mode&want == want
}

var rightNames = [8]string{"NONE", "EXECUTE", "WRITE", "WRITE_EXECUTE", "READ", "READ_EXECUTE", "READ_WRITE", "ALL"}

func denied(p core.Principal, want uint32, at core.Path, o owned) error {
	kind := "-"
	if o.dir {
		kind = "d"
	}
	return errs.New("", "", errs.Permission, fmt.Sprintf("Permission denied: user=%s, access=%s, inode=%q:%s:%s:%s%s",
		p.User, rightNames[want], at.File(), o.owner, o.group, kind, modeString(o.mode)))
}

func modeString(mode uint32) string {
	b := []byte("rwxrwxrwx")
	for i := range b {
		if mode>>(8-i)&1 == 0 {
			b[i] = '-'
		}
	}
	if mode&sticky != 0 {
		b[8] = 't'
		if mode&1 == 0 {
			b[8] = 'T'
		}
	}
	return string(b)
}

// require reports errs.Permission unless the principal has the wanted rights on the node.
func (n *Namespace) require(ctx context.Context, nd *node, want uint32) error {
	p := core.PrincipalOf(ctx)
	if p.Super {
		return nil
	}
	if o := n.ownedOf(nd); !o.allows(p, want) {
		return denied(p, want, nd.path, o)
	}
	return nil
}

// traverse reports errs.Permission unless the principal may pass every existing directory above p, and errs.NotExist never:
// what is missing is for the caller to find.
func (n *Namespace) traverse(ctx context.Context, p core.Path) error {
	n.syncs.turns.request()
	if core.PrincipalOf(ctx).Super || p.IsRoot() {
		return nil
	}
	dir, passed, err := n.pass(ctx, p)
	for !passed && err == nil {
		nd, derr := n.dirNode(ctx, dir)
		if errs.KindOf(derr) == errs.NotExist {
			return nil
		}
		if derr != nil {
			return derr
		}
		if err := n.require(ctx, &nd, execute); err != nil {
			return err
		}
		rest, _ := dir.Rel(p)
		i := strings.IndexByte(rest, '/')
		if i < 0 || i == len(rest)-1 {
			return nil
		}
		dir = dir.Child(rest[:i+1])
	}
	return err
}

// pass is traverse as far as the overlay tells, in one look at it. If that is not to the end, passed is false and dir is the
// first directory to be looked at.
func (n *Namespace) pass(ctx context.Context, p core.Path) (dir core.Path, passed bool, err error) {
	who := core.PrincipalOf(ctx)
	above := p.Parent().String()
	var at string
	var o owned
	let := false
	n.tree.View(func(v meta.View) {
		x := n.waysNow()
		if w := x.remembered(v, above); w != nil && w.lets(who) {
			passed, let = true, true
			return
		}
		at, passed = passing(v, x.set, above, func(next owned) bool {
			o, let = next, next.allows(who, execute)
			return let
		})
	})
	if passed && let {
		return dir, true, nil
	}
	if dir, err = core.ParsePath(at); err == nil && passed {
		err = denied(who, execute, dir, o)
	}
	return dir, passed, err
}

// dirNode returns the directory p for a permission check: facts of any age will do, and on a store without real directories
// none are needed, since all of its directories have the mount's owner and mode.
func (n *Namespace) dirNode(ctx context.Context, p core.Path) (node, error) {
	pl := n.walk(p)
	if pl.entry != nil || p.IsRoot() || pl.mount == nil || !pl.mount.features.Dirs {
		return node{place: pl}, nil
	}
	return n.lookupSince(ctx, p, free, func(*mounted, time.Time) time.Time { return time.Time{} })
}

// nearestDir returns the deepest existing directory on the way to p, p's parent if it exists.
func (n *Namespace) nearestDir(ctx context.Context, p core.Path) (node, error) {
	for dir := p.Parent(); ; dir = dir.Parent() {
		nd, err := n.lookup(ctx, dir)
		if errs.KindOf(err) != errs.NotExist {
			return nd, err
		}
	}
}

// mayChangeIn reports errs.Permission unless the principal may add, remove or rename the child p (child nil: it does not
// exist) in its nearest existing directory, and errs.Permission too if the mount is read-only.
func (n *Namespace) mayChangeIn(ctx context.Context, p core.Path, child *node) error {
	_, err := n.changedIn(ctx, p, child)
	return err
}

// changedIn is mayChangeIn, and returns the directory if it had to be looked at, else nil.
func (n *Namespace) changedIn(ctx context.Context, p core.Path, child *node) (*node, error) {
	if err := n.traverse(ctx, p); err != nil {
		return nil, err
	}
	return n.changedAt(ctx, p, n.walk(p).mount, child)
}

// changedAt is changedIn for who may pass what is above p, which lies in m, if that is mounted.
func (n *Namespace) changedAt(ctx context.Context, p core.Path, m *mounted, child *node) (*node, error) {
	if m != nil {
		if err := m.refuses(p); err != nil {
			return nil, err
		}
	}
	who := core.PrincipalOf(ctx)
	if who.Super {
		return nil, nil
	}
	dir, err := n.nearestDir(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := n.require(ctx, &dir, write|execute); err != nil {
		return nil, denied(who, write, dir.path, n.ownedOf(&dir))
	}
	return &dir, n.maySticky(who, p, &dir, child)
}

// maySticky is what the sticky bit of dir has to say to a change of its child p, which may be nil.
func (n *Namespace) maySticky(who core.Principal, p core.Path, dir, child *node) error {
	if child == nil {
		return nil
	}
	d, c := n.ownedOf(dir), n.ownedOf(child)
	if d.mode&sticky != 0 && who.User != d.owner && who.User != c.owner {
		return errs.New("", "", errs.Permission, fmt.Sprintf("Permission denied by sticky bit: user=%s, path=%q:%s:%s:%s, parent=%q:%s:%s:%s",
			who.User, p.File(), c.owner, c.group, modeString(c.mode), dir.path.File(), d.owner, d.group, modeString(d.mode)))
	}
	return nil
}

// newOwner returns owner and group of a new entry in the directory that will hold it: the principal, and the directory's
// group, as in BSD and HDFS.
func (n *Namespace) newOwner(ctx context.Context, dir *node) (owner, group string) {
	owner, group = core.PrincipalOf(ctx).User, n.ownedOf(dir).group
	return owner, group
}

// CheckName implements core.Attrs.
func (n *Namespace) CheckName(_ context.Context, p core.Path) error {
	return n.checkName(exact(p, false))
}

// CheckAccess implements core.Attrs.
func (n *Namespace) CheckAccess(ctx context.Context, p core.Path, want uint32) error {
	ctx = n.looking(ctx, looksUp)
	if err := n.traverse(ctx, p); err != nil {
		return err
	}
	nd, err := n.resolve(ctx, p)
	if err != nil {
		return err
	}
	return n.require(ctx, &nd, want)
}
