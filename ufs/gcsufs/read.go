package gcsufs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// Stat implements ufs.Store.
func (s *Store) Stat(ctx context.Context, name string) (ufs.Info, error) {
	const op = "gcsufs.Stat"
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

// statDir describes a directory: its marker, or the prefix of some object.
func (s *Store) statDir(ctx context.Context, op, dir string) (ufs.Info, error) {
	for p, err := range s.pages(ctx, s.prefix+dir, "", true, 1) {
		switch {
		case err != nil:
			return ufs.Info{}, s.listed(ctx, op, dir, err)
		case len(p.Items) == 0: // a page may be empty, and more follow
			continue
		case p.Items[0].Name != s.prefix+dir:
			return ufs.Info{Name: dir, Dir: true}, nil
		}
		return s.head(ctx, op, dir)
	}
	return ufs.Info{}, errs.E(op, dir, errs.NotExist, nil)
}

// listed names a failure of a listing. A bucket that is missing is no missing directory.
func (s *Store) listed(ctx context.Context, op, name string, err error) error {
	if err = fail(ctx, op, name, err); errors.Is(err, errs.NotExist) {
		return errs.New(op, s.o.Bucket, errs.Unavailable, "the bucket does not exist")
	}
	return err
}

// get returns the object of name.
func (s *Store) get(ctx context.Context, op, name string) (*resource, error) {
	var r resource
	err := s.do(ctx, op, name, call{method: http.MethodGet, path: s.object(name), query: url.Values{"projection": {"noAcl"}}}, &r)
	if err != nil {
		return nil, s.absent(ctx, err)
	}
	return &r, nil
}

// head describes the object of name.
func (s *Store) head(ctx context.Context, op, name string) (ufs.Info, error) {
	r, err := s.get(ctx, op, name)
	if err != nil {
		return ufs.Info{}, err
	}
	return described(op, name, r)
}

func described(op, name string, r *resource) (ufs.Info, error) {
	in, ok := r.info(name)
	if !ok {
		return ufs.Info{}, errs.New(op, name, errs.Unavailable, "the answer has no size or no generation")
	}
	return in, nil
}

// is reports errs.NotExist or errs.Precondition unless name is an object of the given version ("": any).
func (s *Store) is(ctx context.Context, op, name, version string) error {
	in, err := s.head(ctx, op, name)
	if err == nil && version != "" && generation(in.Version) != generation(version) {
		err = errs.New(op, name, errs.Precondition, "the object is another version")
	}
	return err
}

// page is one answer of a listing.
type page struct {
	Items    []resource `json:"items"`
	Prefixes []string   `json:"prefixes"`
	Next     string     `json:"nextPageToken"`
}

// page asks for what begins with prefix, from the object named start on, or from where next says.
func (s *Store) page(ctx context.Context, prefix, start string, flat bool, next string, size int) (page, error) {
	q := url.Values{"prefix": {prefix}, "maxResults": {strconv.Itoa(size)}, "projection": {"noAcl"}}
	if start != "" {
		q.Set("startOffset", start)
	}
	if !flat {
		q.Set("delimiter", "/")
	}
	if next != "" {
		q.Set("pageToken", next)
	}
	var p page
	answer, err := s.send(ctx, call{method: http.MethodGet, path: "/o", query: q})
	if err != nil {
		return p, err
	}
	defer web.Drain(answer.Body)
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return p, unreadable(err)
	}
	defer ufs.Turn(ctx)()
	return p, decode(bytes.NewReader(b), &p)
}

// pages yields the answers to a listing of what begins with prefix, from the object named start on.
func (s *Store) pages(ctx context.Context, prefix, start string, flat bool, size int) iter.Seq2[page, error] {
	return web.Pages(func(at string) (page, string, error) {
		p, err := s.page(ctx, prefix, start, flat, at, size)
		return p, p.Next, err
	})
}

