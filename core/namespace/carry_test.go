package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// carrying is a namespace over a store that renames by copying, one of whose copies waits.
type carrying struct {
	t     *testing.T
	ctx   context.Context
	kv    meta.KV
	store ufs.Store
	slow  *wrap.Faulty
	gate  chan struct{}
	open  func()
	n     *namespace.Namespace
	stop  func()
	in    string // the etcd cluster that the journal is in
}

func newCarrying(t *testing.T) *carrying {
	c := &carrying{t: t, kv: memkv.New(), store: memufs.New(memufs.Options{}), gate: make(chan struct{}), in: "c1"}
	c.ctx = core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	c.slow, c.open = wrap.Fault(c.store), sync.OnceFunc(func() { close(c.gate) })
	t.Cleanup(func() { c.open(); c.stop() })
	c.lead(50 * time.Millisecond)
	return c
}

// lead has another process lead.
func (c *carrying) lead(through time.Duration) {
	c.t.Helper()
	if c.stop != nil {
		c.stop()
	}
	c.n, c.stop = leading(c.t, 1<<20, namespace.Options{KV: c.kv, Answer: func(v any) []byte { return fmt.Append(nil, v) }, Root: c.slow, WatchOpen: time.Nanosecond, RenameThrough: through, Store: c.in,
		SecretKey: make([]byte, 32), OpenStore: func(context.Context, core.MountSpec) (ufs.Store, error) { return memufs.New(memufs.Options{}), nil }})
}

func (c *carrying) path(s string) core.Path {
	c.t.Helper()
	return parse(c.t, s)
}

func (c *carrying) put(name, data string) error {
	w, err := c.n.Create(c.ctx, c.path(name), core.CreateOptions{Size: int64(len(data)), MakeParents: true})
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := io.WriteString(w, data); err != nil {
		return err
	}
	_, err = w.Commit(c.ctx, core.CommitOptions{})
	return err
}

func (c *carrying) get(name string) (string, error) {
	rd, err := c.n.Open(c.ctx, c.path(name), core.All)
	if err != nil {
		return "", err
	}
	defer rd.Close()
	b, err := io.ReadAll(rd)
	return string(b), err
}

// names returns all files, as a listing of everything shows them.
func (c *carrying) names() (all []string) {
	c.t.Helper()
	for i, err := range c.n.List(c.ctx, c.path("/"), core.ListOptions{}) {
		if err != nil {
			c.t.Fatal(err)
		}
		if !i.Dir {
			all = append(all, i.Path.String())
		}
	}
	return all
}

// shows fails the test unless all files, over listings and reads, are those of the directory.
func (c *carrying) shows(when, dir string, files int, but ...string) {
	c.t.Helper()
	var want []string
	for i := range files {
		want = append(want, fmt.Sprintf("%s/%d/f", dir, i))
	}
	want = append(want, but...)
	if got := c.names(); fmt.Sprint(got) != fmt.Sprint(want) {
		c.t.Errorf("%s: listed are %q, want %q", when, got, want)
	}
	for i := range files {
		if got, err := c.get(want[i]); err != nil || got != fmt.Sprint("data ", i) {
			c.t.Errorf("%s: %s holds %q, %v", when, want[i], got, err)
		}
	}
	for _, other := range []string{"/d", "/e"} {
		if _, err := c.n.Stat(c.ctx, c.path(fmt.Sprintf("%s/0/f", other))); (err == nil) != (other == dir) {
			c.t.Errorf("%s: %s/0/f: %v", when, other, err)
		}
	}
}

// carried waits until the store has everything under the new name, and nothing under the old one.
func (c *carrying) carried(files int) {
	c.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		old, now := 0, 0
		for in, err := range c.store.List(c.ctx, "", "", true) {
			switch {
			case err != nil:
				c.t.Fatal(err)
			case strings.HasPrefix(in.Name, "d/") && !in.Dir:
				old++
			case strings.HasPrefix(in.Name, "e/") && !in.Dir:
				now++
			}
		}
		x, err := c.n.Explain(c.ctx, c.path("/e/0/f"), core.ExplainOptions{})
		if err == nil && old == 0 && now == files && x.Carried == nil {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("the store has %d files under the old name and %d under the new one, %+v, %v", old, now, x.Carried, err)
		}
	}
}

// late puts files and begins a rename of d to e that is acknowledged before the store has copied everything.
func (c *carrying) late(files int) {
	c.t.Helper()
	for i := range files {
		if err := c.put(fmt.Sprintf("/d/%d/f", i), fmt.Sprint("data ", i)); err != nil {
			c.t.Fatal(err)
		}
	}
	c.begin(files)
}

// begin is late for files that are there.
func (c *carrying) begin(files int) {
	c.t.Helper()
	c.shows("before", "/d", files)
	c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: "d/1/f", Nth: 1, Wait: c.gate})
	job := ""
	ctx := core.WithNotes(c.ctx, func(what, value string) {
		if what == core.RenameInProgress {
			job = value
		}
	})
	if err := c.n.Rename(ctx, c.path("/d/"), c.path("/e/"), core.RenameOptions{}); err != nil {
		c.t.Fatal(err)
	}
	if job == "" {
		c.t.Error("nobody said that the rename is in progress")
	}
}

// TestRenameIsCarriedOn renames a directory on a store whose copy takes longer than the rename may. It is acknowledged, all readers see
// the new name alone, what changes there is told to come again, and it ends as if it had been in time.
func TestRenameIsCarriedOn(t *testing.T) {
	c := newCarrying(t)
	const files = 5
	c.late(files)
	c.shows("while it is carried on", "/e", files)
	reader, err := c.n.Open(c.ctx, c.path("/e/2/f"), core.All)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for what, err := range map[string]error{
		"put below the new name": c.put("/e/0/f", "other"), "new file": c.put("/e/new", "other"), "put below the old name": c.put("/d/0/f", "other"),
		"second rename":    c.n.Rename(c.ctx, c.path("/e/"), c.path("/g/"), core.RenameOptions{}),
		"rename of one":    c.n.Rename(c.ctx, c.path("/e/0/f"), c.path("/x"), core.RenameOptions{}),
		"remove":           c.n.Remove(c.ctx, c.path("/e/"), core.RemoveOptions{Recursive: true}),
		"remove of a file": c.n.Remove(c.ctx, c.path("/e/0/f"), core.RemoveOptions{}),
	} {
		if errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: %v, want it to be told to try again", what, err)
		}
	}
	if err := c.put("/elsewhere", "x"); err != nil {
		t.Error(err)
	}
	if x, err := c.n.Explain(c.ctx, c.path("/e/0/f"), core.ExplainOptions{}); err != nil || x.Carried == nil || x.Durability == nil || x.Durability.Why == "" {
		t.Errorf("explain says %+v, %+v, %v", x.Carried, x.Durability, err)
	}
	c.open()
	c.carried(files)
	c.shows("after", "/e", files, "/elsewhere")
	if b, err := io.ReadAll(reader); err != nil || string(b) != "data 2" {
		t.Errorf("a reader from before has %q, %v", b, err)
	}
	for i := range files { // what is written now is under the new name
		if err := c.put(fmt.Sprintf("/e/%d/f", i), "again"); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(c.put("/d/0/f", "data 0"), c.n.Remove(c.ctx, c.path("/e/"), core.RemoveOptions{Recursive: true}), c.n.Remove(c.ctx, c.path("/elsewhere"), core.RemoveOptions{})); err != nil {
		t.Fatal(err)
	}
	c.shows("a new file of the old name", "/d", 1)
}

