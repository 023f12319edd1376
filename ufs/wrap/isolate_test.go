package wrap_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// blackhole has no call of the store answered.
func blackhole(f *wrap.Faulty) {
	for _, op := range wrap.Ops() {
		f.Add(wrap.Rule{Op: op, Wait: make(chan struct{})})
	}
}

// probed is a memufs whose probes are asked for, so that faults show in them.
func probed() *wrap.Faulty { return wrap.Fault(memufs.New(memufs.Options{})) }

func TestIsolateOpensAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := probed()
		in := put(t, f, "a", "data")
		s := wrap.Retry(wrap.Isolate(wrap.Timeout(f, 30*time.Second, time.Hour), wrap.IsolateOptions{
			Name: "far", Logger: slog.New(slog.NewTextHandler(&log, nil))}), 3, time.Millisecond)
		i := wrap.IsolationOf(s)
		if i == nil || i.Outage() != nil {
			t.Fatal("a fresh store is isolated, and asked")
		}
		blackhole(f)
		began := time.Now()
		_, err := s.Stat(t.Context(), "a")
		if d := time.Since(began); !errors.Is(err, errs.Unavailable) || !wrap.IsOutage(err) || d != 15*time.Second {
			t.Errorf("a call of a dead store: got %v after %v; want one given up when the breaker opens, 10s and a probe of 5s", err, d)
		}
		out := i.Outage()
		if out == nil || time.Since(out.Since) != 0 || out.Why == nil {
			t.Fatalf("the breaker: %+v", out)
		}
		stats := f.Calls(wrap.Stat)
		began = time.Now()
		for what, call := range map[string]func() error{
			"stat":   func() error { _, err := s.Stat(t.Context(), "b"); return err },
			"open":   func() error { _, err := s.Open(t.Context(), "a", 0, -1, in.Version); return err },
			"create": func() error { _, err := s.Create(t.Context(), "c", 1, ufs.CreateOptions{}); return err },
			"remove": func() error { return s.Remove(t.Context(), "a", "") },
		} {
			if err := call(); !errors.Is(err, errs.Unavailable) || !wrap.IsOutage(err) || errors.Is(err, ufs.ErrUnsent) != (what == "create" || what == "remove") {
				t.Errorf("%s while it is open: got %v, want errs.Unavailable, and ufs.ErrUnsent of changes alone", what, err)
			}
		}
		if d := time.Since(began); d != 0 || f.Calls(wrap.Stat) != stats {
			t.Errorf("refused calls took %v, and %d of them were sent", d, f.Calls(wrap.Stat)-stats)
		}
		probes := f.Calls(wrap.Probe)
		time.Sleep(2 * time.Minute) // of the bubble's clock
		if n, m := f.Calls(wrap.Probe)-probes, f.Calls(wrap.Stat)-stats; n != 3 || m != 3 {
			t.Errorf("%d probes and %d looks for what is wanted in two minutes, want 3 and 3: after 1s, 2s, 4s, and 5s, given 10s, 20s, and 30s", n, m)
		}
		f.Heal()
		time.Sleep(30*time.Second + 5*time.Second)
		synctest.Wait()
		if got, err := s.Stat(t.Context(), "a"); err != nil || got.Version != in.Version || i.Outage() != nil {
			t.Errorf("after it answers again: got %v, %v, outage %v", got, err, i.Outage())
		}
		if n := strings.Count(log.String(), "\n"); n != 2 || i.Health().Opened != 1 {
			t.Errorf("opened %d times, and logged:\n%s", i.Health().Opened, log.String())
		}
		if err := s.Close(); err != nil || !i.Closed() {
			t.Errorf("close: %v", err)
		}
	})
}

