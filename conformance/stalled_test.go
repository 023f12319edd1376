package conformance

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stalled is a client that asked for a large object and stopped reading in the middle of it.
type stalled struct {
	what string
	body *bufio.Reader
	resp *http.Response
	want content
	off  int64 // of the body in want
	n    int64
	read []byte // so far
}

// stall sends q and reads the beginning of the body only.
func (r *rig) stall(t *testing.T, what string, q raw, want content, off, n int64) *stalled {
	t.Helper()
	req, err := q.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { // a small window, so that the server is stopped soon
		var err error
		if cerr := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10) }); cerr != nil {
			return cerr
		}
		return err
	}}
	conn, err := d.DialContext(t.Context(), "tcp", req.URL.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	s := &stalled{what: what, body: bufio.NewReaderSize(conn, 4<<10), want: want, off: off, n: n}
	if s.resp, err = http.ReadResponse(s.body, req); err != nil {
		t.Fatal(err)
	}
	if s.resp.StatusCode/100 != 2 || s.resp.Header.Get("X-Cache") != "HIT" && q.base == r.S3 {
		t.Fatalf("%s: %s %v", what, s.resp.Status, s.resp.Header)
	}
	s.more(t, 50_000)
	return s
}

// opened returns the second step of an OPEN.
func (r *rig) opened(t *testing.T, path string) raw {
	t.Helper()
	status, h, body := r.do(t, r.webhdfs("GET", path, "OPEN", "", nil))
	target, ok := strings.CutPrefix(h.Get("Location"), r.WebHDFS)
	if status != http.StatusTemporaryRedirect || !ok {
		t.Fatalf("OPEN %s: %d %v %s", path, status, h, body)
	}
	return raw{method: "GET", base: r.WebHDFS, target: target, header: http.Header{}}
}

// more reads n more bytes of the body.
func (s *stalled) more(t *testing.T, n int) {
	t.Helper()
	b := make([]byte, n)
	for i := 0; i < n; {
		k, err := s.resp.Body.Read(b[i:])
		i += k
		if err != nil && i < n {
			t.Fatalf("%s: after %d bytes: %v", s.what, len(s.read)+i, err)
		}
	}
	s.read = append(s.read, b...)
}

// finish reads the rest and compares everything.
func (s *stalled) finish(t *testing.T) {
	t.Helper()
	s.more(t, int(s.n)-len(s.read))
	want := make([]byte, s.n)
	s.want.ReadAt(want, s.off)
	if i := mismatch(s.read, want); i >= 0 {
		t.Errorf("%s: at %d of %d: got %.80q, want %.80q", s.what, i, s.n, s.read[i:], want[i:])
	}
}

// TestStalled has clients that stop reading in the middle of warm bodies while everything is evicted from a small cache and
// its room given to other objects, many times over. Then they read on, and each gets its own bytes.
func TestStalled(t *testing.T) {
	cases := 0
	for _, medium := range []string{"mem", "ssd"} {
		t.Run(medium, func(t *testing.T) {
			const quota = 96 << 20
			dir := memoryDir(t)
			if medium == "ssd" {
				dir = filepath.Join(t.TempDir(), "cache")
			}
			r := newRig(Start(t, Options{Tiers: true, Args: []string{"--cache-tier", fmt.Sprintf("dir=%s,quota=%d,medium=%s", dir, quota, medium)}}))
			r.mkbucket(t, "stalled")
			const size = 8<<20 + 12345 // beyond what the sockets take in: about 4 MB
			var victims []*stalled
			var hits []string
			for i := range 4 {
				c := content{fmt.Sprintf("/stalled/victim-%d", i), i, size}
				r.mustPut(t, c.name, c)
				if _, cache, err := r.get(t.Context(), c.name, c); err != nil || cache != "HIT" {
					t.Fatalf("%s is not warm: %s, %v", c.name, cache, err)
				}
				switch i % 3 {
				case 0:
					victims = append(victims, r.stall(t, "GET", r.request("GET", c.name, nil), c, 0, size))
				case 1:
					victims = append(victims, r.stall(t, "OPEN", r.opened(t, c.name), c, 0, size))
				case 2:
					victims = append(victims, r.stall(t, "GET of a range", r.request("GET", c.name, nil, "Range", fmt.Sprintf("bytes=%d-", 1<<20+77)), c, 1<<20+77, size-1<<20-77))
				}
			}
			// Other objects, sized so that pages are refilled at the same places, written and read several times over.
			for round := range 2 {
				for i := range 24 {
					c := content{fmt.Sprintf("/stalled/other-%d", i), round, size}
					r.mustPut(t, c.name, c)
					for range 3 {
						if _, _, err := r.get(t.Context(), c.name, c); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			for i, v := range victims {
				for at := range size >> 20 {
					status, h, _ := r.do(t, r.request("GET", v.want.name, nil, "Range", fmt.Sprintf("bytes=%d-%d", at<<20, at<<20+9)))
					if status != http.StatusPartialContent || h.Get("X-Cache") == "HIT" {
						hits = append(hits, fmt.Sprintf("%d:%d", i, at))
					}
				}
				if int64(len(v.read)) > v.n/2 {
					t.Errorf("victim %d had read %d of %d bytes", i, len(v.read), v.n)
				}
			}
			if len(hits) > 2*len(victims) { // those that are being written stay
				t.Errorf("pages of victims that were not evicted: %v", hits)
			}
			for _, v := range victims {
				v.finish(t)
				cases++
			}
			for i := range 24 { // and nobody wrote into what others hold
				c := content{fmt.Sprintf("/stalled/other-%d", i), 1, size}
				if _, _, err := r.get(t.Context(), c.name, c); err != nil {
					t.Error(err)
				}
				cases++
			}
		})
	}
	Minimum(t, "stalled", cases)
}
