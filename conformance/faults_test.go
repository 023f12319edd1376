package conformance

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// What the tests of faults share: clients of both protocols, content that says what it is, and pictures of a whole
// namespace.

// content is what a file should hold. Every block of it names the file, the generation and its own place, so that bytes of
// another file, of another generation or from another offset are recognised.
type content struct {
	name string
	gen  int
	size int64
}

const contentBlock = 4 << 10

// ReadAt implements io.ReaderAt.
func (c content) ReadAt(p []byte, off int64) (n int, err error) {
	var block [contentBlock]byte
	for n < len(p) && off < c.size {
		at := off / contentBlock
		for i := copy(block[:], fmt.Appendf(block[:0], "%s gen %d block %d|", c.name, c.gen, at)); i < len(block); i *= 2 {
			copy(block[i:], block[:i])
		}
		k := copy(p[n:], block[off%contentBlock:min(contentBlock, c.size-at*contentBlock)])
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (c content) reader() *io.SectionReader { return io.NewSectionReader(c, 0, c.size) }

func (c content) String() string { return fmt.Sprintf("%s gen %d, %d bytes", c.name, c.gen, c.size) }

func (c content) bytes() []byte {
	b := make([]byte, c.size)
	c.ReadAt(b, 0)
	return b
}

// digest returns the MD5 of what contents hold, one after the other.
func digest(all ...content) []byte {
	h := md5.New()
	for _, c := range all {
		io.Copy(h, c.reader())
	}
	return h.Sum(nil)
}

// same compares what r yields with the contents, one after the other, and says where they first differ.
func same(r io.Reader, all ...content) error {
	got, want := make([]byte, 256<<10), make([]byte, 256<<10)
	for _, c := range all {
		for off := int64(0); off < c.size; {
			k := int(min(c.size-off, int64(len(got))))
			n, err := io.ReadFull(r, got[:k])
			c.ReadAt(want[:k], off)
			if i := mismatch(got[:n], want[:n]); i >= 0 {
				return fmt.Errorf("at %d of %v: got %.80q, want %.80q", off+int64(i), c, got[i:n], want[i:n])
			}
			if err != nil {
				return fmt.Errorf("at %d of %v: %w", off+int64(n), c, err)
			}
			off += int64(k)
		}
	}
	if n, err := io.ReadFull(r, got[:1]); n > 0 || err != io.EOF {
		return fmt.Errorf("bytes beyond the end of %v, or no clean end: %v", all, err)
	}
	return nil
}

func mismatch(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// rig is a server and clients of it.
type rig struct {
	*Server
	s3             *s3.Client
	http           *http.Client
	access, secret string
	basic          bool // WebHDFS asks for the key pair
}

func newRig(s *Server) *rig {
	dial := &net.Dialer{}
	tr := &http.Transport{MaxIdleConnsPerHost: 256, DialContext: dial.DialContext, DisableCompression: true}
	h := &http.Client{Transport: tr}
	r := &rig{Server: s, http: h}
	r.use(AccessKey, SecretKey)
	return r
}

// use changes the key pair.
func (r *rig) use(access, secret string) {
	r.access, r.secret, r.s3 = access, secret, sdk(r.S3, access, secret, r.http)
}

// sdk returns a client that never tries again by itself.
func sdk(endpoint, key, secret string, h *http.Client) *s3.Client {
	return s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: &endpoint, UsePathStyle: true, RetryMaxAttempts: 1, HTTPClient: h,
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		Credentials:                credentials.NewStaticCredentialsProvider(key, secret, ""),
	})
}

// unsigned spares the clients of large bodies a SHA-256.
func unsigned(size int64) func(*s3.Options) {
	return func(o *s3.Options) {
		if size > 1<<20 {
			o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
		}
	}
}

// bucketKey splits "/bucket/key".
func bucketKey(path string) (bucket, key *string) {
	b, k, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return &b, &k
}

func (r *rig) mkbucket(t testing.TB, name string) {
	t.Helper()
	if _, err := r.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatalf("create bucket %s: %v", name, err)
	}
}

// put writes path over S3 and returns its ETag.
func (r *rig) put(ctx context.Context, path string, c content) (etag string, err error) {
	b, k := bucketKey(path)
	out, err := r.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: b, Key: k, Body: c.reader(), ContentLength: &c.size}, unsigned(c.size))
	if err != nil {
		return "", err
	}
	return strings.Trim(aws.ToString(out.ETag), `"`), nil
}

// putUntil is mustPut for what is as large as to have a slow disk change the leader: it is put again if it was refused, for a while.
func (r *rig) putUntil(t testing.TB, path string, c content) {
	t.Helper()
	eventually(t, 90*time.Second, func() error { _, err := r.put(t.Context(), path, c); return err })
}

