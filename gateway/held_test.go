package gateway

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core/hold"
	"github.com/sluicefs/sluice/core/hold/holdtest"
	"github.com/sluicefs/sluice/gateway/config"
)

// TestHeldBytesAreCounted starts a process that holds something.
func TestHeldBytesAreCounted(t *testing.T) {
	if config.MinHoldQuota != hold.MinQuota {
		t.Errorf("the smallest quota is %d, and %d in the configuration", hold.MinQuota, config.MinHoldQuota)
	}
	c := testConfig(t)
	c.HoldQuota = config.MinHoldQuota
	s, err := hold.Open(hold.Options{Name: "w", Dir: filepath.Join(c.Data, "held"), Quota: hold.MinQuota})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if err := holdtest.Put(t.Context(), s, holdtest.ID(n), 5000, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	p := run(t, c)
	metrics := p.want(http.StatusOK, "sluice_held_quota_bytes 3.3554432e+07", http.MethodGet, p.Admin+"/metrics", "")
	for _, line := range []string{"sluice_held_bytes 15000", "sluice_held_files 3", "sluice_held_off 0"} {
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics lack %q", line)
		}
	}
	// Drained, it says what is still there.
	name := hostname()
	p.want(http.StatusOK, `"held":3`, http.MethodPost, p.Admin+"/api/v1/nodes/"+name+"/drain", `{"role":"worker"}`)
	nodes := p.want(http.StatusOK, `"held":3`, http.MethodGet, p.Admin+"/api/v1/nodes", "")
	if got := strings.Count(nodes, `"held"`); got != 1 {
		t.Errorf("%d nodes say what they hold, want the worker alone: %s", got, nodes)
	}
	p.want(http.StatusOK, `"draining":false`, http.MethodPost, p.Admin+"/api/v1/nodes/"+name+"/drain", `{"role":"worker","undo":true}`)
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
}
