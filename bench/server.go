package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// asyncThrough is a write type: workers hold what was written, and the store gets it later.
const asyncThrough = "ASYNC_THROUGH"

// The servers of a run.
const (
	sluice       = "sluice"
	sluiceDisk   = "sluice-disk"  // its only cache tier is on disk
	sluiceBase   = "sluice-base"  // another build
	sluiceAsync  = "sluice-async" // its writes are of type asyncThrough
	minio        = "minio"
	versitygw    = "versitygw"
	rclone       = "rclone"
	serveContent = "servecontent"
	rawWrite     = "raw-write"    // write(2) from the mapping of a file on tmpfs
	rawSendfile  = "raw-sendfile" // sendfile(2) of a file on tmpfs
	rawWriteD    = "raw-write-disk"
	rawSendfileD = "raw-sendfile-disk"
	durable      = "durable-loop" // no server: create, write, fsync, rename, fsync the directory
)

const (
	versitygwVersion = "v1.8.0" // and the one that conformance/tools.go installs
	rcloneVersion    = "v1.76.0"
	minioVersion     = "v0.0.0-20260212201848-7aac2a2c5b7c" // the last before its repository was archived
)

// server is a process that is measured.
type server struct {
	name, command, note string
	addr                string
	s3                  bool   // objects are put over S3; else they are files
	dir                 string // of the files
	cmd                 *exec.Cmd
	exited              chan struct{}
	behind              []*server // those it has its bytes from, which are its own
	admin               string    // address of its metrics; "": off
}

