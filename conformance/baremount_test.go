package conformance

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBareMountPoint starts the server while the disk of a mounted directory is away, of which only the mount point is there.
func TestBareMountPoint(t *testing.T) {
	data := t.TempDir()
	dir := filepath.Join(memoryDir(t), "plain") // of a file system that tells directories apart
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := newMounts(t, "mounts-bare", nil, Options{Data: data})
	again := func(t *testing.T, change error) {
		t.Helper()
		if change != nil {
			t.Fatal(change)
		}
		m.rig = newRig(Start(t, Options{Data: data}))
	}
	whole := t
	m.attach(t, "/plain", "file://"+dir, nil)
	m.write(t, "/plain/a", "kept")
	m.Stop(t)
	m.run(t, "nothing is taken for gone, and nothing is written", func(t *testing.T) {
		again(whole, errors.Join(os.Rename(dir, dir+"_disk"), os.Mkdir(dir, 0o755)))
		state, _ := m.ok(t, http.StatusOK, "GET", api+"?path=/plain", nil)["state"].(string)
		if !strings.Contains(state, "another directory is at "+dir) {
			t.Errorf("the mount is %q", state)
		}
		if status, _, body := m.fetch(t, "/plain/b"); status != http.StatusServiceUnavailable {
			t.Errorf("GET: status %d %s", status, body)
		}
		if status, _, body := m.do(t, m.request("PUT", "/plain/new", []byte("x"))); status != http.StatusServiceUnavailable {
			t.Errorf("PUT: status %d %s", status, body)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("the mount point holds %v, %v", names, err)
		}
		m.Stop(t)
	})
	m.run(t, "the disk is back", func(t *testing.T) {
		again(whole, errors.Join(os.Remove(dir), os.Rename(dir+"_disk", dir)))
		m.expect(t, "/plain/a", "kept")
		m.expect(t, "/plain/new", "-")
		m.Stop(t)
	})
	m.run(t, "a directory that was restored is taken when that is asked for", func(t *testing.T) {
		again(whole, errors.Join(os.Rename(dir, dir+"_disk"), os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "a"), []byte("restored"), 0o600)))
		if state, _ := m.ok(t, http.StatusOK, "GET", api+"?path=/plain", nil)["state"].(string); !strings.Contains(state, "sluice mount update /plain --adopt") {
			t.Errorf("the mount is %q", state)
		}
		m.ok(t, http.StatusOK, "PATCH", api+"?path=/plain", map[string]any{"adopt": true})
		m.expect(t, "/plain/a", "restored")
		m.write(t, "/plain/b", "new")
		if b, err := os.ReadFile(filepath.Join(dir, "b")); err != nil || string(b) != "new" {
			t.Errorf("the directory has %q, %v", b, err)
		}
	})
}
