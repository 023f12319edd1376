package conformance

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// traced runs the processes whose names match %[5]s under strace for their first %[6]d starts, and everything else as it is. -D leaves
// the process its number; that it was killed is the trace's end. The trace of the first start of NAME is NAME.1.
const traced = `#!/bin/bash
name=
for ((i = 1; i < $#; i++)); do [ "${!i}" = --name ] && { next=$((i + 1)); name=${!next}; }; done
[[ $name == %[5]s ]] || exec %[2]q "$@"
n=1
while [ -e %[1]q/"$name.$n" ]; do n=$((n + 1)); done
[ $n -le %[6]d ] || exec %[2]q "$@"
exec %[3]q -D -f -xx -yy --seccomp-bpf -s 10000000 -o %[1]q/"$name.$n" -e trace=%[4]s -e signal=kill %[2]q "$@"
`

// startTraced is startCluster with the first starts of processes whose names match a pattern of bash traced into the directory traces.
func startTraced(t *testing.T, names string, starts int, args ...string) (c *cluster, dir, traces string) {
	t.Helper()
	traces = t.TempDir()
	bin := filepath.Join(traces, "sluice")
	text := fmt.Sprintf(traced, traces, Binary(t), Strace(t), lossyCalls, names, starts)
	if err := os.WriteFile(bin, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	c, dir = startClusterOf(t, bin, args...)
	return c, dir, traces
}

// TestLossyMasters kills the leader of 3 masters under load, as TestFailover does, and lets the machine it ran on lose its power
// with it: its data directory keeps what was synced, and nothing else. It comes back with that. Twice, so that one that has
// lost something takes part when the next does. Nothing acknowledged may be missing, and each of the three, when it
// leads, must show the same names.
func TestLossyMasters(t *testing.T) {
	c, dir, traces := startTraced(t, "m*", 1)
	newRig(&Server{S3: c.S3[0]}).mkbucket(t, "lost")
	acked := &ackedObjects{etags: map[string]string{}}
	cases, dropped := 0, 0
	for cases < 2 {
		leader := c.leader(t, dir)
		trace := filepath.Join(traces, leader.name+".1")
		if _, err := os.Stat(trace + ".lost"); err == nil { // it has been this one's turn
			c.leaderOtherThan(t, dir, leader)
			continue
		}
		stop := acked.load(c, cases)
		time.Sleep(2 * time.Second)
		leader.kill(t)
		left, differ, lost := loseUnsynced(t, dir, leader, trace, lossyProcess(t, leader.name))
		if left.left(leader.name)["etcd/member/snap/db"] == nil {
			t.Fatalf("of %s nothing is left that was ever synced: %s", leader.name, lost)
		}
		time.Sleep(2 * time.Second) // the others go on
		leader.pid = leader.restart(t, 0)
		time.Sleep(time.Second)
		stop()
		t.Logf("%s lost its power, and %s; %d objects are acknowledged", leader.name, lost, acked.len())
		dropped += differ
		cases++
	}
	if dropped == 0 || acked.len() == 0 {
		t.Fatalf("nothing was shown: %d files lost something, and %d objects were acknowledged", dropped, acked.len())
	}
	acked.wantAll(t, c)
	for _, name := range []string{"m1", "m2", "m3"} {
		p := c.process(t, name)
		for try := 0; c.leader(t, dir) != p; try++ {
			if try == 15 {
				t.Fatalf("%s does not come to lead", name)
			}
			c.leaderOtherThan(t, dir, c.leader(t, dir))
		}
		c.serves(t)
		acked.wantAll(t, c)
		if t.Failed() {
			t.Fatalf("%s led", name)
		}
	}
	Minimum(t, "lossy-masters", cases)
}

// process returns the process of that name.
func (c *cluster) process(t testing.TB, name string) *member {
	t.Helper()
	for _, p := range c.processes {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("the cluster has no %s", name)
	return nil
}

// leaderOtherThan pauses the leader until another leads; again, where the others did not come to it in one pause.
func (c *cluster) leaderOtherThan(t *testing.T, dir string, leader *member) {
	t.Helper()
	for try := 0; c.leader(t, dir) == leader; try++ {
		if try == 10 {
			t.Fatalf("%s leads still", leader.name)
		}
		leader.stop(t, 1500*time.Millisecond)
		for until := time.Now().Add(time.Second); c.leader(t, dir) == leader && time.Now().Before(until); {
			time.Sleep(20 * time.Millisecond)
		}
	}
	c.serves(t)
}

// lossyProcess returns the model of the directory of a cluster before its process name has made its own, which alone is modelled. What
// is in no other place than a cache is gone.
func lossyProcess(t *testing.T, name string) *lossy {
	t.Helper()
	l, err := newLossy(t.TempDir(), "", func(path string) bool {
		return path != name && !strings.HasPrefix(path, name+"/") || strings.HasPrefix(path, name+"/cache")
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// loseUnsynced replaces the data directory of a process that was killed by what a power failure leaves of it according to the trace,
// and says what that is. l is the model of the cluster's directory as it was when the trace began; left is the one of what there is now.
func loseUnsynced(t *testing.T, dir string, p *member, trace string, l *lossy) (left *lossy, differ int, said string) {
	t.Helper()
	name := p.name
	base, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	var written []byte
	eventually(t, 60*time.Second, func() (err error) { // by a tracer that goes its own way
		if written, err = os.ReadFile(trace); err != nil {
			return err
		}
		if !bytes.HasSuffix(written, fmt.Appendf(nil, "\n%-5d +++ killed by SIGKILL +++\n", p.pid)) {
			return fmt.Errorf("the trace %s has no end", trace)
		}
		return nil
	})
	calls, err := readTrace(bytes.NewReader(written))
	if err != nil {
		t.Fatal(err)
	}
	l.base = base
	if err := l.replay(calls, func(*call) bool { return false }, nil); err != nil {
		t.Fatalf("%s: %v", trace, err)
	}
	kept := filepath.Join(t.TempDir(), "kept")
	if err := l.restore(kept); err != nil {
		t.Fatal(err)
	}
	files := l.left(name)
	for file, s := range files {
		if b, err := os.ReadFile(filepath.Join(base, name, file)); err != nil || !s.equal(b) {
			differ++
		}
	}
	if err := os.Rename(filepath.Join(base, name), trace+".lost"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(kept, name), filepath.Join(base, name)); err != nil {
		t.Fatal(err)
	}
	return l.rebooted(), differ, fmt.Sprintf("%d of its %d files are not what they were", differ, len(files))
}

// ackedObjects are the objects that were acknowledged, by name.
type ackedObjects struct {
	mu    sync.Mutex
	etags map[string]string
}

func (a *ackedObjects) len() int { a.mu.Lock(); defer a.mu.Unlock(); return len(a.etags) }

// load puts objects through both gateways until stop, which waits for those in flight.
func (a *ackedObjects) load(c *cluster, round int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var over atomic.Bool
	var writers sync.WaitGroup
	for w := range 6 {
		r := newRig(&Server{S3: c.S3[w%len(c.S3)]})
		writers.Go(func() {
			for n := 0; !over.Load(); n++ {
				x := content{fmt.Sprintf("/lost/%d-%d-%d", round, w, n), n, 100}
				one, done := context.WithTimeout(ctx, 10*time.Second)
				_, err := r.put(one, x.name, x)
				done()
				if err != nil {
					time.Sleep(20 * time.Millisecond)
					continue
				}
				a.mu.Lock()
				a.etags[x.name] = hex.EncodeToString(digest(x))
				a.mu.Unlock()
			}
		})
	}
	return func() { over.Store(true); writers.Wait(); cancel() }
}

// wantAll checks that every acknowledged object is listed as it is.
func (a *ackedObjects) wantAll(t *testing.T, c *cluster) {
	t.Helper()
	r := newRig(&Server{S3: c.S3[0]})
	found := map[string]string{}
	for token, more := (*string)(nil), true; more; {
		page, err := r.s3.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("lost"), ContinuationToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Contents {
			found["/lost/"+*o.Key] = strings.Trim(*o.ETag, `"`)
		}
		token, more = page.NextContinuationToken, *page.IsTruncated
	}
	missing := 0
	for name, etag := range a.etags {
		if found[name] != etag {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d acknowledged objects are not there, or other ones", missing, len(a.etags))
	}
}
