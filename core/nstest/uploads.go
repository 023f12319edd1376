package nstest

import (
	"context"
	"crypto/md5" //nolint:gosec // S3's ETag is an MD5
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// big is the smallest part that may stand before the last.
var big = pattern(7, 5<<20)

func (f *fixture) begin(name string, o core.CreateOptions) string {
	f.Helper()
	o.MakeParents = true
	id, err := f.CreateUpload(f.ctx(), f.path(name), o)
	if err != nil || id == "" {
		f.Fatalf("create upload to %q: %q, %v", name, id, err)
	}
	return id
}

func (f *fixture) partErr(name, id string, number int, data string, size int64) (core.Part, error) {
	w, err := f.PutPart(f.ctx(), f.path(name), id, number, size)
	if err != nil {
		return core.Part{}, err
	}
	if _, err := io.WriteString(w, data); err != nil {
		return core.Part{}, errors.Join(err, w.Abort())
	}
	i, err := w.Commit(f.ctx(), core.CommitOptions{})
	return core.Part{Number: number, ETag: i.ETag}, err
}

func (f *fixture) part(name, id string, number int, data string) core.Part {
	f.Helper()
	p, err := f.partErr(name, id, number, data, int64(len(data)))
	if err != nil {
		f.Fatalf("part %d: %v", number, err)
	}
	if p.ETag != etag(data) {
		f.Errorf("part %d has ETag %s, want %s", number, p.ETag, etag(data))
	}
	return p
}

func (f *fixture) complete(name, id string, parts ...core.Part) (core.Info, error) {
	return f.CompleteUpload(f.ctx(), f.path(name), id, parts, core.CompleteOptions{})
}

func (f *fixture) mustComplete(name, id string, parts ...core.Part) core.Info {
	f.Helper()
	i, err := f.complete(name, id, parts...)
	if err != nil {
		f.Fatalf("complete %q: %v", name, err)
	}
	return i
}

func (f *fixture) partNumbers(name, id string, after int) (numbers []int, err error) {
	_, seq, err := f.ListParts(f.ctx(), f.path(name), id, after)
	if err != nil {
		return nil, err
	}
	for p, err := range seq {
		if err != nil {
			return numbers, err
		}
		numbers = append(numbers, p.Number)
	}
	return numbers, nil
}

// uploadETag is S3's ETag of an object made of parts.
func uploadETag(parts ...string) string {
	h := md5.New() //nolint:gosec // S3's
	for _, p := range parts {
		sum := md5.Sum([]byte(p)) //nolint:gosec // S3's
		h.Write(sum[:])
	}
	return fmt.Sprintf("%s-%d", hex.EncodeToString(h.Sum(nil)), len(parts))
}

func (f *fixture) wantPartError(what string, err error, ok func(e *core.PartError) bool) {
	f.Helper()
	if e, is := errors.AsType[*core.PartError](err); !is || !ok(e) {
		f.Errorf("%s: got error %#v", what, err)
	}
}

var uploadTests = []entry{
	{name: "parts in any order become one file", test: func(f *fixture) {
		id := f.begin("d/a", core.CreateOptions{Attr: core.FileAttr{User: map[string]string{"k": "v"}, Headers: map[string]string{"Content-Type": "text/plain"}}})
		p3 := f.part("d/a", id, 30, "tail")
		p1 := f.part("d/a", id, 1, big)
		p2 := f.part("d/a", id, 2, big)
		f.wantGone("d/a")
		i := f.mustComplete("d/a", id, p1, p2, p3)
		if i.Size != int64(2*len(big)+4) || i.ETag != uploadETag(big, big, "tail") || i.User["k"] != "v" || len(i.Parts) != 3 {
			f.Errorf("got %+v", i)
		}
		f.wantData("d/a", big+big+"tail")
		f.wantStored("d/a", big+big+"tail")
		again := f.stat("d/a")
		if again.ETag != i.ETag || fmt.Sprint(again.Parts) != fmt.Sprint([]int64{int64(len(big)), int64(len(big)), 4}) || again.Headers["Content-Type"] != "text/plain" {
			f.Errorf("got %+v", again)
		}
		if got, err := f.read("d/a", core.Range{Off: int64(len(big)) - 7, Len: 20}); err != nil || got != (big + big)[len(big)-7:len(big)+13] {
			f.Errorf("a range across parts differs: %q, %v", got, err)
		}
	}},
	{name: "Complete never makes the directory named by Within", test: func(f *fixture) {
		in := f.path("b/")
		f.mkdir("b/")
		id := f.begin("b/d/a", core.CreateOptions{Within: in})
		p := f.part("b/d/a", id, 1, "x")
		f.remove("b/")
		_, err := f.CompleteUpload(f.ctx(), f.path("b/d/a"), id, []core.Part{p}, core.CompleteOptions{Within: in})
		f.wantErr("complete", err, errs.NotExist)
		f.wantGone("b/")
		f.mkdir("b/")
		if _, err := f.CompleteUpload(f.ctx(), f.path("b/d/a"), id, []core.Part{p}, core.CompleteOptions{Within: in}); err != nil {
			f.Errorf("complete: %v", err)
		}
		f.wantData("b/d/a", "x")
	}},
	{name: "an upload is unseen until it completes", test: func(f *fixture) {
		id := f.begin("d/a", core.CreateOptions{})
		f.part("d/a", id, 1, "x")
		f.wantKeys("")
		f.wantChildren("")
		f.wantGone("d/")
		f.must(f.AbortUpload(f.ctx(), f.path("d/a"), id))
		f.wantChildren("")
	}},
	{name: "a part replaces an earlier one of its number", test: func(f *fixture) {
		id := f.begin("a", core.CreateOptions{})
		old := f.part("a", id, 1, "old part")
		p := f.part("a", id, 1, "new")
		_, err := f.complete("a", id, old)
		f.wantPartError("the earlier part", err, func(e *core.PartError) bool { return e.Number == 1 && !e.TooSmall && !e.Order })
		f.mustComplete("a", id, p)
		f.wantData("a", "new")
	}},
	{name: "a part of unknown length", test: func(f *fixture) {
		id := f.begin("a", core.CreateOptions{})
		p, err := f.partErr("a", id, 1, big, -1)
		f.must(err)
		q, err := f.partErr("a", id, 2, "", -1)
		f.must(err)
		f.mustComplete("a", id, p, q)
		f.wantData("a", big)
	}},
	{name: "a part whose length is not met is Invalid and changes nothing", test: func(f *fixture) {
		id := f.begin("a", core.CreateOptions{})
		p := f.part("a", id, 1, "old")
		for _, size := range []int64{2, 4, 1 << 20} {
			_, err := f.partErr("a", id, 1, "new", size)
			f.wantErr(fmt.Sprint(size), err, errs.Invalid)
		}
		f.mustComplete("a", id, p)
		f.wantData("a", "old")
	}},
	{name: "a part with a wrong MD5 is BadDigest and changes nothing", test: func(f *fixture) {
		id := f.begin("a", core.CreateOptions{})
		p := f.part("a", id, 1, "old")
		for _, data := range []string{"new", large} {
			w, err := f.PutPart(f.ctx(), f.path("a"), id, 1, int64(len(data)))
			f.must(err)
			_, err = io.WriteString(w, data)
			f.must(err)
			_, err = w.Commit(f.ctx(), core.CommitOptions{MD5: make([]byte, 16)})
			f.wantErr("commit", err, errs.BadDigest)
		}
		f.mustComplete("a", id, p)
		f.wantData("a", "old")
	}},
	{name: "an aborted part writer changes nothing", test: func(f *fixture) {
		id := f.begin("a", core.CreateOptions{})
		p := f.part("a", id, 1, "old")
		for _, size := range []int64{-1, int64(len(large)), int64(len(large)) + 1} {
			w, err := f.PutPart(f.ctx(), f.path("a"), id, 1, size)
			f.must(err)
			_, err = io.WriteString(w, large)
			f.must(err)
			f.must(w.Abort())
		}
		ctx, cancel := context.WithCancel(f.ctx())
		w, err := f.PutPart(ctx, f.path("a"), id, 1, 3)
		f.must(err)
		_, err = io.WriteString(w, "new")
		f.must(err)
		cancel()
		if _, err := w.Commit(f.ctx(), core.CommitOptions{}); err == nil {
			f.Error("a writer whose context ended committed")
		}
		f.mustComplete("a", id, p)
		f.wantData("a", "old")
	}},
	{name: "numbers lie between 1 and 10,000", test: func(f *fixture) {
		id := f.begin("a", core.CreateOptions{})
		for _, n := range []int{0, -1, 10_001} {
			_, err := f.partErr("a", id, n, "x", 1)
			f.wantErr(fmt.Sprint(n), err, errs.Invalid)
		}
		f.mustComplete("a", id, f.part("a", id, 10_000, "x"))
	}},
	{name: "CopyPart makes a part of bytes of a file", test: func(f *fixture) {
		f.put("src", large)
		id := f.begin("a", core.CreateOptions{})
		p, err := f.CopyPart(f.ctx(), f.path("a"), id, 1, f.path("src"), core.Range{Off: 10, Len: 1 << 20})
		if err != nil || p.Number != 1 || p.ETag != etag(large[10:10+1<<20]) {
			f.Fatalf("got %+v, %v", p, err)
		}
		_, err = f.CopyPart(f.ctx(), f.path("a"), id, 2, f.path("nowhere"), core.All)
		f.wantErr("nowhere", err, errs.NotExist)
		f.mustComplete("a", id, p)
		f.wantData("a", large[10:10+1<<20])
	}},
	{name: "a part that is missing, differs, is too small, or out of order", test: func(f *fixture) {
		f.put("a", "old")
		id := f.begin("a", core.CreateOptions{})
		p1, p2 := f.part("a", id, 1, "small"), f.part("a", id, 2, "tail")
		_, err := f.complete("a", id, p1, core.Part{Number: 5, ETag: p2.ETag})
		f.wantPartError("too small or missing", err, func(e *core.PartError) bool { return true })
		_, err = f.complete("a", id, p1, p2)
		f.wantPartError("too small", err, func(e *core.PartError) bool { return e.Number == 1 && e.TooSmall && e.Size == 5 })
		_, err = f.complete("a", id, core.Part{Number: 4, ETag: p1.ETag})
		f.wantPartError("missing", err, func(e *core.PartError) bool { return e.Number == 4 && !e.TooSmall && !e.Order })
		_, err = f.complete("a", id, core.Part{Number: 1, ETag: p2.ETag})
		f.wantPartError("differs", err, func(e *core.PartError) bool { return e.Number == 1 && !e.TooSmall && !e.Order })
		p3 := f.part("a", id, 3, big)
		_, err = f.complete("a", id, p3, p2)
		f.wantPartError("order", err, func(e *core.PartError) bool { return e.Order })
		_, err = f.complete("a", id, p3, p3)
		f.wantPartError("twice", err, func(e *core.PartError) bool { return e.Order })
		_, err = f.complete("a", id)
		f.wantErr("no parts", err, errs.Invalid)
		f.wantData("a", "old")
		f.mustComplete("a", id, p2)
		f.wantData("a", "tail")
	}},
	{name: "parts that are not listed do not count", test: func(f *fixture) {
		id := f.begin("a", core.CreateOptions{})
		f.part("a", id, 1, "one")
		p := f.part("a", id, 7, "seven")
		f.part("a", id, 9, "nine")
		f.mustComplete("a", id, p)
		f.wantData("a", "seven")
	}},
	{name: "Complete repeated answers as it did the first time", test: func(f *fixture) {
		id := f.begin("d/a", core.CreateOptions{})
		p := f.part("d/a", id, 1, "x")
		i := f.mustComplete("d/a", id, p)
		again := f.mustComplete("d/a", id, p)
		if again.ETag != i.ETag || again.Version != i.Version {
			f.Errorf("got %+v after %+v", again, i)
		}
		_, err := f.complete("d/a", id, core.Part{Number: 2, ETag: p.ETag})
		f.wantErr("another list", err, errs.NotExist)
		_, err = f.complete("d/b", id, p)
		f.wantErr("another key", err, errs.NotExist)
		f.restart()
		if again := f.mustComplete("d/a", id, p); again.ETag != i.ETag {
			f.Errorf("after a restart: got %+v", again)
		}
		f.put("d/a", "other")
		if again := f.mustComplete("d/a", id, p); again.ETag != i.ETag {
			f.Errorf("after an overwrite: got %+v", again)
		}
		f.wantData("d/a", "other")
	}},
	{name: "Complete that got no answer before a restart answers when it is repeated", test: func(f *fixture) {
		id := f.begin("d/a", core.CreateOptions{})
		p := f.part("d/a", id, 1, "x")
		f.tap.set(func(c call) verdict {
			if c.op == "Complete" {
				return verdict{after: errs.E("tap", c.name, errs.Unavailable, nil)}
			}
			return verdict{}
		})
		_, err := f.complete("d/a", id, p)
		f.wantErr("no answer", err, errs.Unavailable)
		f.tap.set(nil)
		f.restart()
		if i := f.mustComplete("d/a", id, p); i.ETag != f.stat("d/a").ETag {
			f.Errorf("got %+v", i)
		}
		f.wantData("d/a", "x")
		f.wantNoUpload("d/a", id)
	}},
	{name: "a completed upload is NotExist in every other method", test: func(f *fixture) {
		id := f.begin("a", core.CreateOptions{})
		f.mustComplete("a", id, f.part("a", id, 1, "x"))
		f.wantNoUpload("a", id)
		f.wantData("a", "x")
	}},
	{name: "an aborted or unknown upload is NotExist in every method", test: func(f *fixture) {
		id := f.begin("a", core.CreateOptions{})
		p := f.part("a", id, 1, "x")
		f.wantNoUpload("b", id)
		f.must(f.AbortUpload(f.ctx(), f.path("a"), id))
		for _, unknown := range []string{id, "nonsense", ""} {
			f.wantNoUpload("a", unknown)
			_, err := f.complete("a", unknown, p)
			f.wantErr("complete", err, errs.NotExist)
		}
		f.wantKeys("")
	}},
	{name: "the condition of Complete is judged", test: func(f *fixture) {
		id := f.begin("a", core.CreateOptions{})
		p := f.part("a", id, 1, "x")
		f.put("a", "old")
		_, err := f.CompleteUpload(f.ctx(), f.path("a"), id, []core.Part{p}, core.CompleteOptions{Cond: core.Cond{IfNoneMatch: "*"}})
		f.wantErr("complete", err, errs.Precondition, errs.Exist)
		f.wantData("a", "old")
		_, err = f.CompleteUpload(f.ctx(), f.path("a"), id, []core.Part{p}, core.CompleteOptions{Cond: core.Cond{IfMatch: etag("old")}})
		f.must(err)
		f.wantData("a", "x")
	}},
	{name: "the last of two uploads to one key wins", test: func(f *fixture) {
		one, two := f.begin("a", core.CreateOptions{}), f.begin("a", core.CreateOptions{})
		p1, p2 := f.part("a", one, 1, "1"), f.part("a", two, 1, "2")
		f.mustComplete("a", two, p2)
		f.mustComplete("a", one, p1)
		f.wantData("a", "1")
	}},
	{name: "ListParts returns the upload and its parts in order", test: func(f *fixture) {
		id := f.begin("d/a", core.CreateOptions{Checksum: core.Checksum{Algorithm: "CRC32", Type: "COMPOSITE"}, Attr: core.FileAttr{User: map[string]string{"k": "v"}}})
		for _, n := range []int{5, 1, 1000, 99} {
			f.part("d/a", id, n, fmt.Sprint("part ", n))
		}
		u, seq, err := f.ListParts(f.ctx(), f.path("d/a"), id, 0)
		if err != nil || u.ID != id || u.Path != f.path("d/a") || u.Owner != "root" || u.Checksum.Algorithm != "CRC32" || u.Checksum.Type != "COMPOSITE" || u.Initiated.IsZero() {
			f.Fatalf("got %+v, %v", u, err)
		}
		for p, err := range seq {
			if want := fmt.Sprint("part ", p.Number); err != nil || p.ETag != etag(want) || p.Size != int64(len(want)) || p.ModTime.IsZero() {
				f.Errorf("got %+v, %v", p, err)
			}
		}
		for after, want := range map[int]string{0: "[1 5 99 1000]", 5: "[99 1000]", 1000: "[]", 20000: "[]"} {
			if got, err := f.partNumbers("d/a", id, after); err != nil || fmt.Sprint(got) != want {
				f.Errorf("after %d: got %v, %v; want %s", after, got, err, want)
			}
		}
	}},
	{name: "ListUploads yields uploads by key, after a key and an id", test: func(f *fixture) {
		f.mkdir("d/")
		ids := map[string][]string{}
		for _, name := range []string{"d/b", "d/a", "x", "d/b", "d/ab"} {
			ids[name] = append(ids[name], f.begin(name, core.CreateOptions{}))
		}
		list := func(dir, prefix, key, id string) string {
			f.Helper()
			var got []string
			for u, err := range f.ListUploads(f.ctx(), f.path(dir), prefix, key, id) {
				if err != nil {
					f.Fatal(err)
				}
				got = append(got, u.Name)
			}
			return strings.Join(got, " ")
		}
		b := []string{}
		for u, err := range f.ListUploads(f.ctx(), f.path("d/"), "b", "", "") {
			f.must(err)
			b = append(b, u.ID)
		}
		if len(b) != 2 || b[0] != ids["d/b"][0] {
			f.Errorf("two uploads to one key: got %q, want %q (by start time)", b, ids["d/b"])
		}
		for _, c := range []struct{ dir, prefix, key, id, want string }{
			{"", "", "", "", "d/a d/ab d/b d/b x"}, {"d/", "", "", "", "a ab b b"}, {"d/", "a", "", "", "a ab"}, {"d/", "", "a", "", "ab b b"},
			{"d/", "", "b", "", ""}, {"d/", "", "b", b[0], "b"}, {"d/", "", "b", b[1], ""}, {"", "d/", "d/ab", "", "d/b d/b"},
		} {
			if got := list(c.dir, c.prefix, c.key, c.id); got != c.want {
				f.Errorf("%+v: got %q", c, got)
			}
		}
		f.must(f.AbortUpload(f.ctx(), f.path("x"), ids["x"][0]))
		if got := list("", "", "", ""); got != "d/a d/ab d/b d/b" {
			f.Errorf("after an abort: got %q", got)
		}
	}},
	{name: "an upload lives through a restart", test: func(f *fixture) {
		id := f.begin("d/a", core.CreateOptions{})
		p1 := f.part("d/a", id, 1, big)
		f.restart()
		if got, err := f.partNumbers("d/a", id, 0); err != nil || fmt.Sprint(got) != "[1]" {
			f.Fatalf("got parts %v, %v", got, err)
		}
		p2 := f.part("d/a", id, 2, "tail")
		f.mustComplete("d/a", id, p1, p2)
		f.wantData("d/a", big+"tail")
		f.restart()
		f.wantData("d/a", big+"tail")
	}},
	{name: "uploads are their owner's and the superuser's", test: func(f *fixture) {
		f.chmod("", 0o777)
		ann, bob := f.as("ann"), f.as("bob")
		id := ann.begin("a", core.CreateOptions{})
		_, err := bob.partErr("a", id, 1, "x", 1)
		f.wantErr("part", err, errs.Permission)
		f.wantErr("abort", bob.AbortUpload(bob.ctx(), f.path("a"), id), errs.Permission)
		p := ann.part("a", id, 1, "x")
		if i := f.mustComplete("a", id, p); i.Owner != "ann" {
			f.Errorf("the file is %s's", i.Owner)
		}
		f.chmod("", 0o755)
		_, err = ann.CreateUpload(ann.ctx(), f.path("b"), core.CreateOptions{})
		f.wantErr("create", err, errs.Permission)
	}},
	{name: "an overwrite by an upload keeps number, owner and mode", test: func(f *fixture) {
		old := f.put("a", "x")
		f.chown("a", "ann", "staff")
		f.chmod("a", 0o640)
		id := f.begin("a", core.CreateOptions{})
		i := f.mustComplete("a", id, f.part("a", id, 1, "new"))
		if i.ID != old.ID || i.Owner != "ann" || i.Group != "staff" || i.Mode != 0o640 {
			f.Errorf("got %+v", i)
		}
	}},
}

// wantNoUpload checks the methods but Complete.
func (f *fixture) wantNoUpload(name, id string) {
	f.Helper()
	_, err := f.partErr(name, id, 1, "x", 1)
	f.wantErr("put part", err, errs.NotExist)
	_, err = f.partNumbers(name, id, 0)
	f.wantErr("list parts", err, errs.NotExist)
	f.wantErr("abort", f.AbortUpload(f.ctx(), f.path(name), id), errs.NotExist)
	_, err = f.CopyPart(f.ctx(), f.path(name), id, 1, f.path("any"), core.All)
	f.wantErr("copy part", err, errs.NotExist)
}
