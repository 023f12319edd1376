package page_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
)

// version is a content whose bytes say every 4 KiB which version they are of and where they belong.
type version struct {
	rev  uint64
	size int64
	gone *atomic.Uint64 // versions up to this have left the store; nil: none does
}

func (v version) content() page.Content {
	return page.Content{ID: [16]byte{'s', 't', 'o', 'r', 'm'}, Rev: v.rev, Len: v.size, Promote: v.rev%2 == 0}
}

// block fills p, of at most 4 KiB, with the bytes at off, a multiple of 4 KiB.
func (v version) block(p []byte, off int64) {
	var head [16]byte
	binary.LittleEndian.PutUint64(head[:], v.rev*2654435761)
	binary.LittleEndian.PutUint64(head[8:], uint64(off))
	for n := copy(p, head[:]); n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
}

func (v version) Open(_ context.Context, off, n int64) (io.ReadCloser, error) {
	return &versionReader{v, off, off + n}, v.lost()
}

func (v version) lost() error {
	if v.gone != nil && v.rev <= v.gone.Load() {
		return errs.New("test", "", errs.Conflict, "this version has left the store")
	}
	return nil
}

type versionReader struct {
	v        version
	off, end int64
}

func (r *versionReader) Read(p []byte) (int, error) {
	if r.off == r.end {
		return 0, io.EOF
	}
	var b [4096]byte
	start := r.off &^ 4095
	r.v.block(b[:min(4096, r.v.size-start)], start)
	n := copy(p, b[r.off-start:min(4096, r.end-start)])
	r.off += int64(n)
	return n, nil
}

func (r *versionReader) Check() error { return r.v.lost() }
func (r *versionReader) Close() error { return nil }

// verifier checks what is written to it against a version. pause, if set, is called in the midst of a Write, after which the
// bytes must still be the same.
type verifier struct {
	v     version
	off   int64
	pause func()
}

func (w *verifier) Write(p []byte) (int, error) {
	check := func() error {
		var b [4096]byte
		for at := int64(0); at < int64(len(p)); {
			off := w.off + at
			start := off &^ 4095
			end := min(4096, w.v.size-start)
			w.v.block(b[:end], start)
			want := b[off-start : min(end, off-start+int64(len(p))-at)]
			if !bytes.Equal(p[at:at+int64(len(want))], want) {
				return fmt.Errorf("WRONG BYTES of version %d at %d", w.v.rev, off)
			}
			at += int64(len(want))
		}
		return nil
	}
	if err := check(); err != nil {
		return 0, err
	}
	if w.pause != nil {
		w.pause()
		if err := check(); err != nil {
			return 0, fmt.Errorf("after a pause: %w", err)
		}
	}
	w.off += int64(len(p))
	return len(p), nil
}

