package localufs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

/*
The kernel tells of what happens directly in a directory that is watched, by the number of its watch. So every directory has
one, and one that comes is walked through once it has its own: what is made in it before that is found then, what is made after
is told. A directory that is moved keeps its watches under names that are wrong by then; they are dropped when it leaves, and
made again where it arrives. A watch that ends though its directory was not removed ended with the file system that it was of:
then another directory is there, and everything in it may have changed.

What is reached through a symbolic link or a second hard link is told under the name it has in its own directory only.
*/

const watched = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK

// watching is one Watch.
type watching struct {
	s    *Store
	fd   int
	tell func(ufs.Change)
	dirs map[int32]string // by the number of the watch: the directory, "" or ending in "/"
	wds  map[string]int32
	full bool // no more watches are to be had

	ended []string // directories whose watches the kernel has ended, to be watched again
}

// errOverflow says that the kernel had to forget what nobody had read yet.
var errOverflow = errors.New("the queue of events was full")

// Watch implements ufs.Watcher with inotify. On a file system of other hosts it is Blind to what these change.
func (s *Store) Watch(ctx context.Context, tell func(ufs.Change)) error {
	for kind := ufs.Ready; ; kind = ufs.Lost {
		if s.network {
			tell(ufs.Change{Kind: ufs.Blind, Why: "the file system is one of other hosts, too, of whose changes this one's kernel does not tell"})
		}
		err := s.watchOnce(ctx, kind, tell)
		if !errors.Is(err, errOverflow) {
			return err
		}
		tell(ufs.Change{Kind: ufs.Lost}) // to walk through all takes long; what changes meanwhile is lost once more
		tell(ufs.Change{Kind: ufs.Left}) // which directories cannot be watched is told anew
	}
}

// watchOnce watches until ctx ends or something was lost: which directories came meanwhile is not known then, so that all begins
// anew. begun is what it tells once every directory is watched.
func (s *Store) watchOnce(ctx context.Context, begun ufs.ChangeKind, tell func(ufs.Change)) error {
	const op = "localufs.Watch"
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return errs.New(op, "", errs.Unavailable, "the kernel gives no inotify instance: "+err.Error()+"; is fs.inotify.max_user_instances used up?")
	}
	f := os.NewFile(uintptr(fd), "inotify") // not blocking: its Read ends at the deadline
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	w := &watching{s: s, fd: fd, tell: tell, dirs: map[int32]string{}, wds: map[string]int32{}}
	if err := w.add(ctx, ""); err != nil {
		return err
	}
	tell(ufs.Change{Kind: begun})
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return errs.New(op, "", errs.Unavailable, "the kernel tells of changes no more: "+err.Error())
		}
		if err := w.take(ctx, buf[:n]); err != nil {
			return err
		}
	}
}

// take tells of the events in b, whole ones as the kernel gives them.
func (w *watching) take(ctx context.Context, b []byte) error {
	for len(b) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:]) //nolint:gosec // it is one
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if end > len(b) {
			break
		}
		name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00"))
		b = b[end:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			return errOverflow
		}
		dir, ok := w.dirs[wd]
		switch {
		case !ok: // dropped when it left
		case dir == "" && mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT|unix.IN_IGNORED) != 0:
			return errs.New("localufs.Watch", "", errs.Unavailable, "the store's root directory "+w.s.at+" was removed, moved or unmounted")
		case mask&unix.IN_DELETE_SELF != 0: // the one above it tells
			w.forget(wd)
		case mask&(unix.IN_UNMOUNT|unix.IN_IGNORED) != 0:
			w.forget(wd)
			w.ended = append(w.ended, dir)
		case name == "": // of the directory itself: the one above it tells
		case dir == "" && name+"/" == ufs.Staging:
		default:
			if err := w.one(ctx, dir+name, mask); err != nil {
				return err
			}
		}
	}
	return w.renew(ctx)
}

