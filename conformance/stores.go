package conformance

import (
	_ "embed"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// S3Store is an S3 server in a process of its own, for Sluice to mount and for the tests to look behind it.
type S3Store struct {
	URL                  string
	Region               string
	AccessKey, SecretKey string
	Dir                  string // where it keeps its files, "" if in memory

	line   []string
	env    []string
	health string
	cmd    *exec.Cmd
	log    *syncBuffer
	exited chan struct{}
}

// StartVersitygw starts versitygw over a directory. Its buckets are the directories in S3Store.Dir, its objects plain
// files; it cannot hold every key that S3 can.
func StartVersitygw(t testing.TB) *S3Store {
	t.Helper()
	addr := FreePort(t)
	s := &S3Store{URL: "http://" + addr, Region: "us-east-1", AccessKey: "store", SecretKey: "store-secret-key", Dir: t.TempDir(), health: "/health"}
	s.line = []string{Versitygw(t), "--port", addr, "--keep-alive", "--quiet", "--health", s.health, "posix", s.Dir}
	s.env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	s.Start(t)
	t.Cleanup(func() { s.Stop(t) })
	return s
}

// StartMoto starts moto's server, which keeps objects in memory under any key, as S3 does.
func StartMoto(t testing.TB) *S3Store {
	t.Helper()
	addr := FreePort(t)
	_, port, _ := strings.Cut(addr, ":")
	s := &S3Store{URL: "http://" + addr, Region: "us-east-1", AccessKey: "store", SecretKey: "store-secret-key", health: "/moto-api/"}
	s.line = []string{Moto(t), "-H", "127.0.0.1", "-p", port}
	s.env = append(os.Environ(), "PYTHONWARNINGS=ignore")
	s.Start(t)
	t.Cleanup(func() { s.Stop(t) })
	return s
}

//go:embed clients/moto.txt
var motoRequirements string

// Moto returns the command of moto's S3 server.
func Moto(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(CacheDir(), "moto")
	install(t, "moto", motoRequirements, func() error {
		if err := command("", "python3", "-m", "venv", "--clear", dir); err != nil {
			return err
		}
		return command("", filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", filepath.Join("clients", "moto.txt"))
	})
	return filepath.Join(dir, "bin", "moto_server")
}

// Start starts the server, again at the same address after Stop, and waits until it answers.
func (s *S3Store) Start(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(s.line[0], s.line[1:]...)
	s.cmd.Env = s.env
	s.log = &syncBuffer{}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	s.exited = exited
	go func(cmd *exec.Cmd) { cmd.Wait(); close(exited) }(s.cmd)
	deadline := time.Now().Add(30 * time.Second)
	for {
		resp, err := http.Get(s.URL + s.health)
		if err == nil {
			resp.Body.Close()
			return
		}
		select {
		case <-s.exited:
			t.Fatalf("%s ended at its start\n%s", filepath.Base(s.line[0]), s.log)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer after 30 s\n%s", filepath.Base(s.line[0]), s.log)
		}
	}
}

// Stop ends the server and waits until it is gone.
func (s *S3Store) Stop(t testing.TB) {
	t.Helper()
	select {
	case <-s.exited:
		return
	default:
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		s.cmd.Process.Kill()
		<-s.exited
	}
}

// Options are the mount options under which Sluice reaches the server.
func (s *S3Store) Options() map[string]string {
	return map[string]string{
		"endpoint": s.URL, "region": s.Region, "access_key": s.AccessKey, "secret_key": s.SecretKey, "path_style": "true",
	}
}

// Mount returns the value of --mount for a bucket of the server, with more options.
func (s *S3Store) Mount(path, bucket, options string) string {
	m := path + "=s3://" + bucket
	for _, k := range []string{"endpoint", "region", "access_key", "secret_key", "path_style"} {
		m += "," + k + "=" + s.Options()[k]
	}
	return m + options
}
