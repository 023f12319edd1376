package etcd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/etcd"
)

// authority signs certificates for 127.0.0.1.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.sign(t, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue returns the files of a certificate that serves and dials.
func (a *authority) issue(t testing.TB, name string) etcd.TLS {
	t.Helper()
	a.sign(t, name, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return etcd.TLS{CA: a.file("ca.pem"), Cert: a.file(name + ".pem"), Key: a.file(name + ".key")}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// sign makes a key and a certificate for it, signed by the authority, or by itself if there is none yet.
func (a *authority) sign(t testing.TB, name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.file(name+".pem"), "CERTIFICATE", der)
	writePEM(t, a.file(name+".key"), "EC PRIVATE KEY", private)
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c, key
}

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// client returns an HTTP client that trusts the authority and shows the certificate of files, none if they are not named.
func (a *authority) client(t testing.TB, files etcd.TLS) *http.Client {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	config.RootCAs.AddCert(a.cert)
	if files.Cert != "" {
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	return &http.Client{Transport: transport, Timeout: 5 * time.Second}
}

// TestTLS runs three members that show each other certificates, and refuses who has none or another authority's.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	all := options(t, 3)
	for i := range all {
		all[i].TLS = ca.issue(t, all[i].Name)
		for name, peer := range all[i].Join {
			all[i].Join[name] = strings.Replace(peer, "http:", "https:", 1)
		}
	}
	m := startAll(t, all)
	lead, _ := m.leader(t)
	put(t, lead.KV(), "k", "v")
	members := all[0].Join["m0"] + "/members"
	if r, err := ca.client(t, all[1].TLS).Get(members); err != nil {
		t.Errorf("a member: %v", err)
	} else if r.Body.Close(); r.StatusCode != http.StatusOK {
		t.Errorf("a member: got %s", r.Status)
	}
	for name, files := range map[string]etcd.TLS{"nobody": {}, "a stranger": stranger.issue(t, "m1")} {
		if r, err := ca.client(t, files).Get(members); err == nil {
			r.Body.Close()
			t.Errorf("%s was answered %s", name, r.Status)
		}
	}
	if r, err := http.Get(strings.Replace(members, "https:", "http:", 1)); err == nil {
		r.Body.Close()
		if r.StatusCode == http.StatusOK {
			t.Error("answered without TLS")
		}
	}
	eventually(t, func() error { return lead.AddLearner(t.Context(), "https://127.0.0.1:1") })
	// The probes of a change are made with the member's own certificate.
	if err := lead.Change(t.Context(), etcd.Change{Remove: []string{"https://127.0.0.1:1"}}); err != nil {
		t.Errorf("Change: %v", err)
	}
}
