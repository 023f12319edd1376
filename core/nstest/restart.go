package nstest

import (
	"fmt"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

var restartTests = []entry{
	{name: "a restart replays everything", test: func(f *fixture) {
		f.furnish()
		before := f.dump()
		for range 2 {
			f.restart()
			if diff := cmp.Diff(before, f.dump()); diff != "" {
				f.Fatalf("before and after (-before +after):\n%s", diff)
			}
		}
		f.put("d/after", "x")
		f.removeAll("r2/")
		f.rename("d/", "moved/")
		before = f.dump()
		f.restart()
		if diff := cmp.Diff(before, f.dump()); diff != "" {
			f.Fatalf("before and after (-before +after):\n%s", diff)
		}
	}},
	{name: "numbers are never used twice, across restarts too", test: func(f *fixture) {
		seen := map[uint64]string{}
		versions := map[string]bool{}
		for _, name := range []string{"a", "b", "c", "d"} {
			for range 2 {
				i := f.put(name, "x")
				if other, ok := seen[i.ID]; ok && other != name {
					f.Errorf("%s and %s are both number %d", name, other, i.ID)
				}
				if versions[i.Version] {
					f.Errorf("version %s was used before", i.Version)
				}
				seen[i.ID], versions[i.Version] = name, true
			}
			f.restart()
		}
	}},
	{name: "what was changed behind while nothing ran is seen", needs: mounted, with: synced(0), test: func(f *fixture) {
		f.put("d/a", "1")
		f.put("d/b", "2")
		f.storePut("d/a", "theirs")
		f.storeRemove("d/b")
		f.storePut("d/c", "new")
		f.restart()
		f.wantKeys("", "d/a", "d/c")
		f.wantData("d/a", "theirs")
	}},
	{name: "an interval begins anew with whoever leads: what was known before is asked once", needs: mounted, with: synced(time.Hour), test: func(f *fixture) {
		f.put("d/a", "1")
		f.put("d/b", "2")
		f.storePut("d/k", "kept")
		for range 2 { // what the one before has asked is no more its successor's than what nobody has
			f.wantKeys("", "d/a", "d/b", "d/k")
			f.wantData("d/a", "1")
			f.restart()
		}
		f.storePut("d/a", "theirs")
		f.storeRemove("d/b")
		f.storePut("d/c", "new")
		f.wantSeen("d/a", "theirs")
		f.wantGone("d/b")
		f.wantSeen("d/c", "new")
		f.wantKeys("", "d/a", "d/c", "d/k")
		f.wantChildren("d/", "a", "c", "k")
		f.storePut("d/a", "theirs once more")
		stop := f.calls()
		if i := f.stat("d/a"); i.Size != int64(len("theirs")) {
			f.Errorf("got %+v", i)
		}
		f.wantGone("d/b")
		f.wantKeys("", "d/a", "d/c", "d/k")
		f.wantChildren("d/", "a", "c", "k")
		if n := stop(); n > 0 {
			f.Errorf("the store was asked %d times within the interval", n)
		}
	}},
	{name: "an upload whose begin got no answer leaves nothing behind", test: func(f *fixture) {
		for _, restarts := range []bool{false, true} {
			f.tap.set(func(c call) verdict {
				if c.op == "Begin" {
					return verdict{after: errs.New("test", c.name, errs.Unavailable, "the answer got lost")}
				}
				return verdict{}
			})
			_, err := f.CreateUpload(f.ctx(), f.path("a"), core.CreateOptions{})
			f.wantErr("begin", err, errs.Unavailable)
			cancelled := make(chan struct{}, 1)
			f.tap.set(func(c call) verdict {
				if c.op == "Cancel" {
					return verdict{done: func() { cancelled <- struct{}{} }}
				}
				return verdict{}
			})
			live := f.begin("a", core.CreateOptions{})
			local := f.Store.Features().Kind == "local" // which cleans up when it opens
			if restarts || local {
				f.restart()
			}
			if !local {
				select {
				case <-cancelled:
				case <-time.After(20 * time.Second):
					f.Fatal("nobody looked for the upload")
				}
			}
			f.tap.set(nil)
			f.must(f.strangers("a"))
			for u, err := range f.ListUploads(f.ctx(), f.path(""), "", "", "") {
				if err != nil || u.ID != live {
					f.Errorf("got the upload %+v, %v, want %s alone", u, err, live)
				}
			}
			f.mustComplete("a", live, f.part("a", live, 1, "x"))
		}
	}},
	{name: "open writers leave nothing behind", test: func(f *fixture) {
		_, err := f.create("a", large, core.CreateOptions{Size: -1})
		f.must(err)
		f.restart()
		f.wantGone("a")
		f.wantKeys("")
	}},
}

// furnish makes one of everything.
func (f *fixture) furnish() {
	f.Helper()
	f.storePut("was/there", "before")
	f.storePut("was/also", large)
	f.putWith("d/e/a", large, core.CreateOptions{Size: int64(len(large)), MakeParents: true,
		Attr: core.FileAttr{Mode: 0o640, Headers: map[string]string{"Content-Type": "text/plain"}, User: map[string]string{"k": "v"}, BlockSize: 1 << 20, Replication: 2}})
	f.put("d/b", "x")
	f.put("d/b", "overwritten")
	f.append("d/b", " and appended")
	f.chown("d/b", "ann", "staff")
	f.mkdir("empty/dir/")
	f.chmod("empty/", 0o1777)
	_, err := f.Mkdir(f.ctx(), f.path("marked/"), core.MkdirOptions{Marker: true, User: map[string]string{"k": "v"}})
	f.must(err)
	f.put("r1/x/y", "1")
	f.put("r1/z", "2")
	f.rename("r1/", "r2/")
	f.rename("r2/z", "r2/w")
	f.put("gone/a", "x")
	f.removeAll("gone/")
	f.put("was/there", "overwritten")
	f.must(f.setAttr("was/also", core.AttrChange{Owner: ptr("bob"), ModTime: ptr(time.Unix(1_000_000_000, 0))}))
	_, err = f.Copy(f.ctx(), f.path("d/b"), f.path("d/copy"), core.CopyOptions{})
	f.must(err)
	id := f.begin("up/loaded", core.CreateOptions{})
	f.mustComplete("up/loaded", id, f.part("up/loaded", id, 1, big), f.part("up/loaded", id, 2, "tail"))
	f.put("p/1", "1")
	f.put("p/2", "2")
	_, err = f.Compose(f.ctx(), f.path("p/1"), f.paths("p/2"))
	f.must(err)
}

// strangers reports an error if the store has more than one upload to the name.
func (f *fixture) strangers(name string) error {
	c, err := ufs.ComposerOf(f.Store)
	if err != nil {
		return err
	}
	ids, err := c.Lost(f.ctx(), name, time.Time{}, time.Now().Add(time.Hour))
	if err != nil {
		return err
	}
	if len(ids) > 1 {
		return fmt.Errorf("%d empty uploads", len(ids))
	}
	if f.Staged == nil {
		return nil
	}
	if left := f.Staged(f.T); len(left) > 1 {
		return fmt.Errorf("left in staging: %q", left)
	}
	return nil
}

// wantNoStaging checks that nothing unfinished is left in the store.
func (f *fixture) wantNoStaging() {
	f.Helper()
	if f.Staged == nil {
		return
	}
	if left := f.Staged(f.T); len(left) > 0 {
		f.Errorf("left in staging: %q", left)
	}
}
