package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

/*
TestIsolation has a server with three mounts asked for known names of one of them and for the root, by turns while nothing else is to be
done, and while another mount's objects are synced for the first time and the third one's store drops what it is sent:

	go test ./bench -run TestIsolation -isolation 1000000 [-isolation.window 4s] [-isolation.out FILE] -timeout 30m -v

It prints a line of JSON for each kind of request, with how much longer it took. It fails if one of them waited for the dead store, not
if they are slow; without -isolation it has 20,000 objects and short windows, and measures nothing.
*/
var (
	isolationObjects = flag.Int("isolation", 0, "measure requests beside a sync of so many `objects` and a dead store")
	isolationWindow  = flag.Duration("isolation.window", 4*time.Second, "how `long` requests are measured at a time")
	isolationPairs   = flag.Int("isolation.pairs", 10, "windows with a sync and a dead store, and as many without")
	isolationOut     = flag.String("isolation.out", "", "write the lines of JSON to `FILE` too")
)

// isolationPause is from one request that is measured to the next: they do not fill the processors themselves.
const isolationPause = time.Millisecond

// hole is a store's address that drops connections that are to be made, and leaves requests on others unanswered, while it is deaf.
type hole struct {
	net.Listener
	http.Handler

	mu    sync.Mutex
	opens chan struct{} // closed while it is not deaf
	full  []int         // connections that nobody accepts
	more  []net.Conn    // likewise
}

func newHole(t *testing.T, behind http.Handler) *hole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	h := &hole{Listener: l, Handler: behind, opens: make(chan struct{})}
	close(h.opens)
	s := &httptest.Server{Listener: h, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(func() { h.open(t); s.Close() })
	return h
}

