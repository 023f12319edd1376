package page

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
)

// Loan is a page, or a part of one, that another process of the machine reads where it lies: it is given File by descriptor passing,
// maps it (View), and its bytes never pass through this process.
//
// The slot is pinned until GiveBack, as by a Handle: whoever lends calls it when the borrower has said that it is done, or its
// connection has ended from its side. A process that lends may die before that, and its successor knows of no pins. So what is
// lent is locked too, in a way that no death undoes: File has a lock (flock(2)) that belongs to the open file and not to a
// process, and lasts until the last mapping of it is gone. OpenSegments does not use a segment file again on which there is
// one: it waits a little, and then removes the name of the file; its borrowers keep the bytes. On a file system where a lock
// does not last so, which is tried out before the first loan, nothing is lent.
type Loan struct {
	File     *os.File // can only be read; the cache's, open until the store is closed
	Off, Len int64    // where the bytes lie in File
	GiveBack func()   // repeating it does nothing
}

// LentPatience is how long a start waits for those who still read what was lent before: long beside the milliseconds that a borrower takes to
// notice that its lender has ended, and short for a start.
const LentPatience = 2 * time.Second

const (
	// lendShare is how much of a tier may be lent, as the divisor of its bytes: what is lent cannot leave.
	lendShare    = 8
	borrowedPoll = 10 * time.Millisecond
)

// Lend lends what is here of the content's bytes [off, off+n), from off on without a gap, in loans of a page each, at most so
// many. There are none if the bytes are not in files, or enough is lent. A page that is lent counts as read, and as a hit.
// Errors: as of NewReader.
func (c *Cache) Lend(ctx context.Context, content Content, off, n int64, most int) (all []Loan, err error) {
	r := c.NewReader(ctx, content, off, n, nil) // which is only asked where its pages are
	if r.err != nil {
		return nil, r.err
	}
	for r.pos < r.end && len(all) < most {
		h := r.lookup()
		if h == nil {
			break
		}
		m, ok := h.(*mapped)
		if !ok {
			h.Release()
			break
		}
		loan, err := m.lend()
		if err != nil {
			h.Release()
			break
		}
		from, to := r.bounds()
		loan.Off, loan.Len = loan.Off+int64(from), int64(to-from)
		all = append(all, loan)
		r.pos += loan.Len
		c.hits.Add(1)
		c.hitBytes.Add(loan.Len)
	}
	return all, nil
}

// errLent refuses to lend more.
var errLent = errs.New("page.Lend", "", errs.Busy, "enough of the directory is lent")

