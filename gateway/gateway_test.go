package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/gateway/config"
	"github.com/sluicefs/sluice/ufs/localufs"
)

// testConfig returns a configuration whose listeners choose their ports and whose cache is small.
func testConfig(t *testing.T) config.Config {
	t.Helper()
	c := config.Default()
	dir := t.TempDir()
	c.Data = filepath.Join(dir, "data")
	c.S3.Listen, c.WebHDFS.Listen, c.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.Cache.Tiers = []config.Tier{{Dir: filepath.Join(dir, "cache"), Quota: 64 << 20, Medium: "ssd"}}
	return c
}

// process is a running gateway.
type process struct {
	*testing.T
	Addrs
	banner, log *syncBuffer
	root        config.Root
	stop        func() error // ends it and returns what Run did; may be called again
	cancel      func()
	done        chan struct{}
}

// syncBuffer is a buffer that the process may still write to while a test reads it.
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

// run starts a process and waits until it is ready.
func run(t *testing.T, c config.Config) *process {
	t.Helper()
	p := &process{T: t, banner: &syncBuffer{}, log: &syncBuffer{}, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan Addrs, 1)
	var err error
	go func() {
		defer close(p.done)
		err = Run(ctx, c, Options{Version: "v1", Banner: p.banner, Logger: slog.New(slog.NewTextHandler(p.log, nil)), Ready: func(a Addrs) { ready <- a }})
	}()
	p.cancel = cancel
	p.stop = func() error { cancel(); <-p.done; return err }
	t.Cleanup(func() { _ = p.stop() })
	select {
	case p.Addrs = <-ready:
	case <-p.done:
		t.Fatalf("Run: %v\n%s", err, p.log)
	}
	if p.root = c.Root; c.Root.AccessKey == "" {
		if p.root, err = ReadCredentials(c.Data); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// do sends a request and returns the status and the body; redirects are followed.
func (p *process) do(method, url, body string) (int, string) {
	p.Helper()
	r, err := http.NewRequestWithContext(p.Context(), method, url, strings.NewReader(body))
	if err != nil {
		p.Fatal(err)
	}
	if strings.HasPrefix(url, p.Admin) {
		r.SetBasicAuth(p.root.AccessKey, p.root.SecretKey.Reveal())
		if method == http.MethodPost || method == http.MethodPatch {
			r.Header.Set("Content-Type", "application/json")
		}
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (p *process) want(status int, text, method, url, body string) string {
	p.Helper()
	got, b := p.do(method, url, body)
	if got != status || !strings.Contains(b, text) {
		p.Errorf("%s %s: got %d %s, want %d with %q", method, url, got, b, status, text)
	}
	return b
}

func TestServeAndRestart(t *testing.T) {
	c := testConfig(t)
	begin := time.Now()
	p := run(t, c)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("ready after %v on an empty data directory, want at most 2s", took)
	}
	p.want(200, "ok\n", "GET", p.Admin+"/livez", "")
	p.want(200, "[+]serving ok\n[+]journal ok\n[+]root ok\nok\n", "GET", p.Admin+"/readyz?verbose", "")
	p.want(200, `sluice_build_info{`, "GET", p.Admin+"/metrics", "")
	p.want(403, "<Code>AccessDenied</Code>", "GET", p.S3+"/", "")
	p.want(201, "", "PUT", p.WebHDFS+"/webhdfs/v1/d/f?op=CREATE&data=true&user.name="+currentUser(), "over one protocol")
	p.want(200, "over one protocol", "GET", p.Admin+"/api/v1/fs/content?path=/d/f", "")
	metrics := p.want(200, `sluice_requests_total{code="201",op="CREATE",proto="webhdfs"} 1`, "GET", p.Admin+"/metrics", "")
	for _, name := range []string{`sluice_cache_used_bytes{medium="ssd",tier="0"}`, `sluice_cache_pages_total{result="hit"}`, `sluice_cache_pages_total{result="miss"}`, "sluice_journal_records_total", `sluice_ufs_calls_total{kind="ok",op="Create",store="root"}`} {
		if !strings.Contains(metrics, name) {
			t.Errorf("metrics lack %s", name)
		}
	}
	for _, line := range []string{p.S3, p.WebHDFS, p.Admin, p.root.AccessKey, p.root.SecretKey.Reveal(), "aws s3", "spark-sql", "hdfs dfs", "curl"} {
		if !strings.Contains(p.banner.String(), line) {
			t.Errorf("banner lacks %q:\n%s", line, p.banner)
		}
	}
	if err := p.stop(); err != nil {
		t.Errorf("Run after its context ended = %v, want nil", err)
	}
	secret := p.root.SecretKey.Reveal()
	if strings.Contains(p.log.String(), secret) {
		t.Error("the log shows the secret")
	}

	p = run(t, c)
	p.want(200, "over one protocol", "GET", p.Admin+"/api/v1/fs/content?path=/d/f", "")
	if p.root.SecretKey.Reveal() != secret {
		t.Error("the root key pair changed over a restart")
	}
	if strings.Contains(p.banner.String(), secret) || !strings.Contains(p.banner.String(), CredentialsFile) {
		t.Errorf("the second banner, to a file, shows the secret or not where it is:\n%s", p.banner)
	}
}

// Sluice's own directories hold its secrets: no name of them, and nothing that holds them, can be mounted.
func TestReserved(t *testing.T) {
	c := testConfig(t)
	tier := filepath.Join(t.TempDir(), "tier")
	c.Cache.Tiers = []config.Tier{{Dir: tier, Quota: 16 << 20, Medium: "ssd"}}
	p := run(t, c)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(c.Data, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{c.Data, c.Data + "/root", c.Data + "/etcd", filepath.Dir(c.Data), "/", link, link + "//root", tier} {
		for _, mode := range []string{"true", "false"} {
			p.want(422, "data directory", "POST", p.Admin+"/api/v1/mounts", fmt.Sprintf(`{"path":"/own","uri":"FILE://%s","read_only":%s}`, dir, mode))
		}
	}
}

// One directory is mounted writable once, however its path is written.
func TestOverlaps(t *testing.T) {
	p := run(t, testConfig(t))
	base := t.TempDir()
	if err := errors.Join(os.MkdirAll(base+"/x/below", 0o755), os.Symlink("x", base+"/link")); err != nil {
		t.Fatal(err)
	}
	mount := func(status int, path, uri string, readOnly bool) {
		t.Helper()
		p.want(status, "", "POST", p.Admin+"/api/v1/mounts", fmt.Sprintf(`{"path":%q,"uri":%q,"read_only":%v}`, path, uri, readOnly))
	}
	mount(201, "/a", "file://"+base+"/x", false)
	for _, path := range []string{"/x", "//x", "/%78", "/x/../x", "/link", "/link/below", ""} {
		mount(422, "/b", "file://"+base+path, false)
	}
	mount(422, "/b", "FILE://"+base+"/x/", false)
	mount(201, "/b", "file://"+base+"/link", true)
}

// A mounted directory that is removed is an outage, which its mount shows.
func TestMountState(t *testing.T) {
	p := run(t, testConfig(t))
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p.want(201, `"state":"ready"`, "POST", p.Admin+"/api/v1/mounts", fmt.Sprintf(`{"path":"/g","uri":"file://%s"}`, dir))
	p.want(404, "", "GET", p.Admin+"/api/v1/fs/content?path=/g/a", "")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	p.want(503, "", "GET", p.Admin+"/api/v1/fs/content?path=/g/b", "")
	p.want(200, "does not answer", "GET", p.Admin+"/api/v1/mounts?path=/g", "")
}

// A directory whose disk is not mounted at the start is not taken for the one that was mounted, and nothing is written to it.
func TestBareMountPoint(t *testing.T) {
	c := testConfig(t)
	base := t.TempDir()
	dir := filepath.Join(base, "plain")
	c.Mounts = []config.Mount{{Path: "/conf", URI: "file://" + base + "/conf", Options: config.Options{"create": "true"}}}
	p := run(t, c)
	p.want(201, `"state":"ready"`, "POST", p.Admin+"/api/v1/mounts", fmt.Sprintf(`{"path":"/plain","uri":"file://%s","options":{"create":"true"}}`, dir))
	p.want(201, "", "PUT", p.Admin+"/api/v1/fs/content?path=/plain/a", "kept")
	again := func(change error) {
		t.Helper()
		if err := errors.Join(p.stop(), change); err != nil {
			t.Fatal(err)
		}
	}
	again(nil)
	for _, name := range []string{"/plain", "/conf"} {
		if err := os.Rename(base+name, base+name+"_disk"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if id := identityOf(t, dir); !strings.Contains(id, "inode=") {
		t.Skip("a file system that does not keep the numbers of inodes: " + id)
	}
	p = run(t, c)
	p.want(200, "another directory is at "+dir, "GET", p.Admin+"/api/v1/mounts?path=/plain", "")
	p.want(200, "does not exist", "GET", p.Admin+"/api/v1/mounts?path=/conf", "")
	p.want(503, "another directory", "GET", p.Admin+"/api/v1/fs/content?path=/plain/b", "")
	p.want(503, "another directory", "PUT", p.Admin+"/api/v1/fs/content?path=/plain/new", "x")
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("the mount point has %v, %v", names, err)
	}
	if strings.Count(p.log.String(), "level=ERROR") != 2 {
		t.Errorf("not one error for each mount: %s", p.log)
	}
	again(errors.Join(os.Remove(dir), os.Rename(dir+"_disk", dir), os.Rename(base+"/conf_disk", base+"/conf")))
	p = run(t, c)
	p.want(200, `"state":"ready"`, "GET", p.Admin+"/api/v1/mounts?path=/conf", "")
	p.want(200, "kept", "GET", p.Admin+"/api/v1/fs/content?path=/plain/a", "")

	again(errors.Join(os.Rename(dir, dir+"_disk"), os.CopyFS(dir, os.DirFS(dir+"_disk")))) // restored from a backup, and taken
	p = run(t, c)
	p.want(503, "sluice mount update /plain --adopt", "GET", p.Admin+"/api/v1/fs/content?path=/plain/b", "")
	p.want(422, "another directory", "PATCH", p.Admin+"/api/v1/mounts?path=/plain", fmt.Sprintf(`{"uri":"file://%s"}`, dir))
	p.want(200, `"state":"ready"`, "PATCH", p.Admin+"/api/v1/mounts?path=/plain", `{"adopt":true}`)
	p.want(200, "kept", "GET", p.Admin+"/api/v1/fs/content?path=/plain/a", "")
}

// A mounted directory that is missing is made again when that is asked for in so many words, and not by a start or by its URI alone.
func TestMissingMadeAgain(t *testing.T) {
	c := testConfig(t)
	dir := filepath.Join(t.TempDir(), "lost")
	p := run(t, c)
	p.want(201, `"state":"ready"`, "POST", p.Admin+"/api/v1/mounts", fmt.Sprintf(`{"path":"/l","uri":"file://%s","options":{"create":"true"}}`, dir))
	p.want(201, "", "PUT", p.Admin+"/api/v1/fs/content?path=/l/a", "lost")
	if err := errors.Join(p.stop(), os.RemoveAll(dir)); err != nil {
		t.Fatal(err)
	}
	p = run(t, c)
	api := p.Admin + "/api/v1/mounts?path=/l"
	same := fmt.Sprintf(`{"uri":"file://%s","options":{"create":"true"}}`, dir)
	p.want(200, "sluice mount update /l --adopt --option create=true", "GET", api, "")
	p.want(503, "the mounted directory is missing", "GET", p.Admin+"/api/v1/fs/content?path=/l/b", "")
	p.want(503, "the mounted directory is missing", "PUT", p.Admin+"/api/v1/fs/content?path=/l/b", "x")
	p.want(422, "sluice mount update /l --adopt --option create=true", "PATCH", api, same)
	p.want(422, "the mounted directory is missing", "PATCH", api, `{"adopt":true,"options":{"create":"false"}}`)
	p.want(200, `"dry_run":true`, "PATCH", api+"&dry_run=true", `{"adopt":true,"options":{"create":"true"}}`)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory: %v, want %v", err, os.ErrNotExist)
	}
	p.want(200, `"state":"ready"`, "PATCH", api, `{"adopt":true,"options":{"create":"true"}}`)
	p.want(404, "", "GET", p.Admin+"/api/v1/fs/content?path=/l/a", "")
	p.want(201, "", "PUT", p.Admin+"/api/v1/fs/content?path=/l/b", "new")
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	p = run(t, c)
	p.want(200, "new", "GET", p.Admin+"/api/v1/fs/content?path=/l/b", "")
}

func identityOf(t *testing.T, dir string) string {
	t.Helper()
	s, err := localufs.Open(dir, localufs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Features().Is
}

// The option create makes nothing for a mount that is only asked about, or is refused.
func TestCreateOnlyWhenMounted(t *testing.T) {
	c := testConfig(t)
	p := run(t, c)
	base := t.TempDir()
	post := func(status int, text, path, dir, query, more string) {
		t.Helper()
		p.want(status, text, "POST", p.Admin+"/api/v1/mounts"+query, fmt.Sprintf(`{"path":%q,"uri":"file://%s","options":{"create":"true"}%s}`, path, dir, more))
		_, err := os.Stat(dir)
		if made := err == nil; made != (status == 201 && query == "") {
			t.Errorf("%s at %s%s: made is %v", dir, path, query, made)
		}
	}
	p.want(201, "", "PUT", p.Admin+"/api/v1/fs/content?path=/full/a", "x")
	post(200, "mounted", "/m", base+"/m", "?dry_run=true", "")
	post(422, "data directory", "/m", c.Data+"/below", "", "")
	post(422, "data directory", "/m", c.Data+"/below", "?dry_run=true", "")
	post(409, "not empty", "/full", base+"/m", "", "")
	post(409, "not empty", "/full", base+"/m", "?dry_run=true", "")
	post(422, "does not exist", "/m", base+"/m", "", `,"read_only":true`)
	post(201, "", "/m", base+"/m", "", "")
	post(422, "overlaps", "/n", base+"/m/below", "", "")

	patch := func(status int, text, dir, query string, made bool) {
		t.Helper()
		p.want(status, text, "PATCH", p.Admin+"/api/v1/mounts?path=/m"+query, fmt.Sprintf(`{"uri":"file://%s"}`, dir))
		if _, err := os.Stat(dir); made != (err == nil) {
			t.Errorf("%s%s: made is %v", dir, query, err == nil)
		}
	}
	patch(200, "switched", base+"/new", "&dry_run=true", false)
	patch(422, "data directory", c.Data+"/below", "", false)
	patch(200, "ready", base+"/new", "", true)
}

func TestConfiguredMounts(t *testing.T) {
	c := testConfig(t)
	store := t.TempDir()
	if err := os.WriteFile(filepath.Join(store, "f"), []byte("from the store"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Mounts = []config.Mount{{Path: "/a", URI: "file://" + store}}
	p := run(t, c)
	p.want(200, "from the store", "GET", p.Admin+"/api/v1/fs/content?path=/a/f", "")
	p.want(200, `"origin":"config"`, "GET", p.Admin+"/api/v1/mounts?path=/a", "")
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}

	c.Mounts[0].ReadOnly = true
	p = run(t, c)
	p.want(200, `"read_only":true`, "GET", p.Admin+"/api/v1/mounts?path=/a", "")
	p.want(201, `"origin":"api"`, "POST", p.Admin+"/api/v1/mounts", fmt.Sprintf(`{"path":"/b","uri":"file://%s"}`, t.TempDir()))
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}

	c.Mounts = nil
	p = run(t, c)
	p.want(404, "", "GET", p.Admin+"/api/v1/mounts?path=/a", "")
	p.want(200, `"origin":"api"`, "GET", p.Admin+"/api/v1/mounts?path=/b", "")
	if _, err := os.Stat(filepath.Join(store, "f")); err != nil {
		t.Errorf("unmounting touched the store: %v", err)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}

	c.Mounts = []config.Mount{{Path: "/c", URI: "file:///no/such/directory"}}
	if err := Run(t.Context(), c, Options{}); err == nil || !strings.Contains(err.Error(), "mount /c/") || !errors.Is(err, errs.NotExist) {
		t.Errorf("Run with a mount of nothing = %v, want errs.NotExist naming the mount", err)
	}
}

func TestBusyPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := testConfig(t)
	c.WebHDFS.Listen = l.Addr().String()
	err = Run(t.Context(), c, Options{})
	want := fmt.Sprintf("webhdfs: %s is in use by another process (pid %d, ", l.Addr(), os.Getpid())
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), "; stop it or choose another with --webhdfs-listen") {
		t.Errorf("Run = %v, want %q…", err, want)
	}
	if _, err := os.Stat(c.Data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the data directory was made (%v) though nothing could start", err)
	}
}

// slowUpload starts a WebHDFS upload whose body does not end until finish is called, and returns once the server has begun
// to read it.
func slowUpload(p *process) (finish func(), status chan int) {
	body, w := io.Pipe()
	status = make(chan int, 1)
	r, err := http.NewRequestWithContext(p.Context(), "PUT", p.WebHDFS+"/webhdfs/v1/slow?op=CREATE&data=true&user.name="+currentUser(), body)
	if err != nil {
		p.Fatal(err)
	}
	go func() {
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			status <- 0
			return
		}
		resp.Body.Close()
		status <- resp.StatusCode
	}()
	// More than the sockets' buffers hold: when the last byte is taken, the handler is reading.
	if _, err := w.Write(make([]byte, 16<<20)); err != nil {
		p.Fatal(err)
	}
	return func() { w.Close() }, status
}

func TestDrainLetsRequestsFinish(t *testing.T) {
	p := run(t, testConfig(t))
	finish, status := slowUpload(p)
	p.cancel()
	for { // the admin listener answers until the front-ends are drained
		got, text := p.do("GET", p.Admin+"/readyz", "")
		if got == 503 && strings.Contains(text, "draining") {
			break
		}
	}
	select {
	case <-p.done:
		t.Fatal("the process ended under a request in progress")
	default:
	}
	finish()
	if got := <-status; got != 201 {
		t.Errorf("the request in progress got %d, want 201", got)
	}
	if err := p.stop(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func TestDrainIsBounded(t *testing.T) {
	c := testConfig(t)
	c.DrainTimeout = 50 * time.Millisecond
	p := run(t, c)
	finish, status := slowUpload(p)
	if err := p.stop(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	finish() // the client only looks at the connection once its body has ended
	if got := <-status; got != 0 {
		t.Errorf("the stalled request got %d, want a cut connection", got)
	}
}

func TestStopWhileStarting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, testConfig(t), Options{}); err != nil {
		t.Errorf("Run with an ended context = %v, want nil", err)
	}
}

func TestCredentials(t *testing.T) {
	c := config.Config{Data: t.TempDir()}
	made, fresh, err := rootCredentials(c)
	if err != nil || !fresh || len(made.AccessKey) != 20 || len(made.SecretKey) != 40 {
		t.Fatalf("first start: %d and %d characters, fresh %v, %v; want 20 and 40, true", len(made.AccessKey), len(made.SecretKey), fresh, err)
	}
	name := filepath.Join(c.Data, CredentialsFile)
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v; want 0600", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(c.Data); len(entries) != 1 {
		t.Errorf("the directory holds %v, want the file only", entries)
	}
	again, fresh, err := rootCredentials(c)
	if err != nil || fresh || again != made {
		t.Errorf("second start: another pair or fresh (%v), %v", fresh, err)
	}
	configured := config.Root{AccessKey: "mine", SecretKey: "12345678"}
	if got, fresh, err := rootCredentials(config.Config{Data: c.Data, Root: configured}); got != configured || fresh || err != nil {
		t.Errorf("configured keys: got %v, fresh %v, %v", got.AccessKey, fresh, err)
	}
	for what, spoil := range map[string]func() error{
		"readable by others": func() error { return os.Chmod(name, 0o644) },
		"not JSON":           func() error { return errors.Join(os.Chmod(name, 0o600), os.WriteFile(name, []byte("{"), 0o600)) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := rootCredentials(c); err == nil || strings.Contains(err.Error(), made.SecretKey.Reveal()) {
			t.Errorf("a file that is %s: got %v, want an error without the secret", what, err)
		}
	}
}

func TestUsers(t *testing.T) {
	u := newUsers("hdfs", config.Root{AccessKey: "AK", SecretKey: "SK"})
	asked := 0
	u.groupsOf = func(name string) []string {
		asked++
		return map[string][]string{"hdfs": {"hadoop"}, "op": {"ops", supergroup}, "alice": {"staff"}}[name]
	}
	for name, want := range map[string]struct {
		groups []string
		super  bool
	}{
		"hdfs": {[]string{"hadoop", supergroup}, true}, "op": {[]string{"ops", supergroup}, true},
		"alice": {[]string{"staff"}, false}, "nobody": {nil, false},
	} {
		p, err := u.User(t.Context(), name)
		if err != nil || !slices.Equal(p.Groups, want.groups) || p.Super != want.super || p.User != name {
			t.Errorf("User(%s) = %+v, %v; want %v, super %v", name, p, err, want.groups, want.super)
		}
	}
	if _, err := u.User(t.Context(), "alice"); err != nil || asked != 4 {
		t.Errorf("the system was asked %d times for 4 users, %v", asked, err)
	}
	secret, p, err := u.Secret(t.Context(), "AK")
	if secret != "SK" || p.User != "hdfs" || !p.Super || p.AccessKey != "AK" || err != nil {
		t.Errorf("Secret(AK) = %q, %+v, %v", secret, p, err)
	}
	if _, _, err := u.Secret(t.Context(), "other"); !errors.Is(err, errs.NotExist) {
		t.Errorf("Secret of an unknown key: got %v, want errs.NotExist", err)
	}
}

func TestHealth(t *testing.T) {
	h := newHealth()
	get := func(query string) (int, string) {
		w := httptest.NewRecorder()
		h.ready(w, httptest.NewRequest("GET", "/readyz"+query, nil))
		return w.Code, w.Body.String()
	}
	want := func(query string, status int, text string) {
		t.Helper()
		if got, b := get(query); got != status || b != text {
			t.Errorf("readyz%s = %d %q, want %d %q", query, got, b, status, text)
		}
	}
	want("", 503, "[-]serving failed: starting\nnot ready\n")
	h.enter("", check{name: "good", run: func(context.Context) error { return nil }})
	want("", 200, "ok\n")
	want("?verbose", 200, "[+]serving ok\n[+]good ok\nok\n")
	var lost error
	h.enter("", check{name: "leader", run: func(context.Context) error { return lost }, hold: time.Hour},
		check{name: "short", run: func(context.Context) error { return lost }, hold: time.Nanosecond})
	lost = errs.New("op", "", errs.Unavailable, "nobody leads")
	want("", 503, "[-]leader failed: temporarily unavailable\n[-]short failed: temporarily unavailable\nnot ready\n") // as yet
	lost = nil
	want("", 200, "ok\n")
	lost = errs.New("op", "", errs.Unavailable, "nobody leads")
	want("?verbose", 200, "[+]serving ok\n[+]good ok\n[+]leader fails for less than 1h0m0s\n[+]short fails for less than 1ns\nok\n")
	want("", 503, "[-]short failed: temporarily unavailable\nnot ready\n")
	h.checks = h.checks[:1]
	h.enter("", check{name: "bad", run: func(context.Context) error { return errs.New("op", "secret name", errs.Unavailable, "why") }})
	want("?verbose", 503, "[+]serving ok\n[+]good ok\n[-]bad failed: temporarily unavailable\nnot ready\n")
	h.enter("draining")
	if status, text := get(""); status != 503 || !strings.Contains(text, "draining") {
		t.Errorf("readyz while draining = %d %q", status, text)
	}
	w := httptest.NewRecorder()
	if h.live(w, nil); w.Code != 200 {
		t.Errorf("livez = %d, want 200 whatever the checks say", w.Code)
	}
}

func TestPanicsAreTheProtocolsOwnErrors(t *testing.T) {
	var log syncBuffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	for name, c := range map[string]struct {
		fail func(http.ResponseWriter)
		want string
	}{
		"s3": {s3Panicked, "<Code>InternalError</Code>"}, "webhdfs": {webhdfsPanicked, `"exception":"RuntimeException"`},
	} {
		late := false
		server := httptest.NewServer(guarded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", "of an answer that never came")
			if late {
				w.WriteHeader(200)
			}
			panic("a fault")
		}), c.fail, logger, &busy{}))
		resp, err := server.Client().Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 500 || !strings.Contains(string(b), c.want) || resp.Header.Get("ETag") != "" {
			t.Errorf("%s: a panic answered %d %v %s", name, resp.StatusCode, resp.Header, b)
		}
		late = true
		resp, err = server.Client().Get(server.URL)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Errorf("%s: a panic after the header looked like a whole answer", name)
		}
		server.Close()
	}
	if got := log.String(); strings.Count(got, "a fault") != 4 || !strings.Contains(got, "gateway_test.go") {
		t.Errorf("log of the panics: %s", got)
	}
	var v struct{ RemoteException map[string]string }
	w := httptest.NewRecorder()
	webhdfsPanicked(w)
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Errorf("the WebHDFS answer is not JSON: %v", err)
	}
}

