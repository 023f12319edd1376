package gcsufs

import (
	"context"
	"crypto/md5" //nolint:gosec // the service's checksum is an MD5
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// A multipart upload is the objects below .sluice/uploads/ID/: a note, and one of each attempt at a part, named by its number
// and what its ETag is. Complete composes them, 32 at a time, and of those again: the last composition is the file.
const (
	uploads = ufs.Staging + "uploads/"
	note    = "/note"
)

// begun are the uploads that this process has begun.
var begun web.Uploads

// Begin implements ufs.Composer.
func (s *Store) Begin(ctx context.Context, name string, attr ufs.Attr) (string, error) {
	const op = "gcsufs.Begin"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return "", err
	}
	return begun.Begin(op, s.root, name, attr, func(id, text string) error {
		_, err := s.put(ctx, op, uploads+id+note, text, ufs.CreateOptions{})
		return err
	})
}

// upload returns the attributes that an upload to name was begun with. Errors: errs.NotExist.
func (s *Store) upload(ctx context.Context, op, name, id string) (ufs.Attr, error) {
	if strings.Contains(id, "/") || s.begin(ctx, op, id, ufs.CheckFile) != nil {
		return ufs.Attr{}, errors.Join(ctx.Err(), web.NoUpload(op, name))
	}
	text, err := s.getStaged(ctx, op, uploads+id+note)
	return web.ReadNote(op, name, text, err)
}

func partName(id string, number int, etag string) string {
	return fmt.Sprintf("%s%s/%05d-%s", uploads, id, number, etag)
}

// PutPart implements ufs.Composer.
func (s *Store) PutPart(ctx context.Context, name, id string, number int, size int64, r io.Reader) (etag string, err error) {
	const op = "gcsufs.PutPart"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return "", err
	}
	if !begun.Has(s.root, id) {
		if _, err := s.upload(ctx, op, name, id); err != nil {
			return "", err
		}
	}
	tag := make([]byte, 16)
	rand.Read(tag)
	etag = hex.EncodeToString(tag)
	w := &writer{s: s, ctx: ctx, name: partName(id, number, etag), size: size, sum: md5.New()} //nolint:gosec // the service's checksum is an MD5
	if _, err := io.Copy(w, io.LimitReader(r, size)); err != nil {
		_ = w.Abort() // what stays is the service's to drop
		return "", err
	}
	_, err = w.Commit(ctx)
	return etag, err
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
	const op = "gcsufs.Complete"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return ufs.Info{}, err
	}
	attr, err := s.upload(ctx, op, name, id)
	if err != nil {
		return ufs.Info{}, err
	}
	there, err := s.parts(ctx, op, name, id)
	if err != nil {
		return ufs.Info{}, err
	}
	var from []source
	var size int64
	for _, p := range parts {
		x, ok := there[partName(id, p.Number, p.ETag)]
		if !ok || x.size != p.Size {
			return ufs.Info{}, errs.New(op, name, errs.Invalid, fmt.Sprintf("part %d is missing, or differs", p.Number))
		}
		from = append(from, x.source)
		size += p.Size
	}
	for level := 0; len(from) > maxSource; level++ {
		var next []source
		for i := 0; i < len(from); i += maxSource {
			r, err := s.compose(ctx, op, fmt.Sprintf("%s%s/compose-%d-%05d-%s", uploads, id, level, i, rand.Text()), from[i:min(i+maxSource, len(from))], &resource{}, nil)
			if err != nil {
				return ufs.Info{}, err
			}
			next = append(next, source{Name: r.Name, Generation: r.Generation})
		}
		from = next
	}
	if len(from) == 0 {
		return ufs.Info{}, errs.New(op, name, errs.Invalid, "an upload without parts is no file")
	}
	r, err := s.compose(ctx, op, name, from, encode(attr), &o)
	if err != nil {
		return ufs.Info{}, judged(err, o)
	}
	in, err := described(op, name, r)
	if err == nil && in.Size != size {
		err = errs.New(op, name, errs.Unavailable, fmt.Sprintf("%d bytes were composed, of %d", in.Size, size))
	}
	if err == nil {
		begun.End(s.root, id)
		dctx, cancel := ufs.Detached(ctx)
		defer cancel()
		_ = s.drop(dctx, id) // what stays is CleanStaging's
	}
	return in, err
}

