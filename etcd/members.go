package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"

	"github.com/sluicefs/sluice/core/errs"
)

/*
How the members of a cluster change. A new member first learns: it is sent everything and has no vote, so that it can hold up
nothing. When it has caught up it is promoted, and in the same Change who it replaces is removed. At rest 1, 3 or 5 members
vote. During a Change there is one more or one less for some milliseconds; a Change that was cut off is called again.
*/

// MemberInfo is a member as the cluster knows it.
type MemberInfo struct {
	ID      string // etcd's, hexadecimal
	Name    string // "" until it has started for the first time
	Peer    string // the URL on which the others dial it
	Addr    string // of its process, as ServerOptions.Addr says
	Learner bool   // it is sent everything and does not vote
	Leader  bool   // as far as this member knows
}

// Members returns the members of the cluster, by name, as most of them agreed last. Errors: errs.Unavailable; ctx's.
func (s *Server) Members(ctx context.Context) ([]MemberInfo, error) {
	all, err := s.members(ctx, "etcd.Members")
	if err != nil {
		return nil, err
	}
	infos := make([]MemberInfo, 0, len(all))
	for _, m := range all {
		infos = append(infos, MemberInfo{
			ID: m.ID.String(), Name: m.Name, Peer: strings.Join(m.PeerURLs, ","), Addr: address(m),
			Learner: m.IsLearner, Leader: m.ID == s.etcd.Server.Leader(),
		})
	}
	return infos, nil
}

func (s *Server) members(ctx context.Context, op string) ([]*membership.Member, error) {
	if err := s.kv.usable(ctx, op, nil); err != nil {
		return nil, err
	}
	all, err := s.etcd.Server.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	if err != nil {
		return nil, classify(ctx, op, "", err)
	}
	slices.SortFunc(all, func(a, b *membership.Member) int {
		if a.Name != b.Name {
			return strings.Compare(a.Name, b.Name)
		}
		return strings.Compare(a.ID.String(), b.ID.String())
	})
	return all, nil
}

// OnlyVoter reports whether this member alone votes, by the last configuration it has applied. Nobody else can lead then.
func (s *Server) OnlyVoter() bool {
	only := false
	for _, m := range s.etcd.Server.Cluster().Members() {
		if m.IsLearner {
			continue
		}
		if m.ID != s.etcd.Server.MemberID() {
			return false
		}
		only = true
	}
	return only
}

// AddLearner tells the cluster of a new member, which others will dial at the URL peer. It may then be started with the
// members in Join and with Existing. Errors: errs.Exist if there is a member at peer; errs.Busy while there are as many learners
// as may be; errs.Invalid; errs.Unavailable, in the first 5 seconds of a member too, in which it does not trust its connections.
func (s *Server) AddLearner(ctx context.Context, peer string) error {
	const op = "etcd.AddLearner"
	if !s.o.clustered() {
		return errs.New(op, peer, errs.Invalid, "this member hears no others: it was started without InternalListen")
	}
	if _, err := s.o.peerURL(op, peer); err != nil {
		return err
	}
	if err := s.kv.usable(ctx, op, nil); err != nil {
		return err
	}
	_, err := s.kv.client.MemberAddAsLearner(ctx, []string{peer})
	if err != nil {
		return classify(ctx, op, peer, err)
	}
	return nil
}

// Change is a change of who votes. Members are named by their names; one that never started, by the URL given to AddLearner.
type Change struct {
	Promote []string // learners that become voters
	Remove  []string // members that leave for ever; their data directories are of no more use
}

// Change makes the change c, waiting for learners to catch up. What of it has been done before is passed over, so that a Change
// that failed in the middle can be called again. It is for a voter that stays.
//
// Errors: errs.Invalid unless 1, 3 or 5 voters are left, or if this member is to go; errs.NotExist for a name in Promote that no
// member has; errs.Precondition if so few of the members answer that the change could leave the cluster without a majority;
// errs.Unavailable; ctx's.
func (s *Server) Change(ctx context.Context, c Change) error {
	const op = "etcd.Change"
	if !s.o.clustered() {
		return errs.New(op, "", errs.Invalid, "this member hears no others: it was started without InternalListen")
	}
	all, err := s.members(ctx, op)
	if err != nil {
		return err
	}
	promote, remove, err := s.plan(op, all, c)
	if err != nil {
		return err
	}
	if err := s.checkQuorums(ctx, op, all, promote, remove); err != nil {
		return err
	}
	for i := range max(len(promote), len(remove)) {
		if i < len(promote) {
			if err := s.promote(ctx, op, promote[i]); err != nil {
				return err
			}
		}
		if i < len(remove) {
			if _, err := s.kv.client.MemberRemove(ctx, uint64(remove[i].ID)); err != nil {
				return classify(ctx, op, remove[i].Name, err)
			}
		}
	}
	return nil
}

