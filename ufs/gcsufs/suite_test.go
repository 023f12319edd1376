package gcsufs

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/needtest"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// fakeGCS starts fake-gcs-server, if it is in PATH or $SLUICE_CACHE, and returns its endpoint.
func fakeGCS(t *testing.T) string {
	t.Helper()
	if endpoint != "" {
		return endpoint
	}
	binary := needtest.Server(t, "fake-gcs-server", "fake-gcs-server", "fake-gcs-server")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(binary, "-scheme", "http", "-host", "127.0.0.1", "-port", port, "-public-host", addr, "-backend", "memory", "-log-level", "error")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	needtest.Listens(t, addr)
	endpoint = "http://" + addr
	return endpoint
}

// The server of all tests, and what ends it.
var (
	endpoint string
	stop     = func() {}
)

func TestMain(m *testing.M) {
	code := m.Run()
	stop()
	os.Exit(code)
}

// open returns a store without credentials.
func open(t *testing.T, o Options) *Store {
	t.Helper()
	o.Anonymous = o.Credentials == ""
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// makeBucket makes a bucket of the server and returns a store in it.
func makeBucket(t *testing.T, name string) *Store {
	t.Helper()
	at := fakeGCS(t)
	answer, err := http.Post(at+"/storage/v1/b?project=test", "application/json", strings.NewReader(fmt.Sprintf(`{"name":%q}`, name)))
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("make bucket %s: status %d", name, answer.StatusCode)
	}
	return open(t, Options{Bucket: name, Endpoint: at})
}

func TestFakeGCS(t *testing.T) {
	at := makeBucket(t, "suite").o.Endpoint
	var n atomic.Int32
	fresh := func(t *testing.T) *Store {
		s := open(t, Options{Bucket: "suite", Endpoint: at, Prefix: fmt.Sprintf("t%d", n.Add(1))})
		if err := s.Probe(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Run("plain", func(t *testing.T) {
		ufstest.Run(t, func(t *testing.T) ufs.Store { return fresh(t) }, deviations...)
	})
	t.Run("decorated", func(t *testing.T) {
		ufstest.Run(t, func(t *testing.T) ufs.Store {
			return wrap.Retry(wrap.Isolate(wrap.Timeout(fresh(t), time.Minute, time.Minute), wrap.IsolateOptions{Calls: 8, Queue: 64, Adapt: true}), 3, time.Millisecond)
		}, deviations...)
	})
}

var deviations = []ufstest.Deviation{
	{Test: "Names/names with control characters and backslashes are byte-exact", Reason: "Cloud Storage holds no name with a line end"},
	{Test: "SetAttr/attributes change, bytes do not", Reason: "the server empties metadata that it should remove; TestSetAttr holds the request to what the service wants"},
}
