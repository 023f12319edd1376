package namespace

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/mount"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs"
)

// rootID is the id of the root store. The ids of mounts are drawn from a journaled counter and never used twice, so that
// pages and facts of a store that was mounted before are never taken for those of another.
const rootID = "root"

const mountPrefix = "sys/mounts/"

// record is a mount as it is kept in etcd.
type record struct {
	ID           string            `json:"id"`
	Path         string            `json:"path"`
	URI          string            `json:"uri"`
	Root         string            `json:"root,omitempty"`
	Is           string            `json:"is,omitempty"` // left out by versions that did not look
	Taken        int               `json:"taken,omitempty"`
	Options      map[string]string `json:"options,omitempty"`
	ReadOnly     bool              `json:"read_only,omitempty"`
	SyncInterval *time.Duration    `json:"sync_interval,omitempty"`
	Owner        string            `json:"owner,omitempty"`
	Group        string            `json:"group,omitempty"`
	Mode         uint32            `json:"mode,omitempty"`
	WriteType    core.WriteType    `json:"write_type,omitempty"`
	ReadType     core.ReadType     `json:"read_type,omitempty"`
	Replicas     int               `json:"replicas,omitempty"`
	PersistDelay *time.Duration    `json:"persist_delay,omitempty"`
	CopiesMin    *int              `json:"replication_min,omitempty"`
	CopiesMax    int               `json:"replication_max,omitempty"`
	Origin       core.MountOrigin  `json:"origin"`
	NoAccess     bool              `json:"no_access,omitempty"` // then ReadOnly too
	LeftOut      []string          `json:"left_out,omitempty"`  // in revisions: secret options, for which there was no key to seal them
	LoadType     core.LoadType     `json:"load_type,omitempty"`
}

// keep returns the mount as it is kept.
func (n *Namespace) keep(m *mount.Mount) ([]byte, error) { return json.Marshal(n.recordOf(m)) }

// keepRevised returns the mount as it is kept in revisions. They outlive what they tell of, so that without a key secrets are left out.
func (n *Namespace) keepRevised(m *mount.Mount) ([]byte, error) {
	r := n.recordOf(m)
	if n.sealer == nil {
		r.Options = maps.Clone(r.Options)
		for _, name := range slices.Sorted(maps.Keys(r.Options)) {
			if seal.Secret(name) {
				delete(r.Options, name)
				r.LeftOut = append(r.LeftOut, name)
			}
		}
	}
	return json.Marshal(r)
}

func (n *Namespace) recordOf(m *mount.Mount) record {
	s := m.MountSpec
	return record{m.ID, s.Path.Dir().String(), s.URI, m.Root, m.Is, m.Taken, n.sealer.Options(m.ID, s.Options), s.ReadOnly,
		s.SyncInterval, s.Owner, s.Group, s.Mode, s.WriteType, s.ReadType, s.Replicas, s.PersistDelay,
		s.ReplicationMin, s.ReplicationMax, s.Origin, s.NoAccess, nil, s.LoadType}
}

func (r record) spec() (core.MountSpec, error) {
	p, err := core.ParsePath(r.Path)
	return core.MountSpec{Path: p.Dir(), URI: r.URI, Options: r.Options, ReadOnly: r.ReadOnly, NoAccess: r.NoAccess, SyncInterval: r.SyncInterval,
		Owner: r.Owner, Group: r.Group, Mode: r.Mode, WriteType: r.WriteType, ReadType: r.ReadType, Replicas: r.Replicas, PersistDelay: r.PersistDelay,
		ReplicationMin: r.CopiesMin, ReplicationMax: r.CopiesMax, LoadType: r.LoadType, Origin: r.Origin}, err
}

