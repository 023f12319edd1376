package localufs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// The directories below the root that hold what is not visible.
const (
	tmpDir   = ufs.Staging + "tmp/"
	trashDir = ufs.Staging + "trash/"
)

// writer stages one file in tmpDir. The file is locked (flock) while the writer lives, in whatever process: CleanStaging
// leaves locked files alone, and a crash unlocks them.
type writer struct {
	s     *Store
	ctx   context.Context // of Create: when it ends, so does the write
	name  string
	size  int64 // bytes announced, or -1
	o     ufs.CreateOptions
	tmp   int // descriptor of tmpDir
	token string
	f     *os.File
	n     int64 // bytes written
	mtime int64 // ns since 1970, once it is sealed
	whole bool  // sealed
	ended bool
}

// Create implements ufs.Store.
func (s *Store) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (ufs.Writer, error) {
	const op = "localufs.Create"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	switch p, err := s.parent(name); {
	case err == nil:
		taken := s.isDir(op, p, name)
		p.close()
		if taken {
			return nil, errs.E(op, name, errs.IsDir, nil)
		}
	case !errors.Is(err, unix.ENOENT):
		return nil, outside(op, name, err)
	}
	return begun(s.stage(ctx, op, name, "", size, o))
}

// begun hands out a writer as the interface, which without one is nil.
func begun(w *writer, err error) (ufs.Writer, error) {
	if err != nil {
		return nil, err
	}
	return w, nil
}

// stage makes an empty staged file for name, with a token of its own if none is given. A staged file that has the given one is
// an earlier try of the same attempt, and goes.
func (s *Store) stage(ctx context.Context, op, name, token string, size int64, o ufs.CreateOptions) (*writer, error) {
	if err := s.room(op, name, max(size, 0)); err != nil {
		return nil, err
	}
	tmp, err := s.makeDir(ctx, tmpDir)
	if err != nil {
		return nil, outside(op, name, err)
	}
	for {
		w := &writer{s: s, ctx: ctx, name: name, size: size, o: o, tmp: tmp, token: token}
		if token == "" {
			w.token = rand.Text()
		}
		fd, err := unix.Openat(tmp, w.token, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, unix.ENOENT) { // another store in the directory was closed and took tmp away
			closeFD(tmp)
			if tmp, err = s.makeDir(ctx, tmpDir); err != nil {
				return nil, outside(op, name, err)
			}
			continue
		}
		if token != "" && errors.Is(err, unix.EEXIST) {
			if err = unix.Unlinkat(tmp, token, 0); err == nil || errors.Is(err, unix.ENOENT) {
				continue
			}
		}
		if err != nil {
			closeFD(tmp)
			return nil, classify(op, name, err)
		}
		w.f = os.NewFile(uintptr(fd), w.token)
		// A file system without locks has no CleanStaging that could take the file either.
		_ = retry(func() error { return unix.Flock(fd, unix.LOCK_EX) })
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			closeFD(tmp)
			_ = w.f.Close()
			return nil, classify(op, name, err)
		}
		if st.Nlink > 0 {
			return w, nil
		}
		_ = w.f.Close() // CleanStaging took it before it was locked
	}
}

