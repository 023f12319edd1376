package s3api_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/s3api"
)

// unchanged fails if what is stored differs from before.
func (r *rig) unchanged(before map[string]string, what string) {
	r.Helper()
	if after := r.state(); !maps.Equal(before, after) {
		r.Errorf("%s changed what is stored: %s", what, cmp.Diff(before, after))
	}
}

func TestWrongSecretOnEveryRoute(t *testing.T) {
	r := newRig(t)
	r.bucket()
	r.put("k", "v")
	before := r.state()
	r.ns.fail(func(op string) error { t.Errorf("%s was called before the signature was verified", op); return nil })
	for _, row := range s3api.Rows() {
		var h []string
		if row[3] != "" {
			h = []string{row[3], "b-1/k"}
		}
		for name, req := range map[string]*http.Request{
			"wrong secret": r.sign("wrong", row[1], row[2], []byte("body"), h...),
			"anonymous":    r.unsigned(row[1], row[2], h...),
		} {
			res, body := r.send(req)
			if res.StatusCode != 403 {
				t.Errorf("%s %s: %d %s", name, row[0], res.StatusCode, body)
			}
			if row[1] != "HEAD" && code(body) != map[string]string{"wrong secret": "SignatureDoesNotMatch", "anonymous": "AccessDenied"}[name] {
				t.Errorf("%s %s: %s", name, row[0], body)
			}
		}
	}
	r.ns.fail(nil)
	r.unchanged(before, "a wrong secret")
}

func (r *rig) unsigned(method, path string, headers ...string) *http.Request {
	req := r.sign(secretKey, method, path, nil, headers...)
	req.Header.Del("Authorization")
	return req
}

func TestUnbuiltOperationsSayTheirName(t *testing.T) {
	r := newRig(t)
	r.bucket()
	r.put("k", "v")
	before := r.state()
	for _, op := range []string{"PutBucketAcl", "PutObjectAcl", "PutObjectTagging", "SelectObjectContent", "PutBucketVersioning", "RenameObject", "PostObject"} {
		for _, row := range s3api.Rows() {
			if row[0] != op {
				continue
			}
			if res, body := r.do(row[1], row[2], []byte("<x/>")); res.StatusCode != 501 || !strings.Contains(body, op) {
				t.Errorf("%s: %d %s", op, res.StatusCode, body)
			}
		}
	}
	r.unchanged(before, "an operation that is not built")
}

