package meta_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core/errs"
	. "github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/kvtest"
	"github.com/sluicefs/sluice/core/meta/memkv"
)

// faulty is a KV whose transactions on records go through txn.
type faulty struct {
	KV
	mu  sync.Mutex
	txn func(t Txn, do func() (bool, int64, error)) (bool, int64, error)
}

func (f *faulty) Txn(ctx context.Context, t Txn) (bool, int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do := func() (bool, int64, error) { return f.KV.Txn(ctx, t) }
	if f.txn == nil || !strings.Contains(t.Puts[0].Key, "/j/") {
		return do()
	}
	return f.txn(t, do)
}

var errLost = errs.New("test", "", errs.Unavailable, "the answer was lost")

// names collects what was applied, in order.
type names struct {
	seq  uint64
	list []string
}

func (n *names) apply(seq uint64, ops []Op) {
	if n.seq != 0 && seq != n.seq+1 {
		panic(fmt.Sprintf("record %d applied after %d", seq, n.seq))
	}
	n.seq = seq
	for _, op := range ops {
		n.list = append(n.list, op.Edge)
	}
}

// open loads and claims the journal "g" of kv.
func open(t testing.TB, kv KV, o LogOptions) (*Log, *names) {
	t.Helper()
	n := &names{}
	o.Group, o.Applied = "g", n.apply
	if o.CheckpointEvery == 0 {
		o.CheckpointEvery = -1
	}
	l, err := OpenLog(kv, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l, n
}

// run runs l until stop is called, which returns Run's error.
func run(t testing.TB, l *Log) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { stop() })
	return stop
}

func set(name string) Batch {
	return Batch{Ops: []Op{{Kind: Set, Dir: RootDir, Edge: name, Entry: Entry{Class: Persisted, ID: 7, ETag: "0123456789abcdef0123456789abcdef", MTime: 1}}}}
}

// appendMany appends from callers goroutines, each names of its own, and returns what was acknowledged.
func appendMany(t *testing.T, l *Log, callers, each int) (acked [][]string, failed []error) {
	acked = make([][]string, callers)
	errors := make([]error, callers)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("%03d-%05d", c, i)
				if _, err := l.Append(t.Context(), set(name)); err != nil {
					errors[c] = err
					return
				}
				acked[c] = append(acked[c], name)
			}
		})
	}
	wg.Wait()
	return acked, slices.DeleteFunc(errors, func(err error) bool { return err == nil })
}

// checkAcked requires that got holds every acknowledged name once, each caller's in order.
func checkAcked(t *testing.T, got []string, acked [][]string) {
	t.Helper()
	at := map[string]int{}
	for i, name := range got {
		if _, twice := at[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		at[name] = i
	}
	for _, list := range acked {
		last := -1
		for _, name := range list {
			i, ok := at[name]
			if !ok || i < last {
				t.Errorf("%s: there %v, at %d after %d", name, ok, i, last)
			}
			last = i
		}
	}
}

func TestAppendAndReplay(t *testing.T) {
	kv := memkv.New()
	l, applied := open(t, kv, LogOptions{MaxBatchOps: 7})
	stop := run(t, l)
	acked, failed := appendMany(t, l, 16, 50)
	if len(failed) > 0 {
		t.Fatal(failed[0])
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Fatalf("Run: got %v, want Canceled", err)
	}
	checkAcked(t, applied.list, acked)
	if s := l.Stats(); s.Ops != 800 || s.Batches != 800 || s.Seq != applied.seq || s.Records != s.Seq || s.QueuedBytes != 0 {
		t.Errorf("stats: %+v", s)
	}
	if _, err := l.Append(t.Context(), set("late")); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Append after Run: got %v, want Unavailable", err)
	}
	again, replayed := open(t, kv, LogOptions{})
	if diff := cmp.Diff(applied.list, replayed.list); diff != "" {
		t.Errorf("replayed, -applied +replayed:\n%s", diff)
	}
	if again.Term() <= l.Term() || again.Seq() != l.Seq() {
		t.Errorf("term %d after %d, seq %d after %d", again.Term(), l.Term(), again.Seq(), l.Seq())
	}
}

