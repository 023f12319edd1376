package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/gateway/config"
)

// Mount is a mount as the API shows it.
type Mount struct {
	Path         string            `json:"path" doc:"Directory it appears at, without a trailing slash."`
	URI          string            `json:"uri" doc:"Its store." example:"s3://bucket/prefix"`
	ReadOnly     bool              `json:"read_only"`
	Access       string            `json:"access" enum:"noAccess,readOnly,readWrite"`
	SyncInterval string            `json:"sync_interval" doc:"How old facts about the store may be; 0s checks at each access, -1 never again." example:"60s"`
	Owner        string            `json:"owner" doc:"Of what the store names no owner for."`
	Group        string            `json:"group"`
	Mode         string            `json:"mode" doc:"Of directories the store has no mode for, octal." example:"0755"`
	WriteType    string            `json:"write_type" example:"CACHE_THROUGH"`
	ReadType     string            `json:"read_type" example:"CACHE_PROMOTE"`
	Replicas     int               `json:"replicas" doc:"Workers that hold a write of type ASYNC_THROUGH before the store has it."`
	PersistDelay string            `json:"persist_delay" doc:"From such a write to the store." example:"2s"`
	CopiesMin    int               `json:"replication_min" doc:"Workers, in distinct failure domains, that load and keep what is there; 0: what is read stays while there is room."`
	CopiesMax    int               `json:"replication_max" doc:"Workers that reads of a cached block are spread over when it is read much; -1: all."`
	LoadType     string            `json:"load_type" enum:"NEVER,ONCE,ALWAYS" doc:"Where sync_interval is -1. ONCE: the store is asked for what is not known; NEVER: what is not known is not there; ALWAYS: the store is asked also for what was absent, and for every listing."`
	Options      map[string]string `json:"options" doc:"Of the store. Secret values read ***."`
	Origin       string            `json:"origin" enum:"config,api" doc:"config: from a flag or the configuration file; api: made over this API and kept."`
	State        string            `json:"state" doc:"ready, or why the store does not answer."`
	Feed         *Feed             `json:"feed,omitempty" doc:"How its store tells of changes: with the option events."`
}

// NewMount is a mount as it is asked for.
type NewMount struct {
	Path         string            `json:"path" example:"/lake"`
	URI          string            `json:"uri" example:"s3://bucket/prefix"`
	ReadOnly     bool              `json:"read_only,omitempty" doc:"Access readOnly."`
	Access       string            `json:"access,omitempty" enum:"noAccess,readOnly,readWrite" doc:"noAccess: the mount point shows, and nothing in it."`
	SyncInterval string            `json:"sync_interval,omitempty" example:"60s"`
	Owner        string            `json:"owner,omitempty"`
	Group        string            `json:"group,omitempty"`
	Mode         string            `json:"mode,omitempty" example:"0755"`
	WriteType    string            `json:"write_type,omitempty" enum:"CACHE_THROUGH,THROUGH,ASYNC_THROUGH,MUST_CACHE"`
	ReadType     string            `json:"read_type,omitempty" enum:"CACHE_PROMOTE,CACHE,NO_CACHE"`
	Replicas     int               `json:"replicas,omitempty" minimum:"0" maximum:"5" doc:"0: the configuration's."`
	PersistDelay string            `json:"persist_delay,omitempty" example:"2s"`
	CopiesMin    *int              `json:"replication_min,omitempty" minimum:"0" maximum:"16" doc:"Left out: the configuration's."`
	CopiesMax    int               `json:"replication_max,omitempty" minimum:"-1" maximum:"16" doc:"-1: all workers; 0: the configuration's."`
	LoadType     string            `json:"load_type,omitempty" enum:"NEVER,ONCE,ALWAYS" doc:"Left out: the configuration's."`
	Options      map[string]string `json:"options,omitempty"`
}

