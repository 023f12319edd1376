package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// behindSetting is a way in which a mount is kept true to a store that others change.
type behindSetting struct {
	name    string
	options string // of the mount
	// tell has readers see the changed paths, of the mount at the path; that alone does so if keeps is set.
	tell  func(t *testing.T, e *etl, at string, changed []string)
	keeps bool
	feed  bool // the store tells Sluice
}

var behindSettings = []behindSetting{
	{name: "interval 0", options: "sync_interval=0", tell: func(*testing.T, *etl, string, []string) {}},
	{name: "interval 1s", options: "sync_interval=1s", tell: func(*testing.T, *etl, string, []string) { time.Sleep(time.Second) }},
	{name: "sync", options: "sync_interval=-1", keeps: true, tell: func(t *testing.T, e *etl, at string, _ []string) {
		if out, err := sluice(t, e.Admin, "sync", at, "--recursive"); err != nil {
			t.Fatalf("%v\n%.1000s", err, out)
		}
	}},
	{name: "invalidate", options: "sync_interval=-1", keeps: true, tell: func(t *testing.T, e *etl, at string, changed []string) {
		for some := range slices.Chunk(changed, 500) {
			args := []string{"invalidate"}
			for _, name := range some {
				args = append(args, at+"/"+name)
			}
			if _, err := sluice(t, e.Admin, args...); err != nil {
				t.Fatal(err)
			}
		}
	}},
	{name: "events", options: "sync_interval=-1", feed: true, tell: func(t *testing.T, e *etl, at string, _ []string) {
		began := time.Now()
		e.store.told(t, e, at)
		t.Logf("the store's events were there after %v", time.Since(began).Round(time.Millisecond))
	}},
}

// behindStore is a store that is changed directly.
type behindStore struct {
	mount  func(path, options string) string // the value of --mount
	put    func(name string, data []byte) error
	remove func(name string) error
	// rename is one call where a store has it, else it is nil; removeDir likewise.
	rename    func(from, to string) error
	removeDir func(name string) error

	events string                                // options of a mount whose feed it has
	begin  func(e *etl)                          // the feed, once Sluice runs
	told   func(t *testing.T, e *etl, at string) // waits until it has told what was done until now
}

// directoryBehind is a local directory. Files are written beside and renamed, as those do who do not want readers to see half a file.
func directoryBehind(t *testing.T) *behindStore {
	dir, beside := t.TempDir(), t.TempDir() // what is half written lies where readers do not see it
	var written atomic.Int64
	at := func(name string) string { return filepath.Join(dir, name) }
	return &behindStore{
		mount: func(path, options string) string { return path + "=file://" + dir + "," + options },
		put: func(name string, data []byte) error {
			if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
				return err
			}
			half := filepath.Join(beside, fmt.Sprint(written.Add(1)))
			if err := os.WriteFile(half, data, 0o644); err != nil {
				return err
			}
			return os.Rename(half, at(name))
		},
		remove:    func(name string) error { return os.Remove(at(name)) },
		rename:    func(from, to string) error { return os.Rename(at(from), at(to)) },
		removeDir: func(name string) error { return os.RemoveAll(at(name)) },
		events:    "events=inotify",
		begin:     func(*etl) {},
		told: func(t *testing.T, e *etl, mount string) {
			// The kernel tells in order: who has seen a file come, and then go, has heard all that was told before.
			see := func(there bool) {
				eventually(t, time.Minute, func() error {
					if _, err := e.get(t, mount, "last", true); errors.Is(err, fs.ErrNotExist) == there {
						return fmt.Errorf("the last file is not as it was told: %v", err)
					}
					return nil
				})
			}
			if err := os.WriteFile(at("last"), []byte("last"), 0o644); err != nil {
				t.Fatal(err)
			}
			see(true)
			if err := os.Remove(at("last")); err != nil {
				t.Fatal(err)
			}
			see(false)
		},
	}
}

// notifier is a queue between a store and Sluice: it takes every notification, and delivers it until it is taken.
type notifier struct {
	url   string
	queue chan []byte

	mu              sync.Mutex
	came, delivered int
	other           string // what was answered but 200
}

const eventsToken = "token-of-a-bucket's-notifier"

