package conformance

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// lifeKey is the name of a file of which each bucket has another content; it takes several pages.
func lifeKey(i int) string { return fmt.Sprintf("data/%02d", i) }

func lifeText(bucket string, i int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%s/%02d ", bucket, i)), 30_000*(1+i%5)) // up to a MiB
}

const lifeFiles = 20

// lifeReading reads the files of a mount through all gateways until it is stopped, and holds what was read against what may be: after
// since is set, only that bucket's content is right.
type lifeReading struct {
	wg             sync.WaitGroup
	ended          atomic.Bool
	since          atomic.Pointer[string]
	reads, refused atomic.Int64
	mu             sync.Mutex
	wrong          []string
}

func (x *lifeReading) note(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.wrong) < 10 {
		x.wrong = append(x.wrong, fmt.Sprintf(format, args...))
	}
}

// start has readers read below path, each body as one of the buckets has it. A refusal is wrong unless it is one of retried.
func (x *lifeReading) start(t *testing.T, c *cluster, path string, buckets []string, retried ...int) {
	for n := range 4 {
		r := newRig(&Server{S3: c.S3[n%len(c.S3)]})
		x.wg.Go(func() {
			for i := n; !x.ended.Load(); i++ {
				want := buckets
				if only := x.since.Load(); only != nil {
					want = []string{*only}
				}
				k := i % lifeFiles
				status, _, b := r.do(t, r.request("GET", escapePath(path+"/"+lifeKey(k)), nil))
				switch x.reads.Add(1); {
				case status == http.StatusOK && slices.ContainsFunc(want, func(bucket string) bool { return bytes.Equal(b, lifeText(bucket, k)) }):
				case status == http.StatusOK:
					x.note("%s has %d bytes, %.20q…%.20q, want those of %v", lifeKey(k), len(b), b, b[max(0, len(b)-20):], want)
				case slices.Contains(retried, status):
					x.refused.Add(1)
				default:
					x.note("%s: status %d %.300s", lifeKey(k), status, b)
				}
			}
		})
	}
}

// more waits for n more reads.
func (x *lifeReading) more(t *testing.T, n int64) {
	t.Helper()
	want := x.reads.Load() + n
	eventually(t, time.Minute, func() error {
		if got := x.reads.Load(); got < want {
			return fmt.Errorf("%d reads, want %d", got, want)
		}
		return nil
	})
}

func (x *lifeReading) stop(t *testing.T, what string) {
	t.Helper()
	x.ended.Store(true)
	x.wg.Wait()
	for _, w := range x.wrong {
		t.Errorf("%s: %s", what, w)
	}
	t.Logf("%s: %d reads, %d to be repeated", what, x.reads.Load(), x.refused.Load())
}

