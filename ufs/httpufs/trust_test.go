package httpufs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// dated shows times as a server does that is at the time date, and whose file was modified before it by age.
func dated(h http.Header, date time.Time, age time.Duration) {
	h.Set("Date", date.UTC().Format(http.TimeFormat))
	h.Set("Last-Modified", date.Add(-age).UTC().Format(http.TimeFormat))
}

// TestRefusedRange checks that a 416 about bytes that the file has is no empty read.
func TestRefusedRange(t *testing.T) {
	s := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Length", "6")
	})
	in, err := s.Stat(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]int64{{3, 2}, {0, -1}, {5, 100}} {
		for _, version := range []string{in.Version, ""} {
			_, err := read(t, s, "a", c[0], c[1], version)
			wantKind(t, fmt.Sprint(c), err, errs.Unavailable)
		}
	}
	if got, err := read(t, s, "a", 6, 2, in.Version); got != "" || err != nil {
		t.Errorf("at the end: got %q, %v", got, err)
	}
	_, err = read(t, s, "a", 7, 2, in.Version)
	wantKind(t, "beyond the end", err, errs.Range)
}

// TestAnswerIsPinned checks that a read of which a manifest tells less than the server stays with what the server told.
func TestAnswerIsPinned(t *testing.T) {
	const half = 1 << 19
	tag, letter := `"1"`, "a"
	changed := make(chan bool)
	goOn := sync.OnceFunc(func() { close(changed) })
	defer goOn()
	s := serve(t, Options{Manifest: "m"}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/pub/m" {
			_, _ = fmt.Fprintf(w, `[{"path":"f","size":%d,"mtime":1700000000}]`, 2*half)
			return
		}
		w.Header().Set("ETag", tag)
		w.Header().Set("Last-Modified", time.Unix(1700000000, 0).UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", fmt.Sprint(2*half))
		if r.Method == http.MethodHead {
			return
		}
		_, _ = io.WriteString(w, strings.Repeat(letter, half))
		_ = http.NewResponseController(w).Flush()
		<-changed
		_, _ = io.WriteString(w, strings.Repeat(letter, half))
	})
	in, err := s.Stat(t.Context(), "f")
	if err != nil || !in.Full {
		t.Fatalf("got %+v, %v, want what is known to be all there is", in, err)
	}
	r, err := s.Open(t.Context(), "f", 0, -1, in.Version)
	if err != nil {
		t.Fatal(err)
	}
	tag, letter = `"2"`, "b"
	goOn()
	b, err := io.ReadAll(r)
	wantKind(t, fmt.Sprintf("%d a and %d b", strings.Count(string(b), "a"), strings.Count(string(b), "b")), err, errs.Precondition)
	_ = r.Close()
}

