package namespace_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/nstest"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
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

// wantJournaled waits until the journal has it that the one mount is of the directory is, which is journaled beside all else.
func (x *table) wantJournaled(is string) {
	x.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		kvs, err := x.Log().ListConfig(x.ctx, "sys/mounts/")
		x.must(err)
		if len(kvs) == 1 && strings.Contains(string(kvs[0].Value), `"is":"`+is+`"`) {
			return
		}
		if time.Now().After(end) {
			x.Fatalf("what the directory is, %s, was not journaled: %+v", is, kvs)
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
			x.wantJournaled("inode=1 made=5")
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
		x.wantErr("a name that is not known", err, errs.Unavailable, "sluice mount update /disk --adopt")
		if why := core.WhyStoreAway(err); !strings.HasPrefix(why, "the store of the mount /disk does not open;") || strings.Contains(why, "inode") {
			t.Errorf("users are told %q", why)
		}
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
		_, err = x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{URI: x.uri("disk")}, core.LifeOptions{Force: true})
		x.wantErr("the URI that it has", err, errs.Unavailable, "another directory")
		adopt := core.MountEdit{URI: x.uri("disk"), Adopt: true}
		r, err := x.EditMount(x.ctx, x.path("/disk/"), adopt, core.LifeOptions{DryRun: true})
		x.must(err)
		if len(r.Did) != 1 || !strings.Contains(r.Did[0], "took what is at test://disk now") {
			t.Errorf("a dry run says %q", r.Did)
		}
		x.wantState("/disk", "degraded")
		r, err = x.EditMount(x.ctx, x.path("/disk/"), adopt, core.LifeOptions{})
		x.must(err)
		if r.Mount.State != "ready" || r.Mount.Owner != before.Owner {
			t.Errorf("the mount is %+v", r.Mount)
		}
		r, err = x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{URI: x.uri("disk")}, core.LifeOptions{})
		x.must(err)
		if len(r.Did) != 1 || !strings.Contains(r.Did[0], "as asked for already") {
			t.Errorf("the URI that it has did %q", r.Did)
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

// TestAdopt checks that a directory which is taken for a mount's gets the files that workers hold for the one of before, and that what
// was known of that one is forgotten, at once and by the next process.
func TestAdopt(t *testing.T) {
	x := newTable(t, "disk", "other", "third")
	x.stop()
	x.workers = nstest.NewWorkers(2)
	is := func(s string) { x.is.Store(&s) }
	is("inode=1")
	x.start()
	x.add("/disk", "disk", nil)
	for _, name := range []string{"kept", "lost", "replaced", "changed"} {
		x.put("/disk/"+name, "old "+name)
	}
	x.stored("disk", "theirs", "old theirs")
	x.wantText("/disk/theirs", "old theirs")
	x.wantText("/disk/none", "-")
	for _, name := range []string{"new", "replaced", "changed"} {
		x.hold("/disk/"+name, "held "+name)
	}
	x.stop()
	x.stores["disk"] = x.stores["other"]
	for range 20 { // its versions are others; those of this kind of store are counted
		x.stored("disk", "more", "")
	}
	for _, name := range []string{"kept", "changed", "theirs", "none"} {
		x.stored("disk", name, "restored "+name)
	}
	is("inode=2")
	x.start()
	x.wantState("/disk", "another directory")
	x.wantText("/disk/new", "held new")
	adopt := core.MountEdit{Adopt: true}
	for what, c := range map[string]core.MountEdit{"another URI": {Adopt: true, URI: x.uri("other")}, "another endpoint": {Adopt: true,
		MountChange: core.MountChange{Options: map[string]string{"endpoint": "there"}}}} {
		_, err := x.EditMount(x.ctx, x.path("/disk/"), c, core.LifeOptions{})
		x.wantErr(what, err, errs.Invalid, "the URI that the mount has")
	}
	_, err := x.EditMount(x.ctx, core.Root, adopt, core.LifeOptions{})
	x.wantErr("the root store", err, errs.Invalid, "configuration")
	r, err := x.EditMount(x.ctx, x.path("/disk/"), adopt, core.LifeOptions{})
	x.must(err)
	if specs, err := x.Stores(x.ctx); err != nil || len(specs) != 1 || !strings.HasSuffix(specs[0].ID, ".1") || specs[0].Is != "inode=2" {
		t.Errorf("workers, which have the other open, are told of %+v, %v", specs, err)
	}
	if len(r.GaveUp) > 0 || !strings.Contains(strings.Join(r.Did, "\n"), "kept 3 files that workers hold") {
		t.Errorf("it did %q and gave up %q", r.Did, r.GaveUp)
	}
	want := map[string]string{"new": "held new", "replaced": "held replaced", "changed": "held changed",
		"kept": "restored kept", "theirs": "restored theirs", "none": "restored none", "lost": "-"}
	all := func() {
		t.Helper()
		for name, text := range want {
			x.wantText("/disk/"+name, text)
		}
	}
	all()
	_, err = x.Persist(x.ctx, x.path("/disk/"), core.PersistOptions{Wait: true})
	if errs.KindOf(err) != errs.Conflict || strings.Count(err.Error(), "changed by others") != 1 {
		t.Errorf("persist: %v", err)
	}
	in := func(name string) string {
		r, err := x.stores["disk"].Open(x.ctx, name, 0, -1, "")
		x.must(err)
		defer r.Close()
		b, err := io.ReadAll(r)
		x.must(err)
		return string(b)
	}
	for name, text := range map[string]string{"new": "held new", "replaced": "held replaced", "changed": "restored changed"} {
		if got := in(name); got != text {
			t.Errorf("the store has %q as %s, want %q", got, name, text)
		}
	}
	all()
	x.stop()
	x.start()
	x.wantState("/disk", "ready")
	all()
	_, err = x.Persist(x.ctx, x.path("/disk/"), core.PersistOptions{Wait: true, Overwrite: true})
	x.must(err)
	if got := in("changed"); got != "held changed" {
		t.Errorf("overwritten, the store has %q", got)
	}
	all()

	was, err := x.stores["disk"].Stat(x.ctx, "theirs") // once more, without a restart: bytes that are cached are not those of a like version
	x.must(err)
	third := x.stores["third"]
	x.stores["disk"] = third
	for now := (ufs.Info{}); now.Version != was.Version; {
		x.stored("disk", "theirs", "another theirs.")
		now, err = third.Stat(x.ctx, "theirs")
		x.must(err)
		if now.Size != was.Size {
			t.Fatalf("the sizes are %d and %d", now.Size, was.Size)
		}
	}
	is("inode=3")
	_, err = x.EditMount(x.ctx, x.path("/disk/"), adopt, core.LifeOptions{})
	x.must(err)
	x.wantText("/disk/theirs", "another theirs.")
	x.wantText("/disk/kept", "-")
}

// heldElsewhere returns a table with a mount of which workers hold the bytes that are to replace /disk/f, and another directory, without that
// file, at its place. The others were in the one of before.
func heldElsewhere(t *testing.T, others ...string) *table {
	t.Helper()
	x := newTable(t, "disk", "other")
	x.stop()
	x.workers = nstest.NewWorkers(2)
	is := func(s string) { x.is.Store(&s) }
	is("inode=1")
	x.start()
	x.add("/disk", "disk", nil)
	x.put("/disk/f", "old f")
	for _, name := range others {
		x.put("/disk/"+name, name)
	}
	x.hold("/disk/f", "held f")
	x.stop()
	x.stores["disk"] = x.stores["other"]
	is("inode=2")
	x.start()
	x.wantState("/disk", "another directory")
	return x
}

// TestStoreDoesNotOpen checks that a file that workers hold is there by a path that may be a directory's too, as WebHDFS's are, while the
// store that could tell does not open, and waits for no append; and that of others nothing is told that is older than the mount allows.
func TestStoreDoesNotOpen(t *testing.T) {
	x := heldElsewhere(t, "p")
	either := func(path string) core.Path {
		p, err := core.ParseEither(path)
		x.must(err)
		return p
	}
	info, err := x.Stat(x.ctx, either("/disk/f"))
	if err != nil || info.Size != int64(len("held f")) {
		t.Errorf("a file that is held: got %+v %v", info, err)
	}
	for _, path := range []string{"/disk/p", "/disk/none"} {
		_, err = x.Stat(x.ctx, either(path))
		x.wantErr(path, err, errs.Unavailable, "another directory")
	}
	_, err = x.Create(x.ctx, either("/disk/f"), core.CreateOptions{Mode: core.Append, Size: 1})
	x.wantErr("an append", err, errs.Unavailable, "another directory")

	info, err = x.Stat(x.ctx, x.path("/disk/p"))
	if err != nil || info.Cache != core.Stale {
		t.Errorf("a file of which the mount allows old facts: got %+v %v", info, err)
	}
	_, err = x.Stat(core.WithMaxAge(x.ctx, core.MaxAge{Set: true}), x.path("/disk/p"))
	x.wantErr("new facts", err, errs.Unavailable, "another directory")
	_, err = x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{MountChange: core.MountChange{SyncInterval: new(time.Duration(0))}}, core.LifeOptions{})
	x.must(err)
	_, err = x.Stat(x.ctx, x.path("/disk/p"))
	x.wantErr("new facts by the mount's interval", err, errs.Unavailable, "another directory")
}