// renew watches again the directories whose watches have ended, and tells that what happened in them is lost.
func (w *watching) renew(ctx context.Context) error {
	ended := slices.Sorted(slices.Values(w.ended)) // those above first
	w.ended = nil
	for i, dir := range ended {
		if i > 0 && strings.HasPrefix(dir, ended[i-1]) {
			ended[i] = ended[i-1] // it was seen to with the one above
			continue
		}
		w.dropAll(dir)
		w.tell(ufs.Change{Kind: ufs.Left, Name: dir})
		if err := w.add(ctx, dir); err != nil {
			return err
		}
		w.tell(ufs.Change{Kind: ufs.Lost, Name: dir})
	}
	return nil
}

// one tells of what happened at a name.
func (w *watching) one(ctx context.Context, name string, mask uint32) error {
	if mask&unix.IN_ISDIR == 0 {
		w.tell(ufs.Change{Kind: ufs.Touched, Name: name})
		return nil
	}
	name += "/"
	switch {
	case mask&(unix.IN_MOVED_FROM|unix.IN_DELETE) != 0:
		w.drop(name)
		w.tell(ufs.Change{Kind: ufs.Left, Name: name})
	case mask&(unix.IN_MOVED_TO|unix.IN_CREATE) != 0:
		w.drop(name) // one of that name may have left unseen
		if err := w.add(ctx, name); err != nil {
			return err
		}
		w.tell(ufs.Change{Kind: ufs.Arrived, Name: name})
	default:
		w.tell(ufs.Change{Kind: ufs.Touched, Name: name})
	}
	return nil
}

// add watches the directory and all below it. One that cannot be watched is told of.
func (w *watching) add(ctx context.Context, dir string) error {
	for left := []string{dir}; len(left) > 0; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		at := left[len(left)-1]
		left = left[:len(left)-1]
		below, err := w.add1(at)
		switch {
		case err == nil:
			left = append(left, below...)
		case at == "":
			return errs.New("localufs.Watch", "", errs.Unavailable, "the root cannot be watched: "+err.Error())
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP): // gone again, which is told
		default:
			w.tell(ufs.Change{Kind: ufs.Blind, Name: at, Why: err.Error()})
		}
	}
	return nil
}

// errFull says that no more directories can be watched.
var errFull = errors.New("the user of this process may watch no more directories; raise fs.inotify.max_user_watches")

// add1 watches one directory and returns those in it.
func (w *watching) add1(dir string) (below []string, err error) {
	fd, err := w.s.open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	if !w.full {
		wd, err := w.s.watch(w.fd, fmt.Sprintf("/proc/self/fd/%d", fd), watched)
		w.full = errors.Is(err, unix.ENOSPC)
		if err != nil && !w.full {
			return nil, err
		}
		if err == nil {
			w.dirs[int32(wd)], w.wds[dir] = dir, int32(wd) //nolint:gosec // the kernel's are
		}
	}
	if w.full {
		return nil, errFull
	}
	entries, err := f.ReadDir(-1)
	for _, e := range entries {
		if name := dir + e.Name() + "/"; e.IsDir() && name != ufs.Staging {
			below = append(below, name)
		}
	}
	return below, err
}

// drop ends the watches of a directory that has left, and of all below it.
func (w *watching) drop(dir string) {
	if _, ok := w.wds[dir]; !ok {
		return // what is in it has none either
	}
	w.dropAll(dir)
}

// dropAll is drop also where the directory itself has no watch any more.
func (w *watching) dropAll(dir string) {
	for name, wd := range w.wds {
		if !strings.HasPrefix(name, dir) {
			continue
		}
		delete(w.wds, name)
		if w.dirs[wd] == name { // not found under another name already
			_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) //nolint:gosec // EINVAL: it went with its directory
			w.forget(wd)
		}
	}
}

// forget notes that a watch is gone.
func (w *watching) forget(wd int32) {
	if dir, ok := w.dirs[wd]; ok {
		delete(w.dirs, wd)
		if w.wds[dir] == wd {
			delete(w.wds, dir)
		}
		w.full = false
	}
}

var _ ufs.Watcher = (*Store)(nil)
