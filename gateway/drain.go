package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/gateway/admin"
)

/*
A node that is drained is to be stopped soon, and is given nothing new: a gateway says at /readyz that it is not ready and
serves what comes all the same, a worker owns no blocks and holds nothing more of what no store has yet, a master hands its leadership over and takes none while another can
lead. That it is drained is a key of the journal's configuration, so that it outlives restarts, of the node and of the
leader, until it is undone.
*/

// drainPrefix starts the key sys/drain/<role>/<name> of every node that is drained, whose value says since when, and by whom.
const drainPrefix = "sys/drain/"

// nodeName is what tells nodes apart.
type nodeName struct {
	role cluster.Role
	name string
}

func (n nodeName) key() string { return drainPrefix + string(n.role) + "/" + n.name }

// drainNote is the value of a key, for people.
type drainNote struct {
	Since time.Time `json:"since"`
	By    string    `json:"by"`
}

// publish changes what is known with f and makes a new roll of it.
func (m *members) publish(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	all := slices.Clone(m.live)
	for i := range all {
		all[i].Draining = m.drained[nodeName{all[i].Role, all[i].Name}]
	}
	m.state++
	m.now.Store(&roll{all, m.state})
	if m.onChange != nil {
		m.onChange()
	}
}

// isDrained reports whether the node is to be given nothing new.
func (m *members) isDrained(n nodeName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drained[n]
}

// watchDrained keeps who is drained until ctx ends.
func (m *members) watchDrained(ctx context.Context) {
	for ctx.Err() == nil {
		if rev, err := m.readDrained(ctx); err == nil {
			for _, err := range m.kv.Watch(ctx, drainPrefix, meta.PrefixEnd(drainPrefix), rev+1) {
				if err != nil {
					break
				}
				if _, err := m.readDrained(ctx); err != nil {
					break
				}
			}
		}
		select {
		case <-time.After(watchPause):
		case <-ctx.Done():
		}
	}
}

// readDrained reads who is drained, and returns the revision as of which.
func (m *members) readDrained(ctx context.Context) (rev int64, err error) {
	drained := map[nodeName]bool{}
	for from := drainPrefix; ; {
		page, err := m.kv.Scan(ctx, from, meta.PrefixEnd(drainPrefix), 500)
		if err != nil {
			return 0, err
		}
		if rev == 0 {
			rev = page.Revision
		}
		for _, kv := range page.KVs {
			if role, name, ok := strings.Cut(strings.TrimPrefix(kv.Key, drainPrefix), "/"); ok {
				drained[nodeName{cluster.Role(role), name}] = true
			}
			from = kv.Key + "\x00"
		}
		if !page.More {
			break
		}
	}
	m.publish(func() { m.drained = drained })
	return rev, nil
}

// roster is what the leader knows of the nodes: it implements admin.Nodes. journal returns the leader's journal and its name.
type roster struct {
	members *members
	journal func() (*meta.Log, string, error)
	// held says how many files a worker holds, nil if it does not say, and why they do not go elsewhere.
	held func(ctx context.Context, worker string) (files *int64, why string)
}

// Nodes implements admin.Nodes.
func (r *roster) Nodes(ctx context.Context) ([]admin.Node, error) {
	_, leader, err := r.journal()
	if err != nil {
		return nil, err
	}
	nodes, _ := r.members.Nodes()
	all := make([]admin.Node, len(nodes))
	for i, n := range nodes {
		all[i] = admin.Node{
			Name: n.Name, Role: string(n.Role), Address: n.Addr, Leader: n.Role == cluster.Master && n.Name == leader, Since: n.Since,
			Version: n.Version, Host: n.Host, Zone: n.Zone, Domain: n.Domain, Capacity: n.Capacity, Pages: n.Pages, Draining: n.Draining,
		}
	}
	var asked sync.WaitGroup
	for i, n := range all {
		if n.Draining && n.Role == string(cluster.Worker) {
			asked.Go(func() { all[i].Held, all[i].Waits = r.held(ctx, n.Name) })
		}
	}
	asked.Wait()
	return all, nil
}

