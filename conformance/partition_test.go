package conformance

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// apartMaster has the masters reach each other through proxies, and says where each is and as which process. Arguments: a
// directory, what join is instead, the binary.
const apartMaster = `#!/bin/bash
args=("$@") name= at=
for ((i = 0; i < $#; i++)); do
	case ${args[i]} in --name) name=${args[i + 1]} ;; --join) at=$((i + 1)) ;; esac
done
if [ -n "$at" ]; then
	own=${args[at]##*$name=http://}
	own=${own%%%%,*}
	echo $$ >%[1]q/$name.pid
	echo "$own" >%[1]q/$name.addr
	args[at]=%[2]q
	args+=(--internal-peer-listen "$own")
fi
exec %[3]q "${args[@]}"
`

// apart are the proxies between the masters of a cluster. Each stands before one master, and knows by its process who
// connects.
type apart struct {
	dir string
	wg  sync.WaitGroup

	mu     sync.Mutex
	cut    string            // the master that none of the others hears, nor it them; "" for none
	conns  map[net.Conn]bool // nil once it is closed
	passed int               // connections that were passed on
}

// startApart is startCluster of masters that can be kept apart.
func startApart(t *testing.T, args ...string) (c *cluster, dir string) {
	t.Helper()
	a := &apart{dir: t.TempDir(), conns: map[net.Conn]bool{}}
	var join []string
	var listeners []net.Listener
	for _, name := range []string{"m1", "m2", "m3"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners, join = append(listeners, l), append(join, name+"=http://"+l.Addr().String())
		a.wg.Go(func() { a.serve(l, name) })
	}
	t.Cleanup(func() {
		for _, l := range listeners {
			l.Close()
		}
		a.mu.Lock()
		for c := range a.conns {
			c.Close()
		}
		a.conns, a.cut = nil, ""
		a.mu.Unlock()
		a.wg.Wait()
	})
	bin := filepath.Join(a.dir, "sluice")
	if err := os.WriteFile(bin, fmt.Appendf(nil, apartMaster, a.dir, strings.Join(join, ","), Binary(t)), 0o755); err != nil {
		t.Fatal(err)
	}
	c, dir = startClusterOf(t, bin, args...)
	a.mu.Lock()
	if a.passed == 0 {
		t.Error("the masters do not reach each other through the proxies")
	}
	a.mu.Unlock()
	c.isolate = func(t testing.TB, rnd *rand.Rand) blow {
		leader := c.leads(t)
		name := leader.name
		if rnd.IntN(3) == 0 {
			name = fmt.Sprint("m", 1+rnd.IntN(3))
		}
		b := c.blowTo(c.process(t, name), name == leader.name)
		a.set(name)
		time.Sleep(500*time.Millisecond + time.Duration(rnd.Int64N(int64(3*time.Second))))
		a.set("")
		return b
	}
	return c, dir
}

// succeeds keeps masters apart until that has been the leader's turn, for long enough that another leads.
func (c *cluster) succeeds(t *testing.T, dir string) (cases int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	before := c.leader(t, dir)
	for try := 0; c.leader(t, dir) == before; try++ {
		if try == 12 {
			t.Fatalf("%s leads still, however the masters were kept apart", before.name)
		}
		c.isolate(t, rnd)
	}
	c.serves(t)
	return 1
}

func (a *apart) set(cut string) { a.mu.Lock(); defer a.mu.Unlock(); a.cut = cut }

// severed reports whether what one of the masters sends to the other does not arrive now.
func (a *apart) severed(one, other string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conns != nil && a.cut != "" && (a.cut == one || a.cut == other)
}

// keep remembers a connection, unless all is over.
func (a *apart) keep(c net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conns == nil {
		c.Close()
		return false
	}
	a.conns[c] = true
	return true
}

func (a *apart) serve(l net.Listener, to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if a.keep(c) {
			a.wg.Go(func() { a.pass(c, to) })
		}
	}
}

// pass joins a connection with one to the master to. What is sent while they are kept apart arrives when they are no more, as
// what a network sends again.
func (a *apart) pass(client net.Conn, to string) {
	defer client.Close()
	from := a.owner(client.RemoteAddr().(*net.TCPAddr).Port)
	for a.severed(from, to) {
		time.Sleep(10 * time.Millisecond)
	}
	addr, err := os.ReadFile(filepath.Join(a.dir, to+".addr"))
	if err != nil || from == "" {
		return
	}
	server, err := net.Dial("tcp", strings.TrimSpace(string(addr)))
	if err != nil || !a.keep(server) {
		return
	}
	defer server.Close()
	a.mu.Lock()
	a.passed++
	a.mu.Unlock()
	var both sync.WaitGroup
	copied := func(to, from net.Conn, names [2]string) {
		defer to.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			for a.severed(names[0], names[1]) {
				time.Sleep(10 * time.Millisecond)
			}
			if n > 0 {
				if _, err := to.Write(b[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	both.Go(func() { copied(server, client, [2]string{from, to}) })
	both.Go(func() { copied(client, server, [2]string{from, to}) })
	both.Wait()
	a.mu.Lock()
	delete(a.conns, client)
	delete(a.conns, server)
	a.mu.Unlock()
}

// owner returns which master has a socket of a local port, "" if none.
// Source: proc_net_tcp(5): sl, local_address, rem_address, st, five more, inode.
func (a *apart) owner(port int) string {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return ""
	}
	socket := ""
	for line := range bytes.Lines(table) {
		if f := strings.Fields(string(line)); len(f) > 9 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			socket = "socket:[" + f[9] + "]"
		}
	}
	for _, name := range []string{"m1", "m2", "m3"} {
		pid, err := os.ReadFile(filepath.Join(a.dir, name+".pid"))
		if err != nil {
			continue
		}
		links, _ := filepath.Glob("/proc/" + strings.TrimSpace(string(pid)) + "/fd/*")
		for _, link := range links {
			if at, err := os.Readlink(link); err == nil && at == socket {
				return name
			}
		}
	}
	return ""
}
