package s3api

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"hash"
	"io"
	"net/http"
	"sync"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/s3api/checksum"
	"github.com/sluicefs/sluice/s3api/sigv4"
)

const (
	// maxPut is the largest body of PutObject and UploadPart in bytes.
	// Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
	maxPut = 5 << 30

	// maxDocument is the largest request document in bytes: 10,000 parts with a checksum each, or 1,000 keys of 1,024 bytes.
	maxDocument = 4 << 20

	// maxSmallDocument is the largest request document in bytes of an operation that lists nothing, and maxSmallElements
	// how many elements it may have.
	maxSmallDocument = 64 << 10
	maxSmallElements = 100

	// copyBuffer is what a streaming request holds, within the 256 KiB that a slow client may.
	copyBuffer = 128 << 10
)

// payload is the body of a request, decoded, with the digests that the client gave of it. Nothing of it is true before
// Read has returned io.EOF.
type payload struct {
	r    *request
	src  io.Reader // the body through its verifier
	size int64     // decoded length in bytes, -1 if the client did not say
	md5  []byte    // Content-MD5, nil if none; whoever stores the bytes verifies it

	algorithm checksum.Algorithm // of the additional checksum, "" if there is none
	sum       func() []byte      // of what has been read
}

// payload opens the body of the request. compute names a checksum to take of it if the client announces none, "" for
// none. Errors: InvalidDigest, InvalidRequest, EntityTooLarge, those of sigv4.
func (r *request) payload(compute checksum.Algorithm) (*payload, error) {
	p := &payload{r: r}
	var err error
	if p.md5, err = contentMD5(r.http.Header); err != nil {
		return nil, err
	}
	want, err := checksum.Expect(r.http.Header)
	if err != nil {
		return nil, checksumRefused(err)
	}
	if want.Algorithm == "" && r.http.Header.Get("X-Amz-Sdk-Checksum-Algorithm") != "" {
		return nil, invalidRequest("x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.")
	}
	body, err := r.auth.Body(r.http)
	if err != nil {
		return nil, err
	}
	if p.src, p.size = body, body.Length(); p.size > maxPut {
		return nil, errTooLarge
	}
	return p, p.verify(body, want, compute)
}

// verify puts the additional checksum between the body and its reader.
func (p *payload) verify(body *sigv4.Body, want checksum.Expected, compute checksum.Algorithm) error {
	switch {
	case want.Algorithm != "":
		v, err := checksum.NewVerifier(body, want, body.Trailer)
		if err != nil {
			return checksumRefused(err)
		}
		p.algorithm, p.src, p.sum = want.Algorithm, v, v.Sum
	case compute != "":
		h, err := checksum.New(compute)
		if err != nil {
			return checksumRefused(err)
		}
		p.algorithm, p.src, p.sum = compute, io.TeeReader(body, h), sumOf(h)
	}
	return nil
}

func sumOf(h hash.Hash) func() []byte { return func() []byte { return h.Sum(nil) } }

func contentMD5(h http.Header) ([]byte, error) {
	if _, ok := h["Content-Md5"]; !ok {
		return nil, nil
	}
	sum, err := base64.StdEncoding.Strict().DecodeString(h.Get("Content-Md5"))
	if err != nil || len(sum) != md5.Size {
		e := *errInvalidDigest
		e.Detail = []pair{{"Content-MD5", h.Get("Content-Md5")}}
		return nil, &e
	}
	return sum, nil
}

// checksumRefused words what checksum says of a header as S3 does.
func checksumRefused(err error) error {
	if _, ok := errors.AsType[checksum.UnknownAlgorithm](err); ok {
		return invalidRequest("The algorithm type you specified in x-amz-checksum- header is invalid.")
	}
	e, ok := errors.AsType[*errs.Error](err)
	switch {
	case !ok || e.Kind != errs.Invalid:
		return err
	case e.Name == "":
		return invalidRequest("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
	}
	return invalidRequest("Value for " + e.Name + " header is invalid.")
}

// checksums returns the additional checksum of the body, which has been read to its end.
func (p *payload) checksums() []core.Checksum {
	if p.algorithm == "" {
		return nil
	}
	return []core.Checksum{{Algorithm: string(p.algorithm), Value: checksum.Encode(p.sum()), Type: string(checksum.FullObject)}}
}

// Read implements io.Reader.
func (p *payload) Read(b []byte) (int, error) {
	n, err := p.src.Read(b)
	switch {
	case err == nil:
	case err == io.EOF:
		p.r.body = true
	case errors.Is(err, errs.BadDigest):
		err = &apiError{Code: "BadDigest", Status: http.StatusBadRequest, cause: err,
			Message: "The " + string(p.algorithm) + " you specified did not match the calculated checksum."}
	case errors.Is(err, errs.Invalid):
		err = invalidRequest("Value for " + p.algorithm.Header() + " trailing header is invalid.")
	default:
		if _, ok := errors.AsType[*sigv4.Error](err); !ok {
			err = &bodyError{err}
		}
	}
	return n, err
}

// copyTo writes the rest of the body to w.
func (p *payload) copyTo(w io.Writer) error {
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	// The struct hides io.ReaderFrom: the buffer is bounded here.
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, p, buf[:])
	return err
}

// buffers are copied through by uploads; sync.Pool is safe for all servers of a process to share.
var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// peek returns the first byte of the body; none if the body is empty, and then every digest of it is proven.
func (p *payload) peek() ([]byte, error) {
	first := make([]byte, 1)
	switch _, err := io.ReadFull(p, first); {
	case err == io.EOF:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return first, nil
}

// readDocument reads a request document that lists nothing and verifies every digest given of it. Errors: MaxMessageLengthExceeded, BadDigest.
func (r *request) readDocument() ([]byte, error) {
	p, err := r.payload("")
	if err != nil {
		return nil, err
	}
	return p.document(maxSmallDocument)
}

// readDigested reads the document of an operation that S3 refuses without a digest of it. Errors: InvalidRequest, those
// of readDocument.
func (r *request) readDigested() ([]byte, error) {
	p, err := r.payload("")
	if err != nil {
		return nil, err
	}
	if p.md5 == nil && p.algorithm == "" {
		return nil, invalidRequest("Missing required header for this request: Content-MD5 OR x-amz-checksum-*")
	}
	return p.document(maxDocument)
}

// document reads the body, which has at most most bytes.
func (p *payload) document(most int64) ([]byte, error) {
	if p.size > most {
		return nil, errMessageTooLong
	}
	doc, err := io.ReadAll(io.LimitReader(p, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(doc)) > most {
		return nil, errMessageTooLong
	}
	if sum := md5.Sum(doc); p.md5 != nil && !bytes.Equal(sum[:], p.md5) {
		return nil, errBadDigest
	}
	return doc, nil
}
