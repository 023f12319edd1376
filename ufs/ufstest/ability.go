package ufstest

import (
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

func (f fixture) rename(from, to string, replace bool) {
	f.Helper()
	if err := ufs.Rename(f.ctx(), f.s, from, to, replace); err != nil {
		f.Fatalf("rename %q to %q: %v", from, to, err)
	}
}

var renameTests = []entry{
	{"a file, its attributes with it", renames, func(f fixture) {
		f.putWith("a", "data", ufs.CreateOptions{Attr: fullAttr()})
		f.rename("a", "p/q/b", false)
		f.wantGone("a")
		f.wantData("p/q/b", "data")
		if f.s.Features().Attrs {
			wantAttr(f, "stat", f.stat("p/q/b"), fullAttr())
		}
	}},
	{"a directory with all below it", renames, func(f fixture) {
		f.put("d/a", "1")
		f.put("d/e/b", "2")
		f.put("d0", "stays")
		f.rename("d/", "n/m/", false)
		f.wantGone("d/")
		f.wantData("n/m/a", "1")
		f.wantData("n/m/e/b", "2")
		f.wantList("", "", false, "d0", "n/")
	}},
	{"what is there is replaced only if replace is set", renames, func(f fixture) {
		f.put("a", "A")
		f.put("b", "B")
		f.wantErr("rename", ufs.Rename(f.ctx(), f.s, "a", "b", false), errs.Exist)
		f.wantData("a", "A")
		f.wantData("b", "B")
		f.rename("a", "b", true)
		f.wantGone("a")
		f.wantData("b", "A")
		f.put("d/x", "X")
		f.mkdir("e/")
		f.wantErr("rename", ufs.Rename(f.ctx(), f.s, "d/", "e/", false), errs.Exist)
		f.rename("d/", "e/", true)
		f.wantData("e/x", "X")
		f.put("g/y", "Y")
		f.wantErr("rename over children", ufs.Rename(f.ctx(), f.s, "g/", "e/", true), errs.NotEmpty)
		f.wantErr("rename over children", ufs.Rename(f.ctx(), f.s, "g/", "e/", false), errs.Exist, errs.NotEmpty)
		f.wantData("e/x", "X")
		f.wantData("g/y", "Y")
	}},
	{"errors", renames, func(f fixture) {
		f.put("a", "A")
		f.put("d/e/x", "X")
		f.wantErr("a missing file", ufs.Rename(f.ctx(), f.s, "none", "b", false), errs.NotExist)
		f.wantErr("a missing directory", ufs.Rename(f.ctx(), f.s, "none/", "b/", true), errs.NotExist)
		f.wantErr("a directory as a file", ufs.Rename(f.ctx(), f.s, "d", "b", false), errs.NotExist)
		f.wantErr("a file as a directory", ufs.Rename(f.ctx(), f.s, "a/", "b/", false), errs.NotExist)
		f.wantErr("below itself", ufs.Rename(f.ctx(), f.s, "d/", "d/e/f/", false), errs.Invalid)
		f.wantErr("a file over a directory", ufs.Rename(f.ctx(), f.s, "a", "d", true), errs.IsDir)
		f.wantErr("a directory over a file", ufs.Rename(f.ctx(), f.s, "d/", "a/", true), errs.NotDir)
		f.wantErr("below a file", ufs.Rename(f.ctx(), f.s, "d/", "a/b/", true), errs.NotDir)
		f.wantErr("the root", ufs.Rename(f.ctx(), f.s, "", "b/", false), errs.Invalid, errs.NotExist)
		f.wantErr("into staging", ufs.Rename(f.ctx(), f.s, "a", ".sluice/a", false), errs.Invalid)
		f.wantData("a", "A")
		f.wantData("d/e/x", "X")
	}},
	{"to itself nothing happens", renames, func(f fixture) {
		f.put("a", "A")
		f.rename("a", "a", true)
		f.wantData("a", "A")
	}},
}

var mkdirTests = []entry{
	{"it exists when it is empty", mkdirs, func(f fixture) {
		in, err := ufs.Mkdir(f.ctx(), f.s, "a/b/", ufs.Attr{})
		if err != nil || in.Name != "a/b/" || !in.Dir {
			f.Fatalf("mkdir: got %+v, %v", in, err)
		}
		if in := f.stat("a/b/"); !in.Dir {
			f.Errorf("stat: got %+v", in)
		}
		if len(f.list("a/b/", "a/b/", false)) != 0 {
			f.Error("a fresh directory has entries")
		}
		f.wantList("", "", false, "a/")
	}},
	{"it is no error if it exists", mkdirs, func(f fixture) {
		f.mkdir("a/")
		f.put("a/x", "X")
		f.mkdir("a/")
		f.wantData("a/x", "X")
	}},
	{"a marker is added", and(mkdirs, attrs), func(f fixture) {
		f.mkdir("a/")
		if in, err := ufs.Mkdir(f.ctx(), f.s, "a/", ufs.Attr{Marker: true}); err != nil || !in.Marker {
			f.Errorf("mkdir with a marker: got %+v, %v", in, err)
		}
		if !f.stat("a/").Marker {
			f.Error("the marker is lost")
		}
	}},
	{"attributes of a marker are kept", and(mkdirs, attrs), func(f fixture) {
		want := ufs.Attr{Marker: true, User: map[string]string{"k": "v"}, Mode: 0o750, Owner: "ann", Group: "staff"}
		if _, err := ufs.Mkdir(f.ctx(), f.s, "a/", want); err != nil {
			f.Fatal(err)
		}
		in := f.stat("a/")
		if !in.Marker || in.Attr.User["k"] != "v" || in.Mode != 0o750 || in.Owner != "ann" {
			f.Errorf("got %+v", in)
		}
	}},
	{"over a file is errs.NotDir", and(mkdirs, dirs), func(f fixture) {
		f.put("a", "A")
		for _, dir := range []string{"a/", "a/b/"} {
			_, err := ufs.Mkdir(f.ctx(), f.s, dir, ufs.Attr{})
			f.wantErr("mkdir "+dir, err, errs.NotDir)
		}
		f.wantData("a", "A")
	}},
}

var trashTests = []entry{
	{"the whole tree is gone at once", trashes, func(f fixture) {
		for _, n := range []string{"d/a", "d/e/b", "d/e/g/c", "d0", "x"} {
			f.put(n, n)
		}
		if err := ufs.Trash(f.ctx(), f.s, "d/"); err != nil {
			f.Fatal(err)
		}
		f.wantGone("d/")
		f.wantGone("d/a")
		f.wantGone("d/e/g/c")
		f.wantList("", "", false, "d0", "x")
	}},
	{"what is missing is errs.NotExist", trashes, func(f fixture) {
		f.put("a", "A")
		f.wantErr("trash", ufs.Trash(f.ctx(), f.s, "none/"), errs.NotExist)
		f.wantErr("trash of a file", ufs.Trash(f.ctx(), f.s, "a/"), errs.NotExist)
		f.wantErr("trash of the root", ufs.Trash(f.ctx(), f.s, ""), errs.Invalid)
		f.wantErr("trash of staging", ufs.Trash(f.ctx(), f.s, ".sluice/"), errs.Invalid)
		f.wantData("a", "A")
	}},
}

var copyTests = []entry{
	{"bytes and attributes", copies, func(f fixture) {
		src := f.putWith("d/a b+%", pattern(100_000), ufs.CreateOptions{Attr: fullAttr()})
		if _, err := ufs.Copy(f.ctx(), f.s, "d/a b+%", src.Version, "n/b", nil); err != nil {
			f.Fatal(err)
		}
		f.wantData("n/b", pattern(100_000))
		f.wantData("d/a b+%", pattern(100_000))
		if f.s.Features().Attrs {
			wantAttr(f, "copy", f.stat("n/b"), fullAttr())
		}
		attr := ufs.Attr{User: map[string]string{"other": "1"}}
		in, err := ufs.Copy(f.ctx(), f.s, "d/a b+%", "", "n/b", &attr)
		if err != nil {
			f.Fatal(err)
		}
		if got := f.stat("n/b"); got.Version != in.Version {
			f.Errorf("copy says version %q, stat %q", in.Version, got.Version)
		}
		if f.s.Features().Attrs {
			wantAttr(f, "copy with attributes", f.stat("n/b"), attr)
		}
	}},
	{"only the given version", copies, func(f fixture) {
		old := f.put("a", "old one")
		f.put("a", "new")
		_, err := ufs.Copy(f.ctx(), f.s, "a", old.Version, "b", nil)
		f.wantErr("copy", err, errs.Precondition)
		_, err = ufs.Copy(f.ctx(), f.s, "none", "", "b", nil)
		f.wantErr("copy of nothing", err, errs.NotExist)
		f.wantGone("b")
	}},
}

var appendTests = []entry{
	{"all of the added bytes or none", appends, func(f fixture) {
		in := f.putWith("a", "head ", ufs.CreateOptions{Attr: fullAttr()})
		w, err := ufs.Append(f.ctx(), f.s, "a", in.Version, ufs.Attr{Origin: "x.1.2"})
		if err != nil {
			f.Fatal(err)
		}
		if _, err := io.WriteString(w, "tail"); err != nil {
			f.Fatal(err)
		}
		f.wantData("a", "head ")
		out := f.commit(w)
		f.wantData("a", "head tail")
		if got := f.stat("a"); got.Version != out.Version || got.Size != 9 || out.Version == in.Version {
			f.Errorf("commit says %+v, stat %+v", out, got)
		}
		if f.s.Features().Attrs && f.stat("a").Attr.Origin != "x.1.2" {
			f.Error("the attributes were not replaced")
		}
		w, err = ufs.Append(f.ctx(), f.s, "a", out.Version, ufs.Attr{})
		if err != nil {
			f.Fatal(err)
		}
		_, _ = io.WriteString(w, "lost")
		_ = w.Abort()
		f.wantData("a", "head tail")
	}},
	{"only to the given version", appends, func(f fixture) {
		old := f.put("a", "old one")
		w, err := ufs.Append(f.ctx(), f.s, "a", old.Version, ufs.Attr{})
		if err != nil {
			f.Fatal(err)
		}
		_, _ = io.WriteString(w, "x")
		f.put("a", "new")
		_, err = w.Commit(f.ctx())
		f.wantErr("commit", err, errs.Precondition)
		f.wantData("a", "new")
		_, err = ufs.Append(f.ctx(), f.s, "a", old.Version, ufs.Attr{})
		f.wantErr("append", err, errs.Precondition)
		_, err = ufs.Append(f.ctx(), f.s, "none", old.Version, ufs.Attr{})
		f.wantErr("append to nothing", err, errs.NotExist)
	}},
}

var setAttrTests = []entry{
	{"attributes change, bytes do not", sets, func(f fixture) {
		old := f.putWith("a", "data", ufs.CreateOptions{Attr: ufs.Attr{User: map[string]string{"old": "1"}}})
		in, err := ufs.SetAttr(f.ctx(), f.s, "a", old.Version, fullAttr())
		if err != nil {
			f.Fatal(err)
		}
		wantAttr(f, "set", in, fullAttr())
		got := f.stat("a")
		wantAttr(f, "stat", got, fullAttr())
		if got.Version != in.Version || f.s.Features().Dirs && !got.ModTime.Equal(old.ModTime) {
			f.Errorf("set says %+v, stat %+v", in, got)
		}
		f.wantData("a", "data")
	}},
	{"only of the given version", sets, func(f fixture) {
		old := f.put("a", "old one")
		f.put("a", "new")
		_, err := ufs.SetAttr(f.ctx(), f.s, "a", old.Version, fullAttr())
		f.wantErr("set", err, errs.Precondition)
		_, err = ufs.SetAttr(f.ctx(), f.s, "none", "", fullAttr())
		f.wantErr("set of nothing", err, errs.NotExist)
	}},
	{"a directory", and(sets, dirs), func(f fixture) {
		f.put("d/a", "x")
		want := ufs.Attr{Mode: 0o711, Owner: "ann", Group: "staff"}
		if _, err := ufs.SetAttr(f.ctx(), f.s, "d/", "", want); err != nil {
			f.Fatal(err)
		}
		f.put("d/b", "y")
		if in := f.stat("d/"); in.Mode != 0o711 || in.Owner != "ann" || in.Group != "staff" {
			f.Errorf("got %+v", in)
		}
	}},
}

var composeTests = []entry{
	{"a file of parts", composes, func(f fixture) {
		c, err := ufs.ComposerOf(f.s)
		if err != nil {
			f.Fatal(err)
		}
		f.put("src", pattern(6<<20))
		id, err := c.Begin(f.ctx(), "n/a", ufs.Attr{User: map[string]string{"k": "v"}})
		if err != nil {
			f.Fatal(err)
		}
		two, err := c.PutPart(f.ctx(), "n/a", id, 2, 4, strings.NewReader("tail"))
		if err != nil {
			f.Fatal(err)
		}
		_, err = c.PutPart(f.ctx(), "n/a", id, 1, 5<<20, strings.NewReader(strings.Repeat("y", 5<<20)))
		if err != nil {
			f.Fatal(err)
		}
		one, err := c.CopyPart(f.ctx(), "n/a", id, 1, "src", f.stat("src").Version, 1, 5<<20)
		if err != nil {
			f.Fatal(err)
		}
		f.wantGone("n/a")
		parts := []ufs.Part{{Number: 1, ETag: one, Size: 5 << 20}, {Number: 2, ETag: two, Size: 4}}
		in, err := c.Complete(f.ctx(), "n/a", id, parts, ufs.CreateOptions{})
		if err != nil {
			f.Fatal(err)
		}
		f.wantData("n/a", pattern(6 << 20)[1:5<<20+1]+"tail")
		got := f.stat("n/a")
		if got.Version != in.Version || f.s.Features().MD5ETag && !strings.HasSuffix(in.ETag, "-2") ||
			f.s.Features().Attrs && got.Attr.User["k"] != "v" {
			f.Errorf("complete says %+v, stat %+v", in, got)
		}
	}},
	{"a cancelled upload is gone", composes, func(f fixture) {
		c, err := ufs.ComposerOf(f.s)
		if err != nil {
			f.Fatal(err)
		}
		id, err := c.Begin(f.ctx(), "a", ufs.Attr{})
		if err != nil {
			f.Fatal(err)
		}
		etag, err := c.PutPart(f.ctx(), "a", id, 1, 4, strings.NewReader("data"))
		if err != nil {
			f.Fatal(err)
		}
		if err := errors.Join(c.Cancel(f.ctx(), "a", id), c.Cancel(f.ctx(), "a", id)); err != nil {
			f.Errorf("cancel: %v", err)
		}
		_, err = c.Complete(f.ctx(), "a", id, []ufs.Part{{Number: 1, ETag: etag, Size: 4}}, ufs.CreateOptions{})
		f.wantErr("complete", err, errs.NotExist)
		f.wantGone("a")
	}},
	{"only an empty upload to the name and of the time can be lost", composes, func(f fixture) {
		c, err := ufs.ComposerOf(f.s)
		if err != nil {
			f.Fatal(err)
		}
		from := time.Now().Add(-time.Minute)
		begin := func(name string) string {
			id, err := c.Begin(f.ctx(), name, ufs.Attr{})
			if err != nil {
				f.Fatal(err)
			}
			return id
		}
		empty, used, other := begin("a"), begin("a"), begin("ab")
		if _, err := c.PutPart(f.ctx(), "a", used, 1, 4, strings.NewReader("data")); err != nil {
			f.Fatal(err)
		}
		if ids, err := c.Lost(f.ctx(), "a", from.Add(-time.Hour), from); err != nil || len(ids) > 0 {
			f.Errorf("lost before they were begun: got %v, %v", ids, err)
		}
		ids, err := c.Lost(f.ctx(), "a", from, time.Now().Add(time.Minute))
		if err != nil || len(ids) > 0 && !slices.Equal(ids, []string{empty}) {
			f.Errorf("got %v, %v, want %s alone, or nothing", ids, err, empty)
		}
		for id, name := range map[string]string{empty: "a", used: "a", other: "ab"} {
			if err := c.Cancel(f.ctx(), name, id); err != nil {
				f.Error(err)
			}
		}
	}},
	{"a part that is missing or differs is errs.Invalid", composes, func(f fixture) {
		c, err := ufs.ComposerOf(f.s)
		if err != nil {
			f.Fatal(err)
		}
		id, err := c.Begin(f.ctx(), "a", ufs.Attr{})
		if err != nil {
			f.Fatal(err)
		}
		if _, err := c.PutPart(f.ctx(), "a", id, 1, 4, strings.NewReader("data")); err != nil {
			f.Fatal(err)
		}
		for _, p := range []ufs.Part{{Number: 2, ETag: "8d777f385d3dfec8815d20f7496026dc"}, {Number: 1, ETag: strings.Repeat("0", 32)}} {
			_, err = c.Complete(f.ctx(), "a", id, []ufs.Part{p}, ufs.CreateOptions{})
			f.wantErr("complete", err, errs.Invalid)
		}
		f.wantGone("a")
		_ = c.Cancel(f.ctx(), "a", id)
	}},
}

var probeTests = []entry{
	{"a store that works", probes, func(f fixture) {
		if err := errors.Join(ufs.Probe(f.ctx(), f.s, false), ufs.Probe(f.ctx(), f.s, true)); err != nil {
			f.Error(err)
		}
		f.wantList("", "", false)
	}},
}

var markTests = []entry{
	{"a mark stays, hidden, and is given once", marks, func(f fixture) {
		if got, err := ufs.Mark(f.ctx(), f.s); err != nil || got != "" {
			f.Fatalf("of a new store: got %q, %v", got, err)
		}
		if err := ufs.SetMark(f.ctx(), f.s, "mine"); err != nil {
			f.Fatal(err)
		}
		f.wantErr("give another", ufs.SetMark(f.ctx(), f.s, "yours"), errs.Exist)
		f.put("a", "data")
		if err := f.s.CleanStaging(f.ctx(), func(string) bool { return false }); err != nil {
			f.Error(err)
		}
		f.wantList("", "", false, "a")
		_, err := f.s.Stat(f.ctx(), ufs.MarkName)
		f.wantErr("stat", err, errs.Invalid)
		if got, err := ufs.Mark(f.ctx(), f.s); err != nil || got != "mine" {
			f.Errorf("got %q, %v", got, err)
		}
	}},
	{"a guard keeps a mark away", marks, func(f fixture) {
		stopped := errs.New("test", "", errs.Unavailable, "not any more")
		err := ufs.SetMark(ufs.WithGuard(f.ctx(), func() error { return stopped }), f.s, "mine")
		f.wantErr("give a mark", err, errs.Unavailable)
		if got, err := ufs.Mark(f.ctx(), f.s); err != nil || got != "" {
			f.Errorf("got %q, %v", got, err)
		}
	}},
}

var helperTests = []entry{
	{"CopyFile copies with or without the store's help", nil, func(f fixture) {
		src := f.putWith("a", "data", ufs.CreateOptions{Attr: fullAttr()})
		if _, err := ufs.CopyFile(f.ctx(), f.s, "a", src.Version, "b/c", nil); err != nil {
			f.Fatal(err)
		}
		f.wantData("b/c", "data")
		_, err := ufs.CopyFile(f.ctx(), f.s, "a", "0"+src.Version, "d", nil)
		f.wantErr("copy of another version", err, errs.Precondition)
		if _, err := ufs.Transfer(f.ctx(), f.s, "a", src.Version, f.s, "e", ufs.CreateOptions{}, nil); err != nil {
			f.Fatal(err)
		}
		f.wantData("e", "data")
	}},
	{"RemoveTree removes with or without the store's help", nil, func(f fixture) {
		for _, n := range []string{"d/a", "d/e/b", "d0"} {
			f.put(n, n)
		}
		f.mkdir("d/m/")
		if err := ufs.RemoveTree(f.ctx(), f.s, "d/"); err != nil {
			f.Fatal(err)
		}
		f.wantGone("d/")
		f.wantList("", "", false, "d0")
		f.wantErr("remove tree", ufs.RemoveTree(f.ctx(), f.s, "none/"), errs.NotExist)
	}},
	{"ReadAll is limited", nil, func(f fixture) {
		f.put("a", "12345")
		if b, err := ufs.ReadAll(f.ctx(), f.s, "a", "", 5); err != nil || string(b) != "12345" {
			f.Errorf("got %q, %v", b, err)
		}
		_, err := ufs.ReadAll(f.ctx(), f.s, "a", "", 4)
		f.wantErr("read", err, errs.TooLarge)
	}},
}
