package wrap_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// decorators are all of them that change nothing as long as nothing goes wrong.
var decorators = map[string]func(ufs.Store) ufs.Store{
	"timeout": func(s ufs.Store) ufs.Store { return wrap.Timeout(s, time.Minute, time.Minute) },
	"isolate": func(s ufs.Store) ufs.Store {
		return wrap.Isolate(s, wrap.IsolateOptions{Calls: 1, Queue: 100, Adapt: true})
	},
	"enter":   func(s ufs.Store) ufs.Store { return wrap.Enter(s, func(wrap.Op) func() { return func() {} }) },
	"observe": func(s ufs.Store) ufs.Store { return wrap.Observe(s, func(wrap.Event) {}) },
	"reword":  func(s ufs.Store) ufs.Store { return wrap.Reword(s, func(err error) error { return err }) },
	"fault":   func(s ufs.Store) ufs.Store { return wrap.Fault(s) },
	"guard":   func(s ufs.Store) ufs.Store { return wrap.Guard(s, func() error { return nil }) },
	"gate":    func(s ufs.Store) ufs.Store { return wrap.Gate(s, func() error { return nil }) },
	"retry":   func(s ufs.Store) ufs.Store { return wrap.Retry(s, 3, time.Millisecond) },
	"stack": func(s ufs.Store) ufs.Store {
		return stack(wrap.Isolate(wrap.Timeout(s, time.Minute, time.Minute), wrap.IsolateOptions{Calls: 1, Queue: 100}), nil)
	},
}

// stack is what is around the store of a mount.
func stack(s ufs.Store, seen wrap.Observer) ufs.Store {
	yes := func() error { return nil }
	if seen == nil {
		seen = func(wrap.Event) {}
	}
	return wrap.Observe(wrap.Gate(wrap.Guard(s, yes), yes), seen)
}

