package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// startCluster starts the cluster of configs/cluster/run: 3 masters and 2 gateways. Its processes can be started again.
func startCluster(t *testing.T, args ...string) (c *cluster, dir string) {
	t.Helper()
	return startClusterOf(t, Binary(t), args...)
}

// startClusterOf is startCluster with what runs in place of the binary.
func startClusterOf(t *testing.T, bin string, args ...string) (c *cluster, dir string) {
	t.Helper()
	if _, err := exec.LookPath("bash"); err != nil {
		Skip(t, "bash, which runs configs/cluster/run, is not installed")
	}
	dir = t.TempDir()
	env := append(os.Environ(), "SLUICE_BIN="+bin, "SLUICE_ROOT_ACCESS_KEY="+AccessKey, "SLUICE_ROOT_SECRET_KEY="+SecretKey)
	run := exec.Command(filepath.Join("..", "configs", "cluster", "run"), append([]string{dir}, args...)...)
	run.Env, run.SysProcAttr = env, &syscall.SysProcAttr{Setpgid: true}
	log := &syncBuffer{}
	run.Stderr = log
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	var again []*exec.Cmd
	t.Cleanup(func() {
		for _, cmd := range again {
			cmd.Process.Kill()
		}
		run.Process.Signal(syscall.SIGTERM)
		ended := make(chan struct{})
		go func() { run.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(40 * time.Second):
			t.Errorf("the cluster does not stop\n%s", tail(log.String()))
			syscall.Kill(-run.Process.Pid, syscall.SIGKILL)
		}
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
			for _, name := range logs {
				b, _ := os.ReadFile(name)
				t.Logf("%s:\n%s", filepath.Base(name), tail(string(b)))
			}
		}
	})
	c, err = readCluster(out, func(t testing.TB, name string, ahead time.Duration) int {
		argv := append(shifted(ahead), filepath.Join(dir, "start-"+name))
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		again = append(again, cmd)
		go cmd.Wait()
		c.serves(t)
		return cmd.Process.Pid
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(log.String()))
	}
	c.leads = func(t testing.TB) *member { return c.leader(t, dir) }
	c.serves(t)
	return c, dir
}

// serves waits until every gateway answers.
func (c *cluster) serves(t testing.TB) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		for _, url := range c.S3 {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			_, err := newRig(&Server{S3: url}).s3.ListBuckets(ctx, &s3.ListBucketsInput{})
			cancel()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// TestCluster uses 3 masters through 2 gateways, and checks histories under faults.
func TestCluster(t *testing.T) {
	lake := t.TempDir()
	c, dir := startApart(t, "--mount", "/lake=file://"+lake+",sync_interval=0s")
	cases := 0
	t.Run("any gateway serves any step", func(t *testing.T) { cases += c.anyGateway(t) })
	t.Run("a leader apart is succeeded", func(t *testing.T) { cases += c.succeeds(t, dir) })
	t.Run("histories", func(t *testing.T) {
		r := &linearRun{T: t, cluster: c, places: []string{"/linear", "/lake"}, rnd: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)), counted: map[string]int{}, answers: map[string]int{}}
		newRig(&Server{S3: c.S3[0]}).mkbucket(t, "linear")
		cases += r.enough(wanted(t, 42)) // six of each fault
	})
	Minimum(t, "cluster", cases)
}

