package s3ufs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Begin implements ufs.Composer.
func (s *Store) Begin(ctx context.Context, name string, attr ufs.Attr) (string, error) {
	const op = "s3ufs.Begin"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return "", err
	}
	f, err := encode(op, name, attr, "")
	if err != nil {
		return "", err
	}
	known := s.begins(name)
	out, err := s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &s.o.Bucket, Key: s.key(name), Metadata: f.meta, ContentType: f.contentType, CacheControl: f.cacheControl,
		ContentDisposition: f.disposition, ContentEncoding: f.encoding, ContentLanguage: f.language, Expires: f.expires,
	}, s.ifRefused)
	if err != nil {
		known("")
		return "", fail(ctx, op, name, err)
	}
	id := aws.ToString(out.UploadId)
	if known(id); id == "" {
		return "", errs.New(op, name, errs.Unavailable, "the service's answer holds no upload id")
	}
	return id, nil
}

// Lost implements ufs.Composer. Errors: also errs.Busy, while this process itself begins an upload to name. What a service without ListMultipartUploads has lost stays lost.
func (s *Store) Lost(ctx context.Context, name string, from, to time.Time) (ids []string, err error) {
	const op = "s3ufs.Lost"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	from = from.Truncate(time.Second) // S3 drops the fraction
	in := &s3.ListMultipartUploadsInput{Bucket: &s.o.Bucket, Prefix: s.key(name), EncodingType: types.EncodingTypeUrl}
	for {
		page, err := s.client.ListMultipartUploads(ctx, in)
		if err = fail(ctx, op, name, err); errors.Is(err, errs.Unsupported) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		for _, u := range page.Uploads {
			begun := aws.ToTime(u.Initiated)
			if unescape(u.Key, page.EncodingType) != *s.key(name) || begun.Before(from) || begun.After(to) {
				continue
			}
			parts, err := s.client.ListParts(ctx, &s3.ListPartsInput{Bucket: &s.o.Bucket, Key: s.key(name), UploadId: u.UploadId, MaxParts: aws.Int32(1)})
			if err = fail(ctx, op, name, err); errors.Is(err, errs.NotExist) {
				continue // it has ended meanwhile
			} else if err != nil {
				return nil, err
			}
			if len(parts.Parts) == 0 {
				ids = append(ids, aws.ToString(u.UploadId))
			}
		}
		if !aws.ToBool(page.IsTruncated) {
			break
		}
		key, id := unescape(page.NextKeyMarker, page.EncodingType), aws.ToString(page.NextUploadIdMarker)
		if key == "" || key == aws.ToString(in.KeyMarker) && id == aws.ToString(in.UploadIdMarker) {
			return nil, errs.New(op, name, errs.Unavailable, "the listing of uploads does not advance")
		}
		in.KeyMarker, in.UploadIdMarker = &key, &id
	}
	ids, ok := s.others(name, ids)
	if !ok {
		return nil, errs.New(op, name, errs.Busy, "an upload to it is just being begun")
	}
	return ids, nil
}

// unescape returns a key of a listing as it is.
func unescape(key *string, encoding types.EncodingType) string {
	k := aws.ToString(key)
	if encoding == types.EncodingTypeUrl {
		if u, err := url.QueryUnescape(k); err == nil {
			return u
		}
	}
	return k
}

// PutPart implements ufs.Composer. A reader that can seek is sent again after a failure that may pass.
func (s *Store) PutPart(
	ctx context.Context, name, id string, number int, size int64, r io.Reader,
) (etag string, err error) {
	const op = "s3ufs.PutPart"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return "", err
	}
	length, sent := &size, func(*s3.Options) {}
	if _, ok := r.(io.Seeker); !ok {
		r, length, sent = s.stream(io.LimitReader(r, size), size)
	}
	out, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: &s.o.Bucket, Key: s.key(name), UploadId: &id, PartNumber: aws.Int32(int32(number)), //nolint:gosec // ≤ 10,000
		Body: r, ContentLength: length,
	}, sent)
	if err != nil {
		return "", fail(ctx, op, name, err)
	}
	return unquote(out.ETag), nil
}

// CopyPart implements ufs.Composer.
func (s *Store) CopyPart(
	ctx context.Context, name, id string, number int, from, version string, off, n int64,
) (etag string, err error) {
	const op = "s3ufs.CopyPart"
	if err := errors.Join(s.begin(ctx, op, name, ufs.CheckFile), ufs.CheckFile(s.Features(), op, from)); err != nil {
		return "", err
	}
	return s.copyPart(ctx, op, name, id, number, s.source(from), version, off, n)
}

// copyPart copies n bytes from off of source, which may be in another bucket.
func (s *Store) copyPart(
	ctx context.Context, op, name, id string, number int, source *string, version string, off, n int64,
) (etag string, err error) {
	out, err := s.client.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
		Bucket: &s.o.Bucket, Key: s.key(name), UploadId: &id, PartNumber: aws.Int32(int32(number)), //nolint:gosec // ≤ 10,000
		CopySource: source, CopySourceIfMatch: condition(version),
		CopySourceRange: aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1)),
	})
	if err != nil {
		return "", fail(ctx, op, name, err)
	}
	if out.CopyPartResult == nil {
		return "", errs.New(op, name, errs.Unavailable, "the service's answer to the copy is empty")
	}
	return unquote(out.CopyPartResult.ETag), nil
}

// Complete implements ufs.Composer. The attributes are those given to Begin.
func (s *Store) Complete(
	ctx context.Context, name, id string, parts []ufs.Part, o ufs.CreateOptions,
) (ufs.Info, error) {
	const op = "s3ufs.Complete"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return ufs.Info{}, err
	}
	judge, err := s.judges(ctx, o)
	if err == nil {
		err = s.precheck(ctx, op, name, o, judge)
	}
	if err != nil {
		return ufs.Info{}, err
	}
	done := make([]types.CompletedPart, len(parts))
	var size int64
	for i, p := range parts {
		done[i] = types.CompletedPart{PartNumber: aws.Int32(int32(p.Number)), ETag: aws.String(`"` + p.ETag + `"`)} //nolint:gosec // ≤ 10,000
		size += p.Size
	}
	in := &s3.CompleteMultipartUploadInput{
		Bucket: &s.o.Bucket, Key: s.key(name), UploadId: &id, MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	}
	if judge {
		in.IfNoneMatch, in.IfMatch = conditions(o)
	}
	out, err := s.client.CompleteMultipartUpload(ctx, in, once)
	if err != nil {
		return ufs.Info{}, judged(fail(ctx, op, name, err), o)
	}
	s.ended(id)
	return s.facts(ctx, op, name, unquote(out.ETag), size)
}

// Cancel implements ufs.Composer.
func (s *Store) Cancel(ctx context.Context, name, id string) error {
	const op = "s3ufs.Cancel"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return err
	}
	s.ended(id)
	_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
		Bucket: &s.o.Bucket, Key: s.key(name), UploadId: &id,
	})
	if err = fail(ctx, op, name, err); errors.Is(err, errs.NotExist) {
		return nil
	}
	return err
}
