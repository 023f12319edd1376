package namespace_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// wantState waits until the mount at path has a state with text in it.
func (x *table) wantState(path, text string) core.MountInfo {
	x.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		all, err := x.Mounts(x.ctx)
		x.must(err)
		for _, m := range all {
			if m.Path.File().String() != path {
				continue
			}
			if strings.Contains(m.State, text) {
				return m
			}
			if time.Now().After(end) {
				x.Fatalf("%s is %q, want %q", path, m.State, text)
			}
		}
	}
}

// TestReplaced checks that a store which has another root than was mounted is not used, whether the mount is from a version that kept
// what tells the two apart or not, until the right one is back or the other one is taken for it.
func TestReplaced(t *testing.T) {
	for _, older := range []bool{false, true} {
		x := newTable(t, "disk")
		is := func(s string) { x.is.Store(&s) }
		if !older {
			is("inode=1 made=5")
		}
		x.add("/disk", "disk", nil)
		x.put("/disk/a", "a")
		if older {
			x.stop()
			is("inode=1 made=5")
			x.start()
			for end := time.Now().Add(20 * time.Second); ; { // it is journaled beside what is done here
				kvs, err := x.Log().ListConfig(x.ctx, "sys/mounts/")
				x.must(err)
				if len(kvs) == 1 && strings.Contains(string(kvs[0].Value), `"is":"inode=1 made=5"`) {
					break
				}
				if time.Now().After(end) {
					t.Fatal("what the directory is was not journaled")
				}
			}
		}
		never := time.Duration(-1) // a policy that is changed leaves what the directory is
		_, err := x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{MountChange: core.MountChange{SyncInterval: &never, Owner: new("a")}}, core.LifeOptions{})
		x.must(err)

		x.stop()
		disk := x.stores["disk"]
		empty := newTable(t, "disk").stores["disk"]
		x.stores["disk"] = empty
		is("inode=1 made=7") // a number that was given again
		x.start()
		x.wantState("/disk", "another directory is at disk/")
		_, err = x.get("/disk/none")
		x.wantErr("a name that is not known", err, errs.Unavailable, "sluice mount update /disk --uri test://disk")
		w, err := x.Create(x.ctx, x.path("/disk/new"), core.CreateOptions{Size: 1})
		if err == nil {
			_, _ = w.Write([]byte("x"))
			_, err = w.Commit(x.ctx, core.CommitOptions{})
		}
		x.wantErr("a write", err, errs.Unavailable, "another directory")
		_, err = x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{MountChange: core.MountChange{Options: map[string]string{"region": "a"}}}, core.LifeOptions{})
		x.wantErr("other options", err, errs.Unavailable, "another directory")

		x.stop()
		x.stores["disk"] = disk
		is("inode=1") // a host that does not tell as much
		x.start()
		x.wantState("/disk", "ready")
		x.wantText("/disk/a", "a")
		x.wantText("/disk/new", "-")

		x.stop()
		x.stores["disk"] = empty
		is("inode=2 made=7")
		x.start()
		before := x.wantState("/disk", "degraded")
		o := core.LifeOptions{DryRun: true}
		r, err := x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{URI: x.uri("disk")}, o)
		x.must(err)
		if len(r.Did) != 1 || !strings.Contains(r.Did[0], "to the one that is there now") {
			t.Errorf("a dry run says %q", r.Did)
		}
		x.wantState("/disk", "degraded")
		r, err = x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{URI: x.uri("disk")}, core.LifeOptions{})
		x.must(err)
		if r.Mount.State != "ready" || r.Mount.Owner != before.Owner {
			t.Errorf("the mount is %+v", r.Mount)
		}
		for range 2 {
			x.wantText("/disk/a", "-")
			x.put("/disk/b", "b")
			x.stop()
			x.start()
			x.wantState("/disk", "ready")
			x.wantText("/disk/b", "b")
		}
	}
}
