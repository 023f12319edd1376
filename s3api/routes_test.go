package s3api

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// example returns a path and a query that a row is there for; tests of the whole server walk the table with it.
func (r route) example() (path, query string) {
	path = [...]string{"/", "/b-1", "/b-1/k"}[r.on]
	var q []string
	for one := range strings.SplitSeq(r.query, "&") {
		if one != "" && !strings.Contains(one, "=") {
			one += "=1"
		}
		q = append(q, one)
	}
	return path, strings.Join(q, "&")
}

// Rows lists every row for the tests of package s3api_test: op, method, path with query, header.
func Rows() (rows [][4]string) {
	for _, r := range routes() {
		path, query := r.example()
		if query != "" {
			path += "?" + query
		}
		rows = append(rows, [4]string{r.op, r.method, path, r.header})
	}
	return rows
}

// look finds the row of a request that is all there is to it.
func (rt *router) look(method string, on resource, q url.Values, h http.Header) (*route, error) {
	return rt.find(&http.Request{Method: method, Header: h, Form: q, URL: &url.URL{Path: "/"}}, on)
}

func TestEveryRowIsReachable(t *testing.T) {
	rt := newRouter(routes())
	seen := map[string]bool{}
	for _, row := range routes() {
		if seen[row.op] {
			t.Errorf("%s has two rows", row.op)
		}
		seen[row.op] = true
		_, query := row.example()
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{}
		if row.header != "" {
			h.Set(row.header, "x")
		}
		got, err := rt.look(row.method, row.on, q, h)
		if err != nil || got.op != row.op {
			t.Errorf("%s is shadowed: %v, %v", row.op, got, err)
		}
	}
}

func TestSelectorsNeverFallThrough(t *testing.T) {
	rt := newRouter(routes())
	for _, c := range []struct {
		method string
		on     resource
		query  string
	}{
		{"DELETE", bucket, "acl"}, {"DELETE", object, "acl"}, {"DELETE", bucket, "versioning"}, {"PUT", object, "uploadId=1"},
		{"PUT", bucket, "location"}, {"PUT", object, "attributes"}, {"GET", bucket, "delete"}, {"PATCH", object, ""},
		{"POST", object, ""}, {"PUT", service, ""},
	} {
		q, _ := url.ParseQuery(c.query)
		if row, err := rt.look(c.method, c.on, q, nil); err == nil {
			t.Errorf("%s %v ?%s reaches %s", c.method, c.on, c.query, row.op)
		}
	}
	if row, err := rt.look("GET", bucket, url.Values{"list-type": {"1"}}, nil); err != nil || row.op != "ListObjects" {
		t.Errorf("list-type=1: %v, %v", row, err)
	}
	if row, err := rt.look("PUT", object, url.Values{"x-id": {"PutObject"}}, nil); err != nil || row.op != "PutObject" {
		t.Errorf("x-id: %v, %v", row, err)
	}
}

func TestEveryKindMaps(t *testing.T) {
	for _, k := range errs.Kinds() {
		for _, on := range []resource{service, bucket, object, upload} {
			e := toAPI(on, errs.E("test", "name", k, nil))
			if k == errs.Other {
				e = toAPI(on, errs.New("test", "", k, "x"))
			}
			if e.Code == "" || e.Status < 400 || e.Message == "" {
				t.Errorf("%v of %v = %+v", k, on, e)
			}
		}
		if _, ok := byKind[k]; !ok {
			t.Errorf("no row for %v", k)
		}
	}
}

func TestOutageIsNeverNotFound(t *testing.T) {
	err := errs.E("meta", "k", errs.Unavailable, errs.E("store", "k", errs.NotExist, nil))
	if e := toAPI(object, err); e.Status != 503 {
		t.Errorf("status = %d, want 503", e.Status)
	}
	if e := toAPI(object, errs.E("store", "/srv/secret-path", errs.Unavailable, &url.Error{Op: "Get", URL: "http://10.0.0.1", Err: http.ErrHandlerTimeout})); strings.Contains(e.Message, "10.0.0.1") {
		t.Errorf("message tells of the inside: %s", e.Message)
	}
	away := errs.E("page.Read", "f", errs.Unavailable, core.NotGiven("/lake/f", []string{"w1", "w2"}, errors.New("dial tcp 10.0.0.1: refused")))
	if e := toAPI(object, away); e.Status != 503 || !strings.Contains(e.Message, "(w1, w2) do not give them") || strings.Contains(e.Message, "10.0.0.1") {
		t.Errorf("of workers that are away: %d %s", e.Status, e.Message)
	}
	for made, want := range map[bool]string{false: "cannot be reached. Please", true: "cannot be reached; the change may have taken place. Please"} {
		alone := errs.E("test.Put", "k", errs.Unavailable, core.NoMaster(made, errors.New("dial tcp 10.0.0.1: refused")))
		if e := toAPI(object, alone); e.Status != 503 || !strings.Contains(e.Message, "no master answers: ") || !strings.Contains(e.Message, want) || strings.Contains(e.Message, "10.0.0.1") {
			t.Errorf("of masters that are away: %d %s", e.Status, e.Message)
		}
	}
	silent := fmt.Errorf("%w: %w", core.StoreAway("/lake/", errors.New("the store of the mount /lake has not answered")), errors.New("dial tcp 10.0.0.1: refused"))
	if e := toAPI(object, errs.E("remote.Stat", "f", errs.Unavailable, silent)); e.Status != 503 || !strings.HasSuffix(e.Message, ": the store of the mount /lake has not answered.") {
		t.Errorf("of a store that does not answer: %d %s", e.Status, e.Message)
	}
}

