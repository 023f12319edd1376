package gateway

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/ufs/wrap"
)

// TestProcessors has more processors be used while calls of a local store wait, and no longer.
func TestProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var did []int
		var own atomic.Int64
		var limited atomic.Bool
		own.Store(2)
		p := &processors{count: func() (int, bool) { return int(own.Load()), limited.Load() }, set: func(n int) { did = append(did, n) }, unset: func() { did = append(did, 0) }, wake: make(chan struct{}, 1)}
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
		limited.Store(true)
		calls(wrap.Write, 4, time.Second)
		want("writes of a process that has a quota", 8, 0, 8, 0)
		limited.Store(false)
		<-time.After(waitLong)
		own.Store(4)
		calls(wrap.Write, 4, time.Second)
		want("writes again", 8, 0, 8, 0, 16)
		limited.Store(true)
		calls(wrap.Write, 4, 2*waitLong)
		want("a quota that came meanwhile", 8, 0, 8, 0, 16, 0)
		limited.Store(false)
		<-time.After(waitLong)
		synctest.Wait()
		p.called(wrap.Event{Op: wrap.Commit, Duration: time.Millisecond})
		<-time.After(waitShort / 2)
		p.called(wrap.Event{Op: wrap.Commit, Duration: time.Hour})
		<-time.After(waitShort)
		synctest.Wait()
		want("one commit of an hour has ended", 8, 0, 8, 0, 16, 0)
		calls(wrap.Write, 4, time.Second)
		want("more writes", 8, 0, 8, 0, 16, 0, 16)
		stop()
		<-ended
		want("the end", 8, 0, 8, 0, 16, 0, 16, 0)
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
	if _, limited := p.count(); limited {
		t.Skip("the tests have a quota of processor time")
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

// TestHasQuota finds quotas of control groups of both versions.
func TestHasQuota(t *testing.T) {
	for _, c := range []struct {
		name, groups string
		files        map[string]string
		want         bool
	}{
		{name: "no groups"},
		{name: "none", groups: "0::/\n", files: map[string]string{"cpu.max": "max 100000\n"}},
		{name: "of a container", groups: "0::/\n", files: map[string]string{"cpu.max": "50000 100000\n"}, want: true},
		{name: "of a service", groups: "0::/a/b\n", files: map[string]string{"a/b/cpu.max": "300000 100000\n"}, want: true},
		{name: "of what a service is in", groups: "0::/a/b\n", files: map[string]string{"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, want: true},
		{name: "a group that is not seen", groups: "0::/docker/x\n", files: map[string]string{"cpu.max": "50000 100000\n"}, want: true},
		{name: "of others", groups: "0::/a\n", files: map[string]string{"b/cpu.max": "50000 100000\n"}},
		{name: "version 1", groups: "4:cpu,cpuacct:/x\n2:memory:/y\n", files: map[string]string{"cpu/x/cpu.cfs_quota_us": "150000\n"}, want: true},
		{name: "version 1, none", groups: "4:cpu,cpuacct:/x\n", files: map[string]string{"cpu/x/cpu.cfs_quota_us": "-1\n"}},
		{name: "nonsense", groups: "x\n:\n0:\n"},
	} {
		root := t.TempDir()
		write := func(name, text string) {
			name = filepath.Join(root, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if c.groups != "" {
			write("proc/self/cgroup", c.groups)
		}
		for name, text := range c.files {
			write("sys/fs/cgroup/"+name, text)
		}
		if got := hasQuota(root); got != c.want {
			t.Errorf("%s: hasQuota is %v", c.name, got)
		}
	}
}
