package webhdfsufs

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/user"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/hadoopfs/minidfs"
	"github.com/sluicefs/sluice/ufs/ufstest"
)

// TestMiniCluster runs the suite against a name node, as a user who is not its superuser, and replaces files over HttpFS.
func TestMiniCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves out what starts servers")
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	c := minidfs.Start(t, minidfs.Options{})
	httpfs := c.StartHttpFS(t)
	admin := client(t, c.HTTP, me.Username)
	t.Run("suite", func(t *testing.T) { ufstest.Run(t, opener(admin, c.HTTP, "eve")) })
	t.Run("httpfs replaces", func(t *testing.T) { replaced(t, opener(admin, httpfs, me.Username)(t)) })
	t.Run("the name node is gone", func(t *testing.T) {
		s := opener(admin, c.HTTP, me.Username)(t)
		if _, err := ufs.WriteFile(t.Context(), s, "a", []byte("data"), ufs.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.Kill()
		begun := time.Now()
		if _, err := s.Stat(t.Context(), "a"); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("stat: got %v", err)
		}
		_, err := ufs.WriteFile(t.Context(), s, "b", nil, ufs.CreateOptions{})
		if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, ufs.ErrUnsent) {
			t.Errorf("write: got %v, want one that says that nothing was sent", err)
		}
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("a dead name node was noticed after %v", took)
		}
	})
}

