package page_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/pagetest"
)

func open(t testing.TB, o page.SegmentOptions) *page.Segments {
	t.Helper()
	s, err := page.OpenSegments(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSegmentsUnderLRU(t *testing.T) {
	pagetest.Run(t, func(t *testing.T) page.Store {
		return open(t, page.SegmentOptions{Dir: t.TempDir(), Quota: 90 << 20, Policy: page.LRU})
	})
}

func TestBadTendOptions(t *testing.T) {
	for _, o := range []page.SegmentOptions{{Policy: "random"}, {High: 1.5}, {High: 0.5, Low: 0.6}, {High: 0.5}, {Low: -1}} {
		o.Dir, o.Quota = t.TempDir(), 10<<20
		if s, err := page.OpenSegments(o); !errors.Is(err, errs.Invalid) {
			t.Errorf("%+v: %v, want Invalid", o, err)
			s.Close()
		}
	}
}

// TestPolicies tells the policies apart by who is gone when a scan goes by, and by who leaves first.
func TestPolicies(t *testing.T) {
	for policy, want := range map[page.Policy]struct{ hot, old bool }{
		page.S3FIFO: {hot: true, old: true}, // what was read stays whatever goes by
		page.LRU:    {hot: false, old: false},
	} {
		t.Run(string(policy), func(t *testing.T) {
			s := open(t, page.SegmentOptions{Dir: t.TempDir(), Quota: 10 * page.ChunkStride, Policy: policy})
			for i := range 4 {
				mustPut(t, s, pagetest.Key(1, i), page.Size)
			}
			for range 3 {
				for i := range 4 {
					look(t, s, pagetest.Key(1, i), page.Size)
				}
			}
			for i := range 6 {
				mustPut(t, s, pagetest.Key(2, i), page.Size)
			}
			look(t, s, pagetest.Key(1, 3), page.Size)
			for i := range 4 { // the least recently read of the ten are 1/0, 1/1, 1/2 and 2/0
				mustPut(t, s, pagetest.Key(3, i), page.Size)
			}
			if got := s.Has(pagetest.Key(1, 0)); got != want.old {
				t.Errorf("a page read three times, but long ago: here %v, want %v", got, want.old)
			}
			if !s.Has(pagetest.Key(1, 3)) || s.Has(pagetest.Key(2, 0)) {
				t.Error("want the page that was read last, and not the oldest of those that were not")
			}
			for i := range 30 {
				mustPut(t, s, pagetest.Key(4, i), page.Size)
			}
			if got := s.Has(pagetest.Key(1, 3)); got != want.hot {
				t.Errorf("after a scan the hot page is here: %v, want %v", got, want.hot)
			}
		})
	}
}

func TestWatermarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, page.SegmentOptions{Dir: t.TempDir(), Quota: 20 * page.ChunkStride, High: 0.8, Low: 0.5})
		below := openSegments(t, t.TempDir(), 40*page.ChunkStride)
		tiers := page.NewTiered(s, below)
		run(t, tiers)
		for i := range 16 {
			mustPut(t, tiers, pagetest.Key(1, i), page.Size)
			synctest.Wait()
		}
		if st := tiers.Stats(); st[0].Pages != 16 || st[1].Pages != 0 {
			t.Errorf("at the high watermark: %+v", st)
		}
		mustPut(t, tiers, pagetest.Key(1, 16), page.Size)
		synctest.Wait()
		if st := tiers.Stats(); st[0].Pages != 10 || st[1].Pages != 7 || st[0].Demoted != 7 {
			t.Errorf("beyond the high watermark: %+v, want 10 pages left and 7 in the next tier", st)
		}
		for i := range 17 {
			if !look(t, tiers, pagetest.Key(1, i), page.Size) {
				t.Errorf("page %d is lost", i)
			}
		}
	})
}

func TestTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		first := openSegments(t, dir, 10<<20)
		mustPut(t, first, pagetest.Key(1, 9), 5000)
		first.Close()
		s := open(t, page.SegmentOptions{Dir: dir, Quota: 10 << 20, TTL: time.Hour})
		stop := run(t, s)
		for i := range 4 {
			mustPut(t, s, pagetest.Key(1, i), 5000)
		}
		h, _ := s.Get(pagetest.Key(1, 3)) // in use
		here := func(want ...bool) {
			t.Helper()
			for i, want := range want {
				if got := s.Has(pagetest.Key(1, i)); got != want {
					t.Errorf("page %d here: %v, want %v", i, got, want)
				}
			}
		}
		pass := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		pass(40 * time.Minute)
		look(t, s, pagetest.Key(1, 1), 5000)
		pass(40 * time.Minute)
		here(false, true, false, true)
		if s.Has(pagetest.Key(1, 9)) {
			t.Error("a page of an earlier process never expires")
		}
		h.Release()
		pass(time.Hour)
		here(false, false, false, false)
		if st := s.Stats(); st.Evicted["expired"] != 5 || st.Used != 0 {
			t.Errorf("%+v", st)
		}
		stop()
		s.Close()
		if s = openSegments(t, dir, 10<<20); s.Stats().Pages != 0 {
			t.Error("an expired page is back after a restart")
		}
	})
}

// damage flips a bit of the page's data, which is the first of its class and in the chunk of that number.
func damage(t *testing.T, dir string, chunks, chunk int) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "segment-000000"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, at := make([]byte, 1), int64(chunks*page.ChunkTable+chunk*page.Size+77)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// TestScrub damages pages of a running store that were verified before: one pass finds every one of them, in the time its
// rate allows.
func TestScrub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, page.SegmentOptions{Dir: dir, Quota: 7 * page.ChunkStride, ScrubInterval: time.Hour, ScrubRate: page.Size})
		for i := range 6 {
			mustPut(t, s, pagetest.Key(1, i), page.Size)
		}
		for i := range 9 {
			mustPut(t, s, pagetest.Key(2, i), 4096)
		}
		run(t, s)
		for i := range 6 {
			look(t, s, pagetest.Key(1, i), page.Size)
		}
		for _, chunk := range []int{1, 4} {
			damage(t, dir, 7, chunk)
		}
		<-time.After(time.Minute + 3*time.Second)
		synctest.Wait()
		if st := s.Stats(); st.Scrubbed > 5 || st.Scrubs != 0 {
			t.Errorf("in 3 seconds at a page per second: %+v", st)
		}
		<-time.After(10 * time.Second)
		synctest.Wait()
		if st := s.Stats(); st.Scrubs != 1 || st.Corrupt != 2 || st.Pages != 13 || st.Scrubbed != 15 || st.Pinned != 0 {
			t.Errorf("%+v, want one pass over 15 pages that found 2 damaged", st)
		}
		if s.Has(pagetest.Key(1, 1)) || s.Has(pagetest.Key(1, 4)) {
			t.Error("a damaged page is here")
		}
		<-time.After(time.Hour)
		synctest.Wait()
		if st := s.Stats(); st.Scrubs != 2 || st.Corrupt != 2 {
			t.Errorf("second pass: %+v", st)
		}
	})
}

func TestVerifyAlways(t *testing.T) {
	for _, always := range []bool{true, false} {
		dir := t.TempDir()
		s := open(t, page.SegmentOptions{Dir: dir, Quota: 7 * page.ChunkStride, VerifyAlways: always})
		k := pagetest.Key(1, 0)
		mustPut(t, s, k, page.Size)
		look(t, s, k, page.Size)
		damage(t, dir, 7, 0)
		h, ok := s.Get(k)
		if ok {
			h.Release()
		}
		if ok == always || s.Stats().Corrupt == 0 == always {
			t.Errorf("always %v: damaged page handed out %v, %d counted", always, ok, s.Stats().Corrupt)
		}
	}
}

