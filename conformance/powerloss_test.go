package conformance

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// answers counts the responses that a client has had.
type answers struct {
	http.RoundTripper
	n atomic.Int64
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := a.RoundTripper.RoundTrip(r)
	if err == nil {
		a.n.Add(1)
	}
	return resp, err
}

// promise is what a server has acknowledged with the answer of that number.
type promise struct {
	what   string
	answer int64
	world  world
	facts  []fact
	boot   bool // a server is started on what a power failure would leave
}

// fact is something else that must hold.
type fact struct {
	name  string
	check func(*rig) error
}

// history is a run of the server whose system calls are recorded.
type history struct {
	*testing.T
	rig      *rig
	base     string // holds the data directory and the mounted store
	count    *answers
	world    world
	facts    []fact
	promises []promise
	calls    []*call
	boots    int
}

// do makes a change and notes what was promised with its answer.
func (h *history) do(what string, next world, f func() error) {
	h.Helper()
	if err := f(); err != nil {
		h.Fatalf("%s: %v", what, err)
	}
	h.world = next
	h.promises = append(h.promises, promise{what, h.count.n.Load(), maps.Clone(next), slices.Clone(h.facts), false})
}

// boot makes the last promise one that is checked by a server.
func (h *history) boot() { h.promises[len(h.promises)-1].boot = true }

// fact adds what must hold from the next promise on, in place of an earlier fact of the name.
func (h *history) fact(name string, check func(*rig) error) {
	h.facts = slices.DeleteFunc(slices.Clone(h.facts), func(f fact) bool { return f.name == name })
	if check != nil {
		h.facts = append(h.facts, fact{name, check})
	}
}

func (h *history) put(path string, gen int, size int64) {
	h.Helper()
	c := content{path, gen, size}
	o := object{[]content{c}, hex.EncodeToString(digest(c))}
	h.do("PutObject "+path, h.world.with(path, o), func() error {
		_, err := h.rig.put(h.Context(), path, c)
		return err
	})
}

func (h *history) hdfs(next world, method, path, op, params string, body *content) {
	h.Helper()
	h.do(op+" "+path, next, func() error {
		var b []byte
		var err error
		if body != nil {
			_, err = h.rig.hdfs(h.Context(), method, path, op, params, body.reader(), body.size)
			return err
		}
		b, err = h.rig.hdfs(h.Context(), method, path, op, params, nil, 0)
		if err == nil && string(b) == `{"boolean":false}` {
			err = errors.New("answered false")
		}
		return err
	})
}

