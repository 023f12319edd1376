package s3api_test

import (
	"context"
	"fmt"
	"iter"
	"sync/atomic"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// hooked is the real namespace in memory, with a hook in front of what the server calls.
type hooked struct {
	core.Namespace
	uploads core.Uploads
	hook    atomic.Pointer[func(op string) error] // its error is answered instead
}

// openNamespace returns a namespace over an object store in memory, or over a file system if dirs is set.
func openNamespace(t *testing.T, dirs bool) *hooked {
	t.Helper()
	cache := page.NewCache(mempage.New(1<<10), page.CacheOptions{})
	ns, err := namespace.Open(t.Context(), namespace.Options{KV: memkv.New(), Cache: cache, Member: "t", Superuser: "alice",
		Root: memufs.New(memufs.Options{Dirs: dirs})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- ns.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); <-done; ns.Close(); cache.Close() })
	return &hooked{Namespace: ns, uploads: ns}
}

func (h *hooked) fail(f func(op string) error) {
	if f == nil {
		h.hook.Store(nil)
		return
	}
	h.hook.Store(&f)
}

func (h *hooked) enter(op string) error {
	if f := h.hook.Load(); f != nil {
		return (*f)(op)
	}
	return nil
}

func (h *hooked) Stat(ctx context.Context, p core.Path) (core.Info, error) {
	if err := h.enter("Stat"); err != nil {
		return core.Info{}, err
	}
	return h.Namespace.Stat(ctx, p)
}

func (h *hooked) List(ctx context.Context, dir core.Path, o core.ListOptions) iter.Seq2[core.Info, error] {
	if err := h.enter("List"); err != nil {
		return func(yield func(core.Info, error) bool) { yield(core.Info{}, err) }
	}
	return h.Namespace.List(ctx, dir, o)
}

func (h *hooked) Open(ctx context.Context, p core.Path, r core.Range) (core.Reader, error) {
	if err := h.enter("Open"); err != nil {
		return nil, err
	}
	return h.Namespace.Open(ctx, p, r)
}

func (h *hooked) Create(ctx context.Context, p core.Path, o core.CreateOptions) (core.Writer, error) {
	if err := h.enter("Create"); err != nil {
		return nil, err
	}
	w, err := h.Namespace.Create(ctx, p, o)
	return hookedWriter{w, h}, err
}

type hookedWriter struct {
	core.Writer
	h *hooked
}

func (w hookedWriter) Commit(ctx context.Context, o core.CommitOptions) (core.Info, error) {
	if err := w.h.enter("Commit"); err != nil {
		return core.Info{}, err
	}
	return w.Writer.Commit(ctx, o)
}

func (h *hooked) Mkdir(ctx context.Context, p core.Path, o core.MkdirOptions) (core.Info, error) {
	if err := h.enter("Mkdir"); err != nil {
		return core.Info{}, err
	}
	return h.Namespace.Mkdir(ctx, p, o)
}

func (h *hooked) Copy(ctx context.Context, src, dst core.Path, o core.CopyOptions) (core.Info, error) {
	if err := h.enter("Copy"); err != nil {
		return core.Info{}, err
	}
	return h.Namespace.Copy(ctx, src, dst, o)
}

func (h *hooked) Remove(ctx context.Context, p core.Path, o core.RemoveOptions) error {
	if err := h.enter("Remove"); err != nil {
		return err
	}
	return h.Namespace.Remove(ctx, p, o)
}

// hookedUploads is the other half of hooked: both have a Create of their own.
type hookedUploads struct {
	core.Uploads
	h *hooked
}

func (u hookedUploads) CreateUpload(ctx context.Context, p core.Path, o core.CreateOptions) (string, error) {
	if err := u.h.enter("CreateUpload"); err != nil {
		return "", err
	}
	return u.Uploads.CreateUpload(ctx, p, o)
}

func (u hookedUploads) CompleteUpload(ctx context.Context, p core.Path, id string, parts []core.Part, o core.CompleteOptions) (core.Info, error) {
	if err := u.h.enter("CompleteUpload"); err != nil {
		return core.Info{}, err
	}
	return u.Uploads.CompleteUpload(ctx, p, id, parts, o)
}

func (u hookedUploads) AbortUpload(ctx context.Context, p core.Path, id string) error {
	if err := u.h.enter("AbortUpload"); err != nil {
		return err
	}
	return u.Uploads.AbortUpload(ctx, p, id)
}

func (u hookedUploads) ListParts(ctx context.Context, p core.Path, id string, after int) (core.Upload, iter.Seq2[core.Part, error], error) {
	if err := u.h.enter("ListParts"); err != nil {
		return core.Upload{}, nil, err
	}
	return u.Uploads.ListParts(ctx, p, id, after)
}

func (u hookedUploads) ListUploads(ctx context.Context, dir core.Path, prefix, afterKey, afterID string) iter.Seq2[core.Upload, error] {
	if err := u.h.enter("ListUploads"); err != nil {
		return func(yield func(core.Upload, error) bool) { yield(core.Upload{}, err) }
	}
	return u.Uploads.ListUploads(ctx, dir, prefix, afterKey, afterID)
}

// state returns what is stored, to see that a refused request changed nothing.
func (r *rig) state() map[string]string {
	r.Helper()
	ctx := core.WithPrincipal(r.Context(), core.Principal{User: "alice", Super: true})
	out := map[string]string{}
	for info, err := range r.ns.Namespace.List(ctx, core.Root, core.ListOptions{}) {
		if err != nil {
			r.Fatal(err)
		}
		out[info.Name] = info.Version + " " + info.ETag
	}
	for info, err := range r.ns.Namespace.List(ctx, core.Root, core.ListOptions{Children: true}) {
		if err != nil {
			r.Fatal(err)
		}
		out["child "+info.Name] = info.Owner
	}
	for u, err := range r.ns.uploads.ListUploads(ctx, core.Root, "", "", "") {
		if err != nil {
			r.Fatal(err)
		}
		parts := 0
		_, all, err := r.ns.uploads.ListParts(ctx, u.Path, u.ID, 0)
		if err != nil {
			r.Fatal(err)
		}
		for range all {
			parts++
		}
		out["upload "+u.ID] = fmt.Sprint(parts)
	}
	return out
}
