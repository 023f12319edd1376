package conformance

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// cli is sluice's own command line on one server.
type cli struct {
	*suite
	sluice program
	server *Server
	dir    string
	local  string   // a directory to mount, with files that were there before
	store  *S3Store // an S3 server with a bucket, likewise
	secret string   // file with its secret key
}

// The secrets that must come out nowhere, beside those of the servers.
const (
	wrongSecret   = "wrong-secret-0f5a83"
	unheardSecret = "unheard-secret-91bc2e"
)

// verbose makes the server write all that it ever would.
var verbose = []string{"--log-level", "debug"}

// TestCLI runs sluice's commands: mounts of a directory and of another S3 server, files, exit statuses and messages.
func TestCLI(t *testing.T) {
	versitygw := StartVersitygw(t)
	c := &cli{suite: newSuite(t, "cli"), server: Start(t, Options{Args: verbose}), dir: t.TempDir(), store: versitygw}
	c.sluice = program{argv: []string{Binary(t)}, dir: c.dir, seen: &syncBuffer{}}
	c.sluice.env = environ([]string{"SLUICE_"}, "SLUICE_ADMIN_URL="+c.server.Admin, "SLUICE_ROOT_ACCESS_KEY="+AccessKey, "SLUICE_ROOT_SECRET_KEY="+SecretKey)
	c.local, c.secret = filepath.Join(c.dir, "store"), filepath.Join(c.dir, "secret")
	write(t, c.secret, strings.NewReader(versitygw.SecretKey+"\n"))
	makeBucket(t, versitygw, "lake")
	for name, size := range before {
		write(t, filepath.Join(c.local, name), bytesOf(size, name))
		body := io.NewSectionReader(stringsOf(t, size, name), 0, size)
		if _, err := versitygw.client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("lake"), Key: &name, Body: body}); err != nil {
			t.Fatal(err)
		}
	}

	c.run(t, "mount add", c.mountAdd)
	c.run(t, "mount ls", c.mountList)
	for _, mount := range []string{"/disk", "/lake"} {
		t.Run(mount[1:], func(t *testing.T) {
			c.run(t, "what was there", func(t *testing.T) { c.wasThere(t, mount) })
			c.run(t, "fs ls", func(t *testing.T) { c.list(t, mount) })
			c.run(t, "fs stat", func(t *testing.T) { c.stat(t, mount) })
			c.run(t, "fs cp", func(t *testing.T) { c.copy(t, mount) })
			c.run(t, "fs cp -r", func(t *testing.T) { c.copyTree(t, mount) })
			c.run(t, "fs mv", func(t *testing.T) { c.move(t, mount) })
			c.run(t, "fs rm", func(t *testing.T) { c.remove(t, mount) })
			c.run(t, "fs du", func(t *testing.T) { c.usage(t, mount) })
		})
	}
	c.run(t, "fs cp between stores", c.copyAcross)
	c.run(t, "mount update", c.mountUpdate)
	c.run(t, "path-rule", c.pathRules)
	c.run(t, "bucket alias", c.bucketAliases)
	c.run(t, "explain", c.explain)
	c.run(t, "sync", c.sync)
	c.run(t, "mount rm", c.mountRemove)
	c.run(t, "mount refused", c.mountRefused)
	c.run(t, "mount of a wrong secret", c.mountWrongSecret)
	c.run(t, "mount of what does not answer", c.mountUnreachable)
	c.run(t, "usage", c.mistakes)
	c.run(t, "credentials", c.credentials)
	c.run(t, "restart", c.restart)
	c.run(t, "secrets", c.secrets)
}

// before is what the stores have before they are mounted: names and sizes.
var before = map[string]int64{"a": 0, "b": 10, "d/c": 100_000, "d/e/f": 7, "ü b+c%d": 3}

func stringsOf(t *testing.T, n int64, seed string) *strings.Reader {
	t.Helper()
	b, err := io.ReadAll(bytesOf(n, seed))
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReader(string(b))
}

// parsed decodes what a command printed with -o json.
func parsed[T any](t *testing.T, r result) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.ok(t)), &v); err != nil {
		t.Fatalf("%s: %v in %q", r.line, err, r.out)
	}
	equal(t, "standard error of "+r.line, r.err, "")
	return v
}

// cliMount and cliEntry are what the commands print as JSON.
type (
	cliMount struct {
		Path, URI, Owner, Group, Mode, Origin, State string
		ReadOnly                                     bool   `json:"read_only"`
		SyncInterval                                 string `json:"sync_interval"`
		Options                                      map[string]string
	}
	cliEntry struct {
		Path, Name, Type, ETag, Mount string
		Size                          int64
	}
	cliList[T any] struct{ Items []T }
)

// s3Mount returns the arguments of a mount of a bucket of the other server.
func (c *cli) s3Mount(path, bucket string, options ...string) []string {
	args := []string{"mount", "add", path, "s3://" + bucket}
	all := c.store.Options()
	all["secret_key"] = "@" + c.secret
	for i := 0; i < len(options); i += 2 {
		all[options[i]] = options[i+1]
	}
	for _, name := range sorted(all) {
		args = append(args, "--option", name+"="+all[name])
	}
	return args
}

