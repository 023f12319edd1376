package nstest

import (
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// hold makes the first call op of the name wait after the store has answered it, until the returned function lets its
// answer go. reached is closed when it waits.
func (f *fixture) hold(op, name string) (reached chan struct{}, release func()) {
	reached, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.tap.set(func(c call) verdict {
		if c.op != op || c.name != name {
			return verdict{}
		}
		return verdict{done: func() {
			first := false
			once.Do(func() { first = true })
			if first {
				close(reached)
				<-free
			}
		}}
	})
	release = sync.OnceFunc(func() { close(free) })
	f.Cleanup(release)
	return reached, release
}

// during runs look until the store's call op of the name is answered, then change, and then lets the answer go.
func (f *fixture) during(op, name string, look func(), change func()) {
	f.Helper()
	reached, release := f.hold(op, name)
	done := make(chan struct{})
	go func() { defer close(done); look() }()
	select {
	case <-reached:
	case <-done:
		f.Fatalf("the store was not asked %s %q", op, name)
	}
	change()
	release()
	<-done
	f.tap.set(nil)
}

func (f *fixture) listAll() {
	f.names("", core.ListOptions{})
	f.names("", core.ListOptions{Children: true})
}

// late are the tests of answers that were true when the store gave them and arrive after a change (facts carry the
// sequence at which they were asked for).
func late(op, name, what string, before, change, after func(f *fixture)) entry {
	return entry{name: fmt.Sprintf("rule 7: a %s in flight %s", op, what), needs: mounted, with: synced(-1), test: func(f *fixture) {
		before(f)
		f.Stat(f.ctx(), f.path(name)) // so that the change need not wait for the answer to be told of the name
		strict := f.fresh(0)
		look := func() { strict.listAll(); strict.names(name, core.ListOptions{}) }
		if op == "Stat" {
			look = func() { f.Stat(strict.ctx(), f.path(name)) }
		}
		f.during(op, name, look, func() { change(f) })
		after(f.fresh(-1))
		after(f.fresh(0))
	}}
}

var safetyTests = []entry{
	{name: "rule 2: pages of an attempt that fails are never those of one that succeeds", test: func(f *fixture) {
		f.put("a", large)
		one, err := f.create("a", pattern(2, len(large)), core.CreateOptions{Size: int64(len(large))})
		f.must(err)
		two, err := f.create("a", pattern(3, len(large)), core.CreateOptions{Size: int64(len(large))})
		f.must(err)
		f.wantData("a", large)
		f.must(one.Abort())
		f.wantData("a", large)
		_, err = two.Commit(f.ctx(), core.CommitOptions{})
		f.must(err)
		f.wantData("a", pattern(3, len(large)))
	}},
	{name: "rule 6: overlapping writes land in the store in the order they commit in", test: func(f *fixture) {
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() { f.write("a", fmt.Sprintf("writer %d", i), core.CreateOptions{Size: -1}) })
		}
		wg.Wait()
		got := f.get("a")
		f.wantStored("a", got)
		f.restart()
		f.wantData("a", got)
	}},
	{name: "rule 6: a name whose last change got no answer takes no other until that is known", with: watched, test: func(f *fixture) {
		f.put("d/a", "old")
		f.tap.set(func(c call) verdict {
			if c.op == "Commit" {
				return verdict{after: errs.New("test", "", errs.Unavailable, "the answer was lost")}
			}
			return verdict{}
		})
		_, err := f.write("d/a", "lost", core.CreateOptions{Size: 4})
		f.wantErr("write", err, errs.Unavailable)
		f.tap.set(func(c call) verdict { // nobody finds out meanwhile
			if path.Base(c.name) == "a" {
				return verdict{before: errs.New("test", "", errs.Unavailable, "the store does not answer")}
			}
			return verdict{}
		})
		_, err = f.write("d/a", "next", core.CreateOptions{Size: 4})
		f.wantErr("next write", err, errs.Unavailable)
		f.wantErr("remove", f.removeErr("d/a", core.RemoveOptions{}), errs.Unavailable)
		f.wantErr("rename", f.renameErr("d/", "e/", false), errs.Unavailable)
		f.wantErr("remove tree", f.removeErr("d/", core.RemoveOptions{Recursive: true}), errs.Unavailable)
		f.tap.set(nil)
		f.put("d/b", "a neighbour is free")
		f.restart()
		f.wantData("d/a", "lost")
		f.put("d/a", "next")
	}},
	{name: "rule 6: a change that never left for the store leaves its name free", with: watched, test: func(f *fixture) {
		f.put("d/a", "old")
		f.tap.set(func(c call) verdict {
			if c.op == "Commit" {
				return verdict{before: errs.E("test", "", errs.Unavailable, ufs.ErrUnsent)}
			}
			return verdict{}
		})
		_, err := f.write("d/a", "lost", core.CreateOptions{Size: 4})
		f.wantErr("write", err, errs.Unavailable)
		f.tap.set(nil)
		f.wantData("d/a", "old")
		f.put("d/a", "next")
		f.wantData("d/a", "next")
		f.restart()
		f.put("d/a", "last")
	}},
	late("List", "", "does not remove a name that is put", func(f *fixture) {}, func(f *fixture) { f.put("a", "x") },
		func(f *fixture) { f.wantSeen("a", "x") }),
	late("List", "d/", "does not remove a name that is put", func(f *fixture) { f.storePut("d/z", "x") }, func(f *fixture) { f.put("d/a", "x") },
		func(f *fixture) { f.wantSeen("d/a", "x") }),
	late("List", "", "does not bring back a name that is removed", func(f *fixture) { f.storePut("a", "x"); f.put("b", "x") },
		func(f *fixture) { f.remove("a"); f.remove("b") }, func(f *fixture) { f.wantUnseen("a"); f.wantUnseen("b") }),
	late("List", "", "does not bring back the old name of a rename", func(f *fixture) { f.storePut("a", "x"); f.put("d/b", "y") },
		func(f *fixture) { f.rename("a", "z"); f.rename("d/", "e/") },
		func(f *fixture) {
			f.wantUnseen("a")
			f.wantSeen("z", "x")
			f.wantUnseen("d/b")
			f.wantSeen("e/b", "y")
			f.wantGone("d/")
		}),
	late("List", "", "does not bring back a tree that is removed", func(f *fixture) { f.storePut("d/a", "x"); f.put("d/b", "x") },
		func(f *fixture) { f.removeAll("d/") }, func(f *fixture) { f.wantUnseen("d/a"); f.wantUnseen("d/b"); f.wantGone("d/") }),
	late("List", "", "does not bring back bytes that were overwritten", func(f *fixture) { f.put("a", "old") },
		func(f *fixture) { f.put("a", "new!") }, func(f *fixture) { f.wantSeen("a", "new!") }),
	late("Stat", "a", "does not remove a name that is put", func(f *fixture) {}, func(f *fixture) { f.put("a", "x") },
		func(f *fixture) { f.wantSeen("a", "x") }),
	late("Stat", "a", "does not bring back a name that is removed", func(f *fixture) { f.storePut("a", "x") },
		func(f *fixture) { f.remove("a") }, func(f *fixture) { f.wantUnseen("a") }),
	late("Stat", "a", "does not bring back bytes that were overwritten", func(f *fixture) { f.storePut("a", "old") },
		func(f *fixture) { f.put("a", "new!") }, func(f *fixture) { f.wantSeen("a", "new!") }),
	late("Stat", "d/a", "does not bring back a tree that is removed", func(f *fixture) { f.storePut("d/a", "x") },
		func(f *fixture) { f.removeAll("d/") }, func(f *fixture) { f.wantUnseen("d/a") }),
	late("Stat", "d/a", "does not bring back the old name of a rename", func(f *fixture) { f.storePut("d/a", "x") },
		func(f *fixture) { f.rename("d/", "e/") }, func(f *fixture) { f.wantUnseen("d/a"); f.wantSeen("e/a", "x") }),
	late("Stat", "e/a", "does not remove the new name of a rename", func(f *fixture) { f.storePut("d/a", "x") },
		func(f *fixture) { f.rename("d/", "e/") }, func(f *fixture) { f.wantUnseen("d/a"); f.wantSeen("e/a", "x") }),
	{name: "rule 7: who wants no old answer does not join a question that was sent before", needs: mounted, with: synced(-1), test: func(f *fixture) {
		f.storePut("d/a", "old")
		for op, name := range map[string]string{"Stat": "d/a", "List": "d/"} {
			f.restart() // nothing is known
			reached, release := f.hold(op, name)
			ask := func(f *fixture) error {
				var err error
				if op == "Stat" {
					_, err = f.Stat(f.ctx(), f.path(name))
				} else {
					_, err = f.names(name, core.ListOptions{})
				}
				return err
			}
			first, strict := make(chan error, 1), make(chan string, 1)
			go func() { first <- ask(f) }()
			<-reached // the store has answered, and the answer is on its way
			change := op + " has begun before this"
			f.storePut("d/a", change)
			go func() {
				g := f.fresh(0)
				if op == "List" {
					g.names(name, core.ListOptions{})
				}
				got, _ := g.read("d/a", core.All)
				strict <- got
			}()
			select { // it asks by itself, or waits for the first to end and then asks
			case got := <-strict:
				strict <- got
			case <-time.After(20 * time.Millisecond):
			}
			release()
			f.must(<-first)
			if got := <-strict; got != change {
				f.Errorf("%s: a strict reader got %q, want %q", op, got, change)
			}
			f.tap.set(nil)
		}
	}},
	{name: "rule 31: renames of other files of the same directories do not wait", test: func(f *fixture) {
		f.put("d/a", "a")
		f.put("d/b", "b")
		f.put("e/z", "z")
		var once sync.Once
		reached, free := make(chan struct{}), make(chan struct{})
		f.tap.set(func(c call) verdict {
			if c.op != "Rename" && c.op != "Copy" {
				return verdict{}
			}
			return verdict{done: func() {
				first := false
				once.Do(func() { first = true })
				if first {
					close(reached)
					<-free
				}
			}}
		})
		done := make(chan error, 1)
		go func() { done <- f.renameErr("d/a", "e/a", false) }()
		select {
		case <-reached:
		case err := <-done:
			f.Fatalf("the store was not asked to rename (%v)", err)
		}
		f.rename("d/b", "e/b")
		f.put("d/c", "c")
		f.remove("e/z")
		f.wantData("e/b", "b")
		close(free)
		f.must(<-done)
		f.tap.set(nil)
		f.wantKeys("", "d/c", "e/a", "e/b")
	}},
	{name: "rule 31: of two directories renamed into each other one stays where it is", test: func(f *fixture) {
		for i := range 20 {
			a, b := fmt.Sprintf("a%d/", i), fmt.Sprintf("b%d/", i)
			f.put(a+"x", "a")
			f.put(b+"x", "b")
			var errA, errB error
			var both sync.WaitGroup
			both.Go(func() { errA = f.renameErr(a, b+"in/", false) })
			both.Go(func() { errB = f.renameErr(b, a+"in/", false) })
			both.Wait()
			switch {
			case errA == nil && errB != nil:
				f.wantKeys(b, "in/x", "x")
				f.wantGone(a)
			case errB == nil && errA != nil:
				f.wantKeys(a, "in/x", "x")
				f.wantGone(b)
			default:
				f.Fatalf("%s into %s: %v; the other way: %v", a, b, errA, errB)
			}
		}
	}},
	{name: "rule 31: a directory that gets a file is not removed as an empty one", test: func(f *fixture) {
		for i := range 30 {
			d := fmt.Sprintf("d%d/", i)
			f.mkdir(d)
			var put, removed error
			var both sync.WaitGroup
			both.Go(func() { _, put = f.write(d+"a", "x", core.CreateOptions{Size: 1}) })
			both.Go(func() { removed = f.removeErr(d, core.RemoveOptions{}) })
			both.Wait()
			switch {
			case put == nil && removed == nil:
				f.Fatalf("%s was removed, and a file written in it", d)
			case put == nil:
				f.wantErr("remove", removed, errs.NotEmpty)
				f.wantData(d+"a", "x")
			case removed == nil:
				f.wantErr("put", put, errs.NotExist)
				f.wantGone(d)
			default:
				f.Errorf("%s: put %v, remove %v", d, put, removed)
			}
		}
	}},
	{name: "rule 9: a name removed while it is being written", test: func(f *fixture) {
		f.put("a", "old")
		w, err := f.create("a", "new", core.CreateOptions{Size: 3})
		f.must(err)
		f.remove("a")
		f.wantGone("a")
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.must(err)
		f.wantData("a", "new")
	}},
	{name: "rule 9: a directory renamed while a file in it is being written", test: func(f *fixture) {
		f.put("d/z", "x")
		w, err := f.create("d/a", "new", core.CreateOptions{Size: 3, MakeParents: true})
		f.must(err)
		f.rename("d/", "e/")
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.must(err)
		f.wantKeys("", "d/a", "e/z")
		f.wantStored("d/a", "new")
	}},
	{name: "rule 9: a directory removed while a file in it is being written", test: func(f *fixture) {
		f.mkdir("d/")
		w, err := f.create("d/a", "new", core.CreateOptions{Size: 3})
		f.must(err)
		f.remove("d/")
		_, err = w.Commit(f.ctx(), core.CommitOptions{})
		f.wantErr("commit", err, errs.NotExist)
		f.wantGone("d/")
		f.storeGone("d/a")
	}},
	{name: "rule 10: a removal of a tree spares what others write meanwhile", needs: func(f *fixture) bool { return f.Mounted && flat(f) }, with: synced(0), test: func(f *fixture) {
		f.put("d/a", "ours")
		f.put("d/b", "ours")
		var once sync.Once
		f.tap.set(func(c call) verdict {
			if c.op == "RemoveFiles" || c.op == "Remove" {
				once.Do(func() { f.storePut("d/a", "theirs"); f.storePut("d/b", "theirs") })
			}
			return verdict{}
		})
		f.removeAll("d/")
		f.tap.set(nil)
		f.wantSeen("d/a", "theirs")
		f.wantSeen("d/b", "theirs")
	}},
	{name: "rule 10: a whiteout ends with its job", needs: mounted, with: synced(0), test: func(f *fixture) {
		f.put("d/a", "ours")
		f.removeAll("d/")
		f.storePut("d/a", "theirs")
		f.wantSeen("d/a", "theirs")
		f.put("s", "x")
		f.rename("d/", "e/")
		f.storePut("d/b", "theirs")
		f.wantKeys("", "d/b", "e/a", "s")
	}},
	{name: "rule 11: until a rename has flipped every reader sees the old names, and changes below wait", needs: flat, test: func(f *fixture) {
		for i := range 5 {
			f.put(fmt.Sprintf("d/%d", i), "x")
		}
		reached, release := f.hold("Copy", "e/3")
		done := make(chan error, 1)
		go func() { done <- f.renameErr("d/", "e/", false) }()
		<-reached
		f.wantKeys("", "d/0", "d/1", "d/2", "d/3", "d/4")
		f.wantGone("e/0")
		f.wantGone("e/")
		late := make(chan error, 1)
		go func() {
			_, err := f.write("d/late", "x", core.CreateOptions{Size: 1, MakeParents: true})
			late <- err
		}()
		release()
		f.must(<-done)
		f.must(<-late)
		f.tap.set(nil)
		f.wantKeys("", "d/late", "e/0", "e/1", "e/2", "e/3", "e/4")
		f.wantStored("d/late", "x")
		f.storeGone("d/0")
	}},
	{name: "rule 15: a tree that holds a mount is neither renamed nor removed", test: func(f *fixture) {
		f.mountSpare("d/m/")
		f.wantErr("rename", f.renameErr("d/", "e/", false), errs.Unsupported)
		f.wantErr("remove", f.removeErr("d/", core.RemoveOptions{Recursive: true}), errs.Busy)
	}},
	{name: "a secret in a mount's options is in no error", test: func(f *fixture) {
		err := f.mount(core.MountSpec{Path: f.path("m/"), URI: "nonsense://x", Options: map[string]string{"secret_key": "hush"}})
		if err == nil || strings.Contains(err.Error(), "hush") {
			f.Errorf("got %v", err)
		}
	}},
}
