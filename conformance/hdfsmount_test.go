package conformance

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/ufs/hadoopfs/minidfs"
)

// TestHDFSMounts mounts Hadoop's mini cluster over its RPC and over WebHDFS, uses both over S3 and WebHDFS, and looks at and
// changes the files with the cluster's own WebHDFS.
func TestHDFSMounts(t *testing.T) {
	cluster := minidfs.Start(t, minidfs.Options{})
	m := newMounts(t, "mounts-hdfs", nil, Options{})
	behind := newRig(&Server{S3: m.S3, WebHDFS: "http://" + cluster.HTTP})
	for kind, base := range map[string]string{"hdfs": "hdfs://" + cluster.RPC, "webhdfs": "webhdfs://" + cluster.HTTP} {
		h := &hdfsMount{mounts: m, behind: behind, dir: "/" + kind + "-data", path: "/" + kind}
		m.run(t, kind+": refused without its directory, or with an option it has not", func(t *testing.T) {
			m.refused(t, http.StatusUnprocessableEntity, "POST", api, map[string]any{"path": h.path, "uri": base + "/none"}, "root directory does not exist")
			m.refused(t, http.StatusUnprocessableEntity, "POST", api, map[string]any{
				"path": h.path, "uri": base + h.dir, "options": map[string]string{"usr": "hush"},
			}, "unknown option", "usr", "krb5_conf")
		})
		m.attach(t, h.path, base+h.dir, map[string]any{"sync_interval": "1s", "options": map[string]string{"create": "true"}})
		m.run(t, kind+": written and read on both sides", h.write)
		m.run(t, kind+": a multipart upload", h.multipart)
		m.run(t, kind+": a directory renamed", h.rename)
		m.run(t, kind+": an append", h.append)
		m.run(t, kind+": changes behind Sluice's back", h.outside)
		m.run(t, kind+": a name that HDFS cannot hold", func(t *testing.T) {
			status, _, b := m.do(t, m.request("PUT", h.path+"/a:b", []byte("x")))
			if status != http.StatusBadRequest {
				t.Errorf("got %d %s", status, b)
			}
		})
	}
	m.run(t, "a dead cluster is an outage, told in bounded time", func(t *testing.T) {
		cluster.Kill()
		for _, path := range []string{"/hdfs", "/webhdfs"} {
			begun := time.Now()
			status, _, b := m.do(t, m.request("PUT", path+"/late", []byte("x")))
			if status != http.StatusServiceUnavailable {
				t.Errorf("PUT %s/late: got %d %s, want 503", path, status, b)
			}
			if took := time.Since(begun); took > 60*time.Second {
				t.Errorf("PUT %s/late took %v", path, took)
			}
		}
	})
}

// hdfsMount is a mount of the cluster's directory dir at path.
type hdfsMount struct {
	*mounts
	behind    *rig
	dir, path string
}

// put writes a file over S3.
func (h *hdfsMount) put(t *testing.T, name, text string) {
	t.Helper()
	status, _, b := h.do(t, h.request("PUT", h.path+name, []byte(text)))
	if status != http.StatusOK {
		t.Fatalf("PUT %s%s: got %d %s", h.path, name, status, b)
	}
}

// expectBehind fails the test unless the cluster itself has the file with text.
func (h *hdfsMount) expectBehind(t *testing.T, name, text string) {
	t.Helper()
	q := h.behind.webhdfs("GET", h.dir+name, "OPEN", "", nil)
	resp, err := http.Get(q.base + q.target)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || string(b) != text {
		t.Errorf("the cluster's %s%s: got %d %.100q, %v, want %.100q", h.dir, name, resp.StatusCode, b, err, text)
	}
}

// change runs an operation of the cluster itself.
func (h *hdfsMount) change(t *testing.T, method, name, op, params, text string) {
	t.Helper()
	var body io.Reader
	if text != "" {
		body = strings.NewReader(text)
	}
	if _, err := h.behind.hdfs(context.WithoutCancel(t.Context()), method, h.dir+name, op, params, body, int64(len(text))); err != nil {
		t.Fatalf("%s of the cluster's %s: %v", op, name, err)
	}
}

// own runs an operation of Sluice's WebHDFS.
func (h *hdfsMount) own(t *testing.T, method, name, op, params, text string) string {
	t.Helper()
	var body io.Reader
	if text != "" {
		body = strings.NewReader(text)
	}
	b, err := h.hdfs(context.WithoutCancel(t.Context()), method, h.path+name, op, params, body, int64(len(text)))
	if err != nil {
		t.Fatalf("%s %s%s: %v", op, h.path, name, err)
	}
	return string(b)
}

