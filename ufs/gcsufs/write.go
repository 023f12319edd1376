package gcsufs

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the service's checksum is an MD5
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// chunk is the size of what is sent at once of a resumable upload, a multiple of 256 KiB as the service wants it, and how much
// of a file is collected before it becomes one. What is shorter is sent whole at Commit.
const chunk = 8 << 20

// writer collects one file, and sends what is too long for that to an upload that is visible when it ends.
type writer struct {
	s       *Store
	ctx     context.Context // of Create: when it ends, so does the write
	name    string
	size    int64 // bytes announced, or -1
	o       ufs.CreateOptions
	n       int64        // bytes written
	buf     bytes.Buffer // what is not sent
	sum     hash.Hash    // MD5 of what was written
	session *url.URL     // the upload, nil if there is none
	sent    int64        // bytes that it has
	failed  error        // why sending failed
	ended   bool
}

// Create implements ufs.Store.
func (s *Store) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (ufs.Writer, error) {
	const op = "gcsufs.Create"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	if size > maxObject {
		return nil, errs.New(op, name, errs.TooLarge, fmt.Sprintf("Cloud Storage holds objects of up to %d bytes", int64(maxObject)))
	}
	return &writer{s: s, ctx: ctx, name: name, size: size, o: o, sum: md5.New()}, nil //nolint:gosec // see above
}

func (w *writer) Write(p []byte) (int, error) {
	const op = "gcsufs.Write"
	if err := w.usable(op, w.ctx); err != nil {
		return 0, err
	}
	if w.size >= 0 && w.n+int64(len(p)) > w.size {
		return 0, errs.New(op, w.name, errs.Invalid, fmt.Sprintf("more than the announced %d bytes were written", w.size))
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), 1<<20) // so that a large slice is not held twice
		w.buf.Write(rest[:n])
		w.sum.Write(rest[:n])
		w.n += int64(n)
		rest = rest[n:]
		if w.buf.Len() > chunk {
			if w.failed = w.sendChunk(op); w.failed != nil {
				return len(p) - len(rest), w.failed
			}
		}
	}
	return len(p), nil
}

// query returns the query of a request that makes the object by an upload of the given type.
func (w *writer) query(uploadType string) url.Values {
	q := url.Values{"uploadType": {uploadType}, "name": {w.s.prefix + w.name}, "projection": {"noAcl"}}
	condition(q, w.o)
	return q
}

// sendChunk sends the next collected bytes to the upload, which it begins first if need be.
func (w *writer) sendChunk(op string) error {
	if w.session == nil {
		r := encode(w.o.Attr)
		if w.o.MD5 != nil {
			r.MD5 = base64.StdEncoding.EncodeToString(w.o.MD5)
		}
		answer, err := w.s.send(w.ctx, call{method: http.MethodPost, path: "/o", upload: true, query: w.query("resumable"), json: r})
		if err != nil {
			return judged(gone(fail(w.ctx, op, w.name, err)), w.o)
		}
		web.Drain(answer.Body)
		at, err := url.Parse(answer.Header.Get("Location"))
		if err != nil || at.RawQuery == "" {
			return errs.New(op, w.name, errs.Unavailable, "the service's answer holds no upload")
		}
		// The token goes to the service alone, whatever it is called by those behind it.
		w.session = &url.URL{Scheme: w.s.at.Scheme, Host: w.s.at.Host, Path: at.Path, RawPath: at.RawPath, RawQuery: at.RawQuery}
	}
	b := w.buf.Next(chunk)
	for len(b) > 0 { // the service may take less than it is sent
		c := call{method: http.MethodPut, at: w.session, raw: b, header: http.Header{
			"Content-Range": {fmt.Sprintf("bytes %d-%d/*", w.sent, w.sent+int64(len(b))-1)},
		}}
		answer, err := w.s.send(w.ctx, c)
		if err != nil {
			return judged(gone(fail(w.ctx, op, w.name, err)), w.o)
		}
		web.Drain(answer.Body)
		if answer.StatusCode != http.StatusPermanentRedirect {
			return errs.New(op, w.name, errs.Unavailable, "the service ended the upload before it had the whole body")
		}
		_, to, _ := strings.Cut(answer.Header.Get("Range"), "-")
		last, err := strconv.ParseInt(to, 10, 64)
		if took := last + 1 - w.sent; err != nil || took <= 0 || took > int64(len(b)) {
			return errs.New(op, w.name, errs.Unavailable, "the service took nothing of a part of the upload")
		} else {
			b, w.sent = b[took:], last+1
		}
	}
	return nil
}

// Token implements ufs.Writer: what a crash leaves behind is the service's to drop, after a week.
func (w *writer) Token() string { return "" }

