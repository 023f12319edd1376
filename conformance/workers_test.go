package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWorkers reads through gateways of a cluster while its workers are killed, stopped and started again. What a client gets
// is whole and of one version, whatever becomes of them.
func TestWorkers(t *testing.T) {
	lake := t.TempDir()
	sockets, err := os.MkdirTemp("", "sluice-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	t.Setenv("SLUICE_SOCKET_DIR", sockets)
	c, dir := startCluster(t, "--mount", "/lake=file://"+lake+",sync_interval=0s")
	w := &workers{T: t, cluster: c, dir: dir, rig: newRig(&Server{S3: c.S3[0], WebHDFS: c.WebHDFS[0], Admin: c.Admin[0]}),
		other: newRig(&Server{S3: c.S3[1], WebHDFS: c.WebHDFS[1]})}
	w.rig.mkbucket(t, "warm")
	w.run("warm reads come from the workers", w.warm)
	w.run("warm reads of one host go by descriptor", w.lent)
	w.run("a worker is killed in mid-read", func(t *testing.T) { w.lose(t, "w1", syscall.SIGKILL) })
	w.run("a worker is stopped in mid-read", func(t *testing.T) { w.lose(t, "w2", syscall.SIGSTOP) })
	w.run("who owned a block before is asked before the store", w.previous)
	w.run("a file is replaced in mid-read", w.replace)
	w.run("all workers are gone", w.none)
	w.run("a store whose secret workers are given sealed", w.sealed)
	Minimum(t, "workers", w.cases)
}

type workers struct {
	*testing.T
	*cluster
	dir        string
	rig, other *rig
	cases      int
}

func (w *workers) run(name string, f func(t *testing.T)) {
	w.Run(name, func(t *testing.T) { f(t); w.cases++ })
}

func (w *workers) process(t *testing.T, name string) *member {
	t.Helper()
	for _, p := range w.processes {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("there is no process %s", name)
	return nil
}

// cached returns how many bytes of disk the caches of the processes take.
func (w *workers) cached(t *testing.T, names ...string) (total int64) {
	t.Helper()
	for _, name := range names {
		err := filepath.Walk(filepath.Join(w.dir, name), func(path string, info os.FileInfo, err error) error {
			if err == nil && strings.Contains(path, "/cache/") && info.Mode().IsRegular() {
				total += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
			return nil // files come and go
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return total
}

// warm reads files twice through both gateways: the second time they are hits, and no gateway or master holds them.
func (w *workers) warm(t *testing.T) {
	var total int64
	for i, size := range []int64{0, 1, 4 << 10, 1 << 20, 5<<20 + 3, 130<<20 + 1} {
		for _, place := range []string{"/warm", "/lake"} {
			path, is := fmt.Sprintf("%s/f%d", place, i), content{place, i, size}
			w.rig.putUntil(t, path, is)
			if _, _, err := w.rig.get(t.Context(), path, is); err != nil {
				t.Error(err)
			}
			for _, r := range []*rig{w.other, w.rig} {
				w.hit(t, r, path, is)
			}
			total += size
		}
	}
	if n := w.cached(t, "w1", "w2", "w3"); n < total {
		t.Errorf("the workers hold %d bytes of %d", n, total)
	}
	if n := w.cached(t, "m1", "m2", "m3", "g1", "g2"); n > 0 {
		t.Errorf("masters and gateways hold %d bytes", n)
	}
	for _, g := range []string{"g1", "g2"} {
		if _, err := os.Stat(filepath.Join(w.dir, g, "secret-key")); err == nil {
			t.Errorf("the gateway %s holds a secret key", g)
		}
	}
}

// lent reads a file that spans blocks of several workers, and so all of their ways: every byte of it is lent by one.
func (w *workers) lent(t *testing.T) {
	is := content{"lent", 0, 140<<20 + 5}
	w.rig.putUntil(t, "/warm/lent", is)
	w.hit(t, w.rig, "/warm/lent", is)
	before := w.ways(t)
	if _, cache, err := w.rig.get(t.Context(), "/warm/lent", is); err != nil || cache != "HIT" {
		t.Fatalf("%s: %v", cache, err)
	}
	after := w.ways(t)
	var disk unix.Statfs_t
	if err := unix.Statfs(w.dir, &disk); err != nil {
		t.Fatal(err)
	}
	if disk.Type == unix.OVERLAYFS_SUPER_MAGIC { // the root of a container, from which nothing is lent
		if n := after["descriptor"]; n > 0 {
			t.Errorf("%d bytes came by descriptor from an overlay", n)
		}
		return
	}
	if n := after["descriptor"] - before["descriptor"]; n < is.size*9/10 { // some pages may be on their way to another slot
		t.Errorf("%d bytes of %d came by descriptor: %v, before it %v", n, is.size, after, before)
	}
	files, err := filepath.Glob(filepath.Join(os.Getenv("SLUICE_SOCKET_DIR"), "*.sock"))
	if err != nil || len(files) != 3 {
		t.Errorf("there are %d sockets of 3 workers, %v", len(files), err)
	}
}

// ways returns how many bytes the first gateway got in each way.
func (w *workers) ways(t *testing.T) map[string]int64 {
	t.Helper()
	resp, err := http.Get(w.Admin[0] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all := map[string]int64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var way string
		var n float64
		if _, err := fmt.Sscanf(lines.Text(), "sluice_placed_read_bytes_total{way=%q} %g", &way, &n); err == nil {
			all[way] = int64(n)
		}
	}
	return all
}

// hit reads a file until the answer comes from a cache: the processes of a cluster that starts learn of each other in the course
// of a second, and blocks change their owners as they do. Facts that are checked with the store each time are no misses.
func (w *workers) hit(t *testing.T, r *rig, path string, is content) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		_, cache, err := r.get(t.Context(), path, is)
		if err == nil && is.size > 0 && cache != "HIT" && cache != "REVALIDATED" {
			err = fmt.Errorf("%s: the answer is a %s", path, cache)
		}
		return err
	})
}

// reading is a response that is read bit by bit.
type reading struct {
	body io.ReadCloser
	is   content
	at   int64
}

// open begins to read n times.
func (w *workers) open(t *testing.T, path string, is content, n int) (all []*reading) {
	t.Helper()
	for i := range n {
		r := []*rig{w.rig, w.other}[i%2]
		resp, err := r.send(t.Context(), r.request("GET", path, nil))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		if resp.StatusCode != 200 || resp.ContentLength != is.size {
			t.Fatalf("%s: %s, %d bytes", path, resp.Status, resp.ContentLength)
		}
		all = append(all, &reading{resp.Body, is, 0})
	}
	return all
}

// read reads the next n bytes, or to the end, and compares them.
func (r *reading) read(n int64) error {
	got, want := make([]byte, 256<<10), make([]byte, 256<<10)
	for end := min(r.at+n, r.is.size); r.at < end; {
		k := min(end-r.at, int64(len(got)))
		if m, err := io.ReadFull(r.body, got[:k]); err != nil {
			return fmt.Errorf("%d bytes into %v: %w", r.at+int64(m), r.is, err)
		}
		if _, err := r.is.ReadAt(want[:k], r.at); err != nil && err != io.EOF {
			return err
		}
		if !bytes.Equal(got[:k], want[:k]) {
			return fmt.Errorf("%d bytes into %v: other bytes", r.at, r.is)
		}
		r.at += k
	}
	return nil
}

func each(t *testing.T, all []*reading, n int64) {
	t.Helper()
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Go(func() {
			if err := r.read(n); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// lose takes a worker away from readers in the midst of it, and reads everything again with it back.
func (w *workers) lose(t *testing.T, name string, sig syscall.Signal) {
	is := content{"lost", int(sig), 200 << 20} // blocks of 64 MiB: all workers have some, most likely
	path := fmt.Sprintf("/warm/lost%d", sig)
	w.rig.putUntil(t, path, is)
	all := w.open(t, path, is, 4)
	each(t, all, 20<<20)
	p := w.process(t, name)
	if sig == syscall.SIGKILL {
		p.kill(t)
	} else if err := syscall.Kill(p.pid, sig); err != nil {
		t.Fatal(err)
	}
	each(t, all, is.size)
	if _, _, err := w.other.get(t.Context(), path, is); err != nil {
		t.Errorf("without %s: %v", name, err)
	}
	if sig == syscall.SIGKILL {
		p.pid = p.restart(t, 0)
	} else if err := syscall.Kill(p.pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.rig.get(t.Context(), path, is); err != nil {
		t.Errorf("with %s again: %v", name, err)
	}
}

// previous has files be cached while a worker is gone, and reads them when it is back: those that are its own come from who had
// them meanwhile.
func (w *workers) previous(t *testing.T) {
	const files = 24 // each a block: a third of them is its own, and none with a chance of 1 in 10,000
	p := w.process(t, "w3")
	start, err := os.ReadFile(filepath.Join(w.dir, "start-w3"))
	if err != nil {
		t.Fatal(err)
	}
	listen := regexp.MustCompile(`--admin-listen[ =]'?([0-9.:]+)`).FindSubmatch(start)
	if listen == nil {
		t.Fatalf("where w3 has its numbers is not in %s", start)
	}
	read := func(try int) string {
		p.kill(t)
		file := func(i int) (string, content) {
			return fmt.Sprintf("/lake/previous%d/f%d", try, i), content{"previous", try*files + i, int64(100_000 * (i + 1))}
		}
		for i := range files {
			path, is := file(i)
			w.rig.putUntil(t, path, is)
			w.hit(t, w.other, path, is)
		}
		p.pid = p.restart(t, 0)
		eventually(t, 30*time.Second, func() error {
			resp, err := http.Get("http://" + string(listen[1]) + "/readyz")
			if err == nil {
				resp.Body.Close()
			}
			return err
		})
		var n string
		for range 10 { // the gateways learn that it is back in the course of a second
			for i := range files {
				path, is := file(i)
				if _, _, err := w.rig.get(t.Context(), path, is); err != nil {
					t.Error(err)
				}
			}
			if n = metric(t, "http://"+string(listen[1]), "sluice_cache_previous_owner_bytes_total"); n != "" && n != "0" {
				return ""
			}
			time.Sleep(time.Second / 2)
		}
		return fmt.Sprintf("%q bytes came from who owned them before", n)
	}
	// Pages that were asked for before it knew of the others are its own by now: another try has others.
	for try := 0; ; try++ {
		bad := read(try)
		if bad == "" {
			return
		}
		if try == 2 {
			t.Fatal(bad)
		}
		t.Log(bad)
	}
}

// replace overwrites a file that is being read, in the store and through Sluice. A reader gets the rest of its version, or an
// error; never bytes of both.
func (w *workers) replace(t *testing.T) {
	for i, place := range []string{"/warm", "/lake"} {
		path := place + "/replaced"
		was, is := content{"replaced", 2 * i, 150 << 20}, content{"replaced", 2*i + 1, 150 << 20}
		w.rig.putUntil(t, path, was)
		all := w.open(t, path, was, 2)
		each(t, all, 1<<20)
		w.other.putUntil(t, path, is)
		for _, r := range all {
			if err := r.read(was.size); err != nil && strings.Contains(err.Error(), "other bytes") {
				t.Error(err)
			}
		}
		if _, _, err := w.rig.get(t.Context(), path, is); err != nil {
			t.Error(err)
		}
	}
}

// none reads and writes while no worker lives, and then with all of them started again.
func (w *workers) none(t *testing.T) {
	is := content{"none", 0, 70 << 20}
	w.rig.putUntil(t, "/warm/none", is)
	all := w.open(t, "/warm/none", is, 2)
	each(t, all, 1<<20)
	names := []string{"w1", "w2", "w3"}
	for _, name := range names {
		w.process(t, name).kill(t)
	}
	each(t, all, is.size)
	later := content{"none", 1, 3 << 20}
	w.rig.putUntil(t, "/warm/later", later)
	for _, r := range []*rig{w.rig, w.other} {
		if _, _, err := r.get(t.Context(), "/warm/later", later); err != nil {
			t.Error(err)
		}
	}
	for _, name := range names {
		p := w.process(t, name)
		p.pid = p.restart(t, 0)
	}
	w.hit(t, w.other, "/warm/later", later)
}

// sealed mounts an S3 store over the admin API of a gateway, whose secret no process but the masters was given.
func (w *workers) sealed(t *testing.T) {
	store := StartVersitygw(t)
	makeBucket(t, store, "far")
	body, err := json.Marshal(map[string]any{"path": "/far", "uri": "s3://far", "options": store.Options()})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", w.Admin[0]+"/api/v1/mounts", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(AccessKey, SecretKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s: %s", resp.Status, text)
	}
	is := content{"far", 0, 20 << 20}
	w.rig.putUntil(t, "/far/file", is)
	w.hit(t, w.other, "/far/file", is) // nobody but workers has a cache
	for _, p := range w.processes {
		b, err := os.ReadFile(filepath.Join(w.dir, p.name+".log"))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(store.SecretKey)) {
			t.Errorf("the log of %s has the secret", p.name)
		}
	}
}
