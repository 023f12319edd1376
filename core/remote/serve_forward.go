package remote

import (
	"errors"
	"io"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/sluicefs/sluice/core/errs"
)

// Local sets what answers the requests that are for this process, whether it leads or not. It is called before w serves; nil
// answers none. The principal of a request has been decided by the process it came to, and is in its context.
func (w *Switch) Local(h http.Handler) { w.local = h }

// forward serves one HTTP request that another process was asked.
func (s *Server) forward(st grpc.ServerStream, local http.Handler) error {
	kind, c, err := receive(st, true)
	if err != nil {
		return err
	}
	var h header
	var head httpRequest
	c.header(&h)
	c.httpRequest(&head)
	if err := c.finish(); err != nil || kind != kindOpen || head.check() != nil {
		return status.Error(codes.InvalidArgument, "the stream does not begin with a request that can be carried")
	}
	admit, answers := s.admit, s.o.Admin
	if head.here {
		admit, answers = s.welcome, local
	}
	ctx, cancel, err := admit(st.Context(), &h)
	if err == nil && answers == nil {
		cancel()
		err = errs.New("remote.Forward", head.uri, errs.Unsupported, "this process answers no such request")
	}
	if err != nil {
		return refuse(st, err)
	}
	defer cancel()
	if err := st.SendMsg(plain([]byte{kindOpen})); err != nil {
		return err
	}
	// Until the client has said so, it may ask elsewhere.
	if kind, c, err := receive(st, true); err != nil || kind != kindGo || c.finish() != nil {
		return status.Error(codes.InvalidArgument, "the request was not begun")
	}
	r, err := http.NewRequestWithContext(ctx, head.method, head.uri, nil)
	if err != nil {
		return status.Error(codes.InvalidArgument, "the stream does not begin with a request that can be carried")
	}
	r.RequestURI, r.Header, r.ContentLength = head.uri, headerOf(head.fields), head.length
	if r.Body = http.NoBody; head.length != 0 {
		r.Body = &requestBody{st: st, left: MaxForwardBody}
	}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		r.RemoteAddr = p.Addr.String()
	}
	w := &responseWriter{out: sender{st: st, pool: s.buffers}, header: http.Header{}}
	defer w.out.drop()
	return w.serve(answers, r)
}

// requestBody is the body of a request that is carried.
type requestBody struct {
	st   rawStream
	left int // bytes that may still come
	rest string
	err  error
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	for b.rest == "" && b.err == nil && len(p) > 0 {
		b.next()
	}
	if b.rest == "" {
		return 0, b.err
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *requestBody) next() {
	kind, c, err := receive(b.st, true)
	switch {
	case err != nil:
		b.err = err // io.EOF is the end of the body; a stream that breaks has another
	case kind != kindBytes:
		b.err = errs.New("remote.Forward", "", errs.Invalid, "a message of an unknown kind")
	case len(c.s) > b.left:
		b.err = errs.New("remote.Forward", "", errs.TooLarge, "the body of the request is too long")
	default:
		b.rest = c.s
		b.left -= len(c.s)
	}
}

// Close implements io.Closer.
func (b *requestBody) Close() error {
	b.rest = ""
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	return nil
}

// responseWriter is an http.ResponseWriter onto a stream.
type responseWriter struct {
	out     sender
	header  http.Header
	started bool
	err     error // of sending the head
}

// serve has h answer r. A handler that gives up cuts the stream, so that what came is not taken for all of the response.
func (w *responseWriter) serve(h http.Handler, r *http.Request) (err error) {
	defer func() {
		switch fault := recover(); fault {
		case nil:
		case http.ErrAbortHandler:
			err = status.Error(codes.Aborted, "the response was cut off")
		default:
			panic(fault)
		}
	}()
	h.ServeHTTP(w, r)
	w.WriteHeader(http.StatusOK)
	if w.err != nil {
		return w.err
	}
	return w.out.flush()
}

// Header implements http.ResponseWriter.
func (w *responseWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. Interim responses are not carried.
func (w *responseWriter) WriteHeader(code int) {
	if w.started || code < 200 {
		return
	}
	w.started = true
	head := httpResponse{status: code, fields: fieldsOf(w.header)}
	if w.err = checkFields(head.fields); w.err != nil {
		w.err = errors.Join(w.err, refuse(w.out.st, w.err))
		return
	}
	c := coder{b: []byte{kindAnswer}}
	c.httpResponse(&head)
	w.err = w.out.st.SendMsg(plain(c.b))
}

// Write implements io.Writer.
func (w *responseWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.err != nil {
		return 0, w.err
	}
	return w.out.Write(p)
}

// Flush implements http.Flusher.
func (w *responseWriter) Flush() {
	w.WriteHeader(http.StatusOK)
	if w.err == nil {
		w.err = w.out.flush()
	}
}

var _ io.Writer = (*responseWriter)(nil)