// TestRenameIsCarriedOnByAnother ends the process while a rename is carried on. The next one shows the new name alone, copies what is not
// there yet and nothing twice.
func TestRenameIsCarriedOnByAnother(t *testing.T) {
	c := newCarrying(t)
	const files = 8
	c.late(files)
	c.lead(time.Hour)
	c.shows("after a takeover", "/e", files)
	c.open()
	c.carried(files)
	c.shows("after", "/e", files)
	c.lead(time.Hour)
	c.shows("after another takeover", "/e", files)
	if check, err := c.n.Check(c.ctx, core.CheckOptions{Stores: true}); err != nil || len(check.Findings) > 0 {
		t.Errorf("%+v, %v", check.Findings, err)
	}
}

// TestRenameIsAnsweredAgain asks again what became of a rename that was answered early, by the name of the call: it is in progress still.
func TestRenameIsAnsweredAgain(t *testing.T) {
	c := newCarrying(t)
	call := core.Call{Session: [16]byte{7}, Sequence: 1, Below: 1}
	if _, err := c.n.OpenSession(c.ctx, call.Session); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.put("/d/0/f", "data 0"), c.put("/d/1/f", "data 1")); err != nil {
		t.Fatal(err)
	}
	root := c.ctx
	c.ctx = core.WithCall(root, call)
	c.begin(2)
	c.ctx = root
	c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: "d/1/f", Wait: c.gate}) // those of the next leaders, too
	for range 2 {
		id := c.renames().ID
		if got, err := c.n.Answered(c.ctx, call); err != nil || id == "" || string(got) != id {
			t.Errorf("answered is %q, %v, want %q", got, err, id)
		}
		c.lead(time.Hour)
	}
	c.open()
	c.carried(2)
}

