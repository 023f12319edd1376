package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// TestBoto3Mounts runs every operation on buckets that are mounts: a directory, a separate S3 server over a file system,
// one that holds every key, and servers that speak as Azure and Google do.
func TestBoto3Mounts(t *testing.T) {
	python := Python(t)
	versity, moto, az, gcs := StartVersitygw(t), StartMoto(t), StartAzurite(t), StartGCS(t)
	makeBucket(t, versity, "under")
	makeBucket(t, moto, "under")
	az.makeContainer(t, "under")
	gcs.MakeBucket(t, "under")
	s := Start(t, Options{Args: []string{
		"--mount", "/local-mount=file://" + t.TempDir(),
		"--mount", versity.Mount("/versity-mount", "under", ""),
		"--mount", moto.Mount("/moto-mount", "under", ""),
		"--mount", "/azure-mount=azure://under@" + az.Account + "/,endpoint=" + az.Options()["endpoint"] + ",account_key=" + az.Key,
		"--mount", "/gcs-mount=gs://under,anonymous=true,endpoint=" + gcs.URL,
	}})
	env := append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true")
	run := func(name, bucket string, more ...string) {
		t.Run(name, func(t *testing.T) {
			argv := append([]string{python, script("boto3_suite.py"), "--mounted"}, more...)
			RunScript(t, "boto3-"+name, 5*time.Minute, env, append(argv, s.S3, AccessKey, SecretKey, bucket)...)
		})
	}
	run("local", "local-mount")
	run("versitygw", "versity-mount")
	run("moto", "moto-mount", "--any-key")
	run("azurite", "azure-mount", "--azure")
	run("gcs", "gcs-mount", "--any-key")
}

// mounts is a running Sluice whose mounts a test makes over the admin API, with an S3 server to mount.
type mounts struct {
	*rig
	store *S3Store
	cases int
}

func newMounts(t *testing.T, suite string, store *S3Store, o Options) *mounts {
	t.Helper()
	m := &mounts{rig: newRig(Start(t, o)), store: store}
	t.Cleanup(func() { Minimum(t, suite, m.cases) })
	return m
}

// run runs one case. A case that ended before its end does not count.
func (m *mounts) run(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		f(t)
		m.cases++
	})
}

const api = "/api/v1/mounts"

// call sends a request of the admin API and returns its status, header and JSON document.
func (m *mounts) call(t testing.TB, method, target string, body any) (int, http.Header, map[string]any) {
	t.Helper()
	q := raw{method: method, base: m.Admin, target: target, user: AccessKey, password: SecretKey, header: http.Header{}}
	switch b := body.(type) {
	case nil:
	case string:
		q.body = []byte(b)
	default:
		q.body, _ = json.Marshal(b)
	}
	if body != nil {
		q.header.Set("Content-Type", "application/json")
	}
	return m.answer(t, q)
}

func (m *mounts) answer(t testing.TB, q raw) (int, http.Header, map[string]any) {
	t.Helper()
	status, header, b := m.do(t, q)
	doc := map[string]any{}
	if len(b) > 0 {
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatalf("%s %s: status %d, not JSON: %.200q", q.method, q.target, status, b)
		}
	}
	return status, header, doc
}

// ok sends a request that must have the status want, and returns its document.
func (m *mounts) ok(t testing.TB, want int, method, target string, body any) map[string]any {
	t.Helper()
	status, _, doc := m.call(t, method, target, body)
	if status != want {
		t.Fatalf("%s %s: status %d, want %d: %v", method, target, status, want, doc)
	}
	return doc
}

// refused sends a request that must be a problem of the status want with all of texts in it.
func (m *mounts) refused(t testing.TB, want int, method, target string, body any, texts ...string) {
	t.Helper()
	before := m.ok(t, http.StatusOK, "GET", api, nil)
	status, header, doc := m.call(t, method, target, body)
	what := fmt.Sprintf("%s %s %v", method, target, body)
	problem(t, what, want, status, header, doc, texts...)
	if after := m.ok(t, http.StatusOK, "GET", api, nil); !reflect.DeepEqual(after, before) {
		t.Errorf("%s changed the mounts from %v to %v", what, before, after)
	}
}

// problem fails the test unless the answer is one of RFC 9457.
func problem(t testing.TB, what string, want, status int, header http.Header, doc map[string]any, texts ...string) {
	t.Helper()
	text, _ := json.Marshal(doc)
	if status != want || doc["status"] != float64(want) || header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: status %d of type %q, want %d as a problem: %s", what, status, header.Get("Content-Type"), want, text)
	}
	if title, _ := doc["title"].(string); title == "" || doc["detail"] == "" {
		t.Errorf("%s: the problem does not say what is wrong: %s", what, text)
	}
	for _, s := range texts {
		if !strings.Contains(string(text), s) {
			t.Errorf("%s: the problem has no %q: %s", what, s, text)
		}
	}
}

// attach mounts a directory (store "file:…") or a bucket of m.store.
func (m *mounts) attach(t testing.TB, path, uri string, fields map[string]any) map[string]any {
	t.Helper()
	spec := map[string]any{"path": path, "uri": uri}
	if strings.HasPrefix(uri, "s3:") {
		spec["options"] = m.store.Options()
	}
	for k, v := range fields {
		spec[k] = v
	}
	return m.ok(t, http.StatusCreated, "POST", api, spec)
}

