package nstest

import (
	"context"
	"crypto/md5" //nolint:gosec // S3's ETag is an MD5
	"maps"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

var createTests = []entry{
	{name: "the bytes become the file at Commit and not before", test: func(f *fixture) {
		w, err := f.create("a", "hello", core.CreateOptions{Size: -1})
		f.must(err)
		f.wantGone("a")
		f.wantChildren("")
		i, err := w.Commit(f.ctx(), core.CommitOptions{})
		if err != nil || i.Size != 5 || i.ETag != etag("hello") || i.Path != f.path("a") {
			f.Errorf("commit: got %+v, %v", i, err)
		}
		f.wantData("a", "hello")
		f.wantKeys("", "a")
	}},
	{name: "the store holds the same bytes at the same relative name", test: func(f *fixture) {
		for name, data := range map[string]string{"a": "x", "d/e/f": large, "empty": ""} {
			f.put(name, data)
			f.wantStored(name, data)
		}
	}},
	{name: "an overwrite shows the old bytes until Commit", test: func(f *fixture) {
		f.put("a", "old")
		w, err := f.create("a", "new!", core.CreateOptions{Size: 4})
		f.must(err)
		f.wantData("a", "old")
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.must(err)
		f.wantData("a", "new!")
		f.wantStored("a", "new!")
	}},
	{name: "an aborted writer leaves nothing", test: func(f *fixture) {
		for _, size := range []int64{-1, int64(len(large))} {
			w, err := f.create("d/a", large, core.CreateOptions{Size: size, MakeParents: true})
			f.must(err)
			f.must(w.Abort())
			f.must(w.Abort())
			_, err = w.Commit(f.ctx(), core.CommitOptions{})
			f.wantErr("commit after abort", err, errs.Invalid)
		}
		f.wantGone("d/a")
		f.wantChildren("")
	}},
	{name: "Abort after Commit does nothing", test: func(f *fixture) {
		w, err := f.create("a", "x", core.CreateOptions{Size: -1})
		f.must(err)
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.must(err)
		f.must(w.Abort())
		f.wantData("a", "x")
	}},
	{name: "a writer whose context ends cannot commit", test: func(f *fixture) {
		f.put("a", "old")
		ctx, cancel := context.WithCancel(f.ctx())
		w, err := f.Create(ctx, f.path("a"), core.CreateOptions{Size: -1})
		f.must(err)
		_, err = w.Write([]byte("new"))
		f.must(err)
		cancel()
		if _, err := w.Commit(f.ctx(), core.CommitOptions{}); err == nil {
			f.Error("Commit succeeded")
		}
		f.wantData("a", "old")
	}},
	{name: "missing parents are made only if asked for", test: func(f *fixture) {
		_, err := f.write("d/e/a", "x", core.CreateOptions{Size: 1})
		f.wantErr("create", err, errs.NotExist)
		f.wantGone("d/")
		f.putWith("d/e/a", "x", core.CreateOptions{Size: 1, MakeParents: true})
		f.wantData("d/e/a", "x")
		f.putWith("d/e/b", "x", core.CreateOptions{Size: 1})
	}},
	{name: "a directory named by Within is never made", test: func(f *fixture) {
		in := f.path("b/")
		f.mkdir("b/")
		w, err := f.create("b/d/a", "x", core.CreateOptions{Size: 1, MakeParents: true, Within: in})
		f.must(err)
		f.remove("b/")
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.wantErr("commit", err, errs.NotExist)
		_, err = f.Mkdir(f.ctx(), f.path("b/d/"), core.MkdirOptions{MakeParents: true, Within: in})
		f.wantErr("mkdir", err, errs.NotExist)
		_, err = f.Mkdir(f.ctx(), f.path("b/d/"), core.MkdirOptions{MakeParents: true, Marker: true, Within: in})
		f.wantErr("mkdir of a marker", err, errs.NotExist)
		f.put("src", "x")
		_, err = f.Copy(f.ctx(), f.path("src"), f.path("b/d/a"), core.CopyOptions{MakeParents: true, Within: in})
		f.wantErr("copy", err, errs.NotExist)
		f.wantGone("b/")
		f.mkdir("b/")
		f.putWith("b/d/a", "x", core.CreateOptions{Size: 1, MakeParents: true, Within: in})
		f.wantData("b/d/a", "x")
	}},
	{name: "implied parents vanish when they are empty", test: func(f *fixture) {
		f.put("d/e/a", "x")
		f.must(f.removeErr("d/e/a", core.RemoveOptions{Prune: true}))
		f.wantGone("d/e/")
		f.wantGone("d/")
		f.wantChildren("")
		f.storeGone("d/")
	}},
	{name: "explicit parents stay", test: func(f *fixture) {
		f.putWith("d/e/a", "x", core.CreateOptions{Size: 1, MakeParents: true, Explicit: true})
		f.must(f.removeErr("d/e/a", core.RemoveOptions{Prune: true}))
		f.wantChildren("d/", "e/")
		f.wantChildren("d/e/")
	}},
	{name: "a name that ends in a slash is Invalid", test: func(f *fixture) {
		_, err := f.write("d/", "x", core.CreateOptions{Size: 1})
		f.wantErr("create", err, errs.Invalid, errs.IsDir)
	}},
	{name: "CreateNew of what exists is Exist", test: func(f *fixture) {
		f.put("a", "old")
		_, err := f.write("a", "new", core.CreateOptions{Mode: core.CreateNew, Size: 3})
		f.wantErr("create", err, errs.Exist)
		f.wantData("a", "old")
		f.putWith("b", "new", core.CreateOptions{Mode: core.CreateNew, Size: 3})
	}},
	{name: "CreateNew is judged again at Commit", test: func(f *fixture) {
		w, err := f.create("a", "late", core.CreateOptions{Mode: core.CreateNew, Size: -1})
		f.must(err)
		f.put("a", "first")
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.wantErr("commit", err, errs.Exist)
		f.wantData("a", "first")
	}},
	{name: "CreateNew sees what others put in the store", needs: mounted, with: synced(-1), test: func(f *fixture) {
		f.wantGone("a")
		w, err := f.create("a", "late", core.CreateOptions{Mode: core.CreateNew, Size: -1})
		f.must(err)
		f.storePut("a", "theirs")
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.wantErr("commit", err, errs.Exist)
		f.wantStored("a", "theirs")
	}},
	{name: "a directory of the name is IsDir", needs: dirs, test: func(f *fixture) {
		f.put("d/a", "x")
		f.storePut("s/a", "x")
		for _, name := range []string{"d", "~d", "s", "~s"} {
			_, err := f.write(name, "x", core.CreateOptions{Size: 1})
			f.wantErr("create "+name, err, errs.IsDir)
		}
	}},
	{name: "an ambiguous path to a directory is IsDir", test: func(f *fixture) {
		f.put("d/a", "x")
		_, err := f.write("~d", "x", core.CreateOptions{Size: 1})
		f.wantErr("create", err, errs.IsDir)
	}},
	{name: "a file and a directory of one name stand beside each other", needs: flat, test: func(f *fixture) {
		f.put("x/a", "below")
		f.put("x", "file")
		f.put("x/b", "below")
		f.wantKeys("", "x", "x/a", "x/b")
		f.wantStored("x", "file")
		f.wantStored("x/a", "below")
		f.remove("x")
		f.wantKeys("", "x/a", "x/b")
	}},
	{name: "an ancestor that is a file is NotDir", needs: dirs, test: func(f *fixture) {
		f.put("a", "x")
		f.storePut("s", "x")
		for _, name := range []string{"a/b", "a/b/c", "s/b", "s/b/c"} {
			_, err := f.write(name, "x", core.CreateOptions{Size: 1, MakeParents: true})
			f.wantErr("create "+name, err, errs.NotDir)
		}
		f.wantData("a", "x")
		f.wantKeys("", "a", "s")
	}},
	{name: "If-Match holds only for the current version", test: func(f *fixture) {
		cond := func(tag string) core.CreateOptions { return core.CreateOptions{Size: 1, Cond: core.Cond{IfMatch: tag}} }
		for _, tag := range []string{"*", etag("x")} {
			_, err := f.write("a", "x", cond(tag))
			f.wantErr("absent, "+tag, err, errs.Precondition)
		}
		f.wantGone("a")
		f.put("a", "x")
		f.putWith("a", "y", cond("*"))
		f.putWith("a", "z", cond(etag("y")))
		_, err := f.write("a", "!", cond(etag("y")))
		f.wantErr("other version", err, errs.Precondition)
		f.wantData("a", "z")
	}},
	{name: "If-None-Match holds only for another version", test: func(f *fixture) {
		cond := func(tag string) core.CreateOptions {
			return core.CreateOptions{Size: 1, Cond: core.Cond{IfNoneMatch: tag}}
		}
		f.putWith("a", "x", cond("*"))
		_, err := f.write("a", "y", cond("*"))
		f.wantErr("exists", err, errs.Precondition)
		_, err = f.write("a", "y", cond(etag("x")))
		f.wantErr("same version", err, errs.Precondition)
		f.putWith("a", "y", cond(etag("x!")))
		f.wantData("a", "y")
	}},
	{name: "conditions are judged again at Commit", test: func(f *fixture) {
		f.put("a", "1")
		match, err := f.create("a", "2", core.CreateOptions{Size: 1, Cond: core.Cond{IfMatch: etag("1")}})
		f.must(err)
		none, err := f.create("b", "2", core.CreateOptions{Size: 1, Cond: core.Cond{IfNoneMatch: "*"}})
		f.must(err)
		f.put("a", "3")
		f.put("b", "3")
		_, err = match.Commit(f.ctx(), core.CommitOptions{})
		f.wantErr("If-Match", err, errs.Precondition)
		_, err = none.Commit(f.ctx(), core.CommitOptions{})
		f.wantErr("If-None-Match", err, errs.Precondition, errs.Exist)
		f.wantData("a", "3")
		f.wantData("b", "3")
	}},
	{name: "conditions of Commit are judged", test: func(f *fixture) {
		f.put("a", "1")
		w, err := f.create("a", "2", core.CreateOptions{Size: 1})
		f.must(err)
		_, err = w.Commit(f.ctx(), core.CommitOptions{Cond: core.Cond{IfMatch: etag("other")}})
		f.wantErr("commit", err, errs.Precondition)
		f.wantData("a", "1")
	}},
	{name: "If-Match sees what others put in the store", needs: mounted, with: synced(-1), test: func(f *fixture) {
		i := f.put("a", "ours")
		f.storePut("a", "theirs!")
		_, err := f.write("a", "new", core.CreateOptions{Size: 3, Cond: core.Cond{IfMatch: i.ETag}})
		f.wantErr("write", err, errs.Precondition)
		f.wantStored("a", "theirs!")
	}},
	{name: "a length that is not met is Invalid", test: func(f *fixture) {
		f.put("a", "old")
		w, err := f.create("a", "four", core.CreateOptions{Size: 5})
		f.must(err)
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.wantErr("too short", err, errs.Invalid)
		_, err = f.write("a", "four", core.CreateOptions{Size: 3})
		f.wantErr("too long", err, errs.Invalid)
		f.wantData("a", "old")
	}},
	{name: "an MD5 that is not met is BadDigest", test: func(f *fixture) {
		sum := md5.Sum([]byte("hello")) //nolint:gosec // S3's
		for data, bad := range map[string]bool{"hello": false, "hullo": true} {
			w, err := f.create("a", data, core.CreateOptions{Size: 5})
			f.must(err)
			if _, err = w.Commit(f.ctx(), core.CommitOptions{MD5: sum[:]}); bad {
				f.wantErr(data, err, errs.BadDigest)
			} else if err != nil {
				f.Error(err)
			}
		}
		f.wantData("a", "hello")
	}},
	{name: "attributes and checksums are kept with the file", test: func(f *fixture) {
		o := core.CreateOptions{Size: 1, Attr: core.FileAttr{
			Mode: 0o640, Headers: map[string]string{"Content-Type": "text/plain"}, User: map[string]string{"k": "v"}, BlockSize: 1 << 20, Replication: 3,
		}}
		sums := []core.Checksum{{Algorithm: "CRC32", Value: "AAAAAA==", Type: "FULL_OBJECT"}}
		w, err := f.create("a", "x", o)
		f.must(err)
		_, err = w.Commit(f.ctx(), core.CommitOptions{Checksums: sums})
		f.must(err)
		i := f.stat("a")
		if i.Mode != 0o640 || !maps.Equal(i.Headers, o.Attr.Headers) || !maps.Equal(i.User, o.Attr.User) || i.BlockSize != 1<<20 || i.Replication != 3 {
			f.Errorf("got %+v", i)
		}
		if len(i.Checksums) != 1 || i.Checksums[0] != sums[0] {
			f.Errorf("got checksums %+v", i.Checksums)
		}
		f.put("a", "y")
		if i := f.stat("a"); len(i.Headers)+len(i.User)+len(i.Checksums) > 0 {
			f.Errorf("an overwrite kept %v, %v, %v", i.Headers, i.User, i.Checksums)
		}
	}},
	{name: "a new file has the principal as owner and its directory's group", test: func(f *fixture) {
		f.mkdir("d/")
		f.chown("d/", "root", "staff")
		f.chmod("d/", 0o777)
		if i := f.as("ann", "other").putWith("d/a", "x", core.CreateOptions{Size: 1}); i.Owner != "ann" || i.Group != "staff" {
			f.Errorf("got %s:%s, want ann:staff", i.Owner, i.Group)
		}
	}},
	{name: "write types acknowledge what the store has", test: func(f *fixture) {
		for _, wt := range []core.WriteType{core.CacheThrough, core.Through} {
			name := strings.ToLower(string(wt))
			f.putWith(name, large, core.CreateOptions{Size: int64(len(large)), WriteType: wt})
			f.wantStored(name, large)
			f.wantData(name, large)
		}
	}},
	{name: "an error of the store at Commit changes nothing", test: func(f *fixture) {
		f.put("a", "old")
		for _, kind := range []errs.Kind{errs.NoSpace, errs.TooLarge, errs.Permission} {
			f.tap.set(func(c call) verdict {
				if c.op == "Commit" {
					return verdict{before: errs.New("test", "", kind, "refused")}
				}
				return verdict{}
			})
			_, err := f.write("a", "new", core.CreateOptions{Size: 3})
			f.wantErr("overwrite", err, kind)
			_, err = f.write("b", "new", core.CreateOptions{Size: 3})
			f.wantErr("create", err, kind)
			f.tap.set(nil)
			f.wantData("a", "old")
			f.wantGone("b")
		}
		f.put("b", "later")
		f.wantKeys("", "a", "b")
	}},
	{name: "a path through a directory the principal may not enter is Permission", test: func(f *fixture) {
		f.mkdir("d/e/")
		f.chmod("d/e/", 0o777)
		f.chmod("d/", 0o700)
		_, err := f.as("ann").write("d/e/a", "x", core.CreateOptions{Size: 1})
		f.wantErr("create", err, errs.Permission)
	}},
}

var appendTests = []entry{
	{name: "Append adds its bytes to the file's end at Commit", test: func(f *fixture) {
		f.put("a", "one")
		w, err := f.create("a", "two", core.CreateOptions{Mode: core.Append, Size: -1})
		f.must(err)
		f.wantData("a", "one")
		i, err := w.Commit(f.ctx(), core.CommitOptions{})
		if err != nil || i.Size != 6 {
			f.Errorf("got %+v, %v", i, err)
		}
		f.wantData("a", "onetwo")
		f.wantStored("a", "onetwo")
	}},
	{name: "Append keeps number, owner and attributes and changes the ETag", test: func(f *fixture) {
		one := f.putWith("a", "one", core.CreateOptions{Size: 3, Attr: core.FileAttr{Mode: 0o600, User: map[string]string{"k": "v"}}})
		two := f.append("a", "two")
		if two.ID != one.ID || two.Owner != one.Owner || two.Mode != 0o600 || two.User["k"] != "v" || two.ETag == one.ETag || two.Version == one.Version {
			f.Errorf("got %+v after %+v", two, one)
		}
		if again := f.stat("a"); again.ETag != two.ETag {
			f.Errorf("the ETag went from %s to %s", two.ETag, again.ETag)
		}
	}},
	{name: "Append of large pieces, and many small ones", test: func(f *fixture) {
		want := large
		f.put("a", large)
		for i := range 70 {
			part := pattern(i, 1000+i)
			f.append("a", part)
			want += part
		}
		f.append("a", large)
		want += large
		f.wantData("a", want)
		f.wantStored("a", want)
		if got, err := f.read("a", core.Range{Off: int64(len(large)) - 10, Len: 3000}); err != nil || got != want[len(large)-10:len(large)+2990] {
			f.Errorf("a range across pieces differs, %v", err)
		}
	}},
	{name: "Append to nothing and to a directory", test: func(f *fixture) {
		f.mkdir("d/")
		_, err := f.write("a", "x", core.CreateOptions{Mode: core.Append, Size: -1, MakeParents: true})
		f.wantErr("nothing", err, errs.NotExist)
		_, err = f.write("~d", "x", core.CreateOptions{Mode: core.Append, Size: -1})
		f.wantErr("directory", err, errs.IsDir)
	}},
	{name: "Append to an empty file and of nothing", test: func(f *fixture) {
		f.put("a", "")
		f.append("a", "")
		f.wantData("a", "")
		i := f.append("a", "x")
		f.wantData("a", "x")
		if again := f.append("a", ""); again.ETag != i.ETag {
			f.Errorf("appending nothing changed the ETag from %s to %s", i.ETag, again.ETag)
		}
	}},
	{name: "an append beside an append is Busy, until the first ends", test: func(f *fixture) {
		f.put("a", "x")
		for _, end := range []func(core.Writer){
			func(w core.Writer) { w.Abort() },
			func(w core.Writer) { w.Commit(f.ctx(), core.CommitOptions{}) },
		} {
			w, err := f.create("a", "1", core.CreateOptions{Mode: core.Append, Size: -1})
			f.must(err)
			_, err = f.create("a", "2", core.CreateOptions{Mode: core.Append, Size: -1})
			f.wantErr("second append", err, errs.Busy)
			end(w)
		}
		f.append("a", "3")
		f.wantData("a", "x13")
	}},
	{name: "an append to a file that changed since fails, with nothing changed", test: func(f *fixture) {
		f.put("a", "old")
		w, err := f.create("a", "tail", core.CreateOptions{Mode: core.Append, Size: -1})
		f.must(err)
		f.put("a", "new")
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.wantErr("overwritten", err, errs.Conflict)
		f.wantData("a", "new")
		w, err = f.create("a", "tail", core.CreateOptions{Mode: core.Append, Size: -1})
		f.must(err)
		f.remove("a")
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.wantErr("removed", err, errs.Conflict, errs.NotExist)
		f.wantGone("a")
		f.storeGone("a")
	}},
	{name: "an append to a file that others changed since fails", needs: mounted, with: synced(0), test: func(f *fixture) {
		f.put("a", "old")
		w, err := f.create("a", "tail", core.CreateOptions{Mode: core.Append, Size: -1})
		f.must(err)
		f.storePut("a", "theirs")
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.wantErr("commit", err, errs.Conflict, errs.Precondition)
		f.wantStored("a", "theirs")
		f.wantData("a", "theirs")
	}},
	{name: "Append to a file that was in the store before", test: func(f *fixture) {
		f.storePut("d/a", "before")
		f.append("d/a", " and after")
		f.wantData("d/a", "before and after")
		f.wantStored("d/a", "before and after")
	}},
	{name: "an aborted append changes nothing", test: func(f *fixture) {
		i := f.put("a", "old")
		w, err := f.create("a", large, core.CreateOptions{Mode: core.Append, Size: -1})
		f.must(err)
		f.must(w.Abort())
		if again := f.stat("a"); again.ETag != i.ETag || again.Size != 3 {
			f.Errorf("got %+v", again)
		}
		f.wantStored("a", "old")
	}},
	{name: "Append needs write permission on the file", test: func(f *fixture) {
		f.put("a", "x")
		_, err := f.as("ann").write("a", "y", core.CreateOptions{Mode: core.Append, Size: -1})
		f.wantErr("append", err, errs.Permission)
	}},
}
