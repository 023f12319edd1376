package etcd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
)

// pollEvery is how often raft is asked who leads: it tells of a new leader, and not of the loss of one.
const pollEvery = 5 * time.Millisecond

// raftElection is the cluster.Election that follows raft. run must be running.
type raftElection struct {
	server *etcdserver.EtcdServer
	self   types.ID
	// alone: no other member can be, so that leadership once won is only lost with the server.
	alone bool
	// patience is how long a member is given to take over; after it raft gives up the attempt.
	patience time.Duration

	mu      sync.Mutex
	lead    types.ID // 0: nobody
	reign   *cluster.Reign
	end     context.CancelCauseFunc // of reign
	closed  bool
	changed chan struct{} // closed and replaced when any of these changes
}

func newRaftElection(server *etcdserver.EtcdServer, o ServerOptions) *raftElection {
	return &raftElection{
		server: server, self: server.MemberID(), alone: !o.clustered(),
		patience: time.Duration(o.ElectionMs) * time.Millisecond, changed: make(chan struct{}),
	}
}

// run follows raft until ctx or the server ends.
func (e *raftElection) run(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	polls := tick.C
	defer e.stop(context.WithoutCancel(ctx))
	for notified := false; ; {
		news := e.server.LeaderChangedNotify()
		if e.look(ctx, e.server.Leader(), notified) && e.alone {
			polls = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-e.server.StoppingNotify():
			return
		case <-news:
			notified = true
		case <-polls:
			notified = false
		}
	}
}

// look takes in that lead is who leads, and whether raft has told of a new leader since the last look. It reports whether this
// member reigns.
//
// A reign begins at the second look that finds this member leading with no news between: raft tells of a new leader after it
// has one, and what it tells late of this reign's beginning would be taken for the reign's end.
func (e *raftElection) look(ctx context.Context, lead types.ID, notified bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, reigned := e.lead, e.reign != nil
	if e.reign != nil && (notified || lead != e.self) {
		e.end(fmt.Errorf("raft is led by %s", e.name(lead)))
		e.reign = nil
	}
	if e.reign == nil && !notified && lead == e.self && before == lead {
		e.reign, e.end = cluster.NewReign(ctx)
	}
	e.lead = lead
	if before != lead || reigned != (e.reign != nil) || notified {
		e.announce()
	}
	return e.reign != nil
}

// announce wakes who waits for a change. mu must be held.
func (e *raftElection) announce() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// stop ends the election on this member, and hands over what it leads, so that the others need not find out that it is gone.
func (e *raftElection) stop(ctx context.Context) {
	e.mu.Lock()
	if e.reign != nil {
		e.end(cluster.ErrClosed)
	}
	e.reign, e.lead, e.closed = nil, 0, true
	e.announce()
	e.mu.Unlock()
	for _, m := range e.candidates("") {
		if e.server.Leader() != e.self || e.move(ctx, m) == nil {
			return
		}
	}
}

// Campaign implements cluster.Election.
func (e *raftElection) Campaign(ctx context.Context) (*cluster.Reign, error) {
	for {
		e.mu.Lock()
		reign, closed, changed := e.reign, e.closed, e.changed
		e.mu.Unlock()
		switch {
		case closed:
			return nil, errs.New("etcd.Campaign", "", errs.Unavailable, "the metadata store is closed")
		case reign != nil:
			return reign, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// Leader implements cluster.Election.
func (e *raftElection) Leader(context.Context) (cluster.Member, error) {
	e.mu.Lock()
	lead, closed := e.lead, e.closed
	e.mu.Unlock()
	switch {
	case closed:
		return cluster.Member{}, errs.New("etcd.Leader", "", errs.Unavailable, "the metadata store is closed")
	case lead == 0:
		return cluster.Member{}, errs.New("etcd.Leader", "", errs.NotExist, "the members have no leader now")
	}
	return e.member(lead), nil
}

// Observe implements cluster.Election.
func (e *raftElection) Observe(ctx context.Context) iter.Seq2[cluster.Member, error] {
	return func(yield func(cluster.Member, error) bool) {
		for first, last := true, (cluster.Member{}); ; {
			e.mu.Lock()
			lead, closed, changed := e.lead, e.closed, e.changed
			e.mu.Unlock()
			if closed {
				yield(cluster.Member{}, errs.New("etcd.Observe", "", errs.Unavailable, "the metadata store is closed"))
				return
			}
			if m := e.member(lead); first || m != last {
				first, last = false, m
				if !yield(m, nil) {
					return
				}
			}
			select {
			case <-ctx.Done():
				yield(cluster.Member{}, ctx.Err())
				return
			case <-changed:
			}
		}
	}
}

// Handover implements cluster.Election.
func (e *raftElection) Handover(ctx context.Context, to string) error {
	const op = "etcd.Handover"
	e.mu.Lock()
	reign := e.reign
	e.mu.Unlock()
	if reign == nil {
		return errs.New(op, to, errs.Precondition, "this member does not lead")
	}
	candidates := e.candidates(to)
	if len(candidates) == 0 {
		return errs.New(op, to, errs.NotExist, "no other member votes by this name")
	}
	var err error
	for _, m := range candidates {
		if err = e.move(ctx, m); err == nil || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return errs.E(op, to, errs.Unavailable, err)
	}
	select {
	case <-reign.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// move makes m lead, in the time that raft gives it.
func (e *raftElection) move(ctx context.Context, m *membership.Member) error {
	ctx, cancel := context.WithTimeout(ctx, e.patience)
	defer cancel()
	if err := e.server.MoveLeader(ctx, uint64(e.self), uint64(m.ID)); err != nil {
		return errors.Join(fmt.Errorf("%s did not take over", m.Name), err)
	}
	return nil
}

// candidates returns the other voters, only the one of the name to unless that is empty.
func (e *raftElection) candidates(to string) []*membership.Member {
	return slices.DeleteFunc(e.server.Cluster().Members(), func(m *membership.Member) bool {
		return m.IsLearner || m.ID == e.self || to != "" && m.Name != to
	})
}

// member returns the member of a raft identity, the zero Member for 0.
func (e *raftElection) member(id types.ID) cluster.Member {
	m := e.server.Cluster().Member(id)
	if m == nil {
		return cluster.Member{}
	}
	return cluster.Member{Name: m.Name, Addr: address(m)}
}

func (e *raftElection) name(id types.ID) string {
	if m := e.member(id); m.Name != "" {
		return m.Name
	}
	return "nobody"
}

// address returns the address of a member's process, "" if it gave none.
func address(m *membership.Member) string {
	for _, u := range m.ClientURLs {
		if addr, ok := strings.CutPrefix(u, "http://"); ok {
			return addr
		}
	}
	return ""
}
