package nstest

import (
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// core.LoadType: what is asked of a store where facts may be of any age.

// loads gives the mount at Base the load type.
func (f *fixture) loads(t core.LoadType) {
	f.Helper()
	i, err := f.UpdateMount(f.ctx(), f.Base, core.MountChange{LoadType: &t})
	if f.must(err); t != "" && i.LoadType != t {
		f.Fatalf("the load type is %q, want %q", i.LoadType, t)
	}
}

// asks runs look and checks whether the store was called meanwhile.
func (f *fixture) asks(what string, asked bool, look func()) {
	f.Helper()
	stop := f.calls()
	look()
	if n := stop(); (n > 0) != asked {
		f.Errorf("%s: the store was called %d times; it is asked: %v", what, n, asked)
	}
}

func syncsSettled(f *fixture) bool { return syncs(f) && settled(f) }

var loadTypeTests = []entry{
	{name: "NEVER: what nobody has learnt of is not there, and the store is not asked", needs: syncsSettled, with: synced(-1), test: func(f *fixture) {
		f.storePut("a", "one")
		f.storePut("d/b", "two!")
		f.loads(core.LoadNever)
		look := func() {
			f.Helper()
			f.wantUnseen("a")
			f.wantUnseen("d/b")
			f.wantGone("d/")
			f.wantChildren("")
			if s, err := f.Summarize(f.ctx(), f.Base); err != nil || s.Files != 0 {
				f.Errorf("summary %+v, %v", s, err)
			}
			f.wantErr("as another", f.as("ann").statErr("d/b"), errs.NotExist)
		}
		f.asks("what is not known", false, look)
		if x := f.explain("a"); x.Asks || x.State != core.NameUnknown || !strings.Contains(x.Access, "NEVER") {
			f.Errorf("explained: %v, %q", x.State, x.Access)
		}
		f.fresh(0).wantSeen("a", "one") // a request that has it compared
		f.asks("what a request has learnt", false, func() { f.stat("a") })
		f.sync("", deep)
		f.asks("what a sync has learnt", false, func() {
			f.stat("d/b")
			f.wantKeys("", "a", "d/b")
			f.wantChildren("", "a", "d/")
		})
		f.wantSeen("d/b", "two!")
		f.storePut("d/c", "new")
		f.asks("what came since", false, func() { f.wantUnseen("d/c") })
		f.must(f.syncer().Invalidate(f.ctx(), f.path("d/"))) // the next access compares it
		f.wantSeen("d/c", "new")
	}},
	{name: "NEVER: changes through Sluice rest on what the store has, and are seen", needs: syncsSettled, with: synced(-1), test: func(f *fixture) {
		f.loads(core.LoadNever)
		f.storePut("a", "one")
		f.storePut("e/x", "1")
		f.storePut("e/f/y", "2")
		_, err := f.write("a", "mine", core.CreateOptions{Size: 4, Mode: core.CreateNew})
		f.wantErr("create what is there", err, errs.Exist)
		f.put("d/b", "b")
		f.wantSeen("d/b", "b")
		f.put("d/b", "b2")
		f.wantSeen("d/b", "b2")
		f.wantChildren("d/", "b")
		f.put("e/x", "11")
		f.wantSeen("e/x", "11")
		f.remove("a")
		f.wantUnseen("a")
		f.sync("", deep)
		f.rename("e/", "g/")
		f.wantSeen("g/x", "11")
		f.wantSeen("g/f/y", "2")
		f.wantUnseen("e/x")
		f.rename("g/f/y", "y")
		f.wantSeen("y", "2")
		f.removeAll("g/")
		f.wantUnseen("g/x")
		f.wantKeys("", "d/b", "y")
	}},
	{name: "ALWAYS: what was absent is asked for again, and every listing is made anew", needs: syncsSettled, with: synced(-1), test: func(f *fixture) {
		f.loads(core.LoadAlways)
		f.storePut("a", "one")
		f.wantData("a", "one")
		f.wantGone("b")
		f.wantGone("d/e/c")
		f.storePut("b", "new")
		f.storePut("d/e/c", "deep")
		f.storePut("a", "two!")
		f.wantData("b", "new")
		f.wantData("d/e/c", "deep")
		f.asks("what is there", false, func() {
			if i := f.stat("a"); i.Size != 3 {
				f.Errorf("what is known to be there was asked for again: %+v", i)
			}
		})
		f.wantChildren("", "a", "b", "d/")
		f.storePut("c", "listed")
		f.wantChildren("", "a", "b", "c", "d/")
		f.wantKeys("", "a", "b", "c", "d/e/c")
		f.storeRemove("c")
		f.wantKeys("", "a", "b", "d/e/c")
		f.wantGone("x")
		if x := f.explain("x"); !x.Asks || x.State != core.NameAbsent || !strings.Contains(x.Access, "ALWAYS") {
			f.Errorf("explained: %v, %q", x.State, x.Access)
		}
		f.storePut("x", "for ann")
		if err := f.as("ann").statErr("x"); err != nil {
			f.Errorf("another's look: %v", err)
		}
		f.asks("what is absent", true, func() { f.wantGone("z") })
		f.loads(core.LoadOnce)
		f.wantChildren("", "a", "b", "d/", "x")
		f.asks("what is absent, once", false, func() { f.wantGone("zz") })
	}},
	{name: "a load type counts only where no sync takes place", needs: syncsSettled, with: synced(0), test: func(f *fixture) {
		f.loads(core.LoadNever)
		f.storePut("a", "one")
		f.wantSeen("a", "one")
		f.storePut("b", "new")
		f.wantSeen("b", "new")
		f.fresh(-1).wantUnseen("c")
		f.storePut("c", "3")
		f.asks("of any age", false, func() { f.wantErr("c", f.fresh(-1).statErr("c"), errs.NotExist) })
		f.wantSeen("c", "3")
	}},
	{name: "the load type is the rule's of the longest path, else the mount's, else the default, also after a restart", needs: func(f *fixture) bool { return syncs(f) && ruled(f) }, with: synced(-1), test: func(f *fixture) {
		is := func(name string, want core.LoadType, from core.PolicyOrigin) {
			f.Helper()
			all, err := f.rules().PoliciesAt(f.ctx(), f.path(name))
			f.must(err)
			for _, p := range all {
				if p.Setting == core.SetLoadType && (p.Value.LoadType != want || p.Origin != from) {
					f.Errorf("%q: %+v, want %s of the %s", name, p, want, from)
				}
			}
		}
		is("a", core.LoadOnce, core.FromDefault)
		f.loads(core.LoadNever)
		f.rule("d/", core.Policies{LoadType: core.LoadAlways})
		f.rule("d/e/", core.Policies{LoadType: core.LoadOnce})
		f.restart()
		is("a", core.LoadNever, core.FromMount)
		is("d/a", core.LoadAlways, core.FromRule)
		is("d/e/a", core.LoadOnce, core.FromRule)
		for name, asked := range map[string]bool{"a": false, "d/a": true, "d/e/a": true} {
			f.asks(name, asked, func() { f.wantGone(name) })
		}
		for name, asked := range map[string]bool{"a": false, "d/a": true, "d/e/a": false} {
			f.asks(name+" again", asked, func() { f.wantGone(name) })
		}
		f.must(f.rules().RemovePathRule(f.ctx(), f.path("d/"), core.SetLoadType))
		is("d/a", core.LoadNever, core.FromMount)
		f.loads("")
		is("d/a", core.LoadOnce, core.FromDefault)
		_, err := f.rules().SetPathRule(f.ctx(), f.path("d/"), core.Policies{LoadType: "SOMETIMES"})
		f.wantErr("no load type", err, errs.Invalid)
		_, err = f.UpdateMount(f.ctx(), f.Base, core.MountChange{LoadType: ptr(core.LoadType("never"))})
		f.wantErr("no load type", err, errs.Invalid)
		f.wantErr("a mount", f.mount(core.MountSpec{Path: f.path("m"), URI: "file:///x", LoadType: "x", SyncInterval: ptr(time.Hour)}), errs.Invalid)
	}},
}
