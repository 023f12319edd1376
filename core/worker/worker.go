// Package worker serves the bytes of files to whoever has a master's ticket for them, out of a page cache of its own that it
// fills from the stores. It knows no names, versions only as tickets have them, and no permissions but the tickets'
// signatures; so it needs no master to serve, only to learn of a store that it has not opened yet.
//
//	gateway ── ticket, range ──► Worker ── page.Cache ── misses ──► the ticket's store
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs"
)

// Options are what a Worker is made of.
type Options struct {
	Cache *page.Cache // the caller closes it after Close
	Root  ufs.Store   // the store behind "/"; closed by Close
	// Stores asks a master for the stores that tickets name, all but the root.
	Stores func(ctx context.Context) ([]core.StoreSpec, error)
	// OpenStore opens one of them. Its options have been unsealed.
	OpenStore func(ctx context.Context, m core.MountSpec) (ufs.Store, error)
	// Previous asks who owned a page before, or may have one of its copies. nil: there is nobody else.
	Previous Get
	// Sealer has the secret key that the masters have.
	Sealer *seal.Sealer
	Logger *slog.Logger // nil: none
}

// Get fills p with the bytes from r.Off on of the content that r.Ticket is for, if another worker has them. false: none has, and p is not
// to be used.
type Get = func(ctx context.Context, r core.Run, p []byte) bool

// rootID is the root store's name in tickets.
const rootID = "root"

const (
	complainEvery = time.Minute
	// againEvery is how often a store is opened again that refuses, or that is another than the mounted one.
	againEvery = 10 * time.Second
	// askEvery is how often the masters are asked meanwhile whether they have taken what was found for the mounted one.
	askEvery = time.Second
)

// openTime bounds asking for and opening a store, which goes on for others when who first needed it has left.
const openTime = 10 * time.Second

// Worker implements core.Pages, core.Lender and core.Tender. It is safe for concurrent use.
type Worker struct {
	*Tender
	o       Options
	opening singleflight.Group

	mu      sync.Mutex
	stores  map[string]ufs.Store // by id; those that are open
	again   map[string]time.Time // when a store that refused was last opened again
	others  map[string]other     // by id; those that were not the mounted ones when they were last opened
	refused time.Time            // when it was last said that a ticket was
	closed  bool
}

// other is what was found in place of a mounted store.
type other struct {
	err   error
	is    string // StoreSpec.Is of the mounted one then
	seen  time.Time
	asked time.Time // when the masters were last asked for the mounted one
}

// New returns a worker.
func New(o Options) *Worker {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Worker{o: o, stores: map[string]ufs.Store{rootID: o.Root}, again: map[string]time.Time{}, others: map[string]other{}}
	w.Tender = NewTender(o.Cache, o.Sealer, func(t *seal.Ticket) page.Source { return source{w, t} })
	return w
}

// Close closes the stores. What reads from them then fails.
func (w *Worker) Close() error {
	w.Tender.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	var all []error
	for _, s := range w.stores {
		all = append(all, s.Close())
	}
	clear(w.stores)
	return errors.Join(all...)
}

// Pages implements core.Pages.
func (w *Worker) Pages(ctx context.Context, ticket []byte, off, n int64) (core.PageReader, error) {
	t, err := w.verify(ticket, off, n)
	if err != nil {
		return nil, err
	}
	return pages{w.o.Cache.NewReader(ctx, contentOf(t), off, n, source{w, t})}, nil
}

// Lend implements core.Lender.
func (w *Worker) Lend(ctx context.Context, ticket []byte, off, n int64, most int) ([]core.Piece, bool, error) {
	t, err := w.verify(ticket, off, n)
	if err != nil {
		return nil, false, err
	}
	content := contentOf(t)
	resident := pages{w.o.Cache.NewReader(ctx, content, off, n, nil)}.Resident()
	loans, err := w.o.Cache.Lend(ctx, content, off, n, most)
	all := make([]core.Piece, len(loans))
	for i, l := range loans {
		all[i] = core.Piece(l)
	}
	return all, resident, err
}

// verify returns the ticket for the range.
func (w *Worker) verify(ticket []byte, off, n int64) (*seal.Ticket, error) {
	t, err := w.o.Sealer.Verify(ticket, time.Now())
	if err != nil {
		w.complain(err)
		return nil, err
	}
	if off < 0 || n < 0 || off > t.Len || n > t.Len-off {
		return nil, errs.New("worker.Pages", "", errs.Range, "the range lies outside the content")
	}
	return t, nil
}

// complain says, once in a while, that tickets are refused: it is the one sign of a worker that has another secret key than the
// masters, or another time, and so serves nothing.
func (w *Worker) complain(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.Sub(w.refused) > complainEvery {
		w.refused = now
		w.o.Logger.Warn("a ticket is refused; others read in this worker's place. Is the secret key the masters', and the clock right?", "err", err)
	}
}

// pages is a page.Reader as core has it.
type pages struct{ *page.Reader }

// Resident implements core.PageReader.
func (p pages) Resident() bool {
	here, total := p.Reader.Resident()
	return here == total
}

// source reads what a ticket is for from its store.
type source struct {
	w *Worker
	t *seal.Ticket
}

// Origin has misses be remembered.
func (s source) Origin() page.Origin { return originOf(s.t) }

