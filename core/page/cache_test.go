package page_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/page/pagetest"
)

// source is a Source of known bytes that counts what is read of it.
type source struct {
	data  []byte
	opens atomic.Int64
	bytes atomic.Int64
	spans sync.Map // of [2]int64: what was asked for

	// read, if set, is called before each Read with the offset in data; it may block, and its error is returned.
	read func(ctx context.Context, off int64) error
	step int // most bytes of a Read; 0: no limit
	// check, if set, makes the readers checkers.
	check func(off int64) error
	short int64 // data ends here; 0: at its end

	promote bool // Content.Promote
}

func newSource(n int) *source { return &source{data: pagetest.Data(pagetest.Key(n, 77), n)} }

func (s *source) content() page.Content {
	return page.Content{ID: pagetest.Key(len(s.data), 0).ID, Rev: 1, Len: int64(len(s.data)), Promote: s.promote}
}

func (s *source) Open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	s.opens.Add(1)
	s.spans.Store([2]int64{off, n}, true)
	r := &sourceReader{s: s, ctx: ctx, off: off, end: off + n}
	if s.short > 0 {
		r.end = min(r.end, s.short)
	}
	if s.check != nil {
		return checkedReader{r}, nil
	}
	return r, nil
}

type sourceReader struct {
	s        *source
	ctx      context.Context
	off, end int64
}

func (r *sourceReader) Read(p []byte) (int, error) {
	if r.s.read != nil {
		if err := r.s.read(r.ctx, r.off); err != nil {
			return 0, err
		}
	}
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.off >= r.end {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.end-r.off)]
	if r.s.step > 0 {
		p = p[:min(len(p), r.s.step)]
	}
	n := copy(p, r.s.data[r.off:])
	r.off += int64(n)
	r.s.bytes.Add(int64(n))
	return n, nil
}

func (r *sourceReader) Close() error { return nil }

type checkedReader struct{ *sourceReader }

func (r checkedReader) Check() error { return r.s.check(r.off) }

func newCache(t testing.TB, s page.Store, o page.CacheOptions) *page.Cache {
	t.Helper()
	c := page.NewCache(s, o)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if n := c.Stats().FillsInFlight; n != 0 {
			t.Errorf("%d fills in flight after Close", n)
		}
	})
	return c
}

// readAll reads a range, by WriteTo if write, and checks it.
func readAll(t *testing.T, c *page.Cache, s *source, off, n int64, write bool) (hits, misses int) {
	t.Helper()
	r := c.NewReader(t.Context(), s.content(), off, n, s)
	defer r.Close()
	var got bytes.Buffer
	var err error
	if write {
		_, err = r.WriteTo(&got)
	} else {
		_, err = got.ReadFrom(io.MultiReader(r))
	}
	if err != nil {
		t.Fatalf("read [%d,+%d): %v", off, n, err)
	}
	if !bytes.Equal(got.Bytes(), s.data[off:off+n]) {
		t.Fatalf("read [%d,+%d): wrong bytes (%d)", off, n, got.Len())
	}
	return r.Hits(), r.Misses()
}

func TestReadFillsOnce(t *testing.T) {
	for _, write := range []bool{false, true} {
		s := newSource(5*page.Size + 1000)
		c := newCache(t, mempage.New(100), page.CacheOptions{})
		n := int64(len(s.data))
		if hits, misses := readAll(t, c, s, 0, n, write); hits != 0 || misses != 6 {
			t.Errorf("cold: %d hits, %d misses, want 0, 6", hits, misses)
		}
		if hits, misses := readAll(t, c, s, 0, n, write); hits != 6 || misses != 0 {
			t.Errorf("warm: %d hits, %d misses, want 6, 0", hits, misses)
		}
		if s.opens.Load() != 1 || s.bytes.Load() != n {
			t.Errorf("source: %d opens, %d bytes, want 1, %d", s.opens.Load(), s.bytes.Load(), n)
		}
		if pages, total := c.Resident(s.content()); pages != 6 || total != 6 {
			t.Errorf("Resident = %d of %d, want 6 of 6", pages, total)
		}
	}
}

