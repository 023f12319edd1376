package namespace

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// Stat implements core.Namespace.
func (n *Namespace) Stat(ctx context.Context, p core.Path) (i core.Info, err error) {
	n.syncs.turns.request()
	if n.statKnown(ctx, p, &i) {
		return i, nil
	}
	ctx = n.looking(ctx, looksUp)
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
	n.tell(&i, &nd, nil)
	return i, nil
}

// statKnown is Stat for what most requests ask for: a file that the overlay tells all of, in directories that it tells all of
// too. It reports false, and says nothing, where that is not so or where it could not say what Stat has to.
func (n *Namespace) statKnown(ctx context.Context, p core.Path, i *core.Info) bool {
	if p.Either() || p.IsDir() || p.IsZero() || n.holding() {
		return false
	}
	dir, edge := p.Split()
	who := core.PrincipalOf(ctx)
	var m *mounted
	var f meta.File
	var class meta.Class
	var check time.Time
	n.tree.View(func(v meta.View) {
		var room way
		if w := n.wayTo(v, dir.String(), &room); w.inTree && (who.Super || w.lets(who)) {
			if m = w.mount; m == nil || m.err != nil {
				return
			}
			check, class = v.Glance(w.door, edge, &f)
		}
	})
	if m == nil || m.NoAccess {
		return false
	}
	if class == meta.Persisted && f.Plain() {
		if owner, group, mode := f.Owner(); owner == "" || group == "" || mode == 0 || n.tooOld(ctx, m, p.String(), check) {
			return false
		}
		tellPlain(i, m, &f, check, nil)
		i.Path, i.Name = p, edge
		return true
	}
	if class != meta.Persisted && class != meta.Local {
		return false
	}
	x := statRooms.Get().(*statRoom)
	defer statRooms.Put(x)
	x.nd = node{place: place{path: p, edge: edge, entry: &x.e, mount: m, check: check}, cache: core.Hit}
	f.Brief(&x.e)
	if !x.nd.told() || n.stale(ctx, &x.nd.place) {
		return false
	}
	n.tell(i, &x.nd, nil)
	return true
}

// statRoom is what statKnown works with where a file is not a plain one.
type statRoom struct {
	nd node
	e  meta.Entry
}

var statRooms = sync.Pool{New: func() any { return new(statRoom) }}

// tellPlain makes i describe a file of m as tell does, but for its names. What text has to be made is in t, if that is not nil.
func tellPlain(i *core.Info, m *mounted, f *meta.File, check time.Time, t *meta.Text) {
	*i = core.Info{}
	i.Owner, i.Group, i.Mode = f.Owner()
	if i.Owner == "" || i.Group == "" || i.Mode == 0 {
		o := m.ownedFile().with(i.Owner, i.Group, i.Mode)
		i.Owner, i.Group, i.Mode = o.owner, o.group, o.mode
	}
	i.Mode &= 0o1777
	i.Children = -1
	i.Mount, i.ReadOnly, i.Cache = m.Path.String(), m.ReadOnly, core.Hit
	i.ID, i.Size = f.ID, f.Size
	i.ModTime, i.AccessTime = unixNano(f.MTime), unixNano(f.ATime)
	blocks, replication := f.Blocks()
	i.BlockSize, i.Replication = blocks, int(replication)
	i.Age = age(check)
	var stack [128]byte
	text := f.AppendETag(stack[:0])
	n := len(text)
	text = appendOrigin(text, f.ID, f.Rev)
	var kept string
	if t == nil {
		kept = string(text)
	} else {
		kept = t.Keep(text)
	}
	i.ETag, i.Version = kept[:n], kept[n:]
	defaultBlocks(i)
}