// fetch reads path over S3, with header, and returns status, header and body.
func (m *mounts) fetch(t testing.TB, path string, header ...string) (int, http.Header, string) {
	t.Helper()
	status, h, b := m.do(t, m.request("GET", escapePath(path), nil, header...))
	return status, h, string(b)
}

// expect fails the test unless path reads as text, or is missing if text is "-".
func (m *mounts) expect(t testing.TB, path, text string, header ...string) http.Header {
	t.Helper()
	status, h, got := m.fetch(t, path, header...)
	switch {
	case text == "-" && status != http.StatusNotFound:
		t.Errorf("GET %s: status %d %.100q, want 404", path, status, got)
	case text != "-" && (status != http.StatusOK || got != text):
		t.Errorf("GET %s: status %d %.100q, want %.100q", path, status, got, text)
	}
	return h
}

// expectHDFS fails the test unless path reads as text over WebHDFS, and, unless hit, not from the cache.
func (m *mounts) expectHDFS(t testing.TB, path, text string, hit bool) {
	t.Helper()
	_, header, body := m.do(t, m.webhdfs("GET", escapePath(path), "OPEN", "", nil))
	if loc := header.Get("Location"); loc != "" {
		u, err := url.Parse(loc)
		if err != nil {
			t.Fatal(err)
		}
		_, header, body = m.do(t, raw{method: "GET", base: u.Scheme + "://" + u.Host, target: u.RequestURI(), header: http.Header{}})
	}
	if string(body) != text || header.Get("X-Cache") == "HIT" && !hit {
		t.Errorf("OPEN %s: %q, X-Cache %q, want %q", path, body, header.Get("X-Cache"), text)
	}
}

// write writes path over S3 and returns its ETag.
func (m *mounts) write(t testing.TB, path, text string, header ...string) string {
	t.Helper()
	status, h, b := m.do(t, m.request("PUT", escapePath(path), []byte(text), header...))
	if status != http.StatusOK {
		t.Fatalf("PUT %s: status %d %s", path, status, b)
	}
	return h.Get("ETag")
}

// names lists a bucket's keys below prefix over S3.
func (m *mounts) names(t testing.TB, path string) []string {
	t.Helper()
	keys, err := m.list(t.Context(), path)
	if err != nil {
		t.Fatalf("list %s: %v", path, err)
	}
	return keys
}

// status is WebHDFS's GETFILESTATUS.
func (m *mounts) status(t testing.TB, path string) map[string]any {
	t.Helper()
	b, err := m.hdfs(t.Context(), "GET", escapePath(path), "GETFILESTATUS", "", nil, 0)
	if err != nil {
		t.Fatalf("status of %s: %v", path, err)
	}
	var doc struct{ FileStatus map[string]any }
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.FileStatus
}

// behind changes what a mount shows from behind Sluice: content "-" removes.
type behind func(t testing.TB, name, content string)

func behindDir(dir string) behind {
	return func(t testing.TB, name, content string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if content == "-" {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
			return
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func behindBucket(s *S3Store, bucket string) behind {
	return func(t testing.TB, name, content string) {
		t.Helper()
		var err error
		if content == "-" {
			_, err = s.client().DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket, Key: &name})
		} else {
			_, err = s.client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &name, Body: strings.NewReader(content)})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// read reads an object of the store behind Sluice, with its facts.
func (s *S3Store) read(t testing.TB, bucket, key string) (string, *s3.GetObjectOutput) {
	t.Helper()
	out, err := s.client().GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		t.Fatalf("%s of the store: %v", key, err)
	}
	defer out.Body.Close()
	b, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), out
}

