package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// conn is one keep-alive HTTP/1.1 connection on a blocking socket: a thread waits in recv(2) instead of a goroutine in
// epoll_wait(2), which is three system calls less for every small answer. It allocates nothing per request.
type conn struct {
	fd   int
	addr string
	buf  []byte // received; [r:w) is not consumed
	r, w int
}

// bufferBytes is the size of the client's receive buffer.
const bufferBytes = 256 << 10

// timeout is how long a server may be silent before a measurement is given up.
const timeout = 60 // seconds

func dial(addr string) (*conn, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c := &conn{fd: fd, addr: addr, buf: make([]byte, bufferBytes)}
	wait := unix.Timeval{Sec: timeout}
	for _, err := range []error{
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait),
		connect(fd, a),
	} {
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("connect to %s: %w", addr, err)
		}
	}
	return c, nil
}

// connect is connect(2), which a signal may interrupt; the connection is then made all the same.
func connect(fd int, a netip.AddrPort) error {
	err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()})
	for err == unix.EINTR {
		if _, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1); err != nil {
			continue
		}
		if code, serr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); serr != nil || code != 0 {
			return cmp.Or(serr, error(unix.Errno(code)))
		}
	}
	return err
}

func (c *conn) close() { unix.Close(c.fd) }

// send writes the pieces of a request.
func (c *conn) send(pieces ...[]byte) error {
	for _, p := range pieces {
		for len(p) > 0 {
			n, err := unix.Write(c.fd, p)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return fmt.Errorf("send to %s: %w", c.addr, err)
			}
			p = p[n:]
		}
	}
	return nil
}

// fillBuffer receives what is there, at least one byte.
func (c *conn) fillBuffer() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		return errors.New("the header section of a response is larger than the buffer")
	}
	for {
		n, err := unix.Read(c.fd, c.buf[c.w:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("receive from %s: %w", c.addr, err)
		case n == 0:
			return fmt.Errorf("receive from %s: %w", c.addr, io.ErrUnexpectedEOF)
		}
		c.w += n
		return nil
	}
}

// head receives the header section of a response and returns its status and the length of its body.
func (c *conn) head() (status int, length int64, head []byte, err error) {
	end := -1
	for from := c.r; ; {
		if i := bytes.Index(c.buf[from:c.w], crlfcrlf); i >= 0 {
			end = from + i
			break
		}
		scanned := max(c.r, c.w-3) - c.r
		if c.r > 0 && c.w == len(c.buf) {
			c.w, c.r = copy(c.buf, c.buf[c.r:c.w]), 0
		}
		if err := c.fillBuffer(); err != nil {
			return 0, 0, nil, err
		}
		from = c.r + scanned
	}
	head = c.buf[c.r:end]
	c.r = end + len(crlfcrlf)
	if len(head) < len("HTTP/1.1 200") {
		return 0, 0, nil, fmt.Errorf("%s answered %q", c.addr, head)
	}
	if status, err = strconv.Atoi(string(head[9:12])); err != nil {
		return 0, 0, nil, fmt.Errorf("%s answered %q", c.addr, head)
	}
	value := field(head, "content-length")
	if value == nil {
		if status == 204 || status == 304 {
			return status, 0, head, nil
		}
		return 0, 0, nil, fmt.Errorf("%s answered without Content-Length: %q", c.addr, head)
	}
	length, err = strconv.ParseInt(string(value), 10, 64)
	return status, length, head, err
}

var crlfcrlf = []byte("\r\n\r\n")

// field returns the value of a header field by its lower-case name, nil if it is absent.
func field(head []byte, name string) []byte {
	for rest := head; ; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return nil
		}
		rest = rest[i+1:]
		if len(rest) <= len(name) || rest[len(name)] != ':' || !bytes.EqualFold(rest[:len(name)], []byte(name)) {
			continue
		}
		value := rest[len(name)+1:]
		if i := bytes.IndexByte(value, '\r'); i >= 0 {
			value = value[:i]
		}
		return bytes.TrimSpace(value)
	}
}

