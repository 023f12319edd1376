package nstest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// scenario is a change whose every step is made to fail.
type scenario struct {
	name    string
	prepare func(f *fixture)
	change  func(f *fixture) error
}

func wrote(_ core.Info, err error) error { return err }

var scenarios = []scenario{
	{"create", func(f *fixture) {}, func(f *fixture) error {
		return wrote(f.write("d/new", "new", core.CreateOptions{Size: 3, MakeParents: true}))
	}},
	{"overwrite", func(f *fixture) {}, func(f *fixture) error { return wrote(f.write("d/a", "new", core.CreateOptions{Size: 3})) }},
	{"create of what may not exist", func(f *fixture) {}, func(f *fixture) error {
		return wrote(f.write("new", "new", core.CreateOptions{Mode: core.CreateNew, Size: 3}))
	}},
	{"append", func(f *fixture) {}, func(f *fixture) error {
		return wrote(f.write("d/a", "+", core.CreateOptions{Mode: core.Append, Size: -1}))
	}},
	{"copy", func(f *fixture) {}, func(f *fixture) error {
		return wrote(f.Copy(f.ctx(), f.path("d/a"), f.path("d/copy"), core.CopyOptions{}))
	}},
	{"compose", func(f *fixture) { f.put("dst", "0"); f.put("p", "1") }, func(f *fixture) error {
		return wrote(f.Compose(f.ctx(), f.path("dst"), f.paths("p")))
	}},
	{"mkdir", func(f *fixture) {}, func(f *fixture) error {
		return wrote(f.Mkdir(f.ctx(), f.path("n/m/"), core.MkdirOptions{MakeParents: true}))
	}},
	{"rename of a file", func(f *fixture) {}, func(f *fixture) error { return f.renameErr("d/a", "b", false) }},
	{"rename over a file", func(f *fixture) { f.put("b", "replaced") }, func(f *fixture) error { return f.renameErr("d/a", "b", true) }},
	{"rename of a directory", func(f *fixture) {}, func(f *fixture) error { return f.renameErr("d/", "x/", false) }},
	{"remove", func(f *fixture) {}, func(f *fixture) error { return f.removeErr("d/a", core.RemoveOptions{}) }},
	{"remove with its directory", func(f *fixture) { f.put("p/q/a", "x") }, func(f *fixture) error { return f.removeErr("p/q/a", core.RemoveOptions{Prune: true}) }},
	{"remove of a tree", func(f *fixture) {}, func(f *fixture) error { return f.removeErr("d/", core.RemoveOptions{Recursive: true}) }},
	{"upload", func(f *fixture) {}, func(f *fixture) error {
		id, err := f.CreateUpload(f.ctx(), f.path("d/a"), core.CreateOptions{})
		if err != nil {
			return err
		}
		p, err := f.partErr("d/a", id, 1, "uploaded", 8)
		if err == nil {
			_, err = f.complete("d/a", id, p)
		}
		if err != nil {
			f.AbortUpload(f.ctx(), f.path("d/a"), id)
		}
		return err
	}},
	{"set attributes", func(f *fixture) {}, func(f *fixture) error {
		return f.setAttr("d/a", core.AttrChange{Mode: ptr(uint32(0o600)), Owner: ptr("bob")})
	}},
}

// partial are the scenarios that are several changes, of which some may have taken place.
var partial = map[string]bool{"compose": true, "mkdir": true, "remove with its directory": true}

// lazy reports whether the change may leave some of it undone and succeed: empty directories that nobody asked for.
func (s scenario) lazy() bool { return s.name == "remove with its directory" }

func (s scenario) furnish(f *fixture) {
	f.put("d/a", "a")
	f.put("d/e/b", "b")
	f.storePut("d/e/s", "s")
	f.chown("d/a", "ann", "staff")
	f.chmod("d/e/", 0o700)
	s.prepare(f)
	f.look()
}

// view is what a walk over all names has shown, in the order of its steps: what each directory lists, and each file holds.
type view struct {
	steps []string
	shown map[string]string // by the step
}

