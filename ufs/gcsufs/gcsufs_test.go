package gcsufs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
)

func wantKind(t *testing.T, what string, err error, kind errs.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: got %v, want %v", what, err, kind)
	}
}

func write(t *testing.T, s ufs.Store, name, data string, o ufs.CreateOptions) ufs.Info {
	t.Helper()
	in, err := ufs.WriteFile(t.Context(), s, name, []byte(data), o)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// account returns the JSON of a service account's key.
func account(t *testing.T) (text string, key *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "me@project", "private_key_id": "k1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "token_uri": "http://never.asked/",
	})
	return string(b), key
}

func TestOptions(t *testing.T) {
	credentials, _ := account(t)
	for _, c := range []struct {
		uri     string
		options map[string]string
		root    string // "": refused
	}{
		{"gs://b/p", map[string]string{"credentials": credentials}, "gs:storage.googleapis.com/b/p/"},
		{"gs://b", map[string]string{"anonymous": "true", "endpoint": "http://127.0.0.1:4443/"}, "gs:localhost:4443/b/"},
		{"gs://b", map[string]string{"credentials": credentials, "endpoint": "http://localhost:1"}, "gs:localhost:1/b/"},
		{"gs://b", map[string]string{"credentials": credentials, "endpoint": "http://store.example"}, ""},
		{"gs://b", nil, ""}, {"gs:///p", map[string]string{"anonymous": "true"}, ""}, {"gs://b", map[string]string{"anonymous": "often"}, ""},
		{"gs://b", map[string]string{"credentials": credentials, "anonymous": "true"}, ""}, {"gs://b", map[string]string{"key": "x"}, ""},
		{"gs://b", map[string]string{"credentials": `{"type":"authorized_user","refresh_token":"hush"}`}, ""},
		{"gs://b", map[string]string{"credentials": `{"type":"service_account","client_email":"a","private_key":"hush"}`}, ""},
		{"gs://b", map[string]string{"credentials": "hush"}, ""},
	} {
		u, err := url.Parse(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		s, err := OpenURI(t.Context(), u, c.options)
		switch {
		case c.root == "" && !errors.Is(err, errs.Invalid):
			t.Errorf("%s %v: got %v", c.uri, c.options, err)
		case c.root == "" && (strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "PRIVATE KEY")):
			t.Errorf("%v tells a secret", err)
		case c.root != "" && (err != nil || s.Features().Root != c.root):
			t.Errorf("%s: got %v, want %s", c.uri, err, c.root)
		}
	}
}

// TestToken checks the signature and the claims of what a service account's requests carry, and that it is made again in time.
func TestToken(t *testing.T) {
	credentials, key := account(t)
	var bearer string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bearer, _ = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":{"message":"Invalid Credentials"}}`)
	}))
	t.Cleanup(server.Close)
	s := open(t, Options{Bucket: "b", Endpoint: server.URL, Credentials: credentials})
	_, err := s.Stat(t.Context(), "a")
	wantKind(t, "stat", err, errs.Permission)
	if strings.Contains(err.Error(), bearer) || !strings.Contains(err.Error(), "Invalid Credentials") {
		t.Errorf("got %v", err)
	}
	parts := strings.Split(bearer, ".")
	if len(parts) != 3 {
		t.Fatalf("the token has %d parts", len(parts))
	}
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum[:], signature); err != nil {
		t.Error(err)
	}
	var claims struct {
		Issuer, Subject, Audience string
		Issued, Expires           int64
	}
	b, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var raw map[string]any
	_ = json.Unmarshal(b, &raw)
	claims.Issuer, _ = raw["iss"].(string)
	claims.Subject, _ = raw["sub"].(string)
	claims.Audience, _ = raw["aud"].(string)
	exp, _ := raw["exp"].(float64)
	iat, _ := raw["iat"].(float64)
	if claims.Issuer != "me@project" || claims.Subject != "me@project" || claims.Audience != "https://storage.googleapis.com/" || exp-iat != 3600 {
		t.Errorf("the claims are %s", b)
	}
	now := time.Now()
	again := func(at time.Time) string {
		text, err := s.token.bearer(at)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if again(now.Add(30*time.Minute)) != bearer || again(now.Add(55*time.Minute)) == bearer {
		t.Error("the token is not made again before its end, or too often")
	}
}

