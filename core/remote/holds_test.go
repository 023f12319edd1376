package remote_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/hold"
	"github.com/sluicefs/sluice/core/hold/holdtest"
	"github.com/sluicefs/sluice/core/remote"
)

func verify(t testing.TB) func([]byte) ([]byte, error) {
	s := sealer(t)
	return func(call []byte) ([]byte, error) { return s.VerifyCall(call, time.Now()) }
}

func sign(t testing.TB) func([]byte) []byte {
	s := sealer(t)
	return func(text []byte) []byte { return s.SignCall(text, time.Now().Add(time.Minute)) }
}

// serveHolder runs the endpoint of a worker that holds, until stop.
func serveHolder(t testing.TB, h core.Holder, config *tls.Config) (n cluster.Node, stop func()) {
	t.Helper()
	addr, stop := serveWorker(t, remote.PagesOptions{Holder: h, Verify: verify(t), TLS: config})
	return cluster.Node{Name: h.Name(), Role: cluster.Worker, Pages: addr, Hold: 1 << 30, Host: "host of " + h.Name()}, stop
}

func store(t testing.TB, name string) *hold.Store {
	t.Helper()
	s, err := hold.Open(hold.Options{Name: name, Dir: t.TempDir(), Quota: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// How long a caller waits for who says nothing: in tests that are of nobody's silence, and in those that are.
const (
	patient   = 30 * time.Second
	impatient = 500 * time.Millisecond
)

// caller returns a client that speaks to workers only, and takes one for lost that is silent so long.
func caller(t testing.TB, config *tls.Config, silence time.Duration) *remote.Client {
	t.Helper()
	return dial(t, remote.Options{Addrs: []string{"127.0.0.1:1"}, TLS: config, Heartbeat: 50 * time.Millisecond, Silence: silence, StorePatience: time.Second})
}

func holders(t testing.TB, c *remote.Client, nodes ...cluster.Node) *remote.Holders {
	t.Helper()
	return remote.NewHolders(c, remote.HoldersOptions{Nodes: func() []cluster.Node { return nodes }, Sign: sign(t)})
}

// TestRemoteHolder runs the suite of a Holder over the page stream.
func TestRemoteHolder(t *testing.T) {
	ca := newAuthority(t)
	server := &tls.Config{Certificates: []tls.Certificate{ca.issue("worker")}, ClientCAs: ca.pool, ClientAuth: tls.RequireAndVerifyClientCert}
	for name, config := range map[string][2]*tls.Config{"plain": {}, "TLS": {server, ca.client("master")}} {
		t.Run(name, func(t *testing.T) {
			c := caller(t, config[1], patient)
			holdtest.Run(t, store(t, "w").Persistent(), func(t *testing.T) core.Holder {
				node, _ := serveHolder(t, store(t, "w"), config[0])
				h, ok := holders(t, c, node).Holder("w")
				if !ok {
					t.Fatal("the worker is not there")
				}
				return h
			})
		})
	}
}

// TestHoldersAreChosen checks whom Choose takes.
func TestHoldersAreChosen(t *testing.T) {
	node := func(name, domain string, f func(*cluster.Node)) cluster.Node {
		n := cluster.Node{Name: name, Role: cluster.Worker, Pages: "127.0.0.1:1", Hold: 1 << 30, Host: "h", Domain: domain}
		if f != nil {
			f(&n)
		}
		return n
	}
	own := store(t, "own")
	h := remote.NewHolders(caller(t, nil, impatient), remote.HoldersOptions{Sign: sign(t), Own: own, Nodes: func() []cluster.Node {
		return []cluster.Node{
			node("own", "a", nil), node("a2", "a", nil), node("b1", "b", nil), node("b2", "b", nil), node("c", "c", func(n *cluster.Node) { n.Volatile = true }),
			node("full", "d", func(n *cluster.Node) { n.Hold = 0 }), node("leaves", "e", func(n *cluster.Node) { n.Draining = true }),
			node("master", "f", func(n *cluster.Node) { n.Role = cluster.Master }), node("mute", "g", func(n *cluster.Node) { n.Pages = "" }),
		}
	}})
	names := func(all []core.Holder) (names []string) {
		for _, h := range all {
			names = append(names, h.Name())
		}
		return names
	}
	seen := map[string]bool{}
	for range 100 {
		for _, name := range names(h.Choose(5, false)) {
			seen[name] = true
		}
		for n, want := range []int{0, 1, 2, 2} {
			if got := names(h.Choose(n, true)); len(got) != want || want > 0 && got[0] != "own" || slices.Contains(got, "c") {
				t.Fatalf("Choose(%d, durable) = %v", n, got)
			}
		}
		if got := names(h.Choose(5, false)); len(got) != 3 || !slices.Contains(got, "c") {
			t.Fatalf("Choose(5) = %v", got)
		}
	}
	if want := map[string]bool{"own": true, "b1": true, "b2": true, "c": true}; fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("over time %v were chosen, want %v", seen, want)
	}
	if got := names(h.All()); !slices.Equal(got, []string{"own", "a2", "b1", "b2", "c", "leaves"}) {
		t.Errorf("All = %v", got)
	}
	for name, want := range map[string]bool{"own": true, "leaves": true, "full": false, "nobody": false} {
		if _, ok := h.Holder(name); ok != want {
			t.Errorf("Holder(%s): %v", name, ok)
		}
	}
	if got := h.Leaving(); !slices.Equal(got, []string{"leaves"}) {
		t.Errorf("Leaving = %v", got)
	}
	for range 20 { // whoever is to have the bytes too is in another domain
		if got := names(h.Choose(5, true, "b2", "nobody")); !slices.Equal(got, []string{"own"}) {
			t.Fatalf("Choose beside b2 = %v", got)
		}
	}
	if got := names(h.Choose(5, true, "a2")); len(got) != 1 || got[0][0] != 'b' {
		t.Errorf("Choose beside a2 = %v", got)
	}
	// What does not answer is not chosen for a while.
	for _, x := range h.Choose(2, true)[1:] {
		if _, err := x.Hold(t.Context(), holdtest.ID(1)); !errors.Is(err, errs.Unavailable) {
			t.Fatalf("a worker that is not there: %v", err)
		}
		if got := names(h.Choose(5, true)); len(got) != 2 || slices.Contains(got, x.Name()) {
			t.Errorf("after %s did not answer %v are chosen", x.Name(), got)
		}
	}
}

// TestHoldersAreChosenAcrossZones has the replicas of a write go to as many zones as there are.
func TestHoldersAreChosenAcrossZones(t *testing.T) {
	zone := map[string]string{"x1": "x", "x2": "x", "x3": "x", "y1": "y", "y2": "y"}
	h := remote.NewHolders(caller(t, nil, impatient), remote.HoldersOptions{Sign: sign(t), Nodes: func() (all []cluster.Node) {
		for name, z := range zone {
			all = append(all, cluster.Node{Name: name, Role: cluster.Worker, Pages: "127.0.0.1:1", Hold: 1, Host: name, Zone: z})
		}
		return all
	}})
	for range 50 {
		if got := h.Choose(2, true); len(got) != 2 || zone[got[0].Name()] == zone[got[1].Name()] {
			t.Fatalf("two in one zone: %s and %s", got[0].Name(), got[1].Name())
		}
		if got := h.Choose(1, true, "x1", "x2"); len(got) != 1 || zone[got[0].Name()] != "y" {
			t.Fatalf("beside x1 and x2: %s", got[0].Name())
		}
		if got := h.Choose(9, true, "y1"); len(got) != 4 {
			t.Fatalf("%d of four are chosen", len(got))
		}
	}
}

// TestOnlyMastersHold has calls come that are not signed under the key, or are another worker's.
func TestOnlyMastersHold(t *testing.T) {
	s := store(t, "w")
	if err := holdtest.Put(t.Context(), s, holdtest.ID(1), 100, false); err != nil {
		t.Fatal(err)
	}
	node, _ := serveHolder(t, s, nil)
	bare, stop := servePages(t, "bare", &memoryPages{})
	defer stop()
	bare.Hold = 1
	other := node
	other.Name = "other"
	c := caller(t, nil, impatient)
	good := sign(t)
	for name, k := range map[string]struct {
		node cluster.Node
		sign func([]byte) []byte
		want errs.Kind
	}{
		"unsigned":       {node, func(text []byte) []byte { return text }, errs.Permission},
		"changed":        {node, func(text []byte) []byte { b := good(text); b[len(b)-1] ^= 1; return b }, errs.Permission},
		"expired":        {node, func(text []byte) []byte { return sealer(t).SignCall(text, time.Now().Add(-time.Minute)) }, errs.Permission},
		"another worker": {other, good, errs.Unavailable},
		"no holder":      {bare, good, errs.Unsupported},
		"nonsense":       {node, func([]byte) []byte { return good([]byte("nonsense")) }, errs.Invalid},
	} {
		h, ok := remote.NewHolders(c, remote.HoldersOptions{Nodes: func() []cluster.Node { return []cluster.Node{k.node} }, Sign: k.sign}).Holder(k.node.Name)
		if !ok {
			t.Fatal(name)
		}
		_, err := h.Hold(t.Context(), holdtest.ID(2))
		if !errors.Is(err, k.want) {
			t.Errorf("%s: Hold: %v, want %v", name, err, k.want)
		}
		if _, err := h.Held(t.Context(), holdtest.ID(1), 0, 100); !errors.Is(err, k.want) {
			t.Errorf("%s: Held: %v, want %v", name, err, k.want)
		}
		if err := h.Release(t.Context(), holdtest.ID(1)); !errors.Is(err, k.want) {
			t.Errorf("%s: Release: %v, want %v", name, err, k.want)
		}
		for _, err := range h.Holds(t.Context()) {
			if !errors.Is(err, k.want) {
				t.Errorf("%s: Holds: %v, want %v", name, err, k.want)
			}
		}
	}
	if err := holdtest.Get(t.Context(), s, holdtest.ID(1), 100); err != nil {
		t.Error(err)
	}
}

// hooked is a Holder whose writers do what their hooks say.
type hooked struct {
	core.Holder
	mu     sync.Mutex
	write  func() error
	commit func(ctx context.Context) error
}

func (h *hooked) set(write func() error, commit func(ctx context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.write, h.commit = write, commit
}

func (h *hooked) hooks() (write func() error, commit func(ctx context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.write, h.commit
}

type hookedWriter struct {
	core.HoldWriter
	h *hooked
}

func (h *hooked) Hold(ctx context.Context, id core.HeldID) (core.HoldWriter, error) {
	w, err := h.Holder.Hold(ctx, id)
	return &hookedWriter{w, h}, err
}

func (w *hookedWriter) Write(p []byte) (int, error) {
	if write, _ := w.h.hooks(); write != nil {
		if err := write(); err != nil {
			return 0, err
		}
	}
	return w.HoldWriter.Write(p)
}

func (w *hookedWriter) Commit(ctx context.Context, durable bool) error {
	if _, commit := w.h.hooks(); commit != nil {
		if err := commit(ctx); err != nil {
			return errors.Join(err, w.Abort())
		}
	}
	return w.HoldWriter.Commit(ctx, durable)
}

// TestWorkerSaysWhyItFails has a worker refuse in the middle of an attempt, and at its end.
func TestWorkerSaysWhyItFails(t *testing.T) {
	s := store(t, "w")
	full := errs.New("test", "", errs.NoSpace, "the disk is full")
	x := &hooked{Holder: s}
	node, _ := serveHolder(t, x, nil)
	h, _ := holders(t, caller(t, nil, impatient), node).Holder("w")
	var writes atomic.Int32
	x.set(func() error {
		if writes.Add(1) > 2 {
			return full
		}
		return nil
	}, nil)
	w, err := h.Hold(t.Context(), holdtest.ID(1))
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	for range 1000 { // it is not all taken first
		if _, err = w.Write(data); err != nil {
			break
		}
	}
	if !errors.Is(err, errs.NoSpace) {
		t.Errorf("Write = %v", err)
	}
	if err := w.Commit(t.Context(), false); !errors.Is(err, errs.NoSpace) {
		t.Errorf("Commit = %v", err)
	}
	x.set(nil, func(context.Context) error { return full })
	if err := holdtest.Put(t.Context(), h, holdtest.ID(2), 1000, false); !errors.Is(err, errs.NoSpace) {
		t.Errorf("Put = %v", err)
	}
	x.set(nil, func(ctx context.Context) error { // longer than Silence, shorter than StorePatience
		select {
		case <-time.After(700 * time.Millisecond):
		case <-ctx.Done():
		}
		return ctx.Err()
	})
	if err := holdtest.Put(t.Context(), h, holdtest.ID(3), 1000, false); err != nil {
		t.Errorf("a slow disk: %v", err)
	}
	if err := holdtest.Get(t.Context(), h, holdtest.ID(3), 1000); err != nil {
		t.Error(err)
	}
	waitFor(t, "what failed to be dropped", func() bool { return len(holdtest.All(t, s)) == 1 })
}

// TestLostWorkerFailsQuickly loses a worker in the middle of an attempt, while it commits, and while it is read.
func TestLostWorkerFailsQuickly(t *testing.T) {
	s := store(t, "w")
	entered := make(chan struct{}, 10)
	x := &hooked{Holder: s, commit: func(ctx context.Context) error {
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}}
	node, stop := serveHolder(t, x, nil)
	p := newProxy(t, node.Pages)
	behind := node
	behind.Pages = p.addr()
	h, _ := holders(t, caller(t, nil, impatient), behind).Holder("w")
	const large = 64 << 20 // more than the sockets on the way hold: what is read after the silence begins cannot all have come before it
	if err := holdtest.Put(t.Context(), s, holdtest.ID(9), large, false); err != nil {
		t.Fatal(err)
	}
	begin := func(n int) core.HoldWriter {
		w, err := h.Hold(t.Context(), holdtest.ID(n))
		if err == nil {
			_, err = w.Write(make([]byte, 1000))
		}
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	quick := func(what string, f func() error) {
		t.Helper()
		began := time.Now()
		if err := f(); !errors.Is(err, errs.Unavailable) {
			t.Errorf("%s: %v", what, err)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("%s took %v", what, d)
		}
	}
	writes := func(w core.HoldWriter) func() error {
		return func() error {
			for range 1000 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	early := begin(2)
	r, err := h.Held(t.Context(), holdtest.ID(9), 0, large)
	if err != nil {
		t.Fatal(err)
	}
	p.mute.Store(true)
	p.deaf.Store(true)
	quick("committing to one that is silent", func() error { return early.Commit(t.Context(), false) })
	quick("reading from one that is silent", func() error { _, err := io.Copy(io.Discard, r); return err })
	p.heal()

	written, committed := begin(3), begin(4)
	done := make(chan error, 1)
	go func() { done <- committed.Commit(t.Context(), false) }()
	<-entered
	stop()
	quick("committing to one that has gone", func() error { return <-done })
	quick("writing to one that has gone", writes(written))
	if err := written.Abort(); err != nil {
		t.Error(err)
	}
	if got := len(holdtest.All(t, s)); got != 1 {
		t.Errorf("%d attempts are held", got)
	}
}

// TestLostMasterHoldsNothing ends a master's connections in the middle of an attempt.
func TestLostMasterHoldsNothing(t *testing.T) {
	s := store(t, "w")
	node, _ := serveHolder(t, s, nil)
	c := caller(t, nil, impatient)
	h, _ := holders(t, c, node).Holder("w")
	for n, size := range []int{1000, 3 << 20} {
		w, err := h.Hold(t.Context(), holdtest.ID(n))
		if err == nil {
			_, err = w.Write(make([]byte, size))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the attempts to be dropped", func() bool {
		for n := range 2 {
			w, err := s.Hold(t.Context(), holdtest.ID(n))
			if err != nil {
				return false
			}
			if err := w.Abort(); err != nil {
				t.Fatal(err)
			}
		}
		return len(holdtest.All(t, s)) == 0
	})
}

// TestCommitEndsWithItsContext has a caller give up while the worker syncs.
func TestCommitEndsWithItsContext(t *testing.T) {
	s := store(t, "w")
	entered := make(chan struct{})
	node, _ := serveHolder(t, &hooked{Holder: s, commit: func(ctx context.Context) error {
		close(entered)
		<-ctx.Done() // the worker notices
		return ctx.Err()
	}}, nil)
	h, _ := holders(t, caller(t, nil, impatient), node).Holder("w")
	w, err := h.Hold(t.Context(), holdtest.ID(1))
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-entered; cancel(gone) }()
	if err := w.Commit(ctx, false); !errors.Is(err, gone) {
		t.Errorf("Commit = %v", err)
	}
	if got := len(holdtest.All(t, s)); got != 0 {
		t.Errorf("%d attempts are held", got)
	}
}
