package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// nothing is a Tree and an Authenticator whose methods tests do not call, but Stat.
type nothing struct {
	LeaderTree
	core.Authenticator
}

func (nothing) Stat(context.Context, core.Path) (core.Info, error) {
	return core.Info{}, errs.E("test.Stat", "", errs.NotExist, nil)
}

// TestFramesThatAreNot sends what no client sends. The stream ends; the server does not.
func TestFramesThatAreNot(t *testing.T) {
	s, err := NewServer(ServerOptions{Tree: nothing{}, Authenticator: nothing{}})
	if err != nil {
		t.Fatal(err)
	}
	options, err := GRPCOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(options...)
	s.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
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
	hello := string(framed([]byte("H\x04\x10" + strings.Repeat("s", 16) + "\x00")))
	anyone := encodePrincipal(core.Anonymous)
	head := "\x00" + string([]byte{byte(len(anyone))}) + anyone // of a call that is no change
	open := func(method string) grpc.ClientStream {
		st, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	for _, frames := range [][]string{
		{""}, {"x"}, {"\x00"}, {"\xff\xff\xff\xff\x0f"}, {string(framed([]byte("H\x01\x10" + strings.Repeat("s", 16))))},
		{string(framed([]byte("H\x04\x10" + strings.Repeat("s", 16))))}, {string(framed([]byte("H\x04\x10" + strings.Repeat("s", 16) + "\x01\x00\x01w")))},
		{string(framed([]byte("H\x04\x02ss\x00")))}, {string(framed([]byte("P\x01\x01\x00")))},
		{hello, "x"}, {hello, hello}, {hello, string(framed([]byte("C")))}, {hello, string(framed([]byte("C\x01\x01\x00")))},
		{hello, string(framed([]byte("C\x01\x01\x00\x03bad")))}, {hello, string(framed([]byte("P\x01\x01")))}, {hello, string(framed([]byte("X")))},
		{hello, string(framed([]byte("C\x01\x01\xff\xff\x01")))},
	} {
		st := open(namesMethod)
		for _, f := range frames {
			if err := st.SendMsg(plain([]byte(f))); err != nil && err != io.EOF {
				t.Fatal(err)
			}
		}
		var err error
		for err == nil {
			var m message
			if err = st.RecvMsg(&m); err == nil {
				m.free()
			}
		}
		if c := status.Code(err); c != codes.Unavailable && c != codes.InvalidArgument {
			t.Errorf("%q: the stream ended with %v", frames, err)
		}
	}
	for _, method := range []string{readMethod, writeMethod} {
		for _, first := range []string{"", "x", "O", "N\x10", "B" + strings.Repeat("x", 100)} {
			st := open(method)
			if err := errors.Join(st.SendMsg(plain([]byte(first))), st.CloseSend()); err != nil {
				t.Fatal(err)
			}
			var m message
			if err := st.RecvMsg(&m); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s %q: the stream ended with %v", method, first, err)
			}
		}
	}
	// Calls that are well formed as messages and not as calls are answered, and the stream goes on.
	st := open(namesMethod)
	if err := st.SendMsg(plain([]byte(hello))); err != nil {
		t.Fatal(err)
	}
	for i, k := range []struct {
		call string
		want errs.Kind
	}{
		{"\xfa" + head, errs.Unsupported}, {string([]byte{byte(methodStat)}) + head + "\x07", errs.Invalid}, {string([]byte{byte(methodRename)}) + head, errs.Invalid},
		{string([]byte{byte(methodStat)}) + head + "\x01\x01/x", errs.Invalid}, {string([]byte{byte(methodStat)}) + head + "\x01\x01/", errs.NotExist},
	} {
		if err := st.SendMsg(plain(framed([]byte("C" + string([]byte{byte(i + 1)}) + k.call)))); err != nil {
			t.Fatal(err)
		}
		var answered bool
		for !answered {
			var m message
			if err := st.RecvMsg(&m); err != nil {
				t.Fatal(err)
			}
			err := messages(m.take(), true, func(kind byte, c coder) error {
				if kind != kindAnswer {
					return nil
				}
				var tag uint64
				c.uvarint(&tag)
				answered = true
				if err := (&op{}).read(c, nil); tag != uint64(i+1) || errs.KindOf(err) != k.want {
					t.Errorf("%q: got %v, want %q", k.call, err, k.want)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestOutboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		body := make([]byte, 1<<20)
		for range outboxLimit / len(body) {
			if err := o.post(t.Context(), body, false); err != nil {
				t.Fatal(err)
			}
		}
		waited := make(chan error)
		go func() { waited <- o.post(t.Context(), body, false) }()
		ctx, cancel := context.WithCancel(t.Context())
		given := make(chan error)
		go func() { given <- o.post(ctx, body, false) }()
		synctest.Wait()
		cancel()
		if err := <-given; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		var err error
		n := 0
		for ; err == nil; n++ {
			err = o.post(t.Context(), body, true)
		}
		if !errors.Is(err, errs.Unavailable) || n < 2 || n > 6 {
			t.Errorf("got %v after %d messages that cannot wait", err, n)
		}
		if b := o.take(); len(*b) < 2*outboxLimit || len(*b) > maxFrame {
			t.Errorf("a frame of %d bytes", len(*b))
		}
		if err := <-waited; err != nil {
			t.Errorf("what waited for room got %v", err)
		}
		o.close(errBroken)
		if err := o.post(t.Context(), body, true); err != errBroken {
			t.Errorf("a closed outbox: got %v", err)
		}
	})
}
