package gcsufs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// Remove implements ufs.Store. A version is judged before by this process, and again by the service.
func (s *Store) Remove(ctx context.Context, name, version string) error {
	const op = "gcsufs.Remove"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return err
	}
	if name == "" {
		return errs.New(op, name, errs.Invalid, "the root of a store cannot be removed")
	}
	q := url.Values{}
	if version != "" {
		if err := s.is(ctx, op, name, version); err != nil {
			return err
		}
		q.Set("ifGenerationMatch", known(version))
	}
	return s.absent(ctx, s.change(ctx, op, name, call{method: http.MethodDelete, path: s.object(name), query: q}, nil))
}

// RemoveFiles implements ufs.FileRemover: some at a time, each on its own condition.
func (s *Store) RemoveFiles(ctx context.Context, files []ufs.Versioned) error {
	return web.RemoveFiles(ctx, files, s.Remove)
}

// Mkdir implements ufs.Mkdirer: it puts a marker object.
func (s *Store) Mkdir(ctx context.Context, name string, attr ufs.Attr) (ufs.Info, error) {
	const op = "gcsufs.Mkdir"
	if err := s.begin(ctx, op, name, ufs.CheckDir); err != nil || name == "" {
		return ufs.Info{Dir: true}, err
	}
	in, err := s.head(ctx, op, name)
	if !errors.Is(err, errs.NotExist) {
		return in, err
	}
	if attr.Headers["Content-Type"] == "" {
		attr.Headers = map[string]string{"Content-Type": "application/x-directory"}
	}
	in, err = s.put(ctx, op, name, "", ufs.CreateOptions{Attr: attr, IfNew: true})
	if errors.Is(err, errs.Exist) {
		return s.head(ctx, op, name)
	}
	return in, err
}

// put makes name an object that holds text.
func (s *Store) put(ctx context.Context, op, name, text string, o ufs.CreateOptions) (ufs.Info, error) {
	w := &writer{s: s, ctx: ctx, name: name, size: -1, o: o}
	w.buf.WriteString(text)
	w.n = int64(len(text))
	r, err := w.put(ctx, op, nil)
	if err != nil {
		return ufs.Info{}, judged(gone(err), o)
	}
	return described(op, name, &r)
}

// Copy implements ufs.Copier. The service copies what is large in several steps, of which the last makes it visible.
func (s *Store) Copy(ctx context.Context, from, version, to string, attr *ufs.Attr) (ufs.Info, error) {
	const op = "gcsufs.Copy"
	if err := errors.Join(s.begin(ctx, op, from, ufs.CheckFile), s.begin(ctx, op, to, ufs.CheckFile)); err != nil {
		return ufs.Info{}, err
	}
	src, err := s.get(ctx, op, from)
	if err != nil {
		return ufs.Info{}, err
	}
	if version != "" && src.Generation != generation(version) {
		return ufs.Info{}, errs.New(op, from, errs.Precondition, "the object is another version")
	}
	if from == to {
		if attr == nil {
			return described(op, from, src)
		}
		return s.SetAttr(ctx, from, version, *attr)
	}
	c := call{
		method: http.MethodPost, path: s.object(from) + "/rewriteTo/b/" + url.PathEscape(s.o.Bucket) + s.object(to),
		query: url.Values{"ifSourceGenerationMatch": {known(src.Generation)}, "projection": {"noAcl"}},
	}
	if attr != nil { // else a body would replace what it leaves out
		body := encode(*attr)
		if body.Type == "" {
			body.Type = "application/octet-stream"
		}
		if len(body.Metadata) == 0 {
			body.Metadata[metaAttr] = "{}"
		}
		c.json = replacing(body, nil)
	}
	for {
		var out struct {
			Done     bool     `json:"done"`
			Token    string   `json:"rewriteToken"`
			Resource resource `json:"resource"`
		}
		if err := s.change(ctx, op, to, c, &out); err != nil {
			return ufs.Info{}, err
		}
		if out.Done {
			return described(op, to, &out.Resource)
		}
		if out.Token == "" {
			return ufs.Info{}, errs.New(op, to, errs.Unavailable, "the copy does not advance")
		}
		c.query.Set("rewriteToken", out.Token)
	}
}

