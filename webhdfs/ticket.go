package webhdfs

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

// ticketLife is how long a redirect can be followed. Readers seek in a file, and writers append to it, for as long as
// their job runs, with one URL. A ticket gives no right but its user's: rights are judged again when it is used.
const ticketLife = 24 * time.Hour

// ticket says what a step two may do, and for whom. It is bound to its name and needs no state at the gateway, so that
// any gateway with the same secret can honour it.
//
// It travels as base64url(JSON) "." base64url(HMAC-SHA256 of the JSON, a NUL byte and the name).
type ticket struct {
	Op      string `json:"o"`
	User    string `json:"u"`
	Key     string `json:"k,omitempty"` // the access key that step one authenticated with
	ID      uint64 `json:"i,omitempty"` // of the file; 0 if it need not exist or may change its number
	Params  string `json:"q,omitempty"` // the operation's parameters, as a query
	Expires int64  `json:"e"`           // seconds since 1970
}

// seal returns the text of a ticket for name.
func (s *Server) seal(t ticket, name string) string {
	payload, _ := json.Marshal(t) // strings and numbers always marshal
	return base64.RawURLEncoding.EncodeToString(payload) + "." + base64.RawURLEncoding.EncodeToString(s.sign(payload, name))
}

// unseal returns the ticket of a text that this server sealed for name, unless its time is over.
func (s *Server) unseal(text, name string) (*ticket, error) {
	refused := securityException("The redirect's ticket is not valid for %s; repeat the request without it", name)
	head, tail, _ := strings.Cut(text, ".")
	payload, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return nil, refused
	}
	mac, err := base64.RawURLEncoding.DecodeString(tail)
	if err != nil || !hmac.Equal(mac, s.sign(payload, name)) {
		return nil, refused
	}
	t := &ticket{}
	if err := json.Unmarshal(payload, t); err != nil {
		return nil, refused
	}
	if s.now().Unix() > t.Expires {
		return nil, securityException("The redirect's ticket for %s has expired; repeat the request without it", name)
	}
	return t, nil
}

func (s *Server) sign(payload []byte, name string) []byte {
	h := hmac.New(sha256.New, s.o.Secret)
	h.Write(payload)
	h.Write([]byte{0})
	h.Write([]byte(name))
	return h.Sum(nil)
}

// admit lets a request with a ticket in: its user and parameters are the ticket's, but for the range, which clients move.
func (s *Server) admit(r *request, text string) error {
	t, err := s.unseal(text, r.name)
	if err != nil {
		return err
	}
	if t.Op != r.op.name {
		return securityException("The redirect's ticket is for %s, not for %s", t.Op, r.op.name)
	}
	bound, err := parseQuery(t.Params)
	if err != nil {
		return err
	}
	for _, name := range []string{"offset", "length"} {
		if v, ok := r.q.values[name]; ok {
			bound.values[name] = v
		}
	}
	r.q, r.ticket = bound, t
	if t.Key == "" {
		r.who, err = s.o.Authenticator.User(r.Context(), t.User)
	} else if _, r.who, err = s.o.Authenticator.Secret(r.Context(), t.Key); errors.Is(err, errs.NotExist) {
		// The key is looked up again so that a revoked one ends its tickets.
		return securityException("The access key of the redirect's ticket does not exist any more")
	}
	r.who = s.raise(r.who)
	return err
}

// redirect ends step one: 307 with the URL of step two, or the URL as JSON for clients that ask for noredirect=true. A
// body that came along is not read; curl sends it again.
func (s *Server) redirect(w http.ResponseWriter, r *request, id uint64) error {
	names := strings.Fields(r.op.params)
	t := ticket{
		Op: r.op.name, User: r.who.User, Key: r.who.AccessKey, ID: id,
		Params: r.q.encode(names...), Expires: s.now().Add(ticketLife).Unix(),
	}
	// The range stays outside the ticket: Java's client cuts "offset=" out of the URL and appends its own.
	visible := r.q.encode("offset", "length")
	if r.op.name == "OPEN" {
		t.Params = ""
	}
	loc := s.base(r) + prefix + escape(r.name) + "?op=" + r.op.name
	if visible != "" {
		loc += "&" + visible
	}
	loc += "&ticket=" + s.seal(t, r.name)

	quiet := r.q.boolean("noredirect", false)
	if r.q.err != nil {
		return r.q.err
	}
	if quiet {
		writeJSON(w, r, http.StatusOK, map[string]string{"Location": loc})
		return nil
	}
	w.Header().Set("Location", loc)
	writeEmpty(w, r, http.StatusTemporaryRedirect)
	return nil
}

// advertised returns the host and port of Options.Advertise, "" if there is none.
func (s *Server) advertised() string {
	_, host, ok := strings.Cut(s.o.Advertise, "://")
	if !ok {
		host = s.o.Advertise
	}
	return strings.TrimSuffix(host, "/")
}

// base returns scheme, host and port of step two. The port is spelled out, since proxies that rewrite Location look for it.
func (s *Server) base(r *request) string {
	scheme, _, ok := strings.Cut(s.o.Advertise, "://")
	if !ok {
		scheme = "http"
		if r.TLS != nil {
			scheme = "https"
		}
	}
	host := s.advertised()
	if host == "" {
		host = r.Host
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		port := "80"
		if scheme == "https" {
			port = "443"
		}
		host = net.JoinHostPort(strings.Trim(host, "[]"), port)
	}
	return scheme + "://" + host
}
