package worker

import (
	"context"
	"io"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/page"
)

// handed reads the pages of a content that another worker has, and from the first one on that it has not from the store.
type handed struct {
	ctx  context.Context
	get  Get
	then func(ctx context.Context, off, n int64) (io.ReadCloser, error) // the store's
	run  core.Run
	off  int64 // of what comes after page
	left int64 // bytes from there on
	buf  []byte
	page []byte        // what has come of one page and is unread
	rest io.ReadCloser // the store's, once it is asked
}

// handed returns the content's bytes [off, off+n) if their first page is with the worker that owned it before; else nil.
func (s source) handed(ctx context.Context, off, n int64) *handed {
	return s.from(ctx, s.w.o.Previous, s.open, off, n)
}

// from is handed with who is asked, and who then.
func (s source) from(ctx context.Context, get Get, then func(ctx context.Context, off, n int64) (io.ReadCloser, error), off, n int64) *handed {
	if get == nil || s.t.NoCache {
		return nil
	}
	h := &handed{get: get, then: then, ctx: ctx, off: off, left: n, run: core.Run{ID: s.t.ID, Rev: s.t.Rev, Copies: core.Copies{Max: s.t.Copies}, Ticket: s.w.o.Sealer.Sign(s.t)}}
	if !h.next() {
		return nil
	}
	return h
}

// next has the next page come from the worker, and reports whether it did.
func (h *handed) next() bool {
	n := min(h.left, page.Size-h.off%page.Size)
	if int64(cap(h.buf)) < n {
		h.buf = make([]byte, n)
	}
	h.run.Off, h.run.Len = h.off, n
	if !h.get(h.ctx, h.run, h.buf[:n]) {
		return false
	}
	h.page = h.buf[:n]
	h.off += n
	h.left -= n
	return true
}

// Read implements io.Reader.
func (h *handed) Read(p []byte) (int, error) {
	if h.rest == nil && len(h.page) == 0 {
		if h.left == 0 {
			return 0, io.EOF
		}
		if !h.next() {
			rest, err := h.then(h.ctx, h.off, h.left)
			if err != nil {
				return 0, err
			}
			h.rest = rest
		}
	}
	if h.rest != nil {
		return h.rest.Read(p)
	}
	n := copy(p, h.page)
	h.page = h.page[n:]
	return n, nil
}

// Check implements what page.Source says of it: for the store, which may have changed while it was read. A worker's pages are of
// the version that they are kept for.
func (h *handed) Check() error {
	if c, ok := h.rest.(interface{ Check() error }); ok {
		return c.Check()
	}
	return nil
}

// Close implements io.Closer.
func (h *handed) Close() error {
	if h.rest != nil {
		return h.rest.Close()
	}
	return nil
}
