package meta_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	. "github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
)

// standby loads and follows the journal "g" of kv until stop is called.
func standby(t *testing.T, kv KV, o LogOptions) (l *Log, stop func() error) {
	t.Helper()
	o.Group, o.CheckpointEvery = "g", -1
	l, err := OpenLog(kv, o)
	if err == nil {
		err = l.Load(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Follow(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { stop() })
	return l, stop
}

// TestFollow has a standby follow a leader through checkpoints that trim the journal, and take over.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := checkpointRand(t)
		kv := memkv.New()
		a := &author{r: r, model: newOverlay(), next: FirstDir, wide: 100}
		leader, _ := open(t, kv, LogOptions{Member: "one", Address: "one:1"})
		stopLeader := run(t, leader)
		near, stopNear := standby(t, kv, LogOptions{Member: "two"})
		c, err := NewCheckpointer(leader, 16)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			for range 20 {
				if _, err := leader.Append(t.Context(), Batch{Ops: a.record()}); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second) // what a compaction cut off is watched again
			synctest.Wait()
			if near.Seq() != leader.Seq() {
				t.Fatalf("the standby is at %d, the leader at %d", near.Seq(), leader.Seq())
			}
			compareTree(t, near.Tree(), a.model, "the standby")
		}
		if who, err := near.Leader(t.Context()); err != nil || who.Member != "one" || who.Address != "one:1" || who.Term != leader.Term() {
			t.Errorf("Leader = %+v, %v", who, err)
		}
		if err := near.Lease(t.Context()); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Lease of a standby: got %v, want Unavailable", err)
		}
		if err := stopNear(); !errors.Is(err, context.Canceled) {
			t.Errorf("Follow: got %v, want Canceled", err)
		}
		for range 5 { // what the standby sees only when it claims
			if _, err := leader.Append(t.Context(), Batch{Ops: a.record()}); err != nil {
				t.Fatal(err)
			}
		}
		if err := near.Claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		if near.Seq() != leader.Seq() || near.Term() <= leader.Term() {
			t.Errorf("claimed at %d, term %d; the leader was at %d, term %d", near.Seq(), near.Term(), leader.Seq(), leader.Term())
		}
		if _, err := leader.Append(t.Context(), set("late")); !errors.Is(err, errs.Unavailable) {
			t.Errorf("a deposed leader's Append: got %v, want Unavailable", err)
		}
		if err := leader.Lease(t.Context()); !errors.Is(err, errs.Unavailable) {
			t.Errorf("a deposed leader's Lease: got %v, want Unavailable", err)
		}
		if err := stopLeader(); !errors.Is(err, errs.Unavailable) {
			t.Errorf("a deposed leader's Run: got %v, want Unavailable", err)
		}
		stop := run(t, near)
		for range 20 {
			if _, err := near.Append(t.Context(), Batch{Ops: a.record()}); err != nil {
				t.Fatal(err)
			}
		}
		if c, err = NewCheckpointer(near, 16); err == nil {
			err = c.Pass(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		stop()
		compareTree(t, near.Tree(), a.model, "the new leader")
		checkLoad(t, kv, a.model, "what the new leader left")
	})
}

// TestFollowThroughGap cuts a standby off until the records it needs are deleted and their revisions compacted.
func TestFollowThroughGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := memkv.New()
		cut := &cutOff{KV: kv}
		a := &author{r: checkpointRand(t), model: newOverlay(), next: FirstDir, wide: 100}
		leader, _ := open(t, kv, LogOptions{})
		stopLeader := run(t, leader)
		far, stop := standby(t, cut, LogOptions{})
		c, err := NewCheckpointer(leader, 16)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			cut.set(true)
			for range 3 {
				for range 10 {
					if _, err := leader.Append(t.Context(), Batch{Ops: a.record()}); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.Pass(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if far.Seq() == leader.Seq() {
				t.Fatal("the standby was not cut off")
			}
			cut.set(false)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if far.Seq() != leader.Seq() {
				t.Fatalf("the standby is at %d, the leader at %d", far.Seq(), leader.Seq())
			}
			compareTree(t, far.Tree(), a.model, "the standby")
		}
		stop()
		stopLeader()
	})
}

// cutOff is a KV that answers nothing while it is cut off, and whose watches end then.
type cutOff struct {
	KV
	mu  sync.Mutex
	off bool
	end []context.CancelFunc
}

func (k *cutOff) set(off bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.off = off
	for _, cancel := range k.end {
		cancel()
	}
	k.end = nil
}

func (k *cutOff) lost() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.off
}

