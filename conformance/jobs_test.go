package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestJobs loads files into caches, counts what is there, reads them, and frees them: in one process, and in a cluster. What is
// said to be cached is: it is read without a call of the store, and even once the store has lost it.
func TestJobs(t *testing.T) {
	cases := 0
	t.Run("one process", func(t *testing.T) {
		lake := t.TempDir()
		s := Start(t, Options{Args: []string{"--mount", "/lake=file://" + lake + ",sync_interval=-1", "--mount", "/raw=file://" + uncached(t) + ",read_type=NO_CACHE"}})
		j := &jobs{T: t, admin: s.Admin, metrics: []string{s.Admin}, gateways: []string{s.Admin}, lake: lake, rigs: []*rig{newRig(s)}, workers: 1}
		j.all()
		j.step("unpin", j.unpin)
		cases += j.cases
	})
	t.Run("cluster", func(t *testing.T) {
		lake := t.TempDir()
		c, dir := startCluster(t, "--mount", "/lake=file://"+lake+",sync_interval=-1", "--mount", "/raw=file://"+uncached(t)+",read_type=NO_CACHE")
		time.Sleep(2 * time.Second) // all processes know each other then
		j := &jobs{T: t, admin: c.Admin[0], metrics: adminsOf(t, dir), gateways: c.Admin, lake: lake, workers: 3}
		for i := range c.S3 {
			j.rigs = append(j.rigs, newRig(&Server{S3: c.S3[i], WebHDFS: c.WebHDFS[i], Admin: c.Admin[i]}))
		}
		j.all()
		j.step("what is pinned stays so under another leader, in its next version too", j.pinned)
		j.step("unpin", j.unpin)
		j.step("a job ends with its leader", func() error {
			id, err := sluice(t, j.admin, "cache", "load", "--detach", "/lake")
			if err != nil {
				return err
			}
			var to struct{ To string }
			mustSluice(t, j.admin, &to, "master", "handover")
			if _, err := sluice(t, j.admin, "job", "watch", strings.TrimSpace(id)); err == nil || !strings.Contains(err.Error(), "run it again") {
				return fmt.Errorf("the next leader says of it: %v", err)
			}
			_, err = sluice(t, j.admin, "cache", "load", "/lake")
			return err
		})
		j.step("replication_min has two workers keep what is below a path", j.copies)
		cases += j.cases
	})
	Minimum(t, "jobs", cases)
}

