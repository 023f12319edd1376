package remote

import (
	"context"
	"iter"

	"github.com/sluicefs/sluice/core"
)

// CreateUpload implements core.Uploads.
func (c *Client) CreateUpload(ctx context.Context, p core.Path, o core.CreateOptions) (id string, err error) {
	err = c.call(ctx, methodCreateUpload, func(out *coder) { out.path(&p); out.createOptions(&o) },
		func(in *coder) { in.own = true; text(in, &id) })
	return id, err
}

// CopyPart implements core.Uploads.
func (c *Client) CopyPart(ctx context.Context, p core.Path, id string, number int, src core.Path, r core.Range) (part core.Part, err error) {
	err = c.call(ctx, methodCopyPart, func(out *coder) { out.copyPartArgs(&p, &id, &number, &src, &r) },
		func(in *coder) { in.part(&part) })
	return part, err
}

// CompleteUpload implements core.Uploads.
func (c *Client) CompleteUpload(ctx context.Context, p core.Path, id string, parts []core.Part, o core.CompleteOptions) (core.Info, error) {
	return c.info(ctx, methodCompleteUpload, func(out *coder) { out.completeArgs(&p, &id, &parts, &o) })
}

// AbortUpload implements core.Uploads.
func (c *Client) AbortUpload(ctx context.Context, p core.Path, id string) error {
	return c.call(ctx, methodAbortUpload, func(out *coder) { out.uploadArgs(&p, &id) }, nil)
}

// ListUploads implements core.Uploads. It asks for a page at a time.
func (c *Client) ListUploads(ctx context.Context, dir core.Path, prefix, afterKey, afterID string) iter.Seq2[core.Upload, error] {
	return func(yield func(core.Upload, error) bool) {
		key, id := afterKey, afterID
		pages((*coder).upload,
			func(read func(*coder)) error {
				return c.call(ctx, methodListUploads, func(out *coder) { out.listUploadsArgs(&dir, &prefix, &key, &id) }, read)
			},
			func(last core.Upload) bool { key, id = last.Name, last.ID; return true },
			yield)
	}
}

// ListParts implements core.Uploads. It asks for a page at a time; the first one at once.
func (c *Client) ListParts(ctx context.Context, p core.Path, id string, after int) (u core.Upload, all iter.Seq2[core.Part, error], err error) {
	type item struct {
		part core.Part
		err  error
	}
	var first []item
	var last core.Part
	var more bool
	ask := func(read func(in *coder)) error {
		return c.call(ctx, methodListParts, func(out *coder) { out.uploadArgs(&p, &id); out.int(&after) },
			func(in *coder) { in.upload(&u); read(in) })
	}
	err = ask(func(in *coder) {
		last, more = readPage(in, (*coder).part, func(p core.Part, err error) bool { first = append(first, item{p, err}); return true })
	})
	if err != nil {
		return core.Upload{}, nil, err
	}
	return u, func(yield func(core.Part, error) bool) {
		for _, i := range first {
			if !yield(i.part, i.err) {
				return
			}
		}
		if !more {
			return
		}
		after = last.Number
		pages((*coder).part, ask, func(last core.Part) bool { after = last.Number; return true }, yield)
	}, nil
}
