package webhdfs

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
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

// ticketKey is what tickets are signed with.
type ticketKey struct {
	own []byte // where no other is told

	mu  sync.Mutex
	key []byte    // as it was told last
	at  time.Time // when that was asked
}

// keyAge is for how long it is not asked again: another life of the cluster may have another one.
const keyAge = time.Minute

// get returns the key. Errors: those of core.Tickets, if it was never told.
func (k *ticketKey) get(ctx context.Context, from core.Tickets) ([]byte, error) {
	if from == nil {
		return k.own, nil
	}
	k.mu.Lock()
	key, at := k.key, time.Now()
	if key != nil {
		if at.Sub(k.at) < keyAge {
			k.mu.Unlock()
			return key, nil
		}
		k.at = at // who comes meanwhile takes the one that is known
	}
	k.mu.Unlock()
	told, err := from.TicketSecret(ctx)
	switch {
	case errors.Is(err, errs.Unsupported):
		told = k.own
	case err != nil && key != nil:
		return key, nil
	case err != nil:
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.key, k.at = told, at
	return told, nil
}

// seal returns the text of a ticket for name.
func (s *Server) seal(ctx context.Context, t ticket, name string) (string, error) {
	key, err := s.key.get(ctx, s.o.Tickets)
	if err != nil {
		return "", err
	}
	payload, _ := json.Marshal(t) // strings and numbers always marshal
	return base64.RawURLEncoding.EncodeToString(payload) + "." + base64.RawURLEncoding.EncodeToString(sign(key, payload, name)), nil
}

// unseal returns the ticket of a text that was sealed for name with the same key, unless its time is over.
func (s *Server) unseal(ctx context.Context, text, name string) (*ticket, error) {
	key, err := s.key.get(ctx, s.o.Tickets)
	if err != nil {
		return nil, err
	}
	refused := securityException("The redirect's ticket is not valid for %s; repeat the request without it", name)
	head, tail, _ := strings.Cut(text, ".")
	payload, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return nil, refused
	}
	mac, err := base64.RawURLEncoding.DecodeString(tail)
	if err != nil || !hmac.Equal(mac, sign(key, payload, name)) {
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

func sign(key, payload []byte, name string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(payload)
	h.Write([]byte{0})
	h.Write([]byte(name))
	return h.Sum(nil)
}

// admit lets a request with a ticket in: its user and parameters are the ticket's, but for the range, which clients move.
func (s *Server) admit(r *request, text string) error {
	t, err := s.unseal(r.Context(), text, r.name)
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
		t.Params = r.q.encode("readtype")
	}
	loc := s.base(r) + prefix + escape(r.name) + "?op=" + r.op.name
	if visible != "" {
		loc += "&" + visible
	}
	sealed, err := s.seal(r.Context(), t, r.name)
	if err != nil {
		return err
	}
	loc += "&ticket=" + sealed

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