// TestMountsAPI drives the mount table over the admin API.
func TestMountsAPI(t *testing.T) {
	store := StartVersitygw(t)
	makeBucket(t, store, "lake")
	makeBucket(t, store, "pond")
	data := t.TempDir()
	whole, m := t, newMounts(t, "mounts-api", store, Options{Data: data})
	dir := t.TempDir()

	m.run(t, "every request needs a key pair", func(t *testing.T) {
		for _, q := range []raw{{}, {user: AccessKey, password: "wrong"}, {user: "nobody", password: SecretKey}} {
			q.method, q.base, q.target, q.header = "GET", m.Admin, api, http.Header{}
			status, header, doc := m.answer(t, q)
			problem(t, "wrong credentials", http.StatusUnauthorized, status, header, doc)
			if !strings.HasPrefix(header.Get("WWW-Authenticate"), "Basic ") {
				t.Errorf("WWW-Authenticate is %q", header.Get("WWW-Authenticate"))
			}
		}
	})
	m.run(t, "the document describes every method", func(t *testing.T) {
		doc := m.ok(t, http.StatusOK, "GET", "/api/v1/openapi.json", nil)
		if v, _ := doc["openapi"].(string); !strings.HasPrefix(v, "3.1") {
			t.Errorf("openapi is %q", v)
		}
		paths, _ := doc["paths"].(map[string]any)
		for path, methods := range map[string][]string{api: {"get", "post"}, api + "/{path}": {"get", "patch", "delete"}} {
			item, _ := paths[path].(map[string]any)
			for _, method := range methods {
				if item[method] == nil {
					t.Errorf("%s %s is not described", method, path)
				}
			}
		}
	})
	m.run(t, "nothing else is at the paths", func(t *testing.T) {
		m.refused(t, http.StatusMethodNotAllowed, "PUT", api, "{}")
		m.refused(t, http.StatusNotFound, "GET", "/api/v1/nothing", nil)
		m.refused(t, http.StatusUnprocessableEntity, "GET", api+"?other=1", nil)
	})

	full := map[string]any{
		"path": "/deep/lake é", "uri": "s3://lake/some/prefix", "read_only": false, "sync_interval": "90s", "owner": "ann",
		"group": "staff", "mode": "0750", "write_type": "THROUGH", "read_type": "NO_CACHE", "options": store.Options(),
	}
	shown := map[string]any{}
	m.run(t, "create with every field", func(t *testing.T) {
		status, header, doc := m.call(t, "POST", api, full)
		if status != http.StatusCreated || header.Get("Location") != api+"/deep%2Flake%20%C3%A9" {
			t.Fatalf("status %d, Location %q: %v", status, header.Get("Location"), doc)
		}
		delete(doc, "$schema")
		shown = doc
		options, _ := doc["options"].(map[string]any)
		if options["secret_key"] != "***" || options["endpoint"] != store.URL || options["region"] != store.Region {
			t.Errorf("options are %v", options)
		}
		for field, want := range full {
			if field != "options" && doc[field] != want {
				t.Errorf("%s is %v, want %v", field, doc[field], want)
			}
		}
		if doc["origin"] != "api" || doc["state"] != "ready" {
			t.Errorf("origin %v, state %v", doc["origin"], doc["state"])
		}
	})
	m.run(t, "every form of the path", func(t *testing.T) {
		for _, target := range []string{
			api + "/deep%2Flake%20%C3%A9", api + "/deep/lake%20%C3%A9", api + "?path=/deep/lake%20%C3%A9",
			api + "?path=%2Fdeep%2Flake+%C3%A9", api + "/%2Fdeep%2Flake%20%C3%A9", api + "/deep%2Flake%20%C3%A9%2F",
		} {
			doc := m.ok(t, http.StatusOK, "GET", target, nil)
			if delete(doc, "$schema"); !reflect.DeepEqual(doc, shown) {
				t.Errorf("GET %s: %v, want %v", target, doc, shown)
			}
		}
		m.refused(t, http.StatusNotFound, "GET", api+"/deep", nil)
		m.refused(t, http.StatusNotFound, "GET", api+"?path=/none", nil)
	})
	m.run(t, "list", func(t *testing.T) {
		doc := m.ok(t, http.StatusOK, "GET", api, nil)
		items, _ := doc["items"].([]any)
		if doc["next"] != "" || len(items) != 2 || !reflect.DeepEqual(items[1], any(shown)) {
			t.Errorf("the list is %v", doc)
		}
		if root, _ := items[0].(map[string]any); root["path"] != "/" {
			t.Errorf("the first mount is %v, want the root", items[0])
		}
	})
	m.run(t, "no answer and no log line shows a secret", func(t *testing.T) {
		_, _, b := m.do(t, raw{method: "GET", base: m.Admin, target: api, user: AccessKey, password: SecretKey, header: http.Header{}})
		for what, text := range map[string]string{"the list": string(b), "the log": m.Log()} {
			if strings.Contains(text, store.SecretKey) {
				t.Errorf("%s shows the store's secret", what)
			}
		}
	})
	m.run(t, "policies hold", func(t *testing.T) {
		s := m.status(t, "/deep/lake é")
		if s["owner"] != "ann" || s["group"] != "staff" || s["permission"] != "750" || s["type"] != "DIRECTORY" {
			t.Errorf("the mount point is %v", s)
		}
		key := "/deep/lake é/x"
		if _, err := m.hdfs(t.Context(), "PUT", escapePath(key), "CREATE", "", strings.NewReader("text"), 4); err != nil {
			t.Fatal(err)
		}
		if got, _ := store.read(t, "lake", "some/prefix/x"); got != "text" {
			t.Errorf("the store has %q", got)
		}
		for range 2 { // neither the write nor a read fills the cache
			m.expectHDFS(t, key, "text", false)
		}
	})
	m.run(t, "change every policy", func(t *testing.T) {
		for field, value := range map[string]any{
			"read_only": true, "sync_interval": "-1", "owner": "bob", "group": "wheel", "mode": "0700",
			"write_type": "CACHE_THROUGH", "read_type": "CACHE",
		} {
			doc := m.ok(t, http.StatusOK, "PATCH", api+"/deep%2Flake%20%C3%A9", map[string]any{field: value})
			delete(doc, "$schema")
			if shown[field] = value; field == "read_only" {
				shown["access"] = "readOnly"
			}
			if !reflect.DeepEqual(doc, shown) {
				t.Errorf("after %s: %v, want %v", field, doc, shown)
			}
		}
		if _, err := m.hdfs(t.Context(), "PUT", escapePath("/deep/lake é/y"), "CREATE", "", strings.NewReader("text"), 4); err == nil {
			t.Error("a read-only mount was written to")
		}
		m.ok(t, http.StatusOK, "PATCH", api+"?path=/deep/lake%20%C3%A9", map[string]any{"read_only": false})
		shown["read_only"], shown["access"] = false, "readWrite"
		if _, err := m.hdfs(t.Context(), "PUT", escapePath("/deep/lake é/y"), "CREATE", "", strings.NewReader("text"), 4); err != nil {
			t.Error(err)
		}
	})
	m.run(t, "changes that are refused", func(t *testing.T) {
		one := api + "/deep%2Flake%20%C3%A9"
		for field, value := range map[string]any{
			"sync_interval": "soon", "mode": "rwx", "write_type": "NEVER", "read_type": "SOMETIMES", "read_only": "yes", "path": "/other",
			"uri": "nothing", "access": "some", "unknown": 1,
		} {
			m.refused(t, http.StatusUnprocessableEntity, "PATCH", one, map[string]any{field: value}, field)
		}
		m.refused(t, http.StatusBadRequest, "PATCH", one, "{")
		m.refused(t, http.StatusNotFound, "PATCH", api+"?path=/none", map[string]any{"read_only": true})
	})
	m.run(t, "options are probed before they hold", func(t *testing.T) {
		one := api + "/deep%2Flake%20%C3%A9"
		for name, value := range map[string]string{"secret_key": "wrong", "endpoint": "http://127.0.0.1:1", "colour": "red"} {
			m.refused(t, http.StatusUnprocessableEntity, "PATCH", one, map[string]any{"options": map[string]string{name: value}})
		}
		m.expectHDFS(t, "/deep/lake é/x", "text", true)
		doc := m.ok(t, http.StatusOK, "PATCH", one, map[string]any{"options": map[string]string{"secret_key": store.SecretKey}})
		if delete(doc, "$schema"); !reflect.DeepEqual(doc, shown) {
			t.Errorf("after a rotation: %v, want %v", doc, shown)
		}
		m.expectHDFS(t, "/deep/lake é/x", "text", true)
	})
	m.run(t, "mounts that are refused", func(t *testing.T) { m.refusals(t, dir) })
	m.run(t, "a restart keeps the mount", func(t *testing.T) {
		m.Kill()
		m.rig = newRig(Start(whole, Options{Data: data, Ports: m.Server}))
		doc := m.ok(t, http.StatusOK, "GET", api+"?path=/deep/lake%20%C3%A9", nil)
		if delete(doc, "$schema"); !reflect.DeepEqual(doc, shown) {
			t.Errorf("after a restart: %v, want %v", doc, shown)
		}
	})
	m.run(t, "unmount leaves the store untouched", func(t *testing.T) {
		one := api + "/deep%2Flake%20%C3%A9"
		m.ok(t, http.StatusNoContent, "DELETE", one, nil)
		m.refused(t, http.StatusNotFound, "DELETE", one, nil)
		m.refused(t, http.StatusNotFound, "GET", one, nil)
		for _, key := range []string{"x", "y"} {
			if got, _ := store.read(t, "lake", "some/prefix/"+key); got != "text" {
				t.Errorf("the store has %q", got)
			}
		}
		if _, err := m.hdfs(t.Context(), "GET", escapePath("/deep/lake é/x"), "GETFILESTATUS", "", nil, 0); err == nil {
			t.Error("a file of the mount is still there")
		}
		m.attach(t, "/again", "s3://lake/some/prefix", nil)
		m.expect(t, "/again/x", "text")
		m.ok(t, http.StatusNoContent, "DELETE", api+"?path=/again", nil)
	})
}

