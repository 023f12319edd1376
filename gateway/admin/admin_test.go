package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/gateway/config"
)

// fakeMounts is a mount table without stores. Opening a URI that holds "missing" or "denied" fails as a store would.
type fakeMounts struct {
	core.MountLife
	mounts map[string]core.MountInfo
	edit   core.MountEdit // the last that was asked for
}

func (f *fakeMounts) Mounts(ctx context.Context) ([]core.MountInfo, error) {
	var all []core.MountInfo
	for _, p := range slices.Sorted(maps.Keys(f.mounts)) {
		all = append(all, f.mounts[p])
	}
	return all, needSuper(ctx)
}

func (f *fakeMounts) Mount(ctx context.Context, m core.MountSpec) (core.MountInfo, error) {
	if err := needSuper(ctx); err != nil {
		return core.MountInfo{}, err
	}
	p := m.Path.Dir().String()
	for word, kind := range map[string]errs.Kind{"missing": errs.NotExist, "denied": errs.Permission, "down": errs.Unavailable} {
		if strings.Contains(m.URI, word) {
			return core.MountInfo{}, errs.New("s3ufs.Probe", m.URI, kind, "the bucket says "+word)
		}
	}
	if _, ok := f.mounts[p]; ok {
		return core.MountInfo{}, errs.New("namespace.Mount", p, errs.Exist, "something is mounted there")
	}
	f.mounts[p] = core.MountInfo{MountSpec: m, State: "ready"}
	return f.mounts[p], nil
}

func (f *fakeMounts) UpdateMount(_ context.Context, p core.Path, c core.MountChange) (core.MountInfo, error) {
	m, ok := f.mounts[p.Dir().String()]
	if !ok {
		return m, errs.E("namespace.UpdateMount", p.String(), errs.NotExist, nil)
	}
	if c.Options["secret_key"] == "denied" {
		return m, errs.New("s3ufs.Probe", m.URI, errs.Permission, "the bucket says denied")
	}
	if c.ReadOnly != nil {
		m.ReadOnly = *c.ReadOnly
	}
	if c.SyncInterval != nil {
		m.SyncInterval = c.SyncInterval
	}
	if c.Mode != nil {
		m.Mode = *c.Mode
	}
	f.mounts[p.Dir().String()] = m
	return m, nil
}

func (f *fakeMounts) Unmount(_ context.Context, p core.Path) error {
	if _, ok := f.mounts[p.Dir().String()]; !ok {
		return errs.E("namespace.Unmount", p.String(), errs.NotExist, nil)
	}
	delete(f.mounts, p.Dir().String())
	return nil
}

func (f *fakeMounts) AddMount(ctx context.Context, m core.MountSpec, _ core.LifeOptions) (core.MountReport, error) {
	i, err := f.Mount(ctx, m)
	return core.MountReport{Mount: i}, err
}

func (f *fakeMounts) EditMount(ctx context.Context, p core.Path, c core.MountEdit, _ core.LifeOptions) (core.MountReport, error) {
	f.edit = c
	i, err := f.UpdateMount(ctx, p, c.MountChange)
	return core.MountReport{Mount: i}, err
}

func (f *fakeMounts) RemoveMount(ctx context.Context, p core.Path, _ core.LifeOptions) (core.MountReport, error) {
	return core.MountReport{}, f.Unmount(ctx, p)
}

func needSuper(ctx context.Context) error {
	if !core.PrincipalOf(ctx).Super {
		return errs.E("namespace.Mounts", "", errs.Permission, nil)
	}
	return nil
}

// fakeFiles is a namespace of one directory of files.
type fakeFiles struct {
	core.Namespace
	core.Locator
	files map[string]string
}

func (f *fakeFiles) info(p string) core.Info {
	path, _ := core.ParsePath(p)
	return core.Info{Path: path, Name: path.Name(), Size: int64(len(f.files[p])), ETag: "e", Mode: 0o644, ModTime: time.Unix(1, 0)}
}