// lend makes a loan of the page. The handle is used up, unless there is an error.
func (h *mapped) lend() (Loan, error) {
	s := h.store
	s.mu.Lock()
	c := s.chunks[h.no>>8]
	s.mu.Unlock()
	f, err := s.lentFile(c.seg)
	if err != nil {
		return Loan{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	size := c.slotBytes()
	if s.lentBytes+size > s.quota/chunkStride*chunkBytes/lendShare || h.released.Swap(true) {
		return Loan{}, errLent
	}
	s.pinned-- // Close need not wait for it: nobody looks at this process's mapping
	s.lent++
	s.lentBytes += size
	s.change.Broadcast()
	return Loan{File: f, Off: c.dataOff(int(h.no & 255)), GiveBack: sync.OnceFunc(func() { s.takeBack(h.no, size) })}, nil
}

// takeBack ends a loan of size bytes.
func (s *Segments) takeBack(no uint32, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lent--
	s.lentBytes -= size
	if !s.closed {
		s.pinned++
		s.unpin(no)
	}
}

// lentFile returns the descriptor of the segment that is passed to others, and locks it. What the file system cannot do is
// remembered; another failure may have passed by the next time.
func (s *Segments) lentFile(g *segment) (*os.File, error) {
	s.lending.Lock()
	defer s.lending.Unlock()
	if g.lent != nil || s.neverLends != nil {
		return g.lent, s.neverLends
	}
	var err error
	if !s.probed {
		err = g.probeLock()
	}
	if err == nil {
		s.probed = true
		g.lent, err = g.openLocked()
	}
	if errors.Is(err, errNoLock) {
		s.neverLends = err
		s.log.Warn("pages of a cache directory are not lent to other processes", "dir", s.dir, "err", err)
	}
	return g.lent, err
}

// errNoLock is of a file system whose locks do not keep a file that is lent.
var errNoLock = errors.New("its file system has no locks that last as long as a mapping; tmpfs, ext4 and XFS have, overlayfs has not")

// unlockable reports whether err is of a file system that has no locks.
func unlockable(err error) bool { return unsupported(err) || errors.Is(err, unix.EINVAL) }

// openLocked opens the file so that it cannot be written by it, with the lock of what is lent. It is of an open file of its own: a duplicate of
// file could write.
func (s *segment) openLocked() (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", s.file.Fd()))
	if err != nil {
		return nil, err
	}
	if err = s.dev.flock(f, unix.LOCK_SH|unix.LOCK_NB); err == nil {
		return f, nil
	}
	if unlockable(err) {
		err = fmt.Errorf("%w: %w", errNoLock, err)
	}
	return nil, errors.Join(err, f.Close()) // without the lock it must not be lent
}

// probeLock tries out whether a lock lasts until the last mapping is gone, with all descriptors closed, as it must for a borrower.
// Where a file is mapped from another file system below (overlayfs, passed-through FUSE), the mapping does not keep the open file that
// has the lock. The error is errNoLock then.
func (s *segment) probeLock() error {
	f, err := s.openLocked()
	if err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	defer unix.Munmap(m)
	if err := f.Close(); err != nil {
		return err
	}
	for again := true; ; again = false {
		if err = s.dev.flock(s.file, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return errors.Join(errNoLock, s.dev.flock(s.file, unix.LOCK_UN))
		}
		if err != unix.EWOULDBLOCK {
			return err
		}
		if !again {
			return nil
		}
		time.Sleep(borrowedPoll) // a server of FUSE is told of the end of an open file after close(2) has returned
	}
}

// errBorrowed is why a file is not used again.
var errBorrowed = errors.New("another process still reads what was lent to it before the restart")

// borrowed says why the file of an earlier process must not be written, after waiting until the given time for those who still have it to
// let go. Where files cannot be locked none was lent.
func (s *segment) borrowed(until time.Time) error {
	for {
		err := s.dev.flock(s.file, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return s.dev.flock(s.file, unix.LOCK_UN) // a lock that stays would have nothing be lent
		case unlockable(err):
			return nil
		case err != unix.EWOULDBLOCK:
			return err
		case time.Now().After(until):
			return errBorrowed
		default:
			time.Sleep(borrowedPoll)
		}
	}
}

// View is a file that another process has lent pages of, mapped to be read. It knows nothing of what lies where. It is safe for
// concurrent use, but for Close, which comes when nobody reads any more.
//
// What it reads was verified by the lender, in the same memory; like the lender, it does not look at the checksum again.
type View struct{ mapped []byte }

// OpenView maps f, which may be closed then: the mapping keeps the file, and the lock on it. Errors: errs.Invalid for what is no
// segment file; errs.Unavailable.
func OpenView(f *os.File) (*View, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, errs.E("page.OpenView", "", errs.Unavailable, err)
	}
	if !st.Mode().IsRegular() || st.Size() == 0 || st.Size()%chunkStride != 0 {
		return nil, errs.New("page.OpenView", "", errs.Invalid, "this is no segment file")
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, errs.E("page.OpenView", "", errs.Unavailable, err)
	}
	return &View{m}, nil
}

// Close ends the mapping.
func (v *View) Close() error { return unix.Munmap(v.mapped) }

// Has reports whether the bytes [off, off+n) lie in the file.
func (v *View) Has(off, n int64) bool {
	return off >= 0 && n >= 0 && off <= int64(len(v.mapped)) && n <= int64(len(v.mapped))-off
}

// Copy copies bytes from off on, which lie in the file, to p. Errors: errs.Unavailable if the disk cannot read them.
func (v *View) Copy(p []byte, off int64) (int, error) { return copyPage(p, v.mapped[off:]) }

// Send writes the bytes [off, off+n), which lie in the file, to w, in one call. Its errors are w's, but if the disk cannot read
// them: then lost is true, and so many bytes were written as it says; the rest can be had elsewhere.
func (v *View) Send(w io.Writer, off, n int64) (written int, lost bool, err error) {
	written, err = writePage(w, v.mapped[off:off+n:off+n])
	return written, errors.Is(err, errFault) && !errors.Is(err, errTorn), err
}
