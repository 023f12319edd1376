// Package webhdfsufs is the driver for HDFS over HTTP: webhdfs://host:port/path and, with TLS, swebhdfs://. It speaks to a name
// node, which sends clients on to datanodes, and to HttpFS, which answers by itself. What a store on HDFS is, how it stages and
// renames and what its versions are, is package hadoopfs's; here is the hadoopfs.Client of that protocol. It passes
// ufs/ufstest on a hadoopfs.Store.
//
// HttpFS cannot rename over what is there: hadoopfs replaces in two steps then.
// Source: https://hadoop.apache.org/docs/stable/hadoop-project-dist/hadoop-hdfs/WebHDFS.html
package webhdfsufs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/user"
	"path"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/hadoopfs"
	"github.com/sluicefs/sluice/ufs/web"
)

// Options are the settings of a client.
type Options struct {
	URL      string // of the server, "http://host:port", without a path
	User     string // whom the server takes us for without Kerberos and token; "": the user of the process
	Token    string // a delegation token, secret; it is not renewed
	Kerberos hadoopfs.Kerberos
}

// OpenURI is the ufs.Opener of the schemes "webhdfs" and "swebhdfs", with the options user, token, principal, keytab, ccache,
// krb5_conf, xattrs (false: keep no attributes) and create (true: a missing root is made when it is probed).
func OpenURI(_ context.Context, uri *url.URL, options map[string]string) (ufs.Store, error) {
	const op = "webhdfsufs.Open"
	err := ufs.CheckOptions(op, options, "user", "token", "principal", "keytab", "ccache", "krb5_conf", "xattrs", "create")
	if err != nil {
		return nil, err
	}
	xattrs, create := true, false
	for name, flag := range map[string]*bool{"xattrs": &xattrs, "create": &create} {
		if v, ok := options[name]; ok {
			if *flag, err = strconv.ParseBool(v); err != nil {
				return nil, errs.New(op, "", errs.Invalid, "the option "+name+" must be true or false")
			}
		}
	}
	if uri.Hostname() == "" {
		return nil, errs.New(op, uri.Redacted(), errs.Invalid, "write webhdfs://host:port/path")
	}
	scheme, host, port := "http", uri.Host, "9870"
	if uri.Scheme == "swebhdfs" {
		scheme, port = "https", "9871"
	}
	if uri.Port() == "" {
		host += ":" + port // of dfs.namenode.http-address and https-address
	}
	c, err := New(Options{
		URL: scheme + "://" + host, User: options["user"], Token: options["token"],
		Kerberos: hadoopfs.Kerberos{
			Principal: options["principal"], Keytab: options["keytab"], CCache: options["ccache"], Config: options["krb5_conf"],
		},
	})
	if err != nil {
		return nil, errs.E(op, "", errs.Invalid, err)
	}
	return hadoopfs.New(c, hadoopfs.Options{
		Kind: "webhdfs", Root: uri.Path, Base: uri.Scheme + "://" + host, NoAttrs: !xattrs, Create: create,
	})
}

// Client is a hadoopfs.Client that speaks WebHDFS.
type Client struct {
	o     Options
	http  *http.Client
	login *hadoopfs.Login

	renames atomic.Int32 // what RENAME understands: 0 not known, else plainRename or fullRename
}

// New returns a client, which connects when it is used. Errors: what is wrong with o.
func New(o Options) (*Client, error) {
	login, err := o.Kerberos.Login()
	if err != nil {
		return nil, err
	}
	if login != nil && o.Token != "" {
		return nil, errors.New("give either a token or Kerberos's options")
	}
	if o.User == "" && login == nil && o.Token == "" {
		u, err := user.Current()
		if err != nil {
			return nil, fmt.Errorf("the option user is needed: %w", err)
		}
		o.User = u.Username
	}
	return &Client{o: o, http: web.NewClient(), login: login}, nil
}

// Close implements hadoopfs.Client.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	if c.login != nil {
		c.login.Close()
	}
	return nil
}

// request is one operation of WebHDFS.
type request struct {
	method, op, path string
	params           url.Values
	change           bool // others see what it does: its guard is asked before it is sent
}

const api = "/webhdfs/v1"

// address returns the URL of q at the server.
func (c *Client) address(q request) string {
	v := url.Values{"op": {q.op}}
	for name, values := range q.params {
		v[name] = values
	}
	switch {
	case c.o.Token != "":
		v.Set("delegation", c.o.Token)
	case c.login == nil:
		v.Set("user.name", c.o.User)
	}
	var p strings.Builder
	for seg := range strings.SplitSeq(strings.TrimPrefix(q.path, "/"), "/") {
		p.WriteByte('/')
		p.WriteString(strings.ReplaceAll(url.PathEscape(seg), "+", "%2B")) // some servers take it for a space
	}
	return c.o.URL + api + p.String() + "?" + v.Encode()
}

