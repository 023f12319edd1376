// Package needtest says what becomes of a test for want of something that the machine has not: it is skipped with the reason or, where
// everything is required, fails; and waits for servers that tests start. It is for tests only, and installs nothing.
package needtest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Skip skips the test for want of something, or fails it if SLUICE_REQUIRE is set, as in CI.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("SLUICE_REQUIRE") != "" {
		t.Fatalf("required and missing: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Server returns the binary of a server that is in PATH under the name, or else at the path below $SLUICE_CACHE, where the conformance
// suites install it. The test is skipped without it, and under -short. Only SLUICE_REQUIRE=servers makes that a failure: under any other
// value, tests may be run before those that install.
func Server(t testing.TB, name string, path ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves out what starts servers")
	}
	if binary, err := exec.LookPath(name); err == nil {
		return binary
	}
	cache, below := os.Getenv("SLUICE_CACHE"), filepath.Join(path...)
	binary := filepath.Join(cache, below)
	in, err := os.Stat(binary)
	switch {
	case cache != "" && err == nil && in.Mode().IsRegular():
		return binary
	case os.Getenv("SLUICE_REQUIRE") == "servers":
		t.Fatalf("required and missing: %s is neither in PATH nor at %s in $SLUICE_CACHE", name, below)
	}
	t.Skipf("%s is neither in PATH nor at %s in $SLUICE_CACHE", name, below)
	return ""
}

// Listens returns when something listens at the address on this machine; the test fails if nothing does within a minute.
func Listens(t testing.TB, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var d net.Dialer
		if c, err := d.DialContext(ctx, "tcp", addr); err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("nothing listens at %s", addr)
		}
	}
}
