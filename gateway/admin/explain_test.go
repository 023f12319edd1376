package admin

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// count is a core.CacheCare that counts as the function does.
type count func(ctx context.Context) error

func (c count) Residency(ctx context.Context, _ core.Path, _ bool) (core.Residency, error) {
	return core.Residency{Files: 1}, c(ctx)
}
func (count) LastMiss(context.Context, core.Path) ([]core.WorkerMisses, error) { return nil, nil }
func (count) Where(context.Context, core.Path, int) ([]core.Stretch, error)    { return nil, nil }
func (count) Pins(context.Context) ([]core.Pin, error)                         { return nil, nil }

// TestRenderRename shows a rename that is not carried through, with why, and one whose originals go.
func TestRenderRename(t *testing.T) {
	since := time.Unix(1000, 0)
	why := errs.New("x", "d/f", errs.Permission, "403")
	file, err := core.ParsePath("/e/f")
	if err != nil {
		t.Fatal(err)
	}
	got := renderRename(core.CarriedRename{ID: "7", From: "/d/", To: "/e/", Since: since, Copied: 5, Left: 2, Counted: true, Tries: 3, Err: why, Next: since,
		Refused: []core.Failure{{Path: file, Err: why}}})
	at := since.UTC()
	if diff := cmp.Diff(Rename{ID: "7", From: "/d/", To: "/e/", Phase: "copying", Since: at, Copied: 5, Left: 2, Failed: 3, Error: why.Error(), Next: &at,
		Refused: []Failure{{"/e/f", why.Error()}}}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	got = renderRename(core.CarriedRename{ID: "7", From: "/d/", Since: since, Removing: true, Copied: 5})
	if diff := cmp.Diff(Rename{ID: "7", From: "/d/", Phase: "removing", Since: at}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestExplainCounts explains where workers are silent, and where the store would have to be asked before they are.
func TestExplainCounts(t *testing.T) {
	unknown := errs.New("test", "", errs.Unavailable, "only-if-cached: not known")
	for _, k := range []struct {
		name string
		asks bool
		c    count
		want string
		took time.Duration
	}{
		{"counted", true, func(context.Context) error { return nil }, "", 0},
		{"silent", false, func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }, errUncounted.Error(), countTime},
		{"the store is asked", true, func(context.Context) error { return unknown },
			"the store would have to be asked about the file first, as an access does", 0},
		{"another error", false, func(context.Context) error { return unknown }, unknown.Error(), 0},
	} {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Server{o: Options{Caches: k.c}}
				var out Explanation
				start := time.Now()
				s.count(t.Context(), &core.Explanation{Path: core.Root, State: core.NamePresent, Info: &core.Info{}, Asks: k.asks}, &out)
				if out.Uncounted != k.want || (out.Residency != nil) != (k.want == "") || time.Since(start) != k.took {
					t.Errorf("%q, %+v after %v", out.Uncounted, out.Residency, time.Since(start))
				}
			})
		})
	}
}
