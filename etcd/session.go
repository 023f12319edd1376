package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/wait"
)

/*
The election on a cluster that somebody else runs. Every candidate has a lease; the keys of a group are

	e/<group>/c/<name>   a candidate, on its lease
	e/<group>/leader     the leader, on its lease: who finds the key missing may put it

So the leader's key goes with the leader's lease, and a handover is one transaction that puts the key for another candidate, on
that one's lease. concurrency.Election can not do that: there the next in line leads.
*/

// session is the cluster.Election on leases.
type session struct {
	client *clientv3.Client
	log    *slog.Logger
	prefix string // of the group's keys
	self   cluster.Member
	value  string // self, encoded
	ttl    time.Duration
	run    func(func(context.Context)) error // in the background of the client, until it is closed

	turn chan struct{} // holds a token while somebody campaigns

	mu    sync.Mutex
	reign *cluster.Reign
	end   context.CancelCauseFunc
	rev   int64 // at which the leader's key was put for the reign
}

func (s *session) leaderKey() string { return s.prefix + "leader" }

// Campaign implements cluster.Election.
func (s *session) Campaign(ctx context.Context) (*cluster.Reign, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case s.turn <- struct{}{}:
	}
	defer func() { <-s.turn }()
	for failed := false; ; {
		if r := s.current(); r != nil {
			return r, nil
		}
		err := s.attempt(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case s.client.Ctx().Err() != nil:
			return nil, errClosed
		case err != nil && !failed:
			failed = true
			s.log.Warn("the election waits", "error", err)
		}
		if err != nil {
			if err := wait.For(ctx, retryEvery); err != nil {
				return nil, err
			}
		}
	}
}

// current returns the reign that lasts, nil if there is none.
func (s *session) current() *cluster.Reign {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reign == nil || s.reign.Err() != nil {
		return nil
	}
	return s.reign
}

// attempt stands for election until this member leads.
func (s *session) attempt(ctx context.Context) error {
	l, err := grant(ctx, s.client, s.ttl)
	if err != nil {
		return classify(ctx, "etcd.Campaign", s.self.Name, err)
	}
	rev, err := s.stand(ctx, l)
	if err == nil {
		err = s.begin(ctx, l, rev)
	}
	if err != nil {
		l.release(ctx)
		return classify(ctx, "etcd.Campaign", s.self.Name, err)
	}
	return nil
}

// stand puts the candidate's key and returns the revision of the leader's key as soon as that is this member's.
func (s *session) stand(ctx context.Context, l *lease) (int64, error) {
	if _, err := s.client.Put(ctx, s.prefix+"c/"+s.self.Name, s.value, clientv3.WithLease(l.id)); err != nil {
		return 0, err
	}
	for {
		r, err := s.client.Get(ctx, s.leaderKey())
		switch {
		case err != nil:
			return 0, err
		case len(r.Kvs) == 0:
			won, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(s.leaderKey()), "=", 0)).
				Then(clientv3.OpPut(s.leaderKey(), s.value, clientv3.WithLease(l.id))).Commit()
			if err != nil {
				return 0, err
			}
			if won.Succeeded {
				return won.Header.Revision, nil
			}
		case clientv3.LeaseID(r.Kvs[0].Lease) == l.id: // handed over
			return r.Kvs[0].ModRevision, nil
		default:
			if err := s.changed(ctx, l, r.Header.Revision); err != nil {
				return 0, err
			}
		}
	}
}

// changed waits until the leader's key changes after the revision rev. It fails if l is lost before.
func (s *session) changed(ctx context.Context, l *lease, rev int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	select {
	case r, ok := <-s.client.Watch(ctx, s.leaderKey(), clientv3.WithRev(rev+1)):
		if !ok {
			return errors.New("the watch of the leader ended")
		}
		return r.Err()
	case <-l.lost:
		return errors.New("the lease was lost")
	}
}

// begin begins the reign that the leader's key of the revision rev on the lease l gives.
func (s *session) begin(ctx context.Context, l *lease, rev int64) error {
	reign, end := cluster.NewReign(context.WithoutCancel(ctx))
	s.mu.Lock()
	s.reign, s.end, s.rev = reign, end, rev
	s.mu.Unlock()
	err := s.run(func(ctx context.Context) { s.hold(ctx, reign, end, l, rev) })
	if err != nil {
		end(err)
	}
	return err
}

// hold ends the reign when it may be over, and then gives up the lease l.
func (s *session) hold(ctx context.Context, reign *cluster.Reign, end context.CancelCauseFunc, l *lease, rev int64) {
	watching, cancel := context.WithCancel(ctx)
	overtaken := make(chan error, 1)
	go func() { overtaken <- s.overtaken(watching, l, rev); close(overtaken) }()
	select {
	case <-ctx.Done():
		end(cluster.ErrClosed)
	case <-reign.Done():
	case <-l.lost:
		end(errors.New("the lease was lost"))
	case why := <-overtaken:
		if ctx.Err() != nil {
			why = cluster.ErrClosed
		}
		end(why)
	}
	cancel()
	for range overtaken { // until it has ended
	}
	l.release(ctx)
}

