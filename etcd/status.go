package etcd

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluicefs/sluice/core/errs"
)

// Status is how one member of a store is.
type Status struct {
	Endpoint  string // the member's, of a Client; "" of a Server
	Version   string // etcd's
	ClusterID string // hexadecimal; a restored store has another one than the store it was saved from
	MemberID  string // hexadecimal
	LeaderID  string // hexadecimal; "0" if nobody leads as far as the member knows
	Learner   bool   // the member does not vote

	DBSize  int64 // bytes of the database file, which the quota counts
	DBInUse int64 // bytes of it that hold something; the rest is given back by Defrag
	Quota   int64 // bytes

	Term    uint64 // raft's
	Index   uint64 // raft's last committed entry, as far as the member knows
	Applied uint64 // the last entry the member has applied

	// Alarms hold up the whole store until they are disarmed: NOSPACE refuses every put, CORRUPT everything.
	Alarms []Alarm
	Errors []string // what the member says is wrong with it

	Backup BackupStatus // of a Server that makes backups
}

// Alarm is an alarm that a member has raised.
type Alarm struct {
	Name     string // NOSPACE or CORRUPT
	MemberID string // hexadecimal
}

// Status returns the state of this member. It answers without the others too. Errors: errs.Unavailable; ctx's.
func (s *Server) Status(ctx context.Context) (Status, error) {
	const op = "etcd.Status"
	if err := s.kv.usable(ctx, op, nil); err != nil {
		return Status{}, err
	}
	r, err := s.kv.client.Status(ctx, "")
	if err != nil {
		return Status{}, classify(ctx, op, "", err)
	}
	status := statusOf("", r, s.etcd.Server.Alarms())
	status.Backup = s.backups.status()
	return status, nil
}

// statusLimit is how long a member is given to tell its state.
const statusLimit = 2 * time.Second

// Status returns the state of every member that was named as an endpoint; of one that does not answer, only the endpoint and
// what went wrong. Errors: errs.Unavailable if the cluster does not answer; errs.Permission; ctx's.
func (c *Client) Status(ctx context.Context) ([]Status, error) {
	const op = "etcd.Status"
	if err := c.kv.usable(ctx, op, nil); err != nil {
		return nil, err
	}
	request, cancel := c.kv.bounded(ctx)
	defer cancel()
	alarms, err := c.client.AlarmList(request)
	if err != nil {
		return nil, classify(ctx, op, "", err)
	}
	endpoints := c.client.Endpoints()
	all := make([]Status, len(endpoints))
	var asked sync.WaitGroup
	for i, endpoint := range endpoints {
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(request, statusLimit)
			defer cancel()
			if r, err := c.client.Status(ctx, endpoint); err != nil {
				all[i] = Status{Endpoint: endpoint, Errors: []string{"it does not answer: " + err.Error()}}
			} else {
				all[i] = statusOf(endpoint, r, alarms.Alarms)
			}
		})
	}
	asked.Wait()
	return all, ctx.Err()
}

func statusOf(endpoint string, r *clientv3.StatusResponse, alarms []*pb.AlarmMember) Status {
	s := Status{
		Endpoint: endpoint, Version: r.Version,
		ClusterID: hex(r.Header.ClusterId), MemberID: hex(r.Header.MemberId), LeaderID: hex(r.Leader), Learner: r.IsLearner,
		DBSize: r.DbSize, DBInUse: r.DbSizeInUse, Quota: r.DbSizeQuota,
		Term: r.RaftTerm, Index: r.RaftIndex, Applied: r.RaftAppliedIndex, Errors: r.Errors,
	}
	for _, a := range alarms {
		s.Alarms = append(s.Alarms, Alarm{Name: a.Alarm.String(), MemberID: hex(a.MemberID)})
	}
	return s
}

func hex(id uint64) string { return fmt.Sprintf("%x", id) }

/*
When the database file reaches the quota, etcd raises the alarm NOSPACE: puts are refused with errs.NoSpace, reads and deletes
go on. The cure: delete what is not needed, Compact, Defrag on every member, Disarm.
*/

// Defrag rewrites the database of this member without its unused pages, at some 100 MB/s, during which the member answers
// nothing: with several members, the leader hands over first, and one member is done at a time. Errors: errs.NoSpace if the
// disk has no room for a second database; errs.Unavailable.
func (s *Server) Defrag(ctx context.Context) error {
	const op = "etcd.Defrag"
	status, err := s.Status(ctx)
	if err != nil {
		return err
	}
	if err := s.kv.space.room(op, status.DBInUse); err != nil {
		return err
	}
	began := time.Now()
	if err := s.etcd.Server.Defragment(); err != nil {
		return errs.E(op, "", errs.Unavailable, err)
	}
	if after, err := s.Status(ctx); err == nil {
		s.o.Logger.Info("database defragmented", "before", status.DBSize, "after", after.DBSize, "took", time.Since(began))
	}
	return nil
}

// Defrag rewrites the databases of the members that were named as endpoints, one after the other, the leader last. A member
// answers nothing meanwhile. Errors: errs.Unavailable; errs.Permission; ctx's.
func (c *Client) Defrag(ctx context.Context) error {
	all, err := c.Status(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.MemberID == "" {
			return errs.New("etcd.Defrag", s.Endpoint, errs.Unavailable, "the member does not answer; its database can not be defragmented")
		}
	}
	for _, leader := range []bool{false, true} {
		for _, s := range all {
			if (s.MemberID == s.LeaderID) != leader {
				continue
			}
			if _, err := c.client.Defragment(ctx, s.Endpoint); err != nil {
				return classify(ctx, "etcd.Defrag", s.Endpoint, err)
			}
		}
	}
	return nil
}

// Disarm ends the alarm NOSPACE. An alarm CORRUPT stays. Errors: errs.NoSpace if the database of this member is still as large
// as the quota; errs.Unavailable; ctx's.
func (s *Server) Disarm(ctx context.Context) error {
	status, err := s.Status(ctx)
	if err != nil {
		return err
	}
	return disarm(ctx, s.kv.client, status)
}

// Disarm is like Server.Disarm, for all members that were named as endpoints.
func (c *Client) Disarm(ctx context.Context) error {
	all, err := c.Status(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := c.kv.bounded(ctx)
	defer cancel()
	return disarm(ctx, c.client, all...)
}

func disarm(ctx context.Context, client *clientv3.Client, all ...Status) error {
	const op = "etcd.Disarm"
	for _, s := range all {
		if s.Quota > 0 && s.DBSize >= s.Quota {
			return errs.New(op, s.Endpoint, errs.NoSpace, fmt.Sprintf("the database has %d bytes, of which %d are in use, and the quota is %d; "+
				"delete, compact and defragment first", s.DBSize, s.DBInUse, s.Quota))
		}
	}
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		return classify(ctx, op, "", err)
	}
	for _, a := range alarms.Alarms {
		if a.Alarm != pb.AlarmType_NOSPACE {
			continue
		}
		if _, err := client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return classify(ctx, op, "", err)
		}
	}
	return nil
}
