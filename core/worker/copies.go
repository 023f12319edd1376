package worker

import (
	"context"
	"io"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
)

// Copies returns a reader of bytes [off, off+n) of the ticket's content, out of this worker's cache: pages that it lacks come from who
// has them by get, and are kept like those that are its own. Nothing is read from a store: from the first page on that neither
// has, the reader fails with errs.NotExist, whatever it has read before. Errors: those of Pages; errs.Unsupported if the pages of
// the content are not to be kept.
func (w *Worker) Copies(ctx context.Context, ticket []byte, off, n int64, get Get) (interface {
	core.PageReader
	io.Reader
}, error) {
	t, err := w.verify(ticket, off, n)
	if err != nil {
		return nil, err
	}
	if t.NoCache {
		return nil, errs.New("worker.Copies", t.Key, errs.Unsupported, "these bytes are not to be kept")
	}
	return pages{w.o.Cache.NewReader(ctx, contentOf(t), off, n, copySource{source{w, t}, get})}, nil
}

// copySource implements page.Source over another worker.
type copySource struct {
	of  source
	get Get
}

// Open implements page.Source.
func (s copySource) Open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if h := s.of.from(ctx, s.get, s.absent, off, n); h != nil {
		return h, nil
	}
	return s.absent(ctx, off, n)
}

func (s copySource) absent(context.Context, int64, int64) (io.ReadCloser, error) {
	return nil, errs.New("worker.Copies", s.of.t.Key, errs.NotExist, "no worker that was asked has the page")
}

var _ page.Source = copySource{}
