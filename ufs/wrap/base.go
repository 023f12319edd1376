// Package wrap holds the decorators of ufs.Store, one per file: what is the same for every driver is done here once, and
// drivers do none of it. Each takes a store and returns one with the same contract and the same or fewer abilities; they
// may be stacked in any order. All of them pass ufs/ufstest.
package wrap

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/sluicefs/sluice/ufs"
)

// Op is a call of a store, of a reader or of a writer.
type Op string

// The calls. List stands for each run of rows that is fetched, not for the whole listing; Close, Token and the SetAttr of
// a writer do no I/O and are not among them.
const (
	Stat         Op = "Stat"
	List         Op = "List"
	Open         Op = "Open"
	Read         Op = "Read"
	Check        Op = "Check"
	Create       Op = "Create"
	Write        Op = "Write"
	Prepare      Op = "Prepare"
	Commit       Op = "Commit"
	Abort        Op = "Abort"
	Remove       Op = "Remove"
	RemoveFiles  Op = "RemoveFiles"
	CleanStaging Op = "CleanStaging"
	Rename       Op = "Rename"
	Mkdir        Op = "Mkdir"
	Trash        Op = "Trash"
	Copy         Op = "Copy"
	Append       Op = "Append"
	SetAttr      Op = "SetAttr"
	Begin        Op = "Begin"
	PutPart      Op = "PutPart"
	CopyPart     Op = "CopyPart"
	Complete     Op = "Complete"
	Cancel       Op = "Cancel"
	Lost         Op = "Lost"
	Discard      Op = "Discard"
	Probe        Op = "Probe"
	Mark         Op = "Mark"
	SetMark      Op = "SetMark"
)

// Ops returns every call, for tests that must cover all of them.
func Ops() []Op {
	return []Op{Stat, List, Open, Read, Check, Create, Write, Prepare, Commit, Abort, Remove, RemoveFiles, CleanStaging, Rename, Mkdir,
		Trash, Copy, Append, SetAttr, Begin, PutPart, CopyPart, Complete, Cancel, Lost, Discard, Probe, Mark, SetMark}
}

// Changes reports whether the call can change the store.
func (op Op) Changes() bool {
	switch op {
	case Stat, List, Open, Read, Check, Lost, Probe, Mark:
		return false
	}
	return true
}

// call is one call on its way to the store.
type call struct {
	op   Op
	name string
	n    int // Read, Write: bytes moved, once it is done; List: rows
	size int // Read: bytes that fit, which around may lower

	writes bool // Probe: it would write

	behind []around                    // those it has still to go through
	last   func(context.Context) error // behind them
	next   func(context.Context) error // step, made once
}

// around does the call c by calling do, at most once, with ctx or one derived from it.
type around func(ctx context.Context, c *call, do func(context.Context) error) error

// base is a store all of whose calls go through around, and those behind it. A decorator is a base with an around, and perhaps a method
// of its own. It implements every optional interface; the inner store's Features say what is behind them.
type base struct {
	inner  ufs.Store
	around around
	behind []around                        // see over
	narrow func(ufs.Features) ufs.Features // nil: the inner store's
	// under returns the context that the store sees instead of one, also of streams; nil: the same.
	under func(context.Context) context.Context
	// apart has done by somebody else, and reports true, what would only wait for a store that does not answer; nil: nothing is.
	apart func(do func()) bool
}

// over returns s behind a. What is behind others already gets a before them: each call goes through all of them, and a stream has one
// life, which is much less to do than where each is a store of its own. It is for decorators that call do once, and not again after a
// failure: the life of a stream that failed is over.
func over(s ufs.Store, a around) *base {
	b, ok := s.(*base)
	if !ok {
		return &base{inner: s, around: a}
	}
	return &base{inner: b.inner, narrow: b.narrow, under: b.under, around: a, behind: append([]around{b.around}, b.behind...)}
}

// run does the call c by do.
func (b *base) run(ctx context.Context, c *call, do func(context.Context) error) error {
	if len(b.behind) > 0 {
		c.behind, c.last = b.behind, do
		c.next = c.step
		do = c.next
	}
	return b.around(ctx, c, do)
}

// step goes on with what is behind the around that calls it.
func (c *call) step(ctx context.Context) error {
	if len(c.behind) == 0 {
		return c.last(ctx)
	}
	next := c.behind[0]
	c.behind = c.behind[1:]
	return next(ctx, c, c.next)
}

