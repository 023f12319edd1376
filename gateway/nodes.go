package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/gateway/config"
)

// describe returns what this process is to the others, one node for each of its roles but a master's, which lists itself.
func (g *gateway) describe() (nodes []cluster.Node) {
	if g.cfg.Has(config.RoleGateway) {
		n := g.node(cluster.Gateway)
		for _, name := range []string{"s3", "s3 over TLS", "webhdfs", "webhdfs over TLS"} {
			if l := g.listener(name); l != nil && n.Addr == "" {
				n.Addr = l.Addr().String()
			}
		}
		nodes = append(nodes, n)
	}
	if g.cfg.Has(config.RoleWorker) {
		n := g.node(cluster.Worker)
		n.Addr, n.Pages = g.internalAddr(), g.pagesAddr()
		for _, t := range g.cache.Stats().Tiers {
			n.Capacity += t.Quota
		}
		if g.held != nil {
			n.Hold, n.Volatile = g.held.Stats().Quota, !g.held.Persistent()
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// pagesAddr is where gateways reach this process's page stream, on the host on which it is reached; "" if it has none.
func (g *gateway) pagesAddr() string {
	l := g.listener("pages")
	if l == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(g.internalAddr())
	_, port, perr := net.SplitHostPort(l.Addr().String())
	if err != nil || perr != nil {
		return l.Addr().String()
	}
	return net.JoinHostPort(host, port)
}

// node returns what all roles of this process have in common.
func (g *gateway) node(role cluster.Role) cluster.Node {
	return cluster.Node{
		Name: cmp.Or(g.cfg.Name, hostname()), Role: role, Version: g.o.Version, Host: hostname(), Zone: g.cfg.Zone,
		Domain:      cmp.Or(g.cfg.Domain, hostname()),
		Incarnation: g.incarnation, Since: g.started,
	}
}

// begin notes when this process was started.
func (g *gateway) begin(context.Context) error {
	g.started, g.incarnation = time.Now().UTC().Truncate(time.Second), rand.Text()
	return nil
}

// members implements remote.Members over the registry, as a master sees it, and over what the journal says of who is to be
// drained.
type members struct {
	registry cluster.Registry
	kv       meta.KV // of the journal
	log      *slog.Logger
	leads    func() bool // this master answers
	now      atomic.Pointer[roll]

	mu       sync.Mutex
	live     []cluster.Node
	drained  map[nodeName]bool
	state    uint64
	onChange func() // may be nil
}

// roll is the list of the processes that were alive at one time.
type roll struct {
	nodes []cluster.Node
	state uint64
}

// Join implements remote.Members. A process whose stream ends because another master leads is on its way there: were it taken off
// the list meanwhile, the cache would be placed for some moments as if it had none of its workers.
func (m *members) Join(ctx context.Context, n cluster.Node) {
	listed, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	defer context.AfterFunc(ctx, func() {
		if m.leads() {
			end(ctx.Err())
		} else {
			end(cluster.ErrMoved)
		}
	})()
	m.list(listed, n)
}

// list has n in the list until ctx ends.
func (m *members) list(ctx context.Context, n cluster.Node) {
	err := m.registry.Register(ctx, n)
	if ctx.Err() == nil && err != nil {
		level := slog.LevelDebug
		if errors.Is(err, errs.Conflict) {
			level = slog.LevelWarn // it is listed no more until its stream breaks
		}
		m.log.Log(ctx, level, "a process is listed no more", "name", n.Name, "role", n.Role, "err", err)
	}
}

// Nodes implements remote.Members.
func (m *members) Nodes() ([]cluster.Node, uint64) {
	if r := m.now.Load(); r != nil {
		return r.nodes, r.state
	}
	return nil, 0
}

// watch keeps the list until ctx ends.
func (m *members) watch(ctx context.Context) {
	for ctx.Err() == nil {
		for nodes, err := range m.registry.Watch(ctx) {
			if err != nil {
				break
			}
			m.publish(func() { m.live = nodes })
		}
		select {
		case <-time.After(watchPause):
		case <-ctx.Done():
		}
	}
}

// watchPause is the time between two attempts to see the registry.
const watchPause = time.Second

// joinCluster lists this master and watches who else is there, until the process stops.
func (g *gateway) joinCluster(ctx context.Context) error {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	self := g.node(cluster.Master)
	self.Addr = g.internalAddr()
	m := g.master.members
	var done sync.WaitGroup
	for _, run := range []func(){func() { m.list(life, self) }, func() { m.watch(life) }, func() { m.watchDrained(life) }} {
		done.Go(run)
	}
	g.onClose(func() error { stop(); done.Wait(); return nil })
	return nil
}
