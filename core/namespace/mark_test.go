package namespace_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// shared is a reign over a root store that other processes are to see too.
type shared struct {
	*testing.T
	ctx context.Context
	kv  meta.KV
	o   namespace.Options
}

func newShared(t *testing.T) *shared {
	return &shared{T: t, ctx: core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true}), kv: memkv.New(),
		o: namespace.Options{SharedRoot: true, Member: "test"}}
}

// run leads with the root store for as long as do takes, which is not called if it does not come to that.
func (s *shared) run(root ufs.Store, do func(*namespace.Namespace)) error {
	s.Helper()
	o := s.o
	o.KV, o.Root, o.Cache = s.kv, root, page.NewCache(mempage.New(1<<20), page.CacheOptions{})
	defer o.Cache.Close()
	n, err := namespace.Open(s.ctx, o)
	if err != nil {
		s.Fatal(err)
	}
	defer n.Close()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- n.Run(ctx, func() { close(ready) }) }()
	select {
	case err := <-done:
		return err
	case <-ready:
	}
	if do != nil {
		do(n)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		s.Errorf("the end of a reign: %v", err)
	}
	return nil
}

// make makes a file and a directory with facts that the journal alone may have.
func (s *shared) make(n *namespace.Namespace) {
	s.Helper()
	owner, mode := "alice", uint32(0o640)
	if _, err := createNew(s.ctx, n, "/f"); err != nil {
		s.Fatal(err)
	}
	if _, err := n.Mkdir(s.ctx, s.path("/d/"), core.MkdirOptions{}); err != nil {
		s.Fatal(err)
	}
	for _, name := range []string{"/f", "/d/"} {
		if _, err := n.SetAttr(s.ctx, s.path(name), core.AttrChange{Owner: &owner, Mode: &mode}); err != nil {
			s.Fatal(err)
		}
	}
}

func (s *shared) path(name string) core.Path {
	s.Helper()
	return parse(s, name)
}

// there wants what make has made.
func (s *shared) there(n *namespace.Namespace) {
	s.Helper()
	for _, name := range []string{"/f", "/d/"} {
		if i, err := n.Stat(s.ctx, s.path(name)); err != nil || i.Owner != "alice" || i.Mode != 0o640 {
			s.Errorf("%s: got %q %o, %v", name, i.Owner, i.Mode, err)
		}
	}
}

func (s *shared) markOf(root ufs.Store) string {
	s.Helper()
	m, err := ufs.Mark(s.ctx, root)
	if err != nil {
		s.Fatal(err)
	}
	return m
}

func (s *shared) wantRefused(err error, why ...string) {
	s.Helper()
	if errs.KindOf(err) != errs.Precondition {
		s.Errorf("got %v, want it refused", err)
		return
	}
	for _, w := range append(why, ufs.MarkName) {
		if !strings.Contains(err.Error(), w) {
			s.Errorf("got %v, which does not say %q", err, w)
		}
	}
}

func dirs() *memufs.Store { return memufs.New(memufs.Options{Dirs: true}) }

// TestOtherRoot takes over with a root store that is not the journal's, as where it is not mounted: nothing is looked at, and
// nothing the journal has of the right one is lost.
func TestOtherRoot(t *testing.T) {
	s, right := newShared(t), dirs()
	look := func(n *namespace.Namespace) {
		t.Error("it leads")
		_, _ = n.Stat(s.ctx, s.path("/f"))
		_, _ = n.Stat(s.ctx, s.path("/d/"))
	}
	if err := s.run(right, s.make); err != nil {
		t.Fatal(err)
	}
	mark := s.markOf(right)
	if mark == "" {
		t.Fatal("the root store has no mark")
	}
	s.wantRefused(s.run(dirs(), look), "not mounted", mark)
	theirs := newShared(t)
	wrong := dirs()
	if err := theirs.run(wrong, nil); err != nil {
		t.Fatal(err)
	}
	s.wantRefused(s.run(wrong, look), "another cluster", mark, s.markOf(wrong))
	s.wantRefused(newShared(t).run(right, look), "another cluster", mark, "remove")
	if err := s.run(right, s.there); err != nil {
		t.Error(err)
	}
	if got := s.markOf(right); got != mark {
		t.Errorf("the mark is %q, was %q", got, mark)
	}
	moved := dirs() // what is given the mark is the right one
	if err := moved.SetMark(s.ctx, mark); err != nil {
		t.Fatal(err)
	}
	if err := s.run(moved, nil); err != nil {
		t.Errorf("with the mark put there: %v", err)
	}
}

