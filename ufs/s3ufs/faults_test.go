package s3ufs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

func wantKind(t *testing.T, what string, err error, want errs.Kind) {
	t.Helper()
	if err == nil || errs.KindOf(err) != want {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
	if err != nil && strings.Contains(err.Error(), canary) {
		t.Errorf("%s: the secret is in the error %q", what, err)
	}
}

// canary is a secret that must not show.
const canary = "c4n4ry"

// at returns a store at endpoint.
func at(t *testing.T, endpoint string) *Store {
	t.Helper()
	s, err := Open(Options{Bucket: "bkt", Endpoint: endpoint, AccessKey: "access", SecretKey: canary, PathStyle: true, backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// answering returns a store at a service that answers everything with status and, unless it is "", an error of code.
func answering(t *testing.T, status int, code string) *Store {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://192.0.2.1/")
		w.WriteHeader(status)
		if code != "" {
			_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>m</Message></Error>", code)
		}
	}))
	t.Cleanup(server.Close)
	return at(t, server.URL)
}

// TestOutages checks that no failure of a service looks like a missing file.
func TestOutages(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   errs.Kind
	}{
		{503, "SlowDown", errs.Unavailable}, {500, "InternalError", errs.Unavailable}, {502, "", errs.Unavailable},
		{429, "", errs.Unavailable}, {403, "AccessDenied", errs.Permission}, {403, "InvalidAccessKeyId", errs.Permission},
		{403, "SignatureDoesNotMatch", errs.Permission}, {401, "", errs.Permission}, {404, "NoSuchBucket", errs.Unavailable},
		{404, "XAdminUserNotFound", errs.Permission},
		{301, "PermanentRedirect", errs.Unavailable}, {307, "TemporaryRedirect", errs.Unavailable},
		{507, "InsufficientStorage", errs.NoSpace}, {501, "NotImplemented", errs.Unsupported}, {400, "ExpiredToken", errs.Permission},
		{200, "", errs.Unavailable},
	} {
		t.Run(fmt.Sprint(c.status, c.code), func(t *testing.T) {
			t.Parallel()
			s, ctx := answering(t, c.status, c.code), t.Context()
			if c.status != 200 {
				_, err := s.Open(ctx, "a", 0, -1, "")
				wantKind(t, "open", err, c.want)
				_, err = ufs.WriteFile(ctx, s, "a", []byte("x"), ufs.CreateOptions{})
				wantKind(t, "write", err, c.want)
				_, err = ufs.WriteFile(ctx, s, "a", make([]byte, 2<<20), ufs.CreateOptions{})
				if !errors.Is(err, errs.Unavailable) { // the connection may break before the answer is read
					wantKind(t, "streamed write", err, c.want)
				}
				for _, err = range s.List(ctx, "", "", false) {
					break
				}
				wantKind(t, "list", err, c.want)
			}
			if c.status == 400 || c.status == 404 {
				return // the answer to a HEAD has no code
			}
			if _, err := s.Stat(ctx, "a"); errs.KindOf(err) != c.want && c.status != 200 {
				t.Errorf("stat: got %v, want %v", err, c.want)
			}
		})
	}
}

func TestMissingBucket(t *testing.T) {
	s, ctx := answering(t, 404, "NoSuchBucket"), t.Context()
	_, err := s.Stat(ctx, "a")
	wantKind(t, "stat", err, errs.Unavailable)
	wantKind(t, "remove", s.Remove(ctx, "a", ""), errs.Unavailable)
	_, err = s.Mkdir(ctx, "d/", ufs.Attr{})
	wantKind(t, "mkdir", err, errs.Unavailable)
	err = s.Probe(ctx, true)
	wantKind(t, "probe", err, errs.NotExist)
	if !strings.Contains(fmt.Sprint(err), "no such bucket") {
		t.Errorf("probe: the reason is not clear: %v", err)
	}
	wantKind(t, "probe with an unknown key", answering(t, 404, "XAdminUserNotFound").Probe(ctx, true), errs.Permission)
	wantKind(t, "probe of a forbidden bucket", answering(t, 403, "AccessDenied").Probe(ctx, true), errs.Permission)
}

