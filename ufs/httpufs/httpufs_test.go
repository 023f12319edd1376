package httpufs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

func serve(t *testing.T, o Options, h http.HandlerFunc) *Store {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	o.Root = server.URL + "/pub"
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func wantKind(t *testing.T, what string, err error, kind errs.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: got %v, want %v", what, err, kind)
	}
}

func list(t *testing.T, s *Store, dir string) (names []string, err error) {
	t.Helper()
	for in, err := range s.List(t.Context(), dir, "", false) {
		if err != nil {
			return names, err
		}
		names = append(names, in.Name)
	}
	return names, nil
}

func read(t *testing.T, s *Store, name string, off, n int64, version string) (string, error) {
	t.Helper()
	r, err := s.Open(t.Context(), name, off, n, version)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(r)
	return string(b), errors.Join(err, r.Close())
}

// The pages as the servers write them.
const (
	nginxPage = "<html>\r\n<head><title>Index of /pub/</title></head>\r\n<body>\r\n<h1>Index of /pub/</h1><hr><pre><a href=\"../\">../</a>\r\n" +
		"<a href=\"dir/\">dir/</a>      22-Nov-2026 10:00       -\r\n<a href=\"a%20b%26c.txt\">a b&amp;c.txt</a>  22-Nov-2026 10:00   3\r\n</pre><hr></body>\r\n</html>\r\n"
	apachePage = `<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
<html>
 <head>
  <title>Index of /pub</title>
 </head>
 <body>
<h1>Index of /pub</h1>
  <table>
   <tr><th valign="top"><img src="/icons/blank.gif" alt="[ICO]"></th><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
<tr><td valign="top"><img src="/icons/back.gif" alt="[PARENTDIR]"></td><td><a href="/">Parent Directory</a></td><td>&nbsp;</td></tr>
<tr><td valign="top"><img src="/icons/folder.gif" alt="[DIR]"></td><td><a href="dir/">dir/</a></td><td align="right">2026-11-22 10:00  </td></tr>
<tr><td valign="top"><img src="/icons/text.gif" alt="[TXT]"></td><td><a href="a%20b&amp;c.txt">a b&amp;c.txt</a></td><td align="right">2026-11-22 10:00  </td><td align="right">1.2K</td></tr>
</table>
<address>Apache/2.4.62 (Debian) Server at localhost Port 80</address>
</body></html>
`
	pythonPage = "<!DOCTYPE HTML>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Directory listing for /pub/</title>\n</head>\n<body>\n" +
		"<h1>Directory listing for /pub/</h1>\n<hr>\n<ul>\n<li><a href=\"a%20b%26c.txt\">a b&amp;c.txt</a></li>\n<li><a href=\"dir/\">dir/</a></li>\n</ul>\n<hr>\n</body>\n</html>\n"
	goPage = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n<a href=\"a%20b&c.txt\">a b&amp;c.txt</a>\n<a href=\"dir/\">dir/</a>\n</pre>\n"
)

