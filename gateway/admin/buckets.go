package admin

import (
	"context"
	"maps"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// Bucket is a bucket of the S3 front-end that stands for a directory.
type Bucket struct {
	Name   string `json:"name" example:"warehouse"`
	Path   string `json:"path" doc:"The directory; it is authorised as itself, whatever it is reached by." example:"/lake/prod/warehouse"`
	Origin string `json:"origin" enum:"api,config" doc:"api: set here; config: of the configuration of the process that answers, which counts where both name a bucket."`
}

// BucketInput names a bucket.
type BucketInput struct {
	Name string `path:"name" maxLength:"63"`
}

func (s *Server) registerBuckets() {
	const all, one = base + "/buckets", base + "/buckets/{name}"
	huma.Register(s.api, clusterOperation("ListBucketAliases", http.MethodGet, all, "List the buckets that stand for directories"), s.listBuckets)
	huma.Register(s.api, clusterOperation("SetBucketAlias", http.MethodPut, one, "Make a bucket stand for a directory"), s.setBucket)
	huma.Register(s.api, clusterOperation("DeleteBucketAlias", http.MethodDelete, one, "Take back that a bucket stands for a directory; the directory stays"), s.deleteBucket)
}

func (s *Server) listBuckets(ctx context.Context, _ *struct{}) (*body[List[Bucket]], error) {
	if s.o.Buckets == nil {
		return nil, failed(ctx, absent("ListBucketAliases"))
	}
	all, err := s.buckets(ctx)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[List[Bucket]]{Body: List[Bucket]{Items: all}}, nil
}

// buckets returns the buckets that stand for directories, by name.
func (s *Server) buckets(ctx context.Context) ([]Bucket, error) {
	aliases, err := s.o.Buckets.BucketAliases(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]Bucket{}
	for _, a := range aliases {
		all[a.Name] = renderBucket(a)
	}
	for name, path := range s.o.Defaults.BucketAliases {
		if p, err := core.ParsePath(path); err == nil { // as it is shown for others
			path = shownDir(p)
		}
		all[name] = Bucket{name, path, "config"}
	}
	out := make([]Bucket, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[name])
	}
	return out, nil
}

func renderBucket(a core.BucketAlias) Bucket { return Bucket{a.Name, shownDir(a.Path), "api"} }

// shownDir returns the path of a directory without the slash at its end.
func shownDir(p core.Path) string {
	if p.IsRoot() {
		return p.String()
	}
	return p.File().String()
}

func (s *Server) setBucket(ctx context.Context, in *struct {
	BucketInput
	Body struct {
		Path string `json:"path" doc:"A directory that is there." example:"/lake/prod/warehouse"`
	}
}) (*body[Bucket], error) {
	if s.o.Buckets == nil {
		return nil, failed(ctx, absent("SetBucketAlias"))
	}
	at, err := core.ParsePath(in.Body.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	if err := s.notConfigured("admin.SetBucketAlias", in.Name); err != nil {
		return nil, failed(ctx, err)
	}
	a, err := s.o.Buckets.SetBucketAlias(ctx, in.Name, at)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[Bucket]{renderBucket(a)}, nil
}

// notConfigured reports errs.Exist if the configuration has the alias: what is set here would not count.
func (s *Server) notConfigured(op, name string) error {
	if _, ok := s.o.Defaults.BucketAliases[name]; ok {
		return errs.New(op, name, errs.Exist, "it is an alias of the configuration, bucket_aliases, which counts; change it there")
	}
	return nil
}

func (s *Server) deleteBucket(ctx context.Context, in *BucketInput) (*struct{}, error) {
	if s.o.Buckets == nil {
		return nil, failed(ctx, absent("DeleteBucketAlias"))
	}
	err := s.o.Buckets.RemoveBucketAlias(ctx, in.Name)
	if errs.KindOf(err) == errs.NotExist {
		if cerr := s.notConfigured("admin.DeleteBucketAlias", in.Name); cerr != nil {
			err = cerr
		}
	}
	return nil, failed(ctx, err)
}
