package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// lifeline is a server whose journal is saved, restored and checked, over a mounted directory.
type lifeline struct {
	*suite
	t      *testing.T // of all cases: a server outlives the case that starts it
	server *Server
	store  string // the mounted directory
	saved  string // the snapshot
	upload string // id of an upload in progress when it was taken
}

// TestRestore saves the journal under changes, restores it after more of them, and releases it.
func TestRestore(t *testing.T) {
	l := &lifeline{t: t, suite: newSuite(t, "restore"), server: Start(t, Options{}), store: t.TempDir(), saved: filepath.Join(t.TempDir(), "saved")}
	if _, stderr, code := l.server.Sluice(t, "mount", "add", "/lake", "file://"+l.store, "--sync-interval", "-1"); code != 0 {
		t.Fatal(stderr)
	}
	l.run(t, "backup", l.backup)
	l.run(t, "backup to standard output", l.backupOut)
	l.run(t, "automatic snapshot", l.automatic)
	l.run(t, "fsck", func(t *testing.T) { l.fsck(t, "--stores") })
	l.run(t, "more changes", l.more)
	want := l.files(t)
	before := l.contents(t)
	l.server.Stop(t)
	l.run(t, "fsck of a data directory", func(t *testing.T) { l.fsck(t, "--file", l.server.Data) })
	l.run(t, "a damaged snapshot is refused", l.damagedSnapshot)
	l.run(t, "restore", l.restore)
	l.run(t, "reads while held", func(t *testing.T) { l.reads(t, want) })
	l.run(t, "changes while held", l.held)
	l.run(t, "a restart releases nothing", l.restart)
	l.run(t, "dry run", func(t *testing.T) { l.release(t, "--dry-run") })
	l.run(t, "changes after a dry run", l.held)
	l.run(t, "release", func(t *testing.T) { l.release(t) })
	l.run(t, "no store was changed", func(t *testing.T) {
		if after := l.contents(t); !maps.Equal(before, after) {
			t.Errorf("the store was\n%v\nand is\n%v", before, after)
		}
	})
	l.run(t, "reads after the release", func(t *testing.T) { l.reads(t, want) })
	l.run(t, "changes after the release", func(t *testing.T) { l.changes(t, want) })
	l.run(t, "fsck after the release", func(t *testing.T) { l.fsck(t, "--stores") })
	l.run(t, "set back", l.setBack)
	l.run(t, "planted damage", l.plant)
}

func (l *lifeline) put(t *testing.T, key, data string) {
	t.Helper()
	if _, err := l.server.client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("lake"), Key: &key, Body: strings.NewReader(data)}); err != nil {
		t.Fatal(err)
	}
}

func (l *lifeline) get(t *testing.T, key string) (string, error) {
	out, err := l.server.client().GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("lake"), Key: &key})
	if err != nil {
		return "", err
	}
	defer out.Body.Close()
	b, err := io.ReadAll(out.Body)
	return string(b), err
}

// versioned is content that names its version all through, over several pages of the cache.
func versioned(key, version string) string {
	return strings.Repeat(key+" "+version+"\n", 3<<20/(len(key)+len(version)+2))
}

func (l *lifeline) backup(t *testing.T) {
	for i := range 30 {
		l.put(t, fmt.Sprintf("d%d/f%d", i%3, i), versioned(fmt.Sprint(i), "first"))
	}
	for i := range 30 { // into the cache
		if _, err := l.get(t, fmt.Sprintf("d%d/f%d", i%3, i)); err != nil {
			t.Fatal(err)
		}
	}
	up, err := l.server.client().CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: aws.String("lake"), Key: aws.String("up")})
	if err != nil {
		t.Fatal(err)
	}
	l.upload = *up.UploadId
	l.part(t)
	stdout, stderr, code := l.server.Sluice(t, "backup", l.saved)
	if code != 0 || !strings.Contains(stdout, "verified") {
		t.Fatalf("status %d: %s%s", code, stdout, stderr)
	}
	if info, err := os.Stat(l.saved); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the snapshot is readable by others: %v, %v", info, err)
	}
}

