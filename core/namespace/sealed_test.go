package namespace_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// TestSecretsAtRest checks that the secret of a mount reaches its store at every start, and never the journal's store.
func TestSecretsAtRest(t *testing.T) {
	kv := memkv.New()
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	given := make(chan string, 10)
	store := memufs.New(memufs.Options{})
	run := func(key byte, do func(ns *namespace.Namespace)) {
		t.Helper()
		cache := page.NewCache(mempage.New(1<<20), page.CacheOptions{})
		defer cache.Close()
		ns, err := namespace.Open(ctx, namespace.Options{
			KV: kv, Cache: cache, Root: memufs.New(memufs.Options{Dirs: true}), Member: "test", SecretKey: bytes.Repeat([]byte{key}, seal.KeySize),
			OpenStore: func(_ context.Context, m core.MountSpec) (ufs.Store, error) {
				given <- m.Options["secret_key"]
				return store, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		life, stop := context.WithCancel(ctx)
		ready, ended := make(chan struct{}), make(chan struct{})
		go func() { defer close(ended); ns.Run(life, func() { close(ready) }) }()
		defer func() { stop(); <-ended; ns.Close() }()
		<-ready
		do(ns)
	}
	path, err := core.ParsePath("/m/")
	if err != nil {
		t.Fatal(err)
	}
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
