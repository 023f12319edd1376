package conformance

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// hole is an address behind which a server is, until it swallows all that is sent there.
type hole struct {
	target, addr string
	drops        bool // what it does to connections: it has them wait for an answer, or to be made at all

	mu    sync.Mutex
	l     net.Listener
	full  []int // file descriptors of a listener that accepts nothing, and of connections that fill it
	conns []net.Conn
	deaf  bool
	wg    sync.WaitGroup
}

func newHole(t *testing.T, target string, drops bool) *hole {
	t.Helper()
	h := &hole{target: target, drops: drops, addr: FreePort(t)}
	h.open(t)
	t.Cleanup(func() { h.shut(t); h.wg.Wait() })
	return h
}

// open passes connections on.
func (h *hole) open(t *testing.T) {
	t.Helper()
	h.shut(t)
	l, err := net.Listen("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.l, h.deaf = l, false
	h.mu.Unlock()
	h.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			deaf := h.deaf
			h.conns = append(h.conns, c)
			h.mu.Unlock()
			if !deaf {
				h.wg.Go(func() { h.pass(c) })
			}
		}
	})
}

// pass joins a connection with one to the target, until the hole swallows what comes.
func (h *hole) pass(c net.Conn) {
	s, err := net.Dial("tcp", h.target)
	if err != nil {
		c.Close()
		return
	}
	h.mu.Lock()
	h.conns = append(h.conns, s)
	h.mu.Unlock()
	copying := func(to, from net.Conn) {
		b := make([]byte, 16<<10)
		for {
			n, err := from.Read(b)
			h.mu.Lock()
			deaf := h.deaf
			h.mu.Unlock()
			if deaf {
				return // with both ends open
			}
			if n > 0 {
				_, _ = to.Write(b[:n])
			}
			if err != nil {
				to.Close()
				return
			}
		}
	}
	h.wg.Go(func() { copying(s, c) })
	copying(c, s)
}

// swallow has nothing answered any more, on connections that are there or that come.
func (h *hole) swallow(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	h.deaf = true
	h.mu.Unlock()
	if !h.drops {
		return
	}
	h.shut(t)
	_, text, _ := net.SplitHostPort(h.addr)
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	// A listener whose queue is full: the kernel drops what asks for another connection.
	at := &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	fd := socket(t, 0)
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, at); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	h.full = []int{fd}
	for range 8 {
		c := socket(t, syscall.SOCK_NONBLOCK)
		if err := syscall.Connect(c, at); err != nil && err != syscall.EINPROGRESS {
			t.Fatal(err)
		}
		h.full = append(h.full, c)
	}
	eventually(t, 10*time.Second, func() error {
		c, err := net.DialTimeout("tcp", h.addr, 300*time.Millisecond)
		if err != nil {
			return nil
		}
		h.mu.Lock()
		h.conns = append(h.conns, c)
		h.mu.Unlock()
		return fmt.Errorf("%s still takes connections", h.addr)
	})
}

func socket(t *testing.T, flags int) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// shut ends all that is there.
func (h *hole) shut(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.l != nil {
		h.l.Close()
		h.l = nil
	}
	for _, c := range h.conns {
		c.Close()
	}
	for _, fd := range h.full {
		_ = syscall.Close(fd)
	}
	h.conns, h.full = nil, nil
}

