package azureufs

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// Stat implements ufs.Store.
func (s *Store) Stat(ctx context.Context, name string) (ufs.Info, error) {
	const op = "azureufs.Stat"
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

// statDir describes a directory: its marker, or the prefix of some blob.
func (s *Store) statDir(ctx context.Context, op, dir string) (ufs.Info, error) {
	for page, err := range s.pages(ctx, s.prefix+dir, true, 1) {
		if err != nil {
			return ufs.Info{}, fail(ctx, op, dir, err)
		}
		for _, b := range page.blobs { // a page may be empty, and more follow
			if b != nil && b.Name != nil && *b.Name == s.prefix+dir {
				return s.head(ctx, op, dir)
			}
			return ufs.Info{Name: dir, Dir: true}, nil
		}
	}
	// One of Hadoop's, which is empty, is a blob of the name without the "/".
	out, err := s.blob(strings.TrimSuffix(dir, "/")).GetProperties(ctx, nil)
	if err = fail(ctx, op, dir, err); err == nil && folder(out.Metadata) {
		return ufs.Info{Name: dir, Dir: true}, nil
	} else if err != nil && !errors.Is(err, errs.NotExist) {
		return ufs.Info{}, err
	}
	return ufs.Info{}, errs.E(op, dir, errs.NotExist, nil)
}

// head describes the blob of name.
func (s *Store) head(ctx context.Context, op, name string) (ufs.Info, error) {
	out, err := s.blob(name).GetProperties(ctx, nil)
	if err != nil {
		return ufs.Info{}, fail(ctx, op, name, err)
	}
	if out.ContentLength == nil || out.ETag == nil {
		return ufs.Info{}, errs.New(op, name, errs.Unavailable, "the answer has no length or no ETag")
	}
	if !ufs.IsDir(name) && folder(out.Metadata) {
		return ufs.Info{}, errs.New(op, name, errs.NotExist, "it is a directory")
	}
	return info(name, out.ContentLength, out.LastModified, out.ETag, out.ContentMD5, decode(map[string]*string{
		"Content-Type": out.ContentType, "Cache-Control": out.CacheControl, "Content-Disposition": out.ContentDisposition,
		"Content-Encoding": out.ContentEncoding, "Content-Language": out.ContentLanguage,
	}, out.Metadata)), nil
}

func info(name string, size *int64, modified *time.Time, etag *azcore.ETag, md5 []byte, a ufs.Attr) ufs.Info {
	in := ufs.Info{
		Name: name, Dir: ufs.IsDir(name), Version: tag(etag), ETag: a.ETag, Owner: a.Owner, Group: a.Group, Mode: a.Mode, Full: true, Attr: a,
	}
	if size != nil {
		in.Size = *size
	}
	if modified != nil {
		in.ModTime = *modified
	}
	if in.ETag == "" {
		in.ETag = hex.EncodeToString(md5)
	}
	in.Marker, in.Attr.Marker = in.Dir, in.Dir
	return in
}

// List implements ufs.Store, a page of up to 5000 entries at a time. The service cannot be asked to start at a name: what is
// not greater than after is fetched and left out. Blobs of a hierarchical namespace come in another order, which is an error.
func (s *Store) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	const op = "azureufs.List"
	return web.Entries(op, dir, after, func(yield func([]ufs.Info, error) bool) {
		if err := s.begin(ctx, op, dir, ufs.CheckDir); err != nil {
			yield(nil, err)
			return
		}
		for page, err := range s.pages(ctx, s.prefix+dir, flat, 0) {
			give := ufs.Turn(ctx)
			entries := s.entries(page, dir, flat)
			give()
			if !yield(entries, fail(ctx, op, dir, err)) {
				return
			}
		}
	})
}

// page is one answer of a listing.
type page struct {
	blobs    []*container.BlobItem
	prefixes []*container.BlobPrefix
}

// pages yields the answers to a listing of what begins with prefix. size is that of a page, 0 for the service's.
func (s *Store) pages(ctx context.Context, prefix string, flat bool, size int32) iter.Seq2[page, error] {
	include := container.ListBlobsInclude{Metadata: true}
	var most *int32
	if size > 0 {
		most = &size
	}
	next := func(marker *string) string {
		if marker == nil {
			return ""
		}
		return *marker
	}
	malformed := errors.New("the answer is no listing")
	return web.Pages(func(at string) (page, string, error) {
		d := &decoding{give: func() {}}
		defer func() { d.give() }()
		ctx := context.WithValue(ctx, decodingKey{}, d)
		var marker *string
		if at != "" {
			marker = &at
		}
		if flat {
			out, err := s.container.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{
				Prefix: &prefix, Include: include, MaxResults: most, Marker: marker,
			}).NextPage(ctx)
			if err != nil || out.Segment == nil {
				return page{}, "", cmp.Or(err, malformed)
			}
			return page{blobs: out.Segment.BlobItems}, next(out.NextMarker), nil
		}
		out, err := s.container.NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{
			Prefix: &prefix, Include: include, MaxResults: most, Marker: marker,
		}).NextPage(ctx)
		if err != nil || out.Segment == nil {
			return page{}, "", cmp.Or(err, malformed)
		}
		return page{out.Segment.BlobItems, out.Segment.BlobPrefixes}, next(out.NextMarker), nil
	})
}

