package gateway

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/ufs/wrap"
)

// processors has the Go runtime use more processors (GOMAXPROCS) than there are while calls that change local stores wait for their
// disks. A goroutine in fsync(2) keeps a processor of the runtime from the goroutines that could run until the runtime's monitor
// takes it away, which looks every 20 µs to 10 ms. Where many wait hardly anybody runs: on two processors small durable puts are a
// third faster with eight. Small reads take a tenth more of the real processors then, so that there are more only meanwhile. Nor are there
// more where the process has a quota: it would be used up at once, and the process stopped for the rest of the period.
type processors struct {
	count  func() (own int, limited bool)
	set    func(n int)
	unset  func()
	waited atomic.Int64 // ns that calls took since it was looked
	more   atomic.Bool
	wake   chan struct{} // calls waited, and there are no more processors yet
}

const (
	waitShort = 50 * time.Millisecond // of waiting calls, before there are more processors
	waitLong  = 5 * time.Second       // without, before there are no more: writes come in bursts
	perOwn    = 4
	maxMore   = 24
)

// newProcessors returns the processors of this process; nil if its environment says how many it is to use.
func newProcessors() *processors {
	if os.Getenv("GOMAXPROCS") != "" {
		return nil
	}
	count := func() (int, bool) {
		own := runtime.GOMAXPROCS(0)
		return own, own < runtime.NumCPU() || hasQuota("/")
	}
	return &processors{count: count, set: func(n int) { runtime.GOMAXPROCS(n) }, unset: runtime.SetDefaultGOMAXPROCS, wake: make(chan struct{}, 1)}
}

// hasQuota reports whether a control group that this process is in has a quota of processor time. root is where /proc and /sys are found.
// The runtime looks at quotas too, but never takes one for less than two processors.
// Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and /scheduler/sched-bwc.html (cpu.cfs_quota_us).
func hasQuota(root string) bool {
	groups, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return false // no control groups
	}
	for line := range strings.Lines(string(groups)) {
		hierarchy, group, ok := strings.Cut(strings.TrimSpace(line), ":") // hierarchy:controllers:group
		controllers, group, ok2 := strings.Cut(group, ":")
		if !ok || !ok2 {
			continue
		}
		dir, file := "sys/fs/cgroup", "cpu.max"
		if hierarchy != "0" {
			if !slices.Contains(strings.Split(controllers, ","), "cpu") {
				continue
			}
			dir, file = "sys/fs/cgroup/cpu", "cpu.cfs_quota_us"
		}
		for at := path.Join("/", group); ; at = path.Dir(at) { // a container may see its own group as the root
			quota, err := os.ReadFile(filepath.Join(root, dir, at, file))
			if text := string(quota); err == nil && !strings.HasPrefix(text, "max") && !strings.HasPrefix(text, "-1") {
				return true
			}
			if at == "/" {
				break
			}
		}
	}
	return false
}

// called notes a call of a local store. Parts of uploads are left out: they come at their clients' pace.
func (p *processors) called(e wrap.Event) {
	switch e.Op {
	case wrap.Write, wrap.Prepare, wrap.Commit, wrap.Complete, wrap.Copy, wrap.Rename, wrap.Mkdir, wrap.Remove:
	default:
		return
	}
	window := waitLong
	if !p.more.Load() {
		window = waitShort
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	p.waited.Add(int64(min(e.Duration, window))) // it is told of when it has ended, and most of it may have been before
}

// run has it that there are more processors when they are of use, until ctx ends.
func (p *processors) run(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		own, limited := p.count()
		if limited {
			p.waits(ctx, waitLong, own) // that may change
			continue
		}
		if !p.waits(ctx, waitShort, own) {
			continue
		}
		p.more.Store(true)
		p.set(min(perOwn*own, own+maxMore))
		for !limited && p.waits(ctx, waitLong, own) {
			_, limited = p.count()
		}
		p.unset()
		p.more.Store(false)
	}
}

// waits reports whether for so long a time at least half as many calls wait, on average, as the process has processors of its own.
func (p *processors) waits(ctx context.Context, d time.Duration, own int) bool {
	p.waited.Store(0)
	select {
	case <-time.After(d):
		return p.waited.Load()*2 >= int64(d)*int64(own)
	case <-ctx.Done():
		return false
	}
}

// watchProcessors has the process use as many processors as its stores make useful.
func (g *gateway) watchProcessors(ctx context.Context) error {
	if g.processors = newProcessors(); g.processors == nil {
		return nil
	}
	g.ownProcs, _ = g.processors.count()
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.running.Go(func() { g.processors.run(life) })
	g.onClose(func() error { stop(); return nil })
	return nil
}
