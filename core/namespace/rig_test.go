package namespace_test

import (
	"context"
	"sync"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
)

// parse returns the path that is written s.
func parse(t testing.TB, s string) core.Path {
	t.Helper()
	p, err := core.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// leading opens a namespace with a cache of its own of size bytes, and has it lead until stop, which also closes both.
func leading(t testing.TB, size int, o namespace.Options) (n *namespace.Namespace, stop func()) {
	t.Helper()
	o.Cache = page.NewCache(mempage.New(size), page.CacheOptions{})
	n, err := namespace.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	running, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- n.Run(running, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	return n, sync.OnceFunc(func() { cancel(); <-done; n.Close(); o.Cache.Close() })
}
