package namespace

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/mount"
)

// TestWays makes changes at random and requires that the ways that are remembered are those that would be gone now.
func TestWays(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	n := &Namespace{tree: meta.NewTree()}
	set := func() *mountSet {
		s := &mountSet{byID: map[string]*mounted{}}
		for _, id := range []string{rootID, "m1", "m2"} {
			if m := (&mount.Mount{ID: id, MountSpec: core.MountSpec{Owner: fmt.Sprint("u", r.IntN(3)), Mode: 0o700 | uint32(r.IntN(0o100))}}); id == rootID || r.IntN(4) > 0 {
				s.byID[id] = &mounted{Mount: m}
				s.byID[id].features.Dirs = r.IntN(2) > 0
			}
		}
		return s
	}
	n.mounts.Store(set())
	edges := []string{"a/", "b/", "c/", "f"}
	paths := func() string {
		dir := "/"
		for range r.IntN(5) {
			dir += edges[r.IntN(3)]
		}
		return dir
	}
	next := meta.FirstDir
	ids := []meta.DirID{meta.RootDir, next}
	entry := func() meta.Entry {
		switch r.IntN(8) {
		case 0:
			return meta.Entry{Class: meta.Whiteout}
		case 1: // moved, maybe below itself
			return meta.Entry{Class: meta.Directory, Dir: ids[r.IntN(len(ids)-1)+1]}
		}
		next++
		ids = append(ids, next)
		e := meta.Entry{Class: meta.Directory, Dir: next, Owner: []string{"", "x"}[r.IntN(2)], Mode: []uint32{0, 0o750, 0o755, core.NoAccess}[r.IntN(4)], Mount: r.IntN(9) == 0}
		switch r.IntN(6) {
		case 0:
			e.Base = meta.Base{Kind: meta.Opaque}
		case 1:
			e.Base = meta.Base{Kind: meta.Absolute, Store: []string{"m1", "m2"}[r.IntN(2)], Prefix: []string{"", "p/"}[r.IntN(2)]}
		}
		return e
	}
	known, kept := 0, 0
	for seq := uint64(1); seq < 4000; seq++ {
		if at, edge := ids[r.IntN(min(len(ids), 8))], edges[r.IntN(len(edges))]; edge == "f" {
			n.tree.Apply(seq, []meta.Op{{Kind: meta.Set, Dir: at, Edge: edge, Entry: meta.Entry{Class: meta.Persisted, ID: seq}}})
		} else if kind := r.IntN(12); kind == 0 && len(ids) > 1 {
			id := r.IntN(len(ids)-1) + 1
			n.tree.Apply(seq, []meta.Op{{Kind: meta.DropDir, Dir: ids[id]}})
			ids = append(ids[:id], ids[id+1:]...)
		} else if kind == 1 {
			n.mounts.Store(set())
		} else if kind < 4 {
			n.tree.Apply(seq, []meta.Op{{Kind: meta.Del, Dir: at, Edge: edge}})
		} else {
			n.tree.Apply(seq, []meta.Op{{Kind: meta.Set, Dir: at, Edge: edge, Entry: entry()}})
		}
		for range 8 {
			dir := paths()
			n.tree.View(func(v meta.View) {
				var room, now way
				set := n.mounts.Load()
				if n.waysNow().remembered(v, dir) != nil {
					known++
				}
				got := n.wayTo(v, dir, &room)
				now.goTo(v, set, dir)
				if got.inTree {
					kept++
					var all []owned
					_, now.told = passing(v, set, dir, func(o owned) bool { all = append(all, o); return true })
					for _, who := range []core.Principal{{User: "u0"}, {User: "u1"}, {User: "x"}} {
						may := now.told
						for _, o := range all {
							may = may && o.allows(who, execute)
						}
						if got.lets(who) != may {
							t.Fatalf("%s lets %s pass: %v, its directories %v", dir, who.User, !may, all)
						}
					}
					now.guards = got.guards
				}
				if is := *got; !reflect.DeepEqual(is, now) {
					t.Fatalf("after %d changes the way to %s is %+v, not %+v", seq, dir, is, now)
				}
			})
		}
	}
	if known < 1000 || kept < 4000 {
		t.Errorf("%d ways were remembered, %d led through the overlay", known, kept)
	}
}

// TestPlainFile requires that a file is described alike whether all is made of its entry or only what is asked for, by Stat and by
// List.
func TestPlainFile(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	tree := meta.NewTree()
	n := &Namespace{tree: tree, syncs: newSyncs(SyncOptions{})}
	m := &mounted{Mount: &mount.Mount{ID: rootID, SyncInterval: -1, MountSpec: core.MountSpec{Path: core.Root, Owner: "root", Group: "g", Mode: 0o777, ReadOnly: true}}}
	n.mounts.Store(&mountSet{byID: map[string]*mounted{rootID: m}})
	n.union = &meta.Union{Tree: tree, Store: n.derivedOf}
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "u"})
	plain, known := 0, 0
	for seq := uint64(1); seq < 2000; seq++ {
		e := meta.Entry{Class: meta.Persisted, ID: r.Uint64() >> r.IntN(64), Rev: r.Uint64() >> r.IntN(64), Size: r.Int64() >> r.IntN(63), MTime: r.Int64(),
			ETag: fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64()), Owner: []string{"", "x"}[r.IntN(2)], Group: []string{"", "y"}[r.IntN(2)]}
		e.ATime = []int64{0, 5, e.MTime}[r.IntN(3)]
		e.Mode, e.BlockSize, e.Replication = []uint32{0, 0o640, core.NoAccess}[r.IntN(3)], r.Int64N(2)<<20, r.Int32N(3)
		switch r.IntN(6) {
		case 0:
			e.ETag += "-7"
		case 1:
			e.ETag = "other"
		case 2:
			e.Headers = map[string]string{"Content-Type": "text/plain"}
		}
		tree.Apply(seq, []meta.Op{{Kind: meta.Set, Dir: meta.RootDir, Edge: "f", Entry: e}})
		path := core.Root.Child("f")
		want := n.infoOf(&node{place: place{path: path, edge: "f", mount: m, entry: &e}, cache: core.Hit})
		var got core.Info
		if n.statKnown(ctx, path, &got) {
			known++
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("Stat of %+v says\n%+v, not\n%+v", e, got, want)
			}
		} else if told := e.Owner != "" && e.Group != "" && e.Mode != 0; told {
			t.Fatalf("nothing is known of %+v", e)
		}
		n.tree.View(func(v meta.View) {
			var f meta.File
			if v.Glance(v.Door(meta.RootDir), "f", &f); f.Plain() {
				plain++
			}
		})
		for i, err := range n.List(ctx, core.Root, core.ListOptions{}) {
			if err != nil || !reflect.DeepEqual(i, want) {
				t.Fatalf("List of %+v says\n%+v (%v), not\n%+v", e, i, err, want)
			}
		}
	}
	if plain < 500 || known < 100 {
		t.Errorf("%d plain files, %d known ones", plain, known)
	}
}
