package worker_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/core/worker"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// TestPrevious has pages come from who owned them before, and from the first one that it has not on from the store.
func TestPrevious(t *testing.T) {
	sealer, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 3*page.Size+1234)
	for i := range data {
		data[i] = byte(i / 4096)
	}
	for _, k := range []struct {
		name   string
		has    int64 // pages, from the first
		change func(*seal.Ticket)
		asked  int64 // pages
		stored int64 // bytes from the store
	}{
		{"all", 4, nil, 4, 0},
		{"none", 0, nil, 1, int64(len(data))},
		{"some", 2, nil, 3, int64(len(data)) - 2*page.Size},
		{"of what is not kept", 4, func(x *seal.Ticket) { x.NoCache = true }, 0, int64(len(data))},
	} {
		var stored, asked atomic.Int64
		store := memufs.New(memufs.Options{Dirs: true})
		info, err := ufs.WriteFile(t.Context(), store, "f", data, ufs.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cache := page.NewCache(mempage.New(16<<20), page.CacheOptions{})
		x := seal.Ticket{ID: [16]byte{1}, Len: info.Size, Store: "root", Key: "f", Version: info.Version, Expires: time.Now().Add(time.Minute)}
		if k.change != nil {
			k.change(&x)
		}
		ticket := sealer.Sign(&x)
		w := worker.New(worker.Options{Cache: cache, Sealer: sealer,
			Root: wrap.Observe(store, func(e wrap.Event) {
				if e.Op == wrap.Read || e.Op == wrap.Open {
					stored.Add(int64(e.Bytes))
				}
			}),
			Previous: func(_ context.Context, r core.Run, p []byte) bool {
				asked.Add(1)
				if r.ID != x.ID || !bytes.Equal(r.Ticket, ticket) || r.Len != int64(len(p)) {
					t.Errorf("%s: asked for %+v", k.name, r)
				}
				copy(p, data[r.Off:])
				return r.Off/page.Size < k.has
			}})
		rd, err := w.Pages(t.Context(), ticket, 0, info.Size)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if _, err := rd.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%s: got %d bytes, %v", k.name, got.Len(), err)
		}
		rd.Close()
		if asked.Load() != k.asked || stored.Load() != k.stored {
			t.Errorf("%s: %d pages were asked for, want %d, and %d bytes came from the store, want %d", k.name, asked.Load(), k.asked, stored.Load(), k.stored)
		}
		w.Close()
		cache.Close()
	}
}
