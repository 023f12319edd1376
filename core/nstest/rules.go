package nstest

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// What decides how data is written and read where the mount does not: the request, and core.PathRules.

func (f *fixture) rules() core.PathRules {
	r, _ := f.Tree.(core.PathRules)
	return r
}

func ruled(f *fixture) bool { return f.rules() != nil }

func ruledHolding(f *fixture) bool { return ruled(f) && holding(f) }

func (f *fixture) rule(name string, p core.Policies) {
	f.Helper()
	if _, err := f.rules().SetPathRule(f.ctx(), f.path(name), p); err != nil {
		f.Fatalf("rule of %q: %v", name, err)
	}
}

// opens counts how often a store is opened for bytes, from now on until it is called.
func (f *fixture) opens() func() int64 {
	var n atomic.Int64
	f.tap.set(func(c call) verdict {
		if c.op == "Open" {
			n.Add(1)
		}
		return verdict{}
	})
	return func() int64 { f.tap.set(nil); return n.Load() }
}

// wantKept reads the file twice and wants the second time not to ask its store, or to ask it.
func (f *fixture) wantKept(name, data string, kept bool) {
	f.Helper()
	f.wantData(name, data)
	n := f.opens()
	f.wantData(name, data)
	if opened := n(); (opened == 0) != kept {
		f.Errorf("%q was read from its store %d times the second time, kept should be %v", name, opened, kept)
	}
}

// uncached writes a file of which nothing is cached.
func (f *fixture) uncached(name, data string) {
	f.Helper()
	f.putWith(name, data, core.CreateOptions{Size: int64(len(data)), MakeParents: true, WriteType: core.Through})
}

