package etcd_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/etcd"
)

func TestRegistry(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		open func(t *testing.T) (cluster.Registry, meta.KV)
	}{
		{"embedded", func(t *testing.T) (cluster.Registry, meta.KV) {
			s := start(t, t.TempDir(), etcd.ServerOptions{UnsafeNoFsync: true})
			return s.Registry(0), s.KV()
		}},
		{"external", func(t *testing.T) (cluster.Registry, meta.KV) {
			c := connect(t, etcd.ClientOptions{Endpoints: []string{external(t, etcd.TLS{})}})
			return c.Registry(0), c.KV()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, kv := c.open(t)
			testRegistry(t, r, kv)
		})
	}
}

// registration is a Register that runs.
type registration struct {
	stop context.CancelFunc
	done chan error
}

func register(t testing.TB, r cluster.Registry, n cluster.Node) registration {
	ctx, cancel := context.WithCancel(t.Context())
	reg := registration{cancel, make(chan error, 1)}
	go func() { reg.done <- r.Register(ctx, n) }()
	return reg
}

func testRegistry(t *testing.T, r cluster.Registry, kv meta.KV) {
	ctx, cancel := context.WithCancel(within(t, 20*time.Second))
	lists, watched := make(chan []cluster.Node), make(chan error, 1)
	go func() {
		for nodes, err := range r.Watch(ctx) {
			if err != nil {
				watched <- err
				return
			}
			select {
			case lists <- nodes:
			case <-ctx.Done():
			}
		}
	}()
	// want waits until the watch shows exactly these nodes.
	want := func(nodes ...cluster.Node) {
		t.Helper()
		var last []cluster.Node
		for {
			select {
			case last = <-lists:
				if slices.Equal(last, nodes) {
					return
				}
			case <-ctx.Done():
				t.Fatalf("got %+v, want %+v", last, nodes)
			}
		}
	}
	want()
	w1 := cluster.Node{Name: "w1", Role: cluster.Worker, Addr: "w1:1", Version: "1", Host: "h", Zone: "z", Capacity: 5, Incarnation: "a"}
	w2 := cluster.Node{Name: "w2", Role: cluster.Worker, Addr: "w2:1", Incarnation: "a"}
	gw := cluster.Node{Name: "w1", Role: cluster.Gateway, Incarnation: "a"}
	first, second := register(t, r, w1), register(t, r, w2)
	want(w1, w2)
	third := register(t, r, gw)
	want(gw, w1, w2)
	if got, err := r.Nodes(ctx); err != nil || !slices.Equal(got, []cluster.Node{gw, w1, w2}) {
		t.Errorf("Nodes: got %+v, %v", got, err)
	}

	second.stop()
	if err := <-second.done; !errors.Is(err, context.Canceled) {
		t.Errorf("Register ended with %v, want Canceled", err)
	}
	want(gw, w1)

	again := w1
	again.Incarnation, again.Addr = "b", "w1:2"
	restarted := register(t, r, again)
	if err := <-first.done; !errors.Is(err, errs.Conflict) {
		t.Errorf("the earlier start of w1: got %v, want Conflict", err)
	}
	want(gw, again)

	// A node that is lost comes back by itself.
	if n, err := kv.DeleteRange(ctx, "n/", "n0"); err != nil || n != 2 {
		t.Fatalf("deleted %d nodes, %v", n, err)
	}
	want(gw, again)
	put(t, kv, "n/worker/damaged", "{")
	restarted.stop()
	want(gw)

	// A node that goes on to be listed by another member is not off the list meanwhile.
	w3 := cluster.Node{Name: "w3", Role: cluster.Worker, Addr: "w3:1", Incarnation: "a"}
	moving, move := context.WithCancelCause(t.Context())
	moved := make(chan error, 1)
	go func() { moved <- r.Register(moving, w3) }()
	want(gw, w3)
	move(cluster.ErrMoved)
	if err := <-moved; !errors.Is(err, context.Canceled) {
		t.Errorf("Register ended with %v, want Canceled", err)
	}
	if got, err := r.Nodes(ctx); err != nil || !slices.Equal(got, []cluster.Node{gw, w3}) {
		t.Errorf("Nodes: got %+v, %v", got, err)
	}
	there := register(t, r, w3)
	w4 := cluster.Node{Name: "w4", Role: cluster.Worker, Addr: "w4:1", Incarnation: "a"}
	last := register(t, r, w4)
	want(gw, w3, w4)
	last.stop()
	want(gw, w3)
	there.stop()
	want(gw)

	for _, n := range []cluster.Node{{Role: cluster.Worker, Incarnation: "a"}, {Name: "a/b", Role: cluster.Worker, Incarnation: "a"}, {Name: "a", Role: cluster.Worker}} {
		if err := r.Register(ctx, n); !errors.Is(err, errs.Invalid) {
			t.Errorf("Register(%+v): got %v, want Invalid", n, err)
		}
	}
	third.stop()
	<-third.done
	<-restarted.done
	<-last.done
	<-there.done
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch ended with %v", err)
	}
}

// FuzzDecodeStored requires that what is stored decodes to something with a name, or is refused as damaged.
func FuzzDecodeStored(f *testing.F) {
	for _, seed := range []string{`{"name":"a","role":"worker","addr":"a:1"}`, `{"Name":"a","Addr":"a:1"}`, `{}`, `{`, `null`, `[]`, ``, `{"name":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		if m, err := etcd.DecodeMember("test", value); (m.Name == "") != errors.Is(err, errs.Corrupt) {
			t.Errorf("member: got %+v, %v", m, err)
		}
		if n, err := etcd.DecodeNode(value); (n.Name == "" || n.Role == "") != errors.Is(err, errs.Corrupt) {
			t.Errorf("node: got %+v, %v", n, err)
		}
	})
}
