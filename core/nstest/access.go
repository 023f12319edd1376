package nstest

import (
	"fmt"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

var accessTests = []entry{
	{name: "the first class that fits decides: owner, group, other", test: func(f *fixture) {
		f.put("a", "x")
		f.chown("a", "ann", "staff")
		who := map[string]*fixture{"ann": f.as("ann", "staff"), "bob": f.as("bob", "staff"), "eve": f.as("eve")}
		for _, c := range []struct {
			mode uint32
			want map[string]uint32 // every right the principal has
		}{
			{0o754, map[string]uint32{"ann": 7, "bob": 5, "eve": 4}},
			{0o077, map[string]uint32{"ann": 0, "bob": 7, "eve": 7}},
			{0o707, map[string]uint32{"ann": 7, "bob": 0, "eve": 7}},
			{0o640, map[string]uint32{"ann": 6, "bob": 4, "eve": 0}},
		} {
			f.chmod("a", c.mode)
			for user, has := range c.want {
				for want := uint32(1); want <= 7; want++ {
					err := who[user].CheckAccess(who[user].ctx(), f.path("a"), want)
					if ok := has&want == want; ok != (err == nil) {
						f.Errorf("mode %o, %s, want %o: %v", c.mode, user, want, err)
					} else if !ok {
						f.wantErr(fmt.Sprintf("mode %o, %s, want %o", c.mode, user, want), err, errs.Permission)
					}
				}
			}
		}
	}},
	{name: "the superuser passes everything", test: func(f *fixture) {
		f.put("d/a", "x")
		f.chmod("d/a", 0)
		f.chmod("d/", 0)
		f.must(f.CheckAccess(f.ctx(), f.path("d/a"), 7))
		f.wantData("d/a", "x")
	}},
	{name: "CheckAccess needs to traverse", test: func(f *fixture) {
		f.put("d/a", "x")
		f.chmod("d/a", 0o777)
		f.chmod("d/", 0o766)
		ann := f.as("ann")
		f.wantErr("access", ann.CheckAccess(ann.ctx(), f.path("d/a"), 4), errs.Permission)
		f.wantErr("missing", f.CheckAccess(f.ctx(), f.path("n"), 4), errs.NotExist)
	}},
	{name: "reading needs read, listing read and execute", test: func(f *fixture) {
		f.put("d/a", "x")
		f.chmod("d/a", 0o600)
		ann := f.as("ann")
		_, err := ann.open("d/a", core.All)
		f.wantErr("open", err, errs.Permission)
		if _, err := ann.names("d/", core.ListOptions{Children: true}); err != nil {
			f.Error(err)
		}
		f.chmod("d/", 0o711)
		_, err = ann.names("d/", core.ListOptions{Children: true})
		f.wantErr("list", err, errs.Permission)
		if err := ann.statErr("d/a"); err != nil {
			f.Error(err)
		}
		f.chmod("d/", 0o744)
		f.wantErr("stat", ann.statErr("d/a"), errs.Permission)
		_, err = ann.names("d/", core.ListOptions{Children: true})
		f.wantErr("list", err, errs.Permission)
	}},
	{name: "overwriting needs write on the file, creating on the directory", test: func(f *fixture) {
		f.put("d/a", "x")
		f.chmod("d/", 0o777)
		ann := f.as("ann")
		_, err := ann.write("d/a", "y", core.CreateOptions{Size: 1})
		f.wantErr("overwrite", err, errs.Permission)
		ann.putWith("d/b", "y", core.CreateOptions{Size: 1})
		f.chmod("d/a", 0o666)
		ann.putWith("d/a", "y", core.CreateOptions{Size: 1})
	}},
	{name: "in a sticky directory only owners remove and rename", test: func(f *fixture) {
		f.mkdir("tmp/")
		f.chmod("tmp/", 0o1777)
		ann, bob := f.as("ann"), f.as("bob")
		ann.putWith("tmp/a", "x", core.CreateOptions{Size: 1})
		bob.putWith("tmp/b", "x", core.CreateOptions{Size: 1})
		f.wantErr("remove", bob.removeErr("tmp/a", core.RemoveOptions{}), errs.Permission)
		f.wantErr("rename", bob.renameErr("tmp/a", "tmp/c", false), errs.Permission)
		f.wantErr("replace", bob.renameErr("tmp/b", "tmp/a", true), errs.Permission)
		f.must(ann.renameErr("tmp/a", "tmp/c", false))
		f.must(ann.removeErr("tmp/c", core.RemoveOptions{}))
		f.chown("tmp/", "ann", "staff")
		f.must(ann.removeErr("tmp/b", core.RemoveOptions{}))
	}},
	{name: "names in the store before have the mount's owner and mode", needs: mounted, test: func(f *fixture) {
		if f.Store.Features().Kind == "local" {
			f.Skip("the store says owners and modes itself")
		}
		f.storePut("d/a", "x")
		if i := f.stat("d/a"); i.Owner != "root" || i.Mode != 0o644 {
			f.Errorf("got %s %o", i.Owner, i.Mode)
		}
		if i := f.stat("d/"); i.Owner != "root" || i.Mode != 0o755 {
			f.Errorf("got %s %o", i.Owner, i.Mode)
		}
	}},
}

func (f *fixture) setAttr(name string, a core.AttrChange) error {
	_, err := f.SetAttr(f.ctx(), f.path(name), a)
	return err
}

func ptr[T any](v T) *T { return &v }

var setAttrTests = []entry{
	{name: "SetAttr applies the changes named and no others", test: func(f *fixture) {
		f.put("a", "x")
		mtime, atime := time.Unix(1_000_000_000, 0), time.Unix(1_100_000_000, 0)
		i, err := f.SetAttr(f.ctx(), f.path("a"), core.AttrChange{Owner: ptr("ann"), Mode: ptr(uint32(0o1640)), ModTime: &mtime})
		if err != nil || i.Owner != "ann" || i.Mode != 0o1640 || !i.ModTime.Equal(mtime) {
			f.Errorf("got %+v, %v", i, err)
		}
		f.must(f.setAttr("a", core.AttrChange{Group: ptr("staff"), AccessTime: &atime, Replication: ptr(2)}))
		i = f.stat("a")
		if i.Owner != "ann" || i.Group != "staff" || i.Mode != 0o1640 || !i.ModTime.Equal(mtime) || !i.AccessTime.Equal(atime) || i.Replication != 2 || i.ETag != etag("x") {
			f.Errorf("got %+v", i)
		}
		f.wantData("a", "x")
	}},
	{name: "SetAttr of directories, and of names known only from the store", test: func(f *fixture) {
		f.put("d/a", "x")
		f.storePut("s/b", "x")
		for _, name := range []string{"d/", "s/", "s/b", "~s"} {
			f.must(f.setAttr(name, core.AttrChange{Owner: ptr("ann"), Mode: ptr(uint32(0o700))}))
			if i := f.stat(name); i.Owner != "ann" || i.Mode != 0o700 {
				f.Errorf("%s: got %+v", name, i)
			}
		}
		f.wantData("s/b", "x")
		f.wantChildren("s/", "b")
		f.restart()
		if i := f.stat("s/b"); i.Owner != "ann" || i.Mode != 0o700 {
			f.Errorf("after a restart: got %+v", i)
		}
	}},
	{name: "SetAttr of the root and of a mount point", test: func(f *fixture) {
		f.must(f.setAttr("", core.AttrChange{Mode: ptr(uint32(0o777)), Group: ptr("staff")}))
		if i := f.stat(""); i.Mode != 0o777 || i.Group != "staff" {
			f.Errorf("got %+v", i)
		}
	}},
	{name: "mode 0 can be said", test: func(f *fixture) {
		f.put("a", "x")
		f.chmod("a", 0)
		if i := f.stat("a"); i.Mode != 0 {
			f.Errorf("got mode %o", i.Mode)
		}
	}},
	{name: "owner changes need the superuser", test: func(f *fixture) {
		f.put("a", "x")
		f.chown("a", "ann", "staff")
		ann := f.as("ann", "staff", "other")
		f.wantErr("give away", ann.setAttr("a", core.AttrChange{Owner: ptr("bob")}), errs.Permission)
	}},
	{name: "mode and group changes need the owner, and a group he is in", test: func(f *fixture) {
		f.put("a", "x")
		f.chown("a", "ann", "staff")
		f.chmod("a", 0o666)
		ann, bob := f.as("ann", "other"), f.as("bob", "staff", "other")
		f.must(ann.setAttr("a", core.AttrChange{Mode: ptr(uint32(0o777)), Group: ptr("other")}))
		f.wantErr("foreign group", ann.setAttr("a", core.AttrChange{Group: ptr("secret")}), errs.Permission)
		f.wantErr("mode", bob.setAttr("a", core.AttrChange{Mode: ptr(uint32(0o777))}), errs.Permission)
		f.wantErr("group", bob.setAttr("a", core.AttrChange{Group: ptr("staff")}), errs.Permission)
	}},
	{name: "times need write permission", test: func(f *fixture) {
		f.put("a", "x")
		now := time.Unix(1_000_000_000, 0)
		ann := f.as("ann")
		f.wantErr("times", ann.setAttr("a", core.AttrChange{ModTime: &now}), errs.Permission)
		f.chmod("a", 0o666)
		f.must(ann.setAttr("a", core.AttrChange{ModTime: &now}))
	}},
	{name: "nothing to change is NotExist", test: func(f *fixture) {
		f.wantErr("file", f.setAttr("n", core.AttrChange{Mode: ptr(uint32(0o777))}), errs.NotExist)
		f.wantErr("directory", f.setAttr("n/", core.AttrChange{Mode: ptr(uint32(0o777))}), errs.NotExist)
	}},
	{name: "attributes live through overwrite, rename and a restart", test: func(f *fixture) {
		f.put("d/a", "x")
		f.chown("d/a", "ann", "staff")
		f.chmod("d/a", 0o604)
		f.put("d/a", "y")
		f.rename("d/", "e/")
		f.rename("e/a", "e/b")
		f.restart()
		if i := f.stat("e/b"); i.Owner != "ann" || i.Group != "staff" || i.Mode != 0o604 {
			f.Errorf("got %+v", i)
		}
	}},
}
