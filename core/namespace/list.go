package namespace

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// Stat implements core.Namespace.
func (n *Namespace) Stat(ctx context.Context, p core.Path) (core.Info, error) {
	if err := n.traverse(ctx, p); err != nil {
		return core.Info{}, err
	}
	nd, err := n.resolve(ctx, p)
	if err != nil {
		return core.Info{}, err
	}
	if err := n.complete(ctx, &nd, free); err != nil {
		return core.Info{}, err
	}
	return n.infoOf(&nd), nil
}

// complete fetches what a listing could not say of a file.
func (n *Namespace) complete(ctx context.Context, nd *node, has holding) error {
	if nd.dir() || nd.entry != nil || nd.row == nil || nd.row.Full {
		return nil
	}
	if err := n.loadName(ctx, &nd.place, time.Now()); err != nil {
		return err
	}
	again, err := n.lookupSince(ctx, nd.path, has, func(*mounted, time.Time) time.Time { return time.Time{} })
	if err != nil {
		return err
	}
	again.cache = core.Miss
	*nd = again
	return nil
}

// infoOf describes a node.
func (n *Namespace) infoOf(nd *node) core.Info {
	o := n.ownedOf(nd)
	i := core.Info{
		Path: nd.path, Name: nd.edge, Dir: nd.dir(), Owner: o.owner, Group: o.group, Mode: o.mode, Children: -1,
		Mount: nd.mount.Path.String(), ReadOnly: nd.mount.ReadOnly, Cache: nd.cache,
	}
	e, r := nd.entry, nd.row
	switch {
	case nd.path.IsRoot():
		i.ID, i.MountPoint, i.ModTime, i.AccessTime = uint64(meta.RootDir), true, unixNano(0), unixNano(0)
	case nd.persisted():
		i.ID, i.Size, i.ETag, i.Version = e.ID, e.Size, e.ETag, origin(e.ID, e.Rev)
		i.ModTime, i.AccessTime = time.Unix(0, e.MTime), time.Unix(0, e.ATime)
		i.BlockSize, i.Replication = e.BlockSize, int(e.Replication)
		i.Headers, i.User, i.Checksums, i.Parts = e.Headers, e.User, decodeChecksums(e.Checksums), unpackParts(e.Parts)
		i.Age = age(nd.check)
	case e != nil:
		i.ID, i.Marker, i.MountPoint = uint64(e.Dir), e.Marker, e.Mount
		i.Headers, i.User = e.Headers, e.User
		i.ModTime, i.AccessTime = unixNano(e.MTime), unixNano(e.ATime)
		if e.MTime == 0 && r != nil {
			i.ModTime = unixNano(r.MTime)
		}
	case r != nil:
		i.ID, i.Marker = n.rowID(nd), r.Marker
		i.Size, i.ETag, i.Version = r.Size, r.ETag, r.Version
		i.ModTime, i.AccessTime = unixNano(r.MTime), unixNano(r.MTime)
		i.Headers, i.User, i.Checksums = r.Headers, r.User, decodeChecksums(r.Checksums)
		i.Age = age(nd.rowAt)
	}
	if i.Dir {
		i.Size = 0
		if i.Marker {
			i.ETag = emptyMD5
		}
		return i
	}
	if i.BlockSize == 0 {
		i.BlockSize = defaultBlock
	}
	if i.Replication == 0 {
		i.Replication = 1
	}
	return i
}

// emptyMD5 is the ETag of a marker, whose object has no bytes.
const emptyMD5 = "d41d8cd98f00b204e9800998ecf8427e"

// defaultBlock is HDFS's default block size in bytes.
const defaultBlock = 128 << 20

func unixNano(ns int64) time.Time { return time.Unix(0, ns) }

func age(at time.Time) time.Duration {
	if at.IsZero() {
		return 0
	}
	return time.Since(at)
}

// listPage is how many entries one look at the tree takes at most: bounds the time the tree's read lock is held. It is a page of
// S3 and the one name more that tells whether there is another.
const listPage = 1001