// serving serves h as a front-end does, until the test ends, and returns its address.
func serving(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := listen(t.Context(), "test", "127.0.0.1:0", "x")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(guarded(h, s3Panicked, slog.New(slog.DiscardHandler), &busy{}), slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	wg.Go(func() { _ = serve(s, l, nil) })
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func TestResponsesKeepSendfile(t *testing.T) {
	const size = 3*piece + 17
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size], 0o600); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + serving(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := w.(io.ReaderFrom); !ok {
			t.Error("the response is no io.ReaderFrom")
		}
		http.ServeFile(w, r, name)
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	want, _ := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, want) || resp.ContentLength != size {
		t.Errorf("got %d bytes of %d, %v", len(got), size, err)
	}
	if resp.ProtoMajor != 1 {
		t.Errorf("got %s, want HTTP/1.1", resp.Proto)
	}
}

func TestWebHDFSAuth(t *testing.T) {
	for _, c := range []struct {
		auth, listen, tls string
		simple, local     bool
	}{
		{"auto", "127.0.0.1:1", "", true, true}, {"auto", "[::1]:1", "localhost:2", true, true}, {"auto", "", "127.0.0.9:1", true, true},
		{"auto", ":1", "", false, false}, {"auto", "127.0.0.1:1", "0.0.0.0:2", false, false}, {"auto", "example.com:1", "", false, false},
		{"simple", ":1", "", true, false}, {"basic", "127.0.0.1:1", "", false, false},
	} {
		g := &gateway{cfg: config.Config{WebHDFS: config.WebHDFS{Auth: c.auth, Listen: c.listen, TLSListen: c.tls}}}
		if simple, local := g.webhdfsAuth(); simple != c.simple || local != c.local {
			t.Errorf("%+v: got simple %v, loopback only %v", c, simple, local)
		}
	}
}