const notThere = "does not exist"

// look walks over what is visible: names, contents, owners and modes.
func (f *fixture) look() view {
	f.Helper()
	v := view{shown: map[string]string{}}
	note := func(step, shown string, err error) {
		switch {
		case errs.KindOf(err) == errs.NotExist:
			shown = notThere
		case err != nil:
			shown += err.Error()
		}
		v.steps, v.shown[step] = append(v.steps, step), shown
	}
	var walk func(dir string)
	walk = func(dir string) {
		var b strings.Builder
		var names []string
		var lerr error
		for i, err := range f.listing(dir, core.ListOptions{Children: true}) {
			if lerr = err; err != nil {
				break
			}
			names = append(names, dir+i.Name)
			fmt.Fprintf(&b, "%s %s:%s %o\n", i.Name, i.Owner, i.Group, i.Mode)
		}
		note("list "+dir, b.String(), lerr)
		for _, name := range names {
			if ufs.IsDir(name) {
				walk(name)
				continue
			}
			data, err := f.read(name, core.All)
			note("read "+name, fmt.Sprintf("%q", data), err)
		}
	}
	walk("")
	return v
}

func (v view) String() string {
	var b strings.Builder
	for _, step := range v.steps {
		fmt.Fprintf(&b, "%s: %s\n", step, v.shown[step])
	}
	return b.String()
}

func (v view) is(other view) bool { return v.String() == other.String() }

// agrees reports whether the step showed what it shows in the state.
func (v view) agrees(step string, state view) bool {
	want, there := state.shown[step]
	if !there {
		want = notThere
	}
	return v.shown[step] == want
}

// passes reports whether v is what a walk shows while one state becomes the other at some moment: up to a step all is as in
// the old one, and from there on as in the changed one. A change that is carried on may take place between any two steps.
func (v view) passes(old, changed view) bool {
	at := 0
	for at < len(v.steps) && v.agrees(v.steps[at], old) {
		at++
	}
	for at < len(v.steps) && v.agrees(v.steps[at], changed) {
		at++
	}
	return at == len(v.steps)
}

// fault is what happens to the n-th step of a change.
type fault struct {
	name   string
	kind   errs.Kind
	effect bool // the step has taken place all the same
}

var faultKinds = []fault{
	{"is refused", errs.NoSpace, false}, {"is not answered, and not done", errs.Unavailable, false},
	{"is not answered, but done", errs.Unavailable, true},
}

// victim is what fails.
type victim uint8

const (
	stores  victim = iota // calls of the store
	journal               // transactions of the journal
	process               // all from one step of either on, until a restart
)

// breaker counts the steps of a change, which are calls of the store and transactions of the journal, and breaks one.
type breaker struct {
	mu      sync.Mutex
	life    int // counts the processes: each opens the journal once
	dead    int // the last process that has died
	armed   bool
	count   int
	at      int // the step that breaks
	fault   fault
	victim  victim
	broken  string
	reached chan struct{} // closed when the step is reached
}

func newBreaker(flt fault, at int, v victim) *breaker {
	return &breaker{fault: flt, at: at, victim: v, reached: make(chan struct{})}
}

// step judges a step of a process, a call of a store or a transaction of the journal.
func (b *breaker) step(life int, of victim, what string) (before, after error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if life <= b.dead {
		err := errs.New("test", "", errs.Unavailable, "the process is dead")
		return err, err
	}
	if !b.armed || b.victim != process && b.victim != of {
		return nil, nil
	}
	if b.count++; b.count != b.at {
		return nil, nil
	}
	if b.victim == process {
		b.dead = life
	}
	b.broken = what
	close(b.reached)
	err := errs.New("test."+what, "", b.fault.kind, b.fault.name)
	if b.fault.effect {
		return nil, err
	}
	return err, err
}

func (b *breaker) arm(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.armed = on
}

