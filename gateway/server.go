package gateway

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

// newServer returns the HTTP server of one listener. There is no limit on the duration of a request: uploads and downloads
// take as long as they make progress (progressConn, progressBody).
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // S3 and WebHDFS clients speak nothing else, and one connection per stream keeps sendfile
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ConnContext:       withConn,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       10 * time.Minute, // longer than the pools of clients and balancers keep theirs, so that they close first
		MaxHeaderBytes:    64 << 10,         // 2 KiB of user metadata, 4 KiB of key, and room for what proxies add
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),

		DisableGeneralOptionsHandler: true, // OPTIONS * is for the protocol to refuse
	}
}

// guarded serves with h. A body that makes no progress is cut off; a panic becomes the protocol's own internal error,
// written by fail, and one log line with the stack. While h runs it is counted in b.
func guarded(h http.Handler, fail func(http.ResponseWriter), log *slog.Logger, b *busy) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.add(1)
		defer b.add(-1)
		out := newResponse(w, r)
		defer func() {
			fault := recover()
			if fault == nil {
				return
			}
			if fault == http.ErrAbortHandler {
				panic(fault)
			}
			log.ErrorContext(r.Context(), "panic", "err", fault, "stack", string(debug.Stack()))
			if out.started {
				panic(http.ErrAbortHandler) // only a cut connection can say that the response is not whole
			}
			clear(w.Header())
			w.Header().Set("Connection", "close")
			fail(w)
		}()
		if r.Body != nil && r.Body != http.NoBody {
			body := newProgressBody(r.Body, http.NewResponseController(w))
			// A copy: by the body of its own request net/http knows that a client still waits for 100 Continue, and that it
			// must not wait for what that client has not sent before it answers.
			r = r.WithContext(r.Context())
			r.Body = body
		}
		h.ServeHTTP(out, r)
		out.begin()
	})
}

// busy counts the handlers that run. Cutting a connection does not end its handler, which still uses the namespace.
type busy struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // not nil while somebody waits; closed at n == 0
}

func (b *busy) add(delta int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n += delta
	if b.n == 0 && b.idle != nil {
		close(b.idle)
		b.idle = nil
	}
}

// wait returns once no handler runs, or with ctx's error.
func (b *busy) wait(ctx context.Context) error {
	b.mu.Lock()
	if b.n == 0 {
		b.mu.Unlock()
		return nil
	}
	if b.idle == nil {
		b.idle = make(chan struct{})
	}
	idle := b.idle
	b.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// response knows whether its header has been written, and the shortest way for it and for its body.
type response struct {
	http.ResponseWriter
	conn    *progressConn // nil if there is but net/http's way
	header  http.Header   // what the handler sets; nil if conn is
	started bool
	bounded bool  // the header has said how long the body is
	left    int64 // bytes of it that are still to come, if so
}

func newResponse(w http.ResponseWriter, r *http.Request) *response {
	out := &response{ResponseWriter: w, conn: connOf(r.Context())}
	if out.conn != nil {
		out.header = out.conn.emptyHeader()
	}
	return out
}

func (r *response) Header() http.Header {
	if r.conn != nil {
		return r.header
	}
	return r.ResponseWriter.Header()
}

func (r *response) WriteHeader(status int) {
	if status >= 200 && !r.started {
		r.started = true
		if n, err := strconv.ParseInt(r.Header().Get("Content-Length"), 10, 64); err == nil && n >= 0 {
			r.left, r.bounded = n, true
		}
		if r.conn != nil {
			r.conn.putHeader(r.header, r.ResponseWriter.Header())
		}
	}
	r.ResponseWriter.WriteHeader(status)
}

// begin writes the header, unless the handler has.
func (r *response) begin() {
	if !r.started {
		r.WriteHeader(http.StatusOK)
	}
}

// Write implements io.Writer. Bytes beyond the announced length would be taken for the next response; net/http looks at that
// where it is given bytes, and not where it is given a reader, as send does.
func (r *response) Write(p []byte) (int, error) {
	r.begin()
	if r.bounded {
		if int64(len(p)) > r.left {
			r.left = 0 // what comes later would follow a gap
			return 0, http.ErrContentLength
		}
		r.left -= int64(len(p)) // before it is written: a fault in p may end this call
	}
	if r.conn != nil && len(p) >= least {
		if w, ok := r.ResponseWriter.(io.ReaderFrom); ok {
			return r.conn.send(w, p)
		}
	}
	return r.ResponseWriter.Write(p)
}

// ReadFrom keeps net/http's sendfile behind a header that is written. Before, src is read first: it may be a body whose
// client waits for 100 Continue.
func (r *response) ReadFrom(src io.Reader) (int64, error) {
	if !r.started {
		return io.Copy(struct{ io.Writer }{r}, src)
	}
	n, err := io.Copy(r.ResponseWriter, src)
	r.left -= n
	return n, err
}

// FlushError is how http.ResponseController flushes.
func (r *response) FlushError() error {
	r.begin()
	return http.NewResponseController(r.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// progressBody is a request body whose reads fail once no byte has come for the time of a stall. A deadline that a handler
// sets itself stays as it is.
type progressBody struct {
	io.ReadCloser
	timer *time.Timer
}

func newProgressBody(b io.ReadCloser, conn *http.ResponseController) *progressBody {
	t := time.AfterFunc(stall, func() { _ = conn.SetReadDeadline(time.Now()) })
	t.Stop()
	return &progressBody{b, t}
}

func (b *progressBody) Read(p []byte) (int, error) {
	b.timer.Reset(stall)
	defer b.timer.Stop()
	return b.ReadCloser.Read(p)
}

// serve accepts connections of l, over TLS if c is not nil, until the server is shut down.
func serve(s *http.Server, l net.Listener, c *tls.Config) error {
	if c == nil {
		return s.Serve(l)
	}
	s.TLSConfig = c
	return s.ServeTLS(l, "", "")
}

// s3Panicked writes S3's error for a fault of the server.
func s3Panicked(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"+
		`<Error><Code>InternalError</Code><Message>We encountered an internal error. Please try again.</Message></Error>`)
}

// webhdfsPanicked writes the NameNode's answer to an unexpected exception.
// Source: hadoop-hdfs web/resources/ExceptionHandler.java.
func webhdfsPanicked(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = io.WriteString(w, `{"RemoteException":{"exception":"RuntimeException","javaClassName":"java.lang.RuntimeException",`+
		`"message":"the request failed by a fault of the server; its log says more"}}`)
}
