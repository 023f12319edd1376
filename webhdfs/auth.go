package webhdfs

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// anonymousUser is who a request without a name acts for under simple authentication.
// Source: Hadoop's hadoop.http.staticuser.user.
const anonymousUser = "dr.who"

// userName is what HDFS takes for a user name. Source: dfs.webhdfs.user.provider.user.pattern.
var userName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9._-]*[$]?$`)

// guard refuses what a web page could make a browser on this machine send.
func (s *Server) guard(r *request) error {
	if !s.o.LoopbackOnly {
		return nil
	}
	if r.Header.Get("Origin") != "" {
		return securityException("Requests of web pages (with an Origin header) are refused where user.name is trusted")
	}
	host := hostname(r.Host)
	if host == "localhost" || host != "" && host == hostname(s.advertised()) {
		return nil
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsLoopback() {
		return nil
	}
	return securityException("The Host %q is neither loopback nor the advertised name; set webhdfs.advertise, or an"+
		" authentication other than that of loopback", r.Host)
}

// hostname returns the host of "host:port" in lower case, without brackets and without the root's dot.
func hostname(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// authenticate finds out who the request acts for: the ticket's user in step two, else the one who presents credentials.
func (s *Server) authenticate(r *request) (err error) {
	if text := r.q.text("ticket"); text != "" {
		return s.admit(r, text)
	}
	switch {
	case r.q.text("delegation") != "":
		return securityException("Failed to obtain user group information: org.apache.hadoop.security.token." +
			"SecretManager$InvalidToken: delegation tokens are not issued here")
	case s.o.Simple:
		r.who, err = s.named(r)
	default:
		r.who, err = s.basic(r)
	}
	if err != nil {
		return err
	}
	r.who = s.raise(r.who)
	if doas := r.q.text("doas"); doas != "" && doas != r.who.User {
		return securityException("Failed to obtain user group information: org.apache.hadoop.security.authorize."+
			"AuthorizationException: User: %s is not allowed to impersonate %s", r.who.User, doas)
	}
	return nil
}

// named trusts the request's user.name.
func (s *Server) named(r *request) (core.Principal, error) {
	name := r.q.text("user.name")
	switch {
	case name == "":
		name = anonymousUser
	case !userName.MatchString(name):
		return core.Principal{}, illegalArgument(`Invalid value for webhdfs parameter "user.name": Invalid value: `+
			`%q does not belong to the domain %s`, name, userName)
	}
	return s.o.Authenticator.User(r.Context(), name)
}

// raise makes the superuser's principal one that passes every check.
func (s *Server) raise(p core.Principal) core.Principal {
	p.Super = p.Super || s.o.Superuser != "" && p.User == s.o.Superuser
	return p
}

// basic checks an access key pair.
func (s *Server) basic(r *request) (core.Principal, error) {
	key, given, ok := r.BasicAuth()
	if !ok {
		return core.Principal{}, unauthenticated("Authentication required: HTTP Basic with an access key and its secret")
	}
	want, p, err := s.o.Authenticator.Secret(r.Context(), key)
	if err != nil && !errors.Is(err, errs.NotExist) {
		return core.Principal{}, err
	}
	// Digests have one length, so that the comparison tells nothing of the secret's.
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(want))
	if same := subtle.ConstantTimeCompare(a[:], b[:]) == 1; err != nil || !same || want == "" {
		return core.Principal{}, unauthenticated("Authentication failed: the access key or its secret is wrong")
	}
	return p, nil
}

func unauthenticated(msg string) error {
	return &remoteError{status: http.StatusUnauthorized, class: classAccessControl, msg: msg}
}

// maxAge returns how old an answer the request accepts.
func maxAge(h http.Header) (age core.MaxAge) {
	for _, line := range h.Values("Cache-Control") {
		for d := range strings.SplitSeq(strings.ToLower(line), ",") {
			name, v, _ := strings.Cut(strings.TrimSpace(d), "=")
			switch name {
			case "no-cache":
				age.Set, age.Seconds = true, 0
			case "max-age":
				if n, err := strconv.ParseInt(v, 10, 64); err == nil && n >= 0 {
					age.Set, age.Seconds = true, n
				}
			case "only-if-cached":
				age.OnlyIfCached = true
			}
		}
	}
	return age
}
