package page_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/page/pagetest"
)

// TestStalledClients has TCP clients that do not read while everything is evicted and refilled several times, on both
// media. Then they read: every one must get its own bytes. Each connection has its response's length in its socket buffers
// many times over, so that writes are caught in the middle of pages.
func TestStalledClients(t *testing.T) {
	for medium, dir := range map[string]func(testing.TB) string{"tmpfs": tmpfsDir, "disk": func(t testing.TB) string { return t.TempDir() }} {
		t.Run(medium, func(t *testing.T) {
			s := openSegments(t, dir(t), 24*page.ChunkStride)
			c := newCache(t, s, page.CacheOptions{})
			const clients, length = 6, 12 * page.Size
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			var wg sync.WaitGroup
			started := make(chan struct{}, clients)
			var sources []*source
			var conns []net.Conn
			for i := range clients {
				src := newSource(length + i)
				sources = append(sources, src)
				readAll(t, c, src, 0, 3*page.Size, true) // the beginning is warm
				conn, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conns = append(conns, conn)
				server, err := ln.Accept()
				if err != nil {
					t.Fatal(err)
				}
				wg.Go(func() {
					defer server.Close()
					r := c.NewReader(t.Context(), src.content(), 0, int64(length+i), src)
					defer r.Close()
					if _, err := r.WriteTo(&signalling{Writer: server, first: started}); err != nil {
						t.Errorf("client %d: %v", i, err)
					}
				})
			}
			for range clients {
				<-started
			}
			for round := range 4 {
				for i := range 40 {
					if err := s.Put(pagetest.Key(100+round, i), bytes.Repeat([]byte{0xEE}, page.Size)); err != nil {
						t.Fatal(err)
					}
				}
			}
			for i, conn := range conns {
				got, err := io.ReadAll(conn)
				if err != nil || !bytes.Equal(got, sources[i].data) {
					t.Errorf("client %d got %d bytes, %v; equal %v", i, len(got), err, bytes.Equal(got, sources[i].data))
				}
			}
			wg.Wait()
		})
	}
}

// signalling tells first when the first write begins.
type signalling struct {
	io.Writer
	once  sync.Once
	first chan<- struct{}
}

func (s *signalling) Write(p []byte) (int, error) {
	s.once.Do(func() { s.first <- struct{}{} })
	return s.Writer.Write(p)
}

// brokenStore keeps nothing.
type brokenStore struct{ page.Store }

func (brokenStore) Put(page.Key, []byte) error {
	return errs.New("test", "", errs.Unavailable, "the directory is turned off")
}

func TestStoreThatKeepsNothing(t *testing.T) {
	s := newSource(5*page.Size + 3)
	c := newCache(t, brokenStore{mempage.New(1)}, page.CacheOptions{MaxFillBytes: 3 << 20})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { readAll(t, c, s, int64(i%4), 5*page.Size, i%2 == 0) })
	}
	wg.Wait()
	c.Settle()
	if !c.RoomLeft() {
		t.Error("memory is not given back")
	}
	readAll(t, c, s, 0, 5*page.Size, true)
	w := c.NewWriter(s.content())
	if n, err := w.Write(s.data); n != len(s.data) || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
	w.Finish()
}

// TestSlowReadersOfABrokenStore has more stalled readers than there is memory for pages; another reader gets through.
func TestSlowReadersOfABrokenStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, brokenStore{mempage.New(1)}, page.CacheOptions{MaxFillBytes: 2 << 20})
		var stalled []*page.Reader
		var sources []*source
		for i := range 8 {
			s := newSource(2*page.Size + i)
			r := c.NewReader(t.Context(), s.content(), 0, int64(len(s.data)), s)
			defer r.Close()
			if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			stalled, sources = append(stalled, r), append(sources, s)
			synctest.Wait()
		}
		readAll(t, c, newSource(3*page.Size+99), 0, 3*page.Size+99, true)
		for i, r := range stalled {
			var got bytes.Buffer
			if _, err := r.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), sources[i].data[10:]) {
				t.Errorf("stalled reader %d: %d bytes, %v", i, got.Len(), err)
			}
		}
		c.Settle()
		if !c.RoomLeft() {
			t.Error("memory is not given back")
		}
	})
}

func TestFillMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, mempage.New(100), page.CacheOptions{MaxFillBytes: 3 << 20})
		block := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 10 {
			s := newSource(page.Size + i)
			s.read = func(context.Context, int64) error { <-block; return nil }
			wg.Go(func() { readAll(t, c, s, 0, int64(page.Size+i), true) })
		}
		synctest.Wait()
		if n := c.Stats().FillsInFlight; n != 3 {
			t.Errorf("%d fills in flight, want 3", n)
		}
		// One that cannot wait leaves.
		ctx, cancel := context.WithCancel(t.Context())
		s := newSource(99)
		r := c.NewReader(ctx, s.content(), 0, 99, s)
		wg.Go(func() {
			if _, err := r.WriteTo(io.Discard); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled while it waited: %v", err)
			}
			r.Close()
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(block)
		wg.Wait()
		c.Settle()
		if !c.RoomLeft() {
			t.Error("memory is not given back")
		}
	})
}

func TestCloseEndsFills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := page.NewCache(mempage.New(10), page.CacheOptions{})
		s := newSource(page.Size)
		s.read = func(ctx context.Context, _ int64) error { <-ctx.Done(); return ctx.Err() }
		r := c.NewReader(t.Context(), s.content(), 0, page.Size, s)
		done := make(chan error)
		go func() {
			_, err := r.WriteTo(io.Discard)
			done <- err
		}()
		synctest.Wait()
		c.Close()
		if err := <-done; !errors.Is(err, errs.Unavailable) {
			t.Errorf("waiting reader: %v, want Unavailable", err)
		}
		r.Close()
		if _, err := c.NewReader(t.Context(), s.content(), 0, 1, s).Read(make([]byte, 1)); !errors.Is(err, errs.Unavailable) {
			t.Errorf("later reader: %v, want Unavailable", err)
		}
	})
}

func TestWriterFillsTheCache(t *testing.T) {
	for _, step := range []int{1000, 100_000, page.Size, 3*page.Size + 1} {
		c := newCache(t, mempage.New(100), page.CacheOptions{})
		s := newSource(4*page.Size + 77)
		w := c.NewWriter(s.content())
		for b := s.data; len(b) > 0; {
			n, err := w.Write(b[:min(step, len(b))])
			if err != nil {
				t.Fatal(err)
			}
			b = b[n:]
		}
		w.Finish()
		if hits, misses := readAll(t, c, s, 0, int64(len(s.data)), true); hits != 5 || misses != 0 {
			t.Errorf("step %d: %d hits, %d misses, want 5, 0", step, hits, misses)
		}
		w.Drop()
		if pages, _ := c.Resident(s.content()); pages != 0 {
			t.Errorf("%d pages after Drop", pages)
		}
		if !c.RoomLeft() {
			t.Error("memory is not given back")
		}
	}
}

func TestWriterKeepsNothing(t *testing.T) {
	s := newSource(2 * page.Size)
	store := mempage.New(10)
	c := newCache(t, store, page.CacheOptions{MaxFillBytes: page.Size})
	noCache := s.content()
	noCache.NoCache = true
	w := c.NewWriter(noCache)
	w.Write(s.data)
	w.Finish()
	if pages, _ := c.Resident(s.content()); pages != 0 {
		t.Errorf("NoCache kept %d pages", pages)
	}
	// The memory for writers is taken: the next one goes without.
	first, second := c.NewWriter(s.content()), c.NewWriter(s.content())
	first.Write(s.data[:page.Size/2])
	if n, err := second.Write(s.data[:page.Size/2]); n != page.Size/2 || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
	second.Finish()
	first.Drop()
	if pages, _ := c.Resident(s.content()); pages != 0 || !c.RoomLeft() {
		t.Errorf("%d pages, room left %v", pages, c.RoomLeft())
	}
}