// TestManyParts composes more parts than one composition takes, by another process than the one that began the upload.
func TestManyParts(t *testing.T) {
	s := makeBucket(t, "parts")
	id, err := s.Begin(t.Context(), "a", ufs.Attr{Origin: "o", Headers: map[string]string{"Content-Type": "text/x"}})
	if err != nil {
		t.Fatal(err)
	}
	begun.End(s.root, id)
	var want bytes.Buffer
	var parts []ufs.Part
	for i := range 70 {
		text := fmt.Sprintf("part %d;", i)
		etag, err := s.PutPart(t.Context(), "a", id, i+1, int64(len(text)), strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		want.WriteString(text)
		parts = append(parts, ufs.Part{Number: i + 1, ETag: etag, Size: int64(len(text))})
	}
	in, err := s.Complete(t.Context(), "a", id, parts, ufs.CreateOptions{IfNew: true})
	if err != nil || in.Attr.Origin != "o" || in.Attr.Headers["Content-Type"] != "text/x" {
		t.Fatalf("got %+v, %v", in, err)
	}
	if got, err := ufs.ReadAll(t.Context(), s, "a", in.Version, 1<<20); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if left, err := s.parts(t.Context(), "test", "", id); err != nil || len(left) > 0 {
		t.Errorf("of the upload there is left: %v, %v", left, err)
	}
}

// TestUploadsOfOthers checks that clean-up takes an upload that nobody names, but none that is named or of this process.
func TestUploadsOfOthers(t *testing.T) {
	s := makeBucket(t, "uploads")
	begin := func() string {
		id, err := s.Begin(t.Context(), "a", ufs.Attr{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.PutPart(t.Context(), "a", id, 1, 4, strings.NewReader("data")); err != nil {
			t.Fatal(err)
		}
		return id
	}
	ours, named, left := begin(), begin(), begin()
	for _, id := range []string{named, left} {
		begun.End(s.root, id)
	}
	stopped := ufs.WithGuard(t.Context(), func() error { return errs.New("test", "", errs.Unavailable, "not any more") })
	wantKind(t, "clean-up by who may not", s.CleanStaging(stopped, func(string) bool { return false }), errs.Unavailable)
	if err := s.CleanStaging(t.Context(), func(id string) bool { return id == named }); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]int{ours: 2, named: 2, left: 0} {
		if got, err := s.parts(t.Context(), "test", "", id); err != nil || len(got) != want {
			t.Errorf("got %v, %v, want %d", got, err, want)
		}
	}
}

// TestSetAttr checks the request that changes attributes: what is not wanted any more is null, by the name it has there, and
// it is conditional.
func TestSetAttr(t *testing.T) {
	var body map[string]any
	var query url.Values
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch {
			query = r.URL.Query()
			_ = json.NewDecoder(r.Body).Decode(&body)
		}
		_, _ = io.WriteString(w, `{"name":"a","size":"1","generation":"7","metageneration":"3","contentType":"text/x","metadata":{"Old":"1","k":"0"}}`)
	})
	if _, err := s.SetAttr(t.Context(), "a", "7|1", ufs.Attr{User: map[string]string{"k": "v"}, Owner: "ann"}); err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(body)
	const want = `{"cacheControl":null,"contentDisposition":null,"contentEncoding":null,"contentLanguage":null,"contentType":null,` +
		`"metadata":{"Old":null,"k":"v","sluice":"{\"w\":\"ann\"}"}}`
	if string(got) != want || query.Get("ifGenerationMatch") != "7" || query.Get("ifMetagenerationMatch") != "3" {
		t.Errorf("got %s with %v", got, query)
	}
	_, err := s.SetAttr(t.Context(), "a", "8|1", ufs.Attr{})
	wantKind(t, "another version", err, errs.Precondition)
}

