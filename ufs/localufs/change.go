package localufs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Remove implements ufs.Store.
func (s *Store) Remove(ctx context.Context, name, version string) error {
	const op = "localufs.Remove"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return err
	}
	if name == "" {
		return errs.New(op, name, errs.Invalid, "the root of a store cannot be removed")
	}
	p, err := s.parent(name)
	if err != nil {
		return missing(op, name, err)
	}
	defer p.close()
	if err := s.removeAt(ctx, op, p, name, version); err != nil {
		return err
	}
	if err := s.syncDir(p, "parent of a removed name"); err != nil {
		return errs.E(op, name, errs.Unavailable, err)
	}
	return nil
}

func (s *Store) removeAt(ctx context.Context, op string, p place, name, version string) error {
	defer s.lock(name)()
	in, err := s.entry(op, p, name)
	switch {
	case err != nil:
		return err
	case version != "" && in.version != version:
		return errs.New(op, name, errs.Precondition, "the name is another version")
	}
	if err := ufs.Guard(ctx); err != nil {
		return err
	}
	switch {
	case ufs.IsDir(name):
		return classify(op, name, unix.Unlinkat(p.dir, p.base, in.rmdir))
	case version == "":
		return classify(op, name, unix.Unlinkat(p.dir, p.base, 0))
	}
	return s.removeVersion(ctx, op, p, name, in)
}

// removeVersion moves the file at p to staging and looks at what it is: only then is it certain that nobody replaced the
// awaited version in between. If it is another file it goes back, unless the name is taken again by a still newer one.
func (s *Store) removeVersion(ctx context.Context, op string, p place, name string, awaited entry) error {
	tmp, err := s.makeDir(ctx, tmpDir)
	if err != nil {
		return outside(op, name, err)
	}
	defer closeFD(tmp)
	s.swap.RLock()
	defer s.swap.RUnlock()
	token := rand.Text()
	if err := unix.Renameat(p.dir, p.base, tmp, token); err != nil {
		return moved(op, name, err)
	}
	var out unix.Stat_t
	if err := unix.Fstatat(tmp, token, &out, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return classify(op, name, err)
	}
	if sameFile(&out, &awaited.st) {
		return classify(op, name, unix.Unlinkat(tmp, token, 0))
	}
	err = unix.Renameat2(tmp, token, p.dir, p.base, unix.RENAME_NOREPLACE)
	if lacks(err) {
		err = unix.Linkat(tmp, token, p.dir, p.base, 0)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return classify(op, name, err)
	}
	return errs.New(op, name, errs.Precondition, "the file is another version")
}

// entry is what a directory holds under a name.
type entry struct {
	st      unix.Stat_t // of the entry itself, be it a link
	version string      // of what it leads to
	rmdir   int         // flag that unlinks it if it is a directory: a link to one is unlinked like a file
}

// entry looks at the name at p. Errors: errs.NotExist if what it leads to is not of the kind name asks for.
func (s *Store) entry(op string, p place, name string) (entry, error) {
	in, err := s.stat(op, name)
	if err != nil {
		return entry{}, err
	}
	e := entry{version: in.Version}
	if err := unix.Fstatat(p.dir, p.base, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return entry{}, missing(op, name, err)
	}
	if isKind(&e.st, true) {
		e.rmdir = unix.AT_REMOVEDIR
	}
	return e, nil
}

// synced syncs the directory dir after a change of name in it that is visible already.
func (s *Store) synced(op, name string, dir int, why string) error {
	if err := s.fsync(dir, why); err != nil {
		return errs.E(op, name, errs.Unavailable, err)
	}
	return nil
}

