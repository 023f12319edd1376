package namespace

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// aliasPrefix starts the key sys/bucket/<name> of every bucket alias.
const aliasPrefix = "sys/bucket/"

// aliasRecord is the value of such a key.
type aliasRecord struct {
	Path string `json:"path"`
}

// aliasOf returns the alias of a key.
func aliasOf(kv meta.KeyValue) (core.BucketAlias, error) {
	var r aliasRecord
	a := core.BucketAlias{Name: strings.TrimPrefix(kv.Key, aliasPrefix)}
	err := json.Unmarshal(kv.Value, &r)
	if err == nil {
		a.Path, err = core.ParsePath(r.Path)
	}
	if err == nil && !core.BucketName(a.Name) {
		err = fmt.Errorf("%q is no name of a bucket", a.Name)
	}
	a.Path = a.Path.Dir()
	return a, err
}

// loadAliases reads the bucket aliases that the journal has.
func (n *Namespace) loadAliases(ctx context.Context) error {
	kvs, err := n.log.ListConfig(ctx, aliasPrefix)
	if err != nil {
		return err
	}
	all := make(map[string]core.Path, len(kvs))
	for _, kv := range kvs {
		a, err := aliasOf(kv)
		if err != nil {
			return errs.E("namespace.Open", kv.Key, errs.Corrupt, err)
		}
		all[a.Name] = a.Path
	}
	n.aliases.Store(&all)
	return nil
}

// BucketAlias implements core.Buckets.
func (n *Namespace) BucketAlias(_ context.Context, name string) (core.Path, bool, error) {
	p, ok := (*n.aliases.Load())[name]
	return p, ok, nil
}

// BucketAliases implements core.Buckets.
func (n *Namespace) BucketAliases(context.Context) ([]core.BucketAlias, error) {
	all := *n.aliases.Load()
	out := make([]core.BucketAlias, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, core.BucketAlias{Name: name, Path: all[name]})
	}
	return out, nil
}

// SetBucketAlias implements core.BucketAdmin.
func (n *Namespace) SetBucketAlias(ctx context.Context, name string, at core.Path) (core.BucketAlias, error) {
	const op = "namespace.SetBucketAlias"
	if !core.PrincipalOf(ctx).Super {
		return core.BucketAlias{}, errs.New(op, name, errs.Permission, "only the superuser manages bucket aliases")
	}
	if !core.BucketName(name) {
		return core.BucketAlias{}, errs.New(op, name, errs.Invalid,
			"it is no name of a bucket: 3 to 63 lower-case letters, digits, dots and hyphens, with a letter or digit at both ends, no two dots in a row, and no address")
	}
	at = at.Dir()
	if _, there := (*n.aliases.Load())[name]; !there { // one that is there hides from S3 what came to have its name, wherever it points
		if err := n.freeForAlias(ctx, op, name); err != nil {
			return core.BucketAlias{}, err
		}
	}
	if _, err := n.lookup(ctx, at); errs.KindOf(err) == errs.NotExist {
		if _, err := n.lookup(ctx, at.File()); err == nil && !at.IsRoot() {
			return core.BucketAlias{}, errs.New(op, at.File().String(), errs.NotDir, "a bucket stands for a directory, and this is a file")
		}
		return core.BucketAlias{}, errs.New(op, at.String(), errs.NotExist, "there is no such directory; make it first")
	} else if err != nil {
		return core.BucketAlias{}, err
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	all := maps.Clone(*n.aliases.Load())
	if _, there := all[name]; !there && len(all) >= core.MaxBucketAliases {
		return core.BucketAlias{}, errs.New(op, name, errs.NoSpace, fmt.Sprintf("there are %d bucket aliases, and no more may be; remove some", core.MaxBucketAliases))
	}
	size := len(name) + len(at.String())
	for other, p := range all {
		if other != name {
			size += len(other) + len(p.String())
		}
	}
	if size > core.MaxBucketAliasBytes {
		return core.BucketAlias{}, errs.New(op, name, errs.NoSpace,
			fmt.Sprintf("the names and paths of all bucket aliases would have %d bytes together, and may have %d; remove some", size, core.MaxBucketAliasBytes))
	}
	value, err := json.Marshal(aliasRecord{at.String()})
	if err != nil {
		return core.BucketAlias{}, errs.E(op, name, errs.Invalid, err)
	}
	if _, err := n.log.Append(context.WithoutCancel(ctx), meta.Batch{Puts: []meta.KeyValue{{Key: aliasPrefix + name, Value: value}}}); err != nil {
		return core.BucketAlias{}, err
	}
	all[name] = at
	n.aliases.Store(&all)
	return core.BucketAlias{Name: name, Path: at}, nil
}

// freeForAlias reports errs.Exist if something at the root has the name: what is a bucket already must not turn into another one.
func (n *Namespace) freeForAlias(ctx context.Context, op, name string) error {
	p, err := core.ParseEither("/" + name)
	if err != nil {
		return errs.E(op, name, errs.Invalid, err)
	}
	switch _, err := n.resolve(ctx, p); {
	case err == nil:
		return errs.New(op, name, errs.Exist, "there is a directory, mount or file /"+name+", which the alias would hide from S3; choose another name")
	case errs.KindOf(err) == errs.NotExist:
		return nil
	default:
		return err
	}
}

// RemoveBucketAlias implements core.BucketAdmin.
func (n *Namespace) RemoveBucketAlias(ctx context.Context, name string) error {
	const op = "namespace.RemoveBucketAlias"
	if !core.PrincipalOf(ctx).Super {
		return errs.New(op, name, errs.Permission, "only the superuser manages bucket aliases")
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	all := maps.Clone(*n.aliases.Load())
	if _, there := all[name]; !there {
		return errs.New(op, name, errs.NotExist, "there is no such bucket alias")
	}
	if _, err := n.log.Append(context.WithoutCancel(ctx), meta.Batch{Deletes: []string{aliasPrefix + name}}); err != nil {
		return err
	}
	delete(all, name)
	n.aliases.Store(&all)
	return nil
}
