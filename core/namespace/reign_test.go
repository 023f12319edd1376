package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/hold"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// someHolders are directories that hold, as one leader sees them. They are chosen in their order.
type someHolders struct {
	all []*someHolder

	mu      sync.Mutex
	leaving string
	down    string
}

// someHolder is one of them. Its releases wait until late is closed, if it is not nil.
type someHolder struct {
	*hold.Store
	late, came chan struct{} // came is closed when the first is made
	first      sync.Once
	released   chan error // what came of the first
}

func (h *someHolder) Release(ctx context.Context, ids ...core.HeldID) error {
	if h.late == nil {
		return h.Store.Release(ctx, ids...)
	}
	first := false
	h.first.Do(func() { first = true; close(h.came) })
	<-h.late
	err := h.Store.Release(context.WithoutCancel(ctx), ids...)
	if first {
		h.released <- err
	}
	return err
}

func (h *someHolders) set(leaving, down string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaving, h.down = leaving, down
}

// replace puts x in the place of the first of all.
func (h *someHolders) replace(x *someHolder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all[0] = x
}

func (h *someHolders) Choose(n int, _ bool, beside ...string) (some []core.Holder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range h.all {
		if len(some) < n && x.Name() != h.leaving && x.Name() != h.down && !slices.Contains(beside, x.Name()) {
			some = append(some, x)
		}
	}
	return some
}

func (h *someHolders) Holder(name string) (core.Holder, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range h.all {
		if x.Name() == name && name != h.down {
			return x, true
		}
	}
	return nil, false
}

func (h *someHolders) All() (all []core.Holder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range h.all {
		all = append(all, x)
	}
	return all
}

func (h *someHolders) Leaving() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leaving == "" {
		return nil
	}
	return []string{h.leaving}
}

// TestLateReleaseFreesNothing has a leader be paused when it has just begun to tell a worker that nobody needs a copy there any more, and
// another lead that makes it needed again, before the call arrives.
func TestLateReleaseFreesNothing(t *testing.T) {
	var stores []*hold.Store
	for i := range 3 {
		s, err := hold.Open(hold.Options{Name: fmt.Sprintf("w%d", i+1), Dir: t.TempDir(), Quota: hold.MinQuota})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		if !s.Persistent() {
			t.Skip("needs a temporary directory on a disk")
		}
		stores = append(stores, s)
	}
	kv, root := memkv.New(), memufs.New(memufs.Options{})
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	lead := func(name string) (*namespace.Namespace, *someHolders, func()) {
		h := &someHolders{}
		for _, s := range stores {
			h.all = append(h.all, &someHolder{Store: s})
		}
		n, stop := leading(t, 1<<20, namespace.Options{KV: kv, Member: name, Root: root, Holders: h, PersistDelay: time.Hour, HoldCare: 50 * time.Millisecond})
		return n, h, stop
	}
	file := parse(t, "/a")
	heldBy := func(n *namespace.Namespace, want ...string) {
		t.Helper()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(20 * time.Second); ; <-tick.C {
			d, err := n.Durability(ctx, file)
			got := slices.Sorted(slices.Values(d.Holders))
			if err == nil && slices.Equal(got, want) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("it is held by %v, %v; want %v", got, err, want)
			}
		}
	}

	first, held, stop := lead("first")
	late := &someHolder{Store: stores[0], late: make(chan struct{}), came: make(chan struct{}), released: make(chan error, 1)}
	held.replace(late)
	arrive := sync.OnceFunc(func() { close(late.late) })
	defer func() { arrive(); stop() }()
	w, err := first.Create(ctx, file, core.CreateOptions{Size: 4, WriteType: core.AsyncThrough})
	if err == nil {
		if _, err = io.WriteString(w, "held"); err == nil {
			_, err = w.Commit(ctx, core.CommitOptions{})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	heldBy(first, "w1", "w2")
	held.set("w1", "")
	heldBy(first, "w2", "w3")
	<-late.came

	second, held, stop := lead("second")
	defer stop()
	held.set("w2", "")
	heldBy(second, "w1", "w3")
	arrive()
	if err := <-late.released; !errors.Is(err, errs.Conflict) {
		t.Errorf("the late release: %v", err)
	}
	held.set("", "w3")
	rd, err := second.Open(ctx, file, core.All)
	if err != nil {
		t.Fatalf("with w1 alone: %v", err)
	}
	defer rd.Close()
	if got, err := io.ReadAll(struct{ io.Reader }{rd}); err != nil || string(got) != "held" {
		t.Errorf("with w1 alone: %q, %v", got, err)
	}
}