// withDefaults returns the mount with every policy decided. root identifies its store, "" if that is unknown.
func (n *Namespace) withDefaults(id string, s core.MountSpec, root string) *mount.Mount {
	m := &mount.Mount{ID: id, MountSpec: s, SyncInterval: n.o.SyncInterval, Root: cmp.Or(root, asWritten(s))}
	if s.SyncInterval != nil {
		m.SyncInterval = *s.SyncInterval
	}
	if m.Owner == "" {
		m.Owner = n.o.Superuser
	}
	if m.Group == "" {
		m.Group = n.o.Supergroup
	}
	if m.Mode == 0 {
		m.Mode = 0o755
	}
	m.WriteType = cmp.Or(s.WriteType, n.o.WriteType, core.CacheThrough)
	m.ReadType = cmp.Or(s.ReadType, n.o.ReadType, core.CachePromote)
	m.PersistDelay = n.o.PersistDelay
	if s.PersistDelay != nil {
		m.PersistDelay = *s.PersistDelay
	}
	m.ReplicationMin, m.ReplicationMax = n.o.ReplicationMin, cmp.Or(s.ReplicationMax, n.o.ReplicationMax, 1)
	if s.ReplicationMin != nil {
		m.ReplicationMin = *s.ReplicationMin
	}
	if m.LoadType = cmp.Or(s.LoadType, n.o.LoadType, core.LoadOnce); id == rootID {
		m.LoadType = core.LoadOnce
	}
	return m
}

// rootOf returns the identity of a store's root.
func rootOf(store ufs.Store, s core.MountSpec) string {
	return cmp.Or(store.Features().Root, asWritten(s))
}

// asWritten stands for the identity of a store that does not tell it.
func asWritten(s core.MountSpec) string {
	return "uri:" + strings.TrimRight(s.Options["endpoint"], "/") + " " + strings.TrimRight(s.URI, "/") + "/"
}

func (n *Namespace) mounted(m *mount.Mount, store ufs.Store, err error) *mounted {
	x := &mounted{Mount: m, err: err, trouble: new(trouble)}
	if store != nil {
		x.store, x.features = n.watched(m, x.trouble, store), store.Features()
	}
	x.derived = meta.NewDerived(meta.DerivedOptions{Flat: !x.features.Dirs, Apart: x.features.Buckets, MaxRows: n.o.MaxDerived})
	return x
}

// neverSynced is the sync interval of the root store. It is Sluice's own: nobody else changes it, and its facts need no second look.
func neverSynced() *time.Duration {
	never := time.Duration(-1)
	return &never
}

// openMounts opens the root store and those of the mounts the journal knows. A store that does not answer does not keep the
// rest from starting: its mount says why.
func (n *Namespace) openMounts(ctx context.Context) error {
	root := n.withDefaults(rootID, core.MountSpec{Path: core.Root, URI: "root:", SyncInterval: neverSynced(), Mode: n.o.RootMode, Origin: core.FromConfig}, n.o.Root.Features().Root)
	set := &mountSet{table: (&mount.Table{}).With(root), byID: map[string]*mounted{rootID: n.mounted(root, n.o.Root, nil)}}
	kvs, err := n.log.ListConfig(ctx, mountPrefix)
	if err != nil {
		return err
	}
	records, specs := make([]record, len(kvs)), make([]core.MountSpec, len(kvs))
	for i, kv := range kvs { // before any store is open
		err := json.Unmarshal(kv.Value, &records[i])
		if err == nil {
			specs[i], err = records[i].spec()
		}
		if err != nil {
			return errs.E("namespace.Open", kv.Key, errs.Corrupt, err)
		}
	}
	for i, r := range records {
		spec := specs[i]
		m := n.withDefaults(r.ID, spec, r.Root)
		m.Is, m.Taken = r.Is, r.Taken
		if r.ID == rootID { // its policies were changed
			m.Root = root.Root
			set = &mountSet{set.table.With(m), with(set.byID, n.mounted(m, n.o.Root, nil))}
			continue
		}
		var store ufs.Store
		options, err := n.sealer.Open(r.ID, r.Options)
		if err == nil {
			m.Options = options
			store, err = n.openAgain(ctx, m)
		}
		if err != nil {
			n.o.Logger.Error("a mounted store does not open; its part of the tree is unavailable", "path", spec.Path.String(), "err", err)
		} else {
			m.Root = rootOf(store, spec)
		}
		set = &mountSet{set.table.With(m), with(set.byID, n.mounted(m, store, err))}
	}
	n.mounts.Store(set)
	return nil
}

