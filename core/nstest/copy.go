package nstest

import (
	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

func (f *fixture) paths(names ...string) (ps []core.Path) {
	for _, n := range names {
		ps = append(ps, f.path(n))
	}
	return ps
}

var composeTests = []entry{
	{name: "Compose makes the destination of its own bytes and the parts', which go", test: func(f *fixture) {
		f.put("d/dst", "0")
		f.put("d/p1", large)
		f.put("d/p2", "2")
		i, err := f.Compose(f.ctx(), f.path("d/dst"), f.paths("d/p1", "d/p2"))
		if err != nil || i.Size != int64(len(large))+2 {
			f.Fatalf("got %+v, %v", i, err)
		}
		f.wantData("d/dst", "0"+large+"2")
		f.wantStored("d/dst", "0"+large+"2")
		f.wantKeys("", "d/dst")
	}},
	{name: "Compose makes a destination that does not exist", test: func(f *fixture) {
		f.put("p1", "1")
		f.put("p2", "2")
		_, err := f.Compose(f.ctx(), f.path("dst"), f.paths("p2", "p1"))
		f.must(err)
		f.wantData("dst", "21")
		f.wantKeys("", "dst")
	}},
	{name: "Compose keeps owner, mode and number of the destination", test: func(f *fixture) {
		f.put("dst", "0")
		f.chown("dst", "ann", "staff")
		f.chmod("dst", 0o660)
		old := f.stat("dst")
		f.put("p", "1")
		i, err := f.Compose(f.ctx(), f.path("~dst"), f.paths("~p"))
		if err != nil || i.Owner != "ann" || i.Group != "staff" || i.Mode != 0o660 || i.ID != old.ID {
			f.Errorf("got %+v, %v", i, err)
		}
	}},
	{name: "Compose of a missing part changes nothing", test: func(f *fixture) {
		f.put("dst", "0")
		f.put("p1", "1")
		_, err := f.Compose(f.ctx(), f.path("dst"), f.paths("p1", "nowhere"))
		f.wantErr("compose", err, errs.NotExist)
		f.wantData("dst", "0")
		f.wantData("p1", "1")
	}},
	{name: "Compose needs permission on all", test: func(f *fixture) {
		f.put("dst", "0")
		f.put("p1", "1")
		_, err := f.as("ann").Compose(f.as("ann").ctx(), f.path("dst"), f.paths("p1"))
		f.wantErr("compose", err, errs.Permission)
		f.wantData("dst", "0")
	}},
	{name: "Compose of files that moved with their directory", test: func(f *fixture) {
		f.put("d/dst", "0")
		f.put("d/p", "1")
		f.rename("d/", "e/")
		_, err := f.Compose(f.ctx(), f.path("e/dst"), f.paths("e/p"))
		f.must(err)
		f.wantData("e/dst", "01")
		f.wantKeys("", "e/dst")
	}},
}

var copyTests = []entry{
	{name: "Copy makes the destination a copy", test: func(f *fixture) {
		src := f.putWith("d/a", large, core.CreateOptions{Size: int64(len(large)), MakeParents: true,
			Attr: core.FileAttr{Headers: map[string]string{"Content-Type": "text/plain"}, User: map[string]string{"k": "v"}}})
		i, err := f.Copy(f.ctx(), f.path("d/a"), f.path("e/b"), core.CopyOptions{MakeParents: true})
		if err != nil || i.ETag != src.ETag || i.Size != src.Size || i.Headers["Content-Type"] != "text/plain" || i.User["k"] != "v" || i.ID == src.ID {
			f.Fatalf("got %+v, %v", i, err)
		}
		f.wantData("e/b", large)
		f.wantStored("e/b", large)
		f.wantData("d/a", large)
	}},
	{name: "a copy is a file of its own", test: func(f *fixture) {
		f.put("a", "one")
		_, err := f.Copy(f.ctx(), f.path("a"), f.path("b"), core.CopyOptions{})
		f.must(err)
		f.put("a", "two")
		f.wantData("b", "one")
		f.append("b", "!")
		f.wantData("a", "two")
		f.remove("a")
		f.wantData("b", "one!")
	}},
	{name: "Copy replaces attributes if asked to", test: func(f *fixture) {
		f.putWith("a", "x", core.CreateOptions{Size: 1, Attr: core.FileAttr{User: map[string]string{"k": "v"}}})
		i, err := f.Copy(f.ctx(), f.path("a"), f.path("b"), core.CopyOptions{ReplaceAttr: &core.FileAttr{User: map[string]string{"n": "w"}, Mode: 0o600}})
		if err != nil || i.User["n"] != "w" || i.User["k"] != "" || i.Mode != 0o600 {
			f.Errorf("got %+v, %v", i, err)
		}
	}},
	{name: "Copy onto itself replaces attributes", test: func(f *fixture) {
		f.put("a", large)
		i, err := f.Copy(f.ctx(), f.path("a"), f.path("a"), core.CopyOptions{ReplaceAttr: &core.FileAttr{User: map[string]string{"n": "w"}}})
		if err != nil || i.User["n"] != "w" || i.ETag != etag(large) {
			f.Errorf("got %+v, %v", i, err)
		}
		f.wantData("a", large)
		f.wantStored("a", large)
	}},
	{name: "Copy judges the source's condition and the destination's", test: func(f *fixture) {
		f.put("a", "x")
		f.put("b", "y")
		_, err := f.Copy(f.ctx(), f.path("a"), f.path("c"), core.CopyOptions{Source: core.Cond{IfMatch: etag("other")}})
		f.wantErr("source", err, errs.Precondition)
		f.wantGone("c")
		_, err = f.Copy(f.ctx(), f.path("a"), f.path("b"), core.CopyOptions{Dest: core.Cond{IfNoneMatch: "*"}})
		f.wantErr("destination", err, errs.Precondition, errs.Exist)
		f.wantData("b", "y")
		_, err = f.Copy(f.ctx(), f.path("a"), f.path("b"), core.CopyOptions{Source: core.Cond{IfMatch: etag("x")}, Dest: core.Cond{IfMatch: etag("y")}})
		f.must(err)
		f.wantData("b", "x")
	}},
	{name: "Copy of nothing, of a directory, and into nowhere", test: func(f *fixture) {
		f.put("d/a", "x")
		_, err := f.Copy(f.ctx(), f.path("n"), f.path("b"), core.CopyOptions{})
		f.wantErr("nothing", err, errs.NotExist)
		_, err = f.Copy(f.ctx(), f.path("d/"), f.path("b"), core.CopyOptions{})
		f.wantErr("directory", err, errs.IsDir)
		_, err = f.Copy(f.ctx(), f.path("d/a"), f.path("n/b"), core.CopyOptions{})
		f.wantErr("nowhere", err, errs.NotExist)
	}},
	{name: "Copy of what was in the store before", test: func(f *fixture) {
		f.storePut("d/a", large)
		_, err := f.Copy(f.ctx(), f.path("d/a"), f.path("b"), core.CopyOptions{})
		f.must(err)
		f.wantData("b", large)
		f.wantStored("b", large)
	}},
	{name: "Copy between mounts", test: func(f *fixture) {
		other := f.mountSpare("other/")
		f.put("a", large)
		_, err := f.Copy(f.ctx(), f.path("a"), f.path("other/b"), core.CopyOptions{})
		f.must(err)
		f.wantData("other/b", large)
		f.storedIn(other, "b", large)
	}},
	{name: "Copy needs to read the source and to write the destination", test: func(f *fixture) {
		f.put("a", "x")
		f.chmod("a", 0o600)
		f.mkdir("d/")
		f.chmod("d/", 0o777)
		ann := f.as("ann")
		_, err := ann.Copy(ann.ctx(), f.path("a"), f.path("d/b"), core.CopyOptions{})
		f.wantErr("unreadable", err, errs.Permission)
		f.chmod("a", 0o644)
		_, err = ann.Copy(ann.ctx(), f.path("a"), f.path("b"), core.CopyOptions{})
		f.wantErr("unwritable", err, errs.Permission)
		_, err = ann.Copy(ann.ctx(), f.path("a"), f.path("d/b"), core.CopyOptions{})
		f.must(err)
		if i := f.stat("d/b"); i.Owner != "ann" {
			f.Errorf("the copy is %s's", i.Owner)
		}
	}},
	{name: "Copy of a file that moved with its directory", with: noCache, test: func(f *fixture) {
		f.put("d/a", large)
		f.rename("d/", "e/")
		_, err := f.Copy(f.ctx(), f.path("e/a"), f.path("b"), core.CopyOptions{Source: core.Cond{IfMatch: etag(large)}})
		f.must(err)
		f.wantData("b", large)
	}},
}
