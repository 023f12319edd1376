package remote

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sluicefs/sluice/core"
)

// offer returns a message that offers r.
func offer(r httpRequest) string {
	c := coder{b: []byte{kindOpen}}
	c.header(&header{principal: encodePrincipal(core.Anonymous)})
	c.httpRequest(&r)
	return string(c.b)
}

// TestRequestsThatAreNot sends what no tunnel sends: no handler sees it, or it sees that its body is broken.
func TestRequestsThatAreNot(t *testing.T) {
	bodies := make(chan error, 1)
	var w Switch
	s, err := NewServer(ServerOptions{Tree: nothing{}, Authenticator: nothing{}, Admin: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		bodies <- err
	})})
	if err != nil {
		t.Fatal(err)
	}
	w.Set(s)
	options, err := GRPCOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(options...)
	w.Register(g)
	l := httptest.NewUnstartedServer(nil).Listener
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	good := offer(httpRequest{method: "POST", uri: "/x", length: -1})
	piece := "B" + strings.Repeat("x", 8<<20)
	var tooMuch []string
	for range MaxForwardBody>>23 + 1 {
		tooMuch = append(tooMuch, piece)
	}
	for i, k := range []struct {
		sent []string
		body bool // a handler sees it
	}{
		{sent: []string{""}}, {sent: []string{"x"}}, {sent: []string{"O"}}, {sent: []string{good[:len(good)-1]}}, {sent: []string{good + "x"}},
		{sent: []string{offer(httpRequest{method: "GET", uri: "http://elsewhere/"}), "G"}}, {sent: []string{offer(httpRequest{method: "G T", uri: "/"}), "G"}},
		{sent: []string{offer(httpRequest{method: "GET", uri: "/%zz"}), "G"}}, {sent: []string{offer(httpRequest{method: "GET", uri: "/", length: -2}), "G"}},
		{sent: []string{offer(httpRequest{method: "GET", uri: "/", length: MaxForwardBody + 1}), "G"}},
		{sent: []string{offer(httpRequest{method: "GET", uri: "/", fields: []field{{"A", "x\r\nB: y"}}}), "G"}},
		{sent: []string{offer(httpRequest{method: "GET", uri: "/", fields: []field{{"A b", "x"}}}), "G"}},
		{sent: []string{offer(httpRequest{method: "GET", uri: "/", fields: []field{{"authorization", "x"}}}), "G"}},
		{sent: []string{offer(httpRequest{method: "GET", uri: "/", fields: make([]field, 100)}), "G"}},
		{sent: []string{good, "x"}}, {sent: []string{good, "Gx"}}, {sent: []string{good}},
		{sent: []string{good, "G", "x"}, body: true}, {sent: []string{good, "G", ""}, body: true}, {sent: append([]string{good, "G"}, tooMuch...), body: true},
	} {
		st, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, forwardMethod)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range k.sent {
			if err := st.SendMsg(plain([]byte(m))); err != nil && err != io.EOF {
				t.Fatal(err)
			}
		}
		if err := st.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			var m message
			if err = st.RecvMsg(&m); err == nil {
				m.free()
			}
		}
		if !k.body {
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%d: the stream ended with %v", i, err)
			}
			continue
		}
		if err := <-bodies; err == nil {
			t.Errorf("%d: the handler saw a body that is whole", i)
		}
	}
	if len(bodies) > 0 {
		t.Error("a handler saw a request that is none")
	}
}

// FuzzRequest feeds the head of a request. What passes the check is one for net/http too, and has no line of a header that
// is two.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(offer(httpRequest{here: true, method: "POST", uri: "/api/v1/nodes?x=y", fields: []field{{"Content-Type", "application/json"}}, length: 3})))
	f.Add([]byte(offer(httpRequest{method: "G\x00", uri: "//host/%", fields: []field{{"a\r\nb", "c\nd"}}, length: -1})))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := reader(string(b), true)
		var kind byte
		var h header
		var r httpRequest
		c.byte(&kind)
		c.header(&h)
		c.httpRequest(&r)
		if c.finish() != nil || r.check() != nil {
			return
		}
		if _, err := http.NewRequestWithContext(t.Context(), r.method, r.uri, nil); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
		size := 0
		for _, f := range r.fields {
			if size += len(f.name) + len(f.value); strings.ContainsAny(f.name+f.value, "\r\n\x00") {
				t.Errorf("a field %q", f)
			}
		}
		if len(r.fields) > maxFields || size > maxFieldBytes || len(r.uri) > maxURI {
			t.Errorf("%d fields of %d bytes, a URI of %d", len(r.fields), size, len(r.uri))
		}
	})
}