// Mkdir implements ufs.Mkdirer.
func (s *Store) Mkdir(ctx context.Context, name string, attr ufs.Attr) (ufs.Info, error) {
	const op = "localufs.Mkdir"
	if err := s.begin(ctx, op, name, ufs.CheckDir); err != nil {
		return ufs.Info{}, err
	}
	_, err := s.stat(op, name)
	made := errors.Is(err, errs.NotExist)
	fd, err := s.makeDir(ctx, name)
	if err != nil {
		return ufs.Info{}, outside(op, name, err)
	}
	defer closeFD(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ufs.Info{}, classify(op, name, err)
	}
	a, full := readAttr(fd, &st)
	if made {
		a = attr
	}
	if changed := attr.Marker && !a.Marker && full; made || changed {
		a.Marker = a.Marker || attr.Marker
		if err := s.keep(ctx, fd, a); err != nil {
			return ufs.Info{}, classify(op, name, err)
		}
	}
	return s.describe(op, name, fd, true)
}

// keep writes the attributes a of fd, durably, if ctx's guard lets it.
func (s *Store) keep(ctx context.Context, fd int, a ufs.Attr) error {
	if err := ufs.Guard(ctx); err != nil {
		return err
	}
	if err := s.writeAttr(fd, a); err != nil {
		return err
	}
	return s.fsync(fd, "attributes")
}

// SetAttr implements ufs.AttrSetter.
func (s *Store) SetAttr(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Info, error) {
	const op = "localufs.SetAttr"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return ufs.Info{}, err
	}
	fd, err := s.open(name, look)
	if err != nil {
		return ufs.Info{}, missing(op, name, err)
	}
	defer closeFD(fd)
	var before unix.Stat_t
	if err := unix.Fstat(fd, &before); err != nil {
		return ufs.Info{}, classify(op, name, err)
	}
	switch {
	case !isKind(&before, ufs.IsDir(name)):
		return ufs.Info{}, errs.E(op, name, errs.NotExist, nil)
	case version != "" && s.versionOf(&before) != version:
		return ufs.Info{}, errs.New(op, name, errs.Precondition, "the name is another version")
	}
	err = s.keepingBytes(&before,
		func() error { return s.keep(ctx, fd, attr) },
		func(st *unix.Stat_t) error { return unix.Fstat(fd, st) })
	if err != nil {
		return ufs.Info{}, classify(op, name, err)
	}
	return s.describe(op, name, fd, true)
}

// Rename implements ufs.Renamer.
func (s *Store) Rename(ctx context.Context, from, to string, replace bool) error {
	const op = "localufs.Rename"
	if err := s.checkRename(ctx, op, from, to); err != nil {
		return err
	}
	src, err := s.parent(from)
	if err != nil {
		return missing(op, from, err)
	}
	defer src.close()
	if _, err := s.entry(op, src, from); err != nil || from == to {
		return err
	}
	dst, err := s.makeParent(ctx, to)
	if err != nil {
		return outside(op, to, err)
	}
	defer dst.close()
	if ufs.IsDir(to) {
		defer s.unsettle(to)()
	}
	if err := s.renameAt(ctx, op, src, dst, from, to, replace); err != nil {
		return err
	}
	if err := s.synced(op, to, dst.dir, "new parent of a renamed name"); err != nil {
		return err
	}
	return s.synced(op, from, src.dir, "old parent of a renamed name")
}

func (s *Store) checkRename(ctx context.Context, op, from, to string) error {
	if err := errors.Join(s.begin(ctx, op, from, ufs.CheckName), ufs.CheckName(s.feat, op, to)); err != nil {
		return err
	}
	switch {
	case from == "" || to == "":
		return errs.New(op, from, errs.Invalid, "the root of a store cannot be renamed or replaced")
	case ufs.IsDir(from) != ufs.IsDir(to):
		return s.checkKinds(op, from, to)
	case from != to && ufs.IsDir(from) && strings.HasPrefix(to, from):
		return errs.New(op, to, errs.Invalid, "a directory cannot be moved below itself")
	}
	return nil
}

// checkKinds says what is wrong with a rename between a file's name and a directory's.
func (s *Store) checkKinds(op, from, to string) error {
	if _, err := s.stat(op, from); err != nil {
		return err
	}
	return errs.New(op, to, errs.Invalid, "source and destination must both be files or both directories")
}

