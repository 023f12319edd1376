package sigv4

import (
	"net/http"
	"strings"
)

// Payload is how a request's body is bound to its signature. The zero Payload is none of them and must be denied.
type Payload uint8

// The payloads.
const (
	SignedPayload    Payload = iota + 1 // as it is; its SHA-256 is signed
	UnsignedPayload                     // as it is; not bound to the signature
	StreamingPayload                    // aws-chunked; every chunk is signed
	StreamingTrailer                    // aws-chunked; every chunk and the trailer are signed
	UnsignedTrailer                     // aws-chunked with a trailer; neither is signed
)

// The values of x-amz-content-sha256 that are not a digest.
const (
	unsignedPayload  = "UNSIGNED-PAYLOAD"
	streamingPayload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	streamingTrailer = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	unsignedTrailer  = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
)

// String returns the payload for logs.
func (p Payload) String() string {
	switch p {
	case SignedPayload:
		return "signed"
	case UnsignedPayload:
		return "unsigned"
	case StreamingPayload:
		return "streaming"
	case StreamingTrailer:
		return "streaming-trailer"
	case UnsignedTrailer:
		return "unsigned-trailer"
	}
	return "unknown"
}

// payloadOf finds the payload a claim with credentials announces and sets the claim's payloadHash.
func (v *Verifier) payloadOf(r *http.Request, t *target, c *claim) (Payload, error) {
	c.payloadHash = first(r.Header, headerContentHash)
	if c.typ == Presigned {
		value, n := t.get(queryContentHash)
		switch {
		case n > 1 || n == 1 && c.payloadHash != "" && c.payloadHash != value:
			return 0, malformedQuery(queryContentHash + " contradicts itself or the header.")
		case n == 1:
			c.payloadHash = value
		case c.payloadHash == "":
			c.payloadHash = unsignedPayload
		}
	}
	payload, err := parsePayload(c.payloadHash)
	if err != nil {
		return 0, err
	}
	switch payload {
	case SignedPayload:
		return payload, nil
	case UnsignedPayload, UnsignedTrailer:
		if v.opt.RequireTLS && r.TLS == nil && r.ContentLength != 0 {
			return 0, invalidRequest("This server accepts an unsigned payload only over TLS; use https or sign the payload.")
		}
	case StreamingPayload, StreamingTrailer:
	}
	if c.typ == Presigned && payload != UnsignedPayload {
		return 0, invalidRequest("A presigned request cannot stream its payload; send it as it is.")
	}
	return payload, nil
}

func parsePayload(hash string) (Payload, error) {
	switch hash {
	case "":
		return 0, invalidRequest("Missing required header for this request: x-amz-content-sha256")
	case unsignedPayload:
		return UnsignedPayload, nil
	case streamingPayload:
		return StreamingPayload, nil
	case streamingTrailer:
		return StreamingTrailer, nil
	case unsignedTrailer:
		return UnsignedTrailer, nil
	}
	if !isDigest(hash) {
		return 0, invalidArgument("x-amz-content-sha256", hash, "x-amz-content-sha256 must be "+unsignedPayload+", "+
			unsignedTrailer+", "+streamingPayload+", "+streamingTrailer+" or a valid sha256 value.")
	}
	return SignedPayload, nil
}

// isDigest reports whether s is a SHA-256 in lower-case hex, the only form clients sign.
func isDigest(s string) bool {
	for i := range len(s) {
		if unhex(s[i]) < 0 || 'A' <= s[i] && s[i] <= 'F' {
			return false
		}
	}
	return len(s) == 2*keySize
}

// anonymous returns the Auth of a request without credentials. Its body may still have a digest or be aws-chunked:
// unsigned clients frame theirs when they send a trailing checksum, and not all of them say so in x-amz-content-sha256.
func (v *Verifier) anonymous(r *http.Request) (Auth, error) {
	a := Auth{Type: Anonymous, Payload: UnsignedPayload, PayloadHash: unsignedPayload}
	if hash := first(r.Header, headerContentHash); hash != "" {
		payload, err := parsePayload(hash)
		if err != nil {
			return Auth{}, err
		}
		a.Payload, a.PayloadHash = payload, hash
	} else if first(r.Header, headerTrailer) != "" && isChunked(r.Header) {
		a.Payload, a.PayloadHash = UnsignedTrailer, unsignedTrailer
	}
	if a.Payload == StreamingPayload || a.Payload == StreamingTrailer {
		return Auth{}, accessDenied("The chunks are signed, but the request has no credentials.")
	}
	for key, values := range r.Header {
		if err := checkSingle(key, values); err != nil {
			return Auth{}, err
		}
	}
	return a, nil
}

// isChunked reports whether aws-chunked is among the content encodings.
func isChunked(h http.Header) bool {
	for _, value := range h["Content-Encoding"] {
		for coding := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.Trim(coding, " \t"), "aws-chunked") {
				return true
			}
		}
	}
	return false
}
