package s3api

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/sluicefs/sluice/core"
)

// maxKey is the longest key in bytes. Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
const maxKey = 1024

// target is what a request line names, decoded exactly once and nothing cleaned.
type target struct {
	bucket, key string
	on          resource
}

// parseTarget returns the bucket and key of a request. The bucket is the host's label in front of domain if there is one
// (virtual-host style), else the path's first segment. Errors: InvalidURI.
func parseTarget(r *http.Request, domain string) (target, error) {
	path := rawPath(r)
	if path == "" || path[0] != '/' {
		return target{}, errInvalidURI
	}
	path = path[1:]
	var t target
	b, hosted := hostBucket(r.Host, domain)
	if !hosted {
		b, path, _ = strings.Cut(path, "/")
	}
	var err error
	if t.bucket, err = unescape(b); err != nil {
		return target{}, err
	}
	if t.key, err = unescape(path); err != nil {
		return target{}, err
	}
	switch {
	case t.key != "" && t.bucket != "":
		t.on = object
	case t.bucket != "":
		t.on = bucket
	case t.key != "":
		return target{}, errBucketName
	}
	return t, nil
}

// rawPath returns the path as the client sent it: what net/http decodes and what a router cleans is another name.
func rawPath(r *http.Request) string {
	uri := r.RequestURI
	if uri == "" {
		return r.URL.EscapedPath()
	}
	uri, _, _ = strings.Cut(uri, "?")
	if strings.HasPrefix(uri, "/") {
		return uri
	}
	if _, rest, ok := strings.Cut(uri, "://"); ok { // absolute form, as to a proxy
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return rest[i:]
		}
		return "/"
	}
	return uri
}

func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 {
		return s, nil
	}
	out, err := url.PathUnescape(s)
	if err != nil {
		return "", errInvalidURI
	}
	return out, nil
}

// hostBucket returns the bucket that a virtual-host style Host names.
func hostBucket(host, domain string) (string, bool) {
	if domain == "" {
		return "", false
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if len(host) <= len(domain)+1 {
		return "", false
	}
	cut := len(host) - len(domain)
	if host[cut-1] != '.' || !strings.EqualFold(host[cut:], domain) {
		return "", false
	}
	return strings.ToLower(host[:cut-1]), true
}

// validBucket reports whether name may be a bucket's.
func validBucket(name string) bool { return core.BucketName(name) }

// bucketPath returns the directory of a bucket, and whether an alias stands for it. Errors: InvalidBucketName; those of the aliases.
func (s *Server) bucketPath(ctx context.Context, name string) (p core.Path, aliased bool, err error) {
	if p, ok, err := s.alias(ctx, name); ok || err != nil {
		return p, ok, err
	}
	if !validBucket(name) {
		return core.Path{}, false, errBucketName
	}
	p, err = core.ParsePath("/" + name + "/")
	return p, false, err
}

// objectPath returns the path of a key in the bucket at dir. Errors: KeyTooLongError, InvalidArgument.
func objectPath(dir core.Path, key string) (core.Path, error) {
	switch {
	case len(key) > maxKey:
		return core.Path{}, errKeyTooLong
	case key == "":
		return core.Path{}, invalidArgument("key", "", "A key is at least one byte long.")
	case strings.IndexByte(key, 0) >= 0:
		return core.Path{}, invalidArgument("key", "", "The key holds a NUL byte, which no store can keep.")
	case !utf8.ValidString(key):
		return core.Path{}, invalidArgument("key", "", "The key is not UTF-8.")
	}
	return dir.Join(key)
}

// copySource is what x-amz-copy-source names.
type copySource struct{ bucket, key string }

// parseCopySource reads "bucket/key" or "/bucket/key", percent-encoded once, with an optional versionId=null.
// Errors: InvalidArgument; NoSuchVersion.
func parseCopySource(s string) (copySource, error) {
	const name = "x-amz-copy-source"
	raw, query, _ := strings.Cut(s, "?")
	if query != "" {
		v, err := url.ParseQuery(query)
		if err != nil || len(v) != 1 || len(v["versionId"]) != 1 {
			return copySource{}, invalidArgument(name, s, "The copy source may carry a versionId and nothing else.")
		}
		if v["versionId"][0] != "null" {
			return copySource{}, errNoSuchVersion
		}
	}
	plain, err := url.PathUnescape(raw)
	if err != nil {
		return copySource{}, invalidArgument(name, s, "Invalid copy source encoding")
	}
	b, key, ok := strings.Cut(strings.TrimPrefix(plain, "/"), "/")
	if !ok || b == "" || key == "" {
		return copySource{}, invalidArgument(name, s, "The copy source must name a bucket and a key: bucket/key.")
	}
	return copySource{b, key}, nil
}
