package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/kvtest"
	"github.com/sluicefs/sluice/etcd"
)

// external starts an etcd with its own defaults on TCP, as somebody else would run it, and returns its endpoint.
func external(t testing.TB, files etcd.TLS, change ...func(*embed.Config)) string {
	t.Helper()
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs, c.UnsafeNoFsync = t.TempDir(), "panic", []string{"/dev/null"}, true
	addrs := freeAddrs(t, 2)
	client, peer := url.URL{Scheme: "http", Host: addrs[0]}, url.URL{Scheme: "http", Host: addrs[1]}
	if files.Cert != "" {
		client.Scheme = "https"
		c.ClientTLSInfo = transport.TLSInfo{TrustedCAFile: files.CA, CertFile: files.Cert, KeyFile: files.Key, ClientCertAuth: true}
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	for _, f := range change {
		f(c)
	}
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(10 * time.Second):
		t.Fatal("etcd does not start")
	}
	return client.String()
}

func connect(t testing.TB, o etcd.ClientOptions) *etcd.Client {
	t.Helper()
	c, err := etcd.Connect(within(t, 10*time.Second), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestClientKV(t *testing.T) {
	t.Parallel()
	endpoint := external(t, etcd.TLS{})
	var n atomic.Int64
	kvtest.Run(t, func(t *testing.T) meta.KV {
		return connect(t, etcd.ClientOptions{Endpoints: []string{endpoint}, Prefix: fmt.Sprintf("/%d/", n.Add(1))}).KV()
	})
}

func TestConnectRefused(t *testing.T) {
	for name, o := range map[string]etcd.ClientOptions{
		"no endpoint":            {},
		"no scheme":              {Endpoints: []string{"127.0.0.1:2379"}},
		"plain beside TLS":       {Endpoints: []string{"http://127.0.0.1:2379"}, TLS: etcd.TLS{CA: "ca.pem"}},
		"a key alone":            {Endpoints: []string{"https://127.0.0.1:2379"}, TLS: etcd.TLS{Key: "k.pem"}},
		"files that are missing": {Endpoints: []string{"https://127.0.0.1:2379"}, TLS: etcd.TLS{CA: "/nonexistent/ca.pem"}},
		"a password alone":       {Endpoints: []string{"http://127.0.0.1:2379"}, Password: "p"},
	} {
		if c, err := etcd.Connect(t.Context(), o); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v, %v, want Invalid", name, c, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := etcd.Connect(ctx, etcd.ClientOptions{Endpoints: []string{"http://" + freeAddrs(t, 1)[0]}})
	if !errors.Is(err, errs.Unavailable) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody there: got %v", err)
	}
}

func TestOutdated(t *testing.T) {
	for version, want := range map[string]bool{
		"3.4.23": true, "3.5.30": true, "3.6.13": true, "3.6.14": false, "3.6.20": false, "3.7.0": true, "3.7.1": false, "3.7.3": false,
		"3.8.0": false, "4.0.0": false, "3.7.0-rc.1": true, "": true, "unknown": true,
	} {
		if got := etcd.Outdated(version); got != want {
			t.Errorf("%q: got %v, want %v", version, got, want)
		}
	}
}

// TestClientAuth shows certificates and a password to a cluster that asks for both.
func TestClientAuth(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	endpoint := external(t, ca.issue(t, "server"), func(c *embed.Config) { c.BcryptCost = 4 }) // the least, as it is slow by design
	files := ca.issue(t, "client")
	if c, err := etcd.Connect(within(t, time.Second), etcd.ClientOptions{Endpoints: []string{endpoint}, TLS: etcd.TLS{CA: files.CA}}); err == nil {
		c.Close()
		t.Error("connected without a certificate")
	}
	o := etcd.ClientOptions{Endpoints: []string{endpoint}, TLS: files}
	put(t, connect(t, o).KV(), "k", "v")

	config, err := transport.TLSInfo{TrustedCAFile: files.CA, CertFile: files.Cert, KeyFile: files.Key}.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: config})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx := within(t, 10*time.Second)
	_, err1 := admin.UserAdd(ctx, "root", "secret")
	_, err2 := admin.UserGrantRole(ctx, "root", "root")
	_, err3 := admin.AuthEnable(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	o.User, o.Password = "root", "wrong"
	if _, err := etcd.Connect(ctx, o); !errors.Is(err, errs.Permission) {
		t.Errorf("a wrong password: got %v, want Permission", err)
	}
	o.Password = "secret"
	if got, err := connect(t, o).KV().Get(ctx, "k"); err != nil || string(got.Value) != "v" {
		t.Errorf("got %q, %v", got.Value, err)
	}
}

// proxy passes TCP connections on until it is cut.
type proxy struct {
	l     net.Listener
	mu    sync.Mutex
	conns []net.Conn
	done  bool
}

func newProxy(t testing.TB, endpoint string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, to := &proxy{l: l}, strings.TrimPrefix(endpoint, "http://")
	var all sync.WaitGroup
	t.Cleanup(func() { p.cut(); all.Wait() })
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			p.keep(in, out)
			all.Go(func() { io.Copy(in, out); in.Close() })
			all.Go(func() { io.Copy(out, in); out.Close() })
		}
	})
	return p
}

func (p *proxy) endpoint() string { return "http://" + p.l.Addr().String() }