// TestAdoptDuringPersist checks that a try to bring a held file to its store that began before its place in the directory which was taken
// was known has nothing refused.
func TestAdoptDuringPersist(t *testing.T) {
	x := heldElsewhere(t)
	_, err := x.Persist(x.ctx, x.path("/disk/"), core.PersistOptions{})
	x.must(err)
	tried := func() bool {
		d, err := x.Durability(x.ctx, x.path("/disk/f"))
		x.must(err)
		return d.Why != ""
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !tried(); <-tick.C { // from now on the store is asked before bytes are sent
		if time.Now().After(end) {
			t.Fatal("the file was not tried")
		}
	}
	var looks atomic.Int64
	second := make(chan struct{})
	x.looking = func(name string) {
		if name != "f" {
			return
		}
		switch looks.Add(1) {
		case 1: // the adoption's, which has the lock
			select {
			case <-second:
			case <-time.After(20 * time.Second):
				t.Error("there was no try meanwhile")
			}
		case 2:
			close(second)
		}
	}
	_, err = x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{Adopt: true}, core.LifeOptions{})
	x.must(err)
	_, err = x.Persist(x.ctx, x.path("/disk/"), core.PersistOptions{Wait: true})
	x.must(err)
	_, err = x.stores["disk"].Stat(x.ctx, "f")
	x.must(err)
}