// refusals asks for mounts that cannot be, and looks whether the reason is told and nothing changed.
func (m *mounts) refusals(t *testing.T, dir string) {
	file, other := "file://"+dir, "file://"+t.TempDir()
	with := func(more map[string]string) map[string]string {
		o := m.store.Options()
		for k, v := range more {
			o[k] = v
		}
		return o
	}
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(full, 0o755); err != nil {
		t.Fatal(err)
	}
	m.attach(t, "/taken", "file://"+full, nil)
	m.write(t, "/taken/below/x", "x")
	for _, c := range []struct {
		status int
		text   string
		spec   map[string]any
	}{
		{422, "uri", map[string]any{"path": "/a"}},
		{422, "path", map[string]any{"uri": file}},
		{422, "path", map[string]any{"path": "relative", "uri": file}},
		{422, "path", map[string]any{"path": "/a/../b", "uri": file}},
		{422, "path", map[string]any{"path": "/a//b", "uri": file}},
		{422, "uri", map[string]any{"path": "/a", "uri": "no-uri"}},
		{422, "credentials", map[string]any{"path": "/a", "uri": "s3://key:secret@pond"}},
		{422, "unknown", map[string]any{"path": "/a", "uri": file, "unknown": 1}},
		{422, "mode", map[string]any{"path": "/a", "uri": file, "mode": "9"}},
		{422, "sync_interval", map[string]any{"path": "/a", "uri": file, "sync_interval": "60"}},
		{422, "write_type", map[string]any{"path": "/a", "uri": file, "write_type": "ASYNC"}},
		{422, "colour", map[string]any{"path": "/a", "uri": other, "options": map[string]string{"colour": "red"}}},
		{422, "/none", map[string]any{"path": "/a", "uri": other + "/none"}},
		{422, "none", map[string]any{"path": "/a", "uri": "s3://none", "options": m.store.Options()}},
		{422, "SignatureDoesNotMatch", map[string]any{"path": "/a", "uri": "s3://pond", "options": with(map[string]string{"secret_key": "wrong"})}},
		{422, "", map[string]any{"path": "/a", "uri": "s3://pond", "options": with(map[string]string{"endpoint": "http://127.0.0.1:1"})}},
		{422, "access_key", map[string]any{"path": "/a", "uri": "s3://pond", "options": map[string]string{"endpoint": m.store.URL, "access_key": ""}}},
		{422, "overlap", map[string]any{"path": "/a", "uri": "file://" + full + "/below"}},
		{422, "overlap", map[string]any{"path": "/a", "uri": file}},
		{409, "mounted", map[string]any{"path": "/taken", "uri": other}},
		{409, "not empty", map[string]any{"path": "/taken/below", "uri": "s3://pond", "options": m.store.Options()}},
		{409, "", map[string]any{"path": "/taken/below/x", "uri": "s3://pond", "options": m.store.Options()}},
	} {
		start := time.Now()
		m.refused(t, c.status, "POST", api, c.spec, c.text)
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("%v was refused after %v, want 5 s at most", c.spec, took)
		}
	}
	m.refused(t, http.StatusBadRequest, "POST", api, "{")
	m.refused(t, http.StatusBadRequest, "DELETE", api+"?path=/", nil)
	if got := m.names(t, "/taken/"); !slices.Equal(got, []string{"/taken/below/x"}) {
		t.Errorf("/taken has %v", got)
	}
	m.ok(t, http.StatusNoContent, "DELETE", api+"/taken", nil)
	if got := files(t, dir); len(got) != 1 || got["full/below/x"] != 1 {
		t.Errorf("after refusals and an unmount the directory has %v", got)
	}
}