// TestFaults runs appenders against a KV that loses answers before or after it has done what was asked.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		txn  func(n int, do func() (bool, int64, error)) (bool, int64, error)
	}{
		{"answer lost", func(n int, do func() (bool, int64, error)) (bool, int64, error) {
			ok, rev, err := do()
			if n%3 == 0 {
				return false, 0, errLost
			}
			return ok, rev, err
		}},
		{"not done", func(n int, do func() (bool, int64, error)) (bool, int64, error) {
			if n%3 == 0 {
				return false, 0, errLost
			}
			return do()
		}},
		{"done, then refused by itself", func(n int, do func() (bool, int64, error)) (bool, int64, error) {
			ok, rev, err := do()
			if n%3 == 0 {
				return false, rev, nil
			}
			return ok, rev, err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			kv := &faulty{KV: memkv.New()}
			n := 0
			kv.txn = func(_ Txn, do func() (bool, int64, error)) (bool, int64, error) { n++; return c.txn(n, do) }
			l, applied := open(t, kv, LogOptions{})
			stop := run(t, l)
			acked, failed := appendMany(t, l, 8, 10)
			if len(failed) > 0 {
				t.Fatal(failed[0])
			}
			stop()
			checkAcked(t, applied.list, acked)
			if _, replayed := open(t, kv, LogOptions{}); !slices.Equal(replayed.list, applied.list) {
				t.Errorf("replayed %d names, applied %d", len(replayed.list), len(applied.list))
			}
		})
	}
}

