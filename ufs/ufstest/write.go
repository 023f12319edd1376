package ufstest

import (
	"context"
	"crypto/md5" //nolint:gosec // S3's ETag is an MD5
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

var createTests = []entry{
	{"nothing is visible before Commit", nil, func(f fixture) {
		w := f.create("d/a", "data", 4, ufs.CreateOptions{})
		f.wantGone("d/a")
		f.commit(w)
		f.wantData("d/a", "data")
		f.put("d/b", "old")
		w = f.create("d/b", "new", -1, ufs.CreateOptions{})
		f.wantData("d/b", "old")
		f.commit(w)
		f.wantData("d/b", "new")
	}},
	{"an aborted write leaves nothing", nil, func(f fixture) {
		w := f.create("a", "data", -1, ufs.CreateOptions{})
		if err := w.Abort(); err != nil {
			f.Errorf("abort: %v", err)
		}
		f.wantGone("a")
		f.wantList("", "", false)
		if _, err := w.Commit(f.ctx()); err == nil {
			f.Error("commit after abort succeeded")
		}
		f.wantGone("a")
	}},
	{"Abort after Commit does nothing", nil, func(f fixture) {
		w := f.create("a", "data", 4, ufs.CreateOptions{})
		f.commit(w)
		if err := w.Abort(); err != nil {
			f.Errorf("abort after commit: %v", err)
		}
		f.wantData("a", "data")
	}},
	{"a cancelled write leaves nothing visible", nil, func(f fixture) {
		for _, size := range []int{10, 3 << 20} {
			for _, announced := range []int64{int64(size), -1} {
				ctx, cancel := context.WithCancel(f.ctx())
				w, err := f.s.Create(ctx, "a", announced, ufs.CreateOptions{})
				if err != nil {
					f.Fatal(err)
				}
				if _, err := io.WriteString(w, strings.Repeat("x", size)); err != nil {
					f.Fatal(err)
				}
				cancel()
				_, err = w.Commit(f.ctx())
				wantCtx(f, "commit", err)
				_ = w.Abort()
				f.wantGone("a")
			}
		}
	}},
	{"Commit's own ctx counts too", nil, func(f fixture) {
		w := f.create("a", "data", -1, ufs.CreateOptions{})
		ctx, cancel := context.WithCancel(f.ctx())
		cancel()
		_, err := w.Commit(ctx)
		wantCtx(f, "commit", err)
		f.wantGone("a")
	}},
	{"Prepare shows nothing, and Commit does the rest", nil, func(f fixture) {
		f.put("a", "old")
		w := f.create("a", "prepared", -1, ufs.CreateOptions{})
		if err := ufs.Prepare(f.ctx(), w); err != nil {
			f.Fatal(err)
		}
		f.wantData("a", "old")
		f.commit(w)
		f.wantData("a", "prepared")
		w = f.create("b", "dropped", -1, ufs.CreateOptions{})
		if err := ufs.Prepare(f.ctx(), w); err != nil {
			f.Fatal(err)
		}
		if err := w.Abort(); err != nil {
			f.Error(err)
		}
		f.wantGone("b")
	}},
	{"a Prepare that fails leaves nothing to commit", nil, func(f fixture) {
		w, err := f.s.Create(f.ctx(), "a", 10, ufs.CreateOptions{})
		if err != nil {
			f.Fatal(err)
		}
		if _, err := io.WriteString(w, "short"); err != nil {
			f.Fatal(err)
		}
		perr := ufs.Prepare(f.ctx(), w)
		if _, err = w.Commit(f.ctx()); err == nil {
			f.Errorf("committed after Prepare said %v", perr)
		}
		_ = w.Abort()
		f.wantGone("a")
	}},
	{"sizes around the buffers, announced or not", nil, func(f fixture) {
		for _, size := range []int{0, 1, 1<<16 - 1, 1 << 16, 1<<20 - 1, 1 << 20, 1<<20 + 1, f.large()} {
			data := pattern(size)
			for _, announced := range []int64{int64(size), -1} {
				w, err := f.s.Create(f.ctx(), "d/a", announced, ufs.CreateOptions{})
				if err != nil {
					f.Fatal(err)
				}
				for rest := data; rest != ""; { // odd chunks, so that no buffer ends where a write does
					n := min(len(rest), 100_003)
					if _, err := io.WriteString(w, rest[:n]); err != nil {
						f.Fatal(err)
					}
					rest = rest[n:]
				}
				if in := f.commit(w); in.Size != int64(size) || in.Name != "d/a" {
					f.Errorf("commit of %d bytes: got %+v", size, in)
				}
				if f.get("d/a") != data {
					f.Errorf("%d bytes announced as %d: other bytes came back", size, announced)
				}
			}
		}
	}},
	{"bytes that are not the announced number are errs.Invalid", nil, func(f fixture) {
		for _, n := range []int{0, 9, 11, 2 << 20} {
			w, err := f.s.Create(f.ctx(), "a", 10, ufs.CreateOptions{})
			if err != nil {
				f.Fatal(err)
			}
			_, err = io.WriteString(w, strings.Repeat("x", n))
			if err == nil {
				_, err = w.Commit(f.ctx())
			}
			f.wantErr(fmt.Sprintf("%d bytes for 10", n), err, errs.Invalid)
			_ = w.Abort()
			f.wantGone("a")
		}
		w := f.create("big", strings.Repeat("x", 2<<20), 3<<20, ufs.CreateOptions{})
		_, err := w.Commit(f.ctx())
		f.wantErr("2 MiB for 3", err, errs.Invalid)
		f.wantGone("big")
	}},
	{"missing parents are made", nil, func(f fixture) {
		f.put("p/q/r/s", "deep")
		f.wantList("p/q/", "", false, "p/q/r/")
		f.wantData("p/q/r/s", "deep")
	}},
	{"IfNew: the name must not exist", nil, func(f fixture) {
		f.putWith("a", "first", ufs.CreateOptions{IfNew: true})
		_, err := ufs.WriteFile(f.ctx(), f.s, "a", []byte("second"), ufs.CreateOptions{IfNew: true})
		f.wantErr("create new over a file", err, errs.Exist)
		f.wantData("a", "first")
		w := f.create("b", "late", -1, ufs.CreateOptions{IfNew: true})
		f.put("b", "early")
		_, err = w.Commit(f.ctx())
		f.wantErr("create new, overtaken", err, errs.Exist)
		f.wantData("b", "early")
	}},
	{"IfNew: exactly one of many wins", func(x ufs.Features) bool { return x.Conditional }, func(f fixture) {
		var wins atomic.Int32
		var winner atomic.Value
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				data := fmt.Sprint("writer ", i)
				_, err := ufs.WriteFile(f.ctx(), f.s, "race/a", []byte(data), ufs.CreateOptions{IfNew: true})
				switch {
				case err == nil:
					wins.Add(1)
					winner.Store(data)
				case !errors.Is(err, errs.Exist) && !errors.Is(err, errs.Conflict):
					f.Errorf("loser got %v, want errs.Exist", err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			f.Fatalf("%d writers won, want 1", wins.Load())
		}
		f.wantData("race/a", winner.Load().(string))
	}},
	{"IfVersion: the name must have the version", nil, func(f fixture) {
		one := f.put("a", "one")
		two := f.putWith("a", "two", ufs.CreateOptions{IfVersion: one.Version})
		_, err := ufs.WriteFile(f.ctx(), f.s, "a", []byte("x"), ufs.CreateOptions{IfVersion: one.Version})
		f.wantErr("replace of an old version", err, errs.Precondition)
		f.wantData("a", "two")
		_, err = ufs.WriteFile(f.ctx(), f.s, "none", []byte("x"), ufs.CreateOptions{IfVersion: two.Version})
		f.wantErr("replace of nothing", err, errs.Precondition, errs.NotExist)
		f.wantGone("none")
		if got := f.stat("a"); got.Version != two.Version {
			f.Errorf("a refused replace left version %q, want %q", got.Version, two.Version)
		}
	}},
	{"IfVersion: what came while the bytes were written stays", nil, func(f fixture) {
		for _, data := range []string{"mine!", strings.Repeat("mine!", f.large()/5)} { // one is sent with its condition, the other ahead of it
			base := f.put("a", "base!")
			w := f.create("a", data, int64(len(data)), ufs.CreateOptions{IfVersion: base.Version})
			theirs := f.put("a", "other")
			_, err := w.Commit(f.ctx())
			f.wantErr("replace of what another has replaced", err, errs.Precondition, errs.Conflict)
			f.wantData("a", "other")
			if got := f.stat("a"); got.Version != theirs.Version {
				f.Errorf("a refused replace left version %q, want %q", got.Version, theirs.Version)
			}
			f.wantErr("removal of what another has replaced", f.s.Remove(f.ctx(), "a", base.Version), errs.Precondition, errs.Conflict)
			f.wantData("a", "other")
		}
	}},
	{"IfVersion: exactly one of many wins", func(x ufs.Features) bool { return x.Conditional }, func(f fixture) {
		base := f.put("a", "base")
		var wins atomic.Int32
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				o := ufs.CreateOptions{IfVersion: base.Version}
				_, err := ufs.WriteFile(f.ctx(), f.s, "a", []byte(fmt.Sprint("writer ", i)), o)
				if err == nil {
					wins.Add(1)
				} else if !errors.Is(err, errs.Precondition) && !errors.Is(err, errs.Conflict) {
					f.Errorf("loser got %v, want errs.Precondition", err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			f.Errorf("%d writers won, want 1", wins.Load())
		}
	}},
	{"concurrent writers: the last commit is whole", nil, func(f fixture) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				data := strings.Repeat(string(rune('a'+i)), 70_000)
				if _, err := ufs.WriteFile(f.ctx(), f.s, "n/a", []byte(data), ufs.CreateOptions{}); err != nil {
					f.Error(err)
				}
			})
		}
		wg.Wait()
		got := f.get("n/a")
		if len(got) != 70_000 || strings.Trim(got, got[:1]) != "" {
			f.Errorf("got a mixture of %d bytes", len(got))
		}
	}},
	{"attributes are kept", attrs, func(f fixture) {
		want := fullAttr()
		in := f.putWith("a", "data", ufs.CreateOptions{Attr: want})
		wantAttr(f, "commit", in, want)
		wantAttr(f, "stat", f.stat("a"), want)
		f.put("a", "data")
		wantAttr(f, "stat of a plain overwrite", f.stat("a"), ufs.Attr{})
	}},
	{"SetAttr before Commit replaces attributes", attrs, func(f fixture) {
		w := f.create("a", "data", 4, ufs.CreateOptions{Attr: ufs.Attr{User: map[string]string{"old": "1"}}})
		want := fullAttr()
		if err := w.SetAttr(want); errors.Is(err, errs.Unsupported) {
			f.Skip("the store sends attributes first")
		} else if err != nil {
			f.Fatal(err)
		}
		f.commit(w)
		wantAttr(f, "stat", f.stat("a"), want)
	}},
	{"Commit returns the facts Stat has", nil, func(f fixture) {
		for _, size := range []int{3, f.large()} {
			for _, announced := range []int64{int64(size), -1} {
				in := f.commit(f.create("a", pattern(size), announced, ufs.CreateOptions{}))
				if got := f.stat("a"); got.Version != in.Version || got.ETag != in.ETag || got.Size != in.Size {
					f.Errorf("commit says %+v, stat %+v", in, got)
				}
			}
		}
	}},
	{"a change that its guard stops is not made, and says so", nil, func(f fixture) {
		f.put("a", "old")
		f.put("b", "b")
		f.put("d/a", "below")
		stopped := errs.New("test", "", errs.Unavailable, "not any more")
		ctx := ufs.WithGuard(f.ctx(), func() error { return stopped })
		x := f.s.Features()
		write := func(name string, size int, o ufs.CreateOptions) error {
			w, err := f.s.Create(f.ctx(), name, int64(size), o)
			if err != nil {
				return err
			}
			if _, err := w.Write(make([]byte, size)); err != nil {
				return err
			}
			_, err = w.Commit(ctx)
			return err
		}
		commit := func(size int, o ufs.CreateOptions) error { return write("a", size, o) }
		before := f.stat("a")
		for _, c := range []struct {
			what string
			can  bool
			do   func() error
		}{
			{"a small write", true, func() error { return commit(3, ufs.CreateOptions{}) }},
			{"a large write", true, func() error { return commit(f.large(), ufs.CreateOptions{}) }},
			{"a replacing write", true, func() error { return commit(3, ufs.CreateOptions{IfVersion: f.stat("a").Version}) }},
			{"a removal", true, func() error { return f.s.Remove(ctx, "a", "") }},
			{"a removal of a version", true, func() error { return f.s.Remove(ctx, "a", f.stat("a").Version) }},
			{"a rename", x.AtomicRename, func() error { return ufs.Rename(ctx, f.s, "a", "c", false) }},
			{"a replacing rename", x.AtomicRename, func() error { return ufs.Rename(ctx, f.s, "b", "a", true) }},
			{"a rename of a directory", x.AtomicRename, func() error { return ufs.Rename(ctx, f.s, "d/", "e/", false) }},
			{"a write below directories that are not there", true, func() error { return write("m/n/a", 3, ufs.CreateOptions{}) }},
			{"a rename below directories that are not there", x.AtomicRename, func() error { return ufs.Rename(ctx, f.s, "a", "m/n/a", false) }},
			{"a directory", x.Mkdir, func() error {
				_, err := ufs.Mkdir(ctx, f.s, "m/n/", ufs.Attr{})
				return err
			}},
			{"attributes", x.SetAttr, func() error {
				_, err := ufs.SetAttr(ctx, f.s, "a", "", ufs.Attr{User: map[string]string{"k": "v"}})
				return err
			}},
			{"attributes of a directory", x.SetAttr && x.Dirs, func() error {
				_, err := ufs.SetAttr(ctx, f.s, "d/", "", ufs.Attr{Marker: true})
				return err
			}},
			{"a marker", x.Mkdir && x.Dirs && x.Attrs, func() error {
				_, err := ufs.Mkdir(ctx, f.s, "d/", ufs.Attr{Marker: true})
				return err
			}},
			{"a removal of a tree", x.Trash, func() error { return ufs.Trash(ctx, f.s, "d/") }},
			{"a copy", x.Copy, func() error {
				_, err := ufs.Copy(ctx, f.s, "b", "", "a", nil)
				return err
			}},
			{"a completion", x.Compose, func() error {
				composer, err := ufs.ComposerOf(f.s)
				if err != nil {
					return err
				}
				id, err := composer.Begin(f.ctx(), "a", ufs.Attr{})
				if err != nil {
					return err
				}
				defer func() { _ = composer.Cancel(f.ctx(), "a", id) }()
				etag, err := composer.PutPart(f.ctx(), "a", id, 1, 4, strings.NewReader("data"))
				if err != nil {
					return err
				}
				_, err = composer.Complete(ctx, "a", id, []ufs.Part{{Number: 1, ETag: etag, Size: 4}}, ufs.CreateOptions{})
				return err
			}},
		} {
			if !c.can {
				continue
			}
			if err := c.do(); !errors.Is(err, ufs.ErrUnsent) || errs.KindOf(err) != errs.Unavailable {
				f.Errorf("%s: got %v", c.what, err)
			}
		}
		f.wantData("a", "old")
		f.wantData("b", "b")
		f.wantData("d/a", "below")
		f.wantGone("c")
		f.wantGone("e/")
		f.wantGone("m/")
		if now := f.stat("a"); len(now.Attr.User) > 0 || now.Version != before.Version {
			f.Errorf("the file is %+v, and was %+v", now, before)
		}
		if f.stat("d/").Attr.Marker {
			f.Error("the directory has become a marker")
		}
	}},
	{"what is discarded in the last moment does not become visible", func(x ufs.Features) bool { return x.Discard }, func(f fixture) {
		f.put("a", "old")
		f.put("b", "b")
		const origin = "attempt.1"
		token := ""
		ctx := ufs.WithGuard(f.ctx(), func() error { return ufs.Discard(f.ctx(), f.s, token, origin) })
		x := f.s.Features()
		write := func(name string, o ufs.CreateOptions) error {
			w, err := f.s.Create(f.ctx(), name, 3, o)
			if err != nil {
				return err
			}
			if _, err := w.Write([]byte("new")); err != nil {
				return err
			}
			token = w.Token()
			_, err = w.Commit(ctx)
			return err
		}
		by := ufs.Attr{Origin: origin}
		for _, c := range []struct {
			what string
			can  bool
			do   func() error
		}{
			{"a write", true, func() error { return write("c", ufs.CreateOptions{}) }},
			{"a write over a file", true, func() error { return write("a", ufs.CreateOptions{Attr: by}) }},
			{"a new file", true, func() error { return write("c", ufs.CreateOptions{IfNew: true}) }},
			{"a replacing write", true, func() error { return write("a", ufs.CreateOptions{IfVersion: f.stat("a").Version}) }},
			{"a copy", x.Copy, func() error {
				_, err := ufs.Copy(ctx, f.s, "b", "", "a", &by)
				return err
			}},
			{"a completion", x.Compose, func() error {
				composer, err := ufs.ComposerOf(f.s)
				if err != nil {
					return err
				}
				id, err := composer.Begin(f.ctx(), "a", by)
				if err != nil {
					return err
				}
				defer func() { _ = composer.Cancel(f.ctx(), "a", id) }()
				etag, err := composer.PutPart(f.ctx(), "a", id, 1, 4, strings.NewReader("data"))
				if err != nil {
					return err
				}
				parts := []ufs.Part{{Number: 1, ETag: etag, Size: 4}}
				if _, err = composer.Complete(ctx, "a", id, parts, ufs.CreateOptions{Attr: by}); err == nil {
					return nil
				}
				_, again := composer.Complete(f.ctx(), "d", id, parts, ufs.CreateOptions{Attr: by}) // the parts are still there
				f.wantData("d", "data")
				return errors.Join(err, again)
			}},
		} {
			if !c.can {
				continue
			}
			token = ""
			if err := c.do(); err == nil {
				f.Errorf("%s: it was made", c.what)
			}
		}
		f.wantData("a", "old")
		f.wantGone("c")
		in := f.putWith("c", "data", ufs.CreateOptions{Attr: by})
		if err := ufs.Discard(f.ctx(), f.s, token, origin); err != nil {
			f.Error(err)
		}
		if got := f.stat("c"); got.Version != in.Version {
			f.Errorf("what was visible before is %+v, and was %+v", got, in)
		}
		f.wantData("b", "b")
	}},
	{"a known MD5 is no harm", nil, func(f fixture) {
		sum := md5.Sum([]byte("data")) //nolint:gosec // S3's ETag is an MD5
		o := ufs.CreateOptions{MD5: sum[:], Attr: ufs.Attr{ETag: hex.EncodeToString(sum[:])}}
		in := f.putWith("a", "data", o)
		if f.s.Features().Attrs && in.ETag != hex.EncodeToString(sum[:]) {
			f.Errorf("the acknowledged tag is lost: got %q", in.ETag)
		}
		f.wantData("a", "data")
	}},
}