func (n *Namespace) open1(ctx context.Context, s core.MountSpec) (ufs.Store, error) {
	if n.o.OpenStore == nil {
		return nil, errs.New("namespace.Mount", s.URI, errs.Unsupported, "no kinds of stores are registered")
	}
	ctx, cancel := context.WithTimeout(ctx, n.o.ProbeTimeout)
	defer cancel()
	with, err := n.withSecret(s)
	if err != nil {
		return nil, err
	}
	store, err := n.o.OpenStore(ctx, with)
	if err != nil {
		return nil, err
	}
	if err := n.reserved(rootOf(store, s), s); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}

// reserved reports errs.Invalid if root is what is Sluice's own, holds its secrets, and would be changed behind its back.
func (n *Namespace) reserved(root string, s core.MountSpec) error {
	if slices.ContainsFunc(n.o.Reserved, func(own string) bool { return mount.Nested(own, root) }) {
		return errs.New("namespace.Mount", s.URI, errs.Invalid,
			"it is, holds, or lies in Sluice's data directory or a cache tier, which cannot be mounted, not even read-only")
	}
	return nil
}

// openNew opens and probes a store that is to be mounted as s says, beside the mounts others, and returns the identity of its root. Of a
// writable one a missing root is made, if its options say so, once nothing else forbids the mount; in a dry run there is no store then. The
// root of a mount of before is not: an empty one is not what was mounted.
func (n *Namespace) openNew(ctx context.Context, s core.MountSpec, others *mount.Table, o *tableChange) (store ufs.Store, root string, err error) {
	check := func(of string) error {
		root = of
		if err := n.reserved(root, s); err != nil {
			return err
		}
		if m := others.Overlaps(root); m != nil && !s.ReadOnly {
			return errs.New("namespace.Mount", s.Path.String(), errs.Invalid,
				"its store overlaps that of the writable mount "+m.Path.String()+"; mount one of them read-only")
		}
		return nil
	}
	if !s.ReadOnly && !o.again {
		ctx = ufs.WithMaking(ctx, ufs.Making{Check: check, Dry: o.DryRun})
	}
	if store, err = n.open1(ctx, s); err == nil {
		err = o.sameRoot(store, s)
		if err == nil {
			err = check(rootOf(store, s))
		}
		if err == nil {
			err = n.probe(ctx, store, s)
		}
		if err != nil {
			err, store = errors.Join(err, store.Close()), nil
		}
	}
	switch {
	case o.DryRun && errors.Is(err, ufs.ErrWouldMake):
		err = nil
	case o.again && errs.KindOf(err) == errs.NotExist:
		err = &replacedError{fmt.Sprintf("the directory that was mounted is missing (%v); mount its disk there or put it back, and try again, or, if it is lost, "+
			"mount another by hand with: sluice %s", err, o.byHand(s))}
	}
	return store, root, err
}

// sameRoot reports errs.Invalid if the store of a mount has another root than the mount was made with ("": not known).
func sameRoot(root string, store ufs.Store, s core.MountSpec) error {
	if root == "" || rootOf(store, s) == root {
		return nil
	}
	return errs.New("namespace.Mounts", s.Path.String(), errs.Invalid,
		"its options lead to another store than it was mounted with; set them back, or unmount this one and mount that")
}

func with(m map[string]*mounted, x *mounted) map[string]*mounted {
	m = maps.Clone(m)
	m[x.ID] = x
	return m
}

func (n *Namespace) admin(ctx context.Context) error {
	if !core.PrincipalOf(ctx).Super {
		return errs.New("namespace.Mounts", "", errs.Permission, "only the superuser manages mounts")
	}
	return nil
}

// Mounts implements core.Mounts.
func (n *Namespace) Mounts(ctx context.Context) ([]core.MountInfo, error) {
	if err := n.admin(ctx); err != nil {
		return nil, err
	}
	var all []core.MountInfo
	for _, m := range n.mounts.Load().table.All() {
		all = append(all, n.describe(m))
	}
	return all, nil
}

func (n *Namespace) describe(m *mount.Mount) core.MountInfo {
	i := core.MountInfo{MountSpec: m.MountSpec, State: "ready"}
	i.SyncInterval, i.PersistDelay = &m.SyncInterval, &m.PersistDelay
	i.ReplicationMin, i.ReplicationMax, i.LoadType = &m.ReplicationMin, m.ReplicationMax, m.LoadType
	i.WriteType, i.ReadType = m.WriteType, m.ReadType
	i.Options = maps.Clone(m.Options)
	for k := range i.Options {
		if seal.Secret(k) {
			i.Options[k] = "***"
		}
	}
	if x := n.mountOf(m.ID); x != nil {
		i.State = x.state()
	}
	return i
}

// Mount implements core.Mounts.
func (n *Namespace) Mount(ctx context.Context, s core.MountSpec) (core.MountInfo, error) {
	r, err := n.AddMount(ctx, s, core.LifeOptions{})
	return r.Mount, err
}

// addHeld is AddMount. n.mountMu must be held.
func (n *Namespace) addHeld(ctx context.Context, s core.MountSpec, o *tableChange) (r core.MountReport, err error) {
	s.Path, s.ReadOnly = s.Path.Dir(), s.ReadOnly || s.NoAccess
	if s.Path.IsRoot() || slices.ContainsFunc(s.Path.Edges(), func(e string) bool { return e == "/" || e == "./" || e == "../" }) {
		return r, errs.New("namespace.Mount", s.Path.String(), errs.Invalid, "a mount point is a plain path below /")
	}
	if err := checkPolicies(&s); err != nil {
		return r, err
	}
	if err := checkOptions(s.Options); err != nil {
		return r, err
	}
	if o.table.At(s.Path) != nil {
		return r, errs.New("namespace.Mount", s.Path.String(), errs.Exist, "something is mounted there; unmount it first")
	}
	if err := n.attachable(ctx, s.Path); err != nil { // attach looks again, when the store may have been made
		return r, err
	}
	store, root, err := n.openNew(ctx, s, o.table, o)
	if err != nil {
		return r, err
	}
	r.Did = []string{"mounted " + s.URI + " at " + s.Path.File().String()}
	if o.DryRun {
		m := n.withDefaults(s.Path.String(), s, root) // no mount has such an id
		r.Mount, o.table = n.describe(m), o.table.With(m)
		return r, closeStore(store)
	}
	if r.Mount, err = n.attach(ctx, s, store, r.Did[0]); err != nil {
		return core.MountReport{}, errors.Join(err, store.Close())
	}
	return r, nil
}

// attachable reports why nothing can be mounted at the path, nil if something can.
func (n *Namespace) attachable(ctx context.Context, p core.Path) error {
	if err := n.checkName(p); err != nil {
		return err
	}
	if err := n.checkKind(ctx, p, true); err != nil {
		return err
	}
	unlock, err := n.locks.lock(ctx, p)
	if err != nil {
		return err
	}
	defer unlock()
	pl := n.walk(p)
	return n.vacant(ctx, &pl)
}

func (n *Namespace) probe(ctx context.Context, store ufs.Store, s core.MountSpec) error {
	ctx, cancel := context.WithTimeout(ctx, n.o.ProbeTimeout)
	defer cancel()
	return n.tooLate("namespace.Mount", s.URI, ufs.Probe(ctx, store, !s.ReadOnly && !n.holding()))
}

