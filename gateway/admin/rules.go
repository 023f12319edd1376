package admin

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/gateway/config"
)

// PathRule is what is set for a path and all below it. What is left out is set elsewhere: for a path above, or by the mount.
type PathRule struct {
	Path          string `json:"path" doc:"A name, with all that is below it." example:"/lake/tmp"`
	WriteType     string `json:"write_type,omitempty" enum:"CACHE_THROUGH,THROUGH,ASYNC_THROUGH,MUST_CACHE"`
	ReadType      string `json:"read_type,omitempty" enum:"CACHE_PROMOTE,CACHE,NO_CACHE"`
	Replicas      int    `json:"replicas,omitempty" minimum:"1" maximum:"5" doc:"Workers that hold a write of type ASYNC_THROUGH or MUST_CACHE before the store has it."`
	PersistDelay  string `json:"persist_delay,omitempty" doc:"From such a write to the store." example:"2s"`
	CopiesMin     *int   `json:"replication_min,omitempty" minimum:"0" maximum:"16" doc:"Workers, in distinct failure domains, that load and keep what is there; 0: what is read stays while there is room."`
	CopiesMax     int    `json:"replication_max,omitempty" minimum:"-1" maximum:"16" doc:"Workers that reads of a cached block are spread over when it is read much; -1: all."`
	RenameThrough string `json:"rename_through_timeout,omitempty" doc:"How long a rename of a directory waits for a store that has to copy it, before it is acknowledged and carried on; 0s: until it is done." example:"30s"`
	SyncInterval  string `json:"sync_interval,omitempty" doc:"How old facts about the store may be; 0s checks at each access, -1 never again." example:"60s"`
	LoadType      string `json:"load_type,omitempty" enum:"NEVER,ONCE,ALWAYS" doc:"Where sync_interval is -1. ONCE: the store is asked for what is not known; NEVER: what is not known is not there; ALWAYS: the store is asked also for what was absent, and for every listing."`
}

// Policy is a setting as it applies to a path.
type Policy struct {
	Setting string `json:"setting" example:"write_type"`
	Value   string `json:"value" example:"THROUGH"`
	Origin  string `json:"origin" enum:"rule,mount,default" doc:"rule: a path rule; mount: the mount, as it is or as the configuration has it be; default: what the configuration says for mounts that say nothing."`
	Path    string `json:"path" doc:"Of the rule or the mount."`
}

func (s *Server) registerRules() {
	const all = base + "/path-rules"
	huma.Register(s.api, clusterOperation("ListPathRules", http.MethodGet, all, "List the path rules"), s.listRules)
	huma.Register(s.api, clusterOperation("GetPolicies", http.MethodGet, all+"/effective", "Show what applies to a path, and why"), s.policies)
	huma.Register(s.api, clusterOperation("SetPathRule", http.MethodPut, all, "Set something for a path and all below it; what is left out stays"), s.setRule)
	huma.Register(s.api, clusterOperation("DeletePathRule", http.MethodDelete, all, "Take back what is set for a path"), s.deleteRule)
}

func (s *Server) listRules(ctx context.Context, _ *struct{}) (*body[List[PathRule]], error) {
	if s.o.Rules == nil {
		return nil, failed(ctx, absent("ListPathRules"))
	}
	rules, err := s.o.Rules.PathRules(ctx)
	return listOf(ctx, rules, err, renderRule)
}

func renderRule(r core.PathRule) PathRule {
	out := PathRule{Path: r.Path.File().String(), WriteType: string(r.WriteType), ReadType: string(r.ReadType), Replicas: r.Replicas,
		CopiesMin: r.ReplicationMin, CopiesMax: r.ReplicationMax, LoadType: string(r.LoadType)}
	if r.SyncInterval != nil {
		out.SyncInterval = config.Interval(*r.SyncInterval).String()
	}
	if r.RenameThrough != nil {
		out.RenameThrough = r.RenameThrough.String()
	}
	if r.PersistDelay != nil {
		out.PersistDelay = r.PersistDelay.String()
	}
	return out
}

