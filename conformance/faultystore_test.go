package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// faultyProxy stands between Sluice and a store that speaks HTTP, and does to its answers what a test says.
type faultyProxy struct {
	URL     string
	backend string // host:port
	rt      *http.Transport

	mu    sync.Mutex
	fault *ailment

	hits atomic.Int64
	all  atomic.Int64
}

// ailment is what goes wrong with the requests that it fits.
type ailment struct {
	fits func(r *http.Request) bool
	// do answers in the store's stead. Every call of pass has the store carry out the request.
	do    func(w http.ResponseWriter, r *http.Request, pass func() *stored)
	first int64         // goes wrong only with so many requests that fit; 0: with all
	ended chan struct{} // closed by heal

	seen atomic.Int64
}

// stored is a store's whole answer.
type stored struct {
	status int
	header http.Header
	body   []byte
}

// newFaultyProxy starts a proxy in front of the store at the URL.
func newFaultyProxy(t testing.TB, store string) *faultyProxy {
	t.Helper()
	u, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	p := &faultyProxy{backend: u.Host, rt: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}}
	s := httptest.NewServer(p)
	p.URL = s.URL
	t.Cleanup(func() { p.heal(); s.CloseClientConnections(); s.Close(); p.rt.CloseIdleConnections() })
	return p
}

// breaks has requests go wrong from now on.
func (p *faultyProxy) breaks(f *ailment) {
	p.heal()
	f.ended = make(chan struct{})
	p.hits.Store(0)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// struck fails the test if nothing has gone wrong since breaks.
func (p *faultyProxy) struck(t testing.TB) {
	t.Helper()
	if p.hits.Load() == 0 {
		t.Error("nothing went wrong")
	}
}

// heal ends the fault. Requests that hang in it are cut off.
func (p *faultyProxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault != nil {
		close(p.fault.ended)
	}
	p.fault = nil
}

func (p *faultyProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.all.Add(1)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	p.mu.Lock()
	f := p.fault
	p.mu.Unlock()
	pass := func() *stored { return p.pass(r, body) }
	if f != nil && f.fits(r) && (f.first == 0 || f.seen.Add(1) <= f.first) {
		p.hits.Add(1)
		f.do(w, r.WithContext(context.WithValue(r.Context(), endedKey{}, f.ended)), pass)
		return
	}
	pass().send(w)
}

type endedKey struct{}

// pass has the store carry out the request, whoever may have given up meanwhile.
func (p *faultyProxy) pass(r *http.Request, body []byte) *stored {
	out := r.Clone(context.WithoutCancel(r.Context()))
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", p.backend // the Host header stays: it is signed
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if len(body) == 0 {
		out.Body = http.NoBody
	}
	out.Header.Del("Expect")
	resp, err := p.rt.RoundTrip(out)
	if err != nil {
		return &stored{status: http.StatusBadGateway, header: http.Header{}}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return &stored{status: http.StatusBadGateway, header: http.Header{}}
	}
	h := resp.Header.Clone()
	for _, k := range []string{"Connection", "Transfer-Encoding", "Keep-Alive"} {
		h.Del(k)
	}
	if r.Method != http.MethodHead {
		h.Set("Content-Length", strconv.Itoa(len(b)))
	}
	return &stored{resp.StatusCode, h, b}
}

func (s *stored) send(w http.ResponseWriter) {
	for k, v := range s.header {
		w.Header()[k] = v
	}
	w.WriteHeader(s.status)
	w.Write(s.body)
}

// wire sends an answer as it is, byte by byte, and ends the connection.
func wire(w http.ResponseWriter, status int, h http.Header, body []byte, reset bool) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	if status != 0 {
		fmt.Fprintf(buf, "HTTP/1.1 %d Faulty\r\n", status)
		h.Write(buf)
		buf.WriteString("\r\n")
		buf.Write(body)
		buf.Flush()
	}
	if c, ok := conn.(*net.TCPConn); ok && reset {
		c.SetLinger(0)
	}
}

// What goes wrong with an answer.

func says(status int, body string) func(http.ResponseWriter, *http.Request, func() *stored) {
	return func(w http.ResponseWriter, r *http.Request, _ func() *stored) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			io.WriteString(w, body)
		}
	}
}

func s3Error(code string) string {
	return "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>" + code + "</Code><Message>a fault</Message></Error>"
}

func resets(w http.ResponseWriter, _ *http.Request, _ func() *stored) { wire(w, 0, nil, nil, true) }

// hangs takes the request and says nothing until the fault ends or the client gives up.
func hangs(w http.ResponseWriter, r *http.Request, _ func() *stored) {
	ended := r.Context().Value(endedKey{}).(chan struct{})
	select {
	case <-ended:
	case <-r.Context().Done():
	}
	wire(w, 0, nil, nil, true)
}

// altered sends the store's answer after f has changed it.
func altered(f func(r *http.Request, s *stored)) func(http.ResponseWriter, *http.Request, func() *stored) {
	return func(w http.ResponseWriter, r *http.Request, pass func() *stored) {
		s := pass()
		f(r, s)
		s.send(w)
	}
}

// sends sends what f makes of the store's answer, whatever its length says.
func sends(reset bool, f func(s *stored)) func(http.ResponseWriter, *http.Request, func() *stored) {
	return func(w http.ResponseWriter, r *http.Request, pass func() *stored) {
		s := pass()
		f(s)
		s.header.Set("Connection", "keep-alive")
		wire(w, s.status, s.header, s.body, reset)
	}
}

// unheard has the store carry out the request and tells nobody.
func unheard(w http.ResponseWriter, _ *http.Request, pass func() *stored) {
	pass()
	wire(w, 0, nil, nil, true)
}

// other returns as many bytes that are none of the file's.
func other(b []byte) []byte { return bytes.Repeat([]byte("wrong!"), len(b)/6+1)[:len(b)] }

