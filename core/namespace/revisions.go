package namespace

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/mount"
	"github.com/sluicefs/sluice/core/seal"
)

// revisionPrefix starts the key sys/revisions/<number, 16 hexadecimal digits> of every revision that is remembered.
const revisionPrefix = "sys/revisions/"

// revision is the value of such a key.
type revision struct {
	Number  uint64    `json:"number"`
	At      int64     `json:"at"`
	By      string    `json:"by,omitempty"`
	What    string    `json:"what"`
	Changes []revised `json:"changes,omitempty"`
}

// revised is a mount or a path rule before and after a revision, as it is kept: null if there was none. Secret options are
// sealed, or left out if there is no key.
type revised struct {
	Mount  string          `json:"mount,omitempty"` // the mount point, or
	Rule   string          `json:"rule,omitempty"`  // the path as a directory
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

func revisionKey(number uint64) string { return fmt.Sprintf("%s%016x", revisionPrefix, number) }

func revisionOf(kv meta.KeyValue) (r revision, err error) {
	if err = json.Unmarshal(kv.Value, &r); err == nil && revisionKey(r.Number) != kv.Key {
		err = fmt.Errorf("it says that it is number %d", r.Number)
	}
	return r, err
}

// loadHistory reads the revisions that the journal has.
func (n *Namespace) loadHistory(ctx context.Context) error {
	kvs, err := n.log.ListConfig(ctx, revisionPrefix)
	if err != nil {
		return err
	}
	n.past = make([]revision, len(kvs))
	for i, kv := range kvs {
		if n.past[i], err = revisionOf(kv); err != nil {
			return errs.E("namespace.Open", kv.Key, errs.Corrupt, err)
		}
	}
	return nil
}

// becauseKey is the context key of what a change is made for.
type becauseKey struct{}

// journalTable journals b as a revision: what says what was done. n.mountMu must be held.
func (n *Namespace) journalTable(ctx context.Context, b meta.Batch, what string, changes ...revised) error {
	r := revision{Number: 1, At: time.Now().UnixNano(), By: core.PrincipalOf(ctx).User, What: what, Changes: changes}
	if because, ok := ctx.Value(becauseKey{}).(string); ok {
		r.What = because + ": " + what
	}
	past := n.past
	if l := len(past); l > 0 {
		r.Number = past[l-1].Number + 1
	}
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	b.Puts = append(b.Puts, meta.KeyValue{Key: revisionKey(r.Number), Value: value})
	for len(past) >= core.MaxRevisions {
		b.Deletes, past = append(b.Deletes, revisionKey(past[0].Number)), past[1:]
	}
	if _, err := n.recordingBatch(ctx, b)(); err != nil {
		return err
	}
	n.past = append(slices.Clone(past), r)
	return nil
}

// revisedMount returns the change of a mount; nil: there is none.
func (n *Namespace) revisedMount(before, after *mount.Mount) (x revised, err error) {
	if before != nil {
		x.Mount = before.Path.Dir().String()
		if x.Before, err = n.keepRevised(before); err != nil {
			return x, err
		}
	}
	if after != nil {
		x.Mount = after.Path.Dir().String()
		x.After, err = n.keepRevised(after)
	}
	return x, err
}

// MountHistory implements core.MountLife.
func (n *Namespace) MountHistory(ctx context.Context) ([]core.Revision, error) {
	if err := n.admin(ctx); err != nil {
		return nil, err
	}
	n.mountMu.Lock()
	past := n.past
	n.mountMu.Unlock()
	all := make([]core.Revision, 0, len(past))
	for _, r := range slices.Backward(past) {
		all = append(all, core.Revision{Number: r.Number, At: time.Unix(0, r.At), By: r.By, What: r.What})
	}
	return all, nil
}

// stateAfter returns what mounts and rules were after the revision, of those that were changed since; nil: there was none. order has the
// paths of the mounts, the one that was changed first last: what another mount had to make room for is free when its turn comes.
// n.mountMu must be held.
func (n *Namespace) stateAfter(rev uint64) (mounts, rules map[string]json.RawMessage, order []string, err error) {
	past := n.past
	if len(past) == 0 || rev+1 < past[0].Number || rev > past[len(past)-1].Number {
		return nil, nil, nil, errs.New("namespace.RollbackMounts", fmt.Sprint(rev), errs.NotExist,
			"the revision is not remembered; `sluice mount history` lists those that are")
	}
	mounts, rules = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	for _, r := range slices.Backward(past) {
		if r.Number <= rev {
			break
		}
		for _, x := range r.Changes {
			if x.Mount != "" {
				mounts[x.Mount] = x.Before
				order = append(slices.DeleteFunc(order, func(p string) bool { return p == x.Mount }), x.Mount)
			} else {
				rules[x.Rule] = x.Before
			}
		}
	}
	return mounts, rules, order, nil
}

// RollbackMounts implements core.MountLife.
func (n *Namespace) RollbackMounts(ctx context.Context, rev uint64, o core.LifeOptions) (did []string, err error) {
	if err := n.mayChangeTable(ctx); err != nil {
		return nil, err
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	mounts, rules, paths, err := n.stateAfter(rev)
	if err != nil {
		return nil, err
	}
	ctx = context.WithValue(ctx, becauseKey{}, fmt.Sprintf("rollback to %d", rev))
	step := &tableChange{LifeOptions: o, table: n.mounts.Load().table, again: true}
	note := func(r core.MountReport, err error) error {
		did = append(append(did, r.Did...), r.GaveUp...)
		if !o.DryRun {
			step.table = n.mounts.Load().table
		}
		return err
	}
	for _, path := range paths {
		p, err := core.ParsePath(path)
		if err != nil {
			return did, err
		}
		if mounts[path] == nil && step.table.At(p) != nil {
			if err := note(n.removeHeld(ctx, p, step)); err != nil {
				return did, err
			}
		}
	}
	for _, path := range paths {
		if mounts[path] == nil {
			continue
		}
		if err := note(n.restoreMount(ctx, mounts[path], step)); err != nil {
			return did, err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(rules)) {
		kv := meta.KeyValue{Key: rulePrefix + path, Value: rules[path]}
		if kv.Value == nil {
			kv.Value = []byte("{}")
		}
		rule, err := ruleOf(kv)
		if err != nil {
			return did, errs.E("namespace.RollbackMounts", path, errs.Corrupt, err)
		}
		now := n.rules.Load()
		if was := now.At(rule.Path); was != nil && reflect.DeepEqual(*was, rule.Policies) || was == nil && rule.Policies == (core.Policies{}) {
			continue
		}
		if err := checkData("namespace.RollbackMounts", &rule.Policies); err != nil {
			return did, err
		}
		if !o.DryRun {
			if err := n.changeRule(ctx, now, rule); err != nil {
				return did, err
			}
		}
		did = append(did, whatRule(rule))
	}
	if len(did) == 0 {
		did = []string{"mounts and path rules are as they were then; nothing is changed"}
	}
	return did, nil
}

// restoreMount makes the mount what its record says.
func (n *Namespace) restoreMount(ctx context.Context, kept json.RawMessage, o *tableChange) (core.MountReport, error) {
	var r record
	err := json.Unmarshal(kept, &r)
	var want core.MountSpec
	if err == nil {
		want, err = r.spec()
	}
	if err != nil {
		return core.MountReport{}, errs.E("namespace.RollbackMounts", r.Path, errs.Corrupt, err)
	}
	want.Options, err = n.sealer.Open(r.ID, want.Options)
	if err != nil {
		return core.MountReport{}, err
	}
	o.root, o.is = r.Root, r.Is
	m := o.table.At(want.Path)
	for _, name := range r.LeftOut {
		if m == nil || m.Options[name] == "" || !sameServer(m.MountSpec, want) {
			return core.MountReport{}, errs.New("namespace.RollbackMounts", r.Path, errs.Invalid,
				"its option "+name+" is not remembered, since there was no secret_key_file to seal it; make the change by hand, with that option")
		}
		if want.Options == nil {
			want.Options = map[string]string{}
		}
		want.Options[name] = m.Options[name]
	}
	if m == nil {
		return n.addHeld(ctx, want, o)
	}
	was := n.mountOf(m.ID)
	if was == nil {
		return core.MountReport{}, notMounted(want.Path)
	}
	if was.URI == want.URI && was.Options["endpoint"] == want.Options["endpoint"] && was.features.Remote && r.Root != "" && r.Root != was.Root {
		return core.MountReport{}, errs.New("namespace.RollbackMounts", r.Path, errs.Invalid,
			"what is mounted there now is another store under the same URI; unmount it, and mount the one of then with options that lead to it")
	}
	access, low := want.Access(), core.DefaultCopies
	if want.ReplicationMin != nil {
		low = *want.ReplicationMin
	}
	options := backTo(m.Options, want.Options)
	if !sameServer(m.MountSpec, want) { // what was kept for that one goes there, and nothing else
		options = map[string]string{}
		maps.Copy(options, want.Options)
		for name := range m.Options {
			if _, ok := options[name]; !ok {
				options[name] = ""
			}
		}
	}
	c := core.MountEdit{MountChange: core.MountChange{
		Owner: &want.Owner, Group: &want.Group, Mode: &want.Mode, WriteType: &want.WriteType, ReadType: &want.ReadType,
		Replicas: &want.Replicas, SyncInterval: want.SyncInterval, PersistDelay: want.PersistDelay,
		ReplicationMin: &low, ReplicationMax: &want.ReplicationMax, LoadType: &want.LoadType, Options: options,
	}, Access: &access, URI: &want.URI, DefaultSyncInterval: want.SyncInterval == nil, DefaultPersistDelay: want.PersistDelay == nil}
	if was.URI == want.URI && was.Options["endpoint"] == want.Options["endpoint"] {
		c.URI = nil // policies are taken back while another directory, or none, is at the place of the mounted one too
	}
	return n.editHeld(ctx, was, c, o)
}

// backTo returns the changes that make options those that are wanted. A secret that is there in both stays what it is now.
func backTo(now, want map[string]string) map[string]string {
	change := map[string]string{}
	for name, value := range want {
		if is, ok := now[name]; !ok || !seal.Secret(name) && is != value {
			change[name] = value
		}
	}
	for name := range now {
		if _, ok := want[name]; !ok {
			change[name] = ""
		}
	}
	if len(change) == 0 {
		return nil
	}
	return change
}

// whatRule says in a sentence what a rule was made.
func whatRule(r core.PathRule) string {
	var set []string
	for _, s := range core.Settings() {
		if r.Has(s) {
			set = append(set, string(s))
		}
	}
	path := cmp.Or(r.Path.File().String(), "/")
	if len(set) == 0 {
		return "the path rule of " + path + " was removed"
	}
	return "the path rule of " + path + " was set (" + strings.Join(set, ", ") + ")"
}