// TestRenameOfStrangersIsCarriedOn is TestRenameIsCarriedOn for files of which the journal knows nothing, onto an empty directory that is
// replaced.
func TestRenameOfStrangersIsCarriedOn(t *testing.T) {
	c := newCarrying(t)
	const files = 4
	for i := range files {
		if _, err := ufs.WriteFile(c.ctx, c.store, fmt.Sprintf("d/%d/f", i), fmt.Append(nil, "data ", i), ufs.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.n.Mkdir(c.ctx, c.path("/e/"), core.MkdirOptions{}); err != nil {
		t.Fatal(err)
	}
	c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: "d/2/f", Nth: 1, Wait: c.gate})
	if err := c.n.Rename(c.ctx, c.path("/d/"), c.path("/e/"), core.RenameOptions{Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	c.shows("while it is carried on", "/e", files)
	if got := c.n.Carries(); got != (namespace.Carries{Open: 1, Late: 1}) {
		t.Errorf("counted are %+v", got)
	}
	c.lead(time.Hour)
	c.shows("after a takeover", "/e", files)
	c.open()
	c.carried(files)
	c.shows("after", "/e", files)
	if got := c.n.Carries(); got != (namespace.Carries{}) {
		t.Errorf("counted are %+v", got)
	}
}

// TestRenameIsCarriedThroughStorm reads everything while a rename is acknowledged, carried on and ends: every listing shows all
// files under one of the names, and every read of one of these is its bytes.
func TestRenameIsCarriedThroughStorm(t *testing.T) {
	c := newCarrying(t)
	const files = 6
	stop := make(chan struct{})
	var g sync.WaitGroup
	started := make(chan struct{})
	for range 4 {
		g.Go(func() {
			<-started
			for {
				select {
				case <-stop:
					return
				default:
				}
				dirs := map[string]int{}
				for _, name := range c.names() {
					dirs[name[:2]]++
				}
				if len(dirs) != 1 || dirs["/d"] != files && dirs["/e"] != files {
					t.Errorf("a listing shows %v", dirs)
					return
				}
				for i := range files {
					got, err := c.get(fmt.Sprintf("/e/%d/f", i))
					if err == nil && got != fmt.Sprint("data ", i) || err != nil && errs.KindOf(err) != errs.NotExist {
						t.Errorf("file %d: %q, %v", i, got, err)
						return
					}
					if err != nil && dirs["/e"] > 0 {
						t.Errorf("file %d was listed and is gone: %v", i, err)
						return
					}
				}
			}
		})
	}
	for i := range files {
		if err := c.put(fmt.Sprintf("/d/%d/f", i), fmt.Sprint("data ", i)); err != nil {
			t.Fatal(err)
		}
	}
	close(started)
	c.begin(files)
	c.open()
	c.carried(files)
	close(stop)
	g.Wait()
}

// stranger writes to the store what Sluice does not know of.
func (c *carrying) stranger(name, data string) {
	c.t.Helper()
	if _, err := ufs.WriteFile(c.ctx, c.store, name, []byte(data), ufs.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// has returns all files of the store.
func (c *carrying) has() map[string]string {
	c.t.Helper()
	all := map[string]string{}
	for in, err := range c.store.List(c.ctx, "", "", true) {
		if err != nil {
			c.t.Fatal(err)
		}
		if in.Dir {
			continue
		}
		rc, err := c.store.Open(c.ctx, in.Name, 0, -1, "")
		if isKind(err, errs.NotExist) {
			continue
		}
		if err != nil {
			c.t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		rc.Close()
		if err != nil {
			c.t.Fatal(err)
		}
		all[in.Name] = string(b)
	}
	return all
}

func isKind(err error, k errs.Kind) bool { return err != nil && errs.KindOf(err) == k }

// until waits for ok.
func (c *carrying) until(what string, ok func() bool) {
	c.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			c.t.Fatalf("not yet: %s; the store has %v", what, c.has())
		}
	}
}

// copied waits until all copies but that which waits are there.
func (c *carrying) copied(files int) {
	c.t.Helper()
	c.until("the copies", func() bool {
		n := 0
		for name := range c.has() {
			if strings.HasPrefix(name, "e/") {
				n++
			}
		}
		return n == files-1
	})
}

// TestRenameCarriesWhatCameMeanwhile has a stranger overwrite a file that is copied already while the next leader looks for what is. Its
// bytes go to the new name: they are not taken for those that were copied.
func TestRenameCarriesWhatCameMeanwhile(t *testing.T) {
	c := newCarrying(t)
	const files = 4
	c.late(files)
	c.copied(files)
	c.stop()
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	defer open()
	was := c.slow.Calls(wrap.List)
	c.slow.Add(wrap.Rule{Op: wrap.List, Name: "e/", Wait: gate, Nth: 1})
	c.lead(time.Hour)
	c.until("a listing of the copies", func() bool { return c.slow.Calls(wrap.List) >= was+2 })
	c.stranger("d/0/f", "STRANGER")
	open()
	c.open()
	c.carried(files)
	if got := c.has()["e/0/f"]; got != "STRANGER" {
		t.Errorf("the store has %q, want what was written last", got)
	}
}

// TestRenameLeavesStrangersAlone has a stranger write below the old name while a rename is carried on, and a removal of an original fail
// once: what was not copied is not removed, by this process or the next.
func TestRenameLeavesStrangersAlone(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		t.Run(fmt.Sprint("takeover ", takeover), func(t *testing.T) {
			c := newCarrying(t)
			const files = 4
			c.late(files)
			c.copied(files)
			nth := 1
			if takeover {
				nth = 0
			}
			c.slow.Add(wrap.Rule{Op: wrap.Remove, Name: "d/2/f", Nth: nth, Err: errs.New("x", "", errs.Unavailable, "503")})
			c.slow.Add(wrap.Rule{Op: wrap.Remove, Name: "d/3/f", Wait: c.gate})
			was := c.slow.Calls(wrap.Remove)
			c.open()
			c.until("the removal of the originals", func() bool { return c.slow.Calls(wrap.Remove) >= was+files })
			c.stranger("d/0/new", "NEW")
			c.stranger("d/1/f", "STRANGER")
			if takeover {
				c.stop()
				c.slow.Heal()
				c.lead(time.Hour)
			}
			c.until("the old name shows again", func() bool { got, err := c.get("/d/0/new"); return err == nil && got == "NEW" })
			if got := c.has(); got["d/0/new"] != "NEW" || got["d/1/f"] != "STRANGER" || got["e/1/f"] != "data 1" || got["d/0/f"]+got["d/2/f"]+got["d/3/f"] != "" {
				t.Errorf("the store has %v", got)
			}
			if got, want := fmt.Sprint(c.names()), "[/d/0/new /d/1/f /e/0/f /e/1/f /e/2/f /e/3/f]"; got != want {
				t.Errorf("listed are %s, want %s", got, want)
			}
		})
	}
}

// TestRenameBeforeRestore restores a journal from the middle of a rename that is carried on. While changes are held its files have one
// name, the new one, and after the release the old one: what is written or removed there is no other's.
func TestRenameBeforeRestore(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprint("through ", through), func(t *testing.T) {
			c := newCarrying(t)
			const files = 4
			c.late(files)
			c.copied(files)
			saved := copyKV(t, c.kv)
			if through {
				c.open()
				c.carried(files)
			}
			c.stop()
			c.kv, c.in = saved, "c2"
			c.lead(50 * time.Millisecond)
			if !through {
				c.shows("held", "/e", files)
			}
			if _, err := c.n.Release(c.ctx, core.ReleaseOptions{AcceptMissing: true}); err != nil {
				t.Fatal(err)
			}
			if through {
				c.shows("released", "/e", files)
				return
			}
			for i := range files {
				if got, err := c.get(fmt.Sprintf("/d/%d/f", i)); err != nil || got != fmt.Sprint("data ", i) {
					t.Errorf("file %d: %q, %v", i, got, err)
				}
			}
			if err := c.put("/d/0/f", "SECOND"); err != nil {
				t.Fatal(err)
			}
			if got, err := c.get("/e/0/f"); err != nil || got != "data 0" {
				t.Errorf("the copy is %q, %v", got, err)
			}
			if err := c.n.Remove(c.ctx, c.path("/d/"), core.RemoveOptions{Recursive: true}); err != nil {
				t.Fatal(err)
			}
			if got, want := fmt.Sprint(c.names()), "[/e/0/f /e/2/f /e/3/f]"; got != want {
				t.Errorf("left are %s, want %s", got, want)
			}
			if check, err := c.n.Check(c.ctx, core.CheckOptions{Stores: true}); err != nil || len(check.Findings) > 0 {
				t.Errorf("%+v, %v", check.Findings, err)
			}
		})
	}
}

// TestRenameKeepsItsOldName mounts at the old name of a rename that is carried on, and checks the journal.
func TestRenameKeepsItsOldName(t *testing.T) {
	c := newCarrying(t)
	const files = 3
	c.late(files)
	if _, err := c.n.Mount(c.ctx, core.MountSpec{Path: c.path("/d/"), URI: "test://x"}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("a mount at the old name: %v, want it to be told to try again", err)
	}
	if check, err := c.n.Check(c.ctx, core.CheckOptions{}); err != nil || len(check.Findings) > 0 {
		t.Errorf("%+v, %v", check.Findings, err)
	}
	c.shows("after", "/e", files)
	c.open()
	c.carried(files)
}

// TestRenameCatchesUp has strangers overwrite, add and remove files while a rename is carried on: it carries what is there at its end.
func TestRenameCatchesUp(t *testing.T) {
	c := newCarrying(t)
	const files = 4
	c.late(files)
	c.copied(files)
	c.stranger("d/0/f", "STRANGER")
	c.stranger("d/new", "NEW")
	if err := c.store.Remove(c.ctx, "d/3/f", ""); err != nil {
		t.Fatal(err)
	}
	c.open()
	c.carried(files)
	want := map[string]string{"e/0/f": "STRANGER", "e/1/f": "data 1", "e/2/f": "data 2", "e/new": "NEW"}
	if got := c.has(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the store has %v, want %v", got, want)
	}
}