// run makes every kind of change below the bucket dir.
func (h *history) run(dir string) {
	h.Helper()
	at := func(name string) string { return dir + "/" + name }
	h.put(at("a"), 1, 10_000)
	h.put(at("p/q/r/deep"), 1, 1)
	h.put(at("p/q/other"), 1, 70_000)
	h.put(at("a"), 2, 12_345)
	h.put(at("empty"), 1, 0)

	meta := content{at("meta"), 1, 999}
	h.fact("metadata of "+meta.name, func(r *rig) error {
		b, k := bucketKey(meta.name)
		out, err := r.s3.HeadObject(context.Background(), &s3.HeadObjectInput{Bucket: b, Key: k})
		if err == nil && (out.Metadata["colour"] != "blue" || aws.ToString(out.ContentType) != "text/x-power") {
			err = fmt.Errorf("got %v, %s", out.Metadata, aws.ToString(out.ContentType))
		}
		return err
	})
	h.do("PutObject with metadata", h.world.with(meta.name, object{[]content{meta}, hex.EncodeToString(digest(meta))}), func() error {
		b, k := bucketKey(meta.name)
		_, err := h.rig.s3.PutObject(h.Context(), &s3.PutObjectInput{Bucket: b, Key: k, Body: meta.reader(),
			Metadata: map[string]string{"colour": "blue"}, ContentType: aws.String("text/x-power")})
		return err
	})

	h.multipart(at("multi"), true)
	h.multipart(at("open"), false)
	h.do("CopyObject", h.world.with(at("copy"), h.world[at("multi")]), func() error {
		b, k := bucketKey(at("copy"))
		_, err := h.rig.s3.CopyObject(h.Context(), &s3.CopyObjectInput{Bucket: b, Key: k, CopySource: aws.String(at("multi")[1:])})
		return err
	})
	w := h.world.with(at("copy"), object{parts: h.world[at("multi")].parts}) // whose ETag depends on how it was copied
	h.world = w

	f := content{at("h/f"), 1, 5000}
	h.hdfs(h.world.with(f.name, object{parts: []content{f}}), "PUT", f.name, "CREATE", "", &f)
	for gen := range 2 {
		tail := content{f.name, 10 + gen, 3000}
		h.hdfs(h.world.with(f.name, object{parts: append(slices.Clone(h.world[f.name].parts), tail)}), "POST", f.name, "APPEND", "", &tail)
	}
	h.fact("the directory "+at("h/made/dir"), func(r *rig) error {
		_, err := r.hdfs(context.Background(), "GET", at("h/made/dir"), "GETFILESTATUS", "", nil, 0)
		return err
	})
	h.hdfs(h.world, "PUT", at("h/made/dir"), "MKDIRS", "", nil)
	h.status(at("h/made/dir"), "permission", "750", "SETPERMISSION", "permission=750")
	h.status(f.name, "permission", "600", "SETPERMISSION", "permission=600")
	h.status(f.name, "owner", "someone", "SETOWNER", "owner=someone")
	h.status(f.name, "modificationTime", "1234567890000", "SETTIMES", "modificationtime=1234567890000")
	h.status(f.name, "replication", "3", "SETREPLICATION", "replication=3")
	h.boot()
	for _, name := range []string{"permission", "owner", "modificationTime", "replication"} {
		h.fact(name+" of "+f.name, nil)
	}
	h.hdfs(h.world.moved(f.name, at("h/g")), "PUT", f.name, "RENAME", "destination="+at("h/g"), nil)
	h.hdfs(h.world.moved(at("p/q"), at("h/q")), "PUT", at("p/q"), "RENAME", "destination="+at("h/q"), nil)
	h.hdfs(h.world.without(at("h/g")), "DELETE", at("h/g"), "DELETE", "", nil)
	h.hdfs(h.world.without(at("h/q")), "DELETE", at("h/q"), "DELETE", "recursive=true", nil)
	h.do("DeleteObject", h.world.without(at("copy")), func() error {
		b, k := bucketKey(at("copy"))
		_, err := h.rig.s3.DeleteObject(h.Context(), &s3.DeleteObjectInput{Bucket: b, Key: k})
		return err
	})
}

// status changes an attribute that GETFILESTATUS shows.
func (h *history) status(path, field, want, op, params string) {
	h.Helper()
	h.fact(field+" of "+path, func(r *rig) error {
		b, err := r.hdfs(context.Background(), "GET", path, "GETFILESTATUS", "", nil, 0)
		if err != nil {
			return err
		}
		var doc struct{ FileStatus map[string]json.RawMessage }
		if err := json.Unmarshal(b, &doc); err != nil {
			return err
		}
		if got := strings.Trim(string(doc.FileStatus[field]), `"`); got != want {
			return fmt.Errorf("got %s, want %s", got, want)
		}
		return nil
	})
	h.hdfs(h.world, "PUT", path, op, params, nil)
}

func (h *history) multipart(path string, complete bool) {
	h.Helper()
	b, k := bucketKey(path)
	u := &upload{path: path, parts: map[int32]content{1: {path + " part 1", 1, 5 << 20}, 2: {path + " part 2", 1, 1000}}}
	h.do("CreateMultipartUpload "+path, h.world, func() error {
		out, err := h.rig.s3.CreateMultipartUpload(h.Context(), &s3.CreateMultipartUploadInput{Bucket: b, Key: k})
		if err == nil {
			u.id = *out.UploadId
		}
		return err
	})
	o, list := u.object()
	finish := func(r *rig) error {
		out, err := r.s3.CompleteMultipartUpload(context.Background(), &s3.CompleteMultipartUploadInput{
			Bucket: b, Key: k, UploadId: &u.id, MultipartUpload: &types.CompletedMultipartUpload{Parts: list},
		})
		if err == nil && strings.Trim(*out.ETag, `"`) != o.etag {
			err = fmt.Errorf("got ETag %s, want %s", *out.ETag, o.etag)
		}
		if err == nil {
			_, _, err = r.get(context.Background(), path, o.parts...)
		}
		return err
	}
	for n := int32(1); n <= 2; n++ {
		h.fact("parts of "+path, func(r *rig) error {
			out, err := r.s3.ListParts(context.Background(), &s3.ListPartsInput{Bucket: b, Key: k, UploadId: &u.id})
			if err == nil && len(out.Parts) != int(n) {
				err = fmt.Errorf("got %d parts, want %d", len(out.Parts), n)
			}
			return err
		})
		if n == 2 { // only completing it proves that the parts are whole; it comes last, for it ends the upload
			h.fact("completing "+path, finish)
		}
		h.do(fmt.Sprintf("UploadPart %d of %s", n, path), h.world, func() error {
			c := u.parts[n]
			_, err := h.rig.s3.UploadPart(h.Context(), &s3.UploadPartInput{Bucket: b, Key: k, UploadId: &u.id, PartNumber: &n, Body: c.reader(), ContentLength: &c.size}, unsigned(c.size))
			return err
		})
	}
	h.boot()
	if complete {
		h.fact("parts of "+path, nil)
		h.fact("completing "+path, nil)
		h.do("CompleteMultipartUpload "+path, h.world.with(path, o), func() error { return finish(h.rig) })
		return
	}
}