func TestIndexPages(t *testing.T) {
	at, _ := url.Parse("http://h/pub/")
	for name, page := range map[string]string{"nginx": nginxPage, "apache": apachePage, "python": pythonPage, "go": goPage} {
		got, err := parseIndex([]byte(page), at)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, []string{"a b&c.txt", "dir/"}) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		for cut := range len(page) - 8 { // a page that was cut off
			if _, err := parseIndex([]byte(page[:cut]), at); err == nil && !strings.HasSuffix(strings.TrimSpace(page[:cut]), "</pre>") {
				t.Fatalf("%s: the first %d of %d bytes are taken for an index", name, cut, len(page))
			}
		}
	}
	const head, end = "<title>Index of /pub/</title>", "</html>"
	for page, want := range map[string][]string{
		`<a href="a"><A HREF='b'><a class=x href=c><a href = "d" >`:                              {"a", "b", "c", "d"},
		`<a href="../x"><a href="/pub/y"><a href="/other/z"><a href="./w">`:                      {"y", "w"},
		`<a href="http://h/pub/ours"><a href="//evil/pub/theirs"><a href="https://H:443/pub/s">`: {"ours", "s"},
		`<a href="javascript:x"><a href="mailto:a@b"><a href="#top"><a href="?C=N"><a href=x>`:   {"x"},
		`<a href="a%2Fb"><a href="a/b"><a href="%2e%2e/"><a href="..%2f"><a href="."><a href=x>`: {"x"},
		`<a href="%ff"><a href="a%00b"><a href=""><a href="/pub/"><a href="../"><a href="?C=N">`: nil,
		`<a href="/%70ub/%c3%a4"><a href="/pub/a(b)"><a href="/pub/a%28c%29/">`:                  {"ä", "a(b)", "a(c)/"},
		`<ul> </ul>`:                  nil,
		`<pre><a href=/>up</a></pre>`: nil,
		`<!-- <a href="hidden"> --><script>"<a href='x'>"</script><a title="<a href=y>" href="z">`: {"z"},
		`<a name="a href=b"><area href="c"><a data-href="d"><a href="e" href="f">`:                 {"e"},
		`<a href="&#97;&amp;b">`:          {"a&b"},
		`<hr><a href="../"><a href="open`: nil,
	} {
		got, err := parseIndex([]byte(head+page+end), at)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v, want %q", page, got, err, want)
		}
	}
	for _, page := range []string{
		"<html><title>Welcome</title><a href=x></html>",
		"<pre>502 Bad Gateway: backend is down</pre>",
		"<pre><a href=x>x</a>\nand more</pre>",
		"<pre>down, see <a href=x>x</a></pre>",
		"<pre><a href=x>x</a></pre>and more<pre></pre>",
		head + "<h1>Error 500 reading directory</h1>" + end,
		head + `<a href="http://backend:8080/pub/a">a</a>` + end,
		head + `<a href="../">..</a><a href="http://backend:8080/pub/a">a</a>` + end,
		head + `<a href="/other/a">a</a>` + end,
		head + `<a href="/pub/a?x=1">a</a>` + end,
		head + `<a href="javascript:go('a')">a</a>` + end,
	} {
		names, err := parseIndex([]byte(page), at)
		wantKind(t, fmt.Sprintf("%s: got %q", page, names), err, errs.Unsupported)
	}
	odd := &url.URL{Scheme: "http", Host: "h", Path: "/pub/ä (b)/"}
	got, err := parseIndex([]byte(`<title>Directory Listing For [/pub/]</title><a href="/pub/%c3%a4%20%28b%29/x">x</a>`+end), odd)
	if err != nil || !slices.Equal(got, []string{"x"}) {
		t.Errorf("a directory that is escaped otherwise: got %q, %v", got, err)
	}
	_, err = parseIndex([]byte(head+strings.Repeat("<a href=x>", maxLinks+1)+end), at)
	wantKind(t, "too many links", err, errs.TooLarge)
}

func FuzzIndex(f *testing.F) {
	for _, page := range []string{nginxPage, apachePage, pythonPage, goPage, "<title>index of</title><a <a href=a/></html>", "<pre><a href=/%70ub/x?y#z>x</a></pre>"} {
		f.Add([]byte(page), "/pub/")
	}
	f.Fuzz(func(t *testing.T, page []byte, path string) {
		at := &url.URL{Scheme: "http", Host: "h", Path: "/" + strings.Trim(path, "/") + "/"}
		names, err := parseIndex(page, at)
		if err != nil && len(names) > 0 {
			t.Errorf("got %q with %v", names, err)
		}
		for _, name := range names {
			if segment := strings.TrimSuffix(name, "/"); segment == "" || segment == "." || segment == ".." || strings.ContainsAny(segment, "/\x00") {
				t.Errorf("%q is no segment", name)
			}
		}
	})
}

func TestManifests(t *testing.T) {
	features := ufs.Features{MaxName: maxName, MaxKey: maxKey}
	const want = `[a/b "x" 1700000000 3]`
	for _, text := range []string{
		`[{"path":"a/b","size":3,"etag":"x","mtime":1700000000},"c"]`,
		`{"files":["c",{"path":"./a/b","size":3,"etag":"\"x\"","mtime":"2023-11-14T22:13:20Z"}]}`,
		"# files\nc\n\na/b\t3\tx\t1700000000\r\n",
		"\xef\xbb\xbfa/b\t3\t\"x\"\tTue, 14 Nov 2023 22:13:20 GMT\n./c\n",
	} {
		l, err := parseManifest(features, []byte(text), false)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		f := l.files[0]
		if got := fmt.Sprint([]any{l.names[0], f.etag, f.modified, f.size}); got != want || !slices.Equal(l.names, []string{"a/b", "c"}) || l.files[1].certain() {
			t.Errorf("%s: got %s, %q", text, got, l.names)
		}
	}
	for _, text := range []string{
		"", " \n", `[`, `{"names":[]}`, `{}`, `[1]`, `["a"`, `["a"]]`, `["a"}`, `["a",]`, `{"files":null}`, `{"files":{}}`, `{"files":["a"],"files":["b"]}`, `{"files":["a"]`, "# none\n",
		`[{"path":"a","size":"3"}]`, `[{"path":"a","size":-3}]`, `[{"path":"a","mtime":"soon"}]`, `["a","a"]`,
		`["/a"]`, `["../a"]`, `["a/../b"]`, `["a//b"]`, `["a/"]`, `[""]`, `[".sluice/x"]`, "[\"a\\u0000b\"]", "a\tbig\n", "a\t1\t2\t3\t4\n", "a\nb", "<html></html>",
		`["` + strings.Repeat("a/", maxDepth) + `a"]`, `["` + strings.Repeat("a", maxName+1) + `"]`,
	} {
		if l, err := parseManifest(features, []byte(text), false); err == nil {
			t.Errorf("%.40q: got %q", text, l.names)
		}
	}
	if l, err := parseManifest(features, []byte("a\n"), true); err == nil {
		t.Errorf("text for JSON: got %q", l.names)
	}
}

