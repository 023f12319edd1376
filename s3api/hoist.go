package s3api

import (
	"net/http"
	"strings"

	"github.com/sluicefs/sluice/s3api/sigv4"
)

const amzPrefix = "X-Amz-"

// hoist makes the x-amz-* parameters of a presigned query headers of the request, as S3 does: a client that presigns
// moves what it would send as headers there, and an option that was signed must not be lost. It reports whether there
// was one. A request signed in its header has no such parameters; S3 ignores them there.
//
// Errors: InvalidArgument for a parameter that occurs twice, contradicts the header of its name, or can be no header.
//
// Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
func (r *request) hoist() (bool, error) {
	if r.auth.Type != sigv4.Presigned {
		return false, nil
	}
	var h http.Header
	for name, values := range r.query {
		if !hoisted(name) {
			continue
		}
		if h == nil {
			h = r.http.Header.Clone()
		}
		key := http.CanonicalHeaderKey(name)
		if len(values) > 1 || h[key] != nil && (len(h[key]) > 1 || h[key][0] != values[0]) {
			return false, invalidArgument(name, values[0], "The parameter contradicts itself or the header of its name.")
		}
		if !isToken(name) || strings.ContainsFunc(values[0], func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
			return false, invalidArgument(name, "", "The parameter stands for a header, and its name or value can be none.")
		}
		h[key] = values
	}
	if h == nil {
		return false, nil
	}
	if headerSize(h) > maxHeader {
		return false, errHeaderSection
	}
	r.http = r.http.WithContext(r.http.Context()) // the server's own request is not changed
	r.http.Header = h
	return true, nil
}

// hoisted reports whether a parameter stands for a header. X-Amz-Sdk-Checksum-Algorithm does not: SDKs leave it in the
// URLs they presign to say how they would have sent the body, which somebody else sends.
func hoisted(name string) bool {
	return len(name) > len(amzPrefix) && strings.EqualFold(name[:len(amzPrefix)], amzPrefix) && !sigv4.IsParameter(name) &&
		!strings.EqualFold(name, "X-Amz-Sdk-Checksum-Algorithm")
}

// isToken reports whether s can be the name of a header.
func isToken(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, c)
	})
}