// TestOverwriteStorm overwrites a few contents all the time, with every kind of reader beside: no reader may ever see bytes
// of another revision.
func TestOverwriteStorm(t *testing.T) {
	s := page.NewTiered(openSegments(t, tmpfsDir(t), 6*page.ChunkStride), openSegments(t, t.TempDir(), 12*page.ChunkStride))
	c := newCache(t, s, page.CacheOptions{MaxFillBytes: 4 << 20})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const names = 4
	var mu sync.Mutex
	var current [names]*revision
	for i := range names {
		current[i] = newRevision(uint64(i))
	}
	next := uint64(names)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(g)))
			for range 40 {
				name := r.IntN(names)
				mu.Lock()
				rev := current[name]
				if g < 3 {
					rev = newRevision(next)
					next++
				}
				mu.Unlock()
				if g < 3 {
					overwrite(c, rev, r)
					mu.Lock()
					current[name] = rev
					mu.Unlock()
				} else if err := rev.readSome(t.Context(), c, r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	c.Settle()
	if !c.RoomLeft() {
		t.Error("memory is not given back")
	}
}

// revision is a content under a name's fixed ID.
type revision struct {
	source
	rev uint64
}

func newRevision(rev uint64) *revision {
	n := int(rev*7919)%(3*page.Size) + 1
	return &revision{source: source{data: pagetest.Data(page.Key{Rev: rev}, n)}, rev: rev}
}

func (r *revision) content() page.Content {
	return page.Content{ID: [16]byte{1}, Rev: r.rev, Len: int64(len(r.data))}
}

func overwrite(c *page.Cache, rev *revision, r *rand.Rand) {
	w := c.NewWriter(rev.content())
	for b := rev.data; len(b) > 0; {
		n, _ := w.Write(b[:min(len(b), 1+r.IntN(page.Size))])
		b = b[n:]
	}
	if r.IntN(4) == 0 {
		w.Drop()
		return
	}
	w.Finish()
}

func (rev *revision) readSome(ctx context.Context, c *page.Cache, rnd *rand.Rand) error {
	of := rev.content()
	of.NoCache = rnd.IntN(5) == 0
	off := rnd.Int64N(of.Len)
	n := rnd.Int64N(of.Len-off) + 1
	r := c.NewReader(ctx, of, off, n, rev)
	defer r.Close()
	if rnd.IntN(5) == 0 { // leaves early
		n = rnd.Int64N(n) + 1
		got := make([]byte, n)
		if _, err := io.ReadFull(r, got); err != nil {
			return err
		}
		if !bytes.Equal(got, rev.data[off:off+n]) {
			return errors.New("WRONG BYTES")
		}
		return nil
	}
	var got bytes.Buffer
	if _, err := r.WriteTo(&got); err != nil {
		return err
	}
	if !bytes.Equal(got.Bytes(), rev.data[off:off+n]) {
		return errors.New("WRONG BYTES")
	}
	return nil
}

// TestFillKeepsStepWithItsReader has a reader that stops: the fill goes a few pages ahead, gives its stream up, and is
// begun again when the reader goes on.
func TestFillKeepsStepWithItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource(40 * page.Size)
		c := newCache(t, mempage.New(100), page.CacheOptions{ReadAhead: 4})
		r := c.NewReader(t.Context(), s.content(), 0, 40*page.Size, s)
		defer r.Close()
		if _, err := r.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		c.Settle() // the stream is given up
		if n := s.bytes.Load(); n != 5*page.Size {
			t.Errorf("%d bytes read from the source, want the reader's page and 4", n)
		}
		var got bytes.Buffer
		if _, err := r.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), s.data[1:]) {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		if s.opens.Load() != 2 || s.bytes.Load() != 40*page.Size {
			t.Errorf("%d opens, %d bytes", s.opens.Load(), s.bytes.Load())
		}
		if r.Hits() != 0 || r.Misses() != 40 {
			t.Errorf("%d hits, %d misses, want 0, 40", r.Hits(), r.Misses())
		}
	})
}

// TestTinyStore has readers get through a store that holds one page of all they read.
func TestTinyStore(t *testing.T) {
	c := newCache(t, mempage.New(1), page.CacheOptions{})
	var wg sync.WaitGroup
	for i := range 8 {
		s := newSource(10*page.Size + i/2)
		wg.Go(func() { readAll(t, c, s, 0, 10*page.Size+int64(i/2), i%2 == 0) })
	}
	wg.Wait()
}