// TestMountsNested mounts stores inside one another.
func TestMountsNested(t *testing.T) {
	store := StartVersitygw(t)
	makeBucket(t, store, "inner")
	m := newMounts(t, "mounts-nested", store, Options{})
	outer, deep := t.TempDir(), t.TempDir()
	m.attach(t, "/outer", "file://"+outer, nil)
	m.attach(t, "/outer/in/ner", "s3://inner", nil)
	m.attach(t, "/outer/in/ner/deep", "file://"+deep, nil)
	all := []string{"a", "in/a", "in/ner/a", "in/ner/d", "in/ner/deep/x/y", "in/ner/e", "in/z", "z"}

	m.run(t, "each name is in its own store", func(t *testing.T) {
		for _, name := range all {
			m.write(t, "/outer/"+name, name)
			m.expect(t, "/outer/"+name, name)
		}
		if got := sorted(files(t, outer)); !slices.Equal(got, []string{"a", "in/a", "in/z", "z"}) {
			t.Errorf("the outer store has %v", got)
		}
		if got := sorted(files(t, filepath.Join(store.Dir, "inner"))); !slices.Equal(got, []string{"a", "d", "e"}) {
			t.Errorf("the inner store has %v", got)
		}
		if got := sorted(files(t, deep)); !slices.Equal(got, []string{"x/y"}) {
			t.Errorf("the deep store has %v", got)
		}
	})
	m.run(t, "listings cross mounts in order", func(t *testing.T) {
		var want []string
		for _, name := range all {
			want = append(want, "/outer/"+name)
		}
		if got := m.names(t, "/outer/"); !slices.Equal(got, want) {
			t.Errorf("the keys are %v, want %v", got, want)
		}
		out, err := m.client().ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("outer"), Prefix: aws.String("in/ner/"), Delimiter: aws.String("/")})
		if err != nil || len(out.Contents) != 3 || len(out.CommonPrefixes) != 1 || *out.CommonPrefixes[0].Prefix != "in/ner/deep/" {
			t.Errorf("with a delimiter: %v, %v, %v", out.Contents, out.CommonPrefixes, err)
		}
		var got []string
		for pages := s3.NewListObjectsV2Paginator(m.client(), &s3.ListObjectsV2Input{Bucket: aws.String("outer"), MaxKeys: aws.Int32(1)}); pages.HasMorePages(); {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range page.Contents {
				got = append(got, *o.Key)
			}
		}
		if !slices.Equal(got, all) {
			t.Errorf("page by page: %v, want %v", got, all)
		}
		if s := m.status(t, "/outer/in/ner"); s["type"] != "DIRECTORY" {
			t.Errorf("the mount point is %v", s)
		}
	})
	m.run(t, "renames and removals stop at mounts", func(t *testing.T) {
		for _, to := range []string{"/outer/in/ner/moved", "/outer/in/ner/deep/moved"} {
			if _, err := m.hdfs(t.Context(), "PUT", "/outer/a", "RENAME", "destination="+to, nil, 0); err == nil {
				t.Errorf("a rename to %s succeeded", to)
			}
			m.expect(t, to, "-")
		}
		for _, dir := range []string{"/outer/in", "/outer/in/ner", "/outer/in/ner/deep"} {
			if _, err := m.hdfs(t.Context(), "DELETE", dir, "DELETE", "recursive=true", nil, 0); err == nil {
				t.Errorf("%s, which holds a mount, was removed", dir)
			}
			if _, err := m.hdfs(t.Context(), "PUT", dir, "RENAME", "destination=/outer/other", nil, 0); err == nil {
				t.Errorf("%s, which holds a mount, was renamed", dir)
			}
		}
		if got := m.names(t, "/outer/"); len(got) != len(all) {
			t.Errorf("names changed: %v", got)
		}
	})
	m.run(t, "copies cross mounts", func(t *testing.T) {
		for from, to := range map[string]string{"a": "in/ner/copy", "in/ner/a": "in/ner/deep/copy", "in/ner/deep/x/y": "copy"} {
			if _, err := m.client().CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: aws.String("outer"), Key: &to, CopySource: aws.String("outer/" + from)}); err != nil {
				t.Errorf("copy %s to %s: %v", from, to, err)
			}
			m.expect(t, "/outer/"+to, from)
		}
		if got, _ := store.read(t, "inner", "copy"); got != "a" {
			t.Errorf("the inner store has %q", got)
		}
	})
	m.run(t, "unmount goes from the inside out", func(t *testing.T) {
		m.refused(t, http.StatusConflict, "DELETE", api+"/outer", nil, "below")
		m.refused(t, http.StatusConflict, "DELETE", api+"?path=/outer/in/ner", nil, "below")
		m.ok(t, http.StatusNoContent, "DELETE", api+"?path=/outer/in/ner/deep", nil)
		m.expect(t, "/outer/in/ner/deep/x/y", "-")
		m.expect(t, "/outer/in/ner/a", "in/ner/a")
		m.ok(t, http.StatusNoContent, "DELETE", api+"/outer%2Fin%2Fner", nil)
		want := []string{"/outer/a", "/outer/copy", "/outer/in/a", "/outer/in/z", "/outer/z"}
		if got := m.names(t, "/outer/"); !slices.Equal(got, want) {
			t.Errorf("after the unmounts: %v, want %v", got, want)
		}
		if got := len(files(t, deep)); got != 2 {
			t.Errorf("the deep store has %d files, want 2", got)
		}
	})
}

