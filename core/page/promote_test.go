package page_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/pagetest"
)

// run runs the store until the test ends, or until the function that it returns is called.
func run(t *testing.T, s interface{ Run(context.Context) }) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// twoTiers returns a cache over two tiers, with a content of three pages of which all are in the second tier.
func twoTiers(t *testing.T, first, second *page.Segments) (*page.Tiered, *page.Cache, *source) {
	src := newSource(2*page.Size + 100)
	below := page.NewCache(second, page.CacheOptions{})
	w := below.NewWriter(src.content())
	w.Write(src.data)
	w.Finish()
	below.Close()
	tiers := page.NewTiered(first, second)
	return tiers, newCache(t, tiers, page.CacheOptions{}), src
}

func TestPromotion(t *testing.T) {
	for _, promote := range []bool{true, false} {
		t.Run(fmt.Sprint(promote), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tiers, c, src := twoTiers(t, openSegments(t, t.TempDir(), 20<<20), openSegments(t, t.TempDir(), 60<<20))
				src.promote = promote
				run(t, tiers)
				for times, want := range [][2]int64{{0, 3}, {0, 3}, {3, 0}, {3, 0}} {
					if !promote {
						want = [2]int64{0, 3}
					}
					if st := tiers.Stats(); times > 0 && (st[0].Pages != want[0] || st[1].Pages != want[1]) {
						t.Errorf("after %d reads: %d and %d pages in the tiers, want %v", times, st[0].Pages, st[1].Pages, want)
					}
					if _, misses := readAll(t, c, src, 0, int64(len(src.data)), true); misses != 0 {
						t.Errorf("read %d missed %d pages", times, misses)
					}
					synctest.Wait()
				}
				if got, want := tiers.Stats()[1].Promoted, int64(3); promote && got != want || !promote && got != 0 {
					t.Errorf("%d promoted pages counted", got)
				}
			})
		})
	}
}

// TestPromotionSparesTheFirstTier has a scan go over a second tier ten times as large as the first one: what is hot stays.
func TestPromotionSparesTheFirstTier(t *testing.T) {
	first, second := openSegments(t, tmpfsDir(t), 10<<20), openSegments(t, t.TempDir(), 120<<20)
	for i := range 100 {
		mustPut(t, second, pagetest.Key(2, i), page.Size)
	}
	tiers := page.NewTiered(first, second)
	for i := range 8 {
		mustPut(t, tiers, pagetest.Key(1, i), page.Size)
	}
	read := func(k page.Key) {
		h, ok := tiers.Get(k)
		if !ok {
			t.Fatalf("%v is not here", k)
		}
		tiers.Promote(k, h)
		h.Release()
		tiers.MoveAll()
	}
	for range 3 {
		for i := range 8 {
			read(pagetest.Key(1, i))
		}
	}
	for i := range 100 {
		read(pagetest.Key(2, i))
	}
	if st := tiers.Stats(); st[1].Promoted != 0 {
		t.Errorf("a scan moved %d pages", st[1].Promoted)
	}
	for i := range 100 { // a second one moves them, through the small queue
		read(pagetest.Key(2, i))
	}
	here := 0
	for i := range 8 {
		if first.Has(pagetest.Key(1, i)) {
			here++
		}
	}
	if st := tiers.Stats(); here < 7 || st[1].Promoted != 100 {
		t.Errorf("%d of 8 hot pages stayed, %d were promoted", here, st[1].Promoted)
	}
}

// TestPromotionDoesNotLaunder damages a page below after it was read and verified: it must not get a fresh checksum above.
func TestPromotionDoesNotLaunder(t *testing.T) {
	dir := t.TempDir()
	second := openSegments(t, dir, 3<<20)
	tiers := page.NewTiered(openSegments(t, t.TempDir(), 10<<20), second)
	k := pagetest.Key(1, 0)
	mustPut(t, second, k, page.Size)
	for range 2 {
		h, _ := tiers.Get(k)
		tiers.Promote(k, h)
		h.Release()
	}
	f, err := os.OpenFile(filepath.Join(dir, "segment-000000"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("damage"), 2*page.ChunkTable+500); err != nil {
		t.Fatal(err)
	}
	tiers.MoveAll()
	if st := tiers.Stats(); tiers.Has(k) || st[1].Corrupt != 1 || st[1].Promoted != 0 || st[0].Pages != 0 {
		t.Errorf("%+v", st)
	}
}

// TestPromotionWhereTheFirstTierFails leaves the page where it is.
func TestPromotionWhereTheFirstTierFails(t *testing.T) {
	var writeErr error
	first, err := page.OpenFaulty(page.SegmentOptions{Dir: t.TempDir(), Quota: 20 << 20}, nil, func() error { return writeErr }, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { first.Close() })
	tiers, c, src := twoTiers(t, first, openSegments(t, t.TempDir(), 60<<20))
	src.promote, writeErr = true, unix.EIO
	for range 4 {
		if _, misses := readAll(t, c, src, 0, int64(len(src.data)), true); misses != 0 {
			t.Errorf("%d misses", misses)
		}
		tiers.MoveAll()
	}
	if st := tiers.Stats(); st[0].Off == "" || st[1].Pages != 3 || st[1].Promoted != 0 {
		t.Errorf("%+v", st)
	}
}

// TestPromotionStorm reads, writes, drops and moves at random; what is found is the key's bytes.
func TestPromotionStorm(t *testing.T) {
	tiers := page.NewTiered(openSegments(t, tmpfsDir(t), 5<<20), openSegments(t, t.TempDir(), 10<<20), openSegments(t, t.TempDir(), 20<<20))
	t.Cleanup(func() { tiers.Close() })
	stop := run(t, tiers)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(g)))
			for range 400 {
				i := min(r.IntN(60), r.IntN(60))
				k := pagetest.Key(1, i)
				h, ok := tiers.Get(k)
				switch {
				case !ok:
					if err := tiers.Put(k, pagetest.Data(k, sizeOf(i))); err != nil {
						t.Errorf("Put = %v", err)
					}
				case r.IntN(100) == 0:
					tiers.Drop(k, k.Index, k.Index+1)
					fallthrough
				default:
					tiers.Promote(k, h)
					if !slices.Equal(h.Bytes(), pagetest.Data(k, sizeOf(i))) {
						t.Errorf("wrong bytes for page %d", i)
					}
					h.Release()
				}
			}
		})
	}
	wg.Wait()
	stop()
	var promoted int64
	for _, st := range tiers.Stats() {
		promoted += st.Promoted
		if st.Corrupt != 0 || st.Pinned != 0 {
			t.Errorf("%+v", st)
		}
	}
	if promoted == 0 {
		t.Error("nothing was promoted")
	}
}
