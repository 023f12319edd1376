package namespace

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/mount"
)

// rulePrefix starts the key sys/rule<path> of every path that has a rule; the path ends in a slash.
const rulePrefix = "sys/rule"

// ruleRecord is the value of such a key.
type ruleRecord struct {
	WriteType      core.WriteType `json:"write_type,omitempty"`
	ReadType       core.ReadType  `json:"read_type,omitempty"`
	Replicas       int            `json:"replicas,omitempty"`
	PersistDelay   *time.Duration `json:"persist_delay,omitempty"`
	ReplicationMin *int           `json:"replication_min,omitempty"`
	ReplicationMax int            `json:"replication_max,omitempty"`
	RenameThrough  *time.Duration `json:"rename_through_timeout,omitempty"`
	SyncInterval   *time.Duration `json:"sync_interval,omitempty"`
	LoadType       core.LoadType  `json:"load_type,omitempty"`
}

func keepRule(r core.PathRule) (meta.KeyValue, error) {
	b, err := json.Marshal(ruleRecord(r.Policies))
	return meta.KeyValue{Key: rulePrefix + r.Path.Dir().String(), Value: b}, err
}

// ruleOf returns the rule of a key.
func ruleOf(kv meta.KeyValue) (core.PathRule, error) {
	var r ruleRecord
	p, err := core.ParsePath(strings.TrimPrefix(kv.Key, rulePrefix))
	if err == nil {
		err = json.Unmarshal(kv.Value, &r)
	}
	return core.PathRule{Path: p, Policies: core.Policies(r)}, err
}

// loadRules reads the path rules that the journal has.
func (n *Namespace) loadRules(ctx context.Context) error {
	kvs, err := n.log.ListConfig(ctx, rulePrefix+"/")
	if err != nil {
		return err
	}
	all := make([]core.PathRule, len(kvs))
	for i, kv := range kvs {
		if all[i], err = ruleOf(kv); err != nil {
			return errs.E("namespace.Open", kv.Key, errs.Corrupt, err)
		}
	}
	n.rules.Store(mount.NewRules(all))
	return nil
}

// policies returns what applies to the data of what has the path p in m.
func (n *Namespace) policies(m *mounted, p core.Path) core.Policies {
	own := m.Policies()
	return n.rules.Load().Over(p, &own)
}

// readType returns what a read of the path p in m does to the cache.
func (n *Namespace) readType(ctx context.Context, m *mounted, p core.Path) core.ReadType {
	if t := core.ReadTypeOf(ctx); t != "" {
		return t
	}
	if n.rules.Load() == nil {
		return m.ReadType
	}
	return n.policies(m, p).ReadType
}

// copies returns how many workers are to keep what is cached of the path p in m: none where nothing is.
func (n *Namespace) copies(m *mounted, p core.Path) core.Copies {
	own := m.Policies()
	if n.rules.Load() != nil {
		own = n.policies(m, p)
	}
	c := own.Copies()
	if own.ReadType == core.NoCache {
		c.Min = 0
	}
	return c
}

// Kept returns the directories below which replication_min may be more than 0, none of which lies below another. It is for who has
// workers keep what is there.
func (n *Namespace) Kept() (dirs []core.Path) {
	var all []core.Path
	for _, m := range n.mounts.Load().table.All() {
		if m.ReplicationMin > 0 {
			all = append(all, m.Path.Dir())
		}
	}
	for _, r := range n.rules.Load().All() {
		if r.ReplicationMin != nil && *r.ReplicationMin > 0 {
			all = append(all, r.Path)
		}
	}
	slices.SortFunc(all, func(a, b core.Path) int { return strings.Compare(a.String(), b.String()) })
	for _, p := range all { // what is above sorts before what is below
		if l := len(dirs); l == 0 || !strings.HasPrefix(p.String(), dirs[l-1].String()) {
			dirs = append(dirs, p)
		}
	}
	return dirs
}

func (n *Namespace) mayRule(ctx context.Context, p core.Path) error {
	if !core.PrincipalOf(ctx).Super {
		return errs.New("namespace.PathRules", p.String(), errs.Permission, "only the superuser manages path rules")
	}
	return nil
}