func (c *cli) mountAdd(t *testing.T) {
	c.sluice.run(t, "mount", "add", "/disk", "file://"+c.local, "--sync-interval", "0s").prints(t, "/disk is file://"+c.local+" (ready)\n")
	m := parsed[cliMount](t, c.sluice.run(t, append(c.s3Mount("/lake", "lake"), "--sync-interval", "0s", "-o", "json")...))
	equal(t, "mount", fmt.Sprint(m.Path, m.URI, m.State, m.Origin, m.ReadOnly, m.SyncInterval), fmt.Sprint("/lake", "s3://lake", "ready", "api", false, "0s"))
	equal(t, "bucket's options", fmt.Sprint(m.Options["endpoint"], " ", m.Options["secret_key"]), c.store.URL+" ***")
}

func (c *cli) mounts(t *testing.T) map[string]cliMount {
	t.Helper()
	mounts := map[string]cliMount{}
	for _, m := range parsed[cliList[cliMount]](t, c.sluice.run(t, "mount", "ls", "-o", "json")).Items {
		mounts[m.Path] = m
	}
	return mounts
}

func (c *cli) mountList(t *testing.T) {
	equal(t, "mounts", fmt.Sprint(sorted(c.mounts(t))), "[/ /disk /lake]")
	out := c.sluice.run(t, "mount", "ls").ok(t)
	for _, row := range []string{"PATH URI ACCESS SYNC EVENTS ORIGIN STATE", "/disk file://" + c.local + " read-write 0s - api ready", "/lake s3://lake read-write 0s - api ready"} {
		if !slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool { return strings.Join(strings.Fields(line), " ") == row }) {
			t.Errorf("no row %q in\n%s", row, out)
		}
	}
}

func (c *cli) wasThere(t *testing.T, mount string) {
	for name, size := range before {
		got := sha256.New()
		c.sluice.stream(t, nil, got, "fs", "cat", mount+"/"+name).ok(t)
		equal(t, name, fmt.Sprintf("%d bytes %x", size, got.Sum(nil)), sum(t, sha256.New(), bytesOf(size, name)))
	}
	o, err := c.server.client().GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(mount[1:]), Key: aws.String("ü b+c%d")})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	equal(t, "over S3", sum(t, sha256.New(), o.Body), sum(t, sha256.New(), bytesOf(3, "ü b+c%d")))
}

// behind returns the sums of the files of the mount's store, read without Sluice.
func (c *cli) behind(t *testing.T, mount string) map[string]string {
	t.Helper()
	dir := c.local
	if mount == "/lake" {
		dir = filepath.Join(c.store.Dir, "lake")
	}
	sums := treeSums(t, dir)
	for name := range sums {
		if strings.HasPrefix(name, ".sluice") || strings.HasPrefix(name, ".sgwtmp") {
			delete(sums, name)
		}
	}
	return sums
}

func (c *cli) names(t *testing.T, path string, args ...string) []string {
	t.Helper()
	list := parsed[cliList[cliEntry]](t, c.sluice.run(t, append([]string{"fs", "ls", "-o", "json", path}, args...)...))
	names := []string{}
	for _, e := range list.Items {
		names = append(names, e.Name)
	}
	return names
}

func (c *cli) list(t *testing.T, mount string) {
	equal(t, "names", fmt.Sprintf("%q", c.names(t, mount)), `["a" "b" "d/" "ü b+c%d"]`)
	equal(t, "names at any depth", fmt.Sprintf("%q", c.names(t, mount, "-r")), `["a" "b" "d/c" "d/e/f" "ü b+c%d"]`)
	table := c.sluice.run(t, "fs", "ls", mount+"/d").ok(t)
	equal(t, "rows", strings.Count(table, "\n"), 2)
	if f := strings.Fields(table); len(f) != 14 || f[3] != "100000" || f[6] != "c" || f[10] != "-" || f[13] != "e/" {
		t.Errorf("the table is %q", table)
	}
	c.sluice.run(t, "fs", "ls", mount+"/b").prints(t, " 10 ")
	r := c.sluice.run(t, "fs", "ls", mount+"/none")
	r.fails(t, 1, "sluice: list "+mount+"/none: ", "does not exist")
	equal(t, "standard output", r.out, "")
}