func (f *fakeFiles) Stat(ctx context.Context, p core.Path) (core.Info, error) {
	if _, ok := f.files[p.String()]; !ok {
		return core.Info{}, errs.E("namespace.Stat", p.String(), errs.NotExist, nil)
	}
	return f.info(p.String()), needSuper(ctx)
}

func (f *fakeFiles) List(_ context.Context, dir core.Path, o core.ListOptions) iter.Seq2[core.Info, error] {
	return func(yield func(core.Info, error) bool) {
		n := 0
		for _, p := range slices.Sorted(maps.Keys(f.files)) {
			i := f.info(p)
			if i.Name > o.After && n < o.Limit {
				n++
				if !yield(i, nil) {
					return
				}
			}
		}
	}
}

type fakeReader struct {
	*strings.Reader
	info   core.Info
	off, n int64
	broken bool
}

func (r *fakeReader) Close() error              { return nil }
func (r *fakeReader) Info() core.Info           { return r.info }
func (r *fakeReader) Span() (off, length int64) { return r.off, r.n }
func (r *fakeReader) WriteTo(w io.Writer) (int64, error) {
	n, _ := r.Reader.WriteTo(w)
	if r.broken {
		return n, errs.E("namespace.Read", "", errs.Conflict, nil)
	}
	return n, nil
}

func (f *fakeFiles) Open(_ context.Context, p core.Path, r core.Range) (core.Reader, error) {
	text, ok := f.files[p.String()]
	switch {
	case !ok:
		return nil, errs.E("namespace.Open", p.String(), errs.NotExist, nil)
	case r.Off > int64(len(text)):
		return nil, errs.E("namespace.Open", p.String(), errs.Range, nil)
	}
	part := text[r.Off:]
	if r.Len >= 0 && r.Len < int64(len(part)) {
		part = part[:r.Len]
	}
	broken := strings.Contains(p.String(), "broken")
	n := int64(len(part))
	if broken {
		n++
	}
	return &fakeReader{strings.NewReader(part), f.info(p.String()), r.Off, n, broken}, nil
}

type fakeWriter struct {
	bytes.Buffer
	commit func(string) core.Info
}

func (w *fakeWriter) Abort() error { return nil }
func (w *fakeWriter) Commit(context.Context, core.CommitOptions) (core.Info, error) {
	return w.commit(w.String()), nil
}

func (f *fakeFiles) Create(_ context.Context, p core.Path, o core.CreateOptions) (core.Writer, error) {
	if _, ok := f.files[p.String()]; ok && o.Mode == core.CreateNew {
		return nil, errs.E("namespace.Create", p.String(), errs.Exist, nil)
	}
	return &fakeWriter{commit: func(text string) core.Info { f.files[p.String()] = text; return f.info(p.String()) }}, nil
}

func (f *fakeFiles) Rename(_ context.Context, src, dst core.Path, _ core.RenameOptions) error {
	if _, ok := f.files[src.String()]; !ok {
		return errs.E("namespace.Rename", src.String(), errs.NotExist, nil)
	}
	f.files[dst.String()] = f.files[src.String()]
	delete(f.files, src.String())
	return nil
}

func (f *fakeFiles) Copy(_ context.Context, src, dst core.Path, o core.CopyOptions) (core.Info, error) {
	if _, ok := f.files[dst.String()]; ok && o.Dest.IfNoneMatch == "*" {
		return core.Info{}, errs.E("namespace.Copy", dst.String(), errs.Precondition, nil)
	}
	f.files[dst.String()] = f.files[src.String()]
	return f.info(dst.String()), nil
}

func (f *fakeFiles) Remove(_ context.Context, p core.Path, _ core.RemoveOptions) error {
	if _, ok := f.files[p.String()]; !ok {
		return errs.E("namespace.Remove", p.String(), errs.NotExist, nil)
	}
	delete(f.files, p.String())
	return nil
}