// TestMountLife takes mounts of a cluster of 3 masters, 3 workers and 2 gateways through what mounts go through, while they are
// read: other keys, another store, another mode, and back.
func TestMountLife(t *testing.T) {
	python, curl := Python(t), Curl(t)
	store := StartVersitygwUsers(t)
	alpha, beta := store.newUser(t, "alpha"), store.newUser(t, "beta")
	for _, bucket := range []string{"one", "two"} {
		makeBucket(t, store, bucket)
		put := behindBucket(store, bucket)
		for i := range lifeFiles {
			put(t, lifeKey(i), string(lifeText(bucket, i)))
		}
	}
	behindBucket(store, "two")(t, "only-two", "2")
	c, _ := startCluster(t)
	cases := 0
	defer func() { Minimum(t, "mount-life", cases) }()
	run := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			f(t)
			if cases++; t.Failed() {
				cases--
			}
		})
	}
	ok := func(t *testing.T, args ...string) string {
		t.Helper()
		out, err := sluice(t, c.Admin[cases%len(c.Admin)], args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	fails := func(t *testing.T, text string, args ...string) {
		t.Helper()
		if out, err := sluice(t, c.Admin[cases%len(c.Admin)], args...); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("sluice %q: %s, %v; want a failure that says %q", args, out, err, text)
		}
	}
	says := func(t *testing.T, text string, args ...string) {
		t.Helper()
		if out := ok(t, args...); !strings.Contains(out, text) {
			t.Errorf("sluice %q says %s, want %q", args, out, text)
		}
	}
	keys := func(u S3Store) []string {
		return []string{"--option", "access_key=" + u.AccessKey, "--option", "secret_key=" + u.SecretKey}
	}
	add := []string{"mount", "add", "/lake", "s3://one", "--option", "endpoint=" + store.URL, "--option", "region=" + store.Region, "--option", "path_style=true",
		"--option", "secret=lake-keys", "--sync-interval", "-1"}

	run("a secret is there before the mounts that use it", func(t *testing.T) {
		fails(t, "no secret of the name", add...)
		says(t, "0 mounts use it", append([]string{"secret", "set", "lake-keys"}, keys(alpha)...)...)
		says(t, "mounted s3://one at /lake", append(slices.Clone(add), "--dry-run")...)
		if out := ok(t, "mount", "ls"); strings.Contains(out, "/lake") {
			t.Errorf("a dry run mounted it: %s", out)
		}
		ok(t, add...)
		says(t, "/lake", "secret", "ls")
		fails(t, "/lake uses it", "secret", "rm", "lake-keys")
	})
	run("other keys without a failed request", func(t *testing.T) {
		ok(t, "mount", "update", "/lake", "--read-type", "NO_CACHE") // every read asks the store
		var x lifeReading
		x.start(t, c, "/lake", []string{"one"})
		x.more(t, 40)
		fails(t, "does not work with it", "secret", "set", "lake-keys", "--option", "access_key=nobody", "--option", "secret_key=nothing-of-it")
		ok(t, append([]string{"secret", "set", "lake-keys"}, keys(beta)...)...)
		x.more(t, 20)
		store.removeUser(t, "alpha")
		x.more(t, 80)
		x.stop(t, "while keys were rotated")
		ok(t, "mount", "update", "/lake", "--default", "read_type")
	})
	r := newRig(&Server{S3: c.S3[0], WebHDFS: c.WebHDFS[0], Admin: c.Admin[0]})
	m := &mounts{rig: r, store: store}
	run("another store under load", func(t *testing.T) {
		m.expect(t, "/lake/only-two", "-") // and never again, by its interval
		says(t, "dry run: switched the mount /lake from s3://one to s3://two", "mount", "update", "/lake", "--uri", "s3://two", "--dry-run")
		fails(t, "refused", "mount", "update", "/lake", "--uri", "s3://no-such-bucket")
		two := "two"
		var x lifeReading
		x.start(t, c, "/lake", []string{"one", "two"}, http.StatusConflict, http.StatusServiceUnavailable)
		x.more(t, 60)
		ok(t, "mount", "update", "/lake", "--uri", "s3://two")
		x.since.Store(&two)
		x.more(t, 80)
		x.stop(t, "while the store was switched")
		m.expect(t, "/lake/only-two", "2")
	})
	run("an upload keeps it", func(t *testing.T) {
		if _, err := r.s3.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: aws.String("lake"), Key: aws.String("up")}); err != nil {
			t.Fatal(err)
		}
		fails(t, "1 multipart uploads that are open", "mount", "rm", "/lake")
		fails(t, "1 multipart uploads that are open", "mount", "update", "/lake", "--uri", "s3://one")
		says(t, "gave up 1 multipart uploads", "mount", "update", "/lake", "--uri", "s3://one", "--force")
		m.expect(t, "/lake/"+lifeKey(1), string(lifeText("one", 1)))
	})
	run("nobody gets in, in both protocols", func(t *testing.T) {
		ok(t, "mount", "update", "/lake", "--access", "noAccess")
		RunScript(t, "mount-life-boto3", time.Minute, append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true"),
			python, script("mountlife.py"), c.S3[0], AccessKey, SecretKey, "lake", lifeKey(1))
		for _, op := range []string{"GETFILESTATUS", "OPEN"} {
			out, err := exec.CommandContext(t.Context(), curl, "-sS", "-w", "%{http_code}", c.WebHDFS[1]+"/webhdfs/v1/lake/"+lifeKey(1)+"?user.name=hdfs&op="+op).CombinedOutput()
			if err != nil || !strings.HasSuffix(string(out), "403") || !strings.Contains(string(out), "the mount /lake is noAccess") {
				t.Errorf("%s: %s, %v", op, out, err)
			}
		}
		if s := m.status(t, "/lake"); s["type"] != "DIRECTORY" {
			t.Errorf("the mount point is %v", s)
		}
	})
	run("back, and back again", func(t *testing.T) {
		var past struct {
			Items []struct {
				Revision uint64
				What     string
			}
		}
		mustSluice(t, c.Admin[1], &past, "mount", "history")
		at := func(text string) string {
			for _, x := range past.Items {
				if strings.Contains(x.What, text) {
					return fmt.Sprint(x.Revision)
				}
			}
			t.Fatalf("no revision says %q: %v", text, past.Items)
			return ""
		}
		out := ok(t, "mount", "history")
		for _, secret := range []string{alpha.SecretKey, beta.SecretKey} {
			if strings.Contains(out, secret) {
				t.Error("the history shows a secret")
			}
		}
		two := at("from s3://one to s3://two")
		says(t, "dry run: switched the mount /lake from s3://one to s3://two", "mount", "rollback", two, "--dry-run")
		ok(t, "mount", "rollback", two)
		m.expect(t, "/lake/"+lifeKey(1), string(lifeText("two", 1)))
		says(t, "unmounted /lake", "mount", "rm", "/lake", "--dry-run")
		ok(t, "mount", "rm", "/lake")
		ok(t, "secret", "rm", "lake-keys")
		fails(t, "no secret of the name", "mount", "rollback", two)
		ok(t, append([]string{"secret", "set", "lake-keys"}, keys(beta)...)...)
		ok(t, "mount", "rollback", two)
		m.expect(t, "/lake/"+lifeKey(1), string(lifeText("two", 1)))
		fails(t, "not remembered", "mount", "rollback", "1000")
	})
}
