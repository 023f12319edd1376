package page_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/page/pagetest"
)

// contentOf returns content number n, of whole pages.
func contentOf(n, pages int) page.Content {
	k := pagetest.Key(n, 0)
	return page.Content{ID: k.ID, Rev: k.Rev, Len: int64(pages) * page.Size}
}

func TestPin(t *testing.T) {
	fast := open(t, page.SegmentOptions{Dir: t.TempDir(), Quota: 10 * page.ChunkStride, Policy: page.LRU})
	slow := open(t, page.SegmentOptions{Dir: t.TempDir(), Quota: 20 * page.ChunkStride, Policy: page.LRU})
	tiers := page.NewTiered(fast, slow)
	c := newCache(t, tiers, page.CacheOptions{})
	churn := func(content int) {
		for i := range 60 {
			mustPut(t, tiers, pagetest.Key(content, i), page.Size)
		}
	}
	a, b, d := contentOf(1, 8), contentOf(2, 4), contentOf(3, 4)
	for i := range 8 {
		mustPut(t, tiers, pagetest.Key(1, i), page.Size)
	}
	for _, of := range []page.Content{a, a, b} { // a is here already, and more than its share of the fast tier
		if err := c.Pin(of); err != nil {
			t.Fatal(err)
		}
	}
	churn(10)
	for i := range 4 { // b comes later
		mustPut(t, tiers, pagetest.Key(2, i), page.Size)
	}
	churn(11)
	for n, pages := range map[int]int{1: 8, 2: 4} {
		for i := range pages {
			if !look(t, tiers, pagetest.Key(n, i), page.Size) {
				t.Errorf("pinned page %d of content %d is gone", i, n)
			}
		}
	}
	st := tiers.Stats()
	if st[0].KeptBytes > 5*page.Size || st[0].KeptBytes+st[1].KeptBytes != 12*page.Size {
		t.Errorf("%d and %d bytes are kept, want 12 pages, at most 5 of them in the first tier", st[0].KeptBytes, st[1].KeptBytes)
	}
	if err := c.Pin(d); !errors.Is(err, errs.NoSpace) { // 15 pages are half of all
		t.Errorf("pinning beyond the share = %v, want NoSpace", err)
	}
	if !c.Pinned(a) || !c.Pinned(b) || c.Pinned(d) {
		t.Error("Pinned does not tell what is pinned")
	}
	c.Unpin(a)
	c.Unpin(d) // was not pinned
	if err := c.Pin(d); err != nil {
		t.Errorf("pinning after Unpin = %v", err)
	}
	churn(12)
	left := 0
	for i := range 8 {
		if tiers.Has(pagetest.Key(1, i)) {
			left++
		}
	}
	if left > 0 || c.Pinned(a) || !c.Pinned(d) {
		t.Errorf("%d pages of the unpinned content are left", left)
	}
	c.Drop(b) // a pinned content can be dropped
	if st := tiers.Stats(); st[0].KeptBytes+st[1].KeptBytes != 0 {
		t.Errorf("%+v", st)
	}
	churn(14)
}

func TestPinOfSmallPagesKeepsTheirChunks(t *testing.T) {
	s := openSegments(t, t.TempDir(), 6*page.ChunkStride)
	tiers := page.NewTiered(s)
	for i := range 300 {
		mustPut(t, tiers, pagetest.Key(1, i), 4096)
	}
	of := page.Content{ID: pagetest.Key(2, 0).ID, Rev: pagetest.Key(2, 0).Rev, Len: 100}
	if err := tiers.Pin(of); err != nil {
		t.Fatal(err)
	}
	mustPut(t, tiers, pagetest.Key(2, 0), 100)
	for _, n := range []int{page.Size, 300000, 5000, page.Size} {
		for i := range 50 {
			mustPut(t, tiers, pagetest.Key(n, i), n)
		}
		if !look(t, tiers, pagetest.Key(2, 0), 100) {
			t.Fatalf("the pinned page went when pages of %d bytes came", n)
		}
	}
	tiers.Unpin(of)
	for i := range 50 {
		mustPut(t, tiers, pagetest.Key(9, i), page.Size)
	}
	if tiers.Has(pagetest.Key(2, 0)) {
		t.Error("the page is still here after Unpin")
	}
}

