package s3api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/s3api"
)

const (
	accessKey = "AKIDEXAMPLE"
	secretKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	region    = "us-east-1"
)

// users knows one access key.
type users struct{}

func (users) Secret(_ context.Context, key string) (string, core.Principal, error) {
	if key != accessKey {
		return "", core.Principal{}, errs.E("users", "", errs.NotExist, nil)
	}
	return secretKey, core.Principal{User: "alice", Super: true}, nil
}

func (users) User(_ context.Context, name string) (core.Principal, error) {
	return core.Principal{User: name}, nil
}

// rig is a server over a namespace, and clients of it.
type rig struct {
	*testing.T
	ns     *hooked
	server *httptest.Server
	s3     *s3.Client
}

func newRig(t *testing.T, change ...func(*s3api.Options)) *rig {
	t.Helper()
	return newRigOver(t, openNamespace(t, false), change...)
}

func newRigOver(t *testing.T, ns *hooked, change ...func(*s3api.Options)) *rig {
	t.Helper()
	o := s3api.Options{Namespace: ns, Uploads: hookedUploads{ns.uploads, ns}, Authenticator: users{}, Region: region, Domain: "s3.test"}
	for _, f := range change {
		f(&o)
	}
	h, err := s3api.New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	r := &rig{T: t, ns: ns, server: srv}
	r.s3 = r.client(secretKey)
	return r
}

func (r *rig) client(secret string) *s3.Client {
	return s3.New(s3.Options{Region: region, BaseEndpoint: &r.server.URL, UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secret, "")})
}

// bucket makes the bucket "b-1".
func (r *rig) bucket() string {
	r.Helper()
	if _, err := r.s3.CreateBucket(r.Context(), &s3.CreateBucketInput{Bucket: aws.String("b-1")}); err != nil {
		r.Fatal(err)
	}
	return "b-1"
}

func (r *rig) put(key, body string) {
	r.Helper()
	if _, err := r.s3.PutObject(r.Context(), &s3.PutObjectInput{Bucket: aws.String("b-1"), Key: &key, Body: strings.NewReader(body)}); err != nil {
		r.Fatal(err)
	}
}

// do sends a signed request with a raw path and returns its response, the body read.
func (r *rig) do(method, path string, body []byte, headers ...string) (*http.Response, string) {
	r.Helper()
	return r.send(r.sign(secretKey, method, path, body, headers...))
}

func (r *rig) sign(secret, method, path string, body []byte, headers ...string) *http.Request {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), method, r.server.URL, bytes.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	raw, query, _ := strings.Cut(path, "?")
	req.URL.Opaque = "//" + req.URL.Host + raw
	req.URL.RawQuery = query
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	req.Header.Set("X-Amz-Content-Sha256", hash)
	creds := aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secret}
	if err := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).SignHTTP(r.Context(), creds, req, hash, "s3", region, time.Now()); err != nil {
		r.Fatal(err)
	}
	return req
}

func (r *rig) send(req *http.Request) (*http.Response, string) {
	r.Helper()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		r.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		r.Fatal(err)
	}
	return res, string(got)
}

// code returns the S3 code of an error answer.
func code(body string) string {
	_, rest, _ := strings.Cut(body, "<Code>")
	c, _, _ := strings.Cut(rest, "</Code>")
	return c
}

// wantCode fails unless err is the API error.
func wantCode(t *testing.T, err error, want string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}

func decode(t *testing.T, s string) string {
	t.Helper()
	out, err := url.PathUnescape(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
