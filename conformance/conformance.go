// Package conformance runs real clients against the built binary: nothing in it knows the inside of Sluice. Its tests
// build sluice, start it on loopback ports under a temporary data directory, and let boto3, the AWS command line, Hadoop's
// FsShell, Spark and others use it, or kill it and count what is left.
//
// What a suite needs beside Go (Python packages, jars, a separate S3 server, strace) is installed by Tool under a cache
// directory outside the checkout: SLUICE_CACHE, else "sluice" in the user's cache directory. Where that is not possible the
// suite is skipped with the reason; with SLUICE_REQUIRE=1 (CI) a skip is a failure. Every suite says how many cases it
// ran and fails below the number in minimum.txt.
package conformance

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The root key pair every server of the tests is started with.
const (
	AccessKey = "conformance"
	SecretKey = "conformance-secret-key"
)

// CacheDir returns the directory for what the suites install.
func CacheDir() string {
	if d := os.Getenv("SLUICE_CACHE"); d != "" {
		return d
	}
	d, err := os.UserCacheDir()
	if err != nil {
		d = os.TempDir()
	}
	return filepath.Join(d, "sluice")
}

// Skip skips the test for want of something, or fails it where everything is required.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("SLUICE_REQUIRE") != "" {
		t.Fatalf("required and missing: "+format, args...)
	}
	t.Skipf(format, args...)
}

var build = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("SLUICE_BIN"); bin != "" {
		return bin, nil
	}
	dir := filepath.Join(CacheDir(), "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "sluice-"+strconv.Itoa(os.Getpid()))
	out, err := exec.Command("go", "build", "-o", bin, "github.com/sluicefs/sluice").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

// Main runs the package's tests and removes the binary they built.
func Main(m *testing.M) int {
	code := m.Run()
	if bin, err := build(); err == nil && os.Getenv("SLUICE_BIN") == "" {
		os.Remove(bin)
	}
	return code
}

// Binary returns the path of the built sluice.
func Binary(t testing.TB) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// Server is a running sluice.
type Server struct {
	S3, S3TLS, WebHDFS, Admin string // URLs
	Data                      string
	CA                        string // certificate file of the TLS listener, "" without
	Args                      []string
	Env                       []string

	cmd    *exec.Cmd
	log    *syncBuffer
	exited chan struct{}
	err    error
}

// Options say how a Server is started.
type Options struct {
	Data  string   // "": a temporary directory
	TLS   bool     // with a TLS listener for S3
	Args  []string // more arguments of serve
	Env   []string
	Exec  []string // a command to run it under (strace …)
	Ports *Server  // use the ports of an earlier server
	Tiers bool     // Args name the cache tiers
}

// Start starts sluice and waits until it is ready. It is stopped at the end of the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{Data: o.Data}
	if s.Data == "" {
		s.Data = t.TempDir()
	}
	if o.Ports != nil {
		s.S3, s.S3TLS, s.WebHDFS, s.Admin, s.CA = o.Ports.S3, o.Ports.S3TLS, o.Ports.WebHDFS, o.Ports.Admin, o.Ports.CA
	} else {
		s.S3, s.WebHDFS, s.Admin = "http://"+FreePort(t), "http://"+FreePort(t), "http://"+FreePort(t)
	}
	host := func(url string) string { _, h, _ := strings.Cut(url, "://"); return h }
	args := []string{"serve", "--data", s.Data, "--s3-listen", host(s.S3), "--webhdfs-listen", host(s.WebHDFS), "--admin-listen", host(s.Admin)}
	if o.TLS {
		cert, key := Certificate(t)
		if o.Ports == nil {
			s.S3TLS, s.CA = "https://"+FreePort(t), cert
		}
		args = append(args, "--s3-tls-listen", host(s.S3TLS), "--tls-cert", cert, "--tls-key", key)
	}
	memory, err := os.MkdirTemp("/dev/shm", "sluice-conformance-") // a data directory's own would outlive the test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(memory) })
	if !o.Tiers {
		args = append(args, "--cache-tier", "dir="+memory+",quota=256MiB,medium=mem", "--cache-tier", "dir="+filepath.Join(s.Data, "cache")+",quota=1GiB,medium=ssd")
	}
	s.Args = append(args, o.Args...)
	s.Env = append(os.Environ(), "SLUICE_ROOT_ACCESS_KEY="+AccessKey, "SLUICE_ROOT_SECRET_KEY="+SecretKey)
	s.Env = append(s.Env, o.Env...)
	line := append(append(o.Exec[:len(o.Exec):len(o.Exec)], Binary(t)), s.Args...)
	s.cmd = exec.Command(line[0], line[1:]...)
	s.cmd.Env = s.Env
	s.log = &syncBuffer{}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.exited = make(chan struct{})
	go func() { s.err = s.cmd.Wait(); close(s.exited) }()
	t.Cleanup(func() { s.Stop(t) }) // runs before the memory tier is removed
	s.waitReady(t)
	return s
}

