package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// pendingFiles is how many acknowledged writes no store has when something is killed.
const pendingFiles = 60

// TestHeldOutliveTheirProcess kills a process that has acknowledged writes with ASYNC_THROUGH, and that no store has yet. The next
// one has them all, and brings them to their store.
func TestHeldOutliveTheirProcess(t *testing.T) {
	lake := t.TempDir()
	args := func(delay string) []string {
		return []string{"--replicas", "1", "--persist-delay", delay, "--mount", "/lake=file://" + lake + ",write_type=ASYNC_THROUGH"}
	}
	s := Start(t, Options{Args: args("1h")})
	all := putHeld(t, newRig(s), "/lake/d")
	heldOnly(t, lake, all)
	s.Kill()
	heldOnly(t, lake, all)
	s = Start(t, Options{Data: s.Data, Ports: s, Args: args("0s")})
	cases := readHeld(t, newRig(s), all)
	cases += storedHeld(t, lake, all)
	Minimum(t, "held", cases)
}

// TestHeldOutliveAWorker kills one of three workers, of which two hold each write, and wipes its disk.
func TestHeldOutliveAWorker(t *testing.T) {
	lake := t.TempDir()
	c, dir := startCluster(t, "--mount", "/lake=file://"+lake+",write_type=ASYNC_THROUGH,replicas=2,persist_delay=1h")
	h := newHeldCluster(t, c, dir, lake)
	r := h.rig
	eventually(t, 30*time.Second, func() error { // the leader learns of its workers in the course of a second
		_, header, _ := r.do(t, r.request("PUT", "/lake/first", []byte("x")))
		if how := header.Get("X-Sluice-Write-Type"); how != "ASYNC_THROUGH" {
			return fmt.Errorf("written with %q", how)
		}
		return nil
	})
	all := putHeld(t, r, "/lake/d")
	heldOnly(t, lake, all)
	h.process(t, "w1").kill(t)
	if err := os.RemoveAll(filepath.Join(dir, "w1", "held")); err != nil {
		t.Fatal(err)
	}
	cases := readHeld(t, r, all)
	if out, text, code := h.server.Sluice(t, "persist", "/lake"); code != 0 {
		t.Fatalf("sluice persist: %d\n%s%s", code, out, text)
	}
	cases += storedHeld(t, lake, all)
	Minimum(t, "held-worker", cases)
}

// heldCycles is how many workers TestHeldCycles and TestHeldPowerLoss lose: SLUICE_HELD, else usual.
func heldCycles(t *testing.T, usual int) int {
	text := os.Getenv("SLUICE_HELD")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SLUICE_HELD=%s: want a number of cycles", text)
	}
	return n
}

// leastPending is how many acknowledged files no store has when a cycle's worker is killed, else the cycle is void.
const leastPending = 50

// TestHeldCycles kills one worker after the other at random points of writes with two replicas, and wipes its disk. All that was
// acknowledged is read, and reaches the store.
func TestHeldCycles(t *testing.T) {
	lake := t.TempDir()
	c, dir := startCluster(t, "--mount", "/lake=file://"+lake+",write_type=ASYNC_THROUGH,replicas=2,persist_delay=1h")
	h := newHeldCluster(t, c, dir, lake)
	whole := h.cycles(heldCycles(t, 10), func(n int) bool {
		victim := h.process(t, fmt.Sprintf("w%d", 1+rand.IntN(3)))
		all, pending := loseWorker(t, h.rig, fmt.Sprintf("/lake/c%d/", n), leastPending+rand.IntN(leastPending), false, func() {
			victim.kill(t)
			if err := os.RemoveAll(filepath.Join(dir, victim.name, "held")); err != nil {
				t.Error(err)
			}
		})
		h.keeps(all)
		victim.pid = victim.restart(t, 0)
		return pending >= leastPending
	})
	Minimum(t, "held-cycles", whole)
}