func TestBadInput(t *testing.T) {
	r := newRig(t)
	r.bucket()
	r.put("k", "v")
	before := r.state()
	h := func(kv ...string) []string { return kv }
	long := strings.Repeat("k", 1025)
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code                     string
	}{
		{"long key", "PUT", "/b-1/" + long, "x", nil, 400, "KeyTooLongError"},
		{"NUL key", "PUT", "/b-1/a%00b", "x", nil, 400, "InvalidArgument"},
		{"key that is not UTF-8", "PUT", "/b-1/%ff", "x", nil, 400, "InvalidArgument"},
		{"bucket name", "PUT", "/B_1", "", nil, 400, "InvalidBucketName"},
		{"dots as a bucket", "GET", "/../etc", "", nil, 400, "InvalidBucketName"},
		{"MD5 that is none", "PUT", "/b-1/x", "x", h("Content-MD5", "xyz"), 400, "InvalidDigest"},
		{"MD5 of other bytes", "PUT", "/b-1/x", "x", h("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="), 400, "BadDigest"},
		{"checksum of other bytes", "PUT", "/b-1/x", "x", h("x-amz-checksum-crc32", "AAAAAA=="), 400, "BadDigest"},
		{"checksum of no length", "PUT", "/b-1/x", "x", h("x-amz-checksum-crc32", "AA=="), 400, "InvalidRequest"},
		{"unknown checksum", "PUT", "/b-1/x", "x", h("x-amz-checksum-crc16", "AA=="), 400, "InvalidRequest"},
		{"two checksums", "PUT", "/b-1/x", "x", h("x-amz-checksum-crc32", "AAAAAA==", "x-amz-checksum-crc32c", "AAAAAA=="), 400, "InvalidRequest"},
		{"unknown algorithm", "PUT", "/b-1/x", "x", h("x-amz-sdk-checksum-algorithm", "MD4"), 400, "InvalidRequest"},
		{"much metadata", "PUT", "/b-1/x", "x", h("x-amz-meta-a", strings.Repeat("v", 2048)), 400, "MetadataTooLarge"},
		{"storage class", "PUT", "/b-1/x", "x", h("x-amz-storage-class", "GLACIER"), 400, "InvalidStorageClass"},
		{"encryption", "PUT", "/b-1/x", "x", h("x-amz-server-side-encryption", "AES256"), 501, "NotImplemented"},
		{"tagging", "PUT", "/b-1/x", "x", h("x-amz-tagging", "a=b"), 501, "NotImplemented"},
		{"lock", "PUT", "/b-1/x", "x", h("x-amz-object-lock-mode", "COMPLIANCE"), 501, "NotImplemented"},
		{"redirect", "PUT", "/b-1/x", "x", h("x-amz-website-redirect-location", "/"), 501, "NotImplemented"},
		{"public ACL", "PUT", "/b-1/x", "x", h("x-amz-acl", "public-read"), 501, "NotImplemented"},
		{"write type", "PUT", "/b-1/x", "x", h("x-sluice-write-type", "MAYBE"), 400, "InvalidArgument"},
		{"part without upload", "PUT", "/b-1/x?partNumber=1", "x", nil, 400, "InvalidArgument"},
		{"upload without part", "PUT", "/b-1/x?uploadId=1", "x", nil, 405, "MethodNotAllowed"},
		{"part 0", "PUT", "/b-1/x?partNumber=0&uploadId=1", "x", nil, 400, "InvalidArgument"},
		{"part 10001", "PUT", "/b-1/x?partNumber=10001&uploadId=1", "x", nil, 400, "InvalidArgument"},
		{"unknown upload", "PUT", "/b-1/x?partNumber=1&uploadId=../1", "x", nil, 404, "NoSuchUpload"},
		{"delete of an ACL", "DELETE", "/b-1?acl", "", nil, 405, "MethodNotAllowed"},
		{"version", "DELETE", "/b-1/k?versionId=abc", "", nil, 404, "NoSuchVersion"},
		{"foreign owner", "DELETE", "/b-1/k", "", h("x-amz-expected-bucket-owner", "bob"), 403, "AccessDenied"},
		{"copy of itself", "PUT", "/b-1/k", "", h("x-amz-copy-source", "b-1/k"), 400, "InvalidRequest"},
		{"copy of no key", "PUT", "/b-1/x", "", h("x-amz-copy-source", "/"), 400, "InvalidArgument"},
		{"copy source escape", "PUT", "/b-1/x", "", h("x-amz-copy-source", "b-1/%zz"), 400, "InvalidArgument"},
		{"copy source version", "PUT", "/b-1/x", "", h("x-amz-copy-source", "b-1/k?versionId=1"), 404, "NoSuchVersion"},
		{"copy source dots", "PUT", "/b-1/x", "", h("x-amz-copy-source", "b-1/../k"), 404, "NoSuchKey"},
		{"copy directive", "PUT", "/b-1/x", "", h("x-amz-copy-source", "b-1/k", "x-amz-metadata-directive", "MOVE"), 400, "InvalidArgument"},
		{"delete nothing", "POST", "/b-1?delete", "<Delete/>", nil, 400, "MalformedXML"},
		{"delete with a doctype", "POST", "/b-1?delete", `<!DOCTYPE d [<!ENTITY e "k">]><Delete><Object><Key>&e;</Key></Object></Delete>`, nil, 400, "MalformedXML"},
		{"delete with garbage behind", "POST", "/b-1?delete", "<Delete><Object><Key>k</Key></Object></Delete>x", nil, 400, "MalformedXML"},
		{"delete misspelt", "POST", "/b-1?delete", "<Delete><Object><key>k</key></Object></Delete>", nil, 400, "MalformedXML"},
		{"delete two keys in one", "POST", "/b-1?delete", "<Delete><Object><Key>k</Key><Key>l</Key></Object></Delete>", nil, 400, "MalformedXML"},
		{"delete 1001 keys", "POST", "/b-1?delete", "<Delete>" + strings.Repeat("<Object><Key>k</Key></Object>", 1001) + "</Delete>", nil, 400, "MalformedXML"},
		{"delete with a wrong MD5", "POST", "/b-1?delete", "<Delete><Object><Key>k</Key></Object></Delete>", h("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="), 400, "BadDigest"},
		{"delete with a wrong checksum", "POST", "/b-1?delete", "<Delete><Object><Key>k</Key></Object></Delete>", h("x-amz-checksum-crc32c", "AAAAAA=="), 400, "BadDigest"},
		{"huge document", "POST", "/b-1?delete", strings.Repeat(" ", 4<<20+1), nil, 400, "MaxMessageLengthExceeded"},
		{"complete without parts", "POST", "/b-1/k?uploadId=1", "<CompleteMultipartUpload/>", nil, 400, "MalformedXML"},
		{"complete part 0", "POST", "/b-1/k?uploadId=1", "<CompleteMultipartUpload><Part><PartNumber>0</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>", nil, 400, "InvalidArgument"},
		{"complete an unknown upload", "POST", "/b-1/k?uploadId=1", "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>", nil, 404, "NoSuchUpload"},
		{"location", "PUT", "/b-2", "<CreateBucketConfiguration><LocationConstraint>mars</LocationConstraint></CreateBucketConfiguration>", nil, 400, "InvalidLocationConstraint"},
		{"location document", "PUT", "/b-2", "<x/>", nil, 400, "MalformedXML"},
		{"checksum type alone", "POST", "/b-1/x?uploads", "", h("x-amz-checksum-type", "COMPOSITE"), 400, "InvalidRequest"},
		{"checksum type of another", "POST", "/b-1/x?uploads", "", h("x-amz-checksum-algorithm", "SHA1", "x-amz-checksum-type", "FULL_OBJECT"), 400, "InvalidRequest"},
		{"attributes", "GET", "/b-1/k?attributes", "", h("x-amz-object-attributes", "Colour"), 400, "InvalidArgument"},
		{"no attributes", "GET", "/b-1/k?attributes", "", nil, 400, "InvalidRequest"},
		{"range and part", "GET", "/b-1/k?partNumber=1", "", h("Range", "bytes=0-1"), 400, "InvalidRequest"},
		{"header injection", "GET", "/b-1/k?response-content-type=a%0d%0ab", "", nil, 400, "InvalidArgument"},
		{"method", "PATCH", "/b-1/k", "", nil, 405, "MethodNotAllowed"},
	} {
		if strings.HasSuffix(c.path, "?delete") && len(c.headers) == 0 {
			sum := md5.Sum([]byte(c.body))
			c.headers = h("Content-MD5", base64.StdEncoding.EncodeToString(sum[:]))
		}
		res, body := r.do(c.method, c.path, []byte(c.body), c.headers...)
		if res.StatusCode != c.status || code(body) != c.code {
			t.Errorf("%s: %d %s, want %d %s", c.name, res.StatusCode, body, c.status, c.code)
		}
		if res.Header.Get("X-Amz-Request-Id") == "" || res.Header.Get("X-Amz-Id-2") == "" || res.Header.Get("Server") != "Sluice" {
			t.Errorf("%s: headers %v", c.name, res.Header)
		}
		r.unchanged(before, c.name)
	}
}

