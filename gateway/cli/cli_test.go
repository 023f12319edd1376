package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/gateway"
	"github.com/sluicefs/sluice/gateway/admin"
	"github.com/sluicefs/sluice/gateway/config"
)

// result is what a command did.
type result struct {
	*testing.T
	status   int
	out, err string
}

// sluice runs a command.
func sluice(t *testing.T, in string, args ...string) result {
	t.Helper()
	var out, err bytes.Buffer
	status := Main(t.Context(), args, "v1", Streams{In: strings.NewReader(in), Out: &out, Err: &err})
	return result{t, status, out.String(), err.String()}
}

// want fails unless the command ended with the status, wrote exactly out, and wrote all of errs to standard error.
func (r result) want(status int, out string, errs ...string) result {
	r.Helper()
	if r.status != status || r.out != out {
		r.Errorf("got status %d, output %q, errors %q; want %d, %q", r.status, r.out, r.err, status, out)
	}
	for _, text := range errs {
		if !strings.Contains(r.err, text) {
			r.Errorf("standard error lacks %q: %s", text, r.err)
		}
	}
	if len(errs) == 0 && status == ExitOK && r.err != "" {
		r.Errorf("wrote to standard error: %s", r.err)
	}
	return r
}

// serve runs a process for the test and points the commands at it.
func serve(t *testing.T) {
	t.Helper()
	c := config.Default()
	dir := t.TempDir()
	c.Data = filepath.Join(dir, "data")
	c.S3.Listen, c.WebHDFS.Listen, c.Admin.Listen = "", "", "127.0.0.1:0"
	c.Cache.Tiers = []config.Tier{{Dir: filepath.Join(dir, "cache"), Quota: 64 << 20, Medium: "ssd"}}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan gateway.Addrs, 1), make(chan error, 1)
	go func() { done <- gateway.Run(ctx, c, gateway.Options{Ready: func(a gateway.Addrs) { ready <- a }}) }()
	select {
	case a := <-ready:
		t.Setenv(adminURLVariable, a.Admin)
	case err := <-done:
		t.Fatal(err)
	}
	t.Setenv("SLUICE_DATA", c.Data)
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestFiles(t *testing.T) {
	serve(t)
	t.Chdir(t.TempDir())
	sluice(t, "", "fs", "mkdir", "-p", "/d/e").want(ExitOK, "")
	sluice(t, "hello", "fs", "cp", "-", "/d/a").want(ExitOK, "")
	sluice(t, "", "fs", "cat", "/d/a").want(ExitOK, "hello")
	sluice(t, "again", "fs", "cp", "-", "/d/a").want(ExitFailed, "", "copy - to /d/a", "already exists")
	sluice(t, "again", "fs", "cp", "-f", "-", "/d/a").want(ExitOK, "")
	sluice(t, "", "fs", "cp", "/d/a", "/d/e").want(ExitOK, "")
	sluice(t, "", "fs", "cat", "/d/e/a", "/d/a").want(ExitOK, "againagain")
	sluice(t, "", "fs", "mv", "/d/e/a", "/d/b").want(ExitOK, "")
	sluice(t, "", "fs", "cat", "/d/e/a").want(ExitFailed, "", "read /d/e/a", "does not exist")
	sluice(t, "", "fs", "cat", "/d/a", "/none", "/d/b").want(ExitPartial, "againagain", "read /none", "1 of 3 failed")
	sluice(t, "", "fs", "cat", "/none", "/none2").want(ExitFailed, "", "2 of 2 failed")

	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sluice(t, "", "fs", "cp", "file:"+empty, "/d/").want(ExitOK, "")
	sluice(t, "", "fs", "cp", "/d/empty", "./x").want(ExitOK, "")
	if info, err := os.Stat("x"); err != nil || info.Size() != 0 {
		t.Errorf("an empty file came back as %v, %v", info, err)
	}

	sluice(t, "", "fs", "cp", "/d", "back").want(ExitFailed, "", "use -r")
	sluice(t, "", "fs", "cp", "-r", "/d", "back").want(ExitOK, "")
	for name, want := range map[string]string{"back/a": "again", "back/b": "again", "back/empty": ""} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v; want %q", name, got, err, want)
		}
	}
	sluice(t, "", "fs", "cp", "-r", "./back", "/copy").want(ExitOK, "")
	sluice(t, "", "fs", "cp", "-r", "./back", "/copy").want(ExitOK, "") // into it, as cp does
	sluice(t, "", "fs", "cat", "/copy/a", "/copy/back/a").want(ExitOK, "againagain")
	sluice(t, "", "fs", "cp", "-r", "./back", "/copy").want(ExitFailed, "", "already exists", "3 of 3 failed")
	sluice(t, "", "fs", "cp", "/d/a", "x").want(ExitFailed, "", "x exists; use -f")
	sluice(t, "", "fs", "cp", "-f", "/d/a", "x").want(ExitOK, "")
	if left, _ := filepath.Glob(".sluice-*"); len(left) > 0 {
		t.Errorf("unfinished downloads are left: %v", left)
	}

	list := sluice(t, "", "fs", "ls", "-o", "json", "/d")
	var page admin.List[admin.Entry]
	if err := json.Unmarshal([]byte(list.out), &page); err != nil || list.status != ExitOK {
		t.Fatalf("ls -o json: %v: %s%s", err, list.out, list.err)
	}
	var names []string
	for _, e := range page.Items {
		names = append(names, e.Name)
	}
	if got, want := strings.Join(names, " "), "a b e/ empty"; got != want {
		t.Errorf("ls: got %s, want %s", got, want)
	}
	if got := sluice(t, "", "fs", "ls", "/d"); got.status != ExitOK || !strings.Contains(got.out, "0644") || strings.Count(got.out, "\n") != 4 {
		t.Errorf("ls: %+v", got.out)
	}
	if got := sluice(t, "", "fs", "stat", "/d/a"); got.status != ExitOK || !strings.Contains(got.out, "Size:") {
		t.Errorf("stat: %+v", got.out)
	}
	if got := sluice(t, "", "fs", "du", "-o", "json", "/d"); !strings.Contains(got.out, `"files": 3`) || !strings.Contains(got.out, `"bytes": 10`) {
		t.Errorf("du: %s%s", got.out, got.err)
	}
	sluice(t, "", "fs", "rm", "/d").want(ExitFailed, "", "not empty")
	sluice(t, "", "fs", "rm", "-r", "/d", "/none").want(ExitPartial, "", "remove /none")
	sluice(t, "", "fs", "ls", "/d").want(ExitFailed, "", "list /d")
}

