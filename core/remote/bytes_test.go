package remote_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/remote"
)

// pattern returns n bytes that tell their position.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

// writing returns a server of a fake whose writers come out of the channel, a proxy before it and a client.
func writing(t *testing.T, commit func(ctx context.Context, w *fakeWriter) (core.Info, error)) (*proxy, *remote.Client, chan *fakeWriter) {
	writers := make(chan *fakeWriter, 16)
	f := &fake{stat: named, create: func(ctx context.Context, _ core.Path, _ core.CreateOptions) (core.Writer, error) {
		w := newFakeWriter(ctx)
		w.commit = commit
		writers <- w
		return w, nil
	}}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	p := newProxy(t, addr)
	return p, dial(t, quick(p.addr())), writers
}

func mustCreate(t *testing.T, ctx context.Context, c *remote.Client, o core.CreateOptions, data []byte) core.Writer {
	t.Helper()
	w, err := c.Create(ctx, core.Root, o)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(data); err != nil || n != len(data) {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(data), err)
	}
	return w
}

func TestWriterAndReaderOfAllSizes(t *testing.T) {
	var stored []byte
	f := &fake{
		create: func(ctx context.Context, _ core.Path, _ core.CreateOptions) (core.Writer, error) {
			w := newFakeWriter(ctx)
			w.commit = func(_ context.Context, w *fakeWriter) (core.Info, error) {
				stored = bytes.Clone(w.data.Bytes())
				return core.Info{Size: int64(len(stored)), ETag: "tag"}, nil
			}
			return w, nil
		},
		open: func(context.Context, core.Path, core.Range) (core.Reader, error) {
			return &fakeReader{Reader: bytes.NewReader(stored), info: core.Info{ETag: "tag"}, off: 5, n: int64(len(stored)), closed: make(chan struct{})}, nil
		},
	}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	c := dial(t, remote.Options{Addrs: []string{addr}})
	for _, n := range []int{0, 1, remote.SmallWrite, remote.SmallWrite + 1, 256 << 10, 256<<10 + 1, 12 << 20} {
		for _, size := range []int64{int64(n), -1} {
			data := pattern(n)
			w, err := c.Create(t.Context(), core.Root, core.CreateOptions{Size: size})
			if err != nil {
				t.Fatal(err)
			}
			for rest := data; len(rest) > 0; {
				k := min(len(rest), 100_000)
				if _, err := w.Write(rest[:k]); err != nil {
					t.Fatal(err)
				}
				rest = rest[k:]
			}
			i, err := w.Commit(t.Context(), core.CommitOptions{})
			if err != nil || i.Size != int64(n) || i.ETag != "tag" || !bytes.Equal(stored, data) {
				t.Fatalf("%d bytes: got %+v, %v; %d bytes are stored", n, i, err, len(stored))
			}
			if err := w.Abort(); err != nil {
				t.Errorf("Abort after Commit: %v", err)
			}
			if _, err := w.Commit(t.Context(), core.CommitOptions{}); !errors.Is(err, errs.Invalid) {
				t.Errorf("a second Commit: got %v", err)
			}
			if _, err := w.Write([]byte("x")); !errors.Is(err, errs.Invalid) {
				t.Errorf("a Write after Commit: got %v", err)
			}
		}
		for _, how := range []func(r io.Reader) ([]byte, error){
			func(r io.Reader) ([]byte, error) { return io.ReadAll(struct{ io.Reader }{r}) },
			func(r io.Reader) ([]byte, error) {
				var b bytes.Buffer
				_, err := r.(io.WriterTo).WriteTo(&b)
				return b.Bytes(), err
			},
		} {
			r, err := c.Open(t.Context(), core.Root, core.All)
			if err != nil {
				t.Fatal(err)
			}
			if off, k := r.Span(); off != 5 || k != int64(n) || r.Info().ETag != "tag" {
				t.Errorf("got span %d, %d and %+v", off, k, r.Info())
			}
			got, err := how(r)
			if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, stored) {
				t.Errorf("%d bytes: read %d, %v", n, len(got), err)
			}
			if _, err := r.Read(make([]byte, 1)); err == nil {
				t.Error("a closed reader reads")
			}
		}
	}
}

