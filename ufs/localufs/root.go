package localufs

import (
	"errors"
	"path/filepath"
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
			"another directory is at "+s.at+" than when the store was opened; unmount the store and mount it again")
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
