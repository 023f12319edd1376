package s3ufs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// A version is `etag|seconds`: the object's own ETag, which stands for the bytes, and its Last-Modified in seconds since
// 1970, which a change of the attributes alone moves. HEAD tells whole seconds, so listings are cut to them.
func version(etag string, modified *time.Time) string {
	if modified == nil {
		return etag + "|"
	}
	return etag + "|" + strconv.FormatInt(modified.Unix(), 10)
}

// etagOf returns the ETag in a version.
func etagOf(version string) string {
	etag, _, _ := strings.Cut(version, "|")
	return etag
}

// condition returns the If-Match of a version, nil for none.
func condition(version string) *string {
	if version == "" {
		return nil
	}
	return aws.String(`"` + etagOf(version) + `"`)
}

func unquote(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }

// Stat implements ufs.Store.
func (s *Store) Stat(ctx context.Context, name string) (ufs.Info, error) {
	const op = "s3ufs.Stat"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return ufs.Info{}, err
	}
	switch {
	case name == "":
		return ufs.Info{Dir: true}, nil
	case ufs.IsDir(name):
		return s.statDir(ctx, op, name)
	}
	return s.head(ctx, op, name)
}

// statDir describes a directory: its marker, or the prefix of some key.
func (s *Store) statDir(ctx context.Context, op, dir string) (ufs.Info, error) {
	out, err := s.listPage(ctx, op, dir, &s3.ListObjectsV2Input{
		Bucket: &s.o.Bucket, Prefix: s.key(dir), MaxKeys: aws.Int32(1),
	})
	switch {
	case err != nil:
		return ufs.Info{}, err
	case len(out.Contents) == 0:
		return ufs.Info{}, errs.E(op, dir, errs.NotExist, nil)
	case aws.ToString(out.Contents[0].Key) != s.prefix+dir:
		return ufs.Info{Name: dir, Dir: true}, nil
	}
	return s.head(ctx, op, dir)
}

// head describes the object of name.
func (s *Store) head(ctx context.Context, op, name string) (ufs.Info, error) {
	out, err := s.headObject(ctx, op, name)
	if err != nil {
		return ufs.Info{}, s.absent(ctx, fail(ctx, op, name, err))
	}
	if out.ContentLength == nil {
		return ufs.Info{}, errs.New(op, name, errs.Unavailable, "the answer has no length")
	}
	a := decode(map[string]string{
		"Content-Type": aws.ToString(out.ContentType), "Cache-Control": aws.ToString(out.CacheControl),
		"Content-Disposition": aws.ToString(out.ContentDisposition), "Content-Encoding": aws.ToString(out.ContentEncoding),
		"Content-Language": aws.ToString(out.ContentLanguage), "Expires": aws.ToString(out.ExpiresString),
	}, out.Metadata)
	in := ufs.Info{
		Name: name, Dir: ufs.IsDir(name), Size: *out.ContentLength, ModTime: aws.ToTime(out.LastModified),
		Version: version(unquote(out.ETag), out.LastModified), ETag: a.ETag, Owner: a.Owner, Group: a.Group, Mode: a.Mode,
		Full: true, Attr: a,
	}
	if in.ETag == "" {
		in.ETag = unquote(out.ETag)
	}
	in.Marker, in.Attr.Marker = in.Dir, in.Dir
	return in, nil
}

// listPage asks for one page of a listing. What is left out of one is taken for removed, so it must be one, and whole: the SDK takes a
// 200 without a body, or with some other document, for a listing of nothing.
func (s *Store) listPage(ctx context.Context, op, dir string, in *s3.ListObjectsV2Input) (*s3.ListObjectsV2Output, error) {
	out, err := s.client.ListObjectsV2(ctx, in, readListing)
	if err != nil {
		if err = fail(ctx, op, dir, err); errors.Is(err, errs.NotExist) { // a flat listing of nothing is no 404
			err = errs.E(op, dir, errs.Unavailable, err)
		}
		return nil, err
	}
	n := len(out.Contents) + len(out.CommonPrefixes)
	if n == 0 && out.IsTruncated == nil {
		return nil, errs.New(op, dir, errs.Unavailable, "the answer is no listing")
	}
	if said := aws.ToInt32(out.KeyCount); int(said) > n { // less is said by services that do not count prefixes
		return nil, errs.New(op, dir, errs.Unavailable, fmt.Sprintf("the listing has %d names and says that it has %d", n, said))
	}
	return out, nil
}

// maxIdle is how many pages in a row may have nothing new. A page may be empty and not the last, but a service that goes on so, with
// another token each time, would be asked for ever.
const maxIdle = 100

