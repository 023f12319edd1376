package nstest

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// The tests of this file rename and remove a tree that both layers know a part of, stop now the change and now the listing at
// each call of the store it makes, and let the other run meanwhile: a listing shows all of the tree or nothing of it.

// treeChange is a change of the tree d/.
type treeChange struct {
	name   string
	change func(f *fixture) error
	now    map[string]string // what listings show after it, by the directory; else they show nothing
}

// treeBefore is what listings show of the tree, by the directory, "*" before that of its children.
var treeBefore = map[string]string{
	"": "d/a d/e/b d/e/s d/t d/u/v", "*": "d/", "d/": "a e/b e/s t u/v", "*d/": "a e/ t u/", "d/e/": "b s", "*d/e/": "b s", "d/u/": "v",
	"x/": "", "*x/": "", "x/e/": "",
}

var treeChanges = []treeChange{
	{"renamed", func(f *fixture) error { return f.renameErr("d/", "x/", false) }, map[string]string{
		"": "x/a x/e/b x/e/s x/t x/u/v", "*": "x/", "x/": "a e/b e/s t u/v", "*x/": "a e/ t u/", "x/e/": "b s",
	}},
	{"removed", func(f *fixture) error { return f.removeErr("d/", core.RemoveOptions{Recursive: true}) }, nil},
}

func (c treeChange) prepare(f *fixture) {
	f.put("d/a", "a")
	f.put("d/e/b", "b")
	for _, name := range []string{"d/e/s", "d/t", "d/u/v"} {
		f.storePut(name, "s")
	}
}

// lists returns what a listing shows, "" if the directory is not there.
func (f *fixture) lists(what string) string {
	dir, children := strings.CutPrefix(what, "*")
	names, err := f.names(dir, core.ListOptions{Children: children})
	switch {
	case errs.KindOf(err) == errs.NotExist:
		return ""
	case err != nil:
		return err.Error()
	case len(names) == 0 && dir != "":
		return "an empty directory"
	}
	return strings.Join(names, " ")
}

func (c treeChange) wantWhole(f *fixture, what, got, when string) {
	f.Helper()
	if alts := []string{treeBefore[what], c.now[what]}; !slices.Contains(alts, got) {
		f.Errorf("%s: a listing of %q showed %q, want one of %q", when, what, got, alts)
	}
}

// stopped runs one until its at-th call of the store, or the answer of that, then the other, and then lets the one go on. A
// call of the other that waits for the one is not waited for. It reports where that was; false: one makes fewer calls.
func (f *fixture) stopped(at int64, answered bool, one, other func()) (where string, ok bool) {
	var calls atomic.Int64
	reached, free := make(chan string, 1), make(chan struct{})
	f.tap.set(func(c call) verdict {
		if calls.Add(1) != at {
			return verdict{}
		}
		stop := func() {
			reached <- fmt.Sprintf("at call %d (%s %s, answered: %v)", at, c.op, c.name, answered)
			<-free
		}
		if answered {
			return verdict{done: stop}
		}
		stop()
		return verdict{}
	})
	defer f.tap.set(nil)
	did, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(did); one() }()
	select {
	case where = <-reached:
	case <-did:
		return "", false
	}
	go func() { defer close(done); other() }()
	select {
	case <-done:
	case <-time.After(20 * time.Millisecond):
	}
	close(free)
	<-did
	<-done
	return where, true
}

func wholeEntries() (all []entry) {
	for _, c := range treeChanges {
		for what, interval := range map[string]time.Duration{"are asked for": 0, "are known": -1} {
			all = append(all, entry{
				name:  fmt.Sprintf("at each step of a tree that is %s, listings that %s show all of it or nothing", c.name, what),
				needs: mounted, with: synced(interval), test: func(f *fixture) { c.atEachStep(f, interval) }})
		}
		for what := range treeBefore {
			all = append(all, entry{
				name:  fmt.Sprintf("a listing of %q that a tree is %s under shows all of it or nothing", what, c.name),
				needs: mounted, with: synced(0), test: func(f *fixture) { c.underListing(f, what) }})
		}
	}
	for _, restart := range []bool{false, true} {
		all = append(all, entry{
			name:  fmt.Sprintf("until it is known whether a tree was renamed, listings show all of it or nothing, restart: %v", restart),
			needs: func(f *fixture) bool { return f.Mounted && f.Store.Features().AtomicRename },
			with:  synced(0), test: func(f *fixture) { treeChanges[0].inDoubt(f, restart) }})
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return all
}

var wholeTests = wholeEntries()

// atEachStep stops the change at each of its calls, and lists.
func (c treeChange) atEachStep(f *fixture, interval time.Duration) {
	for _, answered := range []bool{false, true} {
		for at, ok := int64(1), true; ok; at++ {
			g := f.another(f.T, synced(interval))
			c.prepare(g)
			type shown struct{ what, got string }
			results := make(chan shown, len(treeBefore))
			for what := range treeBefore {
				g.lists(what) // so that it is known
			}
			var err error
			var where string
			where, ok = g.stopped(at, answered, func() { err = c.change(g) }, func() {
				for what := range treeBefore {
					go func() { results <- shown{what, g.lists(what)} }()
				}
				for range treeBefore {
					r := <-results
					c.wantWhole(f, r.what, r.got, where)
				}
			})
			f.must(err)
		}
	}
}

// underListing stops the listing at each of its calls, and makes the change.
func (c treeChange) underListing(f *fixture, what string) {
	for _, answered := range []bool{false, true} {
		for at, ok := int64(1), true; ok; at++ {
			g := f.another(f.T, synced(0))
			c.prepare(g)
			var got, where string
			var err error
			where, ok = g.stopped(at, answered, func() { got = g.lists(what) }, func() { err = c.change(g) })
			f.must(err)
			c.wantWhole(f, what, got, where)
		}
	}
}

// inDoubt has the store rename the tree and not answer, neither then nor when it is asked what became of that, and lists; then
// it answers, and the listings end.
func (c treeChange) inDoubt(f *fixture, restart bool) {
	c.prepare(f)
	f.lists("")
	var renamed, changing, healed atomic.Bool
	f.tap.set(func(call call) verdict {
		away := errs.New("test."+call.op, call.name, errs.Unavailable, "not answered")
		switch {
		case call.op == "Rename":
			renamed.Store(true)
			return verdict{after: away}
		case renamed.Load() && !healed.Load() && (changing.Load() || !core.PrincipalOf(call.ctx).Super): // nobody who lists
			return verdict{before: away}
		}
		return verdict{}
	})
	changing.Store(true)
	f.wantErr("rename", c.change(f), errs.Unavailable)
	changing.Store(false)
	if restart {
		f.restart()
	}
	type shown struct{ what, got string }
	results := make(chan shown, len(treeBefore))
	for what := range treeBefore {
		go func() { results <- shown{what, f.lists(what)} }()
	}
	heal := time.After(20 * time.Millisecond)
	for left := len(treeBefore); left > 0; {
		select {
		case r := <-results:
			c.wantWhole(f, r.what, r.got, "in doubt")
			left--
		case <-heal:
			healed.Store(true)
		}
	}
	healed.Store(true)
	f.tap.set(nil)
}