func (p *proxy) keep(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns = append(p.conns, conns...); p.done {
		p.closeAll()
	}
}

// cut ends all connections and takes no more.
func (p *proxy) cut() {
	p.l.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	p.closeAll()
}

func (p *proxy) closeAll() {
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// candidate is a member that stands for election through a client of its own.
type candidate struct {
	*etcd.Client
	cluster.Election
}

func stand(t testing.TB, endpoint, name string) candidate {
	t.Helper()
	c := connect(t, etcd.ClientOptions{Endpoints: []string{endpoint}})
	e, err := c.Election("root", cluster.Member{Name: name, Addr: name + ".example:7000"}, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return candidate{c, e}
}

// campaign campaigns in the background and sends the reign.
func (c candidate) campaign(t testing.TB) <-chan *cluster.Reign {
	won := make(chan *cluster.Reign, 1)
	ctx := within(t, 15*time.Second)
	go func() {
		r, err := c.Campaign(ctx)
		if err != nil {
			t.Error(err)
		}
		won <- r
	}()
	return won
}

// lives fails if the reign is over.
func lives(t testing.TB, r *cluster.Reign) {
	t.Helper()
	if r == nil || r.Err() != nil {
		t.Fatalf("the reign is over: %v", r.Err())
	}
}

// TestSessionElection passes leadership on in every way there is.
func TestSessionElection(t *testing.T) {
	t.Parallel()
	endpoint := external(t, etcd.TLS{})
	between := newProxy(t, endpoint)
	a, b := stand(t, between.endpoint(), "a"), stand(t, endpoint, "b")
	if _, err := a.Leader(t.Context()); !errors.Is(err, errs.NotExist) {
		t.Errorf("Leader before there is one: got %v, want NotExist", err)
	}
	reign := <-a.campaign(t)
	lives(t, reign)
	if again := <-a.campaign(t); again != reign {
		t.Error("a second Campaign in one reign gives another")
	}
	if err := a.Handover(t.Context(), "b"); !errors.Is(err, errs.NotExist) {
		t.Errorf("Handover to who does not stand: got %v, want NotExist", err)
	}
	next := b.campaign(t)
	began := time.Now()
	// The candidate's key is there a moment after its campaign began.
	eventually(t, func() error { began = time.Now(); return a.Handover(t.Context(), "b") })
	if reign.Err() == nil {
		t.Error("the reign outlived the handover")
	}
	reign = <-next
	t.Logf("handover took %v", time.Since(began).Round(time.Millisecond))
	lives(t, reign)
	if got, err := a.Leader(t.Context()); err != nil || got != (cluster.Member{Name: "b", Addr: "b.example:7000"}) {
		t.Errorf("Leader: got %+v, %v", got, err)
	}
	if err := a.Handover(t.Context(), ""); !errors.Is(err, errs.Precondition) {
		t.Errorf("Handover by who does not lead: got %v, want Precondition", err)
	}

	next = a.campaign(t)
	if err := a.Depose(t.Context(), "root", "a"); !errors.Is(err, errs.NotExist) {
		t.Errorf("Depose of who does not lead: got %v, want NotExist", err)
	}
	old := fence(t, b.KV(), "b")
	began = time.Now()
	if err := a.Depose(t.Context(), "root", "b"); err != nil {
		t.Fatal(err)
	}
	ended(t, reign)
	reign = <-next
	t.Logf("another after %v of a deposition", time.Since(began).Round(time.Millisecond))
	lives(t, reign)
	fence(t, a.KV(), "a")
	if ok, _, err := b.KV().Txn(t.Context(), meta.Txn{If: []meta.Compare{old}, Puts: []meta.KeyValue{{Key: "late"}}}); ok || err != nil {
		t.Errorf("a write by the deposed leader: %v, %v", ok, err)
	}

	next = b.campaign(t)
	began = time.Now()
	between.cut()
	ended(t, reign)
	over := time.Now()
	successor := <-next
	t.Logf("leader cut off: its reign over after %v, another after %v", over.Sub(began).Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	lives(t, successor)
	if took := time.Since(began); took < time.Second {
		t.Errorf("another leads after %v, before the lease of the first can have expired", took)
	}
	a.Close()
	if _, err := a.Campaign(within(t, 5*time.Second)); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Campaign of a closed client: got %v, want Unavailable", err)
	}
}

// TestSessionClose gives leadership up at once.
func TestSessionClose(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	endpoint := external(t, etcd.TLS{})
	a, b := stand(t, endpoint, "a"), stand(t, endpoint, "b")
	reign := <-a.campaign(t)
	seen := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range b.Observe(ctx) {
			if err != nil {
				return
			}
			if m.Name != "" {
				seen <- m.Name
			}
		}
	}()
	if got := <-seen; got != "a" {
		t.Errorf("the leader is %s, want a", got)
	}
	next, began := b.campaign(t), time.Now()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(reign.Err(), cluster.ErrClosed) {
		t.Errorf("the reign ended by %v", reign.Err())
	}
	lives(t, <-next)
	if took := time.Since(began); took > time.Second {
		t.Errorf("another leads only after %v", took)
	}
	if got := <-seen; got != "b" {
		t.Errorf("the leader is %s, want b", got)
	}
	cancel()
	<-done
}
