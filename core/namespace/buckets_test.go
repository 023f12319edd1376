package namespace_test

import (
	"context"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// TestBucketAliases sets, replaces and takes back aliases, and finds them in the journal when another process leads.
func TestBucketAliases(t *testing.T) {
	kv, store := memkv.New(), memufs.New(memufs.Options{})
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	ann := core.WithPrincipal(t.Context(), core.Principal{User: "ann"})
	lead := func() (*namespace.Namespace, func()) {
		return leading(t, 1<<20, namespace.Options{KV: kv, Root: store})
	}
	path := func(s string) core.Path { return parse(t, s) }
	n, stop := lead()
	defer func() { stop() }()
	for _, dir := range []string{"/lake/prod/tables", "/lake/test"} {
		if _, err := n.Mkdir(ctx, path(dir), core.MkdirOptions{MakeParents: true}); err != nil {
			t.Fatal(err)
		}
	}
	w, err := n.Create(ctx, path("/lake/file"), core.CreateOptions{})
	if err == nil {
		_, err = w.Commit(ctx, core.CommitOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	set := func(ctx context.Context, name, dir string, want error) {
		t.Helper()
		got, err := n.SetBucketAlias(ctx, name, path(dir))
		if errs.KindOf(err) != errs.KindOf(want) {
			t.Errorf("set %s: %v, want %v", name, err, want)
		} else if err == nil && (got.Name != name || got.Path != path(dir).Dir()) {
			t.Errorf("set %s: %+v", name, got)
		}
	}
	is := func(name, dir string) {
		t.Helper()
		p, ok, err := n.BucketAlias(t.Context(), name)
		if err != nil || ok != (dir != "") || ok && p != path(dir).Dir() {
			t.Errorf("alias %s: %v, %v, %v, want %q", name, p, ok, err, dir)
		}
	}
	set(ann, "tables", "/lake/test", errs.Permission)
	for _, name := range []string{"", "ab", "Upper", "a..b", "10.0.0.1", "with/slash", "-lead"} {
		set(ctx, name, "/lake/test", errs.Invalid)
	}
	set(ctx, "lake", "/lake/test", errs.Exist)
	set(ctx, "tables", "/lake/none", errs.NotExist)
	set(ctx, "tables", "/lake/file", errs.NotDir)
	is("tables", "")
	set(ctx, "tables", "/lake/test", nil)
	set(ctx, "tables", "/lake/prod/tables/", nil)
	set(ctx, "all", "/", nil)
	is("tables", "/lake/prod/tables")
	is("all", "/")
	if _, err := n.Mkdir(ctx, path("/all"), core.MkdirOptions{}); err != nil { // its name is taken later
		t.Fatal(err)
	}
	set(ctx, "all", "/lake/test", nil)
	set(ctx, "all", "/", nil)
	stop()
	n, stop = lead()
	is("tables", "/lake/prod/tables")
	if all, err := n.BucketAliases(t.Context()); err != nil || len(all) != 2 || all[0].Name != "all" || all[1].Name != "tables" {
		t.Errorf("aliases: %+v, %v", all, err)
	}
	if err := n.RemoveBucketAlias(ann, "all"); errs.KindOf(err) != errs.Permission {
		t.Errorf("remove by anybody: %v", err)
	}
	if err := n.RemoveBucketAlias(ctx, "all"); err != nil {
		t.Error(err)
	}
	if err := n.RemoveBucketAlias(ctx, "all"); errs.KindOf(err) != errs.NotExist {
		t.Errorf("remove again: %v", err)
	}
	stop()
	n, stop = lead()
	is("all", "")
	is("tables", "/lake/prod/tables")
}
