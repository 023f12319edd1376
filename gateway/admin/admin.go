// Package admin is the admin REST API: the mount table, and the namespace as an operator's tools see it. It renders what
// core.Mounts and core.Namespace say as JSON, described by the OpenAPI document it serves at /api/v1/openapi.json; errors
// are problems as in RFC 9457. It decides nothing itself, opens no listener, and serves neither health nor metrics.
//
// Every request but the one for the OpenAPI document needs HTTP Basic with an access key pair of a superuser, and acts as
// that superuser; one that tells of changes in a bucket may have the token of a mount instead.
package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humamux"
	"github.com/gorilla/mux"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/gateway/config"
)

// Options are what a Server is made of. All but those after Logger are required.
type Options struct {
	Namespace     core.Namespace
	Locator       core.Locator
	Mounts        core.Mounts
	Authenticator core.Authenticator
	Defaults      config.Config // what new mounts leave open
	Version       string        // of the program
	Logger        *slog.Logger  // gets one line per request; nil: none

	// Forward carries what only the leading master answers there. nil: this process answers it, with those after it.
	Forward http.RoundTripper
	Nodes   Nodes
	Masters Masters

	Care     core.Care // of a process that leads; nil otherwise
	Snapshot Snapshot  // of the journal's etcd; nil in a process without

	Jobs   core.Jobs      // of a process that leads; nil otherwise
	Caches core.CacheCare // likewise

	Persister core.Persister   // likewise
	Rules     core.PathRules   // likewise
	Explainer core.Explainer   // likewise
	Syncer    core.Syncer      // likewise
	Life      core.MountLife   // likewise
	Feeds     core.Feeds       // likewise
	Buckets   core.BucketAdmin // likewise

	// Observe, if not nil, is told of every request when it has ended, by the operation id of the OpenAPI document.
	Observe func(core.Served)
}

// Server is an http.Handler for everything below /api/v1. It is safe for concurrent use.
type Server struct {
	o       Options
	api     huma.API
	handler http.Handler
	trusted http.Handler
}

// base is where the API starts; a change that breaks clients gets another.
const base = "/api/v1"

// New returns a Server.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	router.NotFoundHandler = refuse(http.StatusNotFound, "there is nothing at this path; see "+base+"/openapi.json")
	router.MethodNotAllowedHandler = refuse(http.StatusMethodNotAllowed, "this path has other methods; see "+base+"/openapi.json")
	s := &Server{o: o, api: humamux.New(router, apiConfig(o.Version))}
	s.api.UseMiddleware(noteOperation, s.forward)
	s.registerMounts()
	s.registerLife()
	s.registerRules()
	s.registerBuckets()
	s.registerFiles()
	s.registerNodes()
	s.registerMasters()
	s.registerCare()
	s.registerJobs()
	s.registerExplain()
	s.registerEvents()
	s.trusted = s.superusersOr(router, mountPathInPath(router))
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(refuse(http.StatusForbidden, "a page of another site may not make changes here"))
	s.handler = origin.Handler(s.authenticate(mountPathInPath(router)))
	return s
}

func apiConfig(version string) huma.Config {
	c := huma.DefaultConfig("Sluice admin API", version)
	c.OpenAPIPath = base + "/openapi"
	c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", nil
	c.RejectUnknownQueryParameters = true
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"basic": {Type: "http", Scheme: "basic", Description: "Access key and secret key of a superuser."},
	}
	c.Security = []map[string][]string{{"basic": {}}}
	c.Transformers = []huma.Transformer{withoutValues}
	return c
}

// withoutValues keeps what a client sent out of the problems it gets: it may hold secrets.
func withoutValues(_ huma.Context, _ string, v any) (any, error) {
	if p, ok := v.(*huma.ErrorModel); ok {
		for _, e := range p.Errors {
			e.Value = nil
		}
	}
	return v, nil
}

// ServeHTTP serves one request and writes its access line.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.serve(s.handler, w, r, rand.Text())
}

// serve serves one request with h.
func (s *Server) serve(h http.Handler, w http.ResponseWriter, r *http.Request, id string) {
	start := time.Now()
	w.Header().Set("X-Request-Id", id)
	rec := &record{ResponseWriter: w}
	ctx := context.WithValue(core.WithRequestID(r.Context(), id), recordKey{}, rec)
	defer func() {
		took := time.Since(start)
		line := []any{"proto", "admin", "op", rec.op, "user", rec.user, "status", rec.status, "bytes", rec.sent, "dur", took}
		if rec.err != nil {
			line = append(line, "err", rec.err)
		}
		s.o.Logger.InfoContext(ctx, "request", line...)
		if s.o.Observe != nil {
			s.o.Observe(core.Served{Op: rec.op, Status: rec.status, Sent: rec.sent, Took: took})
		}
	}()
	h.ServeHTTP(rec, r.WithContext(ctx))
}

