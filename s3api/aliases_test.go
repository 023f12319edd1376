package s3api_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/s3api"
)

// aliases are bucket aliases that come and go. With down they are not known.
type aliases struct {
	t    *testing.T
	all  map[string]string
	down bool
}

func (a *aliases) path(p string) core.Path {
	path, err := core.ParsePath(p)
	if err != nil {
		a.t.Fatal(err)
	}
	return path.Dir()
}

func (a *aliases) BucketAlias(_ context.Context, name string) (core.Path, bool, error) {
	if a.down {
		return core.Path{}, false, errs.New("aliases", name, errs.Unavailable, "nobody leads")
	}
	p, ok := a.all[name]
	if !ok {
		return core.Path{}, false, nil
	}
	return a.path(p), true, nil
}

func (a *aliases) BucketAliases(context.Context) (all []core.BucketAlias, err error) {
	for _, name := range slices.Sorted(maps.Keys(a.all)) {
		all = append(all, core.BucketAlias{Name: name, Path: a.path(a.all[name])})
	}
	return all, nil
}

// TestAliasesThatComeAndGo uses buckets that stand for directories while the server runs.
func TestAliasesThatComeAndGo(t *testing.T) {
	a := &aliases{t: t, all: map[string]string{"tables": "/b-1/deep", "gone": "/b-1/none", "file": "/b-1/top", "fixed": "/b-1/other"}}
	r := newRig(t, func(o *s3api.Options) {
		o.Buckets = a
		o.Aliases = map[string]string{"fixed": "/b-1/deep"}
	})
	ctx := t.Context()
	r.bucket()
	r.put("deep/k", "v")
	r.put("top", "v")
	want := func(method, path string, status int, text string) {
		t.Helper()
		if res, body := r.do(method, path, nil); res.StatusCode != status || !strings.Contains(body, text) {
			t.Errorf("%s %s: %d %s, want %d with %q", method, path, res.StatusCode, body, status, text)
		}
	}
	buckets := func() (names []string) {
		t.Helper()
		out, err := r.s3.ListBuckets(ctx, &s3.ListBucketsInput{})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range out.Buckets {
			names = append(names, *b.Name)
		}
		return names
	}
	want("GET", "/tables/k", 200, "v")
	want("GET", "/fixed/k", 200, "v") // the configuration counts
	want("HEAD", "/tables", 200, "")
	want("HEAD", "/gone", 404, "")
	want("PUT", "/gone/k", 404, "NoSuchBucket")
	if got, want := buckets(), []string{"b-1", "fixed", "tables"}; !slices.Equal(got, want) {
		t.Errorf("buckets: got %q, want %q", got, want)
	}
	_, err := r.s3.CopyObject(ctx, &s3.CopyObjectInput{Bucket: aws.String("tables"), Key: aws.String("copy"), CopySource: aws.String("tables/k")})
	if err != nil {
		t.Error(err)
	}
	want("GET", "/b-1/deep/copy", 200, "v")
	want("DELETE", "/tables", 403, "sluice bucket alias rm tables")
	want("PUT", "/tables", 409, "BucketAlready")
	want("GET", "/b-1/deep/k", 200, "v") // it was not removed

	// What lies at the root under the name of an alias is hidden by it.
	if _, err := r.ns.Mkdir(core.WithPrincipal(ctx, core.Principal{User: "alice", Super: true}), a.path("/hidden"), core.MkdirOptions{}); err != nil {
		t.Fatal(err)
	}
	a.all["hidden"] = "/b-1/deep"
	want("GET", "/hidden/k", 200, "v")
	if got, want := buckets(), []string{"b-1", "fixed", "hidden", "tables"}; !slices.Equal(got, want) {
		t.Errorf("buckets: got %q, want %q", got, want)
	}
	delete(a.all, "tables")
	want("GET", "/tables/k", 404, "NoSuchBucket")

	// While it is not known whether a name is an alias it is taken for neither.
	a.down = true
	want("GET", "/b-1/deep/k", 503, "")
	want("PUT", "/new-one", 503, "")
	want("GET", "/fixed/k", 200, "v")
}

// fickle is aliases of which one is taken back as soon as it has been asked for.
type fickle struct {
	aliases
	name string
}

func (f *fickle) BucketAlias(ctx context.Context, name string) (core.Path, bool, error) {
	p, ok, err := f.aliases.BucketAlias(ctx, name)
	if name == f.name {
		delete(f.all, name)
	}
	return p, ok, err
}

// TestAliasTakenBackMeanwhile checks that a request which found an alias treats the bucket as one to its end.
func TestAliasTakenBackMeanwhile(t *testing.T) {
	f := &fickle{aliases{t: t, all: map[string]string{"tables": "/b-1/deep"}}, "tables"}
	r := newRig(t, func(o *s3api.Options) { o.Buckets = f })
	r.bucket()
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "alice", Super: true})
	if _, err := r.ns.Mkdir(ctx, f.path("/b-1/deep"), core.MkdirOptions{}); err != nil {
		t.Fatal(err)
	}
	if res, body := r.do("DELETE", "/tables", nil); res.StatusCode != 403 {
		t.Errorf("DELETE: %d %s, want 403", res.StatusCode, body)
	}
	if _, err := r.ns.Stat(ctx, f.path("/b-1/deep")); err != nil {
		t.Errorf("what the alias stood for: %v", err)
	}
}
