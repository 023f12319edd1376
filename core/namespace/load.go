package namespace

import (
	"context"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// loadName asks the store about one name and records the answer. Concurrent requests share one call; a request joins
// only a call sent after its own start.
func (n *Namespace) loadName(ctx context.Context, pl *place, since time.Time) error {
	m := pl.mount
	if m.err != nil {
		return m.unavailable()
	}
	return n.shared(ctx, "stat\x00"+m.ID+"\x00"+pl.key, since, func(ctx context.Context) error {
		sent := time.Now()
		f := m.derived.Sent(n.Seq(), sent)
		defer f.Done()
		if k := errs.KindOf(n.checkName(pl.path)); k == errs.Invalid || k == errs.Permission {
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
				n.tree.MarkChecked(pl.parent, pl.edge, e.Version, sent)
				return nil
			}
		}
		return n.reconcile(ctx, pl.path, false)
	})
}

// flight is a store call that several requests wait for.
type flight struct{ sent time.Time }

// shared runs ask once for all who call it with the same name meanwhile. A call that was sent before since does not
// serve; then another is sent.
func (n *Namespace) shared(ctx context.Context, name string, since time.Time, ask func(context.Context) error) error {
	for {
		ch := n.loads.DoChan(name, func() (any, error) {
			sent := time.Now()
			return flight{sent}, ask(context.WithoutCancel(ctx))
		})
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

// loadBatch is how many rows of a flat listing one load takes: what an S3 page shows.
const loadBatch = 1000

// loadList runs the store listing that need asks for and records it. dir is the namespace path of need.Dir.
func (n *Namespace) loadList(ctx context.Context, m *mounted, need meta.Need, dir core.Path, since time.Time) error {
	if m.err != nil {
		return m.unavailable()
	}
	flat := need.Flat && m.features.Flat
	return n.shared(ctx, "list\x00"+m.ID+"\x00"+need.Dir+"\x00"+need.After+strconv.FormatBool(flat), since, func(ctx context.Context) error {
		sent := time.Now()
		f := m.derived.Sent(n.Seq(), sent)
		defer f.Done()
		var rows []meta.NamedRow
		complete, last := true, ""
		for info, err := range m.store.List(ctx, need.Dir, need.After, flat) {
			if errs.KindOf(err) == errs.NotExist && m.features.Dirs {
				f.Stat(need.Dir, nil)
				return n.reconcile(ctx, dir, false)
			}
			if err != nil {
				return err
			}
			rows, last = append(rows, meta.NamedRow{Name: info.Name, Row: rowOf(info)}), info.Name
			if m.features.Flat && len(rows) >= loadBatch {
				complete = false
				break
			}
		}
		l := &listed{rows: make(map[string]*meta.Row, len(rows)), after: need.After, last: last, complete: complete, deep: flat, dirs: m.features.Dirs}
		for i := range rows {
			l.rows[rows[i].Name] = &rows[i].Row
		}
		if flat {
			f.ListFlat(need.Dir, need.After, last, rows, complete)
		} else {
			f.List(need.Dir, need.After, last, rows, complete)
		}
		return n.reconcileListed(ctx, need, dir, l, sent)
	})
}

// reconcileListed compares the overlay's entries of a directory, or with need.Flat of everything below it, with what a
// listing said. Those that differ are looked at again one by one, under their lock.
func (n *Namespace) reconcileListed(ctx context.Context, need meta.Need, dir core.Path, l *listed, sent time.Time) error {
	pl := n.walk(dir)
	id, ok := pl.dirID()
	if !ok {
		return nil
	}
	n.tree.View(func(v meta.View) { l.compare(v, id, need.Dir, dir) })
	for _, u := range l.same {
		n.tree.MarkChecked(u.dir, u.edge, u.version, sent)
	}
	for _, p := range l.differ {
		if err := n.reconcile(ctx, p, false); err != nil {
			return err
		}
	}
	return nil
}

// listed is a store's listing of the names after the name after up to the name last, or of all if it is complete.
type listed struct {
	rows        map[string]*meta.Row
	after, last string
	complete    bool
	deep, dirs  bool // it is flat; the store has real directories

	same   []checked
	differ []core.Path
}

// checked is an entry that is what the store has.
type checked struct {
	dir           meta.DirID
	edge, version string
}

// compare sorts the entries of the directory id, whose store name is key, into those that differ and those that do not.
func (l *listed) compare(v meta.View, id meta.DirID, key string, path core.Path) {
	for edge, e := range v.Children(id, "") {
		name := key + edge
		if !l.complete && name > l.last {
			return
		}
		if e.Class == meta.Directory {
			if e.Mount || e.Base.Kind != meta.Inherit {
				continue
			}
			gone := name > l.after && l.rows[name] == nil
			switch {
			case l.deep, gone && !l.dirs: // what the store has nothing of, it has nothing below of
				l.compare(v, e.Dir, name, path.Child(edge))
			case gone:
				l.differ = append(l.differ, path.Child(edge))
			}
			continue
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
	if n.holding() {
		return nil // what the store says is shown beside the journal until it is released
	}
	pl := n.walk(p)
	e := pl.entry
	if e == nil || e.Mount || pl.mount.err != nil || pl.hidden && e.Class != meta.Persisted {
		return nil
	}
	if e.Class == meta.Directory && (!pl.mount.features.Dirs || n.mounts.Load().table.Below(p)) || n.renaming(&pl) {
		return nil
	}
	if !locked {
		unlock, ok := n.locks.tryLock(p)
		if !ok {
			return nil
		}
		defer unlock()
		if pl = n.walk(p); !reflect.DeepEqual(pl.entry, e) {
			return nil
		}
	}
	now := time.Now()
	f := pl.mount.derived.Sent(n.Seq(), now)
	defer f.Done()
	info, err := pl.mount.store.Stat(ctx, pl.key)
	gone := isGone(err)
	if err != nil && !gone {
		return err
	}
	parent := pl.parent
	switch {
	case gone:
		f.Stat(pl.key, nil)
		ops := []meta.Op{{Kind: meta.Del, Dir: parent, Edge: pl.edge}}
		if e.Class == meta.Directory {
			ops = append(ops, meta.Op{Kind: meta.DropDir, Dir: e.Dir})
		}
		_, err = n.commit(ctx, ops...)
		return err
	case e.Class == meta.Directory || sameVersion(e.Version, info.Version):
		row := rowOf(info)
		f.Stat(pl.key, &row)
		n.tree.MarkChecked(parent, pl.edge, e.Version, now)
		return nil
	}
	changed := *e
	changed.Version = info.Version
	if !ours(info, e) {
		if changed, err = n.foreign(ctx, e, info); err != nil {
			return err
		}
	}
	if _, err = n.commit(ctx, meta.Op{Kind: meta.Set, Dir: parent, Edge: pl.edge, Entry: changed}); err != nil {
		return err
	}
	row := rowOf(info)
	f.Stat(pl.key, &row)
	n.tree.MarkChecked(parent, pl.edge, changed.Version, now)
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
		Dir: i.Dir, Marker: i.Marker, Full: i.Full, Size: i.Size, MTime: i.ModTime.UnixNano(), Version: i.Version,
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
