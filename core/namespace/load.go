package namespace

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/wait"
	"github.com/sluicefs/sluice/ufs"
)

// loadName asks the store about one name and records the answer. Concurrent requests share one call of a store that may keep
// them waiting; a request joins only a call sent after its own start.
func (n *Namespace) loadName(ctx context.Context, pl *place, since time.Time) error {
	m := pl.mount
	if m.err != nil {
		return m.unavailable()
	}
	if m.enter() {
		defer m.leave()
	}
	ask := func(ctx context.Context) error {
		sent := time.Now()
		f := m.derived.Sent(n.Seq(), sent)
		defer f.Done()
		if k := errs.KindOf(pl.checkName()); k == errs.Invalid || k == errs.Permission {
			f.Stat(pl.key, nil) // a name that the store cannot hold is not there
			return nil
		}
		info, err := m.store.Stat(ctx, pl.key)
		switch errs.KindOf(err) {
		case errs.NotExist, errs.NotDir:
			f.Stat(pl.key, nil)
		default:
			if err != nil {
				return err
			}
			row := rowOf(info)
			f.Stat(pl.key, &row)
			if e := pl.entry; e != nil && (e.Class == meta.Directory || sameVersion(e.Version, info.Version)) {
				n.checked(m, pl.parent, pl.edge, e.Version, sent)
				return nil
			}
		}
		return n.reconcile(ctx, pl.path, false)
	}
	if near(m) && !m.features.Network { // the call costs less than to let others share it
		return ask(ctx)
	}
	return n.shared(ctx, "stat\x00"+m.ID+"\x00"+pl.key, since, ask)
}

// flight is a store call that several requests wait for.
type flight struct{ sent time.Time }

// shared runs ask once for all who call it with the same name meanwhile. A call that was sent before since does not
// serve; then another is sent.
func (n *Namespace) shared(ctx context.Context, name string, since time.Time, ask func(context.Context) error) error {
	for {
		if ctx.Err() != nil { // nobody would wait for it
			return context.Cause(ctx)
		}
		ch := n.loads.DoChan(name, flown(ctx, ask))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case r := <-ch:
			if f := r.Val.(flight); !f.sent.Before(since) {
				return r.Err
			}
		}
	}
}

// flown returns what runs ask for all who wait for it, whether who has sent it still does or not.
func flown(ctx context.Context, ask func(context.Context) error) func() (any, error) {
	return func() (any, error) {
		sent := time.Now()
		return flight{sent}, ask(context.WithoutCancel(ctx))
	}
}

// loadBatch is how many rows of a flat listing one load takes: what an S3 page shows.
const loadBatch = 1000

// loadList runs the store listing that need asks for and records it. dir is the namespace path of need.Dir.
func (n *Namespace) loadList(ctx context.Context, m *mounted, need meta.Need, dir core.Path, since time.Time) error {
	if m.err != nil {
		return m.unavailable()
	}
	if m.enter() {
		defer m.leave()
	}
	name, ask := n.listFlight(m, need, dir)
	return n.shared(ctx, name, since, func(ctx context.Context) error {
		if need.Flat && n.stretches.came(m.ID, need, since) {
			return nil
		}
		return ask(ctx)
	})
}

// loadListOnce is loadList in the background, unless somebody has the same asked at the moment.
func (n *Namespace) loadListOnce(ctx context.Context, m *mounted, need meta.Need, dir core.Path) {
	name, ask := n.listFlight(m, need, dir)
	n.loads.DoChan(name, flown(ctx, func(ctx context.Context) error {
		sent := time.Now()
		if err := ask(ctx); err != nil {
			return err
		}
		n.stretches.arrived(m.ID, need, sent)
		return nil
	}))
}

// listFlight returns what asks for a listing and records it, and the name under which that is shared.
func (n *Namespace) listFlight(m *mounted, need meta.Need, dir core.Path) (name string, ask func(context.Context) error) {
	flat := need.Flat && m.flatAt(need.Dir)
	return "list\x00" + m.ID + "\x00" + need.Dir + "\x00" + need.After + strconv.FormatBool(flat), func(ctx context.Context) error {
		l, err := n.askList(ctx, m, need, dir)
		if err != nil {
			return err
		}
		defer l.flight.Done()
		n.stretches.note(m.ID, need, l)
		return n.takeList(ctx, m, need, dir, l)
	}
}

