package web

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// RemoveFiles is that of ufs.FileRemover for a service that removes one name at a time: some are under way at once, each on its own
// condition.
func RemoveFiles(ctx context.Context, files []ufs.Versioned, remove func(ctx context.Context, name, version string) error) error {
	const parallel = 16
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, f := range files {
		g.Go(func() error {
			err := remove(gctx, f.Name, f.Version)
			if errors.Is(err, errs.NotExist) || errors.Is(err, errs.Precondition) {
				return nil
			}
			return err
		})
	}
	err := g.Wait()
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	if e, ok := errors.AsType[*errs.Error](err); ok { // of others it may not be true that they were not carried out
		return errs.New(e.Op, e.Name, e.Kind, fmt.Sprintf("%v; some of the files may be removed", e.Err))
	}
	return err
}
