package namespace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/page"
)

// heldSource reads the bytes of a Local entry from the workers that hold them.
type heldSource struct {
	n       *Namespace
	entry   *meta.Entry
	path    core.Path // when it was opened
	workers []string  // in the order in which they are asked
}

func (n *Namespace) heldSource(pl *place) heldSource {
	return heldSource{n: n, entry: pl.entry, path: pl.path, workers: pl.entry.Hold.Workers}
}

var _ page.Source = heldSource{}

// Open implements page.Source.
func (s heldSource) Open(ctx context.Context, off, length int64) (io.ReadCloser, error) {
	r := &heldReader{heldSource: s, ctx: ctx, off: off, left: length}
	if err := r.next(); err != nil {
		return nil, err
	}
	return r, nil
}

// heldReader goes on with the next worker where one fails, and with the store once that has the bytes.
type heldReader struct {
	heldSource
	ctx       context.Context
	off, left int64
	asked     int
	cur       io.ReadCloser
	failed    []error
	stored    bool // cur is the store's: what that fails with is final
}

// next makes cur a reader of what is left.
func (r *heldReader) next() error {
	for ; r.asked < len(r.workers); r.asked++ {
		name := r.workers[r.asked]
		err := error(errs.New("namespace.Read", name, errs.Unavailable, "the worker cannot be reached"))
		if h, ok := r.n.holder(name); ok {
			if r.cur, err = h.Held(r.ctx, heldID(r.entry), r.off, r.left); err == nil {
				r.asked++
				return nil
			}
		}
		if cause := context.Cause(r.ctx); cause != nil {
			return cause
		}
		r.failed = append(r.failed, fmt.Errorf("worker %s: %w", name, err))
	}
	return r.elsewhere()
}

// elsewhere looks where the bytes are by now.
func (r *heldReader) elsewhere() (err error) {
	moved := r.n.moves.position()
	pl := r.n.whereabouts(heldID(r.entry), r.path)
	switch {
	case pl.holds(heldID(r.entry)):
		more := slices.DeleteFunc(slices.Clone(pl.entry.Hold.Workers), func(w string) bool { return slices.Contains(r.workers, w) })
		if len(more) == 0 {
			return core.NotGiven(r.path.String(), r.workers, errors.Join(r.failed...))
		}
		r.workers = append(slices.Clone(r.workers), more...)
		return r.next()
	case pl.persisted() && pl.entry.ID == r.entry.ID && pl.entry.Rev == r.entry.Rev && pl.mount != nil:
		src := &stored{n: r.n, m: pl.mount, key: pl.key, version: pl.entry.Version, entry: pl.entry, moved: moved, path: pl.path}
		r.stored = true
		r.cur, err = src.open(r.ctx, r.off, r.left)
		return err
	}
	return errs.New("namespace.Read", r.path.String(), errs.Conflict, "this version is no more and is not wholly cached; open the file again")
}

// Read implements io.Reader.
func (r *heldReader) Read(p []byte) (int, error) {
	for {
		k, err := r.cur.Read(p)
		r.off, r.left = r.off+int64(k), r.left-int64(k)
		switch {
		case err == nil, r.stored, err == io.EOF && r.left == 0:
			return k, err
		case context.Cause(r.ctx) != nil:
			return k, context.Cause(r.ctx)
		case err == io.EOF:
			err = io.ErrUnexpectedEOF
		}
		r.failed = append(r.failed, err)
		r.cur.Close()
		r.cur = io.NopCloser(strings.NewReader(""))
		if err := r.next(); err != nil {
			return k, err
		}
		if k > 0 {
			return k, nil
		}
	}
}

// Check reports what the store says of the bytes read so far, if they are the store's.
func (r *heldReader) Check() error {
	if c, ok := r.cur.(interface{ Check() error }); ok {
		return c.Check()
	}
	return nil
}

// Close implements io.Closer.
func (r *heldReader) Close() error { return r.cur.Close() }

// holder returns the worker of that name, if it can be reached.
func (n *Namespace) holder(name string) (core.Holder, bool) {
	if n.holders == nil {
		return nil, false
	}
	return n.holders.Holder(name)
}

// whereabouts returns the place of the bytes id: where a Local entry of them is or, if there is none, what is at path.
func (n *Namespace) whereabouts(id core.HeldID, path core.Path) place {
	n.holds.mu.Lock()
	it := n.holds.items[id]
	n.holds.mu.Unlock()
	if it != nil {
		if pl, ok := n.locate(it); ok {
			return pl
		}
	}
	return n.walk(path)
}
