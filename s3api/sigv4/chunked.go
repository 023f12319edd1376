package sigv4

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"net/textproto"
	"strings"
)

const (
	maxChunkLine   = 256     // bytes of a chunk's head; the longest legal one has 99
	maxTrailerLine = 1 << 10 // bytes of one trailer
	maxTrailers    = 4       // lines of the trailer section: a checksum, an empty line, the signature, an empty line
	maxChunk       = 5 << 30 // bytes of one chunk: S3's limit for a body
	maxBuffered    = 1 << 20 // signed chunks up to this size are proven before any byte of them is released
	minChunk       = 8 << 10 // S3's limit for all signed chunks but the last

	trailerSignature = "x-amz-trailer-signature"
)

// chain computes the signatures of a streamed body: each signs the one before it, the first the request's own, so that
// chunks cannot be changed, dropped, repeated or moved.
type chain struct {
	key          [keySize]byte
	stamp, scope string
	previous     string
}

// next reports whether sig signs content, the digest of which is sum, as the next link of kind PAYLOAD or TRAILER.
func (c *chain) next(kind, sig string, sum []byte) bool {
	stack := [512]byte{}
	b := append(stack[:0], algorithm+"-"...)
	for _, line := range [...]string{kind, c.stamp, c.scope, c.previous} {
		b = append(b, line...)
		b = append(b, '\n')
	}
	if kind == "PAYLOAD" {
		b = append(b, emptyHash+"\n"...)
	}
	want := signature(&c.key, hex.AppendEncode(b, sum))
	if subtle.ConstantTimeCompare(want[:], []byte(sig)) != 1 {
		return false
	}
	c.previous = sig
	return true
}

// chunked decodes an aws-chunked body:
//
//	1000;chunk-signature=<hex>\r\n <0x1000 bytes> \r\n
//	0;chunk-signature=<hex>\r\n
//	x-amz-checksum-crc32c:<base64>\r\n
//	x-amz-trailer-signature:<hex>\r\n
//	\r\n
//
// without the signatures if nothing is signed and without trailer lines if none are announced.
type chunked struct {
	in        *bufio.Reader
	chain     *chain // nil: nothing is signed
	announced string // the trailer's name, "" for none
	trailers  bool   // a trailer section is part of the format
	trailer   http.Header

	unread int64 // decoded bytes that x-amz-decoded-content-length still allows, -1 if it was not sent
	empty  bool  // the whole body is empty, framing included

	ready  []byte // proven bytes not yet released
	buffer []byte // holds ready
	last   int64  // size of the chunk before

	left int64     // bytes of a chunk that passes through
	sum  hash.Hash // their digest so far, nil if nothing is signed
	sig  string    // the signature they must have
	done bool
}

func newChunked(r *http.Request, chain *chain, length int64, announced string, trailers bool) *chunked {
	return &chunked{in: bufio.NewReader(r.Body), chain: chain, announced: announced, trailers: trailers, unread: length,
		empty: r.ContentLength == 0, last: minChunk}
}

// Read reads decoded bytes. Its io.EOF means that framing, signatures and trailer are complete and right.
func (c *chunked) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		switch {
		case len(c.ready) > 0:
			n := copy(p, c.ready)
			c.ready = c.ready[n:]
			return n, nil
		case c.left > 0:
			return c.pass(p)
		case c.done:
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
}

// next reads the head of the next chunk, and the chunk itself if it is to be proven as a whole.
func (c *chunked) next() error {
	line, err := c.line(maxChunkLine)
	if err == io.EOF && c.empty && c.unread == 0 && c.announced == "" {
		c.done = true // minio-go sends nothing at all for an empty body; its length is signed
		return nil
	}
	if err != nil {
		return early(err)
	}
	size, sig, err := c.head(line)
	if err != nil {
		return err
	}
	switch {
	case size == 0:
		return c.finish(sig)
	case c.unread >= 0 && size > c.unread:
		return incompleteBody("the chunks hold more bytes than x-amz-decoded-content-length says.")
	case size > maxChunk:
		return invalidChunk("A chunk is larger than 5 GiB.")
	case c.chain != nil && c.last < minChunk:
		return invalidChunk("Only the last chunk is allowed to have a size less than 8192 bytes")
	}
	c.last = size
	if c.unread >= 0 {
		c.unread -= size
	}
	if c.chain != nil && size <= maxBuffered {
		return c.whole(int(size), sig)
	}
	c.left, c.sig = size, sig
	if c.chain != nil {
		c.sum = sha256.New()
	}
	return nil
}

// head parses "1000;chunk-signature=<hex>".
func (c *chunked) head(line string) (size int64, sig string, err error) {
	digits, extension, extended := strings.Cut(line, ";")
	if len(digits) == 0 || len(digits) > 15 { // 15 digits fit an int64
		return 0, "", invalidRequest("The size of a chunk is not a hexadecimal number.")
	}
	for i := range len(digits) {
		d := unhex(digits[i])
		if d < 0 {
			return 0, "", invalidRequest("The size of a chunk is not a hexadecimal number.")
		}
		size = size<<4 | int64(d)
	}
	if c.chain == nil {
		if extended {
			return 0, "", invalidRequest("A chunk of an unsigned payload has an extension.")
		}
		return size, "", nil
	}
	sig, ok := strings.CutPrefix(extension, "chunk-signature=")
	if !ok {
		return 0, "", invalidRequest("A chunk has no chunk-signature.")
	}
	return size, sig, nil
}