func (s *Server) waitReady(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		resp, err := http.Get(s.Admin + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-s.exited:
			t.Fatalf("sluice ended at its start: %v\n%s", s.err, s.log)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("sluice is not ready after 30 s\n%s", s.log)
		}
	}
}

// Pid returns the process id.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Log returns what the server has written so far.
func (s *Server) Log() string { return s.log.String() }

// Kill ends the server as kill -9 does and waits until it is gone.
func (s *Server) Kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// Stop ends the server as SIGTERM does, and fails the test if it does not end cleanly within 30 s.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	select {
	case <-s.exited:
		return
	default:
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
		if s.err != nil {
			t.Errorf("sluice ended with %v\n%s", s.err, tail(s.Log()))
		}
	case <-time.After(30 * time.Second):
		s.Kill()
		t.Errorf("sluice did not end within 30 s of SIGTERM\n%s", tail(s.Log()))
	}
}

func tail(s string) string {
	const most = 8 << 10
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// Sluice runs the binary's other commands with the server's address and keys, and returns its output and exit code.
func (s *Server) Sluice(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(Binary(t), args...)
	cmd.Env = append(s.Env, "SLUICE_ADMIN_URL="+s.Admin)
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errb.String(), cmd.ProcessState.ExitCode()
}

// given has the ports that FreePort has returned.
var given sync.Map

// FreePort returns a loopback address nobody listens on, and another one each time. Its port is none that the system gives to
// connections by itself, one of which could have it by the time a server wants it.
func FreePort(t testing.TB) string {
	t.Helper()
	var last error
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(18000))
		if _, again := given.LoadOrStore(addr, true); again {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if last = err; err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatalf("no port is free: %v", last)
	return ""
}

// syncBuffer is a bytes.Buffer for two goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

//go:embed minimum.txt
var minimums string

// Minimum fails the test if a suite ran fewer cases than minimum.txt says it has.
func Minimum(t testing.TB, suite string, cases int) {
	t.Helper()
	fmt.Printf("%s: %d cases\n", suite, cases)
	for line := range strings.Lines(minimums) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == suite {
			if least, err := strconv.Atoi(f[1]); err != nil || cases < least {
				t.Errorf("%s ran %d cases; minimum.txt says at least %s", suite, cases, f[1])
			}
			return
		}
	}
	t.Errorf("%s has no line in minimum.txt", suite)
}

// Case is one line of a client script's report.
type Case struct {
	Name  string `json:"case"`
	Error string `json:"error"` // "" if it passed
}

// RunScript runs a client script that prints one line of JSON per case, and reports the cases as subtests.
func RunScript(t *testing.T, suite string, timeout time.Duration, env []string, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = env
	var errb syncBuffer
	cmd.Stderr = &errb
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cases := 0
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c Case
		if json.Unmarshal(lines.Bytes(), &c) != nil || c.Name == "" {
			continue
		}
		cases++
		t.Run(strings.ReplaceAll(c.Name, "/", "_"), func(t *testing.T) {
			if c.Error != "" {
				t.Error(c.Error)
			}
		})
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v\n%s", suite, err, tail(errb.String()))
	}
	Minimum(t, suite, cases)
}
