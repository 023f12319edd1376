package azureufs

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/needtest"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// The account of every emulator, whose key is public.
// Source: https://learn.microsoft.com/azure/storage/common/storage-connect-azurite
const (
	account = "devstoreaccount1"
	key     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// azurite starts Microsoft's emulator, if it is in PATH or $SLUICE_CACHE, and returns the account's endpoint.
func azurite(t *testing.T) string {
	t.Helper()
	if endpoint != "" {
		return endpoint
	}
	binary := needtest.Server(t, "azurite-blob", "azurite", "node_modules", ".bin", "azurite-blob")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(binary, "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent",
		"--blobHost", "127.0.0.1", "--blobPort", port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	needtest.Listens(t, addr)
	endpoint = "http://" + addr + "/" + account
	return endpoint
}

// The emulator of all tests, and what ends it: it takes some seconds to start.
var (
	endpoint string
	stop     = func() {}
)

func TestMain(m *testing.M) {
	code := m.Run()
	stop()
	os.Exit(code)
}

// open returns a store in the emulator, in a container that is made if it is missing.
func open(t *testing.T, o Options) *Store {
	t.Helper()
	if o.Account = account; o.Key == "" && o.SAS == "" && !o.Anonymous {
		o.Key = key
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func makeContainer(t *testing.T, s *Store) {
	t.Helper()
	if _, err := s.container.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

func TestAzurite(t *testing.T) {
	endpoint := azurite(t)
	makeContainer(t, open(t, Options{Container: "suite", Endpoint: endpoint}))
	var n atomic.Int32
	fresh := func(t *testing.T) *Store {
		s := open(t, Options{Container: "suite", Endpoint: endpoint, Prefix: fmt.Sprintf("t%d", n.Add(1))})
		if err := s.Probe(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Run("plain", func(t *testing.T) {
		ufstest.Run(t, func(t *testing.T) ufs.Store { return fresh(t) }, azuriteDeviations...)
	})
	t.Run("decorated", func(t *testing.T) {
		ufstest.Run(t, func(t *testing.T) ufs.Store {
			return wrap.Retry(wrap.Isolate(wrap.Timeout(fresh(t), time.Minute, time.Minute), wrap.IsolateOptions{Calls: 8, Queue: 64, Adapt: true}), 3, time.Millisecond)
		}, azuriteDeviations...)
	})
}

var azuriteDeviations = []ufstest.Deviation{
	{Test: "Names/names with control characters and backslashes are byte-exact", Reason: "names with a backslash, which it takes for a slash, are refused; cannot list control characters"},
}