func (w *writer) Write(p []byte) (int, error) {
	const op = "localufs.Write"
	if err := w.usable(op, w.ctx); err != nil {
		return 0, err
	}
	if w.size >= 0 && w.n+int64(len(p)) > w.size {
		return 0, errs.New(op, w.name, errs.Invalid, fmt.Sprintf("more than the announced %d bytes were written", w.size))
	}
	if err := w.s.room(op, w.name, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := w.f.Write(p)
	w.n += int64(n)
	return n, classify(op, w.name, err)
}

func (w *writer) Token() string { return w.token }

func (w *writer) SetAttr(a ufs.Attr) error {
	w.o.Attr = a
	return nil
}

// Prepare implements ufs.Preparer.
func (w *writer) Prepare(ctx context.Context) error {
	err := w.prepare(ctx, "localufs.Prepare")
	if err != nil { // what a failed sync left out, a later one does not tell
		_ = w.Abort()
	}
	return err
}

func (w *writer) prepare(ctx context.Context, op string) error {
	if err := w.usable(op, ctx); err != nil || w.whole {
		return err
	}
	if w.size >= 0 && w.n != w.size {
		return errs.New(op, w.name, errs.Invalid, fmt.Sprintf("%d bytes were announced, %d written", w.size, w.n))
	}
	if err := w.seal(); err != nil {
		return classify(op, w.name, err)
	}
	w.whole = true
	return nil
}

func (w *writer) Commit(ctx context.Context) (ufs.Info, error) {
	const op = "localufs.Commit"
	err := w.prepare(ctx, op)
	if err == nil {
		err = w.publish(ctx, op)
	}
	var in ufs.Info
	if err == nil {
		in, err = w.describe(op)
	}
	if err != nil {
		_ = w.Abort()
		return ufs.Info{}, err
	}
	w.end()
	return in, nil
}

// describe returns the facts of the file that has just got its name. What seal has put beside its bytes is not read back.
func (w *writer) describe(op string) (ufs.Info, error) {
	fd := int(w.f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ufs.Info{}, classify(op, w.name, err)
	}
	if b := bind(&st); !w.s.feat.Attrs || b.Size != w.n || b.MTime != w.mtime { // others have written to it since
		return w.s.describe(op, w.name, fd, true)
	}
	return w.s.info(w.name, &st, w.o.Attr, true), nil
}

// Abort drops the staged file. After Commit there is none.
func (w *writer) Abort() error {
	if w.ended {
		return nil
	}
	err := unix.Unlinkat(w.tmp, w.token, 0)
	w.end()
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return classify("localufs.Abort", w.name, err)
}

func (w *writer) end() {
	w.ended = true
	closeFD(w.tmp)
	_ = w.f.Close() // synced before, or dropped
}

func (w *writer) usable(op string, ctx context.Context) error {
	return ufs.Usable(op, w.name, w.ended, w.ctx, ctx, nil)
}

// seal writes the attributes and syncs the file. The modification time is set, so that it has the clock's resolution and
// not the kernel tick's, and does not move once the record is bound to it.
func (w *writer) seal() error {
	fd := int(w.f.Fd())
	w.mtime = time.Now().UnixNano()
	now := unix.NsecToTimespec(w.mtime)
	if err := unix.UtimesNanoAt(w.tmp, w.token, []unix.Timespec{now, now}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if w.o.Attr.Mode == 0 {
		if err := unix.Fchmod(fd, 0o644); err != nil {
			return err
		}
	}
	if err := w.s.writeAttr(fd, w.o.Attr); err != nil {
		return err
	}
	return w.s.fsync(fd, "file")
}

// publish gives the staged file its name, durably.
func (w *writer) publish(ctx context.Context, op string) error {
	const tries = 4 // someone may remove the parent that was just made
	var err error
	for range tries {
		var p place
		if p, err = w.s.makeParent(ctx, w.name); err != nil {
			return outside(op, w.name, err)
		}
		err = w.place(ctx, op, p)
		if err == nil {
			err = w.s.syncDir(p, "parent of a file")
			p.close()
			if err != nil { // visible, but for how long?
				return errs.E(op, w.name, errs.Unavailable, err)
			}
			return nil
		}
		p.close()
		if !errors.Is(err, unix.ENOENT) {
			return moved(op, w.name, err)
		}
	}
	return errs.E(op, w.name, errs.Unavailable, fmt.Errorf("the staged bytes or the parent directory vanish: %w", err))
}

// place renames the staged file to p under the writer's condition.
func (w *writer) place(ctx context.Context, op string, p place) error {
	defer w.s.lock(w.name)()
	if w.o.IfVersion != "" {
		return w.replace(ctx, op, p)
	}
	if err := ufs.Guard(ctx); err != nil {
		return err
	}
	if w.o.IfNew {
		err := unix.Renameat2(w.tmp, w.token, p.dir, p.base, unix.RENAME_NOREPLACE)
		if lacks(err) {
			if err = unix.Linkat(w.tmp, w.token, p.dir, p.base, 0); err == nil {
				err = unix.Unlinkat(w.tmp, w.token, 0)
			}
		}
		if errors.Is(err, unix.EEXIST) && isDirAt(p) {
			return unix.EISDIR
		}
		return err
	}
	return unix.Renameat(w.tmp, w.token, p.dir, p.base)
}

// replace swaps the staged file with the one at p and looks at what came out: only then is it certain that nobody
// replaced the awaited version in between. If it is another file, it is swapped back; and if that brings out a file that
// is not ours, somebody has replaced ours meanwhile, and keeps the name.
func (w *writer) replace(ctx context.Context, op string, p place) error {
	stale := errs.New(op, w.name, errs.Precondition, "the file is another version, or gone")
	old, err := w.awaited(p)
	if err != nil || old == nil {
		return errors.Join(err, stale)
	}
	w.s.swap.RLock()
	defer w.s.swap.RUnlock()
	swap := func() (out unix.Stat_t, err error) {
		if err = unix.Renameat2(w.tmp, w.token, p.dir, p.base, unix.RENAME_EXCHANGE); err == nil {
			err = unix.Fstatat(w.tmp, w.token, &out, unix.AT_SYMLINK_NOFOLLOW)
		}
		return out, err
	}
	if err := ufs.Guard(ctx); err != nil {
		return err
	}
	out, err := swap()
	switch {
	case lacks(err):
		return unix.Renameat(w.tmp, w.token, p.dir, p.base)
	case errors.Is(err, unix.ENOENT):
		return stale
	case err != nil:
		return err
	case sameFile(old, &out):
		return unix.Unlinkat(w.tmp, w.token, 0)
	}
	var own unix.Stat_t
	if err := unix.Fstat(int(w.f.Fd()), &own); err != nil {
		return err
	}
	if out, err = swap(); err == nil && out.Ino != own.Ino {
		_, err = swap()
	}
	return errors.Join(err, stale)
}

// awaited returns the facts of the directory entry at p if the file it leads to has the version the writer awaits, else
// nil.
func (w *writer) awaited(p place) (*unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(p.dir, p.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if w.s.versionOf(&st) != w.o.IfVersion {
			return nil, nil
		}
		return &st, nil
	}
	if in, err := w.s.stat("localufs.Commit", w.name); err != nil || in.Version != w.o.IfVersion {
		return nil, err
	}
	return &st, nil
}

// lacks reports that the file system has not the flag of renameat2 that was asked for.
func lacks(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}

// isDir reports whether name, at p, is a directory or a link that leads to one within the store.
func (s *Store) isDir(op string, p place, name string) bool {
	var st unix.Stat_t
	if unix.Fstatat(p.dir, p.base, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return isKind(&st, true)
	}
	_, err := s.stat(op, name+"/")
	return err == nil
}

func isDirAt(p place) bool {
	var st unix.Stat_t
	return unix.Fstatat(p.dir, p.base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && isKind(&st, true)
}

// Append implements ufs.Appender. The bytes are copied to a staged file, by reference where the file system can (XFS,
// btrfs), and the tail follows there: a tail written in place would need a journal of its own to vanish after a crash,
// and would show itself to readers before Commit.
func (s *Store) Append(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Writer, error) {
	const op = "localufs.Append"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	src, err := s.openFile(op, name, version)
	if err != nil {
		return nil, err
	}
	defer src.Close() //nolint:errcheck // only read
	return begun(s.stageCopy(ctx, op, src, name, "", ufs.CreateOptions{Attr: attr, IfVersion: s.versionOf(&src.st)}))
}

// Copy implements ufs.Copier.
func (s *Store) Copy(ctx context.Context, from, version, to string, attr *ufs.Attr) (ufs.Info, error) {
	const op = "localufs.Copy"
	if err := errors.Join(s.begin(ctx, op, from, ufs.CheckFile), ufs.CheckFile(s.feat, op, to)); err != nil {
		return ufs.Info{}, err
	}
	src, err := s.openFile(op, from, version)
	if err != nil {
		return ufs.Info{}, err
	}
	defer src.Close() //nolint:errcheck // only read
	a, full := readAttr(int(src.f.Fd()), &src.st)
	token := ""
	if attr != nil {
		a, token = *attr, originToken(attr.Origin)
	} else if !full {
		return ufs.Info{}, errs.New(op, from, errs.Unavailable, "the attributes of the source cannot be read")
	}
	w, err := s.stageCopy(ctx, op, src, to, token, ufs.CreateOptions{Attr: a})
	if err != nil {
		return ufs.Info{}, err
	}
	return w.Commit(ctx)
}

// stageCopy stages a copy of src for name.
func (s *Store) stageCopy(
	ctx context.Context, op string, src *reader, name, token string, o ufs.CreateOptions,
) (*writer, error) {
	if err := s.room(op, name, src.st.Size); err != nil {
		return nil, err
	}
	w, err := s.stage(ctx, op, name, token, -1, o)
	if err != nil {
		return nil, err
	}
	const step = 64 << 20 // bytes between two looks at ctx
	for err == nil && w.n < src.st.Size {
		if err = ctx.Err(); err != nil {
			break
		}
		var n int64
		n, err = w.f.ReadFrom(io.LimitReader(src.f, min(step, src.st.Size-w.n)))
		w.n += n
		if err == nil && n == 0 {
			break // cut meanwhile: Check says so
		}
		err = classify(op, name, err)
	}
	if err == nil {
		err = src.Check()
	}
	if err != nil {
		_ = w.Abort()
		return nil, err
	}
	return w, nil
}