// TestStack holds what a stack of decorators makes of calls to what each of them is for.
func TestStack(t *testing.T) {
	var all []wrap.Event
	faulty := wrap.Fault(memufs.New(memufs.Options{}))
	s := stack(wrap.Timeout(faulty, time.Minute, time.Minute), func(e wrap.Event) { all = append(all, e) })
	if _, err := ufs.WriteFile(t.Context(), s, "a", []byte("text"), ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	broken := errs.New("test", "", errs.Unavailable, "broken")
	faulty.Add(wrap.Rule{Op: wrap.Stat, Nth: 1, Err: broken})
	faulty.Add(wrap.Rule{Op: wrap.Commit, Nth: 1, Err: broken})
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, broken) {
		t.Errorf("Stat: got %v", err)
	}
	w, err := s.Create(t.Context(), "b", 0, ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Commit: got %v", err)
	}
	var got []wrap.Op
	written, failed := 0, 0
	for _, e := range all {
		got = append(got, e.Op)
		written += e.Bytes
		if e.Err != nil {
			failed++
		}
	}
	if want := []wrap.Op{wrap.Create, wrap.Write, wrap.Commit, wrap.Stat, wrap.Create, wrap.Commit}; !reflect.DeepEqual(got, want) || written != 4 || failed != 2 {
		t.Errorf("seen %v, %d bytes, %d failures, want %v, 4 bytes, 2 failures", got, written, failed, want)
	}
	allocs := func(s ufs.Store) float64 {
		return testing.AllocsPerRun(100, func() {
			if _, err := ufs.WriteFile(t.Context(), s, "c", nil, ufs.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		})
	}
	bare := memufs.New(memufs.Options{})
	one := wrap.Observe(bare, func(wrap.Event) {})
	if alone, whole, stacked := allocs(bare), allocs(one), allocs(stack(bare, nil)); stacked-alone > 2.5*(whole-alone) {
		t.Errorf("a write asks for %.0f pieces of memory, behind one decorator %.0f, behind three %.0f", alone, whole, stacked)
	}
}

func TestSuite(t *testing.T) {
	for name, wrapped := range decorators {
		for flavour, o := range map[string]memufs.Options{"flat": {}, "dirs": {Dirs: true}} {
			t.Run(name+"/"+flavour, func(t *testing.T) {
				t.Parallel()
				ufstest.Run(t, func(*testing.T) ufs.Store { return wrapped(memufs.New(o)) })
			})
		}
	}
}

// TestWrapsEverything fails when an optional interface is added that the decorators forget.
func TestWrapsEverything(t *testing.T) {
	want := []reflect.Type{
		reflect.TypeFor[ufs.Store](), reflect.TypeFor[ufs.Renamer](), reflect.TypeFor[ufs.Mkdirer](),
		reflect.TypeFor[ufs.Trasher](), reflect.TypeFor[ufs.Copier](), reflect.TypeFor[ufs.Appender](),
		reflect.TypeFor[ufs.AttrSetter](), reflect.TypeFor[ufs.Composer](), reflect.TypeFor[ufs.FileRemover](),
		reflect.TypeFor[ufs.Prober](), reflect.TypeFor[ufs.Discarder](), reflect.TypeFor[ufs.Marked](),
	}
	all := map[string]ufs.Store{"readonly": wrap.ReadOnly(memufs.New(memufs.Options{}))}
	for name, wrapped := range decorators {
		all[name] = wrapped(memufs.New(memufs.Options{}))
	}
	for name, s := range all {
		for _, i := range want {
			if !reflect.TypeOf(s).Implements(i) {
				t.Errorf("%s does not implement %v", name, i)
			}
		}
	}
	methods := 0
	for _, i := range want {
		methods += i.NumMethod()
	}
	if calls := len(wrap.Ops()) - len([]wrap.Op{wrap.Read, wrap.Check, wrap.Write, wrap.Prepare, wrap.Commit, wrap.Abort}) + 2; calls != methods {
		t.Errorf("the interfaces have %d methods, the calls and Features and Close are %d", methods, calls)
	}
}

func TestGate(t *testing.T) {
	shut := errs.New("test", "", errs.Held, "not yet")
	var seen atomic.Int64
	inner := memufs.New(memufs.Options{Dirs: true})
	s := wrap.Gate(wrap.Observe(inner, func(wrap.Event) { seen.Add(1) }), func() error { return shut })
	c, err := ufs.ComposerOf(s)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"Create":       func() error { _, err := s.Create(t.Context(), "a", 1, ufs.CreateOptions{}); return err },
		"Append":       func() error { _, err := ufs.Append(t.Context(), s, "a", "", ufs.Attr{}); return err },
		"Remove":       func() error { return s.Remove(t.Context(), "a", "") },
		"RemoveFiles":  func() error { return ufs.RemoveFiles(t.Context(), s, []ufs.Versioned{{Name: "a"}}) },
		"CleanStaging": func() error { return s.CleanStaging(t.Context(), func(string) bool { return false }) },
		"Rename":       func() error { return ufs.Rename(t.Context(), s, "a", "b", true) },
		"Mkdir":        func() error { _, err := ufs.Mkdir(t.Context(), s, "d/", ufs.Attr{}); return err },
		"Begin":        func() error { _, err := c.Begin(t.Context(), "a", ufs.Attr{}); return err },
		"Cancel":       func() error { return c.Cancel(t.Context(), "a", "1") },
		"SetMark":      func() error { return ufs.SetMark(t.Context(), s, "m") },
	} {
		if err := change(); !errors.Is(err, shut) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := ufs.Probe(t.Context(), s, true); s.Features().Probe && !errors.Is(err, shut) {
		t.Errorf("a probe that writes: got %v", err)
	}
	if seen.Load() != 0 {
		t.Errorf("%d calls came through", seen.Load())
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, errs.NotExist) || seen.Load() != 1 {
		t.Errorf("a read: got %v, %d calls", err, seen.Load())
	}
}

func TestGuard(t *testing.T) {
	stopped := errs.New("test", "", errs.Unavailable, "not any more")
	var asked int
	s := wrap.Guard(memufs.New(memufs.Options{}), func() error { asked++; return stopped })
	if _, err := ufs.WriteFile(t.Context(), s, "a", []byte("x"), ufs.CreateOptions{}); !errors.Is(err, stopped) || asked != 1 {
		t.Errorf("a write: got %v, asked %d times", err, asked)
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, errs.NotExist) || asked != 1 {
		t.Errorf("a read: got %v, asked %d times", err, asked)
	}
}

func TestReadOnly(t *testing.T) {
	for _, dirs := range []bool{false, true} {
		inner := memufs.New(memufs.Options{Dirs: dirs})
		put(t, inner, "d/a", "data")
		s, ctx := wrap.ReadOnly(inner), t.Context()
		if b, err := ufs.ReadAll(ctx, s, "d/a", "", 10); err != nil || string(b) != "data" {
			t.Errorf("read: got %q, %v", b, err)
		}
		_, create := s.Create(ctx, "b", 0, ufs.CreateOptions{})
		for what, err := range map[string]error{
			"create": create, "remove": s.Remove(ctx, "d/a", ""), "clean": s.CleanStaging(ctx, func(string) bool { return false }),
			"rename": s.(ufs.Renamer).Rename(ctx, "d/a", "b", true), "trash": s.(ufs.Trasher).Trash(ctx, "d/"),
		} {
			if !errors.Is(err, errs.Permission) {
				t.Errorf("%s: got %v, want errs.Permission", what, err)
			}
		}
		if err := ufs.RemoveTree(ctx, s, "d/"); err == nil {
			t.Error("a tree was removed")
		}
		if _, err := ufs.Mkdir(ctx, s, "e/", ufs.Attr{}); !errors.Is(err, errs.Unsupported) {
			t.Errorf("mkdir by Features: got %v, want errs.Unsupported", err)
		}
		if err := ufs.Probe(ctx, s, true); err != nil {
			t.Errorf("probe: %v", err)
		}
		if b, err := ufs.ReadAll(ctx, inner, "d/a", "", 10); err != nil || string(b) != "data" {
			t.Errorf("the store was changed: %q, %v", b, err)
		}
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memufs.New(memufs.Options{})
		put(t, inner, "a", "data")
		f := wrap.Fault(inner)
		s, ctx := wrap.Timeout(f, time.Second, time.Minute), t.Context()
		r, err := s.Open(ctx, "a", 0, -1, "")
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.Create(ctx, "b", -1, ufs.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range wrap.Ops() {
			if op != wrap.Abort { // a driver bounds its own clean-up
				f.Add(wrap.Rule{Op: op, Delay: time.Hour})
			}
		}
		began := time.Now()
		_, stat := s.Stat(ctx, "a")
		_, open := s.Open(ctx, "a", 0, -1, "")
		var list error
		for _, list = range s.List(ctx, "", "", false) {
			break
		}
		_, read := r.Read(make([]byte, 4))
		_, again := r.Read(make([]byte, 4))
		for what, err := range map[string]error{"stat": stat, "open": open, "list": list, "read": read, "read again": again} {
			if !errors.Is(err, errs.Unavailable) {
				t.Errorf("%s: got %v, want errs.Unavailable", what, err)
			}
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("five calls of a dead store took %v, want at most 5s", d)
		}
		began = time.Now()
		if _, err := w.Commit(ctx); !errors.Is(err, errs.Unavailable) {
			t.Errorf("commit: got %v, want errs.Unavailable", err)
		}
		if d := time.Since(began); d != time.Minute {
			t.Errorf("commit was given up after %v, want 1m", d)
		}
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		if _, err := s.Stat(short, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller's own deadline: got %v, want context.DeadlineExceeded", err)
		}
		_ = r.Close()
	})
}

// TestStreamsOutliveCalls checks that the deadline of the call that opened a stream does not end the stream.
func TestStreamsOutliveCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memufs.New(memufs.Options{})
		put(t, inner, "a", "data")
		s := wrap.Timeout(inner, time.Second, time.Second)
		r, err := s.Open(t.Context(), "a", 0, -1, "")
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.Create(t.Context(), "b", -1, ufs.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // of the bubble's clock: a slow client
		if b, err := io.ReadAll(r); err != nil || string(b) != "data" {
			t.Errorf("read after an hour: got %q, %v", b, err)
		}
		if _, err := io.WriteString(w, "x"); err != nil {
			t.Error(err)
		}
		if _, err := w.Commit(t.Context()); err != nil {
			t.Error(err)
		}
		_ = r.Close()
	})
}