func TestTamperedBodies(t *testing.T) {
	r := newRig(t)
	r.bucket()
	before := r.state()
	body := []byte("the bytes")
	req := r.sign(secretKey, "PUT", "/b-1/x", body)
	req.Body = io.NopCloser(bytes.NewReader([]byte("the bites")))
	if res, got := r.send(req); res.StatusCode != 400 || code(got) != "XAmzContentSHA256Mismatch" {
		t.Errorf("other bytes: %d %s", res.StatusCode, got)
	}
	r.unchanged(before, "a tampered body")
	for _, c := range []struct{ name, hash, body, code string }{
		{"wrong trailer", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "1\r\nx\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", "BadDigest"},
		{"trailer of no length", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "1\r\nx\r\n0\r\nx-amz-checksum-crc32:AA==\r\n\r\n", "InvalidRequest"},
		{"chunk signature", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "1;chunk-signature=" + strings.Repeat("0", 64) + "\r\nx\r\n0;chunk-signature=" + strings.Repeat("0", 64) + "\r\n\r\n", "SignatureDoesNotMatch"},
	} {
		req := r.streaming(c.hash, c.body)
		if res, got := r.send(req); code(got) != c.code {
			t.Errorf("%s: %d %s, want %s", c.name, res.StatusCode, got, c.code)
		}
		r.unchanged(before, c.name)
	}
}

// streaming returns a signed PUT whose body is framed in chunks.
func (r *rig) streaming(hash, body string) *http.Request {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), "PUT", r.server.URL+"/b-1/x", strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	req.Header.Set("Content-Encoding", "aws-chunked")
	req.Header.Set("X-Amz-Content-Sha256", hash)
	req.Header.Set("X-Amz-Decoded-Content-Length", "1")
	if strings.HasSuffix(hash, "TRAILER") {
		req.Header.Set("X-Amz-Trailer", "x-amz-checksum-crc32")
	}
	creds := aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}
	if err := v4.NewSigner().SignHTTP(r.Context(), creds, req, hash, "s3", region, time.Now()); err != nil {
		r.Fatal(err)
	}
	return req
}

