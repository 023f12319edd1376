package nstest

import (
	"context"
	"fmt"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

var listTests = []entry{
	{name: "entries come in the order of their bytes, a directory with its slash", test: func(f *fixture) {
		for _, name := range []string{"a0", "a/x", "a-", "a.b/y", "B", "é"} {
			f.put(name, name)
		}
		f.wantChildren("", "B", "a-", "a.b/", "a/", "a0", "é")
		f.wantKeys("", "B", "a-", "a.b/y", "a/x", "a0", "é")
		f.wantNames("", core.ListOptions{Delimiter: "/"}, "B", "a-", "[a.b/]", "[a/]", "a0", "é")
	}},
	{name: "an empty directory lists nothing", test: func(f *fixture) {
		f.mkdir("d/")
		f.wantChildren("d/")
		f.wantNames("d/", core.ListOptions{Prefix: "x"})
		f.wantChildren("", "d/")
	}},
	{name: "a directory that does not exist is NotExist", test: func(f *fixture) {
		f.put("a", "x")
		for _, o := range []core.ListOptions{{}, {Children: true}, {Delimiter: "/"}, {Prefix: "x"}} {
			for _, dir := range []string{"n/", "n/m/", "~n"} {
				_, err := f.names(dir, o)
				f.wantErr("list "+dir, err, errs.NotExist)
			}
		}
	}},
	{name: "a path to a file is NotDir", test: func(f *fixture) {
		f.put("d/a", "x")
		for _, dir := range []string{"d/a", "~d/a"} {
			_, err := f.names(dir, core.ListOptions{Children: true})
			f.wantErr("list "+dir, err, errs.NotDir)
		}
	}},
	{name: "it stops after the first error", with: synced(0), test: func(f *fixture) {
		f.storePut("a", "x")
		f.tap.set(func(c call) verdict {
			if c.op == "List" {
				return verdict{after: errs.New("test", "", errs.Unavailable, "outage")}
			}
			return verdict{}
		})
		failed := 0
		for _, err := range f.listing("", core.ListOptions{}) {
			if failed > 0 {
				f.Fatal("yielded after an error")
			}
			if err != nil {
				failed++
			}
		}
		if failed != 1 {
			f.Errorf("%d errors, want 1", failed)
		}
	}},
	{name: "its context ends it", test: func(f *fixture) {
		f.put("a", "x")
		ctx, cancel := context.WithCancel(f.ctx())
		cancel()
		for _, err := range f.List(ctx, f.path(""), core.ListOptions{}) {
			f.wantNoErrKind(err)
		}
	}},
	{name: "the caller may stop it", test: func(f *fixture) {
		f.put("a", "x")
		f.put("b", "x")
		for range f.listing("", core.ListOptions{}) {
			break
		}
	}},
	{name: "Children lists files and directories with all their facts", test: func(f *fixture) {
		want := f.put("a", "hello")
		f.put("d/e/f", "x")
		f.mkdir("m/")
		infos := map[string]core.Info{}
		for i, err := range f.listing("", core.ListOptions{Children: true}) {
			if err != nil {
				f.Fatal(err)
			}
			infos[i.Name] = i
		}
		if got := infos["a"]; got.Size != 5 || got.ETag != want.ETag || got.Owner != "root" || got.Mode != 0o644 || got.Dir || got.Path != f.path("a") {
			f.Errorf("a: got %+v", got)
		}
		for _, d := range []string{"d/", "m/"} {
			if got := infos[d]; !got.Dir || got.Mode != 0o755 || got.Path != f.path(d) {
				f.Errorf("%s: got %+v", d, got)
			}
		}
	}},
	{name: "HideShadowed leaves out a file beside a directory of its name", needs: flat, test: func(f *fixture) {
		f.put("x", "file")
		f.put("x/a", "below")
		f.wantChildren("", "x", "x/")
		f.wantNames("", core.ListOptions{Children: true, HideShadowed: true}, "x/")
		f.wantKeys("", "x", "x/a")
	}},
	{name: "directories that are keys are listed", test: func(f *fixture) {
		if _, err := f.Mkdir(f.ctx(), f.path("m/"), core.MkdirOptions{Marker: true}); err != nil {
			f.Fatal(err)
		}
		f.put("m/a", "x")
		f.put("d/a", "x")
		f.wantKeys("", "d/a", "m/", "m/a")
		f.wantKeys("m/", "a")
	}},
	{name: "Prefix, Delimiter, After and Limit agree with S3's rules", test: testListRules},
	{name: "Prefix and After of Children", test: func(f *fixture) {
		for _, name := range []string{"a", "ab/x", "abc", "b/y", "b0"} {
			f.put(name, name)
		}
		f.wantNames("", core.ListOptions{Children: true, Prefix: "a"}, "a", "ab/", "abc")
		f.wantNames("", core.ListOptions{Children: true, After: "ab/"}, "abc", "b/", "b0")
		f.wantNames("", core.ListOptions{Children: true, After: "a", Limit: 2}, "ab/", "abc")
		f.wantNames("", core.ListOptions{Children: true, Prefix: "b", After: "b/"}, "b0")
	}},
	{name: "a directory larger than a page is whole", test: func(f *fixture) {
		var want []string
		for i := range 1203 {
			name := fmt.Sprintf("f%05d", i)
			f.storePut("d/"+name, "x")
			want = append(want, name)
		}
		f.wantNames("d/", core.ListOptions{}, want...)
		f.wantNames("d/", core.ListOptions{Children: true}, want...)
		f.wantNames("d/", core.ListOptions{After: "f01198"}, want[1199:]...)
		f.wantNames("", core.ListOptions{Prefix: "d/f0119", Limit: 2}, "d/f01190", "d/f01191")
	}},
	{name: "overlay and store are one order", test: func(f *fixture) {
		for i := range 10 {
			name := fmt.Sprintf("d/%02d", i)
			if i%2 == 0 {
				f.storePut(name, "store")
			} else {
				f.put(name, "tree")
			}
		}
		f.remove("d/04")
		f.fresh(0).wantKeys("d/", "00", "01", "02", "03", "05", "06", "07", "08", "09")
	}},
	{name: "odd segments are ordinary", needs: odd, test: func(f *fixture) {
		for _, name := range []string{"a//b", "./c", "d/../e", "/f", "g//"} {
			if strings.HasSuffix(name, "/") {
				continue
			}
			f.put(name, name)
			f.wantData(name, name)
			f.wantStored(name, name)
		}
		f.wantKeys("", "./c", "/f", "a//b", "d/../e")
		f.wantKeys("a/", "/b")
		f.wantNames("", core.ListOptions{Delimiter: "/"}, "[./]", "[/]", "[a/]", "[d/]")
		f.remove("a//b")
		f.wantKeys("", "./c", "/f", "d/../e")
	}},
	{name: "odd segments are Invalid where the store cannot hold them", needs: plain, test: func(f *fixture) {
		for _, name := range []string{"a//b", "./c", "d/../e", "../x"} {
			_, err := f.write(name, "x", core.CreateOptions{Size: 1, MakeParents: true})
			f.wantErr("create "+name, err, errs.Invalid)
			f.wantErr("stat "+name, f.statErr(name), errs.NotExist, errs.Invalid)
		}
		f.wantKeys("")
	}},
	{name: "the staging directory is hidden and reserved", test: func(f *fixture) {
		for _, name := range []string{".sluice", ".sluice/a", ".sluice/tmp/b"} {
			_, err := f.write(name, "x", core.CreateOptions{Size: 1, MakeParents: true})
			f.wantErr("create "+name, err, errs.Permission)
			f.wantErr("stat "+name, f.statErr(name), errs.NotExist)
			_, err = f.Mkdir(f.ctx(), f.path(name+"/"), core.MkdirOptions{MakeParents: true})
			f.wantErr("mkdir "+name, err, errs.Permission)
		}
		f.put("a", "x")
		f.wantErr("rename", f.renameErr("a", ".sluice/a", false), errs.Permission)
		w, err := f.create("b", "x", core.CreateOptions{Size: -1})
		if err != nil {
			f.Fatal(err)
		}
		f.wantChildren("", "a")
		f.wantKeys("", "a")
		w.Abort()
		f.put("d/.sluice/x", "only the root's is reserved")
		f.wantKeys("d/", ".sluice/x")
	}},
}

// wantNoErrKind checks that an error is the context's, unclassified.
func (f *fixture) wantNoErrKind(err error) {
	f.Helper()
	if err == nil || errs.KindOf(err) != errs.Other {
		f.Errorf("got error %v, want the context's", err)
	}
}

// testListRules compares listings with S3's rules spelled out over a list of keys.
func testListRules(f *fixture) {
	keys := []string{"A/b/c", "A/b/d", "A/c", "a", "a-b/c", "b", "b0/x", "b1/y/z", "c/d/e/f", "c/d/e/g", "dd/x"}
	for i, k := range keys {
		if i%3 == 0 {
			f.storePut(k, k)
		} else {
			f.put(k, k)
		}
	}
	for _, prefix := range []string{"", "A", "A/", "A/b", "A/b/", "b", "c/d/", "c/d/e/f", "x"} {
		for _, delimiter := range []string{"", "/", "b", "/e"} {
			for _, after := range []string{"", "A", "A/", "A/b", "A/b/c", "a", "b0/", "b1/y", "c/d/e/f", "zz"} {
				for _, limit := range []int{0, 1, 3} {
					o := core.ListOptions{Prefix: prefix, Delimiter: delimiter, After: after, Limit: limit}
					f.wantNames("", o, listRules(keys, o)...)
				}
			}
		}
	}
}

// listRules is what S3 makes of keys.
func listRules(keys []string, o core.ListOptions) []string {
	roll := func(key string) (string, bool) {
		rest, ok := strings.CutPrefix(key, o.Prefix)
		i := strings.Index(rest, o.Delimiter)
		if !ok || o.Delimiter == "" || i < 0 {
			return key, false
		}
		return key[:len(o.Prefix)+i+len(o.Delimiter)], true
	}
	names := []string{}
	skip, skips := roll(o.After)
	for _, key := range keys {
		if !strings.HasPrefix(key, o.Prefix) || key <= o.After || skips && strings.HasPrefix(key, skip) {
			continue
		}
		name, rolled := roll(key)
		if rolled {
			name = "[" + name + "]"
		}
		if len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
		if len(names) == o.Limit {
			break
		}
	}
	return names
}
