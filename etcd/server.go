// Package etcd is meta.KV on etcd: a single embedded member that lives in a data directory and listens on nothing but unix
// sockets there. It is the only package that knows etcd. It is not a cluster: one member has no failover, and what makes
// one writer safe against another is the fence of meta.Log, not this package. Its suite is core/meta/kvtest.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

const (
	memberName = "sluice"
	lockFile   = "LOCK"
	clientSock = "client.sock" // for etcdctl: --endpoints unix://<dir>/client.sock
	peerSock   = "peer.sock"

	// maxSocketPath is the longest path a socket can be bound to. Source: unix(7), sun_path with its closing zero.
	maxSocketPath = 107

	// A single member waits for nobody's votes and heartbeats: these only delay its start, by at most twice electionMs.
	tickMs     = 20
	electionMs = 100

	quota = 8 << 30 // bytes of the database file. Source: etcd's suggested maximum

	// Records are large, so few of them stay in memory and in the log beside the database.
	snapshotCount   = 2000
	catchUpEntries  = 500
	slowApply       = time.Second
	closeLimit      = 15 * time.Second
	dirMode         = 0o700
	lockMode        = 0o600
	requestOverhead = 256 << 10 // of a transaction around its keys and values
)

// ServerOptions are the options of Start.
type ServerOptions struct {
	Dir    string       // the data directory; made if it does not exist, and made private (mode 0700); for nothing else
	Logger *slog.Logger // nil: nothing is logged

	// UnsafeNoFsync acknowledges what a power failure would lose. It is for tests.
	UnsafeNoFsync bool
}

// Server is an embedded etcd member.
type Server struct {
	etcd *embed.Etcd
	kv   *kv
	// space is open as long as the database.
	space *space
	lock  *os.File // of the data directory, held until the member is gone
	dir   *os.File // keeps the directory of the sockets' short paths

	stopping atomic.Bool
	close    func() error
}

// Start starts the member of the data directory o.Dir and waits until it answers. A new directory becomes a new, empty
// store.
//
// Errors: errs.Invalid without a directory; errs.Busy if another process uses the directory; errs.Corrupt if what is in it
// is damaged or incomplete, which nothing repairs; errs.Permission, errs.NoSpace by the file system; ctx's.
func Start(ctx context.Context, o ServerOptions) (*Server, error) {
	if o.Dir == "" {
		return nil, errs.New("etcd.Start", "", errs.Invalid, "a data directory is needed")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, errs.E("etcd.Start", o.Dir, errs.Other, err)
	}
	s := &Server{}
	if err := s.start(ctx, dir, o); err != nil {
		s.release()
		return nil, err
	}
	s.close = sync.OnceValue(s.stop)
	return s, nil
}

func (s *Server) start(ctx context.Context, dir string, o ServerOptions) (err error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	if err := os.Chmod(dir, dirMode); err != nil { // who can reach the sockets can change every name
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	if s.lock, err = lock(dir); err != nil {
		return err
	}
	if err := checkLog(dir); err != nil {
		return err
	}
	if s.dir, err = os.Open(dir); err != nil {
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	sockets := dir
	if len(filepath.Join(dir, clientSock)) > maxSocketPath {
		sockets = fmt.Sprintf("/proc/self/fd/%d", s.dir.Fd()) // the same directory by a short name
	}
	if s.etcd, err = startEtcd(s.config(dir, sockets, o)); err != nil {
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	err = s.ready(ctx, dir)
	// etcd syncs its files, and leaves the names of those it makes at its first start to chance.
	for _, d := range []string{dir, filepath.Join(dir, "member", "snap"), filepath.Join(dir, "member", "wal")} {
		if err == nil {
			err = syncDir(d)
		}
	}
	if err == nil {
		s.space, err = openSpace(dir)
	}
	if err != nil {
		s.stopping.Store(true)
		s.etcd.Close()
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	s.kv = newKV(v3client.New(s.etcd.Server), s.space)
	return nil
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

// config returns the member's configuration.
func (s *Server) config(dir, sockets string, o ServerOptions) *embed.Config {
	c := embed.NewConfig()
	c.Name, c.Dir = memberName, dir
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(o.Logger, &s.stopping))
	c.ListenPeerUrls = []url.URL{socket(sockets, peerSock)}
	c.ListenClientUrls = []url.URL{socket(sockets, clientSock)}
	// A single member is dialled by nobody; the advertised addresses are stored and so do not name the directory, which
	// may be moved.
	c.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Host: peerSock}}
	c.AdvertiseClientUrls = []url.URL{{Scheme: "unix", Host: clientSock}}
	c.InitialCluster = c.InitialClusterFromName(memberName)
	c.EnableGRPCGateway = false
	c.TickMs, c.ElectionMs = tickMs, electionMs
	c.QuotaBackendBytes = quota
	c.MaxTxnOps = meta.MaxTxnOps
	c.MaxRequestBytes = meta.MaxTxnBytes + requestOverhead
	c.SnapshotCount, c.SnapshotCatchUpEntries = snapshotCount, catchUpEntries
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "0"
	c.WarningApplyDuration, c.WarningUnaryRequestDuration = slowApply, slowApply
	c.UnsafeNoFsync = o.UnsafeNoFsync
	return c
}

// socket returns the URL of a socket; etcd takes a unix URL's host for a path.
func socket(dir, name string) url.URL { return url.URL{Scheme: "unix", Host: filepath.Join(dir, name)} }

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

// Close stops the member and waits until its files are closed, for 15 seconds at most. It is idempotent.
func (s *Server) Close() error { return s.close() }

func (s *Server) stop() error {
	s.kv.Close()
	s.stopping.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.kv.client.Close()
		s.etcd.Close()
		s.space.close()
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

// lock takes the data directory for this process until the returned file is closed, and leaves the process's number in it.
func lock(dir string) (*os.File, error) {
	const op = "etcd.Start"
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, lockMode)
	if err != nil {
		return nil, errs.E(op, dir, errs.Other, err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		owner, _ := io.ReadAll(io.LimitReader(f, 20))
		f.Close()
		return nil, errs.New(op, dir, errs.Busy, "the data directory is in use by process "+strings.TrimSpace(string(owner)))
	case err != nil:
		f.Close()
		return nil, errs.E(op, dir, errs.Other, err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, errs.E(op, dir, errs.Other, err)
	}
	return f, nil
}