// TestRenamesCarriedAreFew has more renames be late than are carried on at once: the last is answered when it is through.
func TestRenamesCarriedAreFew(t *testing.T) {
	c := newCarrying(t)
	const most = 4
	for i := range most + 1 {
		if err := c.put(fmt.Sprintf("/d%d/f", i), "data"); err != nil {
			t.Fatal(err)
		}
	}
	c.slow.Add(wrap.Rule{Op: wrap.Copy, Wait: c.gate})
	done := make(chan error, 1)
	for i := range most + 1 {
		rename := func() error {
			return c.n.Rename(c.ctx, c.path(fmt.Sprintf("/d%d/", i)), c.path(fmt.Sprintf("/e%d/", i)), core.RenameOptions{})
		}
		if i == most {
			go func() { done <- rename() }()
		} else if err := rename(); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		t.Errorf("one more was answered early: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	if got := c.n.Carries().Late; got != most {
		t.Errorf("%d are late, want %d", got, most)
	}
	c.open()
	if err := <-done; err != nil {
		t.Error(err)
	}
	c.until("the end of those that were late", func() bool { return c.n.Carries().Open == 0 })
	c.slow.Heal()
	if err := errors.Join(c.put("/d/f", "data"), c.n.Rename(c.ctx, c.path("/d/"), c.path("/e/"), core.RenameOptions{}),
		c.n.Rename(c.ctx, c.path("/e/f"), c.path("/f"), core.RenameOptions{})); err != nil {
		t.Fatal(err)
	}
	if got := c.n.Carries(); got != (namespace.Carries{Late: most}) { // neither the one that waited nor those that were in time
		t.Errorf("counted are %+v, want %d late", got, most)
	}
}

// renames returns what is told of the one rename that is not carried through, the zero value if there is none.
func (c *carrying) renames() core.CarriedRename {
	c.t.Helper()
	all, err := c.n.CarriedRenames(c.ctx)
	if err != nil || len(all) > 1 {
		c.t.Fatalf("%+v, %v", all, err)
	}
	if len(all) == 0 {
		return core.CarriedRename{}
	}
	return all[0]
}

// TestRenameGoesOnWithoutWhatIsGone has a file leave the store before it is copied, with a copy that is lost on the way or of another
// version, and one after. The rename is carried through, and these names are gone.
func TestRenameGoesOnWithoutWhatIsGone(t *testing.T) {
	t.Parallel()
	c := newCarrying(t)
	const files = 5
	c.late(files)
	c.copied(files)
	for _, gone := range []string{"d/1/f", "d/3/f"} {
		if err := c.store.Remove(c.ctx, gone, ""); err != nil {
			t.Fatal(err)
		}
	}
	c.open()
	c.carried(files - 2)
	if got, want := fmt.Sprint(c.names()), "[/e/0/f /e/2/f /e/4/f]"; got != want {
		t.Errorf("listed are %s, want %s", got, want)
	}
	if got := c.n.Carries(); got != (namespace.Carries{Late: 1, Gone: 2}) {
		t.Errorf("counted are %+v", got)
	}
	if err := c.put("/e/1/f", "again"); err != nil {
		t.Errorf("a new file of the name: %v", err)
	}
	if check, err := c.n.Check(c.ctx, core.CheckOptions{Stores: true}); err != nil || len(check.Findings) > 0 {
		t.Errorf("%+v, %v", check.Findings, err)
	}
}

// TestRenameOfWhatIsRefused has a store refuse the copy of a file, for good as far as one knows. All else is copied, once; the name stays
// what it is, and it is told why, how many are left, since when and when it is tried again, by the next leader too. It ends when the file
// can be copied, or is taken away.
func TestRenameOfWhatIsRefused(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprint("away ", away), func(t *testing.T) {
			t.Parallel() // most of it is waiting
			c := newCarrying(t)
			const files = 6
			for i := range files {
				if err := c.put(fmt.Sprintf("/d/%d/f", i), fmt.Sprint("data ", i)); err != nil {
					t.Fatal(err)
				}
			}
			refusal := errs.New("x", "", errs.Permission, "403 AccessDenied")
			c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: "d/1/f", Nth: 1, Wait: c.gate, Err: refusal})
			c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: "d/1/f", Err: refusal})
			began := time.Now()
			if err := c.n.Rename(c.ctx, c.path("/d/"), c.path("/e/"), core.RenameOptions{}); err != nil {
				t.Fatal(err)
			}
			c.open()
			told := func(when string) {
				t.Helper()
				c.until("a try that failed "+when, func() bool { r := c.renames(); return r.Counted && r.Err != nil })
				r := c.renames()
				if r.From != "/d/" || r.To != "/e/" || r.Removing || !errors.Is(r.Err, errs.Permission) || r.Copied != files-1 || r.Left != 1 ||
					r.Since.Before(began) || r.Since.After(time.Now()) || r.Tries < 1 || r.Next.Before(began) {
					t.Errorf("%s: told is %+v", when, r)
				}
				if len(r.Refused) != 1 || r.Refused[0].Path != c.path("/e/1/f") || !errors.Is(r.Refused[0].Err, errs.Permission) {
					t.Errorf("%s: refused are %+v", when, r.Refused)
				}
				if x, err := c.n.Explain(c.ctx, c.path("/e/1/f"), core.ExplainOptions{}); err != nil || x.Carried == nil || x.Carried.ID != r.ID {
					t.Errorf("%s: explain says %+v, %v", when, x.Carried, err)
				}
				if got := c.n.Carries(); got.Open != 1 || got.Failing != 1 {
					t.Errorf("%s: counted are %+v", when, got)
				}
				c.shows(when, "/e", files)
				if err := c.put("/e/1/f", "other"); errs.KindOf(err) != errs.Unavailable {
					t.Errorf("%s: a put below the name: %v, want it to be told to try again", when, err)
				}
			}
			told("by who began")
			was := c.slow.Calls(wrap.Copy)
			tries := c.renames().Tries
			c.until("another try", func() bool { return c.renames().Tries > tries })
			if got := c.slow.Calls(wrap.Copy) - was; got < 1 || got > 3 {
				t.Errorf("%d copies by another try, want that of the one file", got)
			}
			c.lead(time.Hour)
			told("by the next leader")
			ctx := core.WithPrincipal(c.ctx, core.Principal{User: "ann"})
			if x, err := c.n.Explain(ctx, c.path("/e/1/f"), core.ExplainOptions{}); err != nil || x.Carried == nil || x.Carried.Err != nil || x.Carried.Refused != nil {
				t.Errorf("others are told %+v, %v", x.Carried, err)
			}
			if _, err := c.n.CarriedRenames(ctx); errs.KindOf(err) != errs.Permission {
				t.Errorf("others list all renames: %v", err)
			}
			if !away {
				c.slow.Heal()
				c.carried(files)
				c.shows("after", "/e", files)
				return
			}
			if err := c.store.Remove(c.ctx, "d/1/f", ""); err != nil {
				t.Fatal(err)
			}
			c.carried(files - 1)
			if got, want := fmt.Sprint(c.names()), "[/e/0/f /e/2/f /e/3/f /e/4/f /e/5/f]"; got != want {
				t.Errorf("listed are %s, want %s", got, want)
			}
			if r := c.renames(); r.ID != "" {
				t.Errorf("still told is %+v", r)
			}
			if got := c.n.Carries().Gone; got != 1 {
				t.Errorf("%d files are counted as gone, want 1", got)
			}
		})
	}
}

