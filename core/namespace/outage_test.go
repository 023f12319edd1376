package namespace_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// outageRig is a namespace with the mounts /near and /far, of which /far can be made to answer nothing.
type outageRig struct {
	t   *testing.T
	ctx context.Context
	ns  *namespace.Namespace
	far *wrap.Faulty
}

func newOutageRig(t *testing.T, far ufs.Store) *outageRig {
	t.Helper()
	r := &outageRig{t: t, far: wrap.Fault(far)}
	r.ctx = core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	cache := page.NewCache(mempage.New(8<<20), page.CacheOptions{})
	t.Cleanup(func() { cache.Close() })
	ns, err := namespace.Open(t.Context(), namespace.Options{
		KV: memkv.New(), Cache: cache, Root: memufs.New(memufs.Options{Dirs: true}), Member: "test", Host: "localhost:9870",
		OpenStore: func(_ context.Context, m core.MountSpec) (ufs.Store, error) {
			if m.URI != "test://far" {
				return memufs.New(memufs.Options{Dirs: true}), nil
			}
			return wrap.Isolate(r.far, wrap.IsolateOptions{Slow: 20 * time.Millisecond, Probe: 20 * time.Millisecond,
				MaxProbe: 20 * time.Millisecond, Pause: 10 * time.Millisecond, MaxPause: 10 * time.Millisecond}), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.ns = ns
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- ns.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() { cancel(); <-done; r.far.Heal(); ns.Close() })
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	always := time.Nanosecond // everything is too old at once
	for _, at := range []string{"near", "far"} {
		if _, err := ns.Mount(r.ctx, core.MountSpec{Path: r.path("/" + at), URI: "test://" + at, SyncInterval: &always}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *outageRig) path(s string) core.Path {
	r.t.Helper()
	return parse(r.t, s)
}

// read returns a file and how it was come by.
func (r *outageRig) read(ctx context.Context, p string) (string, core.CacheStatus, error) {
	rd, err := r.ns.Open(ctx, r.path(p), core.Range{Len: -1})
	if err != nil {
		return "", "", err
	}
	defer rd.Close()
	b, err := io.ReadAll(rd)
	return string(b), rd.Info().Cache, err
}

func (r *outageRig) list(ctx context.Context, p string) (names []string, err error) {
	for i, err := range r.ns.List(ctx, r.path(p), core.ListOptions{Children: true}) {
		if err != nil {
			return nil, err
		}
		names = append(names, i.Name)
	}
	return names, nil
}

func (r *outageRig) state(p string) string {
	r.t.Helper()
	all, err := r.ns.Mounts(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range all {
		if m.Path.Dir() == r.path(p).Dir() {
			return m.State
		}
	}
	return ""
}

func (r *outageRig) waits(mount string) (w namespace.StoreWaits) {
	for _, w := range r.ns.StoreWaits() {
		if w.Mount == mount {
			return w
		}
	}
	r.t.Fatalf("no mount %s", mount)
	return w
}

// goAway has the store answer nothing, and asks until that is known.
func (r *outageRig) goAway() {
	r.t.Helper()
	for _, op := range wrap.Ops() {
		r.far.Add(wrap.Rule{Op: op, Wait: r.t.Context().Done()})
	}
	_, err := r.ns.Stat(core.WithMaxAge(r.ctx, core.MaxAge{Set: true}), r.path("/far/d/a"))
	if !errors.Is(err, errs.Unavailable) || !strings.HasPrefix(r.state("/far"), "degraded: ") {
		r.t.Fatalf("a store that answers nothing: %v, state %q", err, r.state("/far"))
	}
}

func put(t *testing.T, s ufs.Store, name, data string) {
	t.Helper()
	if _, err := ufs.WriteFile(t.Context(), s, name, []byte(data), ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestOutage has the store of a mount go away. What is known of it is served and marked, nothing unknown is made up, and nobody waits.
func TestOutage(t *testing.T) {
	for name, o := range map[string]memufs.Options{"flat": {}, "dirs": {Dirs: true}} {
		t.Run(name, func(t *testing.T) {
			far := memufs.New(o)
			put(t, far, "d/a", "first")
			put(t, far, "d/b", "second")
			put(t, far, "e/gone", "x")
			r := newOutageRig(t, far)
			if got, cache, err := r.read(r.ctx, "/far/d/a"); err != nil || got != "first" || cache == core.Stale {
				t.Fatalf("got %q, %s, %v", got, cache, err)
			}
			for _, dir := range []string{"/far/", "/far/d/"} {
				if _, err := r.list(r.ctx, dir); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := r.ns.Stat(r.ctx, r.path("/far/none")); !errors.Is(err, errs.NotExist) {
				t.Fatal(err)
			}
			r.goAway()
			before, calls := r.waits("/far"), r.far.Calls(wrap.List)+r.far.Calls(wrap.Open) // probes may be Stats

			if got, cache, err := r.read(r.ctx, "/far/d/a"); err != nil || got != "first" || cache != core.Stale {
				t.Errorf("a cached file: got %q, %s, %v, want it marked STALE", got, cache, err)
			}
			if i, err := r.ns.Stat(r.ctx, r.path("/far/d/b")); err != nil || i.Size != 6 || i.Cache != core.Stale || i.Age <= 0 {
				t.Errorf("a file that is known: got %+v, %v", i, err)
			}
			if names, err := r.list(r.ctx, "/far/d/"); err != nil || !slices.Equal(names, []string{"a", "b"}) {
				t.Errorf("a listing that is known: got %q, %v", names, err)
			}
			if names, err := r.list(r.ctx, "/"); err != nil || !slices.Equal(names, []string{"far/", "near/"}) {
				t.Errorf("the parent's listing: got %q, %v", names, err)
			}
			if e, err := core.ParseEither("/far/d/a"); err != nil {
				t.Error(err)
			} else if i, err := r.ns.Stat(r.ctx, e); err != nil || i.Path != r.path("/far/d/a") || i.Cache != core.Stale {
				t.Errorf("a file by a path that may be a directory's: got %+v, %v", i, err)
			}
			strict := core.WithMaxAge(r.ctx, core.MaxAge{Set: true})
			upload, err := r.ns.CreateUpload(r.ctx, r.path("/near/parts"), core.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for what, call := range map[string]func() error{
				"a file that is not cached":             func() error { _, _, err := r.read(r.ctx, "/far/d/b"); return err },
				"a name that was absent":                func() error { _, err := r.ns.Stat(r.ctx, r.path("/far/none")); return err },
				"a name that is not in a known listing": func() error { _, err := r.ns.Stat(r.ctx, r.path("/far/d/c")); return err },
				"a file that nobody asked for":          func() error { _, err := r.ns.Stat(r.ctx, r.path("/far/e/gone")); return err },
				"a listing that nobody asked for":       func() error { _, err := r.list(r.ctx, "/far/e/"); return err },
				"a read that wants no old answer":       func() error { _, _, err := r.read(strict, "/far/d/a"); return err },
				"a listing that wants none":             func() error { _, err := r.list(strict, "/far/d/"); return err },
				"a copy of a cached file": func() error {
					_, err := r.ns.Copy(r.ctx, r.path("/far/d/a"), r.path("/near/copy"), core.CopyOptions{})
					return err
				},
				"a copy of it as a part": func() error {
					_, err := r.ns.CopyPart(r.ctx, r.path("/near/parts"), upload, 1, r.path("/far/d/a"), core.All)
					return err
				},
				"a composition of it": func() error {
					_, err := r.ns.Compose(r.ctx, r.path("/near/composed"), []core.Path{r.path("/far/d/a")})
					return err
				},
				"a removal": func() error { return r.ns.Remove(r.ctx, r.path("/far/d/a"), core.RemoveOptions{}) },
			} {
				err := call()
				if !errors.Is(err, errs.Unavailable) {
					t.Errorf("%s: got %v, want errs.Unavailable", what, err)
				}
				if why := core.WhyStoreAway(err); !strings.Contains(what, "of it") && !strings.Contains(what, "copy") &&
					!strings.HasPrefix(why, "the store of the mount /far has not answered since 2") {
					t.Errorf("%s: users are told %q, of %v", what, why, err)
				}
			}
			if x, err := r.ns.Explain(r.ctx, r.path("/far/d/a"), core.ExplainOptions{}); err != nil || x.Asks || !strings.Contains(x.Access, "STALE") {
				t.Errorf("explain: %q, %v", x.Access, err)
			}
			if err := r.ns.Invalidate(r.ctx, r.path("/far/d/a")); err != nil {
				t.Fatal(err)
			}
			if _, _, err := r.read(r.ctx, "/far/d/a"); !errors.Is(err, errs.Unavailable) {
				t.Errorf("what was invalidated: got %v", err)
			}
			never := time.Duration(0)
			if _, err := r.ns.UpdateMount(r.ctx, r.path("/far"), core.MountChange{SyncInterval: &never}); err != nil {
				t.Fatal(err)
			}
			if _, err := r.ns.Stat(r.ctx, r.path("/far/d/b")); !errors.Is(err, errs.Unavailable) {
				t.Errorf("with interval 0: got %v", err)
			}
			if after := r.waits("/far"); after != before || !after.Degraded {
				t.Errorf("waits for the store: %+v, and before %+v", after, before)
			}
			if now := r.far.Calls(wrap.List) + r.far.Calls(wrap.Open); now != calls {
				t.Errorf("%d calls came to the store", now-calls)
			}

			r.far.Heal()
			for deadline := time.Now().Add(30 * time.Second); r.waits("/far").Degraded && time.Now().Before(deadline); {
				if _, err := r.list(r.ctx, "/near/"); err != nil {
					t.Fatal(err)
				}
			}
			if got, cache, err := r.read(r.ctx, "/far/d/b"); err != nil || got != "second" || cache == core.Stale {
				t.Errorf("when it answers again: got %q, %s, %v", got, cache, err)
			}
			if _, err := r.ns.Stat(r.ctx, r.path("/far/none")); !errors.Is(err, errs.NotExist) {
				t.Errorf("a name that is absent: got %v", err)
			}
			if got := r.state("/far"); got != "ready" {
				t.Errorf("its state: %q", got)
			}
		})
	}
}

// TestNoAnswer has a store answer a call with an outage, which is not one yet: users are told whose it is, and nothing of the inside.
func TestNoAnswer(t *testing.T) {
	r := newOutageRig(t, memufs.New(memufs.Options{Dirs: true}))
	r.far.Add(wrap.Rule{Op: wrap.Mkdir, Err: errs.New("test", "", errs.Unavailable, "dial tcp 10.0.0.1: refused")})
	_, err := r.ns.Mkdir(r.ctx, r.path("/far/d/"), core.MkdirOptions{})
	if got, want := core.WhyStoreAway(err), "the store of the mount /far did not answer; try again later"; errs.KindOf(err) != errs.Unavailable || got != want || !strings.Contains(err.Error(), "10.0.0.1") {
		t.Errorf("users are told %q, want %q, of %v", got, want, err)
	}
}

// TestRefusedChanges has a store refuse what would change it.
func TestRefusedChanges(t *testing.T) {
	r := newOutageRig(t, memufs.New(memufs.Options{Dirs: true}))
	r.far.Add(wrap.Rule{Op: wrap.Mkdir, Err: errs.New("test", "", errs.Permission, "read-only credentials")})
	mkdir := func(p string) error {
		_, err := r.ns.Mkdir(r.ctx, r.path(p), core.MkdirOptions{})
		return err
	}
	for i, want := range []string{"ready", "ready", "degraded"} {
		if err := mkdir("/far/d/"); err == nil {
			t.Fatal("a directory was made")
		}
		if got := r.state("/far"); !strings.HasPrefix(got, want) || want != "ready" && !strings.Contains(got, "read-only credentials") {
			t.Errorf("after %d refusals: %q", i+1, got)
		}
	}
	r.far.Heal()
	if err := mkdir("/far/d/"); err != nil || r.state("/far") != "ready" {
		t.Errorf("after a change that was made: %v, %q", err, r.state("/far"))
	}
}
