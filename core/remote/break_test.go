package remote_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/remote"
)

// quick are options of a client that gives up soon, for tests that wait for it.
func quick(addrs ...string) remote.Options {
	return remote.Options{Addrs: addrs, Heartbeat: 20 * time.Millisecond, Silence: 300 * time.Millisecond, Patience: time.Second}
}

// within fails the test unless c gets a value soon.
func within[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: nothing happened", what)
	}
	return v
}

func TestContextTravels(t *testing.T) {
	who := core.Principal{User: "ann", Groups: []string{"a", "b"}, AccessKey: "key"}
	seen := make(chan context.Context, 1)
	f := &fake{stat: func(ctx context.Context, p core.Path) (core.Info, error) {
		seen <- ctx
		return core.Info{}, nil
	}}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	c := dial(t, remote.Options{Addrs: []string{addr}})
	ctx, cancel := context.WithTimeout(core.WithPrincipal(t.Context(), who), time.Hour)
	defer cancel()
	ctx = core.WithMaxAge(core.WithRequestID(ctx, "request"), core.MaxAge{Set: true, Seconds: 7, OnlyIfCached: true})
	if _, err := c.Stat(ctx, core.Root); err != nil {
		t.Fatal(err)
	}
	got := <-seen
	if p := core.PrincipalOf(got); p.User != "ann" || len(p.Groups) != 2 || p.AccessKey != "key" || p.Super {
		t.Errorf("got %+v", p)
	}
	if core.RequestID(got) != "request" || core.MaxAgeOf(got) != core.MaxAgeOf(ctx) {
		t.Errorf("got request %q, age %+v", core.RequestID(got), core.MaxAgeOf(got))
	}
	if at, ok := got.Deadline(); !ok || time.Until(at) > time.Hour || time.Until(at) < 50*time.Minute {
		t.Errorf("got deadline %v, %v", at, ok)
	}
	if _, err := c.Stat(t.Context(), core.Root); err != nil {
		t.Fatal(err)
	}
	got = <-seen
	if p := core.PrincipalOf(got); p.User != core.Anonymous.User || core.RequestID(got) != "" || core.MaxAgeOf(got).Set {
		t.Errorf("a call without anything got %+v", p)
	}
	if _, ok := got.Deadline(); ok {
		t.Error("a call without a deadline got one")
	}
}

func TestCancelReachesTheServer(t *testing.T) {
	began, ended := make(chan struct{}, 1), make(chan error, 1)
	wait := func(ctx context.Context) error {
		began <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return context.Cause(ctx)
	}
	f := &fake{
		stat:   func(ctx context.Context, _ core.Path) (core.Info, error) { return core.Info{}, wait(ctx) },
		rename: func(ctx context.Context, _, _ core.Path) error { return wait(ctx) },
	}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	c := dial(t, remote.Options{Addrs: []string{addr}})
	for name, call := range map[string]func(ctx context.Context) error{
		"a read":   func(ctx context.Context) error { _, err := c.Stat(ctx, core.Root); return err },
		"a change": func(ctx context.Context) error { return c.Rename(ctx, core.Root, core.Root, core.RenameOptions{}) },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error, 1)
		go func() { got <- call(ctx) }()
		within(t, name, began)
		cancel()
		if err := within(t, name, got); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", name, err)
		}
		if err := within(t, name, ended); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: the server's context ended with %v", name, err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
		go func() { got <- call(ctx) }()
		within(t, name, began)
		if err := within(t, name, got); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s with a deadline: got %v", name, err)
		}
		within(t, name, ended)
		cancel()
	}
}

func TestClientThatGoesAwayCancelsItsCalls(t *testing.T) {
	began, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	f := &fake{mkdir: func(ctx context.Context, _ core.Path) (core.Info, error) {
		began <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return core.Info{}, context.Cause(ctx)
	}}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	c := dial(t, remote.Options{Addrs: []string{addr}})
	got := make(chan error, 1)
	go func() {
		_, err := c.Mkdir(t.Context(), core.Root, core.MkdirOptions{})
		got <- err
	}()
	within(t, "mkdir", began)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	within(t, "the server", ended)
	if err := within(t, "the caller", got); !errors.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Stat(t.Context(), core.Root); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a closed client: got %v", err)
	}
}

