package namespace_test

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/localufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// TestReaderFollowsRename reads what was opened before a rename: while the store has done that and nobody knows yet, and after it; on stores
// that rename and on those where it is a copy, whose versions are others. One of the files is a stranger's; another is overwritten by
// one, whose bytes are not those of the reader.
func TestReaderFollowsRename(t *testing.T) {
	for _, dirs := range []bool{true, false} {
		t.Run(fmt.Sprintf("renames %v", dirs), func(t *testing.T) {
			store := memufs.New(memufs.Options{Dirs: dirs})
			slow := wrap.Fault(store)
			key := make([]byte, seal.KeySize)
			n, stop := leading(t, 1<<20, namespace.Options{KV: memkv.New(), Root: slow, WatchOpen: time.Nanosecond, SecretKey: key})
			defer stop()
			sealer, err := seal.New(key)
			if err != nil {
				t.Fatal(err)
			}
			ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
			if _, err := n.Mkdir(ctx, parse(t, "/d/"), core.MkdirOptions{}); err != nil {
				t.Fatal(err)
			}
			for name, data := range map[string]string{"/d/ours": "of ours", "/file": "a file", "/theirs": "first"} {
				w, err := n.Create(ctx, parse(t, name), core.CreateOptions{Size: int64(len(data)), WriteType: core.Through})
				if err == nil {
					if _, err = io.WriteString(w, data); err == nil {
						_, err = w.Commit(ctx, core.CommitOptions{})
					}
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if _, err := ufs.WriteFile(ctx, store, "d/theirs", []byte("of others"), ufs.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			opened, tickets := map[string]core.Reader{}, map[string][]byte{}
			open := func(name, data string) {
				t.Helper()
				rd, err := n.Open(ctx, parse(t, name), core.All)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { rd.Close() })
				opened[data] = rd
				placed, err := n.Place(ctx, parse(t, name), core.All)
				if err != nil {
					t.Fatal(err)
				}
				tickets[data] = placed.Runs[0].Ticket
				if _, err := n.Follow(ctx, tickets[data]); !errors.Is(err, errs.Conflict) {
					t.Errorf("a ticket for what was not renamed is followed: %v", err)
				}
			}
			holds := func(data string) {
				t.Helper()
				if got, err := io.ReadAll(opened[data]); err != nil || string(got) != data {
					t.Errorf("a reader from before has %q, %v, want %q", got, err, data)
				}
			}
			follows := func(data string) { // a worker's reader
				t.Helper()
				ticket, err := n.Follow(ctx, tickets[data])
				if err != nil {
					t.Fatalf("the ticket for %q: %v", data, err)
				}
				was, werr := sealer.Verify(tickets[data], time.Now())
				is, err := sealer.Verify(ticket, time.Now())
				if werr != nil || err != nil {
					t.Fatal(werr, err)
				}
				if is.ID != was.ID || is.Rev != was.Rev || !is.Expires.Equal(was.Expires) || is.Key == was.Key {
					t.Errorf("the ticket %+v became %+v", was, is)
				}
				in, err := store.Open(ctx, is.Key, 0, -1, is.Version)
				if err != nil {
					t.Fatal(err)
				}
				defer in.Close()
				if got, err := io.ReadAll(in); err != nil || string(got) != data {
					t.Errorf("the ticket leads to %q, %v, want %q", got, err, data)
				}
			}

			open("/d/ours", "of ours")
			open("/d/theirs", "of others")
			if err := n.Rename(ctx, parse(t, "/d/"), parse(t, "/e/"), core.RenameOptions{}); err != nil {
				t.Fatal(err)
			}
			holds("of ours")
			holds("of others")
			follows("of ours")
			follows("of others")

			open("/file", "a file")
			gate, done := make(chan struct{}), make(chan error, 1)
			at := wrap.Remove // of a copied file
			if dirs {
				at = wrap.Rename
			}
			slow.Add(wrap.Rule{Op: at, Name: "file", After: true, Wait: gate})
			go func() { done <- n.Rename(ctx, parse(t, "/file"), parse(t, "/now"), core.RenameOptions{}) }()
			until(t, func() bool { _, err := store.Stat(ctx, "file"); return err != nil })
			before := slow.Calls(wrap.Open)
			go func() {
				defer close(gate)
				until(t, func() bool { return slow.Calls(wrap.Open) > before })
			}()
			holds("a file")
			follows("a file")
			if err := <-done; err != nil {
				t.Fatal(err)
			}

			// Others overwrite a file that is about to be renamed: it is not what the reader has opened.
			if !dirs {
				return
			}
			open("/theirs", "first")
			going := make(chan struct{})
			slow.Add(wrap.Rule{Op: wrap.Rename, Name: "theirs", Wait: going})
			go func() { done <- n.Rename(ctx, parse(t, "/theirs"), parse(t, "/other"), core.RenameOptions{}) }()
			until(t, func() bool { return slow.Calls(wrap.Rename) > 2 })
			if _, err := ufs.WriteFile(ctx, store, "theirs", []byte("other"), ufs.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			close(going)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(opened["first"]); errs.KindOf(err) != errs.Conflict {
				t.Errorf("a reader of what is no more has %q, %v", got, err)
			}
			open("/other", "other")
			if got, err := io.ReadAll(opened["other"]); errs.KindOf(err) == errs.Conflict { // its first reader finds the difference
				open("/other", "other")
				holds("other")
			} else if err != nil || string(got) != "other" {
				t.Errorf("it holds %q, %v", got, err)
			}
		})
	}
}

// until waits for ok.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Error("it does not come")
			return
		}
	}
}

