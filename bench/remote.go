package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The servers that have their bytes from another process.
const (
	sluiceRemote = "sluice-remote"    // a gateway, before a worker and a master in processes of their own
	sluiceLent   = "sluice-lent"      // the same, where the gateway reads in place what the worker lends it
	spliceProxy  = "splice-proxy"     // before raw-write: a thread for each connection, splice(2)
	reverseProxy = "go-reverse-proxy" // before raw-write: net/http/httputil.ReverseProxy
)

// remoteRows are GETs through a process that has not the bytes.
func remoteRows() []row {
	proxies := []string{spliceProxy, reverseProxy}
	return []row{
		{name: "remote64m_c1", unit: "MiB/s", conns: 1, subject: sluiceRemote, peers: proxies, loads: gets("64m/", 4, 64*mib), needs: need64m},
		{name: "remote64m_c8", unit: "MiB/s", conns: 8, subject: sluiceRemote, peers: proxies, loads: gets("64m/", 4, 64*mib), needs: need64m},
		{name: "local64m_fd_c1", unit: "MiB/s", conns: 1, subject: sluiceLent, peers: []string{sluice}, loads: gets("64m/", 4, 64*mib), needs: need64m},
		{name: "local64m_fd_c8", unit: "MiB/s", conns: 8, subject: sluiceLent, peers: []string{sluice}, loads: gets("64m/", 4, 64*mib), needs: need64m},
	}
}

// startRemote starts s, one of the servers of remoteRows, and what it has its bytes from.
func startRemote(ctx context.Context, o options, s *server, bin string) error {
	if s.name == sluiceRemote || s.name == sluiceLent {
		return startCluster(ctx, o, s, bin)
	}
	behind, err := start(ctx, o, rawWrite, bin)
	if behind != nil {
		s.behind = append(s.behind, behind)
	}
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.dir = behind.dir // the files
	s.note = map[string]string{
		spliceProxy:  "a thread for each connection and a connection of its own to raw-write, splice(2) through a pipe of 1 MiB; no signatures",
		reverseProxy: "net/http and httputil.ReverseProxy before raw-write; no signatures",
	}[s.name]
	return s.exec(ctx, []string{self, serveCommand, s.name, s.addr, behind.addr}, os.Environ())
}

// startCluster starts one process for each role; s is the gateway.
func startCluster(ctx context.Context, o options, s *server, bin string) error {
	s.s3 = true
	s.note = "one process for each role; the worker has the pages on tmpfs, the gateway none"
	key := filepath.Join(s.dir, "secret-key")
	if err := os.WriteFile(key, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600); err != nil {
		return err
	}
	root := filepath.Join(s.dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	var ports [3]string
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return err
		}
	}
	env := append(os.Environ(), "SLUICE_ROOT_ACCESS_KEY="+accessKey, "SLUICE_ROOT_SECRET_KEY="+secretKey)
	var sockets []string
	if s.name == sluiceLent {
		s.note += "; it lends them to the gateway"
		sockets = []string{"--internal-socket-dir", filepath.Join(o.memory, "sockets")} // the path of a socket is short
	}
	stores := []string{"--secret-key-file", key, "--root-store", "file://" + root, "--s3-listen", "off", "--webhdfs-listen", "off", "--admin-listen", "off"}
	for _, p := range []struct {
		name, addr string
		flags      []string
	}{
		{"master", ports[1], append([]string{"--roles", "master", "--name", "m1", "--join", "m1=http://" + ports[0], "--internal-listen", ports[1]}, stores...)},
		{"worker", ports[2], append([]string{"--roles", "worker", "--name", "w1", "--masters", ports[1], "--internal-listen", ports[2],
			"--cache-tier", "dir=" + filepath.Join(o.memory, "cache-"+s.name) + ",quota=1GiB,medium=mem"}, append(sockets, stores...)...)},
	} {
		b := &server{name: p.name, addr: p.addr, dir: filepath.Join(s.dir, p.name)}
		if err := os.Mkdir(b.dir, 0o700); err != nil {
			return err
		}
		s.behind = append(s.behind, b)
		if err := b.exec(ctx, append([]string{bin, "serve", "--data", b.dir}, p.flags...), env); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return s.exec(ctx, append([]string{bin, "serve", "--roles", "gateway", "--name", "g1", "--masters", ports[1], "--data", filepath.Join(s.dir, "gateway"),
		"--s3-listen", s.addr, "--webhdfs-listen", "off", "--admin-listen", "off"}, sockets...), env)
}

// serveReverse passes requests on by the standard library.
func serveReverse(addr, behind string) error {
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: behind})
	p.Transport = &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	return http.ListenAndServe(addr, p)
}

// serveSplice is as little of a proxy as passes a GET on.
func serveSplice(addr, behind string) error {
	to, err := netip.ParseAddrPort(behind)
	if err != nil {
		return err
	}
	return acceptRaw(addr, func(fd int) {
		defer unix.Close(fd)
		if err := spliceConn(fd, to); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	})
}

// spliceConn passes the requests of one connection on, one after the other, until it ends.
func spliceConn(fd int, to netip.AddrPort) error {
	up, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(up)
	if err := unix.Connect(up, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	if _, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_SETPIPE_SZ, mib); err != nil {
		return err
	}
	buf := make([]byte, 16<<10)
	for {
		request, err := readHead(fd, buf)
		if err != nil || request == 0 {
			return err
		}
		if err := writeFull(up, buf[:request]); err != nil {
			return err
		}
		n, err := readHead(up, buf)
		if err != nil {
			return err
		}
		end := bytes.Index(buf[:n], crlfcrlf) + len(crlfcrlf)
		length, err := strconv.Atoi(string(field(buf[:end], "content-length")))
		if err != nil {
			return fmt.Errorf("no length in the answer: %w", err)
		}
		if err := writeFull(fd, buf[:n]); err != nil {
			return err
		}
		for left := length - (n - end); left > 0; {
			in, err := unix.Splice(up, nil, pipe[1], nil, min(left, mib), unix.SPLICE_F_MOVE|unix.SPLICE_F_MORE)
			if err == unix.EINTR {
				continue
			}
			if err != nil || in == 0 {
				return err
			}
			left -= int(in)
			for in > 0 {
				out, err := unix.Splice(pipe[0], nil, fd, nil, int(in), unix.SPLICE_F_MOVE|unix.SPLICE_F_MORE)
				if err != nil && err != unix.EINTR {
					return nil // the client has gone
				}
				in -= max(0, out)
			}
		}
	}
}

// readHead reads until buf holds a head, and returns how much it holds: 0 if the connection ended before.
func readHead(fd int, buf []byte) (n int, err error) {
	for !bytes.Contains(buf[:n], crlfcrlf) {
		k, err := unix.Read(fd, buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || k == 0 {
			return 0, nil
		}
		n += k
	}
	return n, nil
}

func writeFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(0, n):]
	}
	return nil
}

// total is the processor time that the server and those behind it have used so far.
func (s *server) total() (d time.Duration) {
	d = s.cpu()
	for _, b := range s.behind {
		d += b.cpu()
	}
	return d
}
