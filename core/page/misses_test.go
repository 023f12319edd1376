package page_test

import (
	"fmt"
	"io"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/page/pagetest"
)

// file is a source that says of what file it is.
type file struct {
	*source
	of page.Origin
}

func (f file) Origin() page.Origin { return f.of }

// newFile returns a file of n bytes, which begin at byte 1000 of it.
func newFile(n int) file {
	return file{newSource(n), page.Origin{Store: "root", Key: "f", Version: strconv.Itoa(n), Base: 1000}}
}

// read reads bytes [off, off+n) of the file's content.
func (f file) readFrom(t *testing.T, c *page.Cache, of page.Content, off, n int64) {
	t.Helper()
	r := c.NewReader(t.Context(), of, off, n, f)
	if _, err := r.WriteTo(io.Discard); err != nil {
		t.Fatal(err)
	}
	r.Close()
	c.Settle()
}

// TestWhyMissed has a page not be in the cache for each reason that there is, and reads it.
func TestWhyMissed(t *testing.T) {
	const n = page.Size
	type fixture struct {
		*testing.T
		c   *page.Cache
		f   file
		dir string
	}
	read := func(x *fixture) { x.f.readFrom(x.T, x.c, x.f.content(), 0, n) }
	key := func(x *fixture) page.Key { return page.Key{ID: x.f.content().ID, Rev: x.f.content().Rev} }
	small := page.SegmentOptions{Quota: 4 * page.ChunkStride}
	others := func(x *fixture, s page.Store, size int) {
		for i := range 40 {
			mustPut(x.T, s, pagetest.Key(9, i), size)
		}
	}
	for _, k := range []struct {
		why   page.Why
		o     page.SegmentOptions
		do    func(x *fixture, s *page.Segments) // what comes before the read
		since bool
	}{
		{page.WhyNew, small, func(*fixture, *page.Segments) {}, false},
		{page.WhyOnce, small, func(x *fixture, s *page.Segments) { read(x); others(x, s, n) }, true},
		{page.WhyCold, page.SegmentOptions{Quota: small.Quota, Policy: page.LRU}, func(x *fixture, s *page.Segments) { read(x); others(x, s, n) }, true},
		{page.WhyReclaimed, page.SegmentOptions{Quota: page.ChunkStride, Policy: page.LRU}, func(x *fixture, s *page.Segments) {
			mustPut(x.T, s, pagetest.Key(9, 0), n/4) // in one chunk with it, and older
			x.f = newFile(n / 4)
			x.f.readFrom(x.T, x.c, x.f.content(), 0, n/4)
			mustPut(x.T, s, pagetest.Key(9, 1), n)
		}, true},
		{page.WhyDamaged, page.SegmentOptions{Quota: small.Quota, VerifyAlways: true}, func(x *fixture, s *page.Segments) { read(x); damage(x.T, x.dir, 4, 0) }, true},
		{page.WhyFreed, small, func(x *fixture, s *page.Segments) { read(x); x.c.Drop(x.f.content()) }, true},
		{page.WhyVersion, small, func(x *fixture, s *page.Segments) {
			old := newFile(n + 1)
			old.readFrom(x.T, x.c, old.content(), 0, n)
		}, true},
		{page.WhyRefused, small, func(x *fixture, s *page.Segments) {
			var held []page.Handle
			for i := range 4 {
				mustPut(x.T, s, pagetest.Key(9, i), n)
				h, _ := s.Get(pagetest.Key(9, i))
				held = append(held, h)
			}
			read(x)
			for _, h := range held {
				h.Release()
			}
		}, true},
	} {
		t.Run(string(k.why), func(t *testing.T) {
			k.o.Dir = t.TempDir()
			s := open(t, k.o)
			x := &fixture{T: t, c: newCache(t, s, page.CacheOptions{}), f: newFile(n), dir: k.o.Dir}
			began := time.Now().Add(-time.Millisecond)
			k.do(x, s)
			if k.why != page.WhyDamaged && s.Has(key(x)) {
				t.Fatal("the page is there")
			}
			size := min(n, x.f.content().Len)
			x.f.readFrom(t, x.c, x.f.content(), 0, size)
			got := x.c.LastMiss(x.f.of)
			m := got.Last
			if m == nil || m.Why != k.why || m.Off != 1000 || m.Len != size || m.Other || m.At.Before(began) || got.Forgotten {
				t.Fatalf("got %+v, %+v", got, m)
			}
			if m.Since.IsZero() == k.since || k.since && (m.Since.Before(began) || m.Since.After(m.At)) {
				t.Errorf("since %v, at %v", m.Since, m.At)
			}
		})
	}
}

