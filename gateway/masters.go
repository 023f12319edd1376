package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/core/worker"
	"github.com/sluicefs/sluice/etcd"
	"github.com/sluicefs/sluice/gateway/config"
	"github.com/sluicefs/sluice/gateway/telemetry"
)

// A master of a cluster follows the journal and campaigns. While it leads it has a namespace, which it serves to the
// gateways on the internal listener; all others answer there that somebody else leads. Each reign has a namespace of its
// own: whatever the last one had under way ends with it.

// master is this process's part in leading.
type master struct {
	g        *gateway
	election cluster.Election
	members  *members
	leading  atomic.Pointer[namespace.Namespace] // that of the reign which answers, nil while none does

	turn      *turn
	log       atomic.Pointer[meta.Log] // that of now
	following atomic.Bool
	life      context.Context // ends when the process stops
	retiring  sync.WaitGroup  // namespaces of reigns that have ended
}

// sessionTTL is how long a master that died still seems to lead where the journal is in an etcd that others run. Nothing true
// hangs on it, every commit is fenced; but one that is too busy to say for so long that it lives loses the lead for nothing, as masters
// and an etcd on one busy disk did with the 2 s that are etcd's least.
const sessionTTL = 3 * time.Second

// openMaster starts this process's member of the journal's cluster, or connects to the one that somebody else runs.
func (g *gateway) openMaster(ctx context.Context) error {
	log := telemetry.AtLeast(g.log, slog.LevelInfo)
	m := &master{g: g, turn: newTurn()}
	g.master = m
	if e := g.cfg.Etcd; len(e.Endpoints) > 0 {
		c, err := etcd.Connect(ctx, etcd.ClientOptions{
			Endpoints: e.Endpoints, Logger: log, Prefix: e.Prefix, User: e.Username, Password: e.Password.Reveal(),
			TLS: etcd.TLS{CA: e.CA, Cert: e.Cert, Key: e.Key},
		})
		if err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
		g.onClose(c.Close)
		g.kv, g.client, m.members = c.KV(), c, &members{registry: c.Registry(0), kv: c.KV(), log: g.log, leads: m.turn.answers, onChange: m.look}
		if g.journalID, err = c.ClusterID(ctx); err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
		m.election, err = c.Election(namespace.JournalGroup, cluster.Member{Name: g.cfg.Name, Addr: g.internalAddr()}, sessionTTL)
		return err
	}
	peer, err := url.Parse(g.cfg.Join[g.cfg.Name]) // checked with the configuration
	if err != nil {
		return err
	}
	i := g.cfg.Internal
	server, err := etcd.Start(ctx, etcd.ServerOptions{
		Dir: g.journalDir(), Backup: g.backups(), Quota: g.etcdQuota(), Logger: log, Name: g.cfg.Name,
		InternalListen: cmp.Or(i.Peers, peer.Host), Join: g.cfg.Join, Existing: g.cfg.JoinExisting,
		Addr: g.internalAddr(), TLS: etcd.TLS{CA: i.CA, Cert: i.Cert, Key: i.Key},
	})
	if err != nil {
		return g.journalFailed(err)
	}
	g.onClose(server.Close)
	g.etcd, g.kv, m.election, g.journalID = server, server.KV(), server.Election(), server.ClusterID()
	m.members = &members{registry: server.Registry(0), kv: g.kv, log: g.log, leads: m.turn.answers, onChange: m.look}
	return nil
}

// readLease is for how long a leader may answer from memory after it last proved that it leads, and so how long its successor
// waits, unless it was released. An only voter has it too: then others can join it at any time.
const readLease = 500 * time.Millisecond

// lead follows and campaigns until the process stops.
func (g *gateway) lead(ctx context.Context) error {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.master.life = life
	g.running.Go(func() { g.master.watchLeader(life) })
	g.running.Go(func() { g.master.giveUp(life) })
	ended := make(chan struct{})
	g.running.Go(func() {
		defer close(ended)
		const first, last = 50 * time.Millisecond, 2 * time.Second
		for pause := first; life.Err() == nil; {
			started := time.Now()
			err := g.master.once(life)
			if life.Err() != nil {
				return
			}
			if errors.Is(err, errHandedOver) {
				pause = 0
			} else {
				g.log.Warn("not leading", "err", err)
			}
			if time.Since(started) > last {
				pause = first
			}
			select {
			case <-time.After(pause):
				pause = min(max(2*pause, first), last)
			case <-life.Done():
			}
		}
	})
	g.onClose(func() error {
		g.master.resign(context.WithoutCancel(ctx))
		stop()
		<-ended
		g.master.retiring.Wait()
		return nil
	})
	return nil
}