// TestEachIsGoneThroughOnce puts many decorators before a store, and checks that a call goes through each of them, once, from the last to
// the first and back.
func TestEachIsGoneThroughOnce(t *testing.T) {
	const many = 6
	var went []int
	var s ufs.Store = memufs.New(memufs.Options{})
	for i := range many {
		s = wrap.Enter(s, func(wrap.Op) func() {
			went = append(went, i)
			return func() { went = append(went, -i) }
		})
	}
	var want []int
	for i := range many {
		want = append(want, many-1-i)
	}
	for i := range many {
		want = append(want, -i)
	}
	for range 2 { // the second begins anew
		went = nil
		if _, err := s.Stat(t.Context(), "none"); errs.KindOf(err) != errs.NotExist {
			t.Fatal(err)
		}
		if !slices.Equal(went, want) {
			t.Errorf("went through %v, want %v", went, want)
		}
	}
}

func TestObserve(t *testing.T) {
	var read, written, rows atomic.Int64
	var failed atomic.Int64
	s := wrap.Observe(memufs.New(memufs.Options{}), func(e wrap.Event) {
		switch e.Op {
		case wrap.Read:
			read.Add(int64(e.Bytes))
		case wrap.Write:
			written.Add(int64(e.Bytes))
		case wrap.List:
			rows.Add(int64(e.Rows))
		}
		if e.Err != nil {
			failed.Add(1)
		}
	})
	put(t, s, "a", "data")
	put(t, s, "b", "more")
	if _, err := ufs.ReadAll(t.Context(), s, "a", "", 10); err != nil {
		t.Fatal(err)
	}
	for _, err := range s.List(t.Context(), "", "", false) {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, _ = s.Stat(t.Context(), "none")
	if read.Load() != 4 || written.Load() != 8 || rows.Load() != 2 || failed.Load() != 1 {
		t.Errorf("got read %d, written %d, rows %d, failed %d, want 4, 8, 2, 1",
			read.Load(), written.Load(), rows.Load(), failed.Load())
	}
}

func TestFault(t *testing.T) {
	inner := memufs.New(memufs.Options{})
	s, ctx := wrap.Fault(inner), t.Context()
	s.Add(wrap.Rule{Op: wrap.Commit, Nth: 2, Err: errs.Unavailable})
	s.Add(wrap.Rule{Op: wrap.Commit, Nth: 3, After: true, Err: errs.Unavailable})
	for _, name := range []string{"one", "two", "three"} {
		_, err := ufs.WriteFile(ctx, s, name, []byte("0123456789"), ufs.CreateOptions{})
		if (err != nil) != (name != "one") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	_, before := inner.Stat(ctx, "two")
	_, after := inner.Stat(ctx, "three")
	if !errors.Is(before, errs.NotExist) || after != nil {
		t.Errorf("a fault before and after the effect: got %v and %v", before, after)
	}
	s.Heal()
	s.Add(wrap.Rule{Op: wrap.Read, Name: "one", Nth: 1, Cut: 3, Err: errs.Unavailable})
	r, err := s.Open(ctx, "one", 0, -1, "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if string(b) != "012" || !errors.Is(err, errs.Unavailable) {
		t.Errorf("a cut read: got %q, %v", b, err)
	}
}

func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memufs.New(memufs.Options{})
		in := put(t, inner, "a", "0123456789")
		put(t, inner, "b", "")
		put(t, inner, "c", "")
		f := wrap.Fault(inner)
		s, ctx := wrap.Retry(f, 3, time.Second), t.Context()
		for _, op := range []wrap.Op{wrap.Stat, wrap.Open} {
			f.Add(wrap.Rule{Op: op, Nth: 1, Err: errs.Unavailable})
			f.Add(wrap.Rule{Op: op, Nth: 2, Err: errs.Unavailable})
		}
		if _, err := s.Stat(ctx, "a"); err != nil {
			t.Errorf("stat: %v", err)
		}
		f.Add(wrap.Rule{Op: wrap.Read, Nth: 1, Cut: 4, Err: errs.Unavailable})
		f.Add(wrap.Rule{Op: wrap.Read, Nth: 2, Err: errs.Unavailable})
		if b, err := ufs.ReadAll(ctx, s, "a", in.Version, 100); err != nil || !bytes.Equal(b, []byte("0123456789")) {
			t.Errorf("read: got %q, %v", b, err)
		}
		f.Add(wrap.Rule{Op: wrap.List, Nth: 2, Err: errs.Unavailable})
		var names string
		for in, err := range s.List(ctx, "", "", false) {
			if err != nil {
				t.Errorf("list: %v", err)
			}
			names += in.Name
		}
		if names != "abc" {
			t.Errorf("list: got %q, want abc", names)
		}
		f.Heal()
		f.Add(wrap.Rule{Op: wrap.Stat, Err: errs.Unavailable})
		f.Add(wrap.Rule{Op: wrap.Remove, Nth: 1, After: true, Err: errs.Unavailable})
		before := f.Calls(wrap.Stat)
		if _, err := s.Stat(ctx, "a"); !errors.Is(err, errs.Unavailable) || f.Calls(wrap.Stat)-before != 3 {
			t.Errorf("a dead store: got %v after %d tries", err, f.Calls(wrap.Stat)-before)
		}
		if err := s.Remove(ctx, "a", ""); !errors.Is(err, errs.Unavailable) || f.Calls(wrap.Remove) != 1 {
			t.Errorf("a change: got %v after %d tries, want one", err, f.Calls(wrap.Remove))
		}
	})
}