// TestSlotReuseStorm has readers stall in the midst of pages while everything is evicted, demoted, promoted, dropped and
// written again in slots of every size, several times over. What a stalled reader holds must not change.
func TestSlotReuseStorm(t *testing.T) {
	for _, policy := range []page.Policy{page.S3FIFO, page.LRU} {
		t.Run(string(policy), func(t *testing.T) {
			tiers := page.NewTiered(
				open(t, page.SegmentOptions{Dir: tmpfsDir(t), Quota: 6 * page.ChunkStride, Policy: policy}),
				open(t, page.SegmentOptions{Dir: t.TempDir(), Quota: 10 * page.ChunkStride, Policy: policy}))
			run(t, tiers)
			c := newCache(t, tiers, page.CacheOptions{})
			sizes := []int64{100, 4096, 9000, 70000, 300000, page.Size, 2*page.Size + 5000}
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			ticks := make(chan struct{})
			var stalls atomic.Int64
			var readers, storm sync.WaitGroup
			for g := range 24 {
				readers.Go(func() {
					r := rand.New(rand.NewPCG(seed, uint64(g)))
					for range 12 {
						n := r.IntN(60)
						v := version{rev: uint64(n), size: sizes[n%len(sizes)]}
						w := &verifier{v: v}
						if r.IntN(3) == 0 {
							w.pause = func() { // until a few more pages were put
								stalls.Add(1)
								for range 5 {
									<-ticks
								}
							}
						}
						rd := c.NewReader(t.Context(), v.content(), 0, v.size, v)
						if n, err := rd.WriteTo(w); err != nil || n != v.size {
							t.Errorf("version %d: %d of %d bytes, %v", v.rev, n, v.size, err)
						}
						rd.Close()
					}
				})
			}
			stop := make(chan struct{})
			for g := range 3 {
				storm.Go(func() {
					r := rand.New(rand.NewPCG(seed, uint64(1000+g)))
					for i := uint64(0); ; i++ {
						select {
						case <-stop:
							return
						case ticks <- struct{}{}:
						default:
							runtime.Gosched()
						}
						v := version{rev: 1000 + uint64(g)<<32 + i, size: sizes[r.IntN(len(sizes))]}
						w := c.NewWriter(v.content())
						if _, err := io.Copy(w, &versionReader{v, 0, v.size}); err != nil {
							t.Error(err)
						}
						w.Finish()
						if r.IntN(4) == 0 {
							n := r.IntN(60)
							c.Drop(version{rev: uint64(n), size: sizes[n%len(sizes)]}.content())
						}
					}
				})
			}
			readers.Wait()
			close(stop)
			storm.Wait()
			var evicted int64
			for _, st := range tiers.Stats() {
				for _, n := range st.Evicted {
					evicted += n
				}
				if st.Corrupt != 0 || st.Pinned != 0 {
					t.Errorf("%+v", st)
				}
			}
			t.Logf("%d stalls, %d pages evicted", stalls.Load(), evicted)
			if stalls.Load() == 0 || evicted == 0 {
				t.Error("nobody stalled, or nothing was evicted: this shows nothing")
			}
		})
	}
}

// TestOneNameStorm has 64 writers replace one name and 64 readers read it, while what is replaced leaves the store and the
// cache. Every answer is one whole version, or an error that says that the version has left.
func TestOneNameStorm(t *testing.T) {
	tiers := page.NewTiered(openSegments(t, tmpfsDir(t), 8*page.ChunkStride), openSegments(t, t.TempDir(), 12*page.ChunkStride))
	run(t, tiers)
	c := newCache(t, tiers, page.CacheOptions{})
	sizes := []int64{4096, 50_000, page.Size, page.Size + 123, 2 * page.Size}
	var gone, next atomic.Uint64
	var name struct {
		sync.Mutex
		version
	}
	write := func(r *rand.Rand) {
		v := version{rev: next.Add(1), size: sizes[r.IntN(len(sizes))], gone: &gone}
		w := c.NewWriter(v.content())
		if _, err := io.Copy(w, &versionReader{v, 0, v.size}); err != nil {
			t.Error(err)
		}
		if r.IntN(8) == 0 { // a client that left
			w.Drop()
			return
		}
		w.Finish()
		name.Lock()
		defer name.Unlock()
		if old := name.version; v.rev > old.rev {
			name.version = v
			gone.Store(max(gone.Load(), old.rev))
			c.Drop(old.content())
		} else {
			c.Drop(v.content())
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	write(rand.New(rand.NewPCG(seed, 1<<40)))
	for name.rev == 0 {
		write(rand.New(rand.NewPCG(seed, next.Load())))
	}
	var wg sync.WaitGroup
	var whole, left atomic.Int64
	for g := range 64 {
		r := rand.New(rand.NewPCG(seed, uint64(g)))
		wg.Go(func() {
			for range 6 {
				write(r)
			}
		})
		wg.Go(func() {
			for range 12 {
				name.Lock()
				v := name.version
				name.Unlock()
				rd := c.NewReader(t.Context(), v.content(), 0, v.size, v)
				n, err := rd.WriteTo(&verifier{v: v})
				rd.Close()
				switch {
				case errors.Is(err, errs.Conflict):
					left.Add(1)
				case err != nil || n != v.size:
					t.Errorf("version %d: %d of %d bytes, %v", v.rev, n, v.size, err)
				default:
					whole.Add(1)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d whole answers, %d of versions that had left, %d versions", whole.Load(), left.Load(), next.Load())
	if whole.Load() == 0 {
		t.Error("no answer was whole: this shows nothing")
	}
}
