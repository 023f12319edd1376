package localufs

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// syncs has fsyncs carried out by threads of the kernel (io_submit(2)) where goroutines that wait for one in fsync(2) would leave too few
// processors (GOMAXPROCS) to the others: each keeps its processor until the runtime notices that it is blocked, and both noticing
// and handing the processor over take more time than the sync of a small file does. Nothing else differs: it is the same call in
// the kernel, on the same open file, which is told the same errors. What the kernel refuses to take is synced by fsync(2).
// The zero value is ready.
type syncs struct {
	mu     sync.Mutex
	ctx    uintptr // of io_setup(2); 0: none
	closed bool
	all    []*flight
	idle   []*flight
}

// Of all stores, since processors and the threads of the kernel are the whole machine's.
var (
	syncCalls   atomic.Int32 // of fsync(2) under way
	syncFlights atomic.Int32 // in use, maxFlights at most
)

// flight is one fsync at a time. done and result are guarded by syncs.mu.
type flight struct {
	number uint64   // in syncs.all
	landed *os.File // eventfd that the kernel signals
	fd     uint32   // of landed
	done   bool     // result is set
	result int64    // 0, or a negative errno
}

const (
	// maxFlights is how many fsyncs are handed to the kernel at once: a disk that does not answer keeps that many of its threads.
	maxFlights = 32

	// maxAsync is the size in bytes of the largest file that is handed to it: it complains of tasks that compute for 10 ms.
	maxAsync = 4 << 20

	// spare is how many processors those in fsync(2) leave to other goroutines. With more, a thread of one's own is as fast as the
	// kernel's: of those only one computes at a time on each processor.
	spare = 2
)

// iocb is the kernel's struct of this name. Source: include/uapi/linux/aio_abi.h
type iocb struct {
	data     uint64
	_        [2]uint32 // key and flags, in the order of the processor's bytes
	opcode   uint16
	_        int16
	fd       uint32
	buf      uint64
	bytes    uint64
	_        int64
	_        uint64
	flags    uint32
	signaled uint32 // eventfd
}

const (
	opFsync   = 2 // IOCB_CMD_FSYNC
	flagEvent = 1 // IOCB_FLAG_RESFD
)

// ioEvent is the kernel's struct io_event.
type ioEvent struct {
	data, _     uint64
	result, err int64
}

// fsync is fsync(2).
func (s *syncs) fsync(fd int) error {
	if int(syncCalls.Add(1)) > runtime.GOMAXPROCS(0)-spare && small(fd) {
		syncCalls.Add(-1)
		if f := s.submit(&iocb{opcode: opFsync, fd: uint32(fd)}); f != nil { //nolint:gosec // descriptors are small
			return s.land(f)
		}
		syncCalls.Add(1)
	}
	defer syncCalls.Add(-1)
	return retry(func() error { return unix.Fsync(fd) })
}

// small reports whether fd is a directory, or no larger than maxAsync.
func small(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && (isKind(&st, true) || st.Size <= maxAsync)
}

// submit hands cb to the kernel. Without a flight it has not taken it.
func (s *syncs) submit(cb *iocb) *flight {
	f := s.take()
	if f == nil {
		return nil
	}
	cb.data, cb.flags, cb.signaled = f.number, flagEvent, f.fd
	if n, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, s.ctx, 1, uintptr(unsafe.Pointer(&cb))); e != 0 || n != 1 {
		s.give(f)
		return nil
	}
	return f
}

// take returns a flight that is not in use, nil if there is none.
func (s *syncs) take() (f *flight) {
	taken := syncFlights.Add(1) <= maxFlights
	defer func() {
		if f == nil {
			syncFlights.Add(-1)
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !taken {
		return nil
	}
	if n := len(s.idle); n > 0 {
		f = s.idle[n-1]
		s.idle = s.idle[:n-1]
		f.done = false
		return f
	}
	if len(s.all) == maxFlights {
		return nil
	}
	if s.ctx == 0 {
		if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, maxFlights, uintptr(unsafe.Pointer(&s.ctx)), 0); e != 0 {
			s.closed = true // by the kernel's configuration, or who confines the process
			return nil
		}
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil
	}
	f = &flight{number: uint64(len(s.all)), landed: os.NewFile(uintptr(fd), "eventfd"), fd: uint32(fd)} //nolint:gosec // descriptors are small
	s.all = append(s.all, f)
	return f
}

// land waits for the end of the flight and returns what the kernel says of it.
func (s *syncs) land(f *flight) error {
	var count [8]byte
	if _, err := f.landed.Read(count[:]); err != nil {
		return err // the flight is not used again, and its result is not known
	}
	s.mu.Lock()
	for !f.done { // else who has landed before has brought its result along
		var landed [maxFlights]ioEvent
		n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, s.ctx, 1, maxFlights, uintptr(unsafe.Pointer(&landed)), 0, 0)
		if e == unix.EINTR {
			continue // nothing has landed
		}
		if e != 0 {
			s.mu.Unlock()
			return e
		}
		for _, l := range landed[:n] {
			s.all[l.data].done, s.all[l.data].result = true, l.result
		}
	}
	result := f.result
	s.mu.Unlock()
	s.give(f)
	if result < 0 {
		return unix.Errno(-result)
	}
	return nil
}

// give takes a flight back.
func (s *syncs) give(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, f)
	syncFlights.Add(-1)
	if s.closed {
		s.release()
	}
}

// close releases what the kernel keeps, once the last flight has landed. What is synced from then on is synced by fsync(2).
func (s *syncs) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.release()
}

// release is what close says. mu must be held.
func (s *syncs) release() {
	if len(s.idle) < len(s.all) || s.ctx == 0 {
		return
	}
	for _, f := range s.all {
		_ = f.landed.Close() // nothing is written to it
	}
	_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, s.ctx, 0, 0)
	s.ctx, s.all, s.idle = 0, nil, nil
}