func (r *rig) mustPut(t testing.TB, path string, c content) {
	t.Helper()
	etag, err := r.put(t.Context(), path, c)
	if err != nil {
		t.Fatalf("put %s: %v", path, err)
	}
	if want := hex.EncodeToString(digest(c)); etag != want {
		t.Fatalf("put %s: got ETag %s, want %s", path, etag, want)
	}
}

// get reads path over S3, compares it with all, and returns its ETag and the X-Cache header.
func (r *rig) get(ctx context.Context, path string, all ...content) (etag, cache string, err error) {
	resp, err := r.send(ctx, r.request("GET", path, nil))
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		return "", "", fmt.Errorf("GET %s: %s %s", path, resp.Status, b)
	}
	if err := same(resp.Body, all...); err != nil {
		return "", "", fmt.Errorf("GET %s: %w", path, err)
	}
	return strings.Trim(resp.Header.Get("ETag"), `"`), resp.Header.Get("X-Cache"), nil
}

// list returns the keys below the prefix of "/bucket/prefix".
func (r *rig) list(ctx context.Context, path string) ([]string, error) {
	b, k := bucketKey(path)
	var keys []string
	for pages := s3.NewListObjectsV2Paginator(r.s3, &s3.ListObjectsV2Input{Bucket: b, Prefix: k}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Contents {
			keys = append(keys, "/"+*b+"/"+*o.Key)
		}
	}
	return keys, nil
}

// raw is a request as it goes over the wire: path and query are sent as they are.
type raw struct {
	method, base, target string // target: path and query, escaped
	header               http.Header
	body                 []byte
	key, secret          string // of the signature, "" for none
	user, password       string // of HTTP Basic, "" for none
}

// request returns a signed S3 request to the escaped target.
func (r *rig) request(method, target string, body []byte, header ...string) raw {
	q := raw{method: method, base: r.S3, target: target, body: body, key: r.access, secret: r.secret, header: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		q.header.Set(header[i], header[i+1])
	}
	return q
}

// webhdfs returns the request of an operation as the superuser, who is who runs the test.
func (r *rig) webhdfs(method, path, op, params string, body []byte) raw {
	q := raw{method: method, base: r.WebHDFS, body: body, header: http.Header{}}
	q.target = "/webhdfs/v1" + path + "?op=" + op
	if params != "" {
		q.target += "&" + params
	}
	if r.basic {
		q.user, q.password = r.access, r.secret
	} else if !strings.Contains(params, "user.name=") {
		q.target += "&user.name=" + superuser()
	}
	return q
}

func superuser() string {
	if u := os.Getenv("USER"); u != "" && os.Geteuid() != 0 {
		return u
	}
	return "root"
}

func (q raw) build(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, q.method, q.base, bytes.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	path, query, _ := strings.Cut(q.target, "?")
	req.URL.Opaque, req.URL.RawQuery = "//"+req.URL.Host+path, query
	for k, v := range q.header {
		req.Header[k] = v
	}
	if q.user != "" {
		req.SetBasicAuth(q.user, q.password)
	}
	if q.key == "" {
		return req, nil
	}
	hash := req.Header.Get("X-Amz-Content-Sha256")
	if hash == "" {
		sum := sha256.Sum256(q.body)
		hash = hex.EncodeToString(sum[:])
		req.Header.Set("X-Amz-Content-Sha256", hash)
	}
	creds := aws.Credentials{AccessKeyID: q.key, SecretAccessKey: q.secret}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	return req, signer.SignHTTP(ctx, creds, req, hash, "s3", "us-east-1", time.Now())
}

func (r *rig) send(ctx context.Context, q raw) (*http.Response, error) {
	req, err := q.build(ctx)
	if err != nil {
		return nil, err
	}
	return r.http.Do(req)
}

// do sends a request, following no redirect, and returns the status, the header and the body.
func (r *rig) do(t testing.TB, q raw) (int, http.Header, []byte) {
	t.Helper()
	req, err := q.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.http.Transport.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", q.method, q.target, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", q.method, q.target, err)
	}
	return resp.StatusCode, resp.Header, b
}

// hdfsError is an answer other than success.
type hdfsError struct {
	status    int
	Exception string
	Message   string
}

func (e *hdfsError) Error() string { return fmt.Sprintf("%d %s: %s", e.status, e.Exception, e.Message) }