// send sends a request to the server itself, and returns its answer whatever its status.
func (c *Client) send(ctx context.Context, q request) (*http.Response, error) {
	return c.exchange(ctx, q, c.address(q), nil)
}

// exchange sends q to address, with a body if it is not nil. No error of it has the address, which may hold a token.
func (c *Client) exchange(ctx context.Context, q request, address string, body io.Reader) (*http.Response, error) {
	op := "webhdfsufs." + q.op
	var sent web.Sent
	r, err := http.NewRequestWithContext(sent.Watch(ctx), q.method, address, body)
	if err != nil {
		return nil, errs.New(op, q.path, errs.Unavailable, "the server names an address that is none")
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/octet-stream")
	}
	if c.login != nil && strings.HasPrefix(address, c.o.URL+"/") {
		if err := c.login.Negotiate(r); err != nil {
			return nil, errs.E(op, q.path, errs.Permission, web.Unsent(err))
		}
	}
	if q.change {
		if err := ufs.Guard(ctx); err != nil {
			return nil, err
		}
	}
	resp, err := c.http.Do(r)
	if err == nil {
		return resp, nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return nil, cerr
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*errs.Error](err); ok { // of who gives the body
		return nil, e
	}
	if !sent.Unclear(0) {
		err = web.Unsent(err)
	}
	return nil, errs.E(op, q.path, errs.Unavailable, err)
}

// call sends q and returns the JSON document that it is answered with, nil for none.
func (c *Client) call(ctx context.Context, q request) ([]byte, error) {
	resp, err := c.send(ctx, q)
	if err != nil {
		return nil, err
	}
	return c.answer(ctx, q, resp)
}

// maxAnswer bounds a document: a page of names at the longest.
const maxAnswer = 64 << 20

// answer reads the answer of q. Errors: what the server says; errs.Unavailable for what is no answer of WebHDFS.
func (c *Client) answer(ctx context.Context, q request, resp *http.Response) ([]byte, error) {
	op := "webhdfsufs." + q.op
	defer web.Drain(resp.Body)
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		if cerr := ctx.Err(); cerr != nil {
			return nil, cerr
		}
		return nil, errs.E(op, q.path, errs.Unavailable, err)
	}
	if resp.StatusCode/100 == 2 {
		return b, nil
	}
	var doc struct {
		RemoteException struct {
			Exception     string `json:"exception"`
			JavaClassName string `json:"javaClassName"`
			Message       string `json:"message"`
		}
	}
	if json.Unmarshal(b, &doc) != nil || doc.RemoteException.Exception == "" {
		kind := web.Kind(resp.StatusCode)
		if kind == errs.NotExist { // of no file: it is no WebHDFS
			kind = errs.Unavailable
		}
		return nil, errs.New(op, q.path, kind, fmt.Sprintf("HTTP status %d without an answer of WebHDFS", resp.StatusCode))
	}
	e := doc.RemoteException
	kind := hadoopfs.KindOf(e.Exception)
	if resp.StatusCode == http.StatusUnauthorized {
		kind = errs.Permission
	}
	return nil, errs.New(op, q.path, kind, fmt.Sprintf("%s (HTTP %d): %s", e.Exception, resp.StatusCode, web.Line(e.Message)))
}

// document sends q and decodes its answer.
func (c *Client) document(ctx context.Context, q request, doc any) error {
	b, err := c.call(ctx, q)
	if err != nil {
		return err
	}
	defer ufs.Turn(ctx)()
	if err := json.Unmarshal(b, doc); err != nil {
		return errs.New("webhdfsufs."+q.op, q.path, errs.Unavailable, "the server's answer is not WebHDFS's JSON")
	}
	return nil
}

// elsewhere returns where an answer of the first of two steps sends the bytes' request, "" if nowhere. Errors:
// errs.Unavailable for a way out of TLS, which the token and the bytes must not take.
func (c *Client) elsewhere(q request, resp *http.Response) (string, error) {
	if resp.StatusCode/100 != 3 {
		return "", nil
	}
	defer web.Drain(resp.Body)
	op := "webhdfsufs." + q.op
	to, err := resp.Location()
	if err != nil || to.Scheme != "http" && to.Scheme != "https" || to.Host == "" {
		return "", errs.New(op, q.path, errs.Unavailable, "the server sends the request on to an address that is none")
	}
	if to.Scheme == "http" && strings.HasPrefix(c.o.URL, "https:") {
		return "", errs.New(op, q.path, errs.Unavailable, "the server sends the request on from https to http, which is not followed")
	}
	return to.String(), nil
}

