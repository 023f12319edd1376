package conformance

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// sluice runs a command of the binary against an admin address and returns what it printed, and whether it went well.
func sluice(t testing.TB, admin string, args ...string) (out string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(t), append(args, "--admin-url", admin)...)
	cmd.Env = append(os.Environ(), "SLUICE_ROOT_ACCESS_KEY="+AccessKey, "SLUICE_ROOT_SECRET_KEY="+SecretKey)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var errb bytes.Buffer
	cmd.Stderr = &errb
	b, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("sluice %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errb.String()))
	}
	return string(b), err
}

// mustSluice is sluice of a command with --output json, decoded into out.
func mustSluice(t testing.TB, admin string, out any, args ...string) {
	t.Helper()
	text, err := sluice(t, admin, append(args, "--output", "json")...)
	if err == nil {
		err = json.Unmarshal([]byte(text), out)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// patient returns the S3 client as an application makes it: with the SDK's own way of trying again.
func patient(r *rig, url string) *s3.Client {
	return s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: &url, UsePathStyle: true, HTTPClient: r.http,
		Credentials: credentials.NewStaticCredentialsProvider(AccessKey, SecretKey, ""),
	})
}

// load is what applications do while an operator works: objects are put, read and listed through all gateways, as fast as
// they are answered, with the SDK's defaults.
type load struct {
	bucket  string
	stop    atomic.Bool
	running sync.WaitGroup
	asked   atomic.Int64

	mu     sync.Mutex
	failed []string
	acked  map[string]content
	last   time.Time     // of an acknowledgement
	gap    time.Duration // the longest without one since it was reset
}

// startLoad starts writers, and as many readers as there are gateways, until end.
func startLoad(t *testing.T, c *cluster, bucket string, writers int) *load {
	t.Helper()
	newRig(&Server{S3: c.S3[0]}).mkbucket(t, bucket)
	l := &load{bucket: bucket, acked: map[string]content{}, last: time.Now()}
	for w := range writers {
		url := c.S3[w%len(c.S3)]
		cl := patient(newRig(&Server{S3: url}), url)
		l.running.Go(func() {
			for n := 0; !l.stop.Load(); n++ {
				x := content{fmt.Sprintf("%d/%d", w, n), n, 200}
				if n%16 == 15 {
					x.size = 300_000 // more than goes with its name
				}
				b := x.bytes()
				_, err := cl.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &x.name, Body: bytes.NewReader(b)})
				l.note("put "+x.name, err)
				if err == nil {
					l.mu.Lock()
					l.acked[x.name] = x
					l.gap, l.last = max(l.gap, time.Since(l.last)), time.Now()
					l.mu.Unlock()
				}
			}
		})
	}
	for _, url := range c.S3 {
		cl := patient(newRig(&Server{S3: url}), url)
		l.running.Go(func() {
			for !l.stop.Load() {
				_, err := cl.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &bucket, MaxKeys: aws.Int32(20)})
				l.note("list", err)
				l.mu.Lock()
				var x content
				for _, x = range l.acked {
					break
				}
				l.mu.Unlock()
				if x.name == "" {
					continue
				}
				out, err := cl.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &x.name})
				if err == nil {
					err = errors.Join(same(out.Body, x), out.Body.Close())
				}
				l.note("get "+x.name, err)
			}
		})
	}
	return l
}

func (l *load) note(what string, err error) {
	l.asked.Add(1)
	if err == nil || l.stop.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, fmt.Sprintf("%s: %v", what, err))
}

// during runs f and returns the longest time without an acknowledgement around it.
func (l *load) during(f func()) time.Duration {
	l.mu.Lock()
	l.gap = 0
	l.mu.Unlock()
	f()
	time.Sleep(time.Second)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gap
}