// whole reads a chunk and releases it if its signature is right.
func (c *chunked) whole(size int, sig string) error {
	if cap(c.buffer) < size {
		c.buffer = make([]byte, size)
	}
	data := c.buffer[:size]
	if _, err := io.ReadFull(c.in, data); err != nil {
		return early(err)
	}
	if err := c.lineBreak(); err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	if !c.chain.next("PAYLOAD", sig, sum[:]) {
		return chunkMismatch("a chunk")
	}
	c.ready = data
	return nil
}

// pass hands out a part of a chunk that is too large to hold back. The signature follows the chunk's last byte, which is
// handed out only if it is right.
func (c *chunked) pass(p []byte) (int, error) {
	n, err := c.in.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if c.sum != nil {
		c.sum.Write(p[:n])
	}
	if err != nil {
		return n, early(err)
	}
	if c.left > 0 {
		return n, nil
	}
	if err := c.lineBreak(); err != nil {
		return 0, err
	}
	if c.sum != nil && !c.chain.next("PAYLOAD", c.sig, c.sum.Sum(nil)) {
		return 0, chunkMismatch("a chunk")
	}
	return n, nil
}

// finish proves the last, empty chunk, the trailer and the end of the body.
func (c *chunked) finish(sig string) error {
	if c.unread > 0 {
		return incompleteBody("the chunks hold fewer bytes than x-amz-decoded-content-length says.")
	}
	if c.chain != nil {
		sum := sha256.Sum256(nil)
		if !c.chain.next("PAYLOAD", sig, sum[:]) {
			return chunkMismatch("the last chunk")
		}
	}
	if c.trailers {
		if err := c.readTrailer(); err != nil {
			return err
		}
	}
	c.done = true
	return c.end()
}

// readTrailer reads the trailer section. minio-go ends a trailer with "\n\r\n", which puts an empty line before the
// signature.
func (c *chunked) readTrailer() error {
	var signed bytes.Buffer
	proven := c.chain == nil
	for range maxTrailers {
		line, err := c.line(maxTrailerLine)
		if err != nil && err != io.EOF {
			return early(err)
		}
		if line == "" {
			if !proven && err == nil {
				continue
			}
			return c.checkTrailer(proven)
		}
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.ToLower(strings.Trim(name, " \t")), strings.Trim(value, " \t")
		switch {
		case ok && name == trailerSignature && !proven:
			sum := sha256.Sum256(signed.Bytes())
			if !c.chain.next("TRAILER", value, sum[:]) {
				return chunkMismatch("the trailer")
			}
			proven = true
		case ok && name != "" && name == c.announced && c.trailer == nil && (c.chain == nil || !proven):
			c.trailer = http.Header{textproto.CanonicalMIMEHeaderKey(name): {value}}
			signed.WriteString(name + ":" + value + "\n")
		default:
			return malformedTrailer("it holds a line that x-amz-trailer does not announce, a second time, or after its signature.")
		}
	}
	return malformedTrailer("it has too many lines.")
}

func (c *chunked) checkTrailer(proven bool) error {
	switch {
	case !proven:
		return malformedTrailer(trailerSignature + " is missing.")
	case c.announced != "" && c.trailer == nil:
		return malformedTrailer(c.announced + " is announced in x-amz-trailer and missing.")
	}
	return nil
}

// end requires the body to end, up to line breaks that clients leave. Reading to the end also lets the connection serve
// the next request.
func (c *chunked) end() error {
	for range 4 {
		b, err := c.in.ReadByte()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if b != '\r' && b != '\n' {
			break
		}
	}
	return invalidRequest("The body goes on after its last chunk.")
}

// line reads a line of at most limit bytes without its line break; a chunk's head must end with CRLF, a trailer may end
// with LF. It returns io.EOF only at the end of the body.
func (c *chunked) line(limit int) (string, error) {
	raw, err := c.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull), err == nil && len(raw) > limit:
		return "", invalidRequest("A line of the chunked body is too long.")
	case err == io.EOF && len(raw) > 0:
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	text := string(raw[:len(raw)-1])
	trimmed := strings.TrimSuffix(text, "\r")
	if limit == maxChunkLine && trimmed == text {
		return "", invalidRequest("A chunk's head does not end with CRLF.")
	}
	return trimmed, nil
}

// lineBreak reads the CRLF that ends a chunk.
func (c *chunked) lineBreak() error {
	var crlf [2]byte
	if _, err := io.ReadFull(c.in, crlf[:]); err != nil {
		return early(err)
	}
	if crlf != [2]byte{'\r', '\n'} {
		return invalidRequest("A chunk does not end where its size says.")
	}
	return nil
}

// early turns the end of the body, where more must come, into io.ErrUnexpectedEOF.
func early(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func invalidChunk(message string) *Error {
	return refuse(http.StatusForbidden, "InvalidChunkSizeError", message)
}
