package sigv4

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
)

const (
	headerTrailer       = "X-Amz-Trailer"
	headerDecodedLength = "X-Amz-Decoded-Content-Length"
)

// Body is a request's body without its framing. Read returns io.EOF only after everything the signature says of the body
// has been proven: its digest or the signature of every chunk, its length and its trailer. Until then the bytes read are
// claims, and what was made of them must not become visible. A Body is not safe for concurrent use.
type Body struct {
	source  io.Reader
	closer  io.Closer
	length  int64
	read    int64
	chunks  *chunked // nil if the body has no chunks
	failure error    // what Read returned last, other than nil
}

// Body returns the body of r, the request that a was made for. It does not read yet. Errors of Body and of its Read are
// *Error if the client is to blame; those of the connection are passed through.
func (a Auth) Body(r *http.Request) (*Body, error) {
	b := &Body{source: r.Body, closer: r.Body, length: r.ContentLength}
	switch a.Payload {
	case UnsignedPayload:
		return b, nil
	case SignedPayload:
		b.source = &digested{source: r.Body, sum: sha256.New(), want: a.PayloadHash}
		return b, nil
	case StreamingPayload, StreamingTrailer, UnsignedTrailer:
		length, err := decodedLength(r.Header)
		if err != nil {
			return nil, err
		}
		trailer, err := announcedTrailer(r.Header)
		if err != nil {
			return nil, err
		}
		if (a.Payload == UnsignedTrailer) != (a.chain == nil) { // a zero Auth, or one made by hand
			return nil, accessDenied("The request was not verified.")
		}
		if length < 0 && a.chain != nil {
			return nil, refuse(http.StatusLengthRequired, "MissingContentLength",
				"You must provide the x-amz-decoded-content-length HTTP header.")
		}
		if trailer != "" && a.Payload == StreamingPayload {
			return nil, invalidRequest("x-amz-trailer needs an x-amz-content-sha256 that ends in -TRAILER.")
		}
		b.length = length
		b.chunks = newChunked(r, a.chain, length, trailer, a.Payload != StreamingPayload)
		b.source = b.chunks
		return b, nil
	}
	return nil, accessDenied("The request was not verified.")
}

// Read reads decoded bytes. After an error, io.EOF included, it returns that error again.
func (b *Body) Read(p []byte) (int, error) {
	if b.failure != nil {
		return 0, b.failure
	}
	n, err := b.source.Read(p)
	b.read += int64(n)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = incompleteBody("the body ended early.")
	case err == io.EOF && b.length >= 0 && b.read != b.length:
		err = incompleteBody("it held " + strconv.FormatInt(b.read, 10) + " bytes, not " + strconv.FormatInt(b.length, 10) + ".")
	}
	b.failure = err
	return n, err
}

// Close closes the request's body without reading the rest of it.
func (b *Body) Close() error { return b.closer.Close() }

// Length returns how many bytes the body decodes to, -1 if the client did not say. Read enforces it.
func (b *Body) Length() int64 { return b.length }

// Trailer returns the trailer: at most one header, x-amz-checksum-*. It is nil before Read has returned io.EOF and if
// there is none.
func (b *Body) Trailer() http.Header {
	if b.chunks == nil || b.failure != io.EOF {
		return nil
	}
	return b.chunks.trailer
}

// digested passes source through and compares its SHA-256 at its end.
type digested struct {
	source io.Reader
	sum    hash.Hash
	want   string // hex
}

// Read reads from the source; it replaces the io.EOF of a body with another digest by XAmzContentSHA256Mismatch.
func (d *digested) Read(p []byte) (int, error) {
	n, err := d.source.Read(p)
	d.sum.Write(p[:n])
	if err == io.EOF {
		if got := hex.EncodeToString(d.sum.Sum(nil)); !equal(got, d.want) {
			err = hashMismatch(d.want, got)
		}
	}
	return n, err
}

// decodedLength returns the value of x-amz-decoded-content-length, -1 if it is absent.
func decodedLength(h http.Header) (int64, error) {
	text := first(h, headerDecodedLength)
	if text == "" {
		return -1, nil
	}
	n, err := strconv.ParseUint(text, 10, 63) // takes digits only, no sign
	if errors.Is(err, strconv.ErrRange) {
		return 0, refuse(http.StatusBadRequest, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size.")
	}
	if err != nil {
		return 0, invalidArgument("x-amz-decoded-content-length", text, "x-amz-decoded-content-length must be a number of bytes.")
	}
	return int64(n), nil
}

// announcedTrailer returns the lower-case name in x-amz-trailer, "" if there is none. S3 knows one kind of trailer, a
// checksum, and takes one of it.
func announcedTrailer(h http.Header) (string, error) {
	name := strings.ToLower(strings.Trim(first(h, headerTrailer), " \t"))
	if name == "" {
		return "", nil
	}
	if !strings.HasPrefix(name, "x-amz-checksum-") || checkNames(name, malformedHeader) != nil || strings.Contains(name, ";") {
		return "", invalidRequest("The value specified in the x-amz-trailer header is not supported: it must be the name of one x-amz-checksum-* header.")
	}
	return name, nil
}
