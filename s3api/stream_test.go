package s3api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// slowUploads completes an upload after a while.
type slowUploads struct {
	core.Uploads
	takes time.Duration
	err   error
}

func (u slowUploads) CompleteUpload(context.Context, core.Path, string, []core.Part, core.CompleteOptions) (core.Info, error) {
	time.Sleep(u.takes) // in a synctest bubble
	return core.Info{ETag: "e-1"}, u.err
}

func TestSlowCompleteKeepsTheClientAwake(t *testing.T) {
	for _, c := range []struct {
		name   string
		takes  time.Duration
		err    error
		status int
		spaces int
		root   string
	}{
		{"quick", time.Second, nil, 200, 0, "CompleteMultipartUploadResult"},
		{"slow", 35 * time.Second, nil, 200, 3, "CompleteMultipartUploadResult"},
		{"slow failure", 25 * time.Second, errs.E("t", "", errs.Unavailable, nil), 200, 2, "ServiceUnavailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := httptest.NewRecorder()
				r := &request{http: httptest.NewRequest("POST", "/b/k?uploadId=1", nil), out: w, ctx: t.Context(), id: []string{"ID"}}
				s := &Server{uploads: slowUploads{takes: c.takes, err: c.err}}
				err := (&completion{s: s, r: r}).run()
				if !errors.Is(err, c.err) {
					t.Errorf("error = %v, want %v", err, c.err)
				}
				body := w.Body.String()
				if w.Code != c.status || !strings.Contains(body, c.root) || !strings.HasPrefix(body, xmlProlog+strings.Repeat(" ", c.spaces)+"<") {
					t.Errorf("answer = %d %q", w.Code, body)
				}
			})
		})
	}
}

// failingReader breaks after some bytes.
type failingReader struct {
	info  core.Info
	first string
}

func (f failingReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
func (f failingReader) Close() error             { return nil }
func (f failingReader) Info() core.Info          { return f.info }
func (f failingReader) Span() (int64, int64)     { return 0, f.info.Size }
func (f failingReader) WriteTo(w io.Writer) (int64, error) {
	n, _ := io.WriteString(w, f.first)
	return int64(n), errs.E("store.Read", "", errs.Unavailable, nil)
}

type failingNamespace struct {
	core.Namespace
	first string
}

func (f failingNamespace) Open(context.Context, core.Path, core.Range) (core.Reader, error) {
	return failingReader{core.Info{Size: 100, ETag: "e", Version: "v"}, f.first}, nil
}

func TestStoreThatFailsWhileReading(t *testing.T) {
	for _, c := range []struct{ first, want string }{{"", "503"}, {"some", "cut"}} {
		s := &Server{ns: failingNamespace{first: c.first}, host: []string{"H"}}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
			r := &request{http: hr, out: w, ctx: hr.Context(), id: []string{"ID"}, about: object, path: core.Root.Child("k")}
			if err := s.getObject(r); err != nil {
				s.fail(r, err)
			}
		}))
		defer srv.Close()
		res, err := http.Get(srv.URL + "/k")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		switch c.want {
		case "503":
			if res.StatusCode != 503 || !strings.Contains(string(body), "ServiceUnavailable") || res.Header.Get("ETag") != "" {
				t.Errorf("failed before the first byte: %d %q %v", res.StatusCode, body, res.Header)
			}
		case "cut":
			if res.StatusCode != 200 || err == nil {
				t.Errorf("failed behind it: %d, %d bytes, %v; want a body cut short", res.StatusCode, len(body), err)
			}
		}
	}
}

// discard is a response that costs nothing.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(p []byte) (int, error) { return len(p), nil }

type readyReader struct{ failingReader }

func (readyReader) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(make([]byte, 4096))
	return int64(n), err
}

type readyNamespace struct{ core.Namespace }

func (readyNamespace) Open(context.Context, core.Path, core.Range) (core.Reader, error) {
	return readyReader{failingReader{info: core.Info{Size: 4096, ETag: "e", Version: "v"}}}, nil
}

// BenchmarkGetObject measures what this package adds to a warm GET behind its signature.
func BenchmarkGetObject(b *testing.B) {
	s := &Server{ns: readyNamespace{}, host: []string{"H"}, router: newRouter(routes())}
	hr := httptest.NewRequest("GET", "/bucket/some/key", nil)
	w := discard{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		r := &request{http: hr, out: w, ctx: hr.Context(), id: []string{requestID()}}
		var err error
		if r.target, err = parseTarget(hr, "s3.test"); err != nil {
			b.Fatal(err)
		}
		if r.route, err = s.router.find(hr, r.on); err != nil {
			b.Fatal(err)
		}
		if r.dir, r.aliased, err = s.bucketPath(r.ctx, r.bucket); err != nil {
			b.Fatal(err)
		}
		if r.path, err = objectPath(r.dir, r.key); err != nil {
			b.Fatal(err)
		}
		if err := r.route.serve(s, r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkListing measures the rendering of a full page.
func BenchmarkListing(b *testing.B) {
	info := core.Info{Name: "year=2026/month=01/part-00000-c000.snappy.parquet", Size: 123456, ETag: "9dd4e461268c8034f5c8564e155c67a6", ModTime: time.Unix(1, 0)}
	b.ReportAllocs()
	for b.Loop() {
		p := pages.Get().(*page)
		*p = page{keys: xmlWriter{p.keys.b[:0]}, prefixes: xmlWriter{p.prefixes.b[:0]}}
		for range maxKeys {
			p.add(listing{}, &info, "Contents", false)
		}
		p.free()
	}
}