// TestAdoptGone checks that a held file gets its place in a directory that is taken though who asked hangs up, or the store fails, after the
// record of that, then or when it is asked for once more.
func TestAdoptGone(t *testing.T) {
	for _, fails := range []bool{false, true} {
		x := heldElsewhere(t)
		adopt := func(ctx context.Context) error {
			_, err := x.EditMount(ctx, x.path("/disk/"), core.MountEdit{Adopt: true}, core.LifeOptions{})
			return err
		}
		persist := func() error {
			_, err := x.Persist(x.ctx, x.path("/disk/"), core.PersistOptions{Wait: true})
			return err
		}
		ctx, cancel := context.WithCancel(x.ctx)
		defer cancel()
		var once sync.Once
		x.looking = func(name string) {
			if name == "f" {
				once.Do(func() {
					cancel()
					x.mute.Store(fails)
				})
			}
		}
		x.must(adopt(ctx))
		x.mute.Store(false)
		if fails {
			x.wantErr("what the store did not tell of", persist(), errs.Conflict, "changed by others")
			x.must(adopt(x.ctx))
		}
		x.must(persist())
		_, err := x.stores["disk"].Stat(x.ctx, "f")
		x.must(err)
	}
}

// TestAdoptHanging checks that an adoption waits for a store that tells of no name no longer than for a probe, and may be asked for again.
func TestAdoptHanging(t *testing.T) {
	x := heldElsewhere(t)
	adopt := func() {
		t.Helper()
		_, err := x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{Adopt: true}, core.LifeOptions{})
		x.must(err)
	}
	x.stop()
	var log bytes.Buffer
	x.log, x.probe = slog.New(slog.NewTextHandler(&log, nil)), time.Second
	x.start()
	x.hangs.Store(true)
	began := time.Now()
	adopt()
	if d := time.Since(began); d >= hanging {
		t.Errorf("it took %v", d)
	}
	x.hangs.Store(false)
	adopt()
	_, err := x.Persist(x.ctx, x.path("/disk/"), core.PersistOptions{Wait: true})
	x.must(err)
	x.stop()
	if !strings.Contains(log.String(), "the store did not answer within 1s") {
		t.Errorf("the log says:\n%s", &log)
	}
}

