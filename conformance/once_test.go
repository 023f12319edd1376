package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

// onceWriters change names of their own, so that nobody else can be why a change finds something there or nothing.
const onceWriters = 24

// TestOnce takes the leader away while changes are in flight that must not be made twice. Nobody but the gateway asks again:
// each change must be answered as the one that it is, or be refused and not made. A change that says that its outcome was
// there before it was made twice, and one that was made must not be refused.
func TestOnce(t *testing.T) {
	c, dir := startCluster(t, "--mount", "/lake=file://"+t.TempDir())
	newRig(&Server{S3: c.S3[0]}).mkbucket(t, "once")
	cases := 0
	for i, fault := range []string{"kill", "pause", "kill", "pause"} {
		for try := 0; ; try++ {
			o := c.once(t, dir, fault, fmt.Sprintf("%d.%d", i, try))
			t.Logf("%s: %s", fault, o)
			if o.judged() {
				cases++
				break
			}
			if try == 3 {
				t.Fatal("no change was ever in flight when the leader was lost, or no leader took over in time")
			}
		}
	}
	Minimum(t, "once", cases)
}

// onces are what came of the changes of one run.
type onces struct {
	t *testing.T
	// made, refused and across count changes; across those that were in flight when the leader was lost.
	made, refused, across atomic.Int32
	lost                  atomic.Int64    // when, in nanoseconds since 1970
	served                [2]atomic.Int64 // when the gateways acknowledged something made after that

	mu       sync.Mutex
	unspoken []string // what was made and refused
}

// oncePatience is less than the time for which a gateway asks again (remote.Patience). Where nobody led for longer, what it
// had in flight is refused, made or not.
const oncePatience = 4 * time.Second

// judged reports whether the run says anything: changes were in flight, and there was somebody to answer them in time. It
// reports those made and refused as errors then.
func (o *onces) judged() bool {
	for i := range o.served {
		if d := time.Duration(o.served[i].Load() - o.lost.Load()); d < 0 || d > oncePatience {
			o.t.Logf("void: gateway %d was without a leader for %v", i, d)
			return false
		}
	}
	for _, s := range o.unspoken {
		o.t.Error(s)
	}
	return o.across.Load() > 0
}

func (o *onces) String() string {
	return fmt.Sprintf("%d changes made, %d refused, %d in flight at the fault", o.made.Load(), o.refused.Load(), o.across.Load())
}

// once changes names through both gateways while the leader is lost.
func (c *cluster) once(t *testing.T, dir, fault, run string) *onces {
	o := &onces{t: t}
	leader := c.leader(t, dir)
	var stop atomic.Bool
	var writers sync.WaitGroup
	for w := range onceWriters {
		r := newRig(&Server{S3: c.S3[w%2], WebHDFS: c.WebHDFS[w%2]})
		place := []string{"/once", "/lake"}[w/2%2]
		size := []int64{100, 200_000}[w/4%2] // with its names, and with a stream
		writers.Go(func() {
			for n := 0; !stop.Load(); n++ {
				o.life(r, w%2, fmt.Sprintf("%s/%s/%d-%d", place, run, w, n), size)
			}
		})
	}
	time.Sleep(500 * time.Millisecond)
	o.lost.Store(time.Now().UnixNano())
	if fault == "kill" {
		leader.kill(t)
		time.Sleep(3 * time.Second)
	} else {
		leader.stop(t, 5*time.Second)
		time.Sleep(500 * time.Millisecond)
	}
	stop.Store(true)
	writers.Wait()
	if fault == "kill" {
		leader.pid = leader.restart(t, 0)
	}
	c.serves(t)
	return o
}

// life takes a name from its making to its end. It stops at the first change that is refused.
func (o *onces) life(r *rig, gateway int, name string, size int64) {
	x := content{name, 0, size}
	tail := content{name + " tail", 0, 10}
	bucket, key := bucketKey(name)
	made := func(path string, all ...content) func(ctx context.Context) bool {
		return func(ctx context.Context) bool { _, _, err := r.get(ctx, path, all...); return err == nil }
	}
	yes := func(b []byte, err error) error {
		if err == nil && !strings.Contains(string(b), "true") {
			err = fmt.Errorf("the answer is %s", b)
		}
		return err
	}
	change := func(what string, do func(ctx context.Context) error, is func(ctx context.Context) bool) bool {
		return o.change(gateway, what, do, is)
	}
	_ = change("create "+name, func(ctx context.Context) error {
		_, err := r.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: key, Body: x.reader(), ContentLength: &size, IfNoneMatch: aws.String("*")})
		return err
	}, made(name, x)) &&
		change("append "+name, func(ctx context.Context) error {
			_, err := r.hdfs(ctx, "POST", name, "APPEND", "", tail.reader(), tail.size)
			return err
		}, made(name, x, tail)) &&
		change("rename "+name, func(ctx context.Context) error {
			return yes(r.hdfs(ctx, "PUT", name, "RENAME", "destination="+name+".moved", nil, 0))
		}, made(name+".moved", x, tail)) &&
		change("delete "+name, func(ctx context.Context) error {
			return yes(r.hdfs(ctx, "DELETE", name+".moved", "DELETE", "", nil, 0))
		}, func(ctx context.Context) bool { return !made(name+".moved", x, tail)(ctx) })
}

// change makes one change. It reports whether it was made; is says, some time later, whether it shows.
func (o *onces) change(gateway int, what string, do func(ctx context.Context) error, is func(ctx context.Context) bool) bool {
	ctx, cancel := context.WithTimeout(o.t.Context(), 30*time.Second)
	defer cancel()
	start := time.Now()
	err := do(ctx)
	if o.lost.Load() > start.UnixNano() {
		o.across.Add(1)
	}
	if err == nil {
		if lost := o.lost.Load(); lost != 0 && start.UnixNano() > lost {
			o.served[gateway].CompareAndSwap(0, time.Now().UnixNano())
		}
		o.made.Add(1)
		if !is(ctx) {
			o.t.Errorf("%s: acknowledged, and not there", what)
		}
		return true
	}
	o.refused.Add(1)
	if !unavailable(err) {
		o.t.Errorf("%s: got %v, and nobody else changes the name", what, err)
		return false
	}
	settled := time.Now().Add(3 * time.Second) // what was refused is not made later either
	for ; time.Now().Before(settled); time.Sleep(100 * time.Millisecond) {
		if is(ctx) {
			o.mu.Lock()
			o.unspoken = append(o.unspoken, fmt.Sprintf("%s: refused (%v) and made", what, err))
			o.mu.Unlock()
			return false
		}
	}
	return false
}

// unavailable reports whether an answer says to ask again later, and nothing else.
func unavailable(err error) bool {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode() == "ServiceUnavailable" || api.ErrorCode() == "SlowDown"
	}
	if h, ok := errors.AsType[*hdfsError](err); ok {
		return h.Exception == "RetriableException"
	}
	return false
}
