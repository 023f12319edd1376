package gateway

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/azureufs"
	"github.com/sluicefs/sluice/ufs/gcsufs"
	"github.com/sluicefs/sluice/ufs/hdfsufs"
	"github.com/sluicefs/sluice/ufs/httpufs"
	"github.com/sluicefs/sluice/ufs/localufs"
	"github.com/sluicefs/sluice/ufs/s3ufs"
	"github.com/sluicefs/sluice/ufs/webhdfsufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// drivers returns the kinds of stores that can be mounted.
func drivers() *ufs.Registry {
	r := &ufs.Registry{}
	r.Register("file", localufs.OpenURI)
	r.Register("s3", s3ufs.OpenURI)
	r.Register("gs", gcsufs.OpenURI)
	r.Register("hdfs", hdfsufs.OpenURI)
	r.Register("webhdfs", webhdfsufs.OpenURI)
	r.Register("swebhdfs", webhdfsufs.OpenURI)
	r.Register("http", httpufs.OpenURI)
	r.Register("https", httpufs.OpenURI)
	for _, scheme := range []string{"azure", "wasb", "wasbs", "abfs", "abfss"} {
		r.RegisterWithin(scheme, azureufs.OpenURI)
	}
	return r
}

// openStore opens the store of a mount. Of a configured mount the options of the configuration win over those that the
// namespace kept when it was made, so that a changed secret takes effect at the next start. They are nobody else's: a mount
// made over the admin API shows that its maker knows the secret.
func (g *gateway) openStore(ctx context.Context, mount core.MountSpec) (ufs.Store, error) {
	uri, options := mount.URI, g.optionsOf(mount)
	s, err := drivers().Open(ctx, uri, options)
	if err != nil {
		return nil, err
	}
	o := wrap.IsolateOptions{Calls: storeCalls, Queue: storeQueue, Name: mount.Path.File().String(), Logger: g.log}
	if s.Features().Kind == "local" {
		// A call of the kernel can neither be given up nor is it worth repeating.
		return g.isolations.add(mount, g.observed(uri, s), o), nil
	}
	o.Adapt = true
	s = g.observed(uri, wrap.Timeout(s, storeAnswer, storeWork))
	return wrap.Retry(g.isolations.add(mount, s, o), storeTries, storePause), nil
}

// optionsOf returns the options of a mount that count.
func (g *gateway) optionsOf(mount core.MountSpec) map[string]string {
	uri, options := mount.URI, mount.Options
	for _, m := range g.cfg.Mounts {
		spec, err := m.Spec()
		if err == nil && mount.Origin == core.FromConfig && spec.Path.Dir() == mount.Path.Dir() && spec.URI == uri &&
			spec.Options["endpoint"] == options["endpoint"] {
			if options = spec.Options; options[core.SecretOption] != "" { // what the namespace has taken from it stays
				options = maps.Clone(mount.Options)
				maps.Copy(options, spec.Options)
				delete(options, core.SecretOption)
			}
		}
	}
	return options
}

// The bounds of a mounted store, so that one that is slow or down keeps its trouble to itself. A client of each has
// connections of its own (web.NewClient, hdfsufs).
const (
	storeCalls  = 256 // running at once; an object store's throughput grows until about there
	storeQueue  = 4096
	storeAnswer = 30 * time.Second // of a healthy store under load, or of one part of an upload over a slow line
	storeWork   = 15 * time.Minute // a server-side copy or a completion of 5 GiB and more
	storeTries  = 3
	storePause  = 100 * time.Millisecond
)

// observed counts the calls of a store. name is what they are labelled with.
func (g *gateway) observed(name string, s ufs.Store) ufs.Store {
	waits := g.processors != nil && s.Features().Kind == "local"
	return wrap.Observe(s, func(e wrap.Event) {
		g.metrics.StoreCall(name, string(e.Op), int64(e.Bytes), e.Duration, e.Err)
		if waits {
			g.processors.called(e)
		}
	})
}

