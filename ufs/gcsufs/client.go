package gcsufs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// call is one request of the API.
type call struct {
	method string
	path   string // below the bucket's /storage/v1/b/BUCKET, escaped; or, with upload, below /upload/…
	upload bool
	query  url.Values
	header http.Header
	json   any    // the body, if it is not raw
	raw    []byte // nil: none
	at     *url.URL
}

// object returns the path of the object of name.
func (s *Store) object(name string) string { return "/o/" + url.PathEscape(s.prefix+name) }

// refusal is an answer that is no success.
type refusal struct {
	status int
	why    string
}

func (r *refusal) Error() string {
	if r.why == "" {
		return fmt.Sprintf("HTTP status %d", r.status)
	}
	return fmt.Sprintf("HTTP status %d: %s", r.status, r.why)
}

// send sends a request and returns its answer if that is a success, or a 308 of an upload that is not at its end; its body is
// the caller's to close. Errors: ctx's; *refusal; what no server has told.
func (s *Store) send(ctx context.Context, c call) (*http.Response, error) {
	u := c.at
	if u == nil {
		base := s.at.Path + "/storage/v1/b/" + url.PathEscape(s.o.Bucket)
		if c.upload {
			base = s.at.Path + "/upload/storage/v1/b/" + url.PathEscape(s.o.Bucket)
		}
		path, err := url.PathUnescape(base + c.path)
		if err != nil {
			return nil, err
		}
		u = &url.URL{Scheme: s.at.Scheme, Host: s.at.Host, Path: path, RawPath: base + c.path, RawQuery: c.query.Encode()}
	}
	r, err := http.NewRequestWithContext(ctx, c.method, "http://x/", nil)
	if err != nil {
		return nil, err
	}
	r.URL, r.Host = u, u.Host
	if c.header != nil {
		r.Header = c.header
	}
	body := c.raw
	if c.json != nil {
		if body, err = json.Marshal(c.json); err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if body != nil {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		if len(body) == 0 {
			r.Body = http.NoBody
		}
	}
	if s.token != nil {
		bearer, err := s.token.bearer(time.Now())
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	r.Header.Set("User-Agent", "sluice")
	answer, err := s.o.Client.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL
		}
		return nil, err
	}
	if answer.StatusCode/100 == 2 || answer.StatusCode == http.StatusPermanentRedirect && c.at != nil {
		return answer, nil
	}
	defer web.Drain(answer.Body)
	var said struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 16<<10))
	_ = json.Unmarshal(text, &said) // else the status is all that is said
	return nil, &refusal{answer.StatusCode, web.Line(said.Error.Message)}
}

// do sends a request and reads its answer into out, if that is not nil.
func (s *Store) do(ctx context.Context, op, name string, c call, out any) error {
	answer, err := s.send(ctx, c)
	if err == nil {
		err = read(answer, out)
	}
	return fail(ctx, op, name, err)
}

func read(answer *http.Response, out any) error {
	defer web.Drain(answer.Body)
	if out == nil {
		return nil
	}
	return decode(io.LimitReader(answer.Body, maxAnswer), out)
}

// maxAnswer is up to how many bytes of an answer are read: a page of a thousand objects, each with its metadata, has less.
const maxAnswer = 64 << 20

func decode(answer io.Reader, out any) error {
	if err := json.NewDecoder(answer).Decode(out); err != nil {
		return unreadable(err)
	}
	return nil
}

func unreadable(err error) error { return fmt.Errorf("the answer cannot be read: %w", err) }

// change sends a request that others can see the outcome of. An error says if it has not been carried out (ufs.ErrUnsent).
func (s *Store) change(ctx context.Context, op, name string, c call, out any) error {
	if err := ufs.Guard(ctx); err != nil {
		return err
	}
	var sent web.Sent
	answer, err := s.send(sent.Watch(ctx), c)
	if err == nil && answer.StatusCode == http.StatusPermanentRedirect {
		web.Drain(answer.Body)
		err = errors.New("the service wants more bytes than there are")
	}
	if err == nil {
		return fail(ctx, op, name, read(answer, out)) // it is carried out
	}
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	status := 0
	if r, ok := errors.AsType[*refusal](err); ok {
		status = r.status
	}
	kind := kindOf(err)
	if !sent.Unclear(status) {
		err = web.Unsent(err)
	}
	return errs.E(op, name, kind, err)
}

// fail gives an error its kind. What no server answered is errs.Unavailable.
func fail(ctx context.Context, op, name string, err error) error {
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	return errs.E(op, name, kindOf(err), err)
}

func kindOf(err error) errs.Kind {
	if r, ok := errors.AsType[*refusal](err); ok {
		return web.Kind(r.status)
	}
	return errs.Unavailable
}

// absent judges a 404, which cannot say whether the object or the whole bucket is missing: a bucket that is gone must not look
// like a missing file.
func (s *Store) absent(ctx context.Context, err error) error {
	const trust = 10 * time.Second // how long a bucket that was there is taken to be there
	if !errors.Is(err, errs.NotExist) {
		return err
	}
	s.mu.Lock()
	known := time.Since(s.there) < trust
	s.mu.Unlock()
	if known {
		return err
	}
	if _, lerr := s.page(ctx, s.prefix, "", false, "", 1); lerr != nil {
		lerr = fail(ctx, "gcsufs.Stat", s.o.Bucket, lerr)
		switch {
		case errors.Is(lerr, errs.NotExist):
			return errs.New("gcsufs.Stat", s.o.Bucket, errs.Unavailable, "the bucket does not exist")
		case !errors.Is(lerr, errs.Permission): // forbidden is there
			return lerr
		}
	}
	s.mu.Lock()
	s.there = time.Now()
	s.mu.Unlock()
	return err
}

// gone names a 404 of a change that makes an object: the bucket is missing, or the prefix's owner.
func gone(err error) error {
	e, ok := errors.AsType[*errs.Error](err)
	if ok && e.Kind == errs.NotExist {
		return errs.E(e.Op, e.Name, errs.Unavailable, e.Err)
	}
	return err
}

// judged names the outcome of a condition as the interface does.
func judged(err error, o ufs.CreateOptions) error {
	e, ok := errors.AsType[*errs.Error](err)
	if ok && o.IfNew && e.Kind == errs.Precondition {
		return errs.E(e.Op, e.Name, errs.Exist, e.Err)
	}
	return err
}

// condition adds o's conditions to the query of a request that makes an object.
func condition(q url.Values, o ufs.CreateOptions) {
	switch {
	case o.IfNew:
		q.Set("ifGenerationMatch", "0")
	case o.IfVersion != "":
		q.Set("ifGenerationMatch", known(o.IfVersion))
	}
}

// generation returns that of a version.
func generation(version string) string {
	g, _, _ := strings.Cut(version, "|")
	return g
}

// known is generation of a version that the service may have told; any other is one that no object has.
func known(version string) string {
	g := generation(version)
	if g == "" || g == "0" || strings.Trim(g, "0123456789") != "" || len(g) > 18 {
		return "1"
	}
	return g
}
