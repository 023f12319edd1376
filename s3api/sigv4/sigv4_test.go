package sigv4_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/s3api/sigv4"
)

const key = "http://localhost:9000/bucket/key"

func signedGet(t testing.TB, headers ...string) *http.Request {
	return wire(t, sign(t, "GET", key, emptyHash, "", headers...))
}

// at returns a Verifier whose clock is off by d from the requests' time.
func at(d time.Duration) *sigv4.Verifier {
	o := options()
	o.Now = func() time.Time { return examples.Add(d) }
	return sigv4.New(o)
}

func TestHeaderRefusals(t *testing.T) {
	change := func(old, new string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
		}
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	add := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Add(name, value) }
	}
	target := func(uri string) func(*http.Request) { return func(r *http.Request) { r.RequestURI = uri } }
	for _, tc := range []struct {
		name   string
		spoil  func(*http.Request)
		code   string
		status int
	}{
		{"garbage signature", change("Signature=", "Signature=00"), "SignatureDoesNotMatch", 403},
		{"upper-case signature", func(r *http.Request) {
			head, sig, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
			r.Header.Set("Authorization", head+"Signature="+strings.ToUpper(sig))
		}, "SignatureDoesNotMatch", 403},
		{"unknown key", change(accessKey, "AKIAUNKNOWN"), "InvalidAccessKeyId", 403},
		{"other method", func(r *http.Request) { r.Method = "DELETE" }, "SignatureDoesNotMatch", 403},
		{"other key", target("/bucket/other"), "SignatureDoesNotMatch", 403},
		{"climbing path", target("/bucket/../bucket/key"), "SignatureDoesNotMatch", 403},
		{"added query", target("/bucket/key?acl"), "SignatureDoesNotMatch", 403},
		{"other host", func(r *http.Request) { r.Host = "victim:9000" }, "SignatureDoesNotMatch", 403},
		{"other time", set("X-Amz-Date", "20130524T000001Z"), "SignatureDoesNotMatch", 403},
		{"other hash", set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"), "SignatureDoesNotMatch", 403},
		{"V2", set("Authorization", "AWS "+accessKey+":frJIUN8DYpKDtOLCwo//yllqDzg="), "InvalidRequest", 400},
		{"V2 in the query", func(r *http.Request) {
			r.Header.Del("Authorization")
			r.RequestURI += "?AWSAccessKeyId=" + accessKey + "&Expires=1&Signature=x"
		}, "InvalidRequest", 400},
		{"V4A", change("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), "InvalidRequest", 400},
		{"Basic", set("Authorization", "Basic cm9vdDpyb290"), "InvalidArgument", 400},
		{"empty Authorization", set("Authorization", ""), "InvalidArgument", 400},
		{"two Authorization headers", add("Authorization", "x"), "InvalidArgument", 400},
		{"header and query", func(r *http.Request) { r.RequestURI += "?X-Amz-Signature=00" }, "InvalidArgument", 400},
		{"header and V2 query", func(r *http.Request) { r.RequestURI += "?AWSAccessKeyId=x" }, "InvalidArgument", 400},
		{"form", func(r *http.Request) {
			r.Method = "POST"
			r.Header.Del("Authorization")
			r.Header.Set("Content-Type", "Multipart/Form-Data; boundary=b")
		}, "NotImplemented", 501},
		{"form without boundary", func(r *http.Request) {
			r.Method = "POST"
			r.Header.Del("Authorization")
			r.Header.Set("Content-Type", "multipart/form-data; =")
		}, "NotImplemented", 501},
		{"form and header", func(r *http.Request) {
			r.Method = "POST"
			r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		}, "InvalidArgument", 400},
		{"security token", set("X-Amz-Security-Token", "t"), "InvalidToken", 400},
		{"no signature", change(", Signature=", ", Sig="), "AuthorizationHeaderMalformed", 400},
		{"no fields", set("Authorization", "AWS4-HMAC-SHA256"), "AuthorizationHeaderMalformed", 400},
		{"field twice", change("SignedHeaders", "Credential"), "AuthorizationHeaderMalformed", 400},
		{"short credential", change("/s3/aws4_request", ""), "AuthorizationHeaderMalformed", 400},
		{"wrong region", change("us-east-1", "eu-central-1"), "AuthorizationHeaderMalformed", 400},
		{"wrong service", change("/s3/", "/s3tables/"), "AuthorizationHeaderMalformed", 400},
		{"wrong terminal", change("aws4_request", "aws5_request"), "AuthorizationHeaderMalformed", 400},
		{"wrong scope date", change("/20130524/", "/20130523/"), "AuthorizationHeaderMalformed", 400},
		{"no date", func(r *http.Request) { r.Header.Del("X-Amz-Date") }, "AccessDenied", 403},
		{"malformed date", set("X-Amz-Date", "yesterday"), "AccessDenied", 403},
		{"fraction in date", set("X-Amz-Date", "20130524T000000.000Z"), "AccessDenied", 403},
		{"no content hash", func(r *http.Request) { r.Header.Del("X-Amz-Content-Sha256") }, "InvalidRequest", 400},
		{"malformed content hash", set("X-Amz-Content-Sha256", "abc"), "InvalidArgument", 400},
		{"unknown streaming kind", set("X-Amz-Content-Sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), "InvalidArgument", 400},
		{"unsigned copy source", set("X-Amz-Copy-Source", "/victim/key"), "AccessDenied", 403},
		{"unsigned acl", set("X-Amz-Acl", "public-read"), "AccessDenied", 403},
		{"unsigned host", change("SignedHeaders=host;", "SignedHeaders="), "AccessDenied", 403},
		{"date twice", add("X-Amz-Date", "20130524T000000Z"), "InvalidArgument", 400},
		{"content type twice", func(r *http.Request) { r.Header["Content-Type"] = []string{"a/b", "c/d"} }, "InvalidArgument", 400},
		{"unsorted names", change("host;", "zeta;host;"), "AuthorizationHeaderMalformed", 400},
		{"name twice", change("host;", "host;host;"), "AuthorizationHeaderMalformed", 400},
		{"upper-case name", change("host;", "Host;"), "AuthorizationHeaderMalformed", 400},
		{"too many names", change("host;", strings.Repeat("a;", 300)+"host;"), "AuthorizationHeaderMalformed", 400},
		{"bad escape in path", target("/bucket/%zz"), "InvalidURI", 400},
		{"cut escape in query", target("/bucket/key?a=%2"), "InvalidURI", 400},
		{"too many parameters", target("/bucket/key?" + strings.Repeat("a&", 1001)), "InvalidURI", 400},
		{"asterisk", target("*"), "InvalidURI", 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := signedGet(t)
			tc.spoil(r)
			_, err := sigv4.New(options()).Verify(r)
			refused(t, err, tc.code, tc.status)
		})
	}
}

func TestClock(t *testing.T) {
	for _, tc := range []struct {
		off time.Duration
		ok  bool
	}{{0, true}, {15 * time.Minute, true}, {-15 * time.Minute, true}, {15*time.Minute + time.Second, false},
		{-15*time.Minute - time.Second, false}, {1e6 * time.Hour, false}, {-1e5 * time.Hour, false}} {
		_, err := at(tc.off).Verify(signedGet(t))
		if tc.ok && err != nil {
			t.Errorf("%v off: %v", tc.off, err)
		}
		if !tc.ok {
			refused(t, err, "RequestTimeTooSkewed", 403)
		}
	}
}

func TestPresigned(t *testing.T) {
	link := func(expires string) string { return key + "?X-Amz-Expires=" + expires + "&versionId=7" }
	a := accept(t, at(59*time.Second), wire(t, presign(t, "GET", link("60"), "UNSIGNED-PAYLOAD")))
	if a.Type != sigv4.Presigned || a.Payload != sigv4.UnsignedPayload || a.Expires != time.Minute || a.SignedHeaders != "host" {
		t.Errorf("got %+v", a)
	}
	for _, tc := range []struct {
		name   string
		off    time.Duration
		spoil  func(*http.Request)
		code   string
		status int
	}{
		{"expired", 61 * time.Second, func(*http.Request) {}, "AccessDenied", 403},
		{"not yet valid", -16 * time.Minute, func(*http.Request) {}, "AccessDenied", 403},
		{"longer", 0, replace("Expires=60", "Expires=61"), "SignatureDoesNotMatch", 403},
		{"zero", 0, replace("Expires=60", "Expires=0"), "AuthorizationQueryParametersError", 400},
		{"negative", 0, replace("Expires=60", "Expires=-1"), "AuthorizationQueryParametersError", 400},
		{"over a week", 0, replace("Expires=60", "Expires=604801"), "AuthorizationQueryParametersError", 400},
		{"text", 0, replace("Expires=60", "Expires=soon"), "AuthorizationQueryParametersError", 400},
		{"missing", 0, replace("X-Amz-Expires=60", "x=60"), "AuthorizationQueryParametersError", 400},
		{"twice", 0, replace("X-Amz-Expires=60", "X-Amz-Expires=60&X-Amz-Expires=60"), "AuthorizationQueryParametersError", 400},
		{"other case", 0, replace("X-Amz-Signature", "x-amz-signature"), "AuthorizationQueryParametersError", 400},
		{"algorithm", 0, replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), "AuthorizationQueryParametersError", 400},
		{"date", 0, replace("20130524T000000Z", "20130524"), "AuthorizationQueryParametersError", 400},
		{"region", 0, replace("us-east-1", "eu-west-1"), "AuthorizationQueryParametersError", 400},
		{"line break in a name", 0, replace("SignedHeaders=host", "SignedHeaders=host%0Ax"), "AuthorizationQueryParametersError", 400},
		{"header too", 0, func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 x") }, "InvalidArgument", 400},
		{"V2 too", 0, replace("versionId=7", "AWSAccessKeyId=x"), "InvalidArgument", 400},
		{"version", 0, replace("versionId=7", "versionId=8"), "SignatureDoesNotMatch", 403},
		{"method", 0, func(r *http.Request) { r.Method = "PUT" }, "SignatureDoesNotMatch", 403},
		{"copy source", 0, func(r *http.Request) { r.Header.Set("X-Amz-Copy-Source", "/b/k") }, "AccessDenied", 403},
		{"streaming", 0, func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER") }, "AccessDenied", 403},
		{"hash in the query", 0, replace("versionId=7", "X-Amz-Content-Sha256="+emptyHash), "SignatureDoesNotMatch", 403},
		{"token", 0, replace("versionId=7", "X-Amz-Security-Token=t"), "InvalidToken", 400},
		{"no signature", 0, replace("X-Amz-Signature", "Signature"), "AuthorizationQueryParametersError", 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := wire(t, presign(t, "GET", link("60"), "UNSIGNED-PAYLOAD"))
			tc.spoil(r)
			_, err := at(tc.off).Verify(r)
			refused(t, err, tc.code, tc.status)
		})
	}
}

func replace(old, new string) func(*http.Request) {
	return func(r *http.Request) { r.RequestURI = strings.Replace(r.RequestURI, old, new, 1) }
}

func TestPresignedPayload(t *testing.T) {
	hash := digest("content")
	r := presign(t, "PUT", key+"?X-Amz-Expires=60", hash, "X-Amz-Content-Sha256", hash)
	r.Body, r.ContentLength = nil, 0
	for body, code := range map[string]string{"content": "", "CONTENT": "XAmzContentSHA256Mismatch"} {
		q := wire(t, withBody(r.Clone(t.Context()), body))
		_, _, err := read(accept(t, sigv4.New(options()), q), q)
		if code == "" && err != nil {
			t.Error(err)
		}
		if code != "" {
			refused(t, err, code, 400)
		}
	}
	streaming := "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	_, err := sigv4.New(options()).Verify(wire(t, presign(t, "PUT", key+"?X-Amz-Expires=60", streaming, "X-Amz-Content-Sha256", streaming)))
	refused(t, err, "InvalidRequest", 400)
}

func withBody(r *http.Request, body string) *http.Request {
	n, _ := http.NewRequest(r.Method, "http://x", strings.NewReader(body))
	r.Body, r.ContentLength = n.Body, n.ContentLength
	return r
}

func TestAnonymous(t *testing.T) {
	v := sigv4.New(options())
	a := accept(t, v, text(t, "GET /bucket/key HTTP/1.1\nHost: h", ""))
	if a.Type != sigv4.Anonymous || a.Payload != sigv4.UnsignedPayload || a.AccessKey != "" {
		t.Errorf("got %+v", a)
	}
	const framed = "3\r\nabc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\r\n\r\n"
	for _, head := range []string{"Content-Encoding: gzip, aws-chunked", "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER"} {
		r := text(t, fmt.Sprintf("PUT /b/k HTTP/1.1\nHost: h\nContent-Length: %d\nx-amz-trailer: x-amz-checksum-crc32\n%s", len(framed), head), framed)
		if got, _, err := read(accept(t, v, r), r); err != nil || got != "abc" {
			t.Errorf("%s: got %q, %v", head, got, err)
		}
	}
	_, err := v.Verify(text(t, "PUT /b/k HTTP/1.1\nHost: h\nContent-Length: 0\nx-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD", ""))
	refused(t, err, "AccessDenied", 403)
	_, err = v.Verify(text(t, "PUT /b/k HTTP/1.1\nHost: h\nContent-Length: 0\nx-amz-content-sha256: nonsense", ""))
	refused(t, err, "InvalidArgument", 400)
}

func TestZeroAuthIsDenied(t *testing.T) {
	for p := range sigv4.UnsignedTrailer + 2 {
		for typ := range sigv4.Presigned + 2 {
			_ = p.String() + typ.String()
		}
		if p == sigv4.SignedPayload || p == sigv4.UnsignedPayload || p == sigv4.UnsignedTrailer {
			continue
		}
		if _, err := (sigv4.Auth{Payload: p}).Body(signedGet(t, "X-Amz-Decoded-Content-Length", "0")); err == nil {
			t.Errorf("payload %v: got a body", p)
		}
	}
}

func TestEmptyBodyWithOtherHash(t *testing.T) {
	_, err := sigv4.New(options()).Verify(wire(t, sign(t, "PUT", key, digest("something"), "")))
	refused(t, err, "XAmzContentSHA256Mismatch", 400)
}

func TestUnsignedNeedsTLSIfSo(t *testing.T) {
	o := options()
	o.RequireTLS = true
	r := wire(t, sign(t, "PUT", key, "UNSIGNED-PAYLOAD", "content"))
	_, err := sigv4.New(o).Verify(r)
	refused(t, err, "InvalidRequest", 400)
	r.TLS = &tls.ConnectionState{}
	accept(t, sigv4.New(o), r)
	accept(t, sigv4.New(o), wire(t, sign(t, "GET", key, "UNSIGNED-PAYLOAD", "")))
}

func TestMismatchExplainsItself(t *testing.T) {
	r := signedGet(t, "X-Amz-Server-Side-Encryption-Customer-Key", "c2VjcmV0")
	r.Method = "PUT"
	_, err := sigv4.New(options()).Verify(r)
	e := refused(t, err, "SignatureDoesNotMatch", 403)
	if !strings.HasPrefix(e.Field("CanonicalRequest"), "PUT\n/bucket/key\n\n") || !strings.HasPrefix(e.Field("StringToSign"), "AWS4-HMAC-SHA256\n") {
		t.Errorf("got %v", e.Fields)
	}
	if shown := fmt.Sprintf("%+v %v", e, err); strings.Contains(shown, "c2VjcmV0") || strings.Contains(shown, secretKey) {
		t.Errorf("a secret is shown: %s", shown)
	}
}

func TestAuthShowsNoKey(t *testing.T) {
	r := streamed(t, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", 0, "", func(s *stream) string { return s.chunk("").out.String() })
	a := accept(t, sigv4.New(options()), r)
	if shown := fmt.Sprintf("%v %+v %#v", a, a, a); strings.Contains(shown, "previous") {
		t.Errorf("the signing key is shown: %s", shown)
	}
}

func TestKeyStoreErrorIsNotARefusal(t *testing.T) {
	r := signedGet(t)
	r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), accessKey, "broken", 1))
	_, err := sigv4.New(options()).Verify(r)
	if !errors.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
}

func TestRotatedSecretIsUsedAtOnce(t *testing.T) {
	secret := secretKey
	o := options()
	o.Secret = func(context.Context, string) (string, error) { return secret, nil }
	v := sigv4.New(o)
	accept(t, v, signedGet(t))
	accept(t, v, signedGet(t))
	secret = "another"
	_, err := v.Verify(signedGet(t))
	refused(t, err, "SignatureDoesNotMatch", 403)
}

func TestKeysInUseStayWhenManyAreSeen(t *testing.T) {
	o := options()
	o.Region = ""
	v := sigv4.New(o)
	for i := range 3000 {
		r, _ := http.NewRequest("GET", key, nil)
		r.Header.Set("X-Amz-Content-Sha256", emptyHash)
		if err := signer().SignHTTP(t.Context(), credentials(), r, emptyHash, "s3", fmt.Sprint("region-", i%2500), examples); err != nil {
			t.Fatal(err)
		}
		r.RequestURI = "/bucket/key"
		accept(t, v, r)
	}
}

// Other spellings of a target that mean the same, and headers as proxies and clients write them.
func TestCanonicalForms(t *testing.T) {
	for _, tc := range []struct{ signed, sent string }{
		{"/b/a%28%2B%3D%2A%29~", "/b/a(+=*)~"}, // sent unescaped, signed as S3 writes it
		{"/b/a(+=*)~", "/b/a(+=*)~"},           // sent and signed unescaped
		{"/b/%e2%82%ac", "/b/%e2%82%ac"},       // lower-case escapes
		{"/b/%E2%82%AC", "/b/%e2%82%ac"},
		{"/b/a%2Fb", "/b/a%2Fb"},
		{"/b//a/./../c", "/b//a/./../c"},
		{"/b/%252e", "/b/%252e"},
		{"/b?x=a%20b", "/b?x=a+b"},
		{"/b?b=2&a-b=1&a=1&a=0", "/b?a=1&b=2&a=0&a-b=1"},
		{"/b?delete=", "/b?delete"},
		{"/b?prefix=a%3Bb%2F", "/b?prefix=a;b/"},
		{"/b", "http://localhost:9000/b"},
	} {
		u, err := url.Parse("http://localhost:9000" + tc.signed)
		if err != nil {
			t.Fatal(err)
		}
		r := sign(t, "GET", "http://localhost:9000"+tc.signed, emptyHash, "")
		r.URL = u
		r.RequestURI = tc.sent
		if _, err := sigv4.New(options()).Verify(r); err != nil {
			t.Errorf("signed %s, sent %s: %v", tc.signed, tc.sent, err)
		}
	}
	accept(t, sigv4.New(options()), signedGet(t, "X-Amz-Meta-A", "  a   b  ", "Cache-Control", "x", "Cache-Control", "y",
		"X-Amz-Object-Attributes", "ETag", "X-Amz-Object-Attributes", "ObjectSize", "Content-Type", "text/plain"))
	unsigned := signedGet(t)
	unsigned.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	accept(t, sigv4.New(options()), unsigned)
	comma := signedGet(t)
	comma.Header.Set("Authorization", strings.ReplaceAll(comma.Header.Get("Authorization"), ", ", ",\t"))
	accept(t, sigv4.New(options()), comma)
}

func TestDateHeader(t *testing.T) {
	r := signedGet(t, "Date", "Fri, 24 May 2013 00:00:00 GMT")
	r.Header.Del("X-Amz-Date")
	_, err := sigv4.New(options()).Verify(r) // the time is found; what was signed is not this request
	refused(t, err, "SignatureDoesNotMatch", 403)
	r.Header.Set("Date", "noon")
	_, err = sigv4.New(options()).Verify(r)
	refused(t, err, "AccessDenied", 403)
}

// What AWS's SDK signs verifies, whatever is in names, queries and headers.
func TestSDKSignaturesVerify(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	v := sigv4.New(options())
	for range 2000 {
		target := randomURL(random)
		headers := []string{"X-Amz-Meta-" + word(random, "abcXYZ-_019"), word(random, "ab ,;:=\"~é"), "Content-Type", word(random, "a/b ")}
		method := []string{"GET", "PUT", "HEAD", "DELETE", "POST"}[random.IntN(5)]
		if random.IntN(2) == 0 {
			body := word(random, "content")
			accept(t, v, wire(t, sign(t, method, target, digest(body), body, headers...)))
			continue
		}
		accept(t, v, wire(t, presign(t, method, target+"&X-Amz-Expires=60", "UNSIGNED-PAYLOAD", headers...)))
	}
}

func randomURL(random *rand.Rand) string {
	const alphabet = "abzAZ019-._~ +=*()'!$&;,:@/%?#[]\"<>|\\^`{}\u00e9\u20ac\U0001f600\x01\x7f"
	u := url.URL{Scheme: "http", Host: "localhost:9000", Path: "/bucket/" + word(random, alphabet)}
	q := url.Values{}
	for range random.IntN(4) {
		q.Add(word(random, alphabet), word(random, alphabet))
	}
	q.Set("x", "y")
	u.RawQuery = q.Encode()
	u.RawPath = strings.ReplaceAll(url.PathEscape(u.Path), "%2F", "/")
	return u.String()
}

func word(random *rand.Rand, alphabet string) string {
	letters := []rune(alphabet)
	var b strings.Builder
	for range random.IntN(12) {
		b.WriteRune(letters[random.IntN(len(letters))])
	}
	return b.String()
}

// A change of any single byte on the wire that still is a request is refused, unless it leaves what was signed the same.
func TestEveryByteCounts(t *testing.T) {
	requests := []*http.Request{
		sign(t, "PUT", key+"?partNumber=1&uploadId=u", digest("content"), "content", "X-Amz-Meta-A", "b"),
		presign(t, "GET", key+"?X-Amz-Expires=60&versionId=7", "UNSIGNED-PAYLOAD"),
	}
	v := sigv4.New(options())
	for _, signed := range requests {
		signed.Header.Set("User-Agent", "") // not signed
		var b bytes.Buffer
		if err := signed.Write(&b); err != nil {
			t.Fatal(err)
		}
		raw := b.Bytes()
		for i := range raw {
			for _, flip := range []byte{0x01, 0x02, 0x10, 0x80} {
				changed := bytes.Clone(raw)
				changed[i] ^= flip
				r, err := readRequest(changed)
				if err != nil {
					continue
				}
				a, err := v.Verify(r)
				if err != nil || a.Type == sigv4.Anonymous {
					continue
				}
				if _, _, err := read(a, r); err == nil && !harmless(raw, changed, i) {
					t.Errorf("accepted %q for %q at %d", changed[max(0, i-20):i+10], raw[max(0, i-20):i+10], i)
				}
			}
		}
	}
}

// harmless reports whether byte i is in the protocol version, in an unsigned header, in the blanks around a value, or
// makes a number longer by a zero.
func harmless(raw, changed []byte, i int) bool {
	start := bytes.LastIndexByte(raw[:i], '\n') + 1
	line, _, _ := bytes.Cut(raw[start:], []byte("\r\n"))
	other, _, _ := bytes.Cut(changed[start:], []byte("\r\n"))
	return bytes.EqualFold(bytes.ReplaceAll(line, []byte(" "), nil), bytes.ReplaceAll(other, []byte(" "), nil)) && start > 0 ||
		bytes.HasPrefix(line, []byte("Content-Length")) && bytes.HasSuffix(other, []byte(":07")) ||
		start == 0 && i > len(line)-9 || bytes.HasPrefix(line, []byte("Accept-Encoding"))
}