// TestRenameIsMadeOnce loses the answer of a rename with its connection.
func TestRenameIsMadeOnce(t *testing.T) {
	var calls atomic.Int32
	var p *proxy
	made := make(chan struct{}, 2)
	f := &fake{rename: func(context.Context, core.Path, core.Path) error {
		calls.Add(1)
		p.deaf.Store(true)
		made <- struct{}{}
		return errs.New("test.Rename", "name", errs.Exist, "the one answer there is")
	}}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	p = newProxy(t, addr)
	c := dial(t, remote.Options{Addrs: []string{p.addr()}})
	got := make(chan error, 1)
	go func() { got <- c.Rename(t.Context(), core.Root, core.Root, core.RenameOptions{}) }()
	within(t, "the rename", made)
	p.heal()
	if err := within(t, "the caller", got); !errors.Is(err, errs.Exist) || calls.Load() != 1 {
		t.Errorf("got %v after %d calls, want errs.Exist after 1", err, calls.Load())
	}
}

// TestRenameThatRunsIsWaitedFor breaks the connection while a rename is in progress that cannot be cancelled any more.
func TestRenameThatRunsIsWaitedFor(t *testing.T) {
	var calls atomic.Int32
	began, finish := make(chan context.Context, 2), make(chan struct{})
	f := &fake{rename: func(ctx context.Context, _, _ core.Path) error {
		calls.Add(1)
		began <- ctx
		<-finish
		return nil
	}}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	p := newProxy(t, addr)
	c := dial(t, remote.Options{Addrs: []string{p.addr()}})
	got := make(chan error, 1)
	go func() { got <- c.Rename(t.Context(), core.Root, core.Root, core.RenameOptions{}) }()
	ctx := within(t, "the rename", began)
	p.heal()
	within(t, "the call's context", ctx.Done())
	close(finish)
	if err := within(t, "the caller", got); err != nil || calls.Load() != 1 {
		t.Errorf("got %v after %d calls", err, calls.Load())
	}
}

// TestRenameThatDidNotArriveIsMade loses the request.
func TestRenameThatDidNotArriveIsMade(t *testing.T) {
	var calls atomic.Int32
	f := &fake{stat: named, rename: func(context.Context, core.Path, core.Path) error { calls.Add(1); return nil }}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	p := newProxy(t, addr)
	c := dial(t, quick(p.addr()))
	if _, err := c.Stat(t.Context(), core.Root); err != nil {
		t.Fatal(err)
	}
	p.mute.Store(true)
	got := make(chan error, 1)
	go func() { got <- c.Rename(t.Context(), core.Root, core.Root, core.RenameOptions{}) }()
	waitFor(t, "the silence", func() bool { return c.Leader() == "" })
	p.heal()
	if err := within(t, "the caller", got); err != nil || calls.Load() != 1 {
		t.Errorf("got %v after %d calls", err, calls.Load())
	}
}

// waitFor polls until the condition holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: never happened", what)
		}
	}
}

// TestAnotherMemory has a second server take over between the loss of an answer and the question for it.
func TestAnotherMemory(t *testing.T) {
	var p *proxy
	var first, second atomic.Int32
	made := make(chan struct{}, 1)
	lose := func() {
		first.Add(1)
		p.deaf.Store(true)
		made <- struct{}{}
	}
	addr1, stop1 := serve(t, remote.ServerOptions{Authenticator: users{}, Tree: &fake{
		rename:  func(context.Context, core.Path, core.Path) error { lose(); return nil },
		setAttr: func(ctx context.Context, p core.Path) (core.Info, error) { lose(); return named(ctx, p) },
		stat:    func(ctx context.Context, p core.Path) (core.Info, error) { lose(); return named(ctx, p) },
	}}, 0)
	addr2, _ := serve(t, remote.ServerOptions{Authenticator: users{}, Tree: &fake{
		rename:  func(context.Context, core.Path, core.Path) error { second.Add(1); return nil },
		setAttr: func(ctx context.Context, p core.Path) (core.Info, error) { second.Add(1); return named(ctx, p) },
		stat:    func(ctx context.Context, p core.Path) (core.Info, error) { second.Add(1); return named(ctx, p) },
	}}, 0)
	defer stop1()
	for _, k := range []struct {
		name  string
		call  func(c *remote.Client) error
		again bool
	}{
		{"rename", func(c *remote.Client) error {
			return c.Rename(t.Context(), core.Root, core.Root, core.RenameOptions{})
		}, false},
		{"set attributes", func(c *remote.Client) error {
			_, err := c.SetAttr(t.Context(), core.Root, core.AttrChange{})
			return err
		}, true},
		{"stat", func(c *remote.Client) error { _, err := c.Stat(t.Context(), core.Root); return err }, true},
	} {
		first.Store(0)
		second.Store(0)
		p = newProxy(t, addr1)
		c := dial(t, remote.Options{Addrs: []string{p.addr()}})
		got := make(chan error, 1)
		go func() { got <- k.call(c) }()
		within(t, k.name, made)
		p.target.Store(&addr2)
		p.heal()
		err := within(t, k.name, got)
		if k.again && (err != nil || second.Load() != 1) || !k.again && (!errors.Is(err, errs.Unavailable) || second.Load() != 0) {
			t.Errorf("%s: got %v after %d and %d calls", k.name, err, first.Load(), second.Load())
		}
		if why := core.WhyNoMaster(err); !k.again && !strings.Contains(why, "the change may have taken place") {
			t.Errorf("%s: told is %q of %v", k.name, why, err)
		}
	}
}