// fullAttr has something in every field that a file has.
func fullAttr() ufs.Attr {
	return ufs.Attr{
		Headers: map[string]string{"Content-Type": "text/x-test; charset=utf-8", "Cache-Control": "max-age=3",
			"Content-Disposition": `attachment; filename="a b"`, "Content-Encoding": "x-own", "Content-Language": "de"},
		User:      map[string]string{"plain": "value", "with-dash": "a b; c=d", "empty": ""},
		ETag:      "0123456789abcdef0123456789abcdef-7",
		Checksums: `[{"Algorithm":"CRC32C","Value":"yZRlqg=="}]`,
		Origin:    "inc.12.34",
		Mode:      0o640, Owner: "ann", Group: "staff",
	}
}

// wantAttr compares what the file keeps with want; an ETag or a mode that want has not may be the store's own.
func wantAttr(f fixture, what string, got ufs.Info, want ufs.Attr) {
	f.Helper()
	if want.ETag != "" && got.ETag != want.ETag {
		f.Errorf("%s: ETag is %q, want %q", what, got.ETag, want.ETag)
	}
	if want.Mode != 0 && (got.Mode != want.Mode || got.Owner != want.Owner || got.Group != want.Group) {
		f.Errorf("%s: got %s:%s %o, want %s:%s %o", what, got.Owner, got.Group, got.Mode, want.Owner, want.Group, want.Mode)
	}
	a := got.Attr
	if want.Mode == 0 {
		a.Mode, a.Owner, a.Group = 0, "", ""
	}
	if want.Headers == nil {
		a.Headers = nil
	}
	if diff := cmp.Diff(want, a, cmpopts.EquateEmpty()); diff != "" || !got.Full {
		f.Errorf("%s: full %v, attributes (-want +got):\n%s", what, got.Full, diff)
	}
}