// Drain implements admin.Nodes.
func (r *roster) Drain(ctx context.Context, name, role string, undo bool) ([]admin.Node, error) {
	const op = "gateway.Drain"
	log, _, err := r.journal()
	if err != nil {
		return nil, err
	}
	all, err := r.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	note, err := json.Marshal(drainNote{time.Now().UTC(), core.PrincipalOf(ctx).User})
	if err != nil {
		return nil, errs.E(op, name, errs.Invalid, err)
	}
	var b meta.Batch
	var changed []admin.Node
	found := map[nodeName]bool{}
	for _, n := range all {
		if n.Name != name || role != "" && n.Role != role {
			continue
		}
		n.Draining = !undo
		id := nodeName{cluster.Role(n.Role), n.Name}
		changed, found[id] = append(changed, n), true
		if undo {
			b.Deletes = append(b.Deletes, id.key())
		} else {
			b.Puts = append(b.Puts, meta.KeyValue{Key: id.key(), Value: note})
		}
	}
	if undo { // of one that is not there as well: it may never come back
		kept, err := log.ListConfig(ctx, drainPrefix)
		if err != nil {
			return nil, err
		}
		for _, kv := range kept {
			r, n, _ := strings.Cut(strings.TrimPrefix(kv.Key, drainPrefix), "/")
			if id := (nodeName{cluster.Role(r), n}); n == name && (role == "" || role == r) && !found[id] {
				changed, b.Deletes = append(changed, admin.Node{Name: n, Role: r}), append(b.Deletes, kv.Key)
			}
		}
	}
	if len(changed) == 0 {
		return nil, errs.New(op, name, errs.NotExist, "no node that is there has this name; list the nodes")
	}
	if _, err := log.Append(ctx, b); err != nil {
		return nil, err
	}
	if _, err := r.members.readDrained(ctx); err != nil {
		return nil, err
	}
	for i, n := range changed {
		if changed[i].Held, changed[i].Waits = nil, ""; n.Draining && n.Role == string(cluster.Worker) {
			changed[i].Held, changed[i].Waits = r.held(ctx, n.Name)
		}
	}
	return changed, nil
}

// joinNobody makes a process that is complete of its own know itself.
func (g *gateway) joinNobody(ctx context.Context) error {
	self := g.node(cluster.Master)
	nodes := append(g.describe(), self)
	slices.SortFunc(nodes, func(a, b cluster.Node) int { return cmp.Compare(a.Role, b.Role) })
	g.alone = &members{kv: g.kv, log: g.log, live: nodes}
	_, err := g.alone.readDrained(ctx)
	return err
}

// drainingGateway says why this process should be sent no requests, "" if it should.
func (g *gateway) drainingGateway() string {
	var nodes []cluster.Node
	if g.alone != nil {
		nodes, _ = g.alone.Nodes()
	} else {
		nodes = g.masters.Nodes()
	}
	name := g.node(cluster.Gateway).Name
	for _, n := range nodes {
		if n.Role == cluster.Gateway && n.Name == name && n.Draining {
			return "draining: the operator has asked for it (sluice node drain --undo ends it)"
		}
	}
	return ""
}

// draining reports whether this master should not lead.
func (m *master) draining() bool { return m.members.isDrained(nodeName{cluster.Master, m.g.cfg.Name}) }

// look wakes what waits for a change of who is drained.
func (m *master) look() { m.turn.set(func() {}) }

// drainEvery is how often a drained master that leads looks for another.
const drainEvery = 5 * time.Second

// giveUp hands over whenever this master leads and is drained, until ctx ends. If nobody takes over it leads on: a cluster
// with a leader that is to go is better than one without.
func (m *master) giveUp(ctx context.Context) {
	for ctx.Err() == nil {
		m.turn.mu.Lock()
		leads, changed := m.turn.leading != nil && m.turn.leaving == nil, m.turn.changed
		m.turn.mu.Unlock()
		var again <-chan time.Time
		if leads && m.draining() {
			if _, err := m.Handover(ctx, ""); err != nil {
				m.g.log.Warn("this master is drained and leads on, because nobody takes over", "err", err)
				again, changed = time.After(drainEvery), nil
			}
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
		}
	}
}

// passesOn has another master lead that raft has made this one's successor, if this one is drained. It reports whether one does.
func (m *master) passesOn(ctx context.Context) bool {
	if !m.draining() || m.g.etcd == nil {
		return false
	}
	next, err := m.successor(ctx, "")
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, handoverTime)
	defer cancel()
	return m.election.Handover(ctx, next.Name) == nil
}

// campaign waits until this master may claim the journal. In a cluster whose leader is not raft's, one that is drained stands
// back as long as another leads.
func (m *master) campaign(ctx context.Context) (*cluster.Reign, error) {
	for m.g.etcd == nil && m.draining() && ctx.Err() == nil {
		m.turn.mu.Lock()
		lead, changed := m.turn.lead, m.turn.changed
		m.turn.mu.Unlock()
		if (lead == cluster.Member{}) {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return m.election.Campaign(ctx)
}
