package conformance

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"
)

// TestTLSBetweenRoles runs a cluster whose processes show certificates to each other, and knocks at its internal ports and those of
// its etcd members without one.
func TestTLSBetweenRoles(t *testing.T) {
	certs := t.TempDir()
	authority := issue(t, certs, "ca", nil)
	issue(t, certs, "node", authority)
	stranger := issue(t, certs, "other-ca", nil)
	issue(t, certs, "other", stranger)
	for key, file := range map[string]string{"CA": "ca.pem", "CERT": "node.pem", "KEY": "node.key"} {
		t.Setenv("SLUICE_INTERNAL_"+key, filepath.Join(certs, file))
	}
	c, dir := startCluster(t)
	rigs := []*rig{newRig(&Server{S3: c.S3[0]}), newRig(&Server{S3: c.S3[1]})}
	rigs[0].mkbucket(t, "secure")
	cases := 0
	for i, size := range []int64{1, 1 << 20, 70 << 20} {
		is := content{"secure", i, size}
		rigs[i%2].mustPut(t, "/secure/file", is)
		for _, r := range rigs {
			if _, _, err := r.get(t.Context(), "/secure/file", is); err != nil {
				t.Error(err)
			}
			cases++
		}
	}
	other, err := tls.LoadX509KeyPair(filepath.Join(certs, "other.pem"), filepath.Join(certs, "other.key"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(certs, "node.pem"), filepath.Join(certs, "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	var ports []string
	for _, name := range []string{"m1", "m2", "m3", "w1", "w2", "w3"} {
		b, err := os.ReadFile(filepath.Join(dir, "start-"+name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`--internal-listen (127\.0\.0\.1:\d+)|https://(127\.0\.0\.1:\d+)`).FindAllSubmatch(b, -1) {
			if addr := string(m[1]) + string(m[2]); !slices.Contains(ports, addr) {
				ports = append(ports, addr)
			}
		}
	}
	if len(ports) != 9 {
		t.Fatalf("the internal addresses are %v", ports)
	}
	listed, _ := c.nodes(t, c.Admin[0])
	var streams []string
	for _, n := range listed {
		if n.Role == "worker" {
			streams = append(streams, n.Pages)
		}
	}
	if len(streams) != 3 {
		t.Fatalf("the page streams are %v", streams)
	}
	for _, addr := range append(slices.Clone(ports), streams...) {
		ask := knock
		if slices.Contains(streams, addr) {
			ask = read
		}
		if err := ask(addr, &tls.Config{Certificates: []tls.Certificate{own}, InsecureSkipVerify: true}); err != nil {
			t.Errorf("%s does not answer a process of the cluster: %v", addr, err)
		}
		for who, config := range map[string]*tls.Config{
			"without TLS":                        nil,
			"without a certificate":              {InsecureSkipVerify: true},
			"with another authority's":           {InsecureSkipVerify: true, Certificates: []tls.Certificate{other}},
			"with another's, shown to be forced": {InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &other, nil }},
		} {
			if ask(addr, config) == nil {
				t.Errorf("%s answers somebody %s", addr, who)
			}
			cases++
		}
	}
	Minimum(t, "tls-roles", cases)
}

// knock sends what an HTTP/2 client begins with, and returns nil if the other side answers as an HTTP server.
func knock(addr string, config *tls.Config) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if config != nil {
		config.NextProtos = []string{"h2"}
		conn = tls.Client(conn, config)
	}
	// The preface and an empty SETTINGS frame: RFC 9113, 3.4.
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	var frame [9]byte
	if _, err := io.ReadFull(conn, frame[:]); err != nil {
		return err
	}
	// An etcd member may not speak HTTP/2 and say so. The hint to somebody who speaks none of TLS is in HTTP/1.0.
	if frame[3] != 4 && !bytes.HasPrefix(frame[:], []byte("HTTP/1.1")) {
		return fmt.Errorf("the answer begins with %q", frame)
	}
	return nil
}

// read sends a request to a page stream, of nothing, and returns nil if it is answered.
func read(addr string, config *tls.Config) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if config != nil {
		conn = tls.Client(conn, config)
	}
	if _, err := conn.Write(make([]byte, 4)); err != nil {
		return err
	}
	var frame [5]byte
	_, err = io.ReadFull(conn, frame[:])
	if err == nil && frame[0] != 'F' {
		err = fmt.Errorf("the answer begins with %q", frame)
	}
	return err
}

// issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue writes dir/NAME.pem and dir/NAME.key: a certificate of 127.0.0.1 signed by the authority, or of an authority if that is nil.
func issue(t *testing.T, dir, name string, authority *issued) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	signer := authority
	if authority == nil {
		of.IsCA, of.KeyUsage, of.ExtKeyUsage, of.IPAddresses = true, x509.KeyUsageCertSign, nil, nil
		signer = &issued{of, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, of, signer.cert, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &issued{cert, key}
}