func startNotifier(t *testing.T) *notifier {
	n := &notifier{queue: make(chan []byte, 1<<17)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.url = "http://" + l.Addr().String()
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err == nil && bytes.Contains(b, []byte("Records")) {
			n.mu.Lock()
			n.came++
			n.mu.Unlock()
			n.queue <- b
		}
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return n
}

// drop waits for so many notifications and forgets them.
func (n *notifier) drop(t *testing.T, count int) {
	t.Helper()
	eventually(t, 2*time.Minute, func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.came < count {
			return fmt.Errorf("%d of %d notifications came", n.came, count)
		}
		return nil
	})
	for range count {
		<-n.queue
	}
	n.came -= count
}

// deliver hands on what comes.
func (n *notifier) deliver(t *testing.T, admin string) {
	for range 8 {
		go func() {
			for b := range n.queue {
				for t.Context().Err() == nil {
					r, _ := http.NewRequestWithContext(t.Context(), "POST", admin+"/api/v1/events/s3", bytes.NewReader(b))
					r.Header.Set("Authorization", "Bearer "+eventsToken)
					resp, err := http.DefaultClient.Do(r)
					if err != nil {
						continue
					}
					text, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					n.mu.Lock()
					if resp.StatusCode != http.StatusOK {
						n.other = fmt.Sprintf("%d %.300s", resp.StatusCode, text)
					} else {
						n.delivered++
					}
					n.mu.Unlock()
					if resp.StatusCode == http.StatusOK {
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
			}
		}()
	}
}

// wait returns once so many notifications were taken.
func (n *notifier) wait(t *testing.T, count int) {
	t.Helper()
	eventually(t, 2*time.Minute, func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.delivered < count {
			return fmt.Errorf("%d of %d notifications were taken; the last other answer: %s", n.delivered, count, n.other)
		}
		return nil
	})
}

// bucketBehind is a bucket of versitygw.
func bucketBehind(t *testing.T) *behindStore {
	n := startNotifier(t)
	server := StartVersitygw(t, "--event-webhook-url", n.url)
	bucket := "under"
	makeBucket(t, server, bucket)
	c := sdk(server.URL, server.AccessKey, server.SecretKey, &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}})
	return &behindStore{
		mount: func(path, options string) string { return server.Mount(path, bucket, ","+options) },
		put: func(name string, data []byte) error {
			_, err := c.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &name, Body: bytes.NewReader(data)})
			return err
		},
		remove: func(name string) error {
			_, err := c.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket, Key: &name})
			return err
		},
		events: "events=webhook,events_token=" + eventsToken,
		begin:  func(e *etl) { n.drop(t, len(e.before)); n.deliver(t, e.Admin) },
		told:   func(t *testing.T, e *etl, _ string) { n.wait(t, e.steps) },
	}
}

// behindFile is a version of a file. Its bytes say, in every line, which version of which file they are.
type behindFile struct {
	origin  string // the name it was written under
	version int
	size    int
}

const behindLine = 64

func (f behindFile) bytes() []byte {
	line := fmt.Sprintf("%s v%d ", f.origin, f.version)
	line += strings.Repeat(".", behindLine-1-len(line)) + "\n"
	return bytes.Repeat([]byte(line), f.size/behindLine)
}

// oneVersion returns the version that the bytes are all of; an error if they are not one whole version of what may be at the name.
func oneVersion(data []byte, may []behindFile) (int, error) {
	for i, f := range may {
		if bytes.Equal(data, f.bytes()) {
			return i, nil
		}
	}
	lines := map[string]int{}
	for line := range bytes.Lines(data) {
		lines[strings.TrimRight(string(line), ".\n ")]++
	}
	return 0, fmt.Errorf("%d bytes are none of %v: %v", len(data), may, lines)
}

// etl changes files of a store directly while others read them through Sluice.
type etl struct {
	*suite
	*rig
	store *behindStore

	before, after map[string]behindFile
	changed       []string                // paths, those of directories with a slash
	versions      map[string][]behindFile // of a file that is not always there or the same: all that may be seen
	sample        []string                // names that are read
	steps         int                     // how many changes were made

	clean, reads, other atomic.Int64 // errors, answers, answers that were another version
}