// bodyFaults are what can be wrong with the answer to a GET of a file. Each changes the bytes or the way they come.
func bodyFaults() map[string]func(http.ResponseWriter, *http.Request, func() *stored) {
	return map[string]func(http.ResponseWriter, *http.Request, func() *stored){
		"500":                says(500, s3Error("InternalError")),
		"503":                says(503, s3Error("SlowDown")),
		"429":                says(429, s3Error("TooManyRequests")),
		"502-html":           says(502, "<html><body>Bad gateway</body></html>"),
		"reset":              resets,
		"reset-in-the-body":  sends(true, func(s *stored) { s.body = s.body[:len(s.body)/2] }),
		"closed-in-the-body": sends(false, func(s *stored) { s.body = s.body[:len(s.body)/2] }),
		"body-longer-than-said": sends(false, func(s *stored) {
			s.body = append(bytes.Clone(s.body), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"...)
		}),
		"length-too-small": altered(func(_ *http.Request, s *stored) {
			s.body = s.body[:len(s.body)-len(s.body)/3]
			s.header.Set("Content-Length", strconv.Itoa(len(s.body)))
		}),
		"length-too-large": altered(func(_ *http.Request, s *stored) {
			s.body = append(bytes.Clone(s.body), other(make([]byte, 4096))...)
			s.header.Set("Content-Length", strconv.Itoa(len(s.body)))
		}),
		"chunks-cut": sends(false, func(s *stored) {
			s.header.Del("Content-Length")
			s.header.Set("Transfer-Encoding", "chunked")
			s.body = append(fmt.Appendf(nil, "%x\r\n", len(s.body)), s.body[:len(s.body)/2]...)
		}),
		"chunks-end-early": sends(false, func(s *stored) {
			s.header.Del("Content-Length")
			s.header.Set("Transfer-Encoding", "chunked")
			half := s.body[:len(s.body)/2]
			s.body = append(append(fmt.Appendf(nil, "%x\r\n", len(half)), half...), "\r\n0\r\n\r\n"...)
		}),
		"another-range": altered(func(_ *http.Request, s *stored) {
			s.status, s.body = 206, other(s.body)
			s.header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", 4096, 4095+len(s.body), 4096+len(s.body)))
		}),
		"range-moved-by-one": altered(func(_ *http.Request, s *stored) {
			s.status, s.body = 206, other(s.body)
			s.header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", 1, len(s.body), len(s.body)+1))
		}),
		"empty": altered(func(_ *http.Request, s *stored) {
			s.status, s.body = 200, nil
			s.header.Del("Content-Range")
			s.header.Set("Content-Length", "0")
		}),
		"204": altered(func(_ *http.Request, s *stored) {
			s.status, s.body = 204, nil
			s.header.Del("Content-Length")
		}),
		"416": says(416, s3Error("InvalidRange")),
		"another-etag": altered(func(_ *http.Request, s *stored) {
			s.body = other(s.body)
			s.header.Set("ETag", `"00000000000000000000000000000000"`)
		}),
		"range-ignored": altered(func(r *http.Request, s *stored) {
			if s.status == 206 { // as a server answers that knows no ranges, but with the bytes of nobody
				s.status = 200
				s.header.Del("Content-Range")
			}
		}),
	}
}

// victim is a mount whose store is behind a proxy of its own.
type victim struct {
	*rig
	proxy *faultyProxy
	name  string // of the bucket
	files map[string]content
	also  []int // statuses of both protocols that are right, too: of what the store says for good
}

func (v *victim) path(name string) string { return "/" + v.name + "/" + name }

// heard is what a client got.
type heard struct {
	status int
	header http.Header
	body   []byte
	err    error // the answer did not come to its end
}

func (r *rig) ask(ctx context.Context, q raw) heard {
	resp, err := r.send(ctx, q)
	if err != nil {
		return heard{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return heard{resp.StatusCode, resp.Header, b, err}
}

// clean says what is wrong with an answer that is not a success; "" if it is an error as the protocol has it, of a kind that
// makes clients try again, and not one that says of a name that it is not there.
func (a heard) clean(hdfs, head bool, also ...int) string {
	switch {
	case a.err == nil && a.status >= 400 && slices.Contains(also, a.status):
		return ""
	case a.err != nil && a.status/100 == 2:
		return "" // cut off: no client takes that for the whole
	case a.err != nil:
		return fmt.Sprintf("no answer: %v", a.err)
	case hdfs:
		err := remoteException(a.status, a.body)
		e, ok := errors.AsType[*hdfsError](err)
		if !ok || e.Exception != "RetriableException" && e.Exception != "IOException" {
			return err.Error()
		}
		return ""
	case a.status != 503 && a.status != 500 && a.status != 409:
		return fmt.Sprintf("status %d: %.200q", a.status, a.body)
	case head:
		return ""
	}
	var doc struct{ Code string }
	if err := xml.Unmarshal(a.body, &doc); err != nil || doc.Code == "" {
		return fmt.Sprintf("status %d without an S3 error: %.200q", a.status, a.body)
	}
	return ""
}

// endsWell fails the test unless the answer to a change over S3, which what names, is a success or a clean failure.
func (a heard) endsWell(t testing.TB, what string) {
	t.Helper()
	if a.status/100 == 2 {
		return
	}
	if why := a.clean(false, false); why != "" {
		t.Errorf("%s: %s", what, why)
	}
}

// reads asks for all there is of a file over both protocols. Every answer is right or, if may, a clean error.
func (v *victim) reads(t *testing.T, name string, may bool) {
	t.Helper()
	c := v.files[name]
	off, n := c.size/3, min(c.size/3, 70_000)
	part := c.bytes()[off : off+n]
	p := escapePath(v.path(name))
	for _, x := range []struct {
		what       string
		q          raw
		want       []byte
		hdfs, head bool
	}{
		{"GET", v.request("GET", p, nil), c.bytes(), false, false},
		{"GET of a range", v.request("GET", p, nil, "Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1)), part, false, false},
		{"HEAD", v.request("HEAD", p, nil), nil, false, true},
		{"OPEN", v.webhdfs("GET", p, "OPEN", "", nil), c.bytes(), true, false},
		{"OPEN of a range", v.webhdfs("GET", p, "OPEN", fmt.Sprintf("offset=%d&length=%d", off, n), nil), part, true, false},
		{"GETFILESTATUS", v.webhdfs("GET", p, "GETFILESTATUS", "", nil), nil, true, false},
	} {
		a := v.ask(t.Context(), x.q)
		if a.status == 404 && bytes.Contains(a.body, []byte("another file took its name since it was opened")) {
			a = v.ask(t.Context(), x.q) // what became of a change was found out between the opening and the reading: a clean error, once
		}
		if a.err == nil && a.status/100 == 2 {
			switch {
			case x.want != nil && !bytes.Equal(a.body, x.want):
				t.Errorf("%s of %s: %d wrong bytes, want %d", x.what, name, len(a.body), len(x.want))
			case x.head && a.header.Get("Content-Length") != strconv.FormatInt(c.size, 10):
				t.Errorf("%s of %s: Content-Length %s, want %d", x.what, name, a.header.Get("Content-Length"), c.size)
			case x.what == "GETFILESTATUS" && !bytes.Contains(a.body, fmt.Appendf(nil, `"length":%d,`, c.size)):
				t.Errorf("%s of %s: %s, want length %d", x.what, name, a.body, c.size)
			}
			continue
		}
		if why := a.clean(x.hdfs, x.head, v.also...); why != "" || !may {
			t.Errorf("%s of %s: %d %v %s %.200q", x.what, name, a.status, a.err, why, a.body)
		}
	}
}

// lists returns what a listing over S3 and one over WebHDFS show in the directory, or their errors, which are clean.
func (v *victim) lists(t *testing.T, dir string) (s3Names, hdfsNames []string, err error) {
	t.Helper()
	a := v.ask(t.Context(), v.request("GET", "/"+v.name+"?list-type=2&prefix="+url.QueryEscape(dir), nil))
	if a.err != nil || a.status != 200 {
		if why := a.clean(false, false, v.also...); why != "" {
			t.Errorf("listing of %s: %s", dir, why)
		}
		err = errors.Join(err, fmt.Errorf("S3: %d %v", a.status, a.err))
	} else {
		var doc struct{ Contents []struct{ Key string } }
		if err := xml.Unmarshal(a.body, &doc); err != nil {
			t.Errorf("listing of %s: %v", dir, err)
		}
		s3Names = []string{}
		for _, c := range doc.Contents {
			s3Names = append(s3Names, strings.TrimPrefix(c.Key, dir))
		}
	}
	a = v.ask(t.Context(), v.webhdfs("GET", escapePath(v.path(strings.TrimSuffix(dir, "/"))), "LISTSTATUS", "", nil))
	if a.err != nil || a.status != 200 {
		if why := a.clean(true, false, v.also...); why != "" {
			t.Errorf("LISTSTATUS of %s: %s", dir, why)
		}
		return s3Names, nil, errors.Join(err, fmt.Errorf("WebHDFS: %d %v", a.status, a.err))
	}
	var doc struct {
		FileStatuses struct{ FileStatus []struct{ PathSuffix string } }
	}
	if err := json.Unmarshal(a.body, &doc); err != nil {
		t.Errorf("LISTSTATUS of %s: %v", dir, err)
	}
	hdfsNames = []string{}
	for _, f := range doc.FileStatuses.FileStatus {
		hdfsNames = append(hdfsNames, f.PathSuffix)
	}
	slices.Sort(hdfsNames)
	return s3Names, hdfsNames, err
}

// whole checks, after the fault has ended, that all names and bytes are what they are to be: as they are cached, and as the
// store has them.
func (v *victim) whole(t *testing.T, dir string) {
	t.Helper()
	var want []string
	for name := range v.files {
		if rest, ok := strings.CutPrefix(name, dir); ok {
			want = append(want, rest)
		}
	}
	slices.Sort(want)
	eventually(t, 30*time.Second, func() error {
		a, b, err := v.lists(t, dir)
		if err == nil && (!slices.Equal(a, want) || !slices.Equal(b, want)) {
			err = fmt.Errorf("S3 shows %q, WebHDFS %q, want %q", a, b, want)
		}
		return err
	})
	for _, how := range []string{"first", "cached", "freed"} {
		if how == "freed" {
			if out, errs, code := v.Sluice(t, "cache", "free", "/"+v.name); code != 0 {
				t.Fatalf("cache free: %s%s", out, errs)
			}
		}
		for name := range v.files {
			v.reads(t, name, false)
		}
	}
	if t.Failed() {
		t.Logf("the proxy saw %d requests, %d of them faulty", v.proxy.all.Load(), v.proxy.hits.Load())
	}
}

// beside runs cases beside each other, more of them than the machine has processors: they mostly wait.
type beside struct {
	s    *suite
	g    sync.WaitGroup
	turn chan struct{}
}

func besides(s *suite) *beside { return &beside{s: s, turn: make(chan struct{}, 16)} }

func (b *beside) side(t *testing.T, name string, f func(t *testing.T)) {
	b.g.Go(func() {
		b.turn <- struct{}{}
		defer func() { <-b.turn }()
		b.s.run(t, name, f)
	})
}

func (b *beside) wait() { b.g.Wait() }

// TestFaultyS3 has a real S3 server go wrong behind Sluice in every way that a server or what is before it does: with
// the bytes of a file, with what it says of one, with a listing, with the answer to a change. Each answer of Sluice is right or a
// clean error, and when the fault has ended everything is as it is to be, from the cache and from the store.
func TestFaultyS3(t *testing.T) {
	s := newSuite(t, "faulty-s3")
	store := StartVersitygw(t)
	direct := sdk(store.URL, store.AccessKey, store.SecretKey, &http.Client{Timeout: time.Minute})
	r := newRig(Start(t, Options{}))
	t.Run("all", func(t *testing.T) {
		f := &faultyS3{s, r, store, direct, besides(s)}
		defer f.wait()
		f.bodies(t)
		f.facts(t)
		f.listings(t)
		f.changes(t)
	})
}

type faultyS3 struct {
	*suite
	*rig
	store  *S3Store
	direct *s3.Client
	*beside
}

// victim makes a bucket with the files in the store and mounts it behind a proxy.
func (f *faultyS3) victim(t *testing.T, name string, files ...content) *victim {
	t.Helper()
	name = strings.ToLower(name)
	if _, err := f.direct.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatal(err)
	}
	v := &victim{rig: f.rig, proxy: newFaultyProxy(t, f.store.URL), name: name, files: map[string]content{}}
	for _, c := range files {
		f.put(t, v, c)
	}
	o := f.store.Options()
	f.mount(t, "/"+name, "s3://"+name, "endpoint", v.proxy.URL, "region", o["region"], "access_key", o["access_key"], "secret_key", o["secret_key"], "path_style", "true")
	f.rule(t, "/"+name)
	return v
}

// rule has every access ask the store.
func (f *faultyS3) rule(t *testing.T, path string) { askAlways(t, f.rig, path) }

func askAlways(t *testing.T, r *rig, path string) {
	t.Helper()
	if out, errs, code := r.Sluice(t, "path-rule", "set", path, "sync_interval=0s"); code != 0 {
		t.Fatalf("path-rule: %s%s", out, errs)
	}
}

// put writes a file past Sluice.
func (f *faultyS3) put(t *testing.T, v *victim, c content) {
	t.Helper()
	if _, err := f.direct.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &v.name, Key: &c.name, Body: c.reader(), ContentLength: &c.size}); err != nil {
		t.Fatal(err)
	}
	v.files[c.name] = c
}

func (f *faultyS3) bodies(t *testing.T) {
	faults := bodyFaults()
	faults["hangs"] = hangs
	faults["whole-for-part"] = altered(func(_ *http.Request, s *stored) {
		s.status = 200
		s.header.Del("Content-Range")
	})
	for name, do := range faults {
		f.side(t, "body "+name, func(t *testing.T) {
			small, large := content{"d/small", 1, 60_000}, content{"d/large", 1, 2<<20 + 12345}
			v := f.victim(t, "body-"+name, small, large)
			v.proxy.breaks(&ailment{do: do, fits: func(r *http.Request) bool {
				return r.Method == "GET" && strings.HasPrefix(r.URL.Path, v.path("d/"))
			}})
			if name == "hangs" {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				if a := v.ask(ctx, v.request("GET", v.path("d/small"), nil)); a.err == nil {
					t.Errorf("an answer from a store that hangs: %d %.100q", a.status, a.body)
				}
			} else {
				v.reads(t, "d/small", true)
				v.reads(t, "d/large", true)
			}
			v.proxy.struck(t)
			v.proxy.heal()
			v.whole(t, "d/")
		})
	}
}

// facts are the cases of HEAD: what it says of a file is wrong, or not what GET says.
func (f *faultyS3) facts(t *testing.T) {
	for name, do := range map[string]func(http.ResponseWriter, *http.Request, func() *stored){
		"500": says(500, ""), "503": says(503, ""), "429": says(429, ""), "reset": resets,
		"no-length": altered(func(_ *http.Request, s *stored) {
			s.header.Del("Content-Length")
			s.header.Set("Transfer-Encoding", "chunked")
		}),
		"another-etag": altered(func(_ *http.Request, s *stored) { s.header.Set("ETag", `"11111111111111111111111111111111"`) }),
	} {
		f.side(t, "head "+name, func(t *testing.T) {
			v := f.victim(t, "head-"+name, content{"d/small", 1, 60_000}, content{"d/large", 1, 1<<20 + 1})
			v.proxy.breaks(&ailment{do: do, fits: func(r *http.Request) bool { return r.Method == "HEAD" && strings.HasPrefix(r.URL.Path, v.path("d/")) }})
			v.reads(t, "d/small", true)
			v.reads(t, "d/large", true)
			v.proxy.struck(t)
			v.proxy.heal()
			v.whole(t, "d/")
		})
	}
	f.side(t, "head says that it is gone", func(t *testing.T) {
		v := f.victim(t, "head-404", content{"d/small", 1, 60_000})
		v.whole(t, "d/")
		v.proxy.breaks(&ailment{do: says(404, ""), fits: func(r *http.Request) bool { return r.Method == "HEAD" && strings.HasPrefix(r.URL.Path, v.path("d/")) }})
		for range 3 { // it is the store's word, which the listing contradicts: no reply may be wrong bytes
			if a := v.ask(t.Context(), v.request("GET", v.path("d/small"), nil)); a.status == 200 && !bytes.Equal(a.body, v.files["d/small"].bytes()) {
				t.Error("wrong bytes")
			}
		}
		v.proxy.heal()
		v.whole(t, "d/")
	})
}

// listing is a ListObjectsV2 answer that can be taken apart.
type listing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	Name, Prefix          string
	KeyCount              int
	MaxKeys               int
	Delimiter             string `xml:",omitempty"`
	EncodingType          string `xml:",omitempty"`
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	Contents              []struct {
		Key, LastModified, ETag string
		Size                    int64
		StorageClass            string
	}
	CommonPrefixes []struct{ Prefix string }
}

// relist sends what f makes of a listing.
func relist(f func(token string, l *listing)) func(http.ResponseWriter, *http.Request, func() *stored) {
	return func(w http.ResponseWriter, r *http.Request, pass func() *stored) {
		s := pass()
		var l listing
		if err := xml.Unmarshal(s.body, &l); err != nil { // of a token that the store does not know
			l = listing{Name: "x"}
		}
		f(r.URL.Query().Get("continuation-token"), &l)
		b, _ := xml.Marshal(l)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(200)
		w.Write(b)
	}
}

// half leaves the first half of the names, with a token.
func (l *listing) half(token string) {
	l.Contents = l.Contents[:len(l.Contents)/2]
	l.CommonPrefixes = nil
	l.KeyCount, l.IsTruncated, l.NextContinuationToken = len(l.Contents), true, token
}

func (f *faultyS3) listings(t *testing.T) {
	empty := relist(func(_ string, l *listing) { *l = listing{Name: l.Name, Prefix: l.Prefix, MaxKeys: l.MaxKeys} })
	halfThen := func(then func(http.ResponseWriter, *http.Request, func() *stored)) func(http.ResponseWriter, *http.Request, func() *stored) {
		first := relist(func(_ string, l *listing) { l.half("more") })
		return func(w http.ResponseWriter, r *http.Request, pass func() *stored) {
			if r.URL.Query().Get("continuation-token") != "" {
				then(w, r, pass)
				return
			}
			first(w, r, pass)
		}
	}
	for name, x := range map[string]struct {
		do    func(http.ResponseWriter, *http.Request, func() *stored)
		first int64
	}{
		"500":               {do: says(500, s3Error("InternalError"))},
		"503":               {do: says(503, s3Error("SlowDown"))},
		"reset":             {do: resets},
		"forbidden":         {do: says(403, s3Error("AccessDenied"))},
		"no-bucket":         {do: says(404, s3Error("NoSuchBucket"))},
		"half-then-500":     {do: halfThen(says(500, s3Error("InternalError")))},
		"half-then-reset":   {do: halfThen(resets)},
		"half-then-403":     {do: halfThen(says(403, s3Error("AccessDenied")))},
		"half-then-404":     {do: halfThen(says(404, s3Error("NoSuchKey")))},
		"half-then-nothing": {do: halfThen(says(200, ""))},
		"no-token":          {do: relist(func(_ string, l *listing) { l.half("") })},
		"same-token":        {do: relist(func(_ string, l *listing) { l.half("again") })},
		"two-tokens":        {do: relist(func(token string, l *listing) { l.half(map[string]string{"a": "b"}[token] + "a") })},
		"backwards":         {do: relist(func(_ string, l *listing) { slices.Reverse(l.Contents) })},
		"counted-wrong":     {do: relist(func(_ string, l *listing) { n := l.KeyCount; l.half(""); l.KeyCount, l.IsTruncated = n, false })},
		"XML-cut": {do: altered(func(_ *http.Request, s *stored) {
			s.body = s.body[:len(s.body)/2]
			s.header.Set("Content-Length", strconv.Itoa(len(s.body)))
		})},
		"XML-without-end": {do: altered(func(_ *http.Request, s *stored) {
			s.body = bytes.TrimSuffix(bytes.TrimSpace(s.body), []byte("</ListBucketResult>"))
			s.header.Set("Content-Length", strconv.Itoa(len(s.body)))
		})},
		"body-cut":     {do: sends(false, func(s *stored) { s.body = s.body[:len(s.body)/2] })},
		"no-body":      {do: says(200, "")},
		"a-page":       {do: says(200, "<html><body>It works!</body></html>")},
		"an-error-200": {do: says(200, s3Error("InternalError"))},
		"another-list": {do: says(200, `<ListAllMyBucketsResult><Buckets></Buckets></ListAllMyBucketsResult>`)},
		"empty-once":   {do: empty, first: 1},
	} {
		f.side(t, "list "+name, func(t *testing.T) {
			var all []content
			for i := range 8 {
				all = append(all, content{fmt.Sprintf("d/f%d", i), 1, 20_000})
			}
			v := f.victim(t, "list-"+strings.ToLower(name), all...)
			if strings.Contains(name, "forbidden") || strings.Contains(name, "403") {
				v.also = []int{403}
			}
			v.whole(t, "d/")
			v.proxy.breaks(&ailment{do: x.do, first: x.first, fits: func(r *http.Request) bool {
				return r.Method == "GET" && r.URL.Query().Get("list-type") == "2" && r.URL.Query().Get("max-keys") != "1"
			}})
			want := []string{"f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7"}
			for range 2 {
				a, b, err := v.lists(t, "d/")
				if a != nil && !slices.Equal(a, want) || b != nil && !slices.Equal(b, want) {
					t.Errorf("the listings show %q and %q, %v", a, b, err)
				}
			}
			v.reads(t, "d/f1", true)
			v.reads(t, "d/f6", true)
			v.proxy.struck(t)
			v.proxy.heal()
			v.also = nil
			v.whole(t, "d/")
		})
	}
}

// inStore returns what the store has under a name, nil if nothing.
func (f *faultyS3) inStore(t *testing.T, v *victim, name string) []byte {
	t.Helper()
	o, err := f.direct.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &v.name, Key: &name})
	if _, gone := errors.AsType[*types.NoSuchKey](err); gone {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	b, err := io.ReadAll(o.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// one returns which of the contents, counted from 1, a GET shows; 0 if none is there.
func (v *victim) one(t *testing.T, name string, of ...content) int {
	t.Helper()
	got := -1
	eventually(t, 30*time.Second, func() error {
		a := v.ask(t.Context(), v.request("GET", v.path(name), nil))
		switch {
		case a.err == nil && a.status == 404:
			got = 0
			return nil
		case a.err != nil || a.status != 200:
			if why := a.clean(false, false); why != "" {
				t.Errorf("GET %s: %s", name, why)
			}
			return fmt.Errorf("GET %s: %d %v %.200q", name, a.status, a.err, a.body)
		}
		for i, c := range of {
			if bytes.Equal(a.body, c.bytes()) {
				got = i + 1
				return nil
			}
		}
		t.Errorf("GET %s: bytes of nobody: %.60q", name, a.body)
		return nil
	})
	return got
}

// agrees checks that Sluice and the store have the same under a name: the i-th of the contents, nothing if i is 0.
func (f *faultyS3) agrees(t *testing.T, v *victim, name string, i int, of ...content) {
	t.Helper()
	var want []byte
	if i > 0 {
		want = of[i-1].bytes()
	}
	if got := f.inStore(t, v, name); !bytes.Equal(got, want) {
		t.Errorf("%s: Sluice shows content %d, the store has %d bytes: %.60q", name, i, len(got), got)
	}
}

// changes are the cases of writes: the answer fails before or after the store has done it, or it is done late.
func (f *faultyS3) changes(t *testing.T) {
	object := func(method, path string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Method == method && strings.HasPrefix(r.URL.Path, path) }
	}
	put := func(v *victim, c content) heard {
		return v.ask(t.Context(), v.request("PUT", v.path(c.name), c.bytes()))
	}
	for name, x := range map[string]struct {
		do       func(http.ResponseWriter, *http.Request, func() *stored)
		first    int64
		outcomes string // which contents may be there after an error: the old one, the new one
	}{
		"500":            {says(500, s3Error("InternalError")), 0, "1"},
		"503":            {says(503, s3Error("SlowDown")), 0, "1"},
		"429":            {says(429, s3Error("TooManyRequests")), 0, "1"},
		"reset":          {resets, 0, "1"},
		"no-body":        {says(200, ""), 0, "1"},
		"403":            {says(403, s3Error("AccessDenied")), 0, "1"},
		"done-and-lost":  {unheard, 0, "12"},
		"done-lost-once": {unheard, 1, "12"},
		"done-and-500": {func(w http.ResponseWriter, r *http.Request, pass func() *stored) {
			pass()
			says(500, s3Error("InternalError"))(w, r, pass)
		}, 0, "12"},
		"done-wrong-etag": {altered(func(_ *http.Request, s *stored) { s.header.Set("ETag", `"22222222222222222222222222222222"`) }), 0, "12"},
		"done-no-etag":    {altered(func(_ *http.Request, s *stored) { s.header.Del("ETag") }), 0, "12"},
	} {
		f.side(t, "put "+name, func(t *testing.T) {
			old, next, made := content{"d/f", 1, 50_000}, content{"d/f", 2, 50_000}, content{"d/new", 3, 40_000}
			v := f.victim(t, "put-"+name, old)
			v.whole(t, "d/")
			v.proxy.breaks(&ailment{do: x.do, first: x.first, fits: object("PUT", v.path("d/"))})
			a, b := put(v, next), put(v, made)
			for _, a := range []heard{a, b} {
				if name != "403" {
					a.endsWell(t, "PUT")
				}
			}
			v.proxy.struck(t)
			v.proxy.heal()
			got, gotNew := v.one(t, "d/f", old, next), v.one(t, "d/new", made)
			if a.status/100 == 2 && got != 2 || !strings.Contains(x.outcomes, strconv.Itoa(got)) && a.status/100 != 2 {
				t.Errorf("after a PUT that was answered %d, content %d is there", a.status, got)
			}
			if b.status/100 == 2 && gotNew != 1 || gotNew == 1 && x.outcomes == "1" && b.status/100 != 2 {
				t.Errorf("after a PUT of a new name that was answered %d, content %d is there", b.status, gotNew)
			}
			f.agrees(t, v, "d/f", got, old, next)
			f.agrees(t, v, "d/new", gotNew, made)
			v.files["d/f"] = []content{old, next}[max(got, 1)-1]
			if gotNew == 1 {
				v.files["d/new"] = made
			}
			v.whole(t, "d/")
		})
	}
	for name, do := range map[string]func(http.ResponseWriter, *http.Request, func() *stored){
		"500": says(500, s3Error("InternalError")), "reset": resets, "done-and-lost": unheard,
		"done-and-500": func(w http.ResponseWriter, r *http.Request, pass func() *stored) {
			pass()
			says(500, s3Error("InternalError"))(w, r, pass)
		},
	} {
		f.side(t, "delete "+name, func(t *testing.T) {
			old, keep := content{"d/f", 1, 50_000}, content{"d/keep", 1, 100}
			v := f.victim(t, "delete-"+name, old, keep)
			v.whole(t, "d/")
			v.proxy.breaks(&ailment{do: do, fits: func(r *http.Request) bool {
				return r.Method == "DELETE" && strings.HasPrefix(r.URL.Path, v.path("d/")) || r.Method == "POST" && r.URL.Query().Has("delete")
			}})
			a := v.ask(t.Context(), v.request("DELETE", v.path("d/f"), nil))
			a.endsWell(t, "DELETE")
			v.proxy.struck(t)
			v.proxy.heal()
			got := v.one(t, "d/f", old)
			if a.status/100 == 2 && got != 0 || got == 1 && strings.HasPrefix(name, "done") {
				t.Errorf("after a DELETE that was answered %d, content %d is there", a.status, got)
			}
			f.agrees(t, v, "d/f", got, old)
			if got == 0 {
				delete(v.files, "d/f")
			}
			v.whole(t, "d/")
		})
	}
	f.side(t, "put lands late", func(t *testing.T) {
		f.late(t, "late-put", "PUT")
	})
	f.side(t, "delete lands late", func(t *testing.T) {
		f.late(t, "late-delete", "DELETE")
	})
	f.side(t, "rename that takes too long", f.slowRename)
	f.side(t, "copy done and lost", func(t *testing.T) {
		old := content{"d/f", 1, 50_000}
		v := f.victim(t, "copy-lost", old)
		v.proxy.breaks(&ailment{do: unheard, fits: object("PUT", v.path("d/copy"))})
		a := v.ask(t.Context(), v.request("PUT", v.path("d/copy"), nil, "X-Amz-Copy-Source", v.path("d/f")))
		a.endsWell(t, "copy")
		v.proxy.struck(t)
		v.proxy.heal()
		got := v.one(t, "d/copy", old)
		f.agrees(t, v, "d/copy", got, old)
		if got == 1 {
			v.files["d/copy"] = content{"d/f", 1, 50_000}
		}
		v.whole(t, "d/")
	})
	f.side(t, "complete done and lost", func(t *testing.T) {
		v := f.victim(t, "complete-lost", content{"d/keep", 1, 100})
		c := content{"d/multi", 1, 6 << 20}
		key := "d/multi"
		up, err := v.s3.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &v.name, Key: &key})
		if err != nil {
			t.Fatal(err)
		}
		var parts []types.CompletedPart
		for i, b := range [][]byte{c.bytes()[:5<<20], c.bytes()[5<<20:]} {
			n := int32(i + 1)
			p, err := v.s3.UploadPart(t.Context(), &s3.UploadPartInput{Bucket: &v.name, Key: &key, UploadId: up.UploadId, PartNumber: &n, Body: bytes.NewReader(b)})
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, types.CompletedPart{ETag: p.ETag, PartNumber: aws.Int32(n)})
		}
		complete := func() error {
			_, err := v.s3.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{Bucket: &v.name, Key: &key, UploadId: up.UploadId,
				MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}})
			return err
		}
		v.proxy.breaks(&ailment{do: unheard, fits: func(r *http.Request) bool { return r.Method == "POST" && r.URL.Query().Has("uploadId") }})
		err = complete()
		v.proxy.struck(t)
		v.proxy.heal()
		if err != nil { // a client tries again until it knows
			eventually(t, 30*time.Second, complete)
		}
		v.files[key] = c
		v.whole(t, "d/")
	})
}