// SetAttr implements ufs.Writer. An upload takes attributes before the bytes.
func (w *writer) SetAttr(a ufs.Attr) error {
	const op = "gcsufs.SetAttr"
	if w.session != nil {
		return errs.New(op, w.name, errs.Unsupported, "the attributes have been sent ahead of the bytes")
	}
	w.o.Attr = a
	return nil
}

func (w *writer) Commit(ctx context.Context) (ufs.Info, error) {
	const op = "gcsufs.Commit"
	err := w.usable(op, ctx)
	if err == nil && w.size >= 0 && w.n != w.size {
		err = errs.New(op, w.name, errs.Invalid, fmt.Sprintf("%d bytes were announced, %d written", w.size, w.n))
	}
	sum := w.sum.Sum(nil)
	if err == nil && w.o.MD5 != nil && !bytes.Equal(sum, w.o.MD5) {
		err = errs.New(op, w.name, errs.BadDigest, "the bytes have another MD5 than was announced")
	}
	if err != nil {
		_ = w.Abort()
		return ufs.Info{}, err
	}
	var r resource
	if w.session == nil {
		r, err = w.put(ctx, op, sum)
	} else {
		c := call{method: http.MethodPut, at: w.session, raw: w.buf.Bytes(), header: http.Header{
			"Content-Range": {fmt.Sprintf("bytes %d-%d/%d", w.sent, w.n-1, w.n)},
			// The service compares before it shows the object.
			"X-Goog-Hash": {"md5=" + base64.StdEncoding.EncodeToString(sum)},
		}}
		err = damaged(w.s.change(ctx, op, w.name, c, &r))
	}
	w.buf = bytes.Buffer{}
	if err != nil {
		_ = w.Abort() // what it cannot drop is the service's to
		return ufs.Info{}, judged(gone(err), w.o)
	}
	w.ended = true
	in, err := described(op, w.name, &r)
	if err == nil && (in.Size != w.n || r.MD5 != "" && r.MD5 != base64.StdEncoding.EncodeToString(sum)) {
		err = errs.New(op, w.name, errs.Unavailable, "other bytes were stored than were sent")
	}
	return in, err
}

// damaged names what the service refuses of a request whose bytes carry their MD5 and which is well-formed else: they were
// damaged on the way, and nothing was stored.
func damaged(err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok && e.Kind == errs.Invalid {
		return errs.E(e.Op, e.Name, errs.Unavailable, e.Err)
	}
	return err
}

// put sends the whole file in one request, in which its attributes and its MD5 go first.
func (w *writer) put(ctx context.Context, op string, sum []byte) (r resource, err error) {
	o := encode(w.o.Attr)
	o.MD5 = base64.StdEncoding.EncodeToString(sum)
	first, err := json.Marshal(o)
	if err != nil {
		return r, errs.E(op, w.name, errs.Invalid, err)
	}
	kind := o.Type
	if kind == "" || strings.ContainsAny(kind, "\r\n") {
		kind = "application/octet-stream"
	}
	var body bytes.Buffer
	m := multipart.NewWriter(&body) // a buffer's Write does not fail
	for _, part := range []struct {
		kind string
		b    []byte
	}{{"application/json; charset=utf-8", first}, {kind, w.buf.Bytes()}} {
		p, _ := m.CreatePart(textproto.MIMEHeader{"Content-Type": {part.kind}})
		_, _ = p.Write(part.b)
	}
	_ = m.Close()
	err = w.s.change(ctx, op, w.name, call{
		method: http.MethodPost, path: "/o", upload: true, query: w.query("multipart"), raw: body.Bytes(),
		header: http.Header{"Content-Type": {"multipart/related; boundary=" + m.Boundary()}},
	}, &r)
	return r, err
}

// Abort drops what is collected, and the upload.
func (w *writer) Abort() error {
	if w.ended {
		return nil
	}
	w.ended = true
	w.buf = bytes.Buffer{}
	if w.session == nil {
		return nil
	}
	ctx, cancel := ufs.Detached(w.ctx)
	defer cancel()
	answer, err := w.s.send(ctx, call{method: http.MethodDelete, at: w.session})
	if err == nil {
		web.Drain(answer.Body)
		return nil
	}
	// The service says 499 of an upload that it has dropped, and keeps those that it was not asked about for a week.
	if r, ok := errors.AsType[*refusal](err); ok && r.status/100 == 4 {
		return nil
	}
	return fail(ctx, "gcsufs.Abort", w.name, err)
}

func (w *writer) usable(op string, ctx context.Context) error {
	return ufs.Usable(op, w.name, w.ended, w.ctx, ctx, w.failed)
}
