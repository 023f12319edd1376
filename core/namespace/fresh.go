package namespace

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// interval returns how old facts about path, which lies in m, may be for the request, less than 0 if any age will do: what the
// request says, else the rule of the longest path, else the mount. The root store is Sluice's own, and not asked again.
func (n *Namespace) interval(ctx context.Context, m *mounted, path string) time.Duration {
	if a := core.MaxAgeOf(ctx); a.Set {
		return time.Duration(a.Seconds) * time.Second
	}
	if d, ok := n.rules.Load().SyncInterval(path); ok && m.ID != rootID {
		return d
	}
	return m.SyncInterval
}

// byPath reports whether the path matters to oldest.
func (n *Namespace) byPath() bool { return n.invalid.Load() != nil || n.rules.Load().Syncs() }

// oldest returns the time before which facts about path, which lies in m, are too old for the request, the zero time if any age
// will do. What was invalidated is too old for all.
func (n *Namespace) oldest(ctx context.Context, m *mounted, path string, now time.Time) (at time.Time) {
	interval := n.interval(ctx, m, path)
	if interval >= 0 && interval <= now.Sub(time.Time{})/2 { // a longer one is longer than the clock reaches back
		at = now.Add(-interval)
	}
	if x := n.invalid.Load(); x != nil {
		if taken := x.at(path); taken.After(at) {
			return taken
		}
	}
	return at
}

// oldestList is oldest for a listing of the directory.
func (n *Namespace) oldestList(ctx context.Context, m *mounted, dir string, now time.Time) time.Time {
	at := n.oldest(ctx, m, dir, now)
	if x := n.invalid.Load(); x != nil {
		if taken := x.inside(dir); taken.After(at) {
			return taken
		}
	}
	return at
}

// stale reports whether the file at the place, which the overlay has, must be compared with its store for the request.
func (n *Namespace) stale(ctx context.Context, p *place) bool {
	return !p.local() && n.tooOld(ctx, p.mount, p.path.String(), p.check)
}

// tooOld reports whether what was last compared with the store at the time check must be compared again for the request.
func (n *Namespace) tooOld(ctx context.Context, m *mounted, path string, check time.Time) bool {
	if m.err != nil || n.invalid.Load() == nil && n.interval(ctx, m, path) < 0 { // the clock, which takes long, does not matter
		return false
	}
	return check.Before(n.oldest(ctx, m, path, time.Now()))
}

// invalidated is a snapshot of what was invalidated and when, by the path as a directory. A path covers what is below it.
type invalidated struct {
	by map[string]time.Time
	in map[string]time.Time // by the directory that a path is in; what index makes of by
}

// index fills in what inside needs. x may be nil.
func (x *invalidated) index() *invalidated {
	if x == nil {
		return nil
	}
	x.in = make(map[string]time.Time, len(x.by))
	for path, t := range x.by {
		if above := above(path); t.After(x.in[above]) {
			x.in[above] = t
		}
	}
	return x
}

// above returns the directory that a directory is in; the root is in itself.
func above(dir string) string {
	return cmp.Or(dir[:strings.LastIndexByte(dir[:len(dir)-1], '/')+1], "/")
}

// inside returns when the directory, or a name in it, was last invalidated, the zero time if never: what was listed before may
// lack a name that is there by then, or show one that is gone.
func (x *invalidated) inside(dir string) time.Time {
	at := x.at(dir)
	if t := x.in[dir]; t.After(at) {
		return t
	}
	return at
}

// at returns when something that covers the path was last invalidated, the zero time if never.
func (x *invalidated) at(path string) (last time.Time) {
	if t, ok := x.by[path]; ok {
		last = t
	}
	if !strings.HasSuffix(path, "/") {
		if t := x.by[path+"/"]; t.After(last) {
			last = t
		}
	}
	for end := strings.LastIndexByte(path, '/') + 1; end > 0; end = strings.LastIndexByte(path[:end-1], '/') + 1 {
		if t := x.by[path[:end]]; t.After(last) {
			last = t
		}
	}
	return last
}

// with returns what is invalidated if the directory at is too, now; those below need not be remembered then.
func (x *invalidated) with(at string, now time.Time) *invalidated {
	all := map[string]time.Time{at: now}
	if x != nil {
		for path, t := range x.by {
			if !strings.HasPrefix(path, at) {
				all[path] = t
			}
		}
	}
	return &invalidated{by: all}
}

// coarser returns what is invalidated with the directory that each is in instead of it.
func (x *invalidated) coarser() *invalidated {
	all := map[string]time.Time{}
	for path, t := range x.by {
		if above := above(path); t.After(all[above]) {
			all[above] = t
		}
	}
	return &invalidated{by: all}
}

// bytes is how long the paths are together.
func (x *invalidated) bytes() (n int) {
	for path := range x.by {
		n += len(path)
	}
	return n
}