// Open implements page.Source.
func (s source) Open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if h := s.handed(ctx, off, n); h != nil {
		return h, nil
	}
	return s.open(ctx, off, n)
}

// open opens the store.
func (s source) open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	store, err := s.w.store(ctx, s.t.Store)
	if err != nil {
		return nil, err
	}
	rc, err := store.Open(ctx, s.t.Key, s.t.Base+off, n, s.t.Version)
	if errs.KindOf(err) == errs.Permission && s.w.forget(s.t.Store, store) {
		if store, err = s.w.store(ctx, s.t.Store); err != nil {
			return nil, err
		}
		rc, err = store.Open(ctx, s.t.Key, s.t.Base+off, n, s.t.Version)
	}
	switch errs.KindOf(err) {
	case errs.NotExist, errs.NotDir, errs.IsDir, errs.Precondition, errs.Range:
		return nil, errs.New("worker.Read", s.t.Key, errs.Conflict, "this version has left the store")
	}
	return rc, err
}

// forget has a store that refuses be opened again: its secret may be another by now. It returns false if that was tried lately.
func (w *Worker) forget(id string, s ufs.Store) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); id == rootID || w.closed || now.Sub(w.again[id]) < againEvery {
		return false
	} else {
		w.again[id] = now
	}
	if w.stores[id] == s { // else somebody else has done it
		delete(w.stores, id)
		w.close(id, s)
	}
	return true
}

// close closes a store. What others read from it may fail, and is read elsewhere.
func (w *Worker) close(id string, s ufs.Store) {
	if err := s.Close(); err != nil {
		w.o.Logger.Warn("a store could not be closed", "id", id, "err", err)
	}
}

// store returns the open store of that id.
func (w *Worker) store(ctx context.Context, id string) (ufs.Store, error) {
	w.mu.Lock()
	s, closed, x := w.stores[id], w.closed, w.others[id]
	ask := x.err != nil && time.Since(x.asked) >= askEvery
	if ask {
		w.others[id] = other{x.err, x.is, x.seen, time.Now()}
	}
	w.mu.Unlock()
	if closed {
		return nil, errs.New("worker.Read", id, errs.Unavailable, "the worker is stopping")
	}
	if s != nil {
		return s, nil
	}
	lately := x.err != nil && time.Since(x.seen) < againEvery
	if lately && !ask {
		return nil, x.err
	}
	opened := w.opening.DoChan(id, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTime)
		defer cancel()
		return w.open(ctx, id)
	})
	if lately {
		return nil, x.err // others read meanwhile
	}
	select {
	case r := <-opened:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(ufs.Store), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// open asks for the stores and opens the one. Those that are no longer mounted are closed.
func (w *Worker) open(ctx context.Context, id string) (ufs.Store, error) {
	all, err := w.o.Stores(ctx)
	if err != nil {
		return nil, err
	}
	w.keep(all)
	for _, spec := range all {
		if spec.ID != id {
			continue
		}
		if err := w.stillOther(spec); err != nil {
			return nil, err
		}
		if spec.Options, err = w.o.Sealer.Open(id, spec.Options); err != nil {
			return nil, err
		}
		s, err := w.o.OpenStore(ctx, spec.MountSpec)
		if err != nil {
			return nil, errs.E("worker.Open", spec.Path.String(), errs.Unavailable, err)
		}
		if is := s.Features().Is; !ufs.SameRoot(spec.Is, is) { // such as the one that its disk should be mounted on
			err := errors.Join(errs.New("worker.Open", spec.Path.String(), errs.Unavailable, fmt.Sprintf(
				"another directory is at the place of the mounted one on this worker's host (that is %s, this is %s)", spec.Is, is)), s.Close())
			w.isOther(spec, err)
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.closed {
			return nil, errors.Join(errs.New("worker.Open", id, errs.Unavailable, "the worker is stopping"), s.Close())
		}
		w.stores[id] = s
		delete(w.others, id)
		return s, nil
	}
	return nil, errs.New("worker.Open", id, errs.Unavailable, "the store is mounted no more")
}

// stillOther is the error that isOther was told of the store, as long as that counts.
func (w *Worker) stillOther(spec core.StoreSpec) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.others[spec.ID]; x.is == spec.Is && time.Since(x.seen) < againEvery {
		return x.err
	}
	return nil
}

// isOther has reads of the store fail with err for againEvery, or until another directory is the mounted one. It is said once: others
// read in this worker's place, and nobody else hears of it.
func (w *Worker) isOther(spec core.StoreSpec, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.others[spec.ID].err == nil {
		w.o.Logger.Warn("this worker reads nothing of a mount; others read in its place", "store", spec.ID, "err", err)
	}
	now := time.Now()
	w.others[spec.ID] = other{err, spec.Is, now, now}
}

// keep closes the stores that are not among all.
func (w *Worker) keep(all []core.StoreSpec) {
	mounted := map[string]bool{rootID: true}
	for _, s := range all {
		mounted[s.ID] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, s := range w.stores {
		if mounted[id] {
			continue
		}
		delete(w.stores, id)
		delete(w.again, id)
		w.close(id, s)
	}
	maps.DeleteFunc(w.others, func(id string, _ other) bool { return !mounted[id] })
}
