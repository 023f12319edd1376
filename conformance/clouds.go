package conformance

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Azurite is Microsoft's emulator of Azure Blob Storage, with the account that every emulator has.
type Azurite struct {
	service
	Account, Key string
}

const azuriteVersion = "3.35.0"

// StartAzurite starts the emulator, which keeps its blobs in memory.
func StartAzurite(t testing.TB) *Azurite {
	t.Helper()
	dir := filepath.Join(CacheDir(), "azurite")
	install(t, "azurite", azuriteVersion, func() error {
		return command("", "npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", dir, "azurite@"+azuriteVersion)
	})
	addr := FreePort(t)
	_, port, _ := strings.Cut(addr, ":")
	a := &Azurite{
		service: service{URL: "http://" + addr, health: "/"}, Account: "devstoreaccount1",
		Key: "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==", // public
	}
	a.line = []string{filepath.Join(dir, "node_modules", ".bin", "azurite-blob"), "--inMemoryPersistence", "--skipApiVersionCheck",
		"--disableTelemetry", "--silent", "--blobHost", "127.0.0.1", "--blobPort", port}
	a.Start(t)
	t.Cleanup(func() { a.Stop(t) })
	return a
}

// Options are the mount options under which Sluice reaches the account.
func (a *Azurite) Options() map[string]string {
	return map[string]string{"endpoint": a.URL + "/" + a.Account, "account_key": a.Key}
}

// GCS is fake-gcs-server, which speaks the JSON API of Google Cloud Storage.
type GCS struct{ service }

const fakeGCSVersion = "v1.56.1"

// StartGCS starts the server, which keeps its objects in memory.
func StartGCS(t testing.TB) *GCS {
	t.Helper()
	dir := filepath.Join(CacheDir(), "fake-gcs-server")
	install(t, "fake-gcs-server", fakeGCSVersion, func() error {
		cmd := exec.Command("go", "install", "github.com/fsouza/fake-gcs-server@"+fakeGCSVersion)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
		cmd.Dir = os.TempDir()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	addr := FreePort(t)
	_, port, _ := strings.Cut(addr, ":")
	g := &GCS{service{URL: "http://" + addr, health: "/_internal/healthcheck"}}
	g.line = []string{filepath.Join(dir, "fake-gcs-server"), "-scheme", "http", "-host", "127.0.0.1", "-port", port, "-public-host", addr, "-backend", "memory", "-log-level", "error"}
	g.Start(t)
	t.Cleanup(func() { g.Stop(t) })
	return g
}

// MakeBucket makes a bucket of the server.
func (g *GCS) MakeBucket(t testing.TB, name string) {
	t.Helper()
	answer, err := http.Post(g.URL+"/storage/v1/b?project=test", "application/json", strings.NewReader(fmt.Sprintf(`{"name":%q}`, name)))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("make bucket %s: status %d", name, answer.StatusCode)
	}
}

// Options are the mount options under which Sluice reaches the server.
func (g *GCS) Options() map[string]string {
	return map[string]string{"endpoint": g.URL, "anonymous": "true"}
}

// StartWeb starts python3 -m http.server over a directory.
func StartWeb(t testing.TB, dir string) *service {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		Skip(t, "python3")
	}
	addr := FreePort(t)
	_, port, _ := strings.Cut(addr, ":")
	w := &service{URL: "http://" + addr, health: "/"}
	w.line = []string{python, "-m", "http.server", "--bind", "127.0.0.1", "--directory", dir, port}
	w.Start(t)
	t.Cleanup(func() { w.Stop(t) })
	return w
}
