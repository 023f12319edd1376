// Package webhdfs serves the namespace over the WebHDFS REST protocol, in the NameNode's flavour: statuses, exception
// classes and the messages that clients parse are HDFS's own. It translates and nothing else: it keeps no state between
// requests, knows no store and decides no permission, and it is not HttpFS (an IOException is 403, CREATE, APPEND and OPEN
// redirect).
//
// # Two steps
//
// CREATE, APPEND, OPEN and GETFILECHECKSUM answer the first request with 307 and an absolute URL. Step one checks all that can fail, since
// a Java client turns only its answer into a clean exception. The URL carries a ticket (ticket.go) that names the user and
// the parameters of step one, so that the second request needs no credentials; it may be used again, and OPEN's takes an
// appended offset. A client that cannot follow redirects sends its bytes at once with data=true, HttpFS's mark of step two,
// and its credentials.
//
// # Names
//
// A path is decoded once and taken byte for byte; repeated and trailing slashes collapse. Hadoop cannot represent names
// that hold ":" or that are empty, "." or ".."; names.go lists them under an escaped spelling that resolves back.
//
// # Reading on
//
// operations.go is the table of everything that can be asked; errors.go is the table of everything that can go wrong.
package webhdfs

import (
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// Options are what a Server is made of. Namespace, Attrs, Locator and Authenticator are required.
type Options struct {
	Namespace     core.Namespace
	Attrs         core.Attrs
	Locator       core.Locator
	Authenticator core.Authenticator

	// Advertise is the "host:port" or "https://host:port" that redirects point to. "": the host that the client used.
	Advertise string
	// Simple trusts the user.name parameter. Without it every request needs HTTP Basic with an access key pair.
	Simple bool
	// LoopbackOnly refuses requests whose Host is not a loopback address, localhost or the advertised name, and requests
	// that a browser makes for another site's page (Origin): on loopback, trusting user.name is safe only without those.
	LoopbackOnly bool
	// Tickets tells what redirect tickets are signed with, so that any gateway honours them. nil: a random secret, of this Server alone.
	Tickets core.Tickets
	// Superuser is the user name that passes every permission check.
	Superuser string

	Logger *slog.Logger // nil: discard
	// Observe is told of every request when its response is complete. An operation without a name is "UNKNOWN"; what was sent
	// is the file's bytes, received or sent.
	Observe func(core.Served)
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(core.Served) {}
	}
	return o
}

// Server is the http.Handler of the protocol. It starts no goroutine and needs no Close.
type Server struct {
	o   Options
	ns  core.Namespace
	now func() time.Time // judges the age of tickets
	key ticketKey

	buffers sync.Pool // *[copyBytes]byte, for uploads
}

// copyBytes is how much of an upload is moved at once: large against the cost of a system call, small against a page.
const copyBytes = 128 << 10

// New returns a Server over o.
func New(o Options) *Server {
	o = o.withDefaults()
	s := &Server{o: o, ns: o.Namespace, now: time.Now}
	s.key.own = make([]byte, 32)
	rand.Read(s.key.own) // never fails
	s.buffers.New = func() any { return new([copyBytes]byte) }
	return s
}

// prefix is where the protocol lives on its listener.
const prefix = "/webhdfs/v1"

// request is one request as the handlers see it.
type request struct {
	*http.Request
	op     *operation
	name   string // the path as the client spells it, with single slashes and none at the end
	path   core.Path
	q      *params
	who    core.Principal
	ticket *ticket // nil in step one

	upload bool             // the handler reads the body
	status int              // of the response, 0 until its header is written
	bytes  int64            // of the file, received or sent
	cache  core.CacheStatus // of the file that is read
	mount  string           // likewise
}

