package gateway

import (
	"context"
	"fmt"

	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/core/worker"
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
	w := worker.New(worker.Options{
		Cache: g.cache, Root: root, OpenStore: g.openStore, Sealer: sealer, Logger: g.log,
		Stores: g.masters.Stores,
	})
	g.onClose(w.Close)
	config, err := g.internalTLS()
	if err != nil {
		return err
	}
	pages, err := remote.NewPageServer(ctx, remote.PagesOptions{Pages: w, TLS: config})
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
	return nil
}