// TestMountsSync changes stores behind Sluice's back and looks when it is seen.
func TestMountsSync(t *testing.T) {
	store := StartVersitygw(t)
	m := newMounts(t, "mounts-sync", store, Options{})
	mount := func(t *testing.T, kind, name, interval string) (string, behind) {
		path := "/" + kind + "-" + name
		if kind == "local" {
			dir := t.TempDir()
			m.attach(t, path, "file://"+dir, map[string]any{"sync_interval": interval})
			return path, behindDir(dir)
		}
		makeBucket(t, store, name)
		m.attach(t, path, "s3://"+name, map[string]any{"sync_interval": interval})
		return path, behindBucket(store, name)
	}
	for _, kind := range []string{"local", "s3"} {
		m.run(t, kind+" 0s", func(t *testing.T) {
			path, change := mount(t, kind, "always", "0s")
			m.expect(t, path+"/d/f", "-")
			change(t, "d/f", "one")
			m.expect(t, path+"/d/f", "one")
			m.expect(t, path+"/d/f", "one")
			change(t, "d/f", "second")
			m.expect(t, path+"/d/f", "second")
			change(t, "d/g", "g")
			if got := m.names(t, path+"/"); !slices.Equal(got, []string{path + "/d/f", path + "/d/g"}) {
				t.Errorf("the keys are %v", got)
			}
			change(t, "d/f", "-")
			m.expect(t, path+"/d/f", "-")
			if got := m.names(t, path+"/"); !slices.Equal(got, []string{path + "/d/g"}) {
				t.Errorf("the keys are %v", got)
			}
			m.write(t, path+"/d/g", "through")
			change(t, "d/g", "behind it")
			m.expect(t, path+"/d/g", "behind it")
			change(t, "d/g", "-")
			m.expect(t, path+"/d/g", "-")
		})
		m.run(t, kind+" 1s", func(t *testing.T) {
			path, change := mount(t, kind, "second", "1s")
			change(t, "d/f", "one")
			m.expect(t, path+"/d/f", "one")
			for _, text := range []string{"two", "-", "three"} {
				change(t, "d/f", text)
				start := time.Now()
				eventually(t, 10*time.Second, func() error {
					if _, _, got := m.fetch(t, path+"/d/f"); got != text && (text != "-" || !strings.Contains(got, "NoSuchKey")) {
						return fmt.Errorf("%s reads as %.80q, want %q", path, got, text)
					}
					return nil
				})
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("%q was seen after %v, want 1 s", text, took)
				}
			}
		})
		m.run(t, kind+" -1", func(t *testing.T) {
			path, change := mount(t, kind, "never", "-1")
			// Nothing is loaded before it is asked for.
			change(t, "d/f", "one")
			m.expect(t, path+"/d/f", "one")
			if got := m.names(t, path+"/d/"); len(got) != 1 {
				t.Errorf("the keys are %v", got)
			}
			change(t, "d/f", "second")
			change(t, "d/new", "new")
			if kind == "s3" { // a local version of the last moment is not kept: the file may change again unseen
				if h := m.expect(t, path+"/d/f", "one"); h.Get("X-Cache") != "HIT" {
					t.Errorf("X-Cache is %q, want HIT", h.Get("X-Cache"))
				}
			}
			m.expect(t, path+"/d/new", "-")
			if got := m.names(t, path+"/d/"); !slices.Equal(got, []string{path + "/d/f"}) {
				t.Errorf("the keys are %v", got)
			}
			// A request may ask for more, and a policy may be changed.
			m.expect(t, path+"/d/f", "second", "Cache-Control", "no-cache")
			m.expect(t, path+"/d/f", "second")
			m.expect(t, path+"/d/new", "new", "Cache-Control", "max-age=0")
			change(t, "d/f", "third")
			m.ok(t, http.StatusOK, "PATCH", api+path, map[string]any{"sync_interval": "0s"})
			m.expect(t, path+"/d/f", "third")
		})
		m.run(t, kind+" 1h", func(t *testing.T) {
			path, change := mount(t, kind, "hourly", "1h")
			m.expect(t, path+"/f", "-")
			change(t, "f", "one")
			h := m.expect(t, path+"/f", "-")
			if m.expect(t, path+"/f", "one", "Cache-Control", "no-cache"); h.Get("X-Cache") != "" && h.Get("X-Cache") != "HIT" {
				t.Errorf("X-Cache of a known absence is %q", h.Get("X-Cache"))
			}
			change(t, "f", "-")
			m.expect(t, path+"/f", "-", "Cache-Control", "no-cache")
		})
	}
}

