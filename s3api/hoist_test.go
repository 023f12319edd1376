package s3api_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// presign returns a request whose query is signed, the parameters that are there already with it, and which then gets
// the headers.
func (r *rig) presign(method, path, body string, headers ...string) *http.Request {
	r.Helper()
	path += map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")] + "X-Amz-Expires=60"
	req, err := http.NewRequestWithContext(r.Context(), method, r.server.URL+path, nil)
	if err != nil {
		r.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	creds := aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}
	signed, _, err := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping, o.DisableHeaderHoisting = true, true }).
		PresignHTTP(r.Context(), creds, req, "UNSIGNED-PAYLOAD", "s3", region, time.Now())
	if err != nil {
		r.Fatal(err)
	}
	out, err := http.NewRequestWithContext(r.Context(), method, signed, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	out.Header = req.Header
	return out
}

func TestPresignedOptionsAreNotLost(t *testing.T) {
	r := newRig(t)
	r.bucket()
	r.put("source", "copied")
	if res, body := r.send(r.presign("PUT", "/b-1/plain", "v")); res.StatusCode != 200 {
		t.Fatalf("presigned PUT: %d %s", res.StatusCode, body)
	}
	for query, want := range map[string]string{
		"x-amz-acl=public-read":                                    "NotImplemented",
		"X-AMZ-ACL=public-read":                                    "NotImplemented",
		"x-amz-server-side-encryption=AES256":                      "NotImplemented",
		"x-amz-tagging=a%3Db":                                      "NotImplemented",
		"x-amz-storage-class=GLACIER":                              "InvalidStorageClass",
		"x-amz-object-lock-mode=COMPLIANCE":                        "NotImplemented",
		"x-amz-checksum-crc32=AAAAAA%3D%3D":                        "BadDigest",
		"x-amz-expected-bucket-owner=mallory":                      "AccessDenied",
		"x-amz-copy-source=b-1%2Fnothing":                          "NoSuchKey",
		"x-amz-acl=private&x-amz-acl=public-read":                  "InvalidArgument",
		"x-amz-acl=private&X-Amz-Acl=public-read":                  "InvalidArgument",
		"x-amz-meta-a=b%0d%0aSet-Cookie:%20x":                      "InvalidArgument",
		"x-amz-meta-a%20b=c":                                       "InvalidArgument",
		"x-amz-meta-a=" + strings.Repeat("x", 3000):                "MetadataTooLarge",
		"x-amz-meta-a=" + url.QueryEscape(string(make([]byte, 1))): "InvalidArgument",
	} {
		res, body := r.send(r.presign("PUT", "/b-1/k?"+query, "v"))
		if code(body) != want {
			t.Errorf("%.60s: %d %s, want %s", query, res.StatusCode, body, want)
		}
	}
	if res, _ := r.do("GET", "/b-1/k", nil); res.StatusCode != 404 {
		t.Errorf("a refused request left an object: %d", res.StatusCode)
	}
	if res, body := r.send(r.presign("PUT", "/b-1/k?x-amz-acl=private", "v", "X-Amz-Acl", "public-read")); code(body) != "InvalidArgument" {
		t.Errorf("a header beside another parameter: %d %s", res.StatusCode, body)
	}
	if res, body := r.send(r.presign("PUT", "/b-1/k?x-amz-meta-foo=bar&x-amz-checksum-crc32=d0hyqQ%3D%3D&x-amz-user-agent=x&x-id=PutObject", "v", "X-Amz-Meta-Foo", "bar")); code(body) != "BadDigest" {
		t.Errorf("wrong checksum: %d %s", res.StatusCode, body)
	}
	if res, body := r.send(r.presign("PUT", "/b-1/k?x-amz-meta-foo=bar&x-amz-acl=private&x-amz-sdk-checksum-algorithm=CRC32&x-id=PutObject", "v", "X-Amz-Meta-Foo", "bar")); res.StatusCode != 200 {
		t.Errorf("metadata: %d %s", res.StatusCode, body)
	}
	if res, body := r.do("GET", "/b-1/k", nil); body != "v" || res.Header.Get("X-Amz-Meta-Foo") != "bar" {
		t.Errorf("got %q, %v", body, res.Header)
	}
	if res, body := r.send(r.presign("PUT", "/b-1/copy?x-amz-copy-source=b-1%2Fsource", "")); res.StatusCode != 200 || !strings.Contains(body, "CopyObjectResult") {
		t.Errorf("copy: %d %s", res.StatusCode, body)
	}
	if _, body := r.do("GET", "/b-1/copy", nil); body != "copied" {
		t.Errorf("the copy holds %q", body)
	}
	if res, body := r.do("PUT", "/b-1/header?x-amz-acl=public-read", []byte("v")); res.StatusCode != 200 {
		t.Errorf("signed in the header: %d %s", res.StatusCode, body)
	}
}

func TestPresignedByTheSDK(t *testing.T) {
	r := newRig(t)
	r.bucket()
	p, err := s3.NewPresignClient(r.s3).PresignPutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("b-1"), Key: aws.String("k"), Metadata: map[string]string{"foo": "bar"}})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), p.Method, p.URL, strings.NewReader("v"))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range p.SignedHeader {
		if k != "Host" && k != "Content-Length" {
			req.Header[k] = v
		}
	}
	if res, body := r.send(req); res.StatusCode != 200 {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	if res, body := r.do("GET", "/b-1/k", nil); body != "v" || res.Header.Get("X-Amz-Meta-Foo") != "bar" {
		t.Errorf("got %q, %v", body, res.Header)
	}
}
