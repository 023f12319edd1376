package namespace_test

import (
	"bytes"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// TestCopiesOfWhatIsNotCached has no worker keep what is not cached, whatever replication_min says.
func TestCopiesOfWhatIsNotCached(t *testing.T) {
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	ns, stop := leading(t, 1<<20, namespace.Options{KV: memkv.New(), Root: memufs.New(memufs.Options{Dirs: true}), Member: "test",
		SecretKey: bytes.Repeat([]byte{1}, seal.KeySize)})
	defer stop()
	file := parse(t, "/f")
	root := parse(t, "/")
	w, err := ns.Create(ctx, file, core.CreateOptions{Size: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(ctx, core.CommitOptions{}); err != nil {
		t.Fatal(err)
	}
	low := 2
	for _, k := range []struct {
		how  core.ReadType
		want core.Copies
	}{{core.CacheRead, core.Copies{Min: 2, Max: 3}}, {core.NoCache, core.Copies{Max: 3}}} {
		if _, err := ns.SetPathRule(ctx, root, core.Policies{ReadType: k.how, ReplicationMin: &low, ReplicationMax: 3}); err != nil {
			t.Fatal(err)
		}
		placed, err := ns.Place(ctx, file, core.All)
		if err != nil || len(placed.Runs) != 1 || placed.Runs[0].Copies != k.want {
			t.Errorf("%s: got %+v, %v, want %+v", k.how, placed.Runs, err, k.want)
		}
	}
}