// ServeHTTP serves one request. A response that fails after its header was sent is cut off, so that no client takes it
// for complete.
func (s *Server) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	start := time.Now()
	r := &request{Request: hr, op: unknown}
	err := s.serve(w, r)
	cut := err != nil && r.status != 0
	if err != nil && !cut {
		s.fail(w, r, err)
	}
	took := time.Since(start)
	s.o.Observe(core.Served{Op: r.op.name, Status: r.status, Sent: r.bytes, Took: took, Cache: r.cache, Mount: r.mount})
	s.access(r, err, took)
	if cut {
		panic(http.ErrAbortHandler)
	}
}

// serve runs the request's operation. It has written the whole response if it returns nil, and none of it if it returns
// an error and r.status is 0.
func (s *Server) serve(w http.ResponseWriter, r *request) error {
	setHeaders(w.Header(), time.Now())
	if err := s.guard(r); err != nil {
		return err
	}
	rest, ok := strings.CutPrefix(r.URL.Path, prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return &remoteError{status: http.StatusNotFound, class: classFileNotFound,
			msg: "WebHDFS is served under " + prefix + "; there is nothing at " + r.URL.Path}
	}
	var err error
	if r.q, err = parseQuery(r.URL.RawQuery); err != nil {
		return err
	}
	if r.name, err = parseName(rest); err != nil {
		return err
	}
	op, opErr := findOperation(r.Method, r.q.enum("op"))
	if opErr == nil {
		r.op = op
	}
	if err := s.authenticate(r); err != nil {
		return err
	}
	if opErr != nil {
		return opErr
	}
	ctx := core.WithPrincipal(r.Context(), r.who)
	if age := maxAge(r.Header); age.Set || age.OnlyIfCached {
		ctx = core.WithMaxAge(ctx, age)
	}
	r.Request = r.WithContext(ctx)
	if r.path, err = s.resolve(ctx, r.name); err != nil {
		return err
	}
	return r.op.serve(s, w, r)
}

// fail writes err as the response.
func (s *Server) fail(w http.ResponseWriter, r *request, err error) {
	if r.upload {
		drain(w, r)
	}
	e := remote(r, err)
	if e.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="sluice", charset="UTF-8"`)
	}
	writeJSON(w, r, e.status, e.body())
}

// access writes the line of the request.
func (s *Server) access(r *request, err error, took time.Duration) {
	attrs := []slog.Attr{
		slog.String("proto", "webhdfs"), slog.String("op", r.op.name), slog.String("user", r.who.User),
		slog.String("path", r.name), slog.Int("status", r.status), slog.Int64("bytes", r.bytes), slog.Duration("dur", took),
	}
	if id := core.RequestID(r.Context()); id != "" {
		attrs = append(attrs, slog.String("req", id))
	}
	if err != nil {
		attrs = append(attrs, slog.String("kind", errs.KindOf(err).Error()), slog.Any("err", err))
	}
	s.o.Logger.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}

// setHeaders sets what a NameNode sends with every answer.
// Source: Hadoop's NoCacheFilter and HttpServer2.
func setHeaders(h http.Header, now time.Time) {
	h.Set("Cache-Control", "no-cache")
	h.Set("Expires", now.UTC().Format(http.TimeFormat))
	h.Set("Pragma", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-FRAME-OPTIONS", "SAMEORIGIN")
	h.Set("X-XSS-Protection", "1; mode=block")
}

const (
	drainBytes = 64 << 20         // what is read of an upload that has failed
	drainTime  = 10 * time.Second // how long that may take
)

// drain reads what is left of a refused upload, within bounds: a client that is still sending when the connection closes
// sees a broken pipe instead of the exception. A client that waits for 100 Continue has sent nothing, and must not be
// asked to.
func drain(w http.ResponseWriter, r *request) {
	if r.bytes == 0 && r.Header.Get("Expect") != "" {
		return
	}
	// Where the deadline cannot be set, the server's own timeouts bound the read.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTime))
	if _, err := io.CopyN(io.Discard, r.Body, drainBytes); !errors.Is(err, io.EOF) {
		w.Header().Set("Connection", "close")
	}
}

// client returns the address of the client without its port, as HDFS's messages name it.
func (r *request) client() string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}