// pattern returns n bytes in which no two pages are alike.
func pattern(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(b) // it never fails
	return string(b)
}

var removeTests = []entry{
	{"a file", nil, func(f fixture) {
		f.put("d/a", "x")
		f.put("d/b", "y")
		if err := f.s.Remove(f.ctx(), "d/a", ""); err != nil {
			f.Fatal(err)
		}
		f.wantGone("d/a")
		f.wantData("d/b", "y")
	}},
	{"what is not there is errs.NotExist", nil, func(f fixture) {
		f.put("d/a", "x")
		for _, name := range []string{"none", "none/", "d/none", "d", "d/a/", "d/a/b"} {
			f.wantErr("remove "+name, f.s.Remove(f.ctx(), name, ""), errs.NotExist)
			f.wantErr("remove a version of "+name, f.s.Remove(f.ctx(), name, "1"), errs.NotExist, errs.Precondition)
		}
		f.wantData("d/a", "x")
	}},
	{"only the given version", nil, func(f fixture) {
		old := f.put("a", "old one")
		now := f.put("a", "new")
		f.wantErr("remove of an old version", f.s.Remove(f.ctx(), "a", old.Version), errs.Precondition)
		f.wantData("a", "new")
		if got := f.stat("a"); got.Version != now.Version {
			// The version of a name that was looked at may change, its bytes may not.
			f.Logf("a refused removal changed the version from %q to %q", now.Version, got.Version)
		}
		if err := f.s.Remove(f.ctx(), "a", f.stat("a").Version); err != nil {
			f.Fatal(err)
		}
		f.wantGone("a")
	}},
	{"an empty directory", mkdirs, func(f fixture) {
		f.mkdir("e/")
		if err := f.s.Remove(f.ctx(), "e/", ""); err != nil {
			f.Fatal(err)
		}
		f.wantGone("e/")
		f.wantList("", "", false)
	}},
	{"a directory with children is errs.NotEmpty", dirs, func(f fixture) {
		f.put("d/a", "x")
		f.wantErr("remove", f.s.Remove(f.ctx(), "d/", ""), errs.NotEmpty)
		f.wantData("d/a", "x")
	}},
	{"a file's removal leaves its directory", dirs, func(f fixture) {
		f.put("d/a", "x")
		if err := f.s.Remove(f.ctx(), "d/a", ""); err != nil {
			f.Fatal(err)
		}
		f.wantList("", "", false, "d/")
	}},
}

var stagingTests = []entry{
	{"staging is never listed", nil, func(f fixture) {
		w := f.create("a", strings.Repeat("x", f.large()), -1, ufs.CreateOptions{})
		f.wantList("", "", false)
		if f.s.Features().Flat {
			f.wantList("", "", true)
		}
		f.commit(w)
		f.wantList("", "", false, "a")
		if f.s.Features().Flat {
			f.wantList("", "", true, "a")
		}
	}},
	{"CleanStaging leaves open writers and files alone", nil, func(f fixture) {
		f.put("a", "x")
		w := f.create("b", strings.Repeat("x", f.large()), -1, ufs.CreateOptions{})
		if err := f.s.CleanStaging(f.ctx(), func(string) bool { return false }); err != nil {
			f.Fatal(err)
		}
		f.commit(w)
		f.wantList("", "", false, "a", "b")
		f.wantData("b", strings.Repeat("x", f.large()))
	}},
	{"Close is idempotent", nil, func(f fixture) {
		if err := errors.Join(f.s.Close(), f.s.Close()); err != nil {
			f.Error(err)
		}
	}},
}