// TestHeldPowerLoss kills one worker after the other at random points of writes that one worker each holds, and lets its machine lose
// its power with it: its data directory keeps what was synced, and nothing else. Started again with that, the worker has
// all that was acknowledged, and it reaches the store. Those files alone count as pending that no other worker has.
func TestHeldPowerLoss(t *testing.T) {
	lake := t.TempDir()
	c, dir, traces := startTraced(t, "w*", math.MaxInt32, "--mount", "/lake=file://"+lake+",write_type=ASYNC_THROUGH,replicas=1,persist_delay=1h")
	h := newHeldCluster(t, c, dir, lake)
	disks, starts, differed := map[string]*lossy{}, map[string]int{}, 0
	whole := h.cycles(heldCycles(t, 4), func(n int) bool {
		victim := h.process(t, fmt.Sprintf("w%d", 1+n%3)) // in turn, for the traces of the others get longer
		name := victim.name
		if starts[name]++; disks[name] == nil {
			disks[name] = lossyProcess(t, name)
		}
		trace := filepath.Join(traces, fmt.Sprintf("%s.%d", name, starts[name]))
		all, _ := loseWorker(t, h.rig, fmt.Sprintf("/lake/c%d/", n), 4*leastPending+rand.IntN(leastPending), true, func() { victim.kill(t) })
		disk, _, said := loseUnsynced(t, dir, victim, trace, disks[name])
		if synced := disks[name].seen["file "+name+"/held/log"]; synced == 0 {
			t.Fatalf("the trace of %s has no sync of its log, but those of %v", name, sorted(disks[name].seen))
		}
		if disks[name] = disk; !strings.HasPrefix(said, "0 ") {
			differed++
		}
		pending := 0
		for path := range all {
			if d := h.durability(path); slices.Equal(d.Holders, []string{name}) {
				pending++
			}
		}
		t.Logf("%s loses its power, and %s; it alone has %d files of %d", name, said, pending, len(all))
		if err := os.Truncate(trace, 0); err != nil { // that it is there makes the next another
			t.Fatal(err)
		}
		if err := os.RemoveAll(trace + ".lost"); err != nil {
			t.Fatal(err)
		}
		victim.pid = victim.restart(t, 0)
		h.keeps(all)
		return pending >= leastPending
	})
	if differed == 0 {
		t.Error("no worker has lost anything with its power: what is not synced was not dropped")
	}
	Minimum(t, "held-power", whole)
}

// TestMustCacheLosesWhatItSaid asks of files that workers alone have what they would survive, and wipes one of the three. Those that it
// alone held are lost, as it was said, while it is away and when it is back with nothing; and no others are.
func TestMustCacheLosesWhatItSaid(t *testing.T) {
	lake := t.TempDir()
	c, dir := startCluster(t, "--mount", "/lake=file://"+lake+",write_type=MUST_CACHE")
	h := newHeldCluster(t, c, dir, lake)
	if _, err := sluice(t, h.rig.Admin, "path-rule", "set", "/lake/two", "replicas=2"); err != nil {
		t.Fatal(err)
	}
	all, said := map[string]content{}, map[string]durable{}
	for i := range 60 {
		for _, dir := range []string{"one", "two"} {
			path := fmt.Sprintf("/lake/%s/f%d", dir, i)
			is := content{path, i, int64(1 + i*i*700)}
			status, header, answer := h.rig.do(t, h.rig.request("PUT", path, is.bytes()))
			if how := header.Get("X-Sluice-Write-Type"); status != 200 || how != "MUST_CACHE" {
				t.Fatalf("%s: %d, written with %q: %s", path, status, how, answer)
			}
			d := h.durability(path)
			if d.State != "HELD" || len(d.Holders) != map[string]int{"one": 1, "two": 2}[dir] || len(d.Lost) != 0 {
				t.Fatalf("%s: %+v", path, d)
			}
			all[path], said[path] = is, d
		}
	}
	heldOnly(t, lake, all)
	victim := h.process(t, "w2")
	alone, shared, bytes := int64(0), int64(0), int64(0)
	for path, d := range said {
		if slices.Equal(d.Holders, []string{victim.name}) {
			alone, bytes = alone+1, bytes+all[path].size
		} else if slices.Contains(d.Holders, victim.name) {
			shared++
		}
	}
	explain := func(when string, away bool, files, size, others, lost, lostSize int64) {
		var x struct {
			Exposed []struct {
				Worker       string
				Away         bool
				Files, Bytes int64
				Shared       int64 `json:"shared_files"`
			}
			Gone struct{ Files, Bytes int64 }
		}
		mustSluice(t, h.rig.Admin, &x, "explain", "/lake/")
		var is, sum [3]int64
		for _, e := range x.Exposed {
			if sum[0], sum[1], sum[2] = sum[0]+e.Files, sum[1]+e.Bytes, sum[2]+e.Shared; e.Worker == victim.name {
				is = [3]int64{e.Files, e.Bytes, e.Shared}
				if e.Away != away {
					t.Errorf("%s: %s is away: %v", when, e.Worker, e.Away)
				}
			}
		}
		if is != [3]int64{files, size, others} || x.Gone.Files != lost || x.Gone.Bytes != lostSize {
			t.Errorf("%s: of %s explain says %+v; it alone has %d files of %d bytes, and %d more; %d files of %d bytes are lost", when,
				victim.name, x, files, size, others, lost, lostSize)
		}
		if held := sum[0] + sum[2] + x.Gone.Files; held < int64(len(all)) {
			t.Errorf("%s: explain knows of %d files, and there are %d", when, held, len(all))
		}
	}
	explain("with all workers", false, alone, bytes, shared, 0, 0)
	victim.kill(t)
	if err := os.RemoveAll(filepath.Join(dir, victim.name)); err != nil {
		t.Fatal(err)
	}
	lost := 0
	check := func(when string) {
		lost = 0
		for path, is := range all {
			want := said[path]
			if slices.Equal(want.Holders, []string{victim.name}) {
				lost++
				status, _, answer := h.rig.do(t, h.rig.request("GET", path, nil))
				if status != 503 || !strings.Contains(string(answer), "the workers that hold them ("+victim.name+") do not give them") {
					t.Errorf("%s: %s, which %s alone held: %d %.300s", when, path, victim.name, status, answer)
				}
				resp, err := http.Get(h.rig.WebHDFS + "/webhdfs/v1" + path + "?op=OPEN&user.name=root")
				if err != nil {
					t.Fatal(err)
				}
				answer, _ = io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 403 || !strings.Contains(string(answer), "RetriableException") || !strings.Contains(string(answer), "("+victim.name+") do not give them") {
					t.Errorf("%s: over WebHDFS %s, which %s alone held: %s %.300s", when, path, victim.name, resp.Status, answer)
				}
			} else if _, _, err := h.rig.get(t.Context(), path, is); err != nil {
				t.Errorf("%s: %s, which %v held: %v", when, path, want.Holders, err)
			}
			if slices.Contains(want.Holders, victim.name) {
				want.Lost = []string{victim.name}
			}
			if d := h.durability(path); d.State != want.State || !slices.Equal(d.Holders, want.Holders) || !slices.Equal(d.Lost, want.Lost) {
				t.Errorf("%s: the durability of %s is %+v, want %+v", when, path, d, want)
			}
		}
	}
	check("without the worker")
	explain("without the worker", true, alone, bytes, shared, 0, 0)
	if lost == 0 || lost == 60 {
		t.Fatalf("%d files of 60 are lost with one of three workers: nothing is shown", lost)
	}
	victim.pid = victim.restart(t, 0)
	h.known()
	check("with it, and nothing in it")
	explain("with it, and nothing in it", false, 0, 0, 0, alone, bytes)
	t.Logf("%d files are lost with their only holder, %d are not", lost, len(all)-lost)
	Minimum(t, "held-must-cache", len(all))
}