// askList asks the store for the names that need tells. What it returns has its flight open.
//
// An empty listing of a directory that had something in it is what a store shows, too, that has lost its disk, its rights or its
// mount below. It is believed only if the store shows the same a while later, and its root can be listed.
func (n *Namespace) askList(ctx context.Context, m *mounted, need meta.Need, dir core.Path) (*listed, error) {
	l, err := n.askOnce(ctx, m, need)
	if err != nil || !n.suspicious(m, need, dir, l) {
		return l, err
	}
	l.flight.Done()
	if err := n.confirm(ctx, m, dir); err != nil {
		return nil, err
	}
	return n.askOnce(ctx, m, need)
}

// confirm waits until it is time to ask again a store that shows nothing in the directory, and checks that its root can be listed.
func (n *Namespace) confirm(ctx context.Context, m *mounted, dir core.Path) error {
	if err := wait.For(ctx, n.o.ConfirmEmpty); err != nil {
		return err
	}
	if err := m.lists(ctx); err != nil {
		return errs.E("namespace.List", dir.String(), errs.Unavailable,
			fmt.Errorf("the store shows nothing in a directory that had names in it, and its root cannot be listed: %w", err))
	}
	return nil
}

// lists returns an error if the root of the mount's store cannot be listed.
func (m *mounted) lists(ctx context.Context) error {
	for _, err := range m.store.List(ctx, "", "", false) {
		return err
	}
	return nil
}

// flatAt reports whether everything below the store's directory is listed at once. Buckets of an account are listed one by one: one
// that may not be looked into keeps nobody from the others.
func (m *mounted) flatAt(key string) bool {
	return m.features.Flat && !(m.features.Buckets && key == "")
}

// askOnce is askList without a doubt.
func (n *Namespace) askOnce(ctx context.Context, m *mounted, need meta.Need) (l *listed, err error) {
	flat := need.Flat && m.flatAt(need.Dir)
	l = &listed{after: need.After, complete: true, deep: flat, dirs: m.features.Dirs, buckets: m.features.Buckets, sent: time.Now()}
	flight := m.derived.Sent(n.Seq(), l.sent)
	l.flight = flight
	defer func() {
		if err != nil {
			flight.Done()
		}
	}()
	if flat && need.After != "" { // where a part was full, the next mostly is
		l.names = make([]meta.NamedRow, 0, loadBatch)
	}
	for info, err := range m.store.List(ctx, need.Dir, need.After, flat) {
		if errs.KindOf(err) == errs.NotExist && m.features.Dirs {
			if need.Dir == "" {
				return nil, errs.New("namespace.List", m.URI, errs.Unavailable, "the root of the mount's store is not there; what was in it is not taken for removed")
			}
			l.gone = true
			return l, nil
		}
		if err != nil {
			return nil, err
		}
		l.names, l.last = append(l.names, meta.NamedRow{Name: info.Name, Row: rowOf(info)}), info.Name
		if m.features.Flat && len(l.names) >= loadBatch {
			l.complete = false
			break
		}
	}
	defer ufs.Turn(ctx)()
	l.rows = make(map[string]*meta.Row, len(l.names))
	for i := range l.names {
		l.rows[l.names[i].Name] = &l.names[i].Row
	}
	return l, nil
}

// suspicious reports whether the listing says that nothing is left of what was known to be in the directory.
func (n *Namespace) suspicious(m *mounted, need meta.Need, dir core.Path, l *listed) (doubt bool) {
	if l.gone || !l.complete || len(l.names) > 1 || len(l.names) == 1 && l.names[0].Name != need.Dir {
		return false
	}
	if l.after != "" { // nothing is left of what followed the part before
		m.derived.Files(need.Dir, l.after, "", true, l.deep, func(name string) bool {
			doubt = l.rows[name] == nil
			return !doubt
		})
		return doubt
	}
	if m.derived.Holds(need.Dir) {
		return true
	}
	if pl := n.walk(dir); pl.mount.is(m) {
		if id, ok := pl.dirID(); ok {
			n.tree.View(func(v meta.View) {
				for _, e := range v.Children(id, "") {
					if doubt = e.Class == meta.Persisted && e.StoreKey == ""; doubt {
						return
					}
				}
			})
		}
	}
	return doubt
}

// takeList takes over what a listing shows to have changed behind Sluice, and records what it told: last, so that nobody is shown
// as known what is not taken over yet. What became of a name is newer than the listing, and stays.
func (n *Namespace) takeList(ctx context.Context, m *mounted, need meta.Need, dir core.Path, l *listed) error {
	missed, err := n.takeNames(ctx, m, need, dir, l)
	if err != nil {
		return err
	}
	for _, x := range missed {
		if x.err != nil {
			return x.err
		}
	}
	return nil
}

// missed is a name of which it could not be found out what has become of it: err says why, nil that a change was under way.
type missed struct {
	path core.Path
	err  error
}

