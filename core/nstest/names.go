package nstest

import (
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

var mkdirTests = []entry{
	{name: "Mkdir makes a directory that exists when it is empty", test: func(f *fixture) {
		for _, name := range []string{"d/", "~e", "d/f/"} {
			i, err := f.Mkdir(f.ctx(), f.path(name), core.MkdirOptions{})
			if err != nil || !i.Dir || i.Mode != 0o755 || i.Owner != "root" {
				f.Errorf("%s: got %+v, %v", name, i, err)
			}
		}
		f.wantChildren("", "d/", "e/")
		f.wantChildren("d/", "f/")
		f.put("d/f/a", "x")
		f.must(f.removeErr("d/f/a", core.RemoveOptions{Prune: true}))
		f.wantChildren("d/", "f/")
	}},
	{name: "Mkdir of what exists is Exist", test: func(f *fixture) {
		f.put("d/a", "x")
		f.storePut("s/a", "x")
		for _, name := range []string{"d/", "~d", "s/", "~s", "~d/a"} {
			_, err := f.Mkdir(f.ctx(), f.path(name), core.MkdirOptions{MakeParents: true})
			f.wantErr("mkdir "+name, err, errs.Exist)
		}
		_, err := f.Mkdir(f.ctx(), core.Root, core.MkdirOptions{})
		f.wantErr("mkdir /", err, errs.Exist)
		f.wantData("d/a", "x")
	}},
	{name: "Mkdir below a file is NotDir", needs: dirs, test: func(f *fixture) {
		f.put("a", "x")
		for _, name := range []string{"a/b/", "~a/b/c"} {
			_, err := f.Mkdir(f.ctx(), f.path(name), core.MkdirOptions{MakeParents: true})
			f.wantErr("mkdir "+name, err, errs.NotDir)
		}
	}},
	{name: "Mkdir makes missing parents only if asked to", test: func(f *fixture) {
		_, err := f.Mkdir(f.ctx(), f.path("d/e/"), core.MkdirOptions{})
		f.wantErr("mkdir", err, errs.NotExist)
		f.wantGone("d/")
		f.mkdir("d/e/f/")
		f.remove("d/e/f/")
		f.wantChildren("d/", "e/")
	}},
	{name: "Mkdir gives mode, owner and the parent's group", test: func(f *fixture) {
		f.mkdir("d/")
		f.chown("d/", "root", "staff")
		f.chmod("d/", 0o777)
		ann := f.as("ann")
		i, err := ann.Mkdir(ann.ctx(), f.path("d/e/"), core.MkdirOptions{Mode: 0o1750})
		if err != nil || i.Mode != 0o1750 || i.Owner != "ann" || i.Group != "staff" {
			f.Errorf("got %+v, %v", i, err)
		}
	}},
	{name: "a marker is an S3 key of its own, and reads as an empty object", test: func(f *fixture) {
		i, err := f.Mkdir(f.ctx(), f.path("d/"), core.MkdirOptions{Marker: true, User: map[string]string{"k": "v"}})
		if err != nil || !i.Marker || i.User["k"] != "v" || i.ETag == "" {
			f.Fatalf("got %+v, %v", i, err)
		}
		f.wantKeys("", "d/")
		f.put("d/a", "x")
		f.wantKeys("", "d/", "d/a")
		f.wantData("d/", "")
		f.mkdir("e/")
		_, err = f.Mkdir(f.ctx(), f.path("e/"), core.MkdirOptions{Marker: true})
		f.must(err)
		f.put("e/a", "x")
		f.wantKeys("", "d/", "d/a", "e/", "e/a")
	}},
	{name: "the condition of a marker is judged on the marker", test: func(f *fixture) {
		o := core.MkdirOptions{Marker: true, Cond: core.Cond{IfNoneMatch: "*"}}
		_, err := f.Mkdir(f.ctx(), f.path("d/"), o)
		f.must(err)
		_, err = f.Mkdir(f.ctx(), f.path("d/"), o)
		f.wantErr("again", err, errs.Precondition)
	}},
	{name: "Mkdir needs write permission on the parent", test: func(f *fixture) {
		ann := f.as("ann")
		_, err := ann.Mkdir(ann.ctx(), f.path("d/"), core.MkdirOptions{})
		f.wantErr("mkdir", err, errs.Permission)
	}},
	{name: "Mkdir fails with its store, with nothing made", test: func(f *fixture) {
		if !f.Store.Features().Mkdir {
			f.Skip("the store makes no directories")
		}
		f.tap.set(func(c call) verdict {
			if c.op == "Mkdir" {
				return verdict{before: errs.New("test", "", errs.NoSpace, "full")}
			}
			return verdict{}
		})
		_, err := f.Mkdir(f.ctx(), f.path("d/"), core.MkdirOptions{})
		f.wantErr("mkdir", err, errs.NoSpace)
		f.tap.set(nil)
		f.wantGone("d/")
		f.wantChildren("")
	}},
}

var renameTests = []entry{
	{name: "Rename moves a file", test: func(f *fixture) {
		old := f.putWith("d/a", large, core.CreateOptions{Size: int64(len(large)), MakeParents: true, Attr: core.FileAttr{Mode: 0o600, User: map[string]string{"k": "v"}}})
		f.mkdir("e/")
		f.rename("d/a", "e/b")
		i := f.stat("e/b")
		if i.ID != old.ID || i.ETag != old.ETag || i.Mode != 0o600 || i.User["k"] != "v" || i.Size != old.Size {
			f.Errorf("got %+v after %+v", i, old)
		}
		f.wantGone("d/a")
		f.wantData("e/b", large)
		f.wantStored("e/b", large)
		f.storeGone("d/a")
		f.wantKeys("e/", "b")
	}},
	{name: "Rename moves a directory with all that is below", test: func(f *fixture) {
		f.put("d/a", "1")
		f.put("d/e/b", "2")
		f.storePut("d/e/s", "3")
		f.mkdir("d/f/")
		f.chmod("d/f/", 0o700)
		f.rename("d/", "x/")
		f.wantGone("d/")
		f.wantChildren("", "x/")
		f.wantChildren("x/", "a", "e/", "f/")
		f.wantData("x/a", "1")
		f.wantData("x/e/b", "2")
		f.wantData("x/e/s", "3")
		if i := f.stat("x/f/"); i.Mode != 0o700 {
			f.Errorf("x/f/ has mode %o", i.Mode)
		}
		for name, data := range map[string]string{"x/a": "1", "x/e/b": "2", "x/e/s": "3"} {
			f.wantStored(name, data)
		}
		f.storeGone("d/a")
		f.storeGone("d/")
	}},
	{name: "after the rename of a directory its files are what they were", with: noCache, test: func(f *fixture) {
		a := f.put("d/a", large)
		b := f.put("d/e/b", "2")
		f.rename("d/", "x/")
		f.wantData("x/a", large)
		if i := f.stat("x/a"); i.ETag != a.ETag || i.ID != a.ID || i.Version != a.Version {
			f.Errorf("got %+v after %+v", i, a)
		}
		f.putWith("x/a", "new", core.CreateOptions{Size: 3, Cond: core.Cond{IfMatch: a.ETag}})
		f.append("x/e/b", "!")
		f.wantData("x/e/b", "2!")
		f.must(f.removeErr("x/a", core.RemoveOptions{Cond: core.Cond{IfMatch: etag("new")}}))
		if i := f.stat("x/e/b"); i.ID != b.ID {
			f.Errorf("got number %d after %d", i.ID, b.ID)
		}
	}},
	{name: "the old name is free at once", test: func(f *fixture) {
		f.put("d/a", "1")
		f.rename("d/", "x/")
		f.put("d/b", "2")
		f.wantKeys("", "d/b", "x/a")
		f.rename("x/", "y/")
		f.rename("d/", "x/")
		f.wantKeys("", "x/b", "y/a")
		f.restart()
		f.wantKeys("", "x/b", "y/a")
		f.wantData("x/b", "2")
	}},
	{name: "an ambiguous path", test: func(f *fixture) {
		f.put("d/a", "x")
		f.rename("~d", "~e")
		f.rename("~e/a", "~e/b")
		f.wantKeys("", "e/b")
	}},
	{name: "Rename onto itself changes nothing", test: func(f *fixture) {
		f.put("d/a", "x")
		for _, name := range []string{"d/a", "d/"} {
			if err := f.renameErr(name, name, true); err != nil {
				f.Error(err)
			}
		}
		f.wantData("d/a", "x")
	}},
	{name: "a source that does not exist is NotExist", test: func(f *fixture) {
		f.wantErr("rename", f.renameErr("a", "b", false), errs.NotExist)
		f.wantErr("rename", f.renameErr("d/", "e/", false), errs.NotExist)
	}},
	{name: "a destination whose parent does not exist is NotExist", test: func(f *fixture) {
		f.put("a", "x")
		f.put("d/b", "x")
		f.wantErr("file", f.renameErr("a", "n/a", false), errs.NotExist)
		f.wantErr("directory", f.renameErr("d/", "n/d/", false), errs.NotExist)
		f.wantData("a", "x")
	}},
	{name: "a destination that exists is Exist", test: func(f *fixture) {
		f.put("a", "1")
		f.put("b", "2")
		f.mkdir("d/")
		f.mkdir("e/")
		f.storePut("s", "3")
		f.wantErr("file", f.renameErr("a", "b", false), errs.Exist)
		f.wantErr("stored file", f.renameErr("a", "s", false), errs.Exist)
		f.wantErr("directory", f.renameErr("d/", "e/", false), errs.Exist)
		f.wantData("a", "1")
		f.wantData("b", "2")
	}},
	{name: "Overwrite replaces a file by a file", test: func(f *fixture) {
		f.put("a", "1")
		f.put("b", "2")
		f.must(f.renameErr("a", "b", true))
		f.wantData("b", "1")
		f.wantStored("b", "1")
		f.wantKeys("", "b")
	}},
	{name: "Overwrite replaces an empty directory by a directory", test: func(f *fixture) {
		f.put("d/a", "1")
		f.mkdir("e/")
		f.must(f.renameErr("d/", "e/", true))
		f.wantKeys("", "e/a")
		f.put("d/b", "2")
		f.wantErr("not empty", f.renameErr("d/", "e/", true), errs.NotEmpty)
		f.wantKeys("", "d/b", "e/a")
	}},
	{name: "kinds that differ are IsDir or NotDir", needs: dirs, test: func(f *fixture) {
		f.put("a", "1")
		f.mkdir("d/")
		f.wantErr("file over directory", f.renameErr("a", "~d", true), errs.IsDir)
		f.wantErr("directory over file", f.renameErr("d/", "~a", true), errs.NotDir)
		f.wantErr("without Overwrite", f.renameErr("a", "~d", false), errs.Exist, errs.IsDir)
		f.wantErr("below a file", f.renameErr("d/", "~a/d", false), errs.NotDir)
		f.wantKeys("", "a", "d/")
	}},
	{name: "below itself, and the root, are Invalid", test: func(f *fixture) {
		f.put("d/a", "x")
		f.wantErr("below itself", f.renameErr("d/", "d/e/", false), errs.Invalid)
		f.wantErr("the root", f.Rename(f.ctx(), core.Root, f.path("r/"), core.RenameOptions{}), errs.Invalid)
		f.wantErr("onto the root", f.Rename(f.ctx(), f.path("d/"), core.Root, core.RenameOptions{Overwrite: true}), errs.Invalid)
		f.wantData("d/a", "x")
	}},
	{name: "across mounts is Unsupported", test: func(f *fixture) {
		f.mountSpare("m/")
		f.put("a", "x")
		f.put("d/b", "x")
		f.wantErr("file", f.renameErr("a", "m/a", false), errs.Unsupported)
		f.wantErr("directory", f.renameErr("d/", "m/d/", false), errs.Unsupported)
		f.wantErr("mount point", f.renameErr("m/", "x/", false), errs.Unsupported)
		f.wantKeys("", "a", "d/b", "m/")
	}},
	{name: "a source that holds a mount point is Unsupported", test: func(f *fixture) {
		f.mountSpare("d/e/m/")
		f.wantErr("rename", f.renameErr("d/", "x/", false), errs.Unsupported)
		f.wantChildren("d/e/", "m/")
	}},
	{name: "Rename needs write permission on both parents", test: func(f *fixture) {
		f.put("d/a", "x")
		f.mkdir("e/")
		f.chmod("d/", 0o777)
		ann := f.as("ann")
		f.wantErr("destination", ann.renameErr("d/a", "e/a", false), errs.Permission)
		f.chmod("d/", 0o755)
		f.chmod("e/", 0o777)
		f.wantErr("source", ann.renameErr("d/a", "e/a", false), errs.Permission)
		f.chmod("d/", 0o777)
		f.must(ann.renameErr("d/a", "e/a", false))
	}},
	{name: "a name too long for the store is Invalid", test: func(f *fixture) {
		f.put("a", "x")
		long := strings.Repeat("n", 256)
		if f.Store.Features().MaxName == 0 {
			long = strings.Repeat("n", 200) + "/" + strings.Repeat("n", f.Store.Features().MaxKey)
		}
		f.wantErr("rename", f.renameErr("a", long, false), errs.Invalid)
		_, err := f.write(long, "x", core.CreateOptions{Size: 1, MakeParents: true})
		f.wantErr("create", err, errs.Invalid)
		f.wantKeys("", "a")
	}},
}

var removeTests = []entry{
	{name: "Remove removes a file", test: func(f *fixture) {
		f.put("d/a", "x")
		f.storePut("d/s", "x")
		f.remove("d/a")
		f.remove("~d/s")
		f.wantGone("d/a")
		f.storeGone("d/a")
		f.storeGone("d/s")
		f.wantErr("again", f.removeErr("d/a", core.RemoveOptions{}), errs.NotExist)
	}},
	{name: "Remove removes an empty directory", test: func(f *fixture) {
		f.mkdir("d/")
		f.remove("d/")
		f.wantGone("d/")
		f.wantChildren("")
		f.storeGone("d/")
	}},
	{name: "the parent of what was removed stays", needs: dirs, test: func(f *fixture) {
		f.put("d/a", "x")
		f.remove("d/a")
		f.wantChildren("", "d/")
		f.remove("d/")
		f.storeGone("d/")
	}},
	{name: "a directory with children is NotEmpty", test: func(f *fixture) {
		f.put("d/a", "x")
		f.storePut("s/a", "x")
		for _, d := range []string{"d/", "s/", "~d"} {
			f.wantErr("remove "+d, f.removeErr(d, core.RemoveOptions{}), errs.NotEmpty)
		}
		f.wantKeys("", "d/a", "s/a")
	}},
	{name: "Recursive removes all of a tree", test: func(f *fixture) {
		f.put("d/a", "x")
		f.put("d/e/b", "x")
		f.storePut("d/f/s", "x")
		f.mkdir("d/g/")
		f.put("d0", "stays")
		f.removeAll("d/")
		f.wantGone("d/")
		f.wantGone("d/e/b")
		f.wantKeys("", "d0")
		for _, name := range []string{"d/a", "d/e/b", "d/f/s", "d/g/", "d/"} {
			f.storeGone(name)
		}
		f.put("d/a", "again")
		f.wantKeys("", "d/a", "d0")
	}},
	{name: "a tree known only from the store", test: func(f *fixture) {
		f.storePut("d/a", "x")
		f.storePut("d/e/b", "x")
		f.removeAll("d/")
		f.wantKeys("")
		f.wantChildren("")
		f.storeGone("d/e/b")
	}},
	{name: "a condition that does not hold is Precondition", test: func(f *fixture) {
		f.put("a", "x")
		f.wantErr("remove", f.removeErr("a", core.RemoveOptions{Cond: core.Cond{IfMatch: etag("y")}}), errs.Precondition)
		f.wantData("a", "x")
		f.must(f.removeErr("a", core.RemoveOptions{Cond: core.Cond{IfMatch: etag("x")}}))
		f.wantGone("a")
	}},
	{name: "a condition sees what others put in the store", needs: mounted, with: synced(-1), test: func(f *fixture) {
		i := f.put("a", "ours")
		f.storePut("a", "theirs!")
		f.wantErr("remove", f.removeErr("a", core.RemoveOptions{Cond: core.Cond{IfMatch: i.ETag}}), errs.Precondition)
		f.wantStored("a", "theirs!")
	}},
	{name: "a mount point, and a tree that holds one, are Busy", test: func(f *fixture) {
		f.mountSpare("d/m/")
		f.put("d/m/a", "x")
		for _, name := range []string{"d/m/", "d/", "~d/m"} {
			f.wantErr("remove "+name, f.removeErr(name, core.RemoveOptions{Recursive: true}), errs.Busy)
		}
		f.wantData("d/m/a", "x")
		f.wantErr("the root", f.Remove(f.ctx(), core.Root, core.RemoveOptions{Recursive: true}), errs.Invalid, errs.Busy)
	}},
	{name: "Prune takes implied parents and leaves explicit ones", test: func(f *fixture) {
		f.mkdir("d/")
		f.put("d/e/f/a", "x")
		f.put("d/e/b", "x")
		f.must(f.removeErr("d/e/f/a", core.RemoveOptions{Prune: true}))
		f.wantGone("d/e/f/")
		f.wantChildren("d/e/", "b")
		f.must(f.removeErr("d/e/b", core.RemoveOptions{Prune: true}))
		f.wantChildren("d/")
	}},
	{name: "Prune of a directory takes its marker only", test: func(f *fixture) {
		_, err := f.Mkdir(f.ctx(), f.path("d/"), core.MkdirOptions{Marker: true})
		f.must(err)
		f.put("d/a", "x")
		f.must(f.removeErr("d/", core.RemoveOptions{Prune: true}))
		f.wantKeys("", "d/a")
		f.must(f.removeErr("d/a", core.RemoveOptions{Prune: true}))
		f.wantKeys("")
		f.wantChildren("")
	}},
	{name: "Remove needs write permission on the parent", test: func(f *fixture) {
		f.put("d/a", "x")
		f.chmod("d/a", 0o777)
		ann := f.as("ann")
		f.wantErr("file", ann.removeErr("d/a", core.RemoveOptions{}), errs.Permission)
		f.chmod("d/", 0o777)
		f.chmod("d/a", 0o000)
		f.must(ann.removeErr("d/a", core.RemoveOptions{}))
	}},
	{name: "a recursive removal needs permission all the way down", test: func(f *fixture) {
		f.mkdir("d/")
		f.chmod("d/", 0o777)
		f.put("d/e/f/a", "x")
		f.chown("d/e/", "ann", "ann")
		ann := f.as("ann")
		f.wantErr("remove", ann.removeErr("d/e/", core.RemoveOptions{Recursive: true}), errs.Permission)
		f.wantData("d/e/f/a", "x")
		f.chmod("d/e/f/", 0o777)
		f.must(ann.removeErr("d/e/", core.RemoveOptions{Recursive: true}))
		f.wantChildren("d/")
	}},
	{name: "an overwritten name is removed once", test: func(f *fixture) {
		for range 3 {
			f.put("a", "x")
			f.put("a", "y")
			f.remove("a")
			f.wantGone("a")
		}
	}},
}