// startAll starts the servers that the rows need and gives them the objects. Those it returns must be stopped, even if it fails.
func startAll(ctx context.Context, o options, todo []row) ([]*server, error) {
	var names []string
	for _, r := range todo {
		for _, name := range append([]string{r.subject}, r.peers...) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	var bin string
	if slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, sluice) }) {
		bin = filepath.Join(o.dir, "built-sluice")
		if given := os.Getenv("SLUICE_BIN"); given != "" {
			bin = given
		} else if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/sluicefs/sluice").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	var all []*server
	for _, name := range names {
		s, err := start(ctx, o, name, bin)
		if s != nil {
			all = append(all, s)
		}
		if err != nil {
			return all, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, s := range all {
		began := time.Now()
		if err := s.fill(ctx, needs(todo)); err != nil {
			return all, fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s has its objects after %.1f s\n", s.name, time.Since(began).Seconds())
	}
	return all, nil
}

func start(ctx context.Context, o options, name, bin string) (*server, error) {
	s := &server{name: name, dir: filepath.Join(o.dir, name)}
	if name == rawWrite || name == rawSendfile { // one set of files for both ways to send them
		s.dir = filepath.Join(o.memory, "raw")
	} else if name == rawWriteD || name == rawSendfileD || name == serveContent || name == rclone {
		s.dir = filepath.Join(o.dir, "files")
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	if name == durable {
		s.command, s.note = "(in the client's process)", "threads that create, write, fsync, rename and fsync the directory: no HTTP, no second process"
		return s, nil
	}
	var err error
	if s.addr, err = freePort(); err != nil {
		return nil, err
	}
	if name == sluiceCold {
		return s, startCold(ctx, o, s, bin)
	}
	if name == sluiceRemote || name == sluiceLent || name == spliceProxy || name == reverseProxy {
		return s, startRemote(ctx, o, s, bin)
	}
	var argv []string
	env := os.Environ()
	switch name {
	case sluice, sluiceDisk, sluiceBase, sluiceAsync:
		s.s3 = true
		if name == sluiceBase {
			bin = o.base
		}
		s.note = "journal on embedded etcd, root store on the disk, access log to a file; a PUT is acknowledged after fsync of file, directory and journal"
		argv = []string{bin, "serve", "--data", s.dir, "--s3-listen", s.addr, "--webhdfs-listen", "off", "--admin-listen", "off"}
		if name == sluiceAsync {
			s.note = "as sluice, writes of type ASYNC_THROUGH with one replica: a PUT is acknowledged after fsync of the held bytes and the journal"
			if s.admin, err = freePort(); err != nil {
				return nil, err
			}
			argv[len(argv)-1] = s.admin
			argv = append(argv, "--write-type", asyncThrough, "--replicas", "1")
		}
		if name != sluiceDisk {
			argv = append(argv, "--cache-tier", "dir="+filepath.Join(o.memory, "cache-"+name)+",quota=1GiB,medium=mem")
		}
		argv = append(argv, "--cache-tier", "dir="+filepath.Join(s.dir, "cache")+",quota=2GiB,medium=ssd")
		env = append(env, "SLUICE_ROOT_ACCESS_KEY="+accessKey, "SLUICE_ROOT_SECRET_KEY="+secretKey)
	case versitygw:
		s.s3 = true
		s.note = versitygwVersion + ", keep-alive (its default closes each connection), no access log; a PUT is acknowledged without any fsync"
		gw, err := installVersitygw(ctx)
		if err != nil {
			return nil, err
		}
		root := filepath.Join(s.dir, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			return nil, err
		}
		argv = []string{gw, "--port", s.addr, "--access", accessKey, "--secret", secretKey, "--region", region, "--keep-alive", "--quiet", "posix", root}
	case minio:
		s.s3 = true
		s.note = minioVersion + ", one drive; a PUT is acknowledged after fdatasync of files, without any fsync of a directory"
		bin, err := installMinio(ctx)
		if err != nil {
			return nil, err
		}
		argv = []string{bin, "server", "--quiet", "--address", s.addr, "--console-address", "127.0.0.1:0", filepath.Join(s.dir, "root")}
		env = append(env, "MINIO_ROOT_USER="+accessKey, "MINIO_ROOT_PASSWORD="+secretKey, "MINIO_UPDATE=off", "MINIO_BROWSER=off")
		if err := s.exec(ctx, argv, env); err != nil {
			return s, err
		}
		return s, s.awaitStatus(ctx, "/minio/health/cluster", 200)
	case rclone:
		s.note = rcloneVersion + " serve s3 over the files of its local backend, without its cache of them, no access log"
		bin, err := installRclone(ctx)
		if err != nil {
			return nil, err
		}
		argv = []string{bin, "serve", "s3", "--config", os.DevNull, "--addr", s.addr, "--auth-key", accessKey + "," + secretKey, s.dir}
	default:
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		argv = []string{self, serveCommand, name, s.addr, s.dir}
		s.note = map[string]string{
			serveContent: "net/http and http.ServeContent of files on the disk, no signatures",
			rawWrite:     "a thread for each connection, writev(2) of the header and the mapping of a file on tmpfs, no signatures",
			rawSendfile:  "a thread for each connection, sendfile(2) of an open file on tmpfs, no signatures",
			rawWriteD:    "as raw-write, of files on the disk, in the kernel's page cache",
			rawSendfileD: "as raw-sendfile, of files on the disk, in the kernel's page cache",
		}[name]
	}
	return s, s.exec(ctx, argv, env)
}

// exec starts the process, its output to a file, and waits until it accepts connections.
func (s *server) exec(ctx context.Context, argv, env []string) error {
	s.command = strings.Join(argv, " ")
	if home, err := os.UserHomeDir(); err == nil && home != "/" {
		s.command = strings.ReplaceAll(s.command, home+"/", "~/")
	}
	log, err := os.Create(filepath.Join(s.dir, s.name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = env, log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.exited = make(chan struct{})
	go func() { s.cmd.Wait(); close(s.exited) }()
	for deadline := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-s.exited:
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%s ended at its start:\n%s", s.command, text)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not listen after 30 s", s.command)
		}
	}
}

// stop ends the process: politely, and after 10 s not.
func (s *server) stop() {
	for _, b := range s.behind {
		defer b.stop()
	}
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		s.cmd.Process.Kill()
		<-s.exited
	}
}

// cpu returns the processor time the process has used so far. Source: proc_pid_stat(5), fields 14 and 15, in ticks of 10 ms.
func (s *server) cpu() time.Duration {
	if s.cmd == nil {
		return 0
	}
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(s.cmd.Process.Pid) + "/stat")
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// awaitStatus waits until the server answers GET path with the status: it listens before it serves.
func (s *server) awaitStatus(ctx context.Context, path string, status int) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		r, err := http.Get("http://" + s.addr + path)
		if err == nil {
			r.Body.Close()
			if r.StatusCode == status {
				return nil
			}
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer GET %s with %d after 30 s", s.name, path, status)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// installMinio returns the binary of MinIO, installed at its first use: some minutes of processor time.
func installMinio(ctx context.Context) (string, error) {
	dir := filepath.Join(cacheDir(), "minio")
	bin := filepath.Join(dir, "minio")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", "github.com/minio/minio@"+minioVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
	cmd.Dir = os.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install: %w\n%s", err, out)
	}
	return bin, nil
}

// installVersitygw returns the binary of versitygw, installed where the conformance tests have it.
func installVersitygw(ctx context.Context) (string, error) {
	dir := filepath.Join(cacheDir(), "versitygw")
	bin := filepath.Join(dir, "versitygw")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", "github.com/versity/versitygw/cmd/versitygw@"+versitygwVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
	cmd.Dir = os.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install: %w\n%s", err, out)
	}
	return bin, nil
}

// rcloneMain is rclone with nothing but its local backend and `serve s3`: the other backends and commands take minutes to build.
const rcloneMain = `package main

import (
	_ "github.com/rclone/rclone/backend/local"
	"github.com/rclone/rclone/cmd"
	_ "github.com/rclone/rclone/cmd/serve/s3"
)

func main() { cmd.Main() }
`

// installRclone returns the binary of rclone, built at its first use: about a minute of processor time.
func installRclone(ctx context.Context) (string, error) {
	dir := filepath.Join(cacheDir(), "rclone")
	bin := filepath.Join(dir, "rclone-"+rcloneVersion)
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	module := "module rclone-s3\n\ngo 1.26\n\nrequire github.com/rclone/rclone " + rcloneVersion + "\n"
	for name, text := range map[string]string{"go.mod": module, "main.go": rcloneMain} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build of rclone: %w\n%s", err, out)
	}
	return bin, nil
}

// serveCommand as the first argument makes this program a server: KIND ADDR DIR follow.
const serveCommand = "serve-peer"

// serve is the peers that are made for comparison. A proxy's dir is the address of the server behind it.
func serve(kind, addr, dir string) error {
	switch kind {
	case serveContent:
		return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, err := os.Open(filepath.Join(dir, filepath.FromSlash(filepath.Clean("/"+r.URL.Path))))
			if err != nil {
				http.NotFound(w, r)
				return
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			http.ServeContent(w, r, "", info.ModTime(), f)
		}))
	case rawWrite, rawWriteD:
		runtime.GOMAXPROCS(64) // threads that wait in a system call never have to give up their processor
		return serveRaw(addr, dir, (*rawFile).write)
	case rawSendfile, rawSendfileD:
		runtime.GOMAXPROCS(64)
		return serveRaw(addr, dir, (*rawFile).sendfile)
	case spliceProxy:
		runtime.GOMAXPROCS(64)
		return serveSplice(addr, dir)
	case reverseProxy:
		return serveReverse(addr, dir)
	}
	return fmt.Errorf("%q is no peer", kind)
}