// once follows until this master leads, and leads until it does no more. It returns why that ended.
func (m *master) once(ctx context.Context) error {
	log, err := meta.OpenLog(m.g.kv, meta.LogOptions{
		Group: namespace.JournalGroup, Member: m.g.cfg.Name, Address: m.g.internalAddr(), Logger: m.g.log, ReadLease: readLease,
	})
	if err != nil {
		return err
	}
	m.log.Store(log)
	if err := log.Load(ctx); err != nil {
		return err
	}
	seeing, stop := context.WithCancel(ctx)
	defer stop()
	m.g.running.Go(func() {
		m.g.watchSeen(seeing, func(last namespace.Seen) (namespace.Seen, error) { return namespace.SeenOf(seeing, log, last) })
	})
	won, err := m.follow(ctx, log)
	if err != nil {
		return err
	}
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		select {
		case <-won.Done():
			end(won.Err())
		case <-life.Done():
		}
	}()
	if m.passesOn(life) {
		return errHandedOver
	}
	err = log.Claim(life)
	if err == nil {
		err = m.serve(life, log)
	}
	if left := m.turn.handing(); left != nil {
		<-left
		if won.Err() != nil {
			return errHandedOver
		}
	}
	if won.Err() == nil && ctx.Err() == nil { // raft has done its part: another may be able to do the rest
		ctx, cancel := context.WithTimeout(ctx, handoverTime)
		defer cancel()
		err = errors.Join(err, m.election.Handover(ctx, ""))
	}
	return err
}

// handoverTime is how long another master is given to take over from one that cannot serve.
const handoverTime = 5 * time.Second

// follow applies what the leader journals until this master may claim the journal.
func (m *master) follow(ctx context.Context, log *meta.Log) (*cluster.Reign, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	followed := make(chan error, 1)
	m.following.Store(true)
	defer m.following.Store(false)
	go func() {
		err := log.Follow(ctx)
		stop()
		followed <- err
	}()
	won, err := m.campaign(ctx)
	stop()
	if ferr := <-followed; err != nil && !errors.Is(ferr, context.Canceled) {
		err = ferr
	}
	return won, err
}

// serve leads until ctx ends or the journal is lost.
func (m *master) serve(ctx context.Context, log *meta.Log) error {
	g := m.g
	ns, err := g.newNamespace(ctx, namespace.Options{Log: log, Answer: remote.EncodeAnswer})
	if err != nil {
		return err
	}
	r := &reign{ns: ns, log: log}
	defer m.retire(r)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ready, served := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		select {
		case <-ready:
			if err = m.open(ctx, r); err != nil {
				stop(err) // who cannot serve does not lead
			}
		case <-ctx.Done():
		}
		served <- err
	}()
	// From the moment the reign is lost, gateways are sent elsewhere, whatever of it still has to end.
	defer context.AfterFunc(ctx, m.close)()
	err = ns.Run(ctx, func() { close(ready) })
	stop(err)
	err = errors.Join(err, <-served, context.Cause(ctx))
	m.close()
	return err
}

// retire closes what a reign that has ended leaves. Readers that it has begun may go on for the time of a drain.
func (m *master) retire(r *reign) {
	m.retiring.Go(func() {
		r.working.Wait()
		if r.server != nil {
			ctx, cancel := context.WithTimeout(m.life, m.g.cfg.DrainTimeout)
			defer cancel()
			_ = r.server.Drained(ctx) // or they fail
		}
		if err := r.ns.Close(); err != nil {
			m.g.log.Warn("a store could not be closed", "err", err)
		}
	})
}

// close answers gateways that somebody else leads.
func (m *master) close() {
	m.turn.set(func() { m.turn.leading = nil })
	m.leading.Store(nil)
	m.g.internal.Set(m.standby())
}

