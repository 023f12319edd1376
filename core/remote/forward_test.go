package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/remote"
)

// ask sends a request through a tunnel and returns what came back.
func ask(ctx context.Context, t *testing.T, tunnel *remote.Tunnel, method, uri string, body io.Reader) (status int, header http.Header, got string, err error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, uri, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Basic c2VjcmV0")
	r.Header.Set("X-Field", "value")
	resp, err := tunnel.RoundTrip(r)
	if err != nil {
		return 0, nil, "", err
	}
	b, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); cerr != nil {
		t.Error(cerr)
	}
	return resp.StatusCode, resp.Header, string(b), err
}

// echoes answers with what it was asked.
func echoes(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Seen", r.Header.Get("Authorization")+r.Header.Get("X-Field"))
	w.Header().Set("X-Who", core.PrincipalOf(r.Context()).User+" "+core.RequestID(r.Context()))
	w.WriteHeader(http.StatusTeapot)
	fmt.Fprintf(w, "%s %s %d\n", r.Method, r.RequestURI, r.ContentLength)
	io.Copy(w, r.Body)
}

func TestForward(t *testing.T) {
	f := &fake{stat: named}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}, Admin: http.HandlerFunc(echoes)}, 0)
	c := dial(t, quick(addr))
	ctx := core.WithRequestID(core.WithPrincipal(t.Context(), core.Principal{User: "ann", Super: true}), "id")
	large := strings.Repeat("0123456789abcdef", 1<<16)
	for _, k := range []struct {
		method, uri string
		body        io.Reader
		want        string
	}{
		{"GET", "/api/v1/nodes?x=%2F", nil, "GET /api/v1/nodes?x=%2F 0\n"},
		{"POST", "/", strings.NewReader("body"), "POST / 4\nbody"},
		{"PUT", "/a%2Fb", strings.NewReader(large), "PUT /a%2Fb 1048576\n" + large},
		{"PUT", "/a", struct{ io.Reader }{strings.NewReader(large)}, "PUT /a -1\n" + large},
	} {
		status, h, got, err := ask(ctx, t, c.Tunnel(""), k.method, k.uri, k.body)
		if err != nil || status != http.StatusTeapot || got != k.want || h.Get("X-Seen") != "value" || h.Get("X-Who") != "ann id" {
			t.Errorf("%s %s: got %d, %v, %d bytes %.40q, %v", k.method, k.uri, status, h, len(got), got, err)
		}
	}
	if _, _, _, err := ask(ctx, t, c.Tunnel(addr), "GET", "/", nil); !errors.Is(err, errs.Unsupported) {
		t.Errorf("a process that answers nothing of its own: got %v", err)
	}
	for _, k := range []struct {
		uri  string
		body io.Reader
		want errs.Kind
	}{
		{"/" + strings.Repeat("x", 9<<10), nil, errs.TooLarge},
		{"/", bytes.NewReader(make([]byte, remote.MaxForwardBody+1)), errs.TooLarge},
	} {
		if _, _, _, err := ask(ctx, t, c.Tunnel(""), "PUT", k.uri, k.body); !errors.Is(err, k.want) {
			t.Errorf("got %v, want %q", err, k.want)
		}
	}
}

// TestForwardFindsTheLeader asks a master that does not lead, and then each of both for itself.
func TestForwardFindsTheLeader(t *testing.T) {
	say := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })
	}
	leads, err := remote.NewServer(remote.ServerOptions{Tree: &fake{stat: named}, Authenticator: users{}, Admin: say("leader")})
	if err != nil {
		t.Fatal(err)
	}
	leader := endpoint(t, leads, say("first"))
	standby := endpoint(t, remote.NewStandby(func(context.Context) error { return &remote.NotLeaderError{Leader: leader} }), say("second"))
	c := dial(t, quick(standby))
	for addr, want := range map[string]string{"": "leader", leader: "first", standby: "second"} {
		if status, _, got, err := ask(t.Context(), t, c.Tunnel(addr), "POST", "/", nil); err != nil || status != http.StatusOK || got != want {
			t.Errorf("%q: got %d %q, %v", addr, status, got, err)
		}
	}
}

// endpoint serves s, and local, on a port of its own.
func endpoint(t *testing.T, s *remote.Server, local http.Handler) (addr string) {
	t.Helper()
	var w remote.Switch
	w.Set(s)
	w.Local(local)
	e, err := w.Endpoint(nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- e.Serve(l) }()
	t.Cleanup(func() {
		e.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestForwardBroken breaks what carries a request, in each direction.
func TestForwardBroken(t *testing.T) {
	began, ended := make(chan struct{}, 1), make(chan error, 1)
	admin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/wait":
			began <- struct{}{}
			<-r.Context().Done()
			ended <- r.Context().Err()
		case "/read":
			_, err := io.Copy(io.Discard, r.Body)
			ended <- err
		case "/abort":
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "/header":
			w.Header().Set("X-Long", strings.Repeat("x", 64<<10))
		}
	})
	addr, stop := serve(t, remote.ServerOptions{Tree: &fake{stat: named}, Authenticator: users{}, Admin: admin}, 0)
	c := dial(t, quick(addr))
	tunnel := c.Tunnel("")

	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() { _, _, _, err := ask(ctx, t, tunnel, "POST", "/wait", nil); got <- err }()
	within(t, "a request that waits", began)
	cancel()
	if err := within(t, "a request that is given up", got); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := within(t, "the handler", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("the handler's context ended with %v", err)
	}
	// A body that fails is not taken for one that ends.
	if _, _, _, err := ask(t.Context(), t, tunnel, "POST", "/read", io.MultiReader(strings.NewReader("x"), failing{})); err == nil {
		t.Error("a request whose body failed was answered")
	}
	if err := within(t, "the handler", ended); err == nil {
		t.Error("the handler took a part of a body for the whole")
	}
	if status, _, body, err := ask(t.Context(), t, tunnel, "GET", "/abort", nil); status != http.StatusOK || body != "half" || !errors.Is(err, errs.Unavailable) {
		t.Errorf("a response that was cut off: got %d %q, %v", status, body, err)
	}
	if _, _, _, err := ask(t.Context(), t, tunnel, "GET", "/header", nil); !errors.Is(err, errs.TooLarge) {
		t.Errorf("a response whose header is too long: got %v", err)
	}
	go func() { _, _, _, err := ask(t.Context(), t, tunnel, "POST", "/wait", nil); got <- err }()
	within(t, "a request that waits", began)
	stop()
	err := within(t, "a request whose server stops", got)
	if why := core.WhyNoMaster(err); !errors.Is(err, errs.Unavailable) || !strings.Contains(why, "the change may have taken place") {
		t.Errorf("got %v", err)
	}
	within(t, "the handler", ended)
	_, _, _, err = ask(t.Context(), t, tunnel, "GET", "/", nil)
	if why := core.WhyNoMaster(err); !errors.Is(err, errs.Unavailable) || why == "" || strings.Contains(why, "taken place") {
		t.Errorf("without a server: got %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }
