package conformance

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// smallDisk returns a directory on an ext4 file system of its own of that many MiB.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "only root may mount a file system")
	}
	image := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	err = f.Truncate(int64(mib) << 20)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := command("", "mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image); err != nil {
		Skip(t, "mkfs.ext4 (Debian: e2fsprogs): %v", err)
	}
	return mountAt(t, "-o", "loop", image)
}

// smallMemory returns a directory on a file system in memory of that many MiB.
func smallMemory(t *testing.T, mib int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "only root may mount a file system")
	}
	return mountAt(t, "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", mib), "tmpfs")
}

func mountAt(t *testing.T, args ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice-disk-") // outside t.TempDir, which would remove through the mount
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := command("", append(append([]string{"mount"}, args...), dir)...); err != nil {
		Skip(t, "mounting: %v", err)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	os.Remove(filepath.Join(dir, "lost+found"))
	return dir
}

// fill writes objects below dir until one is refused for want of space, and returns those that were not.
func (r *rig) fill(t *testing.T, dir string, size int64, most int) world {
	t.Helper()
	w := world{}
	for i := range most {
		path := fmt.Sprintf("%s/fill-%03d", dir, i)
		c := content{path, 1, size}
		status, _, body := r.do(t, r.request("PUT", path, c.bytes(), "X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"))
		switch {
		case status == http.StatusOK:
			w[path] = object{parts: []content{c}}
			continue
		case status != http.StatusInsufficientStorage || !strings.Contains(string(body), "<Code>InsufficientStorage</Code>"):
			t.Fatalf("PUT %s on a full disk: got %d %s, want 507 InsufficientStorage", path, status, body)
		}
		return w
	}
	t.Fatalf("%d objects of %d bytes did not fill the disk", most, size)
	return nil
}

// reads checks that just the objects of w are below dir, each whole.
func (r *rig) reads(t *testing.T, dir string, w world) {
	t.Helper()
	keys, err := r.list(t.Context(), dir+"/")
	if err != nil {
		t.Error(err)
	}
	if want := sorted(w); !slices.Equal(keys, want) {
		t.Errorf("got names %v, want %v", keys, want)
	}
	for name, o := range w {
		if _, _, err := r.get(t.Context(), name, o.parts...); err != nil {
			t.Error(err)
		}
		resp, err := r.send(t.Context(), r.webhdfs("GET", name, "OPEN", "", nil))
		if err != nil {
			t.Error(err)
			continue
		}
		if err := same(resp.Body, o.parts...); err != nil {
			t.Errorf("OPEN %s: %v", name, err)
		}
		resp.Body.Close()
	}
}

// refusals checks that every way to write below dir is refused for want of space, in its protocol's words.
func (r *rig) refusals(t *testing.T, dir string, size int64, there string) (cases int) {
	t.Helper()
	c := content{dir + "/refused", 1, size}
	b, k := bucketKey(c.name)
	status := func(what string, q raw) {
		t.Helper()
		cases++
		if status, _, body := r.do(t, q); status != http.StatusInsufficientStorage || !strings.Contains(string(body), "<Code>InsufficientStorage</Code>") {
			t.Errorf("%s: got %d %s, want 507 InsufficientStorage", what, status, body)
		}
	}
	status("PutObject", r.request("PUT", c.name, c.bytes()))
	status("PutObject over another", r.request("PUT", there, c.bytes()))
	status("CopyObject", r.request("PUT", c.name, nil, "X-Amz-Copy-Source", there))
	out, err := r.s3.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: b, Key: k})
	if err != nil {
		t.Logf("CreateMultipartUpload: %v", err) // it needs a block or two itself
	} else {
		status("UploadPart", r.request("PUT", c.name+"?partNumber=1&uploadId="+*out.UploadId, c.bytes()))
		if _, err := r.s3.AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: b, Key: k, UploadId: out.UploadId}); err != nil {
			t.Errorf("AbortMultipartUpload: %v", err)
		}
	}
	hdfs := func(what, method, path, op, params string, body io.Reader) {
		t.Helper()
		cases++
		_, err := r.hdfs(t.Context(), method, path, op, params, body, size)
		if e, ok := err.(*hdfsError); !ok || e.status != http.StatusForbidden || e.Exception != "DSQuotaExceededException" {
			t.Errorf("%s: got %v, want 403 DSQuotaExceededException", what, err)
		}
	}
	hdfs("CREATE", "PUT", c.name, "CREATE", "", c.reader())
	hdfs("CREATE over another", "PUT", there, "CREATE", "overwrite=true", c.reader())
	hdfs("APPEND", "POST", there, "APPEND", "", c.reader())
	return cases
}