func TestUnreachable(t *testing.T) {
	server := httptest.NewServer(nil)
	s := at(t, server.URL)
	server.Close()
	_, err := s.Stat(t.Context(), "a")
	wantKind(t, "stat", err, errs.Unavailable)
	_, err = ufs.WriteFile(t.Context(), s, "a", make([]byte, 2<<20), ufs.CreateOptions{})
	wantKind(t, "write", err, errs.Unavailable)
	wantKind(t, "probe", s.Probe(t.Context(), false), errs.Unavailable)
}

// TestUnsent checks that a write is said to have never left only if that is so.
func TestUnsent(t *testing.T) {
	drops := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = c.Close()
	}))
	t.Cleanup(drops.Close)
	gone := httptest.NewServer(nil)
	gone.Close()
	for url, want := range map[string]bool{drops.URL: false, gone.URL: true} {
		s := at(t, url)
		for _, size := range []int{1, 2 << 20} {
			w, err := s.Create(t.Context(), "a", int64(size), ufs.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err = w.Write(make([]byte, size)); err == nil {
				_, err = w.Commit(t.Context())
			}
			_ = w.Abort()
			wantKind(t, "write", err, errs.Unavailable)
			if errors.Is(err, ufs.ErrUnsent) != want {
				t.Errorf("%d bytes: unsent is %v, want %v: %v", size, !want, want, err)
			}
		}
		if err := s.Remove(t.Context(), "a", ""); errs.KindOf(err) != errs.Unavailable || !errors.Is(err, ufs.ErrUnsent) {
			t.Errorf("remove of what could not be looked at: %v", err)
		}
		_, err := s.Complete(t.Context(), "a", "id", []ufs.Part{{Number: 1, ETag: "e", Size: 1}}, ufs.CreateOptions{})
		wantKind(t, "complete", err, errs.Unavailable)
		if errors.Is(err, ufs.ErrUnsent) != want {
			t.Errorf("complete: unsent is %v, want %v: %v", !want, want, err)
		}
	}
}

func TestRetries(t *testing.T) {
	f := newFake(t)
	s := f.open(t, "")
	if err := s.Probe(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	var n atomic.Int32
	f.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if n.Add(1) > 2 {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	if _, err := ufs.WriteFile(t.Context(), s, "a", []byte("x"), ufs.CreateOptions{}); err != nil || n.Load() < 3 {
		t.Errorf("a write that can be repeated: got %v after %d requests", err, n.Load())
	}
	n.Store(0)
	_, err := ufs.WriteFile(t.Context(), s, "b", []byte("x"), ufs.CreateOptions{IfNew: true})
	wantKind(t, "a conditional write", err, errs.Unavailable)
	if n.Load() != 1 {
		t.Errorf("a conditional write was sent %d times, want once", n.Load())
	}
}

// TestCutOff checks that a write whose request was cut off, or that something before the service has answered, is not sent again: the first
// one may still be carried out, after what follows.
func TestCutOff(t *testing.T) {
	f := newFake(t)
	s := f.open(t, "")
	if err := s.Probe(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	var n atomic.Int32
	for what, answer := range map[string]func(http.ResponseWriter){
		"reset": func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, "no ETag": func(w http.ResponseWriter) { w.WriteHeader(200) },
		"bad gateway": func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) },
	} {
		n.Store(0)
		f.intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != "PUT" {
				return false
			}
			n.Add(1)
			answer(w)
			return true
		}
		_, err := ufs.WriteFile(t.Context(), s, "a", []byte("x"), ufs.CreateOptions{})
		wantKind(t, what, err, errs.Unavailable)
		if n.Load() != 1 || errors.Is(err, ufs.ErrUnsent) {
			t.Errorf("%s: sent %d times, %v; want once, with an open outcome", what, n.Load(), err)
		}
	}
}