// List implements ufs.Store, a page of up to 1000 entries at a time.
func (s *Store) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	const op = "gcsufs.List"
	return web.Entries(op, dir, after, func(yield func([]ufs.Info, error) bool) {
		if err := s.begin(ctx, op, dir, ufs.CheckDir); err != nil {
			yield(nil, err)
			return
		}
		start := ""
		if after > dir {
			start = s.prefix + after
		}
		for p, err := range s.pages(ctx, s.prefix+dir, start, flat, pageSize) {
			if err != nil {
				yield(nil, s.listed(ctx, op, dir, err))
				return
			}
			give := ufs.Turn(ctx)
			entries, ok := s.entries(p, dir)
			give()
			if !ok {
				yield(nil, errs.New(op, dir, errs.Unavailable, "the listing has an object without a size or a generation"))
				return
			}
			if !yield(entries, nil) {
				return
			}
		}
	})
}

// entries returns the entries of one answer in order. Objects that are no names below dir are left out; ok is false if the
// answer says too little of one.
func (s *Store) entries(p page, dir string) (entries []ufs.Info, ok bool) {
	entries = make([]ufs.Info, 0, len(p.Items)+len(p.Prefixes))
	name := func(key string) (string, bool) {
		name, ok := strings.CutPrefix(key, s.prefix)
		return name, ok && name != "" && strings.HasPrefix(name, dir) && utf8.ValidString(name)
	}
	for i := range p.Items {
		if name, ok := name(p.Items[i].Name); ok {
			in, ok := p.Items[i].info(name)
			if !ok {
				return nil, false
			}
			entries = append(entries, in)
		}
	}
	for _, key := range p.Prefixes {
		if name, ok := name(key); ok {
			entries = append(entries, ufs.Info{Name: name, Dir: true})
		}
	}
	slices.SortStableFunc(entries, func(a, b ufs.Info) int { return cmp.Compare(a.Name, b.Name) })
	return entries, true
}

// Open implements ufs.Store. The read is conditional on the generation.
func (s *Store) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	const op = "gcsufs.Open"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	if off < 0 || n == 0 {
		return s.openNothing(ctx, op, name, off, version)
	}
	// Who does not take gzip is sent an object stored compressed as what it was made of.
	c := call{method: http.MethodGet, path: s.object(name), query: url.Values{"alt": {"media"}}, header: http.Header{"Accept-Encoding": {"gzip"}}}
	if version != "" {
		c.query.Set("ifGenerationMatch", known(version))
	}
	if n > 0 {
		c.header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+min(n-1, 1<<62-off)))
	} else if off > 0 {
		c.header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	answer, err := s.send(ctx, c)
	if err != nil {
		err = fail(ctx, op, name, err)
		if errors.Is(err, errs.Range) {
			return s.openNothing(ctx, op, name, off, version)
		}
		return nil, s.absent(ctx, err)
	}
	if err := checkAnswer(op, name, answer, off, n, version); err != nil {
		web.Drain(answer.Body)
		return nil, err
	}
	return web.Body(answer.Body, answer.ContentLength, func(err error) error { return fail(ctx, "gcsufs.Read", name, err) }), nil
}

// checkAnswer makes sure that what comes is what was asked for: a service that ignores a header must not go unnoticed.
func checkAnswer(op, name string, answer *http.Response, off, n int64, version string) error {
	length := answer.ContentLength
	if version != "" && answer.Header.Get("X-Goog-Generation") != generation(version) {
		return errs.New(op, name, errs.Precondition, "the object is another version")
	}
	if length < 0 {
		return errs.New(op, name, errs.Unavailable, "the answer has no length")
	}
	ranged := strings.HasPrefix(answer.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", off))
	whole := off == 0 && (n < 0 || length <= n)
	if !ranged && length < off {
		return errs.New(op, name, errs.Range, "the offset lies beyond the end of the object")
	}
	if !ranged && !whole || n > 0 && length > n {
		return errs.New(op, name, errs.Unavailable, "the service answered with another range of the object")
	}
	return nil
}

// openNothing opens an empty range, which cannot be asked for.
func (s *Store) openNothing(ctx context.Context, op, name string, off int64, want string) (io.ReadCloser, error) {
	in, err := s.head(ctx, op, name)
	if err != nil {
		return nil, err
	}
	return ufs.OpenEmpty(op, in, off, want == "" || generation(in.Version) == generation(want))
}