// source is an object to compose.
type source struct {
	Name       string `json:"name"`
	Generation string `json:"generation"`
}

type part struct {
	source
	size int64
}

// parts returns what is below an upload, by name.
func (s *Store) parts(ctx context.Context, op, name, id string) (map[string]part, error) {
	all := map[string]part{}
	for p, err := range s.pages(ctx, s.prefix+uploads+id+"/", "", true, pageSize) {
		if err != nil {
			return nil, s.listed(ctx, op, name, err)
		}
		for i := range p.Items {
			in, ok := p.Items[i].info("")
			if !ok {
				return nil, errs.New(op, name, errs.Unavailable, "the listing has an object without a size or a generation")
			}
			all[strings.TrimPrefix(p.Items[i].Name, s.prefix)] = part{source{p.Items[i].Name, p.Items[i].Generation}, in.Size}
		}
	}
	return all, nil
}

// compose makes name of the objects from. With o it is the step that others see.
func (s *Store) compose(ctx context.Context, op, name string, from []source, r *resource, o *ufs.CreateOptions) (*resource, error) {
	if r.Type == "" {
		r.Type = "application/octet-stream"
	}
	c := call{
		method: http.MethodPost, path: s.object(name) + "/compose", query: url.Values{},
		json: map[string]any{"sourceObjects": from, "destination": r},
	}
	var out resource
	var err error
	if o == nil {
		err = s.do(ctx, op, name, c, &out)
	} else {
		condition(c.query, *o)
		err = s.change(ctx, op, name, c, &out)
	}
	if errors.Is(err, errs.NotExist) {
		err = errs.New(op, name, errs.Invalid, "a part is gone")
	}
	return &out, err
}

// drop removes what an upload has, its note last, by which the rest is found again.
func (s *Store) drop(ctx context.Context, id string) error {
	const op = "gcsufs.Cancel"
	all, err := s.parts(ctx, op, "", id)
	if err != nil {
		return err
	}
	first := uploads + id + note
	for name := range all {
		if name != first {
			err = errors.Join(err, s.deleteStaged(ctx, name))
		}
	}
	if _, ok := all[first]; ok && err == nil {
		err = s.deleteStaged(ctx, first)
	}
	if errors.Is(err, errs.NotExist) { // somebody else drops it too
		return nil
	}
	return err
}

// Cancel implements ufs.Composer.
func (s *Store) Cancel(ctx context.Context, name, id string) error {
	const op = "gcsufs.Cancel"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return err
	}
	if _, err := s.upload(ctx, op, name, id); errors.Is(err, errs.NotExist) {
		return nil
	} else if err != nil {
		return err
	}
	begun.End(s.root, id)
	return s.drop(ctx, id)
}

// Lost implements ufs.Composer. There are none: see CleanStaging.
func (s *Store) Lost(context.Context, string, time.Time, time.Time) ([]string, error) {
	return nil, nil
}

// CleanStaging implements ufs.Store: it removes the uploads that nobody names and that this process has not begun. One cluster
// only may write below a prefix.
func (s *Store) CleanStaging(ctx context.Context, live func(token string) bool) error {
	const op = "gcsufs.CleanStaging"
	var all []error
	for p, err := range s.pages(ctx, s.prefix+uploads, "", false, pageSize) {
		if err != nil {
			return errors.Join(append(all, s.listed(ctx, op, "", err))...)
		}
		for _, dir := range p.Prefixes {
			id := path.Base(dir)
			if live(id) || begun.Has(s.root, id) {
				continue
			}
			if err := errors.Join(ctx.Err(), ufs.Guard(ctx)); err != nil { // who no longer leads does not know what is live
				return errors.Join(append(all, err)...)
			}
			if err := s.drop(ctx, id); err != nil {
				all = append(all, err)
			}
		}
	}
	return errors.Join(all...)
}
