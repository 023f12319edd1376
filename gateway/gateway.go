// Package gateway is the composition root: it builds a process of the configured roles out of the journal, the page cache, the
// namespace, the two protocol front-ends and the admin listener, starts them in the order in which they depend on each
// other, and stops them in reverse. A process without roles has all of them and needs no other (gateway.go); of a cluster's,
// masters.go is what leads and follows. It holds what belongs to the process and to no part of it: listeners, credentials,
// users, health. It serves no protocol itself and knows nothing of names or bytes.
//
// gateway/config is what can be set, gateway/telemetry the log and the metrics, gateway/admin the admin API, gateway/cli
// the commands.
package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/hold"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/etcd"
	"github.com/sluicefs/sluice/gateway/admin"
	"github.com/sluicefs/sluice/gateway/config"
	"github.com/sluicefs/sluice/gateway/telemetry"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/localufs"
)

// Options are what a process is given beside its configuration.
type Options struct {
	Version string
	Logger  *slog.Logger // nil: none
	Banner  io.Writer    // told the URLs and keys once the process is ready; nil: nobody
	Ready   func(Addrs)  // called once the process is ready; may be nil
}

// gateway is a process that is being started, runs, or is being stopped.
type gateway struct {
	cfg    config.Config
	o      Options
	log    *slog.Logger
	health *health

	started     time.Time
	incarnation string // differs between two starts of the same process

	user         string // the superuser
	root         config.Root
	freshRoot    bool
	users        *users
	secretKey    []byte
	cert         *certificate
	metrics      *telemetry.Metrics
	processors   *processors  // nil where it is told how many to use
	ownProcs     int          // how many it began with: there are more at times; 0 where it is told
	isolations   isolations   // of the stores that this process has opened
	etcd         *etcd.Server // nil without one of its own
	client       *etcd.Client // nil unless somebody else runs the journal's etcd
	journalID    string       // of the etcd cluster that the journal is in
	kv           meta.KV      // where the journal is; nil in a process that is no master
	master       *master      // nil in a process that is complete of its own, or no master
	journalSpace journalSpace
	alone        *members      // of a process that is complete of its own, else nil
	internal     remote.Switch // what the internal listener answers with
	tiers        *page.Tiered
	tierDirs     []string
	cache        *page.Cache
	held         *hold.Store      // nil in a process that holds nothing
	holders      core.Holders     // those that hold for the masters; nil in a process that is none
	tree         remote.Tree      // what the front-ends serve: the own namespace, or the leading master's
	previous     *remote.Previous // of this process's worker; nil without one
	masters      *remote.Client   // the way to the other processes; nil in a process that is complete of its own
	ns           *namespace.Namespace
	work         *work                        // of ns; nil in a process that is not complete of its own
	api          atomic.Pointer[admin.Server] // nil until the namespace is there

	listeners []*listener
	admin     *http.Server
	busy      busy
	stopping  atomic.Bool             // the front-ends take leave of their clients
	failed    context.CancelCauseFunc // ends the process with an error
	running   sync.WaitGroup          // servers, and what else runs until it is stopped
	closers   []func() error          // what has been started, in order
}

// Run runs a process until ctx ends, then lets requests in progress finish within c.DrainTimeout and stops everything. It
// returns nil after an orderly end. If a part cannot start, whatever had started is stopped and the error says which part
// it was and what to do.
func Run(ctx context.Context, c config.Config, o Options) (err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	defer runtime.KeepAlive(make([]byte, heapRoom))
	g := &gateway{cfg: c, o: o, log: o.Logger, health: newHealth()}
	broken, fail := context.WithCancelCause(context.WithoutCancel(ctx))
	g.failed = fail
	defer fail(nil)
	defer func() { err = errors.Join(err, g.close()) }()

	for _, start := range g.steps() {
		err := start(ctx)
		if ctx.Err() != nil {
			return nil // asked to stop while starting
		}
		if err != nil {
			return err
		}
	}
	g.announce()

	select {
	case <-ctx.Done():
		g.log.Info("stopping", "reason", context.Cause(ctx).Error())
		return nil
	case <-broken.Done():
		return context.Cause(broken)
	}
}