// TestFullStore fills the disk of a mounted directory.
func TestFullStore(t *testing.T) {
	disk := smallDisk(t, 64)
	s := Start(t, Options{})
	r := newRig(s)
	r.mkbucket(t, "root-store")
	r.mount(t, "/small", "file://"+disk)
	const size = 5<<20 + 1
	w := r.fill(t, "/small", size, 20)
	first := sorted(w)[0]
	cases := r.refusals(t, "/small", size, first)
	r.reads(t, "/small", w)
	r.mustPut(t, "/root-store/beside", content{"/root-store/beside", 1, size})
	if err := cleanDir(t, disk)(nil); err != nil {
		t.Error(err)
	}

	// A store whose bytes are no longer in the cache is read as well.
	b, k := bucketKey(first)
	if _, err := r.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: b, Key: k}); err != nil {
		t.Errorf("DeleteObject on a full disk: %v", err)
	}
	delete(w, first)
	r.mustPut(t, first, content{first, 2, size})
	w[first] = object{parts: []content{{first, 2, size}}}
	r.reads(t, "/small", w)
	r.fill(t, "/small/more", size, 3) // and is full again
	w = r.there(t, "/small", w)
	r.reads(t, "/small", w)
	Minimum(t, "full-store", cases+len(w))
}

// there adds to w the objects of fill that are there.
func (r *rig) there(t *testing.T, dir string, w world) world {
	t.Helper()
	keys, err := r.list(t.Context(), dir+"/")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if _, ok := w[key]; !ok {
			w = w.with(key, object{parts: []content{{key, 1, 5<<20 + 1}}})
		}
	}
	return w
}

// TestFullData fills the disk of the data directory: first the root store, as far as the journal's share, and then somebody
// else, to the last block.
func TestFullData(t *testing.T) {
	disk := smallDisk(t, 448)
	o := Options{Data: filepath.Join(disk, "data"), Tiers: true, Args: []string{"--cache-tier", "dir=" + memoryDir(t) + ",quota=64MiB,medium=mem",
		"--cache-tier", "dir=" + filepath.Join(disk, "cache") + ",quota=32MiB,medium=ssd"}}
	s := Start(t, o)
	r := newRig(s)
	r.mkbucket(t, "full")
	lake := t.TempDir()
	r.mount(t, "/lake", "file://"+lake)
	const size = 5<<20 + 1
	w := r.fill(t, "/full", size, 100)
	first := sorted(w)[0]
	cases := r.refusals(t, "/full", size, first)
	r.reads(t, "/full", w)
	r.mustPut(t, "/lake/other-disk", content{"/lake/other-disk", 1, size})
	if err := cleanDir(t, filepath.Join(s.Data, "root"))(nil); err != nil {
		t.Error(err)
	}
	again := func(gen int) {
		t.Helper()
		b, k := bucketKey(first)
		if _, err := r.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: b, Key: k}); err != nil {
			t.Errorf("DeleteObject: %v", err)
		}
		r.mustPut(t, first, content{first, gen, size})
		w[first] = object{parts: []content{{first, gen, size}}}
		r.reads(t, "/full", w)
	}
	again(2)

	ballast := filepath.Join(disk, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, zeros{}); err == nil {
		t.Fatal("the disk has no end")
	}
	f.Close()
	cases += r.refusals(t, "/full", size, first)
	refused := 0
	for i := range 3000 { // more than the journal can hold without a new block
		_, err := r.hdfs(t.Context(), "PUT", fmt.Sprintf("/lake/d%d", i), "MKDIRS", "", nil, 0)
		if e, ok := err.(*hdfsError); ok && e.Exception == "DSQuotaExceededException" {
			if refused++; refused == 100 {
				break
			}
		} else if err != nil {
			t.Fatalf("MKDIRS %d: %v", i, err)
		}
		cases++
	}
	r.reads(t, "/full", w)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	again(3)
	if _, err := r.hdfs(t.Context(), "PUT", "/lake/after", "MKDIRS", "", nil, 0); err != nil {
		t.Error(err)
	}
	s.Stop(t)
	o.Ports = s
	r.Server = Start(t, o)
	r.reads(t, "/full", w)
	Minimum(t, "full-data", cases+len(w))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestFullTier gives the cache a tier whose file system is smaller than its quota: clients see nothing of it.
func TestFullTier(t *testing.T) {
	memory := smallMemory(t, 24)
	s := Start(t, Options{Tiers: true, Args: []string{"--cache-tier", "dir=" + memory + ",quota=512MiB,medium=mem"}})
	r := newRig(s)
	r.mkbucket(t, "tier")
	w := world{}
	for i := range 20 {
		path := fmt.Sprintf("/tier/o%02d", i)
		c := content{path, 1, 8<<20 - int64(i)}
		r.mustPut(t, path, c)
		w[path] = object{parts: []content{c}}
	}
	for range 2 {
		r.reads(t, "/tier", w)
	}
	if out, err := r.s3.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("tier")}); err != nil || len(out.Contents) != len(w) {
		t.Errorf("got %d objects, %v", len(out.Contents), err)
	}
	Minimum(t, "full-tier", 2*2*len(w))
}