// TestPartlyTaken checks an upload of which the service takes less at a time than it is sent.
func TestPartlyTaken(t *testing.T) {
	var got []byte
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			w.Header().Set("Location", "http://inside.example/upload/x?upload_id=1")
		case http.MethodPut:
			var from, to int64
			_, _ = fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-%d", &from, &to)
			b, _ := io.ReadAll(r.Body)
			if from != int64(len(got)) || to != from+int64(len(b))-1 {
				t.Errorf("%d bytes sent as %s after %d", len(b), r.Header.Get("Content-Range"), len(got))
			}
			if strings.HasSuffix(r.Header.Get("Content-Range"), "/*") {
				b = b[:min(len(b), 3<<20)]
				got = append(got, b...)
				w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", len(got)-1))
				w.WriteHeader(http.StatusPermanentRedirect)
				return
			}
			got = append(got, b...)
			_, _ = fmt.Fprintf(w, `{"size":"%d","generation":"7","metageneration":"1"}`, len(got))
		}
	})
	data := bytes.Repeat([]byte("0123456789abcde"), 1<<20)
	in, err := ufs.WriteFile(t.Context(), s, "a", data, ufs.CreateOptions{})
	if err != nil || in.Size != int64(len(data)) || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes of %d, %+v, %v", len(got), len(data), in, err)
	}
}

// TestCompressed checks that an object stored compressed is handed out as it is stored.
func TestCompressed(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			t.Errorf("asked with Accept-Encoding %q, which has the service decompress", r.Header.Get("Accept-Encoding"))
		}
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("X-Goog-Generation", "7")
		_, _ = io.WriteString(w, "\x1f\x8bnot really")
	})
	if b, err := ufs.ReadAll(t.Context(), s, "a", "7|1", 100); err != nil || string(b) != "\x1f\x8bnot really" {
		t.Errorf("got %q, %v", b, err)
	}
	_, err := ufs.ReadAll(t.Context(), s, "a", "6|1", 100)
	wantKind(t, "another generation, from who ignores the condition", err, errs.Precondition)
}

// serve opens a store of a service that answers as h does.
func serve(t *testing.T, h http.HandlerFunc) *Store {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return open(t, Options{Bucket: "b", Endpoint: server.URL})
}

// TestUnclear checks which failures of a change say that it has not happened.
func TestUnclear(t *testing.T) {
	for status, c := range map[int]struct {
		kind   errs.Kind
		unsent bool
	}{
		500: {errs.Unavailable, false}, 503: {errs.Unavailable, false}, 408: {errs.Unavailable, false}, 403: {errs.Permission, true},
		404: {errs.Unavailable, true}, 412: {errs.Precondition, true}, 429: {errs.Unavailable, true}, 302: {errs.Unavailable, true},
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
		})
		_, err := ufs.WriteFile(t.Context(), s, "a", []byte("data"), ufs.CreateOptions{})
		wantKind(t, fmt.Sprint("status ", status), err, c.kind)
		if errors.Is(err, ufs.ErrUnsent) != c.unsent {
			t.Errorf("status %d: unsent is %v: %v", status, !c.unsent, err)
		}
	}
	s := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, err := ufs.WriteFile(t.Context(), s, "a", []byte("data"), ufs.CreateOptions{})
	if !errors.Is(err, errs.Unavailable) || errors.Is(err, ufs.ErrUnsent) {
		t.Errorf("no answer: %v", err)
	}
}

// TestEmptyPages checks that a directory is there if only a later page of its listing has something in it.
func TestEmptyPages(t *testing.T) {
	for last, kind := range map[string]errs.Kind{
		`{"items":[{"name":"d/a","size":"1","generation":"1"}]}`: 0, `{}`: errs.NotExist, `{"nextPageToken":"p1"}`: errs.Unavailable,
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("pageToken") == "" {
				_, _ = io.WriteString(w, `{"nextPageToken":"p1"}`)
				return
			}
			_, _ = io.WriteString(w, last)
		})
		in, err := s.Stat(t.Context(), "d/")
		if kind != 0 {
			wantKind(t, last, err, kind)
		} else if err != nil || !in.Dir {
			t.Errorf("%s: got %+v, %v", last, in, err)
		}
	}
}

