package gateway

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/gateway/config"
)

// kept are mounts of an earlier start, of which some are busy: what they have is not stored yet.
type kept struct {
	t     *testing.T
	there map[string]string // URIs by path
	busy  map[string]error
	did   []string
}

func (k *kept) path(s string) core.Path {
	k.t.Helper()
	p, err := core.ParsePath(s)
	if err != nil {
		k.t.Fatal(err)
	}
	return p
}

func (k *kept) Mounts(context.Context) (all []core.MountInfo, err error) {
	for path, uri := range k.there {
		all = append(all, core.MountInfo{MountSpec: core.MountSpec{Path: k.path(path), URI: uri, Origin: core.FromConfig}})
	}
	return all, nil
}

func (k *kept) Mount(_ context.Context, m core.MountSpec) (core.MountInfo, error) {
	k.did = append(k.did, "mount "+m.Path.String()+" "+m.URI)
	return core.MountInfo{MountSpec: m}, nil
}

func (k *kept) UpdateMount(_ context.Context, p core.Path, _ core.MountChange) (core.MountInfo, error) {
	k.did = append(k.did, "update "+p.String())
	return core.MountInfo{}, nil
}

func (k *kept) Unmount(_ context.Context, p core.Path) error {
	k.did = append(k.did, "unmount "+p.String())
	return k.busy[p.Dir().String()]
}

// TestBusyMountsStay starts with a configuration that has another store for two mounts, and lacks two, of each of which one is busy: that
// one stays as it is, the log says so, and the rest is done. Another error of an unmount ends the start.
func TestBusyMountsStay(t *testing.T) {
	busy := errs.New("namespace.Unmount", "/x", errs.Busy, "it has files that no store has yet")
	k := &kept{t: t, there: map[string]string{"/free/": "file:///old", "/kept/": "file:///old", "/same/": "file:///same", "/gone/": "file:///g", "/stuck/": "file:///s"},
		busy: map[string]error{"/kept/": busy, "/stuck/": busy}}
	log := &syncBuffer{}
	g := &gateway{log: slog.New(slog.NewTextHandler(log, nil)), user: "root", users: newUsers("root", config.Root{})}
	g.cfg = config.Default()
	g.cfg.Mounts = []config.Mount{{Path: "/kept", URI: "file:///new"}, {Path: "/free", URI: "file:///new"}, {Path: "/same", URI: "file:///same"}}
	if err := g.mountConfigured(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	want := []string{"unmount /stuck/", "unmount /kept/", "unmount /gone/", "unmount /free/", "mount /free/ file:///new", "update /same/"}
	if !slices.Equal(k.did, want) {
		t.Errorf("done was %q, want %q", k.did, want)
	}
	for _, path := range []string{"/kept/", "/stuck/"} {
		if !strings.Contains(log.String(), `stays until a later start" path=`+path) {
			t.Errorf("the log does not say that %s stays:\n%s", path, log)
		}
	}
	k.busy["/gone/"] = errs.New("namespace.Unmount", "/gone/", errs.Unavailable, "the journal takes nothing")
	if err := g.mountConfigured(t.Context(), k); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "unmount /gone/") {
		t.Errorf("another error of an unmount: %v", err)
	}
}