// drop receives n bytes of a body, drops them, and returns how many came before the time of till, the zero time for never.
// Beyond it, it stops: the connection is then in the midst of a response.
func (c *conn) drop(n int64, till time.Time) (got int64, err error) {
	for got < n {
		if c.r == c.w {
			if err := c.fillBuffer(); err != nil {
				return got, err
			}
		}
		take := min(n-got, int64(c.w-c.r))
		c.r += int(take)
		got += take
		if !till.IsZero() && got < n && time.Now().After(till) {
			return got, nil
		}
	}
	return got, nil
}

// A response is what a server answered to a request of a preparation.
type response struct {
	status int
	head   []byte
	body   []byte
}

// do sends a request and receives the whole response.
func (c *conn) do(isHead bool, pieces ...[]byte) (response, error) {
	if err := c.send(pieces...); err != nil {
		return response{}, err
	}
	status, n, head, err := c.head()
	if err != nil {
		return response{}, err
	}
	r := response{status: status, head: bytes.Clone(head)}
	if isHead {
		return r, nil
	}
	r.body = make([]byte, 0, n)
	for int64(len(r.body)) < n {
		if c.r == c.w {
			if err := c.fillBuffer(); err != nil {
				return r, err
			}
		}
		take := int(min(n-int64(len(r.body)), int64(c.w-c.r)))
		r.body = append(r.body, c.buf[c.r:c.r+take]...)
		c.r += take
	}
	return r, nil
}

// A load is what one connection does for the time of a sample: it sends request number i and takes its response, for
// i = 0, 1, …
type load struct {
	request func(i int) [][]byte // pieces of the request
	head    bool                 // the responses have no body
	status  int                  // wanted
	length  int64                // of each response's body; -1: any
	held    bool                 // each response says that workers hold what was written, and did not go to the store first
}

// sample is what one measurement of one server found.
type sample struct {
	ops, bytes int64
	took       time.Duration
	latencies  []time.Duration // of whole operations
}

// run has every load run on a connection of its own until d is over. Connections are opened, and one request is sent on
// each, before the clock starts.
func run(addr string, d time.Duration, loads []load) (sample, error) {
	conns := make([]*conn, len(loads))
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.close()
			}
		}
	}()
	for i := range loads {
		c, err := dial(addr)
		if err != nil {
			return sample{}, err
		}
		conns[i] = c
		if _, _, err := loads[i].once(c, 0, time.Time{}); err != nil {
			return sample{}, err
		}
	}
	var wg sync.WaitGroup
	parts := make([]sample, len(loads))
	problems := make([]error, len(loads))
	start := time.Now()
	for i := range loads {
		wg.Go(func() { parts[i], problems[i] = loads[i].run(conns[i], start, start.Add(d)) })
	}
	wg.Wait()
	all := sample{took: d}
	for _, p := range parts {
		all.ops += p.ops
		all.bytes += p.bytes
		all.took = max(all.took, p.took)
		all.latencies = append(all.latencies, p.latencies...)
	}
	return all, errors.Join(problems...)
}

// run counts operations that ended, and bytes that came, before the time of end.
func (l *load) run(c *conn, start, end time.Time) (sample, error) {
	s := sample{latencies: make([]time.Duration, 0, 1<<15)}
	now := start
	for i := 1; now.Before(end); i++ {
		n, whole, err := l.once(c, i, end)
		if err != nil {
			return s, err
		}
		s.bytes += n
		done := time.Now()
		if whole && !done.After(end) {
			s.ops++
			s.latencies = append(s.latencies, done.Sub(now))
		}
		now = done
	}
	return s, nil
}

// once has one operation done and returns the bytes of its response's body; whole is false if it was given up at till.
func (l *load) once(c *conn, i int, till time.Time) (n int64, whole bool, err error) {
	if err := c.send(l.request(i)...); err != nil {
		return 0, false, err
	}
	status, length, head, err := c.head()
	if err != nil {
		return 0, false, err
	}
	if status != l.status || l.length >= 0 && length != l.length {
		return 0, false, fmt.Errorf("%s answered %d with %d bytes, not %d with %d:\n%s", c.addr, status, length, l.status, l.length, head)
	}
	if l.held && string(field(head, "x-sluice-write-type")) != asyncThrough {
		return 0, false, fmt.Errorf("%s has not held what was written:\n%s", c.addr, head)
	}
	if l.head {
		return 0, true, nil
	}
	n, err = c.drop(length, till)
	return n, n == length, err
}