// await waits until the hole is not deaf.
func (h *hole) await(ctx context.Context) error {
	h.mu.Lock()
	opens := h.opens
	h.mu.Unlock()
	select {
	case <-opens:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Accept implements net.Listener.
func (h *hole) Accept() (net.Conn, error) {
	c, err := h.Listener.Accept()
	if err == nil {
		_ = h.await(context.Background())
	}
	return c, err
}

// ServeHTTP implements http.Handler.
func (h *hole) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.await(r.Context()) == nil {
		h.Handler.ServeHTTP(w, r)
	}
}

// backlog sets how many connections the kernel makes that were not accepted.
func (h *hole) backlog(t *testing.T, n int) {
	t.Helper()
	raw, err := h.Listener.(*net.TCPListener).SyscallConn()
	must(t, err)
	var failed error
	must(t, raw.Control(func(fd uintptr) { failed = unix.Listen(int(fd), n) }))
	must(t, failed)
}

// swallow makes the hole deaf.
func (h *hole) swallow(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opens = make(chan struct{})
	h.backlog(t, 0)
	at := &unix.SockaddrInet4{Port: h.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	for range 8 { // the kernel drops what asks for another connection
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		must(t, err)
		h.full = append(h.full, fd)
		if err := unix.Connect(fd, at); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
	for range 5 { // one that was accepted meanwhile leaves room for another
		c, err := net.DialTimeout("tcp", h.Addr().String(), time.Second)
		if err != nil {
			return
		}
		h.more = append(h.more, c)
	}
	t.Fatal("connections to a dead store are made")
}

// open has the hole pass on what comes, and what waits.
func (h *hole) open(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, fd := range h.full {
		unix.Close(fd)
	}
	for _, c := range h.more {
		c.Close()
	}
	h.full, h.more = nil, nil
	h.backlog(t, 128)
	select {
	case <-h.opens:
	default:
		close(h.opens)
	}
}

// remembered answers as a handler did to the same query before, so that a store takes next to nothing of the processors.
type remembered struct {
	of   *lister
	page time.Duration
	mu   sync.Mutex
	all  map[string][]byte
}

// ServeHTTP implements http.Handler.
func (m *remembered) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	q := r.URL.Query()
	if r.Method != http.MethodGet || q.Get("list-type") != "2" {
		m.of.ServeHTTP(w, r)
		return
	}
	name := q.Encode()
	m.mu.Lock()
	b, ok := m.all[name]
	m.mu.Unlock()
	if !ok {
		to := httptest.NewRecorder()
		m.of.ServeHTTP(to, r)
		b = to.Body.Bytes()
		m.mu.Lock()
		m.all[name] = b
		m.mu.Unlock()
	}
	time.Sleep(m.page - time.Since(began))
	w.Header().Set("Content-Type", "application/xml")
	w.Write(b)
}

// isolated is a server with the mounts /near, a local one, /lake, a lister's bucket, and /dead, which a hole is before.
type isolated struct {
	*server
	webhdfs string
	dead    *hole
}

// asker asks on one connection, by blocking system calls.
type asker struct {
	c    *conn
	r    *bufio.Reader
	addr string
}

// Read implements io.Reader.
func (a *asker) Read(b []byte) (int, error) {
	if a.c.r == a.c.w {
		if err := a.c.fillBuffer(); err != nil {
			return 0, err
		}
	}
	n := copy(b, a.c.buf[a.c.r:a.c.w])
	a.c.r += n
	return n, nil
}

func newAsker(t *testing.T, addr string) *asker {
	t.Helper()
	c, err := dial(addr)
	must(t, err)
	a := &asker{c: c, addr: addr}
	a.r = bufio.NewReaderSize(a, bufferBytes)
	return a
}

// ask sends a request, takes the whole answer, and returns how long that took.
func (a *asker) ask(c *call, wire []byte) (time.Duration, []byte, error) {
	began := time.Now()
	if err := a.c.send(wire); err != nil {
		return 0, nil, err
	}
	resp, err := http.ReadResponse(a.r, &http.Request{Method: c.method})
	if err != nil {
		return 0, nil, err
	}
	b, err := io.ReadAll(resp.Body)
	took := time.Since(began)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %.300s", c.method, c.path, resp.Status, b)
	}
	return took, b, err
}

// kinds are the requests that are measured, one after the other, and what an answer has in it.
var kinds = []struct {
	name string
	fs   bool // over WebHDFS
	call call
	has  string
}{
	{"get", false, call{method: "GET", path: "/near/7", length: -1}, string(content("near", 4*kib))},
	{"head", false, call{method: "HEAD", path: "/near/7", length: -1}, ""},
	{"list", false, call{method: "GET", path: "/near", query: url.Values{"list-type": {"2"}}, length: -1}, "<Key>99</Key>"},
	{"list_buckets", false, call{method: "GET", path: "/", length: -1}, "<Name>dead</Name>"},
	{"status_root", true, call{method: "GET", path: "/webhdfs/v1/", query: url.Values{"op": {"GETFILESTATUS"}, "user.name": {"bench"}}, length: -1}, `"DIRECTORY"`},
	{"liststatus_root", true, call{method: "GET", path: "/webhdfs/v1/", query: url.Values{"op": {"LISTSTATUS"}, "user.name": {"bench"}}, length: -1}, `"pathSuffix":"dead"`},
}

// window asks for everything in turn for a time, and returns how long answers took, by kind.
func (s *isolated) window(t *testing.T, d time.Duration) [][]time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	took := make([][]time.Duration, len(kinds))
	wires := make([][]byte, len(kinds))
	s3, fs := newAsker(t, s.addr), newAsker(t, s.webhdfs) // what is idle between two windows, the server closes
	defer s3.c.close()
	defer fs.c.close()
	to := func(k int) *asker {
		if kinds[k].fs {
			return fs
		}
		return s3
	}
	now := time.Now()
	for k := range kinds {
		wires[k] = kinds[k].call.wire(to(k).addr, now)
	}
	for i := -len(kinds); i < len(kinds) || time.Since(now) < d; i++ {
		k := (i + len(kinds)) % len(kinds)
		one, b, err := to(k).ask(&kinds[k].call, wires[k])
		must(t, err)
		if !bytes.Contains(b, []byte(kinds[k].has)) {
			t.Fatalf("%s: %.500s", kinds[k].name, b)
		}
		if i >= 0 { // the first of each kind warm up
			took[k] = append(took[k], one)
		}
		time.Sleep(isolationPause)
	}
	return took
}