// TestFreshVersions checks that a file which may change again within the second of its Last-Modified, by the server's clock,
// has a version that no other look at it has, and which still can be read.
func TestFreshVersions(t *testing.T) {
	now, age, date := time.Unix(1_000_000_000, 0), time.Second, true // nobody else's clock
	s := serve(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"3b9aca00-6"`) // as nginx makes it: of time and size
		dated(w.Header(), now, age)
		if !date {
			w.Header()["Date"] = nil
		}
		w.Header().Set("Content-Length", "6")
		_, _ = io.WriteString(w, "abcdef")
	})
	stat := func() ufs.Info {
		t.Helper()
		in, err := s.Stat(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	for _, fresh := range []func(){func() {}, func() { age = -time.Hour }, func() { age, date = time.Hour, false }} {
		fresh()
		one, two := stat(), stat()
		if one.Version == two.Version || !one.Racy {
			t.Errorf("age %v: two looks had the versions %q and %q, racy %v", age, one.Version, two.Version, one.Racy)
		}
		if got, err := read(t, s, "a", 0, -1, one.Version); got != "abcdef" || err != nil {
			t.Errorf("read of a version for once: got %q, %v", got, err)
		}
	}
	date, age = true, 2*time.Second
	one, two := stat(), stat()
	if one.Version != two.Version || one.Racy {
		t.Errorf("two looks at an old file had the versions %q and %q", one.Version, two.Version)
	}
	age = time.Second // another server's clock
	now = now.Add(-time.Second)
	_, err := read(t, s, "a", 0, -1, one.Version)
	wantKind(t, "a version to last, of what may change again", err, errs.Unavailable)
}

// TestFreshManifestFacts checks that a manifest's times are not believed about files that were modified just before it.
func TestFreshManifestFacts(t *testing.T) {
	now, asked := time.Unix(1_700_000_001, 0), 0
	s := serve(t, Options{Manifest: "m"}, func(w http.ResponseWriter, r *http.Request) {
		dated(w.Header(), now, now.Sub(time.Unix(1_700_000_000, 0)))
		if r.URL.Path == "/pub/m" {
			_, _ = io.WriteString(w, `[{"path":"f","size":6,"mtime":1700000000}]`)
			return
		}
		if asked++; r.Method == http.MethodGet {
			_, _ = io.WriteString(w, "abcdef")
		}
		w.Header().Set("Content-Length", "6")
	})
	one, err := s.Stat(t.Context(), "f")
	if err != nil || !one.Racy || asked == 0 {
		t.Fatalf("got %+v, %v after %d requests for the file", one, err, asked)
	}
	for _, version := range []string{one.Version, ""} {
		if got, err := read(t, s, "f", 0, -1, version); got != "abcdef" || err != nil {
			t.Errorf("read of a fresh file: got %q, %v", got, err)
		}
	}
	now, asked = now.Add(time.Second), 0
	if two, err := s.Stat(t.Context(), "f"); err != nil || two.Racy || asked != 0 {
		t.Errorf("got %+v, %v after %d requests for the file", two, err, asked)
	}
	if got, err := read(t, s, "f", 0, -1, one.Version); got != "abcdef" || err != nil {
		t.Errorf("read of what was fresh: got %q, %v", got, err)
	}
}

// TestFreshManifest checks that a manifest which was replaced within the second of its Last-Modified is seen.
func TestFreshManifest(t *testing.T) {
	now, text := time.Unix(1_000_000_000, 0), `["a/x"]`
	modified := now
	s := serve(t, Options{Manifest: "m"}, func(w http.ResponseWriter, r *http.Request) {
		dated(w.Header(), now, 0)
		w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, modified.Unix(), len(text))) // as nginx
		http.ServeContent(w, r, "", modified, strings.NewReader(text))
	})
	if _, err := s.Stat(t.Context(), "a/"); err != nil {
		t.Fatal(err)
	}
	text, now = `["b/x"]`, now.Add(10*time.Second)
	if _, err := s.Stat(t.Context(), "b/"); err != nil {
		t.Errorf("after a change in the same second: %v", err)
	}
}

// TestWeakTag checks that a weak ETag alone is no version.
func TestWeakTag(t *testing.T) {
	s := serve(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `W/"1"`)
		w.Header().Set("Content-Length", "6")
		_, _ = io.WriteString(w, "abcdef")
	})
	_, err := s.Stat(t.Context(), "a")
	wantKind(t, "stat", err, errs.Unsupported)
	_, err = read(t, s, "a", 0, -1, "")
	wantKind(t, "read", err, errs.Unsupported)
	if (facts{etag: `W/"1"`, size: 6}).certain() || !(facts{etag: `W/"1"`, modified: 1, size: 6}).certain() {
		t.Error("a weak ETag counts, or spoils a time")
	}
}

// TestTreeGone checks that nothing is taken for gone once the server has lost all of the tree, however late it was seen whole.
func TestTreeGone(t *testing.T) {
	gone := false
	s := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if gone || r.URL.Path != "/pub/" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, "<title>Index of /pub/</title><a href=a>a</a></html>")
	})
	_, err := s.Stat(t.Context(), "nosuch")
	wantKind(t, "a name that is not there", err, errs.NotExist)
	gone = true
	_, err = list(t, s, "d/")
	wantKind(t, "list", err, errs.Unavailable)
	_, err = list(t, s, "")
	wantKind(t, "list of the root", err, errs.Unavailable)
	_, err = s.Stat(t.Context(), "a")
	wantKind(t, "stat", err, errs.Unavailable)
	_, err = s.Stat(t.Context(), "d/")
	wantKind(t, "stat of a directory", err, errs.Unavailable)
	_, err = s.Open(t.Context(), "a", 0, -1, "")
	wantKind(t, "open", err, errs.Unavailable)
	wantKind(t, "probe", s.Probe(t.Context(), false), errs.Unavailable)
}

// TestRootIsAskedTogether checks that the absences of one listing do not each ask for the root.
func TestRootIsAskedTogether(t *testing.T) {
	roots, page := make(chan bool, 1000), "<title>Index of /pub/</title>"
	for i := range 64 {
		page += fmt.Sprintf("<a href=f%d>", i)
	}
	s := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/pub/":
			w.WriteHeader(http.StatusNotFound)
		case r.Method == http.MethodHead:
			roots <- true
		default:
			_, _ = io.WriteString(w, page+"</html>")
		}
	})
	if names, err := list(t, s, ""); err != nil || len(names) != 0 {
		t.Fatalf("got %q, %v", names, err)
	}
	if n := len(roots); n == 0 || n > 64 {
		t.Errorf("the root was asked for %d times for 64 names, %d at once", n, parallel)
	}
}

// TestManifestDecides checks that a file is not gone which the manifest names, and that one is which it no longer names.
func TestManifestDecides(t *testing.T) {
	var mu sync.Mutex // several are asked for at once
	text := `["a","b","d/c"]`
	s := serve(t, Options{Manifest: "files.json"}, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/pub/files.json" {
			_, _ = io.WriteString(w, text)
			return
		}
		text = strings.ReplaceAll(text, `"b",`, "") // it is taken out while files are asked for
		w.WriteHeader(http.StatusNotFound)
	})
	for what, err := range map[string]error{
		"list":  func() error { _, err := list(t, s, ""); return err }(),
		"stat":  func() error { _, err := s.Stat(t.Context(), "a"); return err }(),
		"open":  func() error { _, err := s.Open(t.Context(), "a", 0, -1, ""); return err }(),
		"probe": s.Probe(t.Context(), false),
	} {
		wantKind(t, what, err, errs.Unavailable)
	}
	mu.Lock()
	text = `["b","c/d"]`
	mu.Unlock()
	if names, err := list(t, s, ""); err != nil || !slices.Equal(names, []string{"c/"}) {
		t.Errorf("got %q, %v", names, err)
	}
}

// TestTextIsNoManifest checks that words of a server are not taken for a manifest.
func TestTextIsNoManifest(t *testing.T) {
	text, kind := "", ""
	handle := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/pub/files.") {
			w.Header().Set("Content-Type", kind)
			_, _ = io.WriteString(w, text)
			return
		}
		if r.URL.Path != "/pub/a" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Content-Length", "1")
	}
	for _, c := range []struct {
		name, text, kind string
		ok               bool
	}{
		{"files.json", "Service Unavailable\n", "text/plain", false}, {"files.JSON", "a\n", "text/plain", false}, {"files.txt", "a\n", "application/json; charset=utf-8", false},
		{"files.txt", "Service Unavailable\n", "text/plain", false}, {"files.txt", "# Service Unavailable\n", "text/plain", false},
		{"files.txt", "a\nz\n", "text/plain", true}, {"files.txt", "0\na\n", "text/plain", true}, {"files.txt", "0\nz\n", "text/plain", false},
		{"files.json", `["a"]`, "text/plain", true},
	} {
		text, kind = c.text, c.kind
		s := serve(t, Options{Manifest: c.name}, handle)
		_, err := s.Stat(t.Context(), "a")
		if c.ok && err != nil || !c.ok && !errors.Is(err, errs.Unavailable) {
			t.Errorf("%s, %q, %s: got %v", c.name, c.text, c.kind, err)
		}
	}
	s := serve(t, Options{Manifest: "files.txt"}, handle)
	text, kind = `["a","b"]`, "text/plain"
	if _, err := s.Stat(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	text = "a\n"
	_, err := s.Stat(t.Context(), "b")
	wantKind(t, "text where JSON was", err, errs.Unavailable)
}

// TestManifestOfUnknownLength checks that a text which ends with its connection is no manifest.
func TestManifestOfUnknownLength(t *testing.T) {
	header := ""
	s := serve(t, Options{Manifest: "m"}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/pub/m" {
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Content-Length", "1")
			return
		}
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, header+"\r\na\nb\n") // a third line never came
		_ = c.Close()
	})
	for _, c := range []struct {
		header string
		ok     bool
	}{
		{"HTTP/1.0 200 OK\r\n", false}, {"HTTP/1.1 200 OK\r\nConnection: close\r\n", false}, {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n", false},
		{"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n", true},
	} {
		header = c.header
		names, err := list(t, s, "")
		if c.ok && err != nil || !c.ok && !errors.Is(err, errs.Unavailable) {
			t.Errorf("%q: got %q, %v", c.header, names, err)
		}
	}
}

// TestHostileSizes checks what pages and manifests cost that are made to be dear: a page of tags that never end takes time in
// proportion to its length, and a manifest that is wrong, or has too many files, is not decoded first.
func TestHostileSizes(t *testing.T) {
	at, _ := url.Parse("http://h/pub/")
	for _, filler := range []string{"<", "<a ", "<a href=", "<a href=\"", "<!--", "<script>", "</", "<x"} {
		took := func(n int) time.Duration {
			page := []byte("<title>Index of /</title><a href=a>" + strings.Repeat(filler, n/len(filler)) + "</html>")
			began := time.Now()
			_, _ = parseIndex(page, at)
			return time.Since(began)
		}
		if short, long := took(16<<10), took(256<<10); long > 64*short+time.Second {
			t.Errorf("%q: 16 KiB took %v and 256 KiB %v", filler, short, long)
		}
	}
	f := ufs.Features{MaxName: maxName, MaxKey: maxKey}
	for _, text := range []string{strings.Repeat("\n", 16<<20) + "a\n", "[" + strings.Repeat("{},", 16<<20/3) + "{}]", `["a"` + strings.Repeat(`,"a/"`, 16<<20/5) + "]"} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = parseManifest(f, []byte(text), false)
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) >> 20; got > 20 { // 16 of them are the text's copy
			t.Errorf("%.10q: 16 MiB made %d MiB", text, got)
		}
	}
	b := &builder{features: f, files: make([]named, maxFiles)}
	if err := b.add(entry{Path: "a"}); err == nil {
		t.Error("a manifest may have too many files")
	}
}

// TestCheckHasDeadline checks that the look at a file after a read has the deadline of every call.
func TestCheckHasDeadline(t *testing.T) {
	silent, over := false, make(chan bool)
	s := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Content-Length", "6")
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(w, "abcdef")
		} else if silent {
			<-over
		}
	})
	defer close(over)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := wrap.Timeout(s, 200*time.Millisecond, time.Second).Open(ctx, "a", 0, -1, "")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // read only
	silent = true
	if _, err := io.ReadFull(r, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "check", r.(ufs.Checker).Check(), errs.Unavailable)
	if ctx.Err() != nil {
		t.Error("it ended with the caller's patience")
	}
}

// TestSkippingHasNoDeadline checks that what a server without ranges sends before the wanted bytes may take longer than one
// call.
func TestSkippingHasNoDeadline(t *testing.T) {
	const pause, pieces = 20 * time.Millisecond, 75
	s := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Content-Length", fmt.Sprint(10*pieces))
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for i := range pieces {
			if r.Method == http.MethodHead {
				return
			}
			_, _ = fmt.Fprintf(w, "%10d", i)
			_ = http.NewResponseController(w).Flush()
			<-tick.C
		}
	})
	r, err := wrap.Timeout(s, pause*pieces/2, time.Minute).Open(t.Context(), "a", 10*(pieces-1), 10, "")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // read only
	if b, err := io.ReadAll(r); err != nil || string(b) != fmt.Sprintf("%10d", pieces-1) {
		t.Errorf("got %q, %v", b, err)
	}
	short := serve(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "abc")
	})
	_, err = read(t, short, "a", 900, 10, "")
	wantKind(t, "a body that ends before the wanted bytes", err, errs.Unavailable)
}

// TestOddNames checks what an index page names and the store cannot show.
func TestOddNames(t *testing.T) {
	links := ""
	handle := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		switch {
		case strings.HasSuffix(r.URL.Path, "/"):
			_, _ = io.WriteString(w, "<title>Index of /pub/</title><a href=../>"+links+"</html>")
		case strings.HasSuffix(r.URL.Path, "secret"):
			w.WriteHeader(http.StatusForbidden)
		case strings.HasSuffix(r.URL.Path, "weak"):
			w.Header().Set("ETag", `W/"1"`)
			w.Header().Set("Content-Length", "1")
		case strings.HasSuffix(r.URL.Path, "locked"):
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasSuffix(r.URL.Path, "broken"):
			w.WriteHeader(http.StatusInternalServerError)
		default:
			w.Header().Set("Content-Length", "1")
		}
	}
	plain, skips := serve(t, Options{}, handle), serve(t, Options{SkipUnreadable: true}, handle)
	for _, c := range []struct {
		links      string
		kind       errs.Kind // of the listing; with skips there is none if names are given
		names      string
		mount      bool
		mountSkips bool
	}{
		{"<a href=a><a href=a/>", errs.Unsupported, "", false, false},
		{"<a href=a><a href=secret>", errs.Permission, "a", true, true},
		{"<a href=secret><a href=secret/x><a href=other-secret>", errs.Permission, "", false, true},
		{"<a href=a><a href=weak>", errs.Unsupported, "a", true, true},
		{"<a href=a><a href=locked>", errs.Permission, "-", true, true},
		{"<a href=a><a href=broken>", errs.Unavailable, "-", true, true},
		{"<a href=broken><a href=c>", errs.Unavailable, "-", false, false},
	} {
		links = c.links
		_, err := list(t, plain, "")
		wantKind(t, links, err, c.kind)
		if err := plain.Probe(t.Context(), false); (err == nil) != c.mount {
			t.Errorf("%s: a mount of it: %v", links, err)
		}
		names, err := list(t, skips, "")
		if fails := !c.mountSkips || c.names == "-"; fails != (err != nil) || !fails && strings.Join(names, " ") != c.names {
			t.Errorf("%s, unreadable files skipped: got %q, %v", links, names, err)
		}
		if err := skips.Probe(t.Context(), false); (err == nil) != c.mountSkips {
			t.Errorf("%s: a mount of it that skips: %v", links, err)
		}
	}
	links = "<a href=x/><a href=y>"
	deep := strings.Repeat("d/", maxDepth-1)
	if names, err := list(t, plain, deep); err != nil || len(names) != 2 {
		t.Errorf("at the greatest depth: got %q, %v", names, err)
	}
	if names, err := list(t, plain, deep+"d/"); err != nil || len(names) != 0 {
		t.Errorf("below the greatest depth: got %q, %v", names, err)
	}
}
