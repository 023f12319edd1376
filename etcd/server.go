// Package etcd is meta.KV, cluster.Election and cluster.Registry on etcd. Server is an embedded member that lives in a data
// directory: alone, and then it listens on nothing but unix sockets there, or one of 3 or 5 that agree. Client is for a cluster
// that somebody else runs. It is the only package that knows etcd. What makes one writer safe against another is the fence of
// meta.Log, not this package. Its suite is core/meta/kvtest.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/dirlock"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/wait"
)

const (
	lockFile   = "LOCK"
	clientSock = "client.sock" // for etcdctl: --endpoints unix://<dir>/client.sock
	peerSock   = "peer.sock"

	// maxSocketPath is the longest path a socket can be bound to. Source: unix(7), sun_path with its closing zero.
	maxSocketPath = 107

	closeLimit = 15 * time.Second
	dirMode    = 0o700
	lockMode   = 0o600
)

// Server is an embedded etcd member.
type Server struct {
	o        ServerOptions
	etcd     *embed.Etcd
	kv       *kv
	election *raftElection
	backups  *backups
	lock     *os.File // of the data directory, held until the member is gone
	dir      *os.File // keeps the directory of the sockets' short paths

	cancel     context.CancelCauseFunc // ends what runs in the background
	background sync.WaitGroup
	stopping   atomic.Bool
	close      func() error
}

// Start starts the member of the data directory o.Dir and waits until it answers: with several members, until most of them
// run. A new directory becomes a new, empty store, or a new member of the cluster. Start's context bounds the start only.
//
// Errors: errs.Invalid for options that cannot be meant; errs.Busy if another process uses the directory or the address;
// errs.Corrupt if what is in the directory is damaged or incomplete, which nothing repairs; errs.Permission, errs.NoSpace by
// the file system; errs.Unavailable if the cluster to join does not answer; ctx's.
func Start(ctx context.Context, o ServerOptions) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, errs.E("etcd.Start", o.Dir, errs.Other, err)
	}
	s := &Server{o: o}
	if err := s.start(ctx, dir); err != nil {
		s.release()
		return nil, err
	}
	s.close = sync.OnceValue(s.stop)
	return s, nil
}

