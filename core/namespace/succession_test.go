package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/localufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// TestSuccessorDisarms pauses a leader in the last moment before its store's step, has another lead and look at what became
// of the change, and lets the first one go on.
func TestSuccessorDisarms(t *testing.T) {
	path := func(s string) core.Path { return parse(t, s) }
	put := func(ctx context.Context, n *namespace.Namespace, name, data string, o core.CreateOptions) error {
		o.Size = int64(len(data))
		w, err := n.Create(ctx, path(name), o)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, data); err != nil {
			return err
		}
		_, err = w.Commit(ctx, core.CommitOptions{})
		return err
	}
	id := ""
	for _, k := range []struct {
		name         string
		make, change func(ctx context.Context, n *namespace.Namespace) error
		want         string // at /f
	}{
		{"create", nil, func(ctx context.Context, n *namespace.Namespace) error {
			return put(ctx, n, "/f", "new", core.CreateOptions{Mode: core.CreateNew})
		}, ""},
		{"overwrite", func(ctx context.Context, n *namespace.Namespace) error {
			return put(ctx, n, "/f", "old", core.CreateOptions{})
		}, func(ctx context.Context, n *namespace.Namespace) error {
			return put(ctx, n, "/f", "new", core.CreateOptions{Cond: core.Cond{IfMatch: "*"}})
		}, "old"},
		{"append", func(ctx context.Context, n *namespace.Namespace) error {
			return put(ctx, n, "/f", "old", core.CreateOptions{})
		}, func(ctx context.Context, n *namespace.Namespace) error {
			return put(ctx, n, "/f", " and new", core.CreateOptions{Mode: core.Append})
		}, "old"},
		{"copy", func(ctx context.Context, n *namespace.Namespace) error {
			return errors.Join(put(ctx, n, "/f", "old", core.CreateOptions{}), put(ctx, n, "/g", "new", core.CreateOptions{}))
		}, func(ctx context.Context, n *namespace.Namespace) error {
			_, err := n.Copy(ctx, path("/g"), path("/f"), core.CopyOptions{})
			return err
		}, "old"},
		{"complete", func(ctx context.Context, n *namespace.Namespace) (err error) {
			if err := put(ctx, n, "/g", "x", core.CreateOptions{}); err != nil { // what is staged in has to be made by now
				return err
			}
			if id, err = n.CreateUpload(ctx, path("/f"), core.CreateOptions{}); err != nil {
				return err
			}
			w, err := n.PutPart(ctx, path("/f"), id, 1, 3)
			if err != nil {
				return err
			}
			if _, err := io.WriteString(w, "new"); err != nil {
				return err
			}
			_, err = w.Commit(ctx, core.CommitOptions{})
			return err
		}, func(ctx context.Context, n *namespace.Namespace) error {
			_, parts, err := n.ListParts(ctx, path("/f"), id, 0)
			if err != nil {
				return err
			}
			var all []core.Part
			for p, err := range parts {
				if err != nil {
					return err
				}
				all = append(all, p)
			}
			_, err = n.CompleteUpload(ctx, path("/f"), id, all, core.CompleteOptions{})
			return err
		}, ""},
	} {
		t.Run(k.name, func(t *testing.T) {
			kv, dir := memkv.New(), tempDir(t)
			open := func() ufs.Store {
				s, err := localufs.Open(dir, localufs.Options{})
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			first, tree, stopFirst := reign(t, kv, open())
			defer stopFirst()
			root := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
			if k.make != nil {
				if err := k.make(root, first); err != nil {
					t.Fatal(err)
				}
			}
			var second *namespace.Namespace
			var stopSecond func()
			var asked atomic.Bool
			paused := ufs.WithGuard(root, func() error {
				intents := 0 // what is asked of before there is one is of no interest
				tree.View(func(v meta.View) {
					for range v.Children(meta.IntentsDir, "") {
						intents++
					}
				})
				if intents > 0 && !asked.Swap(true) {
					second, _, stopSecond = reign(t, kv, open())
				}
				return nil
			})
			if err := k.change(paused, first); err == nil || !asked.Load() {
				t.Errorf("the leader that was paused: got %v", err)
			}
			if second == nil {
				t.Fatal("nobody took over")
			}
			defer stopSecond()
			got := ""
			switch rd, err := second.Open(core.WithMaxAge(root, core.MaxAge{Set: true}), path("/f"), core.All); {
			case err == nil:
				var b strings.Builder
				if _, err := io.Copy(&b, struct{ io.Reader }{rd}); err != nil {
					t.Error(err)
				}
				rd.Close()
				got = b.String()
			case !errors.Is(err, errs.NotExist):
				t.Fatal(err)
			}
			if got != k.want {
				t.Errorf("the name has %q, want %q", got, k.want)
			}
		})
	}
}