func (b *base) do(ctx context.Context, op Op, name string, do func(context.Context) error) error {
	return b.pass(ctx, &call{op: op, name: name}, do)
}

func (b *base) pass(ctx context.Context, c *call, do func(context.Context) error) error {
	if b.under != nil {
		ctx = b.under(ctx)
	}
	return b.run(ctx, c, do)
}

// get is do for a call with a result.
func get[T any](
	ctx context.Context, b *base, op Op, name string, do func(context.Context) (T, error),
) (out T, err error) {
	err = b.do(ctx, op, name, func(ctx context.Context) (err error) {
		out, err = do(ctx)
		return err
	})
	return out, err
}

func (b *base) Features() ufs.Features {
	f := b.inner.Features()
	if b.narrow != nil {
		f = b.narrow(f)
	}
	return f
}

func (b *base) Close() error { return b.inner.Close() }

func (b *base) Stat(ctx context.Context, name string) (ufs.Info, error) {
	return get(ctx, b, Stat, name, func(ctx context.Context) (ufs.Info, error) { return b.inner.Stat(ctx, name) })
}

// List fetches rows in runs that grow, so that a decorator is not between every two rows, and none is held while the
// caller looks at them. No run reaches beyond a thousand names, or a multiple: that is a page of most stores, and who wants no more would
// have the store asked for the next one.
func (b *base) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	const longest, page = 256, 1000
	return func(yield func(ufs.Info, error) bool) {
		s := b.stream(ctx, dir)
		defer s.cancel(nil)
		next, stop := iter.Pull2(b.inner.List(s.ctx, dir, after, flat))
		defer stop()
		var run []ufs.Info
		for size, total, more := 1, 0, true; more; size = min(2*size, longest, page-total%page) {
			run = run[:0]
			err := s.call(&call{op: List, name: dir}, func(c *call) error {
				for c.n < size {
					in, err, ok := next()
					if more = ok && err == nil; !more {
						return err
					}
					run, c.n = append(run, in), c.n+1
				}
				return nil
			})
			total += len(run)
			for _, in := range run {
				if !yield(in, nil) {
					return
				}
			}
			if err != nil {
				yield(ufs.Info{}, err)
				return
			}
		}
	}
}

func (b *base) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	s := b.stream(ctx, name)
	var r io.ReadCloser
	err := s.call(&call{op: Open, name: name}, func(*call) (err error) {
		r, err = b.inner.Open(s.ctx, name, off, n, version)
		return err
	})
	if err != nil {
		s.cancel(nil)
		if r != nil {
			_ = r.Close() // opened, and then refused by the decorator
		}
		return nil, err
	}
	out := reader{stream: s, inner: r}
	if c, ok := r.(ufs.Checker); ok {
		return checkedReader{reader: out, check: c}, nil
	}
	return out, nil
}

func (b *base) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (ufs.Writer, error) {
	return b.writer(ctx, Create, name, func(ctx context.Context) (ufs.Writer, error) {
		return b.inner.Create(ctx, name, size, o)
	})
}

func (b *base) Append(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Writer, error) {
	return b.writer(ctx, Append, name, func(ctx context.Context) (ufs.Writer, error) {
		return ufs.Append(ctx, b.inner, name, version, attr)
	})
}

func (b *base) Remove(ctx context.Context, name, version string) error {
	return b.do(ctx, Remove, name, func(ctx context.Context) error { return b.inner.Remove(ctx, name, version) })
}

func (b *base) RemoveFiles(ctx context.Context, files []ufs.Versioned) error {
	return b.do(ctx, RemoveFiles, "", func(ctx context.Context) error { return ufs.RemoveFiles(ctx, b.inner, files) })
}

func (b *base) CleanStaging(ctx context.Context, live func(string) bool) error {
	return b.do(ctx, CleanStaging, "", func(ctx context.Context) error { return b.inner.CleanStaging(ctx, live) })
}

func (b *base) Discard(ctx context.Context, token, origin string) error {
	return b.do(ctx, Discard, "", func(ctx context.Context) error { return ufs.Discard(ctx, b.inner, token, origin) })
}