func TestTruncatedBodyStoresNothing(t *testing.T) {
	r := newRig(t)
	r.bucket()
	before := r.state()
	req := r.sign(secretKey, "PUT", "/b-1/x", []byte(strings.Repeat("x", 100)))
	conn, err := net.Dial("tcp", r.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT /b-1/x HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\n", req.URL.Host)
	req.Header.Write(conn)
	fmt.Fprint(conn, "\r\nonly this")
	conn.(*net.TCPConn).CloseWrite()
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(res.Body)
	if res.StatusCode != 400 || code(string(got)) != "IncompleteBody" || !res.Close {
		t.Errorf("truncated: %d %s, close %v", res.StatusCode, got, res.Close)
	}
	r.unchanged(before, "a truncated body")
}

func TestEarlyErrorDoesNotAskForTheBody(t *testing.T) {
	r := newRig(t)
	r.bucket()
	req := r.sign("wrong", "PUT", "/b-1/x", []byte(strings.Repeat("x", 100)))
	conn, err := net.Dial("tcp", r.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT /b-1/x HTTP/1.1\r\nHost: %s\r\nExpect: 100-continue\r\nContent-Length: 100\r\n", req.URL.Host)
	req.Header.Write(conn)
	fmt.Fprint(conn, "\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil || res.StatusCode != 403 || !res.Close {
		t.Errorf("answer = %+v, %v; want 403 and a closed connection", res, err)
	}
}

func TestStoreFailuresAreAnswered(t *testing.T) {
	r := newRig(t)
	r.bucket()
	r.put("k", "v")
	for kind, want := range map[errs.Kind]int{errs.NoSpace: 507, errs.Unavailable: 503, errs.Permission: 403, errs.NotDir: 409} {
		r.ns.fail(func(op string) error {
			if op == "Open" || op == "Commit" {
				return errs.E("store", "", kind, nil)
			}
			return nil
		})
		for _, method := range []string{"GET", "PUT"} {
			if res, body := r.do(method, "/b-1/k", nil); res.StatusCode != want {
				t.Errorf("%s with %v: %d %s, want %d", method, kind, res.StatusCode, body, want)
			}
		}
	}
}

func TestVirtualHostAndAlias(t *testing.T) {
	r := newRig(t, func(o *s3api.Options) { o.Aliases = map[string]string{"tables": "/b-1/deep"} })
	r.bucket()
	r.put("deep/k", "v")
	if res, body := r.do("GET", "/tables/k", nil); res.StatusCode != 200 || body != "v" {
		t.Errorf("alias: %d %s", res.StatusCode, body)
	}
	if res, body := r.do("DELETE", "/tables", nil); res.StatusCode != 403 {
		t.Errorf("DELETE alias: %d %s", res.StatusCode, body)
	}
	hosted := s3.New(s3.Options{Region: region, BaseEndpoint: aws.String("http://s3.test:9000"), RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", r.server.Listener.Addr().String())
		}}}})
	out, err := hosted.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("b-1"), Key: aws.String("deep/k")})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Body.Close()
	if got, _ := io.ReadAll(out.Body); string(got) != "v" {
		t.Errorf("virtual host: %q", got)
	}
}

func TestAccessLine(t *testing.T) {
	var log bytes.Buffer
	var ops []string
	r := newRig(t, func(o *s3api.Options) {
		o.Logger = slog.New(slog.NewJSONHandler(&log, nil))
		o.Observe = func(x core.Served) {
			ops = append(ops, fmt.Sprint(x.Op, x.Status, x.Sent))
		}
	})
	r.bucket()
	r.put("k", "four")
	log.Reset()
	r.do("GET", "/b-1/k?X-Amz-Foo=signature-secret", nil)
	r.server.Close() // waits for the handler, which writes the line after the answer
	var line map[string]any
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatalf("%v: %s", err, log.String())
	}
	for k, want := range map[string]any{"op": "GetObject", "bucket": "b-1", "key": "k", "status": 200.0, "bytes": 4.0, "user": "alice", "proto": "s3"} {
		if line[k] != want {
			t.Errorf("%s = %v, want %v", k, line[k], want)
		}
	}
	if strings.Contains(log.String(), "signature-secret") {
		t.Error("the line holds the query string")
	}
	if got := ops[len(ops)-1]; got != "GetObject200 4" {
		t.Errorf("observed %s", got)
	}
}
