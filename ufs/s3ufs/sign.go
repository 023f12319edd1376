package s3ufs

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Every body is signed, whatever the transport. Some services keep what has arrived when a connection breaks in the
// middle of an unsigned body: a short object under the right name. A body whose signature is missing they refuse.
//
// A body that can be read twice is hashed beforehand. One that cannot goes in signed chunks:
//
//	10000;chunk-signature=<64 hex digits>\r\n <65,536 bytes> \r\n … 0;chunk-signature=<64 hex digits>\r\n\r\n
//
// Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
const (
	chunkSize   = 64 << 10
	chunkedHash = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	sizeHeader  = "X-Amz-Decoded-Content-Length"
)

// swapPayloadHash returns an option that makes m decide what is signed of a body.
func swapPayloadHash(m middleware.FinalizeMiddleware) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		if _, ok := stack.Finalize.Get(m.ID()); !ok {
			return nil // the operation has no body
		}
		_, err := stack.Finalize.Swap(m.ID(), m)
		return err
	}
}

// hashed signs the hash of the whole body.
var hashed = swapPayloadHash(&v4.ComputePayloadSHA256{})

// chunked is a body of size bytes, read once, and the source of its signatures.
type chunked struct {
	r     io.Reader
	size  int64
	store *Store

	key         []byte // derived from the secret, for one day, region and service
	date, scope string
	previous    string // signature before this chunk: the request's, then the last chunk's
	buf         bytes.Buffer
	chunk       [chunkSize]byte
	ended       bool
}

// stream returns r, of size bytes, as the body of a request, the length it has there, and the options that sign and send
// it, once.
func (s *Store) stream(r io.Reader, size int64) (io.Reader, *int64, func(*s3.Options)) {
	// The SDK sends the body of an *io.PipeReader without a length, which S3 refuses: the type is hidden from it.
	r = struct{ io.Reader }{r}
	if s.o.Anonymous {
		return r, &size, once
	}
	c := &chunked{r: r, size: size, store: s}
	length := c.length()
	return c, &length, func(o *s3.Options) {
		once(o)
		o.ContinueHeaderThresholdBytes = 1 // a refusal comes before the body, not as a broken connection in its middle
		o.HTTPClient = seeding{o.HTTPClient, c}
		o.APIOptions = append(o.APIOptions, swapPayloadHash(c))
	}
}

// ID implements middleware.FinalizeMiddleware, in the place of what would hash the body.
func (c *chunked) ID() string { return (&v4.ComputePayloadSHA256{}).ID() }

// HandleFinalize announces the chunks.
func (c *chunked) HandleFinalize(
	ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
) (middleware.FinalizeOutput, middleware.Metadata, error) {
	if r, ok := in.Request.(*smithyhttp.Request); ok {
		r.Header.Set(sizeHeader, strconv.FormatInt(c.size, 10))
	}
	return next.HandleFinalize(v4.SetPayloadHash(ctx, chunkedHash), in)
}

// seeding tells the body the request's signature, which the first chunk's builds on.
type seeding struct {
	s3.HTTPClient
	body *chunked
}

func (s seeding) Do(r *http.Request) (*http.Response, error) {
	if err := s.body.seed(r.Header); err != nil {
		return nil, err
	}
	return s.HTTPClient.Do(r)
}

func (c *chunked) seed(h http.Header) error {
	auth := h.Get("Authorization")
	_, scope, ok := strings.Cut(auth, "Credential=")
	scope, _, _ = strings.Cut(scope, ",")
	_, c.scope, _ = strings.Cut(scope, "/") // behind the access key
	_, c.previous, _ = strings.Cut(auth, "Signature=")
	c.date = h.Get("X-Amz-Date")
	if !ok || c.scope == "" || c.previous == "" || c.date == "" {
		return errors.New("the request is not signed")
	}
	key := []byte("AWS4" + c.store.o.SecretKey)
	for part := range strings.SplitSeq(c.scope, "/") { // day, region, service, "aws4_request"
		key = sum(key, part)
	}
	c.key = key
	return nil
}

// length returns the number of bytes of the whole body.
func (c *chunked) length() int64 {
	chunk := func(n int64) int64 { return int64(len(c.head(n, strings.Repeat("0", 64)))) + n + 2 }
	length := c.size/chunkSize*chunk(chunkSize) + chunk(0)
	if rest := c.size % chunkSize; rest > 0 {
		length += chunk(rest)
	}
	return length
}

func (c *chunked) head(n int64, signature string) string {
	return fmt.Sprintf("%x;chunk-signature=%s\r\n", n, signature)
}

func (c *chunked) Read(p []byte) (int, error) {
	if c.buf.Len() == 0 {
		if c.ended {
			return 0, io.EOF
		}
		n, err := io.ReadFull(c.r, c.chunk[:])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, err // broken off: the last chunk, which closes the body, is not sent
		}
		if n > 0 {
			c.add(c.chunk[:n])
		}
		if c.ended = err != nil; c.ended {
			c.add(nil)
		}
	}
	return c.buf.Read(p)
}

// add signs a chunk and adds it to buf.
func (c *chunked) add(data []byte) {
	digest := sha256.Sum256(data)
	c.previous = hex.EncodeToString(sum(c.key, strings.Join([]string{
		"AWS4-HMAC-SHA256-PAYLOAD", c.date, c.scope, c.previous, emptyHash, hex.EncodeToString(digest[:]),
	}, "\n")))
	c.buf.WriteString(c.head(int64(len(data)), c.previous))
	c.buf.Write(data)
	c.buf.WriteString("\r\n")
}

// emptyHash is the SHA-256 of nothing.
const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func sum(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = io.WriteString(h, data) // a hash does not fail
	return h.Sum(nil)
}