// invalidKey is the key of the list of paths that are invalidated, each ending in a slash.
const invalidKey = "sys/invalid"

// maxInvalidBytes bounds that list. One that is longer is of the directories above them instead.
const maxInvalidBytes = 64 << 10

// loadInvalid reads what was invalidated. When it was last compared with its store is not known any more: that is done again, once.
func (n *Namespace) loadInvalid(ctx context.Context) error {
	kvs, err := n.log.ListConfig(ctx, invalidKey)
	if err != nil || len(kvs) == 0 {
		return err
	}
	x, err := invalidOf(kvs[0])
	if err != nil { // too much is asked for again then; what keeps a leader from starting would cost more
		n.o.Logger.Error("the list of what was invalidated cannot be read; all is taken for invalidated", "key", invalidKey, "error", err)
		x = x.with("/", time.Now())
	}
	if len(x.by) > 0 {
		n.invalid.Store(x.index())
	}
	return nil
}

// invalidOf returns what the value of the key says was invalidated, as of now.
func invalidOf(kv meta.KeyValue) (*invalidated, error) {
	var paths []string
	if err := json.Unmarshal(kv.Value, &paths); err != nil {
		return nil, fmt.Errorf("the list of what was invalidated cannot be read: %w", err)
	}
	x := &invalidated{by: map[string]time.Time{}}
	for _, path := range paths {
		if p, err := core.ParsePath(path); err != nil || !p.IsDir() {
			return nil, fmt.Errorf("%q, which is said to be invalidated, is no directory", path)
		}
		x.by[path] = time.Now()
	}
	return x, nil
}

// Invalidate implements core.Syncer.
func (n *Namespace) Invalidate(ctx context.Context, paths ...core.Path) error {
	const op = "namespace.Invalidate"
	if err := maySync(ctx, op); err != nil {
		return err
	}
	if len(paths) == 0 || len(paths) > core.MaxInvalidated {
		return errs.New(op, "", errs.Invalid, "one to 1,000 paths can be invalidated at a time; for more, name a directory above them")
	}
	for _, p := range paths {
		if p.IsZero() {
			return errs.New(op, "", errs.Invalid, "a path is empty")
		}
		if len(p.Dir().String()) > core.MaxPath { // what is kept must be a path when it is read again
			return errs.New(op, "", errs.Invalid, fmt.Sprintf("a path has, with the slash of a directory, more than %d bytes", core.MaxPath))
		}
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	return n.setInvalid(ctx, n.invalidating(time.Now(), paths...))
}

// invalidating returns what is invalidated with the paths, now. n.mountMu must be held.
func (n *Namespace) invalidating(now time.Time, paths ...core.Path) *invalidated {
	x := n.invalid.Load()
	for _, p := range paths {
		x = x.with(p.Dir().String(), now)
	}
	for x.bytes() > maxInvalidBytes {
		x = x.coarser()
	}
	return x
}

// note returns what is invalidated as it is journaled.
func (x *invalidated) note() (meta.KeyValue, error) {
	value, err := json.Marshal(slices.Sorted(maps.Keys(x.by)))
	if err != nil {
		return meta.KeyValue{}, errs.E("namespace.Invalidate", invalidKey, errs.Invalid, err)
	}
	return meta.KeyValue{Key: invalidKey, Value: value}, nil
}

// setInvalid journals what is invalidated and lets it apply; nil: nothing is. n.mountMu must be held.
func (n *Namespace) setInvalid(ctx context.Context, x *invalidated) error {
	b := meta.Batch{Deletes: []string{invalidKey}}
	if x != nil {
		note, err := x.note()
		if err != nil {
			return err
		}
		b = meta.Batch{Puts: []meta.KeyValue{note}}
	}
	if _, err := n.log.Append(context.WithoutCancel(ctx), b); err != nil {
		return err
	}
	n.invalid.Store(x.index())
	return nil
}

func maySync(ctx context.Context, op string) error {
	if !core.PrincipalOf(ctx).Super {
		return errs.New(op, "", errs.Permission, "only the superuser may")
	}
	return nil
}

// revalidated forgets what was invalidated in the directory before the time at: all in it was compared with its store since.
func (n *Namespace) revalidated(ctx context.Context, dir core.Path, at time.Time) error {
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	was := n.invalid.Load()
	if was == nil {
		return nil
	}
	left := maps.Clone(was.by)
	maps.DeleteFunc(left, func(path string, t time.Time) bool {
		return strings.HasPrefix(path, dir.Dir().String()) && t.Before(at)
	})
	switch len(left) {
	case len(was.by):
		return nil
	case 0:
		return n.setInvalid(ctx, nil)
	}
	return n.setInvalid(ctx, &invalidated{by: left})
}