// end stops the load, and checks that no request failed and that all that was acknowledged is there.
func (l *load) end(t *testing.T, c *cluster) {
	t.Helper()
	l.stop.Store(true)
	l.running.Wait()
	for i, why := range l.failed {
		if i < 10 {
			t.Errorf("a request failed: %s", why)
		}
	}
	r := newRig(&Server{S3: c.S3[0]})
	for key, x := range l.acked {
		if _, _, err := r.get(t.Context(), "/"+l.bucket+"/"+key, x); err != nil {
			t.Errorf("an acknowledged object: %v", err)
		}
	}
	t.Logf("%d requests, %d failed; %d objects acknowledged", l.asked.Load(), len(l.failed), len(l.acked))
}

// handoverMost bounds the middle of the times without an acknowledged write at a planned change of leader, on a machine that
// does nothing else; others may be using it, unless SLUICE_FAILOVER says that they are not.
func handoverMost() time.Duration {
	const most = 500 * time.Millisecond
	if os.Getenv("SLUICE_FAILOVER") == "" {
		return 3 * most
	}
	return most
}

// TestOperate is what an operator does with a cluster that is being used.
func TestOperate(t *testing.T) {
	c, dir := startCluster(t)
	cases := 0
	t.Run("nodes", func(t *testing.T) { cases += c.drains(t) })
	t.Run("handover", func(t *testing.T) { cases += c.handovers(t) })
	t.Run("replace a master", func(t *testing.T) { cases += c.replaces(t, dir) })
	Minimum(t, "operate", cases)
}

// listed is a line of sluice node ls.
type listed struct {
	Name, Role, Address, Pages, Version string
	Leader, Draining                    bool
	Since                               time.Time
}

// nodes lists the processes, as an admin address tells them.
func (c *cluster) nodes(t *testing.T, admin string) (all map[string]listed, leader string) {
	t.Helper()
	var list struct{ Items []listed }
	mustSluice(t, admin, &list, "node", "ls")
	all = map[string]listed{}
	for _, n := range list.Items {
		if all[n.Name] = n; n.Leader {
			leader = n.Name
		}
	}
	return all, leader
}

