package worker_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/core/worker"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

var key = bytes.Repeat([]byte{3}, seal.KeySize)

// fixture is a worker over a store of one file, which is mounted as m1.
type fixture struct {
	t      *testing.T
	w      *worker.Worker
	sealer *seal.Sealer
	log    bytes.Buffer
	info   ufs.Info
	specs  atomic.Pointer[[]core.StoreSpec]
	opened atomic.Int32
	is     string // what tells the root of a store that is opened from another
}

const text = "the bytes of a file"

// lockedStore refuses until its secret is the right one.
type lockedStore struct {
	ufs.Store
	secret string
	right  *atomic.Pointer[string]
	is     string // Features.Is
}

func (s lockedStore) Features() ufs.Features {
	f := s.Store.Features()
	f.Is = s.is
	return f
}

func (s lockedStore) Close() error { return nil } // the store beneath is opened once

func (s lockedStore) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	if s.secret != *s.right.Load() {
		return nil, errs.New("test.Open", name, errs.Permission, "the key is not valid")
	}
	return s.Store.Open(ctx, name, off, n, version)
}

func start(t *testing.T) (*fixture, *atomic.Pointer[string]) {
	f := &fixture{t: t}
	sealer, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	f.sealer = sealer
	store := memufs.New(memufs.Options{Dirs: true})
	if f.info, err = ufs.WriteFile(t.Context(), store, "f", []byte(text), ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	right := &atomic.Pointer[string]{}
	f.mount("m1", "first")
	first := "first"
	right.Store(&first)
	cache := page.NewCache(mempage.New(1<<20), page.CacheOptions{})
	f.w = worker.New(worker.Options{
		Cache: cache, Root: memufs.New(memufs.Options{}), Sealer: sealer, Logger: slog.New(slog.NewTextHandler(&f.log, nil)),
		Stores: func(context.Context) ([]core.StoreSpec, error) { return *f.specs.Load(), nil },
		OpenStore: func(_ context.Context, m core.MountSpec) (ufs.Store, error) {
			f.opened.Add(1)
			return lockedStore{store, m.Options["secret_key"], right, f.is}, nil
		},
	})
	t.Cleanup(func() {
		if err := f.w.Close(); err != nil {
			t.Error(err)
		}
		if err := cache.Close(); err != nil {
			t.Error(err)
		}
	})
	return f, right
}

// mount makes the masters say that the one mount is id, with that secret.
func (f *fixture) mount(id, secret string) {
	f.specs.Store(&[]core.StoreSpec{{ID: id, MountSpec: core.MountSpec{URI: "test://", Options: f.sealer.Options(id, map[string]string{"secret_key": secret})}}})
}

// ticket returns a ticket for a content of its own that is the file.
func (f *fixture) ticket(content byte, change func(*seal.Ticket)) []byte {
	x := &seal.Ticket{ID: [16]byte{content}, Len: f.info.Size, Store: "m1", Key: "f", Version: f.info.Version, Expires: time.Now().Add(time.Minute)}
	if change != nil {
		change(x)
	}
	return f.sealer.Sign(x)
}

// read reads bytes of a ticket's content.
func (f *fixture) read(ticket []byte, off, n int64) (got string, resident bool, err error) {
	rd, err := f.w.Pages(f.t.Context(), ticket, off, n)
	if err != nil {
		return "", false, err
	}
	resident = rd.Resident()
	var b strings.Builder
	_, err = rd.WriteTo(&b)
	if cerr := rd.Close(); cerr != nil {
		f.t.Error(cerr)
	}
	return b.String(), resident, err
}

// A worker opens the directory that the masters have mounted, and none that is at its place. It says so once, and looks again in a while.
func TestAnotherDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := start(t)
		spec := (*f.specs.Load())[0]
		spec.Is, f.is = "inode=1 made=5", "inode=2 made=5"
		f.specs.Store(&[]core.StoreSpec{spec})
		refused := func(opened int32) {
			t.Helper()
			if _, _, err := f.read(f.ticket(1, nil), 0, 1); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "another directory") {
				t.Errorf("of another directory: %v", err)
			}
			if n := f.opened.Load(); n != opened {
				t.Errorf("it was opened %d times, want %d", n, opened)
			}
			if n := strings.Count(f.log.String(), "another directory"); n != 1 {
				t.Errorf("the log says it %d times:\n%s", n, &f.log)
			}
		}
		refused(1)
		refused(1) // that was seen a moment ago
		time.Sleep(10 * time.Second)
		refused(2)
		f.is = "inode=1" // of a host that does not tell as much
		refused(2)
		time.Sleep(10 * time.Second)
		if got, _, err := f.read(f.ticket(1, nil), 4, 5); got != text[4:9] || err != nil {
			t.Errorf("of the directory: got %q, %v", got, err)
		}
	})
}