// heapRoom is memory in bytes that is never touched, and so takes none. The collector counts it: it waits for as much garbage
// again before it starts. A heap of some MiB would be searched several times a second under load, which was a tenth of a
// request's time.
const heapRoom = 32 << 20

// steps are what a process of the configured roles starts, in order.
func (g *gateway) steps() []func(context.Context) error {
	all := []func(context.Context) error{g.begin, g.listen, g.prepare, g.identify, g.measure, g.watchProcessors, g.serveHealth}
	if g.cfg.Alone() {
		return append(all, g.openJournal, g.openCache, g.openHeld, g.openNamespace, g.joinNobody, g.openWork, g.watchNumbers, g.watchSpace, g.serve)
	}
	master, isWorker := g.cfg.Has(config.RoleMaster), g.cfg.Has(config.RoleWorker)
	if master || isWorker {
		all = append(all, g.openCache, g.openHeld, g.watchNumbers)
	}
	if master {
		all = append(all, g.openMaster)
	}
	all = append(all, g.dialMasters) // which a worker asks for its stores
	if master {
		all = append(all, g.findHolders)
	}
	if isWorker {
		all = append(all, g.openWorker)
	}
	if master || isWorker {
		all = append(all, g.serveInternal)
	}
	if master {
		all = append(all, g.joinCluster, g.watchSpace, g.lead)
	}
	return append(all, g.serve)
}

// onClose registers how to stop what has just been started.
func (g *gateway) onClose(f func() error) { g.closers = append(g.closers, f) }

// close stops what was started, in reverse, and waits for it.
func (g *gateway) close() error {
	var all []error
	for i := len(g.closers) - 1; i >= 0; i-- {
		all = append(all, g.closers[i]())
	}
	g.running.Wait()
	return errors.Join(all...)
}

// prepare makes the data directory, which holds secrets, and names the superuser.
func (g *gateway) prepare(context.Context) error {
	if err := makeDurable(g.cfg.Data); err != nil {
		return fmt.Errorf("data: cannot make the data directory: %w; choose another with --data", err)
	}
	g.user = cmp.Or(g.cfg.Superuser, currentUser())
	return nil
}

// makeDurable makes the directory and its parents so that a power failure does not take them, and what is in them, away.
// That one is there does not say so: the process that made it may have died before it synced.
func makeDurable(dir string) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		if err := makeDurable(parent); err != nil {
			return err
		}
	}
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if info, serr := os.Stat(dir); serr != nil || !info.IsDir() {
		return errors.Join(err, serr)
	}
	d, oerr := os.Open(parent)
	if err != nil && errors.Is(oerr, fs.ErrPermission) {
		return nil // it was there, and its parent is another's
	}
	if oerr != nil {
		return oerr
	}
	return errors.Join(d.Sync(), d.Close())
}

