package meta_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	. "github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
)

// TestRelease hands the journal over as planned: what was queued is committed, the one stops answering before the other may
// begin, and the other begins at once.
func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := memkv.New()
		now := clock()
		first, _ := open(t, kv, LogOptions{Member: "one", ReadLease: testLease, Clock: now})
		if err := first.Release(t.Context()); !errors.Is(err, errs.Invalid) {
			t.Errorf("Release before Run: got %v, want Invalid", err)
		}
		stopFirst := run(t, first)
		synctest.Wait()
		const callers = 50
		done := make(chan error, callers)
		for i := range callers {
			go func() { _, err := first.Append(t.Context(), set(fmt.Sprint(i))); done <- err }()
		}
		if err := first.Lease(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := first.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := first.Lease(t.Context()); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Lease after Release: got %v, want Unavailable", err)
		}
		if err := first.Leads(); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Leads after Release: got %v, want Unavailable", err)
		}
		if _, err := first.Append(t.Context(), set("late")); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Append after Release: got %v, want Unavailable", err)
		}
		acked := 0
		for range callers {
			if err := <-done; err == nil {
				acked++
			} else if !errors.Is(err, errs.Unavailable) {
				t.Errorf("Append: %v", err)
			}
		}
		if err := stopFirst(); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Run of a released leader: got %v, want Unavailable", err)
		}
		if err := first.Release(t.Context()); !errors.Is(err, errs.Invalid) {
			t.Errorf("a second Release: got %v, want Invalid", err)
		}

		second, names := open(t, kv, LogOptions{Member: "two", ReadLease: testLease, Clock: now})
		if wait := second.ServeAfter(); wait != 0 {
			t.Errorf("the successor of a released leader waits %v", wait)
		}
		if len(names.list) != acked {
			t.Errorf("%d changes are there, %d were acknowledged", len(names.list), acked)
		}
		stopSecond := run(t, second)
		if _, err := second.Append(t.Context(), set("next")); err != nil {
			t.Error(err)
		}
		stopSecond() // without a release: it stops, and nobody is told
		third, _ := open(t, kv, LogOptions{Member: "three", ReadLease: testLease, Clock: now})
		if wait := third.ServeAfter(); wait < testLease {
			t.Errorf("the successor of a leader that was not released waits %v", wait)
		}
		// A leader that has not yet waited for the leases before its own does not speak for them.
		stopThird := run(t, third)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), testLease/2)
		defer cancel()
		if err := third.Release(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Release before ServeAfter: got %v", err)
		}
		if _, err := third.Append(t.Context(), set("stays")); err != nil {
			t.Errorf("a leader whose release was given up: %v", err)
		}
		stopThird()
	})
}

// TestReleaseIsNotKnown loses what a release says: the next leader waits.
func TestReleaseIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := memkv.New()
		cut := &cutOff{KV: kv}
		now := clock()
		first, _ := open(t, cut, LogOptions{Member: "one", ReadLease: testLease, Clock: now})
		stopFirst := run(t, first)
		synctest.Wait()
		cut.set(true)
		released := make(chan error, 1)
		go func() { released <- first.Release(t.Context()) }()
		time.Sleep(time.Millisecond)
		if err := first.Leads(); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Leads while the release is not known: got %v, want Unavailable", err)
		}
		second, _ := open(t, kv, LogOptions{Member: "two", ReadLease: testLease, Clock: now})
		if wait := second.ServeAfter(); wait < testLease {
			t.Errorf("the successor waits %v", wait)
		}
		cut.set(false)
		if err := <-released; !errors.Is(err, errs.Unavailable) {
			t.Errorf("Release: got %v, want Unavailable", err)
		}
		stopFirst()
		if who, err := second.Leader(t.Context()); err != nil || who.Member != "two" || who.Released {
			t.Errorf("the leader is %+v, %v", who, err)
		}
	})
}