func (c *cli) stat(t *testing.T, mount string) {
	e := parsed[cliEntry](t, c.sluice.run(t, "fs", "stat", "-o", "json", mount+"/d/c"))
	equal(t, "entry", fmt.Sprint(e.Path, e.Type, e.Size, e.Mount), fmt.Sprint(mount+"/d/c", "file", 100_000, mount+"/"))
	head, err := c.server.client().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(mount[1:]), Key: aws.String("d/c")})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "ETag", strings.Trim(e.ETag, `"`), strings.Trim(*head.ETag, `"`))
	equal(t, "type", parsed[cliEntry](t, c.sluice.run(t, "fs", "stat", "-o", "json", mount+"/d")).Type, "directory")
	c.sluice.run(t, "fs", "stat", mount+"/d/c").prints(t, "Path:", mount+"/d/c\n", "100000 (98 KiB)")
	r := c.sluice.run(t, "fs", "stat", mount+"/b", mount+"/none")
	r.fails(t, 3, "sluice: stat "+mount+"/none: ", "1 of 2 failed")
	if !strings.Contains(r.out, mount+"/b") {
		t.Errorf("the one that is there is not shown: %q", r.out)
	}
	c.sluice.run(t, "fs", "stat", mount+"/no", mount+"/none").fails(t, 1, "2 of 2 failed")
}

func (c *cli) copy(t *testing.T, mount string) {
	for _, size := range []int64{0, 1, 20*mib + 1} {
		seed := fmt.Sprint(mount, size)
		up, down, path := "./up", filepath.Join(c.dir, "down"), fmt.Sprint(mount, "/cp/", size)
		write(t, filepath.Join(c.dir, up), bytesOf(size, seed))
		r := c.sluice.run(t, "fs", "cp", up, path)
		r.ok(t)
		equal(t, "output", r.out+r.err, "")
		equal(t, "in the store", c.behind(t, mount)[fmt.Sprint("cp/", size)], sum(t, sha256.New(), bytesOf(size, seed)))
		c.sluice.run(t, "fs", "cp", "-f", path, "file:"+down).ok(t)
		sameFile(t, down, size, seed)
		c.sluice.run(t, "fs", "cp", up, path).fails(t, 1, "sluice: copy "+up+" to "+path+": ", "exists")
		c.sluice.run(t, "fs", "cp", path, "file:"+down).fails(t, 1, "exists; use -f to replace it")
	}
	c.sluice.pipe(t, strings.NewReader("from a pipe"), "fs", "cp", "-f", "-", mount+"/cp/1").ok(t)
	equal(t, "file", c.sluice.run(t, "fs", "cp", mount+"/cp/1", "-").ok(t), "from a pipe")
	equal(t, "files", c.sluice.run(t, "fs", "cat", mount+"/cp/1", mount+"/cp/0", mount+"/cp/1").ok(t), "from a pipefrom a pipe")
	c.sluice.run(t, "fs", "cp", mount+"/cp/1", mount+"/cp/copy").ok(t)
	equal(t, "copy", c.sluice.run(t, "fs", "cat", mount+"/cp/copy").ok(t), "from a pipe")
	r := c.sluice.run(t, "fs", "cat", mount+"/cp/1", mount+"/none")
	r.fails(t, 3, "sluice: read "+mount+"/none: ")
	equal(t, "what could be read", r.out, "from a pipe")
	c.sluice.run(t, "fs", "cp", mount+"/none", "./x").fails(t, 1, "does not exist")
	if _, err := os.Stat(filepath.Join(c.dir, "x")); !os.IsNotExist(err) {
		t.Errorf("a copy that failed left a file: %v", err)
	}
}

func (c *cli) copyTree(t *testing.T, mount string) {
	local, down := filepath.Join(c.dir, "tree"), filepath.Join(c.dir, "tree-down", mount)
	up := "file:" + local
	for i, name := range oddNames {
		write(t, filepath.Join(local, name), bytesOf(int64(i*100), name))
	}
	c.sluice.run(t, "fs", "cp", up, mount+"/tree").fails(t, 1, "it is a directory; use -r to copy what is in it")
	c.sluice.run(t, "fs", "cp", "-r", up, mount+"/tree").ok(t)
	got := map[string]string{}
	for name, sum := range c.behind(t, mount) {
		if rest, ok := strings.CutPrefix(name, "tree/"); ok {
			got[rest] = sum
		}
	}
	want := treeSums(t, local)
	sameTree(t, got, want)
	c.sluice.run(t, "fs", "cp", "-r", mount+"/tree", "file:"+down).ok(t)
	sameTree(t, treeSums(t, down), want)
	equal(t, "files", len(c.names(t, mount+"/tree", "-r")), len(want))
	c.sluice.run(t, "fs", "cp", "-r", up, mount+"/").fails(t, 1, fmt.Sprintf("%d of %d failed", len(want), len(want)), "exists") // into the directory, as tree
	equal(t, "a file that was there", c.sluice.run(t, "fs", "rm", mount+"/tree/100%").ok(t), "")
	c.sluice.run(t, "fs", "cp", "-r", up, mount+"/").fails(t, 3, fmt.Sprintf("%d of %d failed", len(want)-1, len(want)))
	equal(t, "files", len(c.names(t, mount+"/tree", "-r")), len(want))
}

