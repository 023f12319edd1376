package namespace

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurns holds the only turn, while requests come and while none do.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, coming := newTurns(1), false
		hold := func(d time.Duration) (waited time.Duration) {
			began := time.Now()
			give := x.take(t.Context())
			defer give()
			if coming {
				x.request()
			}
			waited = time.Since(began)
			time.Sleep(d)
			return waited
		}
		want := func(what string, got, want time.Duration) {
			t.Helper()
			if got != want {
				t.Errorf("%s: the turn was waited for %v, want %v", what, got, want)
			}
		}
		hold(10 * time.Millisecond)
		want("no request came", hold(0), 0)
		coming = true
		hold(8 * time.Millisecond)
		want("requests come", hold(3*time.Millisecond), 96*time.Millisecond)
		want("it was held for a moment only", hold(4*time.Millisecond), 0)
		want("it was held for two", hold(4*time.Millisecond), 84*time.Millisecond)
		time.Sleep(20 * time.Millisecond)
		hold(4 * time.Millisecond)
		want("it had rested in between", hold(0), 0)
		hold(time.Minute)
		coming = false
		want("it was held for very long", hold(0), maxRest)
		time.Sleep(askedFor)
		hold(10 * time.Millisecond)
		want("no more requests came", hold(0), 0)

		give := x.take(t.Context())
		began := time.Now()
		x.takeInCall(t.Context())()
		want("a driver, of a turn that is held for long", time.Since(began), maxTurnWait)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began = time.Now()
		none := x.take(ctx)
		want("a ctx that ends", time.Since(began), time.Second)
		none()
		if len(x.free) != 0 {
			t.Error("what was not taken is given back")
		}
		give()
		x.request()
		hold(time.Second)
		began = time.Now()
		none = x.take(ctx)
		want("a ctx that has ended, of a turn that rests", time.Since(began), 0)
		none()
		if len(x.free) != 1 {
			t.Errorf("there are %d turns, want 1", len(x.free))
		}
	})
}
