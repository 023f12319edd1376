package mount

import (
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
)

// Rules is a snapshot of the path rules. nil has none.
type Rules struct {
	by    map[string]*core.Policies // by the path as a directory
	syncs bool                      // one of them has a SyncInterval
	loads bool                      // one of them has a LoadType
}

// NewRules returns those rules; nil for none.
func NewRules(all []core.PathRule) *Rules {
	if len(all) == 0 {
		return nil
	}
	r := &Rules{by: make(map[string]*core.Policies, len(all))}
	for i := range all {
		r.syncs = r.syncs || all[i].SyncInterval != nil
		r.loads = r.loads || all[i].LoadType != ""
		r.by[all[i].Path.Dir().String()] = &all[i].Policies
	}
	return r
}

// All returns the rules, by path.
func (r *Rules) All() []core.PathRule {
	if r == nil {
		return nil
	}
	all := make([]core.PathRule, 0, len(r.by))
	for dir, p := range r.by {
		at, _ := core.ParsePath(dir) // it was one
		all = append(all, core.PathRule{Path: at, Policies: *p})
	}
	slices.SortFunc(all, func(a, b core.PathRule) int { return strings.Compare(a.Path.String(), b.Path.String()) })
	return all
}

// At returns the rule of exactly that path, nil if there is none.
func (r *Rules) At(p core.Path) *core.Policies {
	if r == nil {
		return nil
	}
	return r.by[p.Dir().String()]
}

// With returns the rules with that one in place of the path's; one without settings is left out.
func (r *Rules) With(rule core.PathRule) *Rules {
	all := slices.DeleteFunc(r.All(), func(x core.PathRule) bool { return x.Path == rule.Path.Dir() })
	if rule.Policies != (core.Policies{}) {
		all = append(all, core.PathRule{Path: rule.Path.Dir(), Policies: rule.Policies})
	}
	return NewRules(all)
}

// Above calls use with the rules that apply to p, the one of the longest path first, until it returns false.
func (r *Rules) Above(p core.Path, use func(dir string, p *core.Policies) bool) {
	if r == nil || p.IsZero() {
		return
	}
	s := p.Dir().String()
	for end := len(s); end > 0; end = strings.LastIndexByte(s[:end-1], '/') + 1 {
		if found := r.by[s[:end]]; found != nil && !use(s[:end], found) {
			return
		}
	}
}

// Syncs reports whether a rule says how old facts may be.
func (r *Rules) Syncs() bool { return r != nil && r.syncs }

// SyncInterval returns what the rules say of how old facts about the path may be; false if they leave it open.
func (r *Rules) SyncInterval(path string) (time.Duration, bool) {
	if !r.Syncs() {
		return 0, false
	}
	if p := r.nearest(path, func(p *core.Policies) bool { return p.SyncInterval != nil }); p != nil {
		return *p.SyncInterval, true
	}
	return 0, false
}

// Loads reports whether a rule says what is asked for that is not known.
func (r *Rules) Loads() bool { return r != nil && r.loads }

// LoadType returns what the rules say of that for the path; "" if they leave it open.
func (r *Rules) LoadType(path string) core.LoadType {
	if !r.Loads() {
		return ""
	}
	if p := r.nearest(path, func(p *core.Policies) bool { return p.LoadType != "" }); p != nil {
		return p.LoadType
	}
	return ""
}

// nearest returns the rule of the longest path that has what is wanted, nil if there is none.
func (r *Rules) nearest(path string, has func(*core.Policies) bool) *core.Policies {
	if !strings.HasSuffix(path, "/") {
		if p := r.by[path+"/"]; p != nil && has(p) {
			return p
		}
	}
	for end := strings.LastIndexByte(path, '/') + 1; end > 0; end = strings.LastIndexByte(path[:end-1], '/') + 1 {
		if p := r.by[path[:end]]; p != nil && has(p) {
			return p
		}
	}
	return nil
}

// Over returns what the rules say of p, and of what they leave open what below does.
func (r *Rules) Over(p core.Path, below *core.Policies) core.Policies {
	if r == nil {
		return *below
	}
	var all core.Policies
	r.Above(p, func(_ string, one *core.Policies) bool { all = all.Over(one); return true })
	return all.Over(below)
}

// Policies returns what the mount says of the data in it.
func (m *Mount) Policies() core.Policies {
	return core.Policies{WriteType: m.WriteType, ReadType: m.ReadType, Replicas: m.Replicas, PersistDelay: &m.PersistDelay,
		ReplicationMin: &m.ReplicationMin, ReplicationMax: m.ReplicationMax, SyncInterval: &m.SyncInterval, LoadType: m.LoadType}
}