func TestMounts(t *testing.T) {
	serve(t)
	store := t.TempDir()
	sluice(t, "", "mount", "add", "/nfs", "file://"+store, "--sync-interval", "5s", "--read-only").want(ExitOK, "/nfs is file://"+store+" (ready)\n")
	if got := sluice(t, "", "mount", "ls"); got.status != ExitOK || !strings.Contains(got.out, "read-only") || !strings.HasPrefix(got.out, "PATH") {
		t.Errorf("mount ls: %s%s", got.out, got.err)
	}
	if got := sluice(t, "", "mount", "update", "/nfs", "--read-only=false", "-o", "json"); !strings.Contains(got.out, `"read_only": false`) || !strings.Contains(got.out, `"sync_interval": "5s"`) {
		t.Errorf("mount update: %s%s", got.out, got.err)
	}
	for _, k := range []struct{ arg, value, is string }{{"--load-type", "NEVER", "NEVER"}, {"--default", "load_type", "ONCE"}} {
		if got := sluice(t, "", "mount", "update", "/nfs", k.arg, k.value, "-o", "json"); !strings.Contains(got.out, `"load_type": "`+k.is+`"`) {
			t.Errorf("mount update %s %s: %s%s", k.arg, k.value, got.out, got.err)
		}
	}
	sluice(t, "", "mount", "update", "/nfs", "--load-type", "never").want(ExitFailed, "", "load_type")
	sluice(t, "", "mount", "update", "/nfs", "--adopt").want(ExitOK, "took what is at file://"+store+" now for the store of the mount /nfs; what was known of it is forgotten\n")
	sluice(t, "", "mount", "update", "/nfs").want(ExitUsage, "", "nothing to change")
	sluice(t, "", "mount", "add", "/nfs", "file://"+store).want(ExitFailed, "", "mount /nfs", "mounted there")
	sluice(t, "", "mount", "add", "/x", "file:///no/such/dir").want(ExitFailed, "", "refused")
	sluice(t, "", "mount", "add", "/x", "file:///", "--mode", "999").want(ExitFailed, "", "mode:")
	sluice(t, "", "mount", "rm", "/nfs", "/x").want(ExitPartial, "", "unmount /x")
	sluice(t, "", "mount", "rm", "/nfs").want(ExitFailed, "")
}

