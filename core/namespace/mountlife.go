package namespace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/mount"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs"
)

// mayChangeTable reports whether who asks may change the mount table now.
func (n *Namespace) mayChangeTable(ctx context.Context) error {
	if err := n.admin(ctx); err != nil {
		return err
	}
	return n.held()
}

// denies reports errs.Permission if the mount lets nobody see what is in it.
func (m *mounted) denies(p core.Path) error {
	if m == nil || !m.NoAccess {
		return nil
	}
	return core.AccessRefused(p, m.Path, core.AccessNone)
}

// refuses reports errs.Permission if nothing in the mount may be changed.
func (m *mounted) refuses(p core.Path) error {
	if !m.ReadOnly {
		return nil
	}
	return core.AccessRefused(p, m.Path, m.Access())
}

// denied reports whether what is in the directory is in a mount that lets nobody see it.
func (n *Namespace) denied() func(core.Path) bool {
	if !n.mounts.Load().table.Closed() {
		return func(core.Path) bool { return false }
	}
	var last core.Path
	hidden := false
	return func(d core.Path) bool {
		if d != last {
			m := n.walk(d.Dir()).mount
			last, hidden = d, m != nil && m.NoAccess
		}
		return hidden
	}
}

// retireAfter is how long a store that was replaced stays open for who still reads from it or writes to it: longer than one file takes.
// What is idle in it costs little.
const retireAfter = 24 * time.Hour

// retire closes a store that nothing new is asked of. n.mountMu must be held.
func (n *Namespace) retire(s ufs.Store) {
	if s == nil {
		return
	}
	n.retired = slices.DeleteFunc(n.retired, func(r *retired) bool { return r.closed.Load() })
	r := &retired{store: s}
	r.timer = time.AfterFunc(retireAfter, func() {
		if err := r.close(); err != nil {
			n.o.Logger.Warn("a store that was replaced could not be closed", "err", err)
		}
	})
	n.retired = append(n.retired, r)
}

// retired is a store that was replaced.
type retired struct {
	store  ufs.Store
	timer  *time.Timer
	closed atomic.Bool
}

func (r *retired) close() error {
	if r.closed.Swap(true) {
		return nil
	}
	r.timer.Stop()
	return r.store.Close()
}

// tableChange is how one of perhaps several changes of the mount table is made.
type tableChange struct {
	core.LifeOptions
	table *mount.Table // that counts: a dry run of several changes carries on what those before would have made of it
	root  string       // that a store must have which is mounted again, "" for any
	is    string       // Features.Is of that store, as far as it was kept
	again bool         // what is mounted was mounted before: nothing is made in its place
}

// sameRoot reports errs.Invalid if the store is remote and not the one that is to be mounted again, and a *replacedError if another
// directory is at its place: the bare one where its disk is not mounted, say; cf. openAgain.
func (t *tableChange) sameRoot(store ufs.Store, s core.MountSpec) error {
	f := store.Features()
	if f.Remote {
		if err := sameRoot(t.root, store, s); err != nil {
			return err
		}
	}
	if ufs.SameRoot(t.is, f.Is) {
		return nil
	}
	return replaced(f, t.is, "try again, or, if it was moved or restored on purpose, mount this one by hand with: sluice "+t.byHand(s))
}

// byHand is the command that mounts s whatever is there.
func (t *tableChange) byHand(s core.MountSpec) string {
	if t.table.At(s.Path) != nil {
		return "mount update " + s.Path.File().String() + " --uri " + s.URI
	}
	return "mount add " + s.Path.File().String() + " " + s.URI
}