// TestLeaderChanges moves the lead between two servers, of which clients know one at first.
func TestLeaderChanges(t *testing.T) {
	var leader atomic.Int32
	var addrs [2]string
	var calls [2]atomic.Int32
	answers := &remote.MemoryAnswers{} // of both, as if they were journaled: a call under way when its link moves is asked again
	for i := range 2 {
		f := &fake{
			stat:   func(ctx context.Context, p core.Path) (core.Info, error) { calls[i].Add(1); return named(ctx, p) },
			rename: func(context.Context, core.Path, core.Path) error { calls[i].Add(1); return nil },
			open: func(context.Context, core.Path, core.Range) (core.Reader, error) {
				calls[i].Add(1)
				return &fakeReader{Reader: strings.NewReader("data"), n: 4, closed: make(chan struct{})}, nil
			},
			create: func(ctx context.Context, _ core.Path, _ core.CreateOptions) (core.Writer, error) {
				calls[i].Add(1)
				return newFakeWriter(ctx), nil
			},
		}
		addrs[i], _ = serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}, Answers: answers, Lease: func(context.Context) error {
			if at := int(leader.Load()); at != i {
				return &remote.NotLeaderError{Leader: addrs[at]}
			}
			return nil
		}}, 0)
	}
	c := dial(t, remote.Options{Addrs: addrs[1:]})
	use := func() error {
		_, err1 := c.Stat(t.Context(), core.Root)
		err2 := c.Rename(t.Context(), core.Root, core.Root, core.RenameOptions{})
		r, err3 := c.Open(t.Context(), core.Root, core.All)
		if err3 == nil {
			_, err := io.ReadAll(r)
			err3 = errors.Join(err, r.Close())
		}
		w, err4 := c.Create(t.Context(), core.Root, core.CreateOptions{Size: -1})
		if err4 == nil {
			_, err4 = w.Commit(t.Context(), core.CommitOptions{})
		}
		return errors.Join(err1, err2, err3, err4)
	}
	for _, at := range []int32{0, 1, 0} {
		leader.Store(at)
		before := [2]int32{calls[0].Load(), calls[1].Load()}
		if err := use(); err != nil {
			t.Errorf("leader %d: %v", at, err)
		}
		if calls[at].Load() != before[at]+4 || calls[1-at].Load() != before[1-at] {
			t.Errorf("leader %d: the servers got %d and %d calls", at, calls[0].Load(), calls[1].Load())
		}
		if c.Leader() != addrs[at] {
			t.Errorf("leader %d: the client says %q", at, c.Leader())
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if err := c.Rename(t.Context(), core.Root, core.Root, core.RenameOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range int32(6) {
		leader.Store(i % 2)
	}
	wg.Wait()
}

// TestSilence has a master that neither answers heartbeats nor says who leads.
func TestSilence(t *testing.T) {
	var lapsed atomic.Bool
	f := &fake{stat: named}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}, Lease: func(context.Context) error {
		if lapsed.Load() {
			return errs.New("test.Lease", "", errs.Unavailable, "the lease has lapsed")
		}
		return nil
	}}, 0)
	p := newProxy(t, addr)
	c := dial(t, quick(p.addr()))
	stat := func() error { _, err := c.Stat(t.Context(), core.Root); return err }
	for name, silence := range map[string]func(on bool){"no lease": lapsed.Store, "nothing comes": p.deaf.Store, "nothing leaves": p.mute.Store} {
		if err := stat(); err != nil {
			t.Fatalf("%s, before: %v", name, err)
		}
		silence(true)
		waitFor(t, name, func() bool { return c.Leader() == "" })
		began := time.Now()
		if err := stat(); !errors.Is(err, errs.Unavailable) {
			t.Errorf("%s: got %v", name, err)
		}
		if took := time.Since(began); took < 500*time.Millisecond || took > 10*time.Second {
			t.Errorf("%s: it waited %v, want 1 s", name, took)
		}
		got := make(chan error, 1)
		go func() { got <- stat() }() // waits, and is served when the master is back
		silence(false)
		p.cut()
		if err := within(t, name, got); err != nil {
			t.Errorf("%s, after: %v", name, err)
		}
	}
}

