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
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/mount"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/wrap"
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
	Options      map[string]string `json:"options,omitempty"`
	ReadOnly     bool              `json:"read_only,omitempty"`
	SyncInterval *time.Duration    `json:"sync_interval,omitempty"`
	Owner        string            `json:"owner,omitempty"`
	Group        string            `json:"group,omitempty"`
	Mode         uint32            `json:"mode,omitempty"`
	WriteType    core.WriteType    `json:"write_type,omitempty"`
	ReadType     core.ReadType     `json:"read_type,omitempty"`
	Origin       core.MountOrigin  `json:"origin"`
}

// keep returns the mount as it is kept.
func (n *Namespace) keep(m *mount.Mount) ([]byte, error) {
	s := m.MountSpec
	return json.Marshal(record{m.ID, s.Path.Dir().String(), s.URI, m.Root, n.sealer.Options(m.ID, s.Options), s.ReadOnly,
		s.SyncInterval, s.Owner, s.Group, s.Mode, s.WriteType, s.ReadType, s.Origin})
}

func (r record) spec() (core.MountSpec, error) {
	p, err := core.ParsePath(r.Path)
	return core.MountSpec{Path: p.Dir(), URI: r.URI, Options: r.Options, ReadOnly: r.ReadOnly, SyncInterval: r.SyncInterval,
		Owner: r.Owner, Group: r.Group, Mode: r.Mode, WriteType: r.WriteType, ReadType: r.ReadType, Origin: r.Origin}, err
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
	if m.WriteType == "" {
		m.WriteType = core.CacheThrough
	}
	if m.ReadType == "" {
		m.ReadType = core.CacheRead
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
	x := &mounted{Mount: m, err: err, outage: new(atomic.Pointer[string])}
	if store != nil {
		x.store, x.features = n.watched(x, store), store.Features()
	}
	x.derived = meta.NewDerived(meta.DerivedOptions{Flat: !x.features.Dirs, MaxRows: n.o.MaxDerived})
	return x
}

// watched notes in x whether store answers, and changes it only while this process leads and changes are not held.
func (n *Namespace) watched(x *mounted, store ufs.Store) ufs.Store {
	outage := x.outage
	return wrap.Observe(wrap.Gate(wrap.Guard(store, n.leads), n.held), func(e wrap.Event) {
		switch {
		case errors.Is(e.Err, context.Canceled): // says nothing of the store
		case errs.KindOf(e.Err) == errs.Unavailable || errors.Is(e.Err, context.DeadlineExceeded):
			why := e.Err.Error()
			outage.Store(&why)
		case outage.Load() != nil:
			outage.Store(nil)
		}
	})
}

// openMounts opens the root store and those of the mounts the journal knows. A store that does not answer does not keep the
// rest from starting: its mount says why.
func (n *Namespace) openMounts(ctx context.Context) error {
	// The root store is Sluice's own: nobody else changes it, and its facts need no second look.
	never := time.Duration(-1)
	root := n.withDefaults(rootID, core.MountSpec{Path: core.Root, URI: "root:", SyncInterval: &never, Mode: n.o.RootMode, Origin: core.FromConfig}, n.o.Root.Features().Root)
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
		if r.ID == rootID { // its policies were changed
			m.Root = root.Root
			set = &mountSet{set.table.With(m), with(set.byID, n.mounted(m, n.o.Root, nil))}
			continue
		}
		var store ufs.Store
		options, err := n.sealer.Open(r.ID, r.Options)
		if err == nil {
			m.Options = options
			store, err = n.open1(ctx, m.MountSpec)
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
	store, err := n.o.OpenStore(ctx, s)
	if err != nil {
		return nil, err
	}
	// What is Sluice's own holds its secrets, and would be changed behind its back.
	root := rootOf(store, s)
	if slices.ContainsFunc(n.o.Reserved, func(own string) bool { return mount.Nested(own, root) }) {
		return nil, errors.Join(errs.New("namespace.Mount", s.URI, errs.Invalid,
			"it is, holds, or lies in Sluice's data directory or a cache tier, which cannot be mounted, not even read-only"), store.Close())
	}
	return store, nil
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
	i.SyncInterval = &m.SyncInterval
	i.Options = maps.Clone(m.Options)
	for k := range i.Options {
		if seal.Secret(k) {
			i.Options[k] = "***"
		}
	}
	if x := n.mountOf(m.ID); x != nil {
		if why := x.outage.Load(); why != nil {
			i.State = *why
		}
		if x.err != nil {
			i.State = x.err.Error()
		}
	}
	return i
}

// Mount implements core.Mounts.
func (n *Namespace) Mount(ctx context.Context, s core.MountSpec) (core.MountInfo, error) {
	if err := n.admin(ctx); err != nil {
		return core.MountInfo{}, err
	}
	if err := n.held(); err != nil {
		return core.MountInfo{}, err
	}
	s.Path = s.Path.Dir()
	if s.Path.IsRoot() || slices.ContainsFunc(s.Path.Edges(), func(e string) bool { return e == "/" || e == "./" || e == "../" }) {
		return core.MountInfo{}, errs.New("namespace.Mount", s.Path.String(), errs.Invalid, "a mount point is a plain path below /")
	}
	if err := checkPolicies(s.WriteType, s.ReadType, s.Mode); err != nil {
		return core.MountInfo{}, err
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	table := n.mounts.Load().table
	if table.At(s.Path) != nil {
		return core.MountInfo{}, errs.New("namespace.Mount", s.Path.String(), errs.Exist, "something is mounted there; unmount it first")
	}
	store, err := n.open1(ctx, s)
	if err != nil {
		return core.MountInfo{}, err
	}
	if m := table.Overlaps(rootOf(store, s)); m != nil && !s.ReadOnly {
		return core.MountInfo{}, errors.Join(errs.New("namespace.Mount", s.Path.String(), errs.Invalid,
			"its store overlaps that of the writable mount "+m.Path.String()+"; mount one of them read-only"), store.Close())
	}
	if err := n.probe(ctx, store, s); err != nil {
		return core.MountInfo{}, errors.Join(err, store.Close())
	}
	info, err := n.attach(ctx, s, store)
	if err != nil {
		return core.MountInfo{}, errors.Join(err, store.Close())
	}
	return info, nil
}

func (n *Namespace) probe(ctx context.Context, store ufs.Store, s core.MountSpec) error {
	ctx, cancel := context.WithTimeout(ctx, n.o.ProbeTimeout)
	defer cancel()
	err := ufs.Probe(ctx, store, !s.ReadOnly && !n.holding())
	if errors.Is(err, context.DeadlineExceeded) {
		return errs.New("namespace.Mount", s.URI, errs.Unavailable, fmt.Sprintf("the store did not answer within %v", n.o.ProbeTimeout))
	}
	return err
}

func checkPolicies(w core.WriteType, r core.ReadType, mode uint32) error {
	switch {
	case w != "" && w != core.CacheThrough && w != core.Through:
		return errs.New("namespace.Mount", string(w), errs.Invalid, "write_type is CACHE_THROUGH or THROUGH")
	case r != "" && r != core.CacheRead && r != core.NoCache:
		return errs.New("namespace.Mount", string(r), errs.Invalid, "read_type is CACHE or NO_CACHE")
	case mode > 0o1777:
		return errs.New("namespace.Mount", fmt.Sprintf("%o", mode), errs.Invalid, "mode is at most 1777")
	}
	return nil
}

// attach makes the mount point and enters the mount. n.mountMu must be held.
func (n *Namespace) attach(ctx context.Context, s core.MountSpec, store ufs.Store) (core.MountInfo, error) {
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
	if some, err := n.occupied(ctx, &pl); err != nil || some {
		return core.MountInfo{}, errors.Join(err, errs.New("namespace.Mount", s.Path.String(), errs.Busy, "the directory is not empty"))
	}
	id, err := n.draw(ctx, &n.dirs)
	if err != nil {
		return core.MountInfo{}, err
	}
	m := n.withDefaults(fmt.Sprintf("m%x", id), s, rootOf(store, s))
	value, err := n.keep(m)
	if err != nil {
		return core.MountInfo{}, err
	}
	point := meta.Entry{Class: meta.Directory, Dir: meta.DirID(id), Explicit: true, Mount: true, MTime: time.Now().UnixNano(),
		Base: meta.Base{Kind: meta.Absolute, Store: m.ID}}
	// The store must be known before its point can be walked into.
	old := n.mounts.Load()
	n.mounts.Store(&mountSet{old.table.With(m), with(old.byID, n.mounted(m, store, nil))})
	defer n.answers.wrote(core.CallOf(ctx))
	_, err = n.log.Append(context.WithoutCancel(ctx), meta.Batch{
		Ops:  append(n.answered(core.CallOf(ctx), n.describe(m)), meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: point}),
		Puts: []meta.KeyValue{{Key: mountPrefix + m.ID, Value: value}},
	})
	if err != nil {
		n.mounts.Store(old)
		return core.MountInfo{}, err
	}
	return n.describe(m), nil
}

func (n *Namespace) occupied(ctx context.Context, pl *place) (bool, error) {
	_, err := n.lookupHeld(ctx, pl.path, true)
	if errs.KindOf(err) == errs.NotExist {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return n.hasVisible(ctx, pl)
}

// UpdateMount implements core.Mounts.
func (n *Namespace) UpdateMount(ctx context.Context, p core.Path, c core.MountChange) (core.MountInfo, error) {
	if err := n.admin(ctx); err != nil {
		return core.MountInfo{}, err
	}
	m := n.mounts.Load().table.At(p)
	if m == nil {
		return core.MountInfo{}, notMounted(p)
	}
	if err := n.updateMount(ctx, m.ID, c); err != nil {
		return core.MountInfo{}, err
	}
	return n.describe(n.mounts.Load().table.Get(m.ID)), nil
}

func notMounted(p core.Path) error {
	return errs.New("namespace.Mounts", p.String(), errs.NotExist, "nothing is mounted there")
}

func (n *Namespace) updateMount(ctx context.Context, id string, c core.MountChange) error {
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	old := n.mounts.Load()
	was := old.byID[id]
	if was == nil {
		return errs.New("namespace.Mounts", id, errs.NotExist, "the mount is gone")
	}
	s := was.MountSpec
	apply(&s.ReadOnly, c.ReadOnly)
	apply(&s.Owner, c.Owner)
	apply(&s.Group, c.Group)
	apply(&s.Mode, c.Mode)
	apply(&s.WriteType, c.WriteType)
	apply(&s.ReadType, c.ReadType)
	if c.SyncInterval != nil {
		s.SyncInterval = c.SyncInterval
	}
	if err := checkPolicies(s.WriteType, s.ReadType, s.Mode); err != nil {
		return err
	}
	if m := old.table.Without(id).Overlaps(was.Root); m != nil && !s.ReadOnly && was.ReadOnly {
		return errs.New("namespace.Mounts", s.Path.String(), errs.Invalid, "its store overlaps that of the writable mount "+m.Path.String())
	}
	var fresh ufs.Store
	if c.Options != nil {
		var err error
		if s.Options, fresh, err = n.reoption(ctx, was, c.Options); err != nil {
			return err
		}
	}
	m := n.withDefaults(id, s, was.Root)
	if fresh != nil && id != rootID {
		m.Root = rootOf(fresh, s)
	}
	value, err := n.keep(m)
	if err == nil {
		_, err = n.log.Append(context.WithoutCancel(ctx), meta.Batch{Puts: []meta.KeyValue{{Key: mountPrefix + id, Value: value}}})
	}
	if err != nil {
		return errors.Join(err, closeStore(fresh))
	}
	now := *was
	now.Mount = m
	if fresh != nil {
		now.outage = new(atomic.Pointer[string])
		now.store, now.features, now.err = n.watched(&now, fresh), fresh.Features(), nil
	}
	n.mounts.Store(&mountSet{old.table.With(m), with(old.byID, &now)})
	if fresh != nil {
		return closeStore(was.store)
	}
	return nil
}

// reoption opens and probes the mount's store with some of its options changed: how a secret is rotated.
func (n *Namespace) reoption(ctx context.Context, was *mounted, change map[string]string) (map[string]string, ufs.Store, error) {
	s := was.MountSpec
	s.Options = maps.Clone(s.Options)
	if s.Options == nil {
		s.Options = map[string]string{}
	}
	maps.Copy(s.Options, change)
	maps.DeleteFunc(s.Options, func(_, v string) bool { return v == "" })
	if s.Options["endpoint"] != was.Options["endpoint"] {
		return nil, nil, errs.New("namespace.Mounts", s.Path.String(), errs.Invalid, "another endpoint is another store; unmount this one and mount that")
	}
	store, err := n.open1(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	if err := n.probe(ctx, store, s); err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return s.Options, store, nil
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

// reopen tries the stores that did not open when the process started.
func (n *Namespace) reopen(ctx context.Context) {
	for id, m := range n.mounts.Load().byID {
		if m.err == nil {
			continue
		}
		if id == rootID {
			n.reopenRoot(ctx, m)
			continue
		}
		if _, err := n.sealer.Open(id, m.Options); err != nil {
			continue
		}
		store, err := n.open1(ctx, m.MountSpec)
		if err != nil {
			continue
		}
		n.mountMu.Lock()
		old := n.mounts.Load()
		if was := old.byID[id]; was != nil && was.err != nil {
			n.mounts.Store(&mountSet{old.table, with(old.byID, n.mounted(n.withDefaults(id, was.MountSpec, rootOf(store, was.MountSpec)), store, nil))})
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
	p = p.Dir()
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	old := n.mounts.Load()
	m := old.table.At(p)
	switch {
	case m == nil:
		return notMounted(p)
	case m.ID == rootID:
		return errs.New("namespace.Unmount", p.String(), errs.Invalid, "the root store cannot be unmounted")
	case old.table.Below(p):
		return errs.New("namespace.Unmount", p.String(), errs.Busy, "a mount lies below it; unmount that first")
	}
	unlock, err := n.locks.lock(ctx, p)
	if err != nil {
		return err
	}
	defer unlock()
	batch := meta.Batch{Ops: append(n.removeOps(n.walk(p)), n.answered(core.CallOf(ctx), nil)...), Deletes: []string{mountPrefix + m.ID}}
	staged := map[string]string{} // keys by the store's upload id
	n.tree.View(func(v meta.View) {
		for edge, e := range v.Children(meta.UploadsDir, "") {
			if e.Extra["mount"] == m.ID {
				staged[e.Extra["store_id"]] = e.Extra["key"]
				batch.Ops = append(batch.Ops, n.endUploadIn(v, strings.TrimSuffix(edge, "/"))...)
			}
		}
	})
	x := old.byID[m.ID]
	delete(staged, "")
	n.cancelUploads(ctx, x, staged) // first: the journal alone can name them
	defer n.answers.wrote(core.CallOf(ctx))
	if _, err := n.log.Append(context.WithoutCancel(ctx), batch); err != nil {
		return err
	}
	left := maps.Clone(old.byID)
	delete(left, m.ID)
	n.mounts.Store(&mountSet{old.table.Without(m.ID), left})
	return closeStore(x.store)
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