// TestMountsStore looks at what an object written through Sluice is in its store, and at what is left of it when Sluice's
// own cache, and its journal, are gone.
func TestMountsStore(t *testing.T) {
	store := StartVersitygw(t)
	makeBucket(t, store, "kept")
	data, tiers := t.TempDir(), t.TempDir()
	o := Options{Data: data, Tiers: true, Args: []string{"--cache-tier", "dir=" + tiers + "/cache,quota=256MiB,medium=ssd"}}
	whole, m := t, newMounts(t, "mounts-store", store, o)
	m.attach(t, "/kept", "s3://kept", nil)
	dir := t.TempDir()
	m.attach(t, "/files", "file://"+dir, nil)
	big := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
	header := []string{
		"Content-Type", "text/x-thing", "Cache-Control", "max-age=7", "Content-Disposition", "attachment; filename=a",
		"Content-Encoding", "gzip", "Content-Language", "de", "X-Amz-Meta-One", "1", "X-Amz-Meta-Two", "zwei drei",
	}
	etags := map[string]string{}
	m.run(t, "the ETag of a single PUT is the store's", func(t *testing.T) {
		for name, body := range map[string]string{"empty": "", "small": "small", "big": string(big), "sub/dir/x": "x"} {
			etags[name] = m.write(t, "/kept/"+name, body)
			m.write(t, "/files/"+name, body)
			got, out := store.read(t, "kept", name)
			if got != body || aws.ToString(out.ETag) != etags[name] {
				t.Errorf("%s: the store has %d bytes with the ETag %s, want %d with %s", name, len(got), aws.ToString(out.ETag), len(body), etags[name])
			}
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != body {
				t.Errorf("%s: the file has %d bytes, %v", name, len(b), err)
			}
		}
	})
	m.run(t, "what the store alone wrote has its ETag", func(t *testing.T) {
		behindBucket(store, "kept")(t, "direct", "direct")
		_, out := store.read(t, "kept", "direct")
		if h := m.expect(t, "/kept/direct", "direct"); h.Get("ETag") != aws.ToString(out.ETag) {
			t.Errorf("the ETag is %s, the store's %s", h.Get("ETag"), aws.ToString(out.ETag))
		}
	})
	check := func(t *testing.T, h http.Header) {
		t.Helper()
		for i := 0; i < len(header); i += 2 {
			if got := h.Get(header[i]); got != header[i+1] {
				t.Errorf("%s is %q, want %q", header[i], got, header[i+1])
			}
		}
	}
	m.run(t, "metadata is the store's", func(t *testing.T) {
		for _, mount := range []string{"/kept", "/files"} {
			etags["meta"] = m.write(t, mount+"/meta", "meta", header...)
			check(t, m.expect(t, mount+"/meta", "meta"))
		}
		_, out := store.read(t, "kept", "meta")
		got := []string{
			aws.ToString(out.ContentType), aws.ToString(out.CacheControl), aws.ToString(out.ContentDisposition),
			aws.ToString(out.ContentEncoding), aws.ToString(out.ContentLanguage), out.Metadata["one"], out.Metadata["two"],
		}
		for i, want := range got {
			if header[2*i+1] != want {
				t.Errorf("%s is %q in the store, want %q", header[2*i], want, header[2*i+1])
			}
		}
	})
	m.run(t, "attributes of WebHDFS are kept", func(t *testing.T) {
		for _, mount := range []string{"/kept", "/files"} {
			for op, params := range map[string]string{"SETPERMISSION": "permission=640", "SETOWNER": "owner=ann&group=staff"} {
				if _, err := m.hdfs(t.Context(), "PUT", mount+"/small", op, params, nil, 0); err != nil {
					t.Errorf("%s: %v", op, err)
				}
			}
		}
	})
	again := func(t *testing.T, wantHDFS bool) {
		t.Helper()
		for _, mount := range []string{"/kept", "/files"} {
			for name, body := range map[string]string{"empty": "", "small": "small", "big": string(big), "sub/dir/x": "x"} {
				h := m.expect(t, mount+"/"+name, body)
				if h.Get("ETag") != etags[name] || h.Get("X-Cache") == "HIT" && body != "" {
					t.Errorf("%s/%s: ETag %s, X-Cache %s, want %s from the store", mount, name, h.Get("ETag"), h.Get("X-Cache"), etags[name])
				}
			}
			h := m.expect(t, mount+"/meta", "meta")
			if check(t, h); h.Get("ETag") != etags["meta"] {
				t.Errorf("%s/meta: ETag %s, want %s", mount, h.Get("ETag"), etags["meta"])
			}
			if s := m.status(t, mount+"/small"); wantHDFS && (s["owner"] != "ann" || s["group"] != "staff" || s["permission"] != "640") {
				t.Errorf("%s/small is %v", mount, s)
			}
		}
	}
	m.run(t, "a restart without the cache", func(t *testing.T) {
		m.Stop(t)
		if err := os.RemoveAll(tiers + "/cache"); err != nil {
			t.Fatal(err)
		}
		o.Ports = m.Server
		m.rig = newRig(Start(whole, o))
		again(t, true)
	})
	m.run(t, "a new data directory over the same stores", func(t *testing.T) {
		m.Stop(t)
		if err := os.RemoveAll(tiers + "/cache"); err != nil {
			t.Fatal(err)
		}
		o.Data = whole.TempDir()
		m.rig = newRig(Start(whole, o))
		m.attach(t, "/kept", "s3://kept", nil)
		m.attach(t, "/files", "file://"+dir, nil)
		again(t, false)
		want := []string{"/kept/big", "/kept/direct", "/kept/empty", "/kept/meta", "/kept/small", "/kept/sub/dir/x"}
		if got := m.names(t, "/kept/"); !slices.Equal(got, want) {
			t.Errorf("the keys are %v, want %v", got, want)
		}
	})
}