// List implements core.Namespace.
func (n *Namespace) List(ctx context.Context, dir core.Path, o core.ListOptions) iter.Seq2[core.Info, error] {
	return func(yield func(core.Info, error) bool) {
		d := dir.Dir()
		err := n.list(ctx, d, o, func(nd *node, name string, prefix bool) bool {
			if prefix {
				return yield(core.Info{Name: name, CommonPrefix: true}, nil)
			}
			i := n.infoOf(nd)
			i.Name = name
			return yield(i, nil)
		})
		if err != nil {
			yield(core.Info{}, err)
		}
	}
}

// list calls show for each entry of the directory until it returns false. The node is good until show returns.
func (n *Namespace) list(ctx context.Context, dir core.Path, o core.ListOptions, show func(nd *node, name string, prefix bool) bool) error {
	if err := n.traverse(ctx, dir); err != nil {
		return err
	}
	nd, err := n.lookup(ctx, dir)
	if errs.KindOf(err) == errs.NotExist {
		if f, ferr := n.lookup(ctx, dir.File()); ferr == nil && !f.dir() {
			return errs.E("namespace.List", dir.File().String(), errs.NotDir, nil)
		}
	}
	if err != nil {
		return err
	}
	if err := n.require(ctx, &nd, read|execute); err != nil {
		return err
	}
	sees := n.sight(ctx, dir)
	left := o.Limit
	x := lister{n: n}
	q := meta.Query{Start: n.startOf(&nd.place), Prefix: o.Prefix, Delimiter: o.Delimiter, After: o.After,
		Children: o.Children, HideShadowed: o.HideShadowed, Limit: left}
	var ierr error
	err = n.pages(ctx, dir, &q, func(it *meta.Item) bool {
		if it.CommonPrefix {
			if prefix, err := dir.Join(it.Name); err != nil || !sees(prefix) {
				return true
			}
			if !show(nil, it.Name, true) {
				return false
			}
		} else {
			child := x.node(dir, it)
			if !o.Children && !sees(child.path) {
				return true
			}
			if child.entry != nil && n.holding() {
				var now node
				if now, ierr = n.lookup(ctx, child.path); errs.KindOf(ierr) == errs.NotExist {
					ierr = nil
					return true
				}
				if ierr != nil {
					return false
				}
				child = &now
			}
			if !show(child, it.Name, false) {
				return false
			}
		}
		left--
		q.Limit = left
		return left != 0
	})
	return errors.Join(err, ierr)
}

// sight returns what tells whether the principal may see a name at any depth below dir, which he may list: whether he may
// list all directories between. What he may not see is left out of a listing of keys, as if it were not there.
func (n *Namespace) sight(ctx context.Context, dir core.Path) func(core.Path) bool {
	if core.PrincipalOf(ctx).Super {
		return func(core.Path) bool { return true }
	}
	may := map[core.Path]bool{dir: true}
	var last core.Path // and what holds for it: the names of a listing follow each other
	sees := true
	var list func(core.Path) bool
	list = func(d core.Path) bool {
		ok, known := may[d]
		if !known {
			nd, err := n.dirNode(ctx, d)
			ok = list(d.Parent()) && err == nil && n.require(ctx, &nd, read|execute) == nil
			may[d] = ok
		}
		return ok
	}
	return func(p core.Path) bool {
		if d := p.Parent(); d != last {
			last, sees = d, list(d)
		}
		return sees
	}
}

// pages walks the union from q on, asking the stores for what is not known or too old, until the end or until show returns
// false. What is shown of one page is of one moment: where a store had to be asked in the middle of it, the page is walked
// again from its beginning. So a rename shows one of its names in every listing of no more than listPage entries.
func (n *Namespace) pages(ctx context.Context, dir core.Path, q *meta.Query, show func(*meta.Item) bool) error {
	now := time.Now()
	q.NotBefore = func(store, _ string) time.Time {
		if m := n.mountOf(store); m != nil && m.err == nil {
			return m.oldest(ctx, now)
		}
		return time.Time{}
	}
	var last meta.Need
	for stuck, since := 0, now; stuck < maxLoads || time.Since(since) < maxChasing; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		page := *q
		if page.Limit <= 0 || page.Limit > listPage {
			page.Limit = listPage
		}
		items, need, done := n.union.Page(page)
		if need == nil {
			for i := range items {
				if !show(&items[i]) {
					return nil
				}
				q.After = items[i].Name
			}
			if done {
				return nil
			}
			stuck, since = 0, time.Now()
			continue
		}
		if stuck++; *need != last { // it gets on
			stuck, since, last = 0, time.Now(), *need
		}
		var err error
		if need.Pending != "" {
			err = n.settled(ctx, dir, need)
		} else {
			err = n.fill(ctx, dir, *need, q.NotBefore(need.Store, need.Dir))
		}
		if err != nil {
			return err
		}
	}
	return errs.New("namespace.List", dir.String(), errs.Conflict, "the directory changes faster than it can be listed; try again")
}