func TestRangeFetchesOnlyItsPages(t *testing.T) {
	s := newSource(8*page.Size + 10)
	c := newCache(t, mempage.New(100), page.CacheOptions{})
	for _, r := range []struct{ off, n, opens, bytes int64 }{
		{3*page.Size + 5, 10, 1, page.Size},
		{3 * page.Size, page.Size, 1, page.Size},
		{2*page.Size - 1, 2, 2, 3 * page.Size},
		{0, 4 * page.Size, 3, 4 * page.Size}, // page 0 is missing only
		{8 * page.Size, 10, 4, 4*page.Size + 10},
		{8*page.Size + 10, 0, 4, 4*page.Size + 10},
	} {
		readAll(t, c, s, r.off, r.n, true)
		c.Settle()
		if s.opens.Load() != r.opens || s.bytes.Load() != r.bytes {
			t.Errorf("[%d,+%d): %d opens, %d bytes, want %d, %d", r.off, r.n, s.opens.Load(), s.bytes.Load(), r.opens, r.bytes)
		}
	}
}

func TestRangeOutside(t *testing.T) {
	s := newSource(100)
	c := newCache(t, mempage.New(10), page.CacheOptions{})
	for _, r := range [][2]int64{{-1, 1}, {0, 101}, {101, 0}, {0, -1}, {1, 1<<63 - 1}} {
		if _, err := c.NewReader(t.Context(), s.content(), r[0], r[1], s).Read(make([]byte, 1)); !errors.Is(err, errs.Range) {
			t.Errorf("%v: %v, want Range", r, err)
		}
	}
}

func TestThousandReadersOneRead(t *testing.T) {
	s := newSource(2*page.Size + 5)
	s.step = 100_000
	gate := make(chan struct{})
	s.read = func(context.Context, int64) error { <-gate; return nil }
	c := newCache(t, mempage.New(10), page.CacheOptions{})
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() { readAll(t, c, s, page.Size-int64(i)-1, 2000+int64(i), i%2 == 0) })
	}
	close(gate)
	wg.Wait()
	if s.opens.Load() != 1 {
		t.Errorf("%d source reads, want 1", s.opens.Load())
	}
}

func TestFirstByteThroughAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(page.Size)
		s.step = 10
		block := make(chan struct{})
		s.read = func(ctx context.Context, off int64) error {
			if off >= 20 {
				<-block
			}
			return nil
		}
		c := newCache(t, mempage.New(10), page.CacheOptions{})
		r := c.NewReader(t.Context(), s.content(), 0, page.Size, s)
		got := make([]byte, 20)
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, s.data[:20]) {
			t.Errorf("%v, %x", err, got)
		}
		close(block)
		r.Close()
	})
}

func TestReaderThatLeavesCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(3 * page.Size)
		cancelled := make(chan struct{})
		s.step = page.Size / 2
		s.read = func(ctx context.Context, off int64) error {
			if off < page.Size/2 {
				return nil
			}
			<-ctx.Done()
			close(cancelled)
			return ctx.Err()
		}
		c := newCache(t, mempage.New(10), page.CacheOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		first := c.NewReader(ctx, s.content(), 0, 3*page.Size, s)
		second := c.NewReader(t.Context(), s.content(), 0, 3*page.Size, s)
		io.ReadFull(first, make([]byte, 100))
		io.ReadFull(second, make([]byte, 100))
		cancel() // who began it goes, the other stays
		if _, err := io.Copy(io.Discard, io.MultiReader(first)); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled reader: %v", err)
		}
		first.Close()
		synctest.Wait()
		select {
		case <-cancelled:
			t.Error("cancelled with a reader left")
		default:
		}
		second.Close()
		<-cancelled
		// A later reader begins anew, and is not hurt.
		s.read, s.step = nil, 0
		readAll(t, c, s, 0, 3*page.Size, true)
	})
}

