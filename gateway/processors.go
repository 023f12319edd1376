package gateway

import (
	"context"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/ufs/wrap"
)

// processors has the Go runtime use more processors (GOMAXPROCS) than there are while the calls that change local stores wait for
// their disks. A goroutine in fsync(2) keeps a processor of the runtime from the goroutines that could run until the runtime's monitor
// takes it away, which looks every 20 µs to 10 ms. Where many wait hardly anybody runs: on two of them small
// durable puts are a third faster with eight. Small reads take a tenth more of the real processors with so many, so it has them only then.
type processors struct {
	own    int // how many the process began with
	set    func(n int)
	unset  func()
	waited atomic.Int64 // ns that calls took since it was looked
	more   atomic.Bool
	wake   chan struct{} // calls waited, and there are no more processors yet
}

const (
	waitShort = 50 * time.Millisecond // of waiting calls, before there are more processors
	waitLong  = 2 * time.Second       // without, before there are no more
	perOwn    = 4
	maxMore   = 24
)

// newProcessors returns the processors of this process; nil if its environment says how many it is to use.
func newProcessors() *processors {
	if os.Getenv("GOMAXPROCS") != "" {
		return nil
	}
	return &processors{own: runtime.GOMAXPROCS(0), set: func(n int) { runtime.GOMAXPROCS(n) }, unset: runtime.SetDefaultGOMAXPROCS,
		wake: make(chan struct{}, 1)}
}

// called notes a call of a local store.
func (p *processors) called(e wrap.Event) {
	switch e.Op {
	case wrap.Write, wrap.Prepare, wrap.Commit, wrap.Append, wrap.Copy, wrap.PutPart, wrap.Complete, wrap.Rename, wrap.Mkdir, wrap.Remove:
	default:
		return
	}
	p.waited.Add(int64(e.Duration))
	if !p.more.Load() {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// run has it that there are more processors when they are of use, until ctx ends.
func (p *processors) run(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		if !p.wait(ctx, waitShort) {
			continue
		}
		p.more.Store(true)
		p.set(min(perOwn*p.own, p.own+maxMore))
		for p.wait(ctx, waitLong) {
		}
		p.unset()
		p.more.Store(false)
	}
}

// wait reports whether for so long a time calls are under way that half of the processors wait in, on average.
func (p *processors) wait(ctx context.Context, d time.Duration) bool {
	p.waited.Store(0)
	select {
	case <-time.After(d):
		return p.waited.Load()*2 >= int64(d)*int64(p.own)
	case <-ctx.Done():
		return false
	}
}

// watchProcessors has the process use as many processors as its stores make useful.
func (g *gateway) watchProcessors(ctx context.Context) error {
	if g.processors = newProcessors(); g.processors == nil {
		return nil
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.running.Go(func() { g.processors.run(life) })
	g.onClose(func() error { stop(); return nil })
	return nil
}