func (c *cli) move(t *testing.T, mount string) {
	c.sluice.pipe(t, strings.NewReader("moving"), "fs", "cp", "-", mount+"/mv/a").ok(t)
	c.sluice.pipe(t, strings.NewReader("there"), "fs", "cp", "-", mount+"/mv/b").ok(t)
	c.sluice.run(t, "fs", "mkdir", mount+"/mv/d").ok(t)
	c.sluice.run(t, "fs", "mv", mount+"/mv/a", mount+"/mv/b").fails(t, 1, "exists")
	c.sluice.run(t, "fs", "mv", mount+"/mv/none", mount+"/mv/c").fails(t, 1, "does not exist")
	c.sluice.run(t, "fs", "mv", mount+"/mv/a", mount+"/mv/d").ok(t)
	equal(t, "file", c.sluice.run(t, "fs", "cat", mount+"/mv/d/a").ok(t), "moving")
	c.sluice.run(t, "fs", "mv", "-f", mount+"/mv/d/a", mount+"/mv/b").ok(t)
	equal(t, "file", c.sluice.run(t, "fs", "cat", mount+"/mv/b").ok(t), "moving")
	c.sluice.run(t, "fs", "mv", mount+"/mv", mount+"/moved").ok(t)
	equal(t, "names", fmt.Sprintf("%q", c.names(t, mount+"/moved")), `["b" "d/"]`)
	if s := c.behind(t, mount); s["moved/b"] != sum(t, sha256.New(), strings.NewReader("moving")) || s["mv/b"] != "" {
		t.Errorf("the store has %v", s)
	}
}

func (c *cli) remove(t *testing.T, mount string) {
	c.sluice.run(t, "fs", "rm", mount+"/tree").fails(t, 1, "sluice: remove "+mount+"/tree: ", "not empty")
	c.sluice.run(t, "fs", "rm", "-r", mount+"/tree").ok(t)
	c.sluice.run(t, "fs", "rm", "-r", mount+"/tree").fails(t, 1, "does not exist")
	c.sluice.run(t, "fs", "rm", mount+"/moved/b", mount+"/none", mount+"/cp/1").fails(t, 3, "1 of 3 failed")
	for name := range c.behind(t, mount) {
		if strings.HasPrefix(name, "tree/") || name == "moved/b" || name == "cp/1" {
			t.Errorf("the store still has %q", name)
		}
	}
	c.sluice.run(t, "fs", "rm", mount).fails(t, 1, "sluice: remove "+mount+": ")
	c.sluice.run(t, "fs", "rm", "-r", mount).fails(t, 1, "sluice: remove "+mount+": ")
	c.wasThere(t, mount)
}

func (c *cli) usage(t *testing.T, mount string) {
	type summary struct {
		Path                      string
		Directories, Files, Bytes int64
	}
	equal(t, "summary", parsed[summary](t, c.sluice.run(t, "fs", "du", "-o", "json", mount+"/d")), summary{mount + "/d", 2, 2, 100_007})
	equal(t, "summary", c.sluice.run(t, "fs", "du", mount+"/d").ok(t), "98 KiB\t100007 bytes, 2 files, 2 directories\t"+mount+"/d\n")
	c.sluice.run(t, "fs", "du", mount+"/d", mount+"/none").fails(t, 3, "sluice: count "+mount+"/none: ")
}

func (c *cli) copyAcross(t *testing.T) {
	c.sluice.run(t, "fs", "cp", "/disk/d/c", "/lake/across").ok(t)
	c.sluice.run(t, "fs", "cp", "-r", "/lake/d", "/disk/across").ok(t)
	equal(t, "copy", c.behind(t, "/lake")["across"], sum(t, sha256.New(), bytesOf(before["d/c"], "d/c")))
	equal(t, "copy", c.behind(t, "/disk")["across/e/f"], sum(t, sha256.New(), bytesOf(before["d/e/f"], "d/e/f")))
	c.sluice.run(t, "fs", "mv", "/lake/across", "/disk/moved-across").fails(t, 1, "sluice: move /lake/across to /disk/moved-across: ")
	c.sluice.run(t, "fs", "cat", "/lake/across").ok(t)
	c.sluice.run(t, "fs", "rm", "-r", "/lake/across", "/disk/across").ok(t)
}

func (c *cli) mountUpdate(t *testing.T) {
	m := parsed[cliMount](t, c.sluice.run(t, "mount", "update", "/disk", "--read-only", "-o", "json"))
	equal(t, "mount", fmt.Sprint(m.ReadOnly, m.SyncInterval), "true0s")
	c.sluice.run(t, "fs", "rm", "/disk/b").fails(t, 1, "read-only")
	c.sluice.pipe(t, strings.NewReader("x"), "fs", "cp", "-", "/disk/new").fails(t, 1, "read-only")
	if names := c.names(t, "/disk"); !slices.Contains(names, "b") || slices.Contains(names, "new") {
		t.Errorf("a read-only mount changed: %q", names)
	}
	c.sluice.run(t, "mount", "update", "/disk", "--read-only=false", "--sync-interval", "5m").ok(t)
	equal(t, "sync interval", c.mounts(t)["/disk"].SyncInterval, "300s")
	c.sluice.pipe(t, strings.NewReader("x"), "fs", "cp", "-", "/disk/new").ok(t)
	c.sluice.run(t, "fs", "rm", "/disk/new").ok(t)
	c.sluice.run(t, "mount", "update", "/disk").fails(t, 2, "nothing to change")
	c.sluice.run(t, "mount", "update", "/disk", "--sync-interval", "soon").fails(t, 1, "sync_interval", `"soon" is not an interval`)
	c.sluice.run(t, "mount", "update", "/none", "--read-only").fails(t, 1, "nothing is mounted there")
}

