package namespace_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/nstest"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// endingKV takes nothing more after the first record that has the text.
type endingKV struct {
	meta.KV
	text  string
	ended atomic.Bool
	end   chan struct{} // closed then
}

func (k *endingKV) Txn(ctx context.Context, t meta.Txn) (bool, int64, error) {
	if k.ended.Load() {
		return false, 0, errs.New("test", "", errs.Unavailable, "the process has ended")
	}
	done, rev, err := k.KV.Txn(ctx, t)
	for _, kv := range t.Puts {
		if done && strings.Contains(string(kv.Value), k.text) {
			if k.ended.CompareAndSwap(false, true) {
				close(k.end)
			}
		}
	}
	return done, rev, err
}

// TestRenameOfManyHeldIsCutOff ends a process between two of the records that a rename of a directory takes which holds more held
// overwrites than one record has room for, on a store that renames by copying. The next process knows of all of
// them what the store has under the new names: they are stored, but for those that a stranger has overwritten meanwhile.
// Where it does not look for the copies, 705 of the 1,200 are refused as changed by others: all that the first record had no room for, and
// the stranger's. The new names are free as soon as it knows, however long the store takes to remove the originals.
func TestRenameOfManyHeldIsCutOff(t *testing.T) {
	const files = 1200
	kv, store, workers := memkv.New(), memufs.New(memufs.Options{}), nstest.NewWorkers(2)
	slow, gate := wrap.Fault(store), make(chan struct{})
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	lead := func(kv meta.KV) (*namespace.Namespace, func()) {
		return leading(t, 1<<20, namespace.Options{KV: kv, Root: slow, Holders: workers, PersistDelay: time.Hour, WatchOpen: time.Nanosecond})
	}
	path := func(s string) core.Path { return parse(t, s) }
	put := func(n *namespace.Namespace, name, data string, how core.WriteType) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		w, err := n.Create(ctx, path(name), core.CreateOptions{Size: int64(len(data)), MakeParents: true, WriteType: how})
		if err != nil {
			return err
		}
		defer w.Abort()
		if _, err := io.WriteString(w, data); err != nil {
			return err
		}
		_, err = w.Commit(ctx, core.CommitOptions{})
		return err
	}
	ending := &endingKV{KV: kv, text: "droptree", end: make(chan struct{})}
	n, stop := lead(ending)
	defer func() { stop() }()
	name := func(i int) string { return fmt.Sprintf("%d/f%d", i%3, i) }
	var g errgroup.Group
	g.SetLimit(16)
	for i := range files {
		g.Go(func() error {
			if err := put(n, "/d/"+name(i), "stored", core.CacheThrough); err != nil {
				return err
			}
			return put(n, "/d/"+name(i), fmt.Sprint("held ", i), core.AsyncThrough)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	renamed := make(chan error, 1)
	go func() { renamed <- n.Rename(ctx, path("/d/"), path("/e/"), core.RenameOptions{}) }()
	select {
	case <-ending.end:
	case err := <-renamed:
		t.Fatalf("the rename was not cut off: %v", err)
	}
	stop()
	if err := <-renamed; err == nil {
		t.Fatal("the rename took but one record")
	}
	const theirs = 7 // overwritten by somebody else, as long as before
	if _, err := ufs.WriteFile(ctx, store, "e/"+name(theirs), []byte("theirs"), ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, op := range []wrap.Op{wrap.Remove, wrap.RemoveFiles} {
		slow.Add(wrap.Rule{Op: op, Wait: gate})
	}
	n, stop = lead(kv)
	soon, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := n.Persist(soon, path("/e/"), core.PersistOptions{Wait: true})
	if errs.KindOf(err) != errs.Conflict || strings.Count(err.Error(), "changed by others") != 1 {
		t.Errorf("persist: %.500v", err)
	}
	for i := range files {
		got, err := n.Durability(ctx, path("/e/"+name(i)))
		if want := map[bool]core.DurabilityState{true: core.Refused, false: core.InStore}[i == theirs]; err != nil || got.State != want {
			t.Fatalf("%s is %s (%s), %v", name(i), got.State, got.Why, err)
		}
		rc, err := store.Open(ctx, "e/"+name(i), 0, -1, "")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		rc.Close()
		if want := map[bool]string{true: "theirs", false: fmt.Sprint("held ", i)}[i == theirs]; err != nil || string(b) != want {
			t.Fatalf("the store has %q at %s, %v", b, name(i), err)
		}
	}
	if err := put(n, "/e/new", "new", core.CacheThrough); err != nil {
		t.Errorf("a new file below the new name: %v", err)
	}
	close(gate)
	// The original of the copy that is somebody else's now is the last there is of its bytes: it stays.
	var left []string
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		left = nil
		for info, err := range store.List(ctx, "d/", "", true) {
			if err == nil && info.Name != "d/"+name(theirs) {
				left = append(left, info.Name)
			}
		}
		if len(left) == 0 || time.Now().After(end) {
			break
		}
	}
	if check, err := n.Check(ctx, core.CheckOptions{Stores: true}); err != nil || len(left) > 0 {
		t.Errorf("%.300q are left at the old name; %+v, %v", left, check.Findings, err)
	}
}