// drains lists the processes through every admin address, and drains a gateway, a worker and the leader.
func (c *cluster) drains(t *testing.T) (cases int) {
	for _, admin := range c.Admin {
		all, leader := c.nodes(t, admin)
		for _, p := range c.processes {
			role := map[byte]string{'m': "master", 'g': "gateway", 'w': "worker"}[p.name[0]]
			if n := all[p.name]; n.Role != role || n.Address == "" || n.Since.IsZero() || n.Version == "" || n.Draining {
				t.Errorf("%s is listed as %+v", p.name, n)
			}
		}
		if all[leader].Role != "master" || len(all) != len(c.processes) {
			t.Errorf("%d of %d processes are listed, led by %q", len(all), len(c.processes), leader)
		}
		cases++
	}
	_, leader := c.nodes(t, c.Admin[0])
	r := newRig(&Server{S3: c.S3[0], WebHDFS: c.WebHDFS[0]})
	r.mkbucket(t, "drain")
	r.mustPut(t, "/drain/x", content{"x", 1, 1 << 20})
	for _, name := range []string{"g1", "w1", leader} {
		if _, err := sluice(t, c.Admin[1], "node", "drain", name); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, func() error {
		status, text := readiness(t, c.Admin[0])
		if status != http.StatusServiceUnavailable || !strings.Contains(text, "draining") {
			return fmt.Errorf("a gateway that is drained answers /readyz with %d: %s", status, text)
		}
		return nil
	})
	if status, text := readiness(t, c.Admin[1]); status != http.StatusOK {
		t.Errorf("a gateway that is not drained answers /readyz with %d: %s", status, text)
	}
	if _, _, err := r.get(t.Context(), "/drain/x", content{"x", 1, 1 << 20}); err != nil {
		t.Errorf("a gateway that is drained does not serve: %v", err)
	}
	cases++
	eventually(t, 10*time.Second, func() error {
		all, next := c.nodes(t, c.Admin[1])
		if next == leader || next == "" || !all[leader].Draining || !all["w1"].Draining || !all["g1"].Draining {
			return fmt.Errorf("%q leads, %s was drained: %+v", next, leader, all)
		}
		return nil
	})
	cases++
	// It outlives the process, and a master that is drained takes the lead no more.
	if _, err := sluice(t, c.Admin[1], "master", "handover", "--to", "nobody"); err == nil || !strings.Contains(err.Error(), "no other master") {
		t.Errorf("a handover to nobody: %v", err)
	}
	for _, p := range c.processes {
		if p.name == "g1" {
			p.kill(t)
			p.pid = p.restart(t, 0)
		}
	}
	eventually(t, 10*time.Second, func() error {
		if status, text := readiness(t, c.Admin[0]); status != http.StatusServiceUnavailable || !strings.Contains(text, "draining") {
			return fmt.Errorf("a gateway that was drained and started again answers /readyz with %d: %s", status, text)
		}
		return nil
	})
	cases++
	for range 2 {
		if _, to := c.handover(t); to == leader {
			t.Errorf("%s leads, which is drained", leader)
		}
	}
	cases++
	for _, name := range []string{"g1", "w1", leader} {
		if _, err := sluice(t, c.Admin[1], "node", "drain", name, "--undo"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, func() error {
		if status, text := readiness(t, c.Admin[0]); status != http.StatusOK {
			return fmt.Errorf("a gateway that is drained no more answers /readyz with %d: %s", status, text)
		}
		return nil
	})
	if _, err := sluice(t, c.Admin[1], "node", "drain", "nobody"); err == nil || !strings.Contains(err.Error(), "list the nodes") {
		t.Errorf("a node that is not there was drained: %v", err)
	}
	return cases + 1
}

// readiness asks /readyz of an admin address.
func readiness(t *testing.T, admin string) (status int, text string) {
	t.Helper()
	resp, err := http.Get(admin + "/readyz?verbose")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// handover has another master lead, which is tried again while none follows the journal yet.
func (c *cluster) handover(t *testing.T, args ...string) (from, to string) {
	t.Helper()
	var done struct{ From, To string }
	eventually(t, 30*time.Second, func() error {
		text, err := sluice(t, c.Admin[1], append([]string{"master", "handover", "--output", "json"}, args...)...)
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(text), &done)
	})
	return done.From, done.To
}

// handovers changes the leader, as planned, while applications work.
func (c *cluster) handovers(t *testing.T) (cases int) {
	const rounds = 5
	l := startLoad(t, c, "handover", 8)
	time.Sleep(time.Second)
	var gaps []time.Duration
	for i := range rounds {
		var done struct {
			From, To string
			Ms       int64
		}
		gap := l.during(func() { mustSluice(t, c.Admin[i%len(c.Admin)], &done, "master", "handover") })
		if done.From == done.To || done.To == "" {
			t.Errorf("handed over from %q to %q", done.From, done.To)
		}
		gaps = append(gaps, gap)
		t.Logf("%s to %s: the masters say %d ms; nothing acknowledged for %v", done.From, done.To, done.Ms, gap.Round(time.Millisecond))
		cases++
	}
	l.end(t, c)
	slices.Sort(gaps)
	t.Logf("%d cores for everything, %s: p50 %v, max %v", runtime.NumCPU(), runtime.Version(), gaps[rounds/2].Round(time.Millisecond), gaps[rounds-1].Round(time.Millisecond))
	if most := handoverMost(); gaps[rounds/2] > most {
		t.Errorf("the middle of %d handovers took %v, want at most %v", rounds, gaps[rounds/2], most)
	}
	return cases
}

// Of what starts a master: its addresses, and the masters it knows.
var (
	internalListen = regexp.MustCompile(`--internal-listen \S+`)
	joins          = regexp.MustCompile(`--join \S+`)
)

// replaces has a new master take the place of the one that led, while applications work, and lead; then another of the old ones
// is lost, so that nothing is acknowledged but by the new one's vote.
func (c *cluster) replaces(t *testing.T, dir string) (cases int) {
	pids := map[string]int{}
	for _, p := range c.processes {
		pids[p.name] = p.pid
	}
	_, old := c.nodes(t, c.Admin[0])
	peer := "http://" + FreePort(t)
	start, err := os.ReadFile(filepath.Join(dir, "start-"+old))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(start), filepath.Join(dir, old), filepath.Join(dir, "m4"))
	text = strings.Replace(text, "--name "+old, "--name m4", 1)
	admin := "http://" + FreePort(t)
	text = adminListen.ReplaceAllString(text, "--admin-listen "+strings.TrimPrefix(admin, "http://"))
	text = internalListen.ReplaceAllString(text, "--internal-listen "+FreePort(t))
	text = joins.ReplaceAllString(text, "$0\\,m4="+peer+" --join-existing")
	file := filepath.Join(dir, "start-m4")
	if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	states := func() map[string]string {
		var list struct {
			Items []struct{ Name, State string }
		}
		mustSluice(t, c.Admin[0], &list, "master", "ls")
		all := map[string]string{}
		for _, m := range list.Items {
			all[m.Name] = m.State
		}
		return all
	}
	l := startLoad(t, c, "replaced", 4)
	if _, err := sluice(t, c.Admin[0], "master", "add", peer); err != nil {
		t.Fatal(err)
	}
	if _, err := sluice(t, c.Admin[0], "master", "promote", "m4"); err == nil {
		t.Error("4 masters vote")
	}
	cmd := exec.Command(file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if b, _ := os.ReadFile(filepath.Join(dir, "m4.log")); t.Failed() {
			t.Logf("m4:\n%s", tail(string(b)))
		}
	})
	eventually(t, 30*time.Second, func() error {
		if !isReady(t.Context(), admin) {
			return errors.New("the new master is not ready")
		}
		return nil
	})
	if got := states(); len(got) != 4 || got["m4"] != "learner" {
		t.Errorf("with a new master they are %v", got)
	}
	cases++
	if _, err := sluice(t, c.Admin[1], "master", "promote", "m4", "--remove", old); err == nil || !strings.Contains(err.Error(), "sluice master handover") {
		t.Errorf("removing the one that leads: %v", err)
	}
	c.handover(t)
	if _, err := sluice(t, c.Admin[1], "master", "promote", "m4", "--remove", old); err != nil {
		t.Fatal(err)
	}
	if got := states(); len(got) != 3 || got[old] != "" || got["m4"] == "learner" {
		t.Errorf("with %s replaced they are %v", old, got)
	}
	cases++
	syscall.Kill(pids[old], syscall.SIGTERM) // it may have ended when it learnt that it is out
	if _, to := c.handover(t, "--to", "m4"); to != "m4" {
		t.Errorf("handed over to %q", to)
	}
	cases++
	l.end(t, c)
	var other *member
	for _, p := range c.processes {
		if p.name[0] == 'm' && p.name != old {
			other = p
		}
	}
	other.kill(t)
	r := newRig(&Server{S3: c.S3[1], WebHDFS: c.WebHDFS[1]})
	eventually(t, 30*time.Second, func() error {
		_, err := r.put(t.Context(), "/replaced/after", content{"after", 1, 300_000})
		return err
	})
	saved := filepath.Join(t.TempDir(), "saved")
	if _, err := sluice(t, c.Admin[1], "backup", saved); err != nil {
		t.Error(err)
	}
	if text, err := sluice(t, c.Admin[1], "fsck", "--file", saved); err != nil || !strings.Contains(text, "; 0 findings") {
		t.Errorf("fsck of a cluster's backup: %v\n%s", err, text)
	}
	return cases + 2
}