// A worker opens the directory that is at the place of the mounted one soon after the masters take that for it.
func TestAnotherDirectoryTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := start(t)
		say := func(is string) {
			spec := (*f.specs.Load())[0]
			spec.Is = is
			f.specs.Store(&[]core.StoreSpec{spec})
		}
		f.is = "inode=2"
		say("inode=1")
		for _, then := range []string{"inode=1", "inode=2"} {
			if _, _, err := f.read(f.ticket(1, nil), 0, 1); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("of another directory: %v", err)
			}
			synctest.Wait()
			if n := f.opened.Load(); n != 1 {
				t.Errorf("it was opened %d times, want once", n)
			}
			say(then)
			time.Sleep(time.Second)
		}
		if _, _, err := f.read(f.ticket(1, nil), 0, 1); errs.KindOf(err) != errs.Unavailable { // and asks the masters
			t.Errorf("of what was another directory: %v", err)
		}
		synctest.Wait()
		if got, _, err := f.read(f.ticket(1, nil), 4, 5); got != text[4:9] || err != nil {
			t.Errorf("of the directory: got %q, %v", got, err)
		}
	})
}

func TestTickets(t *testing.T) {
	f, _ := start(t)
	whole := f.ticket(1, nil)
	for i, want := range []bool{false, true} {
		if got, resident, err := f.read(whole, 4, 5); got != text[4:9] || resident != want || err != nil {
			t.Errorf("read %d: got %q, resident %v, %v", i, got, resident, err)
		}
	}
	for _, k := range []struct {
		name   string
		ticket []byte
		off, n int64
		want   errs.Kind
	}{
		{"beyond the end", whole, 0, f.info.Size + 1, errs.Range},
		{"before the beginning", whole, -1, 1, errs.Range},
		{"an overflow", whole, 1, 1<<63 - 1, errs.Range},
		{"expired", f.ticket(2, func(x *seal.Ticket) { x.Expires = time.Now().Add(-time.Minute) }), 0, 1, errs.Permission},
		{"changed", append(whole[:len(whole)-1:len(whole)-1], whole[len(whole)-1]^1), 0, 1, errs.Permission},
		{"none", nil, 0, 0, errs.Permission},
		{"another version", f.ticket(3, func(x *seal.Ticket) { x.Version, x.Tends = "other", true }), 0, 1, errs.Conflict},
		{"no such file", f.ticket(4, func(x *seal.Ticket) { x.Key = "g" }), 0, 1, errs.Conflict},
		{"no such mount", f.ticket(5, func(x *seal.Ticket) { x.Store = "m9" }), 0, 1, errs.Unavailable},
	} {
		if got, _, err := f.read(k.ticket, k.off, k.n); errs.KindOf(err) != k.want || got != "" {
			t.Errorf("%s: got %q, %v", k.name, got, err)
		}
	}
	if n := strings.Count(f.log.String(), "a ticket is refused"); n != 1 {
		t.Errorf("the log says %d times that tickets are refused:\n%s", n, &f.log)
	}
	if n := f.opened.Load(); n != 1 {
		t.Errorf("the store was opened %d times", n)
	}
}

// TestSecretChanges has the store want another secret, which the masters have learnt.
func TestSecretChanges(t *testing.T) {
	f, right := start(t)
	if got, _, err := f.read(f.ticket(1, nil), 0, f.info.Size); got != text || err != nil {
		t.Fatal(got, err)
	}
	second := "second"
	right.Store(&second)
	if _, _, err := f.read(f.ticket(2, nil), 0, 1); errs.KindOf(err) != errs.Permission {
		t.Errorf("before the masters know: got %v", err)
	}
	// That was tried a moment ago, and is not tried for each read.
	if _, _, err := f.read(f.ticket(2, nil), 0, 1); errs.KindOf(err) != errs.Permission || f.opened.Load() != 2 {
		t.Errorf("again: got %v after %d opens", err, f.opened.Load())
	}
	f.mount("m2", second)
	if got, _, err := f.read(f.ticket(3, func(x *seal.Ticket) { x.Store = "m2" }), 0, f.info.Size); got != text || err != nil {
		t.Errorf("a mount made since: got %q, %v", got, err)
	}
	f, right = start(t)
	if _, _, err := f.read(f.ticket(1, nil), 0, 1); err != nil {
		t.Fatal(err)
	}
	right.Store(&second)
	f.mount("m1", second)
	if got, _, err := f.read(f.ticket(2, nil), 0, f.info.Size); got != text || err != nil || f.opened.Load() != 2 {
		t.Errorf("once the masters know: got %q, %v after %d opens", got, err, f.opened.Load())
	}
}

