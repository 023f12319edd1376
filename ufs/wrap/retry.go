package wrap

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/wait"
	"github.com/sluicefs/sluice/ufs"
)

// Retry returns s with its reads tried up to attempts times while they are errs.Unavailable, with a random pause of up to
// wait, doubled each time. A listing goes on behind the last row, a read of a known version behind the last byte. Changes
// are never repeated: what became of the first try is for the caller to find out.
func Retry(s ufs.Store, attempts int, wait time.Duration) ufs.Store {
	r := &retrying{attempts: attempts, wait: wait}
	r.base = &base{inner: s, around: func(ctx context.Context, c *call, do func(context.Context) error) error {
		if c.op != Stat && c.op != Open {
			return do(ctx)
		}
		return r.try(ctx, func() error { return do(ctx) })
	}}
	return r
}

type retrying struct {
	*base
	attempts int
	wait     time.Duration
}

// try calls do until it succeeds, fails for good, or was called often enough.
func (r *retrying) try(ctx context.Context, do func() error) error {
	for n := 1; ; n++ {
		err := do()
		if n >= r.attempts || !repeatable(err) || !r.pause(ctx, n) {
			return err
		}
	}
}

// repeatable reports whether another try may succeed soon.
func repeatable(err error) bool { return errors.Is(err, errs.Unavailable) && !IsOutage(err) }

// pause waits after the n-th try. It reports false if ctx has ended.
func (r *retrying) pause(ctx context.Context, n int) bool {
	return wait.For(ctx, rand.N(max(1, r.wait<<min(n-1, 10)))) == nil //nolint:gosec // spreads load
}

func (r *retrying) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	return func(yield func(ufs.Info, error) bool) {
		for n, last := 1, after; ; n++ {
			var failed error
			for in, err := range r.base.List(ctx, dir, last, flat) {
				if err != nil {
					failed = err
					break
				}
				n, last = 1, in.Name // it advances: the tries begin anew
				if !yield(in, nil) {
					return
				}
			}
			if failed == nil {
				return
			}
			if n >= r.attempts || !repeatable(failed) || !r.pause(ctx, n) {
				yield(ufs.Info{}, failed)
				return
			}
		}
	}
}

func (r *retrying) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	in, err := r.base.Open(ctx, name, off, n, version)
	if _, checked := in.(ufs.Checker); err != nil || version == "" || checked {
		return in, err
	}
	return &resumed{r: r, ctx: ctx, inner: in, name: name, version: version, off: off, n: n}, nil
}

// resumed is a reader that opens the same version again, behind the last byte, when the store breaks off.
type resumed struct {
	r             *retrying
	ctx           context.Context // of Open
	inner         io.ReadCloser
	name, version string
	off, n        int64 // of what is still to be read; n < 0: to the end
	tries         int
}

func (r *resumed) Read(p []byte) (int, error) {
	for {
		n, err := r.inner.Read(p)
		r.off += int64(n)
		if r.n > 0 {
			r.n -= int64(n)
		}
		if n > 0 {
			r.tries = 0
			if errors.Is(err, errs.Unavailable) {
				err = nil // the next Read meets it again
			}
			return n, err
		}
		r.tries++
		if r.tries >= r.r.attempts || !repeatable(err) || !r.r.pause(r.ctx, r.tries) {
			return 0, err
		}
		again, oerr := r.r.base.Open(r.ctx, r.name, r.off, r.n, r.version)
		if oerr != nil {
			return 0, oerr
		}
		_ = r.inner.Close() // it is broken
		r.inner = again
	}
}

func (r *resumed) Close() error { return r.inner.Close() }