// record runs the server under strace and makes the changes.
func record(t *testing.T) *history {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(base, "store"), 0o755); err != nil {
		t.Fatal(err)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	o := lossyOptions(t, base)
	o.Exec = []string{Strace(t), "-f", "-xx", "-yy", "--seccomp-bpf", "-s", "10000000", "-o", trace, "-e", "trace=" + lossyCalls, "-e", "signal=none"}
	h := &history{T: t, base: base, rig: newRig(Start(t, o)), world: world{}}
	h.count = &answers{RoundTripper: h.rig.http.Transport}
	if err := h.rig.useKept(o.Data); err != nil {
		t.Fatal(err)
	}
	h.rig.mount(t, "/mnt", "file://"+filepath.Join(base, "store"))
	h.rig.http.Transport = h.count
	h.fact("the mount", func(r *rig) error {
		var doc struct {
			Items []struct{ Path, State string }
		}
		resp, err := r.send(context.Background(), raw{method: "GET", base: r.Admin, target: "/api/v1/mounts", user: r.access, password: r.secret, header: http.Header{}})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
			return err
		}
		for _, m := range doc.Items {
			if m.Path == "/mnt" && m.State == "ready" {
				return nil
			}
		}
		return fmt.Errorf("not there: %+v", doc.Items)
	})
	h.do("CreateBucket", h.world, func() error {
		_, err := h.rig.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("power")})
		return err
	})
	h.boot()
	h.run("/power")
	h.run("/mnt")
	h.boot()
	h.killTraced()
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if h.calls, err = readTrace(f); err != nil {
		t.Fatal(err)
	}
	return h
}

// useKept uses the key pair that the server made and keeps in its data directory.
func (r *rig) useKept(data string) error {
	b, err := os.ReadFile(filepath.Join(data, "root-credentials.json"))
	if err != nil {
		return err
	}
	var kept struct {
		AccessKey string `json:"access_key"`
		SecretKey string `json:"secret_key"`
	}
	err = json.Unmarshal(b, &kept)
	r.use(kept.AccessKey, kept.SecretKey)
	return err
}

// lossyOptions have no cache that outlives the server.
func lossyOptions(t *testing.T, base string) Options {
	return Options{Data: filepath.Join(base, "data"), Tiers: true, Args: []string{"--cache-tier", "dir=" + memoryDir(t) + ",quota=64MiB,medium=mem"},
		Env: []string{"SLUICE_ROOT_ACCESS_KEY=", "SLUICE_ROOT_SECRET_KEY="}} // so that the pair is made and kept
}

// killTraced kills the server that strace runs; strace then ends by itself, with the trace written.
func (h *history) killTraced() {
	h.Helper()
	strace := h.rig.Pid()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", strace, strace))
	if err != nil {
		h.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		h.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		h.Fatal(err)
	}
	<-h.rig.exited
	h.rig.err = nil
}

