package s3ufs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Remove implements ufs.Store. S3 says nothing of a key that was not there, so it is looked at first; a version is
// judged again by the service where it can.
func (s *Store) Remove(ctx context.Context, name, version string) error {
	const op = "s3ufs.Remove"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return err
	}
	if name == "" {
		return errs.New(op, name, errs.Invalid, "the root of a store cannot be removed")
	}
	if err := s.is(ctx, op, name, version); errors.Is(err, errs.Unavailable) {
		return &unsentError{err}
	} else if err != nil {
		return err
	}
	in := &s3.DeleteObjectInput{Bucket: &s.o.Bucket, Key: s.key(name)}
	if s.condDelete.Load() {
		in.IfMatch = condition(version)
	}
	_, err := s.client.DeleteObject(ctx, in, once)
	return fail(ctx, op, name, err)
}

// is reports errs.NotExist or errs.Precondition unless name is an object of the given version ("": any).
func (s *Store) is(ctx context.Context, op, name, version string) error {
	in, err := s.head(ctx, op, name)
	if err == nil && version != "" && etagOf(in.Version) != etagOf(version) {
		err = errs.New(op, name, errs.Precondition, "the object is another version")
	}
	return err
}

// RemoveFiles implements ufs.FileRemover. Versions are judged just before, by this process.
func (s *Store) RemoveFiles(ctx context.Context, files []ufs.Versioned) error {
	const op = "s3ufs.RemoveFiles"
	for len(files) > 0 {
		batch := files[:min(len(files), maxDelete)]
		files = files[len(batch):]
		ids, err := s.removable(ctx, op, batch)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			continue
		}
		out, err := s.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{
			Bucket: &s.o.Bucket, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)},
		}, s.ifAnswered)
		if err != nil {
			return fail(ctx, op, batch[0].Name, err)
		}
		for _, e := range out.Errors {
			kind, ok := byCode[aws.ToString(e.Code)]
			switch {
			case kind == errs.NotExist:
				continue
			case !ok && aws.ToString(e.Code) == "AccessDenied":
				kind = errs.Permission
			case !ok:
				kind = errs.Unavailable
			}
			name := strings.TrimPrefix(aws.ToString(e.Key), s.prefix)
			return errs.New(op, name, kind, fmt.Sprintf("%s: %.200s", aws.ToString(e.Code), aws.ToString(e.Message)))
		}
	}
	return nil
}

