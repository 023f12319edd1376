// Package web is what the drivers of stores that speak HTTP share: a client with connections of its own, the identity of an
// endpoint, the kind that a status means, and whether a request that failed has left for the store; bodies of the length that was
// announced, listings that come in pages, uploads to services that have none, and removals one by one. It knows no store.
package web

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// NewClient returns a client with a pool of its own, so that a slow store does not use up another's connections. Its
// deadlines are for a peer that is gone; those of a request are its ctx's. It follows no redirect: what a request carries
// is for the host it was made for, and a store must not lead this process to another. Whoever made the context of a request is told
// when the store says that it is asked too much (ufs.SlowDown).
func NewClient() *http.Client {
	return &http.Client{
		Transport: &modest{Transport: http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 2 * time.Minute,
			ExpectContinueTimeout: time.Second,
			MaxIdleConnsPerHost:   128,
			IdleConnTimeout:       90 * time.Second,
			DisableCompression:    true, // a file stored compressed is handed out as it is
			WriteBufferSize:       64 << 10,
			ReadBufferSize:        64 << 10,
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// modest is a transport that passes on what a store says of being asked too much.
type modest struct{ http.Transport }

func (t *modest) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(r)
	if err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable) {
		ufs.SlowDown(r.Context(), RetryAfter(resp.Header, time.Now()))
	}
	return resp, err
}

// RetryAfter returns how long from now on a server wants not to be asked, 0 if its answer does not say.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// Service names the server of u, the same for each way to write it: names of this machine are one, and a default port is
// none. The path is not part of it.
func Service(u *url.URL) string {
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if ip := net.ParseIP(host); ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) || strings.HasSuffix(host, ".localhost") {
		host = "localhost"
	} else if ip != nil {
		host = ip.String()
	}
	if p := u.Port(); p != "" && p != "80" && p != "443" {
		host = net.JoinHostPort(host, p)
	}
	return host
}

// Endpoint parses the URL of a service. Errors: errs.Invalid, without the URL, which may hold a secret.
func Endpoint(op, raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errs.New(op, "", errs.Invalid, "the endpoint must be a URL like https://host:port")
	}
	return u, nil
}

// Kind returns what an answer's status means for the name it is about. A 404 is errs.NotExist, of whatever is missing.
func Kind(status int) errs.Kind {
	switch status {
	case http.StatusNotFound, http.StatusGone:
		return errs.NotExist
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return errs.Permission
	case http.StatusPreconditionFailed:
		return errs.Precondition
	case http.StatusConflict:
		return errs.Conflict
	case http.StatusRequestedRangeNotSatisfiable:
		return errs.Range
	case http.StatusRequestEntityTooLarge:
		return errs.TooLarge
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return errs.Unsupported
	case http.StatusInsufficientStorage:
		return errs.NoSpace
	}
	if status/100 == 4 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout {
		return errs.Invalid
	}
	return errs.Unavailable // 5xx, 429, 408, and redirects, which are not followed
}

// Line returns a server's words as one short line, for an error.
func Line(text string) string { return strings.Join(strings.Fields(fmt.Sprintf("%.300s", text)), " ") }

// Drain closes a body whose rest is not wanted, so that its connection stays of use if the rest is short.
func Drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	_ = body.Close()
}

// Sent tells of one request whether it got a connection.
type Sent struct{ sent atomic.Bool }

// Watch returns a ctx for the request that s is to tell of.
func (s *Sent) Watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { s.sent.Store(true) }})
}

// Unclear reports whether a request that failed may have been carried out: it was sent, and status is 0 for no answer, or that
// of a server which leaves it open. A proxy says 5xx of what was done behind it, and 408 of what may still be under way.
func (s *Sent) Unclear(status int) bool {
	return s.sent.Load() && status/100 != 3 && (status/100 != 4 || status == http.StatusRequestTimeout)
}

// Unsent returns err as that of a change which has not happened and will not (ufs.ErrUnsent).
func Unsent(err error) error { return &unsent{err} }

type unsent struct{ err error }

func (e *unsent) Error() string   { return e.err.Error() }
func (e *unsent) Unwrap() []error { return []error{ufs.ErrUnsent, e.err} }
