package remote

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// The bounds of an HTTP request or response that is carried.
const (
	maxURI        = 8 << 10  // bytes of a request's URI
	maxFields     = 64       // header fields
	maxFieldBytes = 32 << 10 // of their names and values
	// MaxForwardBody is the greatest request body in bytes that is carried. The bodies of responses have no bound: they come
	// as fast as they are read.
	MaxForwardBody = 64 << 20
)

// Tunnel is an http.RoundTripper that has another process of the cluster answer requests, as the principal of the request's
// context: with ServerOptions.Admin of the leading master, or with Switch.Local of the one process that it goes to.
type Tunnel struct {
	c    *Client
	addr string
}

// Tunnel returns a tunnel to the process that others reach at addr, whoever leads; "" is the leading master, whichever it is
// at the time of each request.
func (c *Client) Tunnel(addr string) *Tunnel { return &Tunnel{c, addr} }

// field is a header field of HTTP.
type field struct{ name, value string }

func (c *coder) field(f *field) {
	text(c, &f.name)
	text(c, &f.value)
}

// httpRequest is a request without its body.
type httpRequest struct {
	here   bool // for the process asked itself, not for the leader
	method string
	uri    string
	fields []field
	length int64 // of the body; -1: not known
}

func (c *coder) httpRequest(r *httpRequest) {
	c.flags(&r.here)
	text(c, &r.method)
	text(c, &r.uri)
	list(c, &r.fields, (*coder).field)
	c.varint(&r.length)
}

// httpResponse is a response without its body.
type httpResponse struct {
	status int
	fields []field
}

func (c *coder) httpResponse(r *httpResponse) {
	c.int(&r.status)
	list(c, &r.fields, (*coder).field)
}

