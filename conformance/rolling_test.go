package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// TestRolling restarts every process of a cluster, one after the other, each as soon as the one before is ready again, while
// clients with the retries that their SDKs have by default work through a balancer. No request may fail.
func TestRolling(t *testing.T) {
	python := Python(t)
	c, dir := startCluster(t)
	newRig(&Server{S3: c.S3[0]}).mkbucket(t, "rolling")
	b := newBalancer(t, c)
	sdk := newRollingLoad(t, b.URL())
	boto := startRollingScript(t, python, b.URL())
	time.Sleep(2 * time.Second)
	restarted := 0
	for _, p := range c.processes {
		began := time.Now()
		ending := func() {}
		if i := slices.Index([]string{"g1", "g2"}, p.name); i >= 0 {
			ending = func() { c.takesLeave(t, i) }
		}
		p.restartOrderly(t, dir, ending)
		t.Logf("%s was restarted in %v; %d requests of the Go SDK so far, %d failed", p.name, time.Since(began).Round(time.Millisecond), sdk.requests.Load(), sdk.failures())
		restarted++
		time.Sleep(time.Second)
	}
	sdk.end()
	requests, failed := boto()
	t.Logf("%d processes were restarted; requests: %d of the Go SDK, %d of boto3; longest: %v", restarted, sdk.requests.Load(), requests, time.Duration(sdk.longest.Load()).Round(time.Millisecond))
	for _, err := range append(sdk.failed, failed...) {
		t.Errorf("a request failed: %s", err)
	}
	if sdk.requests.Load() < 200 || requests < 100 {
		t.Errorf("%d and %d requests are no load", sdk.requests.Load(), requests)
	}
	Minimum(t, "rolling", restarted)
}

// adminListen finds the address of a process's health in what starts it.
var adminListen = regexp.MustCompile(`--admin-listen (\S+)`)

// takesLeave checks that a gateway that was told to stop says so, and goes on for those who do not know yet.
func (c *cluster) takesLeave(t *testing.T, gateway int) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		if isReady(t.Context(), c.Admin[gateway]) {
			return errors.New("a gateway that stops says that it is ready")
		}
		return nil
	})
	resp, err := (&http.Client{Transport: &http.Transport{}}).Get(c.S3[gateway])
	if err != nil {
		t.Errorf("a gateway that stops answers nobody any more, and no balancer knows: %v", err)
		return
	}
	resp.Body.Close()
	if !resp.Close {
		t.Error("a gateway that stops lets clients keep their connections")
	}
}

// restartOrderly ends the process as SIGTERM does, starts it again, and waits until it says that it is ready. ending is called
// while it ends.
func (p *member) restartOrderly(t *testing.T, dir string, ending func()) {
	t.Helper()
	if err := syscall.Kill(p.pid, syscall.SIGTERM); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	ending()
	eventually(t, 40*time.Second, func() error {
		if err := syscall.Kill(p.pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("%s has not ended", p.name)
		}
		return nil
	})
	time.Sleep(time.Second) // something is replaced meanwhile
	p.pid = p.restart(t, 0)
	start, err := os.ReadFile(filepath.Join(dir, "start-"+p.name))
	if err != nil {
		t.Fatal(err)
	}
	admin := adminListen.FindSubmatch(start)
	if admin == nil {
		t.Fatalf("%s has no admin listener, which says when it is ready", p.name)
	}
	eventually(t, 30*time.Second, func() error {
		if !isReady(t.Context(), "http://"+string(admin[1])) {
			return fmt.Errorf("%s is not ready", p.name)
		}
		return nil
	})
}

// isReady reports whether the process whose admin listener is at url says that it is ready.
func isReady(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// balancer passes connections on to the gateways that say that they are ready, in turn, as one in front of them does: it asks
// each a few times a second, and does not try another if one that was ready refuses.
type balancer struct {
	l     net.Listener
	turn  atomic.Uint64
	ready []atomic.Bool
	addrs []string
	wg    sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil once it is closed
}

// balancerInterval is how often a gateway is asked; those in use ask less often.
const balancerInterval = 250 * time.Millisecond

func newBalancer(t *testing.T, c *cluster) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{l: l, ready: make([]atomic.Bool, len(c.S3)), conns: map[net.Conn]bool{}}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	for i := range c.S3 {
		u, err := url.Parse(c.S3[i])
		if err != nil {
			t.Fatal(err)
		}
		b.addrs = append(b.addrs, u.Host)
		b.ready[i].Store(isReady(ctx, c.Admin[i]))
		b.wg.Go(func() {
			for ctx.Err() == nil {
				b.ready[i].Store(isReady(ctx, c.Admin[i]))
				time.Sleep(balancerInterval)
			}
		})
	}
	b.wg.Go(b.serve)
	t.Cleanup(func() {
		stop()
		l.Close()
		b.mu.Lock()
		for conn := range b.conns {
			conn.Close()
		}
		b.conns = nil
		b.mu.Unlock()
		b.wg.Wait()
	})
	return b
}

// URL is where clients find it.
func (b *balancer) URL() string { return "http://" + b.l.Addr().String() }

func (b *balancer) serve() {
	for {
		client, err := b.l.Accept()
		if err != nil {
			return
		}
		b.wg.Go(func() { b.pass(client) })
	}
}