// pathRules has one directory of a mount be written as no other, until a request says otherwise.
func (c *cli) pathRules(t *testing.T) {
	c.sluice.run(t, "path-rule", "set", "/disk/ruled", "write_type=THROUGH", "replicas=3").ok(t)
	type policy struct{ Setting, Value, Origin, Path string }
	equal(t, "what applies", fmt.Sprint(parsed[cliList[policy]](t, c.sluice.run(t, "path-rule", "ls", "/disk/ruled/d/x", "-o", "json")).Items[:3]),
		"[{write_type THROUGH rule /disk/ruled} {read_type CACHE_PROMOTE default } {replicas 3 rule /disk/ruled}]")
	r := newRig(c.server)
	for _, put := range []struct{ name, header, want string }{
		{"/disk/ruled/d/x", "", "THROUGH"}, {"/disk/ruled2", "", ""}, {"/disk/ruled/d/x", "CACHE_THROUGH", "CACHE_THROUGH"},
	} {
		ask := r.request("PUT", put.name, []byte("x"))
		if put.header != "" {
			ask.header.Set("X-Sluice-Write-Type", put.header)
		}
		status, header, answer := r.do(t, ask)
		equal(t, put.name, fmt.Sprint(status, header.Get("X-Sluice-Write-Type"), string(answer)), fmt.Sprint(200, put.want))
	}
	c.sluice.run(t, "path-rule", "rm", "/disk/ruled", "write_type").ok(t)
	type rule struct{ Path, WriteType string }
	equal(t, "rules", fmt.Sprint(parsed[cliList[rule]](t, c.sluice.run(t, "path-rule", "ls", "-o", "json")).Items), "[{/disk/ruled }]")
	c.sluice.run(t, "path-rule", "rm", "/disk/ruled").ok(t)
	c.sluice.run(t, "path-rule", "rm", "/disk/ruled").fails(t, 1, "no rule of its own")
	c.sluice.run(t, "fs", "rm", "-r", "/disk/ruled", "/disk/ruled2").ok(t)
}

// bucketAliases has a bucket stand for a directory of a mount, and takes that back.
func (c *cli) bucketAliases(t *testing.T) {
	c.sluice.run(t, "fs", "mkdir", "/disk/deep").ok(t)
	c.sluice.run(t, "bucket", "alias", "set", "short-cut", "/disk/deep").prints(t, "s3://short-cut is /disk/deep\n")
	r := newRig(c.server)
	put := func(want int) {
		t.Helper()
		if status, _, b := r.do(t, r.request("PUT", "/short-cut/x", []byte("x"))); status != want {
			t.Errorf("PUT: status %d %s, want %d", status, b, want)
		}
	}
	put(200)
	if status, _, b := r.do(t, r.request("GET", "/disk/deep/x", nil)); status != 200 || string(b) != "x" {
		t.Errorf("GET: status %d %s", status, b)
	}
	type bucket struct{ Name, Path, Origin string }
	equal(t, "aliases", fmt.Sprint(parsed[cliList[bucket]](t, c.sluice.run(t, "bucket", "alias", "ls", "-o", "json")).Items), "[{short-cut /disk/deep api}]")
	c.sluice.run(t, "bucket", "alias", "set", "disk", "/lake").fails(t, 1, "already exists", "would hide from S3")
	c.sluice.run(t, "bucket", "alias", "set", "No_Name", "/lake").fails(t, 1, "no name of a bucket")
	c.sluice.run(t, "bucket", "alias", "set", "short-cut", "/disk/none").fails(t, 1, "no such directory")
	c.sluice.run(t, "bucket", "alias", "rm", "short-cut").ok(t)
	put(404)
	c.sluice.run(t, "bucket", "alias", "rm", "short-cut").fails(t, 1, "no such bucket alias")
	c.sluice.run(t, "fs", "rm", "-r", "/disk/deep").ok(t)
}