// slowRename renames a directory whose copy hangs in the store. The rename is answered and says that it goes on; readers of both protocols
// see the new name alone, with its bytes; changes there are told to come again, until it is carried through.
func (f *faultyS3) slowRename(t *testing.T) {
	var all []content
	for i := range 5 {
		all = append(all, content{fmt.Sprintf("d/f%d", i), 1, 30_000})
	}
	v := f.victim(t, "slow-rename", all...)
	v.whole(t, "d/")
	if out, errs, code := f.Sluice(t, "path-rule", "set", "/"+v.name, "rename_through_timeout=1s"); code != 0 {
		t.Fatalf("path-rule: %s%s", out, errs)
	}
	v.proxy.breaks(&ailment{
		fits: func(r *http.Request) bool {
			return r.Method == "PUT" && strings.HasSuffix(r.Header.Get("X-Amz-Copy-Source"), "f3")
		},
		do: func(w http.ResponseWriter, r *http.Request, pass func() *stored) {
			<-r.Context().Value(endedKey{}).(chan struct{})
			pass().send(w)
		}})
	a := v.ask(t.Context(), v.webhdfs("PUT", v.path("d"), "RENAME", "destination="+v.path("e"), nil))
	if a.status != 200 || !bytes.Contains(a.body, []byte("true")) || !strings.HasPrefix(a.header.Get("X-Sluice-Rename"), "in-progress; job=") {
		t.Fatalf("RENAME: %d %v %q %.200q", a.status, a.err, a.header.Get("X-Sluice-Rename"), a.body)
	}
	names := []string{"f0", "f1", "f2", "f3", "f4"}
	v.files = map[string]content{}
	for _, c := range all {
		v.files["e/"+strings.TrimPrefix(c.name, "d/")] = c
	}
	if a, b, err := v.lists(t, "e/"); err != nil || !slices.Equal(a, names) || !slices.Equal(b, names) {
		t.Errorf("while it goes on, listed are %q and %q, %v", a, b, err)
	}
	for name := range v.files {
		v.reads(t, name, false)
	}
	if a := v.ask(t.Context(), v.request("GET", v.path("d/f1"), nil)); a.status != 404 {
		t.Errorf("the old name: %d", a.status)
	}
	job := strings.TrimPrefix(a.header.Get("X-Sluice-Rename"), "in-progress; job=")
	const why = "a rename of it, or of what holds it, is still being carried through"
	for _, name := range []string{"e/f1", "e/new", "d/f1", "d/new"} { // below either name, by either protocol
		for _, method := range []string{"PUT", "DELETE"} {
			if method == "DELETE" && name != "e/f1" {
				continue // there is nothing to delete
			}
			a := v.ask(t.Context(), v.request(method, v.path(name), []byte("x")))
			var doc struct{ Code, Message string }
			if err := xml.Unmarshal(a.body, &doc); err != nil || a.status != 503 || a.header.Get("Retry-After") == "" || doc.Code != "ServiceUnavailable" || !strings.Contains(doc.Message, why) {
				t.Errorf("%s %s while it goes on: %d %q %.300q", method, name, a.status, a.header, a.body)
			}
		}
	}
	for what, r := range map[string]raw{
		"RENAME": v.webhdfs("PUT", v.path("e"), "RENAME", "destination="+v.path("g"), nil), "RENAME of one": v.webhdfs("PUT", v.path("e/f1"), "RENAME", "destination="+v.path("g"), nil),
		"DELETE": v.webhdfs("DELETE", v.path("e"), "DELETE", "recursive=true", nil), "MKDIRS": v.webhdfs("PUT", v.path("d/new"), "MKDIRS", "", nil),
	} {
		a := v.ask(t.Context(), r)
		e, ok := errors.AsType[*hdfsError](remoteException(a.status, a.body))
		if !ok || e.Exception != "RetriableException" || !strings.Contains(e.Message, why) {
			t.Errorf("%s while it goes on: %d %.300q", what, a.status, a.body)
		}
	}
	if out, _, _ := f.Sluice(t, "explain", v.path("e/f1")); !strings.Contains(out, "not carried through") || !strings.Contains(out, "files copied") {
		t.Errorf("explain does not say that it goes on:\n%s", out)
	}
	if out, errs, code := f.Sluice(t, "renames"); code != 0 || !strings.Contains(out, job) || !strings.Contains(out, v.path("e")) {
		t.Errorf("renames lacks it: %s%s", out, errs)
	}
	v.proxy.heal()
	eventually(t, 60*time.Second, func() error {
		out, err := f.direct.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &v.name, Prefix: aws.String("d/")})
		if err == nil && len(out.Contents) > 0 {
			err = fmt.Errorf("%d files are left under the old name", len(out.Contents))
		}
		return err
	})
	eventually(t, 60*time.Second, func() error {
		if a := v.ask(t.Context(), v.request("PUT", v.path("e/f1"), content{"e/f1", 2, 100}.bytes())); a.status != 200 {
			return fmt.Errorf("PUT: %d %.200q", a.status, a.body)
		}
		return nil
	})
	v.files["e/f1"] = content{"e/f1", 2, 100}
	v.whole(t, "e/")
}

