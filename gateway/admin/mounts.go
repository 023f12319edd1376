package admin

import (
	"context"
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
	SyncInterval string            `json:"sync_interval" doc:"How old facts about the store may be; 0s checks at each access, -1 never again." example:"60s"`
	Owner        string            `json:"owner" doc:"Of what the store names no owner for."`
	Group        string            `json:"group"`
	Mode         string            `json:"mode" doc:"Of directories the store has no mode for, octal." example:"0755"`
	WriteType    string            `json:"write_type" example:"CACHE_THROUGH"`
	ReadType     string            `json:"read_type" example:"CACHE"`
	Options      map[string]string `json:"options" doc:"Of the store. Secret values read ***."`
	Origin       string            `json:"origin" enum:"config,api" doc:"config: from a flag or the configuration file; api: made over this API and kept."`
	State        string            `json:"state" doc:"ready, or why the store does not answer."`
}

// NewMount is a mount as it is asked for.
type NewMount struct {
	Path         string            `json:"path" example:"/lake"`
	URI          string            `json:"uri" example:"s3://bucket/prefix"`
	ReadOnly     bool              `json:"read_only,omitempty"`
	SyncInterval string            `json:"sync_interval,omitempty" example:"60s"`
	Owner        string            `json:"owner,omitempty"`
	Group        string            `json:"group,omitempty"`
	Mode         string            `json:"mode,omitempty" example:"0755"`
	WriteType    string            `json:"write_type,omitempty" enum:"CACHE_THROUGH,THROUGH"`
	ReadType     string            `json:"read_type,omitempty" enum:"CACHE,NO_CACHE"`
	Options      map[string]string `json:"options,omitempty"`
}

// MountPatch is what to change of a mount; what is left out stays. A mount's path and store are what it is: to change
// them, unmount it and mount again. Options are set one by one, "" removes one; the store is probed with them first.
type MountPatch struct {
	ReadOnly     *bool   `json:"read_only,omitempty"`
	SyncInterval *string `json:"sync_interval,omitempty" example:"60s"`
	Owner        *string `json:"owner,omitempty"`
	Group        *string `json:"group,omitempty"`
	Mode         *string `json:"mode,omitempty" example:"0755"`
	WriteType    *string `json:"write_type,omitempty" enum:"CACHE_THROUGH,THROUGH"`
	ReadType     *string `json:"read_type,omitempty" enum:"CACHE,NO_CACHE"`

	Options map[string]string `json:"options,omitempty"`
}

// List is one page of a list. Next, if not empty, is passed as ?after= to get the next page.
type List[T any] struct {
	Items []T    `json:"items" nullable:"false"`
	Next  string `json:"next"`
}

type body[T any] struct{ Body T }

// MountInput names a mount. mountPathInPath has put every accepted form of the name into the path.
type MountInput struct {
	Path string `path:"path" doc:"The mount's path, percent-encoded, without the leading slash. /api/v1/mounts?path=/a/b works as well."`
}

func (s *Server) registerMounts() {
	const all, one = base + "/mounts", base + "/mounts/{path}"
	huma.Register(s.api, operation("ListMounts", http.MethodGet, all, "List the mounts"), s.listMounts)
	create := operation("CreateMount", http.MethodPost, all, "Probe a store and mount it")
	create.DefaultStatus = http.StatusCreated
	huma.Register(s.api, create, s.createMount)
	huma.Register(s.api, operation("GetMount", http.MethodGet, one, "Show a mount"), s.getMount)
	huma.Register(s.api, operation("UpdateMount", http.MethodPatch, one, "Change a mount's policies"), s.updateMount)
	huma.Register(s.api, operation("DeleteMount", http.MethodDelete, one, "Unmount; the store is left untouched"), s.deleteMount)
}

func operation(id, method, path, summary string) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary}
}

func (s *Server) listMounts(ctx context.Context, _ *struct{}) (*body[List[Mount]], error) {
	mounts, err := s.o.Mounts.Mounts(ctx)
	if err != nil {
		return nil, failed(ctx, err)
	}
	out := &body[List[Mount]]{Body: List[Mount]{Items: make([]Mount, len(mounts))}}
	for i, m := range mounts {
		out.Body.Items[i] = s.render(m)
	}
	return out, nil
}

type mountOutput struct {
	Location string `header:"Location"`
	Body     Mount
}

func (s *Server) createMount(ctx context.Context, in *body[NewMount]) (*mountOutput, error) {
	spec, err := s.spec(in.Body)
	if err != nil {
		return nil, failed(ctx, err)
	}
	m, err := s.o.Mounts.Mount(ctx, spec)
	if err != nil {
		return nil, failedAs(ctx, err, mountProblem)
	}
	shown := s.render(m)
	return &mountOutput{base + "/mounts/" + url.PathEscape(strings.TrimPrefix(shown.Path, "/")), shown}, nil
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
		if m.Path.Dir() == p {
			return &body[Mount]{s.render(m)}, nil
		}
	}
	return nil, failed(ctx, errs.New("admin.GetMount", p.String(), errs.NotExist, "nothing is mounted there; list the mounts"))
}

func (s *Server) updateMount(ctx context.Context, in *struct {
	MountInput
	Body MountPatch
}) (*body[Mount], error) {
	p, err := in.parse()
	if err != nil {
		return nil, failed(ctx, err)
	}
	change, err := in.Body.change()
	if err != nil {
		return nil, failed(ctx, err)
	}
	m, err := s.o.Mounts.UpdateMount(ctx, p, change)
	switch {
	case err != nil && len(change.Options) > 0 && !errors.Is(err, errs.NotExist):
		return nil, failedAs(ctx, err, mountProblem) // the store was probed again
	case err != nil:
		return nil, failed(ctx, err)
	}
	return &body[Mount]{s.render(m)}, nil
}

func (s *Server) deleteMount(ctx context.Context, in *MountInput) (*struct{}, error) {
	p, err := in.parse()
	if err != nil {
		return nil, failed(ctx, err)
	}
	return nil, failed(ctx, s.o.Mounts.Unmount(ctx, p))
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
		WriteType: in.WriteType, ReadType: in.ReadType, Options: in.Options,
	}
	if in.SyncInterval != "" {
		i, err := config.ParseInterval(in.SyncInterval)
		if err != nil {
			return core.MountSpec{}, &config.FieldError{Key: "sync_interval", Err: err}
		}
		m.SyncInterval = &i
	}
	spec, err := m.Spec(s.o.Defaults)
	spec.Origin = core.FromAPI
	return spec, err
}

func (in MountPatch) change() (core.MountChange, error) {
	c := core.MountChange{
		ReadOnly: in.ReadOnly, Owner: in.Owner, Group: in.Group,
		WriteType: (*core.WriteType)(in.WriteType), ReadType: (*core.ReadType)(in.ReadType), Options: in.Options,
	}
	if in.SyncInterval != nil {
		i, err := config.ParseInterval(*in.SyncInterval)
		if err != nil {
			return c, &config.FieldError{Key: "sync_interval", Err: err}
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
	return c, nil
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
	path := m.Path.File().String()
	return Mount{
		Path: path, URI: m.URI, ReadOnly: m.ReadOnly, SyncInterval: interval.String(), Owner: m.Owner, Group: m.Group,
		Mode: octal(m.Mode), WriteType: string(m.WriteType), ReadType: string(m.ReadType), Options: options,
		Origin: string(m.Origin), State: m.State,
	}
}

// octal returns mode as it is written, "" for none.
func octal(mode uint32) string {
	if mode == 0 {
		return ""
	}
	return fmt.Sprintf("%04o", mode)
}
