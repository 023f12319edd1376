package conformance

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What the server does for a request that the cache can answer, as the system sees it: its system calls.

// idle are calls that the Go runtime makes when it likes.
var idle = []string{"futex", "epoll_pwait", "epoll_wait", "epoll_ctl", "nanosleep", "clock_nanosleep", "sched_yield", "madvise", "getpid", "tgkill", "rt_sigreturn",
	"restart_syscall", "rt_sigprocmask", "sigaltstack", "gettid", "clone", "clone3", "set_robust_list", "rseq", "mprotect", "munmap", "timer_settime",
	"setsockopt", "eventfd2"}

// tracer is strace attached to a server.
type tracer struct {
	*testing.T
	cmd  *exec.Cmd
	file string
	pid  int
}

// attach attaches strace to every thread of the server and waits until that is done.
func attach(t *testing.T, s *Server) *tracer {
	t.Helper()
	tr := &tracer{T: t, file: filepath.Join(t.TempDir(), "trace"), pid: s.Pid()}
	// write is shown raw for the address of its buffer.
	tr.cmd = exec.Command(Strace(t), "-f", "-ttt", "-yy", "-s", "0", "-e", "raw=write", "-e", "signal=none", "-o", tr.file, "-p", strconv.Itoa(tr.pid))
	errs, err := tr.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	tr.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := tr.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(errs)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "attached") {
			go io.Copy(io.Discard, errs)
			return tr
		}
	}
	tr.cmd.Wait()
	Skip(t, "strace cannot attach to a process: %s", lines.Text())
	return nil
}

// detach ends the trace and returns its calls.
func (tr *tracer) detach() []*call {
	tr.Helper()
	tr.cmd.Process.Signal(syscall.SIGINT)
	tr.cmd.Wait()
	f, err := os.Open(tr.file)
	if err != nil {
		tr.Fatal(err)
	}
	defer f.Close()
	calls, err := readTrace(f)
	if err != nil {
		tr.Fatal(err)
	}
	return calls
}

// mapping is an area of the server's memory that a file of the cache is mapped at.
type mapping struct{ from, to uint64 }

// mappings returns where files below dir are mapped.
func (tr *tracer) mappings(dir string) (all []mapping) {
	tr.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", tr.pid))
	if err != nil {
		tr.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 5 && strings.HasPrefix(f[5], dir+"/") {
			var m mapping
			if _, err := fmt.Sscanf(f[0], "%x-%x", &m.from, &m.to); err != nil {
				tr.Fatal(err)
			}
			all = append(all, m)
		}
	}
	return all
}

// sockets returns the server's descriptors of sockets.
func (tr *tracer) sockets() map[int64]bool {
	all := map[int64]bool{}
	dir := fmt.Sprintf("/proc/%d/fd", tr.pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		tr.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(to, "socket:") {
			n, _ := strconv.ParseInt(e.Name(), 10, 64)
			all[n] = true
		}
	}
	return all
}

// profile is what the server did for one request.
type profile struct {
	calls            int   // all but the idle ones
	large, largeSize int64 // writes and sendfiles to a socket of more than 64 KiB straight from the cache, and their bytes
	smallSize        int64 // bytes of the other writes to sockets
	entries          int   // reads of what says whose a page is
	wrong            []string
	names            map[string]int
}

// span is the time of a request, and what the server had mapped and open at its end.
type span struct {
	from, to float64 // seconds since 1970
	maps     []mapping
	sockets  map[int64]bool
}

// measure does a request. tier is the directory of the cache.
func (tr *tracer) measure(tier string, do func()) (s span) {
	tr.Helper()
	s.from = float64(time.Now().UnixMicro()) / 1e6
	do()
	s.to = float64(time.Now().UnixMicro()) / 1e6
	s.maps, s.sockets = tr.mappings(tier), tr.sockets()
	return s
}

