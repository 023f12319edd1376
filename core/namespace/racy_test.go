package namespace_test

import (
	"context"
	"io"
	"iter"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// racyStore says of old files that they may change again under their versions, as one does whose clock is behind ours.
type racyStore struct {
	ufs.Store
	racy  bool
	opens atomic.Int64
}

func (s *racyStore) say(in ufs.Info) ufs.Info {
	in.Racy, in.ModTime = s.racy && !in.Dir, time.Now().Add(-time.Hour)
	return in
}

func (s *racyStore) Stat(ctx context.Context, name string) (ufs.Info, error) {
	in, err := s.Store.Stat(ctx, name)
	return s.say(in), err
}

func (s *racyStore) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	return func(yield func(ufs.Info, error) bool) {
		for in, err := range s.Store.List(ctx, dir, after, flat) {
			if !yield(s.say(in), err) {
				return
			}
		}
	}
}

func (s *racyStore) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	s.opens.Add(1)
	return s.Store.Open(ctx, name, off, n, version)
}

// TestRacyVersionsAreNotKept checks that no page is kept of a version that its store says may change again.
func TestRacyVersionsAreNotKept(t *testing.T) {
	for _, racy := range []bool{false, true} {
		inner := memufs.New(memufs.Options{Dirs: true})
		w, err := inner.Create(t.Context(), "a", 4, ufs.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "data"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		store := &racyStore{Store: inner, racy: racy}
		n, _, stop := reign(t, memkv.New(), store)
		root := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
		p := parse(t, "/a")
		for range 3 {
			r, err := n.Open(root, p, core.All)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(r); err != nil || string(b) != "data" {
				t.Errorf("got %q, %v", b, err)
			}
			_ = r.Close()
		}
		if got, want := store.opens.Load(), map[bool]int64{false: 1, true: 3}[racy]; got != want {
			t.Errorf("racy %v: three reads opened the file %d times in its store, want %d", racy, got, want)
		}
		stop()
	}
}
