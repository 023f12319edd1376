package gateway

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/hold"
	"github.com/sluicefs/sluice/core/hold/holdtest"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/gateway/config"
	"github.com/sluicefs/sluice/gateway/telemetry"
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

// TestDefaultTypes has the configuration's types apply to what no mount is for, and to a mount that names none: those that it has now,
// whatever else was changed of the mounts meanwhile.
func TestDefaultTypes(t *testing.T) {
	c := testConfig(t)
	c.WriteType, c.ReadType, c.Replicas, c.PersistDelay = "ASYNC_THROUGH", "NO_CACHE", 1, time.Hour
	c.Mounts = []config.Mount{{Path: "/conf", URI: "file://" + t.TempDir()}}
	p := run(t, c)
	p.want(201, "", "POST", p.Admin+"/api/v1/mounts", fmt.Sprintf(`{"path":"/own","uri":"file://%s"}`, t.TempDir()))
	for _, path := range []string{"/own", "/conf"} { // what is set is the mount's, though it is the default
		p.want(200, `"write_type":"ASYNC_THROUGH"`, "PATCH", p.Admin+"/api/v1/mounts?path="+path, `{"write_type":"ASYNC_THROUGH"}`)
		p.want(200, `"read_type":"NO_CACHE"`, "PATCH", p.Admin+"/api/v1/mounts?path="+path, `{"read_type":"NO_CACHE"}`)
	}
	p.want(201, "", "POST", p.Admin+"/api/v1/mounts", fmt.Sprintf(`{"path":"/b","uri":"file://%s"}`, t.TempDir()))
	p.want(201, "", "POST", p.Admin+"/api/v1/mounts", fmt.Sprintf(`{"path":"/c","uri":"file://%s","write_type":"CACHE_THROUGH"}`, t.TempDir()))
	for dir, want := range map[string]string{"/a": `"write_type":"ASYNC_THROUGH"`, "/b": `"write_type":"ASYNC_THROUGH"`, "/c": `"durable":true`} {
		p.want(201, "", "PUT", p.WebHDFS+"/webhdfs/v1"+dir+"/f?op=CREATE&data=true&user.name="+currentUser(), "text")
		p.want(200, want, "GET", p.Admin+"/api/v1/durability?path="+dir+"/f", "")
		p.want(200, `{"setting":"read_type","value":"NO_CACHE","origin":"default","path":""}`, "GET", p.Admin+"/api/v1/explain?path="+dir+"/f", "")
	}
	p.want(200, `"write_type":"ASYNC_THROUGH"`, "PATCH", p.Admin+"/api/v1/mounts?path=/", `{"mode":"0750"}`)
	p.want(200, `"write_type":"CACHE_THROUGH"`, "PATCH", p.Admin+"/api/v1/mounts?path=/b", `{"write_type":"CACHE_THROUGH"}`)
	p.want(200, `"write_type":"ASYNC_THROUGH"`, "PATCH", p.Admin+"/api/v1/mounts?path=/b", `{"write_type":null}`)
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	c.WriteType, c.ReadType = "THROUGH", "CACHE"
	p = run(t, c)
	p.want(200, `{"setting":"write_type","value":"ASYNC_THROUGH","origin":"mount","path":"/own"},{"setting":"read_type","value":"NO_CACHE","origin":"mount","path":"/own"}`,
		"GET", p.Admin+"/api/v1/explain?path=/own", "")
	p.want(200, `{"setting":"write_type","value":"THROUGH","origin":"default","path":""},{"setting":"read_type","value":"CACHE","origin":"default","path":""}`,
		"GET", p.Admin+"/api/v1/explain?path=/conf", "") // what the configuration leaves open is open again
	for _, dir := range []string{"/a", "/b"} {
		p.want(200, `{"setting":"write_type","value":"THROUGH","origin":"default","path":""},{"setting":"read_type","value":"CACHE","origin":"default","path":""}`,
			"GET", p.Admin+"/api/v1/explain?path="+dir+"/f", "")
	}
	p.want(200, `{"setting":"write_type","value":"CACHE_THROUGH","origin":"mount","path":"/c"}`, "GET", p.Admin+"/api/v1/explain?path=/c/f", "")
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
}

// carrier is a leader that counts renames.
type carrier struct{ core.Persister }

func (carrier) Carries() namespace.Carries {
	return namespace.Carries{Open: 1, Failing: 2, Late: 3, Gone: 4}
}

// TestRenamesAreCounted reads what is published of the leader's renames.
func TestRenamesAreCounted(t *testing.T) {
	want := map[string]int64{"sluice_renames_in_progress": 1, "sluice_renames_failing": 2, "sluice_renames_late_total": 3, "sluice_renames_gone_files_total": 4}
	g := &gateway{work: &work{persister: carrier{}}}
	for _, n := range slices.Concat(g.writeBehindCounters(), g.writeBehindGauges()) {
		value, ok := want[n.name]
		if !ok {
			continue
		}
		delete(want, n.name)
		n.read(func(got int64, _ telemetry.Labels) {
			if got != value {
				t.Errorf("%s is %d, want %d", n.name, got, value)
			}
			value = -1
		})
		if value != -1 {
			t.Errorf("%s says nothing", n.name)
		}
		g.work = nil
		n.read(func(got int64, _ telemetry.Labels) { t.Errorf("%s is %d where nobody leads", n.name, got) })
		g.work = &work{persister: carrier{}}
	}
	if len(want) > 0 {
		t.Errorf("not published: %v", want)
	}
}
