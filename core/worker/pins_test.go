package worker_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/core/worker"
)

// endless is a page.Source of as many bytes as are asked for.
type endless struct{}

func (endless) Open(_ context.Context, _, n int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(strings.Repeat("x", int(n)))), nil
}

// TestPinsLapse pins a content block by block: it stays pinned as long as it is asked for, and no longer.
func TestPinsLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, err := page.OpenSegments(page.SegmentOptions{Dir: t.TempDir(), Quota: 22 << 20})
		if err != nil {
			t.Fatal(err)
		}
		tiers := page.NewTiered(disk)
		cache := page.NewCache(tiers, page.CacheOptions{})
		sealer, err := seal.New(key)
		if err != nil {
			t.Fatal(err)
		}
		x := worker.NewTender(cache, sealer, func(*seal.Ticket) page.Source { return endless{} })
		tend := func(id byte, op core.PageOp, block int64) error {
			t.Helper()
			ticket := sealer.Sign(&seal.Ticket{ID: [16]byte{id}, Len: 100 * page.Size, Tends: true, Expires: time.Now().Add(time.Hour)})
			report, err := x.Tend(t.Context(), ticket, op, block*4*page.Size, 4*page.Size)
			if op == core.PinPages && err == nil && string(report.Pages) != "\x01\x01\x01\x01" {
				t.Errorf("pinned, there are %q", report.Pages)
			}
			return err
		}
		must := func(id byte, op core.PageOp, block int64) {
			t.Helper()
			if err := tend(id, op, block); err != nil {
				t.Error(err)
			}
		}
		pinned := func(id byte, want bool) {
			t.Helper()
			if got := cache.Pinned(page.Content{ID: [16]byte{id}}); got != want {
				t.Errorf("content %d is pinned: %v, want %v", id, got, want)
			}
		}
		if err := tend(1, core.PinPages, 25); errs.KindOf(err) != errs.Range {
			t.Errorf("beyond the end: %v", err)
		}
		pinned(1, false)
		must(1, core.PinPages, 0)
		must(1, core.PinPages, 7)
		must(1, core.PinPages, 7) // the same 4 pages
		if err := tend(2, core.PinPages, 0); errs.KindOf(err) != errs.NoSpace {
			t.Errorf("more than half: %v", err)
		}
		pinned(1, true)
		pinned(2, false)
		time.Sleep(core.PinTime - time.Second)
		must(1, core.PinPages, 0)
		time.Sleep(core.PinTime - time.Second)
		pinned(1, true)
		time.Sleep(2 * time.Minute)
		pinned(1, false)
		must(2, core.PinPages, 0)
		must(1, core.PinPages, 0)
		must(2, core.UnpinPages, 0)
		must(1, core.DropPages, 0)
		pinned(1, false)
		pinned(2, false)
		must(1, core.PinPages, 0)
		x.Close()
		if err := tend(1, core.PinPages, 1); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("after Close: %v", err)
		}
		if err := cache.Close(); err != nil {
			t.Error(err)
		}
		if err := tiers.Close(); err != nil {
			t.Error(err)
		}
	})
}