const (
	copied = 64 << 10 // the largest buffer that bytes may be copied through
	entry  = 64       // bytes beside a page that say whose it is, which are looked at whenever it is handed out
	page   = 1 << 20
)

// onDisk reports whether an argument is the descriptor of a file, other than those in which the Go runtime looks up its share
// of the processors.
func onDisk(arg string) bool {
	return strings.Contains(arg, "</") && !strings.Contains(arg, "</sys/") && !strings.Contains(arg, "</proc/") && !strings.Contains(arg, "</dev/null>")
}

// judge reads the profile of a request off the calls.
func (at span) judge(calls []*call, tier string) profile {
	p := profile{names: map[string]int{}}
	wrong := func(c *call, why string) {
		p.wrong = append(p.wrong, fmt.Sprintf("%s(%s) = %s: %s", c.name, strings.Join(c.args, ", "), c.ret, why))
	}
	for _, c := range calls {
		if c.at < at.from || c.at > at.to || slices.Contains(idle, c.name) {
			continue
		}
		p.calls++
		p.names[c.name]++
		onFile := slices.ContainsFunc(c.args, onDisk)
		switch c.name {
		case "write":
			fd, n := c.number(0), int64(0)
			if !c.failed() {
				n = c.result()
			}
			if !at.sockets[fd] {
				continue // the log, or the runtime waking itself
			}
			size := c.number(2)
			address, err := strconv.ParseUint(c.args[1], 0, 64)
			if err != nil {
				wrong(c, err.Error())
			}
			mapped := slices.ContainsFunc(at.maps, func(m mapping) bool { return m.from <= address && address+uint64(size) <= m.to })
			switch {
			case size > copied && !mapped:
				wrong(c, "a large write from memory that is no page of the cache")
			case mapped:
				p.large, p.largeSize = p.large+1, p.largeSize+n
			default:
				p.smallSize += n
			}
		case "sendfile":
			if !strings.Contains(c.args[1], "<"+tier+"/") {
				wrong(c, "from a file that is none of the cache")
			} else if !c.failed() {
				p.large, p.largeSize = p.large+1, p.largeSize+c.result()
			}
		case "fsync", "fdatasync", "sync_file_range", "msync", "open", "openat", "openat2", "stat", "lstat", "newfstatat", "statx", "mmap", "pwrite64":
			if c.name != "mmap" || onFile {
				wrong(c, "a warm request needs none")
			}
		case "pread64":
			switch {
			case strings.Contains(c.args[0], "<"+tier+"/") && c.number(2) <= entry:
				p.entries++
			case onFile:
				wrong(c, "a file is read")
			}
		case "read", "readv", "preadv", "preadv2", "splice", "copy_file_range":
			if onFile {
				wrong(c, "a file is read")
			}
		default:
			if onFile {
				wrong(c, "a file is touched")
			}
		}
	}
	return p
}