// PathRules implements core.PathRules.
func (n *Namespace) PathRules(ctx context.Context) ([]core.PathRule, error) {
	if err := n.mayRule(ctx, core.Path{}); err != nil {
		return nil, err
	}
	return n.rules.Load().All(), nil
}

// SetPathRule implements core.PathRules.
func (n *Namespace) SetPathRule(ctx context.Context, at core.Path, p core.Policies) (core.PathRule, error) {
	const op = "namespace.SetPathRule"
	if err := n.mayRule(ctx, at); err != nil {
		return core.PathRule{}, err
	}
	if at.IsZero() || p == (core.Policies{}) {
		return core.PathRule{}, errs.New(op, at.String(), errs.Invalid, "a rule has a path and at least one setting")
	}
	if err := checkData(op, &p); err != nil {
		return core.PathRule{}, err
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	old := n.rules.Load()
	rule := core.PathRule{Path: at.Dir(), Policies: p}
	if was := old.At(at); was != nil {
		rule.Policies = p.Over(was)
		if err := checkData(op, &rule.Policies); err != nil { // what it names may not go with what is there
			return core.PathRule{}, err
		}
	} else if len(old.All()) >= core.MaxPathRules {
		return core.PathRule{}, errs.New(op, at.String(), errs.NoSpace, fmt.Sprintf("there are %d path rules, and no more may be; remove some, or set it for a directory above", core.MaxPathRules))
	}
	return rule, n.changeRule(ctx, old, rule)
}

// RemovePathRule implements core.PathRules.
func (n *Namespace) RemovePathRule(ctx context.Context, at core.Path, settings ...core.Setting) error {
	if err := n.mayRule(ctx, at); err != nil {
		return err
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	old := n.rules.Load()
	was := old.At(at)
	if was == nil {
		return errs.New("namespace.RemovePathRule", at.String(), errs.NotExist, "the path has no rule of its own")
	}
	rule := core.PathRule{Path: at.Dir()}
	if len(settings) > 0 {
		rule.Policies = *was
	}
	for _, s := range settings {
		if !was.Has(s) {
			return errs.New("namespace.RemovePathRule", at.String(), errs.NotExist, "the path's rule does not set "+string(s))
		}
		rule.Policies.Take(s, &core.Policies{})
	}
	return n.changeRule(ctx, old, rule)
}

// changeRule journals a rule, or that it is gone if it sets nothing, and lets it apply. n.mountMu must be held.
func (n *Namespace) changeRule(ctx context.Context, old *mount.Rules, rule core.PathRule) error {
	kv, err := keepRule(rule)
	if err != nil {
		return errs.E("namespace.PathRules", rule.Path.String(), errs.Invalid, err)
	}
	b := meta.Batch{Puts: []meta.KeyValue{kv}}
	if rule.Policies == (core.Policies{}) {
		b = meta.Batch{Deletes: []string{kv.Key}}
	}
	x := revised{Rule: rule.Path.Dir().String()}
	if was := old.At(rule.Path); was != nil {
		before, err := keepRule(core.PathRule{Path: rule.Path, Policies: *was})
		if err != nil {
			return err
		}
		x.Before = before.Value
	}
	if len(b.Puts) > 0 {
		x.After = kv.Value
	}
	if err := n.journalTable(ctx, b, whatRule(rule), x); err != nil {
		return err
	}
	n.rules.Store(old.With(rule))
	n.holds.reconsider()
	return nil
}

// PoliciesAt implements core.PathRules.
func (n *Namespace) PoliciesAt(ctx context.Context, p core.Path) ([]core.Policy, error) {
	if err := n.mayRule(ctx, p); err != nil {
		return nil, err
	}
	m := n.walk(p).mount
	if m == nil {
		return nil, errs.New("namespace.PoliciesAt", p.String(), errs.NotExist, "what was mounted there has gone")
	}
	return n.policiesAt(m, p), nil
}

// policiesAt returns what applies to what has the path p in m, every setting with where it comes from.
func (n *Namespace) policiesAt(m *mounted, p core.Path) (all []core.Policy) {
	rules := n.rules.Load()
	own := core.Policies{WriteType: m.MountSpec.WriteType, ReadType: m.MountSpec.ReadType, Replicas: m.Replicas, PersistDelay: m.MountSpec.PersistDelay,
		ReplicationMin: m.MountSpec.ReplicationMin, ReplicationMax: m.MountSpec.ReplicationMax, SyncInterval: m.MountSpec.SyncInterval,
		LoadType: m.MountSpec.LoadType}
	if m.ID == rootID { // nothing of it is ever unknown
		own.LoadType = ""
	}
	var how core.WriteType
	for _, s := range core.Settings() {
		is := core.Policy{Setting: s, Origin: core.FromDefault}
		switch {
		case own.Has(s):
			is.Value.Take(s, &own)
			is.Origin, is.Path = core.FromMount, m.Path
		case s == core.SetWriteType:
			is.Value.WriteType = m.WriteType
		case s == core.SetReadType:
			is.Value.ReadType = m.ReadType
		case s == core.SetReplicas:
			is.Value.Replicas = n.o.Replicas
		case s == core.SetPersistDelay:
			is.Value.PersistDelay = &n.o.PersistDelay
		case s == core.SetRenameThrough:
			is.Value.RenameThrough = &n.o.RenameThrough
		case s == core.SetSyncInterval:
			is.Value.SyncInterval = &m.SyncInterval
		case s == core.SetLoadType:
			is.Value.LoadType = m.LoadType
		case s == core.SetCopiesMin:
			is.Value.ReplicationMin = &n.o.ReplicationMin
		case s == core.SetCopiesMax:
			is.Value.ReplicationMax = max(n.o.ReplicationMax, 1)
			if n.o.ReplicationMax == core.AllWorkers {
				is.Value.ReplicationMax = core.AllWorkers
			}
		}
		rules.Above(p, func(dir string, one *core.Policies) bool {
			if !one.Has(s) || (s == core.SetSyncInterval || s == core.SetLoadType) && m.ID == rootID {
				return true
			}
			is.Value = core.Policies{}
			is.Value.Take(s, one)
			is.Origin = core.FromRule
			is.Path, _ = core.ParsePath(dir) // it was one
			return false
		})
		if s == core.SetWriteType {
			how = is.Value.WriteType
		}
		if is.Origin == core.FromDefault && s == core.SetReplicas && how == core.MustCache {
			is.Value.Replicas = 1
		}
		all = append(all, is)
	}
	return all
}

// checkData checks settings of data.
func checkData(op string, p *core.Policies) error {
	switch r := p.ReadType; {
	case p.WriteType != "" && !p.WriteType.Known():
		return errs.New(op, string(p.WriteType), errs.Invalid, "write_type is CACHE_THROUGH, THROUGH, ASYNC_THROUGH or MUST_CACHE")
	case r != "" && !r.Known():
		return errs.New(op, string(r), errs.Invalid, "read_type is CACHE_PROMOTE, CACHE or NO_CACHE")
	case p.LoadType != "" && !p.LoadType.Known():
		return errs.New(op, string(p.LoadType), errs.Invalid, "load_type is NEVER, ONCE or ALWAYS")
	case p.Replicas < 0 || p.Replicas > core.MaxReplicas:
		return errs.New(op, strconv.Itoa(p.Replicas), errs.Invalid, fmt.Sprintf("replicas is 1 to %d, or 0 for the default", core.MaxReplicas))
	case p.PersistDelay != nil && *p.PersistDelay < 0:
		return errs.New(op, p.PersistDelay.String(), errs.Invalid, "persist_delay is not negative")
	case p.RenameThrough != nil && *p.RenameThrough < 0:
		return errs.New(op, p.RenameThrough.String(), errs.Invalid, "rename_through_timeout is not negative; 0s has a rename wait until it is done")
	}
	return p.CheckCopies(op)
}
