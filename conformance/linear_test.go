package conformance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// Histories: clients of both protocols work on the same few names at once, over any endpoint, while something happens to
// the servers or the network. What they were told must be explained by one order of all operations.

const (
	linearTrees   = 3  // histories at once in each place
	linearClients = 4  // of each tree
	linearLeast   = 60 // operations of a history without a fault that make it count
)

// linearRun is one server's histories.
type linearRun struct {
	*testing.T
	*cluster
	places    []string // directories that trees are made in
	rnd       *rand.Rand
	runs      int
	counted   map[string]int // histories by fault
	ops, open int            // operations, and those of them that are changes without an answer
	aside     int            // histories of which the fault struck what no change is known to go by
	torn      int            // histories with listings that no instant explains
	checking  time.Duration
	answers   map[string]int // how often each action had each reply
}

// TestLinear makes histories and checks them, until enough of them count: those in which the fault came while a change was
// in flight.
func TestLinear(t *testing.T) {
	data, lake := t.TempDir(), t.TempDir()
	o := Options{Data: data, Tiers: true, Args: append(tierArgs(memoryDir(t), filepath.Join(data, "cache")),
		"--mount", "/lake=file://"+lake+",sync_interval=0s")}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := &linearRun{T: t, cluster: single(t, o), places: []string{"/linear", "/lake"}, rnd: rand.New(rand.NewPCG(seed, 0)), counted: map[string]int{}, answers: map[string]int{}}
	newRig(&Server{S3: r.S3[0]}).mkbucket(t, "linear")
	Minimum(t, "linear", r.enough(wanted(t, 40)))
}

// enough makes histories until that many count, of every fault that can be had some, and returns how many do. Those without a fault are
// made too, and are none of them.
func (r *linearRun) enough(want int) (sum int) {
	t, void := r.T, 0
	var faults []fault
	for _, f := range linearFaults {
		if err := f.possible(r.cluster); err != nil {
			t.Logf("without %s: %v", f.name, err)
		} else if err := f.lacking(); errors.Is(err, errOldKernel) {
			t.Logf("without %s: %v", f.name, err)
		} else if err != nil {
			t.Run("with "+f.name, func(t *testing.T) { Skip(t, "%v", err) })
		} else {
			faults = append(faults, f)
		}
	}
	few := func(a, b fault) int { return cmp.Compare(r.counted[a.name], r.counted[b.name]) }
	for !t.Failed() {
		f := slices.MinFunc(faults, few) // so that what was void is repeated
		if sum >= want && r.counted[f.name] > 0 {
			break
		}
		n, all := r.run(f)
		r.counted[f.name] += n
		if f.strike != nil {
			sum += n
		}
		// Where changes are quick, a third of the histories have none in flight when the fault comes.
		if void += all - n; void > 10+2*want {
			t.Fatalf("%d histories are void and %d count: %v", void, sum, r.counted)
		}
	}
	t.Logf("histories by fault: %v, %d void, %d beside what changes go by, %d with torn listings; %d operations, of which %d changes had no answer; checked in %v",
		r.counted, void, r.aside, r.torn, r.ops, r.open, r.checking.Round(time.Millisecond))
	t.Logf("answers: %v", r.answers)
	return sum
}

// run makes histories at once, in which f happens, and returns how many of all count, and of how many that could have been.
func (r *linearRun) run(f fault) (counted, all int) {
	r.runs++
	c := r.cluster
	if f.proxied {
		c = c.proxied(r)
	}
	began := time.Now()
	var histories []*clientHistory
	for i := range linearTrees * len(r.places) {
		base := fmt.Sprintf("%s/run%d-tree%d", r.places[i%len(r.places)], r.runs, i)
		h := newHistory(fmt.Sprintf("run %d, %s, %s", r.runs, f.name, base), base, began)
		newRig(&Server{S3: c.S3[0]}).mustPut(r, base+"/"+linearKeep, content{base, 0, 1})
		histories = append(histories, h)
	}
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	var clients sync.WaitGroup
	for _, h := range histories {
		for i := range linearClients {
			client := &linearClient{clientHistory: h, id: i, no: i, rig: linearRig(c, i), rnd: rand.New(rand.NewPCG(r.rnd.Uint64(), 0))}
			clients.Go(func() { client.run(ctx) })
		}
	}
	time.Sleep(300*time.Millisecond + time.Duration(r.rnd.IntN(500))*time.Millisecond)
	var b blow
	if f.strike != nil {
		b = f.strike(r, c, r.rnd)
	} else {
		time.Sleep(time.Second)
	}
	time.Sleep(700 * time.Millisecond)
	stop()
	clients.Wait()
	for _, h := range histories {
		h.last(c)
	}
	for _, p := range c.proxies {
		p.Close()
	}
	for _, h := range histories {
		r.check(h)
		if f.strike == nil && len(h.ops) >= linearLeast || f.strike != nil && struck(h.ops, int64(b.at.Sub(began)), b.by) {
			counted++
		}
	}
	if f.strike != nil && !b.any() { // a standby or a worker
		r.aside += len(histories)
		return 0, 0
	}
	return counted, len(histories)
}

// last reads everything once more.
func (h *clientHistory) last(c *cluster) {
	client := &linearClient{clientHistory: h, id: linearClients, rig: linearRig(c, 0), rnd: rand.New(rand.NewPCG(0, 0))}
	defer client.rig.http.CloseIdleConnections()
	client.do(context.Background(), input{Do: list})
	for d := range linearDirs {
		client.do(context.Background(), input{Do: listDir, At: spot{Dir: d}})
		for f := range linearFiles {
			client.do(context.Background(), input{Do: get, At: spot{d, f}})
		}
	}
	client.do(context.Background(), input{Do: list})
}

// check fails the test if no order explains the history.
func (r *linearRun) check(h *clientHistory) {
	r.Helper()
	for _, err := range h.strange {
		r.Errorf("%s: %v", h.name, err)
	}
	for _, o := range h.ops {
		r.answers[string(o.Input.Do)+" "+string(o.Output.Answer)]++
	}
	r.ops, r.open = r.ops+len(h.ops), r.open+h.pending
	began := time.Now()
	defer func() { r.checking += time.Since(began) }()
	torn, err := explain(h.name, h.ops)
	if err != nil {
		r.Error(err)
		return
	}
	if len(torn) > 0 {
		r.torn++
		r.Errorf("%s: no instant explains a listing: %s", h.name, torn[0])
	}
}

// TestLinearHistory judges the history in the file SLUICE_LINEAR_HISTORY, which a failure has left.
func TestLinearHistory(t *testing.T) {
	file := os.Getenv("SLUICE_LINEAR_HISTORY")
	if file == "" {
		t.Skip("SLUICE_LINEAR_HISTORY names no history")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var history []operation
	if err := json.Unmarshal(b, &history); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	torn, err := explain(file, history)
	t.Logf("%d operations, judged in %v", len(history), time.Since(began))
	for _, o := range torn {
		t.Logf("no instant explains a listing: %s", o)
	}
	if err != nil {
		t.Error(err)
	}
}