func FuzzManifest(f *testing.F) {
	for _, text := range []string{`["a",{"path":"b","size":1,"etag":"x","mtime":1}]`, `{"files":[]}`, "a\t1\tx\t1\n"} {
		f.Add([]byte(text))
	}
	features := ufs.Features{MaxName: maxName, MaxKey: maxKey}
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := parseManifest(features, text, false)
		if err != nil {
			return
		}
		if len(l.names) != len(l.files) || !slices.IsSorted(l.names) {
			t.Errorf("got %q", l.names)
		}
		for i, name := range l.names {
			if ufs.CheckFile(features, "test", name) != nil {
				t.Errorf("%q is no name of a file", name)
			}
			if v := l.files[i]; v.certain() {
				if back, ok := parseVersion(v.version()); !ok || back != v {
					t.Errorf("the version %q is read as %+v", v.version(), back)
				}
			}
		}
	})
}

// TestManifestIsAskedAgain checks that a manifest is fetched anew if it has changed, and only then.
func TestManifestIsAskedAgain(t *testing.T) {
	text, tag, whole := "[\"a\"]", `"1"`, 0
	s := serve(t, Options{Manifest: "list.json?key=secret"}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/pub/list.json" || r.URL.RawQuery != "key=secret" {
			t.Errorf("asked for %s", r.URL)
		}
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		whole++
		_, _ = io.WriteString(w, text)
	})
	for range 3 {
		if _, err := s.Stat(t.Context(), "b/"); !errors.Is(err, errs.NotExist) {
			t.Error(err)
		}
	}
	if whole != 1 {
		t.Errorf("the manifest was sent %d times", whole)
	}
	text, tag = `["b/c"]`, `"2"`
	if _, err := s.Stat(t.Context(), "b/"); err != nil || whole != 2 {
		t.Errorf("got %v after %d transfers", err, whole)
	}
	text, tag = `<html>503</html>`, `"3"`
	_, err := s.Stat(t.Context(), "b/")
	wantKind(t, "a manifest that is none", err, errs.Unavailable)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("%v tells the manifest's key", err)
	}
}

// TestNothingIsChanged checks that every change is refused, and that no request says otherwise.
func TestNothingIsChanged(t *testing.T) {
	s := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			t.Errorf("%s %s was sent", r.Method, r.URL)
		}
		_, _ = io.WriteString(w, "<title>Index of /pub/</title><ul></ul></html>")
	})
	_, err := s.Create(t.Context(), "a", 1, ufs.CreateOptions{})
	wantKind(t, "create", err, errs.Permission)
	wantKind(t, "remove", s.Remove(t.Context(), "a", ""), errs.Permission)
	wantKind(t, "probe of a writable mount", s.Probe(t.Context(), true), errs.Permission)
	if err := s.Probe(t.Context(), false); err != nil {
		t.Error(err)
	}
	_, err = ufs.Mkdir(t.Context(), s, "d/", ufs.Attr{})
	wantKind(t, "mkdir", err, errs.Unsupported)
}

// TestVersionsAreNotMixed checks reads of a file that is replaced, or written into, while it is read.
func TestVersionsAreNotMixed(t *testing.T) {
	tag, body, deaf := `"1"`, strings.Repeat("a", 4000), false
	s := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", tag)
		if deaf { // a server that knows no conditions and no ranges
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			_, _ = io.WriteString(w, body)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
	})
	for _, deaf = range []bool{false, true} {
		tag = `"1"`
		in, err := s.Stat(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read(t, s, "a", 3990, 100, in.Version); err != nil || got != strings.Repeat("a", 10) {
			t.Errorf("got %q, %v", got, err)
		}
		r, err := s.Open(t.Context(), "a", 10, 100, in.Version)
		if err != nil {
			t.Fatal(err)
		}
		tag = `"2"`
		b, err := io.ReadAll(r)
		wantKind(t, fmt.Sprintf("%d bytes while the file was written into", len(b)), err, errs.Precondition)
		_ = r.Close()
		_, err = read(t, s, "a", 0, -1, in.Version)
		wantKind(t, "read of a version that is gone", err, errs.Precondition)
	}
}