func (l *lifeline) part(t *testing.T) *s3.UploadPartOutput {
	t.Helper()
	out, err := l.server.client().UploadPart(t.Context(), &s3.UploadPartInput{
		Bucket: aws.String("lake"), Key: aws.String("up"), UploadId: &l.upload, PartNumber: aws.Int32(1), Body: strings.NewReader("part"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (l *lifeline) backupOut(t *testing.T) {
	stdout, stderr, code := l.server.Sluice(t, "backup", "-")
	if code != 0 {
		t.Fatalf("status %d: %s", code, stderr)
	}
	file := filepath.Join(t.TempDir(), "piped")
	if err := os.WriteFile(file, []byte(stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	l.fsck(t, "--file", file)
}

// automatic finds a snapshot that the server has taken by itself.
func (l *lifeline) automatic(t *testing.T) {
	eventually(t, 20*time.Second, func() error {
		files, err := filepath.Glob(filepath.Join(l.server.Data, "backups", "sluice-*.snapshot"))
		if err != nil || len(files) == 0 {
			return fmt.Errorf("no snapshot in %s/backups: %v", l.server.Data, err)
		}
		l.fsck(t, "--file", files[0])
		return nil
	})
}

// fsck checks and wants no finding.
func (l *lifeline) fsck(t *testing.T, args ...string) {
	t.Helper()
	stdout, stderr, code := l.server.Sluice(t, append([]string{"fsck"}, args...)...)
	if code != 0 || !strings.Contains(stdout, "; 0 findings") {
		t.Errorf("fsck %v: status %d: %s%s", args, code, stdout, stderr)
	}
}

// more makes the changes that the snapshot knows nothing of.
func (l *lifeline) more(t *testing.T) {
	c := l.server.client()
	for i := range 10 {
		l.put(t, fmt.Sprintf("d%d/f%d", i%3, i), versioned(fmt.Sprint(i), "second"))
	}
	for i := 10; i < 20; i++ {
		key := fmt.Sprintf("d%d/f%d", i%3, i)
		if _, err := c.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String("lake"), Key: &key}); err != nil {
			t.Fatal(err)
		}
	}
	for _, mv := range [][2]string{{"/lake/d0/f21", "/lake/d0/moved"}, {"/lake/d1", "/lake/renamed"}} {
		if _, stderr, code := l.server.Sluice(t, "fs", "mv", mv[0], mv[1]); code != 0 {
			t.Fatal(stderr)
		}
	}
	l.put(t, "d0/f12", "made again after its removal")
	l.put(t, "new/file", "new")
	_, err := c.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{
		Bucket: aws.String("lake"), Key: aws.String("up"), UploadId: &l.upload,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{ETag: l.part(t).ETag, PartNumber: aws.Int32(1)}}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// contents are the bytes of every file in the store, those of staging too.
func (l *lifeline) contents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(l.store, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		all[strings.TrimPrefix(name, l.store+"/")] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// files are the bytes of every file of the store that has a name in the namespace.
func (l *lifeline) files(t *testing.T) map[string]string {
	all := l.contents(t)
	maps.DeleteFunc(all, func(name, _ string) bool { return strings.HasPrefix(name, ".sluice/") })
	return all
}

func (l *lifeline) damagedSnapshot(t *testing.T) {
	b, err := os.ReadFile(l.saved)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	bad := filepath.Join(t.TempDir(), "bad")
	for name, damaged := range map[string][]byte{"changed": b, "cut off": b[:len(b)/2]} {
		if err := os.WriteFile(bad, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		data := filepath.Join(t.TempDir(), "data")
		if stdout, stderr, code := l.server.Sluice(t, "restore", bad, "--data", data); code != 1 || !strings.Contains(stderr, "snapshot is") {
			t.Errorf("%s: status %d: %s%s", name, code, stdout, stderr)
		}
		if files, err := os.ReadDir(filepath.Join(data, "etcd")); len(files) > 0 {
			t.Errorf("%s: it left %v, %v", name, files, err)
		}
	}
}

func (l *lifeline) restore(t *testing.T) {
	old := l.server.Data
	if stdout, stderr, code := l.server.Sluice(t, "restore", l.saved, "--data", old); code != 1 || !strings.Contains(stderr, "not empty") {
		t.Errorf("over a journal: status %d: %s%s", code, stdout, stderr)
	}
	data := l.t.TempDir()
	if stdout, stderr, code := l.server.Sluice(t, "restore", l.saved, "--data", data); code != 0 || !strings.Contains(stdout, "sluice release") {
		t.Fatalf("status %d: %s%s", code, stdout, stderr)
	}
	// What the snapshot does not hold comes from the old directory, its cache too: it must not be believed.
	for _, name := range []string{"root", "secret-key", "cache"} {
		if err := os.Rename(filepath.Join(old, name), filepath.Join(data, name)); err != nil {
			t.Fatal(err)
		}
	}
	l.start(t, data)
}

// start starts a server on another data directory with all the cache that there is.
func (l *lifeline) start(t *testing.T, data string) {
	t.Helper()
	cache := filepath.Join(data, "cache")
	l.server = Start(l.t, Options{Data: data, Tiers: true, Args: []string{"--cache-tier", "dir=" + cache + ",quota=1GiB,medium=ssd"}})
}

// reads wants every file that the store has, with its bytes, and nothing else.
func (l *lifeline) reads(t *testing.T, want map[string]string) {
	for round := range 2 { // from the store, then from the cache
		got := map[string]string{}
		pages := s3.NewListObjectsV2Paginator(l.server.client(), &s3.ListObjectsV2Input{Bucket: aws.String("lake"), MaxKeys: aws.Int32(7)})
		for pages.HasMorePages() {
			p, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range p.Contents {
				if strings.HasSuffix(*o.Key, "/") {
					continue
				}
				data, err := l.get(t, *o.Key)
				if err != nil {
					t.Errorf("round %d: %s: %v", round, *o.Key, err)
				}
				if int64(len(data)) != *o.Size {
					t.Errorf("round %d: %s is listed with %d bytes and has %d", round, *o.Key, *o.Size, len(data))
				}
				got[*o.Key] = data
			}
		}
		for name := range want {
			if got[name] != want[name] {
				t.Errorf("round %d: %s is %.40q…, want %.40q…", round, name, got[name], want[name])
			}
		}
		for name := range got {
			if _, ok := want[name]; !ok {
				t.Errorf("round %d: %s is there, and not in the store", round, name)
			}
		}
	}
	for _, gone := range []string{"d0/f21", "d1/f13", "d2/f11"} {
		if _, err := l.get(t, gone); err == nil {
			t.Errorf("%s can be read", gone)
		}
	}
}

// held wants every change refused with what to do.
func (l *lifeline) held(t *testing.T) {
	c, bucket, key := l.server.client(), aws.String("lake"), aws.String("d0/f0")
	for name, change := range map[string]func() error{
		"PutObject": func() error {
			_, err := c.PutObject(t.Context(), &s3.PutObjectInput{Bucket: bucket, Key: key, Body: strings.NewReader("x")})
			return err
		},
		"DeleteObject": func() error {
			_, err := c.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: bucket, Key: key})
			return err
		},
		"CopyObject": func() error {
			_, err := c.CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: bucket, Key: aws.String("copy"), CopySource: aws.String("lake/d0/f0")})
			return err
		},
		"CreateMultipartUpload": func() error {
			_, err := c.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: bucket, Key: key})
			return err
		},
		"AbortMultipartUpload": func() error {
			_, err := c.AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: bucket, Key: aws.String("up"), UploadId: &l.upload})
			return err
		},
		"CreateBucket": func() error {
			_, err := c.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("bucket")})
			return err
		},
	} {
		err := change()
		var resp *awshttp.ResponseError
		if !errors.As(err, &resp) || resp.HTTPStatusCode() != http.StatusServiceUnavailable || !strings.Contains(err.Error(), "sluice release") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, l.server.WebHDFS+"/webhdfs/v1/lake/d0/f0?op=DELETE&user.name=root", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusForbidden || !bytes.Contains(b, []byte("SafeModeException")) || !bytes.Contains(b, []byte("sluice release")) {
		t.Errorf("WebHDFS: %d %s", resp.StatusCode, b)
	}
	if _, stderr, code := l.server.Sluice(t, "fs", "rm", "/lake/d0/f0"); code != 1 || !strings.Contains(stderr, "sluice release") {
		t.Errorf("fs rm: status %d: %s", code, stderr)
	}
	if _, stderr, code := l.server.Sluice(t, "mount", "add", "/more", "file://"+t.TempDir()); code != 1 || !strings.Contains(stderr, "sluice release") {
		t.Errorf("mount add: status %d: %s", code, stderr)
	}
}