// TestLateProposal delays a proposal whose answer was lost until after its successor: it must not land again, neither the
// record nor the configuration.
func TestLateProposal(t *testing.T) {
	kv := &faulty{KV: memkv.New()}
	var late Txn
	kv.txn = func(x Txn, do func() (bool, int64, error)) (bool, int64, error) {
		if late.Puts == nil {
			late = x
			late.If, late.Puts = slices.Clone(x.If), slices.Clone(x.Puts)
			late.Puts[0].Value = slices.Clone(x.Puts[0].Value)
			return false, 0, errLost
		}
		return do()
	}
	l, _ := open(t, kv, LogOptions{})
	run(t, l)
	for _, value := range []string{"old", "new"} {
		b := set(value)
		b.Puts = []KeyValue{{Key: "sys/k", Value: []byte(value)}}
		if _, err := l.Append(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if ok, _, err := kv.KV.Txn(t.Context(), late); ok || err != nil {
		t.Fatalf("the late proposal: got %v, %v; want it refused", ok, err)
	}
	got, err := l.ListConfig(t.Context(), "sys/")
	if err != nil || len(got) != 1 || string(got[0].Value) != "new" {
		t.Fatalf("configuration: got %+v, %v", got, err)
	}
}

func TestDeposed(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("answer lost %v", lost), func(t *testing.T) {
			kv := &faulty{KV: memkv.New()}
			l, applied := open(t, kv, LogOptions{})
			n := 0
			kv.txn = func(_ Txn, do func() (bool, int64, error)) (bool, int64, error) {
				if n++; n != 20 {
					return do()
				}
				if lost {
					do()
				}
				other, err := OpenLog(kv.KV, LogOptions{Group: "g", Member: "other"})
				if err == nil {
					err = other.Claim(t.Context())
				}
				if err != nil {
					t.Error(err)
				}
				if lost {
					return false, 0, errLost
				}
				return do()
			}
			done := make(chan error, 1)
			go func() { done <- l.Run(t.Context()) }()
			acked, failed := appendMany(t, l, 8, 100)
			if len(failed) != 8 {
				t.Fatalf("%d of 8 callers failed", len(failed))
			}
			for _, err := range append(failed, <-done) {
				if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "leadership lost") {
					t.Errorf("got %v, want leadership lost", err)
				}
			}
			checkAcked(t, applied.list, acked)
			kv.txn = nil
			_, replayed := open(t, kv, LogOptions{})
			if !slices.Equal(replayed.list, applied.list) {
				t.Errorf("replayed %d names, applied %d", len(replayed.list), len(applied.list))
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	kv := &faulty{KV: memkv.New()}
	l, _ := open(t, kv, LogOptions{})
	run(t, l)
	noise := make([]byte, 0, MaxRecord)
	for i := 0; len(noise) < MaxRecord; i++ {
		noise = fmt.Appendf(noise, "%d", i)
	}
	many := func(n int) (kvs []KeyValue) {
		for i := range n {
			kvs = append(kvs, KeyValue{Key: fmt.Sprintf("sys/%d", i)})
		}
		return kvs
	}
	for _, c := range []struct {
		name  string
		batch Batch
		want  error
	}{
		{"empty", Batch{}, nil},
		{"large", set(string(noise[:MaxRecord-1000])), nil},
		{"too large", set(string(noise)), errs.TooLarge},
		{"too large with configuration", Batch{Ops: set(string(noise[:MaxRecord/2])).Ops, Puts: []KeyValue{{Key: "sys/a", Value: noise[:MaxRecord/2]}}}, errs.TooLarge},
		{"too many operations", Batch{Ops: make([]Op, MaxRecordOps+1)}, errs.TooLarge},
		{"most configuration", Batch{Puts: many(MaxTxnOps - 1)}, nil},
		{"too much configuration", Batch{Puts: many(MaxTxnOps)}, errs.TooLarge},
		{"unknown kind", Batch{Ops: []Op{{Kind: '?'}}}, errs.Invalid},
		{"foreign key", Batch{Puts: []KeyValue{{Key: "g/g/leader"}}}, errs.Invalid},
		{"foreign key deleted", Batch{Deletes: []string{"g/g/leader"}}, errs.Invalid},
		{"key twice", Batch{Puts: []KeyValue{{Key: "sys/a"}}, Deletes: []string{"sys/a"}}, errs.Invalid},
	} {
		if _, err := l.Append(t.Context(), c.batch); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Append(ctx, set("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: got %v, want Canceled", err)
	}
	kv.txn = func(Txn, func() (bool, int64, error)) (bool, int64, error) {
		return false, 0, errs.New("test", "", errs.NoSpace, "full")
	}
	if _, err := l.Append(t.Context(), set("a")); !errors.Is(err, errs.NoSpace) {
		t.Errorf("full store: got %v, want NoSpace", err)
	}
	kv.txn = nil
	if _, err := l.Append(t.Context(), set("a")); err != nil {
		t.Errorf("after the store was full: %v", err)
	}
}

// TestConfigOfManyBatches queues changes of the same keys before Run starts, so that they must be kept apart.
func TestConfigOfManyBatches(t *testing.T) {
	l, _ := open(t, memkv.New(), LogOptions{})
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			b := Batch{Puts: []KeyValue{{Key: fmt.Sprintf("sys/%03d", i%200), Value: []byte("v")}}}
			if i >= 200 {
				b = Batch{Puts: []KeyValue{{Key: fmt.Sprintf("sys/x/%03d", i)}}, Deletes: []string{"sys/gone"}}
			}
			if _, err := l.Append(t.Context(), b); err != nil {
				t.Error(err)
			}
		})
	}
	run(t, l)
	wg.Wait()
	got, err := l.ListConfig(t.Context(), "sys/")
	if err != nil || len(got) != 300 {
		t.Fatalf("got %d keys, %v; want 300", len(got), err)
	}
	if _, err := l.ListConfig(t.Context(), "g/"); !errors.Is(err, errs.Invalid) {
		t.Errorf("ListConfig of the journal: got %v, want Invalid", err)
	}
}

func TestQueueIsBounded(t *testing.T) {
	hold, entered := make(chan struct{}), make(chan struct{}, 10)
	kv := &faulty{KV: memkv.New(), txn: func(_ Txn, do func() (bool, int64, error)) (bool, int64, error) {
		entered <- struct{}{}
		<-hold
		return do()
	}}
	l, _ := open(t, kv, LogOptions{MaxQueueBytes: 1})
	run(t, l)
	results := make(chan error, 3)
	add := func() { _, err := l.Append(t.Context(), set("a")); results <- err }
	go add()
	<-entered // in flight; the queue is empty, so one more is taken whatever its size
	go add()
	go add()
	if err := <-results; !errors.Is(err, errs.Unavailable) {
		t.Errorf("beyond the bound: got %v, want Unavailable", err)
	}
	close(hold)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// TestStopWhileUnknown ends Run while the KV gives no answer.
func TestStopWhileUnknown(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	kv := &faulty{KV: memkv.New(), txn: func(Txn, func() (bool, int64, error)) (bool, int64, error) {
		cancel()
		return false, 0, errLost
	}}
	l, applied := open(t, kv, LogOptions{})
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	if _, err := l.Append(t.Context(), set("a")); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Append: got %v, want Unavailable", err)
	}
	if err := <-done; err == nil {
		t.Error("Run ended without an error")
	}
	if len(applied.list) > 0 {
		t.Errorf("applied %q", applied.list)
	}
}

func TestReplayRefuses(t *testing.T) {
	key := func(seq int) string { return fmt.Sprintf("g/g/j/%016x", seq) }
	value := func(t *testing.T, kv KV, key string) []byte {
		got, err := kv.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Clone(got.Value)
	}
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, kv KV) Txn
	}{
		{"first record missing", func(t *testing.T, kv KV) Txn { return Txn{Deletes: []string{key(1)}} }},
		{"record missing", func(t *testing.T, kv KV) Txn { return Txn{Deletes: []string{key(7)}} }},
		{"window missing", func(t *testing.T, kv KV) Txn {
			if _, err := kv.DeleteRange(t.Context(), key(30), key(75)); err != nil {
				t.Fatal(err)
			}
			return Txn{}
		}},
		{"torn", func(t *testing.T, kv KV) Txn {
			b := value(t, kv, key(5))
			return Txn{Puts: []KeyValue{{Key: key(5), Value: b[:len(b)/2]}}}
		}},
		{"empty", func(t *testing.T, kv KV) Txn { return Txn{Puts: []KeyValue{{Key: key(5)}}} }},
		{"bit flipped", func(t *testing.T, kv KV) Txn {
			b := value(t, kv, key(5))
			b[len(b)/2] ^= 1
			return Txn{Puts: []KeyValue{{Key: key(5), Value: b}}}
		}},
		{"another's bytes", func(t *testing.T, kv KV) Txn {
			return Txn{Puts: []KeyValue{{Key: key(5), Value: value(t, kv, key(6))}}}
		}},
		{"older term", func(t *testing.T, kv KV) Txn {
			return Txn{Puts: []KeyValue{{Key: key(80), Value: AppendRecordForTest(80, 1)}}}
		}},
		{"term of the future", func(t *testing.T, kv KV) Txn {
			return Txn{Puts: []KeyValue{{Key: key(80), Value: AppendRecordForTest(80, 1<<40)}}}
		}},
		{"foreign key", func(t *testing.T, kv KV) Txn { return Txn{Puts: []KeyValue{{Key: "g/g/j/zz"}}} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			kv := memkv.New()
			l, _ := open(t, kv, LogOptions{})
			stop := run(t, l)
			for i := range 80 {
				if _, err := l.Append(t.Context(), set(fmt.Sprint(i))); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			if ok, _, err := kv.Txn(t.Context(), c.damage(t, kv)); !ok || err != nil {
				t.Fatal(ok, err)
			}
			again, err := OpenLog(kv, LogOptions{Group: "g"})
			if err != nil {
				t.Fatal(err)
			}
			err = again.Load(t.Context())
			if !errors.Is(err, errs.Corrupt) {
				t.Fatalf("got %v, want Corrupt", err)
			}
			t.Log(err)
			if err := again.Run(t.Context()); !errors.Is(err, errs.Invalid) {
				t.Errorf("Run after a failed Load: got %v, want Invalid", err)
			}
		})
	}
}