// TestWhyMissedExpired lets a page expire.
func TestWhyMissedExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, page.SegmentOptions{Dir: t.TempDir(), Quota: 10 << 20, TTL: time.Hour})
		run(t, s)
		c, f := newCache(t, s, page.CacheOptions{}), newFile(100)
		f.readFrom(t, c, f.content(), 0, 100)
		<-time.After(2 * time.Hour)
		synctest.Wait()
		f.readFrom(t, c, f.content(), 0, 100)
		if m := c.LastMiss(f.of).Last; m.Why != page.WhyExpired || m.At.Sub(m.Since) > time.Hour || m.At.Sub(m.Since) < 30*time.Minute {
			t.Errorf("got %+v", m)
		}
	})
}

// TestWhyMissedOff reads two pages of a directory whose disk fails with the first.
func TestWhyMissedOff(t *testing.T) {
	dir := t.TempDir()
	f, before := newFile(2*page.Size), openSegments(t, dir, 10<<20)
	w := page.NewCache(before, page.CacheOptions{}).NewWriter(f.content())
	w.Write(f.data)
	w.Finish()
	before.Close()
	broken := false
	s, err := page.OpenFaulty(page.SegmentOptions{Dir: dir, Quota: 10 << 20}, func() error {
		if broken {
			return unix.EIO
		}
		return nil
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := newCache(t, page.NewTiered(s), page.CacheOptions{})
	t.Cleanup(func() { s.Close() })
	if err := c.DropRange(f.content(), page.Size, page.Size); err != nil {
		t.Fatal(err)
	}
	f.readFrom(t, c, f.content(), page.Size, page.Size) // it is there again
	broken = true
	for i, want := range []page.Why{page.WhyUnread, page.WhyOff} {
		f.readFrom(t, c, f.content(), int64(i)*page.Size, page.Size)
		if m := c.LastMiss(f.of).Last; m == nil || m.Why != want || m.Off != 1000+int64(i)*page.Size {
			t.Errorf("page %d: got %+v, want %s", i, m, want)
		}
	}
}

// TestLastMiss tells which reads are remembered, and where they began.
func TestLastMiss(t *testing.T) {
	c := newCache(t, page.NewTiered(openSegments(t, t.TempDir(), 60<<20)), page.CacheOptions{})
	f := newFile(10*page.Size + 7)
	of := f.content()
	want := func(when string, off, n int64) {
		t.Helper()
		m := c.LastMiss(f.of).Last
		switch {
		case m == nil && n > 0, m != nil && (m.Off != 1000+off || m.Len != n):
			t.Errorf("%s: got %+v, want %d bytes from %d on", when, m, n, 1000+off)
		}
	}
	if got := c.LastMiss(f.of); got.Last != nil || got.Forgotten || time.Since(got.Since) > time.Minute {
		t.Errorf("before all: %+v", got)
	}
	if err := c.Load(t.Context(), of, 0, page.Size, f); err != nil {
		t.Fatal(err)
	}
	want("a load is no read", 0, 0)
	f.readFrom(t, c, of, 5, 10)
	want("a hit", 0, 0)
	f.readFrom(t, c, of, 0, page.Size+10)
	want("from where it is missing", page.Size, 10)
	f.readFrom(t, c, of, 3*page.Size+100, 10)
	want("within a page", 3*page.Size+100, 10)
	f.readFrom(t, c, of, 2*page.Size, page.Size+10)
	want("up to what is there", 2*page.Size, page.Size)
	was := c.LastMiss(f.of).Last.At
	f.readFrom(t, c, of, 0, 4*page.Size)
	if m := c.LastMiss(f.of).Last; !m.At.Equal(was) {
		t.Errorf("a hit is told as a miss: %+v", m)
	}
	of.NoCache = true
	f.readFrom(t, c, of, 6*page.Size, 3)
	want("not kept", 6*page.Size, 3)
	if m := c.LastMiss(f.of).Last; m.Why != page.WhyNotKept {
		t.Errorf("not kept: %+v", m)
	}
	if m := c.LastMiss(page.Origin{Store: "root", Key: "f", Version: "another"}).Last; m == nil || !m.Other {
		t.Errorf("asked of another version: %+v", m)
	}
	readAll(t, c, f.source, 9*page.Size, 10, true)
	want("of no file", 6*page.Size, 3)
}

// TestHitsAreNotNoted reads pages that are here while nothing can be remembered, in all the ways in which they are read.
func TestHitsAreNotNoted(t *testing.T) {
	c := newCache(t, page.NewTiered(openSegments(t, tmpfsDir(t), 20<<20)), page.CacheOptions{})
	f := newFile(2*page.Size + 5)
	of := f.content()
	f.readFrom(t, c, of, 0, of.Len)
	unlock := c.LockMisses()
	defer unlock()
	f.readFrom(t, c, of, 0, of.Len)
	for _, write := range []bool{false, true} {
		if hits, misses := readAll(t, c, f.source, 3, of.Len-3, write); hits != 3 || misses != 0 {
			t.Errorf("%d hits, %d misses", hits, misses)
		}
	}
	loans, err := c.Lend(t.Context(), of, 0, of.Len, 3)
	if err != nil || len(loans) == 0 {
		t.Errorf("lent: %v, %v", loans, err)
	}
	for _, l := range loans {
		l.GiveBack()
	}
}

// TestMissesAreForgotten has so many files be read that the first ones are forgotten, which is not told as if they had not been read; and
// so of pages.
func TestMissesAreForgotten(t *testing.T) {
	c := newCache(t, openSegments(t, t.TempDir(), 10<<20), page.CacheOptions{})
	f := newFile(1)
	of := func(i int) page.Content { return page.Content{ID: pagetest.Key(i, 0).ID, Rev: uint64(i), Len: 1} }
	for i := range 30_000 {
		f.of.Key = fmt.Sprint(i)
		r := c.NewReader(t.Context(), of(i), 0, 1, f)
		if _, err := r.WriteTo(io.Discard); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	known := 0
	for i := range 30_000 {
		f.of.Key = fmt.Sprint(i)
		switch got := c.LastMiss(f.of); {
		case got.Last != nil && got.Forgotten, got.Last == nil && !got.Forgotten:
			t.Fatalf("file %d: %+v", i, got)
		case got.Last != nil:
			known++
		}
	}
	if known < 3000 || known > 5000 {
		t.Errorf("%d files are remembered", known)
	}
	c.Drop(of(29_999))
	f.of.Key = "again"
	whys := map[page.Why]int{}
	for i := range 30_000 {
		if pages, _ := c.Resident(of(i)); pages > 0 {
			continue
		}
		f.readFrom(t, c, of(i), 0, 1)
		whys[c.LastMiss(page.Origin{Store: "root", Key: "again", Version: f.of.Version}).Last.Why]++
	}
	all := 0
	for _, n := range whys {
		all += n
	}
	if whys[page.WhyNew] > 0 || whys[page.WhyForgotten] < all*3/4 { // and none is told what became of another
		t.Errorf("all were read before, most of them long ago; the reads missed as %v", whys)
	}
}

// TestMissesWithoutTrail reads through a store that does not remember what it had.
func TestMissesWithoutTrail(t *testing.T) {
	c, f := newCache(t, mempage.New(10), page.CacheOptions{}), newFile(10)
	f.readFrom(t, c, f.content(), 0, 10)
	if m := c.LastMiss(f.of).Last; m == nil || m.Why != page.WhyForgotten {
		t.Errorf("got %+v", m)
	}
}

// TestMovedPagesAreNotFreed has pages go up to a tier whose disk fails later.
func TestMovedPagesAreNotFreed(t *testing.T) {
	broken := false
	first, err := page.OpenFaulty(page.SegmentOptions{Dir: t.TempDir(), Quota: 4 * page.ChunkStride, VerifyAlways: true}, func() error {
		if broken {
			return unix.EIO
		}
		return nil
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { first.Close() })
	tiers, c, src := twoTiers(t, first, openSegments(t, t.TempDir(), 4*page.ChunkStride))
	src.promote = true
	f := file{src, page.Origin{Store: "root", Key: "f"}}
	for range 3 {
		f.readFrom(t, c, src.content(), 0, 2*page.Size)
		tiers.MoveAll()
	}
	if st := tiers.Stats(); st[1].Promoted != 2 {
		t.Fatalf("not moved: %+v", st)
	}
	broken = true
	for i, want := range []page.Why{page.WhyUnread, page.WhyOff} {
		f.readFrom(t, c, src.content(), int64(i)*page.Size, page.Size)
		if m := c.LastMiss(f.of).Last; m == nil || m.Why != want {
			t.Errorf("page %d: got %+v, want %s", i, m, want)
		}
	}
}
