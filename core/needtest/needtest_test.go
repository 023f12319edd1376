package needtest_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core/needtest"
)

// outcome is a test that notes how it ended.
type outcome struct {
	testing.TB
	how, why string
}

func (*outcome) Helper() {}

func (o *outcome) Fatalf(format string, _ ...any) { o.end("failed", format) }
func (o *outcome) Skipf(format string, _ ...any)  { o.end("skipped", format) }

func (o *outcome) end(how, why string) {
	o.how, o.why = how, why
	runtime.Goexit()
}

// ends returns how a test ends that does do.
func ends(t *testing.T, do func(t testing.TB)) string {
	o := &outcome{TB: t, how: "goes on"}
	done := make(chan struct{})
	go func() { defer close(done); do(o) }()
	<-done
	if o.why != "" && !strings.Contains(o.why, "%s") {
		t.Errorf("the reason is %q", o.why)
	}
	return o.how
}

func TestNeeds(t *testing.T) {
	cache := t.TempDir()
	if err := os.WriteFile(filepath.Join(cache, "there"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(cache, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	skip := func(t testing.TB) { needtest.Skip(t, "no %s", "tool") }
	server := func(path string) func(testing.TB) {
		return func(t testing.TB) { needtest.Server(t, "no-such-server-in-path", path) }
	}
	for _, c := range []struct {
		what, require, cache string
		do                   func(testing.TB)
		want                 string
	}{
		{"a tool", "", "", skip, "skipped"},
		{"a tool", "1", "", skip, "failed"},
		{"a tool", "servers", "", skip, "failed"},
		{"a server that is there", "servers", cache, server("there"), "goes on"},
		{"a server", "", cache, server("none"), "skipped"},
		{"a server", "1", cache, server("none"), "skipped"},
		{"a server", "servers", cache, server("none"), "failed"},
		{"a directory in its place", "servers", cache, server("dir"), "failed"},
		{"a server of no cache", "servers", "", server("there"), "failed"},
	} {
		t.Setenv("SLUICE_REQUIRE", c.require)
		t.Setenv("SLUICE_CACHE", c.cache)
		if got := ends(t, c.do); got != c.want && !testing.Short() {
			t.Errorf("%s, SLUICE_REQUIRE=%q, cache %v: %s, want %s", c.what, c.require, c.cache != "", got, c.want)
		}
	}
}