func TestOpenLog(t *testing.T) {
	for _, group := range []string{"", "a/b", strings.Repeat("g", 201)} {
		if _, err := OpenLog(memkv.New(), LogOptions{Group: group}); !errors.Is(err, errs.Invalid) {
			t.Errorf("group %q: got %v, want Invalid", group, err)
		}
	}
	l, _ := open(t, &lossyClaim{KV: memkv.New()}, LogOptions{})
	if l.Term() != 2 {
		t.Errorf("a claim whose answer was lost: term %d, want 2", l.Term())
	}
	l, err := OpenLog(memkv.New(), LogOptions{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Run(t.Context()); !errors.Is(err, errs.Invalid) {
		t.Errorf("Run before Claim: got %v, want Invalid", err)
	}
	if err := l.Follow(t.Context()); !errors.Is(err, errs.Invalid) {
		t.Errorf("Follow before Load: got %v, want Invalid", err)
	}
	if _, err := l.Leader(t.Context()); !errors.Is(err, errs.NotExist) {
		t.Errorf("Leader before any claim: got %v, want NotExist", err)
	}
	other, _ := open(t, memkv.New(), LogOptions{})
	stop := run(t, other)
	if err := other.Load(t.Context()); !errors.Is(err, errs.Invalid) {
		t.Errorf("Load while it runs: got %v, want Invalid", err)
	}
	stop()
	if err := other.Claim(t.Context()); !errors.Is(err, errs.Invalid) {
		t.Errorf("Claim after Run: got %v, want Invalid", err)
	}
}

// lossyClaim loses the answer of the first transaction, which it does.
type lossyClaim struct {
	KV
	n int
}

func (k *lossyClaim) Txn(ctx context.Context, t Txn) (bool, int64, error) {
	ok, rev, err := k.KV.Txn(ctx, t)
	if k.n++; k.n == 1 {
		return false, 0, errLost
	}
	return ok, rev, err
}

// BenchmarkAppend measures creates per second of 256 callers on a KV in memory.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l, _ := open(b, memkv.New(), LogOptions{})
			run(b, l)
			kvtest.BenchmarkLog(b, l, callers)
		})
	}
}