// TestLostAnswer checks that a write whose answer is lost is unclear, and not taken for refused by a second try.
func TestLostAnswer(t *testing.T) {
	f := newFake(t)
	s := f.open(t, "")
	if err := s.Probe(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	f.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "PUT" && r.Method != "POST" || r.URL.Query().Has("partNumber") || r.URL.Query().Has("uploads") ||
			strings.Contains(r.URL.Path, ".sluice") {
			return false
		}
		rec := httptest.NewRecorder()
		f.intercept = nil
		f.ServeHTTP(rec, r)
		panic(http.ErrAbortHandler)
	}
	for _, size := range []int{10, 2 << 20, -(9 << 20)} {
		again := f.intercept
		if again == nil {
			t.Fatal("no interceptor")
		}
		announced := int64(size)
		if size < 0 {
			size, announced = -size, -1
		}
		w, err := s.Create(t.Context(), fmt.Sprint("f", size), announced, ufs.CreateOptions{IfNew: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		_, err = w.Commit(t.Context())
		wantKind(t, fmt.Sprint("write of ", size), err, errs.Unavailable)
		if in, err := s.Stat(t.Context(), fmt.Sprint("f", size)); err != nil || in.Size != int64(size) {
			t.Errorf("the write of %d had its effect: got %+v, %v", size, in, err)
		}
		f.intercept = again
	}
}

// TestBadReads checks that bytes other than those asked for never pass.
func TestBadReads(t *testing.T) {
	f := newFake(t)
	s := f.open(t, "")
	in, err := ufs.WriteFile(t.Context(), s, "a", []byte("0123456789"), ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		header http.Header
		status int
		body   string
		want   errs.Kind
	}{
		"a short body":                {http.Header{"Content-Length": {"4"}, "Content-Range": {"bytes 2-5/10"}}, 206, "23", errs.Unavailable},
		"the whole object":            {nil, 200, "0123456789", errs.Unavailable},
		"another range":               {http.Header{"Content-Range": {"bytes 0-3/10"}}, 206, "0123", errs.Unavailable},
		"more than the range":         {http.Header{"Content-Range": {"bytes 2-9/10"}}, 206, "23456789", errs.Unavailable},
		"a range that ends elsewhere": {http.Header{"Content-Range": {"bytes 2-9/10"}}, 206, "2345", errs.Unavailable},
		"a range of no place":         {nil, 206, "2345", errs.Unavailable},
		"another version":             {http.Header{"Content-Range": {"bytes 2-5/10"}, "Etag": {`"other"`}}, 206, "abcd", errs.Precondition},
		"an object of nothing":        {nil, 200, "", errs.Range},
	} {
		f.intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != "GET" {
				return false
			}
			w.Header().Set("ETag", `"`+in.ETag+`"`)
			for k, v := range c.header {
				w.Header()[k] = v
			}
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
			return true
		}
		r, err := s.Open(t.Context(), "a", 2, 4, in.Version)
		if err == nil {
			_, err = io.ReadAll(r)
			_ = r.Close()
		}
		wantKind(t, what, err, c.want)
	}
}

// TestHostileList checks that a listing that goes nowhere ends, and that names are held to what they must be.
func TestHostileList(t *testing.T) {
	for what, c := range map[string]struct {
		body string
		want []string
		kind errs.Kind
	}{
		"a circle": {`<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken><Contents><Key>d/a</Key></Contents>`,
			[]string{"d/a"}, errs.Unavailable},
		"no way on":       {`<IsTruncated>true</IsTruncated><Contents><Key>d/a</Key></Contents>`, []string{"d/a"}, errs.Unavailable},
		"foreign names":   {`<Contents><Key>e/x</Key></Contents><Contents><Key>d/b</Key></Contents><Contents><Key></Key></Contents>`, []string{"d/b"}, errs.Other},
		"names twice":     {`<Contents><Key>d/b</Key></Contents><Contents><Key>d/b</Key></Contents>`, []string{"d/b"}, errs.Other},
		"no order":        {`<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken><Contents><Key>d/b</Key></Contents>`, []string{"d/b"}, errs.Unavailable},
		"tokens for ever": {`<IsTruncated>true</IsTruncated><NextContinuationToken>%s</NextContinuationToken>`, nil, errs.Unavailable},
		"no listing":      {`<Message>It works!</Message>`, nil, errs.Unavailable},
		"fewer than said": {`<IsTruncated>false</IsTruncated><KeyCount>3</KeyCount><Contents><Key>d/a</Key></Contents>`, nil, errs.Unavailable},
		"no XML":          {`<Contents><Key>d/a`, nil, errs.Unavailable},
		"a broken escape": {`<EncodingType>url</EncodingType><Contents><Key>d/%zz</Key></Contents><Contents><Key>d/c</Key></Contents>`, []string{"d/c"}, errs.Other},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			end := "</ListBucketResult>"
			if what == "no XML" {
				end = ""
			}
			body := c.body
			if what == "tokens for ever" {
				body = fmt.Sprintf(body, r.URL.Query().Get("continuation-token")+"x")
			}
			if what == "no order" && r.URL.Query().Get("continuation-token") != "" {
				body = "<Contents><Key>d/a</Key></Contents>"
			}
			_, _ = io.WriteString(w, "<ListBucketResult>"+body+end)
		}))
		var got []string
		var err error
		for in, e := range at(t, server.URL).List(t.Context(), "d/", "", false) {
			if err = e; e == nil {
				got = append(got, in.Name)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) || errs.KindOf(err) != c.kind {
			t.Errorf("%s: got %q, %v, want %q, %v", what, got, err, c.want, c.kind)
		}
		server.Close()
	}
}