func (b *base) Rename(ctx context.Context, from, to string, replace bool) error {
	return b.do(ctx, Rename, from, func(ctx context.Context) error { return ufs.Rename(ctx, b.inner, from, to, replace) })
}

func (b *base) Mkdir(ctx context.Context, name string, attr ufs.Attr) (ufs.Info, error) {
	return get(ctx, b, Mkdir, name, func(ctx context.Context) (ufs.Info, error) {
		return ufs.Mkdir(ctx, b.inner, name, attr)
	})
}

func (b *base) Trash(ctx context.Context, dir string) error {
	return b.do(ctx, Trash, dir, func(ctx context.Context) error { return ufs.Trash(ctx, b.inner, dir) })
}

func (b *base) Copy(ctx context.Context, from, version, to string, attr *ufs.Attr) (ufs.Info, error) {
	return get(ctx, b, Copy, from, func(ctx context.Context) (ufs.Info, error) {
		return ufs.Copy(ctx, b.inner, from, version, to, attr)
	})
}

func (b *base) SetAttr(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Info, error) {
	return get(ctx, b, SetAttr, name, func(ctx context.Context) (ufs.Info, error) {
		return ufs.SetAttr(ctx, b.inner, name, version, attr)
	})
}

func (b *base) Probe(ctx context.Context, write bool) error {
	return b.pass(ctx, &call{op: Probe, writes: write}, func(ctx context.Context) error { return ufs.Probe(ctx, b.inner, write) })
}

func (b *base) Mark(ctx context.Context) (string, error) {
	return get(ctx, b, Mark, ufs.MarkName, func(ctx context.Context) (string, error) { return ufs.Mark(ctx, b.inner) })
}

func (b *base) SetMark(ctx context.Context, mark string) error {
	return b.do(ctx, SetMark, ufs.MarkName, func(ctx context.Context) error { return ufs.SetMark(ctx, b.inner, mark) })
}

// Watch implements ufs.Watcher. It is no call that is answered: it has no slot of a limit, no time to be done in, and is not counted.
func (b *base) Watch(ctx context.Context, tell func(ufs.Change)) error {
	return ufs.Watch(ctx, b.inner, tell)
}

func (b *base) Begin(ctx context.Context, name string, attr ufs.Attr) (string, error) {
	return get(ctx, b, Begin, name, func(ctx context.Context) (string, error) {
		c, err := ufs.ComposerOf(b.inner)
		if err != nil {
			return "", err
		}
		return c.Begin(ctx, name, attr)
	})
}

func (b *base) PutPart(
	ctx context.Context, name, id string, number int, size int64, r io.Reader,
) (etag string, err error) {
	return get(ctx, b, PutPart, name, func(ctx context.Context) (string, error) {
		c, err := ufs.ComposerOf(b.inner)
		if err != nil {
			return "", err
		}
		return c.PutPart(ctx, name, id, number, size, r)
	})
}

func (b *base) CopyPart(
	ctx context.Context, name, id string, number int, from, version string, off, n int64,
) (etag string, err error) {
	return get(ctx, b, CopyPart, name, func(ctx context.Context) (string, error) {
		c, err := ufs.ComposerOf(b.inner)
		if err != nil {
			return "", err
		}
		return c.CopyPart(ctx, name, id, number, from, version, off, n)
	})
}

func (b *base) Complete(
	ctx context.Context, name, id string, parts []ufs.Part, o ufs.CreateOptions,
) (ufs.Info, error) {
	return get(ctx, b, Complete, name, func(ctx context.Context) (ufs.Info, error) {
		c, err := ufs.ComposerOf(b.inner)
		if err != nil {
			return ufs.Info{}, err
		}
		return c.Complete(ctx, name, id, parts, o)
	})
}

func (b *base) Cancel(ctx context.Context, name, id string) error {
	return b.do(ctx, Cancel, name, func(ctx context.Context) error {
		c, err := ufs.ComposerOf(b.inner)
		if err != nil {
			return err
		}
		return c.Cancel(ctx, name, id)
	})
}

func (b *base) Lost(ctx context.Context, name string, from, to time.Time) ([]string, error) {
	return get(ctx, b, Lost, name, func(ctx context.Context) ([]string, error) {
		c, err := ufs.ComposerOf(b.inner)
		if err != nil {
			return nil, err
		}
		return c.Lost(ctx, name, from, to)
	})
}
