package namespace_test

import (
	"bytes"
	"cmp"
	"context"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// rooted is a remote store that says which it is.
type rooted struct {
	ufs.Store
	root string
}

func (s rooted) Features() ufs.Features {
	f := s.Store.Features()
	f.Remote, f.Root = true, s.root
	return f
}

// TestAnotherStore checks that options which name another store, under whatever name, are refused: when they are changed, and
// at a start.
func TestAnotherStore(t *testing.T) {
	kv := memkv.New()
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	moved := "" // where the options lead that the configuration has
	run := func(do func(ns *namespace.Namespace)) {
		t.Helper()
		ns, stop := leading(t, 1<<20, namespace.Options{
			KV: kv, Root: memufs.New(memufs.Options{Dirs: true}), Member: "test", SecretKey: make([]byte, seal.KeySize),
			OpenStore: func(_ context.Context, m core.MountSpec) (ufs.Store, error) {
				return rooted{memufs.New(memufs.Options{}), cmp.Or(moved, m.Options["connection_string"]) + "/"}, nil
			},
		})
		defer stop()
		do(ns)
	}
	path := parse(t, "/m/")
	run(func(ns *namespace.Namespace) {
		if _, err := ns.Mount(ctx, core.MountSpec{Path: path, URI: "test://", Options: map[string]string{"connection_string": "here"}}); err != nil {
			t.Fatal(err)
		}
		_, err := ns.UpdateMount(ctx, path, core.MountChange{Options: map[string]string{"connection_string": "there"}})
		if errs.KindOf(err) != errs.Invalid {
			t.Errorf("options of another store: got %v", err)
		}
		if _, err := ns.UpdateMount(ctx, path, core.MountChange{Options: map[string]string{"secret_key": "new"}}); err != nil {
			t.Errorf("another secret of the same store: got %v", err)
		}
	})
	for _, moved = range []string{"there", ""} {
		run(func(ns *namespace.Namespace) {
			_, err := ns.Stat(ctx, path.Child("a"))
			if want := map[bool]errs.Kind{true: errs.Unavailable, false: errs.NotExist}[moved != ""]; errs.KindOf(err) != want {
				t.Errorf("after a start that leads to %q: got %v, want %v", moved, err, want)
			}
		})
	}
}

// TestSecretsAtRest checks that the secret of a mount reaches its store at every start, and never the journal's store.
func TestSecretsAtRest(t *testing.T) {
	kv := memkv.New()
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	given := make(chan string, 10)
	store := memufs.New(memufs.Options{})
	run := func(key byte, do func(ns *namespace.Namespace)) {
		t.Helper()
		ns, stop := leading(t, 1<<20, namespace.Options{
			KV: kv, Root: memufs.New(memufs.Options{Dirs: true}), Member: "test", SecretKey: bytes.Repeat([]byte{key}, seal.KeySize),
			OpenStore: func(_ context.Context, m core.MountSpec) (ufs.Store, error) {
				given <- m.Options["secret_key"]
				return store, nil
			},
		})
		defer stop()
		do(ns)
	}
	path := parse(t, "/m/")
	run(1, func(ns *namespace.Namespace) {
		if _, err := ns.Mount(ctx, core.MountSpec{Path: path, URI: "test://", Options: map[string]string{"secret_key": "hush"}}); err != nil {
			t.Fatal(err)
		}
		if got := <-given; got != "hush" {
			t.Errorf("the store got %q", got)
		}
	})
	page, err := kv.Scan(ctx, "\x00", "\xff", 1000)
	if err != nil || len(page.KVs) == 0 {
		t.Fatal(len(page.KVs), err)
	}
	for _, e := range page.KVs {
		if strings.Contains(string(e.Value), "hush") {
			t.Errorf("%s holds the secret", e.Key)
		}
	}
	run(1, func(ns *namespace.Namespace) {
		if got := <-given; got != "hush" {
			t.Errorf("after a restart the store got %q", got)
		}
	})
	run(2, func(ns *namespace.Namespace) {
		if len(given) > 0 {
			t.Errorf("with another key the store was opened with %q", <-given)
		}
		if _, err := ns.Stat(ctx, path.Child("a")); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "secret key") {
			t.Errorf("with another key: got %v", err)
		}
		readOnly := true
		if _, err := ns.UpdateMount(ctx, path, core.MountChange{ReadOnly: &readOnly}); err != nil {
			t.Error(err)
		}
	})
	run(1, func(ns *namespace.Namespace) {
		if got := <-given; got != "hush" {
			t.Errorf("after a change by a process without the key the store got %q", got)
		}
	})
}