// etlPlan is how much there is, and what is done to it. The files are in directories, of which one is renamed and one removed.
type etlPlan struct{ files, dirs, adds, overwrites, deletes, every int }

func (p etlPlan) changes() int { return p.adds + p.overwrites + p.deletes + 2*(p.files/p.dirs) }

// TestBehind has a writer change 100 of 5,000 files (with SLUICE_BEHIND=1 1,000 of 100,000) directly in a store, a directory and a
// bucket: new ones, others of the same size, fewer, a directory of another name and one that is gone. The store is mounted once for
// every setting. Readers over S3 and WebHDFS see exactly what the setting promises: names, sizes and content; and while the writer is
// at work, a whole version of whatever they read.
func TestBehind(t *testing.T) {
	plan := etlPlan{files: 5000, dirs: 250, adds: 25, overwrites: 20, deletes: 15, every: 10}
	if os.Getenv("SLUICE_BEHIND") != "" {
		plan = etlPlan{files: 100_000, dirs: 1000, adds: 350, overwrites: 300, deletes: 150, every: 50}
	}
	s := newSuite(t, "behind")
	for _, x := range []struct {
		name string
		make func(t *testing.T) *behindStore
	}{{"local", directoryBehind}, {"versitygw", bucketBehind}} {
		s.part(t, x.name, func(t *testing.T) {
			(&etl{suite: s, store: x.make(t), before: map[string]behindFile{}, versions: map[string][]behindFile{}}).all(t, plan)
		})
	}
}

func (e *etl) all(t *testing.T, plan etlPlan) {
	e.fill(t, plan)
	var args []string
	at := map[string]string{}
	for i, x := range behindSettings {
		at[x.name] = fmt.Sprint("/way", i)
		options := x.options + ",read_only=true"
		if x.feed {
			options += "," + e.store.events
		}
		args = append(args, "--mount", e.store.mount(at[x.name], options))
	}
	e.rig = newRig(Start(t, Options{Args: args}))
	e.store.begin(e)
	steps := e.plan(t, plan)
	e.steps = len(steps)
	time.Sleep(50 * time.Millisecond) // older than a version may be whose pages are kept
	for _, x := range behindSettings {
		e.run(t, x.name+": as it was", func(t *testing.T) { e.look(t, at[x.name], e.before, nil) })
	}
	e.run(t, "while it changes", func(t *testing.T) { e.during(t, at, steps) })
	for _, x := range behindSettings {
		if x.keeps {
			e.run(t, x.name+": nothing is seen before", func(t *testing.T) { e.look(t, at[x.name], e.before, nil) })
		}
		e.run(t, x.name+": all is seen", func(t *testing.T) {
			x.tell(t, e, at[x.name], e.changed)
			began := time.Now()
			e.look(t, at[x.name], e.after, e.changed)
			t.Logf("seen and compared in %v", time.Since(began).Round(time.Millisecond))
		})
	}
}

