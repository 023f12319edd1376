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
	service
	Region               string
	AccessKey, SecretKey string
	Dir                  string // where it keeps its files, "" if in memory
}

// service is a program that answers HTTP.
type service struct {
	URL string

	line   []string
	env    []string
	health string // path that is answered once it runs
	cmd    *exec.Cmd
	log    *syncBuffer
	exited chan struct{}
}

// StartVersitygw starts versitygw over a directory. Its buckets are the directories in S3Store.Dir, its objects plain
// files; it cannot hold every key that S3 can. more are further flags.
func StartVersitygw(t testing.TB, more ...string) *S3Store {
	t.Helper()
	addr := FreePort(t)
	s := &S3Store{service: service{URL: "http://" + addr, health: "/health"}, Region: "us-east-1", AccessKey: "store", SecretKey: "store-secret-key", Dir: t.TempDir()}
	s.line = append([]string{Versitygw(t), "--port", addr, "--keep-alive", "--quiet", "--health", s.health}, append(more, "posix", s.Dir)...)
	s.env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	s.Start(t)
	t.Cleanup(func() { s.Stop(t) })
	return s
}

// StartVersitygwUsers is StartVersitygw with users beside the one that everything belongs to.
func StartVersitygwUsers(t testing.TB) *S3Store {
	t.Helper()
	addr := FreePort(t)
	s := &S3Store{service: service{URL: "http://" + addr, health: "/health"}, Region: "us-east-1", AccessKey: "store", SecretKey: "store-secret-key", Dir: t.TempDir()}
	s.line = []string{Versitygw(t), "--port", addr, "--keep-alive", "--quiet", "--health", s.health, "--iam-dir", t.TempDir(), "--iam-cache-disable", "posix", s.Dir}
	s.env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	s.Start(t)
	t.Cleanup(func() { s.Stop(t) })
	return s
}

// newUser makes a user of a store with users, and returns the store as that one has it.
func (s *S3Store) newUser(t testing.TB, name string) S3Store {
	t.Helper()
	u := S3Store{service: service{URL: s.URL}, Region: s.Region, AccessKey: name, SecretKey: name + "-secret-key"}
	s.users(t, "create-user", "--access", u.AccessKey, "--secret", u.SecretKey, "--role", "admin")
	return u
}

func (s *S3Store) removeUser(t testing.TB, name string) {
	t.Helper()
	s.users(t, "delete-user", "--access", name)
}

func (s *S3Store) users(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command(Versitygw(t), append([]string{"admin", "--access", s.AccessKey, "--secret", s.SecretKey, "--endpoint-url", s.URL}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("versitygw admin %q: %v %s", args, err, out)
	}
}

// StartMoto starts moto's server, which keeps objects in memory under any key, as S3 does.
func StartMoto(t testing.TB) *S3Store {
	t.Helper()
	addr := FreePort(t)
	_, port, _ := strings.Cut(addr, ":")
	s := &S3Store{service: service{URL: "http://" + addr, health: "/moto-api/"}, Region: "us-east-1", AccessKey: "store", SecretKey: "store-secret-key"}
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

// Start starts the program, again at the same address after its end, and waits until it answers.
func (s *service) Start(t testing.TB) {
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

// Kill ends the program as kill -9 does, and waits until it is gone.
func (s *service) Kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// Stop ends the program and waits until it is gone.
func (s *service) Stop(t testing.TB) {
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
		s.Kill()
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