// settled waits for the change under way of a name of which nothing else is known.
func (n *Namespace) settled(ctx context.Context, dir core.Path, need *meta.Need) error {
	m := n.mountOf(need.Store)
	if m == nil {
		return errs.New("namespace.List", dir.String(), errs.Unavailable, "the mount is gone")
	}
	select {
	case <-m.derived.Settled(need.Pending):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (n *Namespace) fill(ctx context.Context, dir core.Path, need meta.Need, since time.Time) error {
	m := n.mountOf(need.Store)
	if m == nil {
		return errs.New("namespace.List", dir.String(), errs.Unavailable, "the mount is gone")
	}
	if core.MaxAgeOf(ctx).OnlyIfCached {
		return errs.New("namespace.List", dir.String(), errs.Unavailable, "only-if-cached: the listing is not known here")
	}
	return n.loadList(ctx, m, need, m.Path.Dir().Child(need.Dir), since)
}

// startOf returns where a walk of the directory at pl begins in both layers.
func (n *Namespace) startOf(pl *place) meta.Start {
	s := meta.Start{}
	s.Dir, s.InTree = pl.dirID()
	if !pl.hidden && pl.mount != nil && pl.mount.derived != nil {
		s.Store, s.Key, s.HasStore = pl.mount.ID, pl.key, true
	}
	return s
}

// lister makes nodes of the items of one walk.
type lister struct {
	n       *Namespace
	entries meta.Entries
	store   string // of the item before
	m       *mounted
	nd      node
}

// mount returns the mount of a store.
func (x *lister) mount(store string) *mounted {
	if x.m == nil || x.store != store {
		x.store = store
		if x.m = x.n.mountOf(store); x.m == nil {
			x.m = x.n.mountOf(rootID)
		}
	}
	return x.m
}

// node returns the node an item of a walk below dir stands for. It is good until the next call.
func (x *lister) node(dir core.Path, it *meta.Item) *node {
	path := dir.Child(it.Name)
	_, edge := path.Split()
	nd := &x.nd
	*nd = node{place: place{path: path, edge: edge, mount: x.mount(it.Store), key: it.Key, entry: x.entries.Of(it), inTree: it.Class != 0},
		row: it.Row, rowAt: it.At, cache: core.Hit}
	if it.Class != 0 {
		nd.check = it.At
	}
	return nd
}

// hasVisible reports whether anything is visible below the directory at pl.
func (n *Namespace) hasVisible(ctx context.Context, pl *place) (some bool, err error) {
	q := meta.Query{Start: n.startOf(pl), Children: true, Limit: 1}
	err = n.pages(ctx, pl.path, &q, func(*meta.Item) bool { some = true; return false })
	return some, err
}

// hasVisibleHeld is hasVisible, with facts learnt after the call began, for a caller that holds the directory's lock: what a
// listing says is gone from below cannot leave the overlay by itself meanwhile.
func (n *Namespace) hasVisibleHeld(ctx context.Context, pl *place) (some bool, err error) {
	ctx = core.WithMaxAge(ctx, core.MaxAge{Set: true})
	q := meta.Query{Start: n.startOf(pl), Children: true}
	x := lister{n: n}
	var ierr error
	err = n.pages(ctx, pl.path, &q, func(it *meta.Item) bool {
		child := x.node(pl.path, it)
		switch e := child.entry; {
		case child.persisted():
			_, ierr = n.lookupHeld(ctx, child.path, true)
			some = ierr == nil
			if errs.KindOf(ierr) == errs.NotExist {
				ierr = nil
			}
		case e != nil && !e.Explicit && !e.Marker && !e.Mount && child.row == nil:
			at := n.walk(child.path)
			some, ierr = n.hasVisibleHeld(ctx, &at)
		default:
			some = true
		}
		return !some && ierr == nil
	})
	return some, errors.Join(err, ierr)
}
