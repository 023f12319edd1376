package remote

import (
	"context"
	"iter"

	"github.com/sluicefs/sluice/core"
)

// info makes a call that returns an Info.
func (c *Client) info(ctx context.Context, m method, args func(c *coder)) (i core.Info, err error) {
	err = c.call(ctx, m, args, func(in *coder) { in.info(&i) })
	return i, err
}

// Stat implements core.Namespace.
func (c *Client) Stat(ctx context.Context, p core.Path) (core.Info, error) {
	return c.info(ctx, methodStat, func(out *coder) { out.path(&p) })
}

// pages yields the entries of all pages. ask gets a page and hands it to read, which returns the last entry and whether
// another page follows it; next prepares ask for that one, or says that enough were yielded.
func pages[T any](code func(*coder, *T), ask func(read func(c *coder)) error, next func(last T) bool, yield func(T, error) bool) {
	for {
		var last T
		var more bool
		err := ask(func(in *coder) { last, more = readPage(in, code, yield) })
		if err != nil {
			var none T
			yield(none, err)
			return
		}
		if !more || !next(last) {
			return
		}
	}
}

// List implements core.Namespace. It asks for a page at a time, each as of the moment it is asked for.
func (c *Client) List(ctx context.Context, dir core.Path, o core.ListOptions) iter.Seq2[core.Info, error] {
	return func(yield func(core.Info, error) bool) {
		o := o
		limited, seen := o.Limit > 0, 0
		pages((*coder).info,
			func(read func(*coder)) error {
				return c.call(ctx, methodList, func(out *coder) { out.listArgs(&dir, &o) }, read)
			},
			func(last core.Info) bool {
				o.After = last.Name
				o.Limit -= seen
				seen = 0
				return !limited || o.Limit > 0
			},
			func(i core.Info, err error) bool { seen++; return yield(i, err) })
	}
}

// Compose implements core.Namespace.
func (c *Client) Compose(ctx context.Context, dst core.Path, parts []core.Path) (core.Info, error) {
	return c.info(ctx, methodCompose, func(out *coder) { out.composeArgs(&dst, &parts) })
}

// Copy implements core.Namespace.
func (c *Client) Copy(ctx context.Context, src, dst core.Path, o core.CopyOptions) (core.Info, error) {
	return c.info(ctx, methodCopy, func(out *coder) { out.copyArgs(&src, &dst, &o) })
}

// Mkdir implements core.Namespace.
func (c *Client) Mkdir(ctx context.Context, p core.Path, o core.MkdirOptions) (core.Info, error) {
	return c.info(ctx, methodMkdir, func(out *coder) { out.path(&p); out.mkdirOptions(&o) })
}

// Rename implements core.Namespace.
func (c *Client) Rename(ctx context.Context, src, dst core.Path, o core.RenameOptions) error {
	return c.call(ctx, methodRename, func(out *coder) { out.renameArgs(&src, &dst, &o) }, func(in *coder) {
		if len(in.s) == 0 { // there is nothing to tell
			return
		}
		var job string
		if text(in, &job); in.err == nil {
			core.Note(ctx, core.RenameInProgress, job)
		}
	})
}

// Remove implements core.Namespace.
func (c *Client) Remove(ctx context.Context, p core.Path, o core.RemoveOptions) error {
	return c.call(ctx, methodRemove, func(out *coder) { out.path(&p); out.removeOptions(&o) }, nil)
}

// SetAttr implements core.Attrs.
func (c *Client) SetAttr(ctx context.Context, p core.Path, a core.AttrChange) (core.Info, error) {
	return c.info(ctx, methodSetAttr, func(out *coder) { out.path(&p); out.attrChange(&a) })
}

// CheckName implements core.Attrs.
func (c *Client) CheckName(ctx context.Context, p core.Path) error {
	return c.call(ctx, methodCheckName, func(out *coder) { out.path(&p) }, nil)
}

// CheckAccess implements core.Attrs.
func (c *Client) CheckAccess(ctx context.Context, p core.Path, want uint32) error {
	return c.call(ctx, methodCheckAccess, func(out *coder) { out.path(&p); out.uint32(&want) }, nil)
}

// Locate implements core.Locator.
func (c *Client) Locate(ctx context.Context, p core.Path, r core.Range) (all []core.Block, err error) {
	err = c.call(ctx, methodLocate, func(out *coder) { out.pathRange(&p, &r) }, func(in *coder) { blocks(in, &all) })
	return all, err
}

// FileChecksum implements core.Locator.
func (c *Client) FileChecksum(ctx context.Context, p core.Path) (s core.FileChecksum, err error) {
	err = c.call(ctx, methodFileChecksum, func(out *coder) { out.path(&p) }, func(in *coder) { in.fileChecksum(&s) })
	return s, err
}

// Summarize implements core.Locator.
func (c *Client) Summarize(ctx context.Context, p core.Path) (s core.Summary, err error) {
	err = c.call(ctx, methodSummarize, func(out *coder) { out.path(&p) }, func(in *coder) { in.summary(&s) })
	return s, err
}

// echo has the server answer with s.
func (c *Client) echo(ctx context.Context, s string) (back string, err error) {
	err = c.call(ctx, methodEcho, func(out *coder) { out.raw(&s) }, func(in *coder) { in.raw(&back) })
	return back, err
}