func TestRefusalsNameTheMount(t *testing.T) {
	p, _ := core.ParsePath("/lake/secret-name")
	m, _ := core.ParsePath("/lake/")
	for access, want := range map[core.Access]string{core.AccessNone: "Access Denied: the mount /lake is noAccess.", core.AccessRead: "Access Denied: the mount /lake is read-only."} {
		if e := toAPI(object, errs.E("remote.Put", "x", errs.Permission, core.AccessRefused(p, m, access))); e.Status != 403 || e.Message != want {
			t.Errorf("of a mount that is %s: %d %s", access, e.Status, e.Message)
		}
	}
	if e := toAPI(object, errs.New("", "", errs.Permission, "Permission denied: user=ann, inode=/x:bob")); e.Message != "Access Denied." {
		t.Errorf("of a name without the right: %s", e.Message)
	}
}

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		host, uri   string
		bucket, key string
		ok          bool
	}{
		{"h", "/", "", "", true},
		{"h", "/b", "b", "", true},
		{"h", "/b/", "b", "", true},
		{"h", "/b//", "b", "/", true},
		{"h", "/b//a//./../x%2Fy%20+", "b", "/a//./../x/y +", true},
		{"h", "/b/k%3fq?acl", "b", "k?q", true},
		{"h", "http://h/b/k", "b", "k", true},
		{"b.s3.test", "/k/l", "b", "k/l", true},
		{"B.x.S3.TEST:9000", "/", "b.x", "", true},
		{"s3.test", "/b/k", "b", "k", true},
		{"xs3.test", "/b/k", "b", "k", true},
		{"h", "/b/%zz", "", "", false},
		{"h", "//k", "", "", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host, r.RequestURI = c.host, c.uri
		got, err := parseTarget(r, "s3.test")
		if (err == nil) != c.ok || c.ok && (got.bucket != c.bucket || got.key != c.key) {
			t.Errorf("%s %s = %q %q, %v", c.host, c.uri, got.bucket, got.key, err)
		}
	}
}

