package conformance

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestExternalEtcd keeps the journal in an etcd that somebody else runs, for two complete processes.
func TestExternalEtcd(t *testing.T) {
	x := startExternal(t)
	cases := 0
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"one namespace", x.one}, {"what only etcd's own tools do", x.refuses}, {"backup", x.backup},
		{"handover", x.handover}, {"the leader is killed", x.leaderDies}, {"etcd is killed", x.etcdDies}, {"fsck", x.fsck},
	} {
		if t.Run(step.name, step.run) {
			cases++
		}
	}
	Minimum(t, "external-etcd", cases)
}

type external struct {
	t       *testing.T // of all steps: what one starts, the next ones use
	etcd    service
	servers []*Server
	options []Options
	rigs    []*rig
	written []content
}

func startExternal(t *testing.T) *external {
	t.Helper()
	x := &external{t: t}
	client, peer, dir := FreePort(t), FreePort(t), t.TempDir()
	x.etcd = service{URL: "http://" + client, health: "/health", env: os.Environ(), line: []string{
		Etcd(t), "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", "http://" + client, "--advertise-client-urls", "http://" + client,
		"--listen-peer-urls", "http://" + peer, "--initial-advertise-peer-urls", "http://" + peer, "--initial-cluster", "default=http://" + peer,
	}}
	x.etcd.Start(t)
	t.Cleanup(func() { x.etcd.Stop(t) })
	key := make([]byte, 32)
	rand.Read(key)
	keyFile := filepath.Join(dir, "key")
	if err := os.WriteFile(keyFile, []byte(base64.StdEncoding.EncodeToString(key)), 0o600); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x1", "x2"} {
		o := Options{Data: filepath.Join(dir, name), Args: []string{
			"--name", name, "--etcd-endpoints", x.etcd.URL, "--internal-listen", FreePort(t), "--root-store", "file://" + root, "--secret-key-file", keyFile,
		}}
		s := Start(t, o)
		o.Ports = s
		x.servers, x.options = append(x.servers, s), append(x.options, o)
		x.rigs = append(x.rigs, newRig(s))
	}
	return x
}

// leader returns the number of the process that leads.
func (x *external) leader(t *testing.T) (leads, other int) {
	t.Helper()
	leads = -1
	eventually(t, 20*time.Second, func() error {
		for i, s := range x.servers {
			select {
			case <-s.exited:
				continue
			default:
			}
			var list struct{ Items []listed }
			text, err := sluice(t, s.Admin, "node", "ls", "--output", "json")
			if err == nil {
				err = json.Unmarshal([]byte(text), &list)
			}
			if err != nil {
				return err
			}
			for _, n := range list.Items {
				if n.Leader && n.Name == fmt.Sprint("x", i+1) {
					leads = i
					return nil
				}
			}
		}
		return errors.New("nobody leads")
	})
	if leads < 0 {
		t.FailNow()
	}
	return leads, 1 - leads
}

// put writes an object that is not forgotten.
func (x *external) put(ctx context.Context, r *rig) error {
	n := len(x.written)
	c := content{fmt.Sprintf("d%d/f%d", n%7, n), n, int64(1 + n*1111%200_000)}
	if _, err := r.put(ctx, "/ext/"+c.name, c); err != nil {
		return err
	}
	x.written = append(x.written, c)
	return nil
}

// all reads everything that was acknowledged, through the process i.
func (x *external) all(t *testing.T, i int) {
	t.Helper()
	for _, c := range x.written {
		if _, _, err := x.rigs[i].get(t.Context(), "/ext/"+c.name, c); err != nil {
			t.Fatalf("an acknowledged object: %v", err)
		}
	}
}

func (x *external) one(t *testing.T) {
	x.rigs[0].mkbucket(t, "ext")
	for i := range 20 {
		if err := x.put(t.Context(), x.rigs[i%2]); err != nil {
			t.Fatal(err)
		}
	}
	x.all(t, 0)
	x.all(t, 1)
}

func (x *external) refuses(t *testing.T) {
	for _, args := range [][]string{{"master", "ls"}, {"master", "add", "http://127.0.0.1:1"}, {"master", "remove", "x1"}} {
		if _, stderr, code := x.servers[0].Sluice(t, args...); code != 1 || !strings.Contains(stderr, "somebody else runs") {
			t.Errorf("%v: status %d: %s", args, code, stderr)
		}
	}
}