// late has a change fail that the store makes later: after another one of the same name was tried, or was made.
func (f *faultyS3) late(t *testing.T, bucket, method string) {
	old, second, third := content{"d/f", 1, 50_000}, content{"d/f", 2, 50_000}, content{"d/f", 3, 50_000}
	v := f.victim(t, bucket, old, content{"d/keep", 1, 100})
	v.whole(t, "d/")
	landed := make(chan struct{})
	land := make(chan struct{})
	v.proxy.breaks(&ailment{first: 1, fits: func(r *http.Request) bool { return r.Method == method && strings.HasPrefix(r.URL.Path, v.path("d/f")) },
		do: func(w http.ResponseWriter, r *http.Request, pass func() *stored) {
			wire(w, 0, nil, nil, true)
			go func() { <-land; pass(); close(landed) }()
		}})
	var body []byte
	if method == "PUT" {
		body = second.bytes()
	}
	a := v.ask(t.Context(), v.request(method, v.path("d/f"), body))
	b := v.ask(t.Context(), v.request("PUT", v.path("d/f"), third.bytes()))
	for _, a := range []heard{a, b} {
		a.endsWell(t, method)
	}
	v.proxy.struck(t)
	before := v.one(t, "d/f", old, second, third)
	close(land)
	<-landed
	v.proxy.heal()
	// Whatever the store did at last, what was acknowledged is there, and Sluice shows what the store has.
	var got int
	eventually(t, 30*time.Second, func() error {
		got = v.one(t, "d/f", old, second, third)
		var want []byte
		if got > 0 {
			want = []content{old, second, third}[got-1].bytes()
		}
		if have := f.inStore(t, v, "d/f"); !bytes.Equal(have, want) {
			return fmt.Errorf("Sluice shows content %d, the store has %d bytes: %.60q", got, len(have), have)
		}
		return nil
	})
	if b.status/100 == 2 && got != 3 {
		t.Errorf("content 3 was acknowledged, %d was there, and %d is after the late %s", before, got, method)
	}
	t.Logf("%s: %d, the next PUT: %d; content %d before it landed, %d after", method, a.status, b.status, before, got)
	if delete(v.files, "d/f"); got > 0 {
		v.files["d/f"] = []content{old, second, third}[got-1]
	}
	v.whole(t, "d/")
}

