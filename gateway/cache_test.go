package gateway

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/gateway/config"
)

// metric returns the value of a series of /metrics.
func (p *process) metric(series string) int64 {
	p.Helper()
	text := p.want(200, series, "GET", p.Admin+"/metrics", "")
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` ([0-9.e+]+)$`).FindStringSubmatch(text)
	if m == nil {
		p.Fatalf("no metric %s", series)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		p.Fatal(err)
	}
	return int64(v)
}

// TestCacheTiersOfAProcess has a first tier on a file system that is read-only: the process starts without it. What the second
// tier evicts is served from the third, and comes back when it is read again.
func TestCacheTiersOfAProcess(t *testing.T) {
	bad := t.TempDir()
	if err := unix.Mount("sluice-test", bad, "tmpfs", unix.MS_RDONLY, "size=1m"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bad, 0); err != nil {
			t.Error(err)
		}
	})
	c := testConfig(t)
	dir := t.TempDir()
	c.Cache.Tiers = []config.Tier{
		{Dir: filepath.Join(bad, "tier"), Medium: "mem"},
		{Dir: filepath.Join(dir, "fast"), Quota: 8 << 20, Medium: "ssd", Policy: "lru", High: 90, Low: 80},
		{Dir: filepath.Join(dir, "slow"), Quota: 64 << 20, Medium: "hdd"},
	}
	p := run(t, c)
	if got := p.metric(`sluice_cache_tier_off{medium="mem",tier="0"}`); got != 1 || !strings.Contains(p.log.String(), "read-only file system") {
		t.Errorf("tier_off of the bad directory is %d, and the log says\n%s", got, p.log)
	}
	body := func(i int) string { return strings.Repeat(strconv.Itoa(i), 2<<20) }
	url := func(i int, op string) string {
		return p.WebHDFS + "/webhdfs/v1/d/f" + strconv.Itoa(i) + "?op=" + op + "&data=true&user.name=" + currentUser()
	}
	for i := range 8 { // 16 MiB
		p.want(201, "", "PUT", url(i, "CREATE"), body(i))
	}
	promoted := func() int64 { return p.metric(`sluice_cache_promoted_pages_total{medium="hdd",tier="2"}`) }
	for deadline := time.Now().Add(30 * time.Second); promoted() == 0; {
		if status, got := p.do("GET", url(0, "OPEN"), ""); status != 200 || got != body(0) {
			t.Fatalf("got %d, %d bytes", status, len(got))
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was promoted")
		}
	}
	if n := p.metric(`sluice_cache_demoted_pages_total{medium="ssd",tier="1"}`); n == 0 {
		t.Error("nothing was demoted")
	}
	if n := p.metric("sluice_cache_source_bytes_total"); n != 0 {
		t.Errorf("%d bytes were read from the store, want all from the cache", n)
	}
}
