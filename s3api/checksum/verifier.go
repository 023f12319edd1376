package checksum

import (
	"crypto/subtle"
	"hash"
	"io"
	"net/http"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
)

// Expected is the checksum a request announces for its body.
type Expected struct {
	Algorithm Algorithm // "" if the request announces none
	Sum       []byte    // nil if the value follows in the trailer
}

// Expect reads a request's x-amz-checksum-*, x-amz-trailer and x-amz-sdk-checksum-algorithm. Errors: errs.Invalid for
// more than one checksum, for one that is not of the algorithm named, and for a malformed value; UnknownAlgorithm.
func Expect(h http.Header) (Expected, error) {
	var want Expected
	var value string
	for key, values := range h {
		a, ok := OfHeader(key)
		if !ok {
			if err := known(key); err != nil {
				return Expected{}, err
			}
			continue
		}
		if want.Algorithm != "" || len(values) != 1 {
			return Expected{}, twoChecksums()
		}
		want.Algorithm, value = a, values[0]
	}
	if trailer := strings.Trim(h.Get("X-Amz-Trailer"), " \t"); trailer != "" {
		a, ok := OfHeader(trailer)
		if !ok {
			return Expected{}, UnknownAlgorithm(trailer)
		}
		if want.Algorithm != "" {
			return Expected{}, twoChecksums()
		}
		want.Algorithm = a
	} else if want.Algorithm != "" {
		sum, err := Decode(want.Algorithm, value)
		if err != nil {
			return Expected{}, err
		}
		want.Sum = sum
	}
	if name := h.Get("X-Amz-Sdk-Checksum-Algorithm"); name != "" {
		a, err := Parse(name)
		if err != nil {
			return Expected{}, err
		}
		if want.Algorithm != "" && want.Algorithm != a {
			return Expected{}, errs.New("checksum.Expect", want.Algorithm.Header(), errs.Invalid,
				"x-amz-sdk-checksum-algorithm names another algorithm")
		}
	}
	return want, nil
}

func twoChecksums() error {
	return errs.New("checksum.Expect", "", errs.Invalid, "expecting a single x-amz-checksum- header; multiple checksum types are not allowed")
}

// known refuses an x-amz-checksum-* header that is neither a value nor one of S3's that say something about it.
func known(header string) error {
	if len(header) < len(headerPrefix) || !strings.EqualFold(header[:len(headerPrefix)], headerPrefix) {
		return nil
	}
	switch name := strings.ToLower(header[len(headerPrefix):]); name {
	case "algorithm", "type", "mode":
		return nil
	default:
		return UnknownAlgorithm(name)
	}
}

// Verifier is a reader that hashes what passes through it and replaces io.EOF by an error of kind errs.BadDigest if the
// checksum is not the one expected. It is not safe for concurrent use.
type Verifier struct {
	source  io.Reader
	want    Expected
	trailer func() http.Header
	hash    hash.Hash
	failure error
}

// NewVerifier returns a Verifier of source. If want.Sum is nil the value is taken from trailer(), called once source has
// returned io.EOF: sigv4's Body.Trailer. A want without Algorithm is an error: UnknownAlgorithm.
func NewVerifier(source io.Reader, want Expected, trailer func() http.Header) (*Verifier, error) {
	h, err := New(want.Algorithm)
	if err != nil {
		return nil, err
	}
	return &Verifier{source: source, want: want, trailer: trailer, hash: h}, nil
}

// Read reads from the source. After an error, io.EOF included, it returns that error again.
func (v *Verifier) Read(p []byte) (int, error) {
	if v.failure != nil {
		return 0, v.failure
	}
	n, err := v.source.Read(p)
	v.hash.Write(p[:n])
	if err == io.EOF {
		if bad := v.check(); bad != nil {
			err = bad
		}
	}
	v.failure = err
	return n, err
}

// Sum returns the checksum of what has passed so far.
func (v *Verifier) Sum() []byte { return v.hash.Sum(nil) }

func (v *Verifier) check() error {
	want, name := v.want.Sum, v.want.Algorithm.Header()
	if want == nil {
		var value string
		if v.trailer != nil {
			value = v.trailer().Get(name)
		}
		var err error
		if want, err = Decode(v.want.Algorithm, value); err != nil {
			return err
		}
	}
	if subtle.ConstantTimeCompare(want, v.Sum()) != 1 {
		return errs.New("checksum.Verifier", name, errs.BadDigest, "the body has the checksum "+Encode(v.Sum()))
	}
	return nil
}