// TestRootFromBeforeMarks begins to mark a root store that the journal has used without.
func TestRootFromBeforeMarks(t *testing.T) {
	s, right := newShared(t), dirs()
	s.o.SharedRoot = false
	if err := s.run(right, s.make); err != nil || s.markOf(right) != "" {
		t.Fatalf("a store of one process: %v, marked %q", err, s.markOf(right))
	}
	s.o.SharedRoot = true
	wrong := dirs()
	s.wantRefused(s.run(wrong, nil), "holds none of")
	if got := s.markOf(wrong); got != "" {
		t.Errorf("the wrong store is marked %q", got)
	}
	if err := s.run(right, s.there); err != nil || s.markOf(right) == "" {
		t.Errorf("the right store: %v, marked %q", err, s.markOf(right))
	}
}

// hurtStore is a root store whose marks fail.
type hurtStore struct {
	*memufs.Store
	far               bool
	lost              bool // SetMark says that it failed, and did not
	markErr, setError atomic.Pointer[error]
}

func (s *hurtStore) Features() ufs.Features {
	f := s.Store.Features()
	f.Remote = s.far
	return f
}

func (s *hurtStore) Mark(ctx context.Context) (string, error) {
	if err := s.markErr.Load(); err != nil {
		return "", *err
	}
	return s.Store.Mark(ctx)
}

func (s *hurtStore) SetMark(ctx context.Context, mark string) error {
	if err := s.setError.Load(); err != nil {
		if s.lost {
			_ = s.Store.SetMark(ctx, mark)
		}
		return *err
	}
	return s.Store.SetMark(ctx, mark)
}

// TestMarkCutOff ends a reign between the steps of its first mark.
func TestMarkCutOff(t *testing.T) {
	down := errs.New("test", "", errs.Unavailable, "the store does not answer")
	for name, lost := range map[string]bool{"before the store has it": false, "after the store has it": true} {
		t.Run(name, func(t *testing.T) {
			s, root := newShared(t), &hurtStore{Store: dirs(), lost: lost}
			root.setError.Store(&down)
			if err := s.run(root, nil); errs.KindOf(err) != errs.Unavailable {
				t.Fatalf("a root store that is near and not marked: got %v", err)
			}
			before := s.markOf(root)
			if lost != (before != "") {
				t.Fatalf("marked %q", before)
			}
			root.setError.Store(nil)
			if err := s.run(root, s.make); err != nil {
				t.Fatal(err)
			}
			if now := s.markOf(root); now == "" || lost && now != before {
				t.Errorf("the mark is %q, was %q", now, before)
			}
			s.wantRefused(s.run(dirs(), nil), "no mark")
			if err := s.run(root, s.there); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFarRootDown takes over while a far root store does not answer: what it holds is unavailable, and nothing of it is taken
// for gone, until it shows its mark.
func TestFarRootDown(t *testing.T) {
	s, root := newShared(t), &hurtStore{Store: dirs(), far: true}
	if err := s.run(root, s.make); err != nil {
		t.Fatal(err)
	}
	wrong := &hurtStore{Store: dirs(), far: true}
	down := errs.New("test", "", errs.Unavailable, "the store does not answer")
	for _, store := range []*hurtStore{root, wrong} {
		store.markErr.Store(&down)
		err := s.run(store, func(n *namespace.Namespace) {
			state := func() string {
				all, err := n.Mounts(s.ctx)
				if err != nil {
					t.Fatal(err)
				}
				return all[0].State
			}
			if got := state(); !strings.Contains(got, "does not answer") {
				t.Errorf("the mount is %q", got)
			}
			if _, err := createNew(s.ctx, n, "/new"); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("create: got %v", err)
			}
			_, _ = n.Stat(core.WithMaxAge(s.ctx, core.MaxAge{Set: true}), s.path("/f"))
			store.markErr.Store(nil)
			want := "ready"
			if store == wrong {
				want = "no mark"
			}
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for end := time.After(20 * time.Second); !strings.Contains(state(), want); {
				select {
				case <-tick.C:
				case <-end:
					t.Fatalf("the mount is %q, want %s", state(), want)
				}
			}
			if store == root {
				s.there(n)
			} else if _, err := createNew(s.ctx, n, "/new"); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("create in the wrong store: got %v", err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.run(root, s.there); err != nil {
		t.Error(err)
	}
}

// TestMarkOfRestored releases a journal that was restored from before its root store was marked.
func TestMarkOfRestored(t *testing.T) {
	s, root := newShared(t), dirs()
	s.o.SharedRoot, s.o.Store = false, "c1"
	if err := s.run(root, s.make); err != nil {
		t.Fatal(err)
	}
	old := copyKV(t, s.kv)
	s.o.SharedRoot = true
	if err := s.run(root, nil); err != nil {
		t.Fatal(err)
	}
	mark := s.markOf(root)
	s.kv, s.o.Store = old, "c2"
	if err := s.run(root, func(n *namespace.Namespace) {
		s.there(n)
		if _, err := n.Release(s.ctx, core.ReleaseOptions{}); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.run(root, s.there); err != nil || s.markOf(root) != mark {
		t.Errorf("after the release: %v, marked %q, was %q", err, s.markOf(root), mark)
	}
	s.wantRefused(s.run(dirs(), nil), "no mark", mark)
}