// backup takes a snapshot, finds the journal in it, and has it refused where it does not belong.
func (x *external) backup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "saved")
	if stdout, stderr, code := x.servers[1].Sluice(t, "backup", file); code != 0 || !strings.Contains(stdout, "verified") {
		t.Fatalf("status %d: %s%s", code, stdout, stderr)
	}
	stdout, stderr, code := x.servers[0].Sluice(t, "fsck", "--file", file)
	var entries, pages, records int
	if _, err := fmt.Sscanf(stdout, "%d entries, %d pages, %d records", &entries, &pages, &records); err != nil || code != 0 || records == 0 || entries < len(x.written) {
		t.Errorf("fsck of %d objects: status %d: %s%s", len(x.written), code, stdout, stderr)
	}
	for _, args := range [][]string{{"restore", file, "--data", filepath.Join(t.TempDir(), "new")}, {"fsck", "--file", file, "--etcd-prefix", "/other/"}} {
		if stdout, stderr, code := x.servers[0].Sluice(t, args...); code != 1 || !strings.Contains(stderr, "no journal of Sluice") {
			t.Errorf("%v: status %d: %s%s", args, code, stdout, stderr)
		}
	}
}

// during writes through one process, again and again until it is acknowledged, while f runs, and returns the longest time
// between two acknowledgements.
func (x *external) during(t *testing.T, through int, f func()) time.Duration {
	t.Helper()
	var stop atomic.Bool
	begun, done := make(chan struct{}), make(chan time.Duration)
	go func() {
		var longest time.Duration
		last := time.Now()
		begin := sync.OnceFunc(func() { close(begun) })
		defer begin()
		for after := false; !after; {
			after = stop.Load() // one that begins after f is the last
			if x.put(t.Context(), x.rigs[through]) == nil {
				longest, last = max(longest, time.Since(last)), time.Now()
				begin()
			} else if t.Context().Err() != nil || time.Since(last) > time.Minute {
				break
			} else {
				after = false
			}
		}
		done <- max(longest, time.Since(last))
	}()
	<-begun
	f()
	stop.Store(true)
	gap := <-done
	t.Logf("nothing acknowledged for %v; %d objects so far", gap.Round(time.Millisecond), len(x.written))
	return gap
}

func (x *external) handover(t *testing.T) {
	leads, other := x.leader(t)
	gap := x.during(t, other, func() {
		eventually(t, 10*time.Second, func() error { // another election may be under way
			if _, stderr, code := x.servers[other].Sluice(t, "master", "handover", "--to", fmt.Sprint("x", other+1)); code != 0 {
				return fmt.Errorf("status %d: %s", code, stderr)
			}
			return nil
		})
	})
	if now, _ := x.leader(t); now == leads {
		t.Error("the leader is the same")
	}
	if gap > 5*time.Second {
		t.Errorf("it took %v", gap)
	}
	x.all(t, leads)
}

// leaderDies kills the leader: the other follows when its session has ended.
func (x *external) leaderDies(t *testing.T) {
	leads, other := x.leader(t)
	if gap := x.during(t, other, func() {
		x.servers[leads].Kill()
		if now, _ := x.leader(t); now != other {
			t.Error("the one that is left does not lead")
		}
	}); gap > 10*time.Second {
		t.Errorf("it took %v", gap)
	}
	x.all(t, other)
	x.servers[leads] = Start(x.t, x.options[leads])
	x.all(t, leads)
}

// etcdDies kills etcd, and starts it again: what was acknowledged is there, and changes go on.
func (x *external) etcdDies(t *testing.T) {
	_, other := x.leader(t)
	if gap := x.during(t, other, func() {
		x.etcd.Kill()
		time.Sleep(2 * time.Second) // the outage; shorter than the sessions that leadership hangs on
		x.etcd.Start(t)
	}); gap > 30*time.Second {
		t.Errorf("it took %v", gap)
	}
	x.all(t, 0)
	x.all(t, 1)
}

func (x *external) fsck(t *testing.T) {
	stdout, stderr, code := x.servers[0].Sluice(t, "fsck", "--stores")
	if code != 0 || !strings.Contains(stdout, "; 0 findings") {
		t.Errorf("status %d: %s%s", code, stdout, stderr)
	}
}
