package localufs

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/ufs"
)

// flying returns a syncs that the kernel takes fsyncs from, and a file and its directory on a file system that it does so for.
func flying(t *testing.T) (s *syncs, file, dir int) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	s = &syncs{}
	t.Cleanup(func() { s.close(); _ = f.Close(); _ = d.Close() })
	file, dir = int(f.Fd()), int(d.Fd())
	fl := s.submit(&iocb{opcode: opFsync, fd: uint32(file)})
	if fl == nil {
		t.Skip("the kernel takes no asynchronous fsync here")
	}
	if err := s.land(fl); err != nil {
		t.Fatal(err)
	}
	return s, file, dir
}

// busy has it look as if that many calls of fsync(2) were under way.
func busy(t *testing.T, calls int) {
	was := syncCalls.Swap(int32(calls))
	t.Cleanup(func() { syncCalls.Store(was) })
}

// TestSyncsAtOnce has more fsyncs at once than are handed to the kernel, and checks that each ends and all is given back.
func TestSyncsAtOnce(t *testing.T) {
	s, file, dir := flying(t)
	busy(t, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i := range 4 * maxFlights {
		wg.Go(func() {
			for range 20 {
				if err := s.fsync([]int{file, dir}[i%2]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := int(syncCalls.Load()); n != runtime.GOMAXPROCS(0) {
		t.Errorf("got %d calls under way at the end, want %d", n, runtime.GOMAXPROCS(0))
	}
	if len(s.idle) != len(s.all) || len(s.all) > maxFlights {
		t.Errorf("got %d of %d given back, want all, of at most %d", len(s.idle), len(s.all), maxFlights)
	}
	if n := syncFlights.Load(); n != 0 {
		t.Errorf("%d flights are in use at the end", n)
	}
}

// TestSyncsOfAll checks that all stores together hand over no more fsyncs at once than one alone.
func TestSyncsOfAll(t *testing.T) {
	s, _, _ := flying(t)
	other, file, _ := flying(t)
	var all []*flight
	for range maxFlights {
		f := s.take()
		if f == nil {
			t.Fatalf("got %d flights, want %d", len(all), maxFlights)
		}
		all = append(all, f)
	}
	cb := iocb{opcode: opFsync, fd: uint32(file)}
	if other.submit(&cb) != nil {
		t.Error("another store got one more")
	}
	for _, f := range all {
		s.give(f)
	}
	f := other.submit(&cb)
	if f == nil {
		t.Fatal("another store got none when they were given back")
	}
	if err := other.land(f); err != nil {
		t.Error(err)
	}
}

// TestSyncsErrors checks that what the kernel says of a task that it has carried out is returned, and what it says of one that it
// does not take.
func TestSyncsErrors(t *testing.T) {
	s, _, _ := flying(t)
	busy(t, runtime.GOMAXPROCS(0))
	sealed, err := unix.MemfdCreate("sealed", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFD(sealed)
	if _, err := unix.FcntlInt(uintptr(sealed), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		t.Fatal(err)
	}
	const write = 1 // IOCB_CMD_PWRITE: no fsync fails here by being asked to
	b := []byte("x")
	f := s.submit(&iocb{opcode: write, fd: uint32(sealed), buf: uint64(uintptr(unsafe.Pointer(&b[0]))), bytes: 1})
	if f == nil {
		t.Fatal("the write was not taken")
	}
	if err := s.land(f); !errors.Is(err, unix.EPERM) {
		t.Errorf("a write to what is sealed: got %v, want EPERM", err)
	}
	pipe := make([]int, 2)
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := s.fsync(pipe[1]); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a pipe: got %v, want EINVAL", err)
	}
	closeFD(pipe[0])
	closeFD(pipe[1])
	if err := s.fsync(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("no descriptor: got %v, want EBADF", err)
	}
}

// TestSyncsClose checks that a flight under way when the store is closed lands, that its end releases what the kernel keeps, and
// that one can sync after that.
func TestSyncsClose(t *testing.T) {
	s, file, _ := flying(t)
	f := s.submit(&iocb{opcode: opFsync, fd: uint32(file)})
	if f == nil {
		t.Fatal("the fsync was not taken")
	}
	s.close()
	if s.ctx == 0 {
		t.Fatal("released under a flight")
	}
	if err := s.land(f); err != nil {
		t.Error(err)
	}
	if s.ctx != 0 || s.all != nil {
		t.Error("the last flight has landed, and nothing was released")
	}
	if err := s.fsync(file); err != nil || s.ctx != 0 {
		t.Errorf("after close: got %v and context %d, want neither", err, s.ctx)
	}
}

// TestCommitHandsOverSyncs checks that the fsyncs of a small file and of its directory are handed to the kernel if none but the spare
// processors are left, and else are not.
func TestCommitHandsOverSyncs(t *testing.T) {
	flying(t)
	for _, test := range []struct {
		calls int // of fsync(2) that are under way, less than there are processors
		want  int // flights, each used again and again
	}{{spare, 1}, {spare + 1, 0}} {
		s, err := Open(t.TempDir(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if s.network {
			t.Skip("a network file system is synced by calls of our own")
		}
		busy(t, runtime.GOMAXPROCS(0)-test.calls)
		w, err := s.Create(t.Context(), "a", 1, ufs.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(s.syncs.all); got != test.want || len(s.syncs.idle) != got {
			t.Errorf("%d processors left: got %d flights, %d of them given back, want %d", test.calls, got, len(s.syncs.idle), test.want)
		}
		if got, want := int(syncCalls.Load()), runtime.GOMAXPROCS(0)-test.calls; got != want {
			t.Errorf("%d processors left: got %d calls under way at the end, want %d", test.calls, got, want)
		}
	}
}