// takeNames is takeList that returns the names it could not compare. Who lists them next asks again: at once or, if a change was under
// way, when it is over.
func (n *Namespace) takeNames(ctx context.Context, m *mounted, need meta.Need, dir core.Path, l *listed) (all []missed, err error) {
	if l.gone {
		left, err := n.tryReconcile(ctx, dir, false)
		if err != nil {
			return nil, err
		}
		if left && n.skipped.add(dir, m, need.Dir) || !left {
			l.flight.Stat(need.Dir, nil)
		}
		if left {
			all = append(all, missed{path: dir})
		}
		return all, nil
	}
	if all, err = n.reconcileListed(ctx, m, need, dir, l); err != nil {
		return nil, err
	}
	for _, x := range all {
		name := need.Dir + strings.TrimPrefix(x.path.String(), dir.String())
		if x.err != nil || !n.skipped.add(x.path, m, name) {
			m.forgetListed(name)
		}
	}
	defer l.turn(ctx)()
	if l.deep {
		l.flight.ListFlat(need.Dir, need.After, l.last, l.names, l.complete)
	} else {
		l.flight.List(need.Dir, need.After, l.last, l.names, l.complete)
	}
	return all, nil
}

// maxRefused is how many names a store may refuse to tell of, for what another try may mend, before it is asked of no more.
const maxRefused = 8

