package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// rawFile is a file that a raw loop serves: opened and mapped at its first request, for ever.
type rawFile struct {
	fd   int
	data []byte
}

// serveRaw is as little of an HTTP server as answers a GET: a thread for each connection on a blocking socket, no look at
// anything but the path and the range.
func serveRaw(addr, dir string, send func(f *rawFile, fd int, head []byte, off, n int64) error) error {
	files := &rawFiles{dir: dir, open: map[string]*rawFile{}}
	return acceptRaw(addr, func(fd int) { files.serve(fd, send) })
}

// acceptRaw gives each connection to addr to a goroutine, as a blocking socket, which it has to close.
func acceptRaw(addr string, serve func(fd int)) error {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(l, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}); err != nil {
		return err
	}
	if err := unix.Listen(l, 128); err != nil {
		return err
	}
	for {
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return err
		}
		go serve(fd)
	}
}

type rawFiles struct {
	dir  string
	mu   sync.Mutex
	open map[string]*rawFile
}

func (fs *rawFiles) get(path string) (*rawFile, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.open[path]; f != nil {
		return f, nil
	}
	name := filepath.Join(fs.dir, filepath.FromSlash(path))
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	data, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	fs.open[path] = &rawFile{fd, data}
	return fs.open[path], nil
}

// serve answers the requests of a connection until it ends.
func (fs *rawFiles) serve(fd int, send func(*rawFile, int, []byte, int64, int64) error) {
	defer unix.Close(fd)
	buf, out := make([]byte, 16<<10), make([]byte, 0, 256)
	w := 0
	for {
		end := bytes.Index(buf[:w], crlfcrlf)
		if end < 0 {
			n, err := unix.Read(fd, buf[w:])
			if err == unix.EINTR {
				continue
			}
			if err != nil || n == 0 {
				return
			}
			w += n
			continue
		}
		head := buf[:end]
		path := head[bytes.IndexByte(head, ' ')+1:]
		path = path[:bytes.IndexByte(path, ' ')]
		f, err := fs.get(string(path))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		off, n, status := int64(0), int64(len(f.data)), "200 OK"
		if rng := field(head, "range"); rng != nil {
			from, to, _ := bytes.Cut(bytes.TrimPrefix(rng, []byte("bytes=")), []byte("-"))
			off, _ = strconv.ParseInt(string(from), 10, 64)
			last, _ := strconv.ParseInt(string(to), 10, 64)
			n, status = last+1-off, "206 Partial Content"
		}
		out = append(append(append(out[:0], "HTTP/1.1 "...), status...), "\r\nContent-Length: "...)
		out = append(strconv.AppendInt(out, n, 10), crlfcrlf...)
		if err := send(f, fd, out, off, n); err != nil {
			return
		}
		w = copy(buf, buf[end+len(crlfcrlf):w])
	}
}

// write sends the header and the bytes from the mapping.
func (f *rawFile) write(fd int, head []byte, off, n int64) error {
	body := f.data[off : off+n]
	sent, err := unix.Writev(fd, [][]byte{head, body})
	if err != nil && err != unix.EINTR {
		return err
	}
	for rest := body[max(0, sent-len(head)):]; len(rest) > 0; {
		k, err := unix.Write(fd, rest)
		if err != nil && err != unix.EINTR {
			return err
		}
		rest = rest[max(0, k):]
	}
	return nil
}

// sendfile sends the header and has the kernel send the bytes.
func (f *rawFile) sendfile(fd int, head []byte, off, n int64) error {
	if _, err := unix.SendmsgN(fd, head, nil, nil, unix.MSG_MORE); err != nil {
		return err
	}
	for end := off + n; off < end; {
		_, err := unix.Sendfile(fd, f.fd, &off, int(end-off))
		if err != nil && err != unix.EINTR {
			return err
		}
	}
	return nil
}