// List implements ufs.Store, a page of up to 1000 entries at a time.
func (s *Store) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	const op = "s3ufs.List"
	return func(yield func(ufs.Info, error) bool) {
		if err := s.begin(ctx, op, dir, ufs.CheckDir); err != nil {
			yield(ufs.Info{}, err)
			return
		}
		in := &s3.ListObjectsV2Input{
			Bucket: &s.o.Bucket, Prefix: s.key(dir), EncodingType: types.EncodingTypeUrl,
		}
		if after > dir {
			in.StartAfter = s.key(after)
		}
		if !flat {
			in.Delimiter = aws.String("/")
		}
		furthest, idle := after, 0 // pages since the last that had a name beyond all before
		for last := after; ; {
			out, err := s.listPage(ctx, op, dir, in)
			if err != nil {
				yield(ufs.Info{}, err)
				return
			}
			idle++
			give := ufs.Turn(ctx)
			entries := s.page(out, dir)
			give()
			for _, e := range entries {
				if e.Name > furthest {
					furthest, idle = e.Name, 0
				}
				// A store rolls a prefix up again if after lies below it, and at the beginning of the next page.
				if e.Name <= after || e.Name == last || ufs.Staged(e.Name) {
					continue
				}
				if e.Name < last { // what is left out of a listing is taken for removed
					yield(ufs.Info{}, errs.New(op, dir, errs.Unavailable, "the listing is not in the order of names"))
					return
				}
				if last = e.Name; !yield(e, nil) {
					return
				}
			}
			if !aws.ToBool(out.IsTruncated) {
				return
			}
			token := aws.ToString(out.NextContinuationToken)
			if token == "" || token == aws.ToString(in.ContinuationToken) || idle >= maxIdle {
				yield(ufs.Info{}, errs.New(op, dir, errs.Unavailable, "the listing does not advance"))
				return
			}
			in.ContinuationToken, in.StartAfter = &token, nil
		}
	}
}

// page returns the entries of one answer in order. Keys that are no names below dir are left out.
func (s *Store) page(out *s3.ListObjectsV2Output, dir string) []ufs.Info {
	entries := make([]ufs.Info, 0, len(out.Contents)+len(out.CommonPrefixes))
	add := func(key *string, in ufs.Info) {
		k := aws.ToString(key)
		if out.EncodingType == types.EncodingTypeUrl {
			u, err := url.QueryUnescape(k)
			if err != nil {
				return
			}
			k = u
		}
		name, ok := strings.CutPrefix(k, s.prefix)
		if !ok || name == "" || !strings.HasPrefix(name, dir) || !utf8.ValidString(name) {
			return
		}
		in.Name, in.Dir = name, ufs.IsDir(name)
		entries = append(entries, in)
	}
	for _, o := range out.Contents {
		etag := unquote(o.ETag)
		in := ufs.Info{
			Size: aws.ToInt64(o.Size), ModTime: aws.ToTime(o.LastModified), ETag: etag, Version: version(etag, o.LastModified),
		}
		in.Marker = strings.HasSuffix(aws.ToString(o.Key), "/") || strings.HasSuffix(aws.ToString(o.Key), "%2F")
		in.Attr.Marker = in.Marker
		add(o.Key, in)
	}
	for _, p := range out.CommonPrefixes {
		add(p.Prefix, ufs.Info{})
	}
	slices.SortFunc(entries, func(a, b ufs.Info) int { return strings.Compare(a.Name, b.Name) })
	return entries
}

// Open implements ufs.Store. The read is conditional on the version's ETag.
func (s *Store) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	const op = "s3ufs.Open"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	if off < 0 || n == 0 {
		return s.openNothing(ctx, op, name, off, version)
	}
	rng := ""
	if n > 0 {
		rng = fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	} else if off > 0 {
		rng = fmt.Sprintf("bytes=%d-", off)
	}
	out, err := s.getObject(ctx, name, rng, aws.ToString(condition(version)))
	if err != nil {
		err = fail(ctx, op, name, err)
		if errors.Is(err, errs.Range) {
			return s.openNothing(ctx, op, name, off, version)
		}
		return nil, s.absent(ctx, err)
	}
	if err := checkAnswer(op, name, out, off, n, version); err != nil {
		_ = out.Body.Close()
		return nil, err
	}
	return web.Body(out.Body, aws.ToInt64(out.ContentLength), func(err error) error { return fail(ctx, "s3ufs.Read", name, err) }), nil
}

// checkAnswer makes sure that what comes is what was asked for: a service that ignores a header must not go unnoticed.
func checkAnswer(op, name string, out *s3.GetObjectOutput, off, n int64, version string) error {
	if version != "" && unquote(out.ETag) != etagOf(version) {
		return errs.New(op, name, errs.Precondition, "the object is another version")
	}
	if out.ContentLength == nil {
		return errs.New(op, name, errs.Unavailable, "the answer has no length")
	}
	if r := aws.ToString(out.ContentRange); r != "" && !strings.HasPrefix(r, fmt.Sprintf("bytes %d-%d/", off, off+*out.ContentLength-1)) {
		return errs.New(op, name, errs.Unavailable, fmt.Sprintf("the service answered with another range of the object: %.64q", r))
	}
	ranged := out.ContentRange != nil
	whole := off == 0 && (n < 0 || *out.ContentLength <= n)
	if !ranged && *out.ContentLength < off {
		return errs.New(op, name, errs.Range, "the offset lies beyond the end of the object")
	}
	if !ranged && !whole || n > 0 && *out.ContentLength > n {
		return errs.New(op, name, errs.Unavailable, "the service answered with another range of the object than was asked for")
	}
	return nil
}

// openNothing opens an empty range, which GetObject cannot ask for.
func (s *Store) openNothing(ctx context.Context, op, name string, off int64, want string) (io.ReadCloser, error) {
	in, err := s.head(ctx, op, name)
	if err != nil {
		return nil, err
	}
	return ufs.OpenEmpty(op, in, off, want == "" || etagOf(in.Version) == etagOf(want))
}