func TestPinWithoutTiers(t *testing.T) {
	c := newCache(t, mempage.New(10), page.CacheOptions{})
	if err := c.Pin(contentOf(1, 1)); !errors.Is(err, errs.Unsupported) || c.Pinned(contentOf(1, 1)) {
		t.Errorf("Pin = %v, want Unsupported", err)
	}
	c.Unpin(contentOf(1, 1))
	if err := page.NewTiered().Pin(contentOf(1, 1)); !errors.Is(err, errs.NoSpace) {
		t.Errorf("Pin without a tier = %v, want NoSpace", err)
	}
}

// TestPinStorm pins, unpins, drops, promotes and evicts at once: at the end no more is kept than is pinned.
func TestPinStorm(t *testing.T) {
	tiers := page.NewTiered(openSegments(t, tmpfsDir(t), 6*page.ChunkStride), openSegments(t, t.TempDir(), 12*page.ChunkStride))
	run(t, tiers)
	var wg sync.WaitGroup
	for n := range 4 {
		of := contentOf(n, 2)
		wg.Go(func() {
			for range 60 {
				if err := tiers.Pin(of); err != nil {
					t.Errorf("Pin = %v", err)
				}
				for i := range 2 {
					k := pagetest.Key(n, i)
					if h, ok := tiers.Get(k); ok {
						tiers.Promote(k, h)
						h.Release()
					} else if err := tiers.Put(k, []byte("x")); err != nil {
						t.Errorf("Put = %v", err)
					}
				}
				tiers.Unpin(of)
			}
		})
		wg.Go(func() {
			data := make([]byte, page.Size)
			for i := range 60 {
				if err := tiers.Put(pagetest.Key(100+n, i), data); err != nil && !errors.Is(err, errs.NoSpace) {
					t.Errorf("Put = %v", err)
				}
				if i%20 == 0 {
					tiers.Drop(pagetest.Key(n, 0), 0, 1)
				}
			}
		})
	}
	wg.Wait()
	for _, st := range tiers.Stats() {
		if st.KeptBytes != 0 || st.Pinned != 0 {
			t.Errorf("%+v", st)
		}
	}
}

// TestPinPart pins parts of contents that are larger than the cache: it is the parts that count.
func TestPinPart(t *testing.T) {
	tiers := page.NewTiered(open(t, page.SegmentOptions{Dir: t.TempDir(), Quota: 20 * page.ChunkStride}))
	c := newCache(t, tiers, page.CacheOptions{})
	large, other := contentOf(1, 1000), contentOf(2, 1000)
	for _, k := range []struct {
		of   page.Content
		n    int64
		want error
	}{{large, 3*page.Size - 1, nil}, {large, page.Size, nil}, {large, 6 * page.Size, nil}, {other, 5 * page.Size, errs.NoSpace}, {other, 4 * page.Size, nil},
		{large, 7 * page.Size, errs.NoSpace}, {large, 6 * page.Size, nil}} {
		if err := c.PinPart(k.of, k.n); !errors.Is(err, k.want) || k.want == nil && err != nil {
			t.Errorf("%d bytes: got %v, want %v", k.n, err, k.want)
		}
	}
	c.Unpin(large)
	if err := c.PinPart(other, 10*page.Size); err != nil || c.Pinned(large) {
		t.Errorf("after Unpin: %v", err)
	}
}

// TestPinnedBeyondTheirShare puts more pages of a content than were pinned of it, and may stay: the others are cached as ever.
func TestPinnedBeyondTheirShare(t *testing.T) {
	fast := open(t, page.SegmentOptions{Dir: t.TempDir(), Quota: 4 * page.ChunkStride, Policy: page.LRU})
	slow := open(t, page.SegmentOptions{Dir: t.TempDir(), Quota: 16 * page.ChunkStride, Policy: page.LRU})
	tiers := page.NewTiered(fast, slow)
	if err := tiers.PinPart(contentOf(1, 100), 5*page.Size); err != nil {
		t.Fatal(err)
	}
	for i := range 14 {
		mustPut(t, tiers, pagetest.Key(1, i), page.Size)
		if !look(t, tiers, pagetest.Key(1, i), page.Size) {
			t.Errorf("page %d was not kept", i)
		}
	}
	if st := tiers.Stats(); st[0].KeptBytes != 2*page.Size || st[1].KeptBytes != 8*page.Size {
		t.Errorf("%d and %d bytes are kept, want half of each tier", st[0].KeptBytes, st[1].KeptBytes)
	}
	for i := range 60 {
		mustPut(t, tiers, pagetest.Key(2, i), page.Size)
	}
	for i := range 14 {
		if got := tiers.Has(pagetest.Key(1, i)); got != (i < 10) {
			t.Errorf("page %d is here: %v", i, got)
		}
	}
}
