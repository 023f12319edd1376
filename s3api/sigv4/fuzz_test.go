package sigv4_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/s3api/sigv4"
)

// FuzzTarget signs any target with AWS's SDK and sends it as any client might: it verifies, and nothing panics.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"/", "/b/k", "/b/%2e%2e/k", "/b/a+b?x=a+b&x=&y", "/%zz?%", "/b?a=1;b=2&&=", "//b//?X-Amz-Signature=1"} {
		f.Add(seed)
	}
	v := sigv4.New(options())
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(target, "/") || strings.ContainsAny(target, " #\r\n\x00") {
			return
		}
		if _, err := url.ParseQuery(u.RawQuery); err != nil {
			return
		}
		r := &http.Request{Method: "GET", Host: "localhost", Header: http.Header{"X-Amz-Content-Sha256": {emptyHash}},
			URL: &url.URL{Scheme: "http", Host: "localhost", Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}}
		if err := signer().SignHTTP(t.Context(), credentials(), r, emptyHash, "s3", "us-east-1", examples); err != nil {
			t.Fatal(err)
		}
		r.RequestURI = r.URL.RequestURI()
		_, err = v.Verify(r)
		lower := strings.ToLower(r.RequestURI)
		if err != nil && !strings.Contains(lower, "x-amz-") && !strings.Contains(lower, "awsaccesskeyid") {
			t.Errorf("%s: %v", target, err)
		}
		r.RequestURI = target
		v.Verify(r)
	})
}

// FuzzAuthorization lets nothing pass: no fuzzer knows the secret.
func FuzzAuthorization(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential="+accessKey+"/20130524/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00", "/?X-Amz-Date=1")
	f.Add("AWS4-HMAC-SHA256 Credential=a/b/20130524//s3/aws4_request,SignedHeaders=;,Signature==", "/b/k")
	f.Add("", "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential="+accessKey+"%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"+
		"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00")
	v := sigv4.New(options())
	f.Fuzz(func(t *testing.T, authorization, target string) {
		r := &http.Request{Method: "GET", Host: "localhost", RequestURI: target, Header: http.Header{
			"X-Amz-Content-Sha256": {emptyHash}, "X-Amz-Date": {"20130524T000000Z"}}}
		if authorization != "" {
			r.Header["Authorization"] = []string{authorization}
		}
		if a, err := v.Verify(r); err == nil && a.Type != sigv4.Anonymous {
			t.Errorf("accepted %q, %q", authorization, target)
		}
	})
}

// FuzzUnsignedChunks compares the decoder with the framing's definition: what it accepts, encoded again, is the same.
func FuzzUnsignedChunks(f *testing.F) {
	for _, seed := range []string{"", "0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\nx-amz-checksum-crc32:A\r\n\r\n", "ffffffffffffffff\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := &http.Request{Header: http.Header{"X-Amz-Trailer": {crc}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
		got, b, err := read(sigv4.Auth{Type: sigv4.Anonymous, Payload: sigv4.UnsignedTrailer}, r)
		if err != nil {
			return
		}
		if len(b.Trailer()) != 1 {
			t.Errorf("%q: accepted without its trailer", body)
		}
		rest := body
		for _, c := range got { // the content is a subsequence of the frame
			i := strings.IndexRune(rest, c)
			if i < 0 {
				t.Fatalf("%q: %q is not in it", body, got)
			}
			rest = rest[i:]
		}
	})
}

// FuzzSignedChunks lets no chunk pass but the one that was signed.
func FuzzSignedChunks(f *testing.F) {
	r := streamed(f, signedChunks, 8, "", func(s *stream) string { return s.chunk(small).chunk("").out.String() })
	raw, _ := io.ReadAll(r.Body)
	f.Add(string(raw))
	v := sigv4.New(options())
	f.Fuzz(func(t *testing.T, body string) {
		r.Body = io.NopCloser(strings.NewReader(body))
		got, _, err := read(accept(t, v, r), r)
		if err == nil && got != small || err != nil && got != "" && got != small {
			t.Errorf("%q released %q, %v", body, got, err)
		}
	})
}

func BenchmarkVerifyHeader(b *testing.B) {
	v := sigv4.New(options())
	r := signedGet(b, "Range", "bytes=0-4095", "Accept-Encoding", "identity", "Amz-Sdk-Invocation-Id", "c2a1b0d4-95a5-4d9a-8a34-7c1f6a2f5a11")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyPresigned(b *testing.B) {
	v := sigv4.New(options())
	r := wire(b, presign(b, "GET", key+"?X-Amz-Expires=60", "UNSIGNED-PAYLOAD"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChunks(b *testing.B) {
	v := sigv4.New(options())
	content := big + big + big + big
	r := streamed(b, signedChunks, len(content), "", func(s *stream) string {
		return s.chunk(big).chunk(big).chunk(big).chunk(big).chunk("").out.String()
	})
	raw, _ := io.ReadAll(r.Body)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		r.Body = io.NopCloser(strings.NewReader(string(raw)))
		body, err := accept(b, v, r).Body(r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			b.Fatal(err)
		}
	}
}