func (k *cutOff) Scan(ctx context.Context, from, to string, limit int) (Page, error) {
	if k.lost() {
		return Page{}, errLost
	}
	return k.KV.Scan(ctx, from, to, limit)
}

func (k *cutOff) Get(ctx context.Context, key string) (KeyValue, error) {
	if k.lost() {
		return KeyValue{}, errLost
	}
	return k.KV.Get(ctx, key)
}

func (k *cutOff) Txn(ctx context.Context, t Txn) (bool, int64, error) {
	if k.lost() {
		return false, 0, errLost
	}
	return k.KV.Txn(ctx, t)
}

func (k *cutOff) Watch(ctx context.Context, from, to string, rev int64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		watching, cancel := context.WithCancel(ctx)
		defer cancel()
		k.mu.Lock()
		k.end = append(k.end, cancel)
		off := k.off
		k.mu.Unlock()
		if off { // since the caller looked
			cancel()
		}
		for e, err := range k.KV.Watch(watching, from, to, rev) {
			if err != nil && ctx.Err() == nil && watching.Err() != nil {
				err = errLost
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// clock counts the time of a synctest bubble.
func clock() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) + time.Hour }
}

const testLease = 300 * time.Millisecond

// TestLease has a leader that is cut off from the KV stop answering, while another takes over, before that one answers.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := memkv.New()
		cut := &cutOff{KV: kv}
		now := clock()
		first, _ := open(t, cut, LogOptions{Member: "one", ReadLease: testLease, Clock: now})
		if wait := first.ServeAfter(); wait != 0 {
			t.Errorf("the first leader of all waits %v", wait)
		}
		stopFirst := run(t, first)
		if _, err := first.Append(t.Context(), set("a")); err != nil {
			t.Fatal(err)
		}
		for range 50 { // idle: the lease is renewed
			time.Sleep(70 * time.Millisecond)
			if err := first.Lease(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if s := first.Stats(); s.Lapses != 0 {
			t.Errorf("%d lapses of an undisturbed lease", s.Lapses)
		}
		cut.set(true)
		second, _ := open(t, kv, LogOptions{Member: "two", ReadLease: testLease, Clock: now})
		claimed := now()
		stopSecond := run(t, second)
		served := make(chan time.Duration, 1)
		go func() {
			if _, err := second.Append(t.Context(), set("b")); err != nil {
				t.Error(err)
			}
			served <- now()
		}()
		last := time.Duration(0)
		for now() < claimed+2*testLease {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if err := first.Lease(ctx); err == nil {
				last = now()
			} else if !errors.Is(err, errs.Unavailable) {
				t.Errorf("a lapsed lease: got %v, want Unavailable", err)
			}
			cancel()
			time.Sleep(time.Millisecond)
		}
		wrote := <-served
		if last == 0 || last >= wrote {
			t.Errorf("the first answered until %v, the second from %v on", last, wrote)
		}
		if wait := wrote - claimed; wait < testLease || wait > 2*testLease {
			t.Errorf("the second waited %v of a lease of %v", wait, testLease)
		}
		cut.set(false)
		time.Sleep(time.Second)
		if err := first.Lease(t.Context()); !errors.Is(err, errs.Unavailable) {
			t.Errorf("a deposed leader's lease: got %v, want Unavailable", err)
		}
		if _, err := first.Append(t.Context(), set("c")); !errors.Is(err, errs.Unavailable) {
			t.Errorf("a deposed leader's write: got %v, want Unavailable", err)
		}
		if err := stopFirst(); !errors.Is(err, errs.Unavailable) {
			t.Errorf("a deposed leader's Run: got %v, want Unavailable", err)
		}
		if err := second.Lease(t.Context()); err != nil {
			t.Errorf("the second leader: %v", err)
		}
		stopSecond()
		if err := second.Lease(t.Context()); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Lease after Run: got %v, want Unavailable", err)
		}
	})
}

// TestLeaseAfterPause stops a leader's clockwork, as a suspended machine does: its lease has lapsed when it goes on, whatever
// its timers say, and a renewal makes it valid again only if it still leads.
func TestLeaseAfterPause(t *testing.T) {
	for _, deposed := range []bool{false, true} {
		t.Run(fmt.Sprintf("deposed %v", deposed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := memkv.New()
				var mu sync.Mutex
				var slept time.Duration
				base := clock()
				now := func() time.Duration {
					mu.Lock()
					defer mu.Unlock()
					return base() + slept
				}
				l, _ := open(t, kv, LogOptions{ReadLease: testLease, Clock: now})
				stop := run(t, l)
				synctest.Wait()
				if err := l.Lease(t.Context()); err != nil {
					t.Fatal(err)
				}
				if deposed {
					open(t, kv, LogOptions{Member: "other", Clock: now})
				}
				mu.Lock()
				slept += time.Minute
				mu.Unlock()
				err := l.Lease(t.Context())
				if got := errors.Is(err, errs.Unavailable); got != deposed || !deposed && err != nil {
					t.Errorf("Lease after a pause: %v", err)
				}
				if s := l.Stats(); s.Lapses != 1 {
					t.Errorf("%d lapses, want 1", s.Lapses)
				}
				stop()
			})
		})
	}
}