// TestRenameForgetsWhatWasRefused has a store refuse the copy of a file, and then not even list it: the last try was not refused that file.
func TestRenameForgetsWhatWasRefused(t *testing.T) {
	t.Parallel()
	c := newCarrying(t)
	if err := c.put("/d/f", "data"); err != nil {
		t.Fatal(err)
	}
	refusal := errs.New("x", "", errs.Permission, "403 AccessDenied")
	c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: "d/f", Nth: 1, Wait: c.gate, Err: refusal})
	c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: "d/f", Err: refusal})
	if err := c.n.Rename(c.ctx, c.path("/d/"), c.path("/e/"), core.RenameOptions{}); err != nil {
		t.Fatal(err)
	}
	c.open()
	c.until("a refusal", func() bool { return len(c.renames().Refused) > 0 })
	c.slow.Add(wrap.Rule{Op: wrap.List, Name: "d/", Err: errs.New("x", "", errs.Unavailable, "it is away")})
	c.until("a try that could not list", func() bool { return errors.Is(c.renames().Err, errs.Unavailable) })
	if r := c.renames(); len(r.Refused) > 0 {
		t.Errorf("refused are still %+v", r.Refused)
	}
	c.slow.Heal()
	c.carried(1)
}

// TestRenameNamesWhatIsRefused has a store refuse the copies of many files: the first few are named, by their new names, until they can be
// copied.
func TestRenameNamesWhatIsRefused(t *testing.T) {
	t.Parallel()
	c := newCarrying(t)
	const files, refused = 3, core.MaxRefused + 2
	c.late(files)
	for i := range refused {
		name := fmt.Sprintf("d/n%d", i)
		c.stranger(name, "new")
		c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: name, Err: errs.New("x", name, errs.Permission, "403 AccessDenied")})
	}
	c.open()
	c.until("a try that failed", func() bool { return c.renames().Tries > 0 })
	r := c.renames()
	if r.Left != refused || len(r.Refused) != core.MaxRefused {
		t.Errorf("told is %+v", r)
	}
	for i, f := range r.Refused {
		if at := c.path(fmt.Sprintf("/e/n%d", i)); f.Path != at || !errors.Is(f.Err, errs.Permission) {
			t.Errorf("refused is %v: %v, want %v", f.Path, f.Err, at)
		}
	}
	c.slow.Heal()
	c.carried(files + refused)
}

// TestRenameTakesBackStaleCopies has a file change after it was copied and its store refuse the copy of that, and then the file be
// removed: what was copied of it does not stay under the new name. What may be a stranger's does: he may have moved the file himself.
func TestRenameTakesBackStaleCopies(t *testing.T) {
	for name, what := range map[string]struct {
		change, other string // written over the original, and over its copy
		late          bool   // so that the copy is not the last that was made of the name
		fault         wrap.Rule
	}{
		"refused":    {change: "CHANGED", fault: wrap.Rule{Err: errs.New("x", "", errs.Permission, "403 AccessDenied")}},
		"moved":      {change: "CHANGED", other: "data 2", late: true, fault: wrap.Rule{Err: errs.New("x", "", errs.Permission, "403 AccessDenied")}},
		"unanswered": {other: "data 2", fault: wrap.Rule{After: true, Err: errs.New("x", "", errs.Unavailable, "503")}},
		"a stranger": {other: "MINE", fault: wrap.Rule{After: true, Err: errs.New("x", "", errs.Unavailable, "503")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			c := newCarrying(t)
			const files = 4
			what.fault.Op, what.fault.Name = wrap.Copy, "d/2/f"
			if what.change == "" {
				what.fault.Wait, what.fault.Nth = c.gate, 1 // the rename is answered first
				c.slow.Add(what.fault)
				c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: "d/2/f", Err: errs.New("x", "", errs.Permission, "403 AccessDenied")})
			}
			c.late(files)
			c.copied(files)
			if what.change != "" {
				c.stranger("d/2/f", what.change)
				c.slow.Add(what.fault)
			}
			c.open()
			c.until("a try that failed", func() bool { return c.renames().Tries > 0 })
			left := files - 1
			if what.other != "" {
				left++
			}
			if what.other != "" && (what.late || what.other != "data 2") {
				c.stranger("e/2/f", what.other)
			}
			if err := c.store.Remove(c.ctx, "d/2/f", ""); err != nil {
				t.Fatal(err)
			}
			c.carried(left)
			if got := c.has()["e/2/f"]; got != what.other {
				t.Errorf("under the new name is %q, want %q", got, what.other)
			}
			if got := c.n.Carries(); got != (namespace.Carries{Late: 1, Gone: 1}) {
				t.Errorf("counted are %+v", got)
			}
			if what.other != "" {
				return
			}
			if got, want := fmt.Sprint(c.names()), "[/e/0/f /e/1/f /e/3/f]"; got != want {
				t.Errorf("listed are %s, want %s", got, want)
			}
		})
	}
}