// explain is asked what is known of names, and asks no store for it.
func (c *cli) explain(t *testing.T) {
	type explanation struct {
		Path, State, By, About, Access, Rights, User string
		Kind                                         string `json:"store_kind"`
		Entry                                        *cliEntry
		Residency                                    *struct {
			Pages  int
			Cached int `json:"cached_pages"`
		}
		Durability *struct{ State string }
		LastMiss   *struct {
			At                          time.Time
			Offset, Length              int64
			Kind, Reason, Since, Worker string
		} `json:"last_miss"`
		Unmissed string `json:"last_miss_unknown"`
	}
	explain := func(args ...string) explanation {
		t.Helper()
		return parsed[explanation](t, c.sluice.run(t, append([]string{"explain", "--json"}, args...)...))
	}
	x := explain("/disk/nobody/asked", "--fresh")
	if x.State != "ABSENT" || x.By == "" || x.Access == "" {
		t.Errorf("what is not there: %+v", x)
	}
	equal(t, "file", c.sluice.run(t, "fs", "cat", "/disk/b").ok(t) != "", true)
	x = explain("/disk/b")
	if x.Entry == nil || x.Residency == nil || x.Durability == nil {
		t.Fatalf("got %+v", x)
	}
	equal(t, "present", fmt.Sprint(x.Path, x.State, x.Kind, x.Entry.Size, x.Residency.Pages, x.Residency.Cached, x.Durability.State, x.Rights, x.User),
		fmt.Sprint("/disk/b", "PRESENT", "local", 10, 1, 1, "STORED", "rwx", "root"))
	equal(t, "store of the bucket", explain("/lake/b", "--fresh").Kind, "s3")
	equal(t, "of another", explain("/disk/b", "--user", "ann").Rights+" "+explain("/disk/b", "--user", "ann").User, "r-- ann")
	c.sluice.run(t, "explain", "/disk/b").prints(t, "/disk/b\n", "present, as the store said", "mount", "STORED", "1 of 1 pages", "conditions", "write_type CACHE_THROUGH (default)")
	c.sluice.run(t, "cache", "free", "/disk/b").ok(t)
	freed := time.Now()
	c.sluice.run(t, "fs", "cat", "/disk/b").ok(t)
	x = explain("/disk/b")
	if m := x.LastMiss; m == nil || m.Kind != "FREED" || m.Offset != 0 || m.Length != 10 || m.Worker == "" || m.Since == "" || m.At.Before(freed) || x.Unmissed != "" {
		t.Errorf("what was freed and read: %+v, %q", m, x.Unmissed)
	}
	c.sluice.run(t, "fs", "cat", "/disk/b").ok(t)
	if m := explain("/disk/b").LastMiss; m == nil || !m.At.Equal(x.LastMiss.At) {
		t.Errorf("a read that hit is told as one that missed: %+v", m)
	}
	c.sluice.run(t, "explain", "/disk/b").prints(t, "last miss", "10 bytes from 0 on, at "+x.LastMiss.Worker, x.LastMiss.Reason)
	if x = explain("/disk/a"); x.LastMiss != nil || x.Unmissed == "" {
		t.Errorf("of an empty file: %+v, %q", x.LastMiss, x.Unmissed)
	}
	c.sluice.run(t, "explain", "disk").fails(t, 1, "sluice: explain disk: ")
}

// sync takes over what others change in a store that is never asked again by itself.
func (c *cli) sync(t *testing.T) {
	dir := filepath.Join(c.dir, "synced")
	put := func(name, data string) { write(t, filepath.Join(dir, name), strings.NewReader(data)) }
	put("d/a", "1")
	put("d/b", "1")
	c.sluice.run(t, "mount", "add", "/synced", "file://"+dir, "--sync-interval", "-1").ok(t)
	names := func() string { return fmt.Sprintf("%q", c.names(t, "/synced", "-r")) }
	equal(t, "before", names(), `["d/a" "d/b"]`)
	put("d/c", "22")
	if err := os.Remove(filepath.Join(dir, "d/b")); err != nil {
		t.Fatal(err)
	}
	equal(t, "behind", names(), `["d/a" "d/b"]`)
	c.sluice.run(t, "sync", "/synced", "-r", "--dry-run").prints(t, "+ /synced/d/c\n", "- /synced/d/b\n", "1 added, 0 changed, 1 removed, would be taken over")
	equal(t, "after a dry run", names(), `["d/a" "d/b"]`)
	type job struct {
		State string
		Diff  struct{ Added, Changed, Removed int }
	}
	j := parsed[job](t, c.sluice.run(t, "sync", "/synced", "--recursive", "-o", "json"))
	equal(t, "sync", fmt.Sprint(j), "{done {1 0 1}}")
	equal(t, "after", names(), `["d/a" "d/c"]`)
	put("d/e", "1")
	equal(t, "behind again", names(), `["d/a" "d/c"]`)
	c.sluice.run(t, "invalidate", "/synced/d").ok(t)
	equal(t, "after invalidate", names(), `["d/a" "d/c" "d/e"]`)
	c.sluice.run(t, "explain", "/synced/d/c").prints(t, "synced", "as /synced/")
	c.sluice.run(t, "path-rule", "set", "/synced/d", "sync_interval=0s").prints(t, "/synced/d", "sync_interval", "0s")
	put("d/f", "1")
	equal(t, "by a rule", names(), `["d/a" "d/c" "d/e" "d/f"]`)
	c.sluice.run(t, "explain", "/synced/d/f").prints(t, "sync_interval 0s (rule /synced/d)", "sync_interval")
	c.sluice.run(t, "path-rule", "set", "/synced/d", "sync_interval=soon").fails(t, 1, "sync_interval")
	c.sluice.run(t, "path-rule", "rm", "/synced/d").ok(t)
	c.sluice.run(t, "sync", "/synced/none").fails(t, 1, "does not exist")
	c.sluice.run(t, "sync", "/synced", "-r", "--resume").prints(t, "0 added, 0 changed, 0 removed") // nothing was cut off
	c.sluice.run(t, "sync", "/synced", "--resume", "--dry-run").fails(t, 1, "a dry run takes nothing over")
	c.sluice.run(t, "invalidate").fails(t, 2, "requires at least 1 arg")
	c.sluice.run(t, "mount", "rm", "/synced").ok(t)
}

