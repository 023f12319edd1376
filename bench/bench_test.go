package main

import (
	"bytes"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/signing-elements.html, "Example of deriving a signing key".
func TestDeriveKey(t *testing.T) {
	got := hex.EncodeToString(deriveKey("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830", "us-east-1", "iam"))
	if want := "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"; got != want {
		t.Errorf("signing key %s, want %s", got, want)
	}
}

func TestWire(t *testing.T) {
	c := call{method: "PUT", path: "/b/k", query: url.Values{"uploadId": {"a b"}, "partNumber": {"1"}}, header: []string{"Range: x"}, length: 3}
	got := string(c.wire("127.0.0.1:1", time.Unix(0, 0)))
	if !strings.HasPrefix(got, "PUT /b/k?partNumber=1&uploadId=a%20b HTTP/1.1\r\nHost: 127.0.0.1:1\r\n") ||
		!strings.HasSuffix(got, "\r\nRange: x\r\nContent-Length: 3\r\n\r\n") {
		t.Errorf("wire form\n%s", got)
	}
}

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		values []float64
		q      float64
		want   float64
	}{{[]float64{3}, .5, 3}, {[]float64{9, 1, 5}, .5, 5}, {[]float64{4, 1, 3, 2}, .5, 2.5}, {[]float64{1, 2, 3, 4, 5}, .25, 2}, {nil, .5, 0}} {
		if got := quantile(test.values, test.q); got != test.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", test.values, test.q, got, test.want)
		}
	}
}

func TestField(t *testing.T) {
	head := []byte("HTTP/1.1 200 OK\r\nX-Content-Length: 1\r\ncontent-LENGTH:  17 \r\nETag: \"a\"")
	if got := string(field(head, "content-length")); got != "17" {
		t.Errorf("Content-Length %q", got)
	}
	if got := string(field(head, "etag")); got != `"a"` {
		t.Errorf("ETag %q", got)
	}
	if got := field(head, "x-none"); got != nil {
		t.Errorf("an absent field is %q", got)
	}
}

// TestClientTakesWhatComes has a server send responses in pieces of all sizes, several at once.
func TestClientTakesWhatComes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	stream := bytes.Repeat([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), 100)
	go func() {
		for piece := 1; ; piece++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for rest := stream; len(rest) > 0; {
				n := min(piece, len(rest))
				if _, err := c.Write(rest[:n]); err != nil {
					return
				}
				rest = rest[n:]
			}
			c.Close()
		}
	}()
	for range 60 {
		c, err := dial(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.buf = c.buf[:100] // so that it wraps
		for i := range 100 {
			r, err := c.do(false)
			if err != nil || r.status != 200 || string(r.body) != "hello" {
				t.Fatalf("response %d: %d %q %v", i, r.status, r.body, err)
			}
		}
		c.close()
	}
}

// TestRunCountsWrongAnswers: a server that answers otherwise than wanted is an error and no measurement.
func TestRunCountsWrongAnswers(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bench", "4k"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := content("x", 4*kib)
	if err := os.WriteFile(filepath.Join(dir, "bench", "4k", "0"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{rawWrite, rawSendfile, serveContent} {
		addr, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		go serve(kind, addr, dir)
		c := dialSoon(t, addr)
		defer c.close()
		whole, part := call{method: "GET", path: "/bench/4k/0", length: -1}, call{method: "GET", path: "/bench/4k/0", header: []string{"Range: bytes=100-199"}, length: -1}
		if r, err := c.do(false, whole.wire(addr, time.Now())); err != nil || !bytes.Equal(r.body, want) {
			t.Errorf("%s: %d bytes, %v", kind, len(r.body), err)
		}
		if r, err := c.do(false, part.wire(addr, time.Now())); err != nil || r.status != 206 || !bytes.Equal(r.body, want[100:200]) {
			t.Errorf("%s: range: status %d, %d bytes, %v", kind, r.status, len(r.body), err)
		}
		s := &server{addr: addr}
		good := signed(s, 2, []call{whole}, load{status: 200, length: 4 * kib})
		if got, err := run(addr, time.Second/2, good); err != nil || got.ops == 0 {
			t.Errorf("%s: %d operations, %v", kind, got.ops, err)
		}
		for _, bad := range []load{{status: 206, length: 4 * kib}, {status: 200, length: 5}, {status: 200, length: 4 * kib, held: true}} {
			if _, err := run(addr, time.Second/2, signed(s, 1, []call{whole}, bad)); err == nil {
				t.Errorf("%s: wanted %+v and got no error", kind, bad)
			}
		}
	}
}

// dialSoon dials a server that is being started.
func dialSoon(t *testing.T, addr string) *conn {
	t.Helper()
	if _, err := netip.ParseAddrPort(addr); err != nil {
		t.Fatal(err)
	}
	for {
		if c, err := dial(addr); err == nil {
			return c
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the server does not listen")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestDurableLoop(t *testing.T) {
	dir := t.TempDir()
	got, err := durableLoop(dir, 2, 0, 100, 20*time.Millisecond)
	if err != nil || got.ops == 0 {
		t.Fatalf("%d operations, %v", got.ops, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || int64(len(files)) != got.ops {
		t.Fatalf("%d files of %d operations, %v", len(files), got.ops, err)
	}
	f, err := os.Open(filepath.Join(dir, files[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || !bytes.Equal(b, content("put", 100)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