// MountPatch is what to change of a mount, as RFC 7396 merges: what is left out stays, and null is the default again. Options
// are merged one by one, null or "" removes one; the store is probed with them first. Another uri, or an endpoint together with
// the uri, switches the mount to that store: in one step, and nothing that is known of the old one is answered after it. The uri
// that it has changes nothing: it is refused while another directory is there, or none, which only adopt takes for the mount's.
type MountPatch struct {
	URI          *string `json:"uri,omitempty" example:"s3://bucket/prefix"`
	Adopt        bool    `json:"adopt,omitempty" doc:"Take the directory that is at the mount's uri now for the mount's: it was moved or restored on purpose or, with the option create=true, is missing and is made. What was known of the old one is forgotten; files that workers hold for it are kept, and go there."`
	ReadOnly     *bool   `json:"read_only,omitempty" nullable:"true"`
	Access       *string `json:"access,omitempty" nullable:"true" enum:"noAccess,readOnly,readWrite"`
	SyncInterval *string `json:"sync_interval,omitempty" nullable:"true" example:"60s"`
	Owner        *string `json:"owner,omitempty" nullable:"true"`
	Group        *string `json:"group,omitempty" nullable:"true"`
	Mode         *string `json:"mode,omitempty" nullable:"true" example:"0755"`
	WriteType    *string `json:"write_type,omitempty" nullable:"true" enum:"CACHE_THROUGH,THROUGH,ASYNC_THROUGH,MUST_CACHE"`
	ReadType     *string `json:"read_type,omitempty" nullable:"true" enum:"CACHE_PROMOTE,CACHE,NO_CACHE"`
	Replicas     *int    `json:"replicas,omitempty" nullable:"true" minimum:"0" maximum:"5" doc:"0: the configuration's."`
	PersistDelay *string `json:"persist_delay,omitempty" nullable:"true" example:"2s"`
	CopiesMin    *int    `json:"replication_min,omitempty" nullable:"true" minimum:"-1" maximum:"16" doc:"-1: the configuration's."`
	CopiesMax    *int    `json:"replication_max,omitempty" nullable:"true" minimum:"-1" maximum:"16" doc:"-1: all workers; 0: the configuration's."`
	LoadType     *string `json:"load_type,omitempty" nullable:"true" enum:"NEVER,ONCE,ALWAYS"`

	Options map[string]*string `json:"options,omitempty"`
}

// List is one page of a list. Next, if not empty, is passed as ?after= to get the next page.
type List[T any] struct {
	Items []T    `json:"items" nullable:"false"`
	Next  string `json:"next"`
}

type body[T any] struct{ Body T }

// listOf returns the answer that lists all, each as render has it, or the failure to find them out.
func listOf[F, T any](ctx context.Context, all []F, err error, render func(F) T) (*body[List[T]], error) {
	if err != nil {
		return nil, failed(ctx, err)
	}
	out := &body[List[T]]{Body: List[T]{Items: make([]T, len(all))}}
	for i, x := range all {
		out.Body.Items[i] = render(x)
	}
	return out, nil
}

// parseInterval reads the setting key. Its error is a *config.FieldError.
func parseInterval(key, text string) (config.Interval, error) {
	i, err := config.ParseInterval(text)
	if err != nil {
		return 0, &config.FieldError{Key: key, Err: err}
	}
	return i, nil
}

// itself renders what the API shows as it is.
func itself[T any](x T) T { return x }

// MountInput names a mount. mountPathInPath has put every accepted form of the name into the path.
type MountInput struct {
	Path string `path:"path" doc:"The mount's path, percent-encoded, without the leading slash. /api/v1/mounts?path=/a/b works as well."`
}

func (s *Server) registerMounts() {
	const all, one = base + "/mounts", base + "/mounts/{path}"
	huma.Register(s.api, clusterOperation("ListMounts", http.MethodGet, all, "List the mounts"), s.listMounts)
	create := clusterOperation("CreateMount", http.MethodPost, all, "Probe a store and mount it")
	create.DefaultStatus = http.StatusCreated
	huma.Register(s.api, create, s.createMount)
	huma.Register(s.api, clusterOperation("GetMount", http.MethodGet, one, "Show a mount"), s.getMount)
	huma.Register(s.api, clusterOperation("UpdateMount", http.MethodPatch, one, "Change a mount's policies, or switch it to another store"), s.updateMount)
	huma.Register(s.api, clusterOperation("DeleteMount", http.MethodDelete, one, "Unmount; the store is left untouched"), s.deleteMount)
}