// heldCluster is a cluster with a mount at /lake whose files workers hold.
type heldCluster struct {
	*workers
	lake   string // the store
	server *Server
}

func newHeldCluster(t *testing.T, c *cluster, dir, lake string) *heldCluster {
	server := &Server{S3: c.S3[0], WebHDFS: c.WebHDFS[0], Admin: c.Admin[0],
		Env: append(os.Environ(), "SLUICE_ROOT_ACCESS_KEY="+AccessKey, "SLUICE_ROOT_SECRET_KEY="+SecretKey)}
	h := &heldCluster{&workers{T: t, cluster: c, dir: dir, rig: newRig(server)}, lake, server}
	h.known()
	return h
}

// known waits until all workers are known to the leader.
func (h *heldCluster) known() {
	h.Helper()
	eventually(h, 30*time.Second, func() error {
		out, text, code := h.server.Sluice(h, "node", "ls")
		if code != 0 {
			return fmt.Errorf("sluice node ls: %d\n%s%s", code, out, text)
		}
		known := 0
		for _, line := range strings.Split(out, "\n") {
			if f := strings.Fields(line); len(f) > 1 && f[1] == "worker" {
				known++
			}
		}
		if known != 3 {
			return fmt.Errorf("%d workers are known", known)
		}
		return nil
	})
}

// cycles runs cycles until want are whole; one that is not is void.
func (h *heldCluster) cycles(want int, cycle func(n int) bool) (whole int) {
	h.Helper()
	void := 0
	for n := 0; whole < want && !h.Failed(); n++ {
		if void > want {
			h.Fatalf("%d cycles are void, and %d are not", void, whole)
		}
		h.known()
		if cycle(n) {
			whole++
		} else {
			void++
		}
	}
	h.Logf("%d cycles, %d void", whole, void)
	return whole
}