// hdfs runs a WebHDFS operation. With a body it takes both steps, as Hadoop's client does: the first without the bytes.
func (r *rig) hdfs(ctx context.Context, method, path, op, params string, body io.Reader, size int64) ([]byte, error) {
	req, err := r.webhdfs(method, path, op, params, nil).build(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := r.http.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	if body != nil && resp.StatusCode == http.StatusTemporaryRedirect {
		req, err = http.NewRequestWithContext(ctx, method, resp.Header.Get("Location"), io.NopCloser(body))
		if err != nil {
			return nil, err
		}
		if req.ContentLength = size; size == 0 {
			req.Body = http.NoBody
		}
		if resp, err = r.http.Transport.RoundTrip(req); err != nil {
			return nil, err
		}
		b, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
	}
	if resp.StatusCode >= 300 {
		return b, remoteException(resp.StatusCode, b)
	}
	return b, nil
}

func remoteException(status int, body []byte) error {
	var doc struct{ RemoteException hdfsError }
	if err := json.Unmarshal(body, &doc); err != nil || doc.RemoteException.Exception == "" {
		return fmt.Errorf("status %d without a RemoteException: %.300q", status, body)
	}
	doc.RemoteException.status = status
	return &doc.RemoteException
}

// unanswered reports whether err is the connection's end and not the server's answer.
func unanswered(err error) bool {
	if _, ok := errors.AsType[*hdfsError](err); ok {
		return false
	}
	var status interface{ HTTPStatusCode() int }
	return !errors.As(err, &status) || status.HTTPStatusCode() == 0
}

// picture is a whole namespace: every name with its bytes and what both protocols say of it.
func (r *rig) picture(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	r.paint(t, dir, all)
	return all
}

func (r *rig) paint(t testing.TB, dir string, all map[string]string) {
	t.Helper()
	b, err := r.hdfs(t.Context(), "GET", escapePath(dir), "LISTSTATUS", "", nil, 0)
	if err != nil {
		t.Fatalf("list %s: %v", dir, err)
	}
	var doc struct {
		FileStatuses struct {
			FileStatus []map[string]any
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	for _, f := range doc.FileStatuses.FileStatus {
		name, _ := f["pathSuffix"].(string)
		path := strings.TrimSuffix(dir, "/") + "/" + name
		delete(f, "accessTime")
		facts, _ := json.Marshal(f)
		all[path] = string(facts)
		if f["type"] == "DIRECTORY" {
			r.paint(t, path, all)
			continue
		}
		q := r.request("GET", escapePath(path), nil)
		if strings.Count(path, "/") < 2 { // no key of a bucket
			q = r.webhdfs("GET", escapePath(path), "OPEN", "", nil)
		}
		resp, err := r.send(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		status, h := resp.StatusCode, resp.Header
		all[path] += fmt.Sprintf(" %d %s %x", status, h.Get("ETag"), md5.Sum(body))
	}
}

// unchanged fails the test if the namespace differs from before.
func (r *rig) unchanged(t testing.TB, before map[string]string, why string) {
	t.Helper()
	after := r.picture(t, "/")
	for path, was := range before {
		if after[path] != was {
			t.Errorf("after %s: %s is %q, was %q", why, path, after[path], was)
		}
		delete(after, path)
	}
	for path := range after {
		t.Errorf("after %s: %s is there and was not", why, path)
	}
}

// escapePath escapes a path as both protocols want it.
func escapePath(p string) string {
	parts := strings.Split(p, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// files returns the regular files below dir with their sizes, by their names relative to it.
func files(t testing.TB, dir string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		rel, _ := filepath.Rel(dir, path)
		if err == nil {
			all[rel] = info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// eventually waits until ok, and fails the test with what ok said last.
func eventually(t testing.TB, limit time.Duration, ok func() error) {
	t.Helper()
	seldom(t, limit, 20*time.Millisecond, ok)
}

// seldom is eventually with that pause between two tries.
func seldom(t testing.TB, limit, pause time.Duration, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("after %v: %v", limit, err)
			return
		}
		time.Sleep(pause)
	}
}

// admin runs a request of the admin API and decodes its answer.
func (r *rig) admin(t testing.TB, method, path, body string) (int, map[string]any) {
	t.Helper()
	q := raw{method: method, base: r.Admin, target: path, body: []byte(body), user: r.access, password: r.secret, header: http.Header{}}
	if body != "" {
		q.header.Set("Content-Type", "application/json")
	}
	status, _, b := r.do(t, q)
	doc := map[string]any{}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatalf("%s %s: status %d, not JSON: %.200q", method, path, status, b)
		}
	}
	return status, doc
}

// mount mounts the directory store at path.
func (r *rig) mount(t testing.TB, path, store string, options ...string) {
	t.Helper()
	spec := map[string]any{"path": path, "uri": store}
	o := map[string]string{}
	for i := 0; i < len(options); i += 2 {
		o[options[i]] = options[i+1]
	}
	if len(o) > 0 {
		spec["options"] = o
	}
	b, _ := json.Marshal(spec)
	if status, doc := r.admin(t, "POST", "/api/v1/mounts", string(b)); status != http.StatusCreated {
		t.Fatalf("mount %s at %s: %d %v", store, path, status, doc)
	}
}

func b64(sum []byte) string { return base64.StdEncoding.EncodeToString(sum) }

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func digestBytes(r io.Reader) []byte {
	h := md5.New()
	io.Copy(h, r)
	return h.Sum(nil)
}
