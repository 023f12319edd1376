package sigv4_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sluicefs/sluice/s3api/sigv4"
)

const (
	signedChunks  = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	signedTrailer = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	unsigned      = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	crc           = "x-amz-checksum-crc32"
)

func readRequest(raw []byte) (*http.Request, error) {
	return http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
}

func TestSignedPayload(t *testing.T) {
	v := sigv4.New(options())
	r := wire(t, sign(t, "PUT", key, digest("content"), "content"))
	got, b, err := read(accept(t, v, r), r)
	if err != nil || got != "content" || b.Length() != 7 || b.Trailer() != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the end: got %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	r = wire(t, sign(t, "PUT", key, digest("another"), "content"))
	_, _, err = read(accept(t, v, r), r)
	refused(t, err, "XAmzContentSHA256Mismatch", 400)
}

func TestShortBody(t *testing.T) {
	for _, hash := range []string{digest("content"), "UNSIGNED-PAYLOAD"} {
		r := wire(t, sign(t, "PUT", key, hash, "content"))
		r.Body = io.NopCloser(strings.NewReader("cont"))
		_, _, err := read(accept(t, sigv4.New(options()), r), r)
		if hash == "UNSIGNED-PAYLOAD" {
			refused(t, err, "IncompleteBody", 400)
		} else {
			refused(t, err, "XAmzContentSHA256Mismatch", 400)
		}
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader("cont"), iotest.ErrReader(io.ErrUnexpectedEOF)))
		_, _, err = read(accept(t, sigv4.New(options()), r), r)
		refused(t, err, "IncompleteBody", 400)
	}
}

func TestConnectionErrorIsPassedThrough(t *testing.T) {
	reset := errors.New("connection reset")
	r := wire(t, sign(t, "PUT", key, "UNSIGNED-PAYLOAD", "content"))
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader("cont"), iotest.ErrReader(reset)))
	if _, _, err := read(accept(t, sigv4.New(options()), r), r); !errors.Is(err, reset) {
		t.Errorf("got %v", err)
	}
}

var (
	big   = strings.Repeat("0123456789abcdef", 1<<12) // 64 KiB
	huge  = strings.Repeat(big, 20)                   // more than is buffered
	small = "the rest"
)

func TestStreams(t *testing.T) {
	plain := func(chunks ...string) func(*stream) string {
		return func(*stream) string {
			var b strings.Builder
			for _, c := range chunks {
				fmt.Fprintf(&b, "%x\r\n%s", len(c), c)
				if c != "" {
					b.WriteString("\r\n")
				}
			}
			return b.String()
		}
	}
	with := func(make func(*stream) string, rest string) func(*stream) string {
		return func(s *stream) string { return make(s) + rest }
	}
	for _, tc := range []struct {
		name, kind, trailer, content string
		body                         func(*stream) string
	}{
		{"signed", signedChunks, "", big + small, func(s *stream) string { return s.chunk(big).chunk(small).chunk("").out.String() + "\r\n" }},
		{"signed, no last line break", signedChunks, "", small, func(s *stream) string { return s.chunk(small).chunk("").out.String() }},
		{"signed, empty", signedChunks, "", "", func(s *stream) string { return s.chunk("").out.String() + "\r\n" }},
		{"signed, nothing at all", signedChunks, "", "", func(*stream) string { return "" }},
		{"signed, larger than is buffered", signedChunks, "", huge + small, func(s *stream) string { return s.chunk(huge).chunk(small).chunk("").out.String() + "\r\n" }},
		{"trailer", signedTrailer, crc, big, func(s *stream) string {
			return s.chunk(big).chunk("").trailer(crc+":AAAAAA==\n", "\r\n").out.String()
		}},
		{"trailer as minio-go writes it", signedTrailer, crc, big, func(s *stream) string {
			return s.chunk(big).chunk("").trailer(crc+":AAAAAA==\n", "\n\r\n").out.String()
		}},
		{"trailer, none announced", signedTrailer, "", small, func(s *stream) string {
			return s.chunk(small).chunk("").trailer("", "").out.String()
		}},
		{"unsigned", unsigned, crc, small + "x" + huge, with(plain(small, "x", huge, ""), crc+":AAAAAA==\r\n\r\n")},
		{"unsigned as minio-go writes it", unsigned, crc, small, with(plain(small, ""), crc+":AAAAAA==\n\r\n\r\n")},
		{"unsigned, cut after the trailer", unsigned, crc, small, with(plain(small, ""), crc+":AAAAAA==\r\n")},
		{"unsigned, blanks", unsigned, crc, small, with(plain(small, ""), "X-Amz-Checksum-Crc32 : AAAAAA==\r\n\r\n")},
		{"unsigned, none announced", unsigned, "", small, with(plain(small, ""), "\r\n")},
	} {
		for name, slow := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r },
			"by halves": iotest.HalfReader, "by bytes": iotest.OneByteReader, "with data and error": iotest.DataErrReader} {
			t.Run(tc.name+"/"+name, func(t *testing.T) {
				r := streamed(t, tc.kind, len(tc.content), tc.trailer, tc.body)
				raw, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(slow(bytes.NewReader(raw)))
				got, b, err := read(accept(t, sigv4.New(options()), r), r)
				if err != nil || got != tc.content {
					t.Fatalf("got %d bytes, want %d; %v", len(got), len(tc.content), err)
				}
				if want := tc.trailer != ""; (b.Trailer().Get(crc) == "AAAAAA==") != want {
					t.Errorf("trailer: got %v", b.Trailer())
				}
			})
		}
	}
}

