package gateway

import (
	"context"
	"fmt"

	"github.com/sluicefs/sluice/core"
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
		Stores: func(ctx context.Context) ([]core.StoreSpec, error) { return g.masters.Stores(ctx) },
	})
	g.onClose(w.Close)
	g.internal.ServePages(w)
	return nil
}