// number returns a number of /metrics by its whole name.
func (s *isolated) number(t *testing.T, name string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + s.admin + "/metrics")
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			n, err := strconv.ParseFloat(text, 64)
			must(t, err)
			return n
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

func (s *isolated) waits(t *testing.T) float64 {
	t.Helper()
	return s.number(t, `sluice_ufs_waits_total{mount="/dead"}`)
}

// until waits until a number is what is wanted.
func (s *isolated) until(t *testing.T, what string, ok func(float64) bool) {
	t.Helper()
	var n float64
	for began := time.Now(); time.Since(began) < 2*time.Minute; time.Sleep(20 * time.Millisecond) {
		if n = s.number(t, what); ok(n) {
			return
		}
	}
	t.Fatalf("%s is %v", what, n)
}

// api calls the admin API, and decodes the answer into to.
func (s *isolated) api(t *testing.T, method, path, body string, to any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.admin+"/api/v1"+path, strings.NewReader(body))
	must(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.SetBasicAuth(accessKey, secretKey)
	resp, err := http.DefaultClient.Do(r)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s %s", method, path, resp.Status, b)
	}
	if to != nil {
		must(t, json.Unmarshal(b, to))
	}
}

// syncJob is what is told of a sync.
type syncJob struct {
	ID, State string
	Done      int64
	Failures  int64
}

// sync has nothing count that is known of the bucket, and starts a sync of it.
func (s *isolated) sync(t *testing.T) (j syncJob) {
	t.Helper()
	s.api(t, http.MethodPost, "/invalidate", `{"paths":["/lake"]}`, nil)
	s.api(t, http.MethodPost, "/sync", `{"path":"/lake/","recursive":true}`, &j)
	return j
}

func (s *isolated) job(t *testing.T, id string) (j syncJob) {
	t.Helper()
	s.api(t, http.MethodGet, "/jobs/"+id, "", &j)
	return j
}

// ended cancels a sync if it still runs, and returns how it was when it ended.
func (s *isolated) ended(t *testing.T, id string) (j syncJob) {
	t.Helper()
	if j = s.job(t, id); j.State == "running" || j.State == "queued" {
		s.api(t, http.MethodDelete, "/jobs/"+id, "", nil)
	}
	for began := time.Now(); j.State == "running" || j.State == "queued"; j = s.job(t, id) {
		if time.Since(began) > time.Minute {
			t.Fatalf("the sync does not end: %+v", j)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if j.Failures > 0 || j.State == "failed" {
		t.Fatalf("a sync failed: %+v", j)
	}
	return j
}

// stuck is who asks for names of the dead store.
type stuck struct {
	wg     sync.WaitGroup
	cancel context.CancelFunc
}

func (s *isolated) stuck(t *testing.T, round int) *stuck {
	const askers = 8
	ctx, cancel := context.WithCancel(t.Context())
	w := &stuck{cancel: cancel}
	for i := range askers {
		w.wg.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				c := call{method: "HEAD", path: fmt.Sprintf("/dead/stuck-%d-%d-%d", round, i, k), header: []string{"Cache-Control: no-cache"}, length: -1}
				s.askOnce(ctx, &c)
				pause := time.NewTimer(askers * 10 * time.Millisecond) // those that are refused at once are 100 in a second
				select {
				case <-pause.C:
				case <-ctx.Done():
					pause.Stop()
				}
			}
		})
	}
	return w
}

// askOnce asks on a connection of its own until ctx ends.
func (s *isolated) askOnce(ctx context.Context, c *call) {
	var d net.Dialer
	to, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return
	}
	defer to.Close()
	defer context.AfterFunc(ctx, func() { to.Close() })()
	if _, err := to.Write(c.wire(s.addr, time.Now())); err == nil {
		_, _ = http.ReadResponse(bufio.NewReader(to), &http.Request{Method: c.method})
	}
}