// tooLate says of what was to be done within ProbeTimeout that it was not.
func (n *Namespace) tooLate(op, name string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errs.New(op, name, errs.Unavailable, fmt.Sprintf("the store did not answer within %v", n.o.ProbeTimeout))
	}
	return err
}

// checkOptions refuses option values that would be taken for sealed ones when they are read again.
func checkOptions(options map[string]string) error {
	for name, value := range options {
		if seal.Secret(name) && seal.Sealed(value) {
			return errs.New("namespace.Mounts", name, errs.Invalid, "no value of an option begins with what marks sealed ones; give it as it is in plain text")
		}
	}
	return nil
}

// maxPrincipal is how long the name of a mount's owner or group may be, in bytes.
const maxPrincipal = 255

func checkPolicies(s *core.MountSpec) error {
	if s.Mode > 0o1777 {
		return errs.New("namespace.Mount", fmt.Sprintf("%o", s.Mode), errs.Invalid, "mode is at most 1777")
	}
	for field, name := range map[string]string{"owner": s.Owner, "group": s.Group} {
		if len(name) > maxPrincipal || strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name) {
			return errs.New("namespace.Mount", field, errs.Invalid, fmt.Sprintf("it is a name of at most %d bytes, without control characters", maxPrincipal))
		}
	}
	return checkData("namespace.Mount", &core.Policies{WriteType: s.WriteType, ReadType: s.ReadType, Replicas: s.Replicas, PersistDelay: s.PersistDelay,
		ReplicationMin: s.ReplicationMin, ReplicationMax: s.ReplicationMax, LoadType: s.LoadType})
}

// attach makes the mount point and enters the mount. what says so in the history. n.mountMu must be held.
func (n *Namespace) attach(ctx context.Context, s core.MountSpec, store ufs.Store, what string) (core.MountInfo, error) {
	if err := n.checkName(s.Path); err != nil {
		return core.MountInfo{}, err
	}
	if err := n.checkKind(ctx, s.Path, true); err != nil {
		return core.MountInfo{}, err
	}
	if err := n.parents(ctx, s.Path, true, true, 0); err != nil {
		return core.MountInfo{}, err
	}
	unlock, err := n.locks.lock(ctx, s.Path)
	if err != nil {
		return core.MountInfo{}, err
	}
	defer unlock()
	pl := n.walk(s.Path)
	if err := n.vacant(ctx, &pl); err != nil {
		return core.MountInfo{}, err
	}
	id, err := n.draw(ctx, &n.dirs)
	if err != nil {
		return core.MountInfo{}, err
	}
	m := n.withDefaults(fmt.Sprintf("m%x", id), s, rootOf(store, s))
	m.Is = store.Features().Is
	x, err := n.revisedMount(nil, m)
	kept, kerr := n.keep(m)
	if err := errors.Join(err, kerr); err != nil {
		return core.MountInfo{}, err
	}
	point := meta.Entry{Class: meta.Directory, Dir: meta.DirID(id), Explicit: true, Mount: true, MTime: time.Now().UnixNano(),
		Base: meta.Base{Kind: meta.Absolute, Store: m.ID}}
	// The store must be known before its point can be walked into.
	old := n.mounts.Load()
	n.mounts.Store(&mountSet{old.table.With(m), with(old.byID, n.mounted(m, store, nil))})
	defer n.answers.wrote(core.CallOf(ctx))
	err = n.journalTable(ctx, meta.Batch{
		Ops:  append(n.answered(core.CallOf(ctx), n.describe(m)), meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: point}),
		Puts: []meta.KeyValue{{Key: mountPrefix + m.ID, Value: kept}},
	}, what, x)
	if err != nil {
		n.mounts.Store(old)
		return core.MountInfo{}, err
	}
	return n.describe(m), nil
}

