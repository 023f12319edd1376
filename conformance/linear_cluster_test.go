package conformance

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// cluster is what histories are made on: the endpoints of one namespace, any of which may be asked for anything, and the
// processes behind them.
type cluster struct {
	S3, WebHDFS, Admin []string // URLs
	processes          []*member
	proxies            []*proxy // in front of some of the endpoints
	// isolate keeps a master and the others apart for a time; nil if nothing here can.
	isolate func(t testing.TB, rnd *rand.Rand) blow
	leads   func(t testing.TB) *member // which process leads; nil if nobody here knows
}

// blow is what a fault has struck.
type blow struct {
	at time.Time // when it took effect
	// by reports whether what a client sent went by what was struck: all of it, if that was the leader.
	by func(client int) bool
}

// everybody is by of a blow that strikes what all changes go by.
func everybody(int) bool { return true }

// any reports whether something of what clients sent can have gone by it.
func (b blow) any() bool {
	for client := range linearClients {
		if b.by(client) {
			return true
		}
	}
	return false
}

// blowTo is what strikes a process now.
func (c *cluster) blowTo(p *member, leads bool) blow {
	b := blow{at: time.Now(), by: everybody}
	if gateway := slices.Index([]string{"g1", "g2"}, p.name); !leads {
		b.by = func(client int) bool { return gateway >= 0 && client%len(c.S3) == gateway }
	}
	return b
}

// member is one process of a cluster.
type member struct {
	name string
	pid  int
	// restart starts it again after its end, with the clocks that count from boot moved by ahead, and returns its new id.
	// It returns when the process is ready. nil if nobody here can start it.
	restart func(t testing.TB, ahead time.Duration) (pid int)
}

// readCluster reads what a start script says about the cluster it has started: the first line, in JSON,
// {"s3": [url…], "webhdfs": [url…], "admin": [url…], "pids": {name: pid}}. What else the script says is not looked at.
// restart starts the process of a name again; it may be nil.
func readCluster(r io.Reader, restart func(t testing.TB, name string, ahead time.Duration) (pid int)) (*cluster, error) {
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil && (err != io.EOF || len(line) == 0) {
		return nil, fmt.Errorf("the start script said nothing: %w", err)
	}
	var doc struct {
		S3, WebHDFS, Admin []string
		Pids               map[string]int
	}
	if err := json.Unmarshal(line, &doc); err != nil {
		return nil, fmt.Errorf("the start script said %.200q: %w", line, err)
	}
	for kind, urls := range map[string][]string{"s3": doc.S3, "webhdfs": doc.WebHDFS, "admin": doc.Admin} {
		if len(urls) == 0 && kind != "admin" {
			return nil, fmt.Errorf("the cluster has no %s endpoint", kind)
		}
		for _, text := range urls {
			if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return nil, fmt.Errorf("the %s endpoint %q is not the URL of one", kind, text)
			}
		}
	}
	c := &cluster{S3: doc.S3, WebHDFS: doc.WebHDFS, Admin: doc.Admin}
	for _, name := range sorted(doc.Pids) {
		p := &member{name: name, pid: doc.Pids[name]}
		if p.pid <= 1 {
			return nil, fmt.Errorf("the process id of %s is %d", name, p.pid)
		}
		if restart != nil {
			p.restart = func(t testing.TB, ahead time.Duration) int { return restart(t, name, ahead) }
		}
		c.processes = append(c.processes, p)
	}
	return c, nil
}

// single is the cluster of one server that is started by hand.
func single(t testing.TB, o Options) *cluster {
	t.Helper()
	s := Start(t, o)
	o.Ports = s
	p := &member{name: "sluice", pid: s.Pid()}
	p.restart = func(t testing.TB, ahead time.Duration) int {
		s.Kill() // has been: this waits until its ports are free
		again := o
		again.Exec = shifted(ahead)
		s = Start(t, again)
		return s.Pid()
	}
	return &cluster{S3: []string{s.S3}, WebHDFS: []string{s.WebHDFS}, Admin: []string{s.Admin}, processes: []*member{p},
		leads: func(testing.TB) *member { return p }}
}

// kill ends the process as kill -9 does, and waits until it is gone.
func (p *member) kill(t testing.TB) {
	t.Helper()
	if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %s: %v", p.name, err)
	}
	eventually(t, 10*time.Second, func() error {
		if err := syscall.Kill(p.pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("%s is still there", p.name)
		}
		return nil
	})
}