func TestSourceErrorIsNotCached(t *testing.T) {
	s := newSource(2 * page.Size)
	s.step = 1000
	boom := errs.New("test", "", errs.Precondition, "another version")
	s.read = func(_ context.Context, off int64) error {
		if off >= 500_000 {
			return boom
		}
		return nil
	}
	c := newCache(t, mempage.New(10), page.CacheOptions{})
	r := c.NewReader(t.Context(), s.content(), 0, 2*page.Size, s)
	defer r.Close()
	n, err := r.WriteTo(io.Discard)
	if !errors.Is(err, errs.Precondition) || n > 500_000 {
		t.Errorf("WriteTo = %d, %v", n, err)
	}
	if _, again := r.Read(make([]byte, 1)); !errors.Is(again, errs.Precondition) {
		t.Errorf("Read after the error = %v", again)
	}
	if pages, _ := c.Resident(s.content()); pages != 0 {
		t.Errorf("%d pages kept", pages)
	}
	s.read = nil
	readAll(t, c, s, 0, 2*page.Size, true)
}

func TestShortSource(t *testing.T) {
	for _, noCache := range []bool{false, true} {
		s := newSource(2 * page.Size)
		s.short = page.Size + 100
		c := newCache(t, mempage.New(10), page.CacheOptions{})
		of := s.content()
		of.NoCache = noCache
		r := c.NewReader(t.Context(), of, 0, 2*page.Size, s)
		var got bytes.Buffer
		_, err := r.WriteTo(&got)
		if !errors.Is(err, errs.Unavailable) || !bytes.Equal(got.Bytes(), s.data[:got.Len()]) || got.Len() > page.Size+100 {
			t.Errorf("noCache %v: %d bytes, %v", noCache, got.Len(), err)
		}
		r.Close()
		if c.Resident(of); s.short < page.Size {
			t.Error("short page kept")
		}
	}
}

func TestCheckComesBeforeTheLastBytes(t *testing.T) {
	for _, noCache := range []bool{false, true} {
		for _, to := range []int64{10, page.Size - 1, page.Size, page.Size + 10, 2 * page.Size} {
			s := newSource(2 * page.Size)
			s.check = func(off int64) error {
				return errs.New("test", "", errs.Precondition, fmt.Sprint("changed, seen at ", off))
			}
			c := newCache(t, mempage.New(10), page.CacheOptions{})
			of := s.content()
			of.NoCache = noCache
			r := c.NewReader(t.Context(), of, 0, to, s)
			n, err := r.WriteTo(io.Discard)
			if !errors.Is(err, errs.Precondition) || n >= min(to, page.Size) {
				t.Errorf("to %d, noCache %v: %d bytes handed out, %v", to, noCache, n, err)
			}
			r.Close()
			if pages, _ := c.Resident(of); pages != 0 {
				t.Errorf("to %d, noCache %v: %d unchecked pages kept", to, noCache, pages)
			}
		}
	}
}

func TestNoCache(t *testing.T) {
	s := newSource(6 * page.Size)
	c := newCache(t, mempage.New(10), page.CacheOptions{})
	readAll(t, c, s, 2*page.Size, page.Size, true)
	of := s.content()
	of.NoCache = true
	r := c.NewReader(t.Context(), of, 10, 5*page.Size, s)
	defer r.Close()
	var got bytes.Buffer
	if _, err := r.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), s.data[10:10+5*page.Size]) {
		t.Fatalf("%v, %d bytes", err, got.Len())
	}
	if r.Hits() != 1 || r.Misses() != 5 {
		t.Errorf("%d hits, %d misses, want 1, 5", r.Hits(), r.Misses())
	}
	if pages, _ := c.Resident(of); pages != 1 {
		t.Errorf("%d pages kept, want the 1 there was", pages)
	}
}