// listen opens every address before anything else is touched, so that a busy port leaves nothing behind.
func (g *gateway) listen(ctx context.Context) (err error) {
	g.listeners = []*listener{
		{name: "admin", flag: "admin-listen", addr: g.cfg.Admin.Listen},
		{name: "s3", flag: "s3-listen", addr: g.cfg.S3.Listen},
		{name: "s3 over TLS", flag: "s3-tls-listen", addr: g.cfg.S3.TLSListen, tls: true},
		{name: "webhdfs", flag: "webhdfs-listen", addr: g.cfg.WebHDFS.Listen},
		{name: "webhdfs over TLS", flag: "webhdfs-tls-listen", addr: g.cfg.WebHDFS.TLSListen, tls: true},
		{name: "internal", flag: "internal-listen", addr: g.cfg.Internal.Listen},
		{name: "pages", flag: "internal-pages-listen", addr: g.cfg.PagesListen()},
	}
	var problems []error
	for _, l := range g.listeners {
		if front := !slices.Contains([]string{"admin", "internal", "pages"}, l.name); l.addr == "" || front && !g.cfg.Has(config.RoleGateway) {
			continue
		}
		if l.Listener, err = listen(ctx, l.name, l.addr, l.flag); err != nil {
			problems = append(problems, err)
			continue
		}
		g.onClose(l.close)
	}
	if g.cfg.S3.TLSListen != "" || g.cfg.WebHDFS.TLSListen != "" {
		if g.cert, err = newCertificate(g.cfg.TLS); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// identify loads or makes the root key pair and the key of the secrets of mounts.
func (g *gateway) identify(context.Context) (err error) {
	if g.root, g.freshRoot, err = rootCredentials(g.cfg); err != nil {
		return fmt.Errorf("root credentials: %w", err)
	}
	g.users = newUsers(g.user, g.root)
	if !g.cfg.Has(config.RoleMaster) && !g.cfg.Has(config.RoleWorker) {
		return nil // who opens no store holds nothing that opens one
	}
	if g.secretKey, err = secretKey(g.cfg); err != nil {
		return fmt.Errorf("secret_key_file: %w", err)
	}
	return nil
}

func (g *gateway) measure(ctx context.Context) (err error) {
	if g.metrics, err = telemetry.NewMetrics(ctx, g.o.Version); err != nil {
		return err
	}
	g.onClose(func() error { return g.metrics.Close(context.WithoutCancel(ctx)) })
	return nil
}

// openJournal starts the embedded etcd.
func (g *gateway) openJournal(ctx context.Context) (err error) {
	log := telemetry.AtLeast(g.log, slog.LevelInfo) // below, it logs every transaction
	g.etcd, err = etcd.Start(ctx, etcd.ServerOptions{Dir: g.journalDir(), Logger: log, Backup: g.backups(), Quota: g.etcdQuota()})
	if err != nil {
		return g.journalFailed(err)
	}
	g.kv, g.journalID = g.etcd.KV(), g.etcd.ClusterID()
	g.onClose(g.etcd.Close)
	return nil
}

// openCache opens the tiers, which are a worker's. The process works without any, only slower.
func (g *gateway) openCache(ctx context.Context) error {
	var wanted []config.Tier
	var skipped []string
	if g.cfg.Has(config.RoleWorker) {
		wanted, skipped = tiers(g.cfg)
	}
	for _, why := range skipped {
		g.log.Warn("a cache tier is left out", "reason", why)
	}
	var open []*page.Segments
	letGo := time.Now().Add(page.LentPatience)
	for _, t := range wanted {
		o := segmentOptions(g.cfg.Cache, t, g.log)
		o.LetGo = letGo
		s, err := page.OpenSegments(o)
		if err != nil {
			return errors.Join(fmt.Errorf("cache tier %s: %w", t.Dir, err), page.NewTiered(open...).Close())
		}
		g.log.Info("cache tier", "dir", t.Dir, "medium", t.Medium, "bytes", int64(t.Quota))
		open, g.tierDirs = append(open, s), append(g.tierDirs, t.Dir)
	}
	g.tiers = page.NewTiered(open...)
	g.onClose(g.tiers.Close)
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	var moving sync.WaitGroup
	moving.Go(func() { g.tiers.Run(life) })
	g.onClose(func() error { stop(); moving.Wait(); return nil })
	g.cache = page.NewCache(g.tiers, page.CacheOptions{Logger: g.log})
	g.onClose(g.cache.Close)
	return nil
}

// journalReserve is what the root store leaves of the disk to the journal, so that what frees space can still be journaled
// when the store is full: a segment of etcd's log is 64 MB, taken one ahead, and its database grows by 16 MiB.
const journalReserve = 128 << 20

// openNamespace replays the journal and waits until changes are accepted.
func (g *gateway) openNamespace(ctx context.Context) (err error) {
	if g.ns, err = g.newNamespace(ctx, namespace.Options{KV: g.kv}); err != nil {
		return err
	}
	g.tree = g.ns
	g.onClose(g.ns.Close)
	if err := g.run(ctx); err != nil {
		return err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.running.Go(func() { g.watchSeen(life, func(namespace.Seen) (namespace.Seen, error) { return g.ns.Seen(), nil }) })
	g.onClose(func() error { stop(); return nil })
	err = g.mountConfigured(ctx, g.ns)
	if errors.Is(err, errs.Held) {
		g.log.Warn("a configured mount waits for the release", "err", err)
		g.running.Go(func() { g.awaitRelease(life, g.ns) })
		return nil
	}
	return err
}

// newNamespace opens a namespace over the journal in o and this process's cache and stores.
func (g *gateway) newNamespace(ctx context.Context, o namespace.Options) (*namespace.Namespace, error) {
	root, err := g.openRoot(ctx)
	if err != nil {
		return nil, fmt.Errorf("root store: %w", err)
	}
	private := append([]string{g.cfg.Data}, g.tierDirs...)
	if dir := g.cfg.BackupDirectory(); dir != "" {
		if err := makeDurable(dir); err != nil {
			return nil, errors.Join(fmt.Errorf("backup.dir: %w", err), root.Close())
		}
		private = append(private, dir)
	}
	for _, dir := range private {
		own, err := localufs.Root(dir)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), root.Close())
		}
		o.Reserved = append(o.Reserved, own)
	}
	if l := g.listener("webhdfs"); l != nil {
		o.Host = cmp.Or(g.cfg.WebHDFS.Advertise, l.Addr().String())
	}
	o.Full = g.journalSpace.refuse
	o.Cache, o.Root, o.OpenStore, o.SecretKey, o.Logger = g.cache, root, g.openStore, g.secretKey, g.log
	o.SharedRoot = g.cfg.RootStore != "" // the default lies beside the journal
	o.Member, o.Superuser, o.Supergroup = cmp.Or(g.cfg.Name, hostname()), g.user, supergroup
	o.SyncInterval, o.LoadType = time.Duration(g.cfg.SyncInterval), core.LoadType(g.cfg.LoadType)
	o.EventOptions = g.optionsOf
	o.Sync = namespace.SyncOptions{Concurrency: g.cfg.Sync.Concurrency, Executors: g.cfg.Sync.ExecutorPool, Prefetch: g.cfg.Sync.PrefetchPool}
	o.Sync.Processors = g.ownProcs
	o.Holders, o.Replicas, o.PersistDelay, o.MaxHeld = g.holders, g.cfg.Replicas, g.cfg.PersistDelay, int64(g.cfg.HoldLimit)
	o.WriteType, o.ReadType = core.WriteType(g.cfg.WriteType), core.ReadType(g.cfg.ReadType)
	o.RenameThrough = g.cfg.RenameThrough
	o.ReplicationMin, o.ReplicationMax = g.cfg.CopiesMin, g.cfg.CopiesMax
	o.Store = g.journalID
	if o.Seen, err = readSeen(g.cfg.Data); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	ns, err := namespace.Open(ctx, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("namespace: %w", err), root.Close())
	}
	return ns, nil
}