// overtaken returns when the leader's key, put at rev on the lease l, is another's or gone, or ctx has ended. A watch can end
// without an answer, when what it missed has been compacted: then the key itself tells.
func (s *session) overtaken(ctx context.Context, l *lease, rev int64) error {
	over := errors.New("the leader's key is another's or gone")
	for from := rev; ; {
		if s.sawChange(ctx, from) {
			return over
		}
		if err := wait.For(ctx, retryEvery); err != nil {
			return err
		}
		r, err := s.client.Get(ctx, s.leaderKey())
		switch {
		case err != nil: // the lease tells in time
		case len(r.Kvs) == 0 || clientv3.LeaseID(r.Kvs[0].Lease) != l.id:
			return over
		default:
			from = r.Header.Revision
		}
	}
}

// sawChange waits for a change of the leader's key after the revision from. It returns false if it can not go on.
func (s *session) sawChange(ctx context.Context, from int64) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for r := range s.client.Watch(ctx, s.leaderKey(), clientv3.WithRev(from+1)) {
		if len(r.Events) > 0 {
			return true
		}
		if r.Err() != nil {
			return false
		}
	}
	return false
}

// Leader implements cluster.Election.
func (s *session) Leader(ctx context.Context) (cluster.Member, error) {
	const op = "etcd.Leader"
	r, err := s.client.Get(ctx, s.leaderKey())
	if err != nil {
		return cluster.Member{}, classify(ctx, op, "", err)
	}
	if len(r.Kvs) == 0 {
		return cluster.Member{}, errs.New(op, "", errs.NotExist, "nobody leads now")
	}
	return decodeMember(op, r.Kvs[0].Value)
}

// decodeMember decodes a stored member. Errors: errs.Corrupt.
func decodeMember(op string, value []byte) (cluster.Member, error) {
	var m cluster.Member
	if err := json.Unmarshal(value, &m); err != nil {
		return cluster.Member{}, errs.E(op, "", errs.Corrupt, err)
	}
	if m.Name == "" {
		return cluster.Member{}, errs.New(op, "", errs.Corrupt, fmt.Sprintf("a stored member has no name: %q", value))
	}
	return m, nil
}

// Observe implements cluster.Election.
func (s *session) Observe(ctx context.Context) iter.Seq2[cluster.Member, error] {
	return func(yield func(cluster.Member, error) bool) {
		var last *cluster.Member
		err := follow(ctx, s.client, s.leaderKey(), "", func(found []entry) bool {
			var m cluster.Member
			if len(found) > 0 {
				var err error
				if m, err = decodeMember("etcd.Observe", found[0].value); err != nil {
					s.log.Warn("the leader is not known", "error", err)
				}
			}
			if last != nil && *last == m {
				return true
			}
			last = &m
			return yield(m, nil)
		})
		if err != nil {
			yield(cluster.Member{}, err)
		}
	}
}

// Handover implements cluster.Election. That the other takes over is up to it: it may have died since its last renewal.
func (s *session) Handover(ctx context.Context, to string) error {
	const op = "etcd.Handover"
	s.mu.Lock()
	reign, end, rev := s.reign, s.end, s.rev
	s.mu.Unlock()
	if reign == nil || reign.Err() != nil {
		return errs.New(op, to, errs.Precondition, "this member does not lead")
	}
	r, err := s.client.Get(ctx, s.prefix+"c/"+to, candidates(to)...)
	if err != nil {
		return classify(ctx, op, to, err)
	}
	for _, c := range r.Kvs {
		if string(c.Key) == s.prefix+"c/"+s.self.Name {
			continue
		}
		moved, err := s.client.Txn(ctx).If(
			clientv3.Compare(clientv3.ModRevision(s.leaderKey()), "=", rev),
			clientv3.Compare(clientv3.ModRevision(string(c.Key)), "=", c.ModRevision),
		).Then(clientv3.OpPut(s.leaderKey(), string(c.Value), clientv3.WithLease(clientv3.LeaseID(c.Lease)))).Commit()
		if err != nil {
			return classify(ctx, op, to, err)
		}
		if !moved.Succeeded {
			return errs.New(op, to, errs.Unavailable, "the leader or the candidate changed at the same moment")
		}
		end(fmt.Errorf("handed over to %s", c.Key))
		return nil
	}
	return errs.New(op, to, errs.NotExist, "no other candidate has this name")
}

// candidates returns the options of a Get of the candidate to, of all in the order of their candidature if to is empty.
func candidates(to string) []clientv3.OpOption {
	if to != "" {
		return nil
	}
	return []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend)}
}