// TestLeadsOutlastsALapse has the KV answer late for a time, and then no more: who asks in the last moment before a change is
// kept waiting for the one, and told after the other.
func TestLeadsOutlastsALapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cut := &cutOff{KV: memkv.New()}
		now := clock()
		l, _ := open(t, cut, LogOptions{ReadLease: testLease, Clock: now})
		stop := run(t, l)
		defer stop()
		synctest.Wait()
		cut.set(true)
		time.Sleep(2 * testLease)
		healed := time.AfterFunc(testLease/2, func() { cut.set(false) })
		defer healed.Stop()
		if err := l.Leads(); err != nil {
			t.Errorf("a lease that is renewed soon: %v", err)
		}
		cut.set(true)
		time.Sleep(2 * testLease)
		asked := now()
		if err := l.Leads(); !errors.Is(err, errs.Unavailable) {
			t.Errorf("a lease that is not renewed: got %v, want Unavailable", err)
		}
		if waited := now() - asked; waited == 0 || waited > 4*testLease {
			t.Errorf("it took %v of a lease of %v", waited, testLease)
		}
		cut.set(false)
	})
}

// TestRunMakesCheckpoints has Run make checkpoints of its own, which bound the journal.
func TestRunMakesCheckpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := memkv.New()
		l, _ := open(t, kv, LogOptions{CheckpointEvery: time.Second})
		stop := run(t, l)
		for i := range 2000 {
			if _, err := l.Append(t.Context(), set(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(3 * time.Second)
		if s := l.Stats(); s.Checkpoints < 5 || s.TailOps != 0 || s.TailBytes != 0 || s.PageBytes == 0 {
			t.Errorf("%+v", s)
		}
		stop()
		page, err := kv.Scan(t.Context(), "g/g/j/", "g/g/j0", MaxScan)
		if err != nil || len(page.KVs) < 1 || len(page.KVs) > 600 {
			t.Errorf("%d of 2000 records are left, %v", len(page.KVs), err)
		}
		again, err := OpenLog(kv, LogOptions{Group: "g"})
		if err == nil {
			err = again.Load(t.Context())
		}
		if err != nil || again.Seq() != 2000 || again.Tree().Len() != 2000 {
			t.Errorf("loaded to %d, %d entries, %v", again.Seq(), again.Tree().Len(), err)
		}
	})
}

// TestLoadRefusesMissingPage deletes each page of a checkpoint in turn.
func TestLoadRefusesMissingPage(t *testing.T) {
	kv := memkv.New()
	a := &author{r: checkpointRand(t), model: newOverlay(), next: FirstDir, wide: 1000}
	l, _ := open(t, kv, LogOptions{})
	run(t, l)
	c, err := NewCheckpointer(l, 16)
	if err != nil {
		t.Fatal(err)
	}
	var page Page
	for len(page.KVs) < 5 { // changes remove whole trees too
		for range 100 {
			if _, err := l.Append(t.Context(), Batch{Ops: a.record()}); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if page, err = kv.Scan(t.Context(), "g/g/p/", "g/g/p0", MaxScan); err != nil {
			t.Fatal(err)
		}
	}
	for i, damage := range slices.Repeat(page.KVs, 2) {
		x := Txn{Deletes: []string{damage.Key}}
		if i >= len(page.KVs) {
			x = Txn{Puts: []KeyValue{{Key: damage.Key, Value: damage.Value[:len(damage.Value)-1]}}}
		}
		if ok, _, err := kv.Txn(t.Context(), x); !ok || err != nil {
			t.Fatal(ok, err)
		}
		again, err := OpenLog(kv, LogOptions{Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Load(t.Context()); !errors.Is(err, errs.Corrupt) {
			t.Errorf("damage %d: got %v, want Corrupt", i, err)
		}
		if ok, _, err := kv.Txn(t.Context(), Txn{Puts: []KeyValue{damage}}); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	checkLoad(t, kv, a.model, "repaired")
}