func TestPathRules(t *testing.T) {
	serve(t)
	sluice(t, "", "path-rule", "set", "/d/e", "write_type=THROUGH", "replicas=3").want(ExitOK, "PATH  SETTING     VALUE\n/d/e  write_type  THROUGH\n/d/e  replicas    3\n")
	sluice(t, "", "path-rule", "set", "/d/", "read_type=NO_CACHE", "persist_delay=5s").want(ExitOK, "PATH  SETTING        VALUE\n/d    read_type      NO_CACHE\n/d    persist_delay  5s\n")
	sluice(t, "", "path-rule", "ls").want(ExitOK, "PATH  SETTING        VALUE\n/d    read_type      NO_CACHE\n/d    persist_delay  5s\n/d/e  write_type     THROUGH\n/d/e  replicas       3\n")
	sluice(t, "", "path-rule", "ls", "/d/e/f").want(ExitOK, "SETTING                 VALUE     ORIGIN\nwrite_type              THROUGH   rule /d/e\nread_type               NO_CACHE  rule /d\nreplicas                3         rule /d/e\npersist_delay           5s        rule /d\nreplication_min         0         default\nreplication_max         1         default\nrename_through_timeout  30s       default\nsync_interval           -1        mount /\nload_type               ONCE      default\n")
	if got := sluice(t, "", "path-rule", "ls", "/dd", "-o", "json"); got.status != ExitOK || !strings.Contains(got.out, `"value": "CACHE_THROUGH",
      "origin": "default",
      "path": ""`) {
		t.Errorf("path-rule ls -o json: %s%s", got.out, got.err)
	}
	sluice(t, "", "path-rule", "rm", "/d/e", "replicas").want(ExitOK, "")
	sluice(t, "", "path-rule", "rm", "/d/e", "replicas").want(ExitFailed, "", "does not set replicas")
	sluice(t, "", "path-rule", "rm", "/d").want(ExitOK, "")
	sluice(t, "", "path-rule", "ls").want(ExitOK, "PATH  SETTING     VALUE\n/d/e  write_type  THROUGH\n")
	sluice(t, "", "path-rule", "rm", "/d").want(ExitFailed, "", "no rule of its own")
	sluice(t, "", "path-rule", "rm", "/d/e", "colour").want(ExitFailed, "", "no path rule sets that")
	sluice(t, "", "path-rule", "set", "/d/f", "load_type=NEVER").want(ExitOK, "PATH  SETTING    VALUE\n/d/f  load_type  NEVER\n")
	sluice(t, "", "path-rule", "set", "/d/f", "load_type=never").want(ExitFailed, "", "load_type")
	sluice(t, "", "path-rule", "rm", "/d/f", "load_type").want(ExitOK, "")
	sluice(t, "", "path-rule", "set", "/d", "colour=red").want(ExitUsage, "", "write_type, read_type")
	sluice(t, "", "path-rule", "set", "/d", "write_type").want(ExitUsage, "", "KEY=VALUE")
	sluice(t, "", "path-rule", "set", "/hot", "replication_min=0", "replication_max=-1").want(ExitOK, "PATH  SETTING          VALUE\n/hot  replication_min  0\n/hot  replication_max  -1\n")
	sluice(t, "", "path-rule", "set", "/hot", "replication_min=3", "replication_max=2").want(ExitFailed, "", "at most replication_max")
	sluice(t, "", "path-rule", "set", "/d", "replication_max=0").want(ExitUsage, "", "nor -1")
	sluice(t, "", "path-rule", "set", "/d", "replication_min=-1").want(ExitUsage, "", "not a number")
	sluice(t, "", "path-rule", "set", "/d", "replicas=many").want(ExitUsage, "", "not a number")
	sluice(t, "", "path-rule", "set", "/d", "write_type=NEVER").want(ExitFailed, "", "write_type")
	sluice(t, "", "path-rule", "set", "d", "write_type=THROUGH").want(ExitFailed, "", "a path starts with /")
}