// numbers returns the numbers of /metrics that begin with any of the names, by their whole names.
func (m *mounts) numbers(t testing.TB, names ...string) map[string]float64 {
	t.Helper()
	resp, err := http.Get(m.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if ok && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(name, n+"{") }) {
			if all[name+"}"], err = strconv.ParseFloat(value, 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

// waits returns how many callers had to wait for the store of a mount.
func (m *mounts) waits(t testing.TB, mount string) float64 {
	t.Helper()
	n, ok := m.numbers(t, "sluice_ufs_waits_total")[fmt.Sprintf("sluice_ufs_waits_total{mount=%q}", mount)]
	if !ok {
		t.Fatalf("nothing is counted for %s", mount)
	}
	return n
}

// stateOf returns the state of a mount as the admin API has it.
func (m *mounts) stateOf(t testing.TB, path string) string {
	t.Helper()
	items, _ := m.ok(t, http.StatusOK, "GET", api, nil)["items"].([]any)
	for _, i := range items {
		if x, ok := i.(map[string]any); ok && x["path"] == path {
			state, _ := x["state"].(string)
			return state
		}
	}
	t.Fatalf("there is no mount %s", path)
	return ""
}

// TestIsolation has the stores of two mounts swallow what is sent to them: one takes connections and never answers, the other takes none.
// Nobody who asks for something else waits for them, from the first moment on; what is known of them is served, and marked.
func TestIsolation(t *testing.T) {
	store := StartVersitygw(t)
	whole, m := t, newMounts(t, "isolation", store, Options{})
	target, err := url.Parse(store.URL)
	if err != nil {
		t.Fatal(err)
	}
	dead := map[string]*hole{"silent": newHole(t, target.Host, false), "dropping": newHole(t, target.Host, true)}
	m.attach(t, "/alive", "file://"+t.TempDir(), map[string]any{"sync_interval": "0s"})
	m.write(t, "/alive/x", "x")
	known := map[string][]string{}
	for name, h := range dead {
		makeBucket(t, store, name)
		for _, key := range []string{"warm", "cold", "d/listed"} {
			behindBucket(store, name)(t, key, key)
		}
		options := map[string]any{}
		for k, v := range store.Options() {
			options[k] = v
		}
		options["endpoint"] = "http://" + h.addr
		m.attach(t, "/"+name, "s3://"+name, map[string]any{"sync_interval": "1s", "options": options})
		m.expect(t, "/"+name+"/warm", "warm")
		known[name] = m.names(t, "/"+name+"/")
	}
	elsewhere := func(t *testing.T) {
		t.Helper()
		before := map[string]float64{}
		for name := range dead {
			before[name] = m.waits(t, "/"+name)
		}
		for range 20 {
			m.expect(t, "/alive/x", "x")
			m.write(t, "/alive/y", "y")
			m.names(t, "/alive/")
			if status, _, b := m.fetch(t, "/"); status != http.StatusOK || strings.Count(string(b), "<Bucket>") != 3 {
				t.Fatalf("ListBuckets: %d %s", status, b)
			}
			for _, op := range []string{"LISTSTATUS", "GETFILESTATUS"} {
				if _, err := m.hdfs(t.Context(), "GET", "/", op, "", nil, 0); err != nil {
					t.Fatalf("%s of /: %v", op, err)
				}
			}
		}
		for name := range dead {
			if n := m.waits(t, "/"+name) - before[name]; n != 0 {
				t.Errorf("%v of them waited for the store of /%s", n, name)
			}
		}
	}
	const late = 30 * time.Second
	var stuck sync.WaitGroup
	m.run(t, "others do not wait while it is not known yet", func(t *testing.T) {
		for _, h := range dead {
			h.swallow(t)
		}
		for name := range dead {
			before := m.waits(t, "/"+name)
			for i := range 4 {
				stuck.Go(func() {
					ctx, cancel := context.WithTimeout(whole.Context(), 2*time.Minute)
					defer cancel()
					req, err := m.request("GET", fmt.Sprintf("/%s/stuck-%d", name, i), nil, "Cache-Control", "no-cache").build(ctx)
					if err != nil {
						return
					}
					if resp, err := http.DefaultClient.Do(req); err == nil {
						resp.Body.Close()
					}
				})
			}
			eventually(t, late, func() error {
				if n := m.waits(t, "/"+name) - before; n < 4 {
					return fmt.Errorf("%v requests wait for /%s", n, name)
				}
				return nil
			})
		}
		elsewhere(t)
	})
	m.run(t, "it is found out", func(t *testing.T) {
		for name := range dead {
			eventually(t, 4*late, func() error {
				if s := m.stateOf(t, "/"+name); !strings.HasPrefix(s, "degraded: the store has not answered since ") {
					return fmt.Errorf("/%s is %s", name, s)
				}
				return nil
			})
		}
		stuck.Wait() // who waits is told
	})
	m.run(t, "what is known is served and marked", func(t *testing.T) {
		for name := range dead {
			before := m.waits(t, "/"+name)
			h := m.expect(t, "/"+name+"/warm", "warm")
			if age, err := strconv.Atoi(h.Get("Age")); h.Get("X-Cache") != "STALE" || err != nil || age < 1 {
				t.Errorf("/%s/warm: X-Cache %q, Age %q", name, h.Get("X-Cache"), h.Get("Age"))
			}
			if got := m.names(t, "/"+name+"/"); len(got) == 0 || !slices.Equal(got, known[name]) {
				t.Errorf("the keys are %v, and were %v", got, known[name])
			}
			for _, path := range []string{"/cold", "/none", "/d/other"} {
				if status, _, b := m.fetch(t, "/"+name+path); status != http.StatusServiceUnavailable {
					t.Errorf("GET /%s%s: %d %.200s", name, path, status, b)
				}
			}
			if status, _, b := m.fetch(t, "/"+name+"/warm", "Cache-Control", "no-cache"); status != http.StatusServiceUnavailable {
				t.Errorf("with no-cache: %d %.200s", status, b)
			}
			if status, _, b := m.do(t, m.request("PUT", "/"+name+"/new", []byte("new"))); status != http.StatusServiceUnavailable {
				t.Errorf("a PUT: %d %.200s", status, b)
			}
			if n := m.waits(t, "/"+name) - before; n != 0 {
				t.Errorf("%v of them waited for the store of /%s", n, name)
			}
		}
	})
	m.run(t, "others do not wait when it is", elsewhere)
	m.run(t, "it comes back", func(t *testing.T) {
		for name, h := range dead {
			h.open(t)
			eventually(t, 2*late, func() error {
				if s := m.stateOf(t, "/"+name); s != "ready" {
					return fmt.Errorf("/%s is %s", name, s)
				}
				return nil
			})
			m.expect(t, "/"+name+"/cold", "cold")
			m.expect(t, "/"+name+"/none", "-")
			m.expect(t, "/"+name+"/new", "-")
			if h := m.expect(t, "/"+name+"/warm", "warm"); h.Get("X-Cache") == "STALE" {
				t.Errorf("/%s/warm is still STALE", name)
			}
		}
	})
}
