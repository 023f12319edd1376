package gateway

import (
	"context"
	"net/http"
	"slices"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/etcd"
	"github.com/sluicefs/sluice/gateway/admin"
)

// What an operator asks of the cluster as a whole is answered by the leading master; every other process hands it on.

// adminOptions returns the options of an admin API over tree.
func (g *gateway) adminOptions(tree remote.Tree) admin.Options {
	o := admin.Options{
		Namespace: tree, Locator: tree, Mounts: tree, Authenticator: g.users, Defaults: g.cfg, Version: g.o.Version,
		Logger: g.log, Observe: g.metrics.Requests("admin"),
	}
	o.Care, _ = tree.(core.Care)
	o.Snapshot = g.snapshot()
	if g.masters != nil {
		o.Forward = g.masters.Tunnel("")
	} else {
		o.Nodes = &roster{g.alone, func() (*meta.Log, string, error) { return g.ns.Log(), g.node(cluster.Master).Name, nil }, g.heldAt}
		o.Masters = only{g}
		o.Jobs, o.Caches, o.Persister = g.work.runner, g.work.cache, g.work.persister
		o.Rules, o.Explainer, o.Syncer, o.Life, o.Feeds, o.Buckets = g.ns, g.ns, g.ns, g.ns, g.ns, g.ns
	}
	return o
}

// admin returns what answers the requests that other processes hand on to this master while it leads with r.
func (m *master) admin(r *reign) http.Handler {
	o := m.g.adminOptions(r.ns)
	o.Forward, o.Masters = nil, m
	o.Jobs, o.Caches, o.Persister = r.work.runner, r.work.cache, r.work.persister
	o.Rules, o.Explainer, o.Syncer, o.Life, o.Feeds, o.Buckets = r.ns, r.ns, r.ns, r.ns, r.ns, r.ns
	o.Nodes = &roster{m.members, func() (*meta.Log, string, error) {
		r := m.turn.now()
		if r == nil {
			return nil, "", errs.New("gateway.Drain", "", errs.Unavailable, "this master leads no more; try again")
		}
		return r.log, m.g.cfg.Name, nil
	}, m.g.heldAt}
	return guarded(admin.New(o).Trusted(), admin.Panicked, m.g.log, new(busy))
}

// Masters implements admin.Masters.
func (m *master) Masters(ctx context.Context) ([]admin.Master, error) {
	if m.g.etcd == nil {
		return nil, errExternal("Masters")
	}
	members, err := m.g.etcd.Members(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]admin.Master, len(members))
	for i, e := range members {
		all[i] = admin.Master{Name: e.Name, Address: e.Addr, Peer: e.Peer, ID: e.ID, State: stateOf(e)}
	}
	return all, nil
}

// AddMaster implements admin.Masters.
func (m *master) AddMaster(ctx context.Context, peer string) error {
	if m.g.etcd == nil {
		return errExternal("AddMaster")
	}
	return m.g.etcd.AddLearner(ctx, peer)
}

// ChangeMasters implements admin.Masters.
func (m *master) ChangeMasters(ctx context.Context, promote, remove []string) error {
	if m.g.etcd == nil {
		return errExternal("ChangeMasters")
	}
	if slices.Contains(remove, m.g.cfg.Name) {
		return errs.New("gateway.ChangeMasters", m.g.cfg.Name, errs.Precondition, "it leads; have another lead first, with `sluice master handover`")
	}
	return m.g.etcd.Change(ctx, etcd.Change{Promote: promote, Remove: remove})
}

func stateOf(e etcd.MemberInfo) string {
	switch {
	case e.Leader:
		return "leader"
	case e.Name == "":
		return "unstarted"
	case e.Learner:
		return "learner"
	}
	return "standby"
}

// errExternal is the error of what only those can do who run the etcd cluster.
func errExternal(op string) error {
	return errs.New("gateway."+op, "", errs.Unsupported, "the journal is in an etcd cluster that somebody else runs; use its own tools, such as etcdctl")
}