// fill writes what is there before.
func (e *etl) fill(t *testing.T, plan etlPlan) {
	t.Helper()
	for i := range plan.files {
		name := fmt.Sprintf("d%04d/%04d", i%plan.dirs, i/plan.dirs)
		e.before[name] = behindFile{origin: name, size: (1 + i%7) * behindLine}
	}
	for i := range 4 { // of several pages, written again and again
		name := fmt.Sprint("hot/", i)
		e.before[name] = behindFile{origin: name, size: 5 << 19}
	}
	names := make(chan string)
	var writers sync.WaitGroup
	for range 16 {
		writers.Go(func() {
			for name := range names {
				if err := e.store.put(name, e.before[name].bytes()); err != nil {
					t.Errorf("put %s: %v", name, err)
				}
			}
		})
	}
	for name := range e.before {
		names <- name
	}
	close(names)
	writers.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// plan returns the steps of the change, and notes what they change.
func (e *etl) plan(t *testing.T, plan etlPlan) (steps []func() error) {
	t.Helper()
	e.after = maps.Clone(e.before)
	for name, f := range e.before {
		e.versions[name] = []behindFile{f}
	}
	put := func(name string, f behindFile) {
		e.after[name] = f
		e.versions[name] = append(e.versions[name], f)
		e.changed = append(e.changed, name)
		steps = append(steps, func() error { return e.store.put(name, f.bytes()) })
	}
	remove := func(name string) {
		delete(e.after, name)
		e.changed = append(e.changed, name)
		steps = append(steps, func() error { return e.store.remove(name) })
	}
	n := 0
	file := func(i int) string { // the first directories keep what is in them, the last two go
		name := fmt.Sprintf("d%04d/%04d", 10+i%(plan.dirs-20), i/(plan.dirs-20))
		if _, ok := e.before[name]; !ok {
			t.Fatalf("there is no %s", name)
		}
		n++
		return name
	}
	for i := range plan.adds {
		name := fmt.Sprintf("d%04d/new%04d", i%(plan.dirs/2), i)
		put(name, behindFile{origin: name, version: 1, size: 2 * behindLine})
		n++
	}
	for i := range plan.overwrites {
		name := file(i)
		f := e.before[name]
		f.version = 1
		put(name, f)
	}
	for i := range plan.deletes {
		remove(file(plan.overwrites + i))
	}
	moved, gone := fmt.Sprintf("d%04d/", plan.dirs-1), fmt.Sprintf("d%04d/", plan.dirs-2)
	for i := range plan.files / plan.dirs {
		from, to, f := fmt.Sprintf("%s%04d", moved, i), fmt.Sprintf("moved/%04d", i), behindFile{}
		f = e.before[from]
		if e.store.rename == nil { // others see the parts of it, as they do in the store
			put(to, f)
			remove(from)
		} else {
			e.after[to], e.versions[to] = f, []behindFile{f}
			delete(e.after, from)
		}
		name := fmt.Sprintf("%s%04d", gone, i)
		if delete(e.after, name); e.store.removeDir == nil {
			steps = append(steps, func() error { return e.store.remove(name) })
		}
		n += 2
	}
	e.changed = append(e.changed, moved, "moved/", gone)
	if e.store.rename != nil {
		steps = append(steps, func() error { return e.store.rename(moved, "moved") }, func() error { return e.store.removeDir(gone) })
	}
	equal(t, "changes", n, plan.changes())
	rand.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	for version := 1; version <= 3; version++ {
		for i := range 4 {
			f := e.before[fmt.Sprint("hot/", i)]
			f.version = version
			at := len(steps) * version / 4
			put(f.origin, f)
			last := steps[len(steps)-1]
			steps = slices.Insert(steps[:len(steps)-1], at, last)
		}
	}
	all := maps.Clone(e.before)
	maps.Copy(all, e.after)
	i := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		b, was := e.before[name]
		a, is := e.after[name]
		if i++; b != a || was != is || i%plan.every == 0 {
			e.sample = append(e.sample, name)
		}
	}
	return steps
}

// during makes the changes while readers are at work on all mounts.
func (e *etl) during(t *testing.T, at map[string]string, steps []func() error) {
	done := make(chan struct{})
	stop := sync.OnceFunc(func() { close(done) })
	var readers sync.WaitGroup
	defer readers.Wait()
	defer stop()
	for _, x := range behindSettings {
		for k := range 2 {
			readers.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-done:
						return
					default:
					}
					name := e.sample[rand.IntN(len(e.sample))]
					if i%10 == 0 {
						name = fmt.Sprint("hot/", rand.IntN(4))
					}
					if err := e.check(t, at[x.name], name, k == 0, x.keeps); err != nil {
						t.Errorf("%s: %s: %v", x.name, name, err)
					}
				}
			})
		}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			t.Error(err)
		}
		seen := func() int64 { return e.reads.Load() + e.clean.Load() }
		for from, until := seen(), time.Now().Add(30*time.Second); seen() < from+5; time.Sleep(time.Millisecond) { // not before the readers had a look
			if time.Now().After(until) {
				t.Fatal("the readers get no answers")
			}
		}
	}
	stop()
	readers.Wait()
	t.Logf("%d answers, %d of them of what was changed, %d clean errors", e.reads.Load(), e.other.Load(), e.clean.Load())
	if e.other.Load() == 0 || e.clean.Load() > e.reads.Load()/10 {
		t.Errorf("%d answers, %d of what was changed, %d errors", e.reads.Load(), e.other.Load(), e.clean.Load())
	}
}

