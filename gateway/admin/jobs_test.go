package admin

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// fakeWork has one job that never ends, and knows one file.
type fakeWork struct{}

func (fakeWork) Jobs(context.Context) ([]core.Job, error) { return make([]core.Job, 2), nil }

func (fakeWork) CancelJob(_ context.Context, id string) (core.Job, error) {
	return core.Job{ID: id, State: core.JobRunning}, nil
}

func (fakeWork) StartJob(ctx context.Context, s core.JobSpec) (core.Job, error) {
	return core.Job{ID: "1-1", JobSpec: s, State: core.JobQueued}, needSuper(ctx)
}

func (fakeWork) Job(_ context.Context, id string, wait time.Duration) (core.Job, error) {
	if id != "1-1" {
		return core.Job{}, errs.New("job.Job", id, errs.NotExist, "there is no such job")
	}
	p, err := core.ParsePath("/a/b")
	return core.Job{ID: id, State: core.JobFailed, Ended: time.Unix(int64(wait.Seconds()), 0), Failures: 2,
		Failed: []core.Failure{{Path: p, Err: errors.New("too late")}}}, err
}

func (fakeWork) Residency(context.Context, core.Path, bool) (core.Residency, error) {
	return core.Residency{Pages: 100_001, Cached: 100_000, Workers: []core.WorkerPages{
		{Worker: "w1", Tiers: []core.TierPages{{Medium: "mem", Pages: 3}}}, {Worker: "w2", Err: errors.New("it is silent")}}}, nil
}

func (fakeWork) Pins(context.Context) ([]core.Pin, error) {
	p, err := core.ParsePath("/lake/")
	return []core.Pin{{Path: p, Checked: time.Unix(0, 0), Files: 3, Why: "it is gone"}}, err
}

func (fakeWork) LastMiss(context.Context, core.Path) ([]core.WorkerMisses, error) { return nil, nil }

func (fakeWork) Where(_ context.Context, p core.Path, most int) ([]core.Stretch, error) {
	return make([]core.Stretch, min(most, 2)), nil
}

func TestJobs(t *testing.T) {
	e := start(t)
	e.want(501, "none of a cluster", "GET", "/api/v1/jobs", "")
	e.want(501, "none of a cluster", "GET", "/api/v1/cache/residency?path=/x", "")
	e.api.o.Jobs, e.api.o.Caches = fakeWork{}, fakeWork{}
	e.want(201, `"recursive":true,"state":"queued"`, "POST", "/api/v1/jobs", `{"kind":"load","path":"/a"}`)
	e.want(201, `"path":"/a/","recursive":false`, "POST", "/api/v1/jobs", `{"kind":"free","path":"/a/","recursive":false}`)
	e.want(422, "kind", "POST", "/api/v1/jobs", `{"kind":"dance","path":"/a"}`)
	e.want(400, "", "POST", "/api/v1/jobs", `{"kind":"load","path":"a"}`)
	e.want(200, `"ended":"1970-01-01T00:01:30Z"`, "GET", "/api/v1/jobs/1-1?wait=90s", "")
	e.want(200, `"failures":2,"failed":[{"path":"/a/b","why":"too late"}]`, "GET", "/api/v1/jobs/1-1", "")
	e.want(400, "wait is a duration", "GET", "/api/v1/jobs/1-1?wait=1000h", "")
	e.want(200, `"failed":[]},{"id":""`, "GET", "/api/v1/jobs", "")
	e.want(200, `"id":"1-1"`, "DELETE", "/api/v1/jobs/1-1", "")
	e.want(404, "no such job", "GET", "/api/v1/jobs/2-1", "")
	e.want(200, `"percent":99.99,`, "GET", "/api/v1/cache/residency?path=/x", "")
	e.want(200, `"tiers":[{"tier":0,"medium":"mem","pages":3,"bytes":0}]},{"worker":"w2","pages":0,"bytes":0,"tiers":[],"why":"it is silent"}]`,
		"GET", "/api/v1/cache/residency?path=/x", "")
	e.want(200, `"places":[],"keepers":[],"replication_min":0,"replication_max":1}],"next":""`, "GET", "/api/v1/cache/places?path=/x", "")
	e.want(200, `"path":"/lake/","recursive":true,`, "GET", "/api/v1/cache/pins", "")
	e.want(200, `"checked":"1970-01-01T00:00:00Z","files":3,"bytes":0,"failures":0,"failed":[],"why":"it is gone"}`, "GET", "/api/v1/cache/pins", "")
	e.want(409, "trailing slash", "GET", "/api/v1/cache/places?path=/x/", "")
}