// keeps checks that the files are read as they were written, and so reach the store.
func (h *heldCluster) keeps(all map[string]content) {
	h.Helper()
	if readHeld(h.T, h.rig, all); h.Failed() {
		return // the rest would wait for what is lost
	}
	if out, text, code := h.server.Sluice(h, "persist", "/lake"); code != 0 {
		h.Fatalf("sluice persist: %d\n%s%s", code, out, text)
	}
	storedHeld(h.T, h.lake, all)
}

// durable is what the durability of a file is said to be.
type durable struct {
	State         string
	Holders, Lost []string
}

func (h *heldCluster) durability(path string) (d durable) {
	h.Helper()
	eventually(h, 30*time.Second, func() error {
		resp, err := h.rig.send(h.Context(), raw{method: "GET", base: h.rig.Admin, target: "/api/v1/durability?path=" + path, user: AccessKey, password: SecretKey, header: http.Header{}})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			return fmt.Errorf("durability of %s: %s", path, resp.Status)
		}
		return json.NewDecoder(resp.Body).Decode(&d)
	})
	return d
}

// loseWorker writes files below dir, some large ones if that is asked for, and calls lose once so many are acknowledged, while more are
// being written. It returns those that were acknowledged, and how many of them workers alone held when lose was called.
func loseWorker(t *testing.T, r *rig, dir string, after int, large bool, lose func()) (all map[string]content, pending int) {
	t.Helper()
	all = map[string]content{}
	lost := make(chan struct{})
	var mu sync.Mutex
	var wg sync.WaitGroup
	held := 0
	for i := range 8 {
		wg.Go(func() {
			for k := 0; k < 2*after; k++ {
				path := fmt.Sprintf("%sf%d-%d", dir, i, k)
				is := content{path, k, rand.Int64N(1 << uint(10+k%9))}
				if large && k%16 == 7 { // with a file of its own on the worker
					is.size += 1 << 20
				}
				status, header, _ := r.do(t, r.request("PUT", path, is.bytes()))
				if status == 200 {
					mu.Lock()
					all[path] = is
					if header.Get("X-Sluice-Write-Type") == "ASYNC_THROUGH" {
						if held++; held == after {
							close(lost)
						}
					}
					mu.Unlock()
				}
				mu.Lock()
				enough := held >= after+24 || held >= after && len(all) >= after+48
				mu.Unlock()
				if enough {
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-lost:
	case <-done:
	}
	mu.Lock()
	pending = held
	mu.Unlock()
	lose()
	<-done
	return all, pending
}

// putHeld writes files, of which each must be acknowledged by the workers that hold it.
func putHeld(t *testing.T, r *rig, dir string) map[string]content {
	t.Helper()
	all := map[string]content{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range pendingFiles {
		wg.Go(func() {
			path := fmt.Sprintf("%s%d/f%d", dir, i%3, i)
			is := content{path, i, int64(1 + i*i*700)}
			status, header, answer := r.do(t, r.request("PUT", path, is.bytes()))
			if how := header.Get("X-Sluice-Write-Type"); status != 200 || how != "ASYNC_THROUGH" {
				t.Errorf("%s: %d, written with %q: %s", path, status, how, answer)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all[path] = is
		})
	}
	wg.Wait()
	if len(all) < 50 {
		t.Fatalf("%d writes are pending, 50 at least make it a test", len(all))
	}
	return all
}

// heldOnly checks that the store has none of the files.
func heldOnly(t *testing.T, lake string, all map[string]content) {
	t.Helper()
	for path := range all {
		if _, err := os.Stat(lake + strings.TrimPrefix(path, "/lake")); err == nil {
			t.Errorf("the store has %s already", path)
		}
	}
}

// readHeld reads the files, until one is not as it was written.
func readHeld(t *testing.T, r *rig, all map[string]content) (cases int) {
	t.Helper()
	for path, is := range all {
		if t.Failed() {
			return cases
		}
		eventually(t, 60*time.Second, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, _, err := r.get(ctx, path, is)
			return err
		})
		cases++
	}
	return cases
}

// storedHeld waits until the store has the files; no longer than until it lacks one.
func storedHeld(t *testing.T, lake string, all map[string]content) (cases int) {
	t.Helper()
	for path, is := range all {
		if t.Failed() {
			return cases
		}
		want := is.bytes()
		eventually(t, 60*time.Second, func() error {
			got, err := os.ReadFile(lake + strings.TrimPrefix(path, "/lake"))
			if err == nil && string(got) != string(want) {
				err = fmt.Errorf("the store's %s is not what was written", path)
			}
			return err
		})
		cases++
	}
	return cases
}
