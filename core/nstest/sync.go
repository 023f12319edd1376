package nstest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// core.Syncer: what others have done to the stores, taken over when it is asked for.

func (f *fixture) syncer() core.Syncer {
	x, _ := f.Tree.(core.Syncer)
	return x
}

func syncs(f *fixture) bool { return f.Mounted && f.syncer() != nil }

func syncsHeld(f *fixture) bool { return syncs(f) && holding(f) }

// watched is what a sync told.
type watchedSync struct {
	mu       sync.Mutex
	compared int64
	answers  int64
	found    []string
	failed   []string
	resumed  time.Time
	after    func() // called once, with the first answer
	failure  func() // called with each failure, if not nil
}

func (w *watchedSync) Compared(names, answers int64) {
	w.mu.Lock()
	after := w.after
	w.compared, w.answers, w.after = w.compared+names, w.answers+answers, nil
	w.mu.Unlock()
	if after != nil {
		after()
	}
}

func (w *watchedSync) Differs(c core.SyncChange, p core.Path) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found = append(w.found, string(c)+" "+p.String())
}

func (w *watchedSync) Failed(p core.Path, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = append(w.failed, fmt.Sprint(p, ": ", err))
	if w.failure != nil {
		w.failure()
	}
}

func (w *watchedSync) Resumed(began time.Time) { w.resumed = began }

// sync syncs the name and returns what that told, by names relative to Base.
func (f *fixture) sync(name string, o core.SyncOptions) *watchedSync {
	f.Helper()
	w := &watchedSync{}
	if err := f.syncer().Sync(f.ctx(), f.path(name), o, w); err != nil {
		f.Fatalf("sync %q: %v", name, err)
	}
	for i := range w.found {
		w.found[i] = strings.Replace(w.found[i], f.Base.String(), "", 1)
	}
	slices.Sort(w.found)
	return w
}

// wantSync syncs the name and checks what was found, directories left out.
func (f *fixture) wantSync(name string, o core.SyncOptions, want ...string) *watchedSync {
	f.Helper()
	w := f.sync(name, o)
	got := slices.DeleteFunc(slices.Clone(w.found), func(s string) bool { return strings.HasSuffix(s, "/") || strings.HasSuffix(s, " ") })
	slices.Sort(want)
	if !slices.Equal(got, want) || len(w.failed) > 0 {
		f.Errorf("sync of %q found %q, failed %q, want %q", name, got, w.failed, want)
	}
	return w
}

var deep = core.SyncOptions{Recursive: true}

// changeBehind changes the store as others do: it adds, overwrites with a file of the same size, removes, and moves a directory.
// It returns what a sync is to find.
func (f *fixture) changeBehind() []string {
	f.storePut("d/new", "new")
	f.storePut("d/a", "A")
	f.storeRemove("d/b")
	for _, name := range []string{"x", "y"} {
		f.storePut("moved/e/"+name, "of e "+name)
		f.storeRemove("d/e/" + name)
	}
	if f.Store.Features().Dirs {
		f.storeRemove("d/e/")
	}
	return []string{"added d/new", "changed d/a", "removed d/b", "removed d/e/x", "removed d/e/y", "added moved/e/x", "added moved/e/y"}
}

var before = map[string]string{"d/a": "a", "d/b": "b", "d/e/x": "of e x", "d/e/y": "of e y", "same/f": "same"}
var after = map[string]string{"d/a": "A", "d/new": "new", "moved/e/x": "of e x", "moved/e/y": "of e y", "same/f": "same"}

// wantTree checks every file, by content, and that there is no other.
func (f *fixture) wantTree(want map[string]string) {
	f.Helper()
	names, err := f.names("", core.ListOptions{})
	f.must(err)
	names = slices.DeleteFunc(names, func(s string) bool { return strings.HasSuffix(s, "/") })
	for name, data := range want {
		if !slices.Contains(names, name) {
			f.Errorf("%q is not listed", name)
		}
		f.wantData(name, data)
	}
	if len(names) != len(want) {
		f.Errorf("listed %q", names)
	}
}

