package admin

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// Snapshot writes a snapshot of the journal's etcd, with its checksum at the end. What is written is only worth something if it succeeds.
type Snapshot func(ctx context.Context, w io.Writer) error

// Life is one life of the journal.
type Life struct {
	Incarnation string    `json:"incarnation" doc:"Drawn when the journal is made or restored."`
	Since       time.Time `json:"since"`
	Held        string    `json:"held" doc:"Why nothing is changed until it is released; empty if changes are accepted."`
	Seq         uint64    `json:"seq" doc:"Last record of the journal."`
	Term        int64     `json:"term" doc:"The leader's reign."`
}

// ReleaseRequest says how to release.
type ReleaseRequest struct {
	DryRun        bool `json:"dry_run,omitempty" doc:"Only compare and report."`
	AcceptMissing bool `json:"accept_missing,omitempty" doc:"A store that holds none of the files the journal has there is the right one."`
}

// Finding is one thing that was found.
type Finding struct {
	Kind string `json:"kind" example:"gone"`
	Name string `json:"name" doc:"The path, key or number it is about."`
	Why  string `json:"why"`
}

// Release says what was compared with the stores, and what the journal took over from them.
type Release struct {
	Released    bool      `json:"released"`
	Proved      int64     `json:"proved" doc:"Files that are in their store as the journal had them."`
	Directories int64     `json:"directories" doc:"Directories that are there."`
	Items       []Finding `json:"items" nullable:"false"`
}

// Check says what was looked at and what is wrong.
type Check struct {
	Incarnation string    `json:"incarnation"`
	Seq         uint64    `json:"seq" doc:"Last record that was looked at."`
	Records     int64     `json:"records" doc:"After the checkpoint."`
	Pages       int64     `json:"pages" doc:"Of the checkpoint."`
	Entries     int64     `json:"entries"`
	Proved      int64     `json:"proved" doc:"Files that are in their store as the journal has them, if the stores were asked."`
	Items       []Finding `json:"items" nullable:"false"`
}

func (s *Server) registerCare() {
	huma.Register(s.api, clusterOperation("GetLife", http.MethodGet, base+"/life", "Show the journal's life, and whether changes are held"), s.life)
	huma.Register(s.api, clusterOperation("Release", http.MethodPost, base+"/release", "Compare a restored journal with the stores, and accept changes"), s.release)
	huma.Register(s.api, clusterOperation("Check", http.MethodGet, base+"/fsck", "Check the journal, changing nothing"), s.check)
	backup := clusterOperation("Backup", http.MethodGet, base+"/backup", "Stream a snapshot of the journal")
	backup.Responses = map[string]*huma.Response{"200": {
		Description: "etcd's snapshot format: the database, and the SHA-256 of it in the last 32 bytes.",
		Content:     map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: "string", Format: "binary"}}},
	}}
	huma.Register(s.api, backup, s.backup)
}

func (s *Server) care() (core.Care, error) {
	if s.o.Care == nil {
		return nil, errs.New("admin.Care", "", errs.Unsupported, "this process has no journal, and knows of none that leads")
	}
	return s.o.Care, nil
}

func (s *Server) life(ctx context.Context, _ *struct{}) (*body[Life], error) {
	care, err := s.care()
	if err != nil {
		return nil, failed(ctx, err)
	}
	l, err := care.Life(ctx)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[Life]{Life{Incarnation: l.Incarnation, Since: l.Since, Held: l.Held, Seq: l.Seq, Term: l.Term}}, nil
}

func (s *Server) release(ctx context.Context, in *struct{ Body *ReleaseRequest }) (*body[Release], error) {
	care, err := s.care()
	if err != nil {
		return nil, failed(ctx, err)
	}
	var o core.ReleaseOptions
	if in.Body != nil {
		o = core.ReleaseOptions{DryRun: in.Body.DryRun, AcceptMissing: in.Body.AcceptMissing}
	}
	r, err := care.Release(context.WithoutCancel(ctx), o) // a client that hangs up does not leave it half done
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[Release]{Release{Released: r.Released, Proved: r.Proved, Directories: r.Dirs, Items: findings(r.Changes)}}, nil
}

func findings(all []core.Finding) []Finding {
	out := make([]Finding, len(all))
	for i, f := range all {
		out[i] = Finding(f)
	}
	return out
}

func (s *Server) check(ctx context.Context, in *struct {
	Stores bool `query:"stores" doc:"Ask the stores about every file of the overlay."`
}) (*body[Check], error) {
	care, err := s.care()
	if err != nil {
		return nil, failed(ctx, err)
	}
	r, err := care.Check(ctx, core.CheckOptions{Stores: in.Stores})
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[Check]{CheckOf(r)}, nil
}

// CheckOf renders what a check says.
func CheckOf(r core.CheckReport) Check {
	return Check{Incarnation: r.Incarnation, Seq: r.Seq, Records: r.Records, Pages: r.Pages, Entries: r.Entries, Proved: r.Proved,
		Items: findings(r.Findings)}
}

func (s *Server) backup(ctx context.Context, _ *struct{}) (*huma.StreamResponse, error) {
	if s.o.Snapshot == nil {
		return nil, failed(ctx, errs.New("admin.Backup", "", errs.Unsupported, "this process has no journal, and knows of none that leads"))
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		hc.SetHeader("Content-Type", "application/octet-stream")
		if err := s.o.Snapshot(ctx, hc.BodyWriter()); err != nil {
			recordOf(ctx).err = err
			panic(http.ErrAbortHandler) // only a cut connection can say that the snapshot is not whole
		}
	}}, nil
}