func TestCleanStaging(t *testing.T) {
	f := newFake(t)
	crashed, s := f.open(t, "p"), f.open(t, "p")
	ctx := t.Context()
	big := make([]byte, 9<<20)
	stage := func(s *Store, name string) ufs.Writer {
		w, err := s.Create(ctx, name, -1, ufs.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(big); err != nil || w.Token() == "" {
			t.Fatalf("write: %v, token %q", err, w.Token())
		}
		return w
	}
	left, named, open := stage(crashed, "left"), stage(crashed, "named"), stage(s, "open")
	foreign, err := s.Begin(ctx, "foreign", ufs.Attr{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CleanStaging(ctx, func(token string) bool { return token == named.Token() }); err != nil {
		t.Fatal(err)
	}
	_, err = left.Commit(ctx)
	wantKind(t, "commit of a cleaned upload", err, errs.NotExist)
	for _, w := range []ufs.Writer{named, open} {
		if _, err := w.Commit(ctx); err != nil {
			t.Errorf("commit of a live upload: %v", err)
		}
	}
	if _, err := s.PutPart(ctx, "foreign", foreign, 1, 1, strings.NewReader("x")); err != nil {
		t.Errorf("an upload without a note was cleaned: %v", err)
	}
	if err := s.CleanStaging(ctx, func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	for in, err := range f.store.List(ctx, root+"p/.sluice/", "", true) {
		t.Errorf("left in staging: %q, %v", in.Name, err)
	}
}

// TestLost checks that what a process that has died began is found, whatever it could note of it, and nothing else is.
func TestLost(t *testing.T) {
	server := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
	t.Cleanup(server.Close)
	ctx := t.Context()
	open := func() *Store {
		s, err := Open(Options{Bucket: "bkt", Prefix: "p", Endpoint: server.URL, AccessKey: "a", SecretKey: "s", PathStyle: true, uploads: newUploads()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	dead, s := open(), open()
	if _, err := s.client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &s.o.Bucket}); err != nil {
		t.Fatal(err)
	}
	begin := func(s *Store, name string) string {
		id, err := s.Begin(ctx, name, ufs.Attr{})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	from := time.Now()
	if err := (&noted{s: dead, name: "a", token: "note"}).put(ctx); err != nil { // and it was killed before it got the id of lost
		t.Fatal(err)
	}
	lost, used, other, own := begin(dead, "a"), begin(dead, "a"), begin(dead, "ab"), begin(s, "a")
	if _, err := dead.PutPart(ctx, "a", used, 1, 1, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	find := func(from, to time.Time) []string {
		ids, err := s.Lost(ctx, "a", from, to)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	if ids := find(from, time.Now().Add(time.Minute)); !slices.Equal(ids, []string{lost}) {
		t.Errorf("got %v, want %s", ids, lost)
	}
	if ids := append(find(from.Add(-time.Hour), from.Add(-time.Minute)), find(from.Add(time.Minute), from.Add(time.Hour))...); len(ids) > 0 {
		t.Errorf("at other times: got %v", ids)
	}
	known := s.begins("a")
	if _, err := s.Lost(ctx, "a", from, time.Now().Add(time.Minute)); !errors.Is(err, errs.Busy) {
		t.Errorf("while one is begun: got %v", err)
	}
	known("")

	for _, late := range []time.Duration{0, time.Hour} {
		s.o.now = func() time.Time { return time.Now().Add(late) }
		if err := s.CleanStaging(ctx, func(name string) bool { return name == "other" }); err != nil {
			t.Fatal(err)
		}
		if ids := find(from, time.Now().Add(time.Minute)); (len(ids) == 0) != (late > 0) {
			t.Errorf("after %v: got %v", late, ids)
		}
	}
	if _, err := s.PutPart(ctx, "a", lost, 1, 1, strings.NewReader("x")); errs.KindOf(err) != errs.NotExist {
		t.Errorf("the lost upload is there still: %v", err)
	}
	for id, name := range map[string]string{used: "a", other: "ab", own: "a"} {
		if _, err := s.PutPart(ctx, name, id, 2, 1, strings.NewReader("x")); err != nil {
			t.Errorf("the upload to %s is gone: %v", name, err)
		}
	}
	if _, err := s.getStaged(ctx, "test", notes+"note"); errs.KindOf(err) != errs.NotExist {
		t.Errorf("the note is there still: %v", err)
	}
}

// TestRefused checks that a write of which every try was refused is not taken for one without an answer.
func TestRefused(t *testing.T) {
	for status, want := range map[int]bool{429: true, 403: true, 503: false, 500: false, 502: false, 504: false, 408: false} {
		_, err := ufs.WriteFile(t.Context(), answering(t, status, ""), "a", []byte("x"), ufs.CreateOptions{})
		if err == nil || errors.Is(err, ufs.ErrUnsent) != want {
			t.Errorf("%d: unsent is %v, want %v: %v", status, !want, want, err)
		}
	}
	var n atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(map[bool]int{true: 500, false: 429}[n.Add(1) == 1])
	}))
	t.Cleanup(server.Close)
	if _, err := ufs.WriteFile(t.Context(), at(t, server.URL), "a", []byte("x"), ufs.CreateOptions{}); n.Load() < 2 || errors.Is(err, ufs.ErrUnsent) {
		t.Errorf("a try that may have been carried out was forgotten after %d tries: %v", n.Load(), err)
	}
}

func TestRemoveFiles(t *testing.T) {
	f := newFake(t)
	s, ctx := f.open(t, ""), t.Context()
	var files []ufs.Versioned
	for _, name := range []string{"a", "b", "c/d", "c d+%"} {
		in, err := ufs.WriteFile(ctx, s, name, []byte(name), ufs.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, ufs.Versioned{Name: name, Version: in.Version})
	}
	files[1].Version = "other|1"
	files = append(files, ufs.Versioned{Name: "none"}, ufs.Versioned{Name: "none", Version: "1|1"})
	if err := s.RemoveFiles(ctx, files); err != nil {
		t.Fatal(err)
	}
	var left []string
	for in, err := range s.List(ctx, "", "", true) {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, in.Name)
	}
	if fmt.Sprint(left) != "[b]" {
		t.Errorf("left: %q, want b", left)
	}
}

func TestStreamedWrite(t *testing.T) {
	f := newFake(t)
	s, ctx := f.open(t, ""), t.Context()
	w, err := s.Create(ctx, "a", 3<<20, ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.SetAttr(ufs.Attr{Origin: "early"}); err != nil {
		t.Errorf("attributes before the first byte: %v", err)
	}
	if _, err := w.Write(make([]byte, 2<<20)); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "attributes after the request has begun", w.SetAttr(ufs.Attr{}), errs.Unsupported)
	if _, err := w.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if in, err := w.Commit(ctx); err != nil || in.Attr.Origin != "early" {
		t.Errorf("commit: got %+v, %v", in, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if w, err = s.Create(ctx, "b", 30<<20, ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		if _, err = w.Write(make([]byte, 4<<20)); err == nil {
			cancel()
		}
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled write: got %v", err)
	}
	_ = w.Abort()
}

func TestPartSizes(t *testing.T) {
	var all int64
	for n := range maxParts {
		all += partSize(n, -1)
	}
	if all < 3<<40 {
		t.Errorf("a stream of unknown length ends at %d bytes, want 3 TiB", all)
	}
	for _, size := range []int64{0, maxPut + 1, 1 << 40, maxObject} {
		p := partSize(0, size)
		if n := (size + p - 1) / p; n > maxParts || p < 5<<20 || p > maxPut {
			t.Errorf("%d bytes: %d parts of %d", size, n, p)
		}
	}
}

func TestReservedMetadata(t *testing.T) {
	s := newFake(t).open(t, "")
	for _, k := range reserved {
		_, err := s.Create(t.Context(), "a", 0, ufs.CreateOptions{Attr: ufs.Attr{User: map[string]string{k: "forged"}}})
		wantKind(t, k, err, errs.Invalid)
	}
	attr := ufs.Attr{
		User:    map[string]string{"k": "grüße, 世界 " + strings.Repeat("ü", 60)},
		Headers: map[string]string{"Content-Type": "text/plain", "Expires": "soon", "X-Odd": "1"},
	}
	if _, err := ufs.WriteFile(t.Context(), s, "a", nil, ufs.CreateOptions{Attr: attr}); err != nil {
		t.Fatal(err)
	}
	in, err := s.Stat(t.Context(), "a")
	if err != nil || fmt.Sprint(in.Attr.User, in.Attr.Headers) != fmt.Sprint(attr.User, attr.Headers) {
		t.Errorf("got %v %v, %v", in.Attr.User, in.Attr.Headers, err)
	}
}

func TestOpenURI(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	keys := func(more ...string) map[string]string {
		m := map[string]string{"access_key": "a", "secret_key": canary}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	bucket, none := &url.URL{Scheme: "s3", Host: "b", Path: "/p/q"}, &url.URL{Scheme: "s3"}
	for what, c := range map[string]struct {
		uri     *url.URL
		options map[string]string
	}{
		"no bucket": {none, keys()}, "no keys": {bucket, nil}, "half a key": {bucket, map[string]string{"secret_key": canary}},
		"unknown option": {bucket, keys("acces_key", canary)}, "no URL": {bucket, keys("endpoint", "host:9000")},
		"password": {bucket, keys("endpoint", "http://u:"+canary+"@h")}, "query": {bucket, keys("endpoint", "http://h/?x="+canary)}, "no boolean": {bucket, keys("path_style", canary)},
	} {
		_, err := OpenURI(t.Context(), c.uri, c.options)
		wantKind(t, what, err, errs.Invalid)
	}
	s, err := OpenURI(t.Context(), bucket, keys("endpoint", "https://h:1", "path_style", "true"))
	if err != nil || s.(*Store).prefix != "p/q/" {
		t.Errorf("got %+v, %v", s, err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "env")
	t.Setenv("AWS_SECRET_ACCESS_KEY", canary)
	if s, err = OpenURI(t.Context(), bucket, nil); err != nil || s.(*Store).o.AccessKey != "env" {
		t.Errorf("keys of the environment: %v", err)
	}
}