// SetAttr implements ufs.AttrSetter, in one step. The generation stays.
func (s *Store) SetAttr(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Info, error) {
	const op = "gcsufs.SetAttr"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return ufs.Info{}, err
	}
	was, err := s.get(ctx, op, name)
	if err != nil {
		return ufs.Info{}, err
	}
	if version != "" && was.Generation != generation(version) {
		return ufs.Info{}, errs.New(op, name, errs.Precondition, "the object is another version")
	}
	q := url.Values{"ifGenerationMatch": {known(was.Generation)}, "projection": {"noAcl"}}
	if was.Metageneration != "" {
		q.Set("ifMetagenerationMatch", was.Metageneration) // what is removed is what was there
	}
	var r resource
	c := call{method: http.MethodPatch, path: s.object(name), query: q, json: replacing(encode(attr), was.Metadata)}
	if err := s.change(ctx, op, name, c, &r); err != nil {
		if errors.Is(err, errs.NotExist) {
			return ufs.Info{}, errs.New(op, name, errs.Precondition, "the object is gone")
		}
		return ufs.Info{}, err
	}
	if in, err := s.head(ctx, op, name); err == nil && generation(in.Version) == was.Generation {
		return in, nil
	}
	return described(op, name, &r) // it is changed, whatever came next
}

// replacing returns the body of a request that changes all attributes to those of r: what r has not is removed, which JSON's
// null says, the metadata named in was among it.
func replacing(r *resource, was map[string]string) map[string]any {
	orNull := func(v string) any {
		if v == "" {
			return nil
		}
		return v
	}
	metadata := map[string]any{}
	for k := range maps.Keys(was) {
		metadata[k] = nil
	}
	for k, v := range r.Metadata {
		metadata[k] = v
	}
	return map[string]any{
		"contentType": orNull(r.Type), "contentEncoding": orNull(r.Encoding), "contentDisposition": orNull(r.Disposition),
		"contentLanguage": orNull(r.Language), "cacheControl": orNull(r.Cache), "metadata": metadata,
	}
}

// Probe implements ufs.Prober.
func (s *Store) Probe(ctx context.Context, write bool) error {
	const op = "gcsufs.Probe"
	if _, err := s.page(ctx, s.prefix, "", true, "", 1); err != nil {
		if err = fail(ctx, op, "", err); errors.Is(err, errs.NotExist) {
			return errs.New(op, s.o.Bucket, errs.NotExist, fmt.Sprintf("there is no such bucket at %s; make it, or check the name", s.o.Endpoint))
		}
		return fmt.Errorf("list bucket %q at %s: %w", s.o.Bucket, s.o.Endpoint, err)
	}
	if !write {
		return nil
	}
	name, text := ufs.Staging+"probe-"+rand.Text(), "probe"
	if _, err := s.put(ctx, op, name, text, ufs.CreateOptions{}); err != nil {
		return fmt.Errorf("write to bucket %q: %w", s.o.Bucket, err)
	}
	got, err := s.getStaged(ctx, op, name)
	if err == nil && got != text {
		err = errs.New(op, name, errs.Unavailable, "other bytes came back than were written")
	}
	if err != nil {
		err = fmt.Errorf("read from bucket %q: %w", s.o.Bucket, err)
	}
	dctx, cancel := ufs.Detached(ctx)
	defer cancel()
	if derr := s.deleteStaged(dctx, name); derr != nil {
		err = errors.Join(err, fmt.Errorf("delete from bucket %q: %w", s.o.Bucket, derr))
	}
	return err
}

// Mark implements ufs.Marked.
func (s *Store) Mark(ctx context.Context) (string, error) {
	text, err := s.getStaged(ctx, "gcsufs.Mark", ufs.MarkName)
	if errors.Is(err, errs.NotExist) {
		return "", nil
	}
	return strings.TrimSpace(text), err
}

// SetMark implements ufs.Marked.
func (s *Store) SetMark(ctx context.Context, mark string) error {
	_, err := s.put(ctx, "gcsufs.SetMark", ufs.MarkName, mark, ufs.CreateOptions{IfNew: true})
	return err
}

// The two below, and put, are the only ones that touch other objects of the staging area by their names.

func (s *Store) getStaged(ctx context.Context, op, name string) (string, error) {
	answer, err := s.send(ctx, call{method: http.MethodGet, path: s.object(name), query: url.Values{"alt": {"media"}}})
	if err != nil {
		return "", s.absent(ctx, fail(ctx, op, name, err))
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	return string(b), fail(ctx, op, name, err)
}

func (s *Store) deleteStaged(ctx context.Context, name string) error {
	return s.do(ctx, "gcsufs.deleteStaged", name, call{method: http.MethodDelete, path: s.object(name)}, nil)
}