// TestHttpFS runs the suite against HttpFS, if SLUICE_FULL is set: it takes minutes (conformance/run full).
func TestHttpFS(t *testing.T) {
	if testing.Short() || os.Getenv("SLUICE_FULL") == "" {
		t.Skip("it takes minutes: only SLUICE_FULL=1 without -short has it run")
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	c := minidfs.Start(t, minidfs.Options{})
	ufstest.Run(t, opener(client(t, c.HTTP, me.Username), c.StartHttpFS(t), me.Username), httpfsDeviations...)
}

var httpfsDeviations = []ufstest.Deviation{
	{Test: "Names/names are byte-exact", Reason: "loses a blank at the end of a name"},
}

var stores atomic.Int32

func client(t *testing.T, addr, name string) *Client {
	t.Helper()
	c, err := New(Options{URL: "http://" + addr, User: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// opener returns a function that opens stores at addr below directories of their own, which belong to the user name.
func opener(admin *Client, addr, name string) func(t *testing.T) ufs.Store {
	return func(t *testing.T) ufs.Store {
		t.Helper()
		dir := fmt.Sprintf("/w%d", stores.Add(1))
		if err := errors.Join(admin.Mkdirs(t.Context(), dir), admin.SetOwner(t.Context(), dir, name, "")); err != nil {
			t.Fatal(err)
		}
		s := open(t, "webhdfs://"+addr+dir, map[string]string{"user": name})
		if err := ufs.Probe(t.Context(), s, true); err != nil { // after which it knows its features
			t.Fatal(err)
		}
		return s
	}
}

func open(t *testing.T, uri string, options map[string]string) ufs.Store {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenURI(t.Context(), u, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// replaced stops a replacement over HttpFS between its two steps, and has CleanStaging mend it.
func replaced(t *testing.T, s ufs.Store) {
	ctx := t.Context()
	if _, err := ufs.WriteFile(ctx, s, "d/a", []byte("old"), ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for stopAt := 1; ; stopAt++ {
		n := 0
		stopped := ufs.WithGuard(ctx, func() error {
			if n++; n >= stopAt {
				return errs.New("test", "", errs.Unavailable, "not any more")
			}
			return nil
		})
		w, err := s.Create(ctx, "d/a", -1, ufs.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "new"); err != nil {
			t.Fatal(err)
		}
		_, err = w.Commit(stopped)
		if cerr := s.CleanStaging(ctx, func(string) bool { return false }); cerr != nil {
			t.Fatal(cerr)
		}
		got, gerr := ufs.ReadAll(ctx, s, "d/a", "", 100)
		want := map[bool]string{true: "new", false: "old"}[err == nil]
		if gerr != nil || string(got) != want {
			t.Fatalf("stopped at call %d (%v): got %q, %v, want %q", stopAt, err, got, gerr, want)
		}
		if err == nil {
			if stopAt < 4 {
				t.Errorf("a replacement asks its guard %d times only", stopAt-1)
			}
			return
		}
	}
}

// TestSecrets looks for the token in the errors of servers that say and do what they should not.
func TestSecrets(t *testing.T) {
	const token = "hush-hush"
	answers := map[string]http.HandlerFunc{
		"closes": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "ftp://x/?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
		},
		"sends away": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
		},
		"is no HDFS":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"knows no URL": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(answer)
			defer server.Close()
			s := open(t, "webhdfs"+strings.TrimPrefix(server.URL, "http")+"/x", map[string]string{"token": token})
			_, err1 := s.Stat(t.Context(), "a")
			_, err2 := ufs.WriteFile(t.Context(), s, "a", []byte("data"), ufs.CreateOptions{})
			for _, err := range []error{err1, err2, ufs.Probe(t.Context(), s, true)} {
				if errs.KindOf(err) != errs.Unavailable || strings.Contains(err.Error(), token) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

// TestListsInTurns checks that the pages of a listing are decoded in turns that nobody has while the server is waited for.
func TestListsInTurns(t *testing.T) {
	var turns ufstest.Turns
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		turns.Want(t, 0, "while the server is asked")
		name, left := "a", 1
		if r.URL.Query().Get("startafter") != "" {
			name, left = "b", 0
		}
		_, _ = fmt.Fprintf(w, `{"DirectoryListing":{"partialListing":{"FileStatuses":{"FileStatus":[
			{"pathSuffix":%q,"type":"FILE","length":4,"fileId":7,"permission":"644"}]}},"remainingEntries":%d}}`, name, left)
	}))
	defer server.Close()
	s := open(t, "webhdfs"+strings.TrimPrefix(server.URL, "http")+"/x", nil)
	names := 0
	for in, err := range s.List(turns.Context(t.Context()), "", "", false) {
		if err != nil {
			t.Fatal(err)
		}
		turns.Want(t, 0, "while "+in.Name+" is yielded")
		names++
	}
	if n := turns.Taken(); names != 2 || n != 2 {
		t.Errorf("%d names came of %d turns, want 2 of 2", names, n)
	}
	turns.Want(t, 0, "after the listing")
}

// TestTLS does not leave TLS, whatever the server says.
func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("op") == "GETFILESTATUS" {
			_, _ = io.WriteString(w, `{"FileStatus":{"type":"FILE","length":4,"fileId":7,"permission":"644"}}`)
			return
		}
		http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	c, err := New(Options{URL: server.URL, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	c.http.Transport = server.Client().Transport
	if _, err := c.Open(t.Context(), "/a", 0, 4); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "from https to http") {
		t.Errorf("open: got %v", err)
	}
	if _, err := c.Create(t.Context(), "/a/b"); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "from https to http") {
		t.Errorf("create: got %v", err)
	}
}

// TestNobody talks to an address where nobody listens.
func TestNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	s := open(t, "webhdfs://"+l.Addr().String()+"/x", nil)
	if err := ufs.Probe(t.Context(), s, true); errs.KindOf(err) != errs.Unavailable || !errors.Is(err, ufs.ErrUnsent) {
		t.Errorf("got %v", err)
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		uri     string
		options map[string]string
		want    string
	}{
		{"webhdfs:///x", nil, "webhdfs://host:port/path"},
		{"webhdfs://h/x", map[string]string{"tokn": "hush"}, `unknown option "tokn"`},
		{"webhdfs://h/x", map[string]string{"create": "maybe"}, "create must be true or false"},
		{"webhdfs://h/x", map[string]string{"principal": "a@X"}, "keytab"},
	} {
		u, err := url.Parse(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		_, err = OpenURI(t.Context(), u, c.options)
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s %v: got %v, want %q", c.uri, c.options, err, c.want)
		}
	}
}
