package job_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/job"
)

// syncer finds more new names than a job remembers, two that are gone, and one that it cannot compare.
type syncer struct{ t *testing.T }

func (s syncer) Sync(ctx context.Context, p core.Path, o core.SyncOptions, w core.SyncWatch) error {
	if o != (core.SyncOptions{Recursive: true, DryRun: true}) {
		s.t.Errorf("asked for %+v", o)
	}
	w.Resumed(time.Unix(7, 0))
	for i := range core.MaxSyncFound + 20 {
		w.Compared(1, 0)
		w.Differs(core.SyncAdded, path(s.t, fmt.Sprint("/a/", i)))
	}
	w.Compared(7, 2)
	w.Differs(core.SyncRemoved, path(s.t, "/a/x"))
	w.Differs(core.SyncRemoved, path(s.t, "/a/y"))
	w.Failed(path(s.t, "/a/d/"), errs.New("test", "", errs.Unavailable, "no answer"))
	if p.String() == "/long" {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return nil
}

func (syncer) Invalidate(context.Context, ...core.Path) error { return nil }

// TestSync tells what a sync found, while it runs and after it was cancelled too.
func TestSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := running(t, job.Options{}, job.Sync(syncer{t}))
		for _, name := range []string{"/a", "/long"} {
			j, err := r.StartJob(root(t.Context()), core.JobSpec{Kind: "test", Path: path(t, name), DryRun: true})
			if err != nil {
				t.Fatal(err)
			}
			want := core.JobFailed // for one directory
			if name == "/long" {
				want = core.JobCancelled
				synctest.Wait()
				if now := wait(t, r, j.ID, 0); now.State != core.JobRunning || now.Diff == nil || now.Diff.Removed != 2 {
					t.Errorf("while it runs: %+v", now)
				}
				if _, err := r.CancelJob(root(t.Context()), j.ID); err != nil {
					t.Fatal(err)
				}
			}
			j = wait(t, r, j.ID, time.Minute)
			d := j.Diff
			if !j.Resumed.Equal(time.Unix(7, 0)) {
				t.Errorf("%s: goes on from one of %v", name, j.Resumed)
			}
			if j.State != want || j.Failures != 1 || j.Done != core.MaxSyncFound+20+7+1 || d == nil {
				t.Fatalf("%s: got %+v, want %s", name, j, want)
			}
			if d.Added != core.MaxSyncFound+20 || d.Changed != 0 || d.Removed != 2 || d.Answers != 2 || len(d.First) != core.MaxSyncFound+2 {
				t.Errorf("%s: found %d, %d, %d, %d names in %d answers", name, d.Added, d.Changed, d.Removed, len(d.First), d.Answers)
			}
		}
	})
}