// mountConfigured makes the mounts of origin config those of the configuration: new ones are made, changed ones updated,
// others unmounted. A mount that cannot be made ends the start; one that was there already and whose store does not answer
// does not, and says so in its state.
func (g *gateway) mountConfigured(ctx context.Context, mounts core.Mounts) error {
	ctx, err := g.superuser(ctx)
	if err != nil {
		return err
	}
	all, err := mounts.Mounts(ctx)
	if err != nil {
		return err
	}
	there := map[string]core.MountInfo{}
	for _, m := range all {
		there[m.Path.Dir().String()] = m
	}
	var wanted []core.MountSpec
	for _, m := range g.cfg.Mounts {
		spec, err := m.Spec()
		if err != nil {
			return err
		}
		wanted = append(wanted, spec)
	}
	// Masters may be given a new configuration one after the other: only who is alone takes what is missing for removed.
	if g.cfg.Alone() {
		stay, err := g.unmountOthers(ctx, mounts, there, wanted)
		if err != nil {
			return err
		}
		wanted = slices.DeleteFunc(wanted, func(s core.MountSpec) bool { return stay[s.Path.String()] })
	}
	// Parents come first: a mount point is made inside what is mounted above it.
	slices.SortFunc(wanted, func(a, b core.MountSpec) int { return cmp.Compare(a.Path.String(), b.Path.String()) })
	for _, spec := range wanted {
		if err := g.mount(ctx, mounts, there, spec); err != nil {
			return fmt.Errorf("mount %s: %w", spec.Path, err)
		}
	}
	return nil
}

// unmountOthers unmounts what the configuration no longer has, or has another store for, deepest first. What would be lost with a mount
// keeps it as it is, and does not keep the rest from starting: it is finished or given up only while Sluice runs. Those paths are returned.
func (g *gateway) unmountOthers(ctx context.Context, mounts core.Mounts, there map[string]core.MountInfo, wanted []core.MountSpec) (stay map[string]bool, err error) {
	stay = map[string]bool{}
	keep := map[string]core.MountSpec{}
	for _, spec := range wanted {
		keep[spec.Path.String()] = spec
	}
	paths := slices.Sorted(maps.Keys(there))
	slices.Reverse(paths)
	for _, path := range paths {
		m := there[path]
		spec, ok := keep[path]
		same := ok && spec.URI == m.URI && spec.Options["endpoint"] == m.Options["endpoint"]
		if m.Path.IsRoot() || m.Origin != core.FromConfig || same {
			continue
		}
		err := mounts.Unmount(ctx, m.Path)
		if errs.KindOf(err) == errs.Busy {
			g.log.Error("a mount that the configuration no longer has stays until a later start", "path", path, "store", m.URI, "err", err)
			stay[path] = true
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("unmount %s, which the configuration no longer has: %w", path, err)
		}
		delete(there, path)
		g.log.Warn("unmounted what the configuration no longer has", "path", path, "store", m.URI)
	}
	return stay, nil
}

func (g *gateway) mount(ctx context.Context, mounts core.Mounts, there map[string]core.MountInfo, spec core.MountSpec) error {
	was, ok := there[spec.Path.String()]
	if !ok {
		_, err := mounts.Mount(ctx, spec)
		return err
	}
	if was.Origin != core.FromConfig {
		return errs.New("gateway.Mount", spec.URI, errs.Exist,
			"a mount made over the admin API is there; unmount it with `sluice mount rm`, or take it out of the configuration")
	}
	interval := cmp.Or(spec.SyncInterval, (*time.Duration)(&g.cfg.SyncInterval))
	delay := cmp.Or(spec.PersistDelay, &g.cfg.PersistDelay)
	low := core.DefaultCopies
	if spec.ReplicationMin != nil {
		low = *spec.ReplicationMin
	}
	_, err := mounts.UpdateMount(ctx, spec.Path, core.MountChange{
		ReadOnly: &spec.ReadOnly, SyncInterval: interval, Owner: &spec.Owner, Group: &spec.Group, Mode: &spec.Mode,
		WriteType: &spec.WriteType, ReadType: &spec.ReadType,
		Replicas: &spec.Replicas, PersistDelay: delay,
		ReplicationMin: &low, ReplicationMax: &spec.ReplicationMax, LoadType: &spec.LoadType,
	})
	return err
}