var ruleTests = []entry{
	{name: "a read keeps nothing if it asks for NO_CACHE, and what it asks for otherwise", test: func(f *fixture) {
		f.uncached("d/a", "x")
		no := *f
		no.reads = core.NoCache
		no.wantKept("d/a", "x", false)
		some := *f
		some.reads = core.CacheRead
		some.wantKept("d/a", "x", true)
		no.wantKept("d/a", "x", true) // what is there is used
	}},
	{name: "a rule is of its path and all below it, by whole names", needs: ruled, test: func(f *fixture) {
		for _, name := range []string{"d/a", "d/e/a", "d", "dd/a", "e"} {
			if name == "d" && f.Store.Features().Dirs {
				continue
			}
			f.uncached(name, "of "+name)
		}
		f.rule("d", core.Policies{ReadType: core.NoCache})
		for name, kept := range map[string]bool{"d/a": false, "d/e/a": false, "dd/a": true, "e": true} {
			f.wantKept(name, "of "+name, kept)
		}
		f.rule("e", core.Policies{ReadType: core.NoCache}) // that is a file
		f.uncached("e", "2")
		f.wantKept("e", "2", false)
	}},
	{name: "the rule of the longest path wins, each setting by itself, and the request before it", needs: ruled, test: func(f *fixture) {
		f.rule("", core.Policies{ReadType: core.NoCache, WriteType: core.Through})
		f.rule("d/e/", core.Policies{ReadType: core.CacheRead})
		f.put("d/e/a", "x") // through: not cached as it comes
		n := f.opens()
		f.wantData("d/e/a", "x")
		if n() == 0 {
			f.Error("a file that a rule has be written through was cached")
		}
		f.wantKept("d/e/a", "x", true)
		f.put("d/b", "y")
		f.wantKept("d/b", "y", false)
		f.putWith("d/e/c", "z", core.CreateOptions{Size: 1, WriteType: core.CacheThrough})
		n = f.opens()
		f.wantData("d/e/c", "z")
		if n() != 0 {
			f.Error("a file whose writer asked for CACHE_THROUGH was not cached")
		}
	}},
	{name: "a rule goes for what moves into its path", needs: ruled, test: func(f *fixture) {
		f.rule("no/", core.Policies{ReadType: core.NoCache})
		f.mkdir("no/")
		f.mkdir("d/")
		f.uncached("d/a", "x")
		f.rename("d/a", "no/a")
		f.wantKept("no/a", "x", false)
		f.rename("no/a", "d/a")
		f.wantKept("d/a", "x", true)
	}},
	{name: "a rule has writes be held, by as many as it says and for as long", needs: ruledHolding, with: held, test: func(f *fixture) {
		now := time.Duration(0)
		f.rule("d/", core.Policies{WriteType: core.AsyncThrough, Replicas: 3})
		f.rule("d/now/", core.Policies{PersistDelay: &now})
		if i := f.put("d/a", "1"); i.Write != core.AsyncThrough {
			f.Errorf("written with %q", i.Write)
		}
		if d := f.durability("d/a"); len(d.Holders) != 3 || d.State != core.Pending {
			f.Errorf("got %+v", d)
		}
		f.put("d/now/a", "2")
		f.eventually("stored", func() bool { return f.durability("d/now/a").State == core.InStore })
		f.wantStored("d/now/a", "2")
		f.wantState("d/a", core.Pending)
		if i := f.putWith("d/b", "3", core.CreateOptions{Size: 1, WriteType: core.CacheThrough}); i.Write != "" {
			f.Errorf("asked for CACHE_THROUGH, written with %q", i.Write)
		}
		f.wantStored("d/b", "3")
		f.rename("d/a", "d/now/b") // looked at again when it is its turn, or when that is asked for
		f.persist("d/now/b")
		f.wantStored("d/now/b", "1")
	}},
	{name: "rules are journaled, shown by path, and taken back one setting after the other", needs: ruled, test: func(f *fixture) {
		delay := 5 * time.Second
		f.rule("b/", core.Policies{WriteType: core.Through})
		f.rule("a", core.Policies{Replicas: 3})
		f.rule("b", core.Policies{PersistDelay: &delay, ReadType: core.NoCache})
		f.restart()
		all, err := f.rules().PathRules(f.ctx())
		f.must(err)
		if len(all) != 2 || all[0].Path != f.path("a/") || all[0].Replicas != 3 || all[1].Path != f.path("b/") || all[1].WriteType != core.Through ||
			all[1].ReadType != core.NoCache || all[1].PersistDelay == nil || *all[1].PersistDelay != delay {
			f.Errorf("got %+v", all)
		}
		f.must(f.rules().RemovePathRule(f.ctx(), f.path("b/"), core.SetWriteType, core.SetPersistDelay))
		f.wantErr("not set", f.rules().RemovePathRule(f.ctx(), f.path("b/"), core.SetWriteType), errs.NotExist)
		f.must(f.rules().RemovePathRule(f.ctx(), f.path("a")))
		f.wantErr("no rule", f.rules().RemovePathRule(f.ctx(), f.path("a")), errs.NotExist)
		f.restart()
		if all, err = f.rules().PathRules(f.ctx()); err != nil || len(all) != 1 || all[0].Policies != (core.Policies{ReadType: core.NoCache}) {
			f.Errorf("got %+v, %v", all, err)
		}
		f.must(f.rules().RemovePathRule(f.ctx(), f.path("b"), core.SetReadType))
		if all, err = f.rules().PathRules(f.ctx()); err != nil || len(all) != 0 {
			f.Errorf("got %+v, %v", all, err)
		}
	}},
	{name: "what applies to a path is told with where it comes from", needs: func(f *fixture) bool { return ruled(f) && f.Mounted }, test: func(f *fixture) {
		f.rule("d/", core.Policies{WriteType: core.Through})
		f.rule("d/e/f/", core.Policies{Replicas: 4})
		got, err := f.rules().PoliciesAt(f.ctx(), f.path("d/e/f/a"))
		f.must(err)
		by := map[core.Setting]core.Policy{}
		for _, p := range got {
			by[p.Setting] = p
		}
		if w := by[core.SetWriteType]; len(by) != len(core.Settings()) || w.Value.WriteType != core.Through || w.Origin != core.FromRule || w.Path != f.path("d/") {
			f.Errorf("write type %+v", w)
		}
		if r := by[core.SetReplicas]; r.Value.Replicas != 4 || r.Origin != core.FromRule || r.Path != f.path("d/e/f/") {
			f.Errorf("replicas %+v", r)
		}
		if r := by[core.SetReadType]; r.Value.ReadType != core.CachePromote || r.Origin != core.FromDefault {
			f.Errorf("read type %+v", r)
		}
		if d := by[core.SetPersistDelay]; d.Value.PersistDelay == nil || d.Origin != core.FromDefault {
			f.Errorf("persist delay %+v", d)
		}
		if c := by[core.SetCopiesMin]; c.Value.ReplicationMin == nil || *c.Value.ReplicationMin != 0 || c.Origin != core.FromDefault {
			f.Errorf("replication_min %+v", c)
		}
		if c := by[core.SetCopiesMax]; c.Value.ReplicationMax != 1 || c.Origin != core.FromDefault {
			f.Errorf("replication_max %+v", c)
		}
	}},
	{name: "how many copies workers keep is a rule's, else the mount's, and never more than as many as there may be", needs: func(f *fixture) bool { return ruled(f) && f.Mounted }, test: func(f *fixture) {
		copies := func(name string) (c core.Copies) {
			all, err := f.rules().PoliciesAt(f.ctx(), f.path(name))
			f.must(err)
			var p core.Policies
			for _, one := range all {
				p.Take(one.Setting, &one.Value)
			}
			return p.Copies()
		}
		is := func(name string, low, high int) {
			f.Helper()
			if got, want := copies(name), (core.Copies{Min: low, Max: high}); got != want {
				f.Errorf("%s: got %+v, want %+v", name, got, want)
			}
		}
		is("d/a", 0, 1)
		_, err := f.UpdateMount(f.ctx(), f.Base, core.MountChange{ReplicationMin: ptr(1), ReplicationMax: ptr(3)})
		f.must(err)
		f.rule("d/", core.Policies{ReplicationMin: ptr(0)})
		f.rule("d/e/", core.Policies{ReplicationMin: ptr(4)})
		f.rule("d/e/f/", core.Policies{ReplicationMax: core.AllWorkers})
		f.restart()
		is("a", 1, 3)
		is("d/a", 0, 3)
		is("d/e/a", 4, 4)
		is("d/e/f/a", 4, core.AllWorkers)
		kept := func(want ...core.Path) {
			f.Helper()
			if k, ok := f.Tree.(interface{ Kept() []core.Path }); ok {
				if got := k.Kept(); !slices.Equal(got, want) {
					f.Errorf("kept is what is below %v, want %v", got, want)
				}
			}
		}
		kept(f.Base.Dir())
		_, err = f.rules().SetPathRule(f.ctx(), f.path("d/e/"), core.Policies{ReplicationMax: 3})
		f.wantErr("less than what is there", err, errs.Invalid)
		_, err = f.UpdateMount(f.ctx(), f.Base, core.MountChange{ReplicationMax: ptr(core.MaxCopies + 1)})
		f.wantErr("too many", err, errs.Invalid)
		_, err = f.UpdateMount(f.ctx(), f.Base, core.MountChange{ReplicationMin: ptr(core.DefaultCopies), ReplicationMax: ptr(0)})
		f.must(err)
		f.restart()
		is("a", 0, 1)
		f.rule("d/e/f/g/", core.Policies{ReplicationMin: ptr(1)})
		f.rule("d/ee", core.Policies{ReplicationMin: ptr(1)})
		kept(f.path("d/e/"), f.path("d/ee/"))
	}},
	{name: "a path whose write type is MUST_CACHE is said to have one replica, unless a rule says how many", needs: ruledHolding, with: held, test: func(f *fixture) {
		replicas := func() int {
			all, err := f.rules().PoliciesAt(f.ctx(), f.path("d/a"))
			f.must(err)
			for _, p := range all {
				if p.Setting == core.SetReplicas {
					return p.Value.Replicas
				}
			}
			return 0
		}
		for _, k := range []struct {
			rule core.Policies
			want int
		}{
			{core.Policies{WriteType: core.AsyncThrough}, 2},
			{core.Policies{WriteType: core.MustCache}, 1},
			{core.Policies{Replicas: 2}, 2},
		} {
			f.rule("d/", k.rule)
			f.put("d/a", "1")
			if said, held := replicas(), len(f.durability("d/a").Holders); said != k.want || held != k.want {
				f.Errorf("with the rule %+v: %d are said, %d hold, want %d", k.rule, said, held, k.want)
			}
		}
	}},
	{name: "a shorter delay is for what waits already, too", needs: ruledHolding, with: held, test: func(f *fixture) {
		now := time.Duration(0)
		f.put("other", "0")
		for _, name := range []string{"d/a", "a"} {
			f.async(name, "1")
		}
		f.async("d/b", "2")
		f.rule("d/", core.Policies{PersistDelay: &now})
		f.eventually("stored", func() bool {
			return f.durability("d/a").State == core.InStore && f.durability("d/b").State == core.InStore
		})
		f.wantState("a", core.Pending)
		_, err := f.UpdateMount(f.ctx(), f.Base, core.MountChange{PersistDelay: &now})
		f.must(err)
		f.eventually("stored", func() bool { return f.durability("a").State == core.InStore })
	}},
	{name: "a rule that cannot be is Invalid, and rules are the superuser's", needs: ruled, test: func(f *fixture) {
		for _, bad := range []core.Policies{{}, {WriteType: "NEVER"}, {ReadType: "NEVER"}, {Replicas: core.MaxReplicas + 1}, {Replicas: -1}, {PersistDelay: ptr(-time.Second)},
			{ReplicationMin: ptr(-1)}, {ReplicationMin: ptr(core.MaxCopies + 1)}, {ReplicationMax: core.MaxCopies + 1}, {ReplicationMax: -2}, {ReplicationMin: ptr(3), ReplicationMax: 2}} {
			_, err := f.rules().SetPathRule(f.ctx(), f.path("d/"), bad)
			f.wantErr("a rule that cannot be", err, errs.Invalid)
		}
		ann := f.as("ann")
		_, err := ann.rules().SetPathRule(ann.ctx(), f.path("d/"), core.Policies{Replicas: 1})
		f.wantErr("set", err, errs.Permission)
		_, err = ann.rules().PathRules(ann.ctx())
		f.wantErr("list", err, errs.Permission)
		_, err = ann.rules().PoliciesAt(ann.ctx(), f.path("d/"))
		f.wantErr("look", err, errs.Permission)
		f.wantErr("remove", ann.rules().RemovePathRule(ann.ctx(), f.path("d/")), errs.Permission)
	}},
	{name: "parts of an upload are cached as the rule of its path says, unless it asks for something else", needs: ruled, test: func(f *fixture) {
		f.rule("d/", core.Policies{WriteType: core.Through})
		for _, how := range []core.WriteType{"", core.CacheThrough} {
			data := strings.Repeat("p", 1000)
			id, err := f.CreateUpload(f.ctx(), f.path("d/a"), core.CreateOptions{Size: -1, MakeParents: true, WriteType: how})
			if errs.KindOf(err) == errs.Unsupported {
				f.Skip("no uploads here")
			}
			f.must(err)
			w, err := f.PutPart(f.ctx(), f.path("d/a"), id, 1, int64(len(data)))
			f.must(err)
			_, err = w.Write([]byte(data))
			f.must(err)
			i, err := w.Commit(f.ctx(), core.CommitOptions{})
			f.must(err)
			_, err = f.CompleteUpload(f.ctx(), f.path("d/a"), id, []core.Part{{Number: 1, ETag: i.ETag}}, core.CompleteOptions{})
			f.must(err)
			n := f.opens()
			f.wantData("d/a", data)
			if opened := n(); (opened == 0) != (how == core.CacheThrough) {
				f.Errorf("with write type %q the file was read from its store %d times", how, opened)
			}
		}
	}},
}