func operation(id, method, path, summary string) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary}
}

func (s *Server) listMounts(ctx context.Context, _ *struct{}) (*body[List[Mount]], error) {
	mounts, err := s.o.Mounts.Mounts(ctx)
	if err != nil {
		return nil, failed(ctx, err)
	}
	feeds, err := s.feeds(ctx)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return listOf(ctx, mounts, nil, func(m core.MountInfo) Mount {
		out := s.render(m)
		out.Feed = feeds[out.Path]
		return out
	})
}

// MountAnswer is a mount with what was done to it, or would be.
type MountAnswer struct {
	Mount
	DryRun bool     `json:"dry_run,omitempty" doc:"Nothing was changed."`
	Did    []string `json:"did,omitempty" doc:"What was done, or would be; of a dry run, with force and of what is adopted." nullable:"false"`
	GaveUp []string `json:"gave_up,omitempty" doc:"What was lost by force, or would be." nullable:"false"`
}

type mountOutput struct {
	Status   int
	Location string `header:"Location"`
	Body     MountAnswer
}

// LifeInput says how a change is made.
type LifeInput struct {
	DryRun bool `query:"dry_run" doc:"Make all checks and probes, say what would change, and change nothing."`
}

// ForceInput is LifeInput where something may be lost.
type ForceInput struct {
	LifeInput
	Force bool `query:"force" doc:"Give up files that the store does not have yet, changes that wait for its answer and open multipart uploads, and say so."`
}

func (in *ForceInput) options() core.LifeOptions {
	return core.LifeOptions{DryRun: in.DryRun, Force: in.Force}
}

func (s *Server) answer(r core.MountReport, o core.LifeOptions) MountAnswer {
	a := MountAnswer{Mount: s.render(r.Mount), DryRun: o.DryRun, GaveUp: r.GaveUp}
	if o.DryRun || o.Force {
		a.Did = r.Did
	}
	return a
}

func (s *Server) createMount(ctx context.Context, in *struct {
	LifeInput
	Body NewMount
}) (*mountOutput, error) {
	if s.o.Life == nil {
		return nil, failed(ctx, absent("CreateMount"))
	}
	spec, err := s.spec(in.Body)
	if err != nil {
		return nil, failed(ctx, err)
	}
	o := core.LifeOptions{DryRun: in.DryRun}
	r, err := s.o.Life.AddMount(ctx, spec, o)
	if err != nil {
		return nil, failedAs(ctx, err, mountProblem)
	}
	out := &mountOutput{Status: http.StatusOK, Body: s.answer(r, o)}
	if !in.DryRun {
		out.Status, out.Location = http.StatusCreated, base+"/mounts/"+url.PathEscape(strings.TrimPrefix(out.Body.Path, "/"))
	}
	return out, nil
}

func (s *Server) getMount(ctx context.Context, in *MountInput) (*body[Mount], error) {
	p, err := in.parse()
	if err != nil {
		return nil, failed(ctx, err)
	}
	mounts, err := s.o.Mounts.Mounts(ctx)
	if err != nil {
		return nil, failed(ctx, err)
	}
	for _, m := range mounts {
		if m.Path.Dir() != p {
			continue
		}
		feeds, err := s.feeds(ctx)
		if err != nil {
			return nil, failed(ctx, err)
		}
		out := s.render(m)
		out.Feed = feeds[out.Path]
		return &body[Mount]{out}, nil
	}
	return nil, failed(ctx, errs.New("admin.GetMount", p.String(), errs.NotExist, "nothing is mounted there; list the mounts"))
}

