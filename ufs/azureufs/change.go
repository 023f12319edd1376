package azureufs

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// Remove implements ufs.Store.
func (s *Store) Remove(ctx context.Context, name, version string) error {
	const op = "azureufs.Remove"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return err
	}
	if name == "" {
		return errs.New(op, name, errs.Invalid, "the root of a store cannot be removed")
	}
	err := s.delete(ctx, op, name, name, version)
	if !ufs.IsDir(name) || version != "" || !errors.Is(err, errs.NotExist) {
		return err
	}
	// It may be one of Hadoop's directories, which is a blob of the name without the "/".
	at := strings.TrimSuffix(name, "/")
	out, herr := s.blob(at).GetProperties(ctx, nil)
	if herr = fail(ctx, op, name, herr); errors.Is(herr, errs.NotExist) || herr == nil && !folder(out.Metadata) {
		return err
	} else if herr != nil {
		return herr
	}
	return s.delete(ctx, op, name, at, tag(out.ETag))
}

func (s *Store) delete(ctx context.Context, op, name, at, version string) error {
	return s.change(ctx, op, name, func(ctx context.Context) error {
		_, err := s.blob(at).Delete(ctx, &blob.DeleteOptions{AccessConditions: condition(version, false)})
		return err
	})
}

// RemoveFiles implements ufs.FileRemover: some at a time, each on its own condition.
func (s *Store) RemoveFiles(ctx context.Context, files []ufs.Versioned) error {
	return web.RemoveFiles(ctx, files, s.Remove)
}

// Mkdir implements ufs.Mkdirer: it puts a marker blob.
func (s *Store) Mkdir(ctx context.Context, name string, attr ufs.Attr) (ufs.Info, error) {
	const op = "azureufs.Mkdir"
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
	f := encode(attr)
	err = s.change(ctx, op, name, func(ctx context.Context) error {
		_, err := s.blob(name).Upload(ctx, streaming.NopCloser(bytes.NewReader(nil)), &blockblob.UploadOptions{
			Metadata: f.meta, HTTPHeaders: f.headers, AccessConditions: condition("", true),
		})
		return err
	})
	if err != nil && !errors.Is(err, errs.Exist) && !errors.Is(err, errs.Precondition) {
		return ufs.Info{}, err
	}
	return s.head(ctx, op, name)
}

// Copy implements ufs.Copier. The service copies in one step what is not too long for it and keeps its headers, for it copies
// those as they are; anything else goes through this process.
func (s *Store) Copy(ctx context.Context, from, version, to string, attr *ufs.Attr) (ufs.Info, error) {
	const op = "azureufs.Copy"
	if err := errors.Join(s.begin(ctx, op, from, ufs.CheckFile), s.begin(ctx, op, to, ufs.CheckFile)); err != nil {
		return ufs.Info{}, err
	}
	if from == to && attr != nil {
		return s.SetAttr(ctx, from, version, *attr)
	}
	src, err := s.head(ctx, op, from)
	if err != nil {
		return ufs.Info{}, err
	}
	if version != "" && src.Version != version {
		return ufs.Info{}, errs.New(op, from, errs.Precondition, "the blob is another version")
	}
	if from == to {
		return src, nil
	}
	if src.Size == 0 || src.Size > maxPutCopy || attr != nil && !sameHeaders(encode(src.Attr).headers, encode(*attr).headers) {
		return ufs.Transfer(ctx, s, from, src.Version, s, to, ufs.CreateOptions{}, attr)
	}
	o := &blob.CopyFromURLOptions{SourceModifiedAccessConditions: &blob.SourceModifiedAccessConditions{
		SourceIfMatch: condition(src.Version, false).ModifiedAccessConditions.IfMatch,
	}}
	if attr != nil {
		if o.Metadata = encode(*attr).meta; len(o.Metadata) == 0 { // none at all would be that of the source
			none := "{}"
			o.Metadata = map[string]*string{metaAttr: &none}
		}
	}
	at := s.blob(from).URL() // has the signature if there is one
	if s.o.Key != "" {
		if at, err = s.blob(from).GetSASURL(sas.BlobPermissions{Read: true}, time.Now().Add(time.Hour), nil); err != nil {
			return ufs.Info{}, errs.New(op, from, errs.Other, "the source of the copy cannot be signed")
		}
	}
	// Where the service does not get at the source by its own URL, it has copied nothing: this process then reads it, and says
	// whether it is there.
	refused := false
	var out blob.CopyFromURLResponse
	err = s.change(ctx, op, to, func(ctx context.Context) (err error) {
		out, err = s.blob(to).CopyFromURL(ctx, at, o)
		refused = statusOf(err)/100 == 4 && bloberror.HasCode(err, bloberror.CannotVerifyCopySource, bloberror.BlobNotFound)
		return err
	})
	if refused {
		return ufs.Transfer(ctx, s, from, src.Version, s, to, ufs.CreateOptions{}, attr)
	}
	if err != nil {
		return ufs.Info{}, err
	}
	return s.facts(ctx, op, to, tag(out.ETag), src.Size)
}