// record is what is known of a request for its access line.
type record struct {
	http.ResponseWriter
	op, user string
	status   int
	sent     int64
	err      error
}

type recordKey struct{}

func recordOf(ctx context.Context) *record { return ctx.Value(recordKey{}).(*record) }

func (r *record) WriteHeader(status int) {
	r.status = cmp.Or(r.status, status)
	r.ResponseWriter.WriteHeader(status)
}

func (r *record) Write(p []byte) (int, error) {
	r.status = cmp.Or(r.status, http.StatusOK)
	n, err := r.ResponseWriter.Write(p)
	r.sent += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *record) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func noteOperation(ctx huma.Context, next func(huma.Context)) {
	recordOf(ctx.Context()).op = ctx.Operation().OperationID
	next(ctx)
}

// authenticate lets superusers through, as themselves.
func (s *Server) authenticate(next http.Handler) http.Handler {
	admitted := s.superusers(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, base+"/openapi") {
			next.ServeHTTP(w, r)
			return
		}
		r, told := withToken(r)
		if told {
			next.ServeHTTP(w, r) // who leads knows the tokens
			return
		}
		p, err := s.principal(r)
		switch {
		case err != nil:
			writeProblem(w, problem(err))
		case p.AccessKey == "":
			w.Header().Set("WWW-Authenticate", `Basic realm="Sluice", charset="UTF-8"`)
			writeProblem(w, huma.Error401Unauthorized("the access key or the secret key is missing or wrong; send both with HTTP Basic"))
		default:
			admitted.ServeHTTP(w, r.WithContext(core.WithPrincipal(r.Context(), p)))
		}
	})
}

// superusers lets requests of superusers through, whose principal is in the context.
func (s *Server) superusers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := core.PrincipalOf(r.Context())
		if !p.Super {
			writeProblem(w, huma.Error403Forbidden("the access key is not a superuser's"))
			return
		}
		recordOf(r.Context()).user = p.User
		next.ServeHTTP(w, r)
	})
}

// superusersOr is superusers but for requests with a token, which telling does with what the token allows.
func (s *Server) superusersOr(telling, next http.Handler) http.Handler {
	admitted := s.superusers(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == eventsPath && r.Header.Get(tokenHeader) != "" {
			telling.ServeHTTP(w, r)
			return
		}
		admitted.ServeHTTP(w, r)
	})
}

// principal returns who sent r; without a right key pair, one without an access key. A key that does not exist costs the
// same time as a wrong secret.
func (s *Server) principal(r *http.Request) (core.Principal, error) {
	key, given, ok := r.BasicAuth()
	if !ok || key == "" {
		return core.Anonymous, nil
	}
	secret, p, err := s.o.Authenticator.Secret(r.Context(), key)
	unknown := errors.Is(err, errs.NotExist)
	if err != nil && !unknown {
		return core.Anonymous, err
	}
	want, got := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(given))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 || unknown || secret == "" {
		return core.Anonymous, nil
	}
	p.AccessKey = key
	return p, nil
}

// mountPathInPath accepts a mount's path as the query ?path= or with unescaped slashes too, and passes it on as the one
// form that is routed: percent-encoded, without the leading slash, as the last segment.
func mountPathInPath(next http.Handler) http.Handler {
	const mounts = base + "/mounts"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, below := strings.CutPrefix(r.URL.Path, mounts+"/")
		query := r.URL.Query()
		if r.URL.Path == mounts && query.Has("path") && r.Method != http.MethodPost {
			if path, below = query.Get("path"), true; path == "" {
				writeProblem(w, huma.Error422UnprocessableEntity("the parameter path is empty; name the mount's path, / for the root"))
				return
			}
			query.Del("path")
			r.URL.RawQuery = query.Encode()
		}
		if below {
			path = "/" + strings.TrimPrefix(path, "/")
			if path != "/" {
				path = strings.TrimSuffix(path[1:], "/")
			}
			r.URL.Path, r.URL.RawPath = mounts+"/"+path, mounts+"/"+url.PathEscape(path)
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(status int, why string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeProblem(w, huma.NewError(status, why)) })
}

// Panicked writes the problem that stands for a panic in a handler.
func Panicked(w http.ResponseWriter) {
	writeProblem(w, huma.Error500InternalServerError("the request failed by a fault of the server; its log says more"))
}

// Starting writes the problem that answers requests before the namespace is there.
func Starting(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	writeProblem(w, huma.Error503ServiceUnavailable("the process is starting; try again"))
}

// writeProblem writes a problem outside the API's own handlers.
func writeProblem(w http.ResponseWriter, p huma.StatusError) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.GetStatus())
	_ = json.NewEncoder(w).Encode(p)
}
