// Package sigv4 verifies AWS Signature Version 4 on the server side, for S3: the Authorization header, presigned
// queries and every form of signed or unsigned body. It is pure protocol: it knows neither buckets nor permissions,
// stores nothing but derived keys, writes no response and logs nothing. It does not sign.
//
// Verify judges the head of a request before its body is touched; Auth.Body then returns the body, decoded and proven.
// Whatever is not recognised is refused: types of credentials and of payloads are closed enumerations without a default
// that lets pass.
package sigv4

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

const (
	algorithm = "AWS4-HMAC-SHA256"
	terminal  = "aws4_request"
	stampForm = "20060102T150405Z"
	emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

	defaultSkew = 15 * time.Minute // what AWS grants
)

// Options configures a Verifier.
type Options struct {
	Region     string        // the region credentials must be scoped to; "" accepts every region
	Service    string        // the service they must be scoped to; "" means "s3"
	MaxSkew    time.Duration // how far a request's time may be off; 0 means 15 minutes, as AWS grants
	RequireTLS bool          // refuse a body that is not bound to the signature unless it comes over TLS
	Now        func() time.Time

	// Secret returns the secret of an access key. errs.NotExist makes the request InvalidAccessKeyId; any other error
	// is returned by Verify as it is. It is called once for every request with credentials and must be set.
	Secret func(ctx context.Context, accessKey string) (secret string, err error)
}

func (o Options) withDefaults() Options {
	if o.Service == "" {
		o.Service = "s3"
	}
	if o.MaxSkew == 0 {
		o.MaxSkew = defaultSkew
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Verifier verifies requests. It is safe for concurrent use.
type Verifier struct {
	opt  Options
	keys keyCache
}

// New returns a Verifier. Options.Secret must be set.
func New(o Options) *Verifier { return &Verifier{opt: o.withDefaults()} }

// Type is where a request carries its credentials. The zero Type is none of them and must be denied.
type Type uint8

// The types of credentials.
const (
	Anonymous Type = iota + 1 // no credentials; the caller decides what that may do
	Header                    // the Authorization header
	Presigned                 // the query
)

// String returns the type for logs.
func (t Type) String() string {
	switch t {
	case Anonymous:
		return "anonymous"
	case Header:
		return "header"
	case Presigned:
		return "presigned"
	}
	return "unknown"
}

// Auth is a verified request head. Its strings share memory with the request.
type Auth struct {
	Type          Type
	Payload       Payload
	AccessKey     string        // "" for Anonymous
	SignedHeaders string        // lower case, sorted, separated by semicolons: "host;x-amz-date"
	PayloadHash   string        // x-amz-content-sha256 as signed
	Scope         string        // "20130524/us-east-1/s3/aws4_request"
	Date          time.Time     // when the request was signed, in UTC
	Expires       time.Duration // how long after Date a Presigned request may be used, else 0

	chain *chain // signs the chunks of a streamed payload, else nil
}

// Verify verifies the head of r and does not touch its body. It relies on r.RequestURI, r.Host and r.Header being as
// net/http's server made them. A refusal is an *Error; other errors are those of Options.Secret.
func (v *Verifier) Verify(r *http.Request) (Auth, error) {
	t, err := parseTarget(r)
	if err != nil {
		return Auth{}, err
	}
	c, err := claimOf(r, &t)
	if err != nil {
		return Auth{}, err
	}
	if c.typ == Anonymous {
		return v.anonymous(r)
	}
	if err := v.checkScope(&c); err != nil {
		return Auth{}, err
	}
	if err := v.checkTime(&c); err != nil {
		return Auth{}, err
	}
	if err := checkHeaders(r.Header, c.signedHeaders); err != nil {
		return Auth{}, err
	}
	payload, err := v.payloadOf(r, &t, &c)
	if err != nil {
		return Auth{}, err
	}
	key, err := v.checkSignature(r, &t, &c)
	if err != nil {
		return Auth{}, err
	}
	if payload == SignedPayload && r.ContentLength == 0 && !equal(c.payloadHash, emptyHash) {
		return Auth{}, hashMismatch(c.payloadHash, emptyHash)
	}
	a := Auth{Type: c.typ, Payload: payload, AccessKey: c.accessKey, SignedHeaders: c.signedHeaders,
		PayloadHash: c.payloadHash, Scope: c.scope, Date: c.time, Expires: c.expires}
	if payload == StreamingPayload || payload == StreamingTrailer {
		a.chain = &chain{key: key, stamp: c.stamp, scope: c.scope, previous: c.signature}
	}
	return a, nil
}

// checkSignature compares the claimed signature with the one the secret gives and returns the signing key.
func (v *Verifier) checkSignature(r *http.Request, t *target, c *claim) ([keySize]byte, error) {
	secret, err := v.opt.Secret(r.Context(), c.accessKey)
	if errors.Is(err, errs.NotExist) {
		return [keySize]byte{}, unknownKey(c.accessKey)
	}
	if err != nil {
		return [keySize]byte{}, err
	}
	id := keyID{c.accessKey, c.date, c.region}
	key, known := v.keys.get(id, secret)
	if !known {
		key = deriveKey(secret, c.date, c.region, c.service)
	}
	stack := [1024]byte{}
	canonical := appendCanonical(stack[:0], r, t, c, t.path)
	if !signs(&key, c, canonical) {
		// A client that sends a path in another form than S3's canonical one may have signed what it sent. Both forms
		// decode to the same path, so accepting either authorises nothing else.
		if t.rawPath == t.path || !signs(&key, c, appendCanonical(nil, r, t, c, t.rawPath)) {
			return [keySize]byte{}, signatureMismatch(c, canonical)
		}
	}
	if !known { // only a key that has signed may displace others
		v.keys.put(id, secret, key)
	}
	return key, nil
}

// signs reports whether c.signature is the signature of the canonical request.
func signs(key *[keySize]byte, c *claim, canonical []byte) bool {
	stack := [256]byte{}
	want := signature(key, appendStringToSign(stack[:0], c, canonical))
	return subtle.ConstantTimeCompare(want[:], []byte(c.signature)) == 1
}

// equal compares two digests in constant time.
func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
