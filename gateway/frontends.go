package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/mux"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/gateway/admin"
	"github.com/sluicefs/sluice/gateway/config"
	"github.com/sluicefs/sluice/s3api"
	"github.com/sluicefs/sluice/webhdfs"
)

// serveHealth serves the admin listener: health and metrics from now on, the API once the namespace is there.
func (g *gateway) serveHealth(ctx context.Context) error {
	l := g.listener("admin")
	if l == nil {
		return nil
	}
	if !loopback(g.cfg.Admin.Listen) {
		g.log.Warn("the admin listener is reachable from other machines and not encrypted: key pairs sent to it can be read on the way", "addr", l.Addr().String())
	}
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	router.Path("/livez").Methods(http.MethodGet, http.MethodHead).HandlerFunc(g.health.live)
	router.Path("/readyz").Methods(http.MethodGet, http.MethodHead).HandlerFunc(g.health.ready)
	router.Path("/metrics").Methods(http.MethodGet).Handler(g.metrics.Handler())
	router.PathPrefix("/api/v1").Handler(g.adminAPI())
	g.admin = g.serveOn(l, guarded(router, admin.Panicked, g.log, &g.busy))
	g.onClose(func() error { return shutdown(ctx, time.Second, g.admin) })
	return nil
}

// adminAPI answers 503 until the namespace is there.
func (g *gateway) adminAPI() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if api := g.api.Load(); api != nil {
			api.ServeHTTP(w, r)
			return
		}
		admin.Starting(w)
	})
}

// serve starts the front-ends, and drains them when the process stops.
func (g *gateway) serve(ctx context.Context) error {
	g.api.Store(admin.New(g.adminOptions(g.tree)))
	s3, err := s3api.New(s3api.Options{
		Namespace: g.tree, Uploads: g.tree, Authenticator: g.users, Region: g.cfg.S3.Region, Domain: g.cfg.S3.Domain,
		Aliases: g.cfg.BucketAliases, Buckets: g.tree, Logger: g.log, Observe: g.metrics.Requests("s3"),
	})
	if err != nil {
		return err
	}
	simple, local := g.webhdfsAuth()
	hdfs := webhdfs.New(webhdfs.Options{
		Namespace: g.tree, Attrs: g.tree, Locator: g.tree, Authenticator: g.users, Tickets: g.tree, Advertise: g.cfg.WebHDFS.Advertise,
		Simple: simple, LoopbackOnly: local, Superuser: g.user, Logger: g.log, Observe: g.metrics.Requests("webhdfs"),
	})
	handlers := map[string]http.Handler{
		"s3": guarded(s3, s3Panicked, g.log, &g.busy), "webhdfs": guarded(hdfs, webhdfsPanicked, g.log, &g.busy),
	}
	handlers["s3 over TLS"], handlers["webhdfs over TLS"] = handlers["s3"], handlers["webhdfs"]
	var servers []*http.Server
	for _, l := range g.listeners {
		if h := handlers[l.name]; h != nil && l.Listener != nil {
			servers = append(servers, g.serveOn(l, g.leaving(h)))
		}
	}
	g.onClose(func() error { return g.drain(ctx, servers) })
	g.reloadOnHangup()
	if g.cfg.Has(config.RoleGateway) {
		g.health.stepAside(g.drainingGateway)
	}
	root := check{name: "root", run: g.rootAnswers}
	if !g.cfg.Alone() {
		root.hold = leaderHold
	}
	g.health.enter("", check{name: "journal", run: g.journalAnswers}, root)
	return nil
}

// leaving asks clients to close their connections once the process is about to stop: their next ones lead elsewhere.
func (g *gateway) leaving(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.stopping.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// drain lets the requests in progress finish. Where others serve the same names it first goes on for a while: a balancer
// that asks for readiness now and then sends requests here until it has asked again. The admin listener goes last, so that health says why nothing else answers,
// but before the namespace does, which its requests use.
func (g *gateway) drain(ctx context.Context, servers []*http.Server) error {
	g.health.enter("draining: the process is stopping")
	if len(servers) > 0 && !g.cfg.Alone() {
		g.stopping.Store(true)
		time.Sleep(g.cfg.DrainNotice)
	}
	err := shutdown(ctx, g.cfg.DrainTimeout, servers...)
	if g.admin != nil {
		err = errors.Join(err, shutdown(ctx, g.cfg.DrainTimeout, g.admin))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutTime)
	defer cancel()
	if g.busy.wait(ctx) != nil {
		err = errors.Join(err, fmt.Errorf("requests still run %v after their connections were cut", cutTime))
	}
	return err
}

// cutTime is how long a handler may take to notice that its connection is gone.
const cutTime = 10 * time.Second

// webhdfsAuth decides whether user.name is believed, and whether only because every listener is on loopback.
func (g *gateway) webhdfsAuth() (simple, loopbackOnly bool) {
	switch g.cfg.WebHDFS.Auth {
	case "simple":
		return true, false
	case "auto":
		all := true
		for _, addr := range []string{g.cfg.WebHDFS.Listen, g.cfg.WebHDFS.TLSListen} {
			all = all && (addr == "" || loopback(addr))
		}
		return all, all
	}
	return false, false
}

// loopback reports whether addr can be reached from this machine only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// rootAnswers checks that the root directory can be looked at.
func (g *gateway) rootAnswers(ctx context.Context) error {
	ctx, err := g.superuser(ctx)
	if err != nil {
		return err
	}
	_, err = g.tree.Stat(ctx, core.Root)
	return err
}

// shutdown lets the requests of servers finish for the time of limit, then cuts their connections.
func shutdown(ctx context.Context, limit time.Duration, servers ...*http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	problems := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				problems[i] = s.Close()
			}
		})
	}
	wg.Wait()
	return errors.Join(problems...)
}
