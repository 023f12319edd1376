package namespace_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// telling is a store that tells what a test has it tell.
type telling struct {
	ufs.Store
	told chan ufs.Change
	end  chan error
}

func (s *telling) Features() ufs.Features {
	f := s.Store.Features()
	f.Watch = true
	return f
}

func (s *telling) Watch(ctx context.Context, tell func(ufs.Change)) error {
	tell(ufs.Change{Kind: ufs.Ready})
	for {
		select {
		case c := <-s.told:
			tell(c)
		case err := <-s.end:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fed is a namespace with a mount whose store tells of changes, and whose facts count for ever otherwise.
type fed struct {
	*testing.T
	ns       *namespace.Namespace
	ctx      context.Context
	behind   ufs.Store
	faulty   *wrap.Faulty
	rescans  chan core.Path
	restarts func() // of the leader
}

const token = "0123456789abcdef0123"

func feed(t *testing.T, uri string, store ufs.Store, events string) *fed {
	t.Helper()
	faulty := wrap.Fault(store)
	w := &world{kv: memkv.New(), root: same(memufs.New(memufs.Options{Dirs: true})), byURI: map[string]backing{uri: same(faulty)}}
	x := &fed{T: t, behind: store, faulty: faulty, rescans: make(chan core.Path, 100), ctx: core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})}
	var stop func()
	start := func() {
		var end func()
		x.ns, end = w.start(t)
		own, cancel := context.WithCancel(core.WithPrincipal(context.Background(), core.Principal{User: "root", Super: true}))
		var feeding sync.WaitGroup
		feeding.Go(func() {
			x.ns.Feed(own, func(ctx context.Context, dir core.Path) error {
				err := x.ns.Sync(ctx, dir, core.SyncOptions{Recursive: true, Gentle: true}, &found{})
				x.rescans <- dir
				return err
			})
		})
		stop = func() { cancel(); feeding.Wait(); end() }
	}
	start()
	x.restarts = func() { stop(); start() }
	t.Cleanup(func() { stop() })
	never := time.Duration(-1)
	spec := core.MountSpec{Path: x.path("/m/"), URI: uri, SyncInterval: &never, Options: map[string]string{"events": events, "events_token": token}}
	if _, err := x.ns.Mount(x.ctx, spec); err != nil {
		t.Fatal(err)
	}
	x.wait("the feed begins", func() bool { return len(x.ns.FeedInfos()) == 1 && x.info().State != "starting" })
	return x
}

// found is a SyncWatch that nobody asks.
type found struct{}

func (*found) Compared(int64, int64)              {}
func (*found) Differs(core.SyncChange, core.Path) {}
func (*found) Failed(core.Path, error)            {}
func (*found) Resumed(time.Time)                  {}

func (x *fed) path(s string) core.Path {
	x.Helper()
	return parse(x, s)
}

func (x *fed) info() core.FeedInfo { return x.ns.FeedInfos()[0] }

// wait returns once ok does.
func (x *fed) wait(what string, ok func() bool) {
	x.Helper()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	over := time.After(time.Minute)
	for !ok() {
		select {
		case <-look.C:
		case <-over:
			x.Fatalf("%s: not within a minute; %+v", what, x.ns.FeedInfos())
		}
	}
}

func (x *fed) put(name, data string) {
	x.Helper()
	if _, err := ufs.WriteFile(x.ctx, x.behind, name, []byte(data), ufs.CreateOptions{}); err != nil {
		x.Fatal(err)
	}
}

func (x *fed) drop(name string) {
	x.Helper()
	if err := x.behind.Remove(x.ctx, name, ""); err != nil {
		x.Fatal(err)
	}
}

// get returns a file's bytes, or why there are none.
func (x *fed) get(name string) string {
	r, err := x.ns.Open(x.ctx, x.path("/m/"+name), core.All)
	if err != nil {
		return "no: " + errs.KindOf(err).Error()
	}
	defer r.Close()
	b, err := io.ReadAll(struct{ io.Reader }{r})
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (x *fed) list(dir string) string {
	var all []string
	for i, err := range x.ns.List(x.ctx, x.path("/m/"+dir), core.ListOptions{Children: true}) {
		if err != nil {
			return err.Error()
		}
		all = append(all, i.Name)
	}
	return strings.Join(all, " ")
}

func (x *fed) want(what, got, want string) {
	x.Helper()
	if got != want {
		x.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// tell tells of keys of the bucket.
func (x *fed) tell(keys ...string) core.Told {
	x.Helper()
	var hints []core.Hint
	for _, k := range keys {
		hints = append(hints, core.Hint{Store: "s3://b", Key: "pre/" + k})
	}
	t, err := x.ns.Told(context.Background(), token, hints)
	if err != nil {
		x.Fatalf("Told: %v", err)
	}
	return t
}

func TestFeedByWebhook(t *testing.T) {
	x := feed(t, "s3://b/pre", memufs.New(memufs.Options{}), "webhook")
	x.put("d/f", "1")
	x.want("first", x.get("d/f"), "1")
	x.want("listed", x.list("d/"), "f")
	x.want("absent", x.get("d/g"), "no: does not exist")
	x.want("listed above", x.list(""), "d/")

	x.put("d/f", "2")
	x.put("d/g", "new")
	x.put("e/deep/h", "h")
	x.want("nobody told yet", x.get("d/f"), "1")
	if told := x.tell("d/f", "d/g", "e/deep/h", "d/f"); told.Taken != 4 {
		t.Errorf("told: %+v", told)
	}
	x.want("overwritten", x.get("d/f"), "2")
	x.want("added", x.get("d/g"), "new")
	x.want("a directory with it", x.get("e/deep/h"), "h")
	x.want("its directory", x.list("d/"), "f g")
	x.want("the mount", x.list(""), "d/ e/")

	x.drop("d/g")
	x.drop("e/deep/h")
	x.tell("d/g", "e/deep/h")
	x.want("removed", x.get("d/g"), "no: does not exist")
	x.want("the listing", x.list("d/"), "f")
	x.want("a directory that had nothing else", x.list(""), "d/")

	// What is told is a hint: late, and of what is long otherwise.
	x.tell("d/f", "d/g", "never/was")
	x.want("told again", x.get("d/f")+x.get("d/g"), "2no: does not exist")

	// What Sluice wrote itself is told too, and nothing comes of it.
	w, err := x.ns.Create(x.ctx, x.path("/m/own"), core.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "own"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(x.ctx, core.CommitOptions{}); err != nil {
		t.Fatal(err)
	}
	seq := x.ns.Seq()
	x.tell("own")
	if x.ns.Seq() != seq {
		t.Error("an own write that was told is journaled again")
	}
	x.want("own", x.get("own"), "own")
	if i := x.info(); i.State != "live" || i.Events == 0 || i.Gaps != 0 || i.Pending != 0 || i.Kinds["created"] != i.Events {
		t.Errorf("the feed: %+v", i)
	}
}

func TestFeedRefuses(t *testing.T) {
	x := feed(t, "s3://b/pre", memufs.New(memufs.Options{}), "webhook")
	for _, bad := range []string{"", "0123456789abcdef012", token + " "} {
		if err := x.ns.MayTell(context.Background(), bad); errs.KindOf(err) != errs.Permission {
			t.Errorf("token %q: %v", bad, err)
		}
		if _, err := x.ns.Told(context.Background(), bad, []core.Hint{{Store: "s3://b", Key: "pre/f"}}); errs.KindOf(err) != errs.Permission || strings.Contains(err.Error(), token) {
			t.Errorf("token %q: %v", bad, err)
		}
	}
	told, err := x.ns.Told(x.ctx, "", []core.Hint{{Store: "s3://b", Key: "other/f"}, {Store: "s3://b", Key: "pre/.sluice/tmp/x"}, {Store: "s3://no", Key: "pre/f"}})
	if err != nil || told.Taken != 0 || told.Outside != 2 || !slices.Equal(told.Unknown, []string{"s3://no"}) {
		t.Errorf("a superuser tells of others: %+v, %v", told, err)
	}
	if err := x.ns.Subscribed(context.Background(), token, "https://sns"); err != nil || x.info().Confirm != "https://sns" {
		t.Errorf("%v, %+v", err, x.info())
	}
	if _, err := x.ns.Feeds(context.Background()); errs.KindOf(err) != errs.Permission {
		t.Errorf("anybody asks for feeds: %v", err)
	}
}

// What was told while the store did not answer is asked about by the next access, and by that of the next leader.
func TestFeedOutlivesOutage(t *testing.T) {
	x := feed(t, "s3://b/pre", memufs.New(memufs.Options{}), "webhook")
	x.put("f", "1")
	x.want("first", x.get("f"), "1")
	x.put("f", "2")
	down := errs.New("test", "", errs.Unavailable, "down")
	x.faulty.Add(wrap.Rule{Op: wrap.Stat, Err: down})
	x.tell("f")
	x.faulty.Heal()
	x.want("the next access", x.get("f"), "2")

	x.put("f", "3")
	x.faulty.Add(wrap.Rule{Op: wrap.Stat, Err: down})
	x.tell("f")
	x.faulty.Heal()
	x.restarts()
	x.want("at the next leader", x.get("f"), "3")
}

func TestFeedOfAStoreThatTells(t *testing.T) {
	store := &telling{memufs.New(memufs.Options{Dirs: true}), make(chan ufs.Change), make(chan error)}
	x := feed(t, "file:///x", store, "inotify")
	if dir := <-x.rescans; dir.String() != "/m/" { // before it was watched anything may have happened
		t.Errorf("at the beginning %s was compared", dir)
	}
	x.put("d/f", "1")
	x.want("before it is told", x.get("d/f"), "no: does not exist")
	store.told <- ufs.Change{Kind: ufs.Arrived, Name: "d/"}
	x.wait("a first directory", func() bool { return x.get("d/f") == "1" })
	x.want("absent", x.get("n/f")+" "+x.list("d/"), "no: does not exist f")
	x.put("d/f", "2")
	x.put("n/f", "n")
	store.told <- ufs.Change{Kind: ufs.Touched, Name: "d/f"}
	store.told <- ufs.Change{Kind: ufs.Arrived, Name: "n/"}
	x.wait("a file", func() bool { return x.get("d/f") == "2" })
	x.wait("a directory that came", func() bool { return x.get("n/f") == "n" })
	x.wait("its listing", func() bool { return x.list("") == "d/ n/" })

	x.put("d/f", "3")
	x.put("d/g", "3")
	store.told <- ufs.Change{Kind: ufs.Lost, Name: "d/"}
	if dir := <-x.rescans; dir.String() != "/m/d/" {
		t.Errorf("%s was compared, and /m/d/ was lost", dir)
	}
	x.want("after a gap", x.get("d/f")+x.list("d/"), "3f g")
	if i := x.info(); i.Gaps != 2 || i.Rescans != 2 || !i.Live {
		t.Errorf("the feed: %+v", i)
	}

	store.told <- ufs.Change{Kind: ufs.Touched, Name: "d/f", At: time.Now().Add(-time.Hour)}
	x.wait("how late it was told", func() bool { i := x.info(); return i.Lag > 59*time.Minute && i.Lag < 90*time.Minute })

	blind := func(name string) { store.told <- ufs.Change{Kind: ufs.Blind, Name: name, Why: "no watches left"} }
	blind("d/")
	x.wait("it is partial", func() bool { i := x.info(); return !i.Live && strings.Contains(i.State, "/m/d/: no watches left") })
	blind("d/e/")
	x.wait("of two", func() bool { return strings.Contains(x.info().State, "of 2 directories") })
	store.told <- ufs.Change{Kind: ufs.Left, Name: "d/"}
	x.wait("a directory that is gone is not blind", func() bool { return x.info().Live })
	for i := range 1001 {
		blind(fmt.Sprintf("n/%d/", i))
	}
	x.wait("of all", func() bool { return strings.Contains(x.info().State, "more than 1000 directories cannot be watched") })
	store.told <- ufs.Change{Kind: ufs.Left, Name: "n/"}
	blind("n/")
	x.wait("of which each was is not known any more", func() bool { return !x.info().Live && x.info().Pending == 0 })
	x.want("what is said of it", x.info().State[:len("partial: some")], "partial: some")
	store.told <- ufs.Change{Kind: ufs.Left}
	x.wait("it is told anew", func() bool { return x.info().Live })
	store.end <- errors.New("broken")
	x.wait("it has stopped", func() bool { return strings.Contains(x.info().State, "stopped: broken") })
	x.put("d/f", "4")
	x.wait("what nobody tells any more is asked about", func() bool { return x.get("d/f") == "4" })
	x.wait("it begins again", func() bool { return x.info().State == "live" })
	x.wait("what was not told is found", func() bool { return x.get("d/f") == "4" })
}

// Of more names than can be pending, and of more that do not answer than are invalidated one by one, directories are compared.
func TestFeedOfVeryMany(t *testing.T) {
	x := feed(t, "s3://b/pre", memufs.New(memufs.Options{}), "webhook")
	x.put("d/f", "1")
	x.want("first", x.get("d/f"), "1")
	x.put("d/f", "2")
	down := errs.New("test", "", errs.Unavailable, "down")
	x.faulty.Add(wrap.Rule{Op: wrap.Stat, Err: down})
	keys := []string{"d/f"}
	for i := range 200 {
		keys = append(keys, "d/x"+string(rune('a'+i%26))+strings.Repeat("x", i/26))
	}
	x.tell(keys...)
	x.faulty.Heal()
	x.want("after an outage", x.get("d/f"), "2")
	if dir := <-x.rescans; dir.String() != "/m/d/" {
		t.Errorf("%s was compared", dir)
	}
}

// What tells of an own write has nothing asked and nothing forgotten, once.
func TestFeedOfOwnWrites(t *testing.T) {
	x := feed(t, "s3://b/pre", memufs.New(memufs.Options{}), "webhook")
	w, err := x.ns.Create(x.ctx, x.path("/m/d/own"), core.CreateOptions{Size: -1, MakeParents: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "own"); err != nil {
		t.Fatal(err)
	}
	info, err := w.Commit(x.ctx, core.CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	down := errs.New("test", "", errs.Unavailable, "down")
	asked := func(h core.Hint) bool {
		t.Helper()
		h.Store, h.Key = "s3://b", "pre/d/own"
		x.faulty.Add(wrap.Rule{Op: wrap.Stat, Err: down})
		x.faulty.Add(wrap.Rule{Op: wrap.List, Err: down})
		defer x.faulty.Heal()
		before := x.ns.Seq()
		if _, err := x.ns.Told(x.ctx, token, []core.Hint{h}); err != nil {
			t.Fatal(err)
		}
		return x.ns.Seq() != before // it was, did not answer, and is invalidated
	}
	own := core.Hint{ETag: info.ETag, Size: 3, At: info.ModTime}
	if asked(own) {
		t.Error("of an own write the store was asked")
	}
	if i := x.info(); i.Own != 1 || i.Events != 1 {
		t.Errorf("the feed: %+v", i)
	}
	x.want("it is", x.get("d/own"), "own")
	for what, h := range map[string]core.Hint{
		"told again": own, "of other bytes": {ETag: "0" + info.ETag[1:], Size: 3, At: own.At}, "of another size": {ETag: own.ETag, Size: 4, At: own.At},
		"much later": {ETag: own.ETag, Size: 3, At: own.At.Add(time.Minute)}, "at no time": {ETag: own.ETag, Size: 3}, "without a tag": {At: own.At},
		"removed": {Removed: true, At: own.At},
	} {
		if !asked(h) {
			t.Errorf("%s: the store was not asked", what)
		}
		x.want(what, x.get("d/own"), "own")
	}

	// Others may have written the same bytes since: two events at once, one of which is the own write's.
	w, err = x.ns.Create(x.ctx, x.path("/m/d/own"), core.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, "new")
	if info, err = w.Commit(x.ctx, core.CommitOptions{}); err != nil {
		t.Fatal(err)
	}
	x.put("d/own", "foreign")
	h := core.Hint{Store: "s3://b", Key: "pre/d/own", ETag: info.ETag, Size: 3, At: info.ModTime}
	if _, err := x.ns.Told(x.ctx, token, []core.Hint{h, h}); err != nil {
		t.Fatal(err)
	}
	x.want("others wrote since", x.get("d/own"), "foreign")
	if i := x.info(); i.Own != 1 {
		t.Errorf("the feed: %+v", i)
	}
}

// A mount of all buckets has each as a directory.
func TestFeedOfAnAccount(t *testing.T) {
	x := feed(t, "s3://*", memufs.New(memufs.Options{}), "webhook")
	x.put("b/pre/f", "1")
	x.want("first", x.get("b/pre/f"), "1")
	x.put("b/pre/f", "2")
	if told := x.tell("f"); told.Taken != 1 {
		t.Errorf("told: %+v", told)
	}
	x.want("told", x.get("b/pre/f"), "2")
}

// What others change while Sluice changes the same name, or a directory above it, and has done so in the store already, is compared
// once that has ended: its outcome is a newer fact than what was told.
func TestFeedDuringChange(t *testing.T) {
	there := func(x *fed, name string) bool {
		_, err := x.behind.Stat(x.ctx, name)
		return err == nil
	}
	write := func(x *fed, name string) error {
		w, err := x.ns.Create(x.ctx, x.path("/m/"+name), core.CreateOptions{Size: -1})
		if err == nil {
			_, _ = io.WriteString(w, "own")
			_, err = w.Commit(x.ctx, core.CommitOptions{})
		}
		return err
	}
	for _, c := range []struct {
		what, known, told string // a name that is known before, and that is told
		rules             []wrap.Op
		change            func(x *fed) error
		made              func(x *fed) bool // in the store
	}{
		{"remove", "d/f", "d/f", []wrap.Op{wrap.Remove}, func(x *fed) error { return x.ns.Remove(x.ctx, x.path("/m/d/f"), core.RemoveOptions{}) },
			func(x *fed) bool { return !there(x, "d/f") }},
		{"remove a tree", "d/f", "d/new", []wrap.Op{wrap.Remove, wrap.RemoveFiles},
			func(x *fed) error {
				return x.ns.Remove(x.ctx, x.path("/m/d/"), core.RemoveOptions{Recursive: true})
			},
			func(x *fed) bool { return !there(x, "d/f") }},
		{"create", "d/e", "d/f", []wrap.Op{wrap.Commit}, func(x *fed) error { return write(x, "d/f") }, func(x *fed) bool { return there(x, "d/f") }},
		{"overwrite", "d/f", "d/f", []wrap.Op{wrap.Commit}, func(x *fed) error { return write(x, "d/f") },
			func(x *fed) bool {
				i, err := x.behind.Stat(x.ctx, "d/f")
				return err == nil && i.Size == 3
			}},
	} {
		t.Run(c.what, func(t *testing.T) {
			x := feed(t, "s3://b/pre", memufs.New(memufs.Options{}), "webhook")
			x.put(c.known, "1")
			x.want("known", x.get(c.known), "1")
			goOn, done := make(chan struct{}), make(chan error, 1)
			for _, op := range c.rules {
				x.faulty.Add(wrap.Rule{Op: op, After: true, Wait: goOn})
			}
			go func() { done <- c.change(x) }()
			x.wait("the store has changed", func() bool { return c.made(x) })
			x.put(c.told, "foreign")
			x.tell(c.told)
			close(goOn)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			x.wait("what others changed", func() bool { return x.get(c.told) == "foreign" && x.info().Pending == 0 })
			if names := strings.Fields(x.list("d/")); !slices.Contains(names, c.told[len("d/"):]) {
				t.Errorf("its directory has %v", names)
			}
		})
	}
}

// Who may tell is looked up once for each state of the mount table, and not for everybody who tries; where it cannot be known, who
// tells is asked to tell again.
func TestFeedTokens(t *testing.T) {
	kv, ctx := memkv.New(), core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	var looked atomic.Int64
	run := func(key byte, do func(ns *namespace.Namespace)) {
		t.Helper()
		cache := page.NewCache(mempage.New(1<<20), page.CacheOptions{})
		defer cache.Close()
		ns, err := namespace.Open(ctx, namespace.Options{
			KV: kv, Cache: cache, Root: memufs.New(memufs.Options{Dirs: true}), Member: "test", SecretKey: bytes.Repeat([]byte{key}, seal.KeySize),
			OpenStore:    func(context.Context, core.MountSpec) (ufs.Store, error) { return memufs.New(memufs.Options{}), nil },
			EventOptions: func(m core.MountSpec) map[string]string { looked.Add(1); return m.Options },
		})
		if err != nil {
			t.Fatal(err)
		}
		life, stop := context.WithCancel(ctx)
		ready, ended := make(chan struct{}), make(chan struct{})
		go func() { defer close(ended); ns.Run(life, func() { close(ready) }) }()
		defer func() { stop(); <-ended; ns.Close() }()
		<-ready
		do(ns)
	}
	path := func(s string) core.Path {
		p, err := core.ParsePath(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	asks := func(ns *namespace.Namespace, what, token string, want errs.Kind) {
		t.Helper()
		before := looked.Load()
		for range 100 {
			err := ns.MayTell(context.Background(), token)
			if got := errs.KindOf(err); got != want && (err != nil || want != 0) || err != nil && token != "" && strings.Contains(err.Error(), token) {
				t.Fatalf("%s: got %v, want %v", what, err, want)
			}
		}
		if n := looked.Load() - before; n > 10 {
			t.Errorf("%s: the options of mounts were looked at %d times for 100 tries", what, n)
		}
	}
	hint := []core.Hint{{Store: "s3://b", Key: "f"}}
	run(1, func(ns *namespace.Namespace) {
		if _, err := ns.SetSecret(ctx, "s", map[string]string{"events_token": token + "named"}, core.LifeOptions{}); err != nil {
			t.Fatal(err)
		}
		for at, options := range map[string]map[string]string{"/m": {"events": "webhook", "events_token": token}, "/n": {"events": "webhook", "secret": "s"}} {
			if _, err := ns.Mount(ctx, core.MountSpec{Path: path(at), URI: "s3://b", ReadOnly: true, Options: options}); err != nil {
				t.Fatal(err)
			}
		}
		asks(ns, "a mount's token", token, 0)
		asks(ns, "that of a named secret", token+"named", 0)
		asks(ns, "no mount's", token+"other", errs.Permission)
		asks(ns, "none", "", errs.Permission)
		if _, err := ns.SetSecret(ctx, "s", map[string]string{"events_token": token + "new"}, core.LifeOptions{}); err != nil {
			t.Fatal(err)
		}
		asks(ns, "one that was replaced", token+"named", errs.Permission)
		asks(ns, "the one in its place", token+"new", 0)
	})
	run(2, func(ns *namespace.Namespace) { // under which the secrets cannot be read
		asks(ns, "a token that cannot be compared", token, errs.Unavailable)
		asks(ns, "none", "", errs.Permission)
		if _, err := ns.Told(context.Background(), token, hint); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("told with a token that cannot be compared: %v", err)
		}
		if _, err := ns.Told(ctx, "", hint); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "sluice mount ls") {
			t.Errorf("a superuser tells of a mount that is not open: %v", err)
		}
	})
}