// TestSuccessorOfSilentLeader has a leader fall silent, whose connection stays, and another lead: nobody waits for Silence to
// pass. Until another leads, no doubt makes the client leave.
func TestSuccessorOfSilentLeader(t *testing.T) {
	var second atomic.Bool
	f := &fake{stat: named}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	p := newProxy(t, addr)
	asked := make(chan struct{}, 1)
	next, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}, Lease: func(context.Context) error {
		select {
		case asked <- struct{}{}:
		default:
		}
		if second.Load() {
			return nil
		}
		return &remote.NotLeaderError{Leader: p.addr()}
	}}, 0)
	o := quick(p.addr(), next)
	o.Silence, o.Patience = time.Minute, time.Minute
	c := dial(t, o)
	if _, err := c.Stat(t.Context(), core.Root); err != nil {
		t.Fatal(err)
	}
	p.deaf.Store(true)
	got := make(chan error, 1)
	go func() { _, err := c.Stat(t.Context(), core.Root); got <- err }()
	within(t, "doubt", asked)
	within(t, "more doubt", asked)
	if at := c.Leader(); at != p.addr() {
		t.Errorf("the client left its leader for %q, which does not lead", at)
	}
	second.Store(true)
	if err := within(t, "the successor", got); err != nil || c.Leader() != next {
		t.Errorf("got %v from %s, want an answer of %s", err, c.Leader(), next)
	}
}

func TestNoMaster(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c := dial(t, quick(addr))
	_, err = c.Stat(t.Context(), core.Root)
	if why := core.WhyNoMaster(err); !errors.Is(err, errs.Unavailable) || why == "" || strings.Contains(why, "taken place") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Open(ctx, core.Root, core.All); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := remote.Dial(t.Context(), remote.Options{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("no address: got %v", err)
	}
}

// TestNoMasterAnyMore has a master go away with a change.
func TestNoMasterAnyMore(t *testing.T) {
	began := make(chan struct{}, 1)
	f := &fake{rename: func(ctx context.Context, _, _ core.Path) error {
		began <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	p := newProxy(t, addr)
	c := dial(t, quick(p.addr()))
	got := make(chan error, 1)
	go func() { got <- c.Rename(t.Context(), core.Root, core.Root, core.RenameOptions{}) }()
	within(t, "the change", began)
	p.deaf.Store(true)
	err := within(t, "the answer", got)
	if why := core.WhyNoMaster(err); !errors.Is(err, errs.Unavailable) || !strings.Contains(why, "the change may have taken place") {
		t.Errorf("got %v", err)
	}
}

// TestTooManyCalls has more calls in progress than a stream may have.
func TestTooManyCalls(t *testing.T) {
	release := make(chan struct{})
	f := &fake{stat: func(ctx context.Context, p core.Path) (core.Info, error) { <-release; return named(ctx, p) }}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}}, 0)
	// Thousands of goroutines on a slow machine are not silence.
	c := dial(t, remote.Options{Addrs: []string{addr}, Silence: time.Minute, Patience: time.Minute})
	const more = 10
	results := make(chan error, remote.MaxCalls+more)
	for range remote.MaxCalls + more {
		go func() { _, err := c.Stat(t.Context(), core.Root); results <- err }()
	}
	for range more {
		if err := within(t, "a call too many", results); !errors.Is(err, errs.Unavailable) {
			t.Errorf("got %v", err)
		}
	}
	close(release)
	for range remote.MaxCalls {
		if err := within(t, "a call", results); err != nil {
			t.Error(err)
		}
	}
}