func (s *Server) updateMount(ctx context.Context, in *struct {
	MountInput
	ForceInput
	Body    MountPatch
	RawBody []byte
}) (*body[MountAnswer], error) {
	if s.o.Life == nil {
		return nil, failed(ctx, absent("UpdateMount"))
	}
	p, err := in.parse()
	if err != nil {
		return nil, failed(ctx, err)
	}
	change, err := in.Body.change(in.RawBody)
	if err != nil {
		return nil, failed(ctx, err)
	}
	r, err := s.o.Life.EditMount(ctx, p, change, in.options())
	switch {
	case err != nil && (len(change.Options) > 0 || change.URI != nil || change.Adopt) && !errors.Is(err, errs.NotExist):
		return nil, failedAs(ctx, err, mountProblem) // the store was probed again
	case err != nil:
		return nil, failed(ctx, err)
	}
	a := s.answer(r, in.options())
	if change.Adopt {
		a.Did = r.Did
	}
	return &body[MountAnswer]{a}, nil
}

type unmountOutput struct {
	Status int
	Body   *MountAnswer
}

func (s *Server) deleteMount(ctx context.Context, in *struct {
	MountInput
	ForceInput
}) (*unmountOutput, error) {
	if s.o.Life == nil {
		return nil, failed(ctx, absent("DeleteMount"))
	}
	p, err := in.parse()
	if err != nil {
		return nil, failed(ctx, err)
	}
	r, err := s.o.Life.RemoveMount(ctx, p, in.options())
	if err != nil {
		return nil, failed(ctx, err)
	}
	if !in.DryRun && !in.Force {
		return &unmountOutput{Status: http.StatusNoContent}, nil
	}
	a := s.answer(r, in.options())
	return &unmountOutput{http.StatusOK, &a}, nil
}

// parse returns the directory the input names.
func (in *MountInput) parse() (core.Path, error) {
	name, err := url.PathUnescape(in.Path)
	if err != nil {
		return core.Path{}, errs.New("admin.Mount", "", errs.Invalid, "the mount's path is not percent-encoded")
	}
	p, err := core.ParsePath("/" + strings.TrimPrefix(name, "/"))
	return p.Dir(), err
}

func (s *Server) spec(in NewMount) (core.MountSpec, error) {
	m := config.Mount{
		Path: in.Path, URI: in.URI, ReadOnly: in.ReadOnly, Owner: in.Owner, Group: in.Group, Mode: in.Mode,
		WriteType: in.WriteType, ReadType: in.ReadType, Replicas: in.Replicas, Options: in.Options,
		CopiesMin: in.CopiesMin, CopiesMax: in.CopiesMax, LoadType: in.LoadType,
	}
	if in.Access != "" && in.ReadOnly && in.Access == string(core.AccessWrite) {
		return core.MountSpec{}, &config.FieldError{Key: "access", Err: errors.New("read_only says otherwise; name one of them")}
	}
	if in.PersistDelay != "" {
		i, err := parseInterval("persist_delay", in.PersistDelay)
		if err != nil {
			return core.MountSpec{}, err
		}
		m.PersistDelay = &i
	}
	if in.SyncInterval != "" {
		i, err := parseInterval("sync_interval", in.SyncInterval)
		if err != nil {
			return core.MountSpec{}, err
		}
		m.SyncInterval = &i
	}
	spec, err := m.Spec()
	spec.Origin = core.FromAPI
	if in.Access != "" {
		spec.SetAccess(core.Access(in.Access))
	}
	return spec, err
}