// TestOddAnswers checks what a server says against what was asked for.
func TestOddAnswers(t *testing.T) {
	for what, c := range map[string]struct {
		answer http.HandlerFunc
		kind   errs.Kind
	}{
		"an error":          {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, errs.Unavailable},
		"too many requests": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, errs.Unavailable},
		"forbidden":         {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, errs.Permission},
		"a redirect": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://169.254.169.254/")
			w.WriteHeader(302)
		}, errs.Unavailable},
		"a redirect to the directory": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/pub/a/", 301) }, errs.NotExist},
		"nothing at the root, too":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, errs.Unavailable},
		"no version":                  {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "abcdef") }, errs.Unsupported},
		"another range": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Content-Range", "bytes 0-2/6")
			w.WriteHeader(206)
			_, _ = io.WriteString(w, "abc")
		}, errs.Unavailable},
		"a short body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Content-Length", "6")
			_, _ = io.WriteString(w, "abcd")
		}, errs.Unavailable},
	} {
		s := serve(t, Options{}, c.answer)
		_, err := read(t, s, "a", 3, 2, "")
		wantKind(t, what, err, c.kind)
	}
}

// TestCredentialsStay checks that credentials are sent to the root's server, and to no other, and are told to nobody.
func TestCredentialsStay(t *testing.T) {
	const secret = "do-not-tell"
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("another server was sent the credentials")
		}
		_, _ = io.WriteString(w, `["a"]`)
	}))
	t.Cleanup(other.Close)
	asked := false
	s := serve(t, Options{Manifest: other.URL + "/list", Token: secret}, func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header.Get("Authorization") == "Bearer "+secret
		w.WriteHeader(http.StatusUnauthorized)
	})
	_, err := s.Stat(t.Context(), "a")
	wantKind(t, "stat", err, errs.Permission)
	if !asked {
		t.Error("the root's server was not sent the token")
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("%v tells the token", err)
	}
}

// TestDeadServer checks that calls of a server that takes connections and says nothing end with their ctx, and that one
// which is not there is errs.Unavailable at once.
func TestDeadServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Root: "http://" + l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Stat(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent server: got %v", err)
	}
	_ = l.Close()
	_, err = s.Stat(t.Context(), "a")
	wantKind(t, "a server that is not there", err, errs.Unavailable)
	_, err = list(t, s, "")
	wantKind(t, "its listing", err, errs.Unavailable)
}

// TestRequestsAreJoined checks that a manifest's answer serves those who asked before it was asked for, and nobody else.
func TestRequestsAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, text := 0, `["a"]`
		client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			asked++
			body := text // as it is when the request arrives
			time.Sleep(time.Second)
			return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
		})}
		s, err := Open(Options{Root: "http://h/", Manifest: "m", Client: client})
		if err != nil {
			t.Fatal(err)
		}
		stat := func(name string, err *error) { _, *err = s.Stat(t.Context(), name) }
		var first, second, third error
		go stat("d/", &first)
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		text = `["d/a"]`
		go stat("d/", &second)
		go stat("d/", &third)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if !errors.Is(first, errs.NotExist) || second != nil || third != nil {
			t.Errorf("got %v, %v, %v", first, second, third)
		}
		if asked != 2 {
			t.Errorf("the manifest was asked for %d times, want 2", asked)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		uri     string
		options map[string]string
		ok      bool
	}{
		{"http://h", nil, true}, {"https://h:444/a%20b/", map[string]string{"manifest": "/m.json", "username": "u", "password": "p"}, true},
		{"http:///x", nil, false}, {"http://h/a//b", nil, false}, {"http://h/a/../b", nil, false}, {"http://h", map[string]string{"manfest": "x"}, false},
		{"http://h", map[string]string{"manifest": "file:///etc/passwd"}, false}, {"http://h", map[string]string{"token": "t", "username": "u"}, false},
		{"http://h", map[string]string{"unreadable": "skip"}, true}, {"http://h", map[string]string{"unreadable": "maybe"}, false},
	} {
		u, err := url.Parse(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenURI(t.Context(), u, c.options); (err == nil) != c.ok || err != nil && !errors.Is(err, errs.Invalid) {
			t.Errorf("%s %v: got %v", c.uri, c.options, err)
		}
	}
	s, _ := Open(Options{Root: "HTTP://127.0.0.1:80/a b"})
	if got := s.Features().Root; got != "http:localhost/a b/" {
		t.Errorf("the root is %q", got)
	}
}
