package s3api

import (
	"net/http"
	"strings"

	"github.com/sluicefs/sluice/core"
)

// contentHeaders are kept with an object and sent with it.
var contentHeaders = []string{"Content-Type", "Content-Encoding", "Content-Disposition", "Content-Language", "Cache-Control", "Expires"}

const (
	defaultType   = "binary/octet-stream"     // S3's, for an object put without one
	directoryType = "application/x-directory" // S3A's and the AWS console's, for a directory that is a key
	metaPrefix    = "X-Amz-Meta-"

	// maxMeta is the limit of the names and values of user metadata, in bytes.
	// Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html
	maxMeta = 2 << 10
)

// fileAttr reads the attributes that a request gives an object, and refuses those that would be lost.
// Errors: MetadataTooLarge, NotImplemented, InvalidStorageClass.
func fileAttr(h http.Header) (core.FileAttr, error) {
	if err := refuseUnbuilt(h); err != nil {
		return core.FileAttr{}, err
	}
	var a core.FileAttr
	for _, name := range contentHeaders {
		v := h.Get(name)
		if name == "Content-Encoding" {
			v = withoutChunked(v)
		}
		if v == "" {
			continue
		}
		if a.Headers == nil {
			a.Headers = make(map[string]string, 2)
		}
		a.Headers[name] = v
	}
	size := 0
	for k, vs := range h {
		if !strings.HasPrefix(k, metaPrefix) {
			continue
		}
		name, value := strings.ToLower(k[len(metaPrefix):]), strings.Join(vs, ",")
		if size += len(name) + len(value); size > maxMeta {
			return a, errMetadataTooLarge
		}
		if a.User == nil {
			a.User = make(map[string]string)
		}
		a.User[name] = value
	}
	return a, nil
}

// withoutChunked drops aws-chunked, which encodes the transfer and not the object.
func withoutChunked(encoding string) string {
	if !strings.Contains(encoding, "aws-chunked") {
		return encoding
	}
	var kept []string
	for one := range strings.SplitSeq(encoding, ",") {
		if one = strings.TrimSpace(one); one != "" && one != "aws-chunked" {
			kept = append(kept, one)
		}
	}
	return strings.Join(kept, ",")
}

// refuseUnbuilt refuses headers that ask for what is not built: stored without it, the object would not be what was
// asked for.
func refuseUnbuilt(h http.Header) error {
	for k, vs := range h {
		rest, ok := strings.CutPrefix(k, "X-Amz-")
		if !ok || vs[0] == "" {
			continue
		}
		switch {
		case rest == "Acl":
			if vs[0] != "private" && vs[0] != "bucket-owner-full-control" {
				return notImplemented(k)
			}
		case rest == "Storage-Class":
			if vs[0] != "STANDARD" {
				return errStorageClass
			}
		case rest == "Tagging", rest == "Website-Redirect-Location", rest == "Write-Offset-Bytes",
			strings.HasPrefix(rest, "Grant-"), strings.HasPrefix(rest, "Object-Lock-"),
			strings.HasPrefix(rest, "Server-Side-Encryption"), strings.HasPrefix(rest, "Copy-Source-Server-Side-Encryption"):
			return notImplemented(k)
		}
	}
	return nil
}

// writeType reads our own header that overrides when a write is acknowledged.
func writeType(h http.Header) (core.WriteType, error) {
	t := core.WriteType(h.Get("X-Sluice-Write-Type"))
	if t != "" && !t.Known() {
		return "", invalidArgument("X-Sluice-Write-Type", string(t), "The write type is CACHE_THROUGH, THROUGH, ASYNC_THROUGH or MUST_CACHE.")
	}
	return t, nil
}

// readType reads our own header that overrides what a read does to the cache.
func readType(h http.Header) (core.ReadType, error) {
	const name = "X-Sluice-Read-Type"
	t := core.ReadType(first(h, name))
	if t != "" && !t.Known() {
		return "", invalidArgument(name, string(t), "The read type is CACHE_PROMOTE, CACHE or NO_CACHE.")
	}
	return t, nil
}

// describe sets the headers that GET and HEAD send of a version, without its length.
func (r *request) describe(info core.Info) {
	f := r.fields(6 + len(info.Headers) + len(info.User) + 2*len(info.Checksums))
	f.set("ETag", `"`+etagOf(info)+`"`)
	f.set("Last-Modified", info.ModTime.UTC().Format(http.TimeFormat))
	f.h["Accept-Ranges"] = byteUnit
	f.h["X-Content-Type-Options"] = noSniff // a stored page is not this origin's
	switch {
	case info.Headers["Content-Type"] != "":
	case info.Dir:
		f.set("Content-Type", directoryType)
	default:
		f.set("Content-Type", defaultType)
	}
	for k, v := range info.Headers {
		if v != "" {
			f.set(k, v)
		}
	}
	for k, v := range info.User {
		f.set("x-amz-meta-"+k, v) // lower case, as S3: clients keep the case they see
	}
	r.cache, r.mount = info.Cache, info.Mount
	if info.Cache != "" {
		f.set("X-Cache", string(info.Cache))
		if info.Age > 0 || info.Cache != core.Stale { // how old what is too old is may not be known
			f.set("Age", itoa(int64(info.Age.Seconds())))
		}
	}
}

// override replaces content headers by the response-* parameters of a signed request. Errors: InvalidRequest,
// InvalidArgument.
func (r *request) override() error {
	if len(r.query) == 0 {
		return nil
	}
	for _, name := range contentHeaders {
		v, ok := r.query["response-"+strings.ToLower(name)]
		if !ok || v[0] == "" {
			continue
		}
		if r.anonymous() {
			return invalidRequest("Request specific response headers cannot be used for anonymous GET requests.")
		}
		if strings.ContainsFunc(v[0], func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return invalidArgument("response-"+strings.ToLower(name), "", "A header value holds no control characters.")
		}
		r.out.Header()[name] = v[:1]
	}
	return nil
}

// showChecksums sets the additional checksums of a whole object for a client that asks for them.
func (r *request) showChecksums(sums []core.Checksum) {
	f := r.fields(2 * len(sums))
	for _, c := range sums {
		f.set("x-amz-checksum-"+strings.ToLower(c.Algorithm), c.Value)
		if c.Type != "" {
			f.set("x-amz-checksum-type", c.Type)
		}
	}
}

// wantsChecksum reports whether the client asked for the checksums of the object.
func (r *request) wantsChecksum() bool {
	return strings.EqualFold(first(r.http.Header, "X-Amz-Checksum-Mode"), "ENABLED")
}