// TestRollbackToReplaced checks that a rollback mounts no other directory than the one that was mounted then.
func TestRollbackToReplaced(t *testing.T) {
	for _, switched := range []bool{false, true} {
		x := newTable(t, "disk", "bare", "next")
		is := func(s string) { x.is.Store(&s) }
		is("inode=1")
		x.add("/disk", "disk", nil) // 1
		x.put("/disk/a", "a")
		var err error
		if switched {
			_, err = x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{URI: x.uri("next")}, core.LifeOptions{})
		} else {
			_, err = x.RemoveMount(x.ctx, x.path("/disk/"), core.LifeOptions{})
		}
		x.must(err)
		disk := x.stores["disk"]
		x.stores["disk"] = x.stores["bare"]
		is("inode=2")
		how := "sluice mount add /disk test://disk"
		if switched {
			how = "sluice mount update /disk --uri test://disk"
		}
		for _, dry := range []bool{true, false} {
			_, err = x.RollbackMounts(x.ctx, 1, core.LifeOptions{DryRun: dry})
			x.wantErr("a rollback to what is not there", err, errs.Unavailable, "another directory is at disk/")
			x.wantErr("a rollback to what is not there", err, errs.Unavailable, how)
		}
		x.stores["disk"] = disk
		is("inode=1")
		_, err = x.RollbackMounts(x.ctx, 1, core.LifeOptions{})
		x.must(err)
		x.wantText("/disk/a", "a")
	}
}

// TestRollbackMakesNothing checks that a rollback makes no empty directory in place of the one that was mounted, also where the two could
// not be told apart, or nothing was kept to tell them apart by.
func TestRollbackMakesNothing(t *testing.T) {
	for i, is := range []string{"kind=fuse", "kind=fuse", "", ""} {
		switched := i%2 == 1
		x := newTable(t, "next")
		x.is.Store(&is)
		create := map[string]string{"create": "true"}
		x.add("/disk", "disk", create) // 1
		x.put("/disk/a", "a")
		var err error
		how := "sluice mount add /disk test://disk"
		if switched {
			_, err = x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{URI: x.uri("next")}, core.LifeOptions{})
			how = "sluice mount update /disk --uri test://disk"
		} else {
			_, err = x.RemoveMount(x.ctx, x.path("/disk/"), core.LifeOptions{})
		}
		x.must(err)
		disk := x.stores["disk"]
		delete(x.stores, "disk")
		for _, dry := range []bool{true, false} {
			_, err = x.RollbackMounts(x.ctx, 1, core.LifeOptions{DryRun: dry})
			x.wantErr("a rollback to what is missing", err, errs.Unavailable, "the directory that was mounted is missing")
			x.wantErr("a rollback to what is missing", err, errs.Unavailable, how)
			if x.stores["disk"] != nil {
				t.Fatal("an empty directory was made")
			}
		}
		x.stores["disk"] = disk
		_, err = x.RollbackMounts(x.ctx, 1, core.LifeOptions{})
		x.must(err)
		x.wantText("/disk/a", "a")
	}
}

// TestRememberFull checks that it is remembered which directory a mount is in though its disk is full.
func TestRememberFull(t *testing.T) {
	x := newTable(t, "disk")
	x.add("/disk", "disk", nil)
	x.put("/disk/a", "a")
	x.stop()
	is := "inode=1"
	x.is.Store(&is)
	x.full.Store(true)
	x.start()
	x.wantJournaled(is)
}

// unkeptKV is a KV that has no room for mounts.
type unkeptKV struct {
	meta.KV
	tries atomic.Int64
}

func (k *unkeptKV) Txn(ctx context.Context, t meta.Txn) (bool, int64, error) {
	if slices.ContainsFunc(t.Puts, func(kv meta.KeyValue) bool { return strings.Contains(kv.Key, "sys/mounts/") }) {
		k.tries.Add(1)
		return false, 0, errs.New("test.Txn", "", errs.NoSpace, "the quota is exceeded")
	}
	return k.KV.Txn(ctx, t)
}