// complete fetches what a listing could not say of a file.
func (n *Namespace) complete(ctx context.Context, nd *node, has holding) error {
	if nd.dir() || nd.entry != nil || nd.row == nil || nd.row.Full {
		return nil
	}
	if core.MaxAgeOf(ctx).OnlyIfCached {
		return errs.New("namespace.Stat", nd.path.String(), errs.Unavailable, "only-if-cached: not all of the file's attributes are known here")
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
func (n *Namespace) infoOf(nd *node) (i core.Info) {
	n.tell(&i, nd, nil)
	return i
}

// tell makes i describe a node. What text has to be made is in t, if that is not nil.
func (n *Namespace) tell(i *core.Info, nd *node, t *meta.Text) {
	o := n.ownedOf(nd)
	*i = core.Info{
		Path: nd.path, Name: nd.edge, Dir: nd.dir(), Owner: o.owner, Group: o.group, Mode: o.mode, Children: -1,
		Mount: nd.mount.Path.String(), ReadOnly: nd.mount.ReadOnly, Cache: nd.cache,
	}
	e, r := nd.entry, nd.row
	switch {
	case nd.path.IsRoot():
		i.ID, i.MountPoint, i.ModTime, i.AccessTime = uint64(meta.RootDir), true, unixNano(0), unixNano(0)
	case nd.file():
		i.ID, i.Size, i.ETag = e.ID, e.Size, e.ETag
		if t == nil {
			i.Version = origin(e.ID, e.Rev)
		} else {
			var stack [33]byte
			i.Version = t.Keep(appendOrigin(stack[:0], e.ID, e.Rev))
		}
		i.ModTime, i.AccessTime = time.Unix(0, e.MTime), time.Unix(0, e.ATime)
		i.BlockSize, i.Replication = e.BlockSize, int(e.Replication)
		i.Headers, i.User, i.Checksums, i.Parts = e.Headers, e.User, decodeChecksums(e.Checksums), unpackParts(e.Parts)
		if nd.persisted() {
			i.Age = age(nd.check)
		}
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
		return
	}
	defaultBlocks(i)
}

// defaultBlocks fills in what a file's entry does not say of its blocks.
func defaultBlocks(i *core.Info) {
	if i.BlockSize == 0 {
		i.BlockSize = defaultBlock
	}
	if i.Replication == 0 {
		i.Replication = 1
	}
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
		var t meta.Text
		err := n.list(ctx, d, o, func(x *lister) bool {
			var i core.Info
			if x.it.CommonPrefix {
				i.Name, i.CommonPrefix = x.it.Name, true
			} else {
				x.tell(&i, &t)
			}
			return yield(i, nil)
		})
		if err != nil {
			yield(core.Info{}, err)
		}
	}
}

// list calls show for each entry of the directory until it returns false.
func (n *Namespace) list(ctx context.Context, dir core.Path, o core.ListOptions, show func(*lister) bool) error {
	ctx = n.looking(ctx, lists)
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
	if err := nd.mount.denies(dir); err != nil {
		return err
	}
	may, denied := n.sight(ctx, dir), n.denied()
	sees := func(d core.Path) bool { return !denied(d) && may(d) }
	left := o.Limit
	x := lister{n: n, dir: dir}
	q := meta.Query{Start: n.startOf(&nd.place), Path: dir.String(), Prefix: o.Prefix, Delimiter: o.Delimiter, After: o.After,
		Children: o.Children, HideShadowed: o.HideShadowed, Limit: left}
	var ierr error
	there := func(since time.Time) error {
		_, err := n.lookupSince(ctx, dir, free, func(m *mounted, _ time.Time) time.Time { return n.oldest(ctx, m, dir.String(), since) })
		return err
	}
	err = n.pages(ctx, dir, &q, there, func(it *meta.Item) bool {
		x.at(it)
		if it.CommonPrefix {
			if prefix, err := dir.Join(it.Name); err != nil || !sees(prefix.Parent()) {
				return true
			}
		} else {
			if !o.Children && !sees(x.parent()) {
				return true
			}
			if it.Class != 0 && n.holding() {
				var now node
				if now, ierr = n.lookup(ctx, x.path); errs.KindOf(ierr) == errs.NotExist {
					ierr = nil
					return true
				}
				if ierr != nil {
					return false
				}
				x.now = &now
			}
		}
		if !show(&x) {
			return false
		}
		left--
		q.Limit = left
		return left != 0
	})
	return errors.Join(err, ierr)
}

// sight returns what tells whether the principal may see the names in a directory at any depth below dir, which he may list:
// whether he may list it and all directories between. What he may not see is left out of a listing of keys, as if it were not there.
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
	return func(d core.Path) bool {
		if d != last {
			last, sees = d, list(d)
		}
		return sees
	}
}

