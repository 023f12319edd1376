package conformance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Python returns the interpreter of a virtual environment that has the packages of clients/requirements.txt.
func Python(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(CacheDir(), "py")
	python := filepath.Join(dir, "bin", "python")
	install(t, "python", requirements, func() error {
		if err := command("", "python3", "-m", "venv", "--clear", dir); err != nil {
			return err
		}
		return command("", python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", filepath.Join("clients", "requirements.txt"))
	})
	return python
}

//go:embed clients/requirements.txt
var requirements string

//go:embed clients/hadoop.xml
var hadoopPOM string

//go:embed clients/s3a.xml
var s3aPOM string

//go:embed clients/distcp.xml
var distcpPOM string

// Jars returns a directory with the jars of a POM of clients/: "hadoop" (FsShell), "s3a" (hadoop-aws for Spark) or "distcp" (DistCp alone,
// which runs with what Spark has).
func Jars(t testing.TB, name string) string {
	t.Helper()
	pom := map[string]string{"hadoop": hadoopPOM, "s3a": s3aPOM, "distcp": distcpPOM}[name]
	dir := filepath.Join(CacheDir(), "jars-"+name)
	install(t, "jars-"+name, pom, func() error {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		return command("", "mvn", "-q", "-B", "-f", filepath.Join("clients", name+".xml"), "dependency:copy-dependencies", "-DoutputDirectory="+dir)
	})
	return dir
}

const versitygwVersion = "v1.8.0"

// Versitygw returns the binary of versitygw, a separate S3 server.
func Versitygw(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(CacheDir(), "versitygw")
	install(t, "versitygw", versitygwVersion, func() error {
		cmd := exec.Command("go", "install", "github.com/versity/versitygw/cmd/versitygw@"+versitygwVersion)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
		cmd.Dir = os.TempDir()
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	return filepath.Join(dir, "versitygw")
}

// Etcd returns the binary of an etcd server, of the version that the masters' own is.
func Etcd(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "go.etcd.io/etcd/server/v3").Output()
	if err != nil {
		Skip(t, "go list: %v", err)
	}
	bin := filepath.Join(CacheDir(), "etcd", "etcd")
	install(t, "etcd", string(out), func() error { return command("", "go", "build", "-o", bin, "go.etcd.io/etcd/server/v3") })
	return bin
}

// Java returns the java of a JDK that Hadoop 3.4 runs on.
func Java(t testing.TB) string {
	t.Helper()
	for _, java := range []string{"/usr/lib/jvm/java-17-openjdk-amd64/bin/java", os.Getenv("JAVA_HOME") + "/bin/java", "java"} {
		out, err := exec.Command(java, "-version").CombinedOutput()
		if err == nil && (strings.Contains(string(out), `version "17`) || strings.Contains(string(out), `version "11`)) {
			return java
		}
	}
	Skip(t, "a JDK 17 (Debian: openjdk-17-jre-headless)")
	return ""
}

// Curl returns the curl command.
func Curl(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		Skip(t, "curl (Debian: apt-get install curl)")
	}
	return path
}

// Strace returns the strace command.
func Strace(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		install(t, "strace", "apt", func() error { return command("", "apt-get", "install", "-y", "-qq", "strace") })
		if path, err = exec.LookPath("strace"); err != nil {
			Skip(t, "strace (Debian: apt-get install strace)")
		}
	}
	return path
}

// install does once, for all processes that share the cache, what brings the tool name in the state that stamp describes.
func install(t testing.TB, name, stamp string, do func() error) {
	t.Helper()
	dir := CacheDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	done := filepath.Join(dir, name+".stamp")
	if have, err := os.ReadFile(done); err == nil && string(have) == stamp {
		return
	}
	if os.Getenv("SLUICE_REQUIRE") == "" && os.Getenv("SLUICE_INSTALL") == "" {
		t.Skipf("%s is not installed; SLUICE_INSTALL=1 lets the test install it under %s", name, dir)
	}
	if err := do(); err != nil {
		Skip(t, "%s: %v", name, err)
	}
	if err := os.WriteFile(done, []byte(stamp), 0o644); err != nil {
		t.Fatal(err)
	}
}

func command(dir string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", argv[0], err, tail(string(out)))
	}
	return nil
}

// Certificate writes a self-signed certificate for loopback and returns its files.
func Certificate(t testing.TB) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sluice test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost", "*.localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(file, kind string, der []byte) {
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(cert, "CERTIFICATE", der)
	write(key, "PRIVATE KEY", kder)
	return cert, key
}