// describe says which step broke; ok is false if the change has fewer.
func (b *breaker) describe() (what string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("step %d (%s) %s", b.at, b.broken, b.fault.name), b.broken != ""
}

// install puts the breaker between the namespace and all it stands on.
func (b *breaker) install(o *Options) {
	synced(0)(o)
	o.WrapKV = func(kv meta.KV) meta.KV {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.life++
		return faultyKV{kv, b, b.life}
	}
	o.Wrap = func(s ufs.Store) ufs.Store {
		b.mu.Lock()
		life := b.life
		b.mu.Unlock()
		x := &tap{}
		x.set(func(c call) verdict {
			before, after := b.step(life, stores, c.op+" "+c.name)
			return verdict{before: before, after: after}
		})
		return x.wrap(s)
	}
}

// faultyKV is a process's view of the journal's KV.
type faultyKV struct {
	meta.KV
	b    *breaker
	life int
}

func (k faultyKV) Txn(ctx context.Context, t meta.Txn) (ok bool, rev int64, err error) {
	before, after := k.b.step(k.life, journal, "journal")
	if before != nil {
		return false, 0, before
	}
	if ok, rev, err = k.KV.Txn(ctx, t); after != nil {
		return false, 0, after
	}
	return ok, rev, err
}

func faultEntries() (all []entry) {
	for _, s := range scenarios {
		all = append(all,
			entry{name: s.name + ": each call of the store fails", test: func(f *fixture) { s.each(f, stores) }},
			entry{name: s.name + ": each record of the journal is refused", test: func(f *fixture) { s.each(f, journal) }},
			entry{name: s.name + ": the process dies at each step", test: func(f *fixture) { s.each(f, process) }})
	}
	return append(all, entry{name: "a rename is carried on between two steps of a walk", needs: func(f *fixture) bool { return f.Mounted && flat(f) },
		with: synced(0), test: carriedOn})
}

var faultTests = faultEntries()

// carriedOn has a rename of a directory get no answer, and a walk over what is visible wait, before it reads a file that it has
// listed, until the rename has been carried on: the walk has seen the old names, and sees the changed ones from there on.
func carriedOn(f *fixture) {
	s := scenarios[slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == "rename of a directory" })]
	g := f.another(f.T, synced(0))
	s.furnish(g)
	g.must(s.change(g))
	changed := g.look()
	s.furnish(f)
	old := f.look()
	f.tap.set(func(c call) verdict {
		if c.op == "Copy" {
			return verdict{before: errs.New("test.Copy", c.name, errs.Unavailable, "not answered")}
		}
		return verdict{}
	})
	f.wantErr("rename", s.change(f), errs.Unavailable)
	moved := make(chan struct{})
	left := map[string]bool{"d/a": true, "d/e/b": true, "d/e/s": true}
	var mu sync.Mutex
	f.tap.set(func(c call) verdict {
		switch {
		case c.op == "Remove":
			return verdict{done: func() {
				mu.Lock()
				defer mu.Unlock()
				if delete(left, c.name); len(left) == 0 {
					left["none"] = true
					close(moved)
				}
			}}
		case c.op == "Stat" && c.name == "d/e/b" && core.PrincipalOf(c.ctx).User == f.who.User:
			<-moved
		}
		return verdict{}
	})
	got := f.look()
	f.tap.set(nil)
	if got.is(old) || got.is(changed) || !got.passes(old, changed) {
		f.Errorf("the walk was to see the one state, and then the other (-before +found):\n%s", cmp.Diff(old.String(), got.String()))
	}
	if now := f.look(); !now.is(changed) {
		f.Errorf("after the rename (-changed +found):\n%s", cmp.Diff(changed.String(), now.String()))
	}
	half := view{steps: got.steps, shown: maps.Clone(got.shown)}
	half.shown["list d/e/"] = "b"
	if half.passes(old, changed) {
		f.Errorf("a listing that shows one of two files passes for whole")
	}
}

