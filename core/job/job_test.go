package job_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/job"
)

func root(ctx context.Context) context.Context {
	return core.WithPrincipal(ctx, core.Principal{User: "root", Super: true})
}

func path(t testing.TB, s string) core.Path {
	t.Helper()
	p, err := core.ParseEither(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// running runs a runner of one kind of job, two at a time, until stop.
func running(t *testing.T, o job.Options, do job.Func) (r *job.Runner, stop func()) {
	t.Helper()
	o.Kinds, o.Reign = map[core.JobKind]job.Func{"test": do}, "7"
	r = job.New(o)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { defer close(over); r.Run(ctx) }()
	stop = func() { cancel(); <-over }
	t.Cleanup(stop)
	return r, stop
}

func start(t *testing.T, r *job.Runner, name string) string {
	t.Helper()
	j, err := r.StartJob(root(t.Context()), core.JobSpec{Kind: "test", Path: path(t, name)})
	if err != nil || j.State != core.JobQueued || j.Created.IsZero() || j.User != "root" {
		t.Fatalf("started: %+v, %v", j, err)
	}
	return j.ID
}

func wait(t *testing.T, r *job.Runner, id string, d time.Duration) core.Job {
	t.Helper()
	j, err := r.Job(root(t.Context()), id, d)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// TestJobsEnd runs jobs that end in every way.
func TestJobsEnd(t *testing.T) {
	broken := errors.New("broken")
	r, _ := running(t, job.Options{}, func(ctx context.Context, s core.JobSpec, p *job.Progress) error {
		if !core.PrincipalOf(ctx).Super {
			t.Error("it does not run as who started it")
		}
		p.Expect(3, 30)
		for i := range 3 {
			p.Moved(10)
			var err error
			if s.Path.String() == "/some" && i == 1 {
				err = broken
			}
			p.Did(path(t, fmt.Sprint("/f", i)), err)
		}
		switch s.Path.String() {
		case "/broken":
			return broken
		case "/hangs":
			<-ctx.Done()
			return context.Cause(ctx)
		}
		return nil
	})
	for _, k := range []struct {
		name  string
		state core.JobState
		why   string
		fails int64
	}{{"/well", core.JobDone, "", 0}, {"/some", core.JobFailed, "", 1}, {"/broken", core.JobFailed, "broken", 0}, {"/hangs", core.JobCancelled, "", 0}} {
		id := start(t, r, k.name)
		if k.state == core.JobCancelled {
			if j := wait(t, r, id, 10*time.Millisecond); j.State.Final() {
				t.Errorf("%s has ended: %+v", k.name, j)
			}
			if _, err := r.CancelJob(root(t.Context()), id); err != nil {
				t.Error(err)
			}
		}
		j := wait(t, r, id, time.Minute)
		if j.State != k.state || j.Why != k.why || j.Failures != k.fails || len(j.Failed) != int(k.fails) ||
			j.Done != 3 || j.Total != 3 || j.Bytes != 30 || j.TotalBytes != 30 || j.Started.IsZero() || j.Ended.IsZero() {
			t.Errorf("%s: %+v", k.name, j)
		}
		if k.fails > 0 && (j.Failed[0].Path.String() != "/f1" || !errors.Is(j.Failed[0].Err, broken)) {
			t.Errorf("%s: failed %+v", k.name, j.Failed)
		}
		if again, err := r.CancelJob(root(t.Context()), id); err != nil || again.State != k.state {
			t.Errorf("%s, cancelled after its end: %+v, %v", k.name, again, err)
		}
	}
	if n := r.Stats().Ended["test"]; n[core.JobDone] != 1 || n[core.JobFailed] != 2 || n[core.JobCancelled] != 1 {
		t.Errorf("ended: %v", n)
	}
}

// TestJobsQueue starts more jobs than run at a time, and then more than are remembered.
func TestJobsQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		r, _ := running(t, job.Options{Running: 2, Kept: 3}, func(ctx context.Context, _ core.JobSpec, _ *job.Progress) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		var ids []string
		for i := range 6 {
			ids = append(ids, start(t, r, fmt.Sprint("/", i)))
		}
		synctest.Wait()
		if s := r.Stats(); s.Running["test"] != 2 || s.Queued["test"] != 4 {
			t.Errorf("%+v", s)
		}
		if j, err := r.CancelJob(root(t.Context()), ids[5]); err != nil || j.State != core.JobCancelled {
			t.Errorf("a queued job was cancelled: %+v, %v", j, err)
		}
		if all, err := r.Jobs(root(t.Context())); err != nil || len(all) != 6 || all[0].ID != ids[5] {
			t.Errorf("%+v, %v", all, err)
		}
		close(release)
		if j := wait(t, r, ids[4], time.Minute); j.State != core.JobDone {
			t.Errorf("%+v", j)
		}
		synctest.Wait()
		if all, err := r.Jobs(root(t.Context())); err != nil || len(all) != 3 || all[0].ID != ids[5] {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

// TestJobsEndWithTheirReign stops a runner: what it had is failed, and another knows that it was another's.
func TestJobsEndWithTheirReign(t *testing.T) {
	began := make(chan struct{}, 2)
	r, stop := running(t, job.Options{Running: 1}, func(ctx context.Context, _ core.JobSpec, _ *job.Progress) error {
		began <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	ids := []string{start(t, r, "/a"), start(t, r, "/b")}
	<-began
	stop()
	for _, id := range ids {
		if j := wait(t, r, id, time.Minute); j.State != core.JobFailed || j.Why == "" {
			t.Errorf("%+v", j)
		}
	}
	if _, err := r.StartJob(root(t.Context()), core.JobSpec{Kind: "test", Path: core.Root}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("started after the end: %v", err)
	}
	other := job.New(job.Options{Reign: "8"})
	if _, err := other.Job(root(t.Context()), ids[0], 0); !errors.Is(err, errs.NotExist) {
		t.Errorf("the next leader: %v", err)
	}
}

// TestJobsAreForSuperusers asks for everything as somebody else, and for what there is not.
func TestJobsAreForSuperusers(t *testing.T) {
	r, _ := running(t, job.Options{Check: func(_ context.Context, s core.JobSpec) error {
		if s.Path.String() == "/gone" {
			return errs.E("test.Stat", "/gone", errs.NotExist, nil)
		}
		return nil
	}}, func(context.Context, core.JobSpec, *job.Progress) error { return nil })
	spec := core.JobSpec{Kind: "test", Path: core.Root}
	for _, k := range []struct {
		ctx  context.Context
		want errs.Kind
		spec core.JobSpec
	}{{t.Context(), errs.Permission, spec}, {root(t.Context()), errs.NotExist, core.JobSpec{Kind: "test", Path: path(t, "/gone")}},
		{root(t.Context()), errs.Invalid, core.JobSpec{Kind: "other", Path: core.Root}}} {
		if _, err := r.StartJob(k.ctx, k.spec); errs.KindOf(err) != k.want {
			t.Errorf("start: got %v, want %v", err, k.want)
		}
	}
	_, jerr := r.Job(t.Context(), "7-1", 0)
	_, lerr := r.Jobs(t.Context())
	_, cerr := r.CancelJob(t.Context(), "7-1")
	for _, err := range []error{jerr, lerr, cerr} {
		if !errors.Is(err, errs.Permission) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := r.CancelJob(root(t.Context()), "7-1"); !errors.Is(err, errs.NotExist) {
		t.Errorf("cancel of none: %v", err)
	}
}

// persister has three files to persist, one of which the store has another version of.
type persister struct {
	asked  []core.PersistOptions
	down   error
	refuse bool
}

func (p *persister) Persist(_ context.Context, _ core.Path, o core.PersistOptions) (core.Persisted, error) {
	p.asked = append(p.asked, o)
	if !o.Wait {
		return core.Persisted{Files: 3, Bytes: 30}, nil
	}
	if p.refuse && !o.Overwrite {
		return core.Persisted{Files: 3, Bytes: 30}, errors.Join(errs.New("test.Persist", "/d/x", errs.Conflict, "another has changed it"))
	}
	return core.Persisted{}, p.down
}

func (p *persister) Durability(context.Context, core.Path) (core.Durability, error) {
	return core.Durability{}, nil
}

// TestPersist runs jobs that persist.
func TestPersist(t *testing.T) {
	for _, k := range []struct {
		name      string
		by        *persister
		overwrite bool
		state     core.JobState
		failed    string
	}{
		{"well", &persister{}, false, core.JobDone, ""},
		{"refused", &persister{refuse: true}, false, core.JobFailed, "/d/x"},
		{"overwritten", &persister{refuse: true}, true, core.JobDone, ""},
		{"broken", &persister{down: errs.New("test.Persist", "", errs.Permission, "no")}, false, core.JobFailed, ""},
	} {
		r, stop := running(t, job.Options{}, job.Persist(k.by))
		j, err := r.StartJob(root(t.Context()), core.JobSpec{Kind: "test", Path: path(t, "/d"), Overwrite: k.overwrite})
		if err != nil {
			t.Fatal(err)
		}
		j = wait(t, r, j.ID, time.Minute)
		stop()
		failed := ""
		for _, f := range j.Failed {
			failed += f.Path.String()
		}
		if j.State != k.state || failed != k.failed || j.Total != 3 || k.by.down == nil && j.Done != 3 || len(k.by.asked) != 2 || k.by.asked[1].Overwrite != k.overwrite {
			t.Errorf("%s: %+v, asked %+v", k.name, j, k.by.asked)
		}
	}
}
