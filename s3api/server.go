// Package s3api serves S3 REST over core.Namespace: it matches a request against the table of routes.go, verifies its
// signature, parses its names, calls the namespace and renders what that says in S3's words.
//
// It decides nothing about files: permissions, conditions, versions and durability are the namespace's. It opens no
// listener; the gateway mounts the Server at the root of one. Signatures and chunked bodies are in s3api/sigv4, the
// additional checksums in s3api/checksum. Its suite is the tests of this package, over a real AWS client, and conformance.
package s3api

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/s3api/sigv4"
)

// Options are what a Server is made of. Namespace, Uploads and Authenticator are required.
type Options struct {
	Namespace     core.Namespace
	Uploads       core.Uploads
	Authenticator core.Authenticator

	Region  string            // of the credential scope and of every bucket; "" accepts all and says us-east-1
	Domain  string            // virtual-host style: bucket.Domain; "" serves path style alone
	Aliases map[string]string // bucket names for directories anywhere: name → absolute path
	Buckets core.Buckets      // further ones, which come and go; of a name in both, Aliases counts; nil: none

	// Anonymous lets requests without credentials reach the namespace as core.Anonymous, which the mode bits for others
	// then bind. Without it they are AccessDenied at the door: S3 gives the public nothing that no policy grants.
	Anonymous bool

	Logger *slog.Logger // gets one line per request; nil: none

	// Observe, if not nil, is told of every request when it has ended: by the AWS operation name, with the time since the
	// request's headers were read.
	Observe func(core.Served)
}

// Server is an http.Handler. It is safe for concurrent use and holds no state of its own.
type Server struct {
	ns        core.Namespace
	uploads   core.Uploads
	auth      *sigv4.Verifier
	users     core.Authenticator
	router    *router
	region    string
	anyRegion bool // no region was configured
	public    bool // anonymous requests may reach the namespace
	domain    string
	aliases   map[string]core.Path // of the configuration
	buckets   core.Buckets         // may be nil
	log       *slog.Logger
	observe   func(core.Served)
	host      []string // x-amz-id-2
}

// New returns a Server. It panics if a required option is missing. Errors: errs.Invalid for an alias that is no name of
// a bucket or no absolute path.
func New(o Options) (*Server, error) {
	if o.Namespace == nil || o.Uploads == nil || o.Authenticator == nil {
		panic("s3api.New: Namespace, Uploads and Authenticator are required")
	}
	s := &Server{
		ns: o.Namespace, uploads: o.Uploads, users: o.Authenticator,
		region: o.Region, anyRegion: o.Region == "", public: o.Anonymous, domain: strings.TrimPrefix(o.Domain, "."), aliases: map[string]core.Path{}, buckets: o.Buckets,
		log: o.Logger, observe: o.Observe, router: newRouter(routes()), host: []string{hostID()},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.region == "" {
		s.region = "us-east-1"
	}
	for name, dir := range o.Aliases {
		p, err := core.ParsePath(dir)
		if err != nil {
			return nil, errs.E("s3api.New", name, errs.Invalid, err)
		}
		if !validBucket(name) {
			return nil, errs.New("s3api.New", name, errs.Invalid, "the alias is not a valid bucket name")
		}
		s.aliases[name] = p.Dir()
	}
	s.auth = sigv4.New(sigv4.Options{Region: o.Region, Service: "s3", Secret: s.secret})
	return s, nil
}

func hostID() string {
	b := make([]byte, 24)
	rand.Read(b) // never fails
	return base64.StdEncoding.EncodeToString(b)
}

// secret looks an access key up for the verifier. A key that is not known differs from a directory of keys that does not
// answer: only the first is the client's to mend.
func (s *Server) secret(ctx context.Context, accessKey string) (string, error) {
	secret, _, err := s.users.Secret(ctx, accessKey)
	return secret, err
}

// request is one request on its way through the server, and what is known of its response so far.
type request struct {
	target
	ctx     context.Context
	http    *http.Request
	query   url.Values
	route   *route
	auth    sigv4.Auth
	user    core.Principal
	dir     core.Path // the bucket
	aliased bool      // dir is what an alias stands for, found once: one that comes or goes meanwhile is another request's
	path    core.Path // the key; zero unless on == object

	out      http.ResponseWriter
	id       []string // x-amz-request-id
	about    resource // what a missing thing would be
	body     bool     // the request body has been read to its end
	status   int
	sent     int64            // bytes of the response body
	cache    core.CacheStatus // of the file that is read
	mount    string           // likewise
	answered bool
}

// ServeHTTP serves one request and writes its access line.
func (s *Server) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	start := time.Now()
	if hr.ContentLength == 0 && first(hr.Header, "Expect") != "" {
		// net/http sends 100 on the first read of a body. One without bytes is never read, and botocore, which asks even
		// then, would wait on the connection's next request for the 100 it missed.
		w.WriteHeader(http.StatusContinue)
	}
	id := requestID()
	r := &request{http: hr, out: w, id: []string{id}, ctx: core.WithRequestID(hr.Context(), id), user: core.Anonymous}
	h := w.Header()
	h["X-Amz-Request-Id"], h["X-Amz-Id-2"], h["Server"] = r.id, s.host, serverName
	err := s.serve(r)
	if err != nil {
		s.fail(r, err)
	}
	s.finish(r, err, start, time.Since(start))
}

var serverName = []string{"Sluice"}

// requestID returns 16 hexadecimal digits, as S3's are.
func requestID() string {
	var b [16]byte
	for i, n := 0, mathrand.Uint64(); i < len(b); i, n = i+1, n>>4 {
		b[i] = "0123456789ABCDEF"[n&15]
	}
	return string(b[:])
}