// each runs the scenario once for each fault and step, in fresh namespaces.
func (s scenario) each(f *fixture, v victim) {
	s.furnish(f)
	f.must(s.change(f))
	changed := f.look()
	for _, flt := range faultKinds {
		refused := flt.kind != errs.Unavailable
		if refused && v == process || !refused && v == journal { // without an answer the journal asks again
			continue
		}
		for at, more := 1, true; more; at++ {
			b := newBreaker(flt, at, v)
			f.Run(fmt.Sprintf("%s/%d", flt.name, at), func(t *testing.T) {
				more = s.once(f.another(t, b.install), b, changed)
			})
			if f.Failed() {
				return
			}
		}
	}
}

// once breaks one step of the change; more is false if it has none such.
func (s scenario) once(f *fixture, b *breaker, changed view) (more bool) {
	s.furnish(f)
	old := f.look()
	b.arm(true)
	done := make(chan error, 1)
	dying := *f // it may outlive its process
	go func() { done <- s.change(&dying) }()
	var err error
	if b.victim == process {
		select {
		case <-b.reached:
			err = errs.New("test", "", errs.Unavailable, "the process died")
		case err = <-done:
		}
	} else {
		err = <-done
	}
	b.arm(false)
	where, broke := b.describe()
	if !broke {
		f.must(err)
		return false
	}
	if b.victim == stores {
		s.judge(f, where+", right after", b.victim, err, old, changed)
	}
	f.restart()
	s.judge(f, where+", after a restart", b.victim, err, old, changed)
	f.wantAgree(where)
	if f.Failed() {
		return true
	}
	for u, err := range f.ListUploads(f.ctx(), f.path(""), "", "", "") { // whose Complete got no answer
		f.must(err)
		f.must(f.AbortUpload(f.ctx(), u.Path, u.ID))
	}
	f.put("d/a", "free") // nothing holds the names any more
	f.removeAll("d/")
	if b.victim != process { // a writer of a dead process is alive here
		f.wantNoStaging()
	}
	return true
}

// judge checks that what is visible is the old or the changed state, or the one and from some moment on the other: the changed
// one after success, and the old one after an error of a store that says that nothing was done. A journal that refuses the
// outcome of a step that is done leaves it to be found, at a restart at the latest.
func (s scenario) judge(f *fixture, where string, v victim, err error, old, changed view) {
	f.Helper()
	got := f.look()
	switch {
	case err == nil && !got.is(changed) && !s.lazy():
		f.Errorf("%s, answered as done (-changed +found):\n%s", where, cmp.Diff(changed.String(), got.String()))
	case err != nil && v == stores && errs.KindOf(err) != errs.Unavailable && !got.is(old) && !partial[s.name]:
		f.Errorf("%s, answered %v (-before +found):\n%s", where, err, cmp.Diff(old.String(), got.String()))
	case !got.passes(old, changed) && !partial[s.name]:
		f.Errorf("%s, answered %v: half a change (-before +found):\n%s", where, err, cmp.Diff(old.String(), got.String()))
	}
}

// wantAgree checks that the namespace shows just the files that the store holds.
func (f *fixture) wantAgree(where string) {
	f.Helper()
	stored := map[string]bool{}
	f.storeWalk("", stored)
	keys, err := f.names("", core.ListOptions{})
	if err != nil {
		f.Errorf("%s: %v", where, err)
	}
	for _, k := range keys {
		if !ufs.IsDir(k) && !stored[k] {
			f.Errorf("%s: %q is shown and not in the store", where, k)
		}
		delete(stored, k)
	}
	for k := range stored {
		f.Errorf("%s: %q is in the store and not shown", where, k)
	}
}

// storeWalk collects the files of the store.
func (f *fixture) storeWalk(dir string, into map[string]bool) {
	f.Helper()
	for i, err := range f.Store.List(f.Context(), dir, "", false) {
		switch {
		case err != nil:
			f.Errorf("list %q in the store: %v", dir, err)
		case i.Name == dir:
		case i.Dir:
			f.storeWalk(i.Name, into)
		default:
			into[i.Name] = true
		}
	}
}