// TestIndex puts and drops pages at random, so many that tables grow and shrink, and compares with a map.
func TestIndex(t *testing.T) {
	s := openSegments(t, tmpfsDir(t), 80<<20)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	want := map[page.Key]bool{}
	for round := range 6 {
		for range 6000 {
			k := pagetest.Key(r.IntN(20), r.IntN(700))
			if round%2 == 0 {
				if err := s.Put(k, []byte(fmt.Sprint(k))); err != nil {
					t.Fatal(err)
				}
				want[k] = true
			} else {
				s.Drop(k, k.Index, k.Index+1)
				delete(want, k)
			}
		}
		for n := range 20 {
			for i := range 700 {
				k := pagetest.Key(n, i)
				h, ok := s.Get(k)
				if ok != want[k] {
					t.Fatalf("round %d: %v here: %v, want %v", round, k, ok, want[k])
				}
				if ok {
					if string(h.Bytes()) != fmt.Sprint(k) {
						t.Fatalf("wrong bytes for %v", k)
					}
					h.Release()
				}
			}
		}
		if got := s.Stats().Pages; int(got) != len(want) {
			t.Errorf("%d pages, want %d", got, len(want))
		}
	}
}

// TestDamageIsReadAgain damages what two tiers hold, between two processes and in a running one that verifies always, and reads
// through a cache: every byte is right, and each damaged page is counted and read from its source.
func TestDamageIsReadAgain(t *testing.T) {
	const pages = 12 // 5 in the first tier, the others in the second, which stays below its mark whatever comes down
	dirs := []string{t.TempDir(), t.TempDir()}
	quotas := []int64{5 * page.ChunkStride, 16 * page.ChunkStride}
	src := newSource(pages*page.Size - 5)
	start := func() (*page.Tiered, *page.Cache) {
		var all []*page.Segments
		for i, dir := range dirs {
			all = append(all, open(t, page.SegmentOptions{Dir: dir, Quota: quotas[i], VerifyAlways: true}))
		}
		tiers := page.NewTiered(all...)
		return tiers, page.NewCache(tiers, page.CacheOptions{})
	}
	tiers, c := start()
	w := c.NewWriter(src.content())
	w.Write(src.data)
	w.Finish()
	read := func(when string, wantMisses, wantCorrupt int) {
		t.Helper()
		hits, misses := readAll(t, c, src, 0, int64(len(src.data)), true)
		c.Settle()
		var corrupt int64
		for _, st := range tiers.Stats() {
			corrupt += st.Corrupt
		}
		// A page that moves between the tiers may be in both for a while, and damaged in one; or be dropped on its way.
		if hits+misses != pages || misses > wantMisses+2 || int(corrupt) != wantCorrupt {
			t.Errorf("%s: %d hits, %d misses, %d damaged, want %d misses and %d damaged", when, hits, misses, corrupt, wantMisses, wantCorrupt)
		}
	}
	restart := func(harm func()) {
		t.Helper()
		c.Close()
		if err := tiers.Close(); err != nil {
			t.Fatal(err)
		}
		harm()
		tiers, c = start()
	}
	read("untouched", 0, 0)
	restart(func() {
		damage(t, dirs[0], 5, 2)
		damage(t, dirs[1], 16, 1)
		damage(t, dirs[1], 16, 3)
	})
	read("bits flipped before a start", 3, 3)
	restart(func() { // data of two slots swapped, headers left
		f, save := segmentFile(t, dirs[1])
		data := 16 * page.ChunkTable
		swap(f[data:data+page.Size], f[data+2*page.Size:data+3*page.Size])
		save()
	})
	read("swapped before a start", 2, 2)
	restart(func() { // the second half of a slot was never written
		f, save := segmentFile(t, dirs[0])
		data := 5*page.ChunkTable + page.Size
		clear(f[data+page.Size/2 : data+page.Size])
		save()
	})
	read("torn before a start", 1, 1)
	damage(t, dirs[0], 5, 0)
	read("flipped while running", 1, 2)
	c.Close()
}
