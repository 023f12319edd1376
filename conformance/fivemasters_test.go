package conformance

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Without a majority of the masters, a call waits for one that leads (core/remote: Silence and Patience, 7 s) and is refused then. A leader
// answers from memory for no longer than its lease, half a second. Others may be using the machine.
const (
	refusedWithin = 15 * time.Second
	leaseEnds     = 3 * time.Second
)

// TestFiveMasters kills two of five masters at once, of which one leads, while objects are put: the other three go on. Without a third,
// nothing is answered, neither a change nor a read, until one comes back. What was acknowledged is there then.
func TestFiveMasters(t *testing.T) {
	t.Setenv("CLUSTER_MASTERS", "5")
	c, dir := startCluster(t)
	newRig(&Server{S3: c.S3[0]}).mkbucket(t, "lost")
	acked := &ackedObjects{etags: map[string]string{}}
	cases := 0
	goesOn := func(what string) {
		t.Helper()
		begin := acked.len()
		eventually(t, 20*time.Second, func() error {
			if n := acked.len() - begin; n < 50 {
				return fmt.Errorf("%s: %d more objects are acknowledged", what, n)
			}
			return nil
		})
		cases++
	}

	stop := acked.load(c, 0)
	goesOn("with five masters")
	first := c.leader(t, dir)
	second := c.master(t, first)
	first.kill(t)
	second.kill(t)
	killed := time.Now()
	goesOn("without the leader and another")
	t.Logf("%s, which led, and %s were killed; 50 more objects were acknowledged %v later", first.name, second.name, time.Since(killed).Round(time.Millisecond))
	next := c.leader(t, dir)
	if next == first {
		t.Errorf("%s leads, which was killed", next.name)
	}

	third := c.master(t, first, second, next)
	third.kill(t)
	killed = time.Now()
	stop() // those in flight are answered
	t.Logf("%s was killed, %s leads; what was in flight was answered within %v", third.name, next.name, time.Since(killed).Round(time.Millisecond))
	if took := time.Since(killed); took > refusedWithin {
		t.Errorf("what was in flight was answered within %v, want %v", took, refusedWithin)
	}
	cases += c.answersNobody(t, dir, next, killed)

	before := acked.len()
	first.pid = first.restart(t, 0)
	t.Logf("%s was started again, and %s leads", first.name, c.leader(t, dir).name)
	acked.wantAll(t, c)
	cases++
	stop = acked.load(c, 1)
	goesOn("with three of five masters again")
	stop()
	acked.wantAll(t, c)
	cases++
	t.Logf("%d objects were acknowledged until the third was killed, %d in all", before, acked.len())
	Minimum(t, "five-masters", cases)
}

// master returns a master other than those.
func (c *cluster) master(t testing.TB, others ...*member) *member {
	t.Helper()
	for _, p := range c.processes {
		other := p.name[0] == 'm'
		for _, o := range others {
			other = other && p != o
		}
		if other {
			return p
		}
	}
	t.Fatal("the cluster has no other master")
	return nil
}

// answersNobody checks that every request is refused, through both gateways and by the master that led until the others were killed.
func (c *cluster) answersNobody(t *testing.T, dir string, led *member, killed time.Time) (cases int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*refusedWithin)
	defer cancel()
	said := make(chan string)
	asked := 0
	ask := func(r *rig, what string, q raw, want int, text string) {
		asked++
		go func() {
			began := time.Now()
			heard := r.ask(ctx, q)
			took := time.Since(began)
			switch {
			case heard.err != nil:
				said <- fmt.Sprintf("%s: %v", what, heard.err)
			case heard.status != want || !strings.Contains(string(heard.body), text):
				said <- fmt.Sprintf("%s: got %d %s, want %d %s", what, heard.status, heard.body, want, text)
			case took > refusedWithin:
				said <- fmt.Sprintf("%s: was refused after %v, want %v", what, took, refusedWithin)
			default:
				t.Logf("%s was refused after %v", what, took.Round(time.Millisecond))
				said <- ""
			}
		}()
	}
	time.Sleep(max(0, leaseEnds-time.Since(killed)))
	for i := range c.S3 {
		r := newRig(&Server{S3: c.S3[i], WebHDFS: c.WebHDFS[i]})
		ask(r, "PutObject", r.request("PUT", "/lost/refused", []byte("x")), http.StatusServiceUnavailable, "no master answers")
		ask(r, "DeleteObject", r.request("DELETE", "/lost/0-0-0", nil), http.StatusServiceUnavailable, "no master answers")
		ask(r, "GetObject", r.request("GET", "/lost/0-0-0", nil), http.StatusServiceUnavailable, "no master answers")
		ask(r, "ListObjectsV2", r.request("GET", "/lost?list-type=2&max-keys=1", nil), http.StatusServiceUnavailable, "no master answers")
		ask(r, "MKDIRS", r.webhdfs("PUT", "/lost/dir", "MKDIRS", "", nil), http.StatusForbidden, "no master answers")
		ask(r, "GETFILESTATUS", r.webhdfs("GET", "/lost/0-0-0", "GETFILESTATUS", "", nil), http.StatusForbidden, "no master answers")
	}
	for range asked {
		if why := <-said; why != "" {
			t.Error(why)
		}
		cases++
	}
	if status, text := readiness(t, led.admin(t, dir)); status == http.StatusOK {
		t.Errorf("%s led a minority and is ready still: %s", led.name, text)
	}
	return cases + 1
}

// admin returns the URL of the process's health.
func (p *member) admin(t testing.TB, dir string) string {
	t.Helper()
	start, err := os.ReadFile(filepath.Join(dir, "start-"+p.name))
	if err != nil {
		t.Fatal(err)
	}
	admin := adminListen.FindSubmatch(start)
	if admin == nil {
		t.Fatalf("%s has no admin listener", p.name)
	}
	return "http://" + string(admin[1])
}
