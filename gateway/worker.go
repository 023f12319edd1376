package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/core/worker"
	"github.com/sluicefs/sluice/gateway/config"
)

// openWorker makes this process's page cache serve what masters have signed tickets for.
func (g *gateway) openWorker(ctx context.Context) error {
	root, err := g.openRoot(ctx)
	if err != nil {
		return fmt.Errorf("root store: %w", err)
	}
	sealer, err := seal.New(g.secretKey)
	if err != nil {
		return err
	}
	g.previous = g.masters.Previous(g.node(cluster.Worker).Name, g.started)
	w := worker.New(worker.Options{
		Cache: g.cache, Root: root, OpenStore: g.openStore, Sealer: sealer, Logger: g.log, Previous: g.previous.Read,
		Stores: g.masters.Stores,
	})
	g.onClose(w.Close)
	if g.cfg.Cache.LocalCopies && g.cfg.Has(config.RoleGateway) {
		g.masters.KeepCopies(w)
	}
	config, err := g.internalTLS()
	if err != nil {
		return err
	}
	o := remote.PagesOptions{Pages: w, Tender: w, TLS: config}
	if g.held != nil {
		o.Holder = g.held
		o.Verify = func(call []byte) ([]byte, error) { return sealer.VerifyCall(call, time.Now()) }
	}
	pages, err := remote.NewPageServer(ctx, o)
	if err != nil {
		return err
	}
	l := g.listener("pages")
	g.running.Go(func() {
		if err := pages.Serve(l.Listener); err != nil {
			g.failed(fmt.Errorf("pages: %w", err))
		}
	})
	g.onClose(func() error { pages.Stop(); return nil })
	return g.lendPages(ctx, w)
}

// lendPages lends pages to gateways of this machine, if there is a directory for that.
func (g *gateway) lendPages(ctx context.Context, l core.Lender) error {
	dir := g.cfg.Internal.SocketDir
	if dir == "" {
		return nil
	}
	s := remote.NewLoanServer(ctx, l)
	g.onClose(func() error { s.Stop(); return nil })
	if err := s.Listen(remote.Socket(dir, g.incarnation)); err != nil {
		return fmt.Errorf("internal.socket_dir: %w", err)
	}
	g.running.Go(func() {
		if err := s.Serve(); err != nil {
			g.failed(fmt.Errorf("internal.socket_dir: %w", err))
		}
	})
	return nil
}
