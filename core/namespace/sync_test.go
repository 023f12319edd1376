package namespace

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestPace has a store answer well, refuse, and slow down.
func TestPace(t *testing.T) {
	p, now := newPace(8), time.Unix(1000, 0)
	answer := func(took time.Duration, refused bool) {
		t.Helper()
		if err := p.enter(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
		p.leave(took, refused, now)
	}
	for range 100 {
		answer(10*time.Millisecond, false)
	}
	if p.limit != 8 {
		t.Errorf("a store that answers well is asked %v at once, want 8", p.limit)
	}
	best := p.best
	answer(time.Millisecond, true)
	if p.best < best {
		t.Errorf("how fast it answers was learnt from a refusal: %v, was %v", p.best, best)
	}
	if p.limit != 4 {
		t.Errorf("one that refuses is asked %v at once, want 4", p.limit)
	}
	for range 100 {
		answer(time.Second, false)
	}
	if p.limit > 4 {
		t.Errorf("one that became slow is asked %v at once", p.limit)
	}
	for range 100 {
		answer(time.Millisecond, true)
	}
	if p.limit != 1 {
		t.Errorf("one that always refuses is asked %v at once, want 1", p.limit)
	}
	if err := p.enter(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if err := p.enter(ctx, 100); !errors.Is(err, enough) {
		t.Errorf("beyond the limit: %v", err)
	}
	p.quit()
	if err := p.enter(t.Context(), 100); err != nil || p.busy != 1 {
		t.Errorf("after one has quit: %v, %d busy", err, p.busy)
	}
}
