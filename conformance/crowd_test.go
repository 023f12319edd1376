package conformance

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// crowd returns how many clients come at once: few unless the environment asks for more.
func crowd(t *testing.T, few int) int {
	t.Helper()
	if v := os.Getenv("SLUICE_CROWD"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < few {
			t.Fatalf("SLUICE_CROWD=%s is not a number from %d on", v, few)
		}
		return n
	}
	return few
}

// TestCrowd has many clients at once at one object.
func TestCrowd(t *testing.T) {
	Versitygw(t) // or skip the whole of it
	if _, err := exec.LookPath("bash"); err != nil {
		Skip(t, "bash, which runs configs/cluster/run, is not installed")
	}
	cases := 0
	t.Run("a cold object is read from its store once", func(t *testing.T) { cases += coldCrowd(t) })
	t.Run("slow clients cost little memory", func(t *testing.T) { cases += slowCrowd(t) })
	Minimum(t, "crowd", cases)
}

// coldCrowd has all clients read all of an object that nobody has read before. What the store sends is counted on its way.
func coldCrowd(t *testing.T) int {
	n := crowd(t, 100)
	store := StartVersitygw(t)
	makeBucket(t, store, "crowd")
	var sent atomic.Int64
	store.URL = "http://" + counted(t, strings.TrimPrefix(store.URL, "http://"), &sent)
	r := newRig(Start(t, Options{Args: []string{"--mount", store.Mount("/crowd", "crowd", "")}}))
	is := content{"/crowd/cold", 0, 64 << 20}
	if err := os.WriteFile(filepath.Join(store.Dir, "crowd", "cold"), is.bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	before := sent.Load()
	want := is.bytes()
	var begun, ended sync.WaitGroup
	begun.Add(n)
	for i := range n {
		ended.Go(func() {
			begun.Done()
			begun.Wait()
			if err := readAll(t, r, is.name, want); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	ended.Wait()
	given := sent.Load() - before
	const heads = 64 << 10 // of the answers
	t.Logf("%d clients read %d bytes each; the store sent %d", n, is.size, given)
	if given < is.size || given > is.size+heads {
		t.Errorf("the store sent %d bytes for an object of %d", given, is.size)
	}
	return n
}

// counted passes connections on to addr, and counts what comes back.
func counted(t *testing.T, addr string, n *atomic.Int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				defer server.Close()
				go func() { io.Copy(server, client); server.Close() }()
				io.Copy(client, io.TeeReader(server, counter{n}))
			}()
		}
	}()
	return l.Addr().String()
}

// counter counts what is written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

func readAll(t *testing.T, r *rig, path string, want []byte) error {
	resp, err := r.send(t.Context(), r.request("GET", path, nil))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return fmt.Errorf("%s", resp.Status)
	}
	got := make([]byte, 64<<10)
	for at := 0; ; {
		k, err := io.ReadFull(resp.Body, got)
		if !bytes.Equal(got[:k], want[at:min(at+k, len(want))]) {
			return fmt.Errorf("other bytes at %d", at)
		}
		at += k
		switch {
		case err == nil:
		case at == len(want):
			return nil
		default:
			return fmt.Errorf("after %d bytes: %w", at, err)
		}
	}
}

// slowCrowd has clients pull 1 GiB each through a gateway, slower than it could send.
func slowCrowd(t *testing.T) int {
	n := crowd(t, 300)
	lake := t.TempDir()
	c, _ := startCluster(t, "--mount", "/lake=file://"+lake)
	const size = 1 << 30
	f, err := os.Create(filepath.Join(lake, "large"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil { // zeros, which take no room
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r := newRig(&Server{S3: c.S3[0]})
	gateway := 0
	for _, p := range c.processes {
		if p.name == "g1" {
			gateway = p.pid
		}
	}
	before := memory(t, gateway)
	var slow []io.Reader
	for range n {
		s, err := pull(t, r, "/lake/large")
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, s)
	}
	for range 4 { // all of them, a little each
		time.Sleep(500 * time.Millisecond)
		for i, s := range slow {
			if err := onlyZeros(s, 256<<10); err != nil {
				t.Fatalf("client %d: %v", i, err)
			}
		}
	}
	after := memory(t, gateway)
	t.Logf("%d clients: the gateway's resident memory was %d MiB and is %d MiB", n, before>>20, after>>20)
	const most = 350 << 20
	if after > most {
		t.Errorf("the gateway takes %d MiB", after>>20)
	}
	return n
}

// memory returns the resident memory of a process. Source: proc_pid_status(5).
func memory(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// pull asks for a file of zeros, whose bytes are left to be read.
func pull(t *testing.T, r *rig, path string) (io.Reader, error) {
	resp, err := r.send(t.Context(), r.request("GET", path, nil))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 {
		return nil, fmt.Errorf("%s", resp.Status)
	}
	return resp.Body, nil
}

// onlyZeros reads n more zeros.
func onlyZeros(body io.Reader, n int) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(body, b); err != nil {
		return err
	}
	if i := mismatch(b, make([]byte, n)); i >= 0 {
		return fmt.Errorf("a byte that is not 0, %d bytes on", i)
	}
	return nil
}
