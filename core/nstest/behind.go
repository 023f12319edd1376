package nstest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// calls counts the store's calls until the returned function is called.
func (f *fixture) calls() (stop func() int) {
	n := make(chan int, 1)
	n <- 0
	f.tap.set(func(call) verdict { n <- <-n + 1; return verdict{} })
	return func() int { f.tap.set(nil); return <-n }
}

// wantSeen checks that every way to look at a file shows data.
func (f *fixture) wantSeen(name, data string) {
	f.Helper()
	if i := f.stat(name); i.Size != int64(len(data)) {
		f.Errorf("%q has %d bytes, want %d", name, i.Size, len(data))
	}
	f.wantData(name, data)
	dir, edge := f.path(name).Split()
	rel, _ := f.Base.Rel(dir)
	found := false
	for i, err := range f.listing(rel, core.ListOptions{Children: true}) {
		f.must(err)
		if i.Name == edge {
			found = true
			if i.Size != int64(len(data)) {
				f.Errorf("%q is listed with %d bytes, want %d", name, i.Size, len(data))
			}
		}
	}
	if !found {
		f.Errorf("%q is not listed", name)
	}
}

// wantUnseen is wantSeen for a name that is not there.
func (f *fixture) wantUnseen(name string) {
	f.Helper()
	f.wantGone(name)
	_, err := f.open(name, core.All)
	f.wantErr("open "+name, err, errs.NotExist)
	keys, err := f.names("", core.ListOptions{})
	if err != nil || slices.Contains(keys, name) {
		f.Errorf("%q is listed in %q, %v", name, keys, err)
	}
}

// settled holds where bytes written a moment ago are cached: a version that the store may yet change unseen is not.
func settled(f *fixture) bool { return f.Mounted && f.Store.Features().Racy == 0 }