// An unsigned stream of unknown length has neither Content-Length nor x-amz-decoded-content-length.
func TestStreamOfUnknownLength(t *testing.T) {
	r := sign(t, "PUT", key, unsigned, "", "X-Amz-Trailer", crc)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("3\r\nabc\r\n0\r\n"+crc+":AAAAAA==\r\n\r\n")), -1
	r = wire(t, r)
	got, b, err := read(accept(t, sigv4.New(options()), r), r)
	if err != nil || got != "abc" || b.Length() != -1 {
		t.Errorf("got %q, %d, %v", got, b.Length(), err)
	}
}

func TestStreamRefusals(t *testing.T) {
	chunk := func(s *stream, data string) string { // a chunk alone
		s.out.Reset()
		return s.chunk(data).out.String()
	}
	for _, tc := range []struct {
		name, kind, trailer string
		length              int
		body                func(*stream) string
		code                string
		status              int
		released            string
	}{
		{"changed byte", signedChunks, "", len(small), func(s *stream) string {
			return strings.Replace(chunk(s, small), "rest", "best", 1) + chunk(s, "")
		}, "SignatureDoesNotMatch", 403, ""},
		{"changed byte of a large chunk", signedChunks, "", len(huge), func(s *stream) string {
			return strings.Replace(chunk(s, huge), "0123", "1123", 1) + chunk(s, "")
		}, "SignatureDoesNotMatch", 403, "*"},
		{"second chunk changed", signedChunks, "", len(big + small), func(s *stream) string {
			return chunk(s, big) + strings.Replace(chunk(s, small), "rest", "best", 1) + chunk(s, "")
		}, "SignatureDoesNotMatch", 403, big},
		{"chunks swapped", signedChunks, "", 2 * len(big), func(s *stream) string {
			a, b := chunk(s, big), chunk(s, strings.ToUpper(big))
			return b + a + chunk(s, "")
		}, "SignatureDoesNotMatch", 403, ""},
		{"chunk repeated", signedChunks, "", 2 * len(big), func(s *stream) string { a := chunk(s, big); return a + a + chunk(s, "") },
			"SignatureDoesNotMatch", 403, big},
		{"chunk dropped", signedChunks, "", len(big), func(s *stream) string { chunk(s, small); return chunk(s, big) + chunk(s, "") },
			"SignatureDoesNotMatch", 403, ""},
		{"last chunk unsigned", signedChunks, "", len(small), func(s *stream) string { return chunk(s, small) + "0;chunk-signature=00\r\n\r\n" },
			"SignatureDoesNotMatch", 403, small},
		{"last chunk missing", signedChunks, "", len(small), func(s *stream) string { return chunk(s, small) }, "IncompleteBody", 400, small},
		{"no signature", signedChunks, "", len(small), func(*stream) string { return "8\r\nthe rest\r\n0\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"size beyond the data", signedChunks, "", 1 << 20, func(*stream) string { return "100000;chunk-signature=00\r\n0123456789" },
			"IncompleteBody", 400, ""},
		{"size beyond the length", signedChunks, "", 4, func(s *stream) string { return chunk(s, small) + chunk(s, "") }, "IncompleteBody", 400, ""},
		{"fewer bytes than said", signedChunks, "", 99, func(s *stream) string { return chunk(s, small) + chunk(s, "") }, "IncompleteBody", 400, small},
		{"tiny chunks", signedChunks, "", 2, func(s *stream) string { return chunk(s, "a") + chunk(s, "b") + chunk(s, "") },
			"InvalidChunkSizeError", 403, "a"},
		{"no length", signedChunks, "", -1, func(s *stream) string { return chunk(s, "") }, "MissingContentLength", 411, ""},
		{"more after the end", signedChunks, "", 0, func(s *stream) string { return chunk(s, "") + "\r\nGET / HTTP/1.1\r\n" }, "InvalidRequest", 400, ""},
		{"trailer where none may be", signedChunks, crc, 0, func(s *stream) string { return chunk(s, "") }, "InvalidRequest", 400, ""},
		{"trailer changed", signedTrailer, crc, 0, func(s *stream) string {
			return strings.Replace(s.chunk("").trailer(crc+":AAAAAA==\n", "\r\n").out.String(), "AAAAAA", "BAAAAA", 1)
		}, "SignatureDoesNotMatch", 403, ""},
		{"trailer unsigned", signedTrailer, crc, 0, func(s *stream) string { return chunk(s, "") + crc + ":AAAAAA==\r\n\r\n" }, "MalformedTrailerError", 400, ""},
		{"trailer missing", signedTrailer, crc, 0, func(s *stream) string { return s.chunk("").trailer("", "").out.String() }, "MalformedTrailerError", 400, ""},
		{"trailer after its signature", signedTrailer, crc, 0, func(s *stream) string {
			return strings.TrimSuffix(s.chunk("").trailer("", "").out.String(), "\r\n") + crc + ":AAAAAA==\r\n\r\n"
		}, "MalformedTrailerError", 400, ""},
		{"trailer of another name", signedTrailer, crc, 0, func(s *stream) string {
			return s.chunk("").trailer("x-amz-checksum-sha1:AAAA\n", "\r\n").out.String()
		}, "MalformedTrailerError", 400, ""},
		{"endless trailer", signedTrailer, "", 0, func(s *stream) string { return chunk(s, "") + strings.Repeat("\r\n", 99) }, "MalformedTrailerError", 400, ""},
		{"trailer twice", unsigned, crc, 0, func(*stream) string { return "0\r\n" + crc + ":AAAAAA==\r\n" + crc + ":AAAAAA==\r\n\r\n" }, "MalformedTrailerError", 400, ""},
		{"unsigned trailer missing", unsigned, crc, 0, func(*stream) string { return "0\r\n\r\n" }, "MalformedTrailerError", 400, ""},
		{"trailer not announced", unsigned, "", 0, func(*stream) string { return "0\r\n" + crc + ":AAAAAA==\r\n\r\n" }, "MalformedTrailerError", 400, ""},
		{"trailer without colon", unsigned, crc, 0, func(*stream) string { return "0\r\n" + crc + "\r\n\r\n" }, "MalformedTrailerError", 400, ""},
		{"trailer cut", unsigned, crc, 0, func(*stream) string { return "0\r\n" + crc + ":AAA" }, "IncompleteBody", 400, ""},
		{"trailer too long", unsigned, crc, 0, func(*stream) string { return "0\r\n" + crc + ":" + strings.Repeat("A", 2000) + "\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"trailer that is no checksum", unsigned, "x-amz-meta-a", 0, func(*stream) string { return "0\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"two trailers", unsigned, crc + ",x-amz-checksum-sha1", 0, func(*stream) string { return "0\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"nothing at all", unsigned, "", 5, func(*stream) string { return "" }, "IncompleteBody", 400, ""},
		{"negative size", unsigned, "", 5, func(*stream) string { return "-5\r\nabcde\r\n0\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"prefixed size", unsigned, "", 5, func(*stream) string { return "0x5\r\nabcde\r\n0\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"blank before size", unsigned, "", 5, func(*stream) string { return " 5\r\nabcde\r\n0\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"size of 65 bits", unsigned, "", 5, func(*stream) string { return "10000000000000005\r\nabcde\r\n0\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"no size", unsigned, "", 5, func(*stream) string { return "\r\nabcde\r\n0\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"bare LF", unsigned, "", 5, func(*stream) string { return "5\nabcde\r\n0\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"long extension", unsigned, "", 5, func(*stream) string { return "5;" + strings.Repeat("x", 1<<16) + "\r\nabcde\r\n0\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"extension", unsigned, "", 5, func(*stream) string { return "5;a=b\r\nabcde\r\n0\r\n\r\n" }, "InvalidRequest", 400, ""},
		{"size too small", unsigned, "", 5, func(*stream) string { return "4\r\nabcde\r\n0\r\n\r\n" }, "InvalidRequest", 400, "*"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := streamed(t, tc.kind, tc.length, tc.trailer, tc.body)
			if tc.length < 0 {
				r = withoutLength(t, tc.kind, tc.body)
			}
			got, b, err := read(accept(t, sigv4.New(options()), r), r)
			refused(t, err, tc.code, tc.status)
			if tc.released != "*" && got != tc.released {
				t.Errorf("released %d bytes, want %d", len(got), len(tc.released))
			}
			if b != nil {
				if _, again := b.Read(make([]byte, 1)); again != err {
					t.Errorf("read on: got %v", again)
				}
				if b.Trailer() != nil {
					t.Error("a trailer of a refused body")
				}
			}
		})
	}
}

func withoutLength(t *testing.T, kind string, make func(*stream) string) *http.Request {
	r := sign(t, "PUT", key, kind, "")
	return wire(t, withBody(r, make(newStream(seedOf(r)))))
}

func TestDecodedLength(t *testing.T) {
	for value, code := range map[string]string{"-1": "InvalidArgument", "+5": "InvalidArgument", "5,5": "InvalidArgument",
		"0x5": "InvalidArgument", "99999999999999999999": "EntityTooLarge"} {
		r := wire(t, sign(t, "PUT", key, unsigned, "", "X-Amz-Decoded-Content-Length", value))
		_, err := accept(t, sigv4.New(options()), r).Body(r)
		refused(t, err, code, 400)
	}
}

// However a stream is cut or changed, it never ends well with other content.
func TestEveryByteOfAStreamCounts(t *testing.T) {
	content := strings.Repeat("x", 8192) + "end"
	for _, kind := range []string{signedChunks, signedTrailer} {
		make := func(s *stream) string {
			s.chunk(content[:8192]).chunk(content[8192:]).chunk("")
			if kind == signedTrailer {
				s.trailer(crc+":AAAAAA==\n", "\r\n")
			}
			return s.out.String()
		}
		trailer := map[string]string{signedChunks: "", signedTrailer: crc}[kind]
		original := streamed(t, kind, len(content), trailer, make)
		a := accept(t, sigv4.New(options()), original)
		raw, _ := io.ReadAll(original.Body)
		try := func(body []byte) (string, *sigv4.Body, error) {
			// Verify made a for one body; each try needs its own.
			a = accept(t, sigv4.New(options()), original)
			original.Body = io.NopCloser(bytes.NewReader(body))
			return read(a, original)
		}
		for i := 0; i < len(raw); i++ {
			if i > 200 && i < 8100 { // within the first chunk's data a sample will do
				i += 100
			}
			changed := bytes.Clone(raw)
			changed[i] ^= 1
			got, b, err := try(changed)
			if err == nil && (got != content || trailer != "" && b.Trailer().Get(crc) != "AAAAAA==") {
				t.Errorf("%s: byte %d changed: accepted %q", kind, i, changed[max(0, i-20):min(len(raw), i+20)])
			}
			if got, _, err := try(raw[:i]); err == nil && got != content {
				t.Errorf("%s: accepted after %d bytes", kind, i)
			}
		}
	}
}

func TestLengthIsEnforcedForChunksOfUnknownEnd(t *testing.T) {
	r := streamed(t, unsigned, 3, "", func(*stream) string { return "3\r\nabc\r\n" + strconv.Itoa(0) + "\r\n\r\n" })
	if got, _, err := read(accept(t, sigv4.New(options()), r), r); got != "abc" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
