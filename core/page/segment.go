package page

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// tmpfsMagic is f_type of statfs(2) on tmpfs. Source: linux/magic.h.
const tmpfsMagic = 0x01021994

// device is the system calls a directory's segment files are used through: a seam for tests of failing disks.
type device struct {
	pread    func(f *os.File, p []byte, off int64) (int, error)
	pwrite   func(f *os.File, p []byte, off int64) (int, error)
	allocate func(f *os.File, mode uint32, off, n int64) error
	flock    func(f *os.File, how int) error
}

func systemDevice() device {
	return device{
		pread:  (*os.File).ReadAt,
		pwrite: (*os.File).WriteAt,
		allocate: func(f *os.File, mode uint32, off, n int64) error {
			for {
				if err := unix.Fallocate(int(f.Fd()), mode, off, n); err != unix.EINTR {
					return err
				}
			}
		},
		flock: func(f *os.File, how int) error {
			for {
				if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
					return err
				}
			}
		},
	}
}

// segment is one open segment file.
//
// Pages are written with pwrite(2) and read through a read-only mapping. A write beyond the room there is thus fails with
// ENOSPC, where a store into a mapping would kill the process with SIGBUS; and a range is only read from the mapping after
// it was written, because on tmpfs even the reading of a hole through a mapping allocates.
type segment struct {
	dev    device
	file   *os.File
	mapped []byte
	chunks int
	tmpfs  bool
	lent   *os.File // cannot write, has the lock of what is lent; nil while nothing was. Guarded by Segments.lending
}

func segmentBytes(chunks int) int64 { return int64(chunks) * chunkStride }

// createSegment makes the file name with room for chunks. On a disk the room is allocated, so that a full disk shows here
// and the file is contiguous; on tmpfs, where that would take memory for pages that are not there, it is not.
func createSegment(dev device, name string, chunks int, tmpfs bool) (*segment, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	size := segmentBytes(chunks)
	if err = f.Truncate(size); err == nil && !tmpfs {
		if err = dev.allocate(f, 0, 0, size); unsupported(err) {
			err = nil
		}
	}
	if err == nil {
		var s *segment
		if s, err = mapSegment(dev, f, chunks, tmpfs); err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(err, f.Close(), os.Remove(name))
}

// openSegment opens the existing file name. It reports ok = false, without an error, if it is not a whole segment.
func openSegment(dev device, name string, tmpfs bool) (s *segment, ok bool, err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, false, err
	}
	st, err := f.Stat()
	if err == nil && st.Mode().IsRegular() && st.Size() > 0 && st.Size()%chunkStride == 0 {
		if s, err = mapSegment(dev, f, int(st.Size()/chunkStride), tmpfs); err == nil {
			return s, true, nil
		}
	}
	return nil, false, errors.Join(err, f.Close())
}

func mapSegment(dev device, f *os.File, chunks int, tmpfs bool) (*segment, error) {
	m, err := unix.Mmap(int(f.Fd()), 0, int(segmentBytes(chunks)), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return &segment{dev: dev, file: f, mapped: m, chunks: chunks, tmpfs: tmpfs}, nil
}

func (s *segment) close() error {
	err := errors.Join(unix.Munmap(s.mapped), s.file.Close())
	if s.lent != nil {
		err = errors.Join(err, s.lent.Close())
	}
	return err
}

func (s *segment) dataOff(chunk int) int64 {
	return int64(s.chunks)*chunkTable + int64(chunk)*chunkBytes
}
func (s *segment) headerOff(chunk, slot int) int64 {
	return int64(chunk)*chunkTable + int64(slot)*headerBytes
}

// readTable reads the table of a chunk into p, of chunkTable bytes.
func (s *segment) readTable(chunk int, p []byte) error {
	_, err := s.dev.pread(s.file, p, s.headerOff(chunk, 0))
	return err
}

// readHeader reads and decodes the header of a slot. It reads with pread(2), which reports a bad disk as an error.
func (s *segment) readHeader(chunk, slot int) (h header, ok bool, err error) {
	var b [headerBytes]byte
	if _, err := s.dev.pread(s.file, b[:], s.headerOff(chunk, slot)); err != nil {
		return header{}, false, err
	}
	h, ok = decodeHeader(b[:])
	return h, ok, nil
}

func (s *segment) writeHeader(chunk, slot int, b [headerBytes]byte) error {
	_, err := s.dev.pwrite(s.file, b[:], s.headerOff(chunk, slot))
	return err
}

// clearTable makes all headers of a chunk zeros. On tmpfs that takes no room, as writing them does where there are none.
func (s *segment) clearTable(chunk int) error {
	if s.tmpfs {
		err := s.dev.allocate(s.file, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.headerOff(chunk, 0), chunkTable)
		if !unsupported(err) {
			return err
		}
	}
	_, err := s.dev.pwrite(s.file, make([]byte, chunkTable), s.headerOff(chunk, 0))
	return err
}

// detach takes the file range [off, off+n) away from everybody who may still refer to its memory, so that writing there
// again cannot change bytes that are on their way to a client.
//
// The bytes of a Handle leave by write(2) from the mapping, or by a copy, and not by sendfile(2) or splice(2). write(2) to
// a socket copies before it returns (only MSG_ZEROCOPY would not, and nothing here sets it), so after it no kernel buffer
// refers to the mapped pages, and Release when it has returned is early enough: the slot cannot be reused while a write
// runs, because the Handle is held. Detaching is therefore not needed for those bytes. It is done all the same, for the
// descriptor may come to be used in other ways and the order "unpinned, detached, written" is cheap to keep; on tmpfs it
// is also what gives memory back. Where the file system cannot do it, overwriting in place is safe for the reason above.
func (s *segment) detach(off, n int64) error {
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE) // keeps the blocks of a disk allocated
	if s.tmpfs {
		mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	if err := s.dev.allocate(s.file, mode, off, n); err != nil && !unsupported(err) {
		return fmt.Errorf("fallocate: %w", err)
	}
	return nil
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}

func onTmpfs(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, err
	}
	return st.Type == tmpfsMagic, nil
}