// reconcileListed compares the overlay's entries of a directory, or with need.Flat of everything below it, with what a
// listing said. Those that differ are looked at again one by one, under their lock; it returns those that could not be.
func (n *Namespace) reconcileListed(ctx context.Context, m *mounted, need meta.Need, dir core.Path, l *listed) (all []missed, err error) {
	n.compare(need, dir, l)
	n.checkSame(m, l)
	var refused error
	for i, tries := 0, 0; i < len(l.differ); i++ {
		p, err := l.differ[i], refused
		if tries < maxRefused {
			var left bool
			if left, err = n.tryReconcile(ctx, p, false); err == nil && !left {
				continue
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if passes(err) {
				tries, refused = tries+1, err
			}
		}
		all = append(all, missed{p, err})
	}
	return all, nil
}

// compare has l compare what the overlay has of the directory, once.
func (n *Namespace) compare(need meta.Need, dir core.Path, l *listed) {
	if l.compared {
		return
	}
	l.compared = true
	pl := n.walk(dir)
	if id, ok := pl.dirID(); ok {
		n.tree.View(func(v meta.View) { l.compare(v, id, need.Dir, dir) })
	}
}

// checkSame notes that the entries which are what the store has were compared, once.
func (n *Namespace) checkSame(m *mounted, l *listed) {
	for _, u := range l.same {
		n.checked(m, u.dir, u.edge, u.version, l.sent)
	}
	l.same = nil
}

// listed is a store's listing of the names after the name after up to the name last, or of all if it is complete.
type listed struct {
	names       []meta.NamedRow
	rows        map[string]*meta.Row // of names
	after, last string
	complete    bool
	gone        bool // there is no such directory
	deep, dirs  bool // it is flat; the store has real directories
	buckets     bool // the store is an account

	flight *meta.Flight
	sent   time.Time
	turns  *turns // of a sync that asked for it, nil if a request did

	compared bool
	same     []checked
	differ   []core.Path
	mine     map[string]bool // names of which the overlay says more than the store, if not nil; a directory's with all below
}

// turn waits until whoever asked for the listing may work on it, and returns what must be called when he waits for something again.
func (l *listed) turn(ctx context.Context) (give func()) {
	if l.turns == nil {
		return func() {}
	}
	return l.turns.take(ctx)
}

// checked is an entry that is what the store has.
type checked struct {
	dir           meta.DirID
	edge, version string
}

// compare sorts the entries of the directory id, whose store name is key, into those that differ and those that do not.
func (l *listed) compare(v meta.View, id meta.DirID, key string, path core.Path) {
	from, _ := strings.CutPrefix(l.after, key) // what is before was told by the part before
	if !strings.HasPrefix(l.after, key) {
		from = ""
	}
	if i := strings.IndexByte(from, '/'); i >= 0 {
		from = from[:i+1]
	}
	entries := v.Stored // there may be very many others, and every change waits for this
	if l.mine != nil {
		entries = v.Children
	}
	for edge, e := range entries(id, from) {
		name := key + edge
		if !l.complete && name > l.last {
			return
		}
		if l.mine != nil && (e.Class != meta.Directory || e.Mount || e.Base.Kind != meta.Inherit) {
			l.mine[name] = true
		}
		if e.Class == meta.Directory {
			if e.Mount || e.Base.Kind != meta.Inherit {
				continue
			}
			gone := name > l.after && l.rows[name] == nil
			switch {
			case gone && l.buckets && bucketKey(name):
				l.differ = append(l.differ, path.Child(edge))
			case l.deep, gone && !l.dirs: // what the store has nothing of, it has nothing below of
				l.compare(v, e.Dir, name, path.Child(edge))
			case gone:
				l.differ = append(l.differ, path.Child(edge))
			}
			continue
		}
		if l.mine != nil && name > l.after && e.Class == meta.Persisted && e.StoreKey != "" {
			l.differ = append(l.differ, path.Child(edge)) // the listing does not tell of it
		}
		if name <= l.after || e.Class != meta.Persisted || e.StoreKey != "" {
			continue
		}
		if row := l.rows[name]; row != nil && sameVersion(e.Version, row.Version) {
			l.same = append(l.same, checked{id, edge, e.Version})
		} else {
			l.differ = append(l.differ, path.Child(edge))
		}
	}
}

// dirID returns the overlay id of the directory at pl.
func (pl *place) dirID() (meta.DirID, bool) {
	switch {
	case pl.path.IsRoot():
		return meta.RootDir, true
	case pl.entry != nil && pl.entry.Class == meta.Directory:
		return pl.entry.Dir, true
	}
	return 0, false
}

// reconcile compares the overlay's entry at p with its store and takes over what was changed behind Sluice: a file with
// another version gets a new revision, one that is gone leaves the overlay, and so does a directory of a store with real
// directories. If a change through Sluice is under way at p, that change decides and nothing is done; locked says that
// the caller holds p's lock and makes none.
func (n *Namespace) reconcile(ctx context.Context, p core.Path, locked bool) error {
	_, err := n.tryReconcile(ctx, p, locked)
	return err
}

// tryReconcile is reconcile, and says with left that nothing was compared because a change is under way.
func (n *Namespace) tryReconcile(ctx context.Context, p core.Path, locked bool) (left bool, err error) {
	if n.holding() {
		return false, nil // what the store says is shown beside the journal until it is released
	}
	pl := n.walk(p)
	e := pl.entry
	if e == nil || e.Mount || e.Class == meta.Local || pl.mount.err != nil || pl.hidden && e.Class != meta.Persisted {
		return false, nil
	}
	if e.Class == meta.Directory && (!pl.real() || n.mounts.Load().table.Below(p)) {
		return false, nil
	}
	if n.renaming(&pl) {
		return true, nil
	}
	if !locked {
		done, err := n.reconciling.lock(ctx, p) // another one makes no change: who does not wait for it serves what it replaces
		if err != nil {
			return false, err
		}
		defer done()
		unlock, ok := n.tryCompare(p)
		if !ok {
			return true, nil
		}
		defer unlock()
		if pl = n.walk(p); !reflect.DeepEqual(pl.entry, e) {
			return true, nil
		}
	}
	now := time.Now()
	f := pl.mount.derived.Sent(n.Seq(), now)
	defer f.Done()
	info, err := pl.mount.store.Stat(ctx, pl.key)
	gone := isGone(err)
	if err != nil && !gone {
		return false, err
	}
	parent := pl.parent
	switch {
	case gone && e.Class == meta.Directory && n.hasLocal(e.Dir):
		f.Stat(pl.key, nil) // it comes back with the files below it that the store has yet to get
		return false, n.reconcileBelow(ctx, e.Dir, p)
	case gone:
		f.Stat(pl.key, nil)
		ops := []meta.Op{{Kind: meta.Del, Dir: parent, Edge: pl.edge}}
		if e.Class == meta.Directory {
			ops = append(ops, meta.Op{Kind: meta.DropDir, Dir: e.Dir})
		}
		_, err = n.commit(ctx, ops...)
		return false, err
	case e.Class == meta.Directory || sameVersion(e.Version, info.Version):
		row := rowOf(info)
		f.Stat(pl.key, &row)
		n.checked(pl.mount, parent, pl.edge, e.Version, now)
		return false, nil
	}
	changed := *e
	changed.Version = info.Version
	if !ours(info, e) {
		if changed, err = n.foreign(ctx, e, info); err != nil {
			return false, err
		}
	}
	if _, err = n.commit(ctx, meta.Op{Kind: meta.Set, Dir: parent, Edge: pl.edge, Entry: changed}); err != nil {
		return false, err
	}
	row := rowOf(info)
	f.Stat(pl.key, &row)
	n.checked(pl.mount, parent, pl.edge, changed.Version, now)
	return false, nil
}

// checked notes that the entry's bytes were compared with what the store of m said when it was asked at the time at. That counts for
// nothing if the mount has taken another directory since: what it said is of the one before.
func (n *Namespace) checked(m *mounted, dir meta.DirID, edge, version string, at time.Time) {
	if n.mountOf(m.ID).is(m) {
		n.tree.MarkChecked(dir, edge, version, at)
	}
}

// reconcileBelow is reconcile for all that the directory dir, at p, holds. The caller holds its lock.
func (n *Namespace) reconcileBelow(ctx context.Context, dir meta.DirID, p core.Path) error {
	var edges []string
	n.tree.View(func(v meta.View) {
		for edge := range v.Children(dir, "") {
			edges = append(edges, edge)
		}
	})
	for _, edge := range edges {
		if err := n.reconcile(ctx, p.Child(edge), true); err != nil {
			return err
		}
	}
	return nil
}

// foreign returns the entry e after its bytes were replaced behind Sluice by what info says: a new revision that keeps
// owner and mode.
func (n *Namespace) foreign(ctx context.Context, e *meta.Entry, info ufs.Info) (meta.Entry, error) {
	rev, err := n.draw(ctx, &n.revs)
	if err != nil {
		return meta.Entry{}, err
	}
	return meta.Entry{
		Class: meta.Persisted, ID: e.ID, Rev: rev, Size: info.Size, Extents: wholeExtent(e.ID, rev, info.Size),
		ETag: etagOf(info), Version: info.Version, StoreKey: e.StoreKey, MTime: info.ModTime.UnixNano(), ATime: e.ATime,
		Owner: e.Owner, Group: e.Group, Mode: e.Mode, BlockSize: e.BlockSize, Replication: e.Replication,
		Headers: info.Attr.Headers, User: info.Attr.User, Checksums: info.Attr.Checksums,
	}, nil
}

func isGone(err error) bool {
	k := errs.KindOf(err)
	return err != nil && (k == errs.NotExist || k == errs.NotDir)
}

// sameVersion reports whether two versions of one store stand for the same bytes.
func sameVersion(a, b string) bool { return a == b && a != "" }

func rowOf(i ufs.Info) meta.Row {
	r := meta.Row{
		Dir: i.Dir, Marker: i.Marker, Full: i.Full, Racy: i.Racy, Size: i.Size, MTime: i.ModTime.UnixNano(), Version: i.Version,
		ETag: etagOf(i), Owner: i.Owner, Group: i.Group, Mode: i.Mode,
		Headers: i.Attr.Headers, User: i.Attr.User, Checksums: i.Attr.Checksums,
	}
	if i.ModTime.IsZero() {
		r.MTime = 0
	}
	if i.Attr.Owner != "" {
		r.Owner = i.Attr.Owner
	}
	if i.Attr.Group != "" {
		r.Group = i.Attr.Group
	}
	if i.Attr.Mode != 0 {
		r.Mode = i.Attr.Mode
	}
	return r
}

// etagOf returns the ETag of a file as its store tells it: the one acknowledged when it was written through Sluice, the
// store's own, or a tag derived from the version, with a "-" in it so that no client takes it for an MD5.
func etagOf(i ufs.Info) string {
	switch {
	case i.Dir:
		return ""
	case i.Attr.ETag != "":
		return i.Attr.ETag
	case i.ETag != "":
		return i.ETag
	}
	return derivedETag(i.Version)
}

func encodeChecksums(cs []core.Checksum) string {
	if len(cs) == 0 {
		return ""
	}
	b, _ := json.Marshal(cs) // strings only: cannot fail
	return string(b)
}

func decodeChecksums(s string) []core.Checksum {
	if s == "" {
		return nil
	}
	if c, ok := oneChecksum(s); ok {
		return []core.Checksum{c}
	}
	var all []core.Checksum
	if json.Unmarshal([]byte(s), &all) != nil {
		return nil
	}
	return all
}

// oneChecksum reads what encodeChecksums makes of a single plain checksum, which nearly every object has: a listing decodes
// a thousand of them.
func oneChecksum(s string) (c core.Checksum, ok bool) {
	rest, ok := strings.CutPrefix(s, `[{"Algorithm":"`)
	if !ok || strings.IndexByte(rest, '\\') >= 0 {
		return c, false
	}
	var more [3]bool
	c.Algorithm, rest, more[0] = strings.Cut(rest, `","Value":"`)
	c.Value, rest, more[1] = strings.Cut(rest, `","Type":"`)
	c.Type, rest, more[2] = strings.Cut(rest, `"`)
	return c, more == [3]bool{true, true, true} && rest == "}]"
}