// TestRenameTellsOfItsOriginals has a store refuse to remove an original: it is told why, by the next leader too.
func TestRenameTellsOfItsOriginals(t *testing.T) {
	t.Parallel()
	c := newCarrying(t)
	const files = 3
	c.late(files)
	c.slow.Add(wrap.Rule{Op: wrap.Remove, Name: "d/2/f", Err: errs.New("x", "", errs.Permission, "403 AccessDenied")})
	c.open()
	for _, who := range []string{"who began", "the next leader"} {
		c.until("a removal that failed by "+who, func() bool { r := c.renames(); return r.Removing && r.Err != nil })
		r := c.renames()
		if !errors.Is(r.Err, errs.Permission) || r.From != "/d/" || r.Tries < 1 || r.Next.IsZero() {
			t.Errorf("%s: told is %+v", who, r)
		}
		if x, err := c.n.Explain(c.ctx, c.path("/d/2/f"), core.ExplainOptions{}); err != nil || x.Carried == nil || !errors.Is(x.Carried.Err, errs.Permission) {
			t.Errorf("%s: explain says %+v, %v", who, x.Carried, err)
		}
		if got := c.n.Carries().Failing; got != 1 {
			t.Errorf("%s: %d are failing, want 1", who, got)
		}
		c.shows(who, "/e", files)
		if who == "who began" {
			c.lead(time.Hour)
		}
	}
	c.slow.Heal()
	c.carried(files)
	c.until("the end", func() bool { return c.renames().ID == "" })
	if got := c.n.Carries(); got != (namespace.Carries{}) {
		t.Errorf("counted are %+v", got)
	}
}

// TestRenameTakesItsTime has another process remove originals longer than one look at what is unfinished may take: that is no failure, and
// nothing is begun again.
func TestRenameTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCarrying(t)
		const files = 3
		c.late(files)
		c.slow.Add(wrap.Rule{Op: wrap.Remove, Name: "d/2/f", Err: errs.New("x", "", errs.Permission, "403 AccessDenied")})
		c.open()
		c.until("a removal that failed", func() bool { r := c.renames(); return r.Removing && r.Err != nil })
		c.stop()
		c.slow.Heal()
		c.slow.Add(wrap.Rule{Op: wrap.Remove, Name: "d/2/f", Delay: 5 * time.Minute})
		c.slow.Add(wrap.Rule{Op: wrap.RemoveFiles, Delay: 5 * time.Minute})
		c.lead(time.Hour)
		lists := c.slow.Calls(wrap.List)
		for range 4 {
			<-time.After(time.Minute)
			if r := c.renames(); !r.Removing || r.Tries != 0 || r.Err != nil {
				t.Errorf("told is %+v", r)
			}
			if got := c.n.Carries().Failing; got != 0 {
				t.Errorf("%d are failing, want 0", got)
			}
			if got := c.slow.Calls(wrap.List) - lists; got > 2 {
				t.Errorf("the store has listed %d times since it was taken over", got)
			}
		}
		<-time.After(2 * time.Minute)
		c.carried(files)
		if r := c.renames(); r.ID != "" {
			t.Errorf("still told is %+v", r)
		}
	})
}

// TestRenameKeepsNobodyWaiting has a store take minutes for the removal of an original, by the process that renamed and by the next one.
// Who would change the old name, or what holds it, is told at once to try again, and all else goes on.
func TestRenameKeepsNobodyWaiting(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		t.Run(fmt.Sprint("takeover ", takeover), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCarrying(t)
				const files = 3
				for i := range files {
					if err := c.put(fmt.Sprintf("/a/d/%d/f", i), fmt.Sprint("data ", i)); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.put("/a/x", "x"); err != nil {
					t.Fatal(err)
				}
				const slowly = 5 * time.Minute
				slow := func() {
					c.slow.Add(wrap.Rule{Op: wrap.Remove, Name: "a/d/2/f", Delay: slowly})
					c.slow.Add(wrap.Rule{Op: wrap.RemoveFiles, Delay: slowly})
				}
				c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: "a/d/1/f", Nth: 1, Wait: c.gate})
				if takeover {
					c.slow.Add(wrap.Rule{Op: wrap.Remove, Name: "a/d/2/f", Err: errs.New("x", "", errs.Permission, "403 AccessDenied")})
				} else {
					slow()
				}
				if err := c.n.Rename(c.ctx, c.path("/a/d/"), c.path("/e/"), core.RenameOptions{}); err != nil {
					t.Fatal(err)
				}
				c.open()
				c.until("the removal", func() bool { return c.renames().Removing })
				if takeover {
					c.until("a removal that failed", func() bool { return c.renames().Err != nil })
					c.stop()
					c.slow.Heal()
					slow()
					c.lead(time.Hour)
				}
				<-time.After(time.Second)
				began := time.Now()
				for _, x := range []struct {
					what string
					do   func() error
				}{
					{"remove of what holds it", func() error { return c.n.Remove(c.ctx, c.path("/a/"), core.RemoveOptions{Recursive: true}) }},
					{"rename of what holds it", func() error { return c.n.Rename(c.ctx, c.path("/a/"), c.path("/b/"), core.RenameOptions{}) }},
					{"put at the old name", func() error { return c.put("/a/d/0/f", "other") }},
					{"directory of the old name", func() error {
						_, err := c.n.Mkdir(c.ctx, c.path("/a/d/"), core.MkdirOptions{})
						return err
					}},
					{"rename to the old name", func() error { return c.n.Rename(c.ctx, c.path("/e/"), c.path("/a/d/"), core.RenameOptions{}) }},
					{"mount at the old name", func() error {
						_, err := c.n.Mount(c.ctx, core.MountSpec{Path: c.path("/a/d/"), URI: "test://x"})
						return err
					}},
				} {
					if err := x.do(); errs.KindOf(err) != errs.Unavailable {
						t.Errorf("%s: %v, want it to be told to try again", x.what, err)
					}
				}
				if err := errors.Join(c.put("/a/y", "y"), c.put("/e/0/f", "again"), c.n.Remove(c.ctx, c.path("/a/y"), core.RemoveOptions{})); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > time.Minute {
					t.Errorf("it took %v", took)
				}
				if got, want := fmt.Sprint(c.names()), "[/a/x /e/0/f /e/1/f /e/2/f]"; got != want {
					t.Errorf("listed are %s, want %s", got, want)
				}
				if r := c.renames(); !r.Removing {
					t.Error("the removal did not last")
				}
				<-time.After(2 * slowly)
				c.until("the end", func() bool { return c.renames().ID == "" })
				if got, want := fmt.Sprint(c.has()), "map[a/x:x e/0/f:again e/1/f:data 1 e/2/f:data 2]"; got != want {
					t.Errorf("the store has %s, want %s", got, want)
				}
				if err := c.put("/a/d/0/f", "new"); err != nil {
					t.Error(err)
				}
				if check, err := c.n.Check(c.ctx, core.CheckOptions{Stores: true}); err != nil || len(check.Findings) > 0 {
					t.Errorf("%+v, %v", check.Findings, err)
				}
			})
		})
	}
}

