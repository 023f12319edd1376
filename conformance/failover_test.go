package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The time without acknowledged writes when the leader dies or stops: the longest time between two acknowledgements that
// follow each other, whatever they are of, while writers do all they can.
const (
	failoverWriters = 16
	// failoverMiddle and failoverMost bound the median and the greatest of these times.
	failoverMiddle, failoverMost = 1500 * time.Millisecond, 3 * time.Second
)

// failoverFaults are how a leader is lost: by kill -9, by SIGSTOP, by SIGTERM.
var failoverFaults = []string{"kill", "pause", "end"}

// TestFailover takes the leader of 3 masters away, in all ways in turn, while objects are put through both
// gateways; what was acknowledged must be there. SLUICE_FAILOVER is the number of times for each, 2 without it. With it the
// times must be what they shall be on a machine that does nothing else, and are written to results/failover.txt.
func TestFailover(t *testing.T) {
	rounds, measured := 2, os.Getenv("SLUICE_FAILOVER")
	middle, most := 2*failoverMiddle, 2*failoverMost // others may be using the machine
	if measured != "" {
		n, err := strconv.Atoi(measured)
		if err != nil || n < 1 {
			t.Fatalf("SLUICE_FAILOVER=%s: want a number of rounds", measured)
		}
		rounds, middle, most = n, failoverMiddle, failoverMost
	}
	c, dir := startCluster(t)
	newRig(&Server{S3: c.S3[0]}).mkbucket(t, "lost")
	var report bytes.Buffer
	fmt.Fprintf(&report, "# time without acknowledged writes when the leader of 3 masters is lost; %d writers through 2 gateways\n", failoverWriters)
	fmt.Fprintf(&report, "# %d cores for everything, %s, SLUICE_FAILOVER=%d\n", runtime.NumCPU(), runtime.Version(), rounds)
	times := map[string][]time.Duration{}
	acked, lost := 0, 0
	for i := range len(failoverFaults) * rounds {
		fault := failoverFaults[i%len(failoverFaults)]
		f := c.loseLeader(t, dir, fault, i)
		times[fault] = append(times[fault], f.gap)
		acked, lost = acked+f.acked, lost+f.lost
		fmt.Fprintf(&report, "%-5s %s  %5d ms without; %s; %d acknowledged, %d lost\n", fault, f.leader, f.gap.Milliseconds(), f.stages, f.acked, f.lost)
	}
	for _, fault := range failoverFaults {
		all := slices.Sorted(slices.Values(times[fault]))
		p50, last := all[len(all)/2], all[len(all)-1]
		fmt.Fprintf(&report, "%-5s p50 %d ms, max %d ms, %d rounds\n", fault, p50.Milliseconds(), last.Milliseconds(), len(all))
		if p50 > middle || last > most {
			t.Errorf("%s of the leader: nothing is acknowledged for %v in the middle and %v at most; want %v and %v", fault, p50, last, middle, most)
		}
	}
	fmt.Fprintf(&report, "acknowledged %d, lost %d\n", acked, lost)
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Fprintf(&report, "load average at the end: %s", load)
	}
	t.Logf("\n%s", report.String())
	if measured != "" && !t.Failed() {
		if err := os.WriteFile(filepath.Join("results", "failover.txt"), report.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	Minimum(t, "failover", len(failoverFaults)*rounds)
}

// failover is what came of the loss of a leader.
type failover struct {
	leader      string
	gap         time.Duration
	stages      string // when its successor had done what, after the fault
	acked, lost int
}

// loseLeader kills the leader, pauses it for longer than anybody waits for it, or restarts it, while objects are put.
func (c *cluster) loseLeader(t *testing.T, dir, fault string, round int) (f failover) {
	leader := c.leader(t, dir)
	f.leader = leader.name
	var mu sync.Mutex
	acked := map[string]content{}
	last := time.Now()
	var stop atomic.Bool
	var writers sync.WaitGroup
	for w := range failoverWriters {
		r := newRig(&Server{S3: c.S3[w%len(c.S3)]})
		writers.Go(func() {
			for n := 0; !stop.Load(); n++ {
				name := fmt.Sprintf("/lost/%d-%d-%d", round, w, n)
				x := content{name, n, 200}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				_, err := r.put(ctx, name, x)
				cancel()
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				mu.Lock()
				acked[name] = x
				f.gap, last = max(f.gap, time.Since(last)), time.Now()
				mu.Unlock()
			}
		})
	}
	time.Sleep(time.Second)
	at := time.Now()
	switch fault {
	case "kill":
		leader.kill(t)
		time.Sleep(4 * time.Second)
		leader.pid = leader.restart(t, 0)
	case "pause":
		leader.stop(t, 5*time.Second)
		time.Sleep(time.Second)
	case "end":
		leader.restartOrderly(t, dir, func() {})
	}
	stopped := time.Now()
	stop.Store(true)
	writers.Wait()
	f.gap = max(f.gap, stopped.Sub(last)) // the last time has no acknowledgement at its end
	if !last.After(at) {
		t.Errorf("%s of %s: no change was acknowledged after it; %d before", fault, leader.name, len(acked))
	}
	c.serves(t)
	f.acked, f.stages = len(acked), c.stages(t, dir, at)
	r := newRig(&Server{S3: c.S3[round%len(c.S3)]})
	for name, x := range acked {
		if _, _, err := r.get(t.Context(), name, x); err != nil {
			f.lost++
			t.Errorf("%s %s: an acknowledged object: %v", fault, leader.name, err)
		}
	}
	if next := c.leader(t, dir); next == leader {
		t.Errorf("%s leads still, after %s", leader.name, fault)
	}
	return f
}

// stages says when, after a moment, a master was elected and had claimed the journal, and when it served, by the masters' own logs.
func (c *cluster) stages(t *testing.T, dir string, after time.Time) string {
	t.Helper()
	type line struct {
		Time time.Time
		Msg  string
	}
	steps := []struct{ name, text string }{{"claimed", "journal claimed"}, {"served", "leading"}}
	first := make([]time.Duration, len(steps))
	for _, p := range c.processes {
		b, err := os.ReadFile(filepath.Join(dir, p.name+".log"))
		if err != nil {
			t.Fatal(err)
		}
		for text := range bytes.Lines(b) {
			var l line
			if json.Unmarshal(text, &l) != nil || !l.Time.After(after) {
				continue
			}
			for i, s := range steps {
				if d := l.Time.Sub(after); l.Msg == s.text && (first[i] == 0 || d < first[i]) {
					first[i] = d
				}
			}
		}
	}
	var all []string
	for i, s := range steps {
		all = append(all, fmt.Sprintf("%s %d", s.name, first[i].Milliseconds()))
	}
	return strings.Join(all, ", ") + " ms"
}
