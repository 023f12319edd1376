package nstest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// large is longer than two cache pages.
var large = pattern(1, 2<<20+12345)

var openTests = []entry{
	{name: "Open reads the range asked for", test: func(f *fixture) {
		f.put("a", "0123456789")
		for _, c := range []struct {
			r    core.Range
			want string
			off  int64
		}{
			{core.All, "0123456789", 0}, {core.Range{Off: 3, Len: 4}, "3456", 3}, {core.Range{Off: 8, Len: 100}, "89", 8},
			{core.Range{Off: -3, Len: -1}, "789", 7}, {core.Range{Off: -100, Len: -1}, "0123456789", 0}, {core.Range{Off: 10, Len: -1}, "", 10},
			{core.Range{Off: 4, Len: 0}, "", 4}, {core.Range{Off: 9, Len: -1}, "9", 9},
		} {
			rd, err := f.open("a", c.r)
			if err != nil {
				f.Errorf("%+v: %v", c.r, err)
				continue
			}
			if off, n := rd.Span(); off != c.off || n != int64(len(c.want)) {
				f.Errorf("%+v: span %d, %d", c.r, off, n)
			}
			var b bytes.Buffer
			if n, err := rd.WriteTo(&b); err != nil || n != int64(len(c.want)) || b.String() != c.want {
				f.Errorf("%+v: WriteTo %q, %d, %v", c.r, b.String(), n, err)
			}
			rd.Close()
			if got, err := f.read("a", c.r); err != nil || got != c.want {
				f.Errorf("%+v: Read %q, %v; want %q", c.r, got, err, c.want)
			}
		}
	}},
	{name: "a range beyond the end is Range", test: func(f *fixture) {
		f.put("a", "0123456789")
		f.put("empty", "")
		_, err := f.open("a", core.Range{Off: 11, Len: 1})
		f.wantErr("beyond", err, errs.Range)
		_, err = f.open("empty", core.Range{Off: 1, Len: -1})
		f.wantErr("beyond empty", err, errs.Range)
		f.wantData("empty", "")
	}},
	{name: "a directory is IsDir, nothing is NotExist", test: func(f *fixture) {
		f.put("d/a", "x")
		for _, name := range []string{"d/", "~d"} {
			_, err := f.open(name, core.All)
			f.wantErr("open "+name, err, errs.IsDir)
		}
		for _, name := range []string{"n", "~n", "d", "n/m"} {
			_, err := f.open(name, core.All)
			f.wantErr("open "+name, err, errs.NotExist)
		}
	}},
	{name: "large files are whole, by Read and by WriteTo, cold and warm", test: func(f *fixture) {
		f.storePut("stored", large)
		f.put("put", large)
		for _, name := range []string{"stored", "put"} {
			for range 2 {
				f.wantData(name, large)
				rd, err := f.open(name, core.Range{Off: 1<<20 - 5, Len: 1<<20 + 10})
				if err != nil {
					f.Fatal(err)
				}
				var b bytes.Buffer
				if _, err := rd.WriteTo(&b); err != nil || b.String() != large[1<<20-5:2<<20+5] {
					f.Errorf("%s: range differs, %v", name, err)
				}
				rd.Close()
			}
		}
	}},
	{name: "Read and WriteTo may follow each other", test: func(f *fixture) {
		f.put("a", large)
		rd, err := f.open("a", core.All)
		if err != nil {
			f.Fatal(err)
		}
		defer rd.Close()
		head := make([]byte, 1000)
		if _, err := io.ReadFull(rd, head); err != nil {
			f.Fatal(err)
		}
		var b bytes.Buffer
		b.Write(head)
		if _, err := rd.WriteTo(&b); err != nil || b.String() != large {
			f.Errorf("got %d bytes, %v", b.Len(), err)
		}
	}},
	{name: "Info describes the version being read", test: func(f *fixture) {
		f.put("a", "one")
		rd, err := f.open("a", core.All)
		if err != nil {
			f.Fatal(err)
		}
		defer rd.Close()
		f.put("a", "other")
		if i := rd.Info(); i.Size != 3 || i.ETag != etag("one") {
			f.Errorf("got %+v", i)
		}
	}},
	{name: "a reader keeps to its version while the name is overwritten", test: readerAcross(func(f *fixture) { f.put("d/a", pattern(9, len(large))) })},
	{name: "a reader keeps to its version while the file is appended to", test: readerAcross(func(f *fixture) { f.append("d/a", "more") })},
	{name: "a reader keeps to its version while the file is renamed", test: readerAcross(func(f *fixture) { f.rename("d/a", "b") })},
	{name: "a reader keeps to its version while its directory is renamed", test: readerAcross(func(f *fixture) { f.rename("d/", "e/") })},
	{name: "a reader keeps to its version while the file is removed", test: readerAcross(func(f *fixture) { f.remove("d/a") })},
	{name: "a reader keeps to its version while its tree is removed", test: readerAcross(func(f *fixture) { f.removeAll("d/") })},
	{name: "a version that is not cached is Conflict once overwritten", with: noCache, test: readerLost(func(f *fixture) { f.put("d/a", pattern(9, len(large))) })},
	{name: "a version that is not cached is Conflict once removed", with: noCache, test: readerLost(func(f *fixture) { f.remove("d/a") })},
	{name: "a version that is not cached is Conflict once replaced by another file", with: noCache, test: readerLost(func(f *fixture) {
		f.put("b", pattern(8, len(large)))
		f.must(f.renameErr("b", "d/a", true))
	})},
	{name: "a version that is not cached is read on after a rename", with: noCache, test: func(f *fixture) {
		f.put("d/a", large)
		rd, err := f.open("d/a", core.All)
		if err != nil {
			f.Fatal(err)
		}
		defer rd.Close()
		f.rename("d/a", "b")
		b, err := io.ReadAll(struct{ io.Reader }{rd})
		if (err != nil || string(b) != large) && (!errors.Is(err, errs.Conflict) || !strings.HasPrefix(large, string(b))) {
			f.Errorf("got %d bytes, %v", len(b), err)
		}
		f.wantData("b", large)
	}},
	{name: "its context ends a read", with: noCache, test: func(f *fixture) {
		f.put("a", large)
		ctx, cancel := context.WithCancel(f.ctx())
		rd, err := f.Open(ctx, f.path("a"), core.All)
		if err != nil {
			f.Fatal(err)
		}
		defer rd.Close()
		cancel()
		if _, err := io.ReadAll(struct{ io.Reader }{rd}); err == nil {
			f.Error("no error after the context ended")
		}
	}},
	{name: "a store that fails in the middle of a read fails it", with: noCache, test: func(f *fixture) {
		f.put("a", large)
		f.tap.set(func(c call) verdict {
			if c.op == "Read" {
				return verdict{before: errs.New("test", "", errs.Unavailable, "outage")}
			}
			return verdict{}
		})
		_, err := f.read("a", core.All)
		f.wantErr("read", err, errs.Unavailable)
		f.tap.set(nil)
		f.wantData("a", large)
	}},
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// readerAcross opens a file whose bytes are cached, has it changed, and wants the bytes it was opened for.
func readerAcross(change func(f *fixture)) func(f *fixture) {
	return func(f *fixture) {
		f.put("d/a", large)
		f.wantData("d/a", large)
		rd, err := f.open("d/a", core.All)
		if err != nil {
			f.Fatal(err)
		}
		defer rd.Close()
		head := make([]byte, 100)
		if _, err := io.ReadFull(rd, head); err != nil {
			f.Fatal(err)
		}
		change(f)
		rest, err := io.ReadAll(struct{ io.Reader }{rd})
		if got := string(head) + string(rest); err != nil || got != large {
			f.Errorf("got %d bytes, %v; want the %d it was opened for", len(got), err, len(large))
		}
	}
}

// readerLost opens a file of which nothing is cached, has it changed, and wants Conflict or, where the store still has
// them, the bytes it was opened for: never others.
func readerLost(change func(f *fixture)) func(f *fixture) {
	return func(f *fixture) {
		f.put("d/a", large)
		readerLostOf(f, "d/a", func() { change(f) })
	}
}

func readerLostOf(f *fixture, name string, change func()) {
	f.Helper()
	rd, err := f.open(name, core.All)
	f.must(err)
	defer rd.Close()
	change()
	b, err := io.ReadAll(struct{ io.Reader }{rd})
	if !strings.HasPrefix(large, string(b)) {
		f.Fatalf("bytes of another version: %.40q", b)
	}
	if err == nil && len(b) < len(large) || err != nil && !errors.Is(err, errs.Conflict) {
		f.Errorf("got %d bytes and error %v, want Conflict", len(b), err)
	}
}