func (h *hdfsMount) write(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 3<<16)
	h.put(t, "/d/s3", "over S3")
	h.put(t, "/d/s3", "over S3, again")
	h.put(t, "/big", big)
	h.own(t, "PUT", "/d/hdfs", "CREATE", "", "over WebHDFS")
	h.own(t, "PUT", "/empty", "MKDIRS", "", "")
	for name, text := range map[string]string{"/d/s3": "over S3, again", "/d/hdfs": "over WebHDFS", "/big": big} {
		h.expect(t, h.path+name, text)
		h.expectBehind(t, name, text)
	}
	if got := h.own(t, "GET", "", "LISTSTATUS", "", ""); strings.Contains(got, ".sluice") || !strings.Contains(got, `"pathSuffix":"empty"`) {
		t.Errorf("the root lists %s", got)
	}
	status, _, _ := h.do(t, h.request("DELETE", h.path+"/big", nil))
	if status != http.StatusNoContent {
		t.Errorf("DELETE: got %d", status)
	}
	h.expect(t, h.path+"/big", "-")
	if _, err := h.behind.hdfs(t.Context(), "GET", h.dir+"/big", "GETFILESTATUS", "", nil, 0); err == nil {
		t.Error("the cluster still has what was deleted")
	}
}

func (h *hdfsMount) multipart(t *testing.T) {
	status, _, b := h.do(t, h.request("POST", h.path+"/parts?uploads=", nil))
	_, rest, ok := strings.Cut(string(b), "<UploadId>")
	id, _, _ := strings.Cut(rest, "<")
	if status != http.StatusOK || !ok {
		t.Fatalf("CreateMultipartUpload: got %d %s", status, b)
	}
	one, two := strings.Repeat("1", 5<<20), "the end"
	list := ""
	for i, text := range []string{one, two} {
		status, header, b := h.do(t, h.request("PUT", fmt.Sprintf("%s/parts?partNumber=%d&uploadId=%s", h.path, i+1, id), []byte(text)))
		if status != http.StatusOK {
			t.Fatalf("UploadPart: got %d %s", status, b)
		}
		list += fmt.Sprintf("<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", i+1, header.Get("ETag"))
	}
	status, _, b = h.do(t, h.request("POST", h.path+"/parts?uploadId="+id, []byte("<CompleteMultipartUpload>"+list+"</CompleteMultipartUpload>")))
	if status != http.StatusOK || !strings.Contains(string(b), "-2") {
		t.Fatalf("CompleteMultipartUpload: got %d %s", status, b)
	}
	h.expect(t, h.path+"/parts", one+two)
	h.expectBehind(t, "/parts", one+two)
}

func (h *hdfsMount) rename(t *testing.T) {
	for i := range 30 { // more than a page of a listing
		h.put(t, fmt.Sprintf("/tree/sub/%d", i), fmt.Sprint("file ", i))
	}
	if got := h.own(t, "PUT", "/tree", "RENAME", "destination="+h.path+"/moved", ""); !strings.Contains(got, "true") {
		t.Fatalf("RENAME: got %s", got)
	}
	h.expect(t, h.path+"/tree/sub/7", "-")
	h.expect(t, h.path+"/moved/sub/7", "file 7")
	h.expectBehind(t, "/moved/sub/29", "file 29")
	if got := strings.Count(h.own(t, "GET", "/moved/sub", "LISTSTATUS", "", ""), `"pathSuffix"`); got != 30 {
		t.Errorf("the moved directory lists %d names, want 30", got)
	}
}

func (h *hdfsMount) append(t *testing.T) {
	h.own(t, "PUT", "/log", "CREATE", "", "one\n")
	h.own(t, "POST", "/log", "APPEND", "", "two\n")
	h.own(t, "POST", "/log", "APPEND", "", "three\n")
	h.expect(t, h.path+"/log", "one\ntwo\nthree\n")
	deadline := time.Now().Add(20 * time.Second)
	for { // tails may reach a store after they are acknowledged
		b, err := h.behind.hdfs(t.Context(), "GET", h.dir+"/log", "GETFILESTATUS", "", nil, 0)
		if err == nil && strings.Contains(string(b), `"length":14`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster's file is %s, %v", b, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	h.expectBehind(t, "/log", "one\ntwo\nthree\n")
}

// outside changes files with the cluster's own WebHDFS: a reader sees it once the mount's interval has passed.
func (h *hdfsMount) outside(t *testing.T) {
	h.put(t, "/out/kept", "old")
	h.put(t, "/out/gone", "gone")
	h.expect(t, h.path+"/out/kept", "old")
	h.expect(t, h.path+"/out/gone", "gone")
	h.change(t, "PUT", "/out/kept", "CREATE", "overwrite=true", "new")
	h.change(t, "PUT", "/out/added", "CREATE", "", "added")
	h.change(t, "DELETE", "/out/gone", "DELETE", "", "")
	h.change(t, "POST", "/log", "APPEND", "", "from outside\n")
	for name, want := range map[string]string{"/out/kept": "new", "/out/added": "added", "/out/gone": "-", "/log": "one\ntwo\nthree\nfrom outside\n"} {
		deadline := time.Now().Add(10 * time.Second) // the interval is 1 s
		for {
			status, _, got := h.fetch(t, h.path+name)
			if want == "-" && status == http.StatusNotFound || status == http.StatusOK && got == want {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s%s: got %d %.100q, want %.100q", h.path, name, status, got, want)
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}
