package azureufs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// begun are the uploads that this process has begun.
var begun web.Uploads

// Begin implements ufs.Composer. The service has no uploads: this one is a note, and the blocks staged for it.
func (s *Store) Begin(ctx context.Context, name string, attr ufs.Attr) (string, error) {
	const op = "azureufs.Begin"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return "", err
	}
	return begun.Begin(op, s.root, name, attr, func(id, text string) error { return s.putStaged(ctx, op, notes+id, text) })
}

// upload returns the attributes that an upload to name was begun with. Errors: errs.NotExist.
func (s *Store) upload(ctx context.Context, op, name, id string) (ufs.Attr, error) {
	if id == "" || strings.Contains(id, "/") || ufs.CheckFile(s.Features(), op, id) != nil {
		return ufs.Attr{}, web.NoUpload(op, name)
	}
	text, err := s.getStaged(ctx, op, notes+id)
	return web.ReadNote(op, name, text, err)
}

// PutPart implements ufs.Composer. A part is some blocks, whose names have what its ETag is, so that of two attempts at the
// part Complete takes the right one.
func (s *Store) PutPart(ctx context.Context, name, id string, number int, size int64, r io.Reader) (etag string, err error) {
	const op = "azureufs.PutPart"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return "", err
	}
	if !begun.Has(s.root, id) {
		if _, err := s.upload(ctx, op, name, id); err != nil {
			return "", err
		}
	}
	if size < 0 {
		return "", errs.New(op, name, errs.Invalid, fmt.Sprintf("the part has %d bytes", size))
	}
	tag := newTag(id, number, size)
	b := make([]byte, min(partBlock(size), size))
	for i, left := 0, size; left > 0; i++ {
		b = b[:min(int64(len(b)), left)]
		if err := readBlock(op, name, r, b); err != nil {
			return "", err
		}
		if err := s.stageBlock(ctx, op, name, blockID(id, number, i, tag), b); err != nil {
			return "", err
		}
		left -= int64(len(b))
	}
	return hex.EncodeToString(tag[:]), nil
}

// CopyPart implements ufs.Composer. The bytes go through this process.
func (s *Store) CopyPart(
	ctx context.Context, name, id string, number int, from, version string, off, n int64,
) (etag string, err error) {
	r, err := s.Open(ctx, from, off, n, version)
	if err != nil {
		return "", err
	}
	defer r.Close() //nolint:errcheck // only read
	return s.PutPart(ctx, name, id, number, n, r)
}

// Complete implements ufs.Composer. The attributes are those given to Begin.
func (s *Store) Complete(ctx context.Context, name, id string, parts []ufs.Part, o ufs.CreateOptions) (ufs.Info, error) {
	const op = "azureufs.Complete"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return ufs.Info{}, err
	}
	attr, err := s.upload(ctx, op, name, id)
	if err != nil {
		return ufs.Info{}, err
	}
	var blocks []string
	var size int64
	for _, p := range parts {
		tag, ok := readTag(id, p)
		if !ok {
			return ufs.Info{}, errs.New(op, name, errs.Invalid, fmt.Sprintf("part %d is missing, or differs", p.Number))
		}
		for i, step := int64(0), partBlock(p.Size); i*step < p.Size; i++ { // an empty part has no block
			blocks = append(blocks, blockID(id, p.Number, int(i), tag))
		}
		size += p.Size
	}
	if len(blocks) > maxBlocks {
		return ufs.Info{}, errs.New(op, name, errs.TooLarge, fmt.Sprintf("the parts are %d blocks, and a blob has at most %d", len(blocks), maxBlocks))
	}
	o.Attr = attr
	in, err := s.commitBlocks(ctx, op, name, blocks, size, o, nil)
	if err != nil {
		return ufs.Info{}, err
	}
	begun.End(s.root, id)
	dctx, cancel := ufs.Detached(ctx)
	defer cancel()
	_ = s.deleteStaged(dctx, notes+id) // what stays is CleanStaging's
	return in, nil
}

// Cancel implements ufs.Composer. Its blocks are the service's to drop.
func (s *Store) Cancel(ctx context.Context, name, id string) error {
	const op = "azureufs.Cancel"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return err
	}
	if _, err := s.upload(ctx, op, name, id); errors.Is(err, errs.NotExist) {
		return nil
	} else if err != nil {
		return err
	}
	begun.End(s.root, id)
	if err := s.deleteStaged(ctx, notes+id); !errors.Is(err, errs.NotExist) {
		return err
	}
	return nil
}

// Lost implements ufs.Composer. There are none: see CleanStaging.
func (s *Store) Lost(context.Context, string, time.Time, time.Time) ([]string, error) {
	return nil, nil
}

// CleanStaging implements ufs.Store: it removes the notes of uploads that nobody names and that this process has not begun.
// One cluster only may write below a prefix.
func (s *Store) CleanStaging(ctx context.Context, live func(token string) bool) error {
	const op = "azureufs.CleanStaging"
	var all []error
	for page, err := range s.pages(ctx, s.prefix+notes, true, 0) {
		if err != nil {
			return errors.Join(append(all, fail(ctx, op, "", err))...)
		}
		for _, b := range page.blobs {
			if b == nil || b.Name == nil {
				continue
			}
			name := strings.TrimPrefix(*b.Name, s.prefix)
			if id := strings.TrimPrefix(name, notes); live(id) || begun.Has(s.root, id) {
				continue
			}
			if err := errors.Join(ctx.Err(), ufs.Guard(ctx)); err != nil { // who no longer leads does not know what is live
				return errors.Join(append(all, err)...)
			}
			if err := s.deleteStaged(ctx, name); err != nil && !errors.Is(err, errs.NotExist) {
				all = append(all, err)
			}
		}
	}
	return errors.Join(all...)
}