// mountRemove finds the stores as they were, byte for byte, and mounts them again.
func (c *cli) mountRemove(t *testing.T) {
	for _, mount := range []string{"/disk", "/lake"} {
		was := c.behind(t, mount)
		c.sluice.run(t, "mount", "rm", mount).ok(t)
		c.sluice.run(t, "fs", "ls", mount+"/d").fails(t, 1, "does not exist")
		sameTree(t, c.behind(t, mount), was)
	}
	equal(t, "mounts", fmt.Sprint(sorted(c.mounts(t))), "[/]")
	c.sluice.run(t, "mount", "rm", "/disk").fails(t, 1, "nothing is mounted there")
	c.sluice.run(t, append(c.s3Mount("/lake", "lake"), "--sync-interval", "0s")...).ok(t)
	c.sluice.run(t, "mount", "rm", "/disk", "/lake").fails(t, 3, "sluice: unmount /disk: ", "1 of 2 failed")
	c.sluice.run(t, append(c.s3Mount("/lake", "lake"), "--sync-interval", "0s")...).ok(t)
	c.sluice.run(t, "mount", "add", "/disk", "file://"+c.local, "--sync-interval", "0s").ok(t)
	c.wasThere(t, "/disk")
	c.wasThere(t, "/lake")
}

// refused fails the test unless a mount is refused with the texts, soon.
func (c *cli) refused(t *testing.T, texts []string, args ...string) {
	t.Helper()
	was, start := sorted(c.mounts(t)), time.Now()
	r := c.sluice.run(t, args...)
	r.fails(t, 1, append(texts, "sluice: mount "+args[2]+": ")...)
	equal(t, "standard output", r.out, "")
	if took := time.Since(start); took > 8*time.Second { // a probe has 5 s
		t.Errorf("refused after %v", took)
	}
	equal(t, "mounts", fmt.Sprint(sorted(c.mounts(t))), fmt.Sprint(was))
}

func (c *cli) mountRefused(t *testing.T) {
	c.refused(t, []string{"there is no such bucket at " + c.store.URL}, c.s3Mount("/new", "no-such-bucket")...)
	c.refused(t, []string{`unknown option "colour"`}, c.s3Mount("/new", "lake", "colour", "blue")...)
	c.refused(t, []string{"something is mounted there"}, "mount", "add", "/disk", "file://"+c.dir)
	c.refused(t, []string{"overlaps that of the writable mount /disk/"}, "mount", "add", "/new", "file://"+c.local+"/d")
	c.refused(t, []string{"overlaps that of the writable mount /lake/"}, c.s3Mount("/new", "lake/d")...)
	c.refused(t, []string{"does not exist"}, "mount", "add", "/new", "file://"+c.dir+"/none")
	c.refused(t, []string{`unknown scheme "ftp"`}, "mount", "add", "/new", "ftp://somewhere/")
	c.refused(t, []string{""}, "mount", "add", "relative", "file://"+c.dir)
	c.refused(t, []string{"sync_interval"}, "mount", "add", "/new", "file://"+c.dir, "--sync-interval", "-5s")
}

func (c *cli) mountWrongSecret(t *testing.T) {
	makeBucket(t, c.store, "other")
	c.refused(t, []string{"SignatureDoesNotMatch"}, c.s3Mount("/new", "other", "secret_key", wrongSecret)...)
	c.refused(t, []string{"permission denied: XAdminUserNotFound"}, c.s3Mount("/new", "other", "access_key", "nobody")...)
	wrong := filepath.Join(c.dir, "wrong")
	write(t, wrong, strings.NewReader(wrongSecret+"\n"))
	c.refused(t, []string{"SignatureDoesNotMatch"}, c.s3Mount("/new", "other", "secret_key", "@"+wrong)...)
	c.sluice.run(t, c.s3Mount("/new", "other", "secret_key", "@"+wrong+"-none")...).fails(t, 1, "option secret_key: ", "no such file")
}

