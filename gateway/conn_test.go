package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestResponsesFromMemory has bodies of many lengths written in many pieces, several on each connection, and wants each of them
// as it was written, whatever way it took: copied behind its header, behind it in a call of its own, or chunked.
func TestResponsesFromMemory(t *testing.T) {
	data := make([]byte, 2*piece+5*copied)
	for i := range data {
		data[i] = byte(i * 7 >> (i & 3))
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("n"))
		step, _ := strconv.Atoi(r.FormValue("step"))
		if r.FormValue("length") != "" {
			w.Header().Set("Content-Length", strconv.Itoa(n))
		}
		w.Header().Set("X-Long", string(bytes.Repeat([]byte("x"), n%5000)))
		for p := data[:n]; len(p) > 0; {
			k, err := w.Write(p[:min(step, len(p))])
			if err != nil || k != min(step, len(p)) {
				if r.Method != http.MethodHead || !errors.Is(err, http.ErrBodyNotAllowed) {
					t.Errorf("%s: wrote %d, %v", r.URL, k, err)
				}
				return
			}
			p = p[k:]
		}
	})
	addr := serving(t, h)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	for _, n := range []int{1, 600, least - 1, least, 4 << 10, copied, copied + 1, piece + 1, len(data)} {
		for _, step := range []int{512, least, copied + 7, len(data)} {
			for _, length := range []string{"", "&length=1"} {
				for _, method := range []string{http.MethodHead, http.MethodGet} {
					url := fmt.Sprintf("http://%s/?n=%d&step=%d%s", addr, n, step, length)
					req, _ := http.NewRequest(method, url, nil)
					resp, err := client.Do(req)
					if err != nil {
						t.Fatalf("%s %s: %v", method, url, err)
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					want := data[:n]
					if method == http.MethodHead {
						want = nil
					}
					if err != nil || !bytes.Equal(got, want) {
						t.Fatalf("%s %s: got %d bytes of %d, %v", method, url, len(got), len(want), err)
					}
					if length != "" && resp.ContentLength != int64(n) {
						t.Errorf("%s %s: Content-Length %d", method, url, resp.ContentLength)
					}
				}
			}
		}
	}
}

// TestResponseHeader has a handler set fields of all kinds: each arrives once and clean, whoever writes it.
func TestResponseHeader(t *testing.T) {
	set := http.Header{
		"Etag": {`"1"`}, "x-amz-meta-Lower": {"v"}, "Twice": {"a", "b"}, "Empty": {""}, "Split": {"a\r\nInjected: b"}, "Spaced": {"  x "},
		"Bad Name": {"v"}, "Bad\r\nInjected": {"v"}, "": {"v"}, "Content-Type": {"text/plain"}, "X-Latin": {"\xe9"},
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for k, v := range set {
			w.Header()[k] = v
		}
		switch r.URL.Path {
		case "/implicit":
			_, _ = io.WriteString(w, "body")
		case "/flush":
			_ = http.NewResponseController(w).Flush()
		case "/status":
			w.WriteHeader(http.StatusTeapot)
		case "/early":
			w.WriteHeader(http.StatusContinue)
			_, _ = w.Write(bytes.Repeat([]byte("x"), 3*least))
		}
		if r.URL.Path != "/nothing" {
			w.Header().Set("Late", "v")
		}
	})
	addr := serving(t, h)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, DisableCompression: true}}
	for range 2 {
		for _, path := range []string{"/nothing", "/implicit", "/flush", "/status", "/early"} {
			resp, err := client.Get("http://" + addr + path)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			got := resp.Header
			for _, k := range []string{"Date", "Content-Length"} {
				if len(got[k]) > 1 {
					t.Errorf("%s: %s %q", path, k, got[k])
				}
				delete(got, k)
			}
			want := http.Header{"Etag": {`"1"`}, "X-Amz-Meta-Lower": {"v"}, "Twice": {"a", "b"}, "Empty": {""}, "Split": {"a  Injected: b"}, "Spaced": {"x"},
				"Content-Type": {"text/plain"}, "X-Latin": {"\xe9"}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s:\n%s", path, diff)
			}
			if teapot := resp.StatusCode == http.StatusTeapot; teapot != (path == "/status") {
				t.Errorf("%s: %s", path, resp.Status)
			}
		}
	}
}

// TestResponseCutShort has a body fail in its midst: what was written arrives, and then the connection ends.
func TestResponseCutShort(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), copied/8)
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(3*len(data)))
		_, _ = w.Write(data)
		_, _ = w.Write(data[:100])
	})
	addr := serving(t, h)
	resp, err := http.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(got, append(bytes.Clone(data), data[:100]...)) {
		t.Errorf("got %d bytes, %v; want %d and an unexpected end", len(got), err, len(data)+100)
	}
}

// TestResponseTooLong has handlers write more than they announced: what goes beyond does not arrive, nor what comes after it,
// and the next response on the connection is whole.
func TestResponseTooLong(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), copied/8)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/next" {
			_, _ = io.WriteString(w, "next")
			return
		}
		first, _ := strconv.Atoi(r.FormValue("first"))
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		if n, err := w.Write(data[:first]); n != first || err != nil {
			t.Errorf("%s: wrote %d, %v", r.URL, n, err)
		}
		for _, p := range [][]byte{data[:len(data)-first+1], data[:1]} {
			if n, err := w.Write(p); n != 0 || !errors.Is(err, http.ErrContentLength) {
				t.Errorf("%s: wrote %d bytes too many, %v", r.URL, n, err)
			}
		}
	})
	addr := serving(t, h)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	for _, first := range []int{100, least, len(data) - 1, len(data)} {
		for _, path := range []string{fmt.Sprintf("/?first=%d", first), "/next"} {
			resp, err := client.Get("http://" + addr + path)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			want, whole := data[:first], first == len(data)
			if path == "/next" {
				want, whole = []byte("next"), true
			}
			if !bytes.Equal(got, want) || (err == nil) != whole {
				t.Errorf("%s: got %d bytes, %v; want %d", path, len(got), err, len(want))
			}
		}
	}
}
