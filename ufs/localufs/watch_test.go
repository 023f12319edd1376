package localufs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/needtest"
	"github.com/sluicefs/sluice/ufs"
)

// told is a Watch and what it has told.
type told struct {
	t       *testing.T
	changes chan ufs.Change
	ended   chan error
}

// watch watches s from when it is Ready.
func watch(t *testing.T, s *Store) told {
	t.Helper()
	w := told{t, make(chan ufs.Change, 100_000), make(chan error, 1)}
	ctx, stop := context.WithCancel(t.Context())
	go func() { w.ended <- s.Watch(ctx, func(c ufs.Change) { w.changes <- c }) }()
	t.Cleanup(func() {
		stop()
		if err := <-w.ended; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, errs.Unavailable) {
			t.Errorf("Watch: %v", err)
		}
	})
	return w
}

// await returns what was told up to the change.
func (w told) await(kind ufs.ChangeKind, name string) (before []ufs.Change) {
	w.t.Helper()
	over := time.After(time.Minute)
	for {
		select {
		case c := <-w.changes:
			if c.Kind == kind && c.Name == name {
				return before
			}
			before = append(before, c)
		case <-over:
			w.t.Fatalf("%d %q was not told; before: %v", kind, name, before)
		}
	}
}

func TestWatch(t *testing.T) {
	s := openTemp(t)
	at := func(name string) string { return path(s, name) }
	must(t, os.MkdirAll(at("a/b"), 0o755))
	w := watch(t, s)
	w.await(ufs.Ready, "")
	for _, step := range []struct {
		what string
		do   func() error
		kind ufs.ChangeKind
		name string
	}{
		{"a file is made", func() error { return os.WriteFile(at("a/b/f"), []byte("1"), 0o644) }, ufs.Touched, "a/b/f"},
		{"it is overwritten", func() error { return os.WriteFile(at("a/b/f"), []byte("2"), 0o644) }, ufs.Touched, "a/b/f"},
		{"its mode changes", func() error { return os.Chmod(at("a/b/f"), 0o600) }, ufs.Touched, "a/b/f"},
		{"a directory is made with another in it", func() error { return os.MkdirAll(at("a/n/m"), 0o755) }, ufs.Arrived, "a/n/"},
		{"a file is made in it", func() error { return os.WriteFile(at("a/n/m/f"), nil, 0o644) }, ufs.Touched, "a/n/m/f"},
		{"a directory is renamed", func() error { return os.Rename(at("a"), at("c")) }, ufs.Arrived, "c/"},
		{"a file in it is removed", func() error { return os.Remove(at("c/b/f")) }, ufs.Touched, "c/b/f"},
		{"a file is made deep in it", func() error { return os.WriteFile(at("c/n/m/g"), nil, 0o644) }, ufs.Touched, "c/n/m/g"},
		{"a directory leaves the store", func() error { return os.Rename(at("c/n"), filepath.Join(t.TempDir(), "n")) }, ufs.Left, "c/n/"},
		{"one of its name comes", func() error { return os.Mkdir(at("c/n"), 0o755) }, ufs.Arrived, "c/n/"},
		{"a file is made in that", func() error { return os.WriteFile(at("c/n/f"), nil, 0o644) }, ufs.Touched, "c/n/f"},
		{"a tree is removed", func() error { return os.RemoveAll(at("c")) }, ufs.Left, "c/"},
		{"Sluice writes", func() error {
			_, err := ufs.WriteFile(t.Context(), s, "own/f", []byte("x"), ufs.CreateOptions{})
			return err
		}, ufs.Arrived, "own/"},
	} {
		must(t, step.do())
		for _, c := range w.await(step.kind, step.name) {
			if strings.HasPrefix(c.Name, ufs.Staging) {
				t.Errorf("%s: %v was told, which is staging", step.what, c)
			}
		}
	}
}

// Directories that are made and filled faster than they are watched are told with what is in them, or file by file.
func TestWatchMissesNothing(t *testing.T) {
	s := openTemp(t)
	w := watch(t, s)
	w.await(ufs.Ready, "")
	var dirs []string
	for i := range 50 {
		dir := strings.Repeat(fmt.Sprintf("d%d/", i), 5)
		dirs = append(dirs, dir)
		must(t, os.MkdirAll(path(s, dir), 0o755))
		must(t, os.WriteFile(path(s, dir+"f"), nil, 0o644))
	}
	must(t, os.WriteFile(path(s, "last"), nil, 0o644))
	all := w.await(ufs.Touched, "last")
	for _, dir := range dirs {
		if !slices.ContainsFunc(all, func(c ufs.Change) bool {
			return c.Kind == ufs.Arrived && strings.HasPrefix(dir, c.Name) || c.Name == dir+"f"
		}) {
			t.Errorf("%sf: nothing was told", dir)
		}
		must(t, os.WriteFile(path(s, dir+"g"), nil, 0o644))
		w.await(ufs.Touched, dir+"g")
	}
}

