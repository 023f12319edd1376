package page_test

import (
	"context"
	"errors"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
)

// TestLoadReadsWhatIsMissing loads parts of a content one after the other: each page is read once, and Where counts them.
func TestLoadReadsWhatIsMissing(t *testing.T) {
	const pages = 100 // more than a stream has
	s := newSource(pages*page.Size - 5)
	c := newCache(t, mempage.New(pages), page.CacheOptions{})
	of := s.content()
	where := func(off, n int64) (here int) {
		t.Helper()
		all, err := c.Where(of, off, n)
		if err != nil {
			t.Fatal(err)
		}
		for _, tier := range all {
			if tier > 0 {
				here++
			}
		}
		return here
	}
	for _, k := range []struct{ off, n, here int64 }{
		{0, 0, 0}, {page.Size*3 + 7, 1, 1}, {page.Size * 2, 3 * page.Size, 3}, {of.Len, 0, 3}, {0, of.Len, pages}, {0, of.Len, pages},
	} {
		if err := c.Load(t.Context(), of, k.off, k.n, s); err != nil {
			t.Fatal(err)
		}
		if here := where(0, of.Len); here != int(k.here) {
			t.Errorf("after loading %d bytes from %d on, %d pages are here, want %d", k.n, k.off, here, k.here)
		}
	}
	if n := s.bytes.Load(); n != of.Len {
		t.Errorf("%d bytes were read of %d", n, of.Len)
	}
	if err := c.DropRange(of, page.Size+1, page.Size); err != nil {
		t.Fatal(err)
	}
	if all, err := c.Where(of, 0, 4*page.Size); err != nil || string(all) != "\x01\x00\x00\x01" {
		t.Errorf("after two pages were dropped: %q, %v", all, err)
	}
	for _, k := range []struct{ off, n int64 }{{-1, 1}, {0, of.Len + 1}, {of.Len + 1, 0}, {1, 1<<63 - 1}} {
		if _, err := c.Where(of, k.off, k.n); !errors.Is(err, errs.Range) {
			t.Errorf("where %d, %d: got %v", k.off, k.n, err)
		}
		if err := errors.Join(c.Load(t.Context(), of, k.off, k.n, s), c.DropRange(of, k.off, k.n)); !errors.Is(err, errs.Range) {
			t.Errorf("load %d, %d: got %v", k.off, k.n, err)
		}
	}
}

// TestLoadFails loads what the source does not give and what the store does not take.
func TestLoadFails(t *testing.T) {
	s := newSource(3 * page.Size)
	c := newCache(t, mempage.New(0), page.CacheOptions{})
	if err := c.Load(t.Context(), s.content(), 0, s.content().Len, s); err != nil {
		t.Errorf("a store that takes nothing: %v", err)
	}
	if all, err := c.Where(s.content(), 0, s.content().Len); string(all) != "\x00\x00\x00" || err != nil {
		t.Errorf("got %q, %v", all, err)
	}
	gone := errs.New("test.Read", "", errs.Conflict, "gone")
	s.read = func(_ context.Context, off int64) error {
		if off >= page.Size {
			return gone
		}
		return nil
	}
	if err := c.Load(t.Context(), s.content(), 0, s.content().Len, s); !errors.Is(err, errs.Conflict) {
		t.Errorf("a source that fails: %v", err)
	}
}