// TestOutage has a KV that does not answer for 20 seconds: what is proposed waits for its outcome, what is queued behind it
// is refused, and all is well when the KV is back.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		kv := &faulty{KV: memkv.New(), txn: func(_ Txn, do func() (bool, int64, error)) (bool, int64, error) {
			if time.Since(start) < 20*time.Second {
				return false, 0, errLost
			}
			return do()
		}}
		l, applied := open(t, kv, LogOptions{})
		stop := run(t, l)
		proposed := make(chan error, 1)
		go func() { _, err := l.Append(t.Context(), set("proposed")); proposed <- err }()
		synctest.Wait()
		if _, err := l.Append(t.Context(), set("queued")); !errors.Is(err, errs.Unavailable) {
			t.Errorf("queued: got %v, want Unavailable", err)
		}
		if _, err := l.Append(t.Context(), set("late")); !errors.Is(err, errs.Unavailable) || time.Since(start) > 15*time.Second {
			t.Errorf("late: got %v after %v, want Unavailable at once", err, time.Since(start))
		}
		if err := <-proposed; err != nil {
			t.Errorf("proposed: %v", err)
		}
		if _, err := l.Append(t.Context(), set("after")); err != nil {
			t.Errorf("after: %v", err)
		}
		stop()
		if want := []string{"proposed", "after"}; !slices.Equal(applied.list, want) {
			t.Errorf("applied %q, want %q", applied.list, want)
		}
	})
}

// hung is a KV whose transactions on records are answered when hold is closed, or not at all.
type hung struct {
	KV
	entered chan struct{}
	hold    chan struct{}
}

func (h *hung) Txn(ctx context.Context, t Txn) (bool, int64, error) {
	if strings.Contains(t.Puts[0].Key, "/j/") {
		h.entered <- struct{}{}
		select {
		case <-h.hold:
		case <-ctx.Done():
			return false, 0, errs.E("test.Txn", "", errs.Unavailable, ctx.Err())
		}
	}
	return h.KV.Txn(ctx, t)
}