// mounting has c's namespace lead again, with what OpenStore returns being store, and mounts that at /m/.
func (c *carrying) mounting(store ufs.Store) {
	c.t.Helper()
	c.stop()
	c.n, c.stop = leading(c.t, 1<<20, namespace.Options{KV: c.kv, Answer: func(v any) []byte { return fmt.Append(nil, v) }, Root: c.slow, WatchOpen: time.Nanosecond,
		RenameThrough: 50 * time.Millisecond, Store: c.in, SecretKey: make([]byte, 32), OpenStore: func(context.Context, core.MountSpec) (ufs.Store, error) { return store, nil }})
	if _, err := c.n.Mount(c.ctx, core.MountSpec{Path: c.path("/m/"), URI: "test://x"}); err != nil {
		c.t.Fatal(err)
	}
}

// TestRenameEndsWithItsMount takes a mount away, by force, while the originals of a rename in it are removed: that waits for the removals
// that have begun, changes nothing if they do not end, and nothing more is removed from its store after it.
func TestRenameEndsWithItsMount(t *testing.T) {
	away := map[string]func(*carrying) error{
		"unmount": func(c *carrying) error {
			_, err := c.n.RemoveMount(c.ctx, c.path("/m/"), core.LifeOptions{Force: true})
			return err
		},
		"switch": func(c *carrying) error {
			uri := "test://y"
			_, err := c.n.EditMount(c.ctx, c.path("/m/"), core.MountEdit{URI: &uri}, core.LifeOptions{Force: true})
			return err
		},
		"adopt": func(c *carrying) error {
			_, err := c.n.EditMount(c.ctx, c.path("/m/"), core.MountEdit{Adopt: true}, core.LifeOptions{})
			return err
		},
	}
	for what, take := range away {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCarrying(t)
				inner := memufs.New(memufs.Options{})
				slow, gate := wrap.Fault(inner), make(chan struct{})
				open := sync.OnceFunc(func() { close(gate) })
				defer open()
				c.mounting(slow)
				const files = 40
				for i := range files {
					if err := c.put(fmt.Sprintf("/m/d/%d/f", i), "data"); err != nil {
						t.Fatal(err)
					}
				}
				slow.Add(wrap.Rule{Op: wrap.Copy, Name: "d/1/f", Nth: 1, Wait: c.gate})
				for i := range files {
					slow.Add(wrap.Rule{Op: wrap.Remove, Name: fmt.Sprintf("d/%d/f", i), Wait: gate})
				}
				if err := c.n.Rename(c.ctx, c.path("/m/d/"), c.path("/m/e/"), core.RenameOptions{}); err != nil {
					t.Fatal(err)
				}
				was := slow.Calls(wrap.Remove)
				c.open()
				c.until("the removal", func() bool { return slow.Calls(wrap.Remove) >= was+16 })
				began := time.Now()
				if err := take(c); errs.KindOf(err) != errs.Unavailable || time.Since(began) > time.Minute {
					t.Fatalf("while they last: %v after %v, want it to be told to try again", err, time.Since(began))
				}
				if got, err := c.get("/m/e/0/f"); got != "data" {
					t.Errorf("then %q is read, %v", got, err)
				}
				if err := c.put("/m/other", "other"); err != nil {
					t.Error(err)
				}
				taken := make(chan error)
				go func() { taken <- take(c) }()
				<-time.After(time.Second)
				open()
				if err := <-taken; err != nil {
					t.Fatal(err)
				}
				if what != "adopt" { // that looks for them in the store that it takes
					c.until("the end", func() bool { return c.renames().ID == "" })
				}
				left := 0
				for in, err := range inner.List(c.ctx, "d/", "", true) {
					if err == nil && !in.Dir {
						left++
					}
				}
				if left < files-16 {
					t.Errorf("%d originals are left, want all but the 16 at most whose removal had begun", left)
				}
			})
		})
	}
}

// TestUnmountAwaitsRemovals unmounts a store, by force, while a removal of an original is on its way that nothing can call back, and mounts it
// elsewhere: what is put at the old name then stays. The removal is by the process that renamed, or by the next one.
func TestUnmountAwaitsRemovals(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		t.Run(fmt.Sprint("takeover ", takeover), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCarrying(t)
				inner := memufs.New(memufs.Options{})
				late := &lateStore{Store: inner}
				slow := wrap.Fault(late)
				lead := func() {
					c.stop()
					c.n, c.stop = leading(t, 1<<20, namespace.Options{KV: c.kv, Answer: func(v any) []byte { return fmt.Append(nil, v) }, Root: c.slow, WatchOpen: time.Nanosecond,
						RenameThrough: 50 * time.Millisecond, Store: c.in, SecretKey: make([]byte, 32), OpenStore: func(context.Context, core.MountSpec) (ufs.Store, error) { return slow, nil }})
				}
				c.mounting(slow)
				for i := range 3 {
					if err := c.put(fmt.Sprintf("/m/d/%d/f", i), "data"); err != nil {
						t.Fatal(err)
					}
				}
				slow.Add(wrap.Rule{Op: wrap.Copy, Name: "d/1/f", Nth: 1, Wait: c.gate})
				if takeover {
					slow.Add(wrap.Rule{Op: wrap.Remove, Name: "d/0/f", Err: errs.New("x", "", errs.Permission, "403 AccessDenied")})
				} else {
					late.late.Store("d/0/f", 20*time.Second)
				}
				if err := c.n.Rename(c.ctx, c.path("/m/d/"), c.path("/m/e/"), core.RenameOptions{}); err != nil {
					t.Fatal(err)
				}
				c.open()
				c.until("the removal", func() bool { return c.renames().Removing })
				if takeover {
					c.until("a removal that failed", func() bool { return c.renames().Err != nil })
					c.stop()
					slow.Heal()
					late.late.Store("d/0/f", 20*time.Second)
					lead()
				}
				c.until("the removal that is late", func() bool {
					_, waits := late.late.Load("d/0/f")
					return !waits
				})
				if _, err := c.n.RemoveMount(c.ctx, c.path("/m/"), core.LifeOptions{Force: true}); errs.KindOf(err) != errs.Unavailable {
					t.Fatalf("%v, want it to be told to try again", err)
				}
				if _, err := c.n.RemoveMount(c.ctx, c.path("/m/"), core.LifeOptions{Force: true}); err != nil {
					t.Fatal(err)
				}
				if _, err := c.n.Mount(c.ctx, core.MountSpec{Path: c.path("/n/"), URI: "test://x"}); err != nil {
					t.Fatal(err)
				}
				if err := c.put("/n/d/0/f", "new"); err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Minute)
				if _, err := inner.Stat(c.ctx, "d/0/f"); err != nil {
					t.Errorf("what was put at the name is gone: %v", err)
				}
			})
		})
	}
}

