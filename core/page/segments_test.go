package page_test

import (
	"testing"

	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/pagetest"
)

func openSegments(t *testing.T, dir string, quota int64) *page.Segments {
	t.Helper()
	s, err := page.OpenSegments(page.SegmentOptions{Dir: dir, Quota: quota})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSegments(t *testing.T) {
	pagetest.Run(t, func(t *testing.T) page.Store { return openSegments(t, t.TempDir(), 100<<20) })
}

func TestSegmentsOnTmpfs(t *testing.T) {
	pagetest.Run(t, func(t *testing.T) page.Store { return openSegments(t, tmpfsDir(t), 100<<20) })
}

func TestTiered(t *testing.T) {
	pagetest.Run(t, func(t *testing.T) page.Store {
		s := page.NewTiered(openSegments(t, tmpfsDir(t), 24<<20), openSegments(t, t.TempDir(), 80<<20))
		t.Cleanup(func() { s.Close() })
		return s
	})
}