// renameAt does the rename. The entry at src has been looked at; a system call judges the rest.
func (s *Store) renameAt(ctx context.Context, op string, src, dst place, from, to string, replace bool) error {
	defer s.lock(from, to)()
	var there unix.Stat_t
	err := unix.Fstatat(dst.dir, dst.base, &there, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return classify(op, to, err)
	case ufs.IsDir(to) && !isKind(&there, true):
		return errs.E(op, to, errs.NotDir, nil)
	case !ufs.IsDir(to) && isKind(&there, true):
		return errs.E(op, to, errs.IsDir, nil)
	case !replace:
		return errs.E(op, to, errs.Exist, nil)
	}
	err = unix.Fstatat(src.dir, src.base, &there, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = s.keepingBytes(&there,
			func() error {
				if err := ufs.Guard(ctx); err != nil {
					return err
				}
				return rename(src, dst, replace)
			},
			func(st *unix.Stat_t) error { return unix.Fstatat(dst.dir, dst.base, st, unix.AT_SYMLINK_NOFOLLOW) })
	}
	switch {
	case replace && errors.Is(err, unix.EEXIST):
		return errs.E(op, to, errs.NotEmpty, nil)
	case errors.Is(err, unix.ENOENT):
		return errs.E(op, from, errs.NotExist, nil)
	case err != nil:
		return moved(op, to, err)
	}
	return s.dropLink(op, src, dst, from)
}

// rename renames the entry at src to dst, which is there only if replace is set.
func rename(src, dst place, replace bool) error {
	if !replace {
		err := unix.Renameat2(src.dir, src.base, dst.dir, dst.base, unix.RENAME_NOREPLACE)
		if !lacks(err) {
			return err
		}
	}
	return unix.Renameat(src.dir, src.base, dst.dir, dst.base) // what is there has been judged just before
}

// dropLink removes the old name if it is still there: rename(2) does nothing if both names are links of one file.
func (s *Store) dropLink(op string, src, dst place, from string) error {
	var a, b unix.Stat_t
	if unix.Fstatat(src.dir, src.base, &a, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return nil
	}
	if err := unix.Fstatat(dst.dir, dst.base, &b, unix.AT_SYMLINK_NOFOLLOW); err != nil || a.Ino != b.Ino || a.Dev != b.Dev {
		return classify(op, from, err)
	}
	return classify(op, from, unix.Unlinkat(src.dir, src.base, 0))
}

// Trash implements ufs.Trasher.
func (s *Store) Trash(ctx context.Context, dir string) error {
	const op = "localufs.Trash"
	if err := s.begin(ctx, op, dir, ufs.CheckDir); err != nil {
		return err
	}
	if dir == "" {
		return errs.New(op, dir, errs.Invalid, "the root of a store cannot be removed")
	}
	p, err := s.parent(dir)
	if err != nil {
		return missing(op, dir, err)
	}
	defer p.close()
	if _, err := s.entry(op, p, dir); err != nil {
		return err
	}
	trash, err := s.makeDir(ctx, trashDir)
	if err != nil {
		return outside(op, dir, err)
	}
	defer closeFD(trash)
	token := rand.Text()
	if err := ufs.Guard(ctx); err != nil {
		return err
	}
	if err := unix.Renameat(p.dir, p.base, trash, token); err != nil {
		return moved(op, dir, err)
	}
	// Only the old parent is synced: whether a crash leaves the tree in the trash or nowhere is the same.
	if err := s.synced(op, dir, p.dir, "parent of a trashed directory"); err != nil {
		return err
	}
	// The tree is gone. A failure to free it is CleanStaging's to repair, not a failure of the removal.
	_ = removeAll(ctx, trash, token)
	return nil
}

// CleanStaging implements ufs.Store. Staged files that a writer of any process on this host holds open are left alone.
func (s *Store) CleanStaging(ctx context.Context, live func(token string) bool) error {
	const op = "localufs.CleanStaging"
	err := s.cleanDir(ctx, tmpDir, func(dir int, token string) error {
		if live(token) {
			return nil
		}
		return s.dropStaged(dir, token)
	})
	if err == nil {
		err = s.cleanDir(ctx, uploadsDir, func(dir int, id string) error {
			if live(id) {
				return nil
			}
			return removeAll(ctx, dir, id)
		})
	}
	if err == nil {
		err = s.cleanDir(ctx, trashDir, func(dir int, token string) error { return removeAll(ctx, dir, token) })
	}
	return classify(op, "", err)
}