// removable returns those of files that are there in their version. Only what has a version is looked at.
func (s *Store) removable(ctx context.Context, op string, files []ufs.Versioned) ([]types.ObjectIdentifier, error) {
	const parallel = 16
	keep := make([]bool, len(files))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, f := range files {
		g.Go(func() error {
			err := s.begin(gctx, op, f.Name, ufs.CheckName)
			if err == nil && f.Version != "" {
				err = s.is(gctx, op, f.Name, f.Version)
			}
			keep[i] = err == nil
			if errors.Is(err, errs.NotExist) || errors.Is(err, errs.Precondition) {
				err = nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var ids []types.ObjectIdentifier
	for i, f := range files {
		if keep[i] {
			ids = append(ids, types.ObjectIdentifier{Key: s.key(f.Name)})
		}
	}
	return ids, nil
}

// Mkdir implements ufs.Mkdirer: it puts a marker object.
func (s *Store) Mkdir(ctx context.Context, name string, attr ufs.Attr) (ufs.Info, error) {
	const op = "s3ufs.Mkdir"
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
	f, err := encode(op, name, attr, "")
	if err != nil {
		return ufs.Info{}, err
	}
	put := s.putInput(name, f, ufs.CreateOptions{}, false)
	put.Body, put.ContentLength = bytes.NewReader(nil), aws.Int64(0)
	if _, err := s.client.PutObject(ctx, put, s.ifAnswered); err != nil {
		return ufs.Info{}, fail(ctx, op, name, err)
	}
	return s.head(ctx, op, name)
}

// Copy implements ufs.Copier.
func (s *Store) Copy(ctx context.Context, from, version, to string, attr *ufs.Attr) (ufs.Info, error) {
	const op = "s3ufs.Copy"
	if err := errors.Join(s.begin(ctx, op, from, ufs.CheckFile), ufs.CheckFile(s.Features(), op, to)); err != nil {
		return ufs.Info{}, err
	}
	return s.copy(ctx, op, s, from, version, to, attr)
}

// SetAttr implements ufs.AttrSetter: S3 changes attributes by a copy onto itself. The ETag that was shown stays, also
// where the copy gets another.
func (s *Store) SetAttr(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Info, error) {
	const op = "s3ufs.SetAttr"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return ufs.Info{}, err
	}
	return s.copy(ctx, op, s, name, version, name, &attr)
}

// copy makes to a copy of the object from of the store of, which may be another bucket of the account.
func (s *Store) copy(ctx context.Context, op string, of *Store, from, version, to string, attr *ufs.Attr) (ufs.Info, error) {
	src, err := of.head(ctx, op, from)
	if err != nil {
		return ufs.Info{}, err
	}
	own := etagOf(src.Version)
	if version != "" && own != etagOf(version) {
		return ufs.Info{}, errs.New(op, from, errs.Precondition, "the object is another version")
	}
	if from == to && of == s {
		if attr == nil {
			return src, nil // S3 refuses a copy that changes nothing
		}
		if attr.ETag == "" {
			a := *attr
			a.ETag, attr = src.ETag, &a
		}
	}
	if strings.Contains(own, "-") {
		own = "" // of a multipart upload: the copy, unless it is one again, gets another
	}
	if src.Size > maxPut {
		return s.copyLarge(ctx, op, of, src, to, attr)
	}
	in := &s3.CopyObjectInput{
		Bucket: &s.o.Bucket, Key: s.key(to), CopySource: of.source(from), CopySourceIfMatch: condition(src.Version),
	}
	if attr != nil {
		f, err := encode(op, to, *attr, own)
		if err != nil {
			return ufs.Info{}, err
		}
		in.MetadataDirective, in.Metadata = types.MetadataDirectiveReplace, f.meta
		in.ContentType, in.CacheControl, in.ContentDisposition = f.contentType, f.cacheControl, f.disposition
		in.ContentEncoding, in.ContentLanguage, in.Expires = f.encoding, f.language, f.expires
	}
	out, err := s.client.CopyObject(ctx, in, s.ifAnswered)
	if err != nil {
		return ufs.Info{}, fail(ctx, op, from, err)
	}
	if out.CopyObjectResult == nil {
		return ufs.Info{}, errs.New(op, to, errs.Unavailable, "the service's answer to the copy is empty")
	}
	return s.facts(ctx, op, to, unquote(out.CopyObjectResult.ETag), src.Size)
}

// copyLarge copies what is too long for one request, in parts.
func (s *Store) copyLarge(ctx context.Context, op string, of *Store, src ufs.Info, to string, attr *ufs.Attr) (ufs.Info, error) {
	a := src.Attr
	if attr != nil {
		a = *attr
	}
	up, err := s.beginNoted(ctx, to, a)
	if err != nil {
		return ufs.Info{}, err
	}
	var parts []ufs.Part
	for off := int64(0); off < src.Size && err == nil; {
		p := ufs.Part{Number: len(parts) + 1, Size: min(max(1<<30, partSize(len(parts), src.Size)), src.Size-off)}
		p.ETag, err = s.copyPart(ctx, op, to, up.id, p.Number, of.source(src.Name), src.Version, off, p.Size)
		parts, off = append(parts, p), off+p.Size
	}
	if err == nil {
		var in ufs.Info
		if in, err = s.Complete(ctx, to, up.id, parts, ufs.CreateOptions{}); err == nil {
			up.end(ctx)
			return in, nil
		}
	}
	if cerr := up.cancel(ctx, nil); cerr != nil {
		err = fmt.Errorf("%w; and the upload %s stays for now: %w", err, up.id, cerr)
	}
	return ufs.Info{}, errs.E(op, to, errs.Other, err)
}

// source returns name as the header x-amz-copy-source takes it. All but the unreserved characters are escaped: services
// differ in whether they read "+" as a space.
func (s *Store) source(name string) *string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s.o.Bucket + "/" + s.prefix + name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~/", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return aws.String(b.String())
}

// facts describes the object name that was just made with the given ETag. If another has taken its place already, or
// the service does not answer any more, it says what is certain.
func (s *Store) facts(ctx context.Context, op, name, etag string, size int64) (ufs.Info, error) {
	in, err := s.head(ctx, op, name)
	if err != nil || etagOf(in.Version) != etag {
		return ufs.Info{Name: name, Size: size, ETag: etag, Version: version(etag, nil)}, nil
	}
	return in, nil
}