// uncached returns a store of two files, an empty one and one that is not.
func uncached(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, x := range []struct{ name, text string }{{"empty", ""}, {"bytes", "text"}} {
		file, old := filepath.Join(dir, x.name), time.Now().Add(-time.Hour)
		if err := os.WriteFile(file, []byte(x.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, old, old); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// adminsOf returns the admin URLs of all processes of a cluster.
func adminsOf(t *testing.T, dir string) (urls []string) {
	t.Helper()
	flag := regexp.MustCompile(`--admin-listen ([0-9.:]+)`)
	for _, name := range []string{"m1", "m2", "m3", "w1", "w2", "w3", "g1", "g2"} {
		b, err := os.ReadFile(filepath.Join(dir, "start-"+name))
		if err != nil {
			t.Fatal(err)
		}
		found := flag.FindSubmatch(b)
		if found == nil {
			t.Fatalf("%s has no admin address:\n%s", name, b)
		}
		urls = append(urls, "http://"+string(found[1]))
	}
	return urls
}

type jobs struct {
	*testing.T
	admin    string
	metrics  []string // admin URLs of all processes
	gateways []string // those of the rigs
	lake     string   // the store
	rigs     []*rig
	workers  int
	files    map[string]content // by path
	cases    int
}

func (j *jobs) step(name string, f func() error) {
	j.Run(name, func(t *testing.T) {
		if err := f(); err != nil {
			t.Error(err)
		}
	})
	j.cases++
}

// fill writes files into the store.
func (j *jobs) fill() {
	j.files = map[string]content{}
	for i, name := range []string{"empty", "one", "small", "page", "more", "sub/large", "sub/deep/x", "sub/tiny"} {
		is := content{"lake", i, []int64{0, 1, 4 << 10, 1 << 20, 5<<20 + 3, 66<<20 + 1, 3 << 20, 77}[i]}
		file := filepath.Join(j.lake, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			j.Fatal(err)
		}
		if err := os.WriteFile(file, is.bytes(), 0o644); err != nil {
			j.Fatal(err)
		}
		j.files["/lake/"+name] = is
	}
}

// residency is what sluice cache stat says.
type residency struct {
	Percent                                        float64
	Files, Whole_files, Bytes, Cached_bytes        int64
	Pages, Cached_pages, Elsewhere_pages, Failures int64
	Short_pages                                    int64
	Workers                                        []struct {
		Worker, Why  string
		Pages, Bytes int64
		Tiers        []struct {
			Medium       string
			Pages, Bytes int64
		}
	}
}

func (j *jobs) stat(path string) (r residency) {
	mustSluice(j.T, j.admin, &r, "cache", "stat", path)
	return r
}

// expect compares what is cached below path, as the workers say, with the files below it, of which those that cached names are.
func (j *jobs) expect(path string, cached func(name string) bool) error {
	var want residency
	for name, is := range j.files {
		if !strings.HasPrefix(name, path) {
			continue
		}
		pages := (is.size + 1<<20 - 1) / (1 << 20)
		want.Files, want.Bytes, want.Pages = want.Files+1, want.Bytes+is.size, want.Pages+pages
		if cached(name) {
			want.Cached_bytes, want.Cached_pages = want.Cached_bytes+is.size, want.Cached_pages+pages
		}
		if cached(name) || is.size == 0 {
			want.Whole_files++
		}
	}
	got := j.stat(path)
	var pages, bytes, tiers int64
	for _, w := range got.Workers {
		pages, bytes = pages+w.Pages, bytes+w.Bytes
		for _, t := range w.Tiers {
			tiers += t.Pages
		}
		if w.Why != "" {
			return fmt.Errorf("%s was not asked: %s", w.Worker, w.Why)
		}
	}
	if got.Files != want.Files || got.Bytes != want.Bytes || got.Pages != want.Pages || got.Cached_bytes != want.Cached_bytes ||
		got.Cached_pages != want.Cached_pages || got.Whole_files != want.Whole_files || got.Elsewhere_pages != 0 || got.Failures != 0 {
		return fmt.Errorf("%s: got %+v, want %+v", path, got, want)
	}
	if pages != got.Cached_pages || bytes != got.Cached_bytes || tiers != pages || len(got.Workers) != j.workers {
		return fmt.Errorf("%s: the workers have %d pages in %d bytes, %d in their tiers: %+v", path, pages, bytes, tiers, got)
	}
	if full := got.Cached_pages == got.Pages; full != (got.Percent == 100) {
		return fmt.Errorf("%s: %v %% of %d pages are %d", path, got.Percent, got.Pages, got.Cached_pages)
	}
	return nil
}

// copies has a path rule say that there are to be two copies.
func (j *jobs) copies() error {
	const below, large = "/lake/sub", "/lake/sub/large"
	if _, err := sluice(j, j.admin, "path-rule", "set", below, "replication_min=2"); err != nil {
		return err
	}
	if _, err := sluice(j, j.admin, "cache", "load", below); err != nil {
		return err
	}
	// The leader may be new, and not know all workers yet. What is missing then it has be kept once it does.
	for until := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		r := j.stat(below)
		if r.Short_pages == 0 && r.Percent == 100 {
			break
		}
		if time.Now().After(until) {
			return fmt.Errorf("of %d pages %d have too few copies, %v %% are cached", r.Pages, r.Short_pages, r.Percent)
		}
	}
	var list struct {
		Items []struct {
			Keepers         []string
			Replication_min int
			Places          []struct{ Worker string }
		}
	}
	mustSluice(j.T, j.admin, &list, "cache", "where", large)
	for _, x := range list.Items {
		if len(x.Places) < 2 || len(x.Keepers) != 2 || x.Replication_min != 2 || x.Keepers[0] == x.Keepers[1] {
			return fmt.Errorf("%s is at %+v", large, list.Items)
		}
	}
	if _, err := sluice(j, j.admin, "cache", "free", below); err == nil || !strings.Contains(err.Error(), "replication_min") {
		return fmt.Errorf("freeing what a rule has be kept: %v", err)
	}
	return j.read()
}

// calls returns how often any process has called the store.
func (j *jobs) calls() (total int64) {
	for _, url := range j.metrics {
		for line := range strings.Lines(j.numbers(url)) {
			if strings.HasPrefix(line, "sluice_ufs_calls_total{") && strings.Contains(line, j.lake) {
				n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
				if err != nil {
					j.Fatal(err)
				}
				total += int64(n)
			}
		}
	}
	return total
}

// read reads all files through all gateways; all of them must come from a cache.
func (j *jobs) read() error {
	for _, r := range j.rigs {
		for path, is := range j.files {
			if _, cache, err := r.get(j.Context(), path, is); err != nil || cache != "HIT" {
				return fmt.Errorf("%s: a %s: %v", path, cache, err)
			}
		}
	}
	return nil
}

func (j *jobs) all() {
	j.fill()
	all := func(string) bool { return true }
	none := func(string) bool { return false }
	j.step("nothing is cached", func() error { return j.expect("/lake", none) })
	j.step("load", func() error {
		out, err := sluice(j, j.admin, "cache", "load", "/lake")
		if err == nil && !strings.Contains(out, "done; 8 files") {
			err = fmt.Errorf("it said %q", out)
		}
		return err
	})
	j.step("all is cached", func() error { return j.expect("/lake", all) })
	j.step("what is cached is read without the store", func() error {
		before := j.calls()
		if before == 0 {
			return fmt.Errorf("nobody counts calls of %s", j.lake)
		}
		err := j.read()
		if after := j.calls(); err == nil && after != before {
			err = fmt.Errorf("the store was called %d times", after-before)
		}
		return err
	})
	j.step("headers and numbers", j.tell)
	j.step("it outlives the store", func() error {
		if err := os.Rename(j.lake, j.lake+".away"); err != nil {
			return err
		}
		err := j.read()
		if rerr := os.Rename(j.lake+".away", j.lake); err == nil {
			err = rerr
		}
		return err
	})
	j.step("where", func() error {
		var list struct {
			Items []struct {
				Offset, Length int64
				Owner          string
				Places         []struct{ Worker, Medium string }
			}
		}
		mustSluice(j.T, j.admin, &list, "cache", "where", "/lake/sub/large")
		at, owners := int64(0), map[string]bool{}
		for _, x := range list.Items {
			if x.Offset != at || len(x.Places) != 1 || x.Places[0].Worker != x.Owner || x.Places[0].Medium == "" {
				return fmt.Errorf("at %d: %+v", at, x)
			}
			at, owners[x.Owner] = at+x.Length, true
		}
		if size := j.files["/lake/sub/large"].size; at != size {
			return fmt.Errorf("%d bytes are somewhere, of %d", at, size)
		}
		return nil
	})
	j.step("free a part", func() error {
		if _, err := sluice(j, j.admin, "cache", "free", "/lake/sub"); err != nil {
			return err
		}
		return j.expect("/lake", func(name string) bool { return !strings.HasPrefix(name, "/lake/sub/") })
	})
	j.step("files that are not to be cached", func() error {
		_, err := sluice(j, j.admin, "cache", "load", "/raw")
		if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "/raw/bytes: ") || !strings.Contains(err.Error(), "1 of 2 files failed") {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
	j.step("REST", j.rest)
	j.step("free all", func() error {
		if _, err := sluice(j, j.admin, "cache", "free", "/lake"); err != nil {
			return err
		}
		return j.expect("/lake", none)
	})
	j.step("the list of jobs", func() error {
		var list struct {
			Items []struct{ Kind, State, Path string }
		}
		mustSluice(j.T, j.admin, &list, "job", "ls")
		var got []string
		for _, x := range list.Items {
			got = append(got, x.Kind+" "+x.Path+" "+x.State)
		}
		want := []string{"free /lake done", "load /lake done", "load /raw failed", "free /lake/sub done", "load /lake done"}
		if !slices.Equal(got, want) {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	})
	j.step("why the last read missed", j.missed)
	j.step("pin", func() error {
		if _, err := sluice(j, j.admin, "cache", "pin", "/lake/sub"); err != nil {
			return err
		}
		if pins := j.pins(); len(pins) != 1 || pins[0].Path != "/lake/sub/" || !pins[0].Recursive || pins[0].By == "" {
			return fmt.Errorf("pinned is %+v", pins)
		}
		return j.expect("/lake", below)
	})
	j.step("what is pinned is not freed", func() error {
		_, err := sluice(j, j.admin, "cache", "free", "/lake")
		if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "sluice cache unpin /lake/sub/") ||
			!strings.Contains(err.Error(), "3 of 8 files failed") {
			return fmt.Errorf("got %v", err)
		}
		return j.expect("/lake", below)
	})
	j.step("what the store has is durable", func() error {
		var d struct {
			Durable bool
			State   string
			Size    int64
			Holders []string
		}
		mustSluice(j.T, j.admin, &d, "durability", "/lake/more", "--wait", "10s")
		if !d.Durable || d.State != "STORED" || d.Size != 5<<20+3 || len(d.Holders) != 0 {
			return fmt.Errorf("got %+v", d)
		}
		out, err := sluice(j, j.admin, "persist", "/lake")
		if err == nil && !strings.Contains(out, "done; 0 files") {
			err = fmt.Errorf("it said %q", out)
		}
		return err
	})
}

// below reports whether a name is in the part of the lake that is pinned.
func below(name string) bool { return strings.HasPrefix(name, "/lake/sub/") }

// pin is a line of sluice cache pins.
type pin struct {
	Path, By, Why          string
	Recursive              bool
	Checked                time.Time
	Files, Bytes, Failures int64
}

func (j *jobs) pins() []pin {
	var list struct{ Items []pin }
	mustSluice(j.T, j.admin, &list, "cache", "pins")
	return list.Items
}

// pinned replaces a file that is pinned, and changes the leader.
func (j *jobs) pinned() error {
	const name = "/lake/sub/tiny"
	is := content{"lake", 100, 3<<20 + 1}
	j.rigs[0].mustPut(j.T, name, is)
	j.files[name] = is
	var to struct{ To string }
	mustSluice(j.T, j.admin, &to, "master", "handover")
	eventually(j.T, 30*time.Second, func() error {
		if pins := j.pins(); len(pins) != 1 || pins[0].Checked.IsZero() || pins[0].Files != 3 || pins[0].Failures != 0 || pins[0].Why != "" {
			return fmt.Errorf("the next leader says %+v", pins)
		}
		return j.expect("/lake", below)
	})
	return nil
}

func (j *jobs) unpin() error {
	if _, err := sluice(j, j.admin, "cache", "unpin", "/lake/sub"); err != nil {
		return err
	}
	if pins := j.pins(); len(pins) != 0 {
		return fmt.Errorf("pinned is %+v", pins)
	}
	if _, err := sluice(j, j.admin, "cache", "unpin", "/lake/sub"); err == nil || !strings.Contains(err.Error(), "not pinned") {
		return fmt.Errorf("unpinned twice: %v", err)
	}
	if _, err := sluice(j, j.admin, "cache", "free", "/lake"); err != nil {
		return err
	}
	return j.expect("/lake", func(string) bool { return false })
}

// missed reads what was freed, and what is not to be cached, and has both be explained by every gateway. It leaves nothing in a cache.
func (j *jobs) missed() error {
	const path = "/lake/more"
	is := j.files[path]
	freed := time.Now()
	if _, cache, err := j.rigs[0].get(j.Context(), path, is); err != nil || cache != "MISS" {
		return fmt.Errorf("what was freed is a %s: %v", cache, err)
	}
	for i, admin := range j.gateways {
		if _, _, err := j.rigs[i].get(j.Context(), path, is); err != nil { // which misses nothing
			return err
		}
		resp, err := j.rigs[i].send(j.Context(), j.rigs[i].request("GET", "/raw/bytes", nil))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("/raw/bytes: %s: %v", resp.Status, err)
		}
		for path, want := range map[string]struct {
			kind, reason string
			size         int64
		}{path: {"FREED", "dropped on demand", is.size}, "/raw/bytes": {"NOT_KEPT", "read_type is NO_CACHE (mount /raw)", 4}} {
			var x struct {
				Last_miss *struct {
					At             time.Time
					Offset, Length int64
					Kind, Reason   string
					Worker         string
				}
				Last_miss_unknown string
			}
			mustSluice(j.T, admin, &x, "explain", path)
			m := x.Last_miss
			if m == nil || m.Kind != want.kind || !strings.Contains(m.Reason, want.reason) || m.Offset != 0 || m.Length != want.size || m.Worker == "" || m.At.Before(freed) || x.Last_miss_unknown != "" {
				return fmt.Errorf("%s: the last read missed as %+v, %q", path, m, x.Last_miss_unknown)
			}
		}
	}
	_, err := sluice(j, j.admin, "cache", "free", path)
	return err
}

// tell looks at what answers say of the cache in both protocols, and at what is counted of it.
func (j *jobs) tell() error {
	for i, r := range j.rigs {
		base := r.WebHDFS + "/webhdfs/v1/lake/one?user.name=root&op="
		for _, k := range []struct{ method, url string }{{"GET", ""}, {"HEAD", ""}, {"GET", base + "OPEN"}, {"GET", base + "GETFILESTATUS"}} {
			var resp *http.Response
			var err error
			if k.url == "" {
				resp, err = r.send(j.Context(), r.request(k.method, "/lake/one", nil))
			} else {
				resp, err = http.Get(k.url)
			}
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			age, aerr := strconv.Atoi(resp.Header.Get("Age"))
			if err != nil || resp.StatusCode != 200 || resp.Header.Get("X-Cache") != "HIT" || aerr != nil || age < 0 || age > 3600 {
				return fmt.Errorf("%s %s: %s, %v, %v", k.method, k.url, resp.Status, resp.Header, err)
			}
		}
		text := j.numbers(j.gateways[i])
		for _, want := range []string{`sluice_reads_total{cache="HIT",mount="/lake",op="GetObject",proto="s3"}`,
			`sluice_reads_total{cache="HIT",mount="/lake",op="HeadObject",proto="s3"} 1`, `sluice_reads_total{cache="HIT",mount="/lake",op="OPEN",proto="webhdfs"} 1`,
			`sluice_read_bytes_total{cache="HIT",mount="/lake",op="OPEN",proto="webhdfs"} 1`} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("%s is not among the numbers of %s", want, j.gateways[i])
			}
		}
	}
	for _, url := range j.metrics {
		if strings.Contains(j.numbers(url), `sluice_jobs_ended_total{kind="load",state="done"} 1`) {
			return nil
		}
	}
	return fmt.Errorf("nobody has counted the job")
}

// numbers returns the metrics of a process.
func (j *jobs) numbers(url string) string {
	resp, err := http.Get(url + "/metrics")
	if err != nil {
		j.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		j.Fatal(err)
	}
	return string(b)
}

// rest does over the API what commands do not.
func (j *jobs) rest() error {
	call := func(method, path, body string, out any) (status int, err error) {
		r, err := http.NewRequestWithContext(j.Context(), method, j.admin+"/api/v1"+path, bytes.NewReader([]byte(body)))
		if err != nil {
			return 0, err
		}
		r.SetBasicAuth(AccessKey, SecretKey)
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		return resp.StatusCode, json.NewDecoder(resp.Body).Decode(out)
	}
	var job struct {
		ID, State                    string
		Done, Total, Bytes, Failures int64
		Failed                       []any
	}
	status, err := call("POST", "/jobs", `{"kind":"load","path":"/lake"}`, &job)
	if err != nil || status != http.StatusCreated || job.ID == "" {
		return fmt.Errorf("start: %d, %+v, %v", status, job, err)
	}
	if status, err = call("GET", "/jobs/"+job.ID+"?wait=30s", "", &job); err != nil || status != 200 || job.State != "done" || job.Done != 8 || job.Total != 8 || job.Failed == nil {
		return fmt.Errorf("wait: %d, %+v, %v", status, job, err)
	}
	if status, err = call("DELETE", "/jobs/"+job.ID, "", &job); err != nil || status != 200 || job.State != "done" {
		return fmt.Errorf("cancel of one that has ended: %d, %+v, %v", status, job, err)
	}
	var problem struct{ Detail string }
	for _, k := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/jobs/none", "", 404}, {"DELETE", "/jobs/0-1", "", 404}, {"GET", "/jobs/" + job.ID + "?wait=never", "", 400},
		{"POST", "/jobs", `{"kind":"load","path":"/none"}`, 404}, {"POST", "/jobs", `{"kind":"dance","path":"/lake"}`, 422},
		{"POST", "/jobs", `{"kind":"load","path":"lake"}`, 400}, {"GET", "/cache/residency?path=/none", "", 404},
		{"GET", "/cache/places?path=/lake", "", 404},
	} {
		if status, err := call(k.method, k.path, k.body, &problem); err != nil || status != k.status || problem.Detail == "" {
			return fmt.Errorf("%s %s %s: %d, %q, %v; want %d", k.method, k.path, k.body, status, problem.Detail, err, k.status)
		}
	}
	return nil
}