type decodingKey struct{}

// decoding is an answer whose decoding has a turn once it has arrived.
type decoding struct{ give func() }

// inTurn has the SDK decode a listing in a turn: it is the last to see the answer before that, and the SDK has all of it by then.
type inTurn struct{}

// Do implements policy.Policy.
func (inTurn) Do(req *policy.Request) (*http.Response, error) {
	d, ok := req.Raw().Context().Value(decodingKey{}).(*decoding)
	if !ok {
		return req.Next()
	}
	d.give() // of an answer after which the request is repeated
	d.give = func() {}
	answer, err := req.Next()
	d.give = ufs.Turn(req.Raw().Context())
	return answer, err
}

// entries returns the entries of one answer in order. Blobs that are no names below dir are left out.
func (s *Store) entries(p page, dir string, flat bool) []ufs.Info {
	entries := make([]ufs.Info, 0, len(p.blobs)+len(p.prefixes))
	add := func(key *string, in ufs.Info) {
		if key == nil {
			return
		}
		name, ok := strings.CutPrefix(*key, s.prefix)
		if !ok || name == "" || !strings.HasPrefix(name, dir) || !utf8.ValidString(name) {
			return
		}
		in.Name, in.Dir = name, ufs.IsDir(name)
		entries = append(entries, in)
	}
	for _, b := range p.blobs {
		if b == nil || b.Name == nil || b.Properties == nil {
			continue
		}
		if !strings.HasSuffix(*b.Name, "/") && folder(b.Metadata) {
			if dir := *b.Name + "/"; !flat { // in a flat listing it is no file, and what is below says that it is there
				add(&dir, ufs.Info{})
			}
			continue
		}
		x := b.Properties
		add(b.Name, info(*b.Name, x.ContentLength, x.LastModified, x.ETag, x.ContentMD5, decode(map[string]*string{
			"Content-Type": x.ContentType, "Cache-Control": x.CacheControl, "Content-Disposition": x.ContentDisposition,
			"Content-Encoding": x.ContentEncoding, "Content-Language": x.ContentLanguage,
		}, b.Metadata)))
	}
	for _, x := range p.prefixes {
		if x != nil {
			add(x.Name, ufs.Info{})
		}
	}
	slices.SortStableFunc(entries, func(a, b ufs.Info) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(entries, func(a, b ufs.Info) bool { return a.Name == b.Name })
}

// Open implements ufs.Store. The read is conditional on the version.
func (s *Store) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	const op = "azureufs.Open"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	if off < 0 || n == 0 {
		return s.openNothing(ctx, op, name, off, version)
	}
	o := &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: off, Count: max(n, 0)}, AccessConditions: condition(version, false)} // a count of 0 is to the end
	out, err := s.blob(name).DownloadStream(ctx, o)
	if err != nil {
		err = fail(ctx, op, name, err)
		if errors.Is(err, errs.Range) {
			return s.openNothing(ctx, op, name, off, version)
		}
		return nil, err
	}
	if err := checkAnswer(op, name, &out, off, n, version); err != nil {
		_ = out.Body.Close()
		return nil, err
	}
	return web.Body(out.Body, *out.ContentLength, func(err error) error { return fail(ctx, "azureufs.Read", name, err) }), nil
}

// checkAnswer makes sure that what comes is what was asked for: a service that ignores a header must not go unnoticed.
func checkAnswer(op, name string, out *blob.DownloadStreamResponse, off, n int64, version string) error {
	if version != "" && tag(out.ETag) != version {
		return errs.New(op, name, errs.Precondition, "the blob is another version")
	}
	if out.ContentLength == nil {
		return errs.New(op, name, errs.Unavailable, "the answer has no length")
	}
	if folder(out.Metadata) {
		return errs.New(op, name, errs.NotExist, "it is a directory")
	}
	ranged := out.ContentRange != nil && strings.HasPrefix(*out.ContentRange, fmt.Sprintf("bytes %d-", off))
	whole := off == 0 && (n < 0 || *out.ContentLength <= n)
	if !ranged && !whole || n > 0 && *out.ContentLength > n {
		return errs.New(op, name, errs.Unavailable, "the service answered with another range of the blob")
	}
	return nil
}

// openNothing opens an empty range, which cannot be asked for.
func (s *Store) openNothing(ctx context.Context, op, name string, off int64, want string) (io.ReadCloser, error) {
	in, err := s.head(ctx, op, name)
	if err != nil {
		return nil, err
	}
	return ufs.OpenEmpty(op, in, off, want == "" || in.Version == want)
}
