package nstest

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// core.Explainer: why a name is answered as it is.

func (f *fixture) explainer() core.Explainer {
	x, _ := f.Tree.(core.Explainer)
	return x
}

func explains(f *fixture) bool { return f.Mounted && f.explainer() != nil }

func explainsHeld(f *fixture) bool { return explains(f) && holding(f) }

// explain explains the name, and fails the test if a store was asked or changed for it.
func (f *fixture) explain(name string) core.Explanation {
	f.Helper()
	n := f.calls()
	x, err := f.explainer().Explain(f.ctx(), f.path(name), core.ExplainOptions{})
	if err != nil {
		f.Fatalf("explain %q: %v", name, err)
	}
	if n := n(); n != 0 {
		f.Errorf("explaining %q cost %d calls of a store", name, n)
	}
	return x
}

// wantExplained checks what an explanation says of the name's state, and whether an access asks the store.
func (f *fixture) wantExplained(name string, state core.NameState, by core.FactBy, asks bool) core.Explanation {
	f.Helper()
	x := f.explain(name)
	if x.State != state || x.By != by || x.Asks != asks {
		f.Errorf("%q: %s by %q, an access %q (asks: %v); want %s by %q, asks: %v", name, x.State, x.By, x.Access, x.Asks, state, by, asks)
	}
	return x
}