// Discard implements ufs.Discarder: a staged file that its writer holds, and so may yet rename, is unlinked. Under a token that
// nobody holds there may be what a writer has swapped its bytes with, which is not its own; that is left alone unless it says
// that it is of the attempt.
func (s *Store) Discard(ctx context.Context, token, origin string) error {
	const op = "localufs.Discard"
	dir, err := s.open(tmpDir, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return outside(op, "", err)
	}
	defer closeFD(dir)
	for _, name := range []string{token, originToken(origin)} {
		if name == "" || ufs.CheckFile(s.feat, op, name) != nil {
			continue
		}
		if err := s.discard(ctx, dir, name, origin); err != nil {
			return classify(op, "", err)
		}
	}
	return nil
}

func (s *Store) discard(ctx context.Context, dir int, token, origin string) error {
	fd, err := unix.Openat(dir, token, look|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EACCES): // nobody's staged bytes
		return nil
	case err != nil:
		return err
	}
	defer closeFD(fd)
	if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if a, _ := readAttr(fd, &st); origin == "" || a.Origin != origin {
			return nil
		}
	}
	if err := ufs.Guard(ctx); err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, token, 0); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// cleanDir calls clean for every entry of the staging directory path.
func (s *Store) cleanDir(ctx context.Context, path string, clean func(dir int, token string) error) error {
	fd, err := s.open(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closeFD(fd)
	names, err := readNames(fd)
	for _, n := range names {
		if err == nil {
			err = errors.Join(ctx.Err(), ufs.Guard(ctx)) // who no longer leads does not know what is live
		}
		if err == nil {
			err = clean(fd, n)
		}
	}
	return err
}

// dropStaged unlinks a staged file unless its writer holds it.
func (s *Store) dropStaged(dir int, token string) error {
	s.swap.Lock()
	defer s.swap.Unlock()
	fd, err := unix.Openat(dir, token, look|unix.O_NOFOLLOW, 0)
	if err == nil {
		defer closeFD(fd)
		if err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return nil // a writer's, or a file system without locks, where nobody can tell
		}
	}
	if err == nil || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EACCES) {
		err = unix.Unlinkat(dir, token, 0)
	}
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return err
}

// removeAll removes name in dir and everything below it. It follows no links.
func removeAll(ctx context.Context, dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) { // POSIX says EPERM for a directory
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	names, err := readNames(fd)
	for _, n := range names {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = removeAll(ctx, fd, n)
		}
	}
	if err != nil {
		return err
	}
	if err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return err
}

// readNames returns the names in the open directory fd.
func readNames(fd int) ([]string, error) {
	var names []string
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil || n == 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// Probe implements ufs.Prober.
func (s *Store) Probe(ctx context.Context, write bool) error {
	const op = "localufs.Probe"
	for _, err := range s.List(ctx, "", "", false) {
		if err != nil {
			return fmt.Errorf("list the directory: %w", err)
		}
		break
	}
	if !write {
		return nil
	}
	const text = "probe"
	w, err := s.stage(ctx, op, "", "", int64(len(text)), ufs.CreateOptions{})
	if err != nil {
		return fmt.Errorf("write below .sluice: %w", err)
	}
	defer w.Abort() //nolint:errcheck // CleanStaging takes what it leaves
	if _, err = w.Write([]byte(text)); err == nil {
		err = classify(op, "", w.seal())
	}
	if err != nil {
		return fmt.Errorf("write below .sluice: %w", err)
	}
	got := make([]byte, len(text))
	if _, err := w.f.ReadAt(got, 0); err != nil || string(got) != text {
		return errs.E(op, "", errs.Unavailable, errors.Join(errors.New("what was written does not come back"), err))
	}
	return nil
}