// TestDamaged checks that the service is told the MD5 of a long file before it shows it, and what its refusal means.
func TestDamaged(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcde"), 1<<20)
	sum := md5.Sum(data)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch {
		case r.Method == http.MethodPost:
			w.Header().Set("Location", "http://inside.example/upload/x?upload_id=1")
		case r.Method == http.MethodPut && strings.HasSuffix(r.Header.Get("Content-Range"), "/*"):
			_, to, _ := strings.Cut(strings.TrimSuffix(r.Header.Get("Content-Range"), "/*"), "-")
			w.Header().Set("Range", "bytes=0-"+to)
			w.WriteHeader(http.StatusPermanentRedirect)
		case r.Method == http.MethodPut:
			if got, want := r.Header.Get("X-Goog-Hash"), "md5="+base64.StdEncoding.EncodeToString(sum[:]); got != want {
				t.Errorf("told %q, want %q", got, want)
			}
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	_, err := ufs.WriteFile(t.Context(), s, "a", data, ufs.CreateOptions{})
	wantKind(t, "what was damaged on the way", err, errs.Unavailable)
	if !errors.Is(err, ufs.ErrUnsent) {
		t.Errorf("it may have been stored: %v", err)
	}
}

// TestListingsThatLie checks that a listing out of order, without end, or of something else is an error.
func TestListingsThatLie(t *testing.T) {
	item := func(name string) string { return fmt.Sprintf(`{"name":%q,"size":"1","generation":"1"}`, name) }
	for what, pages := range map[string][]string{
		"out of order":      {item("b"), item("a")},
		"without end":       {item("a"), "", ""},
		"cut off half-way":  {item("a"), `{"name":"b"`},
		"an object of none": {`{"name":"a"}`},
	} {
		n := 0
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			page := pages[min(n, len(pages)-1)]
			n++
			_, _ = fmt.Fprintf(w, `{"items":[%s],"nextPageToken":"p%d"}`, page, min(n, 2))
		})
		var err error
		for _, err = range s.List(t.Context(), "", "", false) {
			if err != nil {
				break
			}
		}
		wantKind(t, what, err, errs.Unavailable)
	}
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	_, err := s.Stat(t.Context(), "a")
	wantKind(t, "a bucket that is gone", err, errs.Unavailable)
	_, err = s.Stat(t.Context(), "a/")
	wantKind(t, "a bucket that is gone, by a directory", err, errs.Unavailable)
}

// TestListsInTurns checks that the pages of a listing are decoded, and made entries of, in turns that nobody has while the service is
// waited for.
func TestListsInTurns(t *testing.T) {
	var turns ufstest.Turns
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		turns.Want(t, 0, "while the service is asked")
		name, next := "a", "p"
		if r.URL.Query().Get("pageToken") != "" {
			name, next = "b", ""
		}
		_, _ = fmt.Fprintf(w, `{"items":[{"name":%q,"size":"1","generation":"1"}],"nextPageToken":%q}`, name, next)
	})
	turns.WantTurns(t, s, 2, 2)
}

// TestDeadServer checks that calls of a service that says nothing end with their ctx, and that one which is not there is
// errs.Unavailable at once, a change of it surely not made.
func TestDeadServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Bucket: "b", Endpoint: "http://" + l.Addr().String()})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Stat(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent service: got %v", err)
	}
	_ = l.Close()
	_, err = s.Stat(t.Context(), "a")
	wantKind(t, "a service that is not there", err, errs.Unavailable)
	_, err = ufs.WriteFile(t.Context(), s, "a", nil, ufs.CreateOptions{})
	if !errors.Is(err, ufs.ErrUnsent) || !errors.Is(err, errs.Unavailable) {
		t.Errorf("a write to it: got %v", err)
	}
}

// TestKeptMD5 checks that a file of one upload is stored with its MD5, which is its tag.
func TestKeptMD5(t *testing.T) {
	s := makeBucket(t, "md5")
	for _, size := range []int{5, chunk + 5} {
		if in := write(t, s, "a", strings.Repeat("x", size), ufs.CreateOptions{}); len(in.ETag) != 32 {
			t.Errorf("the tag of %d bytes is %q", size, in.ETag)
		}
	}
	_, err := ufs.WriteFile(t.Context(), s, "b", []byte("data"), ufs.CreateOptions{MD5: make([]byte, 16)})
	wantKind(t, "another MD5", err, errs.BadDigest)
}
