package localufs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Root returns the identity of the directory dir as ufs.Features.Root has it: two names of one directory have one, and that
// of a directory starts with that of each directory above it. What does not exist yet is taken as it is written.
func Root(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(dir)
		if err == nil {
			return "file:" + strings.TrimSuffix(filepath.Join(real, rest), "/") + "/", nil
		}
		if !errors.Is(err, unix.ENOENT) || dir == "/" {
			return "", err
		}
		dir, rest = filepath.Dir(dir), filepath.Join(filepath.Base(dir), rest)
	}
}

// learnRoot remembers which directory the store is in.
func (s *Store) learnRoot() error {
	root, err := Root(s.root.Name())
	if err != nil {
		return err
	}
	s.feat.Root, s.at = root, strings.TrimPrefix(root, "file:")
	var st unix.Stat_t
	if err := unix.Stat(s.at, &st); err != nil {
		return err
	}
	s.is = inodeOf(&st)
	return nil
}

// identity returns what ufs.Features.Is has of the root, which is in a file system of the kind fs: the number of its inode where
// that stays the same as long as there is the file system, and, where the file system is this host's alone, the time it was made,
// for numbers are given again. No number of a device is in it: they change over reboots. Elsewhere only the kind is told, which
// tells a file system from the directory that it is to be mounted on.
func (s *Store) identity(fs unix.Statfs_t) string {
	kind := uint32(fs.Type) //nolint:gosec // a magic number has 32 bits, whatever holds it
	if !slices.Contains(lasting, kind) {
		return fmt.Sprintf("kind=%x", kind)
	}
	is := fmt.Sprintf("kind=inodes inode=%d", s.is.ino)
	var st unix.Statx_t
	if slices.Contains(networks, kind) { // of which not every host is told the time
		return is
	}
	err := unix.Statx(int(s.root.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &st)
	if err == nil && st.Mask&unix.STATX_BTIME != 0 {
		is += fmt.Sprintf(" made=%d.%09d", st.Btime.Sec, st.Btime.Nsec)
	}
	return is
}

// lasting are the types of file systems whose directories keep the number of their inode when they are mounted again, on another
// host too. Not among them are FUSE, SMB, 9P and overlays, most of which draw numbers as they go. Those of ZFS, bcachefs and the
// last three have no name in package unix.
var lasting = []uint32{
	unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC,
	unix.NFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC, unix.OCFS2_SUPER_MAGIC,
	0x2fc12fc1, // ZFS
	0xca451a4e, // bcachefs
	0x0bd00bd0, // Lustre
	0x47504653, // GPFS
	0x01161970, // GFS2
}

// mayMake reports whether the directory dir is to be made if it is missing. In a dry run it is not: the error is
// ufs.ErrWouldMake if it could be.
func mayMake(ctx context.Context, dir string) (bool, error) {
	if _, err := os.Stat(dir); !errors.Is(err, unix.ENOENT) {
		return false, nil // whatever is wrong with it, opening it tells
	}
	root, err := Root(dir)
	if err != nil {
		return false, err
	}
	may, dry, err := ufs.MayMake(ctx, root)
	if err != nil || !dry {
		return may, err
	}
	if _, err := os.Lstat(dir); err == nil {
		return false, nil // a symbolic link that leads nowhere
	}
	for dir = filepath.Dir(filepath.Clean(dir)); ; dir = filepath.Dir(dir) {
		in, err := os.Stat(dir)
		switch {
		case errors.Is(err, unix.ENOENT) && dir != "/":
			continue
		case err == nil && !in.IsDir():
			err = unix.ENOTDIR
		case err == nil:
			err = unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
		}
		if err != nil {
			return false, err
		}
		return false, ufs.ErrWouldMake
	}
}

// present reports errs.Unavailable if the directory that was opened is no longer what its path names: removed, moved away,
// or another in its place. Then a name that is missing says nothing of the store.
func (s *Store) present() error {
	var st unix.Stat_t
	err := retry(func() error { return unix.Stat(s.at, &st) })
	switch {
	case errors.Is(err, unix.EACCES):
		return nil // what lies above it was closed to us, which does not move it
	case err != nil:
		return errs.New("localufs", "", errs.Unavailable, "the store's root directory "+s.at+" does not answer: "+err.Error())
	case inodeOf(&st) != s.is:
		return errs.New("localufs", "", errs.Unavailable,
			"another directory is at "+s.at+" than when the store was opened; put that one back, or, if it was moved or restored on purpose, adopt this one (sluice mount update PATH --adopt)")
	}
	return nil
}

// leave removes the staging directories that are empty, so that the directory is as it was without Sluice. Another store in
// it, which has just made them, makes them again.
func (s *Store) leave() {
	fd, err := s.open(ufs.Staging, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return // never staged, read-only, closed before, or gone
	}
	for _, dir := range []string{tmpDir, trashDir} {
		_, base := split(dir)
		_ = unix.Unlinkat(fd, base, unix.AT_REMOVEDIR) // ENOTEMPTY: left for CleanStaging
	}
	closeFD(fd)
	if p, err := s.parent(ufs.Staging); err == nil {
		_ = unix.Unlinkat(p.dir, p.base, unix.AT_REMOVEDIR)
		p.close()
	}
}