func (s *Server) start(ctx context.Context, dir string) (err error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	if err := os.Chmod(dir, dirMode); err != nil { // who can reach the sockets can change every name
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	if s.lock, err = dirlock.Take(dir, lockFile); err != nil {
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	warnVolatile(s.o.Logger, dir)
	s.o.warnOpen()
	if err := checkLog(dir, s.o.Existing); err != nil {
		return err
	}
	if s.dir, err = os.Open(dir); err != nil {
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	sockets := dir
	if len(filepath.Join(dir, clientSock)) > maxSocketPath {
		sockets = fmt.Sprintf("/proc/self/fd/%d", s.dir.Fd()) // the same directory by a short name
	}
	c, err := s.o.config(dir, sockets)
	if err != nil {
		return err
	}
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(s.o.Logger, &s.stopping))
	for until := time.Now().Add(joinLimit); ; {
		if s.etcd, err = startEtcd(c); err == nil {
			break
		}
		kind := s.startKind(err)
		// A member that has just begun to learn may be the one that is asked, and not know of this one yet.
		if kind != errs.Unavailable || time.Now().After(until) || wait.For(ctx, retryEvery) != nil {
			return errs.E("etcd.Start", dir, kind, err)
		}
	}
	err = s.ready(ctx, dir)
	// etcd syncs its files, and leaves the names of those it makes at its first start to chance.
	for _, d := range []string{dir, filepath.Join(dir, "member", "snap"), filepath.Join(dir, "member", "wal")} {
		if err == nil {
			err = syncDir(d)
		}
	}
	if err == nil {
		s.kv = newKV(v3client.New(s.etcd.Server), newSpace(dir))
		err = s.advertise(ctx)
	}
	if err != nil {
		s.stopping.Store(true)
		if s.kv != nil {
			s.kv.client.Close()
		}
		s.etcd.Close()
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	s.run(context.WithoutCancel(ctx))
	return nil
}

// joinLimit is how long a member that joins others asks them who they are, until they agree with what it was told.
const joinLimit = 5 * time.Second

// startKind returns the kind of an error of etcd's start.
func (s *Server) startKind(err error) errs.Kind {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return errs.Busy
	case s.o.Existing && errs.KindOf(err) == errs.Other: // it asks the other members who they are
		return errs.Unavailable
	}
	return errs.Other
}

// run starts what goes on as long as the server.
func (s *Server) run(ctx context.Context) {
	ctx, s.cancel = context.WithCancelCause(ctx)
	s.election = newRaftElection(s.etcd.Server, s.o)
	s.backups = &backups{o: s.o.Backup, server: s, log: s.o.Logger}
	s.background.Go(func() { s.election.run(ctx) })
	s.background.Go(func() { s.backups.run(ctx) })
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ready waits until the member answers.
func (s *Server) ready(ctx context.Context, dir string) error {
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case err := <-s.etcd.Err():
		return err
	case <-s.etcd.Server.StopNotify():
		return errs.New("etcd.Start", dir, errs.Unavailable, "the metadata store stopped while it started")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startEtcd is embed.StartEtcd, whose fatal log entries and panics it returns as errs.Corrupt: etcd ends the process for
// what it finds wrong with its files.
func startEtcd(c *embed.Config) (e *embed.Etcd, err error) {
	defer func() {
		if why := recover(); why != nil {
			e, err = nil, errs.New("etcd.Start", c.Dir, errs.Corrupt, fmt.Sprint(why))
		}
	}()
	return embed.StartEtcd(c)
}

// KV returns the member's store. Its Close ends the KV, not the member; the member's Close ends both.
func (s *Server) KV() meta.KV { return s.kv }

// ClusterID returns the identity of the cluster, hexadecimal. A restored store has another one than the store it was saved
// from.
func (s *Server) ClusterID() string { return hex(uint64(s.etcd.Server.Cluster().ID())) }

// Election returns the election among the members, which whoever leads the raft group wins: so leadership moves as fast as
// raft moves it, and a leader can always write. A lease would not: etcd re-arms every lease when its own leader dies. A leader
// that is cut off knows after at most two election timeouts, one later than another may lead: until then it can write nothing,
// and what it may still answer is for the read lease to say.
func (s *Server) Election() cluster.Election { return s.election }

// Registry returns the list of the live processes. A node is gone ttl after it was last heard of; 0: 10 s, not less than 2. The
// list outlives the death of a member; then every lease counts anew.
func (s *Server) Registry(ttl time.Duration) cluster.Registry {
	return newRegistry(s.kv.client, s.o.Logger, ttl)
}

// Close stops the member, which hands over what it leads if another can take it, and waits until its files are closed, for 15
// seconds at most. It is idempotent.
func (s *Server) Close() error { return s.close() }

func (s *Server) stop() error {
	s.kv.Close()
	s.stopping.Store(true)
	s.cancel(cluster.ErrClosed)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.background.Wait()
		s.kv.client.Close()
		if s.o.clustered() {
			s.etcd.Server.HardStop() // or etcd would try for long to hand over to members that stop as well
		}
		s.etcd.Close()
	}()
	timeout := time.NewTimer(closeLimit)
	defer timeout.Stop()
	select {
	case <-done:
		return s.release()
	case <-timeout.C: // the lock stays: the files may still be written
		return errs.New("etcd.Close", s.dir.Name(), errs.Unavailable, "the metadata store did not stop in time")
	}
}

// release gives up the data directory.
func (s *Server) release() error {
	var err error
	for _, f := range []*os.File{s.dir, s.lock} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}
