package nstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// What is acknowledged before its store has it: core.AsyncThrough and core.MustCache, and core.Persister.

// held are the options of a namespace with three workers whose files stay with them for long.
func held(o *Options) {
	o.Workers, o.Delay = NewWorkers(3), time.Hour
	never := time.Duration(-1)
	o.Sync = &never
}

func heldWith(more ...func(*Options)) func(*Options) {
	return func(o *Options) {
		held(o)
		for _, m := range more {
			m(o)
		}
	}
}

func atOnce(o *Options) { o.Delay = 0 }

func fourWorkers(o *Options) { o.Workers = NewWorkers(4) }

func cared(o *Options) { o.Care = 30 * time.Millisecond }

func holding(f *fixture) bool { return f.persister() != nil && f.Mounted }

func (f *fixture) persister() core.Persister {
	p, _ := f.Tree.(core.Persister)
	return p
}

// async writes a file that two workers hold.
func (f *fixture) async(name, data string) core.Info {
	f.Helper()
	i := f.putWith(name, data, core.CreateOptions{Size: int64(len(data)), MakeParents: true, WriteType: core.AsyncThrough})
	if i.Write != core.AsyncThrough {
		f.Errorf("%q was written with %s", name, i.Write)
	}
	return i
}

func (f *fixture) persistErr(name string, o core.PersistOptions) error {
	ctx, cancel := context.WithTimeout(f.ctx(), 20*time.Second)
	defer cancel()
	o.Wait = true
	_, err := f.persister().Persist(ctx, f.path(name), o)
	return err
}

func (f *fixture) persist(name string) {
	f.Helper()
	if err := f.persistErr(name, core.PersistOptions{}); err != nil {
		f.Fatalf("persist %q: %v", name, err)
	}
}

func (f *fixture) durability(name string) core.Durability {
	f.Helper()
	d, err := f.persister().Durability(f.ctx(), f.path(name))
	if err != nil {
		f.Fatalf("durability of %q: %v", name, err)
	}
	return d
}

func (f *fixture) wantState(name string, want core.DurabilityState) {
	f.Helper()
	if d := f.durability(name); d.State != want {
		f.Errorf("%q is %s (%s), want %s", name, d.State, d.Why, want)
	}
}

// eventually waits until ok holds.
func (f *fixture) eventually(what string, ok func() bool) {
	f.Helper()
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-t.C {
		if time.Now().After(end) {
			f.Fatalf("not within 20 s: %s", what)
		}
	}
}

// wantHeld waits until the workers hold so many attempts all together.
func (f *fixture) wantHeld(n int) {
	f.Helper()
	count := func() (n int) {
		for _, w := range f.workers.all {
			n += w.count()
		}
		return n
	}
	f.eventually(fmt.Sprintf("workers hold %d attempts", n), func() bool { return count() == n })
}

// failing has calls of a store fail while it is set.
func (f *fixture) failing(op, name string, kind errs.Kind) (stop func()) {
	f.tap.set(func(c call) verdict {
		if c.op == op && (name == "" || c.name == name) {
			return verdict{before: errs.New("test", name, kind, "it was made to")}
		}
		return verdict{}
	})
	return func() { f.tap.set(nil) }
}

// behind has change change the file of a store in a directory until its version is another.
func (f *fixture) behind(name string, change func(path string) error) {
	f.Helper()
	path := strings.TrimPrefix(f.Store.Features().Root, "file:") + "/" + name
	was, err := f.Store.Stat(f.Context(), name)
	f.must(err)
	f.eventually("another version", func() bool {
		f.must(change(path))
		now, err := f.Store.Stat(f.Context(), name)
		f.must(err)
		return now.Version != was.Version
	})
}

// writeInto writes data into the file of a store in a directory, and puts its modification time back.
func (f *fixture) writeInto(name, data string) {
	f.Helper()
	was, err := f.Store.Stat(f.Context(), name)
	f.must(err)
	f.behind(name, func(path string) error {
		return errors.Join(os.WriteFile(path, []byte(data), 0o600), os.Chtimes(path, was.ModTime, was.ModTime))
	})
}

// leaver is what says what a worker is waited for.
type leaver interface {
	Leaving(worker string) (files, writes int64, why string)
}

