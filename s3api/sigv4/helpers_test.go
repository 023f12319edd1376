package sigv4_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/s3api/sigv4"
)

const (
	accessKey = "AKIAIOSFODNN7EXAMPLE"
	secretKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// examples is when AWS's published examples were signed.
var examples = time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)

func secrets(_ context.Context, key string) (string, error) {
	switch key {
	case accessKey:
		return secretKey, nil
	case "broken":
		return "", errs.New("test", key, errs.Unavailable, "the key store is away")
	}
	return "", errs.New("test", key, errs.NotExist, "no such key")
}

func options() sigv4.Options {
	return sigv4.Options{Region: "us-east-1", Secret: secrets, Now: func() time.Time { return examples }}
}

// received returns the request a server reads from these bytes.
func received(t testing.TB, raw []byte) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		t.Fatalf("reading the request: %v\n%s", err, raw)
	}
	return r
}

// text returns the request of a head in lines and a body.
func text(t testing.TB, head, body string) *http.Request {
	t.Helper()
	return received(t, []byte(strings.ReplaceAll(strings.TrimSpace(head), "\n", "\r\n")+"\r\n\r\n"+body))
}

// wire sends a client's request and returns what the server reads.
func wire(t testing.TB, r *http.Request) *http.Request {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	return received(t, b.Bytes())
}

// sign returns a client's request with these headers, signed by AWS's SDK at the time of the examples.
func sign(t testing.TB, method, url, hash, body string, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body == "" {
		r.Body, r.ContentLength = nil, 0
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	r.Header.Set("X-Amz-Content-Sha256", hash)
	if err := signer().SignHTTP(t.Context(), credentials(), r, hash, "s3", "us-east-1", examples); err != nil {
		t.Fatal(err)
	}
	return r
}

func presign(t testing.TB, method, url, hash string, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	signed, header, err := signer().PresignHTTP(t.Context(), credentials(), r, hash, "s3", "us-east-1", examples)
	if err != nil {
		t.Fatal(err)
	}
	if r, err = http.NewRequest(method, signed, nil); err != nil {
		t.Fatal(err)
	}
	header.Del("Host")
	r.Header = header
	return r
}

func signer() *v4.Signer {
	return v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
}

func credentials() aws.Credentials {
	return aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}
}

// accept fails the test unless v accepts r.
func accept(t testing.TB, v *sigv4.Verifier, r *http.Request) sigv4.Auth {
	t.Helper()
	a, err := v.Verify(r)
	if e, ok := errors.AsType[*sigv4.Error](err); ok {
		t.Fatalf("%v\n%v", err, e.Fields)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// refused fails the test unless err is an *Error of the code and status.
func refused(t testing.TB, err error, code string, status int) *sigv4.Error {
	t.Helper()
	e, ok := errors.AsType[*sigv4.Error](err)
	if !ok {
		t.Fatalf("got %v, want %s", err, code)
	}
	if e.Code != code || e.Status != status {
		t.Fatalf("got %d %v, want %d %s", e.Status, e, status, code)
	}
	return e
}

// read returns what can be read of the body a has proven r's to be.
func read(a sigv4.Auth, r *http.Request) (string, *sigv4.Body, error) {
	b, err := a.Body(r)
	if err != nil {
		return "", nil, err
	}
	data, err := io.ReadAll(b)
	return string(data), b, err
}

// stream frames and signs bodies as clients do, written from the protocol's description and independent of the package.
type stream struct {
	key      []byte
	previous string
	out      strings.Builder
}

func newStream(seed string) *stream {
	k := []byte("AWS4" + secretKey)
	for _, s := range []string{"20130524", "us-east-1", "s3", "aws4_request"} {
		k = hmacSum(k, s)
	}
	return &stream{key: k, previous: seed}
}

func hmacSum(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	io.WriteString(h, s)
	return h.Sum(nil)
}

func (s *stream) signature(kind, rest string) string {
	s.previous = hex.EncodeToString(hmacSum(s.key, strings.Join([]string{"AWS4-HMAC-SHA256-" + kind, "20130524T000000Z",
		"20130524/us-east-1/s3/aws4_request", s.previous, rest}, "\n")))
	return s.previous
}

// chunk appends a signed chunk; an empty one without the line break after it.
func (s *stream) chunk(data string) *stream {
	fmt.Fprintf(&s.out, "%x;chunk-signature=%s\r\n%s", len(data), s.signature("PAYLOAD", emptyHash+"\n"+digest(data)), data)
	if data != "" {
		s.out.WriteString("\r\n")
	}
	return s
}

// trailer appends trailer lines, each ended by end, and their signature.
func (s *stream) trailer(lines, end string) *stream {
	fmt.Fprintf(&s.out, "%sx-amz-trailer-signature:%s\r\n\r\n", strings.ReplaceAll(lines, "\n", end), s.signature("TRAILER", digest(lines)))
	return s
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// seedOf returns the signature in the Authorization header.
func seedOf(r *http.Request) string {
	_, seed, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
	return seed
}

// streamed returns a signed request of a streaming kind whose body make writes, given its signature.
func streamed(t testing.TB, kind string, length int, announced string, make func(*stream) string) *http.Request {
	t.Helper()
	headers := []string{"X-Amz-Decoded-Content-Length", fmt.Sprint(length), "Content-Encoding", "aws-chunked"}
	if announced != "" {
		headers = append(headers, "X-Amz-Trailer", announced)
	}
	r := sign(t, "PUT", "http://localhost:9000/bucket/key", kind, "", headers...)
	body := make(newStream(seedOf(r)))
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	if body == "" {
		r.Body = nil
	}
	return wire(t, r)
}