func (b *balancer) pass(client net.Conn) {
	defer client.Close()
	for range b.addrs {
		i := int(b.turn.Add(1) % uint64(len(b.addrs)))
		if !b.ready[i].Load() {
			continue
		}
		server, err := net.Dial("tcp", b.addrs[i])
		if err != nil {
			return
		}
		defer server.Close()
		b.mu.Lock()
		if b.conns == nil {
			b.mu.Unlock()
			return
		}
		b.conns[client], b.conns[server] = true, true
		b.mu.Unlock()
		var both sync.WaitGroup
		both.Go(func() { io.Copy(server, client); server.(*net.TCPConn).CloseWrite() })
		both.Go(func() { io.Copy(client, server); client.Close() })
		both.Wait()
		b.mu.Lock()
		delete(b.conns, client)
		delete(b.conns, server)
		b.mu.Unlock()
		return
	}
}

// rollingLoad is what clients of the Go SDK do until its end.
type rollingLoad struct {
	s3       *s3.Client
	ctx      context.Context
	requests atomic.Int64
	longest  atomic.Int64 // nanoseconds
	stop     atomic.Bool
	clients  sync.WaitGroup

	mu     sync.Mutex
	failed []string
}

func newRollingLoad(t *testing.T, endpoint string) *rollingLoad {
	l := &rollingLoad{ctx: t.Context(), s3: s3.New(s3.Options{ // retries and connections as they are by default
		Region: "us-east-1", BaseEndpoint: &endpoint, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(AccessKey, SecretKey, ""),
	})}
	for i := range 6 {
		l.clients.Go(func() {
			for n := 0; !l.stop.Load(); n++ {
				l.round(content{fmt.Sprintf("go/%d/%d", i, n), n, []int64{200, 200, 100_000}[n%3]}, n)
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

// end waits until the clients have ended.
func (l *rollingLoad) end() { l.stop.Store(true); l.clients.Wait() }

func (l *rollingLoad) failures() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.failed) }

// did notes a request, and whether it failed.
func (l *rollingLoad) did(what string, began time.Time, err error) bool {
	l.requests.Add(1)
	took := time.Since(began)
	for last := l.longest.Load(); int64(took) > last && !l.longest.CompareAndSwap(last, int64(took)); last = l.longest.Load() {
	}
	if err != nil {
		l.mu.Lock()
		l.failed = append(l.failed, fmt.Sprintf("%s, after %v: %v", what, took.Round(time.Millisecond), err))
		l.mu.Unlock()
	}
	return err == nil
}

// round makes an object, and looks at it in all ways.
func (l *rollingLoad) round(x content, n int) {
	bucket, key, began := aws.String("rolling"), aws.String(x.name), time.Now()
	var err error
	if n%20 == 19 {
		err = l.upload(bucket, key, x)
	} else {
		_, err = l.s3.PutObject(l.ctx, &s3.PutObjectInput{Bucket: bucket, Key: key, Body: bytes.NewReader(x.bytes())})
	}
	if !l.did("put "+*key, began, err) {
		return
	}
	began = time.Now()
	out, err := l.s3.GetObject(l.ctx, &s3.GetObjectInput{Bucket: bucket, Key: key})
	if err == nil {
		var b []byte
		if b, err = io.ReadAll(out.Body); err == nil && !bytes.Equal(b, x.bytes()) {
			err = errors.New("other bytes than were put")
		}
		out.Body.Close()
	}
	l.did("get "+*key, began, err)
	began = time.Now()
	switch n % 5 {
	case 0:
		page, err := l.s3.ListObjectsV2(l.ctx, &s3.ListObjectsV2Input{Bucket: bucket, Prefix: key})
		if err == nil && len(page.Contents) == 0 {
			err = errors.New("it is not there")
		}
		l.did("list "+*key, began, err)
	case 1:
		_, err := l.s3.DeleteObject(l.ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: key})
		l.did("delete "+*key, began, err)
	case 2:
		_, err := l.s3.HeadObject(l.ctx, &s3.HeadObjectInput{Bucket: bucket, Key: key})
		l.did("head "+*key, began, err)
	}
}

// upload puts an object as an upload of one part.
func (l *rollingLoad) upload(bucket, key *string, x content) error {
	up, err := l.s3.CreateMultipartUpload(l.ctx, &s3.CreateMultipartUploadInput{Bucket: bucket, Key: key})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	part, err := l.s3.UploadPart(l.ctx, &s3.UploadPartInput{Bucket: bucket, Key: key, UploadId: up.UploadId, PartNumber: aws.Int32(1), Body: bytes.NewReader(x.bytes())})
	if err != nil {
		return fmt.Errorf("part: %w", err)
	}
	_, err = l.s3.CompleteMultipartUpload(l.ctx, &s3.CompleteMultipartUploadInput{Bucket: bucket, Key: key, UploadId: up.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{PartNumber: aws.Int32(1), ETag: part.ETag}}}})
	if err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	return nil
}

// startRollingScript starts boto3 and returns what ends it and says how many requests it made, and which of them failed.
func startRollingScript(t *testing.T, python, endpoint string) func() (requests int, failed []string) {
	t.Helper()
	cmd := exec.Command(python, script("rolling.py"), endpoint, AccessKey, SecretKey, "rolling")
	cmd.Env = append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out, problems syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceValue(func() error { in.Close(); return cmd.Wait() })
	t.Cleanup(func() { end() })
	return func() (int, []string) {
		var said struct {
			Requests int
			Failed   []string
		}
		if err := errors.Join(end(), json.Unmarshal([]byte(out.String()), &said)); err != nil {
			t.Errorf("%s: %v\n%s", script("rolling.py"), err, tail(problems.String()))
		}
		return said.Requests, said.Failed
	}
}