// fakeSyncer notes what was invalidated.
type fakeSyncer struct {
	core.Syncer
	paths []core.Path
}

func (f *fakeSyncer) Invalidate(ctx context.Context, paths ...core.Path) error {
	f.paths = append(f.paths, paths...)
	return needSuper(ctx)
}

func TestSync(t *testing.T) {
	e := start(t)
	e.want(501, "none of a cluster", "POST", "/api/v1/sync", `{"path":"/a"}`)
	e.want(501, "none of a cluster", "POST", "/api/v1/invalidate", `{"paths":["/a"]}`)
	f := &fakeSyncer{}
	e.api.o.Jobs, e.api.o.Syncer = fakeWork{}, f
	e.want(201, `"kind":"sync","path":"/a","recursive":false,"state":"queued"`, "POST", "/api/v1/sync", `{"path":"/a"}`)
	e.want(201, `"recursive":true`, "POST", "/api/v1/sync", `{"path":"/a","recursive":true,"force":true}`)
	e.want(201, `"dry_run":true`, "POST", "/api/v1/sync", `{"path":"/a","dry_run":true}`)
	e.want(400, `a dry run takes nothing over`, "POST", "/api/v1/sync", `{"path":"/a","dry_run":true,"resume":true}`)
	e.want(400, `resume is of jobs of the kind sync`, "POST", "/api/v1/jobs", `{"kind":"load","path":"/a","resume":true}`)
	e.want(422, "", "POST", "/api/v1/sync", `{"recursive":true}`)
	e.want(400, "", "POST", "/api/v1/sync", `{"path":"a"}`)
	e.want(204, "", "POST", "/api/v1/invalidate", `{"paths":["/a","/b/c/"]}`)
	if len(f.paths) != 2 || f.paths[1].String() != "/b/c/" {
		t.Errorf("invalidated %v", f.paths)
	}
	e.want(422, "paths", "POST", "/api/v1/invalidate", `{"paths":[]}`)
	e.want(422, "paths", "POST", "/api/v1/invalidate", `{}`)
	e.want(400, "", "POST", "/api/v1/invalidate", `{"paths":["/a","b"]}`)
}

// fakePersister has a file that is pending when it is first looked at.
type fakePersister struct {
	core.Persister
	looks int
}

func (f *fakePersister) Durability(_ context.Context, p core.Path) (core.Durability, error) {
	if p.String() != "/f" {
		return core.Durability{}, errs.E("namespace.Durability", p.String(), errs.NotExist, nil)
	}
	if f.looks++; f.looks < 3 {
		return core.Durability{State: core.Pending, Write: core.AsyncThrough, Holders: []string{"w1", "w2"}, Lost: []string{"w2"}, Since: time.Unix(0, 0)}, nil
	}
	return core.Durability{State: core.InStore, Info: core.Info{ETag: "e", Size: 7}}, nil
}

func TestDurability(t *testing.T) {
	e := start(t)
	e.want(501, "none of a cluster", "GET", "/api/v1/durability?path=/f", "")
	e.api.o.Persister = &fakePersister{}
	e.want(200, `"durable":false,"state":"PENDING","write_type":"ASYNC_THROUGH","holders":["w1","w2"],"lost":["w2"],"since":"1970-01-01T00:00:00Z"`,
		"GET", "/api/v1/durability?path=/f", "")
	e.want(200, `"durable":true,"state":"STORED","holders":[],"lost":[],"etag":"e","size":7`, "GET", "/api/v1/durability?path=/f&wait=1m", "")
	e.want(404, "", "GET", "/api/v1/durability?path=/g", "")
	e.want(400, "wait is", "GET", "/api/v1/durability?path=/f&wait=x", "")
	e.want(409, "", "GET", "/api/v1/durability?path=/f/", "")
}