// vacant reports errs.Busy unless the place is a directory without anything in it, or nothing is there, and errs.Unavailable while a
// change of it is not through. Its lock is held.
func (n *Namespace) vacant(ctx context.Context, pl *place) error {
	if err := n.pending(pl); err != nil { // a whiteout may be of it
		return err
	}
	_, err := n.lookupHeld(ctx, pl.path, true)
	if errs.KindOf(err) == errs.NotExist {
		return nil
	}
	if err != nil {
		return err
	}
	some, err := n.hasVisible(ctx, pl)
	if err == nil && some {
		err = errs.New("namespace.Mount", pl.path.String(), errs.Busy, "the directory is not empty")
	}
	return err
}

// UpdateMount implements core.Mounts.
func (n *Namespace) UpdateMount(ctx context.Context, p core.Path, c core.MountChange) (core.MountInfo, error) {
	r, err := n.EditMount(ctx, p, core.MountEdit{MountChange: c}, core.LifeOptions{})
	return r.Mount, err
}

func notMounted(p core.Path) error {
	return errs.New("namespace.Mounts", p.String(), errs.NotExist, "nothing is mounted there")
}

func (n *Namespace) updateMount(ctx context.Context, id string, c core.MountChange) error {
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	was := n.mounts.Load().byID[id]
	if was == nil {
		return errs.New("namespace.Mounts", id, errs.NotExist, "the mount is gone")
	}
	_, err := n.editHeld(ctx, was, core.MountEdit{MountChange: c}, &tableChange{table: n.mounts.Load().table})
	return err
}

