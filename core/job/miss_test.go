package job_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/job"
	"github.com/sluicefs/sluice/core/page"
)

// tenderOf is a worker of the world.
type tenderOf struct {
	w    *world
	name string
}

func (x tenderOf) Tend(ctx context.Context, ticket []byte, op core.PageOp, off, n int64) (core.PageReport, error) {
	return x.w.Tend(ctx, x.name, ticket, op, off, n)
}

// TestLastMiss asks all workers for the last miss of a file, of which one does not answer, and the process that asks.
func TestLastMiss(t *testing.T) {
	w := newWorld(t, 3)
	w.files = map[string]int64{"/d/a": 10 * page.Size, "/d/empty": 0}
	at := time.Now()
	w.missed = map[string]core.Misses{"w1": {Since: at, Last: &core.MissedRead{At: at, Off: 7, Len: 5, Why: core.MissNew}}, "own": {Since: at, Last: &core.MissedRead{At: at, Why: core.MissRefused, Since: at}}}
	silent := errs.New("test", "", errs.Unavailable, "no answer")
	w.refuse = func(worker, _ string, op core.PageOp) error {
		if op != core.MissedPages {
			t.Errorf("%s is asked for %c", worker, op)
		}
		if worker == "w2" {
			return silent
		}
		return nil
	}
	o := job.CacheOptions{Namespace: w, Placer: w, Caches: w, Facts: w}
	c := job.NewCache(o)
	all, err := c.LastMiss(root(t.Context()), path(t, "/d/a"))
	if err != nil || len(all) != 3 || all[0].Worker != "w0" || all[0].Last != nil || all[1].Last.Off != 7 || all[1].Worker != "w1" || !errors.Is(all[2].Err, silent) {
		t.Errorf("got %+v, %v", all, err)
	}
	if n := w.asked[string(core.MissedPages)+"/d/a"]; n != 3 {
		t.Errorf("3 workers were asked %d times", n)
	}
	o.Own, o.OwnName = tenderOf{w, "own"}, "leader"
	all, err = job.NewCache(o).LastMiss(root(t.Context()), path(t, "/d/a"))
	if err != nil || len(all) != 4 || all[3].Worker != "leader" || all[3].Last.Why != core.MissAtLeader || !all[3].Last.Since.IsZero() {
		t.Errorf("with the leader's own: %+v, %v", all, err)
	}
	if all, err = c.LastMiss(root(t.Context()), path(t, "/d/empty")); err != nil || len(all) != 0 {
		t.Errorf("of an empty file: %+v, %v", all, err)
	}
	if _, err = c.LastMiss(root(t.Context()), path(t, "/d/none")); !errors.Is(err, errs.NotExist) {
		t.Errorf("of none: %v", err)
	}
	if _, err = c.LastMiss(t.Context(), path(t, "/d/a")); !errors.Is(err, errs.Permission) {
		t.Errorf("without the right: %v", err)
	}
	w.names = nil
	if _, err = c.LastMiss(root(t.Context()), path(t, "/d/a")); !errors.Is(err, errs.Unsupported) {
		t.Errorf("without a worker: %v", err)
	}
}