// check reads a file while it may change. keeps says that nothing but what was there before may be seen.
func (e *etl) check(t *testing.T, at, name string, overS3, keeps bool) error {
	data, err := e.get(t, at, name, overS3)
	_, was := e.before[name]
	_, is := e.after[name]
	if keeps {
		if was != (err == nil) || !was && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("it was there: %v, now: %v", was, err)
		}
		if e.reads.Add(1); !was {
			return nil
		}
		_, err = oneVersion(data, []behindFile{e.before[name]})
		return err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && (!was || !is):
		e.reads.Add(1)
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("it is never gone, and was not there")
	case err != nil: // the version went while it was read, and that was said
		if e.clean.Add(1); !errors.Is(err, errNoAnswer) {
			return err
		}
		return nil
	}
	e.reads.Add(1)
	i, err := oneVersion(data, e.versions[name])
	if i > 0 {
		e.other.Add(1)
	}
	return err
}

// look compares all that readers see with what they are to see: every name with its size, the samples by content, and that of the
// changed directories those that are gone are not there.
func (e *etl) look(t *testing.T, at string, want map[string]behindFile, changed []string) {
	t.Helper()
	for _, dir := range changed {
		if strings.HasSuffix(dir, "/") && dir != "moved/" {
			if _, err := e.hdfs(t, at+"/"+strings.TrimSuffix(dir, "/"), "LISTSTATUS"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is gone, and is listed with %v", dir, err)
			}
		}
	}
	bucket := at[1:]
	var listed []string
	pages := s3.NewListObjectsV2Paginator(e.s3, &s3.ListObjectsV2Input{Bucket: &bucket})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Contents {
			if name := aws.ToString(o.Key); !strings.HasSuffix(name, "/") {
				listed = append(listed, name)
				if f, ok := want[name]; ok && aws.ToInt64(o.Size) != int64(f.size) {
					t.Errorf("%s is listed with %d bytes, want %d", name, aws.ToInt64(o.Size), f.size)
				}
			}
		}
	}
	if names := slices.Sorted(maps.Keys(want)); !slices.Equal(listed, names) {
		t.Errorf("%d files are listed, want %d: %s", len(listed), len(names), firstDifference(listed, names))
	}
	names := make(chan string)
	var readers sync.WaitGroup
	var wrong atomic.Int64
	for i := range 8 {
		readers.Go(func() {
			for name := range names {
				got, err := e.get(t, at, name, i%2 == 0)
				f, there := want[name]
				if err == nil && there {
					_, err = oneVersion(got, []behindFile{f})
				} else if errors.Is(err, fs.ErrNotExist) && !there {
					err = nil
				} else if err == nil {
					err = fmt.Errorf("it is not there, and holds %.100q", got)
				}
				if err != nil && wrong.Add(1) < 10 {
					t.Errorf("%s/%s: %v", at, name, err)
				}
			}
		})
	}
	for _, name := range e.sample {
		names <- name
	}
	close(names)
	readers.Wait()
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d of %d files were not what they are to be", n, len(e.sample))
	}
}

// errNoAnswer is an answer that says of itself that it is none, by its status or by its end.
var errNoAnswer = errors.New("no answer")

// get reads a file over S3 or over WebHDFS: fs.ErrNotExist, errNoAnswer.
func (e *etl) get(t *testing.T, at, name string, overS3 bool) ([]byte, error) {
	if !overS3 {
		return e.hdfs(t, at+"/"+name, "OPEN")
	}
	return e.send(t, e.request("GET", escapePath(at+"/"+name), nil))
}

// hdfs makes a request of WebHDFS, and follows where it leads.
func (e *etl) hdfs(t *testing.T, path, op string) ([]byte, error) {
	return e.send(t, e.webhdfs("GET", escapePath(path), op, "", nil))
}

func (e *etl) send(t *testing.T, q raw) ([]byte, error) {
	r, err := q.build(t.Context())
	if err != nil {
		return nil, err
	}
	resp, err := e.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	case resp.StatusCode == http.StatusNotFound:
		return nil, fs.ErrNotExist
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: %s: %.200s", errNoAnswer, resp.Status, body)
	}
	return body, nil
}

func firstDifference(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("%q where %q is wanted", got[i], want[i])
		}
	}
	return "the one goes on where the other ends"
}