// reoption opens and probes the store of the mount was, which is to be s, with other options: how a secret is rotated.
func (n *Namespace) reoption(ctx context.Context, was *mounted, s core.MountSpec, options map[string]string) (ufs.Store, error) {
	s.Options = options
	if s.Options["endpoint"] != was.Options["endpoint"] {
		return nil, errs.New("namespace.Mounts", s.Path.String(), errs.Invalid, "another endpoint is another store; name its URI too to switch the mount to it")
	}
	store, err := n.open1(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(sameRoot(was.Root, store, s), n.sameIs(ctx, was.Mount, store)); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	if err := n.probe(ctx, store, s); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}

func closeStore(s ufs.Store) error {
	if s == nil {
		return nil
	}
	return s.Close()
}

// learn asks the remote stores of mounts from before what only a probe tells, such as whether they honour conditions.
func (n *Namespace) learn(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for id, m := range n.mounts.Load().byID {
		if near(m) || m.err != nil {
			continue
		}
		wg.Go(func() {
			if err := n.probe(ctx, m.store, m.MountSpec); err != nil {
				n.o.Logger.Warn("a mounted store does not answer as it should", "path", m.Path.String(), "err", err)
				return
			}
			n.mountMu.Lock()
			defer n.mountMu.Unlock()
			old := n.mounts.Load()
			if now := old.byID[id]; now != nil && now.store == m.store {
				knowing := *now
				knowing.features = m.store.Features()
				n.mounts.Store(&mountSet{old.table, with(old.byID, &knowing)})
			}
		})
	}
}

// reopen tries the stores that did not open when the process started, or with the options that they were given since.
func (n *Namespace) reopen(ctx context.Context) {
	n.reopenIf(ctx, func(m *mounted) bool { return m.err != nil || m.renew != nil })
}

// reopenIf is reopen of those picked.
func (n *Namespace) reopenIf(ctx context.Context, pick func(*mounted) bool) {
	for id, m := range n.mounts.Load().byID {
		if !pick(m) {
			continue
		}
		if id == rootID {
			n.reopenRoot(ctx, m)
			continue
		}
		if _, err := n.sealer.Open(id, m.Options); err != nil {
			continue
		}
		store, err := n.openAgain(ctx, m.Mount)
		if err != nil {
			continue
		}
		n.mountMu.Lock()
		old := n.mounts.Load()
		if old.byID[id] == m { // else its options may be others by now
			now := *m
			now.Mount = n.withDefaults(id, m.MountSpec, rootOf(store, m.MountSpec))
			now.Is, now.Taken = m.Is, m.Taken
			n.reopened(&now, store)
			n.mounts.Store(&mountSet{old.table.With(now.Mount), with(old.byID, &now)})
			n.retire(m.store)
			n.o.Logger.Info("a mounted store opens again", "path", m.Path.String())
			store = nil
		}
		n.mountMu.Unlock()
		if err := closeStore(store); err != nil {
			n.o.Logger.Warn("a store could not be closed", "path", m.Path.String(), "err", err)
		}
	}
}

func apply[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// Unmount implements core.Mounts.
func (n *Namespace) Unmount(ctx context.Context, p core.Path) error {
	if err := n.admin(ctx); err != nil {
		return err
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	_, err := n.removeHeld(ctx, p.Dir(), &tableChange{table: n.mounts.Load().table})
	return err
}

// removable returns the mount at the directory p if it may be taken out of the table.
func removable(table *mount.Table, p core.Path) (*mount.Mount, error) {
	m := table.At(p)
	switch {
	case m == nil:
		return nil, notMounted(p)
	case m.ID == rootID:
		return nil, errs.New("namespace.Unmount", p.String(), errs.Invalid, "the root store cannot be unmounted")
	case table.Below(p):
		return nil, errs.New("namespace.Unmount", p.String(), errs.Busy, "a mount lies below it; unmount that first")
	}
	return m, nil
}

// detach takes the mount, and its point, away, with the uploads to it. The point's lock and n.mountMu must be held.
func (n *Namespace) detach(ctx context.Context, m *mount.Mount, point place) error {
	old := n.mounts.Load()
	staged, ended := n.endUploadsOf(m.ID)
	batch := meta.Batch{Ops: append(append(n.removeOps(point), n.answered(core.CallOf(ctx), nil)...), ended...), Deletes: []string{mountPrefix + m.ID}}
	x, err := n.revisedMount(m, nil)
	if err != nil {
		return err
	}
	n.cancelUploads(ctx, old.byID[m.ID], staged) // first: the journal alone can name them
	defer n.answers.wrote(core.CallOf(ctx))
	if err := n.journalTable(ctx, batch, "unmounted "+m.Path.File().String()+" ("+m.URI+")", x); err != nil {
		return err
	}
	left := maps.Clone(old.byID)
	delete(left, m.ID)
	n.mounts.Store(&mountSet{old.table.Without(m.ID), left})
	return closeStore(old.byID[m.ID].store)
}

// endUploadsOf returns the operations that end the uploads to the mount, and their keys in its store by the store's upload ids.
func (n *Namespace) endUploadsOf(id string) (staged map[string]string, ops []meta.Op) {
	staged = map[string]string{}
	n.tree.View(func(v meta.View) {
		for edge, e := range v.Children(meta.UploadsDir, "") {
			if e.Extra["mount"] == id {
				staged[e.Extra["store_id"]] = e.Extra["key"]
				ops = append(ops, n.endUploadIn(v, strings.TrimSuffix(edge, "/"))...)
			}
		}
	})
	delete(staged, "")
	return staged, ops
}

// cancelUploads drops the parts of uploads that end with their mount. What cannot be dropped stays in the store's staging.
func (n *Namespace) cancelUploads(ctx context.Context, m *mounted, keys map[string]string) {
	if m.err != nil || m.ReadOnly || len(keys) == 0 || n.holding() {
		return
	}
	composer, err := ufs.ComposerOf(m.store)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTime)
	defer cancel()
	const atOnce = 16
	var g errgroup.Group
	g.SetLimit(atOnce)
	for id, key := range keys {
		g.Go(func() error {
			if err := composer.Cancel(ctx, key, id); err != nil {
				n.o.Logger.Warn("a multipart upload stays in a store that is unmounted", "mount", m.Path.String(), "key", key, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // there are none
}