// open answers gateways. The namespace is ready, and so nobody can have an answer of the last leader any more.
func (m *master) open(ctx context.Context, r *reign) (err error) {
	g, ns := m.g, r.ns
	// A mount that cannot be made now is no reason to leave all others without a leader.
	if err := g.mountConfigured(ctx, ns); err != nil {
		if ctx.Err() != nil {
			return err
		}
		g.log.Error("the configured mounts are not as the configuration has them", "err", err)
		if errors.Is(err, errs.Held) {
			g.running.Go(func() { g.awaitRelease(ctx, ns) })
		}
	}
	var read core.Tender // of what the leader reads itself; it is only asked, and pins nothing
	if !g.cfg.Has(config.RoleWorker) {
		read = worker.NewTender(g.cache, ns.Sealer(), ns.Source)
	}
	r.work = g.newWork(ns, g.masters, read)
	own, err := g.superuser(ctx)
	if err != nil {
		return err
	}
	r.server, err = remote.NewServer(remote.ServerOptions{
		Tree: ns, Authenticator: g.users, Members: m.members, Admin: m.admin(r), Answers: remote.NewJournaledAnswers(ns), Lease: m.lease(r),
	})
	if err != nil {
		return err
	}
	m.leading.Store(ns)
	r.working.Go(func() { r.work.run(own) })
	g.internal.Set(r.server)
	m.turn.set(func() { m.turn.leading = r })
	g.log.Info("leading", "name", g.cfg.Name, "term", r.log.Term(), "seq", r.log.Seq())
	return nil
}

// standby answers that somebody else leads.
func (m *master) standby() *remote.Server { return remote.NewStandby(m.elsewhere) }

// internalAddr is where other processes reach this one.
func (g *gateway) internalAddr() string {
	if g.cfg.Internal.Advertise != "" {
		return g.cfg.Internal.Advertise
	}
	if l := g.listener("internal"); l != nil {
		return l.Addr().String()
	}
	return ""
}

// serveInternal answers other processes of the cluster.
func (g *gateway) serveInternal(context.Context) error {
	config, err := g.internalTLS()
	if err != nil {
		return err
	}
	if g.master != nil {
		g.internal.Set(g.master.standby())
		g.internal.Local(g.master.local())
	} else { // gateways that were given a worker's address for a master's are told that it leads nothing
		g.internal.Set(remote.NewStandby(func(context.Context) error { return &remote.NotLeaderError{} }))
	}
	s, err := g.internal.Endpoint(config)
	if err != nil {
		return err
	}
	l := g.listener("internal")
	g.running.Go(func() {
		if err := s.Serve(l.Listener); err != nil {
			g.failed(fmt.Errorf("internal: %w", err))
		}
	})
	g.onClose(func() error { s.Stop(); return nil })
	return nil
}

// dialMasters makes the leading master's tree this process's.
func (g *gateway) dialMasters(ctx context.Context) error {
	config, err := g.internalTLS()
	if err != nil {
		return err
	}
	addrs := []string(g.cfg.Masters)
	if len(addrs) == 0 {
		addrs = []string{g.internalAddr()} // which knows the leader
	}
	if g.masters, err = remote.Dial(ctx, remote.Options{Addrs: addrs, TLS: config, Nodes: g.describe(), Sockets: g.cfg.Internal.SocketDir}); err != nil {
		return err
	}
	g.onClose(g.masters.Close)
	g.tree = g.masters
	return g.metrics.Counter("sluice_placed_read_bytes_total",
		"Bytes of files that this process got for its clients, by the way: lent by a worker of this machine (descriptor), from a worker's page stream (stream), or from the leader.",
		func(report func(int64, telemetry.Labels)) {
			g.masters.Ways().Each(func(way string, n int64) { report(n, telemetry.Labels{"way": way}) })
		})
}

// internalTLS is how processes of the cluster prove to each other who they are; nil: not at all.
func (g *gateway) internalTLS() (*tls.Config, error) {
	i := g.cfg.Internal
	if i.CA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(i.CA)
	if err != nil {
		return nil, fmt.Errorf("internal.ca: %w", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("internal.ca: %s holds no certificate", i.CA)
	}
	cert, err := tls.LoadX509KeyPair(i.Cert, i.Key)
	if err != nil {
		return nil, fmt.Errorf("internal.cert: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: authorities,
		ClientCAs: authorities, ClientAuth: tls.RequireAndVerifyClientCert,
	}, nil
}