var heldTests = []entry{
	{name: "a held write is seen at once and is not in its store", needs: holding, with: held, test: func(f *fixture) {
		i := f.async("d/e/a", "held")
		if i.ETag != etag("held") || i.Size != 4 || i.Age != 0 {
			f.Errorf("got %+v", i)
		}
		f.async("d/empty", "")
		f.storeGone("d/e/a")
		f.wantSeen("d/e/a", "held")
		f.wantData("d/empty", "")
		f.wantKeys("", "d/e/a", "d/empty")
		f.wantChildren("d/", "e/", "empty")
		f.wantHeld(4)
		d := f.durability("d/e/a")
		if d.State != core.Pending || d.Write != core.AsyncThrough || len(d.Holders) != 2 || len(d.Lost) != 0 || d.Since.IsZero() {
			f.Errorf("got %+v", d)
		}
		if got, err := f.read("d/e/a", core.Range{Off: 1, Len: 2}); err != nil || got != "el" {
			f.Errorf("got %q, %v", got, err)
		}
	}},
	{name: "durability says who does not have the bytes now, and so does a read that nobody answers", needs: holding, with: heldWith(noCache), test: func(f *fixture) {
		f.async("a", "1")
		d := f.durability("a")
		if len(d.Holders) != 2 || len(d.Lost) != 0 {
			f.Fatalf("got %+v", d)
		}
		byName := map[string]*Worker{}
		for _, w := range f.workers.all {
			byName[w.name] = w
		}
		wiped, down := byName[d.Holders[0]], byName[d.Holders[1]]
		wiped.wipe()
		if d := f.durability("a"); len(d.Holders) != 2 || !slices.Equal(d.Lost, d.Holders[:1]) {
			f.Errorf("with one that has lost them: %+v", d)
		}
		f.wantSeen("a", "1")
		down.fail(0)
		if d := f.durability("a"); len(d.Holders) != 2 || !slices.Equal(d.Lost, d.Holders) {
			f.Errorf("with the other one away: %+v", d)
		}
		_, err := f.read("a", core.All)
		f.wantErr("of what nobody gives", err, errs.Unavailable)
		if why := core.WhyNotGiven(err); !strings.Contains(why, "("+wiped.name+", "+down.name+")") || strings.Contains(why, "is down") {
			f.Errorf("it says %q", why)
		}
		down.back()
		f.wantSeen("a", "1")
	}},
	{name: "a held write costs its store nothing", needs: holding, with: held, test: func(f *fixture) {
		f.async("d/a", "1")
		f.wantChildren("d/", "a")
		stop := f.calls()
		f.async("d/b", "2")
		f.async("d/a", "3")
		f.remove("d/b")
		f.wantChildren("d/", "a")
		if n := stop(); n != 0 {
			f.Errorf("%d calls of the store", n)
		}
	}},
	{name: "a file is persisted with all that was acknowledged, and then released", needs: holding, with: held, test: func(f *fixture) {
		data := pattern(1, 3<<20)
		o := core.CreateOptions{Size: -1, MakeParents: true, WriteType: core.AsyncThrough, Attr: core.FileAttr{
			Mode: 0o600, Headers: map[string]string{"Content-Type": "text/x"}, User: map[string]string{"k": "v"}}}
		f.putWith("d/a", data, o)
		f.chown("d/a", "ann", "staff")
		before := f.dump()
		f.persist("d/a")
		f.wantState("d/a", core.InStore)
		f.wantStored("d/a", data)
		f.wantHeld(0)
		if after := f.dump(); after != before {
			f.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		f.restart()
		f.wantData("d/a", data)
		if after := f.dump(); after != before {
			f.Errorf("before:\n%s\nafter the restart:\n%s", before, after)
		}
	}},
	{name: "files are persisted by themselves after the delay", needs: holding, with: heldWith(atOnce), test: func(f *fixture) {
		for i := range 40 {
			f.async(fmt.Sprintf("d/%d", i), pattern(i, 1000+i))
		}
		for i := range 40 {
			f.eventually("stored", func() bool { return f.durability(fmt.Sprintf("d/%d", i)).State == core.InStore })
			f.wantStored(fmt.Sprintf("d/%d", i), pattern(i, 1000+i))
		}
		f.wantHeld(0)
	}},
	{name: "Persist of a directory persists all below it, MUST_CACHE too", needs: holding, with: held, test: func(f *fixture) {
		f.async("d/a", "1")
		f.putWith("d/e/b", "2", core.CreateOptions{Size: 1, MakeParents: true, WriteType: core.MustCache})
		f.async("other", "3")
		f.wantState("d/e/b", core.OnlyHeld)
		f.wantHeld(5)
		done, err := f.persister().Persist(f.ctx(), f.path("d/"), core.PersistOptions{Wait: true})
		if f.must(err); done.Files != 2 || done.Bytes != 2 {
			f.Errorf("got %+v", done)
		}
		f.wantStored("d/a", "1")
		f.wantStored("d/e/b", "2")
		f.storeGone("other")
		_, err = f.persister().Persist(f.ctx(), f.path("gone"), core.PersistOptions{})
		f.wantErr("of what is not there", err, errs.NotExist)
		_, err = f.persister().Durability(f.ctx(), f.path("d/"))
		f.wantErr("durability of a directory", err, errs.IsDir)
		_, err = f.as("bob").persister().Persist(f.as("bob").ctx(), f.path("other"), core.PersistOptions{})
		f.wantErr("by another", err, errs.Permission)
	}},
	{name: "MUST_CACHE is not persisted unless that is asked for", needs: holding, with: heldWith(atOnce), test: func(f *fixture) {
		i := f.putWith("a", "1", core.CreateOptions{Size: 1, WriteType: core.MustCache})
		if i.Write != core.MustCache {
			f.Errorf("written with %s", i.Write)
		}
		f.async("b", "2") // is, after it
		f.eventually("stored", func() bool { return f.durability("b").State == core.InStore })
		f.storeGone("a")
		f.wantHeld(1)
		f.persist("a")
		f.wantStored("a", "1")
	}},
	{name: "with too few workers the store takes the write, and that is said", needs: holding, with: held, test: func(f *fixture) {
		f.workers.all[0].fail(0)
		f.async("a", "1")
		f.workers.all[1].fail(0)
		i := f.putWith("b", "2", core.CreateOptions{Size: 1, WriteType: core.AsyncThrough})
		if i.Write != core.CacheThrough {
			f.Errorf("written with %s", i.Write)
		}
		f.wantStored("b", "2")
		f.wantState("b", core.InStore)
	}},
	{name: "a short write whose worker is lost goes to the store, a long one is Unavailable", needs: holding, with: held, test: func(f *fixture) {
		f.workers.all[1].fail(10)
		w, err := f.create("a", pattern(1, 20), core.CreateOptions{Size: -1, WriteType: core.AsyncThrough})
		f.must(err)
		_, err = w.Write([]byte("more"))
		f.must(err)
		i, err := w.Commit(f.ctx(), core.CommitOptions{})
		if f.must(err); i.Write != core.CacheThrough {
			f.Errorf("written with %s", i.Write)
		}
		f.wantStored("a", pattern(1, 20)+"more")
		f.workers.all[1].back()
		w, err = f.create("b", "x", core.CreateOptions{Size: -1, WriteType: core.AsyncThrough})
		f.must(err)
		f.workers.all[0].fail(0)
		if i, err = w.Commit(f.ctx(), core.CommitOptions{}); err != nil || i.Write != core.CacheThrough {
			f.Errorf("lost at the last moment: %v, written with %s", err, i.Write)
		}
		f.wantStored("b", "x")
		f.workers.all[0].back()
		f.workers.all[0].fail(1 << 20)
		_, err = f.write("c", pattern(2, 2<<20), core.CreateOptions{Size: 2 << 20, WriteType: core.AsyncThrough})
		f.wantErr("a long one", err, errs.Unavailable)
		f.wantUnseen("c")
		f.workers.all[0].back()
		f.wantHeld(0)
	}},
	{name: "an aborted or failed write leaves nothing with the workers", needs: holding, with: held, test: func(f *fixture) {
		o := core.CreateOptions{Size: -1, WriteType: core.AsyncThrough}
		w, err := f.create("a", "1", o)
		f.must(err)
		f.must(w.Abort())
		f.async("b", "old")
		o.Mode = core.CreateNew
		w, err = f.create("c", "mine", o)
		f.must(err)
		f.async("c", "theirs")
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.wantErr("made meanwhile", err, errs.Exist)
		o.Mode, o.Cond.IfMatch = core.Replace, etag("other")
		_, err = f.create("b", "x", o)
		f.wantErr("condition", err, errs.Precondition)
		f.wantData("c", "theirs")
		f.wantHeld(4)
	}},
	{name: "of overwrites only the last reaches the store", needs: holding, with: held, test: func(f *fixture) {
		f.put("a", "stored")
		id := f.stat("a").ID
		f.async("a", "1")
		f.async("a", "22")
		f.wantStored("a", "stored")
		f.wantSeen("a", "22")
		if f.stat("a").ID != id {
			f.Errorf("the file's number changed")
		}
		f.persist("a")
		f.wantStored("a", "22")
		f.wantHeld(0)
		f.async("a", "333")
		f.put("a", "4444") // at once
		f.wantStored("a", "4444")
		f.wantSeen("a", "4444")
		f.wantHeld(0)
	}},
	{name: "conditions are judged on what is held", needs: holding, with: held, test: func(f *fixture) {
		f.async("a", "1")
		_, err := f.write("a", "x", core.CreateOptions{Mode: core.CreateNew, Size: 1})
		f.wantErr("create new", err, errs.Exist)
		_, err = f.write("a", "2", core.CreateOptions{Size: 1, Cond: core.Cond{IfMatch: etag("1")}})
		f.must(err)
		f.wantStored("a", "2")
		f.async("a", "3")
		_, err = f.write("a", "4", core.CreateOptions{Size: 1, Cond: core.Cond{IfMatch: etag("3")}})
		f.must(err)
		f.wantStored("a", "4")
		f.async("a", "5")
		f.wantErr("remove", f.removeErr("a", core.RemoveOptions{Cond: core.Cond{IfMatch: etag("4")}}), errs.Precondition)
		f.must(f.removeErr("a", core.RemoveOptions{Cond: core.Cond{IfMatch: etag("5")}}))
		f.storeGone("a")
	}},
	{name: "a condition that holds goes on holding while the file is persisted", needs: holding, with: held, test: func(f *fixture) {
		for _, name := range []string{"new", "overwritten"} {
			if name == "overwritten" {
				f.put(name, "stored")
			}
			f.async(name, "1")
			w, err := f.create(name, "22", core.CreateOptions{Size: 2, Cond: core.Cond{IfMatch: etag("1")}})
			f.must(err)
			f.persist(name)
			_, err = w.Commit(f.ctx(), core.CommitOptions{})
			f.must(err)
			f.wantStored(name, "22")
			f.async(name, "333")
			w, err = f.create(name, "4444", core.CreateOptions{Size: 4, Cond: core.Cond{IfMatch: etag("333")}, WriteType: core.AsyncThrough})
			f.must(err)
			f.persist(name)
			f.workers.all[0].fail(0) // the store has to take it
			i, err := w.Commit(f.ctx(), core.CommitOptions{})
			if f.must(err); i.Write != core.CacheThrough {
				f.Errorf("written with %s", i.Write)
			}
			f.workers.all[0].back()
			f.wantStored(name, "4444")
			f.async(name, "1")
			w, err = f.create(name, "22", core.CreateOptions{Size: 2, Cond: core.Cond{IfMatch: etag("1")}})
			f.must(err)
			f.async(name, "others")
			_, err = w.Commit(f.ctx(), core.CommitOptions{})
			f.wantErr("overwritten meanwhile", err, errs.Precondition)
			f.wantData(name, "others")
		}
	}},
	{name: "a held file that cannot be brought to its store is overwritten on a condition", needs: holding, with: held, test: func(f *fixture) {
		f.put("old", "stored")
		for _, name := range []string{"new", "old"} {
			f.async(name, pattern(1, 100))
			for _, w := range f.workers.all {
				w.fail(0)
			}
			_, err := f.write(name, "22", core.CreateOptions{Size: 2, Cond: core.Cond{IfMatch: etag(pattern(1, 100))}})
			f.must(err)
			f.wantStored(name, "22")
			for _, w := range f.workers.all {
				w.back()
			}
		}
	}},
	{name: "the target of a composition is persisted while it takes its parts", needs: holding, with: held, test: func(f *fixture) {
		for _, what := range []string{"new", "overwritten"} {
			part := what + ".part"
			f.storePut(part, "2")
			f.async("a", "1")
			f.tap.set(func(c call) verdict {
				if c.op == "Open" && c.name == part { // its bytes are taken last
					f.persist("a")
				}
				return verdict{}
			})
			_, err := f.Compose(f.ctx(), f.path("a"), f.paths(part))
			f.tap.set(nil)
			if err != nil {
				f.Errorf("%s: %v", what, err)
			}
			f.wantStored("a", "12")
		}
	}},
	{name: "a held file is renamed before it is stored under its last name only", needs: holding, with: held, test: func(f *fixture) {
		f.mkdir("to/")
		f.put("to/old", "old")
		f.async("tmp/a", "1")
		f.async("tmp/b", "2")
		id := f.stat("tmp/a").ID
		f.rename("tmp/a", "to/new")
		f.wantErr("over a file", f.renameErr("tmp/b", "to/old", false), errs.Exist)
		f.must(f.renameErr("tmp/b", "to/old", true))
		f.wantStored("to/old", "old")
		f.wantSeen("to/old", "2")
		f.wantSeen("to/new", "1")
		f.wantUnseen("tmp/a")
		if f.stat("to/new").ID != id {
			f.Errorf("the file's number changed")
		}
		stop := f.failing("Commit", "tmp/a", errs.Other)
		f.persist("to/")
		stop()
		f.wantStored("to/old", "2")
		f.wantStored("to/new", "1")
		f.storeGone("tmp/a")
		f.storeGone("tmp/b")
		f.wantHeld(0)
	}},
	{name: "a held overwrite is renamed, and renamed over", needs: holding, with: held, test: func(f *fixture) {
		f.put("a", "old a")
		f.put("c", "stored")
		f.async("a", "a")
		f.rename("a", "b")
		f.wantSeen("b", "a")
		f.wantUnseen("a")
		f.storeGone("a")
		f.async("d", "replaced")
		f.must(f.renameErr("c", "d", true))
		f.wantSeen("d", "stored")
		f.wantStored("d", "stored")
		f.storeGone("c")
		f.async("e", "1")
		f.async("g", "2")
		f.must(f.renameErr("e", "g", true))
		f.wantSeen("g", "1")
		f.persist("g")
		f.wantStored("g", "1")
		f.wantHeld(0)
	}},
	{name: "a held file is removed, with what it replaced", needs: holding, with: held, test: func(f *fixture) {
		f.put("a", "old")
		f.async("a", "new")
		f.async("d/b", "x")
		f.remove("a")
		f.must(f.removeErr("d/b", core.RemoveOptions{Prune: true}))
		f.wantUnseen("a")
		f.storeGone("a")
		f.wantGone("d/")
		f.storeGone("d/")
		f.wantHeld(0)
		f.persist("") // finds nothing
		f.storeGone("a")
		f.restart()
		f.wantKeys("")
	}},
	{name: "a directory with held files is renamed and removed", needs: holding, with: held, test: func(f *fixture) {
		f.put("d/stored", "0")
		f.put("d/both", "old")
		f.async("d/both", "new")
		f.async("d/e/held", "1")
		f.rename("d/", "x/")
		f.wantSeen("x/e/held", "1")
		f.wantSeen("x/both", "new")
		f.wantSeen("x/stored", "0")
		f.wantGone("d/")
		f.persist("x/")
		f.wantStored("x/e/held", "1")
		f.wantStored("x/both", "new")
		f.storeGone("d/both")
		f.async("x/e/more", "2")
		f.async("y/only", "3")
		f.wantErr("not empty", f.removeErr("y/", core.RemoveOptions{}), errs.NotEmpty)
		f.rename("y/", "z/")
		f.wantSeen("z/only", "3")
		f.removeAll("x/")
		f.removeAll("z/")
		f.wantKeys("")
		f.wantHeld(0)
		f.storeGone("x/e/more")
	}},
	{name: "a directory that goes from the store stays while files below it are held", needs: func(f *fixture) bool { return holding(f) && dirs(f) },
		with: heldWith(synced(0)), test: func(f *fixture) {
			f.put("d/s", "stored")
			f.async("d/e/a", "1")
			f.storeRemove("d/s")
			f.storeRemove("d/e/")
			f.storeRemove("d/")
			f.wantKeys("", "d/e/a")
			f.wantChildren("d/", "e/")
			f.wantSeen("d/e/a", "1")
			f.persist("d/e/a")
			f.wantStored("d/e/a", "1")
			f.wantKeys("", "d/e/a")
		}},
	{name: "attributes of a held file are set", needs: holding, with: held, test: func(f *fixture) {
		f.async("a", "1")
		f.chmod("a", 0o640)
		f.chown("a", "ann", "staff")
		f.persist("a")
		f.restart()
		if i := f.stat("a"); i.Mode != 0o640 || i.Owner != "ann" || i.Group != "staff" {
			f.Errorf("got %+v", i)
		}
	}},
	{name: "appends, copies, compositions and uploads meet held files", needs: holding, with: held, test: func(f *fixture) {
		f.async("a", "1")
		f.append("a", "2")
		f.wantSeen("a", "12")
		f.wantStored("a", "12")
		f.async("b", "3")
		_, err := f.Copy(f.ctx(), f.path("b"), f.path("c"), core.CopyOptions{})
		f.must(err)
		f.wantSeen("c", "3")
		f.storeGone("b")
		_, err = f.Compose(f.ctx(), f.path("a"), f.paths("b", "c"))
		f.must(err)
		f.wantSeen("a", "1233")
		f.wantUnseen("b")
		f.async("u", "old")
		id, err := f.CreateUpload(f.ctx(), f.path("u"), core.CreateOptions{})
		f.must(err)
		p := f.part("u", id, 1, "uploaded")
		f.wantSeen("u", "old")
		_, err = f.complete("u", id, p)
		f.must(err)
		f.wantSeen("u", "uploaded")
		f.async("s", "source")
		sum, err := f.FileChecksum(f.ctx(), f.path("s"))
		f.must(err)
		f.persist("s")
		if again, err := f.FileChecksum(f.ctx(), f.path("s")); err != nil || string(again.Bytes) != string(sum.Bytes) {
			f.Errorf("the checksum changed: %v", err)
		}
		f.wantHeld(0)
	}},
	{name: "rule 9: what others put into the store meanwhile stays, and the file what was acknowledged", needs: holding, with: held, test: func(f *fixture) {
		f.put("a", "old")
		f.async("a", "mine")
		f.async("b", "mine too")
		f.storePut("a", "theirs, longer")
		f.storePut("b", "theirs too, longer")
		for _, name := range []string{"a", "b"} {
			err := f.persistErr(name, core.PersistOptions{})
			f.wantErr("persist "+name, err, errs.Conflict)
			f.wantState(name, core.Refused)
		}
		f.restart()
		f.wantState("a", core.Refused)
		f.wantSeen("a", "mine")
		f.wantStored("a", "theirs, longer")
		f.wantSeen("b", "mine too")
		f.wantErr("again", f.persistErr("a", core.PersistOptions{}), errs.Conflict)
		f.must(f.persistErr("a", core.PersistOptions{Overwrite: true}))
		f.wantStored("a", "mine")
		f.wantState("a", core.InStore)
		f.fresh(0).remove("b")
		f.wantStored("b", "theirs too, longer")
		f.fresh(0).wantSeen("b", "theirs too, longer")
		f.wantHeld(0)
	}},
	{name: "rule 10: a removal of a held overwrite spares what others have put there", needs: holding, with: held, test: func(f *fixture) {
		f.put("a", "old")
		f.async("a", "mine")
		f.storePut("a", "theirs, longer")
		f.remove("a")
		f.wantStored("a", "theirs, longer")
		f.fresh(0).wantSeen("a", "theirs, longer")
	}},
	{name: "what its store had is gone meanwhile: the file is refused, not lost", needs: holding, with: held, test: func(f *fixture) {
		f.put("a", "old")
		f.async("a", "mine")
		f.storeRemove("a")
		f.wantErr("persist", f.persistErr("a", core.PersistOptions{}), errs.Conflict)
		f.wantSeen("a", "mine")
		f.must(f.persistErr("a", core.PersistOptions{Overwrite: true}))
		f.wantStored("a", "mine")
	}},
	{name: "what its store had has other facts and the same bytes: the file is persisted, or removed with it",
		needs: func(f *fixture) bool { return holding(f) && f.Store.Features().VersionTail }, with: held, test: func(f *fixture) {
			for _, name := range []string{"a", "b"} {
				f.put(name, "old")
				f.async(name, "mine")
				f.behind(name, func(path string) error { return os.Chmod(path, 0o640) })
			}
			f.persist("a")
			f.wantStored("a", "mine")
			f.remove("b")
			f.storeGone("b")
			f.wantHeld(0)
		}},
	{name: "what its store had gets other facts while the file is persisted: that is tried again, over others' bytes, too",
		needs: func(f *fixture) bool { return holding(f) && f.Store.Features().VersionTail }, with: held, test: func(f *fixture) {
			for _, over := range []bool{false, true} {
				f.put("a", "old")
				f.async("a", "mine")
				once := false
				f.tap.set(func(c call) verdict {
					if c.op == "Create" && c.name == "a" && !once {
						once = true
						f.behind("a", func(path string) error { return os.Chmod(path, 0o640) })
					}
					return verdict{}
				})
				f.must(f.persistErr("a", core.PersistOptions{Overwrite: over}))
				f.tap.set(nil)
				f.wantStored("a", "mine")
				f.wantState("a", core.InStore)
			}
		}},
	{name: "what its store had has other facts: a write on a condition replaces it, also if the workers are away",
		needs: func(f *fixture) bool { return holding(f) && f.Store.Features().VersionTail }, with: held, test: func(f *fixture) {
			f.put("a", "old!")
			i := f.async("a", "mine")
			f.behind("a", func(path string) error { return os.Chmod(path, 0o640) })
			for _, w := range f.workers.all {
				w.fail(0)
			}
			f.putWith("a", "new", core.CreateOptions{Size: 3, WriteType: core.Through, Cond: core.Cond{IfMatch: i.ETag}})
			f.wantStored("a", "new")
		}},
	{name: "rule 4: what its store had was written into, and its modification time put back: it stays",
		needs: func(f *fixture) bool { return holding(f) && f.Store.Features().VersionTail }, with: held, test: func(f *fixture) {
			for _, name := range []string{"a", "b"} {
				f.put(name, "old!")
				f.async(name, "mine")
				f.writeInto(name, "evil")
			}
			f.wantErr("persist", f.persistErr("a", core.PersistOptions{}), errs.Conflict)
			f.wantState("a", core.Refused)
			f.wantStored("a", "evil")
			f.remove("b")
			f.wantStored("b", "evil")
			f.must(f.persistErr("a", core.PersistOptions{Overwrite: true}))
			f.wantStored("a", "mine")
		}},
	{name: "what its store had has other facts, and nobody knows its bytes: it stays",
		needs: func(f *fixture) bool { return holding(f) && f.Store.Features().VersionTail }, with: held, test: func(f *fixture) {
			f.storePut("a", "theirs")
			f.wantData("a", "theirs")
			f.async("a", "mine")
			f.writeInto("a", "theirs")
			f.wantErr("persist", f.persistErr("a", core.PersistOptions{}), errs.Conflict)
			f.wantStored("a", "theirs")
		}},
	{name: "a store that keeps nothing with a file: a persist whose answer is lost is known by the bytes", needs: holding,
		with: heldWith(func(o *Options) {
			wrap := o.Wrap
			o.Wrap = func(s ufs.Store) ufs.Store { return &bare{wrap(s).(*tapped)} }
		}), test: func(f *fixture) {
			f.put("a", "old")
			for _, data := range []string{"1", pattern(1, 1<<20)} {
				f.async("a", data)
				lost := false
				f.tap.set(func(c call) verdict {
					if c.op == "Commit" && c.name == "a" && !lost {
						lost = true
						return verdict{after: errs.New("test", "a", errs.Unavailable, "the answer was lost")}
					}
					return verdict{}
				})
				f.persist("a")
				f.tap.set(nil)
				f.wantStored("a", data)
				f.wantSeen("a", data)
				f.wantState("a", core.InStore)
			}
			f.wantHeld(0)
		}},
	{name: "why a file is not in its store is told to who may read it", needs: holding, with: held, test: func(f *fixture) {
		f.async("a", "mine")
		f.chmod("a", 0o600)
		f.storePut("a", "theirs, longer")
		f.wantErr("persist", f.persistErr("a", core.PersistOptions{}), errs.Conflict)
		if why := f.durability("a").Why; !strings.Contains(why, "changed by others") {
			f.Errorf("its owner is told %q", why)
		}
		if d := f.as("bob").durability("a"); d.State != core.Refused || strings.Contains(d.Why, "changed") || d.Why == "" {
			f.Errorf("who may not read it is told %q", d.Why)
		}
	}},
	{name: "a refused file that is renamed or overwritten is persisted again", needs: holding, with: held, test: func(f *fixture) {
		f.async("a", "mine")
		f.storePut("a", "theirs, longer")
		f.wantErr("persist", f.persistErr("a", core.PersistOptions{}), errs.Conflict)
		f.rename("a", "b")
		f.persist("b")
		f.wantStored("b", "mine")
		f.wantStored("a", "theirs, longer")
	}},
	{name: "a store that fails is asked again until it takes the file", needs: holding, with: heldWith(atOnce), test: func(f *fixture) {
		stop := f.failing("Create", "a", errs.Unavailable)
		f.async("a", "1")
		f.async("b", "2")
		f.eventually("b stored", func() bool { return f.durability("b").State == core.InStore })
		f.eventually("a reason", func() bool { return strings.Contains(f.durability("a").Why, "it was made to") })
		f.wantSeen("a", "1")
		f.storeGone("a")
		stop()
		f.eventually("a stored", func() bool { return f.durability("a").State == core.InStore })
		f.wantStored("a", "1")
	}},
	{name: "a file whose name is blocked is not sent to its store in vain", needs: func(f *fixture) bool { return holding(f) && f.Store.Features().Kind != "local" },
		with: heldWith(atOnce, func(o *Options) { o.Watch = true }), test: func(f *fixture) {
			var sent atomic.Int64
			f.tap.set(func(c call) verdict {
				switch {
				case c.op == "Create" && c.name == "a":
					sent.Add(1)
				case c.op == "Commit" && c.name == "a":
					return verdict{before: errs.New("test", "a", errs.Unavailable, "the request was lost")}
				}
				return verdict{}
			})
			f.async("a", "1")
			f.eventually("the name is blocked", func() bool { return strings.Contains(f.durability("a").Why, "got no answer") })
			if n := sent.Load(); n != 1 {
				f.Errorf("it was sent %d times", n)
			}
			f.tap.set(nil)
		}},
	{name: "what was refused is not sent again while the store has the other version", needs: holding, with: held, test: func(f *fixture) {
		f.async("a", "mine")
		f.storePut("a", "theirs, longer")
		f.wantErr("persist", f.persistErr("a", core.PersistOptions{}), errs.Conflict)
		var sent atomic.Int64
		f.tap.set(func(c call) verdict {
			if c.op == "Create" && c.name == "a" {
				sent.Add(1)
			}
			return verdict{}
		})
		f.wantErr("again", f.persistErr("a", core.PersistOptions{}), errs.Conflict)
		if n := sent.Load(); n != 0 {
			f.Errorf("it was sent %d times", n)
		}
		f.storeRemove("a")
		f.persist("a")
		f.wantStored("a", "mine")
	}},
	{name: "rule 6: a persist whose answer is lost is known again", needs: holding, with: held, test: func(f *fixture) {
		f.put("a", "old")
		f.async("a", "1")
		first := sync.OnceValue(func() error { return errs.New("test", "a", errs.Unavailable, "the answer was lost") })
		asked := false
		f.tap.set(func(c call) verdict {
			if c.op == "Commit" && c.name == "a" && !asked {
				asked = true
				return verdict{after: first()}
			}
			return verdict{}
		})
		f.persist("a")
		f.tap.set(nil)
		f.wantStored("a", "1")
		f.wantSeen("a", "1")
		f.wantHeld(0)
	}},
	{name: "rule 9: an overwrite, a rename or a removal while a file is persisted is not undone", needs: holding, with: held, test: func(f *fixture) {
		for _, change := range []struct {
			name string
			do   func()
			want func()
		}{
			{"overwrite", func() { f.put("a", "later") }, func() { f.wantSeen("a", "later"); f.wantStored("a", "later") }},
			{"held overwrite", func() { f.async("a", "later") }, func() { f.wantSeen("a", "later"); f.persist("a"); f.wantStored("a", "later") }},
			{"rename", func() { f.rename("a", "b") }, func() { f.wantUnseen("a"); f.storeGone("a"); f.persist("b"); f.wantStored("b", "1") }},
			{"remove", func() { f.remove("a") }, func() { f.wantUnseen("a"); f.storeGone("a") }},
		} {
			f.async("a", "1")
			reached, release := f.hold("Create", "a")
			done := make(chan error, 1)
			go func() { done <- f.persistErr("a", core.PersistOptions{}) }()
			<-reached
			f.tap.set(nil)
			change.do()
			release()
			f.must(<-done)
			change.want()
			f.Log(change.name)
			f.removeErr("a", core.RemoveOptions{})
			f.removeErr("b", core.RemoveOptions{})
			f.wantHeld(0)
		}
		if f.Staged != nil {
			if left := f.Staged(f.T); len(left) > 0 {
				f.Errorf("staged bytes are left: %q", left)
			}
		}
	}},
	{name: "held files outlive a restart, and are persisted after it", needs: holding, with: held, test: func(f *fixture) {
		f.put("d/a", "old")
		f.async("d/a", "1")
		f.async("d/e/b", pattern(2, 100_000))
		f.putWith("c", "3", core.CreateOptions{Size: 1, WriteType: core.MustCache})
		before := f.dump()
		f.restart()
		if after := f.dump(); after != before {
			f.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		f.rename("d/", "x/")
		f.persist("")
		f.wantStored("x/a", "1")
		f.wantStored("x/e/b", pattern(2, 100_000))
		f.wantStored("c", "3")
		f.wantHeld(0)
	}},
	{name: "held bytes are read from another worker where one fails", needs: holding, with: heldWith(noCache), test: func(f *fixture) {
		data := pattern(1, 5<<20)
		f.async("a", data)
		f.workers.all[0].fail(0)
		f.wantData("a", data)
		if d := f.durability("a"); len(d.Lost) != 1 || d.Lost[0] != "w1" {
			f.Errorf("got %+v", d)
		}
		f.workers.all[0].back()
		f.workers.all[1].wipe()
		f.wantData("a", data)
		f.persist("a")
		f.wantStored("a", data)
	}},
	{name: "bytes whose workers are all lost are Unavailable, and there again with them", needs: holding, with: heldWith(noCache), test: func(f *fixture) {
		f.async("a", "1")
		f.workers.all[0].fail(0)
		f.workers.all[1].fail(0)
		_, err := f.read("a", core.All)
		if f.wantErr("read", err, errs.Unavailable); err == nil || !strings.Contains(err.Error(), "w1, w2") {
			f.Errorf("the workers are not named: %v", err)
		}
		if f.stat("a").Size != 1 {
			f.Errorf("its facts are gone")
		}
		f.restart()
		f.workers.all[1].back()
		f.wantData("a", "1")
		f.persist("a")
		f.wantStored("a", "1")
	}},
	{name: "bytes that a worker damaged never reach the store", needs: holding, with: held, test: func(f *fixture) {
		f.async("a", pattern(1, 1000))
		f.workers.all[0].damage()
		f.persist("a")
		f.wantStored("a", pattern(1, 1000))
	}},
	{name: "what lost a holder is copied to another, which persists it", needs: holding, with: heldWith(cared), test: func(f *fixture) {
		data := pattern(1, 1<<20)
		f.async("a", data)
		f.workers.all[0].fail(0)
		f.eventually("another holder", func() bool {
			d := f.durability("a")
			return len(d.Lost) == 0 && len(d.Holders) == 2
		})
		f.workers.all[0].back()
		f.wantHeld(2) // the one that was lost releases its own
		f.workers.all[1].wipe()
		f.persist("a")
		f.wantStored("a", data)
	}},
	{name: "a holder that was lost is replaced in a failure domain that has none", needs: holding, with: heldWith(fourWorkers, cared), test: func(f *fixture) {
		f.workers.all[0].moveTo("w2") // fails together with w2
		f.workers.all[0].fail(0)
		f.async("a", "1")
		if d := f.durability("a"); fmt.Sprint(d.Holders) != "[w2 w3]" {
			f.Fatalf("held by %v", d.Holders)
		}
		f.workers.all[0].back()
		f.workers.all[2].fail(0)
		f.eventually("another holder", func() bool { return len(f.durability("a").Lost) == 0 })
		if d := f.durability("a"); fmt.Sprint(d.Holders) != "[w2 w4]" {
			f.Errorf("held by %v", d.Holders)
		}
	}},
	{name: "of several holders that were lost all are replaced, as others come", needs: holding, with: heldWith(fourWorkers, cared), test: func(f *fixture) {
		uri, _ := f.Spare(f.T)
		f.must(f.mount(core.MountSpec{Path: f.path("m/"), URI: uri, WriteType: core.AsyncThrough, Replicas: 3}))
		f.workers.all[3].fail(0)
		f.put("m/a", "1")
		f.workers.all[0].fail(0)
		f.workers.all[1].fail(0)
		f.workers.all[3].back()
		f.eventually("a second one", func() bool {
			d := f.durability("m/a")
			return len(d.Holders)-len(d.Lost) >= 2
		})
		f.workers.all[0].back()
		f.eventually("a third one", func() bool {
			d := f.durability("m/a")
			return len(d.Holders)-len(d.Lost) == 3
		})
	}},
	{name: "what a worker holds that leaves goes to another, whatever its write type", needs: holding, with: heldWith(cared), test: func(f *fixture) {
		f.async("a", pattern(1, 100_000))
		f.putWith("b", pattern(2, 3<<20), core.CreateOptions{Size: 3 << 20, WriteType: core.MustCache})
		f.workers.all[0].leave()
		f.eventually("w1 holds nothing", func() bool { return f.workers.all[0].count() == 0 })
		f.wantHeld(3)
		if d := f.durability("a"); fmt.Sprint(d.Holders) != "[w2 w3]" {
			f.Errorf("held by %v", d.Holders)
		}
		if d := f.durability("b"); fmt.Sprint(d.Holders) != "[w2]" || d.State != core.OnlyHeld {
			f.Errorf("held by %v, %s", d.Holders, d.State)
		}
		f.workers.all[0].wipe()
		f.workers.all[0].fail(0)
		f.wantData("a", pattern(1, 100_000))
		f.wantData("b", pattern(2, 3<<20))
		f.workers.all[1].leave() // and there is one left
		f.eventually("b is moved once more", func() bool { return fmt.Sprint(f.durability("b").Holders) == "[w3]" })
		if d := f.durability("a"); len(d.Holders) != 2 || len(d.Lost) != 0 {
			f.Errorf("got %+v", d)
		}
	}},
	{name: "a stream that alone is more than may be held is TooLarge, and goes to the store if its length is known", needs: holding,
		with: heldWith(func(o *Options) { o.MaxHeld = 1000 }), test: func(f *fixture) {
			w, err := f.create("a", pattern(1, 1000), core.CreateOptions{Size: -1, WriteType: core.AsyncThrough})
			f.must(err)
			_, err = w.Write([]byte("x"))
			f.wantErr("one byte more", err, errs.TooLarge)
			f.must(w.Abort())
			i := f.putWith("a", pattern(1, 1001), core.CreateOptions{Size: 1001, WriteType: core.AsyncThrough})
			if f.wantStored("a", pattern(1, 1001)); i.Write != core.CacheThrough {
				f.Errorf("written with %s", i.Write)
			}
			f.async("b", pattern(2, 1000))
			_, err = f.create("c", "x", core.CreateOptions{Size: -1, WriteType: core.AsyncThrough})
			f.wantErr("beside others", err, errs.Overload)
		}},
	{name: "who is away for a moment while another leaves is not replaced", needs: holding, with: heldWith(fourWorkers), test: func(f *fixture) {
		f.async("a", "1")
		f.workers.all[1].fail(0)
		f.workers.all[0].leave()
		f.eventually("w1 holds nothing", func() bool { return f.workers.all[0].count() == 0 })
		if d := f.durability("a"); fmt.Sprint(d.Holders) != "[w2 w3]" {
			f.Errorf("held by %v", d.Holders)
		}
		f.workers.all[1].back()
		f.wantHeld(2)
	}},
	{name: "what nobody needs is released while a copy to another worker takes long", needs: holding, with: heldWith(cared), test: func(f *fixture) {
		f.async("a", "1")
		goOn := f.workers.all[2].stall()
		defer goOn()
		f.workers.all[0].leave()
		f.eventually("a is on its way to w3", f.workers.all[2].isWaiting)
		f.putWith("c", "3", core.CreateOptions{Size: 1, WriteType: core.MustCache})
		f.remove("c")
		f.eventually("w2 released c", func() bool { return f.workers.all[1].count() == 1 })
		goOn()
		f.eventually("w1 holds nothing", func() bool { return f.workers.all[0].count() == 0 })
		f.wantData("a", "1")
	}},
	{name: "a write that is under way to a worker that leaves is counted, and what it holds then is moved", needs: func(f *fixture) bool {
		_, ok := f.Tree.(leaver)
		return ok && holding(f)
	}, with: heldWith(cared), test: func(f *fixture) {
		w, err := f.create("a", "all of it", core.CreateOptions{Size: -1, WriteType: core.MustCache})
		f.must(err)
		f.workers.all[0].leave()
		if files, writes, _ := f.Tree.(leaver).Leaving("w1"); files != 0 || writes != 1 {
			f.Errorf("w1 is said to hold %d files, with %d writes under way", files, writes)
		}
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.must(err)
		if files, writes, _ := f.Tree.(leaver).Leaving("w1"); files+writes > 1 {
			f.Errorf("w1 is said to hold %d files, with %d writes under way", files, writes)
		}
		f.eventually("w1 holds nothing", func() bool {
			files, writes, _ := f.Tree.(leaver).Leaving("w1")
			return files == 0 && writes == 0
		})
		f.workers.all[0].fail(0)
		f.wantData("a", "all of it")
		w, err = f.create("b", "given up", core.CreateOptions{Size: -1, WriteType: core.MustCache})
		f.must(err)
		f.must(w.Abort())
		if files, writes, _ := f.Tree.(leaver).Leaving("w2"); files != 1 || writes != 0 {
			f.Errorf("w2 is said to hold %d files, with %d writes under way", files, writes)
		}
	}},
	{name: "a worker that is drained just when it is chosen is given nothing", needs: holding, with: held, test: func(f *fixture) {
		f.workers.drainChosen = true
		i := f.putWith("a", "1", core.CreateOptions{Size: 1, WriteType: core.MustCache})
		if f.wantStored("a", "1"); i.Write != core.CacheThrough {
			f.Errorf("written with %s", i.Write)
		}
		f.wantHeld(0)
	}},
	{name: "rule 25: workers release what no entry refers to, and nothing else", needs: holding, with: heldWith(cared), test: func(f *fixture) {
		f.async("a", "1")
		w, err := f.create("slow", "2", core.CreateOptions{Size: -1, WriteType: core.AsyncThrough})
		f.must(err)
		f.workers.all[0].fail(0)
		f.remove("a") // w1 is not there to be told
		f.async("b", "3")
		f.workers.all[0].back()
		f.wantHeld(2)
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.must(err)
		f.wantHeld(4)
		stranger := core.HeldID{ID: [16]byte{1, 2, 3}, Rev: 1}
		out, err := f.workers.all[2].Hold(f.ctx(), stranger)
		f.must(err)
		f.must(out.Commit(f.ctx(), true))
		f.async("c", "4")
		f.remove("c")
		f.wantHeld(5) // another cluster's are not touched
		f.wantData("slow", "2")
	}},
	{name: "beyond the limit held writes are Overload, until the store has some", needs: holding, with: heldWith(func(o *Options) { o.MaxHeld = 100 }), test: func(f *fixture) {
		f.async("a", pattern(1, 90))
		_, err := f.write("b", pattern(2, 20), core.CreateOptions{Size: 20, WriteType: core.AsyncThrough})
		f.wantErr("beyond", err, errs.Overload)
		f.wantUnseen("b")
		i := f.putWith("long", pattern(3, 200), core.CreateOptions{Size: 200, WriteType: core.AsyncThrough})
		if i.Write != core.CacheThrough {
			f.Errorf("what the limit can never hold was written with %s", i.Write)
		}
		f.put("c", "through")
		f.persist("a")
		f.async("b", pattern(2, 20))
	}},
	{name: "the limit bounds streams of unknown length, and all that are written at once", needs: holding,
		with: heldWith(func(o *Options) { o.MaxHeld = 1 << 20 }), test: func(f *fixture) {
			stream := core.CreateOptions{Size: -1, WriteType: core.AsyncThrough}
			_, err := f.write("long", pattern(1, 2<<20), stream)
			f.wantErr("a stream beyond the limit", err, errs.TooLarge)
			f.wantUnseen("long")
			f.wantHeld(0)
			a, err := f.create("a", pattern(2, 700<<10), stream)
			f.must(err)
			b, err := f.create("b", pattern(3, 300<<10), stream)
			f.must(err)
			if _, err = b.Write([]byte(pattern(4, 100<<10))); errs.KindOf(err) != errs.Overload {
				f.Errorf("the second of two streams went beyond the limit: %v", err)
			}
			f.must(b.Abort())
			known := core.CreateOptions{Size: 300 << 10, WriteType: core.AsyncThrough}
			c, err := f.Create(f.ctx(), f.path("c"), known)
			f.must(err)
			_, err = f.Create(f.ctx(), f.path("d"), known)
			f.wantErr("what another has announced counts", err, errs.Overload)
			f.must(c.Abort())
			_, err = a.Commit(f.ctx(), core.CommitOptions{})
			f.must(err)
			f.putWith("e", pattern(5, 300<<10), known)
			f.wantData("a", pattern(2, 700<<10))
			f.persist("")
			f.putWith("long", pattern(1, 900<<10), stream)
		}},
	{name: "a mount with held files is not unmounted", needs: holding, with: held, test: func(f *fixture) {
		store := f.mountSpare("m/")
		f.async("m/d/a", "1")
		f.wantErr("unmount", f.Unmount(f.ctx(), f.path("m/")), errs.Busy)
		f.wantErr("across mounts", f.renameErr("m/d/a", "a", false), errs.Unsupported)
		f.persist("m/")
		f.storedIn(store, "d/a", "1")
		f.must(f.Unmount(f.ctx(), f.path("m/")))
	}},
	{name: "a forced unmount gives up held files, says so, and has workers drop them", needs: holding, with: held, test: func(f *fixture) {
		life, ok := f.Tree.(core.MountLife)
		if !ok {
			f.Skip("mounts have no life here")
		}
		store := f.mountSpare("m/")
		f.async("m/d/a", "1")
		f.async("m/b", "22")
		_, err := life.RemoveMount(f.ctx(), f.path("m/"), core.LifeOptions{})
		f.wantErr("unmount", err, errs.Busy)
		r, err := life.RemoveMount(f.ctx(), f.path("m/"), core.LifeOptions{Force: true})
		f.must(err)
		if len(r.GaveUp) != 1 || !strings.HasPrefix(r.GaveUp[0], "gave up 2 files") {
			f.Errorf("it gave up %q", r.GaveUp)
		}
		f.eventually("nothing is held", func() bool {
			held := 0
			for _, w := range f.workers.all {
				held += w.count()
			}
			return held == 0
		})
		if _, err := store.Stat(f.ctx(), "b"); errs.KindOf(err) != errs.NotExist {
			f.Errorf("the store has what was given up: %v", err)
		}
	}},
	{name: "a mount says its write type, replicas and delay", needs: holding, with: held, test: func(f *fixture) {
		uri, store := f.Spare(f.T)
		now := time.Duration(0)
		f.must(f.mount(core.MountSpec{Path: f.path("m/"), URI: uri, WriteType: core.AsyncThrough, Replicas: 3, PersistDelay: &now}))
		f.put("m/a", "1")
		f.eventually("stored", func() bool { return f.durability("m/a").State == core.InStore })
		f.storedIn(store, "a", "1")
		f.workers.all[0].fail(0)
		if i := f.put("m/b", "2"); i.Write != core.CacheThrough {
			f.Errorf("with two of three workers it was written with %s", i.Write)
		}
		_, err := f.UpdateMount(f.ctx(), f.path("m/"), core.MountChange{Replicas: ptr(2), PersistDelay: ptr(time.Hour)})
		f.must(err)
		if i := f.put("m/c", "3"); i.Write != core.AsyncThrough {
			f.Errorf("written with %s", i.Write)
		}
		f.restart()
		f.wantState("m/c", core.Pending)
		for _, bad := range []core.MountChange{{Replicas: ptr(99)}, {PersistDelay: ptr(-time.Second)}, {WriteType: ptr(core.WriteType("NEVER"))}} {
			_, err := f.UpdateMount(f.ctx(), f.path("m/"), bad)
			f.wantErr("a policy that cannot be", err, errs.Invalid)
		}
	}},
	{name: "a reader of a held version goes on while it is persisted", needs: holding, with: heldWith(noCache), test: func(f *fixture) {
		data := pattern(1, 4<<20)
		f.async("a", data)
		rd, err := f.open("a", core.All)
		f.must(err)
		defer rd.Close()
		first := make([]byte, 10)
		_, err = io.ReadFull(rd, first)
		f.must(err)
		f.persist("a")
		f.wantHeld(0)
		rest, err := io.ReadAll(struct{ io.Reader }{rd})
		if err != nil || string(first)+string(rest) != data {
			f.Errorf("%d bytes, %v, that are not the %d written", len(first)+len(rest), err, len(data))
		}
	}},
	{name: "persists race overwrites, renames, removals and others' changes", needs: holding, with: heldWith(atOnce, synced(0)), test: func(f *fixture) {
		f.raceHeld()
	}},
}

// raceHeld has writers change a few names at random, each its own, while the files are persisted, and others change the store.
func (f *fixture) raceHeld() {
	const writers, rounds = 6, 30
	last := make([]string, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			name, other := fmt.Sprintf("d/%d", w), fmt.Sprintf("e/%d", w)
			for i := range rounds {
				data := pattern(w*1000+i, 50+w*100+i)
				how := []core.WriteType{core.AsyncThrough, core.AsyncThrough, core.CacheThrough, core.MustCache}[(w+i)%4]
				if _, err := f.write(name, data, core.CreateOptions{Size: -1, MakeParents: true, WriteType: how}); err != nil {
					f.Errorf("write: %v", err)
					return
				}
				last[w] = data
				switch (w * i) % 5 {
				case 1:
					if err := f.renameErr(name, other, true); err != nil {
						if !errors.Is(err, errs.NotExist) { // e/ may not be there yet
							f.Errorf("rename: %v", err)
						}
						break
					}
					name, other = other, name
				case 2:
					if err := f.removeErr(name, core.RemoveOptions{}); err != nil {
						f.Errorf("remove: %v", err)
					}
					last[w] = ""
				}
				if got, err := f.read(name, core.All); last[w] != "" && (err != nil || got != last[w]) {
					f.Errorf("%s holds %d bytes, %v; want the %d written", name, len(got), err, len(last[w]))
				}
				if _, err := f.read(other, core.All); !errors.Is(err, errs.NotExist) {
					f.Errorf("%s is there: %v", other, err)
				}
			}
		})
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := range rounds {
			_, err := ufs.WriteFile(f.Context(), f.Store, "d/others", fmt.Appendf(nil, "%d others", i), ufs.CreateOptions{})
			f.must(err)
			f.write("d/others", "mine", core.CreateOptions{Size: 4, MakeParents: true, WriteType: core.AsyncThrough})
		}
	}()
	wg.Wait()
	f.persistErr("", core.PersistOptions{}) // d/others may have been refused
	stored := map[string]bool{}
	for i, err := range f.listing("", core.ListOptions{}) {
		f.must(err)
		if i.Name != "d/others" {
			stored[i.Name] = true
			f.wantState(i.Name, core.InStore)
			f.wantStored(i.Name, f.get(i.Name))
		}
	}
	for _, dir := range []string{"d/", "e/"} {
		for i, err := range f.Store.List(f.Context(), dir, "", false) {
			if err == nil && !i.Dir && i.Name != "d/others" && !stored[i.Name] {
				f.Errorf("%q came back in the store", i.Name)
			}
		}
	}
	f.remove("d/others")
	f.wantHeld(0)
}
