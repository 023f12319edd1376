package gateway

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestExpectContinue asks as curl does, which waits for 100 Continue before it sends a body: a handler that wants none must
// be heard at once, one that reads it must have it sent.
func TestExpectContinue(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/redirect" {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	s := httptest.NewServer(guarded(h, webhdfsPanicked, slog.New(slog.DiscardHandler), &busy{}))
	t.Cleanup(s.Close) // after the connections: it waits for them
	ask := func(path string) (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, "PUT "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
		return c, bufio.NewReader(c)
	}

	_, r := ask("/redirect")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("no answer before the body is sent: %v", err)
	}
	if resp.StatusCode != http.StatusTemporaryRedirect || !resp.Close {
		t.Errorf("got %s, close %v; want 307 and a closed connection", resp.Status, resp.Close)
	}

	c, r := ask("/read")
	line, err := r.ReadString('\n')
	if err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "body")
	resp, err = http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(resp.Body); string(got) != "body" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