// TestMountsDead stops a store under its mount.
func TestMountsDead(t *testing.T) {
	store := StartVersitygw(t)
	makeBucket(t, store, "dead")
	data := t.TempDir()
	whole, m := t, newMounts(t, "mounts-dead", store, Options{Data: data})
	m.attach(t, "/dead", "s3://dead", map[string]any{"sync_interval": "1h"})
	m.attach(t, "/strict", "s3://dead", map[string]any{"sync_interval": "0s", "read_only": true})
	m.attach(t, "/alive", "file://"+t.TempDir(), nil)
	behindBucket(store, "dead")(t, "cold", "cold")
	m.write(t, "/dead/warm", "warm")
	m.expect(t, "/dead/warm", "warm")
	m.expect(t, "/strict/warm", "warm")
	m.write(t, "/alive/x", "x")

	const quick = 5 * time.Second
	unavailable := func(t *testing.T, method, target string, body []byte) {
		t.Helper()
		start := time.Now()
		status, _, b := m.do(t, m.request(method, target, body))
		if status != http.StatusServiceUnavailable || method != "HEAD" && !strings.Contains(string(b), "<Code>ServiceUnavailable</Code>") {
			t.Errorf("%s %s: status %d %s, want 503", method, target, status, b)
		}
		if took := time.Since(start); took > quick {
			t.Errorf("%s %s: answered after %v, want %v at most", method, target, took, quick)
		}
	}
	alive := func(t *testing.T) {
		t.Helper()
		start := time.Now()
		m.expect(t, "/alive/x", "x")
		m.write(t, "/alive/y", "y")
		m.names(t, "/alive/")
		m.write(t, "/alive/z", "z")
		if took := time.Since(start); took > quick {
			t.Errorf("four requests of another mount took %v", took)
		}
	}
	down := func(t *testing.T) {
		t.Helper()
		unavailable(t, "GET", "/dead/cold", nil)
		unavailable(t, "HEAD", "/dead/cold", nil)
		unavailable(t, "PUT", "/dead/warm", []byte("over"))
		unavailable(t, "PUT", "/dead/new", []byte("new"))
		unavailable(t, "DELETE", "/dead/warm", nil)
		unavailable(t, "GET", "/dead?list-type=2&prefix=none%2F", nil)
		unavailable(t, "GET", "/strict/warm", nil)
		unavailable(t, "POST", "/dead/mp?uploads=", nil)
	}
	m.run(t, "requests below it are 503", func(t *testing.T) {
		store.Stop(t)
		down(t)
	})
	m.run(t, "WebHDFS says so too", func(t *testing.T) {
		for _, op := range []string{"GETFILESTATUS", "LISTSTATUS", "OPEN"} {
			_, err := m.hdfs(t.Context(), "GET", "/dead/cold", op, "", nil, 0)
			if e, ok := err.(*hdfsError); !ok || e.Exception != "RetriableException" || !strings.Contains(e.Message, "the store of the mount /dead ") {
				t.Errorf("%s: %v, want a RetriableException that names the mount", op, err)
			}
		}
	})
	m.run(t, "cached objects are served", func(t *testing.T) {
		if h := m.expect(t, "/dead/warm", "warm"); h.Get("X-Cache") != "HIT" {
			t.Errorf("X-Cache is %q", h.Get("X-Cache"))
		}
	})
	m.run(t, "other mounts are not touched", alive)
	m.run(t, "many requests to it do not slow the others", func(t *testing.T) {
		var all sync.WaitGroup
		for i := range 32 {
			all.Go(func() { unavailable(t, "GET", fmt.Sprintf("/dead/cold-%d", i), nil) })
		}
		for range 5 {
			alive(t)
		}
		all.Wait()
	})
	m.run(t, "a start without it", func(t *testing.T) {
		m.Stop(t)
		start := time.Now()
		m.rig = newRig(Start(whole, Options{Data: data, Ports: m.Server}))
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("the start took %v", took)
		}
		alive(t)
		down(t)
		m.ok(t, http.StatusOK, "GET", api+"/dead", nil)
	})
	m.run(t, "it comes back", func(t *testing.T) {
		store.Start(whole)
		eventually(t, 15*time.Second, func() error {
			if status, _, got := m.fetch(t, "/dead/cold"); status != http.StatusOK || got != "cold" {
				return fmt.Errorf("status %d %.200s", status, got)
			}
			return nil
		})
		m.expect(t, "/dead/warm", "warm") // neither the PUT nor the DELETE happened
		m.expect(t, "/dead/new", "-")
		m.expect(t, "/strict/warm", "warm")
		m.write(t, "/dead/warm", "over")
		m.write(t, "/dead/new", "new")
		if got, _ := store.read(t, "dead", "warm"); got != "over" {
			t.Errorf("the store has %q", got)
		}
		want := []string{"/dead/cold", "/dead/new", "/dead/warm"}
		if got := m.names(t, "/dead/"); !slices.Equal(got, want) {
			t.Errorf("the keys are %v, want %v", got, want)
		}
		alive(t)
	})
}