// TestIsolateGivesUpReads checks that what waits when the breaker opens waits no longer, but for changes, whose outcome matters.
func TestIsolateGivesUpReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := probed()
		s := wrap.Isolate(wrap.Timeout(f, time.Minute, time.Minute), wrap.IsolateOptions{Calls: 2})
		blackhole(f)
		var wg sync.WaitGroup
		took, began := make([]time.Duration, 4), time.Now()
		failed := make([]error, 4)
		for n, call := range []func() error{
			func() error { return s.Remove(t.Context(), "a", "") },
			func() error { _, err := s.Stat(t.Context(), "a"); return err },
			func() error { // waits for the two
				for _, err := range s.List(t.Context(), "", "", false) {
					return err
				}
				return nil
			},
			func() error { return s.Remove(t.Context(), "b", "") }, // too
		} {
			wg.Go(func() { failed[n] = call(); took[n] = time.Since(began) })
			synctest.Wait()
		}
		wg.Wait()
		for n, want := range []time.Duration{time.Minute, 15 * time.Second, 15 * time.Second, 15 * time.Second} {
			if took[n] != want || !errors.Is(failed[n], errs.Unavailable) || (n > 0) != wrap.IsOutage(failed[n]) || errors.Is(failed[n], ufs.ErrUnsent) != (n == 3) {
				t.Errorf("call %d: got %v after %v, want it to end after %v", n, failed[n], took[n], want)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestIsolateDoubts checks what does not open the breaker.
func TestIsolateDoubts(t *testing.T) {
	const failing = 50
	stopped := errs.New("test", "", errs.Unavailable, "this process leads no more")
	for name, c := range map[string]struct {
		prepare func(f *wrap.Faulty)
		call    func(ctx context.Context, s ufs.Store) error
		probes  bool
	}{
		"answers that are errors": {
			func(f *wrap.Faulty) { f.Add(wrap.Rule{Op: wrap.Stat, Err: errs.Permission}) },
			func(ctx context.Context, s ufs.Store) error { _, err := s.Stat(ctx, "a"); return err }, false,
		},
		"files that cannot be read in a store that answers": {
			func(f *wrap.Faulty) { f.Add(wrap.Rule{Op: wrap.Stat, Name: "a", Err: errs.Unavailable}) },
			func(ctx context.Context, s ufs.Store) error { _, err := s.Stat(ctx, "a"); return err }, true,
		},
		"guards": {
			func(*wrap.Faulty) {},
			func(ctx context.Context, s ufs.Store) error {
				_, err := ufs.WriteFile(ufs.WithGuard(ctx, func() error { return stopped }), s, "b", nil, ufs.CreateOptions{})
				return err
			}, false,
		},
		"callers that go": {
			func(f *wrap.Faulty) { f.Add(wrap.Rule{Op: wrap.Stat, Wait: make(chan struct{})}) },
			func(ctx context.Context, s ufs.Store) error {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				_, err := s.Stat(ctx, "a")
				return err
			}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := probed()
				c.prepare(f)
				s := wrap.Isolate(f, wrap.IsolateOptions{})
				for range failing {
					if err := c.call(t.Context(), s); err == nil {
						t.Fatal("it succeeds")
					}
					synctest.Wait()
					if out := wrap.IsolationOf(s).Outage(); out != nil {
						t.Fatalf("the breaker is open: %v", out.Why)
					}
				}
				if n := f.Calls(wrap.Probe); (n > 0) != c.probes || n > failing/5 {
					t.Errorf("%d probes", n)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestIsolateProbesInNoTurn checks that a probe takes none of the turns that who put the store in doubt takes.
func TestIsolateProbesInNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := probed()
		f.Add(wrap.Rule{Op: wrap.Stat, Err: errs.Unavailable})
		s := wrap.Isolate(turned{f}, wrap.IsolateOptions{})
		var turns ufstest.Turns
		calls := 0
		for ; f.Calls(wrap.Probe) == 0 && calls < 50; calls++ {
			if _, err := s.Stat(turns.Context(t.Context()), "a"); err == nil {
				t.Fatal("it succeeds")
			}
			synctest.Wait()
		}
		if f.Calls(wrap.Probe) == 0 || turns.Taken() != calls {
			t.Errorf("%d calls and %d probes took %d turns", calls, f.Calls(wrap.Probe), turns.Taken())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// turned is a store that works on the answers to looks and probes in turns.
type turned struct{ *wrap.Faulty }

func (s turned) Stat(ctx context.Context, name string) (ufs.Info, error) {
	defer ufs.Turn(ctx)()
	return s.Faulty.Stat(ctx, name)
}

func (s turned) Probe(ctx context.Context, write bool) error {
	defer ufs.Turn(ctx)()
	return ufs.Probe(ctx, s.Faulty, write)
}

// TestIsolateHangs is of a store whose calls and probes cannot be given up, as those of a kernel.
func TestIsolateHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &hanging{Store: memufs.New(memufs.Options{}), gate: make(chan struct{})}
		s := wrap.Isolate(f, wrap.IsolateOptions{})
		go s.Stat(t.Context(), "a")
		time.Sleep(time.Minute)
		if _, err := s.Stat(t.Context(), "b"); !wrap.IsOutage(err) {
			t.Errorf("got %v", err)
		}
		if n := f.count(); n != 2 {
			t.Errorf("%d calls hang, want the first and one probe", n)
		}
		close(f.gate)
		time.Sleep(time.Minute)
		if _, err := s.Stat(t.Context(), "b"); !errors.Is(err, errs.NotExist) {
			t.Errorf("after it answers again: got %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

type hanging struct {
	ufs.Store
	gate chan struct{}
	mu   sync.Mutex
	n    int
}

func (h *hanging) Features() ufs.Features { f := h.Store.Features(); f.Probe = true; return f }

func (h *hanging) hang() {
	h.mu.Lock()
	h.n++
	h.mu.Unlock()
	<-h.gate
}

func (h *hanging) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}

func (h *hanging) Stat(ctx context.Context, name string) (ufs.Info, error) {
	h.hang()
	return h.Store.Stat(ctx, name)
}

func (h *hanging) Probe(context.Context, bool) error { h.hang(); return nil }

func TestIsolateAdapts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &throttling{Store: memufs.New(memufs.Options{})}
		s := wrap.Isolate(f, wrap.IsolateOptions{Calls: 64, Adapt: true})
		i := wrap.IsolationOf(s)
		all := func() {
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() { _, _ = s.Stat(t.Context(), "a") })
			}
			wg.Wait()
		}
		all()
		if n := f.most; n != 64 || i.Health().Budget != 64 {
			t.Errorf("%d calls at once, budget %d; want 64", n, i.Health().Budget)
		}
		f.refuse(true, 0)
		for want := 32; want >= 1; want /= 2 {
			all()
			if got := i.Health().Budget; got != want {
				t.Errorf("budget %d after calls that were refused together, want %d", got, want)
			}
			time.Sleep(2 * time.Second)
		}
		f.refuse(false, 0)
		f.most = 0
		_, _ = s.Stat(t.Context(), "a")
		if all(); f.most < 2 || f.most > 16 {
			t.Errorf("%d calls at once after the store did as asked 64 times, want it to grow slowly", f.most)
		}
		f.refuse(true, 7*time.Second)
		_, _ = s.Stat(t.Context(), "a")
		f.refuse(false, 0)
		began := time.Now()
		if _, _ = s.Stat(t.Context(), "a"); time.Since(began) != 7*time.Second+10*time.Millisecond {
			t.Errorf("asked again after %v, want the 7s that the store wants to be left alone", time.Since(began))
		}
		for range 100 {
			all()
		}
		if got := i.Health(); got.Budget != 64 || got.Running != 0 || got.Waiting != 0 || got.Refused == 0 || got.Opened != 0 {
			t.Errorf("at the end: %+v", got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

type throttling struct {
	ufs.Store
	mu        sync.Mutex
	now, most int
	says      bool
	after     time.Duration
}

func (s *throttling) refuse(says bool, after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.says, s.after = says, after
}

func (s *throttling) Stat(ctx context.Context, _ string) (ufs.Info, error) {
	s.mu.Lock()
	s.now++
	s.most = max(s.most, s.now)
	says, after := s.says, s.after
	s.mu.Unlock()
	time.Sleep(10 * time.Millisecond)
	s.mu.Lock()
	s.now--
	s.mu.Unlock()
	if says {
		ufs.SlowDown(ctx, after)
		return ufs.Info{}, errs.New("test", "", errs.Unavailable, "503")
	}
	return ufs.Info{}, nil
}

func TestIsolateQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := probed()
		gate := make(chan struct{})
		f.Add(wrap.Rule{Op: wrap.Stat, Wait: gate})
		s := wrap.Isolate(f, wrap.IsolateOptions{Calls: 2, Queue: 3, Slow: time.Hour})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _, _ = s.Stat(t.Context(), "") })
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := s.Stat(ctx, ""); !errors.Is(err, context.Canceled) {
				t.Errorf("a caller that went: got %v", err)
			}
		})
		synctest.Wait()
		if _, err := s.Stat(t.Context(), ""); !errors.Is(err, errs.Overload) || f.Calls(wrap.Stat) != 2 {
			t.Errorf("the sixth call: got %v with %d running, want errs.Overload and 2", err, f.Calls(wrap.Stat))
		}
		cancel()
		synctest.Wait()
		close(gate)
		wg.Wait()
		if n := f.Calls(wrap.Stat); n != 4 {
			t.Errorf("%d calls reached the store, want 4", n)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// strained is a store that says it is asked too much, or whose probe is slower than what else it is asked for.
type strained struct {
	*wrap.Faulty
	says   atomic.Bool
	probe  time.Duration
	probes atomic.Int64
}

func (s *strained) Features() ufs.Features {
	f := s.Faulty.Features()
	f.Probe, f.Compose = true, true
	return f
}

func (s *strained) refuse(ctx context.Context) error {
	if !s.says.Load() {
		return nil
	}
	ufs.SlowDown(ctx, 30*time.Second)
	return errs.New("test", "", errs.Unavailable, "503")
}

func (s *strained) Stat(ctx context.Context, name string) (ufs.Info, error) {
	if err := s.refuse(ctx); err != nil {
		return ufs.Info{}, err
	}
	return s.Faulty.Stat(ctx, name)
}

func (s *strained) Probe(ctx context.Context, _ bool) error {
	s.probes.Add(1)
	t := time.NewTimer(s.probe)
	defer t.Stop()
	select {
	case <-t.C:
		return s.refuse(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *strained) PutPart(ctx context.Context, _, _ string, _ int, _ int64, r io.Reader) (string, error) {
	done := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, r); done <- err }()
	select {
	case err := <-done:
		return "tag", err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (*strained) Begin(context.Context, string, ufs.Attr) (string, error) { return "id", nil }

func (*strained) CopyPart(context.Context, string, string, int, string, string, int64, int64) (string, error) {
	return "", errors.ErrUnsupported
}

func (*strained) Complete(context.Context, string, string, []ufs.Part, ufs.CreateOptions) (ufs.Info, error) {
	return ufs.Info{}, errors.ErrUnsupported
}

func (*strained) Cancel(context.Context, string, string) error { return nil }

func (*strained) Lost(context.Context, string, time.Time, time.Time) ([]string, error) {
	return nil, nil
}

// TestIsolateThrottled has a store answer nothing but that it is asked too much, which is an answer.
func TestIsolateThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &strained{Faulty: probed()}
		put(t, f.Faulty, "a", "data")
		f.says.Store(true)
		s := wrap.Isolate(f, wrap.IsolateOptions{Adapt: true})
		i := wrap.IsolationOf(s)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { _, _ = s.Stat(t.Context(), "a") })
		}
		wg.Wait()
		synctest.Wait()
		if i.Outage() != nil || f.probes.Load() != 0 || i.Health().Budget == 256 {
			t.Errorf("after 20 such answers: outage %v, %d probes, budget %d", i.Outage(), f.probes.Load(), i.Health().Budget)
		}
		f.says.Store(false)
		if _, err := s.Stat(t.Context(), "a"); err != nil {
			t.Errorf("when it may be asked again: %v", err)
		}

		gate := make(chan struct{})
		for range 10 { // parts of a store that is asked before it says so, and fails them afterwards
			wg.Go(func() {
				c, _ := ufs.ComposerOf(s)
				_, _ = c.PutPart(t.Context(), "z", "id", 1, 1, &late{open: func() (io.ReadCloser, error) {
					<-gate
					return nil, errs.New("test", "", errs.Unavailable, "reset")
				}})
			})
		}
		synctest.Wait()
		f.says.Store(true) // and a doubt meanwhile: the probe keeps to the pause, and is told the same
		_, _ = s.Stat(t.Context(), "a")
		began := time.Now()
		f.Add(wrap.Rule{Op: wrap.Remove, Err: errs.Unavailable})
		time.Sleep(20 * time.Second)
		close(gate)
		wg.Wait()
		synctest.Wait()
		if f.probes.Load() != 0 {
			t.Errorf("probed %v after the store asked for 30s of rest", time.Since(began))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if f.probes.Load() != 1 || i.Outage() != nil {
			t.Errorf("then: %d probes, outage %v; want a probe that is told the same, and no outage", f.probes.Load(), i.Outage())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestIsolateSlowProbe is of a store whose probe takes longer than what clients ask it for.
func TestIsolateSlowProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &strained{Faulty: probed(), probe: time.Hour}
		put(t, f.Faulty, "a", "data")
		f.Add(wrap.Rule{Op: wrap.Stat, Name: "x", Wait: make(chan struct{})})
		s := wrap.Isolate(wrap.Timeout(f, 30*time.Second, 2*time.Hour), wrap.IsolateOptions{})
		i := wrap.IsolationOf(s)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = s.Stat(t.Context(), "x") })
		for began := time.Now(); time.Since(began) < 2*time.Minute; time.Sleep(100 * time.Millisecond) {
			if _, err := s.Stat(t.Context(), "a"); err != nil {
				t.Fatalf("one call got no answer, and neither a probe, but 10 others a second do; after %v: %v", time.Since(began), err)
			}
		}
		if wg.Wait(); f.probes.Load() == 0 {
			t.Error("the store was never in doubt")
		}

		blackhole(f.Faulty) // nothing at all is answered, and later all but the probe
		if _, err := s.Stat(t.Context(), "a"); !wrap.IsOutage(err) {
			t.Errorf("a dead store: %v", err)
		}
		if _, err := s.Stat(t.Context(), "a"); !wrap.IsOutage(err) {
			t.Errorf("a dead store: %v", err)
		}
		f.Heal()
		time.Sleep(time.Minute)
		if _, err := s.Stat(t.Context(), "a"); err != nil || i.Outage() != nil {
			t.Errorf("a minute after all but the probe is answered again: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// late opens what it reads only when it is read.
type late struct {
	open func() (io.ReadCloser, error)
	r    io.ReadCloser
}

func (l *late) Read(p []byte) (n int, err error) {
	if l.r == nil {
		time.Sleep(time.Second)
		if l.r, err = l.open(); err != nil {
			return 0, err
		}
	}
	return l.r.Read(p)
}

// TestIsolateFeeds has as many parts as calls may run fed by reads of the same store.
func TestIsolateFeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 2
		f := &strained{Faulty: probed()}
		in := put(t, f.Faulty, "a", "data")
		s := wrap.Isolate(wrap.Timeout(f, 30*time.Second, 15*time.Minute), wrap.IsolateOptions{Calls: calls})
		c, err := ufs.ComposerOf(s)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for n := range calls {
			wg.Go(func() {
				feed := &late{open: func() (io.ReadCloser, error) { return s.Open(t.Context(), "a", 0, -1, in.Version) }}
				began := time.Now()
				if _, err := c.PutPart(t.Context(), "z", "id", n+1, 4, feed); err != nil || time.Since(began) > 2*time.Second {
					t.Errorf("a part: %v after %v", err, time.Since(began))
				}
			})
		}
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestIsolateWait has a call wait for others that do not end.
func TestIsolateWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := probed()
		gate := make(chan struct{})
		f.Add(wrap.Rule{Op: wrap.Copy, Wait: gate})
		s := wrap.Isolate(f, wrap.IsolateOptions{Calls: 1, Slow: time.Hour})
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = ufs.Copy(t.Context(), s, "a", "", "b", nil) })
		synctest.Wait()
		began := time.Now()
		if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, errs.Overload) || time.Since(began) != 30*time.Second {
			t.Errorf("got %v after %v, want errs.Overload after 30s", err, time.Since(began))
		}
		close(gate)
		wg.Wait()
		if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, errs.NotExist) {
			t.Errorf("then: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestIsolateStreams has the breaker open while streams are: they go on, and what is dropped is dropped by somebody else.
func TestIsolateStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memufs.New(memufs.Options{})
		slow := &reluctant{Store: m}
		f := wrap.Fault(slow)
		in := put(t, m, "a", "data")
		s := wrap.Isolate(wrap.Timeout(f, 30*time.Second, time.Minute), wrap.IsolateOptions{})
		rd, err := s.Open(t.Context(), "a", 0, -1, in.Version)
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.Create(t.Context(), "b", 4, ufs.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		given, err := s.Create(t.Context(), "c", 4, ufs.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range []wrap.Op{wrap.Stat, wrap.List, wrap.Probe, wrap.Commit} {
			f.Add(wrap.Rule{Op: op, Wait: make(chan struct{})})
		}
		if _, err := s.Stat(t.Context(), "a"); !wrap.IsOutage(err) {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(rd); err != nil || string(got) != "data" {
			t.Errorf("an open reader: %q, %v", got, err)
		}
		_ = rd.Close()
		if _, err := w.Write([]byte("data")); err != nil {
			t.Errorf("an open writer: %v", err)
		}
		began := time.Now()
		if _, err := w.Commit(t.Context()); !wrap.IsOutage(err) || !errors.Is(err, ufs.ErrUnsent) {
			t.Errorf("its Commit: %v", err)
		}
		if err := errors.Join(w.Abort(), given.Abort()); err != nil || time.Since(began) != 0 {
			t.Errorf("what is dropped took %v; %v", time.Since(began), err)
		}
		if err := s.Close(); err != nil || time.Since(began) != 0 { // the store may keep who drops them for ever
			t.Errorf("a Close took %v; %v", time.Since(began), err)
		}
		if <-time.After(time.Minute); slow.aborted.Load() != 2 {
			t.Errorf("%d writers were aborted, want 2, each once", slow.aborted.Load())
		}
	})
}

// TestIsolateParts has more parts put at once than may be.
func TestIsolateParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wrap.Isolate(&strained{Faulty: probed()}, wrap.IsolateOptions{Calls: 2})
		gate := make(chan struct{})
		var fed atomic.Int64
		c, err := ufs.ComposerOf(s)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for n := range 9 {
			wg.Go(func() {
				feed := &late{open: func() (io.ReadCloser, error) {
					fed.Add(1)
					<-gate
					return io.NopCloser(strings.NewReader("data")), nil
				}}
				if _, err := c.PutPart(t.Context(), "z", "id", n+1, 4, feed); err != nil {
					t.Error(err)
				}
			})
		}
		<-time.After(2 * time.Second)
		if h := wrap.IsolationOf(s).Health(); fed.Load() != 8 || h.Running != 8 || h.Waiting != 1 {
			t.Errorf("%d parts at once, want 8; %+v", fed.Load(), h)
		}
		if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, errs.NotExist) {
			t.Errorf("a call beside them: %v", err)
		}
		close(gate)
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// reluctant is a store that takes long to drop a writer.
type reluctant struct {
	ufs.Store
	aborted atomic.Int64
}

func (s *reluctant) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (ufs.Writer, error) {
	w, err := s.Store.Create(ctx, name, size, o)
	return &reluctantWriter{w, s}, err
}

type reluctantWriter struct {
	ufs.Writer
	s *reluctant
}

func (w *reluctantWriter) Abort() error {
	time.Sleep(10 * time.Second)
	w.s.aborted.Add(1)
	return w.Writer.Abort()
}
