package s3api

import (
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// fields sets response headers without an allocation for each: their values share one slice.
type fields struct {
	h http.Header
	v []string
}

func (r *request) fields(n int) fields { return fields{r.out.Header(), make([]string, 0, n)} }

// set sets one header. name is written on the wire as it is given.
func (f *fields) set(name, value string) {
	f.v = append(f.v, value)
	n := len(f.v)
	f.h[name] = f.v[n-1 : n : n]
}

var (
	xmlType  = []string{"application/xml"}
	closing  = []string{"close"}
	oneSec   = []string{"1"}
	noSniff  = []string{"nosniff"}
	byteUnit = []string{"bytes"}
)

// begin writes the status line and the headers.
func (r *request) begin(status int) {
	r.status, r.answered = status, true
	r.out.WriteHeader(status)
}

// empty answers with a status and no body.
func (r *request) empty(status int) error {
	if status != http.StatusNoContent {
		r.out.Header()["Content-Length"] = zero
	}
	r.begin(status)
	return nil
}

var zero = []string{"0"}

// document answers 200 with an XML document, given in pieces.
func (r *request) document(pieces ...[]byte) error {
	length := 0
	for _, p := range pieces {
		length += len(p)
	}
	h := r.out.Header()
	h["Content-Type"] = xmlType
	h["Content-Length"] = []string{strconv.Itoa(length)}
	r.begin(http.StatusOK)
	for _, p := range pieces {
		if err := r.write(p); err != nil {
			return err
		}
	}
	return nil
}

func (r *request) write(body []byte) error {
	n, err := r.out.Write(body)
	r.sent += int64(n)
	return err
}

// bodyWriter is what a Reader writes an object to. It sends the status with the first byte, so that a store that fails
// before is still answered as an error, and hands io.ReaderFrom through, so that sendfile is.
type bodyWriter struct {
	r      *request
	status int
}

func (b *bodyWriter) start() {
	if !b.r.answered {
		b.r.begin(b.status)
	}
}

// Write implements io.Writer.
func (b *bodyWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b.start()
	n, err := b.r.out.Write(p)
	b.r.sent += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom.
func (b *bodyWriter) ReadFrom(src io.Reader) (int64, error) {
	b.start()
	var n int64
	var err error
	if rf, ok := b.r.out.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(src)
	} else {
		n, err = io.Copy(struct{ io.Writer }{b.r.out}, src)
	}
	b.r.sent += n
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (b *bodyWriter) Unwrap() http.ResponseWriter { return b.r.out }

// Header implements http.ResponseWriter.
func (b *bodyWriter) Header() http.Header { return b.r.out.Header() }

// WriteHeader implements http.ResponseWriter.
func (b *bodyWriter) WriteHeader(int) { b.start() }

// fail answers with the S3 wording of err. If part of the response is out, the connection is closed instead, which is how
// a client sees that a body is cut short.
func (s *Server) fail(r *request, err error) {
	e := toAPI(r.about, err)
	if r.answered {
		return
	}
	h := r.out.Header()
	for k := range h {
		switch k {
		case "X-Amz-Request-Id", "X-Amz-Id-2", "Server", "Connection":
		case "Etag", "ETag", "Last-Modified", "Cache-Control", "Expires", "X-Amz-Bucket-Region":
			if e.Status != http.StatusNotModified && k != "X-Amz-Bucket-Region" {
				delete(h, k)
			}
		case "Content-Range":
			if e.Status != http.StatusRequestedRangeNotSatisfiable {
				delete(h, k)
			}
		default:
			delete(h, k)
		}
	}
	if !r.body && r.http.ContentLength != 0 && r.http.ProtoMajor == 1 {
		h["Connection"] = closing // what is left of the body would be taken for the next request
	}
	if e.Status == http.StatusServiceUnavailable {
		h["Retry-After"] = oneSec
	}
	if e.Status == http.StatusNotModified || e.Status == statusClientGone {
		r.begin(e.Status)
		return
	}
	body := errorDocument(e, r)
	h["Content-Type"] = xmlType
	if r.http.Method == http.MethodHead {
		r.begin(e.Status)
		return
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	r.begin(e.Status)
	_ = r.write(body) // the client is gone if this fails; the access line has the cause
}

func errorDocument(e *apiError, r *request) []byte {
	x := newXML(256)
	x.open("Error")
	x.text("Code", e.Code)
	x.text("Message", e.Message)
	for _, p := range e.Detail {
		x.text(p.name, p.value)
	}
	switch e.Code {
	case "NoSuchBucket", "InvalidBucketName", "BucketNotEmpty", "BucketAlreadyExists", "BucketAlreadyOwnedByYou":
		x.text("BucketName", r.bucket)
	case "NoSuchKey":
		x.text("Key", r.key)
	case "NoSuchUpload":
		x.text("UploadId", r.query.Get("uploadId"))
	}
	x.text("Resource", rawPath(r.http))
	x.text("RequestId", r.id[0])
	x.text("HostId", r.out.Header().Get("X-Amz-Id-2"))
	x.close("Error")
	return x.b
}

// finish reports the request. Query strings are left out: they may hold signatures.
func (s *Server) finish(r *request, err error, start time.Time, d time.Duration) {
	op := ""
	if r.route != nil {
		op = r.route.op
	}
	if s.observe != nil {
		s.observe(core.Served{Op: op, Status: r.status, Sent: r.sent, Took: d, Cache: r.cache, Mount: r.mount})
	}
	level := slog.LevelInfo
	if r.status >= 500 && r.status != http.StatusNotImplemented {
		level = slog.LevelWarn
	}
	h := s.log.Handler()
	if !h.Enabled(r.ctx, level) {
		return
	}
	line := slog.NewRecord(start.Add(d), level, "request", 0) // not by way of s.log, which would look for who called it
	line.AddAttrs(slog.String("proto", "s3"), slog.String("op", op), slog.String("method", r.http.Method),
		slog.String("bucket", r.bucket), slog.String("key", r.key), slog.Int("status", r.status),
		slog.Int64("bytes", r.sent), slog.Duration("dur", d), slog.String("user", r.user.User), slog.String("req", r.id[0]))
	if err != nil {
		line.AddAttrs(slog.String("code", toAPI(r.about, err).Code), slog.String("kind", errs.KindOf(err).Error()),
			slog.String("err", err.Error()))
	}
	_ = h.Handle(r.ctx, line)
}
