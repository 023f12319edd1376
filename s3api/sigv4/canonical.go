package sigv4

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxParams bounds the query parameters of a request; S3 operations take a dozen.
const maxParams = 1000

// target is the request line's target as it is signed.
type target struct {
	rawPath string  // as sent
	path    string  // in S3's canonical form
	params  []param // sorted
}

// param is a query parameter in canonical (percent-encoded) form.
type param struct{ name, value string }

// parseTarget reads the target from the raw request line: a decoded or cleaned path is not what was signed.
func parseTarget(r *http.Request) (target, error) {
	raw := r.RequestURI
	if !strings.HasPrefix(raw, "/") { // absolute form; r.Host already comes from it
		_, rest, ok := strings.Cut(raw, "://")
		if !ok {
			return target{}, invalidURI("it is neither a path nor an absolute URI")
		}
		raw = "/"
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			raw = rest[i:]
		}
	}
	path, query, _ := strings.Cut(raw, "?")
	t := target{rawPath: path}
	var ok bool
	if t.path, ok = canonicalForm(path, true); !ok {
		return target{}, invalidURI("a percent escape in the path is malformed")
	}
	if t.path == "" {
		t.path = "/"
	}
	var err error
	t.params, err = parseQuery(query)
	return t, err
}

func parseQuery(query string) ([]param, error) {
	if query == "" {
		return nil, nil
	}
	n := strings.Count(query, "&") + 1
	if n > maxParams {
		return nil, invalidURI("it has more than " + strconv.Itoa(maxParams) + " query parameters")
	}
	params := make([]param, 0, n)
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, okName := canonicalForm(name, false)
		value, okValue := canonicalForm(value, false)
		if !okName || !okValue {
			return nil, invalidURI("a percent escape in the query is malformed")
		}
		params = append(params, param{name, value})
	}
	slices.SortFunc(params, func(a, b param) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.value, b.value))
	})
	return params, nil
}

// get returns the decoded value of the parameter name and how often it occurs. name has no byte that is escaped.
func (t *target) get(name string) (value string, n int) {
	for _, p := range t.params {
		if p.name == name {
			value, _ = url.PathUnescape(p.value) // in canonical form every escape is well-formed
			n++
		}
	}
	return value, n
}

const upperHex = "0123456789ABCDEF"

// canonicalForm decodes s and encodes it again as S3 does: every byte outside the unreserved set becomes %XX. In a path
// the slash stays; in a query + is a space. ok is false if an escape of s is malformed.
func canonicalForm(s string, path bool) (canonical string, ok bool) {
	i := 0
	for i < len(s) && plain(s[i], path) {
		i++
	}
	if i == len(s) {
		return s, true
	}
	out := make([]byte, i, 3*len(s)-2*i)
	copy(out, s)
	for ; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '+' && !path:
			c = ' '
		case c == '%':
			if i+2 >= len(s) {
				return "", false
			}
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			c = byte(hi<<4 | lo)
			i += 2
		}
		if plain(c, path) {
			out = append(out, c)
		} else {
			out = append(out, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return string(out), true
}

// plain reports whether c stays unescaped: RFC 3986's unreserved characters, and the slash in a path.
func plain(c byte, path bool) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
		return true
	}
	return c == '/' && path
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// appendCanonical appends the canonical request with path as its URI.
func appendCanonical(b []byte, r *http.Request, t *target, c *claim, path string) []byte {
	b = append(b, r.Method...)
	b = append(b, '\n')
	b = append(b, path...)
	b = append(b, '\n')
	first := true
	for _, p := range t.params {
		if c.typ == Presigned && p.name == querySignature {
			continue
		}
		if !first {
			b = append(b, '&')
		}
		first = false
		b = append(b, p.name...)
		b = append(b, '=')
		b = append(b, p.value...)
	}
	b = append(b, '\n')
	for name := range strings.SplitSeq(c.signedHeaders, ";") {
		b = append(b, name...)
		b = append(b, ':')
		b = appendHeader(b, r, name)
		b = append(b, '\n')
	}
	b = append(b, '\n')
	b = append(b, c.signedHeaders...)
	b = append(b, '\n')
	return append(b, c.payloadHash...)
}

// appendHeader appends the canonical value of the header name, nothing if it is absent. net/http keeps some headers
// elsewhere than in r.Header.
func appendHeader(b []byte, r *http.Request, name string) []byte {
	switch name {
	case "host":
		return appendFolded(b, r.Host)
	case "content-length":
		if r.ContentLength < 0 {
			return b
		}
		return strconv.AppendInt(b, r.ContentLength, 10)
	case "transfer-encoding":
		return append(b, strings.Join(r.TransferEncoding, ",")...)
	}
	for i, value := range values(r.Header, name) {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendFolded(b, value)
	}
	return b
}

// values returns h[name] for a lower-case name without allocating the canonical spelling of its key.
func values(h http.Header, name string) []string {
	stack := [64]byte{}
	key := append(stack[:0], name...)
	upper := true
	for i, c := range key {
		if upper && 'a' <= c && c <= 'z' {
			key[i] = c - 'a' + 'A'
		}
		upper = c == '-'
	}
	return h[string(key)]
}

// first returns the first value of the header key, which is in net/http's spelling.
func first(h http.Header, key string) string {
	if values := h[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// appendFolded appends s without leading and trailing blanks and with one space for every run of them inside.
func appendFolded(b []byte, s string) []byte {
	s = strings.Trim(s, " \t")
	if strings.IndexByte(s, '\t') < 0 && !strings.Contains(s, "  ") { // nearly always
		return append(b, s...)
	}
	blank := false
	for i := range len(s) {
		if s[i] == ' ' || s[i] == '\t' {
			blank = true
			continue
		}
		if blank {
			b = append(b, ' ')
			blank = false
		}
		b = append(b, s[i])
	}
	return b
}

// appendStringToSign appends the string to sign of a canonical request.
func appendStringToSign(b []byte, c *claim, canonical []byte) []byte {
	b = append(b, algorithm...)
	b = append(b, '\n')
	b = append(b, c.stamp...)
	b = append(b, '\n')
	b = append(b, c.scope...)
	b = append(b, '\n')
	sum := sha256.Sum256(canonical)
	return hex.AppendEncode(b, sum[:])
}