// plan returns the members that are yet to be promoted and removed.
func (s *Server) plan(op string, all []*membership.Member, c Change) (promote, remove []*membership.Member, err error) {
	for _, name := range c.Promote {
		i := slices.IndexFunc(all, func(m *membership.Member) bool { return called(m, name) })
		if i < 0 || slices.Contains(c.Remove, name) {
			return nil, nil, errs.New(op, name, errs.NotExist, "no member has this name that could vote")
		}
		if all[i].IsLearner {
			promote = append(promote, all[i])
		}
	}
	voters := len(promote)
	for _, m := range all {
		goes := slices.ContainsFunc(c.Remove, func(name string) bool { return called(m, name) })
		switch {
		case goes && m.ID == s.etcd.Server.MemberID():
			return nil, nil, errs.New(op, m.Name, errs.Invalid, "a member does not remove itself; ask another")
		case goes:
			remove = append(remove, m)
		case !m.IsLearner:
			voters++
		}
	}
	return promote, remove, checkVoters(op, voters)
}

// checkQuorums refuses changes after one of which fewer than a majority of the voters would answer: nothing could be changed
// any more, this change neither.
func (s *Server) checkQuorums(ctx context.Context, op string, all, promote, remove []*membership.Member) error {
	alive, err := s.alive(ctx, all)
	if err != nil {
		return errs.E(op, "", errs.Other, err)
	}
	voters := map[types.ID]bool{}
	for _, m := range all {
		if !m.IsLearner {
			voters[m.ID] = true
		}
	}
	check := func(m *membership.Member) error {
		answer := 0
		for id := range voters {
			if alive[id] {
				answer++
			}
		}
		if answer <= len(voters)/2 {
			return errs.New(op, m.Name, errs.Precondition,
				fmt.Sprintf("only %d of %d voters would answer after this member's change; start the others first", answer, len(voters)))
		}
		return nil
	}
	for i := range max(len(promote), len(remove)) {
		if i < len(promote) {
			voters[promote[i].ID] = true
			if !alive[promote[i].ID] {
				return errs.New(op, promote[i].Name, errs.Precondition, "the learner does not answer; start it first")
			}
			if err := check(promote[i]); err != nil {
				return err
			}
		}
		if i < len(remove) {
			delete(voters, remove[i].ID)
			if err := check(remove[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// probeLimit is how long a member may take to answer before it counts as dead.
const probeLimit = time.Second

// alive returns which of the members answer this one.
func (s *Server) alive(ctx context.Context, all []*membership.Member) (map[types.ID]bool, error) {
	c := s.etcd.Config()
	transport := &http.Transport{DisableKeepAlives: true}
	if s.o.TLS.enabled() {
		var err error
		if transport.TLSClientConfig, err = c.PeerTLSInfo.ClientConfig(); err != nil {
			return nil, err
		}
	}
	client := &http.Client{Transport: transport, Timeout: probeLimit}
	answers := make([]bool, len(all))
	var probes sync.WaitGroup
	for i, m := range all {
		probes.Go(func() {
			answers[i] = m.ID == s.etcd.Server.MemberID() || slices.ContainsFunc(m.PeerURLs, probe(ctx, client))
		})
	}
	probes.Wait()
	alive := map[types.ID]bool{}
	for i, m := range all {
		alive[m.ID] = answers[i]
	}
	return alive, nil
}

// probe returns a function that reports whether an etcd member answers at a peer URL.
func probe(ctx context.Context, client *http.Client) func(peer string) bool {
	return func(peer string) bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, peer+"/version", nil)
		if err != nil {
			return false
		}
		response, err := client.Do(request)
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	}
}

// called reports whether m is known as name.
func called(m *membership.Member, name string) bool {
	return name != "" && (m.Name == name || m.Name == "" && slices.Contains(m.PeerURLs, name))
}

// catchUpEvery is how often a learner is looked at that has yet to catch up.
const catchUpEvery = 100 * time.Millisecond

// promote makes the learner m a voter as soon as it has caught up.
func (s *Server) promote(ctx context.Context, op string, m *membership.Member) error {
	tick := time.NewTicker(catchUpEvery)
	defer tick.Stop()
	for {
		_, err := s.kv.client.MemberPromote(ctx, uint64(m.ID))
		if err == nil {
			return nil
		}
		if err = classify(ctx, op, m.Name, err); !errors.Is(err, errs.Busy) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// advertise tells the cluster where this member is dialled, if that has changed since it was made: a single member that is to
// have others was known by a socket that they cannot reach.
func (s *Server) advertise(ctx context.Context) error {
	if !s.o.clustered() {
		return nil
	}
	own := s.etcd.Server.Cluster().Member(s.etcd.Server.MemberID())
	if own == nil || slices.Equal(own.PeerURLs, []string{s.o.peer()}) {
		return nil
	}
	_, err := s.kv.client.MemberUpdate(ctx, uint64(own.ID), []string{s.o.peer()})
	if err != nil {
		return classify(ctx, "etcd.Start", s.o.peer(), err)
	}
	return nil
}