// openRoot opens the store behind "/".
func (g *gateway) openRoot(ctx context.Context) (ufs.Store, error) {
	if g.cfg.RootStore != "" {
		m, err := config.Mount{Path: "/root", URI: g.cfg.RootStore}.Spec()
		if err != nil {
			return nil, err
		}
		return g.openStore(ctx, m)
	}
	root, err := localufs.Open(filepath.Join(g.cfg.Data, "root"), localufs.Options{Create: true, Reserve: journalReserve})
	if err != nil {
		return nil, err
	}
	return g.observed("root", root), nil
}

// run commits the namespace's changes until it is closed. Losing the journal ends the process: what is acknowledged must
// be durable.
func (g *gateway) run(ctx context.Context) error {
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	ready, ended := make(chan struct{}), make(chan struct{})
	var err error
	g.running.Go(func() {
		defer close(ended)
		if err = g.ns.Run(life, func() { close(ready) }); err != nil && life.Err() == nil {
			err = fmt.Errorf("namespace: %w", err)
			g.failed(err)
		}
	})
	g.onClose(func() error { stop(); <-ended; return nil })
	select {
	case <-ready:
		return nil
	case <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// announce says that the process is ready. It is ready from its first request on, which may come before the banner is
// read.
func (g *gateway) announce() {
	a := Addrs{
		S3: g.url("s3"), S3TLS: g.url("s3 over TLS"), WebHDFS: g.url("webhdfs"), WebHDFSTLS: g.url("webhdfs over TLS"),
		Admin: g.url("admin"),
	}
	if g.o.Banner != nil {
		// The generated secret is shown when it is new, and later to a person at a terminal, not to a log collector.
		show := g.freshRoot || g.cfg.Root.AccessKey == "" && telemetry.IsTerminal(g.o.Banner)
		simple, _ := g.webhdfsAuth()
		banner(g.o.Banner, g.o.Version, a, g.cfg, g.root, g.user, simple, show)
	}
	if g.o.Ready != nil {
		g.o.Ready(a)
	}
}

func (g *gateway) url(name string) string {
	l := g.listener(name)
	switch {
	case l == nil:
		return ""
	case l.tls:
		return urlOf(l, "https")
	}
	return urlOf(l, "http")
}

// listener returns the open listener of that name, nil if it is off.
func (g *gateway) listener(name string) *listener {
	for _, l := range g.listeners {
		if l.name == name && l.Listener != nil {
			return l
		}
	}
	return nil
}

// listener is one address that is listened on, or, without a Listener, that is not.
type listener struct {
	net.Listener
	name, flag, addr string
	tls              bool
}

func (l *listener) close() error {
	if err := l.Listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err // a server that was shut down has closed its listener
	}
	return nil
}

// serveOn serves h on the listener until the process stops, and returns the server for stopping it.
func (g *gateway) serveOn(l *listener, h http.Handler) *http.Server {
	s := newServer(h, g.log)
	var c *tls.Config
	if l.tls {
		c = g.cert.config()
	}
	g.running.Go(func() {
		if err := serve(s, l.Listener, c); !errors.Is(err, http.ErrServerClosed) {
			g.failed(fmt.Errorf("%s: %w", l.name, err))
		}
	})
	return s
}

// reloadOnHangup reads the certificate again at each SIGHUP.
func (g *gateway) reloadOnHangup() {
	hangup, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hangup, syscall.SIGHUP)
	g.running.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-hangup:
			}
			if g.cert == nil {
				continue
			}
			if err := g.cert.reload(); err != nil {
				g.log.Error("the certificate was not reloaded; the one before stays in use", "err", err)
				continue
			}
			g.log.Info("certificate reloaded", "file", g.cfg.TLS.Cert)
		}
	})
	g.onClose(func() error { signal.Stop(hangup); close(done); return nil })
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

// superuser returns a context that acts for the superuser.
func (g *gateway) superuser(ctx context.Context) (context.Context, error) {
	p, err := g.users.User(ctx, g.user)
	return core.WithPrincipal(ctx, p), err
}

// journalAnswers checks that the journal can be read, through its quorum.
func (g *gateway) journalAnswers(ctx context.Context) error {
	if g.kv == nil {
		return nil // its masters answer for it
	}
	_, err := g.kv.Get(ctx, "sys/health")
	if errors.Is(err, errs.NotExist) {
		return nil
	}
	return err
}