func (w *stuck) end() {
	w.cancel()
	w.wg.Wait()
}

func startIsolated(t *testing.T, lake string) *isolated {
	t.Helper()
	bin := os.Getenv("SLUICE_BIN")
	if bin == "" {
		bin = filepath.Join(t.TempDir(), "sluice")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/sluicefs/sluice").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	near := t.TempDir()
	for i := range 100 {
		must(t, os.WriteFile(filepath.Join(near, strconv.Itoa(i)), content("near", 4*kib), 0o644))
	}
	s := &isolated{server: &server{name: "sluice-isolated", dir: t.TempDir()}, dead: newHole(t, &lister{n: 10, calls: map[string]int{}})}
	for _, addr := range []*string{&s.addr, &s.admin, &s.webhdfs} {
		var err error
		*addr, err = freePort()
		must(t, err)
	}
	bucket := "=s3://b,read_only=true,path_style=true,region=" + region + ",access_key=k,secret_key=s,"
	must(t, s.exec(t.Context(), []string{bin, "serve", "--data", s.dir, "--s3-listen", s.addr, "--webhdfs-listen", s.webhdfs, "--admin-listen", s.admin,
		"--mount", "/near=file://" + near + ",sync_interval=-1", "--mount", "/lake" + bucket + "sync_interval=-1,endpoint=" + lake,
		"--mount", "/dead" + bucket + "sync_interval=1s,endpoint=http://" + s.dead.Addr().String()},
		append(os.Environ(), "SLUICE_ROOT_ACCESS_KEY="+accessKey, "SLUICE_ROOT_SECRET_KEY="+secretKey)))
	t.Cleanup(s.stop)
	must(t, (&server{name: s.name, addr: s.admin}).awaitStatus(t.Context(), "/readyz", http.StatusOK))
	return s
}

// loaded is a window while a sync runs and the store of /dead is dead, found out or not, and how many names the sync compared in it.
func (s *isolated) loaded(t *testing.T, d time.Duration, round int, foundOut bool) (took [][]time.Duration, names float64) {
	t.Helper()
	s.dead.swallow(t)
	before := s.waits(t)
	stuck := s.stuck(t, round)
	s.until(t, `sluice_ufs_waits_total{mount="/dead"}`, func(n float64) bool { return n >= before+8 })
	if foundOut {
		s.until(t, `sluice_mount_degraded{mount="/dead"}`, func(n float64) bool { return n == 1 })
		s.until(t, `sluice_ufs_waiting{mount="/dead"}`, func(n float64) bool { return n == 0 })
	}
	before = s.waits(t)
	j := s.sync(t)
	began := time.Now()
	took = s.window(t, d)
	j = s.job(t, j.ID)
	if j.State == "running" || d < time.Second {
		names = float64(j.Done) / time.Since(began).Seconds()
	} else {
		t.Errorf("the sync was over before the window: %+v", j)
	}
	s.ended(t, j.ID)
	if n := s.waits(t) - before; n != 0 {
		t.Errorf("%v requests waited for the dead store", n)
	}
	stuck.end()
	s.dead.open(t)
	s.until(t, `sluice_mount_degraded{mount="/dead"}`, func(n float64) bool { return n == 0 })
	s.until(t, `sluice_ufs_waiting{mount="/dead"}`, func(n float64) bool { return n == 0 })
	return took, names
}

// isolationRow is one kind of request, or all of them: medians of the windows, and of the windows' own ratios.
type isolationRow struct {
	Row     string    `json:"row"`
	Objects int       `json:"objects"`
	Windows int       `json:"windows"` // of each of the two
	Base50  float64   `json:"base_p50_us"`
	Load50  float64   `json:"load_p50_us"`
	Ratio50 float64   `json:"p50_ratio"`
	Base99  float64   `json:"base_p99_us"`
	Load99  float64   `json:"load_p99_us"`
	Ratio99 float64   `json:"p99_ratio"`
	Added99 float64   `json:"p99_added_us"`
	Ratios  []float64 `json:"p50_ratios"`
	Target  string    `json:"target"`
	Met     bool      `json:"met"`
}

func newIsolationRow(name string, objects int, base, load [][]time.Duration) isolationRow {
	r := isolationRow{Row: "isolation_" + name, Objects: objects, Windows: len(base), Target: "p50 <= 1.2 times, p99 <= 2 times or 10 ms more"}
	var b50, l50, b99, l99, r99, added, over []float64
	for i := range base {
		b, l, bb, ll := micros(base[i], .5), micros(load[i], .5), micros(base[i], .99), micros(load[i], .99)
		b50, l50, b99, l99 = append(b50, b), append(l50, l), append(b99, bb), append(l99, ll)
		r.Ratios, r99, added, over = append(r.Ratios, round2(l/b)), append(r99, ll/bb), append(added, ll-bb), append(over, ll-max(2*bb, bb+10_000))
	}
	r.Base50, r.Load50, r.Ratio50 = quantile(b50, .5), quantile(l50, .5), quantile(r.Ratios, .5)
	r.Base99, r.Load99, r.Ratio99, r.Added99 = quantile(b99, .5), quantile(l99, .5), quantile(r99, .5), quantile(added, .5)
	r.Met = r.Ratio50 <= 1.2 && quantile(over, .5) <= 0
	return r
}

func TestIsolation(t *testing.T) {
	l := &lister{n: 20_000, calls: map[string]int{}}
	store := &remembered{of: l, all: map[string][]byte{}}
	window, pairs := 100*time.Millisecond, 1
	if *isolationObjects > 0 {
		l.n, store.page, window, pairs = *isolationObjects, *listerPage, *isolationWindow, *isolationPairs
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(16)) // who waits in a system call never has to wait for the lister
	}
	about := describe(t.TempDir())
	lake := httptest.NewServer(store)
	defer lake.Close()
	s := startIsolated(t, lake.URL)
	first := s.sync(t)
	for s.job(t, first.ID).State != "done" { // so that the store has its answers, and the server has had so many names
		time.Sleep(20 * time.Millisecond)
	}
	s.window(t, window)
	base, load := make([][][]time.Duration, len(kinds)+1), make([][][]time.Duration, len(kinds)+1)
	take := func(to [][][]time.Duration, took [][]time.Duration) {
		var all []time.Duration
		for k := range took {
			to[k] = append(to[k], took[k])
			all = append(all, took[k]...)
		}
		to[len(kinds)] = append(to[len(kinds)], all)
	}
	var rates []float64
	loaded := func(i int) {
		took, names := s.loaded(t, window, i, i%2 == 1 && *isolationObjects > 0)
		take(load, took)
		rates = append(rates, names)
	}
	for i := range pairs {
		if i/2%2 == 1 {
			loaded(i)
		}
		take(base, s.window(t, window))
		if i/2%2 == 0 {
			loaded(i)
		}
	}
	if *isolationObjects == 0 {
		return
	}
	lines := []any{map[string]any{"machine": about, "time": time.Now().UTC().Format(time.RFC3339), "window": window.String()}}
	for k := range kinds {
		lines = append(lines, newIsolationRow(kinds[k].name, l.n, base[k], load[k]))
	}
	lines = append(lines, newIsolationRow("all", l.n, base[len(kinds)], load[len(kinds)]),
		map[string]any{"row": "isolation_sync", "objects": l.n, "value": quantile(rates, .5), "unit": "names/s that the sync compared meanwhile", "all": rates})
	var out bytes.Buffer
	for _, line := range lines {
		b, err := json.Marshal(line)
		must(t, err)
		fmt.Fprintf(&out, "%s\n", b)
	}
	fmt.Print(out.String())
	if *isolationOut != "" {
		must(t, os.WriteFile(*isolationOut, out.Bytes(), 0o644))
	}
}