// AddMount implements core.MountLife.
func (n *Namespace) AddMount(ctx context.Context, s core.MountSpec, o core.LifeOptions) (core.MountReport, error) {
	if err := n.mayChangeTable(ctx); err != nil {
		return core.MountReport{}, err
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	return n.addHeld(ctx, s, &tableChange{LifeOptions: o, table: n.mounts.Load().table})
}

// EditMount implements core.MountLife.
func (n *Namespace) EditMount(ctx context.Context, p core.Path, c core.MountEdit, o core.LifeOptions) (core.MountReport, error) {
	if err := n.admin(ctx); err != nil {
		return core.MountReport{}, err
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	set := n.mounts.Load()
	m := set.table.At(p)
	if m == nil {
		return core.MountReport{}, notMounted(p)
	}
	return n.editHeld(ctx, set.byID[m.ID], c, &tableChange{LifeOptions: o, table: set.table})
}

// RemoveMount implements core.MountLife.
func (n *Namespace) RemoveMount(ctx context.Context, p core.Path, o core.LifeOptions) (core.MountReport, error) {
	if err := n.mayChangeTable(ctx); err != nil {
		return core.MountReport{}, err
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	return n.removeHeld(ctx, p.Dir(), &tableChange{LifeOptions: o, table: n.mounts.Load().table})
}

// unfinished is what would be lost with a mount.
type unfinished struct{ held, intents, carries, uploads int }

// unfinishedIn returns what is unfinished in the mount at the place, whose lock is held, or which may change
// meanwhile; what is mounted below it does not count.
func (n *Namespace) unfinishedIn(id string, point *place) (u unfinished) {
	n.tree.View(func(v meta.View) {
		if dir, ok := point.dirID(); ok && v.HasLocal(dir) {
			u.held = countLocal(v, dir)
		}
		for edge, e := range v.Children(meta.IntentsDir, "") {
			switch in, err := intentOf(edge, e); {
			case err != nil || in.store != id:
			case in.op == opCarry:
				u.carries++
			default:
				u.intents++
			}
		}
		for _, e := range v.Children(meta.UploadsDir, "") {
			if e.Extra["mount"] == id {
				u.uploads++
			}
		}
	})
	return u
}

func countLocal(v meta.View, dir meta.DirID) (count int) {
	for _, e := range v.Children(dir, "") {
		switch {
		case e.Class == meta.Local:
			count++
		case e.Class == meta.Directory && !e.Mount:
			count += countLocal(v, e.Dir)
		}
	}
	return count
}

// each says what is unfinished.
func (u unfinished) each() (all []string) {
	for _, x := range []struct {
		count int
		what  string
	}{
		{u.held, "files that workers hold and the store does not have yet"}, {u.intents, "changes that wait for an answer of the store"},
		{u.carries, "acknowledged renames that the store has under the old name, whole or in part"},
		{u.uploads, "multipart uploads that are open"},
	} {
		if x.count > 0 {
			all = append(all, fmt.Sprintf("%d %s", x.count, x.what))
		}
	}
	return all
}

// giveUp returns what is given up of what is unfinished, or errs.Busy without force.
func (u unfinished) giveUp(op string, p core.Path, force bool) ([]string, error) {
	all := u.each()
	if len(all) > 0 && !force {
		return nil, errs.New(op, p.String(), errs.Busy, "it has "+strings.Join(all, ", ")+
			"; persist or remove, wait for, complete or abort them, or force it, which gives them up")
	}
	for i := range all {
		all[i] = "gave up " + all[i]
	}
	return all, nil
}

// removeHeld is RemoveMount. n.mountMu must be held. A dry run waits for no writer, and has none wait.
func (n *Namespace) removeHeld(ctx context.Context, p core.Path, o *tableChange) (r core.MountReport, err error) {
	m, err := removable(o.table, p)
	if err != nil {
		return r, err
	}
	if !o.DryRun {
		point := n.walk(p)
		if _, err := n.unfinishedIn(m.ID, &point).giveUp("namespace.Unmount", p, o.Force); err != nil { // before anybody waits
			return r, err
		}
		lift, err := n.barRemovals(ctx, m)
		if err != nil {
			return r, err
		}
		defer lift()
		unlock, err := n.locks.lock(ctx, p)
		if err != nil {
			return r, err
		}
		defer unlock()
	}
	point := n.walk(p)
	if r.GaveUp, err = n.unfinishedIn(m.ID, &point).giveUp("namespace.Unmount", p, o.Force); err != nil {
		return r, err
	}
	r.Mount, r.Did = n.describe(m), []string{"unmounted " + p.File().String() + " (" + m.URI + "); the store is left as it is"}
	if o.DryRun {
		o.table = o.table.Without(m.ID)
		return r, nil
	}
	return r, n.detach(ctx, m, point)
}

// sameServer reports whether two mounts send their credentials to the same server.
func sameServer(a, b core.MountSpec) bool {
	u, uerr := url.Parse(a.URI)
	w, werr := url.Parse(b.URI)
	if uerr != nil || werr != nil || u.Scheme != w.Scheme || a.Options["endpoint"] != b.Options["endpoint"] || a.Options["namenodes"] != b.Options["namenodes"] {
		return false
	}
	return u.Scheme == "s3" || u.Scheme == "gs" || u.Scheme == "file" || u.Host == w.Host // of the former the host is no server
}

// editedPolicies returns the mount with its policies changed.
func editedPolicies(was core.MountSpec, c core.MountEdit) (core.MountSpec, error) {
	s := was
	apply(&s.ReadOnly, c.ReadOnly)
	s.NoAccess = s.NoAccess && s.ReadOnly
	if c.Access != nil {
		if !c.Access.Known() {
			return s, errs.New("namespace.Mounts", string(*c.Access), errs.Invalid, "access is noAccess, readOnly or readWrite")
		}
		s.SetAccess(*c.Access)
		if c.ReadOnly != nil && *c.ReadOnly != s.ReadOnly {
			return s, errs.New("namespace.Mounts", s.Path.String(), errs.Invalid, "read_only and access contradict each other; name one of them")
		}
	}
	apply(&s.Owner, c.Owner)
	apply(&s.Group, c.Group)
	apply(&s.Mode, c.Mode)
	apply(&s.WriteType, c.WriteType)
	apply(&s.ReadType, c.ReadType)
	apply(&s.Replicas, c.Replicas)
	apply(&s.ReplicationMax, c.ReplicationMax)
	apply(&s.LoadType, c.LoadType)
	if low := c.ReplicationMin; low != nil {
		if s.ReplicationMin = low; *low == core.DefaultCopies {
			s.ReplicationMin = nil
		}
	}
	if c.PersistDelay != nil {
		s.PersistDelay = c.PersistDelay
	}
	if c.SyncInterval != nil {
		s.SyncInterval = c.SyncInterval
	}
	if c.DefaultPersistDelay {
		s.PersistDelay = nil
	}
	if c.DefaultSyncInterval {
		s.SyncInterval = nil
		if s.Path == core.Root {
			s.SyncInterval = neverSynced()
		}
	}
	return s, checkPolicies(&s)
}

// editHeld is EditMount of the mount was. n.mountMu must be held.
func (n *Namespace) editHeld(ctx context.Context, was *mounted, c core.MountEdit, o *tableChange) (r core.MountReport, err error) {
	if err := checkOptions(c.Options); err != nil {
		return r, err
	}
	s, err := editedPolicies(was.MountSpec, c)
	if err != nil {
		return r, err
	}
	options := maps.Clone(s.Options)
	if options == nil {
		options = map[string]string{}
	}
	maps.Copy(options, c.Options)
	maps.DeleteFunc(options, func(_, v string) bool { return v == "" })
	switch other := c.URI != nil && *c.URI != was.URI || options["endpoint"] != was.Options["endpoint"]; {
	case c.Adopt && other:
		return r, errs.New("namespace.AdoptMount", s.Path.String(), errs.Invalid, "what is adopted is at the URI that the mount has; a switch to another is asked for alone")
	case c.Adopt:
		s.Options = options
		return n.adoptHeld(ctx, was, s, o)
	case c.URI != nil && other:
		s.URI, s.Options = *c.URI, options
		return n.switchHeld(ctx, was, s, c.Options, o)
	case c.URI != nil: // as asked for already, unless something else is there by now
		if err := n.inPlace(ctx, was); err != nil {
			return r, err
		}
	}
	set := n.mounts.Load()
	if m := o.table.Without(was.ID).Overlaps(was.Root); m != nil && !s.ReadOnly && was.ReadOnly {
		return r, errs.New("namespace.Mounts", s.Path.String(), errs.Invalid, "its store overlaps that of the writable mount "+m.Path.String())
	}
	var fresh ufs.Store
	if c.Options != nil && (was.err != nil || was.renew != nil || !maps.Equal(options, was.Options)) {
		if fresh, err = n.reoption(ctx, was, s, options); err != nil {
			return r, err
		}
		s.Options = options
	}
	m := n.withDefaults(was.ID, s, was.Root)
	m.Is, m.Taken = was.Is, was.Taken
	if fresh != nil && was.ID != rootID {
		m.Root = rootOf(fresh, s)
	}
	changed := whatChanged(was.Mount, m)
	if len(changed) == 0 && fresh == nil { // the start of a process sets what the configuration says, mostly again
		return core.MountReport{Mount: n.describe(was.Mount), Did: []string{"the mount " + m.Path.File().String() + " is as asked for already"}}, nil
	}
	if len(changed) == 0 {
		changed = []string{"its store opened again"}
	}
	r.Did = []string{"changed the mount " + m.Path.File().String() + ": " + strings.Join(changed, ", ")}
	if o.DryRun {
		r.Mount, o.table = n.describe(m), o.table.With(m)
		return r, closeStore(fresh)
	}
	x, err := n.revisedMount(was.Mount, m)
	kept, kerr := n.keep(m)
	if err = errors.Join(err, kerr); err == nil {
		err = n.journalTable(ctx, meta.Batch{Puts: []meta.KeyValue{{Key: mountPrefix + was.ID, Value: kept}}}, r.Did[0], x)
	}
	if err != nil {
		return r, errors.Join(err, closeStore(fresh))
	}
	now := *was
	now.Mount = m
	if fresh != nil {
		n.reopened(&now, fresh)
		n.retire(was.store)
	}
	n.mounts.Store(&mountSet{set.table.With(m), with(set.byID, &now)})
	n.holds.reconsider()
	r.Mount = n.describe(m)
	return r, nil
}

// whatChanged says what differs between two states of a mount; of secret options only the names.
func whatChanged(a, b *mount.Mount) (all []string) {
	say := func(name string, x, y any) {
		if !reflect.DeepEqual(x, y) {
			all = append(all, fmt.Sprintf("%s is %v", name, y))
		}
	}
	say("access", a.Access(), b.Access())
	say("owner", a.Owner, b.Owner)
	say("group", a.Group, b.Group)
	if a.Mode != b.Mode {
		all = append(all, fmt.Sprintf("mode is %04o", b.Mode))
	}
	say("replicas", a.Replicas, b.Replicas)
	if !reflect.DeepEqual(a.MountSpec.SyncInterval, b.MountSpec.SyncInterval) {
		all = append(all, fmt.Sprintf("sync_interval is %v", b.SyncInterval))
	}
	if !reflect.DeepEqual(a.MountSpec.PersistDelay, b.MountSpec.PersistDelay) {
		all = append(all, fmt.Sprintf("persist_delay is %v", b.PersistDelay))
	}
	if !reflect.DeepEqual(a.MountSpec.ReplicationMin, b.MountSpec.ReplicationMin) {
		all = append(all, fmt.Sprintf("replication_min is %v", b.ReplicationMin))
	}
	if a.MountSpec.ReplicationMax != b.MountSpec.ReplicationMax {
		all = append(all, fmt.Sprintf("replication_max is %v", b.ReplicationMax))
	}
	if a.MountSpec.WriteType != b.MountSpec.WriteType {
		all = append(all, fmt.Sprintf("write_type is %v", b.WriteType))
	}
	if a.MountSpec.ReadType != b.MountSpec.ReadType {
		all = append(all, fmt.Sprintf("read_type is %v", b.ReadType))
	}
	if a.MountSpec.LoadType != b.MountSpec.LoadType {
		all = append(all, fmt.Sprintf("load_type is %v", b.LoadType))
	}
	names := map[string]bool{}
	for name := range a.Options {
		names[name] = true
	}
	for name := range b.Options {
		names[name] = true
	}
	for name := range names {
		x, had := a.Options[name]
		switch y, has := b.Options[name]; {
		case had && !has:
			all = append(all, "option "+name+" is gone")
		case x == y && had:
		case seal.Secret(name):
			all = append(all, "option "+name+" is another")
		default:
			all = append(all, "option "+name+" is "+y)
		}
	}
	slices.Sort(all)
	return all
}

// notThere tells that the store of a mount does not exist from that the mount does not.
func notThere(s core.MountSpec, err error) error {
	if errs.KindOf(err) != errs.NotExist {
		return err
	}
	return errs.New("namespace.SwitchMount", s.URI, errs.Invalid, err.Error())
}

// switchHeld makes s the mount in place of was: another store at the same place, under an id of its own, in one record. given are
// the options that were asked for. n.mountMu must be held.
func (n *Namespace) switchHeld(ctx context.Context, was *mounted, s core.MountSpec, given map[string]string, o *tableChange) (r core.MountReport, err error) {
	const op = "namespace.SwitchMount"
	switch {
	case was.ID == rootID:
		return r, errs.New(op, s.Path.String(), errs.Invalid, "the root store cannot be switched; it is part of the configuration")
	case was.Origin == core.FromConfig && (was.URI != s.URI || was.Options["endpoint"] != s.Options["endpoint"]):
		return r, errs.New(op, s.Path.String(), errs.Invalid, "the mount is the configuration's, whose next start would undo this; change its URI there")
	}
	if err := n.held(); err != nil {
		return r, err
	}
	if !sameServer(was.MountSpec, s) {
		s.Options = maps.Clone(s.Options)
		for name := range s.Options {
			if _, ok := given[name]; !ok && (seal.Secret(name) || name == core.SecretOption) {
				return r, errs.New(op, s.Path.String(), errs.Invalid,
					"its option "+name+" may be a secret of another server; give it again for the new one, or \"\" to leave it out")
			}
		}
	}
	set := n.mounts.Load()
	var point place
	vacate := func() (err error) {
		point = n.walk(s.Path.Dir())
		if point.entry == nil || !point.entry.Mount || point.entry.Base.Store != was.ID {
			return errs.New(op, s.Path.String(), errs.Corrupt, "there is no mount point of it; run `sluice check`")
		}
		r.GaveUp, err = n.unfinishedIn(was.ID, &point).giveUp(op, s.Path, o.Force)
		return err
	}
	if err := vacate(); err != nil { // before anything is made
		return r, err
	}
	store, root, err := n.openNew(ctx, s, o.table.Without(was.ID), o)
	if err != nil {
		return r, notThere(s, err)
	}
	undo := func(err error) error { return errors.Join(err, closeStore(store)) }
	if !o.DryRun { // who only asks waits for no writer, and has none wait
		lift, err := n.barRemovals(ctx, was.Mount)
		if err != nil {
			return r, undo(err)
		}
		defer lift()
		unlock, err := n.locks.lock(ctx, s.Path.Dir()) // nobody changes anything below
		if err != nil {
			return r, undo(err)
		}
		defer unlock()
	}
	if err := vacate(); err != nil {
		return r, undo(err)
	}
	from, to := was.URI, s.URI
	if from == to {
		from, to = from+" at "+was.Options["endpoint"], to+" at "+s.Options["endpoint"]
	}
	r.Did = []string{"switched the mount " + s.Path.File().String() + " from " + from + " to " + to}
	if o.DryRun {
		m := n.withDefaults(s.Path.String(), s, root) // no mount has such an id
		r.Mount, o.table = n.describe(m), o.table.Without(was.ID).With(m)
		return r, undo(nil)
	}
	id, err := n.draw(ctx, &n.dirs)
	if err != nil {
		return r, undo(err)
	}
	m := n.withDefaults(fmt.Sprintf("m%x", id), s, root)
	m.Is = store.Features().Is
	now := n.mounted(m, store, nil)
	entry := meta.Entry{Class: meta.Directory, Dir: meta.DirID(id), Explicit: true, Mount: true, MTime: time.Now().UnixNano(),
		Base: meta.Base{Kind: meta.Absolute, Store: m.ID}}
	ops := []meta.Op{{Kind: meta.Set, Dir: point.parent, Edge: point.edge, Entry: entry}}
	moved, err := n.moveNested(ctx, s.Path.Dir(), entry.Dir)
	if err != nil {
		return r, undo(err)
	}
	ops = append(append(ops, moved...), meta.Op{Kind: meta.DropDir, Dir: point.entry.Dir})
	staged, ended := n.endUploadsOf(was.ID)
	x, err := n.revisedMount(was.Mount, m)
	kept, kerr := n.keep(m)
	if err := errors.Join(err, kerr); err != nil {
		return r, undo(err)
	}
	n.cancelUploads(ctx, was, staged) // first: the journal alone can name them
	// Until the record is in the tree both are known, so that whichever point is walked into leads somewhere.
	n.mounts.Store(&mountSet{set.table, with(set.byID, now)})
	err = n.journalTable(ctx, meta.Batch{Ops: append(ops, ended...), Puts: []meta.KeyValue{{Key: mountPrefix + m.ID, Value: kept}},
		Deletes: []string{mountPrefix + was.ID}}, r.Did[0], x)
	if err != nil {
		n.mounts.Store(set)
		return r, undo(err)
	}
	left := with(set.byID, now)
	delete(left, was.ID)
	n.mounts.Store(&mountSet{set.table.Without(was.ID).With(m), left})
	n.holds.reconsider()
	n.retire(was.store)
	r.Mount = n.describe(m)
	return r, nil
}

// moveNested returns the operations that put the points of what is mounted below the directory p below dir instead, which stands
// in its place, with the directories between. p's lock is held.
func (n *Namespace) moveNested(ctx context.Context, p core.Path, dir meta.DirID) (ops []meta.Op, err error) {
	made := map[core.Path]meta.DirID{p: dir}
	var outer []core.Path
	for _, m := range n.mounts.Load().table.All() { // by path
		at := m.Path.Dir()
		if at == p || !strings.HasPrefix(at.String(), p.String()) || slices.ContainsFunc(outer, func(o core.Path) bool { return strings.HasPrefix(at.String(), o.String()) }) {
			continue
		}
		outer = append(outer, at)
		was := n.walk(at)
		if was.entry == nil {
			continue
		}
		rest, _ := p.Rel(at)
		parent, up := dir, p
		edges := strings.SplitAfter(strings.TrimSuffix(rest, "/"), "/")
		for _, edge := range edges[:len(edges)-1] {
			up = up.Child(edge)
			if made[up] == 0 {
				id, err := n.draw(ctx, &n.dirs)
				if err != nil {
					return nil, err
				}
				e := meta.Entry{Class: meta.Directory, Dir: meta.DirID(id), Explicit: true, MTime: time.Now().UnixNano()}
				if old := n.walk(up).entry; old != nil {
					e.Owner, e.Group, e.Mode = old.Owner, old.Group, old.Mode
				}
				ops = append(ops, meta.Op{Kind: meta.Set, Dir: parent, Edge: edge, Entry: e})
				made[up] = e.Dir
			}
			parent = made[up]
		}
		ops = append(ops, meta.Op{Kind: meta.Del, Dir: was.parent, Edge: was.edge},
			meta.Op{Kind: meta.Set, Dir: parent, Edge: was.edge, Entry: *was.entry})
	}
	return ops, nil
}