func (l *lifeline) restart(t *testing.T) {
	l.server.Kill()
	l.start(t, l.server.Data)
	l.held(t)
}

func (l *lifeline) release(t *testing.T, args ...string) {
	stdout, stderr, code := l.server.Sluice(t, append([]string{"release", "-o", "json"}, args...)...)
	if code != 0 {
		t.Fatalf("status %d: %s%s", code, stdout, stderr)
	}
	var r struct {
		Released bool
		Proved   int
		Items    []struct{ Kind, Name string }
	}
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, f := range r.Items {
		found[f.Name] = f.Kind
	}
	for name, kind := range map[string]string{
		"/lake/d0/f0": "changed", "/lake/d0/f12": "changed", "/lake/d2/f11": "gone", "/lake/d0/f21": "gone", "/lake/d1/": "gone", "/lake/d1/f28": "gone",
	} {
		if found[name] != kind {
			t.Errorf("%s is %q, want %q", name, found[name], kind)
		}
	}
	if r.Released != (len(args) == 0) || found["/lake/d0/f24"] != "" || r.Proved == 0 {
		t.Errorf("got %s", stdout)
	}
}

// changes makes changes and wants them in the namespace and the store.
func (l *lifeline) changes(t *testing.T, want map[string]string) {
	want = maps.Clone(want)
	for _, key := range []string{"d0/f0", "d0/f24", "renamed/f28", "brand/new"} {
		want[key] = versioned(key, "third")
		l.put(t, key, want[key])
	}
	if _, err := l.server.client().DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String("lake"), Key: aws.String("d2/f2")}); err != nil {
		t.Fatal(err)
	}
	delete(want, "d2/f2")
	// The upload was completed in the life that is lost: nobody can complete it twice, and it can be given up.
	if _, err := l.server.client().AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: aws.String("lake"), Key: aws.String("up"), UploadId: &l.upload}); err != nil {
		t.Error(err)
	}
	l.reads(t, want)
	if got := l.files(t); !maps.Equal(got, want) {
		t.Errorf("the store has %d files, want %d", len(got), len(want))
	}
}