// change returns the change that the patch asks for. raw is the patch as it was sent, which tells null from what is left out.
func (in MountPatch) change(raw []byte) (core.MountEdit, error) {
	c := core.MountEdit{URI: in.URI, Adopt: in.Adopt, Access: (*core.Access)(in.Access), MountChange: core.MountChange{
		ReadOnly: in.ReadOnly, Owner: in.Owner, Group: in.Group,
		WriteType: (*core.WriteType)(in.WriteType), ReadType: (*core.ReadType)(in.ReadType), Replicas: in.Replicas,
		ReplicationMin: in.CopiesMin, ReplicationMax: in.CopiesMax, LoadType: (*core.LoadType)(in.LoadType),
	}}
	if in.URI != nil {
		if err := config.CheckURI(*in.URI); err != nil {
			return c, &config.FieldError{Key: "uri", Err: err}
		}
	}
	if in.Options != nil {
		c.Options = map[string]string{}
	}
	for name, value := range in.Options {
		if c.Options[name] = ""; value != nil {
			c.Options[name] = *value
		}
	}
	if in.PersistDelay != nil {
		i, err := parseInterval("persist_delay", *in.PersistDelay)
		if err != nil {
			return c, err
		}
		c.PersistDelay = (*time.Duration)(&i)
	}
	if in.SyncInterval != nil {
		i, err := parseInterval("sync_interval", *in.SyncInterval)
		if err != nil {
			return c, err
		}
		c.SyncInterval = (*time.Duration)(&i)
	}
	if in.Mode != nil {
		mode, err := config.ParseMode(*in.Mode)
		if err != nil {
			return c, &config.FieldError{Key: "mode", Err: err}
		}
		c.Mode = &mode
	}
	return c, setDefaults(&c, raw)
}

// setDefaults sets what the patch names null to what a new mount has that leaves it open.
func setDefaults(c *core.MountEdit, raw []byte) error {
	var sent map[string]json.RawMessage
	if err := json.Unmarshal(raw, &sent); err != nil {
		return errs.New("admin.UpdateMount", "", errs.Invalid, "the patch is not a JSON object")
	}
	for name, value := range sent {
		if string(value) != "null" {
			continue
		}
		switch name {
		case "read_only":
			c.ReadOnly = new(bool)
		case "access":
			all := core.AccessWrite
			c.Access = &all
		case "sync_interval":
			c.DefaultSyncInterval = true
		case "owner":
			c.Owner = new(string)
		case "group":
			c.Group = new(string)
		case "mode":
			c.Mode = new(uint32)
		case "write_type":
			c.WriteType = new(core.WriteType)
		case "read_type":
			c.ReadType = new(core.ReadType)
		case "replicas":
			c.Replicas = new(int)
		case "persist_delay":
			c.DefaultPersistDelay = true
		case "replication_min":
			low := core.DefaultCopies
			c.ReplicationMin = &low
		case "replication_max":
			c.ReplicationMax = new(int)
		case "load_type":
			c.LoadType = new(core.LoadType)
		default:
			return &config.FieldError{Key: name, Err: errors.New("null is no value of it")}
		}
	}
	return nil
}

// render shows a mount. Secrets are masked by the namespace, and again here, where they would leave the process.
func (s *Server) render(m core.MountInfo) Mount {
	interval := s.o.Defaults.SyncInterval
	if m.SyncInterval != nil {
		interval = config.Interval(*m.SyncInterval)
	}
	options := config.RedactOptions(m.Options)
	if options == nil {
		options = map[string]string{}
	}
	delay := config.Interval(s.o.Defaults.PersistDelay)
	if m.PersistDelay != nil {
		delay = config.Interval(*m.PersistDelay)
	}
	low, path := s.o.Defaults.CopiesMin, m.Path.File().String()
	if m.ReplicationMin != nil {
		low = *m.ReplicationMin
	}
	return Mount{
		Path: path, URI: m.URI, ReadOnly: m.ReadOnly, SyncInterval: interval.String(), Owner: m.Owner, Group: m.Group,
		Access: string(m.Access()),
		Mode:   octal(m.Mode), WriteType: string(m.WriteType), ReadType: string(m.ReadType), Options: options,
		Replicas: cmp.Or(m.Replicas, s.o.Defaults.Replicas), PersistDelay: delay.String(),
		CopiesMin: low, CopiesMax: cmp.Or(m.ReplicationMax, s.o.Defaults.CopiesMax, 1),
		LoadType: cmp.Or(string(m.LoadType), s.o.Defaults.LoadType), Origin: string(m.Origin), State: m.State,
	}
}

// octal returns mode as it is written, "" for none.
func octal(mode uint32) string {
	if mode == 0 {
		return ""
	}
	return fmt.Sprintf("%04o", mode)
}
