package remote_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/remote"
)

// aliasTree tells bucket aliases, and counts how often it is asked.
type aliasTree struct {
	fake
	mu    sync.Mutex
	all   []core.BucketAlias
	asked int
}

func (a *aliasTree) BucketAliases(context.Context) ([]core.BucketAlias, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	return a.all, nil
}

// TestBucketAliases has a gateway learn aliases from the leader: all of them at once, and soon what has changed.
func TestBucketAliases(t *testing.T) {
	path := func(s string) core.Path {
		p, err := core.ParsePath(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	tree := &aliasTree{all: []core.BucketAlias{{Name: "all", Path: core.Root}, {Name: "tables", Path: path("/lake/tables/")}}}
	addr, _ := serve(t, remote.ServerOptions{Tree: tree, Authenticator: users{}}, 0)
	c := dial(t, remote.Options{Addrs: []string{addr}})
	begun := time.Now()
	var first sync.WaitGroup
	for range 20 {
		first.Go(func() {
			if all, err := c.BucketAliases(t.Context()); err != nil || len(all) != 2 {
				t.Errorf("aliases: %v, %v", all, err)
			}
		})
	}
	first.Wait()
	for range 100 {
		for name, want := range map[string]core.Path{"all": core.Root, "tables": path("/lake/tables/"), "none": {}} {
			if p, ok, err := c.BucketAlias(t.Context(), name); err != nil || ok == want.IsZero() || p != want {
				t.Fatalf("%s is %v, %v, %v", name, p, ok, err)
			}
		}
	}
	tree.mu.Lock()
	if most := 2 + int(time.Since(begun)/time.Second); tree.asked > most {
		t.Errorf("the leader was asked %d times for 300 names, want %d at most", tree.asked, most)
	}
	tree.all = tree.all[:1]
	tree.mu.Unlock()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		if _, ok, err := c.BucketAlias(t.Context(), "tables"); err != nil {
			t.Fatal(err)
		} else if !ok {
			return
		}
		if time.Now().After(end) {
			t.Fatal("an alias that was taken back is still known after 20 s")
		}
	}
}
