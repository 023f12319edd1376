package gateway

import (
	"context"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/ufs/wrap"
)

// TestProcessors has more processors be used while calls of a local store wait, and no longer.
func TestProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var did []int
		there := 2
		p := &processors{count: func() (int, int) { return 2, there }, set: func(n int) { did = append(did, n) }, unset: func() { did = append(did, 0) }, wake: make(chan struct{}, 1)}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { p.run(ctx); close(ended) }()
		// calls notes that so many calls were under way all the time.
		calls := func(op wrap.Op, many float64, d time.Duration) {
			const step = 5 * time.Millisecond
			for end := time.Now().Add(d); time.Now().Before(end); <-time.After(step) {
				p.called(wrap.Event{Op: op, Duration: time.Duration(many * float64(step))})
			}
			synctest.Wait()
		}
		want := func(what string, all ...int) {
			t.Helper()
			if !slices.Equal(did, all) {
				t.Errorf("%s: the processors were set to %v, want %v", what, did, all)
			}
		}
		calls(wrap.Read, 100, 3*time.Second)
		want("reads")
		calls(wrap.Commit, 0.5, 3*time.Second)
		want("few commits")
		calls(wrap.Commit, 1.5, time.Second)
		want("commits", 8)
		calls(wrap.Commit, 1.5, 10*time.Second)
		want("commits go on", 8)
		calls(wrap.Commit, 0.5, 11*time.Second)
		want("few commits again", 8, 0)
		calls(wrap.Write, 4, time.Second)
		want("writes", 8, 0, 8)
		calls(wrap.PutPart, 100, 11*time.Second)
		want("parts", 8, 0, 8, 0)
		there = 64
		calls(wrap.Write, 4, time.Second)
		want("writes of a process that may use less than there is", 8, 0, 8, 0)
		there = 2
		<-time.After(waitLong)
		synctest.Wait()
		p.called(wrap.Event{Op: wrap.Commit, Duration: time.Hour})
		calls(wrap.Commit, 0.5, time.Second)
		want("an hour's commit that has ended", 8, 0, 8, 0)
		calls(wrap.Write, 4, time.Second)
		want("writes again", 8, 0, 8, 0, 8)
		stop()
		<-ended
		want("the end", 8, 0, 8, 0, 8, 0)
	})
	t.Setenv("GOMAXPROCS", "3")
	if p := newProcessors(); p != nil {
		t.Error("GOMAXPROCS is set, and may be changed")
	}
}

// TestProcessorsAreGivenBack has the process that ends leave the runtime as it was.
func TestProcessorsAreGivenBack(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	runtime.SetDefaultGOMAXPROCS() // the tests may run with others
	before := runtime.GOMAXPROCS(0)
	p := newProcessors()
	if own, there := p.count(); own != there {
		t.Skipf("of %d processors the tests may use %d", there, own)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { p.run(ctx); close(ended) }()
	for deadline := time.Now().Add(10 * time.Second); runtime.GOMAXPROCS(0) <= before; {
		if time.Now().After(deadline) {
			t.Fatal("there are no more processors")
		}
		p.called(wrap.Event{Op: wrap.Commit, Duration: time.Second})
		time.Sleep(time.Millisecond)
	}
	stop()
	<-ended
	if after := runtime.GOMAXPROCS(0); after != before {
		t.Errorf("there are %d processors at the end, and were %d", after, before)
	}
}