// stop stops the process for a time.
func (p *member) stop(t testing.TB, d time.Duration) {
	t.Helper()
	if err := syscall.Kill(p.pid, syscall.SIGSTOP); err != nil {
		t.Fatalf("stop %s: %v", p.name, err)
	}
	time.Sleep(d)
	if err := syscall.Kill(p.pid, syscall.SIGCONT); err != nil {
		t.Fatalf("continue %s: %v", p.name, err)
	}
}

// shifted is the command under which a process sees CLOCK_MONOTONIC and CLOCK_BOOTTIME moved. The wall clock of one
// process cannot be moved: Go's binaries read it without the C library that a preloaded one would stand in for, and time
// namespaces leave it alone.
func shifted(ahead time.Duration) []string {
	if ahead == 0 {
		return nil
	}
	s := strconv.Itoa(int(ahead.Seconds()))
	return []string{"unshare", "--time", "--monotonic", s, "--boottime", s}
}

// uptime is what a process started under argv sees as the time since boot.
func uptime(argv []string) (time.Duration, error) {
	argv = append(argv, "cat", "/proc/uptime")
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(out), " ")
	return time.ParseDuration(first + "s")
}

var errOldKernel = errors.New("unshare --time has no effect on this kernel")

// clocksMove says why the clocks of a process cannot be moved here, if so: it takes privileges, and a kernel that moves
// the process itself and not only its children into a new time namespace (Linux 6.1).
func clocksMove() error {
	const ahead = 24 * time.Hour
	now, err := uptime(nil)
	if err != nil {
		return err
	}
	moved, err := uptime(shifted(ahead))
	if err != nil {
		return fmt.Errorf("unshare --time: %w", err)
	}
	if moved < now+ahead {
		return errOldKernel
	}
	return nil
}

// proxied is the cluster with a proxy in front of every endpoint, and beside it.
func (c *cluster) proxied(t testing.TB) *cluster {
	t.Helper()
	next := &cluster{Admin: c.Admin, processes: c.processes, leads: c.leads}
	beside := func(urls []string) (all []string) {
		for _, text := range urls {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			p, err := newProxy(u.Host)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Close)
			next.proxies = append(next.proxies, p)
			all = append(all, text, u.Scheme+"://"+p.Addr())
		}
		return all
	}
	next.S3, next.WebHDFS = beside(c.S3), beside(c.WebHDFS)
	return next
}

// weather is what a proxy does to the connections through it. The zero weather is fine.
type weather struct {
	delay time.Duration // of every piece, either way
	cut   int           // one of so many pieces of answers is passed on by half, and the connection closed
}

// proxy passes connections on to an address, through its weather.
type proxy struct {
	target string
	l      net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	now   weather
	conns map[net.Conn]bool
}

func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{target: target, l: l, conns: map[net.Conn]bool{}}
	p.wg.Go(p.serve)
	return p, nil
}

// Addr returns the address it listens on.
func (p *proxy) Addr() string { return p.l.Addr().String() }

// Set changes the weather.
func (p *proxy) Set(w weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = w
}

// Close ends every connection and waits until nothing is left.
func (p *proxy) Close() {
	p.l.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.wg.Wait()
}

// keep remembers a connection for Close. It is false after it.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *proxy) drop(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *proxy) serve() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		if p.keep(client) {
			p.wg.Go(func() { p.pass(client) })
		}
	}
}

// pass joins a client's connection with one of its own to the target. When either side ends, both do; what was read by
// then is still passed on, so that a request may arrive after its client has gone.
func (p *proxy) pass(client net.Conn) {
	defer p.drop(client)
	server, err := net.Dial("tcp", p.target)
	if err != nil || !p.keep(server) {
		return
	}
	defer p.drop(server)
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client, false) })
	both.Go(func() { p.copy(client, server, true) })
	both.Wait()
}

