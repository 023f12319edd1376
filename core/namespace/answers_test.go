package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
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
)

// reign has a process lead over a journal and a store, until stop.
func reign(t *testing.T, kv meta.KV, root ufs.Store) (n *namespace.Namespace, tree *meta.Tree, stop func()) {
	t.Helper()
	log, err := meta.OpenLog(kv, meta.LogOptions{Group: namespace.JournalGroup, CheckpointEvery: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, stop = leading(t, 8<<20, namespace.Options{Log: log, Root: root, Answer: func(v any) []byte {
		switch v := v.(type) {
		case core.Info:
			return []byte(v.Path.String() + " " + v.Version)
		case nil:
			return []byte("nothing")
		}
		return fmt.Append(nil, v)
	}})
	return n, log.Tree(), stop
}

func createNew(ctx context.Context, n *namespace.Namespace, name string) (core.Info, error) {
	p, err := core.ParsePath(name)
	if err != nil {
		return core.Info{}, err
	}
	w, err := n.Create(ctx, p, core.CreateOptions{Mode: core.CreateNew, Size: 1})
	if err != nil {
		return core.Info{}, err
	}
	if _, err := io.WriteString(w, "x"); err != nil {
		return core.Info{}, err
	}
	return w.Commit(ctx, core.CommitOptions{})
}

// TestAnswersOutliveTheirProcess makes changes under names, of which some are acknowledged, and starts again.
func TestAnswersOutliveTheirProcess(t *testing.T) {
	kv, store := memkv.New(), memufs.New(memufs.Options{Dirs: true})
	n, tree, stop := reign(t, kv, store)
	root := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	s := [16]byte{1}
	epoch, err := n.OpenSession(root, s)
	if err != nil || epoch == 0 {
		t.Fatal(epoch, err)
	}
	const changes, window = 100, 7
	want := map[uint64]string{}
	for seq := uint64(1); seq <= changes; seq++ {
		call := core.Call{Session: s, Sequence: seq, Below: max(seq, window) - window + 1}
		i, err := createNew(core.WithCall(root, call), n, fmt.Sprintf("/f%d", seq))
		if err != nil {
			t.Fatal(err)
		}
		want[seq] = i.Path.String() + " " + i.Version
	}
	if _, err := createNew(core.WithCall(root, core.Call{Session: s, Sequence: changes + 1}), n, "/f1"); !errors.Is(err, errs.Exist) {
		t.Fatal(err)
	}
	rows := 0
	count := func(v meta.View) {
		rows = 0
		for _, e := range v.Children(meta.AnswersDir, "") {
			for range v.Children(e.Dir, "") {
				rows++
			}
		}
	}
	if tree.View(count); rows > window {
		t.Errorf("%d answers are kept where %d may be asked for", rows, window)
	}
	for range 2 {
		stop()
		n, tree, stop = reign(t, kv, store)
		if again, err := n.OpenSession(root, s); err != nil || again != epoch {
			t.Errorf("the epoch is %d, %v; it was %d", again, err, epoch)
		}
		for seq := uint64(1); seq <= changes+2; seq++ {
			got, err := n.Answered(root, core.Call{Session: s, Sequence: seq})
			if err != nil {
				t.Fatal(err)
			}
			switch acknowledged := seq <= changes-window; {
			case acknowledged && got != nil, !acknowledged && string(got) != want[seq]:
				t.Errorf("change %d: got %q, want %q", seq, got, want[seq])
			}
		}
		if other, err := n.OpenSession(root, [16]byte{2}); err != nil || other == epoch || other == 0 {
			t.Errorf("another session: %d, %v", other, err)
		}
		if got, err := n.Answered(root, core.Call{Session: [16]byte{2}, Sequence: changes}); got != nil || err != nil {
			t.Errorf("another session: got %q, %v", got, err)
		}
	}
	// What is acknowledged in this process makes room for what it makes.
	for seq := uint64(changes + 1); seq <= changes+window; seq++ {
		p, err := core.ParsePath(fmt.Sprintf("/f%d", seq-changes))
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Remove(core.WithCall(root, core.Call{Session: s, Sequence: seq, Below: seq}), p, core.RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		if got, err := n.Answered(root, core.Call{Session: s, Sequence: seq}); err != nil || string(got) != "nothing" {
			t.Errorf("removal %d: got %q, %v", seq, got, err)
		}
	}
	if tree.View(count); rows > window {
		t.Errorf("%d answers are kept where %d may be asked for", rows, window)
	}
	stop()
}

// TestOneInProgressKeepsNoOther makes changes behind one that takes long, under this leader and under the next.
func TestOneInProgressKeepsNoOther(t *testing.T) {
	kv, store := memkv.New(), memufs.New(memufs.Options{Dirs: true})
	root := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	s := [16]byte{1}
	const changes, window = 50, 7
	seq := uint64(1) // takes long
	for range 2 {
		n, tree, stop := reign(t, kv, store)
		if _, err := n.OpenSession(root, s); err != nil {
			t.Fatal(err)
		}
		for range changes {
			seq++
			n.Acknowledge(s, seq-window, []uint64{1})
			if _, err := createNew(core.WithCall(root, core.Call{Session: s, Sequence: seq, Below: 1}), n, fmt.Sprintf("/f%d", seq)); err != nil {
				t.Fatal(err)
			}
		}
		n.Acknowledge(s, seq, []uint64{1, seq - 1})
		for _, kept := range []uint64{seq - 1, seq} {
			if got, err := n.Answered(root, core.Call{Session: s, Sequence: kept}); got == nil || err != nil {
				t.Errorf("change %d: got %q, %v", kept, got, err)
			}
		}
		rows := 0
		tree.View(func(v meta.View) {
			for _, e := range v.Children(meta.AnswersDir, "") {
				for range v.Children(e.Dir, "") {
					rows++
				}
			}
		})
		if rows > window+1 {
			t.Errorf("%d answers are kept where %d may be asked for", rows, window+1)
		}
		stop()
	}
}

// TestUndoneIsNotAnswered has a store refuse a directory that the journal has already.
func TestUndoneIsNotAnswered(t *testing.T) {
	kv, store := memkv.New(), memufs.New(memufs.Options{Dirs: true})
	n, _, stop := reign(t, kv, store)
	defer stop()
	root := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	call := core.Call{Session: [16]byte{1}, Sequence: 1}
	if _, err := n.OpenSession(root, call.Session); err != nil {
		t.Fatal(err)
	}
	p := parse(t, "/d/")
	// A stranger's file of that name, which is not known of yet.
	if _, err := n.Stat(root, p); !errors.Is(err, errs.NotExist) {
		t.Fatal(err)
	}
	ctx := ufs.WithGuard(core.WithCall(root, call), func() error { return errs.New("test", "", errs.NoSpace, "no room") })
	if _, err := n.Mkdir(ctx, p, core.MkdirOptions{}); err == nil {
		t.Fatal("the directory was made")
	}
	if got, err := n.Answered(root, call); got != nil || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// fullKV is a KV that has no room for what is put while it is full.
type fullKV struct {
	meta.KV
	full atomic.Bool
}

func (k *fullKV) Txn(ctx context.Context, t meta.Txn) (bool, int64, error) {
	if k.full.Load() && len(t.Puts) > 0 {
		return false, 0, errs.New("test.Txn", "", errs.NoSpace, "the quota is exceeded")
	}
	return k.KV.Txn(ctx, t)
}

// TestSessionsBeginWithoutRoom begins a session while the journal is full, and another process leads at some later time.
func TestSessionsBeginWithoutRoom(t *testing.T) {
	for _, k := range []struct {
		name         string
		early, ended bool // a change is made before the journal knows the session, and acknowledged
		same         bool // the next leader shows the same epoch
	}{{"idle", false, false, true}, {"unacknowledged", true, false, false}, {"acknowledged", true, true, true}} {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv, store := &fullKV{KV: memkv.New()}, memufs.New(memufs.Options{Dirs: true})
				n, _, stop := reign(t, kv, store)
				root := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
				if _, err := createNew(root, n, "/f"); err != nil {
					t.Fatal(err)
				}
				s := [16]byte{1}
				kv.full.Store(true)
				epoch, err := n.OpenSession(root, s)
				if err != nil || epoch == 0 {
					t.Fatal(epoch, err)
				}
				kv.full.Store(false)
				make := func(seq, below uint64) {
					if _, err := createNew(core.WithCall(root, core.Call{Session: s, Sequence: seq, Below: below}), n, fmt.Sprint("/f", seq)); err != nil {
						t.Fatal(err)
					}
				}
				if k.early {
					make(1, 1)
				}
				<-time.After(10 * time.Second)
				below := uint64(1)
				if k.ended {
					below = 2
				}
				make(2, below)
				<-time.After(10 * time.Second)
				stop()
				n, _, stop = reign(t, kv, store)
				defer stop()
				if got, err := n.Answered(root, core.Call{Session: s, Sequence: 2}); got == nil || err != nil {
					t.Errorf("the change that was made when there was room: got %q, %v", got, err)
				}
				if again, err := n.OpenSession(root, s); err != nil || (again == epoch) != k.same {
					t.Errorf("the epoch is %d, %v; it was %d", again, err, epoch)
				}
			})
		})
	}
}

// TestIdleSessionsAreForgotten leaves one session alone and holds a stream of another.
func TestIdleSessionsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, tree, stop := reign(t, memkv.New(), memufs.New(memufs.Options{Dirs: true}))
		defer stop()
		root := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
		idle, busy := [16]byte{1}, [16]byte{2}
		var epochs [2]uint64
		for i, s := range [][16]byte{idle, busy} {
			var err error
			if epochs[i], err = n.OpenSession(root, s); err != nil {
				t.Fatal(err)
			}
		}
		n.CloseSession(idle)
		<-time.After(11 * time.Minute)
		synctest.Wait()
		sessions := 0
		tree.View(func(v meta.View) {
			for range v.Children(meta.AnswersDir, "") {
				sessions++
			}
		})
		if sessions != 1 {
			t.Errorf("%d sessions are kept, want the one with a stream", sessions)
		}
		if again, err := n.OpenSession(root, idle); err != nil || again == epochs[0] {
			t.Errorf("the session that was forgotten has the epoch %d again, %v", again, err)
		}
		if again, err := n.OpenSession(root, busy); err != nil || again != epochs[1] {
			t.Errorf("the session that was kept has the epoch %d, %v; it was %d", again, err, epochs[1])
		}
	})
}