func TestBrokenConnectionInMidWrite(t *testing.T) {
	p, c, writers := writing(t, nil)
	w := mustCreate(t, t.Context(), c, core.CreateOptions{Size: -1}, pattern(1<<20))
	p.heal()
	if how := within(t, "the server's writer", within(t, "create", writers).ended); how != "abort" {
		t.Errorf("the server's writer ended with %s", how)
	}
	if _, err := w.Commit(t.Context(), core.CommitOptions{}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
}

// TestCommitWhoseAnswerIsLost asks for the outcome.
func TestCommitWhoseAnswerIsLost(t *testing.T) {
	var p *proxy
	var commits atomic.Int32
	made := make(chan struct{}, 4)
	p, c, _ := writing(t, func(_ context.Context, w *fakeWriter) (core.Info, error) {
		commits.Add(1)
		p.deaf.Store(true)
		made <- struct{}{}
		return core.Info{Size: int64(w.data.Len()), ETag: "made"}, nil
	})
	for i, size := range []int64{-1, 4} { // a stream, and a call
		w := mustCreate(t, t.Context(), c, core.CreateOptions{Size: size}, []byte("data"))
		got := make(chan error, 1)
		go func() {
			i, err := w.Commit(t.Context(), core.CommitOptions{})
			if err == nil && (i.Size != 4 || i.ETag != "made") {
				t.Errorf("got %+v", i)
			}
			got <- err
		}()
		within(t, "commit", made)
		p.heal()
		if err := within(t, "the caller", got); err != nil || commits.Load() != int32(i+1) {
			t.Errorf("size %d: got %v after %d commits", size, err, commits.Load())
		}
	}
}

// TestCommitThatDoesNotArrive never takes place once the client has been told so.
func TestCommitThatDoesNotArrive(t *testing.T) {
	p, c, writers := writing(t, nil)
	w := mustCreate(t, t.Context(), c, core.CreateOptions{Size: -1}, []byte("data"))
	server := within(t, "create", writers)
	p.mute.Store(true)
	got := make(chan error, 1)
	go func() {
		_, err := w.Commit(t.Context(), core.CommitOptions{})
		got <- err
	}()
	waitFor(t, "the silence", func() bool { return c.Leader() == "" })
	p.heal()
	if err := within(t, "the caller", got); !errors.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
	if how := within(t, "the server's writer", server.ended); how != "abort" {
		t.Errorf("the server's writer ended with %s", how)
	}
}

// TestCommitThatIsCancelled has a Commit that a context cannot stop any more, and one that it stops.
func TestCommitThatIsCancelled(t *testing.T) {
	began := make(chan struct{}, 1)
	var stops atomic.Bool
	_, c, _ := writing(t, func(ctx context.Context, w *fakeWriter) (core.Info, error) {
		began <- struct{}{}
		<-ctx.Done()
		if stops.Load() {
			return core.Info{}, context.Cause(ctx)
		}
		return core.Info{ETag: "made"}, nil
	})
	for _, size := range []int64{-1, 4} {
		for _, stop := range []bool{true, false} {
			stops.Store(stop)
			w := mustCreate(t, t.Context(), c, core.CreateOptions{Size: size}, []byte("data"))
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan error, 1)
			go func() {
				i, err := w.Commit(ctx, core.CommitOptions{})
				if err == nil && i.ETag != "made" {
					t.Errorf("got %+v", i)
				}
				got <- err
			}()
			within(t, "commit", began)
			cancel()
			if err := within(t, "the caller", got); stop && !errors.Is(err, context.Canceled) || !stop && err != nil {
				t.Errorf("size %d, stopped %v: got %v", size, stop, err)
			}
		}
	}
}

func TestWriterWhoseContextEnds(t *testing.T) {
	_, c, writers := writing(t, nil)
	for _, size := range []int64{-1, 4} {
		ctx, cancel := context.WithCancel(t.Context())
		w := mustCreate(t, ctx, c, core.CreateOptions{Size: size}, []byte("data"))
		cancel()
		if _, err := w.Commit(t.Context(), core.CommitOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("size %d: got %v", size, err)
		}
	}
	if how := within(t, "the server's writer", within(t, "create", writers).ended); how != "abort" {
		t.Errorf("the server's writer ended with %s", how)
	}
	w := mustCreate(t, t.Context(), c, core.CreateOptions{Size: -1}, []byte("data"))
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
	select {
	case how := <-within(t, "create", writers).ended:
		if how != "abort" {
			t.Errorf("the server's writer ended with %s", how)
		}
	default:
		t.Error("Abort returned before the bytes were dropped")
	}
}

// failingWriter fails at its first byte.
type failingWriter struct{ *fakeWriter }

func (failingWriter) Write([]byte) (int, error) {
	return 0, errs.New("test.Write", "name", errs.NoSpace, "the store is full")
}