// TestRememberLater checks that it is said once why it is not remembered which directory a mount is in, though that is tried again and again.
func TestRememberLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTable(t, "disk")
		x.add("/disk", "disk", nil)
		x.stop()
		is := "inode=1"
		x.is.Store(&is)
		var log bytes.Buffer
		kv := &unkeptKV{KV: x.kv}
		x.kv, x.log = kv, slog.New(slog.NewTextHandler(&log, nil))
		x.start()
		<-time.After(time.Minute)
		x.stop()
		if n := strings.Count(log.String(), "not remembered which directory"); n != 1 || kv.tries.Load() < 10 {
			t.Errorf("after %d tries the log says it %d times:\n%s", kv.tries.Load(), n, &log)
		}
	})
}

// hold writes a file that workers hold.
func (x *table) hold(path, text string) {
	x.Helper()
	w, err := x.Create(x.ctx, x.path(path), core.CreateOptions{Size: int64(len(text)), WriteType: core.AsyncThrough})
	x.must(err)
	_, err = io.WriteString(w, text)
	x.must(err)
	_, err = w.Commit(x.ctx, core.CommitOptions{})
	x.must(err)
}

// TestReleaseOfMoved checks that a release proves and journals the directories that are at their places then, and not those that the
// process opened when it began.
func TestReleaseOfMoved(t *testing.T) {
	x := newTable(t, "disk", "begun", "there", "late")
	is := func(s string) { x.is.Store(&s) }
	x.stop()
	x.cluster = "c1"
	is("inode=1")
	x.start()
	x.add("/disk", "disk", nil)
	x.put("/disk/a", "a")
	x.stop()
	x.cluster = "c2" // the journal is restored
	move := func(name, ino string) {
		x.stores["disk"] = x.stores[name]
		x.stored("disk", "more", "")
		x.stored("disk", "a", name)
		is(ino)
	}
	move("begun", "inode=2")
	x.start()
	x.wantState("/disk", "ready")
	x.wantText("/disk/a", "begun")
	move("there", "inode=3")
	once := sync.OnceFunc(func() { move("late", "inode=4") })
	x.looking = func(string) { once() }
	_, err := x.Release(x.ctx, core.ReleaseOptions{})
	x.wantErr("a release while the directory is replaced", err, errs.Unavailable, "try again")
	x.wantText("/disk/a", "there")
	_, err = x.Release(x.ctx, core.ReleaseOptions{})
	x.must(err)
	x.wantJournaled("inode=4")
	x.wantText("/disk/a", "late")
	x.stop()
	x.start()
	x.wantState("/disk", "ready")
	x.wantText("/disk/a", "late")
}

// TestBareAfterUpgrade checks that an empty directory is not taken for that of a mount from a version that did not look what tells it
// from another, if the journal has files that it should have, and that any other is.
func TestBareAfterUpgrade(t *testing.T) {
	for _, held := range []bool{false, true} {
		x := newTable(t, "disk", "bare")
		x.stop()
		x.workers = nstest.NewWorkers(2)
		x.start()
		x.add("/in/disk", "disk", nil)
		x.put("/in/disk/d/a", "a")
		if held {
			x.hold("/in/disk/d/a", "b")
		}
		x.stop()
		disk := x.stores["disk"]
		x.stores["disk"] = x.stores["bare"]
		is := "inode=1"
		x.is.Store(&is)
		x.start()
		x.wantState("/in/disk", "is empty, and files are known that it has")
		_, err := x.get("/in/disk/none")
		x.wantErr("a name that is not known", err, errs.Unavailable, "sluice mount update /in/disk --adopt")
		_, err = x.EditMount(x.ctx, x.path("/in/disk/"), core.MountEdit{URI: x.uri("disk")}, core.LifeOptions{})
		x.wantErr("the URI that it has", err, errs.Unavailable, "is empty")
		_, err = x.EditMount(x.ctx, x.path("/in/disk/"), core.MountEdit{MountChange: core.MountChange{Options: map[string]string{"region": "a"}}}, core.LifeOptions{})
		x.wantErr("other options", err, errs.Unavailable, "is empty")

		x.stop()
		x.stores["disk"] = disk
		x.start()
		x.wantJournaled("inode=1")
		want := "a"
		if held {
			want = "b"
		}
		x.wantText("/in/disk/d/a", want)
	}
	x := newTable(t, "disk")
	x.add("/disk", "disk", nil)
	x.stop()
	is := "inode=1"
	x.is.Store(&is)
	x.start()
	x.wantJournaled("inode=1") // empty as it was
}

