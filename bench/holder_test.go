package main

import (
	"context"
	"io"
	"iter"
	"sync"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// worker holds in memory how many bytes there were of each attempt, and none of them.
type worker struct {
	mu  sync.Mutex
	all map[core.HeldID]int64
}

// Choose implements core.Holders.
func (w *worker) Choose(int, bool, ...string) []core.Holder { return w.All() }

// Holder implements core.Holders.
func (w *worker) Holder(name string) (core.Holder, bool) { return w, name == w.Name() }

// All implements core.Holders.
func (w *worker) All() []core.Holder { return []core.Holder{w} }

// Leaving implements core.Holders.
func (w *worker) Leaving() []string { return nil }

// Name implements core.Holder.
func (w *worker) Name() string { return "w1" }

// Hold implements core.Holder.
func (w *worker) Hold(_ context.Context, id core.HeldID) (core.HoldWriter, error) {
	return &heldWriter{w: w, id: id}, nil
}

// Held implements core.Holder.
func (w *worker) Held(context.Context, core.HeldID, int64, int64) (io.ReadCloser, error) {
	return nil, errs.New("bench.Held", w.Name(), errs.NotExist, "no bytes are kept")
}

// Release implements core.Holder.
func (w *worker) Release(_ context.Context, ids ...core.HeldID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		delete(w.all, id)
	}
	return nil
}

// Holds implements core.Holder.
func (w *worker) Holds(context.Context) iter.Seq2[core.Held, error] {
	return func(yield func(core.Held, error) bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for id, n := range w.all {
			if !yield(core.Held{HeldID: id, Size: n}, nil) {
				return
			}
		}
	}
}

type heldWriter struct {
	w  *worker
	id core.HeldID
	n  int64
}

// Write implements core.HoldWriter.
func (h *heldWriter) Write(p []byte) (int, error) {
	h.n += int64(len(p))
	return len(p), nil
}

// Commit implements core.HoldWriter.
func (h *heldWriter) Commit(context.Context, bool) error {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.all[h.id] = h.n
	return nil
}

// Abort implements core.HoldWriter.
func (h *heldWriter) Abort() error { return nil }