// metric returns the value of a number without labels at /metrics, "" if it is not there.
func metric(t *testing.T, admin, name string) string {
	t.Helper()
	resp, err := http.Get(admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok && strings.ContainsAny(rest[:1], " {") {
			return line[strings.LastIndexByte(strings.TrimSpace(line), ' ')+1 : len(strings.TrimSpace(line))]
		}
	}
	return ""
}

// TestFullJournal fills the journal's database to a tiny quota: reads and deletes go on, everything else is refused in the
// words of each protocol, and it ends by itself once enough was deleted.
func TestFullJournal(t *testing.T) {
	s := Start(t, Options{Args: []string{"--etcd-quota", "3MiB"}})
	r := newRig(s)
	r.mkbucket(t, "full")
	cl := patient(r, s.S3)
	once := func(o *s3.Options) { o.RetryMaxAttempts = 1 }
	put := func(key string, options ...func(*s3.Options)) error {
		filler := make([]byte, 1300) // of which little is left out by compression
		crand.Read(filler)
		meta := map[string]string{"filler": base64.RawURLEncoding.EncodeToString(filler)}
		_, err := cl.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("full"), Key: &key, Body: strings.NewReader("x"), Metadata: meta}, options...)
		return err
	}
	var full atomic.Bool
	var made atomic.Int64
	var mu sync.Mutex
	var refusal error
	var writers sync.WaitGroup
	for w := range 16 {
		writers.Go(func() {
			for n := 0; !full.Load() && n < 5000; n++ {
				if err := put(fmt.Sprintf("%c/%d/%d", 'a'+w, w, n), once); err != nil {
					mu.Lock()
					refusal = err
					mu.Unlock()
					full.Store(true)
					return
				}
				made.Add(1)
			}
		})
	}
	writers.Wait()
	cases := 0
	step := func(what string, err error) {
		t.Helper()
		if cases++; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	var api smithy.APIError
	var response *awshttp.ResponseError
	if refusal == nil {
		t.Fatalf("%d objects did not fill a quota of 3 MiB", made.Load())
	}
	t.Logf("refused after %d objects: %v", made.Load(), refusal)
	if !errors.As(refusal, &api) || api.ErrorCode() != "ServiceUnavailable" || !strings.Contains(api.ErrorMessage(), "sluice defrag") ||
		!errors.As(refusal, &response) || response.HTTPStatusCode() != http.StatusServiceUnavailable {
		t.Errorf("a write when the journal is full: %v", refusal)
	}
	cases++
	_, err := r.hdfs(t.Context(), "PUT", "/full/dir", "MKDIRS", "", nil, 0)
	if err != nil && strings.Contains(err.Error(), "SafeModeException") && strings.Contains(err.Error(), "sluice defrag") {
		err = nil
	} else {
		err = fmt.Errorf("was answered with %v", err)
	}
	step("WebHDFS MKDIRS when the journal is full", err)
	_, err = cl.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("full")})
	step("a listing when the journal is full", err)
	key := "a/0/0"
	out, err := cl.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("full"), Key: &key})
	if err == nil {
		err = out.Body.Close()
	}
	step("a read when the journal is full", err)
	if got := metric(t, s.Admin, "sluice_journal_full"); got != "1" {
		t.Errorf("sluice_journal_full is %q", got)
	}
	if status, text := readiness(t, s.Admin); status != http.StatusOK || !strings.Contains(text, "[!]journal:") {
		t.Errorf("/readyz of a process whose journal is full: %d %s", status, text)
	}
	cases += 2
	_, err = cl.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String("full"), Key: &key})
	step("a delete when the journal is full", err)
	_, err = r.hdfs(t.Context(), "DELETE", "/full", "DELETE", "recursive=true", nil, 0)
	step("a recursive delete when the journal is full", err)
	// What was deleted leaves the journal with the next checkpoints; then the database is defragmented, by the leader or by
	// whoever asks first.
	eventually(t, 90*time.Second, func() error {
		if _, err := sluice(t, s.Admin, "defrag"); err != nil && !strings.Contains(err.Error(), "wait for that") {
			return err
		}
		_, err := cl.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("full2")}, once)
		return err
	})
	if got := metric(t, s.Admin, "sluice_journal_full"); got != "0" {
		t.Errorf("sluice_journal_full is %q after it was defragmented", got)
	}
	cases++
	Minimum(t, "full-journal", cases)
}