// TestSyscalls counts what warm requests cost: bytes go from the pages of the cache to the socket by large calls, no file
// is opened, nothing of one is read but whose a page is, and nothing is synced.
func TestSyscalls(t *testing.T) {
	tier := memoryDir(t)
	s := Start(t, Options{Tiers: true, Args: []string{"--cache-tier", "dir=" + tier + ",quota=256MiB,medium=mem"}})
	r := newRig(s)
	r.mkbucket(t, "warm")
	large, small := content{"/warm/large", 1, 64 << 20}, content{"/warm/small", 1, 4 << 10}
	r.mustPut(t, large.name, large)
	r.mustPut(t, small.name, small)
	r.http.Transport.(*http.Transport).MaxConnsPerHost = 1 // so that its socket is there before and after
	get := func(c content) func() {
		return func() {
			if _, cache, err := r.get(t.Context(), c.name, c); err != nil || cache != "HIT" {
				t.Errorf("GET %s: %s, %v", c.name, cache, err)
			}
		}
	}
	open := func(c content) func() {
		return func() {
			resp, err := r.send(t.Context(), r.webhdfs("GET", c.name, "OPEN", "", nil))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if err := same(resp.Body, c); err != nil {
				t.Errorf("OPEN %s: %v", c.name, err)
			}
		}
	}
	head := func() {
		if status, h, _ := r.do(t, r.request("HEAD", large.name, nil)); status != 200 || h.Get("Content-Length") != fmt.Sprint(large.size) {
			t.Errorf("HEAD: %d %v", status, h)
		}
	}
	ranged := func() {
		status, _, b := r.do(t, r.request("GET", large.name, nil, "Range", "bytes=30000000-30999999"))
		want := make([]byte, 1_000_000)
		large.ReadAt(want, 30_000_000)
		if status != 206 || string(b) != string(want) {
			t.Errorf("a range: %d, %d bytes", status, len(b))
		}
	}
	requests := []struct {
		name  string
		do    func()
		bytes int64 // of the body that must leave by large calls
		most  int   // calls
	}{
		{"GET of 64 MiB", get(large), large.size, 1000},
		{"OPEN of 64 MiB", open(large), large.size, 1000},
		{"a range of 1 MB", ranged, 1_000_000, 100},
		{"GET of 4 KiB", get(small), 0, 12},
		{"HEAD", head, 0, 12},
	}
	for range 2 {
		for _, q := range requests { // connections, pools and the like
			q.do()
		}
	}
	tr := attach(t, s)
	spans := make([]span, len(requests))
	for i, q := range requests {
		time.Sleep(300 * time.Millisecond) // what the writes before left to the background has ended: etcd commits every 100 ms
		spans[i] = tr.measure(tier, q.do)
	}
	time.Sleep(300 * time.Millisecond) // the tracer is behind what it traces
	calls := tr.detach()
	for i, q := range requests {
		p := spans[i].judge(calls, tier)
		t.Logf("%s: %d calls %v; %d large writes of %d bytes, %d bytes in small ones; %d pages looked up", q.name, p.calls, p.names, p.large, p.largeSize, p.smallSize, p.entries)
		for _, w := range p.wrong {
			t.Errorf("%s: %s", q.name, w)
		}
		if p.calls > q.most {
			t.Errorf("%s: %d calls, at most %d are to be expected", q.name, p.calls, q.most)
		}
		if p.calls == 0 || q.bytes == 0 && p.smallSize == 0 {
			t.Errorf("%s: the trace does not show it", q.name)
		}
		if most := int(q.bytes/page) + 2; p.entries > most || q.name == "HEAD" && p.entries > 0 {
			t.Errorf("%s: %d pages were looked up, at most %d are to be expected", q.name, p.entries, most)
		}
		if p.largeSize < q.bytes-copied || q.bytes > 0 && p.smallSize > copied {
			t.Errorf("%s: %d bytes left straight from the cache, want %d", q.name, p.largeSize, q.bytes)
		}
	}

	// The means are sound: a cold read shows what a warm one must not.
	cold := Start(t, Options{Tiers: true, Args: []string{"--cache-tier", "dir=" + memoryDir(t) + ",quota=256MiB,medium=mem"}})
	rc := newRig(cold)
	rc.mkbucket(t, "cold")
	file := filepath.Join(cold.Data, "root", "cold", "object")
	if err := os.WriteFile(file, content{"cold", 1, 3 << 20}.bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	tc := attach(t, cold)
	at := tc.measure("/nowhere", func() {
		if _, cache, err := rc.get(t.Context(), "/cold/object", content{"cold", 1, 3 << 20}); err != nil || cache == "HIT" {
			t.Errorf("a cold GET: %s, %v", cache, err)
		}
	})
	if p := at.judge(tc.detach(), "/nowhere"); len(p.wrong) == 0 {
		t.Errorf("a cold GET looks as a warm one must: %v", p.names)
	}
	Minimum(t, "syscalls", len(requests)+1)
}