func TestValidBucket(t *testing.T) {
	for _, good := range []string{"abc", "a.b-c", "1-2", strings.Repeat("a", 63), "192.168.1.x"} {
		if !validBucket(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{"", "ab", strings.Repeat("a", 64), "Abc", "a_b", "-ab", "ab-", ".ab", "ab.", "a..b", "192.168.1.1", "xn--ab", "ab-s3alias", "..", "a/b"} {
		if validBucket(bad) {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestParseXML(t *testing.T) {
	for _, bad := range []string{
		"", " ", "x", "<a>", "<a/><a/>", "<a/>x", "<b/>", `<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>`, "<a>&e;</a>", "<a/><?pi x?>",
		"<a xmlns='http://other/'/>", "\uFEFF<a/>", `<?xml version="1.0" encoding="UTF-16"?><a/>`,
		strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100), "<a>x<b/></a", "<a>" + strings.Repeat("x", maxText+1) + "</a>",
		"<a>x<b/></a>", "<a>" + strings.Repeat("<b/>", 10) + "</a>", "<a" + strings.Repeat(" b='c'", maxToken/6) + "/>",
	} {
		if e, err := parseXML([]byte(bad), 10, "a"); err == nil {
			t.Errorf("%.40q = %+v", bad, e)
		}
	}
	for _, good := range []string{"<a/>", "<a>" + strings.Repeat("<b/>", 9) + "</a>", "<a><b>" + strings.Repeat("&#120;", maxText/2) + "</b></a>", `<?xml version="1.0" encoding="UTF-8"?>` + "\n<a xmlns='" + xmlNamespace + "'> <b>x</b> </a>\n"} {
		if _, err := parseXML([]byte(good), 10, "a"); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

// TestDocumentsCostLittle parses the documents of the largest size that would make the most of it.
func TestDocumentsCostLittle(t *testing.T) {
	fill := func(head, one, tail string) []byte {
		return []byte(head + strings.Repeat(one, (maxDocument-len(head)-len(tail))/len(one)) + tail)
	}
	for name, doc := range map[string][]byte{
		"elements":       fill("<Delete>", "<a/>", "</Delete>"),
		"objects":        fill("<Delete>", "<Object><Key>k</Key></Object>", "</Delete>"),
		"attributes":     fill("<Delete ", "a='' ", "/>"),
		"pieces of text": fill("<Delete><Object><Key>", "x<!---->", "</Key></Object></Delete>"),
		"parts":          fill("<CompleteMultipartUpload>", "<a/>", "</CompleteMultipartUpload>"),
	} {
		parse := func() error { _, _, err := parseDelete(doc); return err }
		if name == "parts" {
			parse = func() error { _, err := parseComplete(doc); return err }
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := parse()
		runtime.ReadMemStats(&after)
		if cost := after.TotalAlloc - before.TotalAlloc; err == nil || cost > 16<<20 {
			t.Errorf("%s: %d bytes for one of %d, %v", name, cost, len(doc), err)
		} else {
			t.Logf("%s: %d KiB", name, cost>>10)
		}
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{"plain ä/": "plain ä/", "<&>\"": "&lt;&amp;&gt;&quot;", "a\x01\n\r\tb": "a&#x1;&#xa;&#xd;&#x9;b", "\xff": "\uFFFD", "\uFFFE": "&#xfffe;"} {
		if got := string(appendEscaped(nil, in)); got != want {
			t.Errorf("appendEscaped(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"a/b-c_d.e~f*": "a/b-c_d.e~f*", "a b+ä\x01": "a%20b%2B%C3%A4%01"} {
		if got := urlEncode(in); got != want {
			t.Errorf("urlEncode(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestMaxAge(t *testing.T) {
	for in, want := range map[string]int64{"no-cache": 0, "max-age=5": 5, "Max-Age=7, x": 7, "only-if-cached": -1} {
		if a, ok := maxAge([]string{in}); !ok || a.Seconds != want {
			t.Errorf("%q = %+v, %v", in, a, ok)
		}
	}
	if _, ok := maxAge([]string{"no-store, max-age=x"}); ok {
		t.Error("nonsense is a freshness")
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"bytes=0-1", "bytes=-5", "bytes=9-", "bytes=-0", "bytes=99999999999999999999-", "bytes=1-2,3-4", "x"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, s string, size int64) {
		rng, ok := parseRange(s)
		if !ok || size < 0 {
			return
		}
		sel := selection{rng: rng, partial: true}
		if off, n, ok := sel.clamp(size); ok && (off < 0 || n < 1 || off+n > size) {
			t.Errorf("%q of %d = %d+%d", s, size, off, n)
		}
	})
}

func FuzzParseCopySource(f *testing.F) {
	for _, s := range []string{"b/k", "/b/k%2F", "b/k?versionId=null", "b", "%zz", "b/../k"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := parseCopySource(s); err == nil && (c.bucket == "" || c.key == "" || strings.Contains(c.bucket, "/")) {
			t.Errorf("%q = %+v", s, c)
		}
	})
}

func FuzzParseXML(f *testing.F) {
	f.Add([]byte("<Delete><Object><Key>k</Key></Object><Quiet>true</Quiet></Delete>"))
	f.Add([]byte("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>e</ETag></Part></CompleteMultipartUpload>"))
	f.Add([]byte("<!DOCTYPE x><x/>"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		if keys, _, err := parseDelete(doc); err == nil && (len(keys) == 0 || len(keys) > maxDelete) {
			t.Errorf("%d keys", len(keys))
		}
		if parts, err := parseComplete(doc); err == nil {
			for i, p := range parts {
				if i > 0 && parts[i-1].Number >= p.Number {
					t.Error("parts do not ascend")
				}
			}
		}
	})
}

func FuzzParseTarget(f *testing.F) {
	f.Add("h", "/b/k?acl")
	f.Add("b.s3.test", "http://b.s3.test/%2e%2e")
	f.Fuzz(func(t *testing.T, host, uri string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host, r.RequestURI = host, uri
		if got, err := parseTarget(r, "s3.test"); err == nil && got.on == object && (got.bucket == "" || got.key == "") {
			t.Errorf("%q %q = %+v", host, uri, got)
		}
	})
}

func FuzzQuery(f *testing.F) {
	f.Add("uploadId=1&partNumber=2")
	f.Add("acl&policy")
	rt := newRouter(routes())
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		for _, m := range []string{"GET", "PUT", "POST", "DELETE", "HEAD"} {
			for on := service; on <= object; on++ {
				if row, err := rt.look(m, on, q, nil); (row == nil) == (err == nil) {
					t.Errorf("%s ?%s = %v, %v", m, query, row, err)
				}
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add("b", "key")
	f.Fuzz(func(t *testing.T, bucket, key string) {
		if got, err := openToken(bucket, sealToken(bucket, key)); err != nil || got != key {
			t.Errorf("%q = %q, %v", key, got, err)
		}
		if _, err := openToken(bucket, key); err == nil && key != "" && len(key) < 6 {
			t.Errorf("forged token %q is accepted", key)
		}
	})
}
