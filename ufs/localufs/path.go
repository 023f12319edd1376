package localufs

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// place is a name as the system calls take it: an open directory and one segment.
type place struct {
	dir    int // descriptor of the parent, open for reading
	base   string
	opened uint64 // turns.number, drawn after dir was opened and before anything is changed in it
}

func (p place) close() { closeFD(p.dir) }

// open opens path, relative to the root, which it cannot leave.
func (s *Store) open(path string, flags int) (fd int, err error) {
	if path == "" {
		path = "."
	}
	conn, err := s.root.SyscallConn()
	if err != nil {
		return -1, err
	}
	how := unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	cerr := conn.Control(func(root uintptr) {
		err = retry(func() (e error) {
			fd, e = unix.Openat2(int(root), strings.TrimSuffix(path, "/"), &how)
			return e
		})
	})
	if cerr != nil {
		return -1, os.ErrClosed // the only failure of Control
	}
	// A root that was removed opens, and is empty for ever.
	if path == "." && err == nil || errors.Is(err, unix.ENOENT) {
		if perr := s.present(); perr != nil {
			if err == nil {
				closeFD(fd)
			}
			return -1, perr
		}
	}
	return fd, err
}

// parent returns the place of name, whose parent must exist.
func (s *Store) parent(name string) (place, error) {
	dir, base := split(name)
	fd, err := s.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	return place{dir: fd, base: base, opened: s.turns.number()}, err
}

// makeParent returns the place of name, whose missing ancestors it makes, durably.
func (s *Store) makeParent(ctx context.Context, name string) (place, error) {
	dir, base := split(name)
	fd, err := s.makeDir(ctx, dir)
	return place{dir: fd, base: base, opened: s.turns.number()}, err
}

// makeDir returns the directory dir ("" or "a/b/"), open; what is missing of it is made, durably, if ctx's guard lets it.
func (s *Store) makeDir(ctx context.Context, dir string) (fd int, err error) {
	const tries = 4 // someone may remove what we have just made
	for range tries {
		fd, err = s.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
		if err == nil {
			s.settle(dir)
			return fd, nil
		}
		if !errors.Is(err, unix.ENOENT) || dir == "" {
			return -1, err
		}
		p, err := s.makeParent(ctx, dir)
		if err != nil {
			return -1, err
		}
		if err := ufs.Guard(ctx); err != nil {
			p.close()
			return -1, err
		}
		settled := s.unsettle(dir)
		err = unix.Mkdirat(p.dir, p.base, 0o755)
		if err == nil {
			err = s.fsync(p.dir, "parent of a made directory")
		}
		settled()
		p.close()
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOENT) {
			return -1, err
		}
	}
	return -1, err
}

// split cuts name into its parent directory, with a slash unless it is the root, and its last segment.
func split(name string) (dir, base string) {
	name = strings.TrimSuffix(name, "/")
	i := strings.LastIndexByte(name, '/') + 1
	return name[:i], name[i:]
}

// begin judges what every method is given.
func (s *Store) begin(
	ctx context.Context, op, name string, check func(f ufs.Features, op, name string) error,
) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return check(s.feat, op, name)
}

// classify gives an error of a system call its kind.
func classify(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ufs.ErrUnsent) {
		return err
	}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e
	}
	if p, ok := errors.AsType[*os.PathError](err); ok {
		err = p.Err // the path in it repeats the name, or is the process's business
	}
	return errs.E(op, name, kindOf(err), err)
}

func kindOf(err error) errs.Kind {
	if errors.Is(err, os.ErrClosed) {
		return errs.Unavailable // the store was closed
	}
	errno, _ := errors.AsType[unix.Errno](err)
	switch errno {
	case unix.ENOENT, unix.ENXIO: // ENXIO: a socket or a pipe without another end
		return errs.NotExist
	case unix.EEXIST:
		return errs.Exist
	case unix.EISDIR:
		return errs.IsDir
	case unix.ENOTDIR:
		return errs.NotDir
	case unix.ENOTEMPTY:
		return errs.NotEmpty
	case unix.EACCES, unix.EPERM, unix.EROFS, unix.EXDEV, unix.ELOOP:
		return errs.Permission
	case unix.ENOSPC, unix.EDQUOT:
		return errs.NoSpace
	case unix.EFBIG:
		return errs.TooLarge
	case unix.EINVAL, unix.ENAMETOOLONG, unix.EILSEQ:
		return errs.Invalid
	case unix.ENOSYS, unix.EOPNOTSUPP:
		return errs.Unsupported
	case unix.EIO, unix.ESTALE, unix.ENODEV, unix.EREMOTEIO, unix.ETIMEDOUT, unix.EHOSTDOWN, unix.EHOSTUNREACH,
		unix.ECONNREFUSED, unix.ENOTCONN, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EBUSY, unix.EAGAIN:
		return errs.Unavailable
	}
	return errs.Other
}

// missing turns an errno that says a name leads nowhere into errs.NotExist: for reading, a path through a file does.
func missing(op, name string, err error) error {
	if errors.Is(err, unix.ENOTDIR) {
		return errs.E(op, name, errs.NotExist, nil)
	}
	return outside(op, name, err)
}

// outside explains the errors of open that classify alone would leave unclear.
func outside(op, name string, err error) error {
	switch {
	case errors.Is(err, unix.EXDEV):
		return errs.New(op, name, errs.Permission, "a symbolic link on the way leads out of the store's root")
	case errors.Is(err, unix.ELOOP):
		return errs.New(op, name, errs.Permission, "the symbolic links on the way form a loop")
	case errors.Is(err, unix.ENOSYS):
		return errs.New(op, name, errs.Unsupported, "the kernel has no openat2; Linux 5.6 or later is needed")
	}
	return classify(op, name, err)
}

// moved explains the errors of a rename between directories of the store.
func moved(op, name string, err error) error {
	if errors.Is(err, unix.EXDEV) {
		return errs.New(op, name, errs.Unsupported,
			"another file system is mounted below the store's root; mount that directory as a store of its own")
	}
	return classify(op, name, err)
}

func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR && err != unix.EAGAIN { //nolint:errorlint // system calls return bare errnos
			return err
		}
	}
}

func closeFD(fd int) {
	_ = unix.Close(fd) // after fsync or only for reading: nothing is lost with it
}
