package namespace_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/nstest"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/s3ufs"
)

// failures keeps what a sync says it could not do.
type failures struct{ of []string }

func (*failures) Compared(int64, int64)              {}
func (*failures) Resumed(time.Time)                  {}
func (*failures) Differs(core.SyncChange, core.Path) {}
func (f *failures) Failed(p core.Path, _ error)      { f.of = append(f.of, p.String()) }

// TestAccountMount mounts all buckets of an account, one of which comes to be forbidden, and has an object DELETE meet a bucket that
// holds what no store has yet.
func TestAccountMount(t *testing.T) {
	var forbid atomic.Bool
	inner := gofakes3.New(s3mem.New()).Server()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if forbid.Load() && strings.HasPrefix(r.URL.Path, "/bbb-one") {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	acct := func() *s3ufs.Account {
		a, err := s3ufs.OpenAccount(s3ufs.Options{Endpoint: srv.URL, AccessKey: "a", SecretKey: "s", PathStyle: true}, true)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	mounted := acct()
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	n, end := leading(t, 1<<20, namespace.Options{KV: memkv.New(), Root: memufs.New(memufs.Options{}),
		Holders: nstest.NewWorkers(2), PersistDelay: time.Hour,
		OpenStore: func(context.Context, core.MountSpec) (ufs.Store, error) { return mounted, nil }})
	defer end()
	path := func(s string) core.Path { return parse(t, s) }
	put := func(name string, how core.WriteType) {
		t.Helper()
		w, err := n.Create(ctx, path(name), core.CreateOptions{Size: 4, MakeParents: true, WriteType: how})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		if _, err := io.WriteString(w, "data"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(ctx, core.CommitOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	behind := acct()
	for _, bucket := range []string{"aaa-one/", "bbb-one/", "ccc-one/"} {
		if _, err := behind.Mkdir(ctx, bucket, ufs.Attr{}); err != nil {
			t.Fatal(err)
		}
	}
	always := time.Duration(0)
	if _, err := n.Mount(ctx, core.MountSpec{Path: path("/acct"), URI: "s3://*", SyncInterval: &always}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"aaa-one/d/f", "aaa-one/g", "bbb-one/f", "ccc-one/f"} {
		put("/acct/"+name, core.CacheThrough)
	}
	list := func(prefix string, want ...string) {
		t.Helper()
		var got []string
		for in, err := range n.List(ctx, path("/acct/"), core.ListOptions{Prefix: prefix}) {
			if err != nil {
				t.Errorf("list %q: %v", prefix, err)
				return
			}
			got = append(got, in.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("list %q: got %q, want %q", prefix, got, want)
		}
	}
	all := []string{"aaa-one/", "aaa-one/d/f", "aaa-one/g", "bbb-one/", "bbb-one/f", "ccc-one/", "ccc-one/f"}
	list("", all...)
	forbid.Store(true)
	list("aaa", all[:3]...)
	list("ccc", all[5:]...)
	var w failures
	_ = n.Sync(ctx, path("/acct/"), core.SyncOptions{Recursive: true}, &w)
	if want := []string{"/acct/bbb-one/"}; !slices.Equal(w.of, want) {
		t.Errorf("sync could not do %q, want %q", w.of, want)
	}
	forbid.Store(false)
	list("", all...)

	// An object DELETE of "b/" leaves a bucket in which something is held.
	if _, err := n.Mkdir(ctx, path("/acct/work-one/"), core.MkdirOptions{Marker: true}); err != nil {
		t.Fatal(err)
	}
	put("/acct/work-one/f", core.AsyncThrough)
	if err := n.Remove(ctx, path("/acct/work-one/"), core.RemoveOptions{Prune: true}); err != nil {
		t.Error(err)
	}
	if _, err := acct().Stat(ctx, "work-one/"); err != nil {
		t.Errorf("the bucket of held bytes: %v", err)
	}
	// If others remove it, what is held waits for it to come back.
	if err := behind.Remove(ctx, "work-one/", ""); err != nil {
		t.Fatal(err)
	}
	short, enough := context.WithTimeout(ctx, 5*time.Second)
	_, err := n.Persist(short, path("/acct/work-one/f"), core.PersistOptions{Wait: true})
	if enough(); err == nil || errs.KindOf(err) == errs.Conflict {
		t.Errorf("persist into no bucket: %v, want another try", err)
	}
	if _, err := behind.Mkdir(ctx, "work-one/", ufs.Attr{}); err != nil {
		t.Fatal(err)
	}
	soon, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	if _, err := n.Persist(soon, path("/acct/work-one/f"), core.PersistOptions{Wait: true}); err != nil {
		t.Errorf("persist when the bucket is back: %v", err)
	}
	if b, err := ufs.ReadAll(ctx, acct(), "work-one/f", "", 10); err != nil || string(b) != "data" {
		t.Errorf("what was held is %q, %v", b, err)
	}
}
