package namespace_test

import (
	"context"
	"errors"
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
)

// TestSuccessorDisarms pauses a leader in the last moment before its store's step, has another lead and look at what became
// of the change, and lets the first one go on.
func TestSuccessorDisarms(t *testing.T) {
	path := func(s string) core.Path {
		p, err := core.ParsePath(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
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