// setBack puts an older journal in the place of the one that runs, and wants that noticed.
func (l *lifeline) setBack(t *testing.T) {
	journal, old := filepath.Join(l.server.Data, "etcd"), filepath.Join(t.TempDir(), "old")
	l.server.Stop(t)
	if err := os.CopyFS(old, os.DirFS(filepath.Join(journal, "member"))); err != nil {
		t.Fatal(err)
	}
	l.start(t, l.server.Data)
	l.put(t, "later", "1")
	l.server.Stop(t)
	if err := errors.Join(os.RemoveAll(filepath.Join(journal, "member")), os.CopyFS(filepath.Join(journal, "member"), os.DirFS(old))); err != nil {
		t.Fatal(err)
	}
	l.start(t, l.server.Data)
	if !strings.Contains(l.server.Log(), "set back") {
		t.Error("the log says nothing")
	}
	l.held(t)
	if got, err := l.get(t, "later"); err != nil || got != "1" {
		t.Errorf("what was acknowledged and lost from the journal: %q, %v", got, err)
	}
	if _, stderr, code := l.server.Sluice(t, "release"); code != 0 {
		t.Error(stderr)
	}
	l.put(t, "later", "2")
}

// plant damages the journal through etcd's own socket, and the store, and wants all of it found.
func (l *lifeline) plant(t *testing.T) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(l.server.Data, "etcd", "client.sock")}, DialTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Put(t.Context(), "sys/mounts/m999", `{"id":"m998","path":"/nowhere"}`); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(l.store, "d0/f24")); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := l.server.Sluice(t, "fsck", "--stores")
	if code != 1 || !strings.Contains(stdout, "sys/mounts/m999") || !strings.Contains(stdout, "/lake/d0/f24") || !strings.Contains(stdout, "2 findings") {
		t.Errorf("status %d: %s%s", code, stdout, stderr)
	}
	if _, err := c.Delete(t.Context(), "sys/mounts/m999"); err != nil {
		t.Fatal(err)
	}
	last, err := c.Get(t.Context(), "g/0/j/", clientv3.WithLastKey()...)
	if err != nil || len(last.Kvs) != 1 {
		t.Fatal(last, err)
	}
	record := bytes.Clone(last.Kvs[0].Value)
	record[len(record)-1] ^= 1
	if _, err := c.Put(t.Context(), string(last.Kvs[0].Key), string(record)); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code = l.server.Sluice(t, "fsck")
	if code != 1 || !strings.Contains(stdout, "journal") || !strings.Contains(stdout, string(last.Kvs[0].Key)) {
		t.Errorf("a damaged record: status %d: %s%s", code, stdout, stderr)
	}
}