// TestSuccessorCarriesMkdirOn ends a leader at each step that a mkdir takes in the store, and has its caller ask the next
// leader for the same change: what was answered, and what was seen already, stays.
func TestSuccessorCarriesMkdirOn(t *testing.T) {
	path := func(s string) core.Path { return parse(t, s) }
	for _, dirs := range []bool{true, false} {
		for _, o := range []core.MkdirOptions{{Mode: 0o750}, {Mode: 0o750, MakeParents: true}, {MakeParents: true, Marker: true}} {
			steps := 0
			for ended := true; ended; steps++ {
				t.Run(fmt.Sprintf("directories %v, parents %v, marker %v, step %d", dirs, o.MakeParents, o.Marker, steps), func(t *testing.T) {
					ended = endInMkdir(t, memufs.New(memufs.Options{Dirs: dirs}), path("/a/b/"), o, steps)
				})
				if t.Failed() {
					return
				}
			}
			if steps < 2 {
				t.Errorf("a leader was ended in none of the steps of %+v", o)
			}
		}
	}
}

// endInMkdir ends a leader in the step of making p that comes after so many others. It reports whether there is such a step.
func endInMkdir(t *testing.T, store ufs.Store, p core.Path, o core.MkdirOptions, steps int) bool {
	kv := memkv.New()
	first, _, stopFirst := reign(t, kv, store)
	defer stopFirst()
	root := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	if _, err := first.Mkdir(root, p.Parent(), core.MkdirOptions{}); err != nil && !o.MakeParents {
		t.Fatal(err)
	} else if o.MakeParents {
		if err := first.Remove(root, p.Parent(), core.RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	call := core.Call{Session: [16]byte{1}, Sequence: 1}
	if _, err := first.OpenSession(root, call.Session); err != nil {
		t.Fatal(err)
	}
	var second *namespace.Namespace
	stopSecond := func() {}
	seen := false
	at := 0
	ctx := ufs.WithGuard(core.WithCall(root, call), func() error {
		if at++; at != steps+1 {
			return nil
		}
		_, err := first.Stat(root, p.Parent())
		seen = err == nil
		second, _, stopSecond = reign(t, kv, store)
		return errs.New("test", "", errs.Unavailable, "the process has ended")
	})
	_, err := first.Mkdir(ctx, p, o)
	defer func() { stopSecond() }()
	if second == nil {
		if err != nil {
			t.Error(err)
		}
		return false
	}
	if err == nil {
		t.Error("the leader that has ended: the directory was made")
	}
	strict := core.WithMaxAge(root, core.MaxAge{Set: true})
	if _, err := second.Stat(strict, p.Parent()); err != nil && seen {
		t.Errorf("the parent was there before the leader ended: %v", err)
	}
	answer, err := second.Answered(root, call)
	if err != nil {
		t.Fatal(err)
	}
	if answer == nil {
		if _, err := second.Mkdir(core.WithCall(root, call), p, o); err != nil {
			t.Fatalf("the change was not made, and is asked for again: %v", err)
		}
	}
	i, err := second.Stat(strict, p)
	if err != nil || o.Mode != 0 && i.Mode != o.Mode {
		t.Errorf("the directory that was answered with %q: mode %o, %v", answer, i.Mode, err)
	}
	return true
}