func TestWriteThatTheServerRefuses(t *testing.T) {
	f := &fake{create: func(ctx context.Context, _ core.Path, o core.CreateOptions) (core.Writer, error) {
		if o.Mode == core.CreateNew {
			return nil, errs.E("test.Create", "name", errs.Exist, nil)
		}
		return failingWriter{newFakeWriter(ctx)}, nil
	}}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	c := dial(t, remote.Options{Addrs: []string{addr}})
	if _, err := c.Create(t.Context(), core.Root, core.CreateOptions{Mode: core.CreateNew, Size: -1}); !errors.Is(err, errs.Exist) {
		t.Errorf("got %v", err)
	}
	for _, size := range []int64{-1, 4} {
		w := mustCreate(t, t.Context(), c, core.CreateOptions{Size: size}, []byte("data"))
		if _, err := w.Commit(t.Context(), core.CommitOptions{}); !errors.Is(err, errs.NoSpace) {
			t.Errorf("size %d: got %v", size, err)
		}
	}
	w, err := c.Create(t.Context(), core.Root, core.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil { // flow control stops it if the refusal does not
		_, err = w.Write(pattern(1 << 20))
	}
	if !errors.Is(err, errs.NoSpace) {
		t.Errorf("got %v", err)
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
	w = mustCreate(t, t.Context(), c, core.CreateOptions{Size: 4}, []byte("data"))
	if _, err := w.Write([]byte("x")); !errors.Is(err, errs.Invalid) {
		t.Errorf("a byte too many: got %v", err)
	}
	if _, err := w.Commit(t.Context(), core.CommitOptions{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("a byte too many: got %v", err)
	}
}

func TestReaderThatIsClosedEarly(t *testing.T) {
	closed := make(chan struct{})
	f := &fake{open: func(ctx context.Context, _ core.Path, _ core.Range) (core.Reader, error) {
		endless := io.MultiReader(strings.NewReader("first"), endlessReader{})
		return &fakeReader{Reader: endless, n: 1 << 50, closed: closed}, nil
	}}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	c := dial(t, remote.Options{Addrs: []string{addr}})
	r, err := c.Open(t.Context(), core.Root, core.All)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(r, b); err != nil || string(b) != "first" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	within(t, "the server's reader", closed)
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestReaderThatFails(t *testing.T) {
	var f fake
	addr, stop := serve(t, remote.ServerOptions{Tree: &f, Authenticator: users{}}, 0)
	p := newProxy(t, addr)
	c := dial(t, quick(p.addr()))
	reader := func(src io.Reader, n int64) {
		f.open = func(context.Context, core.Path, core.Range) (core.Reader, error) {
			return &fakeReader{Reader: src, n: n, closed: make(chan struct{})}, nil
		}
	}
	bad := errs.New("test.Read", "name", errs.Conflict, "the version has gone")
	reader(io.MultiReader(strings.NewReader("some"), failingReader{bad}), 10)
	r, err := c.Open(t.Context(), core.Root, core.All)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, errs.Conflict) {
		t.Errorf("got %v", err)
	}
	r.Close()

	reader(strings.NewReader("four"), 5)
	if r, err = c.Open(t.Context(), core.Root, core.All); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, errs.Unavailable) {
		t.Errorf("a byte is missing: got %q, %v", got, err)
	}
	r.Close()

	reader(endlessReader{}, 1<<50)
	for name, end := range map[string]func(cancel func()){"cancelled": func(cancel func()) { cancel() }, "broken": func(func()) { p.heal() }} {
		ctx, cancel := context.WithCancel(t.Context())
		if r, err = c.Open(ctx, core.Root, core.All); err != nil {
			t.Fatal(err)
		}
		end(cancel)
		_, err := io.Copy(io.Discard, r)
		if want := map[string]error{"cancelled": context.Canceled, "broken": errs.Unavailable}[name]; !errors.Is(err, want) {
			t.Errorf("%s: got %v", name, err)
		}
		r.Close()
		cancel()
	}

	f.open = func(context.Context, core.Path, core.Range) (core.Reader, error) {
		return nil, errs.E("test.Open", "name", errs.Range, nil)
	}
	if _, err := c.Open(t.Context(), core.Root, core.All); !errors.Is(err, errs.Range) {
		t.Errorf("got %v", err)
	}
	stop()
	began := time.Now()
	if _, err := c.Open(t.Context(), core.Root, core.All); !errors.Is(err, errs.Unavailable) || time.Since(began) > 10*time.Second {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }
