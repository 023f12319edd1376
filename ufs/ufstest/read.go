package ufstest

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// weird are file names that drivers have been known to mangle.
var weird = []string{
	"a b", "a+b", "a%20b", "a%2Fb", "a?b=c&d", "a#b", "a;b", "a:b", "a=b", `a"b'c`, "a<b>&c", "~a", "-a", "*?[a]",
	" lead", "trail ", "tab\tend", "ä", "a\u0308", "日本語", "😀", "\u202ertl", "...", ".hidden", "..a", "A", "a",
	".sluice2", "x.sluice", strings.Repeat("n", 255), "dir/.sluice", "dir2/.sluice/x",
}

// rare are names that some services refuse, as their drivers then do.
var rare = []string{`a\b`, "nl\nend", "cr\rend", "\x01\x7f"}

var nameTests = []entry{
	{"names with control characters and backslashes are byte-exact", nil, func(f fixture) {
		for _, name := range rare {
			f.put(name, "data of "+name)
		}
		for _, name := range rare {
			f.wantData(name, "data of "+name)
		}
		f.wantList("", "", false, slices.Sorted(slices.Values(rare))...)
	}},
	{"names are byte-exact", nil, func(f fixture) {
		x := f.s.Features()
		held := slices.DeleteFunc(slices.Clone(weird), func(n string) bool {
			return strings.ContainsAny(n, x.NoChars) || x.NoDotEnd && ufs.DotEnd(n)
		})
		for _, name := range held {
			f.put(name, "data of "+name)
		}
		for _, name := range held {
			f.wantData(name, "data of "+name)
			if in := f.stat(name); in.Name != name || in.Dir || in.Size != int64(len("data of "+name)) {
				f.Errorf("stat %q: got %+v", name, in)
			}
		}
		want := slices.DeleteFunc(held, func(n string) bool { return strings.Contains(n, "/") })
		want = append(want, "dir/", "dir2/")
		slices.Sort(want)
		f.wantList("", "", false, want...)
		f.wantList("dir/", "", false, "dir/.sluice")
		f.wantList("dir2/", "", false, "dir2/.sluice/")
	}},
	{"a file and a directory of one name stand side by side", noDirs, func(f fixture) {
		f.put("a", "file")
		f.put("a/b", "below")
		f.wantData("a", "file")
		f.wantData("a/b", "below")
		f.wantList("", "", false, "a", "a/")
	}},
	{"a name is file or directory", dirs, func(f fixture) {
		f.put("a", "file")
		_, err := ufs.WriteFile(f.ctx(), f.s, "a/b", nil, ufs.CreateOptions{})
		f.wantErr("write below a file", err, errs.NotDir)
		_, err = ufs.WriteFile(f.ctx(), f.s, "a/b/c", nil, ufs.CreateOptions{})
		f.wantErr("write two below a file", err, errs.NotDir)
		f.put("d/x", "")
		_, err = ufs.WriteFile(f.ctx(), f.s, "d", nil, ufs.CreateOptions{})
		f.wantErr("write over a directory", err, errs.IsDir)
		_, err = ufs.WriteFile(f.ctx(), f.s, "d", nil, ufs.CreateOptions{IfNew: true})
		f.wantErr("write new over a directory", err, errs.IsDir)
		f.wantData("a", "file")
		f.wantList("d/", "", false, "d/x")
	}},
	{"odd segments are segments", odd, func(f fixture) {
		for _, name := range []string{"/lead", "x//y", "x/./y", "x/../y", "..", "."} {
			f.put(name, name)
		}
		for _, name := range []string{"/lead", "x//y", "x/./y", "x/../y", "..", "."} {
			f.wantData(name, name)
		}
		f.wantList("", "", false, ".", "..", "/", "x/")
		f.wantList("x/", "", false, "x/../", "x/./", "x//")
		f.wantList("x//", "", false, "x//y")
	}},
	{"odd segments are refused, naming the segment", plain, func(f fixture) {
		for _, name := range []string{"/lead", "x//y", "x/./y", "x/../y", "..", "../../etc/passwd", "./a"} {
			_, err := ufs.WriteFile(f.ctx(), f.s, name, nil, ufs.CreateOptions{})
			f.wantErr("write "+name, err, errs.Invalid)
			_, err = f.s.Stat(f.ctx(), name)
			f.wantErr("stat "+name, err, errs.Invalid)
		}
	}},
	{"a name the store cannot hold is errs.Invalid", nil, func(f fixture) {
		bad := []string{"a\x00b", "\xff", ".sluice", ".sluice/x"}
		if n := f.s.Features().MaxName; n > 0 {
			bad = append(bad, strings.Repeat("n", n+1), "a/"+strings.Repeat("n", n+1)+"/b")
		}
		if n := f.s.Features().MaxKey; n > 0 {
			bad = append(bad, strings.Repeat("k/", n/2)+"ab")
		}
		for _, c := range f.s.Features().NoChars {
			bad = append(bad, "a"+string(c)+"b", "d"+string(c)+"/x")
		}
		if f.s.Features().NoDotEnd {
			bad = append(bad, "a.", "...", "d./x", "x/../y", ".")
		}
		for _, name := range bad {
			_, err := ufs.WriteFile(f.ctx(), f.s, name, nil, ufs.CreateOptions{})
			f.wantErr("write", err, errs.Invalid)
			_, err = f.s.Open(f.ctx(), name, 0, -1, "")
			f.wantErr("open", err, errs.Invalid)
			_, err = f.s.Stat(f.ctx(), name)
			f.wantErr("stat", err, errs.Invalid)
			f.wantErr("remove", f.s.Remove(f.ctx(), name, ""), errs.Invalid)
		}
		f.wantList("", "", false)
	}},
	{"an ended ctx is honoured", nil, func(f fixture) {
		f.put("a", "x")
		ctx, cancel := context.WithCancel(f.ctx())
		cancel()
		_, err := f.s.Stat(ctx, "a")
		wantCtx(f, "stat", err)
		_, err = f.s.Open(ctx, "a", 0, -1, "")
		wantCtx(f, "open", err)
		wantCtx(f, "remove", f.s.Remove(ctx, "a", ""))
		for _, err = range f.s.List(ctx, "", "", false) {
			break
		}
		wantCtx(f, "list", err)
		f.wantData("a", "x")
	}},
}

func wantCtx(f fixture, what string, err error) {
	f.Helper()
	if !errors.Is(err, context.Canceled) {
		f.Errorf("%s with an ended ctx: got %v, want context.Canceled", what, err)
	}
}

var statTests = []entry{
	{"a is the file only, a/ the directory only", nil, func(f fixture) {
		f.put("d/a", "x")
		if in := f.stat("d/"); !in.Dir || in.Name != "d/" {
			f.Errorf("stat d/: got %+v", in)
		}
		f.wantGone("d")
		f.wantGone("d/a/")
		f.wantGone("nothing")
		f.wantGone("nothing/")
		f.wantGone("d/a/b")
		f.wantGone("d/ax")
	}},
	{"the root exists", nil, func(f fixture) {
		if in := f.stat(""); !in.Dir || in.Name != "" {
			f.Errorf("stat of the root: got %+v", in)
		}
	}},
	{"a prefix has no version and no marker", noDirs, func(f fixture) {
		f.put("p/q", "x")
		if in := f.stat("p/"); in.Marker || in.Version != "" {
			f.Errorf("stat p/: got %+v", in)
		}
	}},
	{"facts: size, time, version, tag", nil, func(f fixture) {
		before := time.Now().Add(-time.Minute) // a store may not tell the version of what is younger
		in := f.put("a", "hello")
		if got := f.stat("a"); got.Version != in.Version || got.Version == "" || got.Size != 5 || got.ETag != in.ETag {
			f.Errorf("stat after commit: got %+v, want %+v", got, in)
		}
		if in.ModTime.Before(before) || in.ModTime.After(time.Now().Add(5*time.Second)) {
			f.Errorf("ModTime %v is not now", in.ModTime)
		}
		if f.s.Features().MD5ETag && in.ETag != "5d41402abc4b2a76b9719d911017c592" {
			f.Errorf("ETag %q is not the MD5", in.ETag)
		}
	}},
	{"equal versions have equal bytes", nil, func(f fixture) {
		seen := map[string]string{}
		for _, data := range []string{"one", "two", "six", "", "longer", "one"} {
			in := f.put("a", data)
			if old, ok := seen[in.Version]; ok && old != data {
				f.Errorf("version %q has the bytes %q and %q", in.Version, old, data)
			}
			seen[in.Version] = data
			if got := f.stat("a").Version; got != in.Version {
				f.Errorf("version is %q after a commit that said %q", got, in.Version)
			}
		}
	}},
}

var listTests = []entry{
	{"what is directly in a directory, in byte order", nil, func(f fixture) {
		for _, n := range []string{"b", "a/x", "a-", "a.b", "a0", "a/y/z", "c/d/e/f", "c/d/g"} {
			f.put(n, n)
		}
		f.wantList("", "", false, "a-", "a.b", "a/", "a0", "b", "c/")
		f.wantList("a/", "", false, "a/x", "a/y/")
		f.wantList("c/", "", false, "c/d/")
		f.wantList("c/d/", "", false, "c/d/e/", "c/d/g")
	}},
	{"names greater than after", nil, func(f fixture) {
		for _, n := range []string{"a", "b/1", "b/2", "b0", "c", "d/x"} {
			f.put(n, n)
		}
		f.wantList("", "a", false, "b/", "b0", "c", "d/")
		f.wantList("", "b", false, "b/", "b0", "c", "d/")
		f.wantList("", "b/", false, "b0", "c", "d/")
		f.wantList("", "b/1", false, "b0", "c", "d/")
		f.wantList("", "c", false, "d/")
		f.wantList("", "d/", false)
		f.wantList("", "zzz", false)
		f.wantList("b/", "a", false, "b/1", "b/2")
		f.wantList("b/", "b/", false, "b/1", "b/2")
		f.wantList("b/", "b/1", false, "b/2")
		f.wantList("b/", "c", false)
	}},
	{"byte order with what is not ASCII, and directories whose slash sorts late", nil, func(f fixture) {
		var want []string
		for _, n := range []string{"a", "a-", "a-ä/", "ab/", "aä", "aä-", "aä/", "aäb/", "b/", "b-", "z/", "ä/", "ä-/", "ää"} {
			if f.s.Features().Dirs && n == "aä/" {
				continue // the name is a file
			}
			f.put(strings.TrimSuffix(n, "/")+map[bool]string{true: "/x"}[ufs.IsDir(n)], "")
			want = append(want, n)
		}
		slices.Sort(want)
		f.wantList("", "", false, want...)
		for i, n := range want {
			f.wantList("", n, false, want[i+1:]...)
		}
	}},
	{"flat: every key at any depth", flat, func(f fixture) {
		keys := []string{"a", "a-", "a/b", "a/b/c", "a0", "b/c/d"}
		for _, n := range keys {
			f.put(n, n)
		}
		f.wantList("", "", true, keys...)
		f.wantList("", "a/b", true, "a/b/c", "a0", "b/c/d")
		f.wantList("a/", "", true, "a/b", "a/b/c")
		f.wantList("a/", "a/b", true, "a/b/c")
		f.wantList("x/", "", true)
	}},
	{"the directory's own marker comes first", and(noDirs, mkdirs), func(f fixture) {
		f.mkdir("m/")
		f.put("m/a", "x")
		f.wantList("m/", "", false, "m/", "m/a")
		f.wantList("m/", "m/", false, "m/a")
		f.wantList("", "", false, "m/")
		if f.s.Features().Flat {
			f.wantList("", "", true, "m/", "m/a")
		}
	}},
	{"a missing directory", nil, func(f fixture) {
		var got []string
		var err error
		for in, e := range f.s.List(f.ctx(), "none/", "", false) {
			got, err = append(got, in.Name), e
		}
		if f.s.Features().Dirs {
			f.wantErr("list of a missing directory", err, errs.NotExist)
		} else if err != nil || len(got) > 0 {
			f.Errorf("list of a missing prefix: got %q, %v", got, err)
		}
	}},
	{"many entries, stopped and resumed", nil, func(f fixture) {
		const n = 60
		var want []string
		for i := range n {
			name := "d/" + string("ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}"[i])
			if i%3 == 0 {
				f.put(name+"/x", "")
				name += "/"
			} else {
				f.put(name, "")
			}
			want = append(want, name)
		}
		slices.Sort(want)
		f.wantList("d/", "", false, want...)
		var got []string
		for after := ""; ; {
			k := 0
			for in, err := range f.s.List(f.ctx(), "d/", after, false) {
				if err != nil {
					f.Fatal(err)
				}
				got, after = append(got, in.Name), in.Name
				if k++; k == 7 {
					break
				}
			}
			if k == 0 {
				break
			}
		}
		if !slices.Equal(got, want) {
			f.Errorf("pages of 7: got %q, want %q", got, want)
		}
	}},
	{"rows have the facts Stat has", nil, func(f fixture) {
		f.putWith("a", "hello", ufs.CreateOptions{Attr: ufs.Attr{User: map[string]string{"k": "v"}}})
		want := f.stat("a")
		for in, err := range f.s.List(f.ctx(), "", "", false) {
			if err != nil {
				f.Fatal(err)
			}
			if in.Version != want.Version || in.Size != 5 || in.ModTime.Unix() != want.ModTime.Unix() {
				f.Errorf("row %+v, stat %+v", in, want)
			}
			if in.Full && in.Attr.User["k"] != want.Attr.User["k"] {
				f.Errorf("full row has user metadata %v, want %v", in.Attr.User, want.Attr.User)
			}
		}
	}},
	{"names may be removed while they are listed", nil, func(f fixture) {
		for _, n := range []string{"a", "b", "c"} {
			f.put(n, n)
		}
		for in, err := range f.s.List(f.ctx(), "", "", false) {
			if err != nil {
				f.Fatal(err)
			}
			if err := f.s.Remove(f.ctx(), in.Name, ""); err != nil {
				f.Fatal(err)
			}
		}
		f.wantList("", "", false)
	}},
}