var behindTests = []entry{
	{name: "a rename carries along what somebody else has put in the store", needs: mounted, with: synced(0), test: func(f *fixture) {
		f.put("d/e/a", "mine")
		f.put("b", "mine")
		f.storePut("d/e/a", "somebody else's")
		f.storePut("b", "somebody else's too")
		f.rename("d/", "x/")
		f.rename("b", "c")
		for i, err := range f.List(f.ctx(), f.path(""), core.ListOptions{}) {
			if want := map[string]int64{"x/e/a": 15, "c": 19}[i.Name]; err != nil || i.Size != want {
				f.Errorf("listed %s of %d bytes, %v, want %d", i.Name, i.Size, err, want)
			}
		}
		f.wantData("x/e/a", "somebody else's")
		f.wantData("c", "somebody else's too")
	}},
	{name: "what was in the store before is there", test: func(f *fixture) {
		f.storePut("a", "1")
		f.storePut("d/e/b", large)
		f.wantData("d/e/b", large)
		f.wantSeen("a", "1")
		f.wantChildren("d/", "e/")
		f.wantKeys("", "a", "d/e/b")
		i := f.stat("a")
		if i.ETag == "" || i.Version == "" || i.ID == 0 || f.stat("a").ETag != i.ETag {
			f.Errorf("got %+v", i)
		}
	}},
	{name: "interval 0: every change behind is seen at once", needs: mounted, with: synced(0), test: func(f *fixture) {
		f.wantUnseen("d/a")
		f.storePut("d/a", "one")
		f.wantSeen("d/a", "one")
		f.storePut("d/a", "two!")
		f.wantSeen("d/a", "two!")
		f.storeRemove("d/a")
		f.wantUnseen("d/a")
		f.storePut("d/a", "again")
		f.wantSeen("d/a", "again")
	}},
	{name: "interval 0: readers that begin together after a change", needs: mounted, with: synced(0), test: func(f *fixture) {
		f.put("a", "mine")
		for round := range 40 {
			data := fmt.Sprint("round ", round, strings.Repeat("x", round%7))
			if round%10 == 9 {
				f.storeRemove("a")
				data = ""
			} else {
				f.storePut("a", data)
			}
			var readers sync.WaitGroup
			for i := range 16 {
				readers.Go(func() {
					if i%2 == 0 {
						got, err := f.Stat(f.ctx(), f.path("a"))
						if data == "" && errs.KindOf(err) != errs.NotExist || data != "" && (err != nil || got.Size != int64(len(data))) {
							f.Errorf("round %d: %d bytes, %v, want %d", round, got.Size, err, len(data))
						}
						return
					}
					got, err := f.read("a", core.All)
					if data == "" && errs.KindOf(err) != errs.NotExist || data != "" && (err != nil || got != data) {
						f.Errorf("round %d: %q, %v, want %q", round, got, err, data)
					}
				})
			}
			readers.Wait()
			if data == "" {
				f.put("a", "mine again")
			}
		}
	}},
	{name: "interval 0: a file is gone behind while one below its name is written", needs: func(f *fixture) bool { return f.Mounted && flat(f) }, with: synced(0), test: func(f *fixture) {
		f.put("a", "mine")
		f.put("a/b", "below")
		begun, goOn, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
		var once sync.Once
		f.tap.set(func(c call) verdict {
			if c.op == "Commit" && strings.HasSuffix(c.name, "a/c") {
				once.Do(func() { close(begun) })
				<-goOn
			}
			return verdict{}
		})
		go func() {
			defer close(done)
			f.put("a/c", "slowly")
		}()
		<-begun
		f.storePut("a", "somebody else's")
		f.wantSeen("a", "somebody else's")
		f.storeRemove("a")
		keys, err := f.names("", core.ListOptions{}) // alone: who asks for the name learns it, too
		if err != nil || slices.Contains(keys, "a") {
			f.Errorf("listed %q, %v", keys, err)
		}
		f.wantUnseen("a")
		f.tap.set(nil)
		close(goOn)
		<-done
		f.wantSeen("a/c", "slowly")
	}},
	{name: "interval 0: changes of files written here", needs: mounted, with: synced(0), test: func(f *fixture) {
		old := f.put("d/a", "mine")
		f.chown("d/a", "ann", "staff")
		f.storePut("d/a", "theirs")
		f.wantSeen("d/a", "theirs")
		if i := f.stat("d/a"); i.ETag == old.ETag || i.Version == old.Version || i.Owner != "ann" || i.ID != old.ID {
			f.Errorf("got %+v after %+v", i, old)
		}
		f.put("d/a", "mine again")
		f.wantSeen("d/a", "mine again")
		f.storeRemove("d/a")
		f.wantUnseen("d/a")
		f.put("d/a", "back")
		f.wantSeen("d/a", "back")
		f.wantStored("d/a", "back")
	}},
	{name: "interval 0: a listing alone sees changes of files written here", needs: mounted, with: synced(0), test: func(f *fixture) {
		f.put("d/a", "mine")
		f.put("d/b", "mine")
		f.storePut("d/a", "theirs!")
		f.storeRemove("d/b")
		f.storePut("d/c", "new")
		f.wantChildren("d/", "a", "c")
		f.wantKeys("", "d/a", "d/c")
		for i, err := range f.listing("d/", core.ListOptions{}) {
			f.must(err)
			if i.Name == "a" && (i.Size != 7 || i.ETag == etag("mine")) {
				f.Errorf("got %+v", i)
			}
		}
	}},
	{name: "interval 0: directories made and removed behind", needs: func(f *fixture) bool { return f.Mounted && dirs(f) }, with: synced(0), test: func(f *fixture) {
		f.put("d/e/a", "x")
		_, err := ufs.Mkdir(f.Context(), f.Store, "n/m/", ufs.Attr{})
		f.must(err)
		f.wantChildren("", "d/", "n/")
		f.wantChildren("n/m/")
		f.must(ufs.RemoveTree(f.Context(), f.Store, "d/"))
		f.wantGone("d/")
		f.wantUnseen("d/e/a")
		f.wantChildren("", "n/")
		f.put("d/e/b", "x")
		f.wantKeys("", "d/e/b", "n/m/")
	}},
	{name: "interval 0: a file becomes a directory, and back", needs: func(f *fixture) bool { return f.Mounted && dirs(f) }, with: synced(0), test: func(f *fixture) {
		f.put("x", "file")
		f.storeRemove("x")
		f.storePut("x/a", "below")
		f.wantChildren("", "x/")
		f.wantSeen("x/a", "below")
		f.wantGone("x")
		f.put("x/b", "more")
		f.must(ufs.RemoveTree(f.Context(), f.Store, "x/"))
		f.storePut("x", "file again")
		f.wantSeen("x", "file again")
		f.wantGone("x/b")
		f.wantChildren("", "x")
	}},
	{name: "an interval: answers are kept for its length, and no longer if a request says so", needs: mounted, with: synced(time.Hour), test: func(f *fixture) {
		f.storePut("d/a", "one")
		f.wantSeen("d/a", "one")
		f.wantUnseen("d/b")
		f.wantKeys("", "d/a")
		f.storePut("d/a", "two!")
		f.storePut("d/b", "new")
		stop := f.calls()
		if i := f.stat("d/a"); i.Size != 3 {
			f.Errorf("got %+v", i)
		}
		f.wantGone("d/b")
		f.wantKeys("", "d/a")
		f.wantChildren("d/", "a")
		if n := stop(); n > 0 {
			f.Errorf("the store was asked %d times within the interval", n)
		}
		f.fresh(0).wantSeen("d/a", "two!")
		f.fresh(0).wantSeen("d/b", "new")
		f.wantSeen("d/a", "two!")
		f.wantKeys("", "d/a", "d/b")
	}},
	{name: "a short interval: changes are seen when it has passed", needs: mounted, with: synced(50 * time.Millisecond), test: func(f *fixture) {
		f.put("d/a", "one")
		f.wantSeen("d/a", "one")
		f.storePut("d/a", "two!")
		deadline := time.Now().Add(5 * time.Second)
		for f.stat("d/a").Size == 3 {
			if time.Now().After(deadline) {
				f.Fatal("the change is not seen")
			}
		}
		f.wantData("d/a", "two!")
	}},
	{name: "interval -1: what is known is never asked again, unless a request says so", needs: settled, with: synced(-1), test: func(f *fixture) {
		f.storePut("a", "one")
		f.wantSeen("a", "one")
		f.storePut("a", "two!")
		f.storePut("b", "new")
		f.wantSeen("a", "one")
		f.wantGone("b")
		f.fresh(0).wantSeen("a", "two!")
		f.fresh(0).wantSeen("b", "new")
		f.wantSeen("b", "new")
	}},
	{name: "a request may accept any age", needs: settled, with: synced(0), test: func(f *fixture) {
		f.storePut("a", "one")
		f.wantSeen("a", "one")
		stop := f.calls()
		f.fresh(-1).wantSeen("a", "one")
		f.fresh(3600).wantSeen("a", "one")
		if n := stop(); n > 0 {
			f.Errorf("the store was asked %d times", n)
		}
	}},
	{name: "only-if-cached asks no store", needs: mounted, with: synced(-1), test: func(f *fixture) {
		f.storePut("a", "one")
		g := f.fresh(-1)
		g.age.OnlyIfCached = true
		stop := f.calls()
		f.wantErr("stat", g.statErr("a"), errs.Unavailable)
		_, err := g.names("", core.ListOptions{})
		f.wantErr("list", err, errs.Unavailable)
		if n := stop(); n > 0 {
			f.Errorf("the store was asked %d times", n)
		}
		f.wantSeen("a", "one")
		g.wantSeen("a", "one")
	}},
	{name: "Cache says how an answer was come by", needs: mounted, with: synced(time.Hour), test: func(f *fixture) {
		f.storePut("a", "one")
		want := func(g *fixture, what string, status core.CacheStatus) {
			f.Helper()
			if i := g.stat("a"); i.Cache != status {
				f.Errorf("%s: got %s, want %s", what, i.Cache, status)
			}
		}
		want(f, "first", core.Miss)
		want(f, "again", core.Hit)
		want(f.fresh(0), "asked again", core.Revalidated)
		if i := f.stat("a"); i.Age < 0 || i.Age > time.Minute {
			f.Errorf("got age %v", i.Age)
		}
	}},
	{name: "a reader of a version replaced behind never mixes", needs: mounted, with: func(o *Options) { synced(0)(o); noCache(o) }, test: func(f *fixture) {
		f.storePut("d/a", large)
		readerLostOf(f, "d/a", func() { f.storePut("d/a", pattern(9, len(large))) })
		f.wantData("d/a", pattern(9, len(large)))
	}},
	{name: "a version that has left the store is not stuck to, at any interval", needs: mounted, with: func(o *Options) { synced(-1)(o); noCache(o) }, test: func(f *fixture) {
		f.storePut("a", "one")
		f.put("b", "one")
		for _, name := range []string{"a", "b"} {
			f.stat(name)
			f.storePut(name, "two!")
			if got, err := f.read(name, core.All); err == nil && got != "two!" || err != nil && !errors.Is(err, errs.Conflict) {
				f.Errorf("%s: got %q, %v", name, got, err)
			}
			f.wantData(name, "two!")
			f.storePut(name, "three")
			f.append(name, "!")
			f.wantData(name, "three!")
		}
	}},
	{name: "changes here and there of one directory", needs: mounted, with: synced(0), test: func(f *fixture) {
		f.storePut("d/s", "1")
		f.put("d/t", "2")
		f.must(f.renameErr("d/s", "d/u", false))
		f.storePut("d/s", "3")
		f.wantSeen("d/s", "3")
		f.wantSeen("d/u", "1")
		f.storeRemove("d/t")
		f.rename("d/", "e/")
		f.wantKeys("", "e/s", "e/u")
		f.storePut("d/t", "4")
		f.wantKeys("", "d/t", "e/s", "e/u")
	}},
}