// wantOld checks that the files are those there were before: by content too, unless their versions were too young to be cached.
func (f *fixture) wantOld() {
	f.Helper()
	if settled(f) {
		f.wantTree(before)
		return
	}
	names, err := f.names("", core.ListOptions{})
	names = slices.DeleteFunc(names, func(s string) bool { return strings.HasSuffix(s, "/") })
	if want := slices.Sorted(maps.Keys(before)); err != nil || !slices.Equal(names, want) {
		f.Errorf("listed %q, %v, want %q", names, err, want)
	}
}

// known puts the files there before into the store or, through, by the namespace, and looks at all of them.
func (f *fixture) known(through bool) {
	f.Helper()
	for name, data := range before {
		if through {
			f.put(name, data)
		} else {
			f.storePut(name, data)
		}
	}
	f.wantTree(before)
	for _, dir := range []string{"", "d/", "d/e/", "same/"} {
		_, err := f.names(dir, core.ListOptions{Children: true})
		f.must(err)
	}
}

// countFiles counts how often a sync has told of each file.
func countFiles(found []string) map[string]int {
	all := map[string]int{}
	for _, s := range found {
		if name := s[strings.LastIndexByte(s, '/')+1:]; name != "" {
			all[name]++
		}
	}
	return all
}

var syncTests = []entry{
	{name: "interval -1: nothing is seen before the sync, and all after", needs: syncs, with: synced(-1), test: func(f *fixture) {
		f.known(false)
		found := f.changeBehind()
		f.wantOld()
		w := f.wantSync("", deep, found...)
		f.wantTree(after)
		if w.compared == 0 || w.answers == 0 {
			f.Errorf("compared %d names in %d answers", w.compared, w.answers)
		}
		f.wantSync("", deep)
	}},
	{name: "interval -1: nothing is seen of files written through the namespace before the sync, and all after", needs: syncs, with: synced(-1), test: func(f *fixture) {
		f.known(true)
		found := f.changeBehind()
		f.wantSync("", deep, found...)
		f.wantTree(after)
		f.wantSync("", deep)
	}},
	{name: "a dry run finds the same and changes nothing", needs: syncs, with: synced(-1), test: func(f *fixture) {
		for _, through := range []bool{false, true} {
			g := f.another(f.T, synced(-1))
			g.known(through)
			found := g.changeBehind()
			g.wantSync("", core.SyncOptions{Recursive: true, DryRun: true}, found...)
			g.wantOld()
			g.wantSync("", deep, found...)
		}
	}},
	{name: "interval -1: all is seen after an invalidate, without a store having been asked by it", needs: syncs, with: synced(-1), test: func(f *fixture) {
		for _, through := range []bool{false, true} {
			g := f.another(f.T, synced(-1))
			g.known(through)
			g.changeBehind()
			if !through {
				g.wantOld()
			}
			n := g.calls()
			g.must(g.syncer().Invalidate(g.ctx(), g.path("d"), g.path("moved")))
			if n := n(); n != 0 {
				g.Errorf("invalidating cost %d calls of a store", n)
			}
			g.wantGone("d/b")
			g.wantData("d/a", "A")
			g.must(g.syncer().Invalidate(g.ctx(), g.path("")))
			g.wantTree(after)
			n = g.calls()
			g.wantTree(after)
			if n := n(); n != 0 && settled(g) {
				g.Errorf("what was invalidated was asked for again: %d calls", n)
			}
		}
	}},
	{name: "what was invalidated is so after a restart", needs: syncs, with: synced(-1), test: func(f *fixture) {
		f.put("a", "1")
		f.wantData("a", "1")
		f.storePut("a", "2")
		f.must(f.syncer().Invalidate(f.ctx(), f.path("a")))
		f.restart()
		f.wantData("a", "2")
		f.storePut("a", "3")
		f.sync("", deep) // all was compared: nothing is invalid any more
		f.storePut("a", "4")
		f.restart()
		if n := f.stat("a").Size; n != 1 {
			f.Errorf("%d bytes", n)
		}
	}},
	{name: "more is invalidated than is remembered", needs: syncs, with: synced(-1), test: func(f *fixture) {
		f.storePut("a/b", "1")
		f.wantData("a/b", "1")
		f.storePut("a/b", "2")
		var all []core.Path
		for i := range core.MaxInvalidated {
			all = append(all, f.path(fmt.Sprintf("a/%s%d", strings.Repeat("n", 100), i)))
		}
		f.must(f.syncer().Invalidate(f.ctx(), all...))
		f.wantData("a/b", "2") // the directory was, instead
		f.wantErr("too many", f.syncer().Invalidate(f.ctx(), append(all, f.Base)...), errs.Invalid)
		f.wantErr("none", f.syncer().Invalidate(f.ctx()), errs.Invalid)
	}},
	{name: "a name that was invalidated is so in the listing of its directory", needs: syncs, with: synced(-1), test: func(f *fixture) {
		f.known(false)
		f.storePut("d/new", "new")
		f.storeRemove("d/b")
		f.storePut("same/new", "new")
		f.must(f.syncer().Invalidate(f.ctx(), f.path("d/new"), f.path("d/b")))
		f.wantChildren("d/", "a", "e/", "new")
		f.wantChildren("same/", "f")
		n := f.calls()
		f.wantChildren("d/", "a", "e/", "new")
		if n := n(); n != 0 && settled(f) {
			f.Errorf("what was invalidated was asked for again: %d calls", n)
		}
	}},
	{name: "who lists part after part has the next one asked for ahead, and each of them once", needs: func(f *fixture) bool { return syncs(f) && flat(f) }, with: synced(-1), test: func(f *fixture) {
		const n = 4500
		for i := range n {
			f.storePut(fmt.Sprintf("d%d/%04d", i/100, i), "1")
		}
		var lists atomic.Int64
		f.tap.set(func(c call) verdict {
			if c.op == "List" {
				lists.Add(1)
			}
			return verdict{}
		})
		await := func(want int64) {
			f.Helper()
			for deadline := time.Now().Add(10 * time.Second); lists.Load() != want; <-time.After(time.Millisecond) {
				if time.Now().After(deadline) {
					f.Fatalf("%d listings, want %d", lists.Load(), want)
				}
			}
		}
		var all []string
		for page := int64(1); ; page++ {
			last := ""
			if len(all) > 0 {
				last = all[len(all)-1]
			}
			some, err := f.names("", core.ListOptions{After: last, Limit: 1001})
			f.must(err)
			if all = append(all, some[:min(len(some), 1000)]...); len(some) <= 1000 {
				break
			}
			await(min(page+2, 5))
		}
		if !slices.IsSorted(all) || len(all) != n {
			f.Errorf("%d names are listed", len(all))
		}
		again, err := f.names("", core.ListOptions{})
		if err != nil || len(again) != n {
			f.Errorf("%d names are listed again, %v", len(again), err)
		}
		await(5)
		f.tap.set(nil)
	}},
	{name: "nothing is asked for ahead that is too old once somebody comes to it", needs: func(f *fixture) bool { return syncs(f) && flat(f) }, with: synced(-1), test: func(f *fixture) {
		const n = 4500
		for i := range n {
			f.storePut(fmt.Sprintf("%04d", i), "1")
		}
		var lists atomic.Int64
		f.tap.set(func(c call) verdict {
			if c.op == "List" {
				lists.Add(1)
			}
			return verdict{}
		})
		for _, after := range []string{"0099", "1099", "2099"} {
			_, err := f.fresh(0).names("", core.ListOptions{After: after, Limit: 1000})
			f.must(err)
		}
		<-time.After(50 * time.Millisecond) // what is asked for in vain is on its way
		if got := lists.Load(); got != 3 {
			f.Errorf("three pages made %d listings", got)
		}
		lists.Store(0)
		f.loads(core.LoadAlways)
		for _, after := range []string{"0199", "1199", "2199"} {
			_, err := f.names("", core.ListOptions{After: after, Limit: 1000})
			f.must(err)
		}
		<-time.After(50 * time.Millisecond)
		if got := lists.Load(); got != 3 {
			f.Errorf("ALWAYS: three pages made %d listings", got)
		}
		f.tap.set(nil)
	}},
	{name: "what a listing left alone because of a change under way is listed as it is once that is over", needs: syncs, with: synced(-1), test: func(f *fixture) {
		for _, name := range []string{"d/a", "d/b", "d/c"} {
			f.put(name, "1")
		}
		f.storePut("d/b", "22")
		f.storeRemove("d/c")
		f.must(f.syncer().Invalidate(f.ctx(), f.path("d")))
		f.wantErr("remove", f.removeErr("d/", core.RemoveOptions{}), errs.NotEmpty) // it lists what it holds, and compares d/a alone
		f.wantChildren("d/", "a", "b")
		for i, err := range f.listing("d/", core.ListOptions{}) {
			if want := map[string]int64{"a": 1, "b": 2}[i.Name]; err != nil || i.Size != want {
				f.Errorf("listed %s of %d bytes, %v, want %d", i.Name, i.Size, err, want)
			}
		}
		n := f.calls()
		f.wantChildren("d/", "a", "b")
		if n := n(); n != 0 {
			f.Errorf("what is known was asked for again: %d calls", n)
		}
	}},
	{name: "what is too long to be kept as a directory is refused, and keeps none from starting", needs: syncs, with: synced(-1), test: func(f *fixture) {
		for _, more := range []int{0, 1} {
			name := f.Base.Dir().String()
			p, err := core.ParsePath(name + strings.Repeat("a", core.MaxPath-len(name)-1+more))
			f.must(err)
			if err := f.syncer().Invalidate(f.ctx(), p); (err != nil) != (more > 0) || err != nil && errs.KindOf(err) != errs.Invalid {
				f.Errorf("invalidating a name of %d bytes: %v", len(p.String()), err)
			}
			f.restart()
		}
	}},
	{name: "of a directory only the names in it, of a file the file", needs: syncs, with: synced(-1), test: func(f *fixture) {
		f.known(false)
		f.changeBehind()
		f.wantSync("d/a", core.SyncOptions{}, "changed d/a")
		f.wantData("d/a", "A")
		f.stat("d/b")
		f.wantSync("~d", core.SyncOptions{}, "added d/new", "removed d/b", "removed d/e/x", "removed d/e/y")
		f.wantGone("moved/e/x")
		f.wantSync("moved/e/x", core.SyncOptions{}, "added moved/e/x")
		f.wantData("moved/e/x", "of e x")
	}},
	{name: "a name that is not there, one that is gone, and one in a directory nobody knew", needs: syncs, with: synced(-1), test: func(f *fixture) {
		err := f.syncer().Sync(f.ctx(), f.path("~none"), core.SyncOptions{}, &watchedSync{})
		f.wantErr("of nothing", err, errs.NotExist)
		f.storePut("a", "1")
		f.wantData("a", "1")
		f.storeRemove("a")
		f.stat("a")
		f.wantSync("~a", core.SyncOptions{}, "removed a")
		f.wantGone("a")
		f.wantGone("n/e/w")
		f.wantChildren("")
		f.storePut("n/e/w", "1")
		f.wantGone("n/e/w")
		f.wantSync("~n/e/w", core.SyncOptions{}, "added n/e/w")
		f.wantData("n/e/w", "1")
	}},
	{name: "a second sync of an unchanged tree makes the listings and nothing else", needs: syncs, with: synced(-1), test: func(f *fixture) {
		f.known(true)
		f.sync("", deep)
		lists, others := 0, 0
		var mu sync.Mutex
		f.tap.set(func(c call) verdict {
			mu.Lock()
			defer mu.Unlock()
			if c.op == "List" {
				lists++
			} else {
				others++
			}
			return verdict{}
		})
		f.wantSync("", deep)
		f.tap.set(nil)
		if most := 1; flat(f) && lists > most || dirs(f) && lists > 4 || others != 0 {
			f.Errorf("%d listings, %d other calls", lists, others)
		}
	}},
	{name: "a directory that cannot be listed keeps what was known, and the others are compared", needs: func(f *fixture) bool { return syncs(f) && dirs(f) }, with: synced(-1), test: func(f *fixture) {
		f.known(false)
		f.changeBehind()
		f.tap.set(func(c call) verdict {
			if c.op == "List" && c.name == "d/" {
				return verdict{before: errs.New("test", "", errs.Permission, "not you")}
			}
			return verdict{}
		})
		w := f.sync("", deep)
		f.tap.set(nil)
		if len(w.failed) != 1 || !strings.Contains(w.failed[0], "d/: ") {
			f.Errorf("failed %q", w.failed)
		}
		f.stat("d/b")
		f.wantData("moved/e/x", "of e x")
	}},
	{name: "a file that cannot be asked about is listed again, and keeps none from being compared", needs: syncs, with: synced(-1), test: func(f *fixture) {
		for _, whole := range []bool{false, true} {
			g := f.another(f.T, synced(-1))
			for name, data := range before {
				g.put(name, data)
			}
			g.storePut("d/a", "longer")
			g.storePut("d/b", "longer")
			g.storePut("d/new", "1")
			g.tap.set(func(c call) verdict {
				if c.op == "Stat" && c.name == "d/a" {
					return verdict{before: errs.New("test", "", errs.Unavailable, "slow down")}
				}
				return verdict{}
			})
			if whole {
				w := g.sync("", deep)
				if len(w.failed) != 1 || !strings.Contains(w.failed[0], "d/a: ") || !slices.Contains(w.found, "changed d/b") || !slices.Contains(w.found, "added d/new") {
					g.Errorf("failed %q, found %q", w.failed, w.found)
				}
			} else {
				g.must(g.syncer().Invalidate(g.ctx(), g.path("d")))
				_, err := g.names("d/", core.ListOptions{Children: true})
				g.wantErr("a listing", err, errs.Unavailable)
			}
			g.tap.set(nil)
			g.wantChildren("d/", "a", "b", "e/", "new")
			for _, name := range []string{"d/a", "d/b"} {
				if i := g.fresh(-1).stat(name); i.Size != int64(len("longer")) {
					g.Errorf("%s has %d bytes", name, i.Size)
				}
			}
			n := g.calls()
			g.wantChildren("d/", "a", "b", "e/", "new")
			if n := n(); n != 0 {
				g.Errorf("what is known was asked for again: %d calls", n)
			}
		}
	}},
	{name: "a store that stops answering is not asked for every directory", needs: func(f *fixture) bool { return syncs(f) && dirs(f) }, with: synced(-1), test: func(f *fixture) {
		for i := range 40 {
			f.storePut(fmt.Sprintf("d%02d/a", i), "1")
		}
		lists := 0
		var mu sync.Mutex
		f.tap.set(func(c call) verdict {
			mu.Lock()
			defer mu.Unlock()
			if c.op == "List" {
				lists++
			}
			if c.op == "List" && lists > 1 {
				return verdict{before: errs.New("test", "", errs.Unavailable, "gone")}
			}
			return verdict{}
		})
		w := f.sync("", deep)
		f.tap.set(nil)
		if len(w.failed) != 40 || lists > 8*5+1 { // what was asked at once, to the last try, and the root each time
			f.Errorf("%d failed, after %d listings", len(w.failed), lists)
		}
	}},
	{name: "a listing that breaks off changes nothing it did not see", needs: syncs, with: synced(-1), test: func(f *fixture) {
		f.known(true)
		f.changeBehind()
		f.tap.set(func(c call) verdict {
			if c.op == "List" {
				return verdict{before: errs.New("test", "", errs.Permission, "broken off")}
			}
			return verdict{}
		})
		w := f.sync("", deep)
		f.tap.set(nil)
		if len(w.failed) == 0 || len(w.found) != 0 {
			f.Errorf("failed %q, found %q", w.failed, w.found)
		}
		f.wantOld()
	}},
	{name: "a store that lost everything for a moment loses no name", needs: func(f *fixture) bool { return syncs(f) && flat(f) }, with: synced(0), test: func(f *fixture) {
		f.storePut("d/a", "1")
		f.storePut("b", "2")
		for _, dir := range []string{"", "d/"} {
			_, err := f.names(dir, core.ListOptions{Children: true})
			f.must(err)
		}
		for _, o := range []core.SyncOptions{deep, {}} {
			lists := 0
			var mu sync.Mutex
			f.tap.set(func(c call) verdict {
				mu.Lock()
				defer mu.Unlock()
				if lists++; c.op == "List" && lists == 1 {
					return verdict{after: errShowsNothing}
				}
				return verdict{}
			})
			w := f.sync("", o)
			f.tap.set(nil)
			if len(w.found) != 0 || lists < 3 {
				f.Errorf("%+v: found %q after %d listings", o, w.found, lists)
			}
		}
		f.tap.set(func(c call) verdict {
			if c.op == "List" {
				return verdict{after: errShowsNothing}
			}
			return verdict{}
		})
		f.wantChildren("") // the second listing, and that of the root, said so too
		f.tap.set(nil)
		f.wantChildren("", "b", "d/")
	}},
	{name: "a store that loses everything between two parts of a listing loses no name", needs: func(f *fixture) bool { return syncs(f) && flat(f) }, with: synced(-1), test: func(f *fixture) {
		for i := range 1500 {
			f.storePut(fmt.Sprintf("d/%04d", i), "1")
		}
		f.sync("", deep)
		lists := 0
		var mu sync.Mutex
		f.tap.set(func(c call) verdict {
			mu.Lock()
			defer mu.Unlock()
			if c.op == "List" {
				lists++
			}
			if c.op == "List" && lists == 2 {
				return verdict{after: errShowsNothing}
			}
			return verdict{}
		})
		f.wantSync("", deep)
		f.tap.set(nil)
		if lists < 4 {
			f.Errorf("%d listings", lists)
		}
	}},
	{name: "what a change through the namespace makes while it is compared stays", needs: syncs, with: synced(-1), test: func(f *fixture) {
		f.storePut("d/a", "1")
		f.wantChildren("d/", "a")
		listed, goOn := f.hold("List", "d/")
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = f.syncer().Sync(f.ctx(), f.path("d/"), core.SyncOptions{}, &watchedSync{})
		}()
		<-listed
		written := make(chan struct{})
		go func() { defer close(written); f.put("d/b", "2"); f.remove("d/a") }()
		<-written
		goOn()
		<-done
		f.wantChildren("d/", "b")
		f.wantData("d/b", "2")
	}},
	{name: "what no store has yet stays what it is", needs: syncsHeld, with: func(o *Options) { held(o); never := time.Duration(-1); o.Sync = &never }, test: func(f *fixture) {
		f.rule("d/", core.Policies{WriteType: core.MustCache, Replicas: 1})
		f.put("d/a", "mine")
		f.must(f.syncer().Invalidate(f.ctx(), f.path("")))
		f.wantSync("", deep)
		f.wantData("d/a", "mine")
		f.wantState("d/a", core.OnlyHeld)
	}},
	{name: "a mount below is compared too", needs: func(f *fixture) bool { return syncs(f) && f.Spare != nil }, with: synced(-1), test: func(f *fixture) {
		uri, spare := f.Spare(f.T)
		never := time.Duration(-1)
		f.must(f.mount(core.MountSpec{Path: f.path("in/m"), URI: uri, SyncInterval: &never}))
		f.wantChildren("in/m/")
		_, err := ufs.WriteFile(f.Context(), spare, "x", []byte("1"), ufs.CreateOptions{})
		f.must(err)
		f.wantGone("in/m/x")
		f.wantSync("in/m/", core.SyncOptions{Recursive: true, DryRun: true}, "added in/m/x")
		f.wantSync("", deep, "added in/m/x")
		f.wantData("in/m/x", "1")
	}},
	{name: "many names, in parts, are compared once each", needs: syncs, with: synced(-1), test: func(f *fixture) {
		const n = 2500
		for i := range n {
			f.storePut(fmt.Sprintf("d%d/%04d", i%3, i), "1")
		}
		if w := f.sync("", deep); len(w.found) < n || int(w.compared) < n {
			f.Errorf("found %d, compared %d", len(w.found), w.compared)
		}
		for i := 0; i < n; i += 2 {
			f.storeRemove(fmt.Sprintf("d%d/%04d", i%3, i))
		}
		count := 0
		for _, s := range f.sync("", deep).found {
			if strings.HasPrefix(s, "removed d") && !strings.HasSuffix(s, "/") {
				count++
			}
		}
		names, err := f.names("", core.ListOptions{})
		names = slices.DeleteFunc(names, func(s string) bool { return strings.HasSuffix(s, "/") })
		if err != nil || count != n/2 || len(names) != n/2 {
			f.Errorf("found %d gone, %d are left, %v", count, len(names), err)
		}
	}},
	{name: "a rule says how old facts may be, of the longest path, before the mount and after the request", needs: func(f *fixture) bool { return syncs(f) && ruled(f) }, with: synced(-1), test: func(f *fixture) {
		never, now := time.Duration(-1), time.Duration(0)
		f.rule("d/", core.Policies{SyncInterval: &now})
		f.rule("d/e/", core.Policies{SyncInterval: &never})
		f.rule("f", core.Policies{SyncInterval: &now})
		names := []string{"a", "d/a", "d/e/a", "dd/a", "f"}
		for _, through := range []bool{false, true} {
			for _, name := range names {
				if through {
					f.put(name, "1")
				} else {
					f.storePut(name, "1")
				}
			}
			for _, dir := range []string{"", "d/", "d/e/", "dd/"} {
				_, err := f.names(dir, core.ListOptions{Children: true})
				f.must(err)
			}
			for _, name := range names {
				f.stat(name)
				f.storePut(name, "22")
				f.storePut(name+"new", "1")
			}
			for name, seen := range map[string]bool{"a": false, "d/a": true, "d/e/a": false, "dd/a": false, "f": true} {
				if now := f.stat(name).Size == 2; now != seen {
					f.Errorf("%q (through: %v): the change was seen: %v", name, through, now)
				}
				if x := f.explain(name); (x.Interval == 0) != seen || x.Asks != seen {
					f.Errorf("%q is said to be %v old at most, and an access %q", name, x.Interval, x.Access)
				}
			}
			listed, err := f.names("", core.ListOptions{})
			f.must(err)
			for name, seen := range map[string]bool{"d/anew": true, "d/e/anew": false, "dd/anew": false} {
				if now := slices.Contains(listed, name); now != seen && !through && (seen || dirs(f)) { // a flat listing tells more than was asked
					f.Errorf("%q is listed: %v", name, now)
				}
			}
			if f.fresh(0).stat("a").Size != 2 {
				f.Error("a request that wants no old facts got one")
			}
		}
		for _, p := range f.explain("d/e/a").Policies {
			if p.Setting == core.SetSyncInterval && (p.Origin != core.FromRule || p.Path.Dir() != f.path("d/e/") || *p.Value.SyncInterval >= 0) {
				f.Errorf("got %+v", p)
			}
		}
		f.restart()
		if x := f.explain("d/x"); x.Interval != 0 {
			f.Errorf("after a restart the interval is %v", x.Interval)
		}
		f.must(f.rules().RemovePathRule(f.ctx(), f.path("d/"), core.SetSyncInterval))
		if x := f.explain("d/x"); x.Interval != never {
			f.Errorf("without the rule the interval is %v", x.Interval)
		}
	}},
	{name: "a sync that was cancelled goes on from there, unless a mount has changed", needs: syncs, with: synced(-1), test: func(f *fixture) {
		const n = 3500
		for i := range n {
			f.storePut(fmt.Sprintf("d%02d/%04d", i/200, i), "1")
		}
		var lists atomic.Int64
		f.tap.set(func(c call) verdict {
			if c.op == "List" {
				lists.Add(1)
			}
			return verdict{}
		})
		cut := func() map[string]int {
			f.Helper()
			ctx, cancel := context.WithCancel(f.ctx())
			defer cancel()
			w := &watchedSync{after: cancel}
			if err := f.syncer().Sync(ctx, f.path(""), deep, w); err == nil || w.answers != 1 {
				f.Fatalf("cancelled after %d answers: %v", w.answers, err)
			}
			lists.Store(0)
			return countFiles(w.found)
		}
		found := cut()
		resume := core.SyncOptions{Recursive: true, Resume: true}
		for name, k := range countFiles(f.sync("", resume).found) {
			found[name] += k
		}
		left := int64(3) // parts
		if dirs(f) {
			left = 18 // directories, but not the one they are in
		}
		if lists.Load() != left || len(found) != n {
			f.Errorf("the second sync made %d listings, want %d; %d files were found", lists.Load(), left, len(found))
		}
		for name, k := range found {
			if k != 1 {
				f.Errorf("%s was found %d times", name, k)
			}
		}
		lists.Store(0)
		f.wantSync("", resume)
		if all := lists.Load(); all != left+1 {
			f.Errorf("where nothing was cut off it made %d listings, want %d", all, left+1)
		}
		cut()
		never := time.Duration(-1)
		if f.Spare != nil {
			uri, _ := f.Spare(f.T)
			f.must(f.mount(core.MountSpec{Path: f.path("in/m"), URI: uri, SyncInterval: &never}))
			lists.Store(0)
			f.sync("", resume)
			if all := lists.Load(); all <= left {
				f.Errorf("with another mount it made %d listings", all)
			}
		}
		f.tap.set(nil)
		err := f.syncer().Sync(f.ctx(), f.path(""), core.SyncOptions{Resume: true, DryRun: true}, &watchedSync{})
		f.wantErr("a dry run that resumes", err, errs.Invalid)
	}},
	{name: "a sync that goes on does again what the one that was cancelled had failed at", needs: func(f *fixture) bool { return syncs(f) && dirs(f) }, with: synced(-1), test: func(f *fixture) {
		const n = 10
		for i := range n {
			f.storePut(fmt.Sprintf("d%02d/f%02d", i, i), "1")
		}
		ctx, cancel := context.WithCancel(f.ctx())
		defer cancel()
		var lists atomic.Int64
		f.tap.set(func(c call) verdict {
			if c.op != "List" || c.name == "" {
				return verdict{}
			}
			if lists.Add(1) == 1 {
				return verdict{before: errs.E("test", c.name, errs.Permission, nil)}
			}
			<-ctx.Done()
			return verdict{before: context.Canceled}
		})
		began, w := time.Now(), &watchedSync{failure: cancel}
		if err := f.syncer().Sync(ctx, f.path(""), deep, w); err == nil || len(w.failed) != 1 {
			f.Fatalf("%v, failed %q", err, w.failed)
		}
		f.must(f.syncer().Sync(f.ctx(), f.path(""), core.SyncOptions{Gentle: true}, &watchedSync{})) // it is another's
		f.tap.set(nil)
		again := f.sync("", core.SyncOptions{Recursive: true, Resume: true})
		if all := countFiles(again.found); len(all) != n || len(again.failed) != 0 {
			f.Errorf("%d of %d files were found, failed %q", len(all), n, again.failed)
		}
		if again.resumed.Before(began) || again.resumed.After(time.Now()) || !w.resumed.IsZero() {
			f.Errorf("it goes on from one that began at %v, the first from %v", again.resumed, w.resumed)
		}
	}},
	{name: "a sync that is cancelled ends, and only a superuser has one", needs: syncs, with: synced(-1), test: func(f *fixture) {
		f.known(false)
		ctx, cancel := context.WithCancelCause(f.ctx())
		stop := errors.New("enough")
		w := &watchedSync{after: func() { cancel(stop) }}
		defer cancel(nil)
		if err := f.syncer().Sync(ctx, f.path(""), deep, w); !errors.Is(err, stop) && cmp.Or(w.answers, 1) > 1 {
			f.Errorf("got %v", err)
		}
		ann := f.as("ann")
		f.wantErr("sync", ann.syncer().Sync(ann.ctx(), f.path(""), deep, w), errs.Permission)
		f.wantErr("invalidate", ann.syncer().Invalidate(ann.ctx(), f.path("")), errs.Permission)
		f.sync("d/", deep)
		if x := f.explain("d/a"); x.Synced == nil || x.Synced.Path != f.path("d/") || !x.Synced.Recursive {
			f.Errorf("synced %+v", x.Synced)
		}
	}},
}