var explainTests = []entry{
	{name: "a name of which nothing is known is unknown, and stays it", needs: explains, with: synced(-1), test: func(f *fixture) {
		f.storePut("d/a", "x")
		for range 2 {
			f.wantExplained("d/a", core.NameUnknown, core.ByNobody, true)
		}
		f.wantData("d/a", "x")
		x := f.wantExplained("d/a", core.NamePresent, core.ByStore, false)
		if x.Info == nil || x.Info.Size != 1 || x.Path != f.path("d/a") || x.At.IsZero() || x.Age < 0 || x.Age > time.Minute {
			f.Errorf("got %+v", x)
		}
		if x.Durability == nil || x.Durability.State != core.InStore || len(x.Exposed) != 0 {
			f.Errorf("durability %+v, exposed %v", x.Durability, x.Exposed)
		}
	}},
	{name: "what is absent, and by what", needs: explains, with: synced(-1), test: func(f *fixture) {
		f.storePut("d/a", "x")
		f.wantGone("d/b")
		f.wantExplained("d/b", core.NameAbsent, core.ByStore, false)
		f.wantExplained("d/c", core.NameUnknown, core.ByNobody, true)
		f.wantChildren("d/", "a")
		x := f.wantExplained("d/c", core.NameAbsent, core.ByListing, false)
		if x.About != f.path("d/") {
			f.Errorf("decided by %s", x.About)
		}
		d := f.explain("d/")
		if d.Children == nil || !d.Children.Complete || d.Children.Present != 1 || d.Children.Oldest.IsZero() {
			f.Errorf("known of the directory: %+v", d.Children)
		}
		if x := f.explain("~d"); x.Path != f.path("d/") || x.State != core.NamePresent {
			f.Errorf("an ambiguous name is %s, %s", x.Path, x.State)
		}
	}},
	{name: "what is below an absent directory", needs: func(f *fixture) bool { return explains(f) && dirs(f) }, with: synced(-1), test: func(f *fixture) {
		f.wantGone("no/")
		if x := f.wantExplained("no/a/b", core.NameAbsent, core.ByDirectory, false); x.About != f.path("no/") {
			f.Errorf("decided by %s", x.About)
		}
	}},
	{name: "facts that are too old are asked for anew, and it says so", needs: explains, with: synced(0), test: func(f *fixture) {
		f.storePut("a", "x")
		f.wantData("a", "x")
		x := f.wantExplained("a", core.NamePresent, core.ByStore, true)
		if x.Interval != 0 || !strings.Contains(x.Access, "sync_interval") {
			f.Errorf("interval %v, access %q", x.Interval, x.Access)
		}
		f.storePut("a", "longer")
		if x := f.explain("a"); x.Info.Size != 1 {
			f.Errorf("explaining asked the store: %d bytes", x.Info.Size)
		}
		n := f.calls()
		y, err := f.explainer().Explain(f.ctx(), f.path("a"), core.ExplainOptions{Fresh: true})
		if err != nil || y.Info == nil || y.Info.Size != 6 || n() == 0 {
			f.Errorf("fresh: %+v, %v", y.Info, err)
		}
	}},
	{name: "policies have their origins", needs: func(f *fixture) bool { return explains(f) && ruled(f) }, test: func(f *fixture) {
		f.rule("d/", core.Policies{ReadType: core.NoCache})
		origins := map[core.Setting]core.PolicyOrigin{}
		for _, p := range f.explain("d/a").Policies {
			origins[p.Setting] = p.Origin
		}
		if origins[core.SetReadType] != core.FromRule || origins[core.SetWriteType] != core.FromDefault || origins[core.SetReplicas] != core.FromDefault {
			f.Errorf("got %v", origins)
		}
	}},
	{name: "only who may read is told, and only a superuser of others", needs: explains, with: synced(-1), test: func(f *fixture) {
		f.put("d/a", "x")
		f.chmod("d/a", 0o600)
		ann, ctx := f.as("ann"), f.as("ann").ctx()
		explain := func(name string, o core.ExplainOptions) error {
			_, err := ann.explainer().Explain(ctx, ann.path(name), o)
			return err
		}
		f.wantErr("of a file without the right", explain("d/a", core.ExplainOptions{}), errs.Permission)
		f.wantErr("of others", explain("d/", core.ExplainOptions{For: &f.root}), errs.Permission)
		f.must(explain("d/", core.ExplainOptions{}))
		if x, err := ann.explainer().Explain(ctx, ann.path("d/"), core.ExplainOptions{}); err != nil || x.Mount.URI != "" || x.Mount.Options != nil || x.Mount.State != "" {
			f.Errorf("who is no superuser is told of the mount: %+v, %v", x.Mount, err)
		}
		f.chmod("d/", 0o711)
		f.wantErr("of what is not there, in a directory without the right", explain("d/b", core.ExplainOptions{}), errs.Permission)
		bob := core.Principal{User: "bob"}
		for name, want := range map[string]uint32{"d/a": 0, "d/": 1} {
			x, err := f.explainer().Explain(f.ctx(), f.path(name), core.ExplainOptions{For: &bob})
			if err != nil || x.Rights != want || x.For.User != "bob" {
				f.Errorf("bob's rights on %q are %o, %v, want %o", name, x.Rights, err, want)
			}
		}
		if x := f.explain("d/a"); x.Rights&6 != 6 {
			f.Errorf("the superuser's rights are %o", x.Rights)
		}
	}},
	{name: "conditions are worth what the store makes of them", needs: explains, test: func(f *fixture) {
		f.put("a", "x")
		if x := f.explain("a"); x.Conditional != f.Store.Features().Conditional || x.Conditions == "" || x.Kind != f.Store.Features().Kind {
			f.Errorf("got %+v", x)
		}
	}},
	{name: "a store that could not be asked is said to be unknown", needs: explains, with: synced(-1), test: func(f *fixture) {
		f.tap.set(func(call) verdict { return verdict{before: errs.New("test", "", errs.Unavailable, "no answer")} })
		_, err := f.explainer().Explain(f.ctx(), f.path("a"), core.ExplainOptions{Fresh: true})
		f.wantErr("fresh", err, errs.Unavailable)
		f.tap.set(nil)
		f.wantExplained("a", core.NameUnknown, core.ByNobody, true)
	}},
	{name: "what would be lost with which worker", needs: explainsHeld, with: held, test: func(f *fixture) {
		f.rule("one/", core.Policies{WriteType: core.MustCache, Replicas: 1})
		f.rule("two/", core.Policies{WriteType: core.MustCache, Replicas: 2})
		f.put("one/a", "123")
		f.put("two/a", "1")
		alone := f.durability("one/a").Holders
		x := f.explain("one/a")
		if len(alone) != 1 || len(x.Exposed) != 1 || x.Exposed[0].Worker != alone[0] || x.Exposed[0].Files != 1 || x.Exposed[0].Bytes != 3 ||
			x.Exposed[0].First[0] != f.path("one/a") || x.Durability.State != core.OnlyHeld {
			f.Errorf("held by %v, exposed %+v, %+v", alone, x.Exposed, x.Durability)
		}
		var bytes, shared int64
		for _, e := range f.explain("").Exposed {
			bytes, shared = bytes+e.Bytes, shared+e.Shared
		}
		if bytes != 3 || shared != 2 {
			f.Errorf("of all: %d bytes alone, %d files shared, want 3 and 2", bytes, shared)
		}
	}},
	{name: "what a worker lost is not with it any more, and what all lost is gone", needs: explainsHeld, with: held, test: func(f *fixture) {
		f.rule("one/", core.Policies{WriteType: core.MustCache, Replicas: 1})
		f.rule("two/", core.Policies{WriteType: core.MustCache, Replicas: 2})
		f.put("one/a", "123")
		f.put("two/a", "1")
		byName := map[string]*Worker{}
		for _, w := range f.workers.all {
			byName[w.name] = w
		}
		alone, both := f.durability("one/a").Holders[0], f.durability("two/a").Holders
		byName[alone].wipe()
		byName[both[0]].wipe()
		for _, name := range []string{"two/a", "two/"} {
			x := f.explain(name)
			if len(x.Exposed) != 1 || x.Exposed[0].Worker != both[1] || x.Exposed[0].Files != 1 || x.Exposed[0].Shared != 0 || x.Gone.Files != 0 {
				f.Errorf("%q: %v held it, and the first has lost it: exposed %+v, gone %+v", name, both, x.Exposed, x.Gone)
			}
		}
		for _, name := range []string{"one/a", "one/", ""} {
			x := f.explain(name)
			if x.Gone.Files != 1 || x.Gone.Bytes != 3 || len(x.Gone.First) != 1 || x.Gone.First[0] != f.path("one/a") {
				f.Errorf("%q: its only holder has lost it, and gone is %+v", name, x.Gone)
			}
			for _, e := range x.Exposed {
				if e.Worker != both[1] {
					f.Errorf("%q: exposed %+v", name, e)
				}
			}
		}
		byName[both[1]].fail(0)
		for _, name := range []string{"two/a", "two/"} {
			x := f.explain(name)
			if len(x.Exposed) != 1 || !x.Exposed[0].Away || x.Exposed[0].Files != 1 || x.Gone.Files != 0 {
				f.Errorf("%q: who alone has it is away: exposed %+v, gone %+v", name, x.Exposed, x.Gone)
			}
		}
	}},
	{name: "what is stored while workers are asked is not lost", needs: explainsHeld, with: held, test: func(f *fixture) {
		type answer struct {
			state core.DurabilityState
			lost  []string
			held  int // workers with whom something would be lost, and files that are
		}
		explain := func(name string) core.Explanation {
			x, err := f.explainer().Explain(f.ctx(), f.path(name), core.ExplainOptions{})
			f.must(err)
			return x
		}
		for name, ask := range map[string]func(name string) answer{
			"durability": func(name string) answer { d := f.durability(name); return answer{d.State, d.Lost, 0} },
			"explain": func(name string) answer {
				x := explain(name)
				return answer{x.Durability.State, x.Durability.Lost, len(x.Exposed) + int(x.Gone.Files)}
			},
			"explain of the directory": func(string) answer {
				x := explain("d/")
				return answer{core.InStore, nil, len(x.Exposed) + int(x.Gone.Files)}
			},
		} {
			f.async("d/a", name)
			f.workers.all[1].before(func() {
				f.persist("d/a")
				f.wantHeld(0)
			})
			if a := ask("d/a"); a.state != core.InStore || len(a.lost) != 0 || a.held != 0 {
				f.Errorf("%s: %+v", name, a)
			}
			f.remove("d/a")
		}
	}},
	{name: "a directory of the journal that no store was asked about is told as the journal has it", needs: explains, with: synced(-1), test: func(f *fixture) {
		f.mkdir("p/")
		f.chmod("p/", 0o750)
		f.restart()
		x := f.explain("p/")
		if x.By != core.ByJournal || x.Rights != 7 || x.Info == nil || x.Info.Mode != 0o750 || x.State == core.NameAbsent {
			f.Errorf("%s by %q, rights %o, %+v", x.State, x.By, x.Rights, x.Info)
		}
		if x.State == core.NameUnknown && !strings.Contains(x.Access, "in the journal") {
			f.Errorf("an access %q", x.Access)
		}
		f.stat("p/")
		if x := f.explain("p/"); x.State != core.NamePresent || x.Asks {
			f.Errorf("after an access: %s, %q", x.State, x.Access)
		}
	}},
	{name: "held files elsewhere do not make the explanation of a directory dearer", needs: explainsHeld, with: held, test: func(f *fixture) {
		f.mkdir("empty/")
		for i := range 300 {
			f.async(fmt.Sprintf("d%d/a%d", i%10, i), "1")
		}
		least := func(name string) time.Duration {
			least := time.Hour
			for range 20 {
				at := time.Now()
				f.explain(name)
				least = min(least, time.Since(at))
			}
			return least
		}
		if empty, all := least("empty/"), least(""); empty > all/3 {
			f.Errorf("an empty directory takes %v, all 300 held files %v", empty, all)
		}
	}},
	{name: "what would be lost is told from the first moment", needs: explainsHeld, with: held, test: func(f *fixture) {
		f.async("d/e/a", "1")
		f.restart()
		if x := f.explain("d/"); len(x.Exposed) != 2 || x.Exposed[0].Shared != 1 {
			f.Errorf("exposed %+v", x.Exposed)
		}
	}},
}