// TestReleaseOfBare checks that a release does not take an empty directory for a mount's without being told to, though no file that the
// journal has of it is missing there: that is what the place of a disk looks like that is not mounted.
func TestReleaseOfBare(t *testing.T) {
	x := newTable(t, "disk", "bare")
	is := func(s string) { x.is.Store(&s) }
	x.stop()
	x.workers = nstest.NewWorkers(2)
	x.cluster = "c1"
	is("inode=1")
	x.start()
	x.stored("disk", "theirs", "t")
	x.add("/disk", "disk", nil)
	x.hold("/disk/h", "held")
	x.stop()
	x.cluster = "c2" // the journal is restored
	disk := x.stores["disk"]
	x.stores["disk"] = x.stores["bare"]
	is("inode=2")
	x.start()
	_, err := x.Release(x.ctx, core.ReleaseOptions{})
	x.wantErr("a release over an empty directory", err, errs.Precondition, "--accept-missing")
	x.stores["disk"] = disk // the disk is mounted
	is("inode=1")
	r, err := x.Release(x.ctx, core.ReleaseOptions{})
	x.must(err)
	for _, f := range r.Changes {
		if f.Kind == "mount" {
			t.Errorf("the directory is the one that was mounted, and is reported: %+v", f)
		}
	}
	x.wantText("/disk/theirs", "t")
	x.wantText("/disk/h", "held")
}

// TestAdoptDuringSync has another directory be adopted while a sync waits for its turn to ask the old one: what that says is not taken
// for what the new one has, though it was asked later.
func TestAdoptDuringSync(t *testing.T) {
	x := newTable(t)
	x.stop()
	x.sync.Prefetch = 1
	x.start()
	is := func(s string) { x.is.Store(&s) }
	is("inode=1")
	x.stores["disk"] = memufs.New(memufs.Options{Dirs: true})
	x.add("/disk", "disk", nil)
	x.put("/disk/d1/f", "old bytes of f")
	x.put("/disk/d2/f", "old bytes of f")
	waits, hold := make(chan struct{}), make(chan struct{})
	open, first := sync.OnceFunc(func() { close(hold) }), sync.OnceFunc(func() { close(waits) })
	t.Cleanup(open)
	x.listing = func(dir string) {
		if dir == "d1/" || dir == "d2/" {
			first()
			<-hold // the other one has its store, and waits for this one
		}
	}
	synced := make(chan error, 1)
	go func() { synced <- x.Sync(x.ctx, x.path("/disk/"), core.SyncOptions{Recursive: true}, nothingFound{}) }()
	<-waits
	other := memufs.New(memufs.Options{Dirs: true})
	x.stores["disk"] = other
	for range 10 { // versions are numbers of changes
		x.stored("disk", "more", "")
	}
	for _, name := range []string{"d1/", "d2/"} {
		if _, err := other.Mkdir(x.ctx, name, ufs.Attr{}); err != nil {
			t.Fatal(err)
		}
		x.stored("disk", name+"f", "new")
	}
	is("inode=2")
	_, err := x.EditMount(x.ctx, x.path("/disk/"), core.MountEdit{Adopt: true}, core.LifeOptions{})
	x.must(err)
	open()
	if err := <-synced; err != nil {
		t.Log("the sync says:", err)
	}
	x.wantText("/disk/d1/f", "new")
	x.wantText("/disk/d2/f", "new")
}

type nothingFound struct{}

func (nothingFound) Compared(int64, int64)              {}
func (nothingFound) Differs(core.SyncChange, core.Path) {}
func (nothingFound) Failed(core.Path, error)            {}
func (nothingFound) Resumed(time.Time)                  {}