// TestFaultyHTTP has a web server go wrong behind Sluice.
func TestFaultyHTTP(t *testing.T) {
	s := newSuite(t, "faulty-http")
	r := newRig(Start(t, Options{}))
	mount := func(t *testing.T, name string, files ...content) *victim {
		dir := t.TempDir()
		for _, c := range files {
			file := filepath.Join(dir, c.name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, c.bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			before := time.Now().Add(-time.Hour)
			if err := os.Chtimes(file, before, before); err != nil {
				t.Fatal(err)
			}
		}
		web := httptest.NewServer(http.FileServer(http.Dir(dir)))
		t.Cleanup(web.Close)
		v := &victim{rig: r, proxy: newFaultyProxy(t, web.URL), name: strings.ToLower(name), files: map[string]content{}}
		for _, c := range files {
			v.files[c.name] = c
		}
		if out, errs, code := r.Sluice(t, "mount", "add", "/"+v.name, v.proxy.URL+"/", "--read-only"); code != 0 {
			t.Fatalf("mount: %s%s", out, errs)
		}
		askAlways(t, r, "/"+v.name)
		return v
	}
	t.Run("all", func(t *testing.T) {
		b := besides(s)
		defer b.wait()
		faults := bodyFaults()
		delete(faults, "another-etag") // Go's file server has none, and what it says is believed
		for name, do := range faults {
			b.side(t, "body "+name, func(t *testing.T) {
				v := mount(t, "body-"+name, content{"d/small", 1, 60_000}, content{"d/large", 1, 2<<20 + 12345})
				v.proxy.breaks(&ailment{do: do, fits: func(r *http.Request) bool {
					return r.Method == "GET" && strings.HasPrefix(r.URL.Path, "/d/") && r.URL.Path != "/d/"
				}})
				v.reads(t, "d/small", true)
				v.reads(t, "d/large", true)
				v.proxy.struck(t)
				v.proxy.heal()
				v.whole(t, "d/")
			})
		}
		for name, x := range map[string]struct {
			method string
			do     func(http.ResponseWriter, *http.Request, func() *stored)
			also   []int // what a server says for good: it is handed on as it is
		}{
			"index 500":    {"GET", says(500, ""), nil},
			"index 503":    {"GET", says(503, ""), nil},
			"index 403":    {"GET", says(403, ""), []int{403}},
			"index 404":    {"GET", says(404, ""), []int{404}},
			"index reset":  {"GET", resets, nil},
			"index cut":    {"GET", sends(false, func(s *stored) { s.body = s.body[:len(s.body)/2] }), nil},
			"index none":   {"GET", says(200, ""), []int{501, 400}},
			"index a page": {"GET", says(200, "<html><body><h1>Welcome</h1></body></html>"), []int{501, 400}},
			"head 500":     {"HEAD", says(500, ""), nil},
			"head 503":     {"HEAD", says(503, ""), nil},
			"head 429":     {"HEAD", says(429, ""), nil},
			"head reset":   {"HEAD", resets, nil},
			"head no length": {"HEAD", altered(func(_ *http.Request, s *stored) {
				s.header.Del("Content-Length")
				s.header.Set("Transfer-Encoding", "chunked")
			}), []int{501, 400}},
		} {
			b.side(t, name, func(t *testing.T) {
				v := mount(t, strings.ReplaceAll(name, " ", "-"), content{"d/a", 1, 20_000}, content{"d/b", 1, 20_000}, content{"d/c", 1, 20_000})
				v.whole(t, "d/")
				v.proxy.breaks(&ailment{do: x.do, fits: func(r *http.Request) bool {
					return r.Method == x.method && strings.HasPrefix(r.URL.Path, "/d/") && (x.method == "HEAD") == (r.URL.Path != "/d/")
				}})
				v.also = x.also
				a, b, err := v.lists(t, "d/")
				if name == "index 404" && len(a) == 0 { // the server's word of a directory, while the root is there
					a = nil
				}
				if want := []string{"a", "b", "c"}; a != nil && !slices.Equal(a, want) || b != nil && !slices.Equal(b, want) {
					t.Errorf("the listings show %q and %q, %v", a, b, err)
				}
				v.reads(t, "d/b", true)
				v.proxy.struck(t)
				v.proxy.heal()
				v.also = nil
				v.whole(t, "d/")
			})
		}
	})
}