func put(t *testing.T, s ufs.Store, name, data string) ufs.Info {
	t.Helper()
	in, err := ufs.WriteFile(t.Context(), s, name, []byte(data), ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// TestListsNoFurtherThanIsTaken takes a page of a listing, for which no decorator has the store asked for the next.
func TestListsNoFurtherThanIsTaken(t *testing.T) {
	for name, wrapped := range decorators {
		inner := &endless{Store: memufs.New(memufs.Options{})}
		for _, want := range []int{1000, 3000} {
			taken := 0
			inner.told = 0
			for _, err := range wrapped(wrapped(inner)).List(t.Context(), "", "", true) {
				if err != nil {
					t.Fatal(err)
				}
				if taken++; taken == want {
					break
				}
			}
			if inner.told != want {
				t.Errorf("%s: %d names were asked of the store for %d", name, inner.told, want)
			}
		}
	}
}

// endless is a store with names without end.
type endless struct {
	ufs.Store
	told int
}

func (e *endless) List(context.Context, string, string, bool) iter.Seq2[ufs.Info, error] {
	return func(yield func(ufs.Info, error) bool) {
		for i := 1; ; i++ {
			e.told = i
			if !yield(ufs.Info{Name: fmt.Sprintf("%09d", i)}, nil) {
				return
			}
		}
	}
}
