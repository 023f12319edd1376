package gateway

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
)

// TestOptionsOfTheServer sends OPTIONS *, which is the protocol's to answer and not net/http's.
func TestOptionsOfTheServer(t *testing.T) {
	l, err := listen(t.Context(), "test", "127.0.0.1:0", "x")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }), slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	wg.Go(func() { _ = serve(s, l, nil) })
	defer wg.Wait()
	defer s.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusTeapot {
		t.Errorf("got %s from net/http itself", res.Status)
	}
}
