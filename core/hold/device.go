package hold

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// device is the system calls that a disk can fail: a seam for tests.
type device struct {
	pread    func(f *os.File, p []byte, off int64) (int, error)
	pwrite   func(f *os.File, bufs [][]byte, off int64) error
	allocate func(f *os.File, n int64) error
	sync     func(f *os.File) error // of data, and of what is needed to find it
	syncDir  func(dir *os.File) error
	remove   func(name string) error
}

func systemDevice() device {
	return device{pread: (*os.File).ReadAt, pwrite: pwrite, allocate: allocate, sync: datasync, syncDir: (*os.File).Sync, remove: os.Remove}
}

// maxVector is how many buffers one pwritev(2) takes. Source: IOV_MAX of linux/uio.h.
const maxVector = 1024

func pwrite(f *os.File, bufs [][]byte, off int64) error {
	for len(bufs) > 0 {
		n, err := unix.Pwritev(int(f.Fd()), bufs[:min(maxVector, len(bufs))], off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "pwritev", Path: f.Name(), Err: err}
		}
		off += int64(n)
		for len(bufs) > 0 && n >= len(bufs[0]) {
			n, bufs = n-len(bufs[0]), bufs[1:]
		}
		if n > 0 {
			bufs = append([][]byte{bufs[0][n:]}, bufs[1:]...)
		}
	}
	return nil
}

// allocate gives f n bytes that later writes find there. Where the file system cannot, they may fail for want of space.
func allocate(f *os.File, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, n)
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
			err = f.Truncate(n)
		}
		if err != unix.EINTR {
			return err
		}
	}
}

func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// inMemory reports whether dir is gone when the machine loses power.
func inMemory(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, err
	}
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC, nil
}

func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
