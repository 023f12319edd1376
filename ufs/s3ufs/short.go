package s3ufs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/auth"
	"github.com/aws/smithy-go/encoding/httpbinding"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/sluicefs/sluice/core/errs"
)

// short is the short way of a HEAD or GET of an object: a request that is put together here. The SDK leads each through some
// sixty functions that call each other, in whose frames the stack of a fresh goroutine grows four times, and takes more processor
// time for it than all else of a read that finds nothing cached.
//
// Only what succeeds, is not there, or is not as the request wants it, ends here. Everything else is asked again by way of the SDK, which knows what may
// be tried again, and what an error says.
type short struct {
	o      Options
	once   sync.Once
	known  bool         // the rest is, but for off
	bucket url.URL      // of the bucket, without a "/" at the end
	region string       // that requests are signed for
	signer *v4.Signer   // nil: they are not signed
	off    atomic.Int64 // until when (Unix seconds) all goes by way of the SDK: the service has refused what it then took from it
}

// offFor is how long the short way is not tried after that: what a service finds fault with today, such as a policy that is being
// changed, it may not tomorrow.
const offFor = 10 * time.Minute

func (s *short) use() bool { return s.known && time.Now().Unix() >= s.off.Load() }

// learn finds out how the bucket is addressed and signed for; known stays false if that is a way which only the SDK knows.
func (s *short) learn(ctx context.Context) {
	p := s3.EndpointParameters{Bucket: &s.o.Bucket, Region: &s.o.Region, ForcePathStyle: &s.o.PathStyle, Endpoint: value(s.o.Endpoint)}
	at, err := s3.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, p.WithDefaults())
	if err != nil || len(at.Headers) > 0 {
		return
	}
	s.bucket = at.URI
	s.bucket.Path, s.bucket.RawPath = strings.TrimSuffix(at.URI.Path, "/"), ""
	s.known = s.o.Anonymous
	ways, _ := auth.GetAuthOptions(&at.Properties)
	for _, w := range ways {
		name, _ := smithyhttp.GetSigV4SigningName(&w.SignerProperties)
		region, ok := smithyhttp.GetSigV4SigningRegion(&w.SignerProperties)
		if w.SchemeID == "sigv4" && name == "s3" && ok && !s.o.Anonymous {
			s.known, s.region = true, region
			s.signer = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
			return
		}
	}
}

// errLong is an answer that the SDK is to be asked for.
var errLong = errors.New("s3ufs: ask by way of the SDK")