// answer reports whether a call sends the header of a final response of S3 or WebHDFS.
func (h *history) answer(c *call) bool {
	if c.name != "write" && c.name != "sendmsg" || len(c.args) < 2 || c.ret == "-1" { // "?" is the last one, after which the process was killed
		return false
	}
	text := c.args[1]
	if c.name == "sendmsg" { // of the one piece that is a header section whose body follows
		_, text, _ = strings.Cut(text, "iov_base=")
	}
	const http = `"\x48\x54\x54\x50\x2f\x31\x2e\x31\x20\x3` // "HTTP/1.1 " and the 3 of a digit's code
	from := func(url string) bool { return strings.Contains(c.args[0], "["+strings.TrimPrefix(url, "http://")+"->") }
	return (from(h.rig.S3) || from(h.rig.WebHDFS)) && strings.HasPrefix(text, http) && text[len(http)] != '1'
}

// replay replays the trace without the syncs of the kind drop. At each promise it looks at what a power failure would
// leave, and calls at; it returns the first error of either.
func (h *history) replay(drop string, at func(l *lossy, n int) error) (l *lossy, lost, err error) {
	saved := h.base + ".as-it-was"
	if err := os.MkdirAll(filepath.Join(saved, "store"), 0o755); err != nil {
		return nil, nil, err
	}
	if l, err = newLossy(saved, drop, func(string) bool { return false }); err != nil {
		return nil, nil, err
	}
	l.base = h.base
	n, next, seen := int64(0), 0, map[*state]string{}
	err = l.replay(h.calls, h.answer, func() {
		n++
		for ; next < len(h.promises) && h.promises[next].answer <= n; next++ {
			if lost != nil {
				continue
			}
			if lost = h.promises[next].kept(l, seen); lost == nil && at != nil {
				lost = at(l, next)
			}
		}
	})
	if err == nil && lost == nil && next < len(h.promises) {
		err = fmt.Errorf("the trace has %d answers, the client had %d", n, h.promises[len(h.promises)-1].answer)
	}
	return l, lost, err
}

// kept reports what a power failure would take of the files that were promised. seen says what states are known to hold.
func (p promise) kept(l *lossy, seen map[*state]string) error {
	there := map[string]*state{}
	for dir, prefix := range map[string]string{"data/root": "/", "store": "/mnt/"} {
		for name, s := range l.left(dir) {
			if !strings.HasPrefix(name, ".sluice/") {
				there[prefix+name] = s
			}
		}
	}
	if got, want := sorted(there), sorted(p.world); !slices.Equal(got, want) {
		return fmt.Errorf("after %s: a power failure leaves the names %v, want %v", p.what, got, want)
	}
	for name, o := range p.world {
		if seen[there[name]] == fmt.Sprint(o.parts) {
			continue
		}
		var want []byte
		for _, c := range o.parts {
			want = append(want, c.bytes()...)
		}
		if !there[name].equal(want) {
			return fmt.Errorf("after %s: a power failure changes the bytes of %s", p.what, name)
		}
		seen[there[name]] = fmt.Sprint(o.parts)
	}
	return nil
}

// survives starts a server on what a power failure leaves after promise n and asks it for everything.
func (h *history) survives(l *lossy, n int) (err error) {
	if !h.promises[n].boot {
		return nil
	}
	h.boots++
	p := h.promises[n]
	// The mounted directory is emptied, not made again: another in its place would not be taken for it.
	kept, err := filepath.Glob(filepath.Join(h.base, "store", "*"))
	hidden, herr := filepath.Glob(filepath.Join(h.base, "store", ".*"))
	if err := errors.Join(err, herr); err != nil {
		return err
	}
	for _, path := range append(append(kept, hidden...), filepath.Join(h.base, "data")) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := l.restore(h.base); err != nil {
		return err
	}
	ok := h.Run(fmt.Sprintf("boot after %s", strings.ReplaceAll(p.what, "/", "_")), func(t *testing.T) {
		err = nil
		o := lossyOptions(t, h.base)
		o.Ports = h.rig.Server
		probe := &failing{TB: t}
		s := probe.start(o)
		if s == nil {
			err = fmt.Errorf("after %s: the server does not start: %s", p.what, probe.said)
			return
		}
		r := newRig(s)
		r.access, r.secret = h.rig.access, h.rig.secret
		r.use(r.access, r.secret)
		err = p.holds(t.Context(), r)
		s.Kill()
		s.err = nil
	})
	if !ok && err == nil {
		err = errors.New("the boot failed")
	}
	return err
}

