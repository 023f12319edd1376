package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// multipart uploads one object of 64 MiB after the other, its eight parts over some connections.
func multipart(s *server, conns, round int, d time.Duration) (sample, error) {
	cs := make([]*conn, conns)
	for i := range cs {
		c, err := dial(s.addr)
		if err != nil {
			return sample{}, err
		}
		defer c.close()
		cs[i] = c
	}
	body := content("part", partLen)
	out := sample{}
	start := time.Now()
	for i := 0; time.Since(start) < d; i++ {
		began := time.Now()
		if err := s.upload(cs, fmt.Sprintf("/put/multipart-%d", i%4), body); err != nil {
			return out, err
		}
		out.ops++
		out.latencies = append(out.latencies, time.Since(began))
	}
	out.took = time.Since(start)
	return out, nil
}

// upload uploads an object of eight parts.
func (s *server) upload(cs []*conn, path string, body []byte) error {
	ask := func(c *conn, l call, body []byte) (response, error) {
		r, err := c.do(false, l.wire(s.addr, time.Now()), body)
		if err == nil && r.status != 200 {
			err = fmt.Errorf("%s %s: status %d\n%s", l.method, l.path, r.status, r.body)
		}
		return r, err
	}
	r, err := ask(cs[0], call{method: "POST", path: path, query: url.Values{"uploads": {""}}, length: 0}, nil)
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(r.body), "<UploadId>")
	id, _, ok := strings.Cut(rest, "</UploadId>")
	if !ok {
		return fmt.Errorf("no upload id in %s", r.body)
	}
	const parts = 64 * mib / partLen
	tags := make([]string, parts)
	problems := make([]error, len(cs))
	var wg sync.WaitGroup
	for k, c := range cs {
		wg.Go(func() {
			for i := k; i < parts && problems[k] == nil; i += len(cs) {
				var r response
				r, problems[k] = ask(c, call{method: "PUT", path: path, query: url.Values{"uploadId": {id}, "partNumber": {strconv.Itoa(i + 1)}}, length: int64(len(body))}, body)
				tags[i] = string(field(r.head, "etag"))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(problems...); err != nil {
		return err
	}
	var doc strings.Builder
	doc.WriteString("<CompleteMultipartUpload>")
	for i, tag := range tags {
		fmt.Fprintf(&doc, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", i+1, tag)
	}
	doc.WriteString("</CompleteMultipartUpload>")
	r, err = ask(cs[0], call{method: "POST", path: path, query: url.Values{"uploadId": {id}}, length: int64(doc.Len())}, []byte(doc.String()))
	if err == nil && !strings.Contains(string(r.body), "<ETag>") {
		err = fmt.Errorf("complete: %s", r.body)
	}
	return err
}

// persisted waits until the server's store has what was written: what one turn leaves behind is not to slow down the next
// server's. It fails if the server has taken writes to its store at once, which is not what is measured.
func (s *server) persisted() error {
	for deadline := time.Now().Add(timeout * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		r, err := http.Get("http://" + s.admin + "/metrics")
		if err != nil {
			return err
		}
		text, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return err
		}
		left, fellBack := metric(text, "sluice_dirty_files"), metric(text, "sluice_write_fallbacks_total")
		if left == "" || fellBack != "" && fellBack != "0" {
			return fmt.Errorf("%s: %q files are not in the store, %q writes went there at once", s.name, left, fellBack)
		}
		if left == "0" {
			return nil
		}
	}
	return fmt.Errorf("%s: files are not in the store after %d s", s.name, timeout)
}

// metric returns the value of the first sample that has the name, "" if there is none.
func metric(text []byte, name string) string {
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') {
			return strings.TrimSpace(rest[strings.LastIndexByte(rest, ' ')+1:])
		}
	}
	return ""
}

// durableLoop is what a durable write costs without a protocol: threads that create a file, write and sync it, give it its
// name and sync the directory.
func durableLoop(dir string, threads, round int, size int64, d time.Duration) (sample, error) {
	body := content("put", size)
	parts := make([]sample, threads)
	problems := make([]error, threads)
	var wg sync.WaitGroup
	start := time.Now()
	for k := range threads {
		wg.Go(func() {
			s := &parts[k]
			for i, now := 0, time.Now(); now.Sub(start) < d; i++ {
				if problems[k] = writeDurably(dir, fmt.Sprintf("%d-%d-%d-%d", size, round, k, i), body); problems[k] != nil {
					return
				}
				done := time.Now()
				s.ops++
				s.latencies = append(s.latencies, done.Sub(now))
				s.took, now = done.Sub(start), done
			}
		})
	}
	wg.Wait()
	all := sample{took: d}
	for _, p := range parts {
		all.ops += p.ops
		all.took = max(all.took, p.took)
		all.latencies = append(all.latencies, p.latencies...)
	}
	return all, errors.Join(problems...)
}

func writeDurably(dir, name string, body []byte) error {
	tmp, final := filepath.Join(dir, ".tmp-"+name), filepath.Join(dir, name)
	fd, err := unix.Open(tmp, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "open", Path: tmp, Err: err}
	}
	defer unix.Close(fd)
	if n, err := unix.Write(fd, body); err != nil || n < len(body) {
		return fmt.Errorf("write %s: %d bytes: %w", tmp, n, err)
	}
	if err := unix.Fsync(fd); err != nil {
		return err
	}
	if err := unix.Rename(tmp, final); err != nil {
		return err
	}
	parent, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	return unix.Fsync(parent)
}