func (f *fakeFiles) Summarize(context.Context, core.Path) (core.Summary, error) {
	return core.Summary{Dirs: 1, Files: int64(len(f.files)), Bytes: 9}, nil
}

// users knows a superuser's key pair and another's.
type users struct{}

func (users) Secret(_ context.Context, key string) (string, core.Principal, error) {
	switch key {
	case "ROOT":
		return "rootsecret", core.Principal{User: "hdfs", Super: true}, nil
	case "BOB":
		return "bobsecret", core.Principal{User: "bob"}, nil
	case "DOWN":
		return "", core.Principal{}, errs.E("auth", "", errs.Unavailable, nil)
	}
	return "", core.Principal{}, errs.E("auth", "", errs.NotExist, nil)
}

func (users) User(context.Context, string) (core.Principal, error) { return core.Anonymous, nil }

const secretValue = "hunter22hunter22"

type env struct {
	*testing.T
	api    *Server
	server *httptest.Server
	log    *bytes.Buffer
	files  *fakeFiles
	mounts *fakeMounts
}

func start(t *testing.T) *env {
	root, _ := core.ParsePath("/")
	e := &env{T: t, log: &bytes.Buffer{}, files: &fakeFiles{files: map[string]string{"/a": "hello", "/b": "", "/broken": "xx"}}}
	mounts := &fakeMounts{mounts: map[string]core.MountInfo{"/": {MountSpec: core.MountSpec{Path: root, URI: "file:///d", Origin: core.FromConfig}, State: "ready"}}}
	e.mounts = mounts
	s := New(Options{
		Namespace: e.files, Locator: e.files, Authenticator: users{}, Defaults: config.Default(), Version: "v1",
		Mounts: mounts, Life: mounts,
		Logger: slog.New(slog.NewTextHandler(e.log, nil)),
	})
	e.api, e.server = s, httptest.NewServer(s)
	t.Cleanup(e.server.Close)
	return e
}