// holds reports what of the promise a running server does not keep.
func (p promise) holds(ctx context.Context, r *rig) error {
	var keys []string
	for _, bucket := range []string{"/power/", "/mnt/"} {
		some, err := r.list(ctx, bucket)
		if err != nil {
			return fmt.Errorf("after %s: list %s: %w", p.what, bucket, err)
		}
		keys = append(keys, slices.DeleteFunc(some, func(k string) bool { return strings.HasSuffix(k, "/") })...)
	}
	slices.Sort(keys)
	if want := sorted(p.world); !slices.Equal(keys, want) {
		return fmt.Errorf("after %s: got names %v, want %v", p.what, keys, want)
	}
	for name, o := range p.world {
		etag, _, err := r.get(ctx, name, o.parts...)
		if err != nil {
			return fmt.Errorf("after %s: %w", p.what, err)
		}
		if o.etag != "" && etag != o.etag {
			return fmt.Errorf("after %s: %s: got ETag %s, want %s", p.what, name, etag, o.etag)
		}
	}
	for _, f := range p.facts {
		if err := f.check(r); err != nil {
			return fmt.Errorf("after %s: %s: %w", p.what, f.name, err)
		}
	}
	if _, err := r.put(ctx, "/power/after the failure", content{"after", 1, 100}); err != nil {
		return fmt.Errorf("after %s: a new object: %w", p.what, err)
	}
	return nil
}

// failing starts a server that may not start.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	panic(f)
}

func (f *failing) start(o Options) (s *Server) {
	defer func() {
		if why := recover(); why != nil && why != any(f) {
			panic(why)
		}
	}()
	return Start(f, o)
}

const fromLog = "etcd makes its database again out of the log, which goes back to the beginning as long as it is short"

const oneLeader = "who led last is remembered for leaders that were paused, of which a process that is alone has none"

const secondCopy = "a snapshot of the journal is a second copy of what the journal has"

// spare are the syncs that no acknowledgement rests on, each with the reason.
var spare = map[string]string{
	"directory STORE/* after nothing":    "a change that was made again where it had been made before",
	"directory STORE/* after attributes": "the journal holds the attributes of a directory too; the store's are for who reads it without the journal",
	"file STORE/.sluice/uploads/*/attr":  "the journal holds the attributes of an upload too, and names them again when it completes",
	"directory data after file+gone": "of the key pair; the making of etcd's directory beside it, which comes before anything can be" +
		" acknowledged, syncs the same directory",
	"directory data after nothing":                                        secondCopy,
	"directory data/backups after file+gone":                              secondCopy,
	"file data/backups/*":                                                 secondCopy,
	"directory data/held after file+gone":                                 oneLeader,
	"file data/held/reigns.new":                                           oneLeader,
	"directory data/etcd/member/snap after file+gone":                     fromLog,
	"file data/etcd/member/snap/db":                                       fromLog,
	"file data/etcd/member/wal.tmp/0000000000000000-0000000000000000.wal": "the sync of the first record covers the head of the log",
}

// TestPowerLoss checks that what is acknowledged survives a power failure that drops everything not synced, at every
// acknowledgement; and that each kind of sync the server makes is needed for that, or listed with the reason why not.
func TestPowerLoss(t *testing.T) {
	h := record(t)
	l, lost, err := h.replay("", h.survives)
	if err != nil {
		t.Fatal(err)
	}
	if lost != nil {
		t.Fatalf("with every sync: %v", lost)
	}
	t.Logf("%d system calls, %d acknowledgements, %d boots", len(h.calls), len(h.promises), h.boots)
	for _, kind := range sorted(l.seen) {
		if why, ok := spare[kind]; ok {
			t.Logf("not tried: the %d syncs of %s: %s", l.seen[kind], kind, why)
			continue
		}
		_, lost, err := h.replay(kind, nil)
		if err == nil && lost == nil {
			_, lost, err = h.replay(kind, h.survives)
		}
		switch {
		case err != nil:
			t.Errorf("without the %d syncs of %s: %v", l.seen[kind], kind, err)
		case lost == nil:
			t.Errorf("without the %d syncs of %s nothing is lost: they are not needed, or nothing shows that they are", l.seen[kind], kind)
		default:
			t.Logf("without the %d syncs of %s: %.200v", l.seen[kind], kind, lost)
		}
	}
	for kind := range spare {
		if l.seen[kind] == 0 {
			t.Errorf("there is no sync of %s any more", kind)
		}
	}
	Minimum(t, "powerloss", len(h.promises)+len(l.seen))
}