// serve matches, authenticates, parses and handles, in that order: no name reaches the namespace before the signature
// over it is verified.
func (s *Server) serve(r *request) error {
	if headerSize(r.http.Header) > maxHeader {
		return errHeaderSection
	}
	var err error
	if r.target, err = parseTarget(r.http, s.domain); err != nil {
		return err
	}
	r.about = r.on
	if q := r.http.URL.RawQuery; q != "" {
		if r.query, err = url.ParseQuery(q); err != nil {
			return invalidArgument("query", "", "The query string is not URL-encoded.")
		}
	}
	r.http.Form = r.query // parsed once, and never by net/http, which would read a form out of the body
	row, unrouted := s.router.find(r.http, r.on)
	r.route = row
	if err := s.authenticate(r); err != nil {
		return err
	}
	if more, err := r.hoist(); err != nil {
		return err
	} else if more {
		row, unrouted = s.router.find(r.http, r.on) // a header may choose the operation
		r.route = row
	}
	if unrouted != nil {
		return unrouted
	}
	if row.serve == nil {
		return s.refuse(r)
	}
	if err := s.resolve(r); err != nil {
		return err
	}
	return row.serve(s, r)
}

// maxHeader is the limit of a request's header section in bytes. Source: AWS, RequestHeaderSectionTooLarge.
const maxHeader = 8 << 10

func headerSize(h http.Header) int {
	size := 0
	for k, vs := range h {
		for _, v := range vs {
			size += len(k) + len(v) + len(": \r\n")
		}
	}
	return size
}

// authenticate verifies the signature and makes the request act for who signed it.
func (s *Server) authenticate(r *request) error {
	var err error
	if r.auth, err = s.auth.Verify(r.http); err != nil {
		return err
	}
	switch r.auth.Type {
	case sigv4.Anonymous:
		if !s.public {
			return errAccessDenied
		}
	case sigv4.Header, sigv4.Presigned:
		if _, r.user, err = s.users.Secret(r.ctx, r.auth.AccessKey); err != nil {
			return errAccessDenied // the key was withdrawn since its signature was verified
		}
		r.user.AccessKey = r.auth.AccessKey
	default:
		return errAccessDenied
	}
	r.ctx = core.WithPrincipal(r.ctx, r.user)
	return nil
}

// refuse answers an operation that is not built. It says so to those who may ask at all.
func (s *Server) refuse(r *request) error {
	if r.anonymous() {
		return errAccessDenied
	}
	e := *errNotImplemented
	e.Message = "The operation " + r.route.op + " is not implemented."
	return &e
}

// anonymous reports whether nobody signed the request.
func (r *request) anonymous() bool {
	return r.auth.Type != sigv4.Header && r.auth.Type != sigv4.Presigned
}

// resolve parses what the request names into paths, and the headers that every operation understands.
func (s *Server) resolve(r *request) error {
	if a, ok := maxAge(r.http.Header["Cache-Control"]); ok {
		r.ctx = core.WithMaxAge(r.ctx, a)
	}
	if t, err := readType(r.http.Header); err != nil {
		return err
	} else if t != "" {
		r.ctx = core.WithReadType(r.ctx, t)
	}
	if r.on == service {
		return nil
	}
	var err error
	if r.dir, r.aliased, err = s.bucketPath(r.ctx, r.bucket); err != nil {
		return err
	}
	if r.on == object {
		if r.path, err = objectPath(r.dir, r.key); err != nil {
			return err
		}
		if v, ok := r.query["versionId"]; ok && v[0] != "null" {
			return errNoSuchVersion
		}
	}
	return s.checkOwner(r, "X-Amz-Expected-Bucket-Owner", r.dir)
}

// checkOwner refuses a request whose header names another owner of the bucket than it has.
func (s *Server) checkOwner(r *request, header string, dir core.Path) error {
	want := first(r.http.Header, header)
	if want == "" {
		return nil
	}
	info, err := s.ns.Stat(r.ctx, dir)
	if err != nil {
		return s.inBucket(r, dir, err)
	}
	if info.Owner != want {
		return errAccessDenied
	}
	return nil
}

// statBucket returns the facts of the bucket. Errors: NoSuchBucket.
func (s *Server) statBucket(r *request) (core.Info, error) {
	info, err := s.ns.Stat(r.ctx, r.dir)
	if errors.Is(err, errs.NotExist) || errors.Is(err, errs.NotDir) {
		return info, errNoSuchBucket
	}
	return info, err
}

// inBucket turns "does not exist" about a name in the bucket at dir into NoSuchBucket if that is what is missing.
func (s *Server) inBucket(r *request, dir core.Path, err error) error {
	if !errors.Is(err, errs.NotExist) {
		return err
	}
	if _, serr := s.ns.Stat(r.ctx, dir); errors.Is(serr, errs.NotExist) {
		return errNoSuchBucket
	}
	return err
}

// maxAge reads how old an answer the client accepts. Directives of other meaning are ignored.
func maxAge(cacheControl []string) (core.MaxAge, bool) {
	a := core.MaxAge{}
	for _, line := range cacheControl {
		for d := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(d)), "=")
			switch name {
			case "no-cache":
				a.Set, a.Seconds = true, 0
			case "only-if-cached":
				if !a.Set {
					a.Set, a.Seconds = true, -1
				}
				a.OnlyIfCached = true
			case "max-age":
				if n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 64); err == nil && n >= 0 {
					a.Set, a.Seconds = true, n
				}
			}
		}
	}
	return a, a.Set
}