// TestRenameTakenOverForgetsNoOriginal has the next leader of a rename be slow or fail with the removal of an original while a client
// overwrites the file of the new name, or removes it: the old name stays gone.
func TestRenameTakenOverForgetsNoOriginal(t *testing.T) {
	refused := errs.New("x", "", errs.Permission, "403 AccessDenied")
	for _, slow := range []bool{false, true} {
		for _, removed := range []bool{false, true} {
			t.Run(fmt.Sprintf("slow %v, removed %v", slow, removed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newCarrying(t)
					for i := range 3 {
						if err := c.put(fmt.Sprintf("/a/d/%d/f", i), fmt.Sprint("data ", i)); err != nil {
							t.Fatal(err)
						}
					}
					c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: "a/d/1/f", Nth: 1, Wait: c.gate})
					c.slow.Add(wrap.Rule{Op: wrap.Remove, Name: "a/d/2/f", Err: refused})
					if err := c.n.Rename(c.ctx, c.path("/a/d/"), c.path("/e/"), core.RenameOptions{}); err != nil {
						t.Fatal(err)
					}
					c.open()
					c.until("a removal that failed", func() bool { return c.renames().Removing && c.renames().Err != nil })
					c.stop()
					c.slow.Heal()
					for _, rule := range []wrap.Rule{{Op: wrap.Remove, Name: "a/d/2/f"}, {Op: wrap.RemoveFiles}} {
						rule.Err = refused
						if slow {
							rule.Nth, rule.Delay = 1, time.Minute
						}
						c.slow.Add(rule)
					}
					c.lead(time.Hour)
					<-time.After(time.Second)
					var err error
					want := "map[e/0/f:data 0 e/1/f:data 1]"
					if removed {
						err = c.n.Remove(c.ctx, c.path("/e/2/f"), core.RemoveOptions{})
					} else {
						err = c.put("/e/2/f", "other")
						want = "map[e/0/f:data 0 e/1/f:data 1 e/2/f:other]"
					}
					if err != nil {
						t.Fatal(err)
					}
					if !slow {
						c.slow.Heal()
					}
					<-time.After(10 * time.Minute)
					if got := fmt.Sprint(c.has()); got != want {
						t.Errorf("the store has %s, want %s", got, want)
					}
					if r := c.renames(); r.ID != "" {
						t.Errorf("still told is %+v", r)
					}
				})
			})
		}
	}
}

// lateStore is a store whose removals of some names compare the version first and come late, whether or not they are waited for.
type lateStore struct {
	ufs.Store
	late sync.Map // by name: how late the next removal is
}

func (s *lateStore) Unwrap() ufs.Store { return s.Store }

func (s *lateStore) Remove(ctx context.Context, name, version string) error {
	late, ok := s.late.LoadAndDelete(name)
	if !ok {
		return s.Store.Remove(ctx, name, version)
	}
	if is, err := s.Store.Stat(ctx, name); err != nil {
		return err
	} else if version != "" && is.Version != version {
		return errs.New("late.Remove", name, errs.Precondition, "it is another version")
	}
	done := make(chan error, 1)
	go func() {
		<-time.After(late.(time.Duration))
		done <- s.Store.Remove(context.WithoutCancel(ctx), name, "")
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *lateStore) Copy(ctx context.Context, from, version, to string, attr *ufs.Attr) (ufs.Info, error) {
	return ufs.Copy(ctx, s.Store, from, version, to, attr)
}

func (s *lateStore) Mkdir(ctx context.Context, name string, attr ufs.Attr) (ufs.Info, error) {
	return ufs.Mkdir(ctx, s.Store, name, attr)
}

func (s *lateStore) RemoveFiles(ctx context.Context, files []ufs.Versioned) error {
	for _, f := range files {
		if err := s.Remove(ctx, f.Name, f.Version); err != nil && !isKind(err, errs.NotExist) && !isKind(err, errs.Precondition) {
			return err
		}
	}
	return nil
}

// TestRenameAwaitsItsRemovals has the store refuse the removal of one original while that of another takes long. The latter is not given up:
// it would take away what somebody puts at the old name when the rename is over.
func TestRenameAwaitsItsRemovals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCarrying(t)
		late := &lateStore{Store: c.store}
		late.late.Store("d/0/f", 20*time.Second)
		c.slow = wrap.Fault(late)
		c.lead(50 * time.Millisecond)
		for i := range 3 {
			if err := c.put(fmt.Sprintf("/d/%d/f", i), fmt.Sprint("data ", i)); err != nil {
				t.Fatal(err)
			}
		}
		c.slow.Add(wrap.Rule{Op: wrap.Copy, Name: "d/1/f", Nth: 1, Wait: c.gate})
		c.slow.Add(wrap.Rule{Op: wrap.Remove, Name: "d/2/f", Nth: 1, Delay: time.Second, Err: errs.New("x", "", errs.Permission, "403 AccessDenied")})
		if err := c.n.Rename(c.ctx, c.path("/d/"), c.path("/e/"), core.RenameOptions{}); err != nil {
			t.Fatal(err)
		}
		c.open()
		c.until("the end", func() bool { return c.renames().ID == "" })
		if err := c.put("/d/0/f", "new"); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		if got, want := fmt.Sprint(c.has()), "map[d/0/f:new e/0/f:data 0 e/1/f:data 1 e/2/f:data 2]"; got != want {
			t.Errorf("the store has %s, want %s", got, want)
		}
	})
}