// mountUnreachable names endpoints where nobody listens, and where nobody answers.
func (c *cli) mountUnreachable(t *testing.T) {
	c.refused(t, []string{"connection refused"}, c.s3Mount("/new", "other", "endpoint", "http://"+FreePort(t), "secret_key", unheardSecret)...)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c.refused(t, []string{"temporarily unavailable"}, c.s3Mount("/new", "other", "endpoint", "http://"+silent.Addr().String(), "secret_key", unheardSecret)...)
}

func (c *cli) mistakes(t *testing.T) {
	for _, args := range [][]string{
		{"nonsense"}, {"fs"}, {"mount"}, {"fs", "ls"}, {"fs", "ls", "/a", "/b"}, {"fs", "stat"}, {"fs", "cp", "/a"}, {"mount", "add", "/a"}, {"mount", "rm"},
		{"fs", "ls", "--bogus", "/"}, {"fs", "ls", "-o", "xml", "/"}, {"mount", "ls", "extra"}, {"fs", "mv", "./local", "/a"}, {"fs", "cp", "./a", "./b"},
		{"mount", "add", "/new", "file:///tmp", "--option", "novalue"}, {"serve", "--bogus"},
	} {
		r := c.sluice.run(t, args...)
		r.fails(t, 2, "sluice: ", "--help' for how it is used.")
		equal(t, "standard output of "+r.line, r.out, "")
	}
	c.sluice.run(t, "--help").prints(t, "sluice serve", "sluice mount add", "sluice fs ls")
	c.sluice.run(t, "serve", "--help").prints(t, "--s3-listen", "--webhdfs-listen", "--mount")
	c.sluice.run(t, "version").prints(t, "sluice ")
}

// credentials looks for keys and the server as the help says: flags, environment, data directory.
func (c *cli) credentials(t *testing.T) {
	wrong := c.sluice
	wrong.env = append(slices.Clone(c.sluice.env), "SLUICE_ROOT_SECRET_KEY="+wrongSecret)
	wrong.run(t, "fs", "ls", "/").fails(t, 1, "sluice: list /: ")
	wrong.run(t, "mount", "rm", "/disk").fails(t, 1, "sluice: unmount /disk: ")
	equal(t, "mounts", fmt.Sprint(sorted(c.mounts(t))), "[/ /disk /lake]")
	nobody := c.sluice
	nobody.env = environ([]string{"SLUICE_"}, "SLUICE_ADMIN_URL="+c.server.Admin)
	nobody.run(t, "fs", "ls", "/").fails(t, 1, "no key pair", "SLUICE_ROOT_ACCESS_KEY")
	gone := c.sluice
	gone.env = append(slices.Clone(c.sluice.env), "SLUICE_ADMIN_URL=http://"+FreePort(t))
	gone.run(t, "fs", "ls", "/").fails(t, 1, "no answer from the admin API at http://127.0.0.1:", "sluice serve")
	gone.run(t, "fs", "ls", "/", "--admin-url", c.server.Admin).ok(t)
	c.sluice.run(t, "fs", "ls", "/", "--admin-url", c.server.S3).fails(t, 1, "is not the admin API of Sluice")

	// A server that makes its own keys keeps them where the commands look.
	own := Start(t, Options{Env: []string{"SLUICE_ROOT_ACCESS_KEY=", "SLUICE_ROOT_SECRET_KEY="}})
	nobody.env = environ([]string{"SLUICE_"}, "SLUICE_ADMIN_URL="+own.Admin)
	nobody.run(t, "fs", "ls", "/", "--data", own.Data).ok(t)
	nobody.env = append(nobody.env, "SLUICE_DATA="+own.Data)
	nobody.run(t, "fs", "ls", "/").ok(t)
}

// restart finds mounts that were made over the API, with their secrets, after the server has ended.
func (c *cli) restart(t *testing.T) {
	was, log := c.mounts(t), c.server.Log()
	c.server.Stop(t)
	c.sluice.seen.Write([]byte(log + c.server.Log()))
	c.server = Start(t, Options{Data: c.server.Data, Ports: c.server, Args: verbose})
	for path, m := range c.mounts(t) {
		equal(t, path, fmt.Sprint(m), fmt.Sprint(was[path]))
	}
	equal(t, "mounts", len(was), 3)
	c.wasThere(t, "/disk")
	c.wasThere(t, "/lake")
}

// secrets looks for secrets in all that commands and servers have printed.
func (c *cli) secrets(t *testing.T) {
	c.sluice.seen.Write([]byte(c.server.Log()))
	all := c.sluice.seen.String()
	for _, text := range []string{"SignatureDoesNotMatch", `"op":"GetObject"`} {
		if !strings.Contains(all, text) {
			t.Errorf("%q is not among what was printed, which then says nothing of secrets", text)
		}
	}
	for _, secret := range []string{SecretKey, c.store.SecretKey, wrongSecret, unheardSecret} {
		if i := strings.Index(all, secret); i >= 0 {
			t.Errorf("a secret was printed: %q", all[max(0, i-200):min(len(all), i+len(secret)+50)])
		}
	}
}