// do sends a request as the superuser and returns status, headers and body.
func (e *env) do(method, path, body string, change ...func(*http.Request)) (int, http.Header, string) {
	e.Helper()
	r, err := http.NewRequestWithContext(e.Context(), method, e.server.URL+path, strings.NewReader(body))
	if err != nil {
		e.Fatal(err)
	}
	r.SetBasicAuth("ROOT", "rootsecret")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, f := range change {
		f(r)
	}
	resp, err := e.server.Client().Do(r)
	if err != nil {
		e.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(b)
}

// want fails unless a request is answered with the status and, if not "", a body that holds the text.
func (e *env) want(status int, text, method, path, body string, change ...func(*http.Request)) string {
	e.Helper()
	got, h, b := e.do(method, path, body, change...)
	if got != status || !strings.Contains(b, text) {
		e.Errorf("%s %s %.200s: got %d %s, want %d with %s", method, path, body, got, b, status, text)
	}
	if ct := h.Get("Content-Type"); got >= 400 && ct != "application/problem+json" {
		e.Errorf("%s %s: error has content type %q, want application/problem+json", method, path, ct)
	}
	if strings.Contains(b, secretValue) {
		e.Errorf("%s %s: the answer shows a secret: %s", method, path, b)
	}
	return b
}

// TestLongValues sends paths and settings that are far too long: what comes back has their beginning and the reason.
func TestLongValues(t *testing.T) {
	e := start(t)
	long := strings.Repeat("x", 600<<10)
	for _, k := range []struct{ path, body, want string }{
		{"fs/move", `{"from":%q,"to":"/b"}`, "a path starts with /"},
		{"fs/copy", `{"from":"/a","to":%q}`, "a path starts with /"},
		{"mounts", `{"path":%q,"uri":"s3://b"}`, "is not a path"},
		{"mounts", `{"path":"/m","uri":"s3://b","mode":%q}`, "is not a mode"},
		{"mounts", `{"path":"/m","uri":"s3://b","sync_interval":%q}`, "is not an interval"},
	} {
		status, _, body := e.do("POST", "/api/v1/"+k.path, fmt.Sprintf(k.body, long))
		if status/100 != 4 || len(body) > 2<<10 || !strings.Contains(body, "xxx") || !strings.Contains(body, k.want) {
			t.Errorf("%s %s: got %d, %d bytes: %.3000s", k.path, k.body, status, len(body), body)
		}
	}
	if n := e.log.Len(); n > 16<<10 {
		t.Errorf("the log has %d bytes of it", n)
	}
}

func TestAuthentication(t *testing.T) {
	e := start(t)
	as := func(key, secret string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(key, secret) }
	}
	none := func(r *http.Request) { r.Header.Del("Authorization") }
	e.want(200, `"items"`, "GET", "/api/v1/mounts", "")
	for _, path := range []string{"/api/v1/mounts", "/api/v1/fs/entry?path=/a", "/api/v1/nothing"} {
		e.want(401, "", "GET", path, "", none)
		e.want(401, "", "GET", path, "", as("ROOT", "wrong"))
		e.want(401, "", "GET", path, "", as("NOBODY", ""))
		e.want(401, "", "GET", path, "", as("", ""))
		e.want(403, "superuser", "GET", path, "", as("BOB", "bobsecret"))
		e.want(503, "", "GET", path, "", as("DOWN", "x"))
	}
	_, h, _ := e.do("GET", "/api/v1/mounts", "", none)
	if got := h.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Basic ") {
		t.Errorf("WWW-Authenticate = %q, want Basic", got)
	}
	e.want(200, `"openapi":"3.1.0"`, "GET", "/api/v1/openapi.json", "", none)
	status, h, _ := e.do("POST", "/api/v1/mounts", "{}", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") })
	if got := h.Get("Content-Type"); status != 403 || got != "application/problem+json" {
		t.Errorf("a cross-site request got %d, %s, want 403 and a problem", status, got)
	}
}

func TestMounts(t *testing.T) {
	e := start(t)
	e.want(200, `{"items":[{"path":"/","uri":"file:///d","read_only":false,"access":"readWrite","sync_interval":"60s"`, "GET", "/api/v1/mounts", "")
	body := `{"path":"/lake/x","uri":"s3://b/p","sync_interval":"5m","mode":"0750","write_type":"THROUGH","replicas":3,"persist_delay":"1m","options":{"region":"r","secret_key":"` + secretValue + `"}}`
	got := e.want(201, `"origin":"api"`, "POST", "/api/v1/mounts", body)
	want := Mount{Path: "/lake/x", URI: "s3://b/p", SyncInterval: "300s", Access: "readWrite", Mode: "0750", WriteType: "THROUGH", // the read type is left open, which the namespace decides
		Replicas: 3, PersistDelay: "60s", CopiesMax: 1, LoadType: "ONCE",
		Options: map[string]string{"region": "r", "secret_key": "***"}, Origin: "api", State: "ready"}
	var m Mount
	if err := json.Unmarshal([]byte(got), &m); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("created mount (-want +got):\n%s", diff)
	}
	if _, h, _ := e.do("GET", "/api/v1/mounts", ""); h.Get("X-Request-Id") == "" {
		t.Error("no X-Request-Id")
	}
	for _, name := range []string{"/api/v1/mounts/lake%2Fx", "/api/v1/mounts/lake/x", "/api/v1/mounts?path=/lake/x", "/api/v1/mounts?path=lake/x/", "/api/v1/mounts?path=%2Flake%2Fx"} {
		e.want(200, `"path":"/lake/x"`, "GET", name, "")
	}
	for _, name := range []string{"/api/v1/mounts/", "/api/v1/mounts?path=/", "/api/v1/mounts/%2F"} {
		e.want(200, `"path":"/"`, "GET", name, "")
	}
	e.want(422, "the bucket says denied", "PATCH", "/api/v1/mounts/lake%2Fx", `{"options":{"secret_key":"denied"}}`)
	e.want(200, `"read_only":true`, "PATCH", "/api/v1/mounts/lake%2Fx", `{"read_only":true,"sync_interval":"-1","mode":"0700"}`)
	e.want(200, `"sync_interval":"-1"`, "GET", "/api/v1/mounts?path=/lake/x", "")
	e.want(409, "mounted there", "POST", "/api/v1/mounts", body)
	e.want(204, "", "DELETE", "/api/v1/mounts?path=/lake/x", "")
	e.want(404, "", "DELETE", "/api/v1/mounts/lake%2Fx", "")
	e.want(404, "", "GET", "/api/v1/mounts/lake%2Fx", "")
	e.want(404, "", "PATCH", "/api/v1/mounts/lake%2Fx", `{"read_only":true}`)
	e.want(404, "", "PATCH", "/api/v1/mounts/lake%2Fx", `{"options":{"region":"x"}}`)
	if log := e.log.String(); strings.Contains(log, secretValue) || !strings.Contains(log, "op=CreateMount") || !strings.Contains(log, "user=hdfs") {
		t.Errorf("access log: %s", log)
	}
}