// Open implements hadoopfs.Client.
func (c *Client) Open(ctx context.Context, path string, off, n int64) (io.ReadCloser, error) {
	q := request{method: http.MethodGet, op: "OPEN", path: path, params: url.Values{
		"offset": {strconv.FormatInt(off, 10)}, "length": {strconv.FormatInt(n, 10)},
	}}
	resp, err := c.send(ctx, q)
	if err != nil {
		return nil, err
	}
	to, err := c.elsewhere(q, resp)
	if err == nil && to != "" {
		resp, err = c.exchange(ctx, q, to, nil)
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		if _, err = c.answer(ctx, q, resp); err == nil {
			err = errs.New("webhdfsufs.OPEN", path, errs.Unavailable, fmt.Sprintf("HTTP status %d in place of the bytes", resp.StatusCode))
		}
		return nil, err
	}
	return &body{ctx: ctx, path: path, in: resp.Body}, nil
}

// body are the bytes of an answer.
type body struct {
	ctx  context.Context // of Open
	path string
	in   io.ReadCloser
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	if err == nil || err == io.EOF { //nolint:errorlint // as io.Reader has it
		return n, err
	}
	if cerr := b.ctx.Err(); cerr != nil {
		return n, cerr
	}
	return n, errs.E("webhdfsufs.OPEN", b.path, errs.Unavailable, err)
}

func (b *body) Close() error { return b.in.Close() }

// Create implements hadoopfs.Client. That the directory is missing would be told after the bytes only, or, by HttpFS, mended.
func (c *Client) Create(ctx context.Context, p string) (hadoopfs.Stream, error) {
	if _, err := c.Status(ctx, path.Dir(p)); err != nil {
		return nil, err
	}
	q := request{method: http.MethodPut, op: "CREATE", path: p, params: url.Values{
		"overwrite": {"false"}, "permission": {"644"}, "createparent": {"false"},
	}}
	resp, err := c.send(ctx, q)
	if err != nil {
		return nil, err
	}
	to, err := c.elsewhere(q, resp)
	if err != nil {
		return nil, err
	}
	if to == "" {
		if _, err = c.answer(ctx, q, resp); err == nil {
			err = errs.New("webhdfsufs.CREATE", p, errs.Unavailable, "the server does not say where the bytes are to be sent")
		}
		return nil, err
	}
	r, w := io.Pipe()
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{c: c, ctx: ctx, cancel: cancel, q: q, w: w, done: make(chan error, 1)}
	go func() {
		err := s.put(to, r)
		_ = r.CloseWithError(err) // Write fails with it; nil ends a pipe that is at its end
		s.done <- err
	}()
	return s, nil
}

// stream is a file that is being sent. Its request is made by a goroutine, which Finish and Abort wait for.
type stream struct {
	c      *Client
	ctx    context.Context
	cancel context.CancelCauseFunc
	q      request
	w      *io.PipeWriter
	done   chan error
	err    error // of Write
}

func (s *stream) put(to string, r io.Reader) error {
	resp, err := s.c.exchange(s.ctx, s.q, to, struct{ io.Reader }{r})
	if err != nil {
		return err
	}
	if _, err := s.c.answer(s.ctx, s.q, resp); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		return errs.New("webhdfsufs.CREATE", s.q.path, errs.Unavailable, fmt.Sprintf("HTTP status %d in place of 201", resp.StatusCode))
	}
	return nil
}

var errEnded = errors.New("the request ended before its bytes")

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		err = errs.E("webhdfsufs.CREATE", s.q.path, errs.Unavailable, errEnded)
	}
	if err != nil {
		s.err = err
	}
	return n, err
}

// Finish implements hadoopfs.Stream.
func (s *stream) Finish(ctx context.Context) error {
	defer s.cancel(nil)
	stop := context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })
	defer stop()
	if s.err != nil {
		_ = s.w.CloseWithError(s.err)
		<-s.done
		return s.err
	}
	_ = s.w.Close() // it never fails
	err := <-s.done
	if cerr := ctx.Err(); cerr != nil && err != nil {
		return cerr
	}
	return err
}

// Abort implements hadoopfs.Stream.
func (s *stream) Abort() {
	s.cancel(errEnded)
	_ = s.w.CloseWithError(errEnded)
	<-s.done
}