// TestEndOfReignIsQuick ends Run while a record is in flight: one that is answered soon counts, and one that is not keeps
// nobody waiting.
func TestEndOfReignIsQuick(t *testing.T) {
	for _, answered := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			kv := &hung{KV: memkv.New(), entered: make(chan struct{}, 10), hold: make(chan struct{})}
			l, _ := open(t, kv, LogOptions{})
			ctx, cancel := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- l.Run(ctx) }()
			results := make(chan error, 2)
			add := func() { _, err := l.Append(t.Context(), set("a")); results <- err }
			go add()
			<-kv.entered
			go add() // waits, and is not proposed
			synctest.Wait()
			began := time.Now()
			cancel()
			if answered {
				time.AfterFunc(100*time.Millisecond, func() { close(kv.hold) })
			}
			first, second := <-results, <-results
			if took := time.Since(began); took > time.Second {
				t.Errorf("answered %v: it took %v until the callers knew", answered, took)
			}
			failed := 0
			for _, err := range []error{first, second} {
				if err != nil {
					failed++
				}
				if err != nil && !errors.Is(err, errs.Unavailable) {
					t.Errorf("answered %v: got %v", answered, err)
				}
			}
			if want := map[bool]int{true: 1, false: 2}[answered]; failed != want {
				t.Errorf("answered %v: %d changes failed, want %d", answered, failed, want)
			}
			if err := <-ran; !errors.Is(err, context.Canceled) && !errors.Is(err, errs.Unavailable) {
				t.Errorf("Run: got %v", err)
			}
		})
	}
}

// TestJournalIsBounded has the KV refuse pages: the journal grows up to a bound, what ends a change is taken beyond it, and
// when a checkpoint is made at last everything is.
func TestJournalIsBounded(t *testing.T) {
	for _, c := range []struct {
		name   string
		o      LogOptions
		each   time.Duration // between two changes
		at, by int           // changes until one is refused
	}{
		{"operations", LogOptions{MaxTailOps: 50}, time.Millisecond, 100, 102},
		{"bytes", LogOptions{MaxTailBytes: 5 << 10}, time.Millisecond, 100, 200},
		{"age", LogOptions{MaxTailOps: 100}, 10 * time.Second, 100, 102}, // beyond the cap, and ten minutes without a checkpoint
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := &noPages{KV: memkv.New()}
				kv.off.Store(true)
				c.o.CheckpointEvery = time.Second
				l, _ := open(t, kv, c.o)
				stop := run(t, l)
				defer stop()
				made := 0
				var err error
				for ; err == nil && made < 1000; made++ {
					_, err = l.Append(t.Context(), set(fmt.Sprintf("%06d", made)))
					time.Sleep(c.each)
				}
				if !errors.Is(err, errs.Unavailable) || made < c.at || made > c.by {
					t.Errorf("change %d: got %v, want Unavailable between %d and %d", made, err, c.at, c.by)
				}
				if _, err := l.Append(t.Context(), Batch{Ops: []Op{{Kind: Del, Dir: RootDir, Edge: "000000"}}}); err != nil {
					t.Errorf("what ends a change: %v", err)
				}
				kv.off.Store(false)
				time.Sleep(30 * time.Second)
				if _, err := l.Append(t.Context(), set("again")); err != nil {
					t.Errorf("after a checkpoint: %v", err)
				}
			})
		})
	}
}

// noPages is a KV that takes no pages of a checkpoint while it is off.
type noPages struct {
	KV
	off atomic.Bool
}

func (k *noPages) Txn(ctx context.Context, t Txn) (bool, int64, error) {
	if k.off.Load() && strings.Contains(t.Puts[0].Key, "/p/") {
		return false, 0, errs.New("test.Txn", t.Puts[0].Key, errs.NoSpace, "no room for pages")
	}
	return k.KV.Txn(ctx, t)
}