// pages walks the union from q on, asking the stores for what is not known or too old, until the end or until show returns
// false. What is shown of one page is of one moment: where a store had to be asked in the middle of it, the page is walked
// again from its beginning, and from where the directory is by then. So a rename shows one of its names in every listing of
// no more than listPage entries. there, if not nil, is asked whether the directory is there, by facts learnt at the time it is
// given or later, where it may have gone since q.Start was found: its error ends the walk.
func (n *Namespace) pages(ctx context.Context, dir core.Path, q *meta.Query, there func(time.Time) error, show func(*meta.Item) bool) error {
	n.askSkipped(dir)
	now := time.Now()
	var at meta.Start
	q.Find = func(v meta.View) meta.Start {
		pl := n.walkIn(v, dir)
		at = n.startOf(&pl)
		return at
	}
	shown, waited := false, false // waited: for a store, since the directory was last known to be there
	how := looksOf(ctx)
	var stale map[string]bool // mounts whose stores are not asked: what is known of them is shown
	q.NotBefore = func(store, key string) time.Time {
		if m := n.mountOf(store); m != nil && m.err == nil {
			if stale[store] {
				return n.oldestStaleList(ctx, m, m.Path.Dir().String()+key, now)
			}
			if how == 0 && !n.byPath() {
				return n.oldest(ctx, m, "", now)
			}
			dir := m.Path.Dir().String() + key
			at := n.oldestList(ctx, m, dir, now)
			if how == lists {
				b := n.bounds(ctx, m, dir, at, now)
				return b.since()
			}
			return at
		}
		return time.Time{}
	}
	if how != 0 {
		q.Covered = func(store, key string) bool {
			m := n.mountOf(store)
			if m == nil {
				return false
			}
			dir := m.Path.Dir().String() + key
			return n.bounds(ctx, m, dir, n.oldestList(ctx, m, dir, now), now).known
		}
	}
	room, used := itemRooms.Get().(*[]meta.Item), 0
	defer func() {
		clear((*room)[:used]) // what they refer to is not needed any more
		itemRooms.Put(room)
	}()
	var last meta.Need
	whole := q.After == ""
	for stuck, since := 0, now; stuck < maxLoads || time.Since(since) < maxChasing; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		page := *q
		if page.Limit <= 0 || page.Limit > listPage {
			page.Limit = listPage
		}
		page.Room = *room
		items, need, done := n.union.Page(page)
		*room, used = items[:0], max(used, len(items))
		if need == nil {
			if there != nil && (at != q.Start || waited && !shown && len(items) == 0) {
				if err := there(now); err != nil {
					return err
				}
				stuck, waited, q.Start = stuck+1, false, at
				continue
			}
			for i := range items {
				if !show(&items[i]) {
					n.loadAhead(ctx, q, &items[i])
					return nil
				}
				q.After, shown = items[i].Name, true
			}
			if done {
				if len(stale) > 0 && whole && !shown { // an outage must not look like an empty directory
					return n.notListed(dir, stale)
				}
				return nil
			}
			stuck, since = 0, time.Now()
			continue
		}
		if stuck++; *need != last { // it gets on
			stuck, since, last = 0, time.Now(), *need
		}
		if n.goesStale(need, &stale) {
			continue
		}
		waited = true
		var err error
		if need.Pending != "" {
			err = n.settled(ctx, dir, need)
		} else {
			err = n.fill(ctx, dir, *need, q.NotBefore(need.Store, need.Dir))
		}
		if err != nil && n.goesStale(need, &stale) { // it was found not to answer meanwhile
			continue
		}
		if err != nil {
			return err
		}
	}
	return errs.New("namespace.List", dir.String(), errs.Conflict, "the directory changes faster than it can be listed; try again")
}

// itemRooms are what pages are made in.
var itemRooms = sync.Pool{New: func() any { return new([]meta.Item) }}

// settled waits for the change under way of a name of which nothing else is known.
func (n *Namespace) settled(ctx context.Context, dir core.Path, need *meta.Need) error {
	m := n.mountOf(need.Store)
	if m == nil {
		return errs.New("namespace.List", dir.String(), errs.Unavailable, "the mount is gone")
	}
	return n.awaitSettled(ctx, &place{path: dir, mount: m, key: need.Pending})
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

// lister tells of the items of one walk, one after the other.
type lister struct {
	n       *Namespace
	dir     core.Path // where the walk starts
	entries meta.Entries
	store   string // of the item before
	m       *mounted

	it   *meta.Item
	path core.Path // of it
	now  *node     // what it is by now, if that has been looked up
	nd   node
	f    meta.File
}

// at makes it the item to tell of.
func (x *lister) at(it *meta.Item) {
	x.it, x.path, x.now = it, x.dir.Below(it.Path), nil
}

// parent returns the directory of the item.
func (x *lister) parent() core.Path {
	return x.dir.Below(x.it.Path[:len(x.it.Path)-len(x.it.Name)+x.it.Edge])
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

// node returns the node the item stands for. It is good until the next item.
func (x *lister) node() *node {
	if x.now != nil {
		return x.now
	}
	it, nd := x.it, &x.nd
	nd.path, nd.edge = x.path, it.Name[it.Edge:]
	nd.mount, nd.key, nd.entry, nd.inTree = x.mount(it.Store), it.Key, x.entries.Of(it), it.Class != 0
	nd.row, nd.rowAt, nd.check, nd.cache = it.Row, it.At, time.Time{}, core.Hit
	if it.Class != 0 {
		nd.check = it.At
	}
	return nd
}

// tell makes i describe the item, which is no common prefix.
func (x *lister) tell(i *core.Info, t *meta.Text) {
	if x.now == nil && x.it.File(&x.f) {
		tellPlain(i, x.mount(x.it.Store), &x.f, x.it.At, t)
		i.Path = x.path
	} else {
		x.n.tell(i, x.node(), t)
	}
	i.Name = x.it.Name
}

// hasVisible reports whether anything is visible below the directory at pl.
func (n *Namespace) hasVisible(ctx context.Context, pl *place) (some bool, err error) {
	q := meta.Query{Children: true, Limit: 1}
	err = n.pages(ctx, pl.path, &q, nil, func(*meta.Item) bool { some = true; return false })
	return some, err
}

// hasVisibleHeld is hasVisible, with facts learnt after the call began, for a caller that holds the directory's lock: what a
// listing says is gone from below cannot leave the overlay by itself meanwhile.
func (n *Namespace) hasVisibleHeld(ctx context.Context, pl *place) (some bool, err error) {
	ctx = core.WithMaxAge(ctx, core.MaxAge{Set: true})
	q := meta.Query{Children: true, Path: pl.path.String()}
	x := lister{n: n, dir: pl.path}
	var ierr error
	err = n.pages(ctx, pl.path, &q, nil, func(it *meta.Item) bool {
		x.at(it)
		child := x.node()
		switch e := child.entry; {
		case child.local():
			some = true
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