// What the kernel had to forget is told as lost, after which everything is told again: also in directories that came meanwhile.
func TestWatchOverflow(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	must(t, err)
	queue, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(t, err)
	if queue > 100_000 {
		needtest.Skip(t, "a queue that can be filled: the kernel's has room for %d events; set fs.inotify.max_queued_events to 16384", queue)
	}
	s := openTemp(t)
	w := told{t, make(chan ufs.Change, 10*queue), make(chan error, 1)}
	stuck, goOn := make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); <-w.ended }()
	go func() {
		w.ended <- s.Watch(ctx, func(c ufs.Change) {
			if c.Name == "stop" {
				select {
				case <-goOn:
				default:
					close(stuck)
					<-goOn
				}
			}
			w.changes <- c
		})
	}()
	w.await(ufs.Ready, "")
	must(t, os.WriteFile(path(s, "stop"), nil, 0o644))
	<-stuck
	for i := range queue/2 + 1000 {
		must(t, os.WriteFile(path(s, "f"+strconv.Itoa(i)), nil, 0o644))
	}
	must(t, os.MkdirAll(path(s, "new/er"), 0o755))
	close(goOn)
	w.await(ufs.Lost, "") // at once
	w.await(ufs.Left, "")
	w.await(ufs.Lost, "") // when all is watched again
	must(t, os.WriteFile(path(s, "new/er/f"), nil, 0o644))
	w.await(ufs.Touched, "new/er/f")
}

// Directories for which the kernel has no watch left are named; the others are told of.
func TestWatchRunsOut(t *testing.T) {
	s := openTemp(t)
	for i := range 5 {
		must(t, os.MkdirAll(path(s, fmt.Sprintf("d%d/e", i)), 0o755))
	}
	left := 4
	s.watch = func(fd int, path string, mask uint32) (int, error) {
		if left--; left < 0 {
			return -1, unix.ENOSPC
		}
		return unix.InotifyAddWatch(fd, path, mask)
	}
	w := watch(t, s)
	blind := 0
	for _, c := range w.await(ufs.Ready, "") {
		if c.Kind == ufs.Blind && strings.Contains(c.Why, "max_user_watches") {
			blind++
		}
	}
	if blind == 0 {
		t.Error("no directory is told to be blind")
	}
	must(t, os.WriteFile(path(s, "f"), nil, 0o644))
	w.await(ufs.Touched, "f")
}

func TestWatchOfALostRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	s, err := Open(dir, Options{Create: true})
	must(t, err)
	defer s.Close()
	w := watch(t, s)
	w.await(ufs.Ready, "")
	must(t, os.Rename(dir, dir+".moved"))
	err = <-w.ended
	wantKind(t, "Watch of a root that was moved", err, errs.Unavailable)
	w.ended <- err
}

// A directory whose watch ends, though it is there, is watched again, and what was in it is lost: so it is when a file system goes
// that was mounted there.
func TestWatchEnds(t *testing.T) {
	s := openTemp(t)
	must(t, os.MkdirAll(path(s, "d/e"), 0o755))
	must(t, os.MkdirAll(path(s, "other"), 0o755))
	queue, wds := make(chan int, 1), make(chan int, 10)
	s.watch = func(fd int, at string, mask uint32) (int, error) {
		wd, err := unix.InotifyAddWatch(fd, at, mask)
		if link, _ := os.Readlink(at); strings.HasSuffix(link, "/d") {
			queue <- fd
			wds <- wd
		}
		return wd, err
	}
	w := watch(t, s)
	w.await(ufs.Ready, "")
	_, err := unix.InotifyRmWatch(<-queue, uint32(<-wds))
	must(t, err)
	for _, c := range w.await(ufs.Lost, "d/") {
		if c.Kind == ufs.Lost {
			t.Errorf("%v is lost, which is not in it", c)
		}
	}
	must(t, os.WriteFile(path(s, "d/f"), nil, 0o644))
	w.await(ufs.Touched, "d/f")
	must(t, os.WriteFile(path(s, "d/e/f"), nil, 0o644))
	w.await(ufs.Touched, "d/e/f")

	// With a file system the watches of all its directories end.
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	defer unix.Close(fd) //nolint:errcheck // it ends with the test
	s.watch = unix.InotifyAddWatch
	var all []ufs.Change
	x := &watching{s: s, fd: fd, tell: func(c ufs.Change) { all = append(all, c) }, dirs: map[int32]string{}, wds: map[string]int32{}}
	must(t, x.add(t.Context(), ""))
	event := func(dir string, mask uint32) []byte {
		return binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, uint32(x.wds[dir])), mask), 0)
	}
	var events []byte
	for _, dir := range []string{"d/e/", "d/"} {
		events = append(events, append(event(dir, unix.IN_UNMOUNT), event(dir, unix.IN_IGNORED)...)...)
	}
	must(t, x.take(t.Context(), events))
	want := []ufs.Change{{Kind: ufs.Left, Name: "d/"}, {Kind: ufs.Lost, Name: "d/"}}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("an unmount is told: -want +got:\n%s", diff)
	}
	if _, ok := x.wds["d/e/"]; !ok || len(x.dirs) != 4 || len(x.wds) != 4 {
		t.Errorf("then watched: %v", x.wds)
	}
	if err := x.take(t.Context(), event("", unix.IN_IGNORED)); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("the watch of the root ends: %v", err)
	}
}