// dropped are the header fields that concern one connection only, or prove who calls, which has been decided.
// Source: RFC 9110, 7.6.1.
var dropped = []string{"Authorization", "Connection", "Cookie", "Expect", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// fieldsOf returns the fields of h that travel, in order of their names.
func fieldsOf(h http.Header) (all []field) {
	for name, values := range h {
		if slices.Contains(dropped, http.CanonicalHeaderKey(name)) {
			continue
		}
		for _, v := range values {
			all = append(all, field{name, v})
		}
	}
	slices.SortStableFunc(all, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return all
}

func headerOf(all []field) http.Header {
	h := http.Header{}
	for _, f := range all {
		h.Add(f.name, f.value)
	}
	return h
}

// checkFields refuses more than is carried, and what is no header field. Errors: errs.Invalid; errs.TooLarge.
func checkFields(all []field) error {
	size := 0
	for _, f := range all {
		if size += len(f.name) + len(f.value); !validField(f) || slices.Contains(dropped, http.CanonicalHeaderKey(f.name)) {
			return errs.New("remote.Forward", "", errs.Invalid, "a header field that cannot be carried")
		}
	}
	if len(all) > maxFields || size > maxFieldBytes {
		return errs.New("remote.Forward", "", errs.TooLarge, "the header is too long")
	}
	return nil
}

// validField reports whether f can be a header field. Source: RFC 9110, 5.1 and 5.5.
func validField(f field) bool {
	for i := range len(f.name) {
		if !tokenByte(f.name[i]) {
			return false
		}
	}
	for i := range len(f.value) {
		if b := f.value[i]; b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return f.name != ""
}

// tokenByte reports whether b can be in a token. Source: RFC 9110, 5.6.2.
func tokenByte(b byte) bool {
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0
}

// check refuses what is no request, or more of one than is carried. Errors: errs.Invalid; errs.TooLarge.
func (r *httpRequest) check() error {
	if r.method == "" || len(r.method) > 32 || !validField(field{r.method, ""}) || !strings.HasPrefix(r.uri, "/") || r.length < -1 {
		return errs.New("remote.Forward", "", errs.Invalid, "what is to be carried is not a request")
	}
	if _, err := url.ParseRequestURI(r.uri); err != nil {
		return errs.New("remote.Forward", "", errs.Invalid, "the URI of the request cannot be parsed")
	}
	if len(r.uri) > maxURI || r.length > MaxForwardBody {
		return errs.New("remote.Forward", "", errs.TooLarge, "the URI or the body of the request is too long")
	}
	return checkFields(r.fields)
}

// RoundTrip implements http.RoundTripper. A request that reached nobody is sent again, to another leader if one is named,
// for the time of Patience; one that was answered by nobody after its body had begun is not. Errors: errs.Unavailable;
// errs.Unsupported of a process of an earlier release; errs.TooLarge; errs.Invalid; the context's.
func (t *Tunnel) RoundTrip(r *http.Request) (*http.Response, error) {
	body := r.Body
	if body == nil {
		body = http.NoBody
	}
	head := httpRequest{here: t.addr != "", method: r.Method, uri: r.URL.RequestURI(), fields: fieldsOf(r.Header), length: r.ContentLength}
	if head.method == "" {
		head.method = http.MethodGet
	}
	if head.length == 0 && body != http.NoBody {
		head.length = -1
	}
	if err := head.check(); err != nil {
		return nil, both(err, body.Close())
	}
	f := &forwarded{t: t, ctx: r.Context(), body: body}
	if err := f.start(&head); err != nil {
		return nil, both(err, body.Close())
	}
	f.sent = make(chan struct{})
	go f.send()
	resp, err := f.answer(r)
	if err != nil {
		f.end()
		return nil, err
	}
	return resp, nil
}

// forwarded is a request that is being carried, and then the body of its response.
type forwarded struct {
	t      *Tunnel
	ctx    context.Context // of the request
	cancel context.CancelFunc
	st     grpc.ClientStream
	body   io.ReadCloser
	sent   chan struct{} // closed when send has returned
	m      message
	rest   [][]byte // what is unread of m
	err    error    // what Read returns once rest is empty
}

// start has a process accept the request.
func (f *forwarded) start(head *httpRequest) error {
	c := f.t.c
	if f.t.addr == "" {
		return c.start(f.ctx, "Forward", core.Path{}, func(l *link) (*refusal, error) { return f.begin(l.conn, head) })
	}
	conn, err := c.connection(f.t.addr)
	if err != nil {
		return err
	}
	no, err := f.begin(conn, head)
	switch {
	case err != nil && f.ctx.Err() != nil:
		return context.Cause(f.ctx)
	case err != nil:
		return unanswered("remote.Forward", f.t.addr, false, err)
	case no == nil:
		return nil
	case no.kind == kindFault:
		c.fault(&no.c, &err)
		return err
	}
	return broken(errors.New("a message of an unknown kind"))
}

// fault reads an error off the end of a message.
func (*Client) fault(in *coder, err *error) {
	in.fault(err)
	if bad := in.finish(); bad != nil {
		*err = broken(bad)
	}
}

// begin offers the request on a stream of its own.
func (f *forwarded) begin(conn *connection, head *httpRequest) (no *refusal, err error) {
	ctx, cancel := context.WithCancel(f.ctx)
	defer func() {
		if err != nil || no != nil {
			cancel()
		}
	}()
	desc := &grpc.StreamDesc{StreamName: "Forward", ServerStreams: true, ClientStreams: true}
	st, err := conn.bytes.NewStream(ctx, desc, forwardMethod)
	if err != nil {
		return nil, err
	}
	h := header{principal: f.t.c.principalOf(f.ctx)}
	h.set(f.ctx)
	ask := coder{b: []byte{kindOpen}}
	ask.header(&h)
	ask.httpRequest(head)
	if err := st.SendMsg(plain(ask.b)); err != nil && err != io.EOF {
		return nil, err
	}
	kind, c, err := receive(st, true)
	if err != nil {
		return nil, err
	}
	if kind != kindOpen {
		return &refusal{kind, c}, nil
	}
	f.st, f.cancel = st, cancel
	return nil, c.finish()
}

// send sends the body, after the word that makes the process begin. What goes wrong shows in the answer that does not come.
func (f *forwarded) send() {
	defer close(f.sent)
	defer f.body.Close()
	if f.st.SendMsg(plain([]byte{kindGo})) != nil {
		return
	}
	if f.body != http.NoBody {
		out := sender{st: f.st, pool: f.t.c.buffers, left: chunk}
		defer out.drop()
		if _, err := io.Copy(&out, f.body); err != nil || out.flush() != nil {
			f.cancel() // who answers must not take what came for all of it
			return
		}
	}
	_ = f.st.CloseSend() // never fails
}

// answer waits for the response.
func (f *forwarded) answer(r *http.Request) (*http.Response, error) {
	kind, c, err := receive(f.st, true)
	switch {
	case err != nil && f.ctx.Err() != nil:
		return nil, context.Cause(f.ctx)
	case err != nil:
		return nil, unanswered("remote.Forward", f.t.addr, r.Method != http.MethodGet && r.Method != http.MethodHead, err)
	case kind == kindFault:
		f.t.c.fault(&c, &err)
		return nil, err
	}
	var head httpResponse
	c.httpResponse(&head)
	if err := c.finish(); err != nil || kind != kindAnswer || head.status < 200 || head.status > 999 || checkFields(head.fields) != nil {
		return nil, broken(errors.New("it is not a response"))
	}
	resp := &http.Response{
		Status: strconv.Itoa(head.status) + " " + http.StatusText(head.status), StatusCode: head.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: headerOf(head.fields), Body: f, ContentLength: -1, Request: r,
	}
	if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		resp.ContentLength = n
	}
	return resp, nil
}

// Read implements io.Reader: it reads the body of the response.
func (f *forwarded) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(f.rest) == 0 {
		if f.err == nil {
			f.err = f.next()
		}
		if f.err != nil {
			return 0, f.err
		}
	}
	k := copy(p, f.rest[0])
	if f.rest[0] = f.rest[0][k:]; len(f.rest[0]) == 0 {
		f.rest = f.rest[1:]
	}
	return k, nil
}

// next receives what comes next: bytes, or the error with which the body ends, io.EOF at the end.
func (f *forwarded) next() error {
	f.m.free()
	f.rest = f.rest[:0]
	err := f.st.RecvMsg(&f.m)
	switch {
	case err == io.EOF:
		return io.EOF
	case err != nil && f.ctx.Err() != nil:
		return context.Cause(f.ctx)
	case err != nil:
		return errs.E("remote.Forward", f.t.addr, errs.Unavailable, err)
	case f.m.kind() != kindBytes:
		f.m.free()
		return broken(errors.New("a message of an unknown kind"))
	}
	return f.m.body(func(b []byte) error { f.rest = append(f.rest, b); return nil })
}

// Close implements io.Closer. The process stops answering.
func (f *forwarded) Close() error {
	f.end()
	f.m.free()
	f.rest = nil
	if f.err == nil {
		f.err = errs.New("remote.Forward", "", errs.Invalid, "the body is closed")
	}
	return nil
}

// end ends the stream, and waits for what sends the request's body, which is the caller's again then: for a moment, since a
// body that is stuck is not this package's to free.
func (f *forwarded) end() {
	f.cancel()
	wait := time.NewTimer(f.t.c.o.Silence)
	defer wait.Stop()
	select {
	case <-f.sent:
	case <-wait.C:
	}
}