func (p *proxy) copy(to, from net.Conn, answers bool) {
	defer to.Close()
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			p.mu.Lock()
			now := p.now
			p.mu.Unlock()
			time.Sleep(now.delay)
			if answers && now.cut > 0 && rand.IntN(now.cut) == 0 {
				to.Write(b[:n/2])
				return
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// fault is something that happens to a cluster while its clients go on. strike returns when it is over, with what it struck.
type fault struct {
	name    string
	proxied bool // clients reach some endpoints through proxies
	strike  func(t testing.TB, c *cluster, rnd *rand.Rand) blow
	needs   func(c *cluster) error // why it cannot be had on this cluster; nil if nothing is needed
	lacks   func() error           // what the machine lacks for it; nil if nothing is needed
}

// linearFaults are the faults of histories.
var linearFaults = []fault{
	{name: "none"},
	{name: "kill", needs: startsAgain, strike: func(t testing.TB, c *cluster, rnd *rand.Rand) blow {
		return c.killOne(t, rnd, 0)
	}},
	{name: "pause", needs: hasProcesses, strike: func(t testing.TB, c *cluster, rnd *rand.Rand) blow {
		p, leads := c.one(t, rnd)
		b := c.blowTo(p, leads)
		p.stop(t, 200*time.Millisecond+time.Duration(rnd.Int64N(int64(2800*time.Millisecond))))
		return b
	}},
	{name: "partition", needs: func(c *cluster) error {
		if c.isolate == nil {
			return errors.New("no masters that could be kept apart")
		}
		return nil
	}, strike: func(t testing.TB, c *cluster, rnd *rand.Rand) blow { return c.isolate(t, rnd) }},
	{name: "slow", proxied: true, strike: storm(func(rnd *rand.Rand) weather {
		return weather{delay: time.Duration(5+rnd.IntN(150)) * time.Millisecond}
	})},
	{name: "cut", proxied: true, strike: storm(func(rnd *rand.Rand) weather {
		return weather{delay: time.Duration(rnd.IntN(10)) * time.Millisecond, cut: 3}
	})},
	// Requests arrive when nobody waits for their answers any more.
	{name: "late", proxied: true, strike: storm(func(*rand.Rand) weather { return weather{delay: linearPatience + 200*time.Millisecond} })},
	{name: "clock", needs: startsAgain, lacks: clocksMove, strike: func(t testing.TB, c *cluster, rnd *rand.Rand) blow {
		now, err := uptime(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.killOne(t, rnd, []time.Duration{10 * time.Minute, 24 * time.Hour, -now / 2}[rnd.IntN(3)])
	}},
}

// possible says why the fault cannot be had on c, if so.
func (f fault) possible(c *cluster) error {
	if f.needs == nil {
		return nil
	}
	return f.needs(c)
}

// lacking says what the machine lacks for the fault, if so.
func (f fault) lacking() error {
	if f.lacks == nil {
		return nil
	}
	return f.lacks()
}

func hasProcesses(c *cluster) error {
	if len(c.processes) == 0 || c.leads == nil {
		return errors.New("the processes of the cluster are not known, or which of them leads")
	}
	return nil
}

func startsAgain(c *cluster) error {
	for _, p := range c.processes {
		if p.restart == nil {
			return fmt.Errorf("nobody here can start %s again", p.name)
		}
	}
	return hasProcesses(c)
}

// one draws a process: the leader two times of three, else any.
func (c *cluster) one(t testing.TB, rnd *rand.Rand) (p *member, leads bool) {
	leader := c.leads(t)
	if p = leader; rnd.IntN(3) == 0 {
		p = c.processes[rnd.IntN(len(c.processes))]
	}
	return p, p == leader
}

// killOne kills a process and starts it again, with its clocks moved.
func (c *cluster) killOne(t testing.TB, rnd *rand.Rand, ahead time.Duration) blow {
	p, leads := c.one(t, rnd)
	b := c.blowTo(p, leads)
	p.kill(t)
	p.pid = p.restart(t, ahead)
	return b
}

// storm lets bad weather come over all proxies for about a second. Every other endpoint has one.
func storm(draw func(*rand.Rand) weather) func(testing.TB, *cluster, *rand.Rand) blow {
	return func(_ testing.TB, c *cluster, rnd *rand.Rand) blow {
		w := draw(rnd)
		b := blow{at: time.Now(), by: func(client int) bool { return client%2 == 1 }}
		for _, p := range c.proxies {
			p.Set(w)
		}
		time.Sleep(800*time.Millisecond + time.Duration(rnd.IntN(500))*time.Millisecond)
		for _, p := range c.proxies {
			p.Set(weather{})
		}
		return b
	}
}

// wanted is how many histories must count: SLUICE_LINEAR, else fallback.
func wanted(t testing.TB, fallback int) int {
	t.Helper()
	text := os.Getenv("SLUICE_LINEAR")
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SLUICE_LINEAR=%s: want a number of histories", text)
	}
	return n
}