// do sends the request and returns its answer if that is a success, whose body is the caller's to close. Errors: ctx's; errLong,
// which is a *refusal if the service has answered.
func (s *short) do(ctx context.Context, method, key string, header ...string) (*http.Response, error) {
	s.once.Do(func() { s.learn(ctx) })
	if !s.use() {
		return nil, errLong
	}
	u := s.bucket
	u.Path, u.RawPath = u.Path+"/"+key, u.EscapedPath()+"/"+httpbinding.EscapePath(key, false)
	r := (&http.Request{Method: method, URL: &u, Host: u.Host, Header: make(http.Header, 8), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	for i := 0; i < len(header); i += 2 {
		if header[i+1] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	if s.signer != nil {
		r.Header.Set("X-Amz-Content-Sha256", emptyHash)
		keys := aws.Credentials{AccessKeyID: s.o.AccessKey, SecretAccessKey: s.o.SecretKey, SessionToken: s.o.SessionToken}
		if err := s.signer.SignHTTP(ctx, keys, r, emptyHash, "s3", s.region, time.Now()); err != nil {
			return nil, errLong
		}
	}
	r.Header.Set("Accept-Encoding", "identity") // an object stored compressed is handed out as it is
	r.Header.Set("User-Agent", "sluice")
	answer, err := s.o.Client.Do(r)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, errLong
	case answer.StatusCode == http.StatusOK || answer.StatusCode == http.StatusPartialContent:
		return answer, nil
	}
	_, _ = io.CopyN(io.Discard, answer.Body, 4<<10) // the connection stays of use
	_ = answer.Body.Close()
	return nil, &refusal{answer.StatusCode}
}

// refusal is errLong after an answer of this status.
type refusal struct{ status int }

func (e *refusal) Error() string { return fmt.Sprintf("HTTP status %d", e.status) }
func (e *refusal) Unwrap() error { return errLong }

// taken is told that the SDK got what the short way failed to get with err. A service that finds fault with the request itself
// would do so each time.
func (s *short) taken(err error) {
	if r, ok := errors.AsType[*refusal](err); ok && (r.status/100 == 3 || r.status == http.StatusBadRequest ||
		r.status == http.StatusUnauthorized || r.status == http.StatusForbidden) {
		s.off.Store(time.Now().Add(offFor).Unix())
	}
}

// again leaves a request that has failed the tries of the SDK that are left to it.
func (s *short) again(o *s3.Options) {
	if s.use() {
		o.RetryMaxAttempts = maxTries - 1
	}
}

// headObject is HeadObject of the SDK.
func (s *Store) headObject(ctx context.Context, op, name string) (*s3.HeadObjectOutput, error) {
	answer, failed := s.short.do(ctx, http.MethodHead, s.prefix+name)
	if failed == nil {
		_ = answer.Body.Close() // has no bytes
		h := answer.Header
		if t, err := modified(h); err == nil && answer.ContentLength >= 0 {
			return &s3.HeadObjectOutput{
				ContentLength: &answer.ContentLength, LastModified: t, ETag: field(h, "ETag"), ExpiresString: field(h, "Expires"),
				ContentType: field(h, "Content-Type"), CacheControl: field(h, "Cache-Control"), ContentDisposition: field(h, "Content-Disposition"),
				ContentEncoding: field(h, "Content-Encoding"), ContentLanguage: field(h, "Content-Language"), Metadata: metadata(h),
			}, nil
		}
	} else if !errors.Is(failed, errLong) {
		return nil, failed
	} else if r, ok := errors.AsType[*refusal](failed); ok && r.status == http.StatusNotFound {
		return nil, errs.E(op, name, errs.NotExist, failed) // no HEAD says more
	}
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.o.Bucket, Key: s.key(name)}, s.short.again)
	if err == nil {
		s.short.taken(failed)
	}
	return out, err
}

// getObject is GetObject of the SDK. rng is the header Range, etag one of If-Match, or "".
func (s *Store) getObject(ctx context.Context, name, rng, etag string) (*s3.GetObjectOutput, error) {
	answer, failed := s.short.do(ctx, http.MethodGet, s.prefix+name, "Range", rng, "If-Match", etag)
	if failed == nil {
		out := &s3.GetObjectOutput{Body: answer.Body, ETag: field(answer.Header, "ETag"), ContentRange: field(answer.Header, "Content-Range")}
		if answer.StatusCode == http.StatusPartialContent && out.ContentRange == nil {
			_ = answer.Body.Close()
			return nil, errs.New("s3ufs.GetObject", name, errs.Unavailable, "the service answered with a part of the object, and does not say which")
		}
		if answer.ContentLength >= 0 {
			out.ContentLength = &answer.ContentLength
		}
		return out, nil
	} else if !errors.Is(failed, errLong) {
		return nil, failed
	} else if r, ok := errors.AsType[*refusal](failed); ok && (r.status == http.StatusPreconditionFailed || r.status == http.StatusRequestedRangeNotSatisfiable) {
		return nil, errs.E("s3ufs.GetObject", name, byStatus(r.status), failed) // no more can be said of it
	}
	in := &s3.GetObjectInput{Bucket: &s.o.Bucket, Key: s.key(name), Range: value(rng), IfMatch: value(etag)}
	out, err := s.client.GetObject(ctx, in, s.short.again)
	if err == nil {
		s.short.taken(failed)
	}
	return out, err
}

// field returns a header's value, nil if it has none.
func field(h http.Header, name string) *string { return value(h.Get(name)) }

func value(v string) *string {
	if v == "" {
		return nil
	}
	return &v
}

// modified reads Last-Modified, which a service may leave out.
func modified(h http.Header) (*time.Time, error) {
	v := h.Get("Last-Modified")
	if v == "" {
		return nil, nil
	}
	t, err := http.ParseTime(v)
	return &t, err
}

const metaPrefix = "X-Amz-Meta-"

func metadata(h http.Header) map[string]string {
	meta := map[string]string{}
	for k, v := range h {
		if name, ok := strings.CutPrefix(k, metaPrefix); ok && len(v) > 0 {
			meta[strings.ToLower(name)] = v[0]
		}
	}
	return meta
}