// sameHeaders compares content headers. The service gives a blob without a type one.
func sameHeaders(a, b *blob.HTTPHeaders) bool {
	same := func(a, b *string, unset string) bool {
		if a == nil {
			a = &unset
		}
		if b == nil {
			b = &unset
		}
		return *a == *b
	}
	return same(a.BlobContentType, b.BlobContentType, "application/octet-stream") && same(a.BlobCacheControl, b.BlobCacheControl, "") &&
		same(a.BlobContentDisposition, b.BlobContentDisposition, "") && same(a.BlobContentEncoding, b.BlobContentEncoding, "") &&
		same(a.BlobContentLanguage, b.BlobContentLanguage, "")
}

// SetAttr implements ufs.AttrSetter. The service changes headers and metadata in one step each: where both change, the headers
// go first, and what is left undone after a failure is the metadata, Attr.Origin in it.
func (s *Store) SetAttr(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Info, error) {
	const op = "azureufs.SetAttr"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return ufs.Info{}, err
	}
	was, err := s.head(ctx, op, name)
	if err != nil {
		return ufs.Info{}, err
	}
	if version != "" && was.Version != version {
		return ufs.Info{}, errs.New(op, name, errs.Precondition, "the blob is another version")
	}
	now, f := was.Version, encode(attr)
	missing := func(err error) error { // whom the condition found missing was there
		return judged(err, ufs.CreateOptions{IfVersion: now})
	}
	if !sameHeaders(encode(was.Attr).headers, f.headers) {
		p, err := s.blob(name).GetProperties(ctx, &blob.GetPropertiesOptions{AccessConditions: condition(now, false)})
		if err != nil {
			return ufs.Info{}, fail(ctx, op, name, err)
		}
		f.headers.BlobContentMD5 = p.ContentMD5 // it would be cleared
		var out blob.SetHTTPHeadersResponse
		err = s.change(ctx, op, name, func(ctx context.Context) (err error) {
			out, err = s.blob(name).SetHTTPHeaders(ctx, *f.headers, &blob.SetHTTPHeadersOptions{AccessConditions: condition(now, false)})
			return err
		})
		if err != nil {
			return ufs.Info{}, missing(err)
		}
		now = tag(out.ETag)
		meta, err := s.blob(name).SetMetadata(ctx, f.meta, &blob.SetMetadataOptions{AccessConditions: condition(now, false)})
		if err != nil { // half of it is done
			return ufs.Info{}, missing(fail(ctx, op, name, err))
		}
		return s.facts(ctx, op, name, tag(meta.ETag), was.Size)
	}
	var out blob.SetMetadataResponse
	err = s.change(ctx, op, name, func(ctx context.Context) (err error) {
		out, err = s.blob(name).SetMetadata(ctx, f.meta, &blob.SetMetadataOptions{AccessConditions: condition(now, false)})
		return err
	})
	if err != nil {
		return ufs.Info{}, missing(err)
	}
	return s.facts(ctx, op, name, tag(out.ETag), was.Size)
}