// anyGateway takes every step of what has several through another gateway.
func (c *cluster) anyGateway(t *testing.T) (cases int) {
	rigs := []*rig{newRig(&Server{S3: c.S3[0], WebHDFS: c.WebHDFS[0]}), newRig(&Server{S3: c.S3[1], WebHDFS: c.WebHDFS[1]})}
	rigs[0].mkbucket(t, "any")
	bucket, key := aws.String("any"), aws.String("up/loaded")
	up, err := rigs[0].s3.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: bucket, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	var parts []types.CompletedPart
	var all []content
	for i := range 4 {
		p := content{fmt.Sprint("part ", i), i, 5<<20 + int64(i)}
		out, err := rigs[i%2].s3.UploadPart(t.Context(), &s3.UploadPartInput{
			Bucket: bucket, Key: key, UploadId: up.UploadId, PartNumber: aws.Int32(int32(i + 1)), Body: p.reader(), ContentLength: &p.size}, unsigned(p.size))
		if err != nil {
			t.Fatal(err)
		}
		all, parts = append(all, p), append(parts, types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: out.ETag})
		cases++
	}
	if _, err := rigs[1].s3.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{
		Bucket: bucket, Key: key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}}); err != nil {
		t.Fatal(err)
	}
	for _, r := range rigs {
		if _, _, err := r.get(t.Context(), "/any/up/loaded", all...); err != nil {
			t.Error(err)
		}
		cases++
	}
	for i := range 25 {
		rigs[i%2].mustPut(t, fmt.Sprintf("/any/list/%02d", i), content{"x", i, 100})
	}
	var token *string
	var keys []string
	for i := 0; i == 0 || token != nil; i++ {
		page, err := rigs[i%2].s3.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: bucket, Prefix: aws.String("list/"), MaxKeys: aws.Int32(4), ContinuationToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Contents {
			keys = append(keys, *o.Key)
		}
		token = page.NextContinuationToken
		cases++
	}
	if len(keys) != 25 {
		t.Errorf("a listing over both gateways has %d keys, want 25: %v", len(keys), keys)
	}
	for i, r := range rigs {
		name, c := fmt.Sprintf("/any/hdfs%d", i), content{"hdfs", i, 300_000}
		if _, err := r.hdfs(t.Context(), "PUT", name, "CREATE", "", c.reader(), c.size); err != nil {
			t.Fatal(err)
		}
		name2, c2 := name+"-across", content{"hdfs across", i, 200_000}
		stepsAcross(t, r, rigs[1-i], name2, c2)
		if _, _, err := r.get(t.Context(), name2, c2); err != nil {
			t.Error(err)
		}
		cases++
		if _, _, err := rigs[1-i].get(t.Context(), name, c); err != nil {
			t.Error(err)
		}
		cases++
	}
	return cases
}

// stepsAcross creates a file whose redirect one gateway gives and another one takes, as behind an address that they share.
func stepsAcross(t *testing.T, one, two *rig, name string, c content) {
	t.Helper()
	req, err := one.webhdfs("PUT", name, "CREATE", "noredirect=true", nil).build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	resp, err := one.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	var told struct{ Location string }
	err = json.NewDecoder(resp.Body).Decode(&told)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("step one: status %d, %v", resp.StatusCode, err)
	}
	there, err := url.Parse(two.WebHDFS)
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(told.Location)
	if err != nil {
		t.Fatal(err)
	}
	to.Host = there.Host
	if req, err = http.NewRequestWithContext(t.Context(), http.MethodPut, to.String(), c.reader()); err != nil {
		t.Fatal(err)
	}
	req.ContentLength = c.size
	if resp, err = two.http.Do(req); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("step two at another gateway: status %d, %.300s", resp.StatusCode, b)
	}
}

// leader returns the master that said last that it leads.
func (c *cluster) leader(t testing.TB, dir string) *member {
	t.Helper()
	var best *member
	eventually(t, 5*time.Second, func() error { // lines of a log are written some at a time
		latest := ""
		for _, p := range c.processes {
			b, err := os.ReadFile(filepath.Join(dir, p.name+".log"))
			if err != nil {
				return err
			}
			for line := range bytes.Lines(b) {
				if text := string(line); strings.Contains(text, `"msg":"leading"`) {
					if _, at, ok := strings.Cut(text, `"time":"`); ok && at > latest {
						best, latest = p, at
					}
				}
			}
		}
		if best == nil {
			return errors.New("no master leads")
		}
		return nil
	})
	return best
}
