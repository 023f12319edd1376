package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stall is how long a connection may make no progress while it has work to do. It bounds how long a client that stopped
// reading pins pages of the cache, and is far beyond any pause of a client that is alive: a Spark task that reads a block
// and computes on it for minutes comes back to the same connection.
const stall = 10 * time.Minute

// listen opens the address of the listener called name. flag is what chooses another.
// Its errors say what is wrong and what to do about it.
func listen(ctx context.Context, name, addr, flag string) (net.Listener, error) {
	c := net.ListenConfig{Control: boundUnsent}
	c.SetMultipathTCP(false) // its connections would not have the listener's options
	l, err := c.Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return progressListener{l.(*net.TCPListener)}, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %s is in use by another process%s; stop it or choose another with --%s", name, addr, holder(addr), flag)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: this user may not listen on %s; choose a port from 1024 on with --%s", name, addr, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s: %s is no address of this machine; choose another with --%s", name, addr, flag)
	}
	return nil, fmt.Errorf("%s: cannot listen on %s: %w; choose another with --%s", name, addr, err, flag)
}

// unsent is how many bytes of a connection the kernel keeps that it has not sent yet. What is on its way comes on top, as much as
// the path holds; but for a client that does not read, the kernel would keep up to 4 MiB, and some hundred of those take all
// memory that it has for TCP, after which every connection of the machine stands still.
const unsent = 256 << 10

// boundUnsent sets the bound on a listening socket, from which its connections have it. Source: tcp(7), TCP_NOTSENT_LOWAT.
func boundUnsent(_, _ string, c syscall.RawConn) (err error) {
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent) }); cerr != nil {
		return cerr
	}
	return err
}

// holder says which process listens on addr's port, " (pid 17, nginx)", or "" where the system does not tell.
func holder(addr string) string {
	_, service, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return ""
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if inode := listeningInode(table, uint16(port)); inode != "" {
			return owner(inode)
		}
	}
	return ""
}

// listeningInode finds the inode of the socket that listens on port.
// Source: proc_net_tcp(5): sl, local_address, rem_address, st (0A is LISTEN), five more, inode.
func listeningInode(table string, port uint16) string {
	f, err := os.Open(table)
	if err != nil {
		return ""
	}
	defer f.Close()
	suffix := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], suffix) {
			return f[9]
		}
	}
	return ""
}

// owner names the process that has the socket open. Other users' processes cannot be looked into.
func owner(inode string) string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == "socket:["+inode+"]" {
			pid := strings.Split(link, "/")[2]
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Sprintf(" (pid %s, %s)", pid, strings.TrimSpace(string(name)))
		}
	}
	return ""
}

// progressListener hands out connections whose writes fail once the peer has not taken a byte for the time of a stall.
type progressListener struct{ *net.TCPListener }

func (l progressListener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return &progressConn{TCPConn: c}, nil
}