func TestTiers(t *testing.T) {
	c := config.Config{Data: t.TempDir()}
	got, skipped := tiers(c)
	if len(got)+len(skipped) != 2 {
		t.Fatalf("default: %v, %v", got, skipped)
	}
	for _, tier := range got {
		limit := config.Bytes(maxDisk)
		if tier.Medium == "mem" {
			limit = maxMemory
		}
		if tier.Quota < minTier || tier.Quota > limit {
			t.Errorf("%+v: quota outside of %d to %d", tier, minTier, limit)
		}
	}
	want := []config.Tier{{Dir: "/x", Quota: 1 << 30, Medium: "hdd"}}
	c.Cache.Tiers = want
	if got, _ := tiers(c); cmp.Diff(want, got) != "" {
		t.Errorf("configured: %v", got)
	}
}

// writeCertificate makes a certificate for name and its key.
func writeCertificate(t *testing.T, files config.TLS, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{files.Cert: {Type: "CERTIFICATE", Bytes: cert}, files.Key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCertificateReload(t *testing.T) {
	dir := t.TempDir()
	files := config.TLS{Cert: filepath.Join(dir, "c.pem"), Key: filepath.Join(dir, "k.pem")}
	if _, err := newCertificate(files); err == nil || !strings.Contains(err.Error(), files.Cert) {
		t.Errorf("without files: got %v, want an error naming them", err)
	}
	writeCertificate(t, files, "first")
	c, err := newCertificate(files)
	if err != nil {
		t.Fatal(err)
	}
	served := func() string {
		got, err := c.config().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return got.Leaf.DNSNames[0]
	}
	writeCertificate(t, files, "second")
	if err := c.reload(); err != nil || served() != "second" {
		t.Errorf("after a reload it serves %s, %v; want second", served(), err)
	}
	if err := os.WriteFile(files.Key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.reload(); err == nil || served() != "second" {
		t.Errorf("after a reload of a broken key it serves %s, %v; want second and an error", served(), err)
	}
}

func TestSecretKey(t *testing.T) {
	c := config.Config{Data: t.TempDir()}
	made, err := secretKey(c)
	if err != nil || len(made) != seal.KeySize {
		t.Fatalf("got %d bytes, %v", len(made), err)
	}
	name := filepath.Join(c.Data, SecretKeyFile)
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the file: %v, %v", info, err)
	}
	if again, err := secretKey(c); err != nil || !bytes.Equal(again, made) {
		t.Errorf("the second start has another key: %v", err)
	}
	if got, err := secretKey(config.Config{Data: t.TempDir(), SecretKeyFile: name}); err != nil || !bytes.Equal(got, made) {
		t.Errorf("the configured file: %v", err)
	}
	if _, err := secretKey(config.Config{Data: t.TempDir(), SecretKeyFile: name + "x"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	for _, bad := range []string{"", "short", strings.Repeat("A", 40), "!" + strings.Repeat("A", 43)} {
		if err := os.WriteFile(name, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := secretKey(c); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("a file with %q: %v", bad, err)
		}
	}
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := secretKey(c); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
}