// TestRenameWithoutAnswerTakesNoOthers has others write to the new name before it is known whether a rename took place: what they wrote
// is not taken for the file.
func TestRenameWithoutAnswerTakesNoOthers(t *testing.T) {
	store := memufs.New(memufs.Options{Dirs: true})
	slow := wrap.Fault(store)
	n, stop := leading(t, 1<<20, namespace.Options{KV: memkv.New(), Root: slow, WatchOpen: time.Nanosecond})
	defer stop()
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	w, err := n.Create(ctx, parse(t, "/f"), core.CreateOptions{Size: 5, WriteType: core.Through})
	if err == nil {
		if _, err = io.WriteString(w, "first"); err == nil {
			_, err = w.Commit(ctx, core.CommitOptions{})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	was, err := n.Stat(ctx, parse(t, "/f"))
	if err != nil {
		t.Fatal(err)
	}
	gate, done := make(chan struct{}), make(chan error, 1)
	slow.Add(wrap.Rule{Op: wrap.Rename, Name: "f", After: true, Wait: gate, Err: errs.New("test", "f", errs.Unavailable, "no answer")})
	go func() { done <- n.Rename(ctx, parse(t, "/f"), parse(t, "/g"), core.RenameOptions{}) }()
	until(t, func() bool { _, err := store.Stat(ctx, "g"); return err == nil })
	if _, err := ufs.WriteFile(ctx, store, "g", []byte("OTHER"), ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	close(gate)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	info, err := n.Stat(core.WithMaxAge(ctx, core.MaxAge{Set: true}), parse(t, "/g"))
	if err != nil || info.ETag == was.ETag {
		t.Errorf("what others wrote has the ETag of the file: %+v, %v", info, err)
	}
	rd, err := n.Open(ctx, parse(t, "/g"), core.All)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	if got, err := io.ReadAll(rd); err != nil || string(got) != "OTHER" || rd.Info().ETag != info.ETag {
		t.Errorf("it holds %q, %v, with the ETag %s, want %s", got, err, rd.Info().ETag, info.ETag)
	}
}

// TestReaderFollowsRenameOnLocal is TestReaderFollowsRename for a stranger's file on a local file system, whose version a rename changes.
func TestReaderFollowsRenameOnLocal(t *testing.T) {
	store, err := localufs.Open(t.TempDir(), localufs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n, stop := leading(t, 1<<20, namespace.Options{KV: memkv.New(), Root: store, WatchOpen: time.Nanosecond})
	defer stop()
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	if _, err := ufs.WriteFile(ctx, store, "f", []byte("theirs"), ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	rd, err := n.Open(ctx, parse(t, "/f"), core.All)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	if err := n.Rename(ctx, parse(t, "/f"), parse(t, "/g"), core.RenameOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(rd); err != nil || string(got) != "theirs" {
		t.Errorf("a reader from before has %q, %v", got, err)
	}
}
