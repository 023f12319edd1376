package nstest

import (
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// mountSpare mounts a further store.
func (f *fixture) mountSpare(name string) ufs.Store {
	f.Helper()
	uri, store := f.Spare(f.T)
	if err := f.mount(core.MountSpec{Path: f.path(name), URI: uri, SyncInterval: ptr(time.Duration(0))}); err != nil {
		f.Fatalf("mount %q: %v", name, err)
	}
	return store
}

func (f *fixture) mount(s core.MountSpec) error {
	_, err := f.Mount(f.ctx(), s)
	return err
}

func (f *fixture) storedIn(s ufs.Store, name, data string) {
	f.Helper()
	g := *f
	g.Store = s
	g.wantStored(name, data)
}

var mountTests = []entry{
	{name: "only a superuser may use the mount table", test: func(f *fixture) {
		ann := f.as("ann")
		_, err := ann.Mounts(ann.ctx())
		f.wantErr("mounts", err, errs.Permission)
		uri, _ := f.Spare(f.T)
		f.wantErr("mount", ann.mount(core.MountSpec{Path: f.path("m/"), URI: uri}), errs.Permission)
		f.mountSpare("m/")
		_, err = ann.UpdateMount(ann.ctx(), f.path("m/"), core.MountChange{ReadOnly: ptr(true)})
		f.wantErr("update", err, errs.Permission)
		f.wantErr("unmount", ann.Unmount(ann.ctx(), f.path("m/")), errs.Permission)
	}},
	{name: "Mounts returns all mounts by path, secrets hidden", test: func(f *fixture) {
		f.mountSpare("z/")
		uri, _ := f.Spare(f.T)
		f.must(f.mount(core.MountSpec{Path: f.path("b/"), URI: uri, ReadOnly: true, Options: map[string]string{"secret_key": "hush"}}))
		all, err := f.Mounts(f.ctx())
		f.must(err)
		var paths []string
		for _, m := range all {
			paths = append(paths, m.Path.Dir().String())
			if m.State != "ready" {
				f.Errorf("%s is %s", m.Path, m.State)
			}
			for k, v := range m.Options {
				if strings.Contains(v, "hush") {
					f.Errorf("option %s shows %q", k, v)
				}
			}
			if m.Path == f.path("b/") && (!m.ReadOnly || m.URI != uri) {
				f.Errorf("got %+v", m)
			}
		}
		want := "/"
		if f.Mounted {
			want += " " + f.Base.String()
		}
		want += " " + f.path("b/").String() + " " + f.path("z/").String()
		if got := strings.Join(paths, " "); got != want {
			f.Errorf("got %q, want %q", got, want)
		}
	}},
	{name: "a mount shows its store, and what is written goes there", test: func(f *fixture) {
		uri, store := f.Spare(f.T)
		_, err := ufs.WriteFile(f.Context(), store, "d/was", []byte("before"), ufs.CreateOptions{})
		f.must(err)
		f.must(f.mount(core.MountSpec{Path: f.path("p/q/m/"), URI: uri}))
		f.wantData("p/q/m/d/was", "before")
		f.put("p/q/m/d/is", large)
		f.storedIn(store, "d/is", large)
		f.storeGone("p/q/m/d/is")
		f.wantKeys("", "p/q/m/d/is", "p/q/m/d/was")
		if i := f.stat("~p/q/m"); !i.MountPoint || !i.Dir {
			f.Errorf("got %+v", i)
		}
		if i := f.stat("p/q/m/d/is"); i.Mount != f.path("p/q/m/").String() {
			f.Errorf("got mount %q", i.Mount)
		}
	}},
	{name: "a mount point may be an existing empty directory", test: func(f *fixture) {
		f.mkdir("m/")
		store := f.mountSpare("m/")
		f.put("m/a", "x")
		f.storedIn(store, "a", "x")
	}},
	{name: "mounts nest", test: func(f *fixture) {
		outer := f.mountSpare("m/")
		inner := f.mountSpare("m/n/i/")
		f.put("m/a", "1")
		f.put("m/n/b", "2")
		f.put("m/n/i/c", "3")
		f.storedIn(outer, "n/b", "2")
		f.storedIn(inner, "c", "3")
		f.wantKeys("", "m/a", "m/n/b", "m/n/i/c")
		f.wantChildren("m/n/", "b", "i/")
		f.wantErr("outer first", f.Unmount(f.ctx(), f.path("m/")), errs.Busy)
		f.must(f.Unmount(f.ctx(), f.path("m/n/i/")))
		f.wantKeys("m/", "a", "n/b")
		f.must(f.Unmount(f.ctx(), f.path("m/")))
		f.wantKeys("")
	}},
	{name: "a mount point in use is Exist, a path that is not empty Busy", test: func(f *fixture) {
		f.mountSpare("m/")
		uri, _ := f.Spare(f.T)
		f.wantErr("in use", f.mount(core.MountSpec{Path: f.path("m/"), URI: uri}), errs.Exist)
		f.put("d/a", "x")
		f.wantErr("not empty", f.mount(core.MountSpec{Path: f.path("d/"), URI: uri}), errs.Busy)
		f.storePut("s/a", "x")
		f.wantErr("not empty in the store", f.mount(core.MountSpec{Path: f.path("s/"), URI: uri}), errs.Busy)
		f.wantErr("a file", f.mount(core.MountSpec{Path: f.path("d/a/"), URI: uri}), errs.NotDir, errs.Exist, errs.Busy)
		f.wantErr("the root", f.mount(core.MountSpec{Path: core.Root, URI: uri}), errs.Invalid, errs.Exist)
		f.wantData("d/a", "x")
		f.must(f.mount(core.MountSpec{Path: f.path("free/"), URI: uri}))
	}},
	{name: "a root that overlaps another writable mount's is Invalid", test: func(f *fixture) {
		uri, _ := f.Spare(f.T)
		f.must(f.mount(core.MountSpec{Path: f.path("m/"), URI: uri}))
		f.wantErr("the same", f.mount(core.MountSpec{Path: f.path("n/"), URI: uri}), errs.Invalid)
		f.wantErr("the same, with a slash", f.mount(core.MountSpec{Path: f.path("n/"), URI: uri + "/"}), errs.Invalid)
		f.wantErr("below", f.mount(core.MountSpec{Path: f.path("n/"), URI: uri + "/sub"}), errs.Invalid)
		f.wantGone("n/")
		f.must(f.mount(core.MountSpec{Path: f.path("ro/"), URI: uri, ReadOnly: true}))
		_, err := f.UpdateMount(f.ctx(), f.path("ro/"), core.MountChange{ReadOnly: ptr(false)})
		f.wantErr("made writable", err, errs.Invalid)
	}},
	{name: "what the probe finds is reported with its reason, and nothing is mounted", test: func(f *fixture) {
		uri, _ := f.Spare(f.T)
		for _, kind := range []errs.Kind{errs.Unavailable, errs.Permission} {
			f.tap.set(func(c call) verdict {
				if c.op == "Probe" {
					return verdict{before: errs.New("test", "", kind, "because of the weather")}
				}
				return verdict{}
			})
			err := f.mount(core.MountSpec{Path: f.path("d/m/"), URI: uri})
			f.wantErr("mount", err, kind)
			if err != nil && !strings.Contains(err.Error(), "weather") {
				f.Errorf("the reason is lost: %v", err)
			}
		}
		f.tap.set(nil)
		f.wantGone("d/m/")
		f.wantGone("d/")
		f.must(f.mount(core.MountSpec{Path: f.path("d/m/"), URI: uri}))
	}},
	{name: "bad policies and an unknown URI are refused", test: func(f *fixture) {
		uri, _ := f.Spare(f.T)
		f.wantErr("write type", f.mount(core.MountSpec{Path: f.path("m/"), URI: uri, WriteType: "NONSENSE"}), errs.Invalid)
		f.wantErr("read type", f.mount(core.MountSpec{Path: f.path("m/"), URI: uri, ReadType: "NONSENSE"}), errs.Invalid)
		f.wantErr("URI", f.mount(core.MountSpec{Path: f.path("m/"), URI: "nonsense://x"}), errs.Invalid, errs.NotExist, errs.Unsupported)
		f.wantGone("m/")
	}},
	{name: "a read-only mount refuses every change", test: func(f *fixture) {
		uri, store := f.Spare(f.T)
		_, err := ufs.WriteFile(f.Context(), store, "d/a", []byte("x"), ufs.CreateOptions{})
		f.must(err)
		f.must(f.mount(core.MountSpec{Path: f.path("m/"), URI: uri, ReadOnly: true}))
		f.wantData("m/d/a", "x")
		if i := f.stat("m/d/a"); !i.ReadOnly {
			f.Errorf("got %+v", i)
		}
		for _, mode := range []core.CreateMode{core.Replace, core.CreateNew, core.Append} {
			for _, name := range []string{"m/d/a", "m/d/b"} {
				if _, err := f.write(name, "y", core.CreateOptions{Mode: mode, Size: -1}); err == nil {
					f.Errorf("create %s, mode %d: no error", name, mode)
				}
			}
		}
		_, err = f.Mkdir(f.ctx(), f.path("m/e/"), core.MkdirOptions{})
		f.wantErr("mkdir", err, errs.Permission)
		f.wantErr("rename", f.renameErr("m/d/a", "m/d/b", false), errs.Permission)
		f.wantErr("remove", f.removeErr("m/d/", core.RemoveOptions{Recursive: true}), errs.Permission)
		f.wantErr("setattr", f.setAttr("m/d/a", core.AttrChange{Mode: ptr(uint32(0))}), errs.Permission)
		_, err = f.CreateUpload(f.ctx(), f.path("m/u"), core.CreateOptions{})
		f.wantErr("upload", err, errs.Permission)
		_, err = f.Copy(f.ctx(), f.path("m/d/a"), f.path("m/c"), core.CopyOptions{})
		f.wantErr("copy", err, errs.Permission)
		f.wantKeys("m/", "d/a")
		_, err = f.UpdateMount(f.ctx(), f.path("m/"), core.MountChange{ReadOnly: ptr(false)})
		f.must(err)
		f.put("m/d/b", "y")
	}},
	{name: "owner, group and mode of a mount are those of what the store does not say", test: func(f *fixture) {
		uri, _ := f.Spare(f.T)
		f.must(f.mount(core.MountSpec{Path: f.path("m/"), URI: uri, Owner: "ann", Group: "staff", Mode: 0o750}))
		if i := f.stat("m/"); i.Owner != "ann" || i.Group != "staff" || i.Mode != 0o750 {
			f.Errorf("got %+v", i)
		}
		f.as("ann").putWith("m/a", "x", core.CreateOptions{Size: 1})
		_, err := f.as("bob").read("m/a", core.All)
		f.wantErr("another", err, errs.Permission)
	}},
	{name: "UpdateMount changes what is named", test: func(f *fixture) {
		f.mountSpare("m/")
		i, err := f.UpdateMount(f.ctx(), f.path("m/"), core.MountChange{SyncInterval: ptr(time.Hour), Group: ptr("staff"), ReadType: ptr(core.NoCache)})
		if err != nil || *i.SyncInterval != time.Hour || i.Group != "staff" || i.ReadType != core.NoCache || i.Owner != "root" {
			f.Errorf("got %+v, %v", i, err)
		}
		_, err = f.UpdateMount(f.ctx(), f.path("n/"), core.MountChange{})
		f.wantErr("not mounted", err, errs.NotExist)
		f.restart()
		all, err := f.Mounts(f.ctx())
		f.must(err)
		for _, m := range all {
			if m.Path == f.path("m/") && (*m.SyncInterval != time.Hour || m.Group != "staff" || m.ReadType != core.NoCache) {
				f.Errorf("after a restart: %+v", m)
			}
		}
	}},
	{name: "Unmount removes the point and leaves the store untouched", test: func(f *fixture) {
		store := f.mountSpare("d/m/")
		f.put("d/m/a", "x")
		f.put("d/m/e/b", "y")
		f.wantErr("not mounted", f.Unmount(f.ctx(), f.path("d/")), errs.NotExist)
		f.wantErr("the root", f.Unmount(f.ctx(), core.Root), errs.Invalid)
		f.must(f.Unmount(f.ctx(), f.path("d/m/")))
		f.wantGone("d/m/a")
		f.wantGone("d/m/")
		f.storedIn(store, "a", "x")
		f.storedIn(store, "e/b", "y")
		f.wantChildren("d/")
		f.put("d/m/a", "of the store below")
		f.wantStored("d/m/a", "of the store below")
	}},
	{name: "a store mounted again shows what it holds", test: func(f *fixture) {
		uri, store := f.Spare(f.T)
		f.must(f.mount(core.MountSpec{Path: f.path("m/"), URI: uri}))
		f.put("m/a", "one")
		f.wantData("m/a", "one")
		f.must(f.Unmount(f.ctx(), f.path("m/")))
		_, err := ufs.WriteFile(f.Context(), store, "a", []byte("two"), ufs.CreateOptions{})
		f.must(err)
		f.must(f.mount(core.MountSpec{Path: f.path("n/"), URI: uri}))
		f.wantData("n/a", "two")
		f.wantKeys("", "n/a")
	}},
	{name: "mounts live through a restart", test: func(f *fixture) {
		f.mountSpare("m/")
		f.put("m/a", "x")
		f.restart()
		f.wantData("m/a", "x")
		f.put("m/b", "y")
		f.wantKeys("m/", "a", "b")
		f.must(f.Unmount(f.ctx(), f.path("m/")))
		f.restart()
		f.wantGone("m/")
	}},
}
