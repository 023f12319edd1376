package conformance

import (
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// TestFullMasters is TestFullJournal with three masters, of which the one that leads is killed while the journal is full, and comes back
// when the others have room again.
func TestFullMasters(t *testing.T) {
	c, dir := startCluster(t, "--etcd-quota", "3MiB")
	r := newRig(&Server{S3: c.S3[0], WebHDFS: c.WebHDFS[0]})
	r.mkbucket(t, "full")
	cases := 0
	step := func(what string, err error) {
		t.Helper()
		if cases++; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// filled is what is the case while the journal is full.
	filled := func(when string, gone ...string) {
		t.Helper()
		made, refusal := c.fillJournal(t.Context(), strings.ReplaceAll(when, " ", "-"))
		t.Logf("%s: refused after %d objects: %v", when, made, refusal)
		step("a write "+when, fullRefusal(refusal))
		_, err := r.hdfs(t.Context(), "PUT", "/full/dir", "MKDIRS", "", nil, 0)
		if err == nil || !strings.Contains(err.Error(), "SafeModeException") || !strings.Contains(err.Error(), "sluice defrag") {
			t.Errorf("MKDIRS %s was answered with %v", when, err)
		}
		cases++
		_, err = r.list(t.Context(), "/full/")
		step("a listing "+when, err)
		for _, name := range gone {
			x := content{name, 0, 1}
			_, _, err = r.get(t.Context(), "/full/"+name, x)
			step("a read "+when, err)
			b, k := bucketKey("/full/" + name)
			_, err = r.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: b, Key: k})
			step("a delete "+when, err)
		}
		if got := metric(t, c.leader(t, dir).admin(t, dir), "sluice_journal_full"); got != "1" {
			t.Errorf("sluice_journal_full of the leader is %q %s", got, when)
		}
		cases++
	}
	for _, name := range []string{"kept/0", "kept/1"} {
		r.mustPut(t, "/full/"+name, content{name, 0, 1})
	}
	filled("when the journal is full", "kept/0")

	killed := c.leader(t, dir)
	killed.kill(t)
	eventually(t, 20*time.Second, func() error {
		if c.leader(t, dir) == killed {
			return errors.New("nobody leads but who was killed")
		}
		return nil
	})
	c.serves(t)
	t.Logf("%s led and was killed; %s leads", killed.name, c.leader(t, dir).name)
	filled("when its leader was killed", "kept/1")

	_, err := r.hdfs(t.Context(), "DELETE", "/full", "DELETE", "recursive=true", nil, 0)
	step("a recursive delete when the journal is full", err)
	// What was deleted leaves the database with the leader's second checkpoint, 10 s after it was deleted. To defragment is to change the
	// leader: whoever asks for it sooner has the next one begin to wait. The master that is away is not defragmented, and has no say.
	began := time.Now()
	const pause = 15 * time.Second
	defragmented := func(away ...string) error {
		_, err := sluice(t, c.Admin[1], "defrag")
		for _, name := range away {
			if err != nil && strings.Contains(err.Error(), "defragment "+name) {
				return nil
			}
		}
		return err
	}
	time.Sleep(pause)
	seldom(t, 4*pause, pause, func() error {
		if err := defragmented(killed.name); err != nil && !strings.Contains(err.Error(), "wait for that") {
			return err
		}
		_, err := r.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("after")})
		return err
	})
	cases++
	t.Logf("there is room again after %v", time.Since(began).Round(time.Millisecond))

	// Who comes back has as large a database as before. Once it is defragmented, whoever leads takes changes at once.
	killed.pid = killed.restart(t, 0)
	eventually(t, 20*time.Second, func() error {
		if !isReady(t.Context(), killed.admin(t, dir)) {
			return fmt.Errorf("%s is not ready", killed.name)
		}
		return nil
	})
	eventually(t, 10*time.Second, func() error { return defragmented() })
	_, err = r.put(t.Context(), "/after/returned", content{"returned", 1, 100})
	step("a write after "+killed.name+" was defragmented", err)
	for range 3 {
		from, to := c.handover(t)
		_, err := r.put(t.Context(), "/after/"+to, content{to, 1, 100}) // all three lead in turn
		step("a write when "+to+" leads after "+from, err)
	}
	Minimum(t, "full-masters", cases)
}

// fillJournal puts objects through all gateways, of which the journal has much to keep, until one is refused.
func (c *cluster) fillJournal(ctx context.Context, when string) (made int64, refusal error) {
	var full atomic.Bool
	var count atomic.Int64
	var first sync.Once
	var writers sync.WaitGroup
	for w := range 16 {
		r := newRig(&Server{S3: c.S3[w%len(c.S3)]})
		writers.Go(func() {
			for n := 0; !full.Load() && n < 5000; n++ {
				filler := make([]byte, 1300) // of which little is left out by compression
				crand.Read(filler)
				_, err := r.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("full"), Key: aws.String(fmt.Sprintf("%s/%d/%d", when, w, n)),
					Body: strings.NewReader("x"), Metadata: map[string]string{"filler": base64.RawURLEncoding.EncodeToString(filler)}})
				if err != nil {
					first.Do(func() { refusal = err })
					full.Store(true)
					return
				}
				count.Add(1)
			}
		})
	}
	writers.Wait()
	return count.Load(), refusal
}

// fullRefusal says what is wrong with the answer to a write while the journal is full.
func fullRefusal(err error) error {
	var api smithy.APIError
	var response *awshttp.ResponseError
	if errors.As(err, &api) && api.ErrorCode() == "ServiceUnavailable" && strings.Contains(api.ErrorMessage(), "sluice defrag") &&
		errors.As(err, &response) && response.HTTPStatusCode() == http.StatusServiceUnavailable {
		return nil
	}
	return fmt.Errorf("was answered with %w", err)
}