func TestBadInput(t *testing.T) {
	e := start(t)
	secret := `"options":{"secret_key":"` + secretValue + `"}`
	for _, c := range []struct {
		status             int
		text, method, body string
	}{
		{400, "", "POST", `{"path":`},
		{400, "", "POST", ``},
		{422, "body.colour", "POST", `{"path":"/x","uri":"file:///x","colour":"red",` + secret + `}`},
		{422, "body.read_only", "POST", `{"path":"/x","uri":"file:///x","read_only":"yes",` + secret + `}`},
		{422, "body.options", "POST", `{"path":"/x","uri":"file:///x","options":[1]}`},
		{422, "uri", "POST", `{"path":"/x",` + secret + `}`},
		{422, "body.path", "POST", `{"path":"x","uri":"file:///x"}`},
		{422, "body.path", "POST", `{"path":"/a/../b","uri":"file:///x"}`},
		{422, "body.mode", "POST", `{"path":"/x","uri":"file:///x","mode":"999"}`},
		{422, "body.sync_interval", "POST", `{"path":"/x","uri":"file:///x","sync_interval":"soon"}`},
		{422, "body.write_type", "POST", `{"path":"/x","uri":"file:///x","write_type":"MAYBE"}`},
		{422, "body.uri", "POST", `{"path":"/x","uri":"s3://AK:` + secretValue + `@b"}`},
		{422, "says missing", "POST", `{"path":"/x","uri":"s3://missing",` + secret + `}`},
		{422, "says denied", "POST", `{"path":"/x","uri":"s3://denied"}`},
		{422, "says down", "POST", `{"path":"/x","uri":"s3://down"}`},
		{405, "", "PUT", `{}`},
	} {
		e.want(c.status, c.text, c.method, "/api/v1/mounts", c.body)
	}
	e.want(422, "/ for the root", "PATCH", "/api/v1/mounts?path=", `{"read_only":true}`)
	e.want(422, "query.setting", "DELETE", "/api/v1/path-rules?path=/x&setting=", "")
	e.want(422, "body.mode", "PATCH", "/api/v1/mounts?path=/", `{"mode":"x"}`)
	e.want(422, "body.sync_interval", "PATCH", "/api/v1/mounts?path=/", `{"sync_interval":"x"}`)
	e.want(422, "body.uri", "PATCH", "/api/v1/mounts?path=/", `{"uri":"y"}`)
	e.want(415, "", "POST", "/api/v1/mounts", `path=/x`, func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") })
	e.want(422, "query.colour", "GET", "/api/v1/fs/entry?path=/a&colour=red", "")
	e.want(422, "query.path", "GET", "/api/v1/fs/entry", "")
	e.want(404, "openapi.json", "GET", "/api/v1/nothing", "")
	e.want(404, "", "GET", "/nothing", "")
}

func TestFiles(t *testing.T) {
	e := start(t)
	e.want(200, `"type":"file","size":5,"modified":"1970-01-01T00:00:01Z"`, "GET", "/api/v1/fs/entry?path=/a", "")
	e.want(404, "", "GET", "/api/v1/fs/entry?path=/none", "")
	e.want(400, "", "GET", "/api/v1/fs/entry?path=none", "")
	e.want(200, "hello", "GET", "/api/v1/fs/content?path=/a", "")
	e.want(200, "ell", "GET", "/api/v1/fs/content?path=/a&offset=1&length=3", "")
	e.want(416, "", "GET", "/api/v1/fs/content?path=/a&offset=9", "")
	e.want(404, "", "GET", "/api/v1/fs/content?path=/none", "")

	big := strings.Repeat("0123456789abcdef", 1<<16)
	e.want(201, `"size":1048576`, "PUT", "/api/v1/fs/content?path=/dir/"+url.QueryEscape("ü b"), big)
	if e.files.files["/dir/ü b"] != big {
		t.Error("the bytes written are not those sent")
	}
	e.want(409, "", "PUT", "/api/v1/fs/content?path=/a", "new")
	e.want(201, "", "PUT", "/api/v1/fs/content?path=/a&overwrite=true", "new")
	e.want(409, "", "PUT", "/api/v1/fs/content?path=/a/", "new")

	page := e.want(200, `"next":"a"`, "GET", "/api/v1/fs/entries?path=/&limit=1", "")
	if strings.Count(page, `"path"`) != 1 {
		t.Errorf("a page of 1 holds %s", page)
	}
	e.want(200, `"next":""`, "GET", "/api/v1/fs/entries?path=/&after=a", "")
	e.want(200, `"bytes":9`, "GET", "/api/v1/fs/summary?path=/", "")

	e.want(200, `"path":"/c"`, "POST", "/api/v1/fs/copy", `{"from":"/a","to":"/c"}`)
	e.want(412, "", "POST", "/api/v1/fs/copy", `{"from":"/a","to":"/c"}`)
	e.want(200, "", "POST", "/api/v1/fs/copy", `{"from":"/a","to":"/c","overwrite":true}`)
	e.want(204, "", "POST", "/api/v1/fs/move", `{"from":"/c","to":"/d"}`)
	e.want(404, "", "POST", "/api/v1/fs/move", `{"from":"/c","to":"/d"}`)
	e.want(204, "", "DELETE", "/api/v1/fs/entry?path=/d", "")
	e.want(404, "", "DELETE", "/api/v1/fs/entry?path=/d", "")
}

// A read that fails after its status was sent cuts the connection, so that no client takes the part for the whole.
func TestBrokenReadCutsTheConnection(t *testing.T) {
	e := start(t)
	r, _ := http.NewRequestWithContext(t.Context(), "GET", e.server.URL+"/api/v1/fs/content?path=/broken", nil)
	r.SetBasicAuth("ROOT", "rootsecret")
	resp, err := e.server.Client().Do(r)
	if err == nil {
		defer resp.Body.Close()
		_, err = io.ReadAll(resp.Body)
	}
	if err == nil {
		t.Error("the client saw a complete response")
	}
}

func TestTruncatedUploadMakesNothing(t *testing.T) {
	e := start(t)
	r, _ := http.NewRequestWithContext(t.Context(), "PUT", e.server.URL+"/api/v1/fs/content?path=/t", io.LimitReader(strings.NewReader("abc"), 3))
	r.ContentLength = 10
	r.SetBasicAuth("ROOT", "rootsecret")
	if resp, err := e.server.Client().Do(r); err == nil {
		resp.Body.Close()
	}
	e.server.Close() // waits for the handler
	if _, ok := e.files.files["/t"]; ok {
		t.Error("half a body became a file")
	}
}

func TestEveryKindMaps(t *testing.T) {
	for _, k := range errs.Kinds() {
		if s := status(k); s < 400 || s > 599 {
			t.Errorf("%v maps to %d", k, s)
		}
		if p := problem(errs.E("op", "name", k, errors.New("why"))); p.GetStatus() != status(k) {
			t.Errorf("%v: problem has status %d", k, p.GetStatus())
		}
	}
}

func TestOpenAPIDescribesEveryOperation(t *testing.T) {
	e := start(t)
	_, _, doc := e.do("GET", "/api/v1/openapi.json", "")
	var spec struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal([]byte(doc), &spec); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, methods := range spec.Paths {
		for _, op := range methods {
			got = append(got, op.OperationID)
		}
	}
	slices.Sort(got)
	want := []string{"AddMaster", "Backup", "CancelJob", "ChangeMasters", "Check", "Copy", "CreateMount", "Defrag", "DeleteBucketAlias", "DeleteMount", "DeletePathRule", "DeleteSecret", "DrainNode", "Explain", "GetDurability", "GetJob", "GetLife", "GetMount", "GetPlaces", "GetPolicies", "GetResidency", "Handover",
		"Invalidate", "List", "ListBucketAliases", "ListJobs", "ListMasters", "ListMountRevisions", "ListMounts", "ListNodes", "ListPathRules", "ListPins", "ListRenames", "ListSecrets", "Mkdir", "Move", "Read", "Release", "Remove", "RollbackMounts", "SetBucketAlias", "SetPathRule", "SetSecret", "StartJob", "Stat", "Summarize", "Sync", "TellS3", "UpdateMount", "Write"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestPatchMerges checks that a patch of a mount is merged: what is left out stays, null is the default, and null of what has none
// is refused.
func TestPatchMerges(t *testing.T) {
	e := start(t)
	e.want(http.StatusCreated, `"path":"/m"`, "POST", "/api/v1/mounts", `{"path":"/m","uri":"file:///m"}`)
	e.want(http.StatusOK, `"path":"/m"`, "PATCH", "/api/v1/mounts/m", `{"owner":null,"mode":null,"sync_interval":null,"persist_delay":null,"write_type":null,"read_type":null,
		"replication_min":null,"load_type":null,"access":null,"group":"staff","options":{"region":null,"path_style":"true"}}`)
	empty, mode, low, write, access, staff := "", uint32(0), core.DefaultCopies, core.WriteType(""), core.AccessWrite, "staff"
	want := core.MountEdit{DefaultSyncInterval: true, DefaultPersistDelay: true, Access: &access, MountChange: core.MountChange{
		Owner: &empty, Group: &staff, Mode: &mode, WriteType: &write, ReadType: new(core.ReadType), ReplicationMin: &low, LoadType: new(core.LoadType), Options: map[string]string{"region": "", "path_style": "true"},
	}}
	if diff := cmp.Diff(want, e.mounts.edit); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	e.want(http.StatusOK, `"path":"/m"`, "PATCH", "/api/v1/mounts/m", `{"adopt":true}`)
	if diff := cmp.Diff(core.MountEdit{Adopt: true}, e.mounts.edit); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	e.want(http.StatusUnprocessableEntity, "uri", "PATCH", "/api/v1/mounts/m", `{"uri":null}`)
	e.want(http.StatusUnprocessableEntity, "uri", "PATCH", "/api/v1/mounts/m", `{"uri":"s3://key:hush@bucket"}`)
	e.want(http.StatusUnprocessableEntity, "access", "PATCH", "/api/v1/mounts/m", `{"access":"none"}`)
}