// facts describes the blob name that was just made or changed, of the given version. If another has taken its place already,
// or the service does not answer any more, it says what is certain.
func (s *Store) facts(ctx context.Context, op, name, version string, size int64) (ufs.Info, error) {
	if version == "" {
		return ufs.Info{}, errs.New(op, name, errs.Unavailable, "the service's answer has no ETag")
	}
	in, err := s.head(ctx, op, name)
	if err != nil || in.Version != version {
		return ufs.Info{Name: name, Size: size, Version: version}, nil
	}
	return in, nil
}

// Probe implements ufs.Prober.
func (s *Store) Probe(ctx context.Context, write bool) error {
	const op = "azureufs.Probe"
	for _, err := range s.pages(ctx, s.prefix, true, 1) {
		if err == nil {
			break
		}
		if kind, _ := classify(err); kind == errs.Unavailable && statusOf(err) == 404 {
			return errs.New(op, s.o.Container, errs.NotExist, fmt.Sprintf("there is no such container at %s; make it, or check the name", s.o.Endpoint))
		}
		return fmt.Errorf("list container %q at %s: %w", s.o.Container, s.o.Endpoint, fail(ctx, op, "", err))
	}
	if !write {
		return nil
	}
	name, text := ufs.Staging+"probe-"+rand.Text(), "probe"
	if err := s.putStaged(ctx, op, name, text); err != nil {
		return fmt.Errorf("write to container %q: %w", s.o.Container, err)
	}
	got, err := s.getStaged(ctx, op, name)
	if err == nil && got != text {
		err = errs.New(op, name, errs.Unavailable, "other bytes came back than were written")
	}
	if err != nil {
		err = fmt.Errorf("read from container %q: %w", s.o.Container, err)
	} else {
		err = s.probeListed(ctx, op, name)
	}
	dctx, cancel := ufs.Detached(ctx)
	defer cancel()
	if derr := s.deleteStaged(dctx, name); derr != nil {
		err = errors.Join(err, fmt.Errorf("delete from container %q: %w", s.o.Container, derr))
	}
	return err
}

// probeListed makes sure that the blob name, which was put, is listed by it.
func (s *Store) probeListed(ctx context.Context, op, name string) error {
	for page, err := range s.pages(ctx, s.prefix+name, true, 0) {
		if err != nil {
			return fail(ctx, op, name, err)
		}
		for _, b := range page.blobs {
			if b != nil && b.Name != nil && *b.Name == s.prefix+name {
				return nil
			}
		}
	}
	return errs.New(op, name, errs.Unavailable, "what was written is not listed")
}

// Mark implements ufs.Marked.
func (s *Store) Mark(ctx context.Context) (string, error) {
	text, err := s.getStaged(ctx, "azureufs.Mark", ufs.MarkName)
	if errors.Is(err, errs.NotExist) {
		return "", nil
	}
	return strings.TrimSpace(text), err
}

// SetMark implements ufs.Marked.
func (s *Store) SetMark(ctx context.Context, mark string) error {
	const op = "azureufs.SetMark"
	err := s.change(ctx, op, ufs.MarkName, func(ctx context.Context) error {
		_, err := s.blob(ufs.MarkName).Upload(ctx, streaming.NopCloser(strings.NewReader(mark)), &blockblob.UploadOptions{AccessConditions: condition("", true)})
		return err
	})
	return judged(err, ufs.CreateOptions{IfNew: true})
}

// The three below are the only ones that touch other blobs of the staging area.

func (s *Store) putStaged(ctx context.Context, op, name, text string) error {
	_, err := s.blob(name).Upload(ctx, streaming.NopCloser(strings.NewReader(text)), nil)
	return fail(ctx, op, name, err)
}

func (s *Store) getStaged(ctx context.Context, op, name string) (string, error) {
	out, err := s.blob(name).DownloadStream(ctx, nil)
	if err != nil {
		return "", fail(ctx, op, name, err)
	}
	defer out.Body.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(out.Body, 64<<10))
	return string(b), fail(ctx, op, name, err)
}

func (s *Store) deleteStaged(ctx context.Context, name string) error {
	_, err := s.blob(name).Delete(ctx, nil)
	return fail(ctx, "azureufs.deleteStaged", name, err)
}