// TestTend has a worker look, load and drop.
func TestTend(t *testing.T) {
	f, _ := start(t)
	tends := func(x *seal.Ticket) { x.Tends = true }
	ticket := f.ticket(1, tends)
	for _, k := range []struct {
		op   core.PageOp
		want string
	}{{core.LookPages, "\x00"}, {core.LoadPages, "\x01"}, {core.LookPages, "\x01"}, {core.DropPages, "\x00"}, {core.LookPages, "\x00"}} {
		got, err := f.w.Tend(t.Context(), ticket, k.op, 0, f.info.Size)
		if string(got.Pages) != k.want || err != nil {
			t.Errorf("%c: got %q, %v", k.op, got.Pages, err)
		}
		if _, resident, err := f.read(f.ticket(1, nil), 0, 0); err != nil || !resident {
			t.Errorf("a read of nothing: %v, %v", resident, err)
		}
	}
	missed := func(version string) core.Misses {
		t.Helper()
		report, err := f.w.Tend(t.Context(), f.ticket(7, func(x *seal.Ticket) { x.Key, x.Version = "f", version }), core.MissedPages, 0, 0)
		if err != nil {
			t.Error(err)
		}
		return report.Misses
	}
	if m := missed(f.info.Version); m.Last != nil || m.Forgotten || m.Since.IsZero() {
		t.Errorf("nobody has read: %+v", m)
	}
	if got, _, err := f.read(f.ticket(7, func(x *seal.Ticket) { x.Base, x.Len = 2, 5 }), 1, 2); got != text[3:5] || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if m := missed(f.info.Version).Last; m == nil || m.Off != 3 || m.Len != 2 || m.Why != core.MissForgotten || m.At.IsZero() || m.Other {
		t.Errorf("a read missed: %+v", m)
	}
	if m := missed("next").Last; m == nil || !m.Other {
		t.Errorf("of another version: %+v", m)
	}
	for _, k := range []struct {
		name   string
		ticket []byte
		op     core.PageOp
		off, n int64
		want   errs.Kind
	}{
		{"no ticket", nil, core.DropPages, 0, 1, errs.Permission},
		{"expired", f.ticket(1, func(x *seal.Ticket) { x.Expires = time.Now().Add(-time.Minute) }), core.DropPages, 0, 1, errs.Permission},
		{"beyond the end", ticket, core.LookPages, 0, f.info.Size + 1, errs.Range},
		{"another version", f.ticket(3, func(x *seal.Ticket) { x.Version, x.Tends = "other", true }), core.LoadPages, 0, 1, errs.Conflict},
		{"load by one for reading", f.ticket(1, nil), core.LoadPages, 0, 1, errs.Permission},
		{"pin by one for reading", f.ticket(1, nil), core.PinPages, 0, 1, errs.Permission},
		{"drop by one for reading", f.ticket(1, nil), core.DropPages, 0, 1, errs.Permission},
		{"unpin by one for reading", f.ticket(1, nil), core.UnpinPages, 0, 1, errs.Permission},
		{"look by one for reading", f.ticket(1, nil), core.LookPages, 0, 1, errs.Other},
		{"not to be kept", f.ticket(1, func(x *seal.Ticket) { x.NoCache, x.Tends = true, true }), core.LoadPages, 0, 1, errs.Precondition},
		{"no such operation", ticket, 'z', 0, 1, errs.Unsupported},
	} {
		if _, err := f.w.Tend(t.Context(), k.ticket, k.op, k.off, k.n); errs.KindOf(err) != k.want {
			t.Errorf("%s: got %v", k.name, err)
		}
	}
}