var openTests = []entry{
	{"ranges are clamped", nil, func(f fixture) {
		f.put("a", "0123456789")
		for _, c := range []struct {
			off, n int64
			want   string
		}{{0, -1, "0123456789"}, {0, 3, "012"}, {3, 4, "3456"}, {8, 10, "89"}, {10, -1, ""}, {10, 5, ""}, {4, 0, ""}, {9, 1, "9"}} {
			got, err := f.read("a", c.off, c.n, "")
			if err != nil || got != c.want {
				f.Errorf("read %d+%d: got %q, %v, want %q", c.off, c.n, got, err, c.want)
			}
		}
		_, err := f.read("a", 11, -1, "")
		f.wantErr("read beyond the end", err, errs.Range)
		f.put("empty", "")
		if got, err := f.read("empty", 0, -1, ""); got != "" || err != nil {
			f.Errorf("read of an empty file: got %q, %v", got, err)
		}
		_, err = f.read("empty", 1, 1, "")
		f.wantErr("read beyond the end of an empty file", err, errs.Range)
	}},
	{"a version that is gone is refused", nil, func(f fixture) {
		old := f.put("a", "old bytes")
		if got, err := f.read("a", 0, -1, old.Version); got != "old bytes" || err != nil {
			f.Errorf("read of the version: got %q, %v", got, err)
		}
		now := f.put("a", "other")
		_, err := f.read("a", 0, -1, old.Version)
		f.wantErr("read of a replaced version", err, errs.Precondition)
		if got, err := f.read("a", 1, 3, now.Version); got != "the" || err != nil {
			f.Errorf("read of the version: got %q, %v", got, err)
		}
	}},
	{"what is missing is errs.NotExist", nil, func(f fixture) {
		f.put("d/x", "")
		for _, name := range []string{"none", "d", "d/none", "d/x/y", "no/ne"} {
			_, err := f.s.Open(f.ctx(), name, 0, -1, "")
			f.wantErr("open "+name, err, errs.NotExist)
			_, err = f.s.Open(f.ctx(), name, 0, -1, "1")
			f.wantErr("open of a version of "+name, err, errs.NotExist, errs.Precondition)
		}
	}},
	{"bytes of two versions are never mixed", nil, func(f fixture) {
		old, other := strings.Repeat("a", 1<<20), strings.Repeat("b", 1<<20)
		v := f.put("a", old).Version
		r, err := f.s.Open(f.ctx(), "a", 0, -1, v)
		if err != nil {
			f.Fatal(err)
		}
		defer r.Close() //nolint:errcheck // the read's outcome is what is tested
		head := make([]byte, 1000)
		if _, err := io.ReadFull(r, head); err != nil {
			f.Fatal(err)
		}
		f.put("a", other)
		rest, err := io.ReadAll(r)
		if err != nil {
			f.wantErr("read of a replaced file", err, errs.Precondition)
			return
		}
		if string(head)+string(rest) != old {
			f.Error("the reader mixed two versions, or lost bytes")
		}
	}},
	{"a Checker reports whole bytes as whole", nil, func(f fixture) {
		f.put("a", "abc")
		r, err := f.s.Open(f.ctx(), "a", 0, -1, "")
		if err != nil {
			f.Fatal(err)
		}
		defer r.Close() //nolint:errcheck // the check's outcome is what is tested
		if c, ok := r.(ufs.Checker); ok {
			if err := c.Check(); err != nil {
				f.Errorf("check of an untouched file: %v", err)
			}
		}
	}},
}
