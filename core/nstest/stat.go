package nstest

import (
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

var statTests = []entry{
	{name: "Stat returns what is known of a file", test: func(f *fixture) {
		before := time.Now().Add(-2 * time.Second)
		f.put("d/a", "hello")
		i := f.stat("d/a")
		if i.Dir || i.Size != 5 || i.ETag != etag("hello") || i.Version == "" || i.ID == 0 || i.Name != "a" || i.Path != f.path("d/a") {
			f.Errorf("got %+v", i)
		}
		if i.Mode != 0o644 || i.Owner != "root" || i.BlockSize != 128<<20 || i.Replication != 1 || i.Mount != f.Base.String() {
			f.Errorf("got %+v", i)
		}
		if i.ModTime.Before(before) || i.ModTime.After(time.Now().Add(2*time.Second)) {
			f.Errorf("got ModTime %v", i.ModTime)
		}
	}},
	{name: "Stat returns what is known of a directory", test: func(f *fixture) {
		f.mkdir("d/")
		i := f.stat("d/")
		if !i.Dir || i.Size != 0 || i.BlockSize != 0 || i.Mode != 0o755 || i.Owner != "root" || i.ID == 0 || i.MountPoint || i.Name != "d/" {
			f.Errorf("got %+v", i)
		}
	}},
	{name: "Stat of a mount point and of the root", test: func(f *fixture) {
		for _, p := range []core.Path{f.Base, core.Root} {
			i, err := f.Stat(f.ctx(), p)
			if err != nil || !i.Dir || !i.MountPoint || i.Owner != "root" || i.Mode != 0o755 {
				f.Errorf("%s: got %+v, %v", p, i, err)
			}
		}
	}},
	{name: "a name that is not there is NotExist", test: func(f *fixture) {
		f.put("a", "x")
		for _, name := range []string{"b", "b/", "~b", "b/c", "b/c/", "a/b", "a/b/"} {
			f.wantErr("stat "+name, f.statErr(name), errs.NotExist)
		}
	}},
	{name: "an exact path names its edge and nothing else", test: func(f *fixture) {
		f.put("d/a", "x")
		f.mkdir("e/")
		for _, name := range []string{"d", "e", "d/a/"} {
			f.wantGone(name)
		}
	}},
	{name: "an ambiguous path names the directory, else the file", test: func(f *fixture) {
		f.put("d/a", "x")
		if i := f.stat("~d"); !i.Dir || i.Path != f.path("d/") {
			f.Errorf("~d: got %+v", i)
		}
		if i := f.stat("~d/a"); i.Dir || i.Path != f.path("d/a") {
			f.Errorf("~d/a: got %+v", i)
		}
	}},
	{name: "an ambiguous path prefers the directory to a file of its name", needs: flat, test: func(f *fixture) {
		f.put("x", "file")
		f.put("x/a", "below")
		if i := f.stat("~x"); !i.Dir {
			f.Errorf("~x: got %+v", i)
		}
		if i := f.stat("x"); i.Dir || i.Size != 4 {
			f.Errorf("x: got %+v", i)
		}
		f.remove("x/a")
		f.wantData("~x", "file")
	}},
	{name: "equal versions have equal bytes, others differ", test: func(f *fixture) {
		one := f.put("a", "one")
		if again := f.stat("a"); again.Version != one.Version || again.ID != one.ID {
			f.Errorf("got %+v after %+v", again, one)
		}
		if two := f.put("a", "two"); two.Version == one.Version || two.ETag == one.ETag || two.ID != one.ID {
			f.Errorf("got %+v after %+v", two, one)
		}
	}},
	{name: "without a principal it is Anonymous", test: func(f *fixture) {
		f.put("d/a", "x")
		f.chmod("d/", 0o700)
		_, err := f.Stat(f.Context(), f.path("d/a"))
		f.wantErr("stat", err, errs.Permission)
		w, err := f.Create(f.Context(), f.path("b"), core.CreateOptions{Size: -1})
		f.wantErr("create", err, errs.Permission)
		if err == nil {
			w.Abort()
		}
	}},
	{name: "an outage is never NotExist", with: synced(0), test: func(f *fixture) {
		f.storePut("there", "x")
		f.storePut("d/a", "x")
		f.tap.set(func(call) verdict { return verdict{before: errs.New("test", "", errs.Unavailable, "outage")} })
		for _, name := range []string{"there", "nowhere", "~there", "~nowhere", "d/", "d/a", "n/a"} {
			f.wantErr("stat "+name, f.statErr(name), errs.Unavailable)
			_, err := f.open(name, core.All)
			f.wantErr("open "+name, err, errs.Unavailable)
		}
		for _, o := range []core.ListOptions{{}, {Children: true}, {Delimiter: "/"}} {
			_, err := f.names("", o)
			f.wantErr("list", err, errs.Unavailable)
			_, err = f.names("d/", o)
			f.wantErr("list d/", err, errs.Unavailable)
		}
		_, err := f.write("new", "x", core.CreateOptions{Size: 1})
		f.wantErr("create", err, errs.Unavailable)
		f.wantErr("remove", f.removeErr("there", core.RemoveOptions{}), errs.Unavailable)
		f.wantErr("rename", f.renameErr("there", "elsewhere", false), errs.Unavailable)
		f.tap.set(nil)
		f.wantData("there", "x")
		f.wantGone("new")
		f.wantGone("elsewhere")
	}},
	{name: "a refused credential is Permission", with: synced(0), test: func(f *fixture) {
		f.storePut("there", "x")
		f.tap.set(func(call) verdict { return verdict{before: errs.New("test", "", errs.Permission, "refused")} })
		f.wantErr("stat", f.statErr("there"), errs.Permission)
	}},
}
