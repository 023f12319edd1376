package remote_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/remote"
)

// authority issues certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	c := a.issue("authority")
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

// issue returns a certificate for 127.0.0.1 in the name; the first one is the authority's own.
func (a *authority) issue(name string) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: a.cert == nil, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = cert, key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) client(name string) *tls.Config {
	return &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{a.issue(name)}}
}

func TestOnlyVerifiedPeersAreAnswered(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	var calls atomic.Int32
	f := &fake{
		stat: func(ctx context.Context, p core.Path) (core.Info, error) { calls.Add(1); return named(ctx, p) },
		open: func(context.Context, core.Path, core.Range) (core.Reader, error) {
			calls.Add(1)
			return nil, errs.E("test.Open", "", errs.NotExist, nil)
		},
	}
	admin := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	s, err := remote.NewServer(remote.ServerOptions{Tree: f, Authenticator: users{}, Admin: admin, Authorize: func(c tls.ConnectionState) error {
		if c.PeerCertificates[0].Subject.CommonName != "gateway" {
			return errors.New("not a gateway")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{ours.issue("master")}, ClientCAs: ours.pool, ClientAuth: tls.RequireAndVerifyClientCert}
	options, err := remote.GRPCOptions(config)
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := listen(t, s, options)
	noCert := ours.client("gateway")
	noCert.Certificates = nil
	stranger := theirs.client("gateway")
	stranger.RootCAs = ours.pool
	wrongServer := ours.client("gateway")
	wrongServer.RootCAs = theirs.pool
	for _, k := range []struct {
		name   string
		config *tls.Config
		ok     bool
	}{
		{"a gateway", ours.client("gateway"), true}, {"another of ours", ours.client("worker"), false}, {"no TLS", nil, false},
		{"no certificate", noCert, false}, {"another authority's", stranger, false}, {"a server of another authority", wrongServer, false},
	} {
		calls.Store(0)
		o := quick(addr)
		o.TLS, o.Patience = k.config, 400*time.Millisecond
		c := dial(t, o)
		_, serr := c.Stat(t.Context(), core.Root)
		_, oerr := c.Open(t.Context(), core.Root, core.All)
		_, _, _, aerr := ask(t.Context(), t, c.Tunnel(addr), "GET", "/", nil) // to this server, which answers none so
		if k.ok {
			_, _, _, aerr = ask(t.Context(), t, c.Tunnel(""), "GET", "/", nil)
		}
		if k.ok && (serr != nil || !errors.Is(oerr, errs.NotExist) || aerr != nil || calls.Load() != 3) {
			t.Errorf("%s: got %v, %v, %v after %d calls", k.name, serr, oerr, aerr, calls.Load())
		}
		if !k.ok && (!errors.Is(serr, errs.Unavailable) || !errors.Is(oerr, errs.Unavailable) || !errors.Is(aerr, errs.Unavailable) || calls.Load() != 0) {
			t.Errorf("%s: got %v, %v, %v after %d calls", k.name, serr, oerr, aerr, calls.Load())
		}
	}
	for _, lax := range []*tls.Config{{}, {ClientAuth: tls.RequireAnyClientCert, ClientCAs: ours.pool}, {ClientAuth: tls.RequireAndVerifyClientCert}} {
		if _, err := remote.GRPCOptions(lax); !errors.Is(err, errs.Invalid) {
			t.Errorf("a configuration that lets everybody in: got %v", err)
		}
	}
}

// TestStrangersWithoutTLS calls from an address that is not loopback.
func TestStrangersWithoutTLS(t *testing.T) {
	for _, trust := range []bool{false, true} {
		s, err := remote.NewServer(remote.ServerOptions{Tree: &fake{stat: named}, Authenticator: users{}, TrustNetwork: trust})
		if err != nil {
			t.Fatal(err)
		}
		options, err := remote.GRPCOptions(nil)
		if err != nil {
			t.Fatal(err)
		}
		g := grpc.NewServer(options...)
		s.Register(g)
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- g.Serve(elsewhere{inner}) }()
		o := quick(inner.Addr().String())
		o.Patience = 400 * time.Millisecond
		c := dial(t, o)
		if _, err := c.Stat(t.Context(), core.Root); trust != (err == nil) || !trust && !errors.Is(err, errs.Unavailable) {
			t.Errorf("trusted %v: got %v", trust, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// elsewhere is a listener whose connections come from another machine.
type elsewhere struct{ net.Listener }

func (l elsewhere) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return foreignConn{c}, nil
}

type foreignConn struct{ net.Conn }

func (foreignConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

func TestRevokedKeysAreRefused(t *testing.T) {
	f := &fake{
		stat: named,
		open: func(context.Context, core.Path, core.Range) (core.Reader, error) {
			return nil, errs.E("test.Open", "", errs.NotExist, nil)
		},
	}
	addr, _ := serve(t, remote.ServerOptions{Tree: f, Authenticator: users{}, Admit: func(_ context.Context, p core.Principal) error {
		if p.AccessKey == "revoked" {
			return errs.New("test.Admit", p.AccessKey, errs.Permission, "the key was revoked")
		}
		return nil
	}}, 0)
	c := dial(t, remote.Options{Addrs: []string{addr}})
	for _, key := range []string{"revoked", "valid"} {
		ctx := core.WithPrincipal(t.Context(), core.Principal{User: "ann", AccessKey: key})
		_, serr := c.Stat(ctx, core.Root)
		_, oerr := c.Open(ctx, core.Root, core.All)
		if refused := key == "revoked"; errors.Is(serr, errs.Permission) != refused || errors.Is(oerr, errs.Permission) != refused {
			t.Errorf("%s: got %v and %v", key, serr, oerr)
		}
	}
}

func TestAuthenticator(t *testing.T) {
	addr, _ := serve(t, remote.ServerOptions{Tree: &fake{}, Authenticator: users{}}, 0)
	c := dial(t, remote.Options{Addrs: []string{addr}})
	secret, p, err := c.Secret(t.Context(), "known")
	if err != nil || secret != "secret" || p.User != "ann" || len(p.Groups) != 2 || p.AccessKey != "known" {
		t.Errorf("got %q, %+v, %v", secret, p, err)
	}
	if _, _, err := c.Secret(t.Context(), "other"); !errors.Is(err, errs.NotExist) {
		t.Errorf("got %v", err)
	}
	if p, err := c.User(t.Context(), "bob"); err != nil || p.User != "bob" || !p.In("of bob") {
		t.Errorf("got %+v, %v", p, err)
	}
	if _, err := remote.NewServer(remote.ServerOptions{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("got %v", err)
	}
}