func (s *Server) policies(ctx context.Context, in *PathInput) (*body[List[Policy]], error) {
	if s.o.Rules == nil {
		return nil, failed(ctx, absent("GetPolicies"))
	}
	p, err := core.ParsePath(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	all, err := s.o.Rules.PoliciesAt(ctx, p)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[List[Policy]]{Body: List[Policy]{Items: renderPolicies(all)}}, nil
}

func renderPolicies(all []core.Policy) []Policy {
	out := make([]Policy, len(all))
	for i, x := range all {
		out[i] = Policy{string(x.Setting), valueOf(x.Setting, &x.Value), string(x.Origin), ""}
		if !x.Path.IsZero() {
			out[i].Path = x.Path.File().String()
		}
	}
	return out
}

// valueOf returns the setting as it is written.
func valueOf(s core.Setting, p *core.Policies) string {
	switch {
	case s == core.SetWriteType:
		return string(p.WriteType)
	case s == core.SetReadType:
		return string(p.ReadType)
	case s == core.SetLoadType:
		return string(p.LoadType)
	case s == core.SetReplicas:
		return strconv.Itoa(p.Replicas)
	case s == core.SetPersistDelay && p.PersistDelay != nil:
		return p.PersistDelay.String()
	case s == core.SetCopiesMin && p.ReplicationMin != nil:
		return strconv.Itoa(*p.ReplicationMin)
	case s == core.SetRenameThrough && p.RenameThrough != nil:
		return p.RenameThrough.String()
	case s == core.SetSyncInterval && p.SyncInterval != nil:
		return config.Interval(*p.SyncInterval).String()
	case s == core.SetCopiesMax:
		return strconv.Itoa(p.ReplicationMax)
	}
	return ""
}

func (s *Server) setRule(ctx context.Context, in *body[PathRule]) (*body[PathRule], error) {
	if s.o.Rules == nil {
		return nil, failed(ctx, absent("SetPathRule"))
	}
	at, err := core.ParsePath(in.Body.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	p := core.Policies{WriteType: core.WriteType(in.Body.WriteType), ReadType: core.ReadType(in.Body.ReadType), Replicas: in.Body.Replicas,
		ReplicationMin: in.Body.CopiesMin, ReplicationMax: in.Body.CopiesMax, LoadType: core.LoadType(in.Body.LoadType)}
	for _, x := range []struct {
		key, text string
		to        **time.Duration
	}{
		{"persist_delay", in.Body.PersistDelay, &p.PersistDelay}, {"rename_through_timeout", in.Body.RenameThrough, &p.RenameThrough},
		{"sync_interval", in.Body.SyncInterval, &p.SyncInterval},
	} {
		if x.text == "" {
			continue
		}
		i, err := parseInterval(x.key, x.text)
		if err != nil {
			return nil, failed(ctx, err)
		}
		*x.to = (*time.Duration)(&i)
	}
	rule, err := s.o.Rules.SetPathRule(ctx, at, p)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[PathRule]{renderRule(rule)}, nil
}

type ruleParts struct {
	PathInput
	Settings []string `query:"setting" doc:"Only these of what is set, by their names in a rule, with commas between them; all if the parameter is left out." example:"write_type"`
}

// Resolve implements huma.Resolver. An empty list of settings is more likely a name that was not filled in than a wish for all.
func (in *ruleParts) Resolve(ctx huma.Context) []error {
	if u := ctx.URL(); u.Query().Has("setting") && len(in.Settings) == 0 {
		return []error{&huma.ErrorDetail{Location: "query.setting", Message: "names no setting; leave it out to take back all that is set"}}
	}
	return nil
}

func (s *Server) deleteRule(ctx context.Context, in *ruleParts) (*struct{}, error) {
	if s.o.Rules == nil {
		return nil, failed(ctx, absent("DeletePathRule"))
	}
	p, err := core.ParsePath(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	var settings []core.Setting
	for _, name := range in.Settings {
		if s := core.Setting(name); s.Known() {
			settings = append(settings, s)
			continue
		}
		return nil, failed(ctx, errs.New("admin.DeletePathRule", name, errs.Invalid, "no path rule sets that; see what they may set in the API's description"))
	}
	return nil, failed(ctx, s.o.Rules.RemovePathRule(ctx, p, settings...))
}
