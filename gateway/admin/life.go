package admin

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicefs/sluice/core"
)

// Secret is a named secret as the API shows it. What it holds is never shown.
type Secret struct {
	Name    string    `json:"name" example:"lake-keys"`
	Options []string  `json:"options" nullable:"false" doc:"The names of the options that it holds."`
	Changed time.Time `json:"changed"`
	By      string    `json:"by" doc:"Who set it."`
	UsedBy  []string  `json:"used_by" nullable:"false" doc:"The mounts that take options from it."`
}

// NewSecret is what a named secret is to hold.
type NewSecret struct {
	Options map[string]string `json:"options" doc:"Secret options of a store, such as access_key and secret_key: all of them, those left out are gone."`
}

// Revision is one change of mounts, named secrets or path rules.
type Revision struct {
	Number uint64    `json:"revision"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	What   string    `json:"what"`
}

// Rollback is what a rollback did, or would do.
type Rollback struct {
	DryRun bool     `json:"dry_run,omitempty"`
	Did    []string `json:"did" nullable:"false"`
}

// SecretInput names a secret.
type SecretInput struct {
	Name string `path:"name"`
}

func (s *Server) registerLife() {
	const secrets, one = base + "/secrets", base + "/secrets/{name}"
	huma.Register(s.api, clusterOperation("ListSecrets", http.MethodGet, secrets, "List the named secrets, without their values"), s.listSecrets)
	huma.Register(s.api, clusterOperation("SetSecret", http.MethodPut, one, "Make a named secret, or give it other values, which mounts use at once"), s.setSecret)
	huma.Register(s.api, clusterOperation("DeleteSecret", http.MethodDelete, one, "Forget a named secret that no mount uses"), s.deleteSecret)
	huma.Register(s.api, clusterOperation("ListMountRevisions", http.MethodGet, base+"/mount-history", "List the changes of mounts, named secrets and path rules, the latest first"), s.history)
	huma.Register(s.api, clusterOperation("RollbackMounts", http.MethodPost, base+"/mount-history/{revision}/rollback",
		"Make mounts and path rules what they were after a revision; named secrets stay as they are"), s.rollback)
}

func renderSecret(i core.SecretInfo) Secret {
	out := Secret{Name: i.Name, Options: i.Options, Changed: i.Changed.UTC(), By: i.By, UsedBy: []string{}}
	for _, p := range i.UsedBy {
		out.UsedBy = append(out.UsedBy, p.File().String())
	}
	return out
}

func (s *Server) listSecrets(ctx context.Context, _ *struct{}) (*body[List[Secret]], error) {
	if s.o.Life == nil {
		return nil, failed(ctx, absent("ListSecrets"))
	}
	all, err := s.o.Life.Secrets(ctx)
	return listOf(ctx, all, err, renderSecret)
}

func (s *Server) setSecret(ctx context.Context, in *struct {
	SecretInput
	LifeInput
	Force bool `query:"force" doc:"Do not probe the stores of the mounts that use it."`
	Body  NewSecret
}) (*body[Secret], error) {
	if s.o.Life == nil {
		return nil, failed(ctx, absent("SetSecret"))
	}
	i, err := s.o.Life.SetSecret(ctx, in.Name, in.Body.Options, core.LifeOptions{DryRun: in.DryRun, Force: in.Force})
	if err != nil {
		return nil, failedAs(ctx, err, secretProblem)
	}
	return &body[Secret]{renderSecret(i)}, nil
}

func (s *Server) deleteSecret(ctx context.Context, in *SecretInput) (*struct{}, error) {
	if s.o.Life == nil {
		return nil, failed(ctx, absent("DeleteSecret"))
	}
	return nil, failed(ctx, s.o.Life.RemoveSecret(ctx, in.Name))
}

func (s *Server) history(ctx context.Context, _ *struct{}) (*body[List[Revision]], error) {
	if s.o.Life == nil {
		return nil, failed(ctx, absent("ListMountRevisions"))
	}
	all, err := s.o.Life.MountHistory(ctx)
	return listOf(ctx, all, err, func(r core.Revision) Revision { return Revision{r.Number, r.At.UTC(), r.By, r.What} })
}

func (s *Server) rollback(ctx context.Context, in *struct {
	Revision uint64 `path:"revision" doc:"What is to be as it was after this one."`
	ForceInput
}) (*body[Rollback], error) {
	if s.o.Life == nil {
		return nil, failed(ctx, absent("RollbackMounts"))
	}
	did, err := s.o.Life.RollbackMounts(ctx, in.Revision, in.options())
	if err != nil {
		return nil, failedAs(ctx, err, func(err error) huma.StatusError { return rollbackProblem(err, did) })
	}
	return &body[Rollback]{Rollback{in.DryRun, did}}, nil
}

// rollbackProblem returns the problem of a rollback that ended early, with what it did before.
func rollbackProblem(err error, did []string) huma.StatusError {
	p := problem(err)
	if len(did) == 0 {
		return p
	}
	details := make([]error, len(did))
	for i, what := range did {
		details[i] = &huma.ErrorDetail{Location: "did[" + strconv.Itoa(i) + "]", Message: what}
	}
	return huma.NewError(p.GetStatus(), "the rollback ended early: "+p.Error(), details...)
}