func TestDrain(t *testing.T) {
	serve(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got := sluice(t, "", "node", "drain", host, "--role", "worker", "--wait"); got.status != ExitOK || !strings.Contains(got.out, "draining") {
		t.Errorf("node drain: %s%s", got.out, got.err)
	}
	if got := sluice(t, "", "node", "drain", host, "--undo"); got.status != ExitOK || strings.Contains(got.out, "draining") {
		t.Errorf("node drain --undo: %s%s", got.out, got.err)
	}
	sluice(t, "", "node", "drain", "nobody").want(ExitFailed, "", "drain nobody")
}

// TestExplainAliases explains what bucket aliases lead to, and lists the renames that are under way, of which there are none.
func TestExplainAliases(t *testing.T) {
	serve(t)
	sluice(t, "hello", "fs", "cp", "-", "/lake/prod/t/f").want(ExitOK, "")
	sluice(t, "x", "fs", "cp", "-", "/lake/prodigal").want(ExitOK, "")
	sluice(t, "", "bucket", "alias", "set", "warehouse", "/lake/prod").want(ExitOK, "s3://warehouse is /lake/prod\n")
	sluice(t, "", "bucket", "alias", "set", "table", "/lake/prod/t").want(ExitOK, "s3://table is /lake/prod/t\n")
	sluice(t, "", "bucket", "alias", "set", "other", "/lake").want(ExitOK, "s3://other is /lake\n")
	for path, want := range map[string][]string{
		"/lake/prod/t/f": {"s3://other/prod/t/f", "s3://table/f", "s3://warehouse/t/f"}, "/lake/prod": {"s3://other/prod/", "s3://warehouse/"},
		"/lake/prodigal": {"s3://other/prodigal"}, "/": {},
	} {
		got := sluice(t, "", "explain", path, "--json")
		var x admin.Explanation
		if err := json.Unmarshal([]byte(got.out), &x); err != nil {
			t.Fatal(err, got.out, got.err)
		}
		uris := []string{}
		for _, a := range x.Aliases {
			uris = append(uris, a.URI)
		}
		if !slices.Equal(uris, want) {
			t.Errorf("%s is reached by %q, want %q", path, uris, want)
		}
	}
	if got := sluice(t, "", "explain", "/lake/prod/t/f"); !strings.Contains(got.out, "over S3") || !strings.Contains(got.out, "s3://table/f (table is an alias of /lake/prod/t)") {
		t.Errorf("explain: %s%s", got.out, got.err)
	}
	sluice(t, "", "renames").want(ExitOK, "ID  FROM  TO  STATE  LAST ERROR\n")
}

// TestExplainMisses explains why the last read of a file missed, in a process that is complete of its own.
func TestExplainMisses(t *testing.T) {
	serve(t)
	sluice(t, "hello", "fs", "cp", "-", "/d/a").want(ExitOK, "")
	explain := func(path string) (x admin.Explanation) {
		t.Helper()
		got := sluice(t, "", "explain", path, "--json")
		if err := json.Unmarshal([]byte(got.out), &x); err != nil {
			t.Fatal(err, got.out, got.err)
		}
		return x
	}
	missed := func(path, kind string, doubt string) {
		t.Helper()
		x := explain(path)
		got := ""
		if m := x.LastMiss; m != nil {
			if got = m.Kind; m.Offset != 0 || m.Length != 5 || m.Worker == "" || m.Reason == "" || time.Since(m.At) > time.Minute {
				t.Errorf("%s: %+v", path, m)
			}
		}
		if got != kind || !strings.HasPrefix(x.Unmissed, doubt) || (doubt == "") != (x.Unmissed == "") {
			t.Errorf("%s: the last read missed as %+v, %q; want %q, %q", path, x.LastMiss, x.Unmissed, kind, doubt)
		}
	}
	cat := func(path string) {
		t.Helper()
		sluice(t, "", "fs", "cat", path).want(ExitOK, "hello")
	}
	never := "no read of this name has missed since "
	missed("/d/a", "", never)
	cat("/d/a") // it was written through the cache
	missed("/d/a", "", never)
	if got := sluice(t, "", "cache", "free", "/d/a"); got.status != ExitOK {
		t.Fatal(got.out, got.err)
	}
	cat("/d/a")
	missed("/d/a", "FREED", "")
	cat("/d/a")
	missed("/d/a", "FREED", "")
	if got := sluice(t, "", "explain", "/d/a"); !strings.Contains(got.out, "last miss") || !strings.Contains(got.out, "5 bytes from 0 on, at ") || !strings.Contains(got.out, "dropped on demand") {
		t.Errorf("explain: %s%s", got.out, got.err)
	}
	sluice(t, "hello", "fs", "cp", "-f", "-", "/d/a").want(ExitOK, "")
	if x := explain("/d/a"); x.LastMiss == nil || !strings.Contains(x.LastMiss.Reason, "another version than the one that is there now") {
		t.Errorf("replaced: %+v", x.LastMiss)
	}
	if got := sluice(t, "", "path-rule", "set", "/d", "read_type=NO_CACHE"); got.status != ExitOK {
		t.Fatal(got.out, got.err)
	}
	if got := sluice(t, "", "cache", "free", "/d/a"); got.status != ExitOK {
		t.Fatal(got.out, got.err)
	}
	cat("/d/a")
	missed("/d/a", "NOT_KEPT", "")
	if x := explain("/d/a"); !strings.Contains(x.LastMiss.Reason, "read_type is NO_CACHE (rule /d)") {
		t.Errorf("not kept: %+v", x.LastMiss)
	}
	missed("/d", "", "")
	missed("/d/none", "", "")
}

// TestProgressOfRenames says how far renames are.
func TestProgressOfRenames(t *testing.T) {
	since, next := time.Now().Add(-time.Hour), time.Now().Add(time.Minute)
	when := "since " + since.Local().Format(time.DateTime)
	for _, k := range []struct {
		r    admin.Rename
		want string
	}{
		{admin.Rename{Phase: "copying", Since: since, Copied: 3, Left: 1, Failed: 2, Next: &next},
			when + ", 3 files copied, 1 left; 2 tries failed, the next is at " + next.Local().Format(time.TimeOnly)},
		{admin.Rename{Phase: "copying", Since: since, Copied: 3, More: true}, when + ", 3 files copied, 0 left and perhaps more, it is under way"},
		{admin.Rename{Phase: "copying", Since: since, Failed: 1, Next: &since}, when + ", 0 files copied, 0 left; 1 tries failed, it is under way"},
		{admin.Rename{Phase: "removing", Since: since}, when + ", all is copied and the originals are being removed, it is under way"},
	} {
		if got := progressOf(&k.r); got != k.want {
			t.Errorf("%+v: %q, want %q", k.r, got, k.want)
		}
	}
}

// TestTroubleOfRenames says why renames are not carried through.
func TestTroubleOfRenames(t *testing.T) {
	for _, k := range []struct {
		r    admin.Rename
		want []string
	}{
		{admin.Rename{}, []string{""}},
		{admin.Rename{Error: "it is away"}, []string{"it is away"}},
		{admin.Rename{Error: "d/f: 403", Refused: []admin.Failure{{Path: "/e/f", Why: "d/f: 403"}, {Path: "/e/g", Why: "d/g: 404"}}}, []string{"/e/f: d/f: 403", "/e/g: d/g: 404"}},
		{admin.Rename{Error: "d/: timeout", Refused: []admin.Failure{{Path: "/e/f", Why: "d/f: 403"}}}, []string{"d/: timeout", "/e/f: d/f: 403"}},
	} {
		if got := troubleOf(&k.r); !slices.Equal(got, k.want) {
			t.Errorf("%+v: %q, want %q", k.r, got, k.want)
		}
	}
}

func TestCare(t *testing.T) {
	serve(t)
	t.Chdir(t.TempDir())
	sluice(t, "hello", "fs", "cp", "-", "/a").want(ExitOK, "")
	if got := sluice(t, "", "backup", "saved"); got.status != ExitOK || !strings.HasPrefix(got.out, "saved: ") || !strings.Contains(got.out, "verified") {
		t.Errorf("backup: %s%s", got.out, got.err)
	}
	if left, _ := filepath.Glob(".sluice-*"); len(left) > 0 {
		t.Errorf("unfinished snapshots are left: %v", left)
	}
	piped := sluice(t, "", "backup", "-")
	if err := os.WriteFile("piped", []byte(piped.out), 0o600); err != nil || piped.status != ExitOK {
		t.Fatal(err, piped.err)
	}
	for _, file := range []string{"saved", "piped"} {
		if got := sluice(t, "", "fsck", "--file", file); got.status != ExitOK || !strings.Contains(got.out, "0 findings") {
			t.Errorf("fsck of %s: %s%s", file, got.out, got.err)
		}
	}
	if got := sluice(t, "", "fsck", "-o", "json", "--stores"); got.status != ExitOK || !strings.Contains(got.out, `"proved": 1`) {
		t.Errorf("fsck: %s%s", got.out, got.err)
	}
	sluice(t, "", "fsck", "--file", ".").want(ExitFailed, "", "fsck")
	sluice(t, "", "release").want(ExitFailed, "", "nothing is held")
	sluice(t, "", "backup", "none/saved").want(ExitFailed, "", "backup")
	if got := sluice(t, "", "restore", "saved", "--data", "new"); got.status != ExitOK || !strings.Contains(got.out, "sluice release") {
		t.Errorf("restore: %s%s", got.out, got.err)
	}
	sluice(t, "", "restore", "saved", "--data", "new").want(ExitFailed, "", "not empty")
	sluice(t, "", "restore", "saved", "--data", "m1", "--name", "m1", "--join", "m1=http://127.0.0.1:1,m2=http://127.0.0.1:2,m3=http://127.0.0.1:3").
		want(ExitFailed, "", "token")
	sluice(t, "", "restore", "saved", "--data", "m1", "--name", "m1", "--join", "m1=http://127.0.0.1:1,m2=http://127.0.0.1:2,m3=http://127.0.0.1:3", "--token", "x1")
	if got := sluice(t, "", "fsck", "--file", "m1"); got.status != ExitOK {
		t.Errorf("fsck of a restored master: %s%s", got.out, got.err)
	}
}

func TestUsage(t *testing.T) {
	t.Setenv("SLUICE_DATA", t.TempDir())
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("s3: {lisen: x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"bogus", "unknown command"}, {"fs", "subcommand"}, {"mount", "subcommand"}, {"fs ls", "arg"}, {"fs ls --colour /", "unknown flag"},
		{"fs ls -o xml /", "table or json"}, {"fs cp /a", "arg"}, {"fs mv ./a /b", "local"}, {"mount add /x", "arg"},
		{"mount add /x file:///y --option secret_key", "NAME=VALUE"}, {"serve extra", "unknown command"}, {"serve --s3-lisen=x", "unknown flag"},
		{"serve --config " + bad, "did you mean s3.listen?"}, {"serve --s3-listen nowhere", "HOST:PORT"}, {"serve --mount /x", "PATH=URI"},
		{"backup", "arg"}, {"restore x", "--data"}, {"restore x --data d --join m1", "NAME=URL"}, {"restore x --data d --join m1=http://a:1 --name m2", "--name"},
		{"release x", "unknown command"}, {"fsck --stores --file x", "running process"},
	} {
		sluice(t, "", strings.Fields(c.args)...).want(ExitUsage, "", c.want, "--help")
	}
	for _, args := range []string{"--help", "help", "", "serve --help", "fs cp --help", "completion bash"} {
		if got := sluice(t, "", strings.Fields(args)...); got.status != ExitOK || got.out == "" {
			t.Errorf("%q: status %d, output %q, errors %q", args, got.status, got.out, got.err)
		}
	}
	if got := sluice(t, "", "version"); got.status != ExitOK || !strings.HasPrefix(got.out, "sluice v1 go") {
		t.Errorf("version: %q", got.out)
	}
}

func TestUnreachable(t *testing.T) {
	t.Setenv("SLUICE_DATA", t.TempDir())
	sluice(t, "", "fs", "ls", "/").want(ExitFailed, "", "no key pair", "SLUICE_ROOT_ACCESS_KEY", "--data")
	t.Setenv("SLUICE_ROOT_ACCESS_KEY", "AK")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hunter22hunter22\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLUICE_ROOT_SECRET_KEY_FILE", secret)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	t.Setenv(adminURLVariable, "http://"+l.Addr().String())
	sluice(t, "", "fs", "ls", "/").want(ExitFailed, "", "no answer from the admin API", "sluice serve", adminURLVariable)
	t.Setenv(adminURLVariable, "not a url")
	sluice(t, "", "fs", "ls", "/").want(ExitFailed, "", "--admin-url")

	var user, given string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, given, _ = r.BasicAuth()
		http.Error(w, "<html>a proxy</html>", 502)
	}))
	defer other.Close()
	sluice(t, "", "fs", "ls", "/", "--admin-url", other.URL).want(ExitFailed, "", "is not the admin API")
	if user != "AK" || given != "hunter22hunter22" {
		t.Errorf("sent the key pair %q and %q", user, given)
	}
}

func TestServeOnABusyPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := sluice(t, "", "serve", "--data", filepath.Join(t.TempDir(), "d"), "--s3-listen", l.Addr().String(), "--admin-listen", "off", "--webhdfs-listen", "off")
	got.want(ExitFailed, "", "s3: "+l.Addr().String()+" is in use by another process", "--s3-listen")
}
